import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Logger, References } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Process from "../src/Process.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

let gate = Deferred.makeUnsafe<void>()
const handled: Array<unknown> = []
const ended: Array<string> = []

/** Handles nothing before the gate opens. */
const behaviour = () =>
  Effect.succeed({
    handleIn: (_event: string, payload: unknown) =>
      Effect.as(Deferred.await(gate), Channel.ok()).pipe(Effect.tap(() => Effect.sync(() => handled.push(payload)))),
    terminate: (reason: Process.ExitReason) =>
      Effect.sync(() => void ended.push(reason._tag === "Shutdown" ? String(reason.detail) : reason._tag))
  })

const Room = Channel.make("room:*")
const Small = Channel.make("small:*")
const Fresh = Channel.make("fresh:*")
const Strict = Channel.make("strict:*")
const Busy = Channel.make("busy:*")

const channels = [Room, Small, Fresh, Strict, Busy] as const
const channelsLive = Layer.mergeAll(
  Room.layer(behaviour),
  Small.layer(behaviour, { mailbox: { capacity: 4 } }),
  Fresh.layer(behaviour, { mailbox: { capacity: 2, whenFull: "dropOldest" } }),
  // One that has something to tell itself with each message.
  Busy.layer((busy) =>
    Effect.succeed({
      handleIn: (_event, payload) =>
        Effect.andThen(Deferred.await(gate), busy.send(payload)).pipe(Effect.as(Channel.noReply)),
      handleInfo: (payload) => Effect.sync(() => void handled.push(payload))
    }), { mailbox: { capacity: 2 } }),
  Strict.layer(behaviour, { mailbox: { capacity: 2, whenFull: "disconnect" } })
)

type Rates = Pick<Socket.Options<typeof channels>, "maxJoinRate" | "maxMessageRate">

