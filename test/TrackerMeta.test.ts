import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Logger, Metric, type Scope } from "effect"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Presence from "../src/Presence.ts"
import * as Socket from "../src/Socket.ts"
import * as Telemetry from "../src/Telemetry.ts"
import * as Tracker from "../src/Tracker.ts"
import { spawnObedient } from "./support/node.ts"

const nested = (depth: number): unknown => {
  let value: unknown = 1
  for (let level = 0; level < depth; level++) value = level % 2 === 0 ? [value] : { value }
  return value
}

const cycle: Record<string, unknown> = { a: [] }
cycle["a"] = [cycle]

/** Small in memory, and more than any computer has as text. */
const bomb = () => {
  let value: unknown = "x"
  for (let level = 0; level < 60; level++) value = [value, value]
  return value
}

const throwing = (): never => {
  throw new Error("boom")
}

let read = 0

const refused: ReadonlyArray<readonly [name: string, meta: unknown, code: string, part: RegExp]> = [
  ["a BigInt", { size: 1n }, "INVALID_META", /meta\.size is a BigInt/],
  ["a BigInt in a list", { sizes: [1, 2n] }, "INVALID_META", /meta\.sizes\.1 is a BigInt/],
  ["a boxed BigInt", { size: Object(1n) }, "INVALID_META", /meta\.size/],
  ["a cycle", { cycle }, "INVALID_META", /refers to itself/],
  ["6,000 levels", { a: nested(6000) }, "INVALID_META", /deeper than 100 levels/],
  ["100,000 levels", { a: nested(100_000) }, "INVALID_META", /deeper than 100 levels/],
  ["101 levels", { a: nested(100) }, "INVALID_META", /deeper than 100 levels/],
  ["a toJSON that throws", { a: { toJSON: throwing } }, "INVALID_META", /meta\.a cannot be read: it throws/],
  ["a toJSON at the top that throws", { toJSON: throwing }, "INVALID_META", /meta cannot be read/],
  ["a toJSON that says a text", { toJSON: () => "text" }, "INVALID_META", /meta is not an object/],
  ["a toJSON that says a cycle", { a: { toJSON: () => cycle } }, "INVALID_META", /refers to itself/],
  [
    "a getter that throws",
    {
      get a() {
        return throwing()
      }
    },
    "INVALID_META",
    /cannot be read: it throws/
  ],
  ["a Proxy that throws", { a: new Proxy({}, { ownKeys: throwing }) }, "INVALID_META", /cannot be read: it throws/],
  ["a function", { a: () => 1 }, "INVALID_META", /meta\.a is a function/],
  ["a symbol", { a: Symbol("a") }, "INVALID_META", /meta\.a is a symbol/],
  ["a Map", { a: new Map([[1, 2]]) }, "INVALID_META", /meta\.a is a Map or Set/],
  ["a Promise", { a: Promise.resolve(1) }, "INVALID_META", /meta\.a is a Promise/],
  ["a Promise in place of it", Promise.resolve({}), "INVALID_META", /meta is a Promise/],
  ["a list in place of it", [1], "INVALID_META", /meta is not an object/],
  ["null in place of it", null, "INVALID_META", /meta is not an object/],
  ["a text in place of it", "online", "INVALID_META", /meta is not an object/],
  ["nothing in place of it", undefined, "INVALID_META", /meta is not an object/],
  ["a name that forges a line", { "a\nb": 1n }, "INVALID_META", /^meta\.a\\nb is a BigInt/],
  ["a text beyond the limit", { a: "x".repeat(1000) }, "TOO_LARGE", /1000 (bytes|of maxMetaBytes)/],
  [
    "a text beyond the limit only in bytes",
    { a: "é".repeat(490) },
    "TOO_LARGE",
    /larger than the 1000 of maxMetaBytes/
  ],
  ["a text beyond the limit only as JSON", { a: "\u0001".repeat(170) }, "TOO_LARGE", /maxMetaBytes/],
  ["a list of nothing, a billion long", { a: new Array(1e9) }, "TOO_LARGE", /1000 bytes/],
  ["a value that repeats itself 2^60 times", { a: bomb() }, "TOO_LARGE", /1000 bytes/]
]

const silent = Logger.layer([])

const on = (
  name: string,
  body: Effect.Effect<unknown, unknown, Layer.Success<typeof ChannelTest.layer> | Scope.Scope>
) => it.effect(name, () => body.pipe(Effect.provide([ChannelTest.layer, silent])))

