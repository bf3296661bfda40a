import type { IncomingMessage, Server } from "node:http"
import type { Socket } from "node:net"

interface Prepared {
  /** Bytes that came along with a handshake: only an argument of the "upgrade" event, which a route does not see. */
  readonly heads: WeakMap<IncomingMessage, Buffer>
  /** What to do when the server is told to close. */
  readonly closing: Set<() => void>
}

const prepared = new WeakMap<Server, Prepared>()

/** See `Endpoint.prepareServer`. */
export const prepare = <S extends Server>(server: S): S => {
  if (prepared.has(server)) return server
  const state: Prepared = { closing: new Set(), heads: new WeakMap() }
  prepared.set(server, state)
  // Node waits for connections that have not made a request yet, for as long as they like.
  const unused = new Set<Socket>()
  const used = ({ socket }: IncomingMessage) => void unused.delete(socket)
  // Requests of an https server name the socket inside.
  server.on("setSecureContext" in server ? "secureConnection" : "connection", (socket: Socket) => {
    unused.add(socket)
    socket.once("close", () => unused.delete(socket))
  })
  server.prependListener("request", used)
  server.prependListener("upgrade", (request: IncomingMessage, _socket, head: Buffer) => {
    used(request)
    if (head.length > 0) state.heads.set(request, head)
  })
  const close = server.close.bind(server)
  server.close = (callback) => {
    close(callback)
    for (const tell of state.closing) tell()
    for (const socket of unused) socket.destroy()
    return server
  }
  return server
}

const noHead = Buffer.alloc(0)

const serverOf = ({ socket }: IncomingMessage): Prepared | undefined =>
  "server" in socket ? prepared.get(socket.server as Server) : undefined

/** The bytes that came along with the handshake; of a server that was not prepared, none. */
export const headOf = (request: IncomingMessage): Buffer => serverOf(request)?.heads.get(request) ?? noHead

/** Has `tell` called when the server of a request is told to close; nothing for a server that was not prepared. */
export const onClosing = (request: IncomingMessage, tell: () => void): void => void serverOf(request)?.closing.add(tell)
