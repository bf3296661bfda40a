import { Effect, Formatter } from "effect"

/**
 * The patterns of tests. A pattern is compared as JSON, because JSON is what travels: an instance of a class counts as the
 * plain data that it becomes. What has no such form is refused before anything is compared, so that no pattern can match
 * whatever comes.
 */

/** The expectation of a payload: nothing in particular, or one pattern. */
export type Given = readonly [expected?: unknown]

/** A pattern that cannot be compared with anything; the message says which part of it, and what to write in its place. */
export class Incomparable extends Error {
  override readonly name = "Incomparable"
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

export const show = (value: unknown): string =>
  value instanceof Uint8Array ? `<${["bytes", ...value].join(" ")}>` : Formatter.format(value)

const isPlain = (value: object): boolean => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** As JSON.stringify has it: an object that says how it is written is taken at its word. */
const asJson = (value: unknown): unknown =>
  isRecord(value) && !(value instanceof Uint8Array) && typeof value["toJSON"] === "function"
    ? value["toJSON"]("")
    : value

const nameOf = (value: object): string => {
  const { constructor } = Object(value)
  return typeof constructor === "function" && constructor.name !== "" ? constructor.name : "an unnamed class"
}

const place = (path: ReadonlyArray<PropertyKey>): string =>
  path.length === 0 ? "the expectation" : `the expectation at ${path.map(String).join(".")}`

const refuse = (path: ReadonlyArray<PropertyKey>, problem: string): never => {
  throw new Incomparable(`${place(path)} ${problem}`)
}

const useFunction =
  "cannot be compared with what a client is sent: give plain data, or a function that returns true or false"

/** Throws {@link Incomparable} for a pattern that has a part which no payload could be compared with. */
export const check = (given: Given): void => {
  if (given.length === 0) return
  if (given[0] === undefined) {
    refuse([], "is undefined, which no payload is: leave it out where any payload will do")
  }
  checkPart(given[0], [], [])
}

const checkPart = (part: unknown, path: ReadonlyArray<PropertyKey>, above: ReadonlyArray<unknown>): void => {
  if (typeof part === "function") {
    if (/^class\b/.test(Function.prototype.toString.call(part))) {
      refuse(path, `is the class ${part.name}, which ${useFunction}`)
    }
    return
  }
  if (typeof part === "symbol" || typeof part === "bigint") {
    return refuse(path, `is a ${typeof part}, which ${useFunction}`)
  }
  if (!isRecord(part) || part instanceof Uint8Array) return
  if (above.includes(part)) return refuse(path, `contains itself, which ${useFunction}`)
  if (Effect.isEffect(part)) return refuse(path, "is an Effect: yield* it, and expect its value")
  const within = [...above, part]
  if (Array.isArray(part)) {
    // Holes are read too, as undefined.
    for (let index = 0; index < part.length; index++) checkPart(part[index], [...path, index], within)
    return
  }
  if (part instanceof Map || part instanceof Set) {
    for (const [key, value] of part.entries()) checkPart(value, [...path, String(key)], within)
    return
  }
  if (ArrayBuffer.isView(part)) return refuse(path, `is a ${nameOf(part)}, which ${useFunction}`)
  let json: unknown
  try {
    json = asJson(part)
  } catch (error) {
    return refuse(path, `has a toJSON that throws: ${String(error)}`)
  }
  // An invalid date would otherwise expect null, and an empty form the absence of a value.
  if (json === null || json === undefined) {
    return refuse(path, `is an instance of ${nameOf(part)} without any data, which ${useFunction}`)
  }
  if (json !== part) return checkPart(json, path, within)
  const keys = Object.keys(part)
  if (!isPlain(part) && keys.length === 0) {
    refuse(path, `is an instance of ${nameOf(part)} without any data, which ${useFunction}`)
  }
  for (const key of keys) checkPart(part[key], [...path, key], within)
}

/**
 * Returns true if every part of the pattern is there. A key that is expected to be undefined must be absent or undefined.
 * Objects may have more keys than expected, arrays not more items.
 */
export const fits = (expected: unknown, actual: unknown): boolean => {
  if (typeof expected === "function") return verdictOf(expected(actual))
  const pattern = asJson(expected)
  if (!isRecord(pattern)) {
    const value = asJson(actual)
    return pattern === value || Number.isNaN(pattern) && Number.isNaN(value)
  }
  if (pattern instanceof Uint8Array) {
    return actual instanceof Uint8Array && actual.length === pattern.length
      && pattern.every((byte, index) => byte === actual[index])
  }
  if (pattern instanceof Set) return actual instanceof Set && fitsSet(pattern, actual)
  if (pattern instanceof Map) {
    return actual instanceof Map && actual.size === pattern.size
      && [...pattern].every(([key, value]) => actual.has(key) && fits(value, actual.get(key)))
  }
  const value = asJson(actual)
  if (!isRecord(value) || value instanceof Uint8Array) return false
  if (Array.isArray(pattern)) {
    if (!Array.isArray(value) || value.length !== pattern.length) return false
    for (let index = 0; index < pattern.length; index++) if (!fits(pattern[index], value[index])) return false
    return true
  }
  if (Array.isArray(value) || value instanceof Map || value instanceof Set) return false
  return Object.entries(pattern).every(([key, part]) =>
    part === undefined ?
      !Object.hasOwn(value, key) || value[key] === undefined
      : Object.hasOwn(value, key) && fits(part, value[key])
  )
}

/** Returns true if a payload fits the given pattern, or none is given. */
export const fitsGiven = (given: Given, actual: unknown): boolean => given.length === 0 || fits(given[0], actual)

const fitsSet = (pattern: ReadonlySet<unknown>, actual: ReadonlySet<unknown>): boolean => {
  const left = [...actual]
  return pattern.size === actual.size && [...pattern].every((part) => {
    const index = left.findIndex((value) => fits(part, value))
    if (index === -1) return false
    left.splice(index, 1)
    return true
  })
}

/** Neither a promise nor a forgotten `return` says yes or no. */
const verdictOf = (verdict: unknown): boolean => {
  if (typeof verdict === "boolean") return verdict
  throw new Incomparable(`the function that judges a payload must return true or false; it returned ${show(verdict)}`)
}
