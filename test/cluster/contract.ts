/** What presences promise, whatever connects the nodes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric, type Scope } from "effect"
import type * as Presence from "../../src/Presence.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { type Cluster, clusterOn, type Fabric, type Node } from "./cluster.ts"

const period = 50

/** Nobody is hidden for being silent. */
const patient: Presence.Options = { broadcastPeriod: period, downPeriod: "1 minute" }

const impatient: Presence.Options = {
  broadcastPeriod: period,
  maxSilentPeriods: 2,
  downPeriod: 8 * period,
  permdownPeriod: 16 * period
}

/** The topic of the tracker itself. */
const own = "phx_presence:online_shard0"

/** Nothing is left of those who were here. */
export const assertEmpty = (cluster: Cluster<Fabric>): Effect.Effect<void> =>
  Effect.sync(() => {
    const all = [...cluster.nodes.values()]
    for (const { name, stats } of all) {
      const others = all.flatMap((other) => other.name === name ? [] : [other.name]).sort()
      assert.deepStrictEqual(stats, { own: 0, copied: 0, nodes: others, topics: [own] }, name)
    }
  })

/** The largest message that the nodes may send, in bytes. */
const limit = 2000

const withheld = Effect.map(
  Metric.value(Metric.withAttributes(Telemetry.presencesWithheld, { tracker: "online" })),
  ({ count }) => count
)

