/**
 * Who is present, as one node knows it: its own presences, and a copy of those of every other node. Plain data and
 * functions of it; time comes in as a number and packets go out as return values. docs/replication.md tells why it
 * converges.
 */

import type { Meta, Owner, Packet, Presence } from "./packet.ts"
import { SteadyMap } from "./steadyMap.ts"

/** A packet and the node it is for; undefined for all others. */
export interface Outgoing {
  readonly to: string | undefined
  readonly packet: Packet
  /** For a packet that cannot be sent as it is: the same in smaller ones. */
  readonly cut?: () => Cut
}

/** What becomes of a packet that was cut. */
export interface Cut {
  readonly send: ReadonlyArray<Outgoing>
  /** One that cannot be sent at all: other nodes go on without it, until it changes. */
  readonly withheld?: Presence | undefined
}

/** What has changed for those who look, by topic. */
export type Diff = ReadonlyMap<string, {
  readonly joins: ReadonlyArray<readonly [key: string, meta: Meta]>
  readonly leaves: ReadonlyArray<readonly [key: string, meta: Meta]>
}>

/** Presences by key. */
export interface Keys extends Iterable<readonly [key: string, presences: ReadonlySet<Presence>]> {
  readonly size: number
  readonly keys: () => Iterable<string>
  readonly get: (key: string) => ReadonlySet<Presence> | undefined
  readonly forEach: (each: (presences: ReadonlySet<Presence>, key: string) => void) => void
}

/** What came of a packet, or of time. */
export interface Outcome {
  readonly diff: Diff
  readonly send: ReadonlyArray<Outgoing>
}

/** All times in milliseconds. */
export interface Options {
  /** How often {@link Replica.tick} is called. */
  readonly period: number
  /** After so many ticks without a change the owner tells that it lives. */
  readonly maxSilentPeriods: number
  /** The presences of a node that has been silent for so long are hidden. */
  readonly downPeriod: number
  /** And forgotten after this. */
  readonly permdownPeriod: number
}

/** How many removals an owner remembers, to answer a request without a snapshot. */
const rememberedRemovals = 1000

/** How many presences and removals travel in one packet. */
const partSize = 1000

const noDiff: Diff = new Map()

const told = ([, , key, meta]: Presence): readonly [key: string, meta: Meta] => [key, meta]

/** Collects a diff, and keeps what is visible in step with it. What comes and goes within one diff is in none. */
class View {
  private readonly topics = new SteadyMap<string, SteadyMap<string, Set<Presence>>>()
  private changes = new Map<string, { readonly joins: Set<Presence>; readonly leaves: Set<Presence> }>()

  private change(topic: string) {
    let change = this.changes.get(topic)
    if (change === undefined) this.changes.set(topic, change = { joins: new Set(), leaves: new Set() })
    return change
  }

  show(presence: Presence): void {
    const [, topic, key] = presence
    let keys = this.topics.get(topic)
    if (keys === undefined) this.topics.set(topic, keys = new SteadyMap())
    const presences = keys.get(key)
    if (presences === undefined) keys.set(key, new Set([presence]))
    else presences.add(presence)
    const { joins, leaves } = this.change(topic)
    if (!leaves.delete(presence)) joins.add(presence)
  }

  hide(presence: Presence): void {
    const [, topic, key] = presence
    const keys = this.topics.get(topic)
    const presences = keys?.get(key)
    if (keys === undefined || presences === undefined || !presences.delete(presence)) return
    if (presences.size === 0) keys.delete(key)
    if (keys.size === 0) this.topics.delete(topic)
    const { joins, leaves } = this.change(topic)
    if (!joins.delete(presence)) leaves.add(presence)
  }

  take(): Diff {
    const { changes } = this
    if (changes.size === 0) return noDiff
    this.changes = new Map()
    const diff = new Map<string, { joins: Array<readonly [string, Meta]>; leaves: Array<readonly [string, Meta]> }>()
    for (const [topic, { joins, leaves }] of changes) {
      if (joins.size + leaves.size > 0) {
        diff.set(topic, { joins: Array.from(joins, told), leaves: Array.from(leaves, told) })
      }
    }
    return diff
  }

  list(topic: string): Keys | undefined {
    return this.topics.get(topic)
  }

  get size(): number {
    return this.topics.size
  }
}

/** A presence of this node. */
interface Own {
  readonly presence: Presence
  /** Of its last change. */
  readonly version: number
  readonly isWithheld?: boolean
}

