/** The places of sessions that are begun by long polling, and how clocks of nodes may differ. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import * as Token from "../../src/Token.ts"
import { type Doorway, HalfOpen, handshake, longpollPath, open, request } from "./doorway.ts"
import { cluster, type Node, start } from "./polling.ts"

const statusOf = (door: Doorway, text: string, localAddress?: string) =>
  Effect.promise(async () => {
    const client = await HalfOpen.say(door.port, text, localAddress)
    await client.answered()
    client.socket.destroy()
    return client.status
  })

const begin = request("GET", longpollPath)
const unlimited = { maxUnpolled: Infinity } as const

describe("sessions of long polling", () => {
  it.live("take no places of WebSockets, and WebSockets none of theirs", () =>
    Effect.gen(function*() {
      const mount: Endpoint.Options = {
        path: "/socket",
        maxConnections: 10,
        maxConnectionsPerAddress: Infinity,
        longpoll: unlimited
      }
      const door = yield* open([mount])
      for (let n = 0; n < 10; n++) assert.strictEqual(yield* statusOf(door, begin), 200)
      assert.strictEqual(yield* statusOf(door, begin), 503)
      const clients: Array<HalfOpen> = []
      for (let n = 0; n < 10; n++) {
        const client = yield* Effect.promise(() => HalfOpen.say(door.port, handshake()))
        assert.strictEqual(yield* Effect.promise(() => client.answered()), 101)
        clients.push(client)
      }
      assert.strictEqual(yield* statusOf(door, handshake()), 503)
      for (const { socket } of clients) socket.destroy()
    }))

  it.live("are a tenth of all places from one address, unless the mount says otherwise", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket", maxConnections: 30, longpoll: unlimited }])
      for (let n = 0; n < 3; n++) assert.strictEqual(yield* statusOf(door, begin), 200)
      assert.strictEqual(yield* statusOf(door, begin), 503)
      assert.strictEqual(yield* statusOf(door, begin, "127.0.0.2"), 200)
      // WebSockets, which need a connection each, have no such limit by default.
      for (let n = 0; n < 10; n++) {
        const client = yield* Effect.promise(() => HalfOpen.say(door.port, handshake()))
        assert.strictEqual(yield* Effect.promise(() => client.answered()), 101)
      }
    }))

  it.live("that nobody polls are at most maxUnpolled, a quarter of them from one address", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket", longpoll: { maxUnpolled: 8 } }])
      for (const address of ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]) {
        for (let n = 0; n < 2; n++) assert.strictEqual(yield* statusOf(door, begin, address), 200)
        assert.strictEqual(yield* statusOf(door, begin, address), 503)
      }
      assert.strictEqual(yield* statusOf(door, begin, "127.0.0.6"), 503)
      assert.strictEqual(door.lines.filter(({ text }) => text.includes("maxUnpolled is reached")).length, 1)
      // They keep nobody else away.
      assert.strictEqual(yield* statusOf(door, handshake()), 101)
    }))

  it.live("from few connections do not fill all places by default", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket", longpoll: true }])
      const clients = yield* Effect.promise(() =>
        Promise.all([1, 2, 3, 4].map(() => HalfOpen.say(door.port, begin.repeat(500))))
      )
      const count = (status: number) =>
        clients.reduce((sum, { text }) => sum + text.split(`HTTP/1.1 ${status} `).length - 1, 0)
      yield* Effect.promise(async () => {
        while (count(200) + count(503) < 2000) await new Promise((resolve) => setImmediate(resolve))
      })
      assert.strictEqual(count(200), 250)
    }))

  const sessions = (node: Node) => node.run(Effect.map(Endpoint.sockets, (sockets) => sockets.length))

  it.effect("that nobody polls end after 5 seconds, and make room for others", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxUnpolled: 4 })
      const idle = yield* node.run(Process.stats)
      yield* node.start()
      assert.strictEqual((yield* node.request("GET")).http, 503)
      yield* TestClock.adjust(4999)
      assert.strictEqual(yield* sessions(node), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* sessions(node), 0)
      yield* node.start()
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* node.run(Process.stats), idle)
    }))

  it.effect("that are polled, or posted to, once are no longer among them", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxUnpolled: 4 })
      for (let n = 0; n < 10; n++) {
        const token = yield* node.start()
        yield* node.post(token, `["1","1","room:1","phx_join",{}]`)
      }
      yield* TestClock.adjust("14 seconds")
      assert.strictEqual(yield* sessions(node), 10)
    }))
})

describe("the token of a session", () => {
  const secretKeyBase = "a secret that all nodes have"

  it.effect("may have been made by a clock that is ahead, by a minute", () =>
    Effect.gen(function*() {
      const { layers } = cluster("a", "b")
      const [pubsubA, pubsubB] = layers
      const a = yield* start({ secretKeyBase }, {}, pubsubA)
      const b = yield* start({ secretKeyBase }, {}, pubsubB)
      const tokens = yield* Token.make({ secretKeyBase })
      const salt = "long poll user_socket"
      const address = yield* tokens.verify(salt, yield* a.start())
      // As a node signs whose clock is ahead.
      const ahead = (seconds: number) => tokens.sign(salt, address, { signedAt: seconds })
      for (const node of [a, b]) {
        assert.strictEqual(yield* node.post(yield* ahead(60), `["1","1","room:1","phx_join",{}]`), 200)
        assert.strictEqual(yield* node.post(yield* ahead(61), `["1","1","room:1","phx_join",{}]`), 410)
      }
    }))
})
