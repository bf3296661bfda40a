import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Process from "../../src/Process.ts"
import { type Cluster, clusterOf, type Node, Online } from "./cluster.ts"

/** A test with three nodes that know each other. */
const onThree = (
  name: string,
  body: (cluster: Cluster, a: Node, b: Node, c: Node) => Effect.Effect<unknown, unknown>
): void =>
  it.effect(name, () =>
    Effect.scoped(Effect.gen(function*() {
      const { cluster, nodes } = yield* clusterOf(["a", "b", "c"])
      const [a, b, c] = nodes
      if (a === undefined || b === undefined || c === undefined) return assert.fail("three nodes")
      yield* body(cluster, a, b, c)
    })))

const period = 1500

describe("a cluster", () => {
  onThree(
    "shows who joins, updates and leaves on every node within one period, and on its own node at once",
    (cluster, a, b, c) =>
      Effect.gen(function*() {
        const cy = yield* c.join("cy")
        const ada = yield* a.join("ada")
        yield* a.join("ada")
        assert.deepStrictEqual(yield* a.keys(), ["ada"])
        assert.deepStrictEqual(yield* b.keys(), [])
        yield* TestClock.adjust(period + 20)
        assert.deepStrictEqual(yield* b.keys(), ["ada", "cy"])
        yield* cluster.assertTruth()
        yield* a.update(ada, "away")
        yield* TestClock.adjust(period + 20)
        yield* cluster.assertTruth()
        const [last] = cy.diffs.slice(-1)
        const [before] = last?.leaves["ada"]?.metas ?? []
        const [after] = last?.joins["ada"]?.metas ?? []
        assert.strictEqual(after?.["phx_ref_prev"], before?.phx_ref)
        for (const how of ["leave", "drop", "crash"] as const) {
          const bob = yield* b.join("bob")
          yield* TestClock.adjust(period + 20)
          yield* cluster.assertTruth()
          yield* b.leave(bob, how)
          yield* TestClock.adjust(period + 20)
          assert.deepStrictEqual(yield* c.keys(), ["ada", "cy"], how)
          yield* cluster.assertTruth()
        }
      })
  )

  onThree(
    "takes the presences of a node that is gone without a word away after thirty seconds, not before",
    (cluster, a, b, c) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        yield* b.join("bob")
        yield* c.join("cy")
        yield* TestClock.adjust(period + 20)
        yield* cluster.stop(a, "crash")
        yield* TestClock.adjust("28 seconds")
        assert.deepStrictEqual([yield* b.keys(), yield* c.keys()], [["ada", "bob", "cy"], ["ada", "bob", "cy"]])
        yield* TestClock.adjust("4 seconds")
        assert.deepStrictEqual([yield* b.keys(), yield* c.keys()], [["bob", "cy"], ["bob", "cy"]])
        yield* cluster.assertTruth()
      })
  )

  onThree(
    "tells at once that a node shuts down, and that it is back when it has started again",
    (cluster, a, b) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        const bob = yield* b.join("bob")
        yield* TestClock.adjust(period + 20)
        yield* cluster.stop(a, "stop")
        yield* TestClock.adjust(20)
        assert.deepStrictEqual(yield* b.keys(), ["bob"])
        yield* cluster.assertTruth()
        assert.deepStrictEqual(Object.keys(bob.diffs.at(-1)?.leaves ?? {}), ["ada"])
        const again = yield* cluster.start("a")
        yield* again.join("ada")
        yield* TestClock.adjust(2 * period)
        assert.deepStrictEqual([yield* again.keys(), yield* b.keys()], [["ada", "bob"], ["ada", "bob"]])
        yield* cluster.assertTruth()
      })
  )

  onThree(
    "sees a node that has crashed and started again before anybody noticed with what it has now",
    (cluster, a, b) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        yield* b.join("bob")
        yield* TestClock.adjust(period + 20)
        yield* cluster.stop(a, "crash")
        yield* TestClock.adjust(10)
        const again = yield* cluster.start("a")
        yield* again.join("eve")
        yield* TestClock.adjust(2 * period)
        assert.deepStrictEqual([yield* again.keys(), yield* b.keys()], [["bob", "eve"], ["bob", "eve"]])
        yield* cluster.assertTruth()
      })
  )

  onThree(
    "hides each side of a partition from the other after thirty seconds, and shows it when it is healed",
    (cluster, a, b, c) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        yield* b.join("bob")
        yield* c.join("cy")
        yield* TestClock.adjust(period + 20)
        for (const other of ["b", "c"]) {
          cluster.network.cut("a", other)
          cluster.network.cut(other, "a")
        }
        yield* TestClock.adjust("50 seconds")
        assert.deepStrictEqual([yield* a.keys(), yield* b.keys(), yield* c.keys()], [["ada"], ["bob", "cy"], [
          "bob",
          "cy"
        ]])
        for (const member of [...a.members, ...b.members]) {
          assert.deepStrictEqual(member.sees, yield* (member.key === "ada" ? a : b).list())
        }
        yield* b.join("ben")
        yield* TestClock.adjust("20 minutes")
        cluster.network.heal()
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(yield* a.keys(), ["ada", "ben", "bob", "cy"])
        yield* cluster.assertTruth()
      })
  )

  onThree(
    "lets a node that is heard but hears nothing lose the others only on its own side",
    (cluster, a, b, c) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        yield* b.join("bob")
        yield* TestClock.adjust(period + 20)
        cluster.network.cut("b", "a")
        cluster.network.cut("c", "a")
        yield* TestClock.adjust("50 seconds")
        assert.deepStrictEqual([yield* a.keys(), yield* c.keys()], [["ada"], ["ada", "bob"]])
        cluster.network.heal()
        yield* TestClock.adjust("20 seconds")
        yield* cluster.assertTruth()
      })
  )

  onThree("shows everybody to a node that comes late", (cluster, a, b, c) =>
    Effect.gen(function*() {
      for (const node of [a, b, c]) yield* node.join(node.name)
      yield* TestClock.adjust("1 minute")
      const late = yield* cluster.start("d")
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* late.keys(), ["a", "b", "c"])
      yield* cluster.assertTruth()
    }))

  it.effect("hides nobody from clients who was lost and found again within one coalesced diff", () =>
    Effect.scoped(Effect.gen(function*() {
      const { cluster, nodes: [a, b] } = yield* clusterOf(["a", "b"], { coalesce: "1 minute" })
      if (a === undefined || b === undefined) return assert.fail("two nodes")
      yield* a.join("ada")
      const bob = yield* b.join("bob")
      yield* TestClock.adjust("1 minute")
      cluster.network.cut("a", "b")
      yield* TestClock.adjust("50 seconds")
      assert.deepStrictEqual(yield* b.keys(), ["bob"])
      cluster.network.heal()
      yield* TestClock.adjust("2 minutes")
      assert.lengthOf(bob.diffs.filter(({ leaves }) => "ada" in leaves), 0)
      yield* cluster.assertTruth()
    })))

  onThree(
    "goes on without a presence that is no plain data, which is refused where it is tracked",
    (cluster, a, b) =>
      Effect.gen(function*() {
        yield* a.join("ada")
        const worker = yield* a.run(
          Process.spawn((_self: Process.Pid<never>) => Effect.succeed({ handle: () => Effect.void }))
        )
        const error = yield* a.run(Effect.flip(Online.track({ pid: worker, topic: "jobs" }, "big", { size: 1n })))
        assert.strictEqual(error.code, "INVALID_META")
        yield* a.join("eve")
        yield* TestClock.adjust(2 * period)
        yield* cluster.assertTruth()
        assert.deepStrictEqual([yield* a.keys("jobs"), yield* b.keys("jobs")], [[], []])
        assert.isFalse(cluster.members.some(({ crashed }) => crashed))
      })
  )
})
