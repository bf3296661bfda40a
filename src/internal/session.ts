import { timingSafeEqual } from "node:crypto"

/** The length of the token that Plug keeps in a session, and of the mask it hides it with in a page. */
const tokenLength = 24
const maskedLength = 32

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && timingSafeEqual(a, b)

/**
 * Whether the `_csrf_token` that a page has sent is that of the session: the same text, or masked as Plug.CSRFProtection
 * writes it into a page (the Base64 of the token, each byte combined with one of the mask, and then the mask).
 */
export const isCsrfToken = (ofSession: unknown, sent: unknown): boolean => {
  if (typeof ofSession !== "string" || typeof sent !== "string" || ofSession === "") return false
  const token = Buffer.from(ofSession)
  if (sameBytes(token, Buffer.from(sent))) return true
  if (token.length !== tokenLength || sent.length !== maskedLength + tokenLength) return false
  const mask = Buffer.from(sent.slice(maskedLength))
  const masked = Buffer.from(sent.slice(0, maskedLength), "base64url")
  return masked.length === tokenLength && mask.length === tokenLength &&
    sameBytes(token, masked.map((byte, index) => byte ^ (mask[index] ?? 0)))
}
