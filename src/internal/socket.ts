import { Cause, Context, Effect, type Exit, Result, type Tracer } from "effect"
import * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type * as PubSub from "../PubSub.ts"
import { DecodeError, type Frame, type Serializer } from "../Serializer.ts"
import { ByTopic } from "./byTopic.ts"
import { matches, onlyFailure } from "./contract.ts"
import type { Group } from "./group.ts"
import { type Complaints, type Rate, TokenBucket } from "./limits.ts"
import type { ChannelMeter, SocketMeter, TransportMeter } from "./meter.ts"
import * as process from "./process.ts"
import type { FrameSink } from "./reply.ts"
import type { Connection, Definition, Served } from "./served.ts"
import { brief } from "./untrusted.ts"

/** The wire under a socket: a WebSocket, a long-poll session, a test. */
export interface Transport extends FrameSink {
  readonly name: string
  /** Brings no more frames until it is resumed, as far as it can. */
  readonly pause?: () => void
  readonly resume?: () => void
  /** The socket has ended; harmless when the wire is gone already. */
  readonly close: (code: number) => void
}

/** Everything that the sockets of one mount share. */
export interface Runtime {
  readonly name: string
  readonly routes: ReadonlyArray<Route>
  readonly maxChannels: number
  readonly maxJoinRate: Rate | undefined
  readonly maxMessageRate: Rate | undefined
  readonly complaints: Complaints
  /** How many connections there are from each address, where that is limited. */
  readonly addresses: Map<string, number>
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
  /** Where it comes from, if that is limited. */
  readonly address?: string | undefined
  /** The span of the connect, to which those of joins and messages belong. */
  readonly span?: Tracer.AnySpan | undefined
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

const codes: ReadonlyMap<unknown, number> = new Map([
  ["disconnected", 1001],
  ["read_timeout", 1002],
  ["mailbox_full", 1008],
  ["buffer_full", 1013]
])

/** How many frames may wait for the process of a connection, while a join holds it up. */
const maxWaiting = 1000

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

/** The process of one connection (Phoenix.Socket): decodes what comes in and hands it to the channels. */
export class SocketServer implements process.Behaviour, process.Subject, Connection {
  readonly id: string | undefined
  readonly serializer: Serializer
  readonly process: process.Process
  readonly runtime: Runtime
  readonly transport: Transport
  readonly meter: TransportMeter
  readonly span: Tracer.AnySpan | undefined
  private readonly assigns: Context.Context<never>
  private readonly address: string | undefined
  private readonly joined = new ByTopic<Served>()
  private joining: Served | undefined = undefined
  private readonly messages: TokenBucket | undefined
  private readonly joins: TokenBucket | undefined
  /** How many have asked that nothing more be read. */
  private suspensions = 0
  /** It has done so itself: too many frames wait. */
  private crowded = false
  /** Why the wire is gone. */
  private gone: process.ExitReason | undefined = undefined

  constructor(runtime: Runtime, transport: Transport, serializer: Serializer, client: Client) {
    this.runtime = runtime
    this.transport = transport
    this.serializer = serializer
    this.id = client.id
    this.assigns = client.assigns
    this.address = client.address
    this.countAddress(1)
    this.span = runtime.tracing ? client.span : undefined
    this.meter = runtime.meter.transport(transport.name)
    this.meter.connections++
    const { maxJoinRate, maxMessageRate, system: { clock } } = runtime
    this.joins = maxJoinRate && new TokenBucket(maxJoinRate, clock)
    this.messages = maxMessageRate && new TokenBucket(maxMessageRate, clock)
    this.process = new process.Process(runtime.system, runtime.socketGroup, runtime.context, this)
    if (client.id === undefined) this.process.begin(this)
    else {
      this.process.start(this.subscribe(client.id), (exit) => {
        if (exit._tag === "Failure") this.notStarted(exit.cause)
      })
    }
  }

  get label(): string {
    return `socket ${this.id ?? this.runtime.name}`
  }

  get pid(): Process.Pid<unknown> {
    return Process.toPid(this.process)
  }

