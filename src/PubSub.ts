/**
 * Publish and subscribe by topic, among the processes of one node or of many.
 *
 * Channels broadcast through it. Use it directly to tell processes about things that have nothing to do with a channel.
 * Delivery is at most once; messages of one sender to one topic keep their order.
 *
 * The model is Phoenix.PubSub (https://hexdocs.pm/phoenix_pubsub). How messages travel between nodes is the business of an
 * {@link Adapter}; {@link layer} is for a single node, `effect-channels/pubsub/redis` and `effect-channels/pubsub/nats` are
 * for several.
 */
import { Cause, Context, Data, Effect, Layer, type Scope } from "effect"
import { attempt, effectOf, exitOf } from "./internal/eager.ts"
import { Guard } from "./internal/guard.ts"
import { Complaints } from "./internal/limits.ts"
import { callable, text } from "./internal/options.ts"
import * as process from "./internal/process.ts"
import { Entry, Topics } from "./internal/topics.ts"
import { inSpan, isTraced } from "./internal/tracing.ts"
import { brief } from "./internal/untrusted.ts"
import { isBroadcast } from "./Message.ts"
import * as Process from "./Process.ts"

/** Who gets the messages of a topic; see {@link PubSub}. */
export interface Subscriber {
  /** The process that subscribes: `broadcastFrom` leaves it out, and the subscription ends with it. */
  readonly pid: Process.Pid
  /**
   * Called for each message, while it is being broadcast. When it throws, that is logged and the process `pid` crashes;
   * everybody else gets the message. A message that `memo` cannot make anything of for any subscriber is thrown to the
   * broadcaster instead.
   */
  readonly deliver: (message: unknown, delivery: Delivery) => void
}

/**
 * One message on its way to the subscribers of this node: what is worth computing once for all of them is kept here. A
 * broadcast is encoded once for each serializer, not for each client.
 */
export interface Delivery {
  /** Returns the result of `make` for this key, or throws its error; `make` is called only the first time. */
  readonly memo: <K extends object, M, V>(key: K, message: M, make: (key: K, message: M) => V) => V
}

/** A subscription; what `subscribe` returns and `unsubscribe` takes. */
export interface Subscription {
  readonly topic: string
}

/**
 * A message could not be handed to the other nodes. Nobody has got it, the subscribers of this node neither.
 *
 * `code` is `UNAVAILABLE` when the engine cannot be reached and `TOO_LARGE` when the message exceeds its limit.
 */
export class BroadcastError extends Data.TaggedError("BroadcastError")<{
  readonly code: "UNAVAILABLE" | "TOO_LARGE"
  readonly message: string
  readonly cause?: unknown
}> {}

/**
 * The state of the way to the other nodes; see {@link status}.
 *
 * - `connected`: messages go out and come in.
 * - `reconnecting`: the engine is out of reach. The node looks for it.
 * - `degraded`: the engine is there and refuses something: a subscription of this node, or what it publishes. The log says
 *   which, and the node asks again and again.
 */
export type Status = "connected" | "reconnecting" | "degraded"

/**
 * How messages reach other nodes. Messages are plain data (what JSON can say, and `Uint8Array`).
 *
 * An adapter hands what comes from other nodes to `deliver` (see {@link layerAdapter}), in the order of each sender, and
 * never its own node's messages.
 */
export interface Adapter {
  /** The name of this node, unique in the cluster. */
  readonly node: string
  /** To all other nodes. */
  readonly broadcast: (topic: string, message: unknown) => Effect.Effect<void, BroadcastError>
  /** To one other node; a node that is not there is no error. */
  readonly direct: (node: string, topic: string, message: unknown) => Effect.Effect<void, BroadcastError>
  /** The first subscriber of a topic has come to this node; complete once its messages arrive here. */
  readonly joined: (topic: string) => Effect.Effect<void>
  /** The last one has gone. Called in order with `joined`, for the same topic never at the same time. */
  readonly left: (topic: string) => Effect.Effect<void>
  /** The state of the way to the others; default always `connected`. */
  readonly status?: Effect.Effect<Status> | undefined
  /** Counts how many times `status` has stopped being `connected`, so that a loss between two looks is noticed; default 0. */
  readonly outages?: (() => number) | undefined
  /** Calls the listener whenever `status` is `connected` again; returns a function that takes it away. */
  readonly onBack?: ((listener: () => void) => () => void) | undefined
}

