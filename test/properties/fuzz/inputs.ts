/** What a decoder is given: values as they should be, and what comes of them when bytes are changed, lost and doubled. */
import * as fc from "fast-check"

/** Names that have meant something somewhere. */
export const name: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    "",
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "toJSON",
    "phoenix",
    "heartbeat",
    "phx_join",
    "phx_leave",
    "phx_reply",
    "room:1",
    "*",
    "\0",
    "\ufeff",
    "\u2028",
    "é😀",
    "x".repeat(255),
    "é".repeat(128)
  ),
  fc.string({ maxLength: 12 }),
  fc.string({ unit: "grapheme", maxLength: 6 })
)

const number = fc.oneof(
  fc.integer(),
  fc.constantFrom(0, 255, 256, 2 ** 31, 2 ** 53, -(2 ** 53), 1e300, 5e-324, 0.1)
)

const leaf = fc.oneof(name, number, fc.boolean(), fc.constant(null))

/** Keys may be `__proto__`: what JSON.parse makes of them, an object literal does not. */
const record = <A>(value: fc.Arbitrary<A>) =>
  fc.array(fc.tuple(name, value), { maxLength: 3 }).map((entries) => {
    const made: Record<string, A> = {}
    for (const [key, value] of entries) {
      Object.defineProperty(made, key, { value, configurable: true, enumerable: true, writable: true })
    }
    return made
  })

const shallow = fc.oneof(leaf, fc.array(leaf, { maxLength: 4 }), record(leaf))

/** Plain data, as JSON has it. */
export const json: fc.Arbitrary<unknown> = fc.oneof(
  leaf,
  shallow,
  fc.array(shallow, { maxLength: 3 }),
  record(shallow)
)

/** Where and how to change something. */
export type Edit = readonly [what: "set" | "insert" | "delete" | "double" | "cut", at: number, byte: number]

const byte = fc.oneof(
  fc.nat(255),
  fc.constantFrom(0, 1, 0x22, 0x25, 0x26, 0x2c, 0x2e, 0x5b, 0x5c, 0x5d, 0x7b, 0x7d, 0xff)
)

export const edits: fc.Arbitrary<ReadonlyArray<Edit>> = fc.array(
  fc.tuple(fc.constantFrom("set", "set", "insert", "delete", "double", "cut"), fc.nat(4000), byte),
  { minLength: 1, maxLength: 4 }
)

const edited = <A>(values: ReadonlyArray<A>, edits: ReadonlyArray<Edit>, of: (byte: number) => A): Array<A> => {
  const result = values.slice()
  for (const [what, place, byte] of edits) {
    const at = result.length === 0 ? 0 : place % result.length
    if (what === "set") result[at] = of(byte)
    else if (what === "insert") result.splice(at, 0, of(byte))
    else if (what === "delete") result.splice(at, 1 + byte % 8)
    else if (what === "double") result.splice(at, 0, ...result.slice(at, at + byte % 32))
    else result.length = at
  }
  return result
}

export const editBytes = (bytes: Uint8Array, edits: ReadonlyArray<Edit>): Uint8Array =>
  Uint8Array.from(edited([...bytes], edits, (byte) => byte))

export const editText = (text: string, edits: ReadonlyArray<Edit>): string =>
  edited(text.split(""), edits, (byte) => String.fromCharCode(byte)).join("")

export const bytes: fc.Arbitrary<Uint8Array> = fc.uint8Array({ maxLength: 60 })

/** Text of any kind, also such as is no Unicode. */
export const text: fc.Arbitrary<string> = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  json.map((value) => JSON.stringify(value))
)

/** JSON whose numbers, escapes and depth are those that parsers stumble over. */
export const oddJson: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(
    "1e400",
    "-1e999",
    "1E+0400",
    "-0",
    "0.1e-400",
    "01",
    "+1",
    "NaN",
    "Infinity",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\""
  ),
  fc.nat(500).map((zeros) => `1${"0".repeat(zeros)}`),
  fc.tuple(fc.nat(300), fc.nat(99)).map(([zeros, exponent]) => `1${"0".repeat(zeros)}e${exponent}`),
  fc.constantFrom(10, 10, 10, 100, 100, 1000, 1000, 20_000).map((depth) => "[".repeat(depth) + "]".repeat(depth)),
  fc.constantFrom(10, 1000).map((depth) => "{\"a\":".repeat(depth) + "1" + "}".repeat(depth)),
  fc.nat(0xffff).map((unit) => `"\\u${unit.toString(16).padStart(4, "0")}"`)
)
