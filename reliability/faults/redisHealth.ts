/** A Redis that is there, and does not do all that it should. */
import { setTimeout as sleep } from "node:timers/promises"
import { createClient } from "redis"
import { Engine, isMissing, Relay } from "../engines.ts"
import { Pair } from "../pair.ts"
import { promise, say, until } from "../promises.ts"

/** Sends commands as the administrator, and returns the answer to the last. */
const command = async (port: number, ...all: ReadonlyArray<ReadonlyArray<string>>): Promise<unknown> => {
  const client = createClient({ url: `redis://127.0.0.1:${port}` })
  client.on("error", () => {})
  await client.connect()
  try {
    let reply: unknown
    for (const one of all) reply = await client.sendCommand([...one])
    return reply
  } finally {
    client.destroy()
  }
}

const isLoading = (port: number): Promise<boolean> =>
  command(port, ["PING"]).then(() => false, (cause) => String(cause).includes("LOADING"))

/** The rights that docs/clusters.md asks for, and no others. */
const user = ["ACL", "SETUSER", "node", "on", ">secret", "resetchannels", "&phx:*", "-@all", "+publish", "+subscribe"]

const rights = async (): Promise<void> => {
  say("Redis: a user with the rights of the documentation alone, for 12 seconds")
  const redis = await Engine.start("redis")
  await command(redis.port, [...user, "+unsubscribe"])
  const url = `redis://node:secret@127.0.0.1:${redis.port}`
  const pair = await Pair.start({ REDIS: url }, { REDIS: url })
  promise(
    "  the nodes are ready, and all hear each other",
    await pair.joined(10) && await pair.isReady() && await pair.isWhole()
  )
  const outage = await pair.longestOutage(sleep(12_000))
  promise("  they stay ready", outage === 0, `${outage.toFixed(1)} s`)
  await command(redis.port, ["ACL", "SETUSER", "node", "-publish"])
  await pair.shout(2)
  promise("  without the right to publish they are not ready", await pair.is("degraded", 10) && await pair.isUnready())
  await command(redis.port, ["ACL", "SETUSER", "node", "+publish"])
  promise("  with it they are again", await pair.is("connected", 10) && await pair.isWhole())
  await pair.end()
  await redis.end()
}

const silence = async (): Promise<void> => {
  say("Redis: it hangs for 6 seconds, and is restarted after 4.5 seconds")
  const redis = await Engine.start("redis")
  const pair = await Pair.start({ REDIS: redis.url }, { REDIS: redis.url })
  await pair.joined(10)
  redis.signal("SIGSTOP")
  for (const node of pair.nodes) pair.join(node)
  const began = performance.now()
  const joined = pair.joined(8).then((joined) => [joined, (performance.now() - began) / 1000] as const)
  await sleep(6000)
  redis.signal("SIGCONT")
  const [isJoined, seconds] = await joined
  promise(
    "  who comes meanwhile joins within the timeout of 5 seconds",
    isJoined && seconds < 6,
    `${seconds.toFixed(1)} s`
  )
  promise("  after it all hear each other", await pair.is("connected") && await until(() => pair.isWhole(), 5))
  await redis.kill()
  await sleep(4500)
  await redis.start()
  for (const node of pair.nodes) pair.join(node)
  promise("  restarted, it is found within 3 seconds", await pair.is("connected", 3))
  promise("  after it all hear each other", await pair.joined(5) && await pair.isWhole())
  await pair.end()
  await redis.end()
}

const failover = async (): Promise<void> => {
  say("Redis: FAILOVER, and the address leads to the new primary")
  const first = await Engine.start("redis")
  const second = await Engine.start("redis", `replicaof 127.0.0.1 ${first.port}`)
  const relay = await Relay.start(first.port)
  const env = { REDIS: `redis://127.0.0.1:${relay.port}` }
  const pair = await Pair.start(env, env)
  await pair.joined(10)
  const info = () => command(second.port, ["INFO", "replication"]).then(String)
  await until(async () => (await info()).includes("link_status:up"), 10)
  relay.to = second.port
  await command(first.port, ["FAILOVER"])
  promise("  the replica takes over", await until(async () => (await info()).includes("role:master"), 10))
  // A node that starts now finds the new one.
  const late = await Pair.start(env)
  await late.joined(10)
  promise(
    "  the demoted one is left",
    await until(
      async () =>
        (await command(first.port, ["PUBSUB", "NUMSUB", "phx:topic:room:1"]) as ReadonlyArray<unknown>)[1] === 0,
      20
    )
  )
  promise("  all nodes are ready", await pair.is("connected") && await pair.isReady())
  promise("  those before hear each other, in both directions", await pair.isWhole())
  await late.end()
  await pair.end()
  relay.end()
  await Promise.all([first.end(), second.end()])
}

const loading = async (): Promise<void> => {
  say("Redis: it loads its data for some seconds when it starts")
  const redis = await Engine.start("redis", "enable-debug-command yes")
  const pair = await Pair.start({ REDIS: redis.url }, { REDIS: redis.url })
  await pair.joined(10)
  await command(redis.port, ["DEBUG", "POPULATE", "8000"], ["SAVE"])
  await redis.kill()
  redis.configure("key-load-delay 1000\nloading-process-events-interval-bytes 1024")
  await redis.start()
  promise("  it is found while it loads", await pair.is("connected", 5) && await isLoading(redis.port))
  promise("  all hear each other", await pair.isWhole())
  const outage = await pair.longestOutage(until(async () => !(await isLoading(redis.port)), 30))
  promise("  no node is out until it has loaded", outage === 0, `${outage.toFixed(1)} s`)
  await pair.end()
  await redis.end()
}

export const redisHealth = async (): Promise<void> => {
  if (isMissing("redis")) return say("skipped: there is no redis-server on PATH")
  for (const fault of [rights, silence, failover, loading]) await fault()
}
