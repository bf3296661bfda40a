import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Layer, Logger, References, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
// @ts-expect-error the package comes without types
import { Presence as PhoenixPresence } from "phoenix"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Presence from "../src/Presence.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"
import { spawnObedient } from "./support/node.ts"

class User extends Context.Service<User, { readonly id: string }>()("test/User") {}

const Online = Presence.make("online")

type Json = { readonly [name: string]: unknown }

const Room = Channel.make("room:*", { assigns: User })
const RoomLive = Room.layer(Effect.fnUntraced(function*(room, payload) {
  const { id } = yield* User
  const { early = false, meta = {}, refused = false, silent = false } = payload as {
    readonly meta?: Json
    readonly early?: boolean
    readonly refused?: boolean
    readonly silent?: boolean
  }
  if (early) yield* Effect.orDie(Online.track(room, id, meta))
  if (refused) return yield* Effect.fail({ reason: "no" })
  yield* room.send("after join")
  return {
    handleInfo: () =>
      Effect.gen(function*() {
        if (!early && !silent) yield* Online.track(room, id, meta)
        yield* room.push("presence_state", yield* Online.list(room))
      }).pipe(Effect.orDie),
    handleIn: (event: string, payload: unknown) => {
      const { key = id, meta = {} } = payload as { readonly key?: string; readonly meta?: Json }
      switch (event) {
        case "track":
          return Effect.map(Online.track(room, key, meta), (ref) => Channel.ok({ ref })).pipe(
            Effect.catch(({ code }) => Effect.succeed(Channel.error({ code })))
          )
        case "update":
          return Effect.map(Online.update(room, key, meta), (ref) => Channel.ok({ ref })).pipe(
            Effect.catch(({ code }) => Effect.succeed(Channel.error({ code })))
          )
        case "more":
          return Effect.as(
            Effect.orDie(Online.update(room, key, (before) => ({ ...before, n: Number(before["n"]) + 1 }))),
            Channel.ok()
          )
        case "untrack":
          return Effect.as(Online.untrack(room, key), Channel.ok())
        case "list":
          return Effect.map(Online.list(room), Channel.ok)
        case "get":
          return Effect.map(Online.getByKey(room, key), (found) => Channel.ok({ found }))
        case "stop":
          return room.stop()
        default:
          return Effect.die(new Error(event))
      }
    }
  }
}))

const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer(({ params }) =>
  Effect.succeed(Socket.accept({ assigns: Context.make(User, { id: String(params["user"]) }) }))
)

const silent = Logger.layer([])

const live = (handlers: Presence.Handlers = {}, options: Presence.Options = {}, logger = silent) =>
  Layer.mergeAll(RoomLive, UserSocketLive).pipe(
    Layer.provideMerge(Online.layer(handlers, options)),
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(logger)
  )

type Live = Layer.Success<ReturnType<typeof live>>

const on = (
  name: string,
  body: Effect.Effect<unknown, unknown, Live | Scope.Scope>,
  handlers?: Presence.Handlers,
  options?: Presence.Options
) => it.effect(name, () => Effect.provide(body, live(handlers, options)))

const enter = Effect.fnUntraced(function*(user: string, payload: unknown = {}, topic = "room:1") {
  const room = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket, { user }), Room, topic, payload)
  yield* ChannelTest.settle
  return room
})

/** What is known of everybody, without refs. */
const plain = (entries: unknown): unknown =>
  Object.fromEntries(
    Object.entries(entries as Presence.Entries).map(([key, { metas, ...more }]) => [key, {
      ...more,
      metas: metas.map((meta) =>
        Object.fromEntries(Object.entries(meta).filter(([name]) => !name.startsWith("phx_ref")))
      )
    }])
  )

const diffsOf = (room: ChannelTest.TestChannel) =>
  Effect.map(ChannelTest.settle, () => {
    const diffs: Array<Presence.Diff> = []
    for (const { event, payload, topic } of room.socket.received.splice(0)) {
      if (event === "presence_diff" && topic === room.topic) diffs.push(payload as Presence.Diff)
    }
    return diffs
  })

