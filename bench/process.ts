/**
 * What a process costs, beside the obvious way to write one: a fiber that takes from a queue. Prints heap per idle
 * process, time per message, and the bars that the README promises. Run with `npm run bench:process`.
 */
import { Context, Effect, Fiber, Layer, Queue, Scope } from "effect"
import { spawnSync } from "node:child_process"
import * as Process from "../src/Process.ts"
import { median } from "./cells.ts"

const count = 50_000
const rounds = 25
const burst = 1000

/** One core, so that garbage collection is paid for where it is made. */
const pinned = () => {
  if (process.env["BENCH_PINNED"] !== undefined) return true
  const env = { ...process.env, BENCH_PINNED: "1" }
  const args = ["-c", "0", process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const { error, status } = spawnSync("taskset", args, { stdio: "inherit", env })
  if (error !== undefined) return true
  process.exitCode = status ?? 1
  return false
}

class Tally extends Context.Service<Tally, { add: () => number }>()("bench/Tally") {}

/** How many messages are handled, and what to do when all of them are. */
let left = 0
let done = () => {}
const handled = (): number => {
  if (--left === 0) done()
  return left
}

/** Has `messages` messages sent and waits until they are handled. */
const exchange = (messages: number, send: () => void) =>
  new Promise<void>((resolve) => {
    left = messages
    done = resolve
    send()
  })

/** Microseconds of CPU per message. */
const timed = async (messages: number, times: number, send: () => void): Promise<number> => {
  const before = process.cpuUsage()
  for (let i = 0; i < times; i++) await exchange(messages, send)
  const { system, user } = process.cpuUsage(before)
  return (user + system) / (messages * times)
}

const heap = async (): Promise<number> => {
  for (let i = 0; i < 5; i++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return process.memoryUsage().heapUsed
}

interface Row {
  readonly name: string
  readonly bytes: number
  readonly spawn: number
  readonly fanOut: number
  readonly hot: number
}

interface Subject<A> {
  readonly name: string
  readonly spawn: Effect.Effect<A, never, Process.System | Tally>
  readonly send: (to: A, message: number) => void
  readonly end: (subject: A) => Effect.Effect<unknown>
}

const services = await Effect.runPromise(
  Layer.buildWithScope(
    Layer.merge(Process.System.layer, Layer.succeed(Tally, { add: handled })),
    Scope.makeUnsafe()
  )
)

const measure = async <A>({ end, name, send, spawn }: Subject<A>): Promise<Row> => {
  const run = <B>(effect: Effect.Effect<B, never, Process.System | Tally>) =>
    Effect.runPromise(Effect.provideContext(effect, services))
  const hot = await run(spawn)
  const toOne = () => {
    for (let i = 0; i < burst; i++) send(hot, i)
  }
  for (let i = 0; i < 200; i++) await exchange(burst, toOne)
  const subjects = new Array<A>(count).fill(hot)
  const before = await heap()
  const start = process.cpuUsage()
  await run(Effect.gen(function*() {
    for (let i = 0; i < count; i++) subjects[i] = yield* spawn
  }))
  const { system, user } = process.cpuUsage(start)
  const toAll = () => {
    for (let i = 0; i < count; i++) send(subjects[i] ?? hot, i)
  }
  await exchange(count, toAll)
  const bytes = (await heap() - before) / count
  for (let i = 0; i < 5; i++) await exchange(count, toAll)
  const fanOut: Array<number> = []
  for (let i = 0; i < rounds; i++) fanOut.push(await timed(count, 1, toAll))
  const oneHot: Array<number> = []
  for (let i = 0; i < rounds; i++) oneHot.push(await timed(burst, 20, toOne))
  await run(Effect.forEach([hot, ...subjects], end, { discard: true }))
  return { name, bytes, spawn: (user + system) / count, fanOut: median(fanOut), hot: median(oneHot) }
}

/** A process that handles every message in the same way. */
const processes = (name: string, handle: (message: number) => Effect.Effect<unknown, never, Tally>) => {
  const behaviour = Effect.succeed({ handle })
  return measure({
    name,
    spawn: Process.spawn(() => behaviour),
    send: Process.sendUnsafe,
    end: (pid) => Process.exit(pid, Process.killed)
  })
}

const baseline = () =>
  measure({
    name: "fiber looping over Queue.take",
    spawn: Effect.gen(function*() {
      const queue = yield* Queue.unbounded<number>()
      const loop = Effect.forever(Effect.map(Queue.take(queue), handled), { disableYield: true })
      return { queue, fiber: yield* Effect.forkDetach(loop, { startImmediately: true }) }
    }),
    send: ({ queue }, message) => void Queue.offerUnsafe(queue, message),
    end: ({ fiber }) => Fiber.interrupt(fiber)
  })

/** What Effect itself takes to run the handler's effect, with no process around it: no process can do it in less. */
const bare = async (handle: (message: number) => Effect.Effect<unknown, never, Tally>): Promise<number> => {
  const fork = Effect.runForkWith(services)
  const values: Array<number> = []
  for (let i = 0; i < rounds; i++) {
    values.push(
      await timed(count, 1, () => {
        for (let i = 0; i < count; i++) fork(handle(i))
      })
    )
  }
  return median(values)
}

const main = async () => {
  const exit = await processes("process, handler returns an Exit", () => {
    handled()
    return Effect.void
  })
  const sync = await processes("process, Effect.sync", () => Effect.sync(handled))
  const twoYields = Effect.fnUntraced(function*(message: number) {
    const tally = yield* Tally
    const left = yield* Effect.sync(tally.add)
    return left + message
  })
  const yields = await processes("process, Effect.fnUntraced, two yields", twoYields)
  const bareYields = await bare(twoYields)
  const queue = await baseline()
  const table = [exit, sync, yields, queue].map((row) => ({
    "": row.name,
    "bytes/idle": Math.round(row.bytes),
    "us/spawn": row.spawn.toFixed(2),
    "us/message": row.fanOut.toFixed(2),
    "messages/s": Math.round(1e6 / row.fanOut).toLocaleString("en"),
    "us/message, one process": row.hot.toFixed(2),
    "times the Queue loop": (queue.fanOut / row.fanOut).toFixed(1),
    "times smaller": (queue.bytes / row.bytes).toFixed(1)
  }))
  console.log(
    `${count.toLocaleString("en")} processes, one message to each per round, median of ${rounds} rounds, CPU time`
  )
  console.log(`Node ${process.version}\n`)
  const columns = Object.keys(table[0] ?? {})
  const cells = [columns, ...table.map((row) => Object.values(row).map(String))]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)))
  for (const row of cells) {
    console.log(row.map((cell, i) => i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)).join("  "))
  }
  console.log()
  const bars: ReadonlyArray<readonly [text: string, value: number, unit: string, met: boolean]> = [
    [
      "an idle process takes at most 400 bytes of heap",
      Math.max(exit.bytes, sync.bytes, yields.bytes),
      "bytes",
      Math.max(exit.bytes, sync.bytes, yields.bytes) <= 400
    ],
    ["a message handled by an Effect.sync takes at most 1 us", sync.fanOut, "us", sync.fanOut <= 1],
    ["one handled by an Effect.fnUntraced takes at most 1.5 us", yields.fanOut, "us", yields.fanOut <= 1.5],
    [
      "at least 5 times as many messages per second as the Queue loop",
      queue.fanOut / sync.fanOut,
      "times",
      queue.fanOut >= 5 * sync.fanOut
    ]
  ]
  for (const [text, value, unit, met] of bars) {
    console.log(`${met ? "met   " : "MISSED"}  ${text}: ${value.toFixed(2)} ${unit}`)
  }
  console.log(
    `        of which Effect takes ${
      bareYields.toFixed(2)
    } us to run it without a process: on this machine, in this run`
  )
  process.exit()
}

if (pinned()) await main()
