/**
 * The endpoint: mounts sockets beside an application's own routes, and speaks to their clients from anywhere.
 *
 * The model is Phoenix.Endpoint (https://hexdocs.pm/phoenix/Phoenix.Endpoint.html).
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Config, Context, type Duration, Effect, Layer, Option, Predicate } from "effect"
import type { LazyArg } from "effect/Function"
import {
  HttpMiddleware,
  HttpRouter,
  HttpServer,
  type HttpServerError,
  HttpServerRequest,
  HttpServerResponse
} from "effect/http"
import type { Server } from "node:http"
import * as Admission from "./internal/admission.ts"
import { CurrentServer, prepare } from "./internal/httpServer.ts"
import { mountedAt, remember } from "./internal/mountedPaths.ts"
import { duration, given, object, OptionError, wholeNumber } from "./internal/options.ts"
import { hostOption } from "./internal/origin.ts"
import { routeTo } from "./internal/realPath.ts"
import { Served } from "./internal/served.ts"
import { isCloseCode, SocketServer } from "./internal/socket.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Socket from "./Socket.ts"
import * as LongPoll from "./transport/LongPoll.ts"
import * as WebSocket from "./transport/WebSocket.ts"

/** Options of {@link mount}. Those of both transports may be given here, once; a transport's own win. */
export interface Options extends Admission.TransportOptions {
  /** Where the socket is: clients connect to `<path>/websocket`. It may hold variables (`/ws/:id`), which become params. */
  readonly path: `/${string}`
  /**
   * The host name that pages of this application have, for `checkOrigin: true`. Default: the one the request asks for, which
   * lets pages pass whose name is made to lead here (DNS rebinding); a warning says so once.
   */
  readonly host?: string | undefined
  /** Options of the WebSocket transport, or false to do without; default true. */
  readonly websocket?: boolean | WebSocketOptions | undefined
  /** Options of long polling, which clients fall back to where WebSockets do not get through; default false. */
  readonly longpoll?: boolean | LongPollOptions | undefined
  /**
   * Whether `connect` gets the `authToken` of phoenix.js, which travels in `Sec-WebSocket-Protocol`, or in a header of long
   * polling, and so stays out of the logs of proxies; default false.
   */
  readonly authToken?: boolean | undefined
  /** How connections are closed when the server stops; false for all at once. */
  readonly drainer?: Socket.DrainerOptions | false | undefined
}

/** Options of the WebSocket transport. */
export interface WebSocketOptions extends WebSocket.Options {}

/** Options of the long-poll transport. */
export interface LongPollOptions extends LongPoll.Options {}

/** Where `connect` gets the session of a web application from. */
export interface SessionOptions extends Admission.SessionOptions {}

/**
 * Mounts a socket on the `HttpRouter` of an application.
 *
 * The Layer asks for the socket's `layer`, for those of all its channels, and for a `PubSub.layer`. Provide the latter
 * outside of `HttpRouter.serve`, so that the rest of the application shares it. When the Layer's scope closes, all
 * connections are closed with 1012, which makes clients connect again.
 *
 * On the server of {@link layer} handshakes of WebSockets are answered before the router and its middleware see them; see
 * `middleware` of {@link WebSocketOptions}. Long polling is ordinary HTTP, and passes both.
 *
 * With a Tracer, Effect's HTTP server puts the whole URL of what passes the router into a span of its own, and with it the
 * params of phoenix.js, tokens among them: switch that span off for `path` (`HttpMiddleware.TracerDisabledWhen`), as
 * docs/telemetry.md shows.
 *
 * @example
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Channel, Endpoint, PubSub, Socket } from "effect-channels"
 * import { createServer } from "node:http"
 *
 * const Lobby = Channel.make("lobby")
 * const LobbyLive = Lobby.layer((lobby) =>
 *   Effect.succeed({ handleIn: (_event, payload) => lobby.broadcast("shout", payload) })
 * )
 * const UserSocket = Socket.make("user_socket", { channels: [Lobby] })
 * const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))
 *
 * const Http = HttpRouter.serve(Endpoint.mount(UserSocket, { path: "/socket" })).pipe(
 *   Layer.provide([LobbyLive, UserSocketLive]),
 *   Layer.provide(PubSub.layer),
 *   Layer.provide(Endpoint.layer(createServer, { port: 4000 }))
 * )
 * ```
 */
