import { assert, describe } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Process from "../src/Process.ts"
import * as Supervisor from "../src/Supervisor.ts"
import { type Job, noting, onNode, settle, spawnObedient } from "./support/node.ts"

class Greeting extends Context.Service<Greeting, string>()("test/Greeting") {}

/** What went wrong, in one word. */
const tagOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (exit._tag === "Success") return "Success"
  return exit.cause.reasons.map((reason) => reason._tag).join("+")
}

/** The reason of a process that fails with `boom`. */
const boom = Process.crash(Cause.fail("boom"))

/** A node that lives as long as a scope. */
const systemIn = (scope: Scope.Scope) => Layer.buildWithScope(Layer.fresh(Process.System.layer), scope)

const ended = (pid: Process.Pid) => Effect.map(Process.awaitExit(pid), (reason) => reason._tag)

describe("spawn", () => {
  onNode("returns when init is done and before the first message is handled", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn((self: Process.Pid<string>) =>
        Effect.gen(function*() {
          yield* Process.send(self, "first")
          yield* Effect.yieldNow
          log.push("init")
          return noting(log)
        })
      )
      log.push("spawned")
      yield* Process.send(pid, "second")
      yield* settle
      assert.deepStrictEqual(log, ["init", "spawned", "first", "second"])
    }))

  onNode(
    "fails with the error of init after what init has acquired is released, and logs nothing",
    ({ lines }) =>
      Effect.gen(function*() {
        const log: Array<string> = []
        const fiber = yield* Effect.forkChild(Effect.flip(Process.spawn(() =>
          Effect.gen(function*() {
            yield* Effect.addFinalizer((exit) =>
              Effect.andThen(Effect.sleep("1 second"), Effect.sync(() => log.push(Process.exitReason(exit)._tag)))
            )
            return yield* Effect.fail("refused")
          })
        )))
        yield* settle
        assert.isUndefined(fiber.pollUnsafe())
        assert.lengthOf(yield* Process.list, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), "refused")
        assert.deepStrictEqual(log, ["Crash"])
        assert.lengthOf(yield* Process.list, 0)
        assert.lengthOf(lines, 0)
      })
  )

  onNode("dies with the defect of an init that dies or throws, and others go on", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const other = yield* Process.spawn(() => Effect.succeed(noting(log)))
      yield* Process.send(other, "before")
      const inits: ReadonlyArray<() => Effect.Effect<Process.Behaviour<unknown>>> = [
        () => Effect.die("boom"),
        () => Effect.andThen(Effect.yieldNow, Effect.die("boom")),
        () => {
          throw "boom"
        }
      ]
      for (const init of inits) {
        const exit = yield* Effect.exit(Process.spawn(init))
        assert.isTrue(exit._tag === "Failure" && Cause.squash(exit.cause) === "boom")
      }
      yield* Process.send(other, "after")
      yield* settle
      assert.deepStrictEqual(log, ["before", "after"])
    }))

  onNode("gives init, handlers, terminate and finalizers the services of the caller", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const note = Effect.map(Greeting, (greeting) => void log.push(greeting))
      const pid = yield* Process.spawn(() =>
        Effect.gen(function*() {
          yield* note
          yield* Effect.addFinalizer(() => note)
          return { handle: (_message: string) => note, terminate: () => note }
        })
      )
      yield* Process.send(pid, "greet")
      yield* settle
      yield* Process.exit(pid, Process.shutdown())
      yield* Process.awaitExit(pid)
      assert.deepStrictEqual(log, ["hi", "hi", "hi", "hi"])
    }).pipe(Effect.provideService(Greeting, "hi")))

  onNode(
    "gives a process neither the Self nor the Scope of the process that starts it, but its services",
    () =>
      Effect.gen(function*() {
        const log: Array<unknown> = []
        const child = (name: string) =>
          Process.spawn((self: Process.Pid<string>) =>
            Effect.gen(function*() {
              log.push([name, yield* Greeting, (yield* Process.self).id === self.id])
              yield* Effect.addFinalizer(() => Effect.sync(() => log.push(`${name} released`)))
              return noting(log)
            })
          )
        const spawned: Array<Process.Pid<string>> = []
        const parent = yield* spawnObedient()
        yield* Process.send(
          parent,
          Effect.gen(function*() {
            spawned.push(yield* child("plain").pipe(Effect.provideService(Greeting, "hi")))
            spawned.push(yield* Effect.provideService(child("other"), Greeting, "hello"))
          })
        )
        yield* settle
        yield* Process.exit(parent, Process.shutdown())
        yield* Process.awaitExit(parent)
        assert.deepStrictEqual(spawned.map((pid) => pid.alive), [true, true])
        assert.deepStrictEqual(log, [["plain", "hi", true], ["other", "hello", true]])
        for (const pid of spawned) yield* Process.exit(pid, Process.shutdown())
        assert.deepStrictEqual(log.slice(2), ["plain released", "other released"])
      })
  )

  onNode("that is interrupted ends the process that was starting, and waits for its end", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const fiber = yield* Effect.forkChild(Process.spawn(() =>
        Effect.andThen(
          Effect.addFinalizer((exit) =>
            Effect.andThen(Effect.sleep("1 second"), Effect.sync(() => log.push(Process.exitReason(exit)._tag)))
          ),
          Effect.never
        )
      ))
      yield* settle
      const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber))
      yield* settle
      assert.isUndefined(interruption.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.await(interruption)
      assert.deepStrictEqual(log, ["Shutdown"])
      assert.lengthOf(yield* Process.list, 0)
    }))

  onNode(
    "is interrupted when the process is ended from elsewhere during init, even if that cannot be interrupted",
    () =>
      Effect.gen(function*() {
        const reasons = [Process.shutdown("why"), Process.killed, boom] as const
        for (const reason of reasons) {
          for (const init of [Effect.never, Effect.uninterruptible(Effect.sleep("1 minute"))]) {
            let starting: Process.Pid | undefined
            const fiber = yield* Effect.forkChild(Process.spawn((self) => {
              starting = self
              return Effect.as(init, noting<unknown>([]))
            }))
            yield* settle
            assert.isDefined(starting)
            yield* Process.exit(starting, reason)
            yield* TestClock.adjust("5 seconds")
            assert.strictEqual(tagOf(yield* Fiber.await(fiber)), "Interrupt")
            assert.include([reason._tag, "Killed"], yield* ended(starting))
            yield* TestClock.adjust("1 minute")
          }
        }
      })
  )

  onNode("returns a process that has ended when init succeeds but has asked for the end", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn(() =>
        Effect.as(Process.stop(), {
          handle: (_message: string) => Effect.void,
          terminate: (reason) => Effect.sync(() => log.push(reason._tag))
        })
      )
      assert.isFalse(pid.alive)
      assert.deepStrictEqual(log, ["Normal"])
    }))

  onNode("of a process that ends itself for good in init comes back too", () =>
    Effect.gen(function*() {
      for (const wait of [Effect.void, Effect.never]) {
        const exit = yield* Effect.exit(
          Process.spawn((self) =>
            Effect.andThen(Process.exit(self, Process.killed), Effect.as(wait, noting<unknown>([])))
          )
        )
        assert.strictEqual(tagOf(exit), "Interrupt")
      }
      assert.lengthOf(yield* Process.list, 0)
    }))

  onNode("makes a chain of processes that do not keep those before them in memory", () =>
    Effect.gen(function*() {
      let last: Process.Pid<number> | undefined
      const contexts: Array<Context.Context<never>> = []
      const link = (self: Process.Pid<number>): Effect.Effect<
        Process.Behaviour<number, Process.System | Process.Self>
      > =>
        Effect.succeed({
          handle: (n: number) =>
            Effect.gen(function*() {
              contexts.push(Process.fromPid(self).context)
              if (n === 0) return
              last = yield* Process.spawn(link)
              yield* Process.send(last, n - 1)
              yield* Process.stop()
            })
        })
      const first = yield* Process.spawn(link)
      yield* Process.send(first, 10)
      yield* settle
      assert.isTrue(last?.alive)
      assert.strictEqual(new Set(contexts).size, 1)
    }))
})

