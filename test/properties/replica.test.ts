import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import type { Packet, Presence } from "../../src/internal/packet.ts"
import { type Diff, type Options, type Outcome, type Outgoing, Replica } from "../../src/internal/replica.ts"

const numRuns = Number(process.env["CHAOS_RUNS"] ?? 2000)

const options: Options = { period: 10, maxSilentPeriods: 2, downPeriod: 60, permdownPeriod: 200 }

const topics = ["a", "b", "__proto__"]

/** The key of presences that are too large for any packet. */
const giant = "giant"

const at = <A>(items: ReadonlyArray<A>, index: number): A => {
  const item = items[index % items.length]
  if (item === undefined) throw new Error("nothing to choose from")
  return item
}

/** What somebody sees who began with nothing and was told of every diff: topics, and in each the key of each `phx_ref`. */
class Mirror {
  readonly topics = new Map<string, Map<string, string>>()

  /** @returns the `phx_ref`s that have joined and left */
  apply(diff: Diff): { readonly joins: ReadonlyArray<string>; readonly leaves: ReadonlyArray<string> } {
    const all: { joins: Array<string>; leaves: Array<string> } = { joins: [], leaves: [] }
    for (const [topic, { joins, leaves }] of diff) {
      if (joins.length + leaves.length === 0) assert.fail("a diff without a change")
      const seen = this.topics.get(topic) ?? new Map<string, string>()
      for (const [key, { phx_ref }] of leaves) {
        if (seen.get(phx_ref) !== key) assert.fail(`${phx_ref} left and was not visible`)
        all.leaves.push(phx_ref)
      }
      for (const [key, { phx_ref }] of joins) {
        if (seen.has(phx_ref)) assert.fail(`${phx_ref} joined and was visible`)
        seen.set(phx_ref, key)
        all.joins.push(phx_ref)
      }
      for (const [, { phx_ref }] of leaves) seen.delete(phx_ref)
      if (seen.size === 0) this.topics.delete(topic)
      else this.topics.set(topic, seen)
    }
    return all
  }
}

const visible = (replica: Replica): Map<string, Map<string, string>> => {
  const all = new Map<string, Map<string, string>>()
  for (const topic of topics) {
    const seen = new Map<string, string>()
    for (const [key, presences] of replica.list(topic)) {
      for (const [, , , { phx_ref }] of presences) seen.set(phx_ref, key)
    }
    if (seen.size > 0) all.set(topic, seen)
  }
  return all
}

/** The same, whatever the order. */
const same = (a: Map<string, Map<string, string>>, b: Map<string, Map<string, string>>): boolean => {
  if (a.size !== b.size) return false
  for (const [topic, refs] of a) {
    const others = b.get(topic)
    if (others?.size !== refs.size) return false
    for (const [ref, key] of refs) if (others.get(ref) !== key) return false
  }
  return true
}

const plain = (all: Map<string, Map<string, string>>) => Array.from(all, ([topic, refs]) => [topic, ...refs]).sort()

const assertSame = (
  actual: Map<string, Map<string, string>>,
  expected: Map<string, Map<string, string>>,
  what: string
) => {
  if (!same(actual, expected)) assert.deepStrictEqual(plain(actual), plain(expected), what)
}

/** One life of a node, and what the test knows of it. */
class Life {
  readonly replica: Replica
  readonly mirror = new Mirror()
  readonly own = new Map<number, Presence>()
  /** What this node was told has ended: it must not come again. */
  readonly over = new Set<string>()
  /** The newest life of each other node that was heard here, and those that have said bye. */
  readonly newest = new Map<string, number>()
  readonly byes = new Set<string>()
  ended = false
  private ids = 0

  constructor(node: string, life: number) {
    this.replica = new Replica({ node, life }, options)
  }

  make(topic: string, key: string, id = ++this.ids): Presence {
    const { life, node } = this.replica.self
    return [id, topic, key, { phx_ref: `${node} ${life} ${id} ${++this.refs}`, node, life }]
  }
  private refs = 0
}

interface InFlight {
  readonly from: number
  readonly to: number
  readonly text: string
  readonly sent: number
}

/** Nodes, and a network that loses, doubles, holds back and reorders what they tell each other. */
class World {
  readonly nodes: Array<Life | undefined>
  private readonly network: Array<InFlight> = []
  private readonly cuts = new Set<string>()
  private lives = 0
  /** How many presences and removals fit into a packet. */
  private readonly limit: number
  now = 1000

  constructor(count: number, limit: number) {
    this.limit = limit
    this.nodes = Array.from({ length: count }, (_, index) => this.born(index))
  }

  private born(index: number): Life {
    return new Life(`n${index}`, ++this.lives)
  }

  alive(index: number): Life | undefined {
    return this.nodes[index % this.nodes.length]
  }

