import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, References, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import * as Channel from "../src/Channel.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"
import * as Telemetry from "../src/Telemetry.ts"
import { Client } from "./transport/server.ts"

/** Log lines, oldest first. */
const lines: Array<{ readonly level: string; readonly text: string; readonly annotations: object }> = []
const logger = Logger.layer([
  Logger.make(({ fiber, logLevel, message }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    lines.push({ level: logLevel, text, annotations: fiber.getRef(References.CurrentLogAnnotations) })
  })
])
const drains = () => lines.filter(({ text }) => text.startsWith("DRAINING"))

/** How channels have ended. */
const endings: Array<Process.ExitReason> = []
let gate = Deferred.makeUnsafe<void>()

const Room = Channel.make("room:*")
const RoomLive = Room.layer((_, payload) =>
  Effect.as(payload === "wait" ? Deferred.await(gate) : Effect.void, {
    terminate: (reason: Process.ExitReason) =>
      Effect.andThen(
        Effect.sync(() => void endings.push(reason)),
        payload === "slow" ? Effect.sleep("3 seconds") : payload === "stuck" ? Effect.never : Effect.void
      )
  })
)
const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))
const live = Layer.mergeAll(RoomLive, UserSocketLive).pipe(Layer.provideMerge(PubSub.layer), Layer.provideMerge(logger))

/** A mount without a wire. */
const mount = Effect.fnUntraced(function*(drainer: Socket.DrainerOptions | false) {
  lines.length = 0
  endings.length = 0
  gate = Deferred.makeUnsafe<void>()
  const acceptor = yield* Socket.acceptor(UserSocket, drainer)
  const codes: Array<number> = []
  /** Connects clients, of which each joins a topic if `payload` is given. */
  const connect = (count: number, payload?: string) => {
    for (let n = 0; n < count; n++) {
      const transport = { name: "websocket", send: () => {}, close: (code: number) => void codes.push(code) }
      const server = acceptor.open(transport, Serializer.v2, { id: undefined, assigns: Context.empty() })
      if (payload !== undefined) server.receive(JSON.stringify(["1", "1", "room:1", "phx_join", payload]))
    }
    return TestClock.adjust(0)
  }
  /** How many have been closed by now; all of them with 1012. */
  const closed = Effect.sync(() => {
    assert.isTrue(codes.every((code) => code === 1012), codes.join())
    return codes.length
  })
  return { drain: acceptor.drain, connect, closed }
})

/** Starts the drain, and lets everything happen that needs no time. */
const begin = (drain: Effect.Effect<void>) =>
  Effect.tap(Effect.forkChild(drain, { startImmediately: true }), TestClock.adjust(0))

const isDone = (fiber: Fiber.Fiber<void>) => fiber.pollUnsafe() !== undefined

const after = (duration: "1 milli" | "2 seconds" | "1999 millis", closed: Effect.Effect<number>) =>
  Effect.andThen(TestClock.adjust(duration), closed)

