/**
 * Bytes that only the holder of a key can read and make: the text forms of `Plug.Crypto.MessageEncryptor`.
 *
 * Written and read: `XCP.` and Base64 of nonce, tag and ciphertext, XChaCha20-Poly1305. Only read, as written by
 * plug_crypto 1: AES-GCM with a key per message, which is itself encrypted (`QTEyOEdDTQ.key.nonce.ciphertext.tag`).
 */
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js"
import * as Result from "effect/Result"
import { type CipherGCMTypes, createDecipheriv, createSecretKey, type KeyObject } from "node:crypto"

/** Bytes of the key that {@link encrypt} needs. */
export const keyBytes = 32

/** Bytes of the nonce that {@link encrypt} needs: enough that random ones never meet. */
export const nonceBytes = 24

const tagBytes = 16
const header = "XCP"

// What Base64 makes of "A128GCM".
const oldHeader = "QTEyOEdDTQ"
const oldNonceBytes = 12

/** Both forms authenticate this text too; only the old one means what it says. */
const associated = Buffer.from("A128GCM")

/** Throws a `RangeError` if the key has not {@link keyBytes}. The same nonce with the same key again would betray both. */
export const encrypt = (content: Uint8Array, key: KeyObject, nonce: Uint8Array): string => {
  if (key.symmetricKeySize !== keyBytes) {
    throw new RangeError(`keyLength is ${key.symmetricKeySize}, but encryption needs a key of ${keyBytes} bytes`)
  }
  const sealed = xchacha20poly1305(key.export(), nonce, associated).encrypt(content)
  const tagAt = sealed.length - tagBytes
  const message = Buffer.concat([nonce, sealed.subarray(tagAt), sealed.subarray(0, tagAt)])
  return `${header}.${message.toString("base64url")}`
}

/**
 * The content of a message, if this key encrypted it. Any text is answered; a key that can read neither form is a
 * `RangeError`. The second key takes part in the old form only: it was authenticated together with the message's key.
 */
export const decrypt = (message: string, key: KeyObject, signKey: Uint8Array): Uint8Array | undefined => {
  if (!gcmOf.has(key.symmetricKeySize)) {
    throw new RangeError(`keyLength is ${key.symmetricKeySize}, but decryption needs a key of 32 bytes (once 16 or 24)`)
  }
  const [form, ...texts] = message.split(".", 6)
  if (form === header && texts.length === 1) return open(texts, key)
  if (form === oldHeader && texts.length === 4) return openOld(texts, key, signKey)
  return undefined
}

const open = (texts: ReadonlyArray<string>, key: KeyObject): Uint8Array | undefined => {
  const [bytes] = texts.map(fromBase64)
  if (bytes === undefined || bytes.length < nonceBytes + tagBytes || key.symmetricKeySize !== keyBytes) return undefined
  const tagEnd = nonceBytes + tagBytes
  const nonce = bytes.subarray(0, nonceBytes)
  const sealed = Buffer.concat([bytes.subarray(tagEnd), bytes.subarray(nonceBytes, tagEnd)])
  // It throws for a wrong tag, which is the only thing left to be wrong.
  return Result.getOrUndefined(Result.try(() => xchacha20poly1305(key.export(), nonce, associated).decrypt(sealed)))
}

const openOld = (texts: ReadonlyArray<string>, key: KeyObject, signKey: Uint8Array): Uint8Array | undefined => {
  const [wrapped, nonce, ciphertext, tag] = texts.map(fromBase64)
  if (wrapped === undefined || nonce === undefined || ciphertext === undefined || tag === undefined) return undefined
  const tagAt = wrapped.length - oldNonceBytes - tagBytes
  if (!gcmOf.has(tagAt)) return undefined
  const wrappedTag = wrapped.subarray(tagAt, tagAt + tagBytes)
  const contentKey = gcm(key, wrapped.subarray(tagAt + tagBytes), wrapped.subarray(0, tagAt), wrappedTag, signKey)
  return contentKey && gcm(createSecretKey(contentKey), nonce, ciphertext, tag, associated)
}

/** AES-GCM by the bytes of its key. */
const gcmOf = new Map<number | undefined, CipherGCMTypes>([
  [16, "aes-128-gcm"],
  [24, "aes-192-gcm"],
  [32, "aes-256-gcm"]
])

const gcm = (
  key: KeyObject,
  nonce: Uint8Array,
  ciphertext: Uint8Array,
  tag: Uint8Array,
  associated: Uint8Array
): Uint8Array | undefined => {
  const algorithm = gcmOf.get(key.symmetricKeySize)
  if (algorithm === undefined || nonce.length !== oldNonceBytes || tag.length !== tagBytes) return undefined
  const decipher = createDecipheriv(algorithm, key, nonce, { authTagLength: tagBytes })
  decipher.setAAD(associated).setAuthTag(tag)
  const content = decipher.update(ciphertext)
  // `final` throws for a wrong tag.
  return Result.isSuccess(Result.try(() => decipher.final())) ? content : undefined
}

// Several texts decode to the same bytes; only the one that an encoder writes is accepted.
const fromBase64 = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, "base64url")
  return bytes.toString("base64url") === text ? bytes : undefined
}
