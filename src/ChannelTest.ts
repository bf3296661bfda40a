/**
 * Tests of channels without a server: the test plays the client.
 *
 * Connections, channels, serializers and PubSub are the real ones; only the wire is missing. Under `it.effect` time stands
 * still until the test moves it with `TestClock.adjust`, and every assertion first lets all processes come to rest, so that
 * "was not sent" is a fact and needs no waiting.
 *
 * The model is Phoenix.ChannelTest (https://hexdocs.pm/phoenix/Phoenix.ChannelTest.html).
 *
 * @example
 * ```ts
 * import { it } from "@effect/vitest"
 * import { Effect, Layer } from "effect"
 * import { Channel, ChannelTest, Socket } from "effect-channels"
 *
 * const Lobby = Channel.make("lobby")
 * const LobbyLive = Lobby.layer((lobby) =>
 *   Effect.succeed({ handleIn: (_event, payload) => Effect.as(lobby.broadcast("shout", payload), Channel.ok()) })
 * )
 * const UserSocket = Socket.make("user_socket", { channels: [Lobby] })
 * const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))
 * const TestLive = Layer.mergeAll(LobbyLive, UserSocketLive).pipe(Layer.provideMerge(ChannelTest.layer))
 *
 * it.effect("broadcasts what it is sent", () =>
 *   Effect.gen(function*() {
 *     const socket = yield* ChannelTest.connect(UserSocket)
 *     const lobby = yield* ChannelTest.subscribeAndJoin(socket, Lobby, "lobby")
 *     const ref = yield* ChannelTest.push(lobby, "shout", { body: "hello" })
 *     yield* ChannelTest.assertReply(ref, "ok")
 *     yield* ChannelTest.assertBroadcast(lobby, "shout", { body: "hello" })
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
import { Clock, Data, Effect, Formatter, Layer, Scheduler, type Scope } from "effect"
import type { SocketServer } from "./internal/socket.ts"
import { decode, encode, type Received, TrackingScheduler } from "./internal/testClient.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Serializer from "./Serializer.ts"
import * as Socket from "./Socket.ts"

/** The node of a test: as `PubSub.layer`, and it knows when all work is done. */
export const layer: Layer.Layer<PubSub.PubSub | Process.System> = PubSub.layer.pipe(
  Layer.provide(
    Layer.effect(Scheduler.Scheduler, Effect.map(Scheduler.Scheduler, (scheduler) => new TrackingScheduler(scheduler)))
  ),
  Layer.fresh
)

/** An assertion does not hold; `actual` is what there is instead. */
export class AssertionError extends Data.TaggedError("AssertionError")<{
  readonly message: string
  readonly expected: unknown
  readonly actual: unknown
}> {}

/** A join was refused, or crashed; `response` is what the client is told. */
export class JoinError extends Data.TaggedError("JoinError")<{ readonly response: unknown }> {}

/** A connected client, made by {@link connect}. */
export class TestSocket {
  /** The id that `connect` gave the socket. */
  readonly id: string | undefined
  /** What has arrived and was not asserted yet, oldest first. */
  readonly received: Array<Received> = []
  /** The code with which the server has closed the connection. */
  closeCode: number | undefined = undefined
  /** @internal */
  readonly server: SocketServer
  private lastRef = 0

  /** @internal */
  constructor(id: string | undefined, open: (socket: TestSocket) => SocketServer) {
    this.id = id
    this.server = open(this)
  }

  /** @internal */
  nextRef(): string {
    return String(++this.lastRef)
  }
}

/** A joined channel, as its client sees it; made by {@link join} and {@link subscribeAndJoin}. */
export interface TestChannel {
  readonly socket: TestSocket
  readonly topic: string
  readonly joinRef: string
  /** The payload of the join reply. */
  readonly reply: unknown
  /** The channel's process: send it what `handleInfo` is to get, or wait for its end. */
  readonly pid: Process.Pid<unknown>
  /** Broadcasts on the topic that were not asserted yet; only after {@link subscribeAndJoin}. */
  readonly broadcasts: Array<Message.Broadcast>
  /** @internal */
  readonly subscribed: boolean
}

