/**
 * Sockets: who may connect, and which channels a connection can join.
 *
 * Describe a socket with {@link make}, say with `layer` or `toLayer` whom it accepts, and mount it with `Endpoint.mount`. Every
 * connection is a process; it passes messages to the channels it has joined and is not touched when one of them crashes.
 *
 * The model is Phoenix.Socket (https://hexdocs.pm/phoenix/Phoenix.Socket.html).
 */
import {
  Context,
  Data,
  type Duration,
  Effect,
  Formatter,
  Layer,
  type LogLevel,
  Predicate,
  Result,
  type Scope
} from "effect"
import { getHeapStatistics } from "node:v8"
import type * as Channel from "./Channel.ts"
import { drainAll, type Options as DrainOptions } from "./internal/drain.ts"
import { disown, effectOf, exitOf } from "./internal/eager.ts"
import { erase } from "./internal/erase.ts"
import { isFilter } from "./internal/filterParameters.ts"
import { Group } from "./internal/group.ts"
import { Guard } from "./internal/guard.ts"
import { SharedBytes } from "./internal/inbox.ts"
import * as Limits from "./internal/limits.ts"
import { socketMeter } from "./internal/meter.ts"
import { callable, duration, given, level, OptionError, text, wholeNumber } from "./internal/options.ts"
import type { Place } from "./internal/places.ts"
import { report } from "./internal/report.ts"
import { RetainedBytes } from "./internal/retained.ts"
import { type Definition, Served } from "./internal/served.ts"
import {
  type Client,
  type Limits as SocketLimits,
  type Runtime,
  SocketServer,
  type Transport
} from "./internal/socket.ts"
import { isTraced } from "./internal/tracing.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Serializer from "./Serializer.ts"
import { FilterParameters } from "./Telemetry.ts"

/**
 * What is known of a client that wants to connect: Phoenix's `params` and `connect_info` in one.
 *
 * What has to be set up for it is set up where the socket is mounted: `session`, `authToken` and `custom`.
 */
export interface ConnectInfo {
  /**
   * Query parameters, `a[b]=c` nested as phoenix.js sends it, and path variables, which win. Every leaf is a string; an
   * object has no prototype.
   */
  readonly params: { readonly [name: string]: unknown }
  /** `websocket`, or `longpoll`. */
  readonly transport: string
  /** All headers of the request by their name in lower case: `x-...`, `sec-websocket-...`, `traceparent` among them. */
  readonly headers: { readonly [name: string]: string | undefined }
  /** The `user-agent` header. */
  readonly userAgent: string | undefined
  /** Where the request went to. */
  readonly uri: Uri
  /** The other end of the connection, as far as the server sees it. */
  readonly peerData: PeerData
  /**
   * The session of the web application, read as the mount's `session` says; undefined without that, without a session, and
   * where the page did not send the session's CSRF token. That is not a refusal: decide here.
   */
  readonly session: unknown
  /** The `authToken` that phoenix.js was given; undefined if it was not, or if the mount's `authToken` is not set. */
  readonly authToken: string | undefined
  /** The mount's `connectInfo`, as it is. */
  readonly custom: { readonly [name: string]: unknown }
}

/** The address of a request, in parts. */
export interface Uri {
  readonly scheme: "http" | "https"
  /** Without the port; empty where the request did not say. */
  readonly host: string
  readonly port: number
  readonly path: string
  /** Without the question mark. */
  readonly query: string
}

/**
 * The other end of a connection. Behind a proxy `address` is the client's where the application says whom to believe
 * (`HttpMiddleware.xForwardedHeaders`, with `middleware` of the WebSocket transport); the other two are the proxy's.
 */
export interface PeerData {
  readonly address: string | undefined
  readonly port: number | undefined
  /** The client's TLS certificate in DER, where the server asks for one. */
  readonly sslCert: Uint8Array | undefined
}

/** A client that is welcome; made by {@link accept}. */
export interface Accepted<in A> {
  readonly id: string | undefined
  readonly assigns: Context.Context<A>
}

