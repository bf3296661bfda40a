import { shorten } from "./untrusted.ts"

/** Names of parameters to hide, or of the only ones to show. */
export type ParameterFilter = ReadonlyArray<string> | { readonly keep: ReadonlyArray<string> }

/** What stands in the place of a hidden value. */
export const filtered = "[FILTERED]"

/** Characters of a string or key that are shown. */
export const maxLength = 200

/** Bytes of binary data that are shown; more are only counted. */
export const maxBytes = 64

/** A key of more characters is not searched for names: what it holds is hidden. */
export const maxKeyLength = 1000

/** Values inside of objects and arrays that are shown, all levels together. */
export const maxValues = 100

/** Characters of all strings and keys together after which no more values are shown. */
export const maxCharacters = 4000

/** Levels of objects and arrays that are shown. */
export const maxDepth = 8

/** What JSON calls an object, of whatever realm; no instance of a class. */
const isPlain = (value: object): value is Readonly<Record<string, unknown>> => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** Undefined for what is no list of names. */
const namesOf = (value: unknown): ReadonlyArray<string> | undefined =>
  Array.isArray(value) && value.every((name) => typeof name === "string") ? value : undefined

/** Says if a filter makes sense, as far as that is seen without running code of the application. */
export const isFilter = (filter: unknown): filter is ParameterFilter => {
  if (typeof filter !== "object" || filter === null) return false
  if (Array.isArray(filter)) return namesOf(filter) !== undefined
  const keep = Object.getOwnPropertyDescriptor(filter, "keep")
  return keep === undefined ? "keep" in filter : keep.get !== undefined || namesOf(keep.value) !== undefined
}

class Walk {
  private left = maxValues
  private characters = maxCharacters
  private readonly kept: ReadonlyArray<string> | undefined
  private readonly names: ReadonlyArray<string>

  /** A filter that makes no sense hides everything: a line in the log must not fail, nor tell a secret. */
  constructor(filter: unknown) {
    const names = namesOf(filter)
    this.names = names?.map((name) => name.toLowerCase()) ?? []
    this.kept = names === undefined ? namesOf(Object(filter).keep) ?? [] : undefined
  }

  /** `hide` is true for what is shown only below a kept key. */
  value(value: unknown, hide: boolean, depth: number): unknown {
    if (value !== null && typeof value === "object") {
      if (Array.isArray(value)) return hide && value.length === 0 ? filtered : this.array(value, hide, depth)
      if (isPlain(value)) return this.object(value, hide, depth)
    }
    if (hide) return filtered
    if (typeof value === "string") {
      const shown = this.text(value)
      return this.isSecret(shown, "=") ? filtered : shown
    }
    return value instanceof Uint8Array && value.length > maxBytes ? `[${value.length} bytes]` : value
  }

  private text(value: string): string {
    const shown = shorten(value, maxLength)
    this.characters -= shown.length
    if (this.characters <= 0) this.left = 0
    return shown
  }

  /** Without regard to case: keys of JavaScript are `accessToken` as well as `token`. */
  private isSecret(text: string, suffix: string): boolean {
    const lower = text.toLowerCase()
    return this.names.some((name) => lower.includes(name + suffix))
  }

  start(value: unknown): unknown {
    return this.value(value, this.kept !== undefined, 0)
  }

  private array(values: ReadonlyArray<unknown>, hide: boolean, depth: number): unknown {
    if (depth === maxDepth) return "[…]"
    const shown: Array<unknown> = []
    for (const value of values) {
      if (this.left === 0) {
        shown.push(`… (${values.length - shown.length} more)`)
        break
      }
      this.left--
      shown.push(this.value(value, hide, depth + 1))
    }
    return shown
  }

  private object(values: Readonly<Record<string, unknown>>, hide: boolean, depth: number): unknown {
    if (depth === maxDepth) return "{…}"
    const shown: Array<[key: string, value: unknown]> = []
    const keys = Object.keys(values)
    for (const key of keys) {
      if (this.left === 0) {
        shown.push(["…", `${keys.length - shown.length} more`])
        break
      }
      this.left--
      const secret = key.length > maxKeyLength || this.isSecret(key, "")
      const keep = hide && this.kept?.includes(key) === true
      shown.push([this.text(key), secret ? filtered : this.value(values[key], hide && !keep, depth + 1)])
    }
    // Unlike an assignment, this makes `__proto__` a key as any other.
    return Object.fromEntries(shown)
  }
}

/**
 * What a log line shows of parameters: a copy, filtered and no larger than the bounds above allow, whatever a client sent.
 *
 * With names, the value of a key that contains one of them is hidden, and a string that contains one followed by `=`.
 * With `keep`, everything is hidden but what is below exactly these keys. Instances of classes are not looked into. A value
 * that cannot be read, such as one whose getter throws, is hidden as a whole.
 */
export const filterParameters = (value: unknown, filter: ParameterFilter): unknown => {
  try {
    return new Walk(filter).start(value)
  } catch {
    return filtered
  }
}

/** A duration as Phoenix logs it: `12µs`, and above 1000 of these `3ms`, rounded down. */
export const formatDuration = (nanos: bigint | number): string => {
  const micros = Math.trunc(Number(nanos) / 1000)
  return micros > 1000 ? `${Math.trunc(micros / 1000)}ms` : `${micros}µs`
}
