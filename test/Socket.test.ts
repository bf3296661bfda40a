import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Layer, Logger, References, Result } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

const silent = Logger.layer([])

/** What is logged but for connects and joins. */
const capture = () => {
  const lines: Array<{ level: string; message: unknown; annotations: Readonly<Record<string, unknown>> }> = []
  const layer = Logger.layer([
    Logger.make(({ fiber, logLevel, message }) => {
      if (logLevel === "Info") return
      const text = Array.isArray(message) ? message[0] : message
      lines.push({ level: logLevel, message: text, annotations: fiber.getRef(References.CurrentLogAnnotations) })
    })
  ])
  return { lines, layer }
}

/** What the channel below has gone through, by topic. */
const ended: Array<readonly [topic: string, reason: Process.ExitReason]> = []
let gate = Deferred.makeUnsafe<void>()

type Join = (
  room: Channel.Self,
  payload: unknown
) => Effect.Effect<Channel.Handlers<Channel.Untyped, Process.Own>, unknown, Process.Own>

const join: Join = Effect.fnUntraced(function*(room, payload) {
  if (payload === "refuse") return yield* Effect.fail({ reason: "no" })
  if (payload === "crash") return yield* Effect.die("crash")
  if (payload === "wait") yield* Deferred.await(gate)
  return {
    reply: payload === "name" ? { pattern: "room:*" } : {},
    handleIn: (event, payload) => {
      switch (event) {
        case "slow":
          return Effect.as(Effect.sleep("1 minute"), Channel.ok())
        case "die":
          return Effect.die("die")
        case "shout":
          return Effect.asVoid(room.broadcast("shout", payload))
        case "push":
          return Effect.asVoid(room.push("pushed", payload))
        default:
          return Effect.succeed(Channel.ok({ event }))
      }
    },
    terminate: (reason) => Effect.sync(() => void ended.push([room.topic, reason]))
  }
})

const Room = Channel.make("room:*")
const Exact = Channel.make("room:exact")
const Prefix = Channel.make("pre*")
const Late = Channel.make("room:late")
const says = (pattern: string): Join => () => Effect.succeed({ reply: { pattern } })

const Everything = Socket.make("everything", { channels: [Exact, Room, Prefix, Late], maxChannels: 3 })

const channelsLive = Layer.mergeAll(
  Room.layer(join),
  Exact.layer(says("room:exact")),
  Prefix.layer(says("pre*")),
  Late.layer(says("room:late"))
)
const live = Layer.mergeAll(channelsLive, Everything.layer(() => Effect.succeed(Socket.accept()))).pipe(
  Layer.provideMerge(ChannelTest.layer)
)

/** A connection of which the test sees every frame. */
const open = Effect.fnUntraced(function*(
  options: { readonly serializer?: Serializer.Serializer; readonly id?: string } = {}
) {
  ended.length = 0
  gate = Deferred.makeUnsafe<void>()
  const acceptor = yield* Socket.acceptor(Everything)
  const received: Array<unknown> = []
  const codes: Array<number> = []
  const server = acceptor.open(
    {
      name: "test",
      // What is written to a closed connection goes nowhere.
      send: (frame) => {
        if (codes.length === 0) received.push(typeof frame === "string" ? JSON.parse(frame) : frame)
      },
      close: (code) => void codes.push(code)
    },
    options.serializer ?? Serializer.v2,
    { id: options.id, assigns: Context.empty() }
  )
  const take = Effect.map(ChannelTest.settle, () => received.splice(0))
  /** Sends a frame; what comes back. */
  const send = (...frame: ReadonlyArray<unknown>) =>
    Effect.andThen(Effect.sync(() => server.receive(JSON.stringify(frame))), take)
  return { server, codes, send, take, drain: acceptor.drain }
})

const ok = (joinRef: unknown, ref: unknown, topic: unknown, response: unknown = {}) =>
  [joinRef, ref, topic, "phx_reply", { status: "ok", response }] as const
const failed = (joinRef: unknown, ref: unknown, topic: unknown, reason: string) =>
  [joinRef, ref, topic, "phx_reply", { status: "error", response: { reason } }] as const
const close = (joinRef: unknown, topic: string) => [joinRef, joinRef, topic, "phx_close", {}] as const
const error = (joinRef: unknown, topic: string) =>
  [joinRef, joinRef, topic, "phx_error", { reason: "channel_crash" }] as const

