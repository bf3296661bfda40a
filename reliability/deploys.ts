/**
 * A rolling restart: `npm run deploys`. Two nodes behind a balancer, which sends clients to those that are ready, are replaced
 * one after the other while their clients talk. `--batch` connections are closed every `--interval` milliseconds, `--delay`
 * milliseconds after the node has said that it is not ready any more.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { Balancer } from "./balancer.ts"
import { Crowd } from "./crowd.ts"
import { Engine, isMissing } from "./engines.ts"
import { end, numbers, promise, say, until } from "./promises.ts"
import { Server } from "./server.ts"

const { batch, clients, delay, interval, rate } = numbers({
  clients: 2000,
  batch: 100,
  interval: 500,
  delay: 1000,
  rate: 200
})

/** For how many milliseconds a client may have been closed already, on another node, before it learns of that. */
const grace = 1000

/** The most that may connect within a second: what is closed in it, and a batch before and after, as clients take their time. */
const pace = Math.ceil(1000 / interval + 2) * batch

/** The longest that a client may be away, in milliseconds: it looks for another node after 10, 50, 100, ... */
const patience = 2000

const startNode = (redis: Engine) =>
  Server.start({
    REDIS: redis.url,
    BATCH_SIZE: String(batch),
    BATCH_INTERVAL: `${interval} millis`,
    READY_DELAY: `${delay} millis`,
    PRESENCE_PERIOD: "500 millis"
  })

/** The most events within a second; their times are in order. */
const busiestSecond = (times: ReadonlyArray<number>): number => {
  let most = 0
  let first = 0
  times.forEach((time, index) => {
    while (time - (times[first] ?? time) > 1000) first++
    most = Math.max(most, index - first + 1)
  })
  return most
}

/** For how many milliseconds each that was disturbed was not in its room, in order. */
const absences = ({ disturbances, ledger, roomOf }: Crowd): ReadonlyArray<number> =>
  disturbances
    .map(({ at, client }) => (ledger.cameAfter(client, roomOf(client), at) ?? Infinity) - at)
    .toSorted((a, b) => a - b)

/** Starts a new node, then stops the old one. */
const replace = async (old: Server, redis: Engine, balancer: Balancer, crowd: Crowd): Promise<void> => {
  const { connections } = await old.report()
  const next = await startNode(redis)
  balancer.nodes.add(next)
  await until(() => balancer.isReady(next), 10)
  crowd.disturbances.length = 0
  crowd.connects.length = 0

  const began = performance.now()
  const ended = old.stop()
  const noticed = await until(() => !balancer.isReady(old), 10)
  const afterwards = Math.round(performance.now() - began)
  const early = crowd.disturbances.length
  const code = await ended
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  balancer.nodes.delete(old)
  const back = await crowd.complete(30)

  const { connects, disturbances } = crowd
  const closed = disturbances.filter(({ topic }) => topic === undefined)
  const otherwise = closed.filter(({ why }) => why !== "closed by the server with 1012").map(({ why }) => why)
  const refused = disturbances.length - closed.length
  const away = absences(crowd)
  const [median = 0, longest = 0] = [away[Math.floor(away.length / 2)], away.at(-1)].map((time = 0) => Math.round(time))
  const busiest = busiestSecond(connects)

  say(`\na node with ${connections} connections is replaced; it has taken ${seconds} s to end`)
  promise("the balancer knows that it is not ready before a connection is closed", noticed && early === 0, {
    after_ms: afterwards
  })
  promise(
    "all its connections are closed with 1012, once, and no other",
    closed.length === connections && otherwise.length === 0,
    { closed: closed.length, otherwise: otherwise.slice(0, 3) }
  )
  promise("all clients are back, and no join was refused", back && refused === 0, { refused })
  promise(`at most ${pace} connect within a second`, busiest <= pace, busiest)
  promise(`nobody is away for longer than ${patience / 1000} seconds`, longest <= patience, {
    median_ms: median,
    longest_ms: longest
  })
  promise("the node ends with 0", code === 0, String(code))
}

/** What has become of all that was said. */
const accountFor = ({ ledger }: Crowd): void => {
  const { lost: underWay } = ledger.account()
  const { acknowledged, delivered, doubled, lost, missed, outOfOrder, unanswered } = ledger.account(grace)
  const percent = (100 * missed / (delivered + missed)).toFixed(2)
  say(`\nof ${ledger.said.length} messages ${acknowledged} were acknowledged, and delivered ${delivered} times`)
  promise("what was acknowledged was delivered to all who were there", lost === 0, lost)
  promise("nothing is doubled or out of order", doubled + outOfOrder === 0, { doubled, outOfOrder })
  say(`missed by those who were away: ${missed} (${percent} %); ${underWay} of them were closed just then`)
  say(`not answered, and perhaps not said, because the sender was closed: ${unanswered}`)
}

const main = async (redis: Engine): Promise<void> => {
  const nodes = await Promise.all([startNode(redis), startNode(redis)])
  const balancer = new Balancer(nodes)
  const crowd = new Crowd()
  promise(`${clients} clients join, on two nodes`, await crowd.fill(clients, balancer.port))
  void crowd.talk(rate)
  await sleep(2000)
  for (const node of nodes) await replace(node, redis, balancer, crowd)
  await sleep(1000)
  crowd.stopTalking()
  await sleep(1000)
  accountFor(crowd)
  promise("all hear each other", await crowd.allHear())

  crowd.leave()
  const settled = await until(async () => {
    const reports = await Promise.all([...balancer.nodes].map((node) => node.report()))
    return reports.every(({ channels, connections, presences }) => connections + channels + presences === 0)
  }, 20)
  promise("all counts settle", settled)
  balancer.stop()
  await Promise.all([...balancer.nodes].map((node) => node.stop()))
  await redis.end()
}

if (isMissing("redis")) say("skipped: there is no redis-server on PATH")
else await main(await Engine.start("redis"))
end()
