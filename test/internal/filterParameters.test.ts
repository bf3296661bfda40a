import { assert, describe, it } from "@effect/vitest"
import {
  filterParameters,
  formatDuration,
  maxBytes,
  maxDepth,
  maxKeyLength,
  maxLength,
  maxValues
} from "../../src/internal/filterParameters.ts"

const names = ["password", "token"]

class Account {
  readonly password = "secret"
}

describe("a list of names", () => {
  const filter = (value: unknown) => filterParameters(value, names)

  it("hides the value of a key that contains one of them", () => {
    assert.deepStrictEqual(
      filter({ password: "a", csrf_token: 1, tokens: ["a"], old_password_hash: { a: 1 }, id: 2 }),
      {
        password: "[FILTERED]",
        csrf_token: "[FILTERED]",
        tokens: "[FILTERED]",
        old_password_hash: "[FILTERED]",
        id: 2
      }
    )
  })

  it("does not tell upper from lower case", () => {
    assert.deepStrictEqual(filter({ Password: "a", accessToken: "b", url: "/?TOKEN=1" }), {
      Password: "[FILTERED]",
      accessToken: "[FILTERED]",
      url: "[FILTERED]"
    })
  })

  it("hides a string that contains one followed by =, and no other", () => {
    assert.deepStrictEqual(filter({ url: "/login?user=a&token=b", text: "my token: b", query: "token" }), {
      url: "[FILTERED]",
      text: "my token: b",
      query: "token"
    })
    assert.deepStrictEqual(filter(["a", "password=b"]), ["a", "[FILTERED]"])
    assert.strictEqual(filter("password=b"), "[FILTERED]")
  })

  it("looks into objects and arrays at every depth", () => {
    assert.deepStrictEqual(filter({ users: [{ name: "a", login: { password: "b" } }, [{ token: "c" }]] }), {
      users: [{ name: "a", login: { password: "[FILTERED]" } }, [{ token: "[FILTERED]" }]]
    })
  })

  it("leaves instances of classes and short binary data alone", () => {
    const value = { account: new Account(), date: new Date(0), bytes: new Uint8Array(maxBytes), map: new Map() }
    const shown = filter(value)
    assert.deepStrictEqual(shown, value)
    assert.propertyVal(shown, "account", value.account)
    assert.propertyVal(shown, "bytes", value.bytes)
  })

  it("leaves what is no text alone", () => {
    const value = [null, undefined, true, 0, 1n, NaN]
    assert.deepStrictEqual(filter(value), value)
  })

  it("an empty list hides nothing", () => {
    assert.deepStrictEqual(filterParameters({ password: "a" }, []), { password: "a" })
  })

  it("does not change what it is given", () => {
    const value = Object.freeze({ password: "a", list: Object.freeze([Object.freeze({ token: "b" })]) })
    filter(value)
    assert.deepStrictEqual(value, { password: "a", list: [{ token: "b" }] })
  })
})

describe("keep", () => {
  const filter = (value: unknown) => filterParameters(value, { keep: ["id", "order"] })

  it("hides every value but those of exactly these keys", () => {
    assert.deepStrictEqual(filter({ id: 1, ID: 2, user_id: 3, name: "a", none: null, account: new Account() }), {
      id: 1,
      ID: "[FILTERED]",
      user_id: "[FILTERED]",
      name: "[FILTERED]",
      none: "[FILTERED]",
      account: "[FILTERED]"
    })
  })

  it("shows whole what is below a kept key", () => {
    const order = { items: [{ token: "a", note: "password=b" }], account: new Account() }
    assert.deepStrictEqual(filter({ order }), { order })
  })

  it("finds kept keys at every depth", () => {
    assert.deepStrictEqual(filter({ list: [{ id: 1, name: "a" }, "b", []] }), {
      list: [{ id: 1, name: "[FILTERED]" }, "[FILTERED]", "[FILTERED]"]
    })
    assert.deepStrictEqual(filter({ nothing: {} }), { nothing: {} })
  })

  it("an empty list shows nothing", () => {
    assert.strictEqual(filterParameters("a", { keep: [] }), "[FILTERED]")
    assert.deepStrictEqual(filterParameters({ a: new Uint8Array(1) }, { keep: [] }), { a: "[FILTERED]" })
  })
})