/** A message that was sent to a channel; its reply is asserted by {@link assertReply}. */
export interface PushRef {
  readonly socket: TestSocket
  readonly topic: string
  readonly ref: string
}

/**
 * What is expected of a payload: a value of which every part must be there (objects may have more keys), or a function
 * that says whether it will do.
 */
export type Expected = unknown

/**
 * Connects a client, running the socket's `connect`.
 *
 * @param params - query parameters of the connection; `vsn` is that of V2
 * @param info - more about the client, as far as `connect` looks at it
 */
export const connect = <Name extends string, Channels extends ReadonlyArray<Socket.AnyChannel>>(
  socket: Socket.Socket<Name, Channels>,
  params: { readonly [name: string]: unknown } = {},
  info: Partial<Omit<Socket.ConnectInfo, "params">> = {}
): Effect.Effect<
  TestSocket,
  Socket.Refused,
  Socket.Handler<Name> | Socket.ChannelHandlers<Channels> | PubSub.PubSub | Process.System | Scope.Scope
> =>
  Effect.gen(function*() {
    const acceptor = yield* Socket.acceptor(socket)
    const client = yield* acceptor.connect({
      params: { vsn: "2.0.0", ...params },
      transport: "test",
      headers: {},
      uri: "/",
      remoteAddress: undefined,
      ...info
    })
    return new TestSocket(client.id, (self) => {
      const transport = {
        name: "test",
        // What is written to a closed connection goes nowhere.
        send: (frame: Serializer.Frame) => {
          if (self.closeCode === undefined) self.received.push(decode(frame))
        },
        close: (code: number) => {
          self.closeCode ??= code
        }
      }
      return acceptor.open(transport, Serializer.v2, client)
    })
  })

/**
 * Joins a topic.
 *
 * @param channel - the channel that is expected to serve the topic
 * @param payload - default `{}`
 */
export const join = (
  socket: TestSocket,
  channel: Socket.AnyChannel,
  topic: string,
  payload: unknown = {}
): Effect.Effect<TestChannel, JoinError> =>
  Effect.gen(function*() {
    const joinRef = socket.nextRef()
    socket.server.receive(encode(joinRef, joinRef, topic, "phx_join", payload))
    const { payload: response, status } = yield* takeReply({ socket, topic, ref: joinRef })
    const server = socket.server.channels.get(topic)
    if (status !== "ok" || server === undefined) return yield* new JoinError({ response })
    if (server.definition.pattern !== channel.topic) {
      return yield* fail(`${topic} is served by another channel`, channel.topic, server.definition.pattern)
    }
    const broadcasts: Array<Message.Broadcast> = []
    return { socket, topic, joinRef, reply: response, pid: server.pid, broadcasts, subscribed: false }
  })

/** As {@link join}; the test also gets the topic's broadcasts, for {@link assertBroadcast}. */
export const subscribeAndJoin = (
  socket: TestSocket,
  channel: Socket.AnyChannel,
  topic: string,
  payload: unknown = {}
): Effect.Effect<TestChannel, JoinError, PubSub.PubSub> =>
  Effect.gen(function*() {
    const joined = yield* join(socket, channel, topic, payload)
    const pubsub = yield* PubSub.PubSub
    yield* pubsub.subscribe(topic, {
      pid: socket.server.pid,
      deliver: (message) => {
        if (Message.isBroadcast(message)) joined.broadcasts.push(message)
      }
    })
    return { ...joined, subscribed: true }
  })

/**
 * Sends an event to a channel, as its client does.
 *
 * @param payload - JSON, or a `Uint8Array`; default `{}`
 */
export const push = (channel: TestChannel, event: string, payload: unknown = {}): Effect.Effect<PushRef> =>
  Effect.sync(() => {
    const ref = channel.socket.nextRef()
    channel.socket.server.receive(encode(channel.joinRef, ref, channel.topic, event, payload))
    return { socket: channel.socket, topic: channel.topic, ref }
  })