describe("a meta", () => {
  for (const [name, meta, code, part] of refused) {
    on(
      `is refused with ${name}, when it is tracked, updated, or made by the function of an update`,
      Effect.gen(function*() {
        const told: Array<unknown> = []
        const tracker = yield* Tracker.make("metas", (diff) => Effect.sync(() => void told.push(diff)), {
          maxMetaBytes: 1000
        })
        const pid = yield* spawnObedient()
        yield* tracker.track(pid, "room", "here", { n: 1 })
        const bad = meta as Record<string, unknown>
        for (
          const attempt of [
            tracker.track(pid, "room", "new", bad),
            tracker.update(pid, "room", "here", bad),
            tracker.update(pid, "room", "here", () => bad)
          ]
        ) {
          const error = yield* Effect.flip(attempt)
          assert.strictEqual(error.code, code)
          assert.match(error.message, part)
        }
        assert.deepStrictEqual([...tracker.list("room").keys()], ["here"])
        assert.strictEqual(tracker.getByKey("room", "here")[0]?.["n"], 1)
        assert.strictEqual(told.length, 1)
        yield* tracker.update(pid, "room", "here", { n: 2 })
      })
    )
  }

  on(
    "is taken at the limits, of levels and of bytes, which count topic and key",
    Effect.gen(function*() {
      const tracker = yield* Tracker.make("metas", () => Effect.void, { maxMetaBytes: 1000 })
      const pid = yield* spawnObedient()
      yield* tracker.track(pid, "room", "deep", { a: nested(99) })
      const room = 1000 - JSON.stringify(["room", "wide", { a: "" }]).length
      yield* tracker.track(pid, "room", "wide", { a: "x".repeat(room) })
      const error = yield* Effect.flip(tracker.track(pid, "rooms", "wide", { a: "x".repeat(room) }))
      assert.strictEqual(error.code, "TOO_LARGE")
      const wide = yield* Tracker.make("wide", () => Effect.void, { maxMetaBytes: Infinity })
      yield* wide.track(pid, "room", "wide", { a: "x".repeat(1_000_000) })
      const usual = yield* Tracker.make("usual", () => Effect.void)
      yield* usual.track(pid, "room", "wide", { a: "x".repeat(65_000) })
      assert.strictEqual(
        (yield* Effect.flip(usual.track(pid, "room", "wider", { a: "x".repeat(65_536) }))).code,
        "TOO_LARGE"
      )
    })
  )

  on(
    "is refused under a topic or a key that is no text",
    Effect.gen(function*() {
      const tracker = yield* Tracker.make("metas", () => Effect.void)
      const pid = yield* spawnObedient()
      for (const wrong of [1, null, undefined, {}] as ReadonlyArray<unknown>) {
        const name = wrong as string
        assert.strictEqual((yield* Effect.flip(tracker.track(pid, "room", name, {}))).code, "INVALID_META")
        assert.strictEqual((yield* Effect.flip(tracker.track(pid, name, "ada", {}))).code, "INVALID_META")
      }
    })
  )

  on(
    "is copied once, as JSON has it, and frozen: what becomes of the original is nobody's business",
    Effect.gen(function*() {
      const tracker = yield* Tracker.make("metas", () => Effect.void)
      const pid = yield* spawnObedient()
      const list = [1, undefined, NaN]
      const meta = {
        since: new Date(0),
        list,
        gone: undefined,
        boxed: Object("text"),
        once: { toJSON: () => ++read > 1 ? throwing() : { read } }
      }
      const ref = yield* tracker.track(pid, "room", "ada", meta)
      list.push(2)
      const [kept] = tracker.getByKey("room", "ada")
      const expected = {
        since: "1970-01-01T00:00:00.000Z",
        list: [1, null, null],
        boxed: "text",
        once: { read: 1 },
        phx_ref: ref
      }
      assert.deepStrictEqual(kept, expected)
      assert.deepStrictEqual(JSON.parse(JSON.stringify(kept)), expected)
      assert.isTrue(Object.isFrozen(kept) && Object.isFrozen(kept?.["list"]) && Object.isFrozen(kept?.["once"]))
      const exit = yield* Effect.exit(tracker.update(pid, "room", "ada", (before) => Object.assign(before, { n: 1n })))
      assert.isTrue(Exit.hasDies(exit))
      assert.deepStrictEqual(tracker.getByKey("room", "ada"), [expected])
    })
  )

  it.effect("that is refused is counted, and logged no more than every ten seconds", () => {
    const lines: Array<unknown> = []
    return Effect.gen(function*() {
      const tracker = yield* Tracker.make("counted", () => Effect.void)
      const pid = yield* spawnObedient()
      for (let n = 0; n < 5; n++) yield* Effect.flip(tracker.track(pid, "room", "ada", { n: 1n }))
      const count = Metric.withAttributes(Telemetry.presencesRefused, { tracker: "counted", code: "INVALID_META" })
      assert.strictEqual((yield* Metric.value(count)).count, 5)
      assert.deepStrictEqual(lines, [["tracker refused a presence; see the message of its TrackerError"]])
    }).pipe(
      Effect.provide(ChannelTest.layer),
      Effect.provide(Logger.layer([Logger.make(({ message }) => void lines.push(message))]))
    )
  })
})

describe("a client", () => {
  const Online = Presence.make("online")
  const Room = Channel.make("room:*")
  const RoomLive = Room.layer((room) =>
    Effect.as(room.send("after join"), {
      handleInfo: () => Effect.flatMap(Online.list(room), (list) => room.push("presence_state", list)),
      handleIn: (_event: string, payload: unknown) =>
        Effect.match(Online.track(room, "bad", JSON.parse(String(payload))), {
          onSuccess: () => Channel.ok(),
          onFailure: ({ code }) => Channel.error({ code })
        })
    })
  )
  const UserSocket = Socket.make("user_socket", { channels: [Room] })
  const Live = Layer.mergeAll(RoomLive, UserSocket.layer(() => Effect.succeed(Socket.accept()))).pipe(
    Layer.provideMerge(Online.layer()),
    Layer.provideMerge(ChannelTest.layer),
    Layer.provideMerge(silent)
  )

  it.effect("that tracks something nested 6,000 deep is told so, and newcomers join as ever", () =>
    Effect.gen(function*() {
      const attacker = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
      const ref = yield* ChannelTest.push(
        attacker,
        "track",
        `${"{\"a\":".repeat(6000)}1${"}".repeat(6000)}`
      )
      yield* ChannelTest.assertReply(ref, "error", { code: "INVALID_META" })
      for (let n = 0; n < 3; n++) {
        const newcomer = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
        yield* ChannelTest.assertPush(newcomer, "presence_state", {})
        assert.isTrue(newcomer.pid.alive)
      }
    }).pipe(Effect.provide(Live)))
})
