import type { Schema } from "effect"

/** What a contract says of payloads on their way: types for whoever speaks JSON with a channel. */

type Field<C, K extends string> = C extends { readonly [k in K]: infer V } ? V : {}

/** A value as JSON. What is no plain data may become anything: a `Date` a string, and so on. */
type Json<T> = T extends string | number | boolean | null | undefined ? T
  : T extends ReadonlyArray<unknown> ? { readonly [K in keyof T]: Json<T[K]> }
  : T extends object ? [Extract<T[keyof T], (...args: never) => unknown>] extends [never] ? JsonObject<T> : unknown
  : unknown
type JsonObject<T> = { readonly [K in keyof T]: Json<T[K]> }

/** The values of a schema as they travel: JSON, or bytes. */
type Wire<S> = S extends Schema.Constraint ? S["Encoded"] extends Uint8Array ? S["Encoded"] : Json<S["Encoded"]>
  : unknown

/** The payload of a join. */
export type JoinPayload<C> = Wire<Field<Field<C, "join">, "payload">>

/** The payload of the reply to a join. */
export type JoinReply<C> = Wire<Field<Field<C, "join">, "success">>

/** The names of the events that a client may send. */
export type IncomingEvent<C> = C extends { readonly incoming: infer I } ? keyof I & string : string

/** The payload of an event that a client sends. */
export type IncomingPayload<C, K extends string> = Wire<Field<Field<Field<C, "incoming">, K>, "payload">>

/** The payload of an `ok` reply to an event. */
export type OkReply<C, K extends string> = Wire<Field<Field<Field<C, "incoming">, K>, "success">>

/** The names of the events that a client may be sent, those of the protocol and of a presence among them. */
export type OutgoingEvent<C> = C extends { readonly outgoing: infer O }
  ? (keyof O & string) | "phx_close" | "phx_error" | "presence_state" | "presence_diff"
  : string

/** The payload of an event that a client is sent. */
export type OutgoingPayload<C, K extends string> = Wire<Field<Field<C, "outgoing">, K>>

/** Parts of a value: arrays are whole, of objects every key may be left out. */
export type Part<A> = A extends string | number | boolean | null | undefined | Uint8Array ? A
  : A extends ReadonlyArray<unknown> ? { readonly [K in keyof A]: Part<A[K]> }
  : A extends object ? { readonly [K in keyof A]?: Part<A[K]> }
  : unknown

/** The last parameter of a function, optional where nothing has to be said. */
export type LastParameter<P> = {} extends P ? [last?: P] : [last: P]
