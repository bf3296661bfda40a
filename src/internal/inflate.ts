/**
 * Inflates small messages at once. Browsers compress all that they send, and `ws` hands each message to zlib's threads,
 * which for the small ones costs ten times what the rest of an echo does.
 */
import { constants, inflateRawSync } from "node:zlib"
import { inflateShort } from "./inflateShort.ts"

/** What a client is told: each of its messages can be inflated by itself, so nothing has to be kept between them. */
export const deflateOptions = { clientNoContextTakeover: true } as const

const options = { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: 1024, maxOutputLength: 16_384 }

/** What a client leaves out at the end of each message (RFC 7692). */
const trailer = Buffer.of(0, 0, 0xff, 0xff)

/** Undefined for what is better left to `ws`: what becomes large, and what is not to be inflated at all. */
export const inflate = (data: Buffer): Buffer | undefined => {
  try {
    return inflateShort(data) ?? inflateRawSync(Buffer.concat([data, trailer]), options)
  } catch {
    return undefined
  }
}
