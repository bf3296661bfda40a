import { Cause, Clock, Data, Effect, Formatter } from "effect"
import type * as Message from "../Message.ts"
import type * as Process from "../Process.ts"
import { type Received, type TestSocket, TrackingScheduler } from "./testClient.ts"

/** A channel, as far as an assertion looks at it. */
export interface Seen {
  readonly socket: TestSocket
  readonly topic: string
  readonly joinRef: string
  readonly broadcasts: Array<Message.Broadcast>
  readonly subscribed: boolean
}

/** A message that may be answered. */
export interface Sent {
  readonly socket: TestSocket
  readonly topic: string
  readonly ref: string
}

export class AssertionError extends Data.TaggedError("AssertionError")<{
  readonly message: string
  readonly expected: unknown
  readonly actual: unknown
}> {}

/** The line of the test that makes an assertion: by the time it fails, nothing else remembers. */
export class Site {
  declare readonly stack: string
  /** What happens from `assertion` on is left out. */
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

/** Waits until all processes of a node have handled what they were sent. */
export const settling = (system: Process.System["Service"], site?: Site): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { scheduler } = system
    if (!(scheduler instanceof TrackingScheduler)) {
      return fail(site, "provide ChannelTest.layer in place of PubSub.layer", "ChannelTest.layer", "another layer")
    }
    if (scheduler.pending === 0) return Effect.void
    const deadline = realClock.currentTimeMillisUnsafe() + patience
    return Effect.whileLoop({
      while: () => scheduler.pending > 0,
      body: () =>
        realClock.currentTimeMillisUnsafe() < deadline
          ? Effect.yieldNow
          : fail(site, "the processes do not come to rest", "rest", `still at work after ${patience} ms`),
      step: () => {}
    })
  })

const settlingSocket = (socket: TestSocket, site: Site): Effect.Effect<void> =>
  settling(socket.server.process.system, site)

/** How long a failing assertion waits, in real time, for promises and other work that no scheduler knows of. */
const grace = Effect.sleep("1 second").pipe(Effect.provideService(Clock.Clock, realClock))

/** What `find` finds, once all is at rest; looks again for a while where it finds nothing. */
export const eventually = <A>(
  socket: TestSocket,
  site: Site,
  find: () => A | undefined
): Effect.Effect<A | undefined> =>
  Effect.suspend(() => {
    let found: A | undefined
    const look = Effect.andThen(settlingSocket(socket, site), Effect.sync(() => found = find()))
    const looking = Effect.whileLoop({
      while: () => found === undefined,
      body: () => Effect.andThen(Effect.yieldNow, look),
      step: () => {}
    })
    return Effect.flatMap(
      look,
      (first) => first !== undefined ? Effect.succeed(first) : Effect.map(Effect.raceFirst(looking, grace), () => found)
    )
  })

// --- claims -----------------------------------------------------------------------------------------------------------

/** What an assertion is about. */
export interface Claim<A extends object> {
  readonly socket: TestSocket
  /** In words. */
  readonly what: string
  /** As the right one would be described. */
  readonly expected: unknown
  /** Where it is looked for. */
  readonly among: Array<A>
  /** Whether it is as it should be but for its status and payload: what a failure shows. */
  readonly resembles: (candidate: A) => boolean
  readonly matches: (candidate: A) => boolean
  readonly describe: (candidate: A) => unknown
  readonly broadcasts?: ReadonlyArray<Message.Broadcast>
}

/** Waits for what is claimed, takes it away, and returns it. */
export const take = <A extends object>(site: Site, claim: Claim<A>): Effect.Effect<A> =>
  Effect.gen(function*() {
    const { among, describe, expected, matches, resembles, socket, what } = claim
    const found = yield* eventually(socket, site, () => among.find((one) => resembles(one) && matches(one)))
    if (found === undefined) {
      const similar = among.filter(resembles).map(describe)
      const actual = similar.length === 1 ? similar[0] : similar.length > 0 ? similar : among.map(describe)
      return yield* fail(site, `no ${what}${situation(claim)}`, expected, actual)
    }
    among.splice(among.indexOf(found), 1)
    return found
  })

/** Sees to it that what is claimed is not there, and will not be before time passes. */
export const refute = <A extends object>(site: Site, claim: Claim<A>): Effect.Effect<void> =>
  Effect.gen(function*() {
    const { among, describe, matches, resembles, socket, what } = claim
    yield* settlingSocket(socket, site)
    const found = among.find((one) => resembles(one) && matches(one))
    if (found !== undefined) {
      return yield* fail(site, `unexpected ${what}${situation(claim)}`, undefined, describe(found))
    }
  })

