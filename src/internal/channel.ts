import { type Context, type Duration, Effect, Exit, Result } from "effect"
import * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type * as PubSub from "../PubSub.ts"
import { type EncodeError, type Serializer, v1, v2 } from "../Serializer.ts"
import { Intercepted, type JoinRequest } from "./channelMessage.ts"
import {
  ChannelError,
  type Compiled,
  type CompiledEvent,
  encodeOutgoing,
  onlyFailure,
  orThrow,
  pubsubTopicOf,
  refusal
} from "./contract.ts"
import { disown, effectOf } from "./eager.ts"
import { formatDuration } from "./filterParameters.ts"
import type { Guard } from "./guard.ts"
import { type Lossy, SharedFrame } from "./outbox.ts"
import * as process from "./process.ts"
import { Answer, type FrameSink, noReply, SocketRef } from "./reply.ts"
import type { Level } from "./report.ts"
import { type Definition, type Place, Served, type Settings as ServedSettings } from "./served.ts"
import { Unsendable } from "./topics.ts"
import { brief } from "./untrusted.ts"

/** The erased form of `Channel.Handlers`. */
export interface Handlers extends process.SignalHandlers {
  readonly reply?: unknown
  readonly handleIn?: HandleIn | Readonly<Record<string, (payload: unknown) => Effect.Effect<unknown, unknown>>>
  readonly handleUndeclared?: HandleIn
  readonly handleOut?: Readonly<Record<string, (payload: unknown) => Effect.Effect<unknown, unknown>>>
  readonly handleInfo?: (message: unknown) => Effect.Effect<unknown, unknown>
  readonly terminate?: (reason: process.ExitReason) => Effect.Effect<unknown, unknown>
}
type HandleIn = (event: string, payload: unknown) => Effect.Effect<unknown, unknown>

export type Join = (self: ChannelServer, payload: unknown) => Effect.Effect<Handlers | void, unknown>

/** What is the same for all channels of a definition. */
export interface Settings extends ServedSettings {
  readonly contract: Compiled
  readonly join: Join
  readonly logHandleIn: Level
}

/** The definition of a channel that is a {@link ChannelServer}. */
export const define = (pattern: string, context: Context.Context<never>, settings: Settings): Definition => {
  const definition: Definition = {
    pattern,
    context,
    pubsubTopicOf: (topic) => pubsubTopicOf(settings.contract, topic),
    open: (place, message, topic) => new ChannelServer(definition, settings, place, message, topic)
  }
  return definition
}

/** The name of an event. What is no name is taken as the JSON it came as, which no handler is called. */
const nameOf = ({ event }: Message.Inbound): string => typeof event === "string" ? event : JSON.stringify(event)

/** Without a contract an error of the application, a database's say, is nothing to tell a client. */
const isAnswer = (codec: CompiledEvent | undefined, error: unknown): boolean =>
  codec !== undefined || !(error instanceof Error)

/** Kept in place of a frame. Told from one by `frame`, which is looked at anyway: `instanceof` costs more with each member. */
class NoFrame {
  readonly frame = undefined
  /** Thrown where the format of some clients, and not the payload, is to blame. */
  readonly defect: unknown
  constructor(defect: unknown) {
    this.defect = defect
  }
}
const noFrame = new NoFrame(undefined)

/** {@link noFrame} for bytes on their way to a client whose version of the protocol has no binary frames. */
const encodeFastlane = (serializer: Serializer, broadcast: Message.Broadcast): SharedFrame | NoFrame => {
  let defect: unknown
  try {
    const frame = serializer.fastlane(broadcast)
    if (Result.isSuccess(frame)) return new SharedFrame(frame.success)
    // One client that asks for the old version must not keep all others from being told.
    if (isBytesForV1(frame.failure, broadcast)) return noFrame
    defect = frame.failure
  } catch (thrown) {
    defect = thrown
  }
  // The sender is to blame for what the formats of this library refuse, and the owner of another format for all else.
  if (serializer === v1 || serializer === v2 || Result.isFailure(v2.fastlane(broadcast))) throw new Unsendable(defect)
  return new NoFrame(defect)
}

