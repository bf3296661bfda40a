import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import { once } from "node:events"
import { connect, createServer } from "node:net"
import { Timers } from "../../src/internal/timers.ts"
import { absentClock } from "../support/absence.ts"

const make = Effect.gen(function*() {
  const { clock, miss } = yield* absentClock
  const timers = new Timers(clock, Effect.runForkWith(yield* Effect.context<never>()))
  return { timers, miss }
})

describe("timers", () => {
  it.live("of a node that was absent run after what others have said meanwhile is read", () =>
    Effect.gen(function*() {
      const timers = new Timers(yield* Clock.Clock, Effect.runForkWith(yield* Effect.context<never>()))
      const order: Array<string> = []
      yield* Effect.promise(async () => {
        const server = createServer((socket) => socket.on("data", () => order.push("read"))).listen(0, "127.0.0.1")
        await once(server, "listening")
        const address = server.address()
        const client = connect(typeof address === "object" && address !== null ? address.port : 0, "127.0.0.1")
        await Promise.all([once(client, "connect"), once(server, "connection")])
        const rung = new Promise<void>((resolve) => {
          timers.after(20, () => {
            order.push("timer")
            resolve()
          })
        })
        client.write("still here")
        // Longer than a timer may be late.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400)
        await rung
        client.destroy()
        server.close()
      })
      assert.deepStrictEqual(order, ["read", "timer"])
      assert.isBelow(timers.awake, timers.now - 200)
    }))

  it.effect("do not count an absence as time awake", () =>
    Effect.gen(function*() {
      const { miss, timers } = yield* make
      timers.after(1000, () => {})
      timers.after(20_000, () => {})
      yield* TestClock.adjust(900)
      miss(8000)
      yield* TestClock.adjust(100)
      assert.deepStrictEqual([timers.now, timers.awake], [9000, 1000])
      // All that is late by then is late for one reason.
      yield* TestClock.adjust(11_000)
      assert.deepStrictEqual([timers.now, timers.awake], [20_000, 12_000])
    }))

  it.effect("that are late by a little are no absence, and those on time neither", () =>
    Effect.gen(function*() {
      const { miss, timers } = yield* make
      for (let n = 1; n <= 10; n++) timers.after(n * 1000, () => {})
      for (let n = 0; n < 10; n++) {
        miss(50)
        yield* TestClock.adjust(950)
      }
      assert.deepStrictEqual([timers.now, timers.awake], [10_000, 10_000])
    }))
})