  /** What one node has done or learned: sends its packets, and checks what must hold at every moment. */
  private done(index: number, diff: Diff, send: ReadonlyArray<Outgoing> = [], bye = false): void {
    const life = this.alive(index)
    if (life === undefined) return
    const slot = index % this.nodes.length
    for (const { packet, to } of this.fitting(send)) {
      const text = JSON.stringify(packet)
      for (const other of this.nodes.keys()) {
        if (other === slot || (to !== undefined && to !== `n${other}`)) continue
        this.network.push({ from: slot, to: other, text, sent: this.now })
      }
    }
    const { joins, leaves } = life.mirror.apply(diff)
    for (const ref of joins) if (life.over.has(ref)) assert.fail(`${ref} has come back from the dead`)
    if (leaves.length > 0) {
      const up = new Set(life.replica.nodes.flatMap(({ node, up }) => up ? [node] : []))
      for (const ref of leaves) {
        const [node = ""] = ref.split(" ")
        if (bye || up.has(node) || node === life.replica.self.node) life.over.add(ref)
      }
    }
    this.assertView(life)
  }

  /** Plain comparisons: this runs millions of times. */
  private assertView({ byes, mirror, newest, own, replica }: Life): void {
    const { self } = replica
    let mine = 0
    for (const topic of topics) {
      const seen = mirror.topics.get(topic)
      let count = 0
      for (const [key, presences] of replica.list(topic)) {
        if (presences.size === 0) assert.fail("a key without presences")
        for (const presence of presences) {
          const { life, node, phx_ref } = presence[3]
          count++
          if (presence[1] !== topic || presence[2] !== key) assert.fail(`${phx_ref} is listed in the wrong place`)
          if (seen?.get(phx_ref) !== key) assert.fail(`${phx_ref} is listed, and no diff has told it`)
          if (node === self.node) {
            mine++
            if (own.get(presence[0]) !== presence) assert.fail(`${phx_ref} is not there any more, as its owner knows`)
          } else if (Number(life) < (newest.get(String(node)) ?? 0)) assert.fail(`${phx_ref} is of a life that is over`)
          else if (byes.size > 0 && byes.has(`${String(node)} ${String(life)}`)) {
            assert.fail(`${phx_ref} is visible after a bye`)
          }
        }
      }
      if (count !== (seen?.size ?? 0)) assert.fail("a presence is listed twice, or not listed, and no diff has told it")
    }
    if (mine !== own.size) assert.fail("a node does not know its own presences")
  }

  /** What the network takes of it. */
  private fitting(send: ReadonlyArray<Outgoing>): ReadonlyArray<Outgoing> {
    return send.flatMap((out) => {
      const { packet } = out
      const present = "present" in packet ? packet.present : []
      const size = present.length + ("gone" in packet ? packet.gone.length : 0)
      if (size <= this.limit && !present.some(([, , key]) => key === giant)) return [out]
      return this.fitting(out.cut?.().send ?? assert.fail("a packet without presences is too large"))
    })
  }

  put(index: number, topic: string, key: string): void {
    const life = this.alive(index)
    if (life === undefined) return
    const presence = life.make(topic, key)
    life.own.set(presence[0], presence)
    this.done(index, life.replica.put(presence))
  }

  update(index: number, pick: number): void {
    const life = this.alive(index)
    if (life === undefined || life.own.size === 0) return
    const [id, topic, key] = at([...life.own.values()], pick)
    const presence = life.make(topic, key, id)
    life.own.set(id, presence)
    this.done(index, life.replica.put(presence))
  }

  remove(index: number, picks: ReadonlyArray<number>): void {
    const life = this.alive(index)
    if (life === undefined) return
    // Also of what was never there.
    const ids = [...life.own.keys()].filter((_, n) => picks.includes(n % 10)).concat(99_999)
    for (const id of ids) life.own.delete(id)
    this.done(index, life.replica.remove(ids))
  }

  tick(index: number, isReached = true): void {
    const life = this.alive(index)
    if (life === undefined) return
    const { diff, send } = life.replica.tick(this.now, isReached)
    this.done(index, diff, send)
  }

  advance(millis: number): void {
    this.now += millis
    // No network holds a packet back for longer than this.
    const late = this.network.filter(({ sent }) => this.now - sent <= options.downPeriod)
    this.network.splice(0, this.network.length, ...late)
  }

