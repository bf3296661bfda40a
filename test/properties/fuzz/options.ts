/**
 * Options with values that make no sense: each is refused by an `OptionError` where it is given, and what makes sense is
 * taken. A limit must never become none because of a mistake.
 */
import { Cause, Effect, Exit, Layer, Logger } from "effect"
import { HttpRouter } from "effect/http"
import * as fc from "fast-check"
import { createServer } from "node:http"
import { isDeepStrictEqual } from "node:util"
import * as Channel from "../../../src/Channel.ts"
import * as Endpoint from "../../../src/Endpoint.ts"
import * as internal from "../../../src/internal/options.ts"
import * as Presence from "../../../src/Presence.ts"
import * as Process from "../../../src/Process.ts"
import * as PubSub from "../../../src/PubSub.ts"
import * as Nats from "../../../src/pubsub/nats.ts"
import * as Redis from "../../../src/pubsub/redis.ts"
import * as Socket from "../../../src/Socket.ts"
import * as Supervisor from "../../../src/Supervisor.ts"
import * as Token from "../../../src/Token.ts"
import { target } from "./targets.ts"

type Kind = "count" | "duration" | "rate" | "choice" | "text" | "function" | "object"

interface Option {
  readonly name: string
  readonly kind: Kind
  /** Values that a choice is between; of other kinds, values that make sense although most of their like do not. */
  readonly among?: ReadonlyArray<unknown>
  /** Values that make no sense, where they are not those of the kind. */
  readonly nonsense?: ReadonlyArray<unknown>
  /** Values that make sense, where they are not those of the kind. */
  readonly sense?: ReadonlyArray<unknown>
  /** Gives the option; what is thrown, or fails, is looked at. */
  readonly give: (value: never) => unknown
}

/** Values of which no option of the kind makes sense. What means no limit, `Infinity` or false, depends on the option. */
const nonsense: Readonly<Record<Kind, fc.Arbitrary<unknown>>> = {
  count: fc.oneof(
    fc.constantFrom<Array<unknown>>(NaN, 0, -0, -1, -Infinity, 0.5, 1.5, "", "5", "many", null, true, {}, [], [1], 5n),
    fc.integer({ max: 0 }),
    fc.double({ max: 0 }),
    fc.string(),
    fc.func(fc.integer())
  ),
  duration: fc.oneof(
    fc.constantFrom<Array<unknown>>(NaN, -1, -Infinity, "", "soon", "5", "5 parsecs", "-5 seconds", null, true, [], [
      1
    ]),
    fc.double({ max: -Number.MIN_VALUE }),
    fc.string().filter((text) => !/^\s*-?\d|nfinity/.test(text)),
    fc.func(fc.integer())
  ),
  rate: fc.oneof(
    fc.constantFrom<Array<unknown>>(null, true, "", "5", 5, NaN, {}, [], { perSecond: 1 }, { burst: 1 }),
    fc.constantFrom(NaN, -1, -Infinity, "5", null, {}).chain((bad) =>
      fc.constantFrom<Array<unknown>>({ perSecond: bad, burst: 1 }, { perSecond: 1, burst: bad })
    )
  ),
  choice: fc.oneof(fc.constantFrom<Array<unknown>>(null, "", {}, [], NaN, 5, "nothing"), fc.string()),
  text: fc.constantFrom<Array<unknown>>(null, "", {}, [], NaN, 0, 5, true, false, 5n, () => "text"),
  function: fc.constantFrom<Array<unknown>>(null, "", {}, [], NaN, 0, 5, true, false, 5n, Promise.resolve()),
  object: fc.constantFrom<Array<unknown>>(null, "", "text", [], NaN, 5, true, 5n, () => ({}))
}

const sense = ({ among, kind, sense }: Option): fc.Arbitrary<unknown> => {
  if (sense !== undefined) return fc.constantFrom(...sense)
  switch (kind) {
    case "text":
      return fc.constant("text")
    case "function":
      return fc.constant(() => Effect.void)
    case "object":
      return fc.constant({})
    case "count":
      return fc.integer({ min: 1024, max: 100_000 })
    case "duration":
      if (among !== undefined) return fc.constant(undefined)
      return fc.oneof(fc.integer({ min: 1000, max: 60_000 }), fc.constantFrom("1 second", "5 seconds", "1 minute"))
    case "rate":
      return fc.oneof(
        fc.constant(false),
        fc.record({ perSecond: fc.integer({ min: 1, max: 1000 }), burst: fc.integer({ min: 1, max: 1000 }) })
      )
    case "choice":
      return fc.constantFrom(...among ?? [])
  }
}

