/** Two nodes with two clients each in one room, and what they hear of each other. */
import { Client } from "./client.ts"
import { promise, until } from "./promises.ts"
import { Server } from "./server.ts"

export class Pair {
  readonly nodes: ReadonlyArray<Server>
  /** Number of times that a client was disconnected, or a join failed. */
  failures = 0
  private readonly clients: Array<Client> = []
  private readonly heard = new Map<Client, Array<number>>()
  private said = 0

  private constructor(nodes: ReadonlyArray<Server>) {
    this.nodes = nodes
  }

  /** @param envs - the environment of each node */
  static async start(...envs: ReadonlyArray<Readonly<Record<string, string>>>): Promise<Pair> {
    // No load balancer has to notice that a node stops.
    const pair = new Pair(await Promise.all(envs.map((env) => Server.start({ READY_DELAY: "50 millis", ...env }))))
    for (const node of pair.nodes) for (let n = 0; n < 2; n++) pair.join(node)
    return pair
  }

  /** Adds a client. */
  join(node: Server): Client {
    const client = new Client(`u${this.clients.length}`, () => node.port, {
      message: (client, _topic, event, payload) => {
        if (event === "shout") this.heard.get(client)?.push((payload as { readonly n: number }).n)
      },
      failed: () => void this.failures++,
      closed: () => void this.failures++
    })
    this.heard.set(client, [])
    this.clients.push(client)
    client.join("room:1")
    return client
  }

  joined(seconds: number): Promise<boolean> {
    return until(() => this.clients.every((client) => client.isThere), seconds)
  }

  /** A client says something; true if so many hear it, and no more. */
  async hears(client: Client | undefined, expected: number): Promise<boolean> {
    const n = this.said++
    const reply = await client?.push("room:1", "shout", { n })
    const count = () => [...this.heard.values()].filter((numbers) => numbers.includes(n)).length
    return reply?.status === "ok" && await until(() => count() >= expected, 2) && count() === expected
  }

  /** Makes a client of the first node say something. */
  shout(expected: number): Promise<boolean> {
    return this.hears(this.clients[0], expected)
  }

  /** Everybody hears everybody, in both directions. */
  async isWhole(): Promise<boolean> {
    for (const client of this.clients) if (!(await this.hears(client, this.clients.length))) return false
    return true
  }

  /** Waits until all nodes have this status. */
  is(status: string, seconds = 20): Promise<boolean> {
    return until(async () => {
      const reports = await Promise.all(this.nodes.map((node) => node.report()))
      return reports.every(({ pubsub }) => pubsub === status)
    }, seconds)
  }

  async isReady(): Promise<boolean> {
    return (await Promise.all(this.nodes.map((node) => node.isReady()))).every(Boolean)
  }

  async isUnready(): Promise<boolean> {
    return (await Promise.all(this.nodes.map((node) => node.isReady()))).every((isReady) => !isReady)
  }

  /** Watches the nodes until this is done, and returns the longest time that one was not ready, in seconds. */
  async longestOutage(during: Promise<unknown>): Promise<number> {
    const watch = { isOver: false }
    const done = during.finally(() => void (watch.isOver = true))
    const each = await Promise.all(this.nodes.map(async (node) => {
      let longest = 0
      let since: number | undefined
      while (!watch.isOver) {
        if (await node.isReady()) since = undefined
        else longest = Math.max(longest, performance.now() - (since ??= performance.now()))
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
      return longest / 1000
    }))
    await done
    return Math.max(...each)
  }

  inOrder(): boolean {
    return [...this.heard.values()].every((numbers) => numbers.every((n, i) => i === 0 || n > (numbers[i - 1] ?? 0)))
  }

  /** Says what holds in every case, and ends the nodes. */
  async end(): Promise<void> {
    promise("  no client has noticed, nothing is doubled or out of order", this.failures === 0 && this.inOrder())
    for (const client of this.clients) client.go()
    promise(
      "  the nodes end when they are told to",
      (await Promise.all(this.nodes.map((node) => node.stop()))).every((code) => code === 0)
    )
  }
}
