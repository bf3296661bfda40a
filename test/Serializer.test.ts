import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import * as fc from "fast-check"
import { createRequire } from "node:module"
import { broadcast, type Inbound, message, reply } from "../src/Message.ts"
import {
  DecodeError,
  defaults,
  EncodeError,
  type Frame,
  negotiate,
  type Serializer,
  v1,
  v2
} from "../src/Serializer.ts"

interface ClientMessage {
  readonly join_ref: string | null
  readonly ref: string | null
  readonly topic: string
  readonly event: string
  readonly payload: unknown
}

/** The serializer inside phoenix.js, which comes without types. */
const phoenixJs: {
  readonly encode: (message: ClientMessage, callback: (frame: string | ArrayBuffer) => void) => void
  readonly decode: (frame: string | ArrayBuffer, callback: (message: ClientMessage) => void) => void
} = createRequire(import.meta.url)("phoenix").Serializer

const many = { numRuns: 2_000 }

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

const bytes = (...parts: ReadonlyArray<number | string | Uint8Array>): Uint8Array =>
  new Uint8Array(
    Buffer.concat(
      parts.map((part) => typeof part === "number" ? Uint8Array.of(part) : typeof part === "string" ? utf8(part) : part)
    )
  )

/** A binary frame as a client writes it. */
const clientPush = (joinRef: string, ref: string, topic: string, event: string, data: Uint8Array): Uint8Array => {
  const fields = [joinRef, ref, topic, event].map(utf8)
  return bytes(0, ...fields.map((field) => field.length), ...fields, data)
}

/** Reads a binary frame of the server: the first byte says how many fields there are. */
const serverFrame = (frame: Uint8Array) => {
  const [kind = -1] = frame
  const count = [3, 4, 2][kind] ?? 0
  let offset = 1 + count
  const fields = [...frame.subarray(1, offset)].map((length) => {
    offset += length
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(frame.subarray(offset - length, offset))
  })
  return { kind, fields, data: frame.slice(offset) }
}

const frameOf = (result: Result.Result<Frame, EncodeError>): Frame => Result.getOrThrow(result)

const text = (result: Result.Result<Frame, EncodeError>): string => {
  const frame = frameOf(result)
  if (typeof frame !== "string") return assert.fail("a text frame was expected")
  return frame
}

const binary = (result: Result.Result<Frame, EncodeError>): Uint8Array => {
  const frame = frameOf(result)
  if (typeof frame === "string") return assert.fail("a binary frame was expected")
  return frame
}

const inbound = (result: Result.Result<Inbound, DecodeError>): Inbound => Result.getOrThrow(result)

const codeOf = <A, Code>(result: Result.Result<A, { readonly code: Code }>): Code | undefined =>
  Result.isFailure(result) ? result.failure.code : undefined

const json: fc.Arbitrary<unknown> = fc.json().map((source): unknown => JSON.parse(source))
const object = fc.dictionary(fc.string({ unit: "binary" }), json).map((value): unknown =>
  JSON.parse(JSON.stringify(value))
)
const word = fc.string({ unit: "binary", maxLength: 63 })
const data = fc.uint8Array({ maxLength: 300 })
const both = [v1, v2] as const

