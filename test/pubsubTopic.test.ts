/** Channels that live on a topic of the PubSub which is not the one of the wire. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Presence from "../src/Presence.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"
import { ok, open } from "./support/connection.ts"

const Online = Presence.make("online")

const handlers = (room: Channel.Self, payload: unknown) =>
  Effect.gen(function*() {
    if (payload === "track") yield* Effect.orDie(Online.track(room, "ada", {}))
    return {
      reply: { pubsubTopic: room.pubsubTopic },
      handleIn: (event: string, payload: unknown) => Effect.as(room.broadcast(event, payload), Channel.noReply)
    }
  })

const Public = Channel.make("room:*")
const Private = Channel.make("room:*", { pubsubTopic: (topic) => `private:${topic}` })
const Alias = Channel.make("alias:*", { pubsubTopic: (topic) => `private:room:${topic.slice("alias:".length)}` })
const Broken = Channel.make("broken:*", {
  pubsubTopic: () => {
    throw new Error("no topic")
  }
})
const Nameless = Channel.make("nameless:*", { pubsubTopic: () => "" })

const PublicSocket = Socket.make("public", { channels: [Public] })
const PrivateSocket = Socket.make("private", { channels: [Private, Alias, Broken, Nameless] })
const live = Layer.mergeAll(
  Public.layer(handlers),
  Private.layer((room, payload) => handlers(room as Channel.Self, payload)),
  Alias.layer((room, payload) => handlers(room as Channel.Self, payload)),
  Broken.layer(() => Effect.void),
  Nameless.layer(() => Effect.void),
  PublicSocket.layer(() => Effect.succeed(Socket.accept())),
  PrivateSocket.layer(() => Effect.succeed(Socket.accept()))
).pipe(Layer.provideMerge(Online.layer()), Layer.provideMerge(ChannelTest.layer))

const push = (topic: string, event: string, payload: unknown) => [null, null, topic, event, payload]

const clients = Effect.gen(function*() {
  const inside = yield* Socket.acceptor(PrivateSocket)
  const outside = yield* Socket.acceptor(PublicSocket)
  const [alice, bob, old] = [yield* open(inside), yield* open(inside), yield* open(inside, undefined, Serializer.v1)]
  const carol = yield* open(outside)
  yield* alice.send("1", "1", "room:1", "phx_join", {})
  yield* bob.send("1", "1", "alias:1", "phx_join", {})
  old.server.receive(JSON.stringify({ topic: "alias:1", event: "phx_join", ref: "1", payload: {} }))
  yield* old.send()
  yield* carol.send("1", "1", "room:1", "phx_join", {})
  return { alice, bob, old, carol }
})

describe("a channel with a topic of the PubSub of its own", () => {
  it.effect("does not hear a channel of another socket with the same name", () =>
    Effect.gen(function*() {
      const { alice, carol } = yield* clients
      assert.deepStrictEqual(yield* alice.send("1", "2", "room:1", "said", { a: 1 }), [
        push("room:1", "said", { a: 1 })
      ])
      assert.deepStrictEqual(yield* carol.send(), [])
      assert.deepStrictEqual(yield* carol.send("1", "2", "room:1", "said", { b: 1 }), [
        push("room:1", "said", { b: 1 })
      ])
      assert.deepStrictEqual(yield* alice.send(), [])
      const pubsub = yield* PubSub.PubSub
      assert.strictEqual(pubsub.subscriberCount("private:room:1"), 3)
      assert.strictEqual(pubsub.subscriberCount("room:1"), 1)
    }).pipe(Effect.scoped, Effect.provide(live)))

  it.effect("hears one of another name on the same topic; each client sees the name that it has joined", () =>
    Effect.gen(function*() {
      const { alice, bob, old } = yield* clients
      const sources: ReadonlyArray<Effect.Effect<unknown, unknown, PubSub.PubSub>> = [
        Private.broadcast("room:1", "said", { a: 1 }),
        Alias.broadcast("alias:1", "said", { a: 1 }),
        Endpoint.broadcast("private:room:1", "said", { a: 1 })
      ]
      for (const broadcast of sources) {
        yield* broadcast
        assert.deepStrictEqual(yield* alice.send(), [push("room:1", "said", { a: 1 })])
        assert.deepStrictEqual(yield* bob.send(), [push("alias:1", "said", { a: 1 })])
        assert.deepStrictEqual(yield* old.send(), [{ topic: "alias:1", event: "said", ref: null, payload: { a: 1 } }])
      }
      yield* Endpoint.broadcast("room:1", "said", {})
      assert.deepStrictEqual(yield* alice.send(), [])
    }).pipe(Effect.scoped, Effect.provide(live)))

  it.effect("knows it, and the client does not", () =>
    Effect.gen(function*() {
      const peer = yield* open(yield* Socket.acceptor(PrivateSocket))
      assert.deepStrictEqual(yield* peer.send("1", "1", "room:1", "phx_join", {}), [
        ok("1", "1", "room:1", { pubsubTopic: "private:room:1" })
      ])
      assert.deepStrictEqual((yield* peer.send("1", "2", "room:1", "phx_leave", {}))[1], [
        "1",
        "1",
        "room:1",
        "phx_close",
        {}
      ])
      const outside = yield* open(yield* Socket.acceptor(PublicSocket))
      assert.deepStrictEqual(yield* outside.send("1", "1", "room:1", "phx_join", {}), [
        ok("1", "1", "room:1", { pubsubTopic: "room:1" })
      ])
    }).pipe(Effect.scoped, Effect.provide(live)))

  it.effect("is present there, and its members are told by the name that they have joined", () =>
    Effect.gen(function*() {
      const { alice, bob, carol } = yield* clients
      const member = yield* open(yield* Socket.acceptor(PrivateSocket))
      yield* member.send("9", "9", "room:1", "phx_join", "track")
      const diffs = [...yield* alice.send(), ...yield* bob.send()].map((frame) => Object(frame).slice(2, 4))
      assert.deepStrictEqual(diffs, [["room:1", "presence_diff"], ["alias:1", "presence_diff"]])
      assert.deepStrictEqual(yield* carol.send(), [])
      assert.deepStrictEqual(Object.keys(yield* Online.list("private:room:1")), ["ada"])
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), [])
    }).pipe(Effect.scoped, Effect.provide(live)))

  it.effect("whose function throws, or names nothing, cannot be joined: its owner is told", () =>
    Effect.gen(function*() {
      const peer = yield* open(yield* Socket.acceptor(PrivateSocket))
      for (const topic of ["broken:1", "nameless:1"]) {
        const [reply] = yield* peer.send("1", "1", topic, "phx_join", {})
        assert.deepStrictEqual(Object(reply)[4], { status: "error", response: { reason: "join crashed" } })
      }
      assert.deepStrictEqual(peer.codes, [])
    }).pipe(Effect.scoped, Effect.provide(live)))

  it.effect("is that of assertBroadcast", () =>
    Effect.gen(function*() {
      const socket = yield* ChannelTest.connect(PrivateSocket)
      const room = yield* ChannelTest.subscribeAndJoin(socket, Private, "room:1")
      yield* ChannelTest.push(room, "said", { a: 1 })
      yield* ChannelTest.assertBroadcast(room, "said", { a: 1 })
      yield* ChannelTest.assertPush(room, "said", { a: 1 })
    }).pipe(Effect.scoped, Effect.provide(live)))
})

describe("Endpoint.disconnect", () => {
  const connected = <A, E>(
    body: (peer: Effect.Success<ReturnType<typeof open>>) => Effect.Effect<A, E, PubSub.PubSub>
  ) =>
    Effect.gen(function*() {
      return yield* body(yield* open(yield* Socket.acceptor(PublicSocket), "user:1"))
    }).pipe(Effect.scoped, Effect.provide(live))

  for (const [code, expected] of [[undefined, 1001], [1000, 1000], [1013, 1013], [3000, 3000], [4999, 4999]] as const) {
    it.effect(`closes with ${code ?? "1001 where no code is given"}`, () =>
      connected((peer) =>
        Effect.gen(function*() {
          yield* Endpoint.disconnect("user:1", { code })
          yield* Endpoint.disconnect("user:1", { code: 4001 })
          yield* ChannelTest.settle
          assert.deepStrictEqual(peer.codes, [expected])
        }) as Effect.Effect<void, never, PubSub.PubSub>
      ))
  }

  it("refuses what is no close code that a server may send", () => {
    for (const code of [NaN, 0, 999, 1004, 1005, 1006, 1010, 1015, 2000, 2999, 5000, 1001.5, "4000", null, Infinity]) {
      assert.throws(
        () => Endpoint.disconnect("user:1", { code: code as number }),
        /^code must be a close code/,
        String(code)
      )
    }
  })

  it.effect("of a node with another version closes with 1001, whatever its payload is", () =>
    Effect.gen(function*() {
      const acceptor = yield* Socket.acceptor(PublicSocket)
      for (const payload of [{}, null, { code: 5 }, { code: "4000" }, "x"]) {
        const peer = yield* open(acceptor, "user:1")
        yield* PubSub.broadcast("user:1", { _tag: "Broadcast", topic: "user:1", event: "disconnect", payload })
        yield* ChannelTest.settle
        assert.deepStrictEqual(peer.codes, [1001])
      }
    }).pipe(Effect.scoped, Effect.provide(live)))
})
