import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Fiber, Layer, Logger, Schema, type Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

const ended: Array<Process.ExitReason> = []

const Room = Channel.make("room:*", { intercept: ["masked"] })
const RoomLive = Room.layer((room, payload) => {
  if (payload === "refuse") return Effect.fail({ reason: "no" })
  if (payload === "die") return Effect.die(new Error("boom at join"))
  const handlers = {
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
        case "push after a promise":
          return Effect.andThen(
            Effect.promise(() => new Promise<void>((resolve) => setTimeout(resolve, 20))),
            room.push("pushed", payload)
          )
        case "broadcast within time":
          return Effect.promise(() => new Promise<void>((resolve) => setTimeout(resolve, 20))).pipe(
            Effect.timeout("1 minute"),
            Effect.orDie,
            Effect.andThen(room.broadcast("shout", payload))
          )
        case "promise never":
          return Effect.promise(() => new Promise<void>(() => {}))
        case "die after a while":
          return Effect.andThen(Effect.sleep("1 minute"), Effect.die(new Error("boom after a while")))
        case "loop":
          return Effect.asVoid(room.send("loop"))
        case "hang":
          return Effect.never
        case "stop":
          return Effect.asVoid(room.stop())
        default:
          return Effect.die(new Error(`boom at ${event}`))
      }
    },
    handleInfo: (message: unknown) => {
      if (message === "loop") return room.send("loop")
      return message === "joined" ? room.broadcast("joined", {}) : room.push("info", { message })
    },
    handleOut: { masked: (out: unknown) => room.push("masked", { masked: out }) },
    terminate: (reason: Process.ExitReason) =>
      room.topic === "room:ends badly"
        ? Effect.die(new Error("boom at the end"))
        : Effect.sync(() => void ended.push(reason))
  }
  const waiting = payload === "wait"
    ? Effect.sleep("5 seconds")
    : payload === "tell"
    ? room.send("joined")
    : Effect.void
  return Effect.as(waiting, handlers)
})
const Other = Channel.make("other")
const OtherLive = Other.layer(() => Effect.succeed({}))
const UserSocket = Socket.make("user_socket", { channels: [Room, Other], maxChannels: 3 })
const infos: Array<Socket.ConnectInfo> = []
const UserSocketLive = UserSocket.layer((info) => {
  infos.push(info)
  return info.params["token"] === "bad"
    ? Effect.fail(Socket.refuse("bad token"))
    : Effect.succeed(Socket.accept({ id: "user_socket:1" }))
})

class User extends Context.Service<User, { readonly id: string }>()("test/User") {}
const Typed = Channel.make("typed:*", {
  assigns: User,
  join: { payload: Schema.Struct({ since: Schema.Finite }), success: Schema.Struct({ user: Schema.String }) },
  incoming: {
    add: {
      payload: Schema.Struct({ a: Schema.Finite, b: Schema.Finite }),
      success: Schema.Struct({ sum: Schema.Finite })
    },
    at: { payload: Schema.Struct({ date: Schema.Date }), success: Schema.Struct({ date: Schema.Date }) },
    bytes: { payload: Channel.Bytes, success: Channel.Bytes },
    quiet: {}
  },
  outgoing: { added: Schema.Struct({ sum: Schema.Finite, by: Schema.String }), raw: Channel.Bytes }
})
const TypedLive = Typed.layer((typed) =>
  Effect.gen(function*() {
    const { id } = yield* User
    return {
      reply: { user: id },
      handleIn: {
        add: ({ a, b }) => Effect.as(typed.broadcast("added", { sum: a + b, by: id }), { sum: a + b }),
        at: ({ date }) => Effect.succeed({ date: new Date(date.getTime() + 1000) }),
        bytes: (bytes) => Effect.as(typed.push("raw", bytes), bytes.toReversed()),
        quiet: () => Effect.void
      }
    }
  })
)
const TypedSocket = Socket.make("typed_socket", { channels: [Typed] })

