import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as fc from "fast-check"
import { decodeLines, decodeText, maxBase64, maxEntries } from "../../src/internal/ndjson.ts"

const lines = (body: string) => Result.getOrThrow(decodeLines(body))
const problem = (body: string) => Result.getOrThrow(Result.flip(decodeLines(body)))
const bytes = (...bytes: ReadonlyArray<number>) => Buffer.from(bytes)

describe("a body of lines", () => {
  it("ends each with a newline, a carriage return before it or not, and the last one with its end", () => {
    assert.deepStrictEqual(lines("[1]\n[2]\r\n[3]"), ["[1]", "[2]", "[3]"])
    assert.deepStrictEqual(lines("[1]\n"), ["[1]"])
    assert.deepStrictEqual(lines("[1]\r"), ["[1]\r"])
  })

  it("has no frame where a line is empty, and none counts", () => {
    assert.deepStrictEqual(lines(""), [])
    assert.deepStrictEqual(lines("\n\r\n\n[1]\n\n"), ["[1]"])
    assert.deepStrictEqual(lines(`${"\n".repeat(1000)}[1]`), ["[1]"])
  })

  it("is not looked at after its 100th entry", () => {
    const entries = Array.from({ length: maxEntries }, (_, index) => `[${index}]`)
    assert.deepStrictEqual(lines([...entries, "[100]", "!!!"].join("\n")), entries)
    assert.strictEqual(problem([...entries.slice(1), "!!!"].join("\n")), "base64")
  })

  it("holds bytes in base64, padded and of the standard alphabet", () => {
    assert.deepStrictEqual(lines("+/8=\nAA=="), [bytes(0xfb, 0xff), bytes(0)])
    for (const line of ["-_8=", "AA", "AA=", "AAA", "AA==AA==", "A A A A", "=", "\r", " [", "\"", "AB=="]) {
      assert.strictEqual(problem(line), "base64", line)
    }
  })

  it("has no base64 of more than 10,000,000 characters, and text of any length", () => {
    assert.strictEqual(problem("A".repeat(maxBase64 + 4)), "length")
    assert.deepStrictEqual(lines("A".repeat(maxBase64)).map(({ length }) => length), [7_500_000])
    const text = `[${" ".repeat(maxBase64)}]`
    assert.isTrue(lines(text)[0] === text)
  })

  it("gives back whatever frames were put into it", () => {
    const frame = fc.oneof(
      fc.array(fc.jsonValue()).map((value) => JSON.stringify(value)),
      fc.uint8Array({ minLength: 1 }).map((bytes) => Buffer.from(bytes))
    )
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 100 }), fc.constantFrom("\n", "\r\n"), (frames, newline) => {
        const body = frames.map((frame) => typeof frame === "string" ? frame : frame.toString("base64")).join(newline)
        assert.deepStrictEqual(lines(body), frames)
      })
    )
  })
})

describe("a body of text", () => {
  it("is UTF-8, with its byte order mark", () => {
    const decode = (...values: ReadonlyArray<number>) => decodeText(new Uint8Array(values).buffer)
    assert.deepStrictEqual(decode(0xc5, 0xbc), Result.succeed("ż"))
    assert.deepStrictEqual(decode(0xef, 0xbb, 0xbf, 0x5b), Result.succeed("\ufeff["))
    for (const broken of [[0xff], [0xc5], [0xed, 0xa0, 0x80], [0xc0, 0x80]]) {
      assert.deepStrictEqual(decode(...broken), Result.fail("encoding"))
    }
  })
})