export const mount = <Name extends string, Channels extends ReadonlyArray<Socket.AnyChannel>>(
  socket: Socket.Socket<Name, Channels>,
  options: Options
): Layer.Layer<
  never,
  never,
  | HttpRouter.HttpRouter
  | Socket.Handler<Name>
  | Socket.ChannelHandlers<Channels>
  | PubSub.PubSub
  | Process.System
> =>
  Layer.effectDiscard(
    Effect.gen(function*() {
      checkOptions(socket.name, options)
      const router = yield* HttpRouter.HttpRouter
      const acceptor = yield* Socket.acceptor(socket, given(options.drainer, {}))
      const server = yield* CurrentServer
      const config = yield* HttpRouter.RouterConfig
      if (server === undefined && Option.isSome(yield* Effect.serviceOption(HttpServer.HttpServer))) {
        const line = "the HTTP server will wait for open connections when it stops: use Endpoint.layer"
        yield* Effect.annotateLogs(Effect.logWarning(line), { socket: socket.name })
      }
      const { authToken = false, host } = options
      const { longpoll = false, websocket = true } = options
      // One that is given as undefined is not given.
      const withShared = <O extends Admission.TransportOptions>(own: O): O => ({
        ...own,
        checkOrigin: given(own.checkOrigin, options.checkOrigin),
        connectInfo: given(own.connectInfo, options.connectInfo),
        connectTimeout: given(own.connectTimeout, options.connectTimeout),
        maxConnections: given(own.maxConnections, options.maxConnections),
        maxConnectionsPerAddress: given(own.maxConnectionsPerAddress, options.maxConnectionsPerAddress),
        session: given(own.session, options.session),
        transportLog: given(own.transportLog, options.transportLog)
      })
      const settingsOf = {
        websocket: websocket === false ? undefined : withShared<WebSocketOptions>(websocket === true ? {} : websocket),
        longpoll: longpoll === false ? undefined : withShared<LongPollOptions>(longpoll === true ? {} : longpoll)
      }
      const comparesHosts = Object.values(settingsOf).some((settings) =>
        settings !== undefined && given(settings.checkOrigin, true) === true
      )
      if (host === undefined && comparesHosts) {
        const line =
          "checkOrigin compares the origin of a page with the Host header of its own request, which DNS rebinding "
          + "gets past: set host of the mount, or checkOrigin to a list"
        yield* Effect.annotateLogs(Effect.logWarning(line), { socket: socket.name, path: options.path })
      }
      /** Adds a route, and tells its whole path, where that is known. */
      const add = Effect.fnUntraced(function*(transport: string, path: `/${string}`, handler: Admission.Route) {
        const below = HttpRouter.prefixPath(path, options.path) as HttpRouter.PathInput
        const route = routeTo(
          router,
          below,
          // One Effect for all requests.
          Effect.contextWith((
            context: Context.Context<HttpServerRequest.HttpServerRequest | HttpRouter.RouteContext>
          ) =>
            handler(
              Context.get(context, HttpServerRequest.HttpServerRequest),
              Context.get(context, HttpRouter.RouteContext).params
            )
          ).pipe(
            // The HTTP log line would come when the connection is closed.
            HttpMiddleware.withLoggerDisabled,
            Admission.logCrash(acceptor.runtime)
          )
        )
        const whole = route.path ?? below
        const place = server ?? router
        yield* Effect.catchDefect(route.add, (defect) => {
          if (!Predicate.isError(defect) || !defect.message.includes("already declared")) return Effect.die(defect)
          const other = mountedAt(place, whole)
          const there = other === undefined
            ? "there is another route there"
            : `the ${other.transport} of the socket ${other.socket} is mounted there`
          return Effect.die(
            new OptionError(`socket ${socket.name}: path of ${transport}`, whole, `one of its own, because ${there}`)
          )
        })
        yield* Effect.acquireRelease(
          Effect.sync(() => remember(place, whole, { socket: socket.name, transport })),
          (forget) => Effect.sync(forget)
        )
        return route.path
      })
      if (settingsOf.websocket !== undefined) {
        const settings = settingsOf.websocket
        const { route, take } = yield* WebSocket.make(acceptor, { authToken, host }, settings)
        const path = yield* add("websocket", settings.path ?? WebSocket.defaults.path, route)
        if (server !== undefined) {
          const direct = settings.middleware !== true && path !== undefined ? take : undefined
          if (settings.middleware !== true && path === undefined) {
            const line = "the prefix of the router is not known, so that handshakes pass its middleware"
            yield* Effect.annotateLogs(Effect.logWarning(line), { socket: socket.name, path: options.path })
          }
          if (path !== undefined) {
            yield* Effect.acquireRelease(
              Effect.sync(() => server.handshakes.add(path, direct, config)),
              (remove) => Effect.sync(remove)
            )
          }
        }
      }
      if (settingsOf.longpoll !== undefined) {
        const settings = settingsOf.longpoll
        const handler = yield* LongPoll.make(acceptor, { authToken, host }, settings)
        yield* add("longpoll", settings.path ?? LongPoll.defaults.path, handler)
      }
    })
  )