  deliver(pick: number, how: "deliver" | "lose" | "double"): boolean {
    if (this.network.length === 0) return false
    const place = pick % this.network.length
    const sent = at(this.network, place)
    if (how !== "double") this.network.splice(place, 1)
    const life = this.alive(sent.to)
    if (how === "lose" || life === undefined || this.cuts.has(`${sent.from} ${sent.to}`)) return true
    const packet: Packet = JSON.parse(sent.text)
    const { from, type } = packet
    if (type !== "request") {
      life.newest.set(from.node, Math.max(from.life, life.newest.get(from.node) ?? 0))
      if (type === "bye") life.byes.add(`${from.node} ${from.life}`)
    }
    const { diff, send } = life.replica.receive(packet, this.now)
    this.done(sent.to, diff, send, type === "bye")
    return true
  }

  drain(): void {
    let packets = 0
    while (this.deliver(0, "deliver")) if (++packets > 10_000) assert.fail("packets without an end")
  }

  cut(from: number, to: number): void {
    this.cuts.add(`${from % this.nodes.length} ${to % this.nodes.length}`)
  }

  heal(): void {
    this.cuts.clear()
  }

  crash(index: number): void {
    this.nodes[index % this.nodes.length] = undefined
  }

  restart(index: number): void {
    const slot = index % this.nodes.length
    this.nodes[slot] = this.born(slot)
  }

  bye(index: number): void {
    const life = this.alive(index)
    if (life === undefined || life.ended) return
    life.ended = true
    this.done(index % this.nodes.length, new Map(), [life.replica.bye()])
  }

  /** A time in which nothing happens and the network does what it should. */
  quiet(millis: number): void {
    this.heal()
    for (let passed = 0; passed < millis; passed += options.period) {
      this.advance(options.period)
      for (const index of this.nodes.keys()) this.tick(index)
      this.drain()
    }
  }

  /**
   * Every node sees what all who have not ended own, and one that has ended its own beside that; the giants only where
   * they are.
   */
  assertTruth(): void {
    for (const life of this.nodes) {
      if (life === undefined) continue
      const truth = new Map<string, Map<string, string>>()
      for (const other of this.nodes) {
        if (other === undefined || (other.ended && other !== life)) continue
        for (const [, topic, key, { phx_ref }] of other.own.values()) {
          if (key === giant && other !== life) continue
          const refs = truth.get(topic) ?? new Map<string, string>()
          truth.set(topic, refs.set(phx_ref, key))
        }
      }
      assertSame(visible(life.replica), truth, `${life.replica.self.node} is wrong`)
    }
  }

  /** What a node keeps of the others is in proportion to those who are there. */
  assertForgotten(): void {
    const nodes = this.nodes.flatMap((life, index) => life === undefined || life.ended ? [] : [`n${index}`])
    for (const life of this.nodes) {
      if (life === undefined) continue
      assert.deepStrictEqual(life.replica.size, { own: 0, copied: 0, topics: 0 })
      const others = nodes.filter((node) => node !== life.replica.self.node)
      assert.deepStrictEqual(life.replica.nodes.map(({ node }) => node).sort(), others)
    }
  }
}

type Step = (world: World) => void

const node = fc.nat(4)
const pick = fc.nat(1000)
const step = (name: string, run: Step): Step => Object.assign(run, { [fc.toStringMethod]: () => name })

const steps = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(node, fc.nat(2), fc.constantFrom("k0", "k1", "k2", giant)).map(([n, topic, key]) =>
      step(`put(${n}, ${topic}, ${key})`, (world) => world.put(n, at(topics, topic), key))
    )
  },
  {
    weight: 3,
    arbitrary: fc.tuple(node, pick).map(([n, p]) => step(`update(${n}, ${p})`, (world) => world.update(n, p)))
  },
  {
    weight: 3,
    arbitrary: fc.tuple(node, fc.uniqueArray(fc.nat(9), { minLength: 1 })).map(([n, picks]) =>
      step(`remove(${n}, [${picks}])`, (world) => world.remove(n, picks))
    )
  },
  { weight: 8, arbitrary: node.map((n) => step(`tick(${n})`, (world) => world.tick(n))) },
  { weight: 1, arbitrary: node.map((n) => step(`tick(${n}, false)`, (world) => world.tick(n, false))) },
  {
    weight: 4,
    arbitrary: fc.constantFrom(1, 10, 10, 10, 30, 61, 100, 201).map((millis) =>
      step(`advance(${millis})`, (world) => world.advance(millis))
    )
  },
  { weight: 10, arbitrary: pick.map((p) => step(`deliver(${p})`, (world) => void world.deliver(p, "deliver"))) },
  { weight: 3, arbitrary: pick.map((p) => step(`lose(${p})`, (world) => void world.deliver(p, "lose"))) },
  { weight: 3, arbitrary: pick.map((p) => step(`double(${p})`, (world) => void world.deliver(p, "double"))) },
  { weight: 3, arbitrary: fc.constant(step("drain()", (world) => world.drain())) },
  {
    weight: 2,
    arbitrary: fc.integer({ min: 10, max: 70 }).map((millis) =>
      step(`quiet(${millis})`, (world) => world.quiet(millis))
    )
  },
  { weight: 1, arbitrary: fc.tuple(node, node).map(([a, b]) => step(`cut(${a}, ${b})`, (world) => world.cut(a, b))) },
  {
    weight: 1,
    arbitrary: fc.tuple(node, node).map(([a, b]) =>
      step(`split(${a}, ${b})`, (world) => {
        world.cut(a, b)
        world.cut(b, a)
      })
    )
  },
  { weight: 1, arbitrary: fc.constant(step("heal()", (world) => world.heal())) },
  { weight: 1, arbitrary: node.map((n) => step(`crash(${n})`, (world) => world.crash(n))) },
  { weight: 2, arbitrary: node.map((n) => step(`restart(${n})`, (world) => world.restart(n))) },
  { weight: 1, arbitrary: node.map((n) => step(`bye(${n})`, (world) => world.bye(n))) }
)

