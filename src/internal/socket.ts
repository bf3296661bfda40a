import { Cause, Context, Effect, type Exit, type Fiber, Result, type Tracer } from "effect"
import * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type * as PubSub from "../PubSub.ts"
import { DecodeError, type Frame, type Opcode, type Serializer, v1, v2 } from "../Serializer.ts"
import { ByTopic } from "./byTopic.ts"
import { matches, onlyFailure } from "./contract.ts"
import { exitOf } from "./eager.ts"
import type { Group } from "./group.ts"
import type { Guard } from "./guard.ts"
import { ClientInbox, Held, type SharedBytes } from "./inbox.ts"
import { type Complaints, type Rate, TokenBucket } from "./limits.ts"
import { countValues, isJsonWithin, isTextWithin } from "./measure.ts"
import type { ChannelMeter, SocketMeter, TransportMeter } from "./meter.ts"
import type { Place } from "./places.ts"
import * as process from "./process.ts"
import type { FrameSink } from "./reply.ts"
import { isLogged, report } from "./report.ts"
import type { RetainedBytes } from "./retained.ts"
import type { Connection, Definition, Served } from "./served.ts"
import type { Timer } from "./timers.ts"
import { brief, Named } from "./untrusted.ts"

/** The wire under a socket: a WebSocket, a long-poll session, a test. */
export interface Transport extends FrameSink {
  readonly name: string
  /** Brings no more frames until it is resumed, as far as it can. */
  readonly pause?: () => void
  readonly resume?: () => void
  /** The socket has ended; harmless when the wire is gone already. */
  readonly close: (code: number) => void
}

/** The limits of each connection; see `Socket.Options`. */
export interface Limits {
  readonly maxChannels: number
  readonly maxJoinRate: Rate | undefined
  readonly maxMessageRate: Rate | undefined
  readonly maxHeartbeatRate: Rate | undefined
  readonly maxRefBytes: number
  readonly maxTopicBytes: number
  readonly maxEventBytes: number
  /** A text of so many characters is within each of these three. */
  readonly shortText: number
  readonly maxValues: number
  readonly maxInboxBytes: number
  /** Milliseconds. */
  readonly maxPause: number
}

/** Everything that the sockets of one mount share. */
export interface Runtime {
  readonly name: string
  readonly routes: ReadonlyArray<Route>
  readonly limits: Limits
  readonly inboxes: SharedBytes
  readonly retained: RetainedBytes
  readonly complaints: Complaints
  readonly guard: Guard
  readonly system: process.System
  readonly pubsub: PubSub.PubSub["Service"]
  readonly socketGroup: Group
  readonly channelGroup: Group
  readonly context: Context.Context<never>
  readonly meter: SocketMeter
  /** Whether somebody looks at spans. */
  readonly tracing: boolean
}

/** A channel of a socket. */
export interface Route {
  readonly definition: Definition
  readonly meter: ChannelMeter
}

/** What `connect` decided about a client. */
export interface Client {
  readonly id: string | undefined
  readonly assigns: Context.Context<never>
  /** The span of the connect, to which those of joins and messages belong. */
  readonly span?: Tracer.AnySpan | undefined
}

/** A frame of more than {@link small} bytes, as it came. */
class Large {
  readonly data: Frame
  readonly length: number
  readonly opcode: Opcode
  /** Number of its values; -1 until they are counted. */
  values = -1
  constructor(data: Frame, length: number, opcode: Opcode) {
    this.data = data
    this.length = length
    this.opcode = opcode
  }
}

class ChannelDown {
  readonly channel: Served
  constructor(channel: Served) {
    this.channel = channel
  }
}

class WireClosed {
  readonly reason: process.ExitReason
  constructor(reason: process.ExitReason) {
    this.reason = reason
  }
}

/** Reached when all that came before it is handled, as far as the connection is concerned. */
class Afterwards {
  readonly reached: () => void
  constructor(reached: () => void) {
    this.reached = reached
  }
}

/** Tells the connection that the reason for holding it up may be over. */
const goOn: unique symbol = Symbol("goOn")

type Item = Frame | Large | ChannelDown | Afterwards

/** A join that waits for the end of the channel that it replaces. */
interface Rejoin {
  readonly old: Served
  readonly message: Message.Inbound
  readonly topic: string
  readonly bytes: number
}

/** State of a connection that is held up: the reasons, and the frames that wait. Other connections have none. */
class HoldUp {
  /** Frames that wait, the first of them apart. */
  head: Item | undefined = undefined
  readonly rest = new Held()
  /** The first of them has been counted towards the rate of messages. */
  headIsCounted = false
  rejoin: Rejoin | undefined = undefined
  /** Too much waits. */
  crowded = false
  /** Number of channels that are full. */
  fullChannels = 0
  /** The next message waits until others have been handled, maybe those of other connections. */
  short = false
  paused = false
  /** Bytes that have come all the same: what was read already, or all, from a wire that cannot wait. */
  surplus = 0
  /** Frames that have come since it was last read again. */
  heard = 0
  /** It has been held up for so long that it is read again, and what does not fit is denied. */
  impatient = false
  patience: Timer | undefined = undefined

  get count(): number {
    return (this.head === undefined ? 0 : 1) + this.rest.mailboxLength
  }

