/**
 * Who is present, on every node: processes, each with a key and what is known of it, by topic. {@link Presence} is built on
 * it; use it directly where nothing is to be broadcast to clients.
 *
 * Every node owns the presences of its own processes and keeps a copy of those of all others. Changes travel once in a
 * period, as one small packet; a node that has missed something asks for it. docs/replication.md has the whole protocol.
 *
 * The model is Phoenix.Tracker (https://hexdocs.pm/phoenix_pubsub/Phoenix.Tracker.html).
 */
import { Cause, Clock, type Context, Data, type Duration, Effect, Fiber, Random, Scope } from "effect"
import { attempt, disown, effectOf, exitOf } from "./internal/eager.ts"
import { Lane } from "./internal/lane.ts"
import { Complaints } from "./internal/limits.ts"
import { countHandlerFailure, countRefused, countWithheld } from "./internal/meter.ts"
import { callable, duration, oneOf, OptionError, text, wholeNumber } from "./internal/options.ts"
import { isPacket, type Packet, type Presence } from "./internal/packet.ts"
import { Patience } from "./internal/patience.ts"
import { Pending } from "./internal/pending.ts"
import { freeze, isObject, maxDepth, NotPlain, type Plain, plain } from "./internal/plain.ts"
import * as process from "./internal/process.ts"
import * as replica from "./internal/replica.ts"
import { brief } from "./internal/untrusted.ts"
import * as Process from "./Process.ts"
import * as PubSub from "./PubSub.ts"
import * as Supervisor from "./Supervisor.ts"

/** What is known of a presence. `phx_ref` names this state of it, `phx_ref_prev` the one before, after an update. */
export interface Meta {
  readonly [name: string]: unknown
  readonly phx_ref: string
}

/** What has changed, by topic: who has come and who has gone. An update is both, with the same key. */
export type Diff = ReadonlyMap<string, {
  readonly joins: ReadonlyArray<readonly [key: string, meta: Meta]>
  readonly leaves: ReadonlyArray<readonly [key: string, meta: Meta]>
}>

/**
 * Options of {@link make}, and of `Presence`. All nodes of a cluster need the same. One that makes no sense is a defect: an
 * `OptionError`.
 */
export interface Options {
  /** How often changes are told to the other nodes; default 1.5 seconds. */
  readonly broadcastPeriod?: Duration.Input | undefined
  /** After how many periods without a change a node tells that it lives; default 10. */
  readonly maxSilentPeriods?: number | undefined
  /**
   * The presences of a node that was not heard of for so long leave, until it is heard of again; at least two periods.
   * Default: twice the silence that is allowed, 30 seconds.
   */
  readonly downPeriod?: Duration.Input | undefined
  /**
   * After this they are forgotten; longer than `downPeriod`, `"Infinity"` for never. Default 20 minutes, or two times
   * `downPeriod` where that is more.
   */
  readonly permdownPeriod?: Duration.Input | undefined
  /** Into how many processes the topics are divided, at most 1,024; default 1. */
  readonly shards?: number | undefined
  /** Whether the other nodes are told when this one shuts down, so that its presences leave at once; default true. */
  readonly permdownOnShutdown?: boolean | undefined
  /**
   * The largest presence in bytes as JSON, which is topic, key and meta; default 65,536, `Infinity` for no limit. A larger one
   * is refused with `TOO_LARGE`, because everybody on the topic, and every other node, is sent it.
   */
  readonly maxMetaBytes?: number | undefined
  /**
   * The time of `handleDiff`, and of `fetch` and `handleMetas` of a `Presence`. When it is over they are interrupted, which is
   * logged and counted, and the next changes are told. Default 5 seconds, `"Infinity"` for no limit.
   */
  readonly handlerTimeout?: Duration.Input | undefined
}

/**
 * A presence could not be tracked or updated. By `code`:
 *
 * - `ALREADY_TRACKED`: the process has one under this topic and key.
 * - `NOT_TRACKED`: it has none.
 * - `INVALID_META`: topic and key are no texts, or the meta is no plain data: what JSON can say, at most 100 levels deep.
 *   `message` names the part.
 * - `TOO_LARGE`: the presence has more bytes than `maxMetaBytes`.
 */
