/**
 * Messages of clients that wait, or are being handled, are counted here, in number and in bytes. JSON unfolds in memory to
 * 24 times its size at worst (a list of `[{}]`), so that what is decoded is what has to be bounded; what is not decoded yet
 * waits as it came.
 */
import { Mailbox } from "./mailbox.ts"
import { type Holder, notBehind, type RetainedBytes, type Told } from "./retained.ts"

/** The limits of a channel; see `Channel.MailboxOptions`. */
export interface Limits {
  readonly capacity: number
  readonly maxBytes: number
  readonly whenFull: "suspend" | "dropOldest" | "disconnect"
  /** Limits of messages that do not come from the client. */
  readonly maxInfos: number
  readonly maxInfoBytes: number
}

/** The messages of a channel: those of its client, and those of broadcasts and subscriptions. */
export class Inbox {
  readonly limits: Limits
  /** Messages of the client that wait. */
  count = 0
  bytes = 0
  /** The bytes of the message in hand. */
  inHand = 0
  /** A leave waits; a second one would change nothing. */
  leaving = false
  /** The connection was told that nothing more fits, and not yet that there is room again. */
  isFull = false
  infos = 0
  infoBytes = 0
  /** Messages of broadcasts and subscriptions that wait, in a chain. */
  private first: Told | undefined = undefined
  private last: Told | undefined = undefined
  private isBehind = false

  constructor(limits: Limits) {
    this.limits = limits
  }

  /** Returns true if a message of the client may wait here. A larger one than `maxBytes` has to be alone. */
  fits(bytes: number): boolean {
    const { capacity, maxBytes } = this.limits
    return this.count < capacity && (this.count === 0 || this.bytes + bytes <= maxBytes)
  }

  add(bytes: number): void {
    this.count++
    this.bytes += bytes
  }

  /** A message has left: it is handled next, or dropped. */
  remove(bytes: number): void {
    this.count--
    this.bytes -= bytes
  }

  /** Returns true once enough messages have been handled for a client that had to wait to go on. */
  get isHalfEmpty(): boolean {
    return this.count <= this.limits.capacity / 2 && this.bytes <= this.limits.maxBytes / 2
  }

  /** Counts a message of a broadcast or subscription, unless there are too many of them. */
  addInfo(bytes: number): boolean {
    const { maxInfoBytes, maxInfos } = this.limits
    if (this.infos >= maxInfos || (this.infos > 0 && this.infoBytes + bytes > maxInfoBytes)) return false
    this.infos++
    this.infoBytes += bytes
    return true
  }

  removeInfo(bytes: number): void {
    this.infos--
    this.infoBytes -= bytes
  }

  /** A message of a broadcast or subscription waits, which has been counted. */
  hold(told: Told, shared: RetainedBytes, holder: Holder): void {
    if (this.last === undefined) this.first = told
    else this.last.next = told
    this.last = told
    shared.hold(told.retained)
    if (!this.isBehind && this.infoBytes > notBehind) shared.setBehind(holder, this.isBehind = true)
  }

  /** It does not wait any more. It is the one that has waited longest, or all of them are let go of. */
  letGo(told: Told, shared: RetainedBytes, holder: Holder): void {
    if (this.first !== told) return
    this.first = told.next
    if (this.first === undefined) this.last = undefined
    this.removeInfo(told.retained.bytes)
    shared.letGo(told.retained)
    if (this.isBehind && this.infoBytes <= notBehind) shared.setBehind(holder, this.isBehind = false)
  }

  letGoOfAll(shared: RetainedBytes, holder: Holder): void {
    while (this.first !== undefined) this.letGo(this.first, shared, holder)
    if (this.isBehind) shared.setBehind(holder, this.isBehind = false)
  }
}

/** The bytes of decoded messages that each connection may have without a share of what all have together. */
export const allowance = 4096

/** The number of waiting connections that are looked at when something has become free. */
const looks = 16

/**
 * Bytes of decoded messages, waiting or in hand, that all connections of a mount have together beyond the
 * {@link allowance} of each. A connection whose next message does not fit waits, and its client with it.
 */