const isPath = (path: unknown): boolean => typeof path === "string" && path.startsWith("/")

/** Checks the options of a mount that are for more than one transport; each transport checks its own. */
const checkOptions = (socket: string, options: Options): void => {
  const owner = `socket ${socket}`
  const { authToken, host, longpoll, path, websocket } = options
  const check = (option: string, value: unknown, isAllowed: boolean, allowed: string) => {
    if (!isAllowed) throw new OptionError(`${owner}: ${option}`, value, allowed)
  }
  check("path", path, isPath(path), `a path that begins with a slash, such as "/socket"`)
  if (host !== undefined) hostOption(`${owner}: host`, host)
  check("authToken", authToken, authToken === undefined || typeof authToken === "boolean", "true or false")
  for (const [name, transport] of Object.entries({ websocket, longpoll })) {
    const isOptions = Predicate.isObject(transport) && !Array.isArray(transport)
    const isGiven = transport !== undefined
    check(
      name,
      transport,
      !isGiven || typeof transport === "boolean" || isOptions,
      "true, false, or an object of options"
    )
    if (!isOptions) continue
    const { path } = transport as { readonly path?: unknown }
    check(
      `${name}: path`,
      path,
      path === undefined || isPath(path),
      `a path that begins with a slash, such as "/${name}"`
    )
  }
  Admission.checkOptions(owner, options)
}

/**
 * Where a server listens, and how it closes: as `NodeHttpServer.layer` has it. `gracefulShutdownTimeout` is how long HTTP
 * requests in hand may take when it stops; default 20 seconds.
 */
export interface ServerOptions extends NodeHttpServer.Options {}

/** What the server of {@link layer} provides, as does `NodeHttpServer.layer`. */
export type ServerServices = Layer.Success<ReturnType<typeof NodeHttpServer.layer>>

/**
 * The HTTP server of an application with sockets: what `HttpRouter.serve` asks for. Use it in place of
 * `NodeHttpServer.layer`; it does what cannot be done from within a route.
 *
 * - Handshakes of WebSockets are answered before the router and its middleware see them, as those of Phoenix are before its
 *   plugs. It makes connecting one and a half times as fast, and of a connection nothing is kept that belongs to its request.
 *   Who may connect is said by `connect`, `checkOrigin` and the limits of the mount; `middleware` of
 *   {@link WebSocketOptions} has a mount go through the router all the same.
 * - When the server is told to close, sockets are closed with 1012 at once, so that only HTTP requests use the time that
 *   the server grants to what is under way.
 * - Connections that have not made a request by then are cut, also those that have not finished the handshake of TLS; Node
 *   would wait for them without end. So is a request of which nothing has come for a second, and that is not complete.
 * - Connections of handshakes that are refused are closed after 5 seconds at the latest; Node would leave them to clients,
 *   which may never close their half.
 * - Upgrades that neither a mount nor a route wants are left to other "upgrade" listeners of the server, such as those of a
 *   dev server; no other upgrades are. They are answered 404 where nobody has answered after 30 seconds.
 * - Frames that come in one packet with the handshake are kept.
 * - Requests that come before the application is there to answer them get 503; Node would never answer.
 *
 * @example
 * ```ts
 * import { Endpoint } from "effect-channels"
 * import { createServer } from "node:http"
 *
 * const ServerLive = Endpoint.layer(createServer, { port: 4000 })
 * ```
 *
 * @param evaluate - makes the server, of `node:http` or `node:https`
 */