describe("V1", () => {
  it("writes a reply as an object without join_ref", () => {
    assert.strictEqual(
      text(v1.encode(reply("1", "1", "t", "ok", {}))),
      "{\"topic\":\"t\",\"event\":\"phx_reply\",\"ref\":\"1\",\"payload\":{\"status\":\"ok\",\"response\":{}}}"
    )
  })

  it("writes a push and a broadcast with ref null and without join_ref", () => {
    const frame = "{\"topic\":\"t\",\"event\":\"e\",\"ref\":null,\"payload\":{\"m\":1}}"
    assert.strictEqual(text(v1.encode(message("1", null, "t", "e", { m: 1 }))), frame)
    assert.strictEqual(text(v1.encode(message("1", undefined, "t", "e", { m: 1 }))), frame)
    assert.strictEqual(text(v1.fastlane(broadcast("t", "e", { m: 1 }))), frame)
  })

  it("carries payloads that are no objects", () => {
    for (const payload of ["payload", 1, null, true, [1, 2]]) {
      for (
        const result of [v1.encode(message(null, null, "t", "e", payload)), v1.fastlane(broadcast("t", "e", payload))]
      ) {
        assert.deepStrictEqual(inbound(v1.decode(text(result), "text")).payload, payload)
      }
    }
  })

  it("reads topic, event, payload, ref and an optional join_ref, and ignores other keys", () => {
    const expected = { joinRef: null, ref: null, topic: "t", event: "e", payload: "any" }
    const frame = { topic: "t", event: "e", payload: "any", ref: null, extra: 1 }
    assert.deepStrictEqual(inbound(v1.decode(JSON.stringify(frame), "text")), expected)
    assert.deepStrictEqual(inbound(v1.decode(JSON.stringify({ ...frame, join_ref: 3 }), "text")), {
      ...expected,
      joinRef: 3
    })
  })

  it("reads a binary frame that holds JSON", () => {
    const frame = utf8("{\"topic\":\"tëst\",\"event\":\"e\",\"payload\":{},\"ref\":\"1\"}")
    assert.strictEqual(inbound(v1.decode(frame, "binary")).topic, "tëst")
    assert.strictEqual(inbound(v1.decode(frame, "text")).topic, "tëst")
  })

  it("refuses JSON that is no object and objects that lack a key", () => {
    for (const frame of ["[]", "null", "1", "\"x\"", "[null,null,\"t\",\"e\",{}]"]) {
      assert.strictEqual(codeOf(v1.decode(frame, "text")), "invalid_message")
    }
    const frame = { topic: "t", event: "e", payload: {}, ref: "1" }
    for (const key of Object.keys(frame)) {
      assert.strictEqual(codeOf(v1.decode(JSON.stringify({ ...frame, [key]: undefined }), "text")), "invalid_message")
      assert.isTrue(Result.isSuccess(v1.decode(JSON.stringify({ ...frame, [key]: null }), "text")))
    }
  })

  it("does not take the keys of __proto__ for its own", () => {
    const frame = "{\"__proto__\":{\"topic\":\"t\",\"event\":\"e\",\"payload\":{},\"ref\":\"1\"}}"
    assert.strictEqual(codeOf(v1.decode(frame, "text")), "invalid_message")
  })

  it("refuses binary payloads, because it has no frame for them", () => {
    for (const payload of [Uint8Array.of(1), Buffer.from("x"), new ArrayBuffer(1)]) {
      assert.strictEqual(codeOf(v1.encode(message(null, null, "t", "e", payload))), "invalid_binary")
      assert.strictEqual(codeOf(v1.encode(reply(null, "1", "t", "ok", payload))), "invalid_binary")
      assert.strictEqual(codeOf(v1.fastlane(broadcast("t", "e", payload))), "invalid_binary")
    }
  })

  it("reads back what it wrote, apart from join_ref", () => {
    fc.assert(fc.property(json, word, word, json, json, (ref, topic, event, payload, joinRef) => {
      assert.deepStrictEqual(
        inbound(v1.decode(text(v1.encode(message(joinRef, ref, topic, event, payload))), "text")),
        {
          joinRef: null,
          ref: JSON.parse(JSON.stringify(ref)),
          topic,
          event,
          payload: JSON.parse(JSON.stringify(payload))
        }
      )
    }))
  })
})