/** Who is dead without a word is hidden after this, and whoever has missed something has asked. */
const enough = options.downPeriod + options.period * (options.maxSilentPeriods + 3)

describe("whatever is lost, doubled, late, cut off or dead", () => {
  it(
    "diffs add up to the list at every moment, all come to see the truth, and nothing is kept when all have left",
    () => {
      fc.assert(
        fc.property(
          fc.integer({ min: 2, max: 5 }),
          fc.constantFrom(1, 2, Infinity),
          fc.array(steps, { maxLength: 120, size: "max" }),
          (count, limit, history) => {
            const world = new World(count, limit)
            for (const run of history) run(world)
            world.quiet(enough)
            world.assertTruth()
            for (const index of world.nodes.keys()) world.remove(index, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
            world.quiet(options.permdownPeriod + enough)
            world.assertTruth()
            world.assertForgotten()
          }
        ),
        { numRuns }
      )
    },
    3_600_000
  )
})

// --- one rule at a time -----------------------------------------------------------------------------------------------

const ada: Presence = [1, "room", "ada", { phx_ref: "a1" }]
const bob: Presence = [2, "room", "bob", { phx_ref: "b1" }]
const other = { node: "other", life: 5 }

const delta = (
  base: number,
  version: number,
  present: ReadonlyArray<Presence>,
  gone: ReadonlyArray<number> = []
): Packet => ({
  type: "delta",
  from: other,
  base,
  version,
  present,
  gone
})
const heartbeat = (version: number, from = other): Packet => ({ type: "heartbeat", from, version })
const snapshot = (version: number, total: number, present: ReadonlyArray<Presence>): Packet => ({
  type: "snapshot",
  from: other,
  version,
  total,
  present
})

const keys = (replica: Replica): ReadonlyArray<string> => [...replica.list("room").keys()].sort()

const names = ({ diff }: Pick<Outcome, "diff">) => {
  const { joins = [], leaves = [] } = diff.get("room") ?? {}
  return { joins: joins.map(([key]) => key), leaves: leaves.map(([key]) => key) }
}

const requests = ({ send }: Outcome) => send.filter(({ packet }) => packet.type === "request")

const packets = ({ send }: Outcome) => send.map(({ packet, to }) => ({ to, packet }))

const fresh = () => new Replica({ node: "self", life: 1 }, options)

describe("a copy", () => {
  it("with a gap asks the owner once in a period for what it lacks", () => {
    const replica = fresh()
    replica.receive(delta(0, 1, [ada]), 0)
    assert.deepStrictEqual(replica.receive(delta(2, 3, [bob]), 0).send, [
      { to: "other", packet: { type: "request", from: replica.self, life: 5, have: 1 } }
    ])
    assert.deepStrictEqual(requests(replica.receive(delta(3, 4, []), 9)), [])
    assert.lengthOf(requests(replica.receive(heartbeat(4), 10)), 1)
    assert.deepStrictEqual(keys(replica), ["ada"])
  })

  it("takes a delta that overlaps what it has, and none that tells nothing new", () => {
    const replica = fresh()
    replica.receive(delta(0, 3, [ada]), 0)
    assert.deepStrictEqual(names(replica.receive(delta(1, 4, [ada, bob]), 0)), { joins: ["bob"], leaves: [] })
    assert.deepStrictEqual(names(replica.receive(delta(0, 2, [], [1]), 0)), { joins: [], leaves: [] })
    assert.deepStrictEqual(keys(replica), ["ada", "bob"])
  })

  it("sees an update as a leave and a join under one key", () => {
    const replica = fresh()
    replica.receive(delta(0, 1, [ada]), 0)
    const outcome = replica.receive(delta(1, 2, [[1, "room", "ada", { phx_ref: "a2" }]]), 0)
    assert.deepStrictEqual(outcome.diff.get("room"), {
      joins: [["ada", { phx_ref: "a2" }]],
      leaves: [["ada", { phx_ref: "a1" }]]
    })
  })

  it("takes a snapshot when all of it is there, in any order, and it takes away what is missing in it", () => {
    const replica = fresh()
    replica.receive(delta(0, 1, [ada]), 0)
    const cy: Presence = [3, "room", "cy", { phx_ref: "c1" }]
    for (const _ of ["once", "twice"]) {
      assert.deepStrictEqual(names(replica.receive(snapshot(9, 2, [cy]), 0)), names(noChange))
    }
    assert.deepStrictEqual(names(replica.receive(snapshot(9, 2, [bob]), 0)), { joins: ["cy", "bob"], leaves: ["ada"] })
  })

  it("lets no part of an older snapshot disturb a newer one", () => {
    const replica = fresh()
    replica.receive(snapshot(7, 2, [ada]), 0)
    replica.receive(snapshot(9, 2, [ada]), 0)
    replica.receive(snapshot(7, 2, [bob]), 0)
    assert.deepStrictEqual(keys(replica), [])
    replica.receive(snapshot(9, 2, [bob]), 0)
    assert.deepStrictEqual(keys(replica), ["ada", "bob"])
    replica.receive(snapshot(7, 1, [ada]), 0)
    assert.deepStrictEqual(keys(replica), ["ada", "bob"])
  })

  it("drops the parts of a snapshot that a delta has overtaken", () => {
    const replica = fresh()
    replica.receive(snapshot(7, 2, [ada]), 0)
    replica.receive(delta(0, 8, [bob]), 0)
    replica.receive(snapshot(7, 2, [[3, "room", "cy", { phx_ref: "c1" }]]), 0)
    assert.deepStrictEqual(keys(replica), ["bob"])
  })
})

const noChange: Pick<Outcome, "diff"> = { diff: new Map() }

describe("a packet that is too large", () => {
  const cut = (out: Outgoing | undefined) => {
    const { send, withheld } = out?.cut?.() ?? assert.fail("it cannot be cut")
    return { send: packets({ diff: new Map(), send }).map(({ packet }) => packet), withheld, rest: send }
  }

  it("is cut in two at the version between, and one presence is withheld, until it changes", () => {
    const replica = fresh()
    const { self: from } = replica
    replica.put(ada)
    replica.put(bob)
    const [whole] = replica.tick(0).send
    const { rest: [first], send } = cut(whole)
    assert.deepStrictEqual(send, [
      { type: "delta", from, base: 0, version: 1, present: [ada], gone: [] },
      { type: "delta", from, base: 1, version: 2, present: [bob], gone: [] }
    ])
    const none: Packet = { type: "delta", from, base: 0, version: 1, present: [], gone: [] }
    const last = cut(first)
    assert.deepStrictEqual([last.send, last.withheld], [[none], ada])
    assert.deepStrictEqual(cut(last.rest[0]).send, [])
    const news = packets(replica.tick(10)).map(({ packet }) => packet)
    assert.deepStrictEqual(news, [{ type: "delta", from, base: 2, version: 3, present: [], gone: [1] }])
    const slim: Presence = [1, "room", "ada", { phx_ref: "a2" }]
    replica.put(slim)
    assert.deepStrictEqual(packets(replica.tick(20)).map(({ packet }) => packet), [
      { type: "delta", from, base: 3, version: 4, present: [slim], gone: [] }
    ])
  })

  it("of a snapshot is cut in two of one total, and one without the presence that is withheld is a later version", () => {
    const replica = fresh()
    const { self: from } = replica
    replica.put(ada)
    replica.put(bob)
    const request: Packet = { type: "request", from: other, life: 1, have: 0 }
    const { rest: [, second], send } = cut(replica.receive(request, 0).send[0])
    assert.deepStrictEqual(send, [
      { type: "snapshot", from, version: 2, total: 2, present: [ada] },
      { type: "snapshot", from, version: 2, total: 2, present: [bob] }
    ])
    const last = cut(second)
    assert.deepStrictEqual([last.send, last.withheld], [[], bob])
    assert.deepStrictEqual(packets(replica.receive(request, 1)), [
      { to: "other", packet: { type: "snapshot", from, version: 3, total: 1, present: [ada] } }
    ])
  })
})

describe("a node that reaches nobody", () => {
  it("keeps what it has to tell, and afterwards tells it at once and asks all others", () => {
    const replica = fresh()
    const { self: from } = replica
    replica.receive(delta(0, 3, [bob]), 0)
    replica.tick(0)
    replica.put(ada)
    for (let now = 10; now <= 50; now += 10) assert.deepStrictEqual(replica.tick(now, false).send, [])
    const request = { to: "other", packet: { type: "request", from, life: 5, have: 3 } } as const
    assert.deepStrictEqual(packets(replica.tick(60)), [
      { to: undefined, packet: { type: "delta", from, base: 0, version: 1, present: [ada], gone: [] } },
      request
    ])
    assert.deepStrictEqual(replica.tick(70).send, [])
    replica.tick(80, false)
    const heartbeat = { to: undefined, packet: { type: "heartbeat", from, version: 1 } } as const
    assert.deepStrictEqual(packets(replica.tick(90)), [heartbeat, request])
  })

  it("is answered also where it has missed nothing, so that it sees who is there", () => {
    const replica = fresh()
    replica.put(ada)
    assert.deepStrictEqual(packets(replica.receive({ type: "request", from: other, life: 1, have: 1 }, 0)), [
      { to: "other", packet: { type: "heartbeat", from: replica.self, version: 1 } }
    ])
  })
})

describe("a node that starts again", () => {
  it("takes all presences of its older life away", () => {
    const replica = fresh()
    replica.receive(delta(0, 2, [ada, bob]), 0)
    const outcome = replica.receive(heartbeat(0, { node: "other", life: 6 }), 1)
    assert.deepStrictEqual(names(outcome), { joins: [], leaves: ["ada", "bob"] })
  })

  it("is greeted at once, so that it learns of everybody", () => {
    const replica = fresh()
    replica.put(ada)
    const greeting = { to: "other", packet: { type: "heartbeat", from: replica.self, version: 1 } } as const
    assert.deepStrictEqual(replica.receive(heartbeat(0), 0).send, [greeting])
    assert.deepStrictEqual(replica.receive(heartbeat(0), 1).send, [])
    assert.deepStrictEqual(replica.receive(heartbeat(0, { node: "other", life: 6 }), 2).send, [greeting])
  })

  it("is not mistaken for its older life, whose packets come late", () => {
    const replica = fresh()
    replica.receive(heartbeat(0, { node: "other", life: 6 }), 0)
    for (const packet of [delta(0, 2, [ada]), snapshot(2, 1, [ada]), heartbeat(2)]) {
      assert.deepStrictEqual(replica.receive(packet, options.downPeriod), { diff: new Map(), send: [] })
    }
    replica.receive(delta(0, 1, [bob]), options.downPeriod)
    assert.deepStrictEqual(keys(replica), [])
  })

  it("with its clock set back is believed when its other life has been silent for the down period", () => {
    const replica = fresh()
    replica.receive({ ...delta(0, 1, [ada]), from: { node: "other", life: 9 } }, 0)
    replica.receive(delta(0, 1, [bob]), options.downPeriod)
    assert.deepStrictEqual(keys(replica), ["ada"])
    assert.deepStrictEqual(names(replica.receive(delta(0, 1, [bob]), options.downPeriod + 1)), {
      joins: ["bob"],
      leaves: ["ada"]
    })
  })

  it("answers no request that was meant for its older life", () => {
    const replica = fresh()
    replica.put(ada)
    assert.deepStrictEqual(replica.receive({ type: "request", from: other, life: 0, have: 0 }, 0).send, [])
  })
})

describe("a bye", () => {
  it("takes all presences away at once, and late packets of that life bring none back", () => {
    const replica = fresh()
    replica.receive(delta(0, 2, [ada, bob]), 0)
    assert.deepStrictEqual(names(replica.receive({ type: "bye", from: other }, 1)), {
      joins: [],
      leaves: ["ada", "bob"]
    })
    for (
      const packet of [
        delta(1, 3, [bob]),
        snapshot(9, 1, [ada]),
        heartbeat(9),
        { type: "bye", from: other } as const
      ]
    ) {
      assert.deepStrictEqual(replica.receive(packet, 2), { diff: new Map(), send: [] })
    }
    assert.deepStrictEqual(replica.size, { own: 0, copied: 0, topics: 0 })
  })

  it("does not keep the next life from being seen", () => {
    const replica = fresh()
    replica.receive({ type: "bye", from: other }, 0)
    replica.receive({ ...delta(0, 1, [ada]), from: { node: "other", life: 6 } }, 1)
    assert.deepStrictEqual(keys(replica), ["ada"])
  })

  it("is the last that a node says of itself, also when asked, and it goes on to see the others", () => {
    const replica = fresh()
    replica.put(ada)
    replica.bye()
    replica.put([2, "room", "me", { phx_ref: "m1" }])
    for (let now = 0; now < 1000; now += 10) assert.deepStrictEqual(replica.tick(now).send, [])
    const outcome = replica.receive(delta(0, 3, [bob]), 1000)
    assert.deepStrictEqual([names(outcome), outcome.send], [{ joins: ["bob"], leaves: [] }, []])
    assert.lengthOf(requests(replica.receive(heartbeat(9), 1000)), 1)
    assert.deepStrictEqual(replica.receive({ type: "request", from: other, life: 1, have: 0 }, 1000).send, [])
  })
})

describe("a silent node", () => {
  it("is down after the down period, its presences hidden, and shown again as soon as it is heard", () => {
    const replica = fresh()
    replica.receive(delta(0, 2, [ada, bob]), 0)
    assert.deepStrictEqual(names(replica.tick(options.downPeriod)), names(noChange))
    assert.deepStrictEqual(names(replica.tick(options.downPeriod + 1)), { joins: [], leaves: ["ada", "bob"] })
    assert.deepStrictEqual(replica.nodes, [{ node: "other", up: false }])
    assert.deepStrictEqual(names(replica.tick(options.downPeriod + 2)), names(noChange))
    assert.deepStrictEqual(names(replica.receive(heartbeat(2), 100)), { joins: ["ada", "bob"], leaves: [] })
  })

  it("that is heard with a change shows only what is still true", () => {
    const replica = fresh()
    replica.receive(delta(0, 2, [ada, bob]), 0)
    replica.tick(options.downPeriod + 1)
    const outcome = replica.receive(delta(2, 4, [[2, "room", "bob", { phx_ref: "b2" }]], [1]), 100)
    assert.deepStrictEqual(outcome.diff.get("room"), { joins: [["bob", { phx_ref: "b2" }]], leaves: [] })
  })

  it("is forgotten after the permdown period", () => {
    const replica = fresh()
    replica.receive(delta(0, 1, [ada]), 0)
    replica.tick(options.downPeriod + 1)
    replica.tick(options.permdownPeriod)
    assert.strictEqual(replica.size.copied, 1)
    assert.deepStrictEqual(names(replica.tick(options.permdownPeriod + 1)), names(noChange))
    assert.deepStrictEqual([replica.size.copied, replica.nodes], [0, []])
  })

  it("leaves also when the first tick comes after the permdown period", () => {
    const replica = fresh()
    replica.receive(delta(0, 1, [ada]), 0)
    assert.deepStrictEqual(names(replica.tick(10_000)), { joins: [], leaves: ["ada"] })
    assert.deepStrictEqual(replica.size, { own: 0, copied: 0, topics: 0 })
  })
})

describe("an owner", () => {
  const filled = (count: number) => {
    const replica = fresh()
    for (let id = 1; id <= count; id++) replica.put([id, `t${id % 7}`, `key ${id}`, { phx_ref: `r${id}` }])
    replica.tick(0)
    return replica
  }
  const bytes = ({ send }: Outcome) => JSON.stringify(send).length

  it("tells all of its changes in a period in one delta, and nothing else until it has to say that it lives", () => {
    const replica = filled(2)
    replica.put([3, "room", "cy", { phx_ref: "c1" }])
    replica.put([3, "room", "cy", { phx_ref: "c2" }])
    replica.put(ada)
    replica.remove([2, 77])
    assert.deepStrictEqual(packets(replica.tick(10)), [{
      to: undefined,
      packet: {
        type: "delta",
        from: replica.self,
        base: 2,
        version: 6,
        present: [[3, "room", "cy", { phx_ref: "c2" }], ada],
        gone: [2]
      }
    }])
    const sent = [20, 30, 40, 50, 60, 70].map((now) => replica.tick(now).send.map(({ packet }) => packet.type))
    assert.deepStrictEqual(sent, [[], [], ["heartbeat"], [], [], ["heartbeat"]])
  })

  it("sends one small delta for a change, whatever the size of its state", () => {
    const sizes = [1, 50_000].map((count) => {
      const replica = filled(count)
      replica.put([count + 1, "room", "one more", { phx_ref: "x" }])
      const outcome = replica.tick(10)
      assert.lengthOf(outcome.send, 1)
      return bytes(outcome)
    })
    assert.isBelow(Math.max(...sizes), 200)
  })

  it("answers somebody who lacks a little with a delta, and somebody who lacks everything with a snapshot in parts", () => {
    const replica = filled(2500)
    replica.remove([2500])
    const request = (have: number): Packet => ({ type: "request", from: other, life: 1, have })
    const [answer, ...more] = replica.receive(request(2499), 0).send
    assert.deepStrictEqual(more, [])
    assert.deepInclude(answer?.packet, { type: "delta", base: 2499, version: 2501, present: [], gone: [2500] })
    const parts = replica.receive(request(0), 0).send
    assert.deepStrictEqual(
      parts.map(({ packet, to }) => [to, packet.type, "present" in packet && packet.present.length]),
      [["other", "snapshot", 1000], ["other", "snapshot", 1000], ["other", "snapshot", 499]]
    )
  })

  it("sends a snapshot to who has missed more removals than it remembers", () => {
    const replica = filled(1500)
    replica.remove(Array.from({ length: 1200 }, (_, index) => index + 1))
    const types = (have: number) =>
      replica.receive({ type: "request", from: other, life: 1, have }, 0).send.map(({ packet }) => packet.type)
    assert.deepStrictEqual(types(1699), ["snapshot"])
    assert.deepStrictEqual(types(1700), ["delta"])
  })

  it("cuts a change of thousands into packets that can be lost and reordered one by one", () => {
    const ids = Array.from({ length: 3500 }, (_, index) => index)
    fc.assert(
      fc.property(
        fc.shuffledSubarray(ids, { minLength: 3000 }),
        fc.shuffledSubarray([0, 1, 2, 3]),
        (changed, arrived) => {
          const owner = filled(1000)
          const copy = new Replica(other, options)
          for (const { packet } of owner.receive({ type: "request", from: other, life: 1, have: 0 }, 0).send) {
            copy.receive(packet, 0)
          }
          for (const id of changed) {
            if (id % 3 === 0) owner.remove([id])
            else owner.put([id, "room", `key ${id}`, { phx_ref: `again ${id}` }])
          }
          const { send } = owner.tick(10)
          for (const { packet } of send) {
            assert.isAtMost(
              "present" in packet && "gone" in packet ? packet.present.length + packet.gone.length : 0,
              1000
            )
          }
          const packets = arrived.flatMap((index) => send[index] ?? [])
          for (const { packet } of packets) copy.receive(packet, 10)
          const [ask] = copy.receive({ type: "heartbeat", from: owner.self, version: 1000 + 10_000 }, 20).send
          if (ask === undefined) assert.fail("did not ask")
          for (const { packet } of owner.receive(ask.packet, 20).send) copy.receive(packet, 20)
          for (const topic of ["room", "t0", "t1", "t2", "t3", "t4", "t5", "t6"]) {
            const seen = (replica: Replica) =>
              Array.from(replica.list(topic), ([key, all]) => [key, ...Array.from(all, ([, , , meta]) => meta.phx_ref)])
                .sort()
            assert.deepStrictEqual(seen(copy), seen(owner))
          }
        }
      ),
      { numRuns: 6 }
    )
  })

  it("tells a change once more to who has asked before it and in the same period", () => {
    const owner = filled(0)
    for (let id = 1; id <= 1000; id++) owner.put([id, "room", `key ${id}`, { phx_ref: `r${id}` }])
    const copy = new Replica(other, options)
    const answer = owner.receive({ type: "request", from: other, life: 1, have: 0 }, 0).send
    for (const { packet } of answer) copy.receive(packet, 0)
    owner.put([1, "room", "key 1", { phx_ref: "again" }])
    for (let id = 1001; id <= 1500; id++) owner.put([id, "room", `key ${id}`, { phx_ref: `r${id}` }])
    for (const { packet } of owner.tick(10).send) copy.receive(packet, 10)
    assert.deepStrictEqual(Array.from(copy.list("room").get("key 1") ?? [], ([, , , meta]) => meta.phx_ref), ["again"])
    assert.strictEqual(copy.list("room").size, 1500)
  })

  it("tells nobody of a presence that is put again as it is", () => {
    const replica = fresh()
    assert.deepStrictEqual(names({ diff: replica.put(ada) }), { joins: ["ada"], leaves: [] })
    assert.strictEqual(replica.put(ada).size, 0)
    assert.deepStrictEqual(keys(replica), ["ada"])
  })

  it("brings a new node up to date with one snapshot, and so does every other owner", () => {
    const owners = ["a", "b", "c"].map((node) => new Replica({ node, life: 1 }, options))
    for (const owner of owners) {
      for (let id = 1; id <= 2500; id++) {
        owner.put([id, "room", `${owner.self.node} ${id}`, { phx_ref: `${owner.self.node}${id}` }])
      }
      owner.tick(0)
    }
    const late = new Replica({ node: "late", life: 1 }, options)
    const all = [...owners, late]
    const sent: Array<string> = []
    const queue: Array<readonly [from: Replica, out: Outgoing]> = []
    for (let now = 10; now < 100; now += 10) {
      for (const replica of all) for (const out of replica.tick(now).send) queue.push([replica, out])
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const [from, { packet, to }] = next
        for (const replica of all) {
          if (replica === from || (to !== undefined && to !== replica.self.node)) continue
          if (replica === late || from === late) sent.push(packet.type)
          for (const out of replica.receive(packet, now).send) queue.push([replica, out])
        }
      }
    }
    assert.strictEqual(late.list("room").size, 7500)
    assert.lengthOf(sent.filter((type) => type === "request"), 3)
    assert.lengthOf(sent.filter((type) => type === "snapshot"), 9)
  })
})
