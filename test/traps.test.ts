/** What has gone wrong in Phoenix, or nearly: each test names the one of Phoenix that keeps it right there. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Result } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { readFileSync } from "node:fs"
import { createServer } from "node:http"
// @ts-expect-error the package comes without types
import { Serializer as PhoenixSerializer, Socket as Phoenix } from "phoenix"
import { WebSocket } from "ws"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Message from "../src/Message.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"
import * as Token from "../src/Token.ts"
import * as Polling from "./transport/polling.ts"
import { Client, start } from "./transport/server.ts"

/** Those for which a test elsewhere would be the same here. */
const elsewhere: Readonly<Record<string, string>> = {
  "socket/socket: \"returns the correct channel handler module\"":
    "test/Socket.test.ts > the first channel that matches serves a topic; a star matches nothing too, and needs no colon",
  "socket/transport: \"halts invalid URIs when check origin is configured\"":
    "test/internal/origin.test.ts > refuses origins without a host and malformed ones by list, true and conn",
  "socket/transport: \"nested wildcard subdomains\"":
    "test/internal/origin.test.ts > matches the host behind a leading wildcard and every host below, but no lookalike",
  "socket/transport: \"checks the origin of requests against allowed origins\"":
    "test/internal/origin.test.ts > takes a scheme for its default port",
  "no test of Phoenix: a binary push with an empty join_ref is stale":
    "test/Socket.test.ts > a binary push with an empty join_ref is stale",
  "presence: \"get_by_key/2 returns metadata for key\"": "test/Presence.test.ts > is sent what list says, to the ref",
  "presence: \"handle_diff broadcasts events with custom fetched data\"":
    "test/Presence.test.ts > adds to list, getByKey, and to the joins and leaves of every diff, also where there are none",
  "presence_test.js: \"applies pending diff if state is not yet synced\"":
    "test/Presence.test.ts > keeps the diffs that come before the state until it is there",
  "tracker/state: \"users from other servers merge\"":
    "test/properties/replica.test.ts > sees an update as a leave and a join under one key",
  "tracker/state: \"merging deltas with removes\"":
    "test/properties/replica.test.ts > takes a delta that overlaps what it has, and none that tells nothing new",
  "tracker/delta_generation: \"an empty delta is not extracted\"":
    "test/properties/replica.test.ts > sends a snapshot to who has missed more removals than it remembers",
  "tracker/shard_replication: \"rolling node update\"":
    "test/properties/replica.test.ts > answers no request that was meant for its older life",
  "tracker/shard_replication: \"requests for transfer collapses clocks\"":
    "test/properties/replica.test.ts > brings a new node up to date with one snapshot, and so does every other owner",
  "tracker/shard_replication: \"tempdowns with nodeups of new vsn, and permdowns\"":
    "test/properties/replica.test.ts > takes all presences of its older life away"
}

describe("every trap is held", () => {
  for (const [trap, test] of Object.entries(elsewhere)) {
    it(`${trap} by ${test}`, () => {
      const [file = "", name = ""] = test.split(" > ")
      assert.include(readFileSync(file, "utf8"), JSON.stringify(name))
    })
  }
})

// --- a node -----------------------------------------------------------------------------------------------------------

/** How channels have ended. */
const terminated: Array<string> = []
let gate = Deferred.makeUnsafe<void>()

const Room = Channel.make("room:*", { intercept: ["masked"] })
const RoomLive = Room.layer((room, payload) =>
  Effect.as(payload === "hold" ? Deferred.await(gate) : Effect.void, {
    handleIn: (event, payload) => {
      switch (event) {
        case "both":
          return Effect.andThen(room.broadcast("said", payload), room.push("heard", payload))
        case "masked":
          return Effect.as(room.broadcast("masked", payload), Channel.ok())
        case "crash":
          return Effect.die("crash")
        case "stop":
          return room.stop()
        case "hang":
          return Effect.never
        default:
          return Effect.succeed(Channel.ok(payload))
      }
    },
    handleOut: { masked: (payload) => room.push("masked", payload) },
    terminate: ({ _tag }) => Effect.andThen(Effect.sync(() => void terminated.push(_tag)), room.push("bye", {}))
  })
)

