/** A little of `npm run fuzz`, with a seed of its own each time. */
import { assert, describe, it } from "@effect/vitest"
import { http } from "./fuzz/http.ts"
import { decoders } from "./fuzz/targets.ts"

describe("whatever they are given, without a throw and in time, is answered by", () => {
  const seed = Date.now() | 0

  it("is a hundred in a hundred", () => {
    assert.strictEqual(decoders.reduce((sum, { share }) => sum + share, 0), 100)
  })

  for (const { name, run, share } of [...decoders, http]) {
    it(name, async () => {
      const wanted = share === 0 ? 100 : 50 * share
      const { failure, runs } = await run({ seed, runs: wanted })
      assert.deepStrictEqual({ runs, seed, failure }, { runs: wanted, seed, failure: undefined })
    })
  }
})