describe("a mailbox", () => {
  onNode(
    "is emptied in the order of sending, one message at a time, whether handlers suspend or not",
    () =>
      Effect.gen(function*() {
        const log: Array<string> = []
        const pid = yield* Process.spawn(() =>
          Effect.succeed({
            handle: (n: number) => {
              log.push(`> ${n}`)
              const done = Effect.sync(() => void log.push(`< ${n}`))
              return n % 3 === 0 ? done : Effect.andThen(n % 3 === 1 ? Effect.yieldNow : Effect.sleep("1 second"), done)
            }
          })
        )
        for (let n = 0; n < 9; n++) yield* Process.send(pid, n)
        yield* settle
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(log, Array.from({ length: 9 }, (_, n) => [`> ${n}`, `< ${n}`]).flat())
        assert.strictEqual((yield* Process.info(pid)).messageCount, 9)
      })
  )

  onNode("of a process that has ended takes nothing, and sendUnsafe says so", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn(() => Effect.succeed(noting(log)))
      assert.isTrue(Process.sendUnsafe(pid, "taken"))
      yield* settle
      yield* Process.exit(pid, Process.shutdown())
      assert.isFalse(Process.sendUnsafe(pid, "lost"))
      yield* Process.send(pid, "lost too")
      yield* settle
      assert.deepStrictEqual(log, ["taken"])
    }))

  onNode("with 100,000 messages does not keep others from theirs", () =>
    Effect.gen(function*() {
      let seen = 0
      let seenBefore = -1
      const hot = yield* Process.spawn(() =>
        Effect.succeed({ handle: (_message: number) => Effect.sync(() => void seen++) })
      )
      const other = yield* Process.spawn(() =>
        Effect.succeed({ handle: (_message: string) => Effect.sync(() => void (seenBefore = seen)) })
      )
      for (let i = 0; i < 100_000; i++) Process.sendUnsafe(hot, i)
      Process.sendUnsafe(other, "hello")
      while ((yield* Process.info(hot)).messageCount < 100_000) yield* Effect.yieldNow
      assert.isAtLeast(seenBefore, 0)
      assert.isAtMost(seenBefore, 64)
      assert.deepInclude(yield* Process.info(hot), { status: "idle", mailboxLength: 0, messageCount: 100_000 })
    }))

  onNode("with 100,000 messages leaves fibers and timers room between its turns", () =>
    Effect.gen(function*() {
      let seen = 0
      const hot = yield* Process.spawn(() =>
        Effect.succeed({ handle: (_message: number) => Effect.sync(() => void seen++) })
      )
      for (let i = 0; i < 100_000; i++) Process.sendUnsafe(hot, i)
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      assert.isBelow(seen, 20_000)
      while ((yield* Process.info(hot)).messageCount < 100_000) yield* Effect.yieldNow
    }))

  const full = (whenFull: "dropNewest" | "dropOldest" | "crash" | undefined) =>
    Effect.gen(function*() {
      const log: Array<number> = []
      const latch = yield* Deferred.make<void>()
      const pid = yield* Process.spawn(
        () => Effect.succeed({ handle: (n: number) => Effect.andThen(Deferred.await(latch), noting(log).handle(n)) }),
        { label: "slow", mailbox: { capacity: 3, whenFull }, annotate: (n) => ({ n }) }
      )
      yield* Process.send(pid, 0)
      yield* settle
      const taken = [1, 2, 3, 4, 5].map((n) => Process.sendUnsafe(pid, n))
      const { mailboxLength } = yield* Process.info(pid)
      yield* Deferred.succeed(latch, undefined)
      yield* settle
      return { pid, log, taken, mailboxLength }
    })

  onNode("that is full refuses the newest message unless told otherwise", () =>
    Effect.gen(function*() {
      for (const whenFull of ["dropNewest", undefined] as const) {
        const { log, mailboxLength, taken } = yield* full(whenFull)
        assert.deepStrictEqual(taken, [true, true, true, false, false])
        assert.strictEqual(mailboxLength, 3)
        assert.deepStrictEqual(log, [0, 1, 2, 3])
      }
    }))

  onNode("that is full gives up the oldest message with dropOldest", () =>
    Effect.gen(function*() {
      const { log, mailboxLength, taken } = yield* full("dropOldest")
      assert.deepStrictEqual(taken, [true, true, true, true, true])
      assert.strictEqual(mailboxLength, 3)
      assert.deepStrictEqual(log, [0, 3, 4, 5])
    }))

  onNode("that is full ends its process with crash, and logs that once", ({ lines }) =>
    Effect.gen(function*() {
      const { log, pid, taken } = yield* full("crash")
      assert.deepStrictEqual(taken, [true, true, true, false, false])
      assert.deepStrictEqual(log, [])
      assert.strictEqual(yield* ended(pid), "Crash")
      assert.lengthOf(lines, 1)
      assert.deepInclude(lines[0]?.annotations, { process: "slow", n: 4 })
      assert.include(Cause.pretty(lines[0]?.cause ?? Cause.empty), "mailbox of slow is full (3)")
    }))

  onNode("that is full takes Downs and exits all the same, and does not give them up", () =>
    Effect.gen(function*() {
      for (const whenFull of ["dropNewest", "dropOldest", "crash"] as const) {
        const log: Array<string> = []
        const latch = yield* Deferred.make<void>()
        const target = yield* spawnObedient()
        const owner = yield* Process.spawn(() =>
          Effect.gen(function*() {
            yield* Process.monitor(target)
            yield* Process.link(target)
            return {
              handle: (message: string) => Effect.andThen(Deferred.await(latch), noting(log).handle(message)),
              handleDown: () => noting(log).handle("down"),
              handleExit: () => noting(log).handle("exit")
            }
          }), { mailbox: { capacity: 1, whenFull } })
        yield* Process.send(owner, "first")
        yield* settle
        yield* Process.exit(target, Process.shutdown())
        for (const message of ["second", "third"]) yield* Process.send(owner, message)
        yield* Deferred.succeed(latch, undefined)
        yield* settle
        assert.deepStrictEqual(log, whenFull === "crash" ? [] : ["first", "down", "exit"])
      }
    }))

  onNode("that drops its oldest message does not grow with what it has dropped", () =>
    Effect.gen(function*() {
      const log: Array<number> = []
      const latch = yield* Deferred.make<void>()
      const pid = yield* Process.spawn(
        () => Effect.succeed({ handle: (n: number) => Effect.andThen(Deferred.await(latch), noting(log).handle(n)) }),
        { mailbox: { capacity: 2, whenFull: "dropOldest" } }
      )
      Process.sendUnsafe(pid, -1)
      yield* settle
      for (let n = 0; n < 100_000; n++) Process.sendUnsafe(pid, n)
      const messages: unknown = Reflect.get(Process.fromPid(pid), "more")
      assert.isTrue(Array.isArray(messages) && messages.length < 5000)
      yield* Deferred.succeed(latch, undefined)
      yield* settle
      assert.deepStrictEqual(log, [-1, 99_998, 99_999])
    }))

  onNode(
    "that makes no sense is refused where it is given, with its name, its value and what is allowed",
    () =>
      Effect.gen(function*() {
        const init = () => Effect.succeed({ handle: () => Effect.void })
        const wrong: ReadonlyArray<readonly [option: string, options: unknown]> = [
          ...[NaN, 0, -1, 1.5, "1", null, undefined].map((capacity) =>
            ["mailbox: capacity", { mailbox: { capacity } }] as const
          ),
          ["mailbox", { mailbox: 10 }],
          ["mailbox", { mailbox: null }],
          ["mailbox: whenFull", { mailbox: { capacity: 1, whenFull: "dropnewest" } }],
          ["mailbox: whenFull", { mailbox: { capacity: 1, whenFull: null } }],
          ...[NaN, -1, "soon", null, true].map((shutdown) => ["shutdown", { shutdown }] as const),
          ...[5, "", null].map((label) => ["label", { label }] as const),
          ["annotate", { annotate: "n" }]
        ]
        for (const [option, options] of wrong) {
          const exit = yield* Effect.exit(Process.spawn(init, options as Process.Options))
          const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
          assert.instanceOf(error, RangeError, `${option} ${JSON.stringify(options)}`)
          assert.match(String(error), new RegExp(`OptionError: ${option} must be .+; it is `))
          assert.throws(() => Supervisor.child({ id: "a", start: init, ...(options as Process.Options) }), RangeError)
        }
        assert.strictEqual((yield* Process.stats).processes, 0)
        yield* Process.spawn(init, { mailbox: { capacity: Infinity }, shutdown: 0, label: undefined })
      })
  )
})