export const layer = (
  evaluate: LazyArg<Server>,
  options: ServerOptions
): Layer.Layer<ServerServices, HttpServerError.ServeError> =>
  Layer.unwrap(Effect.gen(function*() {
    const { gracefulShutdownTimeout, port } = object("options of Endpoint.layer", options) as {
      readonly port?: unknown
    } & ServerOptions
    if (port !== undefined) wholeNumber("port", port, { min: 0, max: 65_535 })
    if (gracefulShutdownTimeout !== undefined) {
      duration("gracefulShutdownTimeout", gracefulShutdownTimeout, { min: 0, unlimited: true })
    }
    const server = evaluate()
    const prepared = yield* prepare(server)
    return Layer.mergeAll(
      Layer.effect(HttpServer.HttpServer, Effect.map(NodeHttpServer.make(() => server, options), prepared.serve)),
      NodeHttpServer.layerHttpServices,
      Layer.succeed(CurrentServer, prepared)
    )
  }))

/** As {@link layer}, with options that are read from the configuration. */
export const layerConfig = (
  evaluate: LazyArg<Server>,
  options: Config.Wrap<ServerOptions>
): Layer.Layer<ServerServices, HttpServerError.ServeError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), (options) => layer(evaluate, options)))

/**
 * Tells a load balancer if it should send new clients to this node. It should not once the node is about to stop, nor while
 * messages do not reach the other nodes, or do not come from them.
 *
 * - `layer`: keeps it. Provide it to both of the others, once.
 * - `route`: answers 200 with `ready`, or 503 with `stopping`, `reconnecting` or `degraded`. It belongs into
 *   `HttpRouter.serve`.
 * - `announce`: when its scope closes the node is `stopping`; after `delay`, in which load balancers find that out, the rest
 *   goes on. Put it on top of `HttpRouter.serve`, so that its end comes before the HTTP server's: until then the server takes
 *   connections, and nobody is turned away. Default 5 seconds.
 *
 * A node that is not ready serves its clients as ever: do not restart it for that.
 *
 * @example
 * ```ts
 * import { Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Endpoint } from "effect-channels"
 *
 * // Beside the mounts of the application's sockets.
 * const Http = HttpRouter.serve(Endpoint.Readiness.route("/ready"))
 *
 * const Main = Endpoint.Readiness.announce("10 seconds").pipe(
 *   Layer.provide(Http),
 *   Layer.provide(Endpoint.Readiness.layer)
 * )
 * ```
 */
export class Readiness
  extends Context.Service<Readiness, { isStopping: boolean }>()("effect-channels/Endpoint/Readiness")
{
  static readonly layer: Layer.Layer<Readiness> = Layer.sync(Readiness, () => ({ isStopping: false }))

  static readonly route = (
    path: `/${string}`
  ): Layer.Layer<never, never, HttpRouter.HttpRouter | Readiness | PubSub.PubSub> =>
    HttpRouter.use((router) =>
      Effect.gen(function*() {
        if (!isPath(path)) throw new OptionError("path of Readiness.route", path, `a path, such as "/ready"`)
        const readiness = yield* Readiness
        const pubsub = yield* PubSub.PubSub
        const answer = Effect.map(pubsub.status, (status) => {
          const problem = readiness.isStopping ? "stopping" : status === "connected" ? undefined : status
          return HttpServerResponse.text(problem ?? "ready", { status: problem === undefined ? 200 : 503 })
        })
        yield* router.add("GET", path, answer)
      })
    )

  static readonly announce = (delay: Duration.Input = "5 seconds"): Layer.Layer<never, never, Readiness> =>
    Layer.effectDiscard(Effect.gen(function*() {
      const millis = duration("delay of Readiness.announce", delay, { min: 0 })
      const readiness = yield* Readiness
      yield* Effect.addFinalizer(() =>
        Effect.andThen(Effect.sync(() => void (readiness.isStopping = true)), Effect.sleep(millis))
      )
    }))
}

/**
 * Broadcasts to everybody on a topic, on every node, from anywhere.
 *
 * For a channel with a contract prefer its own `broadcast`, which knows the payloads.
 *
 * @param payload - an object, or a `Uint8Array` for a binary frame
 */
export const broadcast = (
  topic: string,
  event: string,
  payload: unknown
): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> =>
  PubSub.broadcast(topic, Message.broadcast(topic, event, payload))

