import { Cause, Context, Effect, Exit, type LogLevel, type Tracer } from "effect"
import type * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type * as PubSub from "../PubSub.ts"
import { FilterParameters } from "../Telemetry.ts"
import { about, ConnectionEnded, Incoming, JoinRequest } from "./channelMessage.ts"
import { onlyFailure } from "./contract.ts"
import { filterParameters, formatDuration } from "./filterParameters.ts"
import type { ChannelMeter } from "./meter.ts"
import * as process from "./process.ts"
import { Answer, type Outlet } from "./reply.ts"
import { isLogged, type Level, report } from "./report.ts"
import { inSpan } from "./tracing.ts"
import { brief } from "./untrusted.ts"

/** What a channel needs of the connection it belongs to. */
export interface Connection extends Outlet {
  readonly pid: Process.Pid<unknown>
  readonly id: string | undefined
  readonly pubsub: PubSub.PubSub["Service"]
  /** Whether spans are made, and the one they belong to. */
  readonly traced: boolean
  readonly span: Tracer.AnySpan | undefined
  /** The channel ends as it wants to: the client is told before `terminate` runs. */
  readonly channelClosing: (channel: Served) => void
  readonly channelEnded: (channel: Served) => void
  /** Nothing more is read from the client, until every channel that has asked for it lets it go on. */
  readonly suspend: () => void
  readonly resume: () => void
  /** A message that was dropped, because newer ones have filled the mailbox. */
  readonly denied: (message: Message.Inbound) => void
  /** The client sends more than the channel can take, and is to go. */
  readonly overrun: (channel: Served) => void
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
  readonly open: (place: Place, message: Message.Inbound, topic: string) => Served
}

/** See `Channel.MailboxOptions`. */
export interface Mailbox {
  readonly capacity: number
  readonly whenFull: "suspend" | "dropOldest" | "disconnect"
}

/** What ends something is never dropped. */
const isLeave = (message: Message.Inbound): boolean => message.event === "phx_leave"

const mayBeDropped = (message: unknown): boolean => message instanceof Incoming && !isLeave(message.message)

/** What the Layer of a channel says about each of its processes. */
export interface Settings {
  readonly processOptions: process.Options
  readonly mailbox: Mailbox
  readonly logJoin: Level
}

/** The process of a channel, whatever it does: how it joins, how it is counted, and how it ends. */
export abstract class Served implements process.Behaviour, process.Subject {
  readonly definition: Definition
  readonly connection: Connection
  readonly topic: string
  readonly joinRef: Message.Ref
  readonly process: process.Process
  joined = false
  private refused = false
  /** How many messages of the client are in the mailbox. */
  private waiting = 0
  /** The mailbox is full of them: the connection waits for it. */
  private suspending = false
  protected readonly meter: ChannelMeter
  /** When the message in hand, or the join, was begun: nanoseconds. */
  protected startedAt = 0
  protected abstract readonly settings: Settings
  protected abstract readonly handlers: process.SignalHandlers
  private joinDone: ((exit: Exit.Exit<unknown, unknown>) => void) | undefined = undefined

  constructor(
    definition: Definition,
    { processOptions }: Settings,
    { connection, context, meter, parent, system }: Place,
    message: Message.Inbound,
    topic: string
  ) {
    this.definition = definition
    this.connection = connection
    this.meter = meter
    this.topic = topic
    this.joinRef = message.joinRef
    this.process = new process.Process(system, parent, context, this, processOptions)
  }

  get label(): string {
    return `channel ${brief(this.topic)}`
  }

  annotate(message: unknown): Record<string, unknown> {
    return { topic: brief(this.topic), ...about(message) }
  }

  abstract handle(message: unknown): Effect.Effect<unknown, unknown>

  get pid(): Process.Pid<unknown> {
    return Process.toPid(this.process)
  }

  get socketId(): string | undefined {
    return this.connection.id
  }

  /** Has the process join; `done` is called before anything else of the channel can reach the client. */
  start(payload: unknown, done: (exit: Exit.Exit<unknown, unknown>) => void): void {
    this.joinDone = done
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

  /** A message of the client. */
  receive(message: Message.Inbound): void {
    this.meter.messagesIn++
    const incoming = new Incoming(message)
    if (this.waiting >= this.settings.mailbox.capacity && !isLeave(message)) this.full(incoming)
    else this.take(incoming)
  }

  private take(incoming: Incoming): void {
    this.waiting++
    this.process.push(incoming)
  }

  private full(incoming: Incoming): void {
    const { whenFull } = this.settings.mailbox
    if (whenFull === "disconnect") return this.connection.overrun(this)
    const dropped = whenFull === "dropOldest" ? this.process.pushInPlace(incoming, mayBeDropped) : undefined
    if (dropped instanceof Incoming) return this.connection.denied(dropped.message)
    this.take(incoming)
    if (this.suspending || whenFull === "dropOldest") return
    this.suspending = true
    this.connection.suspend()
  }

  /** A message of the client has left the mailbox. */
  protected taken(): void {
    this.waiting--
    if (!this.suspending || this.waiting > this.settings.mailbox.capacity / 2) return
    this.suspending = false
    this.connection.resume()
  }

  handleDown(down: process.Down): Effect.Effect<unknown, unknown> {
    return this.handlers.handleDown?.(down) ?? this.handle(down)
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
    if (this.suspending) this.connection.resume()
    this.connection.channelEnded(this)
  }

  private answerJoin(exit: Exit.Exit<unknown, unknown>): void {
    const done = this.joinDone
    this.joinDone = undefined
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
      () => Effect.suspend(effect)
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