/**
 * Accepts a client.
 *
 * @param options - `id`: names the connection, so that `Endpoint.disconnect` finds it, on every node; several connections
 *   may share one (default: none). No channel must serve it as a topic. `assigns`: the services that its channels ask for.
 *
 * @example
 * ```ts
 * import { Context } from "effect"
 * import { Socket } from "effect-channels"
 *
 * class CurrentUser extends Context.Service<CurrentUser, { readonly id: string }>()("app/CurrentUser") {}
 *
 * const accepted = Socket.accept({ id: "user_socket:42", assigns: Context.make(CurrentUser, { id: "42" }) })
 * ```
 */
export const accept: {
  // Two signatures: with one, the expected type would decide what was supplied, also where nothing is.
  (options?: { readonly id?: string | undefined; readonly assigns?: undefined }): Accepted<never>
  <A>(options: { readonly id?: string | undefined; readonly assigns: Context.Context<A> }): Accepted<A>
} = <A>(
  options?: { readonly id?: string | undefined; readonly assigns?: Context.Context<A> | undefined }
): Accepted<A> => ({ id: options?.id, assigns: options?.assigns ?? (Context.empty() as Context.Context<A>) })

/** A client that is not welcome: it gets a 403, unless the mount's `errorHandler` answers something else. */
export class Refused extends Data.TaggedError("Refused")<{ readonly reason?: unknown }> {
  override get message(): string {
    return `the connection was refused${this.reason === undefined ? "" : `: ${Formatter.format(this.reason)}`}`
  }
}

/** Refuses a client; `reason` is for logs and for the mount's `errorHandler`, and not sent. */
export const refuse = (reason?: unknown): Refused => new Refused({ reason })

/** Any channel, where only its topic and needs matter. */
export interface AnyChannel {
  readonly topic: string
  readonly contract: unknown
  readonly handler: Context.Key<Channel.Handler<string>, Definition>
}

/** The assigns that all channels of a socket ask for. */
export type Assigns<Channels extends ReadonlyArray<AnyChannel>> = Channel.Assigns<Channels[number]["contract"]>

/** The implementations that mounting a socket requires. */
export type ChannelHandlers<Channels extends ReadonlyArray<AnyChannel>> = {
  readonly [K in keyof Channels]: Channels[K] extends { readonly topic: infer T extends string } ? Channel.Handler<T>
    : never
}[number]

/** What decides about a client. */
export type Connect<A, R = never> = (info: ConnectInfo) => Effect.Effect<Accepted<A>, Refused, R>

/** The service that stands for the `connect` of a socket; `toLayer` provides it, mounting requires it. */
export interface Handler<Name extends string> {
  readonly "~effect-channels/Socket/Handler": Name
}

