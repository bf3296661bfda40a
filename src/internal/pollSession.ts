import { Effect, Semaphore } from "effect"
import type { Frame } from "../Serializer.ts"
import { type Rate, TokenBucket } from "./limits.ts"
import type { TransportMeter } from "./meter.ts"
import { behind, type Lossy, type SharedFrame } from "./outbox.ts"
import * as process from "./process.ts"
import type { Runtime, SocketServer, Transport } from "./socket.ts"
import type { Timer, Timers } from "./timers.ts"
import { brief } from "./untrusted.ts"

/** What a poll comes back with: frames, none within the window, or that the session is no more. */
export interface Polled {
  readonly status: 200 | 204 | 410
  readonly messages: ReadonlyArray<string>
}

/** What became of the frames of a post: handled, not within the window or because one was malformed, or no session. */
export type Published = 200 | 408 | 410

/** A session as requests see it, here or on another node. */
export interface PollPeer {
  /** Whether no more posts are taken. */
  readonly crowded: boolean
  readonly poll: Effect.Effect<Polled>
  readonly publish: (frames: ReadonlyArray<Frame>) => Effect.Effect<Published>
}

export interface Limits {
  /** How long a request waits, in milliseconds. */
  readonly window: number
  /** How many bytes may wait for a poll. */
  readonly maxBuffer: number
  /** Limits the bytes that may be posted. */
  readonly byteRate: Rate | undefined
}

const accepted: Published = 200

/** How many posts are kept while they wait for the ones before; more are answered 408. */
const maxPosts = 8

/** Within the time without a poll that a session may have, so many timers show how long this node was absent. */
const looks = 4

interface Poller {
  wake: (() => void) | undefined
}

/**
 * The wire under a socket that is polled: keeps frames until a poll takes them, and passes on what is posted. It ends its
 * socket when nobody has polled for one and a half windows. When the socket has ended, what it was sent before is kept for one
 * more poll, for a window at most.
 */
export class PollSession implements Transport, PollPeer {
  readonly name = "longpoll"
  private readonly runtime: Runtime
  private readonly timers: Timers
  private readonly limits: Limits
  private readonly meter: TransportMeter
  private readonly onEnd: () => void
  private readonly posts = Semaphore.makeUnsafe(1)
  private posting = 0
  private server: SocketServer | undefined
  private messages: Array<string> = []
  /** Where among them the latest lossy one of each key is. */
  private readonly latest = new Map<string, { readonly index: number; readonly bytes: number }>()
  private bytes = 0
  private poller: Poller | undefined
  /** When a poll has last come, or gone, in the time that this node was awake. */
  private lastPoll: number
  /** Bytes of posts; there once there was one. */
  private posted: TokenBucket | undefined
  private watch: Timer | undefined
  /** The socket is at work on a frame. */
  private busy = false
  private paused = false
  private handledWhilePaused = false
  private settle: ((status: Published) => void) | undefined
  /** What posts are told, once the socket has ended. */
  private ended: Published | undefined
  /** Nobody is to get what it was sent. */
  private isAbandoned = false

  constructor(runtime: Runtime, limits: Limits, onEnd: () => void) {
    this.runtime = runtime
    this.timers = runtime.system.timers
    this.limits = limits
    this.meter = runtime.meter.transport(this.name)
    this.onEnd = onEnd
    this.lastPoll = this.timers.awake
  }

  start(server: SocketServer): void {
    this.server = server
    if (this.ended === undefined) this.watchPolls()
  }

  /** Ends the socket of a client that does not come any more, or has missed something: it must connect again. */
  stop(why: string): void {
    this.isAbandoned = true
    this.server?.closed(process.shutdown(why))
  }

  private watchPolls(look = 1): void {
    const limit = 1.5 * this.limits.window
    this.watch = this.timers.after(limit / looks, () => {
      this.watchPolls(look % looks + 1)
      // While a poll waits, nobody is silent.
      if (look < looks || this.poller !== undefined || this.timers.awake - this.lastPoll < limit) return
      this.stop("inactive")
    })
  }

  // --- out ----------------------------------------------------------------------------------------------------------

