import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Layer, Logger, type LogLevel, References, Schema } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import { inspect } from "node:util"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"
import * as Telemetry from "../src/Telemetry.ts"
import { Client } from "./transport/server.ts"

interface Line {
  readonly level: string
  readonly message: unknown
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: Cause.Cause<unknown>
}

const collecting = (lines: Array<Line>) =>
  Logger.layer([
    Logger.make(({ cause, fiber, logLevel, message }) => {
      const annotations = fiber.getRef(References.CurrentLogAnnotations)
      lines.push({ level: logLevel, message: Array.isArray(message) ? message[0] : message, annotations, cause })
    })
  ])

const Room = Channel.make("room:*")
const Typed = Channel.make("typed", {
  join: { payload: Schema.Struct({ password: Schema.String }) },
  incoming: { add: { payload: Schema.Struct({ n: Schema.Finite }), error: Schema.String } }
})
const Phoenix = Channel.make("phoenix*")
const Raw = Channel.make("raw:*")

const join = (channel: Channel.Self) =>
  Effect.gen(function*() {
    switch (channel.topic) {
      case "room:refused":
        yield* Effect.sleep("2 millis")
        return yield* Effect.fail({ reason: "full" })
      case "room:dead":
        return yield* Effect.die(new Error("no luck"))
      case "room:slow":
        yield* Effect.sleep("30 millis")
    }
    return {
      handleIn: (event: string): Effect.Effect<Channel.Answer | Channel.NoReply | void, unknown> => {
        switch (event) {
          case "sleep":
            return Effect.sleep("1500 micros")
          case "later":
            return Effect.succeed(Channel.noReply)
          case "fail":
            return Effect.fail({ reason: "no" })
          case "broken":
            return Effect.fail(new Error("no database"))
          case "die":
            return Effect.die(new Error("boom"))
          default:
            return Effect.succeed(Channel.ok())
        }
      }
    }
  })

const TypedLive = Typed.layer(() =>
  Effect.succeed({ handleIn: { add: ({ n }) => n < 0 ? Effect.fail("negative") : Effect.void } })
)
const RawLive = Raw.layerCustom(() => Effect.succeed({ handleIn: () => Effect.void }))
const UserSocket = Socket.make("user_socket", {
  channels: [Room, Typed, Phoenix, Raw],
  maxTopicBytes: 65_536,
  maxEventBytes: 65_536
})
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

interface Setting {
  readonly options?: Channel.Options
  /** Of the application's Logger; default Debug, so that every line is seen. */
  readonly minimum?: LogLevel.LogLevel
  readonly filter?: Telemetry.FilterParameters
}

type Services = Layer.Success<ReturnType<typeof node>>

const node = ({ filter = ["password", "token"], minimum = "Debug", options }: Setting, lines: Array<Line>) =>
  Layer.mergeAll(Room.layer(join, options), TypedLive, Phoenix.layer(join), RawLive, UserSocketLive).pipe(
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(Layer.mergeAll(
      Layer.succeed(Telemetry.FilterParameters, filter),
      Layer.succeed(References.MinimumLogLevel, minimum),
      collecting(lines)
    ))
  )

const connect = ChannelTest.connect(UserSocket)

/** A test of what a node logs. */
const logged = <A, E>(
  name: string,
  body: (lines: Array<Line>) => Effect.Effect<A, E, Services | Effect.Services<typeof connect>>,
  setting: Setting = {}
) =>
  it.effect(name, () => {
    const lines: Array<Line> = []
    return Effect.provide(body(lines), node(setting, lines))
  })

const attempt = (socket: ChannelTest.TestSocket, topic: string, payload: unknown = {}) =>
  Effect.andThen(Effect.exit(ChannelTest.join(socket, topic, payload)), ChannelTest.settle)

/** Begins a join, and lets time pass until it is done. */
const joining = Effect.fnUntraced(function*(topic: string, payload: unknown = {}) {
  const socket = yield* connect
  yield* Effect.forkChild(attempt(socket, topic, payload), { startImmediately: true })
  yield* ChannelTest.settle
  yield* TestClock.adjust("1 second")
  return socket
})

const handle = (channel: ChannelTest.TestChannel, event: string, payload: unknown = {}) =>
  Effect.andThen(ChannelTest.push(channel, event, payload), ChannelTest.settle)

const briefly = (lines: ReadonlyArray<Line>) => lines.map(({ level, message }) => `${level} ${String(message)}`)

