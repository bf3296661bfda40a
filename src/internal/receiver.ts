/**
 * Reads short messages at once, and inflates all of them within the limits of their connection. `ws` takes each chunk apart with a stream, arrays and a view for every part of a frame;
 * nearly all chunks are one short message or a few, for which that costs more than what is done about them. Everything
 * else, such as parts of messages, control frames and errors, is for `ws`.
 */
import { isUtf8 } from "node:buffer"
import { inflate, inflateWhole } from "./inflate.ts"
import { binaryFrame, textFrame } from "./outbox.ts"

/** What is told of messages. It must not have more of the same connection read before it returns. */
export interface Reader {
  /** @param length - how many bytes it is, inflated */
  readonly received: (frame: string | Buffer, length: number) => void
  /** A frame is read that is no message: of control, or a part of one. */
  readonly hasReadFrame: () => void
  /** The most bytes that a message may be inflated to, where that is less than any message may have. */
  readonly maxInflated: number
  /** Milliseconds to wait until the next message may be inflated, as those before it have become too much. */
  readonly untilInflate: number
  /** Another large message was inflated in this turn of the event loop: one at a time, so that others get their turn. */
  readonly isTurnTaken: boolean
  /** A large message is about to be read in this turn. */
  readonly takeTurn: () => void
  /** A message was inflated to so many bytes. */
  readonly hasInflated: (length: number) => void
  /** A message would become larger than it may: its connection ends. */
  readonly tooLarge: () => void
  /** Goes on after this time at the latest. */
  readonly later: (millis: number, go: () => void) => void
  /** Nobody is there any more. */
  readonly gone: boolean
}

type Done = (error?: Error) => void

/** Methods with which `ws` handles the frames of a connection. */
interface OfWs {
  readonly dataMessage: (done: Done) => void
  readonly startLoop: (done: Done) => void
  readonly createError: (
    type: new(message: string) => Error,
    message: string,
    prefix: boolean,
    closeCode: number,
    code: string
  ) => Error
}

/** What reads the frames of a connection; private to `ws`. */
interface Receiver extends OfWs {
  write: (chunk: Buffer) => boolean
  _write: (chunk: Buffer, encoding: BufferEncoding, done: Done) => void
  /** Ours. */
  reader: Reader
  /** Ours: the parts of a compressed message, until it is complete. */
  deflated: Array<Buffer>
  /** Ours: bytes that came since a message in parts has begun. */
  sinceBegun: number
  decompress: (data: Buffer, done: Done) => void
  haveLength: (done: Done) => void
  readonly writable: boolean
  readonly writableLength: number
  readonly _errored: boolean
  /** 0 between frames. */
  _state: number
  readonly _bufferedBytes: number
  /** Length of the frame that is being read, or of the one before. */
  readonly _payloadLength: number
  /** Other than 0 between the parts of a message. */
  readonly _fragmented: number
  readonly _opcode: number
  /** The frame is the last of its message. */
  readonly _fin: boolean
  /** The bytes of a message, and how many they are. */
  readonly _fragments: Array<Buffer>
  _messageLength: number
  /** 0 for any. */
  readonly _maxPayload: number
  readonly _extensions: Readonly<Record<string, object>>
}

const parts = [
  "write",
  "_write",
  "writable",
  "writableLength",
  "_errored",
  "_state",
  "_bufferedBytes",
  "_payloadLength",
  "_fragmented",
  "_opcode",
  "_fin",
  "_fragments",
  "_messageLength",
  "_maxPayload",
  "_extensions",
  "decompress",
  "haveLength",
  "dataMessage",
  "startLoop",
  "createError"
]

/** Tells whether the reader of a connection's frames has the parts that are known here. */
export const isKnown = (receiver: unknown): receiver is object =>
  typeof receiver === "object" && receiver !== null && parts.every((part) => part in receiver)

/**
 * Has a connection of `ws` read short messages at once, and nothing after an error. Where that is made otherwise than is known
 * here, it does as it would, and this is false.
 */
export const receiveAtOnce = (ws: object, reader: Reader): boolean => {
  const receiver: unknown = "_receiver" in ws ? ws._receiver : undefined
  if (!isKnown(receiver)) return false
  Object.assign(receiver, { reader, deflated: none, sinceBegun: 0, write, _write: readOn, decompress, haveLength })
  return true
}

/** The parts of a message that has none yet; never written to. */
const none: Array<Buffer> = []

const ofWs = (receiver: Receiver) => Object.getPrototypeOf(receiver) as Receiver

// One function for all connections.
function write(this: Receiver, chunk: Buffer): boolean {
  const isBetween = this._state === 0 && this._bufferedBytes === 0 && this._fragmented === 0
  const read = isBetween && this.writableLength === 0 && this.writable ? readMessages(this, chunk) : 0
  if (read === chunk.length) return true
  return ofWs(this).write.call(this, read === 0 ? chunk : chunk.subarray(read))
}

/**
 * Chunks that have waited for a message to be inflated are written also when one of them was an error. By itself `ws` would
 * then read on in the middle of a frame, and throw where nobody catches it: any client could end the whole server.
 */
function readOn(this: Receiver, chunk: Buffer, encoding: BufferEncoding, done: Done): void {
  if (this._errored) return done()
  // Each part of a message keeps the chunk that it came in, with all that is in there besides.
  this.sinceBegun = this._fragmented === 0 ? 0 : this.sinceBegun + chunk.length
  if (this._maxPayload > 0 && this.sinceBegun > 2 * this._maxPayload + besides) done(tooLarge(this))
  else readInTurn(this, chunk, encoding, done)
}

