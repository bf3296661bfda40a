/**
 * Frames of the WebSocket protocol (RFC 6455) as a client writes and reads them. All texts are ASCII, so a text has as many
 * bytes as characters.
 */
import { constants, inflateRawSync } from "node:zlib"

export const opcodes = { text: 1, close: 8, ping: 9, pong: 10 } as const

/** What a frame can carry whose length takes 16 bits, compressed or not. */
export const maxText = 65_000

const finished = 0x80
const compressed = 0x40
const masked = 0x80

/** A stored block of deflate around the text: the server has to inflate it, and making it costs nothing. */
const block = { head: 5, tail: 1 }

const headerSize = (length: number) => (length < 126 ? 2 : 4) + 4

/** One masked frame for each text, all in one piece. */
export const encode = (texts: ReadonlyArray<string>, compress: boolean): Buffer => {
  const wrapped = compress ? block.head + block.tail : 0
  let size = 0
  for (const text of texts) size += headerSize(text.length + wrapped) + text.length + wrapped
  const out = Buffer.allocUnsafe(size)
  let at = 0
  for (const text of texts) at = write(out, at, opcodes.text, text, compress)
  return out
}

export const control = (opcode: number, body: Buffer): Buffer => {
  const out = Buffer.allocUnsafe(headerSize(body.length) + body.length)
  write(out, 0, opcode, body.toString("latin1"), false)
  return out
}

const write = (out: Buffer, start: number, opcode: number, text: string, compress: boolean): number => {
  const length = text.length + (compress ? block.head + block.tail : 0)
  let at = start
  out[at++] = finished | (compress ? compressed : 0) | opcode
  if (length < 126) {
    out[at++] = masked | length
  } else {
    out[at++] = masked | 126
    at = out.writeUInt16BE(length, at)
  }
  // Never 0, as there are servers that would skip the unmasking.
  const key = (Math.random() * 0x1_0000_0000) | 1
  at = out.writeInt32BE(key, at)
  const body = at
  if (compress) {
    out[at++] = 0
    at = out.writeUInt16LE(text.length, at)
    at = out.writeUInt16LE(~text.length & 0xffff, at)
  }
  at += out.write(text, at, "latin1")
  if (compress) out[at++] = 0
  mask(out, body, at, key)
  return at
}

const mask = (bytes: Buffer, from: number, to: number, key: number): void => {
  for (let at = from, shift = 24; at < to; at++, shift = (shift - 8) & 24) bytes[at]! ^= key >>> shift
}

export interface Sink {
  readonly message: (text: string) => void
  readonly control: (opcode: number, body: Buffer) => void
}

/** What ends a message that was compressed; it is not sent. */
const tail = Buffer.from([0, 0, 0xff, 0xff])

/** Reads frames out of what the server sends, in whatever pieces it comes. */
export class Reader {
  private readonly sink: Sink
  private rest: Buffer | undefined
  private fragments: Array<Buffer> = []
  private inflate = false

  constructor(sink: Sink) {
    this.sink = sink
  }

  /** The chunk may be written over afterwards. */
  read(chunk: Buffer): void {
    const bytes = this.rest === undefined ? chunk : Buffer.concat([this.rest, chunk])
    this.rest = undefined
    let at = 0
    while (at < bytes.length) {
      const end = this.frame(bytes, at)
      if (end === undefined) {
        this.rest = Buffer.from(bytes.subarray(at))
        return
      }
      at = end
    }
  }

  /** Where the frame ends, or undefined if it is not all there. */
  private frame(bytes: Buffer, start: number): number | undefined {
    if (bytes.length - start < 2) return undefined
    const first = bytes[start] ?? 0
    const second = bytes[start + 1] ?? 0
    let at = start + 2
    let length = second & 0x7f
    if (length === 126) {
      if (bytes.length - at < 2) return undefined
      length = bytes.readUInt16BE(at)
      at += 2
    } else if (length === 127) {
      if (bytes.length - at < 8) return undefined
      length = Number(bytes.readBigUInt64BE(at))
      at += 8
    }
    if ((second & masked) !== 0) throw new Error("the server masks its frames")
    if (bytes.length - at < length) return undefined
    const end = at + length
    const opcode = first & 0x0f
    if (opcode >= opcodes.close) {
      this.sink.control(opcode, bytes.subarray(at, end))
    } else if (first === (finished | opcodes.text)) {
      this.sink.message(bytes.toString("latin1", at, end))
    } else {
      this.fragment(first, bytes.subarray(at, end))
    }
    return end
  }

  private fragment(first: number, body: Buffer): void {
    if (this.fragments.length === 0) this.inflate = (first & compressed) !== 0
    const last = (first & finished) !== 0
    this.fragments.push(last ? body : Buffer.from(body))
    if (!last) return
    const whole = Buffer.concat(this.inflate ? [...this.fragments, tail] : this.fragments)
    this.fragments = []
    const text = this.inflate ? inflateRawSync(whole, { finishFlush: constants.Z_SYNC_FLUSH }) : whole
    this.sink.message(text.toString("latin1"))
  }
}
