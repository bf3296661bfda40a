/**
 * Attacks on the memory of a server with a small heap and the defaults, while somebody is in another room who must not
 * notice: `npm run attack:memory`.
 *
 * `--only` names attacks, or parts of their names; `--seconds` says how long each may take (default 8), `--heap` how large the
 * heap of the server is (default 512 MB). The server, the attacker and the witness are processes of their own; where there
 * are two cores and `taskset`, the server has one for itself. Ends with 1 where the server dies, the witness waits for 250 ms
 * in more than a hundredth of the cases, or memory does not settle.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { availableParallelism, setPriority } from "node:os"
import { parseArgs } from "node:util"
import { WebSocket } from "ws"
import { attacks } from "../test/attacks/memory/attacks.ts"
import type { Report } from "../test/attacks/memory/server.ts"

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    seconds: { type: "string", default: "8" },
    heap: { type: "string", default: "512" },
    attack: { type: "string" },
    port: { type: "string", default: "0" }
  }
})

const numberOf = (option: "seconds" | "heap" | "port"): number => {
  const number = Number(values[option])
  if (!Number.isFinite(number) || number < 0) {
    throw new RangeError(`--${option} must be a number, not ${values[option]}`)
  }
  return number
}

/** Limits the wait of a witness in 99 of 100 cases: milliseconds. */
const mostWait = 250

/** Limits how much more the heap and the buffers hold after an attack than before it, and the time until then: MB, ms. */
const mostGrowth = 50
const timeToSettle = 20_000

/** Interval at which the witness speaks: milliseconds. */
const pace = 20

const sleep = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))
const megabytes = (bytes: number) => Math.round(bytes / 1e6)

// --- the server ---------------------------------------------------------------------------------------------------------

/** Tells whether the server can have a core of its own, which the attacker leaves alone. */
const isPinned = availableParallelism() > 1 && spawnSync("taskset", ["-V"]).status === 0

const onCore = (core: number, command: ReadonlyArray<string>): readonly [string, ReadonlyArray<string>] => {
  const [program = "", ...args] = isPinned ? ["taskset", "-c", String(core), ...command] : command
  return [program, args]
}

class Server {
  readonly child: ChildProcess
  readonly port: number
  /** The way the server has ended, if it has. */
  ended: string | undefined
  /** Bytes of memory at most, since it was looked at first. */
  peak = 0
  private readonly watch: NodeJS.Timeout

  private constructor(child: ChildProcess, port: number) {
    this.child = child
    this.port = port
    this.watch = setInterval(() => {
      this.peak = Math.max(this.peak, this.resident)
    }, 100)
    child.once("exit", (code, signal) => {
      clearInterval(this.watch)
      this.ended = signal ?? `code ${code}`
    })
  }

  static async start(): Promise<Server> {
    const program = new URL("../test/attacks/memory/server.ts", import.meta.url).pathname
    const node = [process.execPath, `--max-old-space-size=${numberOf("heap")}`, "--expose-gc", program]
    // Standard error is ignored because the output of Node is long when it runs out of memory.
    const child = spawn(...onCore(0, node), { stdio: ["ignore", "inherit", "ignore", "ipc"] })
    const [{ port }]: Array<{ readonly port: number }> = await once(child, "message")
    return new Server(child, port)
  }

  get resident(): number {
    try {
      const pages = readFileSync(`/proc/${this.child.pid}/statm`, "utf8").split(" ")[1]
      return Number(pages) * 4096
    } catch {
      return 0
    }
  }

  /** Asks the server for its report; undefined where it does not answer in time. */
  async report(): Promise<Report | undefined> {
    if (this.ended !== undefined) return undefined
    const answer = once(this.child, "message").then(([report]): Report => report)
    this.child.send("report", () => {})
    return Promise.race([answer, sleep(5000).then(() => undefined)])
  }

  async stop(): Promise<void> {
    if (this.ended !== undefined) return
    this.child.kill("SIGKILL")
    await once(this.child, "exit")
  }
}

// --- the witness --------------------------------------------------------------------------------------------------------

/** Somebody in another room, who says something at a steady pace: an answer that is late delays none of the next questions. */
class Witness {
  readonly waits: Array<number> = []
  private readonly ws: WebSocket
  private readonly asked = new Map<string, number>()
  private count = 0
  private isIn = false
  private timer: NodeJS.Timeout | undefined
  private readonly said: string

  private constructor(ws: WebSocket, said: string) {
    this.ws = ws
    this.said = said
    ws.on("error", () => {})
    ws.on("message", (data) => {
      const [, ref] = JSON.parse(String(data))
      const began = this.asked.get(ref)
      if (began === undefined) return
      this.asked.delete(ref)
      this.isIn = true
      this.waits.push(performance.now() - began)
    })
  }

  static async in(server: Server, mount: "/socket" | "/packed"): Promise<Witness> {
    const url = `ws://127.0.0.1:${server.port}${mount}/websocket?vsn=2.0.0`
    // Large enough for `ws` itself to inflate it, where it is compressed.
    const said = Array.from({ length: 400 }, (_, n) => (n * 7919 % 1000).toString(36)).join(" ").padEnd(2048, ".")
    const ws = new WebSocket(url, { perMessageDeflate: mount === "/packed" ? { threshold: 0 } : false })
    await once(ws, "open")
    const witness = new Witness(ws, said)
    witness.send("phx_join", {})
    while (!witness.isIn) await sleep(5)
    return witness
  }

