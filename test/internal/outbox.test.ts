import { assert, describe, it } from "@effect/vitest"
import { Outgoing } from "../../src/internal/outbox.ts"
import type { Turn } from "../../src/internal/runQueue.ts"

/** The frames of many connections, and what became of them. */
const make = () => {
  const turns: Array<Turn> = []
  const outgoing = new Outgoing({ ready: (turn) => void turns.push(turn) })
  const sent: Array<unknown> = []
  const box = (name: string, send: (frame: unknown) => void = () => {}) => ({
    sendFrom: (frame: unknown) => {
      send(frame)
      sent.push(`${name} ${String(frame)}`)
      return 1
    },
    failed: (defect: unknown) => void sent.push(`${name} failed: ${String(defect)}`)
  })
  /** As the run queue does. */
  const turn = () => {
    const next = turns.shift()
    assert.isDefined(next)
    try {
      return next.run()
    } catch (defect) {
      next.failed(defect)
      return undefined
    }
  }
  return { turns, outgoing, sent, box, turn }
}

describe("what is outgoing", () => {
  it("is sent in the order of its coming, in a turn for all", () => {
    const { box, outgoing, sent, turn, turns } = make()
    for (const name of ["a", "b", "c"]) outgoing.add(box(name), `of ${name}`)
    assert.lengthOf(turns, 1)
    assert.strictEqual(turn(), 3)
    assert.deepStrictEqual(sent, ["a of a", "b of b", "c of c"])
    assert.isEmpty(turns)
    outgoing.add(box("d"), "of d")
    assert.strictEqual(turn(), 1)
    assert.isEmpty(turns)
  })

  it("lets others have their turn after 512 connections", () => {
    const { box, outgoing, sent, turn, turns } = make()
    for (let n = 0; n < 1025; n++) outgoing.add(box(String(n)), String(n))
    assert.strictEqual(turn(), 512)
    assert.lengthOf(turns, 1)
    assert.strictEqual(turn(), 512)
    assert.strictEqual(turn(), 1)
    assert.isEmpty(turns)
    assert.deepStrictEqual(sent, Array.from({ length: 1025 }, (_, n) => `${n} ${n}`))
  })

  it("is not sent in its turn when it was taken before", () => {
    const { box, outgoing, sent, turn, turns } = make()
    outgoing.add(box("a"), "1")
    const place = outgoing.add(box("b"), "2")
    outgoing.add(box("c"), "3")
    assert.strictEqual(outgoing.take(place), "2")
    assert.isUndefined(outgoing.take(place))
    assert.strictEqual(turn(), 2)
    assert.deepStrictEqual(sent, ["a 1", "c 3"])
    assert.isEmpty(turns)
  })

  it("that cannot be sent is the business of its connection alone", () => {
    const { box, outgoing, sent, turn, turns } = make()
    outgoing.add(box("a"), "1")
    outgoing.add(
      box("b", () => {
        throw new Error("no memory")
      }),
      "2"
    )
    outgoing.add(box("c"), "3")
    assert.isUndefined(turn())
    assert.strictEqual(turn(), 1)
    assert.deepStrictEqual(sent, ["a 1", "b failed: Error: no memory", "c 3"])
    assert.isEmpty(turns)
  })

  it("while others are being sent comes after them", () => {
    const { box, outgoing, sent, turn, turns } = make()
    const late = box("late")
    outgoing.add(box("a", () => void outgoing.add(late, "2")), "1")
    assert.strictEqual(turn(), 1)
    assert.strictEqual(turn(), 1)
    assert.deepStrictEqual(sent, ["a 1", "late 2"])
    assert.isEmpty(turns)
  })
})
