import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Layer, Logger, Metric } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Message from "../src/Message.ts"
import * as Process from "../src/Process.ts"
import * as Socket from "../src/Socket.ts"
import * as Telemetry from "../src/Telemetry.ts"
import { Client, start } from "./transport/server.ts"

const Room = Channel.make("room:*")
const Quiet = Channel.make("quiet:*")
const Raw = Channel.make("raw:*")

const RoomLive = Room.layer((room) =>
  Effect.gen(function*() {
    switch (room.topic) {
      case "room:refused":
        return yield* Effect.fail({ reason: "full" })
      case "room:refused badly":
        return yield* Effect.fail(1n)
      case "room:dead":
        return yield* Effect.die("no luck")
      case "room:slow":
        yield* Effect.sleep("30 millis")
    }
    return {
      reply: room.topic === "room:answered badly" ? 1n : {},
      handleIn: (event): Effect.Effect<Channel.Answer | Channel.NoReply | void, unknown> => {
        switch (event) {
          case "ok":
            return Effect.succeed(Channel.ok())
          case "fail":
            return Effect.fail("no")
          case "push":
            return Effect.andThen(room.push("one", {}), room.push("two", {}))
          case "broadcast":
            return Effect.andThen(room.broadcast("all", {}), room.broadcastFrom("others", {}))
          case "sleep":
            return Effect.sleep("40 millis")
          case "hang":
            return Effect.never
          case "die":
            return Effect.die("boom")
          case "stop":
            return room.stop()
          case "stop badly":
            return room.stop(Process.crash(Cause.die("boom")))
          default:
            return Effect.void
        }
      },
      terminate: () => room.topic === "room:ends badly" ? Effect.die("boom") : Effect.void
    }
  })
)
const QuietLive = Quiet.layer(() => Effect.succeed({}))
const RawLive = Raw.layerCustom((raw, payload) =>
  payload === "no" ? Effect.fail({}) : Effect.succeed({
    handleIn: ({ event, ref }) => {
      if (event === "die") return Effect.die("boom")
      return raw.send(
        event === "ok"
          ? Message.reply(raw.joinRef, ref, raw.topic, "ok", {})
          : Message.message(raw.joinRef, null, raw.topic, "echo", {})
      )
    }
  })
)

const UserSocket = Socket.make("user_socket", { channels: [Room, Quiet, Raw], maxChannels: 20 })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))
const live = Layer.mergeAll(RoomLive, QuietLive, RawLive, UserSocketLive).pipe(Layer.provideMerge(ChannelTest.layer))
const connect = ChannelTest.connect(UserSocket)

const room = { socket: "user_socket", channel: "room:*" }
const raw = { socket: "user_socket", channel: "raw:*" }
const client = { socket: "user_socket", transport: "test" }
const web = { socket: "user_socket", transport: "websocket" }

type Labels = Readonly<Record<string, string>>

const count = (metric: Metric.Counter<number>, labels: Labels) =>
  Effect.map(Metric.value(Metric.withAttributes(metric, labels)), ({ count }) => count)
const gauge = (metric: Metric.Gauge<number>, labels: Labels) =>
  Effect.map(Metric.value(Metric.withAttributes(metric, labels)), ({ value }) => value)
const durations = (metric: Metric.Histogram<number>, labels: Labels) =>
  Effect.map(Metric.value(Metric.withAttributes(metric, labels)), ({ count, max, sum }) => ({ count, max, sum }))

/** How many joins went well, were refused, and crashed. */
const joins = (labels: Labels) =>
  Effect.forEach(["ok", "refused", "crashed"], (result) => count(Telemetry.joins, { ...labels, result }))

/** A test of a node whose metrics are its own. */
const metered = <A, E>(
  name: string,
  body: Effect.Effect<A, E, Layer.Success<typeof live> | Effect.Services<typeof connect>>
) =>
  it.effect(name, () =>
    body.pipe(
      Effect.provide(live),
      Effect.provideService(Metric.MetricRegistry, new Map()),
      Effect.provide(Logger.layer([]))
    ))

