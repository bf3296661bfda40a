import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Logger, References, Result } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { createServer, type IncomingHttpHeaders, request } from "node:http"
import { createServer as createSecureServer, request as secureRequest } from "node:https"
// @ts-expect-error the package comes without types
import { Socket as Phoenix } from "phoenix"
import { WebSocket } from "ws"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Serializer from "../../src/Serializer.ts"
import * as Socket from "../../src/Socket.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import * as Token from "../../src/Token.ts"
import { makeCertificate } from "../support/certificate.ts"
import { Client, ways } from "./server.ts"

interface Line {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: string
}

interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
  /** The client's own port. */
  readonly port: number | undefined
}

interface Door {
  readonly port: number
  /** What connect was told, of each client. */
  readonly infos: ReadonlyArray<Socket.ConnectInfo>
  readonly lines: ReadonlyArray<Line>
  /** Makes a request, which asks for a WebSocket unless told otherwise. */
  readonly ask: (path?: string, headers?: Record<string, string>, options?: Ask) => Promise<Answer>
}

interface Ask {
  readonly method?: string
  readonly plain?: boolean
}

const here = "/socket/websocket?vsn=2.0.0"

const handshake = {
  connection: "Upgrade",
  upgrade: "websocket",
  "sec-websocket-version": "13",
  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="
}

const http = Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })

/** Starts a server whose only socket lets in whoever does not ask to be refused. */
const open = Effect.fnUntraced(function*(
  mounts: ReadonlyArray<Endpoint.Options>,
  options: {
    readonly http?: typeof http
    readonly log?: Socket.Options<[]>["log"]
    readonly serializers?: Serializer.Serializers
    readonly filter?: Telemetry.FilterParameters
  } = {}
) {
  const infos: Array<Socket.ConnectInfo> = []
  const lines: Array<Line> = []
  const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    lines.push({ level: logLevel, text, annotations, cause: Cause.pretty(cause) })
  })
  const Door = Socket.make("door", { channels: [], log: options.log, serializers: options.serializers })
  const DoorLive = Door.layer((info) => {
    infos.push(info)
    const { deny } = info.params
    return deny === undefined ? Effect.succeed(Socket.accept()) : Effect.fail(Socket.refuse(deny))
  })
  const app = HttpRouter.serve(Layer.mergeAll(Layer.empty, ...mounts.map((mount) => Endpoint.mount(Door, mount))), {
    disableLogger: true,
    disableListenLog: true
  }).pipe(
    Layer.provide([DoorLive, PubSub.layer]),
    Layer.provideMerge(options.http ?? http),
    Layer.provide([
      Logger.layer([logger]),
      Layer.succeed(References.MinimumLogLevel, "Debug"),
      options.filter === undefined ? Layer.empty : Layer.succeed(Telemetry.FilterParameters, options.filter)
    ])
  )
  const { address } = Context.get(yield* Layer.build(app), HttpServer.HttpServer)
  const port = "port" in address ? address.port : 0
  // That mounts without a host compare with the Host header.
  lines.length = 0
  const door: Door = {
    port,
    infos,
    lines,
    ask: (path = here, headers = {}, { method = "GET", plain = false } = {}) =>
      new Promise((resolve, reject) => {
        const asked = request({
          port,
          host: "127.0.0.1",
          method,
          path,
          agent: false,
          headers: { ...plain ? {} : handshake, ...headers }
        })
        asked.on("error", reject).on("response", (response) => {
          const { headers, socket: { localPort: port }, statusCode: status = 0 } = response
          let body = ""
          response.on("data", (chunk) => body += String(chunk))
          response.on("end", () => resolve({ status, headers, body, port }))
        }).on("upgrade", ({ headers, statusCode: status = 0 }, socket) => {
          resolve({ status, headers, body: "", port: "localPort" in socket ? Number(socket.localPort) : undefined })
          socket.destroy()
        }).end()
      })
  }
  return door
})

const mount: Endpoint.Options = { path: "/socket" }

/** A test against a door that nobody else comes to, for each way of a handshake. */
const at = (
  name: string,
  mounts: ReadonlyArray<Endpoint.Options>,
  body: (door: Door) => Promise<void>,
  options?: Parameters<typeof open>[1]
) => {
  for (const [suffix, way] of ways) {
    it.live(`${name}${suffix}`, () =>
      Effect.flatMap(open(mounts.map(way), options), (door) => Effect.promise(() => body(door))))
  }
}

const only = <A>(all: ReadonlyArray<A>): A => {
  const [one, ...more] = all
  assert.isDefined(one)
  assert.deepStrictEqual(more, [])
  return one
}

const last = ({ infos }: Door): Socket.ConnectInfo => {
  const info = infos.at(-1)
  assert.isDefined(info)
  return info
}

