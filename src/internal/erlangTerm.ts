/**
 * The Erlang external term format, as far as signed tokens need it: data, without processes, functions and references.
 *
 * What goes in is what comes out, apart from this: an atom is read as a string (`true`, `false` and `nil` as `true`,
 * `false` and `null`), a tuple as an array, and a binary as a string if it is UTF-8, else as a `Uint8Array`.
 * Format: "External Term Format" in the Erlang/OTP documentation (ERTS).
 */
import * as Data from "effect/Data"
import * as Result from "effect/Result"
import { deflateSync, inflateSync } from "node:zlib"

/** How deep lists, tuples and maps may be nested, read or written. */
export const maxDepth = 256

/** Bytes a compressed term may unfold to: a token is some hundred bytes, so this only stops bombs. */
export const maxInflatedBytes = 1024 * 1024

/** Bytes of the largest integer, read or written: turning long integers into text takes quadratic time. */
export const maxIntegerBytes = 1024

/** The bytes are no term, or a term that is refused. `offset` is where, in the inflated bytes if they were compressed. */
export class DecodeError extends Data.TaggedError("DecodeError")<{
  readonly message: string
  readonly offset: number
}> {}

/** The value has no counterpart in Erlang. `path` leads to it from the value that was to be encoded. */
export class EncodeError extends Data.TaggedError("EncodeError")<{
  readonly message: string
  readonly path: ReadonlyArray<string | number>
}> {}

/** Encodes as an atom; decoding gives its name. */
export class Atom {
  readonly name: string
  constructor(name: string) {
    this.name = name
  }
}

/** Encodes as a tuple; decoding gives an array. Its positions are left out of an {@link EncodeError}'s path. */
export class Tuple {
  readonly elements: ReadonlyArray<unknown>
  constructor(elements: ReadonlyArray<unknown>) {
    this.elements = elements
  }
}

const version = 131

const Tag = {
  newFloat: 70,
  compressed: 80,
  smallInteger: 97,
  integer: 98,
  float: 99,
  atom: 100,
  smallTuple: 104,
  largeTuple: 105,
  nil: 106,
  string: 107,
  list: 108,
  binary: 109,
  smallBig: 110,
  largeBig: 111,
  smallAtom: 115,
  map: 116,
  atomUtf8: 118,
  smallAtomUtf8: 119
} as const

/** Reads one term. Any bytes are answered by a value or a {@link DecodeError}. */
export const decode = (bytes: Uint8Array): Result.Result<unknown, DecodeError> => {
  try {
    const outer = new Reader(bytes)
    if (outer.uint(1) !== version) outer.refuse("does not start with the version byte 131")
    const reader = bytes[1] === Tag.compressed ? inflated(outer) : outer
    const term = readTerm(reader, 0)
    if (!reader.atEnd()) reader.refuse("has bytes after its end")
    return Result.succeed(term)
  } catch (error) {
    if (error instanceof DecodeError) return Result.fail(error)
    throw error
  }
}

class Reader {
  private readonly bytes: Buffer
  private offset = 0

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  take(size: number): Buffer {
    const end = this.offset + size
    if (end > this.bytes.length) this.refuse("is cut off")
    const taken = this.bytes.subarray(this.offset, end)
    this.offset = end
    return taken
  }

  rest(): Buffer {
    return this.take(this.bytes.length - this.offset)
  }

  uint(size: 1 | 2 | 4): number {
    return this.take(size).readUIntBE(0, size)
  }

  atEnd(): boolean {
    return this.offset === this.bytes.length
  }

  refuse(reason: string): never {
    throw new DecodeError({ message: `the Erlang term ${reason} (byte ${this.offset})`, offset: this.offset })
  }
}

const inflated = (reader: Reader): Reader => {
  reader.uint(1)
  const size = reader.uint(4)
  if (size > maxInflatedBytes) reader.refuse(`unfolds to ${size} bytes, more than ${maxInflatedBytes}`)
  const packed = reader.rest()
  // A stream that yields more or less than it announced is refused by zlib, or here.
  const unpacked = Result.try(() => inflateSync(packed, { maxOutputLength: Math.max(size, 1) }))
  if (Result.isFailure(unpacked) || unpacked.success.length !== size) return reader.refuse("is badly compressed")
  return new Reader(unpacked.success)
}

