import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Message from "../src/Message.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"

const Raw = Channel.make("raw:*")

type Services = Process.Own | PubSub.PubSub
type Init = (
  raw: Channel.Custom,
  payload: unknown
) => Effect.Effect<Channel.CustomHandlers<Services>, unknown, Services>

/** A node with a custom channel, and what is logged as an error. */
const node = (init: Init, options?: Parameters<typeof Raw.layerCustom>[1]) => {
  const errors: Array<string> = []
  const socket = Socket.make("test", { channels: [Raw] })
  const logger = Logger.make(({ cause, logLevel }) => {
    if (logLevel === "Error") errors.push(Cause.pretty(cause))
  })
  const layer = Layer.mergeAll(
    Raw.layerCustom(init, options),
    socket.layer(() => Effect.succeed(Socket.accept({ id: "user:1" })))
  ).pipe(Layer.provideMerge(ChannelTest.layer), Layer.provideMerge(Logger.layer([logger])))
  return { connect: ChannelTest.connect(socket), errors, layer }
}

const nothing = { handleIn: () => Effect.void }

/** Everything the client has got. A reply has its status in place of its event. */
const frames = ({ socket }: { readonly socket: ChannelTest.TestSocket }) =>
  Effect.map(ChannelTest.settle, () =>
    socket.received.splice(0).map(({ event, joinRef, payload, ref, status }) => {
      if (event !== "phx_reply" || status !== undefined) return [joinRef, ref, status ?? event, payload]
      const reply = payload as { readonly status: unknown; readonly response: unknown }
      return [joinRef, ref, reply.status, reply.response]
    }))

/** The names of what the client has got. */
const events = (client: { readonly socket: ChannelTest.TestSocket }) =>
  Effect.map(frames(client), (got) => got.map(([, , event]) => event))