const texts = ({ lines }: Door, level: string) => lines.filter((line) => line.level === level).map(({ text }) => text)

/** An object as JSON has it: comparison does not look at prototypes. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

describe("what connect is told", () => {
  at("is all that is known of the request", [mount], async ({ ask, infos, port }) => {
    const headers = {
      "user-agent": "Test/1.0",
      "x-request-id": "42",
      traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      tracestate: "a=1",
      "sec-websocket-extensions": "x-none"
    }
    const answer = await ask("/socket/websocket?vsn=2.0.0&a%5Bb%5D=c+d&a[e][]=f", headers)
    assert.strictEqual(answer.status, 101)
    const info = only(infos)
    assert.strictEqual(info.transport, "websocket")
    assert.strictEqual(info.userAgent, "Test/1.0")
    assert.deepStrictEqual(plain(info.params), { vsn: "2.0.0", a: { b: "c d", e: ["f"] } })
    assert.deepStrictEqual(plain(info.headers), { ...headers, ...handshake, host: `127.0.0.1:${port}` })
    assert.deepStrictEqual(info.uri, {
      scheme: "http",
      host: "127.0.0.1",
      port,
      path: "/socket/websocket",
      query: "vsn=2.0.0&a%5Bb%5D=c+d&a[e][]=f"
    })
    assert.deepStrictEqual(info.peerData, { address: "127.0.0.1", port: answer.port, sslCert: undefined })
    assert.deepStrictEqual([info.session, info.authToken], [undefined, undefined])
    assert.deepStrictEqual(info.custom, {})
  })

  at("is undefined where the client says nothing", [mount], async ({ ask, infos }) => {
    await ask("/socket/websocket")
    const { params, uri, userAgent } = only(infos)
    assert.isUndefined(userAgent)
    assert.strictEqual(uri.query, "")
    assert.deepStrictEqual(plain(params), {})
  })

  at(
    "takes host and port from the Host header, the port from the scheme where it is missing",
    [mount],
    async (door) => {
      const hosts = {
        "example.com": ["example.com", 80],
        "example.com:8080": ["example.com", 8080],
        "[::1]:4000": ["::1", 4000],
        "[::1]": ["::1", 80],
        "a:b:c": ["", 80]
      }
      for (const [host, expected] of Object.entries(hosts)) {
        assert.strictEqual((await door.ask(here, { host })).status, 101)
        const { uri } = last(door)
        assert.deepStrictEqual([uri.host, uri.port], expected)
      }
    }
  )

  it.live("over TLS: the scheme is https, and the peer's certificate is there if it has one", () =>
    Effect.gen(function*() {
      const [own, clients] = [makeCertificate(), makeCertificate()]
      const secure = Endpoint.layer(
        () => createSecureServer({ cert: own.cert, key: own.key, requestCert: true, rejectUnauthorized: false }),
        { port: 0, host: "127.0.0.1" }
      )
      const door = yield* open([{ path: "/socket", websocket: { checkOrigin: "conn" } }], { http: secure })
      const ask = (origin: string, certificate: object = {}) =>
        Effect.promise(() =>
          new Promise<number | undefined>((resolve, reject) => {
            secureRequest({
              port: door.port,
              host: "127.0.0.1",
              path: here,
              agent: false,
              rejectUnauthorized: false,
              headers: { ...handshake, origin, host: "example.com" },
              ...certificate
            }).on("error", reject).on("response", (response) => {
              response.resume()
              resolve(response.statusCode)
            }).on("upgrade", (response) => {
              response.socket.destroy()
              resolve(response.statusCode)
            }).end()
          })
        )
      assert.strictEqual(yield* ask("https://example.com", { cert: clients.cert, key: clients.key }), 101)
      const { peerData, uri } = only(door.infos)
      assert.deepStrictEqual([uri.scheme, uri.host, uri.port], ["https", "example.com", 443])
      assert.isDefined(peerData.sslCert)
      assert.deepStrictEqual(Buffer.from(peerData.sslCert), clients.raw)
      assert.strictEqual(yield* ask("https://example.com"), 101)
      assert.isUndefined(last(door).peerData.sslCert)
      assert.strictEqual(yield* ask("http://example.com"), 403)
    }))

  at(
    "holds variables of the path, decoded, which win over the query",
    [{ path: "/ws/:room", websocket: { path: "/at/:n" } }],
    async ({ ask, infos }) => {
      assert.strictEqual((await ask("/ws/a%20b/at/7?vsn=2.0.0&room=query&n[x]=1&other=2")).status, 101)
      const { params, uri } = only(infos)
      assert.deepStrictEqual(plain(params), { vsn: "2.0.0", room: "a b", n: "7", other: "2" })
      assert.strictEqual(uri.path, "/ws/a%20b/at/7")
    }
  )

  at(
    "holds the values of the mount the client came to, as they are",
    [
      { path: "/one", websocket: { connectInfo: { tenant: "one", answer: { n: 42 } } } },
      { path: "/two", websocket: { connectInfo: { tenant: "two" } } },
      { path: "/none" }
    ],
    async ({ ask, infos }) => {
      for (const path of ["one", "two", "none"]) await ask(`/${path}/websocket?vsn=2.0.0`)
      assert.deepStrictEqual(infos.map(({ custom }) => custom), [
        { tenant: "one", answer: { n: 42 } },
        { tenant: "two" },
        {}
      ])
    }
  )
})

describe("the session", () => {
  const token = "l9kAjq_wbT-1Y7vOdXsMhrQe"
  const mask = "PUZBHzg3NwRwAn4DcSgbDSsR"
  const bytes = Buffer.from(mask)
  const masked = Buffer.from(Buffer.from(token).map((byte, index) => byte ^ (bytes[index] ?? 0))).toString("base64url")
    + mask

  const cookieOf = (session: string, name = "_app_key") => ({
    cookie: `a=1; ${name}=${Buffer.from(session).toString("base64url")}; b=2`
  })
  const session = { _csrf_token: token, user: 7 }
  const cookie = cookieOf(JSON.stringify(session))
  const read = (cookie: string) =>
    Effect.try({
      try: (): unknown => JSON.parse(Buffer.from(cookie, "base64url").toString()),
      catch: () => new Error("no session")
    })
  const withSession = (options: Partial<Endpoint.SessionOptions> = {}, rest: Endpoint.WebSocketOptions = {}) => [
    { path: "/socket", websocket: { session: { cookie: "_app_key", read, ...options }, ...rest } } as const
  ]
  /** Connects; the session that connect is told. */
  const sessionOf = async (door: Door, query: string, headers: Record<string, string> = cookie) => {
    assert.strictEqual((await door.ask(`${here}${query}`, headers)).status, 101)
    return last(door).session
  }

  at(
    "is what the cookie holds, for a page that sends the token of it, plain or masked",
    withSession(),
    async (door) => {
      for (const sent of [token, masked]) {
        assert.deepStrictEqual(await sessionOf(door, `&_csrf_token=${encodeURIComponent(sent)}`), session)
      }
    }
  )

  at("is undefined for any other page, which is connected all the same", withSession(), async (door) => {
    const others = ["", "&_csrf_token=", `&_csrf_token=${mask}`, `&_csrf_token[]=${token}`, `&csrf_token=${token}`]
    for (const query of others) assert.isUndefined(await sessionOf(door, query), query)
    assert.strictEqual(door.infos.length, others.length)
  })

  at(
    "is undefined without the cookie, and nothing is read then",
    withSession({ read: () => Effect.die("read") }),
    async (
      door
    ) => {
      for (const headers of [{}, { cookie: "a=1" }, cookieOf("{}", "_app_key2")]) {
        assert.isUndefined(await sessionOf(door, `&_csrf_token=${token}`, headers))
      }
    }
  )

  at(
    "is undefined without a cookie that is named like what every object has",
    withSession({
      cookie: "__proto__",
      read: () => Effect.die("read")
    }),
    async (door) => {
      assert.isUndefined(await sessionOf(door, `&_csrf_token=${token}`))
    }
  )

  at("is undefined where reading it fails, which is a debug line without the cookie", withSession(), async (door) => {
    const broken = cookieOf("{\"secret\":")
    assert.isUndefined(await sessionOf(door, `&_csrf_token=${token}`, broken))
    assert.deepStrictEqual(texts(door, "Debug"), ["the session cookie is not accepted"])
    assert.notInclude(JSON.stringify(door.lines), Buffer.from("{\"secret\":").toString("base64url"))
  })

  at("is undefined where it holds no token, or is no object", withSession(), async (door) => {
    for (const value of ["{}", "null", "0", "\"text\"", "[]", "{\"_csrf_token\":null}", "{\"_csrf_token\":\"\"}"]) {
      for (const sent of ["", "null", "undefined", token]) {
        assert.isUndefined(await sessionOf(door, `&_csrf_token=${sent}`, cookieOf(value)), `${value} ${sent}`)
      }
    }
  })

  at("is read for everybody without checkCsrf", withSession({ checkCsrf: false }), async (door) => {
    assert.deepStrictEqual(await sessionOf(door, ""), session)
    assert.deepStrictEqual(await sessionOf(door, "&_csrf_token=wrong"), session)
    assert.deepStrictEqual(await sessionOf(door, "", cookieOf("{}")), {})
    assert.isUndefined(await sessionOf(door, "", cookieOf("null")))
    assert.isUndefined(await sessionOf(door, "", cookieOf("{")))
  })

  at("has its token under csrfTokenKey", withSession({ csrfTokenKey: "other" }), async (door) => {
    const other = { other: token, _csrf_token: mask }
    assert.deepStrictEqual(await sessionOf(door, `&_csrf_token=${token}`, cookieOf(JSON.stringify(other))), other)
    assert.isUndefined(await sessionOf(door, `&_csrf_token=${mask}`, cookieOf(JSON.stringify(other))))
  })

  at(
    "may hold its token under a name that every object has",
    withSession({ csrfTokenKey: "__proto__" }),
    async (door) => {
      assert.isUndefined(await sessionOf(door, `&_csrf_token=${token}`))
      const odd = `{"__proto__":${JSON.stringify(token)}}`
      assert.deepStrictEqual(await sessionOf(door, `&_csrf_token=${token}`, cookieOf(odd)), JSON.parse(odd))
    }
  )

  it.live("of a Phoenix application is read by Token", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.make({ secretKeyBase: "s".repeat(64) })
      const options: Token.SessionOptions = { signingSalt: "salt" }
      const door = yield* open(withSession({ read: (cookie) => tokens.readSession(cookie, options) }))
      const written = yield* tokens.writeSession(session, options)
      const headers = { cookie: `_app_key=${written}` }
      assert.deepStrictEqual(
        plain(yield* Effect.promise(() => sessionOf(door, `&_csrf_token=${masked}`, headers))),
        session
      )
      const forged = { cookie: `_app_key=${written.slice(0, -1)}` }
      assert.isUndefined(yield* Effect.promise(() => sessionOf(door, `&_csrf_token=${masked}`, forged)))
    }))

  it.live("is not to be had with checkOrigin and checkCsrf both off: the layer fails, and says what to do", () =>
    Effect.gen(function*() {
      const off = { session: { cookie: "_app_key", read, checkCsrf: false }, checkOrigin: false } as const
      for (const options of [{ websocket: off }, { websocket: false, longpoll: off }]) {
        const exit = yield* Effect.exit(open([{ path: "/socket", ...options }]))
        assert.isTrue(Exit.isFailure(exit))
        const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
        for (const word of ["RangeError", "socket door", "checkOrigin", "checkCsrf", "set one of them"]) {
          assert.include(text, word)
        }
      }
      // On two transports they have nothing to do with each other.
      const { session } = off
      yield* open([{ path: "/socket", websocket: { checkOrigin: false }, longpoll: { session } }])
    }))
})