const readTerm = (reader: Reader, depth: number): unknown => {
  if (depth > maxDepth) reader.refuse(`is nested more than ${maxDepth} deep`)
  const tag = reader.uint(1)
  switch (tag) {
    case Tag.smallInteger:
      return reader.uint(1)
    case Tag.integer:
      return reader.take(4).readInt32BE()
    case Tag.smallBig:
      return readBig(reader, reader.uint(1))
    case Tag.largeBig:
      return readBig(reader, reader.uint(4))
    case Tag.newFloat:
      return finite(reader, reader.take(8).readDoubleBE())
    case Tag.float:
      return readOldFloat(reader)
    case Tag.atom:
      return fromAtom(reader.take(reader.uint(2)).toString("latin1"))
    case Tag.smallAtom:
      return fromAtom(reader.take(reader.uint(1)).toString("latin1"))
    case Tag.atomUtf8:
      return fromAtom(readUtf8Atom(reader, reader.uint(2)))
    case Tag.smallAtomUtf8:
      return fromAtom(readUtf8Atom(reader, reader.uint(1)))
    case Tag.binary:
      return fromBinary(reader.take(reader.uint(4)))
    case Tag.string:
      return Array.from(reader.take(reader.uint(2)))
    case Tag.nil:
      return []
    case Tag.list: {
      const elements = readTerms(reader, reader.uint(4), depth)
      if (reader.uint(1) !== Tag.nil) reader.refuse("contains an improper list")
      return elements
    }
    case Tag.smallTuple:
      return readTerms(reader, reader.uint(1), depth)
    case Tag.largeTuple:
      return readTerms(reader, reader.uint(4), depth)
    case Tag.map:
      return readMap(reader, depth)
    default:
      return reader.refuse(`contains tag ${tag}, which is no data (or no tag)`)
  }
}

// A count is only a claim: nothing is allocated before the elements are there.
const readTerms = (reader: Reader, count: number, depth: number): Array<unknown> => {
  const terms: Array<unknown> = []
  for (let i = 0; i < count; i++) terms.push(readTerm(reader, depth + 1))
  return terms
}

const readMap = (reader: Reader, depth: number): Record<string, unknown> => {
  const map: Record<string, unknown> = {}
  for (let left = reader.uint(4); left > 0; left--) {
    const term = readTerm(reader, depth + 1)
    if (typeof term === "object") reader.refuse("contains a map key that is no text, number or boolean")
    const key = String(term)
    if (Object.hasOwn(map, key)) reader.refuse("contains a map with two keys of the same text")
    const value = readTerm(reader, depth + 1)
    // Assigning `__proto__` would change the prototype.
    Object.defineProperty(map, key, { value, configurable: true, enumerable: true, writable: true })
  }
  return map
}

