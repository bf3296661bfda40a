import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, References, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Message from "../src/Message.ts"
import * as Presence from "../src/Presence.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Telemetry from "../src/Telemetry.ts"
import * as Tracker from "../src/Tracker.ts"
import { spawnObedient } from "./support/node.ts"

const Online = Presence.make("online")

/** Lines of the log, as text, with what is said about them. */
const logging = () => {
  const lines: Array<{ readonly line: string; readonly cause: string; readonly about: Record<string, unknown> }> = []
  const logger = Logger.make(({ cause, fiber, message }) => {
    const about = { ...fiber.getRef(References.CurrentLogAnnotations) }
    lines.push({ line: String(message), cause: String(Cause.squash(cause)), about })
  })
  return { lines, layer: Logger.layer([logger]) }
}

const live = (handlers: Presence.Handlers = {}, options: Presence.Options = {}, logger = logging().layer) =>
  Online.layer(handlers, options).pipe(Layer.provideMerge(ChannelTest.layer), Layer.provideMerge(logger))

/** A member of a topic that keeps the diffs it is told. */
const member = Effect.fnUntraced(function*(topic: string) {
  const pubsub = yield* PubSub.PubSub
  const pid = yield* spawnObedient()
  const diffs: Array<Presence.Diff> = []
  yield* pubsub.subscribe(topic, {
    pid,
    deliver: (message) => {
      if (Message.isBroadcast(message)) diffs.push(message.payload as Presence.Diff)
    }
  })
  return { pid, diffs, present: { pid, topic } }
})

const keysOf = (diffs: ReadonlyArray<Presence.Diff>) =>
  diffs.map(({ joins, leaves }) => [Object.keys(joins), Object.keys(leaves)])

describe("a storm", () => {
  it.effect("with 3,000 joins of one topic ends nobody, and is told in a few diffs that add up to the list", () =>
    Effect.gen(function*() {
      const members = yield* Effect.forEach(Array.from({ length: 3000 }), () => member("room:1"))
      const exits = yield* Effect.forEach(
        members,
        ({ present }, index) => Effect.exit(Online.track(present, `user ${index}`, { index })),
        { concurrency: "unbounded" }
      )
      yield* ChannelTest.settle
      assert.isTrue(exits.every(Exit.isSuccess))
      const [first] = members
      const diffs = first?.diffs ?? []
      assert.isBelow(diffs.length, 100)
      assert.strictEqual(new Set(diffs.flatMap(({ joins }) => Object.keys(joins))).size, 3000)
      assert.strictEqual(Object.keys(yield* Online.list("room:1")).length, 3000)
      const before = diffs.length
      yield* Effect.forEach(members.slice(1), ({ pid }) => Process.exit(pid, Process.shutdown()), {
        concurrency: "unbounded"
      })
      yield* ChannelTest.settle
      assert.isBelow(diffs.length - before, 100)
      assert.strictEqual(new Set(diffs.slice(before).flatMap(({ leaves }) => Object.keys(leaves))).size, 2999)
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), ["user 0"])
    }).pipe(Effect.provide(live())))

  it.effect("that is none is told one by one", () =>
    Effect.gen(function*() {
      const { diffs, present } = yield* member("room:1")
      const keys = Array.from({ length: 30 }, (_, n) => `user ${n}`)
      yield* Effect.forEach(keys, (key) => Online.track(present, key, {}), { concurrency: "unbounded" })
      yield* ChannelTest.settle
      assert.deepStrictEqual(keysOf(diffs), keys.map((key) => [[key], []]))
    }).pipe(Effect.provide(live())))

  it.effect("while fetch hangs is kept in few diffs, and told in order", () =>
    Effect.gen(function*() {
      const { diffs, present } = yield* member("room:1")
      for (let n = 0; n < 5000; n++) yield* Online.track(present, `user ${n}`, {})
      yield* ChannelTest.settle
      assert.deepStrictEqual(diffs, [])
      yield* TestClock.adjust("1 minute")
      assert.isBelow(diffs.length, 20)
      assert.deepStrictEqual(diffs.flatMap(({ joins }) => Object.keys(joins)).length, 5000)
      assert.deepStrictEqual(diffs.flatMap(({ joins }) => Object.keys(joins)).slice(0, 3), [
        "user 0",
        "user 1",
        "user 2"
      ])
    }).pipe(Effect.provide(live({ fetch: (_, entries) => Effect.as(Effect.sleep("1 second"), entries) }))))

  it.effect("waits for its tracker, however long that is busy", () =>
    Effect.gen(function*() {
      const told: Array<ReadonlyArray<string>> = []
      const tracker = yield* Tracker.make("busy", (diff) =>
        Effect.andThen(
          Effect.sleep("4 seconds"),
          Effect.sync(() => void told.push(diff.get("room")?.joins.map(([key]) => key) ?? []))
        ))
      const pid = yield* spawnObedient()
      const tracking = yield* Effect.forEach(["a", "b", "c", "d"], (key) => tracker.track(pid, "room", key, {}), {
        concurrency: "unbounded"
      }).pipe(Effect.forkChild({ startImmediately: true }))
      yield* TestClock.adjust("8 seconds")
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(tracking)))
      assert.deepStrictEqual(told, [["a"], ["b", "c", "d"]])
    }).pipe(Effect.provide(ChannelTest.layer)))
})

