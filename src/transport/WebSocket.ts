/**
 * The WebSocket transport: takes the connection from the HTTP server, by means of `ws`, and passes frames to and fro.
 *
 * It runs inside an ordinary route, with a `WebSocketServer` of its own for each mount, so that every mount has its own
 * options and the application's other routes share the port.
 */
import { NodeHttpServerRequest } from "@effect/platform-node"
import { Duration, Effect, Result, type Scope } from "effect"
import { Headers, type HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http"
import type { Socket as NetSocket } from "node:net"
import { type Server, type ServerOptions, WebSocketServer } from "ws"
import * as Admission from "../internal/admission.ts"
import { endListeners, forgetRequest, headOf } from "../internal/httpServer.ts"
import { deflateOptions, inflateAtOnce } from "../internal/inflate.ts"
import type { System } from "../internal/process.ts"
import * as Shutdown from "../internal/shutdown.ts"
import { chooseProtocol, type Chosen } from "../internal/subprotocol.ts"
import { closeTimeout, Connection, type Port, Wire } from "../internal/webSocket.ts"
import * as Process from "../Process.ts"
import type * as Socket from "../Socket.ts"

/** Options of the WebSocket transport. */
export interface Options extends Admission.TransportOptions {
  /** Where it listens, below the mount; default `/websocket`. */
  readonly path?: `/${string}` | undefined
  /**
   * A connection from which nothing has come for this long is closed with 1002, a tenth of it later at most; default 60
   * seconds.
   */
  readonly timeout?: Duration.Input | undefined
  /** The largest message in bytes, fragments together; a larger one closes the connection with 1009. Default 10,000,000. */
  readonly maxFrameSize?: number | undefined
  /**
   * How many bytes may wait for a client that does not read what it is sent, at the moment it is sent more. It is closed with
   * 1013, and cut off 5 seconds later if it has not read by then. Default 4,000,000; a single message may be larger, and
   * what a client is sent right after one counts.
   */
  readonly maxBufferedBytes?: number | undefined
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
  maxBufferedBytes: 4_000_000,
  threshold: 1024
} as const

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
    const admission = Admission.make(acceptor, "websocket", host, options)
    if (options.subprotocols !== undefined && !Array.isArray(options.subprotocols)) {
      throw new TypeError(`socket ${acceptor.name}: subprotocols is a list of names, such as ["sip", "mqtt"]`)
    }
    const errorHandler = options.errorHandler ?? (() => Effect.succeed(refuse(403)))
    const threshold = typeof options.compress === "object" ? options.compress.threshold : undefined
    const compress = (options.compress ?? false) !== false
    const port: Port = {
      system: yield* Process.System,
      meter: acceptor.runtime.meter.transport("websocket"),
      timeout: Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? defaults.timeout)),
      compressFrom: compress ? threshold ?? defaults.threshold : Infinity,
      maxBuffered: options.maxBufferedBytes ?? defaults.maxBufferedBytes,
      onSlow: () => {
        const { complaints, name } = acceptor.runtime
        complaints.say("Warn", "a client does not read what it is sent: its connection is closed", { socket: name })
      }
    }
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
      if (admission.isFull(request)) return busy
      const serializer = yield* admission.negotiate(params)
      if (serializer === undefined) return refuse(403)
      const shown = withoutToken(request, protocol)
      // Upgrades may be half open, so a client that leaves is cut off; then the HTTP server interrupts the route.
      incoming.socket.on("end", cutOff)
      const connected = yield* Effect.result(admission.connect(shown, params, serializer, protocol.authToken))
      incoming.socket.off("end", cutOff)
      if (Result.isFailure(connected)) return yield* errorHandler(connected.failure, shown)
      const problem = problemOf(incoming.headers)
      if (problem !== undefined) return HttpServerResponse.text(problem, { status: 400 })
      // Others may have come while it was asked.
      if (admission.isFull(request)) return busy
      // The drain may be over already, and the HTTP server would wait for this connection.
      if (shutdown.begun) return HttpServerResponse.empty({ status: 503, headers: { connection: "close" } })
      // `ws` sees the one that was chosen: it would refuse what is not written as a token, and others are not its business.
      if (protocol.chosen === undefined) delete incoming.headers["sec-websocket-protocol"]
      else incoming.headers["sec-websocket-protocol"] = protocol.chosen
      if (!takeOver(request)) return refuse(400)
      const ws = upgrade(wss, incoming, port.system)
      if (ws === undefined) return refuse(400)
      const wire = new Wire(ws, incoming.socket, port)
      wire.serve(acceptor.open(wire, serializer, connected.success))
      return HttpServerResponse.empty({ status: 101 })
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

function cutOff(this: NetSocket): void {
  this.destroy()
}

/** The token is no header that an application would look for, or log. */
const withoutToken = (request: Request, { asked, authToken }: Chosen) =>
  authToken === undefined ? request : request.modify({
    headers: asked.length === 0
      ? Headers.remove(request.headers, "sec-websocket-protocol")
      : Headers.set(request.headers, "sec-websocket-protocol", asked.join(", "))
  })

const refuse = (status: number): Response => HttpServerResponse.empty({ status, headers: { "content-length": "0" } })

const busy = HttpServerResponse.empty({ status: 503, headers: { "content-length": "0", "retry-after": "1" } })

const serverOptions = (
  maxFrameSize: number | undefined,
  compress: boolean
): ServerOptions<typeof Connection> & { readonly closeTimeout: number } => ({
  noServer: true,
  clientTracking: false,
  closeTimeout,
  maxPayload: maxFrameSize ?? defaults.maxFrameSize,
  perMessageDeflate: compress ? deflateOptions : false,
  WebSocket: Connection
})

/** The WebSocket handshake; undefined when `ws` has refused it, or the peer has gone. */
const upgrade = (
  wss: Server<typeof Connection>,
  incoming: IncomingMessage,
  system: System
): Connection | undefined => {
  const { socket } = incoming
  if (socket.destroyed) return undefined
  const before = endListeners(socket)
  let connection: Connection | undefined
  wss.handleUpgrade(incoming, socket, headOf(incoming), (ws) => {
    // An oversized or broken frame is also an "error" event, which would end the Node process if nobody listened.
    ws.on("error", ignore)
    inflateAtOnce(ws)
    connection = ws
  })
  const own = endListeners(socket).filter((listener) => !before.includes(listener))
  // The HTTP server may begin to listen only when this route has returned.
  if (connection !== undefined) {
    system.ready({
      run: () => {
        forgetRequest(incoming, own)
        return 1
      },
      failed: ignore
    })
  }
  return connection
}

const ignore = (): void => {}

/**
 * Takes the connection from the HTTP server, which would write a response into the frames. The request is done with, as
 * what is kept of one that is under way would be kept for as long as the connection. False if there is none to take.
 */
const takeOver = (request: Request): boolean => {
  const { socket } = Admission.incomingOf(request)
  try {
    const response = NodeHttpServerRequest.toServerResponse(request) as ServerResponse
    if (!response.writableEnded) {
      response.detachSocket(socket)
      response.end()
    }
    return true
  } catch {
    // The response to a request before it, in the same packet, is still to be written: no client does that.
    socket.destroy()
    return false
  }
}
