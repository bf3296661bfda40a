/**
 * What the chat's channels and its socket do.
 */
import { Config, Context, Effect, Layer, Schema } from "effect"
import { Presence, PubSub, Socket, Token } from "effect-channels"
import { Chat, type User } from "./Chat.ts"
import { CurrentUser, type Message, Notifications, Room, UserSocket } from "./contract.ts"

/** Tokens for the socket and tokens for anything else are kept apart by their salt. */
export const salt = "user socket"

const AfterJoin = Symbol("AfterJoin")

/** Who is in which room now: a key for each user, a meta for each of their tabs. */
export const Online = Presence.make("chat")

/** How often nodes tell each other who has come and gone is `PRESENCE_PERIOD`, the same on all. */
export const OnlineLive = Layer.unwrap(Effect.gen(function*() {
  const broadcastPeriod = yield* Config.Duration("PRESENCE_PERIOD").pipe(Config.withDefault(undefined))
  return Online.layer({}, { broadcastPeriod })
}))

export const RoomLive = Room.toLayer(Effect.gen(function*() {
  const chat = yield* Chat
  const { node } = yield* PubSub.PubSub
  return Effect.fnUntraced(function*(room) {
    const user = yield* CurrentUser
    const roomId = room.topic.slice("room:".length)
    if (!(yield* chat.isMember(roomId, user.id))) return yield* Effect.fail({ reason: "unauthorized" } as const)
    /** What is known of this tab, and so of its user. */
    const setTyping = (typing: boolean) =>
      Online.update(room, user.id, (meta) => ({ ...meta, typing })).pipe(Effect.orDie, Effect.asVoid)
    // Nothing can be pushed before the join is done: the channel sends itself a message.
    yield* room.send(AfterJoin)
    return {
      handleInfo: () =>
        Effect.gen(function*() {
          yield* room.push("messages:history", { messages: yield* chat.recent(roomId) })
          yield* Online.track(room, user.id, { user_name: user.name, node, typing: false })
          yield* room.push("presence_state", yield* Online.list(room))
        }).pipe(Effect.orDie),
      handleIn: {
        "message:new": Effect.fnUntraced(function*({ body }) {
          if (body === "/crash") return yield* Effect.die(new Error(`${user.name} asked for a crash`))
          const message = yield* chat.say(roomId, user, body)
          yield* room.broadcast("message:new", message)
          yield* notifyMentioned(message, yield* chat.members(roomId))
          return { id: message.id }
        }),
        "typing:start": () => setTyping(true),
        "typing:stop": () => setTyping(false)
      }
    }
  })
}))

/** Who is named after an @, by id or by name: as whole words, as the page marks them. */
const mentionedIn = (body: string): ReadonlySet<string | undefined> =>
  new Set(Array.from(body.toLowerCase().matchAll(/(?<![\p{L}\p{N}])@([\p{L}\p{N}_-]+)/gu), ([, name]) => name))

const notifyMentioned = (message: Message, members: ReadonlyArray<User>) => {
  const mentioned = mentionedIn(message.body)
  return Effect.forEach(
    members.filter(({ id, name }) =>
      id !== message.user_id && (mentioned.has(id) || mentioned.has(name.toLowerCase()))
    ),
    (member) =>
      Notifications.broadcast(`notifications:${member.id}`, "notification", {
        room_id: message.room_id,
        from: message.user_name,
        body: message.body
      }),
    { discard: true }
  ).pipe(Effect.ignore)
}

export const NotificationsLive = Notifications.layer(Effect.fnUntraced(function*(notifications) {
  const user = yield* CurrentUser
  if (notifications.topic !== `notifications:${user.id}`) return yield* Effect.fail({ reason: "unauthorized" } as const)
}))

export const UserSocketLive = UserSocket.toLayer(Effect.gen(function*() {
  const tokens = yield* Token.Token
  const chat = yield* Chat
  return Effect.fnUntraced(function*({ params }) {
    const userId = yield* tokens.verify(salt, params["token"], { maxAge: "1 day", schema: Schema.String }).pipe(
      Effect.mapError((error) => Socket.refuse(error.reason))
    )
    const user = yield* chat.user(userId)
    if (user === undefined) return yield* Socket.refuse("no such user")
    return Socket.accept({ id: `user_socket:${user.id}`, assigns: Context.make(CurrentUser, user) })
  })
}))
