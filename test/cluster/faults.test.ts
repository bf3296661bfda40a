/** Whole nodes, and a real engine between them that fails. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { isMissing } from "../support/engine.ts"
import { type Cluster, clusterOn, type Node } from "./cluster.ts"
import { assertEmpty } from "./contract.ts"
import { subjects, type Wired, wired } from "./engines.ts"

const period = 50

interface World {
  readonly cluster: Cluster<Wired>
  readonly fabric: Wired
}

interface Fault {
  readonly name: string
  readonly begin: (fabric: Wired) => Effect.Effect<void>
  readonly end: (fabric: Wired) => Effect.Effect<void>
  /** Who sees whom until it is over, once it is noticed. */
  readonly apart: ReadonlyArray<ReadonlyArray<string>>
}

const alone = [["a"], ["b"], ["c"]]
const withoutC = [["a", "b"], ["c"]]
const onC = (name: string, begin: (fabric: Wired) => void): Fault => ({
  name,
  begin: (fabric) => Effect.sync(() => begin(fabric)),
  end: (fabric) => Effect.sync(() => fabric.cable("c").heal()),
  apart: withoutC
})

const killed: Fault = {
  name: "is killed and starts again",
  begin: ({ engine }) => Effect.promise(() => engine.kill()),
  end: ({ engine }) => Effect.promise(() => engine.start()),
  apart: alone
}
const frozen: Fault = {
  name: "hangs and goes on",
  begin: ({ engine }) => Effect.sync(() => engine.freeze()),
  end: ({ engine }) => Effect.sync(() => engine.thaw()),
  apart: alone
}
const cutOff = onC("is cut off from a node", (fabric) => fabric.cable("c").cut())

const faults: ReadonlyArray<Fault> = [
  killed,
  frozen,
  cutOff,
  onC("neither hears a node nor is heard by it", (fabric) => fabric.cable("c").silence("out", "in")),
  onC("does not hear a node", (fabric) => fabric.cable("c").silence("out")),
  onC("is not heard by a node", (fabric) => fabric.cable("c").silence("in"))
]

/** What nobody has handled, while the Scope lasts. */
const unhandled = Effect.acquireRelease(
  Effect.sync(() => {
    const causes: Array<unknown> = []
    const note = (cause: unknown) => void causes.push(cause)
    process.on("unhandledRejection", note).on("uncaughtExceptionMonitor", note)
    return { causes, note }
  }),
  ({ note }) => Effect.sync(() => void process.off("unhandledRejection", note).off("uncaughtExceptionMonitor", note))
)

/** Every one of these is heard by all of them that are in the same room. */
const assertHeard = Effect.fnUntraced(function*({ cluster }: World, nodes: ReadonlyArray<Node>) {
  const members = nodes.flatMap((node) => node.members).filter(({ topic }) => topic === "room:1")
  for (const member of members) member.heard.length = 0
  for (const member of members) member.send("shout")
  const all = members.map(({ n }) => n).sort()
  yield* cluster.eventually(Effect.sync(() => {
    for (const member of members) {
      // What others have said before may be late.
      const heard = member.heard.filter((n) => all.includes(Number(n)))
      assert.deepStrictEqual(heard.sort(), all, `client ${member.n}`)
    }
  }))
})

/** How many nodes the engine thinks to want a topic; those of the nodes themselves are not counted. */
const wanted = ({ fabric }: World): Effect.Effect<ReadonlyArray<number>> =>
  Effect.map(
    Effect.promise(() => fabric.engine.subscribers()),
    (channels) => Object.entries(channels).flatMap(([name, count]) => /.topic./.test(name) ? [count] : [])
  )