/** What comes of asking for a ref. */
const attempt = (room: Channel.Self) =>
  Effect.map(Effect.exit(room.ref), (exit) => {
    if (Exit.isSuccess(exit)) return "a ref"
    const error = Cause.squash(exit.cause)
    return error instanceof Channel.ChannelError ? error.code : String(error)
  })
const Refs = Channel.make("refs")
const RefsLive = Refs.layer((room) =>
  Effect.map(attempt(room), (joining) => ({
    reply: { joining },
    handleIn: () => Effect.map(attempt(room), (handling) => Channel.ok({ handling }))
  }))
)

const Gateway = Channel.make("gateway:*")
const GatewayLive = Gateway.layerCustom((gateway, payload) => {
  if (payload === "crash") return Effect.die("crash in join")
  if (payload === "refuse") return Effect.fail({ reason: "not you" })
  return Effect.succeed({
    handleIn: ({ payload, ref, topic }) => gateway.send(Message.reply(gateway.joinRef, ref, topic, "ok", payload))
  })
})

const UserSocket = Socket.make("user_socket", { channels: [Room, Refs, Gateway] })
const warnings: Array<unknown> = []
const logger = Logger.make(({ logLevel, message }) => {
  if (logLevel === "Warn") warnings.push(Array.isArray(message) ? message[0] : message)
})
const socketLive = Layer.mergeAll(
  RoomLive,
  RefsLive,
  GatewayLive,
  UserSocket.layer(() => Effect.succeed(Socket.accept()))
)
const live = socketLive.pipe(Layer.provideMerge(ChannelTest.layer), Layer.provideMerge(Logger.layer([logger])))

/** A connection of which the test sees every frame. */
const open = Effect.fnUntraced(function*(options: { readonly id?: string; readonly v1?: boolean } = {}) {
  terminated.length = 0
  warnings.length = 0
  const acceptor = yield* Socket.acceptor(UserSocket)
  const received: Array<unknown> = []
  const codes: Array<number> = []
  const server = acceptor.open(
    {
      name: "test",
      send: (frame) => void received.push(typeof frame === "string" ? JSON.parse(frame) : frame),
      close: (code) => void codes.push(code)
    },
    options.v1 === true ? Serializer.v1 : Serializer.v2,
    { id: options.id, assigns: Context.empty() }
  )
  const take = Effect.map(ChannelTest.settle, () => received.splice(0))
  /** Sends a frame; what comes back. */
  const send = (frame: unknown) => Effect.andThen(Effect.sync(() => server.receive(JSON.stringify(frame))), take)
  return { codes, drain: acceptor.drain, send, take, pid: server.pid }
})

const ok = (joinRef: unknown, ref: unknown, topic: string, response: unknown = {}) =>
  [joinRef, ref, topic, "phx_reply", { status: "ok", response }] as const
const failed = (joinRef: unknown, ref: unknown, topic: string, reason: string) =>
  [joinRef, ref, topic, "phx_reply", { status: "error", response: { reason } }] as const
const closed = (joinRef: unknown, topic: string) => [joinRef, joinRef, topic, "phx_close", {}] as const
const crashed = (joinRef: unknown, topic: string) =>
  [joinRef, joinRef, topic, "phx_error", { reason: "channel_crash" }] as const

const url = (port: number, path: string) => `ws://127.0.0.1:${port}${path}/websocket?vsn=2.0.0`

// --- the traps --------------------------------------------------------------------------------------------------------

