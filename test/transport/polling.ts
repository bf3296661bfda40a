/** Nodes that are polled without a port, so that their time is the test's. */
import { Cause, Context, Deferred, Effect, Exit, Layer, Logger, Option, Scope } from "effect"
import { HttpRouter, HttpServerRequest, type HttpServerResponse } from "effect/http"
import { Socket as NetSocket } from "node:net"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import { settle } from "../support/node.ts"

/** What `connect` was told of the client. */
class Info extends Context.Service<Info, Socket.ConnectInfo>()("test/polling/Info") {}

/** What the channels of one node do, and have done. */
export interface Stage {
  /** A join of `slow:*` has begun, and waits for `gate`. */
  readonly entered: Deferred.Deferred<void>
  readonly gate: Deferred.Deferred<void>
  /** The events that channels have handled. */
  readonly handled: Array<string>
  readonly endings: Array<string>
  readonly infos: Array<Socket.ConnectInfo>
  /** Warnings and errors. */
  readonly log: Array<string>
}

const Room = Channel.make("room:*", { assigns: Info })
const Slow = Channel.make("slow:*")
const UserSocket = Socket.make("user_socket", { channels: [Room, Slow] })

const channels = (stage: Stage) => {
  const ending = (reason: Process.ExitReason) =>
    Effect.sync(() => void stage.endings.push(reason._tag === "Shutdown" ? String(reason.detail) : reason._tag))
  return Layer.mergeAll(
    Room.layer((room) =>
      Effect.succeed({
        handleIn: (event, payload) => {
          stage.handled.push(event)
          switch (event) {
            case "echo":
              return Effect.succeed(Channel.ok(payload))
            case "two":
              return Effect.andThen(room.push("one", {}), room.push("two", {}))
            case "fail":
              return Effect.fail({ reason: "failed" })
            default:
              return Effect.void
          }
        },
        terminate: ending
      })
    ),
    Slow.layer(() =>
      Deferred.succeed(stage.entered, undefined).pipe(
        Effect.andThen(Deferred.await(stage.gate)),
        Effect.as({})
      )
    )
  )
}

const socketLive = (stage: Stage) =>
  UserSocket.layer((info) => {
    stage.infos.push(info)
    if (info.params["as"] === "nobody") return Effect.fail(Socket.refuse("nobody"))
    const id = info.params["id"]
    return Effect.succeed(
      Socket.accept({ id: typeof id === "string" ? id : undefined, assigns: Context.make(Info, info) })
    )
  })

export interface Ask {
  /** With its `?`. */
  readonly query?: string
  readonly token?: string | undefined
  readonly body?: string | Uint8Array
  readonly headers?: Record<string, string>
}

/** What came back: of JSON answers the content, of others the empty text. */
export interface Told {
  readonly http: number
  readonly headers: Record<string, string>
  readonly body: unknown
}

type App = Effect.Effect<HttpServerResponse.HttpServerResponse, unknown, HttpServerRequest.HttpServerRequest>

export class Node {
  readonly stage: Stage
  readonly context: Context.Context<PubSub.PubSub | Process.System>
  /** Ends all that runs on the node. */
  readonly stop: Effect.Effect<void>
  private readonly app: App

  constructor(
    stage: Stage,
    context: Context.Context<PubSub.PubSub | Process.System>,
    stop: Effect.Effect<void>,
    app: App
  ) {
    this.stage = stage
    this.context = context
    this.stop = stop
    this.app = app
  }

  request(method: string, { body, headers = {}, query = "?vsn=2.0.0", token }: Ask = {}): Effect.Effect<Told> {
    const url = `http://here/socket/longpoll${query}${token === undefined ? "" : `&token=${token}`}`
    const init = { method, headers: { host: "here", ...headers }, ...(body === undefined ? {} : { body }) }
    // What is known of a connection.
    const source = Object.assign(new Request(url, init as RequestInit), { socket: new NetSocket() })
    const request = HttpServerRequest.fromWeb(source).modify({ remoteAddress: Option.some("127.0.0.1") })
    return this.app.pipe(
      Effect.provideService(HttpServerRequest.HttpServerRequest, request),
      Effect.orDie,
      Effect.map(({ body, headers, status }) => {
        const { "content-length": _, ...rest } = headers
        return {
          http: status,
          headers: rest,
          body: body._tag === "Uint8Array" ? JSON.parse(new TextDecoder().decode(body.body)) : ""
        }
      })
    )
  }