describe("the token of phoenix.js", () => {
  const withToken: Endpoint.Options = { path: "/socket", authToken: true }
  const bearer = (encoded: string) => `base64url.bearer.phx.${encoded}`
  const encoded = (token: string) => bearer(Buffer.from(token).toString("base64").replaceAll("=", ""))
  const protocols = (...protocols: ReadonlyArray<string>) => ({ "sec-websocket-protocol": protocols.join(", ") })

  at("comes in a subprotocol, is not among the headers, and phoenix is answered", [withToken], async (door) => {
    const answer = await door.ask(here, protocols("phoenix", encoded("1234")))
    assert.strictEqual(answer.status, 101)
    assert.strictEqual(answer.headers["sec-websocket-protocol"], "phoenix")
    const { authToken, headers } = only(door.infos)
    assert.strictEqual(authToken, "1234")
    assert.strictEqual(headers["sec-websocket-protocol"], "phoenix")
    assert.notInclude(JSON.stringify(headers), "bearer")
  })

  at("may need / and + of Base64, and the WebSocket opens", [withToken], async (door) => {
    assert.strictEqual((await door.ask(here, protocols("phoenix", bearer("Pz8/Pj4+")))).status, 101)
    assert.strictEqual(last(door).authToken, "???>>>")
  })

  at(
    "is all that a client may ask for: it is answered no protocol, and the header is gone",
    [withToken],
    async (door) => {
      const answer = await door.ask(here, protocols(encoded("1234")))
      assert.strictEqual(answer.status, 101)
      assert.isUndefined(answer.headers["sec-websocket-protocol"])
      assert.strictEqual(last(door).authToken, "1234")
      assert.notProperty(last(door).headers, "sec-websocket-protocol")
    }
  )

  at("is undefined where there is none, or more than one", [withToken], async (door) => {
    for (const header of [{}, protocols("phoenix"), protocols("phoenix", encoded("1"), encoded("2"))]) {
      assert.strictEqual((await door.ask(here, header)).status, 101)
      assert.isUndefined(last(door).authToken)
    }
    assert.strictEqual(door.infos.length, 3)
  })

  at("that cannot be decoded is answered 400, and connect is not asked", [withToken], async ({ ask, infos }) => {
    for (const bad of ["!", "abcde", "_w"]) {
      assert.strictEqual((await ask(here, protocols("phoenix", bearer(bad)))).status, 400, bad)
    }
    assert.deepStrictEqual(infos, [])
  })

  at("is not looked for unless the mount says so", [mount], async (door) => {
    const answer = await door.ask(here, protocols("phoenix", encoded("1234")))
    assert.strictEqual(answer.status, 101)
    assert.isUndefined(answer.headers["sec-websocket-protocol"])
    assert.isUndefined(last(door).authToken)
  })

  at("goes along with subprotocols of the application", [
    { ...withToken, websocket: { subprotocols: ["v1"] } }
  ], async (door) => {
    const chosen = async (...asked: ReadonlyArray<string>) =>
      (await door.ask(here, protocols(...asked))).headers["sec-websocket-protocol"]
    assert.strictEqual(await chosen("v1", encoded("1")), "v1")
    assert.strictEqual(await chosen("v1", "phoenix", encoded("1")), "phoenix")
    assert.deepStrictEqual(door.infos.map(({ authToken }) => authToken), ["1", "1"])
    assert.strictEqual((await door.ask(here, protocols("v2", encoded("1")))).status, 403)
  })

  at("is sent by phoenix.js itself", [withToken], async (door) => {
    const client = new Phoenix(`ws://127.0.0.1:${door.port}/socket`, {
      transport: WebSocket,
      authToken: "a token of any length"
    })
    const opened = new Promise((resolve, reject) => {
      client.onOpen(() => resolve(undefined))
      client.onError(reject)
    })
    client.connect()
    await opened
    client.disconnect()
    assert.strictEqual(only(door.infos).authToken, "a token of any length")
  })
})

