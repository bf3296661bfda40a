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

/** What a client leaves out at the end of each message (RFC 7692). */
const trailer = Buffer.of(0, 0, 0xff, 0xff)

type Done = (error?: Error) => void

/** What reads the frames of a connection; private to `ws`. */
interface Receiver {
  /** Inflates what a frame brings; then, if it is the last one of its message, goes on with {@link dataMessage}. */
  decompress: (data: Buffer, done: Done) => void
  readonly dataMessage: (done: Done) => void
  readonly _fin: boolean
  /** Other than 0 for the parts of a message. */
  readonly _fragmented: number
  readonly _fragments: Array<Buffer>
  _messageLength: number
  /** 0 for any. */
  readonly _maxPayload: number
}

const parts = ["decompress", "dataMessage", "_fin", "_fragmented", "_fragments", "_messageLength", "_maxPayload"]

/** Changes how a connection of `ws` inflates; where that is made otherwise than is known here, it does as it would. */
export const inflateAtOnce = (ws: object): void => {
  const receiver: unknown = "_receiver" in ws ? ws._receiver : undefined
  if (typeof receiver !== "object" || receiver === null || !parts.every((part) => part in receiver)) return
  ;(receiver as Receiver).decompress = decompress
}

// One function for all connections.
function decompress(this: Receiver, data: Buffer, done: Done): void {
  const isWhole = this._fin && this._fragmented === 0
  const inflated = isWhole && data.length <= small ? inflate(data) : undefined
  if (inflated === undefined || (this._maxPayload > 0 && inflated.length > this._maxPayload)) {
    return (Object.getPrototypeOf(this) as Receiver).decompress.call(this, data, done)
  }
  if (inflated.length > 0) {
    this._messageLength = inflated.length
    this._fragments.push(inflated)
  }
  this.dataMessage(done)
}

/** Undefined for what is better left to `ws`: what becomes large, and what is not to be inflated at all. */
const inflate = (data: Buffer): Buffer | undefined => {
  try {
    return inflateShort(data) ?? inflateRawSync(Buffer.concat([data, trailer]), options)
  } catch {
    return undefined
  }
}