describe("fetch of one topic", () => {
  it.effect("delays no other topic", () =>
    Effect.gen(function*() {
      const slow = yield* member("room:slow")
      const quick = yield* member("room:quick")
      yield* Online.track(slow.present, "ada", {})
      yield* Online.track(quick.present, "grace", {})
      yield* ChannelTest.settle
      assert.deepStrictEqual([keysOf(slow.diffs), keysOf(quick.diffs)], [[], [[["grace"], []]]])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(keysOf(slow.diffs), [[["ada"], []]])
    }).pipe(Effect.provide(live({
      fetch: (topic, entries) =>
        topic === "room:slow" ? Effect.as(Effect.sleep("500 millis"), entries) : Effect.succeed(entries)
    }))))

  for (
    const [how, hang] of [["hangs", Effect.never], [
      "cannot be interrupted",
      Effect.uninterruptible(Effect.sleep("1 hour"))
    ]] as const
  ) {
    it.effect(`that ${how} is given up after handlerTimeout: its diffs and lists go out without what it adds`, () => {
      const { layer, lines } = logging()
      return Effect.gen(function*() {
        const { diffs, present } = yield* member("room:1")
        yield* Online.track(present, "ada", {})
        yield* TestClock.adjust("1999 millis")
        assert.deepStrictEqual(diffs, [])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(keysOf(diffs), [[["ada"], []]])
        yield* Online.untrack(present, "ada")
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(keysOf(diffs).slice(1), [[[], ["ada"]]])
        assert.deepStrictEqual(lines.map(({ line }) => line), [
          "fetch of a presence took longer than handlerTimeout; lists and diffs go out without what it adds"
        ])
        assert.deepInclude(lines[0]?.about, { presence: "online", topic: "room:1" })
        const count = Metric.withAttributes(Telemetry.presenceHandlerFailures, { tracker: "online", handler: "fetch" })
        assert.strictEqual((yield* Metric.value(count)).count, 2)
        if (how !== "hangs") return
        const list = yield* Effect.forkChild(Online.list("room:1"))
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual({ ...(yield* Fiber.join(list)) }, {})
      }).pipe(
        Effect.provide(
          live({ fetch: (_, entries) => Effect.as(hang, entries) }, { handlerTimeout: "2 seconds" }, layer)
        ),
        Effect.provideService(Metric.MetricRegistry, new Map())
      )
    })
  }

  const cycle: Record<string, unknown> = {}
  cycle["self"] = cycle

  for (
    const [what, spoil] of [
      ["adds a BigInt", (entry: Presence.Entry) => ({ ...entry, size: 1n })],
      ["adds a cycle", (entry: Presence.Entry) => ({ ...entry, cycle })],
      ["adds a toJSON that throws", (entry: Presence.Entry) => ({
        ...entry,
        a: {
          toJSON: () => {
            throw new Error("boom")
          }
        }
      })],
      ["leaves out metas", () => ({ name: "ADA" })],
      ["makes metas something else", () => ({ metas: "online" })],
      ["puts a BigInt into a meta", (entry: Presence.Entry) => ({
        metas: entry.metas.map((meta) => ({ ...meta, size: 1n }))
      })],
      ["leaves out phx_ref", () => ({ metas: [{ name: "ADA" }] })],
      ["makes an entry null", () => null],
      ["changes what it is given", (entry: Presence.Entry) => Object.assign(entry, { size: 1n })],
      ["changes a meta that it is given", (entry: Presence.Entry) => {
        Object.assign(entry.metas[0] ?? {}, { size: 1n })
        return entry
      }]
    ] as const
  ) {
    it.effect(`that ${what} for one key costs what it adds to that; everybody is told, and newcomers list`, () => {
      const { layer, lines } = logging()
      return Effect.gen(function*() {
        const { diffs, present } = yield* member("room:1")
        const ref = yield* Online.track(present, "ada", { n: 1 })
        yield* Online.track(present, "grace", {})
        yield* ChannelTest.settle
        assert.deepStrictEqual(keysOf(diffs), [[["ada"], []], [["grace"], []]])
        const list = yield* Online.list("room:1")
        assert.deepStrictEqual(list["ada"], { metas: [{ n: 1, phx_ref: ref }] })
        if (what !== "changes a meta that it is given") assert.strictEqual(list["grace"]?.["name"], "GRACE")
        assert.deepStrictEqual(JSON.parse(JSON.stringify(list["ada"])), { metas: [{ n: 1, phx_ref: ref }] })
        assert.deepStrictEqual((yield* Online.getByKey("room:1", "ada"))?.metas, [{ n: 1, phx_ref: ref }])
        assert.deepStrictEqual(lines.map(({ line }) => line), [
          "fetch of a presence has failed; lists and diffs go out without what it adds"
        ])
      }).pipe(Effect.provide(live(
        {
          fetch: (_, entries) =>
            Effect.sync(() => {
              const fetched: Record<string, unknown> = {}
              for (const [key, entry] of Object.entries(entries)) {
                fetched[key] = key === "ada" ? spoil(entry) : { ...entry, name: key.toUpperCase() }
              }
              return fetched as unknown as Presence.Entries
            })
        },
        {},
        layer
      )))
    })
  }

  for (
    const [what, fetch] of [
      ["throws", () => {
        throw new Error("boom")
      }],
      ["dies", () => Effect.die("boom")],
      ["interrupts itself", () => Effect.interrupt],
      ["returns nothing", () => Effect.succeed(undefined as unknown as Presence.Entries)],
      ["is no Effect", () => ({}) as unknown as Effect.Effect<Presence.Entries>]
    ] as const
  ) {
    it.effect(`that ${what} costs what it adds`, () => {
      const { layer, lines } = logging()
      return Effect.gen(function*() {
        const { diffs, present } = yield* member("room:1")
        yield* Online.track(present, "ada", {})
        yield* ChannelTest.settle
        assert.deepStrictEqual(keysOf(diffs), [[["ada"], []]])
        if (what !== "interrupts itself") assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), ["ada"])
        assert.lengthOf(lines, 1)
      }).pipe(Effect.provide(live({ fetch }, {}, layer)))
    })
  }

  it.effect("is not asked when who waits for a list is interrupted", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const interrupted = yield* Deferred.make<void>()
      const fetch = (_: string, entries: Presence.Entries) =>
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Effect.never),
          Effect.as(entries),
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
        )
      yield* Effect.gen(function*() {
        const list = yield* Effect.forkChild(Online.list("room:1"))
        yield* Deferred.await(started)
        yield* Fiber.interrupt(list)
        yield* Deferred.await(interrupted)
      }).pipe(Effect.provide(live({ fetch })))
    }))
})