describe("unusual objects", () => {
  it("a key __proto__ is a key as any other", () => {
    const value: unknown = JSON.parse(`{"__proto__":{"token":"a","admin":true},"constructor":{"password":"b"}}`)
    const shown = filterParameters(value, names)
    assert.strictEqual(
      JSON.stringify(shown),
      `{"__proto__":{"token":"[FILTERED]","admin":true},"constructor":{"password":"[FILTERED]"}}`
    )
    assert.notProperty({}, "admin")
    assert.strictEqual(Object.getPrototypeOf(shown), Object.prototype)
  })

  it("an object without a prototype is filtered", () => {
    const value: unknown = Object.assign(Object.create(null), { token: "a", id: 1 })
    assert.deepStrictEqual(filterParameters(value, names), { token: "[FILTERED]", id: 1 })
  })

  it("an object that contains itself comes to an end", () => {
    const value: Record<string, unknown> = { token: "a" }
    value["self"] = value
    assert.include(JSON.stringify(filterParameters(value, names)), "{…}")
  })
})

describe("bounds", () => {
  const nested = (depth: number): unknown => depth === 0 ? 1 : { a: nested(depth - 1) }

  it("a string is shown up to its length, and how much is missing", () => {
    const exact = "a".repeat(maxLength)
    assert.strictEqual(filterParameters(exact, names), exact)
    assert.strictEqual(filterParameters(`${exact}bcd`, names), `${exact}… (3 more characters)`)
  })

  it("a cut leaves no half of a character", () => {
    const shown = filterParameters(`${"a".repeat(maxLength - 1)}😀`, names)
    assert.isTrue(typeof shown === "string" && shown.isWellFormed())
  })

  it("a key is shown up to its length, and hidden by what it contains as a whole", () => {
    const shown = filterParameters({ [`${"a".repeat(maxLength)}token`]: "b" }, names)
    assert.deepStrictEqual(shown, { [`${"a".repeat(maxLength)}… (5 more characters)`]: "[FILTERED]" })
  })

  it("binary data above the bound is only counted", () => {
    assert.strictEqual(filterParameters(new Uint8Array(maxBytes + 1), names), `[${maxBytes + 1} bytes]`)
  })

  it("levels are shown up to the bound", () => {
    assert.deepStrictEqual(filterParameters(nested(maxDepth), names), nested(maxDepth))
    assert.include(JSON.stringify(filterParameters(nested(maxDepth + 1), names)), "{\"a\":\"{…}\"}")
    assert.strictEqual(JSON.stringify(filterParameters([[[[[[[[[1]]]]]]]]], names)), "[[[[[[[[\"[…]\"]]]]]]]]")
  })

  it("values are shown up to the bound, all levels together, and how many are missing", () => {
    const list = Array.from({ length: maxValues }, (_, index) => index)
    assert.deepStrictEqual(filterParameters(list, names), list)
    assert.deepStrictEqual(filterParameters([...list, 1, 2], names), [...list, "… (2 more)"])
    const object = Object.fromEntries(list.map((index) => [`k${index}`, index]))
    assert.deepStrictEqual(filterParameters({ ...object, a: 1 }, names), { ...object, "…": "1 more" })
    assert.deepStrictEqual(filterParameters([list, "a"], names), [
      [...list.slice(0, -1), "… (1 more)"],
      "… (1 more)"
    ])
  })

  it.each([
    ["one string", "a".repeat(10_000_000)],
    ["many strings", Array.from({ length: 10_000 }, () => "a".repeat(1000))],
    ["a wide object", Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`${i}${"a".repeat(1000)}`, "b"]))],
    ["a deep array", JSON.parse(`${"[".repeat(5000)}${"]".repeat(5000)}`) as unknown]
  ])("a large payload makes no large line: %s", (_, value) => {
    assert.isBelow(JSON.stringify(filterParameters(value, names)).length, 6000)
  })
})

