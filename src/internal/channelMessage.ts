import type * as Message from "../Message.ts"
import type { ExitReason } from "./exitReason.ts"
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
  constructor(message: Message.Inbound) {
    this.message = message
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
export class Intercepted {
  readonly broadcast: Message.Broadcast
  constructor(broadcast: Message.Broadcast) {
    this.broadcast = broadcast
  }
}

/** What the crash line says about a message: names, never payloads. */
export const about = (message: unknown): Record<string, unknown> => {
  if (message instanceof Incoming) return { event: brief(message.message.event), ref: brief(message.message.ref) }
  if (message instanceof Intercepted) return { event: message.broadcast.event }
  if (message instanceof JoinRequest) return { event: "phx_join" }
  return {}
}
