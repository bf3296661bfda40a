import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Endpoint from "../../src/Endpoint.ts"
import { OptionError } from "../../src/internal/options.ts"
import { type GivenWireOptions, wireDefaults, wireOptionsOf } from "../../src/internal/wireOptions.ts"
import { start } from "../transport/polling.ts"
import { start as startServer } from "../transport/server.ts"

const nonsense: ReadonlyArray<unknown> = [NaN, -1, -Infinity, "5", "", null, {}, [], true, () => 1, 1n, Symbol("x")]

/** Returns the error that is thrown for the options. */
const fault = (given: Readonly<Record<string, unknown>>): OptionError => {
  try {
    wireOptionsOf("websocket", given as GivenWireOptions)
  } catch (error) {
    if (error instanceof OptionError) return error
    throw error
  }
  return assert.fail(`nothing is wrong with ${String(Object.keys(given))}`)
}

describe("the options of the wire", () => {
  for (const name of ["maxFrameSize", "maxBufferedBytes", "maxBacklogBytes", "maxTotalBacklogBytes"]) {
    it(`${name} is a whole number of bytes, or Infinity`, () => {
      for (const value of [...nonsense, 0, 1.5]) {
        const error = fault({ [name]: value })
        assert.strictEqual(error.option, `websocket: ${name}`)
        assert.match(error.message, /a whole number of bytes, at least/)
      }
      assert.isObject(wireOptionsOf("websocket", { [name]: 1_000_000_000 }))
      assert.isObject(wireOptionsOf("websocket", { [name]: Infinity }))
    })
  }

  for (const name of ["threshold", "maxMessageSize"]) {
    it(`compress.${name} is a whole number of bytes`, () => {
      for (const value of [...nonsense, 1.5]) {
        assert.strictEqual(fault({ compress: { [name]: value } }).option, `websocket: compress: ${name}`)
      }
    })
  }

  for (const name of ["timeout", "stallTimeout"]) {
    it(`${name} is a duration`, () => {
      for (const value of [NaN, -1, 0, "5", "", "0 seconds", true, null, () => 1]) {
        const error = fault({ [name]: value })
        assert.strictEqual(error.option, `websocket: ${name}`)
        assert.match(error.message, /a duration longer than nothing/)
      }
      for (const value of ["5 seconds", 5000, Infinity, "Infinity"]) {
        assert.isObject(wireOptionsOf("websocket", { [name]: value } as GivenWireOptions))
      }
    })
  }

  it("maxByteRate and compress.rate are rates, or false", () => {
    const wrong = [true, 5, null, "5", { perSecond: 1 }, { burst: 1 }, { perSecond: NaN, burst: 1 }, {
      perSecond: 0,
      burst: 1
    }]
    for (const value of wrong) {
      assert.match(fault({ maxByteRate: value }).option, /^websocket: maxByteRate/)
      assert.match(fault({ compress: { rate: value } }).option, /^websocket: compress: rate/)
    }
    assert.isUndefined(wireOptionsOf("websocket", { maxByteRate: false }).byteRate)
    assert.isUndefined(wireOptionsOf("websocket", { compress: { rate: false } }).inflateRate)
  })

  it("compress is true, false, or options", () => {
    for (const value of [1, null, "true", [], () => true]) {
      assert.strictEqual(fault({ compress: value }).option, "websocket: compress")
    }
    assert.isFalse(wireOptionsOf("websocket", {}).compress)
    assert.isTrue(wireOptionsOf("websocket", { compress: true }).compress)
    assert.isTrue(wireOptionsOf("websocket", { compress: {} }).compress)
  })

  it("maxBacklogBytes is at least maxBufferedBytes, and maxTotalBacklogBytes at least that", () => {
    assert.match(
      fault({ maxBufferedBytes: 1000, maxBacklogBytes: 999 }).message,
      /^websocket: maxBacklogBytes must be a whole number of bytes, at least 1000, or Infinity for no limit; it is 999$/
    )
    assert.strictEqual(
      fault({ maxBacklogBytes: 1e9, maxTotalBacklogBytes: 5e8 }).option,
      "websocket: maxTotalBacklogBytes"
    )
    const { maxBacklogBytes, maxTotalBacklogBytes } = wireOptionsOf("websocket", { maxBufferedBytes: 1e9 })
    assert.deepStrictEqual([maxBacklogBytes, maxTotalBacklogBytes], [1e9, 1e9])
  })

  it("have their defaults where they are undefined, and a compressed message is no larger than another", () => {
    const { compress, byteRate, stallTimeout, timeout, ...rest } = wireOptionsOf("websocket", {
      timeout: undefined,
      maxFrameSize: undefined
    })
    const { maxByteRate, path: _, stallTimeout: _stall, timeout: _timeout, ...defaults } = { path: "", ...wireDefaults }
    assert.deepStrictEqual(rest, defaults)
    assert.deepStrictEqual([compress, byteRate, stallTimeout, timeout], [false, maxByteRate, 30_000, 60_000])
    assert.strictEqual(wireOptionsOf("websocket", { maxFrameSize: 1000 }).maxMessageSize, 1000)
  })

  it.effect("are looked at when a socket is mounted", () =>
    Effect.gen(function*() {
      const optionOf = (effect: Effect.Effect<unknown, unknown, never>) =>
        effect.pipe(
          Effect.as("mounted"),
          Effect.catchDefect((defect) =>
            Effect.succeed(defect instanceof OptionError ? defect.option : String(defect))
          ),
          Effect.orDie
        )
      const websocket: Endpoint.WebSocketOptions = { maxFrameSize: Number(undefined) }
      assert.strictEqual(
        yield* optionOf(Effect.scoped(startServer([{ path: "/socket", websocket }]))),
        "socket user_socket: websocket: maxFrameSize"
      )
      for (const [name, value] of [["maxBody", NaN], ["maxBuffer", 0], ["maxByteRate", 5]] as const) {
        assert.strictEqual(
          (yield* optionOf(Effect.scoped(start({ [name]: value } as Endpoint.LongPollOptions)))).split(":").slice(0, 3)
            .join(":"),
          `socket user_socket: longpoll: ${name}`
        )
      }
    }))
})