describe("sendAfter", () => {
  onNode("delivers at its time and not before, also in chains", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      yield* Process.spawn((self: Process.Pid<number>) =>
        Effect.as(Process.sendAfter(self, 1, "10 seconds"), {
          handle: Effect.fnUntraced(function*(n: number) {
            log.push(`${n}@${yield* Clock.currentTimeMillis}`)
            if (n === 2) yield* Effect.sleep("1 second")
            if (n < 4) yield* Process.sendAfter(self, n + 1, "10 seconds")
          })
        })
      )
      yield* TestClock.adjust("9999 millis")
      assert.deepStrictEqual(log, [])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(log, ["1@10000", "2@20000", "3@31000", "4@41000"])
    }))

  onNode("delivers messages of the same deadline in the order of setting", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn(() => Effect.succeed(noting(log)))
      yield* Process.sendAfter(pid, "c", "3 seconds")
      yield* Process.sendAfter(pid, "b1", "2 seconds")
      yield* Process.sendAfter(pid, "a", "1 second")
      yield* TestClock.adjust("1 second")
      yield* Process.sendAfter(pid, "b2", "1 second")
      yield* Process.sendAfter(pid, "b3", 999.5)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(log, ["a", "b1", "b2", "b3", "c"])
    }))

  onNode("without a delay delivers without time passing, but not at once", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn(() => Effect.succeed(noting(log)))
      const ref = yield* Process.sendAfter(pid, "now", 0)
      yield* Process.sendAfter(pid, "before", -1)
      assert.strictEqual((yield* Process.info(pid)).timers, 2)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(log, ["now", "before"])
      assert.isFalse(yield* Process.cancelTimer(ref))
    }))

  onNode("and call refuse a time that is none", () =>
    Effect.gen(function*() {
      const pid = yield* Process.spawn(() => Effect.succeed(noting<number>([])))
      for (const wrong of [NaN, "soon", null, true] as ReadonlyArray<unknown>) {
        const time = wrong as Duration.Input
        for (
          const effect of [
            Process.sendAfter(pid, 1, time),
            Process.call(pid, () => 1, { timeout: time })
          ]
        ) {
          const exit = yield* Effect.exit<unknown, unknown, never>(effect)
          assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError, String(wrong))
        }
      }
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Process.call(pid, () => 1, { timeout: 0 }))))
      assert.deepStrictEqual(yield* Process.stats, { processes: 1, timers: 0 })
      assert.strictEqual((yield* Process.info(pid)).watchers, 0)
      yield* Process.sendAfter(pid, 1, Duration.millis(-5))
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* Process.info(pid)).messageCount, 1)
    }))

  onNode("waits longer than platform timers can", () =>
    Effect.gen(function*() {
      const log: Array<number> = []
      const pid = yield* Process.spawn(() =>
        Effect.succeed({
          handle: (_message: string) => Effect.map(Clock.currentTimeMillis, (now) => void log.push(now))
        })
      )
      yield* Process.sendAfter(pid, "later", "60 days")
      const never = yield* Process.sendAfter(pid, "never", Infinity)
      yield* TestClock.adjust("100 days")
      assert.deepStrictEqual(log, [60 * 86_400_000])
      assert.isTrue(yield* Process.cancelTimer(never))
    }))

  onNode("delivers nothing after cancelTimer, which tells whether it came in time", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* Process.spawn(() => Effect.succeed(noting(log)))
      const a = yield* Process.sendAfter(pid, "a", "1 second")
      const b = yield* Process.sendAfter(pid, "b", "2 seconds")
      yield* Process.sendAfter(pid, "c", "3 seconds")
      assert.isTrue(yield* Process.cancelTimer(a))
      assert.isFalse(yield* Process.cancelTimer(a))
      yield* TestClock.adjust("2 seconds")
      assert.isFalse(yield* Process.cancelTimer(b))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(log, ["b", "c"])
      assert.strictEqual((yield* Process.info(pid)).timers, 0)
      assert.deepStrictEqual(yield* Process.stats, { processes: 1, timers: 0 })
    }))

  onNode("ends with its process, however that ends", () =>
    Effect.gen(function*() {
      for (const reason of [Process.shutdown(), Process.killed, boom]) {
        const pid = yield* spawnObedient()
        const ref = yield* Process.sendAfter(pid, Effect.void, "1 second")
        assert.strictEqual((yield* Process.stats).timers, 1)
        yield* Process.exit(pid, reason)
        assert.strictEqual((yield* Process.stats).timers, 0)
        assert.isFalse(yield* Process.cancelTimer(ref))
        const late = yield* Process.sendAfter(pid, Effect.void, "1 second")
        assert.isFalse(yield* Process.cancelTimer(late))
      }
    }))
})

