import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Logger, References, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

interface Line {
  readonly level: string
  readonly message: unknown
  readonly cause: Cause.Cause<unknown>
  readonly annotations: Readonly<Record<string, unknown>>
}

/** What is logged but for connects and joins. */
const capture = () => {
  const lines: Array<Line> = []
  const layer = Logger.layer([
    Logger.make(({ cause, fiber, logLevel, message }) => {
      if (logLevel === "Info") return
      lines.push({
        level: logLevel,
        message: Array.isArray(message) ? message[0] : message,
        cause,
        annotations: fiber.getRef(References.CurrentLogAnnotations)
      })
    })
  ])
  return { lines, layer }
}

const silent = Logger.layer([])

/** A node with one socket, which lets everybody in. */
const node = <const Channels extends ReadonlyArray<Socket.AnyChannel>, A, E>(
  channels: Channels,
  live: Layer.Layer<A, E, PubSub.PubSub | Process.System>,
  id?: string,
  base = ChannelTest.layer
) => {
  const socket = Socket.make("test", { channels })
  const socketLive = socket.toLayer(
    Effect.succeed(() => Effect.succeed(Socket.accept({ id }) as Socket.Accepted<never>))
  )
  return { socket, layer: Layer.mergeAll(live, socketLive).pipe(Layer.provideMerge(base)) }
}

type Join = (
  room: Channel.Self,
  payload: unknown
) => Effect.Effect<
  Channel.Handlers<Channel.Untyped, Process.Own | PubSub.PubSub>,
  unknown,
  Process.Own | PubSub.PubSub
>

const Room = Channel.make("room:*")

/** A node with an untyped channel. */
const untyped = (join: Join) => node([Room], Room.toLayer(Effect.succeed(join)))

/** Everything the client has got, as `[event, payload]` without the join reply. */
const frames = (socket: ChannelTest.TestSocket) =>
  Effect.map(ChannelTest.settle, () => socket.received.splice(0).map(({ event, payload }) => [event, payload]))

const payloadOf = (payload: unknown): Record<string, unknown> => payload as Record<string, unknown>

