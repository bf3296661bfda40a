import { Cause, Context, type Duration, Effect, Exit, type LogLevel, Option, Predicate, Result } from "effect"
import { Cookies, Headers, type HttpServerRequest, type HttpServerResponse, HttpTraceContext } from "effect/http"
import type { IncomingMessage } from "node:http"
import * as Serializer from "../Serializer.ts"
import type * as Socket from "../Socket.ts"
import { FilterParameters } from "../Telemetry.ts"
import { attempt, effectOf, exitOf } from "./eager.ts"
import { filtered, filterParameters, formatDuration } from "./filterParameters.ts"
import { Guard } from "./guard.ts"
import type { PathParams } from "./handshakes.ts"
import { TokenBucket } from "./limits.ts"
import { networkOf } from "./networkOf.ts"
import * as Options from "./options.ts"
import { type CheckOrigin, compileOrigin } from "./origin.ts"
import { type Place, Places } from "./places.ts"
import { decodeQuery, type Params } from "./query.ts"
import { isLogged, report } from "./report.ts"
import { isCsrfToken } from "./session.ts"
import type { GivenUp, Shutdown } from "./shutdown.ts"
import type { Client, Runtime } from "./socket.ts"
import { inSpan } from "./tracing.ts"
import { brief } from "./untrusted.ts"

