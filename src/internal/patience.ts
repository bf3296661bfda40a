import { type Context, Effect, type Exit } from "effect"
import { attempt, effectOf, exitOf } from "./eager.ts"
import type { System } from "./process.ts"

/** Runs Effects of the application for a limited time. The caller goes on in any case: their end is returned as data. */
export class Patience {
  private readonly system: System
  private readonly context: Context.Context<never>
  private readonly limit: number

  constructor(system: System, context: Context.Context<never>, limit: number) {
    this.system = system
    this.context = system.adopt(context)
    this.limit = limit
  }

  /** Never fails: how the Effect has ended, or undefined when it was interrupted because its time was over. */
  run<A, E>(call: () => Effect.Effect<A, E>): Effect.Effect<Exit.Exit<A, E> | undefined> {
    return Effect.suspend(() => {
      const effect = attempt(() => effectOf(call()))
      const done = exitOf(effect)
      if (done !== undefined) return Effect.succeed(done)
      const fiber = Effect.runForkWith(this.context)(effect)
      const exit = fiber.pollUnsafe()
      return exit === undefined ? this.wait(fiber) : Effect.succeed(exit)
    })
  }

  private wait<A, E>(fiber: ReturnType<typeof Effect.runFork<A, E>>): Effect.Effect<Exit.Exit<A, E> | undefined> {
    return Effect.callback((resume) => {
      const { timers } = this.system
      const timer = this.limit === Infinity ? undefined : timers.after(this.limit, () => {
        // First, because the end of one that cannot be interrupted is not waited for.
        resume(Effect.undefined)
        fiber.interruptUnsafe()
      })
      const settle = () => timer !== undefined && timers.cancel(timer)
      fiber.addObserver((exit) => {
        settle()
        resume(Effect.succeed(exit))
      })
      return Effect.sync(() => {
        settle()
        fiber.interruptUnsafe()
      })
    })
  }
}
