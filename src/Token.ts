/**
 * Signed tokens, the ones of `Phoenix.Token`: data a client carries and shows again, and that only this server can have
 * made.
 *
 * A token is how a page tells the socket who is looking at it. The page's server signs the user's id, the client sends
 * the token as a parameter of its connection, and the socket verifies it. Elixir and this module read each other's
 * tokens, as long as both have the same `secretKeyBase`, salt and key options. The data is protected against change,
 * not against reading: everybody who holds the token can see it.
 *
 * **Example** (a token from the page to the socket)
 *
 * ```ts
 * import { Config, Effect, Schema } from "effect"
 * import { Token } from "effect-channels"
 *
 * const program = Effect.gen(function*() {
 *   const tokens = yield* Token.Token
 *   const token = yield* tokens.sign("user socket", "42")
 *   return yield* tokens.verify("user socket", token, { maxAge: "1 day", schema: Schema.String })
 * }).pipe(Effect.provide(Token.layerConfig({ secretKeyBase: Config.Redacted("SECRET_KEY_BASE") })))
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { createHmac, createSecretKey, type KeyObject, pbkdf2Sync, timingSafeEqual } from "node:crypto"
import * as ErlangTerm from "./internal/erlangTerm.ts"

/**
 * Why a token was not accepted, with a message for the developer; show the client at most the `reason`.
 *
 * - `missing`: there was no token (`undefined` or `null`).
 * - `invalid`: it is no token, was not signed with this key, was signed in the future, or does not fit the schema.
 * - `expired`: it was signed here, longer ago than allowed.
 *
 * The reasons are those of `Phoenix.Token.verify/4`.
 *
 * @category errors
 * @since 0.1.0
 */
export class TokenError extends Data.TaggedError("TokenError")<{
  readonly reason: "missing" | "invalid" | "expired"
  readonly message: string
  /** What the schema said, if the data did not fit it. */
  readonly cause?: Schema.SchemaError
}> {}

/**
 * How the signing key is derived from `secretKeyBase` and the salt, with PBKDF2. Who verifies needs the same values as
 * who signed.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyOptions {
  /** Rounds of PBKDF2, at least 1; default 1000. */
  readonly keyIterations?: number | undefined
  /** Bytes of the key, at least 1; default 32. */
  readonly keyLength?: number | undefined
  /** Hash of PBKDF2; default `"sha256"`. The signature itself is always HMAC-SHA256. */
  readonly keyDigest?: "sha256" | "sha384" | "sha512" | undefined
}

/**
 * What a token says about itself, beside its data.
 *
 * @category models
 * @since 0.1.0
 */
export interface SignOptions extends KeyOptions {
  /** When the token was signed, in **seconds** since 1970; default now, to the millisecond. */
  readonly signedAt?: number | undefined
  /** How long the token is accepted where `verify` sets no `maxAge`; default 1 day, `"Infinity"` for ever. */
  readonly maxAge?: Duration.Input | undefined
}

/**
 * How old a token may be.
 *
 * @category models
 * @since 0.1.0
 */
export interface VerifyOptions extends KeyOptions {
  /**
   * How old the token may be, to the millisecond; default what its signer allowed. A bare number is milliseconds (in
   * Phoenix: seconds). Zero or less accepts no token, `"Infinity"` accepts every age, even one signed in the future.
   */
  readonly maxAge?: Duration.Input | undefined
}

/**
 * {@link VerifyOptions}, and what the data has to be.
 *
 * @category models
 * @since 0.1.0
 */
export interface VerifySchemaOptions<A, R> extends VerifyOptions {
  /** Decodes the data, so that its encoded side is what was signed. */
  readonly schema: Schema.ConstraintDecoder<A, R>
}

/**
 * Signs and verifies tokens with the keys derived from one `secretKeyBase`.
 *
 * **When to use**
 *
 * Use `sign` where a user has just been authenticated, and `verify` when a socket connects.
 *
 * **Details**
 *
 * The salt names the purpose of a token, say `"user socket"`: a token is only valid for the salt it was signed with. It
 * is no secret, and belongs in the code, not in a request.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Token } from "effect-channels"
 *
 * const answer = (token: unknown) =>
 *   Token.Token.use((tokens) => tokens.verify("user socket", token, { maxAge: "1 day" })).pipe(
 *     Effect.catchTag("TokenError", (error) => Effect.succeed({ refused: error.reason }))
 *   )
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Token extends Context.Service<Token, {
  /**
   * Signs data into a token of URL-safe text (`Phoenix.Token.sign/4`).
   *
   * Data is what JSON knows, and also bigints and `Uint8Array`s; Elixir sees binaries, numbers, `true`, `false`, `nil`,
   * lists and maps with binary keys. Anything else (`undefined`, functions, class instances, cycles, more than 255
   * levels) is a mistake of the program: the effect dies with an error that leads to the value.
   */
  readonly sign: (salt: string, data: unknown, options?: SignOptions) => Effect.Effect<string>

  /**
   * The data of a token that is genuine and young enough, else a {@link TokenError} (`Phoenix.Token.verify/4`).
   *
   * Whatever a client sent may be passed as the token. Without a `schema` the data is `unknown`. What Elixir signed
   * arrives as JSON would: atoms as strings, tuples as arrays, map keys as strings; integers beyond 2^53 are bigints and
   * binaries that are not UTF-8 are `Uint8Array`s.
   */
  readonly verify: {
    <A, R>(salt: string, token: unknown, options: VerifySchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
    (salt: string, token: unknown, options?: VerifyOptions): Effect.Effect<unknown, TokenError>
  }
}>()("effect-channels/Token") {}