  /** Reasons not to read any more. */
  get isStrained(): boolean {
    return this.crowded || this.short || this.fullChannels > 0
  }

  get isOver(): boolean {
    return this.count === 0 && !this.isStrained && !this.paused && !this.impatient && this.rejoin === undefined
  }

  /** Frames that come in have to wait. */
  get isInTheWay(): boolean {
    return this.head !== undefined || this.isBlocked
  }

  /** Nothing is to be passed on. */
  get isBlocked(): boolean {
    return this.rejoin !== undefined || this.short || (this.fullChannels > 0 && !this.impatient)
  }
}

const codes: ReadonlyMap<unknown, number> = new Map([
  ["disconnected", 1001],
  ["read_timeout", 1002],
  ["mailbox_full", 1008],
  ["too_many_values", 1009],
  ["buffer_full", 1013]
])

/** Limits the frames that wait for a connection that is held up; with more it is not read any more. */
const maxWaiting = 1000

/** Frames of up to so many bytes are looked at as they come, and answered out of turn where they are heartbeats. */
const small = 512

/** In frames of more bytes than these, values are counted before they are read. */
const short = 2048

/** Reading a frame of so many values, or bytes, takes as long as handling a message. */
const valuesPerMessage = 32
const bytesPerMessage = 8192

/** Weight of a value, beyond one in so many bytes, which are there for it: in memory it takes seven times as much at most. */
const bytesPerValue = 4
const bytesWithValue = 16

/** Work that takes as long as so many messages is done in line with other such work. */
const heavy = 16

/** A client that has lost its patience is heard so many frames at a time. */
const maxHeard = 64

/** The pause before it is heard again, in milliseconds: heartbeats wait for no longer. */
const rest = 1000

/** Minimum of bytes that a frame takes while it waits. */
const perFrame = 64

/** Number of frames that were held back and have their turn together. */
const heldPerTurn = 64

/** A topic that is too long is echoed in the answer up to this many characters, and else left out. */
const maxEcho = 16_384

/** The WebSocket close code for each way in which a socket ends. Older clients do not come back after 1000. */
export const closeCode = (reason: process.ExitReason): number => {
  switch (reason._tag) {
    case "Normal":
      return 1000
    case "Shutdown":
      return codes.get(reason.detail) ?? 1012
    case "Killed":
    case "Crash":
      return 1011
  }
}

/** Tells whether a connection may be closed with a code: one that RFC 6455 lets a server send, or one of an application. */
export const isCloseCode = (code: unknown): code is number =>
  typeof code === "number" && Number.isInteger(code)
  && ((code >= 1000 && code <= 1014 && (code < 1004 || code > 1006) && code !== 1010) || (code >= 3000 && code <= 4999))

/**
 * The process of one connection (Phoenix.Socket): decodes what comes in and hands it to the channels.
 *
 * It never waits itself: while something holds it up, a join or a channel that is full, what comes in is held back in the
 * order in which it came. Only heartbeats are answered out of turn.
 */
export class SocketServer extends ClientInbox implements process.Behaviour, process.Subject, Connection {
  readonly id: string | undefined
  readonly serializer: Serializer
  readonly process: process.Process
  readonly runtime: Runtime
  readonly transport: Transport
  readonly meter: TransportMeter
  readonly span: Tracer.AnySpan | undefined
  private readonly assigns: Context.Context<never>
  private readonly place: Place | undefined
  private readonly joined = new ByTopic<Served>()
  private joining: Served | undefined = undefined
  private readonly messages: TokenBucket | undefined
  private readonly joins: TokenBucket | undefined
  private heartbeats: TokenBucket | undefined = undefined
  private holdUp: HoldUp | undefined = undefined
  /** The bytes of the message that is being passed on. */
  private passing = 0
  private goesOn = false
  private subscribing: Fiber.Fiber<unknown> | undefined = undefined
  /** Why the wire is gone. */
  private gone: process.ExitReason | undefined = undefined
  /** Close code that `Endpoint.disconnect` has asked for. */
  private code: number | undefined = undefined

  /** @param place - that of the client among the connections; it is released when the socket ends */
  constructor(runtime: Runtime, transport: Transport, serializer: Serializer, client: Client, place?: Place) {
    super(runtime.inboxes)
    this.runtime = runtime
    this.transport = transport
    this.serializer = serializer
    this.id = client.id
    this.assigns = client.assigns
    this.place = place
    this.span = runtime.tracing ? client.span : undefined
    this.meter = runtime.meter.transport(transport.name)
    this.meter.connections++
    const { limits: { maxJoinRate, maxMessageRate }, system: { clock } } = runtime
    this.joins = maxJoinRate && new TokenBucket(maxJoinRate, clock)
    this.messages = maxMessageRate && new TokenBucket(maxMessageRate, clock)
    this.process = new process.Process(runtime.system, runtime.socketGroup, runtime.context, this)
    this.process.begin(this)
    if (client.id !== undefined) this.subscribe(client.id)
  }

  get label(): string {
    return `socket ${brief(this.id ?? this.runtime.name)}`
  }

  get former(): process.Subject {
    return new Named("socket", this.id ?? this.runtime.name)
  }

  get about(): Readonly<Record<string, unknown>> {
    const id = this.id === undefined ? {} : { id: brief(this.id) }
    return { socket: this.runtime.name, ...id, transport: this.transport.name }
  }