const Room = Channel.make("room:*")
const UserSocket = Socket.make("options", { channels: [Room] })
const live = Layer.mergeAll(Room.layer(() => Effect.void), UserSocket.layer(() => Effect.succeed(Socket.accept())))
  .pipe(
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(Token.layer({ secretKeyBase: "a secret that nobody guesses, for tests" }))
  )
const mount = (options: Partial<Endpoint.Options>) =>
  HttpRouter.serve(Endpoint.mount(UserSocket, { path: "/socket", ...options }), {
    disableLogger: true,
    disableListenLog: true
  }).pipe(Layer.provide(live), Layer.provide(Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })))

const contract = (options: never) => Channel.make("contract:*", options)
const behaviour = { handle: () => Effect.void }
const spawn = (options: never) =>
  Effect.provide(Process.spawn(() => Effect.succeed(behaviour), options), Process.System.layer)
const room = (options: never) => Layer.provide(Room.layer(() => Effect.void, options), PubSub.layer)
const tracker = (options: never) => Layer.provide(Presence.make("options").layer({}, options), PubSub.layer)

const counts = (owner: string, names: ReadonlyArray<string>, give: (options: never) => unknown) =>
  names.map((name): Option => ({
    name: `${owner}: ${name}`,
    kind: "count",
    give: (value) => give({ [name]: value } as never)
  }))
const durations = (owner: string, names: ReadonlyArray<string>, give: (options: never) => unknown) =>
  counts(owner, names, give).map((option): Option => ({ ...option, kind: "duration" }))

const levels = ["Fatal", "Error", "Warn", "Info", "Debug", "Trace", false]
const choice = (
  owner: string,
  name: string,
  among: ReadonlyArray<unknown>,
  give: (options: never) => unknown
): Option => ({
  name: `${owner}: ${name}`,
  kind: "choice",
  among,
  give: (value) => give({ [name]: value } as never)
})

/** Validators that the options below are made of. */
const own: ReadonlyArray<Option> = [
  { name: "wholeNumber", kind: "count", give: (value) => internal.wholeNumber("x", value) },
  { name: "duration", kind: "duration", give: (value) => internal.duration("x", value) },
  { name: "oneOf", kind: "choice", among: ["a", false], give: (value) => internal.oneOf("x", value, ["a", false]) }
]

const socket = (options: never) => Socket.make("options", { ...Object(options), channels: [Room] })
const websocket = (options: never) => mount({ websocket: options })
const longpoll = (options: never) => mount({ websocket: false, longpoll: options })
const supervisor = (options: never) =>
  Effect.provide(Effect.scoped(Supervisor.start({ ...Object(options), children: [] })), Process.System.layer)

const call = (options: never) =>
  Effect.gen(function*() {
    const pid = yield* Process.spawn((_self: Process.Pid<Process.ReplyTo<number>>) =>
      Effect.succeed({ handle: (to: Process.ReplyTo<number>) => Process.reply(to, 1) })
    )
    return yield* Process.call(pid, (to: Process.ReplyTo<number>) => to, options)
  }).pipe(Effect.provide(Process.System.layer))
const sendAfter = (delay: never) =>
  Effect.gen(function*() {
    const pid = yield* Process.spawn((_self: Process.Pid<string>) => Effect.succeed(behaviour))
    return yield* Process.sendAfter(pid, "message", delay)
  }).pipe(Effect.provide(Process.System.layer))
const child = (options: never) =>
  Effect.suspend(() => {
    const children = [Supervisor.child({ id: "child", start: () => Effect.succeed(behaviour), ...Object(options) })]
    return Effect.provide(Effect.scoped(Supervisor.start({ children })), Process.System.layer)
  })
const listen = (options: never) => Endpoint.layer(createServer, { port: 0, host: "127.0.0.1", ...Object(options) })
const keys = (method: "sign" | "verify" | "encrypt", options: never) =>
  Effect.gen(function*() {
    const tokens = yield* Token.make({ secretKeyBase: "a secret that nobody guesses, for tests" })
    if (method !== "verify") return yield* tokens[method]("salt", 1, options)
    return yield* Effect.ignore(tokens.verify("salt", yield* tokens.sign("salt", 1), options))
  })
