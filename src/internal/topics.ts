import { Cause, Deferred, Effect, Exit } from "effect"
import { exitOf } from "./eager.ts"
import type { Guard } from "./guard.ts"
import { crash, type Process, type Watcher } from "./process.ts"
import { SteadyMap } from "./steadyMap.ts"
import { brief } from "./untrusted.ts"

/** What is computed once for a message and shared by its subscribers; see `PubSub.Delivery`. */
export class Delivery {
  private key: object | undefined = undefined
  private value: unknown = undefined
  private more: Map<object, unknown> | undefined = undefined
  private failed: Map<object, unknown> | undefined = undefined

  /** Returns the result of `make` for this key, which is called only the first time; an error is thrown again. */
  memo<K extends object, M, V>(key: K, message: M, make: (key: K, message: M) => V): V {
    // Nearly always all subscribers share one key, so that one comes without a Map.
    return this.key === key ? this.value as V : this.memoMore(key, message, make)
  }

  private memoMore<K extends object, M, V>(key: K, message: M, make: (key: K, message: M) => V): V {
    if (this.more?.has(key)) return this.more.get(key) as V
    if (this.failed?.has(key)) throw this.failed.get(key)
    let value: V
    try {
      value = make(key, message)
    } catch (defect) {
      ;(this.failed ??= new Map()).set(key, defect)
      throw defect
    }
    if (this.key === undefined) {
      this.key = key
      this.value = value
    } else (this.more ??= new Map()).set(key, value)
    return value
  }

  /** True when nothing could be made of the message for anybody: the fault is its own, not that of its subscribers. */
  get isFaulty(): boolean {
    return this.failed !== undefined && this.key === undefined
  }
}

