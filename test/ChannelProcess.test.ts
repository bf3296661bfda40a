import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import type * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"

const Room = Channel.make("room:*")

type Services = Process.Own | PubSub.PubSub | Process.System
type Join = (
  room: Channel.Self,
  payload: unknown
) => Effect.Effect<Channel.Handlers<Channel.Untyped, Services>, unknown, Services>

/** A node with a channel, and the warnings and errors it logs. */
const node = (join: Join) => {
  const log: Array<string> = []
  const socket = Socket.make("user_socket", { channels: [Room] })
  const logger = Logger.make(({ cause, logLevel, message }) => {
    if (logLevel === "Info") return
    log.push(`${logLevel} ${String(Array.isArray(message) ? message[0] : message)} ${Cause.pretty(cause)}`.trim())
  })
  const layer = Layer.mergeAll(
    Room.toLayer(Effect.succeed(join)),
    socket.layer(() => Effect.succeed(Socket.accept({ id: "user:1" })))
  ).pipe(Layer.provideMerge(ChannelTest.layer), Layer.provideMerge(Logger.layer([logger])))
  const connect = ChannelTest.connect(socket)
  const joined = Effect.flatMap(connect, (client) => ChannelTest.join(client, Room, "room:1"))
  return { connect, joined, layer, log }
}

/** The names of what the client has got since the last time. */
const events = ({ socket }: { readonly socket: ChannelTest.TestSocket }) =>
  Effect.map(ChannelTest.settle, () => socket.received.splice(0).map(({ event }) => event))

/** A process that does nothing. */
const other = Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))

/** A pid without more, as `deepStrictEqual` should not look into a process. */
const isPid = (expected: Process.Pid, actual: Process.Pid | undefined) => assert.strictEqual(actual?.id, expected.id)

