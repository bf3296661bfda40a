/** phoenix.js as npm has it, unchanged, over real sockets. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { connect, createServer as createNetServer, type Server as NetServer, type Socket as NetSocket } from "node:net"
import { afterAll, beforeAll } from "vitest"
import * as Channel from "../../src/Channel.ts"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Socket from "../../src/Socket.ts"
import * as Phoenix from "./phoenix.ts"
import { Server } from "./start.ts"

let server: Server

beforeAll(async () => {
  server = await Server.start()
}, 30_000)

afterAll(() => server.stop())

const open = new Set<Phoenix.Socket>()

/** A client that does not dawdle. */
const client = (port: number, options: Phoenix.Options = {}): Phoenix.Socket => {
  const socket = new Phoenix.Socket(`ws://127.0.0.1:${port}/socket`, {
    reconnectAfterMs: () => 5,
    rejoinAfterMs: () => 5,
    ...options
  })
  open.add(socket)
  return socket
}

const connected = (options: Phoenix.Options = {}, port = server.port): Phoenix.Socket => {
  const socket = client(port, options)
  socket.connect()
  return socket
}

let topics = 0
const uniqueTopic = () => `room:phoenix-${++topics}`

const test = (name: string, body: (topic: string) => Promise<void>) =>
  it.live(name, () =>
    Effect.promise(() => body(uniqueTopic())).pipe(Effect.ensuring(Effect.sync(() => {
      for (const socket of open) socket.disconnect()
      open.clear()
    }))))

/** The first thing that `register` is told. */
const first = <A>(register: (tell: (value: A) => void) => void): Promise<A> =>
  new Promise((resolve) => register(resolve))

const { response } = Phoenix

const joined = async (socket: Phoenix.Socket, topic: string, params: object | (() => object) = {}) => {
  const channel = socket.channel(topic, params)
  await response(channel.join())
  return channel
}

const bytes = (buffer: unknown): ReadonlyArray<number> => {
  assert.instanceOf(buffer, ArrayBuffer)
  return [...new Uint8Array(buffer)]
}

const transports: ReadonlyArray<readonly [name: string, options: Phoenix.Options]> = [
  ["WebSocket", {}],
  ["LongPoll", { transport: Phoenix.LongPoll }]
]

