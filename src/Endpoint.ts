/**
 * The endpoint: mounts sockets beside an application's own routes, and speaks to their clients from anywhere.
 *
 * The model is Phoenix.Endpoint (https://hexdocs.pm/phoenix/Phoenix.Endpoint.html).
 */
import { Effect, Layer } from "effect"
import { HttpMiddleware, HttpRouter } from "effect/http"
import type { Server } from "node:http"
import { prepare } from "./internal/httpServer.ts"
import * as Message from "./Message.ts"
import type * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Socket from "./Socket.ts"
import * as WebSocket from "./transport/WebSocket.ts"

/** Options of {@link mount}. */
export interface Options {
  /** Where the socket is: clients connect to `<path>/websocket`. It may hold variables (`/ws/:id`), which become params. */
  readonly path: `/${string}`
  /** The host name that pages of this application have, for `checkOrigin: true`; default: the one the request asks for. */
  readonly host?: string | undefined
  /** Options of the WebSocket transport, or false to do without; default true. */
  readonly websocket?: boolean | WebSocket.Options | undefined
  /** Long polling, which clients fall back to where WebSockets do not get through; not there yet. */
  readonly longpoll?: false | undefined
}

/** Options of the WebSocket transport. */
export type WebSocketOptions = WebSocket.Options

/**
 * Mounts a socket on the `HttpRouter` of an application.
 *
 * The Layer asks for the socket's `layer`, for those of all its channels, and for a `PubSub.layer`. Provide the latter
 * outside of `HttpRouter.serve`, so that the rest of the application shares it. When the Layer's scope closes, all
 * connections are closed with 1012, which makes clients connect again. Give the HTTP server to {@link prepareServer}:
 * otherwise it first waits for open connections to end by themselves, for 20 seconds, and WebSockets do not.
 *
 * @example
 * ```ts
 * import { NodeHttpServer } from "@effect/platform-node"
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
 *   Layer.provide(NodeHttpServer.layer(() => Endpoint.prepareServer(createServer()), { port: 4000 }))
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
      const router = yield* HttpRouter.HttpRouter
      const acceptor = yield* Socket.acceptor(socket)
      const { websocket = true } = options
      if (websocket === false) return
      const settings = websocket === true ? {} : websocket
      const handler = yield* WebSocket.make(acceptor, options.host, settings)
      const path = HttpRouter.prefixPath(settings.path ?? WebSocket.defaults.path, options.path)
      yield* router.add("*", path as HttpRouter.PathInput, (request) =>
        // The HTTP log line would come when the connection is closed.
        HttpMiddleware.withLoggerDisabled(
          Effect.flatMap(HttpRouter.params, (params) => handler(request, params))
        ))
    })
  )

/**
 * Prepares an HTTP(S) server to carry sockets, and returns it. Use it for the server that is given to
 * `NodeHttpServer.layer`; it does three things that cannot be done from within a route.
 *
 * - When the server is told to close, sockets are closed with 1012 at once, so that only HTTP requests use the time that
 *   the server grants to what is under way.
 * - Connections that have not made a request by then are cut; Node would wait for them without end.
 * - Frames that come in one packet with the handshake are kept.
 *
 * @example
 * ```ts
 * import { NodeHttpServer } from "@effect/platform-node"
 * import { Endpoint } from "effect-channels"
 * import { createServer } from "node:http"
 *
 * const ServerLive = NodeHttpServer.layer(() => Endpoint.prepareServer(createServer()), { port: 4000 })
 * ```
 */
export const prepareServer: <S extends Server>(server: S) => S = prepare

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

/**
 * Closes all connections with an id, on every node, with code 1001: log a user out, for example. Clients connect again,
 * and are asked for their token again.
 *
 * @param id - as given to `Socket.accept`
 */
export const disconnect = (id: string): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> =>
  broadcast(id, "disconnect", {})