/** A presence that has changed, or gone, and the version of its last change. */
type Change = readonly [id: number, version: number]

const byVersion = ([, a]: Change, [, b]: Change): number => a - b

/** What is known of another node. */
class Copy {
  readonly life: number
  version = 0
  presences = new Map<number, Presence>()
  heard: number
  /** `gone` has said that it ends: nothing of this life counts any more. */
  state: "up" | "down" | "gone" = "up"
  /** When the owner was last asked for what is missing. */
  asked = -Infinity
  /** What has arrived of a snapshot. */
  snapshot: { readonly version: number; readonly arrived: Map<number, Presence> } | undefined = undefined

  constructor(life: number, now: number) {
    this.life = life
    this.heard = now
  }
}

const noRemovals: ReadonlyArray<number> = []

/** The state of one node. */
export class Replica {
  readonly self: Owner
  private readonly options: Options
  private readonly view = new View()
  private readonly own = new Map<number, Own>()
  private readonly copies = new Map<string, Copy>()
  private version = 0
  /** Removals since `removalsSince`, oldest first. */
  private removals: Array<readonly [version: number, id: number]> = []
  private removalsSince = 0
  /** The version that was last told to all. */
  private told = 0
  /** Presences that have changed since, with the version of their last change. */
  private changed = new Map<number, number>()
  private silent = Infinity
  private isCutOff = false
  private ended = false

  constructor(self: Owner, options: Options) {
    this.self = self
    this.options = options
  }

  // --- this node's own ----------------------------------------------------------------------------------------------

  /** Adds a presence, or changes the one of this id. */
  put(presence: Presence): Diff {
    const [id] = presence
    const before = this.own.get(id)
    if (before !== undefined) this.view.hide(before.presence)
    this.own.set(id, { presence, version: ++this.version })
    this.note(id)
    this.view.show(presence)
    return this.view.take()
  }

  remove(ids: Iterable<number>): Diff {
    for (const id of ids) {
      const before = this.own.get(id)
      if (before === undefined) continue
      this.own.delete(id)
      this.removals.push([++this.version, id])
      this.note(id)
      this.view.hide(before.presence)
    }
    const forgotten = this.removals.length - rememberedRemovals
    if (forgotten > 0) this.removalsSince = this.removals.splice(0, forgotten).at(-1)?.[0] ?? 0
    return this.view.take()
  }

  private note(id: number): void {
    this.changed.set(id, this.version)
  }

  /** What everybody here has to be told when this state is lost: that all have left. */
  forgetAll(): Diff {
    for (const copy of this.copies.values()) this.hideAll(copy)
    for (const { presence } of this.own.values()) this.view.hide(presence)
    this.copies.clear()
    this.own.clear()
    return this.view.take()
  }

