import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { once } from "node:events"
import { constants, deflateRawSync } from "node:zlib"
import * as ws from "ws"
import { deflateOptions } from "../../src/internal/inflate.ts"
import { type Reader, receiveAtOnce } from "../../src/internal/receiver.ts"

interface Deflate {
  readonly _inflate: unknown
  accept(offers: ReadonlyArray<object>): unknown
  cleanup(): void
}

interface Receiver {
  readonly writable: boolean
  on(event: "message", listener: (data: Buffer, isBinary: boolean) => void): this
  on(event: "ping" | "pong", listener: (data: Buffer) => void): this
  on(event: "conclude", listener: (code: number, reason: Buffer) => void): this
  on(event: "error", listener: (error: Error) => void): this
  write(data: Buffer): boolean
  end(): void
}

const { PerMessageDeflate, Receiver } = ws as unknown as {
  readonly PerMessageDeflate: new(options: object) => Deflate
  readonly Receiver: new(options: object) => Receiver & NodeJS.EventEmitter
}

interface Options {
  readonly atOnce?: boolean
  /** Parts of the reader, where it is not to inflate whatever comes. */
  readonly reader?: Partial<Reader>
  readonly maxPayload?: number
  readonly compress?: boolean
}

/** A reader that may inflate whatever comes. */
const unlimited = {
  hasReadFrame: () => {},
  maxInflated: Infinity,
  untilInflate: 0,
  isTurnTaken: false,
  takeTurn: () => {},
  hasInflated: () => {},
  tooLarge: () => {},
  later: () => assert.fail("there is nothing to wait for"),
  gone: false
}

/** What reads the frames of a connection, as a server has it, what has come of them, and what of that at once. */
const connected = ({ atOnce = true, compress = true, maxPayload = 100_000, reader: own = {} }: Options = {}) => {
  const deflate = new PerMessageDeflate({ ...deflateOptions, isServer: true, maxPayload })
  deflate.accept([{}])
  const extensions = compress ? { "permessage-deflate": deflate } : {}
  const receiver = new Receiver({ isServer: true, maxPayload, extensions })
  const got: Array<string> = []
  const early: Array<string> = []
  const received = (frame: string | Uint8Array, length: number, list = got): void => {
    list.push(`${length} ${typeof frame === "string" ? frame : `0x${Buffer.from(frame).toString("hex")}`}`)
  }
  if (atOnce) {
    const reader: Reader = {
      ...unlimited,
      ...own,
      received: (frame: string | Uint8Array, length: number) => {
        received(frame, length)
        received(frame, length, early)
      }
    }
    receiveAtOnce({ _receiver: receiver }, reader)
  }
  receiver.on("message", (data, isBinary) => received(isBinary ? data : data.toString(), data.length))
  receiver.on("ping", (data) => void got.push(`ping ${data.toString("hex")}`))
  receiver.on("pong", (data) => void got.push(`pong ${data.toString("hex")}`))
  receiver.on("conclude", (code, reason) => void got.push(`close ${code} ${reason.toString("hex")}`))
  receiver.on("error", (error) => void got.push(`${error.name}: ${error.message}`))
  return { deflate, receiver, got, early }
}

const packed = (data: string | Uint8Array, strategy: number = constants.Z_DEFAULT_STRATEGY) =>
  deflateRawSync(data, { finishFlush: constants.Z_SYNC_FLUSH, strategy }).subarray(0, -4)

interface FrameOptions {
  readonly opcode?: number
  /** The three bits for extensions: 4 says that it is compressed. */
  readonly rsv?: number
  readonly fin?: boolean
  /** Undefined for a frame without one. */
  readonly mask?: ReadonlyArray<number> | undefined
}

/** A frame of a client. */
const frame = (data: string | Uint8Array, options: FrameOptions = {}): Buffer => {
  const { fin = true, opcode = 1, rsv = 0 } = options
  const mask = "mask" in options ? options.mask : [1, 0x80, 3, 0xff]
  const payload = Buffer.from(data)
  const short = payload.length < 126 ? payload.length : payload.length < 65_536 ? 126 : 127
  const length = Buffer.alloc(short < 126 ? 0 : short === 126 ? 2 : 8)
  if (short === 126) length.writeUInt16BE(payload.length)
  if (short === 127) length.writeBigUInt64BE(BigInt(payload.length))
  return Buffer.concat([
    Buffer.of((fin ? 0x80 : 0) | rsv << 4 | opcode, (mask === undefined ? 0 : 0x80) | short),
    length,
    Buffer.from(mask ?? []),
    mask === undefined ? payload : payload.map((byte, at) => byte ^ (mask[at % 4] ?? 0))
  ])
}

