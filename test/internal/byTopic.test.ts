import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { ByTopic } from "../../src/internal/byTopic.ts"

describe("what is kept by topic", () => {
  it("is a Map, in which only the very one that is there is removed", () =>
    fc.assert(
      fc.property(
        fc.array(fc.record({
          topic: fc.constantFrom("a", "b", "c"),
          what: fc.constantFrom("add", "add", "remove", "remove other", "clear")
        })),
        (steps) => {
          const kept = new ByTopic<{ readonly topic: string }>()
          const map = new Map<string, { readonly topic: string }>()
          for (const { topic, what } of steps) {
            const there = map.get(topic)
            if (what === "add" && there === undefined) {
              const item = { topic }
              kept.add(item)
              map.set(topic, item)
            } else if (what === "remove") {
              assert.strictEqual(there !== undefined && kept.remove(there), map.delete(topic))
            } else if (what === "remove other") {
              assert.isFalse(kept.remove({ topic }))
            } else if (what === "clear") {
              kept.clear()
              map.clear()
            }
            assert.deepStrictEqual(kept.list(), [...map.values()])
            assert.strictEqual(kept.size, map.size)
            assert.strictEqual(kept.get(topic), map.get(topic))
          }
        }
      )
    ))
})
