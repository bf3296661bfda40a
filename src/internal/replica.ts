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

/** How many presences and removals travel in one packet. */
const partSize = 1000

const noDiff: Diff = new Map()

const told = ([, , key, meta]: Presence): readonly [key: string, meta: Meta] => [key, meta]

/** Collects a diff, and keeps what is visible in step with it. What comes and goes within one diff is in none. */
class View {
  private readonly topics = new Map<string, Map<string, Set<Presence>>>()
  private changes = new Map<string, { readonly joins: Set<Presence>; readonly leaves: Set<Presence> }>()

  private change(topic: string) {
    let change = this.changes.get(topic)
    if (change === undefined) this.changes.set(topic, change = { joins: new Set(), leaves: new Set() })
    return change
  }

  show(presence: Presence): void {
    const [, topic, key] = presence
    let keys = this.topics.get(topic)
    if (keys === undefined) this.topics.set(topic, keys = new Map())
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
  /** What has changed since, with the version of its last change, in the order of these. */
  private changed = new Map<number, number>()
  private silent = Infinity
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
    while (this.removals.length > rememberedRemovals) this.removalsSince = this.removals.shift()?.[0] ?? 0
    return this.view.take()
  }

  private note(id: number): void {
    this.changed.delete(id)
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
    return { diff: this.view.take(), send: this.ended ? [] : this.news() }
  }

  private news(): ReadonlyArray<Outgoing> {
    const { self: from, version } = this
    if (this.changed.size > 0) {
      const { changed } = this
      this.changed = new Map()
      this.silent = 0
      const packets = this.deltas(this.told, changed)
      this.told = version
      return packets.map((packet) => ({ to: undefined, packet }))
    }
    if (this.silent++ < this.options.maxSilentPeriods) return []
    this.silent = 0
    return [{ to: undefined, packet: { type: "heartbeat", from, version } }]
  }

  /**
   * What has changed after `base`, in the order of the last changes, so that it can be cut anywhere: a copy at a version
   * is right about all that has not changed since, and what has is yet to come.
   */
  private deltas(base: number, changed: ReadonlyMap<number, number>): ReadonlyArray<Packet> {
    const packets: Array<Packet> = []
    let present: Array<Presence> = []
    let gone: Array<number> = []
    let left = changed.size
    for (const [id, version] of changed) {
      const found = this.own.get(id)
      if (found === undefined) gone.push(id)
      else present.push(found.presence)
      if (--left > 0 && present.length + gone.length < partSize) continue
      const last = left === 0 ? this.version : version
      packets.push({ type: "delta", from: this.self, base, version: last, present, gone })
      base = last
      present = []
      gone = []
    }
    return packets
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
      const last = new Map<number, number>()
      for (const [removed, id] of this.removals) if (removed > have) last.set(id, removed)
      for (const [id, own] of this.own) if (own.version > have) last.set(id, own.version)
      const changed = new Map([...last].sort(([, a], [, b]) => a - b))
      for (const packet of this.deltas(have, changed)) send.push({ to, packet })
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
