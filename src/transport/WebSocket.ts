/**
 * The WebSocket transport: takes the connection from the HTTP server, by means of `ws`, and passes frames to and fro.
 *
 * Handshakes come from the server itself, where it is that of `Endpoint.layer`, or else through the router, as an ordinary
 * route. Each mount has a `WebSocketServer` of its own, and so its own options; all share the port with other routes.
 */
import { NodeHttpServer, NodeHttpServerRequest } from "@effect/platform-node"
import { Context, Duration, Effect, Exit, Fiber, Result, Scope } from "effect"
import { Headers, HttpMiddleware, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http"
import type { Socket as NetSocket } from "node:net"
import { type ServerOptions, WebSocketServer } from "ws"
import * as Admission from "../internal/admission.ts"
import { exitOf } from "../internal/eager.ts"
import { CurrentServer, endListeners, forgetRequest, type PathParams, type Take } from "../internal/httpServer.ts"
import { deflateOptions } from "../internal/inflate.ts"
import { Outgoing } from "../internal/outbox.ts"
import type { Params } from "../internal/query.ts"
import { report } from "../internal/report.ts"
import * as Shutdown from "../internal/shutdown.ts"
import type { Client } from "../internal/socket.ts"
import { chooseProtocol, type Chosen } from "../internal/subprotocol.ts"
import { closeTimeout, Connection, type Port, Wire } from "../internal/webSocket.ts"
import * as Process from "../Process.ts"
import type * as Serializer from "../Serializer.ts"
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
  /**
   * Whether handshakes pass the router and its middleware, as all other requests do; default false: they are answered before
   * them, as in Phoenix, which is one and a half times as fast. Set it where middleware has a say in who may connect, where
   * `HttpMiddleware.xForwardedHeaders` is to count, or for a mount in a router with a prefix. Where the server is not that of
   * `Endpoint.layer`, they always do.
   */
  readonly middleware?: boolean | undefined
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

/** The two ways to a mount, for handshakes that have come through the router, and for those that have not. */
export interface Doors {
  readonly route: Admission.Route
  readonly take: Take
}

/** A client that `connect` may be asked about. */
interface Asked {
  readonly params: Params
  readonly protocol: Chosen
  readonly serializer: Serializer.Serializer
}

/**
 * Makes what answers the handshakes of a mount.
 *
 * @internal
 */
export const make = (
  acceptor: Socket.Acceptor,
  { authToken, host }: Admission.Mount,
  options: Options
): Effect.Effect<
  Doors,
  never,
  Process.System | Scope.Scope
> =>
  Effect.gen(function*() {
    const { name, runtime } = acceptor
    const admission = Admission.make(acceptor, "websocket", host, options)
    if (options.subprotocols !== undefined && !Array.isArray(options.subprotocols)) {
      throw new TypeError(`socket ${name}: subprotocols is a list of names, such as ["sip", "mqtt"]`)
    }
    const errorHandler = options.errorHandler ?? (() => Effect.succeed(refuse(403)))
    const threshold = typeof options.compress === "object" ? options.compress.threshold : undefined
    const compress = (options.compress ?? false) !== false
    const system = yield* Process.System
    const port: Port = {
      system,
      outgoing: new Outgoing(system),
      meter: runtime.meter.transport("websocket"),
      timeout: Duration.toMillis(Duration.fromInputUnsafe(options.timeout ?? defaults.timeout)),
      compressFrom: compress ? threshold ?? defaults.threshold : Infinity,
      maxBuffered: options.maxBufferedBytes ?? defaults.maxBufferedBytes,
      onSlow: () => {
        const line = "a client does not read what it is sent: its connection is closed"
        runtime.complaints.say("Warn", line, { socket: name })
      }
    }
    const wss = yield* Effect.acquireRelease(
      Effect.sync(() => new WebSocketServer(serverOptions(options.maxFrameSize, compress))),
      (wss) => Effect.sync(() => wss.close())
    )
    const server = yield* CurrentServer
    const shutdown = yield* Shutdown.make(acceptor)

    /** Says at once who may not even ask. */
    const screen = (request: Admission.Asking, pathParams: PathParams): Result.Result<Asked, Response> => {
      const { httpVersion, method } = Admission.incomingOf(request)
      if (method !== "GET" || httpVersion === "1.0") return Result.fail(refuse(400))
      const params = admission.params(request, pathParams)
      if (params === undefined) return Result.fail(refuse(400))
      admission.logRequest(request)
      if (!admission.checkOrigin(request)) return Result.fail(refuse(403))
      const protocol = chooseProtocol(request.headers["sec-websocket-protocol"], options.subprotocols, authToken)
      if (protocol._tag === "Malformed") return Result.fail(refuse(400))
      if (protocol._tag === "Mismatch") {
        const about = { socket: name, asked: protocol.asked, spoken: options.subprotocols }
        report("Error", runtime.context, "the client asks for subprotocols that are not spoken here", about)
        return Result.fail(refuse(403))
      }
      if (admission.isFull(request)) return Result.fail(busy)
      const serializer = admission.negotiate(params)
      return serializer === undefined ? Result.fail(refuse(403)) : Result.succeed({ params, protocol, serializer })
    }

    const connect = (shown: Admission.Asking, { params, protocol, serializer }: Asked) =>
      admission.connect(shown, params, serializer, protocol.authToken)

    /** Why a client that is welcome gets no connection all the same. */
    const impediment = (request: Admission.Asking): Response | undefined => {
      const problem = problemOf(Admission.incomingOf(request).headers)
      if (problem !== undefined) return HttpServerResponse.text(problem, { status: 400 })
      // Others may have come while it was asked.
      if (admission.isFull(request)) return busy
      // The drain may be over already, and the HTTP server would wait for this connection.
      return shutdown.begun ? HttpServerResponse.empty({ status: 503, headers: { connection: "close" } }) : undefined
    }

    /** The WebSocket handshake; false when `ws` has refused it, or the peer has gone. */
    const open = (
      incoming: IncomingMessage,
      head: Buffer,
      { protocol, serializer }: Asked,
      client: Client
    ): boolean => {
      const { socket } = incoming
      if (socket.destroyed) return false
      // `ws` sees the one that was chosen: it would refuse what is not written as a token, and others are not its business.
      const { "sec-websocket-protocol": offered } = incoming.headers
      if (offered !== undefined) incoming.headers["sec-websocket-protocol"] = protocol.chosen
      let opened = false
      wss.handleUpgrade(incoming, socket, head, (ws) => {
        opened = true
        // An oversized or broken frame is also an "error" event, which would end the Node process if nobody listened.
        ws.on("error", ignore)
        const wire = new Wire(ws, socket, port)
        wire.serve(acceptor.open(wire, serializer, client))
      })
      // The application may still look.
      if (offered !== undefined) incoming.headers["sec-websocket-protocol"] = offered
      return opened
    }

    const route: Admission.Route = Effect.fnUntraced(function*(request, pathParams) {
      const incoming = Admission.incomingOf(request)
      const { socket } = incoming
      const screened = screen(request, pathParams)
      if (Result.isFailure(screened)) return screened.failure
      const asked = screened.success
      const shown = withoutToken(request, asked.protocol)
      // Upgrades may be half open, so a client that leaves is cut off; then the HTTP server interrupts the route.
      socket.on("end", cutOff)
      const connected = yield* Effect.result(connect(shown, asked))
      socket.off("end", cutOff)
      if (Result.isFailure(connected)) return yield* errorHandler(connected.failure, shown)
      const refused = impediment(request)
      if (refused !== undefined) return refused
      if (!takeOver(request)) return refuse(400)
      const { head = noHead, listeners = undefined } = server?.upgrades.get(incoming) ?? {}
      const others = endListeners(socket)
      if (!open(incoming, head, asked, connected.success)) return refuse(400)
      if (listeners !== undefined) {
        const own = endListeners(socket).filter((listener) => !others.includes(listener))
        // The HTTP server may begin to listen only when this route has returned.
        port.system.ready({
          run: () => {
            forgetRequest(socket, listeners, own)
            return 1
          },
          failed: ignore
        })
      }
      return HttpServerResponse.empty({ status: 101 })
    })

    // Effect's HTTP span would hold the whole URL, and a token with it.
    const context = Context.add(yield* Effect.context<Scope.Scope>(), HttpMiddleware.TracerDisabledWhen, () => true)
    const scope = yield* Effect.scope
    const fork = Effect.runForkWith(context)

    /** Has Effect's HTTP server write the response to a handshake that has not come through it. */
    const answer = (
      incoming: IncomingMessage,
      head: Buffer,
      respond: (request: Request) => Effect.Effect<Response, never>
    ): void => {
      server?.refusing(incoming.socket)
      const response = Effect.flatMap(HttpServerRequest.HttpServerRequest, respond).pipe(Admission.logCrash(name))
      fork(Effect.map(
        NodeHttpServer.makeUpgradeHandler(noUpgrade, response, { scope }),
        (handler) => handler(incoming, incoming.socket, head)
      ))
    }

    const take: Take = (incoming, head, pathParams) => {
      const { socket } = incoming
      const bare = new Admission.BareRequest(incoming)
      const screened = screen(bare, pathParams)
      if (Result.isFailure(screened)) return answer(incoming, head, () => Effect.succeed(screened.failure))
      const asked = screened.success
      const decided = (exit: Exit.Exit<Client, Socket.Refused>): void => {
        if (exit._tag === "Success") {
          const refused = impediment(bare)
          if (refused !== undefined) answer(incoming, head, () => Effect.succeed(refused))
          else open(incoming, head, asked, exit.value)
        } else if (scope.state._tag === "Closed") socket.destroy()
        else {
          answer(incoming, head, (request) =>
            Effect.catch(
              Effect.failCause(exit.cause),
              (refused) => errorHandler(refused, withoutToken(request, asked.protocol))
            ))
        }
      }
      const decision = connect(withoutToken(bare, asked.protocol), asked)
      const exit = exitOf(decision)
      if (exit !== undefined) return decided(exit)
      const fiber = fork(decision)
      const leave = () => fiber.interruptUnsafe()
      socket.on("error", ignore).on("end", cutOff).on("close", leave)
      fiber.addObserver((exit) => {
        socket.off("error", ignore).off("end", cutOff).off("close", leave)
        if (!socket.destroyed) decided(exit)
      })
      Fiber.runIn(fiber, scope)
    }

    return { route, take }
  })

/** Of a server that is not one of `Endpoint.layer` it is not known what came along with the handshake. */
const noHead = Buffer.alloc(0)

const noUpgrade = Effect.die(new Error("the response to a handshake is a response, and no upgrade"))

/** Why a request cannot become a WebSocket, in words that name the header. */
const problemOf = (headers: IncomingHttpHeaders): string | undefined => {
  const { connection, host, upgrade } = headers
  const got = (value: string | undefined) => `got ${value === undefined ? "[]" : JSON.stringify([value])}`
  const version = headers["sec-websocket-version"]
  if (host === undefined) return "'host' header is absent"
  // Without it the HTTP server has not let go of the connection.
  if (!upgradeList.test(connection ?? "")) return `'connection' header must contain 'upgrade', ${got(connection)}`
  if (!webSocketList.test(upgrade ?? "")) return `'upgrade' header must contain 'websocket', ${got(upgrade)}`
  if (!headers["sec-websocket-key"]) return "'sec-websocket-key' header is absent"
  return version === "13" ? undefined : `'sec-websocket-version' header must equal '13', ${got(version)}`
}

/** Whether a header is a list with this word in it. */
const listOf = (word: string) => new RegExp(`(?:^|,)\\s*${word}\\s*(?:,|$)`, "i")
const upgradeList = listOf("upgrade")
const webSocketList = listOf("websocket")

function cutOff(this: NetSocket): void {
  this.destroy()
}

interface WithHeaders<A> extends Pick<Admission.Asking, "headers"> {
  readonly modify: (options: { readonly headers: Headers.Headers }) => A
}

/** The token is no header that an application would look for, or log. */
const withoutToken = <A extends WithHeaders<A>>(request: A, { asked, authToken }: Chosen): A => {
  if (authToken === undefined) return request
  const headers = Headers.fromInput(request.headers)
  return request.modify({
    headers: asked.length === 0
      ? Headers.remove(headers, "sec-websocket-protocol")
      : Headers.set(headers, "sec-websocket-protocol", asked.join(", "))
  })
}

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
