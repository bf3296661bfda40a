/** Lines about one trouble are at least so far apart, in milliseconds. */
const pause = 10_000
/** Reasons of one trouble that are said; a cause with a number in it could be new each time. */
const most = 16

/** A cause in a few words. Node gives an error of several addresses a code and no message. */
export const reasonOf = (cause: unknown): string => {
  if (!(cause instanceof Error)) return String(cause)
  return cause.message || ("code" in cause ? String(cause.code) : cause.name)
}

/** The reasons of a trouble that goes on: the log says each once, so that no cause hides behind the first. */
export class Reasons {
  private readonly said = new Set<string>()
  private last = -Infinity
  private readonly spaced: boolean

  /** @param spaced - a trouble that comes back soon is not said again either */
  constructor({ spaced }: { readonly spaced: boolean }) {
    this.spaced = spaced
  }

  get isEmpty(): boolean {
    return this.said.size === 0
  }

  /** True if this reason is to be said now. */
  take(cause: unknown, now: number): boolean {
    const reason = reasonOf(cause)
    if (this.said.has(reason) || this.said.size === most) return false
    if ((this.spaced || !this.isEmpty) && now - this.last < pause) return false
    this.said.add(reason)
    this.last = now
    return true
  }

  /** The trouble is over. */
  clear(): void {
    this.said.clear()
  }
}