describe("a join", () => {
  logged("is logged with how long it took, and with its parameters", (lines) =>
    Effect.gen(function*() {
      yield* joining("room:slow", { since: 3 })
      assert.deepStrictEqual(briefly(lines), ["Info JOINED room:slow in 30ms"])
      assert.deepStrictEqual(lines[0]?.annotations, { parameters: { since: 3 } })
    }))

  logged("that is refused is logged as such", (lines) =>
    Effect.gen(function*() {
      yield* joining("room:refused", { since: 3 })
      assert.deepStrictEqual(briefly(lines), ["Info REFUSED JOIN room:refused in 2ms"])
      assert.deepStrictEqual(lines[0]?.annotations, { parameters: { since: 3 } })
    }))

  logged("whose payload does not fit is a refused one", (lines) =>
    Effect.gen(function*() {
      yield* attempt(yield* connect, "typed", { password: 5, n: 1 })
      assert.deepStrictEqual(briefly(lines), ["Info REFUSED JOIN typed in 0µs"])
      assert.deepStrictEqual(lines[0]?.annotations, { parameters: { password: "[FILTERED]", n: 1 } })
    }))

  logged("of a custom channel is logged too", (lines) =>
    Effect.gen(function*() {
      yield* attempt(yield* connect, "raw:1", { token: "x" })
      assert.deepStrictEqual(briefly(lines), ["Info JOINED raw:1 in 0µs"])
      assert.deepStrictEqual(lines[0]?.annotations, { parameters: { token: "[FILTERED]" } })
    }))

  logged(
    "that crashes is one line: the crash, with nothing of what the client sent",
    (lines) =>
      Effect.gen(function*() {
        yield* attempt(yield* connect, "room:dead", { password: "hunter2", note: "hunter2" })
        assert.deepStrictEqual(briefly(lines), ["Error process crashed"])
        const { annotations = {}, cause = Cause.empty } = lines[0] ?? {}
        assert.deepStrictEqual(annotations, {
          process: "channel room:dead",
          socket: "user_socket",
          transport: "test",
          topic: "room:dead",
          event: "phx_join"
        })
        assert.include(Cause.pretty(cause), "no luck")
        assert.notInclude(inspect(lines, { depth: 20 }), "hunter2")
      })
  )
})

describe("an event", () => {
  logged("is logged with its channel and how long it took, however it is answered", (lines) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, "room:1")
      lines.length = 0
      yield* handle(room, "sleep", { n: 1 })
      yield* TestClock.adjust("1 second")
      yield* handle(room, "later")
      yield* handle(room, "fail", [2])
      assert.deepStrictEqual(briefly(lines), [
        "Debug HANDLED sleep INCOMING ON room:1 (room:*) in 1ms",
        "Debug HANDLED later INCOMING ON room:1 (room:*) in 0µs",
        "Debug HANDLED fail INCOMING ON room:1 (room:*) in 0µs"
      ])
      assert.deepStrictEqual(lines.map(({ annotations }) => annotations), [
        { parameters: { n: 1 } },
        { parameters: {} },
        { parameters: [2] }
      ])
    }))

  logged(
    "of a contract is logged where a handler has run, whether it has failed or not",
    (lines) =>
      Effect.gen(function*() {
        const typed = ChannelTest.untyped(yield* ChannelTest.join(yield* connect, Typed, "typed", { password: "x" }))
        lines.length = 0
        yield* handle(typed, "add", { n: 1 })
        yield* handle(typed, "add", { n: -1 })
        yield* handle(typed, "add", { n: "x" })
        yield* handle(typed, "subtract", { n: 1 })
        assert.deepStrictEqual(briefly(lines), [
          "Debug HANDLED add INCOMING ON typed (typed) in 0µs",
          "Debug HANDLED add INCOMING ON typed (typed) in 0µs"
        ])
      })
  )

  for (const event of ["die", "broken"]) {
    logged(
      `${event}, which crashes the channel, is one line, with nothing of what the client sent`,
      (lines) =>
        Effect.gen(function*() {
          const room = yield* ChannelTest.join(yield* connect, "room:1", { password: "hunter2" })
          lines.length = 0
          yield* handle(room, event, { password: "hunter2", note: "hunter2" })
          assert.deepStrictEqual(briefly(lines), ["Error process crashed"])
          assert.deepInclude(lines[0]?.annotations, { process: "channel room:1", topic: "room:1", event })
          assert.notInclude(inspect(lines, { depth: 20 }), "hunter2")
          yield* ChannelTest.assertCrashed(room)
        })
    )
  }

  logged("of the protocol is not logged", (lines) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, "room:1")
      lines.length = 0
      room.socket.server.receive("[null,\"9\",\"phoenix\",\"heartbeat\",{}]")
      yield* ChannelTest.leave(room)
      yield* ChannelTest.settle
      assert.deepStrictEqual(lines, [])
    }))
})

