import { type Context, Effect, type Exit, type Scope } from "effect"
import type * as Socket from "../Socket.ts"
import { CurrentServer } from "./httpServer.ts"

/** Why an effect was given up: its mount stops, it has taken too long, or nobody waits for it any more. */
export type GivenUp = "stopped" | "late" | "left"

/** An effect that is run for a request. */
export interface Job<A, E> {
  readonly effect: Effect.Effect<A, E>
  readonly context: Context.Context<never>
  /** Milliseconds until it is late. */
  readonly time: number
  /** Told once, at the first of these. */
  readonly done: (ending: Exit.Exit<A, E> | GivenUp) => void
  /** Told when the effect has ended, which may be later, as not all can be interrupted. */
  readonly ended?: (() => void) | undefined
}

/** Tells whether a mount, or its server, stops, and ends the work for requests when it does. */
export interface Shutdown {
  readonly begun: boolean
  /** Runs an effect. Nobody has to wait for one that cannot be interrupted. Returns how to give it up. */
  readonly run: <A, E>(job: Job<A, E>) => () => void
  /** Runs an effect within another, which goes on with `otherwise` when this one is given up. */
  readonly unlessOver: <A, E, B = A>(
    effect: Effect.Effect<A, E>,
    otherwise: B,
    time?: number
  ) => Effect.Effect<A | B, E>
}

/**
 * When the server, or the mount, stops: calls `onBegin`, and closes all connections.
 *
 * @internal
 */
export const make = (
  acceptor: Socket.Acceptor,
  onBegin: () => void = () => {}
): Effect.Effect<Shutdown, never, Scope.Scope> =>
  Effect.gen(function*() {
    const fork = Effect.runForkWith(yield* Effect.context<never>())
    const server = yield* CurrentServer
    const { timers } = acceptor.runtime.system
    const running = new Set<() => void>()
    let begun = false
    const begin = () => {
      begun = true
      onBegin()
      for (const stop of running) stop()
    }
    const tell = () => {
      begin()
      fork(acceptor.drain)
    }
    server?.closing.add(tell)
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        begin()
        server?.closing.delete(tell)
      })
    )

    const run: Shutdown["run"] = ({ context, done, effect, ended, time }) => {
      let over = false
      const end = (ending: Parameters<typeof done>[0]): void => {
        if (over) return
        over = true
        if (timer !== undefined) timers.cancel(timer)
        running.delete(stop)
        done(ending)
      }
      const fiber = Effect.runForkWith(context)(effect)
      const giveUp = (why: GivenUp): void => {
        end(why)
        fiber.interruptUnsafe()
      }
      const stop = () => giveUp("stopped")
      const timer = time === Infinity ? undefined : timers.after(time, () => giveUp("late"))
      running.add(stop)
      fiber.addObserver((exit) => {
        end(exit)
        ended?.()
      })
      return () => giveUp("left")
    }

    return {
      get begun() {
        return begun
      },
      run,
      unlessOver: <A, E, B>(effect: Effect.Effect<A, E>, otherwise: B, time = Infinity) =>
        Effect.contextWith((context: Context.Context<never>) =>
          Effect.callback<A | B, E>((resume) => {
            if (begun) return resume(Effect.succeed(otherwise))
            const giveUp = run({
              effect,
              context,
              time,
              done: (ending) => resume(typeof ending === "string" ? Effect.succeed(otherwise) : ending)
            })
            return Effect.sync(giveUp)
          })
        )
    }
  })
