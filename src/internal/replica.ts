/**
 * Who is present, as one node knows it: its own presences, and a copy of those of every other node. Plain data and
 * functions of it; time comes in as a number and packets go out as return values. docs/replication.md tells why it
 * converges.
 */

/** One life of a node: when it starts again, it is another. */
export interface Owner {
  readonly node: string
  /** Grows with each start of the node. */
  readonly life: number
}

/** What is known of a presence; `phx_ref` names this state of it. */
export interface Meta {
  readonly [name: string]: unknown
  readonly phx_ref: string
}

/** A presence on its way between nodes: its number among those of its owner, and what it is. */
export type Presence = readonly [id: number, topic: string, key: string, meta: Meta]

/** What nodes tell each other. */
export type Packet =
  /** The owner lives, and has come to this version. */
  | { readonly type: "heartbeat"; readonly from: Owner; readonly version: number }
  /** What brings a copy from any version between `base` and `version` to `version`. */
  | {
    readonly type: "delta"
    readonly from: Owner
    readonly base: number
    readonly version: number
    readonly present: ReadonlyArray<Presence>
    readonly gone: ReadonlyArray<number>
  }
  /** The whole state at a version, in parts. */
  | {
    readonly type: "snapshot"
    readonly from: Owner
    readonly version: number
    readonly part: number
    readonly parts: number
    readonly present: ReadonlyArray<Presence>
  }
  /** Somebody lacks what came after a version. */
  | { readonly type: "request"; readonly from: Owner; readonly life: number; readonly have: number }
  /** The owner ends, with all its presences. */
  | { readonly type: "bye"; readonly from: Owner }

/** A packet and the node it is for; undefined for all others. */
export interface Outgoing {
  readonly to: string | undefined
  readonly packet: Packet
}

/** What has changed for those who look, by topic. */
export type Diff = ReadonlyMap<string, {
  readonly joins: ReadonlyArray<readonly [key: string, meta: Meta]>
  readonly leaves: ReadonlyArray<readonly [key: string, meta: Meta]>
}>

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

/** How many presences travel in one packet of a snapshot. */
const partSize = 1000

/** Collects a diff, and keeps what is visible in step with it. */
class View {
  private readonly topics = new Map<string, Map<string, Set<Presence>>>()
  private changes = new Map<string, { joins: Array<readonly [string, Meta]>; leaves: Array<readonly [string, Meta]> }>()

  private change(topic: string) {
    let change = this.changes.get(topic)
    if (change === undefined) this.changes.set(topic, change = { joins: [], leaves: [] })
    return change
  }

  show(presence: Presence): void {
    const [, topic, key, meta] = presence
    let keys = this.topics.get(topic)
    if (keys === undefined) this.topics.set(topic, keys = new Map())
    const presences = keys.get(key)
    if (presences === undefined) keys.set(key, new Set([presence]))
    else presences.add(presence)
    this.change(topic).joins.push([key, meta])
  }

  hide(presence: Presence): void {
    const [, topic, key, meta] = presence
    const keys = this.topics.get(topic)
    const presences = keys?.get(key)
    if (keys === undefined || presences === undefined || !presences.delete(presence)) return
    if (presences.size === 0) keys.delete(key)
    if (keys.size === 0) this.topics.delete(topic)
    this.change(topic).leaves.push([key, meta])
  }

  take(): Diff {
    const { changes } = this
    this.changes = new Map()
    return changes
  }

  list(topic: string): ReadonlyMap<string, ReadonlySet<Presence>> | undefined {
    return this.topics.get(topic)
  }

