/** Handshakes that are refused, and handshakes about which nobody has decided yet. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import { createServer as createSecureServer } from "node:https"
import { connect, type ConnectionOptions } from "node:tls"
import * as Endpoint from "../../src/Endpoint.ts"
import { makeCertificate } from "../support/certificate.ts"
import {
  type Doorway,
  HalfOpen,
  handshake,
  held,
  holds,
  longpollPath,
  open,
  request,
  until as untilTrue,
  ways,
  websocketPath
} from "./doorway.ts"

const answered = (door: Doorway, text: string, localAddress?: string) =>
  Effect.promise(async () => {
    const client = await HalfOpen.say(door.port, text, localAddress)
    await client.answered()
    return client
  })

const statusOf = (door: Doorway, text: string, localAddress?: string) =>
  Effect.map(answered(door, text, localAddress), ({ socket, status }) => {
    socket.destroy()
    return status
  })

describe("a handshake that is refused", () => {
  const refused: ReadonlyArray<readonly [status: number, text: string]> = [
    [403, handshake(websocketPath, { Origin: "http://evil.example" })],
    [403, handshake("/socket/websocket?vsn=9.0.0")],
    [403, handshake(`${websocketPath}&as=nobody`)],
    [500, handshake(`${websocketPath}&as=crash`)],
    [500, handshake(`${websocketPath}&as=thrower`)],
    [400, handshake(`${websocketPath}&a=%ff`)],
    [400, handshake(websocketPath, { "Sec-WebSocket-Version": "8" })],
    [400, handshake(websocketPath, { "Sec-WebSocket-Key": "short" })],
    [400, handshake(websocketPath).replace("GET", "POST")],
    [400, handshake(websocketPath, { Upgrade: "h2c" })],
    [418, handshake("/errors/websocket?vsn=2.0.0&as=nobody")],
    [500, handshake("/faults/websocket?vsn=2.0.0&as=nobody")],
    [404, handshake("/nowhere")],
    [404, handshake("/nowhere", { Upgrade: "h2c" })],
    [200, handshake(longpollPath)]
  ]

  for (const [suffix, websocket] of ways) {
    it.effect(`is let go of within 5 seconds, though its client never closes its half${suffix}`, () =>
      Effect.gen(function*() {
        const door = yield* open([
          { path: "/socket", websocket, longpoll: true },
          {
            path: "/errors",
            websocket: {
              ...websocket,
              errorHandler: () => Effect.succeed(HttpServerResponse.text("tea", { status: 418 }))
            }
          },
          {
            path: "/faults",
            websocket: { ...websocket, errorHandler: () => Effect.die(new Error("errorHandler dies")) }
          }
        ])
        const clients: Array<HalfOpen> = []
        for (const [status, text] of refused) {
          const client = yield* answered(door, text)
          assert.strictEqual(client.status, status, text)
          // Bytes that nobody reads keep nothing open.
          client.socket.write("GET /more HTTP/1.1\r\nHost: a\r\n\r\n")
          clients.push(client)
        }
        yield* Effect.promise(() => Promise.all(clients.map((client) => client.ended())))
        yield* TestClock.adjust("5 seconds")
        yield* Effect.promise(() => holds(door.server, 0))
        for (const { socket } of clients) socket.destroy()
      }))
  }

  for (const [suffix, websocket] of ways) {
    it.effect(`is let go of when its client closes its half, whatever it has sent before that${suffix}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", websocket }])
        for (const text of [handshake("/nowhere"), handshake(`${websocketPath}&as=nobody`)]) {
          const client = yield* answered(door, text)
          client.socket.end("x".repeat(1000))
        }
        yield* Effect.promise(() => holds(door.server, 0))
      }))
  }

  it.effect("by a mount is let go of on a server that is not Endpoint.layer's, too", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket" }], { plain: true, http: { disablePreemptiveShutdown: true } })
      const clients: Array<HalfOpen> = []
      for (const [status, text] of refused.filter(([, text]) => text.startsWith("GET /socket/websocket"))) {
        const client = yield* answered(door, text)
        assert.strictEqual(client.status, status, text)
        client.socket.write("GET /more HTTP/1.1\r\nHost: a\r\n\r\n")
        clients.push(client)
      }
      yield* Effect.promise(() => Promise.all(clients.map((client) => client.ended())))
      yield* TestClock.adjust("5 seconds")
      yield* Effect.promise(() => holds(door.server, 0))
      for (const { socket } of clients) socket.destroy()
    }))

  it.effect("is let go of where the application is not there yet, too", () =>
    Effect.gen(function*() {
      const server = createServer()
      yield* Effect.gen(function*() {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        const client = yield* Effect.promise(() => HalfOpen.say(port, handshake()))
        assert.strictEqual(yield* Effect.promise(() => client.answered()), 503)
        yield* Effect.promise(() => client.ended())
        yield* TestClock.adjust("5 seconds")
        yield* Effect.promise(() => holds(server, 0))
        client.socket.destroy()
      }).pipe(Effect.provide(Endpoint.layer(() => server, { port: 0, host: "127.0.0.1" })))
    }))

  it.effect("is let go of over TLS, too", () =>
    Effect.gen(function*() {
      const { cert, key } = makeCertificate()
      const door = yield* open([{ path: "/socket" }], { evaluate: () => createSecureServer({ cert, key }) })
      // The types do not know that TLS may be half open.
      const options: ConnectionOptions & { readonly allowHalfOpen: boolean } = {
        port: door.port,
        host: "127.0.0.1",
        rejectUnauthorized: false,
        allowHalfOpen: true
      }
      const client = connect(options)
      const half = new HalfOpen(client)
      client.write(handshake(websocketPath, { Origin: "http://evil.example" }))
      assert.strictEqual(yield* Effect.promise(() => half.answered()), 403)
      yield* Effect.promise(() => half.ended())
      yield* TestClock.adjust("5 seconds")
      yield* Effect.promise(() => holds(door.server, 0))
      client.destroy()
    }))

  it.effect("and whose client does not read the answer is let go of in the end", () =>
    Effect.gen(function*() {
      const body = "x".repeat(20_000_000)
      const door = yield* open([
        { path: "/socket", websocket: { errorHandler: () => Effect.succeed(HttpServerResponse.text(body)) } }
      ])
      const client = yield* Effect.promise(() => HalfOpen.say(door.port, handshake(`${websocketPath}&as=nobody`)))
      client.socket.pause()
      yield* Effect.promise(() => holds(door.server, 1))
      // The answer has begun when the client is there to see it.
      yield* Effect.promise(() => new Promise((resolve) => client.socket.once("readable", resolve)))
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(yield* Effect.promise(() => held(door.server)), 1)
      yield* TestClock.adjust("1 second")
      yield* Effect.promise(() => holds(door.server, 0))
      client.socket.destroy()
    }))
})

describe("a handshake that is not decided yet", () => {
  const transports: ReadonlyArray<readonly [name: string, mount: Partial<Endpoint.Options>, text: string]> = [
    ...ways.map(([suffix, websocket]) =>
      [`over a WebSocket${suffix}`, { websocket }, handshake(`${websocketPath}&as=waiting`)] as const
    ),
    ["over long polling", { longpoll: true }, request("GET", `${longpollPath}&as=waiting`)]
  ]
  const until = (door: Doorway, event: string, count: number) =>
    Effect.promise(() =>
      untilTrue(`${count} times ${event}`, () => door.events.filter((one) => one === event).length >= count)
    )

  for (const [name, mount, text] of transports) {
    it.live(`has one of the places of maxConnections, until its client leaves: ${name}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{
          path: "/socket",
          maxConnections: 10,
          maxConnectionsPerAddress: Infinity,
          ...mount
        }])
        const waiting = yield* Effect.promise(() =>
          Promise.all(Array.from({ length: 10 }, () => HalfOpen.say(door.port, text)))
        )
        yield* until(door, "asked", 10)
        for (let n = 0; n < 20; n++) assert.strictEqual(yield* statusOf(door, text), 503)
        assert.strictEqual(door.events.length, 10)
        assert.strictEqual(door.lines.filter(({ text }) => text.includes("maxConnections is reached")).length, 1)
        for (const { socket } of waiting.slice(0, 3)) socket.destroy()
        yield* until(door, "interrupted", 3)
        for (let n = 0; n < 3; n++) yield* Effect.promise(() => HalfOpen.say(door.port, text))
        yield* until(door, "asked", 13)
        assert.strictEqual(yield* statusOf(door, text), 503)
        // Clients that are accepted keep their places.
        yield* Deferred.succeed(door.gate, undefined)
        for (const client of waiting.slice(3)) yield* Effect.promise(() => client.answered())
        assert.strictEqual(yield* statusOf(door, text), 503)
      }))

    it.live(`counts for its address: ${name}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", maxConnectionsPerAddress: 2, ...mount }])
        for (let n = 0; n < 2; n++) yield* Effect.promise(() => HalfOpen.say(door.port, text))
        yield* until(door, "asked", 2)
        assert.strictEqual(yield* statusOf(door, text), 503)
        yield* Effect.promise(() => HalfOpen.say(door.port, text, "127.0.0.2"))
        yield* until(door, "asked", 3)
        assert.strictEqual(yield* statusOf(door, text), 503)
      }))
  }

  for (const [suffix, websocket] of ways) {
    it.live(`gives its place back once, however it ends${suffix}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", maxConnections: 1, websocket }])
        const ends: ReadonlyArray<readonly [status: number, text: string]> = [
          [403, handshake(`${websocketPath}&as=nobody`)],
          [500, handshake(`${websocketPath}&as=crash`)],
          [500, handshake(`${websocketPath}&as=thrower`)],
          [500, handshake(`${websocketPath}&as=junk`)],
          [400, handshake(websocketPath, { "Sec-WebSocket-Version": "8" })],
          [400, handshake(websocketPath, { "Sec-WebSocket-Key": "short" })],
          [400, handshake(websocketPath, { Upgrade: "h2c" })],
          [403, handshake("/socket/websocket?vsn=9.0.0")]
        ]
        for (let n = 0; n < 3; n++) {
          for (const [status, text] of ends) assert.strictEqual(yield* statusOf(door, text), status, text)
        }
        const waiting = yield* Effect.promise(() => HalfOpen.say(door.port, handshake(`${websocketPath}&as=waiting`)))
        yield* until(door, "asked", 1)
        assert.strictEqual(yield* statusOf(door, handshake()), 503)
        waiting.socket.destroy()
        yield* until(door, "interrupted", 1)
        // A connection gives it back when it ends; there is only one place, also after all of these.
        for (let n = 0; n < 3; n++) {
          let first = yield* answered(door, handshake())
          // The end of the one before is told by its process.
          while (first.status === 503) first = yield* answered(door, handshake())
          assert.strictEqual(first.status, 101)
          assert.strictEqual(yield* statusOf(door, handshake()), 503)
          first.socket.destroy()
        }
      }))

    it.effect(`is given up after connectTimeout, also where connect cannot be interrupted${suffix}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", maxConnections: 1, connectTimeout: "3 seconds", websocket }])
        const client = yield* Effect.promise(() => HalfOpen.say(door.port, handshake(`${websocketPath}&as=stubborn`)))
        yield* until(door, "asked", 1)
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual(yield* Effect.promise(() => client.answered()), 503)
        // It is still at work, and has a place as long as that.
        assert.strictEqual(yield* statusOf(door, handshake()), 503)
        yield* Deferred.succeed(door.gate, undefined)
        let next = yield* answered(door, handshake())
        while (next.status === 503) next = yield* answered(door, handshake())
        assert.strictEqual(next.status, 101)
        next.socket.destroy()
      }))
  }
})