  get pid(): Process.Pid<unknown> {
    return Process.toPid(this.process)
  }

  get pubsub(): PubSub.PubSub["Service"] {
    return this.runtime.pubsub
  }

  get retained(): RetainedBytes {
    return this.runtime.retained
  }

  get guard(): Guard {
    return this.runtime.guard
  }

  get traced(): boolean {
    return this.runtime.tracing
  }

  /** Those that are joined. */
  get channels(): ReadonlyArray<Served> {
    return this.joined.list()
  }

  /** The channels, also the one that is being joined. */
  list(): ReadonlyArray<{
    readonly pid: Process.Pid<unknown>
    readonly topic: string
    readonly channel: string
    readonly status: "joining" | "joined" | "leaving"
  }> {
    return [...this.channels, ...this.joining === undefined ? [] : [this.joining]].map((channel) => ({
      pid: channel.pid,
      topic: channel.topic,
      channel: channel.definition.pattern,
      status: channel === this.joining ? "joining" : channel.process.status === "ending" ? "leaving" : "joined"
    }))
  }

  /**
   * A frame has come in.
   *
   * @param length - its bytes, where the wire knows them
   * @param opcode - for bytes that are text; the text of a large frame waits as bytes, which take no room in the heap
   */
  receive(
    data: Frame,
    length: number = data.length,
    opcode: Opcode = typeof data === "string" ? "text" : "binary"
  ): void {
    if (length <= small && (typeof data === "string" || opcode === "binary")) this.enqueue(data)
    else this.enqueue(new Large(data, typeof data === "string" ? Buffer.byteLength(data) : data.length, opcode))
  }

  private enqueue(frame: Frame | Large): void {
    const bytes = frame.length
    if (this.holdUp !== undefined && this.isSurplus(this.holdUp, bytes)) return this.overflow()
    this.waiting += bytes
    this.process.push(frame)
    if (this.process.mailboxLength >= maxWaiting || this.waiting > this.runtime.limits.maxInboxBytes) this.crowd()
  }

  private isSurplus(holdUp: HoldUp, bytes: number): boolean {
    if (holdUp.paused) return (holdUp.surplus += bytes + perFrame) > this.runtime.limits.maxInboxBytes
    if (holdUp.impatient && ++holdUp.heard > maxHeard) this.rest(holdUp)
    return false
  }

  /** Calls `reached` when all that came before is handled, as far as the connection is concerned. */
  afterwards(reached: () => void): void {
    this.process.push(new Afterwards(reached))
  }

  /** Answers a frame that is a heartbeat out of turn; false for any other. */
  answers(data: Frame): boolean {
    return this.process.alive && data.length <= small && this.beats(data)
  }

  /** The wire is gone; what came over it before is still handled, unless something holds that up. */
  closed(reason: process.ExitReason): void {
    if (this.gone === undefined && !this.isHeldUp) {
      this.gone = reason
      this.process.push(new WireClosed(reason))
    } else {
      this.gone ??= reason
      if (this.isHeldUp) this.process.signal(this.gone)
    }
  }

  /** Alongside of all else: waiting for the cluster is in nobody's way. Messages of this node arrive at once. */
  private subscribe(id: string): void {
    const deliver = (message: unknown) => {
      if (!isDisconnect(message)) return
      const code = closeCodeIn(message.payload)
      if (this.process.status !== "ending") this.code ??= code
      this.process.signal(process.shutdown("disconnected"))
    }
    const live = this.runtime.pubsub.subscribeUnsafe(id, { pid: this.pid, deliver })
    if (exitOf(live)?._tag === "Success") return
    const fiber = Effect.runForkWith(this.process.context)(live)
    this.subscribing = fiber
    fiber.addObserver((exit) => {
      this.subscribing = undefined
      if (exit._tag === "Success" || Cause.hasInterruptsOnly(exit.cause)) return
      const reason = process.crash(exit.cause)
      report("Error", this.runtime.context, "process crashed", { process: this.label, ...this.about }, exit.cause)
      this.process.quit(reason)
    })
  }

  // --- the mailbox --------------------------------------------------------------------------------------------------

  handle(message: unknown): Effect.Effect<unknown, unknown> {
    // Nearly all are short texts, and nothing is in their way: one test for them, because the others cost time.
    if (typeof message === "string" && this.joining === undefined && this.holdUp?.isInTheWay !== true) {
      if (!this.passFrame(message)) this.keep(message)
    } else this.handleAny(message)
    if (this.holdUp !== undefined) this.tidy(this.holdUp)
    return Effect.void
  }

  private handleAny(message: unknown): void {
    if (isFrame(message)) {
      if (this.isHeldUp) this.hold(message)
      else if (!this.pass(message)) this.keep(message)
    } else if (message instanceof ChannelDown || message instanceof Afterwards) {
      const rejoin = this.holdUp?.rejoin
      if (message instanceof ChannelDown && message.channel === rejoin?.old) this.startRejoin(rejoin)
      else if (this.isHeldUp) this.hold(message)
      else this.pass(message)
    } else if (message === goOn) {
      this.goesOn = false
      this.drain()
    } else if (message instanceof WireClosed) this.process.stop(message.reason)
  }

