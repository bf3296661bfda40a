import { Context, Effect, type Scope } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import { hostname } from "node:os"
import { isBroadcast } from "../Message.ts"
import { type Adapter, BroadcastError, type Status } from "../PubSub.ts"
import { channelName } from "./channelName.ts"
import type { Settings } from "./clusterOptions.ts"
import type { Engine } from "./engine.ts"
import * as Envelope from "./envelope.ts"
import { Link } from "./link.ts"
import { externalSpan, inSpan, isTraced, traceparent } from "./tracing.ts"
import { brief } from "./untrusted.ts"

/**
 * The topic of messages that only find out if messages pass. Nobody subscribes to it, so that a node which does not know of
 * them, because it is older, delivers them to nobody.
 */
const probeTopic = (incarnation: string): string => `phx_probe:${incarnation}`

/** A node among others: what it says to them, and what it hears from them. */
export class Cluster implements Adapter {
  readonly node: string
  /** The way to the others. */
  readonly link: Link
  private readonly engine: Engine
  private readonly settings: Settings
  private readonly incarnation: string
  private readonly deliver: (topic: string, message: unknown) => void
  private readonly fork: (effect: Effect.Effect<void>) => void
  private readonly traced: boolean

  constructor(
    engine: Engine,
    settings: Settings,
    incarnation: string,
    deliver: (topic: string, message: unknown) => void,
    context: Context.Context<never>
  ) {
    const node = settings.node ?? incarnation
    this.engine = engine
    this.settings = settings
    this.node = node
    this.incarnation = incarnation
    this.deliver = deliver
    this.fork = Effect.runForkWith(context)
    this.traced = isTraced(context)
    const owner = {
      node,
      channel: this.channel("node", node),
      probe: Envelope.encode({ node, incarnation, topic: probeTopic(incarnation), message: null, trace: undefined }),
      receive: (channel: string, data: Uint8Array) => this.receive(channel, data)
    }
    this.link = new Link(engine, settings, owner, context)
  }

  readonly status: Effect.Effect<Status> = Effect.sync(() => this.link.status)

  outages(): number {
    return this.link.outages
  }

  onBack(listener: () => void): () => void {
    return this.link.onBack(listener)
  }

  broadcast(topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return this.publish(this.channel("topic", topic), topic, message)
  }

  direct(node: string, topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return this.publish(this.channel("node", node), topic, message)
  }

  joined(topic: string): Effect.Effect<void> {
    return Effect.suspend(() => this.link.subscribe(this.channel("topic", topic)))
  }

  left(topic: string): Effect.Effect<void> {
    return Effect.sync(() => this.link.unsubscribe(this.channel("topic", topic)))
  }

  private channel(kind: "topic" | "node", name: string): string {
    return [this.settings.prefix, kind, channelName(name)].join(this.engine.separator)
  }

  private publish(channel: string, topic: string, message: unknown): Effect.Effect<void, BroadcastError> {
    return Effect.withFiber((fiber) => {
      const { incarnation, node } = this
      const trace = this.traced ? traceparent(fiber.context) : undefined
      const data = Envelope.encode({ node, incarnation, topic, message, trace })
      const limit = Math.min(this.settings.maxMessageBytes, this.link.maxMessageBytes)
      if (data.length > limit) return Effect.fail(this.tooLarge(data.length, limit))
      this.link.publish(channel, data)
      return Effect.void
    })
  }

  private tooLarge(size: number, limit: number): BroadcastError {
    const how = limit < this.settings.maxMessageBytes ? this.engine.limit : "raise maxMessageBytes of the adapter"
    return new BroadcastError({
      code: "TOO_LARGE",
      message: `a message of ${size} bytes is larger than the ${limit} that may go to other nodes: `
        + `broadcast less, for instance where to fetch the rest, or ${how}`
    })
  }

  /** Never throws. */
  private receive(channel: string, data: Uint8Array): void {
    if (data.length > this.settings.maxMessageBytes) {
      return this.link.complain("a message larger than maxMessageBytes was received: raise it on this node too", {
        channel
      })
    }
    const envelope = Envelope.decode(data)
    if (envelope instanceof Envelope.Unreadable) {
      const { version } = envelope
      return version === undefined
        ? this.link.complain("something that is no message was received", { channel })
        : this.link.complain(`a message of protocol version ${version} was received, which is not known here`)
    }
    const { incarnation, message, node, topic, trace } = envelope
    const isProbe = message === null && topic === probeTopic(incarnation)
    if (incarnation === this.incarnation) return isProbe ? this.link.echo() : undefined
    if (isProbe) return
    if (node === this.node) {
      this.link.complain("another node has the name of this one: give each a name of its own")
    }
    const parent = this.traced && trace !== undefined ? externalSpan(trace) : undefined
    if (parent === undefined) return this.deliver(topic, message)
    const event = isBroadcast(message) ? { "channels.event": brief(message.event) } : {}
    const attributes = { "channels.topic": brief(topic), "channels.node": node, ...event }
    const options = { kind: "consumer", parent, attributes } as const
    this.fork(inSpan("channels.receive", options, () => "ok", () => Effect.sync(() => this.deliver(topic, message))))
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
  yield* Effect.addFinalizer(() => cluster.link.close)
  yield* Effect.forkScoped(cluster.link.run)
  yield* cluster.link.ready
  return cluster
})
