import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { constants, deflateRawSync, inflateRawSync, type ZlibOptions } from "node:zlib"
import { inflateShort } from "../../src/internal/inflateShort.ts"

const flushed = { finishFlush: constants.Z_SYNC_FLUSH }

const deflated = (data: Uint8Array, options: ZlibOptions = {}): Buffer =>
  deflateRawSync(data, { ...flushed, ...options }).subarray(0, -4)

const stored = (data: Uint8Array): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt16LE(data.length)
  length.writeUInt16LE(data.length ^ 0xffff, 2)
  return Buffer.concat([Buffer.of(0), length, data])
}

/** A message of several blocks, each with its encoding. */
const blocks = (...parts: ReadonlyArray<readonly ["stored" | "fixed", Uint8Array]>): Buffer =>
  Buffer.concat([
    ...parts.map(([kind, data]) =>
      kind === "stored"
        ? stored(data)
        : Buffer.concat([deflated(data, { strategy: constants.Z_FIXED }), Buffer.of(0, 0, 0xff, 0xff)])
    ),
    Buffer.of(0)
  ])

const zlib = (data: Buffer): Buffer | undefined => {
  try {
    return inflateRawSync(Buffer.concat([data, Buffer.of(0, 0, 0xff, 0xff)]), flushed)
  } catch {
    return undefined
  }
}

/** Text with repetitions, near and far. */
const text = fc.array(fc.oneof(fc.string({ unit: "grapheme" }), fc.constantFrom("a", "heartbeat", "x".repeat(300))))
  .map((words) => Buffer.from(words.join("")))

const bytes = fc.uint8Array({ maxLength: 600 }).map(Buffer.from)

describe("a short message", () => {
  it("is inflated, whatever its blocks", () => {
    const parts = fc.array(fc.tuple(fc.constantFrom("stored" as const, "fixed" as const), fc.oneof(text, bytes)))
    fc.assert(fc.property(parts, (parts) => {
      const whole = Buffer.concat(parts.map(([, data]) => data))
      fc.pre(whole.length <= 4096)
      assert.deepStrictEqual(inflateShort(blocks(...parts)), whole)
    }))
  })

  it("is inflated with every length and distance", () => {
    const random = Buffer.from(Array.from({ length: 3000 }, (_, n) => n * 7919 % 251 ^ n >> 3))
    for (let n = 0; n < 3000; n += 7) {
      const data = Buffer.concat([random.subarray(0, n + 3), random.subarray(0, 3 + n % 256)])
      assert.deepStrictEqual(inflateShort(deflated(data, { strategy: constants.Z_FIXED })), data)
    }
    for (let n = 0; n <= 600; n++) {
      const data = Buffer.alloc(n, "a")
      assert.deepStrictEqual(inflateShort(deflated(data, { strategy: constants.Z_FIXED })), data)
    }
  })

  it("as a browser sends it takes the short way", () => {
    const heartbeat = Buffer.from("[null,\"7\",\"phoenix\",\"heartbeat\",{}]")
    for (const level of [0, 1, 6, 9]) assert.deepStrictEqual(inflateShort(deflated(heartbeat, { level })), heartbeat)
  })

  it("is left to zlib with codes of its own, more than 4096 bytes, or an end of the stream", () => {
    const own = Buffer.from(Array.from({ length: 200 }, (_, n) => String(n * 7919 % 1009)).join(""))
    assert.strictEqual((deflated(own)[0] ?? 0) >> 1 & 3, 2)
    assert.isUndefined(inflateShort(deflated(own)))
    for (const options of [{ level: 0 }, { strategy: constants.Z_FIXED }]) {
      assert.isDefined(inflateShort(deflated(Buffer.alloc(4096), options)))
      assert.isUndefined(inflateShort(deflated(Buffer.alloc(4097), options)))
    }
    assert.isUndefined(inflateShort(deflateRawSync("the end")))
  })

  it("that is cut off or changed is never taken for another", () => {
    const change = fc.record({ at: fc.nat(), to: fc.nat(255), length: fc.nat() })
    const parts = fc.array(fc.tuple(fc.constantFrom("stored" as const, "fixed" as const), text), { minLength: 1 })
    fc.assert(
      fc.property(parts, change, fc.boolean(), (parts, { at, length, to }, cut) => {
        const data = blocks(...parts)
        if (!cut) data[at % data.length] = to
        const changed = cut ? data.subarray(0, length % data.length) : data
        const inflated = inflateShort(changed)
        if (inflated !== undefined) assert.deepStrictEqual(inflated, zlib(changed))
      }),
      { numRuns: 2000 }
    )
  })

  it("of arbitrary bytes is what zlib makes of it, or nothing", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }).map(Buffer.from), fc.constantFrom(undefined, 2), (data, header) => {
        if (header !== undefined && data.length > 0) data[0] = (data[0] ?? 0) & ~7 | header
        const inflated = inflateShort(data)
        if (inflated !== undefined) assert.deepStrictEqual(inflated, zlib(data))
      }),
      { numRuns: 5000 }
    )
  })
})
