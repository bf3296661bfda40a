/** Options that make no sense are told where they are given: by name, with the value, and with what is allowed. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Scope } from "effect"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import * as Token from "../../src/Token.ts"

const DoorSocket = Socket.make("door", { channels: [] })

/** Programs in JavaScript, and environment variables, give anything. */
const anything = (value: unknown) => value as never

const mounting = (options: Endpoint.Options) =>
  HttpRouter.toHttpEffect(
    Endpoint.mount(DoorSocket, options).pipe(
      Layer.provide([DoorSocket.layer(() => Effect.succeed(Socket.accept())), PubSub.layer])
    )
  ).pipe(Effect.scoped)

const failureOf = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<string> =>
  Effect.map(Effect.exit(effect), (exit) => Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "no failure")

/** Values that are no number of anything. */
const noNumbers: ReadonlyArray<unknown> = [NaN, -1, "5", "", null, {}, [], true, Symbol("a"), () => 1, new Date()]
const noCounts = [...noNumbers, 0, 0.5, -Infinity]
const noDurations = [...noNumbers, 0, -Infinity, "soon", "5 parsecs"]

const counts = ["maxConnections", "maxConnectionsPerAddress"] as const
const given = (name: string, value: unknown) => ({ [name]: anything(value) })

type Case = readonly [where: string, name: string, values: ReadonlyArray<unknown>, of: (given: object) => object]

const inMount = (options: object) => options
const inWebSocket = (websocket: object) => ({ websocket })
const inLongPoll = (longpoll: object) => ({ websocket: false, longpoll })
const inDrainer = (drainer: object) => ({ drainer })
const inSession = (session: object) => ({ session: { cookie: "a", read: () => Effect.succeed(1), ...session } })

const noText = [1, null, {}, true, ""]
const noFunction = [1, null, {}, "read", true]
const noBoolean = [1, null, {}, "true", 0]
const noLevel = ["info", "", 1, null, {}, true]
const noPath = ["socket", "", 1, null, {}, "http://a/socket"]

const shared = [inMount, inWebSocket, inLongPoll].flatMap((of, index): ReadonlyArray<Case> => {
  const where = ["the mount", "websocket", "longpoll"][index] ?? ""
  return [
    ...counts.map((name): Case => [where, name, noCounts, of]),
    [where, "connectTimeout", noDurations, of],
    [where, "transportLog", noLevel, of],
    [where, "checkOrigin", ["https://a.com", "", null, 1, NaN, {}, ["a.com"], [null], [""]], of],
    [where, "connectInfo", [null, 1, "a"], of],
    [where, "session", [null, 1, "a", {}, { cookie: "a" }, { read: () => Effect.void }], of],
    ...([["cookie", noText], ["read", noFunction], ["csrfTokenKey", noText], ["checkCsrf", noBoolean]] as const).map(
      ([name, values]): Case => [where, name, values, (session) => of(inSession(session))]
    )
  ]
})

const cases: ReadonlyArray<Case> = [
  ...shared,
  ["the mount", "path", [undefined, ...noPath], inMount],
  ["the mount", "host", ["", 1, null, {}, "https://a.com", "a.com/", "*.a.com"], inMount],
  ["the mount", "authToken", noBoolean, inMount],
  ["the mount", "websocket", [1, null, "true", []], inMount],
  ["the mount", "longpoll", [1, null, "true", []], inMount],
  ["the mount", "drainer", [null, 1, "a", true], inMount],
  ["websocket", "path", noPath, inWebSocket],
  ["websocket", "middleware", noBoolean, inWebSocket],
  ["websocket", "errorHandler", noFunction, inWebSocket],
  ["websocket", "subprotocols", ["sip", "", null, 1, {}, [], [""], [1], ["a b"], ["a,b"]], inWebSocket],
  ["longpoll", "path", noPath, inLongPoll],
  ...(["window", "pubsubTimeout"] as const).map(
    (name): Case => ["longpoll", name, [...noDurations, Infinity, "Infinity"], inLongPoll]
  ),
  ["longpoll", "tokenMaxAge", noDurations, inLongPoll],
  ["longpoll", "maxBody", [...noCounts, Infinity], inLongPoll],
  ["longpoll", "maxBuffer", noCounts, inLongPoll],
  ["longpoll", "maxUnpolled", noCounts, inLongPoll],
  ["longpoll", "secretKeyBase", [null, 1, {}, [], "short"], inLongPoll],
  ["drainer", "batchSize", noCounts, inDrainer],
  ["drainer", "batchInterval", [...noNumbers, Infinity, "Infinity"], inDrainer],
  ["drainer", "shutdown", noNumbers, inDrainer],
  ["drainer", "log", noLevel, inDrainer]
]

describe("an option of a mount that makes no sense", () => {
  for (const [where, name, values, of] of cases) {
    it.effect(`${where}: ${name}`, () =>
      Effect.gen(function*() {
        for (const value of values) {
          const failure = yield* failureOf(mounting(anything({ path: "/socket", ...of(given(name, value)) })))
          const about = `${name} ${typeof value} ${typeof value === "symbol" ? "" : String(value)}`
          assert.include(failure, name, about)
          // A secret is not shown.
          if (name !== "secretKeyBase") assert.include(failure, "OptionError", about)
        }
      }))
  }
})

