import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Process from "../src/Process.ts"
import * as Tracker from "../src/Tracker.ts"
import { type Job, spawnObedient } from "./support/node.ts"

/** What was told of a topic: keys with what is known of them, without refs. */
type Told = readonly [topic: string, joins: ReadonlyArray<unknown>, leaves: ReadonlyArray<unknown>]

const plain = ([key, meta]: readonly [string, Tracker.Meta]) => [
  key,
  Object.fromEntries(Object.entries(meta).filter(([name]) => !name.startsWith("phx_ref")))
]

const make = Effect.fnUntraced(function*(options?: Tracker.Options) {
  const told: Array<ReadonlyArray<Told>> = []
  const tracker = yield* Tracker.make("test", (diff) =>
    Effect.sync(() =>
      void told.push(
        Array.from(diff, ([topic, { joins, leaves }]): Told => [topic, joins.map(plain), leaves.map(plain)])
      )
    ), options)
  return { tracker, told, pid: yield* spawnObedient() }
})

const metas = (tracker: Tracker.Tracker, topic: string) =>
  Object.fromEntries(
    Array.from(tracker.list(topic), ([key, metas]) => [key, metas.map((meta) => plain([key, meta])[1])])
  )

/** The processes of the tracker. */
const shards = Effect.map(Process.list, (pids) => pids.filter(({ label }) => label.startsWith("test shard")))

const silent = Logger.layer([])
const on = (name: string, body: Effect.Effect<unknown, unknown, Process.System | Scope.Scope | ChannelNode>) =>
  it.effect(name, () => body.pipe(Effect.provide([ChannelTest.layer, silent])))
type ChannelNode = Layer.Success<typeof ChannelTest.layer>

describe("track", () => {
  on(
    "makes a process present under topic and key, and says its ref",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      const ref = yield* tracker.track(pid, "room", "ada", { device: "phone" })
      assert.match(ref, /^[\w-]{16}$/)
      assert.deepStrictEqual(tracker.getByKey("room", "ada"), [{ device: "phone", phx_ref: ref }])
      assert.deepStrictEqual([...tracker.list("room").keys()], ["ada"])
      assert.deepStrictEqual(told, [[["room", [["ada", { device: "phone" }]], []]]])
    })
  )

  on(
    "fails for a key that the process has in the topic, and changes nothing",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      yield* tracker.track(pid, "room", "ada", { n: 1 })
      const error = yield* Effect.flip(tracker.track(pid, "room", "ada", { n: 2 }))
      assert.strictEqual(error.code, "ALREADY_TRACKED")
      assert.include(error.message, "room as ada")
      assert.deepStrictEqual(metas(tracker, "room"), { ada: [{ n: 1 }] })
      assert.strictEqual(told.length, 1)
    })
  )

  on(
    "takes the same key in another topic, another key in the same one, and other processes under the key",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make()
      const other = yield* spawnObedient()
      const refs = [
        yield* tracker.track(pid, "room", "ada", { n: 1 }),
        yield* tracker.track(pid, "hall", "ada", { n: 2 }),
        yield* tracker.track(pid, "room", "grace", { n: 3 }),
        yield* tracker.track(other, "room", "ada", { n: 4 })
      ]
      assert.strictEqual(new Set(refs).size, 4)
      assert.deepStrictEqual(metas(tracker, "room"), { ada: [{ n: 1 }, { n: 4 }], grace: [{ n: 3 }] })
      assert.deepStrictEqual(metas(tracker, "hall"), { ada: [{ n: 2 }] })
      assert.strictEqual(tracker.list("elsewhere").size, 0)
      assert.deepStrictEqual(tracker.getByKey("room", "nobody"), [])
    })
  )

  on(
    "keeps a copy of what is known, and no ref of the caller's",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make()
      const meta = { n: 1, phx_ref: "mine" }
      const ref = yield* tracker.track(pid, "room", "ada", meta)
      meta.n = 2
      assert.deepStrictEqual(tracker.getByKey("room", "ada"), [{ n: 1, phx_ref: ref }])
    })
  )

  on(
    "of a process that has ended is over at once",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      yield* Process.exit(pid, Process.killed)
      yield* tracker.track(pid, "room", "ada", {})
      yield* ChannelTest.settle
      assert.strictEqual(tracker.list("room").size, 0)
      assert.deepStrictEqual(told, [[["room", [["ada", {}]], []]], [["room", [], [["ada", {}]]]]])
    })
  )

  on(
    "gives every presence a ref of its own, in one instant and over time",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make({ shards: 3 })
      const refs = new Set<string>()
      for (let n = 0; n < 300; n++) {
        refs.add(yield* tracker.track(pid, `room ${n % 7}`, `${n}`, {}))
        if (n % 100 === 0) yield* TestClock.adjust("1 second")
      }
      assert.strictEqual(refs.size, 300)
    })
  )

  on(
    "takes the names of what objects inherit as keys, topics and metas",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make()
      for (const name of ["__proto__", "constructor", "toString"]) {
        const meta: Record<string, unknown> = JSON.parse(`{"${name}":1}`)
        const ref = yield* tracker.track(pid, name, name, meta)
        assert.deepStrictEqual([...tracker.list(name).keys()], [name])
        const [found] = tracker.getByKey(name, name)
        assert.deepStrictEqual(Object.entries(found ?? {}), [[name, 1], ["phx_ref", ref]])
      }
      assert.deepStrictEqual(tracker.getByKey("room", "constructor"), [])
    })
  )
})

