import type * as Message from "../Message.ts"
import type { ExitReason } from "./exitReason.ts"
import type { Retained, Told } from "./retained.ts"
import { brief } from "./untrusted.ts"

/** The first message in the mailbox of a channel. */
export class JoinRequest {
  readonly payload: unknown
  constructor(payload: unknown) {
    this.payload = payload
  }
}

/** A message of the client, in the mailbox of its channel. */
export class Incoming {
  readonly message: Message.Inbound
  /** Its size as it came. */
  readonly bytes: number
  constructor(message: Message.Inbound, bytes: number) {
    this.message = message
    this.bytes = bytes
  }
}

/** The connection has ended. */
export class ConnectionEnded {
  readonly reason: ExitReason
  constructor(reason: ExitReason) {
    this.reason = reason
  }
}

/** A broadcast of an event that passes through `handleOut`. */
export class Intercepted implements Told {
  readonly broadcast: Message.Broadcast
  readonly retained: Retained
  next: Told | undefined = undefined
  constructor(broadcast: Message.Broadcast, retained: Retained) {
    this.broadcast = broadcast
    this.retained = retained
  }
}

/** A message of a topic that the channel has subscribed to, for `handleInfo`. */
export class Info implements Told {
  readonly message: unknown
  readonly retained: Retained
  next: Told | undefined = undefined
  constructor(message: unknown, retained: Retained) {
    this.message = message
    this.retained = retained
  }
}

/** What the crash line says about a message: names, never payloads. */
export const about = (message: unknown): Record<string, unknown> => {
  if (message instanceof Incoming) return { event: brief(message.message.event), ref: brief(message.message.ref) }
  if (message instanceof Intercepted) return { event: brief(message.broadcast.event) }
  if (message instanceof JoinRequest) return { event: "phx_join" }
  return {}
}
