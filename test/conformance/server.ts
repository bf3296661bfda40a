/**
 * The fixture application of the conformance suite, on the public API alone: it answers as the same application on Phoenix.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Cause, Config, Console, Context, Effect, Layer, References } from "effect"
import { Channel, Endpoint, Message, Presence, Process, PubSub, Socket } from "effect-channels"
import { HttpEffect, HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { teardown } from "../../scripts/teardown.ts"

class User extends Context.Service<User, { readonly id: string | null }>()("conformance/User") {}

type Json = { readonly [key: string]: unknown }
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)
const field = (payload: unknown, name: string): unknown =>
  isObject(payload) && Object.hasOwn(payload, name) ? payload[name] : undefined
/** What a clause's pattern asks for: without it there is no clause for the event, which crashes the channel. */
const required = (payload: unknown, name: string): unknown => {
  const value = field(payload, name)
  if (value === undefined) throw new TypeError(`there is no clause without ${name}`)
  return value
}
const text = (payload: unknown, name: string): string => {
  const value = required(payload, name)
  if (typeof value !== "string") throw new TypeError(`${name} must be a string`)
  return value
}
const milliseconds = (payload: unknown): number => {
  const value = required(payload, "ms")
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0) throw new TypeError("ms must be an integer")
  return value
}
const binary = (payload: unknown): Uint8Array => {
  if (payload instanceof Uint8Array) return payload
  throw new TypeError("the payload must be binary")
}
const object = (payload: unknown, name: string): Json => {
  const value = field(payload, name)
  if (!isObject(value)) throw new TypeError(`${name} must be a map`)
  return value
}
const truthy = (value: unknown): boolean => value !== undefined && value !== null && value !== false
const withKey = (payload: unknown, name: string, value: unknown): unknown => {
  if (!isObject(payload)) throw new TypeError("the payload is no map")
  return Object.fromEntries([...Object.entries(payload), [name, value]])
}

/** An exit reason as Elixir writes it. */
const inspect = (reason: Process.ExitReason): string => {
  switch (reason._tag) {
    case "Normal":
      return ":normal"
    case "Shutdown":
      return reason.detail === undefined ? ":shutdown" : `{:shutdown, :${String(reason.detail)}}`
    case "Killed":
      return ":killed"
    case "Crash":
      return Cause.squash(reason.cause) === "boom" ? "{:error, \"boom\"}" : "exception"
  }
}

const Room = Channel.make("room:*", { assigns: User, intercept: ["masked"] })

