import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { RunQueue } from "../../src/internal/runQueue.ts"
import { type Timer, Timers } from "../../src/internal/timers.ts"
import * as Process from "../../src/Process.ts"
import * as Supervisor from "../../src/Supervisor.ts"
import { type Job, runOnNode, settle, spawnObedient } from "../support/node.ts"

describe("messages", () => {
  /** How a handler does its work: all that a handler can do. */
  const work = {
    exit: () => Effect.void,
    sync: () => Effect.sync(() => {}),
    yields: () => Effect.andThen(Effect.yieldNow, Effect.yieldNow),
    sleeps: () => Effect.sleep("10 millis"),
    awaits: () =>
      Effect.gen(function*() {
        const deferred = yield* Deferred.make<void>()
        yield* Effect.forkChild(Deferred.succeed(deferred, undefined))
        yield* Deferred.await(deferred)
      })
  }
  type How = keyof typeof work
  const how = fc.constantFrom<How>("exit", "sync", "yields", "sleeps", "awaits")
  const pause = fc.constantFrom<How | "none">("none", "none", "yields", "sleeps")
  /** What one sender does: how the receiver handles each message, and what the sender does before it. */
  const sender = fc.array(fc.record({ to: fc.nat(2), how, pause }), { maxLength: 20 })

  it("reach each receiver in the order of each sender, one at a time, whatever handlers and senders do in between", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(sender, { minLength: 1, maxLength: 5 }),
        (senders) =>
          runOnNode(() =>
            Effect.gen(function*() {
              interface Message {
                readonly from: number
                readonly n: number
                readonly how: How
              }
              const received: Array<Array<Message>> = [[], [], []]
              const receivers: Array<Process.Pid<Message>> = []
              for (const log of received) {
                let busy = false
                receivers.push(
                  yield* Process.spawn(() =>
                    Effect.succeed({
                      handle: (message: Message) => {
                        assert.isFalse(busy, "two messages at a time")
                        log.push(message)
                        if (message.how === "exit") return Effect.void
                        busy = true
                        return Effect.andThen(
                          work[message.how](),
                          Effect.sync(() => {
                            busy = false
                          })
                        )
                      }
                    })
                  )
                )
              }
              for (const [from, steps] of senders.entries()) {
                const pid = yield* spawnObedient()
                yield* Process.send(
                  pid,
                  Effect.gen(function*() {
                    for (const [n, { how, pause, to }] of steps.entries()) {
                      if (pause !== "none") yield* work[pause]()
                      const receiver = receivers[to]
                      if (receiver !== undefined) yield* Process.send(receiver, { from, n, how })
                    }
                  })
                )
              }
              for (let i = 0; i < 120; i++) yield* Effect.andThen(settle, TestClock.adjust("10 millis"))
              for (const [to, log] of received.entries()) {
                for (const [from, steps] of senders.entries()) {
                  assert.deepStrictEqual(
                    log.filter((message) => message.from === from).map(({ how, n }) => ({ n, how })),
                    steps.flatMap((step, n) => step.to === to ? [{ n, how: step.how }] : [])
                  )
                }
              }
              for (const receiver of receivers) {
                assert.deepInclude(yield* Process.info(receiver), { status: "idle", mailboxLength: 0 })
              }
            })
          )
      ),
      { numRuns: 30 }
    ))
})

