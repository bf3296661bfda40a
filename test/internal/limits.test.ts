import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Effect, Logger, References } from "effect"
import { TestClock } from "effect/testing"
import { Guard } from "../../src/internal/guard.ts"
import { Complaints, rateOf, TokenBucket } from "../../src/internal/limits.ts"
import { OptionError } from "../../src/internal/options.ts"
import { isLogged, report } from "../../src/internal/report.ts"
import { Timers } from "../../src/internal/timers.ts"

interface Line {
  readonly level: string
  readonly message: unknown
  readonly cause: string
  readonly annotations: Readonly<Record<string, unknown>>
}

/** Runs with a log that is kept; timers are those of the TestClock. */
const logged = <A, E, R>(
  body: (tools: {
    readonly complaints: Complaints
    readonly context: Context.Context<never>
    readonly lines: Array<Line>
  }) => Effect.Effect<A, E, R>
) => {
  const lines: Array<Line> = []
  const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
    lines.push({
      level: logLevel,
      message: Array.isArray(message) ? message[0] : message,
      cause: Cause.pretty(cause),
      annotations: fiber.getRef(References.CurrentLogAnnotations)
    })
  })
  return Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const clock = yield* Clock.Clock
    const complaints = new Complaints(new Timers(clock, Effect.runForkWith(context)), context)
    return yield* body({ complaints, context, lines })
  }).pipe(Effect.provide(Logger.layer([logger])))
}

describe("a rate", () => {
  it("is two numbers, or false for none", () => {
    const rate = { perSecond: 0.5, burst: 3 }
    assert.deepStrictEqual(rateOf("maxJoinRate", rate), rate)
    assert.deepStrictEqual(rateOf("x", { perSecond: Infinity, burst: Infinity }), {
      perSecond: Infinity,
      burst: Infinity
    })
    assert.isUndefined(rateOf("x", false))
  })

  it("is nothing else, and says which part is wrong", () => {
    const give = (value: unknown) => () => rateOf("maxJoinRate", value as never)
    for (const value of [null, true, 5, "5", NaN, () => 5]) {
      assert.throws(give(value), OptionError, "maxJoinRate must be { perSecond, burst }, or false for no limit")
    }
    for (const value of [{}, [], { burst: 1 }, { perSecond: 0, burst: 1 }, { perSecond: NaN, burst: 1 }]) {
      assert.throws(give(value), OptionError, "maxJoinRate: perSecond must be more than 0")
    }
    for (const burst of [undefined, 0, -1, NaN, "5", null]) {
      assert.throws(give({ perSecond: 1, burst }), OptionError, "maxJoinRate: burst must be a number, at least 1")
    }
  })
})

