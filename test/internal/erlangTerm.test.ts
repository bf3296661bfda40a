import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import * as fc from "fast-check"
import { deflateSync } from "node:zlib"
import {
  Atom,
  decode,
  DecodeError,
  encode,
  EncodeError,
  maxDepth,
  maxInflatedBytes,
  maxIntegerBytes,
  Tuple
} from "../../src/internal/erlangTerm.ts"

const bytes = (hex: string): Uint8Array => Buffer.from(hex.replaceAll(" ", ""), "hex")

const hexOf = (value: unknown): string => Buffer.from(Result.getOrThrow(encode(value))).toString("hex")

const decoded = (hex: string): unknown => Result.getOrThrow(decode(bytes(hex)))

const refused = (input: string | Uint8Array): string => {
  const result = decode(typeof input === "string" ? bytes(input) : input)
  assert(Result.isFailure(result))
  assert.instanceOf(result.failure, DecodeError)
  return result.failure.message
}

const unencodable = (value: unknown): EncodeError => {
  const result = encode(value)
  assert(Result.isFailure(result))
  assert.instanceOf(result.failure, EncodeError)
  return result.failure
}

const nested = (levels: number): unknown => {
  let value: unknown = "end"
  for (let i = 0; i < levels; i++) value = [value]
  return value
}

const compressed = (claim: number, term: Uint8Array): Uint8Array => {
  const head = Buffer.from([131, 80, 0, 0, 0, 0])
  head.writeUInt32BE(claim, 2)
  return Buffer.concat([head, deflateSync(term)])
}

/** What an Erlang term can hold and JSON-like JavaScript too: well-formed strings, and no -0. */
const jsonLike = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    fc.string({ unit: "binary" }),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((n) => n === 0 ? 0 : n),
    fc.maxSafeInteger(),
    fc.bigInt().filter((n) => n > BigInt(Number.MAX_SAFE_INTEGER) || n < BigInt(Number.MIN_SAFE_INTEGER)),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value")),
    fc.dictionary(fc.oneof(fc.string({ unit: "binary" }), fc.constant("__proto__")), tie("value"), {
      noNullPrototype: true
    })
  )
})).value

/** Bytes that are a term nearly everywhere, so that random tests get past the first tag. */
const nearlyTerm = fc.array(
  fc.oneof(
    fc.constantFrom(70, 80, 97, 98, 99, 100, 104, 105, 106, 107, 108, 109, 110, 111, 115, 116, 118, 119, 0, 1, 2, 255),
    fc.nat(255)
  ),
  { maxLength: 200 }
).map((tail) => Uint8Array.from([131, ...tail]))

