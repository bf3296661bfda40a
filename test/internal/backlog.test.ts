import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import { connect, createServer, type Server, Socket } from "node:net"
import { connect as connectTls, createServer as createTlsServer } from "node:tls"
import { bytesTaken } from "../../src/internal/backlog.ts"
import { makeCertificate } from "../support/certificate.ts"

const size = 32_000_000

/** Has a server write a lot at once to a client that reads a part of it, until the server knows. */
const readPart = async (server: Server, event: string, dial: (port: number) => Socket): Promise<void> => {
  await once(server.listen(0, "127.0.0.1"), "listening")
  const address = server.address()
  const accepted = once(server, event)
  const client = dial(typeof address === "object" && address !== null ? address.port : 0).on("error", () => {})
  const [socket] = await accepted
  if (!(socket instanceof Socket)) return assert.fail("no socket")
  socket.on("error", () => {}).write(Buffer.alloc(size))
  const before = bytesTaken(socket)
  let read = 0
  client.on("data", (chunk: Buffer) => {
    read += chunk.length
    if (read > size / 2) client.pause()
  })
  const isThere = () => read > size / 2 && bytesTaken(socket) > size / 2
  while (!isThere()) await new Promise((resolve) => setImmediate(resolve))
  assert.isAbove(bytesTaken(socket), before)
  assert.isBelow(bytesTaken(socket), size)
  // Node tells nothing of it in public.
  assert.strictEqual(socket.writableLength, size)
  client.destroy()
  server.close()
}

describe("the bytes that a peer has taken", () => {
  it("are known of a write that is under way", () =>
    readPart(createServer(), "connection", (port) => connect(port, "127.0.0.1")))

  it("are known over TLS", () => {
    const { cert, key } = makeCertificate()
    return readPart(
      createTlsServer({ cert, key }),
      "secureConnection",
      (port) => connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false })
    )
  })

  it("are those of writes that are done where Node does not say what is under way", async () => {
    const server = createServer().listen(0, "127.0.0.1")
    await once(server, "listening")
    const address = server.address()
    const accepted = once(server, "connection")
    const client = connect(typeof address === "object" && address !== null ? address.port : 0, "127.0.0.1")
    const [socket] = await accepted
    if (!(socket instanceof Socket) || !("_handle" in socket)) return assert.fail("no socket")
    client.on("error", () => {})
    socket.on("error", () => {})
    Object.defineProperty(socket._handle, "writeQueueSize", { value: undefined })
    const written = new Promise((resolve) => socket.write(Buffer.alloc(size), resolve))
    socket.write("more")
    assert.strictEqual(bytesTaken(socket), 0)
    client.resume()
    await written
    assert.isAtLeast(bytesTaken(socket), size)
    client.destroy()
    server.close()
  })
})
