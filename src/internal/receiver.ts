/**
 * Reads short messages at once. `ws` takes each chunk apart with a stream, arrays and a view for every part of a frame;
 * nearly all chunks are one short message or a few, for which that costs more than what is done about them. Everything
 * else, such as parts of messages, control frames and errors, is for `ws`.
 */
import { isUtf8 } from "node:buffer"
import { inflate } from "./inflate.ts"
import { binaryFrame, textFrame } from "./outbox.ts"

/** What is told of messages. It must not have more of the same connection read before it returns. */
export interface Reader {
  /** @param length - how many bytes it is, inflated */
  readonly received: (frame: string | Buffer, length: number) => void
}

/** What reads the frames of a connection; private to `ws`. */
interface Receiver {
  write: (chunk: Buffer) => boolean
  _write: (chunk: Buffer, encoding: BufferEncoding, done: () => void) => void
  /** Ours. */
  reader: Reader
  readonly writable: boolean
  readonly writableLength: number
  readonly _errored: boolean
  /** 0 between frames. */
  readonly _state: number
  readonly _bufferedBytes: number
  /** Other than 0 between the parts of a message. */
  readonly _fragmented: number
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
  "_fragmented",
  "_maxPayload",
  "_extensions"
]

/**
 * Has a connection of `ws` read short messages at once, and nothing after an error; where that is made otherwise than is known
 * here, it does as it would.
 */
export const receiveAtOnce = (ws: object, reader: Reader): void => {
  const receiver: unknown = "_receiver" in ws ? ws._receiver : undefined
  if (typeof receiver !== "object" || receiver === null || !parts.every((part) => part in receiver)) return
  Object.assign(receiver, { reader, write, _write: readOn })
}

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
function readOn(this: Receiver, chunk: Buffer, encoding: BufferEncoding, done: () => void): void {
  if (this._errored) done()
  else ofWs(this)._write.call(this, chunk, encoding, done)
}

/** Up to so many bytes a message is short: these are unmasked and inflated here. */
const short = 1024

const compressed = 0x40
const masked = 0x80

/** Reads messages up to something else, and returns how many bytes these were. */
const readMessages = (receiver: Receiver, chunk: Buffer): number => {
  const { _extensions: extensions, _maxPayload: maxPayload, reader } = receiver
  const limit = maxPayload > 0 && maxPayload < short ? maxPayload : short
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
      if (!("permessage-deflate" in extensions)) break
      const data = inflate(chunk.subarray(start, end))
      if (data === undefined || (maxPayload > 0 && data.length > maxPayload)) break
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
