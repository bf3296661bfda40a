/** A node that was not there for a while: stopped, suspended, or busy. */
import { Clock, Effect } from "effect"

/** A clock that goes on while nothing that sleeps by it is woken. */
export interface AbsentClock {
  readonly clock: Clock.Clock
  /** The node is not there for so many milliseconds. */
  readonly miss: (millis: number) => void
}

/** Makes such a clock of the one there is. */
export const absentClock: Effect.Effect<AbsentClock> = Effect.map(Effect.service(Clock.Clock), (present) => {
  let missed = 0
  const nanos = () => BigInt(missed) * 1_000_000n
  const clock: Clock.Clock = {
    currentTimeMillisUnsafe: () => present.currentTimeMillisUnsafe() + missed,
    currentTimeMillis: Effect.map(present.currentTimeMillis, (now) => now + missed),
    currentTimeNanosUnsafe: () => present.currentTimeNanosUnsafe() + nanos(),
    currentTimeNanos: Effect.map(present.currentTimeNanos, (now) => now + nanos()),
    monotonicTimeNanosUnsafe: () => present.monotonicTimeNanosUnsafe() + nanos(),
    monotonicTimeNanos: Effect.map(present.monotonicTimeNanos, (now) => now + nanos()),
    sleep: (duration) => present.sleep(duration)
  }
  return { clock, miss: (millis) => missed += millis }
})
