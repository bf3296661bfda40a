import { Duration, type LogLevel } from "effect"

/**
 * An option that makes no sense. It is thrown where the option is given, so that a mistake in a program or its environment
 * (`Number(process.env.UNSET)` is NaN) never becomes a limit that limits nothing.
 */
export class OptionError extends RangeError {
  readonly _tag = "OptionError"
  readonly code = "INVALID_OPTION"
  override readonly name = "OptionError"
  /** The name of the option, after that of its owner where there are several. */
  readonly option: string
  readonly value: unknown

  constructor(option: string, value: unknown, allowed: string) {
    super(`${option} must be ${allowed}; it is ${shown(value)}`)
    this.option = option
    this.value = value
  }
}

const shown = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}...` : value)
  if (typeof value === "function") return "a function"
  if (typeof value !== "object" || value === null) return String(value)
  return Array.isArray(value) ? "a list" : "an object"
}

/** The numbers that an option takes. */
export interface Bounds {
  /** The least; default 1. */
  readonly min?: number
  readonly max?: number
  /** Unit of the number, such as `bytes`. */
  readonly unit?: string
  /** Infinity means that there is no limit. */
  readonly unlimited?: boolean
}

const range = ({ max, min = 1, unit, unlimited }: Bounds, kind: string): string =>
  (min === Number.MIN_VALUE ? "more than 0" : `${kind}${unit === undefined ? "" : ` of ${unit}`}, at least ${min}`)
  + (max === undefined ? "" : ` and at most ${max}`)
  + (unlimited === true ? ", or Infinity for no limit" : "")

/** Returns a value, or its default where it is not given: null is given, and mostly refused. */
export const given = <A, B>(value: A | undefined, otherwise: B): A | B => value === undefined ? otherwise : value

/** Returns a whole number within the bounds; anything else is an {@link OptionError}. */
export const wholeNumber = (option: string, value: unknown, bounds: Bounds = {}): number => {
  const { max = Number.MAX_SAFE_INTEGER, min = 1, unlimited = false } = bounds
  if (value === Infinity && unlimited) return value
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new OptionError(option, value, range(bounds, "a whole number"))
}

/** Returns a number within the bounds, whole or not. */
export const number = (option: string, value: unknown, bounds: Bounds = {}): number => {
  const { max = Number.MAX_VALUE, min = 1, unlimited = false } = bounds
  if (value === Infinity && unlimited) return value
  if (typeof value === "number" && value >= min && value <= max) return value
  throw new OptionError(option, value, range(bounds, "a number"))
}

/** Returns a duration in milliseconds, longer than nothing unless `min` says otherwise. */
export const duration = (
  option: string,
  value: unknown,
  { min = Number.MIN_VALUE, unlimited = false }: { readonly min?: number; readonly unlimited?: boolean } = {}
): number => {
  const millis = millisOf(value)
  if (millis >= min && (millis < Infinity || unlimited)) return millis
  const least = min === Number.MIN_VALUE
    ? " longer than nothing"
    : min === -Infinity
    ? ""
    : ` of at least ${min} milliseconds`
  throw new OptionError(
    option,
    value,
    `a duration${least}, such as "30 seconds" or a number of milliseconds`
      + (unlimited ? `, or "Infinity" for no limit` : "")
  )
}

const units = ["weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds"]

/** An object that names no unit, or a wrong one: for Effect that is a duration of nothing. */
const isMisspelt = (value: unknown): boolean => {
  if (typeof value !== "object" || value === null || Array.isArray(value) || Duration.isDuration(value)) return false
  const keys = Object.keys(value)
  return keys.length === 0 || !keys.every((key) => units.includes(key))
}

/** NaN for what is no duration. */
const millisOf = (value: unknown): number => {
  if (isMisspelt(value)) return NaN
  try {
    // Numbers are returned as they are, because Effect makes a duration of nothing of NaN.
    return typeof value === "number" ? value : Duration.toMillis(Duration.fromInputUnsafe(value as Duration.Input))
  } catch {
    return NaN
  }
}

/** Returns a value that is one of those named. */
export const oneOf = <const A extends string | boolean>(
  option: string,
  value: unknown,
  allowed: ReadonlyArray<A>
): A => {
  const found = allowed.find((one) => one === value)
  if (found !== undefined) return found
  throw new OptionError(option, value, `one of ${allowed.map((one) => JSON.stringify(one)).join(", ")}`)
}

/** Returns a level at which something is logged, or false. */
export const level = (option: string, value: unknown): LogLevel.Severity | false =>
  oneOf(option, value, ["Fatal", "Error", "Warn", "Info", "Debug", "Trace", false])

/** Returns a text that is not empty. */
export const text = (option: string, value: unknown): string => {
  if (typeof value === "string" && value !== "") return value
  throw new OptionError(option, value, "a text that is not empty")
}

/** Returns a function. */
export const callable = <A>(option: string, value: A): A => {
  if (typeof value === "function") return value
  throw new OptionError(option, value, "a function")
}

/** Returns an object of options; a list is none. */
export const object = <A>(option: string, value: A, allowed = "an object"): A => {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value
  throw new OptionError(option, value, allowed)
}