describe("dispatch", () => {
  it.effect("a heartbeat is answered with join_ref null, whatever it carries", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      assert.deepStrictEqual(yield* send(null, "9", "phoenix", "heartbeat", {}), [ok(null, "9", "phoenix")])
      assert.deepStrictEqual(yield* send("1", 7, "phoenix", "heartbeat", "x"), [ok(null, 7, "phoenix")])
      assert.deepStrictEqual(yield* send("1", null, "phoenix", "other", {}), [
        failed(null, null, "phoenix", "unmatched topic")
      ])
    }).pipe(Effect.provide(live)))

  it.effect("a heartbeat is answered while channels are busy, and overtakes their replies", () =>
    Effect.gen(function*() {
      const { send, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      assert.deepStrictEqual(yield* send("1", "2", "room:1", "slow", {}), [])
      assert.deepStrictEqual(yield* send(null, "3", "phoenix", "heartbeat", {}), [ok(null, "3", "phoenix")])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* take, [ok("1", "2", "room:1")])
    }).pipe(Effect.provide(live)))

  it.effect("channels do not wait for each other, and each keeps the order of its messages", () =>
    Effect.gen(function*() {
      const { send, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      yield* send("2", "2", "room:2", "phx_join", {})
      assert.deepStrictEqual(yield* send("1", "3", "room:1", "slow", {}), [])
      assert.deepStrictEqual(yield* send("1", "4", "room:1", "x", {}), [])
      assert.deepStrictEqual(yield* send("2", "5", "room:2", "x", {}), [ok("2", "5", "room:2", { event: "x" })])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* take, [ok("1", "3", "room:1"), ok("1", "4", "room:1", { event: "x" })])
    }).pipe(Effect.provide(live)))

  it.effect("the first channel that matches serves a topic; a star matches nothing too, and needs no colon", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      const pattern = (ref: string, topic: string) => send(ref, ref, topic, "phx_join", "name")
      assert.deepStrictEqual(yield* pattern("1", "room:exact"), [ok("1", "1", "room:exact", { pattern: "room:exact" })])
      assert.deepStrictEqual(yield* pattern("2", "room:late"), [ok("2", "2", "room:late", { pattern: "room:*" })])
      assert.deepStrictEqual(yield* pattern("3", "pre"), [ok("3", "3", "pre", { pattern: "pre*" })])
      yield* send("2", "4", "room:late", "phx_leave", {})
      assert.deepStrictEqual(yield* pattern("5", "room:"), [ok("5", "5", "room:", { pattern: "room:*" })])
    }).pipe(Effect.provide(live)))

  it.effect("a topic that no channel serves is unmatched, with join_ref null, and warned of", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const { send } = yield* open()
      for (const topic of ["rooms", "room", "user_socket:1", "", "phoenix", "__proto__"]) {
        assert.deepStrictEqual(yield* send("1", "1", topic, "phx_join", {}), [
          failed(null, "1", topic, "unmatched topic")
        ])
      }
      assert.deepStrictEqual(new Set(lines.map(({ level }) => level)), new Set(["Warn"]))
      assert.strictEqual(lines[0]?.annotations["topic"], "rooms")
    }).pipe(Effect.provide(live), Effect.provide(layer))
  })

  it.effect("topics, events and refs of any JSON type are answered and echoed", () =>
    Effect.gen(function*() {
      const { codes, send } = yield* open()
      for (const odd of [null, 1, true, ["a"], { a: 1 }]) {
        assert.deepStrictEqual(yield* send(odd, odd, odd, "x", {}), [failed(null, odd, odd, "unmatched topic")])
        assert.deepStrictEqual(yield* send(odd, odd, odd, "phx_join", {}), [failed(null, odd, odd, "unmatched topic")])
        assert.deepStrictEqual(yield* send(odd, odd, odd, "phx_leave", {}), [ok(odd, odd, odd)])
        assert.deepStrictEqual(yield* send(null, odd, "room:x", odd, {}), [
          failed(null, odd, "room:x", "unmatched topic")
        ])
      }
      assert.deepStrictEqual(codes, [])
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("an event before the join is unmatched, a leave is ok, both as they were asked", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      assert.deepStrictEqual(yield* send("8", "1", "room:1", "x", {}), [failed(null, "1", "room:1", "unmatched topic")])
      assert.deepStrictEqual(yield* send("8", "2", "room:1", "phx_leave", {}), [ok("8", "2", "room:1")])
      assert.deepStrictEqual(yield* send(null, "3", "nowhere", "phx_leave", {}), [ok(null, "3", "nowhere")])
    }).pipe(Effect.provide(live)))

  it.effect("a stale join_ref is dropped without a word, for events and for leave; null always passes", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send("2", "2", "room:1", "phx_join", {})
      for (const stale of ["1", 2, "", false, {}]) {
        assert.deepStrictEqual(yield* send(stale, "3", "room:1", "x", {}), [])
        assert.deepStrictEqual(yield* send(stale, "3", "room:1", "phx_leave", {}), [])
      }
      assert.deepStrictEqual(yield* send(null, "4", "room:1", "x", {}), [ok("2", "4", "room:1", { event: "x" })])
      assert.deepStrictEqual(yield* send("2", "5", "room:1", "x", {}), [ok("2", "5", "room:1", { event: "x" })])
      assert.deepStrictEqual(yield* send(null, "6", "room:1", "phx_leave", {}), [
        ok("2", "6", "room:1"),
        close("2", "room:1")
      ])
    }).pipe(Effect.provide(live)))

  it.effect("a binary push with an empty join_ref is stale", () =>
    Effect.gen(function*() {
      const { server, take, send } = yield* open()
      yield* send("1", "1", "r", "phx_join", {})
      yield* send("1", "1", "room:1", "phx_join", {})
      const push = (joinRef: string) =>
        server.receive(Uint8Array.from([
          0,
          joinRef.length,
          1,
          6,
          1,
          ...Buffer.from(`${joinRef}2room:1x`),
          9
        ]))
      push("")
      assert.deepStrictEqual(yield* take, [])
      push("1")
      assert.deepStrictEqual(yield* take, [ok("1", "2", "room:1", { event: "x" })])
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("a join without join_ref: replies, close and error carry null, pushes and answers the join's ref", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      assert.deepStrictEqual(yield* send(null, "7", "room:1", "phx_join", {}), [ok(null, "7", "room:1")])
      assert.deepStrictEqual(yield* send("7", "8", "room:1", "x", {}), [])
      assert.deepStrictEqual(yield* send(null, "8", "room:1", "x", {}), [ok("7", "8", "room:1", { event: "x" })])
      assert.deepStrictEqual(yield* send(null, "9", "room:1", "push", {}), [["7", null, "room:1", "pushed", {}]])
      assert.deepStrictEqual(yield* send(null, "10", "room:1", "phx_leave", {}), [
        ok("7", "10", "room:1"),
        close(null, "room:1")
      ])
      yield* send(null, "11", "room:1", "phx_join", {})
      assert.deepStrictEqual(yield* send(null, "12", "room:1", "die", {}), [error(null, "room:1")])
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("ref and join_ref of a join may differ: both are echoed", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      assert.deepStrictEqual(yield* send("1", "11", "room:1", "phx_join", {}), [ok("1", "11", "room:1")])
      assert.deepStrictEqual(yield* send("1", "12", "room:1", "die", {}), [error("1", "room:1")])
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("V1 clients get objects without join_ref", () =>
    Effect.gen(function*() {
      const { server, take } = yield* open({ serializer: Serializer.v1 })
      const send = (event: string, ref: string | null, payload: unknown) =>
        Effect.andThen(
          Effect.sync(() => server.receive(JSON.stringify({ topic: "room:1", event, payload, ref }))),
          take
        )
      const frame = (event: string, ref: string | null, payload: unknown) => ({ topic: "room:1", event, ref, payload })
      assert.deepStrictEqual(yield* send("phx_join", "1", {}), [
        frame("phx_reply", "1", { status: "ok", response: {} })
      ])
      assert.deepStrictEqual(yield* send("shout", "2", [1]), [frame("shout", null, [1])])
      assert.deepStrictEqual(yield* send("phx_leave", "3", {}), [
        frame("phx_reply", "3", { status: "ok", response: {} }),
        frame("phx_close", null, {})
      ])
    }).pipe(Effect.provide(live)))
})

describe("joining", () => {
  it.effect("holds up all other frames until it is done", () =>
    Effect.gen(function*() {
      const { send, take } = yield* open()
      assert.deepStrictEqual(yield* send("1", "1", "room:1", "phx_join", "wait"), [])
      assert.deepStrictEqual(yield* send(null, "2", "phoenix", "heartbeat", {}), [ok(null, "2", "phoenix")])
      assert.deepStrictEqual(yield* send("1", "3", "room:1", "x", {}), [])
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(yield* take, [
        ok("1", "1", "room:1"),
        ok("1", "3", "room:1", { event: "x" })
      ])
    }).pipe(Effect.provide(live)))

  it.effect("that is refused or crashes leaves the topic unjoined, and may be tried again", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      assert.deepStrictEqual(yield* send("1", "1", "room:1", "phx_join", "refuse"), [failed("1", "1", "room:1", "no")])
      assert.deepStrictEqual(yield* send("1", "2", "room:1", "x", {}), [failed(null, "2", "room:1", "unmatched topic")])
      assert.deepStrictEqual(yield* send("3", "3", "room:1", "phx_join", "crash"), [
        failed("3", "3", "room:1", "join crashed")
      ])
      assert.deepStrictEqual(yield* send("4", "4", "room:1", "phx_join", {}), [ok("4", "4", "room:1")])
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("a duplicate join ends the old channel: new reply, phx_close with the old join_ref, then the new one", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      yield* send("1", "2", "room:1", "slow", {})
      assert.deepStrictEqual(yield* send("3", "3", "room:1", "phx_join", {}), [
        ok("3", "3", "room:1"),
        close("1", "room:1")
      ])
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("duplicate_join")]])
      assert.deepStrictEqual(yield* send("1", "4", "room:1", "x", {}), [])
      assert.deepStrictEqual(yield* send("3", "5", "room:1", "x", {}), [ok("3", "5", "room:1", { event: "x" })])
      assert.strictEqual((yield* PubSub.PubSub).subscriberCount("room:1"), 1)
    }).pipe(Effect.provide(live)))

  it.effect("a duplicate join that fails still ends the old channel", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      assert.deepStrictEqual(yield* send("2", "2", "room:1", "phx_join", "refuse"), [
        failed("2", "2", "room:1", "no"),
        close("1", "room:1")
      ])
      assert.deepStrictEqual(yield* send("1", "3", "room:1", "x", {}), [failed(null, "3", "room:1", "unmatched topic")])
    }).pipe(Effect.provide(live)))

  it.effect("frames that were sent along with a duplicate join reach the channel they name", () =>
    Effect.gen(function*() {
      const { server, take } = yield* open()
      const frames = [
        ["1", "1", "room:1", "phx_join", {}],
        ["1", "2", "room:1", "x", {}],
        ["3", "3", "room:1", "phx_join", "wait"],
        ["3", "4", "room:1", "x", {}]
      ]
      for (const frame of frames) server.receive(JSON.stringify(frame))
      yield* ChannelTest.settle
      yield* Deferred.succeed(gate, undefined)
      const received = yield* take
      assert.deepStrictEqual(received.slice(-3), [
        ok("3", "3", "room:1"),
        close("1", "room:1"),
        ok("3", "4", "room:1", { event: "x" })
      ])
    }).pipe(Effect.provide(live)))

  it.effect("more than maxChannels is refused and logged, until one is left; a duplicate is none too many", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const { send } = yield* open()
      for (const n of ["1", "2", "3"]) yield* send(n, n, `room:${n}`, "phx_join", {})
      assert.deepStrictEqual(yield* send("4", "4", "room:4", "phx_join", {}), [
        failed("4", "4", "room:4", "too many channels joined")
      ])
      assert.deepStrictEqual(lines.map(({ level }) => level), ["Error"])
      assert.deepStrictEqual(yield* send("5", "5", "room:3", "phx_join", {}), [
        ok("5", "5", "room:3"),
        close("3", "room:3")
      ])
      yield* send("1", "6", "room:1", "phx_leave", {})
      assert.deepStrictEqual(yield* send("7", "7", "room:4", "phx_join", {}), [ok("7", "7", "room:4")])
    }).pipe(Effect.provide(live), Effect.provide(layer))
  })

  it("allows a hundred channels unless told otherwise", () => {
    assert.strictEqual(Socket.make("default", { channels: [] }).maxChannels, 100)
  })

  it.effect("a reference that is nested too deep to be echoed ends no more than its own connection", () => {
    const Slow = Channel.make("slow")
    const SlowSocket = Socket.make("slow", { channels: [Slow] })
    const layer = Layer.mergeAll(
      Slow.layer(() => Effect.as(Effect.sleep("1 second"), {})),
      SlowSocket.layer(() => Effect.succeed(Socket.accept()))
    ).pipe(Layer.provideMerge(ChannelTest.layer))
    const deep = `${"[".repeat(50_000)}${"]".repeat(50_000)}`
    return Effect.gen(function*() {
      const acceptor = yield* Socket.acceptor(SlowSocket)
      const transport = { name: "test", send: () => {}, close: () => {} }
      for (const event of ["phx_join", "x", "phx_leave"]) {
        const server = acceptor.open(transport, Serializer.v2, { id: undefined, assigns: Context.empty() })
        server.receive(`[${deep},${deep},"slow","${event}",{}]`)
        yield* TestClock.adjust("1 second")
        server.receive(`[${deep},"2","slow","phx_leave",{}]`)
        server.receive(`["1","1","phoenix","heartbeat",{}]`)
        yield* TestClock.adjust("1 second")
      }
      const client = yield* ChannelTest.connect(SlowSocket)
      client.server.receive("[null,\"1\",\"phoenix\",\"heartbeat\",{}]")
      yield* ChannelTest.settle
      assert.strictEqual(client.received.length, 1)
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })
})

