/**
 * Channels: what clients join, and the process that serves each of them.
 *
 * Describe a channel with {@link make}, where you like as a contract that server, tests and browser share; say what it
 * does with `layer` or `toLayer`; mount it with a `Socket`. Every client that joins a topic gets a process of its own: it
 * handles one message at a time, its state is plain variables, and when it crashes only that client's channel is gone (and
 * joined again by phoenix.js).
 *
 * The model is Phoenix.Channel (https://hexdocs.pm/phoenix/Phoenix.Channel.html).
 */
import { Context, type Duration, Effect, Layer, type LogLevel, type Schema, type Scope } from "effect"
import * as internal from "./internal/channel.ts"
import * as contracts from "./internal/contract.ts"
import * as custom from "./internal/customChannel.ts"
import { erase } from "./internal/erase.ts"
import { callable, duration, given, level, object, oneOf, OptionError, wholeNumber } from "./internal/options.ts"
import { defaultOptions } from "./internal/process.ts"
import * as replies from "./internal/reply.ts"
import type { Definition, Settings } from "./internal/served.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"

// --- contracts --------------------------------------------------------------------------------------------------------

/**
 * An event that clients send. With `success` or `error` it is answered; without, it is not (an invalid payload always is).
 *
 * Schemas need no services. Values travel as JSON: a `Schema.Date` as a string, and so on; only {@link Bytes} travels as a
 * binary frame.
 */
export interface Incoming {
  /** Default: not looked at, `unknown`. */
  readonly payload?: contracts.PureSchema | undefined
  /** The payload of an `ok` reply; `Schema.Void` replies `{}`. */
  readonly success?: contracts.PureSchema | undefined
  /** The payload of an `error` reply: what the handler's Effect fails with. */
  readonly error?: contracts.PureSchema | undefined
}

/**
 * What clients and a channel say to each other, and what the channel needs to know of its connection. Every part may be
 * left out: without `incoming` any event is let in, without `outgoing` any may be sent, with payloads that nobody checks.
 */
export interface Contract extends contracts.Schemas {
  /** Services that the socket's `connect` supplies (Phoenix's assigns): one key, or several. */
  readonly assigns?: AnyKey | ReadonlyArray<AnyKey> | undefined
  /** The join: payload, reply, refusal. */
  readonly join?: Incoming | undefined
  /** Events from clients. */
  readonly incoming?: Readonly<Record<string, Incoming>> | undefined
  /** Events to clients, each with its payload. V2 clients need an object or {@link Bytes}. */
  readonly outgoing?: Readonly<Record<string, contracts.PureSchema>> | undefined
  /** Broadcast events that pass through `handleOut` of every member instead of going straight to the clients. */
  readonly intercept?: ReadonlyArray<string> | undefined
  /**
   * Events that a client which does not keep up may miss, such as the moves of a cursor. While it is behind, `"drop"` leaves
   * them out; a function names what an event is about, by its payload as it travels, and of those with one name only the
   * latest is sent once the client has caught up. Other events are never left out, and may then overtake these.
   */
  readonly lossy?: Readonly<Record<string, "drop" | ((payload: unknown) => string)>> | undefined
  /**
   * The topic of the PubSub on which a topic lives that clients join; default the same. With it, channels of two sockets may
   * serve one name without hearing each other, a private one and a public one, or share a topic under two names. Clients
   * always see the name that they have joined. `broadcast` of the channel takes that name; `Endpoint.broadcast`,
   * `PubSub.subscribe` and `Presence.list` take the topic of the PubSub.
   */
  readonly pubsubTopic?: ((topic: string) => string) | undefined
}

type AnyKey = Context.Key<unknown, unknown>

/** The contract of a channel that has none: any event, any payload, as in Phoenix. */
export interface Untyped {}

/** The schema of raw bytes: the payload of a binary frame, a `Uint8Array`. */
export const Bytes: Schema.Uint8Array = contracts.Bytes

type TypeOf<S, Otherwise> = S extends Schema.Constraint ? S["Type"] : Otherwise
type PayloadOf<E> = E extends { readonly payload: infer S } ? TypeOf<S, unknown> : unknown
type SuccessOf<E> = E extends { readonly success: infer S } ? TypeOf<S, void> : void
type ErrorOf<E> = E extends { readonly error: infer S } ? TypeOf<S, never> : never
type Field<C, K extends string> = C extends { readonly [k in K]: infer V } ? V : {}
type Has<C, K extends string> = C extends { readonly [k in K]: unknown } ? true : false
type Key<A> = A extends Context.Key<infer I, infer _S> ? I : never
type Intercepted<C> = C extends { readonly intercept: ReadonlyArray<infer K> } ? K : never

