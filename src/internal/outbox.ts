import type { Socket } from "node:net"
import type { TransportMeter } from "./meter.ts"
import type { Turn } from "./runQueue.ts"

type Frame = string | Uint8Array

/** How a frame begins that is a whole message, not compressed. */
export const textFrame = 0x81
export const binaryFrame = 0x82
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
  readonly outgoing: Outgoing
  readonly meter: TransportMeter
}

/** An outbox, whatever it shares with which others. */
interface Box {
  readonly sendFrom: (first: Item) => number
  readonly failed: (defect: unknown) => void
}

/** How many connections are written to in one turn. */
const perTurn = 512

/**
 * Which connections have something to send, in the order in which they came to have it, and the first frame of each. This
 * is not kept in the outboxes, as these are old objects: when one refers to a new object, that is work for the collector of
 * garbage.
 */
export class Outgoing implements Turn {
  private readonly system: { readonly ready: (turn: Turn) => void }
  private boxes: Array<Box> = []
  private firsts: Array<Item | undefined> = []
  private next = 0

  constructor(system: { readonly ready: (turn: Turn) => void }) {
    this.system = system
  }

  /** Returns the place of the frame. */
  add(box: Box, first: Item): number {
    this.firsts.push(first)
    if (this.boxes.push(box) === 1) this.system.ready(this)
    return this.boxes.length - 1
  }

  take(place: number): Item | undefined {
    const first = this.firsts[place]
    this.firsts[place] = undefined
    return first
  }

  run(): number {
    const { boxes, firsts } = this
    const end = Math.min(boxes.length, this.next + perTurn)
    let sent = 0
    while (this.next < end) {
      const place = this.next++
      const first = firsts[place]
      if (first !== undefined) sent += boxes[place]?.sendFrom(first) ?? 0
    }
    this.goOn()
    return sent
  }

  /** There was no memory for a frame, say. */
  failed(defect: unknown): void {
    this.boxes[this.next - 1]?.failed(defect)
    this.goOn()
  }

  private goOn(): void {
    if (this.next < this.boxes.length) return this.system.ready(this)
    this.boxes = []
    this.firsts = []
    this.next = 0
  }
}

/**
 * What one connection is sent: it waits for its turn, after the processes that are ready already, and leaves in one write,
 * which costs about as much for many frames as for one.
 */
export class Outbox<P extends Post> {
  protected readonly port: P
  protected readonly socket: Socket
  /** Where the first frame is among what is {@link Outgoing}; negative while there is none. */
  private place = -1
  // Mostly there is none, which needs no array.
  private rest: Array<Item> | undefined = undefined

  constructor(port: P, socket: Socket) {
    this.port = port
    this.socket = socket
  }

  protected post(item: Item): void {
    if (this.place < 0) this.place = this.port.outgoing.add(this, item)
    else if (this.rest === undefined) this.rest = [item]
    // More would be no bargain, and what waits here is not seen by who looks at the socket.
    else if (this.rest.push(item) >= maxItems) this.flush()
  }

  /** Sends what there is, out of turn. */
  protected flush(): void {
    const first = this.place < 0 ? undefined : this.port.outgoing.take(this.place)
    if (first !== undefined) this.sendFrom(first)
  }

  /** Sends what there is, beginning with its first frame; returns how many frames that was. */
  sendFrom(first: Item): number {
    const { rest } = this
    this.place = -1
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
    this.flush()
    if (this.socket.writable) this.socket.write(Buffer.from([closeFrame, 2, code >> 8, code & 0xff]))
    this.socket.destroySoon()
  }

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