describe("join", () => {
  it.effect("runs once per join, in the channel's own process, with its topic, id and payload", () => {
    const joins: Array<unknown> = []
    let built = 0
    const { layer, socket } = node(
      [Room],
      Room.toLayer(Effect.sync(() => {
        built++
        return (room: Channel.Self, payload: unknown) =>
          Effect.gen(function*() {
            const self = yield* Process.self
            joins.push({
              topic: room.topic,
              payload,
              id: room.socketId,
              own: self.id === room.pid.id,
              joined: room.joined
            })
            return {}
          })
      })),
      "user:1"
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const a = yield* ChannelTest.join(client, Room, "room:a", { n: 1 })
      const b = yield* ChannelTest.join(client, Room, "room:", [2])
      assert.deepStrictEqual(joins, [
        { topic: "room:a", payload: { n: 1 }, id: "user:1", own: true, joined: false },
        { topic: "room:", payload: [2], id: "user:1", own: true, joined: false }
      ])
      assert.strictEqual(built, 1)
      assert.notStrictEqual(a.pid.id, b.pid.id)
      assert.strictEqual(a.pid.label, "channel room:a")
    }).pipe(Effect.provide(layer))
  })

  it.effect("replies {} or what the handlers say", () => {
    const { layer, socket } = untyped((_, payload) =>
      Effect.succeed(payload === null ? {} : { reply: payloadOf(payload)["reply"] })
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const joinWith = (topic: string, payload: unknown) =>
        Effect.map(ChannelTest.join(client, Room, topic, payload), ({ reply }) => reply)
      assert.deepStrictEqual(yield* joinWith("room:1", null), {})
      assert.deepStrictEqual(yield* joinWith("room:2", { reply: { a: [1] } }), { a: [1] })
      assert.deepStrictEqual(yield* joinWith("room:3", { reply: null }), null)
      assert.deepStrictEqual(yield* joinWith("room:4", { reply: "text" }), "text")
    }).pipe(Effect.provide(layer))
  })

  it.effect("that fails is refused with the failure, leaves nothing behind, and tells its finalizers Shutdown", () => {
    const ended: Array<string> = []
    const { layer, socket } = untyped(() =>
      Effect.andThen(
        Effect.addFinalizer((exit) => Effect.sync(() => void ended.push(Process.exitReason(exit)._tag))),
        Effect.fail({ reason: "unauthorized" })
      )
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const before = yield* Process.stats
      const refused = yield* Effect.flip(ChannelTest.join(client, Room, "room:1"))
      assert.deepStrictEqual(refused.response, { reason: "unauthorized" })
      yield* ChannelTest.settle
      assert.deepStrictEqual(ended, ["Shutdown"])
      assert.deepStrictEqual(yield* Process.stats, before)
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
      assert.deepStrictEqual(yield* frames(client), [])
    }).pipe(Effect.provide(layer))
  })

  for (
    const [what, crash] of [
      ["dies", Effect.die(new Error("boom"))],
      [
        "throws",
        Effect.sync(() => {
          throw new Error("boom")
        })
      ],
      ["dies after a while", Effect.andThen(Effect.yieldNow, Effect.die(new Error("boom")))]
    ] as const
  ) {
    it.effect(`that ${what} is answered "join crashed", is logged once, and harms nobody`, () => {
      const { layer: logs, lines } = capture()
      const { layer, socket } = untyped((room) => room.topic === "room:bad" ? crash : Effect.succeed({}))
      return Effect.gen(function*() {
        const client = yield* ChannelTest.connect(socket)
        yield* ChannelTest.join(client, Room, "room:good")
        const before = yield* Process.stats
        const crashed = yield* Effect.flip(ChannelTest.join(client, Room, "room:bad"))
        assert.deepStrictEqual(crashed.response, { reason: "join crashed" })
        yield* ChannelTest.settle
        assert.deepStrictEqual(yield* Process.stats, before)
        assert.strictEqual(lines.length, 1)
        assert.strictEqual(lines[0]?.level, "Error")
        assert.include(Cause.pretty(lines[0]?.cause ?? Cause.empty), "boom")
        assert.strictEqual(lines[0]?.annotations["topic"], "room:bad")
        assert.isUndefined(client.closeCode)
        yield* ChannelTest.join(client, Room, "room:other")
        assert.deepStrictEqual(yield* frames(client), [])
      }).pipe(Effect.provide(layer), Effect.provide(logs))
    })
  }

  it.effect("with a reply that cannot be encoded is a crash", () => {
    const { layer, socket } = untyped((_, payload) =>
      payloadOf(payload)["fail"] ? Effect.fail(1n) : Effect.succeed({ reply: 1n })
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const before = yield* Process.stats
      for (const payload of [{ fail: true }, {}]) {
        const crashed = yield* Effect.flip(ChannelTest.join(client, Room, "room:1", payload))
        assert.deepStrictEqual(crashed.response, { reason: "join crashed" })
        yield* ChannelTest.settle
      }
      assert.deepStrictEqual(yield* Process.stats, before)
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
      assert.deepStrictEqual(yield* frames(client), [])
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("is answered before anything else: own sends, broadcasts and messages during it come after", () => {
    const { layer, socket } = untyped(Effect.fnUntraced(function*(room) {
      yield* room.send("after join")
      yield* Endpoint.broadcast(room.topic, "too early", {})
      yield* Effect.addFinalizer(() => Effect.void)
      return {
        reply: { first: true },
        handleInfo: (message) => room.push("info", { message })
      }
    }))
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      client.server.receive(JSON.stringify(["1", "1", "room:1", "phx_join", {}]))
      assert.deepStrictEqual(yield* frames(client), [
        ["phx_reply", { status: "ok", response: { first: true } }],
        ["info", { message: "after join" }]
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is answered before broadcasts that come while the subscription is being made", () => {
    const gate = Deferred.makeUnsafe<void>()
    // A cluster in which a subscription takes its time.
    const slow = PubSub.layerAdapter(() =>
      Effect.succeed({
        node: "a",
        broadcast: () => Effect.void,
        direct: () => Effect.void,
        joined: () => Deferred.await(gate),
        left: () => Effect.void
      })
    )
    const { layer, socket } = node([Room], Room.toLayer(Effect.succeed(() => Effect.succeed({}))), undefined, slow)
    return Effect.gen(function*() {
      const acceptor = yield* Socket.acceptor(socket)
      const sent: Array<unknown> = []
      const server = acceptor.open(
        { name: "test", send: (frame) => void sent.push(JSON.parse(String(frame))), close: () => {} },
        Serializer.v2,
        { id: undefined, assigns: Context.empty() }
      )
      server.receive(JSON.stringify(["1", "1", "room:1", "phx_join", {}]))
      yield* TestClock.adjust(0)
      yield* Endpoint.broadcast("room:1", "early", { n: 1 })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Endpoint.broadcast("room:1", "bad", 1n))))
      assert.deepStrictEqual(sent, [])
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(sent, [
        ["1", "1", "room:1", "phx_reply", { status: "ok", response: {} }],
        [null, null, "room:1", "early", { n: 1 }]
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("may not push or broadcast yet: it crashes", () => {
    const { layer, socket } = untyped((room, payload) =>
      (payloadOf(payload)["how"] === "push"
        ? room.push("x", {})
        : payloadOf(payload)["how"] === "ref"
        ? room.ref
        : payloadOf(payload)["how"] === "from"
        ? room.broadcastFrom("x", {})
        : room.broadcast("x", {})).pipe(Effect.as({}))
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      for (const how of ["push", "broadcast", "from", "ref"]) {
        const crashed = yield* Effect.flip(ChannelTest.join(client, Room, "room:1", { how }))
        assert.deepStrictEqual(crashed.response, { reason: "join crashed" })
      }
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("may end the channel: the client gets the reply, then phx_close or phx_error", () => {
    const reasons: Array<string> = []
    const { layer, socket } = untyped((room, payload) =>
      Effect.as(room.stop(payload === "crash" ? Process.crash(Cause.die("x")) : undefined), {
        terminate: (reason) => Effect.sync(() => void reasons.push(reason._tag))
      })
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      client.server.receive(JSON.stringify(["1", "1", "room:1", "phx_join", {}]))
      assert.deepStrictEqual(yield* frames(client), [
        ["phx_reply", { status: "ok", response: {} }],
        ["phx_close", {}]
      ])
      client.server.receive(JSON.stringify(["2", "2", "room:1", "phx_join", "crash"]))
      assert.deepStrictEqual(yield* frames(client), [
        ["phx_reply", { status: "ok", response: {} }],
        ["phx_error", { reason: "channel_crash" }]
      ])
      assert.deepStrictEqual(reasons, ["Normal", "Crash"])
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("that is killed from outside is answered \"join crashed\"", () => {
    let pid: Process.Pid<unknown> | undefined
    const { layer, socket } = untyped((room) => {
      pid = room.pid
      return Effect.never
    })
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      for (const reason of [Process.killed, Process.shutdown("away")]) {
        client.server.receive(JSON.stringify(["1", "1", "room:1", "phx_join", {}]))
        assert.deepStrictEqual(yield* frames(client), [])
        yield* Process.exit(pid ?? (yield* Effect.die("no join")), reason)
        assert.deepStrictEqual(yield* frames(client), [
          ["phx_reply", { status: "error", response: { reason: "join crashed" } }]
        ])
      }
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })
})

// --- with a contract --------------------------------------------------------------------------------------------------

class User extends Context.Service<User, { readonly name: string }>()("test/User") {}

const Typed = Channel.make("typed:*", {
  join: {
    payload: Schema.Struct({ since: Schema.FiniteFromString }),
    success: Schema.Struct({ doubled: Schema.FiniteFromString }),
    error: Schema.Struct({ code: Schema.Literals(["odd", "huge"]) })
  },
  incoming: {
    add: {
      payload: Schema.Struct({ a: Schema.Finite, more: Schema.Struct({ b: Schema.Finite }) }),
      success: Schema.Struct({ sum: Schema.Finite }),
      error: Schema.Struct({ problem: Schema.String })
    },
    date: { payload: Schema.Struct({ at: Schema.Date }), success: Schema.Struct({ next: Schema.Date }) },
    nothing: { success: Schema.Void },
    onlyError: { error: Schema.String },
    quiet: { payload: Schema.Struct({ n: Schema.Finite }) },
    free: {},
    later: { success: Schema.Struct({ n: Schema.Finite }) },
    bytes: { payload: Channel.Bytes, success: Channel.Bytes },
    wrong: { success: Schema.Struct({ n: Schema.Finite }) },
    push: {}
  },
  outgoing: { count: Schema.Struct({ n: Schema.FiniteFromString }), raw: Channel.Bytes }
})

const TypedLive = Typed.toLayer(Effect.succeed(Effect.fnUntraced(function*(channel, { since }) {
  if (since % 2 === 1) return yield* Effect.fail({ code: "odd" } as const)
  let sum = since
  return {
    reply: { doubled: since * 2 },
    handleIn: {
      add: ({ a, more }) =>
        a < 0
          ? Effect.fail({ problem: "negative" })
          : Effect.sync(() => ({ sum: sum += a + more.b })),
      date: ({ at }) => Effect.succeed({ next: new Date(at.getTime() + 1000) }),
      nothing: () => Effect.void,
      onlyError: () => Effect.fail("no"),
      quiet: ({ n }) => Effect.sync(() => void (sum += n)),
      free: (payload: unknown) => channel.push("count", { n: Object.keys(payloadOf(payload)).length }),
      later: () => Effect.succeed(Channel.noReply),
      bytes: (bytes) => Effect.succeed(bytes.map((byte) => byte + 1)),
      wrong: () => Effect.succeed({ n: Number.NaN }),
      push: () => channel.push("raw", new Uint8Array([sum]))
    }
  }
})))

const typed = node([Typed], TypedLive)

describe("a channel with a contract", () => {
  const joined = Effect.gen(function*() {
    const client = yield* ChannelTest.connect(typed.socket)
    return ChannelTest.untyped(yield* ChannelTest.join(client, Typed, "typed:1", { since: "10" }))
  })

  it.effect("decodes the join's payload and encodes reply and refusal", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      assert.deepStrictEqual(channel.reply, { doubled: "20" })
      const refused = yield* Effect.flip(ChannelTest.join(channel.socket, Typed, "typed:2", { since: "1" }))
      assert.deepStrictEqual(refused.response, { code: "odd" })
    }).pipe(Effect.provide(typed.layer)))

  it.effect("refuses a join whose payload does not fit, and says where", () =>
    Effect.gen(function*() {
      const client = yield* ChannelTest.connect(typed.socket)
      const before = yield* Process.stats
      const refused = yield* Effect.flip(ChannelTest.join(client, "typed:1", { since: 1 }))
      const { errors, reason } = payloadOf(refused.response)
      assert.strictEqual(reason, "invalid payload")
      assert.deepStrictEqual((errors as ReadonlyArray<Record<string, unknown>>).map(({ path }) => path), [["since"]])
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* Process.stats, before)
    }).pipe(Effect.provide(typed.layer)))

  it.effect("replies what the handler returns, and keeps its state", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const add = (a: unknown, b: unknown) => ChannelTest.push(channel, "add", { a, more: { b } })
      yield* ChannelTest.assertReply(yield* add(1, 2), "ok", (reply: unknown) => payloadOf(reply)["sum"] === 13)
      yield* ChannelTest.push(channel, "quiet", { n: 7 })
      yield* ChannelTest.assertReply(yield* add(0, 0), "ok", { sum: 20 })
      yield* ChannelTest.assertReply(yield* add(-1, 0), "error", { problem: "negative" })
      yield* ChannelTest.assertReply(yield* add(0, 0), "ok", { sum: 20 })
    }).pipe(Effect.provide(typed.layer)))

  it.effect("translates values to JSON and back", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "date", { at: "2024-02-29T12:00:00.000Z" })
      yield* ChannelTest.assertReply(ref, "ok", { next: "2024-02-29T12:00:01.000Z" })
    }).pipe(Effect.provide(typed.layer)))

  it.effect("replies {} for Schema.Void, and for an event that declares only its error", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const reply = yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "nothing", 1), "ok")
      assert.deepStrictEqual(reply, {})
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "onlyError"), "error", "no")
    }).pipe(Effect.provide(typed.layer)))

  it.effect("does not answer an event without success and error, nor one whose handler returns noReply", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "quiet", { n: 1 })
      yield* ChannelTest.push(channel, "later")
      assert.deepStrictEqual(yield* frames(channel.socket), [])
      yield* ChannelTest.push(channel, "free", { a: 1, b: 2 })
      assert.deepStrictEqual(yield* frames(channel.socket), [["count", { n: "2" }]])
    }).pipe(Effect.provide(typed.layer)))

  it.effect("answers a payload that does not fit with the first path and message that are wrong, and goes on", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "add", { a: "1", more: {} })
      const response = payloadOf(yield* ChannelTest.assertReply(ref, "error", { reason: "invalid payload" }))
      const errors = response["errors"] as ReadonlyArray<{ path: ReadonlyArray<string>; message: string }>
      assert.deepStrictEqual(errors.map(({ path }) => path), [["a"]])
      for (const { message } of errors) assert.isAbove(message.length, 5)
      for (const payload of [null, [], "x", 1, new Uint8Array(3)]) {
        yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "add", payload), "error", {
          reason: "invalid payload"
        })
      }
      // Also where the event itself has no reply.
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "quiet", {}), "error", {
        reason: "invalid payload"
      })
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "add", { a: 1, more: { b: 1 } }), "ok", {
        sum: 12
      })
    }).pipe(Effect.provide(typed.layer)))

  it.effect("answers an event that it does not declare, whatever its name", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      for (const event of ["unknown", "", "__proto__", "constructor", "toString", "phx_reply", "phx_close"]) {
        const ref = yield* ChannelTest.push(channel, event)
        yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched event" })
      }
      assert.isTrue(yield* Process.alive(channel.pid))
    }).pipe(Effect.provide(typed.layer)))

  it.effect("speaks binary in both directions with Channel.Bytes", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "bytes", new Uint8Array([1, 2, 255]))
      yield* ChannelTest.assertReply(ref, "ok", new Uint8Array([2, 3, 0]))
      yield* ChannelTest.push(channel, "push")
      yield* ChannelTest.assertPush(channel, "raw", new Uint8Array([10]))
      yield* Typed.broadcast("typed:1", "raw", new Uint8Array([7, 8]))
      yield* ChannelTest.assertPush(channel, "raw", new Uint8Array([7, 8]))
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "bytes", { a: 1 }), "error", {
        reason: "invalid payload"
      })
    }).pipe(Effect.provide(typed.layer)))

  it.effect("crashes on an answer of its own that does not fit", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const channel = yield* joined
      const ref = yield* ChannelTest.push(channel, "wrong")
      yield* ChannelTest.refuteReply(ref, "ok")
      yield* ChannelTest.assertPush(channel, "phx_error", { reason: "channel_crash" })
      assert.strictEqual(lines.length, 1)
      const error = Cause.squash(lines[0]?.cause ?? Cause.empty)
      assert.instanceOf(error, Channel.ChannelError)
      assert.strictEqual((error as Channel.ChannelError).code, "INVALID_PAYLOAD")
    }).pipe(Effect.provide(typed.layer), Effect.provide(layer))
  })

  it.effect("is broadcast to from anywhere, encoded; what does not fit is a defect of the caller", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* Typed.broadcast("typed:1", "count", { n: 5 })
      yield* ChannelTest.assertPush(channel, "count", { n: "5" })
      yield* Typed.broadcastFrom(channel.pid, "typed:1", "count", { n: 6 })
      yield* ChannelTest.refutePush(channel, "count")
      const exit = yield* Effect.exit(Typed.broadcast("typed:1", "count", { n: "x" as never }))
      assert.isTrue(Exit.hasDies(exit))
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Typed.broadcast("typed:1", "nope" as never, {} as never))))
      yield* ChannelTest.refutePush(channel, "count")
    }).pipe(Effect.provide(typed.layer)))

  it.effect("hands undeclared events to handleUndeclared, which may answer or crash", () => {
    const Partial = Channel.make("partial", { incoming: { known: {} } })
    const { layer, socket } = node(
      [Partial],
      Partial.toLayer(Effect.succeed(() =>
        Effect.succeed({
          handleIn: { known: () => Effect.void },
          handleUndeclared: (event: string, payload: unknown) =>
            event === "fail"
              ? Effect.fail({ event })
              : event === "die"
              ? Effect.die("no")
              : event === "quiet"
              ? Effect.void
              : Effect.succeed(Channel.answer("maybe", { event, payload }))
        })
      ))
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), "partial")
      const answered = (event: string, status: string, expected: unknown) =>
        Effect.flatMap(ChannelTest.push(channel, event, [1]), (ref) => ChannelTest.assertReply(ref, status, expected))
      yield* answered("other", "maybe", { event: "other", payload: [1] })
      yield* answered("fail", "error", { event: "fail" })
      yield* ChannelTest.push(channel, "quiet")
      assert.deepStrictEqual(yield* frames(channel.socket), [])
      yield* ChannelTest.push(channel, "die")
      yield* ChannelTest.assertPush(channel, "phx_error")
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("gets its assigns from the socket, each connection its own", () => {
    const Who = Channel.make("who", { assigns: User, incoming: { who: { success: Schema.String } } })
    const WhoLive = Who.toLayer(Effect.succeed(() =>
      Effect.succeed({
        handleIn: { who: () => Effect.map(User, ({ name }) => name) },
        terminate: () => Effect.asVoid(User)
      })
    ))
    const UserSocket = Socket.make("users", { channels: [Who] })
    const UserSocketLive = UserSocket.toLayer(
      Effect.succeed(({ params }) =>
        Effect.succeed(Socket.accept({ assigns: Context.make(User, { name: String(params["name"]) }) }))
      )
    )
    return Effect.gen(function*() {
      const channels = yield* Effect.forEach(
        ["ada", "grace"],
        (name) =>
          Effect.flatMap(ChannelTest.connect(UserSocket, { name }), (client) => ChannelTest.join(client, Who, "who"))
      )
      for (const [index, name] of ["ada", "grace"].entries()) {
        const channel = channels[index] ?? (yield* Effect.die("not joined"))
        yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "who"), "ok", name)
      }
    }).pipe(Effect.provide(Layer.mergeAll(WhoLive, UserSocketLive).pipe(Layer.provideMerge(ChannelTest.layer))))
  })
})