describe("V2 text frames", () => {
  it("are the arrays [join_ref, ref, topic, event, payload]", () => {
    assert.strictEqual(text(v2.encode(message("1", null, "t", "e", { m: 1 }))), "[\"1\",null,\"t\",\"e\",{\"m\":1}]")
    assert.strictEqual(text(v2.fastlane(broadcast("t", "e", { m: 1 }))), "[null,null,\"t\",\"e\",{\"m\":1}]")
    assert.strictEqual(
      text(v2.encode(reply("1", "7", "t", "ok", {}))),
      "[\"1\",\"7\",\"t\",\"phx_reply\",{\"status\":\"ok\",\"response\":{}}]"
    )
    assert.strictEqual(
      text(v2.encode(reply(null, "9", "phoenix", "ok", {}))),
      "[null,\"9\",\"phoenix\",\"phx_reply\",{\"status\":\"ok\",\"response\":{}}]"
    )
    assert.strictEqual(text(v2.encode(message("1", "1", "t", "phx_close", {}))), "[\"1\",\"1\",\"t\",\"phx_close\",{}]")
  })

  it("are read from a string and from UTF-8 bytes alike", () => {
    const frame = "[\"1\",\"2\",\"tëst 🎉\",\"e\",{\"a\":[1]}]"
    const expected = { joinRef: "1", ref: "2", topic: "tëst 🎉", event: "e", payload: { a: [1] } }
    assert.deepStrictEqual(inbound(v2.decode(frame, "text")), expected)
    assert.deepStrictEqual(inbound(v2.decode(utf8(frame), "text")), expected)
    assert.deepStrictEqual(inbound(v2.decode(Buffer.from(frame), "text")), expected)
  })

  it("may have more than five elements, which are ignored, but not fewer", () => {
    const expected = { joinRef: null, ref: 1, topic: "t", event: "e", payload: null }
    assert.deepStrictEqual(inbound(v2.decode("[null,1,\"t\",\"e\",null,6,7]", "text")), expected)
    for (const frame of ["[]", "[null,1,\"t\",\"e\"]", "{}", "null", "5", "\"x\"", "{\"length\":5}"]) {
      assert.strictEqual(codeOf(v2.decode(frame, "text")), "invalid_message")
    }
  })

  it("are checked for their shape only: topic, event and payload may be any JSON value", () => {
    assert.deepStrictEqual(inbound(v2.decode("[1,true,null,{},\"x\"]", "text")), {
      joinRef: 1,
      ref: true,
      topic: null,
      event: {},
      payload: "x"
    })
  })

  it("echo refs and topic with their JSON type", () => {
    for (const ref of ["1", 1, 1.5, true, null, { a: 1 }, [1]]) {
      assert.deepStrictEqual(JSON.parse(text(v2.encode(reply(ref, ref, ref, "error", {})))).slice(0, 3), [
        ref,
        ref,
        ref
      ])
    }
  })

  it("refuse pushes and broadcasts whose payload is no object once it is JSON", () => {
    for (const payload of [null, "x", 1, false, [], [{}], new Date(0), { toJSON: () => "x" }]) {
      assert.strictEqual(codeOf(v2.encode(message("1", null, "t", "e", payload))), "invalid_payload")
      assert.strictEqual(codeOf(v2.fastlane(broadcast("t", "e", payload))), "invalid_payload")
    }
  })

  it("take whatever JSON.stringify makes an object of", () => {
    const cases: ReadonlyArray<readonly [payload: unknown, json: string]> = [
      [{ toJSON: () => ({ a: 1 }) }, "{\"a\":1}"],
      [new Map([["a", 1]]), "{}"],
      [{ at: new Date(0), gone: undefined }, "{\"at\":\"1970-01-01T00:00:00.000Z\"}"],
      [Object.assign(Object.create(null), { a: 1 }), "{\"a\":1}"]
    ]
    for (const [payload, expected] of cases) {
      assert.strictEqual(text(v2.fastlane(broadcast("t", "e", payload))), `[null,null,"t","e",${expected}]`)
    }
  })

  it("carry any JSON value in a reply, and {} for undefined", () => {
    for (const payload of [null, "x", 1, false, [], { a: 1 }]) {
      const frame: unknown = JSON.parse(text(v2.encode(reply("1", "2", "t", "ok", payload))))
      assert.deepStrictEqual(frame, ["1", "2", "t", "phx_reply", { status: "ok", response: payload }])
    }
    for (const serializer of both) {
      assert.include(
        text(serializer.encode(reply("1", "2", "t", "ok", undefined))),
        "{\"status\":\"ok\",\"response\":{}}"
      )
    }
  })

  it("keep __proto__ an ordinary key", () => {
    const frame = "[\"1\",\"2\",\"t\",\"__proto__\",{\"__proto__\":{\"admin\":true}}]"
    const { event, payload } = inbound(v2.decode(frame, "text"))
    assert.strictEqual(event, "__proto__")
    assert.deepStrictEqual(Object.keys(Object(payload)), ["__proto__"])
    assert.strictEqual(Object.getPrototypeOf(payload), Object.prototype)
    assert.strictEqual(text(v2.encode(message("1", "2", "t", "__proto__", payload))), frame)
  })

  it("read back what was written", () => {
    fc.assert(fc.property(json, json, word, word, object, (joinRef, ref, topic, event, payload) => {
      const frame = text(v2.encode(message(joinRef, ref, topic, event, payload)))
      const expected = JSON.parse(JSON.stringify({ joinRef, ref, topic, event, payload }))
      assert.deepStrictEqual(inbound(v2.decode(frame, "text")), expected)
      assert.deepStrictEqual(inbound(v2.decode(utf8(frame), "text")), expected)
    }))
  })
})

