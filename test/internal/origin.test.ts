import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { OptionError } from "../../src/internal/options.ts"
import { type CheckOrigin, compileOrigin, hostOption, type Origin } from "../../src/internal/origin.ts"

const request = { host: "example.com", secure: false }

/** Splits the origins into those that may connect and those that may not. */
const sort = (
  option: CheckOrigin,
  origins: ReadonlyArray<string>,
  { endpointHost, ...target }: { readonly endpointHost?: string; readonly host?: string; readonly secure?: boolean } =
    {}
) => {
  const check = compileOrigin(option, endpointHost)
  return Object.groupBy(origins, (origin) => check(origin, { ...request, ...target }) ? "allowed" : "refused")
}

const allows = (option: CheckOrigin, allowed: ReadonlyArray<string>, target?: Parameters<typeof sort>[2]): void =>
  assert.deepStrictEqual(sort(option, allowed, target), Object.assign(Object.create(null), { allowed }))

const refuses = (option: CheckOrigin, refused: ReadonlyArray<string>, target?: Parameters<typeof sort>[2]): void =>
  assert.deepStrictEqual(sort(option, refused, target), Object.assign(Object.create(null), { refused }))

const hostless = ["", "null", "file://", "//", "/", "example.com", "http:example.com", "about:blank", "http://:80"]

const malformed = [
  "http://[::1",
  "http://::1",
  "http://[]",
  "http://a[b]",
  "http://example.com:x",
  "http://example.com:80x",
  "http://example.com:65536",
  " http://example.com"
]

const hosts = fc.domain()

const ports = fc.integer({ min: 1, max: 65535 })

const returns = (value: unknown): () => boolean => () => value as boolean

const never = () => assert.fail("the function was asked")