const compressed = (data: string | Uint8Array, options?: FrameOptions & { readonly strategy?: number }): Buffer =>
  frame(packed(data, options?.strategy), { ...options, rsv: 4 })

/** Has what it is sent read to the end. */
const read = async ({ deflate, got, receiver }: ReturnType<typeof connected>, ...chunks: ReadonlyArray<Buffer>) => {
  const closed = once(receiver, "close").catch(() => {})
  for (const chunk of chunks) {
    if (!receiver.writable) break
    receiver.write(Buffer.from(chunk))
  }
  receiver.end()
  await closed
  deflate.cleanup()
  return got
}

/** What comes of these bytes in one chunk, by the reader that `ws` has. */
const byWs = (options: Options, ...frames: ReadonlyArray<Buffer>) =>
  read(connected({ ...options, atOnce: false }), Buffer.concat(frames))

const large = Array.from({ length: 3000 }, (_, n) => String(n * 7919 % 1009)).join("")

describe("receiving", () => {
  it("takes short messages before the call has returned, and without zlib's threads", () => {
    const { deflate, early, got, receiver } = connected()
    const returned = receiver.write(Buffer.concat([
      frame("hello"),
      frame(""),
      frame("schöne Grüße"),
      frame(Buffer.of(1, 255), { opcode: 2 }),
      frame("x".repeat(1024)),
      compressed("hello"),
      compressed(Buffer.of(1, 255), { opcode: 2 }),
      compressed("a".repeat(5000)),
      compressed("")
    ]))
    assert.isTrue(returned)
    assert.deepStrictEqual(got, [
      "5 hello",
      "0 ",
      "15 schöne Grüße",
      "2 0x01ff",
      `1024 ${"x".repeat(1024)}`,
      "5 hello",
      "2 0x01ff",
      `5000 ${"a".repeat(5000)}`,
      "0 "
    ])
    assert.deepStrictEqual(early, got)
    assert.isNull(deflate._inflate ?? null)
    deflate.cleanup()
  })

  it("leaves to ws what is long, what comes in parts or chunks, and what is no message", async () => {
    const connection = connected()
    const cut = frame("cut")
    const whole = packed("in two parts")
    const got = await read(
      connection,
      Buffer.concat([frame("1"), frame("y".repeat(1025)), frame("2")]),
      Buffer.concat([frame("3"), cut.subarray(0, 7)]),
      Buffer.concat([cut.subarray(7), frame("4")]),
      frame("5"),
      Buffer.concat([frame("in p", { fin: false }), frame("now", { opcode: 9 }), frame("arts", { opcode: 0 })]),
      frame("6"),
      compressed(large),
      compressed("b".repeat(50_000)),
      frame(whole.subarray(0, 5), { fin: false, rsv: 4 }),
      frame(whole.subarray(5), { opcode: 0 }),
      Buffer.concat([frame("7"), frame(Buffer.of(3, 232), { opcode: 8 }), frame("not any more")]),
      frame("nor this")
    )
    assert.deepStrictEqual(got, [
      "1 1",
      `1025 ${"y".repeat(1025)}`,
      "1 2",
      "1 3",
      "3 cut",
      "1 4",
      "1 5",
      `ping ${Buffer.from("now").toString("hex")}`,
      "8 in parts",
      "1 6",
      `${large.length} ${large}`,
      `50000 ${"b".repeat(50_000)}`,
      "12 in two parts",
      "1 7",
      "close 1000 "
    ])
    assert.deepStrictEqual(connection.early, ["1 1", "1 3", "1 5", "1 6", "1 7"])
  })

  it("is an error for what is too long, cannot be inflated, or is no text", async () => {
    const errorOf = async (data: Buffer, options?: Options) => (await read(connected(options), data))[0]
    assert.strictEqual(
      await errorOf(frame("d".repeat(20)), { maxPayload: 19 }),
      "RangeError: Max payload size exceeded"
    )
    assert.strictEqual(await errorOf(frame("d".repeat(20)), { maxPayload: 20 }), `20 ${"d".repeat(20)}`)
    assert.strictEqual(await errorOf(frame("d".repeat(20)), { maxPayload: 0 }), `20 ${"d".repeat(20)}`)
    assert.strictEqual(await errorOf(compressed("c".repeat(200_000))), "RangeError: Max payload size exceeded")
    assert.strictEqual(
      await errorOf(compressed("d".repeat(20)), { maxPayload: 19 }),
      "RangeError: Max payload size exceeded"
    )
    assert.strictEqual(await errorOf(compressed("d".repeat(20)), { maxPayload: 20 }), `20 ${"d".repeat(20)}`)
    assert.match(await errorOf(frame("this is not compressed", { rsv: 4 })) ?? "", /^Error: invalid/)
    const noText = "Error: Invalid WebSocket frame: invalid UTF-8 sequence"
    assert.strictEqual(await errorOf(frame(Buffer.of(0x61, 0xff))), noText)
    assert.strictEqual(await errorOf(compressed(Buffer.of(0xff, 0xff))), noText)
    assert.strictEqual(
      await errorOf(compressed("hello"), { compress: false }),
      "RangeError: Invalid WebSocket frame: RSV1 must be clear"
    )
    assert.strictEqual(
      await errorOf(frame("hello", { mask: undefined })),
      "RangeError: Invalid WebSocket frame: MASK must be set"
    )
  })

  it("ends with an error, also where chunks after it have waited for what was inflated before it", async () => {
    const slow = compressed(large)
    /** A connection whose first compressed message waits until all chunks are there. */
    const waiting = (options?: Options) => {
      const connection = connected(options)
      const { reader } = connection.receiver as unknown as { reader: Reader }
      const later: Reader["later"] = (_, go) =>
        void setImmediate(() => {
          Object.assign(reader, { untilInflate: 0 })
          go()
        })
      Object.assign(reader, { untilInflate: 1, later })
      return connection
    }
    assert.deepStrictEqual(
      await read(waiting(), slow, frame(Buffer.of(0xff)), Buffer.of(1, 2, 3)),
      [`${large.length} ${large}`, "Error: Invalid WebSocket frame: invalid UTF-8 sequence"]
    )
    const many = "e".repeat(4465)
    const mask = [0, 0, 0, 0]
    const [first, second] = [frame(many, { fin: false, mask }), frame("e".repeat(65_535), { opcode: 0, mask })]
    assert.deepStrictEqual(
      await read(
        waiting({ maxPayload: 40_000 }),
        slow,
        Buffer.concat([first, second.subarray(0, 4)]),
        second.subarray(4)
      ),
      [`${large.length} ${large}`, "RangeError: Max payload size exceeded"]
    )
  })

  it("is what ws does by itself, whatever comes in whatever chunks", async () => {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: "binary", maxLength: 300 }),
      fc.constantFrom(large, "d".repeat(30_000), "e".repeat(70_000), "f".repeat(1025))
    )
    const data = fc.oneof({ weight: 4, arbitrary: text }, fc.uint8Array({ maxLength: 300 }))
    const mask = fc.oneof(
      fc.array(fc.nat(255), { minLength: 4, maxLength: 4 }),
      fc.constant([0, 0, 0, 0])
    )
    const kind = fc.record({ opcode: fc.constantFrom(1, 1, 1, 2), mask })
    const strategy = fc.constantFrom(constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED)
    const message = fc.oneof(
      { weight: 4, arbitrary: fc.tuple(data, kind).map(([data, kind]) => frame(data, kind)) },
      {
        weight: 4,
        arbitrary: fc.tuple(data, kind, strategy).map(([data, kind, strategy]) =>
          compressed(data, { ...kind, strategy })
        )
      },
      fc.tuple(data, kind, fc.nat(), fc.boolean()).map(([data, kind, cut, deflated]) => {
        const whole = deflated ? packed(data) : Buffer.from(data)
        const at = cut % (whole.length + 1)
        return Buffer.concat([
          frame(whole.subarray(0, at), { ...kind, fin: false, rsv: deflated ? 4 : 0 }),
          frame(whole.subarray(at), { ...kind, opcode: 0 })
        ])
      }),
      fc.tuple(fc.uint8Array({ maxLength: 125 }), fc.constantFrom(9, 10)).map(([data, opcode]) =>
        frame(data, { opcode })
      )
    )
    const broken = fc.record({
      opcode: fc.nat(15),
      rsv: fc.nat(7),
      fin: fc.boolean(),
      mask: fc.option(mask, { nil: undefined })
    })
    const last = fc.oneof(
      fc.tuple(fc.uint8Array({ maxLength: 300 }), broken).map(([data, { fin, ...broken }]) =>
        // The parts of a compressed message are inflated when they are all there; ws finds out earlier that one is no deflate.
        frame(data, { ...broken, fin: fin || (broken.rsv & 4) !== 0 })
      ),
      fc.uint8Array({ maxLength: 20 }).map((data) => Buffer.from(data))
    )
    const stream = fc.record({
      messages: fc.array(message, { maxLength: 8 }),
      last: fc.option(last, { nil: Buffer.of() }),
      cuts: fc.array(fc.nat(), { maxLength: 2 }),
      compress: fc.boolean(),
      maxPayload: fc.constantFrom(0, 20, 1000, 40_000, 100_000)
    })
    let early = 0
    await fc.assert(
      fc.asyncProperty(stream, async ({ compress, cuts, last, maxPayload, messages }) => {
        const options = { compress, maxPayload }
        const all = [...messages, last]
        const bytes = Buffer.concat(all)
        const places = cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b)
        const chunks = [0, ...places].map((from, index) => bytes.subarray(from, places[index]))
        const own = connected(options)
        const got = await read(own, ...chunks)
        assert.deepStrictEqual(got, await byWs(options, ...all))
        early += own.early.length
      }),
      { numRuns: 1000 }
    )
    assert.isAbove(early, 100)
  })

  it("is an error where a message is inflated to more than it may, short or not", async () => {
    for (const [maxInflated, bytes] of [[100, 100], [20_000, 20_000], [20_000, 20_001], [100, 101]] as const) {
      let told = 0
      const reader = { maxInflated, tooLarge: () => void told++ }
      const got = await read(connected({ reader }), compressed("a".repeat(bytes)), compressed("b"))
      if (bytes <= maxInflated) assert.deepStrictEqual([got.length, told], [2, 0])
      else assert.deepStrictEqual([got, told], [["RangeError: Max payload size exceeded"], 1])
    }
  })

  it("waits with what is compressed, and all that comes behind it, until it may be inflated", async () => {
    const waits: Array<() => void> = []
    let untilInflate = 0
    const inflated: Array<number> = []
    const reader: Partial<Reader> = {
      get untilInflate() {
        return untilInflate
      },
      hasInflated: (length) => {
        inflated.push(length)
        untilInflate = 5
      },
      later: (millis, go) => {
        assert.strictEqual(millis, 5)
        waits.push(go)
      }
    }
    // Its getter is not copied.
    const connection = connected()
    const { reader: plain } = connection.receiver as unknown as { reader: Reader }
    Object.defineProperties(plain, Object.getOwnPropertyDescriptors(reader))
    connection.receiver.write(
      Buffer.concat([compressed("1"), compressed("2"), frame("3"), compressed(large), frame("5")])
    )
    const { got } = connection
    assert.deepStrictEqual(got, ["1 1"])
    for (const expected of [["1 2", "1 3"], [`${large.length} ${large}`, "1 5"]]) {
      assert.lengthOf(waits, 1)
      got.length = 0
      untilInflate = 0
      waits.shift()?.()
      assert.deepStrictEqual(got, expected)
    }
    assert.deepStrictEqual(inflated, [1, 1, large.length])
    connection.receiver.end()
    connection.deflate.cleanup()
  })

  it("is over for what waits to be inflated when nobody is there any more", async () => {
    const waits: Array<() => void> = []
    const reader = { untilInflate: 5, gone: true, later: (_: number, go: () => void) => void waits.push(go) }
    const connection = connected({ reader })
    const closed = once(connection.receiver, "close").catch(() => {})
    connection.receiver.write(compressed("1"))
    connection.receiver.end()
    waits.shift()?.()
    await closed
    assert.deepStrictEqual([connection.got, waits], [["Error: the connection is gone"], []])
    connection.deflate.cleanup()
  })

  it("is an error where the parts of a message keep more than they are: what comes between them", async () => {
    const between = Buffer.concat(Array.from({ length: 500 }, () => frame("x".repeat(125), { opcode: 10 })))
    for (const rsv of [0, 4]) {
      const parts = (count: number) => [
        frame("x", { fin: false, rsv }),
        ...Array.from({ length: count }, () => Buffer.concat([between, frame("x", { fin: false, opcode: 0 })]))
      ]
      // Two messages as large as may be, and a million bytes.
      const few = Math.floor(1_200_000 / between.length) - 1
      const errors = (got: ReadonlyArray<string>) => got.filter((line) => !line.startsWith("pong"))
      assert.deepStrictEqual(errors(await read(connected(), ...parts(few))), [])
      assert.deepStrictEqual(errors(await read(connected(), ...parts(few + 3))), [
        "RangeError: Max payload size exceeded"
      ])
    }
  })

  it("is left alone where ws is made otherwise", () => {
    for (const connection of [{}, { _receiver: undefined }, { _receiver: { write: () => true } }]) {
      const before = JSON.stringify(connection)
      receiveAtOnce(connection, { ...unlimited, received: () => {} })
      assert.strictEqual(JSON.stringify(connection), before)
      assert.notProperty(connection._receiver ?? {}, "reader")
    }
  })
})
