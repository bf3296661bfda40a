import { NodeHttpServerRequest } from "@effect/platform-node"
import { Cause, Clock, Context, Effect, type Exit, type Scope } from "effect"
import { HttpServer, HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"
import { Departures } from "./departures.ts"
import { Handshakes } from "./handshakes.ts"
import { Complaints } from "./limits.ts"
import { Timers } from "./timers.ts"
import { brief } from "./untrusted.ts"

interface Upgrade {
  /** Bytes that came along with a handshake: only an argument of the "upgrade" event, which a route does not see. */
  readonly head: Buffer
  /** Who listened for the end of the connection before its request came. */
  readonly listeners: ReadonlyArray<unknown>
  /** Listeners of the application, for an upgrade that no route wants. */
  readonly others: ReadonlyArray<Function>
  /** Bytes that had been written to the connection before. */
  readonly written: number
}

/** A server that carries sockets: what cannot be had from within a route. */
export interface Prepared {
  /** What to do when the server is told to close. */
  readonly closing: Set<() => void>
  readonly handshakes: Handshakes
  /** Those that were left to the router. */
  readonly upgrades: WeakMap<IncomingMessage, Upgrade>
  /** Handshakes that are answered with an ordinary response, after which Node leaves their connections alone. */
  readonly departures: Departures
  /** Serves an application: upgrades that it does not want are left to other listeners of the server. */
  readonly serve: (http: HttpServer.HttpServer["Service"]) => HttpServer.HttpServer["Service"]
}

/** The server that an application runs on, if it is one of `Endpoint.layer`. */
export const CurrentServer = Context.Reference<Prepared | undefined>("effect-channels/Endpoint/CurrentServer", {
  defaultValue: () => undefined
})

/** The time that other listeners have to answer a handshake that is left to them, in milliseconds. */
export const othersTime = 30_000

/**
 * A server that stops looks at requests that are not complete this often, in milliseconds. It cuts them off when nothing has
 * come for so many looks, because a single one would take a pause of this process for silence of the client.
 */
const lookEvery = 500
const silentLooks = 2

interface Seen {
  readonly bytes: number
  readonly silent: number
}

const ignore = (): void => {}

/** Writes an answer without a body to a handshake; the connection is over with it. */
export const answerPlainly = (socket: Duplex, status: string, departures: Departures): void => {
  departures.letGo(socket)
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

/** Prepares a server, as `Endpoint.layer` says. */
export const prepare = (server: Server): Effect.Effect<Prepared, never, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const fork = Effect.runForkWith(context)
    const timers = yield* Effect.acquireRelease(
      Effect.map(Clock.Clock, (clock) => new Timers(clock, fork)),
      (timers) => Effect.sync(() => timers.close())
    )
    return new PreparedServer(server, timers, new Complaints(timers, context))
  })

class PreparedServer implements Prepared {
  readonly closing = new Set<() => void>()
  readonly handshakes = new Handshakes()
  readonly upgrades = new WeakMap<IncomingMessage, Upgrade>()
  readonly departures: Departures
  private readonly server: Server
  private readonly timers: Timers
  private readonly complaints: Complaints
  /** Connections without a request. Node waits for them, for as long as they like. */
  private readonly unused = new Set<Duplex>()
  /** The latest request of each connection, and its response. */
  private readonly requests = new Map<Duplex, readonly [IncomingMessage, ServerResponse]>()
  /** Listeners that belong to an application of Effect. */
  private readonly own = new Set<unknown>()
  private readonly isSecure: boolean
  /** Shared by all connections, as it stays with those that are accepted. */
  private readonly onFinish: (this: Duplex) => void

  constructor(server: Server, timers: Timers, complaints: Complaints) {
    this.server = server
    this.timers = timers
    this.complaints = complaints
    const departures = this.departures = new Departures(timers)
    this.onFinish = function() {
      departures.letGo(this)
    }
    this.isSecure = "setSecureContext" in server
    this.own.add(ignore)
    // Without a listener Node would answer upgrades as if they were ordinary requests.
    server.on("upgrade", ignore)
    this.trackConnections()
    // The server may listen before the application is there to answer, and Node leaves such requests without an answer.
    server.prependListener("request", (request, response) => {
      this.requested(request, response)
      if (server.listenerCount("request") > 1) return
      response.writeHead(503, { "connection": "close", "content-length": "0", "retry-after": "1" }).end()
    })
    this.ownEmit()
    this.ownClose()
  }

  // --- connections --------------------------------------------------------------------------------------------------

