import type { IncomingMessage, Server } from "node:http"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"

interface Upgrade {
  /** Bytes that came along with a handshake: only an argument of the "upgrade" event, which a route does not see. */
  readonly head: Buffer
  /** Who listened for the end of the connection before its request came. */
  readonly listeners: ReadonlyArray<unknown>
}

interface Prepared {
  readonly upgrades: WeakMap<IncomingMessage, Upgrade>
  /** What to do when the server is told to close. */
  readonly closing: Set<() => void>
}

const prepared = new WeakMap<Server, Prepared>()

/** See `Endpoint.prepareServer`. */
export const prepare = <S extends Server>(server: S): S => {
  if (prepared.has(server)) return server
  const state: Prepared = { closing: new Set(), upgrades: new WeakMap() }
  prepared.set(server, state)
  // Node waits for connections that have not made a request yet, for as long as they like.
  const unused = new Set<Duplex>()
  const answered = new Set<Duplex>()
  // Shared by all connections: what is made for each of them stays in memory as long as it.
  function onClose(this: Duplex) {
    unused.delete(this)
    answered.delete(this)
  }
  /** What an upgrade is answered with may be an ordinary response, after which Node leaves the connection alone. */
  function onFinish(this: Duplex) {
    answered.add(this)
    // Unread bytes would keep it open for good.
    this.resume()
  }
  const used = ({ socket }: IncomingMessage) => void unused.delete(socket)
  // Requests of an https server name the socket inside.
  server.on("setSecureContext" in server ? "secureConnection" : "connection", (socket: Socket) => {
    unused.add(socket)
    socket.on("close", onClose)
  })
  // The server may listen before the application is there to answer, and Node leaves such requests without an answer.
  server.prependListener("request", (request, response) => {
    used(request)
    if (server.listenerCount("request") === 1) {
      response.writeHead(503, { "connection": "close", "content-length": "0", "retry-after": "1" }).end()
    }
  })
  server.prependListener("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    used(request)
    socket.on("finish", onFinish)
    if (server.listenerCount("upgrade") === 1) {
      socket.on("error", () => {})
      socket.end("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n")
      return
    }
    state.upgrades.set(request, { head, listeners: endListeners(socket) })
  })
  const close = server.close.bind(server)
  server.close = (callback) => {
    close(callback)
    for (const tell of state.closing) tell()
    for (const socket of [...unused, ...answered]) socket.destroy()
    return server
  }
  return server
}

const noHead = Buffer.alloc(0)

const serverOf = ({ socket }: IncomingMessage): Prepared | undefined =>
  hasServer(socket) ? prepared.get(socket.server) : undefined

const hasServer = (socket: Socket): socket is Socket & { readonly server: Server } =>
  "server" in socket && typeof socket.server === "object" && socket.server !== null

/** Whether a request came to a server that was not given to `prepare`. */
export const isUnprepared = (request: IncomingMessage): boolean =>
  hasServer(request.socket) && serverOf(request) === undefined

/** The bytes that came along with the handshake; of a server that was not prepared, none. */
export const headOf = (request: IncomingMessage): Buffer => serverOf(request)?.upgrades.get(request)?.head ?? noHead

/** What is called when the server of a request is told to close; undefined for a server that was not prepared. */
export const closingOf = (request: IncomingMessage): Set<() => void> | undefined => serverOf(request)?.closing

/** What listens for the end of a connection. */
export const endListeners = (socket: Duplex): ReadonlyArray<unknown> => [
  ...socket.listeners("close"),
  ...socket.listeners("error")
]

/**
 * Takes away what listens for the end of a connection on behalf of the request it began with, which is done with. It would
 * keep all that belongs to the request in memory for as long as the connection is open. Of a server that was not prepared
 * it is not known what that is.
 *
 * @param keep - what listens on behalf of the connection
 */
export const forgetRequest = (request: IncomingMessage, keep: ReadonlyArray<unknown>): void => {
  const before = serverOf(request)?.upgrades.get(request)?.listeners
  if (before === undefined) return
  const { socket } = request
  for (const event of ["close", "error"] as const) {
    for (const listener of socket.listeners(event)) {
      if (!before.includes(listener) && !keep.includes(listener)) socket.off(event, listener as () => void)
    }
  }
}
