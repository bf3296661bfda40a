/** Heartbeats are answered, whatever else a connection waits for, and cannot be sent without limit. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"
import { failed, node, ok, open, type Peer } from "./support/connection.ts"

let gate = Deferred.makeUnsafe<void>()
const handled: Array<unknown> = []

/** A join with `wait` waits for the gate, as does an event `wait`, and the end of a channel that has joined with `slow`. */
const Room = Channel.make("room:*")
const RoomLive = Room.layer((_room, payload) =>
  Effect.as(payload === "wait" ? Deferred.await(gate) : Effect.void, {
    handleIn: (event: string, payload: unknown) =>
      Effect.map(event === "wait" ? Deferred.await(gate) : Effect.void, () => (handled.push(payload), Channel.ok())),
    terminate: () => payload === "slow" ? Deferred.await(gate) : Effect.void
  }), { mailbox: { capacity: 2 } })

const start = (options: Omit<Socket.Options<readonly [typeof Room]>, "channels"> = {}) => {
  gate = Deferred.makeUnsafe<void>()
  handled.length = 0
  return node({ channels: [Room], ...options }, RoomLive)
}

const opened = Effect.suspend(() => Deferred.succeed(gate, undefined))

const beat = (ref: string) => [null, ref, "phoenix", "heartbeat", {}] as const
const beaten = (ref: string) => ok(null, ref, "phoenix")

/** A heartbeat is answered at once, and by nothing else. */
const lives = (peer: Peer, ref: string) =>
  Effect.map(peer.send(...beat(ref)), (received) => assert.deepStrictEqual(received, [beaten(ref)]))

