import { assert, describe, it } from "@effect/vitest"
import { connect } from "@nats-io/transport-node"
import { Cause, Config, ConfigProvider, Effect, Layer } from "effect"
import * as Nats from "../../src/pubsub/nats.ts"
import { Engine, isMissing, nats } from "../support/engine.ts"
import { drain, startNode, subscribe } from "./contract.ts"
import { outages } from "./outage.ts"

outages({
  kind: nats,
  layer: Nats.layer,
  channel: (prefix, topic) => `${prefix}.topic.${topic}`,
  publish: async (url, channel, messages) => {
    const client = await connect({ servers: url })
    for (const message of messages) client.publish(channel, message)
    await client.flush()
    await client.close()
  }
})

const secret = "http://me:secret@host"

describe("the options of NATS", () => {
  it.effect("that make no sense are a defect of the Layer", () =>
    Effect.gen(function*() {
      for (const url of [secret, "", "nats://", "nats://a,,nats://b", "nats://me:secret%@host"]) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Nats.layer({ url }))))
        if (exit._tag === "Success") return assert.fail(url)
        assert.isTrue(Cause.hasDies(exit.cause))
        assert.notInclude(Cause.pretty(exit.cause), "secret")
      }
    }))

  it.effect("that make no sense are a ConfigError where they come from the configuration", () =>
    Effect.gen(function*() {
      const layer = Nats.layerConfig({ url: Config.Redacted("NATS_URL") })
      for (const env of [{}, { NATS_URL: secret }]) {
        const error = yield* Effect.scoped(Layer.build(layer)).pipe(
          Effect.flip,
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(env)))
        )
        assert.instanceOf(error, Config.ConfigError)
        assert.notInclude(String(error), "secret")
      }
    }))
})

describe.skipIf(isMissing(nats))("NATS", () => {
  const engineWith = (...more: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.promise(() => Engine.start(nats, more)),
      (engine) => Effect.promise(() => engine.stop())
    )

  it.live("takes the user and the password of the URL, and whichever server of the URL is there", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith("--user", "me", "--pass", "p@ss")
      const url = `nats://127.0.0.1:1,nats://me:p%40ss@127.0.0.1:${engine.port}`
      const [a, b] = [yield* startNode(Nats.layer({ url })), yield* startNode(Nats.layer({ url }))]
      const there = yield* subscribe(b, "room:1")
      yield* drain(a, "room:1", there)
      assert.strictEqual(yield* a.pubsub.status, "connected")
    }))

  it.live("has a limit of its own, which the error names", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith()
      const a = yield* startNode(Nats.layer({ url: engine.url }))
      const error = yield* Effect.flip(a.pubsub.broadcast("room:1", new Uint8Array(2 ** 20)))
      assert.strictEqual(error.code, "TOO_LARGE")
      assert.match(error.message, /than the 1048576 .* raise max_payload/)
    }))
})