describe("call", () => {
  type Question = { readonly n: number; readonly to: Process.ReplyTo<number> }
  const ask = (pid: Process.Pid<Question>, n: number, options?: Parameters<typeof Process.call>[2]) =>
    Process.call(pid, (to: Process.ReplyTo<number>) => ({ n, to }), options)

  /** Answers with the double: at once, late, twice, never, or by crashing. */
  const doubler = Process.spawn((_self: Process.Pid<Question>) =>
    Effect.succeed({
      handle: ({ n, to }: Question) => {
        if (n === 0) return Effect.void
        if (n < 0) return Effect.fail("negative")
        const answer = Process.reply(to, 2 * n)
        return n < 10 ? answer : Effect.andThen(Effect.sleep(n), Effect.andThen(answer, Process.reply(to, -1)))
      }
    }), { label: "doubler" })

  onNode("returns the first answer, whether it comes at once or late", () =>
    Effect.gen(function*() {
      const pid = yield* doubler
      assert.strictEqual(yield* ask(pid, 4), 8)
      const fiber = yield* Effect.forkChild(ask(pid, 4000))
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), 8000)
      const { timers, watchers } = yield* Process.info(pid)
      assert.deepStrictEqual({ timers, watchers }, { timers: 0, watchers: 0 })
      assert.strictEqual((yield* Process.stats).timers, 0)
    }))

  onNode(
    "fails with TIMEOUT after 5 seconds or the time it is given, and ignores what comes then",
    () =>
      Effect.gen(function*() {
        const pid = yield* doubler
        for (const [timeout, options] of [[5000, undefined], [6000, { timeout: "6 seconds" }]] as const) {
          const fiber = yield* Effect.forkChild(Effect.flip(ask(pid, 60_000, options)))
          yield* TestClock.adjust(timeout - 1)
          assert.isUndefined(fiber.pollUnsafe())
          yield* TestClock.adjust(1)
          const error = yield* Fiber.join(fiber)
          assert.instanceOf(error, Process.CallError)
          assert.deepInclude(error, { code: "TIMEOUT", message: `doubler did not answer in ${timeout} ms` })
          assert.strictEqual((yield* Process.info(pid)).watchers, 0)
          yield* TestClock.adjust("1 minute")
        }
        assert.strictEqual(yield* ask(pid, 1), 2)
      })
  )

  onNode("waits for as long as it takes with an infinite timeout", () =>
    Effect.gen(function*() {
      const pid = yield* doubler
      const fiber = yield* Effect.forkChild(ask(pid, 86_400_000, { timeout: "Infinity" }))
      yield* settle
      assert.strictEqual((yield* Process.stats).timers, 0)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* Fiber.join(fiber), 172_800_000)
    }))

  onNode(
    "fails with DOWN and the reason when the process ends before it answers, or has ended",
    () =>
      Effect.gen(function*() {
        const pid = yield* doubler
        const waiting = yield* Effect.forkChild(Effect.flip(ask(pid, 0)))
        const last = yield* Effect.forkChild(Effect.flip(ask(pid, -1)))
        for (const error of [yield* Fiber.join(waiting), yield* Fiber.join(last), yield* Effect.flip(ask(pid, 1))]) {
          assert.deepInclude(error, { code: "DOWN", message: "doubler ended before it answered" })
          assert.strictEqual(error.reason?._tag, "Crash")
        }
        assert.strictEqual((yield* Process.stats).timers, 0)
      })
  )

  onNode("fails with FULL, at once, when the mailbox is too full for its message", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient({}, { mailbox: { capacity: 1 } })
      yield* Process.send(pid, Effect.never)
      yield* settle
      yield* Process.send(pid, Effect.void)
      const error = yield* Effect.flip(Process.call(pid, (to: Process.ReplyTo<string>) => Process.reply(to, "hi")))
      assert.strictEqual(error.code, "FULL")
      assert.strictEqual((yield* Process.info(pid)).watchers, 0)
    }))

  onNode("leaves nothing behind when it is interrupted or its message throws", () =>
    Effect.gen(function*() {
      const pid = yield* doubler
      const fiber = yield* Effect.forkChild(ask(pid, 0))
      yield* settle
      assert.strictEqual((yield* Process.info(pid)).watchers, 1)
      yield* Fiber.interrupt(fiber)
      const exit = yield* Effect.exit(Process.call(pid, (): Question => {
        throw new Error("no question")
      }))
      assert.strictEqual(tagOf(exit), "Die")
      assert.strictEqual((yield* Process.info(pid)).watchers, 0)
      assert.strictEqual((yield* Process.stats).timers, 0)
    }))

  onNode(
    "sleeps the node's timers at most until the first deadline there was, and no fiber stays after it",
    ({ fibers }) =>
      Effect.gen(function*() {
        const pid = yield* doubler
        const before = fibers()
        for (let n = 1; n < 10; n++) yield* ask(pid, n)
        yield* TestClock.adjust("5 seconds")
        yield* settle
        assert.strictEqual(fibers(), before)
      })
  )
})

describe("monitor", () => {
  /** A process that monitors others on demand and notes what it is told. */
  const owner = (log: Array<readonly [Process.Monitor, string]>) =>
    spawnObedient({ handleDown: ({ monitor, reason }) => Effect.sync(() => void log.push([monitor, reason._tag])) })

  const monitorFrom = (owner: Process.Pid<Job>, target: Process.Pid) =>
    Process.call(
      owner,
      (to: Process.ReplyTo<Process.Monitor>) =>
        Effect.flatMap(Process.monitor(target), (monitor) => Process.reply(to, monitor))
    )

  onNode("tells how the process ended, once for each time it was called", () =>
    Effect.gen(function*() {
      for (const reason of [Process.normal, Process.shutdown(1), Process.killed, boom]) {
        const log: Array<readonly [Process.Monitor, string]> = []
        const watching = yield* owner(log)
        const target = yield* spawnObedient()
        const first = yield* monitorFrom(watching, target)
        const second = yield* monitorFrom(watching, target)
        assert.strictEqual(first.target, target)
        assert.strictEqual((yield* Process.info(watching)).monitors, 2)
        assert.strictEqual((yield* Process.info(target)).watchers, 2)
        yield* reason === Process.normal ? Process.send(target, Process.stop()) : Process.exit(target, reason)
        yield* settle
        assert.deepStrictEqual(log, [[first, reason._tag], [second, reason._tag]])
        assert.strictEqual((yield* Process.info(watching)).monitors, 0)
      }
    }))

  onNode("tells of a process that has ended already", () =>
    Effect.gen(function*() {
      const log: Array<readonly [Process.Monitor, string]> = []
      const watching = yield* owner(log)
      const target = yield* spawnObedient()
      yield* Process.exit(target, Process.killed)
      const monitor = yield* monitorFrom(watching, target)
      yield* settle
      assert.deepStrictEqual(log, [[monitor, "Killed"]])
      assert.strictEqual((yield* Process.info(watching)).monitors, 0)
    }))

  onNode(
    "tells nothing after demonitor, which is true the first time and only if it comes in time",
    () =>
      Effect.gen(function*() {
        const log: Array<readonly [Process.Monitor, string]> = []
        const watching = yield* owner(log)
        const target = yield* spawnObedient()
        const first = yield* monitorFrom(watching, target)
        const second = yield* monitorFrom(watching, target)
        assert.isTrue(yield* Process.demonitor(first))
        assert.isFalse(yield* Process.demonitor(first))
        yield* Process.exit(target, Process.shutdown())
        assert.isFalse(yield* Process.demonitor(second))
        yield* settle
        assert.deepStrictEqual(log, [[second, "Shutdown"]])
        assert.isFalse(yield* Process.demonitor({ target }))
      })
  )

  onNode("leaves nothing on the target when its owner ends, and does not end its owner", () =>
    Effect.gen(function*() {
      const watching = yield* owner([])
      const target = yield* spawnObedient()
      yield* monitorFrom(watching, target)
      yield* settle
      yield* Process.exit(watching, Process.shutdown())
      assert.strictEqual((yield* Process.info(target)).watchers, 0)
      yield* Process.exit(target, boom)
    }))

  onNode("of an owner without handleDown, or of itself, does no harm", () =>
    Effect.gen(function*() {
      const watching = yield* spawnObedient()
      const target = yield* spawnObedient()
      yield* monitorFrom(watching, target)
      yield* monitorFrom(watching, watching)
      yield* Process.exit(target, boom)
      yield* settle
      assert.isTrue(watching.alive)
      yield* Process.exit(watching, boom)
      assert.isFalse(watching.alive)
    }))

  onNode("by a fiber that has outlived its process leaves nothing behind", () =>
    Effect.gen(function*() {
      const target = yield* spawnObedient()
      const zombie = yield* spawnObedient()
      yield* Process.send(
        zombie,
        Effect.uninterruptible(Effect.gen(function*() {
          yield* Effect.sleep("1 second")
          yield* Process.monitor(target)
          yield* Process.link(target)
        }))
      )
      yield* settle
      yield* Process.exit(zombie, Process.killed)
      yield* TestClock.adjust("1 second")
      const { links, watchers } = yield* Process.info(target)
      assert.deepStrictEqual({ links, watchers }, { links: 0, watchers: 0 })
      assert.isTrue(target.alive)
    }))
})