/** What the `connect` of a socket has to supply for a channel. */
export type Assigns<C> = C extends { readonly assigns: infer A } ? A extends ReadonlyArray<infer K> ? Key<K> : Key<A>
  : never

/** The names of the events that a channel sends. */
export type OutgoingEvent<C> = Has<C, "outgoing"> extends true ? keyof Field<C, "outgoing"> & string : string

/** The payload of an event that a channel sends. */
export type OutgoingPayload<C, K> = TypeOf<Field<Field<C, "outgoing">, K & string>, unknown>

type JoinPayload<C> = PayloadOf<Field<C, "join">>
type JoinError<C> = Has<C, "join"> extends true ? ErrorOf<Field<C, "join">> : unknown

// --- inside a channel -------------------------------------------------------------------------------------------------

/**
 * The channel, as its own code sees it (what `socket` is in Phoenix). Its functions belong to it: `room.push(...)`, not
 * `const { push } = room`, which does not compile.
 *
 * `push`, `broadcast` and `broadcastFrom` may be used once the join is done; before, do `send` and use them in
 * `handleInfo`. A payload that cannot be encoded crashes the channel.
 */
export interface Self<C = Untyped> {
  /** The topic that was joined, such as `room:123`. */
  readonly topic: string
  /** The topic of the PubSub on which it lives: the same, unless the contract's `pubsubTopic` says otherwise. */
  readonly pubsubTopic: string
  /** The process of this channel; others may send to it, and `handleInfo` gets it. */
  readonly pid: Process.Pid<unknown>
  /** The id that `connect` gave the socket. */
  readonly socketId: string | undefined
  /** False while the join runs. */
  readonly joined: boolean
  /** To this client. */
  readonly push: <K extends OutgoingEvent<C>>(
    this: Self<C>,
    event: K,
    payload: OutgoingPayload<C, K>
  ) => Effect.Effect<void>
  /** To everybody on the topic, on every node, this client included. */
  readonly broadcast: <K extends OutgoingEvent<C>>(
    this: Self<C>,
    event: K,
    payload: OutgoingPayload<C, K>
  ) => Effect.Effect<void>
  /** To everybody on the topic but this client. */
  readonly broadcastFrom: <K extends OutgoingEvent<C>>(
    this: Self<C>,
    event: K,
    payload: OutgoingPayload<C, K>
  ) => Effect.Effect<void>
  /** To this process itself: `handleInfo` gets it after what is in the mailbox already. */
  readonly send: (this: Self<C>, message: unknown) => Effect.Effect<void>
  /** As `send`, once `delay` has passed. */
  readonly sendAfter: (this: Self<C>, message: unknown, delay: Duration.Input) => Effect.Effect<Process.TimerRef>
  /**
   * Where the reply to the message in hand goes, to {@link reply} later and from anywhere; return {@link noReply} then.
   * Dies outside of `handleIn` and for a message without a ref.
   */
  readonly ref: Effect.Effect<SocketRef>
  /**
   * Ends the channel once the message in hand is handled (and answered). The client gets `phx_close`; with a `Crash` as
   * the reason it gets `phx_error` and joins again. Default `Process.normal`.
   */
  readonly stop: (this: Self<C>, reason?: Process.ExitReason) => Effect.Effect<void>
  /** Subscribes to one more topic: its broadcasts come to `handleInfo` as `Message.Broadcast`. */
  readonly subscribe: (this: Self<C>, topic: string) => Effect.Effect<void>
  readonly unsubscribe: (this: Self<C>, topic: string) => Effect.Effect<void>
}

/** Where a reply goes; made by `ref` of {@link Self}, good for any number of replies, also after the channel has ended. */
export type SocketRef = replies.SocketRef

/**
 * Replies to a message that was not answered by the return value of its handler.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Channel } from "effect-channels"
 *
 * const Slow = Channel.make("slow:*")
 * const SlowLive = Slow.layer((channel) =>
 *   Effect.succeed({
 *     handleIn: () =>
 *       Effect.gen(function*() {
 *         const ref = yield* channel.ref
 *         yield* Effect.sleep("1 second").pipe(Effect.andThen(Channel.reply(ref, "ok", { done: true })), Effect.forkDetach)
 *         return Channel.noReply
 *       })
 *   })
 * )
 * ```
 *
 * @param status - `"ok"`, `"error"`, or a word of your own
 * @param payload - JSON, or a `Uint8Array`; default `{}`
 */