const isBytesForV1 = ({ code }: EncodeError, { payload }: Message.Broadcast): boolean =>
  code === "invalid_binary" && payload instanceof Uint8Array

/** Under this key a delivery keeps the frames of a broadcast for clients that know its topic by other names. */
const renamed = {}
type Renamed = Map<Serializer, Map<string, SharedFrame | NoFrame>>
const noFrames = (): Renamed => new Map()

/** A message to a client, of one channel or to all of a topic. */
type Named = Pick<Message.Broadcast, "event" | "payload" | "topic">

/** Characters of the key of a lossy event, which is kept for as long as the event waits. */
const maxKeyLength = 1000

/** `drop`, or as JSON of a list what a later event has to have in common with one to take its place. */
const lossyKey = ({ lossy }: Compiled, { event, payload, topic }: Named, guard: Guard): string | undefined => {
  const key = lossy?.get(event)
  if (typeof key !== "function") return key
  try {
    const name: unknown = key(payload)
    disown(name)
    if (typeof name === "string" && name.length <= maxKeyLength) return JSON.stringify([topic, event, name])
    throw new TypeError(`it must return a string of at most ${maxKeyLength} characters`)
  } catch (defect) {
    // An event that the application's function does not know is sent as any other: others must be told.
    guard.failed({ name: "lossy", owner: { event }, about: { topic: brief(topic) } }, defect)
    return undefined
  }
}

/**
 * The process of one joined channel of one connection (Phoenix.Channel.Server). It is also what user code is given as
 * the channel, and a subscriber of its topic: one object for all three.
 */
export class ChannelServer extends Served {
  readonly settings: Settings
  /** The join message's ref serves as join_ref in pushes and replies where the client gave none. */
  private readonly ownRef: Message.Ref
  protected handlers: Handlers = {}
  /** Whether each message that is handled is a line in the log. */
  private readonly logsHandled: boolean
  // Those of the connection. A broadcast to many waits for memory, and this is one object less to wait for.
  private readonly serializer: Serializer
  private readonly transport: FrameSink
  private incoming: Message.Inbound | undefined = undefined
  /** What came to the topic between the subscription and the join reply. */
  private early: Array<SharedFrame> | undefined = undefined
  /** The topic that it lives on, where that is not the one of the wire. */
  private ownTopic: string | undefined = undefined
  /** Why the channel ends, when it wants to end by itself. */
  private finishing: process.ExitReason | undefined = undefined

  constructor(
    definition: Definition,
    settings: Settings,
    place: Place,
    message: Message.Inbound,
    topic: string
  ) {
    super(definition, settings, place, message, topic)
    this.settings = settings
    this.serializer = place.connection.serializer
    this.transport = place.connection.transport
    this.logsHandled = this.isReported(settings.logHandleIn)
    const { joinRef, ref } = message
    this.ownRef = joinRef === false ? ref : joinRef ?? ref
  }

  /** The topic of the PubSub that it lives on. */
  get pubsubTopic(): string {
    return this.ownTopic ?? this.topic
  }

  // --- the join -----------------------------------------------------------------------------------------------------

  /** Mostly done at once, without a fiber. */
  protected onJoin(payload: unknown): Effect.Effect<Handlers, unknown> {
    const { contract, join } = this.settings
    if (contract.pubsubTopic !== undefined) this.ownTopic = pubsubTopicOf(contract, this.topic)
    const decoded = contract.join?.decode(payload) ?? Exit.succeed(payload)
    if (decoded._tag === "Failure") return Exit.fail(refusal(decoded.cause))
    const joined = Effect.catchEager(effectOf(join(this, decoded.value)), (error) => {
      if (contract.join !== undefined) return Effect.fail(orThrow(contract.join.encodeError(error)))
      return error instanceof Error ? Effect.die(error) : Effect.fail(error)
    })
    return Effect.flatMapEager(
      joined,
      (handlers) =>
        Effect.mapEager(this.connection.pubsub.subscribeUnsafe(this.pubsubTopic, this), () => handlers ?? {})
    )
  }

