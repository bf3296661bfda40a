import type { Cause, Clock, Context } from "effect"
import { number, OptionError } from "./options.ts"
import { isLogged, type Level, report } from "./report.ts"
import type { Timers } from "./timers.ts"

/** How often something may happen: `burst` times at once, and from then on `perSecond` times in a second. */
export interface Rate {
  readonly perSecond: number
  readonly burst: number
}

/** Checks a rate that an application has set; false is no limit. */
export const rateOf = (option: string, rate: Rate | false): Rate | undefined => {
  if (rate === false) return undefined
  if (typeof rate !== "object" || rate === null) {
    throw new OptionError(option, rate, "{ perSecond, burst }, or false for no limit")
  }
  return {
    perSecond: number(`${option}: perSecond`, rate.perSecond, { min: Number.MIN_VALUE, unlimited: true }),
    burst: number(`${option}: burst`, rate.burst, { unlimited: true })
  }
}

/** Lets so much pass as a rate says, by the monotonic clock. */
export class TokenBucket {
  private readonly rate: Rate
  private readonly clock: Clock.Clock
  /** It is full before the first is taken, whenever that is. */
  private tokens: number
  private filledAt = 0
  /** Taken since then without asking the clock, of so many that may be. */
  private spent = 0
  private readonly unasked: number

  constructor(rate: Rate, clock: Clock.Clock) {
    this.rate = rate
    this.clock = clock
    this.tokens = rate.burst
    this.unasked = Math.min(16, Math.floor(rate.burst / 10))
  }

  /** Takes `count` tokens, if there are so many. */
  take(count = 1): boolean {
    this.fill()
    if (this.tokens < count) return false
    this.tokens -= count
    return true
  }

  /**
   * Takes a token, and asks the clock once in several times, at most a tenth of the burst. The time that has passed counts as
   * if it had passed before these were taken: that is never more than the rate allows, and less by no more than their number.
   */
  takeOften(): boolean {
    if (this.spent + 1 <= Math.min(this.tokens, this.unasked)) {
      this.spent++
      return true
    }
    this.fill()
    this.tokens -= this.spent
    this.spent = 0
    if (this.tokens < 1) return false
    this.tokens--
    return true
  }

  /**
   * Takes `count` tokens, more than there are if need be, and returns the milliseconds until that debt is paid: what is
   * here already is let in, and what comes after it has to wait.
   */
  charge(count: number): number {
    this.fill()
    this.tokens -= count
    return this.tokens >= 0 ? 0 : -this.tokens / this.rate.perSecond * 1000
  }

  private fill(): void {
    const now = Number(this.clock.monotonicTimeNanosUnsafe()) / 1e6
    // Nothing times Infinity would be no number.
    if (now <= this.filledAt) return
    this.tokens = Math.min(this.rate.burst, this.tokens + (now - this.filledAt) * this.rate.perSecond / 1000)
    this.filledAt = now
  }
}

/** How long a line is not repeated, in milliseconds. */
const pause = 10_000

/** Lines about what clients do, which must not fill the log: each kind is logged at once, and then every ten seconds. */
export class Complaints {
  private readonly timers: Timers
  private readonly context: Context.Context<never>
  private readonly kinds = new Map<string, { again: number; count: number }>()

  constructor(timers: Timers, context: Context.Context<never>) {
    this.timers = timers
    this.context = context
  }

  /**
   * `times` says how often it was since the line before. The kind, which is the line unless it is given, must not hold what a
   * client sent.
   */
  say(
    level: Exclude<Level, false>,
    line: string,
    annotations: Readonly<Record<string, unknown>>,
    cause?: Cause.Cause<unknown>,
    name: string = line
  ): void {
    const { now } = this.timers
    const kind = this.kinds.get(name) ?? { again: now, count: 0 }
    this.kinds.set(name, kind)
    kind.count++
    if (now < kind.again) return
    if (isLogged(level, this.context)) report(level, this.context, line, { ...annotations, times: kind.count }, cause)
    kind.again = now + pause
    kind.count = 0
  }
}
