/**
 * Frames to messages and back: the two versions of the Phoenix wire format, V1 (JSON objects) and V2 (JSON arrays and
 * binary frames).
 *
 * A serializer is pure and never throws: whatever a client sends is a message or a {@link DecodeError}, whatever the
 * application sends is a frame or an {@link EncodeError}.
 */
import * as Data from "effect/Data"
import * as Result from "effect/Result"
import * as Version from "./internal/version.ts"
import type { Broadcast, Inbound, Message, Reply } from "./Message.ts"

/** What a transport sends: a string as a text frame, a `Uint8Array` as a binary one. */
export type Frame = string | Uint8Array

/** The kind of frame that came in; the WebSocket protocol calls it the opcode. */
export type Opcode = "text" | "binary"

/**
 * A frame from a client that is no message. Phoenix closes the connection with code 1011 on it.
 *
 * The codes are stable:
 * - `invalid_utf8`: a text frame, or a field of a binary frame, is not UTF-8.
 * - `invalid_json`: the text is not JSON.
 * - `invalid_message`: JSON, but not the object (V1) or array (V2) that makes a message.
 * - `invalid_frame`: a binary frame of an unknown kind, or one that ends within its header.
 * - `invalid_ref`, `invalid_topic`, `invalid_event`: what the socket that has decoded it does not take: a `ref` or
 *   `join_ref` beyond `maxRefBytes`, a topic or event that is no text, and large.
 */
export class DecodeError extends Data.TaggedError("DecodeError")<{
  readonly code:
    | "invalid_utf8"
    | "invalid_json"
    | "invalid_message"
    | "invalid_frame"
    | "invalid_ref"
    | "invalid_topic"
    | "invalid_event"
  readonly message: string
  readonly cause?: unknown
}> {}

/**
 * A message of the application that cannot become a frame. Phoenix raises in the sender.
 *
 * The codes are stable:
 * - `invalid_json`: `JSON.stringify` refuses the payload (a cycle, a BigInt, a `toJSON` that throws, `undefined`).
 * - `invalid_payload`: the payload of a V2 push or broadcast is neither an object nor a `Uint8Array`.
 * - `invalid_binary`: the bytes are not in a `Uint8Array`, or the client speaks V1, which has no binary frames.
 * - `invalid_field`: a field of a binary frame is no text, or longer than the 255 bytes of UTF-8 it has room for.
 */
export class EncodeError extends Data.TaggedError("EncodeError")<{
  readonly code: "invalid_json" | "invalid_payload" | "invalid_binary" | "invalid_field"
  readonly message: string
  readonly cause?: unknown
}> {}

/**
 * Translates between frames and messages, as `Phoenix.Socket.Serializer` does. Implement it to speak a format of your
 * own (MessagePack, say) and list it in {@link Serializers}.
 *
 * **Example**
 *
 * ```ts
 * import { Result } from "effect"
 * import { Message, Serializer } from "effect-channels"
 *
 * const frame = Serializer.v2.encode(Message.reply("1", "7", "room:1", "ok", {}))
 * // Result.succeed('["1","7","room:1","phx_reply",{"status":"ok","response":{}}]')
 *
 * const inbound = Serializer.v2.decode('["1","8","room:1","typing",{}]', "text")
 * if (Result.isSuccess(inbound)) console.log(inbound.success.event) // typing
 * ```
 */
export interface Serializer {
  /** For logs, such as `V2`. */
  readonly name: string
  /** Reads a frame; bytes of a text frame are UTF-8. Bytes in the payload may be a view of `data`. */
  readonly decode: (data: string | Uint8Array, opcode: Opcode) => Result.Result<Inbound, DecodeError>
  /** Writes a push or a reply; a reply whose payload is `undefined` carries `{}`. */
  readonly encode: (message: Message | Reply) => Result.Result<Frame, EncodeError>
  /** Writes a broadcast: once for all subscribers of a topic who speak this format. */
  readonly fastlane: (broadcast: Broadcast) => Result.Result<Frame, EncodeError>
}

/** What a codec does; it may throw, {@link make} turns that into a typed error. */
interface Codec {
  readonly decode: (data: string | Uint8Array, opcode: Opcode) => Inbound
  readonly encode: (message: Message | Reply) => Frame
  readonly fastlane: (broadcast: Broadcast) => Frame
}

const make = (name: string, codec: Codec): Serializer => ({
  name,
  decode: (data, opcode) => {
    try {
      return Result.succeed(codec.decode(data, opcode))
    } catch (cause) {
      return Result.fail(
        cause instanceof DecodeError ? cause : new DecodeError({
          code: "invalid_json",
          message: `The frame is not JSON: a ${name} client sends JSON text in UTF-8.`,
          cause
        })
      )
    }
  },
  encode: (message) => encoded(message, codec.encode),
  fastlane: (broadcast) => encoded(broadcast, codec.fastlane)
})