const attempt = (socket: ChannelTest.TestSocket, topic: string, payload?: unknown) =>
  Effect.andThen(Effect.exit(ChannelTest.join(socket, topic, payload)), ChannelTest.settle)

describe("joins", () => {
  metered(
    "are counted by how they went, and by nothing else",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* attempt(socket, "room:1")
      yield* attempt(socket, "room:2")
      yield* attempt(socket, "room:refused")
      yield* attempt(socket, "room:dead")
      yield* attempt(socket, "quiet:1")
      assert.deepStrictEqual(yield* joins(room), [2, 1, 1])
      assert.deepStrictEqual(yield* joins({ ...room, channel: "quiet:*" }), [1, 0, 0])
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 2)
      assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 0)
    })
  )

  metered(
    "whose answer cannot be sent have crashed, for the client and here",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* attempt(socket, "room:answered badly")
      yield* attempt(socket, "room:refused badly")
      assert.deepStrictEqual(yield* joins(room), [0, 0, 2])
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 0)
      assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 0)
      assert.strictEqual((yield* durations(Telemetry.joinDuration, room)).count, 2)
    })
  )

  metered(
    "that are ended from outside were interrupted",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* Effect.forkChild(attempt(socket, "room:slow"), { startImmediately: true })
      yield* ChannelTest.settle
      for (const { pid } of yield* Endpoint.channels(socket.server.pid)) yield* Process.exit(pid, Process.killed)
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* joins(room), [0, 0, 0])
      assert.strictEqual(yield* count(Telemetry.joins, { ...room, result: "interrupted" }), 1)
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 0)
    })
  )

  metered(
    "take as long as the clock says, whatever their result",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* Effect.forkChild(attempt(socket, "room:slow"), { startImmediately: true })
      yield* ChannelTest.settle
      yield* TestClock.adjust("30 millis")
      yield* attempt(socket, "room:refused")
      yield* attempt(socket, "room:dead")
      assert.deepStrictEqual(yield* durations(Telemetry.joinDuration, room), { count: 3, max: 30, sum: 30 })
    })
  )

  metered(
    "of a topic that no channel serves, and one too many, are no joins",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* attempt(socket, "nobody")
      for (let i = 0; i < 21; i++) yield* attempt(socket, `room:${i}`)
      assert.deepStrictEqual(yield* joins(room), [20, 0, 0])
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 20)
    })
  )

  metered(
    "of a topic that is joined already count, and the gauge stays",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* attempt(socket, "room:1")
      yield* attempt(socket, "room:1")
      assert.deepStrictEqual(yield* joins(room), [2, 0, 0])
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 1)
      assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 0)
    })
  )
})

describe("events", () => {
  metered(
    "count, with their replies, pushes and broadcasts",
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.join(yield* connect, Room, "room:1")
      for (const event of ["ok", "fail", "push", "broadcast", "nothing"]) yield* ChannelTest.push(channel, event)
      yield* Endpoint.broadcast("room:1", "not by a channel", {})
      yield* ChannelTest.settle
      assert.strictEqual(yield* count(Telemetry.messagesReceived, room), 5)
      assert.strictEqual(yield* count(Telemetry.replies, room), 2)
      assert.strictEqual(yield* count(Telemetry.pushes, room), 2)
      assert.strictEqual(yield* count(Telemetry.broadcasts, room), 2)
      assert.strictEqual((yield* durations(Telemetry.handleInDuration, room)).count, 5)
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.strictEqual(yield* count(Telemetry.messagesReceived, room), 6, "the leave is one too")
      assert.strictEqual(yield* count(Telemetry.replies, room), 3)
      assert.strictEqual((yield* durations(Telemetry.handleInDuration, room)).count, 5, "but nothing handles it")
    })
  )

  metered(
    "that reach no channel do not count",
    Effect.gen(function*() {
      const socket = yield* connect
      socket.server.receive("[null,\"1\",\"phoenix\",\"heartbeat\",{}]")
      socket.server.receive("[null,\"2\",\"room:1\",\"ok\",{}]")
      yield* ChannelTest.settle
      assert.strictEqual(yield* count(Telemetry.messagesReceived, room), 0)
      assert.strictEqual(yield* count(Telemetry.replies, room), 0)
    })
  )

  metered(
    "take as long as the clock says, also those that crash",
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* ChannelTest.push(channel, "sleep")
      yield* ChannelTest.settle
      yield* TestClock.adjust("40 millis")
      yield* ChannelTest.push(channel, "die")
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* durations(Telemetry.handleInDuration, room), { count: 2, max: 40, sum: 40 })
      yield* ChannelTest.assertCrashed(channel)
    })
  )
})