  /** Between two messages: what was held up may be over. */
  private tidy(holdUp: HoldUp): void {
    if (holdUp.crowded) {
      if (this.process.mailboxLength > maxWaiting / 2) return
      this.judge(holdUp)
    }
    if (holdUp.isOver) this.holdUp = undefined
  }

  /** Something waits, or is in the way. */
  private get isHeldUp(): boolean {
    return this.joining !== undefined || this.holdUp?.isInTheWay === true
  }

  private get isImpatient(): boolean {
    return this.holdUp?.impatient === true
  }

  private heldUp(): HoldUp {
    return this.holdUp ??= new HoldUp()
  }

  /** It could not be passed on, and is the first to be when that is possible. */
  private keep(item: Item): void {
    const holdUp = this.heldUp()
    if (isFrame(item) && holdUp.short && this.isBeat(item)) holdUp.short = false
    else holdUp.head = this.pack(item)
    this.judge(holdUp)
  }

  /** Text that is held back, maybe for long, becomes bytes, which take no room in the heap. */
  private pack(item: Item): Item {
    const text = item instanceof Large ? item.data : item
    if (typeof text !== "string" || text.length <= perFrame) return item
    const data = Buffer.from(text)
    const before = item instanceof Large ? item.length : text.length
    this.waiting += data.length - before
    return new Large(data, data.length, "text")
  }

  private isBeat(frame: Frame | Large): boolean {
    if (frame instanceof Large || frame.length > small || !this.beats(frame)) return false
    this.left(frame.length)
    return true
  }

  private hold(item: Item): void {
    if (isFrame(item)) {
      if (this.isBeat(item)) return
      if (this.isImpatient && (this.holdUp?.short === true || this.isCrowded)) return this.denyUnheard(item)
    }
    const holdUp = this.heldUp()
    const packed = this.pack(item)
    if (holdUp.head === undefined) holdUp.head = packed
    else holdUp.rest.add(packed)
    if (!holdUp.crowded && this.isCrowded) this.crowd()
  }

  /** Passes on what was held back, as far as nothing is in the way. */
  private drain(): void {
    const { holdUp } = this
    if (holdUp === undefined) return
    for (let left = heldPerTurn; holdUp.head !== undefined && this.joining === undefined && !holdUp.isBlocked;) {
      if (this.process.status !== "running") return
      const item = holdUp.head
      holdUp.head = undefined
      if (!this.pass(item)) {
        this.keep(item)
        break
      }
      holdUp.headIsCounted = false
      if (holdUp.rest.mailboxLength > 0) holdUp.head = holdUp.rest.next() as Item
      if (--left === 0) {
        this.wake()
        break
      }
    }
    this.judge(holdUp)
  }

  /** Has what was held back go on, in a turn of its own. */
  private wake(): void {
    if (this.goesOn || !this.process.alive) return
    this.goesOn = true
    this.process.push(goOn)
  }

  retry(): void {
    if (this.holdUp === undefined) return
    this.holdUp.short = false
    this.wake()
  }

  /** Hands on what has come in, a frame once it is decoded; false where that has to wait. */
  private pass(item: Item): boolean {
    if (item instanceof ChannelDown) {
      this.channelDown(item.channel)
      return true
    }
    if (item instanceof Afterwards) {
      item.reached()
      return true
    }
    return this.passFrame(item)
  }

  private passFrame(item: Frame | Large): boolean {
    const values = this.valuesOf(item)
    if (values > this.runtime.limits.maxValues) {
      this.tooManyValues(item)
      return true
    }
    const bytes = weightOf(item.length, values)
    if (!this.mayWork(item, values) || !this.admit(bytes)) {
      this.heldUp().short = true
      return false
    }
    this.waiting += bytes - item.length
    this.passing = bytes
    const message = this.decode(item)
    if (message !== undefined && !this.dispatch(message, bytes)) {
      this.passing = 0
      this.waiting -= bytes - item.length
      this.release(bytes)
      return false
    }
    // Still set where no channel has it now.
    if (this.passing > 0) {
      this.passing = 0
      this.left(bytes)
      this.release(bytes)
    }
    return true
  }

  /** Counts the values of a frame; 0 where that does not matter, or for formats of applications, because they may be anything. */
  private valuesOf(item: Frame | Large): number {
    if (item.length <= short && !this.hasMuch(item.length)) return 0
    if (item instanceof Large && item.values >= 0) return item.values
    const isText = item instanceof Large ? item.opcode === "text" : typeof item === "string"
    if (this.serializer !== v1 && (this.serializer !== v2 || !isText)) return 0
    const { maxValues } = this.runtime.limits
    if (!(item instanceof Large)) return countValues(item, maxValues)
    return item.values = countValues(item.data, maxValues)
  }

  private tooManyValues({ length }: Frame | Large): void {
    const { maxValues } = this.runtime.limits
    this.meter.limited.values++
    const line = "a client sends a message of too many values: it is closed with 1009; raise maxValues to take it"
    this.runtime.complaints.say("Warn", line, { ...this.about, bytes: length, maxValues })
    this.process.quit(process.shutdown("too_many_values"))
    this.left(length)
  }

  /** Tells whether a frame is read now, and not in line with those of other connections that take long as well. */
  private mayWork({ length }: Frame | Large, values: number): boolean {
    const amount = values / valuesPerMessage + length / bytesPerMessage
    return amount < heavy || this.runtime.system.heavy.take(this, amount)
  }