/** Joins and leaves of each diff that a client was sent, without refs. */
const plainDiffs = (room: ChannelTest.TestChannel) =>
  Effect.map(diffsOf(room), (diffs) => diffs.map(({ joins, leaves }) => [plain(joins), plain(leaves)]))

/** Asks a channel, and gives the `ok` reply. */
const ask = (room: ChannelTest.TestChannel, event: string, payload: unknown = {}) =>
  Effect.flatMap(ChannelTest.push(room, event, payload), (ref) => ChannelTest.assertReply(ref, "ok"))

const one = { metas: [{}] }

describe("a channel that tracks itself", () => {
  on(
    "finds itself and the others in presence_state, and is told of those to come by presence_diff",
    Effect.gen(function*() {
      const ada = yield* enter("ada", { meta: { device: "phone" } })
      const state = yield* ChannelTest.assertPush(ada, "presence_state")
      assert.deepStrictEqual(plain(state), { ada: { metas: [{ device: "phone" }] } })
      assert.deepStrictEqual(yield* plainDiffs(ada), [[{ ada: { metas: [{ device: "phone" }] } }, {}]])
      const grace = yield* enter("grace")
      assert.deepStrictEqual(
        plain(yield* ChannelTest.assertPush(grace, "presence_state")),
        { ada: { metas: [{ device: "phone" }] }, grace: one }
      )
      assert.deepStrictEqual(yield* plainDiffs(ada), [[{ grace: one }, {}]])
      const elsewhere = yield* enter("alan", {}, "room:2")
      assert.deepStrictEqual(plain(yield* ChannelTest.assertPush(elsewhere, "presence_state")), { alan: one })
      assert.deepStrictEqual(yield* plainDiffs(ada), [])
    })
  )

  on(
    "is sent what list says, to the ref",
    Effect.gen(function*() {
      const ada = yield* enter("ada", { meta: { n: 1 } })
      const [ref] = (yield* Online.getByKey("room:1", "ada"))?.metas.map(({ phx_ref }) => phx_ref) ?? []
      assert.match(String(ref), /^[\w-]{16}$/)
      const expected = { ada: { metas: [{ n: 1, phx_ref: ref }] } }
      assert.deepStrictEqual(yield* ChannelTest.assertPush(ada, "presence_state"), expected)
      assert.deepStrictEqual(yield* diffsOf(ada), [{ joins: expected, leaves: {} }])
      assert.deepStrictEqual(yield* ask(ada, "list"), expected)
      assert.deepStrictEqual(yield* ask(ada, "get"), { found: expected.ada })
    })
  )

  on(
    "shares its key with the other channels of its user, a meta for each",
    Effect.gen(function*() {
      const phone = yield* enter("ada", { meta: { device: "phone" } })
      const laptop = yield* enter("ada", { meta: { device: "laptop" } })
      assert.deepStrictEqual(plain(yield* Online.list("room:1")), {
        ada: { metas: [{ device: "phone" }, { device: "laptop" }] }
      })
      yield* diffsOf(laptop)
      yield* ChannelTest.leave(phone)
      assert.deepStrictEqual(yield* plainDiffs(laptop), [[{}, { ada: { metas: [{ device: "phone" }] } }]])
      assert.deepStrictEqual(plain(yield* Online.list("room:1")), { ada: { metas: [{ device: "laptop" }] } })
    })
  )

  on(
    "is told when it tracks twice, or updates what is not there",
    Effect.gen(function*() {
      const ada = yield* enter("ada")
      yield* diffsOf(ada)
      const twice = yield* ChannelTest.push(ada, "track")
      yield* ChannelTest.assertReply(twice, "error", { code: "ALREADY_TRACKED" })
      const nobody = yield* ChannelTest.push(ada, "update", { key: "grace" })
      yield* ChannelTest.assertReply(nobody, "error", { code: "NOT_TRACKED" })
      yield* ask(ada, "untrack", { key: "grace" })
      assert.deepStrictEqual(yield* diffsOf(ada), [])
    })
  )

  on(
    "updates with a leave and a join in one diff, the ref before in phx_ref_prev",
    Effect.gen(function*() {
      const ada = yield* enter("ada", { meta: { n: 1 } })
      const [before] = (yield* diffsOf(ada)).map(({ joins }) => joins["ada"]?.metas[0])
      assert.strictEqual(before?.["n"], 1)
      const { ref } = (yield* ask(ada, "update", { meta: { n: 2 } })) as { readonly ref: string }
      const after = { n: 2, phx_ref: ref, phx_ref_prev: before?.phx_ref }
      assert.deepStrictEqual(yield* diffsOf(ada), [
        { joins: { ada: { metas: [after] } }, leaves: { ada: { metas: [before] } } }
      ])
      yield* ask(ada, "more")
      assert.deepStrictEqual(yield* plainDiffs(ada), [
        [{ ada: { metas: [{ n: 3 }] } }, { ada: { metas: [{ n: 2 }] } }]
      ])
    })
  )

  on(
    "may do so in its join: the others are told, and a join that is refused is a join and a leave",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const ada = yield* enter("ada", { early: true, meta: { n: 1 } })
      assert.deepStrictEqual(
        plain(yield* ChannelTest.assertPush(ada, "presence_state")),
        { ada: { metas: [{ n: 1 }] } }
      )
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{ ada: { metas: [{ n: 1 }] } }, {}]])
      yield* Effect.flip(enter("alan", { early: true, refused: true }))
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{ alan: one }, {}], [{}, { alan: one }]])
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), ["ada"])
    })
  )

  for (
    const [how, end] of [
      ["leaves", ChannelTest.leave],
      ["stops", (room: ChannelTest.TestChannel) => ChannelTest.push(room, "stop")],
      ["crashes", (room: ChannelTest.TestChannel) => ChannelTest.push(room, "crash")],
      ["is killed", (room: ChannelTest.TestChannel) => Process.exit(room.pid, Process.killed)],
      ["loses its connection", (room: ChannelTest.TestChannel) => ChannelTest.drop(room.socket)],
      [
        "joins again, to track nothing",
        (room: ChannelTest.TestChannel) => ChannelTest.join(room.socket, room.topic, { silent: true })
      ]
    ] as const
  ) {
    on(
      `is gone with all it has tracked, in one diff, when it ${how}`,
      Effect.gen(function*() {
        const grace = yield* enter("grace", { silent: true })
        const ada = yield* enter("ada", { meta: { n: 1 } })
        yield* ask(ada, "track", { key: "ada's cat", meta: { n: 2 } })
        yield* diffsOf(grace)
        yield* end(ada)
        if (how === "crashes") yield* ChannelTest.assertCrashed(ada)
        assert.deepStrictEqual(yield* plainDiffs(grace), [
          [{}, { ada: { metas: [{ n: 1 }] }, "ada's cat": { metas: [{ n: 2 }] } }]
        ])
        assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), [])
      })
    )
  }

  on(
    "may have any key: those that objects inherit are as good as others",
    Effect.gen(function*() {
      const keys = ["__proto__", "constructor", "toString", "", "1"]
      const ada = yield* enter("__proto__", { meta: JSON.parse("{\"__proto__\":1}") }, "room:__proto__")
      for (const key of keys.slice(1)) yield* ask(ada, "track", { key })
      const state = yield* Online.list("room:__proto__")
      assert.isNull(Object.getPrototypeOf(state))
      assert.deepStrictEqual(Object.keys(state).toSorted(), keys.toSorted())
      const [diff] = yield* diffsOf(ada)
      assert.deepStrictEqual(
        Object.entries(diff?.joins ?? {}).map(([key, { metas }]) => [key, Object.keys(metas[0] ?? {})]),
        [
          ["__proto__", ["__proto__", "phx_ref"]]
        ]
      )
      for (const key of keys) assert.lengthOf((yield* Online.getByKey(ada, key))?.metas ?? [], 1)
      assert.isUndefined(yield* Online.getByKey(ada, "hasOwnProperty"))
    })
  )
})