/** Options of {@link make}. */
export interface Options<Channels extends ReadonlyArray<AnyChannel>> {
  /** The channels that clients can join; the first whose topic matches serves it. */
  readonly channels: Channels
  /**
   * Limits the topics that one connection may have joined; one more is answered `too many channels joined`. Infinity for no
   * limit; default 100.
   */
  readonly maxChannels?: number | undefined
  /**
   * How often one connection may join; a join too many is answered `too many joins`, and phoenix.js tries again later. False
   * for no limit; default a burst of 200, then 20 a second. Where `maxChannels` is more than 200, the burst is as large, so
   * that a page with so many topics can join them all again at once, and a tenth of it is added every second.
   */
  readonly maxJoinRate?: Rate | false | undefined
  /**
   * Limits the messages that one connection may send; one too many is answered `too many messages`, and not handled.
   * Heartbeats are not counted, nor is the leave that ends a channel. False for no limit; default a burst of 50,000, then as
   * many a second, because only the application knows what its clients may send.
   */
  readonly maxMessageRate?: Rate | false | undefined
  /**
   * Limits the heartbeats that one connection may send; one too many is answered `too many heartbeats`. False for no limit;
   * default a burst of 100, then 10 a second.
   */
  readonly maxHeartbeatRate?: Rate | false | undefined
  /**
   * Limits the bytes of UTF-8 of a `ref` or `join_ref` that is a string; other JSON, which no known client sends, may have
   * 255 at most. A frame with a larger one is malformed, and the connection is closed with 1011. At most 4,096; default
   * 1,024.
   */
  readonly maxRefBytes?: number | undefined
  /**
   * Limits the bytes of UTF-8 of a topic; a message to a longer one is answered `topic too long`. At most 65,536; default
   * 1,024.
   */
  readonly maxTopicBytes?: number | undefined
  /**
   * Limits the bytes of UTF-8 of an event's name; a message with a longer one is answered `event too long`. At most 65,536;
   * default 4,096.
   */
  readonly maxEventBytes?: number | undefined
  /**
   * Limits the values in a message: a list counts as many as it contains, an object twice as many, because of their names,
   * and each counts one if it is empty. They are counted in text frames of more than 2,048 bytes, before these are read,
   * because values take time and memory. A client that sends more is closed with 1009. The limit holds for the formats of
   * this library. Infinity for no limit; default 120,000.
   */
  readonly maxValues?: number | undefined
  /**
   * Limits the bytes of messages of one client that wait, for all its channels together; beyond, nothing more is read from
   * it. A larger message is taken if nothing waits. Infinity for no limit; default 4,000,000.
   */
  readonly maxInboxBytes?: number | undefined
  /**
   * Limits the bytes of decoded messages, waiting or in hand, that all clients of a mount may have together. JSON can take 24
   * times as much memory as it has bytes. A connection whose next message does not fit waits until others have been handled;
   * meanwhile its heartbeats are answered. 4,096 bytes of each connection are not counted, and another quarter is there for
   * small messages, of which nobody may have more than is left, so that they hardly ever wait for those of others. Infinity
   * for no limit; default a hundredth of the largest heap that Node may have, 5 MB of 512 MB.
   */
  readonly maxSharedInboxBytes?: number | undefined
  /**
   * About how much memory the messages of broadcasts and subscriptions may take that wait for the channels of a mount: those
   * of intercepted events, and those for `handleInfo`. A message that waits for many counts once. Where it is more, those
   * channels crash that are furthest behind, and their clients join again; one for which no more than 65,536 bytes wait does
   * not. Infinity for no limit; default an eighth of the largest heap that Node may have, 64 MB of 512 MB.
   */
  readonly maxSharedInfoBytes?: number | undefined
  /**
   * Limits the time for which a connection is not read while its messages wait for a full channel. Then it is read on, because
   * of its heartbeats, and messages that do not fit are answered `too many messages`. "Infinity" for as long as it takes;
   * default 5 seconds.
   */
  readonly maxPause?: Duration.Input | undefined
  /** Wire formats by the version that clients ask for; default V1 and V2. */
  readonly serializers?: Serializer.Serializers | undefined
  /** At which level it is logged that a client has connected or was refused; false for not at all. Default `Info`. */
  readonly log?: LogLevel.Severity | false | undefined
}

/** How often something may happen: `burst` times at once, and from then on `perSecond` times in a second. */
export interface Rate extends Limits.Rate {}

/** A socket: its channels and limits. Made by {@link make}. */
export interface Socket<Name extends string, Channels extends ReadonlyArray<AnyChannel>> {
  readonly name: Name
  readonly channels: Channels
  readonly maxChannels: number
  readonly maxJoinRate: Rate | undefined
  readonly maxMessageRate: Rate | undefined
  /** @internal */
  readonly limits: ConnectionLimits
  /** @internal */
  readonly maxSharedInboxBytes: number
  /** @internal */
  readonly maxSharedInfoBytes: number
  readonly serializers: Serializer.Serializers
  readonly log: LogLevel.Severity | false
  /** The key under which `toLayer` provides the implementation. */
  readonly handler: Context.Key<Handler<Name>, Connect<never>>
  /**
   * Says who may connect: `connect` runs for every client, before the WebSocket is opened. It returns {@link accept} with
   * the assigns of all channels, or fails with {@link refuse}; when it dies, the client gets HTTP 500. Its Scope closes when
   * it is done.
   */
  readonly layer: <RI = never>(
    connect: Connect<Assigns<Channels>, RI>
  ) => Layer.Layer<Handler<Name>, never, Exclude<RI, Scope.Scope>>
  /** As `layer`, where something has to be done or looked up first, once, when the Layer is built. */
  readonly toLayer: <RI = never, EX = never, RX = never>(
    build: Effect.Effect<Connect<Assigns<Channels>, RI>, EX, RX>
  ) => Layer.Layer<Handler<Name>, EX, Exclude<RX | RI, Scope.Scope>>
}

