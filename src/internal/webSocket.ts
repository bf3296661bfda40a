import type { Socket } from "node:net"
import { WebSocket } from "ws"
import type { Frame, Opcode } from "../Serializer.ts"
import { Backlog, type TooFarBehind } from "./backlog.ts"
import { shutdown } from "./exitReason.ts"
import { TokenBucket } from "./limits.ts"
import { behind, type Lossy, Outbox, type SharedFrame } from "./outbox.ts"
import { type Reader, receiveAtOnce } from "./receiver.ts"
import type { SocketServer, Transport } from "./socket.ts"
import type { Timer } from "./timers.ts"
import type { Port } from "./wirePort.ts"

/** How long a peer may take to answer a close, or to read what comes before it, until its connection is cut: milliseconds. */
export const closeTimeout = 5000

/** What a client is answered that closes: 1000, or 1002 where it has sent a code that is not for clients. */
const answerTo = (code: number): number => code >= 1012 && code < 3000 ? 1002 : 1000

/**
 * A connection that does not answer a close by itself, so that what came before it can be answered first.
 *
 * @internal
 */
export class Connection extends WebSocket {
  /** What its events are passed on to. */
  wire: Wire | undefined = undefined
  private closing: number | undefined = undefined

  /** Called by `ws`, to answer a close or to fail the connection. */
  override close(code?: number, reason?: string | Buffer): void {
    // Private to `ws`. Where it is gone, a close is answered at once.
    const received = "_closeFrameReceived" in this && this._closeFrameReceived === true
    if (received && this.wire !== undefined && this.readyState === this.OPEN) {
      this.closing = code ?? 1000
      this.wire.closed("local_closed")
    } else {
      this.wire?.conclude()
      super.close(code, reason)
    }
  }

  /** Closes with a code, or answers the close of the client. */
  end(code: number): void {
    if (this.closing === undefined) this.close(code)
    else if (this.wire?.answerClose(answerTo(this.closing)) !== true) super.close(answerTo(this.closing))
  }
}

const backlogLimits = { stalled: "stalled", full: "backlog", total: "total_backlog" } as const

/** Bytes of messages that are counted before a clock is asked: fewer cost more than they matter. */
const grain = 16_384

/** Bytes of a message that take as long as a frame which is none: pings, pongs, and the parts of messages. */
const frameCost = 1000

/** Parties that may ask that nothing be read. */
const byProcess = 1
const byRate = 2

/** How much of that is kept for a client to catch up: the latest of so many keys, with so many characters. */
const maxHeld = { keys: 1000, length: 1_000_000 }

/**
 * So often a client that is not read is sent a ping, in milliseconds. The operating system tells of the end of a connection
 * only those who read from it, or write to it.
 */
const pingInterval = 5000
const ping = Buffer.from([0x89, 0])

/** The longest that a message waits to be inflated before it is seen that its connection is gone, in milliseconds. */
const longestWait = 250

interface Held {
  readonly frame: Frame
  readonly shared: SharedFrame | undefined
  readonly sender: { readonly alive: boolean }
}

/** Within the timeout a connection is looked at so many times, together with others that are due within a `grid` of it. */
const looks = 16
const grid = 64

/**
 * A WebSocket as the transport of a socket process. It is one object with its outbox, and what each frame needs comes
 * first: a broadcast to many mostly waits for memory.
 *
 * @internal
 */
export class Wire extends Outbox<Port> implements Transport, Reader {
  /** Nothing more is sent. */
  private ended = false
  /** Frames that `ws` compresses: what comes after them must not overtake. */
  private compressing = 0
  /** From how many bytes on frames are compressed for this client. */
  private readonly compressFrom: number
  /** The latest lossy frame of each key, for a client that is behind. */
  private held: Map<string, Held> | undefined = undefined
  private heldLength = 0
  /** There while more bytes wait than may without a look at whether the client reads. */
  private backlog: Backlog | undefined = undefined
  /** The parties that do not want anything read: the sum of their numbers. */
  private pauses = 0
  /** While it is not read. */
  private pings: Timer | undefined = undefined
  /** Bytes of messages, and of those that were inflated, that their buckets do not know of yet. */
  private uncounted = 0
  private uncountedInflated = 0
  private bytes: TokenBucket | undefined = undefined
  private inflated: TokenBucket | undefined = undefined
  /** Until when nothing is inflated; 0 for no such time. */
  private inflatesAt = 0
  private readonly ws: Connection
  server: SocketServer | undefined = undefined
  private bytesRead = 0
  private lastSeen = 0
  /** Of the silence that is allowed, or of the time to read what is left. */
  private timer: Timer | undefined = undefined

  constructor(ws: Connection, socket: Socket, port: Port) {
    super(port, socket)
    this.ws = ws
    this.compressFrom = ws.extensions.includes("permessage-deflate") ? port.compressFrom : Infinity
    ws.wire = this
  }

