/**
 * The WebSocket transport: takes the connection from the HTTP server, by means of `ws`, and passes frames to and fro.
 *
 * It runs inside an ordinary route, with a `WebSocketServer` of its own for each mount, so that every mount has its own
 * options and the application's other routes share the port.
 */
import { Duration, Effect, Result, type Scope } from "effect"
import { Headers, type HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingHttpHeaders, IncomingMessage } from "node:http"
import { type Server, type ServerOptions, WebSocket, WebSocketServer } from "ws"
import * as Admission from "../internal/admission.ts"
import { headOf } from "../internal/httpServer.ts"
import type { TransportMeter } from "../internal/meter.ts"
import type { System } from "../internal/process.ts"
import * as Shutdown from "../internal/shutdown.ts"
import type { SocketServer, Transport } from "../internal/socket.ts"
import { chooseProtocol, type Chosen } from "../internal/subprotocol.ts"
import type { Timer } from "../internal/timers.ts"
import * as Process from "../Process.ts"
import * as Serializer from "../Serializer.ts"
import type * as Socket from "../Socket.ts"

/** Options of the WebSocket transport. */
export interface Options extends Admission.TransportOptions {
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
   * The subprotocols that are spoken here, the preferred one first. A client that names some of its own is answered the
   * first of these among them, and refused with 403 if there is none. Default: clients may name what they like, and are not
   * answered.
   */
  readonly subprotocols?: ReadonlyArray<string> | undefined
  /** The HTTP response to a client that `connect` has refused; default: an empty 403. */
  readonly errorHandler?:
    | ((refused: Socket.Refused, request: Request) => Effect.Effect<HttpServerResponse.HttpServerResponse>)
    | undefined
}

/** The defaults of {@link Options}. */
export const defaults = {
  path: "/websocket",
  timeout: "60 seconds",
  maxFrameSize: 10_000_000,
  threshold: 1024
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
  { authToken, host }: Admission.Mount,
  options: Options
): Effect.Effect<
  Admission.Route,
  never,
  Process.System | Scope.Scope
> =>
  Effect.gen(function*() {
    const system = yield* Process.System
    const admission = Admission.make(acceptor, "websocket", host, options)
    if (options.subprotocols !== undefined && !Array.isArray(options.subprotocols)) {
      throw new TypeError(`socket ${acceptor.name}: subprotocols is a list of names, such as ["sip", "mqtt"]`)
    }
    const errorHandler = options.errorHandler ?? (() => Effect.succeed(refuse(403)))
    const timeout = Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? defaults.timeout))
    const threshold = typeof options.compress === "object" ? options.compress.threshold : undefined
    const compress = (options.compress ?? false) !== false
    const meter = acceptor.runtime.meter.transport("websocket")
    const limits: Limits = { timeout, compress, compressFrom: threshold ?? defaults.threshold }
    const wss = yield* Effect.acquireRelease(
      Effect.sync(() => new WebSocketServer(serverOptions(options.maxFrameSize, compress))),
      (wss) => Effect.sync(() => wss.close())
    )

    const shutdown = yield* Shutdown.make(acceptor)

    return Effect.fnUntraced(function*(request, pathParams) {
      const incoming = Admission.incomingOf(request)
      shutdown.watch(incoming)
      if (request.method !== "GET" || incoming.httpVersion === "1.0") return refuse(400)
      const params = admission.params(request, pathParams)
      if (params === undefined) return refuse(400)
      yield* Admission.logRequest(options.transportLog ?? false, request)
      if (!(yield* admission.checkOrigin(request))) return refuse(403)
      const protocol = chooseProtocol(request.headers["sec-websocket-protocol"], options.subprotocols, authToken)
      if (protocol._tag === "Malformed") return refuse(400)
      if (protocol._tag === "Mismatch") {
        yield* Effect.logError("the client asks for subprotocols that are not spoken here").pipe(
          Effect.annotateLogs({ socket: acceptor.name, asked: protocol.asked, spoken: options.subprotocols })
        )
        return refuse(403)
      }
      const serializer = yield* admission.negotiate(params)
      if (serializer === undefined) return refuse(403)
      const shown = withoutToken(request, protocol)
      const connected = yield* Effect.result(
        whileThere(incoming, admission.connect(shown, params, serializer, protocol.authToken))
      )
      if (Result.isFailure(connected)) return yield* errorHandler(connected.failure, shown)
      const problem = problemOf(incoming.headers)
      if (problem !== undefined) return HttpServerResponse.text(problem, { status: 400 })
      // The drain may be over already, and the HTTP server would wait for this connection.
      if (shutdown.begun) return HttpServerResponse.empty({ status: 503, headers: { connection: "close" } })
      // `ws` sees the one that was chosen: it would refuse what is not written as a token, and others are not its business.
      if (protocol.chosen === undefined) delete incoming.headers["sec-websocket-protocol"]
      else incoming.headers["sec-websocket-protocol"] = protocol.chosen
      const ws = yield* upgrade(wss, incoming)
      if (ws !== undefined) {
        const wire = new Wire(ws, incoming, system, limits, meter)
        yield* wire.run(acceptor.open(wire, serializer, connected.success))
      }
      // The connection is gone: this goes nowhere, but a route has to return a response.
      return HttpServerResponse.empty()
    })
  })