  protected onJoined(request: JoinRequest, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    if (exit._tag === "Failure") {
      if (onlyFailure(exit.cause) === undefined) return exit
      this.refuse(request, exit)
      return Exit.void
    }
    const handlers = exit.value as Handlers
    const codec = this.settings.contract.join
    const { reply } = handlers
    const response = reply === undefined ? {} : codec === undefined ? reply : orThrow(codec.encodeSuccess(reply))
    this.handlers = handlers
    this.accept(request, response)
    const early = this.early
    this.early = undefined
    if (early !== undefined) {
      for (const shared of early) {
        this.inbox.removeInfo(shared.length)
        this.transport.send(shared.frame, shared)
      }
    }
    if (this.finishing !== undefined) this.process.stop(this.finishing)
    return Exit.void
  }

  // --- the mailbox --------------------------------------------------------------------------------------------------

  protected onInfo(message: unknown): Effect.Effect<unknown, unknown> {
    if (this.handlers.handleInfo !== undefined) return this.handlers.handleInfo(message)
    const of = Message.isBroadcast(message) ? { broadcast: brief(message.topic), event: brief(message.event) } : {}
    const line = "channel without handleInfo got a message"
    this.connection.warn(line, `${line} ${this.definition.pattern}`, { topic: brief(this.topic), ...of })
    return Effect.void
  }

  protected onMessage(message: Message.Inbound): Effect.Effect<unknown, unknown> {
    if (message.event === "phx_leave") {
      this.answer(message, "ok", {})
      this.finish(process.shutdown("left"))
      return Effect.void
    }
    this.startedAt = this.process.system.nanos
    const event = nameOf(message)
    return this.traced("channels.handle_in", event, () => this.handleIn(message, event))
  }

  private handleIn(message: Message.Inbound, event: string): Effect.Effect<unknown, unknown> {
    const { incoming } = this.settings.contract
    const { handleIn, handleUndeclared } = this.handlers
    this.incoming = message
    if (incoming === undefined) {
      return typeof handleIn === "function" ? handleIn(event, message.payload) : this.unmatched(message)
    }
    const codec = incoming.get(event)
    if (codec === undefined) {
      return handleUndeclared === undefined ? this.unmatched(message) : handleUndeclared(event, message.payload)
    }
    const payload = codec.decode(message.payload)
    if (payload._tag === "Failure") return this.answerError(message, refusal(payload.cause))
    const handler = typeof handleIn === "object" ? handleIn[event] : undefined
    return handler === undefined ? this.unmatched(message) : handler(payload.value)
  }

  private unmatched(message: Message.Inbound): Effect.Effect<Answer> {
    return this.answerError(message, { reason: "unmatched event" })
  }

  /** Answers in place of a handler. */
  private answerError(message: Message.Inbound, response: unknown): Effect.Effect<Answer> {
    this.answer(message, "error", response)
    this.incoming = undefined
    return Effect.succeed(new Answer("error", response))
  }

  /** Turns the outcome of handleIn into a reply; there is no fiber left to do so when the handler had none. */
  protected onHandled(_message: Message.Inbound, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    const incoming = this.incoming
    if (incoming === undefined) return exit
    this.incoming = undefined
    const nanos = this.process.system.nanos - this.startedAt
    this.meter.handleInDuration.observe(nanos / 1e6)
    const codec = this.codecOf(incoming)
    if (exit._tag === "Success") {
      this.reportHandled(incoming, nanos)
      this.answerWith(incoming, codec, exit.value)
      return exit
    }
    const failure = onlyFailure(exit.cause)
    if (failure === undefined || !isAnswer(codec, failure.error)) return exit
    this.reportHandled(incoming, nanos)
    this.answer(incoming, "error", codec === undefined ? failure.error : orThrow(codec.encodeError(failure.error)))
    return Exit.void
  }