/** To put together a frame of so many bytes, and unmask it, takes a while. */
const large = 1_000_000

/** Limits the frames that take a while to one in a turn of the event loop. */
const readInTurn = (receiver: Receiver, chunk: Buffer, encoding: BufferEncoding, done: Done): void => {
  const { _bufferedBytes: buffered, _payloadLength: length, reader } = receiver
  if (length >= large && buffered + chunk.length >= length && !reader.gone) {
    if (reader.isTurnTaken) return reader.later(0, () => readInTurn(receiver, chunk, encoding, done))
    reader.takeTurn()
  }
  ofWs(receiver)._write.call(receiver, chunk, encoding, done)
}

/** Called once for each frame. */
function haveLength(this: Receiver, done: Done): void {
  if (this._opcode >= controlFrames || this._fragmented !== 0) this.reader.hasReadFrame()
  ofWs(this).haveLength.call(this, done)
}

const controlFrames = 8

/** Bytes that may come between the parts of a message. */
const besides = 1_000_000

const tooLarge = (receiver: Receiver): Error =>
  receiver.createError(RangeError, "Max payload size exceeded", false, 1009, "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH")

/**
 * Inflates a message in the thread that reads it, as soon as its connection may. `ws` would have all connections share a
 * queue for that, in which one client can keep the others waiting for seconds. It is not what takes the time: to parse what
 * comes of it takes ten times as long.
 */
function decompress(this: Receiver, data: Buffer, done: Done): void {
  if (!this._fin) {
    if (this.deflated === none) this.deflated = [data]
    else this.deflated.push(data)
    this._state = 0
    return
  }
  const { deflated } = this
  this.deflated = none
  inflateInTime(this, deflated === none ? data : Buffer.concat([...deflated, data]), done, false)
}

const inflateInTime = (receiver: Receiver, data: Buffer, done: Done, hasWaited: boolean): void => {
  const { reader } = receiver
  if (hasWaited && reader.gone) {
    return done(receiver.createError(Error, "the connection is gone", false, 1001, "WS_GONE"))
  }
  const wait = reader.untilInflate
  if (wait > 0 || reader.isTurnTaken) return reader.later(wait, () => inflateInTime(receiver, data, done, true))
  const inflated = inflateWhole(data, limitOf(receiver))
  if (inflated === "too large") {
    reader.tooLarge()
    return done(tooLarge(receiver))
  }
  if (inflated instanceof Error) {
    return done(receiver.createError(Error, inflated.message, false, 1007, "Z_DATA_ERROR"))
  }
  reader.hasInflated(inflated.length)
  if (inflated.length > 0) {
    receiver._messageLength = inflated.length
    receiver._fragments.push(inflated)
  }
  receiver.dataMessage(done)
  // Whoever has not waited is still in the loop.
  if (hasWaited && receiver._state === 0) receiver.startLoop(done)
}

/** The most bytes that a message may be inflated to. */
const limitOf = ({ _maxPayload: maxPayload, reader }: Receiver): number =>
  maxPayload > 0 && maxPayload < reader.maxInflated ? maxPayload : reader.maxInflated

/** Up to so many bytes a message is short: these are unmasked and inflated here. */
const short = 1024

const compressed = 0x40
const masked = 0x80

/** Reads messages up to something else, and returns how many bytes these were. */
const readMessages = (receiver: Receiver, chunk: Buffer): number => {
  const { _extensions: extensions, _maxPayload: maxPayload, reader } = receiver
  const limit = maxPayload > 0 && maxPayload < short ? maxPayload : short
  const maxInflated = limitOf(receiver)
  let next = 0
  while (next + 6 <= chunk.length) {
    const first = chunk[next] ?? 0
    const second = chunk[next + 1] ?? 0
    const kind = first & ~compressed
    if ((kind !== textFrame && kind !== binaryFrame) || second < masked) break
    let mask = next + 2
    let length = second - masked
    if (length === 127) break
    if (length === 126) {
      length = (chunk[mask] ?? 0) << 8 | (chunk[mask + 1] ?? 0)
      mask += 2
    }
    const start = mask + 4
    const end = start + length
    if (length > limit || end > chunk.length) break
    const isAscii = unmask(chunk, mask, end)
    if (first !== kind) {
      if (!("permessage-deflate" in extensions) || reader.untilInflate > 0) break
      const data = inflate(chunk.subarray(start, end))
      if (data === undefined || data.length > maxInflated) break
      reader.hasInflated(data.length)
      if (kind === binaryFrame) reader.received(data, data.length)
      else if (isUtf8(data)) reader.received(data.toString(), data.length)
      else break
    } else if (kind === binaryFrame) reader.received(chunk.subarray(start, end), length)
    else if (isAscii) reader.received(chunk.toString("latin1", start, end), length)
    else if (isUtf8(chunk.subarray(start, end))) reader.received(chunk.toString("utf8", start, end), length)
    else break
    next = end
  }
  return next
}

/**
 * Unmasks what comes after a mask, and has the mask change nothing any more: the frame stays what it is for `ws`.
 *
 * @returns whether all of it is ASCII
 */
const unmask = (chunk: Buffer, mask: number, end: number): boolean => {
  const key = chunk.readInt32LE(mask)
  const start = mask + 4
  let all = 0
  for (let at = start; at < end; at++) {
    const byte = (chunk[at] ?? 0) ^ (key >> ((at - start & 3) << 3) & 0xff)
    chunk[at] = byte
    all |= byte
  }
  chunk.writeInt32LE(0, mask)
  return all < 0x80
}
