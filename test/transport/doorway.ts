/** A server for tests of its door: the HTTP server itself, a socket that decides as it is told, and all lines of the log. */
import { NodeHttpServer } from "@effect/platform-node"
import { Cause, Context, Deferred, Effect, Exit, Layer, Logger, References, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { once } from "node:events"
import { createServer, type Server } from "node:http"
import { connect, type Socket as NetSocket } from "node:net"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"

export interface Line {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: string
}

export interface Doorway {
  readonly server: Server
  readonly port: number
  readonly lines: ReadonlyArray<Line>
  /** The calls of `connect`, and their ends, in the order in which they happened. */
  readonly events: Array<string>
  /** Lets those in who wait for it. */
  readonly gate: Deferred.Deferred<void>
  readonly run: <A, E>(effect: Effect.Effect<A, E, PubSub.PubSub | Process.System>) => Promise<A>
  readonly stop: Effect.Effect<void>
}

export interface Settings {
  readonly evaluate?: () => Server
  readonly plain?: boolean
  readonly routes?: Layer.Layer<never, never, HttpRouter.HttpRouter>
  /** Builds a mount in another way than on the application's router itself. */
  readonly around?: (mount: Mount) => Mount
  readonly http?: Partial<Endpoint.ServerOptions>
  readonly layers?: Layer.Layer<never>
  /** Lines are for the loggers of `layers`. */
  readonly silent?: boolean
  readonly routerConfig?: { readonly maxParamLength?: number }
}

/** A socket whose `connect` does what `as` says. */
export const DoorSocket = Socket.make("door", { channels: [], log: false })

const mountDoor = (options: Endpoint.Options) => Endpoint.mount(DoorSocket, options)
type Mount = ReturnType<typeof mountDoor>

export const open = Effect.fnUntraced(function*(mounts: ReadonlyArray<Endpoint.Options>, settings: Settings = {}) {
  const lines: Array<Line> = []
  const events: Array<string> = []
  const gate = Deferred.makeUnsafe<void>()
  const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    const annotations = fiber.getRef(References.CurrentLogAnnotations)
    lines.push({ level: logLevel, text, annotations, cause: Cause.pretty(cause) })
  })
  const DoorLive = DoorSocket.layer(({ params }) => {
    switch (params["as"]) {
      case "nobody":
        return Effect.fail(Socket.refuse("nobody"))
      case "crash":
        return Effect.die(new Error("connect dies"))
      case "thrower":
        throw new Error("connect throws")
      case "junk":
        return Effect.succeed(JSON.parse("{}"))
      case "waiting":
        events.push("asked")
        return Deferred.await(gate).pipe(
          Effect.onInterrupt(() => Effect.sync(() => void events.push("interrupted"))),
          Effect.as(Socket.accept())
        )
      case "stubborn":
        events.push("asked")
        return Effect.as(Effect.uninterruptible(Deferred.await(gate)), Socket.accept())
      default:
        return Effect.succeed(Socket.accept())
    }
  })
  const server = (settings.evaluate ?? createServer)()
  const listen = { port: 0, host: "127.0.0.1", ...settings.http }
  const routing = settings.routerConfig === undefined ? {} : { routerConfig: settings.routerConfig }
  const around = settings.around ?? ((mount: Mount) => mount)
  const app = Layer.mergeAll(
    settings.routes ?? Layer.empty,
    ...mounts.map((mount) => around(mountDoor({ host: "127.0.0.1", ...mount })))
  )
  const live = HttpRouter.serve(app, { disableLogger: true, disableListenLog: true, ...routing }).pipe(
    Layer.provide(DoorLive),
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(
      settings.plain === true ? NodeHttpServer.layer(() => server, listen) : Endpoint.layer(() => server, listen)
    ),
    Layer.provide(settings.silent === true ? Layer.empty : Logger.layer([logger])),
    Layer.provide(settings.layers ?? Layer.empty)
  )
  const scope = yield* Scope.make()
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => {
    for (const socket of clients) socket.destroy()
    clients.clear()
    return Effect.andThen(Deferred.succeed(gate, undefined), stop)
  })
  const context = yield* Layer.buildWithScope(live, scope)
  const { address } = Context.get(context, HttpServer.HttpServer)
  const doorway: Doorway = {
    server,
    port: "port" in address ? address.port : 0,
    lines,
    events,
    gate,
    run: (effect) => Effect.runPromiseWith(context)(effect),
    stop
  }
  return doorway
})

export const websocketPath = "/socket/websocket?vsn=2.0.0"
export const longpollPath = "/socket/longpoll?vsn=2.0.0"

export const handshake = (path: string = websocketPath, headers: Readonly<Record<string, string>> = {}): string =>
  request("GET", path, {
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    ...headers
  })

export const request = (
  method: string,
  path: string,
  headers: Readonly<Record<string, string>> = {},
  body = ""
): string =>
  `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${
    Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join("")
  }\r\n${body}`

/** Connections of the test that runs, which are cut off when it is over. */
const clients = new Set<NetSocket>()

/** A connection whose own half stays open, whatever the server does. */
export class HalfOpen {
  readonly socket: NetSocket
  private received = ""

  constructor(socket: NetSocket) {
    this.socket = socket
    clients.add(socket)
    socket.on("error", () => {})
    socket.on("data", (chunk) => this.received += chunk.toString("latin1"))
  }

  static async dial(port: number, localAddress?: string): Promise<HalfOpen> {
    const socket = connect({
      port,
      host: "127.0.0.1",
      allowHalfOpen: true,
      ...localAddress === undefined ? {} : { localAddress }
    })
    await once(socket, "connect")
    return new HalfOpen(socket)
  }

  /** Connects and says something; what comes back first. */
  static async say(port: number, text: string, localAddress?: string): Promise<HalfOpen> {
    const client = await HalfOpen.dial(port, localAddress)
    client.socket.write(text)
    return client
  }

  get text(): string {
    return this.received
  }

  get status(): number | undefined {
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(this.received)?.[1]
    return status === undefined ? undefined : Number(status)
  }

  /** The status of the answer; undefined if the connection ends without one. */
  async answered(): Promise<number | undefined> {
    await until(
      "an answer",
      () => this.status !== undefined || this.socket.destroyed || this.socket.readableEnded
    )
    return this.status
  }

  /** Resolves when the server has closed its half. */
  async ended(): Promise<void> {
    await until("the end of a connection", () => this.socket.readableEnded || this.socket.destroyed)
  }
}

/** Waits on each turn of the event loop. The time is only for tests that fail. */
export const until = async (what: string, condition: () => boolean | Promise<boolean>): Promise<void> => {
  const end = performance.now() + 10_000
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Connections that the server holds. */
export const held = (server: Server): Promise<number> =>
  new Promise((resolve, reject) => {
    server.getConnections((error, count) => error === null ? resolve(count) : reject(error))
  })

/** Resolves when the server holds so many connections. */
export const holds = async (server: Server, count: number): Promise<void> => {
  await until(`${count} connections`, async () => (await held(server)) === count)
}

/** Both ways of a handshake. */
export const ways: ReadonlyArray<readonly [suffix: string, websocket: Endpoint.WebSocketOptions]> = [
  ["", {}],
  [", through the router", { middleware: true }]
]
