/**
 * Who is here: presences by topic, on every node, for clients that use the `Presence` of phoenix.js.
 *
 * Describe it with {@link make}, provide its `layer`, and let channels `track` themselves. Members of the topic are sent
 * `presence_diff` by themselves; the state at the time of a join is pushed by the channel, as `presence_state`.
 *
 * The model is Phoenix.Presence (https://hexdocs.pm/phoenix/Phoenix.Presence.html).
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Channel, Presence } from "effect-channels"
 *
 * const Online = Presence.make("online")
 *
 * const Room = Channel.make("room:*")
 * const RoomLive = Room.layer((room, payload) =>
 *   Effect.as(room.send("after join"), {
 *     handleInfo: () =>
 *       Effect.gen(function*() {
 *         yield* Online.track(room, String(payload), { device: "phone" })
 *         yield* room.push("presence_state", yield* Online.list(room))
 *       }).pipe(Effect.orDie)
 *   })
 * )
 * ```
 */
import { Context, type Duration, Effect, Layer, type Scope } from "effect"
import { erase } from "./internal/erase.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Tracker from "./Tracker.ts"

/** What is known of a presence; see `Tracker.Meta`. */
export type Meta = Tracker.Meta

/** All that is known under one key, one entry in `metas` for each process; `fetch` may add to it. */
export interface Entry {
  readonly metas: ReadonlyArray<Meta>
  readonly [name: string]: unknown
}

/** Presences by key: the payload of `presence_state`. It has no prototype, so that any key will do. */
export interface Entries {
  readonly [key: string]: Entry
}

/** The payload of `presence_diff`. */
export interface Diff {
  readonly joins: Entries
  readonly leaves: Entries
}

/** A process that is present, and the topic: a channel, or what a test or another process says it is. */
export interface Present {
  readonly pid: Process.Pid
  readonly topic: string
}

/** What a presence does beside keeping track; all of it may be left out. */
export interface Handlers<R = never> {
  /**
   * Adds to presences what everybody is to see of them, names from a database, say: once for all keys of a list, and once for
   * the joins and once for the leaves of a diff. It keeps `metas`. Default: as they are.
   */
  readonly fetch?: ((topic: string, entries: Entries) => Effect.Effect<Entries, never, R>) | undefined
  /** Told of every diff after it was broadcast, with all presences of the topic: for what reacts on the server. */
  readonly handleMetas?:
    | ((topic: string, diff: Diff, presences: Entries) => Effect.Effect<unknown, never, R>)
    | undefined
}

/** Options of `layer`. */
export interface Options extends Tracker.Options {
  /**
   * Collects changes of a topic for so long, and broadcasts them as one diff. In a storm of N joins every member then gets a
   * few large diffs in place of N small ones. Default: each change at once, as Phoenix does.
   */
  readonly coalesce?: Duration.Input | undefined
}

/** The service that stands for a presence; its `layer` provides it. */
export interface Handler<Name extends string> {
  readonly "~effect-channels/Presence/Handler": Name
}

/** What the `layer` of a presence provides. */
export interface Service {
  readonly tracker: Tracker.Tracker
  readonly fetch: (topic: string, entries: Entries) => Effect.Effect<Entries>
}

/** A presence as a value; made by {@link make}. */
export interface Presence<Name extends string> {
  readonly name: Name
  readonly handler: Context.Key<Handler<Name>, Service>
  /** Keeps track, on this node and with all others. */
  readonly layer: <R = never>(
    handlers?: Handlers<R>,
    options?: Options
  ) => Layer.Layer<Handler<Name>, never, PubSub.PubSub | Process.System | Exclude<R, Scope.Scope>>
  /**
   * A channel is present in its topic under a key, a user's id for example, until it ends or is untracked. Several channels
   * may share a key: the tabs of one user.
   *
   * @returns the presence's `phx_ref`; fails with `ALREADY_TRACKED` if this channel has the key already
   */
  readonly track: (
    self: Present,
    key: string,
    meta: Readonly<Record<string, unknown>>
  ) => Effect.Effect<string, Tracker.TrackerError, Handler<Name>>
  /** Ends a presence; harmless if there is none. */
  readonly untrack: (self: Present, key: string) => Effect.Effect<void, never, Handler<Name>>
  /** Replaces what is known of a presence, or computes it from what is; fails with `NOT_TRACKED` if there is none. */
  readonly update: (
    self: Present,
    key: string,
    meta: Readonly<Record<string, unknown>> | ((meta: Meta) => Readonly<Record<string, unknown>>)
  ) => Effect.Effect<string, Tracker.TrackerError, Handler<Name>>
  /** All presences of a topic, as `presence_state` has them. */
  readonly list: (topic: string | { readonly topic: string }) => Effect.Effect<Entries, never, Handler<Name>>
  /** What is known under one key; undefined if nobody is there. */
  readonly getByKey: (
    topic: string | { readonly topic: string },
    key: string
  ) => Effect.Effect<Entry | undefined, never, Handler<Name>>
  /** Tells the other nodes that everybody on this one has left; for a node that is about to go. */
  readonly gracefulPermdown: Effect.Effect<void, never, Handler<Name>>
}

/**
 * Describes a presence.
 *
 * @param name - the same on all nodes; unique in an application
 */
