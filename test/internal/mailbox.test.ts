import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Mailbox, nothing } from "../../src/internal/mailbox.ts"

class Box extends Mailbox {
  override put(message: unknown): void {
    super.put(message)
  }
  override take(): unknown {
    return super.take()
  }
  override replace(message: unknown, mustStay: (message: unknown) => boolean): unknown {
    return super.replace(message, mustStay)
  }
  override compact(): void {
    super.compact()
  }
  override clear(): void {
    super.clear()
  }
}

describe("a mailbox", () => {
  const even = (message: unknown) => Number(message) % 2 === 0

  it("is a list: first in, first out, and the oldest of a kind makes room", () =>
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            // So many at once that room has to be given back.
            times: fc.oneof(fc.constant(1), fc.nat(3000)),
            what: fc.constantFrom("put", "put", "take", "take", "replace", "compact", "clear")
          }),
          { maxLength: 40 }
        ),
        (steps) => {
          const box = new Box()
          let list: Array<unknown> = []
          let next = 0
          const act: Record<string, () => void> = {
            put: () => {
              list.push(next)
              box.put(next++)
            },
            take: () => {
              if (list.length > 0) assert.strictEqual(box.take(), list.shift())
            },
            replace: () => {
              const oldest = list.findIndex((message) => !even(message))
              const dropped = oldest === -1 ? nothing : list.splice(oldest, 1)[0]
              if (oldest !== -1) list.push(next)
              assert.strictEqual(box.replace(next++, even), dropped)
            },
            compact: () => box.compact(),
            clear: () => {
              list = []
              box.clear()
            }
          }
          for (const { times, what } of steps) {
            for (let i = 0; i < times; i++) act[what]?.()
            assert.strictEqual(box.mailboxLength, list.length)
          }
          while (list.length > 0) act["take"]?.()
          assert.strictEqual(box.mailboxLength, 0)
        }
      ),
      { numRuns: 200 }
    ))

  it("takes anything for a message", () => {
    const box = new Box()
    for (const message of [undefined, null, false]) box.put(message)
    assert.deepStrictEqual([box.take(), box.take(), box.take()], [undefined, null, false])
    assert.strictEqual(box.mailboxLength, 0)
  })

  it("takes no room while it is empty", () => {
    const box = new Box()
    for (let i = 0; i < 10; i++) box.put(i)
    for (let i = 0; i < 10; i++) box.take()
    assert.deepStrictEqual({ ...box }, { ...new Box() })
  })
})
