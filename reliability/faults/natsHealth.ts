/** NATS that is there, and does not do all that it should, or some of whose servers do not. */
import { connect } from "@nats-io/transport-node"
import { setTimeout as sleep } from "node:timers/promises"
import { freePort } from "../../scripts/freePort.ts"
import { localhost } from "../../test/support/identities.ts"
import { Engine, isMissing } from "../engines.ts"
import { Pair } from "../pair.ts"
import { promise, say, until } from "../promises.ts"

/** Servers of one cluster that do not run yet. */
const clusterOf = async (
  count: number,
  more: (engine: Engine) => string = () => ""
): Promise<ReadonlyArray<Engine>> => {
  const ports = await Promise.all(Array.from({ length: count }, () => freePort("127.0.0.1")))
  const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ")
  return Promise.all(ports.map(async (port) => {
    const engine = await Engine.reserve("nats")
    engine.configure(
      `cluster { name: "faults", listen: "127.0.0.1:${port}", routes: [ ${routes} ] }\n`
        + `client_advertise: "127.0.0.1:${engine.port}"\n${more(engine)}`
    )
    return engine
  }))
}

/** Waits until a server tells of so many. */
const knows = (address: string, count: number, options: object = {}): Promise<boolean> =>
  until(async () => {
    const client = await connect({ servers: address, reconnect: false, ...options })
    const known = client.info?.connect_urls?.length
    await client.close()
    return known === count
  }, 10)

const limits = async (): Promise<void> => {
  say("NATS: it refuses subscriptions, by a limit and by rights, and messages")
  const nats = await Engine.start("nats", "max_subscriptions: 2")
  const env = { NATS: nats.url }
  const pair = await Pair.start(env, env)
  promise("  at its limit of subscriptions joins are answered", await pair.joined(10))
  promise("  the nodes are not ready", await pair.is("degraded", 5) && await pair.isUnready())
  promise("  those of one node hear each other", await pair.shout(2))
  await nats.kill()
  nats.configure(
    "authorization { users = [ { user: a, permissions: { subscribe: { deny: \"phx.topic.room:1\" } } } ] }\nno_auth_user: a"
  )
  await nats.start()
  promise("  without the right to a room they are not ready", await pair.is("degraded") && await pair.isUnready())
  nats.configure(
    "authorization { users = [ { user: a, permissions: { publish: { deny: \"phx.topic.room:1\" } } } ] }\nno_auth_user: a"
  )
  nats.signal("SIGHUP")
  await sleep(200)
  for (const client of pair.nodes.map((node) => pair.join(node))) {
    await pair.joined(10)
    await pair.hears(client, 3)
  }
  promise("  without the right to publish they are not ready", await pair.is("degraded", 5) && await pair.isUnready())
  nats.configure("authorization { users = [ { user: a } ] }\nno_auth_user: a")
  nats.signal("SIGHUP")
  promise("  with all rights they are", await pair.is("connected") && await pair.isReady() && await pair.isWhole())
  await pair.end()
  await nats.end()
}

const full = async (): Promise<void> => {
  say("NATS: a server that takes no more connections is the first of two")
  const [first, second] = [await Engine.start("nats", "max_connections: 1"), await Engine.start("nats")]
  const holder = await connect({ servers: first.url })
  const env = { NATS: `${first.url},${second.url}` }
  const pair = await Pair.start(env, env)
  promise(
    "  the nodes are ready, and all hear each other",
    await pair.is("connected", 5) && await pair.joined(5) && await pair.isWhole()
  )
  await second.kill()
  await pair.is("reconnecting", 5)
  await second.start()
  promise("  the second one is found again within 5 seconds", await pair.is("connected", 5) && await pair.isWhole())
  await pair.end()
  await holder.close()
  await Promise.all([first.end(), second.end()])
}

const rolling = async (): Promise<void> => {
  say("NATS: three servers with TLS, known by their addresses but for one, are restarted one after the other")
  const servers = await clusterOf(3, (engine) => {
    const [cert, key] = [engine.write("cert.pem", localhost.certificate), engine.write("key.pem", localhost.key)]
    return `tls { cert_file: "${cert}", key_file: "${key}" }`
  })
  const tls = { ca: localhost.certificate }
  await Promise.all(servers.map((server) => server.start()))
  const [seed] = servers
  const address = `localhost:${seed?.port}`
  await knows(address, 3, { tls })
  const env = { NATS: `tls://${address}`, NATS_CA: localhost.certificate }
  const pair = await Pair.start(env, env)
  promise(
    "  the nodes are ready, and all hear each other",
    await pair.is("connected", 5) && await pair.joined(5) && await pair.isWhole()
  )
  const roll = async () => {
    for (const server of servers) {
      await server.kill()
      await sleep(3000)
      await server.start()
      await knows(`localhost:${server.port}`, 3, { tls })
    }
  }
  const outage = await pair.longestOutage(roll())
  promise("  no node is out for longer than 3 seconds", outage < 3, `${outage.toFixed(1)} s`)
  promise("  all hear each other", await pair.is("connected") && await pair.isWhole())
  await pair.end()
  await Promise.all(servers.map((server) => server.end()))
}

const replaced = async (): Promise<void> => {
  say("NATS: all servers are replaced, and the address of a former one goes to another cluster")
  const [first, second, third] = await clusterOf(3)
  if (first === undefined || second === undefined || third === undefined) throw new Error("no servers")
  await Promise.all([first.start(), second.start()])
  await knows(first.url, 2)
  const env = { NATS: first.url }
  const pair = await Pair.start(env, env)
  await pair.joined(10)
  await third.start()
  await knows(first.url, 3)
  for (const server of [first, second]) {
    await server.kill()
    await knows(third.url, server === first ? 2 : 1)
    promise(
      "  a server is gone, and the nodes go on with those that are left",
      await pair.is("connected", 5) && await pair.isWhole()
    )
  }
  // Nobody else is there: only the stranger answers where the second one was.
  second.configure("cluster { name: \"strangers\", listen: \"127.0.0.1:-1\" }")
  await second.start()
  await third.kill()
  await pair.is("reconnecting", 5)
  await sleep(3000)
  promise("  the stranger is not joined", await pair.is("reconnecting", 0) && await pair.isUnready())
  await third.start()
  promise("  the last of its servers is found again", await pair.is("connected", 10) && await pair.isWhole())
  await pair.end()
  await Promise.all([first.end(), second.end(), third.end()])
}

export const natsHealth = async (): Promise<void> => {
  if (isMissing("nats")) return say("skipped: there is no nats-server on PATH")
  for (const fault of [limits, full, rolling, replaced]) await fault()
}