export const make = <const Name extends string>(name: Name): Presence<Name> => {
  const handler = Context.Service<Handler<Name>, Service>(`effect-channels/Presence/${name}`)
  const use = <A, E>(f: (service: Service) => Effect.Effect<A, E>) => Effect.flatMap(Effect.service(handler), f)
  const topicOf = (topic: string | { readonly topic: string }) => typeof topic === "string" ? topic : topic.topic
  const presence: Presence<Name> = {
    name,
    handler,
    layer: (handlers = {}, options = {}) => Layer.effect(handler, start(name, erase(handlers), options)),
    track: ({ pid, topic }, key, meta) => use(({ tracker }) => tracker.track(pid, topic, key, meta)),
    untrack: ({ pid, topic }, key) => use(({ tracker }) => tracker.untrack(pid, topic, key)),
    update: ({ pid, topic }, key, meta) => use(({ tracker }) => tracker.update(pid, topic, key, meta)),
    list: (of) =>
      use(({ fetch, tracker }) => Effect.suspend(() => fetch(topicOf(of), group(listed(tracker.list(topicOf(of))))))),
    getByKey: (of, key) =>
      use(({ fetch, tracker }) =>
        Effect.suspend(() => {
          const metas = tracker.getByKey(topicOf(of), key)
          if (metas.length === 0) return Effect.undefined
          return Effect.map(fetch(topicOf(of), group(metas.map((meta) => [key, meta]))), (entries) => entries[key])
        })
      ),
    gracefulPermdown: use(({ tracker }) => tracker.gracefulPermdown)
  }
  return presence
}

type Change = readonly [key: string, meta: Meta]

const listed = (presences: ReadonlyMap<string, ReadonlyArray<Meta>>): ReadonlyArray<Change> =>
  Array.from(presences).flatMap(([key, metas]) => metas.map((meta): Change => [key, meta]))

/** Presences by key. */
const group = (changes: Iterable<Change>): Entries => {
  const entries: { [key: string]: { readonly metas: Array<Meta> } } = Object.create(null)
  for (const [key, meta] of changes) (entries[key] ??= { metas: [] }).metas.push(meta)
  return entries
}

/** What has changed in a topic and was not told yet. Who comes and goes within it was never there. */
class Pending {
  private readonly joins = new Map<string, Change>()
  private readonly leaves: Array<Change> = []

  add({ joins, leaves }: { readonly joins: ReadonlyArray<Change>; readonly leaves: ReadonlyArray<Change> }): void {
    for (const change of leaves) {
      if (!this.joins.delete(change[1].phx_ref)) this.leaves.push(change)
    }
    for (const change of joins) this.joins.set(change[1].phx_ref, change)
  }

  get diff(): Diff | undefined {
    if (this.joins.size === 0 && this.leaves.length === 0) return undefined
    return { joins: group(this.joins.values()), leaves: group(this.leaves) }
  }
}

/** The message to the process of a presence: what has changed. */
class Changed {
  readonly diff: Tracker.Diff
  constructor(diff: Tracker.Diff) {
    this.diff = diff
  }
}

/** The window of a topic is over. */
class Due {
  readonly topic: string
  constructor(topic: string) {
    this.topic = topic
  }
}

const start = (
  name: string,
  handlers: Handlers,
  options: Options
): Effect.Effect<Service, never, PubSub.PubSub | Process.System | Scope.Scope> =>
  Effect.gen(function*() {
    const { handleMetas } = handlers
    const context = yield* Effect.context<never>()
    const fetch = (topic: string, entries: Entries) =>
      handlers.fetch === undefined
        ? Effect.succeed(entries)
        : Effect.provideContext(handlers.fetch(topic, entries), context)
    const pubsub = yield* PubSub.PubSub

    /** Tells everybody on this node; the other nodes tell theirs. */
    const tell = Effect.fnUntraced(function*(topic: string, { joins, leaves }: Diff) {
      const diff = { joins: yield* fetch(topic, joins), leaves: yield* fetch(topic, leaves) }
      yield* pubsub.localBroadcast(topic, Message.broadcast(topic, "presence_diff", diff))
      if (handleMetas !== undefined) {
        yield* Effect.provideContext(handleMetas(topic, diff, group(listed(tracker.list(topic)))), context)
      }
    }, (effect, topic) =>
      // A fault of the application in one diff is no reason to keep back the next one.
      Effect.catchCause(
        effect,
        (cause) => Effect.logError("presence diff failed", cause).pipe(Effect.annotateLogs({ presence: name, topic }))
      ))

    const pending = new Map<string, Pending>()
    const flush = (topic: string) => {
      const diff = pending.get(topic)?.diff
      pending.delete(topic)
      return diff === undefined ? Effect.void : tell(topic, diff)
    }
    /** A process of its own: `fetch` may take its time, and the diffs stay in order. */
    const teller = yield* Effect.acquireRelease(
      Process.spawn((self: Process.Pid<Changed | Due>) =>
        Effect.succeed({
          handle: (message: Changed | Due) => {
            if (message instanceof Due) return flush(message.topic)
            return Effect.forEach(message.diff, ([topic, change]) => {
              const known = pending.get(topic)
              const changes = known ?? new Pending()
              changes.add(change)
              pending.set(topic, changes)
              if (options.coalesce === undefined) return flush(topic)
              return known === undefined ? Process.sendAfter(self, new Due(topic), options.coalesce) : Effect.void
            }, { discard: true })
          }
        }), { label: `presence ${name}` }),
      (pid) => Process.shutdownChild(Process.fromPid(pid))
    )
    const tracker: Tracker.Tracker = yield* Tracker.make(
      name,
      (diff) => Process.send(teller, new Changed(diff)),
      options
    )
    return { tracker, fetch }
  })
