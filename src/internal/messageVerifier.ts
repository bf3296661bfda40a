/** Bytes that everybody can read, but only the holder of a key can make: the text form of `Plug.Crypto.MessageVerifier`. */
import { createHmac, type KeyObject, timingSafeEqual } from "node:crypto"

/** `header.content.signature`, signed with HMAC-SHA256. */
export const sign = (content: Uint8Array, key: KeyObject): string => {
  const signed = `SFMyNTY.${Buffer.from(content).toString("base64url")}`
  return `${signed}.${signature("sha256", key, signed)}`
}

/** The content of a message, if this key signed it. Any text is answered. */
export const verify = (message: string, key: KeyObject): Uint8Array | undefined => {
  const [header = "", content = "", given = "", ...more] = message.split(".", 4)
  const digest = digests.get(header)
  if (digest === undefined || more.length > 0) return undefined
  // Compared as text: several texts decode to the same bytes, only one of them was signed.
  const expected = Buffer.from(signature(digest, key, `${header}.${content}`))
  const actual = Buffer.from(given)
  if (expected.length !== actual.length || !timingSafeEqual(expected, actual)) return undefined
  return Buffer.from(content, "base64url")
}

// Base64 of "HS256", "HS384" and "HS512".
const digests = new Map([["SFMyNTY", "sha256"], ["SFMzODQ", "sha384"], ["SFM1MTI", "sha512"]])

const signature = (digest: string, key: KeyObject, signed: string): string =>
  createHmac(digest, key).update(signed).digest("base64url")
