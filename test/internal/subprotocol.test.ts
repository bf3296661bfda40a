import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { chooseProtocol, type Protocol } from "../../src/internal/subprotocol.ts"

/** As phoenix.js writes the token of a client. */
const bearer = (token: string) => `base64url.bearer.phx.${Buffer.from(token).toString("base64").replaceAll("=", "")}`

const chosen = (chosen: string | undefined, asked: ReadonlyArray<string>, authToken?: string): Protocol => ({
  _tag: "Chosen",
  chosen,
  asked,
  authToken
})

describe("without a list of protocols that are spoken", () => {
  it("every client is welcome and is answered nothing", () => {
    assert.deepStrictEqual(chooseProtocol(undefined, undefined, false), chosen(undefined, []))
    assert.deepStrictEqual(chooseProtocol("a, b", undefined, false), chosen(undefined, ["a", "b"]))
  })

  it("what looks like a token is a protocol as any other where no token is asked for", () => {
    const text = `phoenix, ${bearer("secret")}`
    assert.deepStrictEqual(chooseProtocol(text, undefined, false), chosen(undefined, text.split(", ")))
    assert.deepStrictEqual(chooseProtocol("base64url.bearer.phx.!", undefined, false)._tag, "Chosen")
  })
})

describe("with a list of protocols that are spoken", () => {
  it("the first of the list that the client names is chosen, in whatever order the client names them", () => {
    const spoken = ["v3", "v2", "v1"]
    assert.deepStrictEqual(chooseProtocol("v1, v2", spoken, false), chosen("v2", ["v1", "v2"]))
    assert.deepStrictEqual(chooseProtocol("v2, v1", spoken, false), chosen("v2", ["v2", "v1"]))
    fc.assert(
      fc.property(fc.uniqueArray(fc.stringMatching(/^[a-z]{1,2}$/)), fc.array(fc.stringMatching(/^[a-z]{1,2}$/)), (
        spoken,
        asked
      ) => {
        const answer = chooseProtocol(asked.join(", "), spoken, false)
        const first = spoken.find((protocol) => asked.includes(protocol))
        return answer._tag === "Chosen" ? first !== undefined && answer.chosen === first : first === undefined
      })
    )
  })

  it("a client that names none is welcome and is answered nothing", () => {
    assert.deepStrictEqual(chooseProtocol(undefined, ["v1"], false), chosen(undefined, []))
    assert.deepStrictEqual(chooseProtocol(undefined, [], false), chosen(undefined, []))
  })

  it("a client that names others only is a mismatch, also with an empty header or an empty list", () => {
    assert.deepStrictEqual(chooseProtocol("a,b", ["v1"], false), { _tag: "Mismatch", asked: ["a", "b"] })
    assert.deepStrictEqual(chooseProtocol("", ["v1"], false), { _tag: "Mismatch", asked: [] })
    assert.deepStrictEqual(chooseProtocol("a", [], false), { _tag: "Mismatch", asked: ["a"] })
  })

  it("what looks like a token is not among those of a mismatch, which are for the log", () => {
    const text = `a, ${bearer("secret")}, ${bearer("other")}`
    for (const authToken of [false, true]) {
      assert.deepStrictEqual(chooseProtocol(text, ["v1"], authToken), { _tag: "Mismatch", asked: ["a"] })
    }
  })

  it("a name is the whole name, in its own case, with any white space around it", () => {
    assert.deepStrictEqual(chooseProtocol(" \tv1 ,, v2\t", ["v2"], false), chosen("v2", ["v1", "v2"]))
    for (const header of ["V1", "v", "v11", "v1;q=1"]) {
      assert.strictEqual(chooseProtocol(header, ["v1"], false)._tag, "Mismatch", header)
    }
  })
})