export const pushOf = (channel: Seen, event: string, expected: unknown): Claim<Received> => ({
  socket: channel.socket,
  what: `push of ${event} on ${channel.topic}${matching(expected)}`,
  expected: { event, payload: expected },
  among: channel.socket.received,
  resembles: (received) => received.event === event && isOf(channel, received),
  matches: ({ payload }) => fits(expected, payload),
  describe
})

export const replyTo = (sent: Sent, status: string | undefined, expected?: unknown): Claim<Received> => ({
  socket: sent.socket,
  what: `reply${status === undefined ? "" : ` ${status}`} to ${sent.ref} on ${sent.topic}${matching(expected)}`,
  expected: { reply: sent.ref, status, payload: expected },
  among: sent.socket.received,
  resembles: ({ event, ref, topic }) => event === "phx_reply" && topic === sent.topic && ref === sent.ref,
  matches: (received) => {
    const reply = replyOf(received)
    return (status === undefined || reply.status === status) && fits(expected, reply.payload)
  },
  describe
})

export const broadcastOn = (channel: Seen, event: string, expected: unknown): Claim<Message.Broadcast> => ({
  socket: channel.socket,
  what: `broadcast of ${event} on ${channel.topic}${matching(expected)}`,
  expected: { event, payload: expected },
  among: channel.broadcasts,
  resembles: (broadcast) => broadcast.event === event,
  matches: ({ payload }) => fits(expected, payload),
  describe: ({ event, payload }) => ({ event, payload }),
  broadcasts: channel.broadcasts
})

/** What a reply says, which travels in two ways. */
export const replyOf = ({ payload, status }: Received): { readonly status: unknown; readonly payload: unknown } => {
  if (status !== undefined) return { status, payload }
  const { response, status: inPayload } = isRecord(payload) ? payload : {}
  return { status: inPayload, payload: response }
}

/** Whether a message belongs to this join of the topic, and not to an earlier or later one. */
const isOf = ({ joinRef, topic }: Seen, received: Received): boolean =>
  received.topic === topic && [null, joinRef].includes(joinRefOf(received) as string | null)

/** V1 has it only in what is said about the end of a channel, as the ref. */
const joinRefOf = ({ event, joinRef, ref }: Received): unknown =>
  event === "phx_close" || event === "phx_error" ? ref : joinRef

export const assertSubscribed = (site: Site, channel: Seen): Effect.Effect<void> =>
  channel.subscribed
    ? Effect.void
    : fail(site, "broadcasts are seen after subscribeAndJoin only", "subscribeAndJoin", "join")

// --- what a failure says ----------------------------------------------------------------------------------------------

const show = (value: unknown): string =>
  value instanceof Uint8Array ? `<${["bytes", ...value].join(" ")}>` : Formatter.format(value)

const matching = (expected: unknown): string =>
  expected === undefined ? "" : typeof expected === "function" ? " that the test accepts" : ` with ${show(expected)}`

const describe = (received: Received): unknown =>
  received.event === "phx_reply"
    ? { reply: received.ref, ...replyOf(received) }
    : { event: received.event, payload: received.payload }

const line = (received: Received): string => {
  const { event, payload, ref, topic } = received
  if (event !== "phx_reply") return `  ${topic}: ${event} ${show(payload)}`
  const reply = replyOf(received)
  return `  ${topic}: reply ${reply.status} to ${ref} ${show(reply.payload)}`
}

/** All that may explain a failure: what is there instead, whether the connection is, which channels have crashed. */
const situation = <A extends object>({ broadcasts, socket }: Claim<A>): string => {
  const lines = ["\nReceived and not asserted:", ...socket.received.map(line)]
  if (socket.received.length === 0) lines.push("  nothing")
  for (const { event, payload } of broadcasts ?? []) lines.push(`  broadcast ${event} ${show(payload)}`)
  if (socket.closeCode !== undefined) lines.push(`The connection is closed, with ${socket.closeCode}.`)
  for (const { process, topic } of socket.opened.values()) {
    if (process.reason?._tag === "Crash") lines.push(`${topic} has crashed: ${Cause.pretty(process.reason.cause)}`)
  }
  return lines.join("\n")
}

// --- patterns ---------------------------------------------------------------------------------------------------------

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

/** Whether every part of what is expected is there. */
export const fits = (expected: unknown, actual: unknown): boolean => {
  if (expected === undefined) return true
  if (typeof expected === "function") return expected(actual) === true
  if (!isRecord(expected)) return Object.is(expected, actual)
  if (!isRecord(actual)) return false
  if (Array.isArray(expected) || expected instanceof Uint8Array) {
    const items = Array.from(expected)
    const others = Array.isArray(actual) || actual instanceof Uint8Array ? Array.from(actual) : undefined
    return others?.length === items.length && items.every((item, index) => fits(item, others[index]))
  }
  return Object.entries(expected).every(([key, value]) => Object.hasOwn(actual, key) && fits(value, actual[key]))
}
