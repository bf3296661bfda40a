import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import * as fc from "fast-check"
import { createRequire } from "node:module"
import { decodeQuery, maxDepth, type Param, type Params, QueryError } from "../../src/internal/query.ts"

const { Socket } = createRequire(import.meta.url)("phoenix") as {
  readonly Socket: new(
    endPoint: string,
    options: { readonly params: object; readonly transport: unknown }
  ) => { readonly endPointURL: () => string }
}

/** The query a browser sends for these params, with the `?` and with `vsn`. */
const queryOf = (params: object): string =>
  new Socket("wss://example.com/socket", { params, transport: WebSocket }).endPointURL().replace(/^[^?]*/, "")

const params = (query: string): Params => Result.getOrThrow(decodeQuery(query))

const decoded = (query: string): unknown => JSON.parse(JSON.stringify(params(query)))

const refused = (query: string): QueryError["reason"] => {
  const result = decodeQuery(query)
  assert(Result.isFailure(result), query)
  assert.instanceOf(result.failure, QueryError)
  return result.failure.reason
}

const decodesTo = (cases: { readonly [query: string]: unknown }): void => {
  for (const [query, expected] of Object.entries(cases)) assert.deepStrictEqual(decoded(query), expected, query)
}

const isList = (param: Param): param is ReadonlyArray<Param> => Array.isArray(param)

const allAreStringsWithoutPrototype = (param: Param): boolean =>
  typeof param === "string"
  || (isList(param)
    ? param.every(allAreStringsWithoutPrototype)
    : Object.getPrototypeOf(param) === null && Object.values(param).every(allAreStringsWithoutPrototype))

const maxNumRuns = 500