describe("frames", () => {
  it.effect(
    "a topic that no channel serves is answered with join_ref null although the join has one, and warned of (websocket_channels: \"warns for unmatched topic\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        assert.deepStrictEqual(yield* send(["7", "7", "nowhere", "phx_join", {}]), [
          failed(null, "7", "nowhere", "unmatched topic")
        ])
        assert.deepStrictEqual(warnings, ["join of a topic that no channel serves"])
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "pushes carry the join_ref and broadcasts none; once left, a topic is unmatched (websocket_channels: \"join, leave, and event messages\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        yield* send(["1", "1", "room:1", "phx_join", {}])
        assert.deepStrictEqual(yield* send(["1", "2", "room:1", "both", {}]), [
          [null, null, "room:1", "said", {}],
          ["1", null, "room:1", "heard", {}]
        ])
        yield* send(["1", "3", "room:1", "phx_leave", {}])
        assert.deepStrictEqual(yield* send(["1", "4", "room:1", "both", {}]), [
          failed(null, "4", "room:1", "unmatched topic")
        ])
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "a channel's broadcast comes before what it pushes next (long_poll_channels: \"lonpoll publishing batch events on v2 protocol\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        yield* send(["1", "1", "room:1", "phx_join", {}])
        const frames = yield* send(["1", "2", "room:1", "both", {}])
        assert.deepStrictEqual(frames.map((frame) => (frame as ReadonlyArray<unknown>)[3]), ["said", "heard"])
      }).pipe(Effect.provide(live))
  )

  it.live(
    "a join may have another ref than join_ref, and each is echoed, also below a mount of several segments (websocket_channels: \"endpoint handles multiple mount segments\")",
    () =>
      Effect.gen(function*() {
        const { port } = yield* start([{ path: "/ws" }, { path: "/ws/admin" }])
        const client = yield* Effect.promise(() => Client.open(url(port, "/ws/admin")))
        const reply = yield* Effect.promise(() => client.ask(["11", "1", "room:1", "phx_join", {}]))
        assert.deepStrictEqual(reply, ok("11", "1", "room:1"))
      })
  )

  it.effect(
    "a ref to reply to is to be had only after the join, and for a message that has one (channel: \"socket_ref raises ArgumentError when socket is not joined or has no ref\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        assert.deepStrictEqual(yield* send(["1", "1", "refs", "phx_join", {}]), [
          ok("1", "1", "refs", { joining: "NO_REF" })
        ])
        assert.deepStrictEqual(yield* send(["1", "2", "refs", "ask", {}]), [
          ok("1", "2", "refs", { handling: "a ref" })
        ])
        assert.deepStrictEqual(yield* send(["1", null, "refs", "ask", {}]), [
          ok("1", null, "refs", { handling: "NO_REF" })
        ])
      }).pipe(Effect.provide(live))
  )
})

describe("joining", () => {
  it.effect(
    "a custom channel may refuse, or crash in its join: the same connection then joins one (websocket_channels: \"join, ignore, error, and event messages\")",
    () =>
      Effect.gen(function*() {
        const { codes, send } = yield* open()
        assert.deepStrictEqual(yield* send(["1", "1", "gateway:1", "phx_join", "crash"]), [
          failed("1", "1", "gateway:1", "join crashed")
        ])
        assert.deepStrictEqual(yield* send(["2", "2", "gateway:1", "phx_join", "refuse"]), [
          failed("2", "2", "gateway:1", "not you")
        ])
        assert.deepStrictEqual(yield* send(["3", "3", "gateway:1", "phx_join", {}]), [ok("3", "3", "gateway:1")])
        assert.deepStrictEqual(yield* send(["3", "4", "gateway:1", "any", "thing"]), [
          ok("3", "4", "gateway:1", "thing")
        ])
        assert.deepStrictEqual(codes, [])
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "a second join of a topic is answered ok, before the first is told of its end (websocket_channels: \"duplicate join event closes existing channel\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        yield* send(["1", "1", "room:1", "phx_join", {}])
        const frames = yield* send(["2", "2", "room:1", "phx_join", {}])
        assert.deepStrictEqual(frames.slice(-2), [ok("2", "2", "room:1"), closed("1", "room:1")])
        assert.deepStrictEqual(yield* send(["2", "3", "room:1", "echo", {}]), [ok("2", "3", "room:1")])
      }).pipe(Effect.provide(live))
  )
})

