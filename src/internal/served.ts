import { Cause, Context, Effect, Exit, type LogLevel, type Tracer } from "effect"
import type * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type * as PubSub from "../PubSub.ts"
import { FilterParameters } from "../Telemetry.ts"
import { about, ConnectionEnded, Incoming, Info, Intercepted, JoinRequest } from "./channelMessage.ts"
import { onlyFailure } from "./contract.ts"
import { effectOf } from "./eager.ts"
import { filterParameters, formatDuration } from "./filterParameters.ts"
import type { Guard } from "./guard.ts"
import { Inbox, type Limits } from "./inbox.ts"
import { roughSize } from "./measure.ts"
import type { ChannelMeter } from "./meter.ts"
import * as process from "./process.ts"
import { Answer, type Outlet } from "./reply.ts"
import { isLogged, type Level, report } from "./report.ts"
import { type Holder, Retained, type RetainedBytes, type Told } from "./retained.ts"
import { inSpan } from "./tracing.ts"
import { brief, Named } from "./untrusted.ts"

/** What a channel needs of the connection it belongs to. */
export interface Connection extends Outlet {
  readonly pid: Process.Pid<unknown>
  readonly id: string | undefined
  /** Whose connection it is, for the log. */
  readonly about: Readonly<Record<string, unknown>>
  readonly guard: Guard
  /** Logs a warning, and not again for each message; the kind comes from code, not from clients. */
  readonly warn: (line: string, kind: string, about: Readonly<Record<string, unknown>>) => void
  readonly pubsub: PubSub.PubSub["Service"]
  /** Whether spans are made, and the one they belong to. */
  readonly traced: boolean
  readonly span: Tracer.AnySpan | undefined
  /** The channel ends as it wants to: the client is told before `terminate` runs. */
  readonly channelClosing: (channel: Served) => void
  readonly channelEnded: (channel: Served) => void
  /** A message of so many bytes does not wait any more, because it is in hand, or gone. */
  readonly left: (bytes: number) => void
  /** A message of so many bytes is handled, or gone. */
  readonly release: (bytes: number) => void
  /** The channel takes no more. True where its connection waits for it with what the client has sent. */
  readonly full: (channel: Served) => boolean
  /** The channel that was full takes messages again. */
  readonly relieved: (channel: Served) => void
  /** A message that is not handled, because too many wait. */
  readonly denied: (message: Message.Inbound) => void
  /** The client sends more than the channel can take, and is to go. */
  readonly overrun: (channel: Served) => void
  /** Others send the channel more than it can take, or all channels together: it is about to crash. */
  readonly overwhelmed: (channel: Served, together: boolean) => void
  /** Messages that wait for all channels of the mount. */
  readonly retained: RetainedBytes
}

/** Where a channel is started: its connection, its node, and what it is given of both. */
export interface Place {
  readonly connection: Connection
  readonly system: process.System
  readonly parent: process.Parent
  readonly context: Context.Context<never>
  readonly meter: ChannelMeter
}

/** A channel as its Layer provides it. */
export interface Definition {
  readonly pattern: string
  readonly context: Context.Context<never>
  /** The topic of the PubSub on which a topic that clients join lives. */
  readonly pubsubTopicOf: (topic: string) => string
  readonly open: (place: Place, message: Message.Inbound, topic: string) => Served
}

/** What ends something is never dropped. */
const isLeave = (message: Message.Inbound): boolean => message.event === "phx_leave"

const mayBeDropped = (message: unknown): boolean => message instanceof Incoming && !isLeave(message.message)

/** Counting any further would cost time, and `maxInfos` is a limit as well. */
const maxSize = 16_000_000
const retain = (_: object, message: unknown): Retained => new Retained(roughSize(message, maxSize))
/** Nobody counts it. */
const uncounted = new Retained(0)

/** What the Layer of a channel says about each of its processes. */
export interface Settings {
  readonly processOptions: process.Options
  readonly mailbox: Limits
  readonly logJoin: Level
}

/**
 * The process of a channel, whatever it does: how it joins, what waits for it, how it is counted, and how it ends. It takes
 * all messages of this library out of the mailbox, and calls a method for each kind.
 */