// --- without ----------------------------------------------------------------------------------------------------------

describe("a channel without a contract", () => {
  it.effect("gets every event with any payload, and answers as it likes", () => {
    const { layer, socket } = untyped(() =>
      Effect.succeed({
        handleIn: (event, payload) => {
          switch (event) {
            case "ok":
              return Effect.succeed(Channel.ok({ payload }))
            case "bare":
              return Effect.succeed(Channel.ok())
            case "error":
              return Effect.succeed(Channel.error({ payload }))
            case "bare error":
              return Effect.succeed(Channel.error())
            case "fail":
              return Effect.fail([payload])
            case "own":
              return Effect.succeed(Channel.answer("teapot", payload))
            case "none":
              return Effect.succeed(Channel.noReply)
            default:
              return Effect.void
          }
        }
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      for (
        const [event, payload, status, expected] of [
          ["ok", 1, "ok", { payload: 1 }],
          ["bare", 1, "ok", {}],
          ["error", null, "error", { payload: null }],
          ["bare error", null, "error", {}],
          ["fail", "x", "error", ["x"]],
          ["own", false, "teapot", false]
        ] as const
      ) {
        const reply = yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, event, payload), status)
        assert.deepStrictEqual(reply, expected)
      }
      yield* ChannelTest.push(channel, "none")
      yield* ChannelTest.push(channel, "something else")
      assert.deepStrictEqual(yield* frames(channel.socket), [])
    }).pipe(Effect.provide(layer))
  })

  it.effect("without handleIn answers unmatched event", () => {
    const { layer, socket } = untyped(() => Effect.succeed({}))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      const ref = yield* ChannelTest.push(channel, "x")
      yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched event" })
    }).pipe(Effect.provide(layer))
  })

  it.effect("answers bytes with bytes, and broadcasts them", () => {
    const { layer, socket } = untyped((room) =>
      Effect.succeed({
        handleIn: (event, payload) =>
          event === "echo" ? Effect.succeed(Channel.ok(payload)) : Effect.asVoid(room.broadcast("bin", payload))
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      const bytes = new Uint8Array([0, 1, 128])
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "echo", bytes), "ok", bytes)
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "echo", new Uint8Array()), "ok", new Uint8Array())
      yield* ChannelTest.push(channel, "all", bytes)
      yield* ChannelTest.assertPush(channel, "bin", bytes)
    }).pipe(Effect.provide(layer))
  })

  it.effect("crashes on an answer that cannot be encoded", () => {
    const { layer, socket } = untyped(() => Effect.succeed({ handleIn: () => Effect.succeed(Channel.ok(1n)) }))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* ChannelTest.push(channel, "x")
      assert.deepStrictEqual(yield* frames(channel.socket), [["phx_error", { reason: "channel_crash" }]])
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("a push that cannot be encoded crashes it; a broadcast does so only if somebody would get it", () => {
    const { layer, socket } = untyped((room) =>
      Effect.succeed({
        handleIn: (event) => Effect.asVoid(event === "push" ? room.push("x", [1]) : room.broadcastFrom("x", [1]))
      })
    )
    return Effect.gen(function*() {
      const a = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* ChannelTest.push(a, "broadcast")
      assert.deepStrictEqual(yield* frames(a.socket), [])
      const b = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* ChannelTest.push(a, "broadcast")
      assert.deepStrictEqual(yield* frames(a.socket), [["phx_error", { reason: "channel_crash" }]])
      assert.deepStrictEqual(yield* frames(b.socket), [])
      yield* ChannelTest.push(b, "push")
      assert.deepStrictEqual(yield* frames(b.socket), [["phx_error", { reason: "channel_crash" }]])
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })
})

// --- crashes ----------------------------------------------------------------------------------------------------------

describe("a defect in a handler", () => {
  const counter = untyped((room) => {
    let count = 0
    return Effect.succeed({
      handleIn: (event) =>
        event === "die"
          ? Effect.die(new Error(`boom in ${room.topic}`))
          : event === "throw"
          ? Effect.sync(() => {
            throw new Error("boom")
          })
          : event === "late"
          ? Effect.andThen(Effect.sleep("1 second"), Effect.die(new Error("boom")))
          : Effect.sync(() => Channel.ok({ count: ++count })),
      handleInfo: () => Effect.die(new Error("boom in info")),
      terminate: () => room.push("bye", {})
    })
  })

  it.effect("ends only that channel: the client gets phx_error, everybody else keeps their state", () =>
    Effect.gen(function*() {
      const client = yield* ChannelTest.connect(counter.socket)
      const other = yield* ChannelTest.join(yield* ChannelTest.connect(counter.socket), Room, "room:1")
      const one = yield* ChannelTest.join(client, Room, "room:1")
      const two = yield* ChannelTest.join(client, Room, "room:2")
      for (const channel of [other, two]) yield* ChannelTest.push(channel, "count")
      yield* frames(other.socket)
      yield* frames(client)
      yield* ChannelTest.push(one, "die")
      yield* ChannelTest.settle
      assert.deepStrictEqual(
        client.received.splice(0).map((
          { event, joinRef, payload, ref, topic }
        ) => [joinRef, ref, topic, event, payload]),
        [
          ["1", null, "room:1", "bye", {}],
          ["1", "1", "room:1", "phx_error", { reason: "channel_crash" }]
        ]
      )
      for (const channel of [other, two]) {
        yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "count"), "ok", { count: 2 })
      }
      // It can be joined again, and starts afresh.
      const again = yield* ChannelTest.join(client, Room, "room:1")
      yield* ChannelTest.assertReply(yield* ChannelTest.push(again, "count"), "ok", { count: 1 })
    }).pipe(Effect.provide(counter.layer), Effect.provide(silent)))

  it.effect("is logged once, with label, topic, event and cause", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(counter.socket), Room, "room:1")
      const { ref } = yield* ChannelTest.push(channel, "die", { password: "secret" })
      yield* ChannelTest.assertPush(channel, "phx_error")
      assert.strictEqual(lines.length, 1)
      const [line] = lines
      assert.strictEqual(line?.level, "Error")
      assert.include(Cause.pretty(line?.cause ?? Cause.empty), "boom in room:1")
      assert.deepInclude(line?.annotations, { process: "channel room:1", topic: "room:1", event: "die", ref })
      assert.notInclude(JSON.stringify(line), "secret")
    }).pipe(Effect.provide(counter.layer), Effect.provide(layer))
  })

  it.effect("counts whether thrown, late, or in handleInfo", () =>
    Effect.gen(function*() {
      const client = yield* ChannelTest.connect(counter.socket)
      const thrown = yield* ChannelTest.join(client, Room, "room:1")
      yield* ChannelTest.push(thrown, "throw")
      yield* ChannelTest.assertPush(thrown, "phx_error")
      const late = yield* ChannelTest.join(client, Room, "room:2")
      yield* ChannelTest.push(late, "late")
      yield* ChannelTest.refutePush(late, "phx_error")
      yield* TestClock.adjust("1 second")
      yield* ChannelTest.assertPush(late, "phx_error")
      const info = yield* ChannelTest.join(client, Room, "room:3")
      yield* Process.send(info.pid, "x")
      yield* ChannelTest.assertPush(info, "phx_error")
    }).pipe(Effect.provide(counter.layer), Effect.provide(silent)))
})

