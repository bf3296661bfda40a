/** The paths of mounts, and the other paths of their server. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer, type IncomingMessage } from "node:http"
import type { Duplex } from "node:stream"
import { type WebSocket, WebSocketServer } from "ws"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import {
  DoorSocket,
  type Doorway,
  HalfOpen,
  handshake,
  holds,
  longpollPath,
  open,
  request,
  type Settings,
  ways
} from "./doorway.ts"

const statusOf = (door: Doorway, text: string) =>
  Effect.promise(async () => {
    const client = await HalfOpen.say(door.port, text)
    await client.answered()
    client.socket.destroy()
    return client.status
  })

const withPrefix = (...prefixes: ReadonlyArray<string>): NonNullable<Settings["around"]> => (mount) =>
  prefixes.reduceRight(
    (inner, prefix) =>
      Layer.provide(
        inner,
        Layer.effect(HttpRouter.HttpRouter, Effect.map(HttpRouter.HttpRouter, (router) => router.prefixed(prefix)))
      ),
    mount
  )

const at = (path: string) => handshake(`${path}?vsn=2.0.0`)

describe("a mount in a router with a prefix", () => {
  const cases: ReadonlyArray<readonly [prefixes: ReadonlyArray<string>, path: string, not: ReadonlyArray<string>]> = [
    [[], "/socket/websocket", ["/api/socket/websocket"]],
    [["/api"], "/api/socket/websocket", ["/socket/websocket", "/api/api/socket/websocket"]],
    [["/api/"], "/api/socket/websocket", ["/socket/websocket"]],
    [["/api", "/v1"], "/api/v1/socket/websocket", [
      "/socket/websocket",
      "/v1/socket/websocket",
      "/api/socket/websocket"
    ]],
    [["/:tenant"], "/acme/socket/websocket", ["/socket/websocket"]]
  ]
  for (const [suffix, websocket] of ways) {
    for (const [prefixes, path, others] of cases) {
      it.live(`of ${JSON.stringify(prefixes)} is there and nowhere else${suffix}`, () =>
        Effect.gen(function*() {
          const door = yield* open([{ path: "/socket", websocket }], { around: withPrefix(...prefixes) })
          assert.strictEqual(yield* statusOf(door, at(path)), 101)
          for (const other of others) assert.strictEqual(yield* statusOf(door, at(other)), 404, other)
          assert.deepStrictEqual(door.lines, [])
        }))
    }
  }

  it.live("is answered before the middleware of the router, as any mount", () =>
    Effect.gen(function*() {
      const marking = HttpRouter.use((router) =>
        router.addGlobalMiddleware((app) => Effect.map(app, (response) => HttpServerResponse.setStatus(response, 418)))
      )
      const door = yield* open([{ path: "/socket" }], { around: withPrefix("/api"), routes: marking })
      assert.strictEqual(yield* statusOf(door, at("/api/socket/websocket")), 101)
      assert.strictEqual(yield* statusOf(door, request("GET", "/api/socket/websocket?vsn=2.0.0")), 418)
      assert.strictEqual(yield* statusOf(door, at("/socket/websocket")), 404)
    }))

  it.live("of which the prefix cannot be found out is left to the router, and says so", () =>
    Effect.gen(function*() {
      // A router of another make, which adds its prefix in its own way.
      const around: Settings["around"] = (mount) =>
        Layer.provide(
          mount,
          Layer.effect(
            HttpRouter.HttpRouter,
            Effect.map(HttpRouter.HttpRouter, (router): HttpRouter.HttpRouter => ({
              ...router,
              prefixed: (prefix) => router.prefixed(`/odd${prefix}`),
              addAll: (routes) => router.prefixed("/odd").addAll([...routes] as typeof routes)
            }))
          )
        )
      const door = yield* open([{ path: "/socket" }], { around })
      assert.strictEqual(yield* statusOf(door, at("/odd/socket/websocket")), 101)
      assert.strictEqual(yield* statusOf(door, at("/socket/websocket")), 404)
      assert.deepStrictEqual(door.lines.map(({ text }) => text), [
        "the prefix of the router is not known, so that handshakes pass its middleware"
      ])
    }))
})

describe("a variable of a path", () => {
  const token = "a".repeat(2000)

  it.live("may be as long as a token", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket/:token" }])
      assert.strictEqual(yield* statusOf(door, at(`/socket/${token}/websocket`)), 101)
      assert.strictEqual(yield* statusOf(door, at(`/socket/${"a".repeat(8192)}/websocket`)), 101)
      assert.strictEqual(yield* statusOf(door, at(`/socket/${"a".repeat(8193)}/websocket`)), 404)
    }))

  it.live("is as long as the application's router allows, where that has a say", () =>
    Effect.gen(function*() {
      const routerConfig = { maxParamLength: 3000 }
      const mounts = [{ path: "/socket/:token" }, {
        path: "/other/:token",
        websocket: { middleware: true },
        longpoll: true
      }] as const
      const door = yield* open(mounts, { routerConfig })
      for (const [path, beyond] of [["/socket", 101], ["/other", 404]] as const) {
        assert.strictEqual(yield* statusOf(door, at(`${path}/${token}/websocket`)), 101)
        assert.strictEqual(yield* statusOf(door, at(`${path}/${"a".repeat(3001)}/websocket`)), beyond)
      }
      assert.strictEqual(yield* statusOf(door, request("GET", `/other/${token}/longpoll?vsn=2.0.0`)), 200)
    }))

  it.live("that is too long for the router is a 404 with a line in the log that says what to do", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket/:token", websocket: { middleware: true }, longpoll: true }])
      for (let n = 0; n < 10; n++) {
        assert.strictEqual(yield* statusOf(door, at(`/socket/${token}/websocket`)), 404)
        assert.strictEqual(yield* statusOf(door, request("GET", `/socket/${token}/longpoll?vsn=2.0.0`)), 404)
      }
      const [line, ...more] = door.lines
      assert.deepStrictEqual(more, [])
      assert.strictEqual(line?.level, "Warn")
      assert.include(line?.text, "set maxParamLength of HttpRouter.RouterConfig")
      assert.isBelow(JSON.stringify(line).length, 500)
    }))
})

describe("two mounts at one path", () => {
  const OtherSocket = Socket.make("other", { channels: [] })
  const both = (one: Endpoint.Options, two: Endpoint.Options, http: Layer.Layer<never> | undefined = undefined) =>
    Effect.exit(
      HttpRouter.toHttpEffect(
        Layer.mergeAll(http ?? Layer.empty, Endpoint.mount(DoorSocket, one), Endpoint.mount(OtherSocket, two)).pipe(
          Layer.provide([
            DoorSocket.layer(() => Effect.succeed(Socket.accept())),
            OtherSocket.layer(() => Effect.succeed(Socket.accept())),
            PubSub.layer
          ])
        )
      )
    )
  const host = "a"
  const same: ReadonlyArray<readonly [one: Endpoint.Options, two: Endpoint.Options]> = [
    [{ path: "/socket", host }, { path: "/socket", host }],
    [{ path: "/socket", host }, { path: "/Socket/", host }],
    [{ path: "/socket/:a", host }, { path: "/socket/:b", host }],
    [{ path: "/a", host, websocket: { path: "/b/c" } }, { path: "/a/b", host, websocket: { path: "/c" } }],
    [{ path: "/a", host, websocket: false, longpoll: true }, { path: "/a", host, websocket: { path: "/longpoll" } }]
  ]
  for (const [one, two] of same) {
    it.effect(`are a mistake that names both: ${JSON.stringify([one, two])}`, () =>
      Effect.gen(function*() {
        const exit = yield* both(one, two)
        const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "mounted"
        for (const word of ["OptionError", "socket door", "socket other", "path"]) assert.include(text, word)
      }))
  }

  it.effect("of one socket are a mistake too", () =>
    Effect.gen(function*() {
      const exit = yield* both({ path: "/a", host, websocket: { path: "/x" }, longpoll: { path: "/x" } }, {
        path: "/b",
        host
      })
      const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "mounted"
      for (const word of ["OptionError", "longpoll", "websocket", "socket door"]) assert.include(text, word)
    }))

  it.effect("where a route is are a mistake that names the socket and the path", () =>
    Effect.gen(function*() {
      const route = HttpRouter.add("GET", "/a/websocket", HttpServerResponse.empty())
      const exit = yield* Effect.exit(
        HttpRouter.toHttpEffect(
          Layer.provide(Endpoint.mount(DoorSocket, { path: "/a", host }), [
            DoorSocket.layer(() => Effect.succeed(Socket.accept())),
            PubSub.layer
          ]).pipe(Layer.provide(route))
        )
      )
      const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "mounted"
      for (const word of ["OptionError", "socket door", "/a/websocket"]) assert.include(text, word)
    }))

  it.effect("one after the other are fine, and so are others beside each other", () =>
    Effect.gen(function*() {
      for (let n = 0; n < 2; n++) {
        const exit = yield* Effect.scoped(both({ path: "/a", host }, { path: "/b", host, longpoll: true }))
        assert.isTrue(Exit.isSuccess(exit))
      }
    }))
})

describe("an upgrade that no mount wants", () => {
  /** A server on which somebody else listens for upgrades, as a dev server does for its hot reload. */
  const shared = () => {
    const server = createServer()
    const seen: Array<string> = []
    const wss = new WebSocketServer({ noServer: true })
    wss.on("connection", (ws: WebSocket) => ws.on("message", (data) => ws.send(`you said ${String(data)}`)))
    const listener = (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
      seen.push(String(incoming.url))
      if (incoming.url === "/ignored") return
      if (incoming.url?.startsWith("/hmr") === true) {
        wss.handleUpgrade(incoming, socket, head, (ws) => wss.emit("connection", ws))
      } else socket.end("HTTP/1.1 444 No\r\n\r\n")
    }
    return { server, seen, listener }
  }
  const Rpc = HttpRouter.add(
    "GET",
    "/rpc",
    Effect.gen(function*() {
      const request = yield* HttpServerRequest.HttpServerRequest
      const socket = yield* Effect.orDie(request.upgrade)
      const { pull } = yield* socket.reader
      yield* Effect.forever(pull)
      return HttpServerResponse.empty()
    }).pipe(Effect.scoped, Effect.catch(() => Effect.succeed(HttpServerResponse.empty())))
  )
  const Routes = Layer.mergeAll(
    Rpc,
    HttpRouter.add("GET", "/page", HttpServerResponse.text("page")),
    HttpRouter.add("GET", "/closed", HttpServerResponse.empty({ status: 401 }))
  )
  const mounts = [
    { path: "/socket", longpoll: true },
    { path: "/routed/:id", websocket: { middleware: true } }
  ] as const
  const others = (
    name: string,
    body: (door: Doorway, seen: ReadonlyArray<string>) => Effect.Effect<void>,
    settings: Settings = { routes: Routes }
  ) => {
    for (const when of ["before", "after"]) {
      it.live(`${name} (who listens ${when} the application)`, () =>
        Effect.gen(function*() {
          const { listener, seen, server } = shared()
          if (when === "before") server.on("upgrade", listener)
          const door = yield* open(mounts, { ...settings, evaluate: () => server })
          if (when === "after") server.on("upgrade", listener)
          yield* body(door, seen)
        }))
    }
  }

  /** Two conversations with the other listener, one of which begins in the packet of the handshake. */
  const speaksRaw = (door: Doorway) =>
    Effect.promise(async () => {
      const frame = Buffer.from([0x81, 0x82, 0, 0, 0, 0, ...Buffer.from("hi")]).toString("latin1")
      for (const glued of [frame, ""]) {
        const client = await HalfOpen.dial(door.port)
        client.socket.write(Buffer.from(handshake("/hmr") + glued, "latin1"))
        await client.answered()
        if (glued === "") client.socket.write(Buffer.from(frame, "latin1"))
        while (!client.text.includes("you said hi")) await new Promise((resolve) => setImmediate(resolve))
        assert.strictEqual(client.status, 101)
        assert.strictEqual(client.text.match(/HTTP/g)?.length, 1)
        client.socket.destroy()
      }
    })

  others("is left to other listeners of the server, to them alone", (door, seen) =>
    Effect.gen(function*() {
      yield* speaksRaw(door)
      assert.deepStrictEqual(seen, ["/hmr", "/hmr"])
      assert.strictEqual(yield* statusOf(door, handshake("/elsewhere")), 444)
      assert.strictEqual(yield* statusOf(door, handshake("/page")), 444)
      assert.strictEqual(yield* statusOf(door, handshake("/elsewhere", { Upgrade: "other" })), 444)
      assert.deepStrictEqual(seen.slice(2), ["/elsewhere", "/page", "/elsewhere"])
    }))

  others("is not that of a mount or a route, which others do not hear of", (door, seen) =>
    Effect.gen(function*() {
      const wanted: ReadonlyArray<readonly [text: string, status: number]> = [
        [handshake(), 101],
        [at("/routed/1/websocket"), 101],
        [handshake("/socket/websocket?vsn=9.0.0"), 403],
        [handshake("/socket/websocket?vsn=2.0.0").replace("GET", "POST"), 400],
        [at("/routed/1/websocket").replace("/routed", "http://127.0.0.1/routed"), 101],
        [handshake("/rpc"), 101],
        [handshake("/closed"), 401],
        [handshake("/page", { Upgrade: "h2c" }), 200],
        [request("GET", "/page"), 200],
        [request("GET", longpollPath), 200]
      ]
      for (const [text, status] of wanted) assert.strictEqual(yield* statusOf(door, text), status, text)
      assert.deepStrictEqual(seen, [])
    }))

  others(
    "is left to others where the application answers all paths with a page",
    (door, seen) =>
      Effect.gen(function*() {
        yield* speaksRaw(door)
        assert.strictEqual(yield* statusOf(door, request("GET", "/hmr")), 200)
        assert.strictEqual(yield* statusOf(door, handshake()), 101)
        assert.deepStrictEqual(seen, ["/hmr", "/hmr"])
      }),
    { routes: HttpRouter.add("*", "/*", HttpServerResponse.text("page")) }
  )

  it.effect("and that nobody else answers is answered 404 after 30 seconds", () =>
    Effect.gen(function*() {
      const { listener, server } = shared()
      server.on("upgrade", listener)
      const door = yield* open(mounts, { evaluate: () => server })
      const client = yield* Effect.promise(() => HalfOpen.say(door.port, handshake("/ignored")))
      // The listener has been called for the first when it answers the second.
      assert.strictEqual(yield* statusOf(door, handshake("/elsewhere")), 444)
      yield* TestClock.adjust("29 seconds")
      assert.isUndefined(client.status)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Effect.promise(() => client.answered()), 404)
      yield* TestClock.adjust("5 seconds")
      yield* Effect.promise(() => holds(server, 0))
    }))

  it.live("is answered 404 where nobody else listens", () =>
    Effect.gen(function*() {
      const door = yield* open(mounts)
      assert.strictEqual(yield* statusOf(door, handshake("/nowhere")), 404)
    }))
})