describe("any process of the node", () => {
  on(
    "is tracked, updated and untracked by pid and topic",
    Effect.gen(function*() {
      const ada = yield* enter("ada", { silent: true })
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "printer", { ink: 1 })
      yield* Online.update(present, "printer", { ink: 0 })
      yield* Online.untrack(present, "printer")
      const full = { printer: { metas: [{ ink: 1 }] } }
      const empty = { printer: { metas: [{ ink: 0 }] } }
      assert.deepStrictEqual(yield* plainDiffs(ada), [[full, {}], [empty, full], [{}, empty]])
      assert.isUndefined(yield* Online.getByKey("room:1", "printer"))
    })
  )

  it("is known by a string: a number is no key", () => {
    // @ts-expect-error a key is a string
    const tracking = (present: Presence.Present) => Online.track(present, 1, {})
    // @ts-expect-error a meta is an object
    const text = (present: Presence.Present) => Online.track(present, "ada", "online")
    // @ts-expect-error a key is a string
    const finding = () => Online.getByKey("room:1", 1)
    assert.isTrue([tracking, text, finding].every((f) => typeof f === "function"))
  })
})

describe("fetch", () => {
  const fetched: Array<readonly [topic: string, keys: ReadonlyArray<string>]> = []
  const withNames = (topic: string, entries: Presence.Entries) =>
    Effect.sync(() => {
      fetched.push([topic, Object.keys(entries)])
      return Object.fromEntries(
        Object.entries(entries).map(([key, { metas }]) => [key, { metas, name: key.toUpperCase() }])
      )
    })

  on(
    "adds to list, getByKey, and to the joins and leaves of every diff, also where there are none",
    Effect.gen(function*() {
      fetched.length = 0
      const ada = yield* enter("ada")
      const named = { ada: { metas: [{}], name: "ADA" } }
      assert.deepStrictEqual(plain(yield* ChannelTest.assertPush(ada, "presence_state")), named)
      assert.deepStrictEqual(yield* plainDiffs(ada), [[named, {}]])
      assert.deepStrictEqual(fetched.toSorted(([, a], [, b]) => b.length - a.length), [
        ["room:1", ["ada"]],
        ["room:1", ["ada"]],
        ["room:1", []]
      ])
      fetched.length = 0
      const found = yield* Online.getByKey(ada, "ada")
      assert.deepStrictEqual(plain({ ada: found }), named)
      assert.isUndefined(yield* Online.getByKey(ada, "nobody"))
      assert.deepStrictEqual(fetched, [["room:1", ["ada"]]])
      yield* ask(ada, "untrack")
      assert.deepStrictEqual(yield* plainDiffs(ada), [[{}, named]])
    }),
    { fetch: withNames }
  )

  const Names = Context.Service<ReadonlyMap<string, string>>("test/Names")
  it.effect("and handleMetas use services of the Layer, each its own", () => {
    const Seen = Context.Service<Array<string>>("test/Seen")
    const seen: Array<string> = []
    const Served = Layer.mergeAll(RoomLive, UserSocketLive).pipe(
      Layer.provideMerge(Online.layer({
        fetch: (_, entries) =>
          Effect.map(Names, (names) =>
            Object.fromEntries(
              Object.entries(entries).map(([key, entry]) => [key, { ...entry, name: names.get(key) }])
            )),
        handleMetas: (topic) => Effect.map(Seen, (seen) => seen.push(topic))
      })),
      Layer.provideMerge(ChannelTest.layer),
      Layer.provide([Layer.succeed(Names, new Map([["ada", "Ada"]])), Layer.succeed(Seen, seen), silent])
    )
    return Effect.gen(function*() {
      yield* enter("ada")
      assert.deepStrictEqual(plain(yield* Online.list("room:1")), { ada: { metas: [{}], name: "Ada" } })
      assert.deepStrictEqual(seen, ["room:1"])
    }).pipe(Effect.provide(Served))
  })

  on(
    "that takes its time holds up diffs and not their order, and nobody who tracks",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const pid = yield* spawnObedient()
      for (const n of [3, 1, 2]) yield* Online.track({ pid, topic: "room:1" }, `${n}`, {})
      assert.deepStrictEqual(yield* diffsOf(grace), [])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual((yield* diffsOf(grace)).map(({ joins }) => Object.keys(joins)), [["3"], ["1"], ["2"]])
    }),
    { fetch: (_, entries) => Effect.as(Effect.sleep(`${Number(Object.keys(entries)[0] ?? 0)} seconds`), entries) }
  )

  it.effect("that fails costs what it adds and one line in the log: diffs and lists come all the same", () => {
    const lines: Array<unknown> = []
    const logger = Logger.make(({ cause, fiber, message }) => {
      const { presence, topic } = fiber.getRef(References.CurrentLogAnnotations)
      lines.push([message, String(Cause.squash(cause)), presence, topic])
    })
    return Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "bad", {})
      yield* Online.track(present, "good", {})
      assert.deepStrictEqual((yield* diffsOf(grace)).map(({ joins }) => Object.keys(joins)), [["bad"], ["good"]])
      assert.deepStrictEqual(plain(yield* Online.list("room:1")), { bad: one, good: one })
      assert.deepStrictEqual(lines, [[
        ["fetch of a presence has failed; lists and diffs go out without what it adds"],
        "Error: boom",
        "online",
        "room:1"
      ]])
    }).pipe(
      Effect.provide(
        live(
          { fetch: (_, entries) => "bad" in entries ? Effect.die(new Error("boom")) : Effect.succeed(entries) },
          {},
          Layer.mergeAll(Logger.layer([logger]), Layer.succeed(References.MinimumLogLevel, "Error"))
        )
      )
    )
  })
})