const sockets = Layer.mergeAll(RoomLive, OtherLive, TypedLive, UserSocketLive)
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
      infos.length = 0
      assert.strictEqual((yield* ChannelTest.connect(UserSocket)).id, "user_socket:1")
      yield* ChannelTest.connect(UserSocket, { a: { b: "c" } }, {
        transport: "wire",
        headers: { "user-agent": "phone" },
        uri: { host: "example.com" },
        peerData: { address: "10.0.0.1" },
        session: { user: 1 },
        authToken: "t",
        custom: { region: "eu" }
      })
      assert.deepStrictEqual(infos, [{
        params: { vsn: "2.0.0" },
        transport: "test",
        headers: {},
        userAgent: undefined,
        uri: { scheme: "http", host: "localhost", port: 80, path: "/socket/websocket", query: "" },
        peerData: { address: "127.0.0.1", port: 50_000, sslCert: undefined },
        session: undefined,
        authToken: undefined,
        custom: {}
      }, {
        params: { vsn: "2.0.0", a: { b: "c" } },
        transport: "wire",
        headers: { "user-agent": "phone" },
        userAgent: "phone",
        uri: { scheme: "http", host: "example.com", port: 80, path: "/socket/websocket", query: "" },
        peerData: { address: "10.0.0.1", port: 50_000, sslCert: undefined },
        session: { user: 1 },
        authToken: "t",
        custom: { region: "eu" }
      }])
    }).pipe(Effect.provide(TestLive)))

  it.effect("refuses a version that no serializer speaks, before connect is asked", () =>
    Effect.gen(function*() {
      infos.length = 0
      yield* ChannelTest.assertRefused(
        ChannelTest.connect(UserSocket, { vsn: "3.0.0" }),
        "no serializer speaks vsn 3.0.0"
      )
      assert.deepStrictEqual(infos, [])
    }).pipe(Effect.provide(TestLive)))

  it.effect("speaks V2 in place of a serializer that it does not know", () => {
    const Packed = Socket.make("packed", {
      channels: [Room],
      serializers: [[{ ...Serializer.v2, name: "packed" }, "~> 9.0"]]
    })
    const PackedLive = Packed.layer(() => Effect.succeed(Socket.accept()))
    return Effect.gen(function*() {
      for (const params of [{}, { vsn: "9.1.0" }]) {
        const channel = yield* ChannelTest.join(yield* ChannelTest.connect(Packed, params), Room, "room:1", [1])
        assert.deepStrictEqual(channel.reply, [1])
      }
      yield* ChannelTest.assertRefused(ChannelTest.connect(Packed, { vsn: "2.0.0" }))
    }).pipe(Effect.provide(Layer.mergeAll(RoomLive, PackedLive).pipe(Layer.provideMerge(ChannelTest.layer))))
  })

  it.effect("speaks V1 where it is told to", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket, { vsn: "1.0.0" })
      const channel = yield* ChannelTest.subscribeAndJoin(socket, Room, "room:1", [1])
      assert.deepStrictEqual(channel.reply, [1])
      const ref = yield* ChannelTest.push(channel, "echo", 1)
      yield* ChannelTest.assertReply(ref, "ok", 1)
      yield* ChannelTest.push(channel, "push", [2])
      // Only V2 asks for an object here, and only V2 knows the join_ref.
      assert.deepStrictEqual(yield* ChannelTest.assertPush(channel, "pushed"), [2])
      const again = yield* ChannelTest.join(socket, Room, "room:1")
      yield* ChannelTest.assertClosed(channel)
      yield* ChannelTest.push(again, "die")
      yield* ChannelTest.assertCrashed(again)
      const bytes = yield* Effect.exit(ChannelTest.push(again, "echo", new Uint8Array(1)))
      assert(bytes._tag === "Failure")
      assert.include(Cause.pretty(bytes.cause), "V1")
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

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

  it.effect("fails with what the client is told, and tells a refusal from a crash", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const join = (topic: string, payload: unknown) => Effect.flip(ChannelTest.join(socket, Room, topic, payload))
      const refused = yield* join("room:1", "refuse")
      assert.deepStrictEqual([refused.code, refused.topic, refused.response], ["refused", "room:1", { reason: "no" }])
      assert.isUndefined(refused.cause)
      assert.include(refused.message, "the join of room:1 was refused; the client is told {\"reason\":\"no\"}")
      const crashed = yield* join("room:1", "die")
      assert.deepStrictEqual([crashed.code, crashed.response], ["crashed", { reason: "join crashed" }])
      assert.include(String(crashed.cause), "boom at join")
      const unmatched = yield* join("nowhere", {})
      assert.deepStrictEqual([unmatched.code, unmatched.response], ["unmatched_topic", { reason: "unmatched topic" }])
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("keeps the limits of a real connection", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const channels = yield* Effect.forEach(["1", "2", "3"], (n) => ChannelTest.join(socket, Room, `room:${n}`))
      const error = yield* Effect.flip(ChannelTest.join(socket, Room, "room:4"))
      assert.deepStrictEqual([error.code, error.response], ["too_many_channels", {
        reason: "too many channels joined"
      }])
      for (const channel of channels) yield* ChannelTest.assertReply(yield* ChannelTest.leave(channel), "ok")
      yield* ChannelTest.join(socket, Room, "room:4")
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("of a topic that is joined already closes the old channel, and what is sent to it is dropped", () =>
    Effect.gen(function*() {
      const old = yield* joined
      yield* ChannelTest.push(old, "push", { to: "old" })
      const channel = yield* ChannelTest.join(old.socket, Room, "room:1")
      assert.notStrictEqual(old.pid, channel.pid)
      yield* ChannelTest.assertClosed(old)
      assert.deepStrictEqual(yield* Process.awaitExit(old.pid), Process.shutdown("duplicate_join"))
      const stale = yield* ChannelTest.push(old, "echo", 1)
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "echo", 2), "ok", 2)
      for (const status of ["ok", "error"]) yield* ChannelTest.refuteReply(stale, status)
      // What each of them was sent is not the other's.
      yield* ChannelTest.push(channel, "push", { to: "new" })
      yield* ChannelTest.assertPush(old, "pushed", { to: "old" })
      yield* ChannelTest.refutePush(old, "pushed")
      yield* ChannelTest.assertPush(channel, "pushed", { to: "new" })
      yield* ChannelTest.refutePush(channel, "phx_close")
    }).pipe(Effect.provide(TestLive)))

  it.effect("goes by the socket's routes where no channel is named", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const channel = yield* ChannelTest.join(socket, "room:1", { a: 1 })
      assert.deepStrictEqual(channel.reply, { a: 1 })
      const other = yield* ChannelTest.subscribeAndJoin(socket, "other")
      yield* ChannelTest.refuteBroadcast(other, "anything")
      yield* ChannelTest.assertRefused(ChannelTest.join(socket, "nowhere"), { reason: "unmatched topic" })
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("says so when another channel serves the topic", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const error = yield* failing(ChannelTest.join(socket, Room, "other"))
      assert.include(error.message, "other is served by the channel other, not by room:*")
      assert.deepStrictEqual([error.expected, error.actual], ["room:*", "other"])
    }).pipe(Effect.provide(TestLive)))

  it.effect("that takes time is forked, and the clock moved", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(UserSocket)
      const joining = yield* Effect.forkChild(ChannelTest.join(socket, Room, "room:1", "wait"), {
        startImmediately: true
      })
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(joining)).topic, "room:1")
    }).pipe(Effect.provide(TestLive)))

  it.effect("with subscription sees broadcasts from before the join on; refused, it leaves no subscription", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const socket = yield* ChannelTest.connect(UserSocket)
      const channel = yield* ChannelTest.subscribeAndJoin(socket, Room, "room:1", "tell")
      yield* ChannelTest.assertBroadcast(channel, "joined")
      yield* ChannelTest.assertRefused(ChannelTest.subscribeAndJoin(socket, Room, "room:2", "refuse"))
      assert.deepStrictEqual(pubsub.topics(), ["user_socket:1", "room:1"])
    }).pipe(Effect.provide(TestLive)))
})

