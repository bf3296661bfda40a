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
import { ByteSize, type Context, type Duration, Effect, Option, Redacted, Result, type Scope } from "effect"
import { Headers, HttpIncomingMessage, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { createHmac } from "node:crypto"
import * as Admission from "../internal/admission.ts"
import { rateOf } from "../internal/limits.ts"
import * as Ndjson from "../internal/ndjson.ts"
import { networkOf } from "../internal/networkOf.ts"
import { duration, given, OptionError, wholeNumber } from "../internal/options.ts"
import { Answers } from "../internal/pollAnswers.ts"
import { type PostInHand, Posts } from "../internal/pollPosts.ts"
import { PollRelay, randomId } from "../internal/pollRelay.ts"
import { type PollPeer, PollSession } from "../internal/pollSession.ts"
import type { Params } from "../internal/query.ts"
import * as Shutdown from "../internal/shutdown.ts"
import { Unpolled } from "../internal/unpolled.ts"
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
  /**
   * The time for which a session's token is accepted, to the millisecond; default 14 days. The clocks of two nodes may differ
   * by a minute.
   */
  readonly tokenMaxAge?: Duration.Input | undefined
  /**
   * The secret behind the tokens, at least 20 bytes and the same on every node. With it a request may come to any node, and
   * reaches the session on its own one through `PubSub`. Default: a random one, which the other nodes do not know; then a
   * load balancer must send all requests of a client to the same node.
   */
  readonly secretKeyBase?: Redacted.Redacted<string> | string | undefined
  /** How long a request waits for a sign of life of a session on another node; default 2 seconds. */
  readonly pubsubTimeout?: Duration.Input | undefined
  /**
   * The largest body of a POST in bytes; a larger one is answered with HTTP 400. Default 8,000,000. Of one session that many
   * bytes may be read or wait at a time, in eight POSTs at most; others are answered 408.
   */
  readonly maxBody?: number | undefined
  /**
   * Limits the bytes that one client may post; the POSTs of a client that posts more wait until they may go on. Default
   * `{ perSecond: 5_000_000, burst: 10_000_000 }`; false for no limit.
   */
  readonly maxByteRate?: Socket.Rate | false | undefined
  /**
   * How many bytes of frames may wait for a client's next GET; a session with more ends, and its client connects again.
   * A single frame may be larger. Default 16,000,000.
   */
  readonly maxBuffer?: number | undefined
  /**
   * The sessions that may wait for their first request after the one that began them, on this node, a quarter of them from
   * one address; others are answered 503. One that is not used for 5 seconds ends. Default 1,000; Infinity for no limit.
   */
  readonly maxUnpolled?: number | undefined
  /**
   * For how long a client may take nothing of an answer that is on its way; then its HTTP connection is cut, an eighth of that
   * later at most. Default 30 seconds.
   */
  readonly stallTimeout?: Duration.Input | undefined
}

/** The defaults of {@link Options}. */
export const defaults = {
  path: "/longpoll",
  window: "10 seconds",
  tokenMaxAge: "14 days",
  pubsubTimeout: "2 seconds",
  maxBody: 8_000_000,
  maxByteRate: { perSecond: 5_000_000, burst: 10_000_000 },
  maxBuffer: 16_000_000,
  maxUnpolled: 1000,
  stallTimeout: "30 seconds"
} as const

/** The life of a session that is not used after it was begun, in milliseconds; a short window may end it before. */
const unpolledTime = 5000

