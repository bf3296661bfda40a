/** A client that is not read, and goes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { frame } from "../attacks/wire.ts"
import { join, serve, turn } from "./feed.ts"

const message = frame(JSON.stringify(["1", null, "feed", "more", { n: 1, kilobytes: 0, x: "x".repeat(1000) }]))

/** Turns of the event loop, so that the network has its turn as well. */
const turns = (count: number) => Effect.repeat(turn, { times: count })

describe("a connection that brings more bytes than it may, and is not read for hours", () => {
  const over = Effect.gen(function*() {
    const server = yield* serve({ maxByteRate: { perSecond: 1, burst: 100 } })
    const client = yield* join(server.port)
    client.socket.write(Buffer.concat(Array.from({ length: 100 }, () => message)))
    for (let n = 0; n < 200 && server.handled.length === 0; n++) yield* turns(10)
    return { server, client }
  })

  it.effect("ends within 10 seconds when its client has gone", () =>
    Effect.gen(function*() {
      const { client, server } = yield* over
      client.socket.destroy()
      yield* turns(100)
      assert.deepStrictEqual(server.endings, [])
      yield* TestClock.adjust("5 seconds")
      yield* turns(200)
      yield* TestClock.adjust("5 seconds")
      for (let n = 0; n < 200 && server.endings.length === 0; n++) yield* turns(10)
      assert.deepStrictEqual(server.endings, ["peer_closed"])
    }))

  it.effect("goes on while its client is there, which is sent a ping every 5 seconds", () =>
    Effect.gen(function*() {
      const { client, server } = yield* over
      const pings: Array<number> = []
      client.socket.resume()
      client.socket.on("data", (chunk: Buffer) => {
        for (let at = 0; at + 1 < chunk.length; at++) if (chunk[at] === 0x89 && chunk[at + 1] === 0) pings.push(at)
      })
      for (let n = 0; n < 30; n++) {
        yield* TestClock.adjust("5 seconds")
        yield* turns(20)
      }
      for (let n = 0; n < 200 && pings.length < 30; n++) yield* turns(10)
      assert.deepStrictEqual([server.endings, pings.length], [[], 30])
      client.socket.destroy()
    }))
})