describe("V2 binary frames", () => {
  const abc = Uint8Array.of(0x65, 0x66, 0x67)

  it("have the bytes of the protocol for reply, push and broadcast", () => {
    assert.deepStrictEqual(
      binary(v2.encode(reply("12", "123", "topic", "ok", abc))),
      bytes(1, 2, 3, 5, 2, "12", "123", "topic", "ok", abc)
    )
    assert.deepStrictEqual(
      binary(v2.encode(message("12", "ignored", "topic", "event", abc))),
      bytes(0, 2, 5, 5, "12", "topic", "event", abc)
    )
    assert.deepStrictEqual(binary(v2.fastlane(broadcast("topic", "event", abc))), bytes(2, 5, 5, "topic", "event", abc))
  })

  it("read a client's push of kind 0", () => {
    const frame = bytes(0, 2, 3, 5, 5, "12", "123", "topic", "event", abc)
    const expected = { joinRef: "12", ref: "123", topic: "topic", event: "event", payload: abc }
    assert.deepStrictEqual(inbound(v2.decode(frame, "binary")), expected)
  })

  it("have no data when the payload is empty", () => {
    const empty = new Uint8Array(0)
    assert.deepStrictEqual(binary(v2.fastlane(broadcast("t", "e", empty))), bytes(2, 1, 1, "te"))
    assert.deepStrictEqual(inbound(v2.decode(bytes(0, 0, 0, 1, 1, "te"), "binary")).payload, empty)
  })

  it("write a null ref with length 0, and read length 0 as the empty string, not null", () => {
    assert.deepStrictEqual(binary(v2.encode(reply(null, undefined, "t", "ok", abc))), bytes(1, 0, 0, 1, 2, "tok", abc))
    const { joinRef, ref } = inbound(v2.decode(bytes(0, 0, 0, 1, 1, "te"), "binary"))
    assert.strictEqual(joinRef, "")
    assert.strictEqual(ref, "")
  })

  it("write numbers and booleans as text, and refuse refs that have no text", () => {
    assert.deepStrictEqual(serverFrame(binary(v2.encode(reply(1, true, "t", "ok", abc)))).fields, [
      "1",
      "true",
      "t",
      "ok"
    ])
    for (const ref of [{}, [1], Symbol("x"), 1n]) {
      assert.strictEqual(codeOf(v2.encode(reply(ref, "1", "t", "ok", abc))), "invalid_field")
    }
    assert.strictEqual(codeOf(v2.encode(reply("1", "1", null, "ok", abc))), "invalid_field")
  })

  it("measure fields in bytes of UTF-8", () => {
    assert.deepStrictEqual(
      binary(v2.fastlane(broadcast("tëst", "🎉", abc))),
      bytes(2, 5, 4, "tëst", "🎉", abc)
    )
    assert.deepStrictEqual(inbound(v2.decode(clientPush("1", "2", "tëst", "🎉", abc), "binary")), {
      joinRef: "1",
      ref: "2",
      topic: "tëst",
      event: "🎉",
      payload: abc
    })
  })

  it("have room for 255 bytes in a field, and refuse more instead of cutting it", () => {
    const fits = ["a".repeat(255), "é".repeat(127), "🎉".repeat(63)]
    const tooLong = ["a".repeat(256), "é".repeat(128), "🎉".repeat(64), "a".repeat(254) + "é"]
    const everywhere = (field: string) => [
      v2.encode(reply(field, "1", "t", "ok", abc)),
      v2.encode(reply("1", field, "t", "ok", abc)),
      v2.encode(reply("1", "1", field, "ok", abc)),
      v2.encode(reply("1", "1", "t", field, abc)),
      v2.encode(message(field, null, "t", "e", abc)),
      v2.encode(message("1", null, field, "e", abc)),
      v2.encode(message("1", null, "t", field, abc)),
      v2.fastlane(broadcast(field, "e", abc)),
      v2.fastlane(broadcast("t", field, abc))
    ]
    for (const field of fits) {
      for (const result of everywhere(field)) assert.include(serverFrame(binary(result)).fields, field)
    }
    for (const field of tooLong) {
      for (const result of everywhere(field)) assert.strictEqual(codeOf(result), "invalid_field")
    }
    const [result] = everywhere("é".repeat(128))
    if (result === undefined || Result.isSuccess(result)) return assert.fail()
    assert.include(result.failure.message, "join_ref takes 256 bytes")
  })

  it("refuse what a client has escaped as half of a character, and take whole ones", () => {
    const frame = (escaped: string) => `["1","1","t","e",{"a":"${escaped}"}]`
    for (
      const half of ["\\ud800", "\\uDC00", "\\ud800x", "\\ud83d\\ud83d\\ude00", "\\ude00\\ud83d", "\\ud83d\\n\\ude00"]
    ) {
      assert.strictEqual(codeOf(v2.decode(frame(half), "text")), "invalid_utf8", half)
    }
    for (const whole of ["\\ud83d\\ude00", "\\\\ud800", "\\u0041", "\\\\\\ud83d\\ude00"]) {
      assert.strictEqual(codeOf(v2.decode(frame(whole), "text")), undefined, whole)
    }
  })

  it("refuse numbers that are too large, which would go on as null", () => {
    const frame = (number: string) => `["1","1","t","e",{"a":[${number}]}]`
    const zeros = "0".repeat(300)
    for (const large of ["1e400", "-1E+999", `1${zeros}${zeros}`, `-1${zeros}.5e99`, `1${zeros}E9`]) {
      assert.strictEqual(codeOf(v2.decode(frame(large), "text")), "invalid_json", large)
    }
    for (const fine of ["1e300", "\"1e400\"", "1e-400", `1${zeros}`, `0.${zeros}1e99`, `"1${zeros}${zeros}"`]) {
      assert.strictEqual(codeOf(v2.decode(frame(fine), "text")), undefined, fine)
    }
  })

  it("refuse lone surrogates, which UTF-8 cannot say", () => {
    assert.strictEqual(codeOf(v2.fastlane(broadcast("\ud800", "e", abc))), "invalid_field")
  })

  it("are made for a Buffer and for a view, but not for bytes in another container", () => {
    for (const payload of [Buffer.from(abc), bytes(0, abc, 0).subarray(1, 4)]) {
      assert.deepStrictEqual(binary(v2.fastlane(broadcast("t", "e", payload))), bytes(2, 1, 1, "te", abc))
    }
    for (const payload of [abc.buffer, new DataView(abc.buffer), new Uint16Array(2)]) {
      assert.strictEqual(codeOf(v2.fastlane(broadcast("t", "e", payload))), "invalid_binary")
      assert.strictEqual(codeOf(v2.encode(reply("1", "1", "t", "ok", payload))), "invalid_binary")
    }
  })

  it("are not touched by frames written later", () => {
    const first = binary(v2.fastlane(broadcast("first", "e", abc)))
    const copy = first.slice()
    v2.fastlane(broadcast("later", "f", Uint8Array.of(1)))
    assert.deepStrictEqual(first, copy)
  })

  it("refuse other kinds and frames that end within their header", () => {
    const frame = clientPush("12", "123", "topic", "event", abc)
    for (const kind of [1, 2, 3, 255]) {
      assert.strictEqual(codeOf(v2.decode(bytes(kind, frame.subarray(1)), "binary")), "invalid_frame")
    }
    for (let length = 0; length < frame.length - abc.length; length++) {
      assert.strictEqual(codeOf(v2.decode(frame.subarray(0, length), "binary")), "invalid_frame")
    }
  })

  it("give their data as a plain view of the frame, even when the frame is part of a larger buffer", () => {
    const frame = Buffer.from(bytes(9, 9, clientPush("1", "2", "t", "e", abc), 9)).subarray(2, -1)
    const { payload } = inbound(v2.decode(frame, "binary"))
    assert.deepStrictEqual(payload, abc)
    if (!(payload instanceof Uint8Array)) return assert.fail()
    assert.strictEqual(payload.buffer, frame.buffer)
    assert.strictEqual(payload.constructor, Uint8Array)
  })

  it("are chosen by the opcode, not by the content", () => {
    assert.strictEqual(codeOf(v2.decode(utf8("[null,\"1\",\"t\",\"e\",{}]"), "binary")), "invalid_frame")
    assert.strictEqual(codeOf(v2.decode(clientPush("1", "2", "t", "e", abc), "text")), "invalid_json")
    assert.strictEqual(inbound(v2.decode("\0\0\0\x01\x01te", "binary")).topic, "t")
  })

  it("carry join, leave and heartbeat as well, and a JSON reply to them stays text", () => {
    const { joinRef, ref, topic } = inbound(v2.decode(clientPush("1", "1", "t", "phx_join", abc), "binary"))
    assert.strictEqual(
      text(v2.encode(reply(joinRef, ref, topic, "ok", {}))),
      "[\"1\",\"1\",\"t\",\"phx_reply\",{\"status\":\"ok\",\"response\":{}}]"
    )
  })

  it("read what a client wrote", () => {
    fc.assert(fc.property(word, word, word, word, data, (joinRef, ref, topic, event, payload) => {
      const frame = clientPush(joinRef, ref, topic, event, payload)
      assert.deepStrictEqual(inbound(v2.decode(frame, "binary")), { joinRef, ref, topic, event, payload })
    }))
  })

  it("let a client read what was written", () => {
    fc.assert(fc.property(word, word, word, word, data, (joinRef, ref, topic, name, data) => {
      assert.deepStrictEqual(serverFrame(binary(v2.encode(message(joinRef, ref, topic, name, data)))), {
        kind: 0,
        fields: [joinRef, topic, name],
        data
      })
      assert.deepStrictEqual(serverFrame(binary(v2.encode(reply(joinRef, ref, topic, name, data)))), {
        kind: 1,
        fields: [joinRef, ref, topic, name],
        data
      })
      assert.deepStrictEqual(serverFrame(binary(v2.fastlane(broadcast(topic, name, data)))), {
        kind: 2,
        fields: [topic, name],
        data
      })
    }))
  })
})