export const reply: (ref: SocketRef, status: string, payload?: unknown) => Effect.Effect<void> = replies.reply

/** The type of {@link noReply}. */
export type NoReply = replies.NoReply
/** Returned by `handleIn` when it does not answer, or answers later by {@link reply}. */
export const noReply: NoReply = replies.noReply

/** What a `handleIn` without a contract returns to answer. */
export type Answer = replies.Answer

/** Answers `ok`; where the contract says nothing about incoming events. */
export const ok = (payload: unknown = {}): Answer => new replies.Answer("ok", payload)

/** Answers `error`, as does failing with the payload; where the contract says nothing about incoming events. */
export const error = (payload: unknown = {}): Answer => new replies.Answer("error", payload)

/** Answers with a status of your own; where the contract says nothing about incoming events. */
export const answer = (status: string, payload: unknown = {}): Answer => new replies.Answer(status, payload)

/**
 * A channel was used where it cannot be (always a defect): `NOT_JOINED`, `NO_REF`, `INVALID_PAYLOAD` when a value of the
 * application does not fit the contract, `RESERVED_EVENT` for an event of the protocol itself such as `phx_close`, and
 * `WRONG_TOPIC` for a broadcast to a topic that the channel does not serve.
 */
export const ChannelError = contracts.ChannelError
/** The type of {@link ChannelError}. */
export type ChannelError = contracts.ChannelError

/** Handles an event by its name: what the contract does not know, or all of them where it says nothing. */
type HandleAny<R> = (event: string, payload: unknown) => Effect.Effect<Answer | NoReply | void, unknown, R>

interface CommonHandlers<out R> {
  /** What the channel sent itself, what others sent to its `pid`, what came to topics it subscribed to. */
  readonly handleInfo?: ((message: unknown) => Effect.Effect<unknown, never, R>) | undefined
  /** A process that the channel watches by `Process.monitor` has ended; without it `handleInfo` gets the `Process.Down`. */
  readonly handleDown?: ((down: Process.Down) => Effect.Effect<unknown, never, R>) | undefined
  /**
   * With it the channel traps exits: what a linked process or `Process.exit` tells it comes here and does not end it.
   */
  readonly handleExit?: ((exit: Process.ExitSignal) => Effect.Effect<unknown, never, R>) | undefined
  /** Runs last, with the reason, on every ending but `Killed`; within `shutdown` (5 seconds). */
  readonly terminate?: ((reason: Process.ExitReason) => Effect.Effect<unknown, never, R>) | undefined
}

interface TypedHandleIn<C, out R> {
  readonly handleIn: {
    readonly [K in keyof Field<C, "incoming">]: (
      payload: PayloadOf<Field<C, "incoming">[K]>
    ) => Effect.Effect<SuccessOf<Field<C, "incoming">[K]> | NoReply, ErrorOf<Field<C, "incoming">[K]>, R>
  }
  readonly handleUndeclared?: HandleAny<R> | undefined
}

interface UntypedHandleIn<out R> {
  readonly handleIn?: HandleAny<R> | undefined
}

interface TypedHandleOut<C, out R> {
  readonly handleOut: {
    readonly [K in Intercepted<C> & string]: (payload: OutgoingPayload<C, K>) => Effect.Effect<unknown, never, R>
  }
}

/**
 * What a successful join returns: what the channel does from then on.
 *
 * - `handleIn`: an event of the client. With `incoming` in the contract, one function for each of its events, which
 *   returns what `success` says and fails with what `error` says. Without: `(event, payload)`, which returns {@link ok},
 *   {@link error} or nothing, and fails with the payload of an error reply.
 * - `handleUndeclared`: events that the contract does not know; without it they are answered `unmatched event`.
 * - `handleOut`: broadcasts of the intercepted events, to push them changed, or not at all.
 * - `handleInfo`, `handleDown`, `handleExit`, `terminate`: see there.
 * - `reply`: the payload of the join reply; default `{}`.
 */
export type Handlers<C, R> =
  & CommonHandlers<R>
  & (Has<C, "incoming"> extends true ? TypedHandleIn<C, R> : UntypedHandleIn<R>)
  & ([Intercepted<C>] extends [never] ? {} : TypedHandleOut<C, R>)
  & (Field<C, "join"> extends { readonly success: infer S } ? { readonly reply: TypeOf<S, unknown> }
    : Has<C, "join"> extends true ? {}
    : { readonly reply?: unknown })