describe("rounds", () => {
  it.effect("close a batch at once, and one more after every interval, with 1012", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({ batchSize: 10 })
      yield* connect(15)
      yield* connect(10, "join")
      const draining = yield* begin(drain)
      assert.strictEqual(yield* closed, 10)
      assert.strictEqual(yield* after("1999 millis", closed), 10)
      assert.strictEqual(yield* after("1 milli", closed), 20)
      assert.isFalse(isDone(draining))
      assert.strictEqual(yield* after("1999 millis", closed), 20)
      assert.strictEqual(yield* after("1 milli", closed), 25)
      assert.isTrue(isDone(draining))
      assert.deepStrictEqual(endings, Array.from({ length: 10 }, () => Process.shutdown("draining")))
    }).pipe(Effect.provide(live)))

  it.effect("are logged one by one, as Phoenix does", () =>
    Effect.gen(function*() {
      const { connect, drain } = yield* mount({ batchSize: 10, batchInterval: "500 millis" })
      yield* connect(25)
      const draining = yield* begin(drain)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(draining)
      const line = (count: number, round: number) => ({
        level: "Info",
        text: `DRAINING ${count} of 25 total connection(s) for socket user_socket every 500ms - round ${round} of 3`,
        annotations: { socket: "user_socket" }
      })
      assert.deepStrictEqual(drains(), [line(10, 1), line(10, 2), line(5, 3)])
    }).pipe(Effect.provide(live)))

  it.effect("are logged at the level of `log`, and not at all with false", () =>
    Effect.gen(function*() {
      const logged = [["Warn", ["Warn"]], ["Debug", []], [false, []]] as const
      for (const [log, levels] of logged) {
        const { connect, drain } = yield* mount({ log })
        yield* connect(3)
        yield* drain
        assert.deepStrictEqual(drains().map(({ level }) => level), [...levels])
      }
    }).pipe(Effect.provide(live)))

  it.effect("are as many as it takes: one for a full batch, none without connections", () =>
    Effect.gen(function*() {
      const full = yield* mount({ batchSize: 10 })
      yield* full.connect(10)
      yield* full.drain
      assert.strictEqual(yield* full.closed, 10)
      assert.strictEqual(drains().length, 1)
      const empty = yield* mount({})
      yield* empty.drain
      assert.deepStrictEqual(drains(), [])
    }).pipe(Effect.provide(live)))

  it.effect("are of 10,000 connections every 2 seconds by default", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({})
      yield* connect(10_001)
      const draining = yield* begin(drain)
      assert.strictEqual(yield* closed, 10_000)
      assert.strictEqual(yield* after("1999 millis", closed), 10_000)
      assert.strictEqual(yield* after("1 milli", closed), 10_001)
      assert.isTrue(isDone(draining))
      assert.include(drains()[0]?.text, "every 2000ms - round 1 of 2")
    }).pipe(Effect.provide(live)))

  it.effect("come to an end after the shutdown time, when all that is left is closed", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({ batchSize: 1, shutdown: "5 seconds" })
      yield* connect(20)
      const draining = yield* begin(drain)
      yield* TestClock.adjust("4999 millis")
      assert.strictEqual(yield* closed, 3)
      assert.strictEqual(yield* after("1 milli", closed), 20)
      assert.isTrue(isDone(draining))
    }).pipe(Effect.provide(live)))

  it.effect("have 30 seconds by default", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({ batchSize: 1 })
      yield* connect(50)
      const draining = yield* begin(drain)
      yield* TestClock.adjust("29999 millis")
      assert.strictEqual(yield* closed, 15)
      assert.strictEqual(yield* after("1 milli", closed), 50)
      assert.isTrue(isDone(draining))
    }).pipe(Effect.provide(live)))

  it.effect("do not happen with `drainer: false`: all connections are closed at once, without a line", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount(false)
      yield* connect(10)
      yield* connect(15, "join")
      const draining = yield* begin(drain)
      assert.strictEqual(yield* closed, 25)
      assert.isTrue(isDone(draining))
      assert.deepStrictEqual(drains(), [])
      assert.deepStrictEqual(endings, Array.from({ length: 15 }, () => Process.shutdown("draining")))
    }).pipe(Effect.provide(live)))

  it.effect("of no connections at all are a mistake that is found when the socket is mounted", () =>
    Effect.gen(function*() {
      for (const batchSize of [0, -1, NaN]) {
        const exit = yield* Effect.exit(mount({ batchSize }))
        assert.include(String(Exit.isFailure(exit) ? exit.cause : exit), "batchSize", String(batchSize))
      }
    }).pipe(Effect.provide(live)))
})

describe("a drain", () => {
  it.effect("waits for the channels, which have their shutdown time", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({})
      yield* connect(1, "slow")
      const draining = yield* begin(drain)
      assert.strictEqual(yield* closed, 1)
      yield* TestClock.adjust("2999 millis")
      assert.isFalse(isDone(draining))
      yield* TestClock.adjust("1 milli")
      assert.isTrue(isDone(draining))
    }).pipe(Effect.provide(live)))

  it.effect("waits no longer for a channel that does not end", () =>
    Effect.gen(function*() {
      const { connect, drain } = yield* mount({})
      yield* connect(1, "stuck")
      const draining = yield* begin(drain)
      yield* TestClock.adjust("4999 millis")
      assert.isFalse(isDone(draining))
      yield* TestClock.adjust("1 milli")
      assert.isTrue(isDone(draining))
      assert.deepStrictEqual(endings, [Process.shutdown("draining")])
    }).pipe(Effect.provide(live)))

  it.effect("does not wait for a join that does not end", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({})
      yield* connect(1, "wait")
      yield* begin(drain)
      assert.strictEqual(yield* closed, 1)
    }).pipe(Effect.provide(live)))

  it.effect("takes along, at its end, a connection that comes while it goes on", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({ batchSize: 1 })
      yield* connect(2)
      const draining = yield* begin(drain)
      yield* connect(1, "join")
      assert.strictEqual(yield* closed, 1)
      assert.strictEqual(yield* after("2 seconds", closed), 3)
      assert.isTrue(isDone(draining))
      assert.deepStrictEqual(endings, [Process.shutdown("draining")])
    }).pipe(Effect.provide(live)))

  it.effect("asked for a second time only waits for the first", () =>
    Effect.gen(function*() {
      const { closed, connect, drain } = yield* mount({ batchSize: 2 })
      yield* connect(4)
      const first = yield* begin(drain)
      const second = yield* begin(drain)
      assert.strictEqual(yield* closed, 2)
      assert.isFalse(isDone(second))
      yield* TestClock.adjust("2 seconds")
      assert.isTrue(isDone(first))
      assert.isTrue(isDone(second))
      assert.strictEqual(drains().length, 2)
      yield* drain
      assert.strictEqual(drains().length, 2)
    }).pipe(Effect.provide(live)))

  it.effect("begins by itself when the scope of the mount closes, and ends what comes after it", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { closed, connect, drain } = yield* Scope.provide(mount({ batchSize: 1 }), scope)
      yield* connect(2)
      const closing = yield* begin(Scope.close(scope, Exit.void))
      assert.strictEqual(yield* closed, 1)
      assert.strictEqual(yield* after("2 seconds", closed), 2)
      assert.isTrue(isDone(closing))
      yield* drain

      const other = yield* Scope.make()
      const late = yield* Scope.provide(mount({}), other)
      yield* late.drain
      yield* late.connect(1)
      assert.strictEqual(yield* late.closed, 0)
      yield* Scope.close(other, Exit.void)
      assert.strictEqual(yield* late.closed, 1)
    }).pipe(Effect.provide(live)))

  it.effect("counts every connection that it closes, in whichever round or after the last", () =>
    Effect.gen(function*() {
      const drained = Effect.map(
        Metric.value(
          Metric.withAttributes(Telemetry.drainedConnections, { socket: "user_socket", transport: "websocket" })
        ),
        ({ count }) => count
      )
      const { connect, drain } = yield* mount({ batchSize: 1, shutdown: "1 second" })
      yield* connect(3)
      const draining = yield* begin(drain)
      assert.strictEqual(yield* drained, 1)
      yield* connect(1)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(draining)
      assert.strictEqual(yield* drained, 4)
      const atOnce = yield* mount(false)
      yield* atOnce.connect(2)
      yield* atOnce.drain
      assert.strictEqual(yield* drained, 6)
    }).pipe(Effect.provide(live), Effect.provideService(Metric.MetricRegistry, new Map())))

  it.effect("of one socket leaves another alone", () =>
    Effect.gen(function*() {
      const one = yield* mount({})
      const other = yield* mount({})
      yield* one.connect(1)
      yield* other.connect(1)
      yield* one.drain
      assert.strictEqual(yield* one.closed, 1)
      assert.strictEqual(yield* other.closed, 0)
    }).pipe(Effect.provide(live)))
})

