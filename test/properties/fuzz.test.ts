/** A little of `npm run fuzz`, with a seed of its own each time. */
import { assert, describe, it } from "@effect/vitest"
import { connections } from "./fuzz/connections.ts"
import { http } from "./fuzz/http.ts"
import { checks, eachOption } from "./fuzz/options.ts"
import { decoders } from "./fuzz/targets.ts"

describe("whatever they are given, without a throw and in time, is answered by", () => {
  const seed = Date.now() | 0

  it("is a hundred in a hundred", () => {
    assert.strictEqual([...decoders, checks].reduce((sum, { share }) => sum + share, 0), 100)
  })

  for (const { name, run, share } of [...decoders, checks, http, ...connections]) {
    it(name, async () => {
      const wanted = share === 0 ? 100 : 50 * share
      const { failure, runs } = await run({ seed, runs: wanted })
      assert.deepStrictEqual({ runs, seed, failure }, { runs: wanted, seed, failure: undefined })
    })
  }
})

describe("a value that makes no sense is refused where it is given, as an option of", () => {
  const seed = Date.now() | 0

  for (const { name, run } of eachOption) {
    it(name, async () => {
      const { failure } = await run({ seed, runs: 40 })
      assert.deepStrictEqual({ seed, failure }, { seed, failure: undefined })
    })
  }
})