describe("endings", () => {
  it.effect(
    "a crash is told with the join_ref as ref, and its reason (long_poll_channels: \"sends phx_error if a channel server abnormally exits\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        yield* send(["1", "1", "room:1", "phx_join", {}])
        const frames = yield* send(["1", "2", "room:1", "crash", {}])
        assert.deepStrictEqual(frames.at(-1), crashed("1", "room:1"))
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "terminate runs when a handler dies, and no close is told (test/channel: \"crashed channel propagates exit\")",
    () =>
      Effect.gen(function*() {
        const { send } = yield* open()
        yield* send(["1", "1", "room:1", "phx_join", {}])
        const frames = yield* send(["1", "2", "room:1", "crash", {}])
        assert.deepStrictEqual(terminated, ["Crash"])
        assert.deepStrictEqual(frames, [["1", null, "room:1", "bye", {}], crashed("1", "room:1")])
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "a channel that does not end within its shutdown time is killed, without terminate (test/channel: \"kills the channel when we reach timeout on close\")",
    () =>
      Effect.gen(function*() {
        terminated.length = 0
        const room = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
        yield* ChannelTest.push(room, "hang")
        yield* ChannelTest.settle
        const closing = yield* Effect.forkChild(ChannelTest.close(room), { startImmediately: true })
        yield* TestClock.adjust("4999 millis")
        assert.isTrue(yield* Process.alive(room.pid))
        yield* TestClock.adjust("1 milli")
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* Process.awaitExit(room.pid), Process.killed)
        assert.deepStrictEqual(terminated, [])
        yield* ChannelTest.close(room)
      }).pipe(Effect.provide(live))
  )

  it.effect(
    "a disconnect closes with 1001, after which clients connect again (socket/socket: \"disconnect broadcast emits close code 1001 so phoenix.js reconnects\")",
    () =>
      Effect.gen(function*() {
        const { codes } = yield* open({ id: "users:1" })
        yield* Endpoint.disconnect("users:1")
        yield* ChannelTest.settle
        assert.deepStrictEqual(codes, [1001])
      }).pipe(Effect.provide(live))
  )
})

describe("connecting", () => {
  it.effect(
    "a heartbeat puts the idle timeout off, once (websocket_channels: \"shuts down if client goes quiet\")",
    () =>
      Effect.gen(function*() {
        const { port } = yield* start([{ path: "/ws", websocket: { timeout: "10 seconds" } }])
        const client = yield* Effect.promise(() => Client.open(url(port, "/ws")))
        yield* TestClock.adjust("9 seconds")
        const beat = yield* Effect.promise(() => client.ask([null, "1", "phoenix", "heartbeat", {}]))
        assert.deepStrictEqual(beat, ok(null, "1", "phoenix"))
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual(client.ws.readyState, WebSocket.OPEN)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* Effect.promise(() => client.closed)).code, 1002)
      })
  )

  it.effect(
    "a wrong CSRF token costs the session, not the connection (websocket_channels: \"transport session is extracted to the socket connect_info\")",
    () =>
      Effect.gen(function*() {
        const content = { _csrf_token: "secret", user: 1 }
        const session = { cookie: "_app", read: () => Effect.succeed(content) }
        const node = yield* Polling.start({ session })
        const headers = { cookie: "_app=anything" }
        for (const query of ["?vsn=2.0.0", "?vsn=2.0.0&_csrf_token=guess", "?vsn=2.0.0&_csrf_token=secret"]) {
          const { body } = yield* node.request("GET", { headers, query })
          assert.include(body, { status: 410 })
        }
        assert.deepStrictEqual(node.stage.infos.map(({ session }) => session), [undefined, undefined, content])
      })
  )

  it.live(
    "an ordinary GET of the WebSocket's path is a 400 that names the header (websocket_socket: \"handles invalid upgrade requests\")",
    () =>
      Effect.gen(function*() {
        const { port } = yield* start([{ path: "/ws" }])
        const response = yield* Effect.promise(() => fetch(url(port, "/ws").replace("ws:", "http:")))
        assert.strictEqual(response.status, 400)
        assert.include(yield* Effect.promise(() => response.text()), "'connection' header")
      })
  )

  it.live(
    "two mounts of one socket have each its own checkOrigin (socket/transport: \"does not share the origin policy between mounts of the same handler\")",
    () =>
      Effect.gen(function*() {
        const { port } = yield* start([
          { path: "/a", websocket: { checkOrigin: ["//a.example"] } },
          { path: "/b", websocket: { checkOrigin: ["//b.example"] } }
        ])
        for (const [mine, other] of [["a", "b"], ["b", "a"]] as const) {
          const from = (name: string) => ({ origin: `https://${name}.example` })
          yield* Effect.promise(() => Client.open(url(port, `/${mine}`), from(mine)))
          assert.strictEqual(yield* Effect.promise(() => Client.refused(url(port, `/${mine}`), from(other))), 403)
        }
      })
  )

  it.live(
    "subprotocols that are no list do not compile, and do not mount (socket/transport: \"halt if expected subprotocols passed in the wrong format\")",
    () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(start([
          // @ts-expect-error it has to be a list
          { path: "/ws", websocket: { subprotocols: "sip" } }
        ]))
        assert.match(
          Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "mounted",
          /subprotocols must be a list of names/
        )
      })
  )
})