/** The limits of a connection; see {@link Options}. */
interface ConnectionLimits extends SocketLimits {}

/** The rate of joins where none is set: a page may join all its topics at once, and again soon. */
const joinRateFor = (maxChannels: number): Rate | false =>
  maxChannels === Infinity
    ? false
    : { perSecond: Math.max(20, maxChannels / 10), burst: Math.max(200, maxChannels) }

const limitsOf = (options: Options<ReadonlyArray<AnyChannel>>): ConnectionLimits => {
  const maxChannels = wholeNumber("maxChannels", given(options.maxChannels, 100), { unlimited: true })
  const maxRefBytes = wholeNumber("maxRefBytes", given(options.maxRefBytes, 1024), { max: 4096, unit: "bytes" })
  const maxTopicBytes = wholeNumber("maxTopicBytes", given(options.maxTopicBytes, 1024), { max: 65_536, unit: "bytes" })
  const maxEventBytes = wholeNumber("maxEventBytes", given(options.maxEventBytes, 4096), { max: 65_536, unit: "bytes" })
  return {
    maxChannels,
    maxJoinRate: Limits.rateOf("maxJoinRate", given(options.maxJoinRate, joinRateFor(maxChannels))),
    maxMessageRate: Limits.rateOf(
      "maxMessageRate",
      given(options.maxMessageRate, { perSecond: 50_000, burst: 50_000 })
    ),
    maxHeartbeatRate: Limits.rateOf("maxHeartbeatRate", given(options.maxHeartbeatRate, { perSecond: 10, burst: 100 })),
    maxRefBytes,
    maxTopicBytes,
    maxEventBytes,
    // No character takes more than three bytes.
    shortText: Math.floor(Math.min(maxRefBytes, maxTopicBytes, maxEventBytes) / 3),
    maxValues: wholeNumber("maxValues", given(options.maxValues, 120_000), { unlimited: true }),
    maxInboxBytes: wholeNumber("maxInboxBytes", given(options.maxInboxBytes, 4_000_000), {
      unit: "bytes",
      unlimited: true
    }),
    maxPause: duration("maxPause", given(options.maxPause, "5 seconds"), { unlimited: true })
  }
}

/** Checks the formats of a socket. A requirement that cannot be read is told now, and not to the first client. */
const serializersOf = (serializers: Serializer.Serializers): Serializer.Serializers => {
  if (!Array.isArray(serializers) || serializers.length === 0) {
    throw new OptionError("serializers", serializers, "a list of [serializer, requirement] that is not empty")
  }
  for (const entry of serializers as ReadonlyArray<unknown>) {
    if (!isSerializer(entry)) {
      throw new OptionError(
        "serializers",
        entry,
        `[serializer, requirement] in each place, such as [Serializer.v2, "~> 2.0.0"]`
      )
    }
    Serializer.negotiate([entry], "0.0.0")
  }
  return serializers.map(([serializer, requirement]) => [soundOf(serializer), requirement])
}

/** A format of the application: what it returns in place of a Result is a fault of its own, and becomes no frame. */
const soundOf = (serializer: Serializer.Serializer): Serializer.Serializer => {
  if (serializer === Serializer.v1 || serializer === Serializer.v2) return serializer
  const check = <A, E>(method: string, result: Result.Result<A, E>, isRight: (value: A) => boolean) => {
    if (Result.isResult(result) && (Result.isFailure(result) || isRight(result.success))) return result
    disown(result)
    throw new TypeError(
      `${method} of the serializer ${serializer.name} must return a Result, with what Serializer says`
    )
  }
  return {
    name: serializer.name,
    decode: (data, opcode) => check("decode", serializer.decode(data, opcode), Predicate.isObject),
    encode: (message) => check("encode", serializer.encode(message), isFrame),
    fastlane: (broadcast) => check("fastlane", serializer.fastlane(broadcast), isFrame)
  }
}

