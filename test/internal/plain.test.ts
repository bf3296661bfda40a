import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { NotPlain, plain } from "../../src/internal/plain.ts"

const isFrozen = (value: unknown): boolean =>
  typeof value !== "object" || value === null || (Object.isFrozen(value) && Object.values(value).every(isFrozen))

const anything = fc.anything({
  maxDepth: 5,
  withBigInt: true,
  withBoxedValues: true,
  withDate: true,
  withMap: true,
  withNullPrototype: true,
  withObjectString: true,
  withSet: true,
  withSparseArray: true,
  withTypedArray: true,
  key: fc.oneof(fc.string(), fc.constantFrom("__proto__", "constructor", "toString", "length", "phx_ref"))
})

describe("a plain copy", () => {
  it("has anything as JSON makes it, frozen, or is refused with a reason", () => {
    let copied = 0
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), anything), (value) => {
        let copy: unknown
        try {
          copy = plain("value", value, 1_000_000)
        } catch (error) {
          assert.instanceOf(error, NotPlain)
          return
        }
        copied++
        assert.isTrue(isFrozen(copy))
        // JSON has no word for what is not there, and so a text in its place.
        const text = JSON.stringify(value) ?? "null"
        assert.strictEqual(JSON.stringify(copy), text)
        assert.deepStrictEqual(JSON.parse(JSON.stringify(plain("value", copy, 1_000_000))), JSON.parse(text))
      }),
      { numRuns: 2000 }
    )
    assert.isAbove(copied, 500)
  })

  it("equals all that JSON can say", () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => {
      assert.deepStrictEqual(plain("value", value, Infinity), JSON.parse(JSON.stringify(value)))
    }))
  })

  it("is refused as soon as names alone are too much, however often they are the same", () => {
    let reads = 0
    const name = "x".repeat(1000)
    const one = Object.defineProperty({}, name, { enumerable: true, get: () => ++reads })
    assert.throws(() => plain("value", Array.from({ length: 10_000 }, () => one), 50_000), /more than 50000 bytes/)
    assert.isBelow(reads, 50)
  })

  it("is refused beyond so many bytes, and never below", () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => {
      const bytes = Buffer.byteLength(JSON.stringify(value))
      plain("value", value, bytes)
    }))
    for (const value of ["x".repeat(100), Array.from({ length: 100 }), { a: ["x".repeat(99)] }]) {
      assert.throws(() => {
        try {
          plain("value", value, 99)
        } catch (error) {
          throw error instanceof NotPlain ? new RangeError(error.code) : error
        }
      }, "TOO_LARGE")
    }
  })
})
