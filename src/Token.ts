/**
 * Signed and encrypted tokens, the ones of `Phoenix.Token`: data a client carries and shows again, and that only this
 * server can have made. Also the session cookie of a Phoenix application.
 *
 * A token is how a page tells the socket who is looking at it. The page's server signs the user's id, the client sends
 * the token as a parameter of its connection, and the socket verifies it. Elixir and this module read each other's
 * tokens, as long as both have the same `secretKeyBase`, salt and key options. What is signed is protected against
 * change, not against reading: everybody who holds the token can see it. What is encrypted is protected against both.
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
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as ErlangTerm from "./internal/erlangTerm.ts"
import * as KeyGenerator from "./internal/keyGenerator.ts"
import * as MessageEncryptor from "./internal/messageEncryptor.ts"
import * as MessageVerifier from "./internal/messageVerifier.ts"
import { duration, number, oneOf } from "./internal/options.ts"
import * as TokenPayload from "./internal/tokenPayload.ts"

/**
 * Why a token or a session cookie was not accepted, with a message for the developer; show the client at most the
 * `reason`.
 *
 * - `missing`: there was none (`undefined` or `null`).
 * - `invalid`: it is none, was not made with this key, was made in the future, or does not fit the schema.
 * - `expired`: it was made here, longer ago than allowed. A session cookie does not expire by itself.
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
 * How the key is derived from `secretKeyBase` and the salt, with PBKDF2. Who verifies or decrypts needs the same values
 * as who signed or encrypted.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyOptions {
  /** Rounds of PBKDF2, at least 1; default 1000. */
  readonly keyIterations?: number | undefined
  /** Bytes of the key, at least 1; default 32, and nothing else where something is encrypted. */
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
  /** When the token was made, in **seconds** since 1970; default now, to the millisecond. */
  readonly signedAt?: number | undefined
  /** How long the token is accepted where its reader sets no `maxAge`; default 1 day, `"Infinity"` for ever. */
  readonly maxAge?: Duration.Input | undefined
  /**
   * Compresses the data where that makes the token shorter; default false. The length then tells something of the
   * content: do not encrypt a secret together with what a stranger chose. Data of more than 1 MiB stays as it is.
   */
  readonly compressed?: boolean | undefined
}

/**
 * How old a token may be.
 *
 * @category models
 * @since 0.1.0
 */