describe("long polling", () => {
  it.effect(
    "later frames need no join_ref (long_poll_channels: \"no join_ref is required on non-join messages\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, ["1", "1", "room:1", "phx_join", {}], [null, "2", "room:1", "echo", { n: 1 }])
        yield* TestClock.adjust(0)
        const { messages } = yield* node.get(token)
        assert.deepStrictEqual(messages, [ok("1", "1", "room:1"), ok("1", "2", "room:1", { n: 1 })])
      })
  )

  it.effect(
    "a leave with an earlier join_ref is dropped, one without any counts, and the close has the join's (long_poll_channels: \"ignores stale join refs and accepts a nil join ref on phx_leave\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, ["2", "2", "room:1", "phx_join", {}], ["1", "3", "room:1", "phx_leave", {}])
        yield* node.say(token, ["2", "4", "room:1", "echo", {}])
        yield* TestClock.adjust(0)
        assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("2", "2", "room:1"), ok("2", "4", "room:1")])
        yield* node.say(token, [null, "5", "room:1", "phx_leave", {}])
        yield* TestClock.adjust(0)
        assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("2", "5", "room:1"), closed("2", "room:1")])
      })
  )

  it.effect(
    "a stale entry of a post is dropped, the others count, and the answer is 200 (long_poll_channels: \"lonpoll publishing batch events on v2 protocol\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, ["2", "2", "room:1", "phx_join", {}])
        const status = yield* node.say(
          token,
          ["1", "3", "room:1", "echo", {}],
          ["2", "4", "room:1", "echo", {}],
          [null, "5", "room:1", "echo", {}]
        )
        assert.strictEqual(status, 200)
        yield* TestClock.adjust(0)
        const { messages } = yield* node.get(token)
        assert.deepStrictEqual(messages, [ok("2", "2", "room:1"), ok("2", "4", "room:1"), ok("2", "5", "room:1")])
      })
  )

  it.effect(
    "the entry after the hundredth is lost without a word (long_poll_channels: \"ignores ndjson batch entries after the first 100\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, ["1", "1", "room:1", "phx_join", {}])
        const entries = Array.from({ length: 101 }, (_, n) => ["1", n, "room:1", "echo", n])
        assert.strictEqual(yield* node.say(token, ...entries), 200)
        yield* node.say(token, ["1", "last", "room:1", "echo", {}])
        yield* TestClock.adjust(0)
        const messages = (yield* node.get(token))["messages"] as ReadonlyArray<unknown>
        assert.deepStrictEqual(messages.slice(-2), [ok("1", 99, "room:1", 99), ok("1", "last", "room:1")])
        assert.strictEqual(messages.length, 102)
      })
  )

  it.effect(
    "a post to a connection that is held up is answered 408 in the body of an HTTP 200 (long_poll_channels: \"publish responds with 408 when transport_dispatch times out\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        const body = JSON.stringify(["1", "1", "slow:1", "phx_join", {}])
        const asked = yield* Effect.forkChild(node.request("POST", { token, body }))
        yield* Deferred.await(node.stage.entered)
        yield* TestClock.adjust("10 seconds")
        const told = yield* Fiber.join(asked)
        yield* Deferred.succeed(node.stage.gate, undefined)
        assert.deepStrictEqual([told.http, told.body], [200, { status: 408 }])
      })
  )

  it.effect(
    "a session that nobody polls is gone after one and a half windows: 410 (long_poll_channels: \"shuts down after timeout\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, ["1", "1", "room:1", "phx_join", {}])
        yield* TestClock.adjust("15 seconds")
        assert.deepStrictEqual(node.stage.endings, ["inactive"])
        assert.strictEqual(yield* node.say(token, [null, "2", "phoenix", "heartbeat", {}]), 410)
      })
  )

  it.effect(
    "a post to a topic that is not joined is answered 200, its error comes by poll (long_poll_channels: \"publishing events\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        assert.strictEqual(yield* node.say(token, ["1", "9", "room:private", "echo", {}]), 200)
        assert.deepStrictEqual((yield* node.get(token))["messages"], [
          failed(null, "9", "room:private", "unmatched topic")
        ])
        assert.deepStrictEqual(node.stage.handled, [])
      })
  )

  it.effect(
    "a foreign origin is refused by a 403 in the body of an HTTP 200 (long_poll_socket: \"refuses unallowed origins\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start({ checkOrigin: ["//example.com"] })
        const from = (origin: string) => node.request("GET", { headers: { origin } })
        const refused = yield* from("http://notallowed.com")
        assert.deepStrictEqual([refused.http, refused.body], [200, { status: 403 }])
        assert.include((yield* from("https://example.com")).body, { status: 410 })
      })
  )

  it.effect(
    "a token in the header counts, and the one in the query does not (long_poll_socket: \"the header takes precedence over a stale params token\")",
    () =>
      Effect.gen(function*() {
        const node = yield* Polling.start()
        const token = yield* node.start()
        yield* node.say(token, [null, "1", "phoenix", "heartbeat", {}])
        const ask = (header: string, query: string) =>
          node.request("GET", { token: query, headers: { "x-phoenix-longpoll-token": header } })
        assert.include((yield* ask("stale", token)).body, { status: 410 })
        assert.include((yield* ask(token, "stale")).body, { status: 200, token })
      })
  )
})