/** A connection whose frames, pauses and close codes the test sees. */
const connected = <A, E>(
  rates: Rates,
  body: (connection: {
    readonly send: (...frame: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<unknown>, never, Process.System>
    readonly pauses: Array<"pause" | "resume">
    readonly codes: Array<number>
    readonly warnings: Array<readonly [line: string, times: unknown]>
  }) => Effect.Effect<A, E, Process.System>
) => {
  const warnings: Array<readonly [line: string, times: unknown]> = []
  const log = Logger.make(({ fiber, logLevel, message }) => {
    if (logLevel !== "Warn") return
    const line = String(Array.isArray(message) ? message[0] : message)
    warnings.push([line, fiber.getRef(References.CurrentLogAnnotations)["times"]])
  })
  const Limited = Socket.make("limited", { channels, ...rates })
  const live = Layer.mergeAll(channelsLive, Limited.layer(() => Effect.succeed(Socket.accept()))).pipe(
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(Logger.layer([log]))
  )
  return Effect.gen(function*() {
    gate = Deferred.makeUnsafe<void>()
    handled.length = 0
    ended.length = 0
    const acceptor = yield* Socket.acceptor(Limited)
    const received: Array<unknown> = []
    const pauses: Array<"pause" | "resume"> = []
    const codes: Array<number> = []
    const server = acceptor.open(
      {
        name: "test",
        send: (frame) => void received.push(JSON.parse(String(frame))),
        pause: () => void pauses.push("pause"),
        resume: () => void pauses.push("resume"),
        close: (code) => void codes.push(code)
      },
      Serializer.v2,
      { id: "me", assigns: Context.empty() }
    )
    const send = (...frame: ReadonlyArray<unknown>) =>
      Effect.sync(() => {
        if (frame.length > 0) server.receive(JSON.stringify(frame))
      }).pipe(Effect.andThen(ChannelTest.settle), Effect.map(() => received.splice(0)))
    return yield* body({ send, pauses, codes, warnings })
  }).pipe(Effect.scoped, Effect.provide(live))
}

const answer = (joinRef: string | null, ref: string, topic: string, reason?: string) => [
  joinRef,
  ref,
  topic,
  "phx_reply",
  reason === undefined ? { status: "ok", response: {} } : { status: "error", response: { reason } }
]

describe("rates", () => {
  it.effect("a join too many is answered an error, until there is a token again", () =>
    connected({ maxJoinRate: { perSecond: 2, burst: 2 } }, ({ send, warnings }) =>
      Effect.gen(function*() {
        const join = (n: string) => send(n, n, `room:${n}`, "phx_join", {})
        assert.deepStrictEqual(yield* join("1"), [answer("1", "1", "room:1")])
        assert.deepStrictEqual(yield* join("2"), [answer("2", "2", "room:2")])
        assert.deepStrictEqual(yield* join("3"), [answer("3", "3", "room:3", "too many joins")])
        yield* TestClock.adjust("499 millis")
        assert.deepStrictEqual(yield* join("4"), [answer("4", "4", "room:4", "too many joins")])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* join("5"), [answer("5", "5", "room:5")])
        assert.deepStrictEqual(warnings, [["a client is denied: too many joins", 1]])
        // Nothing saves up more than a burst, also where one token was left.
        yield* TestClock.adjust("1 hour")
        const later = [yield* join("6"), yield* join("7"), yield* join("8")].flat()
        assert.deepStrictEqual(later.at(-1), answer("8", "8", "room:8", "too many joins"))
        assert.deepStrictEqual(warnings.at(-1), ["a client is denied: too many joins", 2])
      })))

  it.effect("a message too many is answered an error and not handled; heartbeats and leaves pass", () =>
    connected({ maxMessageRate: { perSecond: 1, burst: 3 } }, ({ send, warnings }) =>
      Effect.gen(function*() {
        yield* Deferred.succeed(gate, undefined)
        yield* send("1", "1", "room:1", "phx_join", {})
        assert.deepStrictEqual(yield* send("1", "2", "room:1", "a", "one"), [answer("1", "2", "room:1")])
        assert.deepStrictEqual(yield* send("1", "3", "room:1", "a", "two"), [answer("1", "3", "room:1")])
        const refused = yield* send("1", "4", "room:1", "a", "three")
        assert.deepStrictEqual(refused, [answer("1", "4", "room:1", "too many messages")])
        assert.deepStrictEqual(handled, ["one", "two"])
        assert.deepStrictEqual(yield* send(null, "5", "phoenix", "heartbeat", {}), [answer(null, "5", "phoenix")])
        assert.deepStrictEqual((yield* send("1", "6", "room:1", "phx_leave", {}))[0], answer("1", "6", "room:1"))
        assert.deepStrictEqual(warnings, [["a client is denied: too many messages", 1]])
      })))

  it("a rate that lets nothing pass is refused where it is set", () => {
    const make = (maxJoinRate: Socket.Rate) => Socket.make("x", { channels: [Room], maxJoinRate })
    assert.throws(() => make({ perSecond: 0, burst: 1 }), /maxJoinRate: perSecond must be more than 0/)
    assert.throws(() => make({ perSecond: 1, burst: 0 }), RangeError)
    assert.strictEqual(Socket.make("x", { channels: [Room], maxJoinRate: false }).maxJoinRate, undefined)
  })
})

