import type { Timer, Timers } from "./timers.ts"

interface Fresh {
  readonly address: string | undefined
  readonly timer: Timer
}

/**
 * Sessions that have been begun, and not yet been used: to begin one takes a single request, and no connection that stays.
 * There are a limited number of them, a part of which an address may have, and none for long.
 */
export class Unpolled {
  private readonly timers: Timers
  private readonly max: number
  /** The share of one address. */
  private readonly maxPerAddress: number
  /** Milliseconds until one is over that is not used. */
  private readonly time: number
  private readonly sessions = new Map<string, Fresh>()
  private readonly addresses = new Map<string, number>()

  constructor(timers: Timers, max: number, time: number) {
    this.timers = timers
    this.max = max
    this.maxPerAddress = Math.ceil(max / 4)
    this.time = time
  }

  /** Returns true if there is no room for one more from this address. */
  isFull(address: string | undefined): boolean {
    if (this.sessions.size >= this.max) return true
    return address !== undefined && (this.addresses.get(address) ?? 0) >= this.maxPerAddress
  }

  add(id: string, address: string | undefined, end: () => void): void {
    const timer = this.timers.after(this.time, () => {
      this.remove(id)
      end()
    })
    this.sessions.set(id, { address, timer })
    if (address !== undefined) this.addresses.set(address, (this.addresses.get(address) ?? 0) + 1)
  }

  /** It is used, or has ended. */
  remove(id: string): void {
    const fresh = this.sessions.get(id)
    if (fresh === undefined) return
    const { address, timer } = fresh
    this.timers.cancel(timer)
    this.sessions.delete(id)
    if (address === undefined) return
    const count = (this.addresses.get(address) ?? 0) - 1
    if (count > 0) this.addresses.set(address, count)
    else this.addresses.delete(address)
  }
}
