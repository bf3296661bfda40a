/** State that polled sessions keep, and for how long. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Fiber, Metric } from "effect"
import { TestClock } from "effect/testing"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { absentClock } from "../support/absence.ts"
import { settle } from "../support/node.ts"
import { type Node, start } from "../transport/polling.ts"

const echo = (ref: string, payload: unknown = {}) => ["1", ref, "room:1", "echo", payload]
const begin = Effect.forkChild({ startImmediately: true })

const joined = Effect.fnUntraced(function*(node: Node) {
  const token = yield* node.start("?vsn=2.0.0&id=me")
  yield* node.say(token, ["1", "1", "room:1", "phx_join", {}])
  yield* node.get(token)
  return token
})

const last = [null, null, "room:1", "last", {}]
const endAfterLast = Effect.andThen(Endpoint.broadcast("room:1", "last", {}), Endpoint.disconnect("me"))

describe("a session that has ended", () => {
  it.effect("has one more poll fetch what it was sent before", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      yield* node.run(endAfterLast)
      yield* settle
      assert.deepStrictEqual(node.stage.endings, ["disconnected"])
      assert.strictEqual(yield* node.say(token, echo("2")), 410)
      assert.deepStrictEqual(yield* node.get(token), { status: 200, token, messages: [last] })
      assert.deepInclude(yield* node.get(token), { status: 410, messages: [] })
    }))

  it.effect("keeps that for a window, and no longer", () =>
    Effect.gen(function*() {
      const node = yield* start()
      for (const [millis, status] of [[9999, 200], [10_000, 410]] as const) {
        const token = yield* joined(node)
        yield* node.run(endAfterLast)
        yield* TestClock.adjust(millis)
        assert.deepInclude(yield* node.get(token), { status })
      }
    }))

  it.effect("keeps nothing when nobody polls it, or more waits than may", () =>
    Effect.gen(function*() {
      const idle = yield* start()
      const token = yield* joined(idle)
      yield* idle.run(Endpoint.broadcast("room:1", "last", {}))
      yield* TestClock.adjust("30 seconds")
      assert.deepInclude(yield* idle.get(token), { status: 410, messages: [] })
      const full = yield* start({ maxBuffer: 100 })
      const other = yield* joined(full)
      yield* full.run(Endpoint.broadcast("room:1", "last", { x: "x".repeat(50) }))
      yield* full.run(Endpoint.broadcast("room:1", "last", { x: "x".repeat(50) }))
      assert.deepInclude(yield* full.get(other), { status: 410, messages: [] })
    }))
})

describe("a heartbeat", () => {
  it.effect("is answered while a join is held up, in another post than that", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const slow = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}]))
      yield* Deferred.await(node.stage.entered)
      assert.strictEqual(yield* node.say(token, [null, "3", "phoenix", "heartbeat", {}]), 200)
      const beat = [null, "3", "phoenix", "phx_reply", { status: "ok", response: {} }]
      assert.deepStrictEqual(yield* node.get(token), { status: 200, token, messages: [beat] })
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.strictEqual(yield* Fiber.join(slow), 200)
      const reply = ["2", "2", "slow:1", "phx_reply", { status: "ok", response: {} }]
      assert.deepStrictEqual(yield* node.get(token), { status: 200, token, messages: [reply] })
    }))
})

describe("a heartbeat behind a join that is held up, in the same post", () => {
  it.effect("is answered before the join is", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const beat = [null, "3", "phoenix", "heartbeat", {}]
      const slow = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}], echo("4"), beat))
      yield* Deferred.await(node.stage.entered)
      yield* settle
      const answer = [null, "3", "phoenix", "phx_reply", { status: "ok", response: {} }]
      assert.deepStrictEqual(yield* node.get(token), { status: 200, token, messages: [answer] })
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.strictEqual(yield* Fiber.join(slow), 200)
      const { messages } = yield* node.get(token)
      assert.deepStrictEqual((messages as ReadonlyArray<ReadonlyArray<unknown>>).map(([, ref]) => ref), ["2", "4"])
    }))
})

describe("the posts of a session", () => {
  it.effect("are answered 408 where those before them leave no room", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxBody: 2000 })
      const token = yield* joined(node)
      const slow = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}], echo("3", "x".repeat(1500))))
      yield* Deferred.await(node.stage.entered)
      assert.strictEqual(yield* node.say(token, echo("4", "x".repeat(1000))), 408)
      const headers = { "content-type": "application/x-ndjson", "content-length": "1000" }
      const told = yield* node.request("POST", { token, headers, body: JSON.stringify(echo("4", "x".repeat(900))) })
      assert.deepStrictEqual(told.body, { status: 408 })
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.strictEqual(yield* Fiber.join(slow), 200)
      assert.strictEqual(yield* node.say(token, echo("4", "x".repeat(1000))), 200)
    }))

  it.effect("wait where they have more bytes than maxByteRate allows", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxByteRate: { perSecond: 1000, burst: 2000 } })
      const token = yield* joined(node)
      assert.strictEqual(yield* node.say(token, echo("2", "x".repeat(4000))), 200)
      const next = yield* begin(node.say(token, echo("3")))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(node.stage.handled, ["echo"])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(next), 200)
      assert.deepStrictEqual(node.stage.handled, ["echo", "echo"])
      assert.match(node.stage.log.join(), /posts more bytes than it may/)
      const labels = { socket: "user_socket", transport: "longpoll", limit: "byte_rate" }
      assert.strictEqual((yield* node.run(Metric.value(Metric.withAttributes(Telemetry.limited, labels)))).count, 1)
    }))
})

it.effect("a session goes on when its node was stopped for longer than it may be silent", () =>
  Effect.gen(function*() {
    const { clock, miss } = yield* absentClock
    const node = yield* start(true, {}, PubSub.layer).pipe(Effect.provideService(Clock.Clock, clock))
    const token = yield* joined(node)
    yield* TestClock.adjust("5 seconds")
    yield* node.run(Endpoint.broadcast("room:1", "last", {}))
    yield* node.get(token)
    miss(20_000)
    // It is looked at after 15 seconds in which it was awake, and again after 15 more.
    yield* TestClock.adjust("11 seconds")
    assert.deepStrictEqual(node.stage.endings, [])
    assert.strictEqual(yield* node.say(token, echo("2")), 200)
    yield* TestClock.adjust("15 seconds")
    assert.deepStrictEqual(node.stage.endings, ["inactive"])
  }))