/**
 * The service: topics and subscribers of this node, and the way to the others.
 *
 * Most code uses the functions of this module. The methods are for subscribers that are more than a process with a
 * mailbox, such as a channel that writes straight to its client.
 */
export class PubSub extends Context.Service<PubSub, {
  /** The name of this node. */
  readonly node: string
  /** Subscribes; complete once messages of the whole cluster arrive. The same subscriber may do so again and gets messages twice. */
  readonly subscribe: (topic: string, subscriber: Subscriber) => Effect.Effect<Subscription>
  /** As `subscribe`, but at once and not when the Effect is run: an Exit where there is nothing to wait for. */
  readonly subscribeUnsafe: (topic: string, subscriber: Subscriber) => Effect.Effect<Subscription>
  readonly unsubscribe: (subscription: Subscription) => Effect.Effect<void>
  /** Ends all subscriptions that a process has to a topic. */
  readonly unsubscribeAll: (topic: string, pid: Process.Pid) => Effect.Effect<void>
  /** To the subscribers of all nodes but, where given, `from`. */
  readonly broadcast: (topic: string, message: unknown, from?: Process.Pid) => Effect.Effect<void, BroadcastError>
  /** To the subscribers of this node but, where given, `from`. */
  readonly localBroadcast: (topic: string, message: unknown, from?: Process.Pid) => Effect.Effect<void>
  /** To the subscribers of one node, which may be this one. An unknown node is no error. */
  readonly directBroadcast: (node: string, topic: string, message: unknown) => Effect.Effect<void, BroadcastError>
  /** How many subscribers a topic has on this node. */
  readonly subscriberCount: (topic: string) => number
  /** The topics that have subscribers on this node. */
  readonly topics: () => ReadonlyArray<string>
  /** The state of the way to the other nodes. */
  readonly status: Effect.Effect<Status>
  /** The number of times the way to the other nodes was lost; their messages meanwhile are missing. 0 on a single node. */
  readonly outages: () => number
  /** Calls the listener whenever the way is found again; returns a function that takes it away. It must not throw. */
  readonly onBack: (listener: () => void) => () => void
}>()("effect-channels/PubSub") {}

/**
 * Subscribes a process to a topic: messages come to its mailbox, as `wrap` makes them. The subscription ends with the
 * process. When `wrap` throws, this process crashes, as if its handler had thrown; the broadcaster and the other subscribers
 * go on.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process, PubSub } from "effect-channels"
 *
 * const audit = Process.spawn((self: Process.Pid<unknown>) =>
 *   Effect.gen(function*() {
 *     yield* PubSub.subscribe(self, "users", (message) => message)
 *     return { handle: (message: unknown) => Effect.logInfo(message) }
 *   })
 * )
 * ```
 */
export const subscribe = <M>(
  pid: Process.Pid<M>,
  topic: string,
  wrap: (message: unknown) => M
): Effect.Effect<Subscription, never, PubSub> =>
  PubSub.use((pubsub) =>
    Effect.suspend(() => pubsub.subscribe(topic, new Wrapping(pid, topic, callable("wrap", wrap))))
  )

/** Hands what `wrap` makes of messages to a process, which pays for what `wrap` throws. */
class Wrapping<M> implements Subscriber {
  readonly pid: Process.Pid<M>
  private readonly process: process.Process
  private readonly topic: string
  private readonly wrap: (message: unknown) => M
  private failed = false