describe("phoenix.js", () => {
  // Its TextDecoder swallows a leading U+FEFF.
  const clientWord = word.filter((value) => !value.startsWith("\ufeff"))

  const encode = (message: ClientMessage): Frame => {
    let frame: Frame = ""
    phoenixJs.encode(message, (encoded) => frame = typeof encoded === "string" ? encoded : new Uint8Array(encoded))
    return frame
  }

  const decode = (result: Result.Result<Frame, EncodeError>): ClientMessage | undefined => {
    const frame = frameOf(result)
    let message: ClientMessage | undefined
    phoenixJs.decode(typeof frame === "string" ? frame : new Uint8Array(frame).buffer, (decoded) => message = decoded)
    return message
  }

  it("is understood, in text and in binary", () => {
    fc.assert(fc.property(word, word, word, word, object, data, (joinRef, ref, topic, event, payload, bytes) => {
      const sent = { join_ref: joinRef, ref, topic, event }
      const received = { joinRef, ref, topic, event }
      const buffer = new Uint8Array(bytes).buffer
      assert.deepStrictEqual(inbound(v2.decode(encode({ ...sent, payload }), "text")), { ...received, payload })
      assert.deepStrictEqual(inbound(v2.decode(encode({ ...sent, payload: buffer }), "binary")), {
        ...received,
        payload: bytes
      })
    }))
  })

  it("understands pushes, replies and broadcasts in text", () => {
    fc.assert(fc.property(word, word, word, word, object, json, (joinRef, ref, topic, name, payload, response) => {
      const base = { join_ref: joinRef, ref, topic, event: name, payload }
      assert.deepStrictEqual(decode(v2.encode(message(joinRef, ref, topic, name, payload))), base)
      assert.deepStrictEqual(decode(v2.encode(reply(joinRef, ref, topic, name, response))), {
        ...base,
        event: "phx_reply",
        payload: JSON.parse(JSON.stringify({ status: name, response }))
      })
      assert.deepStrictEqual(decode(v2.fastlane(broadcast(topic, name, payload))), {
        ...base,
        join_ref: null,
        ref: null
      })
    }))
  })

  it("understands pushes, replies and broadcasts in binary", () => {
    fc.assert(
      fc.property(clientWord, clientWord, clientWord, clientWord, data, (joinRef, ref, topic, name, bytes) => {
        const payload = new Uint8Array(bytes).buffer
        const base = { join_ref: joinRef, ref: null, topic, event: name, payload }
        assert.deepStrictEqual(decode(v2.encode(message(joinRef, ref, topic, name, bytes))), base)
        assert.deepStrictEqual(decode(v2.encode(reply(joinRef, ref, topic, name, bytes))), {
          ...base,
          ref,
          event: "phx_reply",
          payload: { status: name, response: payload }
        })
        assert.deepStrictEqual(decode(v2.fastlane(broadcast(topic, name, bytes))), { ...base, join_ref: null })
      })
    )
  })
})