/** Broadcasts to the topic as another member would: the client of `channel` gets it, the test's own subscription does not. */
export const broadcastFrom = (
  channel: TestChannel,
  event: string,
  payload: unknown = {}
): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> =>
  PubSub.broadcastFrom(channel.socket.server.pid, channel.topic, Message.broadcast(channel.topic, event, payload))

/** Leaves the topic, as the client does; the reply is `ok`, then the client gets `phx_close`. */
export const leave = (channel: TestChannel): Effect.Effect<PushRef> => push(channel, "phx_leave")

/** Ends the channel as if its connection had closed, and waits until it has ended. */
export const close = (channel: TestChannel): Effect.Effect<void> =>
  Process.shutdownChild(Process.fromPid(channel.pid), Process.shutdown("closed"))

/** The connection drops, and with it all its channels. */
export const drop = (socket: TestSocket): Effect.Effect<void> =>
  Effect.suspend(() => {
    socket.server.closed(Process.shutdown("peer_closed"))
    return settlingSocket(socket)
  })

/** Waits until all processes have handled what they were sent; time does not pass. */
export const settle: Effect.Effect<void, never, Process.System> = Process.System.use((system) => settling(system))

/**
 * Asserts that the client was sent an event on the channel's topic, by a push or a broadcast.
 *
 * @returns its payload; it does not count for later assertions
 */
export const assertPush = (channel: TestChannel, event: string, expected?: Expected): Effect.Effect<unknown> =>
  Effect.map(
    take(channel.socket, `push of ${event}`, expected, () => findPush(channel, event, expected)),
    (received) => received.payload
  )

/** Asserts that the client was not sent an event (with such a payload), nor will be before time passes. */
export const refutePush = (channel: TestChannel, event: string, expected?: Expected): Effect.Effect<void> =>
  refute(channel.socket, `push of ${event}`, () => findPush(channel, event, expected))

/**
 * Asserts that a message was answered with this status.
 *
 * @returns the payload of the reply
 */
export const assertReply = (push: PushRef, status: string, expected?: Expected): Effect.Effect<unknown> =>
  Effect.map(
    take(push.socket, `reply ${status} to ${push.ref}`, expected, () => findReply(push, status, expected)),
    (received) => replyOf(received).payload
  )

/** Asserts that a message was not answered with this status, nor will be before time passes. */
export const refuteReply = (push: PushRef, status: string, expected?: Expected): Effect.Effect<void> =>
  refute(push.socket, `reply ${status} to ${push.ref}`, () => findReply(push, status, expected))

/**
 * Asserts that there was a broadcast on the channel's topic, whoever sent it; after {@link subscribeAndJoin}.
 *
 * @returns its payload
 */
export const assertBroadcast = (channel: TestChannel, event: string, expected?: Expected): Effect.Effect<unknown> =>
  Effect.gen(function*() {
    yield* assertSubscribed(channel)
    const found = yield* eventually(channel.socket, () => findBroadcast(channel, event, expected))
    if (found === undefined) return yield* fail(`no broadcast of ${event}`, expected ?? event, channel.broadcasts)
    channel.broadcasts.splice(channel.broadcasts.indexOf(found), 1)
    return found.payload
  })

/** Asserts that there was no such broadcast on the channel's topic, nor will be before time passes. */
export const refuteBroadcast = (channel: TestChannel, event: string, expected?: Expected): Effect.Effect<void> =>
  Effect.andThen(
    assertSubscribed(channel),
    refute(channel.socket, `broadcast of ${event}`, () => findBroadcast(channel, event, expected))
  )

/** Asserts that the server has closed the connection with this code, such as 1001 after `Endpoint.disconnect`. */
export const assertDisconnected = (socket: TestSocket, code: number): Effect.Effect<void> =>
  Effect.gen(function*() {
    const actual = yield* eventually(socket, () => socket.closeCode)
    if (actual !== code) return yield* fail("the connection was not closed like that", code, actual)
  })

// ----------------------------------------------------------------------------------------------------------------------

/** Processes that are still at work after so many milliseconds of real time go round in circles. */
const patience = 2000