const isFrame = (frame: unknown): boolean => typeof frame === "string" || frame instanceof Uint8Array

const isSerializer = (entry: unknown): entry is Serializer.Serializers[number] => {
  if (!Array.isArray(entry) || typeof entry[1] !== "string") return false
  const serializer: unknown = entry[0]
  if (typeof serializer !== "object" || serializer === null) return false
  const { decode, encode, fastlane, name } = serializer as Partial<Serializer.Serializer>
  return typeof name === "string" && [decode, encode, fastlane].every((method) => typeof method === "function")
}

const channelsOf = <Channels extends ReadonlyArray<AnyChannel>>(channels: Channels): Channels => {
  const isChannel = (channel: unknown) => typeof channel === "object" && channel !== null && "handler" in channel
  if (!Array.isArray(channels) || !channels.every(isChannel)) {
    throw new OptionError("channels", channels, "a list of channels, each made by Channel.make")
  }
  const topics = channels.map(({ topic }) => topic)
  const twice = topics.find((topic, index) => topics.indexOf(topic) !== index)
  if (twice === undefined) return channels
  throw new OptionError("channels", twice, "a list in which each topic stands once: the second is never reached")
}

let made = 0

/**
 * Describes a socket.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Channel, Socket } from "effect-channels"
 *
 * const Lobby = Channel.make("lobby")
 * const UserSocket = Socket.make("user_socket", { channels: [Lobby] })
 * const UserSocketLive = UserSocket.layer(({ params }) =>
 *   params["token"] === "open sesame" ? Effect.succeed(Socket.accept()) : Effect.fail(Socket.refuse("wrong token"))
 * )
 * ```
 *
 * @param name - for logs, and to tell sockets of one application apart
 */
export const make = <const Name extends string, const Channels extends ReadonlyArray<AnyChannel>>(
  name: Name,
  options: Options<Channels>
): Socket<Name, Channels> => {
  text("the name of a socket", name)
  if (typeof options !== "object" || options === null) {
    throw new OptionError("options", options, "an object with channels")
  }
  const limits = limitsOf(options)
  const handler = Context.Service<Handler<Name>, Connect<never>>(`effect-channels/Socket/${name}#${++made}`)
  const toLayer = (build: Effect.Effect<Connect<never>>) =>
    Layer.effect(
      handler,
      Effect.contextWith((context: Context.Context<never>) =>
        Effect.map(build, (connect): Connect<never> => (info) => {
          const decision = effectOf(connect(info))
          // One that is there already needs nothing, and giving it a Context would copy that for every client.
          return exitOf(decision) ?? Effect.provideContext(Effect.scoped(decision), context)
        })
      )
    )
  return {
    name,
    channels: channelsOf(options.channels),
    maxChannels: limits.maxChannels,
    maxJoinRate: limits.maxJoinRate,
    maxMessageRate: limits.maxMessageRate,
    limits,
    maxSharedInboxBytes: wholeNumber(
      "maxSharedInboxBytes",
      given(options.maxSharedInboxBytes, Math.floor(getHeapStatistics().heap_size_limit / 100)),
      { unit: "bytes", unlimited: true }
    ),
    maxSharedInfoBytes: wholeNumber(
      "maxSharedInfoBytes",
      given(options.maxSharedInfoBytes, Math.floor(getHeapStatistics().heap_size_limit / 8)),
      { unit: "bytes", unlimited: true }
    ),
    serializers: serializersOf(given(options.serializers, Serializer.defaults)),
    log: level("log", given(options.log, "Info")),
    handler,
    // What `connect` requires is taken from the Context of the Layer, as the type of `toLayer` says.
    layer: erase((connect: Connect<never>) => toLayer(Effect.succeed(callable("connect", connect)))),
    toLayer: erase(toLayer)
  }
}