const redis = (options: never) => Redis.layer({ url: "redis://127.0.0.1:1", timeout: 1, ...Object(options) })
const nats = (options: never) => Nats.layer({ url: "nats://127.0.0.1:1", timeout: 1, ...Object(options) })

/** Nothing is a number, or a duration, that makes sense. */
const orNone = (option: Option): Option => ({ ...option, among: [0, -0, undefined], sense: [0, 1, 5000] })
const kinds = (
  owner: string,
  kind: Kind,
  names: ReadonlyArray<string>,
  give: (options: never) => unknown,
  sense?: ReadonlyArray<unknown>
) => counts(owner, names, give).map((option): Option => ({ ...option, kind, ...sense === undefined ? {} : { sense } }))
const among = (option: Option, ...among: ReadonlyArray<unknown>): Option => ({ ...option, among })

const signing = (method: "sign" | "verify" | "encrypt"): ReadonlyArray<Option> => [
  ...kinds(`Token.${method}`, "count", ["keyIterations"], (options) => keys(method, options), [1, 1000]),
  ...kinds(`Token.${method}`, "count", ["keyLength"], (options) => keys(method, options), [1, 32, 64]),
  choice(`Token.${method}`, "keyDigest", ["sha256", "sha384", "sha512"], (options) => keys(method, options))
]

const transports = (name: string, give: (options: never) => unknown): ReadonlyArray<Option> => [
  ...durations(name, ["connectTimeout"], give),
  ...counts(name, ["maxConnections", "maxConnectionsPerAddress"], give),
  ...kinds(name, "object", ["connectInfo", "session"], give, [undefined]),
  choice(name, "transportLog", levels, give),
  ...kinds(name, "text", ["path"], give, ["/elsewhere"]),
  ...kinds(name, "object", ["checkOrigin"], give, [true, false, "conn", ["https://here"], [], () => true]).map(
    (option) => ({ ...option, nonsense: [null, "", "https://here", {}, NaN, 5, ["nowhere/at all"], [5], [""], ["*"]] })
  )
]

const cluster = (name: string, give: (options: never) => unknown): ReadonlyArray<Option> => [
  ...kinds(name, "duration", ["timeout", "heartbeat"], give, [1, 5]),
  ...counts(name, ["maxMessageBytes", "maxPendingBytes"], give),
  ...kinds(name, "text", ["node", "prefix"], give),
  ...kinds(name, "text", ["url"], give, [undefined]),
  ...kinds(name, "object", ["client"], give, [{}])
]