export class TrackerError extends Data.TaggedError("TrackerError")<{
  readonly code: "ALREADY_TRACKED" | "NOT_TRACKED" | "INVALID_META" | "TOO_LARGE"
  readonly message: string
  readonly cause?: unknown
}> {}

/** What a tracker keeps; see `Tracker.stats`. */
export interface Stats {
  /** Presences of this node's own processes. */
  readonly own: number
  /** Copies of those of other nodes, also of nodes that are down. */
  readonly copied: number
  /** Topics that somebody is present in. */
  readonly topics: number
  /** The other nodes, by name, and whether they are up. */
  readonly nodes: ReadonlyMap<string, boolean>
}

/** A tracker; made by {@link make}. */
export interface Tracker {
  readonly name: string
  /**
   * A process is present under a topic and a key, until it is untracked or ends. Of `meta` a frozen copy is kept.
   *
   * @returns the `phx_ref` of the presence
   */
  readonly track: (
    pid: Process.Pid,
    topic: string,
    key: string,
    meta: Readonly<Record<string, unknown>>
  ) => Effect.Effect<string, TrackerError>
  /**
   * Replaces what is known of a presence, or computes it from what is; the function runs in the tracker, and what it throws
   * is a defect of the caller.
   *
   * @returns the new `phx_ref`
   */
  readonly update: (
    pid: Process.Pid,
    topic: string,
    key: string,
    meta: Readonly<Record<string, unknown>> | ((meta: Meta) => Readonly<Record<string, unknown>>)
  ) => Effect.Effect<string, TrackerError>
  /** Harmless for a presence that is not tracked. */
  readonly untrack: (pid: Process.Pid, topic: string, key: string) => Effect.Effect<void>
  /** Ends all presences of a process. */
  readonly untrackAll: (pid: Process.Pid) => Effect.Effect<void>
  /** The presences of a topic on all nodes that are up, by key. */
  readonly list: (topic: string) => ReadonlyMap<string, ReadonlyArray<Meta>>
  /** The metas under one key of a topic; empty if nobody is there. */
  readonly getByKey: (topic: string, key: string) => ReadonlyArray<Meta>
  /** How much is kept on this node, and which others it knows, for a look at a running system. */
  readonly stats: () => Stats
  /** Tells all other nodes that this one's presences have left; what is tracked after that is not told. */
  readonly gracefulPermdown: Effect.Effect<void>
}

/** Something to be done by a shard, and where its answer goes. */
class Request<A> {
  readonly run: (shard: Shard) => A
  readonly replyTo: Process.ReplyTo<Done<A>>
  constructor(run: (shard: Shard) => A, replyTo: Process.ReplyTo<Done<A>>) {
    this.run = run
    this.replyTo = replyTo
  }
}

type Done<A> = { readonly value: A } | { readonly error: TrackerError } | { readonly defect: unknown }

class Ended {
  readonly tracked: Tracked
  constructor(tracked: Tracked) {
    this.tracked = tracked
  }
}

/** The presences of a process in one shard, by topic and key. It is kept at the process, which it watches. */
class Tracked implements process.Watcher {
  readonly process: process.Process
  readonly topics = new Map<string, Map<string, number>>()
  private readonly shard: Process.Pid<unknown>

  constructor(process: process.Process, shard: Process.Pid<unknown>) {
    this.process = process
    this.shard = shard
  }

  /** The process has ended. */
  ended(): void {
    Process.sendUnsafe(this.shard, new Ended(this))
  }
}

const tick = { _tag: "Tick" }

/** The other nodes are within reach again. */
const back = { _tag: "Back" }

/** An answer of the PubSub about the way to the other nodes, for which it took its time. */
class Reach {
  readonly isReached: boolean
  readonly isTick: boolean
  constructor(isReached: boolean, isTick: boolean) {
    this.isReached = isReached
    this.isTick = isTick
  }
}

/** The most packets that wait for an adapter; what is dropped is asked for again. */
const maxPackets = 1000