describe("a token bucket", () => {
  const bucket = (perSecond: number, burst: number) =>
    Effect.map(Clock.Clock, (clock) => new TokenBucket({ perSecond, burst }, clock))
  const taken = (tokens: TokenBucket) => {
    let count = 0
    while (count < 1000 && tokens.take()) count++
    return count
  }

  it.effect("is full at first, and fills up to its burst", () =>
    Effect.gen(function*() {
      const tokens = yield* bucket(2, 5)
      assert.strictEqual(taken(tokens), 5)
      yield* TestClock.adjust("499 millis")
      assert.strictEqual(taken(tokens), 0)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(taken(tokens), 1)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(taken(tokens), 5)
    }))

  it.effect("asks the clock once in several times, and gives no more than with it, and hardly less", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let asked = 0
      const counting: Clock.Clock = {
        ...clock,
        sleep: (duration) => clock.sleep(duration),
        monotonicTimeNanosUnsafe: () => {
          asked++
          return clock.monotonicTimeNanosUnsafe()
        }
      }
      const exact = yield* bucket(10, 100)
      const often = new TokenBucket({ perSecond: 10, burst: 100 }, counting)
      const both = (count: number) => {
        let [a, b] = [0, 0]
        for (let i = 0; i < count; i++) {
          if (exact.take()) a++
          if (often.takeOften()) b++
        }
        return [a, b]
      }
      assert.deepStrictEqual(both(99), [99, 99])
      assert.isAtMost(asked, 10)
      assert.deepStrictEqual(both(3), [1, 1])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(both(12), [10, 10])
      let [total, totalOften] = [0, 0]
      for (let second = 0; second < 60; second++) {
        const [a = 0, b = 0] = both(second % 25)
        total += a
        totalOften += b
        assert.isAtMost(totalOften, total)
        assert.isAtLeast(totalOften, total - 10)
        yield* TestClock.adjust("1 second")
      }
      yield* TestClock.adjust("1 hour")
      both(5)
      yield* TestClock.adjust("1 hour")
      const [most, least = 0] = both(200)
      assert.strictEqual(most, 100)
      assert.isAtLeast(least, 90)
    }))

  it.effect("gives all that are asked for, or none", () =>
    Effect.gen(function*() {
      const tokens = yield* bucket(1, 10)
      assert.isFalse(tokens.take(11))
      assert.isTrue(tokens.take(7))
      assert.isFalse(tokens.take(4))
      assert.isTrue(tokens.take(3))
      assert.isFalse(tokens.take(1))
      assert.isTrue(tokens.take(0))
    }))

  it.effect("that is charged is paid back in time, and nothing is to be had before", () =>
    Effect.gen(function*() {
      const tokens = yield* bucket(10, 100)
      assert.strictEqual(tokens.charge(100), 0)
      assert.strictEqual(tokens.charge(50), 5000)
      assert.isFalse(tokens.take())
      yield* TestClock.adjust("4900 millis")
      assert.strictEqual(tokens.charge(0), 100)
      assert.isFalse(tokens.take())
      yield* TestClock.adjust("200 millis")
      assert.isTrue(tokens.take())
      // More at once than there can ever be is let in, and paid for.
      assert.approximately(tokens.charge(1_000_000), 100_000_000, 1000)
    }))

  it.effect("is not moved by a wall clock that is set, whichever way", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let wall = 0
      const set: Clock.Clock = Object.create(clock, {
        currentTimeMillisUnsafe: { value: () => wall },
        currentTimeNanosUnsafe: { value: () => BigInt(wall) * 1_000_000n }
      })
      const tokens = new TokenBucket({ perSecond: 1, burst: 2 }, set)
      assert.strictEqual(taken(tokens), 2)
      for (const jump of [1e12, -1e12, 0]) {
        wall = jump
        assert.strictEqual(taken(tokens), 0)
        assert.strictEqual(tokens.charge(0), 0)
      }
      yield* TestClock.adjust("1 second")
      assert.strictEqual(taken(tokens), 1)
    }))

  it.effect("of no limit stays one", () =>
    Effect.gen(function*() {
      for (const tokens of [yield* bucket(Infinity, Infinity), yield* bucket(1, Infinity)]) {
        assert.strictEqual(taken(tokens), 1000)
        assert.strictEqual(tokens.charge(1e9), 0)
        yield* TestClock.adjust("1 second")
        assert.isTrue(tokens.take(1e9))
      }
      // It is full again at once, but for what is asked at one instant.
      const tokens = yield* bucket(Infinity, 5)
      assert.strictEqual(taken(tokens), 5)
      assert.strictEqual(tokens.charge(5), 0)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(taken(tokens), 5)
    }))
})

describe("complaints", () => {
  it.effect("are logged at once, and then every ten seconds, with how often it was", () =>
    logged(({ complaints, lines }) =>
      Effect.gen(function*() {
        const say = () => complaints.say("Warn", "a client is odd", { socket: "user_socket" })
        for (let n = 0; n < 1000; n++) say()
        assert.deepStrictEqual(lines.map(({ annotations }) => annotations), [{ socket: "user_socket", times: 1 }])
        yield* TestClock.adjust("9999 millis")
        say()
        assert.strictEqual(lines.length, 1)
        yield* TestClock.adjust("1 millis")
        for (let n = 0; n < 1000; n++) say()
        assert.strictEqual(lines.length, 2)
        assert.strictEqual(lines[1]?.annotations["times"], 1001)
        assert.deepStrictEqual([lines[1]?.level, lines[1]?.message], ["Warn", "a client is odd"])
        yield* TestClock.adjust("1 hour")
        say()
        assert.strictEqual(lines[2]?.annotations["times"], 1000)
      })
    ))

  it.effect("of different kinds do not wait for each other", () =>
    logged(({ complaints, lines }) =>
      Effect.sync(() => {
        for (let n = 0; n < 3; n++) {
          complaints.say("Warn", "one", {})
          complaints.say("Error", "two", {}, Cause.die(new Error("boom")))
          complaints.say("Error", "two", {}, undefined, "of another kind")
        }
        assert.deepStrictEqual(lines.map(({ message }) => message), ["one", "two", "two"])
        assert.include(lines[1]?.cause, "boom")
      })
    ))
})

