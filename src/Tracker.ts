/**
 * Who is present, on every node: processes, each with a key and what is known of it, by topic. {@link Presence} is built on
 * it; use it directly where nothing is to be broadcast to clients.
 *
 * Every node owns the presences of its own processes and keeps a copy of those of all others. Changes travel once in a
 * period, as one small packet; a node that has missed something asks for it. docs/replication.md has the whole protocol.
 *
 * The model is Phoenix.Tracker (https://hexdocs.pm/phoenix_pubsub/Phoenix.Tracker.html).
 */
import { Cause, Clock, type Context, Data, Duration, Effect, Random, type Scope } from "effect"
import { countWithheld } from "./internal/meter.ts"
import { isPacket, type Presence } from "./internal/packet.ts"
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

/** Timing of {@link make}, and of `Presence`. All nodes of a cluster need the same. */
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
  /** After this they are forgotten; longer than `downPeriod`. Default 20 minutes. */
  readonly permdownPeriod?: Duration.Input | undefined
  /** Into how many processes the topics are divided; default 1. */
  readonly shards?: number | undefined
  /** Whether the other nodes are told when this one shuts down, so that its presences leave at once; default true. */
  readonly permdownOnShutdown?: boolean | undefined
}

/**
 * A presence could not be tracked or updated: `ALREADY_TRACKED`, for one that the process has under this topic and key, and
 * `NOT_TRACKED`, for one that it has not.
 */
export class TrackerError extends Data.TaggedError("TrackerError")<{
  readonly code: "ALREADY_TRACKED" | "NOT_TRACKED"
  readonly message: string
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
   * A process is present under a topic and a key, until it is untracked or ends.
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
  readonly process: process.Process
  constructor(process: process.Process) {
    this.process = process
  }
}

const tick = { _tag: "Tick" }

interface Settings extends replica.Options {
  readonly name: string
  readonly permdownOnShutdown: boolean
  readonly pubsub: PubSub.PubSub["Service"]
  readonly handleDiff: (diff: Diff) => Effect.Effect<void>
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
  private readonly tracked = new Map<process.Process, Map<string, Map<string, number>>>()
  private readonly metas = new Map<number, Meta>()
  private lastId = 0
  private changes: Array<Diff> = []

