/** What must compile, and beside it what must not; checked by `tsc`, never run. */
import { Context, Effect, Layer, Schema } from "effect"
import { Channel, ChannelTest, Endpoint, Process, PubSub, Socket } from "effect-channels"
import type { HttpRouter } from "effect/http"

class User extends Context.Service<User, { readonly id: string }>()("types/User") {}
class Tenant extends Context.Service<Tenant, { readonly name: string }>()("types/Tenant") {}
class Store
  extends Context.Service<Store, { readonly save: (text: string) => Effect.Effect<number> }>()("types/Store")
{}

const Room = Channel.make("room:*", {
  assigns: User,
  join: {
    payload: Schema.Struct({ since: Schema.Finite }),
    success: Schema.Struct({ count: Schema.Finite }),
    error: Schema.Struct({ reason: Schema.Literal("unauthorized") })
  },
  incoming: {
    say: {
      payload: Schema.Struct({ body: Schema.String }),
      success: Schema.Struct({ id: Schema.Finite }),
      error: Schema.String
    },
    typing: {}
  },
  outgoing: { said: Schema.Struct({ body: Schema.String }), typing: Schema.Struct({ user: Schema.String }) },
  intercept: ["typing"]
})
const Free = Channel.make("free")
const Both = Channel.make("both", { assigns: [User, Tenant] })

// --- handlers ---------------------------------------------------------------------------------------------------------

const handlers = {
  reply: { count: 1 },
  handleIn: {
    say: ({ body }: { readonly body: string }) => Effect.map(Store.use((store) => store.save(body)), (id) => ({ id })),
    typing: () => Effect.void
  },
  handleOut: { typing: () => Effect.void }
}

const RoomLive = Room.layer(() => Effect.succeed(handlers))

/** Services of the handlers are required by the Layer; assigns, Scope and Self are not. */
export const required: Layer.Layer<Channel.Handler<"room:*">, never, Store> = RoomLive
// @ts-expect-error the handlers use Store
export const notRequired: Layer.Layer<Channel.Handler<"room:*">> = RoomLive

export const supplied: Layer.Layer<Channel.Handler<"room:*">> = Room.layer((room) =>
  Effect.gen(function*() {
    const { id } = yield* User
    yield* Effect.addFinalizer(() => Effect.void)
    yield* Process.self
    return {
      reply: { count: 1 },
      handleIn: {
        say: ({ body }) => Effect.as(room.push("said", { body }), { id: body.length }),
        typing: () => Effect.andThen(User, room.broadcastFrom("typing", { user: id }))
      },
      handleOut: { typing: ({ user }) => room.push("typing", { user }) },
      terminate: () => Effect.asVoid(User)
    }
  })
)

export const built: Layer.Layer<Channel.Handler<"room:*">, "no config", Store> = Room.toLayer(Effect.gen(function*() {
  const store = yield* Store
  if (store === undefined) return yield* Effect.fail("no config" as const)
  return Effect.fnUntraced(function*(room, { since }) {
    if (since < 0) return yield* Effect.fail({ reason: "unauthorized" } as const)
    return {
      reply: { count: since },
      handleIn: {
        say: ({ body }) => body === "" ? Effect.fail("empty") : Effect.map(store.save(body), (id) => ({ id })),
        typing: () => room.broadcast("typing", { user: "me" })
      },
      handleOut: { typing: () => Effect.void }
    }
  })
}))

/** `User` is not an assign of a channel that does not declare it. */
export const stranger: Layer.Layer<Channel.Handler<"free">, never, User> = Free.layer(() =>
  Effect.succeed({ handleIn: () => Effect.asVoid(User) })
)
// @ts-expect-error it is required from outside
export const notStranger: Layer.Layer<Channel.Handler<"free">> = Free.layer(() =>
  Effect.succeed({ handleIn: () => Effect.asVoid(User) })
)