/** The difference that the clocks of nodes may have. */
const leeway = "60 seconds"

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
    const owner = `socket ${acceptor.name}: longpoll`
    const millis = (name: "pubsubTimeout" | "window") =>
      duration(`${owner}: ${name}`, given(options[name], defaults[name]))
    const number = (name: "maxBody" | "maxBuffer" | "maxUnpolled") =>
      wholeNumber(`${owner}: ${name}`, given(options[name], defaults[name]), { unlimited: name !== "maxBody" })
    const tokenMaxAge = duration(`${owner}: tokenMaxAge`, given(options.tokenMaxAge, defaults.tokenMaxAge), {
      unlimited: true
    })
    const maxBody = number("maxBody")
    const times = { window: millis("window"), pubsubTimeout: millis("pubsubTimeout") }
    const limits = {
      window: times.window,
      maxBuffer: number("maxBuffer"),
      byteRate: rateOf(`${owner}: maxByteRate`, given(options.maxByteRate, defaults.maxByteRate))
    }
    const posts = new Posts(maxBody)
    const unpolled = new Unpolled(runtime.system.timers, number("maxUnpolled"), unpolledTime)
    checkSecret(`${owner}: secretKeyBase`, options.secretKeyBase)
    const answers = new Answers(
      runtime,
      duration(`${owner}: stallTimeout`, given(options.stallTimeout, defaults.stallTimeout), { unlimited: true })
    )

    const { secretKeyBase = randomId() } = options
    const tokens = yield* Token.make({ secretKeyBase })
    const salt = `long poll ${acceptor.name}`
    const sessions = new Map<string, PollSession>()
    let relay: PollRelay | undefined
    if (options.secretKeyBase !== undefined) {
      // Not to be guessed: clients may join topics that they make up, where a channel's pattern allows it.
      const topic = `phx:longpoll:${createHmac("sha256", textOf(secretKeyBase)).update(salt).digest("base64url")}`
      relay = new PollRelay(runtime, topic, times, (id) => {
        unpolled.remove(id)
        return sessions.get(id)
      })
      yield* relay.listen
    }

    const shutdown = yield* Shutdown.make(acceptor, () => relay?.release())
    const admission = Admission.make(acceptor, "longpoll", host, shutdown, options)

    /** The session that a request names, if it lives. */
    const find = Effect.fnUntraced(function*(request: Request, params: Params) {
      const token = request.headers["x-phoenix-longpoll-token"] ?? params["token"]
      if (typeof token !== "string") return undefined
      const address = yield* Effect.result(tokens.verify(salt, token, { maxAge: tokenMaxAge, leeway }))
      if (Result.isFailure(address) || !isAddress(address.success)) return undefined
      const [node, id] = address.success
      unpolled.remove(id)
      const isHere = node === runtime.pubsub.node
      const peer: PollPeer | undefined = isHere
        ? sessions.get(id)
        : yield* (relay?.reach(node, id) ?? Effect.undefined)
      return peer && { peer, token, id, isHere }
    })

    /** Says whether a session from this address would be one too many that nobody has polled yet. */
    const isCrowded = (address: string | undefined): boolean => {
      if (!unpolled.isFull(address)) return false
      runtime.meter.transport("longpoll").limited.unpolled++
      admission.complain("Warn", "a client was turned away: maxUnpolled is reached by sessions that nobody polls")
      return true
    }

    const connect = Effect.fnUntraced(function*(request: Request, params: Params) {
      const serializer = admission.negotiate(params)
      if (serializer === undefined) return json({ status: 403 })
      const remote = Option.getOrUndefined(request.remoteAddress)
      const address = remote === undefined ? undefined : networkOf(remote)
      if (isCrowded(address)) return busy
      const place = admission.enter(request)
      if (place === undefined) return busy
      const sent = request.headers[authTokenHeader]
      if (!authToken && sent !== undefined) admission.ignoresToken()
      const secret = authToken ? sent : undefined
      let accepted = false
      let opened = false
      const decide = Effect.contextWith((context: Context.Context<never>) =>
        Effect.callback<Admission.Decision>((resume) => {
          const giveUp = admission.ask({
            request: withoutToken(request, secret),
            params,
            serializer,
            authToken: secret,
            place,
            context,
            decided: (decision) => {
              accepted = typeof decision !== "string" && decision._tag === "Success"
              resume(Effect.succeed(decision))
            }
          })
          return Effect.sync(giveUp)
        })
      )
      const begin = Effect.fnUntraced(function*(decision: Admission.Decision) {
        if (typeof decision === "string") return busy
        if (decision._tag === "Failure") {
          return yield* Effect.catch(Effect.failCause(decision.cause), () => Effect.succeed(json({ status: 403 })))
        }
        const id = randomId()
        const token = yield* tokens.sign(salt, [runtime.pubsub.node, id], { maxAge: tokenMaxAge })
        if (shutdown.begun) return empty(503)
        // Others may have come while it was asked.
        if (isCrowded(address)) return busy
        const session = new PollSession(runtime, limits, () => {
          unpolled.remove(id)
          sessions.delete(id)
        })
        const server = acceptor.open(session, serializer, decision.value, place)
        opened = true
        sessions.set(id, session)
        unpolled.add(id, address, () => session.stop("inactive"))
        session.start(server)
        return json({ status: 410, token, messages: [] })
      })
      return yield* Effect.ensuring(
        Effect.flatMap(decide, begin),
        Effect.sync(() => {
          if (accepted && !opened) place.release()
        })
      )
    })

    const poll = Effect.fnUntraced(function*(request: Request, params: Params) {
      const found = yield* find(request, params)
      if (found === undefined) return shutdown.begun ? empty(503) : yield* connect(request, params)
      const { messages, status } = yield* found.peer.poll
      if (messages.length > 0) answers.watch(Admission.incomingOf(request).socket, messages)
      return json(status === 410 ? { status, messages } : { status, token: found.token, messages })
    })

    const publish = Effect.fnUntraced(function*(request: Request, params: Params) {
      const found = yield* find(request, params)
      if (found === undefined) return json({ status: 410 })
      // Before its body takes up memory.
      const post = found.peer.crowded ? undefined : posts.enter(found.id, bodyLengthOf(request))
      if (post === undefined) return json({ status: 408 })
      return yield* Effect.ensuring(read(found, request, post), Effect.sync(post.leave))
    })

    const read = Effect.fnUntraced(function*({ isHere, peer }: Found, request: Request, post: PostInHand) {
      const body = yield* Effect.result(
        shutdown.unlessOver(
          Effect.provideService(request.arrayBuffer, HttpIncomingMessage.MaxBodySize, ByteSize.bytes(post.bytes)),
          undefined
        )
      )
      // With less room than any may have it is those before it that leave none.
      if (Result.isFailure(body)) return post.bytes < maxBody ? json({ status: 408 }) : empty(400)
      // The server stops, and waits for nobody who has more to say.
      if (body.success === undefined) return empty(503)
      post.bytes = body.success.byteLength
      const text = Ndjson.decodeText(body.success)
      const frames = Ndjson.isNdjson(request.headers["content-type"])
        ? Result.flatMap(text, Ndjson.decodeLines)
        : Result.map(text, (text) => [text])
      if (Result.isFailure(frames)) return empty(frames.failure === "base64" ? 500 : 400)
      const published = peer.publish(frames.success)
      // Sessions of this node end with it; others may take their time.
      return json({ status: yield* isHere ? published : shutdown.unlessOver(published, 408) })
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
      const allowed = admission.checkOrigin(request)
      if (allowed === undefined) return empty(500)
      if (!allowed) return json({ status: 403 })
      const response = yield* answer(request, params)
      // The HTTP server would wait for what the client may ask next.
      return shutdown.begun ? HttpServerResponse.setHeader(response, "connection", "close") : response
    })
  })

