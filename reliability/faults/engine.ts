/** The engine of PubSub is away when the nodes start, and again later. */
import { Client } from "../client.ts"
import { promise, say, until } from "../promises.ts"
import { Redis } from "../redis.ts"
import { Server } from "../server.ts"

export const engine = async (): Promise<void> => {
  const redis = await Redis.find()
  if (redis === undefined) return say("skipped: there is no redis-server on PATH")
  const nodes = await Promise.all([1, 2].map(() => Server.start({ REDIS: redis.url })))
  let failures = 0
  const heard = new Map<Client, Array<number>>()
  const join = (node: Server, index: number) => {
    const client = new Client(`u${index}`, () => node.port, {
      message: (client, _topic, event, payload) => {
        if (event === "shout") heard.get(client)?.push((payload as { readonly n: number }).n)
      },
      failed: () => void failures++,
      closed: () => void failures++
    })
    heard.set(client, [])
    client.join("room:1")
    return client
  }
  const began = performance.now()
  const clients = nodes.flatMap((node, index) => [join(node, 2 * index), join(node, 2 * index + 1)])
  const joined = await until(() => clients.every((client) => client.isThere), 10)
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  promise("nodes start without it, and clients join", joined, `${seconds} s`)

  let n = 0
  /** Has the first client say something; how many hear it. */
  const shout = async (expected: number) => {
    const said = n++
    const reply = await clients[0]?.push("room:1", "shout", { n: said })
    const count = () => [...heard.values()].filter((numbers) => numbers.includes(said)).length
    return reply?.status === "ok" && await until(() => count() >= expected, 2) && count() === expected
  }
  const connected = (status: string) =>
    until(async () => {
      const reports = await Promise.all(nodes.map((node) => node.report()))
      return reports.every(({ pubsub }) => pubsub === status)
    }, 20)
  const isReady = async () => (await Promise.all(nodes.map((node) => node.isReady()))).every(Boolean)

  promise("without it those of one node hear each other", await shout(2))
  promise("without it the nodes are not ready", !(await isReady()))
  for (const when of ["started", "started again"]) {
    await redis.start()
    promise(`${when}, it is found`, await connected("connected"))
    promise(`${when}, all nodes hear each other`, await shout(4) && await isReady())
    await redis.kill()
    promise("killed, it is missed", await connected("reconnecting"))
    promise("killed, those of one node hear each other", await shout(2))
  }
  promise("no client has noticed", failures === 0, failures)
  const inOrder = [...heard.values()].every((numbers) => numbers.every((n, i) => i === 0 || n > (numbers[i - 1] ?? 0)))
  promise("nothing is doubled or out of order", inOrder)
  for (const client of clients) client.go()
  promise("the nodes end when they are told to", (await Promise.all(nodes.map((node) => node.stop()))).join() === "0,0")
}