export abstract class Served extends Inbox implements process.Behaviour, process.Subject, Holder {
  readonly definition: Definition
  readonly connection: Connection
  readonly topic: string
  readonly joinRef: Message.Ref
  /** That of a join_ref that is no text or number, to compare it by. */
  readonly joinRefKey: string | undefined
  readonly process: process.Process
  joined = false
  private refused = false
  protected readonly meter: ChannelMeter
  /** When the message in hand, or the join, was begun: nanoseconds. */
  protected startedAt = 0
  protected abstract readonly settings: Settings
  protected abstract readonly handlers: process.SignalHandlers
  private joinDone: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined = undefined

  constructor(
    definition: Definition,
    { mailbox, processOptions }: Settings,
    { connection, context, meter, parent, system }: Place,
    message: Message.Inbound,
    topic: string
  ) {
    super(mailbox)
    this.definition = definition
    this.connection = connection
    this.meter = meter
    this.topic = topic
    this.joinRef = message.joinRef
    this.joinRefKey = typeof message.joinRef === "object" ? JSON.stringify(message.joinRef) : undefined
    this.process = new process.Process(system, parent, context, this, processOptions)
  }

  get label(): string {
    return `channel ${brief(this.topic)}`
  }

  get former(): process.Subject {
    return new Named("channel", this.topic)
  }

  get about(): Readonly<Record<string, unknown>> {
    return { ...this.connection.about, topic: brief(this.topic) }
  }

  annotate(message: unknown): Record<string, unknown> {
    return about(message)
  }

  /** The inbox is the channel itself, because another object would make each channel larger. */
  get inbox(): Inbox {
    return this
  }

  get pid(): Process.Pid<unknown> {
    return Process.toPid(this.process)
  }

  get socketId(): string | undefined {
    return this.connection.id
  }

  /**
   * Has the process join; `done` is called before anything else of the channel can reach the client.
   *
   * @param bytes - the size of the message, which the connection has admitted
   */
  start(payload: unknown, bytes: number, done: (exit: Exit.Exit<unknown, unknown>) => void): void {
    this.joinDone = done
    this.inbox.inHand = bytes
    this.startedAt = this.process.system.nanos
    this.process.begin(this)
    this.process.push(new JoinRequest(payload))
    // Its turn now and not in the run queue: most joins are done at once, and the connection waits for this one.
    this.process.run()
  }

  /** The client gets the reply, and is a member from now on; throws where the reply cannot be encoded. */
  protected accept({ payload }: JoinRequest, response: unknown): void {
    this.answerJoin(Exit.succeed(response))
    this.joined = true
    this.meter.channels++
    this.meter.joinsOk++
    this.reportJoin("JOINED", payload)
  }

  /** The client gets its answer before the process ends. */
  protected refuse({ payload }: JoinRequest, exit: Exit.Exit<unknown, unknown>): void {
    this.answerJoin(exit)
    this.refused = true
    this.meter.joinsRefused++
    this.reportJoin("REFUSED JOIN", payload)
    this.process.stop(process.shutdown())
  }

  // --- what comes in ------------------------------------------------------------------------------------------------

  /**
   * A message of the client, which the connection has admitted. False where there is no room and the connection is to hold
   * it back.
   */
  receive(message: Message.Inbound, bytes: number): boolean {
    if (isLeave(message) || !this.inbox.fits(bytes)) return this.receiveOther(message, bytes)
    this.put(message, bytes)
    return true
  }

  /** A leave, or what does not fit. Apart from `receive`, which is compiled into its caller because it is small. */
  private receiveOther(message: Message.Inbound, bytes: number): boolean {
    const { connection, inbox } = this
    if (isLeave(message)) {
      // The first one that waits ends the channel, if anything does.
      if (inbox.leaving) this.gone(bytes)
      else {
        inbox.leaving = true
        this.put(message, bytes)
      }
      return true
    }
    // Messages for a channel that ends are lost, as they are behind a leave.
    if (this.process.status === "ending" || !this.process.alive) {
      this.gone(bytes)
      return true
    }
    const { whenFull } = inbox.limits
    if (whenFull === "disconnect") {
      this.gone(bytes)
      connection.overrun(this)
      return true
    }
    if (whenFull === "dropOldest") {
      this.makeRoom(bytes)
      this.put(message, bytes)
      return true
    }
    if (connection.full(this)) return false
    this.gone(bytes)
    connection.denied(message)
    return true
  }

  private put(message: Message.Inbound, bytes: number): void {
    this.meter.messagesIn++
    if (this.process.push(new Incoming(message, bytes))) this.inbox.add(bytes)
    // It has ended, which the connection does not know yet.
    else this.gone(bytes)
  }

