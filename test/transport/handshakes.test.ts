/** Which handshakes are answered before the router and its middleware see them. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger } from "effect"
import { HttpMiddleware, HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import { Client, plain } from "./server.ts"

const own = Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })

/** Starts a server whose middleware lets nobody pass. */
const guarded = Effect.fnUntraced(function*(
  options: Partial<Endpoint.Options>,
  http: Layer.Layer<HttpServer.HttpServer, unknown> = own
) {
  const infos: Array<Socket.ConnectInfo> = []
  const warnings: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => void (logLevel === "Warn" && warnings.push(String(message))))
  const UserSocket = Socket.make("user_socket", { channels: [] })
  const live = HttpRouter.serve(Endpoint.mount(UserSocket, { path: "/socket", host: "127.0.0.1", ...options }), {
    disableLogger: true,
    disableListenLog: true,
    middleware: HttpMiddleware.make(() => Effect.succeed(HttpServerResponse.empty({ status: 418 })))
  }).pipe(
    Layer.provide(UserSocket.layer((info) => Effect.as(Effect.sync(() => infos.push(info)), Socket.accept()))),
    Layer.provide(PubSub.layer),
    Layer.provideMerge(http),
    Layer.provide(Logger.layer([logger]))
  )
  const { address } = Context.get(yield* Layer.build(live), HttpServer.HttpServer)
  const port = "port" in address ? address.port : 0
  return { url: `ws://127.0.0.1:${port}`, infos, warnings }
})

const opens = async (url: string): Promise<void> => (await Client.open(url)).ws.terminate()

describe("a handshake", () => {
  it.live("is not seen by middleware, other requests are", () =>
    Effect.gen(function*() {
      const { url, warnings } = yield* guarded({})
      yield* Effect.promise(async () => {
        await opens(`${url}/socket/websocket?vsn=2.0.0`)
        assert.strictEqual(await Client.refused(`${url}/elsewhere`), 418)
        assert.strictEqual((await fetch(`${url.replace("ws", "http")}/socket/websocket?vsn=2.0.0`)).status, 418)
      })
      assert.deepStrictEqual(warnings, [])
    }))

  it.live("is seen by it where the mount says so", () =>
    Effect.gen(function*() {
      const { url, infos, warnings } = yield* guarded({ websocket: { middleware: true } })
      const status = yield* Effect.promise(() => Client.refused(`${url}/socket/websocket?vsn=2.0.0`))
      assert.strictEqual(status, 418)
      assert.deepStrictEqual(infos, [])
      assert.deepStrictEqual(warnings, [])
    }))

  it.live("is seen by it on a server that is not Endpoint.layer's, which is told in a warning", () =>
    Effect.gen(function*() {
      const { url, warnings } = yield* guarded({}, plain)
      const status = yield* Effect.promise(() => Client.refused(`${url}/socket/websocket?vsn=2.0.0`))
      assert.strictEqual(status, 418)
      assert.deepStrictEqual(warnings, [
        "the HTTP server will wait for open connections when it stops: use Endpoint.layer"
      ])
    }))

  it.live("is found by a path with variables, and with a path of the transport", () =>
    Effect.gen(function*() {
      const { url, infos } = yield* guarded({ path: "/:tenant/socket", websocket: { path: "/ws/:room" } })
      yield* Effect.promise(() => opens(`${url}/acme%20inc/socket/ws/1?vsn=2.0.0&a=b`))
      assert.deepStrictEqual(infos.map(({ params }) => params), [{
        vsn: "2.0.0",
        a: "b",
        tenant: "acme inc",
        room: "1"
      }])
    }))
})