describe("link", () => {
  const linkFrom = (pid: Process.Pid<Job>, other: Process.Pid) =>
    Effect.andThen(Process.send(pid, Process.link(other)), settle)
  const trapping = (log: Array<readonly [Process.Pid | undefined, string]>) =>
    spawnObedient({ handleExit: ({ from, reason }) => Effect.sync(() => void log.push([from, reason._tag])) })

  onNode(
    "ends both with the same reason, whichever ends first and whoever has linked, but for Normal",
    () =>
      Effect.gen(function*() {
        for (const reason of [Process.normal, Process.shutdown("x"), Process.killed, boom]) {
          for (const first of ["linker", "linked"] as const) {
            const linker = yield* spawnObedient()
            const linked = yield* spawnObedient()
            yield* linkFrom(linker, linked)
            yield* linkFrom(linker, linked)
            assert.strictEqual((yield* Process.info(linker)).links, 1)
            assert.strictEqual((yield* Process.info(linked)).links, 1)
            const [ends, follows] = first === "linker" ? [linker, linked] : [linked, linker]
            yield* reason === Process.normal ? Process.send(ends, Process.stop()) : Process.exit(ends, reason)
            yield* settle
            assert.strictEqual(yield* Process.awaitExit(ends), reason)
            if (reason === Process.normal) {
              assert.isTrue(follows.alive)
              assert.strictEqual((yield* Process.info(follows)).links, 0)
            } else assert.strictEqual(yield* Process.awaitExit(follows), reason)
          }
        }
      })
  )

  onNode("lets the other terminate in order when one is killed", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const note = (who: string) => ({
        terminate: (reason: Process.ExitReason) => noting(log).handle(`${who} ${reason._tag}`)
      })
      const linker = yield* spawnObedient(note("linker"))
      const linked = yield* spawnObedient(note("linked"))
      yield* linkFrom(linker, linked)
      yield* Process.exit(linker, Process.killed)
      yield* Process.awaitExit(linked)
      assert.deepStrictEqual(log, ["linked Killed"])
    }))

  onNode("tells a process that traps exits instead of ending it", () =>
    Effect.gen(function*() {
      const log: Array<readonly [Process.Pid | undefined, string]> = []
      const keeper = yield* trapping(log)
      const ends = [Process.normal, Process.shutdown(), Process.killed, boom]
      const pids: Array<Process.Pid> = []
      for (const reason of ends) {
        const pid = yield* spawnObedient()
        pids.push(pid)
        yield* linkFrom(keeper, pid)
        yield* reason === Process.normal ? Process.send(pid, Process.stop()) : Process.exit(pid, reason)
        yield* settle
      }
      assert.deepStrictEqual(log, ends.map((reason, i) => [pids[i], reason._tag]))
      assert.isTrue(keeper.alive)
      assert.strictEqual((yield* Process.info(keeper)).links, 0)
    }))

  onNode("to a process that has ended passes its reason on at once", () =>
    Effect.gen(function*() {
      const log: Array<readonly [Process.Pid | undefined, string]> = []
      for (const reason of [Process.normal, Process.shutdown(), Process.killed, boom]) {
        const gone = yield* spawnObedient()
        yield* reason === Process.normal ? Process.send(gone, Process.stop()) : Process.exit(gone, reason)
        yield* Process.awaitExit(gone)
        const plain = yield* spawnObedient()
        const keeper = yield* trapping(log)
        yield* linkFrom(plain, gone)
        yield* linkFrom(keeper, gone)
        assert.deepStrictEqual(log.pop(), [gone, reason._tag])
        if (reason === Process.normal) assert.isTrue(plain.alive)
        else assert.strictEqual(yield* Process.awaitExit(plain), reason)
      }
    }))

  onNode("is undone by unlink from either side", () =>
    Effect.gen(function*() {
      for (const by of ["linker", "linked"] as const) {
        const linker = yield* spawnObedient()
        const linked = yield* spawnObedient()
        yield* linkFrom(linker, linked)
        const [from, to] = by === "linker" ? [linker, linked] : [linked, linker]
        yield* Process.send(from, Process.unlink(to))
        yield* settle
        assert.strictEqual((yield* Process.info(linker)).links + (yield* Process.info(linked)).links, 0)
        yield* Process.exit(linker, boom)
        assert.isTrue(linked.alive)
      }
    }))

  onNode("to itself does nothing", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient()
      yield* linkFrom(pid, pid)
      assert.strictEqual((yield* Process.info(pid)).links, 0)
    }))

  onNode("ends a ring of 20,000 processes without running out of stack", () =>
    Effect.gen(function*() {
      const pids: Array<Process.Pid<Job>> = []
      for (let i = 0; i < 20_000; i++) pids.push(yield* spawnObedient({ terminate: () => Effect.sync(() => {}) }))
      for (let i = 0; i < pids.length; i++) {
        const next = pids[(i + 1) % pids.length]
        if (next !== undefined) Process.sendUnsafe(pids[i] ?? next, Process.link(next))
      }
      while ((yield* Process.info(pids[19_999] ?? (yield* spawnObedient()))).links < 2) yield* Effect.yieldNow
      yield* Process.exit(pids[7] ?? (yield* spawnObedient()), boom)
      assert.isTrue(pids.every((pid) => !pid.alive))
    }))
})

