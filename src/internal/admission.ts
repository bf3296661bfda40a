import { Cause, Context, Duration, Effect, type Exit, type LogLevel, Option, Predicate, Result } from "effect"
import { Cookies, Headers, type HttpServerRequest, type HttpServerResponse, HttpTraceContext } from "effect/http"
import type { IncomingMessage } from "node:http"
import * as Serializer from "../Serializer.ts"
import type * as Socket from "../Socket.ts"
import { FilterParameters } from "../Telemetry.ts"
import { attempt, exitOf } from "./eager.ts"
import { filterParameters, formatDuration } from "./filterParameters.ts"
import type { PathParams } from "./httpServer.ts"
import { type CheckOrigin, compileOrigin } from "./origin.ts"
import { decodeQuery, type Params } from "./query.ts"
import { isLogged, report } from "./report.ts"
import { isCsrfToken } from "./session.ts"
import type { Client } from "./socket.ts"
import { inSpan } from "./tracing.ts"

/** Options that all transports share. */
export interface TransportOptions {
  /**
   * Which pages may connect, by the `Origin` that browsers send; others get 403. Clients that send none are let in.
   *
   * - `true` (default): the origin's host is the endpoint's `host`.
   * - a list such as `["https://example.com", "//*.example.com"]`: without a scheme, or port, any will do.
   * - `"conn"`: scheme, host and port are those of the request.
   * - a function; or `false` for no check.
   */
  readonly checkOrigin?: CheckOrigin | undefined
  /** How `connect` gets the session of the web application; default: not at all. */
  readonly session?: SessionOptions | undefined
  /** Values that `connect` gets as `custom`, to tell mounts of the same socket apart. */
  readonly connectInfo?: { readonly [name: string]: unknown } | undefined
  /** At which level the HTTP request is logged; default false: not at all. */
  readonly transportLog?: LogLevel.Severity | false | undefined
  /** How many connections the mount may have, on this node; others are answered 503. Default 100,000. */
  readonly maxConnections?: number | undefined
  /**
   * How many of them may come from one address; others are answered 503. Behind a proxy the address is the client's only
   * where `HttpMiddleware.xForwardedHeaders` is used (and `middleware` of the WebSocket transport is true), and many clients
   * may share one. Default: no limit.
   */
  readonly maxConnectionsPerAddress?: number | undefined
  /** How long `connect` may take; then it is interrupted, and the client answered 503. Default 10 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
}

/**
 * Where the session of the web application is.
 *
 * A browser sends cookies along whichever page connects. So the session is only handed out to pages that know a secret of
 * it: they send `_csrf_token` as a param, equal to what the session holds under `csrfTokenKey` (or masked, as Phoenix's
 * `get_csrf_token` gives it to a page). Without it `session` is undefined, and the client is not refused for that.
 */
export interface SessionOptions {
  /** The name of the cookie. */
  readonly cookie: string
  /** Reads the cookie; with a failure, which is logged as a debug line, there is no session. */
  readonly read: (cookie: string) => Effect.Effect<unknown, unknown>
  /** Where the session holds the token; default `_csrf_token`. */
  readonly csrfTokenKey?: string | undefined
  /** Whether the token is asked for; default true. Without it, `checkOrigin` must not be off. */
  readonly checkCsrf?: boolean | undefined
}

/** What the options of a mount say to its transports. */
export interface Mount {
  /** The host that `checkOrigin: true` compares with. */
  readonly host: string | undefined
  readonly authToken: boolean
}

/** What is looked at of a request: one of Effect's has it all. */
export interface Asking extends Pick<HttpServerRequest.HttpServerRequest, "cookies" | "protocol" | "remoteAddress"> {
  readonly source: object
  readonly headers: RequestHeaders
}

interface RequestHeaders {
  readonly [name: string]: string | undefined
}

/** A request that has not come through Effect's HTTP server: one of those takes longer to make than all the rest. */
export class BareRequest implements Asking {
  readonly source: IncomingMessage
  readonly headers: RequestHeaders
  readonly protocol = undefined

  /** @param headers - by default as Node has them; the one that is no string belongs to responses */
  constructor(source: IncomingMessage, headers: RequestHeaders = source.headers as RequestHeaders) {
    this.source = source
    this.headers = headers
  }

  modify({ headers }: { readonly headers: RequestHeaders }): BareRequest {
    return new BareRequest(this.source, headers)
  }

  get cookies(): Asking["cookies"] {
    return Cookies.parseHeader(this.headers["cookie"] ?? "")
  }