describe("handleMetas", () => {
  it.effect("that hangs is given up after handlerTimeout, and told of what comes then", () => {
    const { layer, lines } = logging()
    const seen: Array<ReadonlyArray<string>> = []
    return Effect.gen(function*() {
      const { diffs, present } = yield* member("room:1")
      const other = yield* member("room:2")
      yield* Online.track(present, "ada", {})
      yield* Online.track(present, "grace", {})
      yield* Online.track(other.present, "alan", {})
      yield* ChannelTest.settle
      assert.deepStrictEqual([keysOf(diffs), keysOf(other.diffs)], [[[["ada"], []]], [[["alan"], []]]])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(keysOf(diffs), [[["ada"], []], [["grace"], []]])
      assert.deepStrictEqual(seen, [["alan"], ["ada", "grace"]])
      assert.deepStrictEqual(lines.map(({ line }) => line), [
        "handleMetas of a presence took longer than handlerTimeout and was interrupted; later diffs are told"
      ])
    }).pipe(Effect.provide(live(
      {
        handleMetas: (_, { joins }, presences) =>
          "ada" in joins ? Effect.never : Effect.sync(() => void seen.push(Object.keys(presences)))
      },
      {},
      layer
    )))
  })

  it.effect("may keep lists: each stays as it was, and cannot be changed", () => {
    const lists: Array<Presence.Entries> = []
    return Effect.gen(function*() {
      const { present } = yield* member("room:1")
      for (const key of ["__proto__", "b"]) yield* Online.track(present, key, {})
      yield* Online.untrack(present, "__proto__")
      yield* ChannelTest.settle
      assert.deepStrictEqual(lists.map((list) => Object.keys(list)), [["__proto__"], ["__proto__", "b"], ["b"]])
      const [list] = lists
      assert.isNull(Object.getPrototypeOf(list))
      assert.isTrue(list !== undefined && "__proto__" in list && !("b" in list))
      assert.throws(() => Object.assign(list ?? {}, { c: 1 }), TypeError)
      assert.strictEqual(Object.keys(JSON.parse(JSON.stringify(lists[2]))).join(), "b")
    }).pipe(
      Effect.provide(live({ handleMetas: (_topic, _diff, presences) => Effect.sync(() => void lists.push(presences)) }))
    )
  })
})