/** Why a request cannot become a WebSocket, in words that name the header. */
const problemOf = (headers: IncomingHttpHeaders): string | undefined => {
  const { connection, host, upgrade } = headers
  const got = (value: string | undefined) => `got ${value === undefined ? "[]" : JSON.stringify([value])}`
  const version = headers["sec-websocket-version"]
  if (host === undefined) return "'host' header is absent"
  // Without it the HTTP server has not let go of the connection.
  if (!names(connection, "upgrade")) return `'connection' header must contain 'upgrade', ${got(connection)}`
  if (!names(upgrade, "websocket")) return `'upgrade' header must contain 'websocket', ${got(upgrade)}`
  if (!headers["sec-websocket-key"]) return "'sec-websocket-key' header is absent"
  return version === "13" ? undefined : `'sec-websocket-version' header must equal '13', ${got(version)}`
}

const names = (header: string | undefined, word: string): boolean =>
  header?.split(",").some((entry) => entry.trim().toLowerCase() === word) === true

/** An upgrade may be half open, so a client that leaves must be cut off; then the HTTP server interrupts the route. */
const whileThere = <A, E>({ socket }: IncomingMessage, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const cut = () => socket.destroy()
    socket.once("end", cut)
    return Effect.ensuring(effect, Effect.sync(() => socket.off("end", cut)))
  })

/** The token is no header that an application would look for, or log. */
const withoutToken = (request: Request, { asked, authToken }: Chosen) =>
  authToken === undefined ? request : request.modify({
    headers: asked.length === 0
      ? Headers.remove(request.headers, "sec-websocket-protocol")
      : Headers.set(request.headers, "sec-websocket-protocol", asked.join(", "))
  })

const refuse = (status: number): Response => HttpServerResponse.empty({ status, headers: { "content-length": "0" } })

const serverOptions = (
  maxFrameSize: number | undefined,
  compress: boolean
): ServerOptions<typeof Connection> & { readonly closeTimeout: number } => ({
  noServer: true,
  clientTracking: false,
  closeTimeout,
  maxPayload: maxFrameSize ?? defaults.maxFrameSize,
  perMessageDeflate: compress,
  WebSocket: Connection
})

interface Limits {
  /** Milliseconds. */
  readonly timeout: number
  readonly compress: boolean
  /** In bytes. The `threshold` of `ws` itself is for connections that keep no compression context. */
  readonly compressFrom: number
}

/** What a client is answered that closes: 1000, or 1002 where it has sent a code that is not for clients. */
const answerTo = (code: number): number => code >= 1012 && code < 3000 ? 1002 : 1000

/** A connection that does not answer a close by itself, so that what came before it can be answered first. */
class Connection extends WebSocket {
  /** Called when the client closes; {@link end} is what answers it. */
  onClosing: (() => void) | undefined = undefined
  private closing: number | undefined = undefined

  /** Called by `ws`, to answer a close or to fail the connection. */
  override close(code?: number, reason?: string | Buffer): void {
    // Private to `ws`. Where it is gone, a close is answered at once.
    const received = "_closeFrameReceived" in this && this._closeFrameReceived === true
    if (!received || this.onClosing === undefined || this.readyState !== this.OPEN) return super.close(code, reason)
    this.closing = code ?? 1000
    this.onClosing()
  }

  /** Closes with a code, or answers the close of the client. */
  end(code: number): void {
    super.close(this.closing === undefined ? code : answerTo(this.closing))
  }
}

/** The WebSocket handshake; undefined when `ws` has refused it, or the peer has gone. */
const upgrade = (
  wss: Server<typeof Connection>,
  incoming: IncomingMessage
): Effect.Effect<Connection | undefined> =>
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
  private readonly ws: Connection
  private readonly request: IncomingMessage
  private readonly system: System
  private readonly limits: Limits
  private readonly meter: TransportMeter
  private lastSeen: number
  private idleTimer: Timer | undefined

  constructor(ws: Connection, request: IncomingMessage, system: System, limits: Limits, meter: TransportMeter) {
    this.ws = ws
    this.request = request
    this.system = system
    this.limits = limits
    this.meter = meter
    this.lastSeen = system.timers.now
  }

  send(frame: Serializer.Frame): void {
    if (this.ws.readyState !== this.ws.OPEN) return
    const binary = typeof frame !== "string"
    const bytes = binary ? frame.length : Buffer.byteLength(frame)
    this.meter.framesOut++
    this.meter.bytesOut += bytes
    this.ws.send(frame, { binary, compress: this.limits.compress && bytes >= this.limits.compressFrom })
  }

  close(code: number): void {
    this.ws.end(code)
  }

  /** Passes frames to the process until the connection is gone. */
  run(server: SocketServer): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      const { socket } = this.request
      // Any bytes count, also a ping or a part of a message.
      socket.on("data", () => {
        this.lastSeen = this.system.timers.now
      })
      this.ws.on("message", (data: Buffer, isBinary: boolean) => {
        this.meter.framesIn++
        this.meter.bytesIn += data.length
        server.receive(isBinary ? data : data.toString())
      })
      this.ws.onClosing = () => server.closed(Process.shutdown("local_closed"))
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