  constructor(pid: Process.Pid<M>, topic: string, wrap: (message: unknown) => M) {
    this.pid = pid
    this.process = Process.fromPid(pid)
    this.topic = topic
    this.wrap = wrap
  }

  deliver(message: unknown): void {
    // The process is about to crash, and one reason is enough.
    if (this.failed) return
    let wrapped: M
    try {
      wrapped = this.wrap(message)
    } catch (defect) {
      this.failed = true
      this.process.push(new process.Fault(defect, { topic: brief(this.topic), function: "wrap" }))
      return
    }
    this.process.push(wrapped)
  }
}

/** Ends all subscriptions that a process has to a topic; harmless when it has none. */
export const unsubscribe = (pid: Process.Pid, topic: string): Effect.Effect<void, never, PubSub> =>
  PubSub.use((pubsub) => pubsub.unsubscribeAll(topic, pid))

/**
 * Sends a message to all subscribers of a topic, on every node.
 *
 * @param message - plain data when there are other nodes: what JSON can say, and `Uint8Array`
 */
export const broadcast = (topic: string, message: unknown): Effect.Effect<void, BroadcastError, PubSub> =>
  PubSub.use((pubsub) => pubsub.broadcast(topic, message))

/** As {@link broadcast}, but not to the process `from`. */
export const broadcastFrom = (
  from: Process.Pid,
  topic: string,
  message: unknown
): Effect.Effect<void, BroadcastError, PubSub> => PubSub.use((pubsub) => pubsub.broadcast(topic, message, from))

/** As {@link broadcast}, to the subscribers of this node only. */
export const localBroadcast = (topic: string, message: unknown): Effect.Effect<void, never, PubSub> =>
  PubSub.use((pubsub) => pubsub.localBroadcast(topic, message))

/** As {@link broadcastFrom}, to the subscribers of this node only. */
export const localBroadcastFrom = (
  from: Process.Pid,
  topic: string,
  message: unknown
): Effect.Effect<void, never, PubSub> => PubSub.use((pubsub) => pubsub.localBroadcast(topic, message, from))

/** As {@link broadcast}, to the subscribers of one node. */
export const directBroadcast = (
  node: string,
  topic: string,
  message: unknown
): Effect.Effect<void, BroadcastError, PubSub> => PubSub.use((pubsub) => pubsub.directBroadcast(node, topic, message))

/**
 * Whether messages reach the other nodes just now, for a route that tells a load balancer if this node is ready. A single
 * node is always `connected`.
 */
export const status: Effect.Effect<Status, never, PubSub> = PubSub.use((pubsub) => pubsub.status)

/** The PubSub of a single node, and the node itself: everything that sockets and channels run on. */
export const layer: Layer.Layer<PubSub | Process.System> = Layer.suspend(() =>
  layerAdapter(() => Effect.succeed(single))
)

/**
 * The PubSub of a node that is connected to others by an adapter. When it closes, the processes of the node end first, and
 * then the adapter, with the processes that were started while it was made.
 *
 * @param make - makes the adapter; it is given the function that delivers to the subscribers of this node
 */
export const layerAdapter = <E, R>(
  make: (deliver: (topic: string, message: unknown) => void) => Effect.Effect<Adapter, E, R>
): Layer.Layer<PubSub | Process.System, E, Exclude<Exclude<R, Scope.Scope>, Process.System>> =>
  Layer.effect(
    PubSub,
    Effect.gen(function*() {
      const context = yield* Effect.context<never>()
      const fork = Effect.runForkWith(context)
      const system = yield* Process.System
      const complaints = new Complaints(system.timers, context)
      let topics: Topics | undefined
      const adapter = yield* callable("layerAdapter: make", make)((topic, message) => {
        try {
          topics?.dispatch(topic, message)
        } catch (defect) {
          // A message of another node that cannot be encoded here: the sender is far away, and the adapter is not to blame.
          complaints.say("Error", "message of another node cannot be encoded: nobody here gets it", {
            topic: brief(topic)
          }, Cause.die(defect))
        }
      })
      text("the adapter's node", adapter.node)
      const guarded = adapter === single ? single : guardedOf(adapter)
      // The last words of processes are for the other nodes too: they end before the adapter does, its own ones after it.
      const own = new Set(system.children)
      yield* Effect.addFinalizer(() => Process.shutdownChildren(system.children, own))
      topics = new Topics(guarded, fork, new Guard(complaints))
      return PubSub.of(service(guarded, topics, isTraced(context)))
    })
  ).pipe(Layer.provideMerge(Process.System.layer))

