import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import * as Process from "../../src/Process.ts"
import * as Supervisor from "../../src/Supervisor.ts"
import { runOnNode, settle } from "../support/node.ts"
import { Workers } from "../support/workers.ts"

const strategies = fc.constantFrom<Supervisor.Strategy>("oneForOne", "oneForAll", "restForOne")
const restarts = fc.constantFrom<Supervisor.Restart>("permanent", "transient", "temporary")
const ids = fc.constantFrom("a", "b", "c", "d", "e")

interface Entry {
  readonly id: string
  readonly restart: Supervisor.Restart
  running: boolean
}

/** A supervisor as a list of children and a list of what it did. */
class Model {
  readonly log: Array<string> = []
  entries: Array<Entry> = []
  private readonly strategy: Supervisor.Strategy

  constructor(strategy: Supervisor.Strategy) {
    this.strategy = strategy
  }
  find(id: string): Entry | undefined {
    return this.entries.find((entry) => entry.id === id)
  }
  start(entry: Entry): void {
    this.log.push(`+${entry.id}`)
    entry.running = true
  }
  stop(entry: Entry): void {
    if (entry.running) this.log.push(`-${entry.id}`)
    entry.running = false
  }
  forget(entry: Entry): void {
    this.entries = this.entries.filter((other) => other !== entry)
  }
  /** A child has ended by itself. */
  end(entry: Entry, how: "crash" | "normal" | "killed"): void {
    if (how !== "killed") this.log.push(`-${entry.id}`)
    entry.running = false
    if (entry.restart === "temporary") return this.forget(entry)
    if (entry.restart === "transient" && how === "normal") return
    if (this.strategy === "oneForOne") return this.start(entry)
    const first = this.strategy === "oneForAll" ? 0 : this.entries.indexOf(entry)
    const concerned = this.entries.slice(first)
    for (const other of concerned.toReversed()) this.stop(other)
    for (const other of concerned) if (other.restart === "temporary") this.forget(other)
    for (const other of this.entries.slice(first)) this.start(other)
  }
}

describe("a supervisor", () => {
  const step = fc.record({
    do: fc.constantFrom("crash", "normal", "killed", "start", "terminate", "restart", "crash", "killed", "start"),
    id: ids,
    restart: restarts
  })

  it("does what its model does, in the same order, whatever happens to its children and is asked of it", () =>
    fc.assert(
      fc.asyncProperty(
        strategies,
        fc.array(fc.tuple(ids, restarts), { maxLength: 5 }),
        fc.array(step, { maxLength: 20 }),
        (strategy, first, steps) =>
          runOnNode(() =>
            Effect.gen(function*() {
              const model = new Model(strategy)
              const workers = new Workers()
              const unique = first.filter(([id], i) => first.findIndex(([other]) => other === id) === i)
              for (const [id, restart] of unique) {
                const entry = { id, restart, running: false }
                model.entries.push(entry)
                model.start(entry)
              }
              const supervisor = yield* Supervisor.start({
                strategy,
                maxRestarts: 1000,
                children: unique.map(([id, restart]) => workers.child(id, { restart }))
              })
              for (const { do: action, id, restart } of steps) {
                const entry = model.find(id)
                if (action === "crash" || action === "normal" || action === "killed") {
                  if (!entry?.running) continue
                  model.end(entry, action)
                  const pid = workers.pid(id)
                  if (action === "killed") yield* Process.exit(pid, Process.killed)
                  else yield* Process.send(pid, action === "crash" ? Effect.fail("boom") : Process.stop())
                } else if (action === "start") {
                  const result = yield* Effect.result(
                    Supervisor.startChild(supervisor, workers.child(id, { restart }))
                  )
                  assert.strictEqual(result._tag === "Success", entry === undefined)
                  if (entry === undefined) {
                    const added = { id, restart, running: false }
                    model.entries.push(added)
                    model.start(added)
                  }
                } else {
                  const request = action === "terminate" ? Supervisor.terminateChild : Supervisor.restartChild
                  const result = yield* Effect.result<unknown, Supervisor.SupervisorError, never>(
                    request(supervisor, id)
                  )
                  assert.strictEqual(result._tag === "Success", entry !== undefined)
                  if (entry !== undefined) {
                    model.stop(entry)
                    if (action === "restart") model.start(entry)
                    else model.forget(entry)
                  }
                }
                yield* settle
                assert.deepStrictEqual(workers.log, model.log)
                assert.deepStrictEqual(
                  (yield* Supervisor.children(supervisor)).map(({ id, pid, restart }) => ({
                    id,
                    restart,
                    running: pid?.alive === true
                  })),
                  model.entries
                )
                const runningNow = model.entries.filter((entry) => entry.running).length
                assert.strictEqual((yield* Process.info(supervisor)).children, runningNow)
              }
              yield* Process.exit(supervisor, Process.shutdown())
              yield* Process.awaitExit(supervisor)
              for (const entry of model.entries.toReversed()) model.stop(entry)
              assert.deepStrictEqual(workers.log, model.log)
              assert.lengthOf(yield* Process.list, 0)
            })
          )
      ),
      { numRuns: 200 }
    ))

  it("gives up exactly when there are more than maxRestarts within the time", () =>
    fc.assert(
      fc.asyncProperty(
        fc.nat(4),
        fc.integer({ min: 1, max: 20 }),
        fc.array(fc.nat(10), { minLength: 1, maxLength: 20 }),
        (maxRestarts, within, pauses) =>
          runOnNode(() =>
            Effect.gen(function*() {
              const workers = new Workers()
              const supervisor = yield* Supervisor.start({ maxRestarts, within, children: workers.children("a") })
              let now = 0
              let restarts: Array<number> = []
              for (const pause of pauses) {
                yield* TestClock.adjust(pause)
                now += pause
                restarts = [...restarts.filter((at) => at > now - within), now]
                yield* Process.send(workers.pid("a"), Effect.fail("boom"))
                yield* settle
                assert.strictEqual(supervisor.alive, restarts.length <= maxRestarts)
                if (!supervisor.alive) return
              }
            })
          )
      ),
      { numRuns: 200 }
    ))
})
