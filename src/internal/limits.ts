import type { Clock, Context } from "effect"
import { isLogged, type Level, report } from "./report.ts"
import type { Timers } from "./timers.ts"

/** How often something may happen: `burst` times at once, and from then on `perSecond` times in a second. */
export interface Rate {
  readonly perSecond: number
  readonly burst: number
}

/** Checks a rate that an application has set; false is no limit. */
export const rateOf = (name: string, rate: Rate | false): Rate | undefined => {
  if (rate === false) return undefined
  if (!(rate.perSecond > 0) || !(rate.burst >= 1)) {
    throw new RangeError(`${name}: perSecond must be more than 0 and burst at least 1, or false for no limit`)
  }
  return rate
}

/** Lets so much pass as a rate says. */
export class TokenBucket {
  private readonly rate: Rate
  private readonly clock: Clock.Clock
  /** It is full before the first is taken, whenever that is. */
  private tokens: number
  private filledAt = 0

  constructor(rate: Rate, clock: Clock.Clock) {
    this.rate = rate
    this.clock = clock
    this.tokens = rate.burst
  }

  take(): boolean {
    // The wall clock is the quicker one to read. Where it is set back, nothing is filled in for once.
    const now = this.clock.currentTimeMillisUnsafe()
    const fill = Math.max(0, now - this.filledAt) * this.rate.perSecond / 1000
    this.tokens = Math.min(this.rate.burst, this.tokens + fill)
    this.filledAt = now
    if (this.tokens < 1) return false
    this.tokens--
    return true
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

  /** `times` says how often it was since the line before. The line is the kind, so it must not hold what a client sent. */
  say(level: Exclude<Level, false>, line: string, annotations: Record<string, unknown>): void {
    const { now } = this.timers
    const kind = this.kinds.get(line) ?? { again: now, count: 0 }
    this.kinds.set(line, kind)
    kind.count++
    if (now < kind.again) return
    if (isLogged(level, this.context)) report(level, this.context, line, { ...annotations, times: kind.count })
    kind.again = now + pause
    kind.count = 0
  }
}