describe("a heartbeat is answered", () => {
  const cases: ReadonlyArray<readonly [name: string, hold: (peer: Peer) => Effect.Effect<unknown, never, never>]> = [
    ["while a join is held up", (peer) => Effect.sync(() => peer.write("1", "1", "room:1", "phx_join", "wait"))],
    [
      "while a join waits for the end of the channel that it replaces",
      (peer) =>
        Effect.sync(() => {
          peer.write("1", "1", "room:1", "phx_join", "slow")
          peer.write("2", "2", "room:1", "phx_join", {})
        })
    ],
    [
      "while a thousand frames wait for a join",
      (peer) =>
        Effect.sync(() => {
          peer.write("1", "1", "room:1", "phx_join", "wait")
          for (let n = 0; n < 2000; n++) peer.write("1", null, "room:1", "x", n)
        })
    ],
    [
      "while a channel is full",
      (peer) =>
        Effect.sync(() => {
          peer.write("1", "1", "room:1", "phx_join", {})
          for (let n = 0; n < 10; n++) peer.write("1", null, "room:1", "wait", n)
        })
    ]
  ]
  for (const [name, hold] of cases) {
    for (const version of ["v1", "v2"] as const) {
      it.effect(`${name} (${version})`, () => {
        const { acceptor, layer } = start()
        return Effect.gen(function*() {
          const peer = yield* open(yield* acceptor, undefined, Serializer[version])
          if (version === "v1") {
            peer.write = (join_ref, ref, topic, event, payload) =>
              peer.server.receive(JSON.stringify({ topic, event, payload, ref, join_ref }))
          }
          yield* hold(peer)
          yield* peer.send()
          peer.write(...beat("b1"))
          const [answer, ...more] = yield* peer.send()
          assert.deepStrictEqual(more, [])
          assert.strictEqual(version === "v1" ? Object(answer).ref : Object(answer)[1], "b1")
          yield* opened
        }).pipe(Effect.scoped, Effect.provide(layer))
      })
    }
  }

  it.effect("in a binary frame, and in a format of the application", () => {
    const { acceptor, layer } = start()
    const own: Serializer.Serializer = {
      ...Serializer.v2,
      name: "own",
      decode: (data, opcode) =>
        Serializer.v2.decode(typeof data === "string" ? Buffer.from(data, "base64").toString() : data, opcode)
    }
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made)
      peer.write("1", "1", "room:1", "phx_join", "wait")
      yield* peer.send()
      const field = (text: string) => [...Buffer.from(text)]
      const topic = field("phoenix")
      const event = field("heartbeat")
      peer.server.receive(Uint8Array.from([0, 0, 1, topic.length, event.length, 0x37, ...topic, ...event]))
      assert.deepStrictEqual(yield* peer.send(), [beaten("7")])

      const other = yield* open(made, undefined, own)
      const write = (...frame: ReadonlyArray<unknown>) =>
        other.server.receive(Buffer.from(JSON.stringify(frame)).toString("base64"))
      write("1", "1", "room:1", "phx_join", "wait")
      yield* other.send()
      write(...beat("8"))
      assert.deepStrictEqual(yield* other.send(), [beaten("8")])
      yield* opened
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("in its turn where nothing is in the way", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      peer.write("1", "1", "room:1", "phx_join", {})
      peer.write(...beat("2"))
      peer.write("1", "3", "room:2", "x", {})
      assert.deepStrictEqual(yield* peer.send(), [
        ok("1", "1", "room:1"),
        beaten("2"),
        failed(null, "3", "room:2", "unmatched topic")
      ])
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("at a rate of ten a second, after a hundred at once; more are answered an error and counted", () => {
    const { acceptor, layer, warnings } = start({ maxMessageRate: { perSecond: 1, burst: 1 } })
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor, "me")
      const before = peer.server.meter.limited.heartbeats
      for (let n = 1; n <= 100; n++) yield* lives(peer, String(n))
      const tooMany = failed(null, "101", "phoenix", "too many heartbeats")
      assert.deepStrictEqual(yield* peer.send(...beat("101")), [tooMany])
      assert.strictEqual(peer.server.meter.limited.heartbeats - before, 1)
      assert.deepStrictEqual(warnings().map(({ text }) => text), ["a client is denied: too many heartbeats"])
      assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", id: "me", transport: "test" })
      yield* TestClock.adjust("100 millis")
      yield* lives(peer, "102")
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("at a rate that can be set, or at any, also out of turn", () => {
    const { acceptor, layer } = start({ maxHeartbeatRate: { perSecond: 1, burst: 2 } })
    const free = start({ maxHeartbeatRate: false })
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      peer.write("1", "1", "room:1", "phx_join", "wait")
      yield* lives(peer, "1")
      yield* lives(peer, "2")
      assert.deepStrictEqual(yield* peer.send(...beat("3")), [failed(null, "3", "phoenix", "too many heartbeats")])
      yield* opened
    }).pipe(
      Effect.scoped,
      Effect.provide(layer),
      Effect.andThen(
        Effect.gen(function*() {
          const peer = yield* open(yield* free.acceptor)
          for (let n = 0; n < 1000; n++) peer.write(...beat("1"))
          const received = yield* peer.send()
          assert.deepStrictEqual(received, Array.from({ length: 1000 }, () => beaten("1")))
        }).pipe(Effect.scoped, Effect.provide(free.layer))
      )
    )
  })
})

describe("what waits for a join", () => {
  it.effect("keeps its order, towards each channel and in all", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      peer.write("1", "1", "room:1", "phx_join", {})
      peer.write("2", "2", "room:2", "phx_join", "wait")
      peer.write("1", "3", "room:1", "x", "a")
      peer.write("2", "4", "room:2", "x", "b")
      peer.write("3", "5", "room:3", "phx_join", {})
      peer.write("1", "6", "room:1", "x", "c")
      peer.write("3", "7", "room:3", "phx_leave", {})
      assert.deepStrictEqual(yield* peer.send(), [ok("1", "1", "room:1")])
      yield* opened
      const received = yield* peer.send()
      assert.deepStrictEqual(received.slice(0, 2), [ok("2", "2", "room:2"), ok("3", "5", "room:3")])
      assert.deepStrictEqual(handled, ["a", "c", "b"])
      assert.deepStrictEqual(received.slice(2).map((frame) => Object(frame)[1]), ["3", "6", "4", "7", "3"])
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("finds a malformed frame in its turn", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      peer.write("1", "1", "room:1", "phx_join", "wait")
      peer.server.receive("garbage")
      yield* lives(peer, "2")
      assert.deepStrictEqual(peer.codes, [])
      yield* opened
      assert.deepStrictEqual(yield* peer.send(), [ok("1", "1", "room:1")])
      assert.deepStrictEqual(peer.codes, [1011])
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("of more than a thousand is not read for 5 seconds; then more are denied, and all that waited is handled", () => {
    const { acceptor, layer, warnings } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      peer.write("1", "1", "room:1", "phx_join", "wait")
      yield* peer.send()
      for (let n = 0; n < 999; n++) peer.write(null, `${n}`, "nothing", "x", {})
      assert.deepStrictEqual(peer.pauses, [])
      peer.write(null, "999", "nothing", "x", {})
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* TestClock.adjust("4999 millis")
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      yield* lives(peer, "b")
      const denied = yield* peer.send(null, "1000", "nothing", "x", {})
      assert.deepStrictEqual(denied, [failed(null, "1000", "nothing", "too many messages")])
      assert.deepStrictEqual(warnings().map(({ text }) => text), ["a client is denied: too many messages"])
      yield* opened
      const received = yield* peer.send()
      assert.deepStrictEqual(received.length, 1001)
      assert.deepStrictEqual(received.at(-1), failed(null, "999", "nothing", "unmatched topic"))
      // It can wait again.
      peer.write("1", "2", "room:1", "x", "later")
      yield* peer.send()
      assert.deepStrictEqual(handled, ["later"])
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
    }).pipe(Effect.scoped, Effect.provide(layer))
  })

  it.effect("is forgotten when the connection ends, and nothing is left", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const made = yield* acceptor
      for (const join of ["wait", "slow"]) {
        const peer = yield* open(made)
        peer.write("1", "1", "room:1", "phx_join", join)
        peer.write("2", "2", "room:1", "phx_join", "wait")
        for (let n = 0; n < 1500; n++) peer.write("1", null, "room:1", "x", n)
        yield* peer.send()
        peer.server.closed({ _tag: "Shutdown", detail: "peer_closed" })
        yield* TestClock.adjust("10 seconds")
        assert.isFalse(peer.server.process.alive)
        assert.strictEqual(made.runtime.channelGroup.children.size, 0)
      }
      assert.deepStrictEqual(handled, [])
      assert.strictEqual(made.runtime.system.timers.size, 0)
    }).pipe(Effect.scoped, Effect.provide(layer))
  })
})