export interface VerifyOptions extends KeyOptions {
  /**
   * How old the token may be, to the millisecond; default what its maker allowed. A bare number is milliseconds (in
   * Phoenix: seconds). Zero or less accepts no token, `"Infinity"` accepts every age, even one signed in the future.
   */
  readonly maxAge?: Duration.Input | undefined
  /**
   * The lead that the clock of the server that made the token may have over this one's: a token that seems to be made in
   * the future is accepted, if it is by no more than that. Default 0, as in Phoenix; 1 minute is plenty for servers that keep
   * their clocks right. A token does not live longer for it than `maxAge` by the clock of its maker.
   */
  readonly leeway?: Duration.Input | undefined
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
 * What `Plug.Session` of the Phoenix application is configured with: the options of the same names.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionOptions extends KeyOptions {
  /** The `signing_salt` in the application's endpoint. */
  readonly signingSalt: string
  /** The `encryption_salt`, if there is one: then the cookie is encrypted instead of signed. */
  readonly encryptionSalt?: string | undefined
}

/**
 * {@link SessionOptions}, and what the session has to be.
 *
 * @category models
 * @since 0.1.0
 */
export interface SessionSchemaOptions<A, R> extends SessionOptions {
  /** Decodes the session, so that its encoded side is what the application put into it. */
  readonly schema: Schema.ConstraintDecoder<A, R>
}

/**
 * A session as it is without a schema. Keys are strings in every application; the values are the application's.
 *
 * @category models
 * @since 0.1.0
 */
export interface Session {
  readonly [key: string]: unknown
}

/**
 * Makes and reads tokens with the keys derived from one `secretKeyBase`.
 *
 * **When to use**
 *
 * Use `sign` where a user has just been authenticated, and `verify` when a socket connects. Use `encrypt` and `decrypt`
 * if the client must not know what the token says, and `readSession` if a Phoenix application has logged the user in.
 *
 * **Details**
 *
 * The salt names the purpose of a token, say `"user socket"`: a token is only valid for the salt it was made with. It
 * is no secret, and belongs in the code, not in a request.
 *
 * Whatever a client sent may be passed as a token or a cookie. Reading costs work in proportion to its length, and what
 * is compressed in it may unfold to 1 MiB.
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
   * Without a `schema` the data is `unknown`. What Elixir signed arrives as JSON would: atoms as strings, tuples as
   * arrays, map keys as strings; integers beyond 2^53 are bigints and binaries that are not UTF-8 are `Uint8Array`s.
   */
  readonly verify: {
    <A, R>(salt: string, token: unknown, options: VerifySchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
    (salt: string, token: unknown, options?: VerifyOptions): Effect.Effect<unknown, TokenError>
  }

  /**
   * Encrypts data into a token of URL-safe text that only the secret's holders can read (`Phoenix.Token.encrypt/4`).
   *
   * The data is as for `sign`; a `keyLength` other than 32 is a mistake of the program too. The cipher is
   * XChaCha20-Poly1305, its nonce 24 random bytes from Effect's `WebCrypto`: no two tokens are alike.
   */
  readonly encrypt: (salt: string, data: unknown, options?: SignOptions) => Effect.Effect<string>

  /**
   * The data of a token that `encrypt` made and that is young enough, else a {@link TokenError}
   * (`Phoenix.Token.decrypt/4`).
   *
   * It is as for `verify`. Tokens of plug_crypto 1 (AES-GCM) are read too; for those the key may also have 16 or 24 bytes.
   */
  readonly decrypt: {
    <A, R>(salt: string, token: unknown, options: VerifySchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
    (salt: string, token: unknown, options?: VerifyOptions): Effect.Effect<unknown, TokenError>
  }

  /**
   * The session that a Phoenix application keeps in its cookie, else a {@link TokenError} (`Plug.Session`, with
   * `store: :cookie` and the default serializer).
   *
   * The `secretKeyBase` has to be the application's. Values arrive as for `verify`: `"user_token"` of `phx.gen.auth`, 32
   * random bytes, as a `Uint8Array`. A browser sends the cookie along whatever page opens the socket, so keep
   * `checkOrigin` on. The cookie says nothing of its age.
   *
   * **Example** (who is logged in)
   *
   * ```ts
   * import { Schema } from "effect"
   * import { Token } from "effect-channels"
   *
   * const userIdOf = (cookies: { readonly [name: string]: string | undefined }) =>
   *   Token.Token.use((tokens) =>
   *     tokens.readSession(cookies["_my_app_key"], {
   *       signingSalt: "kZ8x1b3Q",
   *       schema: Schema.Struct({ user_id: Schema.Int })
   *     })
   *   )
   * ```
   */
  readonly readSession: {
    <A, R>(cookie: unknown, options: SessionSchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
    (cookie: unknown, options: SessionOptions): Effect.Effect<Session, TokenError>
  }

  /**
   * The value of a cookie in which a Phoenix application finds this session; the counterpart of `readSession`.
   *
   * The data is as for `sign`: what `readSession` turned from an atom or a tuple into a string or an array is written as
   * that. A browser keeps about 4,000 bytes.
   */
  readonly writeSession: (session: Session, options: SessionOptions) => Effect.Effect<string>
}>()("effect-channels/Token") {}

/**
 * The secret all keys are derived from.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** At least 20 bytes (64 random ones are usual), the same on every server: who knows it can make any token. */
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
  Effect.fromResult(keyBase(options)).pipe(Effect.orDie, Effect.flatMap(fromKeyBase))

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
      Effect.flatMap(fromKeyBase)
    )
  )

const minKeyBaseBytes = 20

const keyBase = ({ secretKeyBase }: Options): Result.Result<Buffer, ConfigProvider.SourceError> => {
  const secret: unknown = Redacted.isRedacted(secretKeyBase) ? Redacted.value(secretKeyBase) : secretKeyBase
  if (typeof secret !== "string") {
    return Result.fail(
      new ConfigProvider.SourceError({
        message: `secretKeyBase must be a text, and is ${secret === null ? "null" : typeof secret}`
      })
    )
  }
  const bytes = Buffer.from(secret)
  if (bytes.length >= minKeyBaseBytes) return Result.succeed(bytes)
  return Result.fail(
    new ConfigProvider.SourceError({
      message: `secretKeyBase has ${bytes.length} bytes, but needs at least ${minKeyBaseBytes}: ` +
        "make one with `openssl rand -base64 48`"
    })
  )
}

const fromKeyBase = Effect.fnUntraced(function*(keyBase: Buffer) {
  const keyFor = KeyGenerator.make(keyBase)
  const random = yield* Effect.provide(SecureRandom.SecureRandom, SecureRandom.layerWebCrypto)
  const nonce = random.randomBytes(MessageEncryptor.nonceBytes)

  const sessionOf = Effect.fnUntraced(function*(cookie: unknown, options: SessionOptions) {
    const text = yield* textOf("session cookie", cookie)
    const content = options.encryptionSalt === undefined
      ? MessageVerifier.verify(text, keyFor(options.signingSalt, options))
      : MessageEncryptor.decrypt(
        text,
        keyFor(options.encryptionSalt, options),
        keyFor(options.signingSalt, options).export()
      )
    if (content === undefined) return yield* foreign("session cookie")
    const session = Result.getOrUndefined(ErlangTerm.decode(content))
    if (!Predicate.isObject(session) || session instanceof Uint8Array) return yield* malformed("session cookie")
    return session
  })

  function readSession<A, R>(cookie: unknown, options: SessionSchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
  function readSession(cookie: unknown, options: SessionOptions): Effect.Effect<Session, TokenError>
  function readSession<A, R>(cookie: unknown, options: SessionOptions | SessionSchemaOptions<A, R>) {
    const session = sessionOf(cookie, options)
    return "schema" in options ? Effect.flatMap(session, decodeWith("session cookie", options.schema)) : session
  }

  return Token.of({
    sign: Effect.fnUntraced(function*(salt, data, options = {}) {
      return MessageVerifier.sign(yield* payloadOf(data, options), keyFor(salt, options))
    }),
    verify: reading((token, salt, options) => MessageVerifier.verify(token, keyFor(salt, options))),
    encrypt: Effect.fnUntraced(function*(salt, data, options = {}) {
      return MessageEncryptor.encrypt(yield* payloadOf(data, options), keyFor(salt, options), yield* nonce)
    }),
    decrypt: reading((token, salt, options) => MessageEncryptor.decrypt(token, keyFor(salt, options), noKey)),
    readSession,
    writeSession: Effect.fnUntraced(function*(session, options) {
      const content = yield* Effect.orDie(Effect.fromResult(ErlangTerm.encode(session)))
      return options.encryptionSalt === undefined
        ? MessageVerifier.sign(content, keyFor(options.signingSalt, options))
        : MessageEncryptor.encrypt(content, keyFor(options.encryptionSalt, options), yield* nonce)
    })
  })
})

/** An encrypted session has a second key, a token has none. */
const noKey = new Uint8Array()

/** An age in milliseconds. None at all, or less than that, makes a token that nobody accepts. */
const ageOf = (maxAge: Duration.Input): number => duration("maxAge", maxAge, { min: -Infinity, unlimited: true })

const payloadOf = Effect.fnUntraced(function*(data: unknown, options: SignOptions) {
  const signedAt = options.signedAt === undefined
    // oxlint-disable-next-line no-restricted-properties -- no duration: other nodes read it
    ? yield* Clock.currentTimeMillis
    : number("signedAt", options.signedAt, { min: 0, unit: "seconds" }) * 1000
  const maxAge = options.maxAge === undefined ? TokenPayload.defaultMaxAge : ageOf(options.maxAge)
  if (options.compressed !== undefined) oneOf("compressed", options.compressed, [true, false])
  return yield* Effect.orDie(Effect.fromResult(TokenPayload.encode({ data, signedAt, maxAge }, options)))
})

/** `verify` or `decrypt`: they differ in how the text becomes content, which is undefined if this key did not make it. */
const reading = (
  contentOf: (token: string, salt: string, options: KeyOptions) => Uint8Array | undefined
): Token["Service"]["verify"] => {
  const dataOf = Effect.fnUntraced(function*(salt: string, token: unknown, options: VerifyOptions = {}) {
    // A mistake of the program shows with any token.
    const age = options.maxAge === undefined ? undefined : ageOf(options.maxAge)
    const leeway = options.leeway === undefined ? 0 : duration("leeway", options.leeway, { min: 0 })
    const content = contentOf(yield* textOf("token", token), salt, options)
    if (content === undefined) return yield* foreign("token")
    const payload = TokenPayload.decode(content)
    if (payload === undefined) return yield* malformed("token")
    const maxAge = age ?? payload.maxAge
    // oxlint-disable-next-line no-restricted-properties -- the age of a token is told by the clocks of nodes
    switch (TokenPayload.judge(payload.signedAt, maxAge, yield* Clock.currentTimeMillis, leeway)) {
      case "accepted":
        return payload.data
      case "expired":
        return yield* expired()
      case "future":
        return yield* invalid("token", "it was made in the future: compare the clocks of the servers")
      case "malformed":
        return yield* malformed("token")
    }
  })

  function read<A, R>(salt: string, token: unknown, options: VerifySchemaOptions<A, R>): Effect.Effect<A, TokenError, R>
  function read(salt: string, token: unknown, options?: VerifyOptions): Effect.Effect<unknown, TokenError>
  function read<A, R>(salt: string, token: unknown, options?: VerifyOptions | VerifySchemaOptions<A, R>) {
    const data = dataOf(salt, token, options)
    return options !== undefined && "schema" in options
      ? Effect.flatMap(data, decodeWith("token", options.schema))
      : data
  }
  return read
}

type Subject = "token" | "session cookie"

const textOf = (subject: Subject, value: unknown): Effect.Effect<string, TokenError> => {
  if (typeof value === "string") return Effect.succeed(value)
  return value === undefined || value === null ? missing(subject) : invalid(subject, "it is no string")
}

const decodeWith = <A, R>(subject: Subject, schema: Schema.ConstraintDecoder<A, R>) => {
  const decode = Schema.decodeUnknownEffect(schema)
  return (data: unknown): Effect.Effect<A, TokenError, R> =>
    Effect.mapError(decode(data), (cause) =>
      new TokenError({
        reason: "invalid",
        message: `the ${subject} is genuine, but its data does not fit the schema: write data of its encoded side`,
        cause
      }))
}

const missing = (subject: Subject) =>
  Effect.fail(new TokenError({ reason: "missing", message: `there is no ${subject}: send the one the server made` }))

const expired = () =>
  Effect.fail(new TokenError({ reason: "expired", message: "the token is too old: make a new one, or raise maxAge" }))

const invalid = (subject: Subject, why: string) =>
  Effect.fail(new TokenError({ reason: "invalid", message: `the ${subject} is not valid: ${why}` }))

const foreign = (subject: Subject) =>
  invalid(subject, "it was changed, or made with another secretKeyBase, salt or key option, or in another way")

const malformed = (subject: Subject) => invalid(subject, "it is genuine, but its content is not what Phoenix writes")
