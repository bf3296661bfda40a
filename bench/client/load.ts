/** The members of a load: connections that join a topic, and the account of what goes wrong with them. */
import { setTimeout as sleep } from "node:timers/promises"
import { Connection } from "./connection.ts"
import { Histogram } from "./histogram.ts"
import { memoryOf, Stopwatch } from "./machine.ts"
import type { Options } from "./options.ts"
import { Payloads, Sequence } from "./payload.ts"
import * as Protocol from "./protocol.ts"

/** The time, in whole microseconds. */
export const micros = (): number => Math.round(performance.now() * 1000)

/** What a scenario does when something happens to a member. */
export interface Events {
  readonly opened?: (member: Member) => void
  readonly joined?: (member: Member) => void
  readonly echo?: (member: Member, n: number, at: number) => void
  readonly shout?: (member: Member, from: number, n: number, at: number) => void
  readonly present?: (member: Member, users: ReadonlyArray<string>) => void
  /** The connection is gone; clean if that is how it should have ended. */
  readonly gone?: (member: Member, clean: boolean) => void
}

export class Load {
  readonly options: Options
  readonly protocol: Protocol.Protocol
  readonly payloads: Payloads
  readonly events: Events
  readonly members: Array<Member> = []
  /** Connections that did not come to be joined, and joined ones that went. */
  readonly wrong = {
    failed: 0,
    lost: 0,
    missing: 0,
    doubled: 0,
    out_of_order: 0,
    changed: 0,
    unexpected: 0
  }
  /** Why connections failed or were lost. */
  readonly reasons = new Set<string>()
  latency = new Histogram()
  /** When something last came that was waited for. */
  heard = 0
  /** Nothing more is to be sent. */
  stopped = false
  private readonly everySecond: NodeJS.Timeout

  constructor(options: Options, events: Events) {
    this.options = options
    this.payloads = new Payloads(options.bytes)
    this.protocol = Protocol.make(options.protocol, this.payloads)
    this.events = events
    this.everySecond = setInterval(() => this.members.forEach((member) => member.tick()), 1000)
  }

  open(index: number, topic: string): Member {
    const member = new Member(this, index, topic)
    this.members[index] = member
    return member
  }

  /** Opens all connections, so many at a time, and is done when each has reached the stage or has failed. */
  openAll(topicOf: (index: number) => string, stage: "open" | "joined" = "joined"): Promise<void> {
    return this.forAll(async (index) => {
      const member = this.open(index, topicOf(index))
      await member.reached("open")
      if (stage === "joined") await member.join()
    })
  }

  /** Does something for each connection, for so many at a time. */
  async forAll(act: (index: number) => Promise<void>): Promise<void> {
    const { concurrency, connections } = this.options
    let next = 0
    const lane = async () => {
      while (next < connections) await act(next++)
    }
    await Promise.all(Array.from({ length: concurrency }, lane))
  }

  /** Counts what has come that was sent or begun at that time. */
  delivered(at: number): number {
    const now = micros()
    this.heard = now
    this.latency.add(now - at)
    return now
  }

  /**
   * Warms up, measures, has the senders stop, and waits until all has come that is under way, or nothing more comes. With
   * `messages` it is their number that ends it, and all that comes is measured.
   */
  async measure(sent: () => number, idle: () => boolean) {
    const { messages, seconds, warmup } = this.options
    if (messages === 0) await sleep(warmup * 1000)
    this.latency = new Histogram()
    const watch = new Stopwatch(this.options.pid)
    if (messages === 0) {
      await sleep(seconds * 1000)
    } else {
      await this.settled(() => sent() >= messages)
      this.stopped = true
      await this.settled(idle)
    }
    const used = watch.read()
    const { latency } = this
    this.stopped = true
    this.latency = new Histogram()
    await this.settled(idle)
    return figures(latency, used)
  }

  /** Waits until it is so, or nothing has come for a while. */
  async settled(done: () => boolean): Promise<void> {
    this.heard = micros()
    while (!done() && micros() - this.heard < this.options.drain * 1_000_000) await sleep(5)
  }

  memory(): number | undefined {
    return this.options.pid === undefined ? undefined : memoryOf(this.options.pid)
  }

  close(): void {
    clearInterval(this.everySecond)
    this.stopped = true
    this.members.forEach((member) => member.end())
  }
}

/** What every scenario has to say, of whatever it counts. */
export const figures = (latency: Histogram, used: ReturnType<Stopwatch["read"]>) => {
  const { seconds, serverCpu, ...percent } = used
  return {
    count: latency.count,
    seconds: rounded(seconds),
    per_second: Math.round(latency.count / seconds),
    p50_ms: rounded(latency.quantile(0.5) / 1000),
    p99_ms: rounded(latency.quantile(0.99) / 1000),
    server_cpu_us: serverCpu === undefined ? undefined : rounded(serverCpu * 1_000_000 / latency.count),
    ...percent
  }
}

export const rounded = (value: number): number => Number(value.toFixed(2))

const heartbeatEvery = 30_000_000

/** How long a member may take to connect and join, and to leave and close. */
const patience = 10_000_000

type Stage = "connecting" | "open" | "joined" | "leaving" | "closing" | "gone"

