import { Cause, type Context, Effect, type Exit, HashMap } from "effect"
import * as Message from "../Message.ts"
import type * as PubSub from "../PubSub.ts"
import { attempt, effectOf } from "./eager.ts"
import type { Lane } from "./lane.ts"
import { Complaints } from "./limits.ts"
import { countHandlerFailure } from "./meter.ts"
import type { Meta } from "./packet.ts"
import { Patience } from "./patience.ts"
import { type Change, type Changes, Pending } from "./pending.ts"
import { NotPlain, plain } from "./plain.ts"
import type { System } from "./process.ts"
import { SteadyMap } from "./steadyMap.ts"
import { brief } from "./untrusted.ts"

/** As in Presence.ts. */
interface Entry {
  readonly metas: ReadonlyArray<Meta>
  readonly [name: string]: unknown
}

export interface Entries {
  readonly [key: string]: Entry
}

interface Diff {
  readonly joins: Entries
  readonly leaves: Entries
}

/** The functions of `Presence.Handlers`, with their services. */
export interface Handlers {
  readonly fetch?: ((topic: string, entries: Entries) => Effect.Effect<Entries>) | undefined
  readonly handleMetas?: ((topic: string, diff: Diff, presences: Entries) => Effect.Effect<unknown>) | undefined
}

/** The most that `fetch` may add to one entry, in bytes as JSON. */
const maxAdditionBytes = 1_000_000

const group = (changes: Iterable<Change>): Entries => {
  const entries: { [key: string]: { readonly metas: Array<Meta> } } = Object.create(null)
  for (const [key, meta] of changes) (entries[key] ??= { metas: [] }).metas.push(meta)
  return entries
}

/** Calls the functions that an application has given a presence, and goes on without them when they fail. */
export class Handling {
  readonly name: string
  readonly hasFetch: boolean
  readonly hasMetas: boolean
  private readonly handlers: Handlers
  private readonly context: Context.Context<never>
  private readonly patience: Patience
  private readonly limit: number
  private readonly complaints: Complaints

  constructor(
    name: string,
    handlers: Handlers,
    system: System,
    context: Context.Context<never>,
    limit: number
  ) {
    this.name = name
    this.handlers = handlers
    this.hasFetch = handlers.fetch !== undefined
    this.hasMetas = handlers.handleMetas !== undefined
    this.context = context
    this.limit = limit
    this.patience = new Patience(system, context, limit)
    this.complaints = new Complaints(system.timers, context)
    if (this.hasFetch) countHandlerFailure(name, "fetch", 0, context)
    if (this.hasMetas) countHandlerFailure(name, "handleMetas", 0, context)
  }

  /** For a diff: joins and leaves have one time together. */
  fetch(topic: string, diff: Diff): Effect.Effect<Diff> {
    const { fetch } = this.handlers
    if (fetch === undefined) return Effect.succeed(diff)
    const both = () =>
      Effect.flatMap(
        attempt(() => effectOf(fetch(topic, copyOf(diff.joins)))),
        (joins) =>
          Effect.map(attempt(() => effectOf(fetch(topic, copyOf(diff.leaves)))), (leaves) => ({ joins, leaves }))
      )
    return Effect.map(this.patience.run(both), (exit) => {
      if (exit?._tag !== "Success") return this.withoutFetch(topic, exit?.cause, diff)
      const { joins, leaves } = exit.value
      return { joins: this.check(topic, diff.joins, joins), leaves: this.check(topic, diff.leaves, leaves) }
    })
  }

  /** For a list, on the fiber of who asks for it. */
  fetchInPlace(topic: string, entries: Entries): Effect.Effect<Entries> {
    const { fetch } = this.handlers
    if (fetch === undefined) return Effect.succeed(entries)
    const fetched = Effect.suspend(() => Effect.provideContext(effectOf(fetch(topic, copyOf(entries))), this.context))
      .pipe(
        Effect.map((fetched) => this.check(topic, entries, fetched)),
        Effect.catchCause((cause) =>
          Cause.hasInterrupts(cause)
            ? Effect.failCause(cause)
            : Effect.sync(() => this.withoutFetch(topic, cause, entries))
        )
      )
    if (this.limit === Infinity) return fetched
    const orElse = () => Effect.sync(() => this.withoutFetch(topic, undefined, entries))
    return Effect.timeoutOrElse(fetched, { duration: this.limit, orElse })
  }

  private withoutFetch<A>(topic: string, cause: Cause.Cause<unknown> | undefined, instead: A): A {
    this.failed(
      "fetch",
      topic,
      cause,
      cause === undefined
        ? "fetch of a presence took longer than handlerTimeout; lists and diffs go out without what it adds"
        : "fetch of a presence has failed; lists and diffs go out without what it adds"
    )
    return instead
  }

