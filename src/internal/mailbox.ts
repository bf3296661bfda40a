const none: Array<unknown> = []

/** No message. */
export const nothing: unique symbol = Symbol("nothing")

/** Messages in the order in which they came. It takes no room while it is empty. */
export class Mailbox {
  private messages: Array<unknown> = none
  private head = 0

  get mailboxLength(): number {
    return this.messages.length - this.head
  }

  protected put(message: unknown): void {
    if (this.messages === none) this.messages = [message]
    else this.messages.push(message)
  }

  /** Takes out the message that has waited longest; there must be one. */
  protected take(): unknown {
    const message = this.messages[this.head]
    this.messages[this.head++] = undefined
    return message
  }

  /**
   * Puts a message in the place of the one that has waited longest, and returns that; {@link nothing} when there are none
   * but those that must stay.
   */
  protected replace(message: unknown, mustStay: (message: unknown) => boolean): unknown {
    let oldest = this.head
    while (oldest < this.messages.length && mustStay(this.messages[oldest])) oldest++
    if (oldest === this.messages.length) return nothing
    this.messages.push(message)
    if (oldest > this.head) return this.messages.splice(oldest, 1)[0]
    const dropped = this.take()
    this.compact()
    return dropped
  }

  /** Gives back the room of what is taken out, once that is the greater part. */
  protected compact(): void {
    if (this.head < 1024 || this.head * 2 < this.messages.length) return
    this.messages.splice(0, this.head)
    this.head = 0
  }

  protected clear(): void {
    this.messages = none
    this.head = 0
  }
}