  private codecOf(message: Message.Inbound): CompiledEvent | undefined {
    return this.settings.contract.incoming?.get(nameOf(message))
  }

  protected isAnswer(error: unknown): boolean {
    return isAnswer(this.incoming && this.codecOf(this.incoming), error)
  }

  private answerWith(incoming: Message.Inbound, codec: CompiledEvent | undefined, value: unknown): void {
    if (value === noReply) return
    if (codec === undefined) {
      if (value instanceof Answer) this.answer(incoming, value.status, value.payload)
    } else if (codec.replies) {
      this.answer(incoming, "ok", value === undefined ? {} : orThrow(codec.encodeSuccess(value)))
    }
  }

  protected override onBroadcast(broadcast: Message.Broadcast): Effect.Effect<unknown, unknown> {
    const { handleOut } = this.handlers
    const payload = this.settings.contract.outgoing?.get(broadcast.event)?.decode(broadcast.payload)
    if (payload?._tag === "Failure") return payload
    const handler = handleOut?.[broadcast.event]
    return handler === undefined ? Effect.void : handler(payload === undefined ? broadcast.payload : payload.value)
  }

  terminate(reason: process.ExitReason): Effect.Effect<unknown, unknown> {
    if (reason === this.finishing && process.isGraceful(reason)) this.connection.channelClosing(this)
    return this.handlers.terminate === undefined ? Effect.void : this.handlers.terminate(reason)
  }

  // --- the topic ----------------------------------------------------------------------------------------------------

  /** A message to the topic: straight to the client, past the mailbox, unless its event is intercepted. */
  deliver(message: unknown, delivery: PubSub.Delivery): void {
    const { contract } = this.settings
    if (!Message.isBroadcast(message)) this.inform(message, delivery)
    else if (contract.intercept?.has(message.event)) this.intercept(message, delivery)
    else {
      // By the contract, which all members share: what each of them has would have to be fetched from memory.
      const shared = contract.pubsubTopic === undefined
        ? delivery.memo(this.serializer, message, encodeFastlane)
        : this.encodeRenamed(message, delivery)
      if (shared.frame === undefined) this.leaveOut(shared)
      else if (!this.joined) this.keepEarly(shared)
      else this.transport.send(shared.frame, shared, this.lossy(message, delivery))
    }
  }

  private leaveOut(instead: NoFrame): void {
    if (instead !== noFrame) throw instead.defect
  }

  private intercept(broadcast: Message.Broadcast, delivery: PubSub.Delivery): void {
    this.tell(new Intercepted(broadcast, this.retained(broadcast, delivery)))
  }

  private keepEarly(shared: SharedFrame): void {
    if (this.inbox.addInfo(shared.length)) (this.early ??= []).push(shared)
    else this.overwhelmed()
  }

  /** The client knows the topic by the name that it has joined, whatever the broadcast calls it. */
  private encodeRenamed(broadcast: Message.Broadcast, delivery: PubSub.Delivery): SharedFrame | NoFrame {
    const frames = delivery.memo(renamed, broadcast, noFrames)
    let ofFormat = frames.get(this.serializer)
    if (ofFormat === undefined) frames.set(this.serializer, ofFormat = new Map())
    const known = ofFormat.get(this.topic)
    if (known !== undefined) return known
    const shared = encodeFastlane(this.serializer, { ...broadcast, topic: this.topic })
    ofFormat.set(this.topic, shared)
    return shared
  }

  /** How an event may get lost for a client that is behind; undefined for most, which must not. */
  private lossy(message: Named, delivery?: PubSub.Delivery): Lossy | undefined {
    const { contract } = this.settings
    if (contract.lossy === undefined) return undefined
    const { guard } = this.connection
    const key = delivery === undefined
      ? lossyKey(contract, message, guard)
      : delivery.memo(contract, message, (contract, message) => lossyKey(contract, message, guard))
    return key === undefined || key === "drop" ? key : { key, sender: this.process }
  }