for (const subject of subjects) {
  const trio = (
    name: string,
    body: (world: World, a: Node, b: Node, c: Node) => Effect.Effect<unknown, unknown, Scope.Scope>,
    { downPeriod = 400, maxSilentPeriods = 2 } = {}
  ) =>
    it.live(name, () =>
      Effect.gen(function*() {
        const { causes } = yield* unhandled
        const fabric = yield* wired(subject)
        const options = { broadcastPeriod: period, maxSilentPeriods, downPeriod }
        const { cluster, nodes: [a, b, c] } = yield* clusterOn(fabric, ["a", "b", "c"], options)
        if (a === undefined || b === undefined || c === undefined) return assert.fail("three nodes")
        yield* body({ cluster, fabric }, a, b, c)
        for (const node of cluster.nodes.values()) {
          for (const member of node.members.slice()) yield* node.leave(member)
        }
        yield* cluster.eventually(assertEmpty(cluster))
        yield* cluster.eventually(Effect.map(wanted({ cluster, fabric }), (counts) => {
          assert.deepStrictEqual(counts, [cluster.nodes.size])
        }))
        for (const node of [a, b, c]) yield* cluster.stop(node, "stop")
        yield* cluster.eventually(Effect.map(
          Effect.promise(() => fabric.engine.subscribers()),
          (channels) => assert.deepStrictEqual(channels, {})
        ))
        assert.deepStrictEqual(causes, [])
        assert.deepStrictEqual(cluster.members.filter(({ crashed }) => crashed), [])
        assert.deepStrictEqual(cluster.log.lines.filter(({ level }) => level !== "Info" && level !== "Warn"), [])
      }))

  describe.skipIf(isMissing(subject.kind))(`presences while ${subject.kind.name}`, () => {
    for (const { apart, begin, end, name } of faults) {
      trio(
        `${name} are those of the nodes that still hear each other, and afterwards those of all`,
        (world, a, b, c) =>
          Effect.gen(function*() {
            const { cluster, fabric } = world
            const ada = yield* a.join("ada")
            yield* b.join("bob")
            const cy = yield* c.join("cy")
            yield* cluster.eventually(cluster.assertTruth())
            yield* begin(fabric)
            yield* a.update(ada, "away")
            yield* a.join("ada")
            for (const node of [a, b, c]) {
              for (const { n, sees } of node.members) assert.deepStrictEqual(sees, yield* node.list(), `client ${n}`)
              yield* assertHeard(world, [node])
            }
            for (const names of apart) {
              const group = [a, b, c].filter((node) => names.includes(node.name))
              yield* cluster.eventually(cluster.assertTruth("room:1", group))
            }
            yield* c.join("late", "room:2")
            yield* c.join("brief")
            const [, , brief] = c.members
            if (brief !== undefined) yield* c.leave(brief)
            yield* c.leave(cy, "drop")
            yield* end(fabric)
            yield* b.join("ben", "room:2")
            yield* cluster.eventually(cluster.assertTruth("room:1"))
            yield* cluster.eventually(cluster.assertTruth("room:2"))
            yield* c.join("cy")
            yield* cluster.eventually(cluster.assertTruth("room:1"))
            yield* assertHeard(world, [a, b, c])
          })
      )
    }

    for (
      const [name, fault, nodes] of [["is away", killed, 3], ["is cut off from a node", cutOff, 1]] as const
    ) {
      trio(
        `${name} for less than the down period stay, and what has changed is seen right after`,
        ({ cluster, fabric }, a, _, c) =>
          Effect.gen(function*() {
            const ada = yield* a.join("ada")
            const cy = yield* c.join("cy")
            yield* cluster.eventually(cluster.assertTruth())
            cy.diffs.length = 0
            yield* fault.begin(fabric)
            yield* cluster.log.until("is out of reach", nodes)
            yield* a.update(ada, "away")
            yield* a.join("eve")
            yield* cluster.network.pass(2 * period)
            yield* fault.end(fabric)
            yield* cluster.eventually(cluster.assertTruth())
            const changes = cy.diffs.map(({ joins, leaves }) => [Object.keys(joins).sort(), Object.keys(leaves)])
            assert.deepStrictEqual(changes, [[["ada", "eve"], ["ada"]]])
          }),
        // A heartbeat would come too late to tell what is missing.
        { downPeriod: 60_000, maxSilentPeriods: 1000 }
      )
    }
  })
}