// @ts-expect-error a handler is missing
Room.layer(() => Effect.succeed({ ...handlers, handleIn: { say: handlers.handleIn.say } }))
// @ts-expect-error a handler is misspelt
Room.layer(() => Effect.succeed({ ...handlers, handleIn: { ...handlers.handleIn, typings: () => Effect.void } }))
// @ts-expect-error a callback is misspelt
Room.layer(() => Effect.succeed({ ...handlers, handleInfos: () => Effect.void }))
// @ts-expect-error an intercepted event has no handleOut
Room.layer(() => Effect.succeed({ reply: handlers.reply, handleIn: handlers.handleIn }))
// @ts-expect-error the join declares a reply
Room.layer(() => Effect.succeed({ handleIn: handlers.handleIn, handleOut: handlers.handleOut }))
// @ts-expect-error the join's reply has another type
Room.layer(() => Effect.succeed({ ...handlers, reply: { count: "1" } }))
// @ts-expect-error the join fails with an error that is not declared
Room.layer(() => Effect.as(Effect.fail({ reason: "else" } as const), handlers))
const withSay = <S>(say: S) => ({ ...handlers, handleIn: { ...handlers.handleIn, say } })
// @ts-expect-error the reply has another type
Room.layer(() => Effect.succeed(withSay(() => Effect.succeed({ id: "1" }))))
// @ts-expect-error the reply is missing
Room.layer(() => Effect.succeed(withSay(() => Effect.void)))
// @ts-expect-error the error has another type
Room.layer(() => Effect.succeed(withSay(() => Effect.fail(1))))
// @ts-expect-error the payload has another type
Room.layer(() => Effect.succeed(withSay((payload: { readonly body: number }) => Effect.succeed({ id: payload.body }))))
// @ts-expect-error an event without an error cannot fail
Room.layer(() => Effect.succeed({ ...handlers, handleIn: { ...handlers.handleIn, typing: () => Effect.fail("x") } }))
// @ts-expect-error handleInfo cannot fail
Room.layer(() => Effect.succeed({ ...handlers, handleInfo: () => Effect.fail("x") }))
/** The positive twins: all of it right, an answer later, an error. */
Room.layer(() => Effect.succeed({ ...handlers, handleInfo: () => Effect.void }))
Room.layer(() =>
  Effect.succeed({ ...handlers, handleIn: { ...handlers.handleIn, say: () => Effect.succeed(Channel.noReply) } })
)
Room.layer(() => Effect.succeed({ ...handlers, handleIn: { ...handlers.handleIn, say: () => Effect.fail("no") } }))
Room.layer(() => Effect.as(Effect.fail({ reason: "unauthorized" } as const), handlers))

Free.layer((free) =>
  Effect.succeed({
    reply: "anything",
    handleIn: (event, payload) => Effect.as(free.push(event, payload), Channel.ok({ payload })),
    handleInfo: (message) => free.broadcast("info", { message })
  })
)
// @ts-expect-error without a contract there is one function for all events
Free.layer(() => Effect.succeed({ handleIn: { say: () => Effect.void } }))
// @ts-expect-error a plain value is no answer
Free.layer(() => Effect.succeed({ handleIn: () => Effect.succeed({ id: 1 }) }))

// --- pushes and broadcasts --------------------------------------------------------------------------------------------

export const detached = ({ push }: Channel.Self) =>
  // @ts-expect-error the functions of a channel belong to it
  push("said", { body: "x" })

export const outgoing = (
  room: Channel.Self<typeof Room["contract"]>,
  free: Channel.Self,
  pid: Process.Pid<unknown>
) => [
  room.push("said", { body: "x" }),
  room.broadcast("said", { body: "x" }),
  room.broadcastFrom("said", { body: "x" }),
  Room.broadcast("room:1", "said", { body: "x" }),
  Room.broadcastFrom(pid, "room:1", "said", { body: "x" }),
  free.push("anything", [1]),
  Free.broadcast("free", "anything", [1]),
  // @ts-expect-error an event that is not declared
  room.push("unsaid", { body: "x" }),
  // @ts-expect-error an incoming event is not an outgoing one
  room.push("say", { body: "x" }),
  // @ts-expect-error another payload
  room.push("said", { body: 1 }),
  // @ts-expect-error the payload of another event
  room.push("said", { user: "x" }),
  // @ts-expect-error a payload that lacks something
  room.broadcast("said", {}),
  // @ts-expect-error an event that is not declared
  room.broadcastFrom("unsaid", { body: "x" }),
  // @ts-expect-error an event that is not declared, from anywhere
  Room.broadcast("room:1", "unsaid", { body: "x" }),
  // @ts-expect-error another payload, from anywhere
  Room.broadcastFrom(pid, "room:1", "said", { body: 1 })
]

