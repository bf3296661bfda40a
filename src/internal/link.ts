import { Cause, Clock, Context, Deferred, Effect, Exit, Random } from "effect"
import type { Status } from "../PubSub.ts"
import type { Settings } from "./clusterOptions.ts"
import type { Connection, Engine, Listener } from "./engine.ts"
import { countConnected } from "./meter.ts"
import { Reasons } from "./reasons.ts"
import { Subscriptions } from "./subscriptions.ts"
import { brief } from "./untrusted.ts"

const firstDelayMillis = 50
const maxDelayMillis = 2000
const maxRetryMillis = 5000
const momentMillis = 50
const farewell = "1 second"
/** Channels that the engine takes no messages for and that are asked about again; topics may come from clients. */
const maxUnpublished = 16
/** The place of a waiting message in the queues of the engine's client, beside its bytes. */
const overheadBytes = 512

/** The cause of an outage in which each half of the connection is well. */
const deaf = new Error(
  "the node does not hear what it publishes itself: it publishes to one server and is subscribed to another"
)

/** A node's place in the cluster, as its link sees it. */
export interface Owner {
  readonly node: string
  /** The channel of this node, which nobody else hears. */
  readonly channel: string
  /** A message that no node takes for one. */
  readonly probe: Buffer<ArrayBuffer>
  readonly receive: (channel: string, data: Uint8Array) => void
}

/**
 * The way of a node to the engine, which it finds again whenever it is lost.
 *
 * It is connected because all of this was seen, and never because nothing was heard to the contrary: the engine answers,
 * has confirmed every subscription and takes what is published, and the node hears itself where the engine sends that back.
 * It is degraded while an engine that answers does not do all of it, and asks again until it does.
 */
export class Link {
  private readonly engine: Engine
  private readonly settings: Settings
  private readonly owner: Owner
  private readonly context: Context.Context<never>
  private readonly clock: Clock.Clock
  private readonly fork: (effect: Effect.Effect<void>) => void

  private readonly subscriptions: Subscriptions
  private readonly started = Deferred.makeUnsafe<void>()
  private connection: Connection | undefined = undefined
  private broken: (cause: unknown) => void = () => {}
  /** Everything that was wanted is answered, and the node has heard itself. */
  private isOpen = false
  private state: Status = "reconnecting"
  private losses = 0
  private readonly listeners = new Set<() => void>()
  private attempts = 0

  /** Times of the monotonic clock: when the engine was lost, and when it began to owe an answer to a subscription. */
  private lostAt: number
  private silentSince: number | undefined = undefined
  private troubleSince: number

  /** Complete when the engine refuses something, so that it is asked again. */
  private trouble = Deferred.makeUnsafe<void>()
  /** Complete when the node has heard itself. */
  private heard = Deferred.makeUnsafe<void>()
  private readonly unpublished = new Map<string, { readonly cause: unknown }>()
  /** Probes that are under way, by channel: they are no messages that are lost. */
  private readonly probes = new Map<string, number>()

  /** Bytes that were published and may still be here. */
  private pending = 0
  private isCongested = false
  /** Messages that other nodes did not get. */
  private lost = 0

  private readonly complaints = new Set<string>()
  private readonly reasons = {
    outage: new Reasons({ spaced: false }),
    subscribe: new Reasons({ spaced: true }),
    publish: new Reasons({ spaced: true }),
    congestion: new Reasons({ spaced: true })
  }

  constructor(engine: Engine, settings: Settings, owner: Owner, context: Context.Context<never>) {
    this.engine = engine
    this.settings = settings
    this.owner = owner
    this.context = context
    this.clock = Context.get(context, Clock.Clock)
    this.fork = Effect.runForkWith(context)
    this.lostAt = this.troubleSince = this.now
    this.subscriptions = new Subscriptions(() => this.answered(), (cause) => this.broken(cause))
    this.subscriptions.want(owner.channel)
    countConnected(engine.label, 0, context)
  }

  get status(): Status {
    return this.state
  }

  /** The number of times the state has stopped being connected. */
  get outages(): number {
    return this.losses
  }

  /** The largest message that the engine takes. */
  get maxMessageBytes(): number {
    return this.connection?.maxMessageBytes ?? Infinity
  }

  onBack(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => void this.listeners.delete(listener)
  }

  private get now(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / 1e6
  }

  // --- subscriptions ------------------------------------------------------------------------------------------------

