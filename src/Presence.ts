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
import { Context, type Duration, Effect, Fiber, Layer, Schema, type Scope } from "effect"
import { erase } from "./internal/erase.ts"
import { Lane } from "./internal/lane.ts"
import { callable, duration, text } from "./internal/options.ts"
import type { Changes } from "./internal/pending.ts"
import { Handling, Room, Told } from "./internal/room.ts"
import { SteadyMap } from "./internal/steadyMap.ts"
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
  /** The topic of the PubSub, where that is another one: its presences are those of the latter. */
  readonly pubsubTopic?: string | undefined
}

/** A topic, or a channel that has joined it. */
export type Topic = string | { readonly topic: string; readonly pubsubTopic?: string | undefined }

/** What a presence does beside keeping track; all of it may be left out. */
export interface Handlers<out RF = never, out RM = never> {
  /**
   * Adds to presences what everybody is to see of them, names from a database, say: called once for all keys of a list, and
   * once for the joins and once for the leaves of each diff, also where there are none. It keeps `metas`. It may take its
   * time, up to `handlerTimeout`: the diffs of a topic stay in order, and other topics do not wait for it. What it adds is
   * plain data. When it fails, takes too long, or adds something else, that is logged, and lists and diffs go out without
   * what it adds. Default: as they are.
   */
  readonly fetch?: ((topic: string, entries: Entries) => Effect.Effect<Entries, never, RF>) | undefined
  /**
   * Told of every diff after it was broadcast on this node, as fetched, with the metas of all who are present after it: for
   * what reacts on the server. It runs on every node (`init/1` and `handle_metas/4` of Phoenix; state is a variable). The next
   * diff of the topic waits for it, up to `handlerTimeout`.
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
   * Phoenix does. Only when more than 32 changes wait, or telling each to every member would be more than 2,000 deliveries,
   * those of a topic are told together.
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
   * that contradict each other or make no sense are a defect, an `OptionError`.
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
   * @param meta - plain data that everybody on the topic is sent; a frozen copy of it is kept
   * @returns the presence's `phx_ref`; fails with `ALREADY_TRACKED` if this channel has the key already, with `INVALID_META`
   *   if the meta is no plain data, and with `TOO_LARGE` if it is larger than `maxMetaBytes`
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
   * @returns the new `phx_ref`, the old one is `phx_ref_prev`; fails with `NOT_TRACKED` if there is no such presence, and with
   *   `INVALID_META` and `TOO_LARGE` as `track` does
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
  text("Presence.make: name", name)
  const handler = Context.Service<Handler<Name>, Service>(`effect-channels/Presence/${name}`)
  const use = <A, E>(f: (service: Service) => Effect.Effect<A, E>) => Effect.flatMap(Effect.service(handler), f)
  const topicOf = (topic: Topic) => typeof topic === "string" ? topic : topic.pubsubTopic ?? topic.topic
  const presence: Presence<Name> = {
    name,
    handler,
    // The services that the handlers need are in the context of the Layer.
    layer: (handlers = {}, options = {}) => Layer.effect(handler, start(name, erase(handlers), options)),
    track: (present, key, meta) => use(({ tracker }) => tracker.track(present.pid, topicOf(present), key, meta)),
    untrack: (present, key) => use(({ tracker }) => tracker.untrack(present.pid, topicOf(present), key)),
    update: (present, key, meta) => use(({ tracker }) => tracker.update(present.pid, topicOf(present), key, meta)),
    list: (of) =>
      use(({ fetch, tracker }) => Effect.suspend(() => fetch(topicOf(of), entriesOf(tracker.list(topicOf(of)))))),
    getByKey: (of, key) =>
      use(({ fetch, tracker }) =>
        Effect.suspend(() => {
          const metas = tracker.getByKey(topicOf(of), key)
          if (metas.length === 0) return Effect.undefined
          return Effect.map(
            fetch(topicOf(of), entriesOf(new Map([[key, metas]]))),
            (entries) => Object.hasOwn(entries, key) ? entries[key] : undefined
          )
        })
      ),
    gracefulPermdown: use(({ tracker }) => tracker.gracefulPermdown)
  }
  return presence
}

// --- inside -----------------------------------------------------------------------------------------------------------

const entriesOf = (presences: ReadonlyMap<string, ReadonlyArray<Meta>>): Entries => {
  const entries: { [key: string]: Entry } = Object.create(null)
  for (const [key, metas] of presences) entries[key] = { metas }
  return entries
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
    const { coalesce, handlerTimeout = "5 seconds" } = options
    const window = coalesce === undefined ? undefined : duration("coalesce", coalesce)
    const limit = duration("handlerTimeout", handlerTimeout, { unlimited: true })
    for (const handler of ["fetch", "handleMetas"] as const) {
      if (handlers[handler] !== undefined) callable(handler, handlers[handler])
    }
    const context = yield* Effect.context<never>()
    const pubsub = yield* PubSub.PubSub
    const system = yield* Process.System
    const doors = new Handling(name, handlers, system, context, limit)
    const told = new Told()
    const rooms = new SteadyMap<string, Room>()
    /** A process of its own: it works off diffs after whoever tracks has gone on. */
    let teller: Process.Pid<Changed | Due> | undefined
    const child = Supervisor.child({
      id: `presence ${name} diffs`,
      start: (self: Process.Pid<Changed | Due>) =>
        Effect.sync(() => {
          teller = self
          const process = Process.fromPid(self)
          const fork = <A>(effect: Effect.Effect<A>): Fiber.Fiber<A> => {
            const fiber = Effect.runForkWith(context)(effect)
            return fiber.pollUnsafe() === undefined ? Fiber.runIn(fiber, process) : fiber
          }
          const isOver = () => process.status === "ending" || process.status === "ended"
          const open = (topic: string, before?: Room) => {
            const room: Room = new Room(
              topic,
              pubsub,
              doors,
              (next) => new Lane(() => isOver() ? undefined : next(), fork),
              () => void (rooms.get(topic) === room && rooms.delete(topic)),
              told,
              before
            )
            rooms.set(topic, room)
            return room
          }
          // Started again, it does not get what was due to the one before.
          for (const [topic, room] of rooms) open(topic, room).flush()
          const crowded = new Set<Room>()
          const add = (topic: string, changes: Changes): Effect.Effect<unknown> => {
            const room = rooms.get(topic) ?? open(topic)
            const isFirst = room.add(changes)
            if (window !== undefined) return isFirst ? Process.sendAfter(self, new Due(topic), window) : Effect.void
            // Once there is a storm, all that waits is collected.
            const isStorm = crowded.has(room) || room.isStorm(process.mailboxLength)
            if (isStorm) crowded.add(room)
            if (!isStorm || room.isFull) room.flush()
            return Effect.void
          }
          const behaviour: Process.Behaviour<Changed | Due> = {
            handle: (message) => {
              const effect = message instanceof Due
                ? Effect.sync(() => rooms.get(message.topic)?.flush())
                : Effect.forEach(message.diff, ([topic, changes]) => add(topic, changes), { discard: true })
              if (crowded.size === 0 && process.mailboxLength > 0) return effect
              return Effect.map(effect, () => {
                if (process.mailboxLength > 0) return
                for (const room of crowded) room.flush()
                crowded.clear()
              })
            }
          }
          return behaviour
        })
    })
    yield* Supervisor.keep({ children: [child], label: `presence ${name}` })
    const tracker: Tracker.Tracker = yield* Tracker.make(
      name,
      (diff) => {
        if (teller !== undefined) Process.sendUnsafe(teller, new Changed(diff))
        return Effect.void
      },
      options
    )
    return { tracker, fetch: (topic, entries) => doors.fetchInPlace(topic, entries) }
  })
