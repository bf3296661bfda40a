import { Effect } from "effect"
import type * as Message from "../Message.ts"
import { check, fitsGiven, type Given, Incomparable, show } from "./expectation.ts"
import type { Received, TestSocket } from "./testClient.ts"
import { AssertionError, crashesOf, eventually, fail, resting, settling, type Site } from "./testRest.ts"

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

// --- claims -----------------------------------------------------------------------------------------------------------

/** What an assertion is about. */
export interface Claim<A extends object> {
  readonly socket: TestSocket
  /** In words. */
  readonly what: string
  readonly given: Given
  /** As the right one would be described. */
  readonly expected: unknown
  /** Where it is looked for. */
  readonly among: Array<A>
  /** Whether it is as it should be but for its status and payload: what a failure shows. */
  readonly resembles: (candidate: A) => boolean
  readonly matches: (candidate: A) => boolean
  readonly describe: (candidate: A) => unknown
  readonly broadcasts?: ReadonlyArray<Message.Broadcast>
  /** Called with what has been found. */
  readonly taken?: (found: A) => void
}

/** Looks for what is claimed. What is wrong with the expectation, as the test gives it, makes the assertion fail. */
const search = <A extends object>(
  site: Site,
  { among, given, matches, resembles }: Pick<Claim<A>, "among" | "given" | "matches" | "resembles">
): A | undefined => {
  try {
    check(given)
    return among.find((one) => resembles(one) && matches(one))
  } catch (error) {
    if (!(error instanceof Incomparable)) throw error
    throw site.mark(new AssertionError({ message: error.message, expected: "an expectation", actual: given[0] }))
  }
}

/** Waits for what is claimed, takes it away, and returns it. */
export const take = <A extends object>(site: Site, claim: Claim<A>): Effect.Effect<A> =>
  Effect.gen(function*() {
    const { among, describe, expected, resembles, socket, what } = claim
    const found = yield* eventually(socket, site, () => search(site, claim))
    if (found === undefined) {
      const similar = among.filter(resembles).map(describe)
      const actual = similar.length === 1 ? similar[0] : similar.length > 0 ? similar : among.map(describe)
      return yield* fail(site, `no ${what}${situation(claim)}`, expected, actual)
    }
    among.splice(among.indexOf(found), 1)
    claim.taken?.(found)
    return found
  })

/** Sees to it that what is claimed is not there, and will not be before time passes. */
export const refute = <A extends object>(site: Site, claim: Claim<A>): Effect.Effect<void> =>
  Effect.gen(function*() {
    const { describe, socket, what } = claim
    const { system } = socket.server.process
    yield* settling(system, site)
    // A match that is here already fails the test at once, without waiting for processes that are still at work.
    let found = search(site, claim)
    if (found === undefined) {
      yield* resting(system, site)
      found = search(site, claim)
    }
    if (found !== undefined) {
      return yield* fail(site, `unexpected ${what}${situation(claim)}`, undefined, describe(found))
    }
  })

/** An `Incomparable` of a lone value, as of {@link search}. */
export const fitsAt = (site: Site, given: Given, actual: unknown): boolean =>
  search(site, {
    given,
    among: [{ actual }],
    resembles: () => true,
    matches: ({ actual }) => fitsGiven(given, actual)
  }) !== undefined

export const pushOf = (channel: Seen, event: string, ...given: Given): Claim<Received> => ({
  socket: channel.socket,
  what: `push of ${event} on ${channel.topic}${matching(given)}`,
  given,
  expected: { event, payload: given[0] },
  among: channel.socket.received,
  resembles: (received) => received.event === event && isOf(channel, received),
  matches: ({ payload }) => fitsGiven(given, payload),
  taken: ({ event }) => {
    if (event === "phx_error") excuse(channel)
  },
  describe
})

/** The test knows of the crash of a channel, if there is one. */
const excuse = ({ joinRef, socket }: Seen): void => {
  const process = socket.opened.get(joinRef)?.process
  if (process !== undefined) socket.excused.add(process)
}

/**
 * Waits until the client is told of the crash of a channel. A channel that crashes in `terminate`, of which the client is
 * told nothing, will do too, once.
 */
export const takeCrash = (site: Site, channel: Seen): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { joinRef, socket } = channel
    const claim = pushOf(channel, "phx_error")
    const process = socket.opened.get(joinRef)?.process
    const isNew = () => process?.reason?._tag === "Crash" && !socket.excused.has(process)
    return Effect.flatMap(eventually(socket, site, () => search(site, claim) ?? (isNew() || undefined)), (found) => {
      if (found !== true) return Effect.asVoid(take(site, claim))
      excuse(channel)
      return Effect.void
    })
  })

export const replyTo = (sent: Sent, status: string | undefined, ...given: Given): Claim<Received> => ({
  socket: sent.socket,
  what: `reply${status === undefined ? "" : ` ${status}`} to ${sent.ref} on ${sent.topic}${matching(given)}`,
  given,
  expected: { reply: sent.ref, status, payload: given[0] },
  among: sent.socket.received,
  resembles: ({ event, ref, topic }) => event === "phx_reply" && topic === sent.topic && ref === sent.ref,
  matches: (received) => {
    const reply = replyOf(received)
    return (status === undefined || reply.status === status) && fitsGiven(given, reply.payload)
  },
  describe
})

export const broadcastOn = (channel: Seen, event: string, ...given: Given): Claim<Message.Broadcast> => ({
  socket: channel.socket,
  what: `broadcast of ${event} on ${channel.topic}${matching(given)}`,
  given,
  expected: { event, payload: given[0] },
  among: channel.broadcasts,
  resembles: (broadcast) => broadcast.event === event,
  matches: ({ payload }) => fitsGiven(given, payload),
  describe: ({ event, payload }) => ({ event, payload }),
  broadcasts: channel.broadcasts
})

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

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

const matching = (given: Given): string => {
  if (given.length === 0) return ""
  return typeof given[0] === "function" ? " that the test accepts" : ` with ${show(given[0])}`
}

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
  for (const { line, process } of crashesOf(socket)) {
    // The test is told of it here.
    socket.excused.add(process)
    lines.push(line)
  }
  return lines.join("\n")
}
