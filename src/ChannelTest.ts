/**
 * Tests of channels without a server: the test plays the client.
 *
 * Connections, channels, serializers and PubSub are the real ones; only the wire is missing. Under `it.effect` time stands
 * still until the test moves it with `TestClock.adjust`, and every assertion first lets all processes come to rest, so that
 * "was not sent" is a fact and needs no waiting.
 *
 * The model is Phoenix.ChannelTest (https://hexdocs.pm/phoenix/Phoenix.ChannelTest.html). What differs: the connection is a
 * real one, so limits, duplicate joins and stale refs are too; payloads are what travels, JSON or bytes; a channel that
 * crashes does not end the test, but makes it fail at its end, unless the test expects the crash ({@link assertCrashed}).
 *
 * The examples on this page test this chat:
 *
 * @example
 * ```ts file=chat.ts
 * import { Context, Effect, Layer, Schema } from "effect"
 * import { Channel, ChannelTest, Socket } from "effect-channels"
 *
 * export class CurrentUser extends Context.Service<CurrentUser, { readonly id: string }>()("chat/CurrentUser") {}
 *
 * export const Room = Channel.make("room:*", {
 *   assigns: CurrentUser,
 *   join: { success: Schema.Struct({ you: Schema.String }), error: Schema.Struct({ reason: Schema.String }) },
 *   incoming: {
 *     say: { payload: Schema.Struct({ body: Schema.String }), success: Schema.Struct({ length: Schema.Finite }) },
 *     typing: {},
 *     remind: {}
 *   },
 *   outgoing: {
 *     said: Schema.Struct({ body: Schema.String }),
 *     typing: Schema.Struct({ user: Schema.String }),
 *     reminder: Schema.Struct({})
 *   }
 * })
 *
 * const RoomLive = Room.layer((room) =>
 *   Effect.gen(function*() {
 *     const { id } = yield* CurrentUser
 *     if (room.topic === "room:secret") return yield* Effect.fail({ reason: "members only" })
 *     return {
 *       reply: { you: id },
 *       handleIn: {
 *         say: ({ body }) =>
 *           body === "/crash"
 *             ? Effect.die(new Error("crashed as told"))
 *             : Effect.as(room.broadcast("said", { body }), { length: body.length }),
 *         typing: () => room.broadcastFrom("typing", { user: id }),
 *         remind: () => Effect.asVoid(room.sendAfter("remind", "1 minute"))
 *       },
 *       handleInfo: () => room.push("reminder", {})
 *     }
 *   })
 * )
 *
 * export const UserSocket = Socket.make("user_socket", { channels: [Room] })
 * const UserSocketLive = UserSocket.layer(({ params: { user } }) =>
 *   typeof user === "string"
 *     ? Effect.succeed(Socket.accept({ id: `user_socket:${user}`, assigns: Context.make(CurrentUser, { id: user }) }))
 *     : Effect.fail(Socket.refuse("who are you?"))
 * )
 *
 * export const TestLive = Layer.mergeAll(RoomLive, UserSocketLive).pipe(Layer.provideMerge(ChannelTest.layer))
 *
 * export const enter = Effect.fnUntraced(function*(user: string) {
 *   return yield* ChannelTest.subscribeAndJoin(yield* ChannelTest.connect(UserSocket, { user }), Room, "room:1")
 * })
 * ```
 *
 * @example
 * ```ts file=chat.test.ts
 * import { describe, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * describe("a room", () => {
 *   it.effect("tells everybody what is said, and the sender that it was heard", () =>
 *     Effect.gen(function*() {
 *       const ada = yield* enter("ada")
 *       const grace = yield* enter("grace")
 *       const ref = yield* ChannelTest.push(ada, "say", { body: "hello" })
 *       yield* ChannelTest.assertReply(ref, "ok", { length: 5 })
 *       yield* ChannelTest.assertBroadcast(ada, "said", { body: "hello" })
 *       yield* ChannelTest.assertPush(grace, "said", { body: "hello" })
 *     }).pipe(Effect.provide(TestLive)))
 * })
 * ```
 */
import { Clock, Context, type Duration, Effect, Layer, Scheduler, type Scope } from "effect"
import * as assertions from "./internal/assertions.ts"
import { ConnectionEnded } from "./internal/channelMessage.ts"
import { erase } from "./internal/erase.ts"
import * as client from "./internal/testClient.ts"
import * as joining from "./internal/testJoin.ts"
import * as rest from "./internal/testRest.ts"
import type * as Wire from "./internal/wire.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Serializer from "./Serializer.ts"
import * as Socket from "./Socket.ts"

