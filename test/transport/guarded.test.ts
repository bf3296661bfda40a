/** Faults of the application's functions at the door are answered 500, logged once with their owner, and harm nobody. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger } from "effect"
import { HttpServerResponse } from "effect/http"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import {
  type Doorway,
  HalfOpen,
  handshake,
  longpollPath,
  open,
  request,
  type Settings,
  ways,
  websocketPath
} from "./doorway.ts"

const statusOf = async (door: Doorway, text: string): Promise<number | undefined> => {
  const client = await HalfOpen.say(door.port, text)
  await client.answered()
  client.socket.destroy()
  return client.status
}

/** Values that no type allows: programs in JavaScript return anything. */
const anything = (value: unknown) => value as never

const withOrigin = { Origin: "null" }

interface Fault {
  readonly name: string
  readonly mount: Partial<Endpoint.Options>
  readonly websocket?: Endpoint.WebSocketOptions
  readonly query?: string
  readonly headers?: Record<string, string>
  /** Matches the line of the log. */
  readonly line: RegExp
  /** Only WebSockets have it. */
  readonly only?: true
}

const thrower = (): never => {
  throw new Error("thrown by the application")
}

const faults: ReadonlyArray<Fault> = [
  {
    name: "checkOrigin that throws",
    mount: { checkOrigin: ({ raw }) => new URL(raw).host === "a" },
    headers: withOrigin,
    line: /^checkOrigin of the application has thrown/
  },
  {
    name: "checkOrigin that returns a promise",
    mount: { checkOrigin: anything(async () => false) },
    headers: withOrigin,
    line: /^checkOrigin of the application has thrown/
  },
  {
    // Before anybody has logged in, a rejection that nobody handles would end the process.
    name: "checkOrigin that returns a promise which is rejected",
    mount: { checkOrigin: anything(async ({ raw }: { readonly raw: string }) => new URL(raw).host === "a") },
    headers: withOrigin,
    line: /^checkOrigin of the application has thrown/
  },
  {
    name: "a session's read that throws",
    mount: { session: { cookie: "a", read: thrower } },
    headers: { Cookie: "a=1" },
    line: /^request to a socket crashed/
  },
  {
    name: "a session's read that returns a promise",
    mount: { session: { cookie: "a", read: anything(async () => thrower()) } },
    headers: { Cookie: "a=1" },
    line: /^request to a socket crashed/
  },
  {
    name: "a session's read that dies",
    mount: { session: { cookie: "a", read: () => Effect.die(new Error("read dies")) } },
    headers: { Cookie: "a=1" },
    line: /^request to a socket crashed/
  },
  { name: "connect that dies", mount: {}, query: "&as=crash", line: /^request to a socket crashed/ },
  { name: "connect that throws", mount: {}, query: "&as=thrower", line: /^request to a socket crashed/ },
  {
    name: "connect that succeeds with the wrong thing",
    mount: {},
    query: "&as=junk",
    line: /^request to a socket crashed/
  },
  ...([
    ["that throws", thrower],
    ["that dies", () => Effect.die(new Error("errorHandler dies"))],
    ["that fails", () => anything(Effect.fail(new Error("errorHandler fails")))],
    ["that returns a promise", () => anything(Promise.resolve(HttpServerResponse.empty()))],
    ["that returns a promise which is rejected", () => anything(Promise.reject(new Error("rejected")))],
    ["that returns nothing", () => anything(undefined)],
    ["that succeeds with the wrong thing", () => Effect.succeed(anything({ status: 200 }))]
  ] as const).map(([name, errorHandler]): Fault => ({
    name: `errorHandler ${name}`,
    mount: {},
    websocket: { errorHandler },
    query: "&as=nobody",
    line: /^errorHandler of the application has thrown/,
    only: true
  }))
]

for (const { headers = {}, line, mount, name, only, query = "", websocket = {} } of faults) {
  const doors: ReadonlyArray<readonly [name: string, websocket: Endpoint.WebSocketOptions, text: string]> = [
    ...ways.map(([suffix, way]) =>
      [`a WebSocket${suffix}`, { ...websocket, ...way }, handshake(`${websocketPath}${query}`, headers)] as const
    ),
    ...only === true ? [] : [["long polling", {}, request("GET", `${longpollPath}${query}`, headers)] as const]
  ]
  for (const [transport, websocket, text] of doors) {
    it.live(`${name} costs the request, and nobody else anything: ${transport}`, () =>
      Effect.gen(function*() {
        const door = yield* open([
          {
            path: "/socket",
            longpoll: { ...mount, maxConnectionsPerAddress: Infinity },
            websocket: { ...mount, ...websocket }
          },
          { path: "/other" }
        ])
        yield* Effect.promise(async () => {
          for (let n = 0; n < 20; n++) assert.strictEqual(await statusOf(door, text), 500)
          assert.strictEqual(await statusOf(door, handshake("/other/websocket?vsn=2.0.0")), 101)
        })
        const lines = door.lines.filter(({ level }) => level === "Error")
        assert.deepStrictEqual(lines.map(({ annotations }) => annotations["socket"]), ["door"])
        for (const { text } of lines) assert.match(text, line)
      }))
  }
}

it.live("a logger that throws harms nobody", () =>
  Effect.gen(function*() {
    const layers = Logger.layer([Logger.make(thrower)], { mergeWithExisting: false })
    const door = yield* open([{ path: "/socket", transportLog: "Info", longpoll: true }], { layers, silent: true })
    yield* Effect.promise(async () => {
      assert.strictEqual(await statusOf(door, handshake(websocketPath, { Origin: "null" })), 403)
      assert.strictEqual(await statusOf(door, handshake(`${websocketPath}&as=crash`)), 500)
      assert.strictEqual(await statusOf(door, request("GET", `${longpollPath}&as=nobody`)), 200)
      assert.strictEqual(await statusOf(door, handshake()), 101)
    })
  }))

describe("a value in the log", () => {
  const seen = (name: string, settings: Settings) =>
    it.live(name, () =>
      Effect.gen(function*() {
        const door = yield* open([{ path: "/socket", longpoll: true }], settings)
        yield* Effect.promise(async () => {
          assert.strictEqual(await statusOf(door, handshake("/socket/websocket?vsn=9.9.9")), 403)
          assert.strictEqual(await statusOf(door, handshake()), 101)
        })
        assert.strictEqual(door.lines.filter(({ text }) => text.startsWith("FilterParameters")).length, 1)
        assert.strictEqual(door.lines.find(({ text }) => text.includes("a version"))?.annotations["vsn"], "[FILTERED]")
      }))
  seen("is hidden where the filter of parameters is broken", {
    layers: Layer.succeed(Telemetry.FilterParameters, anything(7))
  })
})