describe("untrack", () => {
  on(
    "ends the one presence, and is harmless where there is none",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      const stranger = yield* spawnObedient()
      yield* tracker.track(pid, "room", "ada", {})
      yield* tracker.track(pid, "room", "grace", {})
      yield* tracker.untrack(pid, "room", "ada")
      assert.deepStrictEqual(metas(tracker, "room"), { grace: [{}] })
      assert.deepStrictEqual(told.at(-1), [["room", [], [["ada", {}]]]])
      for (
        const [who, topic, key] of [[pid, "room", "ada"], [pid, "hall", "grace"], [stranger, "room", "grace"]] as const
      ) {
        yield* tracker.untrack(who, topic, key)
      }
      assert.strictEqual(told.length, 3)
      yield* tracker.track(pid, "room", "ada", {})
      assert.deepStrictEqual(metas(tracker, "room"), { grace: [{}], ada: [{}] })
    })
  )

  on(
    "of all presences of a process is one diff, and leaves those of others",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      const other = yield* spawnObedient()
      yield* tracker.track(pid, "room", "ada", {})
      yield* tracker.track(pid, "room", "ada too", {})
      yield* tracker.track(pid, "hall", "ada", {})
      yield* tracker.track(other, "room", "ada", { other: true })
      told.length = 0
      yield* tracker.untrackAll(pid)
      assert.deepStrictEqual(told, [[["room", [], [["ada", {}], ["ada too", {}]]], ["hall", [], [["ada", {}]]]]])
      assert.deepStrictEqual(metas(tracker, "room"), { ada: [{ other: true }] })
      yield* tracker.untrackAll(pid)
      assert.strictEqual(told.length, 1)
    })
  )
})

describe("update", () => {
  on(
    "is a leave and a join in one diff, with a new ref and the one before",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      const before = yield* tracker.track(pid, "room", "ada", { n: 1, gone: true })
      const after = yield* tracker.update(pid, "room", "ada", { n: 2 })
      assert.notStrictEqual(after, before)
      assert.deepStrictEqual(tracker.getByKey("room", "ada"), [{ n: 2, phx_ref: after, phx_ref_prev: before }])
      assert.deepStrictEqual(told.slice(1), [[["room", [["ada", { n: 2 }]], [["ada", { n: 1, gone: true }]]]]])
    })
  )

  on(
    "is given what is known, its ref included, where it is a function",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make()
      const first = yield* tracker.track(pid, "room", "ada", { n: 1 })
      const seen: Array<unknown> = []
      const next = (meta: Tracker.Meta) => {
        seen.push(meta)
        return { ...meta, n: Number(meta["n"]) + 1 }
      }
      const second = yield* tracker.update(pid, "room", "ada", next)
      const third = yield* tracker.update(pid, "room", "ada", next)
      assert.deepStrictEqual(seen, [{ n: 1, phx_ref: first }, { n: 2, phx_ref: second, phx_ref_prev: first }])
      assert.deepStrictEqual(tracker.getByKey("room", "ada"), [{ n: 3, phx_ref: third, phx_ref_prev: second }])
    })
  )

  on(
    "fails where the process is not present, whoever else is",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      const other = yield* spawnObedient()
      yield* tracker.track(pid, "room", "ada", {})
      for (const [who, topic, key] of [[other, "room", "ada"], [pid, "hall", "ada"], [pid, "room", "grace"]] as const) {
        const error = yield* Effect.flip(tracker.update(who, topic, key, { n: 1 }))
        assert.strictEqual(error.code, "NOT_TRACKED")
      }
      assert.strictEqual(told.length, 1)
    })
  )

  on(
    "whose function throws is a defect of its caller, and everybody stays present",
    Effect.gen(function*() {
      const { pid, told, tracker } = yield* make()
      yield* tracker.track(pid, "room", "ada", { n: 1 })
      const exit = yield* Effect.exit(tracker.update(pid, "room", "ada", () => {
        throw new Error("boom")
      }))
      assert.isTrue(
        Exit.isFailure(exit) && Cause.hasDies(exit.cause) && String(Cause.squash(exit.cause)).includes("boom")
      )
      assert.deepStrictEqual(metas(tracker, "room"), { ada: [{ n: 1 }] })
      assert.strictEqual(told.length, 1)
      yield* tracker.update(pid, "room", "ada", { n: 2 })
    })
  )
})