const authTokenHeader = "x-phoenix-authtoken"

/** The token is no header that an application would look for, or log. */
const withoutToken = (request: Request, token: string | undefined): Request =>
  token === undefined ? request : request.modify({ headers: Headers.remove(request.headers, authTokenHeader) })

/** The bytes of a body, where that is said beforehand, as browsers do. */
const bodyLengthOf = (request: Request): number | undefined => {
  const length = Number(request.headers["content-length"])
  return Number.isSafeInteger(length) ? length : undefined
}

const textOf = (secret: Redacted.Redacted<string> | string): string =>
  Redacted.isRedacted(secret) ? Redacted.value(secret) : secret

const checkSecret = (option: string, secret: Options["secretKeyBase"]): void => {
  if (secret === undefined) return
  const text: unknown = Redacted.isRedacted(secret) ? Redacted.value(secret) : secret
  const bytes = typeof text === "string" ? Buffer.byteLength(text) : 0
  if (bytes >= 20) return
  // A secret is not to be read in a log, not even a short one.
  const value = typeof text === "string" ? `${bytes} bytes` : text
  throw new OptionError(option, value, "a text, redacted or not, that needs at least 20 bytes")
}

/** A session that a request names, on this node or on another one. */
interface Found {
  readonly id: string
  readonly token: string
  readonly isHere: boolean
  readonly peer: PollPeer
}

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
