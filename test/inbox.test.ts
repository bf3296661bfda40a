/** Messages that wait for channels and connections are bounded, in number and in bytes. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import type * as Socket from "../src/Socket.ts"
import { failed, node, ok, open } from "./support/connection.ts"

let gate = Deferred.makeUnsafe<void>()
const handled: Array<unknown> = []
const ended: Array<string> = []

/** Handles nothing before the gate opens, but events that are called `now`. */
const waiting = () =>
  Effect.succeed({
    handleIn: (event: string, payload: unknown) =>
      Effect.map(event === "now" ? Effect.void : Deferred.await(gate), () => {
        handled.push(typeof payload === "string" ? payload.length : payload)
        return Channel.noReply
      }),
    terminate: (reason: Process.ExitReason) => Effect.sync(() => void ended.push(reason._tag))
  })

const Room = Channel.make("room:*")
const Bytes = Channel.make("bytes:*")
const Fresh = Channel.make("fresh:*")
const Strict = Channel.make("strict:*")
const Big = Channel.make("big:*")
const Slow = Channel.make("slow:*")
const channels = [Room, Bytes, Fresh, Strict, Big, Slow] as const
const live = Layer.mergeAll(
  Room.layer(waiting, { mailbox: { capacity: 4 } }),
  Bytes.layer(waiting, { mailbox: { maxBytes: 1000 } }),
  Fresh.layer(waiting, { mailbox: { maxBytes: 1000, whenFull: "dropOldest" } }),
  Strict.layer(waiting, { mailbox: { maxBytes: 1000, whenFull: "disconnect" } }),
  Big.layer(waiting, { mailbox: { capacity: Infinity, maxBytes: Infinity } }),
  // Does not end before the gate opens.
  Slow.layer(() => Effect.succeed({ terminate: () => Deferred.await(gate) }))
)

const start = (options: Omit<Socket.Options<typeof channels>, "channels"> = {}) => {
  gate = Deferred.makeUnsafe<void>()
  handled.length = 0
  ended.length = 0
  return node({ channels, ...options }, live)
}

const restart = Effect.sync(() => void (gate = Deferred.makeUnsafe<void>()))

const opened = Effect.suspend(() => Deferred.succeed(gate, undefined))

/** A payload with which a frame `["1","n","<topic>","x","..."]` has so many bytes. */
const filling = (bytes: number, topic: string, ref = "0") =>
  "x".repeat(bytes - JSON.stringify(["1", ref, topic, "x", ""]).length)

const beat = [null, "b", "phoenix", "heartbeat", {}] as const
const beaten = ok(null, "b", "phoenix")