const RoomLive = Room.layer(
  Effect.fnUntraced(function*(room, payload) {
    const user = yield* User
    let counter = 0
    const roomId = room.topic.slice("room:".length)
    const tell = (reason: Process.ExitReason) =>
      Endpoint.broadcast("terminations", "terminated", { topic: room.topic, reason: inspect(reason) })
    // A refused join has no handlers, and terminates all the same: its Scope is told the reason. One that raises does not.
    yield* Effect.addFinalizer((exit) => {
      const reason = Process.exitReason(exit)
      return room.joined || reason._tag === "Shutdown" ? Effect.ignore(tell(reason)) : Effect.void
    })
    if (!isObject(payload)) return yield* Effect.die(new TypeError("the payload is no map"))
    if (truthy(field(payload, "deny"))) return yield* Effect.fail({ reason: "unauthorized" })
    if (truthy(field(payload, "crash"))) return yield* Effect.die(new Error("crash in join"))
    if (truthy(field(payload, "after_join"))) yield* room.send({ _tag: "AfterJoin" })
    const reply = isObject(payload) && Object.hasOwn(payload, "echo") ? payload["echo"] : {}

    const handleIn = (
      event: string,
      payload: unknown
    ): Effect.Effect<Channel.Answer | Channel.NoReply | void, unknown, PubSub.PubSub> => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "reply_ok":
          return Effect.succeed(Channel.ok())
        case "reply_error":
          return Effect.succeed(Channel.error(payload))
        case "reply_error_bare":
          return Effect.succeed(Channel.error())
        case "message:new":
          return Effect.as(
            room.broadcast("message:new", { body: required(payload, "body"), user_id: user.id }),
            Channel.ok()
          )
        case "typing:start":
          return room.broadcastFrom("typing:start", { user_id: user.id })
        case "push_me":
          return room.push("pushed", payload)
        case "push_two":
          return Effect.as(
            Effect.andThen(room.push("pushed", { n: 1 }), room.push("pushed", { n: 2 })),
            Channel.ok()
          )
        case "async_reply":
          return Effect.flatMap(
            room.ref,
            (ref) => Channel.reply(ref, "ok", payload).pipe(Effect.delay("50 millis"), Effect.forkDetach, Effect.asVoid)
          )
        case "slow":
          return Effect.as(Effect.sleep(milliseconds(payload)), Channel.ok())
        case "stop":
          return room.stop()
        case "stop_shutdown":
          return room.stop(Process.shutdown())
        case "stop_reply":
          return Effect.as(room.stop(), Channel.ok(payload))
        case "stop_error":
          return room.stop(Process.crash(Cause.fail("boom")))
        case "crash":
          return Effect.die(new Error("crash"))
        case "incr":
          return Effect.succeed(Channel.ok({ counter: ++counter }))
        case "send_after":
          return Effect.asVoid(
            room.sendAfter({ _tag: "Tick", value: required(payload, "value") }, milliseconds(payload))
          )
        case "masked":
          return room.broadcast("masked", payload)
        case "server_broadcast":
          return Effect.as(
            Endpoint.broadcast(text(payload, "topic"), text(payload, "event"), required(payload, "payload")),
            Channel.ok()
          )
        case "local_broadcast":
          return Effect.as(
            Endpoint.localBroadcast(text(payload, "topic"), text(payload, "event"), required(payload, "payload")),
            Channel.ok()
          )
        case "disconnect_user":
          return Effect.as(Endpoint.disconnect(`user_socket:${String(required(payload, "id") ?? "")}`), Channel.ok())
        case "subscribe":
          return Effect.as(room.subscribe(text(payload, "topic")), Channel.ok())
        case "unsubscribe":
          return Effect.as(room.unsubscribe(text(payload, "topic")), Channel.ok())
        case "info":
          return Effect.succeed(
            Channel.ok({ topic: room.topic, joined: room.joined, user_id: user.id, room_id: roomId })
          )
        case "bin_echo":
          return Effect.succeed(Channel.ok(binary(payload)))
        case "bin_push":
          return room.push("bin_pushed", binary(payload))
        case "bin_shout":
          return room.broadcast("bin_shout", binary(payload))
        default:
          return Effect.die(new Error(`no clause for ${event}`))
      }
    }

    return {
      reply,
      handleIn,
      handleOut: {
        masked: (payload: unknown) =>
          isObject(payload) && Object.hasOwn(payload, "skip_user") && payload["skip_user"] === user.id
            ? Effect.void
            : room.push("masked", withKey(payload, "for", user.id))
      },
      handleInfo: (message: unknown) => {
        switch (field(message, "_tag")) {
          case "AfterJoin":
            return room.push("messages:history", { messages: [] })
          case "Tick":
            return room.push("tick", { value: field(message, "value") })
          case "Broadcast": {
            const { event, payload, topic } = message as Message.Broadcast
            // Phoenix cannot write bytes inside of JSON either.
            if (payload instanceof Uint8Array) throw new TypeError("bytes cannot be relayed")
            return room.push("relayed", { topic, event, payload })
          }
          default:
            return Effect.void
        }
      }
    }
  })
)

const Notifications = Channel.make("notifications:*")
const NotificationsLive = Notifications.layer(() =>
  Effect.succeed({
    reply: { kind: "notifications" },
    handleIn: (event) => Effect.die(new Error(`no clause for ${event}`))
  })
)

const Online = Presence.make("conformance")