  /** Subscribes; complete once messages arrive, or have been waited for long enough, or are refused. */
  subscribe(channel: string): Effect.Effect<void> {
    const live = this.subscriptions.want(channel)
    if (Deferred.isDoneUnsafe(live)) return Effect.void
    if (this.subscriptions.isWaiting) this.silentSince ??= this.now
    return this.patiently(live)
  }

  unsubscribe(channel: string): void {
    if (this.subscriptions.drop(channel)) this.settle()
  }

  /** A join waits as long as `timeout`, and no longer than that since the engine was last heard of. */
  private patiently(live: Deferred.Deferred<void>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const { now } = this
      const patience = (this.isOpen ? this.silentSince ?? now : this.lostAt) + this.settings.timeout - now
      return patience > 0 ? Effect.asVoid(Effect.timeoutOption(Deferred.await(live), patience)) : Effect.void
    })
  }

  private answered(): void {
    this.silentSince = this.subscriptions.isWaiting ? this.now : undefined
    this.settle()
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  /** Hands a message to the engine, if it is there and keeps up. */
  publish(channel: string, data: Buffer<ArrayBuffer>): void {
    const { connection } = this
    if (connection === undefined) return void this.lost++
    const size = data.length + overheadBytes
    if (this.pending > 0 && this.pending + size > this.settings.maxPendingBytes) {
      this.lost++
      if (this.isCongested) return
      this.isCongested = true
      return this.settle()
    }
    this.pending += size
    connection.publish(channel, data).then(
      () => this.handed(size),
      (cause: unknown) => {
        this.handed(size)
        if (this.connection === connection) this.refused(channel, cause)
        else this.lost++
      }
    )
  }

  private handed(size: number): void {
    this.pending -= size
    if (!this.isCongested || this.pending > this.settings.maxPendingBytes / 2) return
    this.isCongested = false
    this.settle()
  }

  /** A sound connection does not take a message, such as one that this user may not publish. */
  private refused(channel: string, cause: unknown): void {
    if (!this.probes.has(channel)) this.lost++
    if (this.unpublished.size < maxUnpublished || this.unpublished.has(channel)) {
      this.unpublished.set(channel, { cause })
    }
    this.settle()
  }

  /** Publishes something that nobody takes for a message, to see if the engine takes it. Never rejects. */
  private async probe(connection: Connection, channel: string): Promise<void> {
    const before = this.unpublished.get(channel)
    this.probes.set(channel, (this.probes.get(channel) ?? 0) + 1)
    try {
      await connection.publish(channel, this.owner.probe)
      if (this.connection !== connection || before === undefined || this.unpublished.get(channel) !== before) return
      this.unpublished.delete(channel)
      this.settle()
    } catch (cause) {
      if (this.connection === connection) this.refused(channel, cause)
    } finally {
      const others = (this.probes.get(channel) ?? 1) - 1
      if (others === 0) this.probes.delete(channel)
      else this.probes.set(channel, others)
    }
  }

  /** The node has got its own probe back. */
  echo(): void {
    Deferred.doneUnsafe(this.heard, Exit.void)
  }

  // --- the connection -----------------------------------------------------------------------------------------------

  /** Connects, and connects again, until it is interrupted. */
  readonly run: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      const exit = yield* Effect.exit(Effect.scoped(this.session))
      if (Exit.isSuccess(exit)) continue
      yield* this.away(exit.cause)
      const delay = Math.min(firstDelayMillis * 2 ** this.attempts++, maxDelayMillis)
      yield* Effect.sleep(delay * (yield* Random.nextBetween(0.5, 1)))
    }
  })

  /** Waits for the first connection, but not longer than a join would. */
  readonly ready: Effect.Effect<void> = Effect.suspend(() => this.patiently(this.started))

  /** Runs a single connection; fails when it breaks. */
  private readonly session = Effect.gen({ self: this }, function*() {
    const end = Deferred.makeUnsafe<never, unknown>()
    const broken = (cause: unknown) => {
      // At once, so that nobody takes what is now refused for a refusal of the engine.
      if (this.broken === broken) this.detach()
      Deferred.doneUnsafe(end, Exit.fail(cause))
    }
    const connection = yield* this.engine.connect(this.listener(broken), this.settings.timeout)
    if (Deferred.isDoneUnsafe(end)) return yield* Deferred.await(end)
    this.connection = connection
    this.broken = broken
    yield* Effect.addFinalizer(() => Effect.sync(() => this.detach()))
    const work = Effect.andThen(
      this.establish(connection),
      Effect.raceFirst(this.watch(connection), this.persist(connection))
    )
    yield* Effect.raceFirst(Deferred.await(end), work).pipe(
      // A message that has just been published must not be lost when a node stops.
      Effect.onInterrupt(() => Effect.ignore(Effect.timeout(this.ping(connection), farewell)))
    )
  })

  private listener(broken: (cause: unknown) => void): Listener {
    const isCurrent = () => this.broken === broken
    return {
      message: this.owner.receive,
      broken,
      publishRefused: (channel, cause) => {
        if (isCurrent()) this.refused(channel, cause)
      },
      subscriptionRefused: (channel, cause) => {
        if (!isCurrent()) return
        this.subscriptions.refuse(channel, cause)
        this.settle()
      },
      complained: (cause) => this.complain("reports an error; the connection goes on", { cause: Cause.fail(cause) })
    }
  }

  /** Subscribes to everything that is wanted, and hears itself. */
  private establish(connection: Connection): Effect.Effect<void, unknown> {
    return Effect.gen({ self: this }, function*() {
      const { settings, subscriptions } = this
      this.heard = Deferred.makeUnsafe()
      this.complaints.clear()
      subscriptions.attach(connection)
      while (!subscriptions.isComplete) {
        yield* this.within(
          settings.timeout,
          Effect.promise(() => subscriptions.answered())
        )
      }
      if (subscriptions.isBarred) return yield* Effect.fail([...subscriptions.refused.values()][0])
      yield* this.within(settings.timeout, Effect.promise(() => this.probe(connection, this.owner.channel)))
      if (this.isAudible(connection)) {
        const orElse = () => Effect.fail(deaf)
        yield* Effect.timeoutOrElse(Deferred.await(this.heard), { duration: settings.timeout, orElse })
      }
      this.isOpen = true
      this.settle()
      Deferred.doneUnsafe(this.started, Exit.void)
    })
  }

  /** Looks for signs of life. */
  private watch(connection: Connection): Effect.Effect<never, unknown> {
    return Effect.gen({ self: this }, function*() {
      const { heartbeat } = this.settings
      for (;;) {
        this.heard = Deferred.makeUnsafe()
        const probed = this.probe(connection, this.owner.channel)
        yield* Effect.sleep(heartbeat)
        // In this order: the probe has passed the engine before it is asked for a sign of life.
        yield* this.within(heartbeat, Effect.andThen(Effect.promise(() => probed), this.ping(connection)))
        if (this.isAudible(connection) && !Deferred.isDoneUnsafe(this.heard)) return yield* Effect.fail(deaf)
        // Not earlier: an engine that takes everybody and keeps nobody is not to be asked all the time.
        this.attempts = 0
      }
    })
  }

  /** Asks again for what the engine refuses. */
  private persist(connection: Connection): Effect.Effect<never, unknown> {
    return Effect.gen({ self: this }, function*() {
      for (;;) {
        yield* Deferred.await(this.trouble)
        for (let attempt = 1; this.isRefused; attempt++) {
          yield* Effect.sleep(Math.min(firstDelayMillis * 2 ** attempt, maxRetryMillis))
          const probes = Array.from(this.unpublished.keys(), (channel) => this.probe(connection, channel))
          this.subscriptions.retry()
          const answers = Promise.all([this.subscriptions.answered(), ...probes])
          yield* this.within(this.settings.timeout, Effect.promise(() => answers))
        }
        this.trouble = Deferred.makeUnsafe()
      }
    })
  }

  /**
   * Fails if the engine takes longer. After a pause of this process the time is up before what has come meanwhile is read,
   * so that there is a moment more for that.
   */
  private within<A>(millis: number, answer: Effect.Effect<A, unknown>): Effect.Effect<A, unknown> {
    const late = Effect.suspend(() => Effect.fail(new Error(`${this.engine.name} has not answered within ${millis}ms`)))
    const over = Effect.andThen(Effect.andThen(Effect.sleep(millis), Effect.sleep(momentMillis)), late)
    return Effect.raceFirst(answer, over)
  }

  private ping(connection: Connection): Effect.Effect<unknown, unknown> {
    return Effect.tryPromise({ try: () => connection.ping(), catch: (cause) => cause })
  }

  private detach(): void {
    if (this.isOpen) this.lostAt = this.now
    this.isOpen = false
    this.connection = undefined
    this.broken = () => {}
    this.silentSince = undefined
    this.subscriptions.detach()
    this.unpublished.clear()
    this.settle()
  }

  // --- health -------------------------------------------------------------------------------------------------------

  private get isRefused(): boolean {
    return this.subscriptions.refused.size > 0 || this.unpublished.size > 0
  }

  /** Returns true if messages that this node publishes on its own channel come back. */
  private isAudible({ echoes }: Connection): boolean {
    const { channel } = this.owner
    return echoes && !this.unpublished.has(channel) && !this.subscriptions.refused.has(channel)
  }

  /** Called whenever something has changed that the state depends on. */
  private settle(): void {
    const state = !this.isOpen ? "reconnecting" : this.isRefused || this.isCongested ? "degraded" : "connected"
    if (state === "degraded") {
      this.grumble()
      if (this.isRefused) Deferred.doneUnsafe(this.trouble, Exit.void)
    }
    const before = this.state
    if (state === before) return
    this.state = state
    if (before === "connected") {
      this.losses++
      this.troubleSince = this.now
      countConnected(this.engine.label, -1, this.context)
    } else if (state === "connected") {
      countConnected(this.engine.label, 1, this.context)
      this.restored()
    }
  }

  private grumble(): void {
    const { engine: { name }, now, reasons, subscriptions, unpublished } = this
    for (const [channel, cause] of subscriptions.refused) {
      if (!reasons.subscribe.take(cause, now)) break
      const line = `${name} refuses subscriptions: this node does not get what others broadcast there; `
        + "check the rights and limits of its user"
      this.warn(line, { channel: brief(channel), channels: subscriptions.refused.size }, cause)
      break
    }
    for (const [channel, { cause }] of unpublished) {
      if (!reasons.publish.take(cause, now)) break
      const line =
        `${name} refuses messages: other nodes do not get what is broadcast here; check the rights of its user`
      this.warn(line, { channel: brief(channel), channels: unpublished.size }, cause)
      break
    }
    if (this.isCongested && reasons.congestion.take("congestion", now)) {
      const line = `${name} does not keep up: other nodes do not get all that is broadcast here; `
        + "broadcast less, or give it more bandwidth"
      this.warn(line, { waiting: this.pending })
    }
  }

  private away(cause: Cause.Cause<unknown>): Effect.Effect<void> {
    const { outage } = this.reasons
    const isFirst = outage.isEmpty
    if (!outage.take(Cause.squash(cause), this.now)) return Effect.void
    const line = isFirst
      ? "is out of reach: until it is back, only this node gets what is broadcast here"
      : "is still out of reach, and for another reason now"
    return this.log(Effect.logWarning(`${this.engine.name} ${line}`, cause))
  }

  private restored(): void {
    const { engine: { name }, lost, reasons } = this
    const isSaid = Object.values(reasons).some((reasons) => !reasons.isEmpty)
    const line = reasons.outage.isEmpty ? "takes everything of this node again" : "is back"
    const millis = Math.round(this.now - this.troubleSince)
    for (const trouble of Object.values(reasons)) trouble.clear()
    this.lost = 0
    if (isSaid) this.fork(this.log(Effect.logInfo(`${name} ${line}`), { lost, outage: `${millis}ms` }))
    for (const listener of this.listeners) {
      try {
        listener()
      } catch (defect) {
        this.fork(this.log(Effect.logError(`a listener for the return of ${name} has thrown`, Cause.die(defect))))
      }
    }
  }

  /** The last word: the node stops. */
  readonly close: Effect.Effect<void> = Effect.sync(() => {
    if (this.state === "connected") countConnected(this.engine.label, -1, this.context)
    this.state = "reconnecting"
  })

  /** Once for each reason and connection: whoever causes it may do so often. */
  complain(
    reason: string,
    { cause, ...annotations }: { readonly cause?: Cause.Cause<unknown>; readonly channel?: string } = {}
  ): void {
    if (this.complaints.has(reason)) return
    this.complaints.add(reason)
    const about = annotations.channel === undefined ? {} : { channel: brief(annotations.channel) }
    this.fork(this.log(Effect.logError(`${this.engine.name}: ${reason}`, ...(cause ? [cause] : [])), about))
  }

  private warn(line: string, annotations: Record<string, unknown>, cause?: unknown): void {
    const causes = cause === undefined ? [] : [Cause.fail(cause)]
    this.fork(this.log(Effect.logWarning(line, ...causes), annotations))
  }

  private log(line: Effect.Effect<void>, annotations: Record<string, unknown> = {}): Effect.Effect<void> {
    return Effect.annotateLogs(line, { node: this.owner.node, ...annotations })
  }
}