  get name(): string {
    return "websocket"
  }

  /** Passes frames to the process until the connection is gone. */
  serve(server: SocketServer): void {
    this.server = server
    if (this.socket.destroyed) return this.closed("peer_closed")
    // Functions that all connections share: what is made for each of them costs memory.
    this.ws.on("message", onMessage)
    if (!receiveAtOnce(this.ws, this)) this.port.unknownWs()
    this.ws.on("close", onClose)
    this.bytesRead = this.socket.bytesRead
    this.lastSeen = this.port.system.timers.awake
    if (this.port.timeout < Infinity) this.watch()
  }

  send(frame: Frame, shared?: SharedFrame, lossy?: Lossy): void {
    if (this.ended) return
    const { waiting } = this
    if (waiting > behind || this.held !== undefined) {
      if (lossy !== undefined && this.socket.writableNeedDrain) return this.hold(frame, shared, lossy)
    }
    if (waiting + frame.length > this.port.free) {
      this.backlog ??= new Backlog(this.port.backlogs, this)
      if (!this.backlog.admits(waiting)) return
    }
    if (this.compressFrom < Infinity && this.isForWs(frame)) this.sendByWs(frame)
    else this.post(shared ?? frame)
  }

  /** Sends a frame when the client has caught up, unless a later one with its key comes before that. */
  private hold(frame: Frame, shared: SharedFrame | undefined, lossy: Lossy): void {
    const { meter } = this.port
    if (lossy === "drop") {
      meter.droppedEvents++
      return
    }
    if (this.held === undefined) {
      this.held = new Map()
      this.socket.once("drain", () => {
        const held = this.held?.values() ?? []
        this.held = undefined
        this.heldLength = 0
        for (const { frame, sender, shared } of held) if (sender.alive) this.send(frame, shared)
      })
    }
    this.drop(lossy.key)
    this.held.set(lossy.key, { frame, shared, sender: lossy.sender })
    this.heldLength += frame.length + lossy.key.length
    for (const key of this.held.keys()) {
      if (this.held.size <= maxHeld.keys && this.heldLength <= maxHeld.length) return
      this.drop(key)
    }
  }

  private drop(key: string): void {
    const old = this.held?.get(key)
    if (old === undefined) return
    this.held?.delete(key)
    this.heldLength -= old.frame.length + key.length
    this.port.meter.droppedEvents++
  }

  /** Bytes that wait for the client. */
  get waiting(): number {
    const later = this.queued + this.heldLength
    return later + (this.compressing > 0 ? this.ws.bufferedAmount : this.socket.writableLength)
  }

  /** Too much waits for the client, or it takes nothing of it. */
  giveUp(why: TooFarBehind): void {
    if (this.ended) return
    this.ended = true
    this.port.meter.slowClients++
    this.port.reached(backlogLimits[why], this)
    this.closed("buffer_full")
  }

  caughtUp(): void {
    this.backlog?.end()
    this.backlog = undefined
  }

  pause(): void {
    this.pauseFor(byProcess)
  }

  resume(): void {
    this.resumeFor(byProcess)
  }

  private pauseFor(who: number): void {
    if (this.pauses === 0) {
      this.ws.pause()
      // Most pauses are short: the timer is left for the next one.
      this.pings ??= this.port.system.timers.after(pingInterval, this.look)
    }
    this.pauses |= who
  }

  /** Notices when a client has gone that is not read. */
  private readonly look = (): void => {
    this.pings = undefined
    if (this.pauses === 0 || this.ended) return
    // A ping is left out where something waits to be written, because any write tells of the end as well.
    if (this.socket.writable && this.socket.writableLength === 0) this.socket.write(ping)
    this.pings = this.port.system.timers.after(pingInterval, this.look)
  }

  private resumeFor(who: number): void {
    if (this.pauses === 0) return
    this.pauses &= ~who
    if (this.pauses === 0) this.ws.resume()
  }

  close(code: number): void {
    // What the client says about it has to be read.
    if (this.pauses !== 0) {
      this.pauses = 0
      this.ws.resume()
    }
    this.ended = true
    this.ws.end(code)
  }

  /** What is written after this is the close frame. */
  conclude(): void {
    this.flush()
    this.ended = true
  }

  /**
   * The last thing that is sent, as the client has said goodbye. False where it is for `ws` to do so, which would wait for
   * the client to hang up as well.
   */
  answerClose(code: number): boolean {
    if (this.compressing > 0) return false
    this.postClose(code)
    // It may not read what it has still to be sent.
    this.timer = this.port.system.timers.after(closeTimeout, () => this.socket.destroy())
    return true
  }

  received(frame: Frame, length: number, opcode?: Opcode): void {
    this.port.meter.framesIn++
    this.port.meter.bytesIn += length
    this.uncounted += length
    if (this.uncounted > grain) this.count()
    // A few bytes must not keep all that came with them.
    const keeps = typeof frame !== "string" && frame.buffer.byteLength > 4 * length + grain
    this.server?.receive(keeps ? Buffer.from(frame) : frame, length, opcode)
  }