  get remoteAddress(): Asking["remoteAddress"] {
    return Option.fromNullishOr(this.source.socket.remoteAddress)
  }
}

/** The door of a mount, the same for every transport: who is let in, and as whom. */
export interface Admission {
  /** Logs the request, where the transport's option says so. */
  readonly logRequest: (request: Asking) => void
  /** Whether a page of this origin may connect; if not, it is logged. */
  readonly checkOrigin: (request: Asking) => boolean
  /** The query with the path's variables; undefined where it is malformed. */
  readonly params: (request: Asking, pathParams: PathParams) => Params | undefined
  /** Whether there is no room for a client, which is counted and logged. The client is answered 503. */
  readonly isFull: (request: Asking) => boolean
  /** Who does the talking, in the version that the client asks for; undefined if nobody can, which is logged. */
  readonly negotiate: (params: Params) => Serializer.Serializer | undefined
  /** Asks the application, at once; an Exit where it has decided at once. */
  readonly connect: (
    request: Asking,
    params: Params,
    serializer: Serializer.Serializer,
    authToken: string | undefined
  ) => Effect.Effect<Client, Socket.Refused>
}

const resultOf = (exit: Exit.Exit<unknown, unknown>): "accepted" | "refused" | "crashed" | "interrupted" => {
  if (exit._tag === "Success") return "accepted"
  return Cause.hasFails(exit.cause) ? "refused" : Cause.hasDies(exit.cause) ? "crashed" : "interrupted"
}

/** What a transport does with a request. */
export type Route = (
  request: HttpServerRequest.HttpServerRequest,
  pathParams: PathParams
) => Effect.Effect<HttpServerResponse.HttpServerResponse>

export const incomingOf = ({ source }: Asking): IncomingMessage => source as IncomingMessage

const isSecure = (request: Asking): boolean => {
  if (request.protocol !== undefined) return request.protocol === "https"
  return "encrypted" in incomingOf(request).socket
}

/** The path and query, also where the request line has the whole address. */
const targetOf = (request: Asking): string => {
  const { url = "" } = incomingOf(request)
  return url.startsWith("/") ? url : url.replace(/^[a-z]+:\/\/[^/?]*/i, "")
}

const uriOf = (request: Asking): Socket.Uri => {
  const scheme = isSecure(request) ? "https" : "http"
  const [path = "", query = ""] = splitAt(targetOf(request), "?")
  const authority = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(request.headers["host"] ?? "")
  return {
    scheme,
    host: authority?.[1] ?? authority?.[2] ?? "",
    port: Number(authority?.[3] ?? (scheme === "https" ? 443 : 80)),
    path,
    query
  }
}

const splitAt = (text: string, separator: string): ReadonlyArray<string> => {
  const index = text.indexOf(separator)
  return index === -1 ? [text] : [text.slice(0, index), text.slice(index + 1)]
}

const peerDataOf = (request: Asking): Socket.PeerData => {
  const { socket } = incomingOf(request)
  const certificate = "getPeerCertificate" in socket && typeof socket.getPeerCertificate === "function"
    ? socket.getPeerCertificate()
    : undefined
  return {
    address: Option.getOrUndefined(request.remoteAddress),
    port: socket.remotePort,
    sslCert: certificate?.raw
  }
}

/** @internal */
export const make = (
  acceptor: Socket.Acceptor,
  transport: string,
  host: string | undefined,
  options: TransportOptions
): Admission => {
  const { name, runtime } = acceptor
  const { session } = options
  if (options.checkOrigin === false && session?.checkCsrf === false) {
    throw new RangeError(
      `socket ${name}: with checkOrigin and checkCsrf both off, every page could use a visitor's session; set one of them`
    )
  }
  const originAllowed = compileOrigin(options.checkOrigin ?? true, host)
  const meter = runtime.meter.transport(transport)
  const { transportLog = false } = options
  const { maxConnections = 100_000, maxConnectionsPerAddress: maxPerAddress = Infinity } = options
  const connectTimeout = Duration.toMillis(Duration.fromInputUnsafe(options.connectTimeout ?? "10 seconds"))
  const addressOf = (request: Asking) =>
    maxPerAddress === Infinity ? undefined : Option.getOrUndefined(request.remoteAddress)
  const complain = (limit: "connections" | "address" | "connect_timeout", line: string) => {
    meter.limited[limit]++
    runtime.complaints.say("Warn", line, { socket: name, transport })
  }
  const shown = (params: unknown) => filterParameters(params, Context.get(runtime.context, FilterParameters))

  let lastVsn: unknown
  let negotiated = Serializer.negotiate(acceptor.serializers, lastVsn)

  const sessionOf = (request: Asking, params: Params): Effect.Effect<unknown> => {
    if (session === undefined || !Object.hasOwn(request.cookies, session.cookie)) return Effect.undefined
    const cookie = request.cookies[session.cookie] ?? ""
    return session.read(cookie).pipe(
      Effect.catch((error) =>
        // Of an error only the message: one of a schema holds what is in the session.
        Effect.logDebug("the session cookie is not accepted").pipe(
          Effect.annotateLogs({ socket: name, ...error instanceof Error ? { reason: error.message } : {} }),
          Effect.as(undefined)
        )
      ),
      Effect.map((found) => {
        if (session.checkCsrf === false || found === undefined || found === null) return found ?? undefined
        const key = session.csrfTokenKey ?? "_csrf_token"
        const token = Predicate.hasProperty(found, key) && Object.hasOwn(found, key) ? found[key] : undefined
        return isCsrfToken(token, params["_csrf_token"]) ? found : undefined
      })
    )
  }

  const infoOf = (
    request: Asking,
    params: Params,
    authToken: string | undefined,
    session: unknown
  ): Socket.ConnectInfo => ({
    params,
    transport,
    userAgent: request.headers["user-agent"],
    // Few ask for these, which take the most time.
    get headers() {
      return Headers.fromInput(request.headers)
    },
    get uri() {
      return uriOf(request)
    },
    get peerData() {
      return peerDataOf(request)
    },
    session,
    authToken,
    custom: options.connectInfo ?? {}
  })

  const decide = (
    request: Asking,
    params: Params,
    authToken: string | undefined
  ): Effect.Effect<Client, Socket.Refused> => {
    const address = addressOf(request)
    const asked = Effect.flatMapEager(
      sessionOf(request, params),
      (session) => acceptor.connect(infoOf(request, params, authToken, session))
    )
    const accepted = address === undefined
      ? asked
      : Effect.mapEager(asked, (client): Client => ({ ...client, address }))
    if (!runtime.tracing) return accepted
    return inSpan(
      "channels.connect",
      {
        parent: Option.getOrUndefined(HttpTraceContext.fromHeaders(Headers.fromInput(request.headers))),
        kind: "server",
        attributes: { "channels.socket": name, "channels.transport": transport }
      },
      (exit) => exit._tag === "Success" ? "ok" : resultOf(exit),
      (span) => Effect.map(accepted, (client): Client => ({ ...client, span }))
    )
  }

  /** Interrupts the application when it takes too long. */
  const inTime = <A, E>(decision: Effect.Effect<A, E>): Effect.Effect<A, E> => {
    if (connectTimeout === Infinity) return decision
    return Effect.withFiber((fiber) => {
      const { timers } = runtime.system
      const timer = timers.after(connectTimeout, () => {
        complain("connect_timeout", "the connect of a socket took longer than connectTimeout")
        fiber.interruptUnsafe()
      })
      return Effect.onExit(decision, () => Effect.sync(() => timers.cancel(timer)))
    })
  }

  return {
    logRequest: (request) => {
      if (!isLogged(transportLog, runtime.context)) return
      // The query may hold a token.
      report(transportLog, runtime.context, `${incomingOf(request).method} ${splitAt(targetOf(request), "?")[0]}`, {})
    },
    checkOrigin: (request) => {
      const { host, origin } = request.headers
      const allowed = originAllowed(origin, { host, secure: isSecure(request) })
      if (!allowed) {
        const line = "could not check origin: add it to checkOrigin, or set checkOrigin to false"
        report("Error", runtime.context, line, { socket: name, transport, origin })
      }
      return allowed
    },
    isFull: (request) => {
      if (runtime.socketGroup.children.size >= maxConnections) {
        complain("connections", "a client was turned away: maxConnections is reached")
        return true
      }
      const address = addressOf(request)
      if (address === undefined || (runtime.addresses.get(address) ?? 0) < maxPerAddress) return false
      complain("address", "a client was turned away: maxConnectionsPerAddress is reached")
      return true
    },
    params: (request, pathParams) => {
      const query = decodeQuery(splitAt(targetOf(request), "?")[1] ?? "")
      return Result.isFailure(query) ? undefined : Object.assign(query.success, pathParams)
    },
    negotiate: (params) => {
      // Mostly all clients ask for the same.
      if (params["vsn"] !== lastVsn) {
        lastVsn = params["vsn"]
        negotiated = Serializer.negotiate(acceptor.serializers, lastVsn)
      }
      if (negotiated === undefined) {
        const line = "the client asks for a version that no serializer supports"
        report("Warn", runtime.context, line, { socket: name, transport, vsn: shown(params["vsn"]) })
      }
      return negotiated
    },
    connect: (request, params, serializer, authToken) => {
      const start = runtime.system.nanos
      const decided = (exit: Exit.Exit<Client, Socket.Refused>): void => {
        const nanos = runtime.system.nanos - start
        meter.connectDuration.observe(nanos / 1e6)
        const result = resultOf(exit)
        meter[result]++
        const { log: level } = acceptor
        if (!isLogged(level, runtime.context) || (result !== "accepted" && result !== "refused")) return
        const reason = exit._tag === "Failure" ? Cause.findErrorOption(exit.cause) : Option.none()
        const what = result === "accepted" ? "CONNECTED TO" : "REFUSED CONNECTION TO"
        report(level, runtime.context, `${what} ${name} in ${formatDuration(nanos)}`, {
          transport,
          serializer: serializer.name,
          parameters: shown(params),
          ...Option.isSome(reason) && reason.value.reason !== undefined ? { reason: reason.value.reason } : {}
        })
      }
      const decision = attempt(() => decide(request, params, authToken))
      const exit = exitOf(decision)
      if (exit === undefined) return Effect.onExit(inTime(decision), (exit) => Effect.sync(() => decided(exit)))
      decided(exit)
      return exit
    }
  }
}

/** Has a crash logged, of `connect` say, which is answered 500. */
export const logCrash = (socket: string) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.tapCause(effect, (cause) =>
    Cause.hasDies(cause)
      ? Effect.logError("request to a socket crashed", cause).pipe(Effect.annotateLogs({ socket }))
      : Effect.void)
