/** Payloads that can be told from changed ones, and the order in which they come. */

export interface Stamp {
  /** Who has sent it. */
  readonly from: number
  /** Which of the sender's it is, from 0 on. */
  readonly n: number
  /** When it was sent, or was due, in microseconds. */
  readonly at: number
}

/** The shortest for which there is always room. */
export const minBytes = 56

const letters = "x".repeat(100_000)

const seal = (from: number, n: number, at: number): string => {
  const mixed = Math.imul(from + 1, 0x9e37_79b1) ^ Math.imul(n + 1, 0x85eb_ca6b) ^ Math.imul(at + 1, 0xc2b2_ae35)
  return (mixed >>> 0).toString(36)
}

/** Payloads of so many bytes, each with letters up to a seal by which its numbers are checked. */
export class Payloads {
  readonly bytes: number

  constructor(bytes: number) {
    this.bytes = bytes
  }

  compose(from: number, n: number, at: number): string {
    const numbers = `{"c":${from},"s":${n},"t":${at},"z":"`
    return `${numbers}${this.rest(numbers.length, seal(from, n, at))}"}`
  }

  /** The stamp, or undefined if this is not to the last byte what was sent. */
  check(payload: unknown): Stamp | undefined {
    if (typeof payload !== "object" || payload === null || Object.keys(payload).length !== 4) return undefined
    const { c: from, s: n, t: at, z } = payload as { c: number; s: number; t: number; z: unknown }
    const length = `{"c":${from},"s":${n},"t":${at},"z":"`.length
    return z === this.rest(length, seal(from, n, at)) ? { from, n, at } : undefined
  }

  private rest(used: number, seal: string): string {
    return letters.slice(0, this.bytes - used - seal.length - 2) + seal
  }
}

/** What has come of the messages that one sender has numbered. */
export class Sequence {
  doubled = 0
  outOfOrder = 0
  private next = 0
  private skipped: Set<number> | undefined

  /** Whether it is the first time. */
  saw(n: number): boolean {
    if (n === this.next) {
      this.next++
      return true
    }
    if (n > this.next) {
      this.skipped ??= new Set()
      for (let missing = this.next; missing < n; missing++) this.skipped.add(missing)
      this.next = n + 1
      return true
    }
    if (this.skipped?.delete(n) === true) {
      this.outOfOrder++
      return true
    }
    this.doubled++
    return false
  }

  missingOf(sent: number): number {
    return sent - this.next + (this.skipped?.size ?? 0)
  }
}