describe("a process that a channel monitors", () => {
  /** Monitors what it is sent; notes what it gets. */
  const watching = (more: (got: Array<unknown>) => Channel.Handlers<Channel.Untyped, Services>) => {
    const got: Array<unknown> = []
    const monitors: Array<Process.Monitor> = []
    const started = node(() =>
      Effect.succeed({
        handleIn: () =>
          Effect.gen(function*() {
            const pid = watched.at(-1)
            if (pid !== undefined) monitors.push(yield* Process.monitor(pid))
          }),
        ...more(got)
      })
    )
    const watched: Array<Process.Pid> = []
    const start = Effect.gen(function*() {
      const channel = yield* started.joined
      watched.push(yield* other)
      yield* ChannelTest.push(channel, "monitor")
      yield* ChannelTest.settle
      return { channel, pid: watched[0] ?? channel.pid }
    })
    return { ...started, got, monitors, start }
  }

  it.effect("is reported to handleDown when it ends, with its reason, and not to handleInfo", () => {
    const downs: Array<Process.Down> = []
    const { got, layer, monitors, start } = watching((got) => ({
      handleDown: (down) => Effect.sync(() => void downs.push(down)),
      handleInfo: (message) => Effect.sync(() => void got.push(message))
    }))
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      assert.strictEqual((yield* Process.info(channel.pid)).monitors, 1)
      assert.strictEqual(downs.length, 0)
      yield* Process.exit(pid, Process.shutdown("bye"))
      assert.deepStrictEqual(yield* events(channel), [])
      assert.strictEqual(downs.length, 1)
      isPid(pid, downs[0]?.pid)
      assert.strictEqual(downs[0]?.monitor, monitors[0])
      assert.deepStrictEqual(downs[0]?.reason, Process.shutdown("bye"))
      assert.deepStrictEqual(got, [])
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(layer))
  })

  it.effect("is reported to handleInfo where there is no handleDown", () => {
    const { got, layer, monitors, start } = watching((got) => ({
      handleInfo: (message) => Effect.sync(() => void got.push(message))
    }))
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      yield* Process.exit(pid, Process.killed)
      assert.deepStrictEqual(yield* events(channel), [])
      const [down] = got as ReadonlyArray<Process.Down>
      assert.strictEqual(got.length, 1)
      isPid(pid, down?.pid)
      assert.strictEqual(down?.monitor, monitors[0])
      assert.deepStrictEqual(down?.reason, Process.killed)
    }).pipe(Effect.provide(layer))
  })

  it.effect("is only warned of where there is neither", () => {
    const { layer, log, start } = watching(() => ({}))
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      yield* Process.exit(pid, Process.shutdown())
      assert.deepStrictEqual(yield* events(channel), [])
      assert.deepStrictEqual(log, ["Warn channel without handleInfo got a message"])
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(layer))
  })

  it.effect("may be watched from the join on: what ends meanwhile is reported after it", () => {
    const order: Array<string> = []
    let watched: Process.Pid | undefined
    const { joined, layer } = node(() =>
      Effect.gen(function*() {
        if (watched !== undefined) {
          yield* Process.monitor(watched)
          yield* Process.exit(watched, Process.killed)
        }
        yield* Effect.yieldNow
        order.push("join")
        return { handleDown: (down) => Effect.sync(() => void order.push(down.reason._tag)) }
      })
    )
    return Effect.gen(function*() {
      watched = yield* other
      yield* joined
      yield* ChannelTest.settle
      assert.deepStrictEqual(order, ["join", "Killed"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("whose handler crashes ends the channel with phx_error", () => {
    const { layer, log, start } = watching(() => ({ handleDown: () => Effect.die("boom") }))
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      yield* Process.exit(pid, Process.shutdown())
      assert.deepStrictEqual(yield* events(channel), ["phx_error"])
      assert.strictEqual((yield* Process.awaitExit(channel.pid))._tag, "Crash")
      assert.strictEqual(log.length, 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("is forgotten when the channel ends first", () => {
    const { layer, start } = watching(() => ({}))
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      assert.strictEqual((yield* Process.info(pid)).watchers, 1)
      yield* ChannelTest.leave(channel)
      yield* ChannelTest.settle
      assert.strictEqual((yield* Process.info(pid)).watchers, 0)
    }).pipe(Effect.provide(layer))
  })
})

describe("a process that a channel is linked to", () => {
  const linked = (trap: boolean) => {
    const ended: Array<Process.ExitReason> = []
    const exits: Array<Process.ExitSignal> = []
    let partner: Process.Pid | undefined
    const started = node((room) =>
      Effect.gen(function*() {
        if (partner?.alive === true) yield* Process.link(partner)
        return {
          ...trap
            ? {
              handleExit: (exit: Process.ExitSignal) => {
                exits.push(exit)
                return exit.reason._tag === "Crash" ? room.stop(Process.shutdown("partner is gone")) : Effect.void
              }
            }
            : {},
          handleIn: () => Effect.die("boom"),
          terminate: (reason) => Effect.sync(() => void ended.push(reason))
        }
      })
    )
    const start = Effect.gen(function*() {
      const pid = partner = yield* other
      return { channel: yield* started.joined, pid }
    })
    return { ...started, ended, exits, start }
  }

  for (const reason of [Process.shutdown("bye"), Process.killed, Process.crash(Cause.die("boom"))]) {
    it.effect(`takes the channel with it when it ends with ${reason._tag}: terminate is told, the client phx_error`, () => {
      const { ended, layer, start } = linked(false)
      return Effect.gen(function*() {
        const { channel, pid } = yield* start
        yield* Process.exit(pid, reason)
        assert.deepStrictEqual(yield* events(channel), ["phx_error"])
        assert.deepStrictEqual(ended, [reason])
        assert.isFalse(channel.pid.alive)
      }).pipe(Effect.provide(layer))
    })

    it.effect(`and ends with ${reason._tag} only tells handleExit where there is one`, () => {
      const { ended, exits, layer, start } = linked(true)
      return Effect.gen(function*() {
        const { channel, pid } = yield* start
        yield* Process.exit(pid, reason)
        const got = yield* events(channel)
        assert.strictEqual(exits.length, 1)
        isPid(pid, exits[0]?.from)
        assert.deepStrictEqual(exits[0]?.reason, reason)
        if (reason._tag === "Crash") {
          assert.deepStrictEqual(got, ["phx_close"], "the handler has stopped the channel")
          assert.deepStrictEqual(ended, [Process.shutdown("partner is gone")])
        } else {
          assert.deepStrictEqual(got, [])
          assert.isTrue(channel.pid.alive)
        }
      }).pipe(Effect.provide(layer))
    })
  }

  it.effect("ends with the channel when that crashes", () => {
    const { layer, start } = linked(false)
    return Effect.gen(function*() {
      const { channel, pid } = yield* start
      yield* ChannelTest.push(channel, "die")
      yield* ChannelTest.settle
      assert.strictEqual((yield* Process.awaitExit(pid))._tag, "Crash")
      yield* ChannelTest.assertCrashed(channel)
    }).pipe(Effect.provide(layer))
  })

  it.effect("does not keep a channel that traps exits from its ordinary endings", () => {
    const { connect, ended, exits, layer, start } = linked(true)
    return Effect.gen(function*() {
      const { channel } = yield* start
      const { socket } = channel
      yield* ChannelTest.join(socket, Room, "room:1")
      assert.deepStrictEqual(yield* events(channel), ["phx_close"], "of the join before")
      yield* ChannelTest.drop(socket)
      const again = yield* ChannelTest.join(yield* connect, Room, "room:1")
      yield* Process.exit(again.pid, Process.killed)
      assert.deepStrictEqual(yield* events(again), ["phx_error"])
      assert.deepStrictEqual(ended, [Process.shutdown("duplicate_join"), Process.shutdown("peer_closed")])
      assert.deepStrictEqual(exits.map(({ reason }) => reason), [])
    }).pipe(Effect.provide(layer))
  })

  it.effect("is not the only one whose exits are trapped: those from outside are too, Normal among them", () => {
    const { exits, layer, start } = linked(true)
    return Effect.gen(function*() {
      const { channel } = yield* start
      for (const reason of [Process.normal, Process.shutdown("out")]) yield* Process.exit(channel.pid, reason)
      assert.deepStrictEqual(yield* events(channel), [])
      assert.deepStrictEqual(exits.map(({ from, reason }) => [from, reason]), [
        [undefined, Process.normal],
        [undefined, Process.shutdown("out")]
      ])
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(layer))
  })
})

type Question =
  | { readonly ask: "count" | "later" | "last" | "crash" | "never" | "leave"; readonly to: Process.ReplyTo<unknown> }
  | "answer"

describe("a call", () => {
  const ended: Array<Process.ExitReason> = []
  const asked = node((room, payload) => {
    let count = 0
    let waiting: Process.ReplyTo<unknown> | undefined
    ended.length = 0
    return Effect.as(payload === "slow" ? Effect.sleep("1 second") : Effect.void, {
      handleIn: () => Effect.sync(() => Channel.ok({ count: ++count })),
      handleInfo: (message) => {
        const question = message as Question
        if (question === "answer") return waiting === undefined ? Effect.void : Process.reply(waiting, "at last")
        switch (question.ask) {
          case "count":
            return Process.reply(question.to, count)
          case "later":
            waiting = question.to
            return Effect.void
          case "last":
            return Effect.andThen(Process.reply(question.to, "bye"), room.stop(Process.shutdown("asked to")))
          case "crash":
            return Effect.die(new Error("asked too much"))
          default:
            return Effect.never
        }
      },
      terminate: (reason) => Effect.sync(() => void ended.push(reason))
    })
  })
  const call = (pid: Process.Pid<unknown>, ask: Exclude<Question, string>["ask"]) =>
    Process.call(pid, (to: Process.ReplyTo<unknown>) => ({ ask, to }))

  it.effect("from elsewhere is answered by handleInfo, in its turn, and the client hears nothing of it", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      const first = yield* ChannelTest.push(channel, "count")
      yield* ChannelTest.assertReply(first, "ok", { count: 1 })
      assert.strictEqual(yield* call(channel.pid, "count"), 1)
      assert.deepStrictEqual(yield* events(channel), [])
    }).pipe(Effect.provide(asked.layer)))

  it.effect("may be answered later, after other messages", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      const answer = yield* Effect.forkChild(call(channel.pid, "later"), { startImmediately: true })
      assert.strictEqual(yield* call(channel.pid, "count"), 0)
      assert.isUndefined(answer.pollUnsafe())
      yield* Process.send(channel.pid, "answer")
      assert.strictEqual(yield* Fiber.join(answer), "at last")
    }).pipe(Effect.provide(asked.layer)))

  it.effect("may be the last: answered, then the channel stops as it wants to", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      assert.strictEqual(yield* call(channel.pid, "last"), "bye")
      assert.deepStrictEqual(yield* events(channel), ["phx_close"])
      assert.deepStrictEqual(ended, [Process.shutdown("asked to")])
    }).pipe(Effect.provide(asked.layer)))

  it.effect("to a channel that crashes meanwhile fails with DOWN and the crash, and the client gets phx_error", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      const error = yield* Effect.flip(call(channel.pid, "crash"))
      assert.strictEqual(error.code, "DOWN")
      assert(error.reason?._tag === "Crash")
      assert.include(Cause.pretty(error.reason.cause), "asked too much")
      assert.deepStrictEqual(yield* events(channel), ["phx_error"])
    }).pipe(Effect.provide(asked.layer)))

  it.effect("that waits when the client leaves, or is gone, fails with DOWN", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      const answer = yield* Effect.forkChild(Effect.flip(call(channel.pid, "later")), { startImmediately: true })
      yield* ChannelTest.settle
      yield* ChannelTest.leave(channel)
      assert.deepInclude(yield* Fiber.join(answer), { code: "DOWN", reason: Process.shutdown("left") })
      assert.strictEqual((yield* Effect.flip(call(channel.pid, "count"))).code, "DOWN")
    }).pipe(Effect.provide(asked.layer)))

  it.effect("to a channel that does not answer fails with TIMEOUT after 5 seconds", () =>
    Effect.gen(function*() {
      const channel = yield* asked.joined
      const answer = yield* Effect.forkChild(Effect.flip(call(channel.pid, "never")), { startImmediately: true })
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(answer.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(answer)).code, "TIMEOUT")
      assert.isTrue(channel.pid.alive)
    }).pipe(Effect.provide(asked.layer)))

  it.effect("to a channel that is being joined is answered when it has joined", () =>
    Effect.gen(function*() {
      const socket = yield* asked.connect
      yield* Effect.forkChild(ChannelTest.join(socket, Room, "room:1", "slow"), { startImmediately: true })
      yield* ChannelTest.settle
      const [joining] = yield* Endpoint.channels(socket.server.pid)
      assert(joining?.status === "joining")
      const answer = yield* Effect.forkChild(call(joining.pid, "count"), { startImmediately: true })
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(answer.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(answer), 0)
    }).pipe(Effect.provide(asked.layer)))

  it.effect("from one channel to another is answered too", () => {
    const { connect, layer } = node((room, peer) =>
      Effect.succeed({
        handleIn: () =>
          Effect.gen(function*() {
            const [socket] = yield* Endpoint.sockets
            const channels = socket === undefined ? [] : yield* Endpoint.channels(socket.pid)
            const found = channels.find(({ topic }) => topic === peer)
            if (found === undefined) return yield* Effect.fail("nobody is there")
            return Channel.ok({ answer: yield* call(found.pid, "count").pipe(Effect.orDie) })
          }),
        handleInfo: (message) => Process.reply((message as Exclude<Question, string>).to, `I am ${room.topic}`)
      })
    )
    return Effect.gen(function*() {
      const socket = yield* connect
      yield* ChannelTest.join(socket, Room, "room:1")
      const two = yield* ChannelTest.join(socket, Room, "room:2", "room:1")
      yield* ChannelTest.assertReply(yield* ChannelTest.push(two, "ask"), "ok", { answer: "I am room:1" })
    }).pipe(Effect.provide(layer))
  })
})