  /** Its turn to read something large has come. */
  goOn(): void {
    this.retry()
    try {
      this.process.run()
    } catch (defect) {
      this.process.failed(defect)
    }
  }

  /** It is of this library. */
  private get isPlain(): boolean {
    return this.serializer === v1 || this.serializer === v2
  }

  private decode(item: Frame | Large): Message.Inbound | undefined {
    const decoded = item instanceof Large
      ? this.serializer.decode(this.textOf(item), item.opcode)
      : this.serializer.decode(item, typeof item === "string" ? "text" : "binary")
    if (Result.isFailure(decoded)) {
      this.malformed(decoded.failure)
      return undefined
    }
    return this.checked(decoded.success)
  }

  /** Formats of applications may rely on text that is a string. */
  private textOf({ data, opcode }: Large): Frame {
    if (opcode === "binary" || typeof data === "string" || this.isPlain) return data
    return Buffer.from(data.buffer, data.byteOffset, data.length).toString()
  }

  /** The one place where what a client may call things is judged. The message as it may be used, unless that is malformed. */
  private checked(message: Message.Inbound): Message.Inbound | undefined {
    const { event, joinRef, ref, topic } = message
    const max = this.runtime.limits.shortText
    const isUsual = isShort(joinRef, max) && isShort(ref, max) && isShort(topic, max) && isShort(event, max)
    return isUsual ? message : this.judged(message)
  }

  /** Apart from `checked`, which is compiled into its caller because it is small. */
  private judged(message: Message.Inbound): Message.Inbound | undefined {
    const { event, joinRef, ref, topic } = message
    const { maxEventBytes, maxRefBytes, maxTopicBytes } = this.runtime.limits
    // A format of the application may leave out what is not there.
    if (joinRef === undefined || ref === undefined) {
      return this.checked({ joinRef: joinRef ?? null, ref: ref ?? null, topic, event, payload: message.payload })
    }
    const problem = !isRef(joinRef, maxRefBytes)
      ? malformedRef("join_ref", maxRefBytes)
      : !isRef(ref, maxRefBytes)
      ? malformedRef("ref", maxRefBytes)
      : typeof topic !== "string" && !isJsonWithin(topic, Math.min(maxTopicBytes, maxOddBytes))
      ? malformedName("invalid_topic", "topic")
      : typeof event !== "string" && !isJsonWithin(event, Math.min(maxEventBytes, maxOddBytes))
      ? malformedName("invalid_event", "event")
      : undefined
    if (problem !== undefined) {
      this.malformed(problem)
      return undefined
    }
    if (typeof topic === "string" && !isTextWithin(topic, maxTopicBytes)) return this.refuseName(message, "topic")
    if (typeof event === "string" && !isTextWithin(event, maxEventBytes)) return this.refuseName(message, "event")
    return message
  }

  private refuseName(message: Message.Inbound, name: "topic" | "event"): undefined {
    if (!this.countMessage(message)) return
    this.meter.limited[name]++
    const reason = `${name} too long`
    this.complain(`a client is denied: ${reason}`, message.topic)
    this.sendReply(message, null, "error", { reason })
  }

  /** What is no message ends the connection. The line in the log says why, and nothing of what was sent. */
  private malformed({ code, message }: DecodeError): void {
    this.meter.malformed++
    this.process.quit(process.crash(Cause.die(new DecodeError({ code, message }))))
    const line = this.serializer === v1 || this.serializer === v2 ? `malformed frame: ${code}` : "malformed frame"
    this.runtime.complaints.say("Error", line, {
      process: this.label,
      ...this.about,
      code: brief(code),
      problem: brief(message)
    })
  }

  // --- messages -----------------------------------------------------------------------------------------------------

  /** False where its channel has no room for it. */
  private dispatch(message: Message.Inbound, bytes: number): boolean {
    const { event, topic } = message
    if (topic === "phoenix" && event === "heartbeat") {
      this.beat(message)
      return true
    }
    const channel = typeof topic === "string" ? this.joined.get(topic) : undefined
    if (channel === undefined || event === "phx_join" || event === "phx_leave") {
      return this.dispatchRest(message, channel, bytes)
    }
    if (this.holdUp?.headIsCounted !== true && !this.countMessage(message)) return true
    return this.toChannel(message, channel, bytes)
  }

  private toChannel(message: Message.Inbound, channel: Served, bytes: number): boolean {
    // Messages that are left over from an earlier join of the topic are dropped without a word.
    if (!isMeantFor(message, channel)) return true
    if (this.isImpatient && channel.inbox.count > 0 && this.isCrowded) {
      this.deny(message, "mailbox")
      return true
    }
    if (!channel.receive(message, bytes)) {
      this.heldUp().headIsCounted = true
      return false
    }
    this.passing = 0
    return true
  }

