import { Deferred, Effect } from "effect"
import { exitOf } from "./eager.ts"
import type { Process } from "./process.ts"

/** What is computed once for a message and shared by its subscribers; see `PubSub.Delivery`. */
export class Delivery {
  private key: object | undefined = undefined
  private value: unknown = undefined
  private more: Map<object, unknown> | undefined = undefined

  /** What `make` returned for this key, which is called only the first time. */
  memo<K extends object, M, V>(key: K, message: M, make: (key: K, message: M) => V): V {
    // Nearly always all subscribers share one key, so that one comes without a Map.
    if (this.key === key) return this.value as V
    if (this.key === undefined) {
      this.value = make(key, message)
      this.key = key
      return this.value as V
    }
    const more = this.more ??= new Map()
    if (!more.has(key)) more.set(key, make(key, message))
    return more.get(key) as V
  }
}

export interface Subscriber {
  readonly deliver: (message: unknown, delivery: Delivery) => void
}

/** What the table of topics needs of the adapter. */
export interface Interest {
  readonly joined: (topic: string) => Effect.Effect<void>
  readonly left: (topic: string) => Effect.Effect<void>
}

/** A subscription: a link in the list of its topic, and a watcher of its process. */
export class Entry {
  readonly topics: Topics
  readonly topic: string
  readonly pid: Process
  readonly subscriber: Subscriber
  /** Grows with each subscription: a dispatch that is under way is not for those that came after it began. */
  readonly order: number
  previous: Entry | undefined = undefined
  next: Entry | undefined = undefined
  active = true

  constructor(topics: Topics, topic: string, pid: Process, subscriber: Subscriber, order: number) {
    this.topics = topics
    this.topic = topic
    this.pid = pid
    this.subscriber = subscriber
    this.order = order
  }

  /** The process has ended. */
  ended(): void {
    this.topics.remove(this)
  }
}

interface Topic {
  first: Entry | undefined
  last: Entry | undefined
  size: number
  /** Completes once the messages of the whole cluster arrive. */
  live: Effect.Effect<void>
}

/** The subscriptions of a node, by topic, each topic a list in the order of subscription. */
export class Topics {
  private readonly topics = new Map<string, Topic>()
  /** For each topic the adapter is at work on, its last request: they are made one after another. */
  private readonly pending = new Map<string, Effect.Effect<void>>()
  private readonly interest: Interest
  private readonly fork: (effect: Effect.Effect<void>) => void
  private order = 0

  constructor(interest: Interest, fork: (effect: Effect.Effect<void>) => void) {
    this.interest = interest
    this.fork = fork
  }

  get names(): ReadonlyArray<string> {
    return [...this.topics.keys()]
  }

  count(topic: string): number {
    return this.topics.get(topic)?.size ?? 0
  }

  /** Adds a subscription; it hears of local messages at once, and of those of the cluster when `live` is complete. */
  add(
    name: string,
    pid: Process,
    subscriber: Subscriber
  ): { readonly entry: Entry; readonly live: Effect.Effect<void> } {
    let topic = this.topics.get(name)
    if (topic === undefined) {
      topic = { first: undefined, last: undefined, size: 0, live: Effect.void }
      this.topics.set(name, topic)
      topic.live = this.request(name, this.interest.joined(name))
    }
    const entry = new Entry(this, name, pid, subscriber, this.order++)
    entry.previous = topic.last
    if (topic.last === undefined) topic.first = entry
    else topic.last.next = entry
    topic.last = entry
    topic.size++
    pid.watch(entry, entry)
    return { entry, live: topic.live }
  }

  remove(entry: Entry): void {
    const topic = this.topics.get(entry.topic)
    if (!entry.active || topic === undefined) return
    entry.active = false
    entry.pid.unwatch(entry)
    // `entry.next` stays: a dispatch that is under way goes on from here.
    if (entry.previous === undefined) topic.first = entry.next
    else entry.previous.next = entry.next
    if (entry.next === undefined) topic.last = entry.previous
    else entry.next.previous = entry.previous
    if (--topic.size > 0) return
    this.topics.delete(entry.topic)
    this.request(entry.topic, this.interest.left(entry.topic))
  }

  removeAll(name: string, pid: Process): void {
    for (let entry = this.topics.get(name)?.first; entry !== undefined; entry = entry.next) {
      if (entry.pid === pid) this.remove(entry)
    }
  }

  dispatch(name: string, message: unknown, from?: Process): void {
    const topic = this.topics.get(name)
    if (topic === undefined) return
    const delivery = new Delivery()
    const { order } = this
    for (let entry = topic.first; entry !== undefined && entry.order < order; entry = entry.next) {
      if (entry.active && entry.pid !== from) entry.subscriber.deliver(message, delivery)
    }
  }

  /** Has the adapter told of a change, after what it is told about the same topic already. */
  private request(topic: string, effect: Effect.Effect<void>): Effect.Effect<void> {
    const before = this.pending.get(topic)
    // On one node the adapter has nothing to do.
    if (before === undefined && exitOf(effect) !== undefined) return effect
    const done = Deferred.makeUnsafe<void>()
    const request = Deferred.await(done)
    this.pending.set(topic, request)
    this.fork(
      Effect.andThen(before === undefined ? Effect.void : Effect.exit(before), effect).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            if (this.pending.get(topic) === request) this.pending.delete(topic)
            Deferred.doneUnsafe(done, exit)
          })
        )
      )
    )
    return request
  }
}