/**
 * The secret all keys are derived from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** At least 20 bytes (64 random ones are usual), the same on every server: who knows it can sign any token. */
  readonly secretKeyBase: Redacted.Redacted<string> | string
}

/**
 * Makes the service from a secret; dies if that has fewer than 20 bytes.
 *
 * **When to use**
 *
 * Use for a second secret beside the layer's, for instance while one replaces the other.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Token } from "effect-channels"
 *
 * const verify = (token: unknown, previousSecret: string) =>
 *   Effect.gen(function*() {
 *     const current = yield* Token.Token
 *     const previous = yield* Token.make({ secretKeyBase: previousSecret })
 *     return yield* current.verify("user socket", token).pipe(
 *       Effect.catchTag("TokenError", () => previous.verify("user socket", token))
 *     )
 *   })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Token["Service"]> =>
  Effect.fromResult(keyBase(options)).pipe(Effect.orDie, Effect.map(fromKeyBase))

/**
 * The service for a secret at hand; building the layer dies if that has fewer than 20 bytes.
 *
 * **When to use**
 *
 * Use in tests, or when the secret comes from a store of its own; see {@link layerConfig} for the environment.
 *
 * **Example**
 *
 * ```ts
 * import { Token } from "effect-channels"
 *
 * const TokenTest = Token.layer({ secretKeyBase: "only for tests, ".repeat(4) })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Token> => Layer.effect(Token, make(options))

/**
 * The service for a secret from the configuration; fails with a `ConfigError` if that is missing or has fewer than 20
 * bytes.
 *
 * **When to use**
 *
 * Use in production, so that the secret stays out of the code.
 *
 * **Example**
 *
 * ```ts
 * import { Config } from "effect"
 * import { Token } from "effect-channels"
 *
 * const TokenLive = Token.layerConfig({ secretKeyBase: Config.Redacted("SECRET_KEY_BASE") })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (config: Config.Wrap<Options>): Layer.Layer<Token, Config.ConfigError> =>
  Layer.effect(
    Token,
    Config.unwrap(config).pipe(
      Effect.flatMap((options) =>
        Effect.mapError(Effect.fromResult(keyBase(options)), (error) => new Config.ConfigError(error))
      ),
      Effect.map(fromKeyBase)
    )
  )

const minKeyBaseBytes = 20

const keyBase = ({ secretKeyBase }: Options): Result.Result<Buffer, ConfigProvider.SourceError> => {
  const bytes = Buffer.from(Redacted.isRedacted(secretKeyBase) ? Redacted.value(secretKeyBase) : secretKeyBase)
  if (bytes.length >= minKeyBaseBytes) return Result.succeed(bytes)
  return Result.fail(
    new ConfigProvider.SourceError({
      message: `secretKeyBase has ${bytes.length} bytes, but needs at least ${minKeyBaseBytes}: ` +
        "make one with `openssl rand -base64 48`"
    })
  )
}

const fromKeyBase = (keyBase: Buffer): Token["Service"] => {
  const keyFor = keys(keyBase)

  const verifyData = Effect.fnUntraced(function*(salt: string, token: unknown, options: VerifyOptions = {}) {
    if (token === undefined || token === null) return yield* missing()
    if (typeof token !== "string") return yield* invalid("it is no string")
    const payload = authentic(token, keyFor(salt, options))
    if (payload === undefined) {
      return yield* invalid(
        "its signature is wrong: it was changed, or signed with another secretKeyBase, salt or key option"
      )
    }
    return yield* dataOf(payload, options)
  })

  function verify<A, R>(
    salt: string,
    token: unknown,
    options: VerifySchemaOptions<A, R>
  ): Effect.Effect<A, TokenError, R>
  function verify(salt: string, token: unknown, options?: VerifyOptions): Effect.Effect<unknown, TokenError>
  function verify<A, R>(salt: string, token: unknown, options?: VerifyOptions | VerifySchemaOptions<A, R>) {
    const data = verifyData(salt, token, options)
    return options !== undefined && "schema" in options ? Effect.flatMap(data, decodeWith(options.schema)) : data
  }

  return Token.of({
    sign: Effect.fnUntraced(function*(salt, data, options = {}) {
      const payload = Buffer.from(yield* payloadOf(data, options)).toString("base64url")
      const signed = `SFMyNTY.${payload}`
      return `${signed}.${signature("sha256", keyFor(salt, options), signed)}`
    }),
    verify
  })
}

// Salts are constants, so this is never reached; it keeps memory bounded should one be made from a request.
const maxKeys = 256

const keys = (keyBase: Buffer) => {
  const known = new Map<string, KeyObject>()
  return (salt: string, options: KeyOptions): KeyObject => {
    const { keyDigest = "sha256", keyIterations = 1000, keyLength = 32 } = options
    const id = `${keyDigest}:${keyIterations}:${keyLength}:${salt}`
    const cached = known.get(id)
    if (cached !== undefined) return cached
    // With an empty key everybody could sign.
    if (!(keyLength >= 1)) throw new RangeError(`keyLength is ${keyLength}, but must be at least 1 byte`)
    const key = createSecretKey(pbkdf2Sync(keyBase, salt, keyIterations, keyLength, keyDigest))
    if (known.size >= maxKeys) known.clear()
    known.set(id, key)
    return key
  }
}

const signature = (digest: string, key: KeyObject, signed: string): string =>
  createHmac(digest, key).update(signed).digest("base64url")

// Base64 of "HS256", "HS384" and "HS512".
const digests = new Map([["SFMyNTY", "sha256"], ["SFMzODQ", "sha384"], ["SFM1MTI", "sha512"]])

/** The payload of a token, if this key signed it. */
const authentic = (token: string, key: KeyObject): Buffer | undefined => {
  const [header = "", payload = "", given = "", ...more] = token.split(".", 4)
  const digest = digests.get(header)
  if (digest === undefined || more.length > 0) return undefined
  // Compared as text: several texts decode to the same bytes, only one of them was signed.
  const expected = Buffer.from(signature(digest, key, `${header}.${payload}`))
  const actual = Buffer.from(given)
  if (expected.length !== actual.length || !timingSafeEqual(expected, actual)) return undefined
  return Buffer.from(payload, "base64url")
}

