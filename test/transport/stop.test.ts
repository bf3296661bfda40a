/** A stop waits for nobody who has nothing to say. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Layer } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer as createSecureServer } from "node:https"
import { connect } from "node:tls"
import { makeCertificate } from "../support/certificate.ts"
import {
  type Doorway,
  HalfOpen,
  handshake,
  longpollPath,
  open,
  request,
  type Settings,
  until,
  ways,
  websocketPath
} from "./doorway.ts"

const Routes = Layer.mergeAll(
  HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello")),
  HttpRouter.add(
    "POST",
    "/upload",
    Effect.gen(function*() {
      const { arrayBuffer } = yield* HttpServerRequest.HttpServerRequest
      const body = yield* Effect.orDie(arrayBuffer)
      return HttpServerResponse.text(String(body.byteLength))
    })
  )
)

/** The server grants 20 seconds to requests that are under way: a stop that takes that long has waited for somebody. */
const stops = (door: Doorway) => Effect.timeout(door.stop, "8 seconds")

const stopped = (
  name: string,
  prepare: (door: Doorway) => Promise<void>,
  settings: Settings = {},
  websocket: object = {}
) =>
  it.live(name, () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket", longpoll: true, websocket, connectTimeout: "Infinity" }], {
        routes: Routes,
        ...settings
      })
      yield* Effect.promise(() => prepare(door))
      yield* stops(door)
    }))

const say = async (door: Doorway, text: string): Promise<HalfOpen> => HalfOpen.say(door.port, text)

describe("a stop does not wait for", () => {
  for (const as of ["waiting", "stubborn"]) {
    for (
      const [name, text, websocket] of [
        ...ways.map(([suffix, websocket]) =>
          [`a WebSocket${suffix}`, handshake(`${websocketPath}&as=${as}`), websocket] as const
        ),
        ["long polling", request("GET", `${longpollPath}&as=${as}`), {}] as const
      ]
    ) {
      it.live(`the connect of ${name}, which is answered 503 (${as})`, () =>
        Effect.gen(function*() {
          const door = yield* open([{ path: "/socket", longpoll: true, websocket, connectTimeout: "Infinity" }])
          const client = yield* Effect.promise(() => HalfOpen.say(door.port, text))
          yield* Effect.promise(() => until("connect", () => door.events.includes("asked")))
          yield* stops(door)
          assert.strictEqual(yield* Effect.promise(() => client.answered()), 503)
          if (as === "waiting") assert.deepStrictEqual(door.events, ["asked", "interrupted"])
          yield* Deferred.succeed(door.gate, undefined)
        }))
    }
  }

  stopped("a connection that says nothing, or half a request", async (door) => {
    await HalfOpen.dial(door.port)
    await say(door, "GET /hello HT")
    await say(door, handshake().slice(0, 60))
  })

  stopped("the second half of a second request", async (door) => {
    const client = await say(door, request("GET", "/hello"))
    await until("the first answer", () => client.text.includes("hello"))
    client.socket.write("GET /hello HT")
  })

  for (const path of [longpollPath, "/upload"]) {
    stopped(`the rest of a post to ${path}`, async (door) => {
      let target = path
      if (path === longpollPath) {
        const begun = await say(door, request("GET", path))
        await until("a token", () => begun.text.includes("\"token\""))
        target += `&token=${/"token":"([^"]+)"/.exec(begun.text)?.[1]}`
      }
      await say(door, request("POST", target, { "Content-Length": "100" }, "["))
      await say(door, request("POST", target, { "Transfer-Encoding": "chunked" }, "5\r\n[1,2,\r\n"))
      // The server has read all that before it stops.
      const last = await say(door, request("GET", "/hello"))
      await last.answered()
    })
  }

  stopped("a poll", async (door) => {
    const begun = await say(door, request("GET", longpollPath))
    await until("a token", () => begun.text.includes("\"token\""))
    await say(door, request("GET", `${longpollPath}&token=${/"token":"([^"]+)"/.exec(begun.text)?.[1]}`))
    const last = await say(door, request("GET", "/hello"))
    await last.answered()
  })

  for (const [suffix, websocket] of ways) {
    stopped(
      `a refused handshake whose client leaves its half open${suffix}`,
      async (door) => {
        for (const path of ["/nowhere", `${websocketPath}&as=nobody`]) {
          const client = await say(door, handshake(path))
          await client.ended()
        }
      },
      {},
      websocket
    )

    stopped(
      `a handshake whose client has left its half${suffix}`,
      async (door) => {
        const client = await say(door, handshake(`${websocketPath}&as=stubborn`))
        await until("connect", () => door.events.includes("asked"))
        client.socket.end()
      },
      {},
      websocket
    )
  }

  const { cert, key } = makeCertificate()
  const tls: Settings = { evaluate: () => createSecureServer({ cert, key }) }

  stopped("a TCP connection to a server of TLS that says nothing, or half a greeting", async (door) => {
    await HalfOpen.dial(door.port)
    // The beginning of a record that is a ClientHello.
    await say(door, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    const client = connect({ port: door.port, host: "127.0.0.1", rejectUnauthorized: false })
    await new Promise((resolve) => client.once("secureConnect", resolve))
    client.on("error", () => {})
  }, tls)

  stopped("half a request over TLS, or the rest of a post", async (door) => {
    for (const text of ["GET /hello HT", request("POST", "/upload", { "Content-Length": "100" }, "[")]) {
      const client = connect({ port: door.port, host: "127.0.0.1", rejectUnauthorized: false })
      client.on("error", () => {})
      client.write(text)
      await new Promise((resolve) => client.once("secureConnect", resolve))
    }
  }, tls)
})

it.live("a stop waits for a request that goes on", () =>
  Effect.gen(function*() {
    const door = yield* open([{ path: "/socket" }], { routes: Routes })
    const client = yield* Effect.promise(() => say(door, request("POST", "/upload", { "Content-Length": "40" }, "a")))
    const first = yield* Effect.promise(() => say(door, request("GET", "/hello")))
    yield* Effect.promise(() => first.answered())
    // A byte at a time, for longer than the server waits for one that is silent.
    let sent = 1
    const timer = setInterval(() => {
      if (sent < 40) client.socket.write("a")
      sent++
    }, 60)
    yield* stops(door)
    clearInterval(timer)
    assert.strictEqual(client.status, 200)
    assert.match(client.text, /40$/)
  }))