/**
 * The node of a test: `PubSub.layer` that knows when all work is done.
 *
 * Provide it below the layers of channels and socket, and to each test on its own (`Effect.provide(TestLive)`): then every
 * test has processes and topics of its own. Phoenix starts these with the application and shares them.
 *
 * @example
 * ```ts file=layer.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { PubSub } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("gives every test a node of its own", () =>
 *   Effect.gen(function*() {
 *     yield* enter("ada")
 *     assert.deepStrictEqual((yield* PubSub.PubSub).topics(), ["user_socket:ada", "room:1"])
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const layer: Layer.Layer<PubSub.PubSub | Process.System> = Layer.unwrap(
  Effect.gen(function*() {
    const outer = yield* Scheduler.Scheduler
    const scheduler = new client.TrackingScheduler(outer)
    // Released before the node is, so that what was sent is still handled. Waiting for that is no work of the node.
    const end = Effect.flatMap(
      Process.System,
      (system) =>
        Effect.addFinalizer((exit) =>
          exit._tag === "Failure"
            ? Effect.void
            : Effect.provideService(rest.closing(system), Scheduler.Scheduler, outer)
        )
    )
    return Layer.effectDiscard(end).pipe(
      Layer.provideMerge(PubSub.layer),
      Layer.provide(Layer.succeed(Scheduler.Scheduler, scheduler)),
      // For all that is built on this layer as well, so that it is known who sleeps.
      Layer.provideMerge(Layer.succeed(Clock.Clock, scheduler.watching(yield* Clock.Clock)))
    )
  })
).pipe(Layer.fresh)

/**
 * An assertion does not hold: always a defect.
 *
 * Its message says what there is instead, and which channels have crashed why. `expected` and `actual` are what a test
 * runner shows the difference of; `actual` is the message that comes closest, or else all that is there.
 */
export const AssertionError = rest.AssertionError
/** The type of {@link AssertionError}. */
export type AssertionError = rest.AssertionError

/**
 * The client could not join.
 *
 * - `refused`: by the channel.
 * - `crashed`: the channel crashed; `cause` is the error.
 * - `unmatched_topic`: no channel of the socket serves the topic.
 * - `too_many_channels`: the connection has as many as the socket's `maxChannels` lets it.
 *
 * `response` is what the client is told.
 */
export const JoinError = joining.JoinError
/** The type of {@link JoinError}. */
export type JoinError = joining.JoinError

/** A connected client, made by {@link connect} and {@link socket}. */
export interface TestSocket extends client.TestSocket {}

/**
 * A joined channel, as its client sees it; made by {@link join} and {@link subscribeAndJoin}.
 *
 * `C` is the channel's contract, such as `typeof Room.contract`: it says which events and payloads can be sent and expected.
 * Without it any can; every channel passes for one without.
 */
export interface TestChannel<out C = {}> extends joining.Joined<C> {
  /** The payload of the join reply. */
  readonly reply: Wire.JoinReply<C>
}

/** A message that was sent to a channel; {@link assertReply} looks at its answer. */
export interface PushRef<out Ok = unknown> {
  readonly socket: TestSocket
  readonly topic: string
  readonly ref: string
  /** The type of the payload of an `ok` reply. */
  readonly "~ok"?: Ok
}

/**
 * What is expected of a payload: a value of which every part must be there (objects may have more keys, arrays not more
 * items), or a function that returns whether it will do.
 *
 * Values are compared as JSON, which is what travels: an instance of a class, such as a `Date`, is the plain data that it
 * becomes, and bytes are equal to bytes only. A key that is expected to be `undefined` must be absent. What no payload can
 * be compared with makes the assertion fail, and a refutation too: `undefined` as a whole, an `Effect`, a promise, a class,
 * a regular expression, an instance without data, and a function that returns neither true nor false.
 */
export type Expected<A = unknown> = Wire.Part<A> | ((actual: A) => boolean)

/** More about a client that connects; what is left out is that of a plain WebSocket client on this machine. */
export interface ClientInfo extends Partial<Omit<Socket.ConnectInfo, "params" | "uri" | "peerData">> {
  readonly uri?: Partial<Socket.Uri>
  readonly peerData?: Partial<Socket.PeerData>
}

/** What a bare socket is made of: the assigns that all its channels ask for, as `connect` would supply them. */
export type Bare<Channels extends ReadonlyArray<Socket.AnyChannel>> =
  & { readonly id?: string | undefined }
  & ([Socket.Assigns<Channels>] extends [never] ? { readonly assigns?: undefined }
    : { readonly assigns: Context.Context<Socket.Assigns<Channels>> })

