import { type Context, type Duration, Effect } from "effect"
import * as Process from "../Process.ts"
import * as process from "./process.ts"

/**
 * A supervisor of many short-lived processes, which it never restarts: it keeps them together and ends them together. It has
 * no supervisor itself: when it is killed it starts itself again, without them.
 */
export class Group implements process.Behaviour, process.Parent {
  readonly children = new Set<process.Process>()
  process: process.Process

  constructor(system: process.System, context: Context.Context<never>, label: string) {
    this.process = this.start(system, context, label)
  }

  private start(system: process.System, context: Context.Context<never>, label: string): process.Process {
    const options = { ...process.defaultOptions, shutdown: Infinity }
    const started = new process.Process(system, system, context, { label }, options)
    started.begin(this)
    return started
  }

  handle(): Effect.Effect<void> {
    return Effect.void
  }

  ended(reason: process.ExitReason): void {
    if (process.isGraceful(reason)) return
    // The node has taken them over, and ends them.
    this.children.clear()
    const { context, label, system } = this.process
    this.process = this.start(system, context, label)
  }

  terminate(): Effect.Effect<void> {
    return this.endAll(process.shutdown())
  }

  /** Ends all children at the same time and waits until they have. */
  endAll(reason: process.ExitReason): Effect.Effect<void> {
    return Effect.forEach([...this.children], (child) => Process.shutdownChild(child, reason), {
      concurrency: "unbounded",
      discard: true
    })
  }

  /** Waits for all children to end by themselves; after `limit` they are ended. */
  awaitEnd(limit: Duration.Input): Effect.Effect<void> {
    return Effect.forEach([...this.children], (child) => Process.awaitExit(Process.toPid(child)), {
      concurrency: "unbounded",
      discard: true
    }).pipe(Effect.timeoutOrElse({ duration: limit, orElse: () => this.endAll(process.shutdown()) }))
  }
}
