import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, Option, Schema, Tracer } from "effect"
import { HttpMiddleware } from "effect/http"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"
import { Client, start } from "./transport/server.ts"

/** A Tracer that keeps its spans, oldest first. */
const collector = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, layer: Layer.succeed(Tracer.Tracer, tracer) }
}

const attributesOf = (span: Tracer.NativeSpan | undefined) => Object.fromEntries(span?.attributes ?? [])
const resultOf = (span: Tracer.NativeSpan | undefined) => span?.attributes.get("channels.result")
const parentOf = (span: Tracer.NativeSpan | undefined) => span && Option.getOrUndefined(span.parent)
const endOf = (span: Tracer.NativeSpan | undefined) => {
  assert(span?.status._tag === "Ended")
  return span.status
}
const named = (spans: ReadonlyArray<Tracer.NativeSpan>, name: string) => spans.filter((span) => span.name === name)
const silent = Logger.layer([])

const Room = Channel.make("room:*")
const Typed = Channel.make("typed:*", {
  join: { payload: Schema.Struct({ n: Schema.Finite }), error: Schema.Struct({ reason: Schema.String }) },
  incoming: {
    add: { payload: Schema.Struct({ n: Schema.Finite }), success: Schema.Finite, error: Schema.String }
  }
})
const Raw = Channel.make("raw:*")

const RoomLive = Room.layer((room) =>
  Effect.gen(function*() {
    if (room.topic === "room:refused") return yield* Effect.fail({ reason: "full" })
    if (room.topic === "room:broken") return yield* Effect.fail(new Error("no database"))
    if (room.topic === "room:dead") return yield* Effect.die("no luck")
    if (room.topic === "room:slow") return yield* Effect.never
    return {
      handleIn: (event): Effect.Effect<Channel.Answer | Channel.NoReply | void, unknown> => {
        switch (event) {
          case "nothing":
            return Effect.void
          case "later":
            return Effect.succeed(Channel.noReply)
          case "ok":
            return Effect.succeed(Channel.ok())
          case "error":
            return Effect.succeed(Channel.error())
          case "queued":
            return Effect.succeed(Channel.answer("queued"))
          case "fail":
            return Effect.fail({ reason: "no" })
          case "broken":
            return Effect.fail(new Error("no database"))
          case "die":
            return Effect.die("boom")
          case "hang":
            return Effect.never
          case "sleep":
            return Effect.sleep("3 seconds")
          case "work":
            return Effect.andThen(room.broadcast("news", {}), room.broadcast("news", {}).pipe(Effect.withSpan("work")))
          default:
            return room.send(event)
        }
      },
      handleInfo: () => Effect.withSpan(Effect.void, "info")
    }
  })
)
const TypedLive = Typed.layer((_, { n }) =>
  n < 0 ? Effect.fail({ reason: "negative" }) : Effect.succeed({
    handleIn: { add: (payload) => payload.n < 0 ? Effect.fail("negative") : Effect.succeed(payload.n + n) }
  })
)
const RawLive = Raw.layerCustom((raw) =>
  raw.topic === "raw:broken" ? Effect.fail(new Error("no database")) : Effect.succeed({
    handleIn: ({ event }) => event === "die" ? Effect.die("boom") : Effect.withSpan(raw.close, "inside")
  })
)

const UserSocket = Socket.make("user_socket", {
  channels: [Room, Typed, Raw],
  maxTopicBytes: 20_000,
  maxEventBytes: 20_000
})
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))
const live = Layer.mergeAll(RoomLive, TypedLive, RawLive, UserSocketLive).pipe(Layer.provideMerge(ChannelTest.layer))

type Node = Layer.Success<typeof live>

/** A test of a node whose spans are collected; all of them have ended when it is through. */
const traced = <A, E>(
  name: string,
  body: (spans: Array<Tracer.NativeSpan>) => Effect.Effect<A, E, Node | Effect.Services<typeof connect>>
) =>
  it.effect(name, () => {
    const { layer, spans } = collector()
    return body(spans).pipe(
      Effect.andThen(ChannelTest.settle),
      Effect.provide(live),
      Effect.provide(layer),
      Effect.provide(silent),
      Effect.scoped,
      Effect.map(() => {
        assert.isNotEmpty(spans)
        assert.deepStrictEqual(spans.filter(({ status }) => status._tag !== "Ended"), [])
      })
    )
  })

const connect = ChannelTest.connect(UserSocket)

