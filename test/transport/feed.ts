/** A server whose clients are sent as much as they ask for, and a client that reads as much as it likes. */
import { Context, Effect, Exit, Layer, Logger, Metric, References, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { connect, type Socket as NetSocket } from "node:net"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { frame, handshake, request } from "../attacks/wire.ts"
import { until } from "./server.ts"

const kilobyte = "x".repeat(1000)

/** Has the client sent what it asks for, and says how it has ended. */
const Feed = Channel.make("feed")
const FeedSocket = Socket.make("feed_socket", { channels: [Feed], log: false })

/** Starts a server whose clients are sent as many kilobytes as they ask for. */
export const serve = Effect.fnUntraced(function*(websocket: Endpoint.WebSocketOptions = {}) {
  const endings: Array<string> = []
  const handled: Array<string> = []
  const log: Array<Readonly<Record<string, unknown>>> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    if (logLevel !== "Error" && logLevel !== "Warn") return
    if (String(message).startsWith("A test is using time")) return
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    log.push({ line: Array.isArray(message) ? message[0] : message, ...annotations })
  })
  const FeedLive = Feed.layer((feed) =>
    Effect.succeed({
      handleIn: (_event, payload) => {
        handled.push(String(Object(payload).n))
        return Effect.as(
          feed.push("news", { text: kilobyte.repeat(Number(Object(payload).kilobytes)) }),
          Channel.noReply
        )
      },
      terminate: (reason) =>
        Effect.sync(() => void endings.push(reason._tag === "Shutdown" ? String(reason.detail) : reason._tag))
    })
  )
  const FeedSocketLive = FeedSocket.layer(() => Effect.succeed(Socket.accept({ id: "user:slow" })))
  const live = HttpRouter.serve(
    Endpoint.mount(FeedSocket, { path: "/socket", checkOrigin: false, websocket, longpoll: true }),
    { disableLogger: true, disableListenLog: true }
  ).pipe(
    Layer.provide([FeedLive, FeedSocketLive]),
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })),
    Layer.provide(Logger.layer([logger])),
    Layer.provideMerge(Layer.succeed(Metric.MetricRegistry, new Map()))
  )
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const context = yield* Layer.buildWithScope(live, scope)
  const { address } = Context.get(context, HttpServer.HttpServer)
  const labels = { socket: "feed_socket", transport: "websocket" }
  /** @param more - labels besides those of the WebSocket transport, or in their place */
  const count = (metric: Metric.Counter<number>, more: Readonly<Record<string, string>> = {}) =>
    Metric.value(Metric.withAttributes(metric, { ...labels, ...more })).pipe(
      Effect.provide(context),
      Effect.map(({ count }) => count)
    )
  return { port: "port" in address ? address.port : 0, endings, handled, log, count }
})

/** A client that reads as many bytes as it wants to, over a plain connection. */
export class Reader {
  readonly socket: NetSocket
  bytes = 0
  private wanted = Infinity
  private tail = Buffer.alloc(0)
  over = false

  constructor(socket: NetSocket) {
    this.socket = socket
    socket.on("data", (chunk: Buffer) => {
      this.bytes += chunk.length
      this.tail = Buffer.concat([this.tail, chunk]).subarray(-200)
      if (this.bytes >= this.wanted) socket.pause()
    })
    socket.on("close", () => this.over = true).on("error", () => this.over = true)
  }

  static async join(port: number, headers: Readonly<Record<string, string>> = {}): Promise<Reader> {
    const reader = new Reader(connect({ port, host: "127.0.0.1", noDelay: true }))
    reader.socket.write(request(undefined, { ...handshake, ...headers }))
    await until(() => reader.bytes > 0)
    const before = reader.bytes
    reader.say(["1", "1", "feed", "phx_join", {}])
    await until(() => reader.bytes > before)
    reader.socket.pause()
    return reader
  }

  say(...messages: ReadonlyArray<unknown>): void {
    this.socket.write(Buffer.concat(messages.map((message) => frame(JSON.stringify(message)))))
  }

  /** Asks for messages of so many kilobytes. */
  ask(...kilobytes: ReadonlyArray<number>): void {
    this.say(...kilobytes.map((kilobytes) => ["1", null, "feed", "more", { kilobytes }]))
  }

  /** Reads so many bytes more, and then no longer. */
  async read(bytes: number): Promise<void> {
    this.wanted = this.bytes + bytes
    this.socket.resume()
    await until(() => this.bytes >= this.wanted || this.over)
  }

  /** Reads on until the server closes; the code that it closes with. */
  async code(): Promise<number | undefined> {
    this.wanted = Infinity
    this.socket.resume()
    const isClosing = () => this.tail.at(-4) === 0x88 && this.tail.at(-3) === 2
    await until(() => isClosing() || this.over)
    this.socket.destroy()
    return isClosing() ? this.tail.readUInt16BE(this.tail.length - 2) : undefined
  }
}

export const join = (port: number, headers?: Readonly<Record<string, string>>) =>
  Effect.promise(() => Reader.join(port, headers))

export const turn = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

/** The server has sent so many bytes, or kept them. */
export const sent = (server: Effect.Success<ReturnType<typeof serve>>, bytes: number) =>
  Effect.gen(function*() {
    while ((yield* server.count(Telemetry.bytesSent)) < bytes) yield* turn
  })