describe("handleMetas", () => {
  const calls: Array<readonly [topic: string, diff: Presence.Diff, presences: Presence.Entries]> = []
  const handleMetas = (topic: string, diff: Presence.Diff, presences: Presence.Entries) =>
    Effect.sync(() => void calls.push([topic, diff, presences]))
  const seen = () =>
    calls.splice(0).map(([topic, { joins, leaves }, now]) => [topic, plain(joins), plain(leaves), plain(now)])

  on(
    "is told of each diff as it was broadcast, and of who is present after it",
    Effect.gen(function*() {
      calls.length = 0
      const ada = yield* enter("ada", { meta: { n: 1 } })
      const grace = yield* enter("grace", {}, "room:2")
      yield* ask(ada, "update", { meta: { n: 2 } })
      yield* ChannelTest.leave(grace)
      yield* ChannelTest.settle
      const [first, second] = [{ ada: { metas: [{ n: 1 }] } }, { ada: { metas: [{ n: 2 }] } }]
      assert.deepStrictEqual(
        yield* diffsOf(ada),
        calls.filter(([topic]) => topic === "room:1").map(([, diff]) => ({
          joins: { ...diff.joins },
          leaves: { ...diff.leaves }
        }))
      )
      assert.deepStrictEqual(seen(), [
        ["room:1", first, {}, first],
        ["room:2", { grace: one }, {}, { grace: one }],
        ["room:1", second, first, second],
        ["room:2", {}, { grace: one }, {}]
      ])
    }),
    { handleMetas }
  )

  on(
    "is told who is present by the diffs so far, however far fetch is behind",
    Effect.gen(function*() {
      calls.length = 0
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "ada", {})
      yield* Online.track(present, "grace", {})
      yield* Online.untrack(present, "ada")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen().map(([, , , now]) => now), [{ ada: one }, { ada: one, grace: one }, { grace: one }])
    }),
    { handleMetas, fetch: (_, entries) => Effect.as(Effect.sleep("1 second"), entries) }
  )

  on(
    "that fails is no reason to keep back the next diff",
    Effect.gen(function*() {
      calls.length = 0
      const grace = yield* enter("grace", { silent: true })
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "bad", {})
      yield* Online.track(present, "good", {})
      assert.deepStrictEqual((yield* diffsOf(grace)).map(({ joins }) => Object.keys(joins)), [["bad"], ["good"]])
      assert.deepStrictEqual(seen().map(([, joins]) => joins), [{ good: one }])
    }),
    {
      handleMetas: (topic, diff, presences) =>
        "bad" in diff.joins ? Effect.die(new Error("boom")) : handleMetas(topic, diff, presences)
    }
  )
})