/** Thrown by subscribers for whom a message cannot be encoded by the fault of its sender, who is thrown the error. */
export class Unsendable {
  readonly error: unknown
  constructor(error: unknown) {
    this.error = error
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

/** A subscription: a link in the list of its topic. The only one of its process is also the watcher of it. */
export class Entry implements Watcher {
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

/** The subscriptions of a process that has more than one: to end some of them, nobody looks at those of others. */
class Subscriptions implements Watcher {
  private readonly topics = new Map<string, Entry | Set<Entry>>()
  count = 0

  add(entry: Entry): void {
    this.count++
    const known = this.topics.get(entry.topic)
    if (known === undefined) this.topics.set(entry.topic, entry)
    else if (known instanceof Entry) this.topics.set(entry.topic, new Set([known, entry]))
    else known.add(entry)
  }

  remove(entry: Entry): void {
    this.count--
    const known = this.topics.get(entry.topic)
    if (known instanceof Set) known.delete(entry)
    if (!(known instanceof Set) || known.size === 0) this.topics.delete(entry.topic)
  }

  of(topic: string): ReadonlyArray<Entry> {
    const known = this.topics.get(topic)
    return known === undefined ? [] : known instanceof Entry ? [known] : [...known]
  }

  ended(): void {
    for (const topic of this.topics.keys()) for (const entry of this.of(topic)) entry.topics.remove(entry)
  }
}

interface Topic {
  first: Entry | undefined
  last: Entry | undefined
  size: number
  /** Completes once the messages of the whole cluster arrive. */
  live: Effect.Effect<void>
}

/** Something that the adapter is told about a topic. */
interface Request {
  readonly kind: keyof Interest
  readonly effect: Effect.Effect<void>
  readonly done: Deferred.Deferred<void>
}

/** The subscriptions of a node, by topic, each topic a list in the order of subscription. */
export class Topics {
  private readonly topics = new SteadyMap<string, Topic>()
  /**
   * For each topic the adapter is at work on, the request that is under way and at most two that wait: that the topic is
   * left, and joined again.
   */
  private readonly requests = new Map<string, Array<Request>>()
  private readonly interest: Interest
  private readonly fork: (effect: Effect.Effect<unknown>) => void
  private readonly guard: Guard
  private order = 0

  constructor(interest: Interest, fork: (effect: Effect.Effect<unknown>) => void, guard: Guard) {
    this.interest = interest
    this.fork = fork
    this.guard = guard
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
      this.topics.add(name, topic)
      topic.live = this.request(name, "joined")
    }
    const entry = new Entry(this, name, pid, subscriber, this.order++)
    entry.previous = topic.last
    if (topic.last === undefined) topic.first = entry
    else topic.last.next = entry
    topic.last = entry
    topic.size++
    this.keep(entry)
    return { entry, live: topic.live }
  }

  /** Remembers the subscription at its process, to end it with that. */
  private keep(entry: Entry): void {
    const { pid } = entry
    const known = pid.watcherOf(this)
    if (known instanceof Subscriptions) known.add(entry)
    else if (known instanceof Entry) {
      const subscriptions = new Subscriptions()
      subscriptions.add(known)
      subscriptions.add(entry)
      pid.watch(this, subscriptions)
    } else pid.watch(this, entry)
  }

  private forget(entry: Entry): void {
    const { pid } = entry
    const known = pid.watcherOf(this)
    if (known instanceof Subscriptions) known.remove(entry)
    if (known === entry || (known instanceof Subscriptions && known.count === 0)) pid.unwatch(this)
  }

  remove(entry: Entry): void {
    const topic = this.topics.get(entry.topic)
    if (!entry.active || topic === undefined) return
    entry.active = false
    this.forget(entry)
    // `entry.next` stays: a dispatch that is under way goes on from here.
    if (entry.previous === undefined) topic.first = entry.next
    else entry.previous.next = entry.next
    if (entry.next === undefined) topic.last = entry.previous
    else entry.next.previous = entry.previous
    if (--topic.size > 0) return
    this.topics.remove(entry.topic)
    this.request(entry.topic, "left")
  }

  removeAll(name: string, pid: Process): void {
    const known = pid.watcherOf(this)
    if (known instanceof Entry) {
      if (known.topic === name) this.remove(known)
    } else if (known instanceof Subscriptions) {
      for (const entry of known.of(name)) this.remove(entry)
    }
  }

  /**
   * Delivers a message to all but the process `from`. A subscriber that throws keeps it from nobody else, and pays for that
   * itself; only a message that cannot be encoded for anybody is the fault of its sender, and is thrown.
   */
  dispatch(name: string, message: unknown, from?: Process): void {
    const topic = this.topics.get(name)
    if (topic === undefined) return
    const delivery = new Delivery()
    const { order } = this
    let failures: Array<readonly [entry: Entry, defect: unknown]> | undefined
    let entry = topic.first
    for (;;) {
      try {
        for (; entry !== undefined && entry.order < order; entry = entry.next) {
          if (entry.active && entry.pid !== from) entry.subscriber.deliver(message, delivery)
        }
        break
      } catch (defect) {
        if (entry === undefined) throw defect
        ;(failures ??= []).push([entry, defect])
        entry = entry.next
      }
    }
    if (failures !== undefined) this.blame(failures, delivery)
  }

  private blame(failures: ReadonlyArray<readonly [entry: Entry, defect: unknown]>, delivery: Delivery): void {
    let unsendable: Unsendable | undefined
    for (const [entry, defect] of failures) {
      if (delivery.isFaulty) throw defect instanceof Unsendable ? defect.error : defect
      if (defect instanceof Unsendable) {
        unsendable ??= defect
        continue
      }
      const { pid, topic } = entry
      this.guard.failed(
        { name: "deliver", owner: {}, about: { process: brief(pid.label), topic: brief(topic) } },
        defect
      )
      pid.quit(crash(Cause.die(defect)))
    }
    if (unsendable !== undefined) throw unsendable.error
  }

  /** Has the adapter told of a change, after what it is told about the same topic already. */
  private request(topic: string, kind: keyof Interest): Effect.Effect<void> {
    const waiting = this.requests.get(topic)
    const last = waiting?.at(-1)
    // A topic that is left before the adapter has begun to join it need not be joined, nor left once more.
    if (
      waiting !== undefined && last !== undefined && waiting.length > 1 && kind === "left" && last.kind === "joined"
    ) {
      waiting.pop()
      Deferred.doneUnsafe(last.done, Exit.void)
      return Effect.void
    }
    const effect = this.interest[kind](topic)
    // On one node the adapter has nothing to do.
    if (waiting === undefined && exitOf(effect) !== undefined) return effect
    const request = { kind, effect, done: Deferred.makeUnsafe<void>() }
    if (waiting !== undefined) waiting.push(request)
    else {
      this.requests.set(topic, [request])
      this.fork(this.tell(topic))
    }
    return Deferred.await(request.done)
  }

  /** Makes the requests of a topic, one after another. */
  private readonly tell = Effect.fnUntraced(function*(this: Topics, topic: string) {
    const waiting = this.requests.get(topic) ?? []
    for (let request = waiting[0]; request !== undefined; request = waiting[0]) {
      const { done, effect } = request
      const exit = yield* Effect.exit(effect)
      waiting.shift()
      // Whoever is told may join or leave the topic at once.
      if (waiting.length === 0) this.requests.delete(topic)
      Deferred.doneUnsafe(done, exit)
    }
  })
}
