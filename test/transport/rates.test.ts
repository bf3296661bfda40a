/** Limits on the bytes that clients may bring, and on those that come of compressed messages. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { deflateRawSync } from "node:zlib"
import * as Telemetry from "../../src/Telemetry.ts"
import { frame } from "../attacks/wire.ts"
import { join, serve, turn } from "./feed.ts"
import { until } from "./server.ts"

const deflate = { "Sec-WebSocket-Extensions": "permessage-deflate" }

/** A compressed message with a number, which is inflated to so many bytes. */
const packed = (n: number, bytes: number): Buffer => {
  const text = JSON.stringify(["1", null, "feed", "more", { n, kilobytes: 0, x: "" }])
  const data = deflateRawSync(text.replace(`"x":""`, `"x":"${"x".repeat(bytes - text.length)}"`), { finishFlush: 2 })
  return frame(data.subarray(0, -4), { rsv: 4 })
}

/** Waits until nothing more is handled. */
const settled = (handled: ReadonlyArray<unknown>) =>
  Effect.gen(function*() {
    for (let quiet = 0, before = -1; quiet < 50; before = handled.length) {
      yield* turn
      quiet = handled.length === before ? quiet + 1 : 0
    }
  })

const numbers = (count: number) => Array.from({ length: count }, (_, n) => String(n))

describe("compressed messages", () => {
  it.effect("are inflated to 4 MB at once and 1 MB a second, and none is lost", () =>
    Effect.gen(function*() {
      const server = yield* serve({ compress: true })
      for (const bytes of [10_000, 100_000, 1_000_000]) {
        const count = 8_000_000 / bytes
        const client = yield* join(server.port, deflate)
        server.handled.length = 0
        client.socket.write(Buffer.concat(Array.from({ length: count }, (_, n) => packed(n, bytes))))
        yield* settled(server.handled)
        for (let second = 0; second < 4; second++) {
          const inflated = server.handled.length * bytes
          assert.isAtLeast(inflated, 4_000_000 + second * 1_000_000)
          assert.isAtMost(inflated, 4_000_000 + second * 1_000_000 + bytes + 20_000)
          yield* TestClock.adjust("1 second")
          yield* settled(server.handled)
        }
        yield* TestClock.adjust("1 second")
        yield* settled(server.handled)
        assert.deepStrictEqual(server.handled, numbers(count))
        client.socket.destroy()
      }
      // Not once for each message: every ten seconds.
      assert.isAtMost(server.log.length, 2)
      assert.match(String(server.log[0]?.["line"]), /^a client sends compressed messages faster than it may/)
      assert.deepInclude(server.log[0], { id: "user:slow", perSecond: 1_000_000, burst: 4_000_000 })
      assert.isAtLeast(yield* server.count(Telemetry.limited, { limit: "inflate_rate" }), 3)
    }))

  it.effect("do not wait for those of others", () =>
    Effect.gen(function*() {
      const server = yield* serve({ compress: true })
      const greedy = yield* Effect.all(Array.from({ length: 20 }, () => join(server.port, deflate)))
      const large = Buffer.concat(Array.from({ length: 10 }, (_, n) => packed(n, 1_000_000)))
      for (const client of greedy) client.socket.write(large)
      yield* settled(server.handled)
      server.handled.length = 0
      const neighbour = yield* join(server.port, deflate)
      for (const bytes of [2000, 20_000, 200_000]) neighbour.socket.write(packed(bytes, bytes))
      yield* settled(server.handled)
      assert.deepStrictEqual(server.handled, ["2000", "20000", "200000"])
      for (const { socket } of [...greedy, neighbour]) socket.destroy()
    }))

  it.effect("of a client that is gone keep its connection no longer than silence would", () =>
    Effect.gen(function*() {
      const server = yield* serve({ compress: true })
      const client = yield* join(server.port, deflate)
      // Node does not see that a peer is gone which it does not read.
      client.socket.write(Buffer.concat(Array.from({ length: 300 }, (_, n) => packed(n, 1_000_000))))
      yield* settled(server.handled)
      client.socket.destroy()
      yield* TestClock.adjust("70 seconds")
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.isBelow(server.handled.length, 80)
    }))

  it.effect("of a client that has to wait are no silence", () =>
    Effect.gen(function*() {
      const server = yield* serve({ compress: { rate: { perSecond: 1000, burst: 1000 } } })
      const client = yield* join(server.port, deflate)
      client.socket.write(Buffer.concat([packed(0, 100_000), packed(1, 2000)]))
      yield* settled(server.handled)
      yield* TestClock.adjust("90 seconds")
      yield* settled(server.handled)
      assert.deepStrictEqual([server.endings, server.handled], [[], ["0"]])
      yield* TestClock.adjust("10 seconds")
      yield* settled(server.handled)
      assert.deepStrictEqual([server.endings, server.handled], [[], ["0", "1"]])
      client.socket.destroy()
    }))

  it.effect("are inflated to 1,000,000 bytes at most, and to fewer where fewer are allowed: 1009", () =>
    Effect.gen(function*() {
      const cases = [[undefined, 1_000_000], [{ maxMessageSize: 500 }, 500], [
        { maxMessageSize: 20_000 },
        20_000
      ]] as const
      for (const [options, most] of cases) {
        const server = yield* serve({ compress: options ?? true })
        const client = yield* join(server.port, deflate)
        client.socket.write(packed(0, most))
        yield* settled(server.handled)
        assert.deepStrictEqual(server.handled, ["0"])
        client.socket.write(packed(1, most + 1))
        assert.strictEqual(yield* Effect.promise(() => client.code()), 1009)
        assert.deepStrictEqual(server.handled, ["0"])
        assert.match(String(server.log[0]?.["line"]), /compressed message that is too large/)
        assert.strictEqual(yield* server.count(Telemetry.limited, { limit: "inflated" }), 1)
      }
    }))
})