describe("levels", () => {
  const both = Effect.gen(function*() {
    const socket = yield* connect
    yield* attempt(socket, "room:1")
    yield* attempt(socket, "room:2")
    const room = yield* ChannelTest.join(socket, "room:3")
    yield* handle(room, "ok")
  })

  logged("are by default Info for joins and Debug for events", (lines) =>
    Effect.gen(function*() {
      yield* both
      assert.deepStrictEqual(lines.map(({ level }) => level), ["Info", "Info", "Info"])
    }), { minimum: "Info" })

  logged("are those of the channel's layer", (lines) =>
    Effect.gen(function*() {
      yield* both
      assert.deepStrictEqual(lines.map(({ level }) => level), ["Warn", "Warn", "Warn", "Error"])
    }), { options: { logJoin: "Warn", logHandleIn: "Error" } })

  logged("may be false: not at all", (lines) => Effect.andThen(both, Effect.sync(() => assert.isEmpty(lines))), {
    options: { logJoin: false, logHandleIn: false },
    minimum: "All"
  })

  for (
    const [what, setting, computed] of [
      ["above the level of the line", { minimum: "Warn" }, false],
      ["at the level of the line", { minimum: "Debug" }, true],
      ["low, but the line is switched off", { minimum: "All", options: { logJoin: false, logHandleIn: false } }, false]
    ] as const
  ) {
    let looked = 0
    // Whoever filters parameters has to look at this.
    const filter = {
      get keep() {
        looked++
        return []
      }
    }
    logged(
      `where the minimum is ${what}, parameters are ${computed ? "" : "not "}looked at`,
      (lines) =>
        Effect.gen(function*() {
          yield* both
          yield* joining("room:refused")
          assert.strictEqual(looked > 0, computed)
          assert.strictEqual(lines.length > 0, computed)
        }),
      { ...setting, filter }
    )
  }

  logged("do not matter for topics that begin with phoenix, which are never logged", (lines) =>
    Effect.gen(function*() {
      const socket = yield* connect
      for (const topic of ["phoenix", "phoenix:live_reload", "phoenix_more"]) {
        yield* handle(yield* ChannelTest.join(socket, topic), "ok")
      }
      assert.deepStrictEqual(lines, [])
    }), { minimum: "All" })
})

describe("parameters", () => {
  const secret = {
    password: "hunter2",
    user: { name: "ada", oauth_token: { raw: "hunter2" }, accessToken: "hunter2" },
    links: ["https://example.com/?token=hunter2", "https://example.com/"],
    token: null
  }
  const shown = {
    password: "[FILTERED]",
    user: { name: "ada", oauth_token: "[FILTERED]", accessToken: "[FILTERED]" },
    links: ["[FILTERED]", "https://example.com/"],
    token: "[FILTERED]"
  }

  logged(
    "of joins and events are logged without passwords and tokens, at every depth",
    (lines) =>
      Effect.gen(function*() {
        yield* handle(yield* ChannelTest.join(yield* connect, "room:1", secret), "ok", secret)
        assert.deepStrictEqual(lines.map(({ annotations }) => annotations), [{ parameters: shown }, {
          parameters: shown
        }])
      })
  )

  logged(
    "are hidden by the names that the application gives in place of the default ones",
    (lines) =>
      Effect.gen(function*() {
        yield* attempt(yield* connect, "room:1", { password: "shown", pin: 1234, nested: [{ my_pin: 1 }] })
        assert.deepStrictEqual(lines[0]?.annotations, {
          parameters: { password: "shown", pin: "[FILTERED]", nested: [{ my_pin: "[FILTERED]" }] }
        })
      }),
    { filter: ["pin"] }
  )

  logged("may all be hidden but some", (lines) =>
    Effect.gen(function*() {
      yield* attempt(yield* connect, "room:1", { id: { n: 1 }, name: "ada", list: [{ id: 2, other: 3 }] })
      assert.deepStrictEqual(lines[0]?.annotations, {
        parameters: { id: { n: 1 }, name: "[FILTERED]", list: [{ id: 2, other: "[FILTERED]" }] }
      })
    }), { filter: { keep: ["id"] } })

  const deep = JSON.parse(`${"[".repeat(1000)}${"]".repeat(1000)}`)
  const long = "x".repeat(60_000)
  const huge = {
    [long]: long,
    list: Array.from({ length: 10_000 }, () => ({ short: "x" })),
    wide: Object.fromEntries(
      Array.from({ length: 10_000 }, (_, index) => [`${index}${long.slice(0, 300)}`, long.slice(0, 300)])
    ),
    deep
  }

  logged("of any size make a line of a bounded one, as do topics and events", (lines) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, `room:${long}`, huge)
      yield* handle(room, long, huge)
      assert.strictEqual(lines.length, 2)
      for (const line of lines) assert.isBelow(JSON.stringify([line.message, line.annotations]).length, 50_000)
      for (const { message } of lines) assert.isBelow(String(message).length, 300)
      yield* handle(room, "die")
      const [crash] = lines.slice(2)
      assert.strictEqual(crash?.message, "process crashed")
      assert.isBelow(JSON.stringify(crash?.annotations).length, 500)
      yield* ChannelTest.assertCrashed(room)
    }))

  logged("that are bytes are counted", (lines) =>
    Effect.gen(function*() {
      yield* handle(yield* ChannelTest.join(yield* connect, "room:1"), "binary", new Uint8Array(10_000))
      assert.deepStrictEqual(lines[1]?.annotations, { parameters: "[10000 bytes]" })
    }))

  logged("do not change what the channel gets", (lines) => {
    const seen: Array<unknown> = []
    const Echo = Channel.make("echo")
    const EchoLive = Echo.layer((_, payload) => {
      seen.push(payload)
      return Effect.succeed({ handleIn: (_, payload) => Effect.sync(() => void seen.push(payload)) })
    })
    const EchoSocket = Socket.make("echo_socket", { channels: [Echo] })
    const EchoSocketLive = EchoSocket.layer(() => Effect.succeed(Socket.accept()))
    return Effect.gen(function*() {
      const echo = yield* ChannelTest.join(yield* ChannelTest.connect(EchoSocket), Echo, "echo", secret)
      yield* handle(echo, "ok", secret)
      assert.deepStrictEqual(seen, [secret, secret])
      assert.strictEqual(lines.length, 2)
    }).pipe(Effect.provide([EchoLive, EchoSocketLive]))
  })
})