/** As {@link broadcast}, but not to the channel or subscriber `from`. */
export const broadcastFrom = (
  from: Process.Pid,
  topic: string,
  event: string,
  payload: unknown
): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> =>
  PubSub.broadcastFrom(from, topic, Message.broadcast(topic, event, payload))

/** As {@link broadcast}, to the clients of this node only. */
export const localBroadcast = (
  topic: string,
  event: string,
  payload: unknown
): Effect.Effect<void, never, PubSub.PubSub> => PubSub.localBroadcast(topic, Message.broadcast(topic, event, payload))

/** As {@link broadcastFrom}, to the clients of this node only. */
export const localBroadcastFrom = (
  from: Process.Pid,
  topic: string,
  event: string,
  payload: unknown
): Effect.Effect<void, never, PubSub.PubSub> =>
  PubSub.localBroadcastFrom(from, topic, Message.broadcast(topic, event, payload))

/** A connection, as {@link sockets} lists it. */
export interface SocketInfo {
  /** The process of the connection. */
  readonly pid: Process.Pid
  /** The name of the socket, as given to `Socket.make`. */
  readonly socket: string
  readonly id: string | undefined
  /** `websocket` or `longpoll`. */
  readonly transport: string
  /** The version of the protocol, such as `V2`. */
  readonly serializer: string
}

/** A channel, as {@link channels} lists it. */
export interface ChannelInfo {
  /** The process of the channel. */
  readonly pid: Process.Pid<unknown>
  readonly topic: string
  /** The pattern of the channel that serves the topic. */
  readonly channel: string
  readonly status: "joining" | "joined" | "leaving"
}

/**
 * All connections of this node, for a look at a running system.
 *
 * The model is `Phoenix.Debug.list_sockets/0`.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Endpoint } from "effect-channels"
 *
 * const overview = Effect.gen(function*() {
 *   for (const { id, pid, transport } of yield* Endpoint.sockets) {
 *     const channels = yield* Endpoint.channels(pid)
 *     yield* Effect.logInfo(id ?? "anonymous", transport, channels.map(({ topic }) => topic))
 *   }
 * })
 * ```
 */
export const sockets: Effect.Effect<ReadonlyArray<SocketInfo>, never, Process.System> = Effect.map(
  Process.list,
  (pids) => pids.flatMap((pid) => socketInfo(Process.fromPid(pid).behaviour) ?? [])
)

/** The channels of a connection; none for a process that is no connection, or has ended (`Phoenix.Debug.list_channels/1`). */
export const channels = (socket: Process.Pid): Effect.Effect<ReadonlyArray<ChannelInfo>> =>
  Effect.sync(() => {
    const { behaviour } = Process.fromPid(socket)
    return behaviour instanceof SocketServer ? behaviour.list() : []
  })

/** The connection of a channel; undefined for a process that is no channel, or has ended (`Phoenix.Debug.socket/1`). */
export const socketOf = (channel: Process.Pid): Effect.Effect<SocketInfo | undefined> =>
  Effect.sync(() => {
    const { behaviour } = Process.fromPid(channel)
    return behaviour instanceof Served ? socketInfo(behaviour.connection) : undefined
  })

const socketInfo = (behaviour: object): SocketInfo | undefined =>
  behaviour instanceof SocketServer
    ? {
      pid: behaviour.pid,
      socket: behaviour.runtime.name,
      id: behaviour.id,
      transport: behaviour.transport.name,
      serializer: behaviour.serializer.name
    }
    : undefined

/**
 * Closes all connections with an id, on every node: log a user out, for example. Clients connect again, and are asked for
 * their token again.
 *
 * @param id - as given to `Socket.accept`. It is a topic: give it a prefix that no channel serves, or a client that may
 *   broadcast there can disconnect others.
 * @param options - `code`: the close code of WebSockets, one that RFC 6455 lets a server send (1000 to 1003, 1007 to 1009,
 *   1011 to 1014) or 3000 to 4999; default 1001. phoenix.js connects again after each but 1000.
 */
export const disconnect = (
  id: string,
  options: { readonly code?: number | undefined } = {}
): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> => {
  const { code } = options
  if (code === undefined) return broadcast(id, "disconnect", {})
  if (isCloseCode(code)) return broadcast(id, "disconnect", { code })
  throw new OptionError("code", code, "a close code: 1000 to 1003, 1007 to 1009, 1011 to 1014, or 3000 to 4999")
}