/** A connection that joins one topic. */
export class Member {
  readonly index: number
  readonly topic: string
  readonly since = micros()
  /** How many messages it has sent. */
  sent = 0
  private readonly load: Load
  private readonly connection: Connection
  private readonly sequences = new Map<number, Sequence>()
  private stage: Stage = "connecting"
  private waiting: { readonly stage: Stage; readonly resolve: () => void } | undefined
  private nextHeartbeat = Infinity
  private patientUntil = this.since + patience
  /** This side has taken the connection away: because it was not needed, or because of a fault. */
  private ended: "unneeded" | "at fault" | undefined

  constructor(load: Load, index: number, topic: string) {
    this.load = load
    this.index = index
    this.topic = topic
    const { compress, port } = load.options
    const { hello, path } = load.protocol
    this.connection = new Connection({ port, path: path(userOf(index)), compress }, {
      opened: () => hello === undefined ? this.opened() : this.connection.send(hello),
      message: (text) => this.message(load.protocol.decode(text)),
      closed: (why) => this.closed(why)
    })
  }

  get isJoined(): boolean {
    return this.stage === "joined"
  }

  /** Done when it has got there, or is gone. To be asked once at a time. */
  reached(stage: Stage): Promise<void> {
    return new Promise((resolve) => {
      if (this.stage === stage || this.stage === "gone") resolve()
      else this.waiting = { stage, resolve }
    })
  }

  /** Done when it has joined, or is gone. */
  join(): Promise<void> {
    if (this.stage === "open") {
      this.patientUntil = micros() + patience
      this.connection.send(this.load.protocol.join(this.topic))
    }
    return this.reached("joined")
  }

  /** Leaves its topic and closes, as a client does that goes. */
  leave(): void {
    this.patientUntil = micros() + patience
    this.enter("leaving")
    this.connection.send(this.load.protocol.leave(this.topic))
  }

  /** Takes the connection away. */
  end(): void {
    this.ended ??= "unneeded"
    this.connection.destroy("not needed any more")
  }

  /** Sends so many messages that are to come back. */
  echo(at: number, times = 1): void {
    const { payloads, protocol } = this.load
    const texts = Array.from({ length: times }, () => {
      const n = this.sent++
      return protocol.echo(this.topic, n, payloads.compose(this.index, n, at))
    })
    this.connection.send(...texts)
  }

  /** Sends a message to all members of its topic. */
  shout(at: number): void {
    const { payloads, protocol } = this.load
    const n = this.sent++
    this.connection.send(protocol.shout(this.topic, n, payloads.compose(this.index, n, at)))
  }

  /** What it has had from a member. */
  sequenceOf(from: number): Sequence {
    let sequence = this.sequences.get(from)
    if (sequence === undefined) this.sequences.set(from, sequence = new Sequence())
    return sequence
  }

  /** Called every second. */
  tick(): void {
    const now = micros()
    const { heartbeat } = this.load.protocol
    if (this.isJoined && now >= this.nextHeartbeat && heartbeat !== undefined) {
      this.nextHeartbeat += heartbeatEvery
      this.connection.send(heartbeat)
    }
    if (!this.isJoined && this.stage !== "gone" && now >= this.patientUntil) this.fail(`${this.stage} for too long`)
  }

  private fail(why: string): void {
    this.ended ??= "at fault"
    this.connection.destroy(why)
  }

  private enter(stage: Stage): void {
    this.stage = stage
    if (this.waiting?.stage !== stage && stage !== "gone") return
    this.waiting?.resolve()
    this.waiting = undefined
  }

  private opened(): void {
    this.patientUntil = Infinity
    this.enter("open")
    this.load.events.opened?.(this)
  }

  private message(incoming: Protocol.Incoming): void {
    const { events, wrong } = this.load
    switch (incoming.kind) {
      case "echo":
      case "shout": {
        const { stamp, topic = this.topic } = incoming
        if (stamp === undefined) return void wrong.changed++
        if (topic !== this.topic) return void wrong.unexpected++
        if (incoming.kind === "shout") return events.shout?.(this, stamp.from, stamp.n, stamp.at)
        if (stamp.from !== this.index || stamp.n !== incoming.n) return void wrong.changed++
        return events.echo?.(this, stamp.n, stamp.at)
      }
      case "open":
        return this.opened()
      case "joined":
        if (!incoming.ok) return this.fail("the join is refused")
        this.nextHeartbeat = micros() + heartbeatEvery
        this.enter("joined")
        return events.joined?.(this)
      case "present":
        return events.present?.(this, incoming.users)
      case "left":
        this.enter("closing")
        return this.connection.close()
      case "ping":
        return this.connection.send(incoming.pong)
      case "unexpected":
        return void wrong.unexpected++
      case "nothing":
    }
  }

  private closed(why: string): void {
    const { events, reasons, wrong } = this.load
    const clean = this.ended === "unneeded" || (this.ended === undefined && this.stage === "closing")
    if (!clean) {
      if (this.isJoined) wrong.lost++
      else wrong.failed++
      reasons.add(why)
    }
    this.enter("gone")
    events.gone?.(this, clean)
  }
}

export const userOf = (index: number): string => `u${index}`