// --- handleInfo, timers, subscriptions --------------------------------------------------------------------------------

describe("handleInfo", () => {
  it.effect("gets what is sent to the channel from inside and outside, in order, and by timers", () => {
    const { layer, socket } = untyped((room) =>
      Effect.succeed({
        handleIn: () =>
          Effect.gen(function*() {
            yield* room.sendAfter("b", "2 seconds")
            yield* room.sendAfter("a", "1 second")
            const cancelled = yield* room.sendAfter("c", "1 second")
            yield* Process.cancelTimer(cancelled)
            yield* room.send("now")
            yield* room.push("pushed", {})
          }),
        handleInfo: (message) => room.push("info", { message })
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* Process.send(channel.pid, "outside")
      yield* ChannelTest.push(channel, "start")
      assert.deepStrictEqual(yield* frames(channel.socket), [
        ["info", { message: "outside" }],
        ["pushed", {}],
        ["info", { message: "now" }]
      ])
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(yield* frames(channel.socket), [])
      yield* TestClock.adjust("1 milli")
      assert.deepStrictEqual(yield* frames(channel.socket), [["info", { message: "a" }]])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* frames(channel.socket), [["info", { message: "b" }]])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that is missing is only a warning", () => {
    const { layer: logs, lines } = capture()
    const { layer, socket } = untyped(() => Effect.succeed({}))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* Process.send(channel.pid, "secret")
      yield* ChannelTest.settle
      assert.isTrue(yield* Process.alive(channel.pid))
      assert.deepStrictEqual(lines.map(({ level }) => level), ["Warn"])
      assert.notInclude(JSON.stringify(lines), "secret")
    }).pipe(Effect.provide(layer), Effect.provide(logs))
  })

  it.effect("timers end with the channel", () => {
    const { layer, socket } = untyped((room) => Effect.as(room.sendAfter("x", "1 hour"), {}))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      assert.strictEqual((yield* Process.stats).timers, 1)
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.strictEqual((yield* Process.stats).timers, 0)
    }).pipe(Effect.provide(layer))
  })

  const subscriber = untyped((room) =>
    Effect.succeed({
      handleIn: (event, payload) => {
        const topic = String(payloadOf(payload)["topic"])
        return Effect.as(event === "subscribe" ? room.subscribe(topic) : room.unsubscribe(topic), Channel.ok())
      },
      handleInfo: (message) => room.push("info", message)
    })
  )

  it.effect("gets broadcasts of other topics the channel has subscribed to, until it unsubscribes", () =>
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(subscriber.socket), Room, "room:1")
      const say = (event: string, topic: string) =>
        Effect.flatMap(ChannelTest.push(channel, event, { topic }), (ref) => ChannelTest.assertReply(ref, "ok"))
      yield* say("subscribe", "news")
      yield* Endpoint.broadcast("news", "event", { n: 1 })
      const broadcast = { _tag: "Broadcast", topic: "news", event: "event", payload: { n: 1 } }
      assert.deepStrictEqual(yield* frames(channel.socket), [["info", broadcast]])
      yield* say("unsubscribe", "news")
      yield* Endpoint.broadcast("news", "event", { n: 2 })
      assert.deepStrictEqual(yield* frames(channel.socket), [])
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), ["room:1"])
    }).pipe(Effect.provide(subscriber.layer)))

  it.effect("gets broadcasts of the own topic too, once it is subscribed to a second time", () =>
    Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(subscriber.socket), Room, "room:1")
      const ref = yield* ChannelTest.push(channel, "subscribe", { topic: "room:1" })
      yield* ChannelTest.assertReply(ref, "ok")
      yield* Endpoint.broadcast("room:1", "event", { n: 1 })
      assert.deepStrictEqual(yield* frames(channel.socket), [
        ["event", { n: 1 }],
        ["info", { _tag: "Broadcast", topic: "room:1", event: "event", payload: { n: 1 } }]
      ])
      yield* Endpoint.broadcastFrom(channel.pid, "room:1", "event", { n: 2 })
      assert.deepStrictEqual(yield* frames(channel.socket), [])
    }).pipe(Effect.provide(subscriber.layer)))
})