describe("subprotocols", () => {
  const speaking: Endpoint.Options = { path: "/socket", websocket: { subprotocols: ["v2", "v1"] } }

  at("the first one of the server that the client names is answered", [speaking], async ({ ask }) => {
    for (const [asked, answered] of [["v1, v2", "v2"], ["v2,v1", "v2"], ["x, v1", "v1"]] as const) {
      const { headers, status } = await ask(here, { "sec-websocket-protocol": asked })
      assert.deepStrictEqual([status, headers["sec-websocket-protocol"]], [101, answered])
    }
  })

  at("a client that names none of them is refused with 403 and a line of the log", [speaking], async (door) => {
    const { body, status } = await door.ask(here, { "sec-websocket-protocol": "x, y" })
    assert.deepStrictEqual([status, body], [403, ""])
    assert.deepStrictEqual(door.infos, [])
    const { annotations, level } = only(door.lines)
    assert.strictEqual(level, "Error")
    assert.deepStrictEqual(annotations, {
      socket: "door",
      transport: "websocket",
      asked: ["x", "y"],
      spoken: ["v2", "v1"],
      times: 1
    })
  })

  at("a client that sends no header is let in and answered none", [speaking], async ({ ask }) => {
    const { headers, status } = await ask()
    assert.deepStrictEqual([status, headers["sec-websocket-protocol"]], [101, undefined])
  })

  at("where none are spoken, a client may name what it likes and is answered none", [mount], async (door) => {
    for (const asked of ["v1", "not a token", ",,"]) {
      const { headers, status } = await door.ask(here, { "sec-websocket-protocol": asked })
      assert.deepStrictEqual([status, headers["sec-websocket-protocol"]], [101, undefined])
      assert.strictEqual(last(door).headers["sec-websocket-protocol"], asked)
    }
  })
})