describe("decode never throws", () => {
  const total = (data: string | Uint8Array) => {
    for (const serializer of both) {
      for (const opcode of ["text", "binary"] as const) {
        const result = serializer.decode(data, opcode)
        if (Result.isFailure(result)) {
          assert.instanceOf(result.failure, DecodeError)
          assert.isNotEmpty(result.failure.message)
        } else {
          assert.hasAllKeys(result.success, ["joinRef", "ref", "topic", "event", "payload"])
        }
      }
    }
  }

  it("whatever the bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 2_000 }), total), many)
  })

  it("whatever the text", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: "binary" }),
          fc.json(),
          fc.array(json).map((fields) => JSON.stringify(fields))
        ),
        total
      ),
      many
    )
  })

  it("whatever bytes change in a frame of a client", () => {
    const frame = fc.tuple(word, word, word, word, data).map((fields) => clientPush(...fields))
    const patch = fc.array(fc.tuple(fc.nat(600), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 })
    fc.assert(
      fc.property(frame, patch, fc.nat(600), (frame, changes, length) => {
        for (const [index, byte] of changes) frame[index % frame.length] = byte
        total(frame)
        total(frame.subarray(0, length))
      }),
      many
    )
  })

  it("however deep the JSON", () => {
    const deep = "[".repeat(200_000) + "]".repeat(200_000)
    total(deep)
    total(`[null,null,"t","e",${deep}]`)
    total(`[null,null,"t","e",${"{\"a\":".repeat(200_000)}1${"}".repeat(200_000)}]`)
  })

  it("and says what was wrong with the text", () => {
    for (const serializer of both) {
      for (const frame of ["", "{", "[1,", "\ufeff[]", "undefined", "\0"]) {
        assert.strictEqual(codeOf(serializer.decode(frame, "text")), "invalid_json")
        assert.strictEqual(codeOf(serializer.decode(utf8(frame), "text")), "invalid_json")
      }
      for (const frame of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf4, 0x90, 0x80, 0x80]]) {
        const data = bytes("[null,null,\"", ...frame, "\",\"e\",{}]")
        assert.strictEqual(codeOf(serializer.decode(data, "text")), "invalid_utf8")
      }
    }
    for (let field = 0; field < 4; field++) {
      const lengths = [0, 0, 0, 0]
      lengths[field] = 1
      assert.strictEqual(codeOf(v2.decode(bytes(0, ...lengths, 0xff), "binary")), "invalid_utf8")
    }
    assert.strictEqual(codeOf(v2.decode(bytes(0, 1, 1, 0, 0, "é"), "binary")), "invalid_utf8")
  })
})

