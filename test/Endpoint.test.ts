import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Message from "../src/Message.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"

let gate = Deferred.makeUnsafe<void>()

const Room = Channel.make("room:*")
const RoomLive = Room.layer((_, payload) =>
  Effect.as(payload === "wait" ? Deferred.await(gate) : Effect.void, {
    terminate: () => payload === "slow" ? Deferred.await(gate) : Effect.void
  })
)
const Lobby = Channel.make("lobby")
const LobbyLive = Lobby.layer(() => Effect.succeed({}))

const UserSocket = Socket.make("user_socket", { channels: [Room, Lobby] })
const AdminSocket = Socket.make("admin_socket", { channels: [Lobby] })

const live = Layer.mergeAll(
  RoomLive,
  LobbyLive,
  UserSocket.layer(() => Effect.succeed(Socket.accept())),
  AdminSocket.layer(() => Effect.succeed(Socket.accept()))
).pipe(Layer.provideMerge(PubSub.layer))

/** Connects a client without a wire. */
const open = (
  acceptor: Socket.Acceptor,
  options: {
    readonly id?: string
    readonly transport?: string
    readonly serializer?: Serializer.Serializer
  } = {}
) => {
  gate = Deferred.makeUnsafe<void>()
  const transport = { name: options.transport ?? "websocket", send: () => {}, close: () => {} }
  const server = acceptor.open(transport, options.serializer ?? Serializer.v2, {
    id: options.id,
    assigns: Context.empty()
  })
  const send = (...frame: ReadonlyArray<unknown>) =>
    Effect.andThen(Effect.sync(() => server.receive(JSON.stringify(frame))), settle)
  return {
    pid: server.pid,
    join: (topic: string, payload: unknown = {}) => send("1", "1", topic, "phx_join", payload),
    leave: (topic: string) => send("1", "2", topic, "phx_leave", {})
  }
}

const settle = TestClock.adjust(0)

/** The channels of a connection in words. */
const overview = (pid: Process.Pid) =>
  Effect.map(
    Endpoint.channels(pid),
    (channels) => channels.map(({ channel, status, topic }) => `${topic} (${channel}) ${status}`)
  )

const only = <A>(all: ReadonlyArray<A>): A => {
  const [one, ...more] = all
  assert.isDefined(one)
  assert.deepStrictEqual(more, [])
  return one
}

describe("sockets", () => {
  it.effect("lists the connections of all sockets of the node, with what is known of each", () =>
    Effect.gen(function*() {
      const [users, admins] = [yield* Socket.acceptor(UserSocket), yield* Socket.acceptor(AdminSocket)]
      assert.deepStrictEqual(yield* Endpoint.sockets, [])
      const a = open(users, { id: "user:1" })
      const b = open(users, { transport: "longpoll", serializer: Serializer.v1 })
      const c = open(admins, { id: "user:1" })
      yield* settle
      assert.deepStrictEqual(yield* Endpoint.sockets, [
        { pid: a.pid, socket: "user_socket", id: "user:1", transport: "websocket", serializer: "V2" },
        { pid: b.pid, socket: "user_socket", id: undefined, transport: "longpoll", serializer: "V1" },
        { pid: c.pid, socket: "admin_socket", id: "user:1", transport: "websocket", serializer: "V2" }
      ])
    }).pipe(Effect.provide(live)))

  it.effect("lists no other processes, and no connection that has ended", () =>
    Effect.gen(function*() {
      const users = yield* Socket.acceptor(UserSocket)
      const [a, b] = [open(users), open(users)]
      yield* a.join("lobby")
      yield* b.join("lobby")
      yield* Process.exit(a.pid, Process.killed)
      yield* settle
      assert.deepStrictEqual((yield* Endpoint.sockets).map(({ pid }) => pid), [b.pid])
      yield* users.drain
      assert.deepStrictEqual(yield* Endpoint.sockets, [])
    }).pipe(Effect.provide(live)))
})