describe("the answer to a client that connect refuses", () => {
  at("is an empty 403 by default", [mount], async ({ ask }) => {
    const { body, headers, status } = await ask(`${here}&deny=yes`)
    assert.deepStrictEqual([status, body], [403, ""])
    assert.notProperty(headers, "upgrade")
  })

  const asked: Array<unknown> = []
  const rate: Endpoint.Options = {
    path: "/socket",
    websocket: {
      subprotocols: ["v1"],
      errorHandler: ({ reason }, request) => {
        asked.push(reason)
        return Effect.succeed(HttpServerResponse.text(`${request.headers["x-name"]}: ${reason}`, {
          status: 429,
          headers: { "retry-after": "7" }
        }))
      }
    }
  }

  at("is that of errorHandler: status, headers and body", [rate], async ({ ask }) => {
    const { body, headers, status } = await ask(`${here}&deny=too+many`, { "x-name": "Ada" })
    assert.deepStrictEqual([status, headers["retry-after"], body], [429, "7", "Ada: too many"])
    const { status: plain } = await ask(`${here}&deny=too+many`, {}, { plain: true })
    assert.strictEqual(plain, 429)
  })

  at("is not that of errorHandler where connect was not asked", [rate], async (door) => {
    asked.length = 0
    const answers = [
      await door.ask("/socket/websocket?vsn=9.0.0&deny=yes"),
      await door.ask(`${here}&deny=yes`, { origin: "http://evil.example" }),
      await door.ask(`${here}&deny=yes`, { "sec-websocket-protocol": "x" })
    ]
    assert.deepStrictEqual(answers.map(({ body, status }) => [status, body]), [[403, ""], [403, ""], [403, ""]])
    assert.deepStrictEqual([asked, door.infos], [[], []])
  })
})