describe("exit", () => {
  const reasons = [Process.shutdown("x"), boom, Process.killed] as const

  /** A process that notes what happens to it at its end. */
  const mortal = (log: Array<string>, options?: Process.Options<Job>) =>
    Process.spawn((_self: Process.Pid<Job>) =>
      Effect.as(
        Effect.addFinalizer((exit) => Effect.sync(() => log.push(`finalizer ${Process.exitReason(exit)._tag}`))),
        {
          handle: (job: Job) => Effect.onInterrupt(job, () => Effect.sync(() => log.push("interrupted"))),
          terminate: (reason: Process.ExitReason) => Effect.sync(() => log.push(`terminate ${reason._tag}`))
        }
      ), options)

  onNode(
    "of an idle process runs terminate and finalizers with the reason, unless it is Killed",
    () =>
      Effect.gen(function*() {
        for (const reason of reasons) {
          const log: Array<string> = []
          const pid = yield* mortal(log)
          yield* Process.exit(pid, reason)
          assert.isFalse(pid.alive)
          assert.strictEqual(yield* Process.awaitExit(pid), reason)
          const expected = reason._tag === "Killed" ? [] : [`terminate ${reason._tag}`, `finalizer ${reason._tag}`]
          assert.deepStrictEqual(log, expected)
        }
      })
  )

  onNode("of a process with messages waiting drops them", () =>
    Effect.gen(function*() {
      for (const reason of reasons) {
        const log: Array<string> = []
        const pid = yield* mortal(log)
        yield* Process.send(pid, Effect.sync(() => log.push("handled")))
        yield* Process.exit(pid, reason)
        yield* settle
        assert.notInclude(log, "handled")
        assert.strictEqual(yield* Process.awaitExit(pid), reason)
      }
    }))

  onNode("interrupts a handler that is suspended, and logs no crash", ({ lines }) =>
    Effect.gen(function*() {
      for (const reason of reasons) {
        const log: Array<string> = []
        const pid = yield* mortal(log)
        yield* Process.send(pid, Effect.never)
        yield* settle
        assert.strictEqual((yield* Process.info(pid)).status, "running")
        yield* Process.exit(pid, reason)
        yield* settle
        const expected = reason._tag === "Killed" ? [] : [`terminate ${reason._tag}`, `finalizer ${reason._tag}`]
        assert.deepStrictEqual(log, ["interrupted", ...expected])
        assert.strictEqual(yield* Process.awaitExit(pid), reason)
      }
      assert.lengthOf(lines, 0)
    }))

  onNode(
    "by a handler of its own process interrupts that handler where it next suspends",
    () =>
      Effect.gen(function*() {
        for (const reason of reasons) {
          const log: Array<string> = []
          const pid = yield* mortal(log)
          yield* Process.send(pid, Effect.andThen(Process.exit(pid, reason), Effect.never))
          yield* settle
          const expected = reason._tag === "Killed" ? [] : [`terminate ${reason._tag}`, `finalizer ${reason._tag}`]
          assert.deepStrictEqual(log, ["interrupted", ...expected])
        }
      })
  )

  onNode("kills a handler that cannot be interrupted once the shutdown time is over", () =>
    Effect.gen(function*() {
      for (const [options, millis] of [[undefined, 5000], [{ shutdown: "7 seconds" }, 7000]] as const) {
        for (const bySelf of [false, true]) {
          const log: Array<string> = []
          const pid = yield* mortal(log, options)
          const job = Effect.uninterruptible(Effect.sleep("1 minute"))
          if (bySelf) yield* Process.send(pid, Effect.andThen(Process.exit(pid, Process.shutdown()), job))
          else yield* Process.send(pid, job)
          yield* settle
          if (!bySelf) yield* Process.exit(pid, Process.shutdown())
          assert.strictEqual((yield* Process.info(pid)).status, "ending")
          assert.isFalse(Process.sendUnsafe(pid, Effect.void))
          yield* TestClock.adjust(millis - 1)
          assert.isTrue(pid.alive)
          yield* TestClock.adjust(1)
          assert.strictEqual(yield* ended(pid), "Killed")
          assert.deepStrictEqual(log, [])
          yield* TestClock.adjust("1 minute")
        }
      }
    }))

  onNode("waits for a handler that cannot be interrupted but is done in time", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const pid = yield* mortal(log)
      yield* Process.send(pid, Effect.uninterruptible(Effect.sleep("4 seconds")))
      yield* settle
      yield* Process.exit(pid, Process.shutdown())
      yield* TestClock.adjust("4 seconds")
      assert.strictEqual(yield* ended(pid), "Shutdown")
      assert.deepStrictEqual(log, ["interrupted", "terminate Shutdown", "finalizer Shutdown"])
      assert.strictEqual((yield* Process.stats).timers, 0)
    }))

  onNode("with Normal is ignored, unless exits are trapped", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const plain = yield* mortal([])
      const keeper = yield* spawnObedient({
        handleExit: ({ from, reason }) => noting(log).handle(`${from} ${reason._tag}`)
      })
      yield* Process.exit(plain, Process.normal)
      yield* Process.exit(keeper, Process.normal)
      yield* settle
      assert.deepStrictEqual([plain.alive, keeper.alive], [true, true])
      assert.deepStrictEqual(log, ["undefined Normal"])
    }))

  onNode("is a message to a process that traps exits, but for Killed", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const keeper = yield* spawnObedient({ handleExit: ({ reason }) => noting(log).handle(reason._tag) })
      yield* Process.exit(keeper, Process.shutdown())
      yield* Process.exit(keeper, boom)
      yield* settle
      assert.deepStrictEqual(log, ["Shutdown", "Crash"])
      assert.isTrue(keeper.alive)
      yield* Process.exit(keeper, Process.killed)
      assert.isFalse(keeper.alive)
    }))

  onNode("again while ending changes nothing, but Killed ends it at once", () =>
    Effect.gen(function*() {
      for (const reason of [Process.shutdown("second"), boom, Process.killed]) {
        const pid = yield* spawnObedient({ terminate: () => Effect.sleep("1 second") })
        yield* Process.exit(pid, Process.shutdown("first"))
        assert.strictEqual((yield* Process.info(pid)).status, "ending")
        assert.isTrue(pid.alive)
        yield* Process.exit(pid, reason)
        assert.strictEqual(pid.alive, reason._tag !== "Killed")
        yield* TestClock.adjust("1 second")
        const expected = reason._tag === "Killed" ? Process.killed : Process.shutdown("first")
        assert.deepStrictEqual(yield* Process.awaitExit(pid), expected)
        yield* Process.exit(pid, reason)
        assert.deepStrictEqual(yield* Process.awaitExit(pid), expected)
      }
    }))
})

describe("stop", () => {
  onNode("ends the process when the message in hand is handled, and drops the others", () =>
    Effect.gen(function*() {
      for (const reason of [undefined, Process.normal, Process.shutdown("x"), boom]) {
        for (const wait of [Effect.void, Effect.yieldNow]) {
          const log: Array<string> = []
          const pid = yield* spawnObedient({ terminate: (reason) => noting(log).handle(reason._tag) })
          yield* Process.send(
            pid,
            Effect.gen(function*() {
              yield* Process.stop(reason)
              yield* wait
              yield* Process.stop(Process.shutdown("too late"))
              log.push("handled")
            })
          )
          yield* Process.send(pid, Effect.sync(() => log.push("dropped")))
          yield* settle
          assert.strictEqual(yield* Process.awaitExit(pid), reason ?? Process.normal)
          assert.deepStrictEqual(log, ["handled", reason?._tag ?? "Normal"])
        }
      }
    }))

  onNode("does not shield a handler that goes on from an exit", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient()
      yield* Process.send(pid, Effect.andThen(Process.stop(), Effect.never))
      yield* settle
      assert.isTrue(pid.alive)
      yield* Process.exit(pid, Process.shutdown())
      assert.strictEqual(yield* ended(pid), "Normal")
    }))

  onNode("from a fiber that a handler has forked ends a process that is idle", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient()
      yield* Process.send(pid, Effect.forkScoped(Effect.andThen(Effect.sleep("1 second"), Process.stop())))
      yield* settle
      assert.strictEqual((yield* Process.info(pid)).status, "idle")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* ended(pid), "Normal")
    }))
})

describe("terminate", () => {
  onNode(
    "and the finalizers share the shutdown time, after which the process is killed and terminate interrupted",
    () =>
      Effect.gen(function*() {
        for (const shutdown of [undefined, "3 seconds"] as const) {
          const log: Array<string> = []
          const limit = shutdown === undefined ? 5000 : 3000
          const pid = yield* Process.spawn(() =>
            Effect.as(Effect.addFinalizer(() => noting(log).handle("finalizer")), {
              handle: (_message: string) => Effect.void,
              terminate: () => Effect.onInterrupt(Effect.never, () => noting(log).handle("interrupted"))
            }), { shutdown })
          yield* Process.exit(pid, Process.shutdown())
          yield* TestClock.adjust(limit - 1)
          assert.isTrue(pid.alive)
          yield* TestClock.adjust(1)
          assert.strictEqual(yield* ended(pid), "Killed")
          assert.deepStrictEqual(log, ["interrupted"])
        }
      })
  )

  onNode("has all the time with an infinite shutdown time", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient({ terminate: () => Effect.sleep("10 days") }, { shutdown: "Infinity" })
      yield* Process.exit(pid, Process.shutdown())
      yield* TestClock.adjust("9 days")
      assert.isTrue(pid.alive)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* ended(pid), "Shutdown")
    }))

  onNode(
    "that fails is logged once, turns a graceful reason into Crash, and finalizers still run",
    ({ lines }) =>
      Effect.gen(function*() {
        for (const reason of [Process.shutdown(), boom]) {
          for (
            const terminate of [() => Effect.fail("bad"), () => Effect.die("bad"), () => {
              throw "bad"
            }]
          ) {
            const log: Array<string> = []
            lines.length = 0
            const pid = yield* Process.spawn(() =>
              Effect.as(Effect.addFinalizer((exit) => noting(log).handle(Process.exitReason(exit)._tag)), {
                handle: (_message: string) => Effect.void,
                terminate
              })
            )
            yield* Process.exit(pid, reason)
            const told = yield* Process.awaitExit(pid)
            if (reason === boom) assert.strictEqual(told, boom)
            else assert.strictEqual(told._tag === "Crash" && Cause.squash(told.cause), "bad")
            assert.deepStrictEqual(log, [reason._tag])
            assert.lengthOf(lines, 1)
          }
        }
      })
  )

  onNode("ends with the process when it kills itself", () =>
    Effect.gen(function*() {
      for (const wait of [Effect.void, Effect.never]) {
        const pid: Process.Pid = yield* spawnObedient({
          terminate: () => Effect.andThen(Effect.suspend(() => Process.exit(pid, Process.killed)), wait)
        })
        yield* Process.exit(pid, Process.shutdown())
        assert.strictEqual(yield* ended(pid), "Killed")
      }
    }))
})

