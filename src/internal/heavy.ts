import type { Turn } from "./runQueue.ts"

/** Somebody with work that takes long. */
export interface Busy {
  /** Its turn has come: it takes what it has to do. */
  readonly goOn: () => void
}

/** So much is done in one turn of the event loop: what takes as long as about so many messages. */
const perTurn = 1024

/**
 * Work that takes long, as to read a large message does. A little of it is done in each turn of the event loop, after all
 * else that is ready, and whoever has more waits in line: so nobody with little to do waits for more than one such piece.
 */
export class HeavyWork implements Turn {
  private readonly whenIdle: (turn: Turn) => void
  private readonly waiting = new Set<Busy>()
  private spent = 0
  private next: Busy | undefined = undefined

  /** @param whenIdle - runs a turn after all that is ready */
  constructor(whenIdle: (turn: Turn) => void) {
    this.whenIdle = whenIdle
  }

  /** Returns true if work may be done now; if not, its owner is told when to try again. A piece may be larger than a turn. */
  take(owner: Busy, amount: number): boolean {
    const isNext = this.waiting.size === 0 || owner === this.next
    if (this.spent === 0 && this.waiting.size === 0) this.whenIdle(this)
    if (isNext && (this.spent === 0 || this.spent + amount <= perTurn)) {
      this.spent += amount
      return true
    }
    this.waiting.add(owner)
    return false
  }

  /** It does not wait any more. */
  forget(owner: Busy): void {
    this.waiting.delete(owner)
  }

  run(): number {
    this.spent = 0
    const { waiting } = this
    for (const owner of waiting) {
      waiting.delete(owner)
      this.next = owner
      owner.goOn()
      this.next = undefined
      if (this.spent >= perTurn) break
      // It has more than fits into this turn, and is the first in line no more.
      if (waiting.has(owner)) break
    }
    if (this.spent > 0 || waiting.size > 0) this.whenIdle(this)
    return 0
  }

  failed(): void {
    this.next = undefined
    if (this.waiting.size > 0) this.whenIdle(this)
  }
}
