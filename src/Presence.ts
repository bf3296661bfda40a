/**
 * Who is here: presences by topic, on every node, for clients that use the `Presence` of phoenix.js.
 *
 * Describe it with {@link make}, provide its `layer`, and let channels `track` themselves. Members of the topic are sent
 * `presence_diff` by themselves; the state at the time of a join is pushed by the channel, as `presence_state`. A channel
 * whose contract names its outgoing events names these two as well: see {@link outgoing}.
 *
 * The model is Phoenix.Presence (https://hexdocs.pm/phoenix/Phoenix.Presence.html).
 *
 * @example
 * ```ts
 * import { Context, Effect, Layer } from "effect"
 * import { Channel, Presence, PubSub } from "effect-channels"
 *
 * class User extends Context.Service<User, { readonly id: string }>()("app/User") {}
 *
 * const Online = Presence.make("online")
 *
 * const Room = Channel.make("room:*", { assigns: User })
 * const RoomLive = Room.layer(Effect.fnUntraced(function*(room) {
 *   const { id } = yield* User
 *   yield* room.send("after join")
 *   return {
 *     handleInfo: () =>
 *       Effect.gen(function*() {
 *         yield* room.push("presence_state", yield* Online.list(room))
 *         yield* Online.track(room, id, { device: "phone" })
 *       }).pipe(Effect.orDie)
 *   }
 * }))
 *
 * const Live = RoomLive.pipe(Layer.provide(Online.layer()), Layer.provide(PubSub.layer))
 * ```
 *
 * In the browser:
 *
 * ```js
 * const presence = new Presence(channel)
 * presence.onSync(() => show(presence.list((id, { metas }) => `${id} (${metas.length})`)))
 * ```
 */
import { Context, type Duration, Effect, Layer, Schema, type Scope } from "effect"
import { erase } from "./internal/erase.ts"
import * as Message from "./Message.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Supervisor from "./Supervisor.ts"
import * as Tracker from "./Tracker.ts"

// --- what clients are sent --------------------------------------------------------------------------------------------

/** What is known of a presence: what was tracked, and its `phx_ref`. See `Tracker.Meta`. */
export type Meta = Tracker.Meta

/** All that is known under one key, one entry in `metas` for each process that is present; `fetch` may add to it. */
export interface Entry {
  readonly metas: ReadonlyArray<Meta>
  readonly [name: string]: unknown
}

/** Presences by key: the payload of `presence_state`. It has no prototype, so that any key will do. */
export interface Entries {
  readonly [key: string]: Entry
}

/** The payload of `presence_diff`: an update is a leave and a join under the same key. */
export interface Diff {
  readonly joins: Entries
  readonly leaves: Entries
}

/**
 * The events of a presence, for the contract of a channel: without them a contract with `outgoing` lets the channel push no
 * `presence_state`, and intercept no `presence_diff`. Clients are sent `presence_diff` either way.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Channel, Presence } from "effect-channels"
 *
 * const Room = Channel.make("room:*", {
 *   outgoing: { ...Presence.outgoing, said: Schema.Struct({ body: Schema.String }) }
 * })
 * ```
 */
export const outgoing: {
  readonly presence_state: Schema.Codec<Entries>
  readonly presence_diff: Schema.Codec<Diff>
} = {
  // They come from `list`, and from the presence itself, and may be large: nothing is left to be checked.
  presence_state: erase(Schema.Unknown),
  presence_diff: erase(Schema.Unknown)
}

// --- the presence as a value ------------------------------------------------------------------------------------------

/**
 * A process that is present, and in which topic: a channel, or `{ pid, topic }` for any process of this node
 * (`Phoenix.Presence.track/4`).
 */
export interface Present {
  readonly pid: Process.Pid
  readonly topic: string
}

/** A topic, or a channel that has joined it. */
export type Topic = string | { readonly topic: string }

/** What a presence does beside keeping track; all of it may be left out. */
export interface Handlers<out RF = never, out RM = never> {
  /**
   * Adds to presences what everybody is to see of them, names from a database, say: called once for all keys of a list, and
   * once for the joins and once for the leaves of each diff, also where there are none. It keeps `metas`. It may take its
   * time: diffs stay in order. When it dies in a diff, that diff is logged and lost. Default: as they are.
   */
  readonly fetch?: ((topic: string, entries: Entries) => Effect.Effect<Entries, never, RF>) | undefined
  /**
   * Told of every diff after it was broadcast on this node, as fetched, with the metas of all who are present after it: for
   * what reacts on the server. It runs on every node (`init/1` and `handle_metas/4` of Phoenix; state is a variable).
   */
  readonly handleMetas?:
    | ((topic: string, diff: Diff, presences: Entries) => Effect.Effect<unknown, never, RM>)
    | undefined
}

