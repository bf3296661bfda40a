/** What one node has to say to others: a message, and who sends it to which topic. */
export interface Envelope {
  /** The name of the sender's node. */
  readonly node: string
  /** Drawn anew whenever a node starts: two nodes by the same name differ in it. */
  readonly incarnation: string
  readonly topic: string
  readonly message: unknown
  /** A W3C `traceparent`, where the sender is traced. */
  readonly trace: string | undefined
}

/** Why something is no envelope: another protocol version, or nothing that is known here. */
export class Unreadable {
  readonly version: number | undefined

  constructor(version?: number) {
    this.version = version
  }
}

/** Binary data apart: where it belongs in the message (there JSON has `null`), and its length. */
type Attachment = readonly [path: ReadonlyArray<string | number>, length: number]

type Head = readonly [
  node: string,
  incarnation: string,
  topic: string,
  message: unknown,
  trace: string | null,
  attachments: ReadonlyArray<Attachment>
]

/** "phx", the version, and the length of the head that follows, in four bytes: the same whatever the version. */
const magic = [0x70, 0x68, 0x78]
const version = 1
const fixedBytes = 8

const textDecoder = new TextDecoder("utf-8", { fatal: true })

interface Found {
  readonly path: ReadonlyArray<string | number>
  readonly bytes: Uint8Array
}

const hasToJson = (value: object): value is { toJSON: (key: string) => unknown } =>
  "toJSON" in value && typeof value.toJSON === "function"

/** Collects the binary data of a value as JSON sees it; returns what was given where there is none. */
const find = (
  value: object,
  path: Array<string | number>,
  found: Array<Found> | undefined
): Array<Found> | undefined => {
  if (value instanceof Uint8Array) {
    const all = found ?? []
    all.push({ path: path.slice(), bytes: value })
    return all
  }
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) found = findAt(value[index], path, index, found)
  } else if (hasToJson(value)) {
    const json = value.toJSON(String(path.at(-1) ?? ""))
    if (typeof json === "object" && json !== null) return find(json, path, found)
  } else {
    for (const key of Object.keys(value)) found = findAt(Reflect.get(value, key), path, key, found)
  }
  return found
}

const findAt = (
  value: unknown,
  path: Array<string | number>,
  key: string | number,
  found: Array<Found> | undefined
): Array<Found> | undefined => {
  if (typeof value !== "object" || value === null) return found
  path.push(key)
  const all = find(value, path, found)
  path.pop()
  return all
}

/** Asked of the holder, because a Buffer has become something else before it is given here. */
function withoutBytes(this: Readonly<Record<string, unknown>>, key: string, value: unknown): unknown {
  return this[key] instanceof Uint8Array || value instanceof Uint8Array ? null : value
}

/** Throws at what JSON cannot say: cycles and bigints. */
export const encode = ({ incarnation, message, node, topic, trace }: Envelope): Buffer<ArrayBuffer> => {
  const found = typeof message === "object" && message !== null ? find(message, [], undefined) : undefined
  const attachments = found?.map(({ bytes, path }): Attachment => [path, bytes.length]) ?? []
  const head: Head = [node, incarnation, topic, message === undefined ? null : message, trace ?? null, attachments]
  const json = JSON.stringify(head, found === undefined ? undefined : withoutBytes)
  const jsonBytes = Buffer.byteLength(json)
  let size = fixedBytes + jsonBytes
  for (const [, length] of attachments) size += length
  const data = Buffer.alloc(size)
  data.set(magic)
  data[magic.length] = version
  data.writeUInt32BE(jsonBytes, 4)
  data.write(json, fixedBytes)
  let offset = fixedBytes + jsonBytes
  for (const { bytes } of found ?? []) {
    data.set(bytes, offset)
    offset += bytes.length
  }
  return data
}

const isText = (value: unknown): value is string => typeof value === "string"

const isAttachment = (value: unknown): value is Attachment =>
  Array.isArray(value) && value.length === 2 && Array.isArray(value[0])
  && value[0].every((key) => isText(key) || Number.isSafeInteger(key))
  && Number.isSafeInteger(value[1]) && value[1] >= 0

const isHead = (value: unknown): value is Head =>
  Array.isArray(value) && value.length === 6 && isText(value[0]) && isText(value[1]) && isText(value[2])
  && (value[4] === null || isText(value[4])) && Array.isArray(value[5]) && value[5].every(isAttachment)

/** Puts binary data where it belongs; false where no place has been left for it. */
const attach = (root: Array<unknown>, path: ReadonlyArray<string | number>, bytes: Uint8Array): boolean => {
  let holder: object = root
  let key: string | number = 0
  for (const next of path) {
    const inner: unknown = Object.hasOwn(holder, key) ? Reflect.get(holder, key) : undefined
    if (typeof inner !== "object" || inner === null || inner instanceof Uint8Array) return false
    holder = inner
    key = next
  }
  if (!Object.hasOwn(holder, key) || Reflect.get(holder, key) !== null) return false
  return Reflect.defineProperty(holder, key, { value: bytes, configurable: true, enumerable: true, writable: true })
}

const parse = (data: Uint8Array): unknown => {
  try {
    return JSON.parse(textDecoder.decode(data))
  } catch {
    return undefined
  }
}

const unreadable = new Unreadable()

/** Never throws, whatever the bytes are. */
export const decode = (data: Uint8Array): Envelope | Unreadable => {
  if (data.length < fixedBytes || magic.some((byte, index) => data[index] !== byte)) return unreadable
  if (data[magic.length] !== version) return new Unreadable(data[magic.length])
  const end = fixedBytes + new DataView(data.buffer, data.byteOffset).getUint32(4)
  if (end > data.length) return unreadable
  const head = parse(data.subarray(fixedBytes, end))
  if (!isHead(head)) return unreadable
  const [node, incarnation, topic, message, trace, attachments] = head
  const root = [message]
  let offset = end
  for (const [path, length] of attachments) {
    // A copy: the engine's client has cut the data out of something larger.
    const bytes = new Uint8Array(data.subarray(offset, offset += length))
    if (bytes.length !== length || !attach(root, path, bytes)) return unreadable
  }
  if (offset !== data.length) return unreadable
  return { node, incarnation, topic, message: root[0], trace: trace ?? undefined }
}
