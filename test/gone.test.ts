/** Clients that are gone before the server is done with them. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

const interrupted: Array<string> = []

/** A join with `forever` never ends, a channel with `slow` ends slowly. */
const Room = Channel.make("room:*")
const RoomLive = Room.layer(Effect.fnUntraced(function*(room, payload) {
  if (payload === "forever") {
    yield* Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted.push(room.topic)))
  }
  return { terminate: () => payload === "slow" ? Effect.sleep("2 seconds") : Effect.void }
}))
const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

const lines: Array<string> = []
const logger = Logger.layer([Logger.make(({ logLevel, message }) => void lines.push(`${logLevel} ${String(message)}`))])
const live = Layer.mergeAll(RoomLive, UserSocketLive).pipe(Layer.provideMerge(PubSub.layer), Layer.provide(logger))

const open = Effect.fnUntraced(function*(id?: string) {
  interrupted.length = 0
  lines.length = 0
  const acceptor = yield* Socket.acceptor(UserSocket)
  const codes: Array<number> = []
  const transport = { name: "test", send: () => {}, close: (code: number) => void codes.push(code) }
  const server = acceptor.open(transport, Serializer.v2, { id, assigns: Context.empty() })
  const join = (ref: string, topic: string, payload: string) =>
    server.receive(JSON.stringify([ref, ref, topic, "phx_join", payload]))
  const channels = () => acceptor.runtime.channelGroup.children.size
  return { acceptor, server, codes, join, channels }
})

const gone = Process.shutdown("peer_closed")

describe("a join that nobody waits for any more is interrupted", () => {
  it.effect("or not even begun when the client goes while the channel before it still terminates", () =>
    Effect.gen(function*() {
      const { channels, join, server } = yield* open()
      join("1", "room:1", "slow")
      yield* TestClock.adjust(0)
      join("2", "room:1", "forever")
      yield* TestClock.adjust("1 second")
      server.closed(gone)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([interrupted, server.pid.alive, channels()], [[], false, 0])
    }).pipe(Effect.provide(live)))

  it.effect("when the client goes right after it", () =>
    Effect.gen(function*() {
      const { channels, join, server } = yield* open()
      join("1", "room:1", "forever")
      server.closed(gone)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([interrupted, server.pid.alive, channels()], [["room:1"], false, 0])
    }).pipe(Effect.provide(live)))
})

describe("a connection whose id cannot be subscribed to", () => {
  const withSubscribe = (subscribe: Effect.Effect<never>) =>
    Effect.provideServiceEffect(
      PubSub.PubSub,
      Effect.map(PubSub.PubSub, (pubsub) => ({ ...pubsub, subscribeUnsafe: () => subscribe }))
    )

  it.effect("is closed with 1011 and logged", () =>
    Effect.gen(function*() {
      const { codes } = yield* open("user:1")
      yield* TestClock.adjust(0)
      assert.deepStrictEqual([codes, lines], [[1011], ["Error process crashed"]])
    }).pipe(
      withSubscribe(Effect.andThen(Effect.yieldNow, Effect.die(new Error("broken")))),
      Effect.provide([live, logger])
    ))

  it.effect("yet ends when its client goes, and with 1012 when the server stops", () =>
    Effect.gen(function*() {
      const { acceptor, codes, server } = yield* open("user:1")
      server.closed(gone)
      yield* TestClock.adjust(0)
      assert.isFalse(server.pid.alive)
      const waiting: Array<number> = []
      const transport = { name: "test", send: () => {}, close: (code: number) => void waiting.push(code) }
      acceptor.open(transport, Serializer.v2, { id: "user:2", assigns: Context.empty() })
      yield* acceptor.drain
      assert.deepStrictEqual([codes.length, waiting, lines], [1, [1012], []])
    }).pipe(withSubscribe(Effect.never), Effect.provide(live)))
})