describe("the join", () => {
  it.effect("runs in the channel's own process, with what the client has sent", () => {
    const joins: Array<unknown> = []
    const { connect, layer } = node((raw, payload) =>
      Effect.gen(function*() {
        const { joinRef, pid, socketId, topic } = raw
        joins.push({ joinRef, payload, socketId, topic, own: (yield* Process.self).id === pid.id })
        return nothing
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1", [1])
      assert.deepStrictEqual(joins, [
        { joinRef: channel.joinRef, payload: [1], socketId: "user:1", topic: "raw:1", own: true }
      ])
      assert.strictEqual(channel.pid.label, "channel raw:1")
    }).pipe(Effect.provide(layer))
  })

  it.effect("is answered {} or what the handlers say", () => {
    const { connect, layer } = node((_, payload) =>
      Effect.succeed(payload === null ? nothing : { ...nothing, reply: payload })
    )
    return Effect.gen(function*() {
      const socket = yield* connect
      const replies = []
      for (const payload of [null, { a: 1 }, "text"]) {
        replies.push((yield* ChannelTest.join(socket, "raw:1", payload)).reply)
      }
      assert.deepStrictEqual(replies, [{}, { a: 1 }, "text"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("that fails is refused with the failure, and leaves nothing behind", () => {
    const ended: Array<Process.ExitReason> = []
    const { connect, errors, layer } = node(() =>
      Effect.andThen(
        Effect.addFinalizer((exit) => Effect.sync(() => void ended.push(Process.exitReason(exit)))),
        Effect.fail({ reason: "full" })
      )
    )
    return Effect.gen(function*() {
      const socket = yield* connect
      const before = yield* Process.stats
      const refused = yield* Effect.flip(ChannelTest.join(socket, Raw, "raw:1"))
      assert.deepInclude(refused, { code: "refused", response: { reason: "full" } })
      assert.deepStrictEqual(yield* events({ socket }), [])
      assert.deepStrictEqual(ended, [Process.shutdown()])
      assert.deepStrictEqual(yield* Process.stats, before)
      assert.deepStrictEqual(errors, [])
    }).pipe(Effect.provide(layer))
  })

  for (
    const [what, init] of [
      ["dies", () => Effect.die(new Error("boom"))],
      ["fails with an Error, whose fields are not for the client", () => Effect.fail(new Error("boom"))],
      ["has a reply that cannot be encoded", () => Effect.succeed({ ...nothing, reply: 1n })],
      ["fails with what cannot be encoded", () => Effect.fail(1n)]
    ] as const
  ) {
    it.effect(`that ${what} has crashed: it is told the client, logged once, and leaves nothing behind`, () => {
      const { connect, errors, layer } = node(init)
      return Effect.gen(function*() {
        const socket = yield* connect
        const before = yield* Process.stats
        const crashed = yield* Effect.flip(ChannelTest.join(socket, Raw, "raw:1"))
        assert.deepInclude(crashed, { code: "crashed", response: { reason: "join crashed" } })
        assert.deepStrictEqual(yield* events({ socket }), [])
        assert.deepStrictEqual(yield* Process.stats, before)
        assert.strictEqual(errors.length, 1)
        assert.isUndefined(socket.closeCode)
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("of a topic that is joined already ends the old channel first, and is answered before its close", () => {
    const ended: Array<unknown> = []
    const { connect, layer } = node((raw) =>
      Effect.succeed({
        handleIn: ({ ref }) => raw.send(Message.reply(raw.joinRef, ref, raw.topic, "ok", { joinRef: raw.joinRef })),
        terminate: (reason) => Effect.sync(() => void ended.push([raw.joinRef, reason]))
      })
    )
    return Effect.gen(function*() {
      const old = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      const { joinRef, socket } = old
      socket.server.receive(JSON.stringify(["new", "new", "raw:1", "phx_join", {}]))
      socket.server.receive(JSON.stringify([joinRef, "stale", "raw:1", "event", {}]))
      socket.server.receive(JSON.stringify(["new", "7", "raw:1", "event", {}]))
      assert.deepStrictEqual(yield* frames(old), [
        ["new", "new", "ok", {}],
        [joinRef, joinRef, "phx_close", {}],
        ["new", "7", "ok", { joinRef: "new" }]
      ])
      assert.deepStrictEqual(ended, [[joinRef, Process.shutdown("duplicate_join")]])
      assert.deepStrictEqual((yield* Endpoint.channels(socket.server.pid)).map(({ topic }) => topic), ["raw:1"])
    }).pipe(Effect.provide(layer))
  })
})

describe("messages of the client", () => {
  it.effect("come as they are, the leave among them, one at a time, and are not answered by anybody else", () => {
    const got: Array<Message.Inbound> = []
    const { connect, layer } = node(() =>
      Effect.succeed({
        handleIn: (message) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void got.push(message)))
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      const { joinRef, socket, topic } = channel
      socket.server.receive(JSON.stringify([joinRef, "5", topic, "say", { n: 1 }]))
      socket.server.receive(JSON.stringify([null, null, topic, { toString: 1 }, null]))
      yield* ChannelTest.push(channel, "bytes", new Uint8Array([1, 2]))
      yield* ChannelTest.leave(channel)
      assert.deepStrictEqual(yield* frames(channel), [])
      assert.deepStrictEqual(got.map((message) => ({ ...message })), [
        { joinRef, ref: "5", topic, event: "say", payload: { n: 1 } },
        { joinRef: null, ref: null, topic, event: { toString: 1 }, payload: null },
        { joinRef, ref: "2", topic, event: "bytes", payload: new Uint8Array([1, 2]) },
        { joinRef, ref: "3", topic, event: "phx_leave", payload: {} }
      ])
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(layer))
  })

  it.effect("are answered by the channel itself, with messages and replies that go out as they are", () => {
    const { connect, layer } = node((raw) =>
      Effect.succeed({
        handleIn: ({ payload, ref }) =>
          Effect.andThen(
            raw.send(Message.message(raw.joinRef, null, raw.topic, "echo", payload)),
            raw.send(Message.reply("any", ref, raw.topic, "queued", payload))
          )
      })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      const { joinRef } = channel
      const { ref } = yield* ChannelTest.push(channel, "say", { n: 1 })
      const bytes = yield* ChannelTest.push(channel, "say", new Uint8Array([1]))
      assert.deepStrictEqual(yield* frames(channel), [
        [joinRef, null, "echo", { n: 1 }],
        ["any", ref, "queued", { n: 1 }],
        [joinRef, null, "echo", new Uint8Array([1])],
        ["any", bytes.ref, "queued", new Uint8Array([1])]
      ])
      yield* ChannelTest.assertReply(yield* ChannelTest.push(channel, "say"), "queued")
    }).pipe(Effect.provide(layer))
  })

  it.effect("answered with what cannot be encoded crash the channel", () => {
    const { connect, errors, layer } = node((raw) =>
      Effect.succeed({ handleIn: ({ ref }) => raw.send(Message.reply(null, ref, raw.topic, "ok", 1n)) })
    )
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      yield* ChannelTest.push(channel, "say")
      assert.deepStrictEqual(yield* events(channel), ["phx_error"])
      assert.strictEqual(errors.length, 1)
    }).pipe(Effect.provide(layer))
  })
})

describe("what others send", () => {
  it.effect("comes to handleInfo; broadcasts do so only where the channel subscribes, and never to the client", () => {
    const got: Array<unknown> = []
    const { connect, layer } = node((raw, payload) =>
      Effect.as(payload === "subscribe" ? PubSub.subscribe(raw.pid, raw.topic, (message) => message) : Effect.void, {
        ...nothing,
        handleInfo: (message) => Effect.sync(() => void got.push([raw.topic, message]))
      })
    )
    return Effect.gen(function*() {
      const socket = yield* connect
      const one = yield* ChannelTest.join(socket, Raw, "raw:1", "subscribe")
      const two = yield* ChannelTest.join(socket, Raw, "raw:2")
      for (const topic of ["raw:1", "raw:2"]) yield* Endpoint.broadcast(topic, "news", {})
      yield* Process.send(two.pid, "hello")
      assert.deepStrictEqual(yield* events(one), [])
      assert.deepStrictEqual(got, [["raw:1", Message.broadcast("raw:1", "news", {})], ["raw:2", "hello"]])
      yield* ChannelTest.drop(socket)
      assert.deepStrictEqual((yield* PubSub.PubSub).topics(), [])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is dropped without handleInfo", () => {
    const { connect, errors, layer } = node(() => Effect.succeed(nothing))
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1")
      yield* Process.send(channel.pid, "hello")
      assert.deepStrictEqual(yield* events(channel), [])
      assert.isTrue(channel.pid.alive)
      assert.deepStrictEqual(errors, [])
    }).pipe(Effect.provide(layer))
  })

  it.effect("about processes comes to handleDown and handleExit", () => {
    const got: Array<unknown> = []
    const { connect, layer } = node((raw, other) =>
      Effect.gen(function*() {
        const pid = others[Number(other)] ?? raw.pid
        yield* Process.monitor(pid)
        yield* Process.link(pid)
        return {
          ...nothing,
          handleDown: (down) => Effect.sync(() => void got.push(["down", down.pid.id === pid.id, down.reason])),
          handleExit: (exit) => Effect.sync(() => void got.push(["exit", exit.from?.id === pid.id, exit.reason]))
        }
      })
    )
    const others: Array<Process.Pid> = []
    return Effect.gen(function*() {
      const other = yield* Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
      others.push(other)
      const channel = yield* ChannelTest.join(yield* connect, Raw, "raw:1", 0)
      yield* Process.exit(other, Process.shutdown("bye"))
      assert.deepStrictEqual(yield* events(channel), [])
      assert.sameDeepMembers(got, [["down", true, Process.shutdown("bye")], ["exit", true, Process.shutdown("bye")]])
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(layer))
  })
})

describe("the end", () => {
  const ended: Array<Process.ExitReason> = []
  const speaking = node((raw) => {
    const stop = Process.stop(Process.shutdown("done"))
    return Effect.succeed({
      handleIn: ({ event }) => {
        switch (event) {
          case "close":
            return raw.close
          case "close and stop":
            return Effect.andThen(raw.close, stop)
          case "close twice and stop":
            return Effect.all([raw.close, raw.close, stop])
          case "close, send and die":
            return Effect.all([raw.close, raw.send(Message.message(null, null, raw.topic, "bye", {})), Effect.die("x")])
          case "stop":
            return stop
          case "die":
            return Effect.die("boom")
          default:
            return Effect.never
        }
      },
      terminate: (reason) =>
        Effect.andThen(
          Effect.sync(() => void ended.push(reason)),
          raw.topic === "raw:close at last" ? raw.close : Effect.void
        )
    })
  }, { shutdown: "2 seconds" })

  const ending = (event: string, topic = "raw:1") =>
    Effect.gen(function*() {
      ended.length = 0
      const channel = yield* ChannelTest.join(yield* speaking.connect, Raw, topic)
      yield* ChannelTest.push(channel, event)
      return { channel, got: yield* frames(channel) }
    })

  for (const event of ["close and stop", "close twice and stop"]) {
    it.effect(`by ${event} is exactly one phx_close with the join_ref`, () =>
      Effect.gen(function*() {
        const { channel, got } = yield* ending(event)
        assert.deepStrictEqual(got, [[channel.joinRef, channel.joinRef, "phx_close", {}]])
        assert.deepStrictEqual(ended, [Process.shutdown("done")])
        assert.isFalse(channel.pid.alive)
        const ref = yield* ChannelTest.push(channel, "close")
        yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched topic" })
      }).pipe(Effect.provide(speaking.layer)))
  }

  it.effect("by close in terminate is a phx_close as well", () =>
    Effect.gen(function*() {
      const { got } = yield* ending("stop", "raw:close at last")
      assert.deepStrictEqual(got.map(([, , event]) => event), ["phx_close"])
    }).pipe(Effect.provide(speaking.layer)))

  for (const event of ["stop", "die"]) {
    it.effect(`by ${event}, without close, is a phx_error`, () =>
      Effect.gen(function*() {
        const { channel, got } = yield* ending(event)
        assert.deepStrictEqual(got.map(([joinRef, , event]) => [joinRef, event]), [[channel.joinRef, "phx_error"]])
        assert.deepStrictEqual(ended.map(({ _tag }) => _tag), [event === "stop" ? "Shutdown" : "Crash"])
        yield* ChannelTest.join(channel.socket, Raw, "raw:1")
      }).pipe(Effect.provide(speaking.layer)))
  }

  it.effect("by a crash after close is no phx_error", () =>
    Effect.gen(function*() {
      const { channel, got } = yield* ending("close, send and die")
      yield* ChannelTest.assertCrashed(channel)
      assert.deepStrictEqual(got.map(([, , event]) => event), ["phx_close", "bye"])
      assert.deepStrictEqual(ended.map(({ _tag }) => _tag), ["Crash"])
    }).pipe(Effect.provide(speaking.layer)))

  for (
    const [what, reason, told] of [
      ["an exit", Process.shutdown("out"), [Process.shutdown("out")]],
      ["a kill", Process.killed, []]
    ] as const
  ) {
    it.effect(`by ${what} from outside is a phx_error`, () =>
      Effect.gen(function*() {
        const { channel } = yield* ending("hang")
        yield* Process.exit(channel.pid, reason)
        assert.deepStrictEqual(yield* events(channel), ["phx_error"])
        assert.deepStrictEqual(ended, [...told])
      }).pipe(Effect.provide(speaking.layer)))
  }

  it.effect("of the connection is told to terminate with its reason", () =>
    Effect.gen(function*() {
      ended.length = 0
      const channel = yield* ChannelTest.join(yield* speaking.connect, Raw, "raw:close at last")
      yield* ChannelTest.drop(channel.socket)
      assert.deepStrictEqual(ended, [Process.shutdown("peer_closed")])
      const other = yield* ChannelTest.join(yield* speaking.connect, Raw, "raw:1")
      yield* Endpoint.disconnect("user:1")
      yield* ChannelTest.assertDisconnected(other.socket, 1001)
      assert.deepStrictEqual(ended.slice(1), [Process.shutdown("disconnected")])
    }).pipe(Effect.provide(speaking.layer)))

  it.effect("of the connection cuts off a handler that does not return, after the shutdown time", () =>
    Effect.gen(function*() {
      const { channel } = yield* ending("hang")
      yield* ChannelTest.drop(channel.socket)
      yield* TestClock.adjust("1999 millis")
      assert.deepStrictEqual(ended, [])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(ended, [Process.shutdown("peer_closed")])
      assert.isFalse(channel.pid.alive)
    }).pipe(Effect.provide(speaking.layer)))

  it.effect("of the connection ends also a channel that has closed and does not stop", () =>
    Effect.gen(function*() {
      const { channel, got } = yield* ending("close")
      assert.deepStrictEqual(got.map(([, , event]) => event), ["phx_close"])
      assert.isTrue(channel.pid.alive)
      yield* ChannelTest.drop(channel.socket)
      assert.deepStrictEqual(ended, [Process.shutdown("peer_closed")])
      assert.isFalse(channel.pid.alive)
    }).pipe(Effect.provide(speaking.layer)))

  it.effect("during the join comes after the reply", () => {
    const { connect, layer } = node((raw) => Effect.as(Effect.andThen(raw.close, Process.stop()), nothing))
    return Effect.gen(function*() {
      const socket = yield* connect
      socket.server.receive("[\"1\",\"1\",\"raw:1\",\"phx_join\",{}]")
      assert.deepStrictEqual(yield* frames({ socket }), [["1", "1", "ok", {}], ["1", "1", "phx_close", {}]])
    }).pipe(Effect.provide(layer))
  })
})

describe("types", () => {
  class User extends Context.Service<User, { readonly id: string }>()("custom/User") {}
  class Store extends Context.Service<Store, { readonly read: Effect.Effect<string> }>()("custom/Store") {}
  const Mine = Channel.make("mine", { assigns: User })

  it.effect("the Layer asks for the services of join and handlers, but for assigns and Self", () => {
    const layer = Mine.layerCustom((mine) =>
      Effect.gen(function*() {
        const { id } = yield* User
        const { read } = yield* Store
        return {
          reply: { id, text: yield* read },
          handleIn: ({ ref }) =>
            Effect.gen(function*() {
              const text = yield* (yield* Store).read
              const { id } = yield* User
              yield* Process.self
              yield* mine.send(Message.reply(mine.joinRef, ref, mine.topic, "ok", { id, text }))
            })
        }
      })
    )
    const required: Layer.Layer<Channel.Handler<"mine">, never, Store> = layer
    // @ts-expect-error the Store is needed
    const notRequired: Layer.Layer<Channel.Handler<"mine">> = layer
    assert.strictEqual<unknown>(required, notRequired)
    const socket = Socket.make("test", { channels: [Mine] })
    const connect = socket.layer(() => Effect.succeed(Socket.accept({ assigns: Context.make(User, { id: "ada" }) })))
    return Effect.gen(function*() {
      const mine = yield* ChannelTest.join(yield* ChannelTest.connect(socket), Mine, "mine")
      assert.deepStrictEqual<unknown>(mine.reply, { id: "ada", text: "stored" })
      yield* ChannelTest.assertReply(yield* ChannelTest.push(mine, "any"), "ok", { id: "ada", text: "stored" })
    }).pipe(
      Effect.provide(Layer.mergeAll(layer, connect).pipe(Layer.provideMerge(ChannelTest.layer))),
      Effect.provideService(Store, { read: Effect.succeed("stored") })
    )
  })

  it("services that only a handler uses are asked for as well", () => {
    const layer = Mine.layerCustom(() => Effect.succeed({ handleIn: () => Effect.asVoid(Store) }))
    // @ts-expect-error the Store is needed
    const notRequired: Layer.Layer<Channel.Handler<"mine">> = layer
    assert.isDefined(notRequired)
  })
})
