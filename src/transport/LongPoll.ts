/**
 * The long-poll transport: carries frames over plain HTTP, where WebSockets do not get through. It is what phoenix.js falls
 * back to with `longPollFallbackMs`.
 *
 * A client asks with GET for what there is for it, and is answered at once or when there is something; what it has to say
 * it posts. Between its requests a session stands for the connection; the client names it by its token.
 *
 * A binary frame to the client is a string with one character for each byte, since JSON has no bytes. phoenix.js takes
 * every string for JSON, so a client that is sent binary payloads has to turn it back:
 *
 * ```js
 * const { decode } = socket
 * socket.decode = (data, callback) => {
 *   const binary = typeof data === "string" && data.charCodeAt(0) < 32
 *   decode(binary ? Uint8Array.from(data, (c) => c.charCodeAt(0)).buffer : data, callback)
 * }
 * ```
 */
import { ByteSize, Duration, Effect, Redacted, Result, type Scope } from "effect"
import { Headers, HttpIncomingMessage, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { createHmac } from "node:crypto"
import * as Admission from "../internal/admission.ts"
import * as Ndjson from "../internal/ndjson.ts"
import { PollRelay, randomId } from "../internal/pollRelay.ts"
import { type PollPeer, PollSession } from "../internal/pollSession.ts"
import type { Params } from "../internal/query.ts"
import * as Shutdown from "../internal/shutdown.ts"
import * as Process from "../Process.ts"
import type * as Socket from "../Socket.ts"
import * as Token from "../Token.ts"

/** Options of the long-poll transport. */
export interface Options extends Admission.TransportOptions {
  /** Where it listens, below the mount; default `/longpoll`. */
  readonly path?: `/${string}` | undefined
  /**
   * How long a GET waits for frames before it is answered 204, and a POST for one of its entries to be handled before it is
   * answered 408; default 10 seconds. A session that nobody has polled for one and a half windows ends, when that is next
   * looked at: every one and a half windows. Keep it below the `longpollerTimeout` of clients, which is 20 seconds.
   */
  readonly window?: Duration.Input | undefined
  /** How long a session's token is accepted, to the millisecond; default 14 days. */
  readonly tokenMaxAge?: Duration.Input | undefined
  /**
   * The secret behind the tokens, at least 20 bytes and the same on every node. With it a request may come to any node, and
   * reaches the session on its own one through `PubSub`. Default: a random one, which the other nodes do not know; then a
   * load balancer must send all requests of a client to the same node.
   */
  readonly secretKeyBase?: Redacted.Redacted<string> | string | undefined
  /** How long a request waits for a sign of life of a session on another node; default 2 seconds. */
  readonly pubsubTimeout?: Duration.Input | undefined
  /** The largest body of a POST in bytes; a larger one is answered with HTTP 400. Default 8,000,000. */
  readonly maxBody?: number | undefined
  /**
   * How many bytes of frames may wait for a client's next GET; a session with more ends, and its client connects again.
   * A single frame may be larger. Default 16,000,000.
   */
  readonly maxBuffer?: number | undefined
}

/** The defaults of {@link Options}. */
export const defaults = {
  path: "/longpoll",
  window: "10 seconds",
  tokenMaxAge: "14 days",
  pubsubTimeout: "2 seconds",
  maxBody: 8_000_000,
  maxBuffer: 16_000_000
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
    const { runtime } = acceptor
    const admission = Admission.make(acceptor, "longpoll", host, options)
    const tokenMaxAge = options.tokenMaxAge ?? defaults.tokenMaxAge
    const maxBody = ByteSize.bytes(options.maxBody ?? defaults.maxBody)
    const times = {
      window: Duration.toMillis(options.window ?? defaults.window),
      pubsubTimeout: Duration.toMillis(options.pubsubTimeout ?? defaults.pubsubTimeout)
    }
    const limits = { window: times.window, maxBuffer: options.maxBuffer ?? defaults.maxBuffer }

    const { secretKeyBase = randomId() } = options
    const tokens = yield* Token.make({ secretKeyBase })
    const salt = `long poll ${acceptor.name}`
    const sessions = new Map<string, PollSession>()
    let relay: PollRelay | undefined
    if (options.secretKeyBase !== undefined) {
      // Not to be guessed: clients may join topics that they make up, where a channel's pattern allows it.
      const topic = `phx:longpoll:${createHmac("sha256", textOf(secretKeyBase)).update(salt).digest("base64url")}`
      relay = new PollRelay(runtime, topic, times, (id) => sessions.get(id))
      yield* relay.listen
    }

    const shutdown = yield* Shutdown.make(acceptor, () => relay?.release())

    /** The session that a request names, if it lives. */
    const find = Effect.fnUntraced(function*(request: Request, params: Params) {
      const token = request.headers["x-phoenix-longpoll-token"] ?? params["token"]
      if (typeof token !== "string") return undefined
      const address = yield* Effect.result(tokens.verify(salt, token, { maxAge: tokenMaxAge }))
      if (Result.isFailure(address) || !isAddress(address.success)) return undefined
      const [node, id] = address.success
      const peer: PollPeer | undefined = node === runtime.pubsub.node
        ? sessions.get(id)
        : yield* (relay?.reach(node, id) ?? Effect.undefined)
      return peer && { peer, token }
    })

    const connect = Effect.fnUntraced(function*(request: Request, params: Params) {
      if (admission.isFull(request)) return busy
      const serializer = admission.negotiate(params)
      if (serializer === undefined) return json({ status: 403 })
      const secret = authToken ? request.headers[authTokenHeader] : undefined
      const connected = yield* Effect.result(
        admission.connect(withoutToken(request, secret), params, serializer, secret)
      )
      if (Result.isFailure(connected)) return json({ status: 403 })
      if (shutdown.begun) return empty(503)
      if (admission.isFull(request)) return busy
      const id = randomId()
      const token = yield* tokens.sign(salt, [runtime.pubsub.node, id], { maxAge: tokenMaxAge })
      const session = new PollSession(runtime, limits, () => void sessions.delete(id))
      sessions.set(id, session)
      session.start(acceptor.open(session, serializer, connected.success))
      return json({ status: 410, token, messages: [] })
    })

    const poll = Effect.fnUntraced(function*(request: Request, params: Params) {
      const found = yield* find(request, params)
      if (found === undefined) return shutdown.begun ? empty(503) : yield* connect(request, params)
      const { messages, status } = yield* found.peer.poll
      return json(status === 410 ? { status, messages } : { status, token: found.token, messages })
    })

    const publish = Effect.fnUntraced(function*(request: Request, params: Params) {
      const found = yield* find(request, params)
      if (found === undefined) return json({ status: 410 })
      // Before its body takes up memory.
      if (found.peer.crowded) return json({ status: 408 })
      const body = yield* Effect.result(
        Effect.provideService(request.arrayBuffer, HttpIncomingMessage.MaxBodySize, maxBody)
      )
      if (Result.isFailure(body)) return empty(400)
      const text = Ndjson.decodeText(body.success)
      const frames = request.headers["content-type"] === "application/x-ndjson"
        ? Result.flatMap(text, Ndjson.decodeLines)
        : Result.map(text, (text) => [text])
      if (Result.isFailure(frames)) return empty(frames.failure === "base64" ? 500 : 400)
      return json({ status: yield* found.peer.publish(frames.success) })
    })

    const answer = (request: Request, params: Params): Effect.Effect<Response> => {
      switch (request.method) {
        case "GET":
          return poll(request, params)
        case "POST":
          return publish(request, params)
        case "OPTIONS":
          return Effect.succeed(empty(200, {
            "access-control-allow-headers": request.headers["access-control-request-headers"] ?? "",
            "access-control-allow-methods": "get, post, options",
            "access-control-max-age": "3600"
          }))
        default:
          return Effect.succeed(empty(400))
      }
    }

    return Effect.fnUntraced(function*(request, pathParams) {
      const params = admission.params(request, pathParams)
      if (params === undefined) return empty(400)
      admission.logRequest(request)
      if (!admission.checkOrigin(request)) return json({ status: 403 })
      const response = yield* answer(request, params)
      // The HTTP server would wait for what the client may ask next.
      return shutdown.begun ? HttpServerResponse.setHeader(response, "connection", "close") : response
    })
  })

const authTokenHeader = "x-phoenix-authtoken"

/** The token is no header that an application would look for, or log. */
const withoutToken = (request: Request, token: string | undefined): Request =>
  token === undefined ? request : request.modify({ headers: Headers.remove(request.headers, authTokenHeader) })

const textOf = (secret: Redacted.Redacted<string> | string): string =>
  Redacted.isRedacted(secret) ? Redacted.value(secret) : secret

/** Where a session is: what its token says. */
const isAddress = (data: unknown): data is readonly [node: string, id: string] =>
  Array.isArray(data) && data.length === 2 && data.every((part) => typeof part === "string")

const anyOrigin = { "access-control-allow-origin": "*" }

const json = (body: Record<string, unknown>): Response =>
  HttpServerResponse.text(JSON.stringify(body), {
    contentType: "application/json; charset=utf-8",
    headers: { ...anyOrigin, "cache-control": "no-store" }
  })

const empty = (status: number, headers: Record<string, string> = {}): Response =>
  HttpServerResponse.empty({
    status,
    headers: { ...anyOrigin, ...headers, "content-length": "0", "cache-control": "max-age=0, private, must-revalidate" }
  })

const busy = empty(503, { "retry-after": "1" })
