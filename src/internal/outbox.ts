import type { Socket } from "node:net"
import type { TransportMeter } from "./meter.ts"
import type { Turn } from "./runQueue.ts"

type Frame = string | Uint8Array

const textFrame = 0x81
const binaryFrame = 0x82
const closeFrame = 0x88

/** More than this is not copied together: then copying costs more than the calls to the system. */
const copyLimit = 65_536

/** How many frames wait for their turn at most. */
const maxItems = 1000

/** The bytes of the payload. */
const lengthOf = (frame: Frame): number => typeof frame === "string" ? Buffer.byteLength(frame) : frame.length

/** A frame that goes to many: made ready to be sent for the first of them, and then there for the others. */
export class SharedFrame {
  readonly frame: Frame
  readonly length: number
  private bytes: Buffer | undefined = undefined
  constructor(frame: Frame) {
    this.frame = frame
    this.length = lengthOf(frame)
  }
  get encoded(): Buffer {
    return this.bytes ??= encode(this.frame, this.length)
  }
}

type Item = Frame | SharedFrame

/** How a frame may get lost for a client that is behind: it is dropped, or the latest one with its key takes its place. */
export type Lossy = "drop" | {
  readonly key: string
  /** What is kept for later goes with the process it is from. */
  readonly sender: { readonly alive: boolean }
}

/** A client for which more bytes than these wait is behind: it misses lossy frames. */
export const behind = 65_536

const headerSize = (length: number): number => length < 126 ? 2 : length < 65_536 ? 4 : 10

/** Writes a whole WebSocket frame (RFC 6455, 5.2: final, not masked, not compressed) and returns where it ends. */
const writeFrame = (frame: Frame, length: number, to: Buffer, start: number): number => {
  to[start] = typeof frame === "string" ? textFrame : binaryFrame
  const at = start + headerSize(length)
  if (length < 126) to[start + 1] = length
  else if (length < 65_536) {
    to[start + 1] = 126
    to.writeUInt16BE(length, start + 2)
  } else {
    to[start + 1] = 127
    to.writeBigUInt64BE(BigInt(length), start + 2)
  }
  if (typeof frame === "string") to.write(frame, at)
  else to.set(frame, at)
  return at + length
}

const encode = (frame: Frame, length: number): Buffer => {
  const bytes = Buffer.allocUnsafe(headerSize(length) + length)
  writeFrame(frame, length, bytes, 0)
  return bytes
}

/** What the outboxes of many connections share. */
export interface Post {
  readonly system: { readonly ready: (turn: Turn) => void }
  readonly meter: TransportMeter
}

/**
 * What one connection is sent: it waits for its turn, after the processes that are ready already, and leaves in one write,
 * which costs about as much for many frames as for one.
 */
export class Outbox<P extends Post> implements Turn {
  protected readonly port: P
  protected readonly socket: Socket
  // Mostly there is one, which needs no array.
  private first: Item | undefined = undefined
  private rest: Array<Item> | undefined = undefined

  constructor(port: P, socket: Socket) {
    this.port = port
    this.socket = socket
  }

  protected post(item: Item): void {
    if (this.first === undefined) {
      this.first = item
      this.port.system.ready(this)
    } else if (this.rest === undefined) this.rest = [item]
    // More would be no bargain, and what waits here is not seen by who looks at the socket.
    else if (this.rest.push(item) >= maxItems) this.run()
  }

  /** Sends what there is; returns how many frames that was. */
  run(): number {
    const { first, rest } = this
    if (first === undefined) return 0
    this.first = undefined
    this.rest = undefined
    if (!this.socket.writable) return 0
    const { meter } = this.port
    if (rest === undefined) {
      meter.framesOut++
      this.writeOne(first)
      return 1
    }
    rest.unshift(first)
    meter.framesOut += rest.length
    this.writeAll(rest)
    return rest.length
  }

  /** Sends what there is, then a close frame, and closes. */
  protected postClose(code: number): void {
    this.run()
    if (this.socket.writable) this.socket.write(Buffer.from([closeFrame, 2, code >> 8, code & 0xff]))
    this.socket.destroySoon()
  }

  /** There was no memory for a frame, say. */
  failed(defect: unknown): void {
    this.socket.destroy(defect instanceof Error ? defect : undefined)
  }

  private writeOne(item: Item): void {
    if (item instanceof SharedFrame) {
      this.write(item.encoded, item.length)
    } else {
      const length = lengthOf(item)
      this.write(encode(item, length), length)
    }
  }

  private writeAll(items: ReadonlyArray<Item>): void {
    let length = 0
    let size = 0
    const lengths = items.map((item) => {
      const own = item instanceof SharedFrame ? item.length : lengthOf(item)
      length += own
      size += headerSize(own) + own
      return own
    })
    if (size > copyLimit) {
      this.socket.cork()
      for (const item of items) this.writeOne(item)
      return this.socket.uncork()
    }
    const bytes = Buffer.allocUnsafe(size)
    let at = 0
    items.forEach((item, index) => {
      at = writeFrame(item instanceof SharedFrame ? item.frame : item, lengths[index] ?? 0, bytes, at)
    })
    this.write(bytes, length)
  }

  private write(bytes: Buffer, length: number): void {
    this.port.meter.bytesOut += length
    this.socket.write(bytes)
  }
}
