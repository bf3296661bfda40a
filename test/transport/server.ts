/** A server on a real port, for tests. */
import { NodeHttpServer } from "@effect/platform-node"
import { Cause, Context, Effect, Exit, Layer, Logger, Scope } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { once } from "node:events"
import { createServer } from "node:http"
import { type ClientOptions, WebSocket } from "ws"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"

/** What `connect` was told of the client. */
export class Info extends Context.Service<Info, Socket.ConnectInfo>()("test/Info") {}

/** How the channels of the server have ended, oldest first. */
export const endings: Array<string> = []

const Room = Channel.make("room:*", { assigns: Info })
const RoomLive = Room.layer((room, payload) =>
  Effect.succeed({
    reply: payload,
    handleIn: (event, payload) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "info":
          return Effect.map(Info, ({ params, peerData, transport, uri }) =>
            Channel.ok({ params, peerData, transport, uri }))
        case "shout":
          return Effect.as(room.broadcast("shout", payload), Channel.ok())
        case "die":
          return Effect.die(new Error("asked for a crash"))
        default:
          return Effect.fail({ reason: "no such event" })
      }
    },
    terminate: (reason) =>
      Effect.sync(() =>
        void endings.push(reason._tag === "Shutdown" ? String(reason.detail) : reason._tag)
      )
  })
)

export const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer((info) => {
  if (info.params["token"] === "bad") return Effect.fail(Socket.refuse("bad token"))
  if (info.params["token"] === "hang") {
    endings.push("connecting")
    return Effect.onInterrupt(Effect.never, () => Effect.sync(() => endings.push("interrupted")))
  }
  if (info.params["token"] === "die") return Effect.die(new Error("connect dies"))
  const id = info.params["id"]
  return Effect.succeed(
    Socket.accept({ id: typeof id === "string" ? id : undefined, assigns: Context.make(Info, info) })
  )
})

export interface TestServer {
  readonly port: number
  /** Runs an effect on the node that is being served. */
  readonly run: <A, E>(effect: Effect.Effect<A, E, PubSub.PubSub | Process.System>) => Promise<A>
  /** Stops the server, with all its connections. */
  readonly stop: Effect.Effect<void>
  /** Error lines of the log. */
  readonly errors: Array<string>
}

/** The ways of a handshake, by what is added to the name of a test. */
export const ways: ReadonlyArray<readonly [suffix: string, of: (mount: Endpoint.Options) => Endpoint.Options]> = [
  ["", (mount) => mount],
  [
    ", through the router",
    ({ websocket = true, ...mount }) => ({
      ...mount,
      websocket: websocket !== false && { ...websocket === true ? {} : websocket, middleware: true }
    })
  ]
]

const Hello = HttpRouter.add("GET", "/hello", HttpServerResponse.text("hello"))

const own = Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })

/** An HTTP server that knows nothing of sockets. */
export const plain = NodeHttpServer.layer(createServer, {
  port: 0,
  host: "127.0.0.1",
  disablePreemptiveShutdown: true
})

/** Starts a server; it stops with the test's scope. */
export const start = Effect.fnUntraced(function*(
  mounts: ReadonlyArray<Endpoint.Options>,
  http: typeof plain = own
) {
  const errors: Array<string> = []
  const logger = Logger.make(({ cause, logLevel, message }) => {
    if (logLevel !== "Error" && logLevel !== "Warn") return
    errors.push(`${logLevel} ${String(Array.isArray(message) ? message[0] : message)} ${Cause.pretty(cause)}`)
  })
  const app = Layer.mergeAll(
    Hello,
    ...mounts.map((mount) => Endpoint.mount(UserSocket, { host: "127.0.0.1", ...mount }))
  )
  const live = HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide([RoomLive, UserSocketLive]),
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(http),
    Layer.provide(Logger.layer([logger]))
  )
  const scope = yield* Scope.make()
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => stop)
  const context = yield* Layer.buildWithScope(live, scope)
  const { address } = Context.get(context, HttpServer.HttpServer)
  const server: TestServer = {
    port: "port" in address ? address.port : 0,
    run: (effect) => Effect.runPromiseWith(context)(effect),
    stop,
    errors
  }
  return server
})

/** A WebSocket client that keeps what it gets until it is asked for. */
export class Client {
  readonly ws: WebSocket
  private readonly received: Array<unknown> = []
  private waiting: ((frame: unknown) => void) | undefined
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>

  constructor(url: string, options: ClientOptions = {}) {
    this.ws = new WebSocket(url, { perMessageDeflate: false, ...options })
    this.ws.on("error", () => {})
    this.ws.on("message", (data: Buffer, binary: boolean) => {
      const frame = binary ? new Uint8Array(data) : JSON.parse(data.toString())
      const { waiting } = this
      this.waiting = undefined
      if (waiting === undefined) this.received.push(frame)
      else waiting(frame)
    })
    this.closed = new Promise((resolve) => {
      this.ws.on("close", (code, reason) => resolve({ code, reason: reason.toString() }))
    })
  }

  static async open(url: string, options?: ClientOptions): Promise<Client> {
    const client = new Client(url, options)
    await once(client.ws, "open")
    return client
  }

  /** The status of a refused handshake. */
  static async refused(url: string, options?: ClientOptions): Promise<number> {
    const client = new Client(url, options)
    return new Promise((resolve, reject) => {
      client.ws.on("unexpected-response", (request, response) => {
        response.resume()
        request.destroy()
        resolve(response.statusCode ?? 0)
      })
      client.ws.on("open", () => reject(new Error("the connection was accepted")))
    })
  }

  send(frame: string | Uint8Array | ReadonlyArray<unknown>): void {
    this.ws.send(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame))
  }

  async next(): Promise<unknown> {
    const frame = this.received.shift()
    return frame ?? new Promise((resolve) => {
      this.waiting = resolve
    })
  }

  /** Sends a frame; what comes back first. */
  async ask(frame: string | Uint8Array | ReadonlyArray<unknown>): Promise<unknown> {
    this.send(frame)
    return this.next()
  }

  async join(topic = "room:1"): Promise<void> {
    await this.ask(["1", "1", topic, "phx_join", {}])
  }
}

/** Resolves when `condition` holds; it is looked at on every turn of the event loop. */
export const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve))
}
