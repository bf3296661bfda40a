import type { Socket } from "node:net"
import { WebSocket } from "ws"
import type { Frame } from "../Serializer.ts"
import { shutdown } from "./exitReason.ts"
import { behind, type Lossy, Outbox, type Post, type SharedFrame } from "./outbox.ts"
import type { System } from "./process.ts"
import { type Reader, receiveAtOnce } from "./receiver.ts"
import type { SocketServer, Transport } from "./socket.ts"
import type { Timer } from "./timers.ts"

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

/** What all connections of a mount have in common. */
export interface Port extends Post {
  readonly system: System
  /** Milliseconds of silence after which a connection is closed. */
  readonly timeout: number
  /** From how many bytes on a frame is compressed. */
  readonly compressFrom: number
  /** A client for which more bytes than these wait is closed. */
  readonly maxBuffered: number
  /** Said where a client was closed for that. */
  readonly onSlow: () => void
}

/** How much of that is kept for a client to catch up: the latest of so many keys, with so many characters. */
const maxHeld = { keys: 1000, length: 1_000_000 }

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
  private readonly ws: Connection
  private server: SocketServer | undefined = undefined
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
    receiveAtOnce(this.ws, this)
    this.ws.on("close", onClose)
    this.bytesRead = this.socket.bytesRead
    this.lastSeen = this.port.system.timers.now
    if (this.port.timeout < Infinity) this.watch()
  }

  send(frame: Frame, shared?: SharedFrame, lossy?: Lossy): void {
    if (this.ended) return
    const waiting = this.compressing > 0 ? this.ws.bufferedAmount : this.socket.writableLength
    if (waiting > behind || this.held !== undefined) {
      if (lossy !== undefined && this.socket.writableNeedDrain) return this.hold(frame, shared, lossy)
      if (waiting > this.port.maxBuffered) return this.giveUp()
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
    this.heldLength += frame.length
    for (const key of this.held.keys()) {
      if (this.held.size <= maxHeld.keys && this.heldLength <= maxHeld.length) return
      this.drop(key)
    }
  }

  private drop(key: string): void {
    const old = this.held?.get(key)
    if (old === undefined) return
    this.held?.delete(key)
    this.heldLength -= old.frame.length
    this.port.meter.droppedEvents++
  }

  /** The client does not read what it is sent. */
  private giveUp(): void {
    this.ended = true
    this.port.meter.slowClients++
    this.port.onSlow()
    this.closed("buffer_full")
  }

  pause(): void {
    this.ws.pause()
  }

  resume(): void {
    this.ws.resume()
  }

  close(code: number): void {
    // What the client says about it has to be read.
    if (this.ws.isPaused) this.ws.resume()
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

  received(frame: Frame, length: number): void {
    this.port.meter.framesIn++
    this.port.meter.bytesIn += length
    this.server?.receive(frame)
  }

  /** The connection is gone, or is about to be. */
  closed(reason: "local_closed" | "peer_closed" | "read_timeout" | "buffer_full"): void {
    if (this.timer !== undefined) this.port.system.timers.cancel(this.timer)
    this.server?.closed(shutdown(reason))
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
    const { now } = timers
    if (this.socket.bytesRead !== this.bytesRead) {
      this.bytesRead = this.socket.bytesRead
      this.lastSeen = now
    }
    const rest = this.lastSeen + timeout - now
    const next = now + timeout / looks
    const wait = Math.min(rest, next + timeout / grid - next % (timeout / grid) - now)
    if (rest > 0) this.timer = timers.after(wait, this.watch)
    else this.closed("read_timeout")
  }
}

const wireOf = (ws: WebSocket): Wire | undefined => ws instanceof Connection ? ws.wire : undefined

function onMessage(this: WebSocket, data: Buffer, isBinary: boolean): void {
  wireOf(this)?.received(isBinary ? data : data.toString(), data.length)
}

function onClose(this: WebSocket, code: number): void {
  wireOf(this)?.closed(code === 1006 ? "peer_closed" : "local_closed")
}
