import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../../src/Channel.ts"
import * as ChannelTest from "../../src/ChannelTest.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Presence from "../../src/Presence.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Serializer from "../../src/Serializer.ts"
import * as Socket from "../../src/Socket.ts"
import * as Tracker from "../../src/Tracker.ts"

const quiet = Logger.layer([])

const labelled = (label: string) =>
  Effect.map(Process.list, (pids) => {
    const pid = pids.find((pid) => pid.label === label)
    if (pid === undefined) throw new Error(`there is no ${label} among ${pids.map(({ label }) => label).join(", ")}`)
    return pid
  })

const kill = Effect.fnUntraced(function*(label: string) {
  yield* Process.exit(yield* labelled(label), Process.killed)
  yield* ChannelTest.settle
})

describe("the processes of a mount", () => {
  const Room = Channel.make("room:*")
  const UserSocket = Socket.make("user_socket", { channels: [Room] })
  const live = Layer.mergeAll(Room.layer(() => Effect.void), UserSocket.layer(() => Effect.succeed(Socket.accept())))

  for (const label of ["user_socket sockets", "user_socket channels"]) {
    it.effect(`work again when ${label} is killed, without those that it had`, () =>
      Effect.gen(function*() {
        const acceptor = yield* Socket.acceptor(UserSocket)
        const codes: Array<number> = []
        const connect = Effect.fnUntraced(function*() {
          const transport = { name: "test", send: () => {}, close: (code: number) => void codes.push(code) }
          const client = { id: undefined, assigns: Context.empty() }
          acceptor.open(transport, Serializer.v2, client).receive(JSON.stringify(["1", "1", "room:1", "phx_join", {}]))
          yield* ChannelTest.settle
        })
        const here = Effect.gen(function*() {
          const sockets = yield* Endpoint.sockets
          const channels = yield* Effect.forEach(sockets, ({ pid }) => Endpoint.channels(pid))
          return [sockets.length, channels.flat().length, (yield* Process.list).length]
        })
        yield* connect()
        assert.deepStrictEqual(yield* here, [1, 1, 4])
        yield* kill(label)
        const connectionsLeft = label === "user_socket sockets" ? 0 : 1
        assert.deepStrictEqual(yield* here, [connectionsLeft, 0, 2 + connectionsLeft])
        assert.deepStrictEqual(codes, connectionsLeft === 0 ? [1012] : [])
        yield* connect()
        assert.deepStrictEqual(yield* here, [1 + connectionsLeft, 1, 4 + connectionsLeft])
        yield* acceptor.drain
        assert.deepStrictEqual(yield* here, [0, 0, 2])
      }).pipe(Effect.scoped, Effect.provide([live.pipe(Layer.provideMerge(ChannelTest.layer)), quiet])))
  }
})

describe("the processes of a tracker", () => {
  const tracked = Effect.gen(function*() {
    const tracker = yield* Tracker.make("jobs", () => Effect.void)
    const worker = Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
    return { tracker, worker }
  })

  it.effect("are started again when their supervisor is killed, and who was present is told by its end", () =>
    Effect.gen(function*() {
      const { tracker, worker } = yield* tracked
      const before = yield* worker
      yield* tracker.track(before, "topic", "key", {})
      yield* kill("tracker jobs")
      yield* TestClock.adjust(0)
      assert.isFalse(before.alive)
      const after = yield* worker
      yield* tracker.track(after, "topic", "key", {})
      assert.strictEqual(tracker.list("topic").get("key")?.length, 1)
    }).pipe(Effect.scoped, Effect.provide([ChannelTest.layer, quiet])))

  it.effect("are started again a second after their supervisor has given up", () =>
    Effect.gen(function*() {
      const { tracker, worker } = yield* tracked
      for (let times = 0; times < 4; times++) yield* kill("jobs shard 0")
      assert.deepStrictEqual(yield* Process.list, [])
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(yield* Process.list, [])
      yield* TestClock.adjust("1 milli")
      yield* tracker.track(yield* worker, "topic", "key", {})
      assert.strictEqual(tracker.list("topic").size, 1)
    }).pipe(Effect.scoped, Effect.provide([ChannelTest.layer, quiet])))

  it.effect("are not started again once the tracker is over, and nothing of them is left", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        yield* tracked
        for (let times = 0; times < 4; times++) yield* kill("jobs shard 0")
      }))
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* Process.stats, { processes: 0, timers: 0 })
    }).pipe(Effect.provide([ChannelTest.layer, quiet])))
})

describe("the process that tells of presences", () => {
  const Online = Presence.make("online")

  it.effect("is started again when its supervisor is killed", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const told: Array<unknown> = []
      const pid = yield* Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
      yield* pubsub.subscribe("topic", { pid, deliver: (message) => void told.push(message) })
      yield* kill("presence online")
      yield* TestClock.adjust(0)
      yield* Online.track({ pid, topic: "topic" }, "ada", {})
      yield* ChannelTest.settle
      assert.strictEqual(told.length, 1)
    }).pipe(Effect.provide([Online.layer().pipe(Layer.provideMerge(ChannelTest.layer)), quiet])))
})
