/** Messages of clients, and requests that open connections: each is answered, refused or ends its own connection only. */
import * as fc from "fast-check"
import { createHash } from "node:crypto"
import type { Target as Server } from "../../attacks/target.ts"
import { frame, handshake, key, Raw } from "../../attacks/wire.ts"
import { served } from "./http.ts"
import { edits, editText, json, name, oddJson, text } from "./inputs.ts"
import type { Target } from "./targets.ts"

/** Bytes that a ref, a topic or an event may have under every limit. */
const small = 255

/** Messages as JSON: what is in place of a ref, a topic, an event may be anything. */
interface Said {
  readonly fields: readonly [joinRef: string, ref: string, topic: string, event: string, payload: string]
}

const asJson = (value: unknown): string => JSON.stringify(value)

/** Values larger than what is allowed in most places. */
const large = fc.constantFrom(256, 300, 5000, 200_000).chain((length) =>
  fc.constantFrom(
    asJson("x".repeat(length)),
    asJson("é".repeat(length / 2)),
    `[${"[],".repeat(length / 3)}[]]`,
    `1${"0".repeat(length)}`
  )
)

const anything = fc.oneof({ weight: 5, arbitrary: json.map(asJson) }, { weight: 2, arbitrary: oddJson }, large)

const ref = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.constantFrom("null", "\"1\"", "\"2\"", "1", "2", "false", "\"\"", "1e3", "1.0", "[]", "{}")
  },
  anything
)

const knownTopic = fc.constantFrom("\"room:1\"", "\"room:2\"", "\"lobby\"", "\"typed:1\"", "\"phoenix\"", "\"nowhere\"")
const knownEvent = fc.constantFrom(
  "\"phx_join\"",
  "\"phx_join\"",
  "\"phx_leave\"",
  "\"echo\"",
  "\"count\"",
  "\"heartbeat\"",
  "\"phx_close\"",
  "\"phx_error\"",
  "\"phx_reply\""
)

const payload = fc.oneof(fc.constant("{}"), json.map(asJson))

const refs = fc.array(fc.tuple(ref, ref, knownTopic, knownEvent, payload).map((fields): Said => ({ fields })), {
  minLength: 1,
  maxLength: 8
})

const topic = fc.oneof(
  { weight: 2, arbitrary: knownTopic },
  name.map((name) => asJson(`room:${name}`)),
  name.map(asJson),
  fc.tuple(fc.constantFrom("room:1", "room:*", "lobby"), edits).map((both) => asJson(editText(...both))),
  text.map(asJson),
  anything
)
const event = fc.oneof({ weight: 2, arbitrary: knownEvent }, name.map(asJson), text.map(asJson), anything)

const topics = fc.array(
  fc.tuple(fc.constantFrom("null", "\"1\""), fc.constantFrom("\"1\"", "\"2\""), topic, event, payload).map(
    (fields): Said => ({ fields })
  ),
  { minLength: 1, maxLength: 8 }
)

/** Milliseconds within which everything is answered, or the connection is over. */
const patience = 10_000

const within = async (raw: Raw, what: string, waiting: Promise<void>): Promise<void> => {
  const timer = setTimeout(() => raw.socket.destroy(), patience)
  const began = performance.now()
  await waiting
  clearTimeout(timer)
  if (performance.now() - began >= patience) throw new Error(`${what} takes too long`)
}

const end = "the end of all"

/** Undefined for what is no JSON. */
const parsed = (field: string): unknown => {
  try {
    return JSON.parse(field)
  } catch {
    return undefined
  }
}

/** Undefined for what nests too deep to be written. */
const written = (value: unknown): string | undefined => {
  try {
    return asJson(value)
  } catch {
    return undefined
  }
}

/** A frame of fewer bytes cannot have more values than the default of `maxValues`. */
const manyValues = 120_000

/** Compares as JSON: it knows no -0, and what nests too deep for a stack is not answered. */
const isSame = (one: unknown, other: unknown): boolean => {
  const text = written(one)
  return text !== undefined && text === written(other)
}

/** Says all of it and then a heartbeat. What comes back are answers to what was said, unless it was too much. */
const converse = async (server: Server, said: ReadonlyArray<Said>) => {
  const raw = await Raw.open(server.port)
  for (const { fields } of said) raw.write(frame(`[${fields.join()}]`))
  raw.write(frame(asJson([null, end, "phoenix", "heartbeat", {}])))
  const isAnswered = () => raw.messages.some((message) => Object(message)[1] === end)
  await within(raw, "an answer", raw.untilOver(() => raw.code !== undefined || isAnswered()))
  const { code, messages } = raw
  await raw.reset()
  const sent = said.map(({ fields }) => fields.map(parsed))
  const isJson = sent.every((fields) => !fields.includes(undefined))
  const isSmall = said.every(({ fields }) => fields.slice(0, 4).every((field) => Buffer.byteLength(field) <= small))
  const isSayable = sent.every((fields) =>
    fields.slice(0, 4).every((field) => !/Infinity|null/.test(written(field) ?? "null"))
  )
  const isLarge = said.some(({ fields }) => fields.join().length > manyValues)
  if (code !== undefined && code !== 1011 && !(isLarge && code === 1009)) throw new Error(`it is closed with ${code}`)
  if (code === undefined && !isAnswered()) throw new Error("it is cut off without a word")
  // A frame that is too deep, or has a number or half a character that JSON cannot say, may be none.
  const isPlain = said.every(({ fields }) =>
    fields.every((field) => field.length < 2000 && !/e\d|\d{300}|\\ud[89a-f]/i.test(field))
  )
  if (code !== undefined && isJson && isSmall && isPlain && isSayable) {
    throw new Error("it is closed for messages that are allowed")
  }
  for (const message of messages) {
    if (!Array.isArray(message) || message.length !== 5) throw new Error(`it is sent ${asJson(message)}`)
    const [, ref, topic, event, answer] = message
    if (event !== "phx_reply" || ref === end) continue
    // A topic that is too long is not said again.
    const isCut = topic === null && Object(answer?.response).reason === "topic too long"
    if (!sent.some(([, one, to]) => isSame(one, ref) && (isCut || isSame(to, topic)))) {
      throw new Error(`nothing was said that is answered by ${asJson(message)}`)
    }
  }
}