/** What a connection needs, `connect` apart. */
type Services<Channels extends ReadonlyArray<Socket.AnyChannel>> =
  | Socket.ChannelHandlers<Channels>
  | PubSub.PubSub
  | Process.System
  | Scope.Scope

// --- clients ----------------------------------------------------------------------------------------------------------

/**
 * Connects a client, running the socket's `connect`. The connection ends with the test.
 *
 * Fails with the `Socket.Refused` of `connect`, or of a `vsn` that the socket does not speak. The client speaks V2, with
 * `vsn: "1.0.0"` V1; in place of a serializer of your own it speaks V2. Phoenix: `connect/3`.
 *
 * @example
 * ```ts file=connect.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Endpoint } from "effect-channels"
 * import { TestLive, UserSocket } from "./chat.ts"
 *
 * it.effect("names the connection after its user", () =>
 *   Effect.gen(function*() {
 *     const phone = yield* ChannelTest.connect(UserSocket, { user: "ada" }, { userAgent: "phone" })
 *     const old = yield* ChannelTest.connect(UserSocket, { user: "ada", vsn: "1.0.0" })
 *     assert.deepStrictEqual([phone.id, old.id], ["user_socket:ada", "user_socket:ada"])
 *     yield* Endpoint.disconnect("user_socket:ada")
 *     yield* ChannelTest.assertDisconnected(phone)
 *     yield* ChannelTest.assertDisconnected(old)
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param params - query parameters of the connection; default `vsn: "2.0.0"`
 * @param info - more about the client, as far as `connect` looks at it
 */
export const connect = <Name extends string, Channels extends ReadonlyArray<Socket.AnyChannel>>(
  socket: Socket.Socket<Name, Channels>,
  params: { readonly [name: string]: unknown } = {},
  info: ClientInfo = {}
): Effect.Effect<TestSocket, Socket.Refused, Socket.Handler<Name> | Services<Channels>> =>
  Effect.gen(function*() {
    const acceptor = yield* Socket.acceptor(socket)
    const { vsn = "2.0.0" } = params
    const serializer = Serializer.negotiate(socket.serializers, vsn)
    if (serializer === undefined && params["vsn"] !== undefined) {
      return yield* Socket.refuse(`no serializer speaks vsn ${String(vsn)}`)
    }
    const accepted = yield* acceptor.connect({
      transport: "test",
      headers: {},
      userAgent: info.headers?.["user-agent"],
      session: undefined,
      authToken: undefined,
      custom: {},
      ...info,
      params: { vsn, ...params },
      uri: { scheme: "http", host: "localhost", port: 80, path: "/socket/websocket", query: "", ...info.uri },
      peerData: { address: "127.0.0.1", port: 50_000, sslCert: undefined, ...info.peerData }
    })
    return yield* alive(acceptor, serializer ?? Serializer.v2, accepted)
  })

/** A client that lives as long as its scope; the test knows by then what has crashed. */
const alive = (
  ...args: ConstructorParameters<typeof client.TestSocket>
): Effect.Effect<TestSocket, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => new client.TestSocket(...args)),
    (socket, exit) => exit._tag === "Success" ? rest.leaving(socket) : Effect.void
  )

/**
 * Connects a client without running the socket's `connect`: for tests of channels alone. The layer of the socket is not
 * needed.
 *
 * Phoenix: `socket/3`.
 *
 * @example
 * ```ts file=socket.test.ts
 * import { it } from "@effect/vitest"
 * import { Context, Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { CurrentUser, Room, TestLive, UserSocket } from "./chat.ts"
 *
 * it.effect("a channel without the socket's connect", () =>
 *   Effect.gen(function*() {
 *     const ada = yield* ChannelTest.socket(UserSocket, { id: "ada", assigns: Context.make(CurrentUser, { id: "ada" }) })
 *     yield* ChannelTest.join(ada, Room, "room:1")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param options - `id`: as for `Socket.accept`; `assigns`: the services that its channels ask for
 */
export const socket = <Name extends string, Channels extends ReadonlyArray<Socket.AnyChannel>>(
  socket: Socket.Socket<Name, Channels>,
  ...options: Wire.LastParameter<Bare<Channels>>
): Effect.Effect<TestSocket, never, Services<Channels>> => {
  // The type of the options asks for the assigns exactly when there are some.
  const accepted = Socket.accept(
    erase<{ readonly id?: string; readonly assigns: Context.Context<never> }>(options[0] ?? {})
  )
  return Effect.updateContext<TestSocket, never, Socket.Handler<Name> | Services<Channels>, Services<Channels>>(
    Effect.flatMap(Socket.acceptor(socket), (acceptor) => alive(acceptor, Serializer.v2, accepted)),
    (context) => Context.add(context, socket.handler, () => Effect.succeed(accepted))
  )
}