describe("coalesce", () => {
  const coalescing = (name: string, body: Effect.Effect<unknown, unknown, Live | Scope.Scope>) =>
    on(name, body, {}, { coalesce: "100 millis" })

  coalescing(
    "tells the changes of a window in one diff for each topic, when it is over",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const alan = yield* enter("alan", { silent: true }, "room:2")
      const pid = yield* spawnObedient()
      for (const key of ["a", "b", "c"]) yield* Online.track({ pid, topic: "room:1" }, key, {})
      yield* TestClock.adjust("99 millis")
      yield* Online.track({ pid, topic: "room:2" }, "d", {})
      assert.deepStrictEqual(yield* diffsOf(grace), [])
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), ["a", "b", "c"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{ a: one, b: one, c: one }, {}]])
      assert.deepStrictEqual(yield* plainDiffs(alan), [])
      yield* Online.untrack({ pid, topic: "room:1" }, "b")
      yield* TestClock.adjust("99 millis")
      assert.deepStrictEqual(yield* plainDiffs(alan), [[{ d: one }, {}]])
      assert.deepStrictEqual(yield* plainDiffs(grace), [])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{}, { b: one }]])
    })
  )

  coalescing(
    "tells who has come only once, and as gone whatever somebody may have seen in a list meanwhile",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "ada", {})
      yield* Online.update(present, "ada", { n: 1 })
      yield* Online.untrack(present, "ada")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{}, { ada: { metas: [{}, { n: 1 }] } }]])
      yield* Online.track(present, "ada", { n: 0 })
      yield* TestClock.adjust("1 second")
      for (const n of [1, 2, 3]) yield* Online.update(present, "ada", { n })
      yield* Online.track(present, "alan", { n: 1 })
      yield* Online.update(present, "alan", { n: 2 })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* plainDiffs(grace), [
        [{ ada: { metas: [{ n: 0 }] } }, {}],
        [{ ada: { metas: [{ n: 3 }] }, alan: { metas: [{ n: 2 }] } }, {
          ada: { metas: [{ n: 0 }, { n: 1 }, { n: 2 }] },
          alan: { metas: [{ n: 1 }] }
        }]
      ])
      for (const n of [4, 5]) yield* Online.update(present, "ada", { n })
      yield* Online.untrack(present, "ada")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{}, {
        ada: { metas: [{ n: 3 }, { n: 4 }, { n: 5 }] }
      }]])
    })
  )
})