  constructor(topic: string, pid: Process.Pid<unknown>, settings: Settings, life: number, clock: Clock.Clock) {
    this.topic = topic
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
      this.untrackAll(message.process)
      return this.publish([])
    }
    if (message === tick) return Effect.flatMap(this.settings.pubsub.status, (status) => this.tick(status))
    if (!isPacket(message)) return Effect.logWarning("a packet that is none came to a tracker")
    const { diff, send } = this.replica.receive(message, this.now)
    this.changes.push(diff)
    return this.publish(send)
  }

  private tick(status: PubSub.Status): Effect.Effect<unknown> {
    const { diff, send } = this.replica.tick(this.now, status === "connected")
    this.changes.push(diff)
    return Effect.andThen(this.publish(send), Process.sendAfter(this.pid, tick, this.settings.period))
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
    return Effect.andThen(this.publish([]), Process.reply(replyTo, done))
  }

  /** Tells what has changed: who looks here, and the other nodes. */
  private publish(send: ReadonlyArray<replica.Outgoing>): Effect.Effect<unknown> {
    const changes = this.changes.filter((diff) => diff.size > 0)
    this.changes = []
    const tell = Effect.forEach(changes, this.settings.handleDiff, { discard: true })
    return send.length === 0
      ? tell
      : Effect.andThen(tell, Effect.forEach(send, (out) => this.send(out), { discard: true }))
  }

  /** What does not arrive is asked for: the next packet tells that it is missing. */
  private send(out: replica.Outgoing): Effect.Effect<void> {
    const { pubsub } = this.settings
    const { packet, to } = out
    return Effect.catchCause(
      Effect.suspend(() =>
        to === undefined
          ? pubsub.broadcast(this.topic, packet, this.pid)
          : pubsub.directBroadcast(to, this.topic, packet)
      ),
      (cause) => Cause.hasInterrupts(cause) ? Effect.interrupt : this.sendLess(out, cause)
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
    const { name } = this.settings
    return Effect.logError("a presence cannot be told to other nodes: only this one shows it", cause).pipe(
      Effect.annotateLogs({ tracker: name, topic: brief(topic), key: brief(key) }),
      Effect.andThen(
        Effect.contextWith((context: Context.Context<never>) => Effect.sync(() => countWithheld(name, 1, context)))
      ),
      Effect.andThen(rest)
    )
  }

  bye(): Effect.Effect<void> {
    return this.send(this.replica.bye())
  }

  terminate(reason: Process.ExitReason): Effect.Effect<void> {
    return this.settings.permdownOnShutdown && Process.isGraceful(reason) ? this.bye() : Effect.void
  }

  /** A process that is tracked has ended, or this one. */
  ended(ended: process.Peer, reason: Process.ExitReason): void {
    if (ended !== this.process) {
      if (ended instanceof process.Process) Process.sendUnsafe(this.pid, new Ended(ended))
      return
    }
    for (const process of this.tracked.keys()) {
      // They believe to be present, and are not: who joins again is tracked again.
      if (this.settings.isOver()) process.unwatch(this.process)
      else process.linkEnded(this.process, reason._tag === "Normal" ? Process.shutdown() : reason)
    }
    this.tracked.clear()
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  track(pid: Process.Pid, topic: string, key: string, meta: Readonly<Record<string, unknown>>): string {
    const process = Process.fromPid(pid)
    let topics = this.tracked.get(process)
    if (topics?.get(topic)?.has(key)) {
      throw new TrackerError({
        code: "ALREADY_TRACKED",
        message: `${pid.label} is present in ${topic} as ${key} already`
      })
    }
    if (topics === undefined) {
      this.tracked.set(process, topics = new Map())
      process.watch(this.process, this)
    }
    let keys = topics.get(topic)
    if (keys === undefined) topics.set(topic, keys = new Map())
    const id = ++this.lastId
    keys.set(key, id)
    return this.put(id, topic, key, { ...meta, phx_ref: this.newRef() })
  }

  update(
    pid: Process.Pid,
    topic: string,
    key: string,
    change: Readonly<Record<string, unknown>> | ((meta: Meta) => Readonly<Record<string, unknown>>)
  ): string {
    const id = this.tracked.get(Process.fromPid(pid))?.get(topic)?.get(key)
    const before = id === undefined ? undefined : this.metas.get(id)
    if (id === undefined || before === undefined) {
      throw new TrackerError({ code: "NOT_TRACKED", message: `${pid.label} is not present in ${topic} as ${key}` })
    }
    const after = typeof change === "function" ? change(before) : change
    return this.put(id, topic, key, { ...after, phx_ref: this.newRef(), phx_ref_prev: before.phx_ref })
  }

  private put(id: number, topic: string, key: string, meta: Meta): string {
    this.metas.set(id, meta)
    this.changes.push(this.replica.put([id, topic, key, meta]))
    return meta.phx_ref
  }

  untrack(pid: Process.Pid, topic: string, key: string): void {
    const process = Process.fromPid(pid)
    const topics = this.tracked.get(process)
    const keys = topics?.get(topic)
    const id = keys?.get(key)
    if (topics === undefined || keys === undefined || id === undefined) return
    keys.delete(key)
    if (keys.size === 0) topics.delete(topic)
    if (topics.size === 0) this.forget(process)
    this.remove([id])
  }

  untrackAll(process: process.Process): void {
    const topics = this.tracked.get(process)
    if (topics === undefined) return
    this.forget(process)
    this.remove([...topics.values()].flatMap((keys) => [...keys.values()]))
  }

  private forget(process: process.Process): void {
    this.tracked.delete(process)
    process.unwatch(this.process)
  }

  private remove(ids: ReadonlyArray<number>): void {
    for (const id of ids) this.metas.delete(id)
    this.changes.push(this.replica.remove(ids))
  }

  /** Sixteen characters: when, where, and a count. */
  private newRef(): string {
    const bytes = Buffer.alloc(12)
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

const millis = (duration: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(duration))

const settingsOf = (options: Options): replica.Options => {
  const period = millis(options.broadcastPeriod ?? "1500 millis")
  const maxSilentPeriods = options.maxSilentPeriods ?? 10
  const downPeriod = options.downPeriod === undefined ? period * maxSilentPeriods * 2 : millis(options.downPeriod)
  const permdownPeriod = millis(options.permdownPeriod ?? "20 minutes")
  if (!(period > 0)) throw new RangeError("broadcastPeriod must be longer than nothing")
  if (downPeriod < 2 * period) throw new RangeError("downPeriod must be at least two times broadcastPeriod")
  if (permdownPeriod <= downPeriod) throw new RangeError("permdownPeriod must be longer than downPeriod")
  return { period, maxSilentPeriods, downPeriod, permdownPeriod }
}

/**
 * Starts a tracker; it ends with the Scope. Options that contradict each other are a defect, a `RangeError`.
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
 * @param handleDiff - told of each change, on this node and on others, in order
 */
export const make = (
  name: string,
  handleDiff: (diff: Diff) => Effect.Effect<void>,
  options: Options = {}
): Effect.Effect<Tracker, never, PubSub.PubSub | Process.System | Scope.Scope> =>
  Effect.gen(function*() {
    const pubsub = yield* PubSub.PubSub
    const clock = yield* Clock.Clock
    let refs = 0
    let isOver = false
    const settings: Settings = {
      ...settingsOf(options),
      name,
      isOver: () => isOver,
      count: () => refs++,
      permdownOnShutdown: options.permdownOnShutdown ?? true,
      pubsub,
      handleDiff
    }
    countWithheld(name, 0, yield* Effect.context<never>())
    const count = options.shards ?? 1
    if (!Number.isInteger(count) || count < 1) throw new RangeError("shards must be a whole number, at least 1")
    const running: Array<{ readonly shard: Shard; readonly pid: Process.Pid<unknown> }> = []
    const child = (index: number) =>
      Supervisor.child({
        id: `${name} shard ${index}`,
        start: (pid: Process.Pid<unknown>) =>
          Effect.gen(function*() {
            const topic = `phx_presence:${name}_shard${index}`
            // Another than that of any life before, and greater, also when a crash was sooner than the clock moves.
            const before = running[index]?.shard.replica.self.life ?? 0
            const life = Math.max(clock.currentTimeMillisUnsafe() + (yield* Random.next), before + 1)
            const shard = new Shard(topic, pid, settings, life, clock)
            const gone = running[index]?.shard.replica.forgetAll() ?? new Map()
            running[index] = { shard, pid }
            if (gone.size > 0) yield* handleDiff(gone)
            yield* pubsub.subscribe(topic, { pid, deliver: (message) => void Process.sendUnsafe(pid, message) })
            yield* Process.sendAfter(pid, tick, settings.period * 0.25 * (yield* Random.next))
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
    const ask = <A>(index: number | string, run: (shard: Shard) => A): Effect.Effect<A, TrackerError> =>
      Effect.suspend(() => {
        const { pid } = typeof index === "number" ? at(index) : of(index)
        return Process.call<unknown, Done<A>>(pid, (replyTo) => new Request(run, replyTo))
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
    const all = (run: (shard: Shard) => unknown) =>
      Effect.forEach(running, (_, index) => Effect.orDie(ask(index, run)), { discard: true })
    const metasOf = (presences: ReadonlySet<Presence> | undefined) =>
      Array.from(presences ?? [], ([, , , meta]) => meta)
    return {
      name,
      track: (pid, topic, key, meta) => ask(topic, (shard) => shard.track(pid, topic, key, meta)),
      update: (pid, topic, key, meta) => ask(topic, (shard) => shard.update(pid, topic, key, meta)),
      untrack: (pid, topic, key) => Effect.orDie(ask(topic, (shard) => shard.untrack(pid, topic, key))),
      untrackAll: (pid) => all((shard) => shard.untrackAll(Process.fromPid(pid))),
      list: (topic) =>
        new Map(Array.from(of(topic).shard.replica.list(topic), ([key, found]) => [key, metasOf(found)])),
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