describe("the subscription to the id of a connection", () => {
  /** An adapter that takes its time. */
  const adapted = (joined: Effect.Effect<void>) => {
    const Id = Socket.make("id_socket", { channels: [] })
    const deliver: { to?: (topic: string, message: unknown) => void } = {}
    const layer = Id.layer(() => Effect.succeed(Socket.accept())).pipe(
      Layer.provideMerge(PubSub.layerAdapter((to) => {
        deliver.to = to
        return Effect.succeed({
          node: "a",
          broadcast: () => Effect.void,
          direct: () => Effect.void,
          joined: () => joined,
          left: () => Effect.void
        })
      }))
    )
    return { layer, acceptor: Socket.acceptor(Id), deliver }
  }

  it.effect("is in the way of nothing, and brings a disconnect of another node once it is live", () =>
    Effect.gen(function*() {
      const live = yield* Deferred.make<void>()
      const { acceptor, deliver, layer } = adapted(Deferred.await(live))
      yield* Effect.gen(function*() {
        const peer = yield* open(yield* acceptor, "user:1")
        peer.write(...beat("1"))
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(peer.received.splice(0), [beaten("1")])
        yield* Deferred.succeed(live, undefined)
        yield* TestClock.adjust(0)
        deliver.to?.("user:1", { _tag: "Broadcast", topic: "user:1", event: "disconnect", payload: {} })
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(peer.codes, [1001])
      }).pipe(Effect.scoped, Effect.provide(layer))
    }))

  it.effect("ends with a connection that ends meanwhile", () =>
    Effect.gen(function*() {
      const live = yield* Deferred.make<void>()
      const { acceptor, layer } = adapted(Deferred.await(live))
      yield* Effect.gen(function*() {
        const pubsub = yield* PubSub.PubSub
        const peer = yield* open(yield* acceptor, "user:1")
        yield* TestClock.adjust(0)
        assert.strictEqual(pubsub.subscriberCount("user:1"), 1)
        peer.server.closed({ _tag: "Shutdown", detail: "peer_closed" })
        yield* TestClock.adjust(0)
        assert.isFalse(peer.server.process.alive)
        assert.strictEqual(pubsub.subscriberCount("user:1"), 0)
        yield* Deferred.succeed(live, undefined)
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(pubsub.topics(), [])
      }).pipe(Effect.scoped, Effect.provide(layer))
    }))

  it.effect("that dies takes its connection with it", () =>
    Effect.gen(function*() {
      const { acceptor, layer } = adapted(Effect.andThen(Effect.yieldNow, Effect.die(new Error("no subscriptions"))))
      yield* Effect.gen(function*() {
        const peer = yield* open(yield* acceptor, "user:1")
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(peer.codes, [1011])
      }).pipe(Effect.scoped, Effect.provide(layer))
    }))
})