  private send(event: string, payload: unknown): void {
    const ref = String(++this.count)
    this.asked.set(ref, performance.now())
    this.ws.send(JSON.stringify(["1", ref, "room:witness", event, payload]))
  }

  speak(): void {
    clearInterval(this.timer)
    this.waits.length = 0
    this.timer = setInterval(() => this.send("echo", this.said), pace)
  }

  /** Counts each message that was not answered as having waited until now. */
  hush(): void {
    clearInterval(this.timer)
    for (const began of this.asked.values()) this.waits.push(performance.now() - began)
    this.asked.clear()
  }

  get isThere(): boolean {
    return this.ws.readyState === WebSocket.OPEN
  }

  leave(): void {
    clearInterval(this.timer)
    this.ws.terminate()
  }
}

const percentile = (waits: ReadonlyArray<number>, share: number): number => {
  const sorted = waits.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Infinity
}

// --- an attack ----------------------------------------------------------------------------------------------------------

/** The side of the attacker: a process of its own, which lets others go first. */
const attack = async (name: string, port: number, seconds: number): Promise<void> => {
  setPriority(10)
  const ends = new Map<string, number>()
  let isOver = false
  const over = sleep(seconds * 1000).then(() => {
    isOver = true
  })
  const field = {
    port,
    over,
    isOn: () => !isOver,
    closed: (how: string) => void ends.set(how, (ends.get(how) ?? 0) + 1)
  }
  const done = attacks[name]?.(field).catch((error: unknown) => field.closed(String(error)))
  await Promise.race([done?.then(() => over), over])
  // Connections go with the process.
  process.send?.([...ends], () => process.exit())
}

interface Outcome {
  readonly name: string
  readonly problems: ReadonlyArray<string>
}

const run = async (name: string, seconds: number): Promise<Outcome> => {
  const server = await Server.start()
  const witnesses = [await Witness.in(server, "/socket"), await Witness.in(server, "/packed")]
  for (const witness of witnesses) witness.speak()
  await sleep(500)
  for (const witness of witnesses) witness.speak()
  const before = await server.report()
  const resident = server.resident
  const [program, args] = onCore(1, [
    process.execPath,
    import.meta.filename,
    "--attack",
    name,
    "--port",
    String(server.port),
    "--seconds",
    String(seconds)
  ])
  const attacker = spawn(program, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] })
  const ends: Array<readonly [how: string, count: number]> = []
  attacker.once("message", (message: typeof ends) => ends.push(...message))
  const isOver = once(attacker, "exit")
  await Promise.race([isOver, sleep(seconds * 1000 + 10_000)])
  attacker.kill("SIGKILL")
  await isOver
  for (const witness of witnesses) witness.hush()
  // A server that was busy when it was asked is asked again.
  let after: Report | undefined
  const grown = () =>
    after === undefined || before === undefined ?
      Infinity
      : megabytes(after.heap + after.buffers - before.heap - before.buffers)
  const left = () => (after?.connections ?? NaN) - (before?.connections ?? NaN)
  let heapPeak = 0
  for (const end = performance.now() + timeToSettle; performance.now() < end && server.ended === undefined;) {
    after = await server.report()
    heapPeak = Math.max(heapPeak, after?.heapPeak ?? 0)
    if (grown() <= mostGrowth && left() <= 0) break
    await sleep(500)
  }
  const waits = witnesses.flatMap(({ waits }) => waits)
  const p99 = Math.max(...witnesses.map(({ waits }) => percentile(waits, 0.99)))
  const problems: Array<string> = []
  if (server.ended !== undefined) problems.push(`the server has died: ${server.ended}`)
  else {
    if (witnesses.some(({ isThere }) => !isThere)) problems.push("the witness was closed")
    if (p99 >= mostWait) problems.push(`the witness waited for ${Math.round(p99)} ms`)
    if (left() > 0) problems.push(`${left()} connections are still there`)
    if (grown() > mostGrowth) problems.push(`${grown()} MB are still held`)
  }
  const memory = [resident, server.peak, server.resident].map(megabytes).join(" > ")
  const closes = ends.map(([how, count]) => `${count} x ${how}`).join(", ")
  console.log(
    `${problems.length === 0 ? "ok    " : "FAILED"} ${name}\n       p99 ${Math.round(p99)} ms, longest ${
      Math.round(Math.max(...waits))
    } ms; resident ${memory} MB; heap at most ${megabytes(heapPeak)} MB; heap and buffers ${
      grown() > 0 ? "+" : ""
    }${grown()} MB; connections left ${left()}; logged ${Math.round((after?.logged ?? 0) / 1000)} KB; closed ${
      closes === "" ? "none" : closes
    }`
  )
  for (const problem of problems) console.log(`       ${problem}`)
  for (const witness of witnesses) witness.leave()
  await server.stop()
  return { name, problems }
}

const main = async () => {
  const seconds = numberOf("seconds")
  const names = Object.keys(attacks)
  const chosen = names.filter((name) => values.only.length === 0 || values.only.some((part) => name.includes(part)))
  if (chosen.length === 0) throw new RangeError(`there are: ${names.join("; ")}`)
  const outcomes: Array<Outcome> = []
  for (const name of chosen) outcomes.push(await run(name, seconds))
  const failed = outcomes.filter(({ problems }) => problems.length > 0)
  console.log(`${outcomes.length - failed.length} of ${outcomes.length} attacks are withstood`)
  if (failed.length > 0) process.exitCode = 1
}

if (values.attack === undefined) await main()
else await attack(values.attack, numberOf("port"), numberOf("seconds"))
