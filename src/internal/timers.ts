import { Cause, type Clock, Effect, type Fiber } from "effect"

/** The longest a single sleep may last: platform timers overflow after 2^31 ms. */
const longestSleep = 86_400_000

/** Milliseconds by which timers may be late without a reason to look for. */
const tolerance = 100

/** A callback that is due at `deadline`; `index` is its place in the heap, -1 when it is not waiting. */
export interface Timer {
  readonly deadline: number
  readonly order: number
  readonly run: () => void
  index: number
}

/**
 * All timers of a node: a binary heap of deadlines and one fiber that sleeps until the first of them. Timers that are
 * due at the same millisecond run in the order in which they were set. Time is monotonic, in whole milliseconds: a clock
 * that is set back delays nothing.
 *
 * A node that was stopped, suspended or busy for long finds its timers late. Then sockets are read before timers run, because
 * what others have said meanwhile waits there, and the absence does not count as {@link awake}: silence of others is measured
 * by that.
 */
export class Timers {
  private readonly heap: Array<Timer> = []
  private readonly clock: Clock.Clock
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  private alarm: Fiber.Fiber<void> | undefined = undefined
  /** When the alarm wakes; Infinity without one, -Infinity while it is awake and looks at the heap by itself. */
  private alarmAt = Infinity
  private order = 0
  /** Milliseconds in which timers were due and did not run. */
  private absent = 0

  constructor(clock: Clock.Clock, fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>) {
    this.clock = clock
    this.fork = fork
  }

  get size(): number {
    return this.heap.length
  }

  get now(): number {
    return Math.floor(Number(this.clock.monotonicTimeNanosUnsafe()) / 1e6)
  }

  /**
   * Time without that in which this node could not work: for whoever judges another by its silence. Absences are noticed by
   * timers that are late, so a judge looks several times within the silence it allows.
   */
  get awake(): number {
    return this.now - this.absent
  }

  /** Calls `run` in `millis`, never before `after` has returned. */
  after(millis: number, run: () => void): Timer {
    const deadline = this.now + Math.ceil(Math.max(0, millis))
    const timer: Timer = { deadline, order: this.order++, run, index: this.heap.length }
    this.heap.push(timer)
    this.up(timer)
    if (timer.deadline < this.alarmAt) this.arm()
    return timer
  }

  /** Takes a timer out; false when it has already run or was cancelled before. */
  cancel(timer: Timer): boolean {
    if (timer.index < 0) return false
    // The alarm is left asleep: a timeout is set and taken back with each call, and forking costs more than one wake.
    this.remove(timer)
    return true
  }

  /** Drops all timers and ends the alarm. */
  close(): void {
    for (const timer of this.heap) timer.index = -1
    this.heap.length = 0
    this.disarm()
  }

  private arm(): void {
    this.disarm()
    this.alarmAt = this.first()
    this.alarm = this.fork(this.wait())
  }

  private disarm(): void {
    const alarm = this.alarm
    this.alarm = undefined
    this.alarmAt = Infinity
    alarm?.interruptUnsafe()
  }

  private readonly wait = Effect.fnUntraced(function*(this: Timers) {
    while (this.first() < Infinity) {
      this.alarmAt = this.first()
      const { now } = this
      const millis = Math.min(this.alarmAt - now, longestSleep)
      yield* millis > 0 ? Effect.sleep(millis) : Effect.yieldNow
      const late = this.now - now - millis
      if (late > tolerance) {
        this.absent += late
        yield* Effect.yieldNow
      }
      this.alarmAt = -Infinity
      this.ring()
    }
    this.alarm = undefined
    this.alarmAt = Infinity
  })

  private ring(): void {
    const { now, order } = this
    for (let timer = this.heap[0]; timer !== undefined && timer.deadline <= now; timer = this.heap[0]) {
      // One that is set by a callback waits for the next round, so that there is an end to this one.
      if (timer.order >= order) return
      this.remove(timer)
      try {
        timer.run()
      } catch (defect) {
        this.fork(Effect.logError("timer failed", Cause.die(defect)))
      }
    }
  }

  private first(): number {
    return this.heap[0]?.deadline ?? Infinity
  }

  private remove(timer: Timer): void {
    const last = this.heap.pop()
    const index = timer.index
    timer.index = -1
    if (last === undefined || last === timer) return
    last.index = index
    this.heap[index] = last
    this.up(last)
    this.down(last)
  }

  private up(timer: Timer): void {
    while (timer.index > 0) {
      const parent = this.heap[(timer.index - 1) >> 1]
      if (parent === undefined || !before(timer, parent)) return
      this.swap(timer, parent)
    }
  }

  private down(timer: Timer): void {
    for (;;) {
      const left = this.heap[2 * timer.index + 1]
      const right = this.heap[2 * timer.index + 2]
      const child = right !== undefined && left !== undefined && before(right, left) ? right : left
      if (child === undefined || !before(child, timer)) return
      this.swap(child, timer)
    }
  }

  private swap(a: Timer, b: Timer): void {
    const index = a.index
    a.index = b.index
    b.index = index
    this.heap[a.index] = a
    this.heap[b.index] = b
  }
}

const before = (a: Timer, b: Timer): boolean =>
  a.deadline < b.deadline || (a.deadline === b.deadline && a.order < b.order)