/**
 * How the connections of a socket are closed when the server stops: some at a time, so that their clients do not all come
 * back at once.
 *
 * - `batchSize`: how many connections are closed in a round; default 10,000.
 * - `batchInterval`: how long to wait between two rounds; default 2 seconds.
 * - `shutdown`: how long all rounds may take; those that are left are closed then. Default 30 seconds.
 *   The HTTP server waits for requests no longer than its own `gracefulShutdownTimeout` (20 seconds): give it more where
 *   the rounds take longer.
 * - `log`: at which level each round is logged; false for not at all. Default `Info`.
 */
export interface DrainerOptions extends DrainOptions {}

/**
 * A socket made ready to take connections: what a transport works with.
 *
 * @internal
 */
export interface Acceptor {
  readonly name: string
  readonly serializers: Serializer.Serializers
  readonly log: LogLevel.Severity | false
  readonly connect: Connect<never>
  readonly runtime: Runtime
  /** Starts the process of a connection, which releases the client's place when it ends. */
  readonly open: (
    transport: Transport,
    serializer: Serializer.Serializer,
    client: Client,
    place?: Place
  ) => SocketServer
  /** Closes all connections with 1012, as the drainer says, and waits until they have ended. The second time it only waits. */
  readonly drain: Effect.Effect<void>
}

/**
 * Puts a socket together with its channels and the node they run on. When the scope closes, all its connections end.
 *
 * @internal
 */
export const acceptor = <Name extends string, Channels extends ReadonlyArray<AnyChannel>>(
  socket: Socket<Name, Channels>,
  drainer: DrainerOptions | false = false
): Effect.Effect<
  Acceptor,
  never,
  Handler<Name> | ChannelHandlers<Channels> | PubSub.PubSub | Process.System | Scope.Scope
> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const system = yield* Process.System
    const meter = socketMeter(socket.name, context)
    const complaints = new Limits.Complaints(system.timers, context)
    const runtime: Runtime = {
      name: socket.name,
      routes: socket.channels.map((channel) => {
        const definition = Context.getOrUndefined(context, channel.handler)
        if (definition === undefined) {
          throw new Error(`socket ${socket.name}: the layer of the channel ${channel.topic} is not provided`)
        }
        return { definition, meter: meter.channel(definition.pattern) }
      }),
      limits: socket.limits,
      inboxes: new SharedBytes(socket.maxSharedInboxBytes),
      retained: new RetainedBytes(socket.maxSharedInfoBytes),
      complaints,
      guard: new Guard(complaints),
      system,
      pubsub: yield* PubSub.PubSub,
      socketGroup: new Group(system, context, `${socket.name} sockets`),
      channelGroup: new Group(system, context, `${socket.name} channels`),
      context,
      meter,
      tracing: isTraced(context)
    }
    for (const { definition, meter } of runtime.routes) {
      const mailboxes = () => mailboxLengths(runtime.channelGroup, definition)
      yield* Effect.acquireRelease(Effect.sync(() => meter.watchMailboxes(mailboxes)), (stop) => Effect.sync(stop))
    }
    const filter: unknown = Context.get(context, FilterParameters)
    if (!isFilter(filter)) {
      report(
        "Warn",
        context,
        "FilterParameters is neither a list of names nor { keep }, so that the log hides all parameters: correct it",
        { socket: socket.name }
      )
    }
    const drain = yield* Effect.cached(drainAll(runtime, drainer))
    yield* Effect.addFinalizer(() =>
      drain.pipe(
        Effect.andThen(Process.shutdownChild(runtime.socketGroup.process)),
        Effect.andThen(Process.shutdownChild(runtime.channelGroup.process))
      )
    )
    return {
      name: socket.name,
      serializers: socket.serializers,
      log: socket.log,
      connect: yield* socket.handler,
      runtime,
      open: (transport, serializer, client, place) => new SocketServer(runtime, transport, serializer, client, place),
      drain
    }
  })

const mailboxLengths = function*(group: Group, definition: Definition): Iterable<number> {
  for (const { behaviour, mailboxLength } of group.children) {
    if (behaviour instanceof Served && behaviour.definition === definition) yield mailboxLength
  }
}