describe("frames in one packet", () => {
  it.effect("what is sent before a join of the same topic is handled before it", () =>
    Effect.gen(function*() {
      const { send, server, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      const frames = [
        ["1", "2", "room:1", "a", {}],
        ["1", "3", "room:1", "b", {}],
        ["4", "4", "room:1", "phx_join", {}]
      ]
      for (const frame of frames) server.receive(JSON.stringify(frame))
      assert.deepStrictEqual(yield* take, [
        ok("1", "2", "room:1", { event: "a" }),
        ok("1", "3", "room:1", { event: "b" }),
        ok("4", "4", "room:1"),
        close("1", "room:1")
      ])
    }).pipe(Effect.provide(live)))

  it.effect("a leave and a join: the leave has its reply and its close, the join starts anew", () =>
    Effect.gen(function*() {
      const { send, server, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      server.receive(JSON.stringify(["1", "2", "room:1", "phx_leave", {}]))
      server.receive(JSON.stringify(["3", "3", "room:1", "phx_join", {}]))
      assert.deepStrictEqual(yield* take, [ok("1", "2", "room:1"), close("1", "room:1"), ok("3", "3", "room:1")])
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("left")]])
    }).pipe(Effect.provide(live)))
})

describe("what cannot be answered", () => {
  it.effect("a join whose ref is nested too deeply to be written ends the connection", () =>
    Effect.gen(function*() {
      const { codes, server, take } = yield* open()
      const deep = "[".repeat(100_000) + "]".repeat(100_000)
      server.receive(`["1",${deep},"room:1","phx_join",{}]`)
      assert.deepStrictEqual(yield* take, [])
      assert.deepStrictEqual(codes, [1011])
      assert.strictEqual((yield* Process.stats).timers, 0)
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("an event that is no name calls no handler that is called like it", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      assert.deepStrictEqual(yield* send("1", "2", "room:1", ["shout"], {}), [
        ok("1", "2", "room:1", { event: "[\"shout\"]" })
      ])
    }).pipe(Effect.provide(live)))

  it.effect("a malformed frame is one line in the log, without what was sent, whose crash is not told twice", () => {
    const { layer: logged, lines } = capture()
    return Effect.gen(function*() {
      const { codes, server, take } = yield* open()
      server.receive("my secret")
      yield* take
      assert.deepStrictEqual(codes, [1011])
      assert.strictEqual(lines.length, 1)
      assert.strictEqual(lines[0]?.annotations["code"], "invalid_json")
      assert.notInclude(String(lines[0]?.message), "secret")
    }).pipe(Effect.provide(live), Effect.provide(logged))
  })
})

describe("the end of a connection", () => {
  it.effect("is a frame that is no message: 1011, and its channels end with the crash", () =>
    Effect.gen(function*() {
      for (
        const frame of [
          "",
          "{",
          "{}",
          "[]",
          "[1,2,3,4]",
          "null",
          new Uint8Array(),
          new Uint8Array([0, 9]),
          new Uint8Array([1])
        ]
      ) {
        const { codes, send, server, take } = yield* open()
        yield* send("1", "1", "room:1", "phx_join", {})
        server.receive(frame)
        server.receive(JSON.stringify([null, "1", "phoenix", "heartbeat", {}]))
        assert.deepStrictEqual(yield* take, [])
        assert.deepStrictEqual(codes, [1011])
        assert.deepStrictEqual(ended.map(([topic, { _tag }]) => [topic, _tag]), [["room:1", "Crash"]])
        assert.isFalse(server.process.alive)
      }
    }).pipe(Effect.provide(live), Effect.provide(silent)))

  it.effect("is logged once when it is the client's fault", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const { send, server, take } = yield* open({ id: "user:1" })
      yield* send("1", "1", "room:1", "phx_join", {})
      server.receive("nonsense")
      yield* take
      assert.strictEqual(lines.length, 1)
      assert.strictEqual(lines[0]?.annotations["process"], "socket user:1")
    }).pipe(Effect.provide(live), Effect.provide(layer))
  })

  it.effect("ends all channels with its reason, and all counts settle to zero", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const before = yield* Process.stats
      yield* Effect.scoped(Effect.gen(function*() {
        const { codes, send, server, take } = yield* open({ id: "user:1" })
        yield* send("1", "1", "room:1", "phx_join", {})
        yield* send("2", "2", "room:2", "phx_join", {})
        yield* send("2", "3", "room:2", "slow", {})
        server.closed(Process.shutdown("peer_closed"))
        assert.deepStrictEqual(yield* take, [])
        assert.strictEqual(codes.length, 1)
        // The slow one ends once its message is handled.
        assert.deepStrictEqual(ended, [["room:1", Process.shutdown("peer_closed")]])
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(ended[1], ["room:2", Process.shutdown("peer_closed")])
        assert.deepStrictEqual(pubsub.topics(), [])
        server.closed(Process.shutdown("twice"))
        server.receive("x")
        assert.deepStrictEqual(yield* take, [])
      }))
      assert.deepStrictEqual(yield* Process.stats, before)
    }).pipe(Effect.provide(live)))

  it.effect("what came before the end is still handled", () =>
    Effect.gen(function*() {
      const { send, server } = yield* open()
      const other = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      yield* other.send("1", "1", "room:1", "phx_join", {})
      server.receive(JSON.stringify(["1", "2", "room:1", "shout", { last: "words" }]))
      server.closed(Process.shutdown("peer_closed"))
      assert.deepStrictEqual(yield* other.take, [[null, null, "room:1", "shout", { last: "words" }]])
    }).pipe(Effect.provide(live)))

  it.effect("during a join lets the join end, and then the channel", () =>
    Effect.gen(function*() {
      const { send, server, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", "wait")
      server.closed(Process.shutdown("peer_closed"))
      yield* take
      assert.isFalse(server.process.alive)
      yield* Deferred.succeed(gate, undefined)
      yield* take
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("peer_closed")]])
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
    }).pipe(Effect.provide(live)))

  it.effect("an ending by itself is told to channels as closed", () =>
    Effect.gen(function*() {
      const { codes, send, server, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      server.closed(Process.normal)
      yield* take
      assert.deepStrictEqual(codes, [1000])
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("closed")]])
    }).pipe(Effect.provide(live)))

  it.effect("a drain closes every connection with 1012, and waits until the channels have ended", () =>
    Effect.gen(function*() {
      const a = yield* open()
      yield* a.send("1", "1", "room:1", "phx_join", {})
      yield* a.drain
      assert.deepStrictEqual(a.codes, [1012])
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("draining")]])
    }).pipe(Effect.provide(live)))

  it.effect("a kill is 1011", () =>
    Effect.gen(function*() {
      const { codes, send, server, take } = yield* open()
      yield* send("1", "1", "room:1", "phx_join", {})
      yield* Process.exit(server.pid, Process.killed)
      yield* take
      assert.deepStrictEqual(codes, [1011])
      assert.deepStrictEqual(ended, [["room:1", Process.killed]])
    }).pipe(Effect.provide(live)))
})