describe("a crash", () => {
  on(
    "of the tracker ends its channels with phx_error; they join again and are present again",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const ada = yield* enter("ada", { meta: { n: 1 } })
      yield* diffsOf(grace)
      const shard = (yield* Process.list).find(({ label }) => label === "online shard 0")
      assert.isDefined(shard)
      if (shard !== undefined) yield* Process.exit(shard, Process.crash(Cause.die("boom")))
      yield* ChannelTest.assertPush(ada, "phx_error")
      assert.isTrue(grace.pid.alive)
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), [])
      yield* ChannelTest.join(ada.socket, Room, "room:1", { meta: { n: 2 } })
      assert.deepStrictEqual(yield* plainDiffs(grace), [
        [{}, { ada: { metas: [{ n: 1 }] } }],
        [{ ada: { metas: [{ n: 2 }] } }, {}]
      ])
    })
  )

  on(
    "of the process that tells diffs costs nothing of what it had not told yet",
    Effect.gen(function*() {
      const grace = yield* enter("grace", { silent: true })
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "ada", {})
      yield* ChannelTest.settle
      for (const pid of yield* Process.list) {
        if (pid.label === "presence online diffs") yield* Process.exit(pid, Process.killed)
      }
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{ ada: one }, {}]])
      yield* Online.track(present, "alan", {})
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* plainDiffs(grace), [[{ alan: one }, {}]])
    }),
    {},
    { coalesce: "1 minute" }
  )
})