  send(frame: Frame, _shared?: SharedFrame, lossy?: Lossy): void {
    if (this.ended !== undefined) return
    const text = typeof frame === "string"
    const bytes = text ? Buffer.byteLength(frame) : frame.length
    // A JSON string cannot hold bytes: each becomes the character of that number.
    const message = text ? frame : Buffer.from(frame.buffer, frame.byteOffset, frame.length).toString("latin1")
    if (lossy !== undefined && this.bytes > behind && this.leaveOut(lossy, message, bytes)) return
    if (this.bytes > 0 && this.bytes + bytes > this.limits.maxBuffer) return this.overflow()
    this.bytes += bytes
    this.messages.push(message)
    this.poller?.wake?.()
  }

  /** Whether there is no need to send an event, as the client is behind: it is dropped, or in the place of an earlier one. */
  private leaveOut(lossy: Lossy, message: string, bytes: number): boolean {
    if (lossy !== "drop") {
      const earlier = this.latest.get(lossy.key)
      // In the place of a shorter one it may be too much, and waits behind it instead.
      const fits = earlier === undefined || this.bytes + bytes - earlier.bytes <= this.limits.maxBuffer
      const index = earlier !== undefined && fits ? earlier.index : this.messages.length
      this.latest.set(lossy.key, { index, bytes })
      if (earlier === undefined || !fits) return false
      this.messages[earlier.index] = message
      this.bytes += bytes - earlier.bytes
    }
    this.meter.droppedEvents++
    return true
  }

  /** The socket may have more to say before it ends: nobody hears it any more. */
  private overflow(): void {
    this.meter.slowClients++
    this.meter.limited.backlog++
    this.complain("a long-poll client does not fetch its frames: its session ends", {
      waiting: this.bytes,
      maxBuffer: this.limits.maxBuffer
    })
    this.stop("buffer_full")
    this.close(1012)
  }

  private complain(line: string, about: Readonly<Record<string, unknown>>): void {
    const id = this.server?.id
    this.runtime.complaints.say("Warn", line, {
      socket: this.runtime.name,
      ...id === undefined ? {} : { id: brief(id) },
      transport: this.name,
      ...about
    })
  }

  /** Of two polls at a time the first comes back with nothing. A poll that is interrupted takes no frames with it. */
  readonly poll: Effect.Effect<Polled> = Effect.suspend(() => {
    const poller: Poller = { wake: undefined }
    this.poller?.wake?.()
    this.poller = poller
    this.lastPoll = this.timers.awake
    const ready = this.messages.length > 0 || this.ended !== undefined
    return (ready ? Effect.void : this.wait(poller)).pipe(
      Effect.andThen(Effect.sync(() => this.answer(poller))),
      Effect.ensuring(Effect.sync(() => {
        if (this.poller === poller) this.poller = undefined
        this.lastPoll = this.timers.awake
      }))
    )
  })

