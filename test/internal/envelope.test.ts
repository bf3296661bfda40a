import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { channelName } from "../../src/internal/channelName.ts"
import { decode, encode, type Envelope, Unreadable } from "../../src/internal/envelope.ts"

const envelope = (message: unknown, more: Partial<Envelope> = {}): Envelope => ({
  node: "a",
  incarnation: "a-1",
  topic: "room:1",
  message,
  trace: undefined,
  ...more
})

const roundTrip = (message: unknown): unknown => {
  const decoded = decode(encode(envelope(message)))
  return decoded instanceof Unreadable ? assert.fail("unreadable") : decoded.message
}

const bytes = (...values: ReadonlyArray<number>) => new Uint8Array(values)

describe("an envelope", () => {
  it.prop(
    "carries whatever JSON can say",
    { message: Schema.Json, topic: Schema.String },
    ({ message, topic }) => {
      const decoded = decode(encode(envelope(message, { topic })))
      assert.deepStrictEqual(decoded, envelope(JSON.parse(JSON.stringify(message)), { topic }))
    }
  )

  it("carries binary data as what it is, wherever it is", () => {
    const message = [bytes(1, 2), null, { "a.b": { "": bytes() }, list: [null, bytes(3), "x"] }]
    assert.deepStrictEqual(roundTrip(message), message)
    assert.deepStrictEqual(roundTrip(bytes(0, 255)), bytes(0, 255))
    const dangerous = JSON.parse("{\"__proto__\":{},\"constructor\":null}")
    Reflect.defineProperty(dangerous, "__proto__", { value: { inner: bytes(9) }, enumerable: true })
    const received = roundTrip(dangerous)
    assert.deepStrictEqual(Object.entries(Object(received)), [["__proto__", { inner: bytes(9) }], [
      "constructor",
      null
    ]])
    assert.strictEqual(Object.getPrototypeOf(received), Object.prototype)
  })

  it("makes a Uint8Array of a Buffer, of what toJSON returns too, and keeps nothing of the data it came in", () => {
    const received = roundTrip({ buffer: Buffer.from("hi"), custom: { toJSON: () => [Buffer.from("ho")] } })
    assert.deepStrictEqual(received, { buffer: bytes(104, 105), custom: [bytes(104, 111)] })
    const data = encode(envelope(bytes(1)))
    const decoded = decode(data)
    data.fill(0)
    assert.deepStrictEqual(decoded instanceof Unreadable ? undefined : decoded.message, bytes(1))
  })

  it("carries the trace", () => {
    assert.propertyVal(decode(encode(envelope(1, { trace: "00-a-b-01" }))), "trace", "00-a-b-01")
  })

  it("says what JSON cannot say to who sends it", () => {
    const circle: Array<unknown> = []
    circle.push(circle)
    assert.throws(() => encode(envelope(circle)))
    assert.throws(() => encode(envelope(1n)), TypeError)
  })

  it("is not read where another version or something else is meant, nor where it is cut short or longer", () => {
    const data = encode(envelope({ a: bytes(1, 2, 3) }))
    assert.deepStrictEqual(decode(Buffer.from(data).fill(9, 3, 4)), new Unreadable(9))
    for (let length = 0; length < data.length; length++) {
      assert.deepStrictEqual(decode(data.subarray(0, length)), new Unreadable(), `${length}`)
    }
    assert.deepStrictEqual(decode(Buffer.concat([data, bytes(0)])), new Unreadable())
  })

  it("is never a reason to throw, whichever byte is damaged", () => {
    const data = encode(envelope({ a: bytes(1), b: [null] }))
    for (let index = 0; index < data.length; index++) {
      for (const value of [0, 34, 91, 93, 128, 255]) decode(Buffer.from(data).fill(value, index, index + 1))
    }
  })
})

describe("the name of a channel", () => {
  it.prop("is one word of harmless characters, not long", { topic: Schema.String }, ({ topic }) => {
    assert.match(channelName(topic), /^([\w:%-]+|#[0-9a-f]{64})$/)
    assert.isAtMost(channelName(topic).length, 200)
  })

  it("keeps usual topics readable", () => {
    assert.strictEqual(channelName("room:lobby-1_a"), "room:lobby-1_a")
    assert.strictEqual(channelName("a.b *>~!'()/"), "a%2Eb%20%2A%3E%7E%21%27%28%29%2F")
  })

  it("is another for every topic", () => {
    const topics = [
      "",
      " ",
      "%20",
      "%2520",
      "#",
      "*",
      ".",
      "\ud800",
      "\udc00",
      "\ufffd",
      "x".repeat(201),
      "x".repeat(202)
    ]
    assert.strictEqual(new Set(topics.map(channelName)).size, topics.length)
  })
})
