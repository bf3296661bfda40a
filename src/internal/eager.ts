/** For what is mostly there at once, and then needs no fiber. */
import { type Effect, Exit } from "effect"

/** What an Effect has come to already. As `Exit.isExit`, but in the way in which V8 remembers where properties are. */
export const exitOf = <A, E>(effect: Effect.Effect<A, E>): Exit.Exit<A, E> | undefined =>
  (effect as Partial<Exit.Exit<A, E>> | undefined)?.["~effect/Exit"] === undefined
    ? undefined
    : effect as Exit.Exit<A, E>

/** Calls a function of the application: what it throws is a defect. */
export const attempt = <A, E, R>(evaluate: () => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  try {
    return evaluate()
  } catch (defect) {
    return Exit.die(defect)
  }
}