describe("handleDiff", () => {
  for (
    const [what, handle] of [
      ["throws", () => {
        throw new Error("boom")
      }],
      ["dies", () => Effect.die(new Error("boom"))],
      ["hangs", () => Effect.never]
    ] as const
  ) {
    it.effect(`that ${what} ends nobody who is tracked, and is told of later changes`, () => {
      const { layer, lines } = logging()
      const told: Array<string> = []
      return Effect.gen(function*() {
        const tracker = yield* Tracker.make("faulty", (diff) => {
          const [key = ""] = diff.get("room")?.joins[0] ?? []
          told.push(key)
          return key === "bad" ? handle() : Effect.void
        })
        const pid = yield* spawnObedient()
        yield* tracker.track(pid, "room", "bad", {})
        yield* tracker.track(pid, "room", "good", {})
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(told, ["bad", "good"])
        assert.isTrue(pid.alive)
        assert.deepStrictEqual([...tracker.list("room").keys()], ["bad", "good"])
        assert.lengthOf(lines, 1)
        assert.match(lines[0]?.line ?? "", /^handleDiff of a tracker/)
        assert.deepInclude(lines[0]?.about, { tracker: "faulty" })
      }).pipe(Effect.provide(ChannelTest.layer), Effect.provide(layer))
    })
  }
})

// --- the way to other nodes -------------------------------------------------------------------------------------------