/**
 * Joins a topic.
 *
 * With a channel, its contract types payload, reply and all that follows; it is an {@link AssertionError} if another channel
 * of the socket serves the topic. Without one the socket's routes decide and any payload goes, for tests of what is not
 * allowed. Fails with {@link JoinError}. A join that sleeps has to be forked, so that the test can move the clock.
 *
 * A topic that is joined already is joined anew, as on a real connection: the old channel ends with
 * `Process.shutdown("duplicate_join")`, and what is sent to it is dropped. Phoenix: `join/4`.
 *
 * @example
 * ```ts file=join.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { Room, TestLive, UserSocket } from "./chat.ts"
 *
 * it.effect("is refused where only members are let in", () =>
 *   Effect.gen(function*() {
 *     const socket = yield* ChannelTest.connect(UserSocket, { user: "ada" })
 *     const room = yield* ChannelTest.join(socket, Room, "room:1")
 *     assert.strictEqual(room.reply.you, "ada")
 *     const refused = yield* Effect.flip(ChannelTest.join(socket, "room:secret"))
 *     assert.strictEqual(refused.code, "refused")
 *     assert.deepStrictEqual(refused.response, { reason: "members only" })
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param channel - the channel that is expected to serve the topic
 * @param payload - JSON, or a `Uint8Array`; default `{}`, where the contract asks for nothing more
 */
export const join: {
  (socket: TestSocket, topic: string, payload?: unknown): Effect.Effect<TestChannel, JoinError>
  <C>(
    socket: TestSocket,
    channel: joining.Contracted<C>,
    topic: string,
    ...payload: Wire.LastParameter<Wire.JoinPayload<C>>
  ): Effect.Effect<TestChannel<C>, JoinError>
  // What is known of the contract is for the compiler alone.
} = erase((socket: TestSocket, ...args: joining.Arguments) =>
  joining.join(new rest.Site(join), socket, joining.requestOf(args))
)

/**
 * As {@link join}; the test also gets the topic's broadcasts, from before the join on, for {@link assertBroadcast}.
 *
 * Phoenix: `subscribe_and_join/4`.
 *
 * @example
 * ```ts file=subscribeAndJoin.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { Room, TestLive, UserSocket } from "./chat.ts"
 *
 * it.effect("sees what is broadcast, not only what this client is sent", () =>
 *   Effect.gen(function*() {
 *     const socket = yield* ChannelTest.connect(UserSocket, { user: "ada" })
 *     const room = yield* ChannelTest.subscribeAndJoin(socket, Room, "room:1")
 *     yield* ChannelTest.push(room, "typing")
 *     yield* ChannelTest.assertBroadcast(room, "typing", { user: "ada" })
 *     yield* ChannelTest.refutePush(room, "typing")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const subscribeAndJoin: {
  (socket: TestSocket, topic: string, payload?: unknown): Effect.Effect<TestChannel, JoinError, PubSub.PubSub>
  <C>(
    socket: TestSocket,
    channel: joining.Contracted<C>,
    topic: string,
    ...payload: Wire.LastParameter<Wire.JoinPayload<C>>
  ): Effect.Effect<TestChannel<C>, JoinError, PubSub.PubSub>
  // As with `join`.
} = erase((socket: TestSocket, ...args: joining.Arguments) =>
  joining.subscribeAndJoin(new rest.Site(subscribeAndJoin), socket, joining.requestOf(args))
)

// --- messages ---------------------------------------------------------------------------------------------------------

/**
 * The same channel without what its contract says to the compiler: to send what a client should not.
 *
 * Phoenix has no such thing, as nothing is typed there.
 *
 * @example
 * ```ts file=untyped.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("refuses what its contract does not allow, and goes on", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     const ref = yield* ChannelTest.push(ChannelTest.untyped(room), "say", { body: 7 })
 *     yield* ChannelTest.assertReply(ref, "error", { reason: "invalid payload", errors: [{ path: ["body"] }] })
 *     yield* ChannelTest.assertReply(yield* ChannelTest.push(room, "say", { body: "7" }), "ok")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const untyped = (channel: TestChannel): TestChannel => channel

/**
 * Sends an event to a channel, as its client does.
 *
 * Harmless when the channel has ended: the reply is then `error` with `unmatched topic`, or none if the topic was joined
 * anew. Phoenix: `push/3`.
 *
 * @example
 * ```ts file=push.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("is answered", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     const first = yield* ChannelTest.push(room, "say", { body: "one" })
 *     const second = yield* ChannelTest.push(room, "say", { body: "four" })
 *     yield* ChannelTest.assertReply(second, "ok", { length: 4 })
 *     yield* ChannelTest.assertReply(first, "ok", { length: 3 })
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param payload - JSON, or a `Uint8Array` for a binary frame (which V1 does not have); default `{}`, where the contract asks
 *   for nothing more
 * @returns what {@link assertReply} takes
 */