  /** The token of a new session. */
  start(query?: string): Effect.Effect<string> {
    return Effect.map(this.get(undefined, query), ({ token }) => String(token))
  }

  /** The content of what a GET is answered; the frames are decoded. */
  get(token?: string, query?: string): Effect.Effect<Record<string, unknown>> {
    return Effect.map(this.request("GET", { token, ...(query === undefined ? {} : { query }) }), ({ body }) => {
      const { messages, ...rest } = body as { messages?: ReadonlyArray<string> }
      return messages === undefined ? rest : { ...rest, messages: messages.map((message) => JSON.parse(message)) }
    })
  }

  /** The status that a POST is answered, of its JSON or else the HTTP one; the channels have done what they were told. */
  post(token: string | undefined, body: string | Uint8Array, type = "application/x-ndjson"): Effect.Effect<unknown> {
    return Effect.map(
      this.request("POST", { token, body, headers: { "content-type": type } }),
      ({ body, http }) => body === "" ? `HTTP ${http}` : (body as { status: unknown }).status
    ).pipe(Effect.tap(settle))
  }

  /** Posts one message after the other. */
  say(token: string, ...frames: ReadonlyArray<ReadonlyArray<unknown>>): Effect.Effect<unknown> {
    return this.post(token, frames.map((frame) => JSON.stringify(frame)).join("\n"))
  }

  run<A, E>(effect: Effect.Effect<A, E, PubSub.PubSub | Process.System>): Effect.Effect<A, E> {
    return Effect.provideContext(effect, this.context)
  }
}

/** Starts a node; it stops with the test's scope. */
export const start = Effect.fnUntraced(function*(
  longpoll: Endpoint.LongPollOptions | true = true,
  mount: Partial<Endpoint.Options> = {},
  pubsub: Layer.Layer<PubSub.PubSub | Process.System> = PubSub.layer
) {
  const stage: Stage = {
    entered: Deferred.makeUnsafe<void>(),
    gate: Deferred.makeUnsafe<void>(),
    handled: [],
    endings: [],
    infos: [],
    log: []
  }
  const logger = Logger.make(({ cause, logLevel, message }) => {
    if (logLevel !== "Error" && logLevel !== "Warn") return
    stage.log.push(`${logLevel} ${String(Array.isArray(message) ? message[0] : message)} ${Cause.pretty(cause)}`)
  })
  const scope = yield* Scope.make()
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => stop)
  const context = yield* Layer.buildWithScope(Layer.merge(pubsub, Logger.layer([logger])), scope)
  const app = yield* HttpRouter.toHttpEffect(
    Endpoint.mount(UserSocket, { path: "/socket", host: "here", websocket: false, longpoll, ...mount }).pipe(
      Layer.provide([channels(stage), socketLive(stage)])
    )
  ).pipe(Effect.provideContext(context), Effect.provideService(Scope.Scope, scope))
  return new Node(stage, context, stop, Effect.scoped(Effect.provideContext(app, context)))
})

/** Nodes that are connected with each other; `down` are cut off. */
export const cluster = (...names: ReadonlyArray<string>) => {
  const nodes = new Map<string, (topic: string, message: unknown) => void>()
  const down = new Set<string>()
  const sent: Array<unknown> = []
  const to = (node: string, topic: string, message: unknown) =>
    Effect.sync(() => {
      sent.push(message)
      if (!down.has(node)) nodes.get(node)?.(topic, structuredClone(message))
    })
  const layers = names.map((node) =>
    PubSub.layerAdapter((deliver) => {
      nodes.set(node, deliver)
      return Effect.succeed({
        node,
        broadcast: (topic: string, message: unknown) =>
          Effect.forEach(names.filter((name) => name !== node), (name) => to(name, topic, message), { discard: true }),
        direct: to,
        joined: () => Effect.void,
        left: () => Effect.void
      })
    })
  )
  return { layers, down, sent }
}
