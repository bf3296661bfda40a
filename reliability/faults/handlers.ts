/** Handlers go wrong in every way there is, each in a channel of its own. */
import { setTimeout as sleep } from "node:timers/promises"
import { misdeedNames, type Wishes } from "../app.ts"
import { Client } from "../client.ts"
import { promise, until } from "../promises.ts"
import { Server } from "../server.ts"

/** What a client notices of it. */
interface Noticed {
  reply: string | undefined
  /** Crashes of its channel, and joins that were refused. */
  failed: Array<string>
  closed: Array<string>
}

const patience = 1500

const provoke = async (server: Server, where: "handleIn" | keyof Wishes, name: string) => {
  const noticed: Noticed = { reply: undefined, failed: [], closed: [] }
  const topic = `wild:${where} ${name}`
  const client = new Client("provoker", () => server.port, {
    failed: (_client, _topic, why) => noticed.failed.push(JSON.stringify(why)),
    closed: (_client, why) => noticed.closed.push(why)
  })
  client.join(topic, where === "handleIn" ? {} : { [where]: name })
  if (where === "handleIn" && await until(() => client.isThere, 5)) {
    const reply = await Promise.race([client.push(topic, name, {}), sleep(patience)])
    noticed.reply = reply?.status
    // A crashed channel is joined again after a second.
    if (name !== "hang") await until(() => client.isThere, 5)
  } else if (where === "terminate") {
    if (await until(() => client.isThere, 5)) noticed.reply = (await client.leave(topic))?.status
  } else {
    await sleep(patience)
  }
  const outcome = { name, whole: client.isThere, ...noticed, closed: [...noticed.closed] }
  client.go()
  return outcome
}

type Outcome = Awaited<ReturnType<typeof provoke>>

const isRefusal = (name: string) => name === "fail with a reason"

const crash = "{\"reason\":\"channel_crash\"}"
const joinCrash = "{\"reason\":\"join crashed\"}"

/** How each must show to the client, by where it goes wrong. */
const expected = {
  handleIn: ({ failed, name, reply, whole }: Outcome) =>
    name === "hang"
      ? reply === undefined && failed.length === 0
      : isRefusal(name)
      ? reply === "error" && failed.length === 0
      : reply === undefined && failed.join() === crash && whole,
  join: ({ failed, name, whole }: Outcome) =>
    // What a join returns is dropped, when it is no failure.
    name === "reply what is no JSON"
      ? whole
      : name === "hang"
      ? !whole && failed.length === 0
      : failed[0] === (isRefusal(name) ? "{\"reason\":\"as it was told\"}" : joinCrash),
  handleInfo: ({ failed, name }: Outcome) =>
    name === "hang" || name === "reply what is no JSON" ? failed.length === 0 : failed[0] === crash,
  terminate: ({ failed, reply }: Outcome) => reply === "ok" && failed.length === 0
} as const

export const handlers = async (): Promise<void> => {
  const server = await Server.start()
  const fresh = await server.report()
  let disturbed = 0
  const bystander = new Client("bystander", () => server.port, {
    failed: () => void disturbed++,
    closed: () => void disturbed++
  })
  bystander.join("wild:bystander")
  bystander.join("room:1")
  for (const where of ["handleIn", "join", "handleInfo", "terminate"] as const) {
    const outcomes = await Promise.all(misdeedNames.map((name) => provoke(server, where, name)))
    const wrong = outcomes.filter((outcome) => !expected[where](outcome) || outcome.closed.length > 0)
    promise(
      `${where} goes wrong in ${outcomes.length} ways: the client is told, and its connection stays`,
      wrong.length === 0,
      wrong.length === 0 ? "" : wrong
    )
  }
  const reply = await bystander.push("room:1", "echo", {})
  promise("others notice nothing", disturbed === 0 && reply?.status === "ok")
  bystander.go()
  const settled = await until(async () => {
    const { channels, connections, fibers, processes } = await server.report()
    return processes === fresh.processes && connections + channels === 0 && fibers === fresh.fibers
  }, 15)
  promise(
    "also handlers and terminates that never return are gone soon after their client",
    settled,
    await server.report()
  )
  promise("the server ends when it is told to", await server.stop() === 0)
}