describe("the HTTP server of an endpoint", () => {
  /** Serves a socket, and says where. */
  const serve = Effect.fnUntraced(function*(connect: typeof UserSocketLive, drainer: Socket.DrainerOptions) {
    const http = createServer()
    const app = HttpRouter.serve(Endpoint.mount(UserSocket, { path: "/socket", drainer }), {
      disableLogger: true,
      disableListenLog: true
    }).pipe(
      Layer.provide([RoomLive, connect, PubSub.layer]),
      Layer.provideMerge(Endpoint.layer(() => http, { port: 0, host: "127.0.0.1" }))
    )
    const scope = yield* Scope.make()
    const stop = Scope.close(scope, Exit.void)
    yield* Effect.addFinalizer(() => stop)
    const { address } = Context.get(yield* Layer.buildWithScope(app, scope), HttpServer.HttpServer)
    const port = "port" in address ? address.port : 0
    return { http, stop, url: `ws://127.0.0.1:${port}/socket/websocket?vsn=2.0.0` }
  })

  it.effect("begins the drain when it is told to close", () =>
    Effect.gen(function*() {
      const { http, url } = yield* serve(UserSocketLive, { batchSize: 1 })
      const [a, b] = yield* Effect.promise(() => Promise.all([Client.open(url), Client.open(url)]))
      http.close()
      const first = yield* Effect.promise(() => Promise.race([a, b].map((client) => client.closed.then(() => client))))
      const other = first === a ? b : a
      assert.deepStrictEqual(yield* Effect.promise(() => other.ask([null, "1", "phoenix", "heartbeat", {}])), [
        null,
        "1",
        "phoenix",
        "phx_reply",
        { status: "ok", response: {} }
      ])
      yield* TestClock.adjust("2 seconds")
      for (const client of [a, b]) assert.strictEqual((yield* Effect.promise(() => client.closed)).code, 1012)
    }).pipe(Effect.provide(logger)))

  it.live("does not let in a client about whom connect decides after that, and does not wait for one", () =>
    Effect.gen(function*() {
      const [asked, decided] = [Deferred.makeUnsafe<void>(), Deferred.makeUnsafe<void>()]
      const connect = UserSocket.layer(() =>
        Deferred.succeed(asked, undefined).pipe(
          Effect.andThen(Deferred.await(decided)),
          Effect.as(Socket.accept())
        )
      )
      const { http, stop, url } = yield* serve(connect, {})
      const status = Effect.promise(() => Client.refused(url))
      const late = yield* Effect.forkChild(status, { startImmediately: true })
      yield* Deferred.await(asked)
      http.close()
      yield* Deferred.succeed(decided, undefined)
      assert.strictEqual(yield* Fiber.join(late), 503)
      yield* Effect.timeout(stop, "4 seconds")
    }).pipe(Effect.provide(logger)))
})