  private wait(poller: Poller): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      const timer = this.timers.after(this.limits.window, () => resume(Effect.void))
      poller.wake = () => {
        this.timers.cancel(timer)
        // What is sent in the same turn goes along.
        resume(Effect.yieldNow)
      }
      return Effect.sync(() => this.timers.cancel(timer))
    })
  }

  private answer(poller: Poller): Polled {
    const { messages } = this
    if (this.poller !== poller) return { status: 204, messages: [] }
    if (messages.length === 0) return { status: this.ended === undefined ? 204 : 410, messages }
    this.meter.framesOut += messages.length
    this.meter.bytesOut += this.bytes
    this.forget()
    if (this.ended !== undefined) this.leave()
    return { status: 200, messages }
  }

  private forget(): void {
    this.messages = []
    this.latest.clear()
    this.bytes = 0
  }

  // --- in -----------------------------------------------------------------------------------------------------------

  /**
   * Passes frames on, each when the one before has been handled, and one post after the other. So at most one frame waits
   * in the mailbox, whatever is posted.
   */
  publish(frames: ReadonlyArray<Frame>): Effect.Effect<Published> {
    return Effect.suspend(() => {
      if (this.ended !== undefined) return Effect.succeed(410)
      // Whatever holds up the frames before them, heartbeats are answered.
      const rest = this.posting === 0 && !this.busy ? frames : frames.filter((frame) => !this.beats(frame))
      if (rest.length === 0) return Effect.succeed(accepted)
      if (this.crowded) return Effect.succeed(408)
      this.posting++
      return Effect.ensuring(this.posts.withPermit(this.passAll(rest)), Effect.sync(() => this.posting--))
    })
  }

  private beats(frame: Frame): boolean {
    if (this.server?.answers(frame) !== true) return false
    this.meter.framesIn++
    this.meter.bytesIn += typeof frame === "string" ? Buffer.byteLength(frame) : frame.length
    return true
  }

  /** As many posts wait as may: a client that posts one after the other has never more than one. */
  get crowded(): boolean {
    return this.posting >= maxPosts
  }

  private readonly passAll = Effect.fnUntraced(function*(this: PollSession, frames: ReadonlyArray<Frame>) {
    let rest = frames
    for (let frame = rest[0]; frame !== undefined; frame = rest[0]) {
      // A post before may have given up on one.
      const before = yield* this.handled
      if (before !== 200) return before
      const wait = this.debt
      if (wait > 0) yield* this.pay(wait)
      if (this.ended !== undefined) return this.ended
      rest = rest.slice(1)
      this.receive(frame)
      yield* Effect.yieldNow
      // It is held up: heartbeats behind it are not.
      if (this.busy) rest = rest.filter((frame) => !this.beats(frame))
      const status = yield* this.handled
      if (status !== 200) return status
    }
    return accepted
  })

  /** Milliseconds until more may be passed on: clients that have posted more bytes than they may have to wait. */
  private get debt(): number {
    const { byteRate } = this.limits
    if (byteRate === undefined) return 0
    this.posted ??= new TokenBucket(byteRate, this.runtime.system.clock)
    return this.posted.charge(0)
  }

  private pay(millis: number): Effect.Effect<void> {
    this.meter.limited.byte_rate++
    this.complain("a long-poll client posts more bytes than it may: its posts wait; maxByteRate sets how many", {
      ...this.limits.byteRate
    })
    return Effect.callback((resume) => {
      const timer = this.timers.after(millis, () => resume(Effect.void))
      return Effect.sync(() => this.timers.cancel(timer))
    })
  }

  private receive(frame: Frame): void {
    const bytes = typeof frame === "string" ? Buffer.byteLength(frame) : frame.length
    this.meter.framesIn++
    this.meter.bytesIn += bytes
    this.posted?.charge(bytes)
    this.busy = true
    this.server?.receive(frame, bytes)
    this.server?.afterwards(() => {
      if (this.paused) this.handledWhilePaused = true
      else this.done()
    })
  }

  private done(): void {
    this.busy = false
    this.settle?.(200)
  }

  /** The next frame waits, as if this one had not been handled yet. */
  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    if (!this.handledWhilePaused) return
    this.handledWhilePaused = false
    this.done()
  }

  /** Waits until the last frame has been handled, for a window at most. */
  private readonly handled: Effect.Effect<Published> = Effect.suspend(() => {
    if (this.ended !== undefined) return Effect.succeed(this.ended)
    if (!this.busy) return Effect.succeed(accepted)
    return Effect.callback<Published>((resume) => {
      const forget = () => {
        this.timers.cancel(timer)
        this.settle = undefined
      }
      this.settle = (status) => {
        forget()
        resume(Effect.succeed(status))
      }
      const timer = this.timers.after(this.limits.window, () => this.settle?.(408))
      return Effect.sync(forget)
    })
  })

  // --- the end ------------------------------------------------------------------------------------------------------

  /** The socket has ended, or is about to: whoever waits is told, and what it was sent before is kept for the next poll. */
  close(code: number): void {
    if (this.ended !== undefined) return
    this.ended = code === 1011 || code === 1009 ? 408 : 410
    if (this.watch !== undefined) this.timers.cancel(this.watch)
    if (this.isAbandoned) this.forget()
    if (this.messages.length === 0) this.leave()
    else this.watch = this.timers.after(this.limits.window, () => this.leave())
    this.settle?.(this.ended)
    this.poller?.wake?.()
  }

  /** Requests do not find it any more. */
  private leave(): void {
    if (this.watch !== undefined) this.timers.cancel(this.watch)
    this.forget()
    this.onEnd()
  }
}