for (const [name, transport] of transports) {
  describe(`phoenix.js over ${name}`, () => {
    test("joins, pushes, is pushed to, broadcasts and leaves", async (topic) => {
      const [a, b] = [connected({ ...transport, params: { user_id: "ann" } }), connected(transport)]
      const own = a.channel(topic, { echo: { hello: [1] }, after_join: true })
      const history = first((tell) => own.on("messages:history", tell))
      assert.deepStrictEqual(await response(own.join()), { hello: [1] })
      assert.deepStrictEqual(await history, { messages: [] })
      const other = await joined(b, topic)

      const heard = Promise.all([own, other].map((channel) => first((tell) => channel.on("message:new", tell))))
      assert.deepStrictEqual(await response(own.push("message:new", { body: "hi" })), {})
      assert.deepStrictEqual(await heard, [{ body: "hi", user_id: "ann" }, { body: "hi", user_id: "ann" }])
      assert.deepStrictEqual(await response(own.push("reply_error", { no: 1 }), "error"), { no: 1 })
      assert.deepStrictEqual(await response(own.push("async_reply", { late: 1 })), { late: 1 })

      const closed = first((tell) => own.onClose(tell))
      await response(own.leave())
      await closed
      assert.deepStrictEqual([own.state, a.channels], ["closed", []])
      // What is said in the room is no longer for it, and it may be joined anew.
      const again = await joined(a, topic)
      assert.deepStrictEqual(await response(again.push("incr", {})), { counter: 1 })
    })

    test("sends what was pushed before the connection was there, in order", async (topic) => {
      const socket = client(server.port, transport)
      const channel = socket.channel(topic)
      const replies = [response(channel.join())]
      for (let i = 0; i < 150; i++) replies.push(response(channel.push("incr", {})))
      socket.connect()
      assert.deepStrictEqual(
        (await Promise.all(replies)).slice(1),
        Array.from({ length: 150 }, (_, i) => ({ counter: i + 1 }))
      )
    })

    test("joins again a channel that has crashed, and not one that has stopped", async (topic) => {
      const channel = await joined(connected(transport), topic)
      assert.deepStrictEqual(await response(channel.push("incr", {})), { counter: 1 })
      const error = first((tell) => channel.onError(tell))
      channel.push("crash", {})
      assert.deepStrictEqual(await error, { reason: "channel_crash" })
      // Sent once the channel has joined again.
      assert.deepStrictEqual(await response(channel.push("incr", {})), { counter: 1 })
      const closed = first((tell) => channel.onClose(tell))
      channel.push("stop", {})
      await closed
      assert.strictEqual(channel.state, "closed")
    })

    test("asks again for a join that is refused, with params made anew", async (topic) => {
      let attempts = 0
      const channel = connected(transport).channel(topic, () => ({ deny: ++attempts < 3 }))
      const refusals: Array<unknown> = []
      const push = channel.join().receive("error", (reason) => refusals.push(reason))
      await first((tell) => push.receive("ok", tell))
      assert.deepStrictEqual(refusals, [{ reason: "unauthorized" }, { reason: "unauthorized" }])
      assert.strictEqual(channel.state, "joined")
    })

    test("gives up a push that is not answered in time, and goes on", async (topic) => {
      const channel = await joined(connected(transport), topic)
      assert.deepStrictEqual(await response(channel.push("typing:start", {}, 20), "timeout"), {})
      assert.deepStrictEqual(await response(channel.push("echo", { still: "here" })), { still: "here" })
    })

    test("leaves a topic before it joins it a second time", async (topic) => {
      const socket = connected(transport)
      const before = await joined(socket, topic)
      await response(before.push("incr", {}))
      const closed = first((tell) => before.onClose(tell))
      const after = await joined(socket, topic)
      await closed
      assert.deepStrictEqual([before.state, after.state], ["closed", "joined"])
      assert.deepStrictEqual(await response(after.push("incr", {})), { counter: 1 })
    })

    test("connects again after a disconnect, with params made anew, and joins its channels", async (topic) => {
      const users = [`${topic}-1`, `${topic}-2`]
      const socket = connected({ ...transport, params: () => ({ user_id: users.shift() }) })
      const [channel, other] = [await joined(socket, topic), await joined(socket, `${topic}-other`)]
      const closed = first<{ code: number }>((tell) => socket.onClose(tell))
      const rejoined = Promise.all([channel, other].map((channel) => first((tell) => channel.onError(tell))))
      await joined(connected(), `${topic}-admin`).then((admin) => admin.push("disconnect_user", { id: `${topic}-1` }))
      assert.strictEqual((await closed).code, name === "LongPoll" ? 3410 : 1001)
      await rejoined
      assert.deepStrictEqual(await response(channel.push("info", {})), {
        topic,
        joined: true,
        user_id: `${topic}-2`,
        room_id: topic.slice("room:".length)
      })
      assert.deepStrictEqual(await response(other.push("incr", {})), { counter: 1 })
    })

    test("connects again until it is let in", async (topic) => {
      let attempts = 0
      const socket = client(server.port, { ...transport, params: () => ({ token: ++attempts < 3 ? "bad" : "good" }) })
      let errors = 0
      socket.onError(() => errors++)
      socket.connect()
      await joined(socket, topic)
      assert.deepStrictEqual([attempts, errors], [3, 2])
    })

    it.live("connects again when the server has been started anew, and joins its channels", () =>
      Effect.promise(async () => {
        const server = await Server.start()
        const socket = connected(transport, server.port)
        try {
          const [a, b] = [await joined(socket, "room:a"), await joined(socket, "room:b")]
          await response(a.push("incr", {}))
          const closed = first<{ code: number }>((tell) => socket.onClose(tell))
          assert.strictEqual(await server.stop(), 0)
          const { code } = await closed
          if (name === "WebSocket") assert.strictEqual(code, 1012)
          await server.startAgain()
          assert.deepStrictEqual(
            await Promise.all([response(a.push("incr", {})), response(b.push("incr", {}))]),
            [{ counter: 1 }, { counter: 1 }]
          )
        } finally {
          socket.disconnect()
          await server.stop()
        }
      }))
  })
}

