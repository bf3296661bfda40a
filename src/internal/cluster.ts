import { Cause, Clock, Context, Deferred, Effect, Exit, Random, type Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { hostname } from "node:os"
import { isBroadcast } from "../Message.ts"
import { type Adapter, BroadcastError, type Status } from "../PubSub.ts"
import { channelName } from "./channelName.ts"
import type { Settings } from "./clusterOptions.ts"
import * as Envelope from "./envelope.ts"
import { countConnected } from "./meter.ts"
import { externalSpan, inSpan, isTraced, traceparent } from "./tracing.ts"

/** What an engine (Redis, NATS) tells the cluster. */
export interface Listener {
  /** In the order of each sender. */
  readonly message: (channel: string, data: Uint8Array) => void
  /** The connection is broken: it is given up, and another one is made. */
  readonly broken: (cause: unknown) => void
  /** A message was refused; the connection goes on. */
  readonly refused: (cause: unknown) => void
}

/**
 * One connection to an engine, which does not reconnect. Promises may be rejected whenever it breaks; no method throws.
 */
export interface Connection {
  /** In the order of the calls, as are the two below; complete once nothing of it waits here. */
  readonly publish: (channel: string, data: Buffer<ArrayBuffer>) => Promise<unknown>
  /** Complete once messages arrive. A channel that is subscribed already stays so, once. */
  readonly subscribe: (channels: Array<string>) => Promise<unknown>
  readonly unsubscribe: (channel: string) => Promise<unknown>
  /** Complete once the engine has got all that was published before. */
  readonly ping: () => Promise<unknown>
  /** The largest message that the engine takes, in bytes. */
  readonly maxMessageBytes: number
}

export interface Engine {
  readonly name: string
  /** The label of the metric. */
  readonly label: string
  /** Between the parts of a channel's name. */
  readonly separator: string
  /** Where to look when a message is too large for the engine itself. */
  readonly limit: string
  /** The connection ends, without waiting for anything, with its Scope. */
  readonly connect: (listener: Listener) => Effect.Effect<Connection, unknown, Scope.Scope>
}

const firstDelayMillis = 50
const maxDelayMillis = 2000
const subscribedAtOnce = 1000
const farewell = "1 second"

/** A node among others: its way to the engine, which it finds again whenever it is lost, and what it wants to hear. */
export class Cluster implements Adapter {
  readonly node: string
  private readonly engine: Engine
  private readonly settings: Settings
  private readonly incarnation: string
  private readonly deliver: (topic: string, message: unknown) => void
  private readonly context: Context.Context<never>
  private readonly fork: (effect: Effect.Effect<void>) => void
  private readonly traced: boolean

  /** By channel: complete once its messages arrive. */
  private readonly wanted = new Map<string, Deferred.Deferred<void>>()
  private readonly started = Deferred.makeUnsafe<void>()
  private connection: Connection | undefined = undefined
  private broken: (cause: unknown) => void = () => {}
  private isConnected = false
  /** When the engine was lost, in milliseconds; joins are patient from then on. */
  private outageSince: number
  private isLogged = false
  private attempts = 0
  /** Bytes that were published and may still be here. */
  private pending = 0
  private isCongested = false
  /** Messages that other nodes did not get. */
  private lost = 0
  private engineLimit = Infinity
  private readonly complaints = new Set<string>()

  constructor(
    engine: Engine,
    settings: Settings,
    incarnation: string,
    deliver: (topic: string, message: unknown) => void,
    context: Context.Context<never>
  ) {
    this.engine = engine
    this.settings = settings
    this.node = settings.node ?? incarnation
    this.incarnation = incarnation
    this.deliver = deliver
    this.context = context
    this.fork = Effect.runForkWith(context)
    this.traced = isTraced(context)
    this.outageSince = Context.get(context, Clock.Clock).currentTimeMillisUnsafe()
    this.wanted.set(this.channel("node", this.node), Deferred.makeUnsafe())
    this.count(0)
  }

  readonly status: Effect.Effect<Status> = Effect.sync(() => this.isConnected ? "connected" : "reconnecting")

  broadcast(topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return this.publish(this.channel("topic", topic), topic, message)
  }

  direct(node: string, topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return this.publish(this.channel("node", node), topic, message)
  }

  joined(topic: string): Effect.Effect<void> {
    return Effect.suspend(() => {
      const channel = this.channel("topic", topic)
      const live = Deferred.makeUnsafe<void>()
      this.wanted.set(channel, live)
      this.subscribe([channel])
      return this.patiently(live)
    })
  }

  left(topic: string): Effect.Effect<void> {
    return Effect.sync(() => {
      const channel = this.channel("topic", topic)
      this.wanted.delete(channel)
      const { broken, connection } = this
      // Not waited for: an engine that hangs would hold up who joins the topic next.
      connection?.unsubscribe(channel).then(undefined, broken)
    })
  }

  /** Connects, and connects again, until it is interrupted. */
  readonly run: Effect.Effect<void> = Effect.gen({ self: this }, function*() {
    for (;;) {
      const exit = yield* Effect.exit(Effect.scoped(this.session))
      if (Exit.isSuccess(exit)) continue
      yield* this.disconnected(exit.cause)
      const delay = Math.min(firstDelayMillis * 2 ** this.attempts++, maxDelayMillis)
      yield* Effect.sleep(delay * (yield* Random.nextBetween(0.5, 1)))
    }
  })

  /** Waits for the first connection, but not longer than a join would. */
  readonly ready: Effect.Effect<void> = Effect.suspend(() => this.patiently(this.started))

  /** One connection: it fails when it breaks. */
  private readonly session = Effect.gen({ self: this }, function*() {
    const { heartbeat, timeout } = this.settings
    const end = Deferred.makeUnsafe<never, unknown>()
    let isSound = true
    const broken = (cause: unknown) => {
      isSound = false
      // At once, so that nobody takes what is now refused for a refusal of the engine.
      if (this.broken === broken) this.connection = undefined
      Deferred.doneUnsafe(end, Exit.fail(cause))
    }
    const connection = yield* this.engine.connect({
      message: (channel, data) => this.receive(channel, data),
      broken,
      refused: (cause) => this.refused(cause)
    }).pipe(Effect.timeout(timeout))
    this.connection = connection
    this.broken = broken
    this.engineLimit = connection.maxMessageBytes
    yield* Effect.addFinalizer(() => Effect.sync(() => void (this.connection = undefined)))
    const serve = Effect.gen({ self: this }, function*() {
      yield* this.subscribeAll
      if (!isSound) return yield* Effect.never
      yield* this.connected
      for (;;) {
        yield* Effect.sleep(heartbeat)
        yield* this.ping(connection).pipe(Effect.timeout(heartbeat))
        // Not earlier: an engine that takes everybody and keeps nobody is not to be asked all the time.
        this.attempts = 0
      }
    })
    yield* Effect.raceFirst(Deferred.await(end), serve).pipe(
      // What has just been published is not to be lost when a node stops.
      Effect.onInterrupt(() => Effect.ignore(Effect.timeout(this.ping(connection), farewell)))
    )
  })

  private ping(connection: Connection): Effect.Effect<unknown, unknown> {
    return Effect.tryPromise({ try: () => connection.ping(), catch: (cause) => cause })
  }

  /** Subscribes to everything that is wanted; what is asked for meanwhile is subscribed by who asks. */
  private readonly subscribeAll = Effect.gen({ self: this }, function*() {
    const channels = [...this.wanted.keys()]
    for (let from = 0; from < channels.length; from += subscribedAtOnce) {
      const wanted = channels.slice(from, from + subscribedAtOnce).filter((channel) => this.wanted.has(channel))
      yield* Effect.promise(() => this.subscribe(wanted)).pipe(Effect.timeout(this.settings.timeout))
    }
  })

  /** Never rejects: a subscription that is refused ends the connection, and all are made anew on the next one. */
  private subscribe(channels: Array<string>): Promise<void> {
    const { broken, connection } = this
    if (connection === undefined || channels.length === 0) return Promise.resolve()
    const wanted = channels.map((channel) => this.wanted.get(channel))
    return connection.subscribe(channels).then(() => {
      for (const live of wanted) if (live !== undefined) Deferred.doneUnsafe(live, Exit.void)
    }, broken)
  }

  /** A join waits for its messages as long as `timeout`, and during an outage no longer than that since it began. */
  private patiently(live: Deferred.Deferred<void>): Effect.Effect<void> {
    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const since = this.isConnected ? now : this.outageSince
      const patience = since + this.settings.timeout - now
      return patience > 0 ? Effect.asVoid(Effect.timeoutOption(Deferred.await(live), patience)) : Effect.void
    })
  }

  private readonly connected = Effect.gen({ self: this }, function*() {
    const { isLogged, lost } = this
    this.isConnected = true
    this.isLogged = false
    this.lost = 0
    this.complaints.clear()
    this.count(1)
    Deferred.doneUnsafe(this.started, Exit.void)
    if (!isLogged) return
    const millis = (yield* Clock.currentTimeMillis) - this.outageSince
    yield* this.log(Effect.logInfo(`${this.engine.name} is back`), { lost, outage: `${millis}ms` })
  })

  private disconnected(cause: Cause.Cause<unknown>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      if (this.isConnected) {
        this.isConnected = false
        this.count(-1)
        this.outageSince = yield* Clock.currentTimeMillis
      }
      if (this.isLogged) return
      this.isLogged = true
      const line = `${this.engine.name} is out of reach: until it is back, only this node gets what is broadcast here`
      yield* this.log(Effect.logWarning(line, cause))
    })
  }

  /** The last word: the node stops. */
  readonly close: Effect.Effect<void> = Effect.sync(() => {
    if (this.isConnected) this.count(-1)
    this.isConnected = false
  })

  private channel(kind: "topic" | "node", name: string): string {
    return [this.settings.prefix, kind, channelName(name)].join(this.engine.separator)
  }

  private publish(channel: string, topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return Effect.withFiber((fiber) => {
      const { incarnation, node } = this
      const trace = this.traced ? traceparent(fiber.context) : undefined
      const data = Envelope.encode({ node, incarnation, topic, message, trace })
      const limit = Math.min(this.settings.maxMessageBytes, this.engineLimit)
      if (data.length > limit) return Effect.fail(this.tooLarge(data.length, limit))
      this.hand(channel, data)
      return Effect.void
    })
  }

  private tooLarge(size: number, limit: number): BroadcastError {
    const how = limit === this.engineLimit ? this.engine.limit : "raise maxMessageBytes of the adapter"
    return new BroadcastError({
      code: "TOO_LARGE",
      message: `a message of ${size} bytes is larger than the ${limit} that may go to other nodes: `
        + `broadcast less, for instance where to fetch the rest, or ${how}`
    })
  }

  /** Hands a message to the engine, if it is there and keeps up. */
  private hand(channel: string, data: Buffer<ArrayBuffer>): void {
    const { connection } = this
    if (connection === undefined) return void this.lost++
    if (this.pending > 0 && this.pending + data.length > this.settings.maxPendingBytes) {
      this.lost++
      if (this.isCongested) return
      this.isCongested = true
      const line = `${this.engine.name} does not keep up: other nodes do not get all that is broadcast here`
      return this.fork(this.log(Effect.logWarning(line), { waiting: this.pending }))
    }
    this.pending += data.length
    connection.publish(channel, data).then(
      () => this.settled(data.length),
      (cause: unknown) => {
        this.lost++
        this.settled(data.length)
        if (this.connection === connection) this.refused(cause)
      }
    )
  }

  /** A sound connection does not take a message, such as one that this user may not publish. */
  private refused(cause: unknown): void {
    this.complain("a message was refused", { cause: Cause.fail(cause) })
  }

  private settled(bytes: number): void {
    this.pending -= bytes
    if (this.pending === 0) this.isCongested = false
  }

  /** Never throws. */
  private receive(channel: string, data: Uint8Array): void {
    const envelope = Envelope.decode(data)
    if (envelope instanceof Envelope.Unreadable) {
      const { version } = envelope
      return version === undefined
        ? this.complain("something that is no message was received", { channel })
        : this.complain(`a message of protocol version ${version} was received, which is not known here`)
    }
    const { incarnation, message, node, topic, trace } = envelope
    if (incarnation === this.incarnation) return
    if (node === this.node) {
      this.complain("another node has the name of this one: give each a name of its own")
    }
    const parent = this.traced && trace !== undefined ? externalSpan(trace) : undefined
    if (parent === undefined) return this.deliver(topic, message)
    const event = isBroadcast(message) ? { "channels.event": message.event } : {}
    const attributes = { "channels.topic": topic, "channels.node": node, ...event }
    const options = { kind: "consumer", parent, attributes } as const
    this.fork(inSpan("channels.receive", options, () => "ok", () => Effect.sync(() => this.deliver(topic, message))))
  }

  /** Once for each reason and connection: whoever causes it may do so often. */
  private complain(
    reason: string,
    { cause, ...annotations }: { readonly cause?: Cause.Cause<unknown>; readonly channel?: string } = {}
  ): void {
    if (this.complaints.has(reason)) return
    this.complaints.add(reason)
    this.fork(this.log(Effect.logError(`${this.engine.name}: ${reason}`, ...(cause ? [cause] : [])), annotations))
  }

  private log(line: Effect.Effect<void>, annotations: Record<string, unknown> = {}): Effect.Effect<void> {
    return Effect.annotateLogs(line, { node: this.node, ...annotations })
  }

  private count(by: -1 | 0 | 1): void {
    countConnected(this.engine.label, by, this.context)
  }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

/** The adapter of a node; complete when it is connected, or has waited for that long enough. */
export const make = Effect.fnUntraced(function*(
  engine: Engine,
  settings: Settings,
  deliver: (topic: string, message: unknown) => void
): Effect.fn.Return<Adapter, never, Scope.Scope> {
  const random = yield* Effect.provide(SecureRandom.SecureRandom, SecureRandom.layerWebCrypto)
  const incarnation = `${hostname()}-${hex(yield* random.randomBytes(6))}`
  const cluster = new Cluster(engine, settings, incarnation, deliver, yield* Effect.context<never>())
  yield* Effect.addFinalizer(() => cluster.close)
  yield* Effect.forkScoped(cluster.run)
  yield* cluster.ready
  return cluster
})