describe("a join", () => {
  traced("is a span that names topic and channel, and lasts as long as the join", (spans) =>
    Effect.gen(function*() {
      yield* TestClock.setTime(7000)
      yield* ChannelTest.join(yield* connect, Room, "room:1", { token: "secret" })
      assert.strictEqual(spans.length, 1)
      assert.deepInclude(spans[0], { name: "channels.join", kind: "server" })
      assert.deepStrictEqual(attributesOf(spans[0]), {
        "channels.topic": "room:1",
        "channels.channel": "room:*",
        "channels.result": "ok"
      })
      assert.strictEqual(endOf(spans[0]).startTime, 7_000_000_000n)
    }))

  for (
    const [channel, topic, payload, result] of [
      [Room, "room:refused", {}, "refused"],
      [Room, "room:broken", {}, "crashed"],
      [Room, "room:dead", {}, "crashed"],
      [Raw, "raw:broken", {}, "crashed"],
      [Typed, "typed:1", { n: -1 }, "refused"],
      [Typed, "typed:1", { n: "x" }, "refused"]
    ] as const
  ) {
    traced(`of ${topic} with ${JSON.stringify(payload)} has the result ${result}`, (spans) =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(ChannelTest.join(yield* connect, channel, topic, payload as never))
        assert.strictEqual(exit._tag, "Failure")
        assert.deepStrictEqual(spans.map(resultOf), [result])
      }))
  }

  traced("that is killed ends its span as interrupted", (spans) =>
    Effect.gen(function*() {
      const client = yield* connect
      yield* Effect.forkChild(Effect.exit(ChannelTest.join(client, Room, "room:slow")), { startImmediately: true })
      yield* ChannelTest.settle
      assert.strictEqual(spans[0]?.status._tag, "Started")
      for (const { pid } of yield* Endpoint.channels(client.server.pid)) yield* Process.exit(pid, Process.killed)
      yield* ChannelTest.settle
      assert.strictEqual(resultOf(spans[0]), "interrupted")
      assert.strictEqual(endOf(spans[0]).exit._tag, "Failure")
    }))
})