// --- handshakes -------------------------------------------------------------------------------------------------------

const values: Readonly<Record<string, ReadonlyArray<string>>> = {
  Host: ["here", "HERE", "here:80", "here:99999", "[::1]", "[", "a b", "", "null", "here, there", "x".repeat(300)],
  Origin: [
    "http://here",
    "http://HERE",
    "http://here:80",
    "https://here",
    "null",
    "",
    "file://",
    "//here",
    "http://[",
    "http://here/path",
    "http://a@here",
    "javascript:1",
    "http://here, http://there",
    "x".repeat(6000)
  ],
  Upgrade: ["websocket", "WebSocket", "websocket, h2c", "h2c", "", "websocket websocket"],
  Connection: ["Upgrade", "upgrade", "keep-alive, Upgrade", "close", "", "Upgrade, close"],
  "Sec-WebSocket-Key": [key, "", "A".repeat(22), `${"A".repeat(22)}==`, "A".repeat(5000), "é"],
  "Sec-WebSocket-Version": ["13", "8", "013", "13.0", "", "13, 13", "99999999999999999999"],
  "Sec-WebSocket-Protocol": [
    "phoenix",
    "base64url.bearer.phx.QQ",
    "phoenix, base64url.bearer.phx.",
    ",",
    "a b",
    "",
    "x".repeat(5000)
  ],
  "Sec-WebSocket-Extensions": [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits=99",
    "a;=;;",
    "\"",
    ",",
    ""
  ],
  "X-Forwarded-Proto": ["https", "wss", "https, http", "", "gopher", "\t"],
  "X-Forwarded-Host": ["here", "there", "a, b", ""],
  "X-Forwarded-For": ["10.0.0.1", "10.0.0.1, 10.0.0.2", "x", "", "::1"],
  Cookie: ["a=b", "__proto__=c; =; d", "=", ";;;", "x".repeat(5000)],
  "Content-Length": ["0", "5"],
  Expect: ["100-continue"],
  "Accept-Language": ["\xff\xfe"]
}

const known = fc.constantFrom(...Object.keys(values)).chain((name) =>
  fc.tuple(fc.constant(name), fc.oneof(fc.constantFrom(...values[name] ?? []), name === "Cookie" ? text : fc.string()))
)

const path = fc.oneof(
  fc.constantFrom(
    "/socket/websocket?vsn=2.0.0",
    "/socket/websocket?vsn=2.0.0&id=1",
    "/socket/websocket?vsn=1.0.0",
    "/socket/websocket",
    "/open/websocket?vsn=2.0.0",
    "/open/websocket?vsn=2.0.0&a[b]=c&a[]=d",
    "/nowhere/websocket?vsn=2.0.0"
  ),
  fc.tuple(fc.constant("/socket/websocket?vsn=2.0.0&a[b]=%20c"), edits).map((both) => editText(...both)),
  fc.tuple(fc.constant("/socket/websocket?vsn=2.0.0&id="), name).map(([path, name]) => path + encodeURIComponent(name))
)

/** Headers changed, left out and doubled. */
const handshakes = fc.tuple(
  path,
  fc.subarray(Object.entries(handshake), { minLength: 4 }),
  fc.array(known, { maxLength: 4 }),
  fc.boolean()
).map(([path, kept, changed, isDoubled]) => {
  const names = new Set(changed.map(([name]) => name))
  const headers = [...kept.filter(([name]) => isDoubled || !names.has(name)), ...changed]
  return `GET ${path} HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`
})

const statuses = [101, 400, 403, 404, 411, 417, 426, 431, 503]

const open = async ({ port }: Server, text: string) => {
  const raw = await Raw.dial(port)
  raw.write(Buffer.from(text, "latin1"))
  const isComplete = /\r\n\r\n/.test(text)
  if (!isComplete) raw.socket.end()
  await within(raw, "the handshake", raw.untilOver(() => raw.text.includes("\r\n\r\n")))
  const { status } = raw
  // A client that asks to be told to go on is, and then answered.
  if (status !== undefined && status !== 100 && !statuses.includes(status)) throw new Error(`it is answered ${status}`)
  if (status !== 101) return raw.reset()
  const wanted = /sec-websocket-key: *([^\r\n]*)/i.exec(text)?.[1]?.trim() ?? ""
  const accept = createHash("sha1").update(`${wanted}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64")
  if (!raw.text.includes(`Sec-WebSocket-Accept: ${accept}`)) throw new Error("the key is not accepted as it should be")
  raw.write(frame(asJson([null, "1", "phoenix", "heartbeat", {}])))
  await within(raw, "a heartbeat", raw.untilOver(() => raw.text.includes("phx_reply") || raw.text.includes("\x88")))
  await raw.reset()
}

export const connections: ReadonlyArray<Target> = [
  served("refs", refs, (server, _witness, said) => converse(server, said)),
  served("topics", topics, (server, _witness, said) => converse(server, said)),
  served("handshakes", handshakes, (server, _witness, text) => open(server, text))
]
