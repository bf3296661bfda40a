/**
 * What the chat's clients and channels say to each other. Server, tests and a TypeScript client share this file.
 */
import { Context, Schema } from "effect"
import { Channel, Presence, Socket } from "effect-channels"

/** Who is connected; the socket puts it there at connect. */
export class CurrentUser extends Context.Service<CurrentUser, {
  readonly id: string
  readonly name: string
}>()("chat/CurrentUser") {}

/** A message as it is stored and sent. */
export const Message = Schema.Struct({
  id: Schema.Int,
  room_id: Schema.String,
  user_id: Schema.String,
  user_name: Schema.String,
  body: Schema.String,
  inserted_at: Schema.String
})
export type Message = typeof Message.Type

/** What is wrong with the fields of a form. */
export const Invalid = Schema.Struct({ errors: Schema.Record(Schema.String, Schema.Array(Schema.String)) })
export type Invalid = typeof Invalid.Type

export const Room = Channel.make("room:*", {
  assigns: CurrentUser,
  join: { error: Schema.Struct({ reason: Schema.Literal("unauthorized") }) },
  incoming: {
    "message:new": {
      payload: Schema.Struct({ body: Schema.String }),
      success: Schema.Struct({ id: Schema.Int }),
      error: Invalid
    },
    "typing:start": {},
    "typing:stop": {}
  },
  outgoing: {
    ...Presence.outgoing,
    "message:new": Message,
    "messages:history": Schema.Struct({ messages: Schema.Array(Message) }),
    "system:notice": Schema.Struct({ body: Schema.String })
  }
})

export const Notifications = Channel.make("notifications:*", {
  assigns: CurrentUser,
  join: { error: Schema.Struct({ reason: Schema.Literal("unauthorized") }) },
  outgoing: {
    notification: Schema.Struct({ room_id: Schema.String, from: Schema.String, body: Schema.String })
  }
})

export const UserSocket = Socket.make("user_socket", { channels: [Room, Notifications] })
