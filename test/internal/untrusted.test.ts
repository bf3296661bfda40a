import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { brief, escape, maxBriefLength, shorten } from "../../src/internal/untrusted.ts"

/** Nothing in it ends a line, steers a terminal, or changes the direction of what follows. */
const isSafe = (text: string): boolean =>
  text.isWellFormed()
  // oxlint-disable-next-line no-control-regex
  && !/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/.test(text)

const hostile = {
  "a line of its own": "room:1\n12:00:00 INFO: all is well",
  "a line of Windows": "a\r\nb",
  "the start of the line": "a\rb",
  "a form feed": "a\fb\vc",
  "colours": "\u001b[31mred\u001b[0m",
  "a title of the window": "\u001b]0;title\u0007",
  "a command of one byte": "\u009b2J",
  "a new line of Unicode": "a\u0085b\u2028c\u2029d",
  "backspaces": "password\b\b\b\b\b\b\b\b",
  "a zero": "a\0b",
  "deleting": "a\u007fb",
  "the other direction": "a\u202egnp.exe\u2066b\u2069\u061c\u200f",
  "half a character": "a\ud83d",
  "the other half": "\ude00b",
  "a mark of order": "\ufeffa"
}

describe("what a client says", () => {
  for (const [name, text] of Object.entries(hostile)) {
    it(`is escaped: ${name}`, () => {
      assert.isFalse(isSafe(text))
      for (const shown of [escape(text), shorten(text, 100), String(brief(text)), shorten(text, 3)]) {
        assert.isTrue(isSafe(shown), JSON.stringify(shown))
      }
      assert.strictEqual(escape(text), escape(escape(text)))
    })
  }

  it("is shown as it would be written in a program", () => {
    assert.strictEqual(
      escape("a\nb\rc\td\0e\u001bf\u2028g\u202eh\ud800"),
      "a\\nb\\rc\\td\\u0000e\\u001bf\\u2028g\\u202eh\\ud800"
    )
  })

  it("is left as it is where nothing is wrong with it", () => {
    for (const text of ["", "room:1", "äöü 漢字 😀 👩‍👩‍👧 é עברית", "a b\u00a0c", "\\n", "\"'<>&%"]) {
      assert.strictEqual(escape(text), text)
      assert.strictEqual(brief(text), text)
    }
  })

  it("is safe and short, whatever it is", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 300 }),
      fc.string({ unit: "grapheme", maxLength: 300 })
    )
    const halves = fc.array(fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)), {
      maxLength: 300
    })
    fc.assert(fc.property(fc.oneof(text, halves.map((all) => all.join(""))), fc.nat(250), (text, length) => {
      for (const shown of [escape(text), shorten(text, length), String(brief(text))]) assert.isTrue(isSafe(shown))
      // An escaped character has six.
      assert.isAtMost(shorten(text, length).length, 6 * length + 40)
      assert.isAtMost(String(brief(text)).length, 6 * maxBriefLength + 3)
    }))
  })
})

describe("shorten", () => {
  it("shows up to so many characters, and how many more there are", () => {
    assert.strictEqual(shorten("abc", 3), "abc")
    assert.strictEqual(shorten("abcd", 3), "abc… (1 more characters)")
    assert.strictEqual(shorten("a\nb\nc", 3), "a\\nb… (2 more characters)")
    assert.strictEqual(shorten("ab😀", 3), "ab\ufffd… (1 more characters)")
  })

  it("takes no longer for what is long", () => {
    const long = "\n".repeat(20_000_000)
    const start = performance.now()
    for (let n = 0; n < 1000; n++) shorten(long, 200)
    assert.isBelow(performance.now() - start, 1000)
  })
})

describe("brief", () => {
  it("shows a name, and the kind of what is none", () => {
    assert.strictEqual(brief("a".repeat(maxBriefLength)), "a".repeat(maxBriefLength))
    assert.strictEqual(brief("a".repeat(maxBriefLength + 1)), `${"a".repeat(maxBriefLength)}...`)
    const names = [null, undefined, true, 1, -0, 1e300, NaN, 5n].map(brief)
    assert.deepStrictEqual(names, ["null", "undefined", "true", "1", "0", "1e+300", "NaN", "5"])
    for (const value of [{}, [], { toString: () => "a" }, new Map(), Object.create(null)]) {
      assert.strictEqual(brief(value), "object")
    }
  })

  it("does not look into what is an object", () => {
    const value = {
      toString: () => assert.fail("it is looked into"),
      toJSON: () => assert.fail("it is looked into")
    }
    assert.strictEqual(brief(value), "object")
  })
})
