/** Clients that send what takes much time or memory: it is bounded for each of them, and for all together. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Message from "../src/Message.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import type * as Socket from "../src/Socket.ts"
import { failed, node, ok, open } from "./support/connection.ts"

let gate = Deferred.makeUnsafe<void>()
const handled: Array<unknown> = []

const Room = Channel.make("room:*", { intercept: ["slow"] })
const RoomLive = Room.layer(() =>
  Effect.succeed({
    handleIn: (event, payload) =>
      Effect.map(event === "wait" ? Deferred.await(gate) : Effect.void, () => {
        handled.push(payload)
        return Channel.ok()
      }),
    handleOut: { slow: () => Deferred.await(gate) }
  }), { mailbox: { capacity: 100 } })

const start = (options: Omit<Socket.Options<readonly [typeof Room]>, "channels"> = {}) => {
  gate = Deferred.makeUnsafe<void>()
  handled.length = 0
  return node({ channels: [Room], ...options }, RoomLive)
}

const opened = Effect.suspend(() => Deferred.succeed(gate, undefined))

/** A payload with which a frame of V2 has so many values. */
const values = (count: number) => Array.from({ length: count - 5 }, (_, n) => n)

describe("the values of a message", () => {
  for (const version of ["v1", "v2"] as const) {
    it.effect(`are as many as maxValues; one more, and the connection is closed with 1009 (${version})`, () => {
      const { acceptor, layer, warnings } = start({ maxValues: 20_000 })
      return Effect.gen(function*() {
        const peer = yield* open(yield* acceptor, "me", Serializer[version])
        // The names of an object count as well.
        const most = version === "v1" ? 20_000 - 5 : 20_000
        const write = (join_ref: unknown, ref: unknown, topic: unknown, event: unknown, payload: unknown) =>
          peer.server.receive(JSON.stringify(
            version === "v1" ? { topic, event, payload, ref, join_ref } : [join_ref, ref, topic, event, payload]
          ))
        write("1", "1", "room:1", "phx_join", {})
        yield* peer.send()
        const before = peer.server.meter.limited.values
        write("1", "2", "room:1", "x", values(most))
        yield* peer.send()
        assert.deepStrictEqual([handled.length, peer.codes], [1, []])
        write("1", "3", "room:1", "x", values(most + 1))
        yield* peer.send()
        assert.deepStrictEqual([handled.length, peer.codes], [1, [1009]])
        assert.strictEqual(peer.server.meter.limited.values - before, 1)
        assert.deepStrictEqual(warnings().map(({ text }) => text), [
          "a client sends a message of too many values: it is closed with 1009; raise maxValues to take it"
        ])
        assert.deepInclude(warnings()[0]?.annotations, { id: "me", transport: "test", maxValues: 20_000 })
      }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
    })
  }

  it.effect("are 120,000 by default, and any number where that is asked for, or in a format of the application", () => {
    const own: Serializer.Serializer = { ...Serializer.v2, name: "own" }
    return Effect.gen(function*() {
      for (
        const [options, serializer, codes] of [
          [{}, Serializer.v2, [1009]],
          [{ maxValues: Infinity }, Serializer.v2, []],
          [{}, own, []]
        ] as const
      ) {
        const { acceptor, layer } = start(options)
        yield* Effect.gen(function*() {
          const peer = yield* open(yield* acceptor, undefined, serializer)
          yield* peer.send("1", "1", "room:1", "phx_join", {})
          yield* peer.send("1", "2", "room:1", "x", values(120_000))
          assert.deepStrictEqual(peer.codes, [])
          yield* peer.send("1", "3", "room:1", "x", values(120_001))
          assert.deepStrictEqual(peer.codes, [...codes])
        }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
      }
    })
  })

  it.effect("weigh more than their bytes while they are in memory, and are given back", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 1_000_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      yield* peer.send("1", "2", "room:1", "wait", Array.from({ length: 10_000 }, () => []))
      assert.isAbove(made.runtime.inboxes.used, 90_000)
      const other = yield* open(made)
      yield* other.send("1", "1", "room:1", "phx_join", {})
      yield* other.send("1", "2", "room:1", "wait", "x".repeat(30_000))
      assert.isBelow(made.runtime.inboxes.used, 130_000)
      yield* opened
      yield* peer.send()
      assert.strictEqual(made.runtime.inboxes.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("a client that sends on though its messages are denied", () => {
  it.effect("is heard a little every second", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      for (let n = 0; n < 200; n++) peer.write("1", "2", "room:1", "wait", n)
      yield* peer.send()
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      for (let round = 0; round < 3; round++) {
        peer.pauses.length = 0
        for (let n = 0; n < 64; n++) peer.write("1", "3", "room:1", "x", n)
        yield* peer.send()
        assert.deepStrictEqual(peer.pauses, [])
        peer.write("1", "3", "room:1", "x", 64)
        assert.deepStrictEqual(peer.pauses, ["pause"])
        // Messages that were on their way are answered all the same.
        peer.write(null, "b", "phoenix", "heartbeat", {})
        const received = yield* peer.send()
        assert.deepInclude(received, ok(null, "b", "phoenix"))
        assert.deepInclude(received, failed("1", "3", "room:1", "too many messages"))
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual(peer.pauses, ["pause"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      }
      assert.deepStrictEqual(peer.codes, [])
      yield* opened
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("what many clients do not give back", () => {
  it.effect("leaves room for small messages of the next one", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 200_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      for (let n = 0; n < 20; n++) {
        const hog = yield* open(made)
        yield* hog.send("1", "1", "room:1", "phx_join", {})
        for (let sent = 0; sent < 50; sent++) hog.write("1", "2", "room:1", "wait", "x".repeat(4000))
        yield* hog.send()
      }
      const peer = yield* open(made)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      for (let n = 0; n < 3; n++) peer.write("1", "2", "room:1", "x", "x".repeat(2000))
      yield* peer.send()
      assert.strictEqual(handled.length, 3)
      yield* opened
      yield* ChannelTest.settle
      assert.strictEqual(made.runtime.inboxes.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("is no reason to wait for a client whose own messages have been handled", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 10_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const hog = yield* open(made)
      yield* hog.send("1", "1", "room:1", "phx_join", {})
      yield* hog.send("1", "2", "room:1", "wait", "x".repeat(16_500))
      const peer = yield* open(made)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      // The two of them are more than it has for itself.
      for (let n = 0; n < 4; n++) peer.write("1", "2", "room:1", "x", "x".repeat(3000))
      yield* peer.send()
      assert.strictEqual(handled.length, 4)
      yield* opened
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("what waits for slow channels of a mount", () => {
  /** Slow channels of their own topics, and what they are sent. */
  const rooms = (count: number) => {
    const made = start({ maxSharedInfoBytes: 1_000_000 })
    return {
      ...made,
      run: Effect.gen(function*() {
        const acceptor = yield* made.acceptor
        const peers = yield* Effect.forEach(Array.from({ length: count }, (_, n) => n), (n) =>
          Effect.gen(function*() {
            const peer = yield* open(acceptor)
            yield* peer.send("1", "1", `room:${n % 3}`, "phx_join", {})
            return peer
          }))
        const say = (room: number, bytes: number) =>
          Effect.andThen(
            PubSub.broadcast(`room:${room}`, Message.broadcast(`room:${room}`, "slow", { text: "x".repeat(bytes) })),
            ChannelTest.settle
          )
        return { acceptor, peers, say }
      })
    }
  }

  it.effect("counts once for all whom it waits for, and not when they are gone", () => {
    const { layer, run } = rooms(30)
    return Effect.gen(function*() {
      const { acceptor, peers, say } = yield* run
      const { retained } = acceptor.runtime
      for (let n = 0; n < 5; n++) yield* say(0, 100_000)
      // The message in hand is not counted.
      assert.isAtLeast(retained.used, 400_000)
      assert.isAtMost(retained.used, 401_000)
      for (const peer of peers) peer.server.process.kill()
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(retained.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("is maxSharedInfoBytes at most: then those crash that are furthest behind", () => {
    const { layer, run, warnings } = rooms(3)
    return Effect.gen(function*() {
      const { acceptor, peers, say } = yield* run
      const { retained } = acceptor.runtime
      const before = peers[0]?.server.meter.limited.infos ?? 0
      // In hand.
      for (let room = 0; room < 3; room++) yield* say(room, 10)
      for (let n = 0; n < 5; n++) yield* say(0, 100_000)
      for (let n = 0; n < 4; n++) yield* say(1, 100_000)
      yield* say(2, 60_000)
      assert.deepStrictEqual(peers.map(({ server }) => server.channels.length), [1, 1, 1])
      yield* say(1, 60_000)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(peers.map(({ server }) => server.channels.length), [0, 1, 1])
      assert.isBelow(retained.used, 600_000)
      assert.strictEqual((peers[0]?.server.meter.limited.infos ?? 0) - before, 1)
      assert.match(String(warnings()[0]?.text), /^more waits for slow channels than maxSharedInfoBytes/)
      yield* opened
      yield* ChannelTest.settle
      assert.strictEqual(retained.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})
