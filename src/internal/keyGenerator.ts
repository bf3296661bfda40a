/** Many keys from one secret, derived as `Plug.Crypto.KeyGenerator` does. */
import { createSecretKey, type KeyObject, pbkdf2Sync } from "node:crypto"
import { oneOf, OptionError, wholeNumber } from "./options.ts"

/** How a key is derived. Defaults: 1000 rounds, 32 bytes, SHA-256. */
export interface KeyOptions {
  readonly keyIterations?: number | undefined
  readonly keyLength?: number | undefined
  readonly keyDigest?: string | undefined
}

/** The key for a salt; throws an `OptionError` for options that give none. */
export type KeyGenerator = (salt: string, options: KeyOptions) => KeyObject

// Salts are constants, so this is never reached; it keeps memory bounded should one be made from a request.
const maxKeys = 256

const digests = ["sha256", "sha384", "sha512"]

/** The range of PBKDF2 in Node. */
const maxNumber = { max: 2 ** 31 - 1 }

/** Derives each key once: that takes as long as some hundred signatures. */
export const make = (keyBase: Uint8Array): KeyGenerator => {
  const known = new Map<string, KeyObject>()
  return (salt, { keyDigest = "sha256", keyIterations = 1000, keyLength = 32 }) => {
    if (typeof salt !== "string") throw new OptionError("salt", salt, "a text")
    oneOf("keyDigest", keyDigest, digests)
    wholeNumber("keyIterations", keyIterations, maxNumber)
    // With an empty key everybody could sign.
    wholeNumber("keyLength", keyLength, maxNumber)
    const id = `${keyDigest}:${keyIterations}:${keyLength}:${salt}`
    const cached = known.get(id)
    if (cached !== undefined) return cached
    const key = createSecretKey(pbkdf2Sync(keyBase, salt, keyIterations, keyLength, keyDigest))
    if (known.size >= maxKeys) known.clear()
    known.set(id, key)
    return key
  }
}
