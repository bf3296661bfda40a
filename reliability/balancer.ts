/** Sends clients to those nodes that say they are ready, in turn; it asks them every 100 milliseconds. */
import { setTimeout as sleep } from "node:timers/promises"
import type { Server } from "./server.ts"

export class Balancer {
  readonly nodes = new Set<Server>()
  private ready: ReadonlyArray<Server> = []
  private turn = 0
  private isOver = false

  constructor(nodes: ReadonlyArray<Server>) {
    for (const node of nodes) this.nodes.add(node)
    void this.look()
  }

  isReady(node: Server): boolean {
    return this.ready.includes(node)
  }

  /** Where the next client goes; undefined if nobody is ready. */
  readonly port = (): number | undefined => this.ready[this.turn++ % this.ready.length]?.port

  stop(): void {
    this.isOver = true
  }

  private async look(): Promise<void> {
    while (!this.isOver) {
      const nodes = [...this.nodes]
      const ready = await Promise.all(nodes.map((node) => node.isReady()))
      this.ready = nodes.filter((_, index) => ready[index])
      await sleep(100)
    }
  }
}