export const push = <C, const K extends Wire.IncomingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...payload: Wire.LastParameter<Wire.IncomingPayload<C, K>>
): Effect.Effect<PushRef<Wire.OkReply<C, K>>> => sending(channel, event, ...payload)

const sending = (channel: TestChannel<unknown>, event: string, payload: unknown = {}): Effect.Effect<PushRef<never>> =>
  Effect.sync(() => {
    const { joinRef, socket, topic } = channel
    const ref = socket.nextRef()
    socket.send(joinRef, ref, topic, event, payload)
    return { socket, topic, ref }
  })

/**
 * Broadcasts to the topic as another member would: the client of `channel` gets it, its own subscription does not.
 *
 * The payload goes as it is: it is not encoded by the contract. Phoenix: `broadcast_from/3`.
 *
 * @example
 * ```ts file=broadcastFrom.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("passes on what others broadcast", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.broadcastFrom(room, "typing", { user: "grace" })
 *     yield* ChannelTest.assertPush(room, "typing", { user: "grace" })
 *     yield* ChannelTest.refuteBroadcast(room, "typing")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param payload - JSON, or a `Uint8Array`; default `{}`, where the contract asks for nothing more
 */
export const broadcastFrom = <C, const K extends Wire.OutgoingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...[payload]: Wire.LastParameter<Wire.OutgoingPayload<C, K>>
): Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub> => {
  const { socket, topic } = channel
  return PubSub.broadcastFrom(socket.server.pid, topic, Message.broadcast(topic, event, payload ?? {}))
}

// --- endings ----------------------------------------------------------------------------------------------------------

/**
 * Leaves the topic, as the client does: the reply is `ok`, then the client gets `phx_close`. The channel ends with
 * `Process.shutdown("left")`.
 *
 * Harmless when the channel has ended: the reply is `ok` all the same. Phoenix: `leave/1`.
 *
 * @example
 * ```ts file=leave.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Process } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("is silent once it is left", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.assertReply(yield* ChannelTest.leave(room), "ok")
 *     yield* ChannelTest.assertClosed(room)
 *     assert.deepStrictEqual(yield* Process.awaitExit(room.pid), Process.shutdown("left"))
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const leave = (channel: TestChannel): Effect.Effect<PushRef> => sending(channel, "phx_leave")

/**
 * Ends a channel as if its connection had closed, and waits until it has: after what it was sent, with
 * `Process.shutdown("closed")`. The client hears nothing of it; the connection and its other channels stay.
 *
 * Harmless when the channel has ended. A channel that needs time to end, in a handler or in `terminate`, needs a test that
 * forks `close` and moves the clock. Phoenix: `close/2`.
 *
 * @example
 * ```ts file=close.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Process } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("is over for the channel when the connection is", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.close(room)
 *     assert.deepStrictEqual(yield* Process.awaitExit(room.pid), Process.shutdown("closed"))
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param timeout - how long the channel may take; then it is killed, without `terminate`. Default 5 seconds
 */
export const close = (channel: TestChannel, timeout: Duration.Input = "5 seconds"): Effect.Effect<void> =>
  Effect.gen(function*() {
    const { joinRef, pid, socket } = channel
    const { system } = socket.server.process
    yield* rest.settling(system)
    socket.closed.add(joinRef)
    Process.fromPid(pid).push(new ConnectionEnded(Process.shutdown("closed")))
    yield* Process.awaitExit(pid).pipe(
      Effect.timeoutOrElse({ duration: timeout, orElse: () => Process.exit(pid, Process.killed) })
    )
    // The connection, too, has to know.
    yield* rest.settling(system)
    socket.closed.delete(joinRef)
  })