describe("phoenix.js over WebSocket", () => {
  test("sends and gets bytes", async (topic) => {
    const [a, b] = [await joined(connected(), topic), await joined(connected(), topic)]
    const data = [0, 1, 254, 255]
    assert.deepStrictEqual(bytes(await response(a.push("bin_echo", new Uint8Array(data).buffer))), data)
    const pushed = first((tell) => a.on("bin_pushed", tell))
    a.push("bin_push", new Uint8Array([]).buffer)
    assert.deepStrictEqual(bytes(await pushed), [])
    const shouted = Promise.all([a, b].map((channel) => first((tell) => channel.on("bin_shout", tell))))
    a.push("bin_shout", new Uint8Array(data).buffer)
    assert.deepStrictEqual((await shouted).map(bytes), [data, data])
  })

  test("keeps a connection up by heartbeats, and shows them to onMessage", async (topic) => {
    const socket = client(server.port, { heartbeatIntervalMs: 500 })
    let closes = 0
    socket.onClose(() => closes++)
    let beats = 0
    const beaten = first<void>((tell) =>
      socket.onMessage(({ event, join_ref, payload, topic }) => {
        if (topic !== "phoenix") return
        assert.deepStrictEqual([join_ref, event, payload], [null, "phx_reply", { status: "ok", response: {} }])
        if (++beats === 2) tell()
      })
    )
    socket.connect()
    const channel = await joined(socket, topic)
    await beaten
    assert.deepStrictEqual(await response(channel.push("incr", {})), { counter: 1 })
    assert.strictEqual(closes, 0)
  })

  test("shows every message to onMessage in the order in which it came", async (topic) => {
    const socket = connected()
    const channel = await joined(socket, topic)
    const events: Array<string> = []
    socket.onMessage(({ event }) => events.push(event))
    await response(channel.push("push_two", {}))
    await response(channel.push("message:new", { body: 1 }))
    assert.deepStrictEqual(events, ["pushed", "pushed", "phx_reply", "message:new", "phx_reply"])
  })

  test("speaks V1 with an encoder of its own", async (topic) => {
    const socket = connected({
      vsn: "1.0.0",
      encode: (message, callback) => callback(JSON.stringify(message)),
      decode: (data, callback) => callback(JSON.parse(String(data)))
    })
    const channel = await joined(socket, topic, { echo: 1 })
    assert.deepStrictEqual(await response(channel.push("echo", { a: 1 })), { a: 1 })
    const heard = first((tell) => channel.on("message:new", tell))
    channel.push("message:new", { body: "hi" })
    assert.deepStrictEqual(await heard, { body: "hi", user_id: null })
    const error = first((tell) => channel.onError(tell))
    channel.push("crash", {})
    assert.deepStrictEqual(await error, { reason: "channel_crash" })
    assert.deepStrictEqual(await response(channel.push("incr", {})), { counter: 1 })
    await response(channel.leave())
  })

  test("closes by itself, and does not come back", async (topic) => {
    const socket = connected()
    await joined(socket, topic)
    const closed = first((tell) => socket.onClose(tell))
    await first<void>((tell) => socket.disconnect(tell, 4000, "enough"))
    await closed
    assert.isFalse(socket.isConnected())
  })

  test("is closed with 1011 for what is no message, and comes back", async (topic) => {
    let broken = false
    const socket = connected({
      encode: (message, callback) => {
        const { event, join_ref, payload, ref, topic } = message
        callback(broken ? "no message" : JSON.stringify([join_ref, ref, topic, event, payload]))
        broken = false
      }
    })
    const channel = await joined(socket, topic)
    const closed = first<{ code: number }>((tell) => socket.onClose(tell))
    broken = true
    channel.push("echo", {})
    assert.strictEqual((await closed).code, 1011)
    assert.deepStrictEqual(await response(channel.push("incr", {})), { counter: 1 })
  })
})