describe("the end of a process", () => {
  const endings: ReadonlyArray<readonly [string, (pid: Process.Pid<Job>) => Effect.Effect<unknown>]> = [
    ["a normal one", (pid) => Process.send(pid, Process.stop())],
    ["a crash", (pid) => Process.send(pid, Effect.die("boom"))],
    ["a shutdown", (pid) => Process.exit(pid, Process.shutdown())],
    ["a kill", (pid) => Process.exit(pid, Process.killed)]
  ]
  for (const [name, end] of endings) {
    on(
      `takes all its presences along, one diff for each topic: ${name}`,
      Effect.gen(function*() {
        const { pid, told, tracker } = yield* make()
        const other = yield* spawnObedient()
        yield* tracker.track(pid, "room", "ada", { n: 1 })
        yield* tracker.track(pid, "room", "ada too", { n: 2 })
        yield* tracker.track(pid, "hall", "ada", { n: 3 })
        yield* tracker.track(other, "hall", "ada", { n: 4 })
        told.length = 0
        yield* end(pid)
        yield* ChannelTest.settle
        assert.deepStrictEqual(told, [[
          ["room", [], [["ada", { n: 1 }], ["ada too", { n: 2 }]]],
          ["hall", [], [["ada", { n: 3 }]]]
        ]])
        assert.strictEqual(tracker.list("room").size, 0)
        assert.deepStrictEqual(metas(tracker, "hall"), { ada: [{ n: 4 }] })
        const error = yield* Effect.flip(tracker.update(pid, "hall", "ada", {}))
        assert.strictEqual(error.code, "NOT_TRACKED")
      })
    )
  }
})

describe("shards", () => {
  on(
    "share the topics, and each knows its own",
    Effect.gen(function*() {
      const { pid, tracker } = yield* make({ shards: 4 })
      assert.strictEqual((yield* shards).length, 4)
      const topics = Array.from({ length: 40 }, (_, n) => `room ${n}`)
      for (const topic of topics) yield* tracker.track(pid, topic, "ada", { topic })
      for (const topic of topics) assert.deepStrictEqual(metas(tracker, topic), { ada: [{ topic }] })
      yield* tracker.untrackAll(pid)
      for (const topic of topics) assert.strictEqual(tracker.list(topic).size, 0)
    })
  )

  for (const reason of [Process.crash(Cause.die("boom")), Process.killed]) {
    on(
      `that end with ${reason._tag} end their tracked processes, tell that all have left, and start again empty`,
      Effect.gen(function*() {
        const { pid, told, tracker } = yield* make()
        const ends: Array<string> = []
        const trapping = yield* spawnObedient({
          handleExit: ({ reason }) => Effect.sync(() => void ends.push(reason._tag))
        })
        const free = yield* spawnObedient()
        const before = yield* tracker.track(pid, "room", "ada", {})
        yield* tracker.track(trapping, "hall", "grace", {})
        yield* tracker.track(free, "hall", "alan", {})
        yield* tracker.untrack(free, "hall", "alan")
        told.length = 0
        for (const shard of yield* shards) yield* Process.exit(shard, reason)
        yield* ChannelTest.settle
        assert.deepStrictEqual([pid, trapping, free].map(({ alive }) => alive), [false, true, true])
        assert.deepStrictEqual(ends, [reason._tag])
        assert.deepStrictEqual(told, [[["room", [], [["ada", {}]]], ["hall", [], [["grace", {}]]]]])
        assert.strictEqual(tracker.list("room").size + tracker.list("hall").size, 0)
        const after = yield* tracker.track(free, "room", "ada", {})
        assert.notStrictEqual(after, before)
        assert.deepStrictEqual(metas(tracker, "room"), { ada: [{}] })
      })
    )
  }
})