// --- broadcasts, handleOut --------------------------------------------------------------------------------------------

describe("broadcasts", () => {
  const Talk = Channel.make("talk:*", { intercept: ["masked", "never"] })
  const talk = node(
    [Talk],
    Talk.toLayer(Effect.succeed((room, payload) =>
      Effect.succeed({
        handleIn: (event: string, payload: unknown) =>
          Effect.as(
            event === "from" ? room.broadcastFrom("said", payload) : room.broadcast(event, payload),
            Channel.ok()
          ),
        handleOut: {
          masked: (out: unknown) =>
            payloadOf(out)["to"] === payload ? room.push("masked", { ...payloadOf(out), for: payload }) : Effect.void,
          never: () => Effect.die("asked for a crash")
        }
      })
    ))
  )
  const members = (...names: ReadonlyArray<string>) =>
    Effect.forEach(
      names,
      (name) =>
        Effect.flatMap(ChannelTest.connect(talk.socket), (client) => ChannelTest.join(client, Talk, "talk:1", name))
    )

  it.effect("reach all members, the sender too, with null refs; broadcastFrom leaves the sender out", () =>
    Effect.gen(function*() {
      const [a, b] = yield* members("a", "b")
      assert(a !== undefined && b !== undefined)
      yield* ChannelTest.push(a, "said", { n: 1 })
      yield* ChannelTest.settle
      const frame = { joinRef: null, ref: null, topic: "talk:1", event: "said", payload: { n: 1 } }
      assert.deepStrictEqual(a.socket.received.splice(0)[0], frame)
      assert.deepStrictEqual(b.socket.received.splice(0), [frame])
      yield* ChannelTest.push(a, "from", { n: 2 })
      yield* ChannelTest.assertPush(b, "said", { n: 2 })
      yield* ChannelTest.refutePush(a, "said")
    }).pipe(Effect.provide(talk.layer)))

  it.effect("of its own come before its reply; an intercepted one comes after it", () =>
    Effect.gen(function*() {
      const [a] = yield* members("a")
      assert(a !== undefined)
      yield* ChannelTest.push(a, "said", { n: 1 })
      assert.deepStrictEqual((yield* frames(a.socket)).map(([event]) => event), ["said", "phx_reply"])
      yield* ChannelTest.push(a, "masked", { to: "a" })
      assert.deepStrictEqual(yield* frames(a.socket), [
        ["phx_reply", { status: "ok", response: {} }],
        ["masked", { to: "a", for: "a" }]
      ])
    }).pipe(Effect.provide(talk.layer)))

  it.effect("that are intercepted reach only those whose handleOut pushes them", () =>
    Effect.gen(function*() {
      const [a, b] = yield* members("a", "b")
      assert(a !== undefined && b !== undefined)
      yield* Endpoint.broadcast("talk:1", "masked", { to: "b" })
      assert.deepStrictEqual(yield* frames(a.socket), [])
      assert.deepStrictEqual(yield* frames(b.socket), [["masked", { to: "b", for: "b" }]])
    }).pipe(Effect.provide(talk.layer)))

  it.effect("that handleOut crashes on end each channel that intercepts them", () =>
    Effect.gen(function*() {
      const [a] = yield* members("a")
      assert(a !== undefined)
      yield* Endpoint.broadcast("talk:1", "never", {})
      assert.deepStrictEqual(yield* frames(a.socket), [["phx_error", { reason: "channel_crash" }]])
    }).pipe(Effect.provide(talk.layer), Effect.provide(silent)))

  it.effect("that are intercepted by a contract come decoded to handleOut", () => {
    const Timed = Channel.make("timed", { outgoing: { tick: Schema.Struct({ at: Schema.Date }) }, intercept: ["tick"] })
    const { layer, socket } = node(
      [Timed],
      Timed.layer((room) =>
        Effect.succeed({
          handleOut: { tick: ({ at }) => room.push("tick", { at: new Date(at.getTime() + 1) }) }
        })
      )
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Timed, "timed")
      yield* Timed.broadcast("timed", "tick", { at: new Date(0) })
      yield* ChannelTest.assertPush(channel, "tick", { at: "1970-01-01T00:00:00.001Z" })
    }).pipe(Effect.provide(layer))
  })

  it.effect("come from anywhere, by Endpoint and by the channel, and not to other topics", () =>
    Effect.gen(function*() {
      const [a] = yield* members("a")
      assert(a !== undefined)
      yield* Endpoint.broadcast("talk:1", "e", { n: 1 })
      yield* Endpoint.broadcast("talk:10", "e", { n: 0 })
      yield* Endpoint.localBroadcast("talk:1", "e", { n: 2 })
      yield* Endpoint.broadcastFrom(a.pid, "talk:1", "e", { n: 0 })
      yield* Endpoint.localBroadcastFrom(a.pid, "talk:1", "e", { n: 0 })
      yield* Talk.broadcast("talk:1", "e", { n: 3 })
      yield* Talk.broadcastFrom(a.pid, "talk:1", "e", { n: 0 })
      assert.deepStrictEqual(yield* frames(a.socket), [["e", { n: 1 }], ["e", { n: 2 }], ["e", { n: 3 }]])
    }).pipe(Effect.provide(talk.layer)))

  it.effect("that are unencodable die in the broadcaster, if anybody would get them", () =>
    Effect.gen(function*() {
      yield* Endpoint.broadcast("talk:1", "e", 1n)
      const [a] = yield* members("a")
      assert(a !== undefined)
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Endpoint.broadcast("talk:1", "e", 1n))))
      assert.isTrue(yield* Process.alive(a.pid))
    }).pipe(Effect.provide(talk.layer)))

  it.effect("do not wake the channel's process", () =>
    Effect.gen(function*() {
      const [a] = yield* members("a")
      assert(a !== undefined)
      const { messageCount } = yield* Process.info(a.pid)
      yield* Endpoint.broadcast("talk:1", "e", {})
      yield* ChannelTest.assertPush(a, "e")
      assert.strictEqual((yield* Process.info(a.pid)).messageCount, messageCount)
    }).pipe(Effect.provide(talk.layer)))
})