  /** Handles a message that is for no channel, or begins or ends one. */
  private dispatchRest(message: Message.Inbound, channel: Served | undefined, bytes: number): boolean {
    const { event, topic } = message
    // The leave that ends a channel is let through.
    if (event === "phx_leave" && channel !== undefined && !channel.inbox.leaving && isMeantFor(message, channel)) {
      channel.receive(message, bytes)
      this.passing = 0
      return true
    }
    if (this.holdUp?.headIsCounted !== true && !this.countMessage(message)) return true
    if (event === "phx_join") {
      if (this.joins?.take() === false) this.deny(message, "joins")
      else if (channel !== undefined && typeof topic === "string") this.replace(channel, message, topic, bytes)
      else if (typeof topic === "string") this.join(message, topic, bytes, undefined)
      else this.unmatched(message)
      return true
    }
    if (channel !== undefined) return this.toChannel(message, channel, bytes)
    if (event === "phx_leave") this.sendReply(message, message.joinRef, "ok", {})
    else this.unmatched(message)
    return true
  }

  /** Tells whether the client may send one more message; denies the message if not. */
  private countMessage(message: Message.Inbound): boolean {
    if (this.messages?.take() !== false) return true
    this.deny(message, "messages")
    return false
  }

  private beat(message: Message.Inbound): void {
    const { limits: { maxHeartbeatRate }, system: { clock } } = this.runtime
    if (maxHeartbeatRate !== undefined) {
      // Made with the first: many connections that are open for a short time never send one.
      this.heartbeats ??= new TokenBucket(maxHeartbeatRate, clock)
      if (!this.heartbeats.takeOften()) return this.deny(message, "heartbeats")
    }
    this.sendReply(message, null, "ok", {})
  }

  /** Answers a frame that is a heartbeat, whatever waits before it. */
  private beats(data: Frame): boolean {
    const isText = typeof data === "string"
    // The formats of this library have the names as they are, unless a client takes pains.
    if (isText && (this.serializer === v1 || this.serializer === v2) && !data.includes("heartbeat")) return false
    const message = this.attempt(data, isText ? "text" : "binary")
    if (message?.topic !== "phoenix" || message.event !== "heartbeat") return false
    const { maxRefBytes } = this.runtime.limits
    if (!isRef(message.joinRef ?? null, maxRefBytes) || !isRef(message.ref ?? null, maxRefBytes)) return false
    this.beat(message)
    return true
  }

  /** Decodes a frame out of turn; what is wrong with it is said when its turn has come. */
  private attempt(data: Frame, opcode: Opcode): Message.Inbound | undefined {
    try {
      const decoded = this.serializer.decode(data, opcode)
      return Result.isSuccess(decoded) ? decoded.success : undefined
    } catch {
      return undefined
    }
  }

  private unmatched(message: Message.Inbound): void {
    this.sendReply(message, null, "error", { reason: "unmatched topic" })
  }

  // --- joining ------------------------------------------------------------------------------------------------------

  /** Starts the channel; frames are held back until its join is done. */
  private join(message: Message.Inbound, topic: string, bytes: number, replaced: Served | undefined): void {
    const { runtime } = this
    const route = runtime.routes.find(({ definition }) => matches(definition.pattern, topic))
    if (route === undefined) {
      this.complain("join of a topic that no channel serves", topic)
      return this.unmatched(message)
    }
    const { maxChannels } = runtime.limits
    if (this.joined.size >= maxChannels) {
      this.meter.limited.channels++
      this.sendReply(message, message.joinRef, "error", { reason: "too many channels joined" })
      const about = { ...this.about, topic: brief(topic), limit: maxChannels }
      return runtime.complaints.say("Error", "too many channels joined", about)
    }
    const { definition, meter } = route
    const context = withServices(definition.context, this.assigns)
    const place = { connection: this, system: runtime.system, parent: runtime.channelGroup, context, meter }
    const channel = definition.open(place, message, topic)
    this.joining = channel
    // From here on it waits for nothing, and is the channel's to release.
    this.left(bytes)
    this.passing = 0
    channel.start(message.payload, bytes, (exit) => {
      this.joining = undefined
      try {
        this.afterJoin(channel, message, exit)
      } finally {
        // The client hears of the end of the channel it has replaced after it has the reply of the new one.
        if (replaced !== undefined) this.sendClose(replaced)
        if (this.holdUp?.head !== undefined) this.wake()
      }
    })
    // Nobody waits for it any more.
    if (this.joining !== undefined && this.gone !== undefined) this.process.signal(this.gone)
  }

  private afterJoin(channel: Served, message: Message.Inbound, exit: Exit.Exit<unknown, unknown>): void {
    const failure = exit._tag === "Failure" ? onlyFailure(exit.cause) : undefined
    if (exit._tag === "Failure" && failure === undefined) return this.joinCrashed(message)
    const reply = exit._tag === "Success"
      ? Message.reply(message.joinRef, message.ref, message.topic, "ok", exit.value)
      : Message.reply(message.joinRef, message.ref, message.topic, "error", failure?.error)
    const frame = this.serializer.encode(reply)
    if (Result.isFailure(frame)) {
      this.joinCrashed(message)
      // Thrown into the channel: its process crashes, and says so.
      throw frame.failure
    }
    this.transport.send(frame.success)
    if (exit._tag === "Success") this.joined.add(channel)
  }

  private joinCrashed(message: Message.Inbound): void {
    try {
      this.sendReply(message, message.joinRef, "error", { reason: "join crashed" })
    } catch (defect) {
      // Not even that can be said, because of what the client has given as its refs.
      this.process.quit(process.crash(Cause.die(defect)))
    }
  }

