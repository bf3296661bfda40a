/**
 * Inflates small messages at once. Browsers compress all that they send, and `ws` hands each message to zlib's threads,
 * which for the small ones costs ten times what the rest of an echo does.
 */
import { constants, inflateRawSync } from "node:zlib"
import { inflateShort } from "./inflateShort.ts"

/** What a client is told: each of its messages can be inflated by itself, so nothing has to be kept between them. */
export const deflateOptions = { clientNoContextTakeover: true } as const

/** Up to so many bytes a message is inflated at once, if it does not become larger than `maxOutputLength`. */
const small = 1024
const options = { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: 1024, maxOutputLength: 16_384 }

type Done = (error: Error | null, data?: Buffer) => void
type Decompress = (data: Buffer, fin: boolean, done: Done) => void

/** The extension as `ws` has it; private to it, as where to find it is. */
interface Deflate {
  decompress: Decompress
  /** Among the parts of a message that are inflated by zlib's threads. */
  inParts?: boolean
}

/** Changes how a connection of `ws` inflates, if the client may compress. */
export const inflateAtOnce = (ws: object): void => {
  const extensions: unknown = "_extensions" in ws ? ws._extensions : undefined
  const deflate = (extensions as Partial<Record<string, Deflate>> | undefined)?.["permessage-deflate"]
  if (deflate !== undefined && typeof deflate.decompress === "function") deflate.decompress = decompress
}

// One function for all connections.
function decompress(this: Deflate, data: Buffer, fin: boolean, done: Done): void {
  const inflated = fin && this.inParts !== true && data.length <= small ? inflate(data) : undefined
  this.inParts = !fin
  // `ws` counts on being called back later; a microtask still comes before all that the message sets off.
  // oxlint-disable-next-line eslint/no-restricted-globals
  if (inflated !== undefined) queueMicrotask(() => done(null, inflated))
  else (Object.getPrototypeOf(this) as Deflate).decompress.call(this, data, fin, done)
}

/** Undefined for what is better left to `ws`: what becomes large, and what is not to be inflated at all. */
const inflate = (data: Buffer): Buffer | undefined => {
  try {
    return inflateShort(data) ?? inflateRawSync(data, options)
  } catch {
    return undefined
  }
}