  hasReadFrame(): void {
    this.uncounted += frameCost
    if (this.uncounted > grain) this.count()
  }

  /** Has the connection not read for a while, where it brings more than it may. */
  private count(): void {
    const { byteRate, system: { clock, timers } } = this.port
    const bytes = this.uncounted
    this.uncounted = 0
    if (byteRate === undefined || this.ended) return
    this.bytes ??= new TokenBucket(byteRate, clock)
    const wait = this.bytes.charge(bytes)
    if (wait === 0 || (this.pauses & byRate) !== 0) return
    this.port.reached("byte_rate", this)
    this.pauseFor(byRate)
    timers.after(wait, () => this.resumeFor(byRate))
  }

  get maxInflated(): number {
    return this.port.maxInflated
  }

  /** Milliseconds until the next message may be inflated. */
  get untilInflate(): number {
    return this.inflatesAt === 0 || this.socket.destroyed ? 0 : this.inflatesAt - this.port.system.timers.now
  }

  get isTurnTaken(): boolean {
    return this.port.turn.isTaken
  }

  takeTurn(): void {
    this.port.turn.take()
  }

  hasInflated(length: number): void {
    if (length > grain) this.port.turn.take()
    this.uncountedInflated += length
    if (this.uncountedInflated > grain) this.countInflated()
  }

  private countInflated(): void {
    const { inflateRate, system: { clock, timers } } = this.port
    const bytes = this.uncountedInflated
    this.uncountedInflated = 0
    if (inflateRate === undefined) return
    this.inflated ??= new TokenBucket(inflateRate, clock)
    const wait = this.inflated.charge(bytes)
    if (wait === 0) this.inflatesAt = 0
    else {
      if (this.inflatesAt <= timers.now) this.port.reached("inflate_rate", this)
      this.inflatesAt = timers.now + wait
    }
  }

  tooLarge(): void {
    this.port.reached("inflated", this)
  }

  later(millis: number, go: () => void): void {
    // The connection may be gone before that.
    this.port.system.timers.after(Math.min(millis, longestWait), go)
  }

  get gone(): boolean {
    return this.socket.destroyed
  }

  /** The connection is gone, or is about to be. */
  closed(reason: "local_closed" | "peer_closed" | "read_timeout" | "buffer_full"): void {
    const { timers } = this.port.system
    if (this.timer !== undefined) timers.cancel(this.timer)
    if (this.pings !== undefined) timers.cancel(this.pings)
    this.backlog?.stop()
    this.server?.closed(shutdown(reason))
  }

  /** Nothing waits for the client any more. */
  over(): void {
    this.held = undefined
    this.heldLength = 0
    this.caughtUp()
  }

  private isForWs(frame: Frame): boolean {
    if (this.compressing > 0) return true
    // No character takes more than three bytes.
    return frame.length * 3 >= this.compressFrom && Buffer.byteLength(frame) >= this.compressFrom
  }

  private sendByWs(frame: Frame): void {
    const length = Buffer.byteLength(frame)
    this.port.meter.framesOut++
    this.port.meter.bytesOut += length
    this.flush()
    this.compressing++
    const compress = length >= this.compressFrom
    this.ws.send(frame, { binary: typeof frame !== "string", compress }, () => this.compressing--)
  }

  /** Any bytes count, also a ping or a part of a message. Counting them is left to the socket, which does so anyway. */
  private readonly watch = (): void => {
    const { system: { timers }, timeout } = this.port
    const { awake, now } = timers
    // A client that is not read is not silent, unless it is its own doing that one chunk of its keeps it waiting.
    const waits = this.pauses !== 0 || this.inflatesAt - now > timeout / looks
    if (waits || this.socket.bytesRead !== this.bytesRead) {
      this.bytesRead = this.socket.bytesRead
      this.lastSeen = awake
    }
    const rest = this.lastSeen + timeout - awake
    const next = now + timeout / looks
    const wait = Math.min(rest, next + timeout / grid - next % (timeout / grid) - now)
    if (rest > 0) this.timer = timers.after(wait, this.watch)
    else this.closed("read_timeout")
  }
}

const wireOf = (ws: WebSocket): Wire | undefined => ws instanceof Connection ? ws.wire : undefined

/** The text of larger messages is made when their turn has come: bytes that wait take no room in the heap. */
const large = 16_384

function onMessage(this: WebSocket, data: Buffer, isBinary: boolean): void {
  const isText = !isBinary && data.length <= large
  wireOf(this)?.received(isText ? data.toString() : data, data.length, isBinary ? "binary" : "text")
}

function onClose(this: WebSocket, code: number): void {
  const wire = wireOf(this)
  wire?.closed(code === 1006 ? "peer_closed" : "local_closed")
  wire?.over()
}
