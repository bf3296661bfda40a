import { Duration, Effect } from "effect"
import * as Process from "../Process.ts"
import { duration, object, OptionError, wholeNumber } from "./options.ts"
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

/** Checks what an application has set. */
const checkOptions = (owner: string, options: Options): void => {
  object(owner, options, "an object of options, or false")
  const { batchInterval, batchSize, log, shutdown } = options
  if (batchSize !== undefined) wholeNumber(`${owner}: batchSize`, batchSize, { unlimited: true })
  if (batchInterval !== undefined) duration(`${owner}: batchInterval`, batchInterval, { min: 0 })
  if (shutdown !== undefined) duration(`${owner}: shutdown`, shutdown, { min: 0, unlimited: true })
  if (log !== undefined && !levels.includes(log)) {
    throw new OptionError(`${owner}: log`, log, `one of ${levels.map((level) => JSON.stringify(level)).join(", ")}`)
  }
}

const levels: ReadonlyArray<Level> = ["Trace", "Debug", "Info", "Warn", "Error", "Fatal", false]

const draining = Process.shutdown("draining")

/** Closes some connections, and waits until they have ended. */
type Close = (connections: Iterable<process.Process>) => Effect.Effect<void>

/** Closes all connections, a batch in each round, and waits until they and their channels have ended. */
export const drainAll = (runtime: Runtime, options: Options | false): Effect.Effect<void> => {
  if (options !== false) checkOptions(`socket ${runtime.name}: drainer`, options)
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
  const interval = Duration.fromInputUnsafe(batchInterval)
  return Effect.suspend(() => {
    const connections = [...runtime.socketGroup.children]
    const rounds = batchSize === Infinity ? Math.min(1, connections.length) : Math.ceil(connections.length / batchSize)
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