describe("socket", () => {
  it.effect("connects without running connect, with the assigns it is given", () =>
    Effect.gen(function*() {
      const assigns = Context.make(User, { id: "ada" })
      const ada = yield* ChannelTest.socket(TypedSocket, { id: "a", assigns })
      const eve = yield* ChannelTest.socket(TypedSocket, { assigns: Context.make(User, { id: "eve" }) })
      assert.deepStrictEqual([ada.id, eve.id], ["a", undefined])
      const channel = yield* ChannelTest.join(ada, Typed, "typed:1", { since: 1 })
      const other = yield* ChannelTest.join(eve, Typed, "typed:1", { since: 1 })
      assert.deepStrictEqual([channel.reply.user, other.reply.user], ["ada", "eve"])
      yield* ChannelTest.push(channel, "add", { a: 1, b: 2 })
      const { sum } = yield* ChannelTest.assertPush(other, "added", { by: "ada" })
      assert.strictEqual(sum, 3)
      yield* PubSub.broadcast("a", { event: "disconnect" })
      yield* ChannelTest.assertDisconnected(ada)
      assert.isUndefined(eve.closeCode)
    }).pipe(Effect.provide(TypedLive.pipe(Layer.provideMerge(ChannelTest.layer)))))
})

describe("a contract", () => {
  const typed = Effect.gen(function*() {
    const socket = yield* ChannelTest.socket(TypedSocket, { assigns: Context.make(User, { id: "ada" }) })
    return yield* ChannelTest.subscribeAndJoin(socket, Typed, "typed:1", { since: 1 })
  })

  it.effect("types what travels: JSON and bytes", () =>
    Effect.gen(function*() {
      const channel = yield* typed
      const at = yield* ChannelTest.push(channel, "at", { date: "2024-02-29T12:00:00.000Z" })
      yield* ChannelTest.assertReply(at, "ok", { date: "2024-02-29T12:00:01.000Z" })
      const bytes = yield* ChannelTest.push(channel, "bytes", new Uint8Array([1, 2]))
      yield* ChannelTest.assertReply(bytes, "ok", new Uint8Array([2, 1]))
      const raw: Uint8Array = yield* ChannelTest.assertPush(channel, "raw")
      assert.deepStrictEqual(raw, new Uint8Array([1, 2]))
      yield* ChannelTest.push(channel, "quiet")
      yield* ChannelTest.broadcastFrom(channel, "added", { sum: 1, by: "eve" })
      yield* ChannelTest.assertPush(channel, "added", ({ by, sum }) => by === "eve" && sum === 1)
    }).pipe(Effect.provide(TestLive)))

  it.effect("is left behind by untyped, and by a join without the channel", () =>
    Effect.gen(function*() {
      const channel = yield* typed
      const any = ChannelTest.untyped(channel)
      yield* ChannelTest.assertReply(yield* ChannelTest.push(any, "add", { a: "x" }), "error", {
        reason: "invalid payload"
      })
      yield* ChannelTest.assertReply(yield* ChannelTest.push(any, "no such event"), "error", {
        reason: "unmatched event"
      })
      yield* ChannelTest.assertRefused(ChannelTest.join(channel.socket, "typed:2", {}), { reason: "invalid payload" })
    }).pipe(Effect.provide(TestLive)))

  it("is checked by the compiler", () => {
    const unused = Effect.gen(function*() {
      const channel = yield* typed
      // @ts-expect-error the assigns are missing
      yield* ChannelTest.socket(TypedSocket)
      // @ts-expect-error assigns of another kind
      yield* ChannelTest.socket(TypedSocket, { assigns: Context.empty() })
      yield* ChannelTest.socket(UserSocket)
      yield* ChannelTest.socket(UserSocket, { id: "x" })
      // @ts-expect-error the payload of the join is missing
      yield* ChannelTest.join(channel.socket, Typed, "typed:1")
      // @ts-expect-error another payload
      yield* ChannelTest.join(channel.socket, Typed, "typed:1", { since: "1" })
      // @ts-expect-error the reply has no such part
      assert.isUndefined(channel.reply.name)
      // @ts-expect-error an event that is not declared
      yield* ChannelTest.push(channel, "sub", {})
      // @ts-expect-error the payload is missing
      yield* ChannelTest.push(channel, "add")
      // @ts-expect-error another payload
      yield* ChannelTest.push(channel, "add", { a: 1, b: "2" })
      const ref = yield* ChannelTest.push(channel, "add", { a: 1, b: 2 })
      // @ts-expect-error the reply has no such part
      yield* ChannelTest.assertReply(ref, "ok", { product: 1 })
      // @ts-expect-error an event that is not declared
      yield* ChannelTest.assertPush(channel, "add")
      // @ts-expect-error another type
      yield* ChannelTest.refutePush(channel, "added", { sum: "1" })
      // @ts-expect-error an event that is not declared
      yield* ChannelTest.assertBroadcast(channel, "subtracted")
      // @ts-expect-error a payload that lacks something
      yield* ChannelTest.broadcastFrom(channel, "added", { sum: 1 })
      const any: ChannelTest.TestChannel = channel
      yield* ChannelTest.push(any, "anything", [1])
    })
    assert.isTrue(Effect.isEffect(unused))
  })
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
      assert.include(first?.message, `no reply ok to ${ref.ref} on room:1 with {"a":2}`)
      assert.include(first?.message, `room:1: reply ok to ${ref.ref} {"a":1}`)
      assert.deepStrictEqual(first?.expected, { reply: ref.ref, status: "ok", payload: { a: 2 } })
      assert.deepStrictEqual(first?.actual, { reply: ref.ref, status: "ok", payload: { a: 1 } })
      assert.strictEqual(others.length, wrong.length - 1)
      const status = yield* failing(ChannelTest.assertReply(ref, "error"))
      assert.include(status.message, "no reply error")
      const push = yield* failing(ChannelTest.assertPush(channel, "nothing"))
      assert.include(push.message, "no push of nothing")
      assert.include(push.message, `room:1: reply ok to ${ref.ref} {"a":1}`)
      yield* ChannelTest.assertReply(ref, "ok", { a: 1 })
    }).pipe(Effect.provide(TestLive)))

  it.effect("fail where the test makes them, with the crash that explains it", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "unknown")
      const error = yield* failing(ChannelTest.assertReply(ref, "ok"))
      assert.include(error.message, "room:1: phx_error {\"reason\":\"channel_crash\"}")
      assert.include(error.message, "room:1 has crashed: Error: boom at unknown")
      const frames = (error.stack ?? "").slice(`AssertionError: ${error.message}\n`.length).split("\n")
      assert.include(frames[0], "ChannelTest.test.ts")
      yield* ChannelTest.drop(channel.socket)
      assert.include(
        (yield* failing(ChannelTest.assertPush(channel, "x"))).message,
        "The connection is closed, with 1012"
      )
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("show several candidates, and all that is there where none resembles", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      for (const n of [1, 2]) yield* ChannelTest.push(channel, "push", { n })
      const [several, none] = yield* Effect.all([
        failing(ChannelTest.assertPush(channel, "pushed", { n: 3 })),
        failing(ChannelTest.assertPush(channel, "other"))
      ], { concurrency: "unbounded" })
      const both = [1, 2].map((n) => ({ event: "pushed", payload: { n } }))
      assert.deepStrictEqual(several?.actual, both)
      assert.deepStrictEqual(several?.expected, { event: "pushed", payload: { n: 3 } })
      assert.deepStrictEqual(none?.actual, both)
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

describe("refute, while a handler is at work,", () => {
  it.effect("waits for what comes from a promise", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      for (let n = 0; n < 3; n++) {
        yield* ChannelTest.push(channel, "push after a promise", { n })
        const found = yield* failing(ChannelTest.refutePush(channel, "pushed", { n }))
        assert.include(found.message, "unexpected push of pushed")
        const ref = yield* ChannelTest.push(channel, "promise", { n })
        assert.include((yield* failing(ChannelTest.refuteReply(ref, "ok"))).message, "unexpected reply ok")
        yield* ChannelTest.push(channel, "broadcast within time", { n })
        assert.include(
          (yield* failing(ChannelTest.refuteBroadcast(channel, "shout", { n }))).message,
          "unexpected broadcast of shout"
        )
      }
    }).pipe(Effect.provide(TestLive)))

  it.effect("holds when what comes is something else", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "push after a promise", { n: 1 })
      yield* ChannelTest.refutePush(channel, "pushed", { n: 2 })
      // It has come by then.
      assert.deepStrictEqual(channel.socket.received.map(({ event }) => event), ["pushed"])
    }).pipe(Effect.provide(TestLive)))

  it.effect("sees what another channel of the node is going to broadcast", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const other = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
      yield* ChannelTest.push(other, "broadcast within time", { n: 1 })
      yield* failing(ChannelTest.refutePush(channel, "shout"))
    }).pipe(Effect.provide(TestLive)))

  it.effect("fails with the name of a channel that does not come to an end, unless it has found something", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "promise never")
      const assertions = [
        ChannelTest.refuteReply(ref, "ok"),
        ChannelTest.refutePush(channel, "pushed"),
        ChannelTest.refuteBroadcast(channel, "shout")
      ]
      for (const error of yield* Effect.forEach(assertions, failing, { concurrency: "unbounded" })) {
        assert.include(error.message, "after 1000 ms there are handlers at work")
        assert.include(error.message, "channel room:1")
        assert.include(error.stack, "ChannelTest.test.ts")
      }
      yield* ChannelTest.broadcastFrom(channel, "shout", {})
      assert.include((yield* failing(ChannelTest.refutePush(channel, "shout"))).message, "unexpected push")
    }).pipe(Effect.provide(TestLive)))

  it.effect("does not wait for one that sleeps on the clock", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "later", {})
      const start = performance.now()
      for (let n = 0; n < 10; n++) yield* ChannelTest.refuteReply(ref, "ok")
      assert.isBelow(performance.now() - start, 1000)
      yield* TestClock.adjust("1 minute")
      yield* failing(ChannelTest.refuteReply(ref, "ok"))
    }).pipe(Effect.provide(TestLive)))
})