// --- replies ----------------------------------------------------------------------------------------------------------

describe("ref and reply", () => {
  it.effect("a ref answers from any fiber, any number of times, also when the channel has ended", () => {
    let ref: Channel.SocketRef | undefined
    const { layer, socket } = untyped((room) =>
      Effect.succeed({
        handleIn: () =>
          Effect.gen(function*() {
            ref = yield* room.ref
            yield* Effect.forkDetach(Effect.andThen(Effect.sleep("1 second"), Channel.reply(ref, "ok", { late: true })))
            return Channel.noReply
          })
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      const pushed = yield* ChannelTest.push(channel, "x")
      yield* ChannelTest.refuteReply(pushed, "ok")
      yield* TestClock.adjust("1 second")
      yield* ChannelTest.assertReply(pushed, "ok", { late: true })
      assert(ref !== undefined)
      yield* Channel.reply(ref, "again")
      assert.deepStrictEqual(yield* ChannelTest.assertReply(pushed, "again"), {})
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.assertPush(channel, "phx_close")
      yield* Channel.reply(ref, "ok", new Uint8Array([1]))
      yield* ChannelTest.assertReply(pushed, "ok", new Uint8Array([1]))
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Channel.reply(ref, "ok", 1n))))
      yield* ChannelTest.drop(channel.socket)
      yield* Channel.reply(ref, "ok", { nobody: "listens" })
    }).pipe(Effect.provide(layer))
  })

  it.effect("two refs answer out of order", () => {
    const refs: Array<Channel.SocketRef> = []
    const { layer, socket } = untyped((room) =>
      Effect.succeed({ handleIn: () => Effect.map(room.ref, (ref) => void refs.push(ref)) })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      const pushed = [yield* ChannelTest.push(channel, "x"), yield* ChannelTest.push(channel, "x")] as const
      yield* ChannelTest.settle
      const [first, second] = refs
      assert(first !== undefined && second !== undefined)
      yield* Channel.reply(second, "ok", { n: 2 })
      yield* Channel.reply(first, "ok", { n: 1 })
      yield* ChannelTest.assertReply(pushed[0], "ok", { n: 1 })
      yield* ChannelTest.assertReply(pushed[1], "ok", { n: 2 })
    }).pipe(Effect.provide(layer))
  })

  it.effect("there is no ref outside of handleIn, nor for a message without one", () => {
    const errors: Array<unknown> = []
    const { layer, socket } = untyped((room) => {
      const attempt = Effect.exit(room.ref).pipe(
        Effect.map((exit) => void errors.push(exit._tag === "Failure" ? Cause.squash(exit.cause) : "a ref"))
      )
      return Effect.succeed({ handleIn: () => attempt, handleInfo: () => attempt, terminate: () => attempt })
    })
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* Process.send(channel.pid, "x")
      channel.socket.server.receive(JSON.stringify(["1", null, "room:1", "x", {}]))
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.deepStrictEqual(
        errors.map((error) => error instanceof Channel.ChannelError ? error.code : error),
        ["NO_REF", "NO_REF", "NO_REF"]
      )
    }).pipe(Effect.provide(layer))
  })

  it.effect("a message without a ref may still be answered by its handler, with ref null", () => {
    const { layer, socket } = untyped(() => Effect.succeed({ handleIn: () => Effect.succeed(Channel.ok({ a: 1 })) }))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      channel.socket.server.receive(JSON.stringify(["1", null, "room:1", "x", {}]))
      yield* ChannelTest.settle
      assert.deepStrictEqual(channel.socket.received, [{
        joinRef: "1",
        ref: null,
        topic: "room:1",
        event: "phx_reply",
        payload: { status: "ok", response: { a: 1 } }
      }])
    }).pipe(Effect.provide(layer))
  })
})

