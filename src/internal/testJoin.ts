import { Cause, Data, Effect } from "effect"
import * as Message from "../Message.ts"
import type * as Process from "../Process.ts"
import * as PubSub from "../PubSub.ts"
import { replyOf, replyTo, type Seen, take } from "./assertions.ts"
import { matches } from "./contract.ts"
import { fits } from "./expectation.ts"
import type { TestSocket } from "./testClient.ts"
import { fail, type Site } from "./testRest.ts"

export class JoinError extends Data.TaggedError("JoinError")<{
  readonly code: "refused" | "crashed" | "unmatched_topic" | "too_many_channels"
  readonly topic: string
  readonly response: unknown
  readonly message: string
  readonly cause?: unknown
}> {}

/** What a channel has to say about its contract. */
export interface Contracted<out C> {
  readonly topic: string
  readonly contract: C
}

/** A joined channel. */
export interface Joined<out C> extends Seen {
  readonly socket: TestSocket
  readonly topic: string
  readonly contract: C
  readonly joinRef: string
  readonly reply: unknown
  /** The channel's process: `Process.send` it what `handleInfo` is to get; `Process.awaitExit` tells why it has ended. */
  readonly pid: Process.Pid<unknown>
  /** Broadcasts on the topic that were not asserted yet; only after `subscribeAndJoin`. */
  readonly broadcasts: Array<Message.Broadcast>
  /** @internal */
  readonly subscribed: boolean
}

/** What `join` is called with. */
export type Arguments =
  | readonly [channel: Contracted<unknown>, topic: string, payload?: unknown]
  | readonly [topic: string, payload?: unknown]

interface Request {
  readonly channel: Contracted<unknown> | undefined
  readonly topic: string
  readonly payload: unknown
}

export const requestOf = (args: Arguments): Request => {
  const [channel, topic, payload = {}] = withoutChannel(args) ? [undefined, ...args] as const : args
  return { channel, topic, payload }
}

const withoutChannel = (args: Arguments): args is readonly [topic: string, payload?: unknown] =>
  typeof args[0] === "string"

export const join = (
  site: Site,
  socket: TestSocket,
  { channel, payload, topic }: Request,
  broadcasts?: Array<Message.Broadcast>
): Effect.Effect<Joined<unknown>, JoinError> =>
  Effect.gen(function*() {
    const joinRef = socket.nextRef()
    socket.send(joinRef, joinRef, topic, "phx_join", payload)
    const reply = yield* take(site, replyTo({ socket, topic, ref: joinRef }, undefined))
    const { payload: response, status } = replyOf(reply)
    const served = socket.opened.get(joinRef)
    if (status !== "ok" || served === undefined) {
      // The test gets the crash, if it is one, as the error of its join.
      if (served !== undefined) socket.excused.add(served.process)
      return yield* site.mark(joinError(topic, response, served?.process.reason))
    }
    const { pattern } = served.definition
    if (channel !== undefined && pattern !== channel.topic) {
      const message = `${topic} is served by the channel ${pattern}, not by ${channel.topic}`
      return yield* fail(site, message, channel.topic, pattern)
    }
    return {
      socket,
      topic,
      contract: channel?.contract ?? {},
      joinRef,
      reply: response,
      pid: served.pid,
      broadcasts: broadcasts ?? [],
      subscribed: broadcasts !== undefined
    }
  })

export const subscribeAndJoin = (
  site: Site,
  socket: TestSocket,
  request: Request
): Effect.Effect<Joined<unknown>, JoinError, PubSub.PubSub> =>
  PubSub.PubSub.use((pubsub) =>
    Effect.gen(function*() {
      const broadcasts: Array<Message.Broadcast> = []
      const deliver = (message: unknown) => {
        if (Message.isBroadcast(message)) broadcasts.push(message)
      }
      const served = socket.server.runtime.routes.find(({ definition }) => matches(definition.pattern, request.topic))
      const topic = served?.definition.pubsubTopicOf(request.topic) ?? request.topic
      const subscription = yield* pubsub.subscribe(topic, { pid: socket.server.pid, deliver })
      return yield* Effect.onError(join(site, socket, request, broadcasts), () => pubsub.unsubscribe(subscription))
    })
  )

const joinError = (topic: string, response: unknown, reason: Process.ExitReason | undefined): JoinError => {
  const told = `the client is told ${JSON.stringify(response)}`
  if (reason?._tag === "Crash" || reason?._tag === "Killed") {
    const cause = reason._tag === "Crash" ? { cause: Cause.squash(reason.cause) } : {}
    return new JoinError({
      code: "crashed",
      topic,
      response,
      message: `the join of ${topic} crashed; ${told}`,
      ...cause
    })
  }
  const code = reason !== undefined ? "refused" : codeOf(response)
  return new JoinError({ code, topic, response, message: `the join of ${topic} was refused; ${told}` })
}

/** What the connection says where there is no channel. */
const codeOf = (response: unknown): JoinError["code"] => {
  if (fits({ reason: "unmatched topic" }, response)) return "unmatched_topic"
  return fits({ reason: "too many channels joined" }, response) ? "too_many_channels" : "refused"
}