describe("serializers", () => {
  it(
    "a V1 frame has no join_ref, and any payload (socket/v1_json_serializer: \"encode!/1 encodes `Phoenix.Socket.Message` as JSON\")",
    () => {
      const frame = Result.getOrThrow(Serializer.v1.encode(Message.message("1", "2", "t", "e", "text")))
      assert.deepStrictEqual(JSON.parse(String(frame)), { topic: "t", event: "e", payload: "text", ref: "2" })
    }
  )

  it(
    "a V2 push has an object for its payload, or is not made (socket/v2_json_serializer: \"encode!/1 raises when payload is not a map\")",
    () => {
      for (const payload of ["text", 1, null, []]) {
        assert.isTrue(Result.isFailure(Serializer.v2.encode(Message.message("1", null, "t", "e", payload))))
      }
    }
  )

  it(
    "lengths in binary frames are those of UTF-8 for phoenix.js and for us (serializer_test.js: \"encodes non-ASCII metadata as UTF-8\")",
    () => {
      const payload = new Uint8Array([1, 2])
      const sent = { join_ref: "1", ref: "2", topic: "zimmer:ü", event: "größe", payload: payload.buffer }
      PhoenixSerializer.encode(sent, (frame: ArrayBuffer) => {
        const read = Result.getOrThrow(Serializer.v2.decode(new Uint8Array(frame), "binary"))
        assert.deepInclude(read, { joinRef: "1", ref: "2", topic: "zimmer:ü", event: "größe", payload })
      })
      const frame = Result.getOrThrow(Serializer.v2.fastlane(Message.broadcast("zimmer:ü", "größe", payload)))
      PhoenixSerializer.decode(Uint8Array.from(Array.from(frame as Uint8Array)).buffer, (read: typeof sent) => {
        assert.deepInclude(read, { topic: "zimmer:ü", event: "größe" })
        assert.deepStrictEqual(new Uint8Array(read.payload), payload)
      })
    }
  )
})