describe("a filter that makes no sense", () => {
  const secret = { password: "a", id: 1, list: ["password=b"] }

  it.each(
    [
      [null],
      [undefined],
      [""],
      ["password"],
      [5],
      [true],
      [{}],
      [() => ["password"]],
      [[undefined]],
      [["password", null]],
      [["password", 5]],
      [[/password/]],
      [{ keep: null }],
      [{ keep: "id" }],
      [{ keep: [/id/] }],
      [{ keep: { id: true } }],
      [new Set(["password"])]
    ] satisfies ReadonlyArray<readonly [unknown]>
  )("hides everything, and does not throw: %s", (filter) => {
    assert.deepStrictEqual(filterParameters(secret, filter as never), {
      password: "[FILTERED]",
      id: "[FILTERED]",
      list: ["[FILTERED]"]
    })
    assert.strictEqual(filterParameters("text", filter as never), "[FILTERED]")
  })
})

describe("what would harm the log", () => {
  const hostile = "a\nINFO: forged\u001b[2J\u202e\u2028b\ud800"

  it("is escaped, in values and in keys, at every depth", () => {
    const shown = JSON.stringify(filterParameters({ [hostile]: [hostile, { [hostile]: hostile }] }, names))
    // JSON's own escapes are gone, except for those of the backslashes.
    assert.strictEqual(shown.replaceAll("\\\\", ""), shown.replaceAll("\\", ""))
    assert.include(shown, "a\\\\nINFO: forged\\\\u001b[2J\\\\u202e\\\\u2028b\\\\ud800")
    assert.strictEqual(filterParameters(hostile, names), "a\\nINFO: forged\\u001b[2J\\u202e\\u2028b\\ud800")
    assert.strictEqual(
      JSON.stringify(filterParameters({ keep: { [hostile]: hostile } }, { keep: ["keep"] })).includes("\n"),
      false
    )
  })

  it("is hidden where it cannot be read", () => {
    const throwing = {
      get password(): string {
        throw new Error("not today")
      },
      get id(): string {
        throw new Error("not today")
      }
    }
    assert.strictEqual(filterParameters(throwing, names), "[FILTERED]")
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    assert.strictEqual(filterParameters({ proxy }, names), "[FILTERED]")
  })
})

describe("the cost", () => {
  const millisOf = (value: unknown) => {
    const start = performance.now()
    filterParameters(value, ["password", "token"])
    return performance.now() - start
  }
  const large = "x".repeat(10_000_000)

  it.each([
    ["one string", large],
    ["many strings", Array.from({ length: 1000 }, () => large)],
    ["a long list", Array.from({ length: 5_000_000 }, () => 0)],
    ["a long key", { [large]: 1 }],
    ["bytes", new Uint8Array(10_000_000)],
    ["a deep list", JSON.parse(`${"[".repeat(5000)}${"]".repeat(5000)}`) as unknown]
  ])("does not grow with what a client sends: %s of 10 MB", (_, value) => {
    assert.isBelow(Math.min(millisOf(value), millisOf(value), millisOf(value)), 50)
  })

  it("of an object of 10 MB is far less than that of reading it as JSON", () => {
    const text = `{${Array.from({ length: 1_000_000 }, (_, n) => `"k${n}":1`).join()}}`
    const start = performance.now()
    const value: unknown = JSON.parse(text)
    const reading = performance.now() - start
    assert.isBelow(Math.min(millisOf(value), millisOf(value)), Math.max(50, reading))
  })

  it("a key that is too long to be searched hides what it holds", () => {
    const exact = "k".repeat(maxKeyLength)
    assert.deepStrictEqual(Object.values(Object(filterParameters({ [exact]: "a", [`${exact}k`]: "b" }, names))), [
      "a",
      "[FILTERED]"
    ])
    assert.deepStrictEqual(Object.values(Object(filterParameters({ [exact]: "a" }, names))), ["a"])
  })
})

describe("formatDuration", () => {
  it.each([
    [0, "0µs"],
    [999, "0µs"],
    [12_345, "12µs"],
    [1_000_999, "1000µs"],
    [1_001_000, "1ms"],
    [3_999_999, "3ms"],
    [12_000_000_000n, "12000ms"]
  ])("%d ns is %s", (nanos, text) => {
    assert.strictEqual(formatDuration(nanos), text)
  })
})