  private failed(handler: string, topic: string, cause: Cause.Cause<unknown> | undefined, line: string): void {
    countHandlerFailure(this.name, handler, 1, this.context)
    this.complaints.say("Error", line, { presence: this.name, topic: brief(topic) }, cause)
  }

  /** Returns the result of `fetch`, with entries that cannot be sent to clients as they were before. */
  private check(topic: string, given: Entries, fetched: unknown): Entries {
    if (typeof fetched !== "object" || fetched === null) {
      return this.withoutFetch(topic, Cause.die(new NotPlain("INVALID", "fetch has returned no object")), given)
    }
    const entries: { [key: string]: Entry } = Object.create(null)
    let fault: NotPlain | undefined
    for (const [key, entry] of Object.entries(fetched)) {
      const before = given[key]
      try {
        entries[key] = checkEntry(entry, before)
      } catch (error) {
        if (!(error instanceof NotPlain)) throw error
        fault ??= error
        if (before !== undefined) entries[key] = before
      }
    }
    return fault === undefined ? entries : this.withoutFetch(topic, Cause.die(fault), entries)
  }

  /** Never fails. */
  handleMetas(topic: string, diff: Diff, presences: Entries): Effect.Effect<unknown> {
    const { handleMetas } = this.handlers
    if (handleMetas === undefined) return Effect.void
    return Effect.map(this.patience.run(() => handleMetas(topic, diff, presences)), (exit) => {
      if (exit?._tag === "Success") return
      this.failed(
        "handleMetas",
        topic,
        exit?.cause,
        exit === undefined
          ? "handleMetas of a presence took longer than handlerTimeout and was interrupted; later diffs are told"
          : "handleMetas of a presence has failed; later diffs are told"
      )
    })
  }

  /** Logs a diff that cannot be encoded for anybody. */
  lost(topic: string, exit: Exit.Failure<unknown, unknown>): void {
    this.complaints.say(
      "Error",
      "presence diff cannot be encoded: the members of its topic on this node miss it until they join again",
      { presence: this.name, topic: brief(topic) },
      exit.cause
    )
  }
}

/** For `fetch`, which may change what it is given. */
const copyOf = (entries: Entries): Entries => {
  const copy: { [key: string]: Entry } = Object.create(null)
  for (const key in entries) copy[key] = { metas: [...entries[key]?.metas ?? []] }
  return copy
}

const checkEntry = (entry: unknown, before: Entry | undefined): Entry => {
  if (typeof entry !== "object" || entry === null) throw new NotPlain("INVALID", "an entry of fetch is no object")
  const { metas, ...more } = entry as { readonly metas?: unknown; [name: string]: unknown }
  for (const name in more) {
    if (typeof more[name] !== "string") more[name] = plain(name, more[name], maxAdditionBytes)
  }
  return { ...more, metas: checkMetas(metas, before?.metas ?? []) }
}

const checkMetas = (metas: unknown, before: ReadonlyArray<Meta>): ReadonlyArray<Meta> => {
  if (!Array.isArray(metas)) throw new NotPlain("INVALID", "an entry of fetch has no metas")
  if (metas.length === before.length && metas.every((meta, index) => meta === before[index])) return before
  return metas.map((meta) => {
    const copy = plain("metas", meta, maxAdditionBytes)
    if (isMeta(copy)) return copy
    throw new NotPlain("INVALID", "a meta of fetch has no phx_ref")
  })
}

const isMeta = (value: unknown): value is Meta =>
  typeof value === "object" && value !== null && "phx_ref" in value && typeof value.phx_ref === "string"

/**
 * Deliveries that the changes of one topic which wait may cost when each is told on its own. Beyond, they are told together:
 * N members that join at once would else be told N times N things.
 */
const maxDeliveries = 2000

/** Beyond so many changes that wait, whoever they are for, those of a topic are told together. */
const maxFollowing = 32

/** Diffs that wait for a slow `fetch` each on its own; what comes then is told with the last of them. */
const maxWaiting = 8

/** The most changes that are told together while more of them arrive. */
const maxTogether = 1000

/** A topic, as long as something is to be told about it. */
export class Room {
  private readonly topic: string
  private readonly pubsub: PubSub.PubSub["Service"]
  private readonly handling: Handling
  private readonly lane: Lane
  private readonly close: () => void
  /** Changes that are being collected. */
  private open: Pending | undefined
  /** Changes that are each to be told as one diff. */
  private readonly waiting: Array<Pending>
  /** Changes that are being fetched and were not told. */
  private current: Pending | undefined = undefined
  private readonly told: Told