const encoded = <A extends Message | Reply | Broadcast>(
  message: A,
  encode: (message: A) => Frame
): Result.Result<Frame, EncodeError> => {
  try {
    return Result.succeed(encode(message))
  } catch (cause) {
    return Result.fail(
      cause instanceof EncodeError ? cause : new EncodeError({
        code: "invalid_json",
        message: `The ${titleOf(message)} cannot be written as JSON: send plain data, without cycles or BigInt.`,
        cause
      })
    )
  }
}

const titleOf = (message: Message | Reply | Broadcast): string =>
  message._tag === "Reply" ? `reply "${message.status}"` : `event "${message.event}"`

const utf8Decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const utf8Encoder = new TextEncoder()

const utf8 = (data: Uint8Array, what: string): string => {
  try {
    return utf8Decoder.decode(data)
  } catch (cause) {
    throw new DecodeError({ code: "invalid_utf8", message: `${what} is not UTF-8: encode text as UTF-8.`, cause })
  }
}

const parseJson = (data: string | Uint8Array): unknown => {
  const text = typeof data === "string" ? data : utf8(data, "The frame")
  const value: unknown = JSON.parse(text)
  if (/\\u[dD][89a-fA-F]/.test(text) && hasHalfCharacter(text)) {
    throw new DecodeError({
      code: "invalid_utf8",
      message: "The frame escapes half of a character: send both surrogates, or the character as it is."
    })
  }
  if (mayOverflow(text) && hasInfinity(value)) {
    throw new DecodeError({
      code: "invalid_json",
      message: "The frame holds a number that is too large: send numbers that fit into 64 bits of floating point."
    })
  }
  return value
}

/** Whether there is a number with a large exponent, or one so long that it is too large with a small one, or none. */
const mayOverflow = (json: string): boolean => /\d[eE]\+?\d\d\d/.test(json) || hasLongNumber(json)

/** Of two hundred digits in a row, the hundred of one such piece are a part. */
const hasLongNumber = (json: string): boolean => {
  for (let end = 100; end <= json.length; end += 100) {
    if (/^\d+$/.test(json.slice(end - 100, end))) return true
  }
  return false
}

/** JSON has no infinity, but a number may be too large; it would go on as null. */
const hasInfinity = (value: unknown): boolean => {
  const left: Array<unknown> = [value]
  while (left.length > 0) {
    const next = left.pop()
    if (next === Infinity || next === -Infinity) return true
    if (typeof next === "object" && next !== null) { for (const part of Object.values(next)) left.push(part) }
  }
  return false
}

/** Whether JSON escapes one surrogate without the other, which makes text that is no Unicode. */
const hasHalfCharacter = (json: string): boolean => {
  // Where the other half has to be, after the first.
  let expected = -1
  // By hand, as there may be millions of escapes.
  for (let at = json.indexOf("\\"); at !== -1 && at < json.length; at++) {
    if (json.charCodeAt(at) !== 0x5c) continue
    const kind = json.charCodeAt(at + 1) === 0x75 && (json.charCodeAt(at + 2) | 0x20) === 0x64
      ? json.charCodeAt(at + 3) | 0x20
      : 0
    // A high half is d8 to db, a low one dc to df; the bit that makes letters small leaves digits as they are.
    const isSecond = kind >= 0x63 && kind <= 0x66
    if (isSecond ? at !== expected : expected !== -1) return true
    expected = kind === 0x38 || kind === 0x39 || kind === 0x61 || kind === 0x62 ? at + 6 : -1
    at++
  }
  return expected !== -1
}

const payloadJson = (message: Message | Reply | Broadcast, payload: unknown): string => {
  // JSON.stringify would turn these into an object without a word.
  if (ArrayBuffer.isView(payload) || payload instanceof ArrayBuffer) {
    throw new EncodeError({
      code: "invalid_binary",
      message: payload instanceof Uint8Array
        ? `The payload of ${titleOf(message)} is binary, which V1 has no frame for: connect with vsn=2.0.0.`
        : `The payload of ${titleOf(message)} holds bytes, but not in a Uint8Array: wrap them in one.`
    })
  }
  const json: string | undefined = JSON.stringify(payload)
  if (json === undefined) {
    throw new EncodeError({
      code: "invalid_json",
      message: `The payload of ${titleOf(message)} is ${typeof payload} or has a toJSON that gives nothing: send {}.`
    })
  }
  return json
}

