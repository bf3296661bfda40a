import { once } from "node:events"
import { createServer } from "node:net"

/** A port that nobody listens on now: of one address, or without it of all. */
export const freePort = async (host?: string): Promise<number> => {
  const server = createServer().listen({ port: 0, host })
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  if (address === null || typeof address === "string") throw new Error("there is no port")
  return address.port
}