const all: ReadonlyArray<Option> = [
  ...own,
  ...counts("Socket.make", ["maxChannels", "maxInboxBytes", "maxSharedInboxBytes"], socket),
  ...kinds("Socket.make", "count", ["maxRefBytes", "maxTopicBytes", "maxEventBytes"], socket, [1, 255, 1024]),
  ...kinds("Socket.make", "rate", ["maxJoinRate", "maxMessageRate", "maxHeartbeatRate"], socket),
  ...durations("Socket.make", ["maxPause"], socket),
  ...kinds(
    "Socket.make",
    "object",
    ["serializers", "channels"],
    (options) => Socket.make("options", { channels: [Room], ...Object(options) }),
    [undefined]
  ).map((option) => option.name.endsWith("channels") ? { ...option, sense: [[Room]], among: [[]] } : option),
  choice("Socket.make", "log", levels, socket),
  ...kinds("Channel.make", "object", ["incoming", "outgoing", "join", "lossy"], contract, [{}]),
  ...kinds("Channel.make", "object", ["intercept"], contract, [["said"], []]).map((option) => among(option, [])),
  ...kinds("Channel.make", "function", ["pubsubTopic"], contract, [(topic: string) => topic]),
  ...counts(
    "Channel.layer: mailbox",
    ["capacity", "maxBytes", "maxInfos", "maxInfoBytes"],
    (mailbox) => room({ mailbox } as never)
  ),
  ...kinds("Channel.layer", "object", ["mailbox"], room),
  choice(
    "Channel.layer: mailbox",
    "whenFull",
    ["suspend", "dropOldest", "disconnect"],
    (mailbox) => room({ mailbox } as never)
  ),
  ...durations("Channel.layer", ["shutdown"], room).map(orNone),
  choice("Channel.layer", "logJoin", levels, room),
  choice("Channel.layer", "logHandleIn", levels, room),
  ...counts("Process.spawn: mailbox", ["capacity"], (mailbox) => spawn({ mailbox } as never)),
  choice(
    "Process.spawn: mailbox",
    "whenFull",
    ["dropNewest", "dropOldest", "crash"],
    (mailbox) => spawn({ mailbox: { ...Object(mailbox), capacity: 5 } } as never)
  ),
  ...kinds("Process.spawn", "object", ["mailbox"], spawn, [{ capacity: 5 }]),
  ...kinds("Process.spawn", "text", ["label"], spawn),
  ...kinds("Process.spawn", "function", ["annotate"], spawn),
  ...durations("Process.spawn", ["shutdown"], spawn).map(orNone),
  ...durations("Process.call", ["timeout"], call),
  ...durations("Process", ["sendAfter"], (delay) => sendAfter(Object(delay)["sendAfter"] as never)).map((option) => ({
    ...orNone(option),
    // A time in the past is due now.
    nonsense: ["soon", NaN, null, {}, [], "", true]
  })),
  ...durations("Supervisor", ["within"], supervisor),
  ...counts("Supervisor", ["maxRestarts"], supervisor).map(orNone),
  choice("Supervisor", "strategy", ["oneForOne", "oneForAll", "restForOne"], supervisor),
  ...kinds(
    "Supervisor",
    "object",
    ["children"],
    (options) => Effect.provide(Effect.scoped(Supervisor.start(options)), Process.System.layer),
    [[]]
  ).map((option) => among(option, [])),
  ...kinds("Supervisor", "text", ["label"], supervisor),
  ...kinds("Supervisor.child", "text", ["id"], child),
  ...kinds("Supervisor.child", "function", ["start"], child, [() => Effect.succeed(behaviour)]),
  ...durations("Supervisor.child", ["shutdown"], child).map(orNone),
  choice("Supervisor.child", "restart", ["permanent", "transient", "temporary"], child),
  // Each of these three depends on the others.
  ...durations("Presence.layer", ["broadcastPeriod", "downPeriod", "permdownPeriod"], tracker).map((option) => ({
    ...option,
    among: []
  })),
  ...durations("Presence.layer", ["coalesce", "handlerTimeout"], tracker),
  ...counts("Presence.layer", ["maxMetaBytes"], tracker),
  ...kinds("Presence.layer", "count", ["maxSilentPeriods"], tracker, [1, 1024, 100_000]).map((option) =>
    among(option, 0, -0)
  ),
  ...kinds("Presence.layer", "count", ["shards"], tracker, [1, 2, 64]),
  choice("Presence.layer", "permdownOnShutdown", [true, false], tracker),
  ...kinds(
    "Presence.layer",
    "function",
    ["fetch", "handleMetas"],
    (handlers) => Layer.provide(Presence.make("options").layer(handlers), PubSub.layer)
  ),
  ...transports("websocket", websocket),
  ...durations("websocket", ["timeout", "stallTimeout"], websocket),
  ...counts("websocket", ["maxFrameSize", "maxBufferedBytes"], websocket),
  ...kinds("websocket", "count", ["maxBacklogBytes", "maxTotalBacklogBytes"], websocket, [1e9]),
  ...kinds("websocket", "rate", ["maxByteRate"], websocket),
  ...kinds("websocket", "object", ["compress"], websocket, [{}, true, false]).map((option) => among(option, true)),
  ...counts("websocket: compress", ["threshold"], (compress) => websocket({ compress } as never)).map(orNone),
  ...counts("websocket: compress", ["maxMessageSize"], (compress) => websocket({ compress } as never)),
  ...kinds("websocket: compress", "rate", ["rate"], (compress) => websocket({ compress } as never)),
  ...kinds("websocket", "function", ["errorHandler"], websocket),
  ...kinds("websocket", "object", ["subprotocols"], websocket, [["a"]]).map((option) => among(option, [])),
  choice("websocket", "middleware", [true, false], websocket),
  ...transports("longpoll", longpoll),
  ...durations("longpoll", ["window", "tokenMaxAge", "pubsubTimeout", "stallTimeout"], longpoll),
  ...counts("longpoll", ["maxBody", "maxBuffer", "maxUnpolled"], longpoll),
  ...kinds("longpoll", "rate", ["maxByteRate"], longpoll),
  ...kinds("longpoll", "text", ["secretKeyBase"], longpoll, ["a secret that nobody guesses"]),
  ...kinds("mount", "text", ["path", "host"], mount, [undefined]).map((option) =>
    option.name === "mount: path" ? { ...option, sense: ["/other", "/:id"] } : option
  ),
  ...kinds("mount", "object", ["websocket", "longpoll"], mount, [{}, true]).map((option) => among(option, true)),
  choice("mount", "authToken", [true, false], mount),
  ...kinds("mount", "object", ["drainer"], mount, [{}, false]),
  ...counts("mount: drainer", ["batchSize"], (drainer) => mount({ drainer })),
  ...durations("mount: drainer", ["batchInterval", "shutdown"], (drainer) => mount({ drainer })).map(orNone),
  choice("mount: drainer", "log", levels, (drainer) => mount({ drainer })),
  ...kinds("Endpoint.layer", "count", ["port"], listen, [0, undefined]).map((option) => among(option, 0, -0)),
  ...durations("Endpoint.layer", ["gracefulShutdownTimeout"], listen).map(orNone),
  ...durations(
    "Readiness",
    ["announce"],
    (delay) => Layer.provide(Endpoint.Readiness.announce(Object(delay)["announce"]), Endpoint.Readiness.layer)
  ).map((option) => ({
    ...orNone(option),
    sense: [0, 1]
  })),
  ...signing("sign"),
  ...signing("verify"),
  ...signing("encrypt").filter(({ name }) => !name.endsWith("keyLength")),
  ...kinds("Token.sign", "duration", ["maxAge"], (options) => keys("sign", options), [1, "1 day", "Infinity", 0, -1])
    .map(
      // None at all makes a token that nobody accepts.
      (option) => ({ ...option, nonsense: ["soon", NaN, null, {}, [], "", true] })
    ),
  ...kinds("Token.verify", "duration", ["leeway"], (options) => keys("verify", options), [0, 1, "1 minute"]),
  choice("Token.sign", "compressed", [true, false], (options) => keys("sign", options)),
  ...[["Redis", redis], ["NATS", nats]].flatMap(([name, layer]) => cluster(name as string, layer as typeof redis))
]