describe("versions", () => {
  at("a client without one speaks V1", [mount], async (door) => {
    await door.ask("/socket/websocket")
    assert.strictEqual(only(door.lines).annotations["serializer"], "V1")
  })

  at("one that nobody speaks is a 403 and a warning, and connect is not asked", [mount], async (door) => {
    for (const vsn of ["3.0.0", "2", "2.1.0"]) {
      const { body, status } = await door.ask(`/socket/websocket?vsn=${vsn}`)
      assert.deepStrictEqual([status, body], [403, ""])
    }
    assert.deepStrictEqual(door.infos, [])
    // The line is not repeated for a while.
    const { annotations, level } = only(door.lines)
    assert.deepStrictEqual([level, annotations], [
      "Warn",
      { socket: "door", transport: "websocket", vsn: "3.0.0", times: 1 }
    ])
  })

  const shouting: Serializer.Serializer = {
    ...Serializer.v2,
    name: "Shouting",
    encode: (message) =>
      Result.map(Serializer.v2.encode(message), (frame) => String(frame).replace("phx_reply", "PHX_REPLY"))
  }

  at("a serializer of one's own serves the versions of its requirement, the first in the list wins", [mount], async (
    door
  ) => {
    const spoken: Array<unknown> = []
    for (const vsn of ["3.0.0", "3.4.1", "2.0.0", "2.0.9"]) {
      const client = await Client.open(`ws://127.0.0.1:${door.port}/socket/websocket?vsn=${vsn}`)
      const answer = await client.ask([null, "1", "phoenix", "heartbeat", {}])
      spoken.push([door.lines.at(-1)?.annotations["serializer"], Array.isArray(answer) && answer[3]])
      client.ws.terminate()
    }
    assert.deepStrictEqual(spoken, [
      ["Shouting", "PHX_REPLY"],
      ["Shouting", "PHX_REPLY"],
      ["Shouting", "PHX_REPLY"],
      ["V2", "phx_reply"]
    ])
    for (const vsn of ["1.0.0", "4.0.0"]) {
      assert.strictEqual((await door.ask(`/socket/websocket?vsn=${vsn}`)).status, 403)
    }
    assert.strictEqual((await door.ask("/socket/websocket")).status, 403)
  }, { serializers: [[shouting, "~> 3.0 or == 2.0.0"], [Serializer.v2, "~> 2.0.0"]] })
})

