import { assert, describe, it } from "@effect/vitest"
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as WebCrypto from "effect/crypto/WebCrypto"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createCipheriv, createHmac, pbkdf2Sync } from "node:crypto"
import { deflateSync } from "node:zlib"
import * as Token from "../src/Token.ts"

const secret = "abc123".repeat(5)
const provided = Effect.provide(Token.layer({ secretKeyBase: secret }))

const sign = (data: unknown, options?: Token.SignOptions) =>
  Token.Token.use((tokens) => tokens.sign("id", data, options))

const verify = (token: unknown, options?: Token.VerifyOptions) =>
  Token.Token.use((tokens) => tokens.verify("id", token, options))

const encrypt = (data: unknown, options?: Token.SignOptions) =>
  Token.Token.use((tokens) => tokens.encrypt("secret", data, options))

const decrypt = (token: unknown, options?: Token.VerifyOptions) =>
  Token.Token.use((tokens) => tokens.decrypt("secret", token, options))

const reasonOf = <A, R>(effect: Effect.Effect<A, Token.TokenError, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, Token.TokenError)
    assert.isAbove(error.message.length, 20)
    return error.reason
  })

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex")

const keyOf = (salt: string) => pbkdf2Sync(secret, salt, 1000, 32, "sha256")

/** A token over the given bytes, made without the code under test. */
const forge = (payload: string | Uint8Array, header = "SFMyNTY", digest = "sha256") => {
  const bytes = typeof payload === "string" ? hex(payload) : Buffer.from(payload)
  const signed = `${header}.${bytes.toString("base64url")}`
  return `${signed}.${createHmac(digest, keyOf("id")).update(signed).digest("base64url")}`
}

const gcm = (key: Uint8Array, content: Uint8Array, aad: Uint8Array) => {
  const nonce = Buffer.alloc(12, 9)
  const cipher = createCipheriv(key.length === 16 ? "aes-128-gcm" : "aes-256-gcm", key, nonce)
  const ciphertext = Buffer.concat([cipher.setAAD(aad).update(content), cipher.final()])
  return { nonce, ciphertext, tag: cipher.getAuthTag() }
}

/** What plug_crypto 1 encrypts: the key of the content, its nonce, the content and its tag. */
const forgeOld = (payload: string | Uint8Array, key: Uint8Array, signKey: Uint8Array) => {
  const contentKey = Buffer.alloc(16, 5)
  const wrapped = gcm(key, contentKey, signKey)
  const content = gcm(contentKey, typeof payload === "string" ? hex(payload) : payload, Buffer.from("A128GCM"))
  return [
    Buffer.from("A128GCM"),
    Buffer.concat([wrapped.ciphertext, wrapped.tag, wrapped.nonce]),
    content.nonce,
    content.ciphertext,
    content.tag
  ].map((part) => part.toString("base64url")).join(".")
}

/** Draws 0, 1, 2 and so on, so that what is encrypted is known. */
const countingCrypto: Crypto = Object.create(globalThis.crypto, {
  getRandomValues: {
    value: (bytes: Uint8Array) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = i
      return bytes
    }
  }
})
const providedCounting = Effect.provide(
  Layer.provide(Token.layer({ secretKeyBase: secret }), WebCrypto.layer(countingCrypto))
)

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

describe("compressed", () => {
  const data = { text: "all work and no play ".repeat(50) }

  it.effect("is shorter where that helps, and read without being told", () =>
    Effect.gen(function*() {
      const token = yield* sign(data, { compressed: true })
      assert.isBelow(token.length, (yield* sign(data)).length / 4)
      assert.match(token, /^SFMyNTY\.g1/)
      assert.deepStrictEqual(yield* verify(token), data)
      assert.deepStrictEqual(yield* decrypt(yield* encrypt(data, { compressed: true })), data)
      assert.strictEqual(yield* sign(1, { compressed: true }), yield* sign(1))
    }).pipe(provided))

  it.effect("what unfolds to more than it says, or to more than 1 MiB, is invalid", () =>
    Effect.gen(function*() {
      const size = 64 * 1024 * 1024
      const packed = deflateSync(Buffer.concat([hex("6803 6d 04000000"), Buffer.alloc(size)]))
      for (const claim of ["00000064", "00100000", "04000007", "ffffffff"]) {
        const payload = Buffer.concat([hex(`83 50 ${claim}`), packed])
        assert.strictEqual(yield* reasonOf(verify(forge(payload))), "invalid")
        assert.strictEqual(
          yield* reasonOf(decrypt(forgeOld(payload, keyOf("secret"), Buffer.alloc(0)))),
          "invalid"
        )
        assert.strictEqual(
          yield* reasonOf(Token.Token.use((tokens) => tokens.readSession(forge(payload), { signingSalt: "id" }))),
          "invalid"
        )
      }
    }).pipe(provided))
})