/** Turns the strings in which long polling carries bytes back into bytes, which phoenix.js does not. */
const decodeStrings = (socket: Phoenix.Socket): void => {
  const { decode } = socket
  socket.decode = (data, callback) => {
    const binary = typeof data === "string" && data.charCodeAt(0) < 32
    decode(binary ? Uint8Array.from(data, (c) => c.charCodeAt(0)).buffer : data, callback)
  }
}

describe("phoenix.js over LongPoll", () => {
  test("sends bytes, and gets them with a decoder that takes them out of a string", async (topic) => {
    const socket = client(server.port, { transport: Phoenix.LongPoll })
    decodeStrings(socket)
    socket.connect()
    const [polling, other] = [await joined(socket, topic), await joined(connected(), topic)]
    const data = Array.from({ length: 256 }, (_, i) => i)
    assert.deepStrictEqual(bytes(await response(polling.push("bin_echo", new Uint8Array(data).buffer))), data)
    const shouted = Promise.all([polling, other].map((channel) => first((tell) => channel.on("bin_shout", tell))))
    polling.push("bin_shout", new Uint8Array(data).buffer)
    assert.deepStrictEqual((await shouted).map(bytes), [data, data])
  })
})

class Told extends Context.Service<Told, { readonly transport: string; readonly authToken: string | undefined }>()(
  "phoenix-js/Told"
) {}

/** A server whose rooms say who they are told they talk to; a join of `slow:` waits. */
const serve = Effect.fnUntraced(function*(options: Omit<Endpoint.Options, "path">) {
  const released = yield* Deferred.make<void>()
  const asked = yield* Deferred.make<void>()
  const Room = Channel.make("room:*", { assigns: Told })
  const RoomLive = Room.layer(() => Effect.map(Told, (told) => ({ reply: told })))
  const Slow = Channel.make("slow:*")
  const SlowLive = Slow.layer(() =>
    Deferred.succeed(asked, undefined).pipe(
      Effect.andThen(Deferred.await(released)),
      Effect.as({ handleIn: (_event, payload) => Effect.succeed(Channel.ok(payload)) })
    )
  )
  const UserSocket = Socket.make("user_socket", { channels: [Room, Slow] })
  const UserSocketLive = UserSocket.layer(({ authToken, transport }) =>
    Effect.succeed(Socket.accept({ assigns: Context.make(Told, { authToken, transport }) }))
  )
  const live = HttpRouter.serve(Endpoint.mount(UserSocket, { path: "/socket", ...options }), {
    disableLogger: true,
    disableListenLog: true
  }).pipe(
    Layer.provide([RoomLive, SlowLive, UserSocketLive]),
    Layer.provide(PubSub.layer),
    Layer.provideMerge(
      Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })
    )
  )
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const context = yield* Layer.buildWithScope(live, scope)
  const { address } = Context.get(context, HttpServer.HttpServer)
  return {
    port: "port" in address ? address.port : 0,
    asked: Deferred.await(asked),
    release: Deferred.succeed(released, undefined)
  }
})

/** A test with a server of its own, which its clients leave before it stops. */
const served = (
  name: string,
  options: Omit<Endpoint.Options, "path">,
  body: (server: Effect.Success<ReturnType<typeof serve>>) => Promise<void>
) =>
  it.live(name, () =>
    Effect.gen(function*() {
      const server = yield* serve(options)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          for (const socket of open) socket.disconnect()
          open.clear()
        })
      )
      yield* Effect.promise(() => body(server))
    }))