describe("disconnect", () => {
  it.effect("closes all connections with the id, with 1001, and no others", () =>
    Effect.gen(function*() {
      const one = yield* open({ id: "user:1" })
      const two = yield* open({ id: "user:1" })
      const other = yield* open({ id: "user:2" })
      const anonymous = yield* open()
      yield* one.send("1", "1", "room:1", "phx_join", {})
      yield* Endpoint.disconnect("user:1")
      yield* one.take
      assert.deepStrictEqual([one, two, other, anonymous].map(({ codes }) => codes), [[1001], [1001], [], []])
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("disconnected")]])
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), ["user:2"])
    }).pipe(Effect.provide(live)))

  it.effect("comes through a join that waits", () =>
    Effect.gen(function*() {
      const { codes, send, take } = yield* open({ id: "user:1" })
      yield* send("1", "1", "room:1", "phx_join", "wait")
      yield* Endpoint.disconnect("user:1")
      yield* take
      assert.deepStrictEqual(codes, [1001])
      yield* Deferred.succeed(gate, undefined)
      yield* take
      assert.deepStrictEqual(ended, [["room:1", Process.shutdown("disconnected")]])
    }).pipe(Effect.provide(live)))

  it.effect("is the only event on the id's topic that counts, whatever its payload; clients do not see it", () =>
    Effect.gen(function*() {
      const { codes, take } = yield* open({ id: "user:1" })
      yield* Endpoint.broadcast("user:1", "hello", {})
      yield* PubSub.broadcast("user:1", "disconnect")
      yield* PubSub.broadcast("user:1", null)
      assert.deepStrictEqual(yield* take, [])
      assert.deepStrictEqual(codes, [])
      yield* Endpoint.broadcast("user:1", "disconnect", { any: 1 })
      assert.deepStrictEqual(yield* take, [])
      assert.deepStrictEqual(codes, [1001])
    }).pipe(Effect.provide(live)))
})