describe("the Scope of a process", () => {
  onNode(
    "runs its finalizers in reverse order, those of handlers too, and tells them the reason",
    () =>
      Effect.gen(function*() {
        for (const reason of [Process.normal, Process.shutdown("why"), boom]) {
          const log: Array<unknown> = []
          const note = (name: string) =>
            Effect.addFinalizer((exit) => Effect.sync(() => void log.push([name, Process.exitReason(exit)])))
          const pid = yield* Process.spawn((_self: Process.Pid<Job>) =>
            Effect.as(note("init"), { handle: (job: Job) => job })
          )
          yield* Process.send(pid, note("first"))
          yield* Process.send(pid, note("second"))
          yield* Process.send(pid, Process.stop(reason))
          yield* Process.awaitExit(pid)
          assert.deepStrictEqual(log, [["second", reason], ["first", reason], ["init", reason]])
        }
      })
  )

  onNode(
    "releases at once what is acquired after the process has ended, even when it was killed",
    () =>
      Effect.gen(function*() {
        for (const reason of [Process.shutdown(), Process.killed]) {
          const log: Array<string> = []
          let scope: Scope.Scope | undefined
          const pid = yield* spawnObedient()
          yield* Process.send(pid, Effect.map(Effect.scope, (own) => void (scope = own)))
          yield* settle
          assert.isDefined(scope)
          yield* Process.exit(pid, reason)
          yield* Scope.addFinalizer(scope, noting(log).handle("released"))
          assert.deepStrictEqual(log, ["released"])
        }
      })
  )

  onNode(
    "takes the fibers that are forked in it down with the process, also when it is killed",
    ({ fibers }) =>
      Effect.gen(function*() {
        for (const reason of [Process.shutdown(), Process.killed]) {
          const before = fibers()
          const log: Array<string> = []
          const pid = yield* spawnObedient()
          for (const name of ["a", "b"]) {
            yield* Process.send(
              pid,
              Effect.forkScoped(Effect.onInterrupt(Effect.never, () => noting(log).handle(name)))
            )
          }
          yield* settle
          assert.strictEqual(fibers(), before + 2)
          yield* Process.exit(pid, reason)
          yield* settle
          assert.sameMembers(log, ["a", "b"])
          assert.strictEqual(fibers(), before)
        }
      })
  )

  onNode(
    "whose finalizer fails turns a graceful reason into Crash and logs once",
    ({ lines }) =>
      Effect.gen(function*() {
        const pid = yield* Process.spawn(() =>
          Effect.as(Effect.addFinalizer(() => Effect.die("bad")), noting<unknown>([]))
        )
        yield* Process.exit(pid, Process.shutdown())
        assert.strictEqual(yield* ended(pid), "Crash")
        assert.lengthOf(lines, 1)
      })
  )
})

describe("a crash", () => {
  const crashes: Readonly<Record<string, () => Effect.Effect<unknown, unknown>>> = {
    "fails": () => Effect.fail("boom"),
    "fails later": () => Effect.andThen(Effect.sleep("1 second"), Effect.fail("boom")),
    "returns a failure": () => Exit.fail("boom"),
    "dies": () => Effect.die("boom"),
    "throws in its effect": () =>
      Effect.sync(() => {
        throw "boom"
      }),
    "throws": () => {
      throw "boom"
    },
    "is interrupted from inside": () => Effect.interrupt,
    "returns no effect": () => Reflect.get({}, "nothing")
  }

  for (const [how, handle] of Object.entries(crashes)) {
    onNode(
      `of a handler that ${how} ends the process and logs one line with label, annotations and cause`,
      ({ lines }) =>
        Effect.gen(function*() {
          const log: Array<string> = []
          const pid = yield* Process.spawn(
            () => Effect.succeed({ handle, terminate: (reason) => noting(log).handle(reason._tag) }),
            { label: "fragile", annotate: (message: string) => ({ topic: "room:1", length: message.length }) }
          )
          yield* Process.send(pid, "hello")
          yield* TestClock.adjust("1 second")
          const reason = yield* Process.awaitExit(pid)
          assert.deepStrictEqual(log, ["Crash"])
          assert.lengthOf(lines, 1)
          const [line] = lines
          assert.deepInclude(line, { message: "process crashed", level: "Error" })
          assert.deepStrictEqual(line?.annotations, { process: "fragile", topic: "room:1", length: 5 })
          assert.isTrue(reason._tag === "Crash" && reason.cause === line?.cause)
          const told = how === "is interrupted from inside"
            ? "interrupted"
            : how === "returns no effect"
            ? "valid"
            : "boom"
          assert.include(Cause.pretty(line?.cause ?? Cause.empty), told)
        })
    )
  }

  onNode(
    "is logged without the annotations that throw, and neither that nor the crash stops the others",
    ({ lines }) =>
      Effect.gen(function*() {
        const log: Array<number> = []
        const fragile = yield* Process.spawn(
          () => Effect.succeed({ handle: (_message: string) => Effect.fail("boom") }),
          {
            annotate: () => {
              throw new Error("no annotations")
            }
          }
        )
        const other = yield* Process.spawn(() => Effect.succeed(noting(log)))
        yield* Process.send(other, 1)
        yield* Process.send(fragile, "hello")
        yield* Process.send(other, 2)
        yield* settle
        yield* Process.send(other, 3)
        yield* settle
        assert.deepStrictEqual(log, [1, 2, 3])
        assert.strictEqual(yield* ended(fragile), "Crash")
        assert.lengthOf(lines, 1)
        assert.include(Cause.pretty(lines[0]?.cause ?? Cause.empty), "boom")
      })
  )

  onNode(
    "of handleDown or handleExit is a crash like any other, with no message to annotate",
    ({ lines }) =>
      Effect.gen(function*() {
        for (const handler of ["handleDown", "handleExit"] as const) {
          lines.length = 0
          const target = yield* spawnObedient()
          const pid = yield* spawnObedient({ [handler]: () => Effect.fail("boom") }, {
            annotate: (job) => ({ isEffect: Effect.isEffect(job) })
          })
          yield* Process.send(pid, handler === "handleDown" ? Process.monitor(target) : Process.link(target))
          yield* settle
          yield* Process.exit(target, Process.shutdown())
          yield* settle
          assert.strictEqual(yield* ended(pid), "Crash")
          assert.deepStrictEqual(lines.map((line) => line.annotations), [{ process: "process" }])
        }
      })
  )

  onNode("during an interruption counts more than what it was interrupted for", ({ lines }) =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient()
      yield* Process.send(pid, Effect.onInterrupt(Effect.never, () => Effect.die("bad")))
      yield* settle
      yield* Process.exit(pid, Process.shutdown())
      assert.strictEqual(yield* ended(pid), "Crash")
      assert.lengthOf(lines, 1)
    }))

  onNode(
    "of a linked process, a kill, a shutdown and a failed start log nothing",
    ({ lines }) =>
      Effect.gen(function*() {
        const fragile = yield* spawnObedient()
        const linked = yield* spawnObedient()
        yield* Process.send(linked, Process.link(fragile))
        yield* settle
        yield* Process.send(fragile, Effect.fail("boom"))
        yield* settle
        assert.strictEqual(yield* ended(linked), "Crash")
        assert.lengthOf(lines, 1)
        yield* Effect.exit(Process.spawn(() => Effect.die("boom")))
        yield* Process.exit(yield* spawnObedient(), Process.killed)
        yield* Process.exit(yield* spawnObedient(), Process.shutdown())
        assert.lengthOf(lines, 1)
      })
  )
})