describe("with a token", () => {
  it("the token is decoded and taken out, and phoenix is chosen", () => {
    assert.deepStrictEqual(
      chooseProtocol(`phoenix, ${bearer("1234")}`, undefined, true),
      chosen("phoenix", ["phoenix"], "1234")
    )
    assert.deepStrictEqual(
      chooseProtocol(`${bearer("1234")},phoenix`, undefined, true),
      chosen("phoenix", ["phoenix"], "1234")
    )
  })

  it("it is in the standard alphabet of Base64, whatever its length", () => {
    assert.deepStrictEqual(
      chooseProtocol("phoenix, base64url.bearer.phx.Pz8/Pj4+", undefined, true),
      chosen("phoenix", ["phoenix"], "???>>>")
    )
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (token) => {
        const answer = chooseProtocol(`phoenix, ${bearer(token)}`, undefined, true)
        return answer._tag === "Chosen" && answer.authToken === token
      })
    )
  })

  it("what is not Base64 is malformed", () => {
    for (const bad of ["!", "a", "abcde", "Pz8_Pj4-", "MQ===", "a b", "ä"]) {
      assert.deepStrictEqual(chooseProtocol(`phoenix, base64url.bearer.phx.${bad}`, undefined, true), {
        _tag: "Malformed"
      }, bad)
    }
  })

  it("what is not UTF-8 is Latin-1, as phoenix.js encodes it; padding does no harm", () => {
    for (const [text, token] of [["6Q", "é"], ["6Q==", "é"], ["w6k", "é"], ["/w", "ÿ"]] as const) {
      assert.deepStrictEqual(
        chooseProtocol(`phoenix, base64url.bearer.phx.${text}`, undefined, true),
        chosen("phoenix", ["phoenix"], token)
      )
    }
  })

  it("an empty one is one", () => {
    assert.deepStrictEqual(
      chooseProtocol("phoenix, base64url.bearer.phx.", undefined, true),
      chosen("phoenix", ["phoenix"], "")
    )
  })

  it("without one, or without the header, there is none", () => {
    assert.deepStrictEqual(chooseProtocol("phoenix", undefined, true), chosen("phoenix", ["phoenix"]))
    assert.deepStrictEqual(chooseProtocol(undefined, undefined, true), chosen(undefined, []))
    for (const other of ["bearer.phx.MQ", "Base64url.bearer.phx.MQ", "x.base64url.bearer.phx.MQ"]) {
      assert.deepStrictEqual(
        chooseProtocol(`phoenix, ${other}`, undefined, true),
        chosen("phoenix", ["phoenix", other])
      )
    }
  })

  it("several are none, not even when they are the same or malformed", () => {
    for (
      const tokens of [[bearer("1"), bearer("2")], [bearer("1"), bearer("1")], [bearer("1"), "base64url.bearer.phx.!"]]
    ) {
      assert.deepStrictEqual(
        chooseProtocol(["phoenix", ...tokens].join(), undefined, true),
        chosen("phoenix", ["phoenix", ...tokens])
      )
    }
  })

  it("phoenix is spoken before all that the server speaks otherwise", () => {
    assert.deepStrictEqual(chooseProtocol("v1, phoenix", ["v1"], true), chosen("phoenix", ["v1", "phoenix"]))
    assert.deepStrictEqual(chooseProtocol(`v1, ${bearer("1")}`, ["v1"], true), chosen("v1", ["v1"], "1"))
    assert.deepStrictEqual(chooseProtocol(`v2, ${bearer("1")}`, ["v1"], true), { _tag: "Mismatch", asked: ["v2"] })
    assert.deepStrictEqual(chooseProtocol("v2", undefined, true), { _tag: "Mismatch", asked: ["v2"] })
  })

  it("a client that sends nothing but its token asks for no protocol, and is answered none", () => {
    assert.deepStrictEqual(chooseProtocol(bearer("1"), undefined, true), chosen(undefined, [], "1"))
    assert.deepStrictEqual(chooseProtocol(bearer("1"), ["v1"], true), chosen(undefined, [], "1"))
  })
})