describe("phoenix.js's Presence", () => {
  /** It, fed with what a client was sent of its topic, in order. */
  const follow = (room: ChannelTest.TestChannel) => {
    const handlers = new Map<string, (payload: unknown) => void>()
    const presence: { readonly state: unknown; readonly list: () => ReadonlyArray<unknown> } = new PhoenixPresence({
      on: (event: string, handler: (payload: unknown) => void) => handlers.set(event, handler),
      joinRef: () => "1"
    })
    return {
      presence,
      read: Effect.map(ChannelTest.settle, () => {
        for (const { event, payload } of room.socket.received.splice(0)) handlers.get(event)?.(payload)
      })
    }
  }

  const json = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

  for (const options of [{}, { coalesce: "50 millis" }] as const) {
    on(
      `knows after state and diffs what list says${"coalesce" in options ? ", coalesced too" : ""}`,
      Effect.gen(function*() {
        const pids = [yield* spawnObedient(), yield* spawnObedient(), yield* spawnObedient()]
        const [first = yield* spawnObedient()] = pids
        yield* Online.track({ pid: first, topic: "room:1" }, "early", {})
        const ada = yield* enter("ada", { meta: { n: 0 } })
        const { presence, read } = follow(ada)
        let step = 0
        for (const pid of [...pids, ...pids, ...pids, ...pids]) {
          const present = { pid, topic: "room:1" }
          const key = `user ${step % 4}`
          yield* Effect.ignore(Online.track(present, key, { step }))
          if (step % 2 === 0) yield* Effect.ignore(Online.update(present, key, { step, updated: true }))
          if (step % 3 === 0) yield* Online.untrack(present, `user ${(step + 2) % 4}`)
          if (step === 7) yield* Process.exit(first, Process.killed)
          step++
          yield* TestClock.adjust("50 millis")
          yield* read
          const list = yield* Online.list("room:1")
          assert.isAbove(Object.keys(list).length, 1)
          assert.deepStrictEqual(presence.state, json(list), `after step ${step}`)
        }
      }),
      {},
      options
    )
  }

  on(
    "keeps the diffs that come before the state until it is there",
    Effect.gen(function*() {
      const ada = yield* enter("ada", { silent: true })
      const { presence, read } = follow(ada)
      const state = ada.socket.received.splice(0).find(({ event }) => event === "presence_state")
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "grace", {})
      yield* Online.update(present, "grace", { n: 1 })
      yield* read
      assert.deepStrictEqual(presence.list(), [])
      if (state !== undefined) ada.socket.received.push(state)
      yield* read
      assert.deepStrictEqual(presence.state, json(yield* Online.list("room:1")))
    })
  )
})

describe("a contract with outgoing events", () => {
  const Typed = Channel.make("typed:*", {
    outgoing: { ...Presence.outgoing, said: Schema.Struct({ body: Schema.String }) },
    intercept: ["presence_diff"]
  })
  const TypedLive = Typed.layer((room) =>
    Effect.as(room.send("after join"), {
      handleIn: () => Effect.void,
      handleInfo: () =>
        Effect.gen(function*() {
          yield* Online.track(room, "__proto__", { n: 1 })
          yield* room.push("presence_state", yield* Online.list(room))
        }).pipe(Effect.orDie),
      handleOut: {
        presence_diff: ({ joins }) => room.push("said", { body: Object.keys(joins).join() })
      }
    })
  )
  const Bare = Channel.make("bare:*", { outgoing: { said: Schema.Struct({ body: Schema.String }) } })
  const BareLive = Bare.layer((room) => {
    // @ts-expect-error the contract does not name it: see Presence.outgoing
    const pushing = () => room.push("presence_state", {})
    return Effect.succeed({ handleIn: () => pushing() })
  })
  const TypedSocket = Socket.make("typed_socket", { channels: [Typed, Bare] })
  const TypedLives = Layer.mergeAll(TypedLive, BareLive, TypedSocket.layer(() => Effect.succeed(Socket.accept()))).pipe(
    Layer.provideMerge(Online.layer()),
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(silent)
  )

  it.effect("names those of a presence by Presence.outgoing, to push and to intercept them", () =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* ChannelTest.connect(TypedSocket), Typed, "typed:1")
      const state = yield* ChannelTest.assertPush(room, "presence_state", (state) => Object.hasOwn(state, "__proto__"))
      assert.deepStrictEqual(Object.keys(state), ["__proto__"])
      yield* ChannelTest.assertPush(room, "said", { body: "__proto__" })
      yield* ChannelTest.refutePush(room, "presence_diff")
    }).pipe(Effect.provide(TypedLives)))

  it.effect("passes on diffs also where it does not name them, and a test may look", () =>
    Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* ChannelTest.connect(TypedSocket), Bare, "bare:1")
      yield* Online.track({ pid: yield* spawnObedient(), topic: "bare:1" }, "ada", {})
      yield* ChannelTest.assertPush(room, "presence_diff", { leaves: {} })
      yield* ChannelTest.refutePush(room, "presence_state")
    }).pipe(Effect.provide(TypedLives)))
})

