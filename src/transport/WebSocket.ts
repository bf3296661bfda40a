/**
 * The WebSocket transport: takes the connection from the HTTP server, by means of `ws`, and passes frames to and fro.
 *
 * Handshakes come from the server itself, where it is that of `Endpoint.layer`, or else through the router, as an ordinary
 * route. Each mount has a `WebSocketServer` of its own, and so its own options; all share the port with other routes.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Cause, Context, Duration, Effect, Result, Scope } from "effect"
import { Headers, HttpMiddleware, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingHttpHeaders, IncomingMessage } from "node:http"
import type { Socket as NetSocket } from "node:net"
import { type ServerOptions, WebSocketServer } from "ws"
import * as Admission from "../internal/admission.ts"
import { Departures } from "../internal/departures.ts"
import { effectOf } from "../internal/eager.ts"
import type { PathParams, Take } from "../internal/handshakes.ts"
import { answerPlainly, CurrentServer, endListeners, forgetRequest, takeOver } from "../internal/httpServer.ts"
import { deflateOptions } from "../internal/inflate.ts"
import { callable, oneOf, OptionError } from "../internal/options.ts"
import type { Place } from "../internal/places.ts"
import type { Params } from "../internal/query.ts"
import * as Shutdown from "../internal/shutdown.ts"
import type { Client } from "../internal/socket.ts"
import { chooseProtocol, type Chosen, hasToken } from "../internal/subprotocol.ts"
import { brief } from "../internal/untrusted.ts"
import { closeTimeout, Connection, Wire } from "../internal/webSocket.ts"
import { wireDefaults, type WireOptions, wireOptionsOf } from "../internal/wireOptions.ts"
import { isKnownWs, portOf } from "../internal/wirePort.ts"
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
   * Limits the bytes that one client may send in messages. A client that sends more is not read until it may go on, so nothing
   * is lost. Default `{ perSecond: 5_000_000, burst: 10_000_000 }`; false for no limit.
   */
  readonly maxByteRate?: Socket.Rate | false | undefined
  /**
   * Limits the bytes that may wait for a client whether it reads or not. A client for which more wait has to take some of them
   * every `stallTimeout`, or it is closed with 1013, and cut off 5 seconds later if it has not read by then. Default 4,000,000.
   */
  readonly maxBufferedBytes?: number | undefined
  /**
   * For how long a client may take nothing while more than `maxBufferedBytes` wait for it; it is closed an eighth of that
   * later at most. Default 30 seconds. A slow client takes nothing for seconds at a time, because operating systems pass on
   * a megabyte or so at once.
   */
  readonly stallTimeout?: Duration.Input | undefined
  /**
   * Limits the bytes that wait for a client that reads, at the moment it is sent more; beyond, it is closed with 1013. Default
   * 64,000,000, or `maxBufferedBytes` where that is more; a single message may be larger.
   */
  readonly maxBacklogBytes?: number | undefined
  /**
   * Limits the bytes that wait for all clients of the mount together for which more than `maxBufferedBytes` wait. Beyond, a
   * client among them that is sent more is closed with 1013. Default 256,000,000, or `maxBacklogBytes` where that is more.
   */
  readonly maxTotalBacklogBytes?: number | undefined
  /** Offers permessage-deflate; default false. */
  readonly compress?: boolean | CompressOptions | undefined
  /**
   * The subprotocols that are spoken here, the preferred one first; names as HTTP allows them. A client that names some of its own is answered the
   * first of these among them, and refused with 403 if there is none. Default: clients may name what they like, and are not
   * answered.
   */
  readonly subprotocols?: ReadonlyArray<string> | undefined
  /**
   * Whether handshakes pass the router and its middleware, as all other requests do; default false: they are answered before
   * them, as in Phoenix, which is one and a half times as fast. Set it where middleware has a say in who may connect, where
   * `HttpMiddleware.xForwardedHeaders` is to count, or where other routes match the path of a mount with variables. A path
   * that is asked for in another spelling than the mount's (`/Socket`, `//socket`) is for the router as well. Where the server
   * is not that of `Endpoint.layer`, they always do. The router answers 404 where a variable of the path is longer than
   * its `maxParamLength` (100 characters unless `HttpRouter.RouterConfig` says otherwise); without it 8,192 are allowed.
   */
  readonly middleware?: boolean | undefined
  /**
   * The HTTP response to a client that `connect` has refused; default: an empty 403. Where this function fails, the client is
   * answered 500.
   */
  readonly errorHandler?:
    | ((refused: Socket.Refused, request: Request) => Effect.Effect<HttpServerResponse.HttpServerResponse>)
    | undefined
}