describe("checkOrigin", () => {
  const all: ReadonlyArray<Endpoint.Options> = [
    { path: "/default" },
    { path: "/host", host: "app.example" },
    { path: "/true", host: "app.example", websocket: { checkOrigin: true } },
    { path: "/list", websocket: { checkOrigin: ["https://app.example", "//*.wild.example", "//any.example:8080"] } },
    { path: "/conn", websocket: { checkOrigin: "conn" } },
    { path: "/false", websocket: { checkOrigin: false } },
    { path: "/function", websocket: { checkOrigin: ({ host, raw }) => host === "app.example" || raw === "null" } },
    { path: "/shared", checkOrigin: ["//app.example"], websocket: { checkOrigin: undefined } },
    { path: "/own", checkOrigin: ["//app.example"], websocket: { checkOrigin: false } }
  ]

  at("decides by origin, and every mount of a socket by its own policy", all, async ({ ask, infos, lines, port }) => {
    const policies: Record<string, { readonly yes: ReadonlyArray<string>; readonly no: ReadonlyArray<string> }> = {
      default: {
        yes: ["http://127.0.0.1", "https://127.0.0.1:1"],
        no: ["http://app.example", "null", "file://", "", "http://127.0.0.1.app.example"]
      },
      host: { yes: ["https://app.example", "http://app.example:81"], no: ["http://127.0.0.1", "http://x.app.example"] },
      true: { yes: ["https://app.example"], no: ["http://127.0.0.1", "null"] },
      list: {
        yes: [
          "https://app.example",
          "https://app.example:443",
          "http://wild.example",
          "https://a.b.wild.example:9",
          "http://any.example:8080"
        ],
        no: [
          "http://app.example",
          "https://app.example:444",
          "https://x-wild.example",
          "http://any.example",
          "null",
          "file://",
          ""
        ]
      },
      conn: {
        yes: [`http://127.0.0.1:${port}`],
        no: ["http://127.0.0.1", `https://127.0.0.1:${port}`, `http://app.example:${port}`, "null"]
      },
      false: { yes: ["http://evil.example", "null", ""], no: [] },
      shared: { yes: ["http://app.example"], no: ["http://127.0.0.1"] },
      own: { yes: ["http://evil.example"], no: [] },
      function: { yes: ["http://app.example:1", "null"], no: ["http://evil.example", "file://"] }
    }
    let refused = 0
    for (const [name, { no, yes }] of Object.entries(policies)) {
      const path = `/${name}/websocket?vsn=2.0.0`
      assert.strictEqual((await ask(path)).status, 101, `${name} without an origin`)
      for (const origin of yes) assert.strictEqual((await ask(path, { origin })).status, 101, `${name} ${origin}`)
      const asked = infos.length
      const logged = lines.length
      for (const origin of no) {
        const { body, status } = await ask(path, { origin })
        assert.deepStrictEqual([status, body], [403, ""], `${name} ${origin}`)
        assert.strictEqual(infos.length, asked)
      }
      assert.deepStrictEqual(
        lines.slice(logged).map(({ annotations, level }) => [level, annotations]),
        // The line of a mount is not repeated for a while.
        no.slice(0, 1).map((origin) => ["Error", { socket: "door", transport: "websocket", origin, times: 1 }])
      )
      refused += no.length
    }
    assert.isAbove(refused, 0)
  })

  it.live("with an entry that has no host, the layer fails, and says how to write it", () =>
    Effect.gen(function*() {
      for (const entry of ["app.example", "https://", "*"]) {
        const exit = yield* Effect.exit(open([{ path: "/socket", websocket: { checkOrigin: [entry] } }]))
        const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
        assert.include(text, JSON.stringify(entry))
        assert.include(text, "https://example.com")
      }
    }))
})

describe("the order of checks", () => {
  const strict: Endpoint.Options = { path: "/socket", websocket: { subprotocols: ["v1"], transportLog: "Info" } }
  const wrong = { origin: "http://evil.example", "sec-websocket-protocol": "x" }
  /** The level of the first line in the log that says why a client was refused. */
  const why = ({ lines }: Door) =>
    lines.filter(({ text }) => !text.startsWith("GET")).map(({ text }) => text.slice(0, 20))

  at("method, query, log, origin, subprotocol, version, connect, upgrade", [strict], async (door) => {
    const bad = "/socket/websocket?vsn=9.0.0&deny=yes"
    assert.strictEqual((await door.ask(bad, wrong, { method: "POST" })).status, 400)
    assert.strictEqual((await door.ask(`${bad}&a=%ff`, wrong)).status, 400)
    assert.deepStrictEqual(door.lines, [])
    assert.strictEqual((await door.ask(bad, wrong)).status, 403)
    assert.deepStrictEqual(texts(door, "Info"), ["GET /socket/websocket"])
    assert.strictEqual((await door.ask(bad, { "sec-websocket-protocol": "x" })).status, 403)
    assert.strictEqual((await door.ask(bad, {}, { plain: true })).status, 403)
    assert.deepStrictEqual(door.infos, [])
    assert.strictEqual((await door.ask(`${here}&deny=yes`, {}, { plain: true })).status, 403)
    assert.strictEqual(door.infos.length, 1)
    assert.strictEqual((await door.ask(here, {}, { plain: true })).status, 400)
    assert.strictEqual(door.infos.length, 2)
    assert.deepStrictEqual(why(door), [
      "could not check orig",
      "the client asks for ",
      "the client asks for ",
      "REFUSED CONNECTION T",
      "CONNECTED TO door in"
    ])
    assert.deepStrictEqual(door.lines.filter(({ text }) => text.includes("asks")).map(({ level }) => level), [
      "Error",
      "Warn"
    ])
  })

  at(
    "a request that is no upgrade is answered 400 and what it lacks, after connect",
    [mount],
    async ({ ask, infos }) => {
      const answers = [
        await ask(here, { connection: "close" }, { plain: true }),
        await ask(here, { upgrade: "h2c", connection: "upgrade" }, { plain: true }),
        await ask(here, { upgrade: "websocket", connection: "keep-alive, Upgrade" }, { plain: true }),
        await ask(here, {
          upgrade: "websocket",
          connection: "upgrade",
          "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
          "sec-websocket-version": "8"
        }, { plain: true })
      ]
      assert.deepStrictEqual(answers.map(({ body, status }) => [status, body]), [
        [400, "'connection' header must contain 'upgrade', got [\"close\"]"],
        [400, "'upgrade' header must contain 'websocket', got [\"h2c\"]"],
        [400, "'sec-websocket-key' header is absent"],
        [400, "'sec-websocket-version' header must equal '13', got [\"8\"]"]
      ])
      assert.strictEqual(infos.length, 4)
    }
  )
})

