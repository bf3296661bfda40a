import { Cause } from "effect"
import type { Complaints } from "./limits.ts"

/** A function of the application, and whose it is: both from its code, never from a client. */
export interface Called {
  /** The option or method it was given as, such as `checkOrigin`. */
  readonly name: string
  /** Names its owner in the log, such as `{ socket: "user_socket" }`. */
  readonly owner: Readonly<Record<string, unknown>>
  /** Further fields of the log line. They may come from a client, so they do not make one fault two. */
  readonly about?: Readonly<Record<string, unknown>>
}

/**
 * The one door to functions of the application that run on a stack which others share: in the middle of a broadcast, of a
 * handshake, of the process of all presences. What such a function throws stays with its owner. It is logged, once and then
 * no more than every ten seconds, and everybody else goes on.
 */
export class Guard {
  private readonly complaints: Complaints

  constructor(complaints: Complaints) {
    this.complaints = complaints
  }

  /** Returns the result of `call`, or, if it throws, that of `otherwise`. */
  call<A, B>(called: Called, call: () => A, otherwise: (defect: unknown) => B): A | B {
    try {
      return call()
    } catch (defect) {
      this.failed(called, defect)
      return otherwise(defect)
    }
  }

  /** Logs what a function has thrown, for callers that are too busy for a closure and catch it themselves. */
  failed({ about, name, owner }: Called, defect: unknown): void {
    const line = `${name} of the application has thrown`
    // The fault of one owner must not hide that of another.
    const kind = `${line} ${Object.values(owner).map(String).join()}`
    this.complaints.say("Error", line, { ...owner, ...about }, Cause.die(defect), kind)
  }
}
