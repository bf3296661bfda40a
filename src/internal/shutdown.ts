import { Effect, type Scope } from "effect"
import type * as Socket from "../Socket.ts"
import { CurrentServer } from "./httpServer.ts"

/** Whether a mount, or its server, stops. */
export interface Shutdown {
  readonly begun: boolean
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
    let begun = false
    const begin = () => {
      begun = true
      onBegin()
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
    return {
      get begun() {
        return begun
      }
    }
  })
