import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { countValues } from "../../src/internal/measure.ts"

/** The same of what was read. */
const count = (value: unknown): number => {
  if (typeof value !== "object" || value === null) return 0
  const parts = Object.values(value)
  const own = Array.isArray(value) ? parts.length : 2 * parts.length
  return parts.reduce((sum: number, part) => sum + count(part), Math.max(1, own))
}

/** Texts in which there is everything that means something outside of them, and some that are long. */
const text = fc.oneof(
  fc.string({ unit: fc.constantFrom("\"", "\\", ",", "[", "{", ":", "x", "é") }),
  fc.string({ unit: fc.constantFrom("\"", "\\", "x"), minLength: 50, maxLength: 300 }),
  fc.nat({ max: 300 }).map((length) => "x".repeat(length))
)
const value = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    text,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(null, true, false),
    fc.array(tie("value")),
    fc.dictionary(text.filter((key) => key !== "__proto__"), tie("value"))
  )
})).value

describe("values of JSON are counted without reading it", () => {
  it("as texts and as bytes, with space around them or none", () => {
    fc.assert(fc.property(value, fc.constantFrom(0, 1, 3), (value, space) => {
      const json = JSON.stringify(value, null, space)
      const expected = count(JSON.parse(json))
      assert.deepStrictEqual([countValues(json, Infinity), countValues(Buffer.from(json), Infinity)], [
        expected,
        expected
      ])
    }))
  })

  it("up to a limit", () => {
    const json = JSON.stringify(Array.from({ length: 1000 }, () => []))
    assert.strictEqual(countValues(json, 2000), 2000)
    assert.strictEqual(countValues(json, 1999), 2000)
    assert.strictEqual(countValues(Buffer.from(json), 99), 100)
  })

  it("of what is no JSON to any number, and to an end", () => {
    fc.assert(fc.property(fc.oneof(fc.string(), text, text.map((text) => `"${text}`)), (json) => {
      assert.isAtLeast(countValues(json, Infinity), 0)
      assert.isAtLeast(countValues(Buffer.from(json), Infinity), 0)
    }))
  })
})