describe("options", () => {
  for (
    const [wrong, options] of [
      ["a period of nothing", { broadcastPeriod: 0 }],
      ["a downPeriod below two periods", { broadcastPeriod: "2 seconds", downPeriod: 3999 }],
      ["a default downPeriod below two periods", { maxSilentPeriods: 0 }],
      ["a permdownPeriod that is no longer than downPeriod", { downPeriod: "1 minute", permdownPeriod: "1 minute" }],
      ["no shards", { shards: 0 }],
      ["half a shard", { shards: 1.5 }],
      ["more shards than a node can bear", { shards: 1025 }],
      ...["broadcastPeriod", "downPeriod", "permdownPeriod", "handlerTimeout"].flatMap((name) =>
        [NaN, 0, -1, "soon", null, true].map((value) => [`a ${name} of ${value}`, { [name]: value }] as const)
      ),
      ...["maxSilentPeriods", "shards", "maxMetaBytes"].flatMap((name) =>
        [NaN, -1, 1.5, "1", null].map((value) => [`a ${name} of ${value}`, { [name]: value }] as const)
      ),
      ["a maxMetaBytes of 0", { maxMetaBytes: 0 }],
      ["no limit of shards", { shards: Infinity }],
      ["a broadcastPeriod for ever", { broadcastPeriod: Infinity }],
      ["a permdownOnShutdown of 1", { permdownOnShutdown: 1 }]
    ] as ReadonlyArray<readonly [wrong: string, options: object]>
  ) {
    on(
      `refuse ${wrong}`,
      Effect.gen(function*() {
        const exit = yield* Effect.exit(make(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
        assert.strictEqual((yield* Process.stats).processes, 0)
      })
    )
  }

  on(
    "refuse a name that is none, and a handler that is no function",
    Effect.gen(function*() {
      for (
        const [name, handle] of [["", () => Effect.void], [1, () => Effect.void], ["a", undefined], [
          "a",
          {}
        ]] as ReadonlyArray<
          readonly [unknown, unknown]
        >
      ) {
        const exit = yield* Effect.exit(
          Tracker.make(name as string, handle as (diff: Tracker.Diff) => Effect.Effect<void>)
        )
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
      }
    })
  )

  on(
    "say which one, what it is and what is allowed",
    Effect.gen(function*() {
      const exit = yield* Effect.exit(make({ maxMetaBytes: NaN }))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(
        Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "",
        "OptionError: maxMetaBytes must be a whole number of bytes, at least 1, or Infinity for no limit; it is NaN"
      )
    })
  )

  on(
    "take no limit where there may be none",
    make({ maxMetaBytes: Infinity, handlerTimeout: Infinity, permdownPeriod: Infinity })
  )

  on(
    "wait longer before they forget, where that is not set and nodes may be silent for longer",
    make({ maxSilentPeriods: 1024 })
  )
  on("take the shortest periods there are", make({ broadcastPeriod: 1, downPeriod: 2, permdownPeriod: 3 }))
})

describe("the end of a tracker", () => {
  on(
    "leaves no process, no timer and nothing at those it has tracked, which live on",
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { pid, told, tracker } = yield* Scope.provide(make({ shards: 2 }), scope)
      for (let n = 0; n < 10; n++) yield* tracker.track(pid, `room ${n}`, "ada", {})
      yield* TestClock.adjust("1 minute")
      told.length = 0
      yield* Scope.close(scope, Exit.void)
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* Process.list, [pid])
      assert.strictEqual((yield* Process.stats).timers, 0)
      yield* Process.exit(pid, Process.killed)
      yield* ChannelTest.settle
      assert.deepStrictEqual(told, [])
      assert.strictEqual((yield* Process.stats).processes, 0)
    })
  )
})
