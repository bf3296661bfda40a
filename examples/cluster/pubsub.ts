/**
 * How the nodes find each other, by one variable: `PUBSUB=redis://127.0.0.1:6379` or `PUBSUB=nats://127.0.0.1:4222`.
 */
import { Config, Data, Effect, Layer, Redacted } from "effect"
import * as Nats from "effect-channels/pubsub/nats"
import * as Redis from "effect-channels/pubsub/redis"

/** There is no PubSub for this address. */
export class UnknownPubSub extends Data.TaggedError("UnknownPubSub")<{ readonly scheme: string }> {
  override get message(): string {
    const found = this.scheme === "" ? "has no scheme" : `begins with ${this.scheme}://`
    return `PUBSUB ${found}; it has to be redis://host:port or rediss:// for Redis, or nats://host:port or tls:// for NATS`
  }
}

const adapters = { redis: Redis, rediss: Redis, nats: Nats, tls: Nats }

const isKnown = (scheme: string): scheme is keyof typeof adapters => Object.hasOwn(adapters, scheme)

/** The adapter for an address, which the error does not show: it may have a password. */
export const adapterOf = (url: Redacted.Redacted<string>) => {
  const scheme = /^([a-z][\w+.-]*):\/\//i.exec(Redacted.value(url))?.[1] ?? ""
  return isKnown(scheme) ? Effect.succeed(adapters[scheme]) : Effect.fail(new UnknownPubSub({ scheme }))
}

/** `NODE_NAME` is the name of this node, which no other may have; one is made up without. */
export const PubSubLive = Layer.unwrap(Effect.gen(function*() {
  const adapter = yield* adapterOf(yield* Config.Redacted("PUBSUB"))
  return adapter.layerConfig({
    url: Config.Redacted("PUBSUB"),
    node: Config.String("NODE_NAME").pipe(Config.withDefault(undefined))
  })
}))