describe("the layer", () => {
  it.effect("refuses options that contradict each other", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<Presence.Options> = [
        { downPeriod: "2 seconds" },
        { permdownPeriod: "30 seconds" },
        { handlerTimeout: NaN },
        { maxMetaBytes: NaN },
        ...[NaN, 0, -1, "soon", null].map((coalesce) => ({ coalesce }) as Presence.Options)
      ]
      for (const options of wrong) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Online.layer({}, options))))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
      }
      for (const handlers of [{ fetch: {} }, { handleMetas: 1 }] as ReadonlyArray<unknown>) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Online.layer(handlers as Presence.Handlers))))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RangeError)
      }
      assert.throws(() => Presence.make(""), RangeError)
      assert.deepStrictEqual(yield* Process.list, [])
    }).pipe(Effect.provide(ChannelTest.layer)))

  it.effect("keeps two presences of different names apart, in the same topics", () => {
    const Other = Presence.make("other")
    return Effect.gen(function*() {
      const present = { pid: yield* spawnObedient(), topic: "room:1" }
      yield* Online.track(present, "ada", {})
      yield* Other.track(present, "ada", {})
      yield* Online.untrack(present, "ada")
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:1")), [])
      assert.deepStrictEqual(Object.keys(yield* Other.list("room:1")), ["ada"])
    }).pipe(Effect.provide(Layer.mergeAll(Online.layer(), Other.layer()).pipe(Layer.provideMerge(ChannelTest.layer))))
  })

  for (const coalesce of [undefined, "1 minute"] as const) {
    it.effect(`leaves no process, timer or subscription${coalesce === undefined ? "" : ", in a window too"}`, () => {
      const lines: Array<unknown> = []
      return Effect.gen(function*() {
        const pubsub = yield* PubSub.PubSub
        const scope = yield* Scope.make()
        const fetching = yield* Deferred.make<void>()
        const context = yield* Layer.buildWithScope(
          Online.layer({
            fetch: (_, entries) =>
              Effect.andThen(Deferred.succeed(fetching, undefined), Effect.as(Effect.never, entries))
          }, { coalesce, handlerTimeout: "1 minute" }),
          scope
        )
        const pid = yield* spawnObedient()
        yield* Effect.provideContext(Online.track({ pid, topic: "room:1" }, "ada", {}), context)
        if (coalesce === undefined) yield* Deferred.await(fetching)
        yield* TestClock.adjust("20 seconds")
        yield* Scope.close(scope, Exit.void)
        yield* ChannelTest.settle
        assert.deepStrictEqual(yield* Process.list, [pid])
        assert.strictEqual((yield* Process.stats).timers, 0)
        assert.deepStrictEqual(pubsub.topics(), [])
        yield* Process.exit(pid, Process.killed)
        yield* ChannelTest.settle
        assert.deepStrictEqual(yield* Process.stats, { processes: 0, timers: 0 })
        assert.deepStrictEqual(lines, [])
      }).pipe(
        Effect.provide(ChannelTest.layer),
        Effect.provide(Logger.layer([Logger.make(({ message }) => void lines.push(message))]))
      )
    })
  }
})