/** An adapter in the hands of a test. */
const fakeAdapter = () => {
  const sent: Array<string> = []
  const listeners = new Set<() => void>()
  const fake = {
    sent,
    listeners,
    outages: 0,
    broadcast: Effect.void as Effect.Effect<void>,
    joined: Effect.void as Effect.Effect<void>,
    status: Effect.succeed<PubSub.Status>("connected") as Effect.Effect<PubSub.Status>,
    deliver: (_topic: string, _message: unknown): void => {}
  }
  const note = (to: string, message: unknown) => void sent.push(`${(message as { readonly type: string }).type} ${to}`)
  const layer = PubSub.layerAdapter((deliver) =>
    Effect.sync((): PubSub.Adapter => {
      fake.deliver = deliver
      return {
        node: "a",
        broadcast: (_, message) => Effect.suspend(() => Effect.map(fake.broadcast, () => note("all", message))),
        direct: (node, _, message) => Effect.suspend(() => Effect.map(fake.broadcast, () => note(node, message))),
        joined: () => Effect.suspend(() => fake.joined),
        left: () => Effect.void,
        status: Effect.suspend(() => fake.status),
        outages: () => fake.outages,
        onBack: (listener) => {
          listeners.add(listener)
          return () => void listeners.delete(listener)
        }
      }
    })
  )
  return { ...fake, fake, layer }
}

const topic = "phx_presence:far_shard0"
const from = { node: "b", life: 1 }
const heartbeat = (version: number) => ({ type: "heartbeat", from, version })
const delta = (key: string, meta: unknown = { phx_ref: "x" }) => ({
  type: "delta",
  from,
  base: 0,
  version: 1,
  present: [[1, "room", key, meta]],
  gone: []
})