  private makeRoom(bytes: number): void {
    while (!this.inbox.fits(bytes)) {
      const dropped = this.process.dropOldest(mayBeDropped)
      if (!(dropped instanceof Incoming)) return
      this.inbox.remove(dropped.bytes)
      this.gone(dropped.bytes)
      this.connection.denied(dropped.message)
    }
  }

  /** A message is not kept, or not any more. */
  private gone(bytes: number): void {
    this.connection.left(bytes)
    this.connection.release(bytes)
  }

  /** A message of a topic, for `handleInfo`. */
  protected inform(message: unknown, delivery: PubSub.Delivery): void {
    this.tell(new Info(message, this.retained(message, delivery)))
  }

  /** About what a message takes in memory, counted once for all who get it. */
  protected retained(message: unknown, delivery: PubSub.Delivery): Retained {
    if (this.inbox.limits.maxInfoBytes === Infinity) return uncounted
    return delivery.memo(this.connection.retained, message, retain)
  }

  /** A message of a broadcast or subscription waits, unless the channel does not keep up. */
  protected tell(told: Told): void {
    const { connection: { retained }, inbox } = this
    const { bytes } = told.retained
    if (!inbox.addInfo(bytes)) return this.overwhelmed()
    // It may have ended, or be about to.
    if (!this.process.push(told)) return inbox.removeInfo(bytes)
    inbox.hold(told, retained, this)
    if (retained.used > retained.limit) retained.relieve()
  }

  giveUp(): void {
    this.inbox.letGoOfAll(this.connection.retained, this)
    this.overwhelmed(true)
  }

  /** It does not keep up with others. To leave anything out would be a lie, so it crashes, and its client joins again. */
  protected overwhelmed(together = false): void {
    const { connection, inbox: { limits: { maxInfoBytes, maxInfos } } } = this
    const limits = together
      ? `it is the furthest behind, and maxSharedInfoBytes is ${connection.retained.limit}`
      : `maxInfos is ${maxInfos}, maxInfoBytes ${maxInfoBytes}`
    const message = `channel ${brief(this.topic)} does not keep up: ${limits}`
    connection.overwhelmed(this, together)
    this.process.quit(process.crash(Cause.die(new Error(message))))
  }

  // --- what is taken out --------------------------------------------------------------------------------------------

  handle(message: unknown): Effect.Effect<unknown, unknown> {
    if (message instanceof Incoming) {
      this.taken(message)
      return this.onMessage(message.message)
    }
    if (message instanceof Intercepted) {
      this.inbox.letGo(message, this.connection.retained, this)
      return this.onBroadcast(message.broadcast)
    }
    if (message instanceof Info) {
      this.inbox.letGo(message, this.connection.retained, this)
      return this.onInfo(message.message)
    }
    if (message instanceof JoinRequest) {
      return this.traced("channels.join", undefined, () => this.onJoin(message.payload))
    }
    if (message instanceof ConnectionEnded) {
      this.process.stop(message.reason)
      return Effect.void
    }
    return this.onInfo(message)
  }

  /** A message of the client has left the mailbox, and is in hand. */
  private taken({ bytes, message }: Incoming): void {
    const { connection, inbox } = this
    inbox.remove(bytes)
    inbox.inHand = bytes
    if (inbox.leaving && isLeave(message)) inbox.leaving = false
    connection.left(bytes)
    if (!inbox.isFull || !inbox.isHalfEmpty) return
    inbox.isFull = false
    connection.relieved(this)
  }

  complete(message: unknown, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    if (message instanceof Incoming) {
      this.putDown()
      return this.onHandled(message.message, exit)
    }
    return message instanceof JoinRequest ? this.onJoined(message, exit) : exit
  }

  private putDown(): void {
    const { inHand } = this.inbox
    this.inbox.inHand = 0
    this.connection.release(inHand)
  }

