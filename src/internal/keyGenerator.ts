/** Many keys from one secret, derived as `Plug.Crypto.KeyGenerator` does. */
import { createSecretKey, type KeyObject, pbkdf2Sync } from "node:crypto"

/** How a key is derived. Defaults: 1000 rounds, 32 bytes, SHA-256. */
export interface KeyOptions {
  readonly keyIterations?: number | undefined
  readonly keyLength?: number | undefined
  readonly keyDigest?: string | undefined
}

/** The key for a salt; throws a `RangeError` for options that give none. */
export type KeyGenerator = (salt: string, options: KeyOptions) => KeyObject

// Salts are constants, so this is never reached; it keeps memory bounded should one be made from a request.
const maxKeys = 256

/** Derives each key once: that takes as long as some hundred signatures. */
export const make = (keyBase: Uint8Array): KeyGenerator => {
  const known = new Map<string, KeyObject>()
  return (salt, { keyDigest = "sha256", keyIterations = 1000, keyLength = 32 }) => {
    const id = `${keyDigest}:${keyIterations}:${keyLength}:${salt}`
    const cached = known.get(id)
    if (cached !== undefined) return cached
    // With an empty key everybody could sign.
    if (!(keyLength >= 1)) throw new RangeError(`keyLength is ${keyLength}, but must be at least 1 byte`)
    const key = createSecretKey(pbkdf2Sync(keyBase, salt, keyIterations, keyLength, keyDigest))
    if (known.size >= maxKeys) known.clear()
    known.set(id, key)
    return key
  }
}
