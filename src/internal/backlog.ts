import type { Socket } from "node:net"
import type { Timer, Timers } from "./timers.ts"

/** The counters that Node's handles of connections have; private to Node. */
interface Handle {
  /** All bytes that were handed to the handle. */
  readonly bytesWritten: number
  /** Bytes among them that the operating system has not taken yet. */
  readonly writeQueueSize: number
}

const isHandle = (value: unknown): value is Handle =>
  typeof value === "object" && value !== null
  && "bytesWritten" in value && typeof value.bytesWritten === "number"
  && "writeQueueSize" in value && typeof value.writeQueueSize === "number"

/**
 * Bytes that the operating system has taken for a peer, which it does as long as the peer reads. With TLS those of the
 * connection below count. Where Node is made otherwise than is known here, only writes that are done with are seen, each as a
 * whole.
 */
export const bytesTaken = (socket: Socket): number => {
  const handle: unknown = "_handle" in socket ? socket._handle : undefined
  const below: unknown = typeof handle === "object" && handle !== null && "_parent" in handle
    ? handle._parent
    : undefined
  const counters = isHandle(below) ? below : handle
  return isHandle(counters)
    ? counters.bytesWritten - counters.writeQueueSize
    : socket.bytesWritten - socket.writableLength
}

/** The bytes that may wait for clients, of the connections of one mount. */
export interface BacklogLimits {
  /** Up to so many bytes nobody is asked whether a client reads. */
  readonly free: number
  /** Milliseconds in which a client for which more wait takes some of them. */
  readonly stall: number
  /** So many may wait for a client that reads. */
  readonly hard: number
  /** So many may wait for all clients together for which more than `free` do. */
  readonly total: number
}

/** The limits and the sum that all connections of a mount share. */
export interface Backlogs {
  readonly limits: BacklogLimits
  readonly timers: Timers
  /** Bytes that wait for all clients for which more than `free` do, when they were last looked at. */
  bytes: number
}

/** Why a client is sent no more. */
export type TooFarBehind = "stalled" | "full" | "total"

/** A connection whose client is behind. */
interface Behind {
  readonly socket: Socket
  /** Bytes that wait for it. */
  readonly waiting: number
  readonly giveUp: (why: TooFarBehind) => void
  /** No more than a few bytes wait. */
  readonly caughtUp: () => void
}

/** In the time that a client may take nothing it is looked at so many times. */
const looks = 8

/**
 * Watches a client for which more than a few bytes wait, until it has caught up. It may take its time as long as it takes
 * something; it is given up when it does not, or when far too much waits for it.
 */
export class Backlog {
  private readonly shared: Backlogs
  private readonly behind: Behind
  /** Bytes that are in the sum of all. */
  private counted = 0
  private taken: number
  private takenAt: number
  private timer: Timer | undefined = undefined

  constructor(shared: Backlogs, behind: Behind) {
    this.shared = shared
    this.behind = behind
    this.taken = bytesTaken(behind.socket)
    this.takenAt = shared.timers.awake
    this.wait()
  }

  /** Called before more is sent; false where the client has been given up for it. */
  admits(waiting: number): boolean {
    const { limits } = this.shared
    this.count(waiting)
    const why = waiting > limits.hard ? "full" : this.shared.bytes > limits.total ? "total" : undefined
    if (why !== undefined) this.behind.giveUp(why)
    return why === undefined
  }

  /** Ends the watch; what waits for the client still counts. */
  stop(): void {
    if (this.timer !== undefined) this.shared.timers.cancel(this.timer)
  }

  /** Ends all. */
  end(): void {
    this.stop()
    this.count(0)
  }

  private count(bytes: number): void {
    this.shared.bytes += bytes - this.counted
    this.counted = bytes
  }

  private wait(): void {
    const { limits: { stall }, timers } = this.shared
    if (stall < Infinity) this.timer = timers.after(stall / looks, this.look)
  }

  private readonly look = (): void => {
    const { behind, shared: { limits, timers } } = this
    const { waiting } = behind
    if (waiting <= limits.free) return behind.caughtUp()
    this.count(waiting)
    const taken = bytesTaken(behind.socket)
    // If nothing is left to write, the bytes that wait are still being compressed, and no client can take them.
    if (taken !== this.taken || behind.socket.writableLength === 0) {
      this.taken = taken
      this.takenAt = timers.awake
    }
    if (timers.awake - this.takenAt >= limits.stall) behind.giveUp("stalled")
    else this.wait()
  }
}