  /** The first message: the outcome is what the join has come to. */
  protected abstract onJoin(payload: unknown): Effect.Effect<unknown, unknown>
  protected abstract onJoined(request: JoinRequest, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown>
  /** A message of the client. */
  protected abstract onMessage(message: Message.Inbound): Effect.Effect<unknown, unknown>
  protected abstract onHandled(message: Message.Inbound, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown>
  /** Handles a message that anybody but the client has sent. */
  protected abstract onInfo(message: unknown): Effect.Effect<unknown, unknown>
  /** A broadcast of an intercepted event. */
  protected onBroadcast(broadcast: Message.Broadcast): Effect.Effect<unknown, unknown> {
    return this.onInfo(broadcast)
  }

  handleDown(down: process.Down): Effect.Effect<unknown, unknown> {
    return this.handlers.handleDown === undefined ? this.onInfo(down) : this.handlers.handleDown(down)
  }

  /** Only a channel that handles exits traps them. */
  get handleExit(): process.SignalHandlers["handleExit"] {
    return this.handlers.handleExit
  }

  /** The channel ends after what it has been sent; with a handler that does not return, after its shutdown time. */
  connectionEnded(reason: process.ExitReason): void {
    const { options, status, system } = this.process
    this.process.push(new ConnectionEnded(reason))
    if (status === "idle") return
    const timer = system.timers.after(options.shutdown, () => this.process.quit(reason))
    this.process.watch(timer, { ended: () => system.timers.cancel(timer) })
  }

  ended(reason: process.ExitReason): void {
    if (this.joined) {
      this.meter.channels--
      if (reason._tag === "Crash") this.meter.crashes++
    } else if (!this.refused) {
      // The join did not come to its end: it crashed, or the process was ended from outside.
      if (reason._tag === "Crash") this.meter.joinsCrashed++
      else this.meter.joinsInterrupted++
      this.meter.joinDuration.observe((this.process.system.nanos - this.startedAt) / 1e6)
      this.answerJoin(reason._tag === "Crash" ? Exit.failCause(reason.cause) : Exit.interrupt())
    }
    this.gone(this.inbox.bytes)
    this.inbox.letGoOfAll(this.connection.retained, this)
    this.putDown()
    if (this.inbox.isFull) {
      this.inbox.isFull = false
      this.connection.relieved(this)
    }
    this.connection.channelEnded(this)
  }

  private answerJoin(exit: Exit.Exit<unknown, unknown>): void {
    const done = this.joinDone
    this.joinDone = undefined
    this.putDown()
    done?.(exit)
  }

  private reportJoin(what: "JOINED" | "REFUSED JOIN", payload: unknown): void {
    const nanos = this.process.system.nanos - this.startedAt
    this.meter.joinDuration.observe(nanos / 1e6)
    this.report(this.settings.logJoin, () => `${what} ${brief(this.topic)} in ${formatDuration(nanos)}`, payload)
  }

  protected isReported(level: Level): level is LogLevel.Severity {
    return isLogged(level, this.process.context) && !this.topic.startsWith("phoenix")
  }

  protected report(level: Level, line: () => string, payload: unknown): void {
    if (!this.isReported(level)) return
    const { context } = this.process
    report(level, context, line(), {
      parameters: filterParameters(payload, Context.get(context, FilterParameters))
    })
  }

  /** Runs what a message brings about inside a span, where somebody looks at spans. */
  protected traced(
    name: "channels.join" | "channels.handle_in",
    event: unknown,
    effect: () => Effect.Effect<unknown, unknown>
  ): Effect.Effect<unknown, unknown> {
    if (!this.connection.traced) return effect()
    return inSpan(
      name,
      {
        parent: this.connection.span,
        kind: "server",
        attributes: {
          "channels.topic": brief(this.topic),
          "channels.channel": this.definition.pattern,
          ...name === "channels.join" ? {} : { "channels.event": brief(event) }
        }
      },
      (exit) => this.resultOf(name, exit),
      () => Effect.suspend(() => effectOf(effect()))
    )
  }

  /** What a span says about the outcome: the status of the reply, `ok` without one. */
  private resultOf(name: "channels.join" | "channels.handle_in", exit: Exit.Exit<unknown, unknown>): string {
    if (exit._tag === "Success") return exit.value instanceof Answer ? exit.value.status : "ok"
    if (Cause.hasInterruptsOnly(exit.cause)) return "interrupted"
    const failure = onlyFailure(exit.cause)
    if (failure === undefined) return "crashed"
    if (name === "channels.join") return failure.error instanceof Error ? "crashed" : "refused"
    return this.isAnswer(failure.error) ? "error" : "crashed"
  }

  /** Whether what a handler has failed with is for the client, and no crash. */
  protected abstract isAnswer(error: unknown): boolean
}