// --- endings ----------------------------------------------------------------------------------------------------------

const reasons: Record<string, Process.ExitReason> = {
  normal: Process.normal,
  shutdown: Process.shutdown(),
  "shutdown with detail": Process.shutdown("idle"),
  crash: Process.crash(Cause.die(new Error("asked for it")))
}

describe("endings", () => {
  const ended: Array<Process.ExitReason> = []
  const log: Array<string> = []
  const finite = untyped((room) =>
    Effect.gen(function*() {
      yield* Effect.addFinalizer(() => Effect.sync(() => void log.push("finalizer")))
      return {
        handleIn: (event: string) => {
          const reason = reasons[event]
          if (event === "many") {
            return Effect.andThen(room.stop(Process.crash(Cause.die("first"))), room.stop(Process.normal))
          }
          if (event === "stop and die") return Effect.andThen(room.stop(), Effect.die("boom"))
          if (event === "slow") return Effect.sleep("1 minute")
          return Effect.as(room.stop(reason), Channel.ok({ last: true }))
        },
        terminate: (reason: Process.ExitReason) =>
          Effect.andThen(
            Effect.sync(() => {
              log.push("terminate")
              ended.push(reason)
            }),
            room.push("from terminate", {})
          )
      }
    })
  )
  const joined = Effect.gen(function*() {
    ended.length = 0
    log.length = 0
    return yield* ChannelTest.join(yield* ChannelTest.connect(finite.socket), Room, "room:1")
  })
  const settled = (channel: ChannelTest.TestChannel) =>
    Effect.gen(function*() {
      const got = yield* frames(channel.socket)
      assert.isFalse(yield* Process.alive(channel.pid))
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
      return got.map(([event]) => event)
    })

  for (const name of ["normal", "shutdown", "shutdown with detail"]) {
    it.effect(`stop with ${name} replies, closes, then terminates`, () =>
      Effect.gen(function*() {
        const channel = yield* joined
        yield* ChannelTest.push(channel, name)
        assert.deepStrictEqual(yield* settled(channel), ["phx_reply", "phx_close", "from terminate"])
        assert.deepStrictEqual(ended, [reasons[name]])
        assert.deepStrictEqual(log, ["terminate", "finalizer"])
      }).pipe(Effect.provide(finite.layer)))
  }

  it.effect("stop with a crash replies, terminates, then errs, and is logged once", () => {
    const { layer, lines } = capture()
    return Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "crash")
      assert.deepStrictEqual(yield* settled(channel), ["phx_reply", "from terminate", "phx_error"])
      assert.deepStrictEqual(ended, [reasons["crash"]])
      assert.strictEqual(lines.length, 1)
      assert.strictEqual(lines[0]?.level, "Error")
      assert.deepInclude(lines[0]?.annotations, { process: "channel room:1", topic: "room:1", event: "crash" })
      assert.include(Cause.pretty(lines[0]?.cause ?? Cause.empty), "asked for it")
    }).pipe(Effect.provide(finite.layer), Effect.provide(layer))
  })

  it.effect("of several stops the first counts, and what the client is told agrees with it", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "many")
      assert.deepStrictEqual(yield* settled(channel), ["from terminate", "phx_error"])
      assert.strictEqual(ended[0]?._tag, "Crash")
    }).pipe(Effect.provide(finite.layer), Effect.provide(silent)))

  it.effect("a defect after a stop is a crash", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "stop and die")
      assert.deepStrictEqual(yield* settled(channel), ["from terminate", "phx_error"])
      assert.strictEqual(ended[0]?._tag, "Crash")
    }).pipe(Effect.provide(finite.layer), Effect.provide(silent)))

  it.effect("leave replies, closes with the join_ref, and terminates with Shutdown left", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      const { ref } = yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.deepStrictEqual(
        channel.socket.received.map(({ event, joinRef, payload, ref }) => [joinRef, ref, event, payload]),
        [
          ["1", ref, "phx_reply", { status: "ok", response: {} }],
          ["1", "1", "phx_close", {}],
          ["1", null, "from terminate", {}]
        ]
      )
      assert.deepStrictEqual(ended, [Process.shutdown("left")])
      yield* settled(channel)
    }).pipe(Effect.provide(finite.layer)))

  it.effect("what is sent after leave is not handled and not answered", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.push(channel, "normal")
      yield* ChannelTest.leave(channel)
      assert.deepStrictEqual(yield* settled(channel), ["phx_reply", "phx_close", "from terminate"])
      const ref = yield* ChannelTest.push(channel, "normal")
      yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched topic" })
    }).pipe(Effect.provide(finite.layer)))

  it.effect("an exit from outside terminates with its reason, and errs", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.push(channel, "slow")
      yield* ChannelTest.settle
      yield* Process.exit(channel.pid, Process.shutdown("out"))
      assert.deepStrictEqual(yield* settled(channel), ["from terminate", "phx_error"])
      assert.deepStrictEqual(ended, [Process.shutdown("out")])
    }).pipe(Effect.provide(finite.layer)))

  it.effect("a kill does not terminate, and errs", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* Process.exit(channel.pid, Process.killed)
      assert.deepStrictEqual(yield* settled(channel), ["phx_error"])
      assert.deepStrictEqual(log, [])
    }).pipe(Effect.provide(finite.layer)))

  it.effect("the end of its connection terminates without another frame to the channel", () =>
    Effect.gen(function*() {
      const channel = yield* joined
      yield* ChannelTest.drop(channel.socket)
      assert.deepStrictEqual(yield* settled(channel), [])
      assert.deepStrictEqual(ended, [Process.shutdown("peer_closed")])
    }).pipe(Effect.provide(finite.layer)))

  it.effect("stop from a fiber of the channel ends it at once when it is idle", () => {
    let stop: Effect.Effect<void> = Effect.void
    const { layer, socket } = untyped((room) => {
      stop = room.stop(Process.shutdown("done"))
      return Effect.succeed({})
    })
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* stop
      assert.deepStrictEqual(yield* frames(channel.socket), [["phx_close", {}]])
      assert.deepStrictEqual(yield* Process.awaitExit(channel.pid), Process.shutdown("done"))
    }).pipe(Effect.provide(layer))
  })

  it.effect("terminate that takes longer than the shutdown time is cut off", () => {
    const { layer, socket } = node(
      [Room],
      Room.toLayer(Effect.succeed(() => Effect.succeed({ terminate: () => Effect.never })), { shutdown: "2 seconds" })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      const exit = yield* Effect.forkChild(Process.awaitExit(channel.pid), { startImmediately: true })
      yield* ChannelTest.leave(channel)
      yield* TestClock.adjust("1999 millis")
      assert.isUndefined(exit.pollUnsafe())
      yield* TestClock.adjust("1 milli")
      assert.deepStrictEqual(yield* Fiber.join(exit), Process.killed)
      assert.deepStrictEqual((yield* frames(channel.socket)).map(([event]) => event), ["phx_reply", "phx_close"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("what handlers acquire in the channel's scope is released when it ends", () => {
    const open = new Set<string>()
    const { layer, socket } = untyped((room) =>
      Effect.as(
        Effect.acquireRelease(
          Effect.sync(() => open.add(room.topic)),
          () => Effect.sync(() => open.delete(room.topic))
        ),
        {}
      )
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const channel = yield* ChannelTest.join(client, Room, "room:1")
      yield* ChannelTest.join(client, Room, "room:2")
      assert.deepStrictEqual([...open], ["room:1", "room:2"])
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.deepStrictEqual([...open], ["room:2"])
      yield* ChannelTest.drop(client)
      assert.strictEqual(open.size, 0)
    }).pipe(Effect.provide(layer))
  })
})

describe("nobody harms the others", () => {
  it.effect("an untyped failure that is an Error is a crash, and its fields stay here", () => {
    const { layer: logged, lines } = capture()
    class Secret extends Schema.TaggedError<Secret>()("Secret", { password: Schema.String }) {}
    const { layer, socket } = untyped((_, payload) =>
      payload === "join"
        ? Effect.fail(new Secret({ password: "hunter2" }))
        : Effect.succeed({ handleIn: () => Effect.fail(new Secret({ password: "hunter2" })) })
    )
    return Effect.gen(function*() {
      const client = yield* ChannelTest.connect(socket)
      const refused = yield* Effect.flip(ChannelTest.join(client, Room, "room:1", "join"))
      assert.deepStrictEqual(refused.response, { reason: "join crashed" })
      const channel = yield* ChannelTest.join(client, Room, "room:2")
      yield* ChannelTest.push(channel, "query")
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* frames(client), [["phx_error", { reason: "channel_crash" }]])
      assert.strictEqual(lines.length, 2)
    }).pipe(Effect.provide(layer), Effect.provide(logged))
  })

  it.effect("events of the protocol cannot be passed on to others", () => {
    const { layer, socket } = untyped((room) =>
      Effect.succeed({ handleIn: (event, payload) => room.broadcast(event, payload) })
    )
    return Effect.gen(function*() {
      const other = yield* ChannelTest.connect(socket)
      yield* ChannelTest.join(other, Room, "room:1")
      for (const event of ["phx_close", "phx_error", "phx_reply"]) {
        const client = yield* ChannelTest.connect(socket)
        const channel = yield* ChannelTest.join(client, Room, "room:1")
        yield* ChannelTest.push(channel, event, {})
        assert.deepStrictEqual(yield* frames(client), [["phx_error", { reason: "channel_crash" }]])
      }
      assert.deepStrictEqual(yield* frames(other), [])
    }).pipe(Effect.provide(layer), Effect.provide(silent))
  })

  it.effect("a handler that does not return is cut off when its client has been gone for the shutdown time", () => {
    const reasons: Array<Process.ExitReason> = []
    const { layer, socket } = untyped(() =>
      Effect.succeed({
        handleIn: () => Effect.never,
        terminate: (reason) => Effect.sync(() => void reasons.push(reason))
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Room, "room:1")
      yield* ChannelTest.push(channel, "hang")
      yield* ChannelTest.settle
      yield* ChannelTest.drop(channel.socket)
      yield* TestClock.adjust("4999 millis")
      assert.isTrue(channel.pid.alive)
      yield* TestClock.adjust("1 milli")
      yield* ChannelTest.settle
      assert.isFalse(channel.pid.alive)
      assert.deepStrictEqual(reasons, [Process.shutdown("peer_closed")])
      assert.strictEqual((yield* Process.stats).timers, 0)
    }).pipe(Effect.provide(layer))
  })

  it.effect("two channels with the same topic, on two sockets, are two", () => {
    const serve = (name: string) => {
      const channel = Channel.make("room:*")
      const socket = Socket.make(name, { channels: [channel] })
      const live = Layer.mergeAll(
        channel.layer(() => Effect.succeed({ reply: { name } })),
        socket.layer(() => Effect.succeed(Socket.accept()))
      )
      return { channel, socket, live }
    }
    const user = serve("user")
    const admin = serve("admin")
    return Effect.gen(function*() {
      for (const { channel, socket } of [user, admin]) {
        const joined = yield* ChannelTest.join(yield* ChannelTest.connect(socket), channel, "room:1")
        assert.deepStrictEqual(joined.reply, { name: socket.name })
      }
      const third = serve("third")
      const missing = yield* Effect.exit(ChannelTest.connect(third.socket))
      assert(missing._tag === "Failure")
    }).pipe(Effect.provide(Layer.mergeAll(user.live, admin.live).pipe(Layer.provideMerge(ChannelTest.layer))))
  })
})

describe("make", () => {
  it("refuses outgoing events of the protocol, and intercepted ones that are not outgoing", () => {
    assert.throws(() => Channel.make("room", { outgoing: { phx_close: Schema.Void } }), RangeError)
    assert.throws(() => Channel.make("room", { outgoing: { said: Schema.Void }, intercept: ["siad"] }), RangeError)
    assert.strictEqual(Channel.make("room", { intercept: ["any"] }).topic, "room")
  })

  it.effect("its broadcast refuses a topic that the channel does not serve", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Room.broadcast("1", "said", {}))
      assert(exit._tag === "Failure")
      const defect = Cause.squash(exit.cause)
      assert(defect instanceof Channel.ChannelError)
      assert.strictEqual(defect.code, "WRONG_TOPIC")
    }).pipe(Effect.provide(ChannelTest.layer)))

  it("refuses a topic with a star that is not at its end", () => {
    for (const topic of ["*room", "room:*:x", "**", "a*b"]) assert.throws(() => Channel.make(topic), RangeError, topic)
    for (const topic of ["*", "room:*", "room*", "room", ""]) assert.strictEqual(Channel.make(topic).topic, topic)
  })
})