/** A handler with a name that nobody calls is a mistake: its type is never. */
type NothingElse<C, H> = H extends object ?
    & { readonly [K in Exclude<keyof H, keyof Handlers<C, unknown>>]: never }
    & (Has<C, "incoming"> extends true ?
      H extends { readonly handleIn: infer I }
        ? { readonly handleIn: { readonly [K in Exclude<keyof I, keyof Field<C, "incoming">>]: never } }
      : unknown
      : unknown)
  : unknown

/** The services that the handlers of a channel use. */
type ServicesOf<H> = H extends (...args: never) => Effect.Effect<infer _A, infer _E, infer R> ? R
  : H extends object ? { [K in keyof H]-?: ServicesOf<H[K]> }[keyof H]
  : never

// --- a channel that speaks the protocol by itself ---------------------------------------------------------------------

/** The channel, as the code of `layerCustom` sees it. */
export interface Custom {
  readonly topic: string
  /** What the client has called this join; the `join_ref` of all that it is sent on the topic. */
  readonly joinRef: Message.Ref
  readonly pid: Process.Pid<unknown>
  /** The id that `connect` gave the socket. */
  readonly socketId: string | undefined
  /** Sends the client a message as it is; what cannot be encoded is a defect. */
  readonly send: (this: Custom, message: Message.Message | Message.Reply) => Effect.Effect<void>
  /**
   * Tells the client that the channel ends as it should (`phx_close`); end with `Process.stop` then. A channel that ends
   * without it has crashed for its client (`phx_error`), which joins it again.
   */
  readonly close: Effect.Effect<void>
}

/** What `layerCustom` does; its join has succeeded with this, and the client is sent `reply` (default `{}`). */
export interface CustomHandlers<out R> {
  readonly reply?: unknown
  /** Every message of the client on the topic, `phx_leave` among them, as it came. */
  readonly handleIn: (message: Message.Inbound) => Effect.Effect<unknown, never, R>
  /** What others send to `pid`. */
  readonly handleInfo?: ((message: unknown) => Effect.Effect<unknown, never, R>) | undefined
  readonly handleDown?: ((down: Process.Down) => Effect.Effect<unknown, never, R>) | undefined
  readonly handleExit?: ((exit: Process.ExitSignal) => Effect.Effect<unknown, never, R>) | undefined
  /** Runs last, on every ending but `Killed`. */
  readonly terminate?: ((reason: Process.ExitReason) => Effect.Effect<unknown, never, R>) | undefined
}

// --- the channel as a value -------------------------------------------------------------------------------------------

/** The service that stands for the implementation of a channel; `toLayer` provides it, mounting a socket requires it. */
export interface Handler<Topic extends string> {
  readonly "~effect-channels/Channel/Handler": Topic
}

/** Options of `toLayer`. */
export interface Options {
  /** How long `terminate` and finalizers may take; default 5 seconds. */
  readonly shutdown?: Duration.Input | undefined
  /** At which level it is logged that a client has joined or was refused; false for not at all. Default `Info`. */
  readonly logJoin?: LogLevel.Severity | false | undefined
  /** At which level it is logged that an event was handled; false for not at all. Default `Debug`. */
  readonly logHandleIn?: LogLevel.Severity | false | undefined
  /** How many messages may wait for the channel, and what happens to more. */
  readonly mailbox?: MailboxOptions | undefined
}

/**
 * The limits of a channel's mailbox, and what happens to messages beyond them.
 *
 * - `capacity`: how many messages of the client may wait; Infinity for no limit, default 1,000.
 * - `maxBytes`: how many bytes they may have together; a single larger one may wait alone. Infinity for no limit, default
 *   1,000,000. For the memory of the server as a whole there are `maxInboxBytes` and `maxSharedInboxBytes` of `Socket.make`.
 * - `whenFull`: with `suspend` (default) nothing more is read from the connection until half is handled, so that the client
 *   has to wait. After `maxPause` of the socket, 5 seconds, it is read on, and messages for which there is no room are
 *   answered `too many messages` and not handled. With `dropOldest` those that have waited longest are answered so, until
 *   there is room. With `disconnect` the connection is closed with 1008.
 * - `maxInfos`, `maxInfoBytes`: how many broadcasts of intercepted events, and messages of topics that it has subscribed to,
 *   may wait, and about how much memory they may take. A channel for which more wait crashes: its client gets `phx_error` and
 *   joins again, as nobody could tell what it has missed. What the channel sends itself, timers and what others send to its
 *   `pid` is not counted by these, but may be no more than `capacity` and `maxInfos` either. Infinity for no limit; default
 *   10,000 and 16,000,000.
 */