const replyJson = (reply: Reply): string => {
  const response = reply.payload === undefined ? "{}" : payloadJson(reply, reply.payload)
  return `{"status":${JSON.stringify(reply.status)},"response":${response}}`
}

const jsonOrNull = (value: unknown): string => {
  const json: string | undefined = JSON.stringify(value)
  return json ?? "null"
}

const v1Json = (topic: unknown, event: string, ref: unknown, payload: string): string =>
  `{"topic":${jsonOrNull(topic)},"event":${JSON.stringify(event)},"ref":${jsonOrNull(ref)},"payload":${payload}}`

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/**
 * The format of `vsn=1.0.0`: `{"topic","event","ref","payload"}` in text frames.
 *
 * **When to use**
 *
 * For old clients, and for those that leave `vsn` out. `join_ref` is read, but never sent, and the payload of a push or
 * broadcast may be any JSON value. There are no binary frames: a `Uint8Array` is an {@link EncodeError}, and a binary
 * frame that comes in is read as JSON.
 */
export const v1: Serializer = make("V1", {
  decode: (data) => {
    const value = parseJson(data)
    if (!isObject(value)) {
      throw new DecodeError({ code: "invalid_message", message: "A V1 message is a JSON object, and this is none." })
    }
    for (const key of ["topic", "event", "payload", "ref"]) {
      if (!Object.hasOwn(value, key)) {
        throw new DecodeError({
          code: "invalid_message",
          message: `The V1 message lacks "${key}": send topic, event, payload and ref, null where there is nothing.`
        })
      }
    }
    return {
      joinRef: Object.hasOwn(value, "join_ref") ? value.join_ref : null,
      ref: value.ref,
      topic: value.topic,
      event: value.event,
      payload: value.payload
    }
  },
  encode: (message) =>
    message._tag === "Reply"
      ? v1Json(message.topic, "phx_reply", message.ref, replyJson(message))
      : v1Json(message.topic, message.event, message.ref, payloadJson(message, message.payload)),
  fastlane: (broadcast) => v1Json(broadcast.topic, broadcast.event, null, payloadJson(broadcast, broadcast.payload))
})

const v2Json = (joinRef: unknown, ref: unknown, topic: unknown, event: string, payload: string): string =>
  `${JSON.stringify([joinRef, ref, topic, event]).slice(0, -1)},${payload}]`

const objectJson = (message: Message | Broadcast): string => {
  const json = payloadJson(message, message.payload)
  if (json.startsWith("{")) return json
  throw new EncodeError({
    code: "invalid_payload",
    message: `The payload of ${titleOf(message)} is no object in JSON: wrap the value in one, such as { value: 1 }.`
  })
}

const pushKind = 0
const replyKind = 1
const broadcastKind = 2
const maxFieldBytes = 255

// Shared by all frames: an array for each field would more than double the time a frame takes.
const header = new Uint8Array(5 + 4 * maxFieldBytes)

const binaryFrame = (
  kind: number,
  fields: ReadonlyArray<readonly [name: string, value: unknown]>,
  data: Uint8Array
): Uint8Array => {
  let end = 1 + fields.length
  header[0] = kind
  for (const [index, [name, value]] of fields.entries()) {
    if (typeof value !== "string" || !value.isWellFormed()) {
      throw new EncodeError({
        code: "invalid_field",
        message: `The ${name} is no Unicode text, which a binary frame needs: send the payload as an object instead.`
      })
    }
    const { read, written } = utf8Encoder.encodeInto(value, header.subarray(end, end + maxFieldBytes))
    if (read < value.length) {
      throw new EncodeError({
        code: "invalid_field",
        message:
          `The ${name} takes ${utf8Encoder.encode(value).length} bytes of UTF-8, and a binary frame has room for ` +
          `${maxFieldBytes}: shorten it, or send the payload as an object.`
      })
    }
    header[1 + index] = written
    end += written
  }
  const frame = new Uint8Array(end + data.length)
  frame.set(header.subarray(0, end))
  frame.set(data, end)
  return frame
}

const refText = (ref: unknown): unknown => typeof ref === "number" || typeof ref === "boolean" ? String(ref) : ref ?? ""

