import { Duration, Effect } from "effect"
import * as Process from "../Process.ts"
import type * as process from "./process.ts"
import { isLogged, type Level, report } from "./report.ts"
import { type Runtime, SocketServer } from "./socket.ts"

/** See `Socket.DrainerOptions`. */
export interface Options {
  readonly batchSize?: number | undefined
  readonly batchInterval?: Duration.Input | undefined
  readonly shutdown?: Duration.Input | undefined
  readonly log?: Level | undefined
}

const draining = Process.shutdown("draining")

/** Closes some connections, and waits until they have ended. */
type Close = (connections: Iterable<process.Process>) => Effect.Effect<void>

/** Closes all connections, a batch in each round, and waits until they and their channels have ended. */
export const drainAll = (runtime: Runtime, options: Options | false): Effect.Effect<void> => {
  const close: Close = (connections) =>
    Effect.forEach(connections, (connection) => {
      if (connection.behaviour instanceof SocketServer) connection.behaviour.meter.drained++
      return Process.shutdownChild(connection, draining)
    }, { concurrency: "unbounded", discard: true })
  // The channels hear of it from their connections, so that they are told the same reason.
  return (options === false ? Effect.void : inRounds(runtime, options, close)).pipe(
    // Those that connected meanwhile, and those for which there was no time.
    Effect.andThen(Effect.suspend(() => close([...runtime.socketGroup.children]))),
    Effect.andThen(Effect.suspend(() => runtime.channelGroup.awaitEnd("5 seconds")))
  )
}

const inRounds = (runtime: Runtime, options: Options, close: Close): Effect.Effect<void> => {
  const { batchInterval = "2 seconds", batchSize = 10_000, log = "Info", shutdown = "30 seconds" } = options
  if (!(batchSize >= 1)) throw new RangeError(`socket ${runtime.name}: the drainer's batchSize must be at least 1`)
  const interval = Duration.fromInputUnsafe(batchInterval)
  return Effect.suspend(() => {
    const connections = [...runtime.socketGroup.children]
    const rounds = Math.ceil(connections.length / batchSize)
    const round = (index: number) => {
      const batch = connections.slice(index * batchSize, (index + 1) * batchSize)
      if (isLogged(log, runtime.context)) {
        report(
          log,
          runtime.context,
          `DRAINING ${batch.length} of ${connections.length} total connection(s) for socket ${runtime.name} `
            + `every ${Duration.toMillis(interval)}ms - round ${index + 1} of ${rounds}`,
          { socket: runtime.name }
        )
      }
      return index + 1 < rounds ? Effect.andThen(close(batch), Effect.sleep(interval)) : close(batch)
    }
    return Effect.asVoid(Effect.timeoutOption(
      Effect.forEach(Array.from({ length: rounds }, (_, index) => index), round, { discard: true }),
      shutdown
    ))
  })
}
