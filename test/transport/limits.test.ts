import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Logger, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import { WebSocket } from "ws"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import { Client, endings, start, type TestServer, until } from "./server.ts"

const url = (port: number, query = "vsn=2.0.0", path = "/socket/websocket") => `ws://127.0.0.1:${port}${path}?${query}`

const over = (name: string, mount: Endpoint.Options, body: (server: TestServer) => Promise<void>) =>
  it.live(name, () =>
    Effect.gen(function*() {
      endings.length = 0
      const server = yield* start([mount])
      yield* Effect.promise(() => body(server))
    }))

const big = "x".repeat(100_000)

describe("a client that does not read", () => {
  over(
    "is closed with 1013 once more than maxBacklogBytes wait, and nobody else is",
    { path: "/socket", websocket: { maxBufferedBytes: 1_000_000, maxBacklogBytes: 1_000_000 } },
    async (server) => {
      const [slow, healthy] = await Promise.all([Client.open(url(server.port)), Client.open(url(server.port))])
      await slow.join()
      await healthy.join()
      slow.ws.pause()
      let sent = 0
      while (endings.length === 0) {
        await server.run(Endpoint.broadcast("room:1", "news", { n: sent++, big }))
        const frame = await healthy.next()
        assert.strictEqual(Array.isArray(frame) && frame[4].n, sent - 1)
      }
      assert.deepStrictEqual(endings, ["buffer_full"])
      assert.deepStrictEqual(server.errors, [
        "Warn a client reads more slowly than it is sent: its connection is closed with 1013; send it less, or raise maxBacklogBytes "
      ])
      // What had been written is not lost, where it reads on after all.
      slow.ws.resume()
      assert.strictEqual((await slow.closed).code, 1013)
      assert.deepStrictEqual(await healthy.ask(["1", "9", "room:1", "echo", { a: 1 }]), [
        "1",
        "9",
        "room:1",
        "phx_reply",
        { status: "ok", response: { a: 1 } }
      ])
    }
  )

  over(
    "may be sent a single message of any size",
    { path: "/socket", websocket: { maxBufferedBytes: 1000 } },
    async (server) => {
      const client = await Client.open(url(server.port))
      await client.join()
      await server.run(Endpoint.broadcast("room:1", "news", { big: big.repeat(30) }))
      const frame = await client.next()
      assert.strictEqual(Array.isArray(frame) && frame[4].big.length, 3_000_000)
    }
  )
})

it.effect("a client that closes, and does not read what is left for it, is cut off after 5 seconds", () =>
  Effect.gen(function*() {
    endings.length = 0
    const server = yield* start([{ path: "/socket", websocket: { maxBufferedBytes: 1_000_000_000 } }])
    const client = yield* Effect.promise(() => Client.open(url(server.port)))
    yield* Effect.promise(() => client.join())
    client.ws.pause()
    for (let n = 0; n < 400; n++) {
      yield* Effect.promise(() => server.run(Endpoint.broadcast("room:1", "news", { n, big })))
    }
    client.ws.close(1000)
    yield* Effect.promise(() => until(() => endings.length > 0))
    yield* TestClock.adjust("5 seconds")
    client.ws.resume()
    assert.strictEqual((yield* Effect.promise(() => client.closed)).code, 1006)
  }))

