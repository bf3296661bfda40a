/**
 * Inflates messages at once. Browsers compress all that they send, and `ws` hands each message to zlib's threads, which for
 * the small ones costs ten times what the rest of an echo does.
 */
import { kMaxLength } from "node:buffer"
import { constants, inflateRawSync } from "node:zlib"
import { inflateShort } from "./inflateShort.ts"

/**
 * Options of `ws`. A client is told that each of its messages must be inflatable by itself, so nothing has to be kept between
 * them. Messages to clients are compressed by zlib's threads, bit by bit and in turn for so many connections; by default `ws`
 * does so for ten, and all others would have to wait for their large messages.
 */
export const deflateOptions = { clientNoContextTakeover: true, concurrencyLimit: 1000 } as const

const options = { finishFlush: constants.Z_SYNC_FLUSH, chunkSize: 1024, maxOutputLength: 16_384 }

/** What a client leaves out at the end of each message (RFC 7692). */
const trailer = Buffer.of(0, 0, 0xff, 0xff)

/** Undefined for what is not short, as what becomes large, and for what is not to be inflated at all. */
export const inflate = (data: Buffer): Buffer | undefined => {
  try {
    return inflateShort(data) ?? inflateRawSync(Buffer.concat([data, trailer]), options)
  } catch {
    return undefined
  }
}

/** Inflates a message of any size, up to a limit. */
export const inflateWhole = (data: Buffer, limit: number): Buffer | "too large" | Error => {
  try {
    return inflateRawSync(Buffer.concat([data, trailer]), {
      finishFlush: constants.Z_SYNC_FLUSH,
      chunkSize: 65_536,
      maxOutputLength: Math.min(limit, kMaxLength)
    })
  } catch (error) {
    if (error instanceof RangeError) return "too large"
    return error instanceof Error ? error : new Error(String(error))
  }
}