describe("an end", () => {
  const size = 8
  const node = fc.nat(size - 1)
  const pairs = fc.array(fc.tuple(node, node), { maxLength: 14 })
  const ends = ["crash", "normal", "shutdown", "killed"] as const
  const scenario = fc.record({
    traps: fc.array(fc.boolean(), { minLength: size, maxLength: size }),
    supervised: fc.array(fc.boolean(), { minLength: size, maxLength: size }),
    links: pairs,
    unlinks: pairs,
    monitors: pairs,
    events: fc.array(fc.tuple(node, fc.constantFrom(...ends)), { minLength: 1, maxLength: 6 })
  })

  /** What should happen, in a few lines of arithmetic on sets. */
  class Model {
    readonly ended = new Map<number, string>()
    readonly links: Array<Set<number>> = Array.from({ length: size }, () => new Set())
    readonly monitors: Array<readonly [owner: number, target: number]> = []
    private readonly traps: ReadonlyArray<boolean>
    private waiting: Array<readonly [to: number, text: string]> = []

    constructor(traps: ReadonlyArray<boolean>) {
      this.traps = traps
    }
    link(a: number, b: number): void {
      if (a === b) return
      this.links[a]?.add(b)
      this.links[b]?.add(a)
    }
    unlink(a: number, b: number): void {
      this.links[a]?.delete(b)
      this.links[b]?.delete(a)
    }
    /** The exit that reaches `to`; `from` is undefined for one from outside. */
    private exit(to: number, tag: string, from: number | undefined): void {
      if (this.ended.has(to)) return
      if (this.traps[to]) this.waiting.push([to, `exit of ${from}: ${tag}`])
      else if (tag !== "Normal") this.end(to, tag)
    }
    private end(pid: number, tag: string): void {
      this.ended.set(pid, tag)
      for (const [owner, target] of this.monitors) if (target === pid) this.waiting.push([owner, `${pid} down: ${tag}`])
      for (const linked of this.links[pid] ?? []) {
        this.unlink(pid, linked)
        this.exit(linked, tag, pid)
      }
    }
    /** What is handled because of an event: by those who are still there when all is over. */
    event(pid: number, how: typeof ends[number]): ReadonlyArray<readonly [number, string]> {
      this.waiting = []
      if (this.ended.has(pid)) return []
      if (how === "crash") this.end(pid, "Crash")
      else if (how === "normal") this.end(pid, "Normal")
      else if (how === "killed") this.end(pid, "Killed")
      else this.exit(pid, "Shutdown", undefined)
      return this.waiting.filter(([to]) => !this.ended.has(to))
    }
  }

  it("reaches exactly monitors, links and supervisor, with its reason, and leaves nothing behind", () =>
    fc.assert(
      fc.asyncProperty(scenario, ({ events, links, monitors, supervised, traps, unlinks }) =>
        runOnNode(({ lines }) =>
          Effect.gen(function*() {
            const model = new Model(traps)
            const log: Array<readonly [number, string]> = []
            const pids: Array<Process.Pid<Job>> = []
            const numberOf = (pid: Process.Pid | undefined) =>
              pid && pids.findIndex((other) => other.id === pid.id)
            const supervisor = yield* Supervisor.start({ maxRestarts: 0 })
            for (let i = 0; i < size; i++) {
              const note = (text: string) => Effect.sync(() => void log.push([i, text]))
              const more = {
                handleDown: ({ pid, reason }: Process.Down) => note(`${numberOf(pid)} down: ${reason._tag}`),
                handleExit: traps[i]
                  ? ({ from, reason }: Process.ExitSignal) => note(`exit of ${numberOf(from)}: ${reason._tag}`)
                  : undefined
              }
              if (supervised[i]) {
                yield* Supervisor.startChild(
                  supervisor,
                  Supervisor.child<Job, never, Process.Own | Process.System>({
                    id: `${i}`,
                    restart: "temporary",
                    start: (self) => {
                      pids.push(self)
                      return Effect.succeed({ ...more, handle: (job) => job })
                    }
                  })
                )
              } else pids.push(yield* spawnObedient(more))
            }
            const nobody = yield* spawnObedient()
            const pidOf = (i: number) => pids[i] ?? nobody
            for (const [a, b] of links) {
              yield* Process.send(pidOf(a), Process.link(pidOf(b)))
              model.link(a, b)
            }
            yield* settle
            for (const [a, b] of unlinks) {
              yield* Process.send(pidOf(a), Process.unlink(pidOf(b)))
              model.unlink(a, b)
            }
            for (const [owner, target] of monitors) {
              yield* Process.send(pidOf(owner), Process.monitor(pidOf(target)))
              if (owner !== target) model.monitors.push([owner, target])
            }
            yield* settle
            let crashes = 0
            for (const [pid, how] of events) {
              if (how === "crash" && !model.ended.has(pid)) crashes++
              const expected = model.event(pid, how)
              yield* how === "crash"
                ? Process.send(pidOf(pid), Effect.fail("boom"))
                : how === "normal"
                ? Process.send(pidOf(pid), Process.stop())
                : Process.exit(pidOf(pid), how === "killed" ? Process.killed : Process.shutdown())
              yield* settle
              const inOrder = (texts: ReadonlyArray<readonly [number, string]>) =>
                texts.map(([to, text]) => `${to}: ${text}`)
              assert.sameMembers(inOrder(log.splice(0)), inOrder(expected))
              for (let i = 0; i < size; i++) {
                const { links, monitors, watchers } = yield* Process.info(pidOf(i))
                const alive = !model.ended.has(i)
                assert.strictEqual(pidOf(i).alive, alive)
                if (!alive) assert.strictEqual((yield* Process.awaitExit(pidOf(i)))._tag, model.ended.get(i))
                const between = model.monitors.filter((pair) => pair.every((end) => !model.ended.has(end)))
                assert.deepStrictEqual({ links, monitors, watchers }, {
                  links: model.links[i]?.size,
                  monitors: between.filter(([owner]) => owner === i).length,
                  watchers: between.filter(([, target]) => target === i).length
                })
              }
            }
            assert.lengthOf(lines, crashes)
            assert.isTrue(supervisor.alive && nobody.alive)
            assert.deepStrictEqual(
              (yield* Supervisor.children(supervisor)).map((child) => child.id),
              supervised.flatMap((child, i) => child && !model.ended.has(i) ? [`${i}`] : [])
            )
          })
        )),
      { numRuns: 300 }
    ))
})

