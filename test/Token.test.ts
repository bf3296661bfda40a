import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createHmac, pbkdf2Sync } from "node:crypto"
import { deflateSync } from "node:zlib"
import * as Token from "../src/Token.ts"

const secret = "abc123".repeat(5)
const provided = Effect.provide(Token.layer({ secretKeyBase: secret }))

const sign = (data: unknown, options?: Token.SignOptions) =>
  Token.Token.use((tokens) => tokens.sign("id", data, options))

const verify = (token: unknown, options?: Token.VerifyOptions) =>
  Token.Token.use((tokens) => tokens.verify("id", token, options))

const reasonOf = <A, R>(effect: Effect.Effect<A, Token.TokenError, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, Token.TokenError)
    assert.isAbove(error.message.length, 20)
    return error.reason
  })

/** A token over the given bytes, made without the code under test. */
const forge = (payload: string | Uint8Array, header = "SFMyNTY", digest = "sha256") => {
  const bytes = typeof payload === "string" ? Buffer.from(payload.replaceAll(" ", ""), "hex") : Buffer.from(payload)
  const signed = `${header}.${bytes.toString("base64url")}`
  const key = pbkdf2Sync(secret, "id", 1000, 32, "sha256")
  return `${signed}.${createHmac(digest, key).update(signed).digest("base64url")}`
}

const day = 86_400_000

describe("sign", () => {
  it.effect("makes the token Phoenix makes, byte for byte", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* sign(1, { signedAt: 0, maxAge: "1 day" }),
        "SFMyNTY.g2gDYQFhAGIAAVGA.z_bq3v7vwvg1Qv4s3SXm7kWtSs2Hgyg29vi3F5Ad5Bo"
      )
      assert.strictEqual(yield* sign(1, { signedAt: 1700000000 }), forge("83 68 03 6101 6e06000068e5cf8b01 6200015180"))
      assert.strictEqual(
        yield* sign("42", { signedAt: 0, maxAge: "Infinity" }),
        forge("83 68 03 6d000000023432 6100 7708696e66696e697479")
      )
      assert.strictEqual(
        yield* sign(null, { signedAt: 0, maxAge: "1500 millis" }),
        forge("83 68 03 77036e696c 6100 463ff8000000000000")
      )
    }).pipe(provided))

  it.effect("notes the time of the Clock in milliseconds, and signedAt in seconds", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_500)
      assert.strictEqual(yield* sign("a"), yield* sign("a", { signedAt: 1.5 }))
      assert.notStrictEqual(yield* sign("a"), yield* sign("a", { signedAt: 1 }))
      assert.strictEqual(yield* sign("a"), yield* sign("a", { signedAt: 1.5009 }))
    }).pipe(provided))

  it.effect("the defaults of the key are 1000 iterations, 32 bytes, SHA-256", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* sign(1), yield* sign(1, { keyIterations: 1000, keyLength: 32, keyDigest: "sha256" }))
    }).pipe(provided))

  it.effect("every key option makes another signature, and verify needs the same", () =>
    Effect.gen(function*() {
      const all: ReadonlyArray<Token.KeyOptions> = [
        {},
        { keyIterations: 1 },
        { keyIterations: 2 },
        { keyLength: 16 },
        { keyDigest: "sha384" },
        { keyDigest: "sha512" }
      ]
      for (const signing of all) {
        const token = yield* sign(1, signing)
        for (const verifying of all) {
          if (signing === verifying) assert.strictEqual(yield* verify(token, verifying), 1)
          else assert.strictEqual(yield* reasonOf(verify(token, verifying)), "invalid")
        }
      }
    }).pipe(provided))

  it.effect("data that is no data is a defect that leads to it", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(sign({ user: { name: undefined } }))
      assert(Exit.isFailure(exit))
      assert.isTrue(Cause.hasDies(exit.cause))
      assert.include(Cause.pretty(exit.cause), `undefined at ["user"]["name"]`)
    }).pipe(provided))

  it.effect("an empty key is refused, because everybody has it", () =>
    Effect.gen(function*() {
      for (const keyLength of [0, -1, NaN]) {
        const exit = yield* Effect.exit(sign(1, { keyLength }))
        assert(Exit.isFailure(exit))
        assert.include(Cause.pretty(exit.cause), "keyLength")
      }
    }).pipe(provided))
})

