/** A server that was stopped for a while must not take its own absence for the silence of its clients. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import { absentClock } from "../support/absence.ts"
import { join, serve, turn } from "./feed.ts"
import { until } from "./server.ts"

describe("a connection of a server that was stopped for longer than the timeout", () => {
  const begin = Effect.gen(function*() {
    const { clock, miss } = yield* absentClock
    const server = yield* serve({ timeout: "6 seconds" }).pipe(Effect.provideService(Clock.Clock, clock))
    const client = yield* join(server.port)
    yield* TestClock.adjust("5 seconds")
    assert.deepStrictEqual(server.endings, [])
    return { server, client, miss }
  })

  it.effect("goes on, and is closed when its client is silent for the rest of it", () =>
    Effect.gen(function*() {
      const { client, miss, server } = yield* begin
      miss(8000)
      yield* TestClock.adjust(500)
      yield* turn
      assert.deepStrictEqual(server.endings, [])
      yield* TestClock.adjust("1 second")
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.deepStrictEqual(server.endings, ["read_timeout"])
      client.socket.destroy()
    }))

  it.effect("is not taken for one of a client that does not read", () =>
    Effect.gen(function*() {
      const { clock, miss } = yield* absentClock
      const server = yield* serve({ stallTimeout: "6 seconds" }).pipe(Effect.provideService(Clock.Clock, clock))
      const client = yield* join(server.port)
      client.ask(20_000)
      yield* Effect.promise(() => until(() => server.handled.length > 0))
      yield* TestClock.adjust("1 second")
      miss(8000)
      yield* TestClock.adjust("4 seconds")
      yield* turn
      assert.deepStrictEqual(server.endings, [])
      yield* TestClock.adjust("4 seconds")
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.deepStrictEqual(server.endings, ["buffer_full"])
      client.socket.destroy()
    }))
})
