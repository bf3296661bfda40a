import type { Effect, Scope } from "effect"

/** Callbacks for the messages and faults of an engine (Redis, NATS). */
export interface Listener {
  /** In the order of each sender. */
  readonly message: (channel: string, data: Uint8Array) => void
  /** The connection is broken: it is given up, and another one is made. */
  readonly broken: (cause: unknown) => void
  /** The engine does not take messages for a channel; the connection goes on. */
  readonly publishRefused: (channel: string, cause: unknown) => void
  /** The engine has ended a subscription; the connection goes on. */
  readonly subscriptionRefused: (channel: string, cause: unknown) => void
  /** The engine has complained of something that is no message and no subscription; the connection goes on. */
  readonly complained: (cause: unknown) => void
}

/**
 * A connection to an engine, which does not reconnect. A promise is rejected when the connection breaks, and `publish` also
 * when the engine does not take the message. No method throws.
 */
export interface Connection {
  /** In the order of the calls; complete once nothing of it waits here. */
  readonly publish: (channel: string, data: Buffer<ArrayBuffer>) => Promise<unknown>
  /**
   * Complete once the messages of all channels arrive, but for those that the engine has refused, which it returns. A channel
   * that is subscribed already stays so, once. It is not called again before it is complete.
   */
  readonly subscribe: (channels: ReadonlyArray<string>) => Promise<ReadonlyMap<string, unknown>>
  readonly unsubscribe: (channels: ReadonlyArray<string>) => Promise<unknown>
  /**
   * Complete once the engine has answered in any way, and so has got all that was published before. Rejected too if the
   * engine has become one that messages do not pass.
   */
  readonly ping: () => Promise<unknown>
  /** A connection gets its own messages back. */
  readonly echoes: boolean
  /** The largest message that the engine takes now, in bytes. */
  readonly maxMessageBytes: number
}

export interface Engine {
  readonly name: string
  /** The label of the metric. */
  readonly label: string
  /** Between the parts of a channel's name. */
  readonly separator: string
  /** Advice for the error that a message is too large for the engine itself. */
  readonly limit: string
  /** Fails after `timeout` milliseconds, with what it knows of the reason. The connection ends with its Scope, at once. */
  readonly connect: (listener: Listener, timeout: number) => Effect.Effect<Connection, unknown, Scope.Scope>
}
