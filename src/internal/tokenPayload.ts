/** What a token carries: its data, when it was made and how long it is accepted, as `Phoenix.Token` writes it. */
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as ErlangTerm from "./erlangTerm.ts"

export interface Payload {
  readonly data: unknown
  /** Milliseconds since 1970; NaN if it is no number. */
  readonly signedAt: number
  /** Milliseconds, Infinity for ever; NaN if it is neither. */
  readonly maxAge: number
}

/** How long a token is accepted that does not say it: one day. */
export const defaultMaxAge = 86_400_000

/** Writes data, milliseconds and **seconds**. */
export const encode = (
  { data, signedAt, maxAge }: Payload,
  options: ErlangTerm.EncodeOptions
): Result.Result<Uint8Array, ErlangTerm.EncodeError> => {
  const seconds = maxAge === Infinity ? new ErlangTerm.Atom("infinity") : maxAge / 1000
  return ErlangTerm.encode(new ErlangTerm.Tuple([data, Math.trunc(signedAt), seconds]), options)
}

/** Reads what {@link encode} wrote, or an older form: a pair or a map, without an age of its own. */
export const decode = (bytes: Uint8Array): Payload | undefined => {
  const term = Result.getOrUndefined(ErlangTerm.decode(bytes))
  if (Array.isArray(term) && (term.length === 2 || term.length === 3)) {
    const [data, signedAt, maxAge = defaultMaxAge / 1000]: ReadonlyArray<unknown> = term
    return { data, signedAt: toNumber(signedAt), maxAge: maxAge === "infinity" ? Infinity : toNumber(maxAge) * 1000 }
  }
  if (Predicate.hasProperty(term, "data") && Predicate.hasProperty(term, "signed")) {
    return { data: term.data, signedAt: toNumber(term.signed), maxAge: defaultMaxAge }
  }
  return undefined
}

const toNumber = (value: unknown): number =>
  typeof value === "number" || typeof value === "bigint" ? Number(value) : NaN

/**
 * Judges a token by an age of `maxAge` milliseconds, where the clock of its maker may be ahead by `leeway`; `malformed` if
 * its times are no numbers.
 */
export const judge = (
  signedAt: number,
  maxAge: number,
  now: number,
  leeway: number
): "accepted" | "expired" | "future" | "malformed" => {
  if (maxAge === Infinity) return "accepted"
  if (maxAge <= 0) return "expired"
  const validUntil = signedAt + maxAge
  if (Number.isNaN(validUntil)) return "malformed"
  if (signedAt > now + leeway) return "future"
  return validUntil < now ? "expired" : "accepted"
}