// --- sockets ----------------------------------------------------------------------------------------------------------

const UserSocket = Socket.make("user_socket", { channels: [Room, Free, Both] })
const assigns = Context.make(User, { id: "1" }).pipe(Context.add(Tenant, { name: "t" }))

const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept({ id: "x", assigns })))
export const accepted: Layer.Layer<Socket.Handler<"user_socket">> = UserSocketLive
export const refused = UserSocket.layer(() => Effect.fail(Socket.refuse("no")))
export const withStore: Layer.Layer<Socket.Handler<"user_socket">, never, Store> = UserSocket.toLayer(
  Effect.as(Store, () => Effect.succeed(Socket.accept({ assigns })))
)
// @ts-expect-error one of the assigns is missing
UserSocket.layer(() => Effect.succeed(Socket.accept({ assigns: Context.make(User, { id: "1" }) })))
// @ts-expect-error all assigns are missing
UserSocket.layer(() => Effect.succeed(Socket.accept({ id: "x" })))
// @ts-expect-error connect fails only with a refusal
UserSocket.layer(() => Effect.fail("no"))
// @ts-expect-error a service of another shape
Context.make(User, { id: 1 })
/** A socket whose channels ask for nothing needs no assigns. */
Socket.make("free", { channels: [Free] }).layer(() => Effect.succeed(Socket.accept()))

// --- mounting ---------------------------------------------------------------------------------------------------------

const BothLive = Both.layer(() => Effect.succeed({}))
const FreeLive = Free.layer(() => Effect.succeed({}))
const mounted = Endpoint.mount(UserSocket, { path: "/socket" })
type Base = HttpRouter.HttpRouter | PubSub.PubSub | Process.System

export const complete: Layer.Layer<never, never, Base | Store> = mounted.pipe(
  Layer.provide([RoomLive, FreeLive, BothLive, UserSocketLive])
)
// @ts-expect-error a channel is mounted without its layer
export const withoutChannel: Layer.Layer<never, never, Base | Store> = mounted.pipe(
  Layer.provide([RoomLive, FreeLive, UserSocketLive])
)
// @ts-expect-error the socket is mounted without its layer
export const withoutSocket: Layer.Layer<never, never, Base | Store> = mounted.pipe(
  Layer.provide([RoomLive, FreeLive, BothLive])
)
// @ts-expect-error nobody provides the services of the handlers
export const withoutStore: Layer.Layer<never, never, Base> = mounted.pipe(
  Layer.provide([RoomLive, FreeLive, BothLive, UserSocketLive])
)
// @ts-expect-error the path starts with a slash
Endpoint.mount(UserSocket, { path: "socket" })
// @ts-expect-error an option that does not exist
Endpoint.mount(UserSocket, { path: "/socket", websocket: { timeouts: "1 second" } })

/** A test needs the same as a mount. */
export const tested: Effect.Effect<
  ChannelTest.TestSocket,
  Socket.Refused,
  | Socket.Handler<"user_socket">
  | Channel.Handler<"room:*">
  | Channel.Handler<"free">
  | Channel.Handler<"both">
  | PubSub.PubSub
  | Process.System
  | import("effect").Scope.Scope
> = ChannelTest.connect(UserSocket)

// --- contracts --------------------------------------------------------------------------------------------------------

// @ts-expect-error a schema that needs services cannot judge a client at once
Channel.make("x", { incoming: { a: { payload: Schema.String as Schema.Codec<string, string, Store> } } })
// @ts-expect-error a payload is described by a schema
Channel.make("x", { outgoing: { a: { body: "string" } } })
