import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Version from "../../src/internal/version.ts"

const version = (text: string): Version.Version => Version.parse(text) ?? assert.fail(`no version: ${text}`)

const satisfies = (text: string, requirement: string): boolean => Version.satisfies(version(text), requirement)

describe("version", () => {
  it("parses full SemVer versions only", () => {
    assert.deepStrictEqual(Version.parse("1.20.3-alpha.1.x-y+build.01"), {
      numbers: ["1", "20", "3"],
      pre: ["alpha", "1", "x-y"]
    })
    for (const text of ["0.0.0", "1.0.0--", "1.0.0-0a", "1.0.0-a.0", "1.0.0+001", "9007199254740993.0.0"]) version(text)
    for (
      const text of [
        "",
        "1",
        "1.0",
        "1.0-dev",
        "1.0.0.0",
        "01.0.0",
        "1.00.0",
        "1.0.-1",
        "1.0.0-",
        "1.0.0+",
        "1.0.0-a..b",
        "1.0.0-01",
        "1.0.0-ä",
        "1.0.0+a+b",
        " 1.0.0",
        "1.0.0 ",
        "1.0.0\n",
        "1.0.x",
        "١.0.0"
      ]
    ) assert.isUndefined(Version.parse(text), text)
  })

  it("orders versions as SemVer does", () => {
    const ordered = [
      "0.9.9",
      "1.0.0-1",
      "1.0.0-2",
      "1.0.0-10",
      "1.0.0-A",
      "1.0.0-alpha",
      "1.0.0-alpha.1",
      "1.0.0-alpha.beta",
      "1.0.0-beta",
      "1.0.0-beta.2",
      "1.0.0-beta.11",
      "1.0.0-rc.1",
      "1.0.0",
      "1.0.1-dev",
      "1.0.2",
      "1.0.10",
      "1.2.0",
      "9007199254740992.0.0",
      "9007199254740993.0.0"
    ]
    for (const [i, a] of ordered.entries()) {
      for (const [j, b] of ordered.entries()) {
        assert.strictEqual(Math.sign(Version.compare(version(a), version(b))), Math.sign(i - j), `${a} and ${b}`)
      }
    }
    assert.strictEqual(Version.compare(version("1.0.0+a"), version("1.0.0+b")), 0)
  })

  it("matches ~> up to the next minor or major version", () => {
    const cases: ReadonlyArray<readonly [requirement: string, matches: string, misses: string]> = [
      ["~> 2.0.0", "2.0.0 2.0.1 2.0.1-dev 2.0.0+x", "1.9.9 2.0.0-dev 2.1.0 2.1.0-0 3.0.0"],
      ["~> 2.1.2", "2.1.2 2.1.3-dev 2.1.10", "2.1.1 2.2.0 2.2.0-dev"],
      ["~> 2.1.3-dev", "2.1.3-dev 2.1.3 2.1.9", "2.1.3-alpha 2.2.0"],
      ["~> 2.1", "2.1.0 2.9.0 2.2.0-dev", "2.0.9 2.1.0-dev 3.0.0 3.0.0-dev"],
      ["~> 2.1-dev", "2.1.0-dev 2.1.0", "2.1.0-a 3.0.0"]
    ]
    for (const [requirement, matches, misses] of cases) {
      for (const text of matches.split(" ")) assert.isTrue(satisfies(text, requirement), `${text} and ${requirement}`)
      for (const text of misses.split(" ")) assert.isFalse(satisfies(text, requirement), `${text} and ${requirement}`)
    }
  })

  it("matches comparisons joined by and and or", () => {
    for (const requirement of ["1.0.0", "== 1.0.0", ">=1.0.0", "<= 1.0.0", "!= 1.0.1", "> 0.9.0", " < 1.0.1 "]) {
      assert.isTrue(satisfies("1.0.0", requirement), requirement)
    }
    for (const requirement of ["1.0.1", "!= 1.0.0", "> 1.0.0", "< 1.0.0", ">= 1.0.1", "<= 0.9.0"]) {
      assert.isFalse(satisfies("1.0.0", requirement), requirement)
    }
    const requirement = "~> 1.0 or >= 2.0.0 and < 2.1.0"
    for (const text of ["1.0.0", "1.5.0", "2.0.5"]) assert.isTrue(satisfies(text, requirement), text)
    for (const text of ["0.9.0", "2.1.0", "3.0.0"]) assert.isFalse(satisfies(text, requirement), text)
  })

  it("throws for a requirement that cannot be read", () => {
    for (
      const requirement of ["", "~>", "~> 2", ">= 2.0", "=> 1.0.0", "== == 1.0.0", "1.0.0 and", "or 1.0.0", "^1.0.0"]
    ) {
      assert.throws(() => satisfies("1.0.0", requirement), RangeError, "invalid version requirement")
    }
    assert.throws(() => satisfies("1.0.0", "1.0.0 or nonsense"), RangeError)
  })

  it("reads ~> a.b.c as >= a.b.c and < a.(b+1).0-0", () => {
    const small = fc.integer({ min: 0, max: 3 })
    const pre = fc.constantFrom("", "-0", "-dev", "-dev.1", "-rc")
    const any = fc.tuple(small, small, small, pre)
    fc.assert(fc.property(any, any, ([a, b, c, d], [major, minor, patch, suffix]) => {
      assert.strictEqual(
        satisfies(`${a}.${b}.${c}${d}`, `~> ${major}.${minor}.${patch}${suffix}`),
        satisfies(`${a}.${b}.${c}${d}`, `>= ${major}.${minor}.${patch}${suffix} and < ${major}.${minor + 1}.0-0`)
      )
    }))
  })
})