describe("an option of a mount that makes sense", () => {
  const sensible: ReadonlyArray<Partial<Endpoint.Options>> = [
    {},
    { maxConnections: 1, maxConnectionsPerAddress: 1, connectTimeout: 1 },
    { maxConnections: Infinity, maxConnectionsPerAddress: Infinity, connectTimeout: "Infinity", longpoll: true },
    { longpoll: { maxUnpolled: Infinity, maxBuffer: Infinity, tokenMaxAge: "Infinity", window: 0.5 } },
    { drainer: { batchSize: Infinity, batchInterval: 0, shutdown: 0, log: false } },
    { drainer: { batchSize: 1, batchInterval: "1 second", shutdown: "Infinity", log: "Debug" } },
    { drainer: false, transportLog: false, authToken: false, host: "a.com" },
    // Options that are given as undefined are not given.
    {
      maxConnections: undefined,
      maxConnectionsPerAddress: undefined,
      connectTimeout: undefined,
      checkOrigin: undefined,
      host: undefined,
      drainer: undefined,
      transportLog: undefined,
      session: undefined,
      websocket: { path: undefined, subprotocols: undefined, middleware: undefined, errorHandler: undefined },
      longpoll: { window: undefined, maxBody: undefined, maxUnpolled: undefined, secretKeyBase: undefined }
    }
  ]
  for (const [index, options] of sensible.entries()) {
    it.effect(`mounts: ${index} ${Object.keys(options).join(", ")}`, () =>
      Effect.map(
        failureOf(mounting({ path: "/socket", ...options })),
        (failure) => assert.strictEqual(failure, "no failure")
      ))
  }
})

it.live("gracefulShutdownTimeout of a server is checked", () =>
  Effect.gen(function*() {
    for (const value of noNumbers) {
      const layer = Endpoint.layer(createServer, { port: 0, gracefulShutdownTimeout: anything(value) })
      const failure = yield* failureOf(Effect.scoped(Layer.build(layer)))
      assert.include(failure, "gracefulShutdownTimeout")
      assert.include(failure, "OptionError")
    }
  }))

it.effect("the path and the delay of Readiness are checked", () =>
  Effect.gen(function*() {
    for (const value of noPath) {
      const route = HttpRouter.toHttpEffect(Endpoint.Readiness.route(anything(value))).pipe(
        Effect.provide([Endpoint.Readiness.layer, PubSub.layer]),
        Effect.scoped
      )
      assert.include(yield* failureOf(route), "OptionError: path of Readiness.route")
    }
    for (const value of [...noNumbers, Infinity]) {
      const announced = Layer.build(Endpoint.Readiness.announce(anything(value))).pipe(
        Effect.provide(Endpoint.Readiness.layer),
        Effect.scoped
      )
      assert.include(yield* failureOf(announced), "OptionError: delay of Readiness.announce")
    }
  }))

describe("an option of a token that makes no sense", () => {
  // Ages of nothing, or less, are allowed: nobody accepts such a token.
  const noAges = [NaN, "5", "", null, {}, [], true]
  const wrong: ReadonlyArray<readonly [name: string, values: ReadonlyArray<unknown>]> = [
    ["maxAge", noAges],
    ["leeway", [...noNumbers, Infinity, "Infinity"]],
    ["signedAt", [NaN, -1, "5", null, {}, Infinity]],
    ["keyIterations", noCounts],
    ["keyLength", noCounts],
    ["keyDigest", ["md5", "", null, 1, {}]],
    ["compressed", noBoolean]
  ]
  const verifying = ["maxAge", "leeway", "keyIterations", "keyLength", "keyDigest"]
  const signing = ["maxAge", "signedAt", "keyIterations", "keyLength", "keyDigest", "compressed"]
  for (const [name, values] of wrong) {
    it.effect(name, () =>
      Effect.gen(function*() {
        const tokens = yield* Token.make({ secretKeyBase: "s".repeat(20) })
        const token = yield* tokens.sign("salt", 1)
        for (const value of values) {
          const options = given(name, value)
          const calls = [
            ...signing.includes(name) ? [tokens.sign("salt", 1, options), tokens.encrypt("salt", 1, options)] : [],
            ...verifying.includes(name)
              ? [tokens.verify("salt", token, options), tokens.decrypt("salt", token, options)]
              : []
          ]
          assert.isNotEmpty(calls)
          for (const call of calls) {
            const failure = yield* failureOf(Effect.asVoid(call))
            assert.include(failure, `OptionError: ${name}`, String(value))
          }
        }
      }))
  }

  it.effect("secretKeyBase", () =>
    Effect.gen(function*() {
      for (const value of [undefined, null, 1, {}, [], "short"]) {
        assert.include(yield* failureOf(Token.make({ secretKeyBase: anything(value) })), "secretKeyBase")
      }
    }))
})

it.effect("a mount that has failed leaves nothing behind at its path", () =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    yield* Effect.exit(mounting(anything({ path: "/socket", longpoll: { maxBody: NaN } })))
    assert.strictEqual(yield* failureOf(mounting({ path: "/socket" })), "no failure")
    yield* Scope.close(scope, Exit.void)
  }))
