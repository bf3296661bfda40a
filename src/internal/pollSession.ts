import { Effect, Semaphore } from "effect"
import type { Frame } from "../Serializer.ts"
import type { TransportMeter } from "./meter.ts"
import { behind, type Lossy, type SharedFrame } from "./outbox.ts"
import * as process from "./process.ts"
import type { Runtime, SocketServer, Transport } from "./socket.ts"
import type { Timer, Timers } from "./timers.ts"

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
}

const accepted: Published = 200

/** How many posts are kept while they wait for the ones before; more are answered 408. */
const maxPosts = 8

interface Poller {
  wake: (() => void) | undefined
}

/** Tells when it is reached in a mailbox: what came before has been handled. */
class Marker extends process.Signal {
  private readonly reached: () => void
  constructor(reached: () => void) {
    super()
    this.reached = reached
  }
  handle(): Effect.Effect<void> {
    this.reached()
    return Effect.void
  }
}

/**
 * The wire under a socket that is polled: keeps frames until a poll takes them, and passes on what is posted. It is over
 * when its socket is, and ends that when nobody has polled for one and a half windows.
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
  /** When a poll has last come, or gone. */
  private lastPoll: number
  private watch: Timer | undefined
  /** The socket is at work on a frame. */
  private busy = false
  private paused = false
  private handledWhilePaused = false
  private settle: ((status: Published) => void) | undefined
  /** What posts are told, once the socket has ended. */
  private ended: Published | undefined

  constructor(runtime: Runtime, limits: Limits, onEnd: () => void) {
    this.runtime = runtime
    this.timers = runtime.system.timers
    this.limits = limits
    this.meter = runtime.meter.transport(this.name)
    this.onEnd = onEnd
    this.lastPoll = this.timers.now
  }

  start(server: SocketServer): void {
    this.server = server
    if (this.ended === undefined) this.watchPolls()
  }

  /** Ends the socket. */
  stop(why: string): void {
    this.server?.closed(process.shutdown(why))
  }

  private watchPolls(): void {
    const limit = 1.5 * this.limits.window
    this.watch = this.timers.after(limit, () => {
      this.watchPolls()
      if (this.timers.now - this.lastPoll >= limit) this.stop("inactive")
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
      this.latest.set(lossy.key, { index: earlier?.index ?? this.messages.length, bytes })
      if (earlier === undefined) return false
      this.messages[earlier.index] = message
      this.bytes += bytes - earlier.bytes
    }
    this.meter.droppedEvents++
    return true
  }

  /** The socket may have more to say before it ends: nobody hears it any more. */
  private overflow(): void {
    const { complaints, name: socket } = this.runtime
    this.meter.slowClients++
    complaints.say("Warn", "a long-poll client does not fetch its frames: its session ends", {
      socket,
      maxBuffer: this.limits.maxBuffer
    })
    this.stop("buffer_full")
    this.close(1012)
  }

  /** Of two polls at a time the first comes back with nothing. A poll that is interrupted takes no frames with it. */
  readonly poll: Effect.Effect<Polled> = Effect.suspend(() => {
    const poller: Poller = { wake: undefined }
    this.poller?.wake?.()
    this.poller = poller
    this.lastPoll = this.timers.now
    const ready = this.messages.length > 0 || this.ended !== undefined
    return (ready ? Effect.void : this.wait(poller)).pipe(
      Effect.andThen(Effect.sync(() => this.answer(poller))),
      Effect.ensuring(Effect.sync(() => {
        if (this.poller === poller) this.poller = undefined
        this.lastPoll = this.timers.now
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
    this.messages = []
    this.latest.clear()
    this.bytes = 0
    return { status: 200, messages }
  }

  // --- in -----------------------------------------------------------------------------------------------------------

  /**
   * Passes frames on, each when the one before has been handled, and one post after the other. So at most one frame waits
   * in the mailbox, whatever is posted.
   */
  publish(frames: ReadonlyArray<Frame>): Effect.Effect<Published> {
    return Effect.suspend(() => {
      if (this.crowded) return Effect.succeed(408)
      this.posting++
      return Effect.ensuring(this.posts.withPermit(this.passAll(frames)), Effect.sync(() => this.posting--))
    })
  }

  /** As many posts wait as may: a client that posts one after the other has never more than one. */
  get crowded(): boolean {
    return this.posting >= maxPosts
  }

  private readonly passAll = Effect.fnUntraced(function*(this: PollSession, frames: ReadonlyArray<Frame>) {
    for (const frame of frames) {
      // A post before may have given up on one.
      const before = yield* this.handled
      if (before !== 200) return before
      this.receive(frame)
      const status = yield* this.handled
      if (status !== 200) return status
    }
    return accepted
  })

  private receive(frame: Frame): void {
    this.meter.framesIn++
    this.meter.bytesIn += typeof frame === "string" ? Buffer.byteLength(frame) : frame.length
    this.busy = true
    this.server?.receive(frame)
    this.server?.process.push(
      new Marker(() => {
        if (this.paused) this.handledWhilePaused = true
        else this.done()
      })
    )
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

  /** The socket has ended, or is about to: whoever waits is told. */
  close(code: number): void {
    if (this.ended !== undefined) return
    this.ended = code === 1011 ? 408 : 410
    if (this.watch !== undefined) this.timers.cancel(this.watch)
    this.onEnd()
    this.settle?.(this.ended)
    this.poller?.wake?.()
  }
}