const readBig = (reader: Reader, size: number): number | bigint => {
  if (size > maxIntegerBytes) reader.refuse(`contains an integer of more than ${maxIntegerBytes} bytes`)
  const negative = reader.uint(1) !== 0
  const hex = Buffer.from(reader.take(size)).reverse().toString("hex")
  const magnitude = BigInt(`0x${hex || "0"}`)
  const value = negative ? -magnitude : magnitude
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

const readOldFloat = (reader: Reader): number => {
  const text = reader.take(31).toString("latin1").replace(/\0+$/, "")
  return finite(reader, /^ *[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN)
}

const finite = (reader: Reader, value: number): number =>
  Number.isFinite(value) ? value : reader.refuse("contains a float that is no number")

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const readUtf8 = (bytes: Buffer): Result.Result<string, unknown> => Result.try(() => strictUtf8.decode(bytes))

const readUtf8Atom = (reader: Reader, size: number): string =>
  Result.getOrElse(readUtf8(reader.take(size)), () => reader.refuse("contains an atom that is not UTF-8"))

const fromAtom = (name: string): string | boolean | null =>
  name === "true" ? true : name === "false" ? false : name === "nil" ? null : name

// Replacing bad bytes would make two different binaries, say two user ids, equal. A copy, not to keep the token alive.
const fromBinary = (bytes: Buffer): string | Uint8Array =>
  Result.getOrElse(readUtf8(bytes), () => Uint8Array.from(bytes))

/** How a term is written. */
export interface EncodeOptions {
  /** Compress the term with zlib where that makes it shorter; default false. */
  readonly compressed?: boolean | undefined
}

/** Writes a value as Erlang/OTP 26 and newer do. A value without a counterpart is answered by an {@link EncodeError}. */
export const encode = (value: unknown, options: EncodeOptions = {}): Result.Result<Uint8Array, EncodeError> => {
  try {
    const writer = new Writer()
    writer.uint(1, version)
    writeTerm(writer, value, 0)
    const bytes = writer.bytes()
    return Result.succeed(options.compressed === true ? deflated(bytes) : bytes)
  } catch (error) {
    if (error instanceof EncodeError) return Result.fail(error)
    throw error
  }
}

// What would not be read again stays as it is.
const deflated = (bytes: Uint8Array): Uint8Array => {
  const term = bytes.subarray(1)
  const packed = term.length > maxInflatedBytes ? term : deflateSync(term)
  const header = Buffer.from([version, Tag.compressed, 0, 0, 0, 0])
  header.writeUInt32BE(term.length, 2)
  return header.length + packed.length < bytes.length ? Buffer.concat([header, packed]) : bytes
}

class Writer {
  readonly path: Array<string | number> = []
  private readonly chunks: Array<Uint8Array> = []

  raw(bytes: Uint8Array): void {
    this.chunks.push(bytes)
  }

  uint(size: 1 | 2 | 4, value: number): void {
    const chunk = Buffer.alloc(size)
    chunk.writeUIntBE(value, 0, size)
    this.raw(chunk)
  }

  /** A tag and how many bytes or elements follow. */
  head(tag: number, size: 1 | 2 | 4, count: number): void {
    this.uint(1, tag)
    this.uint(size, count)
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.chunks)
  }

  refuse(what: string): never {
    const keys = this.path.slice(0, 10).map((key) => `[${JSON.stringify(key)}]`).join("")
    const at = keys === "" ? "" : ` at ${keys}${this.path.length > 10 ? "..." : ""}`
    throw new EncodeError({ message: `${what}${at} cannot be written as an Erlang term`, path: [...this.path] })
  }
}

const writeTerm = (writer: Writer, value: unknown, depth: number): void => {
  if (depth > maxDepth) writer.refuse(`a value nested more than ${maxDepth} deep (does it contain itself?)`)
  switch (typeof value) {
    case "string":
      return writeBinary(writer, utf8(writer, value))
    case "boolean":
      return writeAtom(writer, String(value))
    case "number":
      return Number.isSafeInteger(value) ? writeInteger(writer, BigInt(value)) : writeFloat(writer, value)
    case "bigint":
      return writeInteger(writer, value)
    case "object":
      return value === null ? writeAtom(writer, "nil") : writeObject(writer, value, depth)
    default:
      return writer.refuse(value === undefined ? "undefined" : `a ${typeof value}`)
  }
}

const writeObject = (writer: Writer, value: object, depth: number): void => {
  if (Array.isArray(value)) return writeList(writer, value, depth)
  if (value instanceof Uint8Array) return writeBinary(writer, value)
  if (value instanceof Atom) return writeAtom(writer, value.name)
  if (value instanceof Tuple) {
    writer.head(Tag.smallTuple, 1, value.elements.length)
    for (const element of value.elements) writeTerm(writer, element, depth + 1)
    return
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== null && prototype !== Object.prototype) {
    writer.refuse(`an instance of ${value.constructor?.name || "a class"} (turn it into a plain object first)`)
  }
  writeMap(writer, Object.entries(value), depth)
}

const writeList = (writer: Writer, elements: ReadonlyArray<unknown>, depth: number): void => {
  if (elements.length > 0) {
    if (isByteList(elements)) {
      writer.head(Tag.string, 2, elements.length)
      return writer.raw(Uint8Array.from(elements))
    }
    writer.head(Tag.list, 4, elements.length)
    for (let i = 0; i < elements.length; i++) writeChild(writer, i, elements[i], depth)
  }
  writer.uint(1, Tag.nil)
}

// Erlang orders the keys of a map of up to 32 by their bytes; a larger one it writes in an order of its own.
const writeMap = (writer: Writer, entries: ReadonlyArray<[string, unknown]>, depth: number): void => {
  const sorted = entries.map(([key, value]) => ({ key, value, bytes: utf8(writer, key) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
  writer.head(Tag.map, 4, sorted.length)
  for (const { key, value, bytes } of sorted) {
    writeBinary(writer, bytes)
    writeChild(writer, key, value, depth)
  }
}

const writeChild = (writer: Writer, key: string | number, value: unknown, depth: number): void => {
  writer.path.push(key)
  writeTerm(writer, value, depth + 1)
  writer.path.pop()
}

const writeInteger = (writer: Writer, value: bigint): void => {
  if (value >= 0n && value <= 255n) return writer.head(Tag.smallInteger, 1, Number(value))
  if (BigInt.asIntN(32, value) === value) return writer.head(Tag.integer, 4, Number(BigInt.asUintN(32, value)))
  const hex = (value < 0n ? -value : value).toString(16)
  const magnitude = Buffer.from(hex.padStart(hex.length + hex.length % 2, "0"), "hex").reverse()
  if (magnitude.length > maxIntegerBytes) writer.refuse(`an integer of more than ${maxIntegerBytes} bytes`)
  if (magnitude.length > 255) writer.head(Tag.largeBig, 4, magnitude.length)
  else writer.head(Tag.smallBig, 1, magnitude.length)
  writer.uint(1, value < 0n ? 1 : 0)
  writer.raw(magnitude)
}

const writeFloat = (writer: Writer, value: number): void => {
  if (!Number.isFinite(value)) writer.refuse(String(value))
  const chunk = Buffer.alloc(8)
  chunk.writeDoubleBE(value)
  writer.uint(1, Tag.newFloat)
  writer.raw(chunk)
}

const writeBinary = (writer: Writer, bytes: Uint8Array): void => {
  writer.head(Tag.binary, 4, bytes.length)
  writer.raw(bytes)
}

const writeAtom = (writer: Writer, name: string): void => {
  const bytes = utf8(writer, name)
  writer.head(Tag.smallAtomUtf8, 1, bytes.length)
  writer.raw(bytes)
}

// UTF-8 has no lone surrogates; replacing them would make two different strings equal.
const utf8 = (writer: Writer, text: string): Buffer =>
  text.isWellFormed() ? Buffer.from(text) : writer.refuse("a string that is not well-formed Unicode")

// `findIndex` visits the holes of a sparse array, `every` does not.
const isByteList = (list: ReadonlyArray<unknown>): list is ReadonlyArray<number> =>
  list.length <= 0xffff && list.findIndex((value) => !isByte(value)) === -1

const isByte = (value: unknown): boolean =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 255
