/**
 * What is fuzzed, and what must hold for any input: an answer or the typed error, in time, and no object that has become
 * something else. What is valid comes back as it went.
 */
import { Cause, Effect, Exit, Result } from "effect"
import * as fc from "fast-check"
import { isDeepStrictEqual } from "node:util"
import { constants, deflateRawSync, inflateRawSync } from "node:zlib"
import * as Envelope from "../../../src/internal/envelope.ts"
import { inflate } from "../../../src/internal/inflate.ts"
import { inflateShort } from "../../../src/internal/inflateShort.ts"
import * as KeyGenerator from "../../../src/internal/keyGenerator.ts"
import * as MessageEncryptor from "../../../src/internal/messageEncryptor.ts"
import * as MessageVerifier from "../../../src/internal/messageVerifier.ts"
import * as Ndjson from "../../../src/internal/ndjson.ts"
import { isPacket } from "../../../src/internal/packet.ts"
import { decodeQuery, QueryError } from "../../../src/internal/query.ts"
import { Replica } from "../../../src/internal/replica.ts"
import * as Message from "../../../src/Message.ts"
import * as Serializer from "../../../src/Serializer.ts"
import * as Token from "../../../src/Token.ts"
import { bytes, editBytes, edits, editText, json, name, oddJson, text } from "./inputs.ts"

/** Milliseconds that one input may take; most take some hundredths of one. */
export const maxMillis = 2000

export interface Outcome {
  readonly runs: number
  readonly seed: number
  /** The smallest input that fails, and why. */
  readonly failure: { readonly input: string; readonly path: string; readonly error: string } | undefined
}

export interface Options {
  readonly seed: number
  readonly runs: number
  /** Called before each input. */
  readonly onInput?: (() => void) | undefined
}

export interface Target {
  readonly name: string
  /** How many of a hundred inputs are for it. */
  readonly share: number
  readonly run: (options: Options) => Promise<Outcome>
  /** The n-th input of a seed. */
  readonly input: (seed: number, n: number) => string
}

const fail = (message: string): never => {
  throw new Error(message)
}

const prototypes = [Object.prototype, Array.prototype, Function.prototype, String.prototype, Uint8Array.prototype]
const sizes = prototypes.map((prototype) => Reflect.ownKeys(prototype).length)

/** Nothing has been added to what all objects inherit. */
const assertUnpolluted = () => {
  prototypes.forEach((prototype, index) => {
    if (Reflect.ownKeys(prototype).length !== sizes[index]) fail("a prototype was polluted")
  })
}

const plain: ReadonlyArray<unknown> = [null, Object.prototype, Array.prototype, Uint8Array.prototype, Buffer.prototype]

/** A value of plain data has no prototype that somebody has chosen. */
const assertPlain = (value: unknown) => {
  const left = [value]
  while (left.length > 0) {
    const next = left.pop()
    if (typeof next !== "object" || next === null) continue
    if (!plain.includes(Object.getPrototypeOf(next))) fail("an object has a prototype of somebody's choice")
    if (!(next instanceof Uint8Array)) { for (const part of Object.values(next)) left.push(part) }
  }
}

/** A number that is none, or half a character, would go on as something else. */
const assertSayable = (value: unknown) => {
  const left = [value]
  while (left.length > 0) {
    const next = left.pop()
    if (typeof next === "number" && !Number.isFinite(next)) fail(`${next} is no number of JSON`)
    if (typeof next === "string" && !next.isWellFormed()) fail("half a character was read")
    if (typeof next !== "object" || next === null || next instanceof Uint8Array) continue
    for (const [key, part] of Object.entries(next)) left.push(key, part)
  }
}