describe("sendAfter", () => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant("set" as const), delay: fc.integer({ min: -2, max: 30 }) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("cancel" as const), which: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("adjust" as const), by: fc.nat(20) }) }
  )

  it("delivers each message at its deadline, in the order of setting when deadlines are equal, unless it is cancelled", () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), (steps) =>
        runOnNode(() =>
          Effect.gen(function*() {
            const log: Array<readonly [id: number, at: number]> = []
            const pid = yield* Process.spawn(() =>
              Effect.succeed({
                handle: (id: number) => Effect.map(Clock.currentTimeMillis, (now) => void log.push([id, now]))
              })
            )
            const refs: Array<Process.TimerRef> = []
            let waiting: Array<readonly [id: number, at: number]> = []
            const expected: Array<readonly [id: number, at: number]> = []
            let now = 0
            const pass = (millis: number) => {
              now += millis
              const due = waiting.filter(([, at]) => at <= now).sort((a, b) => a[1] - b[1])
              expected.push(...due)
              waiting = waiting.filter(([, at]) => at > now)
            }
            for (const step of [...steps, { do: "adjust", by: 100 } as const]) {
              if (step.do === "set") {
                waiting.push([refs.length, now + Math.max(0, step.delay)])
                refs.push(yield* Process.sendAfter(pid, refs.length, step.delay))
              } else if (step.do === "cancel") {
                const id = refs.length === 0 ? 0 : step.which % refs.length
                const ref = refs[id]
                if (ref === undefined) continue
                const known = waiting.some(([other]) => other === id)
                waiting = waiting.filter(([other]) => other !== id)
                assert.strictEqual(yield* Process.cancelTimer(ref), known)
              } else {
                yield* settle
                pass(0)
                yield* TestClock.adjust(step.by)
                pass(step.by)
              }
              assert.isAtLeast((yield* Process.stats).timers, waiting.filter(([, at]) => at > now).length)
            }
            yield* settle
            assert.deepStrictEqual(log, expected)
            assert.strictEqual((yield* Process.stats).timers, 0)
          })
        )),
      { numRuns: 200 }
    ))
})