describe("a function of the application", () => {
  it.effect("that throws is logged with its owner, and its caller goes on", () =>
    logged(({ complaints, lines }) =>
      Effect.gen(function*() {
        const guard = new Guard(complaints)
        const called = { name: "checkOrigin", owner: { socket: "user_socket" } }
        const boom = new Error("boom")
        const seen: Array<unknown> = []
        for (let n = 0; n < 100; n++) {
          assert.strictEqual(
            guard.call(called, () => {
              throw boom
            }, (defect) => {
              seen.push(defect)
              return "refused"
            }),
            "refused"
          )
        }
        assert.deepStrictEqual([seen.length, seen[0]], [100, boom])
        assert.strictEqual(lines.length, 1)
        const [line] = lines
        assert.deepStrictEqual([line?.level, line?.message], ["Error", "checkOrigin of the application has thrown"])
        assert.include(line?.cause, "boom")
        assert.deepStrictEqual(line?.annotations, { socket: "user_socket", times: 1 })
        yield* TestClock.adjust("10 seconds")
        guard.failed(called, boom)
        assert.strictEqual(lines[1]?.annotations["times"], 100)
      })
    ))

  it.effect("of one owner does not hide that of another, nor another function of the same", () =>
    logged(({ complaints, lines }) =>
      Effect.sync(() => {
        const guard = new Guard(complaints)
        for (const name of ["checkOrigin", "lossy"]) {
          for (const socket of ["a", "b"]) {
            for (let n = 0; n < 3; n++) guard.failed({ name, owner: { socket } }, new Error(`${name} ${socket}`))
          }
        }
        assert.deepStrictEqual(lines.map(({ annotations, message }) => [message, annotations["socket"]]), [
          ["checkOrigin of the application has thrown", "a"],
          ["checkOrigin of the application has thrown", "b"],
          ["lossy of the application has thrown", "a"],
          ["lossy of the application has thrown", "b"]
        ])
      })
    ))

  it.effect("that returns is not in the way, whatever it returns or throws", () =>
    logged(({ complaints, lines }) =>
      Effect.sync(() => {
        const guard = new Guard(complaints)
        const called = { name: "host", owner: {} }
        for (const value of [undefined, null, 0, false, new Error("returned")]) {
          assert.strictEqual(guard.call(called, () => value, () => "otherwise"), value)
        }
        assert.strictEqual(lines.length, 0)
        for (const thrown of [undefined, null, "text", 0, Object.create(null), Symbol("s")]) {
          assert.strictEqual(
            guard.call(called, () => {
              throw thrown
            }, (defect) => defect),
            thrown
          )
        }
      })
    ))
})

describe("a line", () => {
  it.effect("is put together only where it would be logged", () =>
    Effect.gen(function*() {
      const context = yield* Effect.context<never>()
      const quiet = Context.add(context, References.MinimumLogLevel, "Warn")
      assert.isFalse(isLogged(false, context))
      assert.isFalse(isLogged("Info", quiet))
      assert.isTrue(isLogged("Warn", quiet))
      assert.isTrue(isLogged("Error", quiet))
    }))

  it.effect("has its level, annotations and cause", () =>
    logged(({ context, lines }) =>
      Effect.sync(() => {
        report("Warn", context, "it rains", { where: "here" })
        report("Error", context, "it pours", {}, Cause.die(new Error("boom")))
        assert.deepStrictEqual(lines.map(({ level, message }) => [level, message]), [["Warn", "it rains"], [
          "Error",
          "it pours"
        ]])
        assert.deepStrictEqual(lines[0]?.annotations, { where: "here" })
        assert.include(lines[1]?.cause, "boom")
      })
    ))
})