describe("a node", () => {
  onNode("tells of its processes: info, list, stats, alive, self", () =>
    Effect.gen(function*() {
      const pid = yield* spawnObedient({}, { label: "one" })
      const other = yield* spawnObedient()
      yield* settle
      assert.deepStrictEqual(yield* Process.list, [pid, other])
      assert.deepStrictEqual([pid.label, other.label], ["one", "process"])
      assert.isBelow(pid.id, other.id)
      const idle = {
        pid,
        label: "one",
        status: "idle",
        mailboxLength: 0,
        messageCount: 0,
        monitors: 0,
        watchers: 0,
        links: 0,
        timers: 0,
        children: 0
      }
      assert.deepStrictEqual<unknown>(yield* Process.info(pid), idle)
      const itself = yield* Process.call(pid, (to: Process.ReplyTo<Process.Pid>) =>
        Effect.flatMap(Process.self, (self) => Process.reply(to, self)))
      assert.strictEqual(itself, pid)
      yield* settle
      yield* Process.sendAfter(pid, Effect.void, "1 second")
      yield* Process.send(pid, Process.monitor(other))
      yield* Process.send(pid, Process.link(other))
      yield* Process.send(pid, Effect.never)
      assert.deepInclude(yield* Process.info(pid), { status: "ready", mailboxLength: 3 })
      yield* settle
      yield* Process.send(pid, Effect.void)
      assert.deepStrictEqual<unknown>(yield* Process.info(pid), {
        ...idle,
        status: "running",
        mailboxLength: 1,
        messageCount: 3,
        monitors: 1,
        links: 1,
        timers: 1
      })
      assert.deepStrictEqual(yield* Process.stats, { processes: 2, timers: 1 })
      assert.isTrue(yield* Process.alive(pid))
      yield* Process.exit(pid, Process.shutdown())
      assert.isFalse(yield* Process.alive(pid))
      assert.deepStrictEqual<unknown>(yield* Process.info(pid), { ...idle, status: "ended", messageCount: 4 })
      assert.deepStrictEqual(yield* Process.list, [])
    }))

  onNode(
    "awaitExit waits for the end, tells of one that was, and leaves nothing when interrupted",
    () =>
      Effect.gen(function*() {
        const pid = yield* spawnObedient()
        const waiting = yield* Effect.forkChild(Process.awaitExit(pid))
        const gone = yield* Effect.forkChild(Process.awaitExit(pid))
        yield* settle
        assert.strictEqual((yield* Process.info(pid)).watchers, 2)
        yield* Fiber.interrupt(gone)
        assert.strictEqual((yield* Process.info(pid)).watchers, 1)
        yield* Process.exit(pid, boom)
        assert.strictEqual(yield* Fiber.join(waiting), boom)
        assert.strictEqual(yield* Process.awaitExit(pid), boom)
      })
  )

  onNode("that closes shuts its processes down at the same time, trapping exits or not", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const scope = yield* Scope.make()
      const node = yield* Effect.provide(
        Effect.gen(function*() {
          const start = (name: string, more?: Partial<Process.Behaviour<never>>) =>
            spawnObedient({
              terminate: (reason) =>
                Effect.gen(function*() {
                  log.push(`${name} ${reason._tag}`)
                  yield* Effect.sleep("1 second")
                  log.push(`${name} ended @${yield* Clock.currentTimeMillis}`)
                }),
              ...more
            })
          yield* start("oldest")
          yield* start("trapping", { handleExit: () => Effect.void })
          for (let n = 0; n < 100; n++) yield* start("stuck", { terminate: () => Effect.never })
          const youngest = yield* start("youngest")
          yield* Process.sendAfter(youngest, Effect.void, "1 day")
          return yield* Process.System
        }),
        yield* systemIn(scope)
      )
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(closing.pollUnsafe())
      assert.deepStrictEqual(log, [
        "youngest Shutdown",
        "trapping Shutdown",
        "oldest Shutdown",
        "youngest ended @1000",
        "trapping ended @1000",
        "oldest ended @1000"
      ])
      assert.strictEqual(node.children.size + node.timers.size, 0)
    }))

  onNode(
    "that closes ends a process after those it has started, and those that these have started",
    () =>
      Effect.gen(function*() {
        const log: Array<string> = []
        const scope = yield* Scope.make()
        yield* Effect.gen(function*() {
          const family = (
            name: string,
            more: Effect.Effect<unknown, never, Process.System> = Effect.void
          ): Effect.Effect<unknown, never, Process.System> =>
            Process.spawn((_self: Process.Pid<never>) =>
              Effect.as(more, {
                handle: () => Effect.void,
                terminate: () => Effect.as(Effect.sleep("1 second"), void log.push(name))
              }), { label: name })
          yield* family("parent", Effect.andThen(family("child 1", family("grandchild")), family("child 2")))
          yield* Supervisor.start({
            label: "supervisor",
            children: [
              Supervisor.child({
                id: "supervised",
                start: (_self: Process.Pid<never>) =>
                  Effect.as(family("started by supervised"), {
                    handle: () => Effect.void,
                    terminate: () => Effect.sync(() => void log.push("supervised"))
                  })
              })
            ]
          })
          yield* family("alone")
        }).pipe(Effect.provide(yield* systemIn(scope)))
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("3 seconds")
        assert.isDefined(closing.pollUnsafe())
        const before = (first: string, second: string) =>
          assert.isBelow(log.indexOf(first), log.indexOf(second), `${first} before ${second}: ${log.join()}`)
        before("grandchild", "child 1")
        before("child 1", "parent")
        before("child 2", "parent")
        before("started by supervised", "supervised")
        assert.lengthOf(log, 7)
      })
  )

  onNode("that closes also shuts down what is started meanwhile", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const log: Array<string> = []
      const node = yield* systemIn(scope)
      yield* Effect.provide(
        spawnObedient({
          terminate: () => spawnObedient({ terminate: () => noting(log).handle("late") })
        }),
        node
      )
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log, ["late"])
    }))

  onNode("has nothing left after much coming and going", ({ fibers }) =>
    Effect.gen(function*() {
      const before = fibers()
      const hub = yield* spawnObedient({ handleExit: () => Effect.void })
      for (let round = 0; round < 20; round++) {
        const pids: Array<Process.Pid<Job>> = []
        for (let i = 0; i < 20; i++) {
          const pid = yield* spawnObedient({ terminate: () => Effect.sleep(i) })
          pids.push(pid)
          yield* Process.send(hub, i % 2 === 0 ? Process.monitor(pid) : Process.link(pid))
          yield* Process.sendAfter(pid, Effect.void, "1 hour")
          yield* Process.send(pid, i % 3 === 0 ? Effect.never : Effect.forkScoped(Effect.never))
        }
        yield* settle
        for (const [i, pid] of pids.entries()) {
          yield* Process.exit(pid, i % 5 === 0 ? Process.killed : Process.shutdown())
        }
        yield* TestClock.adjust(20)
      }
      yield* settle
      const { links, monitors, watchers } = yield* Process.info(hub)
      assert.deepStrictEqual({ links, monitors, watchers }, { links: 0, monitors: 0, watchers: 0 })
      assert.deepStrictEqual(yield* Process.stats, { processes: 1, timers: 0 })
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(fibers(), before)
    }))
})