describe("the heap of timers", () => {
  it("gives back what was put in by deadline, then by order, whatever is taken out in between", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(fc.nat(50), fc.record({ cancel: fc.nat() })), { maxLength: 200 }),
        (steps) =>
          Effect.runPromise(
            Effect.gen(function*() {
              const context = yield* Effect.context<never>()
              const timers = new Timers(yield* Clock.Clock, Effect.runForkWith(context))
              const rung: Array<number> = []
              const set: Array<Timer> = []
              let expected: Array<Timer> = []
              for (const step of steps) {
                if (typeof step === "number") {
                  const order = set.length
                  const timer = timers.after(step, () => rung.push(order))
                  set.push(timer)
                  expected.push(timer)
                } else {
                  const timer = set[step.cancel % Math.max(1, set.length)]
                  if (timer === undefined) continue
                  assert.strictEqual(timers.cancel(timer), expected.includes(timer))
                  expected = expected.filter((other) => other !== timer)
                }
                assert.strictEqual(timers.size, expected.length)
              }
              yield* settle
              yield* TestClock.adjust(100)
              const order = expected.sort((a, b) => a.deadline - b.deadline || a.order - b.order).map((timer) =>
                timer.order
              )
              assert.deepStrictEqual(rung, order)
              timers.close()
            }).pipe(Effect.provide(TestClock.layer()))
          )
      ),
      { numRuns: 200 }
    ))

  it.effect("rings on after a callback that throws, and sets aside what a callback sets for now", () =>
    Effect.gen(function*() {
      const timers = new Timers(yield* Clock.Clock, Effect.runForkWith(yield* Effect.context<never>()))
      const rung: Array<string> = []
      timers.after(1, () => {
        throw new Error("no")
      })
      timers.after(1, () => {
        rung.push("first")
        timers.after(0, () => rung.push("third"))
      })
      timers.after(1, () => rung.push("second"))
      yield* TestClock.adjust(1)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(rung, ["first", "second", "third"])
      assert.strictEqual(timers.size, 0)
    }))
})

describe("the run queue", () => {
  const make = () => {
    const tasks: Array<() => void> = []
    const queue = new RunQueue({ scheduleTask: (task) => void tasks.push(task), flush: () => {} })
    const log: Array<string> = []
    const turn = (name: string, run: () => number = () => 1) => ({
      run: () => {
        log.push(name)
        return run()
      },
      failed: (defect: unknown) => void log.push(`${name} failed: ${defect}`)
    })
    return { tasks, queue, log, turn }
  }

  it("gives everyone a turn in order, also after one that throws", () => {
    const { log, queue, tasks, turn } = make()
    queue.add(turn("a", () => {
      queue.add(turn("d"))
      return 1
    }))
    queue.add(turn("b", () => {
      throw "boom"
    }))
    queue.add(turn("c", () => 5000))
    while (tasks.length > 0) {
      log.push("task")
      tasks.shift()?.()
    }
    assert.deepStrictEqual(log, ["task", "a", "b", "b failed: boom", "c", "task", "d"])
    queue.add(turn("e"))
    tasks.shift()?.()
    assert.strictEqual(log.at(-1), "e")
    assert.lengthOf(tasks, 0)
  })

  it("gives what comes last its turn at the end of each task, and goes on until nothing is left", () => {
    const { log, queue, tasks, turn } = make()
    queue.addLast(turn("last", () => {
      queue.addLast(turn("again", () => {
        throw "boom"
      }))
      return 5000
    }))
    queue.addLast(turn("also last"))
    for (const name of ["a", "b", "c"]) queue.add(turn(name, () => 200))
    while (tasks.length > 0) {
      assert.lengthOf(tasks, 1)
      log.push("task")
      tasks.shift()?.()
    }
    assert.deepStrictEqual(log, ["task", "a", "b", "last", "also last", "task", "c", "again", "again failed: boom"])
  })
})