  get size(): number {
    return this.topics.size
  }
}

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
  /** The parts of a snapshot that have arrived. */
  parts: { readonly version: number; readonly arrived: Map<number, ReadonlyArray<Presence>> } | undefined = undefined

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
  private readonly own = new Map<number, { readonly presence: Presence; readonly version: number }>()
  private readonly copies = new Map<string, Copy>()
  private version = 0
  /** Removals since `removalsSince`, oldest first. */
  private removals: Array<readonly [version: number, id: number]> = []
  private removalsSince = 0
  /** The version that was last told to all. */
  private told = 0
  private changed = new Set<number>()
  private silent = Infinity

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
    this.changed.add(id)
    this.view.show(presence)
    return this.view.take()
  }

  remove(ids: Iterable<number>): Diff {
    for (const id of ids) {
      const before = this.own.get(id)
      if (before === undefined) continue
      this.own.delete(id)
      this.removals.push([++this.version, id])
      this.changed.add(id)
      this.view.hide(before.presence)
    }
    while (this.removals.length > rememberedRemovals) this.removalsSince = this.removals.shift()?.[0] ?? 0
    return this.view.take()
  }

  /** The last packet of this life. */
  bye(): Outgoing {
    return { to: undefined, packet: { type: "bye", from: this.self } }
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  /** Called once in a period: tells what has changed, and looks who has not been heard of. */
  tick(now: number): Outcome {
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
    return { diff: this.view.take(), send: this.news() }
  }

  private news(): ReadonlyArray<Outgoing> {
    const { self: from, version } = this
    if (this.changed.size > 0) {
      const packet = this.delta(this.told, this.changed)
      this.changed = new Set()
      this.told = version
      this.silent = 0
      return [{ to: undefined, packet }]
    }
    if (this.silent++ < this.options.maxSilentPeriods) return []
    this.silent = 0
    return [{ to: undefined, packet: { type: "heartbeat", from, version } }]
  }

  private delta(base: number, changed: Iterable<number>): Packet {
    const present: Array<Presence> = []
    const gone: Array<number> = []
    for (const id of changed) {
      const found = this.own.get(id)
      if (found === undefined) gone.push(id)
      else present.push(found.presence)
    }
    return { type: "delta", from: this.self, base, version: this.version, present, gone }
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
    return { diff: this.view.take(), send }
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
    send.push({ to: node, packet: { type: "heartbeat", from: this.self, version: this.version } })
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

  private ask(copy: Copy, { life, node }: Owner, now: number, send: Array<Outgoing>): void {
    if (now - copy.asked < this.options.period) return
    copy.asked = now
    send.push({ to: node, packet: { type: "request", from: this.self, life, have: copy.version } })
  }

  private answer(to: string, have: number, send: Array<Outgoing>): void {
    const { self: from, version } = this
    if (have >= this.removalsSince && have > 0) {
      const changed = new Set<number>()
      for (const [id, own] of this.own) if (own.version > have) changed.add(id)
      for (const [removed, id] of this.removals) if (removed > have) changed.add(id)
      send.push({ to, packet: this.delta(have, changed) })
      return
    }
    const present = Array.from(this.own.values(), (own) => own.presence)
    const parts = Math.max(1, Math.ceil(present.length / partSize))
    for (let part = 0; part < parts; part++) {
      const some = present.slice(part * partSize, (part + 1) * partSize)
      send.push({ to, packet: { type: "snapshot", from, version, part, parts, present: some } })
    }
  }

  private collect(copy: Copy, { part, parts, present, version }: Packet & { type: "snapshot" }): void {
    if (copy.parts?.version !== version) {
      // A part of an older snapshot is late.
      if (copy.parts !== undefined && copy.parts.version > version) return
      copy.parts = { version, arrived: new Map() }
    }
    const { arrived } = copy.parts
    arrived.set(part, present)
    if (arrived.size < parts) return
    copy.parts = undefined
    const all = new Map([...arrived.values()].flat().map((presence) => [presence[0], presence]))
    const gone = [...copy.presences.keys()].filter((id) => !all.has(id))
    this.apply(copy, version, all.values(), gone)
  }

  private apply(copy: Copy, version: number, present: Iterable<Presence>, gone: Iterable<number> = noRemovals): void {
    copy.version = version
    if (copy.parts !== undefined && copy.parts.version <= version) copy.parts = undefined
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
  list(topic: string): ReadonlyMap<string, ReadonlySet<Presence>> {
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

const nobody: ReadonlyMap<string, ReadonlySet<Presence>> = new Map()
