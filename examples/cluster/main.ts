/**
 * The chat on two nodes: `npm run example:cluster`, then both addresses that it prints.
 *
 * Settings, all from the environment: `PUBSUB` (Redis or NATS, see pubsub.ts; without, one of them is started), `PORTS`
 * (4000,4001; one node for each), `PRESENCE_PERIOD` (500 millis: who was on a node that was killed is gone after 20 of
 * them), and those of examples/chat/server.ts.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import {
  Config,
  Console,
  Data,
  Effect,
  FileSystem,
  Latch,
  Redacted,
  Schedule,
  Schema,
  type Scope,
  Stdio,
  Stream
} from "effect"
import { ChildProcess } from "effect/process"
import { randomBytes } from "node:crypto"
import { fileURLToPath } from "node:url"
import { engine } from "./engine.ts"

class NodeFailed extends Data.TaggedError("NodeFailed")<{ readonly message: string }> {}

interface ChatNode {
  readonly name: string
  readonly port: number
  readonly url: string
}

const program = fileURLToPath(new URL("node.ts", import.meta.url))

/** One life of a node, from its start to its end; how it ended. */
const live = Effect.fnUntraced(function*(
  node: ChatNode,
  env: Readonly<Record<string, string | Redacted.Redacted<string>>>,
  outer: Scope.Scope
) {
  const { name, url } = node
  // A process group of its own: Ctrl-C comes to this program alone, which stops one thing after the other.
  const child = yield* ChildProcess.make(process.execPath, [...process.execArgv, program], {
    env: { ...env, NODE_NAME: name, PORT: String(node.port) },
    extendEnv: true,
    stdin: "ignore",
    // The node drains first, which takes half a minute at most.
    forceKillAfter: "40 seconds"
  })
  // What it says while it stops is read as well.
  yield* child.all.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.runForEach((line) => Console.log(`${name} | ${line}`)),
    Effect.ignore,
    Effect.forkIn(outer)
  )
  const ended = Effect.match(child.exitCode, {
    onSuccess: (code) => `has ended with code ${code}`,
    onFailure: () => "was killed"
  })
  const serves = Effect.tryPromise((signal) => fetch(`${url}/ready`, { signal })).pipe(
    Effect.timeout("1 second"),
    Effect.retry(Schedule.spaced("50 millis"))
  )
  yield* Effect.raceFirst(
    serves,
    Effect.flatMap(ended, (how) => Effect.fail(new NodeFailed({ message: `${name} ${how}, before it served ${url}` })))
  )
  yield* Console.log(`${name} is on ${url} (process ${child.pid})`)
  return `${name} ${yield* ended}`
}, Effect.scoped)

const main = Effect.gen(function*() {
  const ports = yield* Config.Array(Schema.Int, "PORTS").pipe(Config.withDefault([4000, 4001]))
  const nodes = ports.map((port, index): ChatNode => ({
    name: `node${index + 1}`,
    port,
    url: `http://localhost:${port}`
  }))
  const pubsub = yield* engine
  const folder = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped({ prefix: "cluster-chat-" })
  // What all nodes share: users and messages, and the secret, so that who has logged in on one has so on the other.
  const env = {
    PUBSUB: pubsub,
    CHAT_NODES: nodes.map(({ name, url }) => `${name}=${url}`).join(),
    CHAT_DATABASE: yield* Config.String("CHAT_DATABASE").pipe(Config.withDefault(`${folder}/chat.sqlite`)),
    SECRET_KEY_BASE: yield* Config.Redacted("SECRET_KEY_BASE").pipe(
      Config.withDefault(Redacted.make(randomBytes(32).toString("hex")))
    ),
    PRESENCE_PERIOD: yield* Config.String("PRESENCE_PERIOD").pipe(Config.withDefault("500 millis"))
  }
  const scope = yield* Effect.scope
  const enter = yield* Latch.make()
  const { stdin } = yield* Stdio.Stdio
  yield* Effect.forkScoped(Stream.runForEach(stdin, () => enter.release))

  const run = Effect.fnUntraced(function*(node: ChatNode) {
    let end = yield* live(node, env, scope)
    for (;;) {
      yield* Console.log(`${end}; press Enter to start it again`)
      yield* enter.await
      end = yield* live(node, env, scope).pipe(Effect.catchTag("NodeFailed", ({ message }) => Effect.succeed(message)))
    }
  })
  yield* Effect.forEach(nodes, run, { concurrency: "unbounded", discard: true })
})

NodeRuntime.runMain(main.pipe(Effect.scoped, Effect.provide(NodeServices.layer)))