/** Options of compression. */
export interface CompressOptions {
  /**
   * Messages to clients below so many bytes are sent as they are, because what small ones save is less than what compressing
   * them costs. Default 1024.
   */
  readonly threshold?: number | undefined
  /**
   * The most bytes that a compressed message may be inflated to; a larger one closes the connection with 1009. Default
   * 1,000,000, or `maxFrameSize` where that is less.
   */
  readonly maxMessageSize?: number | undefined
  /**
   * Limits the bytes to which the compressed messages of one client are inflated, because a kilobyte may become a megabyte,
   * which takes as much time to parse as if it had been sent. A client beyond that is not read until it may go on, so nothing
   * is lost.
   * Default `{ perSecond: 1_000_000, burst: 4_000_000 }`; false for no limit.
   */
  readonly rate?: Socket.Rate | false | undefined
}

/** The defaults of {@link Options}. */
export const defaults = { path: "/websocket", ...wireDefaults } as const

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
  readonly place: Place
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
    checkOptions(`socket ${name}`, options)
    const server = yield* CurrentServer
    const shutdown = yield* Shutdown.make(acceptor)
    const admission = Admission.make(acceptor, "websocket", host, shutdown, options)
    const { guard, owner } = admission
    const subprotocols = options.subprotocols && [...options.subprotocols]
    const errorHandler = options.errorHandler ?? (() => Effect.succeed(refuse(403)))
    const wireOptions = wireOptionsOf(`socket ${name}: websocket`, options)
    const departures = server?.departures ?? new Departures(runtime.system.timers)
    const system = yield* Process.System
    const port = portOf(system, runtime, wireOptions)
    const wss = yield* Effect.acquireRelease(
      Effect.sync(() => new WebSocketServer(serverOptions(wireOptions))),
      (wss) => Effect.sync(() => wss.close())
    )

    /** Says at once who may not even ask. */
    const screen = (request: Admission.Asking, pathParams: PathParams): Result.Result<Asked, Response> => {
      const { httpVersion, method } = Admission.incomingOf(request)
      if (method !== "GET" || httpVersion === "1.0") return Result.fail(refuse(400))
      const params = admission.params(request, pathParams)
      if (params === undefined) return Result.fail(refuse(400))
      admission.logRequest(request)
      const allowed = admission.checkOrigin(request)
      if (allowed !== true) return Result.fail(refuse(allowed === undefined ? 500 : 403))
      const offered = request.headers["sec-websocket-protocol"]
      const protocol = chooseProtocol(offered, subprotocols, authToken)
      if (protocol._tag === "Malformed") return Result.fail(refuse(400))
      if (protocol._tag === "Mismatch") {
        const about = { asked: protocol.asked.slice(0, maxAskedShown).map(brief), spoken: subprotocols }
        admission.complain("Error", "the client asks for subprotocols that are not spoken here", about)
        return Result.fail(refuse(403))
      }
      if (!authToken && hasToken(offered)) admission.ignoresToken()
      const serializer = admission.negotiate(params)
      if (serializer === undefined) return Result.fail(refuse(403))
      const place = admission.enter(request)
      return place === undefined ? Result.fail(busy) : Result.succeed({ params, protocol, serializer, place })
    }

    /** Asks the application about a client; returns how to give that up. */
    const ask = (
      request: Admission.Asking,
      { params, place, protocol, serializer }: Asked,
      context: Context.Context<never>,
      decided: (decision: Admission.Decision) => void
    ): () => void =>
      admission.ask({ request, params, place, serializer, authToken: protocol.authToken, context, decided })

    /** The response to a client that `connect` has refused. */
    const explain = (refused: Socket.Refused, request: Request): Effect.Effect<Response> => {
      const handled = Effect.suspend(() => effectOf(errorHandler(refused, request))).pipe(Effect.map(responseOf))
      const failed = (cause: Cause.Cause<never>) =>
        Effect.sync(() => {
          guard.failed({ name: "errorHandler", owner }, Cause.squash(cause))
          return refuse(500)
        })
      return Effect.catchCause(shutdown.unlessOver(handled, busy, admission.connectTimeout), failed)
    }

    /** Why a client that is welcome gets no connection all the same. */
    const impediment = (request: Admission.Asking): Response | undefined => {
      const problem = problemOf(Admission.incomingOf(request).headers)
      if (problem !== undefined) return HttpServerResponse.text(problem, { status: 400 })
      // The drain may be over already, and the HTTP server would wait for this connection.
      return shutdown.begun ? closing : undefined
    }

    /** The WebSocket handshake; false when `ws` has refused it, or the peer has gone. */
    const open = (
      incoming: IncomingMessage,
      head: Buffer,
      { place, protocol, serializer }: Asked,
      client: Client
    ): boolean => {
      const { socket } = incoming
      let opened = false
      // `ws` sees the one that was chosen: it would refuse what is not written as a token, and others are not its business.
      const { "sec-websocket-protocol": offered } = incoming.headers
      try {
        if (socket.destroyed) return false
        if (offered !== undefined) incoming.headers["sec-websocket-protocol"] = protocol.chosen
        wss.handleUpgrade(incoming, socket, head, (ws) => {
          // An oversized or broken frame is also an "error" event, which would end the Node process if nobody listened.
          ws.on("error", ignore)
          const wire = new Wire(ws, socket, port)
          const socketServer = acceptor.open(wire, serializer, client, place)
          opened = true
          wire.serve(socketServer)
        })
        return opened
      } catch (defect) {
        runtime.complaints.say("Error", "a connection could not be started", owner, Cause.die(defect))
        socket.destroy()
        return false
      } finally {
        // The application may still look.
        if (offered !== undefined) incoming.headers["sec-websocket-protocol"] = offered
        // A process that has started releases it when it ends.
        if (!opened) place.release()
      }
    }

    const route: Admission.Route = (request, pathParams) =>
      Effect.suspend(() => {
        const handshake = { opened: false }
        const depart = Effect.sync(() => {
          const { headers, socket } = Admission.incomingOf(request)
          const isUpgrade = headers.upgrade !== undefined && upgradeList.test(headers.connection ?? "")
          if (isUpgrade && !handshake.opened) departures.letGo(socket)
        })
        return Effect.ensuring(answerRouted(request, pathParams, handshake), depart)
      })

    const answerRouted = Effect.fnUntraced(function*(
      request: Request,
      pathParams: PathParams,
      handshake: { opened: boolean }
    ) {
      const incoming = Admission.incomingOf(request)
      const { socket } = incoming
      const screened = screen(request, pathParams)
      if (Result.isFailure(screened)) return screened.failure
      const asked = screened.success
      const shown = withoutToken(request, asked.protocol)
      // Upgrades may be half open, so a client that leaves is cut off; then the HTTP server interrupts the route.
      socket.on("end", cutOff)
      let accepted = false
      const decide = Effect.contextWith((context: Context.Context<never>) =>
        Effect.callback<Admission.Decision>((resume) => {
          const giveUp = ask(shown, asked, context, (decision) => {
            accepted = typeof decision !== "string" && decision._tag === "Success"
            resume(Effect.succeed(decision))
          })
          return Effect.sync(giveUp)
        })
      )
      const respond = (decision: Admission.Decision): Effect.Effect<Response> => {
        socket.off("end", cutOff)
        if (typeof decision === "string") return Effect.succeed(closing)
        if (decision._tag === "Failure") {
          return Effect.catch(Effect.failCause(decision.cause), (refused) => explain(refused, shown))
        }
        const refused = impediment(request)
        if (refused !== undefined) return Effect.succeed(refused)
        if (!takeOver(request)) return Effect.succeed(refuse(400))
        const { head = noHead, listeners = undefined } = server?.upgrades.get(incoming) ?? {}
        const others = endListeners(socket)
        handshake.opened = open(incoming, head, asked, decision.value)
        if (!handshake.opened) return Effect.succeed(refuse(400))
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
        return Effect.succeed(HttpServerResponse.empty({ status: 101 }))
      }
      return yield* Effect.ensuring(
        Effect.flatMap(decide, respond),
        Effect.sync(() => {
          if (accepted && !handshake.opened) asked.place.release()
        })
      )
    })

    // Effect's HTTP span would hold the whole URL, and a token with it.
    const context = Context.add(yield* Effect.context<Scope.Scope>(), HttpMiddleware.TracerDisabledWhen, () => true)
    const scope = yield* Effect.scope
    const fork = Effect.runForkWith(context)

    /** Has Effect's HTTP server write the response to a handshake that has not come through it. */
    const answer = (
      incoming: IncomingMessage,
      head: Buffer,
      respond: (request: Request) => Effect.Effect<Response>
    ): void => {
      const { socket } = incoming
      if (scope.state._tag === "Closed") return answerPlainly(socket, unavailable, departures)
      departures.letGo(socket)
      const response = Effect.flatMap(HttpServerRequest.HttpServerRequest, respond).pipe(Admission.logCrash(runtime))
      fork(Effect.map(
        NodeHttpServer.makeUpgradeHandler(noUpgrade, response, { scope }),
        (handler) => handler(incoming, socket, head)
      ))
    }

    const decided = (incoming: IncomingMessage, head: Buffer, asked: Asked, decision: Admission.Decision): void => {
      const { socket } = incoming
      if (typeof decision === "string") {
        if (decision !== "left") answerPlainly(socket, unavailable, departures)
        return
      }
      if (decision._tag === "Success") {
        const refused = impediment(new Admission.BareRequest(incoming))
        if (refused === undefined) return void open(incoming, head, asked, decision.value)
        asked.place.release()
        return answer(incoming, head, () => Effect.succeed(refused))
      }
      answer(incoming, head, (request) =>
        Effect.catch(
          Effect.failCause(decision.cause),
          (refused) => explain(refused, withoutToken(request, asked.protocol))
        ))
    }

    /** Nothing that goes wrong reaches the HTTP server, in the middle of whose work this is. */
    const failed = (socket: NetSocket, defect: unknown): void => {
      runtime.complaints.say("Error", "a handshake could not be answered", owner, Cause.die(defect))
      answerPlainly(socket, "500 Internal Server Error", departures)
    }

    const begin = (incoming: IncomingMessage, head: Buffer, pathParams: PathParams): void => {
      const { socket } = incoming
      const bare = new Admission.BareRequest(incoming)
      const screened = screen(bare, pathParams)
      if (Result.isFailure(screened)) return answer(incoming, head, () => Effect.succeed(screened.failure))
      const asked = screened.success
      let pending = true
      let giveUp = ignore
      const leave = () => giveUp()
      giveUp = ask(withoutToken(bare, asked.protocol), asked, context, (decision) => {
        // Without anything to wait for, nothing has been listened for.
        if (giveUp !== ignore) socket.off("error", ignore).off("end", cutOff).off("close", leave)
        pending = false
        if (socket.destroyed) return asked.place.release()
        try {
          decided(incoming, head, asked, decision)
        } catch (defect) {
          failed(socket, defect)
        }
      })
      if (!pending) return
      socket.on("error", ignore).on("end", cutOff).on("close", leave)
      if (socket.destroyed) leave()
    }

    const take: Take = (incoming, head, pathParams) => {
      try {
        begin(incoming, head, pathParams)
      } catch (defect) {
        failed(incoming.socket, defect)
      }
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

/** The same where the connection is over with it, and where Effect's HTTP server does not write it. */
const closing = HttpServerResponse.setHeader(busy, "connection", "close")
const unavailable = "503 Service Unavailable\r\nRetry-After: 1"

const responseOf = (response: Response): Response => {
  if (HttpServerResponse.isHttpServerResponse(response)) return response
  throw new TypeError("errorHandler must succeed with an HttpServerResponse")
}

/** The number of subprotocols that the log names, of those that a client asks for. */
const maxAskedShown = 10

/** A name of a subprotocol, as https://www.rfc-editor.org/rfc/rfc6455#section-4.1 has it. */
const tokenPattern = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/

const checkOptions = (owner: string, { errorHandler, middleware, subprotocols }: Options): void => {
  if (errorHandler !== undefined) callable(`${owner}: errorHandler`, errorHandler)
  if (middleware !== undefined) oneOf(`${owner}: middleware`, middleware, [true, false])
  if (subprotocols === undefined) return
  const isName = (name: unknown) => typeof name === "string" && tokenPattern.test(name)
  if (Array.isArray(subprotocols) && subprotocols.length > 0 && subprotocols.every(isName)) return
  throw new OptionError(`${owner}: subprotocols`, subprotocols, `a list of names, such as ["sip", "mqtt"]`)
}

/** In the words of `ws`. */
const payloadLimit = (bytes: number): number => bytes === Infinity ? 0 : bytes

/** Has `ws` limit the inflated size of a message if this library does not know `ws`, and cannot limit it by itself. */
const serverOptions = (
  { compress, maxFrameSize, maxMessageSize }: WireOptions,
  isKnown = isKnownWs()
): ServerOptions<typeof Connection> & { readonly closeTimeout: number } => ({
  noServer: true,
  clientTracking: false,
  closeTimeout,
  maxPayload: payloadLimit(compress && !isKnown ? Math.min(maxMessageSize, maxFrameSize) : maxFrameSize),
  perMessageDeflate: compress ? deflateOptions : false,
  WebSocket: Connection
})

const ignore = (): void => {}