describe("a channel's mailbox is full", () => {
  it.effect("of bytes: at its limit all are taken, with one more the connection waits", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "bytes:1", "phx_join", {})
      peer.write("1", "0", "bytes:1", "x", filling(900, "bytes:1"))
      yield* peer.send()
      // The first message is in hand. Two of 500 bytes are exactly what may wait.
      peer.write("1", "0", "bytes:1", "x", filling(500, "bytes:1"))
      peer.write("1", "0", "bytes:1", "x", filling(500, "bytes:1"))
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, [])
      peer.write("1", "0", "bytes:1", "x", "")
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* opened
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      assert.strictEqual(handled.length, 4)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("of a single message that is larger than the limit, which waits alone", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "bytes:1", "phx_join", {})
      for (let n = 0; n < 3; n++) peer.write("1", "0", "bytes:1", "x", filling(5000, "bytes:1"))
      yield* peer.send()
      const [channel] = peer.server.channels
      assert.deepStrictEqual([channel?.inbox.count, channel?.inbox.bytes], [1, 5000])
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* opened
      yield* peer.send()
      assert.strictEqual(handled.length, 3)
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("of bytes, and drops as many as it takes, each answered, where the oldest are to go", () => {
    const { acceptor, layer, warnings } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "fresh:1", "phx_join", {})
      for (const ref of ["2", "3", "4", "5"]) {
        peer.write("1", ref, "fresh:1", "x", filling(300, "fresh:1"))
        yield* ChannelTest.settle
      }
      assert.deepStrictEqual(yield* peer.send(), [])
      peer.write("1", "6", "fresh:1", "x", filling(700, "fresh:1"))
      assert.deepStrictEqual(yield* peer.send(), [
        failed("1", "3", "fresh:1", "too many messages"),
        failed("1", "4", "fresh:1", "too many messages")
      ])
      // A message that is larger than the limit takes the place of all.
      peer.write("1", "7", "fresh:1", "x", filling(7000, "fresh:1"))
      assert.deepStrictEqual(yield* peer.send(), [
        failed("1", "5", "fresh:1", "too many messages"),
        failed("1", "6", "fresh:1", "too many messages")
      ])
      yield* opened
      yield* peer.send()
      assert.deepStrictEqual(handled.length, 2)
      assert.deepStrictEqual(peer.pauses, [])
      assert.deepStrictEqual(warnings().map(({ text }) => text), ["a client is denied: too many messages"])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("of bytes, and ends the connection with 1008 where that is asked for", () => {
    const { acceptor, layer, warnings } = start()
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made, "me")
      yield* peer.send("1", "1", "strict:1", "phx_join", {})
      for (let n = 0; n < 10; n++) peer.write("1", "0", "strict:1", "x", filling(600, "strict:1"))
      yield* peer.send()
      assert.deepStrictEqual(peer.codes, [1008])
      assert.strictEqual(warnings().length, 1)
      assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", id: "me", transport: "test" })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(made.runtime.inboxes.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("for 5 seconds: then its messages are denied, heartbeats are answered, and siblings go on", () => {
    const { acceptor, layer, warnings } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor, "me")
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      yield* peer.send("2", "2", "room:2", "phx_join", {})
      for (let n = 1; n <= 7; n++) peer.write("1", `a${n}`, "room:1", "x", n)
      peer.write("2", "s", "room:2", "now", "sibling")
      // Six and seven wait for room.
      assert.deepStrictEqual(yield* peer.send(), [])
      assert.deepStrictEqual(peer.pauses, ["pause"])
      assert.deepStrictEqual(handled, [])
      yield* TestClock.adjust("4999 millis")
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      assert.deepStrictEqual(yield* peer.send(), [
        failed("1", "a6", "room:1", "too many messages"),
        failed("1", "a7", "room:1", "too many messages")
      ])
      assert.deepStrictEqual(handled, [7])
      assert.deepStrictEqual(yield* peer.send(...beat), [beaten])
      assert.deepStrictEqual(yield* peer.send("1", "a8", "room:1", "x", 8), [
        failed("1", "a8", "room:1", "too many messages")
      ])
      assert.deepStrictEqual(warnings().map(({ text }) => text), ["a client is denied: too many messages"])
      // With room again it is as before: the next time it is full, the client has to wait.
      yield* opened
      yield* peer.send()
      assert.deepStrictEqual(handled, [7, 1, 2, 3, 4, 5])
      yield* restart
      for (let n = 11; n <= 16; n++) peer.write("1", null, "room:1", "x", n)
      assert.deepStrictEqual(yield* peer.send(), [])
      assert.deepStrictEqual(peer.pauses, ["pause", "resume", "pause"])
      yield* opened
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, ["pause", "resume", "pause", "resume"])
      assert.deepStrictEqual(handled.slice(6), [11, 12, 13, 14, 15, 16])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("for as long as the socket's maxPause says", () => {
    const { acceptor, layer } = start({ maxPause: "1 second" })
    const endless = start({ maxPause: "Infinity" })
    const pausesAfter = (made: typeof acceptor, seconds: number) =>
      Effect.gen(function*() {
        yield* restart
        const peer = yield* open(yield* made)
        yield* peer.send("1", "1", "room:1", "phx_join", {})
        for (let n = 1; n <= 7; n++) peer.write("1", null, "room:1", "x", n)
        yield* peer.send()
        yield* TestClock.adjust(`${seconds} seconds`)
        return [...peer.pauses]
      }).pipe(Effect.ensuring(opened), Effect.scoped)
    return Effect.gen(function*() {
      assert.deepStrictEqual(yield* Effect.provide(pausesAfter(acceptor, 1), layer), ["pause", "resume"])
      assert.deepStrictEqual(yield* Effect.provide(pausesAfter(endless.acceptor, 86_400), endless.layer), ["pause"])
    })
  })

  it.effect("and its process still ending: what comes for it vanishes", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      for (let n = 1; n <= 7; n++) peer.write("1", null, "room:1", "x", n)
      yield* peer.send()
      const [channel] = peer.server.channels
      channel?.process.kill()
      assert.deepStrictEqual(yield* peer.send(), [["1", "1", "room:1", "phx_error", { reason: "channel_crash" }]])
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      assert.deepStrictEqual(yield* peer.send("1", "9", "room:1", "x", 9), [
        failed(null, "9", "room:1", "unmatched topic")
      ])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("leaves of a busy channel", () => {
  it.effect("wait one at a time, however many come, and are answered once", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "big:1", "phx_join", {})
      yield* peer.send("1", "2", "big:1", "x", 1)
      for (let n = 0; n < 10_000; n++) {
        peer.write("1", `l${n}`, "big:1", "phx_leave", "x".repeat(100))
        if (n % 100 === 0) yield* peer.send()
      }
      assert.deepStrictEqual(yield* peer.send(), [])
      const [channel] = peer.server.channels
      assert.strictEqual(channel?.process.mailboxLength, 1)
      yield* opened
      assert.deepStrictEqual(yield* peer.send(), [ok("1", "l0", "big:1"), ["1", "1", "big:1", "phx_close", {}]])
      assert.deepStrictEqual(ended, ["Shutdown"])
      assert.deepStrictEqual(yield* peer.send("1", "x", "big:1", "phx_leave", {}), [ok("1", "x", "big:1")])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("but for the first count as messages, as do those of topics that are not joined", () => {
    const { acceptor, layer } = start({ maxMessageRate: { perSecond: 1, burst: 4 } })
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      yield* peer.send("1", "2", "room:1", "x", 1)
      const replies = []
      for (let n = 3; n < 7; n++) replies.push(...yield* peer.send("1", `${n}`, "room:1", "phx_leave", {}))
      assert.deepStrictEqual(replies, [failed("1", "6", "room:1", "too many messages")])
      assert.deepStrictEqual(yield* peer.send("1", "7", "nothing", "phx_leave", {}), [
        failed("1", "7", "nothing", "too many messages")
      ])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("a connection", () => {
  it.effect("is not read while its channels have more bytes waiting than it may, and then for 5 seconds only", () => {
    const { acceptor, layer } = start({ maxInboxBytes: 10_000 })
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      for (const topic of ["big:1", "big:2", "big:3"]) {
        yield* peer.send("1", "1", topic, "phx_join", {})
        peer.write("1", "0", topic, "x", filling(5000, topic))
        yield* peer.send()
      }
      // Each has one in hand, which is not counted.
      assert.deepStrictEqual(peer.pauses, [])
      peer.write("1", "0", "big:1", "x", filling(5000, "big:1"))
      peer.write("1", "0", "big:2", "x", filling(5000, "big:2"))
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, [])
      peer.write("1", "0", "big:2", "x", "")
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, ["pause"])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      // A message that would have to wait is denied; one that need not is handled.
      assert.deepStrictEqual(yield* peer.send("1", "7", "big:1", "x", ""), [
        failed("1", "7", "big:1", "too many messages")
      ])
      yield* peer.send("1", "8", "big:3", "now", "")
      assert.deepStrictEqual(yield* peer.send(...beat), [beaten])
      yield* opened
      yield* peer.send()
      assert.strictEqual(handled.length, 7)
      yield* restart
      for (let n = 0; n < 4; n++) peer.write("1", "0", "big:1", "x", filling(5000, "big:1"))
      yield* peer.send()
      assert.deepStrictEqual(peer.pauses, ["pause", "resume", "pause"])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("that goes on to bring frames though it is to wait is closed with 1008, once these are too much", () => {
    const { acceptor, layer, warnings } = start({ maxInboxBytes: 10_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const before = made.runtime.meter.transport("test").limited.mailbox
      const peer = yield* open(made, "me")
      yield* peer.send("1", "1", "big:1", "phx_join", {})
      yield* peer.send("1", "2", "big:1", "x", "")
      // A large message is none too many, and neither is what comes right behind it.
      peer.write("1", "0", "big:1", "x", filling(100_000, "big:1"))
      assert.deepStrictEqual(peer.pauses, ["pause"])
      peer.write(...beat)
      assert.deepStrictEqual(yield* peer.send(), [beaten])
      peer.write("1", "0", "big:1", "x", filling(9000, "big:1"))
      yield* peer.send()
      assert.deepStrictEqual(peer.codes, [])
      peer.write("1", "0", "big:1", "x", filling(1000, "big:1"))
      yield* peer.send()
      assert.deepStrictEqual(peer.codes, [1008])
      assert.strictEqual(made.runtime.meter.transport("test").limited.mailbox - before, 1)
      assert.deepStrictEqual(warnings().map(({ text }) => text), [
        "a client sends more than may wait: its connection is closed"
      ])
      assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", id: "me", transport: "test" })
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("is closed with 1008 for a large frame that cannot wait; small ones are answered", () => {
    const { acceptor, layer } = start({ maxInboxBytes: 10_000, maxSharedInboxBytes: 20_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const first = yield* open(made)
      yield* first.send("1", "1", "big:1", "phx_join", {})
      yield* first.send("1", "0", "big:1", "x", filling(36_000, "big:1"))
      const peer = yield* open(made)
      yield* peer.send("1", "1", "big:1", "phx_join", {})
      yield* peer.send("1", "0", "big:1", "x", filling(36_000, "big:1"))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
      assert.deepStrictEqual(yield* peer.send(...beat), [beaten])
      assert.deepStrictEqual(yield* peer.send("1", "2", "big:1", "x", ""), [
        failed("1", "2", "big:1", "too many messages")
      ])
      assert.deepStrictEqual(peer.codes, [])
      yield* peer.send("1", "3", "big:1", "x", filling(1000, "big:1"))
      assert.deepStrictEqual(peer.codes, [1008])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("what all connections have in memory", () => {
  /** An answer to nothing but the pass of time, so that a large message stays in hand. */
  const takeLarge = (made: Parameters<typeof open>[0], bytes: number) =>
    Effect.gen(function*() {
      const peer = yield* open(made)
      yield* peer.send("1", "1", "big:1", "phx_join", {})
      peer.write("1", "0", "big:1", "x", filling(bytes, "big:1"))
      yield* peer.send()
      return peer
    })

  it.effect("of large messages is bounded together: the next one waits, undecoded, until there is room", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 1_000_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const { inboxes } = made.runtime
      const first = yield* takeLarge(made, 900_000)
      assert.strictEqual(inboxes.used, 900_000 - 4096)
      const second = yield* takeLarge(made, 900_000)
      // It counts as half of all, which is not free.
      assert.strictEqual(inboxes.used, 900_000 - 4096)
      assert.deepStrictEqual(second.pauses, ["pause"])
      assert.deepStrictEqual(second.server.channels[0]?.process.status, "idle")
      // Heartbeats are answered in front of it, and whoever sends little is not concerned.
      assert.deepStrictEqual(yield* second.send(...beat), [beaten])
      const witness = yield* open(made)
      yield* witness.send("1", "1", "big:2", "phx_join", {})
      yield* witness.send("1", "2", "big:2", "now", filling(15_000, "big:2"))
      assert.strictEqual(handled.length, 1)
      yield* opened
      yield* first.send()
      yield* second.send()
      assert.strictEqual(handled.length, 3)
      assert.deepStrictEqual(second.pauses, ["pause", "resume"])
      assert.strictEqual(inboxes.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("has room for a message that is larger than all of it, where at most half is taken", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 1_000_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      yield* takeLarge(made, 500_000)
      const peer = yield* takeLarge(made, 5_000_000)
      assert.strictEqual(peer.server.channels[0]?.process.status, "running")
      const third = yield* takeLarge(made, 100_000)
      assert.strictEqual(third.server.channels[0]?.process.status, "idle")
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("counts small messages too, beyond what each connection may have", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 100_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made)
      yield* peer.send("1", "1", "big:1", "phx_join", {})
      for (let n = 0; n < 1000; n++) {
        peer.write("1", "0", "big:1", "x", filling(500, "big:1"))
        if (n % 50 === 0) yield* peer.send()
      }
      yield* peer.send()
      // Half of 125,000, so that as much is left.
      assert.isAtMost(made.runtime.inboxes.used, 62_500)
      assert.isAbove(made.runtime.inboxes.used, 62_000)
      assert.deepStrictEqual(peer.pauses, ["pause"])
      assert.deepStrictEqual(yield* peer.send(...beat), [beaten])
      yield* opened
      yield* peer.send()
      assert.strictEqual(handled.length, 1000)
      assert.strictEqual(made.runtime.inboxes.used, 0)
      assert.deepStrictEqual(peer.pauses, ["pause", "resume"])
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("is given back however a channel or connection ends", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 1_000_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const { inboxes } = made.runtime
      const ends: ReadonlyArray<(peer: Effect.Success<ReturnType<typeof takeLarge>>) => void> = [
        (peer) => peer.server.process.kill(),
        (peer) => peer.server.closed(Process.shutdown("peer_closed")),
        (peer) => peer.server.receive("garbage"),
        (peer) => peer.server.channels[0]?.process.kill(),
        (peer) => peer.server.channels[0]?.process.quit(Process.shutdown()),
        (peer) => peer.write("2", "2", "big:1", "phx_join", {})
      ]
      for (const end of ends) {
        const peer = yield* takeLarge(made, 400_000)
        peer.write("1", "0", "big:1", "x", filling(300_000, "big:1"))
        peer.write("1", "0", "big:1", "x", filling(900_000, "big:1"))
        yield* peer.send()
        assert.isAbove(inboxes.used, 600_000)
        // Somebody waits who is to have it then.
        const next = yield* takeLarge(made, 900_000)
        assert.strictEqual(next.server.channels[0]?.process.status, "idle")
        end(peer)
        yield* TestClock.adjust("10 seconds")
        peer.server.process.kill()
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(next.server.channels[0]?.process.status, "running", String(end))
        next.server.process.kill()
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(inboxes.used, 0, String(end))
      }
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })

  it.effect("counts the payload of a join that is held up", () => {
    const { acceptor, layer } = start({ maxSharedInboxBytes: 1_000_000 })
    return Effect.gen(function*() {
      const made = yield* acceptor
      const peer = yield* open(made)
      const { inboxes } = made.runtime
      // The channel that it replaces takes its time to end.
      yield* peer.send("1", "1", "slow:1", "phx_join", {})
      const join = ["2", "3", "slow:1", "phx_join", "x".repeat(400_000)] as const
      const held = JSON.stringify(join).length - 4096
      assert.deepStrictEqual(yield* peer.send(...join), [])
      assert.strictEqual(inboxes.used, held)
      yield* opened
      assert.deepStrictEqual((yield* peer.send())[0], ok("2", "3", "slow:1"))
      assert.strictEqual(inboxes.used, 0)
      yield* restart
      yield* peer.send(...join)
      assert.strictEqual(inboxes.used, held)
      peer.server.process.kill()
      yield* peer.send()
      assert.strictEqual(inboxes.used, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("a channel that speaks the protocol by itself", () => {
  it.effect("goes on after any number of messages", () => {
    const Raw = Channel.make("raw:*")
    let count = 0
    const RawLive = Raw.layerCustom(() => Effect.succeed({ handleIn: () => Effect.sync(() => void count++) }), {
      mailbox: { capacity: 10 }
    })
    const { acceptor, layer } = node({ channels: [Raw] }, RawLive)
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "raw:1", "phx_join", {})
      for (let n = 0; n < 3000; n++) {
        peer.write("1", null, "raw:1", n % 7 === 0 ? "phx_leave" : "x", {})
        if (n % 5 === 0) yield* peer.send()
      }
      yield* peer.send()
      assert.strictEqual(count, 3000)
      assert.deepStrictEqual(peer.pauses, [])
      assert.strictEqual(peer.server.channels[0]?.inbox.count, 0)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  })
})

describe("messages of others to a channel", () => {
  const Slow = Channel.make("slow:*", { intercept: ["shout"] })
  const seen: Array<unknown> = []
  const SlowLive = Slow.layer((slow) =>
    Effect.as(slow.subscribe("news"), {
      handleIn: () => Effect.as(Deferred.await(gate), Channel.noReply),
      handleInfo: (message) => Effect.sync(() => void seen.push(message)),
      handleOut: { shout: (payload) => Effect.sync(() => void seen.push(payload)) }
    }), { mailbox: { capacity: 10, maxInfos: 20, maxInfoBytes: 100_000 } })

  const busy = <A, E>(
    body: (
      peer: Effect.Success<ReturnType<typeof open>>,
      warnings: ReturnType<typeof node>["warnings"]
    ) => Effect.Effect<A, E, PubSub.PubSub | Process.System>
  ) => {
    gate = Deferred.makeUnsafe<void>()
    seen.length = 0
    const { acceptor, layer, warnings } = node({ channels: [Slow] }, SlowLive)
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor, "me")
      yield* peer.send("1", "1", "slow:1", "phx_join", {})
      yield* peer.send("1", "2", "slow:1", "x", {})
      return yield* body(peer, warnings)
    }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
  }

  const sources: ReadonlyArray<readonly [name: string, send: Effect.Effect<unknown, unknown, PubSub.PubSub>]> = [
    ["intercepted broadcasts", Endpoint.broadcast("slow:1", "shout", { n: 1 })],
    ["messages of its topic that are no broadcasts", PubSub.broadcast("slow:1", { n: 1 })],
    ["messages of a topic that it has subscribed to", PubSub.broadcast("news", "x")]
  ]
  for (const [name, send] of sources) {
    it.effect(`that are ${name} wait up to maxInfos; with one more it crashes, and its client joins again`, () =>
      busy((peer, warnings) =>
        Effect.gen(function*() {
          const before = peer.server.meter.limited.infos
          for (let n = 0; n < 20; n++) yield* send
          assert.deepStrictEqual(yield* peer.send(), [])
          assert.strictEqual(peer.server.channels[0]?.process.mailboxLength, 20)
          yield* send
          assert.deepStrictEqual(yield* peer.send(), [["1", "1", "slow:1", "phx_error", { reason: "channel_crash" }]])
          assert.deepStrictEqual(peer.codes, [])
          assert.strictEqual(peer.server.meter.limited.infos - before, 1)
          const [line, ...more] = warnings()
          assert.deepStrictEqual(more, [])
          assert.match(line?.text ?? "", /^a channel does not keep up/)
          assert.deepInclude(line?.annotations, {
            socket: "test_socket",
            id: "me",
            transport: "test",
            topic: "slow:1"
          })
          assert.deepStrictEqual(yield* peer.send("2", "3", "slow:1", "phx_join", {}), [ok("2", "3", "slow:1")])
          for (let n = 0; n < 100; n++) {
            yield* send
            yield* peer.send()
          }
          assert.strictEqual(seen.length, 100)
        })
      ))
  }

  it.effect("are bounded by what they take in memory as well, but for a single one", () =>
    busy((peer) =>
      Effect.gen(function*() {
        yield* Endpoint.broadcast("slow:1", "shout", { text: "x".repeat(200_000) })
        assert.deepStrictEqual(yield* peer.send(), [])
        yield* Endpoint.broadcast("slow:1", "shout", { text: "" })
        assert.strictEqual((yield* peer.send()).length, 1)
      })
    ))

  it.effect("count no longer when they are handled", () =>
    busy((peer) =>
      Effect.gen(function*() {
        yield* opened
        for (let n = 0; n < 5; n++) {
          yield* Endpoint.broadcast("slow:1", "shout", { text: "x".repeat(90_000) })
          assert.deepStrictEqual(yield* peer.send(), [])
        }
        yield* restart
        yield* peer.send("1", "3", "slow:1", "x", {})
        for (let n = 0; n < 2; n++) yield* Endpoint.broadcast("slow:1", "shout", { n })
        assert.deepStrictEqual(yield* peer.send(), [])
        assert.strictEqual(seen.length, 5)
      })
    ))

  it.effect("that come by a subscription of PubSub, a timer or the channel itself have a bound, too", () =>
    busy((peer, warnings) =>
      Effect.gen(function*() {
        const [channel] = peer.server.channels
        for (let n = 0; n < 38; n++) channel?.process.push(n)
        assert.deepStrictEqual(yield* peer.send(), [])
        channel?.process.push("one more")
        assert.strictEqual((yield* peer.send()).length, 1)
        assert.deepStrictEqual(warnings().map(({ text }) => text), ["process crashed"])
        assert.deepInclude(warnings()[0]?.annotations, { topic: "slow:1", id: "me", socket: "test_socket" })
      })
    ))

  it.effect("that come while the cluster is waited for in a join are bounded, and none is lost up to that", () =>
    Effect.gen(function*() {
      const Early = Channel.make("early:*")
      const EarlyLive = Early.layer(() => Effect.succeed({}), { mailbox: { maxInfos: 3 } })
      for (const [count, reply] of [[3, "ok"], [4, "error"]] as const) {
        const subscribed = yield* Deferred.make<void>()
        const pubsub = PubSub.layerAdapter(() =>
          Effect.succeed({
            node: "a",
            broadcast: () => Effect.void,
            direct: () => Effect.void,
            joined: () => Deferred.await(subscribed),
            left: () => Effect.void
          })
        )
        const { acceptor, layer } = node({ channels: [Early] }, EarlyLive, pubsub)
        yield* Effect.gen(function*() {
          const peer = yield* open(yield* acceptor)
          peer.write("1", "1", "early:1", "phx_join", {})
          yield* TestClock.adjust(0)
          for (let n = 0; n < count; n++) yield* Endpoint.localBroadcast("early:1", "shout", { n })
          yield* Deferred.succeed(subscribed, undefined)
          yield* TestClock.adjust(0)
          assert.strictEqual(Object(peer.received[0])[4].status, reply)
          assert.strictEqual(peer.received.length, reply === "ok" ? 4 : 1)
        }).pipe(Effect.scoped, Effect.provide(layer))
      }
    }))
})

it.effect("a reply waits for what was sent before it, whatever has been held back", () => {
  const { acceptor, layer } = start()
  return Effect.gen(function*() {
    const peer = yield* open(yield* acceptor)
    yield* peer.send("1", "1", "room:1", "phx_join", {})
    yield* peer.send("2", "2", "big:1", "phx_join", {})
    for (let n = 1; n <= 6; n++) peer.write("1", null, "room:1", "x", n)
    for (let n = 7; n <= 9; n++) peer.write("2", null, "big:1", "x", n)
    yield* ChannelTest.settle
    yield* opened
    yield* peer.send()
    assert.deepStrictEqual(handled, [1, 2, 3, 4, 5, 6, 7, 8, 9])
  }).pipe(Effect.ensuring(opened), Effect.scoped, Effect.provide(layer))
})
