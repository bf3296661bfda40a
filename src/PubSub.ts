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
import { exitOf } from "./internal/eager.ts"
import { Entry, Topics } from "./internal/topics.ts"
import { inSpan, isTraced } from "./internal/tracing.ts"
import { isBroadcast } from "./Message.ts"
import * as Process from "./Process.ts"

/** Who gets the messages of a topic; see {@link PubSub}. */
export interface Subscriber {
  /** The process that subscribes: `broadcastFrom` leaves it out, and the subscription ends with it. */
  readonly pid: Process.Pid
  /** Called for each message, while it is being broadcast. */
  readonly deliver: (message: unknown, delivery: Delivery) => void
}

/**
 * One message on its way to the subscribers of this node: what is worth computing once for all of them is kept here. A
 * broadcast is encoded once for each serializer, not for each client.
 */
export interface Delivery {
  /** What `make` returned for this key; it is called only the first time. */
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

/** Whether messages reach the other nodes just now; see {@link status}. */
export type Status = "connected" | "reconnecting"

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
  /** Whether the others are within reach; default always. */
  readonly status?: Effect.Effect<Status> | undefined
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
  /** Whether the other nodes are within reach. */
  readonly status: Effect.Effect<Status>
}>()("effect-channels/PubSub") {}

/**
 * Subscribes a process to a topic: messages come to its mailbox, as `wrap` makes them. The subscription ends with the
 * process.
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
    pubsub.subscribe(topic, { pid, deliver: (message) => void Process.fromPid(pid).push(wrap(message)) })
  )

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
      let topics: Topics | undefined
      const adapter = yield* make((topic, message) => {
        try {
          topics?.dispatch(topic, message)
        } catch (defect) {
          // A message of another node that cannot be encoded here: the sender is far away, and the adapter is not to blame.
          fork(
            Effect.logError("a message of another node was not delivered to all", Cause.die(defect)).pipe(
              Effect.annotateLogs({ topic })
            )
          )
        }
      })
      // The last words of processes are for the other nodes too: they end before the adapter does, its own ones after it.
      const system = yield* Process.System
      const own = new Set(system.children)
      yield* Effect.addFinalizer(() => Process.shutdownChildren(system.children, own))
      return PubSub.of(service(adapter, topics = new Topics(adapter, fork), isTraced(context)))
    })
  ).pipe(Layer.provideMerge(Process.System.layer))

const service = (adapter: Adapter, topics: Topics, traced: boolean): PubSub["Service"] => {
  const dispatch = (topic: string, message: unknown, from?: Process.Pid) =>
    Effect.sync(() => topics.dispatch(topic, message, from && Process.fromPid(from)))
  const subscribe = (topic: string, subscriber: Subscriber): Effect.Effect<Subscription> => {
    const { entry, live } = topics.add(topic, Process.fromPid(subscriber.pid), subscriber)
    if (exitOf(live) !== undefined) return Effect.succeed(entry)
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
      const event = isBroadcast(message) ? { "channels.event": message.event } : {}
      const options = { kind: "producer", attributes: { "channels.topic": topic, ...event } } as const
      return inSpan("channels.broadcast", options, (exit) => exit._tag === "Success" ? "ok" : "error", () => broadcast)
    },
    localBroadcast: dispatch,
    directBroadcast: (node, topic, message) =>
      node === adapter.node ? dispatch(topic, message) : adapter.direct(node, topic, message),
    subscriberCount: (topic) => topics.count(topic),
    topics: () => topics.names,
    status: adapter.status ?? Effect.succeed("connected")
  }
}

const single: Adapter = {
  node: "local",
  broadcast: () => Effect.void,
  direct: () => Effect.void,
  joined: () => Effect.void,
  left: () => Effect.void
}