describe("the channels of a custom channel", () => {
  metered(
    "are counted as all others are, with what they send",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* attempt(socket, "raw:1", "no")
      const channel = yield* ChannelTest.join(socket, Raw, "raw:1")
      assert.deepStrictEqual(yield* joins(raw), [1, 1, 0])
      assert.strictEqual(yield* gauge(Telemetry.channels, raw), 1)
      for (const event of ["ok", "echo", "echo", "phx_leave", "die"]) yield* ChannelTest.push(channel, event)
      yield* ChannelTest.settle
      assert.strictEqual(yield* count(Telemetry.messagesReceived, raw), 5)
      assert.strictEqual((yield* durations(Telemetry.handleInDuration, raw)).count, 5)
      assert.strictEqual(yield* count(Telemetry.replies, raw), 1)
      assert.strictEqual(yield* count(Telemetry.pushes, raw), 3)
      assert.strictEqual(yield* count(Telemetry.channelCrashes, raw), 1)
      yield* ChannelTest.assertCrashed(channel)
      assert.strictEqual(yield* gauge(Telemetry.channels, raw), 0)
    })
  )
})

describe("endings", () => {
  for (const event of ["die", "stop badly"]) {
    metered(
      `${event} is a crash`,
      Effect.gen(function*() {
        const channel = yield* ChannelTest.join(yield* connect, Room, "room:1")
        yield* ChannelTest.push(channel, event)
        yield* ChannelTest.assertCrashed(channel)
        assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 1)
        assert.strictEqual(yield* gauge(Telemetry.channels, room), 0)
      })
    )
  }

  metered(
    "that crash in terminate are crashes",
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Room, "room:ends badly")
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.assertCrashed(channel)
      assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 1)
    })
  )

  metered(
    "by leave, stop, kill and a lost connection are none",
    Effect.gen(function*() {
      const socket = yield* connect
      yield* ChannelTest.leave(yield* ChannelTest.join(socket, Room, "room:1"))
      yield* ChannelTest.push(yield* ChannelTest.join(socket, Room, "room:2"), "stop")
      yield* Process.exit((yield* ChannelTest.join(socket, Room, "room:3")).pid, Process.killed)
      yield* ChannelTest.join(socket, Room, "room:4")
      yield* ChannelTest.drop(socket)
      yield* ChannelTest.settle
      assert.strictEqual(yield* count(Telemetry.channelCrashes, room), 0)
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 0)
    })
  )
})

describe("mailboxes", () => {
  metered(
    "show what waits for a handler that hangs, and are empty when it is gone",
    Effect.gen(function*() {
      const socket = yield* connect
      const one = yield* ChannelTest.join(socket, Room, "room:1")
      const two = yield* ChannelTest.join(yield* connect, Room, "room:2")
      const waiting = Effect.andThen(
        ChannelTest.settle,
        Effect.all([gauge(Telemetry.mailboxMessages, room), gauge(Telemetry.longestMailbox, room)])
      )
      assert.deepStrictEqual(yield* waiting, [0, 0])
      for (let i = 0; i <= 5; i++) yield* ChannelTest.push(one, "hang")
      for (let i = 0; i <= 2; i++) yield* ChannelTest.push(two, "hang")
      assert.deepStrictEqual(yield* waiting, [7, 5])
      yield* Process.send(two.pid, "from elsewhere")
      assert.deepStrictEqual(yield* waiting, [8, 5])
      assert.strictEqual(yield* gauge(Telemetry.mailboxMessages, raw), 0)
      yield* Process.exit(one.pid, Process.killed)
      assert.deepStrictEqual(yield* waiting, [3, 3])
      yield* ChannelTest.drop(two.socket)
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* waiting, [0, 0])
    })
  )
})

