import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Redacted } from "effect"
import * as Nats from "effect-channels/pubsub/nats"
import * as Redis from "effect-channels/pubsub/redis"
import { adapterOf, PubSubLive, UnknownPubSub } from "./pubsub.ts"

describe("PUBSUB", () => {
  it.effect("chooses the adapter by its scheme", () =>
    Effect.gen(function*() {
      const schemes = {
        "redis://:pw@here:6379/1": Redis,
        "rediss://here": Redis,
        "nats://a,nats://b": Nats,
        "tls://a": Nats
      }
      for (const [url, adapter] of Object.entries(schemes)) {
        assert.strictEqual(yield* adapterOf(Redacted.make(url)), adapter, url)
      }
    }))

  it.effect("fails with any other, without telling the password", () =>
    Effect.gen(function*() {
      const schemes = { "amqp://me:hunter2@here": "amqp", "toString://hunter2": "toString", "hunter2": "" }
      for (const [url, scheme] of Object.entries(schemes)) {
        const env = ConfigProvider.layer(ConfigProvider.fromUnknown({ PUBSUB: url }))
        const error = yield* Effect.flip(Effect.scoped(Layer.build(Layer.provide(PubSubLive, env))))
        assert.instanceOf(error, UnknownPubSub)
        assert.strictEqual(error.scheme, scheme)
        assert.include(error.message, "redis://")
        assert.include(error.message, "nats://")
        assert.notInclude(error.message, "hunter2")
      }
    }))
})
