import type { IncomingMessage, Server } from "node:http"
import type { Socket } from "node:net"
import type { Duplex } from "node:stream"

interface Prepared {
  /** Bytes that came along with a handshake: only an argument of the "upgrade" event, which a route does not see. */
  readonly heads: WeakMap<IncomingMessage, Buffer>
  /** What to do when the server is told to close. */
  readonly closing: Set<() => void>
}

/** What a server answers an upgrade with may be an ordinary response, after which Node leaves the connection alone. */
const closeWhenAnswered = (socket: Duplex, answered: Set<Duplex>): void => {
  socket.once("finish", () => {
    answered.add(socket)
    // Unread bytes would keep it open for good.
    socket.resume()
  })
  socket.once("close", () => answered.delete(socket))
}

const prepared = new WeakMap<Server, Prepared>()

/** See `Endpoint.prepareServer`. */
export const prepare = <S extends Server>(server: S): S => {
  if (prepared.has(server)) return server
  const state: Prepared = { closing: new Set(), heads: new WeakMap() }
  prepared.set(server, state)
  // Node waits for connections that have not made a request yet, for as long as they like.
  const unused = new Set<Socket>()
  const answered = new Set<Duplex>()
  const used = ({ socket }: IncomingMessage) => void unused.delete(socket)
  // Requests of an https server name the socket inside.
  server.on("setSecureContext" in server ? "secureConnection" : "connection", (socket: Socket) => {
    unused.add(socket)
    socket.once("close", () => unused.delete(socket))
  })
  server.prependListener("request", used)
  server.prependListener("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    used(request)
    closeWhenAnswered(socket, answered)
    if (head.length > 0) state.heads.set(request, head)
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
export const headOf = (request: IncomingMessage): Buffer => serverOf(request)?.heads.get(request) ?? noHead

/** What is called when the server of a request is told to close; undefined for a server that was not prepared. */
export const closingOf = (request: IncomingMessage): Set<() => void> | undefined => serverOf(request)?.closing