describe("tokens and PubSub", () => {
  it.effect(
    "a token that may be zero seconds old, or less, has expired; parts of a second count (token: \"supports max age in seconds\")",
    () =>
      Effect.gen(function*() {
        const tokens = yield* Token.make({ secretKeyBase: "abc123".repeat(5) })
        const token = yield* tokens.sign("id", 1)
        const verify = (maxAge: number) => Effect.result(tokens.verify("id", token, { maxAge }))
        for (const maxAge of [0, -300]) assert.isTrue(Result.isFailure(yield* verify(maxAge)), String(maxAge))
        yield* TestClock.adjust(100)
        assert.isTrue(Result.isSuccess(yield* verify(100)))
        yield* TestClock.adjust(1)
        assert.isTrue(Result.isFailure(yield* verify(100)))
      })
  )

  it.effect(
    "each subscriber says itself what becomes of a message, and unlike with a custom dispatcher the sender is left out for it (phoenix_pubsub, pubsub: \"with custom dispatching\")",
    () =>
      Effect.gen(function*() {
        const pubsub = yield* PubSub.PubSub
        const heard: Array<unknown> = []
        const subscriber = Effect.fnUntraced(function*(name: string) {
          const pid = yield* Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
          yield* pubsub.subscribe("t", { pid, deliver: (message) => void heard.push([name, message]) })
          return pid
        })
        const sender = yield* subscriber("sender")
        yield* subscriber("other")
        yield* PubSub.broadcastFrom(sender, "t", "hello")
        assert.deepStrictEqual(heard, [["other", "hello"]])
      }).pipe(Effect.provide(live))
  )
})

describe("phoenix.js", () => {
  const serve = Effect.gen(function*() {
    const http = Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })
    const mount = Endpoint.mount(UserSocket, { path: "/socket" })
    const context = yield* Layer.build(
      HttpRouter.serve(mount, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provide(socketLive),
        Layer.provideMerge(Layer.mergeAll(PubSub.layer, http)),
        Layer.provide(Logger.layer([logger]))
      )
    )
    const { address } = Context.get(context, HttpServer.HttpServer)
    return { context, address: `ws://127.0.0.1:${"port" in address ? address.port : 0}/socket` }
  })

  it.live(
    "comes back after whatever ends its connection here: no code is 1000, after which older ones stay away (socket_test.js: \"does not schedule reconnectTimer if normal close\")",
    () =>
      Effect.gen(function*() {
        const { address, context } = yield* serve
        const client = new Phoenix(address, { transport: WebSocket, reconnectAfterMs: () => 1 })
        const opened = () => new Promise<void>((resolve) => client.onOpen(resolve))
        const codes: Array<number> = []
        client.onClose(({ code }: { code: number }) => void codes.push(code))
        const first = opened()
        client.connect()
        yield* Effect.promise(() => first)
        const endings = [
          Process.killed,
          Process.shutdown(),
          Process.shutdown("disconnected"),
          Process.crash(Cause.die(1))
        ]
        for (const reason of endings) {
          const again = opened()
          const sockets = yield* Effect.provideContext(Endpoint.sockets, context)
          assert.strictEqual(sockets.length, 1)
          for (const { pid } of sockets) yield* Process.exit(pid, reason)
          yield* Effect.promise(() => again)
        }
        client.disconnect()
        assert.deepStrictEqual(codes.slice(0, 4), [1011, 1012, 1001, 1011])
      })
  )

  it.live(
    "gives up a join that takes too long with a leave, and is joined after it has tried again (channel_test.js: \"retries with backoff after timeout\")",
    () =>
      Effect.gen(function*() {
        gate = Deferred.makeUnsafe<void>()
        const { address } = yield* serve
        const pushed: Array<string> = []
        const client = new Phoenix(address, {
          transport: WebSocket,
          timeout: 100,
          rejoinAfterMs: () => 1,
          logger: (kind: string, message: string) => {
            const event = /phx_join|phx_leave/.exec(message)?.[0]
            if (kind === "push" && event !== undefined) pushed.push(event)
          }
        })
        client.connect()
        const channel = client.channel("room:1", () => "hold")
        const joining = channel.join()
        yield* Effect.promise(() => new Promise((resolve) => joining.receive("timeout", resolve)))
        Deferred.doneUnsafe(gate, Exit.void)
        yield* Effect.promise(() => new Promise((resolve) => joining.receive("ok", resolve)))
        assert.deepStrictEqual(pushed.slice(0, 3), ["phx_join", "phx_leave", "phx_join"])
        const echoed = yield* Effect.promise(() =>
          new Promise((resolve) => channel.push("echo", { n: 1 }).receive("ok", resolve))
        )
        assert.deepStrictEqual(echoed, { n: 1 })
        client.disconnect()
      })
  )
})