describe("gauges", () => {
  metered(
    "settle to zero after churn with crashes and kills",
    Effect.gen(function*() {
      const topics = ["room:1", "room:2", "room:refused", "room:dead", "raw:1", "room:answered badly", "nobody"]
      const endings = ["die", "stop", "phx_leave", "hang", "nothing", "stop badly"]
      for (let round = 0; round < 24; round++) {
        const socket = yield* connect
        yield* ChannelTest.allowCrashes(socket)
        for (const topic of topics) yield* attempt(socket, topic)
        const pids = (yield* Endpoint.channels(socket.server.pid)).map(({ pid }) => pid)
        const [pid = socket.server.pid] = pids
        for (const { joinRef, topic } of socket.server.channels) {
          socket.server.receive(JSON.stringify([joinRef, "9", topic, endings[round % endings.length], {}]))
        }
        if (round % 2 === 0) yield* Process.exit(pid, Process.killed)
        if (round % 3 === 0) yield* attempt(socket, "room:2")
        yield* ChannelTest.settle
        if (round % 4 === 0) yield* Process.exit(socket.server.pid, Process.killed)
        else if (round % 4 === 1) socket.server.receive("no message")
        else yield* ChannelTest.drop(socket)
      }
      yield* ChannelTest.settle
      yield* TestClock.adjust("5 seconds")
      yield* ChannelTest.settle
      assert.isAbove(yield* count(Telemetry.channelCrashes, room), 0)
      assert.strictEqual(yield* count(Telemetry.malformedFrames, client), 6)
      for (const labels of [room, raw]) {
        assert.strictEqual(yield* gauge(Telemetry.channels, labels), 0)
        assert.strictEqual(yield* gauge(Telemetry.mailboxMessages, labels), 0)
        assert.strictEqual(yield* gauge(Telemetry.longestMailbox, labels), 0)
      }
      assert.strictEqual(yield* gauge(Telemetry.connections, client), 0)
    })
  )

  metered(
    "of all mounts of a socket are one",
    Effect.gen(function*() {
      yield* ChannelTest.join(yield* connect, Room, "room:1")
      const other = yield* connect
      yield* ChannelTest.join(other, Room, "room:2")
      assert.strictEqual(yield* gauge(Telemetry.connections, client), 2)
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 2)
      yield* ChannelTest.drop(other)
      assert.strictEqual(yield* gauge(Telemetry.connections, client), 1)
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 1)
    })
  )
})

describe("labels", () => {
  metered(
    "are names of the application: nothing that a client chooses makes a new series",
    Effect.gen(function*() {
      yield* ChannelTest.join(yield* connect, Room, "room:1")
      const before = (yield* Metric.snapshot).length
      for (let i = 0; i < 20; i++) {
        const socket = yield* ChannelTest.connect(UserSocket, { evil: `evil ${i}` }, { userAgent: `evil ${i}` })
        yield* ChannelTest.allowCrashes(socket)
        const channel = yield* ChannelTest.join(socket, Room, `room:evil ${i}`, { evil: `evil ${i}` })
        for (const event of [`evil ${i}`, "ok", "push", "broadcast", "die"]) yield* ChannelTest.push(channel, event)
        yield* attempt(socket, `evil ${i}`)
        yield* attempt(socket, `raw:evil ${i}`)
        yield* ChannelTest.drop(socket)
      }
      const series = yield* Metric.snapshot
      assert.strictEqual(series.length, before)
      const values = new Set(series.flatMap(({ attributes }) => Object.entries(attributes ?? {}).map(String)))
      assert.deepStrictEqual([...values].sort(), [
        "channel,quiet:*",
        "channel,raw:*",
        "channel,room:*",
        "limit,address",
        "limit,backlog",
        "limit,byte_rate",
        "limit,channels",
        "limit,connect_timeout",
        "limit,connections",
        "limit,event",
        "limit,heartbeats",
        "limit,inflate_rate",
        "limit,inflated",
        "limit,infos",
        "limit,joins",
        "limit,mailbox",
        "limit,messages",
        "limit,stalled",
        "limit,topic",
        "limit,total_backlog",
        "limit,unpolled",
        "limit,values",
        "result,crashed",
        "result,interrupted",
        "result,ok",
        "result,refused",
        "socket,user_socket",
        "transport,test"
      ])
    })
  )
})