export interface MailboxOptions {
  readonly capacity?: number | undefined
  readonly maxBytes?: number | undefined
  readonly whenFull?: "suspend" | "dropOldest" | "disconnect" | undefined
  readonly maxInfos?: number | undefined
  readonly maxInfoBytes?: number | undefined
}

/** A channel: the topics it serves and its contract. Made by {@link make}. */
export interface Channel<Topic extends string, C> {
  /** An exact topic, or a prefix with `*` at the end. */
  readonly topic: Topic
  readonly contract: C
  /** The key under which `toLayer` provides the implementation. */
  readonly handler: Context.Key<Handler<Topic>, Definition>
  /**
   * Says what the channel does: `join` runs at every join, in the new process and before its first message. It gets the
   * channel and the join's payload; it fails to refuse the join, and returns the handlers.
   *
   * Services that `join` and the handlers use are required by the Layer, but for `assigns`, the Scope (it closes when this
   * channel ends) and `Process.Self`.
   */
  readonly layer: <H extends Handlers<C, unknown> | void, RI = never>(
    join: (self: Self<C>, payload: JoinPayload<C>) => Effect.Effect<H & NothingElse<C, H>, JoinError<C>, RI>,
    options?: Options
  ) => Layer.Layer<Handler<Topic>, never, Exclude<RI | ServicesOf<H>, Assigns<C> | Process.Own>>
  /** As `layer`, where something has to be done or looked up first, once, when the Layer is built. */
  readonly toLayer: <H extends Handlers<C, unknown> | void, RI = never, EX = never, RX = never>(
    build: Effect.Effect<
      (self: Self<C>, payload: JoinPayload<C>) => Effect.Effect<H & NothingElse<C, H>, JoinError<C>, RI>,
      EX,
      RX
    >,
    options?: Options
  ) => Layer.Layer<
    Handler<Topic>,
    EX,
    Exclude<RX, Scope.Scope> | Exclude<RI | ServicesOf<H>, Assigns<C> | Process.Own>
  >
  /**
   * Says what a channel does that speaks the protocol by itself: it answers every message of its client on its own, the
   * leave among them, and takes no part in broadcasts unless it subscribes. For gateways to other protocols; all others
   * are better off with `layer`.
   */
  readonly layerCustom: <H extends CustomHandlers<unknown>, RI = never>(
    init: (self: Custom, payload: unknown) => Effect.Effect<H, unknown, RI>,
    options?: Omit<Options, "logHandleIn">
  ) => Layer.Layer<Handler<Topic>, never, Exclude<RI | ServicesOf<H>, Assigns<C> | Process.Own>>
  /** Broadcasts to a topic from anywhere, on every node. A payload that does not fit the contract is a defect. */
  readonly broadcast: <K extends OutgoingEvent<C>>(
    topic: string,
    event: K,
    payload: OutgoingPayload<C, K>
  ) => Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub>
  /** As `broadcast`, but not to the client of the channel (or to the subscriber) `from`. */
  readonly broadcastFrom: <K extends OutgoingEvent<C>>(
    from: Process.Pid,
    topic: string,
    event: K,
    payload: OutgoingPayload<C, K>
  ) => Effect.Effect<void, PubSub.BroadcastError, PubSub.PubSub>
}

/** Places in a mailbox for messages that the library puts there itself: the join, a leave, the end. */
const ownMessages = 8

/** Checks the options that all kinds of channels have in common. */
const settingsOf = (topic: string, options: Options = {}): Settings => {
  const of = (option: string) => `channel ${topic}: ${option}`
  object(of("options"), options)
  const { mailbox = {} } = options
  object(of("mailbox"), mailbox)
  const unlimited = { unlimited: true }
  const capacity = wholeNumber(of("capacity"), given(mailbox.capacity, 1000), unlimited)
  const maxInfos = wholeNumber(of("maxInfos"), given(mailbox.maxInfos, 10_000), unlimited)
  return {
    logJoin: level(of("logJoin"), given(options.logJoin, "Info")),
    mailbox: {
      capacity,
      maxBytes: wholeNumber(of("maxBytes"), given(mailbox.maxBytes, 1_000_000), unlimited),
      whenFull: oneOf(of("whenFull"), given(mailbox.whenFull, "suspend"), ["suspend", "dropOldest", "disconnect"]),
      maxInfos,
      maxInfoBytes: wholeNumber(of("maxInfoBytes"), given(mailbox.maxInfoBytes, 16_000_000), unlimited)
    },
    processOptions: {
      shutdown: duration(of("shutdown"), given(options.shutdown, defaultOptions.shutdown), { min: 0, unlimited: true }),
      capacity: capacity + maxInfos + ownMessages,
      whenFull: "crash"
    }
  }
}