interface Settings extends replica.Options {
  readonly name: string
  readonly permdownOnShutdown: boolean
  readonly maxMetaBytes: number
  readonly pubsub: PubSub.PubSub["Service"]
  readonly context: Context.Context<never>
  readonly patience: Patience
  readonly complaints: Complaints
  /** Whether the tracker ends, and not only its processes. */
  readonly isOver: () => boolean
  /** Goes on where the shard before has ended, so that no two presences have the same `phx_ref`. */
  readonly count: () => number
}

/** The process of a part of the topics: a replica, and who is tracked. */
class Shard implements process.Watcher {
  readonly replica: replica.Replica
  private readonly topic: string
  private readonly pid: Process.Pid<unknown>
  private readonly process: process.Process
  private readonly settings: Settings
  private readonly clock: Clock.Clock
  private readonly tracked = new Set<Tracked>()
  private readonly metas = new Map<number, Meta>()
  private readonly tell: (diff: Diff) => void
  private readonly packets: Array<replica.Outgoing> = []
  private readonly sending = new Lane(() => this.sendNext(), (effect) => this.fork(effect))
  private lastId = 0
  /** When the next tick is due. */
  private due = Infinity
  private outages: number

  constructor(
    topic: string,
    pid: Process.Pid<unknown>,
    settings: Settings,
    life: number,
    clock: Clock.Clock,
    tell: (diff: Diff) => void
  ) {
    this.topic = topic
    this.tell = tell
    this.outages = settings.pubsub.outages()
    this.pid = pid
    this.process = Process.fromPid(pid)
    this.process.watch(this, this)
    this.settings = settings
    this.replica = new replica.Replica({ node: settings.pubsub.node, life }, settings)
    this.clock = clock
  }

  handle(message: unknown): Effect.Effect<unknown> {
    if (message instanceof Request) return this.serve(message)
    if (message instanceof Ended) {
      this.removeAll(message.tracked)
      return Effect.void
    }
    if (message === tick || message === back) return this.look(message === tick)
    if (message instanceof Reach) return this.tick(message)
    if (!isPacket(message)) {
      this.settings.complaints.say("Warn", "tracker received a malformed packet; ignoring it", {
        tracker: this.settings.name
      })
      return Effect.void
    }
    const { diff, send } = this.replica.receive(this.checked(message), this.now)
    this.tell(diff)
    return this.publish(send)
  }

  /** Empties metas that cannot be encoded for clients here, whatever the other node has taken. */
  private checked(packet: Packet): Packet {
    if (packet.type !== "delta" && packet.type !== "snapshot") return packet
    const isFlat = packet.present.map(([, , , meta]) => freeze(meta))
    if (isFlat.every((flat) => flat)) return packet
    this.settings.complaints.say(
      "Error",
      `another node has tracked a meta that is nested deeper than ${maxDepth} levels; it is shown without it here`,
      { tracker: this.settings.name, node: packet.from.node }
    )
    return {
      ...packet,
      present: packet.present.map((presence, index): Presence => {
        const [id, topic, key, { phx_ref }] = presence
        return isFlat[index] === true ? presence : [id, topic, key, { phx_ref }]
      })
    }
  }

  /** Asks whether others are within reach. An adapter that takes its time does not hold up who tracks. */
  private look(isTick: boolean): Effect.Effect<unknown> {
    const { patience, pubsub } = this.settings
    const ask = Effect.map(
      patience.run(() => pubsub.status),
      (exit) => new Reach(exit?._tag !== "Success" || exit.value !== "reconnecting", isTick)
    )
    const fiber = this.fork(ask)
    const known = fiber.pollUnsafe()
    if (known?._tag === "Success") return this.tick(known.value)
    fiber.addObserver((exit) => void (exit._tag === "Success" && Process.sendUnsafe(this.pid, exit.value)))
    return Effect.void
  }

  private tick({ isReached, isTick }: Reach): Effect.Effect<unknown> {
    const { now } = this
    const { period, pubsub } = this.settings
    // Later than it may be under load: this node was stopped, or did something else for all that time.
    if (now - this.due > period) this.replica.absent(now - this.due, now)
    const outages = pubsub.outages()
    if (!isTick || outages !== this.outages) this.replica.cutOff()
    this.outages = outages
    // Packets that an adapter has not taken yet must not pile up.
    const { diff, send } = this.replica.tick(now, isReached && !this.sending.isBusy)
    this.tell(diff)
    const publish = this.publish(send)
    return isTick ? Effect.andThen(publish, this.tickIn(period)) : publish
  }