describe("encrypt and decrypt", () => {
  it.effect("make the token Phoenix makes, byte for byte", () =>
    Effect.gen(function*() {
      const token = yield* encrypt(1, { signedAt: 0, maxAge: "1 day" })
      assert.strictEqual(token, "XCP.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXaMEhoDPB5D_B7tzHAjyGvbZqgUhRyGbSLfCZnA")
      assert.strictEqual(yield* decrypt(token), 1)
    }).pipe(providedCounting))

  it.effect("give the data that was encrypted, and no two tokens are alike", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const run = Effect.runSyncWith(yield* Effect.context<never>())
      const data = fc.jsonValue({ stringUnit: "binary" }).map((value): unknown => JSON.parse(JSON.stringify(value)))
      const seen = new Set<string>()
      fc.assert(fc.property(data, (value) => {
        const token = run(tokens.encrypt("secret", value))
        assert.isFalse(seen.has(token))
        seen.add(token)
        assert.match(token, /^XCP\.[\w-]+$/)
        assert.deepStrictEqual(run(tokens.decrypt("secret", token)), value)
      }))
    }).pipe(provided))

  it.effect("tokens of plug_crypto 1 are read, for keys of every length they had", () =>
    Effect.gen(function*() {
      const payload = "83 68 02 6101 6100"
      assert.strictEqual(yield* decrypt(forgeOld(payload, keyOf("secret"), Buffer.alloc(0))), 1)
      const short = pbkdf2Sync(secret, "secret", 1000, 16, "sha256")
      assert.strictEqual(yield* decrypt(forgeOld(payload, short, Buffer.alloc(0)), { keyLength: 16 }), 1)
      assert.strictEqual(yield* reasonOf(decrypt(forgeOld(payload, short, Buffer.alloc(0)))), "invalid")
      assert.strictEqual(yield* reasonOf(decrypt(forgeOld(payload, keyOf("secret"), Buffer.alloc(1)))), "invalid")
    }).pipe(provided))

  it.effect("a key that is not 32 bytes long is a defect that says so", () =>
    Effect.gen(function*() {
      const token = yield* encrypt(1)
      for (
        const effect of [
          encrypt(1, { keyLength: 16 }),
          decrypt(token, { keyLength: 64 }),
          decrypt("", { keyLength: 31 })
        ]
      ) {
        const exit = yield* Effect.exit(effect)
        assert(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.match(Cause.pretty(exit.cause), /keyLength is (16|64|31), but .* 32 bytes/)
      }
    }).pipe(provided))

  it.effect("every other key option makes another key, and decrypt needs the same", () =>
    Effect.gen(function*() {
      const all: ReadonlyArray<Token.KeyOptions> = [{}, { keyIterations: 1 }, { keyDigest: "sha512" }]
      for (const encrypting of all) {
        const token = yield* encrypt(1, encrypting)
        for (const decrypting of all) {
          if (encrypting === decrypting) assert.strictEqual(yield* decrypt(token, decrypting), 1)
          else assert.strictEqual(yield* reasonOf(decrypt(token, decrypting)), "invalid")
        }
      }
    }).pipe(provided))

  it.effect("what is missing, no string, signed, cut off or for another salt or secret is refused", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const others = yield* Token.make({ secretKeyBase: `${secret}!` })
      const token = yield* encrypt(1)
      assert.strictEqual(yield* reasonOf(decrypt(undefined)), "missing")
      assert.strictEqual(yield* reasonOf(decrypt(null)), "missing")
      for (const value of ["", 1, [token], "XCP.", `${token}=`, yield* tokens.sign("secret", 1)]) {
        assert.strictEqual(yield* reasonOf(decrypt(value)), "invalid")
      }
      for (let length = 0; length < token.length; length++) {
        assert.strictEqual(yield* reasonOf(decrypt(token.slice(0, length))), "invalid")
      }
      assert.strictEqual(yield* reasonOf(tokens.decrypt("other", token)), "invalid")
      assert.strictEqual(yield* reasonOf(others.decrypt("secret", token)), "invalid")
      assert.strictEqual(yield* reasonOf(tokens.verify("secret", token)), "invalid")
    }).pipe(provided))

  it.effect("the age counts as for a signed token", () =>
    Effect.gen(function*() {
      const token = yield* encrypt(1, { maxAge: "1 minute" })
      assert.strictEqual(yield* reasonOf(decrypt(yield* encrypt(1, { signedAt: 1 }))), "invalid")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* decrypt(token), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* reasonOf(decrypt(token)), "expired")
      assert.strictEqual(yield* decrypt(token, { maxAge: "Infinity" }), 1)
    }).pipe(provided))

  it.effect("a schema gives typed data", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const id: number = yield* tokens.decrypt("secret", yield* encrypt("42"), { schema: Schema.NumberFromString })
      assert.strictEqual(id, 42)
      const mistyped = tokens.decrypt("secret", yield* encrypt("42"), { schema: Schema.Int })
      assert.strictEqual(yield* reasonOf(mistyped), "invalid")
    }).pipe(provided))
})