describe("on a real connection", () => {
  const text = (frame: unknown) => Buffer.byteLength(JSON.stringify(frame))

  it.live("connects, frames and bytes are counted, and those who are sent away when the server stops", () =>
    Effect.gen(function*() {
      const server = yield* start([{ path: "/socket" }, { path: "/other" }])
      const url = (mount: string, token: string) =>
        `ws://127.0.0.1:${server.port}/${mount}/websocket?vsn=2.0.0&token=${token}`
      const one = yield* Effect.promise(() => Client.open(url("socket", "good")))
      const two = yield* Effect.promise(() => Client.open(url("other", "good")))
      yield* Effect.promise(() => Client.refused(url("socket", "bad")))
      assert.strictEqual((yield* durations(Telemetry.connectDuration, web)).count, 3)
      yield* Effect.promise(() => Client.refused(url("socket", "die")))
      // Turned away before anybody asks who it is.
      yield* Effect.promise(() => Client.refused(url("socket", "good"), { headers: { origin: "https://evil.test" } }))
      const connects = Effect.forEach(
        ["ok", "refused", "crashed"],
        (result) => count(Telemetry.connects, { ...web, result })
      )
      assert.deepStrictEqual(yield* connects, [2, 1, 1])
      assert.strictEqual(yield* gauge(Telemetry.connections, web), 2)

      const sent = [[null, "1", "phoenix", "heartbeat", {}], ["2", "2", "room:ä", "phx_join", {}]]
      const received = [
        yield* Effect.promise(() => one.ask(sent[0] ?? [])),
        yield* Effect.promise(() => two.ask(sent[1] ?? []))
      ]
      assert.strictEqual(yield* count(Telemetry.framesReceived, web), 2)
      assert.strictEqual(yield* count(Telemetry.bytesReceived, web), text(sent[0]) + text(sent[1]))
      assert.strictEqual(yield* count(Telemetry.framesSent, web), 2)
      assert.strictEqual(yield* count(Telemetry.bytesSent, web), text(received[0]) + text(received[1]))

      yield* server.stop
      yield* Effect.promise(() => Promise.all([one.closed, two.closed]))
      assert.strictEqual(yield* count(Telemetry.drainedConnections, web), 2)
      assert.strictEqual(yield* gauge(Telemetry.connections, web), 0)
      assert.strictEqual(yield* gauge(Telemetry.channels, room), 0)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.live("frames that are no message are counted, and end only their own connection", () =>
    Effect.gen(function*() {
      const server = yield* start([{ path: "/socket" }])
      const client = yield* Effect.promise(() =>
        Client.open(`ws://127.0.0.1:${server.port}/socket/websocket?vsn=2.0.0`)
      )
      client.send("garbage")
      yield* Effect.promise(() => client.closed)
      assert.strictEqual(yield* count(Telemetry.malformedFrames, web), 1)
      assert.strictEqual(yield* count(Telemetry.framesReceived, web), 1)
      assert.strictEqual(yield* gauge(Telemetry.connections, web), 0)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})