  constructor(
    topic: string,
    pubsub: PubSub.PubSub["Service"],
    handling: Handling,
    lane: (next: () => Effect.Effect<unknown> | undefined) => Lane,
    close: () => void,
    told: Told,
    before: Room | undefined
  ) {
    this.topic = topic
    this.pubsub = pubsub
    this.handling = handling
    this.lane = lane(() => this.next())
    this.close = close
    this.told = told
    this.open = before?.open
    this.waiting = before === undefined
      ? []
      : [...before.current === undefined ? [] : [before.current], ...before.waiting]
  }

  /** True when nothing was collected before. */
  add(changes: Changes): boolean {
    const isFirst = this.open === undefined
    this.open ??= new Pending()
    this.open.add(changes)
    return isFirst
  }

  /** True when so many changes follow that the collected ones are better told with them. */
  isStorm(following: number): boolean {
    return following > maxFollowing || following * this.pubsub.subscriberCount(this.topic) > maxDeliveries
  }

  /** True when so much is collected that it is told, whatever follows. */
  get isFull(): boolean {
    return (this.open?.size ?? 0) >= maxTogether
  }

  /** Has the collected changes told. */
  flush(): void {
    const { open, waiting } = this
    this.open = undefined
    const last = waiting.at(-1)
    if (open !== undefined) {
      const cost = waiting.length * this.pubsub.subscriberCount(this.topic)
      if (last === undefined || (waiting.length < maxWaiting && cost <= maxDeliveries)) waiting.push(open)
      else last.add(open.changes)
    }
    this.lane.wake()
  }

  private next(): Effect.Effect<unknown> | undefined {
    const pending = this.waiting.shift()
    if (pending === undefined) {
      if (this.open === undefined) this.close()
      return undefined
    }
    const { changes } = pending
    if (changes.joins.length + changes.leaves.length === 0) return Effect.void
    this.current = pending
    const diff = { joins: group(changes.joins), leaves: group(changes.leaves) }
    return Effect.flatMap(this.handling.fetch(this.topic, diff), (diff) => this.tell(changes, diff))
  }

  /** Tells everybody on this node; the other nodes tell theirs. */
  private tell(changes: Changes, diff: Diff): Effect.Effect<unknown> {
    const { handling, told, topic } = this
    const message = Message.broadcast(topic, "presence_diff", diff)
    return Effect.flatMap(Effect.exit(this.pubsub.localBroadcast(topic, message)), (exit) => {
      this.current = undefined
      if (exit._tag === "Failure") handling.lost(topic, exit)
      if (!handling.hasMetas) return Effect.void
      told.apply(topic, changes)
      return handling.handleMetas(topic, diff, told.list(topic))
    })
  }
}

interface Known {
  readonly order: number
  readonly change: Change
}

/**
 * The presences by the diffs that were told so far, which may be less than the tracker knows: for `handleMetas`. A list is put
 * together only when somebody looks at it, so that a diff costs the same however many are present.
 */
export class Told {
  private readonly topics = new SteadyMap<string, HashMap.HashMap<string, Known>>()
  private order = 0

  apply(topic: string, { joins, leaves }: Changes): void {
    let known = this.topics.get(topic) ?? HashMap.empty<string, Known>()
    for (const [, { phx_ref }] of leaves) known = HashMap.remove(known, phx_ref)
    for (const change of joins) known = HashMap.set(known, change[1].phx_ref, { order: this.order++, change })
    if (HashMap.size(known) === 0) this.topics.delete(topic)
    else this.topics.set(topic, known)
  }

  list(topic: string): Entries {
    const known = this.topics.get(topic) ?? HashMap.empty<string, Known>()
    return lazy(() => {
      const inOrder = [...HashMap.values(known)].sort((a, b) => a.order - b.order)
      return group(inOrder.map(({ change }) => change))
    })
  }
}

/** An object without a prototype that is made when it is looked at. */
const lazy = (make: () => Entries): Entries => {
  let made: Entries | undefined
  const target: Entries = Object.create(null)
  const real = (): Entries => {
    if (made === undefined) {
      made = make()
      Object.assign(target, made)
    }
    return target
  }
  return new Proxy(target, {
    get: (_, name) => Reflect.get(real(), name),
    has: (_, name) => Reflect.has(real(), name),
    ownKeys: () => Reflect.ownKeys(real()),
    getOwnPropertyDescriptor: (_, name) => Reflect.getOwnPropertyDescriptor(real(), name),
    set: () => false,
    defineProperty: () => false,
    deleteProperty: () => false
  })
}