  /** A shard that starts again does not wait for the cluster, because processes of this node wait for the shard. */
  goOn(live: Effect.Effect<unknown>): void {
    this.fork(Effect.map(Effect.exit(live), (exit) => {
      if (exit._tag === "Success") Process.sendUnsafe(this.pid, back)
      else this.process.quit(process.crash(exit.cause))
    }))
  }

  tickIn(millis: number): Effect.Effect<unknown> {
    this.due = this.now + millis
    return Process.sendAfter(this.pid, tick, millis)
  }

  private get now(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  private serve<A>({ replyTo, run }: Request<A>): Effect.Effect<unknown> {
    let done: Done<A>
    try {
      done = { value: run(this) }
    } catch (error) {
      // A fault in the function of an update is that of its caller: everybody else stays present.
      done = error instanceof TrackerError ? { error } : { defect: error }
    }
    return Process.reply(replyTo, done)
  }

  /** Tells the other nodes. Nobody waits for it. */
  private publish(send: ReadonlyArray<replica.Outgoing>): Effect.Effect<void> {
    for (const out of send) if (this.packets.length < maxPackets) this.packets.push(out)
    this.sending.wake()
    return Effect.void
  }

  private sendNext(): Effect.Effect<void> | undefined {
    const out = this.packets.shift()
    return out && this.send(out)
  }

  private fork<A>(effect: Effect.Effect<A>): Fiber.Fiber<A> {
    const fiber = Effect.runForkWith(this.settings.context)(effect)
    return fiber.pollUnsafe() === undefined ? Fiber.runIn(fiber, this.process) : fiber
  }

  /** What does not arrive is asked for: the next packet tells that it is missing. */
  private send(out: replica.Outgoing): Effect.Effect<void> {
    const { patience, pubsub } = this.settings
    const { packet, to } = out
    return Effect.flatMap(
      patience.run(() =>
        to === undefined
          ? pubsub.broadcast(this.topic, packet, this.pid)
          : pubsub.directBroadcast(to, this.topic, packet)
      ),
      (exit) => exit?._tag === "Failure" ? this.sendLess(out, exit.cause) : Effect.void
    )
  }

  /** A packet is too large, or has something in it that is no plain data: what others may know is told all the same. */
  private sendLess({ cut }: replica.Outgoing, cause: Cause.Cause<PubSub.BroadcastError>): Effect.Effect<void> {
    const error = Cause.squash(cause)
    if (error instanceof PubSub.BroadcastError && error.code === "UNAVAILABLE") return Effect.void
    const { send, withheld } = cut?.() ?? { send: [] }
    const rest = Effect.forEach(send, (out) => this.send(out), { discard: true })
    if (withheld === undefined) {
      return send.length > 0 ? rest : Effect.logError("other nodes cannot be told of this one", cause)
    }
    const [, topic, key] = withheld
    const { context, name } = this.settings
    countWithheld(name, 1, context)
    return Effect.logError("a presence cannot be told to other nodes: only this one shows it", cause).pipe(
      Effect.annotateLogs({ tracker: name, topic: brief(topic), key: brief(key) }),
      Effect.andThen(rest)
    )
  }

  bye(): Effect.Effect<void> {
    return this.send(this.replica.bye())
  }

  /** The leaves of all presences, for everybody here when this shard is lost. */
  forgetAll(): Diff {
    return this.replica.forgetAll()
  }

  terminate(reason: Process.ExitReason): Effect.Effect<void> {
    return this.settings.permdownOnShutdown && Process.isGraceful(reason) ? this.bye() : Effect.void
  }

  /** This process has ended. */
  ended(_: process.Peer, reason: Process.ExitReason): void {
    for (const { process } of this.tracked) {
      // They believe to be present, and are not: who joins again is tracked again.
      if (this.settings.isOver()) process.unwatch(this.process)
      else process.linkEnded(this.process, reason._tag === "Normal" ? Process.shutdown() : reason)
    }
    this.tracked.clear()
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  track(pid: Process.Pid, topic: string, key: string, meta: Readonly<Record<string, unknown>>): string {
    const known = this.trackedOf(pid)
    if (known?.topics.get(topic)?.has(key)) {
      throw new TrackerError({
        code: "ALREADY_TRACKED",
        message: `${pid.label} is present in ${String(brief(topic))} as ${String(brief(key))} already`
      })
    }
    const tracked = known ?? this.watch(Process.fromPid(pid))
    let keys = tracked.topics.get(topic)
    if (keys === undefined) tracked.topics.set(topic, keys = new Map())
    const id = ++this.lastId
    keys.set(key, id)
    return this.put(id, topic, key, Object.freeze({ ...meta, phx_ref: this.newRef() }))
  }

  update(
    pid: Process.Pid,
    topic: string,
    key: string,
    change: Readonly<Record<string, unknown>> | ((meta: Meta) => Readonly<Record<string, unknown>>)
  ): string {
    const id = this.trackedOf(pid)?.topics.get(topic)?.get(key)
    const before = id === undefined ? undefined : this.metas.get(id)
    if (id === undefined || before === undefined) {
      throw new TrackerError({
        code: "NOT_TRACKED",
        message: `${pid.label} is not present in ${String(brief(topic))} as ${String(brief(key))}`
      })
    }
    const after = typeof change === "function" ? this.check(topic, key, change(before)) : change
    return this.put(id, topic, key, Object.freeze({ ...after, phx_ref: this.newRef(), phx_ref_prev: before.phx_ref }))
  }

  private check(topic: string, key: string, meta: unknown): Readonly<Record<string, unknown>> {
    disown(meta)
    return checkMeta(this.settings, topic, key, meta)
  }

  private put(id: number, topic: string, key: string, meta: Meta): string {
    this.metas.set(id, meta)
    this.tell(this.replica.put([id, topic, key, meta]))
    return meta.phx_ref
  }

  untrack(pid: Process.Pid, topic: string, key: string): void {
    const tracked = this.trackedOf(pid)
    const keys = tracked?.topics.get(topic)
    const id = keys?.get(key)
    if (tracked === undefined || keys === undefined || id === undefined) return
    keys.delete(key)
    if (keys.size === 0) tracked.topics.delete(topic)
    if (tracked.topics.size === 0) this.forget(tracked)
    this.remove([id])
  }

  untrackAll(pid: Process.Pid): void {
    const tracked = this.trackedOf(pid)
    if (tracked !== undefined) this.removeAll(tracked)
  }

  private trackedOf(pid: Process.Pid): Tracked | undefined {
    const watcher = Process.fromPid(pid).watcherOf(this.process)
    return watcher instanceof Tracked ? watcher : undefined
  }

  private watch(process: process.Process): Tracked {
    const tracked = new Tracked(process, this.pid)
    this.tracked.add(tracked)
    process.watch(this.process, tracked)
    return tracked
  }

  private removeAll(tracked: Tracked): void {
    if (!this.tracked.has(tracked)) return
    this.forget(tracked)
    this.remove([...tracked.topics.values()].flatMap((keys) => [...keys.values()]))
  }

  private forget(tracked: Tracked): void {
    this.tracked.delete(tracked)
    if (tracked.process.watcherOf(this.process) === tracked) tracked.process.unwatch(this.process)
  }

  private remove(ids: ReadonlyArray<number>): void {
    for (const id of ids) this.metas.delete(id)
    this.tell(this.replica.remove(ids))
  }

  /** Sixteen characters: when, where, and a count. */
  private newRef(): string {
    const bytes = Buffer.alloc(12)
    // oxlint-disable-next-line no-restricted-properties -- no duration: it names a point in time
    bytes.writeBigUInt64BE(BigInt.asUintN(64, this.clock.currentTimeNanosUnsafe()))
    bytes.writeUInt16BE(hash(this.settings.pubsub.node + this.topic) & 0xffff, 8)
    bytes.writeUInt16BE(this.settings.count() & 0xffff, 10)
    return bytes.toString("base64url")
  }
}

/** FNV-1a. */
const hash = (text: string): number => {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  return hash >>> 0
}

/** Returns the meta that an application has given as plain data, or throws a {@link TrackerError}. */
const checkMeta = (
  { complaints, context, maxMetaBytes, name }: Settings,
  topic: string,
  key: string,
  meta: unknown
): Readonly<Record<string, unknown>> => {
  const refuse = (code: "INVALID_META" | "TOO_LARGE", message: string, cause?: unknown): never => {
    countRefused(name, code, 1, context)
    complaints.say("Warn", "tracker refused a presence; see the message of its TrackerError", {
      tracker: name,
      code,
      message,
      topic: brief(topic),
      key: brief(key)
    })
    throw new TrackerError({ code, message, cause })
  }
  if (typeof topic !== "string" || typeof key !== "string") {
    return refuse("INVALID_META", `a ${typeof topic === "string" ? "key" : "topic"} is not a text`)
  }
  if (typeof meta !== "object" || meta === null) return refuse("INVALID_META", "meta is not an object")
  let copy: Plain
  try {
    copy = plain("meta", meta, maxMetaBytes)
  } catch (error) {
    if (!(error instanceof NotPlain)) throw error
    return refuse(error.code === "INVALID" ? "INVALID_META" : "TOO_LARGE", error.message, error.cause)
  }
  if (!isObject(copy)) return refuse("INVALID_META", "meta is not an object")
  const size = maxMetaBytes === Infinity ? 0 : Buffer.byteLength(JSON.stringify([topic, key, copy]))
  if (size <= maxMetaBytes) return copy
  const message = `a presence of ${size} bytes is larger than the ${maxMetaBytes} of maxMetaBytes`
  return refuse("TOO_LARGE", `${message}: track where to find the rest, or raise maxMetaBytes`)
}

/** Milliseconds. */
const defaultPermdown = 20 * 60_000

/** Each is a process that talks to all other nodes. */
const maxShards = 1024

const settingsOf = (options: Options) => {
  const { broadcastPeriod = "1500 millis", maxSilentPeriods = 10 } = options
  const { handlerTimeout = "5 seconds", maxMetaBytes = 65_536, permdownOnShutdown = true, shards = 1 } = options
  const period = duration("broadcastPeriod", broadcastPeriod)
  wholeNumber("maxSilentPeriods", maxSilentPeriods, { min: 0, unit: "periods" })
  const { downPeriod = period * maxSilentPeriods * 2 } = options
  const down = duration("downPeriod", downPeriod, { min: 0 })
  if (down < 2 * period) {
    throw new OptionError("downPeriod", downPeriod, `at least two times broadcastPeriod, ${2 * period} milliseconds`)
  }
  const { permdownPeriod = Math.max(defaultPermdown, 2 * down) } = options
  const permdown = duration("permdownPeriod", permdownPeriod, { unlimited: true })
  if (permdown <= down) {
    throw new OptionError("permdownPeriod", permdownPeriod, `longer than downPeriod, ${down} milliseconds`)
  }
  return {
    period,
    maxSilentPeriods,
    downPeriod: down,
    permdownPeriod: permdown,
    shards: wholeNumber("shards", shards, { max: maxShards }),
    permdownOnShutdown: oneOf("permdownOnShutdown", permdownOnShutdown, [true, false]),
    maxMetaBytes: wholeNumber("maxMetaBytes", maxMetaBytes, { unit: "bytes", unlimited: true }),
    handlerTimeout: duration("handlerTimeout", handlerTimeout, { unlimited: true })
  }
}

/** Has changes handled one after another; those that come meanwhile are handled together. */
class Diffs {
  private readonly pending = new Map<string, Pending>()
  private readonly lane: Lane

  constructor(
    handle: (diff: Diff) => Effect.Effect<unknown>,
    fork: (effect: Effect.Effect<unknown>) => Fiber.Fiber<unknown>
  ) {
    this.lane = new Lane(() => {
      if (this.pending.size === 0) return undefined
      const diff = new Map(Array.from(this.pending, ([topic, { changes }]) => [topic, changes]))
      this.pending.clear()
      return handle(diff)
    }, fork)
  }

  readonly tell = (diff: Diff): void => {
    if (diff.size === 0) return
    for (const [topic, changes] of diff) {
      const pending = this.pending.get(topic) ?? new Pending()
      this.pending.set(topic, pending)
      pending.add(changes)
    }
    this.lane.wake()
  }
}

/**
 * Starts a tracker; it ends with the Scope. Options that contradict each other are a defect, an `OptionError`.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process, Tracker } from "effect-channels"
 *
 * const workers = Effect.gen(function*() {
 *   const tracker = yield* Tracker.make("workers", (diff) => Effect.logInfo("changed", [...diff.keys()]))
 *   const worker = yield* Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
 *   yield* tracker.track(worker, "jobs", "resize images", { busy: false })
 *   return tracker.list("jobs")
 * })
 * ```
 *
 * @param name - the same on all nodes, and unique among the trackers of a node
 * @param handleDiff - told of each change, on this node and on others, in order; what changes while it is at work is told
 *   together. When it fails, or takes longer than `handlerTimeout`, that is logged, and the next changes are told all the same
 */
export const make = (
  name: string,
  handleDiff: (diff: Diff) => Effect.Effect<void>,
  options: Options = {}
): Effect.Effect<Tracker, never, PubSub.PubSub | Process.System | Scope.Scope> =>
  Effect.gen(function*() {
    text("name", name)
    callable("handleDiff", handleDiff)
    const { handlerTimeout, shards: count, ...timing } = settingsOf(options)
    const pubsub = yield* PubSub.PubSub
    const clock = yield* Clock.Clock
    const system = yield* Process.System
    const context = yield* Effect.context<never>()
    const scope = yield* Scope.Scope
    let refs = 0
    let isOver = false
    const settings: Settings = {
      ...timing,
      name,
      isOver: () => isOver,
      count: () => refs++,
      pubsub,
      context,
      patience: new Patience(system, context, handlerTimeout),
      complaints: new Complaints(system.timers, context)
    }
    countWithheld(name, 0, context)
    for (const code of ["INVALID_META", "TOO_LARGE"]) countRefused(name, code, 0, context)
    countHandlerFailure(name, "handleDiff", 0, context)
    const fork = <A>(effect: Effect.Effect<A>): Fiber.Fiber<A> => {
      const fiber = Effect.runForkWith(context)(effect)
      return fiber.pollUnsafe() === undefined ? Fiber.runIn(fiber, scope) : fiber
    }
    const handle = (diff: Diff): Effect.Effect<unknown> => {
      const handled = attempt(() => effectOf(handleDiff(diff)))
      if (exitOf(handled)?._tag === "Success") return handled
      return Effect.map(settings.patience.run(() => handled), (exit) => {
        if (exit?._tag === "Success") return
        countHandlerFailure(name, "handleDiff", 1, context)
        const line = exit === undefined
          ? "handleDiff of a tracker took longer than handlerTimeout and was interrupted; later changes are told"
          : "handleDiff of a tracker has failed; later changes are told"
        settings.complaints.say("Error", line, { tracker: name }, exit?.cause)
      })
    }
    const running: Array<{ readonly shard: Shard; readonly pid: Process.Pid<unknown> }> = []
    const diffs = Array.from({ length: count }, () => new Diffs(handle, fork))
    const child = (index: number) =>
      Supervisor.child({
        id: `${name} shard ${index}`,
        start: (pid: Process.Pid<unknown>) =>
          Effect.gen(function*() {
            const topic = `phx_presence:${name}_shard${index}`
            // Another than that of any life before, and greater, also when a crash was sooner than the clock moves.
            const before = running[index]?.shard.replica.self.life ?? 0
            // oxlint-disable-next-line no-restricted-properties -- no duration: nodes compare their lives by it
            const life = Math.max(clock.currentTimeMillisUnsafe() + (yield* Random.next), before + 1)
            const tell = diffs[index]?.tell ?? (() => {})
            const shard = new Shard(topic, pid, settings, life, clock, tell)
            const gone = running[index]?.shard.forgetAll()
            running[index] = { shard, pid }
            if (gone !== undefined) tell(gone)
            const deliver = (message: unknown) => void Process.sendUnsafe(pid, message)
            const live = pubsub.subscribeUnsafe(topic, { pid, deliver })
            if (before === 0) yield* live
            else shard.goOn(live)
            const forget = pubsub.onBack(() => void Process.sendUnsafe(pid, back))
            yield* Effect.addFinalizer(() => Effect.sync(forget))
            yield* shard.tickIn(settings.period * 0.25 * (yield* Random.next))
            return {
              handle: (message: unknown) => shard.handle(message),
              terminate: (reason: Process.ExitReason) => shard.terminate(reason)
            }
          })
      })
    yield* Supervisor.keep({
      children: Array.from({ length: count }, (_, index) => child(index)),
      label: `tracker ${name}`
    })
    yield* Effect.addFinalizer(() => Effect.sync(() => void (isOver = true)))
    const at = (index: number) => {
      const found = running[index]
      if (found === undefined) throw new Error(`tracker ${name} has no shard ${index}`)
      return found
    }
    const of = (topic: string) => at(count === 1 ? 0 : hash(topic) % count)
    // No time limit, because a shard that ends tells everybody who waits.
    const patiently = { timeout: "Infinity" } as const
    const ask = <A>(index: number | string, run: (shard: Shard) => A): Effect.Effect<A, TrackerError> =>
      Effect.suspend(() => {
        const { pid } = typeof index === "number" ? at(index) : of(index)
        return Process.call<unknown, Done<A>>(pid, (replyTo) => new Request(run, replyTo), patiently)
      }).pipe(
        Effect.orDie,
        Effect.flatMap((done) =>
          "value" in done
            ? Effect.succeed(done.value)
            : "error" in done
            ? Effect.fail(done.error)
            : Effect.die(done.defect)
        )
      )
    /** Checks in the process of the caller, so that a large meta costs nobody else time. */
    const checking = <A>(
      topic: string,
      key: string,
      meta: unknown,
      then: (meta: Readonly<Record<string, unknown>>) => Effect.Effect<A, TrackerError>
    ): Effect.Effect<A, TrackerError> =>
      Effect.suspend(() => {
        try {
          return then(checkMeta(settings, topic, key, meta))
        } catch (error) {
          return error instanceof TrackerError ? Effect.fail(error) : Effect.die(error)
        }
      })
    const all = (run: (shard: Shard) => unknown) =>
      Effect.forEach(running, (_, index) => Effect.orDie(ask(index, run)), { discard: true })
    const metasOf = (presences: ReadonlySet<Presence> | undefined) => {
      const metas: Array<Meta> = []
      for (const [, , , meta] of presences ?? []) metas.push(meta)
      return metas
    }
    return {
      name,
      track: (pid, topic, key, meta) =>
        checking(topic, key, meta, (plain) => ask(topic, (shard) => shard.track(pid, topic, key, plain))),
      update: (pid, topic, key, meta) =>
        typeof meta === "function"
          ? ask(topic, (shard) => shard.update(pid, topic, key, meta))
          : checking(topic, key, meta, (plain) => ask(topic, (shard) => shard.update(pid, topic, key, plain))),
      untrack: (pid, topic, key) => Effect.orDie(ask(topic, (shard) => shard.untrack(pid, topic, key))),
      untrackAll: (pid) => all((shard) => shard.untrackAll(pid)),
      list: (topic) => {
        const list = new Map<string, ReadonlyArray<Meta>>()
        of(topic).shard.replica.list(topic).forEach((found, key) => list.set(key, metasOf(found)))
        return list
      },
      getByKey: (topic, key) => metasOf(of(topic).shard.replica.list(topic).get(key)),
      stats: () => {
        const replicas = running.map(({ shard }) => shard.replica)
        const sum = (what: keyof replica.Replica["size"]) => replicas.reduce((sum, { size }) => sum + size[what], 0)
        const nodes = new Map<string, boolean>()
        for (const { node, up } of replicas.flatMap(({ nodes }) => nodes)) {
          nodes.set(node, up && (nodes.get(node) ?? true))
        }
        return { own: sum("own"), copied: sum("copied"), topics: sum("topics"), nodes }
      },
      gracefulPermdown: Effect.suspend(() => Effect.forEach(running, ({ shard }) => shard.bye(), { discard: true }))
    }
  })
