/**
 * The WebSocket transport: takes the connection from the HTTP server, by means of `ws`, and passes frames to and fro.
 *
 * It runs inside an ordinary route, with a `WebSocketServer` of its own for each mount, so that every mount has its own
 * options and the application's other routes share the port.
 */
import { NodeHttpServerRequest } from "@effect/platform-node"
import { Duration, Effect, Option, Result, type Scope } from "effect"
import { type HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingMessage } from "node:http"
import { type ServerOptions, type WebSocket, WebSocketServer } from "ws"
import { headOf, onClosing } from "../internal/httpServer.ts"
import { type CheckOrigin, compileOrigin } from "../internal/origin.ts"
import type { System } from "../internal/process.ts"
import { decodeQuery } from "../internal/query.ts"
import type { SocketServer, Transport } from "../internal/socket.ts"
import type { Timer } from "../internal/timers.ts"
import * as Process from "../Process.ts"
import * as Serializer from "../Serializer.ts"
import type * as Socket from "../Socket.ts"

/** Options of the WebSocket transport. */
export interface Options {
  /** Where it listens, below the mount; default `/websocket`. */
  readonly path?: `/${string}` | undefined
  /** A connection from which nothing has come for this long is closed with 1002; default 60 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** The largest message in bytes, fragments together; a larger one closes the connection with 1009. Default 10,000,000. */
  readonly maxFrameSize?: number | undefined
  /**
   * Offers permessage-deflate; default false. Messages below `threshold` bytes (default 1024) are sent as they are: what
   * small ones save is less than what compressing them costs.
   */
  readonly compress?: boolean | { readonly threshold?: number | undefined } | undefined
  /**
   * Which pages may connect, by the `Origin` that browsers send; others get 403. Clients that send none are let in.
   *
   * - `true` (default): the origin's host is the endpoint's `host`.
   * - a list such as `["https://example.com", "//*.example.com"]`: without a scheme, or port, any will do.
   * - `"conn"`: scheme, host and port are those of the request.
   * - a function; or `false` for no check.
   */
  readonly checkOrigin?: CheckOrigin | undefined
}

/** The defaults of {@link Options}. */
export const defaults = {
  path: "/websocket",
  timeout: "60 seconds",
  maxFrameSize: 10_000_000,
  threshold: 1024,
  checkOrigin: true
} as const

/** How long a peer may take to answer a close before its connection is cut. */
const closeTimeout = 5000

type Request = HttpServerRequest.HttpServerRequest
type Response = HttpServerResponse.HttpServerResponse

/**
 * Makes the handler of the route, to be run once for each request.
 *
 * @internal
 */
export const make = (
  acceptor: Socket.Acceptor,
  host: string | undefined,
  options: Options
): Effect.Effect<
  (request: Request, pathParams: { readonly [name: string]: string | undefined }) => Effect.Effect<Response>,
  never,
  Process.System | Scope.Scope
> =>
  Effect.gen(function*() {
    const system = yield* Process.System
    const originAllowed = compileOrigin(options.checkOrigin ?? defaults.checkOrigin, host)
    const timeout = Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? defaults.timeout))
    const threshold = typeof options.compress === "object" ? options.compress.threshold : undefined
    const compress = (options.compress ?? false) !== false
    const limits: Limits = { timeout, compress, compressFrom: threshold ?? defaults.threshold }
    const wss = yield* Effect.acquireRelease(
      Effect.sync(() => new WebSocketServer(serverOptions(options.maxFrameSize, compress))),
      (wss) => Effect.sync(() => wss.close())
    )

    const fork = Effect.runForkWith(yield* Effect.context<never>())
    const drain = () => void fork(acceptor.endAll(Process.shutdown("draining")))

    return Effect.fnUntraced(function*(request, pathParams) {
      const incoming = NodeHttpServerRequest.toIncomingMessage(request) as IncomingMessage
      onClosing(incoming, drain)
      if (request.method !== "GET" || incoming.httpVersion === "1.0") return refuse(400)
      const query = decodeQuery(/\?(.*)/s.exec(incoming.url ?? "")?.[1] ?? "")
      if (Result.isFailure(query)) return refuse(400)
      const secure = request.protocol === "https"
      if (!originAllowed(incoming.headers.origin, { host: incoming.headers.host, secure })) {
        yield* Effect.logError("could not check origin: add it to checkOrigin, or set checkOrigin to false").pipe(
          Effect.annotateLogs({ socket: acceptor.name, origin: incoming.headers.origin })
        )
        return refuse(403)
      }
      const params = Object.assign(query.success, pathParams)
      const serializer = Serializer.negotiate(acceptor.serializers, params["vsn"])
      if (serializer === undefined) {
        yield* Effect.logWarning("the client asks for a version that no serializer supports").pipe(
          Effect.annotateLogs({ socket: acceptor.name, vsn: params["vsn"] })
        )
        return refuse(403)
      }
      const client = yield* acceptor.connect({
        params,
        transport: "websocket",
        headers: request.headers,
        uri: request.originalUrl,
        remoteAddress: Option.getOrUndefined(request.remoteAddress)
      }).pipe(
        Effect.catchTag("Refused", ({ reason }) =>
          Effect.as(
            Effect.logInfo("connection refused").pipe(Effect.annotateLogs({ socket: acceptor.name, reason })),
            undefined
          ))
      )
      if (client === undefined) return refuse(403)
      if (incoming.headers.upgrade?.toLowerCase() !== "websocket") {
        return HttpServerResponse.text("the 'upgrade' header must contain 'websocket'", { status: 400 })
      }
      // Without it the HTTP server has not let go of the connection.
      if (!/(^|[\s,])upgrade([\s,]|$)/i.test(incoming.headers.connection ?? "")) {
        return HttpServerResponse.text("the 'connection' header must contain 'upgrade'", { status: 400 })
      }
      const ws = yield* upgrade(wss, incoming)
      if (ws !== undefined) {
        const wire = new Wire(ws, incoming, system, limits)
        yield* wire.run(acceptor.open(wire, serializer, client))
      }
      // The connection is gone: this goes nowhere, but a route has to return a response.
      return HttpServerResponse.empty()
    })
  })