/**
 * The connection drops, and with it all its channels: they end with `Process.shutdown("peer_closed")`.
 *
 * Harmless when it is closed. Phoenix has no counterpart, as the test itself is the connection there.
 *
 * @example
 * ```ts file=drop.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Process } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("ends with its connection", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.drop(room.socket)
 *     assert.isFalse(yield* Process.alive(room.pid))
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const drop = (socket: TestSocket): Effect.Effect<void> =>
  Effect.suspend(() => {
    socket.server.closed(Process.shutdown("peer_closed"))
    return rest.settling(socket.server.process.system)
  })

/**
 * Waits until all processes have handled what they were sent; time does not pass. A handler that waits for something, such
 * as the clock or a promise, is left waiting.
 *
 * Assertions do so by themselves: it is for looking at something else, such as what a channel has stored. Phoenix has no
 * counterpart; one sends a call and waits for the reply there.
 *
 * @example
 * ```ts file=settle.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("handles what it is sent before the test goes on", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.push(room, "say", { body: "hello" })
 *     yield* ChannelTest.settle
 *     assert.deepStrictEqual(room.socket.received.map(({ event }) => event), ["said", "phx_reply"])
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const settle: Effect.Effect<void, never, Process.System> = Process.System.use((system) => rest.settling(system))

// --- assertions -------------------------------------------------------------------------------------------------------

/**
 * Asserts that the client was sent an event on the channel's topic, by a push or a broadcast, since it has joined.
 *
 * What is found does not count for later assertions. It is in no hurry: what comes from a promise is waited for, up to a
 * second of real time. Phoenix: `assert_push/3`.
 *
 * @example
 * ```ts file=assertPush.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { TestClock } from "effect/testing"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("reminds after a minute", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.push(room, "remind")
 *     yield* TestClock.adjust("1 minute")
 *     yield* ChannelTest.assertPush(room, "reminder")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - see {@link Expected}; default: any payload
 * @returns the payload
 */
export const assertPush = <C, const K extends Wire.OutgoingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...expected: readonly [expected?: Expected<Wire.OutgoingPayload<C, K>>]
): Effect.Effect<Wire.OutgoingPayload<C, K>> => {
  const found = assertions.take(new rest.Site(assertPush), assertions.pushOf(channel, event, ...expected))
  return Effect.map(found, ({ payload }) => payload as Wire.OutgoingPayload<C, K>)
}

/**
 * Asserts that the client was not sent an event (with such a payload), nor will be before time passes.
 *
 * It is exact, and needs no time where handlers are done at once or sleep on the clock. A handler that waits for something
 * else, such as a promise, is waited for; one that still does after a second of real time makes this fail, because nobody
 * can say then what it is going to do. Fibers that a handler has forked are not waited for. Phoenix: `refute_push/3`.
 *
 * @example
 * ```ts file=refutePush.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("does not tell a client that it is typing itself", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.push(room, "typing")
 *     yield* ChannelTest.refutePush(room, "typing")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - see {@link Expected}; default: any payload
 */
export const refutePush = <C, const K extends Wire.OutgoingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...expected: readonly [expected?: Expected<Wire.OutgoingPayload<C, K>>]
): Effect.Effect<void> => assertions.refute(new rest.Site(refutePush), assertions.pushOf(channel, event, ...expected))

/**
 * Asserts that a message was answered with this status. As {@link assertPush} in all else. Phoenix: `assert_reply/4`.
 *
 * @example
 * ```ts file=assertReply.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("answers with the length", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     const ref = yield* ChannelTest.push(room, "say", { body: "hello" })
 *     const { length } = yield* ChannelTest.assertReply(ref, "ok", ({ length }) => length > 0)
 *     assert.strictEqual(length, 5)
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param status - `ok`, `error`, or a word of the channel's own
 * @param expected - see {@link Expected}; default: any payload
 * @returns the payload
 */
export const assertReply = <Ok, const S extends string>(
  push: PushRef<Ok>,
  status: S,
  ...expected: readonly [expected?: Expected<S extends "ok" ? Ok : unknown>]
): Effect.Effect<S extends "ok" ? Ok : unknown> => {
  const found = assertions.take(new rest.Site(assertReply), assertions.replyTo(push, status, ...expected))
  return Effect.map(found, (reply) => assertions.replyOf(reply).payload as S extends "ok" ? Ok : unknown)
}

/**
 * Asserts that a message was not answered with this status, nor will be before time passes. As {@link refutePush} in all
 * else. Phoenix: `refute_reply/4`.
 *
 * @example
 * ```ts file=refuteReply.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("does not answer that somebody is typing", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     const ref = yield* ChannelTest.push(room, "typing")
 *     yield* ChannelTest.refuteReply(ref, "ok")
 *     yield* ChannelTest.refuteReply(ref, "error")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - see {@link Expected}; default: any payload
 */
export const refuteReply = <Ok, const S extends string>(
  push: PushRef<Ok>,
  status: S,
  ...expected: readonly [expected?: Expected<S extends "ok" ? Ok : unknown>]
): Effect.Effect<void> => assertions.refute(new rest.Site(refuteReply), assertions.replyTo(push, status, ...expected))