/** The same body for all; live ones run on the real clock. */
export const contract = (
  name: string,
  fabric: (limits: { readonly maxMessageBytes: number }) => Effect.Effect<Fabric, never, Scope.Scope>,
  options: { readonly skip?: boolean; readonly alone?: boolean; readonly live?: boolean } = {}
): void => {
  describe.skipIf(options.skip === true)(`presences on ${name}`, () => {
    const test = options.live === true ? it.live : it.effect

    const pair = (
      name: string,
      body: (cluster: Cluster<Fabric>, a: Node, b: Node) => Effect.Effect<unknown, unknown>,
      presence: Presence.Options = patient
    ) =>
      test(name, () =>
        Effect.gen(function*() {
          const names = options.alone === true ? ["a"] : ["a", "b"]
          const { cluster, nodes: [a, b = a] } = yield* clusterOn(
            yield* fabric({ maxMessageBytes: limit }),
            names,
            presence
          )
          if (a === undefined || b === undefined) return assert.fail("no node")
          yield* body(cluster, a, b)
        }))
    /** For what takes several nodes; a single one has nothing to show there. */
    const together: typeof pair = options.alone === true ? () => {} : pair

    pair(
      "are seen on every node, with what is known of them, and gone when they leave",
      (cluster, a, b) =>
        Effect.gen(function*() {
          const truth = cluster.eventually(cluster.assertTruth())
          const ada = yield* a.join("ada")
          const bob = yield* b.join("bob")
          yield* truth
          assert.deepStrictEqual(yield* b.keys(), ["ada", "bob"])
          yield* a.update(ada, "away")
          yield* truth
          const updates = bob.diffs.filter(({ joins, leaves }) => "ada" in joins && "ada" in leaves)
          assert.lengthOf(updates, 1)
          const [after] = updates[0]?.joins["ada"]?.metas ?? []
          const [before] = updates[0]?.leaves["ada"]?.metas ?? []
          assert.deepStrictEqual([after?.["phx_ref_prev"], after?.["state"]], [before?.phx_ref, "away"])
          yield* a.leave(ada)
          yield* truth
          assert.deepStrictEqual(yield* b.keys(), ["bob"])
        })
    )

    pair("of one key are as many as there are processes, wherever they are", (cluster, a, b) =>
      Effect.gen(function*() {
        const truth = cluster.eventually(cluster.assertTruth())
        const [tab, phone] = [yield* a.join("ada"), yield* a.join("ada")]
        const desk = yield* b.join("ada")
        yield* truth
        assert.deepStrictEqual(yield* b.keys(), ["ada"])
        assert.lengthOf(yield* b.list(), 3)
        yield* a.leave(tab, "drop")
        yield* b.update(desk, "busy")
        yield* truth
        yield* a.leave(phone)
        yield* truth
        assert.deepStrictEqual((yield* a.list()).map((line) => line.split(" ").slice(0, 3)), [[
          "ada",
          `${desk.n}`,
          "busy"
        ]])
      }))

    pair(
      "reach phoenix.js in every client as a stream of diffs that adds up to the list",
      (cluster, a, b) =>
        Effect.gen(function*() {
          for (let round = 0; round < 8; round++) {
            const node = round % 2 === 0 ? a : b
            const member = yield* node.join(["ada", "bob", "__proto__"][round % 3] ?? "")
            yield* node.update(member, `round ${round}`)
            const other = round % 3 === 0 ? a : b
            const [first] = other.members
            if (round % 2 === 1 && first !== undefined) yield* other.leave(first, round % 4 === 1 ? "leave" : "drop")
            yield* cluster.network.pass(period / 2)
          }
          yield* cluster.eventually(cluster.assertTruth())
          for (const { diffs, n } of cluster.members) assert.isAbove(diffs.length, 0, `client ${n}`)
        })
    )

    together(
      "leave at once with a node that shuts down, and come back with it",
      (cluster, a, b) =>
        Effect.gen(function*() {
          yield* a.join("ada")
          yield* b.join("bob")
          yield* cluster.eventually(cluster.assertTruth())
          yield* cluster.stop(a, "stop")
          yield* cluster.eventually(cluster.assertTruth())
          assert.deepStrictEqual(yield* b.keys(), ["bob"])
          const again = yield* cluster.start("a")
          yield* again.join("eve")
          yield* cluster.eventually(cluster.assertTruth())
        })
    )

    together(
      "of a node that is gone without a word are hidden, and then forgotten",
      (cluster, a, b) =>
        Effect.gen(function*() {
          yield* a.join("ada")
          yield* b.join("bob")
          yield* cluster.eventually(cluster.assertTruth())
          yield* cluster.stop(a, "crash")
          assert.deepStrictEqual(yield* b.keys(), ["ada", "bob"])
          yield* cluster.eventually(cluster.assertTruth())
          yield* cluster.eventually(Effect.sync(() => {
            const { copied, nodes } = b.stats
            assert.deepStrictEqual({ copied, nodes }, { copied: 0, nodes: [] })
          }))
        }),
      impatient
    )

    together(
      "of a node that has crashed are replaced by those it has when it is back",
      (cluster, a, b) =>
        Effect.gen(function*() {
          yield* a.join("ada")
          yield* b.join("bob")
          yield* cluster.eventually(cluster.assertTruth())
          yield* cluster.stop(a, "crash")
          yield* cluster.network.pass(10)
          const again = yield* cluster.start("a")
          yield* again.join("eve")
          yield* cluster.eventually(cluster.assertTruth())
          assert.deepStrictEqual(yield* b.keys(), ["bob", "eve"])
        })
    )

    together(
      "that do not fit into one message come in several, to those who are late too",
      (cluster, a, b) =>
        Effect.gen(function*() {
          for (let n = 0; n < 40; n++) yield* a.join(`user ${n}`)
          yield* b.join("bob")
          yield* cluster.eventually(cluster.assertTruth())
          yield* cluster.start("c")
          yield* cluster.eventually(cluster.assertTruth())
          assert.deepStrictEqual(cluster.log.lines.filter(({ level }) => level === "Error"), [])
        })
    )

    together(
      "that are too large for any message are seen on their own node only, which is said",
      (cluster, a, b) =>
        Effect.gen(function*() {
          const before = yield* withheld
          const [ada, eve] = [yield* a.join("ada"), yield* a.join("eve")]
          yield* cluster.eventually(cluster.assertTruth())
          yield* a.update(eve, "x".repeat(2 * limit))
          yield* a.update(ada, "away")
          const isShown = (node: Node) =>
            cluster.eventually(Effect.gen(function*() {
              const [line = "", ...others] = yield* node.list()
              assert.match(line, /^ada \d+ away /)
              assert.deepStrictEqual(others, [])
            }))
          yield* isShown(b)
          yield* isShown(yield* cluster.start("c"))
          assert.deepStrictEqual(yield* a.keys(), ["ada", "eve"])
          const lines = cluster.log.of("a presence cannot be told to other nodes")
          assert.deepStrictEqual(lines.map(({ level }) => level), ["Error"])
          assert.deepInclude(lines[0]?.annotations, { tracker: "online", topic: "room:1", key: "eve" })
          assert.strictEqual((yield* withheld) - before, 1)
          yield* a.update(eve, "slim")
          yield* cluster.eventually(cluster.assertTruth())
          yield* a.leave(eve)
          yield* a.leave(ada)
          yield* cluster.eventually(assertEmpty(cluster))
        })
    )

    pair("leave nothing behind", (cluster, a, b) =>
      Effect.gen(function*() {
        const joined = []
        for (const node of [a, b]) {
          for (const key of ["ada", "bob", "cy"]) joined.push([node, yield* node.join(key, `room:${key}`)] as const)
        }
        for (const key of ["ada", "bob", "cy"]) {
          yield* cluster.eventually(cluster.assertTruth(`room:${key}`))
        }
        for (const [node, member] of joined) yield* node.leave(member, member.key === "bob" ? "drop" : "leave")
        yield* cluster.eventually(assertEmpty(cluster))
      }))
  })
}