describe("an authToken", () => {
  for (const [name, transport] of transports) {
    served(
      `is given to connect, whatever its characters, over ${name}`,
      { authToken: true, longpoll: true },
      async ({ port }) => {
        for (const authToken of ["simple", "SFMyNTY.g2gD.x-y_z", "~~>", "with \"quotes\" and spaces"]) {
          const channel = connected({ ...transport, authToken }, port).channel("room:1")
          assert.deepStrictEqual(await response(channel.join()), { transport: name.toLowerCase(), authToken })
        }
        const without = connected(transport, port).channel("room:1")
        assert.deepStrictEqual(await response(without.join()), { transport: name.toLowerCase() })
      }
    )
  }
})

describe("a join that takes too long", () => {
  served("is left and asked for again, and the channel works once the server gets to it", {}, async (server) => {
    const socket = connected({ timeout: 50, rejoinAfterMs: () => 1 }, server.port)
    const channel = socket.channel("slow:1")
    const push = channel.join()
    await first((tell) => push.receive("timeout", tell))
    const joined = first((tell) => push.receive("ok", tell))
    await Effect.runPromise(Effect.andThen(server.asked, server.release))
    await joined
    assert.deepStrictEqual(await response(channel.push("echo", { a: 1 }, 5000)), { a: 1 })
  })
})

describe("longPollFallbackMs", () => {
  const storage = () => {
    const items = new Map<string, string>()
    return {
      items,
      getItem: (key: string) => items.get(key) ?? null,
      setItem: (key: string, value: string) => void items.set(key, value)
    }
  }

  served(
    "falls back where there is no WebSocket, and remembers it",
    { websocket: false, longpoll: true },
    async ({ port }) => {
      const sessionStorage = storage()
      const options = { longPollFallbackMs: 10_000, sessionStorage }
      const socket = connected(options, port)
      assert.deepStrictEqual(await response(socket.channel("room:1").join()), { transport: "longpoll" })
      assert.strictEqual(socket.transport, Phoenix.LongPoll)
      assert.strictEqual(sessionStorage.items.get("phx:fallback:LongPoll"), "true")
      const next = connected(options, port)
      assert.strictEqual(next.transport, Phoenix.LongPoll)
      assert.deepStrictEqual(await response(next.channel("room:1").join()), { transport: "longpoll" })
    }
  )

  served(
    "falls back where a proxy swallows WebSockets, and stays where it does not",
    { longpoll: true },
    async ({ port }) => {
      const proxy = await Proxy.start(port)
      try {
        const options = { longPollFallbackMs: 50, sessionStorage: storage() }
        const channel = connected(options, proxy.port).channel("room:1")
        assert.deepStrictEqual(await response(channel.join()), { transport: "longpoll" })
      } finally {
        proxy.stop()
      }
      const direct = { longPollFallbackMs: 10_000, sessionStorage: storage() }
      assert.deepStrictEqual(await response(connected(direct, port).channel("room:1").join()), {
        transport: "websocket"
      })
      assert.strictEqual(direct.sessionStorage.items.size, 0)
    }
  )
})

/** Passes everything on but WebSocket handshakes, which it leaves without an answer. */
class Proxy {
  readonly port: number
  private readonly server: NetServer
  private readonly sockets: Set<NetSocket>

  private constructor(port: number, server: NetServer, sockets: Set<NetSocket>) {
    this.port = port
    this.server = server
    this.sockets = sockets
  }

  static start(target: number): Promise<Proxy> {
    const sockets = new Set<NetSocket>()
    const keep = (socket: NetSocket) => {
      sockets.add(socket)
      socket.on("error", () => {}).on("close", () => sockets.delete(socket))
    }
    const server = createNetServer((incoming) => {
      keep(incoming)
      incoming.once("data", (head: Buffer) => {
        if (head.includes("/websocket")) return
        const outgoing = connect(target, "127.0.0.1")
        keep(outgoing)
        outgoing.write(head)
        incoming.pipe(outgoing).pipe(incoming)
      })
    })
    return new Promise((resolve) =>
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        resolve(new Proxy(typeof address === "object" && address !== null ? address.port : 0, server, sockets))
      })
    )
  }

  stop(): void {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }
}
