import { Effect, Exit } from "effect"
import type { ExitReason } from "./exitReason.ts"

/** Told when a process has ended. */
export interface Watcher {
  /** For how many it stands; default 1. */
  readonly count?: number
  readonly ended: (ended: Peer, reason: ExitReason) => void
}

/** What processes know of each other. */
export interface Peer {
  readonly alive: boolean
  readonly push: (message: unknown) => boolean
  /** Has the watcher told of the end, at once when that has been. The key is for `unwatch`. */
  readonly watch: (key: object, watcher: Watcher) => void
  readonly unwatch: (key: object) => boolean
  /** A linked process has ended. */
  readonly linkEnded: (linked: Peer, reason: ExitReason) => void
}

/** The part of a behaviour that is for signals. */
export interface SignalHandlers {
  readonly handleDown?: ((down: Down) => Effect.Effect<unknown, unknown>) | undefined
  readonly handleExit?: ((exit: ExitSignal) => Effect.Effect<unknown, unknown>) | undefined
}

/** What is in a mailbox without having been sent. No mailbox is too full for it. */
export abstract class Signal {
  abstract handle(handlers: SignalHandlers): Effect.Effect<unknown, unknown>
  /** Annotations of the crash line. */
  get about(): Record<string, unknown> | undefined {
    return undefined
  }
}

/**
 * A function of the application that was called for this process on the stack of another has thrown. The process crashes
 * when it comes to that, as it would have done had its own handler thrown.
 */
export class Fault extends Signal {
  private readonly defect: unknown
  private readonly subject: Record<string, unknown>
  constructor(defect: unknown, subject: Record<string, unknown>) {
    super()
    this.defect = defect
    this.subject = subject
  }
  handle(): Effect.Effect<never> {
    return Exit.die(this.defect)
  }
  override get about(): Record<string, unknown> {
    return this.subject
  }
}

/** A watched process has ended. */
export class Down extends Signal {
  readonly monitor: Monitor
  readonly pid: Peer
  readonly reason: ExitReason
  constructor(monitor: Monitor, pid: Peer, reason: ExitReason) {
    super()
    this.monitor = monitor
    this.pid = pid
    this.reason = reason
  }
  handle(handlers: SignalHandlers): Effect.Effect<unknown, unknown> {
    return handlers.handleDown?.(this) ?? Effect.void
  }
}

/** For a process that traps exits, in place of the exit itself. */
export class ExitSignal extends Signal {
  readonly from: Peer | undefined
  readonly reason: ExitReason
  constructor(from: Peer | undefined, reason: ExitReason) {
    super()
    this.from = from
    this.reason = reason
  }
  handle(handlers: SignalHandlers): Effect.Effect<unknown, unknown> {
    return handlers.handleExit?.(this) ?? Effect.void
  }
}

/** Watches `target` for `owner`. Both sides know of it until one of them has ended. */
export class Monitor implements Watcher {
  readonly owner: Peer
  readonly target: Peer
  constructor(owner: Peer, target: Peer) {
    this.owner = owner
    this.target = target
  }
  start(): void {
    if (this.owner === this.target || !this.owner.alive) return
    this.owner.watch(this, this)
    this.target.watch(this, this)
  }
  stop(): boolean {
    this.target.unwatch(this)
    return this.owner.unwatch(this)
  }
  ended(ended: Peer, reason: ExitReason): void {
    if (ended === this.owner) this.target.unwatch(this)
    else if (this.owner.unwatch(this)) this.owner.push(new Down(this, ended, reason))
  }
}

/** Ties two processes together; each side keeps it under the other as key, so that there is one between two. */
export class Link implements Watcher {
  readonly left: Peer
  readonly right: Peer
  constructor(left: Peer, right: Peer) {
    this.left = left
    this.right = right
  }
  start(): void {
    if (this.left === this.right || !this.left.alive) return
    this.left.watch(this.right, this)
    this.right.watch(this.left, this)
  }
  stop(): void {
    this.left.unwatch(this.right)
    this.right.unwatch(this.left)
  }
  ended(ended: Peer, reason: ExitReason): void {
    const other = ended === this.left ? this.right : this.left
    other.linkEnded(ended, reason)
  }
}