export class SharedBytes {
  readonly limit: number
  private drawn = 0
  private readonly waiting = new Set<ClientInbox>()

  constructor(limit: number) {
    this.limit = limit
  }

  /** Bytes that are taken. */
  get used(): number {
    return this.drawn
  }

  /**
   * Returns true if there is room. A connection that has something may not have more than is left for others, with a quarter
   * of all on top, so that many clients that give nothing back leave some for the next. A connection that has nothing may
   * draw any one message. A message larger than half of all counts as half, because it must not wait until all others are
   * gone.
   */
  private fits(bytes: number, owned: number): boolean {
    const { drawn, limit } = this
    return owned + bytes <= limit * 1.25 - drawn || (owned === 0 && drawn + Math.min(bytes, limit / 2) <= limit)
  }

  draw(client: ClientInbox, bytes: number): boolean {
    if (!this.fits(bytes, client.owned)) {
      this.waiting.add(client)
      return false
    }
    this.drawn += bytes
    if (this.waiting.size > 0) this.waiting.delete(client)
    return true
  }

  give(bytes: number): void {
    this.drawn -= bytes
    if (this.waiting.size > 0) this.wake()
  }

  /** The connection does not wait any more, because it has ended. */
  forget(client: ClientInbox): void {
    if (this.waiting.delete(client)) this.wake()
  }

  /** Has the next one try again that finds room; it wakes the one after it when it has drawn. */
  wake(): void {
    let left = Math.min(looks, this.waiting.size)
    for (const client of this.waiting) {
      if (left-- === 0) return
      this.waiting.delete(client)
      if (this.fits(client.wanted, client.owned)) return client.retry()
      this.waiting.add(client)
    }
  }
}

/** Counts the messages of its client that a connection has in memory. */
export abstract class ClientInbox {
  private readonly shared: SharedBytes
  /** Bytes that wait: in the mailbox of the connection, held back, or in those of its channels. */
  protected waiting = 0
  /** Bytes of decoded messages, waiting or in hand. */
  private decoded = 0
  /** Decoded bytes beyond the allowance. */
  private drawn = 0
  /** Bytes that it waits for. */
  wanted = 0

  constructor(shared: SharedBytes) {
    this.shared = shared
  }

  /** Bytes that it has drawn from the shared ones. */
  get owned(): number {
    return this.drawn
  }

  /** Tries again to admit what did not fit. */
  abstract retry(): void

  /** Returns true if with so many bytes more it would exceed its allowance. */
  protected hasMuch(bytes: number): boolean {
    return this.decoded + bytes > allowance
  }

  /** Returns true if a message may be decoded, which is then counted until it is {@link release}d. */
  protected admit(bytes: number): boolean {
    const decoded = this.decoded + bytes
    const needed = decoded - allowance - this.drawn
    if (needed > 0) {
      if (!this.shared.draw(this, needed)) {
        this.wanted = needed
        return false
      }
      this.drawn += needed
    }
    if (this.wanted > 0) this.hasRoom()
    this.decoded = decoded
    return true
  }

  /** It waits no more, and the next one may: also where its own room has done. */
  private hasRoom(): void {
    this.wanted = 0
    this.shared.forget(this)
    this.shared.wake()
  }

  /** A message is not in memory any more, as far as this library knows. */
  release(bytes: number): void {
    this.decoded -= bytes
    if (this.drawn > 0) this.giveBack()
    // Its own room may do.
    if (this.wanted > 0 && bytes > 0) this.retry()
  }

  private giveBack(): void {
    const surplus = this.drawn - Math.max(0, this.decoded - allowance)
    if (surplus <= 0) return
    this.drawn -= surplus
    this.shared.give(surplus)
  }

  /** The connection has ended and waits for nothing any more. Its channels give back what they have when they have ended. */
  protected forgetWait(): void {
    if (this.wanted > 0) this.shared.forget(this)
  }
}

/** Frames that are held back, in the order in which they came. */
export class Held extends Mailbox {
  add(item: unknown): void {
    this.put(item)
  }

  /** There must be one. */
  next(): unknown {
    const item = this.take()
    this.compact()
    return item
  }
}