/** The options of a list with values, and whether they make sense. */
const given = (options: ReadonlyArray<Option>) =>
  fc.constantFrom(...options).chain((option) =>
    fc.oneof(
      {
        weight: 3,
        arbitrary: (option.nonsense === undefined ? nonsense[option.kind] : fc.constantFrom(...option.nonsense)).map((
          value
        ) => ({ option, value, isSense: false }))
      },
      { weight: 1, arbitrary: sense(option).map((value) => ({ option, value, isSense: true })) }
    )
  ).filter(({ isSense, option: { among }, value }) =>
    isSense || among?.some((one) => isDeepStrictEqual(one, value)) !== true
  )

const attempt = async (option: Option, value: unknown): Promise<Exit.Exit<unknown, unknown>> => {
  const made = Effect.suspend((): Effect.Effect<unknown, unknown> => {
    const result = option.give(value as never)
    if (Layer.isLayer(result)) return Effect.scoped(Layer.build(result as Layer.Layer<unknown, unknown>))
    return Effect.isEffect(result) ? Effect.scoped(result as Effect.Effect<unknown, unknown>) : Effect.succeed(result)
  })
  return Effect.runPromiseExit(Effect.provide(made, Logger.layer([])))
}

const check = async ({ isSense, option, value }: { isSense: boolean; option: Option; value: unknown }) => {
  const exit = await attempt(option, value)
  if (exit._tag === "Success") {
    if (!isSense) throw new Error(`${option.name} takes ${String(fc.stringify(value))}`)
    return
  }
  const error = Cause.squash(exit.cause)
  if (isSense) throw new Error(`${option.name} refuses ${fc.stringify(value)}: ${String(error)}`)
  if (!(error instanceof internal.OptionError)) throw new Error(`${option.name} fails otherwise: ${String(error)}`)
  if (error.message.length > 1000) throw new Error("the message is too long")
}

/** Validators of options, by themselves. */
export const checks = target("options", 5, given(own), check)

/** The options themselves, for which servers are started. */
export const options = target("options of everything", 0, given(all), check)

/** Each option, one after the other. */
export const eachOption = all.map((option) => target(option.name, 0, given([option]), check))