let made = 0

/**
 * Describes a channel.
 *
 * With a contract the compiler knows events and payloads, and what clients send is checked: a payload that does not fit
 * is answered with an error that says what is wrong, an event that is not declared with `unmatched event`. Without one,
 * `handleIn` gets every event and an unknown payload, as in Phoenix.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Channel } from "effect-channels"
 *
 * const Counter = Channel.make("counter:*", {
 *   incoming: { add: { payload: Schema.Struct({ n: Schema.Finite }), success: Schema.Struct({ sum: Schema.Finite }) } },
 *   outgoing: { changed: Schema.Struct({ sum: Schema.Finite }) }
 * })
 *
 * const CounterLive = Counter.layer((channel) => {
 *   let sum = 0
 *   return Effect.succeed({
 *     handleIn: {
 *       add: ({ n }) => Effect.map(channel.broadcast("changed", { sum: sum += n }), () => ({ sum }))
 *     }
 *   })
 * })
 * ```
 *
 * @param topic - an exact topic, or a prefix followed by `*`, which stands for anything and nothing; `*` elsewhere is an
 *   error. The socket's first channel that matches serves a topic.
 * @param contract - see {@link Contract}
 */
export const make: {
  <const Topic extends string>(topic: Topic): Channel<Topic, Untyped>
  <const Topic extends string, const C extends Contract>(topic: Topic, contract: C): Channel<Topic, C>
} = <Topic extends string>(topic: Topic, contract: Contract = {}): Channel<Topic, never> => {
  if (typeof topic !== "string") throw new OptionError("the topic of a channel", topic, "a text")
  if (topic.slice(0, -1).includes("*")) {
    throw new RangeError(`channel topic ${topic}: "*" is allowed only at the end`)
  }
  const compiled = contracts.compile(contract)
  // Channels of two sockets may have the same topic.
  const handler = Context.Service<Handler<Topic>, Definition>(`effect-channels/Channel/${topic}#${++made}`)
  const publish = (to: string, event: string, payload: unknown, from?: Process.Pid) =>
    PubSub.PubSub.use((pubsub) => {
      if (!contracts.matches(topic, to)) {
        throw new contracts.ChannelError({ code: "WRONG_TOPIC", message: `${to} is no topic of the channel ${topic}` })
      }
      return pubsub.broadcast(
        contracts.pubsubTopicOf(compiled, to),
        Message.broadcast(to, event, contracts.encodeOutgoing(compiled, event, payload)),
        from
      )
    })
  const toLayer = (build: Effect.Effect<internal.Join>, options?: Options) => {
    const settings = settingsOf(topic, options)
    const logHandleIn = level(`channel ${topic}: logHandleIn`, given(options?.logHandleIn, "Debug"))
    return Layer.effect(
      handler,
      Effect.contextWith((context: Context.Context<never>) =>
        Effect.map(
          build,
          (join) =>
            internal.define(topic, context, {
              ...settings,
              contract: compiled,
              join: callable("join", join),
              logHandleIn
            })
        )
      )
    )
  }
  const channel = {
    topic,
    contract,
    handler,
    layer: (join: internal.Join, options?: Options) => toLayer(Effect.succeed(callable("join", join)), options),
    toLayer,
    layerCustom: (init: custom.Settings["init"], options?: Options) => {
      const settings = { ...settingsOf(topic, options), init: callable("init", init) }
      return Layer.effect(
        handler,
        Effect.contextWith((context: Context.Context<never>) => Effect.succeed(custom.define(topic, context, settings)))
      )
    },
    broadcast: (topic: string, event: string, payload: unknown) => publish(topic, event, payload),
    broadcastFrom: (from: Process.Pid, topic: string, event: string, payload: unknown) =>
      publish(topic, event, payload, from)
  }
  // The types above say more than the values can: codecs and handlers belong to the same contract.
  return erase(channel)
}