describe("encode and fastlane never throw", () => {
  const results = (serializer: Serializer, payload: unknown) => [
    serializer.encode(message("1", null, "t", "e", payload)),
    serializer.encode(reply("1", "2", "t", "ok", payload)),
    serializer.fastlane(broadcast("t", "e", payload))
  ]
  const circular: Record<string, unknown> = {}
  circular.self = circular
  const deep = () => {
    let value: unknown = {}
    for (let depth = 0; depth < 200_000; depth++) value = { value }
    return value
  }

  it("but answer what JSON.stringify refuses with an error", () => {
    const refused = [
      circular,
      { n: 1n },
      1n,
      deep(),
      () => {},
      Symbol("x"),
      { toJSON: () => undefined },
      {
        toJSON: () => {
          throw new Error("no")
        }
      },
      {
        get a() {
          throw Object.create(null)
        }
      }
    ]
    for (const serializer of both) {
      for (const payload of refused) {
        for (const result of results(serializer, payload)) assert.strictEqual(codeOf(result), "invalid_json")
      }
      assert.strictEqual(codeOf(serializer.encode(reply(deep(), deep(), "t", "ok", {}))), "invalid_json")
      assert.strictEqual(codeOf(serializer.encode(message("1", null, "t", "e", undefined))), "invalid_json")
      assert.strictEqual(codeOf(serializer.fastlane(broadcast("t", "e", undefined))), "invalid_json")
    }
  })

  it("whatever the payload", () => {
    const payload = fc.anything({
      withBigInt: true,
      withDate: true,
      withMap: true,
      withSet: true,
      withTypedArray: true,
      withNullPrototype: true,
      withObjectString: true,
      withSparseArray: true,
      withBoxedValues: true,
      withUnicodeString: true
    })
    fc.assert(
      fc.property(fc.oneof(payload, data, json), fc.anything({ withBigInt: true }), (payload, ref) => {
        for (const serializer of both) {
          for (
            const result of [...results(serializer, payload), serializer.encode(reply(ref, ref, ref, "ok", payload))]
          ) {
            if (Result.isFailure(result)) {
              assert.instanceOf(result.failure, EncodeError)
            } else if (typeof result.success === "string") {
              assert.isTrue(Result.isSuccess(serializer.decode(result.success, "text")))
            }
          }
        }
      }),
      many
    )
  })

  it("and keep the cause", () => {
    const cause = new Error("no")
    const result = v2.fastlane(broadcast("t", "e", {
      toJSON: () => {
        throw cause
      }
    }))
    if (Result.isSuccess(result)) return assert.fail()
    assert.strictEqual(result.failure._tag, "EncodeError")
    assert.strictEqual(result.failure.cause, cause)
  })
})

