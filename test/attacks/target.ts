/**
 * A server to attack, and somebody on it who must not notice: the witness. Afterwards nothing may be left of an attack.
 */
import { assert, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Logger, Metric, References, Schema, Scope } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { createServer, type Server } from "node:http"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Presence from "../../src/Presence.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import * as Token from "../../src/Token.ts"
import { Client } from "../transport/server.ts"

export const secretKeyBase = "a secret that nobody guesses, for tests"
export const salt = "user socket"

/** A channel that knows how often it was asked: one that has started anew would say 1. */
const Room = Channel.make("room:*")
const RoomLive = Room.layer((room) => {
  let count = 0
  return Effect.succeed({
    handleIn: (event, payload) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "count":
          return Effect.succeed(Channel.ok({ count: ++count }))
        case "shout":
          return Effect.as(room.broadcast("shout", payload), Channel.ok())
        case "pass on":
          return Effect.as(room.broadcast(String(Object(payload).event), Object(payload).payload), Channel.ok())
        default:
          return Effect.fail({ reason: "no such event" })
      }
    }
  })
})

/** A channel whose contract has a place for keys of the client. */
const Typed = Channel.make("typed:*", {
  incoming: {
    tag: {
      payload: Schema.Struct({ tags: Schema.Record(Schema.String, Schema.Struct({ n: Schema.Number })) }),
      success: Schema.Struct({ keys: Schema.Array(Schema.String), isPlain: Schema.Boolean })
    }
  }
})
const TypedLive = Typed.layer(() =>
  Effect.succeed({
    handleIn: {
      tag: ({ tags }) =>
        Effect.succeed({
          keys: Object.keys(tags),
          isPlain: [Object.prototype, null].includes(Object.getPrototypeOf(tags))
        })
    }
  })
)

/** A channel in which clients choose the keys they are present under. */
export const Online = Presence.make("online")
const Lobby = Channel.make("lobby")
const LobbyLive = Lobby.layer((lobby) =>
  Effect.succeed({
    handleIn: (event, payload) =>
      event === "track"
        ? Online.track(lobby, String(Object(payload).key), { ...Object(payload).meta }).pipe(
          Effect.andThen(Online.list(lobby)),
          Effect.map((list) => Channel.ok({ keys: Object.keys(list) })),
          Effect.orDie
        )
        : Effect.succeed(Channel.ok({}))
  })
)

export const UserSocket = Socket.make("user_socket", { channels: [Room, Typed, Lobby], log: false })
const UserSocketLive = UserSocket.toLayer(Effect.gen(function*() {
  const tokens = yield* Token.Token
  return ({ params: { auth, id } }: Socket.ConnectInfo) => {
    const accepted = Socket.accept({ id: typeof id === "string" ? id : undefined })
    if (auth === undefined) return Effect.succeed(accepted)
    return tokens.verify(salt, auth, { maxAge: "1 hour" }).pipe(
      Effect.as(accepted),
      Effect.mapError(({ reason }) => Socket.refuse(reason))
    )
  }
}))

/** An application that lets its clients into every topic there is. */
const Any = Channel.make("*")
const AnyLive = Any.layer((any) =>
  Effect.succeed({
    handleIn: (event, payload) => Effect.as(any.broadcast(event, payload), Channel.ok()),
    handleInfo: () => Effect.void
  })
)
const OpenSocket = Socket.make("open_socket", { channels: [Any], log: false })
const OpenSocketLive = OpenSocket.layer(() => Effect.succeed(Socket.accept()))

const Hello = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))

export interface Target {
  readonly port: number
  readonly http: Server
  readonly url: string
  /** Runs an effect on the node under attack. */
  readonly run: <A, E>(
    effect: Effect.Effect<A, E, PubSub.PubSub | Process.System | Token.Token | Presence.Handler<"online">>
  ) => Promise<A>
  /** Warnings and errors of the log. */
  readonly log: Array<string>
  /** Waits until what is looked at is as it was before the attack; fails after some seconds with what is different. */
  readonly settled: () => Promise<void>
  /** Stops the server. */
  readonly stop: Effect.Effect<void>
}

export interface Options {
  readonly websocket?: Endpoint.WebSocketOptions
  readonly longpoll?: Endpoint.LongPollOptions
  /** In milliseconds. */
  readonly headersTimeout?: number
}

/** The host that pages of the application come from. */
const host = "here"

