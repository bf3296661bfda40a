import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"

const ended: Array<Process.ExitReason> = []

const Room = Channel.make("room:*", { intercept: ["masked"] })
const RoomLive = Room.layer((room, payload) =>
  payload === "refuse" ? Effect.fail({ reason: "no" }) : payload === "die" ? Effect.die("boom") : Effect.succeed({
    reply: payload,
    handleIn: (event: string, payload: unknown) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "no":
          return Effect.succeed(Channel.error(payload))
        case "push":
          return Effect.asVoid(room.push("pushed", payload))
        case "shout":
          return Effect.asVoid(room.broadcast("shout", payload))
        case "later":
          return Effect.as(Effect.sleep("1 minute"), Channel.ok(payload))
        case "promise":
          // Work that no scheduler knows of.
          return Effect.promise(() => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))).pipe(
            Effect.as(Channel.ok(payload))
          )
        case "loop":
          return Effect.asVoid(room.send("loop"))
        default:
          return Effect.die("boom")
      }
    },
    handleInfo: (message: unknown) => message === "loop" ? room.send("loop") : room.push("info", { message }),
    handleOut: { masked: (out: unknown) => room.push("masked", { masked: out }) },
    terminate: (reason: Process.ExitReason) => Effect.sync(() => void ended.push(reason))
  })
)
const Other = Channel.make("other")
const OtherLive = Other.layer(() => Effect.succeed({}))
const UserSocket = Socket.make("user_socket", { channels: [Room, Other] })
const UserSocketLive = UserSocket.layer(({ headers, params, transport }) =>
  params["token"] === "bad"
    ? Effect.fail(Socket.refuse("bad token"))
    : Effect.succeed(Socket.accept({ id: `${String(params["vsn"])} ${transport} ${String(headers["x-a"])}` }))
)

const sockets = Layer.mergeAll(RoomLive, OtherLive, UserSocketLive)
const TestLive = sockets.pipe(Layer.provideMerge(ChannelTest.layer))
const silent = Logger.layer([])

const joined = Effect.gen(function*() {
  ended.length = 0
  return yield* ChannelTest.subscribeAndJoin(yield* ChannelTest.connect(UserSocket), Room, "room:1", { hello: 1 })
})

/** The assertion fails; how. */
const failing = <A, E, R>(assertion: Effect.Effect<A, E, R>): Effect.Effect<ChannelTest.AssertionError, never, R> =>
  Effect.map(Effect.exit(assertion), (exit) => {
    const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
    assert.instanceOf(error, ChannelTest.AssertionError)
    return error
  })

describe("connect", () => {
  it.effect("runs the socket's connect with the params and what is said of the client", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* ChannelTest.connect(UserSocket)).id, "2.0.0 test undefined")
      const socket = yield* ChannelTest.connect(UserSocket, { vsn: "x" }, {
        headers: { "x-a": "b" },
        transport: "wire"
      })
      assert.strictEqual(socket.id, "x wire b")
    }).pipe(Effect.provide(TestLive)))

  it.effect("fails with the refusal", () =>
    Effect.gen(function*() {
      const refused = yield* Effect.flip(ChannelTest.connect(UserSocket, { token: "bad" }))
      assert.instanceOf(refused, Socket.Refused)
      assert.strictEqual(refused.reason, "bad token")
    }).pipe(Effect.provide(TestLive)))
})

describe("join", () => {
  it.effect("returns the channel, with the reply", () =>
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1", [1])
      assert.strictEqual(channel.topic, "room:1")
      assert.deepStrictEqual(channel.reply, [1])
      assert.isTrue(yield* Process.alive(channel.pid))
      // The reply to the join is consumed.
      assert.deepStrictEqual(channel.socket.received, [])
      yield* Process.send(channel.pid, "x")
      yield* ChannelTest.assertPush(channel, "info", { message: "x" })
    }).pipe(Effect.provide(TestLive)))

  it.effect("fails with what the client is told", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const join = (topic: string, payload: unknown) =>
        Effect.map(Effect.flip(ChannelTest.join(socket, Room, topic, payload)), ({ response }) => response)
      assert.deepStrictEqual(yield* join("room:1", "refuse"), { reason: "no" })
      assert.deepStrictEqual(yield* join("room:1", "die"), { reason: "join crashed" })
      assert.deepStrictEqual(yield* join("nowhere", {}), { reason: "unmatched topic" })
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("says so when another channel serves the topic", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const error = yield* failing(ChannelTest.join(socket, Room, "other"))
      assert.include(error.message, "other is served by another channel")
      assert.deepStrictEqual([error.expected, error.actual], ["room:*", "other"])
    }).pipe(Effect.provide(TestLive)))
})

