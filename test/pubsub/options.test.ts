/** Every option of an adapter is checked where it is given. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, Exit, Layer, Redacted } from "effect"
import * as Nats from "../../src/pubsub/nats.ts"
import * as Redis from "../../src/pubsub/redis.ts"
import type { NodeLayer } from "./contract.ts"

const layers: Readonly<Record<string, (options: object) => NodeLayer>> = {
  Redis: (options) => Redis.layer(options),
  NATS: (options) => Nats.layer(options)
}

const errorOf = (layer: () => NodeLayer) =>
  Effect.map(Effect.exit(Effect.scoped(Effect.suspend(() => Layer.build(layer())))), (exit) => {
    if (Exit.isSuccess(exit)) return assert.fail("it was taken")
    return Cause.squash(exit.cause)
  })

const notDurations = [NaN, 0, -1, Infinity, "soon", null, {}, [], true, 2 ** 31, "30 days"]
const notBytes = [NaN, 0, -1, 1.5, "1000", null, {}, false]
const nonsense: Readonly<Record<string, ReadonlyArray<unknown>>> = {
  timeout: notDurations,
  heartbeat: notDurations,
  maxMessageBytes: notBytes,
  maxPendingBytes: notBytes,
  node: ["", 1, null, {}],
  prefix: ["", "a b", "a.b", "a:b", "*", "x".repeat(201), 1, null],
  client: ["", 1, null, []],
  url: [
    "",
    1,
    null,
    {},
    "http://me:secret@host",
    "me:secret@host",
    Redacted.make("http://me:secret@host"),
    Redacted.make(1)
  ]
}

for (const [name, layer] of Object.entries(layers)) {
  describe(`the options of ${name}`, () => {
    for (const [option, values] of Object.entries(nonsense)) {
      it.effect(`${option} that makes no sense is an error that names it, and no secret`, () =>
        Effect.gen(function*() {
          for (const value of values) {
            const error = yield* errorOf(() => layer({ [option]: value }))
            if (!(error instanceof Error)) return assert.fail(`${String(value)}: ${String(error)}`)
            assert.propertyVal(error, "_tag", "OptionError", String(value))
            assert.propertyVal(error, "code", "INVALID_OPTION")
            assert.propertyVal(error, "option", option)
            assert.match(error.message, new RegExp(`^${option} must be .*; it is `))
            assert.notInclude(error.message, "secret")
          }
        }))
    }

    it.effect("are an object", () =>
      Effect.gen(function*() {
        for (const options of [null, "redis://localhost", 1, []]) {
          const error = yield* errorOf(() => layer(options as object))
          assert.propertyVal(error, "_tag", "OptionError")
        }
      }))

    it.live("without a limit where none is meant are taken", () =>
      Effect.scoped(
        // Nobody listens there.
        Layer.build(layer({ maxMessageBytes: Infinity, maxPendingBytes: Infinity, timeout: 1, url: undefined }))
      ))
  })
}

describe("the address of Redis", () => {
  it.effect("is checked as far as its client would complain of it", () =>
    Effect.gen(function*() {
      for (const url of ["redis://host/first", "redis://:se%cret@host", "redis://host:99999", "redis://host/1/2"]) {
        assert.propertyVal(yield* errorOf(() => Redis.layer({ url })), "option", "url", url)
      }
    }))
})

describe("options from the configuration", () => {
  it.effect("that make no sense are a ConfigError that names them", () =>
    Effect.gen(function*() {
      const fromEnvironment = ConfigProvider.layer(
        ConfigProvider.fromUnknown({ LIMIT: "-1", URL: "http://:secret@host" })
      )
      for (const layer of [Redis.layerConfig, Nats.layerConfig]) {
        for (const options of [{ maxPendingBytes: Config.Number("LIMIT") }, { url: Config.Redacted("URL") }]) {
          const error = yield* Effect.scoped(Layer.build(layer(options))).pipe(
            Effect.flip,
            Effect.provide(fromEnvironment)
          )
          assert.instanceOf(error, Config.ConfigError)
          assert.match(String(error), /(maxPendingBytes|url) must be/)
          assert.notInclude(String(error), "secret")
        }
      }
    }))
})