describe("encode writes what term_to_binary of Erlang/OTP 26 writes", () => {
  it.each<[string, unknown, string]>([
    ["the smallest integer", 0, "83 61 00"],
    ["the largest one-byte integer", 255, "83 61 ff"],
    ["the first integer of four bytes", 256, "83 62 00000100"],
    ["a negative integer", -1, "83 62 ffffffff"],
    ["the smallest integer of four bytes", -2147483648, "83 62 80000000"],
    ["the largest integer of four bytes", 2147483647, "83 62 7fffffff"],
    ["an integer of more than four bytes", 2147483648, "83 6e 04 00 00000080"],
    ["milliseconds since 1970", 1700000000000, "83 6e 06 00 0068e5cf8b01"],
    ["a large negative integer", -2147483649, "83 6e 04 01 01000080"],
    ["a bigint as the integer it is", 7n, "83 61 07"],
    ["a bigint beyond 2^64", 2n ** 64n, "83 6e 09 00 000000000000000001"],
    ["an integer of more than 255 bytes", 256n ** 255n, `83 6f 00000100 00 ${"00".repeat(255)} 01`],
    ["a fraction", 1.5, "83 46 3ff8000000000000"],
    ["a number too large for an exact integer as a float", 1e21, "83 46 444b1ae4d6e2ef50"],
    ["true", true, "83 77 04 74727565"],
    ["false", false, "83 77 05 66616c7365"],
    ["null as nil", null, "83 77 03 6e696c"],
    ["the empty string", "", "83 6d 00000000"],
    ["a string as UTF-8", "é", "83 6d 00000002 c3a9"],
    ["a Uint8Array as a binary", Uint8Array.of(255, 0), "83 6d 00000002 ff00"],
    ["the empty list", [], "83 6a"],
    ["a list", ["a", 1], "83 6c 00000002 6d 00000001 61 61 01 6a"],
    ["a list of bytes in its short form", [1, 2, 255], "83 6b 0003 0102ff"],
    ["a list with a number that is no byte", [1, 256], "83 6c 00000002 61 01 62 00000100 6a"],
    [
      "a map with its keys in byte order",
      { b: 1, aa: 2, a: 3 },
      "83 74 00000003 6d 00000001 61 61 03 6d 00000002 6161 61 02 6d 00000001 62 61 01"
    ],
    ["a tuple", new Tuple([1, new Atom("infinity")]), "83 68 02 61 01 77 08 696e66696e697479"]
  ])("%s", (_, value, hex) => {
    assert.strictEqual(hexOf(value), hex.replaceAll(" ", ""))
  })

  it("the order of an object's keys does not matter", () => {
    assert.strictEqual(hexOf({ a: 1, b: { x: 1, y: 2 } }), hexOf({ b: { y: 2, x: 1 }, a: 1 }))
  })

  it("a list of more bytes than the short form holds is written in the long form", () => {
    assert.match(hexOf(Array(65_535).fill(7)), /^836bffff0707/)
    assert.match(hexOf(Array(65_536).fill(7)), /^836c0001000061076107/)
  })

  it("compressed where that makes it shorter, and else as it is", () => {
    const long = Result.getOrThrow(encode("a".repeat(1000), { compressed: true }))
    assert.strictEqual(Buffer.from(long.subarray(0, 6)).toString("hex"), "8350000003ed")
    assert.isBelow(long.length, 50)
    assert.strictEqual(Result.getOrThrow(decode(long)), "a".repeat(1000))
    for (const value of [1, "a", "a".repeat(maxInflatedBytes)]) {
      assert.deepStrictEqual(encode(value, { compressed: true }), encode(value))
    }
    const largest = Result.getOrThrow(encode("a".repeat(maxInflatedBytes - 5), { compressed: true }))
    assert.isBelow(largest.length, maxInflatedBytes / 100)
    assert.isTrue(Result.isSuccess(decode(largest)))
  })

  it("-0 is written as 0, as in JSON", () => {
    assert.strictEqual(hexOf([-0, "a"]), hexOf([0, "a"]))
  })
})

describe("encode refuses what Erlang has no counterpart for, and says where it is", () => {
  class User {
    readonly id = 1
  }

  it.each<[string, unknown, RegExp]>([
    ["undefined", undefined, /^undefined at/],
    ["a function", () => 1, /^a function at/],
    ["a symbol", Symbol("s"), /^a symbol at/],
    ["NaN", NaN, /^NaN at/],
    ["Infinity", -Infinity, /^-Infinity at/],
    ["a Date", new Date(0), /^an instance of Date/],
    ["a Map", new Map(), /^an instance of Map/],
    ["an instance of a class", new User(), /^an instance of User/],
    ["a string with half a surrogate pair", "a\ud800", /not well-formed/],
    ["a key with half a surrogate pair", { "\udc00": 1 }, /not well-formed/],
    ["a hole in a list", Array(1), /^undefined at/],
    ["an integer of more bytes than may be read", 256n ** BigInt(maxIntegerBytes), /an integer of more than/]
  ])("%s", (_, value, message) => {
    const error = unencodable({ user: ["x", value] })
    assert.match(error.message, message)
    assert.deepStrictEqual(error.path.slice(0, 2), ["user", 1])
  })

  it("a value that contains itself", () => {
    const list: Array<unknown> = []
    list.push({ list })
    assert.match(unencodable(list).message, /contain itself/)
  })
})