const Here = Channel.make("presence:*", { assigns: User })
const HereLive = Here.layer(
  Effect.fnUntraced(function*(channel, payload) {
    const user = yield* User
    const key = user.id ?? "anon"
    if (!isObject(payload)) return yield* Effect.die(new TypeError("the payload is no map"))
    yield* channel.send({ _tag: "AfterJoin", meta: truthy(payload["meta"]) ? payload["meta"] : { online_at: 1 } })

    const handleIn = (event: string, payload: unknown) => {
      switch (event) {
        case "update":
          return Effect.as(Effect.orDie(Online.update(channel, key, object(payload, "meta"))), Channel.ok())
        case "update_fn":
          return Effect.as(
            Effect.orDie(Online.update(channel, key, (meta) => ({ ...meta, n: Number(meta["n"] ?? 0) + 1 }))),
            Channel.ok()
          )
        case "track_as":
          return Online.track(channel, text(payload, "key"), object(payload, "meta")).pipe(
            Effect.as(Channel.ok()),
            Effect.catch(() => Effect.succeed(Channel.error({ reason: "already_tracked" })))
          )
        case "untrack":
          return Effect.as(Online.untrack(channel, key), Channel.ok())
        case "untrack_key":
          return Effect.as(Online.untrack(channel, text(payload, "key")), Channel.ok())
        case "list":
          return Effect.map(Online.list(channel), Channel.ok)
        case "get":
          return Effect.map(
            Online.getByKey(channel, text(payload, "key")),
            (found) => Channel.ok({ found: found ?? [] })
          )
        default:
          return Effect.die(new Error(`no clause for ${event}`))
      }
    }

    return {
      handleIn,
      handleInfo: (message: unknown) =>
        Effect.gen(function*() {
          yield* Online.track(channel, key, object(message, "meta"))
          yield* channel.push("presence_state", yield* Online.list(channel))
        }).pipe(Effect.orDie)
    }
  })
)

const UserSocket = Socket.make("user_socket", { channels: [Room, Here, Notifications] })
const UserSocketLive = UserSocket.layer(({ params }) => {
  if (params["token"] === "bad") return Effect.fail(Socket.refuse())
  const id = typeof params["user_id"] === "string" ? params["user_id"] : null
  return Effect.succeed(
    Socket.accept({ id: id === null ? undefined : `user_socket:${id}`, assigns: Context.make(User, { id }) })
  )
})

/** Plug's default, which the recordings show wherever the transports say nothing themselves. */
const cacheControl = HttpEffect.withPreResponseHandler((_request, response) =>
  Effect.succeed(
    "cache-control" in response.headers
      ? response
      : HttpServerResponse.setHeader(response, "cache-control", "max-age=0, private, must-revalidate")
  )
)

const Main = Layer.unwrap(Effect.gen(function*() {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(4000))
  const timeout = yield* Config.Int("WS_TIMEOUT").pipe(Config.withDefault(60_000))
  const checkOrigin = yield* Config.String("CHECK_ORIGIN").pipe(
    Config.map((list): ReadonlyArray<string> | false =>
      list === "" ? false : list.split(",").map((item) => item.trim())
    ),
    Config.withDefault(false as const)
  )
  const window = yield* Config.Int("LONGPOLL_WINDOW").pipe(Config.withDefault(10_000))
  const Sockets = Endpoint.mount(UserSocket, {
    path: "/socket",
    websocket: { timeout, checkOrigin },
    longpoll: { checkOrigin, window, pubsubTimeout: "2 seconds" }
  })
  const Listening = Layer.effectDiscard(Effect.andThen(HttpServer.HttpServer, Console.log("listening")))
  const Http = HttpRouter.serve(Sockets, {
    disableListenLog: true,
    disableLogger: true,
    middleware: cacheControl,
    routerConfig: { caseSensitive: true }
  })
  return Layer.provideMerge(Listening, Http).pipe(
    Layer.provide([RoomLive, HereLive, NotificationsLive, UserSocketLive]),
    Layer.provide(Online.layer()),
    Layer.provide(PubSub.layer),
    Layer.provide(Endpoint.layer(createServer, { port, host: "127.0.0.1" })),
    Layer.provide(Layer.succeed(References.MinimumLogLevel, "Warn"))
  )
}))

NodeRuntime.runMain(Layer.launch(Main), { teardown })