describe("what no test of Phoenix holds", () => {
  it.effect("an empty line in a post is skipped, where Phoenix loses the session", () =>
    Effect.gen(function*() {
      const node = yield* Polling.start()
      const token = yield* node.start()
      const beat = JSON.stringify([null, "1", "phoenix", "heartbeat", {}])
      assert.strictEqual(yield* node.post(token, `\n${beat}\r\n\r\n`), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [ok(null, "1", "phoenix")])
    }))

  it.effect("a V1 object in a post of several lines is taken for base64: HTTP 500", () =>
    Effect.gen(function*() {
      const node = yield* Polling.start()
      const token = yield* node.start("?vsn=1.0.0")
      const beat = JSON.stringify({ topic: "phoenix", event: "heartbeat", payload: {}, ref: "1" })
      assert.strictEqual(yield* node.post(token, beat), "HTTP 500")
      assert.strictEqual(yield* node.post(token, beat, "application/json"), 200)
    }))

  it.effect("a connection without channels is drained too: 1012, where Phoenix closes it with 1000", () =>
    Effect.gen(function*() {
      const { codes, drain } = yield* open()
      yield* drain
      yield* ChannelTest.settle
      assert.deepStrictEqual(codes, [1012])
    }).pipe(Effect.provide(live)))

  it.effect("a channel's own broadcast comes after the reply if it is intercepted", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send(["1", "1", "room:1", "phx_join", {}])
      assert.deepStrictEqual(yield* send(["1", "2", "room:1", "masked", {}]), [
        ok("1", "2", "room:1"),
        ["1", null, "room:1", "masked", {}]
      ])
    }).pipe(Effect.provide(live)))

  it.effect("what terminate pushes comes after phx_close", () =>
    Effect.gen(function*() {
      const { send } = yield* open()
      yield* send(["1", "1", "room:1", "phx_join", {}])
      assert.deepStrictEqual(yield* send(["1", "2", "room:1", "stop", {}]), [
        closed("1", "room:1"),
        ["1", null, "room:1", "bye", {}]
      ])
    }).pipe(Effect.provide(live)))

  it.effect("a broadcast of bytes passes by clients of V1, where in Phoenix it fails in the broadcaster", () =>
    Effect.gen(function*() {
      const old = yield* open({ v1: true })
      const current = yield* open()
      yield* old.send({ topic: "room:1", event: "phx_join", payload: {}, ref: "1" })
      yield* current.send(["1", "1", "room:1", "phx_join", {}])
      yield* Endpoint.broadcast("room:1", "bytes", new Uint8Array([7]))
      assert.deepStrictEqual(yield* old.take, [])
      assert.deepStrictEqual(yield* current.take, [Uint8Array.of(2, 6, 5, ...Buffer.from("room:1bytes"), 7)])
    }).pipe(Effect.provide(live)))

  it.effect("a broadcast of bytes reaches who polls as a string of a character for each, where in Phoenix it fails", () =>
    Effect.gen(function*() {
      const node = yield* Polling.start()
      const token = yield* node.start()
      yield* node.say(token, ["1", "1", "room:1", "phx_join", {}])
      yield* node.get(token)
      yield* node.run(Endpoint.broadcast("room:1", "bytes", new Uint8Array([7, 255])))
      const { body } = yield* node.request("GET", { token })
      assert.deepInclude(body, { status: 200, messages: ["\u0002\u0006\u0005room:1bytes\u0007\u00ff"] })
    }))
})