describe("verify", () => {
  it.effect("gives the data that was signed, whatever JSON-like data it is", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const run = Effect.runSyncWith(yield* Effect.context<never>())
      const data = fc.jsonValue({ stringUnit: "binary" }).map((value): unknown => JSON.parse(JSON.stringify(value)))
      fc.assert(fc.property(data, fc.string(), (value, salt) => {
        const token = run(tokens.sign(salt, value))
        assert.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/)
        assert.deepStrictEqual(run(tokens.verify(salt, token)), value)
      }))
    }).pipe(provided))

  it.effect("a token with any one character changed, removed or added is invalid", () =>
    Effect.gen(function*() {
      const token = yield* sign({ id: "42" }, { signedAt: 0, maxAge: "Infinity" })
      const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ \0é"
      for (let at = 0; at <= token.length; at++) {
        const [before, after] = [token.slice(0, at), token.slice(at + 1)]
        for (const char of ["", ...alphabet]) {
          const changed = before + char + after
          if (changed !== token) assert.strictEqual(yield* reasonOf(verify(changed)), "invalid", changed)
        }
        assert.strictEqual(yield* reasonOf(verify(`${before}A${token.slice(at)}`)), "invalid")
      }
    }).pipe(provided))

  it.effect("any string is answered by invalid", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const run = Effect.runSyncWith(yield* Effect.context<never>())
      const text = fc.string({ unit: "binary" })
      const dotted = fc.tuple(fc.constantFrom("SFMyNTY", "SFMzODQ", "XCP", "constructor", ""), fc.array(text))
        .map(([header, parts]) => [header, ...parts].join("."))
      fc.assert(fc.property(fc.oneof(text, dotted, fc.base64String()), (token) => {
        assert.strictEqual(run(reasonOf(tokens.verify("id", token))), "invalid")
      }))
    }).pipe(provided))

  it.effect("any signed bytes are answered by data or a TokenError", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const run = Effect.runSyncWith(yield* Effect.context<never>())
      fc.assert(fc.property(fc.uint8Array(), fc.constantFrom([], [131], [131, 104, 3], [131, 104, 2]), (tail, head) => {
        const exit = run(Effect.exit(tokens.verify("id", forge(Uint8Array.from([...head, ...tail])))))
        assert(Exit.isSuccess(exit) || !Cause.hasDies(exit.cause))
      }))
    }).pipe(provided))

  it.effect("undefined and null are missing; the empty string is invalid", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* reasonOf(verify(undefined)), "missing")
      assert.strictEqual(yield* reasonOf(verify(null)), "missing")
      assert.strictEqual(yield* reasonOf(verify("")), "invalid")
    }).pipe(provided))

  it.effect("what is no string is invalid", () =>
    Effect.gen(function*() {
      const token = yield* sign(1)
      for (const value of [0, 1, true, [], [token], { token }, Buffer.from(token), () => token]) {
        assert.strictEqual(yield* reasonOf(verify(value)), "invalid")
      }
    }).pipe(provided))

  it.effect("a token for another salt, or from another secret, is invalid", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const others = yield* Token.make({ secretKeyBase: `${secret}!` })
      assert.strictEqual(yield* reasonOf(tokens.verify("not_id", yield* tokens.sign("id", 1))), "invalid")
      assert.strictEqual(yield* reasonOf(tokens.verify("id", yield* others.sign("id", 1))), "invalid")
    }).pipe(provided))

  it.effect("HMAC with SHA-384 and SHA-512 is accepted, but not under another's header", () =>
    Effect.gen(function*() {
      const payload = "83 68 03 6101 6100 6200015180"
      assert.strictEqual(yield* verify(forge(payload, "SFMzODQ", "sha384")), 1)
      assert.strictEqual(yield* verify(forge(payload, "SFM1MTI", "sha512")), 1)
      assert.strictEqual(yield* reasonOf(verify(forge(payload, "SFM1MTI", "sha384"))), "invalid")
      assert.strictEqual(yield* reasonOf(verify(forge(payload, "SFMyNQ", "sha256"))), "invalid")
    }).pipe(provided))

  it.effect("many salts do not make older ones invalid", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const token = yield* sign(1)
      for (let i = 0; i < 300; i++) yield* tokens.sign(`salt ${i}`, 1, { keyIterations: 1 })
      assert.strictEqual(yield* verify(token), 1)
    }).pipe(provided))
})