  get pubsub(): PubSub.PubSub["Service"] {
    return this.runtime.pubsub
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

  /** A frame has come in. */
  receive(data: Frame): void {
    this.process.push(data)
    if (this.crowded || this.process.mailboxLength < maxWaiting) return
    this.crowded = true
    this.suspend()
  }

  /** The wire is gone; what came over it before is still handled, unless a join or the start holds it up. */
  closed(reason: process.ExitReason): void {
    this.gone ??= reason
    const started = this.process.behaviour === this
    if (started && this.joining === undefined) this.process.push(new WireClosed(reason))
    else this.process.signal(reason)
  }

  /** A process that has not started does not tell anybody that it has ended, nor why. */
  private notStarted(cause: Cause.Cause<unknown>): void {
    const reason = Cause.hasInterruptsOnly(cause) ? this.process.reason ?? process.killed : process.crash(cause)
    if (reason._tag === "Crash") {
      const crash = Effect.logError("process crashed", cause).pipe(
        Effect.annotateLogs({ process: this.process.label })
      )
      Effect.runForkWith(this.runtime.context)(crash)
    }
    this.ended(reason)
  }

  private subscribe(id: string): Effect.Effect<this> {
    const deliver = (message: unknown) => {
      if (isDisconnect(message)) this.process.signal(process.shutdown("disconnected"))
    }
    return Effect.mapEager(this.runtime.pubsub.subscribeUnsafe(id, { pid: this.pid, deliver }), () => this)
  }

  // --- the mailbox --------------------------------------------------------------------------------------------------

  handle(message: unknown): Effect.Effect<unknown, unknown> {
    if (this.crowded && this.process.mailboxLength <= maxWaiting / 2) {
      this.crowded = false
      this.resume()
    }
    if (message instanceof ChannelDown) return this.channelDown(message.channel)
    if (message instanceof WireClosed) {
      this.process.stop(message.reason)
      return Effect.void
    }
    if (typeof message !== "string" && !(message instanceof Uint8Array)) return Effect.void
    const decoded = this.serializer.decode(message, typeof message === "string" ? "text" : "binary")
    return Result.isFailure(decoded) ? this.malformed(decoded.failure) : this.dispatch(decoded.success)
  }

  /** What is no message ends the connection. The line in the log says why, and nothing of what was sent. */
  private malformed({ code, message }: DecodeError): Effect.Effect<void> {
    this.meter.malformed++
    this.process.stop(process.crash(Cause.die(new DecodeError({ code, message }))))
    return Effect.logError(`malformed frame: ${message}`).pipe(
      Effect.annotateLogs({ process: this.process.label, code })
    )
  }

  private dispatch(message: Message.Inbound): Effect.Effect<unknown, unknown> {
    const { event, topic } = message
    if (topic === "phoenix" && event === "heartbeat") return this.reply(message, null, "ok", {})
    // What ends something is let through.
    if (event !== "phx_leave" && this.messages?.take() === false) return this.deny(message, "messages")
    if (event === "phx_join" && this.joins?.take() === false) return this.deny(message, "joins")
    if (typeof topic === "string") {
      const channel = this.joined.get(topic)
      if (channel !== undefined) {
        if (event === "phx_join") return this.rejoin(channel, message, topic)
        // What is left over from an earlier join of the topic is dropped without a word.
        if (message.joinRef === null || sameRef(message.joinRef, channel.joinRef)) {
          channel.receive(message)
        }
        return Effect.void
      }
      if (event === "phx_join") return this.join(message, topic, undefined)
    }
    if (event === "phx_leave") return this.reply(message, message.joinRef, "ok", {})
    return this.unmatched(message)
  }

  private unmatched(message: Message.Inbound): Effect.Effect<void> {
    return this.reply(message, null, "error", { reason: "unmatched topic" })
  }

  private reply(to: Message.Inbound, joinRef: Message.Ref, status: string, payload: unknown): Effect.Effect<void> {
    this.sendReply(to, joinRef, status, payload)
    return Effect.void
  }

  // --- joining ------------------------------------------------------------------------------------------------------

  /** Starts the channel; no other frame is looked at until its join is done. */
  private join(message: Message.Inbound, topic: string, replaced: Served | undefined): Effect.Effect<unknown> {
    const { runtime } = this
    const route = runtime.routes.find(({ definition }) => matches(definition.pattern, topic))
    if (route === undefined) {
      return Effect.andThen(
        Effect.logWarning("join of a topic that no channel serves").pipe(
          Effect.annotateLogs({ socket: runtime.name, topic: brief(topic) })
        ),
        this.unmatched(message)
      )
    }
    if (this.joined.size >= runtime.maxChannels) {
      this.meter.limited.channels++
      this.sendReply(message, message.joinRef, "error", { reason: "too many channels joined" })
      return Effect.logError("too many channels joined").pipe(
        Effect.annotateLogs({ socket: runtime.name, topic: brief(topic), limit: runtime.maxChannels })
      )
    }
    const { definition, meter } = route
    const context = withServices(definition.context, this.assigns)
    const place = { connection: this, system: runtime.system, parent: runtime.channelGroup, context, meter }
    const channel = definition.open(place, message, topic)
    this.joining = channel
    let resume: ((effect: Effect.Effect<void>) => void) | undefined
    channel.start(message.payload, (exit) => {
      this.joining = undefined
      try {
        this.afterJoin(channel, message, exit)
      } finally {
        resume?.(Effect.void)
        // The client hears of the end of the channel it has replaced after it has the reply of the new one.
        if (replaced !== undefined) this.sendClose(replaced)
      }
    })
    if (this.joining === undefined) return Effect.void
    // Nobody waits for it any more.
    if (this.gone !== undefined) this.process.signal(this.gone)
    return Effect.callback((callback) => {
      if (this.joining === undefined) callback(Effect.void)
      else resume = callback
    })
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
  private rejoin(old: Served, message: Message.Inbound, topic: string): Effect.Effect<unknown> {
    // What the client sent before it is handled before, as far as the channel is not busy: a leave, say.
    old.process.run()
    if (!this.joined.remove(old)) return this.join(message, topic, undefined)
    return Effect.logDebug("duplicate join, closing the existing channel").pipe(
      Effect.annotateLogs({ socket: this.runtime.name, topic: brief(topic) }),
      Effect.andThen(Process.shutdownChild(old.process, process.shutdown("duplicate_join"))),
      Effect.andThen(Effect.suspend(() => this.join(message, topic, old)))
    )
  }

  // --- what channels say --------------------------------------------------------------------------------------------

  suspend(): void {
    if (this.suspensions++ === 0) this.transport.pause?.()
  }

  resume(): void {
    if (--this.suspensions === 0) this.transport.resume?.()
  }

  denied(message: Message.Inbound): void {
    this.deny(message, "mailbox")
  }

  overrun(channel: Served): void {
    this.meter.limited.mailbox++
    this.complain("a client sends more than a channel can take: its connection is closed", channel.topic)
    this.closed(process.shutdown("mailbox_full"))
  }

  private deny(message: Message.Inbound, limit: "joins" | "messages" | "mailbox"): Effect.Effect<void> {
    this.meter.limited[limit]++
    const reason = limit === "joins" ? "too many joins" : "too many messages"
    this.complain(`a client is denied: ${reason}`, message.topic)
    return this.reply(message, message.joinRef, "error", { reason })
  }

  private countAddress(by: 1 | -1): void {
    if (this.address === undefined) return
    const { addresses } = this.runtime
    const count = (addresses.get(this.address) ?? 0) + by
    if (count > 0) addresses.set(this.address, count)
    else addresses.delete(this.address)
  }

  private complain(line: string, topic: unknown): void {
    this.runtime.complaints.say("Warn", line, { socket: this.runtime.name, id: this.id, topic: brief(topic) })
  }

  channelClosing(channel: Served): void {
    if (this.joined.remove(channel)) this.sendClose(channel)
  }

  /** Handled after the frames that are in the mailbox: they were meant for the channel as it was. */
  channelEnded(channel: Served): void {
    this.process.push(new ChannelDown(channel))
  }

  private channelDown(channel: Served): Effect.Effect<void> {
    if (this.joined.remove(channel)) this.sendMessage(channel, "phx_error", { reason: "channel_crash" })
    return Effect.void
  }

  /** The process has ended: the wire is closed, the channels are told. */
  ended(reason: process.ExitReason): void {
    this.meter.connections--
    this.countAddress(-1)
    this.transport.close(closeCode(reason))
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
    const reply = Message.reply(joinRef, to.ref, to.topic, status, payload)
    this.transport.send(Result.getOrThrow(this.serializer.encode(reply)))
  }
}

const isDisconnect = (message: unknown): boolean =>
  typeof message === "object" && message !== null && "event" in message && message.event === "disconnect"

const sameRef = (a: Message.Ref, b: Message.Ref): boolean =>
  a === b || (typeof a === "object" && typeof b === "object" && JSON.stringify(a) === JSON.stringify(b))

/** Adds services one by one, which keeps what fibers have cached for the base. */
const withServices = (base: Context.Context<never>, services: Context.Context<never>): Context.Context<never> => {
  let context = base
  for (const [key, service] of services.mapUnsafe) context = Context.addUnsafe(context, key, service)
  return context
}