describe("channels", () => {
  it.effect("lists the channels of one connection, with the pattern that serves the topic", () =>
    Effect.gen(function*() {
      const users = yield* Socket.acceptor(UserSocket)
      const [a, b] = [open(users), open(users)]
      assert.deepStrictEqual(yield* overview(a.pid), [])
      yield* a.join("room:1")
      yield* a.join("lobby")
      yield* b.join("room:2")
      assert.deepStrictEqual(yield* overview(a.pid), ["room:1 (room:*) joined", "lobby (lobby) joined"])
      assert.deepStrictEqual(yield* overview(b.pid), ["room:2 (room:*) joined"])
      yield* a.leave("room:1")
      assert.deepStrictEqual(yield* overview(a.pid), ["lobby (lobby) joined"])
    }).pipe(Effect.provide(live)))

  it.effect("a channel is joining until its join is done, and is listed last", () =>
    Effect.gen(function*() {
      const { join, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("lobby")
      yield* join("room:1", "wait")
      assert.deepStrictEqual(yield* overview(pid), ["lobby (lobby) joined", "room:1 (room:*) joining"])
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(yield* overview(pid), ["lobby (lobby) joined", "room:1 (room:*) joined"])
    }).pipe(Effect.provide(live)))

  it.effect("a channel that was told to end is leaving until it has", () =>
    Effect.gen(function*() {
      const { join, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("room:1", "slow")
      const channel = only(yield* Endpoint.channels(pid))
      yield* Process.exit(channel.pid, Process.shutdown())
      yield* settle
      assert.deepStrictEqual(yield* overview(pid), ["room:1 (room:*) leaving"])
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(yield* overview(pid), [])
    }).pipe(Effect.provide(live)))

  it.effect("there are none of a connection that has ended, also while it was joining, nor of another process", () =>
    Effect.gen(function*() {
      const { join, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("lobby")
      const channel = only(yield* Endpoint.channels(pid))
      assert.deepStrictEqual(yield* Endpoint.channels(channel.pid), [])
      yield* join("room:1", "wait")
      yield* Process.exit(pid, Process.shutdown())
      yield* settle
      assert.deepStrictEqual(yield* Endpoint.channels(pid), [])
    }).pipe(Effect.provide(live)))

  it.effect("their pids are those of the processes", () =>
    Effect.gen(function*() {
      const { join, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("lobby")
      const channel = only(yield* Endpoint.channels(pid))
      assert.isTrue(yield* Process.alive(channel.pid))
      yield* Process.exit(channel.pid, Process.killed)
      yield* settle
      assert.deepStrictEqual(yield* Endpoint.channels(pid), [])
    }).pipe(Effect.provide(live)))
})

describe("socketOf", () => {
  it.effect("finds the connection of a channel, among those of all sockets", () =>
    Effect.gen(function*() {
      const [users, admins] = [yield* Socket.acceptor(UserSocket), yield* Socket.acceptor(AdminSocket)]
      const clients = [open(users, { id: "a" }), open(users, { id: "b" }), open(admins)]
      yield* Effect.forEach(clients, ({ join }) => join("lobby"))
      const sockets = yield* Endpoint.sockets
      for (const [index, { pid }] of clients.entries()) {
        const channel = only(yield* Endpoint.channels(pid))
        assert.deepStrictEqual(yield* Endpoint.socketOf(channel.pid), sockets[index])
      }
    }).pipe(Effect.provide(live)))

  it.effect("finds that of a channel that is joining, and of one that has left and is about to end", () =>
    Effect.gen(function*() {
      const { join, leave, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("room:1", "slow")
      const slow = only(yield* Endpoint.channels(pid))
      yield* leave("room:1")
      assert.deepStrictEqual(yield* overview(pid), [])
      assert.strictEqual((yield* Endpoint.socketOf(slow.pid))?.pid, pid)
      yield* join("room:2", "wait")
      const joining = only(yield* Endpoint.channels(pid))
      assert.strictEqual((yield* Endpoint.socketOf(joining.pid))?.pid, pid)
      yield* Deferred.succeed(gate, undefined)
    }).pipe(Effect.provide(live)))

  it.effect("finds none of a channel that has ended, nor of a process that is no channel", () =>
    Effect.gen(function*() {
      const { join, leave, pid } = open(yield* Socket.acceptor(UserSocket))
      yield* join("lobby")
      const channel = only(yield* Endpoint.channels(pid))
      assert.isUndefined(yield* Endpoint.socketOf(pid))
      yield* leave("lobby")
      assert.isUndefined(yield* Endpoint.socketOf(channel.pid))
    }).pipe(Effect.provide(live)))
})

describe("broadcasts from anywhere", () => {
  it.effect("reach whoever is subscribed, but for the one they are from", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const heard: Array<string> = []
      const pids = yield* Effect.forEach(["a", "b"], (name) =>
        Effect.gen(function*() {
          const pid = yield* Process.spawn((_self: Process.Pid<unknown>) =>
            Effect.succeed({ handle: () => Effect.void })
          )
          yield* pubsub.subscribe("news", {
            pid,
            deliver: (message) => void heard.push(`${name} ${JSON.stringify(message)}`)
          })
          return pid
        }))
      const [a] = pids
      assert.isDefined(a)
      const line = (name: string, event: string) =>
        `${name} ${JSON.stringify(Message.broadcast("news", event, { n: 1 }))}`
      const heardBy = (effect: Effect.Effect<void, unknown, PubSub.PubSub>) =>
        Effect.map(Effect.orDie(effect), () => heard.splice(0))
      for (const send of [Endpoint.broadcast, Endpoint.localBroadcast]) {
        assert.deepStrictEqual(yield* heardBy(send("news", "e", { n: 1 })), [line("a", "e"), line("b", "e")])
      }
      for (const send of [Endpoint.broadcastFrom, Endpoint.localBroadcastFrom]) {
        assert.deepStrictEqual(yield* heardBy(send(a, "news", "e", { n: 1 })), [line("b", "e")])
      }
      assert.deepStrictEqual(yield* heardBy(Endpoint.broadcast("other", "e", {})), [])
    }).pipe(Effect.provide(PubSub.layer)))
})
