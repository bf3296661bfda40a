import { Cause, Clock, Data, Effect } from "effect"
import type * as Process from "../Process.ts"
import type * as process from "./process.ts"
import { type TestSocket, TrackingScheduler } from "./testClient.ts"

/** When the processes of a test are at rest, and what has become of them by then. */

export class AssertionError extends Data.TaggedError("AssertionError")<{
  readonly message: string
  readonly expected: unknown
  readonly actual: unknown
}> {}

/** The line of the test that makes an assertion: by the time it fails, nothing else remembers. */
export class Site {
  declare readonly stack: string
  /** Leaves out the calls from `assertion` on. */
  constructor(assertion: (...args: never) => unknown) {
    Error.captureStackTrace(this, assertion)
  }

  /** Makes an error point here. */
  mark<E extends Error>(error: E): E {
    error.stack = `${error.name}: ${error.message}${this.stack.slice(this.stack.indexOf("\n"))}`
    return error
  }
}

export const fail = (
  site: Site | undefined,
  message: string,
  expected: unknown,
  actual: unknown
): Effect.Effect<never> => {
  const error = new AssertionError({ message, expected, actual })
  return Effect.die(site?.mark(error) ?? error)
}

// --- rest -------------------------------------------------------------------------------------------------------------

/** Processes that are still at work after so many milliseconds of real time go round in circles. */
const patience = 2000

const realClock = Clock.Clock.defaultValue()

type System = Process.System["Service"]

const trackerOf = (system: System, site: Site | undefined): Effect.Effect<TrackingScheduler> => {
  const { scheduler } = system
  return scheduler instanceof TrackingScheduler
    ? Effect.succeed(scheduler)
    : fail(site, "provide ChannelTest.layer in place of PubSub.layer", "ChannelTest.layer", "another layer")
}

/** Real time in milliseconds, whatever the clock of the test says. */
const realMillis = (): number => Number(realClock.monotonicTimeNanosUnsafe()) / 1e6

/** Waits until all processes of a node have handled what they were sent, but for handlers that wait for something. */
export const settling = (system: System, site?: Site): Effect.Effect<void> =>
  Effect.flatMap(trackerOf(system, site), (scheduler) => {
    if (scheduler.pending === 0) return Effect.void
    const deadline = realMillis() + patience
    return Effect.whileLoop({
      while: () => scheduler.pending > 0,
      body: () =>
        realMillis() < deadline
          ? Effect.yieldNow
          : fail(site, "the processes do not come to rest", "rest", `still at work after ${patience} ms`),
      step: () => {}
    })
  })

/** Time to wait for work that no scheduler knows of, such as a promise: milliseconds of real time. */
const grace = 1000

/** As {@link settling}, and gives handlers some time that wait for anything but the clock. Returns those that still do. */
const awaitWork = (system: System, site?: Site): Effect.Effect<ReadonlyArray<Crashed["process"]>> =>
  Effect.flatMap(trackerOf(system, site), (scheduler) =>
    Effect.suspend(() => {
      const deadline = realMillis() + grace
      const look = Effect.andThen(settling(system, site), Effect.sync(() => scheduler.atWork(system)))
      return Effect.flatMap(look, (first) => {
        let working = first
        const looking = Effect.whileLoop({
          while: () => working.length > 0 && realMillis() < deadline,
          body: () => Effect.andThen(Effect.yieldNow, look),
          step: (next) => {
            working = next
          }
        })
        // It may wait for one that sleeps, and with that for the test to move the clock.
        return Effect.map(looking, () => scheduler.isAsleep ? [] : working)
      })
    }))

/**
 * Waits until nothing happens any more before time passes. A handler that waits for anything but the clock is waited for as
 * well. One that still does after a second makes this fail, because nobody can say then what it is going to do.
 */
export const resting = (system: System, site?: Site): Effect.Effect<void> =>
  Effect.flatMap(awaitWork(system, site), (working) => {
    if (working.length === 0) return Effect.void
    const names = working.map(({ label }) => label)
    return fail(
      site,
      `after ${grace} ms there are handlers at work, which may do anything yet: ${names.join(", ")}.`
        + " Let what they wait for come to an end first;"
        + " to hold up a handler, have it sleep on the clock, which the test moves",
      "rest",
      names
    )
  })

/** The time that a failing assertion waits for promises and other work that no scheduler knows of. */
const giveUp = Effect.sleep(grace).pipe(Effect.provideService(Clock.Clock, realClock))

/** Returns the result of `find`, once all is at rest; looks again for a while where it finds nothing. */
export const eventually = <A>(
  socket: TestSocket,
  site: Site,
  find: () => A | undefined
): Effect.Effect<A | undefined> =>
  Effect.suspend(() => {
    let found: A | undefined
    const look = Effect.andThen(settling(socket.server.process.system, site), Effect.sync(() => found = find()))
    const looking = Effect.whileLoop({
      while: () => found === undefined,
      body: () => Effect.andThen(Effect.yieldNow, look),
      step: () => {}
    })
    return Effect.flatMap(
      look,
      (first) =>
        first !== undefined ? Effect.succeed(first) : Effect.map(Effect.raceFirst(looking, giveUp), () => found)
    )
  })

// --- crashes ----------------------------------------------------------------------------------------------------------

/** A process of a client that has crashed. */
interface Crashed {
  readonly process: process.Process
  readonly line: string
}

/** The channels of a client that have crashed, and its connection if that has. */
export const crashesOf = (socket: TestSocket): ReadonlyArray<Crashed> => {
  const crashed: Array<Crashed> = []
  const look = (process: Crashed["process"], name: string) => {
    const { reason } = process
    if (reason?._tag === "Crash") crashed.push({ process, line: `${name} has crashed: ${Cause.pretty(reason.cause)}` })
  }
  const connection = socket.server.process
  look(connection, "the connection")
  for (const { process, topic } of socket.opened.values()) {
    // A connection that crashes takes its channels with it.
    if (connection.reason === undefined || process.reason !== connection.reason) look(process, topic)
  }
  return crashed
}

/** Fails where something of these clients has crashed that the test does not know of. */
const noCrashes = (sockets: Iterable<TestSocket>): Effect.Effect<void> =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    for (const socket of sockets) {
      if (socket.mayCrash) continue
      for (const [joinRef, { process }] of socket.opened) {
        const told = socket.errors.get(joinRef)
        // The test has taken it from what the client has received.
        if (told !== undefined && !socket.received.includes(told)) socket.excused.add(process)
      }
      for (const { line, process } of crashesOf(socket)) {
        if (socket.excused.has(process)) continue
        socket.excused.add(process)
        lines.push(line)
      }
    }
    if (lines.length === 0) return Effect.void
    return fail(
      undefined,
      `the test has ended, and asserts nothing about a crash. To expect it, use ChannelTest.assertCrashed\n${
        lines.join("\n")
      }`,
      "no crash",
      lines.map((line) => line.split("\n", 1)[0])
    )
  })

/** At the end of a test, or of the part of it that a client lives for: what it was sent is handled, and nothing has crashed. */
export const leaving = (socket: TestSocket): Effect.Effect<void> => {
  const { system } = socket.server.process
  return system.scheduler instanceof TrackingScheduler
    ? Effect.andThen(settling(system), noCrashes([socket]))
    : Effect.void
}

/** The same at the end of a node, which may come first. */
export const closing = (system: System): Effect.Effect<void> =>
  Effect.flatMap(
    trackerOf(system, undefined),
    ({ sockets }) => Effect.andThen(settling(system), noCrashes(sockets))
  )
