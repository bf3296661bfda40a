/**
 * Where the nodes meet: the engine of `PUBSUB`, or one that is started for them.
 */
import { Config, Console, Data, Effect, FileSystem, Redacted, Schedule } from "effect"
import { ChildProcess } from "effect/process"
import { once } from "node:events"
import { connect, createServer } from "node:net"
import { type Engine as Program, findEngine, natsServer, redisServer } from "../../scripts/engines.ts"
import { adapterOf } from "./pubsub.ts"

/** Neither is one named, nor can one be started. */
export class NoEngine extends Data.TaggedError("NoEngine")<{ readonly message: string }> {}

const whatIsNeeded = `The nodes need Redis or NATS to reach each other, and PATH has neither.
Install one of them: redis-server, valkey-server or nats-server (on Debian: apt-get install redis-server).
Or name one that is running: PUBSUB=redis://127.0.0.1:6379 or PUBSUB=nats://127.0.0.1:4222.`

interface Kind {
  readonly program: Program
  readonly arguments: (port: number, folder: string) => ReadonlyArray<string>
  readonly url: (port: number) => string
}

const host = "127.0.0.1"

const kinds: ReadonlyArray<Kind> = [
  {
    program: redisServer,
    arguments: (port, folder) => ["--port", `${port}`, "--bind", host, "--save", "", "--dir", folder],
    url: (port) => `redis://${host}:${port}`
  },
  {
    program: natsServer,
    arguments: (port) => ["--addr", host, "--port", `${port}`],
    url: (port) => `nats://${host}:${port}`
  }
]

const freePort = Effect.promise(async () => {
  const server = createServer().listen(0, host)
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
})

const answers = (port: number) =>
  Effect.callback<void, unknown>((resume) => {
    const socket = connect(port, host)
    socket.once("connect", () => resume(Effect.void)).once("error", (cause) => resume(Effect.fail(cause)))
    return Effect.sync(() => socket.destroy())
  })

const start = Effect.fnUntraced(function*(kind: Kind, binary: string) {
  const port = yield* freePort
  const folder = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped({ prefix: "cluster-engine-" })
  const child = yield* ChildProcess.make(binary, kind.arguments(port, folder), {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore"
  })
  const ended = Effect.exit(child.exitCode)
  const { name } = kind.program
  yield* answers(port).pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds"),
    Effect.raceFirst(Effect.andThen(ended, Effect.fail("ended"))),
    Effect.mapError(() => new NoEngine({ message: `${binary} could not be started on port ${port}` }))
  )
  // A page goes on, with those of its own node.
  yield* ended.pipe(
    Effect.andThen(Console.log(`${name} has ended: the nodes do not reach each other any more`)),
    Effect.forkScoped
  )
  yield* Console.log(`${name} runs on port ${port}`)
  return Redacted.make(kind.url(port))
})

/** The address for `PUBSUB`; what was started for it ends with the Scope. */
export const engine = Effect.gen(function*() {
  const given = yield* Config.option(Config.Redacted("PUBSUB"))
  if (given._tag === "Some") return yield* Effect.as(adapterOf(given.value), given.value)
  for (const kind of kinds) {
    const binary = findEngine(kind.program)
    if (binary !== undefined) return yield* start(kind, binary)
  }
  return yield* new NoEngine({ message: whatIsNeeded })
})