describe("assertReply and assertPush", () => {
  it.effect("match by parts, by function, or anything; return the payload, and consume it", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const payload = { a: 1, b: { c: [1, { d: 2, e: 3 }] }, n: null }
      const ref = yield* ChannelTest.push(channel, "echo", payload)
      assert.deepStrictEqual(
        yield* ChannelTest.assertReply(ref, "ok", { b: { c: [1, { d: 2 }] }, n: null }),
        payload
      )
      yield* failing(ChannelTest.assertReply(ref, "ok"))
      yield* ChannelTest.push(channel, "push", payload)
      assert.deepStrictEqual(
        yield* ChannelTest.assertPush(
          channel,
          "pushed",
          (actual: unknown) => Object.keys(actual as object).length === 3
        ),
        payload
      )
      yield* ChannelTest.refutePush(channel, "pushed")
      yield* ChannelTest.push(channel, "push", {})
      assert.deepStrictEqual(yield* ChannelTest.assertPush(channel, "pushed"), {})
    }).pipe(Effect.provide(TestLive)))

  it.effect("fail with what was expected and all that is there", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "echo", { a: 1 })
      const wrong = [{ a: 2 }, { b: 1 }, [], "a", null, { a: { b: 1 } }, () => false]
      const [first, ...others] = yield* Effect.forEach(
        wrong,
        (expected) => failing(ChannelTest.assertReply(ref, "ok", expected)),
        { concurrency: "unbounded" }
      )
      assert.include(first?.message, `no reply ok to ${ref.ref}`)
      assert.include(first?.message, "\"response\":{\"a\":1}")
      assert.deepStrictEqual(first?.expected, { a: 2 })
      assert.strictEqual(others.length, wrong.length - 1)
      const status = yield* failing(ChannelTest.assertReply(ref, "error"))
      assert.include(status.message, "no reply error")
      const push = yield* failing(ChannelTest.assertPush(channel, "nothing"))
      assert.include(push.message, "no push of nothing")
      yield* ChannelTest.assertReply(ref, "ok", { a: 1 })
    }).pipe(Effect.provide(TestLive)))

  it.effect("know bytes", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "no", new Uint8Array([1, 2]))
      yield* ChannelTest.refuteReply(ref, "error", new Uint8Array([1]))
      yield* ChannelTest.refuteReply(ref, "ok")
      assert.deepStrictEqual(
        yield* ChannelTest.assertReply(ref, "error", new Uint8Array([1, 2])),
        new Uint8Array([1, 2])
      )
      yield* ChannelTest.push(channel, "shout", new Uint8Array())
      yield* ChannelTest.assertPush(channel, "shout", new Uint8Array())
    }).pipe(Effect.provide(TestLive)))

  it.effect("keep channels of one socket, and messages to one channel, apart", () =>
    Effect.gen(function*() {
      const one = yield* joined
      const two = yield* ChannelTest.join(one.socket, Room, "room:2")
      const [first, second] = [yield* ChannelTest.push(one, "echo", 1), yield* ChannelTest.push(one, "echo", 2)]
      yield* ChannelTest.push(two, "push", { to: 2 })
      yield* ChannelTest.refutePush(one, "pushed")
      yield* ChannelTest.assertReply(second, "ok", 2)
      yield* ChannelTest.assertReply(first, "ok", 1)
      yield* ChannelTest.assertPush(two, "pushed", { to: 2 })
    }).pipe(Effect.provide(TestLive)))

  it.effect("wait for work that no scheduler knows of, such as a promise", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "promise", { a: 1 })
      yield* ChannelTest.assertReply(ref, "ok", { a: 1 })
    }).pipe(Effect.provide(TestLive)))
})

describe("refute", () => {
  it.effect("sees everything that is to come before time passes, and nothing that is not", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      for (let n = 0; n < 20; n++) {
        const ref = yield* ChannelTest.push(channel, "echo", { n })
        const found = yield* failing(ChannelTest.refuteReply(ref, "ok"))
        assert.include(found.message, "unexpected reply ok")
        yield* ChannelTest.refuteReply(ref, "ok", { n: -1 })
        yield* ChannelTest.push(channel, "push", { n })
        assert.include((yield* failing(ChannelTest.refutePush(channel, "pushed", { n }))).message, `"n":${n}`)
        yield* ChannelTest.push(channel, "shout", { n })
        yield* failing(ChannelTest.refuteBroadcast(channel, "shout", { n }))
      }
      const later = yield* ChannelTest.push(channel, "later", { late: true })
      yield* ChannelTest.refuteReply(later, "ok")
      yield* TestClock.adjust("59 seconds")
      yield* ChannelTest.refuteReply(later, "ok")
      yield* TestClock.adjust("1 second")
      yield* ChannelTest.assertReply(later, "ok", { late: true })
    }).pipe(Effect.provide(TestLive)))

  it.effect("says so when a channel sends itself one message after another and nothing comes to rest", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "loop")
      assert.include((yield* failing(ChannelTest.refutePush(channel, "pushed"))).message, "do not come to rest")
      yield* Process.exit(channel.pid, Process.killed)
      yield* ChannelTest.assertPush(channel, "phx_error")
    }).pipe(Effect.provide(TestLive)))
})