  // --- what user code is given --------------------------------------------------------------------------------------

  push(event: string, payload: unknown): Effect.Effect<void> {
    return Effect.sync(() => {
      this.assertJoined("push")
      this.meter.pushes++
      const encoded = encodeOutgoing(this.settings.contract, event, payload)
      const message = Message.message(this.ownRef, null, this.topic, event, encoded)
      const frame = Result.getOrThrow(this.serializer.encode(message))
      this.transport.send(frame, undefined, this.lossy(message))
    })
  }

  broadcast(event: string, payload: unknown): Effect.Effect<void> {
    return this.publish(event, payload, undefined)
  }

  broadcastFrom(event: string, payload: unknown): Effect.Effect<void> {
    return this.publish(event, payload, this.pid)
  }

  private publish(event: string, payload: unknown, from: Process.Pid | undefined): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.assertJoined("broadcast")
      this.meter.broadcasts++
      const broadcast = Message.broadcast(this.topic, event, encodeOutgoing(this.settings.contract, event, payload))
      return Effect.orDie(this.connection.pubsub.broadcast(this.pubsubTopic, broadcast, from))
    })
  }

  send(message: unknown): Effect.Effect<void> {
    return Process.send(this.pid, message)
  }

  sendAfter(message: unknown, delay: Duration.Input): Effect.Effect<Process.TimerRef> {
    return Process.sendAfter(this.pid, message, delay)
  }

  stop(reason: process.ExitReason = process.normal): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.finish(reason)
      return reason._tag !== "Crash" ? Effect.void : Effect.logError("channel stopped", reason.cause).pipe(
        Effect.annotateLogs({
          process: this.process.label,
          ...this.connection.about,
          topic: brief(this.topic),
          event: brief(this.incoming?.event)
        })
      )
    })
  }

  get ref(): Effect.Effect<SocketRef> {
    return Effect.sync(() => {
      const ref = this.incoming?.ref ?? null
      if (this.joined && ref !== null) return new SocketRef(this.connection, this.topic, ref, this.ownRef)
      throw new ChannelError({
        code: "NO_REF",
        message: "there is no message to reply to: take the ref inside handleIn, of a message that was sent with one"
      })
    })
  }

  subscribe(topic: string): Effect.Effect<void> {
    const subscriber: PubSub.Subscriber = {
      pid: this.pid,
      deliver: (message, delivery) => this.inform(message, delivery)
    }
    return Effect.asVoid(this.connection.pubsub.subscribe(topic, subscriber))
  }

  unsubscribe(topic: string): Effect.Effect<void> {
    return this.connection.pubsub.unsubscribeAll(topic, this.pid)
  }

  // ------------------------------------------------------------------------------------------------------------------

  private finish(reason: process.ExitReason): void {
    if (this.finishing !== undefined) return
    this.finishing = reason
    // Who wants to end during the join does so after the reply.
    if (this.joined) this.process.stop(reason)
  }

  private answer(to: Message.Inbound, status: string, payload: unknown): void {
    this.meter.replies++
    const reply = Message.reply(this.ownRef, to.ref, this.topic, status, payload)
    this.transport.send(Result.getOrThrow(this.serializer.encode(reply)))
  }

  private reportHandled(message: Message.Inbound, nanos: number): void {
    if (!this.logsHandled) return
    const { definition, settings, topic } = this
    const line = () => {
      const duration = formatDuration(nanos)
      return `HANDLED ${brief(nameOf(message))} INCOMING ON ${brief(topic)} (${definition.pattern}) in ${duration}`
    }
    this.report(settings.logHandleIn, line, message.payload)
  }

  private assertJoined(action: string): void {
    if (this.joined) return
    throw new ChannelError({
      code: "NOT_JOINED",
      message: `cannot ${action} before the join is done: send a message to the channel itself and do it in handleInfo`
    })
  }
}