describe("sessions", () => {
  const read = (cookie: unknown, options?: Partial<Token.SessionOptions>) =>
    Token.Token.use((tokens) => tokens.readSession(cookie, { signingSalt: "id", ...options }))
  const write = (session: Token.Session, options?: Partial<Token.SessionOptions>) =>
    Token.Token.use((tokens) => tokens.writeSession(session, { signingSalt: "id", ...options }))

  const text = (value: string) =>
    `6d ${value.length.toString(16).padStart(8, "0")} ${Buffer.from(value).toString("hex")}`
  const userToken = Buffer.alloc(32, 0xfe)
  const phoenixSession = "83 74 00000003" +
    `${text("_csrf_token")} ${text("VGhlIHRva2VuIG9mIGEgZm9ybQ")}` +
    `${text("user_id")} 61 2a` +
    `${text("user_token")} 6d 00000020 ${userToken.toString("hex")}`
  const session = {
    _csrf_token: "VGhlIHRva2VuIG9mIGEgZm9ybQ",
    user_id: 42,
    user_token: Uint8Array.from(userToken)
  }

  it.effect("the signed cookie of a Phoenix application is read, and made byte for byte", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* read(forge(phoenixSession)), session)
      assert.strictEqual(yield* write(session), forge(phoenixSession))
    }).pipe(provided))

  it.effect("the encrypted cookie of a Phoenix application is made byte for byte, and read", () =>
    Effect.gen(function*() {
      const options = { signingSalt: "any", encryptionSalt: "secret" }
      const cookie = yield* write(session, options)
      const nonce = Uint8Array.from({ length: 24 }, (_, i) => i)
      const sealed = xchacha20poly1305(keyOf("secret"), nonce, Buffer.from("A128GCM")).encrypt(hex(phoenixSession))
      const bytes = Buffer.concat([nonce, sealed.subarray(-16), sealed.subarray(0, -16)])
      assert.strictEqual(cookie, `XCP.${bytes.toString("base64url")}`)
      assert.deepStrictEqual(yield* read(cookie, options), session)
      assert.strictEqual(
        yield* write({}, options),
        yield* write({}, { ...options, signingSalt: "of old cookies only" })
      )
    }).pipe(providedCounting))

  it.effect("an encrypted cookie of plug_crypto 1 needs both salts", () =>
    Effect.gen(function*() {
      const cookie = forgeOld(phoenixSession, keyOf("secret"), keyOf("id"))
      assert.deepStrictEqual(yield* read(cookie, { encryptionSalt: "secret" }), session)
      assert.strictEqual(yield* reasonOf(read(cookie, { encryptionSalt: "secret", signingSalt: "no" })), "invalid")
      assert.strictEqual(yield* reasonOf(read(cookie, { encryptionSalt: "no" })), "invalid")
    }).pipe(provided))

  it.effect("a signed cookie is not read where an encrypted one is expected, and the other way round", () =>
    Effect.gen(function*() {
      const encryptionSalt = "id"
      assert.strictEqual(yield* reasonOf(read(yield* write(session), { encryptionSalt })), "invalid")
      assert.strictEqual(yield* reasonOf(read(yield* write(session, { encryptionSalt }))), "invalid")
    }).pipe(provided))

  it.effect("the key options are those of the application", () =>
    Effect.gen(function*() {
      for (const options of [{}, { encryptionSalt: "secret" }]) {
        const custom = { ...options, keyIterations: 1, keyDigest: "sha512" } as const
        const cookie = yield* write(session, custom)
        assert.deepStrictEqual(yield* read(cookie, custom), session)
        assert.strictEqual(yield* reasonOf(read(cookie, options)), "invalid")
      }
      const exit = yield* Effect.exit(write(session, { encryptionSalt: "secret", keyLength: 64 }))
      assert(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      assert.include(Cause.pretty(exit.cause), "keyLength")
      assert.deepStrictEqual(yield* read(yield* write(session, { keyLength: 64 }), { keyLength: 64 }), session)
    }).pipe(provided))

  it.effect("a cookie does not expire", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(100 * 365 * day)
      assert.deepStrictEqual(yield* read(forge(phoenixSession)), session)
    }).pipe(provided))

  it.effect("what is missing, changed, of another secret, or no session is refused", () =>
    Effect.gen(function*() {
      const others = yield* Token.make({ secretKeyBase: `${secret}!` })
      const cookie = forge(phoenixSession)
      assert.strictEqual(yield* reasonOf(read(undefined)), "missing")
      assert.strictEqual(yield* reasonOf(read(null)), "missing")
      for (const value of ["", 7, [cookie], `${cookie}=`, cookie.slice(0, -1), yield* others.sign("id", session)]) {
        assert.strictEqual(yield* reasonOf(read(value)), "invalid")
      }
      for (const content of ["", "83", "83 6a", "83 77 03 6e696c", "83 6d 00000001 ff", "83 61 01", "ff 74 00000000"]) {
        assert.strictEqual(yield* reasonOf(read(forge(content))), "invalid", content)
      }
      assert.strictEqual(yield* reasonOf(read(yield* sign(session))), "invalid")
      const token = yield* encrypt(session)
      assert.strictEqual(yield* reasonOf(read(token, { encryptionSalt: "secret" })), "invalid")
    }).pipe(provided))

  it.effect("any cookie, and any signed bytes, are answered by a session or a TokenError", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const run = Effect.runSyncWith(yield* Effect.context<never>())
      const bytes = fc.tuple(fc.constantFrom([], [131], [131, 116, 0, 0, 0, 1], [131, 80]), fc.uint8Array())
        .map(([head, tail]) => Uint8Array.from([...head, ...tail]))
      const cookie = fc.oneof(
        fc.string({ unit: "binary" }),
        bytes.map((content) => forge(content)),
        bytes.map((content) => forgeOld(content, keyOf("secret"), keyOf("id")))
      )
      fc.assert(
        fc.property(cookie, fc.constantFrom(undefined, "secret"), (cookie, encryptionSalt) => {
          const exit = run(Effect.exit(tokens.readSession(cookie, { signingSalt: "id", encryptionSalt })))
          assert(Exit.isSuccess(exit) || !Cause.hasDies(exit.cause))
        }),
        { numRuns: 30 }
      )
    }).pipe(provided))

  it.effect("a schema gives a typed session, and says what does not fit", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const User = Schema.Struct({ user_id: Schema.Int, user_token: Schema.Uint8Array })
      const user = yield* tokens.readSession(forge(phoenixSession), { signingSalt: "id", schema: User })
      assert.deepStrictEqual(user, { user_id: 42, user_token: Uint8Array.from(userToken) })
      const error = yield* Effect.flip(tokens.readSession(yield* write({}), { signingSalt: "id", schema: User }))
      assert.strictEqual(error.reason, "invalid")
      assert.include(error.message, "session cookie")
      assert.include(error.cause?.message, `"user_id"`)
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
      for (const maxAge of [0, -1, -100_000, "-Infinity"] as const) {
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

  it.effect("a token signed in the future is accepted up to leeway, and lives no longer for it", () =>
    Effect.gen(function*() {
      const token = yield* sign(1, { signedAt: 60, maxAge: "1 minute" })
      assert.strictEqual(yield* verify(token, { leeway: "60 seconds" }), 1)
      assert.strictEqual(
        yield* verify(token, { leeway: "Infinity", maxAge: "Infinity" }).pipe(
          Effect.catchDefect(() => Effect.succeed("leeway has an end"))
        ),
        "leeway has an end"
      )
      assert.strictEqual(yield* reasonOf(verify(token, { leeway: 59_999 })), "invalid")
      assert.strictEqual(yield* reasonOf(verify(token, { leeway: 0 })), "invalid")
      yield* TestClock.setTime(120_000)
      assert.strictEqual(yield* verify(token, { leeway: "60 seconds" }), 1)
      yield* TestClock.setTime(120_001)
      assert.strictEqual(yield* reasonOf(verify(token, { leeway: "60 seconds" })), "expired")
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
