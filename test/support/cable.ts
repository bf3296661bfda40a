/** A cable between a node and an engine, for a test to cut. */
import { assert } from "@effect/vitest"
import { once } from "node:events"
import { connect, createServer, type Server, type Socket } from "node:net"

/** Which way: from the node to the engine, or from there to the node. */
export type Way = "out" | "in"

/**
 * Forwards TCP connections. What a silent cable holds back is late, not lost, as with TCP: it arrives when the cable is
 * healed, if anybody is still there.
 */
export class Cable {
  readonly port: number
  private readonly server: Server
  private readonly connections = new Set<Readonly<Record<Way, Socket>>>()
  private readonly silent = new Set<Way>()
  private isCut = false
  private to: number

  private constructor(server: Server, to: number) {
    this.server = server
    this.to = to
    const address = server.address()
    this.port = typeof address === "object" && address !== null ? address.port : assert.fail("no port")
    server.on("connection", (node: Socket) => this.add(node))
  }

  static async to(port: number): Promise<Cable> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, "127.0.0.1")
    await once(server, "listening")
    return new Cable(server, port)
  }

  private add(node: Socket): void {
    if (this.isCut) return void node.resetAndDestroy()
    const engine = connect({ port: this.to, host: "127.0.0.1", allowHalfOpen: true })
    const connection = { out: node, in: engine }
    this.connections.add(connection)
    this.join(node, engine)
    this.join(engine, node)
    const forget = () => {
      if (node.destroyed && engine.destroyed) this.connections.delete(connection)
    }
    node.on("close", forget)
    engine.on("close", forget)
    this.flow()
  }

  private join(from: Socket, to: Socket): void {
    from.on("data", (data) => void to.write(data))
    from.on("end", () => to.end())
    from.on("error", () => to.resetAndDestroy())
  }

  private flow(): void {
    for (const connection of this.connections) {
      for (const way of ["out", "in"] as const) {
        if (this.silent.has(way)) connection[way].pause()
        else connection[way].resume()
      }
    }
  }

  /** Connections break, and no other can be made. */
  cut(): void {
    this.isCut = true
    for (const connection of this.connections) for (const socket of Object.values(connection)) socket.resetAndDestroy()
  }

  /** Nothing goes this way any more, and nobody is told. */
  silence(...ways: ReadonlyArray<Way>): void {
    for (const way of ways) this.silent.add(way)
    this.flow()
  }

  /** Every second connection from now on leads to another engine. */
  alternate(other: number): void {
    const { to } = this
    this.server.prependListener("connection", () => {
      this.to = this.to === to ? other : to
    })
  }

  /** Connections that are made from now on lead to another engine. */
  lead(to: number): void {
    this.to = to
  }

  heal(): void {
    this.isCut = false
    this.silent.clear()
    this.flow()
  }

  close(): void {
    this.cut()
    this.server.close()
  }
}
