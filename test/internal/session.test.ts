import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { isCsrfToken } from "../../src/internal/session.ts"

/** Masks a token as Plug.CSRFProtection does before it writes it into a page. */
const masked = (token: string, mask: string): string => {
  const bytes = Buffer.from(mask)
  const combined = Buffer.from(token).map((byte, index) => byte ^ (bytes[index] ?? 0))
  return Buffer.from(combined).toString("base64url") + mask
}

const token = "l9kAjq_wbT-1Y7vOdXsMhrQe"
const mask = "PUZBHzg3NwRwAn4DcSgbDSsR"

/** Texts as Plug makes them: 24 characters of Base64. */
const tokens = fc.uint8Array({ minLength: 18, maxLength: 18 }).map((bytes) => Buffer.from(bytes).toString("base64url"))

describe("isCsrfToken", () => {
  it("accepts the session's token as it is", () => {
    assert.isTrue(isCsrfToken(token, token))
    assert.isTrue(isCsrfToken("a token of any length: ä", "a token of any length: ä"))
  })

  it("accepts it masked, whatever the mask", () => {
    assert.isTrue(isCsrfToken("a".repeat(24), `${"AwMD".repeat(8)}${"b".repeat(24)}`))
    assert.isTrue(isCsrfToken(token, masked(token, mask)))
    fc.assert(fc.property(tokens, tokens, (token, mask) => isCsrfToken(token, masked(token, mask))))
  })

  it("accepts no other token, plain or masked", () => {
    fc.assert(
      fc.property(tokens, tokens, tokens, (token, other, mask) => {
        fc.pre(token !== other)
        return !isCsrfToken(token, other) && !isCsrfToken(token, masked(other, mask))
      })
    )
  })

  it("refuses a masked token of which one character was changed", () => {
    const right = masked(token, mask)
    for (let index = 0; index < right.length; index++) {
      const wrong = right.slice(0, index) + (right[index] === "A" ? "B" : "A") + right.slice(index + 1)
      assert.isFalse(isCsrfToken(token, wrong), wrong)
    }
  })

  it("refuses what is no masked token at all, and throws for nothing that a client may send", () => {
    const right = masked(token, mask)
    const wrong: ReadonlyArray<unknown> = [
      "",
      mask,
      right.slice(1),
      `${right}A`,
      `${"!".repeat(32)}${mask}`,
      `${right.slice(0, 32)}${"ä".repeat(24)}`,
      undefined,
      null,
      24,
      [token],
      { [token]: token }
    ]
    for (const sent of wrong) assert.isFalse(isCsrfToken(token, sent), String(sent))
    const garbage = fc.uint8Array({ minLength: 56, maxLength: 56 }).map((bytes) =>
      Buffer.from(bytes).toString("latin1")
    )
    fc.assert(fc.property(garbage, (sent) => !isCsrfToken(token, sent)))
  })

  it("accepts nothing for a session without a token", () => {
    for (const none of [undefined, null, "", 0, ["a"], { a: "a" }]) {
      for (const sent of [none, "", "undefined", masked("", mask), token]) assert.isFalse(isCsrfToken(none, sent))
    }
  })

  it("unmasks only tokens of the length that Plug makes", () => {
    const short = token.slice(1)
    assert.isFalse(isCsrfToken(short, masked(short, mask)))
  })
})
