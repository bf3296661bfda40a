import { isBoxedPrimitive } from "node:util/types"
import { brief } from "./untrusted.ts"

/** A value that JSON can say. */
export type Plain = null | boolean | number | string | ReadonlyArray<Plain> | { readonly [name: string]: Plain }

export const isObject = (value: Plain): value is { readonly [name: string]: Plain } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The most levels of lists and objects in each other. Encoders and decoders of clients recurse, and not all go deeper. */
export const maxDepth = 100

/** A value that is no plain data, or too much of it. */
export class NotPlain {
  readonly code: "INVALID" | "TOO_LARGE"
  /** Says where, and what is there, as in `meta.user.balance is a BigInt`. */
  readonly message: string
  readonly cause: unknown
  constructor(code: "INVALID" | "TOO_LARGE", message: string, cause?: unknown) {
    this.code = code
    this.message = message
    this.cause = cause
  }
}

/**
 * Copies values as JSON would, once: a getter or a `toJSON` that behaves otherwise the next time harms nobody. What JSON
 * would drop without a word (functions, symbols, what is in a Map) is refused, as is what it cannot say. The copy is frozen,
 * because many share it.
 */
class Copier {
  /** A lower bound of the bytes as JSON, so that a small value that refers to a part of itself often ends soon. */
  private left: number
  private readonly path: Array<string>
  private readonly maxBytes: number

  constructor(name: string, maxBytes: number) {
    this.path = [name]
    this.maxBytes = maxBytes
    this.left = maxBytes
  }

  copy(value: unknown): Plain {
    switch (typeof value) {
      case "string":
        this.spend(value.length + 2)
        return value
      case "number":
        this.spend(1)
        if (value === 0) return 0
        return Number.isFinite(value) ? value : null
      case "boolean":
        this.spend(4)
        return value
      case "object":
        return value === null ? null : this.copyObject(value)
      case "undefined":
        return null
      case "bigint":
        return this.ofJSON(Object(value), () => this.refuse("is a BigInt: make it a number or a text"))
      case "function":
      case "symbol":
        return this.refuse(`is a ${typeof value}`)
    }
  }

  private copyObject(value: object): Plain {
    if (this.path.length > maxDepth) return this.refuse(`is nested deeper than ${maxDepth} levels, or refers to itself`)
    if (isBoxedPrimitive(value)) return this.copy(value.valueOf())
    if (value instanceof Map || value instanceof Set) return this.refuse("is a Map or Set: make it an object or a list")
    if (value instanceof Promise) return this.refuse("is a Promise: wait for it first")
    return this.ofJSON(value, () => this.copyParts(value))
  }

  /** Copies the result of `toJSON`, or, where there is none, something else. */
  private ofJSON(value: object, otherwise: () => Plain): Plain {
    const toJSON: unknown = Reflect.get(value, "toJSON")
    if (typeof toJSON !== "function") return otherwise()
    const said: unknown = Reflect.apply(toJSON, value, [this.path.at(-1)])
    return typeof said === "object" && said !== null ? this.copyParts(said) : this.copy(said)
  }

  private copyParts(value: object): Plain {
    return Array.isArray(value) ? this.copyArray(value) : this.copyFields(value)
  }

  private copyArray(values: ReadonlyArray<unknown>): Plain {
    this.spend(values.length + 1)
    const copy: Array<Plain> = []
    for (let index = 0; index < values.length; index++) copy.push(this.at(String(index), values[index]))
    return Object.freeze(copy)
  }

  private copyFields(value: object): Plain {
    const copy: { [name: string]: Plain } = {}
    this.spend(2)
    for (const name of Object.keys(value)) {
      const field: unknown = Reflect.get(value, name)
      if (field === undefined) continue
      this.spend(name.length + 3)
      const plain = this.at(name, field)
      if (name === "__proto__") Object.defineProperty(copy, name, { value: plain, enumerable: true })
      else copy[name] = plain
    }
    return Object.freeze(copy)
  }

  private at(name: string, value: unknown): Plain {
    this.path.push(name)
    const copy = this.copy(value)
    this.path.pop()
    return copy
  }

  private spend(bytes: number): void {
    this.left -= bytes
    if (this.left < 0) {
      throw new NotPlain("TOO_LARGE", `${this.path[0]} has more than ${this.maxBytes} bytes as JSON: keep less of it`)
    }
  }

  refuse(what: string, cause?: unknown): never {
    const { length } = this.path
    const path = length > 6 ? [...this.path.slice(0, 5), "...", ...this.path.slice(-1)] : this.path
    throw new NotPlain("INVALID", `${String(brief(path.join(".")))} ${what}`, cause)
  }
}

/**
 * Returns a frozen copy of a value as JSON has it, or throws {@link NotPlain}.
 *
 * @param name - for the message
 */
export const plain = (name: string, value: unknown, maxBytes: number): Plain => {
  const copier = new Copier(name, maxBytes)
  try {
    return copier.copy(value)
  } catch (error) {
    if (error instanceof NotPlain) throw error
    // A getter, a toJSON or a Proxy of the application has thrown.
    return copier.refuse("cannot be read: it throws", error)
  }
}

/** Freezes plain data that another node has sent; false when it is nested too deep to be encoded again. */
export const freeze = (value: unknown, depth = 0): boolean => {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return true
  if (depth >= maxDepth) return false
  Object.freeze(value)
  for (const part of Object.values(value)) if (!freeze(part, depth + 1)) return false
  return true
}