const refuse = (status: number): Response => HttpServerResponse.empty({ status })

const serverOptions = (
  maxFrameSize: number | undefined,
  compress: boolean
): ServerOptions & { readonly closeTimeout: number } => ({
  noServer: true,
  clientTracking: false,
  closeTimeout,
  maxPayload: maxFrameSize ?? defaults.maxFrameSize,
  perMessageDeflate: compress,
  // Otherwise `ws` would pick the first protocol that the client offers.
  handleProtocols: () => false
})

interface Limits {
  /** Milliseconds. */
  readonly timeout: number
  readonly compress: boolean
  /** In bytes. The `threshold` of `ws` itself is for connections that keep no compression context. */
  readonly compressFrom: number
}

/** The WebSocket handshake; undefined when `ws` has refused it, or the peer has gone. */
const upgrade = (wss: WebSocketServer, incoming: IncomingMessage): Effect.Effect<WebSocket | undefined> =>
  Effect.callback((resume) => {
    const { socket } = incoming
    if (socket.destroyed) return resume(Effect.undefined)
    const gone = () => resume(Effect.undefined)
    socket.once("close", gone)
    wss.handleUpgrade(incoming, socket, headOf(incoming), (ws) => {
      socket.off("close", gone)
      // An oversized or broken frame is also an "error" event, which would end the Node process if nobody listened.
      ws.on("error", () => {})
      resume(Effect.succeed(ws))
    })
  })

/** A WebSocket as the transport of a socket process. */
class Wire implements Transport {
  readonly name = "websocket"
  private readonly ws: WebSocket
  private readonly request: IncomingMessage
  private readonly system: System
  private readonly limits: Limits
  private lastSeen: number
  private idleTimer: Timer | undefined

  constructor(ws: WebSocket, request: IncomingMessage, system: System, limits: Limits) {
    this.ws = ws
    this.request = request
    this.system = system
    this.limits = limits
    this.lastSeen = system.timers.now
  }

  send(frame: Serializer.Frame): void {
    if (this.ws.readyState !== this.ws.OPEN) return
    const binary = typeof frame !== "string"
    const compress = this.limits.compress &&
      (binary ? frame.length : Buffer.byteLength(frame)) >= this.limits.compressFrom
    this.ws.send(frame, { binary, compress })
  }

  close(code: number): void {
    this.ws.close(code)
  }

  /** Passes frames to the process until the connection is gone. */
  run(server: SocketServer): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      const { socket } = this.request
      // Any bytes count, also a ping or a part of a message.
      socket.on("data", () => {
        this.lastSeen = this.system.timers.now
      })
      this.ws.on("message", (data: Buffer, isBinary: boolean) => server.receive(isBinary ? data : data.toString()))
      this.ws.on("close", (code) => server.closed(Process.shutdown(code === 1006 ? "peer_closed" : "local_closed")))
      // The route must not complete before: the HTTP server would write its response into the WebSocket stream.
      const gone = () => {
        server.closed(Process.shutdown("peer_closed"))
        resume(Effect.void)
      }
      if (socket.destroyed) gone()
      else socket.once("close", gone)
      this.watch(server)
    }).pipe(
      // The HTTP server is going down, unless it was the peer that went.
      Effect.onInterrupt(() => {
        const { socket } = this.request
        server.closed(Process.shutdown(socket.destroyed ? "peer_closed" : "draining"))
        return Effect.callback<void>((resume) => {
          if (socket.destroyed) resume(Effect.void)
          else socket.once("close", () => resume(Effect.void))
        })
      }),
      Effect.ensuring(Effect.sync(() => {
        if (this.idleTimer !== undefined) this.system.timers.cancel(this.idleTimer)
      }))
    )
  }

  /** Frames only note the time; the timer looks at it when it is due, and waits for the rest. */
  private watch(server: SocketServer): void {
    if (this.limits.timeout === Infinity) return
    const rest = this.lastSeen + this.limits.timeout - this.system.timers.now
    if (rest > 0) this.idleTimer = this.system.timers.after(rest, () => this.watch(server))
    else server.closed(Process.shutdown("read_timeout"))
  }
}