describe("a look at a running system", () => {
  it.effect("finds the channels of a connection, each with its status, and the connection of a channel", () => {
    const gate = Deferred.makeUnsafe<void>()
    const { connect, layer } = node((room) =>
      Effect.as(room.topic === "room:slow" ? Deferred.await(gate) : Effect.void, {
        terminate: () => room.topic === "room:2" ? Effect.sleep("1 second") : Effect.void
      })
    )
    return Effect.gen(function*() {
      const socket = yield* connect
      const one = yield* ChannelTest.join(socket, Room, "room:1")
      const two = yield* ChannelTest.join(socket, Room, "room:2")
      const [found, ...more] = yield* Endpoint.sockets
      assert(found !== undefined)
      assert.deepStrictEqual(more, [])
      isPid(socket.server.pid, found.pid)
      assert.deepInclude(found, { id: "user:1", serializer: "V2", socket: "user_socket", transport: "test" })
      const statuses = Effect.map(
        Effect.andThen(ChannelTest.settle, Endpoint.channels(found.pid)),
        (channels) => channels.map(({ channel, status, topic }) => `${topic} of ${channel} is ${status}`)
      )
      assert.deepStrictEqual(yield* statuses, ["room:1 of room:* is joined", "room:2 of room:* is joined"])
      isPid(one.pid, (yield* Endpoint.channels(found.pid))[0]?.pid)
      isPid(found.pid, (yield* Endpoint.socketOf(one.pid))?.pid)

      yield* Process.exit(two.pid, Process.shutdown())
      yield* Effect.forkChild(Effect.exit(ChannelTest.join(socket, Room, "room:slow")), { startImmediately: true })
      assert.deepStrictEqual(yield* statuses, [
        "room:1 of room:* is joined",
        "room:2 of room:* is leaving",
        "room:slow of room:* is joining"
      ])
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* statuses, ["room:1 of room:* is joined", "room:slow of room:* is joined"])
      assert.isUndefined(yield* Endpoint.socketOf(two.pid))

      yield* ChannelTest.drop(socket)
      assert.deepStrictEqual(yield* Endpoint.sockets, [])
      assert.deepStrictEqual(yield* Endpoint.channels(found.pid), [])
      assert.deepStrictEqual(yield* Endpoint.channels(one.pid), [])
      assert.isUndefined(yield* Endpoint.socketOf(one.pid))
    }).pipe(Effect.provide(layer))
  })
})