describe("log lines", () => {
  const parameters = {
    vsn: "2.0.0",
    user: "ada",
    user_token: "[FILTERED]",
    a: { password: "[FILTERED]", q: "[FILTERED]" }
  }
  const query = "&user=ada&user_token=SECRET&a[password]=SECRET&a[q]=token%3DSECRET"

  at("of a client that is let in, and of one that is not", [mount], async (door) => {
    await door.ask(`${here}${query}`)
    await door.ask(`${here}${query}&deny=why`)
    await door.ask(`${here}&deny=`, {})
    const common = { transport: "websocket", serializer: "V2" }
    const [connected, refused] = door.lines
    assert.isDefined(connected)
    assert.isDefined(refused)
    assert.match(connected.text, /^CONNECTED TO door in \d+(µs|ms)$/)
    assert.deepStrictEqual(plain(connected.annotations), { ...common, parameters })
    assert.match(refused.text, /^REFUSED CONNECTION TO door in \d+(µs|ms)$/)
    assert.deepStrictEqual(plain(refused.annotations), {
      ...common,
      parameters: { ...parameters, deny: "why" },
      reason: "why"
    })
    assert.deepStrictEqual(door.lines.map(({ level }) => level), ["Info", "Info", "Info"])
  })

  at("never hold a token, whatever becomes of the client", [
    { path: "/socket", authToken: true, websocket: { transportLog: "Info", subprotocols: ["v1"] } },
    { path: "/open", websocket: { transportLog: "Info", subprotocols: ["v1"] } }
  ], async (door) => {
    const encoded = Buffer.from("SECRET").toString("base64")
    const bearer = `base64url.bearer.phx.${encoded}`
    const path = `${here}${query}&token=SECRET`
    const header = (value: string) => ({ "sec-websocket-protocol": value })
    const statuses = [
      await door.ask(path, header(`phoenix, ${bearer}`)),
      await door.ask(`${path}&deny=yes`, header(`phoenix, ${bearer}`)),
      await door.ask(path, header(`phoenix, ${bearer}!`)),
      await door.ask(path, header(`x, ${bearer}`)),
      await door.ask(path, header(`x, ${bearer}, ${bearer}`)),
      await door.ask(path.replace("/socket", "/open"), header(`phoenix, ${bearer}`)),
      await door.ask(path, { origin: "http://evil.example", ...header(bearer) }),
      await door.ask(`/socket/websocket?vsn=9.0.0${query}`, header(bearer)),
      await door.ask(`/socket/websocket?vsn[token]=SECRET${query}`),
      await door.ask(path, {}, { plain: true }),
      await door.ask(path, {}, { method: "POST" })
    ].map(({ status }) => status)
    assert.deepStrictEqual(statuses, [101, 403, 400, 403, 403, 403, 403, 403, 403, 400, 400])
    assert.isAbove(door.lines.length, statuses.length)
    const text = JSON.stringify(door.lines)
    assert.notInclude(text, "SECRET")
    assert.notInclude(text, encoded)
  })

  at("show what FilterParameters says", [mount], async ({ ask, lines }) => {
    await ask(`${here}${query}`)
    assert.deepStrictEqual(plain(only(lines).annotations["parameters"]), {
      vsn: "[FILTERED]",
      user: "ada",
      user_token: "[FILTERED]",
      a: { password: "[FILTERED]", q: "[FILTERED]" }
    })
  }, { filter: { keep: ["user"] } })

  at("of connects are not written with `log: false`", [mount], async ({ ask, infos, lines }) => {
    await ask()
    await ask(`${here}&deny=yes`)
    assert.deepStrictEqual([infos.length, lines], [2, []])
  }, { log: false })

  at("of connects have the socket's level", [mount], async (door) => {
    await door.ask()
    await door.ask(`${here}&deny=yes`)
    assert.deepStrictEqual(door.lines.map(({ level }) => level), ["Warn", "Warn"])
  }, { log: "Warn" })

  at("of requests are written at the level of transportLog, without the query, and by default not at all", [
    { path: "/quiet" },
    { path: "/off", websocket: { transportLog: false } },
    { path: "/ws/:name", websocket: { transportLog: "Warn" } }
  ], async (door) => {
    for (const path of ["/quiet/websocket", "/off/websocket", "/ws/a/websocket"]) {
      await door.ask(`${path}?vsn=2.0.0&a=1`)
    }
    assert.deepStrictEqual(
      door.lines.filter(({ text }) => !text.startsWith("CONNECTED")).map(({ level, text }) => [level, text]),
      [["Warn", "GET /ws/a/websocket"]]
    )
  })
})