describe("negotiate", () => {
  it("takes V1 for a client that sends no vsn", () => {
    assert.strictEqual(negotiate(defaults, undefined), v1)
  })

  it("takes V1 for ~> 1.0.0 and V2 for ~> 2.0.0", () => {
    for (const vsn of ["1.0.0", "1.0.7", "1.0.1-dev", "1.0.0+build"]) assert.strictEqual(negotiate(defaults, vsn), v1)
    for (const vsn of ["2.0.0", "2.0.9", "2.0.1-dev", "2.0.0+a.b"]) assert.strictEqual(negotiate(defaults, vsn), v2)
    for (const vsn of ["1.1.0", "2.0.0-dev", "2.1.0", "2.1.0-dev", "3.0.0", "0.9.0", "1.0.0-rc.1"]) {
      assert.isUndefined(negotiate(defaults, vsn))
    }
  })

  it("takes nothing for a vsn that is no full version", () => {
    for (const vsn of ["2", "2.0", "", " 2.0.0", "2.0.0\n", "v2.0.0", "02.0.0", null, 2, ["2.0.0"], { a: "2.0.0" }]) {
      assert.isUndefined(negotiate(defaults, vsn))
    }
  })

  it("takes the first of several that match", () => {
    const mine = { ...v2, name: "mine" }
    assert.strictEqual(negotiate([[mine, "~> 2.0"], ...defaults], "2.0.0"), mine)
    assert.strictEqual(negotiate([...defaults, [mine, "~> 2.0"]], "2.0.0"), v2)
    assert.strictEqual(negotiate([...defaults, [mine, "~> 2.0"]], "2.7.0"), mine)
    assert.isUndefined(negotiate([], "2.0.0"))
  })

  it("throws when a requirement cannot be read", () => {
    assert.throws(() => negotiate([[v2, "~> 2"]], "2.0.0"), RangeError, "invalid version requirement \"~> 2\"")
  })

  it("depends on major and minor only for released versions", () => {
    const part = fc.integer({ min: 0, max: 3 })
    fc.assert(fc.property(part, part, fc.nat(), (major, minor, patch) => {
      const expected = minor !== 0 ? undefined : major === 1 ? v1 : major === 2 ? v2 : undefined
      assert.strictEqual(negotiate(defaults, `${major}.${minor}.${patch}`), expected)
    }))
  })

  it("never throws whatever the client sends", () => {
    const versionLike = fc.string({ unit: fc.constantFrom(..."012.-+a ") })
    fc.assert(
      fc.property(fc.oneof(fc.anything(), fc.string(), versionLike), (vsn) => {
        const found = negotiate(defaults, vsn)
        assert.isTrue(found === undefined || found === v1 || found === v2)
      }),
      many
    )
  })
})