  /** The topic is joined already: the old channel ends, then the new one starts. */
  private replace(old: Served, message: Message.Inbound, topic: string, bytes: number): void {
    // What the client sent before it is handled before, as far as the channel is not busy: a leave, say.
    old.process.run()
    if (!this.joined.remove(old)) return this.join(message, topic, bytes, undefined)
    const { context } = this.runtime
    if (isLogged("Debug", context)) {
      const about = { ...this.about, topic: brief(topic) }
      report("Debug", context, "duplicate join, closing the existing channel", about)
    }
    old.process.quit(process.shutdown("duplicate_join"))
    if (!old.process.alive) return this.join(message, topic, bytes, old)
    // It waits on, and is held by nobody else.
    this.passing = 0
    this.heldUp().rejoin = { old, message, topic, bytes }
    if (this.gone !== undefined) this.process.signal(this.gone)
  }

  private startRejoin({ bytes, message, old, topic }: Rejoin): void {
    if (this.holdUp !== undefined) this.holdUp.rejoin = undefined
    this.passing = bytes
    this.join(message, topic, bytes, old)
    if (this.passing > 0) {
      this.passing = 0
      this.left(bytes)
      this.release(bytes)
    }
    this.drain()
  }

  // --- what waits ---------------------------------------------------------------------------------------------------

  left(bytes: number): void {
    this.waiting -= bytes
    const { holdUp } = this
    if (holdUp?.crowded === true && this.process.mailboxLength <= maxWaiting / 2) this.judge(holdUp)
  }

  /** So much waits that nothing more is to be read. */
  private get isCrowded(): boolean {
    return this.frames >= maxWaiting || this.waiting > this.runtime.limits.maxInboxBytes
  }

  private get frames(): number {
    return this.process.mailboxLength + (this.holdUp?.count ?? 0)
  }

  private crowd(): void {
    const holdUp = this.heldUp()
    if (holdUp.crowded) return
    holdUp.crowded = true
    this.judge(holdUp)
  }

  /** Stops reading while too much waits, or something is in the way, but no longer than its patience lasts. */
  private judge(holdUp: HoldUp): void {
    const { limits: { maxInboxBytes, maxPause }, system: { timers } } = this.runtime
    if (holdUp.crowded) holdUp.crowded = this.frames > maxWaiting / 2 || this.waiting > maxInboxBytes / 2
    if (holdUp.isStrained) {
      if (holdUp.paused || holdUp.impatient) return
      holdUp.paused = true
      this.transport.pause?.()
      if (maxPause < Infinity) holdUp.patience = timers.after(maxPause, () => this.lose(holdUp))
    } else if (holdUp.count === 0) {
      if (holdUp.patience !== undefined) timers.cancel(holdUp.patience)
      holdUp.patience = undefined
      holdUp.impatient = false
      this.readOn(holdUp)
    }
  }

  private readOn(holdUp: HoldUp): void {
    if (!holdUp.paused) return
    holdUp.paused = false
    holdUp.surplus = 0
    this.transport.resume?.()
  }

  /** The client has waited for long enough: heartbeats must come through. */
  private lose(holdUp: HoldUp): void {
    holdUp.patience = undefined
    holdUp.impatient = true
    this.readOn(holdUp)
    this.wake()
  }

  /** Hears a client without patience in small doses: it may send at any speed, and each frame is to be answered. */
  private rest(holdUp: HoldUp): void {
    holdUp.paused = true
    holdUp.heard = 0
    this.transport.pause?.()
    holdUp.patience = this.runtime.system.timers.after(rest, () => this.lose(holdUp))
  }

  full(channel: Served): boolean {
    const holdUp = this.heldUp()
    if (!channel.inbox.isFull) {
      channel.inbox.isFull = true
      holdUp.fullChannels++
      this.judge(holdUp)
    }
    return !holdUp.impatient
  }

  relieved(_channel: Served): void {
    const { holdUp } = this
    if (holdUp === undefined || --holdUp.fullChannels > 0) return
    if (holdUp.head !== undefined) this.wake()
    this.judge(holdUp)
  }

  /** A frame that cannot even wait. A large one would have to be decoded for its answer. */
  private denyUnheard(frame: Frame | Large): void {
    if (frame instanceof Large) return this.overflow()
    this.left(frame.length)
    const message = this.decode(frame)
    if (message !== undefined) this.deny(message, "mailbox")
  }

  /** The client sends more than can wait. */
  private overflow(): void {
    if (this.process.status === "ending" || !this.process.alive) return
    this.meter.limited.mailbox++
    this.complain("a client sends more than may wait: its connection is closed", undefined)
    this.process.quit(process.shutdown("mailbox_full"))
  }

  // --- what channels say --------------------------------------------------------------------------------------------

  denied(message: Message.Inbound): void {
    this.deny(message, "mailbox")
  }

  overrun(channel: Served): void {
    this.meter.limited.mailbox++
    this.complain("a client sends more than a channel can take: its connection is closed", channel.topic)
    this.process.quit(process.shutdown("mailbox_full"))
  }

  overwhelmed(channel: Served, together: boolean): void {
    this.meter.limited.infos++
    const line = together
      ? "more waits for slow channels than maxSharedInfoBytes: the one furthest behind crashes, and its client joins again"
      : "a channel does not keep up with broadcasts and subscriptions: it crashes, and its client joins again"
    this.complain(line, channel.topic)
  }

