import { assert, describe, it } from "@effect/vitest"
import { Data, DateTime, Duration, Effect, HashMap, Option, Schema } from "effect"
import { check, fits, fitsGiven, Incomparable } from "../../src/internal/expectation.ts"

class Point {
  readonly x: number
  readonly y: number
  constructor(x: number, y: number) {
    this.x = x
    this.y = y
  }
}

class Hidden {
  readonly #x = 1
  get x(): number {
    return this.#x
  }
}

class Written {
  toJSON(): unknown {
    return { written: true }
  }
}

class Silent {
  toJSON(): unknown {
    return undefined
  }
}

class User extends Schema.Class<User>("User")({ id: Schema.String, name: Schema.String }) {}
class Moved extends Data.TaggedClass("Moved")<{ readonly by: number }> {}

const json = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

/** Kinds of values: the expected one, one that fits, and some that do not. */
const kinds: ReadonlyArray<readonly [name: string, expected: unknown, right: unknown, wrong: ReadonlyArray<unknown>]> =
  [
    ["a string", "a", "a", ["b", "", "A", ["a"], { a: 1 }, null, undefined, 1]],
    ["the empty string", "", "", [" ", null, undefined, 0, false, []]],
    ["a number", 1, 1, [2, "1", true, [1], null, undefined, NaN]],
    ["zero", 0, -0, ["", null, false, undefined, NaN]],
    ["NaN", NaN, NaN, [0, null, undefined, "NaN", {}]],
    ["true", true, true, [false, 1, "true", {}, null]],
    ["null", null, null, [undefined, 0, "", {}, [], false]],
    ["an object", { a: 1 }, { a: 1, b: 2 }, [{ a: 2 }, { b: 1 }, {}, [], "a", null, undefined, { a: { b: 1 } }]],
    ["an object without keys", {}, { a: 1 }, [[], "", 1, null, undefined, new Uint8Array(1)]],
    ["an undefined part", { a: 1, b: undefined }, { a: 1, c: 3 }, [
      { a: 1, b: null },
      { a: 1, b: 0 },
      { a: 1, b: "anything" },
      { a: 1, b: {} }
    ]],
    ["only an undefined part", { a: undefined }, { b: 1 }, [{ a: 1 }, { a: null }, [], null, "a"]],
    ["a deep undefined part", { a: { b: [{ c: undefined }] } }, { a: { b: [{ d: 1 }] } }, [{ a: { b: [{ c: 1 }] } }]],
    ["an array", [1, { a: 1 }], [1, { a: 1, b: 2 }], [[1], [1, { a: 1 }, 2], [{ a: 1 }, 1], { 0: 1, 1: { a: 1 } }, []]],
    ["an undefined item", [1, undefined], [1, undefined], [[1, 2], [1, null], [1]]],
    ["a hole", Array(2), [undefined, undefined], [[1, 2], [null, null], []]],
    ["no items", [], [], [[1], {}, "", null, new Uint8Array()]],
    ["a key that objects inherit", { toString: "a" }, { toString: "a" }, [{}, { toString: "b" }]],
    ["a key __proto__", JSON.parse("{\"__proto__\":1}"), JSON.parse("{\"__proto__\":1}"), [{}, { a: 1 }]],
    ["bytes", Uint8Array.of(1, 2), Uint8Array.of(1, 2), [
      Uint8Array.of(1),
      Uint8Array.of(1, 3),
      Uint8Array.of(1, 2, 3),
      new Uint8Array(),
      [1, 2],
      { 0: 1, 1: 2 },
      null
    ]],
    ["a buffer", Buffer.from([1, 2]), Uint8Array.of(1, 2), [Uint8Array.of(2, 1), "\u0001\u0002"]],
    ["a date", new Date(1000), json(new Date(1000)), [json(new Date(1001)), {}, null, 1000, "", undefined]],
    ["a date that has not travelled", new Date(1000), new Date(1000), [new Date(1001), {}]],
    ["a date in an object", { at: new Date(0) }, { at: "1970-01-01T00:00:00.000Z" }, [{ at: {} }, { at: null }, {}, {
      at: 0
    }]],
    ["a map", new Map([["a", { b: 1 }]]), new Map([["a", { b: 1, c: 2 }]]), [
      new Map(),
      new Map([["a", { b: 2 }]]),
      new Map([["b", { b: 1 }]]),
      new Map([["a", { b: 1 }], ["b", { b: 1 }]]),
      {},
      { a: { b: 1 } },
      [["a", { b: 1 }]]
    ]],
    ["an empty map", new Map(), new Map(), [new Map([[1, 2]]), {}, [], null]],
    ["a set", new Set([1, { a: 1 }]), new Set([{ a: 1, b: 2 }, 1]), [
      new Set([1]),
      new Set([1, { a: 2 }]),
      new Set([1, 2]),
      new Set([1, { a: 1 }, 3]),
      [1, { a: 1 }],
      {}
    ]],
    ["a set of equal parts", new Set([{ a: 1 }, { a: 1 }]), new Set([{ a: 1 }, { a: 1 }]), [
      new Set([{ a: 1 }, { a: 2 }])
    ]],
    ["an instance of a class", new Point(1, 2), { x: 1, y: 2, z: 3 }, [{ x: 1, y: 3 }, { x: 1 }, {}, [], null, "x"]],
    ["an instance in an object", { at: new Point(1, 2) }, { at: { x: 1, y: 2 } }, [{ at: {} }, { at: { x: 1 } }, {}]],
    ["an instance that has not travelled", new Point(1, 2), new Point(1, 2), [new Point(2, 1)]],
    ["an instance that says how it is written", new Written(), { written: true }, [{ written: false }, {}, "x", null]],
    ["an instance of a schema class", new User({ id: "1", name: "ada" }), { id: "1", name: "ada" }, [
      { id: "2", name: "ada" },
      { id: "1" },
      {}
    ]],
    ["an instance of a data class", new Moved({ by: 1 }), { _tag: "Moved", by: 1 }, [{ _tag: "Moved", by: 2 }, {
      by: 1
    }, {}]],
    ["an option", Option.some(1), json(Option.some(1)), [json(Option.some(2)), json(Option.none()), {}, 1]],
    ["an option of nothing", Option.none(), json(Option.none()), [json(Option.some(2)), {}, null]],
    ["a duration", Duration.seconds(1), json(Duration.seconds(1)), [json(Duration.seconds(2)), {}]],
    ["a date of Effect", DateTime.makeUnsafe(0), json(DateTime.makeUnsafe(0)), [json(DateTime.makeUnsafe(1)), {}]],
    ["a hash map", HashMap.make(["a", 1]), json(HashMap.make(["a", 1])), [json(HashMap.make(["a", 2])), {}]],
    ["a URL", new URL("http://a/b"), "http://a/b", ["http://a/c", {}, ""]],
    ["a function", (value: unknown) => value === 1, 1, [2, null, undefined]],
    ["a function in an object", { a: (value: unknown) => value === 1 }, { a: 1 }, [{ a: 2 }, {}, []]]
  ]