describe("a kill", () => {
  logged("during a join or an event is not logged as its end", (lines) =>
    Effect.gen(function*() {
      const socket = yield* connect
      yield* Effect.forkChild(attempt(socket, "room:slow"), { startImmediately: true })
      yield* ChannelTest.settle
      for (const { pid } of socket.server.list()) yield* Process.exit(pid, Process.killed)
      yield* TestClock.adjust("1 second")
      const room = yield* ChannelTest.join(socket, "room:1")
      yield* ChannelTest.push(room, "sleep")
      yield* ChannelTest.settle
      yield* Process.exit(room.pid, Process.killed)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(briefly(lines), ["Info JOINED room:1 in 0µs"])
    }))
})

describe("a connect", () => {
  const Door = (log?: LogLevel.Severity | false) => Socket.make("door", { channels: [], log })
  /** Connects two clients to a real server, of which one is refused. */
  const knock = Effect.fnUntraced(function*(socket: ReturnType<typeof Door>, minimum: LogLevel.LogLevel) {
    const lines: Array<Line> = []
    const connect = socket.layer(({ params }) =>
      params["token"] === "bad" ? Effect.fail(Socket.refuse("bad luck")) : Effect.succeed(Socket.accept())
    )
    const server = HttpRouter.serve(Endpoint.mount(socket, { path: "/socket", host: "127.0.0.1" }), {
      disableLogger: true,
      disableListenLog: true
    }).pipe(
      Layer.provide(connect),
      Layer.provide(PubSub.layer),
      Layer.provideMerge(Endpoint.layer(createServer, { port: 0 })),
      Layer.provide([Layer.succeed(References.MinimumLogLevel, minimum), collecting(lines)])
    )
    const { address } = Context.get(yield* Layer.build(server), HttpServer.HttpServer)
    assert("port" in address)
    const url = `ws://127.0.0.1:${address.port}/socket/websocket?vsn=2.0.0&page=1&token=`
    yield* Effect.promise(() => Client.open(`${url}good`))
    yield* Effect.promise(() => Client.refused(`${url}bad`))
    return lines
  })

  it.live("is logged with transport, serializer and filtered parameters, a refused one with the reason", () =>
    Effect.gen(function*() {
      const lines = yield* knock(Door(), "Info")
      const annotations = {
        transport: "websocket",
        serializer: "V2",
        parameters: { vsn: "2.0.0", page: "1", token: "[FILTERED]" }
      }
      assert.deepStrictEqual(lines.map((line) => line.annotations), [
        annotations,
        { ...annotations, reason: "bad luck" }
      ])
      assert.match(String(lines[0]?.message), /^CONNECTED TO door in \d+(µs|ms)$/)
      assert.match(String(lines[1]?.message), /^REFUSED CONNECTION TO door in \d+(µs|ms)$/)
      assert.deepStrictEqual(lines.map(({ level }) => level), ["Info", "Info"])
    }))

  it.live("is logged at the level of the socket, or not at all", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* knock(Door("Warn"), "Warn")).map(({ level }) => level), ["Warn", "Warn"])
      assert.deepStrictEqual(yield* knock(Door(), "Warn"), [])
      assert.deepStrictEqual(yield* knock(Door(false), "All"), [])
    }))
})