describe("decode reads what old and new writers write", () => {
  it.each<[string, string, unknown]>([
    ["a negative integer", "83 62 fffffffe", -2],
    [
      "an integer of eight bytes as a number while that is exact",
      "83 6e 07 00 ffffffffffff1f",
      Number.MAX_SAFE_INTEGER
    ],
    ["a larger integer as a bigint", "83 6e 07 00 00000000000020", 2n ** 53n],
    ["a large negative integer", "83 6e 08 01 0000000000000080", -(2n ** 63n)],
    ["an integer with a long size", "83 6f 00000002 00 0102", 513],
    ["an integer without digits", "83 6e 00 01", 0],
    ["a float", "83 46 bff8000000000000", -1.5],
    ["a float as text", `83 63 ${Buffer.from("1.50000000000000000000e+00").toString("hex")}0000000000`, 1.5],
    ["an atom of OTP 25 and older", "83 64 0002 6f6b", "ok"],
    ["a short atom of old OTP", "83 73 02 6f6b", "ok"],
    ["an atom of OTP 26 and newer", "83 77 02 6f6b", "ok"],
    ["a long atom of OTP 26 and newer", "83 76 0002 c3a9", "é"],
    ["a Latin-1 atom", "83 64 0001 e9", "é"],
    ["true", "83 64 0004 74727565", true],
    ["false", "83 77 05 66616c7365", false],
    ["nil as null", "83 64 0003 6e696c", null],
    ["a binary as a string", "83 6d 00000002 c3a9", "é"],
    ["a binary that starts with a byte order mark, whole", "83 6d 00000004 efbbbf61", "\ufeffa"],
    ["a binary that is not UTF-8 as bytes", "83 6d 00000002 c328", Uint8Array.of(0xc3, 0x28)],
    ["a charlist as numbers", "83 6b 0002 6869", [104, 105]],
    ["a list", "83 6c 00000002 61 01 6a 6a", [1, []]],
    ["a tuple as an array", "83 68 02 77 02 6f6b 61 01", ["ok", 1]],
    ["a large tuple", "83 69 00000001 61 01", [1]],
    ["a map with atom keys", "83 74 00000001 77 02 6964 61 01", { id: 1 }],
    ["a map with number and boolean keys", "83 74 00000002 61 01 61 02 77 04 74727565 61 03", { 1: 2, true: 3 }]
  ])("%s", (_, hex, value) => {
    assert.deepStrictEqual(decoded(hex), value)
  })

  it("a compressed term", () => {
    const term = bytes(hexOf("a".repeat(1000))).subarray(1)
    assert.strictEqual(Result.getOrThrow(decode(compressed(term.length, term))), "a".repeat(1000))
  })

  it("a __proto__ key is a key like others", () => {
    const key = Buffer.from("__proto__").toString("hex")
    const map = decoded(`83 74 00000001 77 09 ${key} 74 00000001 77 05 61646d696e 77 04 74727565`)
    assert.deepStrictEqual(map, JSON.parse(`{"__proto__":{"admin":true}}`))
    assert.strictEqual(Object.getPrototypeOf(map), Object.prototype)
    assert.notProperty(map, "admin")
  })

  it("bytes in the middle of a larger buffer", () => {
    assert.strictEqual(Result.getOrThrow(decode(bytes("ff 83 61 05 ff").subarray(1, 4))), 5)
  })
})