describe("an event", () => {
  for (
    const [event, result] of [
      ["nothing", "ok"],
      ["later", "ok"],
      ["ok", "ok"],
      ["error", "error"],
      ["queued", "queued"],
      ["fail", "error"],
      ["broken", "crashed"],
      ["die", "crashed"]
    ] as const
  ) {
    traced(`${event} is a span with the result ${result}`, (spans) =>
      Effect.gen(function*() {
        const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
        yield* ChannelTest.push(room, event, { password: "secret" })
        yield* ChannelTest.settle
        if (result === "crashed") yield* ChannelTest.assertCrashed(room)
        assert.deepStrictEqual(spans.map(({ name }) => name), ["channels.join", "channels.handle_in"])
        assert.strictEqual(spans[1]?.kind, "server")
        assert.deepStrictEqual(attributesOf(spans[1]), {
          "channels.topic": "room:1",
          "channels.channel": "room:*",
          "channels.event": event,
          "channels.result": result
        })
      }))
  }

  traced(
    "of a contract has the status of its reply as the result, also where no handler has run",
    (spans) =>
      Effect.gen(function*() {
        const typed = ChannelTest.untyped(yield* ChannelTest.join(yield* connect, Typed, "typed:1", { n: 1 }))
        yield* ChannelTest.push(typed, "add", { n: 1 })
        yield* ChannelTest.push(typed, "add", { n: -1 })
        yield* ChannelTest.push(typed, "add", { n: "x" })
        yield* ChannelTest.push(typed, "subtract", { n: 1 })
        yield* ChannelTest.settle
        assert.deepStrictEqual(named(spans, "channels.handle_in").map(resultOf), ["ok", "error", "error", "error"])
      })
  )

  traced("is a span for as long as its handler works", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "sleep")
      yield* ChannelTest.settle
      yield* TestClock.adjust("3 seconds")
      const { endTime, startTime } = endOf(named(spans, "channels.handle_in")[0])
      assert.strictEqual(endTime - startTime, 3_000_000_000n)
    }))

  traced("is the parent of broadcasts and of the handler's own spans, however deep", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "work")
      yield* ChannelTest.settle
      const [handled] = named(spans, "channels.handle_in")
      const [work] = named(spans, "work")
      const broadcasts = named(spans, "channels.broadcast")
      assert.strictEqual(spans.length, 5)
      assert.strictEqual(parentOf(work), handled)
      assert.deepStrictEqual(broadcasts.map(parentOf), [handled, work])
      assert.strictEqual(broadcasts[0]?.kind, "producer")
      assert.deepStrictEqual(attributesOf(broadcasts[0]), {
        "channels.topic": "room:1",
        "channels.event": "news",
        "channels.result": "ok"
      })
    }))

  traced("is not the parent of what the channel does later", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "message to itself")
      yield* ChannelTest.settle
      assert.deepStrictEqual(spans.map(({ name }) => name), ["channels.join", "channels.handle_in", "info"])
      assert.isUndefined(parentOf(spans[2]))
    }))

  traced("ends its span when the channel is killed while it is handled", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "hang")
      yield* ChannelTest.settle
      assert.strictEqual(spans[1]?.status._tag, "Started")
      yield* Process.exit(room.pid, Process.killed)
      yield* ChannelTest.settle
      assert.strictEqual(resultOf(spans[1]), "interrupted")
      assert.strictEqual(endOf(spans[1]).exit._tag, "Failure")
    }))

  traced("ends its span when the client is gone and the shutdown time is over", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "hang")
      yield* ChannelTest.drop(room.socket)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(resultOf(spans[1]), "interrupted")
    }))

  traced("whose name or topic is long does not make a span of that size", (spans) =>
    Effect.gen(function*() {
      const long = "x".repeat(10_000)
      const room = yield* ChannelTest.join(yield* connect, Room, `room:${long}`)
      yield* ChannelTest.push(room, long)
      yield* ChannelTest.settle
      for (const span of spans) assert.isBelow(JSON.stringify(attributesOf(span)).length, 500)
    }))

  traced("of the protocol is no span: neither heartbeat nor leave", (spans) =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* connect, Room, "room:1")
      room.socket.server.receive("[null,\"9\",\"phoenix\",\"heartbeat\",{}]")
      yield* ChannelTest.leave(room)
      yield* ChannelTest.settle
      assert.deepStrictEqual(spans.map(({ name }) => name), ["channels.join"])
    }))

  traced("of a custom channel is a span too, whatever its name", (spans) =>
    Effect.gen(function*() {
      const raw = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      const { joinRef, socket, topic } = raw
      socket.server.receive(JSON.stringify([joinRef, null, topic, { toString: 1 }, {}]))
      yield* ChannelTest.settle
      const other = yield* ChannelTest.join(socket, Raw, "raw:2")
      yield* ChannelTest.push(other, "die")
      yield* ChannelTest.assertCrashed(other)
      assert.deepStrictEqual(spans.map(({ name }) => name), [
        "channels.join",
        "channels.handle_in",
        "inside",
        "channels.join",
        "channels.handle_in"
      ])
      assert.strictEqual(parentOf(spans[2]), spans[1])
      assert.deepStrictEqual(spans.map(resultOf), ["ok", "ok", undefined, "ok", "crashed"])
      assert.strictEqual(attributesOf(spans[1])["channels.channel"], "raw:*")
    }))
})

describe("a broadcast", () => {
  traced("from anywhere is a span below the one it is made in", (spans) =>
    Effect.gen(function*() {
      yield* Endpoint.broadcast("room:1", "news", {}).pipe(Effect.withSpan("cron"))
      yield* PubSub.broadcast("users", "no event")
      assert.deepStrictEqual(spans.map(({ name }) => name), ["cron", "channels.broadcast", "channels.broadcast"])
      assert.deepStrictEqual(spans.map(parentOf), [undefined, spans[0], undefined])
      assert.deepStrictEqual(attributesOf(spans[2]), { "channels.topic": "users", "channels.result": "ok" })
    }))
})

describe("without a Tracer", () => {
  /** Counts the spans of the tracer that Effect falls back to. */
  const counting = Effect.acquireRelease(
    Effect.sync(() => {
      const original = Tracer.nativeTracer.span
      const counted = { spans: 0 }
      Tracer.nativeTracer.span = function(options) {
        counted.spans++
        return original.call(this, options)
      }
      return { counted, original }
    }),
    ({ original }) =>
      Effect.sync(() => {
        Tracer.nativeTracer.span = original
      })
  )

  it.effect("there are no spans but those of the application", () =>
    Effect.gen(function*() {
      const { counted } = yield* counting
      const room = yield* ChannelTest.subscribeAndJoin(yield* connect, Room, "room:1")
      yield* ChannelTest.push(room, "ok")
      yield* Endpoint.broadcast("room:1", "news", {})
      yield* ChannelTest.settle
      assert.strictEqual(counted.spans, 0)
      yield* ChannelTest.push(room, "work")
      yield* ChannelTest.assertBroadcast(room, "news")
      yield* ChannelTest.settle
      assert.strictEqual(counted.spans, 1, "withSpan of the handler")
    }).pipe(Effect.provide(live)))

  it.live("a real request makes none either", () =>
    Effect.gen(function*() {
      const { counted } = yield* counting
      const server = yield* start([{ path: "/socket" }])
      const client = yield* Effect.promise(() =>
        Client.open(`ws://127.0.0.1:${server.port}/socket/websocket?vsn=2.0.0`)
      )
      yield* Effect.promise(() => client.join())
      yield* Effect.promise(() => client.ask(["1", "2", "room:1", "echo", {}]))
      assert.strictEqual(counted.spans, 0)
    }))
})