/** Starts a server; it stops with the scope. */
export const start = Effect.fnUntraced(function*({ headersTimeout, longpoll, websocket }: Options = {}) {
  const log: Array<string> = []
  const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
    if (logLevel !== "Error" && logLevel !== "Warn" && logLevel !== "Fatal") return
    const about = Object.entries(fiber.getRef(References.CurrentLogAnnotations)).map((each) => each.join("=")).join(" ")
    log.push(`${logLevel} ${String(Array.isArray(message) ? message[0] : message)} ${about} ${Cause.pretty(cause)}`)
  })
  const http = createServer(
    headersTimeout === undefined ? {} : { headersTimeout, connectionsCheckingInterval: headersTimeout / 4 }
  )
  const app = Layer.mergeAll(
    Hello,
    Endpoint.mount(UserSocket, { path: "/socket", host, websocket: websocket ?? true, longpoll: longpoll ?? true }),
    Endpoint.mount(OpenSocket, { path: "/open", host })
  )
  const live = HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide([RoomLive, TypedLive, LobbyLive, AnyLive, UserSocketLive, OpenSocketLive]),
    Layer.provideMerge(Online.layer()),
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(Token.layer({ secretKeyBase })),
    Layer.provideMerge(Endpoint.layer(() => http, { port: 0, host: "127.0.0.1" })),
    Layer.provide(Logger.layer([logger])),
    Layer.provideMerge(Layer.succeed(Metric.MetricRegistry, new Map()))
  )
  const scope = yield* Scope.make()
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => stop)
  const context = yield* Layer.buildWithScope(live, scope)
  const { address } = Context.get(context, HttpServer.HttpServer)
  const port = "port" in address ? address.port : 0
  const run: Target["run"] = (effect) => Effect.runPromiseWith(context)(effect)
  const look = () => run(state(http))
  const before = JSON.stringify(yield* Effect.promise(look))
  const settled = async () => {
    for (const end = Date.now() + 8000; JSON.stringify(await look()) !== before && Date.now() < end;) {
      await new Promise((resolve) => setImmediate(resolve))
    }
    assert.deepStrictEqual(await look(), JSON.parse(before))
  }
  const target: Target = { port, http, url: `ws://127.0.0.1:${port}`, run, log, settled, stop }
  return target
})

const gauges = [
  Metric.withAttributes(Telemetry.connections, { socket: "user_socket", transport: "websocket" }),
  Metric.withAttributes(Telemetry.connections, { socket: "user_socket", transport: "longpoll" }),
  Metric.withAttributes(Telemetry.connections, { socket: "open_socket", transport: "websocket" }),
  ...["room:*", "typed:*", "lobby"].map((channel) =>
    Metric.withAttributes(Telemetry.channels, { socket: "user_socket", channel })
  ),
  Metric.withAttributes(Telemetry.channels, { socket: "open_socket", channel: "*" })
]

/** All that an attack could leave behind. */
const state = (http: Server) =>
  Effect.gen(function*() {
    const pubsub = yield* PubSub.PubSub
    const { processes } = yield* Process.stats
    const open = yield* Effect.promise(() =>
      new Promise<number>((resolve) => http.getConnections((_error, count) => resolve(count)))
    )
    return {
      open,
      sockets: (yield* Endpoint.sockets).length,
      processes,
      subscriptions: pubsub.topics().map((topic) => `${topic} ${pubsub.subscriberCount(topic)}`).toSorted(),
      gauges: yield* Effect.forEach(gauges, (gauge) => Effect.map(Metric.value(gauge), ({ value }) => value))
    }
  })

/** Somebody who has joined a room, and means no harm. */
export class Witness {
  private readonly client: Client
  private count = 0
  private constructor(client: Client) {
    this.client = client
  }

  static async on(target: Target): Promise<Witness> {
    const client = await Client.open(`${target.url}/socket/websocket?vsn=2.0.0&id=user:witness`)
    await client.join("room:witness")
    return new Witness(client)
  }

  /** Is answered by the same channel as ever, and has been sent nothing else. */
  async goesOn(): Promise<void> {
    const count = ++this.count
    assert.deepStrictEqual(await this.client.ask(["1", "7", "room:witness", "count", {}]), [
      "1",
      "7",
      "room:witness",
      "phx_reply",
      { status: "ok", response: { count } }
    ])
  }

  async leaves(): Promise<void> {
    await this.goesOn()
    this.client.ws.close(1000)
    assert.strictEqual((await this.client.closed).code, 1000)
  }
}

/** What nobody has caught while something ran. */
export const uncaught = async (body: () => Promise<void>): Promise<ReadonlyArray<unknown>> => {
  const errors: Array<unknown> = []
  const note = (error: unknown) => void errors.push(error)
  process.on("unhandledRejection", note).on("uncaughtException", note)
  try {
    await body()
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off("unhandledRejection", note).off("uncaughtException", note)
  }
  return errors
}

/** Where a crash is what the client has asked for, its line says so. */
const isHarmless = (line: string): boolean => !/crashed|defect|Fatal/i.test(line)

/**
 * An attack on a server of its own: the witness goes on as if nothing were, nothing crashes, nothing is left afterwards, and
 * the application's own routes are served.
 */
export const attack = (
  name: string,
  body: (target: Target, witness: Witness) => Promise<void>,
  options: Options = {}
): void =>
  it.live(
    name,
    () =>
      Effect.gen(function*() {
        const target = yield* start(options)
        const errors = yield* Effect.promise(() =>
          uncaught(async () => {
            const witness = await Witness.on(target)
            await body(target, witness)
            await witness.leaves()
            const hello = await fetch(`http://127.0.0.1:${target.port}/hello`, { headers: { connection: "close" } })
            assert.strictEqual(await hello.text(), "hello")
            await target.settled()
          })
        )
        assert.deepStrictEqual(errors, [])
        assert.deepStrictEqual(target.log.filter((line) => !isHarmless(line)), [])
        yield* Effect.timeout(target.stop, "4 seconds")
      }),
    60_000
  )
