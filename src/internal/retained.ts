/**
 * Messages of broadcasts and subscriptions wait in memory for channels that are slow. A message is there once, for however
 * many it waits, so it counts once. All that waits for the channels of a mount is bounded together.
 */

/** A message of which it is known about how much memory it takes. */
export class Retained {
  readonly bytes: number
  /** For how many channels it waits. */
  holders = 0

  constructor(bytes: number) {
    this.bytes = bytes
  }
}

/** A message that waits for one channel, and the one that has come after it. */
export interface Told {
  readonly retained: Retained
  next: Told | undefined
}

/** A channel for which messages wait. */
export interface Holder {
  /** About the bytes of all that waits for it. */
  readonly infoBytes: number
  /** It is too far behind: all that waits for it is let go of. */
  readonly giveUp: () => void
}

/** A channel for which no more than so many bytes wait is not behind. */
export const notBehind = 65_536

/** So much is to wait at most when it was too much: then it takes a while until it is again. */
const enough = 0.75

/** Counts the bytes that wait for the channels of a mount, and limits them. */
export class RetainedBytes {
  readonly limit: number
  private bytes = 0
  private readonly behind = new Set<Holder>()

  constructor(limit: number) {
    this.limit = limit
  }

  /** Bytes that wait. */
  get used(): number {
    return this.bytes
  }

  hold(retained: Retained): void {
    if (retained.holders++ === 0) this.bytes += retained.bytes
  }

  letGo(retained: Retained): void {
    if (--retained.holders === 0) this.bytes -= retained.bytes
  }

  /** More than {@link notBehind} waits for it, or not any more. */
  setBehind(holder: Holder, isBehind: boolean): void {
    if (isBehind) this.behind.add(holder)
    else this.behind.delete(holder)
  }

  /** Gives up the holders that are furthest behind where too much waits, until it is little enough. */
  relieve(): void {
    if (this.bytes <= this.limit) return
    for (const holder of [...this.behind].toSorted((a, b) => b.infoBytes - a.infoBytes)) {
      holder.giveUp()
      if (this.bytes <= this.limit * enough) return
    }
  }
}
