import { assert, describe, it } from "@effect/vitest"
import { deflateRawSync } from "node:zlib"
import * as ws from "ws"
import { deflateOptions, inflateAtOnce } from "../../src/internal/inflate.ts"

interface Deflate {
  readonly _inflate: unknown
  accept(offers: ReadonlyArray<object>): unknown
  decompress(data: Buffer, fin: boolean, done: (error: Error | null, data?: Buffer) => void): void
  cleanup(): void
}

const { PerMessageDeflate, WebSocket } = ws as unknown as {
  readonly PerMessageDeflate: new(options: object) => Deflate
  readonly WebSocket: new(address: null, protocols: undefined, options: object) => object
}

/** The extension of a connection, as a server has it. */
const connected = (): Deflate => {
  const deflate = new PerMessageDeflate({ ...deflateOptions, isServer: true, maxPayload: 100_000 })
  deflate.accept([{}])
  const connection = new WebSocket(null, undefined, {})
  assert.property(connection, "_extensions")
  Object.assign(connection, { _extensions: { "permessage-deflate": deflate } })
  inflateAtOnce(connection)
  return deflate
}

const packed = (text: string) => deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4)

const inflated = (deflate: Deflate, data: Buffer, fin = true) =>
  new Promise<string>((resolve, reject) =>
    deflate.decompress(data, fin, (error, data) => error === null ? resolve(String(data)) : reject(error))
  )

describe("inflating", () => {
  it("takes a small message without zlib's threads, and not before the call has returned", async () => {
    const deflate = connected()
    let called = false
    deflate.decompress(packed("hello"), true, () => called = true)
    assert.isFalse(called)
    await Promise.resolve()
    assert.isTrue(called)
    assert.strictEqual(await inflated(deflate, packed("a".repeat(5000))), "a".repeat(5000))
    assert.isNull(deflate._inflate)
    deflate.cleanup()
  })

  it("leaves to them what is large, what becomes large, what comes in parts, and what is too large", async () => {
    const deflate = connected()
    const random = Array.from({ length: 3000 }, (_, n) => String(n * 7919 % 1009)).join("")
    assert.isAbove(packed(random).length, 1024)
    assert.strictEqual(await inflated(deflate, packed(random)), random)
    assert.isNotNull(deflate._inflate)
    assert.strictEqual(await inflated(deflate, packed("b".repeat(50_000))), "b".repeat(50_000))
    const whole = packed("in two parts")
    const start = await inflated(deflate, whole.subarray(0, 5), false)
    assert.strictEqual(start + await inflated(deflate, whole.subarray(5)), "in two parts")
    assert.strictEqual(await inflated(deflate, packed("and on")), "and on")
    const error = await inflated(deflate, packed("c".repeat(200_000))).catch((error: unknown) => error)
    assert.include(String(error), "Max payload size exceeded")
    deflate.cleanup()
  })

  it("is an error for what cannot be inflated", async () => {
    const deflate = connected()
    const error = await inflated(deflate, Buffer.from("this is not compressed")).catch((error: unknown) => error)
    assert.instanceOf(error, Error)
    deflate.cleanup()
  })
})
