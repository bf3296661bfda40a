import { Deferred, Exit } from "effect"
import type { Connection } from "./engine.ts"

/** Channels in one request. */
const batch = 1000

/**
 * The channels that a node wants to hear, and the way from there to what its connection is subscribed to. One request is
 * under way at a time, and all changes meanwhile share the next: an engine that hangs makes nobody queue more than there
 * are channels.
 */
export class Subscriptions {
  /** By channel: complete once its messages arrive, or once the engine has refused it. */
  private readonly wanted = new Map<string, Deferred.Deferred<void>>()
  /** The channels that the connection is subscribed to. */
  private readonly live = new Set<string>()
  private readonly changed = new Set<string>()
  /** Wanted when the connection was made, and not asked for yet. */
  private readonly outstanding = new Set<string>()
  /** Wanted and refused on this connection, with the cause. */
  readonly refused = new Map<string, unknown>()
  private connection: Connection | undefined = undefined
  private request: Promise<void> | undefined = undefined
  private readonly settled: () => void
  private readonly broken: (cause: unknown) => void

  /**
   * @param settled - called after each answer of the engine
   * @param broken - called when a request fails with the connection
   */
  constructor(settled: () => void, broken: (cause: unknown) => void) {
    this.settled = settled
    this.broken = broken
  }

  /** Everything that was wanted when the connection was made has been answered. */
  get isComplete(): boolean {
    return this.connection !== undefined && this.outstanding.size === 0
  }

  /** The engine has refused everything. */
  get isBarred(): boolean {
    return this.live.size === 0 && this.refused.size > 0
  }

  get isWaiting(): boolean {
    return this.request !== undefined
  }

  want(channel: string): Deferred.Deferred<void> {
    const live = Deferred.makeUnsafe<void>()
    this.wanted.set(channel, live)
    if (this.live.has(channel)) Deferred.doneUnsafe(live, Exit.void)
    else this.change(channel)
    return live
  }

  /** Returns true if the engine had refused it. */
  drop(channel: string): boolean {
    this.wanted.delete(channel)
    this.change(channel)
    return this.refused.delete(channel)
  }

  /** Subscribes a new connection to everything, in order; `isComplete` tells when that is done. */
  attach(connection: Connection): void {
    this.detach()
    this.connection = connection
    for (const channel of this.wanted.keys()) {
      this.changed.add(channel)
      this.outstanding.add(channel)
    }
    this.send()
  }

  detach(): void {
    this.connection = undefined
    this.request = undefined
    this.live.clear()
    this.refused.clear()
    this.changed.clear()
    this.outstanding.clear()
  }

  /** Complete with the answer to the request that is under way, or its failure. */
  answered(): Promise<void> {
    return this.request ?? Promise.resolve()
  }

  /** The engine has ended a subscription. */
  refuse(channel: string, cause: unknown): void {
    this.live.delete(channel)
    if (this.wanted.has(channel)) this.refused.set(channel, cause)
  }

  /** Asks again for what was refused, the longest refused first. */
  retry(): void {
    for (const [channel, cause] of [...this.refused].slice(0, batch)) {
      this.refused.delete(channel)
      this.refused.set(channel, cause)
      this.changed.add(channel)
    }
    this.send()
  }

  private change(channel: string): void {
    if (this.connection === undefined) return
    this.changed.add(channel)
    this.send()
  }

  private send(): void {
    const { connection } = this
    if (connection === undefined || this.request !== undefined || this.changed.size === 0) return
    const request = this.exchange(connection).then((answered) => {
      if (this.request !== request) return
      this.request = undefined
      this.send()
      this.settled()
      // Last, so that whoever goes on finds the state as it is now.
      for (const live of answered) Deferred.doneUnsafe(live, Exit.void)
    }, (cause: unknown) => {
      if (this.request === request) this.broken(cause)
    })
    this.request = request
  }

  /** Returns what is complete by its answer. */
  private async exchange(connection: Connection): Promise<ReadonlyArray<Deferred.Deferred<void>>> {
    const asked: Array<string> = []
    const add: Array<string> = []
    const remove: Array<string> = []
    for (const channel of this.changed) {
      if (asked.length === batch) break
      asked.push(channel)
      this.changed.delete(channel)
      if (!this.wanted.has(channel)) {
        if (this.live.delete(channel)) remove.push(channel)
      } else if (!this.live.has(channel)) {
        add.push(channel)
      }
    }
    // First what is given up: it makes room where the engine limits their number.
    const [, refused] = await Promise.all([
      remove.length > 0 ? connection.unsubscribe(remove) : undefined,
      add.length > 0 ? connection.subscribe(add) : undefined
    ])
    if (this.connection !== connection) return []
    for (const channel of asked) this.outstanding.delete(channel)
    for (const channel of add) {
      if (refused?.has(channel) === true) {
        if (this.wanted.has(channel)) this.refused.set(channel, refused.get(channel))
      } else {
        this.live.add(channel)
        this.refused.delete(channel)
      }
    }
    return add.flatMap((channel) => this.wanted.get(channel) ?? [])
  }
}
