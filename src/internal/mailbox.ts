const none: Array<unknown> = []

/** No message. */
export const nothing: unique symbol = Symbol("nothing")

/** Messages in the order in which they came. It takes no room while it is empty. */
export class Mailbox {
  private count = 0
  // Mostly there is one, which needs no array.
  private first: unknown = undefined
  private more: Array<unknown> = none
  private head = 0

  get mailboxLength(): number {
    return this.count
  }

  protected put(message: unknown): void {
    if (this.count++ === 0) this.first = message
    else if (this.more === none) this.more = [message]
    else this.more.push(message)
  }

  /** Takes out the message that has waited longest; there must be one. */
  protected take(): unknown {
    const message = this.first
    if (--this.count === 0) this.clear()
    else {
      this.first = this.more[this.head]
      this.more[this.head++] = undefined
    }
    return message
  }

  /**
   * Puts a message in the place of the one that has waited longest, and returns that; {@link nothing} when there are none
   * but those that must stay.
   */
  protected replace(message: unknown, mustStay: (message: unknown) => boolean): unknown {
    if (this.count === 0) return nothing
    if (!mustStay(this.first)) {
      this.put(message)
      const dropped = this.take()
      this.compact()
      return dropped
    }
    let oldest = this.head
    while (oldest < this.more.length && mustStay(this.more[oldest])) oldest++
    if (oldest === this.more.length) return nothing
    this.more.push(message)
    return this.more.splice(oldest, 1)[0]
  }

  /** Takes out the message that has waited longest of those that need not stay; {@link nothing} when there is none. */
  protected remove(mustStay: (message: unknown) => boolean): unknown {
    if (this.count === 0) return nothing
    if (!mustStay(this.first)) {
      const removed = this.take()
      this.compact()
      return removed
    }
    let oldest = this.head
    while (oldest < this.more.length && mustStay(this.more[oldest])) oldest++
    if (oldest === this.more.length) return nothing
    this.count--
    return this.more.splice(oldest, 1)[0]
  }

  /** Gives back the room of what is taken out, once that is the greater part. */
  protected compact(): void {
    if (this.head < 1024 || this.head * 2 < this.more.length) return
    this.more.splice(0, this.head)
    this.head = 0
  }

  protected clear(): void {
    this.count = 0
    this.first = undefined
    this.more = none
    this.head = 0
  }
}
