/**
 * A client that does not read: `npm run slow`. `--clients` are in one room, which is sent `--megabytes` (to each), in messages
 * of `--kilobytes` (60 at most), in `--rounds` without and with one client that stops reading by turns. The server is that of
 * bench/, with its defaults.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { median } from "../bench/cells.ts"
import { Connection } from "../bench/client/connection.ts"
import { Histogram } from "../bench/client/histogram.ts"
import { memoryOf } from "../bench/client/machine.ts"
import { freePort } from "../scripts/freePort.ts"
import { end, numbers, promise, say, until } from "./promises.ts"

const { clients, kilobytes, megabytes, rounds } = numbers({ clients: 1000, kilobytes: 50, megabytes: 100, rounds: 3 })
const messages = Math.ceil(megabytes * 1000 / kilobytes)
const filling = "x".repeat(kilobytes * 1000)

/** Allowed growth in MB: the bytes that may wait for one client that does not read (`maxBacklogBytes`), and 20 MB besides. */
const mostGrowth = 84

const heartbeat = JSON.stringify([null, "beat", "phoenix", "heartbeat", {}])

class Listener {
  readonly connection: Connection
  joined = false
  /** The number that has come last, and how often one was left out, doubled or too early. */
  last = -1
  wrong = 0
  why: string | undefined

  constructor(port: number, heard: () => void) {
    this.connection = new Connection(
      { port, path: "/socket/websocket?vsn=2.0.0", compress: "none" },
      {
        opened: () => this.connection.send(JSON.stringify(["1", "1", "bench:slow", "phx_join", {}])),
        message: (text) => {
          if (text.startsWith("[null,\"beat\"")) return
          if (!this.joined) this.joined = text.includes("phx_reply")
          else {
            const n = Number(/"n":(\d+)/.exec(text.slice(0, 100))?.[1])
            if (n !== this.last + 1) this.wrong++
            this.last = n
            heard()
          }
        },
        closed: (why) => this.why = why
      }
    )
  }
}

type Round = Awaited<ReturnType<typeof round>>

/** Has the room hear so many messages, each when the one before has come to all who read; how that went. */
const round = async (port: number, pid: number, clients: number, messages: number, withSlow: boolean) => {
  let heard = 0
  let sentAt = 0
  const latency = new Histogram()
  const hear = () => {
    heard++
    latency.add((performance.now() - sentAt) * 1000)
  }
  const listeners = Array.from({ length: clients }, () => new Listener(port, hear))
  const all = await until(() => listeners.every(({ joined }) => joined), 60)
  promise(`${clients} clients join`, all)
  const slow = withSlow ? listeners[0] : undefined
  slow?.connection.fallSilent()
  const readers = listeners.filter((listener) => listener !== slow)
  const sender = readers[0]
  let peak = memoryOf(pid) ?? 0
  let beat = performance.now()
  for (let n = 0; n < messages; n++) {
    if (performance.now() - beat > 20_000) {
      beat = performance.now()
      for (const { connection } of readers) connection.send(heartbeat)
    }
    heard = 0
    sentAt = performance.now()
    sender?.connection.send(JSON.stringify(["1", null, "bench:slow", "shout", { n, filling }]))
    const patience = sentAt + 30_000
    while (heard < readers.length && performance.now() < patience) await new Promise((turn) => setImmediate(turn))
    peak = Math.max(peak, memoryOf(pid) ?? 0)
    if (heard === readers.length) continue
    const why = readers.map((reader) => reader.why).filter((why) => why !== undefined)
    say(`message ${n} came to ${heard} of ${readers.length} ${JSON.stringify(why)}`)
    break
  }
  const heardAll = readers.every(({ last, why, wrong }) => last === messages - 1 && wrong === 0 && why === undefined)
  for (const { connection } of listeners) connection.destroy("done")
  say(`${withSlow ? "with" : "without"}: peak ${(peak / 1024).toFixed(0)} MB`)
  return { heardAll, peak: peak / 1024, p99: latency.quantile(0.99) / 1000 }
}

const port = await freePort("127.0.0.1")
const server = spawn(process.execPath, [
  "--max-semi-space-size=16",
  "--conditions=effect-channels-source",
  "bench/server.ts"
], { env: { ...process.env, PORT: String(port) }, stdio: ["ignore", "pipe", "inherit"] })
const pid = server.pid ?? 0
await once(server.stdout, "data")

say(`${messages} messages of ${kilobytes} KB to ${clients} clients\n`)
// For nothing. Node collects what is left over of messages such as these only at 64 MB, once it has taken to expecting them
// to stay, which may be in the first round or in the sixth: that is not what one client costs.
await round(port, pid, 20, 20_000, false)
const without: Array<Round> = []
const withOne: Array<Round> = []
for (let i = 0; i < rounds; i++) {
  without.push(await round(port, pid, clients, messages, false))
  withOne.push(await round(port, pid, clients, messages, true))
}
const medians = (of: (round: Round) => number) => [median(without.map(of)), median(withOne.map(of))] as const
const [peak, peakWithOne] = medians(({ peak }) => peak)
const [p99, p99WithOne] = medians(({ p99 }) => p99)
promise("all who read get every message once and in order", [...without, ...withOne].every(({ heardAll }) => heardAll))
promise(
  `the server grows by less than ${mostGrowth} MB for the one that does not`,
  peakWithOne - peak < mostGrowth,
  `${peak.toFixed(0)} MB without, ${peakWithOne.toFixed(0)} MB with it`
)
promise(
  "the others wait no more than twice as long",
  p99WithOne <= 2 * p99,
  `p99 ${p99.toFixed(1)} ms without, ${p99WithOne.toFixed(1)} ms with it`
)
server.kill("SIGTERM")
promise("the server ends when it is told to", await until(() => server.exitCode !== null, 20))
end()