describe("verify reads what old and new Phoenix write", () => {
  const data = `6d00000002 ${Buffer.from("42").toString("hex")}`

  it.effect.each([
    { form: "three elements", payload: `83 68 03 ${data} 6100 6200015180` },
    { form: "an infinite age as an atom of OTP 26", payload: `83 68 03 ${data} 6100 77 08 696e66696e697479` },
    { form: "an infinite age as an atom of OTP 25", payload: `83 68 03 ${data} 6100 64 0008 696e66696e697479` },
    { form: "a fractional age", payload: `83 68 03 ${data} 6100 463fb999999999999a` },
    { form: "two elements", payload: `83 68 02 ${data} 6100` },
    { form: "a map, atoms of OTP 26", payload: `83 74 00000002 77 04 64617461 ${data} 77 06 7369676e6564 6100` },
    { form: "a map, atoms of OTP 25", payload: `83 74 00000002 64 0004 64617461 ${data} 64 0006 7369676e6564 6100` }
  ])("$form", ({ payload }) =>
    Effect.gen(function*() {
      assert.strictEqual(yield* verify(forge(payload)), "42")
    }).pipe(provided))

  it.effect("a compressed token", () =>
    Effect.gen(function*() {
      const term = Buffer.from(`6803 ${data} 6100 6200015180`.replaceAll(" ", ""), "hex")
      const token = forge(Buffer.concat([Buffer.from([131, 80, 0, 0, 0, term.length]), deflateSync(term)]))
      assert.strictEqual(yield* verify(token), "42")
    }).pipe(provided))

  it.effect("data of atoms, tuples, charlists and maps", () =>
    Effect.gen(function*() {
      const map = "74 00000002 77 04 726f6c65 77 05 61646d696e 77 02 6964 68 02 6107 6b 0001 41"
      assert.deepStrictEqual(yield* verify(forge(`83 68 03 ${map} 6100 6200015180`)), { role: "admin", id: [7, [65]] })
    }).pipe(provided))

  it.effect("an old form is accepted for one day", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(day)
      assert.strictEqual(yield* verify(forge(`83 68 02 ${data} 6100`)), "42")
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* reasonOf(verify(forge(`83 68 02 ${data} 6100`))), "expired")
    }).pipe(provided))

  it.effect("signed content of another form is invalid", () =>
    Effect.gen(function*() {
      const payloads = [
        "",
        "83",
        "83 6101",
        "83 68 01 6101",
        "83 68 04 6101 6100 6200015180 6101",
        `83 68 03 ${data} ${data} 6200015180`,
        `83 68 03 ${data} 6100 ${data}`,
        `83 68 03 ${data} 6100 77 03 6e696c`,
        `83 68 03 71 6100 6200015180`,
        "83 74 00000001 77 04 64617461 6101"
      ]
      for (const payload of payloads) assert.strictEqual(yield* reasonOf(verify(forge(payload))), "invalid", payload)
    }).pipe(provided))
})

describe("age", () => {
  it.effect("a token is accepted up to its last millisecond, one day by default", () =>
    Effect.gen(function*() {
      const token = yield* sign(1)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* verify(token), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* reasonOf(verify(token)), "expired")
    }).pipe(provided))

  it.effect("the age the signer allowed is in the token", () =>
    Effect.gen(function*() {
      const token = yield* sign(1, { maxAge: "2 minutes" })
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* verify(token), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* reasonOf(verify(token)), "expired")
    }).pipe(provided))

  it.effect("maxAge of verify beats the one in the token, in both directions", () =>
    Effect.gen(function*() {
      const token = yield* sign(1, { maxAge: "1 minute" })
      const forever = yield* sign(1, { maxAge: "Infinity" })
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* verify(token, { maxAge: "1 hour" }), 1)
      assert.strictEqual(yield* verify(forever), 1)
      assert.strictEqual(yield* reasonOf(verify(forever, { maxAge: "59 minutes" })), "expired")
    }).pipe(provided))

  it.effect("an infinite age skips every check", () =>
    Effect.gen(function*() {
      const future = yield* sign(1, { signedAt: 1000 })
      assert.strictEqual(yield* verify(future, { maxAge: "Infinity" }), 1)
      yield* TestClock.setTime(100 * 365 * day)
      assert.strictEqual(yield* verify(future, { maxAge: "Infinity" }), 1)
      assert.strictEqual(yield* verify(yield* sign(1, { signedAt: 0, maxAge: "Infinity" })), 1)
    }).pipe(provided))

  it.effect("zero and less are expired, even at the moment of signing", () =>
    Effect.gen(function*() {
      const token = yield* sign(1)
      for (const maxAge of [0, -1, -100_000, NaN, "-Infinity"] as const) {
        assert.strictEqual(yield* reasonOf(verify(token, { maxAge })), "expired")
      }
      assert.strictEqual(yield* reasonOf(verify(yield* sign(1, { maxAge: 0 }))), "expired")
      assert.strictEqual(yield* reasonOf(verify(yield* sign(1, { maxAge: -1000 }))), "expired")
    }).pipe(provided))

  it.effect("fractions of a second count", () =>
    Effect.gen(function*() {
      const token = yield* sign(1, { maxAge: "0.1 seconds" })
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* verify(token), 1)
      assert.strictEqual(yield* verify(token, { maxAge: "0.1 seconds" }), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* reasonOf(verify(token)), "expired")
      assert.strictEqual(yield* reasonOf(verify(token, { maxAge: "0.1 seconds" })), "expired")
    }).pipe(provided))

  it.effect("a token signed in the future is invalid, however far", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* reasonOf(verify(yield* sign(1, { signedAt: 0.001 }))), "invalid")
      assert.strictEqual(yield* reasonOf(verify(forge("83 68 03 6101 6e09 00 ffffffffffffffffff 6101"))), "invalid")
    }).pipe(provided))

  it.effect("the signature is checked before the age", () =>
    Effect.gen(function*() {
      const token = yield* sign(1)
      yield* TestClock.adjust("2 days")
      assert.strictEqual(yield* reasonOf(verify(token)), "expired")
      assert.strictEqual(yield* reasonOf(verify(token.slice(0, -1))), "invalid")
      assert.strictEqual(yield* reasonOf(verify(`${token}=`, { maxAge: 0 })), "invalid")
    }).pipe(provided))
})