const assertSame = (found: unknown, wanted: unknown, what: string) => {
  if (!isDeepStrictEqual(found, wanted)) fail(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`)
}

/** JSON knows no negative zero, and no order but that of insertion. */
const sameJson = (found: unknown, wanted: unknown, what: string) =>
  assertSame(JSON.stringify(found), JSON.stringify(wanted), what)

export const target = <A>(
  name: string,
  share: number,
  input: fc.Arbitrary<A>,
  check: (input: A) => void | Promise<void>
): Target => ({
  name,
  share,
  run: async ({ onInput, runs, seed }) => {
    const timed = async (given: A) => {
      onInput?.()
      const start = performance.now()
      const waiting = check(given)
      if (waiting !== undefined) await waiting
      const millis = performance.now() - start
      if (millis > maxMillis) fail(`it took ${Math.round(millis)} ms`)
      assertUnpolluted()
    }
    const details = await fc.check(fc.asyncProperty(input, timed), { seed, numRuns: runs })
    const [given] = details.counterexample ?? []
    return {
      runs: details.numRuns,
      seed,
      failure: !details.failed ? undefined : {
        input: fc.stringify(given),
        path: details.counterexamplePath ?? "",
        error: String(details.errorInstance)
      }
    }
  },
  input: (seed, n) => fc.stringify(fc.sample(input, { seed, path: String(n), numRuns: 1 })[0])
})

// --- frames -----------------------------------------------------------------------------------------------------------

type Given =
  | { readonly valid: readonly [joinRef: unknown, ref: unknown, topic: unknown, event: unknown, payload: unknown] }
  | { readonly data: string | Uint8Array }

const isFrame = (given: Given): given is Extract<Given, { data: unknown }> => "data" in given

const codes = ["invalid_utf8", "invalid_json", "invalid_message", "invalid_frame"]

/** Whatever is read can be answered, or the answer is an error with a code; a text answer says what was read. */
const assertFrame = (serializer: Serializer.Serializer, data: string | Uint8Array, opcode: Serializer.Opcode) => {
  const decoded = serializer.decode(data, opcode)
  if (Result.isFailure(decoded)) {
    const { failure } = decoded
    if (!(failure instanceof Serializer.DecodeError) || !codes.includes(failure.code)) fail("not the typed error")
    return undefined
  }
  const { joinRef, payload, ref, topic } = decoded.success
  assertPlain(decoded.success)
  // Text that comes over a wire is Unicode.
  if (typeof data !== "string" || data.isWellFormed()) assertSayable(decoded.success)
  const answer = serializer.encode(Message.reply(joinRef, ref, topic, "ok", payload))
  if (Result.isFailure(answer)) {
    if (!(answer.failure instanceof Serializer.EncodeError)) fail("not the typed error of encode")
  } else if (typeof answer.success === "string") {
    const frame = JSON.parse(answer.success)
    const said = serializer === Serializer.v1 ? [frame.ref, frame.topic, frame.payload] : [frame[1], frame[2], frame[4]]
    sameJson(said, [ref, topic, { status: "ok", response: payload }], "the answer")
  }
  return decoded.success
}

const fields = fc.tuple(fc.oneof(name, json), fc.oneof(name, json), fc.oneof(name, json), fc.oneof(name, json), json)

const encodeV1 = ([join_ref, ref, topic, event, payload]: ReadonlyArray<unknown>) =>
  JSON.stringify({ topic, event, payload, ref, join_ref })

const frames = (encode: (fields: ReadonlyArray<unknown>) => string) =>
  fc.oneof(
    fields.map((valid): Given => ({ valid })),
    fc.tuple(fields, edits).map(([fields, edits]): Given => ({ data: editText(encode(fields), edits) })),
    fc.tuple(fields, edits).map(([fields, edits]): Given => ({ data: editBytes(Buffer.from(encode(fields)), edits) })),
    fc.tuple(fields, oddJson).map(([[joinRef, ref, topic], odd]): Given => {
      const mark = "\ue000"
      return { data: encode([joinRef, ref, topic, "e", mark]).replace(`"${mark}"`, () => odd) }
    }),
    fc.oneof(text, bytes).map((data): Given => ({ data }))
  )

const frameTarget = (
  name: string,
  share: number,
  serializer: Serializer.Serializer,
  encode: (fields: ReadonlyArray<unknown>) => string
) =>
  target(name, share, frames(encode), (given) => {
    if (isFrame(given)) return void assertFrame(serializer, given.data, "text")
    const decoded = assertFrame(serializer, encode(given.valid), "text")
    if (decoded === undefined) return void fail("a valid frame was refused")
    const { event, joinRef, payload, ref, topic } = decoded
    sameJson([joinRef, ref, topic, event, payload], given.valid, "the message")
  })

const short = name.filter((name) => Buffer.byteLength(name) < 256 && name.isWellFormed())

const encodeBinary = (
  [joinRef, ref, topic, event, data]: readonly [string, string, string, string, Uint8Array]
): Uint8Array => {
  const parts = [joinRef, ref, topic, event].map((field) => Buffer.from(field))
  return Buffer.concat([Buffer.from([0, ...parts.map(({ length }) => length)]), ...parts, data])
}

const binaryFields = fc.tuple(short, short, short, short, bytes)

const v2Binary = target(
  "V2 binary",
  15,
  fc.oneof(
    binaryFields.map((valid): Given => ({ valid })),
    fc.tuple(binaryFields, edits).map(([fields, edits]): Given => ({ data: editBytes(encodeBinary(fields), edits) })),
    bytes.map((data): Given => ({ data }))
  ),
  (given) => {
    if (isFrame(given)) return void assertFrame(Serializer.v2, given.data, "binary")
    const valid = given.valid as typeof binaryFields extends fc.Arbitrary<infer A> ? A : never
    const decoded = assertFrame(Serializer.v2, encodeBinary(valid), "binary")
    if (decoded === undefined) return void fail("a valid frame was refused")
    const { event, joinRef, payload, ref, topic } = decoded
    assertSame([joinRef, ref, topic, event, payload], [...valid], "the message")
  }
)

// --- queries ----------------------------------------------------------------------------------------------------------

const key = name.filter((name) => name !== "" && !/[[\]]/.test(name) && name.isWellFormed())
const value = name.filter((name) => name.isWellFormed())
const entries = <A>(value: fc.Arbitrary<A>) =>
  fc.uniqueArray(fc.tuple(key, value), { minLength: 1, maxLength: 3, selector: ([key]) => key })
type Tree = string | ReadonlyArray<string> | ReadonlyArray<readonly [string, string | ReadonlyArray<string>]>

const encodeQuery = (params: ReadonlyArray<readonly [string, unknown]>, prefix = ""): string =>
  params.map(([key, value]) => {
    const name = prefix === "" ? encodeURIComponent(key) : `${prefix}[${encodeURIComponent(key)}]`
    if (typeof value === "string") return `${name}=${encodeURIComponent(value)}`
    const list = value as ReadonlyArray<unknown>
    return Array.isArray(list[0])
      ? encodeQuery(list as ReadonlyArray<readonly [string, unknown]>, name)
      : list.map((value) => `${name}[]=${encodeURIComponent(String(value))}`).join("&")
  }).join("&")

/** What a query means, as the text of JSON: keys in the order in which they came. */
const meaning = (params: ReadonlyArray<readonly [string, unknown]>): unknown => {
  const made: Record<string, unknown> = Object.create(null)
  for (const [key, value] of params) {
    made[key] = Array.isArray(value) && Array.isArray(value[0]) ? meaning(value) : value
  }
  return made
}

const list = fc.array(value, { minLength: 1, maxLength: 3 })
const tree: fc.Arbitrary<Tree> = fc.oneof(value, list, entries(fc.oneof(value, list)))
const params = entries(tree)

const query = target(
  "query",
  15,
  fc.oneof(
    params.map((valid) => ({ valid })),
    fc.tuple(params, edits).map(([params, edits]) => ({ data: editText(encodeQuery(params), edits) })),
    fc.string({
      unit: fc.constantFrom(
        "a",
        "b",
        "[",
        "]",
        "[]",
        "[a]",
        "&",
        "=",
        "%",
        "+",
        "?",
        "%5B",
        "%5D",
        "%ff",
        "\ud800",
        "__proto__"
      ),
      maxLength: 60
    }).map((data) => ({ data })),
    text.map((data) => ({ data }))
  ),
  (given) => {
    const decoded = decodeQuery("data" in given ? given.data : encodeQuery(given.valid))
    if (Result.isFailure(decoded)) {
      if (!(decoded.failure instanceof QueryError)) fail("not the typed error")
      if ("valid" in given) fail("a valid query was refused")
      return
    }
    assertPlain(decoded.success)
    if ("valid" in given) sameJson(decoded.success, meaning(given.valid), "the params")
  }
)

// --- tokens -----------------------------------------------------------------------------------------------------------

const secretKeyBase = "a secret of more than twenty bytes"
const tokens = Effect.runSync(Token.make({ secretKeyBase }))
const keyFor = KeyGenerator.make(Buffer.from(secretKeyBase))
const nonce = Buffer.alloc(MessageEncryptor.nonceBytes, 7)
const signed = { signingSalt: "signing" }
const encrypted = { signingSalt: "signing", encryptionSalt: "encryption" }

/** How a kind of token is made by who has the key: of data, and of any bytes; and how it is read. */
interface Kind {
  readonly name: string
  readonly make: (data: unknown) => Effect.Effect<string>
  readonly forge: (content: Uint8Array) => string
  readonly read: (token: unknown) => Effect.Effect<unknown, Token.TokenError>
}

const kinds: ReadonlyArray<Kind & { readonly share: number }> = [
  {
    name: "Token.verify",
    share: 10,
    make: (data) => tokens.sign("salt", data),
    forge: (content) => MessageVerifier.sign(content, keyFor("salt", {})),
    read: (token) => tokens.verify("salt", token)
  },
  {
    name: "Token.decrypt",
    share: 5,
    make: (data) => tokens.encrypt("salt", data),
    forge: (content) => MessageEncryptor.encrypt(content, keyFor("salt", {}), nonce),
    read: (token) => tokens.decrypt("salt", token)
  },
  {
    name: "Token.readSession, signed",
    share: 5,
    make: (data) => tokens.writeSession({ data }, signed),
    forge: (content) => MessageVerifier.sign(content, keyFor("signing", {})),
    read: (cookie) => Effect.map(tokens.readSession(cookie, signed), ({ data }) => data)
  },
  {
    name: "Token.readSession, encrypted",
    share: 5,
    make: (data) => tokens.writeSession({ data }, encrypted),
    forge: (content) => MessageEncryptor.encrypt(content, keyFor("encryption", {}), nonce),
    read: (cookie) => Effect.map(tokens.readSession(cookie, encrypted), ({ data }) => data)
  }
]

/** Erlang terms, and nearly such: tags and counts that promise much. */
const term: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.array(
    fc.oneof(
      fc.constantFrom(70, 80, 97, 98, 99, 100, 104, 105, 106, 107, 108, 109, 110, 111, 115, 116, 118, 119, 131),
      fc.constantFrom(0, 0, 0, 1, 2, 3, 4, 255),
      fc.nat(255)
    ),
    { maxLength: 60 }
  ).map((bytes) => Uint8Array.from([131, ...bytes])),
  bytes
)

/** Data that tokens can hold: no half characters. */
const wellFormed = json.filter((value) => !/\\ud[89a-f]/i.test(JSON.stringify(value)))

const tokenTargets = kinds.map(({ forge, make, name, read, share }) =>
  target(
    name,
    share,
    fc.oneof(
      wellFormed.map((data) => ({ data })),
      fc.tuple(wellFormed, edits).map(([changed, edits]) => ({ changed, edits })),
      term.map((content) => ({ content })),
      fc.tuple(wellFormed, edits).map(([packed, edits]) => ({ packed, edits })),
      fc.oneof(text, fc.array(text, { maxLength: 6 }).map((parts) => parts.join("."))).map((token) => ({ token }))
    ),
    (given) => {
      const valid = "data" in given ? Effect.runSync(make(given.data)) : undefined
      const before = "changed" in given ? Effect.runSync(make(given.changed)) : undefined
      const token = valid ?? ("content" in given
        ? forge(given.content)
        : "packed" in given
        ? forge(editBytes(contentOf(given.packed), given.edits))
        : "token" in given
        ? given.token
        : "changed" in given
        ? editText(before ?? "", given.edits)
        : "")
      const exit = Effect.runSyncExit(read(token))
      if (Exit.isSuccess(exit)) {
        assertPlain(exit.value)
        if ("data" in given) assertSame(exit.value, given.data, "the data")
        if (before !== undefined && token !== before) fail("a token that was changed is accepted")
        if ("token" in given) fail("a token that nobody has made is accepted")
        return
      }
      const error = Cause.squash(exit.cause)
      if (!(error instanceof Token.TokenError)) fail(`not the typed error: ${String(error)}`)
      if (valid !== undefined) fail(`a valid token was refused: ${String(error)}`)
    }
  )
)

/** What is inside of a signed token. */
const contentOf = (data: unknown): Uint8Array => {
  const [, content = ""] = Effect.runSync(tokens.sign("salt", data)).split(".")
  return Buffer.from(content, "base64url")
}

// --- between nodes ----------------------------------------------------------------------------------------------------

const withBytes = fc.oneof(json, fc.tuple(json, bytes, fc.dictionary(short, bytes, { maxKeys: 2 })))
const sent = fc.record({
  node: name,
  incarnation: name,
  topic: name,
  message: withBytes,
  trace: fc.option(name, { nil: undefined })
})

/** An envelope around any head. */
const seal = (head: unknown, data: Uint8Array): Uint8Array => {
  const json = Buffer.from(JSON.stringify(head))
  const fixed = Buffer.from([0x70, 0x68, 0x78, 1, 0, 0, 0, 0])
  fixed.writeUInt32BE(json.length, 4)
  return Buffer.concat([fixed, json, data])
}

const path = fc.array(fc.oneof(name, fc.nat(3), json), { maxLength: 3 })
const head = fc.tuple(name, name, name, json, fc.option(name), fc.array(fc.tuple(path, fc.nat(8)), { maxLength: 3 }))

const envelope = target(
  "envelope",
  10,
  fc.oneof(
    sent.map((valid) => ({ valid })),
    fc.tuple(sent, edits).map(([sent, edits]) => ({ data: editBytes(Envelope.encode(sent), edits) })),
    fc.tuple(head, bytes).map(([head, data]) => ({ data: seal(head, data) })),
    fc.tuple(json, bytes).map(([head, data]) => ({ data: seal(head, data) })),
    bytes.map((data) => ({ data }))
  ),
  (given) => {
    const decoded = Envelope.decode("data" in given ? given.data : Envelope.encode(given.valid))
    if (decoded instanceof Envelope.Unreadable) {
      if ("valid" in given) fail("a valid envelope was refused")
      return
    }
    assertPlain(decoded.message)
    for (const text of [decoded.node, decoded.incarnation, decoded.topic, decoded.trace ?? ""]) {
      if (typeof text !== "string") fail("a name is no text")
    }
    if ("valid" in given) sameJson(decoded, given.valid, "the envelope")
  }
)

const count = fc.oneof(fc.nat(5), fc.constantFrom(-1, 0.5, 2 ** 53, -0))
const owner = fc.record({ node: fc.constantFrom("a", "b", "__proto__"), life: count })
const presence = fc.tuple(
  count,
  fc.constantFrom("t", "__proto__"),
  fc.constantFrom("k", "__proto__"),
  json.chain((meta) => fc.constantFrom("1", "2").map((phx_ref) => ({ ...Object(meta), phx_ref })))
)
const packet: fc.Arbitrary<unknown> = fc.oneof(
  fc.record({ type: fc.constant("heartbeat"), from: owner, version: count }),
  fc.record({
    type: fc.constant("delta"),
    from: owner,
    base: count,
    version: count,
    present: fc.array(presence, { maxLength: 3 }),
    gone: fc.array(count, { maxLength: 3 })
  }),
  fc.record({
    type: fc.constant("snapshot"),
    from: owner,
    version: count,
    total: count,
    present: fc.array(presence, { maxLength: 3 })
  }),
  fc.record({ type: fc.constant("request"), from: owner, life: count, have: count }),
  fc.record({ type: fc.constant("bye"), from: owner })
)

/** One part of a packet replaced by anything, or taken away. */
const broken = fc.tuple(packet, fc.nat(6), json, fc.boolean()).map(([packet, index, value, isGone]) => {
  const copy = { ...Object(packet) }
  const names = Object.keys(copy)
  const part = names[index % names.length] ?? ""
  if (isGone) delete copy[part]
  else copy[part] = value
  return copy as unknown
})

const packets = target(
  "tracker packets",
  5,
  fc.array(fc.oneof(packet, broken, json), { minLength: 1, maxLength: 5 }),
  (given) => {
    const options = { period: 1500, maxSilentPeriods: 10, downPeriod: 30_000, permdownPeriod: 1_200_000 }
    const replica = new Replica({ node: "self", life: 1 }, options)
    replica.put([1, "t", "k", { phx_ref: "own" }])
    let now = 0
    for (const packet of given) {
      // As it arrives: through JSON.
      const arrived: unknown = JSON.parse(JSON.stringify(packet))
      if (isPacket(arrived)) replica.receive(arrived, now += 1000)
      for (const { packet } of replica.tick(now += 10_000).send) {
        if (!isPacket(packet)) fail("it sends what is no packet")
      }
    }
    const own = [...replica.list("t").get("k") ?? []].filter(([, , , meta]) => meta.phx_ref === "own")
    assertSame(own.length, 1, "the own presences")
  }
)

// --- compression ------------------------------------------------------------------------------------------------------

/** Inflates a message with zlib, after adding the end that a client leaves out. */
const unfold = (data: Uint8Array): Buffer | undefined => {
  try {
    return inflateRawSync(Buffer.concat([data, Buffer.of(0, 0, 0xff, 0xff)]), { finishFlush: constants.Z_SYNC_FLUSH })
  } catch {
    return undefined
  }
}

const strategies = [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE]

/** As clients compress: all levels, strategies and windows. */
const deflated = fc.tuple(
  fc.oneof(bytes, text.map((text) => Buffer.from(text)), fc.constantFrom(0, 1, 258, 300, 20_000).map(Buffer.alloc)),
  fc.integer({ min: 0, max: 9 }),
  fc.constantFrom(...strategies),
  fc.integer({ min: 9, max: 15 })
).map(([data, level, strategy, windowBits]) => {
  const options = { finishFlush: constants.Z_SYNC_FLUSH, level, strategy, windowBits }
  return { data: Buffer.from(data), packed: deflateRawSync(data, options).subarray(0, -4) }
})

const inflater = target(
  "inflater",
  5,
  fc.oneof(
    deflated,
    fc.tuple(deflated, edits).map(([{ packed }, edits]) => ({ data: undefined, packed: editBytes(packed, edits) })),
    fc.tuple(fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7), bytes).map(([first, rest]) => ({
      data: undefined,
      packed: Uint8Array.of(first, ...rest)
    })),
    bytes.map((packed) => ({ data: undefined, packed }))
  ),
  ({ data, packed }) => {
    const copy = Buffer.from(packed)
    const short = inflateShort(copy)
    const found = inflate(copy)
    if (Buffer.compare(copy, packed) !== 0) fail("the message was changed")
    const wanted = unfold(packed)
    // A message that is left to zlib is undefined, and one that zlib refuses is never something.
    for (const one of [short, found]) {
      if (one !== undefined && (wanted === undefined || Buffer.compare(one, wanted) !== 0)) {
        fail(`${one.toString("hex")} instead of ${wanted?.toString("hex")}`)
      }
    }
    if (data !== undefined && data.length <= 16_384 && found === undefined) fail("a short message is not read")
    if (found !== undefined && found.length > 16_384) fail("it unfolds to too much")
  }
)

// --- long polling -----------------------------------------------------------------------------------------------------

const line = fc.oneof(json.map((value) => JSON.stringify([value])), bytes.filter(({ length }) => length > 0))
const encodeLines = (lines: ReadonlyArray<string | Uint8Array>) =>
  lines.map((line) => typeof line === "string" ? line : Buffer.from(line).toString("base64")).join("\n")
const lines = fc.array(line, { maxLength: 8 })

const ndjson = target(
  "ndjson",
  5,
  fc.oneof(
    lines.map((valid) => ({ valid })),
    fc.tuple(lines, edits).map(([lines, edits]) => ({ data: editBytes(Buffer.from(encodeLines(lines)), edits) })),
    fc.array(fc.constantFrom("\n", "\r", "\r\n", "[", "A", "=", "AA==", "é"), { maxLength: 150 }).map((parts) => ({
      data: Uint8Array.from(Buffer.from(parts.join("")))
    })),
    bytes.map((data) => ({ data }))
  ),
  (given) => {
    const body = "data" in given ? given.data : Uint8Array.from(Buffer.from(encodeLines(given.valid)))
    const frames = Result.flatMap(Ndjson.decodeText(body.slice().buffer), Ndjson.decodeLines)
    if (Result.isFailure(frames)) {
      if (!["encoding", "base64", "length"].includes(frames.failure)) fail("not the typed error")
      if ("valid" in given) fail("a valid body was refused")
      return
    }
    if (frames.success.length > Ndjson.maxEntries) fail("too many entries")
    if ("valid" in given) {
      assertSame(
        frames.success.map((frame) => typeof frame === "string" ? frame : Uint8Array.from(frame)),
        given.valid,
        "the frames"
      )
    }
  }
)

/** The decoders; their shares are a hundred, together with that of the checks of options. */
export const decoders: ReadonlyArray<Target> = [
  frameTarget("V1", 5, Serializer.v1, encodeV1),
  frameTarget("V2 text", 10, Serializer.v2, (fields) => JSON.stringify(fields)),
  v2Binary,
  query,
  ...tokenTargets,
  envelope,
  packets,
  inflater,
  ndjson
]
