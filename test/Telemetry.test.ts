import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Metric } from "effect"
import { readFileSync } from "node:fs"
import * as Telemetry from "../src/Telemetry.ts"

const exported = Object.entries(Telemetry).flatMap(([name, value]) =>
  Metric.isMetric(value) ? [{ name, id: value.id, type: value.type, description: value.description }] : []
)

/** The rows of the table of metrics: id, export, type, unit. */
const documented = Array.from(
  readFileSync("docs/telemetry.md", "utf8").matchAll(
    /^\| `(effect_channels_\w+)` *\| `(\w+)` *\| (\w+) *\| (\w+) *\|/gm
  ),
  ([, id = "", name = "", type = "", unit = ""]) => ({ id, name, type, unit })
)

const sorted = (lines: ReadonlyArray<string>) => [...lines].sort()

describe("metrics", () => {
  it("docs/telemetry.md lists exactly the metrics that are exported, with their type", () => {
    assert.isAbove(exported.length, 0)
    assert.deepStrictEqual(
      sorted(documented.map(({ id, name, type }) => `${id} ${name} ${type}`)),
      sorted(exported.map(({ id, name, type }) => `${id} ${name} ${type}`))
    )
  })

  it("every name that docs/telemetry.md mentions is that of a metric", () => {
    const mentioned = readFileSync("docs/telemetry.md", "utf8").match(/effect_channels_\w+/g) ?? []
    const ids = exported.map(({ id }) => id)
    assert.deepStrictEqual(mentioned.filter((id) => !ids.includes(id)), [])
  })

  it("no two metrics share a name", () => {
    assert.strictEqual(new Set(exported.map(({ id }) => id)).size, exported.length)
  })

  it("a name says the kind and the unit as Prometheus wants it", () => {
    for (const { id, type, description } of exported) {
      assert.match(id, /^effect_channels_[a-z_]+$/)
      assert.strictEqual(id.endsWith("_total"), type === "Counter", id)
      assert.strictEqual(id.endsWith("_duration_milliseconds"), type === "Histogram", id)
      assert.isNotEmpty(description, id)
    }
  })

  it("a counter only grows", () => {
    const context = Context.make(Metric.MetricRegistry, new Map())
    for (const value of Object.values(Telemetry)) {
      if (!Metric.isMetric(value) || value.type !== "Counter") continue
      assert.propertyVal(value.valueUnsafe(context), "incremental", true)
    }
  })
})

describe("FilterParameters", () => {
  it.effect("hides passwords and tokens by default", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Telemetry.FilterParameters, ["password", "token"])
    }))

  it.effect("is replaced by a Layer", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Telemetry.FilterParameters, { keep: ["id"] })
    }).pipe(Effect.provide(Layer.succeed(Telemetry.FilterParameters, { keep: ["id"] }))))
})