/** An adapter whose methods throw nothing: they are called on stacks of others, such as that of a process that ends. */
const guardedOf = (adapter: Adapter): Adapter => {
  const call = <A, E>(method: () => Effect.Effect<A, E>): Effect.Effect<A, E> => attempt(() => effectOf(method()))
  return {
    node: adapter.node,
    broadcast: (topic, message) => call(() => adapter.broadcast(topic, message)),
    direct: (node, topic, message) => call(() => adapter.direct(node, topic, message)),
    joined: (topic) => call(() => adapter.joined(topic)),
    left: (topic) => call(() => adapter.left(topic)),
    status: Effect.suspend(() => adapter.status === undefined ? connected : effectOf(adapter.status)),
    outages: () => adapter.outages?.() ?? 0,
    onBack: (listener) => adapter.onBack?.(listener) ?? (() => {})
  }
}

const connected: Effect.Effect<Status> = Effect.succeed("connected")

const service = (adapter: Adapter, topics: Topics, traced: boolean): PubSub["Service"] => {
  const dispatch = (topic: string, message: unknown, from?: Process.Pid) =>
    Effect.sync(() => topics.dispatch(topic, message, from && Process.fromPid(from)))
  const subscribe = (topic: string, subscriber: Subscriber): Effect.Effect<Subscription> => {
    const { entry, live } = topics.add(topic, Process.fromPid(subscriber.pid), subscriber)
    const done = exitOf(live)
    if (done?._tag === "Success") return Effect.succeed(entry)
    return Effect.as(live, entry).pipe(Effect.onError(() => Effect.sync(() => topics.remove(entry))))
  }
  return {
    node: adapter.node,
    subscribe: (topic, subscriber) => Effect.suspend(() => subscribe(topic, subscriber)),
    subscribeUnsafe: subscribe,
    unsubscribe: (subscription) =>
      Effect.sync(() => {
        if (subscription instanceof Entry) topics.remove(subscription)
      }),
    unsubscribeAll: (topic, pid) => Effect.sync(() => topics.removeAll(topic, Process.fromPid(pid))),
    broadcast: (topic, message, from) => {
      const broadcast = Effect.flatMapEager(adapter.broadcast(topic, message), () => dispatch(topic, message, from))
      if (!traced) return broadcast
      // Clients may have made them up.
      const event = isBroadcast(message) ? { "channels.event": brief(message.event) } : {}
      const options = { kind: "producer", attributes: { "channels.topic": brief(topic), ...event } } as const
      return inSpan("channels.broadcast", options, (exit) => exit._tag === "Success" ? "ok" : "error", () => broadcast)
    },
    localBroadcast: dispatch,
    directBroadcast: (node, topic, message) =>
      node === adapter.node ? dispatch(topic, message) : adapter.direct(node, topic, message),
    subscriberCount: (topic) => topics.count(topic),
    topics: () => topics.names,
    status: adapter.status ?? connected,
    outages: () => adapter.outages?.() ?? 0,
    onBack: (listener) => adapter.onBack?.(listener) ?? (() => {})
  }
}

const single: Adapter = {
  node: "local",
  broadcast: () => Effect.void,
  direct: () => Effect.void,
  joined: () => Effect.void,
  left: () => Effect.void
}