describe("serializers", () => {
  const counting = (name: string) => {
    const counts = { fastlane: 0, encode: 0 }
    const serializer: Serializer.Serializer = {
      name,
      decode: Serializer.v2.decode,
      encode: (message) => {
        counts.encode++
        return Serializer.v2.encode(message)
      },
      fastlane: (broadcast) => {
        counts.fastlane++
        return Serializer.v2.fastlane(broadcast)
      }
    }
    return { serializer, counts }
  }

  it.effect("a broadcast is encoded once for each serializer, however many get it", () =>
    Effect.gen(function*() {
      const a = counting("A")
      const b = counting("B")
      const members = yield* Effect.forEach([a, b, a, a, b, a], ({ serializer }) => open({ serializer }))
      for (const member of members) yield* member.send("1", "1", "room:1", "phx_join", {})
      a.counts.encode = b.counts.encode = 0
      yield* Endpoint.broadcast("room:1", "e", { n: 1 })
      for (const { take } of members) assert.deepStrictEqual(yield* take, [[null, null, "room:1", "e", { n: 1 }]])
      assert.deepStrictEqual([a.counts, b.counts], [{ fastlane: 1, encode: 0 }, { fastlane: 1, encode: 0 }])
      yield* Endpoint.broadcast("room:1", "e", { n: 2 })
      assert.deepStrictEqual([a.counts.fastlane, b.counts.fastlane], [2, 2])
      yield* Endpoint.broadcast("room:2", "e", {})
      assert.deepStrictEqual([a.counts.fastlane, b.counts.fastlane], [2, 2])
    }).pipe(Effect.provide(live)))

  it.effect("bytes pass by a client of V1, which has no binary frames, and reach all others", () =>
    Effect.gen(function*() {
      const v2 = yield* open()
      const v1 = yield* open({ serializer: Serializer.v1 })
      yield* v2.send("1", "1", "room:1", "phx_join", {})
      v1.server.receive(JSON.stringify({ topic: "room:1", event: "phx_join", payload: {}, ref: "1" }))
      yield* v1.take
      const later = yield* open()
      yield* later.send("1", "1", "room:1", "phx_join", {})
      yield* Endpoint.broadcast("room:1", "e", new Uint8Array([1]))
      assert.strictEqual((yield* v2.take).length, 1)
      assert.deepStrictEqual(yield* v1.take, [])
      assert.strictEqual((yield* later.take).length, 1)
    }).pipe(Effect.provide(live)))

  it.effect("a broadcast that nobody can encode dies in the broadcaster", () =>
    Effect.gen(function*() {
      const v2 = yield* open()
      yield* v2.send("1", "1", "room:1", "phx_join", {})
      const exit = yield* Effect.exit(Endpoint.broadcast("room:1", "e", { n: 1n }))
      assert(exit._tag === "Failure")
      assert.instanceOf(Cause.squash(exit.cause), Serializer.EncodeError)
    }).pipe(Effect.provide(live)))

  it.effect("one that cannot write anything ends its own connections only", () =>
    Effect.gen(function*() {
      const broken: Serializer.Serializer = {
        name: "broken",
        decode: Serializer.v2.decode,
        encode: () => Result.fail(new Serializer.EncodeError({ code: "invalid_json", message: "cannot write" })),
        fastlane: Serializer.v2.fastlane
      }
      const good = yield* open()
      const bad = yield* open({ serializer: broken })
      yield* bad.send("1", "1", "room:1", "phx_join", {})
      yield* bad.send(null, "1", "phoenix", "heartbeat", {})
      assert.deepStrictEqual(bad.codes, [1011])
      assert.deepStrictEqual(yield* good.send(null, "1", "phoenix", "heartbeat", {}), [ok(null, "1", "phoenix")])
    }).pipe(Effect.provide(live), Effect.provide(silent)))
})