/**
 * Asserts that there was a broadcast on the channel's topic, whoever sent it; after {@link subscribeAndJoin}. As
 * {@link assertPush} in all else.
 *
 * It sees an intercepted event as it was broadcast, {@link assertPush} as `handleOut` pushed it. Phoenix:
 * `assert_broadcast/3`.
 *
 * @example
 * ```ts file=assertBroadcast.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, Room, TestLive } from "./chat.ts"
 *
 * it.effect("sees what the application broadcasts", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* Room.broadcast("room:1", "said", { body: "tea is ready" })
 *     yield* ChannelTest.assertBroadcast(room, "said", { body: "tea is ready" })
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - see {@link Expected}; default: any payload
 * @returns the payload
 */
export const assertBroadcast = <C, const K extends Wire.OutgoingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...expected: readonly [expected?: Expected<Wire.OutgoingPayload<C, K>>]
): Effect.Effect<Wire.OutgoingPayload<C, K>> => {
  const site = new rest.Site(assertBroadcast)
  return assertions.assertSubscribed(site, channel).pipe(
    Effect.andThen(assertions.take(site, assertions.broadcastOn(channel, event, ...expected))),
    Effect.map(({ payload }) => payload as Wire.OutgoingPayload<C, K>)
  )
}

/**
 * Asserts that there was no such broadcast on the channel's topic, nor will be before time passes; after
 * {@link subscribeAndJoin}. As {@link refutePush} in all else. Phoenix: `refute_broadcast/3`.
 *
 * @example
 * ```ts file=refuteBroadcast.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("tells nobody what is not allowed", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.push(ChannelTest.untyped(room), "say", { text: "hello" })
 *     yield* ChannelTest.refuteBroadcast(room, "said")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - see {@link Expected}; default: any payload
 */
export const refuteBroadcast = <C, const K extends Wire.OutgoingEvent<C>>(
  channel: TestChannel<C>,
  event: K,
  ...expected: readonly [expected?: Expected<Wire.OutgoingPayload<C, K>>]
): Effect.Effect<void> => {
  const site = new rest.Site(refuteBroadcast)
  return Effect.andThen(
    assertions.assertSubscribed(site, channel),
    assertions.refute(site, assertions.broadcastOn(channel, event, ...expected))
  )
}

/**
 * Asserts that the channel told its client that it has ended as it should: `phx_close`, after {@link leave}, after
 * `stop` with a graceful reason, or because the topic was joined anew.
 *
 * Its `terminate` may still be at work: `Process.awaitExit(channel.pid)` waits for the end, and tells the reason. Phoenix:
 * `assert_receive` of the close notice.
 *
 * @example
 * ```ts file=assertClosed.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Process } from "effect-channels"
 * import { enter, Room, TestLive } from "./chat.ts"
 *
 * it.effect("closes when the topic is joined again", () =>
 *   Effect.gen(function*() {
 *     const first = yield* enter("ada")
 *     const second = yield* ChannelTest.join(first.socket, Room, "room:1")
 *     yield* ChannelTest.assertClosed(first)
 *     assert.deepStrictEqual(yield* Process.awaitExit(first.pid), Process.shutdown("duplicate_join"))
 *     // What is left over from the first join is dropped without a word.
 *     const ref = yield* ChannelTest.push(first, "say", { body: "hello" })
 *     yield* ChannelTest.refutePush(second, "said")
 *     yield* ChannelTest.refuteReply(ref, "ok")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const assertClosed = (channel: TestChannel): Effect.Effect<void> =>
  Effect.asVoid(
    assertions.take(new rest.Site(assertClosed), assertions.pushOf(channel, "phx_close"))
  )

/**
 * Asserts that the channel told its client that it has ended as it should not: `phx_error`, upon which phoenix.js joins
 * again.
 *
 * A channel that crashes in `terminate`, of which its client hears nothing, counts too. A crash that no assertion of the
 * test looks at makes the test fail at its end. Phoenix: `Process.unlink(socket.channel_pid)` and `assert_receive` of the
 * exit; here nothing is linked to the test.
 *
 * @example
 * ```ts file=assertCrashed.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Cause, Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, Room, TestLive } from "./chat.ts"
 *
 * it.effect("crashes alone", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     const other = yield* ChannelTest.join(room.socket, Room, "room:2")
 *     yield* ChannelTest.push(room, "say", { body: "/crash" })
 *     const reason = yield* ChannelTest.assertCrashed(room)
 *     assert(reason._tag === "Crash")
 *     assert.include(Cause.pretty(reason.cause), "crashed as told")
 *     yield* ChannelTest.assertReply(yield* ChannelTest.push(other, "say", { body: "still here" }), "ok")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @returns why it has ended: a `Crash`, or the reason of the exit signal that has ended it
 */