describe("an adapter", () => {
  for (const what of ["broadcast", "status"] as const) {
    it.effect(`whose ${what} hangs holds up nobody who tracks, and piles nothing up`, () => {
      const { fake, layer, sent } = fakeAdapter()
      fake[what] = Effect.never
      return Effect.gen(function*() {
        const tracker = yield* Tracker.make("far", () => Effect.void)
        const pid = yield* spawnObedient()
        for (let n = 0; n < 100; n++) {
          yield* tracker.track(pid, "room", `user ${n}`, {})
          yield* TestClock.adjust("1 second")
        }
        yield* tracker.untrack(pid, "room", "user 0")
        assert.strictEqual(tracker.list("room").size, 99)
        fake.broadcast = Effect.void
        fake.status = Effect.succeed("connected")
        yield* TestClock.adjust("10 seconds")
        assert.isBelow(sent.length, 60)
        assert.include(sent, "delta all")
      }).pipe(Effect.provide(layer), Effect.provide(Logger.layer([])))
    })
  }

  it.effect("that hangs when a tracker has crashed does not hold up who tracks again", () => {
    const { fake, layer, sent } = fakeAdapter()
    return Effect.gen(function*() {
      const tracker = yield* Tracker.make("far", () => Effect.void)
      const gate = yield* Deferred.make<void>()
      fake.joined = Deferred.await(gate)
      const shard = (yield* Process.list).find(({ label }) => label === "far shard 0")
      if (shard === undefined) return assert.fail("no shard")
      yield* Process.exit(shard, Process.crash(Cause.die("boom")))
      yield* TestClock.adjust(1)
      yield* tracker.track(yield* spawnObedient(), "room", "ada", {})
      assert.strictEqual(tracker.list("room").size, 1)
      yield* TestClock.adjust("3 seconds")
      sent.length = 0
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(sent, ["heartbeat all"])
    }).pipe(Effect.provide(layer), Effect.provide(Logger.layer([])))
  })

  it.effect("whose status dies costs no presence", () => {
    const { fake, layer } = fakeAdapter()
    fake.status = Effect.die("boom")
    return Effect.gen(function*() {
      const tracker = yield* Tracker.make("far", () => Effect.void)
      const pid = yield* spawnObedient()
      yield* tracker.track(pid, "room", "ada", {})
      yield* TestClock.adjust("1 minute")
      assert.isTrue(pid.alive)
      assert.strictEqual(tracker.list("room").size, 1)
    }).pipe(Effect.provide(layer), Effect.provide(Logger.layer([])))
  })

  it.effect("that is back is spoken to at once, and asked for what was missed", () => {
    const { fake, layer, listeners, sent } = fakeAdapter()
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Scope.provide(Tracker.make("far", () => Effect.void), scope)
      yield* TestClock.adjust("10 seconds")
      fake.deliver(topic, heartbeat(0))
      yield* TestClock.adjust(1)
      sent.length = 0
      for (const listener of listeners) listener()
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(sent, ["heartbeat all", "request b"])
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(listeners.size, 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("that was away between two ticks is asked for what was missed with the next", () => {
    const { fake, layer, sent } = fakeAdapter()
    return Effect.gen(function*() {
      yield* Tracker.make("far", () => Effect.void)
      yield* TestClock.adjust("10 seconds")
      fake.deliver(topic, heartbeat(0))
      yield* TestClock.adjust("3 seconds")
      sent.length = 0
      fake.outages++
      yield* TestClock.adjust("1500 millis")
      assert.deepStrictEqual(sent, ["heartbeat all", "request b"])
      sent.length = 0
      yield* TestClock.adjust("1500 millis")
      assert.deepStrictEqual(sent, [])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that is degraded is spoken to all the same", () => {
    const { fake, layer, sent } = fakeAdapter()
    fake.status = Effect.succeed("degraded")
    return Effect.gen(function*() {
      yield* Tracker.make("far", () => Effect.void)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(sent, ["heartbeat all"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that brings what cannot be encoded here costs that, and brings the rest", () => {
    const { fake, layer } = fakeAdapter()
    const { layer: logger, lines } = logging()
    return Effect.gen(function*() {
      const tracker = yield* Tracker.make("far", () => Effect.void)
      const deep = JSON.parse(`${"[".repeat(6000)}${"]".repeat(6000)}`)
      fake.deliver(topic, delta("deep", { phx_ref: "y", deep }))
      fake.deliver(topic, "nonsense")
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(tracker.getByKey("room", "deep"), [{ phx_ref: "y" }])
      assert.deepStrictEqual(lines.map(({ line }) => line), [
        "another node has tracked a meta that is nested deeper than 100 levels; it is shown without it here",
        "tracker received a malformed packet; ignoring it"
      ])
    }).pipe(Effect.provide(layer), Effect.provide(logger))
  })
})

describe("a node that was stopped", () => {
  /** A tracker whose clock runs ahead when the test says so, as that of a process that was stopped does. */
  const stoppable = Effect.gen(function*() {
    const clock = yield* Clock.Clock
    let stopped = 0n
    const ahead: Clock.Clock = Object.create(clock, {
      monotonicTimeNanosUnsafe: { value: () => clock.monotonicTimeNanosUnsafe() + stopped }
    })
    const tracker = yield* Effect.provideService(Tracker.make("far", () => Effect.void), Clock.Clock, ahead)
    return { tracker, stop: (seconds: number) => void (stopped += BigInt(seconds) * 1_000_000_000n) }
  })

  for (const seconds of [8, 29, 31, 3600]) {
    it.effect(`for ${seconds} s does not take others for dead, and sees later that they are`, () => {
      const { fake, layer } = fakeAdapter()
      return Effect.gen(function*() {
        const { stop, tracker } = yield* stoppable
        yield* TestClock.adjust("3 seconds")
        fake.deliver(topic, delta("ada"))
        yield* TestClock.adjust("15 seconds")
        assert.strictEqual(tracker.list("room").size, 1)
        stop(seconds)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(tracker.list("room").size, 1)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(tracker.list("room").size, 0)
      }).pipe(Effect.provide(layer))
    })
  }
})
