import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, Layer, Logger } from "effect"
import { createClient } from "redis"
import * as Redis from "../../src/pubsub/redis.ts"
import { Engine, isMissing, redis } from "../support/engine.ts"
import { startNode, subscribe } from "./contract.ts"
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

describe.skipIf(isMissing(redis))("Redis", () => {
  const engineWith = (...more: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.promise(() => Engine.start(redis, more)),
      (engine) => Effect.promise(() => engine.stop())
    )

  it.live("may speak the older of its protocols", () =>
    Effect.gen(function*() {
      const { url } = yield* engineWith()
      const layer = Redis.layer({ url, client: { RESP: 2 } })
      const [a, b] = [yield* startNode(Layer.fresh(layer)), yield* startNode(Layer.fresh(layer))]
      for (let round = 0; round < 20; round++) {
        const there = yield* subscribe(b, "room:1")
        yield* a.pubsub.broadcast("room:1", new Uint8Array([round]))
        assert.deepStrictEqual(yield* there.atLeast(1), [new Uint8Array([round])])
        yield* b.pubsub.unsubscribeAll("room:1", there.pid)
      }
    }))

  it.live("that lets a node in but not subscribe is an outage, logged once", () =>
    Effect.gen(function*() {
      const { url } = yield* engineWith("--user", "default", "on", "nopass", "~*", "resetchannels", "&other:*", "+@all")
      const lines: Array<string> = []
      const log = Logger.layer([
        Logger.make(({ cause, message }) => void lines.push(`${String(message)} ${Cause.pretty(cause)}`))
      ])
      // Time for some attempts.
      const a = yield* startNode(Redis.layer({ url, timeout: 1000 }).pipe(Layer.provide(log)))
      yield* subscribe(a, "room:1")
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      assert.lengthOf(lines, 1)
      assert.match(lines[0] ?? "", /^Redis is out of reach.*NOPERM/s)
    }))
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