  private deny(message: Message.Inbound, limit: "joins" | "messages" | "mailbox" | "heartbeats"): void {
    this.meter.limited[limit]++
    const reason = limit === "mailbox" ? "too many messages" : `too many ${limit}`
    this.complain(`a client is denied: ${reason}`, message.topic)
    this.sendReply(message, limit === "heartbeats" ? null : message.joinRef, "error", { reason })
  }

  private complain(line: string, topic: unknown): void {
    const of = topic === undefined ? {} : { topic: brief(topic) }
    this.runtime.complaints.say("Warn", line, { ...this.about, ...of })
  }

  warn(line: string, kind: string, about: Readonly<Record<string, unknown>>): void {
    this.runtime.complaints.say("Warn", line, { ...this.about, ...about }, undefined, kind)
  }

  channelClosing(channel: Served): void {
    if (this.joined.remove(channel)) this.sendClose(channel)
  }

  /** Handled after the frames that are in the mailbox: they were meant for the channel as it was. */
  channelEnded(channel: Served): void {
    this.process.push(new ChannelDown(channel))
  }

  private channelDown(channel: Served): void {
    if (this.joined.remove(channel)) this.sendMessage(channel, "phx_error", { reason: "channel_crash" })
  }

  /** The process has ended: the wire is closed, the channels are told. */
  ended(reason: process.ExitReason): void {
    this.meter.connections--
    this.place?.release()
    const { holdUp } = this
    this.holdUp = undefined
    if (holdUp?.patience !== undefined) this.runtime.system.timers.cancel(holdUp.patience)
    this.subscribing?.interruptUnsafe()
    this.forgetWait()
    this.runtime.system.heavy.forget(this)
    this.release(this.passing + (holdUp?.rejoin?.bytes ?? 0))
    const isDisconnected = reason._tag === "Shutdown" && reason.detail === "disconnected"
    this.transport.close(isDisconnected ? this.code ?? 1001 : closeCode(reason))
    const told = reason._tag === "Normal" ? process.shutdown("closed") : reason
    this.joining?.connectionEnded(told)
    for (const channel of this.channels) channel.connectionEnded(told)
    this.joined.clear()
  }

  // --- frames -------------------------------------------------------------------------------------------------------

  private sendClose(channel: Served): void {
    this.sendMessage(channel, "phx_close", {})
  }

  private sendMessage(channel: Served, event: string, payload: unknown): void {
    const message = Message.message(channel.joinRef, channel.joinRef, channel.topic, event, payload)
    this.transport.send(Result.getOrThrow(this.serializer.encode(message)))
  }

  private sendReply(to: Message.Inbound, joinRef: Message.Ref, status: string, payload: unknown): void {
    const { topic } = to
    const echoed = typeof topic === "string" && topic.length > maxEcho ? null : topic
    const reply = Message.reply(joinRef, to.ref, echoed, status, payload)
    this.transport.send(Result.getOrThrow(this.serializer.encode(reply)))
  }
}

/** Weight of a message of so many bytes and values, from when it is decoded until it is handled. */
const weightOf = (bytes: number, values: number): number => {
  const more = values - bytes / bytesWithValue
  return more > 0 ? bytes + Math.ceil(more) * bytesPerValue : bytes
}

const isFrame = (item: unknown): item is Frame | Large =>
  typeof item === "string" || item instanceof Uint8Array || item instanceof Large

const isDisconnect = (message: unknown): message is { readonly payload?: unknown } =>
  typeof message === "object" && message !== null && "event" in message && message.event === "disconnect"

const closeCodeIn = (payload: unknown): number => {
  const code = typeof payload === "object" && payload !== null && "code" in payload ? payload.code : undefined
  return isCloseCode(code) ? code : 1001
}

const isShort = (value: unknown, max: number): boolean =>
  value === null || (typeof value === "string" && value.length <= max)

/** The bytes of a reference or name that is no text, as JSON: no known client sends one. */
export const maxOddBytes = 255

/** Null, a text, a finite number, or other JSON; none of more than `max` bytes. */
const isRef = (ref: unknown, max: number): boolean =>
  ref === null || (typeof ref === "string" ? isTextWithin(ref, max) : isJsonWithin(ref, Math.min(max, maxOddBytes)))

const malformedRef = (name: "ref" | "join_ref", max: number): DecodeError =>
  new DecodeError({
    code: "invalid_ref",
    message: `The ${name} is no text, number or other JSON of at most ${max} bytes: send a short string.`
  })

const malformedName = (code: "invalid_topic" | "invalid_event", name: string): DecodeError =>
  new DecodeError({ code, message: `The ${name} is no text, and too large: send a short string.` })

/** Refs are small, see `checked`, so that odd ones can be compared as JSON. */
const isMeantFor = ({ joinRef }: Message.Inbound, channel: Served): boolean =>
  joinRef === null || joinRef === channel.joinRef
  || (typeof joinRef === "object" && channel.joinRefKey !== undefined && JSON.stringify(joinRef) === channel.joinRefKey)

/** Adds services one by one, which keeps what fibers have cached for the base. */
const withServices = (base: Context.Context<never>, services: Context.Context<never>): Context.Context<never> => {
  let context = base
  for (const [key, service] of services.mapUnsafe) context = Context.addUnsafe(context, key, service)
  return context
}