const daySeconds = 86_400

const payloadOf = Effect.fnUntraced(function*(data: unknown, options: SignOptions) {
  const signedAt = options.signedAt === undefined ? yield* Clock.currentTimeMillis : options.signedAt * 1000
  const maxAge = options.maxAge === undefined ? daySeconds : Duration.toSeconds(options.maxAge)
  const payload = new ErlangTerm.Tuple([
    data,
    Math.trunc(signedAt),
    maxAge === Infinity ? new ErlangTerm.Atom("infinity") : maxAge
  ])
  return yield* Effect.orDie(Effect.fromResult(ErlangTerm.encode(payload)))
})

interface Payload {
  readonly data: unknown
  /** Milliseconds since 1970; NaN if it is no number. */
  readonly signedAt: number
  /** Milliseconds, Infinity for ever; NaN if it is neither. */
  readonly maxAge: number
}

/** Reads what {@link payloadOf} wrote, or an older form: a pair or a map, without an age of its own. */
const parsePayload = (bytes: Uint8Array): Payload | undefined => {
  const term = Result.getOrUndefined(ErlangTerm.decode(bytes))
  if (Array.isArray(term) && (term.length === 2 || term.length === 3)) {
    const [data, signedAt, maxAge = daySeconds]: ReadonlyArray<unknown> = term
    return { data, signedAt: toNumber(signedAt), maxAge: maxAge === "infinity" ? Infinity : toNumber(maxAge) * 1000 }
  }
  if (Predicate.hasProperty(term, "data") && Predicate.hasProperty(term, "signed")) {
    return { data: term.data, signedAt: toNumber(term.signed), maxAge: daySeconds * 1000 }
  }
  return undefined
}

const toNumber = (value: unknown): number =>
  typeof value === "number" || typeof value === "bigint" ? Number(value) : NaN

const dataOf = Effect.fnUntraced(function*(bytes: Uint8Array, options: VerifyOptions) {
  const payload = parsePayload(bytes)
  if (payload === undefined) return yield* malformed()
  const maxAge = options.maxAge === undefined ? payload.maxAge : Duration.toMillis(options.maxAge)
  if (maxAge === Infinity) return payload.data
  if (maxAge <= 0) return yield* expired()
  const now = yield* Clock.currentTimeMillis
  const validUntil = payload.signedAt + maxAge
  if (Number.isNaN(validUntil)) return yield* malformed()
  if (payload.signedAt > now) return yield* invalid("it was signed in the future: compare the clocks of the servers")
  if (validUntil < now) return yield* expired()
  return payload.data
})

const decodeWith = <A, R>(schema: Schema.ConstraintDecoder<A, R>) => {
  const decode = Schema.decodeUnknownEffect(schema)
  return (data: unknown): Effect.Effect<A, TokenError, R> =>
    Effect.mapError(decode(data), (cause) =>
      new TokenError({
        reason: "invalid",
        message: "the token is genuine, but its data does not fit the schema: sign data of the schema's encoded side",
        cause
      }))
}

const missing = () =>
  Effect.fail(new TokenError({ reason: "missing", message: "there is no token: send the one that `sign` made" }))

const expired = () =>
  Effect.fail(new TokenError({ reason: "expired", message: "the token is too old: sign a new one, or raise maxAge" }))

const invalid = (why: string) =>
  Effect.fail(new TokenError({ reason: "invalid", message: `the token is not valid: ${why}` }))

const malformed = () => invalid("its signature is right, but its content is not what `sign` or Phoenix.Token writes")
