import { Context } from "effect"
import { FindMyWay } from "effect/http"
import type { IncomingMessage, Server, ServerResponse } from "node:http"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"

interface Upgrade {
  /** Bytes that came along with a handshake: only an argument of the "upgrade" event, which a route does not see. */
  readonly head: Buffer
  /** Who listened for the end of the connection before its request came. */
  readonly listeners: ReadonlyArray<unknown>
}

/** The values of the variables in a path. */
export interface PathParams {
  readonly [name: string]: string | undefined
}

/** Answers a handshake. */
export type Take = (request: IncomingMessage, head: Buffer, pathParams: PathParams) => void

/** Who answers handshakes before the server's listeners, and so the router, see them: by path. */
export class Handshakes {
  private readonly takers = new Map<FindMyWay.PathInput, Take>()
  private config: Partial<FindMyWay.RouterConfig> = {}
  private router = FindMyWay.make<Take>()
  /** Those without variables, for requests that ask for them as they are written: nearly all. */
  private readonly exact = new Map<string, Take>()

  /**
   * Returns how to take it away again.
   *
   * @param config - how the application's router reads paths, so that these are read alike
   */
  add(path: FindMyWay.PathInput, take: Take, config: Partial<FindMyWay.RouterConfig> = {}): () => void {
    this.config = config
    this.takers.set(path, take)
    this.build()
    return () => {
      this.takers.delete(path)
      this.build()
    }
  }

  private build(): void {
    this.router = FindMyWay.make(this.config)
    this.exact.clear()
    for (const [path, take] of this.takers) {
      this.router.on("GET", path, take)
      if (!/[:*]/.test(path)) this.exact.set(path, take)
    }
  }

  /** Whether somebody has answered. */
  take(request: IncomingMessage, head: Buffer): boolean {
    const { url = "" } = request
    // The whole address in place of a path is left to the router, as are other methods than GET.
    if (request.method !== "GET" || !url.startsWith("/")) return false
    const query = url.indexOf("?")
    const path = query < 0 ? url : url.slice(0, query)
    const exact = this.exact.get(path)
    if (exact !== undefined) {
      exact(request, head, {})
      return true
    }
    const found = this.router.find("GET", path)
    found?.handler(request, head, found.params)
    return found !== undefined
  }
}

/** A server that carries sockets: what cannot be had from within a route. */
export interface Prepared {
  /** What to do when the server is told to close. */
  readonly closing: Set<() => void>
  readonly handshakes: Handshakes
  /** Those that were left to the router. */
  readonly upgrades: WeakMap<IncomingMessage, Upgrade>
  /** A handshake is answered with an ordinary response, after which Node leaves its connection alone: sees that it ends. */
  readonly refusing: (socket: Duplex) => void
}

/** The server that an application runs on, if it is one of `Endpoint.layer`. */
export const CurrentServer = Context.Reference<Prepared | undefined>("effect-channels/Endpoint/CurrentServer", {
  defaultValue: () => undefined
})

/** Prepares a server, as `Endpoint.layer` says. */
export const prepare = (server: Server): Prepared => {
  // Node waits for connections that have not made a request yet, for as long as they like.
  const unused = new Set<Duplex>()
  const answered = new Set<Duplex>()
  // Shared by all connections: what is made for each of them stays in memory as long as it.
  function onClose(this: Duplex) {
    unused.delete(this)
    answered.delete(this)
  }
  function onFinish(this: Duplex) {
    answered.add(this)
    // Unread bytes would keep it open for good.
    this.resume()
  }
  const prepared: Prepared = {
    closing: new Set(),
    handshakes: new Handshakes(),
    upgrades: new WeakMap(),
    refusing: (socket) => void socket.on("finish", onFinish)
  }
  const used = ({ socket }: IncomingMessage) => void unused.delete(socket)
  /** The latest on each connection. */
  const responses = new WeakMap<Duplex, ServerResponse>()
  // Requests of an https server name the socket inside.
  server.on("setSecureContext" in server ? "secureConnection" : "connection", (socket: Socket) => {
    unused.add(socket)
    socket.on("close", onClose)
  })
  // The server may listen before the application is there to answer, and Node leaves such requests without an answer.
  server.prependListener("request", (request, response) => {
    used(request)
    responses.set(request.socket, response)
    if (server.listenerCount("request") === 1) {
      response.writeHead(503, { "connection": "close", "content-length": "0", "retry-after": "1" }).end()
    }
  })
  server.prependListener("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (server.listenerCount("upgrade") === 1) {
      socket.on("error", () => {})
      socket.end("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n")
      return
    }
    prepared.refusing(socket)
    prepared.upgrades.set(request, { head, listeners: endListeners(socket) })
  })
  // A listener could not keep those that come after it from answering as well.
  const emit: (event: string, ...args: Array<unknown>) => boolean = server.emit.bind(server)
  const emitUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer): boolean => {
    used(request)
    // One that is still to be written would end up among the frames. No client sends a handshake right behind a request.
    const isFree = responses.get(socket)?.writableFinished !== false
    responses.delete(socket)
    return (isFree && prepared.handshakes.take(request, head)) || emit("upgrade", request, socket, head)
  }
  Object.assign(server, {
    emit: (event: string, ...args: Parameters<typeof emitUpgrade>) =>
      event === "upgrade" ? emitUpgrade(...args) : emit(event, ...args)
  })
  const close = server.close.bind(server)
  server.close = (callback) => {
    close(callback)
    for (const tell of prepared.closing) tell()
    for (const socket of [...unused, ...answered]) socket.destroy()
    return server
  }
  return prepared
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
