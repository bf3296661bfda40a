import { assert, describe, it } from "@effect/vitest"
import { Socket } from "node:net"
import { TransportMeter } from "../../src/internal/meter.ts"
import { Outbox, Outgoing, type Post, SharedFrame } from "../../src/internal/outbox.ts"
import type { Turn } from "../../src/internal/runQueue.ts"
import { readFrames } from "../attacks/wire.ts"

/** The frames of many connections, and what became of them. */
const make = () => {
  const turns: Array<Turn> = []
  const outgoing = new Outgoing({ readyToSend: (turn) => void turns.push(turn) })
  const sent: Array<unknown> = []
  const box = (name: string, send: (frame: unknown) => void = () => {}) => ({
    sendAll: (waiting: unknown) => {
      send(waiting)
      sent.push(`${name} ${String(waiting)}`)
      return Array.isArray(waiting) ? waiting.length : 1
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

  it("lets others have their turn after 64 connections", () => {
    const { box, outgoing, sent, turn, turns } = make()
    for (let n = 0; n < 129; n++) outgoing.add(box(String(n)), String(n))
    assert.strictEqual(turn(), 64)
    assert.lengthOf(turns, 1)
    assert.strictEqual(turn(), 64)
    assert.strictEqual(turn(), 1)
    assert.isEmpty(turns)
    assert.deepStrictEqual(sent, Array.from({ length: 129 }, (_, n) => `${n} ${n}`))
  })

  it("leaves together with what has come since, wherever it waits", () => {
    const { box, outgoing, sent, turn, turns } = make()
    const places = Array.from({ length: 200 }, (_, n) => outgoing.add(box(String(n)), "1"))
    const late = places.slice(64)
    turn()
    for (const place of late) assert.strictEqual(outgoing.append(place, "2"), 2)
    turn()
    for (const place of late.slice(64)) assert.strictEqual(outgoing.append(place, "3"), 3)
    assert.deepStrictEqual(outgoing.take(199), ["1", "2", "3"])
    while (turns.length > 0) turn()
    assert.deepStrictEqual(
      sent,
      Array.from({ length: 199 }, (_, n) => `${n} ${n < 64 ? "1" : n < 128 ? "1,2" : "1,2,3"}`)
    )
  })

  it("does not grow where more comes all the time", () => {
    const { box, outgoing, turn } = make()
    const sizes = new Set<number>()
    for (let n = 0; n < 50; n++) outgoing.add(box("first"), "1")
    for (let round = 0; round < 1000; round++) {
      for (let n = 0; n < 64; n++) outgoing.add(box(String(n)), String(n))
      assert.strictEqual(turn(), 64)
      sizes.add(outgoing.size)
    }
    assert.isAtMost(Math.max(...sizes), 128)
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

/** Connections, and what was written to their sockets in one call each. */
const makeConnections = () => {
  const turns: Array<Turn> = []
  const meter = new TransportMeter()
  const post: Post = { meter, outgoing: new Outgoing({ readyToSend: (turn) => void turns.push(turn) }) }
  class Connection extends Outbox<Post> {
    readonly writes: Array<Buffer>
    constructor(writes: Array<Buffer>) {
      const socket = new Socket()
      socket._write = (chunk: Buffer, _, done) => {
        writes.push(chunk)
        done()
      }
      socket._writev = (chunks, done) => {
        writes.push(Buffer.concat(chunks.map(({ chunk }) => chunk)))
        done()
      }
      super(post, socket)
      this.writes = writes
    }
    override post(item: string | Uint8Array | SharedFrame): void {
      super.post(item)
    }
    override flush(): void {
      super.flush()
    }
  }
  const sendAll = () => {
    while (turns.length > 0) turns.shift()?.run()
  }
  return { connection: () => new Connection([]), meter, sendAll }
}

const kinds = ["part", "text", "bytes"]

/** The frames of a write, as a client takes them apart. */
const framesOf = (bytes: Buffer): ReadonlyArray<string> => {
  const frames = readFrames(bytes)
  assert.isTrue(frames.every(({ isPlain }) => isPlain))
  assert.strictEqual(frames.at(-1)?.end, bytes.length)
  return frames.map(({ opcode, payload }) => `${kinds[opcode]} ${payload.toString()}`)
}

describe("an outbox", () => {
  it("sends what waits in one write, in its order, whatever it is", () => {
    const { connection, meter, sendAll } = makeConnections()
    const one = connection()
    const long = "ä".repeat(200)
    const frames = [
      "a",
      new TextEncoder().encode("b"),
      new SharedFrame(long),
      new SharedFrame(new Uint8Array([99])),
      ""
    ]
    for (const frame of frames) one.post(frame)
    assert.isEmpty(one.writes)
    sendAll()
    assert.deepStrictEqual(one.writes.map(framesOf), [["text a", "bytes b", `text ${long}`, "bytes c", "text "]])
    assert.deepStrictEqual([meter.framesOut, meter.bytesOut], [5, 403])
    sendAll()
    assert.lengthOf(one.writes, 1)
  })

  it("shares with others what they are all sent together", () => {
    const { connection, sendAll } = makeConnections()
    const [a, b, c, d] = [connection(), connection(), connection(), connection()]
    const [first, second] = [new SharedFrame("1"), new SharedFrame("2")]
    for (const one of [a, b, c]) {
      one.post(first)
      one.post(second)
    }
    c.post("3")
    d.post(second)
    d.post(first)
    sendAll()
    assert.deepStrictEqual([a, b, c, d].map(({ writes }) => writes.map(framesOf)), [
      [["text 1", "text 2"]],
      [["text 1", "text 2"]],
      [["text 1", "text 2", "text 3"]],
      [["text 2", "text 1"]]
    ])
    assert.strictEqual(a.writes[0], b.writes[0])
  })

  it("does not copy together what is much", () => {
    const { connection, sendAll } = makeConnections()
    const one = connection()
    const much = "x".repeat(40_000)
    one.post(much)
    one.post(much)
    sendAll()
    assert.deepStrictEqual(one.writes.flatMap(framesOf), [`text ${much}`, `text ${much}`])
  })

  it("sends out of turn when it is told to, or when a thousand frames wait", () => {
    const { connection, sendAll } = makeConnections()
    const one = connection()
    one.post("1")
    one.flush()
    one.flush()
    for (let n = 2; n <= 1500; n++) one.post(String(n))
    assert.deepStrictEqual(one.writes.map((write) => framesOf(write).length), [1, 1000])
    sendAll()
    const sent = one.writes.flatMap(framesOf)
    assert.deepStrictEqual(sent, Array.from({ length: 1500 }, (_, n) => `text ${n + 1}`))
  })
})