describe("an expectation", () => {
  it.effect("that cannot be compared makes assertions and refutations fail, with a word on why", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "echo", { id: 1 })
      yield* ChannelTest.push(channel, "push", { id: 1 })
      yield* ChannelTest.push(channel, "shout", { id: 1 })
      yield* ChannelTest.assertPush(channel, "shout")
      const wrong: ReadonlyArray<unknown> = [
        /1/,
        { id: Promise.resolve(1) },
        { id: Effect.succeed(1) },
        () => undefined
      ]
      for (const expected of wrong) {
        const attempts = [
          ChannelTest.assertReply(ref, "ok", expected),
          ChannelTest.refuteReply(ref, "ok", expected),
          ChannelTest.assertPush(channel, "pushed", expected),
          ChannelTest.refutePush(channel, "pushed", expected),
          ChannelTest.assertBroadcast(channel, "shout", expected),
          ChannelTest.refuteBroadcast(channel, "shout", expected),
          ChannelTest.assertRefused(ChannelTest.connect(UserSocket, { token: "bad" }), expected)
        ]
        for (const attempt of attempts) {
          const error = yield* failing(Effect.asVoid(attempt))
          assert.match(error.message, /expectation|must return true or false/)
          assert.include(error.stack, "ChannelTest.test.ts")
        }
      }
      // Also where there is nothing that it could be compared with.
      yield* failing(ChannelTest.refutePush(channel, "nothing", /1/))
    }).pipe(Effect.provide(TestLive)))

  it.effect("that is a variable without a value accepts nothing", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const settings: { readonly expected?: { readonly n: number } } = {}
      const { expected } = settings
      for (let n = 0; n < 2; n++) {
        yield* ChannelTest.push(channel, "push", { n })
        const whole = ChannelTest.assertPush(channel, "pushed", expected)
        assert.include((yield* failing(whole)).message, "the expectation is undefined")
        assert.include((yield* failing(ChannelTest.refutePush(channel, "pushed", expected))).message, "is undefined")
        yield* ChannelTest.refutePush(channel, "pushed", { n: expected?.n })
        yield* ChannelTest.assertPush(channel, "pushed", { n, absent: expected?.n })
      }
    }).pipe(Effect.provide(TestLive)))
})