describe("messages", () => {
  it.effect("have as many bytes as maxByteRate allows; more are not read until they may be, and none is lost", () =>
    Effect.gen(function*() {
      const server = yield* serve({ maxByteRate: { perSecond: 1_000_000, burst: 2_000_000 } })
      const client = yield* join(server.port)
      const x = "x".repeat(10_000)
      client.say(...Array.from({ length: 1000 }, (_, n) => ["1", null, "feed", "more", { n, kilobytes: 0, x }]))
      yield* settled(server.handled)
      // Bytes that were read before it was too much, and those that Node reads after that.
      const ahead = 200_000
      for (let second = 0; second < 3; second++) {
        const bytes = server.handled.length * 10_000
        assert.isAtLeast(bytes, 1_900_000 + second * 1_000_000)
        assert.isAtMost(bytes, 2_000_000 + second * 1_000_000 + ahead)
        yield* TestClock.adjust("1 second")
        yield* settled(server.handled)
      }
      yield* TestClock.adjust("10 seconds")
      yield* settled(server.handled)
      assert.deepStrictEqual(server.handled, numbers(1000))
      assert.deepInclude(server.log[0], { id: "user:slow", perSecond: 1_000_000, burst: 2_000_000 })
      assert.isAtLeast(yield* server.count(Telemetry.limited, { limit: "byte_rate" }), 1)
      client.socket.destroy()
    }))

  it.effect("are not outrun by frames that are none: pings, pongs and parts count as a thousand bytes each", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      const parts = [
        frame("", { fin: false }),
        ...Array.from({ length: 14_999 }, () => frame("", { fin: false, opcode: 0 }))
      ]
      const floods = [Array.from({ length: 15_000 }, () => frame("", { opcode: 10 })), parts]
      for (const flood of floods) {
        const client = yield* join(server.port)
        server.handled.length = 0
        const text = JSON.stringify(["1", null, "feed", "more", { n: 1, kilobytes: 0 }])
        client.socket.write(Buffer.concat([...flood, frame(text, { opcode: flood === parts ? 0 : 1 })]))
        // The rest of the text does not fit into what is read ahead.
        yield* settled(server.handled)
        const ahead = "x".repeat(1_000_000)
        client.say(["1", null, "feed", "more", { n: 2, kilobytes: 0, ahead }])
        yield* settled(server.handled)
        assert.notInclude(server.handled, "2")
        yield* TestClock.adjust("5 seconds")
        yield* settled(server.handled)
        assert.deepStrictEqual(server.handled, ["1", "2"])
        client.socket.destroy()
      }
    }))

  it.effect("are without a limit where it is false", () =>
    Effect.gen(function*() {
      const server = yield* serve({ maxByteRate: false, compress: { rate: false } })
      const client = yield* join(server.port, deflate)
      const x = "x".repeat(10_000)
      client.say(...Array.from({ length: 3000 }, (_, n) => ["1", null, "feed", "more", { n, kilobytes: 0, x }]))
      client.socket.write(Buffer.concat(Array.from({ length: 8 }, (_, n) => packed(n, 1_000_000))))
      yield* Effect.promise(() => until(() => server.handled.length === 3008))
      assert.deepStrictEqual(server.log, [])
      client.socket.destroy()
    }))
})