describe("query", () => {
  it("reads names, nested names, lists and numbered names", () => {
    decodesTo({
      "": {},
      "a=1&b[c]=2&d[]=x&d[]=y&e[0]=z": { a: "1", b: { c: "2" }, d: ["x", "y"], e: { 0: "z" } },
      "x[y][z]=1": { x: { y: { z: "1" } } },
      "x[y][z][]=1&x[y][z][]=2": { x: { y: { z: ["1", "2"] } } },
      "x[y][][z][]=1": { x: { y: [{ z: ["1"] }] } },
      "x[][][]=1": { x: [[["1"]]] },
      "x[][a]=1&x[][b]=2": { x: [{ a: "1", b: "2" }] },
      "x[]=1&x[][a]=2": { x: ["1", { a: "2" }] }
    })
  })

  it("takes a name without a value, and a value without a name", () => {
    decodesTo({
      "key": { key: "" },
      "key=": { key: "" },
      "foo[]": { foo: [""] },
      "=": { "": "" },
      "=value": { "": "value" },
      "a=b=c": { a: "b=c" }
    })
  })

  it("ignores a leading question mark and empty segments", () => {
    decodesTo({
      "?": {},
      "&": {},
      "?a=1": { a: "1" },
      "vsn=2.0.0&": { vsn: "2.0.0" },
      "&x=1&&y=2&": { x: "1", y: "2" }
    })
  })

  it("lets the last value win, and of several uses of a name the one that began last", () => {
    decodesTo({
      "a=1&a=2": { a: "2" },
      "x[y][z]=1&x[y][z]=2": { x: { y: { z: "2" } } },
      "a=1&a[b]=2": { a: { b: "2" } },
      "a[b]=2&a=1": { a: "1" },
      "a[b]=1&a=2&a[c]=3": { a: "2" },
      "x[]=1&x[y]=1": { x: { y: "1" } },
      "x[y]=1&x[]=1": { x: ["1"] },
      "x[y][][w]=2&x[y]=1": { x: { y: "1" } },
      "x[y][0][w]=2&x[y]=1": { x: { y: "1" } }
    })
  })

  it("takes a name with stray brackets as it is", () => {
    decodesTo({
      "a[=1": { "a[": "1" },
      "a]=1": { "a]": "1" },
      "[a]=1": { "[a]": "1" },
      "[]=1": { "[]": "1" },
      "a[b]c=1": { "a[b]c": "1" },
      "a[b]c]=1": { a: { "b]c": "1" } },
      "a[b[c]]=1": { a: { "b[c]": "1" } },
      "a[b][]]=1": { a: { b: { "]": "1" } } }
    })
  })

  it("unescapes names and values, where a plus is a space", () => {
    decodesTo({
      "my+weird+field=q1%212%22%27w%245%267%2Fz8%29%3F": { "my weird field": "q1!2\"'w$5&7/z8)?" },
      "a%5Bb%5d=%2B+%26%3D%00": { a: { b: "+ &=\0" } },
      "%C3%A5=%F0%9F%98%80": { å: "😀" },
      "a=100%&b=%zz&%4=%": { a: "100%", b: "%zz", "%4": "%" },
      "å=😀": { å: "😀" }
    })
  })

  it("refuses what is not percent-encoded UTF-8, in names and in values", () => {
    for (
      const text of ["%ff", "%C3", "%C0%80", "%ED%A0%80", "%F4%90%80%80", "\ud800"]
    ) {
      assert.strictEqual(refused(`ok=1&a=${text}`), "encoding")
      assert.strictEqual(refused(`${text}=1`), "encoding")
    }
  })

  it("refuses names nested deeper than the limit, however deep", () => {
    for (const key of ["[]", "[a]", "%5Ba%5D"]) {
      assert.isTrue(Result.isSuccess(decodeQuery(`a${key.repeat(maxDepth)}=1`)))
      for (const depth of [maxDepth + 1, 100_000]) assert.strictEqual(refused(`a${key.repeat(depth)}=1`), "depth")
    }
  })

  it("holds names that objects inherit like any other", () => {
    const { __proto__: proto, constructor, ...rest } = params("__proto__[admin]=1&constructor=2&a[__proto__][b]=3")
    assert.deepStrictEqual(JSON.stringify([proto, constructor]), `[{"admin":"1"},"2"]`)
    assert.deepStrictEqual(JSON.stringify(rest), `{"a":{"__proto__":{"b":"3"}}}`)
    assert.isUndefined(params("a=1")["toString"])
    assert.notProperty({}, "admin")
  })

  it("decodes or refuses any string, and has only strings in objects without a prototype", () => {
    const pieces = fc.string({
      unit: fc.constantFrom("a", "b", "[", "]", "[]", "[a]", "&", "=", "%", "+", "?", "%5B", "%5D", "%ff", "__proto__")
    })
    fc.assert(
      fc.property(fc.oneof(pieces, fc.string({ unit: "binary" })), (query) => {
        const result = decodeQuery(query)
        assert(Result.isFailure(result) || allAreStringsWithoutPrototype(result.success))
      }),
      { numRuns: maxNumRuns }
    )
  })

  it("reads the params that phoenix.js wrote, its arrays as numbered names", () => {
    // Names with brackets of their own are ambiguous on the wire, and phoenix.js leaves out what is empty.
    const name = fc.string({ unit: "grapheme", minLength: 1 }).filter((name) => !/[[\]]/.test(name) && name !== "vsn")
    const { tree } = fc.letrec<{ readonly tree: object; readonly value: unknown }>((tie) => ({
      tree: fc.oneof(
        fc.dictionary(name, tie("value"), { minKeys: 1, maxKeys: 4 }),
        fc.array(tie("value"), { minLength: 1, maxLength: 4 })
      ),
      value: fc.oneof(
        { maxDepth: 4, withCrossShrink: true },
        fc.oneof(fc.string({ unit: "grapheme" }), fc.integer(), fc.boolean()),
        tie("tree")
      )
    }))
    const leavesAsStrings = (value: unknown): unknown =>
      typeof value === "object" && value !== null
        ? Object.assign(
          Object.create(null),
          Object.fromEntries(Object.entries(value).map(([key, value]) => [key, leavesAsStrings(value)]))
        )
        : String(value)
    fc.assert(
      fc.property(fc.dictionary(name, fc.oneof(tree, fc.string())), (sent) => {
        const { vsn, ...received } = params(queryOf(sent))
        assert.strictEqual(vsn, "2.0.0")
        assert.deepStrictEqual(Object.assign(Object.create(null), received), leavesAsStrings(sent))
      }),
      { numRuns: maxNumRuns }
    )
  })
})
