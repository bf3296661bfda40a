/** Data that waits for clients that are slow, or do not read. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { connect } from "node:net"
import * as Telemetry from "../../src/Telemetry.ts"
import { join, sent, serve, turn } from "./feed.ts"
import { until } from "./server.ts"

describe("a client for which more than maxBufferedBytes wait", () => {
  it.effect("is closed with 1013 when it has taken nothing for stallTimeout, and the log says whose it is", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      const client = yield* join(server.port)
      client.ask(...Array.from({ length: 20 }, () => 1000))
      yield* sent(server, 20_000_000)
      yield* TestClock.adjust("29 seconds")
      assert.deepStrictEqual(server.endings, [])
      // The first look may see what the operating system has still taken.
      yield* TestClock.adjust("5 seconds")
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.deepStrictEqual(server.endings, ["buffer_full"])
      assert.strictEqual(yield* Effect.promise(() => client.code()), 1013)
      assert.lengthOf(server.log, 1)
      const { line, waiting, ...about } = server.log[0] ?? {}
      assert.match(String(line), /taken nothing of what it is sent for stallTimeout/)
      assert.isAbove(Number(waiting), 4_000_000)
      assert.deepInclude(about, {
        socket: "feed_socket",
        id: "user:slow",
        transport: "websocket",
        maxBufferedBytes: 4_000_000,
        stallTimeout: 30_000
      })
      assert.strictEqual(yield* server.count(Telemetry.limited, { limit: "stalled" }), 1)
      assert.strictEqual(yield* server.count(Telemetry.slowClients), 1)
    }))

  it.effect("is watched also after a single message, when it is sent nothing more", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      const client = yield* join(server.port)
      client.ask(20_000)
      yield* sent(server, 20_000_000)
      yield* TestClock.adjust("34 seconds")
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.deepStrictEqual(server.endings, ["buffer_full"])
      client.socket.destroy()
    }))

  it.effect("is not closed as long as it takes something", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      const client = yield* join(server.port)
      client.ask(...Array.from({ length: 40 }, () => 1000))
      yield* sent(server, 40_000_000)
      for (let round = 0; round < 9; round++) {
        yield* Effect.promise(() => client.read(4_000_000))
        client.say([null, "1", "phoenix", "heartbeat", {}])
        yield* turn
        yield* TestClock.adjust("25 seconds")
      }
      yield* Effect.promise(() => client.read(40_000_000 - client.bytes))
      assert.deepStrictEqual([server.endings, server.log], [[], []])
      client.ask(1)
      yield* Effect.promise(() => client.read(1000))
      client.socket.destroy()
    }))

  it.effect("gets 12 MB of history and one more message, and a state of 4.5 MB with the diffs after it", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      for (const sizes of [[12_000, 1], [4500, ...Array.from({ length: 100 }, () => 1)]]) {
        const client = yield* join(server.port)
        const before = yield* server.count(Telemetry.bytesSent)
        client.ask(sizes[0] ?? 0)
        yield* sent(server, before + (sizes[0] ?? 0) * 1000)
        client.ask(...sizes.slice(1))
        yield* Effect.promise(() => client.read(sizes.reduce((sum, size) => sum + size) * 1000))
        assert.isFalse(client.over)
        client.socket.destroy()
      }
      assert.deepStrictEqual(server.log, [])
    }))

  it.effect("is closed with 1013 beyond maxBacklogBytes, whether it reads or not", () =>
    Effect.gen(function*() {
      const server = yield* serve({ maxBacklogBytes: 20_000_000 })
      const client = yield* join(server.port)
      // As much as may wait, and what the operating system takes besides.
      client.ask(...Array.from({ length: 20 }, () => 1000))
      yield* sent(server, 20_000_000)
      assert.deepStrictEqual(server.endings, [])
      client.ask(...Array.from({ length: 100 }, () => 1000))
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.deepStrictEqual(server.endings, ["buffer_full"])
      assert.isBelow(yield* server.count(Telemetry.bytesSent), 40_000_000)
      assert.strictEqual(yield* Effect.promise(() => client.code()), 1013)
      assert.match(String(server.log[0]?.["line"]), /reads more slowly than it is sent/)
      assert.deepInclude(server.log[0], { id: "user:slow", maxBacklogBytes: 20_000_000 })
      assert.strictEqual(yield* server.count(Telemetry.limited, { limit: "backlog" }), 1)
    }))

  it.effect("is sent no more than that also by what a single chunk of small frames asks for", () =>
    Effect.gen(function*() {
      const server = yield* serve({ maxBacklogBytes: 10_000_000 })
      const client = yield* join(server.port)
      client.ask(...Array.from({ length: 200 }, () => 1000))
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      // Bytes that may wait, and bytes that the operating system has taken.
      assert.isBelow(yield* server.count(Telemetry.bytesSent), 20_000_000)
      client.socket.destroy()
    }))

  it.effect("shares maxTotalBacklogBytes with the others", () =>
    Effect.gen(function*() {
      const server = yield* serve({ maxBacklogBytes: 20_000_000, maxTotalBacklogBytes: 20_000_000 })
      const clients = yield* Effect.all(Array.from({ length: 4 }, () => join(server.port)))
      for (const [n, client] of clients.entries()) {
        client.ask(...Array.from({ length: 16 }, () => 1000))
        yield* sent(server, (n + 1) * 6_000_000)
      }
      yield* Effect.promise(() => until(() => server.endings.length > 0))
      assert.match(String(server.log[0]?.["line"]), /too much waits for the slow clients of a mount/)
      assert.isAtLeast(yield* server.count(Telemetry.limited, { limit: "total_backlog" }), 1)
      // Clients that are gone do not count any more.
      for (const client of clients) client.socket.destroy()
      yield* Effect.promise(() => until(() => server.endings.length === 4))
      const next = yield* join(server.port)
      next.ask(...Array.from({ length: 16 }, () => 1000))
      yield* Effect.promise(() => next.read(16_000_000))
      assert.isFalse(next.over)
      next.socket.destroy()
    }))
})

describe("a client that polls, and does not read the answer,", () => {
  it.effect("is cut off when it has taken nothing for stallTimeout", () =>
    Effect.gen(function*() {
      const server = yield* serve()
      const place = `http://127.0.0.1:${server.port}/socket/longpoll?vsn=2.0.0`
      const told = (init?: RequestInit, query = "") =>
        Effect.promise(async () => Object(await (await fetch(place + query, init)).json()))
      const { token } = yield* told()
      const query = `&token=${encodeURIComponent(token)}`
      const say = (message: unknown) => told({ method: "POST", body: JSON.stringify(message) }, query)
      yield* say(["1", "1", "feed", "phx_join", {}])
      yield* say(["1", null, "feed", "more", { kilobytes: 15_000 }])
      const socket = connect(server.port, "127.0.0.1").pause()
      const cut = new Promise((resolve) => socket.on("error", () => {}).on("close", resolve))
      socket.write(`GET /socket/longpoll?vsn=2.0.0${query} HTTP/1.1\r\nHost: here\r\n\r\n`)
      while ((yield* server.count(Telemetry.bytesSent, { transport: "longpoll" })) < 15_000_000) yield* turn
      yield* turn
      yield* TestClock.adjust("25 seconds")
      assert.deepStrictEqual(server.log, [])
      yield* TestClock.adjust("9 seconds")
      assert.match(String(server.log[0]?.["line"]), /taken nothing of an answer for stallTimeout/)
      assert.strictEqual(yield* server.count(Telemetry.limited, { transport: "longpoll", limit: "stalled" }), 1)
      socket.resume()
      yield* Effect.promise(() => cut)
    }))
})
