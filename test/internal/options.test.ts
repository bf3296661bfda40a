import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { callable, duration, number, oneOf, OptionError, text, wholeNumber } from "../../src/internal/options.ts"

/** Values that programs and their environments give in place of a number. */
const noNumbers: ReadonlyArray<unknown> = [
  NaN,
  Number(undefined),
  "5",
  "",
  "many",
  null,
  undefined,
  true,
  false,
  {},
  [],
  [5],
  5n,
  Symbol("5"),
  () => 5,
  new Date(5),
  Object(5)
]

/** The error says which option, what it was given, and what it takes. */
const refuses = (give: () => unknown, option: string, value: unknown, allowed: string) => {
  let error: unknown
  try {
    give()
  } catch (thrown) {
    error = thrown
  }
  assert.instanceOf(error, OptionError)
  assert.instanceOf(error, RangeError)
  assert.deepStrictEqual([error.name, error._tag, error.code, error.option], [
    "OptionError",
    "OptionError",
    "INVALID_OPTION",
    option
  ])
  assert.isTrue(Object.is(error.value, value))
  assert.match(error.message, new RegExp(`^${option} must be ${allowed}`))
  assert.isBelow(error.message.length, 400)
}

describe("a whole number", () => {
  const give = (value: unknown) => wholeNumber("maxChannels", value)

  it("is taken from the least on", () => {
    for (const value of [1, 2, 1000, Number.MAX_SAFE_INTEGER]) assert.strictEqual(give(value), value)
    assert.strictEqual(wholeNumber("x", 0, { min: 0 }), 0)
    assert.strictEqual(wholeNumber("x", 10, { min: 10, max: 10 }), 10)
  })

  it("is nothing else, and no less or more than is allowed", () => {
    for (const value of [...noNumbers, 0, -0, -1, 0.5, 1.5, 2 ** 53, 1e300, Infinity, -Infinity, Number.MIN_VALUE]) {
      refuses(() => give(value), "maxChannels", value, "a whole number, at least 1; it is ")
    }
    refuses(() => wholeNumber("x", 11, { min: 10, max: 10 }), "x", 11, "a whole number, at least 10 and at most 10")
    refuses(() => wholeNumber("x", 9, { min: 10 }), "x", 9, "a whole number, at least 10; it is 9")
    refuses(
      () => wholeNumber("x", -1, { min: 0, unit: "bytes" }),
      "x",
      -1,
      "a whole number of bytes, at least 0; it is -1"
    )
  })

  it("may be Infinity where there may be no limit, and nothing else that is none", () => {
    const bounds = { unlimited: true }
    assert.strictEqual(wholeNumber("x", Infinity, bounds), Infinity)
    assert.strictEqual(wholeNumber("x", Infinity, { ...bounds, max: 10 }), Infinity)
    for (const value of [...noNumbers, -Infinity, 0, 0.5]) {
      refuses(() => wholeNumber("x", value, bounds), "x", value, "a whole number, at least 1, or Infinity for no limit")
    }
  })
})

describe("a number", () => {
  it("is taken from the least on, whole or not", () => {
    for (const value of [1, 1.5, 1e300]) assert.strictEqual(number("x", value), value)
    assert.strictEqual(number("x", 0.001, { min: Number.MIN_VALUE }), 0.001)
    assert.strictEqual(number("x", 0, { min: 0 }), 0)
  })

  it("is nothing else, and no less or more than is allowed", () => {
    for (const value of [...noNumbers, 0, 0.5, -1, Infinity, -Infinity]) {
      refuses(() => number("x", value), "x", value, "a number, at least 1; it is ")
    }
    for (const value of [0, -0, -1, NaN]) {
      refuses(() => number("x", value, { min: Number.MIN_VALUE }), "x", value, "more than 0; it is ")
    }
    refuses(() => number("x", 3, { max: 2 }), "x", 3, "a number, at least 1 and at most 2")
    assert.strictEqual(number("x", Infinity, { unlimited: true }), Infinity)
    refuses(() => number("x", -Infinity, { unlimited: true }), "x", -Infinity, "a number, at least 1, or Infinity")
  })
})