describe("verify with a schema", () => {
  const User = Schema.Struct({ id: Schema.NumberFromString, role: Schema.Literals(["user", "admin"]) })

  it.effect("gives typed data", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const id: string = yield* tokens.verify("id", yield* sign("42"), { schema: Schema.String, maxAge: "1 day" })
      assert.strictEqual(id, "42")
      const user = yield* tokens.verify("id", yield* sign({ id: "42", role: "admin" }), { schema: User })
      assert.deepStrictEqual(user, { id: 42, role: "admin" })
    }).pipe(provided))

  it.effect("data that does not fit is invalid, and the cause says why", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const token = yield* sign({ id: "42", role: "root" })
      const error = yield* Effect.flip(tokens.verify("id", token, { schema: User }))
      assert.strictEqual(error.reason, "invalid")
      assert.include(error.cause?.message, `"role"`)
    }).pipe(provided))

  it.effect("signature and age come first", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const token = yield* sign(1)
      const options = { schema: Schema.String, maxAge: 0 }
      assert.strictEqual(yield* reasonOf(tokens.verify("id", token, options)), "expired")
      assert.strictEqual(yield* reasonOf(tokens.verify("id", undefined, options)), "missing")
    }).pipe(provided))

  it.effect("without a schema the data is unknown", () =>
    Effect.gen(function*() {
      // @ts-expect-error unknown is no string
      const id: string = yield* verify(yield* sign("42"))
      assert.strictEqual(id, "42")
    }).pipe(provided))
})

describe("layers", () => {
  const built = (layer: Layer.Layer<Token.Token, Config.ConfigError>, env: Record<string, string> = {}) =>
    Effect.exit(Effect.scoped(Layer.build(layer))).pipe(
      Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(env)))
    )
  const fromEnv = Token.layerConfig({ secretKeyBase: Config.Redacted("SECRET_KEY_BASE") })

  it.effect("a secret is a string, redacted or configured: all sign alike", () =>
    Effect.gen(function*() {
      const env = ConfigProvider.layer(ConfigProvider.fromUnknown({ SECRET_KEY_BASE: secret }))
      const token = yield* provided(sign(1))
      assert.strictEqual(yield* Effect.provide(sign(1), Token.layer({ secretKeyBase: Redacted.make(secret) })), token)
      assert.strictEqual(yield* Effect.provide(sign(1), Layer.provide(fromEnv, env)), token)
    }))

  it.effect("a secret of 20 bytes is enough, of 19 is a defect", () =>
    Effect.gen(function*() {
      assert(Exit.isSuccess(yield* built(Token.layer({ secretKeyBase: "é".repeat(10) }))))
      const exit = yield* built(Token.layer({ secretKeyBase: "s".repeat(19) }))
      assert(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      assert.include(Cause.pretty(exit.cause), "19 bytes")
      assert.notInclude(Cause.pretty(exit.cause), "s".repeat(19))
    }))

  it.effect("a configured secret that is missing or too short is a ConfigError", () =>
    Effect.gen(function*() {
      for (const env of [{}, { SECRET_KEY_BASE: "" }, { SECRET_KEY_BASE: "short" }]) {
        const exit = yield* built(fromEnv, env)
        assert(Exit.isFailure(exit) && Cause.hasFails(exit.cause))
        assert.match(Cause.pretty(exit.cause), /SECRET_KEY_BASE|20/)
      }
    }))
})