describe("an expectation", () => {
  for (const [name, expected, right, wrong] of kinds) {
    it(`that is ${name} fits what is the same, and nothing else`, () => {
      check([expected])
      assert.isTrue(fits(expected, right))
      for (const actual of wrong) assert.isFalse(fits(expected, actual), JSON.stringify(actual))
      // As a part of something else too.
      assert.isTrue(fits({ part: expected }, { part: right }))
      for (const actual of wrong) {
        if (actual !== undefined) assert.isFalse(fits({ part: [expected] }, { part: [actual] }), JSON.stringify(actual))
      }
    })
  }

  it("that is left out fits anything, and one that is undefined is a mistake", () => {
    for (const actual of [{}, null, "a", undefined]) assert.isTrue(fitsGiven([], actual))
    const forgotten: { readonly id?: string } = {}
    assert.throws(() => check([forgotten.id]), Incomparable, "the expectation is undefined")
  })

  const cyclic: Record<string, unknown> = { a: 1 }
  cyclic["self"] = { cyclic }
  const throwing = {
    toJSON: () => {
      throw new Error("not today")
    }
  }
  const incomparable: ReadonlyArray<readonly [name: string, part: unknown, words: string]> = [
    ["an effect that was not run", Effect.succeed(1), "is an Effect: yield* it"],
    ["an effect that fails", Effect.fail(1), "is an Effect: yield* it"],
    ["a promise", Promise.resolve(1), "instance of Promise"],
    ["a class", Point, "is the class Point"],
    ["a regular expression", /a/, "instance of RegExp"],
    ["an error", new Error("a"), "instance of Error"],
    ["an instance without data", new Hidden(), "instance of Hidden"],
    ["an instance that is written as nothing", new Silent(), "instance of Silent"],
    ["an invalid date", new Date(NaN), "instance of Date"],
    ["a weak map", new WeakMap(), "instance of WeakMap"],
    ["a buffer without a view", new ArrayBuffer(2), "instance of ArrayBuffer"],
    ["an array of other numbers", Float32Array.of(1), "is a Float32Array"],
    ["a boxed number", Object(1), "instance of Number"],
    ["a bigint", 1n, "is a bigint"],
    ["a symbol", Symbol("a"), "is a symbol"],
    ["a generator", [1][Symbol.iterator](), "without any data"],
    ["a toJSON that throws", throwing, "not today"],
    ["a cycle", cyclic, "contains itself"]
  ]
  for (const [name, part, words] of incomparable) {
    it(`that is ${name} is refused with a word on where it is`, () => {
      assert.throws(() => check([part]), Incomparable, words)
      assert.throws(() => check([{ a: [0, { b: part }] }]), Incomparable, "the expectation at a.1.b")
      assert.throws(() => check([new Map([["k", part]])]), Incomparable, "the expectation at k")
      assert.throws(() => check([new Set([part])]), Incomparable)
    })
  }

  it("whose function says neither yes nor no is refused", () => {
    for (const verdict of [undefined, null, 1, "yes", {}, Promise.resolve(true), Effect.succeed(true)]) {
      assert.throws(() => fits(() => verdict, 1), Incomparable, "must return true or false")
      assert.throws(() => fits({ a: () => verdict }, { a: 1 }), Incomparable)
    }
  })
})
