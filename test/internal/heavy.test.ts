import { assert, describe, it } from "@effect/vitest"
import { type Busy, HeavyWork } from "../../src/internal/heavy.ts"

/** Work that takes long, and the end of each task. */
const make = () => {
  let isWaiting = false
  const work = new HeavyWork(() => void (isWaiting = true))
  const done: Array<string> = []
  /** Makes an owner that does its pieces one after another, each when it may. */
  const owner = (name: string, pieces: ReadonlyArray<number>): Busy => {
    const left = [...pieces]
    const busy: Busy = {
      goOn: () => {
        for (let next = left[0]; next !== undefined && work.take(busy, next); next = left[0]) {
          left.shift()
          done.push(`${name}${next}`)
        }
      }
    }
    busy.goOn()
    return busy
  }
  /** Runs the next turn, and returns what is done in it. */
  const turn = () => {
    const before = done.length
    if (isWaiting) {
      isWaiting = false
      work.run()
    }
    return done.slice(before)
  }
  return { work, done, owner, turn, isIdle: () => !isWaiting }
}

describe("work that takes long", () => {
  it("is done in one turn as far as it fits, the rest in the next ones, in line", () => {
    const { done, isIdle, owner, turn } = make()
    owner("a", [500, 500, 500])
    assert.deepStrictEqual(done, ["a500", "a500"])
    owner("b", [100])
    owner("c", [5000])
    owner("d", [100])
    assert.deepStrictEqual(done, ["a500", "a500"])
    assert.deepStrictEqual(turn(), ["a500", "b100"])
    // It waits behind the one that does not fit, and that is the first next time.
    assert.deepStrictEqual(turn(), ["d100"])
    assert.deepStrictEqual(turn(), ["c5000"])
    assert.deepStrictEqual(turn(), [])
    assert.isTrue(isIdle())
  })

  it("is done whatever it takes, where it is alone", () => {
    const { done, owner, turn } = make()
    owner("a", [9000, 9000])
    assert.deepStrictEqual(done, ["a9000"])
    assert.deepStrictEqual(turn(), ["a9000"])
  })

  it("waits no more when its owner is gone", () => {
    const { owner, turn, work } = make()
    owner("a", [9000])
    work.forget(owner("b", [9000]))
    owner("c", [10])
    assert.deepStrictEqual(turn(), ["c10"])
  })
})