/** Options of `layer`. */
export interface Options extends Tracker.Options {
  /**
   * Collects changes of a topic for so long, and broadcasts them as one diff; who comes and goes within it is in none. In a
   * storm of N joins every member then gets a few large diffs in place of N small ones. Default: each change at once, as
   * Phoenix does.
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
  /** The key under which `layer` provides it. */
  readonly handler: Context.Key<Handler<Name>, Service>
  /**
   * Keeps track, on this node and with all others. Provide it once, below the channels that use it and above PubSub. Options
   * that contradict each other are a defect, a `RangeError`.
   *
   * @example
   * ```ts
   * import { Effect } from "effect"
   * import { Presence } from "effect-channels"
   *
   * const Online = Presence.make("online")
   *
   * // In place of the names: one query for all ids.
   * const namesOf = (ids: ReadonlyArray<string>) => Effect.succeed(new Map(ids.map((id) => [id, id.toUpperCase()])))
   *
   * const OnlineLive = Online.layer({
   *   fetch: (_topic, entries) =>
   *     Effect.map(namesOf(Object.keys(entries)), (names) =>
   *       Object.fromEntries(
   *         Object.entries(entries).map(([id, { metas }]) => [id, { metas, name: names.get(id) }])
   *       ))
   * }, { coalesce: "50 millis" })
   * ```
   */
  readonly layer: <RF = never, RM = never>(
    handlers?: Handlers<RF, RM>,
    options?: Options
  ) => Layer.Layer<Handler<Name>, never, PubSub.PubSub | Process.System | Exclude<RF | RM, Scope.Scope>>
  /**
   * A channel is present in its topic under a key, a user's id for example, until it ends or is untracked. Several channels
   * may share a key: the tabs of one user. Before the join is done it counts already; its client then learns of it by
   * `presence_state`.
   *
   * @param meta - plain data that everybody on the topic is sent
   * @returns the presence's `phx_ref`; fails with `ALREADY_TRACKED` if this channel has the key already
   */
  readonly track: (
    self: Present,
    key: string,
    meta: Readonly<Record<string, unknown>>
  ) => Effect.Effect<string, Tracker.TrackerError, Handler<Name>>
  /** Ends a presence; harmless if there is none. */
  readonly untrack: (self: Present, key: string) => Effect.Effect<void, never, Handler<Name>>
  /**
   * Replaces what is known of a presence, or computes it from what is: `{ ...meta, typing: true }`.
   *
   * @param meta - or a function of the one that is there, which runs in the tracker; when it throws, that is a defect here
   * @returns the new `phx_ref`, the old one is `phx_ref_prev`; fails with `NOT_TRACKED` if there is no such presence
   */
  readonly update: (
    self: Present,
    key: string,
    meta: Readonly<Record<string, unknown>> | ((meta: Meta) => Readonly<Record<string, unknown>>)
  ) => Effect.Effect<string, Tracker.TrackerError, Handler<Name>>
  /** All presences of a topic on all nodes, as `presence_state` has them. */
  readonly list: (topic: Topic) => Effect.Effect<Entries, never, Handler<Name>>
  /** What is known under one key; undefined if nobody is there (`[]` in Phoenix). */
  readonly getByKey: (topic: Topic, key: string) => Effect.Effect<Entry | undefined, never, Handler<Name>>
  /**
   * Tells the other nodes that everybody on this one has left, for a node that is about to go; what is tracked after that is
   * told to nobody. A node that shuts down does so by itself, unless `permdownOnShutdown` is false.
   */
  readonly gracefulPermdown: Effect.Effect<void, never, Handler<Name>>
}

/**
 * Describes a presence: a value to track with; its `layer` does the work. Of most applications one is enough, for all topics.
 *
 * @param name - the same on all nodes; unique in an application
 */
export const make = <const Name extends string>(name: Name): Presence<Name> => {
  const handler = Context.Service<Handler<Name>, Service>(`effect-channels/Presence/${name}`)
  const use = <A, E>(f: (service: Service) => Effect.Effect<A, E>) => Effect.flatMap(Effect.service(handler), f)
  const topicOf = (topic: Topic) => typeof topic === "string" ? topic : topic.topic
  const presence: Presence<Name> = {
    name,
    handler,
    // The services that the handlers need are in the context of the Layer.
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
          return Effect.map(
            fetch(topicOf(of), group(metas.map((meta) => [key, meta]))),
            (entries) => Object.hasOwn(entries, key) ? entries[key] : undefined
          )
        })
      ),
    gracefulPermdown: use(({ tracker }) => tracker.gracefulPermdown)
  }
  return presence
}

// --- inside -----------------------------------------------------------------------------------------------------------