describe("a client that connects", () => {
  const traceId = "0af7651916cd43dd8448eb211c80319c"
  const spanId = "b7ad6b7169203331"
  const traceparent = `00-${traceId}-${spanId}-01`

  const serve = <A, E, R>(
    body: (spans: Array<Tracer.NativeSpan>, url: string) => Effect.Effect<A, E, R>,
    middleware = false
  ) => {
    const { layer, spans } = collector()
    return Effect.gen(function*() {
      const server = yield* start([{ path: "/socket", websocket: { middleware } }])
      yield* body(spans, `ws://127.0.0.1:${server.port}/socket/websocket?vsn=2.0.0&token=`)
    }).pipe(Effect.provide(layer))
  }

  it.live("goes on with its trace: connect is below it, joins and events are below connect", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        const client = yield* Effect.promise(() => Client.open(`${url}good`, { headers: { traceparent } }))
        yield* Effect.promise(() => client.join())
        yield* Effect.promise(() => client.ask(["1", "2", "room:1", "echo", {}]))
        assert.deepStrictEqual(spans.map(({ name }) => name), [
          "channels.connect",
          "channels.join",
          "channels.handle_in"
        ])
        const [connected] = spans
        assert.deepInclude(parentOf(connected), { _tag: "ExternalSpan", spanId, traceId })
        assert.strictEqual(connected?.kind, "server")
        assert.deepStrictEqual(attributesOf(connected), {
          "channels.socket": "user_socket",
          "channels.transport": "websocket",
          "channels.result": "ok"
        })
        assert.deepStrictEqual(spans.slice(1).map(parentOf), [connected, connected])
        assert.deepStrictEqual(spans.map((span) => span.traceId), [traceId, traceId, traceId])
        for (const span of spans) endOf(span)
      })
    ))

  it.live("without a trace begins one", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        yield* Effect.promise(() => Client.open(`${url}good`))
        assert.deepStrictEqual(spans.map(({ name }) => name), ["channels.connect"])
        assert.isUndefined(parentOf(spans[0]))
      })
    ))

  it.live("whose trace is not sampled has none of its spans sampled", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        const headers = { traceparent: `00-${traceId}-${spanId}-00` }
        const client = yield* Effect.promise(() => Client.open(`${url}good`, { headers }))
        yield* Effect.promise(() => client.join())
        assert.deepStrictEqual(spans.map(({ sampled }) => sampled), [false, false])
      })
    ))

  it.live("and is refused is a span that says so, without the parameters", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* Effect.promise(() => Client.refused(`${url}bad`)), 403)
        assert.deepStrictEqual(spans.map(resultOf), ["refused"])
        assert.notInclude(JSON.stringify(attributesOf(spans[0])), "bad")
      })
    ))

  it.live("through the router is a span beside the one of the HTTP server, where that is not switched off", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        yield* Effect.promise(() => Client.open(`${url}good`, { headers: { traceparent } }))
        assert.strictEqual(spans.length, 2)
        assert.deepStrictEqual(spans.map((span) => parentOf(span)?.spanId), [spanId, spanId])
        assert.strictEqual(named(spans, "channels.connect").length, 1)
      }), true))

  it.live("through the router is the only one where it is", () =>
    serve((spans, url) =>
      Effect.gen(function*() {
        yield* Effect.promise(() => Client.open(`${url}good`, { headers: { traceparent } }))
        assert.deepStrictEqual(spans.map(({ name }) => name), ["channels.connect"])
        assert.deepInclude(parentOf(spans[0]), { _tag: "ExternalSpan", spanId, traceId })
      }), true).pipe(
        Effect.provideService(HttpMiddleware.TracerDisabledWhen, (request) => request.url.startsWith("/socket/"))
      ))
})
