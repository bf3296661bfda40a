import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { constants, deflateRawSync } from "node:zlib"
import * as ws from "ws"
import { deflateOptions, inflateAtOnce } from "../../src/internal/inflate.ts"

interface Deflate {
  readonly _inflate: unknown
  accept(offers: ReadonlyArray<object>): unknown
  cleanup(): void
}

interface Receiver {
  on(event: "message", listener: (data: Buffer, isBinary: boolean) => void): this
  on(event: "error" | "drain", listener: (error?: Error) => void): this
  write(data: Buffer, done?: () => void): boolean
}

const { PerMessageDeflate, Receiver } = ws as unknown as {
  readonly PerMessageDeflate: new(options: object) => Deflate
  readonly Receiver: new(options: object) => Receiver
}

/** What reads the frames of a connection, as a server has it, and what it has brought. */
const connected = (atOnce = true, maxPayload = 100_000) => {
  const deflate = new PerMessageDeflate({ ...deflateOptions, isServer: true, maxPayload })
  deflate.accept([{}])
  const receiver = new Receiver({ isServer: true, maxPayload, extensions: { "permessage-deflate": deflate } })
  if (atOnce) inflateAtOnce({ _receiver: receiver })
  const got: Array<string> = []
  const end = (error: Error | undefined) => void got.push(`${error?.name}: ${error?.message}`)
  receiver.on("message", (data, isBinary) => void got.push(isBinary ? data.toString("hex") : data.toString()))
  receiver.on("error", end)
  return { deflate, receiver, got }
}

const packed = (data: string | Uint8Array, strategy: number = constants.Z_DEFAULT_STRATEGY) =>
  deflateRawSync(data, { finishFlush: constants.Z_SYNC_FLUSH, strategy }).subarray(0, -4)

/** A frame of a client, with a mask that changes nothing. */
const frame = (data: Uint8Array, { opcode = 1, compressed = true, fin = true } = {}): Buffer => {
  const header = Buffer.alloc(data.length < 126 ? 6 : 8)
  header[0] = (fin ? 0x80 : 0) | (compressed ? 0x40 : 0) | opcode
  header[1] = 0x80 | Math.min(data.length, 126)
  if (data.length >= 126) header.writeUInt16BE(data.length, 2)
  return Buffer.concat([header, data])
}

const large = Array.from({ length: 3000 }, (_, n) => String(n * 7919 % 1009)).join("")

/** Writes, and waits until all of it is done with. */
const written = ({ got, receiver }: ReturnType<typeof connected>, ...frames: ReadonlyArray<Buffer>) =>
  new Promise<ReadonlyArray<string>>((resolve) => {
    receiver.on("error", () => resolve(got))
    receiver.write(Buffer.concat(frames), () => resolve(got))
  })

describe("inflating", () => {
  it("takes small messages without zlib's threads, before the call has returned", () => {
    const { deflate, got, receiver } = connected()
    receiver.write(Buffer.concat([
      frame(packed("hello")),
      frame(packed(Buffer.of(1, 255)), { opcode: 2 }),
      frame(Buffer.from("as it is"), { compressed: false }),
      frame(packed("a".repeat(5000))),
      frame(packed(""))
    ]))
    assert.deepStrictEqual(got, ["hello", "01ff", "as it is", "a".repeat(5000), ""])
    assert.isNull(deflate._inflate ?? null)
    deflate.cleanup()
  })

  it("leaves to them what is large, what becomes large, and what comes in parts", async () => {
    const connection = connected()
    const whole = packed("in two parts")
    assert.isAbove(packed(large).length, 1024)
    const got = await written(
      connection,
      frame(packed(large)),
      frame(packed("b".repeat(50_000))),
      frame(whole.subarray(0, 5), { fin: false }),
      frame(whole.subarray(5), { opcode: 0, compressed: false }),
      frame(packed("and on"))
    )
    assert.deepStrictEqual(got, [large, "b".repeat(50_000), "in two parts", "and on"])
    assert.isNotNull(connection.deflate._inflate ?? null)
    connection.deflate.cleanup()
  })

  it("is an error for what is too large, cannot be inflated, or is no text", async () => {
    const errorOf = async (data: Buffer, maxPayload?: number) => {
      const connection = connected(true, maxPayload)
      const [got] = await written(connection, frame(data))
      connection.deflate.cleanup()
      return got
    }
    assert.strictEqual(await errorOf(packed("c".repeat(200_000))), "RangeError: Max payload size exceeded")
    assert.strictEqual(await errorOf(packed("d".repeat(20)), 19), "RangeError: Max payload size exceeded")
    assert.strictEqual(await errorOf(packed("d".repeat(20)), 20), "d".repeat(20))
    assert.match((await errorOf(Buffer.from("this is not compressed"))) ?? "", /^Error: invalid/)
    assert.strictEqual(
      await errorOf(packed(Buffer.of(0xff, 0xff))),
      "Error: Invalid WebSocket frame: invalid UTF-8 sequence"
    )
  })

  it("is what ws does by itself, whatever comes", async () => {
    const text = fc.oneof(fc.string(), fc.constant(large), fc.constant("d".repeat(30_000)))
    const strategy = fc.constantFrom(constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED)
    const message = fc.oneof(
      fc.tuple(text, strategy).map(([text, strategy]) => frame(packed(text, strategy))),
      fc.tuple(text, fc.nat()).map(([text, cut]) => {
        const whole = packed(text)
        const at = cut % (whole.length + 1)
        return Buffer.concat([
          frame(whole.subarray(0, at), { fin: false }),
          frame(whole.subarray(at), { opcode: 0, compressed: false })
        ])
      }),
      fc.uint8Array({ maxLength: 300 }).map((data) => frame(data)),
      fc.uint8Array({ maxLength: 300 }).map((data) => frame(data, { opcode: 2, compressed: false }))
    )
    await fc.assert(fc.asyncProperty(fc.array(message, { maxLength: 8 }), async (messages) => {
      const [own, theirs] = [connected(), connected(false)]
      assert.deepStrictEqual(await written(own, ...messages), await written(theirs, ...messages))
      own.deflate.cleanup()
      theirs.deflate.cleanup()
    }))
  })

  it("is left alone where ws is made otherwise", () => {
    for (const connection of [{}, { _receiver: undefined }, { _receiver: { decompress: () => {} } }]) {
      const before = structuredClone(Object.keys(connection))
      inflateAtOnce(connection)
      assert.deepStrictEqual(Object.keys(connection), before)
    }
  })
})