describe("decode refuses, and says why and where", () => {
  it.each<[string, string, RegExp]>([
    ["no bytes", "", /cut off/],
    ["another version", "82 61 01", /version/],
    ["a term that is cut off", "83 62 0000", /cut off \(byte 2\)/],
    ["bytes after the term", "83 61 01 00", /after its end/],
    ["an improper list", "83 6c 00000001 61 01 61 02", /improper list/],
    ["a list that claims more elements than there are", "83 6c ffffffff 61 01", /cut off/],
    ["a map that claims more keys than there are", "83 74 ffffffff", /cut off/],
    ["a binary that claims more bytes than there are", "83 6d ffffffff 00", /cut off/],
    ["an atom that is not UTF-8", "83 77 01 ff", /not UTF-8/],
    ["a float that is no number", "83 46 7ff8000000000000", /float/],
    ["a text float that is no number", `83 63 ${Buffer.from("0x10".padEnd(31, "\0")).toString("hex")}`, /float/],
    ["a list as a map key", "83 74 00000001 6a 61 01", /map key/],
    ["nil as a map key", "83 74 00000001 77 03 6e696c 61 01", /map key/],
    ["the same key as an atom and as a binary", "83 74 00000002 77 01 61 61 01 6d 00000001 61 61 02", /same text/],
    ["a function of a module", "83 71 77 01 61 77 01 61 61 01", /tag 113/],
    ["a function with an environment", `83 70 00000040 00 ${"00".repeat(60)}`, /tag 112/],
    ["a function in data", "83 68 02 61 01 74 00000001 61 01 71 77 01 61 77 01 61 61 01", /tag 113/],
    ["a term that only the system that wrote it reads", "83 79 00000000 00000000 61 01", /tag 121/],
    ["a process id", "83 58 77 01 61 00000000 00000000 00000000", /tag 88/],
    ["a reference", "83 5a 0001 77 01 61 00000000 00000000", /tag 90/],
    ["a bit string", "83 4d 00000001 01 80", /tag 77/],
    ["a reference to a cached atom", "83 52 00", /tag 82/],
    ["a compressed term without its data", "83 50 00000001", /badly compressed/]
  ])("%s", (_, hex, message) => {
    assert.match(refused(hex), message)
  })

  it("a term of more levels than the limit, without running out of stack", () => {
    assert.match(refused(bytes(`83 ${"6801".repeat(1_000_000)} 6a`)), /nested/)
  })

  it("an integer of more bytes than the limit", () => {
    assert.match(refused(Buffer.concat([bytes("83 6f 00100000 00"), Buffer.alloc(0x100000, 1)])), /integer/)
  })

  it("a compressed term that says it is larger than the limit", () => {
    assert.match(refused(compressed(maxInflatedBytes + 1, bytes("6a"))), /unfolds/)
  })

  it("a compressed term that is larger, or smaller, than it says", () => {
    const bomb = Buffer.concat([bytes("6d 10000000"), Buffer.alloc(0x1000000)])
    assert.match(refused(compressed(100, bomb)), /badly compressed/)
    assert.match(refused(compressed(100, bytes("6a"))), /badly compressed/)
  })

  it("a compressed term in a compressed term", () => {
    const inner = compressed(1, bytes("6a")).subarray(1)
    assert.match(refused(compressed(inner.length, inner)), /tag 80/)
  })
})

describe("encode and decode together", () => {
  it("decode(encode(value)) is the value", () => {
    fc.assert(fc.property(jsonLike, (value) => {
      assert.deepStrictEqual(Result.getOrThrow(decode(Result.getOrThrow(encode(value)))), value)
    }))
  })

  it("what is nested as deep as may be written can be read, and one level more is not written", () => {
    assert.deepStrictEqual(Result.getOrThrow(decode(Result.getOrThrow(encode(nested(maxDepth))))), nested(maxDepth))
    assert.match(unencodable(nested(maxDepth + 1)).message, /nested/)
  })

  it("the largest integer that is written can be read", () => {
    const largest = -(256n ** BigInt(maxIntegerBytes) - 1n)
    assert.strictEqual(Result.getOrThrow(decode(Result.getOrThrow(encode(largest)))), largest)
  })

  it("any bytes are answered by a value or a DecodeError", () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), nearlyTerm), (input) => {
        const result = decode(input)
        assert(Result.isSuccess(result) || result.failure instanceof DecodeError)
      }),
      { numRuns: 5000 }
    )
  })

  it("any bytes behind a compression header are answered by a value or a DecodeError", () => {
    fc.assert(fc.property(fc.nat(200), fc.oneof(fc.uint8Array(), nearlyTerm), (claim, term) => {
      const result = decode(compressed(claim, term.subarray(1)))
      assert(Result.isSuccess(result) || result.failure instanceof DecodeError)
    }))
  })

  it("a term with any byte changed or cut off is answered by a value or a DecodeError", () => {
    fc.assert(fc.property(jsonLike, fc.nat(), fc.nat(255), (value, position, byte) => {
      const term = Buffer.from(Result.getOrThrow(encode(value)))
      const at = position % term.length
      assert(Result.isFailure(decode(term.subarray(0, at))))
      term[at] = byte
      const result = decode(term)
      assert(Result.isSuccess(result) || result.failure instanceof DecodeError)
    }))
  })
})
