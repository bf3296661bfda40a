import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { createCipheriv, createSecretKey, pbkdf2Sync } from "node:crypto"
import { decrypt, encrypt, nonceBytes } from "../../src/internal/messageEncryptor.ts"

const key = createSecretKey(Buffer.alloc(32, 7))
const otherKey = createSecretKey(Buffer.alloc(32, 8))
const nonce = Uint8Array.from({ length: nonceBytes }, (_, i) => i)
const none = new Uint8Array()

const text64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64url")

/** AES-GCM as plug_crypto 1 uses it, made without the code under test: ciphertext and tag. */
const gcm = (key: Uint8Array, nonce: Uint8Array, content: Uint8Array, aad: Uint8Array) => {
  const bits = key.length * 8
  const cipher = createCipheriv(bits === 128 ? "aes-128-gcm" : bits === 192 ? "aes-192-gcm" : "aes-256-gcm", key, nonce)
  const ciphertext = cipher.setAAD(aad).update(content)
  cipher.final()
  return [ciphertext, cipher.getAuthTag()] as const
}

/** The five parts of a message in the old form. */
const oldParts = (content: Uint8Array, key: Uint8Array, signKey: Uint8Array, contentKey = Buffer.alloc(16, 1)) => {
  const [keyNonce, contentNonce] = [Buffer.alloc(12, 2), Buffer.alloc(12, 3)]
  const wrapped = Buffer.concat([...gcm(key, keyNonce, contentKey, signKey), keyNonce])
  const [ciphertext, tag] = gcm(contentKey, contentNonce, content, Buffer.from("A128GCM"))
  return [Buffer.from("A128GCM"), wrapped, contentNonce, ciphertext, tag]
}

const oldMessage = (...args: Parameters<typeof oldParts>) => oldParts(...args).map(text64).join(".")

describe("encrypt", () => {
  it("writes what Plug writes, byte for byte", () => {
    const derived = createSecretKey(pbkdf2Sync("abc123".repeat(5), "secret", 1000, 32, "sha256"))
    assert.strictEqual(
      encrypt(Buffer.from("836803610161006200015180", "hex"), derived, nonce),
      "XCP.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXaMEhoDPB5D_B7tzHAjyGvbZqgUhRyGbSLfCZnA"
    )
  })

  it("refuses a key of another length", () => {
    for (const length of [16, 24, 31, 33, 64]) {
      assert.throws(() => encrypt(none, createSecretKey(Buffer.alloc(length)), nonce), RangeError, "keyLength")
    }
  })
})

describe("decrypt", () => {
  it("gives what was encrypted, and nothing with another key", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (content) => {
      const message = encrypt(content, key, nonce)
      assert.deepStrictEqual(Uint8Array.from(decrypt(message, key, none) ?? [-1]), content)
      assert.isUndefined(decrypt(message, otherKey, none))
    }))
  })

  it("gives what plug_crypto 1 encrypted, for every length of both keys", () => {
    const content = Buffer.from("hello")
    const signKey = Buffer.from("sign")
    for (const length of [16, 24, 32]) {
      for (const contentLength of [16, 24, 32]) {
        const message = oldMessage(content, Buffer.alloc(length, 7), signKey, Buffer.alloc(contentLength, 1))
        const secret = createSecretKey(Buffer.alloc(length, 7))
        assert.deepStrictEqual(Buffer.from(decrypt(message, secret, signKey) ?? []), content)
        assert.isUndefined(decrypt(message, secret, Buffer.from("gins")))
        assert.isUndefined(decrypt(message, createSecretKey(Buffer.alloc(length, 8)), signKey))
      }
    }
    assert.deepStrictEqual(decrypt(oldMessage(none, key.export(), none), key, none)?.length, 0)
  })

  it("refuses a key that fits neither form, whatever the message", () => {
    for (const length of [1, 15, 31, 33, 64]) {
      assert.throws(() => decrypt("", createSecretKey(Buffer.alloc(length)), none), RangeError, "keyLength")
    }
  })

  it("a shorter key reads no message of the new form", () => {
    assert.isUndefined(decrypt(encrypt(none, key, nonce), createSecretKey(Buffer.alloc(16, 7)), none))
  })

  it("a message with any one character changed, removed or added is refused, in both forms", () => {
    const messages = [encrypt(Buffer.from("42"), key, nonce), oldMessage(Buffer.from("42"), key.export(), none)]
    for (const message of messages) {
      assert.isDefined(decrypt(message, key, none))
      for (let at = 0; at <= message.length; at++) {
        const before = message.slice(0, at)
        for (const char of ["", ..."ABEgvw089-_=.+/ \0é"]) {
          for (const after of [message.slice(at), message.slice(at + 1)]) {
            const changed = before + char + after
            if (changed !== message) assert.isUndefined(decrypt(changed, key, none), changed)
          }
        }
      }
    }
  })

  it("a part of a wrong length is refused, in both forms", () => {
    for (let length = 0; length <= 80; length++) {
      assert.isUndefined(decrypt(`XCP.${text64(Buffer.alloc(length))}`, key, none))
    }
    const parts = oldParts(Buffer.from("42"), key.export(), none)
    for (let changed = 0; changed < parts.length; changed++) {
      for (let length = 0; length <= 80; length++) {
        const message = parts.map((part, i) => text64(i === changed ? Buffer.alloc(length) : part)).join(".")
        assert.isUndefined(decrypt(message, key, none), `part ${changed} of ${length} bytes`)
      }
    }
  })

  it("any text is answered", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.base64String(),
      fc.uint8Array({ maxLength: 99 }).map(text64)
    )
    const message = fc.tuple(fc.constantFrom("XCP", "QTEyOEdDTQ", "SFMyNTY", ""), fc.array(text, { maxLength: 6 }))
      .map(([header, parts]) => [header, ...parts].join("."))
    fc.assert(fc.property(fc.oneof(text, message), (message) => {
      assert.isUndefined(decrypt(message, key, none))
    }))
  })
})
