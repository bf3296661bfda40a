import type { Duplex } from "node:stream"
import type { Timer, Timers } from "./timers.ts"

/** The time that a client has to read the answer that refuses it, in milliseconds. */
export const answerTime = 30_000

/** The time that a connection may stay open after that answer, because a client that is half open never closes its half. */
export const lingerTime = 5000

/**
 * Connections of handshakes that are answered with an ordinary response. Node leaves a connection alone that has asked for
 * an upgrade, so each is closed for good here, whatever its client does or does not do.
 */
export class Departures {
  private readonly timers: Timers
  private readonly leaving = new Map<Duplex, Timer | undefined>()

  constructor(timers: Timers) {
    this.timers = timers
  }

  /** Connections that are on their way out. */
  get connections(): Iterable<Duplex> {
    return this.leaving.keys()
  }

  /** The answer is about to be written, or its end was: the connection ends within a bounded time from now. */
  letGo(socket: Duplex): void {
    if (socket.destroyed) return
    if (!this.leaving.has(socket)) {
      socket.on("error", ignore)
      socket.once("close", () => this.closed(socket))
      if (!socket.writableFinished) socket.once("finish", () => this.linger(socket))
    }
    if (socket.writableFinished) this.linger(socket)
    else this.endAfter(socket, answerTime)
  }

  private linger(socket: Duplex): void {
    // Bytes that nobody reads would keep it open.
    socket.resume()
    this.endAfter(socket, lingerTime)
  }

  private endAfter(socket: Duplex, millis: number): void {
    const before = this.leaving.get(socket)
    if (before !== undefined) this.timers.cancel(before)
    this.leaving.set(socket, this.timers.after(millis, () => void socket.destroy()))
  }

  private closed(socket: Duplex): void {
    const timer = this.leaving.get(socket)
    if (timer !== undefined) this.timers.cancel(timer)
    this.leaving.delete(socket)
  }
}

const ignore = (): void => {}