describe("origin", () => {
  it("lets everyone connect who sends no origin, whatever the option", () => {
    for (const option of [true, false, "conn", [], ["//a.com"], never] as ReadonlyArray<CheckOrigin>) {
      assert.isTrue(compileOrigin(option, "a.com")(undefined, request))
    }
  })

  it("lets any origin connect if the check is off", () => {
    allows(false, ["https://anything.com", ...hostless, ...malformed])
  })

  it("refuses origins without a host and malformed ones by list, true and conn", () => {
    for (const option of [true, "conn", ["//example.com", "//*.example.com", "http://null"]] as const) {
      refuses(option, [...hostless, ...malformed])
      refuses(option, [...hostless, ...malformed], { endpointHost: "example.com" })
      refuses(option, [...hostless, ...malformed], { endpointHost: "", host: "" })
    }
    for (const option of [true, "conn"] as const) {
      assert.isFalse(compileOrigin(option, undefined)("null", { host: undefined, secure: false }))
    }
  })

  describe("true", () => {
    it("compares the origin's host with the endpoint's, on any scheme and port", () => {
      const endpoint = { endpointHost: "host.com", host: "other.com" }
      allows(true, ["http://host.com", "https://host.com/", "ws://host.com:4000", "//host.com"], endpoint)
      refuses(true, ["http://other.com", "http://www.host.com", "http://host.com.evil.com"], endpoint)
    })

    it("compares with the request's host, without its port, if the endpoint names none", () => {
      allows(true, ["http://example.com", "https://example.com:4000"], { host: "example.com:8080" })
      refuses(true, ["http://host.com"], { host: "example.com:8080" })
      assert.isFalse(compileOrigin(true, undefined)("http://example.com", { host: undefined, secure: false }))
    })

    it("knows an IPv6 host with and without brackets", () => {
      for (const endpointHost of ["::1", "[::1]"]) {
        allows(true, ["http://[::1]", "http://[::1]:4000"], { endpointHost })
        refuses(true, ["http://[::2]", "http://1"], { endpointHost })
      }
      allows(true, ["http://[fe80::1]:81"], { host: "[fe80::1]:80" })
    })
  })

  describe("a list", () => {
    it("compares the scheme, host and port that an entry gives", () => {
      const origins = ["//example.com", "http://scheme.com", "//port.com:81", "https://both.com:8080", "//[::1]:4000"]
      allows(origins, [
        "http://example.com/",
        "https://example.com:4000",
        "http://scheme.com",
        "http://scheme.com:80",
        "http://port.com:81",
        "https://port.com:81",
        "https://both.com:8080",
        "http://[::1]:4000"
      ])
      refuses(origins, [
        "http://notallowed.com",
        "http://www.example.com",
        "https://scheme.com",
        "ws://scheme.com",
        "http://scheme.com:8080",
        "http://port.com",
        "http://port.com:82",
        "https://both.com",
        "http://both.com:8080",
        "http://[::1]",
        "http://[::2]:4000"
      ])
    })

    it("takes a scheme for its default port", () => {
      for (const [scheme, port] of [["http", 80], ["https", 443], ["ws", 80], ["wss", 443]] as const) {
        allows([`${scheme}://a.com`], [`${scheme}://a.com`, `${scheme}://a.com:${port}`])
        allows([`${scheme}://a.com:${port}`], [`${scheme}://a.com`])
        allows([`//a.com:${port}`], [`${scheme}://a.com`])
        refuses([`${scheme}://a.com`], [`${scheme}://a.com:8080`])
      }
      allows(["chrome-extension://abc"], ["chrome-extension://abc"])
    })

    it("matches the host behind a leading wildcard and every host below, but no lookalike", () => {
      const origins = ["http://*.foo.example.com", "//*.ex.com"]
      allows(origins, [
        "http://org1.foo.example.com",
        "http://foo.example.com",
        "http://a.b.c.foo.example.com",
        "https://ex.com:81"
      ])
      refuses(origins, [
        "https://org1.foo.example.com",
        "http://org1.foo.example.com:81",
        "http://bad.example.com",
        "http://org1.prefix-foo.example.com",
        "http://prefix-ex.com",
        "http://org1.prefix-ex.com",
        "http://ex.com.evil.com",
        "http://ex.com@evil.com"
      ])
    })

    it("knows no other wildcard, and says so at once", () => {
      for (const entry of ["//*", "//a.*.com", "//*a.com", "//*.*.com", "https://*:443", "chrome-extension://*."]) {
        assert.throws(() => compileOrigin([entry], undefined), OptionError, JSON.stringify(entry))
      }
    })

    it("matches what a browser sends, however the entry is written", () => {
      const written: ReadonlyArray<readonly [entry: string, origin: string]> = [
        ["https://example.com/", "https://example.com"],
        ["https://example.com/app?a=b#c", "https://example.com"],
        ["https://example.com:443", "https://example.com"],
        ["http://example.com:80/", "http://example.com"],
        ["HTTPS://EXAMPLE.COM", "https://example.com"],
        ["wss://example.com", "https://example.com"],
        ["ws://example.com:4000/socket", "http://example.com:4000"],
        ["//b\u00fccher.example", "https://xn--bcher-kva.example"],
        ["https://B\u00dcCHER.example:8443", "https://xn--bcher-kva.example:8443"],
        ["//*.b\u00fccher.example", "https://a.xn--bcher-kva.example"],
        ["//[0:0:0:0:0:0:0:1]:4000", "http://[::1]:4000"],
        ["//127.1", "http://127.0.0.1"],
        ["//intern_host", "http://intern_host"],
        ["capacitor://localhost", "capacitor://localhost"]
      ]
      for (const [entry, origin] of written) {
        allows([entry], [origin])
        refuses([entry], ["https://example.org", "https://example.com.evil.com"])
      }
      allows(true, ["https://xn--bcher-kva.example"], { endpointHost: "b\u00fccher.example" })
      allows(true, ["https://example.com"], { endpointHost: "EXAMPLE.com" })
    })

    it("is refused at once with an entry that no browser can send", () => {
      const bad = ["https://exa mple.com", "//a..%", "https://example.com:0", "https://:443", 7, null, undefined, {}, [
        []
      ]]
      for (const entry of bad) {
        // Programs in JavaScript give anything.
        const option = [entry] as ReadonlyArray<string>
        assert.throws(
          () => compileOrigin(option, undefined, "socket a: checkOrigin"),
          OptionError,
          "socket a: checkOrigin"
        )
      }
    })

    it("compares hosts and schemes without regard to case", () => {
      allows(["HTTPS://Example.com", "//*.A.com"], ["https://example.com", "https://EXAMPLE.com", "http://b.a.COM"])
    })

    it("lets nobody connect if it is empty", () => {
      refuses([], ["http://example.com"])
    })

    it("is refused at once, with the entry and how to write it, if an entry has no host", () => {
      for (const entry of [...hostless, ...malformed, "*.example.com", "localhost:4000", "//*.", "https://"]) {
        try {
          compileOrigin(["//fine.com", entry], undefined)
        } catch (error) {
          assert.instanceOf(error, RangeError)
          assert.include(error.message, JSON.stringify(entry))
          assert.include(error.message, `"//example.com"`)
          continue
        }
        assert.fail(`accepted ${entry}`)
      }
    })

    it("allows an entry as origin, and under its wildcard every host below", () => {
      fc.assert(fc.property(hosts, hosts, ports, fc.constantFrom("http", "https"), (host, below, port, scheme) => {
        const origin = `${scheme}://${host}:${port}`
        for (const entry of [origin, `//${host}`, `//${host}:${port}`, `//*.${host}`]) allows([entry], [origin])
        allows([`${scheme}://*.${host}:${port}`], [origin, `${scheme}://${below}.${host}:${port}`])
        refuses([`//*.${host}`], [`${scheme}://x${host}`, `${scheme}://${host}.0`])
      }))
    })
  })

  describe("conn", () => {
    it("compares scheme, host and port with the request's own", () => {
      allows("conn", ["http://example.com", "http://example.com:80", "http://EXAMPLE.com"])
      refuses("conn", [
        "https://example.com",
        "ws://example.com",
        "wss://example.com",
        "//example.com",
        "http://example.com:4000",
        "http://www.example.com",
        "http://another.com"
      ])
      allows("conn", ["https://example.com"], { secure: true })
      refuses("conn", ["http://example.com", "https://example.com:4000"], { secure: true })
      allows("conn", ["http://example.com:4000"], { host: "example.com:4000" })
      refuses("conn", ["http://example.com"], { host: "example.com:4000" })
      allows("conn", ["http://[::1]:4000"], { host: "[::1]:4000" })
    })

    it("does not ask the endpoint's host, and refuses all if the request has none", () => {
      refuses("conn", ["http://endpoint.com"], { endpointHost: "endpoint.com" })
      assert.isFalse(compileOrigin("conn", "a.com")("http://a.com", { host: undefined, secure: false }))
    })
  })

  describe("a function", () => {
    it("decides on every origin, also those without a host", () => {
      const isHostless = (origin: Origin) => origin.host === undefined
      allows(isHostless, [...hostless, ...malformed])
      refuses(isHostless, ["http://example.com", "//[::1]"])
    })

    it("gets the origin in parts and as it came", () => {
      const seen: Array<Origin> = []
      const check = compileOrigin((origin) => seen.push(origin) > 0, undefined)
      const parts = (raw: string, scheme?: string, host?: string, port?: number) => ({ scheme, host, port, raw })
      const expected = [
        parts("https://Example.com", "https", "example.com", 443),
        parts("http://user:pass@a.com:81/path?query#fragment", "http", "a.com", 81),
        parts("http://a.com:", "http", "a.com", 80),
        parts("//[::1]:4000", undefined, "::1", 4000),
        parts("chrome-extension://abc", "chrome-extension", "abc"),
        parts("file://", "file"),
        parts("null"),
        parts("")
      ]
      for (const { raw } of expected) check(raw, request)
      assert.deepStrictEqual(seen, expected)
    })
  })

  it("is a boolean, conn, a list or a function; a string is told to be a list", () => {
    const bad = ["https://example.com", "//example.com", "true", "", null, 1, NaN, {}, new Map()]
    for (const option of bad) {
      assert.throws(() => compileOrigin(option as CheckOrigin, undefined), OptionError, "checkOrigin must be")
    }
    const url = ["https://example.com"][0] as CheckOrigin
    assert.throws(() => compileOrigin(url, undefined), OptionError, `["https://example.com"]`)
  })

  it("is not decided by a function that returns anything but a boolean: a promise would let everybody in", () => {
    for (const returned of [Promise.resolve(false), undefined, null, 1, "yes", []]) {
      const check = compileOrigin(returns(returned), undefined)
      assert.throws(() => check("http://a.com", request), TypeError, "checkOrigin")
    }
  })

  it("knows the names of hosts", () => {
    for (const host of ["example.com", "EXAMPLE.com", "::1", "[::1]", "localhost:4000", "b\u00fccher.example"]) {
      assert.strictEqual(hostOption("host", host), host)
    }
    for (const host of ["https://example.com", "example.com/", "*.example.com", "", " a", "a b", "a@b", 1, null, {}]) {
      assert.throws(() => hostOption("host", host), OptionError, "host must be")
    }
  })

  it("decides on any string, as origin and as request host", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string({ unit: fc.constantFrom("http", "a", ".", ":", "/", "//", "@", "[", "]", "8", "*", "?", "#") })
    )
    const checks = [true, "conn" as const, ["//a.com", "//*.b.com"]].map((option) => compileOrigin(option, undefined))
    fc.assert(fc.property(text, text, fc.boolean(), (origin, host, secure) => {
      for (const check of checks) assert.isBoolean(check(origin, { host, secure }))
    }))
  })
})