describe("an ending", () => {
  const ended: Array<Process.ExitReason> = []
  const mortal = (traps: boolean) =>
    node((room, payload) => {
      if (payload !== "new") ended.length = 0
      const handlers = {
        handleIn: (event: string) =>
          event === "stop"
            ? Process.stop(Process.shutdown("by itself"))
            : event === "hang"
            ? Effect.never
            : Effect.void,
        handleInfo: () => Effect.die("boom"),
        terminate: (reason: Process.ExitReason) =>
          payload === "new" ? Effect.void : Effect.andThen(
            Effect.sync(() => void ended.push(reason)),
            room.topic === "room:bad" ? Effect.die("boom") : room.push("from terminate", {})
          )
      }
      return Effect.succeed(traps ? { ...handlers, handleExit: () => Effect.void } : handlers)
    })

  type Act = (channel: ChannelTest.TestChannel) => Effect.Effect<unknown, unknown, PubSub.PubSub | Process.System>
  interface Row {
    readonly what: string
    readonly act: Act
    readonly client: ReadonlyArray<string>
    readonly told: ReadonlyArray<Process.ExitReason>
    readonly code?: number
  }
  const crash = Process.crash(Cause.die("boom"))
  const rows: ReadonlyArray<Row> = [
    {
      what: "by Process.stop in place of the channel's own stop",
      act: (channel) => ChannelTest.push(channel, "stop"),
      client: ["from terminate", "phx_error"],
      told: [Process.shutdown("by itself")]
    },
    {
      what: "by a crash in handleInfo",
      act: ({ pid }) => Process.send(pid, "any"),
      client: ["from terminate", "phx_error"],
      told: [crash]
    },
    {
      what: "by a leave",
      act: ChannelTest.leave,
      client: ["phx_reply", "phx_close", "from terminate"],
      told: [Process.shutdown("left")]
    },
    {
      what: "by a duplicate join",
      act: ({ socket, topic }) =>
        Effect.sync(() => socket.server.receive(JSON.stringify(["new", "new", topic, "phx_join", "new"]))),
      client: ["from terminate", "phx_reply", "phx_close"],
      told: [Process.shutdown("duplicate_join")]
    },
    { what: "by a kill", act: ({ pid }) => Process.exit(pid, Process.killed), client: ["phx_error"], told: [] },
    {
      what: "with a connection that is lost",
      act: ({ socket }) => ChannelTest.drop(socket),
      client: [],
      told: [Process.shutdown("peer_closed")],
      code: 1012
    },
    {
      what: "with a connection that is told to disconnect",
      act: () => Endpoint.disconnect("user:1"),
      client: [],
      told: [Process.shutdown("disconnected")],
      code: 1001
    },
    {
      what: "with a connection that is killed",
      act: ({ socket }) => Process.exit(socket.server.pid, Process.killed),
      client: [],
      told: [Process.killed],
      code: 1011
    },
    {
      what: "with a connection that has sent garbage",
      act: ({ socket }) => Effect.sync(() => socket.server.receive("garbage")),
      client: [],
      told: [Process.crash(Cause.empty)],
      code: 1011
    }
  ]

  for (const { act, client, code, told, what } of rows) {
    for (const traps of [false, true]) {
      const { joined, layer } = mortal(traps)
      it.effect(`${what} ${traps ? "of a channel that traps exits" : ""} is told client and terminate`, () =>
        Effect.gen(function*() {
          const channel = yield* joined
          yield* act(channel)
          assert.deepStrictEqual(yield* events(channel), client)
          assert.deepStrictEqual(
            ended.map((reason) => reason._tag === "Crash" ? "Crash" : reason),
            told.map((reason) => reason._tag === "Crash" ? "Crash" : reason)
          )
          assert.strictEqual(channel.socket.closeCode, code)
          if (code !== undefined) yield* ChannelTest.assertDisconnected(channel.socket, code)
          assert.isFalse(channel.pid.alive)
        }).pipe(Effect.provide(layer)))
    }
  }

  it.effect("when the server stops is told as draining, with 1012", () => {
    const { joined, layer } = mortal(false)
    return Effect.gen(function*() {
      const { pid, socket } = yield* Effect.scoped(joined)
      assert.deepStrictEqual(ended, [Process.shutdown("draining")])
      assert.strictEqual(socket.closeCode, 1012)
      assert.isFalse(pid.alive)
    }).pipe(Effect.provide(layer))
  })

  it.effect("whose terminate crashes is a graceful one for the client, and a crash for those who watch", () => {
    const { connect, layer, log } = mortal(false)
    return Effect.gen(function*() {
      const channel = yield* ChannelTest.join(yield* connect, Room, "room:bad")
      yield* ChannelTest.leave(channel)
      assert.deepStrictEqual(yield* events(channel), ["phx_reply", "phx_close"])
      assert.strictEqual((yield* ChannelTest.assertCrashed(channel))._tag, "Crash")
      assert.strictEqual(log.length, 1)
    }).pipe(Effect.provide(layer))
  })

  it.effect("of a join that crashes does not run terminate, but releases what it has acquired", () => {
    const log: Array<string> = []
    const { connect, layer } = node(() =>
      Effect.gen(function*() {
        yield* Effect.addFinalizer((exit) => Effect.sync(() => void log.push(Process.exitReason(exit)._tag)))
        return yield* Effect.die("boom")
      })
    )
    return Effect.gen(function*() {
      const exit = yield* Effect.exit(ChannelTest.join(yield* connect, Room, "room:1"))
      assert.isTrue(Exit.isFailure(exit))
      yield* ChannelTest.settle
      assert.deepStrictEqual(log, ["Crash"])
    }).pipe(Effect.provide(layer))
  })
})
