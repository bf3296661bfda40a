import { Effect, Result } from "effect"
import * as Message from "../Message.ts"
import type { Frame, Serializer } from "../Serializer.ts"
import type { Lossy, SharedFrame } from "./outbox.ts"

/** What takes frames for a client. */
export interface FrameSink {
  /** A frame that others get as well comes with what they share of it. */
  readonly send: (frame: Frame, shared?: SharedFrame, lossy?: Lossy) => void
}

/** The way to a client. */
export interface Outlet {
  readonly serializer: Serializer
  readonly transport: FrameSink
}

/** An answer, as an untyped handler returns it. */
export class Answer {
  readonly status: string
  readonly payload: unknown
  constructor(status: string, payload: unknown) {
    this.status = status
    this.payload = payload
  }
}

/** Says that there is no answer, or not yet. */
export interface NoReply {
  readonly _tag: "NoReply"
}
export const noReply: NoReply = { _tag: "NoReply" }

/** Where a reply goes; outlives the message and the channel. */
export class SocketRef {
  readonly outlet: Outlet
  readonly topic: string
  readonly ref: Message.Ref
  readonly joinRef: Message.Ref
  constructor(outlet: Outlet, topic: string, ref: Message.Ref, joinRef: Message.Ref) {
    this.outlet = outlet
    this.topic = topic
    this.ref = ref
    this.joinRef = joinRef
  }
}

export const reply = (ref: SocketRef, status: string, payload: unknown = {}): Effect.Effect<void> =>
  Effect.sync(() => {
    const reply = Message.reply(ref.joinRef, ref.ref, ref.topic, status, payload)
    ref.outlet.transport.send(Result.getOrThrow(ref.outlet.serializer.encode(reply)))
  })
