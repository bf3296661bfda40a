import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { SteadyMap } from "../../src/internal/steadyMap.ts"

describe("a SteadyMap", () => {
  it("is a Map, whatever comes and goes", () => {
    const step = fc.tuple(fc.constantFrom("set", "delete"), fc.integer({ min: 0, max: 200 }))
    fc.assert(fc.property(fc.array(step, { maxLength: 2000 }), (steps) => {
      const map = new SteadyMap<number, { readonly n: number }>()
      const model = new Map<number, { readonly n: number }>()
      let n = 0
      for (const [what, key] of steps) {
        const value = { n: n++ }
        if (what === "set") {
          map.set(key, value)
          model.set(key, value)
        } else {
          map.delete(key)
          model.delete(key)
        }
        assert.strictEqual(map.size, model.size)
        assert.strictEqual(map.get(key), model.get(key))
      }
      const byKey = ([a]: readonly [number, unknown], [b]: readonly [number, unknown]) => a - b
      assert.deepStrictEqual([...map].sort(byKey), [...model].sort(byKey))
      assert.deepStrictEqual([...map.keys()].sort(), [...model.keys()].sort())
    }))
  })

  it("keeps few keys that are gone", () => {
    const map = new SteadyMap<number, object>()
    for (let key = 0; key < 100_000; key++) {
      map.set(key, {})
      map.delete(key)
    }
    assert.strictEqual(map.size, 0)
    assert.isAtMost(map.places, 65)
  })

  it("gives a key that comes and goes its place back, but for once in many times", () => {
    const map = new SteadyMap<number, object>()
    for (let key = 0; key < 16_000; key++) map.set(key, {})
    for (let n = 0; n < 16_000; n++) {
      map.delete(0)
      map.set(0, {})
    }
    assert.isAtMost(map.holes, 10)
  })
})
