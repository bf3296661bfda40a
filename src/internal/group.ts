import { type Context, type Duration, Effect, Exit } from "effect"
import * as Process from "../Process.ts"
import * as process from "./process.ts"

/** A supervisor of many short-lived processes, which it never restarts: it keeps them together and ends them together. */
export class Group implements process.Behaviour, process.Parent {
  readonly children = new Set<process.Process>()
  readonly process: process.Process

  constructor(system: process.System, context: Context.Context<never>, label: string) {
    const options = { ...process.defaultOptions, shutdown: Infinity }
    this.process = new process.Process(system, system, context, { label }, options)
    this.process.start(Exit.succeed(this), () => {})
  }

  handle(): Effect.Effect<void> {
    return Effect.void
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