export const assertCrashed = (channel: TestChannel): Effect.Effect<Process.ExitReason> =>
  Effect.andThen(
    assertions.takeCrash(new rest.Site(assertCrashed), channel),
    Process.awaitExit(channel.pid)
  )

/**
 * Lets the channels of a client, and its connection, crash without a word in the test, from now on and before.
 *
 * For tests that bring about many crashes and look at something else, such as metrics. Any other crash makes the test fail
 * when its client goes, unless it was asserted with {@link assertCrashed} (that of a connection with
 * {@link assertDisconnected} and 1011), returned as a {@link JoinError}, or its `phx_error` was taken from `received`.
 * Phoenix has no counterpart: there a crash ends the test.
 *
 * @example
 * ```ts file=allowCrashes.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("lets others go on, whatever one of them does", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* ChannelTest.allowCrashes(room.socket)
 *     yield* ChannelTest.push(room, "say", { body: "/crash" })
 *     const other = yield* enter("grace")
 *     yield* ChannelTest.assertReply(yield* ChannelTest.push(other, "say", { body: "still here" }), "ok")
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 */
export const allowCrashes = (socket: TestSocket): Effect.Effect<void> =>
  Effect.sync(() => {
    socket.mayCrash = true
  })

/**
 * Asserts that the server has closed the connection.
 *
 * Phoenix: `assert_broadcast "disconnect"`, as a test subscribes to the id of its socket there; here the connection is a
 * real one, which ends.
 *
 * @example
 * ```ts file=assertDisconnected.test.ts
 * import { assert, it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest, Endpoint, Process } from "effect-channels"
 * import { enter, TestLive } from "./chat.ts"
 *
 * it.effect("disconnects a user", () =>
 *   Effect.gen(function*() {
 *     const room = yield* enter("ada")
 *     yield* Endpoint.disconnect("user_socket:ada")
 *     yield* ChannelTest.assertDisconnected(room.socket)
 *     assert.deepStrictEqual(yield* Process.awaitExit(room.pid), Process.shutdown("disconnected"))
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param code - the close code of the WebSocket; default 1001, as after `Endpoint.disconnect`
 */
export const assertDisconnected = (socket: TestSocket, code = 1001): Effect.Effect<void> => {
  const site = new rest.Site(assertDisconnected)
  return Effect.gen(function*() {
    const actual = yield* rest.eventually(socket, site, () => socket.closeCode)
    // A connection that has crashed is closed with a code of its own.
    socket.excused.add(socket.server.process)
    if (actual === code) return
    const how = actual === undefined ? "it is open" : `it was closed with ${actual}`
    return yield* rest.fail(site, `the connection was not closed with ${code}: ${how}`, code, actual)
  })
}

/**
 * Asserts that a {@link connect} or {@link join} is refused; that it crashes is no refusal.
 *
 * Phoenix: `assert {:error, reason} = connect(...)`, or `join`.
 *
 * @example
 * ```ts file=assertRefused.test.ts
 * import { it } from "@effect/vitest"
 * import { Effect } from "effect"
 * import { ChannelTest } from "effect-channels"
 * import { Room, TestLive, UserSocket } from "./chat.ts"
 *
 * it.effect("lets in nobody without a name, and nobody into the secret room", () =>
 *   Effect.gen(function*() {
 *     yield* ChannelTest.assertRefused(ChannelTest.connect(UserSocket), "who are you?")
 *     const socket = yield* ChannelTest.connect(UserSocket, { user: "ada" })
 *     yield* ChannelTest.assertRefused(ChannelTest.join(socket, Room, "room:secret"), { reason: "members only" })
 *   }).pipe(Effect.provide(TestLive)))
 * ```
 *
 * @param expected - of the reason of `Socket.refuse`, or of what the client of a channel is told; see {@link Expected}.
 *   Default: anything
 * @returns the same
 */
export const assertRefused = <A, R>(
  attempt: Effect.Effect<A, Socket.Refused | JoinError, R>,
  ...expected: readonly [expected?: Expected]
): Effect.Effect<unknown, never, R> => {
  const site = new rest.Site(assertRefused)
  return Effect.matchEffect(attempt, {
    onSuccess: () => rest.fail(site, "it was not refused", expected[0] ?? "a refusal", "welcome"),
    onFailure: (error) => {
      if (error._tag === "JoinError" && error.code === "crashed") return Effect.die(error)
      const actual = error._tag === "JoinError" ? error.response : error.reason
      return Effect.suspend(() =>
        assertions.fitsAt(site, expected, actual)
          ? Effect.succeed(actual)
          : rest.fail(site, "it was refused, but not like that", expected[0], actual)
      )
    }
  })
}