type Change = readonly [key: string, meta: Meta]

interface Changes {
  readonly joins: ReadonlyArray<Change>
  readonly leaves: ReadonlyArray<Change>
}

const listed = (presences: ReadonlyMap<string, ReadonlyArray<Meta>>): ReadonlyArray<Change> =>
  Array.from(presences).flatMap(([key, metas]) => metas.map((meta): Change => [key, meta]))

/** Presences by key. */
const group = (changes: Iterable<Change>): Entries => {
  const entries: { [key: string]: { readonly metas: Array<Meta> } } = Object.create(null)
  for (const [key, meta] of changes) (entries[key] ??= { metas: [] }).metas.push(meta)
  return entries
}

/**
 * What has changed in a topic and was not told yet; of each state of a presence the last change. One that has come and gone
 * is told as gone: somebody may have seen it in a list, which runs ahead of the diffs.
 */
class Pending {
  private readonly joined = new Map<string, Change>()
  private readonly left = new Map<string, Change>()

  add({ joins, leaves }: Changes): void {
    for (const change of leaves) note(change, this.joined, this.left)
    for (const change of joins) note(change, this.left, this.joined)
  }

  get changes(): Changes {
    return { joins: [...this.joined.values()], leaves: [...this.left.values()] }
  }
}

const note = (change: Change, opposite: Map<string, Change>, changes: Map<string, Change>): void => {
  const ref = change[1].phx_ref
  opposite.delete(ref)
  changes.set(ref, change)
}

/** Who is present by what was told so far, which may be less than the tracker knows: for `handleMetas`. */
class Told {
  private readonly topics = new Map<string, Map<string, Change>>()

  apply(topic: string, { joins, leaves }: Changes): void {
    const present = this.topics.get(topic) ?? new Map<string, Change>()
    for (const [, { phx_ref }] of leaves) present.delete(phx_ref)
    for (const change of joins) present.set(change[1].phx_ref, change)
    if (present.size === 0) this.topics.delete(topic)
    else this.topics.set(topic, present)
  }

  list(topic: string): Entries {
    return group(this.topics.get(topic)?.values() ?? [])
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
    const told = new Told()

    /** Tells everybody on this node; the other nodes tell theirs. */
    const tell = Effect.fnUntraced(function*(topic: string, { joins, leaves }: Changes) {
      const diff = { joins: yield* fetch(topic, group(joins)), leaves: yield* fetch(topic, group(leaves)) }
      yield* pubsub.localBroadcast(topic, Message.broadcast(topic, "presence_diff", diff))
      if (handleMetas !== undefined) {
        yield* Effect.provideContext(handleMetas(topic, diff, told.list(topic)), context)
      }
    }, (effect, topic) =>
      // A fault of the application in one diff is no reason to keep back the next one.
      Effect.catchCause(
        effect,
        (cause) => Effect.logError("presence diff failed", cause).pipe(Effect.annotateLogs({ presence: name, topic }))
      ))

    const pending = new Map<string, Pending>()
    const flush = (topic: string) => {
      const changes = pending.get(topic)?.changes
      pending.delete(topic)
      if (changes === undefined || changes.joins.length + changes.leaves.length === 0) return Effect.void
      if (handleMetas !== undefined) told.apply(topic, changes)
      return tell(topic, changes)
    }
    const add = (teller: Process.Pid<Changed | Due>, topic: string, changes: Changes): Effect.Effect<unknown> => {
      const known = pending.get(topic)
      const collected = known ?? new Pending()
      collected.add(changes)
      pending.set(topic, collected)
      if (options.coalesce === undefined) return flush(topic)
      return known === undefined ? Process.sendAfter(teller, new Due(topic), options.coalesce) : Effect.void
    }
    /** A process of its own: `fetch` may take its time, and the diffs stay in order. */
    let teller: Process.Pid<Changed | Due> | undefined
    const child = Supervisor.child({
      id: `presence ${name} diffs`,
      start: (self: Process.Pid<Changed | Due>) => {
        teller = self
        const behaviour: Process.Behaviour<Changed | Due> = {
          handle: (message) =>
            message instanceof Due
              ? flush(message.topic)
              : Effect.forEach(message.diff, ([topic, changes]) => add(self, topic, changes), { discard: true })
        }
        // Started again it does not get what was due to the one before.
        return Effect.as(Effect.forEach([...pending.keys()], flush, { discard: true }), behaviour)
      }
    })
    yield* Supervisor.keep({ children: [child], label: `presence ${name}` })
    const tracker: Tracker.Tracker = yield* Tracker.make(
      name,
      (diff) => teller === undefined ? Effect.void : Process.send(teller, new Changed(diff)),
      options
    )
    return { tracker, fetch }
  })
