/**
 * Gives the decoders, and a server, what nobody has thought of: `npm run fuzz`.
 *
 * `--seed` repeats a run, `--runs` says how many inputs the decoders get together (default 1,000,000), `--requests` how many
 * each target gets that needs a server (default one for each fifty of them), and `--only` names the targets to take. Prints the
 * seed, and of what fails the smallest input. An input that does not come to its end is named as well.
 */
import { parseArgs } from "node:util"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import { connections } from "../test/properties/fuzz/connections.ts"
import { http } from "../test/properties/fuzz/http.ts"
import { checks, options } from "../test/properties/fuzz/options.ts"
import { decoders, type Outcome, type Target } from "../test/properties/fuzz/targets.ts"

const targets: ReadonlyArray<Target> = [...decoders, checks, http, ...connections, options]

interface Job {
  readonly name: string
  readonly seed: number
  readonly runs: number
  /** How many inputs have been begun. */
  readonly begun: Int32Array<SharedArrayBuffer>
}

/** Milliseconds without a new input after which the last one is taken to hang. */
const patience = 30_000

/** A target in a thread of its own, so that one that hangs can be told. */
const run = (target: Target, job: Job): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: job })
    let seen = -1
    const watch = setInterval(() => {
      const begun = Atomics.load(job.begun, 0)
      if (begun === seen && begun > 0) {
        const input = target.input(job.seed, begun - 1)
        const failure = { input, path: String(begun - 1), error: "it does not come to its end" }
        finish(() => resolve({ runs: begun, seed: job.seed, failure }))
        void worker.terminate()
      }
      seen = begun
    }, patience)
    const finish = (end: () => void) => {
      clearInterval(watch)
      end()
    }
    worker.once("message", (outcome: Outcome) => finish(() => resolve(outcome)))
    worker.once("error", (error) => finish(() => reject(error)))
  })

const work = async ({ begun, name, runs, seed }: Job) => {
  const target = targets.find((target) => target.name === name)
  const outcome = await target?.run({ seed, runs, onInput: () => Atomics.add(begun, 0, 1) })
  // It is between threads, not windows.
  // oxlint-disable-next-line unicorn/require-post-message-target-origin
  parentPort?.postMessage(outcome)
}

const numberOf = (text: string | undefined, otherwise: number): number => {
  const number = text === undefined ? otherwise : Number(text)
  if (!Number.isSafeInteger(number)) throw new RangeError(`${text} is no whole number`)
  return number
}

const main = async () => {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      runs: { type: "string" },
      requests: { type: "string" },
      only: { type: "string", multiple: true, default: [] }
    }
  })
  // A seed of fast-check has 32 bits.
  const seed = numberOf(values.seed, Date.now() | 0) | 0
  const runs = numberOf(values.runs, 1_000_000)
  const requests = numberOf(values.requests, Math.ceil(runs / 50))
  const chosen = targets.filter(({ name }) => values.only.length === 0 || values.only.includes(name))
  if (chosen.length === 0) throw new RangeError(`there are ${targets.map(({ name }) => `"${name}"`).join(", ")}`)
  console.log(`--seed ${seed}`)
  const start = performance.now()
  let done = 0
  for (const target of chosen) {
    const began = performance.now()
    const begun = new Int32Array(new SharedArrayBuffer(4))
    const wanted = target.share === 0 ? requests : Math.round(runs * target.share / 100)
    const { failure, runs: tried } = await run(target, { name: target.name, seed, runs: wanted, begun })
    done += tried
    const seconds = (performance.now() - began) / 1000
    console.log(`${target.name}: ${tried.toLocaleString("en")} inputs in ${seconds.toFixed(1)} s`)
    if (failure === undefined) continue
    process.exitCode = 1
    console.error(`FAILED, at ${failure.path}: ${failure.error}\n  with ${failure.input}`)
    console.error(
      `  again: npm run fuzz -- --seed ${seed} --runs ${runs} --requests ${requests} --only "${target.name}"`
    )
  }
  console.log(`${done.toLocaleString("en")} inputs in ${((performance.now() - start) / 1000).toFixed(0)} s`)
}

if (isMainThread) await main()
else await work(workerData as Job)
