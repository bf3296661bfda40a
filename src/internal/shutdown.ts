import { Effect, type Scope } from "effect"
import type { IncomingMessage } from "node:http"
import type * as Socket from "../Socket.ts"
import { closingOf, isUnprepared } from "./httpServer.ts"

/** Whether the server of a mount stops; learnt from its requests, since a route does not know its server. */
export interface Shutdown {
  readonly begun: boolean
  /** Has the server of a request tell when it is told to close. */
  readonly watch: (request: IncomingMessage) => void
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
    const servers = new Set<Set<() => void>>()
    let begun = false
    let warned = false
    const begin = () => {
      begun = true
      onBegin()
    }
    const tell = () => {
      begin()
      fork(acceptor.drain)
    }
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        begin()
        for (const closing of servers) closing.delete(tell)
      })
    )
    return {
      get begun() {
        return begun
      },
      watch: (request) => {
        const closing = closingOf(request)
        if (closing !== undefined) {
          servers.add(closing)
          closing.add(tell)
        } else if (!warned && isUnprepared(request)) {
          warned = true
          fork(
            Effect.logWarning(
              "the HTTP server will wait for open connections when it stops: give it to Endpoint.prepareServer"
            ).pipe(Effect.annotateLogs({ socket: acceptor.name }))
          )
        }
      }
    }
  })