/** Options that all transports share. */
export interface TransportOptions {
  /**
   * Which pages may connect, by the `Origin` that browsers send; others get 403. Clients that send none are let in.
   *
   * - `true` (default): the origin's host is the endpoint's `host`. Without that it is compared with the `Host` header of the
   *   request, which lets pages pass whose name is made to lead here (DNS rebinding); a warning says so once.
   * - a list such as `["https://example.com", "//*.example.com"]`: without a scheme, or port, any will do.
   * - `"conn"`: scheme, host and port are those of the request, by its `Host` header as well.
   * - a function; or `false` for no check.
   */
  readonly checkOrigin?: CheckOrigin | undefined
  /** How `connect` gets the session of the web application; default: not at all. */
  readonly session?: SessionOptions | undefined
  /** Values that `connect` gets as `custom`, to tell mounts of the same socket apart. */
  readonly connectInfo?: { readonly [name: string]: unknown } | undefined
  /** At which level the HTTP request is logged; default false: not at all. */
  readonly transportLog?: LogLevel.Severity | false | undefined
  /**
   * The connections that a transport of the mount may have, on this node, including clients about which `connect` has not
   * yet decided; others are answered 503. WebSockets and long polling are counted apart. Default 100,000; Infinity for no limit.
   */
  readonly maxConnections?: number | undefined
  /**
   * The connections that may come from one address (of IPv6: from one network of 64 bits); others are answered 503. Behind a
   * proxy the address is the client's only where `HttpMiddleware.xForwardedHeaders` is used (and `middleware` of the
   * WebSocket transport is true), and many clients may share one. Default: no limit for WebSockets, a tenth of
   * `maxConnections` for long polling, whose sessions need no connection to stay.
   */
  readonly maxConnectionsPerAddress?: number | undefined
  /**
   * The time that `connect`, and then `errorHandler`, may take; after that it is interrupted, and the client answered 503. Default
   * 10 seconds; `"Infinity"` for no limit.
   */
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
  /** The address of the other end of the connection, a proxy say. */
  readonly peerAddress?: Option.Option<string> | undefined
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

/** Asks the application about a client. */
export interface Question {
  readonly request: Asking
  readonly params: Params
  readonly serializer: Serializer.Serializer
  readonly authToken: string | undefined
  /** It is released here, unless the client is accepted: then it goes with it. */
  readonly place: Place
  readonly context: Context.Context<never>
  /** Told once; at once, where the application decides at once. */
  readonly decided: (decision: Decision) => void
}

/** The fate of a client: it is accepted or refused, or its request was given up. */
export type Decision = Exit.Exit<Client, Socket.Refused> | GivenUp

/** The door of a mount, the same for every transport: who is let in, and as whom. */
export interface Admission {
  /** The door to functions of the application. */
  readonly guard: Guard
  /** Names the owner in lines of the log. */
  readonly owner: Readonly<Record<string, unknown>>
  /** Milliseconds that the application has to decide. */
  readonly connectTimeout: number
  /** Logs the request, where the transport's option says so. */
  readonly logRequest: (request: Asking) => void
  /** Says if a page of this origin may connect; a refusal is logged. Undefined where that cannot be told. */
  readonly checkOrigin: (request: Asking) => boolean | undefined
  /** The query with the path's variables; undefined where it is malformed. */
  readonly params: (request: Asking, pathParams: PathParams) => Params | undefined
  /** A place for a client; undefined where there is none, which is counted and logged. The client is answered 503. */
  readonly enter: (request: Asking) => Place | undefined
  /** Who does the talking, in the version that the client asks for; undefined if nobody can, which is logged. */
  readonly negotiate: (params: Params) => Serializer.Serializer | undefined
  /** Says that clients send a token which the mount does not read. */
  readonly ignoresToken: () => void
  /** Asks the application, at once. Returns how to give it up. */
  readonly ask: (question: Question) => () => void
  /** A line about what clients do, which may come again and again. */
  readonly complain: (level: "Error" | "Warn", line: string, about?: Readonly<Record<string, unknown>>) => void
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
  const protocol = request.protocol ?? forwardedProtocol(request)
  return protocol === undefined ? "encrypted" in incomingOf(request).socket : protocol === "https"
}

/**
 * `X-Forwarded-Proto` with a scheme of WebSockets, which `HttpMiddleware.xForwardedHeaders` passes over. It counts where that
 * middleware has believed the proxy, and so has put the client's address in the place of the proxy's.
 */
const forwardedProtocol = (request: Asking): "http" | "https" | undefined => {
  const { "x-forwarded-for": forwarded, "x-forwarded-proto": protocols } = request.headers
  if (forwarded === undefined || protocols === undefined || request.peerAddress === undefined) return undefined
  const address = Option.getOrUndefined(request.remoteAddress)
  if (address === undefined || address === Option.getOrUndefined(request.peerAddress)) return undefined
  const addresses = listOf(forwarded)
  const schemes = listOf(protocols)
  const index = addresses.length === 1 ? 0 : addresses.lastIndexOf(address)
  if (schemes.length !== addresses.length) return undefined
  const scheme = schemes[index]?.toLowerCase()
  return scheme === "wss" ? "https" : scheme === "ws" ? "http" : undefined
}

const listOf = (header: string): ReadonlyArray<string> => header.split(",").map((entry) => entry.trim())

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

/** Checks the options that all transports share, whoever they are given to. */
export const checkOptions = (owner: string, options: TransportOptions): void => {
  const { connectInfo, connectTimeout, maxConnections, maxConnectionsPerAddress, session, transportLog } = options
  const check = <A>(
    name: keyof TransportOptions,
    value: A | undefined,
    test: (option: string, value: A) => unknown
  ) => {
    if (value !== undefined) test(`${owner}: ${name}`, value)
  }
  check("maxConnections", maxConnections, (option, value) => Options.wholeNumber(option, value, { unlimited: true }))
  check(
    "maxConnectionsPerAddress",
    maxConnectionsPerAddress,
    (option, value) => Options.wholeNumber(option, value, { unlimited: true })
  )
  check("connectTimeout", connectTimeout, (option, value) => Options.duration(option, value, { unlimited: true }))
  check("transportLog", transportLog, levelOption)
  check("connectInfo", connectInfo, (option, value) => {
    if (!Predicate.isObject(value)) throw new Options.OptionError(option, value, "an object")
  })
  check("session", session, (option, value) => {
    if (!Predicate.isObject(value)) throw new Options.OptionError(option, value, "{ cookie, read }")
    Options.text(`${option}: cookie`, value.cookie)
    Options.callable(`${option}: read`, value.read)
    if (value.csrfTokenKey !== undefined) Options.text(`${option}: csrfTokenKey`, value.csrfTokenKey)
    if (value.checkCsrf !== undefined) Options.oneOf(`${option}: checkCsrf`, value.checkCsrf, [true, false])
  })
}

/** Checks at which level something is logged. */
export const levelOption = (option: string, value: unknown): void => {
  Options.oneOf(option, value, ["Trace", "Debug", "Info", "Warn", "Error", "Fatal", false])
}

/** The rate of lines about single clients, because each may connect as often as it likes. */
const lineRate = { perSecond: 100, burst: 1000 }

/** Says what is wrong with what `connect` has succeeded with. */
const problemOf = (client: unknown): string | undefined => {
  if (!Predicate.hasProperty(client, "assigns") || !Context.isContext(client.assigns)) {
    return "it is not Socket.accept()"
  }
  const id = Predicate.hasProperty(client, "id") ? client.id : undefined
  return id === undefined || typeof id === "string" ? undefined : "its id is no text"
}

/** @internal */
export const make = (
  acceptor: Socket.Acceptor,
  transport: string,
  host: string | undefined,
  shutdown: Shutdown,
  options: TransportOptions
): Admission => {
  const { name, runtime } = acceptor
  const { session } = options
  const owner = { socket: name, transport }
  checkOptions(`socket ${name}`, options)
  if (options.checkOrigin === false && session?.checkCsrf === false) {
    throw new RangeError(
      `socket ${name}: with checkOrigin and checkCsrf both off, every page could use a visitor's session; set one of them`
    )
  }
  const guard = new Guard(runtime.complaints)
  const originAllowed = compileOrigin(Options.given(options.checkOrigin, true), host, `socket ${name}: checkOrigin`)
  const meter = runtime.meter.transport(transport)
  const { transportLog = false } = options
  const { maxConnections = 100_000 } = options
  const defaultPerAddress = transport === "longpoll" ? Math.ceil(maxConnections / 10) : Infinity
  const { maxConnectionsPerAddress: maxPerAddress = defaultPerAddress } = options
  const places = new Places(maxConnections, maxPerAddress)
  const connectTimeout = Options.duration("connectTimeout", options.connectTimeout ?? "10 seconds", { unlimited: true })
  const addressOf = (request: Asking): string | undefined => {
    const address = maxPerAddress === Infinity ? undefined : Option.getOrUndefined(request.remoteAddress)
    return address === undefined ? undefined : networkOf(address)
  }
  const complain: Admission["complain"] = (level, line, about = {}) =>
    runtime.complaints.say(level, line, { ...owner, ...about })
  const deny = (limit: "connections" | "address" | "connect_timeout", line: string): void => {
    meter.limited[limit]++
    complain("Warn", line)
  }
  const shown = (value: unknown): unknown =>
    guard.call(
      { name: "FilterParameters", owner },
      () => filterParameters(value, Context.get(runtime.context, FilterParameters)),
      () => filtered
    )
  const lines = new TokenBucket(lineRate, runtime.system.clock)
  let omitted = 0
  /** Logs a line about one client, unless there are too many of them. */
  const note = (level: LogLevel.Severity, line: string, about: Readonly<Record<string, unknown>>): void => {
    if (!lines.take()) {
      omitted++
      return
    }
    report(level, runtime.context, line, omitted === 0 ? about : { ...about, omitted })
    omitted = 0
  }

  let lastVsn: unknown
  let negotiated = Serializer.negotiate(acceptor.serializers, lastVsn)

  const sessionOf = (request: Asking, params: Params): Effect.Effect<unknown> => {
    if (session === undefined || !Object.hasOwn(request.cookies, session.cookie)) return Effect.undefined
    const cookie = request.cookies[session.cookie] ?? ""
    return effectOf(session.read(cookie)).pipe(
      Effect.catch((error) =>
        Effect.sync(() => {
          // Only the message, because an error of a schema holds what is in the session.
          const reason = error instanceof Error ? { reason: brief(error.message) } : {}
          if (isLogged("Debug", runtime.context)) {
            note("Debug", "the session cookie is not accepted", { ...owner, ...reason })
          }
        })
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
    const accepted = Effect.flatMapEager(
      sessionOf(request, params),
      (session) => acceptor.connect(infoOf(request, params, authToken, session))
    )
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

  /** A success with anything else than `accept` makes is a fault. */
  const judge = (decision: Decision): Decision => {
    if (typeof decision === "string" || decision._tag === "Failure") return decision
    const problem = problemOf(decision.value)
    if (problem === undefined) return decision
    return Exit.die(new TypeError(`connect of the socket ${name} has succeeded with the wrong thing: ${problem}`))
  }

  const decidedIn = (
    { params, serializer }: Question,
    nanos: number,
    decision: Decision
  ): void => {
    meter.connectDuration.observe(nanos / 1e6)
    const result = typeof decision === "string" ? "interrupted" : resultOf(decision)
    meter[result]++
    if (decision === "late") {
      deny("connect_timeout", "the connect of a socket took longer than connectTimeout")
    }
    const { log: level } = acceptor
    if (!isLogged(level, runtime.context) || (result !== "accepted" && result !== "refused")) return
    const reason = typeof decision !== "string" && decision._tag === "Failure"
      ? Cause.findErrorOption(decision.cause)
      : Option.none()
    const id = typeof decision !== "string" && decision._tag === "Success" ? decision.value.id : undefined
    const what = result === "accepted" ? "CONNECTED TO" : "REFUSED CONNECTION TO"
    note(level, `${what} ${name} in ${formatDuration(nanos)}`, {
      transport,
      ...id === undefined ? {} : { id: brief(id) },
      serializer: serializer.name,
      parameters: shown(params),
      ...Option.isSome(reason) && reason.value.reason !== undefined
        ? { reason: shown(textOf(reason.value.reason)) }
        : {}
    })
  }

  return {
    guard,
    owner,
    connectTimeout,
    complain,
    logRequest: (request) => {
      if (!isLogged(transportLog, runtime.context)) return
      // The query may hold a token.
      const path = brief(splitAt(targetOf(request), "?")[0])
      note(transportLog, `${brief(incomingOf(request).method)} ${path}`, owner)
    },
    checkOrigin: (request) => {
      const { host, origin } = request.headers
      // Clients that are no browsers send none.
      if (origin === undefined) return true
      let allowed: boolean
      try {
        allowed = originAllowed(origin, { host, secure: isSecure(request) })
      } catch (defect) {
        guard.failed({ name: "checkOrigin", owner }, defect)
        return undefined
      }
      if (!allowed) {
        const line = "could not check origin: add it to checkOrigin, or set checkOrigin to false"
        complain("Error", line, { origin: brief(origin) })
      }
      return allowed
    },
    enter: (request) => {
      const place = places.take(addressOf(request))
      if (typeof place !== "string") return place
      deny(
        place,
        place === "connections"
          ? "a client was turned away: maxConnections is reached"
          : "a client was turned away: maxConnectionsPerAddress is reached"
      )
      return undefined
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
        complain("Warn", "the client asks for a version that no serializer supports", { vsn: shown(params["vsn"]) })
      }
      return negotiated
    },
    ignoresToken: () =>
      complain("Warn", "clients send an authToken, which is not read: set authToken of the mount to true"),
    ask: (question) => {
      const { authToken, context, decided, params, place, request } = question
      if (shutdown.begun) {
        place.release()
        decided("stopped")
        return () => {}
      }
      const start = runtime.system.nanos
      let accepted = false
      const settle = (decision: Decision): void => {
        const judged = judge(decision)
        accepted = typeof judged !== "string" && judged._tag === "Success"
        decidedIn(question, runtime.system.nanos - start, judged)
        decided(judged)
      }
      const release = (): void => {
        if (!accepted) place.release()
      }
      const decision = attempt(() => decide(request, params, authToken))
      const exit = exitOf(decision)
      if (exit === undefined) {
        return shutdown.run({ effect: decision, context, time: connectTimeout, done: settle, ended: release })
      }
      settle(exit)
      release()
      return () => {}
    }
  }
}

/** An error would be logged with its stack, and with a message that may hold what a client has said. */
const textOf = (reason: unknown): unknown => reason instanceof Error ? reason.message : reason

/** Has a crash logged, of `connect` say, which is answered 500. */
export const logCrash =
  ({ complaints, name: socket }: Runtime) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.tapCause(effect, (cause) =>
      Effect.sync(() => {
        if (Cause.hasDies(cause)) complaints.say("Error", "request to a socket crashed", { socket }, cause)
      }))