describe("lossy events", () => {
  const Game = Channel.make("game", {
    lossy: {
      blink: "drop",
      move: (payload) => String(Object(payload).player),
      odd: () => {
        throw new Error("no key for this one")
      }
    }
  })
  const GameLive = Game.layer(() => Effect.succeed({}))
  const GameSocket = Socket.make("game", { channels: [Game] })
  const GameSocketLive = GameSocket.layer(() => Effect.succeed(Socket.accept()))

  const serve = Effect.gen(function*() {
    const live = HttpRouter.serve(
      Endpoint.mount(GameSocket, { path: "/socket", longpoll: true, websocket: { maxBufferedBytes: 100_000_000 } }),
      {
        disableLogger: true,
        disableListenLog: true
      }
    ).pipe(
      Layer.provide([GameLive, GameSocketLive]),
      Layer.provideMerge(PubSub.layer),
      Layer.provideMerge(
        Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })
      ),
      Layer.provide(Logger.layer([]))
    )
    const scope = yield* Scope.make()
    yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
    const context = yield* Layer.buildWithScope(live, scope)
    const { address } = Context.get(context, HttpServer.HttpServer)
    const broadcast = (event: string, payload: unknown) =>
      Effect.runPromiseWith(context)(Endpoint.broadcast("game", event, payload))
    return { port: "port" in address ? address.port : 0, broadcast }
  })

  it.live("are left out for a client that is behind: all of them, or all but the latest", () =>
    Effect.gen(function*() {
      const { broadcast, port } = yield* serve
      yield* Effect.promise(async () => {
        const client = await Client.open(url(port))
        await client.join("game")
        const next = async () => {
          const frame = await client.next()
          return Array.isArray(frame) ? [frame[3], frame[4].player ?? frame[4].n, frame[4].x] : frame
        }
        // One that keeps up gets all.
        await broadcast("move", { player: "a", x: 0 })
        await broadcast("blink", { n: 0 })
        assert.deepStrictEqual([await next(), await next()], [["move", "a", 0], ["blink", 0, undefined]])
        client.ws.pause()
        // More than the buffers of the kernel hold.
        for (let n = 0; n < 400; n++) await broadcast("chat", { n, big })
        // They are written when their turn is over.
        await new Promise((resolve) => setImmediate(resolve))
        for (let x = 1; x <= 3; x++) {
          await broadcast("move", { player: "a", x })
          await broadcast("move", { player: "b", x: -x })
          await broadcast("blink", { n: x })
        }
        await broadcast("chat", { n: 400 })
        client.ws.resume()
        for (let n = 0; n <= 400; n++) assert.deepStrictEqual(await next(), ["chat", n, undefined])
        assert.deepStrictEqual([await next(), await next()], [["move", "a", 3], ["move", "b", -3]])
        await broadcast("blink", { n: 4 })
        assert.deepStrictEqual(await next(), ["blink", 4, undefined])
        client.ws.terminate()
      })
    }).pipe(Effect.scoped))

  it.live("whose key cannot be told are sent as any other", () =>
    Effect.gen(function*() {
      const { broadcast, port } = yield* serve
      yield* Effect.promise(async () => {
        const clients = await Promise.all([Client.open(url(port)), Client.open(url(port))])
        for (const client of clients) await client.join("game")
        await broadcast("odd", { n: 1 })
        for (const client of clients) {
          assert.deepStrictEqual(await client.next(), [null, null, "game", "odd", { n: 1 }])
          client.ws.terminate()
        }
      })
    }).pipe(Effect.scoped))

  it.live("are left out as well for one that polls, and has not for a while", () =>
    Effect.gen(function*() {
      const { broadcast, port } = yield* serve
      yield* Effect.promise(async () => {
        const poll = async (token?: string, body?: unknown) => {
          const query = token === undefined ? "" : `&token=${encodeURIComponent(token)}`
          const response = await fetch(`http://127.0.0.1:${port}/socket/longpoll?vsn=2.0.0${query}`, {
            method: body === undefined ? "GET" : "POST",
            ...body === undefined ? {} : { body: JSON.stringify(body) }
          })
          return await response.json() as { token: string; messages: ReadonlyArray<string> }
        }
        const { token } = await poll()
        await poll(token, ["1", "1", "game", "phx_join", {}])
        await broadcast("chat", { n: 0, big })
        for (let x = 1; x <= 3; x++) {
          await broadcast("move", { player: "a", x })
          await broadcast("blink", { n: x })
        }
        await broadcast("chat", { n: 1 })
        const { messages } = await poll(token)
        const events = messages.map((text) => JSON.parse(text)).map((frame) => [frame[3], frame[4].n ?? frame[4].x])
        assert.deepStrictEqual(events.slice(1), [["chat", 0], ["move", 3], ["chat", 1]])
        await broadcast("move", { player: "a", x: 4 })
        assert.lengthOf((await poll(token)).messages, 1)
      })
    }).pipe(Effect.scoped))

  it("are among the outgoing ones of a contract", () => {
    assert.throws(() => Channel.make("x", { outgoing: {}, lossy: { move: "drop" } }), /lossy event move/)
  })
})

describe("connections", () => {
  over(
    "are as many as maxConnections; others are answered 503",
    { path: "/socket", maxConnections: 2 },
    async (server) => {
      const first = await Client.open(url(server.port))
      await Client.open(url(server.port))
      assert.strictEqual(await Client.refused(url(server.port)), 503)
      assert.deepStrictEqual(server.errors, ["Warn a client was turned away: maxConnections is reached "])
      first.ws.close()
      await first.closed
      const again = await Client.open(url(server.port))
      again.ws.close()
    }
  )

  over(
    "of one address are as many as maxConnectionsPerAddress",
    { path: "/socket", maxConnectionsPerAddress: 1 },
    async (server) => {
      const first = await Client.open(url(server.port))
      assert.strictEqual(await Client.refused(url(server.port)), 503)
      const other = await Client.open(url(server.port), { localAddress: "127.0.0.2" })
      first.ws.terminate()
      await until(() => first.ws.readyState === WebSocket.CLOSED)
      let again: Client | undefined
      while (again === undefined) {
        const client = new Client(url(server.port))
        const opened = await new Promise<boolean>((resolve) => {
          client.ws.once("open", () => resolve(true))
          client.ws.once("close", () => resolve(false))
        })
        if (opened) again = client
      }
      again.ws.terminate()
      other.ws.terminate()
    }
  )

  it.effect("whose connect takes longer than connectTimeout are answered 503", () =>
    Effect.gen(function*() {
      endings.length = 0
      const server = yield* start([{ path: "/socket", connectTimeout: "3 seconds" }])
      const refused = Client.refused(url(server.port, "vsn=2.0.0&token=hang"))
      yield* Effect.promise(() => until(() => endings.includes("connecting")))
      yield* TestClock.adjust("2999 millis")
      assert.deepStrictEqual(endings, ["connecting"])
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Effect.promise(() => refused), 503)
      assert.deepStrictEqual(endings, ["connecting", "interrupted"])
      assert.deepStrictEqual(server.errors, ["Warn the connect of a socket took longer than connectTimeout "])
    }))
})

it.live("what comes before the application is there is answered 503", () =>
  Effect.gen(function*() {
    const server = createServer()
    const { address } = Context.get(
      yield* Layer.build(Endpoint.layer(() => server, { port: 0, host: "127.0.0.1" })),
      HttpServer.HttpServer
    )
    const port = "port" in address ? address.port : 0
    yield* Effect.promise(async () => {
      assert.strictEqual((await fetch(`http://127.0.0.1:${port}/`)).status, 503)
      assert.strictEqual(await Client.refused(url(port)), 503)
      server.on("request", (_request, response) => response.end("here"))
      assert.strictEqual(await (await fetch(`http://127.0.0.1:${port}/`)).text(), "here")
    })
  }))