describe("connect", () => {
  class Name extends Context.Service<Name, string>()("test/Name") {}

  it.effect("what it acquires is released when it is done", () => {
    let open = 0
    const Plain = Socket.make("plain", { channels: [] })
    const layer = Plain.layer(() =>
      Effect.as(
        Effect.acquireRelease(Effect.sync(() => ++open), () => Effect.sync(() => --open)),
        Socket.accept()
      )
    ).pipe(Layer.provideMerge(ChannelTest.layer))
    return Effect.gen(function*() {
      yield* ChannelTest.connect(Plain)
      assert.strictEqual(open, 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("gets what is known of the client, and refuses or accepts it; built once", () => {
    const seen: Array<Socket.ConnectInfo> = []
    let built = 0
    const Plain = Socket.make("plain", { channels: [] })
    const layer = Plain.toLayer(Effect.sync(() => {
      built++
      return (info: Socket.ConnectInfo) =>
        Effect.suspend(() => {
          seen.push(info)
          return info.params["token"] === "good"
            ? Effect.succeed(Socket.accept({ id: "id" }))
            : Effect.fail(Socket.refuse("bad token"))
        })
    })).pipe(Layer.provideMerge(ChannelTest.layer))
    return Effect.gen(function*() {
      const refused = yield* Effect.flip(ChannelTest.connect(Plain, { token: "bad" }))
      assert.instanceOf(refused, Socket.Refused)
      assert.strictEqual(refused.reason, "bad token")
      const client = yield* ChannelTest.connect(Plain, { token: "good" }, { headers: { "x-a": "b" } })
      assert.strictEqual(client.id, "id")
      assert.deepStrictEqual(seen[1]?.params, { vsn: "2.0.0", token: "good" })
      assert.deepStrictEqual(seen[1]?.headers, { "x-a": "b" })
      assert.strictEqual(built, 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("may use services of the Layer", () => {
    const Plain = Socket.make("plain", { channels: [] })
    const layer = Plain.layer(() => Effect.map(Name, (id) => Socket.accept({ id }))).pipe(
      Layer.provide(Layer.succeed(Name, "from the layer")),
      Layer.provideMerge(ChannelTest.layer)
    )
    return Effect.gen(function*() {
      assert.strictEqual((yield* ChannelTest.connect(Plain)).id, "from the layer")
    }).pipe(Effect.provide(layer))
  })

  it.effect("ends the connections when the socket's scope closes", () =>
    Effect.gen(function*() {
      const before = yield* Process.stats
      const client = yield* Effect.scoped(Effect.gen(function*() {
        const client = yield* ChannelTest.connect(Everything)
        yield* ChannelTest.join(client, Room, "room:1")
        return client
      }))
      assert.strictEqual(client.closeCode, 1012)
      assert.strictEqual((yield* Process.stats).processes, before.processes)
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(ChannelTest.settle)))
    }).pipe(Effect.provide(live)))
})
