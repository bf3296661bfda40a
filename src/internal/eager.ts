/** For what is mostly there at once, and then needs no fiber. */
import { Effect, Exit } from "effect"
import { isPromise } from "node:util/types"

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

const ignore = (): void => {}

/**
 * Takes over what the application has returned in place of something else. A Promise that is rejected, and that nobody has
 * asked for, would end the whole process.
 */
export const disown = (returned: unknown): void => {
  if (isPromise(returned)) returned.catch(ignore)
}

/** Returns an Effect of the application, or throws: an async function returns a Promise, which no fiber can run. */
export const effectOf = <A, E, R>(returned: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  if (Effect.isEffect(returned)) return returned
  disown(returned)
  const what = isPromise(returned) ? "a Promise: wrap it in Effect.promise" : "something else"
  throw new TypeError(`not a valid Effect: a function that must return one has returned ${what}`)
}