const decodeBinary = (data: Uint8Array): Inbound => {
  const [kind, joinRefLength, refLength, topicLength, eventLength] = data
  if (kind !== pushKind) {
    throw new DecodeError({
      code: "invalid_frame",
      message: `A client sends binary frames of kind ${pushKind} (push), and this is of kind ${kind ?? "none"}.`
    })
  }
  const ref = 5 + (joinRefLength ?? 0)
  const topic = ref + (refLength ?? 0)
  const event = topic + (topicLength ?? 0)
  const payload = event + (eventLength ?? 0)
  if (data.length < payload) {
    throw new DecodeError({
      code: "invalid_frame",
      message: `The binary frame has ${data.length} bytes, but its header alone takes ${payload}.`
    })
  }
  return {
    joinRef: utf8(data.subarray(5, ref), "The join_ref"),
    ref: utf8(data.subarray(ref, topic), "The ref"),
    topic: utf8(data.subarray(topic, event), "The topic"),
    event: utf8(data.subarray(event, payload), "The event"),
    // A view, not a copy: nobody writes to a frame once it has arrived.
    payload: new Uint8Array(data.buffer, data.byteOffset + payload, data.length - payload)
  }
}

/**
 * The format of `vsn=2.0.0`, which phoenix.js speaks: `[join_ref, ref, topic, event, payload]` in text frames, and
 * binary frames for payloads that are a `Uint8Array` (a Node `Buffer` is one).
 *
 * **Details**
 *
 * - What `JSON.stringify` makes of a payload decides: it must be an object in a push or broadcast, so a `Date` is
 *   refused (a string) and a class with `toJSON` may pass. A `Map` or `Set` becomes `{}`: convert it first.
 * - The payload of a reply may be any JSON value.
 * - Refs keep their JSON type in text frames (integers beyond 2^53 lose precision, as everywhere in JavaScript). In
 *   binary frames they are text: `null` is written as `""`, a number or boolean as JSON writes it; `""` is read as `""`.
 * - Each field of a binary frame takes at most 255 bytes of UTF-8; a longer one is an {@link EncodeError}.
 */
export const v2: Serializer = make("V2", {
  decode: (data, opcode) => {
    if (opcode === "binary") return decodeBinary(typeof data === "string" ? utf8Encoder.encode(data) : data)
    const value = parseJson(data)
    if (!Array.isArray(value) || value.length < 5) {
      throw new DecodeError({
        code: "invalid_message",
        message: "A V2 message is the JSON array [join_ref, ref, topic, event, payload], and this is none."
      })
    }
    // Not taken apart by a pattern, which goes through an iterator.
    return { joinRef: value[0], ref: value[1], topic: value[2], event: value[3], payload: value[4] }
  },
  encode: (message) => {
    const { joinRef, payload, ref, topic } = message
    if (message._tag === "Reply") {
      return payload instanceof Uint8Array
        ? binaryFrame(replyKind, [
          ["join_ref", refText(joinRef)],
          ["ref", refText(ref)],
          ["topic", topic],
          ["status", message.status]
        ], payload)
        : v2Json(joinRef, ref, topic, "phx_reply", replyJson(message))
    }
    return payload instanceof Uint8Array
      ? binaryFrame(pushKind, [["join_ref", refText(joinRef)], ["topic", topic], ["event", message.event]], payload)
      : v2Json(joinRef, ref, topic, message.event, objectJson(message))
  },
  fastlane: (broadcast) => {
    const { event, payload, topic } = broadcast
    return payload instanceof Uint8Array
      ? binaryFrame(broadcastKind, [["topic", topic], ["event", event]], payload)
      : v2Json(null, null, topic, event, objectJson(broadcast))
  }
})

/** Serializers in order of preference, each with the versions it speaks in the notation of Elixir's `Version`. */
export type Serializers = ReadonlyArray<readonly [serializer: Serializer, requirement: string]>

/** What a socket speaks unless it is told otherwise: {@link v1} for `~> 1.0.0`, then {@link v2} for `~> 2.0.0`. */
export const defaults: Serializers = [[v1, "~> 1.0.0"], [v2, "~> 2.0.0"]]

/**
 * Picks the first serializer whose requirement the client's `vsn` meets.
 *
 * **When to use**
 *
 * In a transport, before the connect callback. `vsn` comes as it stands in the query: `undefined` (not sent) counts as
 * `"1.0.0"`; whatever is not a full SemVer string, or meets no requirement, gives `undefined`, which Phoenix answers
 * with 403. A requirement that cannot be read is a mistake in the program and throws a RangeError.
 *
 * **Example**
 *
 * ```ts
 * import { Serializer } from "effect-channels"
 *
 * Serializer.negotiate(Serializer.defaults, "2.0.0")?.name // V2
 * Serializer.negotiate(Serializer.defaults, "2.0") // undefined
 * ```
 */
export const negotiate = (serializers: Serializers, vsn: unknown): Serializer | undefined => {
  const text = vsn === undefined ? "1.0.0" : vsn
  const version = typeof text === "string" ? Version.parse(text) : undefined
  if (version === undefined) return undefined
  return serializers.find(([, requirement]) => Version.satisfies(version, requirement))?.[0]
}