describe("a duration", () => {
  it("is a number of milliseconds, or whatever Effect takes for one", () => {
    const durations: ReadonlyArray<readonly [value: unknown, millis: number]> = [
      [1, 1],
      [0.5, 0.5],
      ["30 seconds", 30_000],
      ["1 milli", 1],
      [Duration.minutes(2), 120_000],
      [5_000_000n, 5],
      [[1, 500_000_000], 1500],
      [{ seconds: 3 }, 3000]
    ]
    for (const [value, millis] of durations) assert.strictEqual(duration("timeout", value), millis)
  })

  it("is nothing else, not even nothing", () => {
    const noDurations: ReadonlyArray<unknown> = [
      NaN,
      0,
      -1,
      Infinity,
      -Infinity,
      "",
      "5",
      "soon",
      "5 parsecs",
      "-5 seconds",
      "0 seconds",
      "Infinity",
      null,
      undefined,
      true,
      {},
      { second: 3 },
      { seconds: NaN },
      [],
      [1],
      Symbol("5"),
      () => 5,
      Duration.zero,
      Duration.infinity
    ]
    for (const value of noDurations) {
      refuses(
        () => duration("timeout", value),
        "timeout",
        value,
        "a duration longer than nothing, such as \"30 seconds\""
      )
    }
    refuses(() => duration("x", 4, { min: 5 }), "x", 4, "a duration of at least 5 milliseconds")
  })

  it("may last for ever, or be nothing, where that is allowed", () => {
    for (const value of [Infinity, "Infinity", Duration.infinity]) {
      assert.strictEqual(duration("x", value, { unlimited: true }), Infinity)
    }
    for (const value of [0, "0 seconds", Duration.zero]) assert.strictEqual(duration("x", value, { min: 0 }), 0)
    for (const value of [NaN, -1, -Infinity, "", "soon", null, undefined, true, {}, { second: 3 }, [], () => 5]) {
      refuses(
        () => duration("x", value, { min: 0, unlimited: true }),
        "x",
        value,
        "a duration of at least 0 milliseconds"
      )
    }
  })
})

describe("a choice, a text and a function", () => {
  it("are one of what is named, not empty, and to be called", () => {
    assert.strictEqual(oneOf("x", "a", ["a", "b"]), "a")
    assert.strictEqual(oneOf("x", false, ["a", false]), false)
    assert.strictEqual(text("x", "a"), "a")
    assert.strictEqual(callable("x", Math.max), Math.max)
  })

  it("are nothing else", () => {
    for (const value of ["A", "", "c", 0, 1, NaN, null, undefined, true, {}, [], ["a"], () => "a"]) {
      refuses(() => oneOf("x", value, ["a", "b", false]), "x", value, "one of \"a\", \"b\", false; it is ")
    }
    for (const value of ["", 5, null, undefined, {}, ["a"], Object("a"), () => "a"]) {
      refuses(() => text("x", value), "x", value, "a text that is not empty; it is ")
    }
    for (const value of ["f", 5, null, undefined, {}, [Math.max]]) {
      refuses(() => callable("x", value), "x", value, "a function; it is ")
    }
  })
})

describe("the message", () => {
  const messageFor = (value: unknown) => new OptionError("x", value, "else").message

  it("shows what was given, cut short, and looks into nothing", () => {
    assert.strictEqual(messageFor("a\nb"), "x must be else; it is \"a\\nb\"")
    assert.isBelow(messageFor("a".repeat(10_000)).length, 200)
    assert.strictEqual(messageFor({ password: "a" }), "x must be else; it is an object")
    assert.strictEqual(messageFor(Object.create(null)), "x must be else; it is an object")
    assert.strictEqual(messageFor(["a"]), "x must be else; it is a list")
    assert.strictEqual(messageFor(() => "secret"), "x must be else; it is a function")
    assert.strictEqual(messageFor(Symbol("s")), "x must be else; it is Symbol(s)")
    assert.strictEqual(messageFor(undefined), "x must be else; it is undefined")
    assert.strictEqual(messageFor(NaN), "x must be else; it is NaN")
  })
})
