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

/** Frames that leave in one write. */
interface Bundle {
  readonly frames: ReadonlyArray<Item>
  readonly bytes: Buffer
  /** The bytes of the payloads. */
  readonly length: number
}

const isSame = (one: ReadonlyArray<Item>, other: ReadonlyArray<Item>): boolean =>
  one.length === other.length && one.every((item, index) => item === other[index])

const bundle = (frames: ReadonlyArray<Item>): Bundle | undefined => {
  let length = 0
  let size = 0
  const lengths = frames.map((frame) => {
    const own = frame instanceof SharedFrame ? frame.length : lengthOf(frame)
    length += own
    size += headerSize(own) + own
    return own
  })
  if (size > copyLimit) return undefined
  const bytes = Buffer.allocUnsafe(size)
  let at = 0
  frames.forEach((frame, index) => {
    if (frame instanceof SharedFrame) at += frame.encoded.copy(bytes, at)
    else at = writeFrame(frame, lengths[index] ?? 0, bytes, at)
  })
  return { frames, bytes, length }
}

/** What the outboxes of many connections share. */
export interface Post {
  readonly outgoing: Outgoing
  readonly meter: TransportMeter
}

/** What waits for one connection: mostly a single frame, which needs no array. */
type Waiting = Item | Array<Item>

/** An outbox, whatever it shares with which others. */
interface Box {
  readonly sendAll: (waiting: Waiting) => number
  readonly failed: (defect: unknown) => void
}

/**
 * How many connections are written to in one turn. Few: those that have been written to can answer before all others are,
 * and what others are to be sent then leaves together with what they wait for.
 */
const perTurn = 64

/**
 * Which connections have something to send, in the order in which they came to have it, and their frames. These are not kept
 * in the outboxes, as those are old objects: when one refers to a new object, that is work for the collector of garbage.
 */
export class Outgoing implements Turn {
  private readonly system: { readonly readyToSend: (turn: Turn) => void }
  // Never so long in use that they get old.
  private boxes: Array<Box> = []
  private frames: Array<Waiting | undefined> = []
  /** The place of the first of them. */
  private base = 0
  private next = 0
  /** What was last sent to one connection in one write, while the next ones may be sent the same. */
  private bundle: Bundle | undefined = undefined

  constructor(system: { readonly readyToSend: (turn: Turn) => void }) {
    this.system = system
  }

  /** Of how many connections it has to know. */
  get size(): number {
    return this.boxes.length
  }

  /** Returns the place of the frame. */
  add(box: Box, frame: Item): number {
    this.frames.push(frame)
    if (this.boxes.push(box) === 1) this.system.readyToSend(this)
    return this.base + this.boxes.length - 1
  }

  /** Adds to what waits at a place, and returns how many frames that are. */
  append(place: number, frame: Item): number {
    const waiting = this.frames[place - this.base]
    if (Array.isArray(waiting)) return waiting.push(frame)
    if (waiting !== undefined) this.frames[place - this.base] = [waiting, frame]
    return 2
  }

  take(place: number): Waiting | undefined {
    const waiting = this.frames[place - this.base]
    this.frames[place - this.base] = undefined
    return waiting
  }

  /** Frames as they leave in one write, unless that is too much. Of broadcasts to many they are the same again and again. */
  bundleOf(frames: ReadonlyArray<Item>): Bundle | undefined {
    if (this.bundle === undefined || !isSame(this.bundle.frames, frames)) this.bundle = bundle(frames)
    return this.bundle
  }

  run(): number {
    const { boxes, frames } = this
    const end = Math.min(boxes.length, this.next + perTurn)
    let sent = 0
    while (this.next < end) {
      const place = this.next++
      const waiting = frames[place]
      if (waiting !== undefined) sent += boxes[place]?.sendAll(waiting) ?? 0
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
    const { boxes, frames, next } = this
    if (next === boxes.length) {
      this.boxes = []
      this.frames = []
      this.bundle = undefined
      this.base = this.next = 0
      return
    }
    // Where more comes all the time there is always a rest.
    if (next * 2 >= boxes.length) {
      this.boxes = boxes.slice(next)
      this.frames = frames.slice(next)
      this.base += next
      this.next = 0
    }
    this.system.readyToSend(this)
  }
}

/**
 * What one connection is sent: it waits for its turn, after the processes that are ready already, and leaves in one write,
 * which costs about as much for many frames as for one.
 */
export class Outbox<P extends Post> {
  protected readonly port: P
  readonly socket: Socket
  /** The length of the frames that wait for their turn: characters of texts, and bytes. */
  protected queued = 0
  /** Where its frames are among what is {@link Outgoing}; negative while there are none. */
  private place = -1

  constructor(port: P, socket: Socket) {
    this.port = port
    this.socket = socket
  }

  protected post(item: Item): void {
    const { outgoing } = this.port
    this.queued += item.length
    if (this.place < 0) this.place = outgoing.add(this, item)
    // More would be no bargain, and it is the socket that counts bytes exactly.
    else if (outgoing.append(this.place, item) >= maxItems || this.queued > copyLimit) this.flush()
  }

  /** Sends what there is, out of turn. */
  protected flush(): void {
    const waiting = this.place < 0 ? undefined : this.port.outgoing.take(this.place)
    if (waiting !== undefined) this.sendAll(waiting)
  }

  /** Sends all that waits; returns how many frames that was. */
  sendAll(waiting: Waiting): number {
    this.place = -1
    this.queued = 0
    if (!this.socket.writable) return 0
    const { meter, outgoing } = this.port
    if (!Array.isArray(waiting)) {
      meter.framesOut++
      this.writeOne(waiting)
      return 1
    }
    meter.framesOut += waiting.length
    const bundle = outgoing.bundleOf(waiting)
    if (bundle !== undefined) this.write(bundle.bytes, bundle.length)
    else {
      this.socket.cork()
      for (const item of waiting) this.writeOne(item)
      this.socket.uncork()
    }
    return waiting.length
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

  private write(bytes: Buffer, length: number): void {
    this.port.meter.bytesOut += length
    this.socket.write(bytes)
  }
}
