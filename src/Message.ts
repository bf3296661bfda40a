/**
 * What travels: the messages between a client and its channels.
 *
 * A client sends {@link Inbound} messages; the server answers with {@link Reply} and sends {@link Message} (a push to
 * one client) and {@link Broadcast} (to everybody on a topic). How they look on the wire is the business of
 * `Serializer`.
 */

/**
 * A reference as the client chose it: phoenix.js sends decimal strings, but any JSON value is echoed as it came.
 * `null` when there is none.
 */
export type Ref = unknown

/** What a client sent, decoded but not yet trusted: topic and event may still be any JSON value. */
export interface Inbound {
  readonly joinRef: Ref
  readonly ref: Ref
  readonly topic: unknown
  readonly event: unknown
  /** Any JSON value, or a `Uint8Array` when the message came as a binary frame. */
  readonly payload: unknown
}

/** A push to one client, also `phx_close` and `phx_error`. */
export interface Message {
  readonly _tag: "Message"
  readonly joinRef: Ref
  readonly ref: Ref
  readonly topic: string
  readonly event: string
  /** An object, or a `Uint8Array` to send a binary frame. */
  readonly payload: unknown
}

/** The answer to a message that carried a ref. */
export interface Reply {
  readonly _tag: "Reply"
  readonly joinRef: Ref
  readonly ref: Ref
  /** The topic of the message that is answered, as it came: a message to a topic that is no string is answered too. */
  readonly topic: unknown
  /** `ok` and `error` by convention; any word is allowed. */
  readonly status: string
  /** Any JSON value, or a `Uint8Array` to send a binary frame. */
  readonly payload: unknown
}

/** A message to every subscriber of a topic. */
export interface Broadcast {
  readonly _tag: "Broadcast"
  readonly topic: string
  readonly event: string
  /** An object, or a `Uint8Array` to send a binary frame. */
  readonly payload: unknown
}

/** Makes a {@link Message}. */
export const message = (joinRef: Ref, ref: Ref, topic: string, event: string, payload: unknown): Message => ({
  _tag: "Message",
  joinRef,
  ref,
  topic,
  event,
  payload
})

/** Makes a {@link Reply}. */
export const reply = (joinRef: Ref, ref: Ref, topic: unknown, status: string, payload: unknown): Reply => ({
  _tag: "Reply",
  joinRef,
  ref,
  topic,
  status,
  payload
})

/** Makes a {@link Broadcast}. */
export const broadcast = (topic: string, event: string, payload: unknown): Broadcast => ({
  _tag: "Broadcast",
  topic,
  event,
  payload
})

/** Whether a message that came by PubSub is a {@link Broadcast}. */
export const isBroadcast = (message: unknown): message is Broadcast =>
  typeof message === "object" && message !== null && "_tag" in message && message._tag === "Broadcast"
