import { Clock, Context, Effect, Scheduler } from "effect"
import { HeavyWork } from "./heavy.ts"
import { RunQueue, type Turn } from "./runQueue.ts"
import { Timers } from "./timers.ts"

/** A node, by the type of its processes: the run queue, the timers and the processes that no other has started. */
export class System<P extends Turn> {
  readonly children = new Set<P>()
  readonly timers: Timers
  readonly clock: Clock.Clock
  readonly scheduler: Scheduler.Scheduler
  readonly heavy: HeavyWork
  private readonly queue: RunQueue
  private readonly adopted = new WeakMap<Context.Context<never>, Context.Context<never>>()
  private readonly work: Array<() => void> = []

  constructor(context: Context.Context<never>) {
    this.scheduler = Context.get(context, Scheduler.Scheduler)
    this.clock = Context.get(context, Clock.Clock)
    this.timers = new Timers(this.clock, Effect.runForkWith(context))
    this.queue = new RunQueue(this.scheduler.makeDispatcher())
    this.heavy = new HeavyWork((turn) => this.queue.whenIdle(turn))
  }

  /** Monotonic time in nanoseconds, for durations. */
  get nanos(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe())
  }

  /** All work of a node runs on the node's own scheduler, whatever the Context was made for. */
  adopt(context: Context.Context<never>): Context.Context<never> {
    if (Context.get(context, Scheduler.Scheduler) === this.scheduler) return context
    // One for all that share a Context: fibers keep what they compute from it.
    let adopted = this.adopted.get(context)
    if (adopted === undefined) {
      adopted = Context.add(context, Scheduler.Scheduler, this.scheduler)
      this.adopted.set(context, adopted)
    }
    return adopted
  }

  /** Has something to do, and waits for its turn: mostly a process. */
  ready(turn: Turn): void {
    this.queue.add(turn)
  }

  /** Has something to send, and waits for those that are ready: they may have more for the same receivers. */
  readyToSend(turn: Turn): void {
    this.queue.addLast(turn)
  }

  /** Calls `work` when what was handed in before it is done: at once, unless called from within such work. */
  later(work: () => void): void {
    if (this.work.push(work) > 1) return
    try {
      for (const next of this.work) next()
    } finally {
      this.work.length = 0
    }
  }
}
