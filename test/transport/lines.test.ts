/** Texts of clients at the door reach the log cut and escaped, and do not fill it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { HttpMiddleware, HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import type * as Endpoint from "../../src/Endpoint.ts"
import {
  type Doorway,
  HalfOpen,
  handshake,
  longpollPath,
  open,
  request,
  until,
  ways,
  websocketPath
} from "./doorway.ts"

const statusOf = async (door: Doorway, text: string): Promise<number | undefined> => {
  const client = await HalfOpen.say(door.port, text)
  await client.answered()
  client.socket.destroy()
  return client.status
}

/** Node lets no line feed through, but other commands to a terminal, as bytes of Latin-1. */
const forged = "\x9b31mFATAL\x85forged line"
const long = "x".repeat(7000)

/** Everything that a client can say before it is let in. */
const said: ReadonlyArray<readonly [what: string, text: string]> = [
  ["origin", handshake(websocketPath, { Origin: forged + long })],
  ["origin, polled", request("GET", longpollPath, { Origin: forged + long })],
  ["subprotocols", handshake(websocketPath, { "Sec-WebSocket-Protocol": `${forged},${long},${"a,".repeat(2000)}` })],
  ["version", handshake(`/socket/websocket?vsn=${encodeURIComponent(`${forged}\r\n\u001b[31m`)}${long}`)],
  ["version, polled", request("GET", `/socket/longpoll?vsn=${encodeURIComponent(`${forged}\n`)}${long}`)],
  ["path", handshake(`/variable/${long}/websocket?vsn=2.0.0`)],
  ["path, escaped", handshake(`/variable/a%0ab%1b[31m/websocket?vsn=2.0.0&as=nobody`)],
  [
    "token",
    handshake(websocketPath, {
      "Sec-WebSocket-Protocol": `phoenix, base64url.bearer.phx.${"A".repeat(4000)}`,
      Origin: "null"
    })
  ],
  [
    "parameters",
    handshake(`${websocketPath}&as=nobody&a=${encodeURIComponent(`${forged}\n`)}&${"b[]=c&".repeat(1000)}`)
  ],
  ["user agent", handshake(`${websocketPath}&as=nobody`, { "User-Agent": forged + long })],
  ["host", handshake(websocketPath, { Origin: "http://a.b", Host: long })]
]

/** All texts in a value. */
const textsOf = (value: unknown): ReadonlyArray<string> => {
  if (typeof value === "string") return [value]
  if (typeof value !== "object" || value === null) return []
  return Object.entries(value).flatMap(([key, value]) => [key, ...textsOf(value)])
}

describe("a client that says the same again and again", () => {
  for (const [suffix, way] of ways) {
    for (const [what, text] of said) {
      it.live(`writes few lines, and short ones on one line: ${what}${suffix}`, () =>
        Effect.gen(function*() {
          const websocket: Endpoint.WebSocketOptions = { transportLog: "Warn", ...way }
          const subprotocols = what === "subprotocols" ? { subprotocols: ["sip"] } : {}
          const door = yield* open([
            { path: "/socket", websocket: { ...websocket, ...subprotocols }, longpoll: true },
            { path: "/variable/:id", websocket }
          ])
          yield* Effect.promise(async () => {
            for (let n = 0; n < 60; n++) await statusOf(door, text)
          })
          // The log of requests is switched on here; it has a limit of its own.
          const others = door.lines.filter(({ text }) => !text.startsWith("GET"))
          assert.isBelow(others.length, 4, JSON.stringify(others))
          for (const { annotations, text } of door.lines) {
            assert.isBelow(JSON.stringify([text, annotations]).length, 2500)
            for (const one of [text, ...textsOf(annotations)]) assert.notMatch(one, /[\p{Cc}\p{Zl}\p{Zp}]/u)
          }
        }))
    }
  }

  it.effect("writes no more than a thousand lines about requests at once, and then a hundred a second", () =>
    Effect.gen(function*() {
      const door = yield* open([{ path: "/socket", longpoll: { transportLog: "Info" } }])
      const lines = () => door.lines.filter(({ text }) => text === "GET /socket/longpoll")
      const ask = (count: number) =>
        Effect.promise(async () => {
          const client = await HalfOpen.say(door.port, request("GET", longpollPath, { Origin: "null" }).repeat(count))
          await until("all answers", () => client.text.split("HTTP/1.1 200").length > count)
        })
      yield* ask(1200)
      assert.strictEqual(lines().length, 1000)
      yield* TestClock.adjust("100 millis")
      yield* ask(20)
      assert.strictEqual(lines().length, 1010)
      assert.deepStrictEqual(lines().map(({ annotations }) => annotations["omitted"]).filter((n) => n !== undefined), [
        200
      ])
    }))
})

describe("a line says what to do", () => {
  const only = (door: Doorway, level: string) => {
    const [line, ...more] = door.lines.filter((line) => line.level === level)
    assert.deepStrictEqual(more, [])
    assert.isDefined(line)
    return line
  }

  for (
    const [name, text] of [
      ["a WebSocket", handshake(websocketPath, { "Sec-WebSocket-Protocol": "phoenix, base64url.bearer.phx.MTIz" })],
      ["long polling", request("GET", longpollPath, { "X-Phoenix-AuthToken": "123" })]
    ] as const
  ) {
    it.live(`where a client sends an authToken to a mount that does not read it: ${name}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", longpoll: true }])
        yield* Effect.promise(async () => {
          for (let n = 0; n < 5; n++) await statusOf(door, text)
        })
        const line = only(door, "Warn")
        assert.include(line.text, "set authToken of the mount to true")
        assert.strictEqual(line.annotations["socket"], "door")
        assert.notInclude(JSON.stringify(door.lines), "MTIz")
        const reading = yield* open([{ path: "/socket", longpoll: true, authToken: true }])
        yield* Effect.promise(() => statusOf(reading, text))
        assert.deepStrictEqual(reading.lines, [])
      }))
  }

  const compared = [
    [{ host: undefined }, 1],
    [{ host: undefined, checkOrigin: true }, 1],
    [{ host: undefined, checkOrigin: false, longpoll: { checkOrigin: true } }, 1],
    [{ host: undefined, longpoll: true }, 1],
    [{}, 0],
    [{ host: undefined, checkOrigin: "conn" }, 0],
    [{ host: undefined, checkOrigin: ["//a.com"] }, 0],
    [{ host: undefined, checkOrigin: () => true }, 0],
    [{ host: undefined, checkOrigin: false }, 0]
  ] as const
  for (const [options, count] of compared) {
    it.live(`once at mount where origins are compared with the Host header: ${JSON.stringify(options)}`, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", ...options }])
        const lines = door.lines.filter(({ text }) => text.includes("DNS rebinding"))
        assert.strictEqual(lines.length, count)
        for (const { text } of lines) assert.include(text, "set host of the mount")
      }))
  }
})

describe("behind a proxy", () => {
  // The proxy is believed; clients are in another network than it.
  const believing = HttpRouter.use((router) =>
    router.addGlobalMiddleware(HttpMiddleware.xForwardedHeaders({ trustedProxies: () => true }))
  )
  const forwarded = (protocol: string, address = "203.0.113.7") => ({
    Host: "app.example",
    Origin: "https://app.example",
    "X-Forwarded-For": address,
    "X-Forwarded-Proto": protocol
  })
  const cases: ReadonlyArray<readonly [headers: Record<string, string>, status: number]> = [
    [forwarded("https"), 101],
    [forwarded("wss"), 101],
    [forwarded("WSS"), 101],
    [forwarded("http"), 403],
    [forwarded("ws"), 403],
    [forwarded("wss, ws", "203.0.113.7, 10.0.0.1"), 101],
    [forwarded("ws, wss", "203.0.113.7, 10.0.0.1"), 403],
    [forwarded("wss, wss"), 403],
    [forwarded("gopher"), 403],
    [{ Origin: "https://app.example", Host: "app.example", "X-Forwarded-Proto": "wss" }, 403]
  ]
  const asked = (headers: Record<string, string>) =>
    handshake(websocketPath, headers).replace("Host: 127.0.0.1\r\n", "")

  it.live("wss is https, and ws is http, where the proxy is believed", () =>
    Effect.gen(function*() {
      const mount: Endpoint.Options = { path: "/socket", checkOrigin: "conn", websocket: { middleware: true } }
      const door = yield* open([mount], { routes: believing })
      const unbelieving = yield* open([mount])
      yield* Effect.promise(async () => {
        for (const [headers, status] of cases) {
          const text = asked(headers)
          assert.strictEqual(await statusOf(door, text), status, JSON.stringify(headers))
          assert.strictEqual(await statusOf(unbelieving, text), 403, JSON.stringify(headers))
        }
      })
    }))
})
