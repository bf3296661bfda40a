/**
 * One server under clients that come and go, well and badly, for as long as is asked: `npm run soak -- --minutes 30`. When
 * all have left, the server must be as small as it was.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { misdeedNames } from "./app.ts"
import { Client, type Reply } from "./client.ts"
import { between, end, numbers, pick, promise, say, until } from "./promises.ts"
import { type Report, Server } from "./server.ts"

const { clients, minutes } = numbers({ minutes: 30, clients: 100 })

/** Ways to go; a silent client is noticed by the server when it has said nothing for a minute. */
const endings = ["close", "close", "leave", "leave", "reset", "reset", "halfClose", "fallSilent"] as const

const counts = {
  clients: 0,
  events: 0,
  replies: 0,
  crashes: 0,
  pushes: 0,
  ...Object.fromEntries(endings.map((how) => [how, 0]))
}
const count = (what: string) => void (counts[what as keyof typeof counts]++)

const answered = (reply: Reply | undefined) => reply !== undefined && count("replies")

/** One life of a client: a few topics, some events, an end. */
const live = async (server: Server, name: string, stop: () => boolean, mayFallSilent: boolean) => {
  count("clients")
  const client = new Client(name, () => server.port, {
    message: () => count("pushes"),
    failed: () => count("crashes")
  })
  const n = Math.floor(Math.random() * 20)
  client.join(`room:${n}`)
  client.join("lobby:all")
  client.join(`wild:${name}`, { crash: Math.random() < 0.5, ...Math.random() < 0.1 && { terminate: "hang" } })
  await until(() => client.isThere || stop(), 10)
  const goesAt = performance.now() + between(500, 15_000)
  while (performance.now() < goesAt && !stop()) {
    count("events")
    const chance = Math.random()
    if (chance < 0.5) void client.push(`room:${n}`, "echo", { n }).then(answered)
    else if (chance < 0.95) void client.push(`room:${n}`, "shout", { n }).then(answered)
    else void client.push(`wild:${name}`, pick(misdeedNames), {}).then(answered)
    await sleep(between(20, 300))
  }
  const how = pick(endings)
  const possible = how === "fallSilent" && !mayFallSilent ? "reset" : how
  count(possible)
  if (possible === "leave") await Promise.race([client.leave(`room:${n}`), sleep(1000)])
  client.go(possible === "leave" ? "close" : possible)
}

/** Has so many clients there at any time, until it is time to stop. */
const churn = async (server: Server, seconds: number, mayFallSilent: boolean) => {
  const stopAt = performance.now() + seconds * 1000
  const stop = () => performance.now() > stopAt
  const lane = async (lane: number) => {
    await sleep(between(0, 2000))
    for (let life = 0; !stop(); life++) await live(server, `u${lane}-${life % 3}`, stop, mayFallSilent)
  }
  await Promise.all(Array.from({ length: clients }, (_, index) => lane(index)))
}

const settling = [
  "processes",
  "timers",
  "sockets",
  "connections",
  "channels",
  "waiting",
  "presences",
  "topics",
  "fibers"
] as const

const isAs = (before: Report, now: Report) => settling.every((what) => now[what] === before[what])

const server = await Server.start()
const fresh = await server.report()

/** Until nothing is left of the clients; those that are silent are there for a minute. */
const settled = async () => {
  const began = performance.now()
  const so = await until(async () => isAs(fresh, await server.report()), 90)
  return { so, seconds: Math.round((performance.now() - began) / 1000) }
}

const warmUp = Math.min(20, minutes * 60 / 3)
say(`warms up for ${warmUp} s with ${clients} clients at a time`)
await churn(server, warmUp, false)
await settled()
const before = await server.heap()

say(`${minutes} minutes with ${clients} clients at a time`)
const began = performance.now()
const watch = setInterval(async () => {
  const { channels, connections, crashes, fibers, processes, timers } = await server.report()
  say(
    `${Math.round((performance.now() - began) / 1000)} s: ${
      JSON.stringify({ connections, channels, processes, timers, fibers, crashes })
    }`
  )
}, Math.max(10_000, minutes * 60_000 / 10))
await churn(server, minutes * 60, true)
clearInterval(watch)
say(`what the clients did: ${JSON.stringify(counts)}`)

const { seconds, so } = await settled()
const after = await server.report()
const heap = await server.heap()
const grown = 100 * (heap / before - 1)
promise("the channels have crashed, as they should", after.crashes > 0, after.crashes)
for (const what of settling) {
  promise(`${what} as before anybody came`, after[what] === fresh[what], [fresh[what], after[what]])
}
promise("it has settled", so, `in ${seconds} s`)
promise(
  "heap within 10 % of what it was after the warm-up",
  grown <= 10,
  `${before.toFixed(1)} MB, then ${heap.toFixed(1)} MB (${grown.toFixed(1)} %)`
)
promise("the server ends when it is told to", await server.stop() === 0)
end()