describe("a full mailbox", () => {
  it.effect("has the connection wait, until half is handled, and nothing is lost", () =>
    connected({}, ({ pauses, send }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "small:1", "phx_join", {})
        for (let n = 1; n <= 5; n++) yield* send("1", null, "small:1", "a", n)
        // One is being handled, four wait.
        assert.deepStrictEqual(pauses, [])
        yield* send("1", null, "small:1", "a", 6)
        assert.deepStrictEqual(pauses, ["pause"])
        // What was read already comes all the same.
        yield* send("1", null, "small:1", "a", 7)
        assert.deepStrictEqual(pauses, ["pause"])
        yield* Deferred.succeed(gate, undefined)
        yield* ChannelTest.settle
        assert.deepStrictEqual(pauses, ["pause", "resume"])
        assert.deepStrictEqual(handled, [1, 2, 3, 4, 5, 6, 7])
      })))

  it.effect("lets the connection go on when the channel ends", () =>
    connected({}, ({ pauses, send }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "small:1", "phx_join", {})
        for (let n = 1; n <= 6; n++) yield* send("1", null, "small:1", "a", n)
        assert.deepStrictEqual(pauses, ["pause"])
        for (const pid of yield* Process.list) {
          if (pid.label === "channel small:1") yield* Process.exit(pid, Process.killed)
        }
        yield* ChannelTest.settle
        assert.deepStrictEqual(pauses, ["pause", "resume"])
      })))

  it.effect("is full of messages of the client only, so that it always comes to an end", () =>
    connected({}, ({ pauses, send }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "busy:1", "phx_join", {})
        for (let n = 1; n <= 4; n++) yield* send("1", null, "busy:1", "a", n)
        assert.deepStrictEqual(pauses, ["pause"])
        yield* Deferred.succeed(gate, undefined)
        yield* ChannelTest.settle
        assert.deepStrictEqual(pauses, ["pause", "resume"])
        assert.deepStrictEqual(handled, [1, 2, 3, 4])
      })))

  it.effect("never drops a leave", () =>
    connected({}, ({ send }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "fresh:1", "phx_join", {})
        yield* send("1", "2", "fresh:1", "a", 1)
        yield* send("1", "3", "fresh:1", "phx_leave", {})
        yield* send("1", "4", "fresh:1", "a", 2)
        assert.deepStrictEqual(
          yield* send("1", "5", "fresh:1", "a", 3),
          [answer("1", "4", "fresh:1", "too many messages")]
        )
        yield* Deferred.succeed(gate, undefined)
        assert.deepInclude(yield* send(), answer("1", "3", "fresh:1"))
        assert.deepStrictEqual(handled, [1])
        assert.deepStrictEqual(ended, ["left"])
      })))

  it.effect("drops the oldest message, which is answered an error, where that is asked for", () =>
    connected({}, ({ pauses, send, warnings }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "fresh:1", "phx_join", {})
        for (let n = 1; n <= 3; n++) yield* send("1", String(n + 1), "fresh:1", "a", n)
        assert.deepStrictEqual(
          yield* send("1", "5", "fresh:1", "a", 4),
          [answer("1", "3", "fresh:1", "too many messages")]
        )
        yield* Deferred.succeed(gate, undefined)
        yield* ChannelTest.settle
        assert.deepStrictEqual(handled, [1, 3, 4])
        assert.deepStrictEqual(pauses, [])
        assert.deepStrictEqual(warnings, [["a client is denied: too many messages", 1]])
      })))

  it.effect("closes the connection with 1008, where that is asked for", () =>
    connected({}, ({ codes, send, warnings }) =>
      Effect.gen(function*() {
        yield* send("1", "1", "strict:1", "phx_join", {})
        for (let n = 1; n <= 4; n++) yield* send("1", null, "strict:1", "a", n)
        assert.deepStrictEqual(codes, [1008])
        yield* Deferred.succeed(gate, undefined)
        yield* ChannelTest.settle
        assert.deepStrictEqual(ended, ["mailbox_full"])
        assert.deepStrictEqual(warnings, [
          ["a client sends more than a channel can take: its connection is closed", 1]
        ])
      })))
})

it.effect("frames that come during a join make the connection wait, once there are a thousand", () => {
  const slow = Deferred.makeUnsafe<void>()
  const Slow = Channel.make("slow")
  const SlowLive = Slow.layer(() => Effect.as(Deferred.await(slow), { handleIn: () => Effect.succeed(Channel.ok()) }))
  const Waiting = Socket.make("waiting", { channels: [Slow] })
  const live = Layer.mergeAll(SlowLive, Waiting.layer(() => Effect.succeed(Socket.accept()))).pipe(
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(Logger.layer([]))
  )
  return Effect.gen(function*() {
    const acceptor = yield* Socket.acceptor(Waiting)
    const events: Array<string> = []
    let replies = 0
    const transport = {
      name: "test",
      send: () => void replies++,
      pause: () => void events.push("pause"),
      resume: () => void events.push("resume"),
      close: () => {}
    }
    const server = acceptor.open(transport, Serializer.v2, { id: undefined, assigns: Context.empty() })
    server.receive(JSON.stringify(["1", "1", "slow", "phx_join", {}]))
    yield* ChannelTest.settle
    for (let n = 0; n < 999; n++) server.receive(JSON.stringify([null, "2", "phoenix", "heartbeat", {}]))
    assert.deepStrictEqual(events, [])
    server.receive(JSON.stringify([null, "2", "phoenix", "heartbeat", {}]))
    assert.deepStrictEqual(events, ["pause"])
    yield* Deferred.succeed(slow, undefined)
    yield* ChannelTest.settle
    assert.deepStrictEqual(events, ["pause", "resume"])
    assert.strictEqual(replies, 1001)
  }).pipe(Effect.scoped, Effect.provide(live))
})