describe("a crash", () => {
  /** A test of its own: how it ends. */
  const outcome = <A, E>(
    body: Effect.Effect<A, E, Layer.Success<typeof TestLive> | Scope.Scope>
  ): Effect.Effect<string | undefined> =>
    body.pipe(
      Effect.provide(TestLive),
      Effect.provide(silent),
      Effect.scoped,
      Effect.exit,
      Effect.map((exit) => exit._tag === "Success" ? undefined : Cause.pretty(exit.cause))
    )
  type Attempt = Effect.Effect<unknown, unknown, Layer.Success<typeof TestLive> | Scope.Scope>
  const unnoticed = "the test has ended, and asserts nothing about a crash"
  const enter = Effect.flatMap(ChannelTest.connect(UserSocket), (socket) => ChannelTest.join(socket, Room, "room:1"))

  it.effect("that nothing in the test looks at makes it fail at its end", () =>
    Effect.gen(function*() {
      const tests = {
        "as the last thing that happens": Effect.flatMap(enter, (room) => ChannelTest.push(room, "die")),
        "before other assertions, which hold": Effect.gen(function*() {
          const room = yield* enter
          const other = yield* ChannelTest.join(room.socket, Room, "room:2")
          yield* ChannelTest.push(room, "die")
          yield* ChannelTest.assertReply(yield* ChannelTest.push(other, "echo", 1), "ok", 1)
          yield* ChannelTest.refutePush(other, "pushed")
        }),
        "of one channel, where that of another is expected": Effect.gen(function*() {
          const room = yield* enter
          const other = yield* ChannelTest.join(room.socket, Room, "room:2")
          yield* ChannelTest.push(room, "die")
          yield* ChannelTest.push(other, "die")
          yield* ChannelTest.assertCrashed(other)
        }),
        "of the second channel of a topic, where that of the first is expected": Effect.gen(function*() {
          const room = yield* enter
          yield* ChannelTest.push(room, "die")
          yield* ChannelTest.assertCrashed(room)
          yield* ChannelTest.push(yield* ChannelTest.join(room.socket, Room, "room:1"), "die")
        }),
        "on the way out, when the client has left": Effect.gen(function*() {
          const room = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:ends badly")
          yield* ChannelTest.assertReply(yield* ChannelTest.leave(room), "ok")
          yield* ChannelTest.assertClosed(room)
        }),
        "on the way out, at the end of the test": Effect.gen(function*() {
          yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:ends badly")
        }),
        "of a connection": Effect.map(enter, (room) => room.socket.server.receive("garbage")),
        "of a connection that is closed with another code than the test expects": Effect.gen(function*() {
          const { socket } = yield* enter
          yield* Process.exit(socket.server.pid, Process.crash(Cause.die("boom")))
        }),
        "after time has passed": Effect.gen(function*() {
          yield* ChannelTest.push(yield* enter, "die after a while")
          yield* TestClock.adjust("1 minute")
        }),
        "by a signal from outside": Effect.flatMap(enter, ({ pid }) =>
          Process.exit(pid, Process.crash(Cause.die("boom")))),
        "in a part of the test": Effect.scoped(Effect.flatMap(enter, (room) =>
          ChannelTest.push(room, "die")))
      }
      for (const [name, test] of Object.entries<Attempt>(tests)) {
        const ended = yield* outcome(Effect.asVoid(test))
        assert.include(ended, unnoticed, name)
        assert.include(ended, name.startsWith("of a connection") ? "the connection has crashed" : "room:", name)
      }
    }))

  it.effect("that is asserted, returned, taken from what the client received or allowed lets it pass", () =>
    Effect.gen(function*() {
      const crashed = Effect.tap(enter, (room) => ChannelTest.push(room, "die"))
      const tests = {
        "by assertCrashed": Effect.flatMap(crashed, ChannelTest.assertCrashed),
        "by assertPush": Effect.flatMap(crashed, (room) => ChannelTest.assertPush(room, "phx_error")),
        "by a failure that tells of it": Effect.flatMap(
          crashed,
          (room) => failing(ChannelTest.assertPush(room, "pushed"))
        ),
        "from received": Effect.gen(function*() {
          const room = yield* crashed
          yield* ChannelTest.settle
          assert.strictEqual(room.socket.received.splice(0).length, 1)
        }),
        "of a join": Effect.flatMap(
          ChannelTest.connect(UserSocket),
          (socket) => Effect.flip(ChannelTest.join(socket, Room, "room:1", "die"))
        ),
        "of a join with subscription": Effect.flatMap(
          ChannelTest.connect(UserSocket),
          (socket) => Effect.flip(ChannelTest.subscribeAndJoin(socket, Room, "room:1", "die"))
        ),
        "in terminate": Effect.gen(function*() {
          const room = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:ends badly")
          yield* ChannelTest.leave(room)
          const reason = yield* ChannelTest.assertCrashed(room)
          assert.strictEqual(reason._tag, "Crash")
          // Once only.
          yield* failing(ChannelTest.assertCrashed(room))
        }),
        "of a connection": Effect.gen(function*() {
          const { socket } = yield* enter
          socket.server.receive("garbage")
          yield* ChannelTest.assertDisconnected(socket, 1011)
        }),
        "allowed": Effect.flatMap(crashed, (room) => ChannelTest.allowCrashes(room.socket)),
        "in a part of the test": Effect.scoped(Effect.flatMap(crashed, ChannelTest.assertCrashed))
      }
      for (const [name, test] of Object.entries<Attempt>(tests)) {
        assert.isUndefined(yield* outcome(Effect.asVoid(test)), name)
      }
    }))

  it.effect("is no news in a test that fails anyway", () =>
    Effect.gen(function*() {
      const ended = yield* outcome(
        Effect.flatMap(enter, (room) => Effect.andThen(ChannelTest.push(room, "die"), Effect.fail("something else")))
      )
      assert.include(ended, "something else")
      assert.notInclude(ended, unnoticed)
    }))

  it.effect("of no other kind: a refusal, a stop, a leave, a kill and a drop are none", () =>
    Effect.gen(function*() {
      const ended = yield* outcome(Effect.gen(function*() {
        const { pid, socket } = yield* enter
        yield* ChannelTest.assertRefused(ChannelTest.join(socket, Room, "room:2", "refuse"))
        yield* ChannelTest.push(yield* ChannelTest.join(socket, Room, "room:2"), "stop")
        yield* ChannelTest.leave(yield* ChannelTest.join(socket, Room, "room:3"))
        yield* Process.exit(pid, Process.killed)
        yield* ChannelTest.drop(socket)
      }))
      assert.isUndefined(ended)
    }))
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

  it.effect("close waits until the channel has ended with closed, unheard by the client, and harmless afterwards", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const other = yield* ChannelTest.join(channel.socket, Room, "room:2")
      const last = yield* ChannelTest.push(channel, "echo", 1)
      yield* ChannelTest.close(channel)
      assert.deepStrictEqual(ended, [Process.shutdown("closed")])
      assert.isFalse(yield* Process.alive(channel.pid))
      // What was sent before is handled before.
      yield* ChannelTest.assertReply(last, "ok", 1)
      for (const event of ["phx_close", "phx_error"]) yield* ChannelTest.refutePush(channel, event)
      yield* ChannelTest.close(channel)
      yield* ChannelTest.assertReply(yield* ChannelTest.leave(channel), "ok")
      yield* ChannelTest.assertReply(yield* ChannelTest.push(other, "echo", 1), "ok", 1)
      yield* ChannelTest.join(channel.socket, Room, "room:1")
      assert.deepStrictEqual(ended, [Process.shutdown("closed")])
    }).pipe(Effect.provide(TestLive)))

  it.effect("close kills a channel that does not end in time, without terminate", () =>
    Effect.gen(function*() {
      for (const [timeout, millis] of [[undefined, 5000], ["1 second", 1000]] as const) {
        const channel = yield* joined
        yield* ChannelTest.push(channel, "hang")
        const closing = yield* Effect.forkChild(ChannelTest.close(channel, timeout), { startImmediately: true })
        yield* TestClock.adjust(millis - 1)
        assert.isTrue(yield* Process.alive(channel.pid))
        yield* TestClock.adjust(1)
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* Process.awaitExit(channel.pid), Process.killed)
        assert.deepStrictEqual(ended, [])
      }
    }).pipe(Effect.provide(TestLive)))

  it.effect("assertClosed and assertCrashed tell a stop from a crash, and leave is harmless after both", () =>
    Effect.gen(function*() {
      const stopped = yield* joined
      const crashing = yield* ChannelTest.join(stopped.socket, Room, "room:2")
      yield* ChannelTest.push(stopped, "stop")
      yield* ChannelTest.push(crashing, "die")
      yield* ChannelTest.refutePush(stopped, "phx_error")
      yield* ChannelTest.refutePush(crashing, "phx_close")
      yield* ChannelTest.assertClosed(stopped)
      assert.deepStrictEqual(yield* Process.awaitExit(stopped.pid), Process.normal)
      const reason = yield* ChannelTest.assertCrashed(crashing)
      assert(reason._tag === "Crash")
      assert.include(Cause.pretty(reason.cause), "boom at die")
      for (const channel of [stopped, crashing]) {
        yield* ChannelTest.assertReply(yield* ChannelTest.leave(channel), "ok")
      }
      const missing = [stopped, crashing].flatMap((channel) => [
        Effect.asVoid(ChannelTest.assertClosed(channel)),
        Effect.asVoid(ChannelTest.assertCrashed(channel))
      ])
      yield* Effect.forEach(missing, failing, { concurrency: "unbounded" })
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("assertRefused wants a refusal: neither a welcome, nor a crash, nor another reason", () =>
    Effect.gen(function*() {
      const bad = ChannelTest.connect(UserSocket, { token: "bad" })
      assert.strictEqual(yield* ChannelTest.assertRefused(bad), "bad token")
      yield* ChannelTest.assertRefused(bad, "bad token")
      const other = yield* failing(ChannelTest.assertRefused(bad, "expired"))
      assert.deepStrictEqual([other.expected, other.actual], ["expired", "bad token"])
      assert.include(
        (yield* failing(ChannelTest.assertRefused(ChannelTest.connect(UserSocket)))).message,
        "not refused"
      )
      const socket = yield* ChannelTest.connect(UserSocket)
      const crash = yield* Effect.exit(ChannelTest.assertRefused(ChannelTest.join(socket, Room, "room:1", "die")))
      assert(crash._tag === "Failure")
      assert.include(Cause.pretty(crash.cause), "the join of room:1 crashed")
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

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
      yield* ChannelTest.assertDisconnected(socket)
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
