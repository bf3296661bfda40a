import { type Context, Effect, Exit, Result } from "effect"
import type * as Message from "../Message.ts"
import * as Process from "../Process.ts"
import type { JoinRequest } from "./channelMessage.ts"
import { onlyFailure } from "./contract.ts"
import type * as process from "./process.ts"
import { type Definition, type Place, Served, type Settings as ServedSettings } from "./served.ts"

/** The erased form of `Channel.CustomHandlers`. */
export interface Handlers extends process.SignalHandlers {
  readonly reply?: unknown
  readonly handleIn: (message: Message.Inbound) => Effect.Effect<unknown, unknown>
  readonly handleInfo?: (message: unknown) => Effect.Effect<unknown, unknown>
  readonly terminate?: (reason: process.ExitReason) => Effect.Effect<unknown, unknown>
}

/** What is the same for all channels of a definition. */
export interface Settings extends ServedSettings {
  readonly init: (self: CustomServer, payload: unknown) => Effect.Effect<Handlers, unknown>
}

/** The definition of a channel that is a {@link CustomServer}. */
export const define = (pattern: string, context: Context.Context<never>, settings: Settings): Definition => {
  const definition: Definition = {
    pattern,
    context,
    pubsubTopicOf: (topic) => topic,
    open: (place, message, topic) => new CustomServer(definition, settings, place, message, topic)
  }
  return definition
}

/** The process of a channel that speaks the protocol by itself; also what its code is given as the channel. */
export class CustomServer extends Served {
  protected readonly settings: Settings
  protected handlers: Handlers = { handleIn: () => Effect.void }
  private closing = false

  constructor(definition: Definition, settings: Settings, place: Place, message: Message.Inbound, topic: string) {
    super(definition, settings, place, message, topic)
    this.settings = settings
  }

  protected onJoin(payload: unknown): Effect.Effect<unknown, unknown> {
    return this.settings.init(this, payload)
  }

  protected onJoined(request: JoinRequest, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    if (exit._tag === "Success") {
      this.handlers = exit.value as Handlers
      this.accept(request, this.handlers.reply ?? {})
      if (this.closing) this.tellClosing()
      return exit
    }
    const failure = onlyFailure(exit.cause)
    if (failure === undefined) return exit
    // An error of the application, a database's say, is nothing to tell a client.
    if (failure.error instanceof Error) return Exit.die(failure.error)
    this.refuse(request, exit)
    return Exit.void
  }

  protected onMessage(message: Message.Inbound): Effect.Effect<unknown, unknown> {
    this.startedAt = this.process.system.nanos
    return this.traced("channels.handle_in", message.event, () => this.handlers.handleIn(message))
  }

  protected onHandled(_message: Message.Inbound, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    this.meter.handleInDuration.observe((this.process.system.nanos - this.startedAt) / 1e6)
    return exit
  }

  protected onInfo(message: unknown): Effect.Effect<unknown, unknown> {
    return this.handlers.handleInfo === undefined ? Effect.void : this.handlers.handleInfo(message)
  }

  protected isAnswer(): boolean {
    return false
  }

  terminate(reason: process.ExitReason): Effect.Effect<unknown, unknown> {
    return this.handlers.terminate === undefined ? Effect.void : this.handlers.terminate(reason)
  }

  // --- what user code is given --------------------------------------------------------------------------------------

  send(message: Message.Message | Message.Reply): Effect.Effect<void> {
    return Effect.sync(() => {
      const frame = Result.getOrThrow(this.connection.serializer.encode(message))
      if (message._tag === "Reply") this.meter.replies++
      else this.meter.pushes++
      this.connection.transport.send(frame)
    })
  }

  get close(): Effect.Effect<void> {
    return Effect.sync(() => {
      this.closing = true
      // Who wants to end during the join does so after the reply.
      if (this.joined) this.tellClosing()
    })
  }

  /** From here on the connection does not know the channel, which must not outlive it where it does not end. */
  private tellClosing(): void {
    this.connection.channelClosing(this)
    Process.fromPid(this.connection.pid).watch(this, { ended: (_, reason) => this.connectionEnded(reason) })
  }

  override ended(reason: process.ExitReason): void {
    Process.fromPid(this.connection.pid).unwatch(this)
    super.ended(reason)
  }
}