  /** The last packet of this life: from now on this node says nothing of itself. */
  bye(): Outgoing {
    this.ended = true
    return { to: undefined, packet: { type: "bye", from: this.self } }
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  /**
   * Called once in a period: tells what has changed, and looks who has not been heard of. While nobody is reached, what
   * there is to tell waits; afterwards this node speaks at once, and asks for what it has missed.
   */
  tick(now: number, isReached = true): Outcome {
    for (const [node, copy] of this.copies) {
      const silence = now - copy.heard
      if (silence > this.options.permdownPeriod) {
        this.hideAll(copy)
        this.copies.delete(node)
      } else if (copy.state === "up" && silence > this.options.downPeriod) {
        this.hideAll(copy)
        copy.state = "down"
      }
    }
    const diff = this.view.take()
    if (!isReached) {
      this.cutOff()
      return { diff, send: [] }
    }
    const requests = this.isCutOff ? this.requests(now) : []
    this.isCutOff = false
    return { diff, send: this.ended ? requests : [...this.news(), ...requests] }
  }

  /** Takes back the silence of others in a time in which this node was stopped and heard nobody. */
  absent(millis: number, now: number): void {
    for (const copy of this.copies.values()) copy.heard = Math.min(now, copy.heard + millis)
  }

  /** Notes an outage that no tick has seen: the next tick speaks, and asks for what was missed. */
  cutOff(): void {
    this.isCutOff = true
    this.silent = Infinity
  }

  private news(): ReadonlyArray<Outgoing> {
    const { version } = this
    if (this.changed.size > 0) {
      const changes = [...this.changed].sort(byVersion)
      this.changed = new Map()
      this.silent = 0
      const deltas = this.deltas(undefined, this.told, changes)
      this.told = version
      return deltas
    }
    if (this.silent++ < this.options.maxSilentPeriods) return []
    this.silent = 0
    return [this.heartbeat()]
  }

  private heartbeat(to?: string): Outgoing {
    return { to, packet: { type: "heartbeat", from: this.self, version: this.version } }
  }

  /**
   * What has changed after `base`, in the order of the last changes, so that it can be cut anywhere: a copy at a version
   * is right about all that has not changed since, and what has is yet to come.
   */
  private deltas(to: string | undefined, base: number, changes: ReadonlyArray<Change>): ReadonlyArray<Outgoing> {
    const deltas: Array<Outgoing> = []
    for (let from = 0; from < changes.length; from += partSize) {
      const some = changes.slice(from, from + partSize)
      const version = from + partSize < changes.length ? some.at(-1)?.[1] ?? base : this.version
      deltas.push(this.delta(to, base, version, some))
      base = version
    }
    return deltas
  }

  private delta(to: string | undefined, base: number, version: number, changes: ReadonlyArray<Change>): Outgoing {
    const present: Array<Presence> = []
    const gone: Array<number> = []
    for (const [id] of changes) {
      const own = this.own.get(id)
      if (own === undefined || own.isWithheld === true) gone.push(id)
      else present.push(own.presence)
    }
    const cut = (): Cut => {
      const half = changes.length >> 1
      const middle = changes[half - 1]?.[1]
      if (middle !== undefined) {
        const send = [
          this.delta(to, base, middle, changes.slice(0, half)),
          this.delta(to, middle, version, changes.slice(half))
        ]
        return { send }
      }
      const withheld = this.withhold(present[0])
      return { send: withheld === undefined ? [] : [this.delta(to, base, version, [])], withheld }
    }
    return { to, packet: { type: "delta", from: this.self, base, version, present, gone }, cut }
  }

  private snapshots(to: string): ReadonlyArray<Outgoing> {
    const present = [...this.own.values()].flatMap((own) => own.isWithheld === true ? [] : [own.presence])
    const parts = Array.from(
      { length: Math.max(1, Math.ceil(present.length / partSize)) },
      (_, part) => present.slice(part * partSize, (part + 1) * partSize)
    )
    return parts.map((part) => this.snapshot(to, this.version, present.length, part))
  }

  private snapshot(to: string, version: number, total: number, present: ReadonlyArray<Presence>): Outgoing {
    const cut = (): Cut => {
      const half = present.length >> 1
      // Without the one it is another version, which is asked for when it is told.
      if (half === 0) return { send: [], withheld: this.withhold(present[0]) }
      const halves = [present.slice(0, half), present.slice(half)]
      return { send: halves.map((some) => this.snapshot(to, version, total, some)) }
    }
    return { to, packet: { type: "snapshot", from: this.self, version, total, present }, cut }
  }

  /** To other nodes a presence that cannot be sent is gone; that is a change. */
  private withhold(presence: Presence | undefined): Presence | undefined {
    if (presence === undefined) return undefined
    const [id] = presence
    if (this.own.get(id)?.presence !== presence) return undefined
    this.own.set(id, { presence, version: ++this.version, isWithheld: true })
    this.note(id)
    return presence
  }

  // --- others -------------------------------------------------------------------------------------------------------

  receive(packet: Packet, now: number): Outcome {
    const send: Array<Outgoing> = []
    if (packet.from.node !== this.self.node) {
      if (packet.type === "request") {
        if (packet.life === this.self.life) this.answer(packet.from.node, packet.have, send)
      } else {
        const copy = this.copyOf(packet.from, now, send)
        if (copy !== undefined) this.learn(copy, packet, now, send)
      }
    }
    // Who has said bye may still look, and ask for what it lacks, but speaks of itself no more.
    return { diff: this.view.take(), send: this.ended ? send.filter(({ packet }) => packet.type === "request") : send }
  }

  /** The copy that a packet is about; undefined when it speaks of a life that is over. */
  private copyOf({ life, node }: Owner, now: number, send: Array<Outgoing>): Copy | undefined {
    const known = this.copies.get(node)
    if (known?.life === life) return known.state === "gone" ? undefined : known
    // An older life may still be heard, unless the clock of a node was set back and the newer one is silent.
    if (known !== undefined && life < known.life && now - known.heard <= this.options.downPeriod) return undefined
    if (known !== undefined) this.hideAll(known)
    const copy = new Copy(life, now)
    this.copies.set(node, copy)
    send.push(this.heartbeat(node))
    return copy
  }

  private learn(copy: Copy, packet: Exclude<Packet, { type: "request" }>, now: number, send: Array<Outgoing>): void {
    copy.heard = now
    if (packet.type === "bye") {
      this.hideAll(copy)
      copy.presences.clear()
      copy.state = "gone"
      return
    }
    if (copy.state === "down") {
      copy.state = "up"
      for (const presence of copy.presences.values()) this.view.show(presence)
    }
    if (packet.version <= copy.version) return
    if (packet.type === "snapshot") this.collect(copy, packet)
    else if (packet.type === "delta" && packet.base <= copy.version) {
      this.apply(copy, packet.version, packet.present, packet.gone)
    }
    if (packet.version > copy.version && packet.type !== "snapshot") this.ask(copy, packet.from, now, send)
  }

  private requests(now: number): ReadonlyArray<Outgoing> {
    const requests: Array<Outgoing> = []
    for (const [node, copy] of this.copies) {
      if (copy.state !== "gone") this.ask(copy, { node, life: copy.life }, now, requests)
    }
    return requests
  }

  private ask(copy: Copy, { life, node }: Owner, now: number, send: Array<Outgoing>): void {
    if (now - copy.asked < this.options.period) return
    copy.asked = now
    send.push({ to: node, packet: { type: "request", from: this.self, life, have: copy.version } })
  }

  private answer(to: string, have: number, send: Array<Outgoing>): void {
    if (have === 0 || have < this.removalsSince) return void send.push(...this.snapshots(to))
    const last = new Map<number, number>()
    for (const [removed, id] of this.removals) if (removed > have) last.set(id, removed)
    for (const [id, own] of this.own) if (own.version > have) last.set(id, own.version)
    if (last.size > 0) send.push(...this.deltas(to, have, [...last].sort(byVersion)))
    else send.push(this.heartbeat(to))
  }

  private collect(copy: Copy, { present, total, version }: Packet & { type: "snapshot" }): void {
    if (copy.snapshot?.version !== version) {
      // A part of an older snapshot is late.
      if (copy.snapshot !== undefined && copy.snapshot.version > version) return
      copy.snapshot = { version, arrived: new Map() }
    }
    const { arrived } = copy.snapshot
    for (const presence of present) arrived.set(presence[0], presence)
    if (arrived.size < total) return
    const gone = [...copy.presences.keys()].filter((id) => !arrived.has(id))
    this.apply(copy, version, arrived.values(), gone)
  }

  private apply(copy: Copy, version: number, present: Iterable<Presence>, gone: Iterable<number> = noRemovals): void {
    copy.version = version
    if (copy.snapshot !== undefined && copy.snapshot.version <= version) copy.snapshot = undefined
    for (const presence of present) {
      const before = copy.presences.get(presence[0])
      if (before?.[3].phx_ref === presence[3].phx_ref) continue
      if (before !== undefined) this.view.hide(before)
      copy.presences.set(presence[0], presence)
      this.view.show(presence)
    }
    for (const id of gone) {
      const before = copy.presences.get(id)
      if (before === undefined) continue
      copy.presences.delete(id)
      this.view.hide(before)
    }
  }

  private hideAll(copy: Copy): void {
    if (copy.state === "up") { for (const presence of copy.presences.values()) this.view.hide(presence) }
  }

  // --- views --------------------------------------------------------------------------------------------------------

  /** The presences of a topic by key, of all nodes that are up. */
  list(topic: string): Keys {
    return this.view.list(topic) ?? nobody
  }

  /** Nodes that are known, and whether they are up. */
  get nodes(): ReadonlyArray<{ readonly node: string; readonly up: boolean }> {
    return Array.from(this.copies, ([node, { state }]) => ({ node, up: state === "up" }))
  }

  /** How much is kept: presences of this node and of others, and topics that somebody is present in. */
  get size(): { readonly own: number; readonly copied: number; readonly topics: number } {
    let copied = 0
    for (const { presences } of this.copies.values()) copied += presences.size
    return { own: this.own.size, copied, topics: this.view.size }
  }
}

const nobody: Keys = new Map()
