import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, Layer } from "effect"
import { createClient } from "redis"
import * as Redis from "../../src/pubsub/redis.ts"
import { redis } from "../support/engine.ts"
import { outages } from "./outage.ts"

outages({
  kind: redis,
  layer: Redis.layer,
  channel: (prefix, topic) => `${prefix}:topic:${topic}`,
  publish: async (url, channel, messages) => {
    const client = createClient({ url })
    await client.connect()
    for (const message of messages) await client.publish(channel, Buffer.from(message))
    client.destroy()
  }
})

const secret = "http://me:secret@host"

describe("the options of Redis", () => {
  it.effect("that make no sense are a defect of the Layer", () =>
    Effect.gen(function*() {
      for (
        const options of [{ url: secret }, { prefix: "a b" }, { node: "" }, { timeout: 0 }, { maxMessageBytes: NaN }]
      ) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Redis.layer(options))))
        if (exit._tag === "Success") return assert.fail(JSON.stringify(options))
        assert.isTrue(Cause.hasDies(exit.cause))
        assert.notInclude(Cause.pretty(exit.cause), "secret")
      }
    }))

  it.effect("that make no sense are a ConfigError where they come from the configuration", () =>
    Effect.gen(function*() {
      const layer = Redis.layerConfig({ url: Config.Redacted("REDIS_URL") })
      for (const env of [{}, { REDIS_URL: secret }]) {
        const error = yield* Effect.scoped(Layer.build(layer)).pipe(
          Effect.flip,
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(env)))
        )
        assert.instanceOf(error, Config.ConfigError)
        assert.notInclude(String(error), "secret")
      }
    }))
})