  /** Functions that all connections share, because what is made for each of them stays in memory as long as it. */
  private trackConnections(): void {
    const { requests, unused } = this
    function onClose(this: Duplex) {
      unused.delete(this)
      requests.delete(this)
    }
    const track = (socket: Duplex) => {
      unused.add(socket)
      socket.on("close", onClose)
    }
    if (!this.isSecure) {
      this.server.on("connection", track)
      return
    }
    // Requests of an https server name the socket inside, which is there when both sides have agreed on their keys.
    const raw = new Map<string, Socket>()
    this.server.on("connection", (socket: Socket) => {
      // A connection that is not TCP could not be found again.
      if (socket.remotePort === undefined) return
      unused.add(socket)
      const peer = peerOf(socket)
      raw.set(peer, socket)
      socket.once("close", () => {
        unused.delete(socket)
        if (raw.get(peer) === socket) raw.delete(peer)
      })
    })
    this.server.on("secureConnection", (socket: Socket) => {
      const peer = peerOf(socket)
      const outer = raw.get(peer)
      if (outer !== undefined) unused.delete(outer)
      raw.delete(peer)
      track(socket)
    })
  }

  private requested(request: IncomingMessage, response: ServerResponse): void {
    this.unused.delete(request.socket)
    this.requests.set(request.socket, [request, response])
  }

  // --- upgrades -----------------------------------------------------------------------------------------------------

  /** A listener could not keep those that come after it from answering as well. */
  private ownEmit(): void {
    const emit: (event: string, ...args: Array<unknown>) => boolean = this.server.emit.bind(this.server)
    Object.assign(this.server, {
      // The second is a connection or a response.
      emit: (event: string, ...args: [request: IncomingMessage, second: never, head: Buffer]) => {
        if (event === "upgrade") return this.upgrade(...args)
        if (event === "checkContinue") this.requested(args[0], args[1])
        return emit(event, ...args)
      }
    })
  }

  private upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): true {
    this.unused.delete(socket)
    // A response that is still to be written would end up among the frames. No client sends a handshake right behind a
    // request.
    const isFree = this.requests.get(socket)?.[1].writableFinished !== false
    this.requests.delete(socket)
    try {
      if (!isFree || !this.handshakes.take(request, head)) this.pass(request, socket, head)
    } catch (defect) {
      this.complaints.say("Error", "a handshake could not be answered", {}, Cause.die(defect))
      socket.destroy()
    }
    return true
  }

  /** A handshake that no mount has taken: it is for a route, or for a listener that the application has added. */
  private pass(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const listeners: ReadonlyArray<Function> = this.server.rawListeners("upgrade")
    const routers = listeners.filter((listener) => listener !== ignore && this.own.has(listener))
    const others = this.handshakes.knows(request) ? [] : listeners.filter((listener) => !this.own.has(listener))
    if (routers.length === 0) {
      if (others.length > 0) return this.leave(others, request, socket, head)
      return answerPlainly(socket, "503 Service Unavailable\r\nRetry-After: 1", this.departures)
    }
    socket.once("finish", this.onFinish)
    const written = writtenTo(socket)
    this.upgrades.set(request, { head, listeners: endListeners(socket), others, written })
    for (const listener of routers) Reflect.apply(listener, this.server, [request, socket, head])
  }

  private leave(others: ReadonlyArray<Function>, request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const written = writtenTo(socket)
    const timer = this.timers.after(othersTime, () => {
      if (writtenTo(socket) === written && socket.writable) answerPlainly(socket, "404 Not Found", this.departures)
    })
    socket.once("close", () => this.timers.cancel(timer))
    for (const listener of others) Reflect.apply(listener, this.server, [request, socket, head])
  }

  readonly serve = (http: HttpServer.HttpServer["Service"]): HttpServer.HttpServer["Service"] => {
    const { own, server } = this
    return HttpServer.make({
      address: http.address,
      serve: (app, middleware) =>
        Effect.suspend(() => {
          const before = server.rawListeners("upgrade")
          const serving = middleware === undefined
            ? http.serve(this.leaving(app))
            : http.serve(this.leaving(app), middleware)
          return Effect.map(serving, () => {
            for (const listener of server.rawListeners("upgrade")) if (!before.includes(listener)) own.add(listener)
          })
        })
    })
  }

  private leaving<R>(
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, unknown, HttpServerRequest.HttpServerRequest | R>
  ): typeof app {
    return Effect.withFiber((fiber) => {
      const request = Context.getUnsafe(fiber.context, HttpServerRequest.HttpServerRequest)
      const incoming = request.source as IncomingMessage
      const upgrade = this.upgrades.get(incoming)
      const told = Effect.tapError(app, (error) => Effect.sync(() => this.explain(error, incoming)))
      if (upgrade === undefined || upgrade.others.length === 0) return told
      return Effect.flatMap(Effect.exit(told), (exit) => {
        const { socket } = incoming
        const isWanted = !isUnwanted(exit, incoming) || writtenTo(socket) !== upgrade.written
        if (isWanted || socket.destroyed || !takeOver(request)) return exit
        this.leave(upgrade.others, incoming, socket, upgrade.head)
        return Effect.succeed(HttpServerResponse.empty({ status: 101 }))
      })
    })
  }

  /** A 404 for a reason that nobody would guess. */
  private explain(error: unknown, { url = "" }: IncomingMessage): void {
    if (!isNotFound(error) || error.reason.description === undefined) return
    const line = "a request was answered 404, because a variable in its path is longer than the router allows: "
      + "set maxParamLength of HttpRouter.RouterConfig"
    const [path] = url.split("?", 1)
    this.complaints.say("Warn", line, { path: brief(path), reason: error.reason.description })
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  private ownClose(): void {
    const { server } = this
    const close = server.close.bind(server)
    server.close = (callback) => {
      close(callback)
      for (const tell of this.closing) tell()
      for (const socket of [...this.unused, ...this.departures.connections]) socket.destroy()
      this.look(new Map())
      return server
    }
  }

  /** Requests that are under way may end, but nobody waits for one of which nothing comes any more. */
  private look(before: ReadonlyMap<Duplex, Seen>): void {
    const now = new Map<Duplex, Seen>()
    for (const socket of this.unused) socket.destroy()
    for (const [socket, [request, response]] of this.requests) {
      // A complete one is being answered. After its answer the next may have begun.
      if (request.complete && !response.writableFinished) continue
      const { bytesRead: bytes } = request.socket
      const seen = before.get(socket)
      const silent = seen?.bytes === bytes ? seen.silent + 1 : 0
      if (silent >= silentLooks) socket.destroy()
      else now.set(socket, { bytes, silent })
    }
    if (this.requests.size > 0 || this.unused.size > 0) this.timers.after(lookEvery, () => this.look(now))
  }
}

const peerOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`

const writtenTo = (socket: Duplex): number => "bytesWritten" in socket ? Number(socket.bytesWritten) : 0

type NotFound = HttpServerError.HttpServerError & { readonly reason: HttpServerError.RouteNotFound }

const isNotFound = (error: unknown): error is NotFound =>
  HttpServerError.isHttpServerError(error) && error.reason._tag === "RouteNotFound"

/**
 * Returns true if no route has wanted an upgrade: there is none, or it has answered as if it were asked for a page, which no client
 * of WebSockets understands. A route that refuses a client has wanted it.
 */
const isUnwanted = (
  exit: Exit.Exit<HttpServerResponse.HttpServerResponse, unknown>,
  { headers }: IncomingMessage
): boolean => {
  if (exit._tag === "Failure") {
    return exit.cause.reasons.some((reason) => Cause.isFailReason(reason) && isNotFound(reason.error))
  }
  const { status } = exit.value
  return status === 404 || (status < 400 && headers.upgrade?.toLowerCase() === "websocket")
}

/**
 * Takes the connection from the HTTP server, which would write a response into the frames. The request is done with, as
 * what is kept of one that is under way would be kept for as long as the connection. False if there is none to take.
 */
export const takeOver = (request: HttpServerRequest.HttpServerRequest): boolean => {
  const { socket } = request.source as IncomingMessage
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

/** What listens for the end of a connection. */
export const endListeners = (socket: Duplex): ReadonlyArray<unknown> => [
  ...socket.listeners("close"),
  ...socket.listeners("error")
]

/**
 * Takes away what listens for the end of a connection on behalf of the request it began with, which is done with. It would
 * keep all that belongs to the request in memory for as long as the connection is open.
 *
 * @param before - who listened before the request
 * @param own - who listens on behalf of the connection
 */
export const forgetRequest = (
  socket: Duplex,
  before: ReadonlyArray<unknown>,
  own: ReadonlyArray<unknown>
): void => {
  for (const event of ["close", "error"] as const) {
    for (const listener of socket.listeners(event)) {
      if (!before.includes(listener) && !own.includes(listener)) socket.off(event, listener as () => void)
    }
  }
}
