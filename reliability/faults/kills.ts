/** Processes are killed at random while everybody talks. */
import { setTimeout as sleep } from "node:timers/promises"
import { Client } from "../client.ts"
import { Crowd } from "../crowd.ts"
import { promise, say, until } from "../promises.ts"
import { Server } from "../server.ts"

/** Whether a process belongs to one client. */
const isOfClient = (label: string) => label.startsWith("socket ") || label.startsWith("channel ")

/** How long after a kill what a client notices may come from it: a topic is joined again after a second. */
const afterwards = 12_000

/** Whether somebody who is in a lobby sees another one come and go. */
const isSeen = async (server: Server): Promise<boolean> => {
  let [joins, leaves] = [false, false]
  const watcher = new Client("watcher", () => server.port, {
    message: (_client, _topic, event, payload) => {
      if (event !== "presence_diff") return
      const diff = payload as { readonly joins: object; readonly leaves: object }
      joins ||= "newcomer" in diff.joins
      leaves ||= "newcomer" in diff.leaves
    }
  })
  watcher.join("lobby:others")
  await until(() => watcher.isThere, 5)
  const newcomer = new Client("newcomer", () => server.port)
  newcomer.join("lobby:others")
  await until(() => joins, 2)
  newcomer.go()
  const seen = await until(() => joins && leaves, 2)
  watcher.go()
  await until(async () => (await server.report()).sockets === (await server.report()).connections, 5)
  return seen
}

export const kills = async (clients: number, seconds: number, killsPerSecond: number): Promise<void> => {
  const server = await Server.start()
  const fresh = await server.report()
  const crowd = new Crowd()
  promise(`${clients} clients join`, await crowd.fill(clients, () => server.port))
  const total = (await server.report()).processes
  void crowd.talk(Math.min(500, clients / 5))
  await sleep(1000)

  const killed = new Map<string, Array<number>>()
  const victims = { sockets: 0, channels: 0 }
  const stopAt = performance.now() + seconds * 1000
  while (performance.now() < stopAt) {
    const at = performance.now()
    const { label = "", owner } = await server.kill(Math.random() < 0.5 ? "channel " : "socket ")
    const client = owner === undefined ? undefined : crowd.named(owner.slice("user:".length))
    if (client !== undefined) {
      const room = crowd.roomOf(client)
      if (label.startsWith("socket ") || label === `channel ${room}`) crowd.ledger.went(client, room, at)
      killed.set(client.user, [...killed.get(client.user) ?? [], at])
      victims[label.startsWith("socket ") ? "sockets" : "channels"]++
    }
    await sleep(1000 / killsPerSecond)
  }
  const back = await crowd.complete(20)
  crowd.stopTalking()
  await sleep(1000)
  const account = crowd.ledger.account()
  const others = crowd.disturbances.filter(({ at, client }) =>
    !(killed.get(client.user) ?? []).some((kill) => at >= kill && at <= kill + afterwards)
  )
  say(
    `of ${total} processes, ${victims.sockets} connections and ${victims.channels} channels were killed: ${
      JSON.stringify(account)
    }`
  )
  promise("somebody was killed, and noticed", crowd.disturbances.length > 0, crowd.disturbances.length)
  promise("clients of other processes notice nothing", others.length === 0, others.slice(0, 3).map(({ why }) => why))
  promise("nothing is lost for those who were there", account.lost === 0, account.lost)
  promise("nothing is doubled or out of order", account.doubled + account.outOfOrder === 0)
  promise("all who were killed are back, and all hear each other", back && await crowd.allHear())

  // The processes of the node itself, each of which all clients depend on.
  for (const label of (await server.labels()).filter((label) => !isOfClient(label))) {
    crowd.disturbances.length = 0
    const began = performance.now()
    await server.kill(label)
    // It may take a second until it is started again, and as long until those come back who have noticed.
    await sleep(2000)
    const seen = await until(() => isSeen(server), 20)
    const whole = await crowd.complete(30) && await crowd.allHear()
    const { presences, sockets: listed } = await server.report()
    promise(
      `after a kill of "${label}" all are there, hear each other, see who comes and goes, and are listed`,
      whole && seen && listed === clients && presences === Math.ceil(clients / 5),
      {
        whole,
        seen,
        listed,
        presences,
        disturbed: new Set(crowd.disturbances.map(({ client }) => client)).size,
        last: Math.round(Math.max(0, ...crowd.disturbances.map(({ at }) => at - began)))
      }
    )
  }

  crowd.leave()
  const settled = await until(async () => {
    const now = await server.report()
    return now.processes === fresh.processes && now.connections + now.channels + now.presences + now.waiting === 0
      && now.topics === fresh.topics && now.timers === fresh.timers
  }, 20)
  promise("all counts settle", settled, await server.report())
  promise("the server ends when it is told to", await server.stop() === 0)
}