const realClock = Clock.Clock.defaultValue()

const settling = (system: Process.System["Service"]): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { scheduler } = system
    if (!(scheduler instanceof TrackingScheduler)) {
      return fail("provide ChannelTest.layer in place of PubSub.layer", "ChannelTest.layer", "another layer")
    }
    if (scheduler.pending === 0) return Effect.void
    const deadline = realClock.currentTimeMillisUnsafe() + patience
    return Effect.whileLoop({
      while: () => scheduler.pending > 0,
      body: () =>
        realClock.currentTimeMillisUnsafe() < deadline
          ? Effect.yieldNow
          : fail("the processes do not come to rest", "rest", `still at work after ${patience} ms`),
      step: () => {}
    })
  })

const assertSubscribed = (channel: TestChannel): Effect.Effect<void> =>
  channel.subscribed
    ? Effect.void
    : fail("broadcasts are seen after subscribeAndJoin only", "subscribeAndJoin", "join")

const settlingSocket = (socket: TestSocket): Effect.Effect<void> => settling(socket.server.process.system)

/** How long a failing assertion waits, in real time, for promises and other work that no scheduler knows of. */
const grace = Effect.sleep("1 second").pipe(
  Effect.provideService(Clock.Clock, realClock)
)

/** What `find` finds, once all is at rest; looks again for a while where it finds nothing. */
const eventually = <A>(socket: TestSocket, find: () => A | undefined): Effect.Effect<A | undefined> =>
  Effect.suspend(() => {
    let found: A | undefined
    const look = Effect.andThen(settlingSocket(socket), Effect.sync(() => found = find()))
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

const take = (
  socket: TestSocket,
  what: string,
  expected: Expected,
  find: () => Received | undefined
): Effect.Effect<Received> =>
  Effect.gen(function*() {
    const found = yield* eventually(socket, find)
    if (found === undefined) return yield* fail(`no ${what}`, expected, socket.received)
    socket.received.splice(socket.received.indexOf(found), 1)
    return found
  })

const takeReply = (push: PushRef): Effect.Effect<{ readonly status: unknown; readonly payload: unknown }> =>
  Effect.map(
    take(push.socket, `reply to ${push.ref}`, "a reply", () =>
      push.socket.received.find((received) =>
        isReply(push, received)
      )),
    replyOf
  )

const refute = <A>(socket: TestSocket, what: string, find: () => A | undefined): Effect.Effect<void> =>
  Effect.gen(function*() {
    yield* settlingSocket(socket)
    const found = find()
    if (found !== undefined) return yield* fail(`unexpected ${what}`, undefined, found)
  })

const fail = (message: string, expected: unknown, actual: unknown): Effect.Effect<never> =>
  Effect.die(new AssertionError({ message: `${message}; got ${Formatter.format(actual)}`, expected, actual }))

const findPush = (channel: TestChannel, event: string, expected: Expected): Received | undefined =>
  channel.socket.received.find((received) =>
    received.topic === channel.topic && received.event === event && fits(expected, received.payload)
  )

const findReply = (push: PushRef, status: string, expected: Expected): Received | undefined =>
  push.socket.received.find((received) => {
    if (!isReply(push, received)) return false
    const reply = replyOf(received)
    return reply.status === status && fits(expected, reply.payload)
  })

const findBroadcast = (channel: TestChannel, event: string, expected: Expected): Message.Broadcast | undefined =>
  channel.broadcasts.find((broadcast) => broadcast.event === event && fits(expected, broadcast.payload))

const isReply = (push: PushRef, received: Received): boolean =>
  received.event === "phx_reply" && received.topic === push.topic && received.ref === push.ref

const replyOf = (received: Received): { readonly status: unknown; readonly payload: unknown } => {
  if (received.status !== undefined) return { status: received.status, payload: received.payload }
  const { payload } = received
  const { response, status } = isRecord(payload) ? payload : {}
  return { status, payload: response }
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null

/** Whether every part of what is expected is there. */
const fits = (expected: Expected, actual: unknown): boolean => {
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
