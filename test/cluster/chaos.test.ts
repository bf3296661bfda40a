import { describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { type Cluster, clusterOf, fair, type Member, type Node, type Weather } from "./cluster.ts"

const numRuns = Math.ceil(Number(process.env["CHAOS_RUNS"] ?? 2000) / 20)

const names = ["a", "b", "c"]

type Step = (cluster: Cluster) => Effect.Effect<unknown>

const step = (name: string, run: Step): Step => Object.assign(run, { [fc.toStringMethod]: () => name })

/** Does something with a node, if it runs. */
const withNode = (index: number, run: (node: Node, cluster: Cluster) => Effect.Effect<unknown>): Step => (cluster) => {
  const node = cluster.nodes.get(names[index] ?? "")
  return node === undefined ? Effect.void : run(node, cluster)
}

const withMember = (index: number, pick: number, run: (member: Member, node: Node) => Effect.Effect<unknown>): Step =>
  withNode(index, (node) => {
    const member = node.members[pick % node.members.length]
    return member === undefined ? Effect.void : run(member, node)
  })

const index = fc.nat(2)
const steps = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(index, fc.constantFrom("ada", "bob", "__proto__")).map(([n, key]) =>
      step(`join(${n}, ${key})`, withNode(n, (node) => node.join(key)))
    )
  },
  {
    weight: 2,
    arbitrary: fc.tuple(index, fc.nat(9), fc.constantFrom("away", "busy")).map(([n, pick, state]) =>
      step(`update(${n}, ${pick}, ${state})`, withMember(n, pick, (member, node) => node.update(member, state)))
    )
  },
  {
    weight: 3,
    arbitrary: fc.tuple(index, fc.nat(9), fc.constantFrom("leave", "drop", "crash")).map(([n, pick, how]) =>
      step(`leave(${n}, ${pick}, ${how})`, withMember(n, pick, (member, node) => node.leave(member, how)))
    )
  },
  {
    weight: 5,
    arbitrary: fc.constantFrom(7, 500, 1500, 5000, 31_000).map((millis) =>
      step(`wait(${millis})`, () => TestClock.adjust(millis))
    )
  },
  {
    weight: 1,
    arbitrary: fc.tuple(index, fc.constantFrom("stop", "crash")).map(([n, how]) =>
      step(`${how}(${n})`, withNode(n, (node, cluster) => cluster.stop(node, how)))
    )
  },
  {
    weight: 2,
    arbitrary: index.map((n) =>
      step(`start(${n})`, (cluster) => {
        const name = names[n] ?? ""
        // A new life begins later than the one before.
        return cluster.nodes.has(name) ? Effect.void : Effect.andThen(TestClock.adjust(1), cluster.start(name))
      })
    )
  },
  {
    weight: 1,
    arbitrary: fc.tuple(index, index).map(([from, to]) =>
      step(`cut(${from}, ${to})`, ({ network }) => Effect.sync(() => network.cut(names[from] ?? "", names[to] ?? "")))
    )
  },
  { weight: 1, arbitrary: fc.constant(step("heal()", ({ network }) => Effect.sync(() => network.heal()))) }
)

const weather: fc.Arbitrary<Weather> = fc.record({
  loss: fc.constantFrom(0, 10, 50),
  doubled: fc.constantFrom(0, 10, 40),
  delay: fc.constantFrom(20, 1000, 4000)
})

describe("whole nodes, on a network that loses, doubles, delays and reorders", () => {
  it(
    "come to list the truth, and so does phoenix.js in every client, whoever joins, leaves, crashes or is cut off",
    () =>
      fc.assert(
        fc.asyncProperty(
          weather,
          fc.constantFrom(undefined, 100, 20_000),
          fc.string(),
          fc.array(steps, { maxLength: 30, size: "max" }),
          (weather, coalesce, seed, history) =>
            Effect.runPromise(
              Effect.gen(function*() {
                const { cluster } = yield* clusterOf(names, { coalesce })
                cluster.network.weather = weather
                for (const run of history) yield* run(cluster)
                cluster.network.weather = fair
                cluster.network.heal()
                yield* TestClock.adjust("1 minute")
                yield* cluster.assertTruth()
              }).pipe(Effect.scoped, Random.withSeed(seed), Effect.provide(TestClock.layer()))
            )
        ),
        { numRuns }
      ),
    3_600_000
  )
})