describe("broadcasts", () => {
  it.effect("are seen after subscribeAndJoin, raw, once each, by whomever they are sent", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "shout", { n: 1 })
      yield* Room.broadcast("room:1", "masked", { n: 2 })
      assert.deepStrictEqual(yield* ChannelTest.assertBroadcast(channel, "masked"), { n: 2 })
      yield* ChannelTest.assertPush(channel, "masked", { masked: { n: 2 } })
      yield* ChannelTest.assertBroadcast(channel, "shout", { n: 1 })
      yield* ChannelTest.refuteBroadcast(channel, "shout")
      const error = yield* failing(ChannelTest.assertBroadcast(channel, "shout", { n: 1 }))
      assert.include(error.message, "no broadcast of shout")
    }).pipe(Effect.provide(TestLive)))

  it.effect("of the test itself reach the client and not the test", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.broadcastFrom(channel, "shout", { n: 1 })
      yield* ChannelTest.assertPush(channel, "shout", { n: 1 })
      yield* ChannelTest.refuteBroadcast(channel, "shout")
    }).pipe(Effect.provide(TestLive)))

  it.effect("after a mere join are no use: the assertion says what to do", () =>
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
      yield* ChannelTest.push(channel, "shout", {})
      yield* ChannelTest.assertPush(channel, "shout")
      for (const check of [ChannelTest.assertBroadcast, ChannelTest.refuteBroadcast]) {
        assert.include((yield* failing(check(channel, "shout"))).message, "subscribeAndJoin")
      }
    }).pipe(Effect.provide(TestLive)))
})

describe("endings", () => {
  it.effect("leave replies, closes, and ends with left", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.assertReply(yield* ChannelTest.leave(channel), "ok", {})
      yield* ChannelTest.assertPush(channel, "phx_close")
      assert.deepStrictEqual(ended, [Process.shutdown("left")])
      const ref = yield* ChannelTest.push(channel, "echo")
      yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched topic" })
    }).pipe(Effect.provide(TestLive)))

  it.effect("close waits until the channel has ended with closed, and is harmless afterwards", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.close(channel)
      assert.deepStrictEqual(ended, [Process.shutdown("closed")])
      assert.isFalse(yield* Process.alive(channel.pid))
      yield* ChannelTest.close(channel)
      yield* ChannelTest.leave(channel)
    }).pipe(Effect.provide(TestLive)))

  it.effect("drop ends the connection and all its channels", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.join(channel.socket, Room, "room:2")
      yield* ChannelTest.drop(channel.socket)
      assert.deepStrictEqual(ended, [Process.shutdown("peer_closed"), Process.shutdown("peer_closed")])
      yield* ChannelTest.drop(channel.socket)
    }).pipe(Effect.provide(TestLive)))

  it.effect("assertDisconnected tells the codes apart", () =>
    Effect.gen(function*() {
      const { socket } = yield* joined
      const open = yield* failing(ChannelTest.assertDisconnected(socket, 1001))
      assert.deepStrictEqual([open.expected, open.actual], [1001, undefined])
      yield* PubSub.broadcast(socket.id ?? "", { event: "disconnect" })
      const wrong = yield* failing(ChannelTest.assertDisconnected(socket, 1012))
      assert.deepStrictEqual([wrong.expected, wrong.actual], [1012, 1001])
      yield* ChannelTest.assertDisconnected(socket, 1001)
    }).pipe(Effect.provide(TestLive)))
})

describe("the layer", () => {
  it.effect("is asked for where another one is provided", () =>
    Effect.gen(function*() {
      const error = yield* failing(joined)
      assert.include(error.message, "provide ChannelTest.layer in place of PubSub.layer")
      assert.include((yield* failing(ChannelTest.settle)).message, "ChannelTest.layer")
    }).pipe(Effect.provide(sockets.pipe(Layer.provideMerge(PubSub.layer)))))

  it.effect("is a node of its own for every test", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Process.stats, { processes: 0, timers: 0 })
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
    }).pipe(Effect.provide(ChannelTest.layer)))

  it.live("works on the real clock too", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "echo", 1), "ok", 1)
      yield* ChannelTest.refutePush(channel, "pushed")
    }).pipe(Effect.provide(TestLive)))
})
