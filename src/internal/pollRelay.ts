import { Effect, Fiber, Schema } from "effect"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Process from "../Process.ts"
import type { Frame } from "../Serializer.ts"
import type { Polled, PollPeer, PollSession, Published } from "./pollSession.ts"
import type { Runtime } from "./socket.ts"

/** A token that cannot be guessed. */
export const randomId = (): string => Buffer.from(SecureRandom.randomBytesUnsafe(16)).toString("base64url")

const Frames = Schema.Array(Schema.Union([Schema.String, Schema.Uint8Array]))

/** From the node that has the request to the one that has the session. */
const Ask = Schema.Struct({
  ask: Schema.Literals(["alive", "poll", "publish", "cancel", "stop"]),
  id: Schema.String,
  from: Schema.String,
  session: Schema.String,
  frames: Frames
})
type Ask = typeof Ask.Type

/** And back. */
const Answer = Schema.Struct({
  answer: Schema.String,
  from: Schema.String,
  session: Schema.String,
  status: Schema.Literals([200, 204, 408, 410]),
  messages: Schema.Array(Schema.String)
})
type Answer = typeof Answer.Type

const isAsk = Schema.is(Ask)
const isAnswer = Schema.is(Answer)

interface Asked {
  readonly what: Ask["ask"]
  readonly settle: (answer: Answer) => void
  readonly cancel: () => void
}

/** Milliseconds. */
export interface RelayTimes {
  readonly window: number
  readonly pubsubTimeout: number
}

/** Lets requests reach sessions on other nodes. All messages of a socket go over one topic, to one node at a time. */
export class PollRelay {
  private readonly runtime: Runtime
  private readonly topic: string
  private readonly times: RelayTimes
  private readonly find: (session: string) => PollSession | undefined
  private readonly fork: (effect: Effect.Effect<void>) => Fiber.Fiber<void>
  /** What this node has asked, and what it is asked. */
  private readonly asked = new Map<string, Asked>()
  private readonly work = new Map<string, Fiber.Fiber<void>>()

  constructor(
    runtime: Runtime,
    topic: string,
    times: RelayTimes,
    find: (session: string) => PollSession | undefined
  ) {
    this.runtime = runtime
    this.topic = topic
    this.times = times
    this.find = find
    this.fork = Effect.runForkWith(runtime.context)
  }

  /** Takes part, until the scope closes. */
  get listen() {
    const { pubsub, socketGroup } = this.runtime
    const subscriber = {
      pid: Process.toPid(socketGroup.process),
      deliver: (message: unknown) => {
        if (isAnswer(message)) this.settle(message)
        else if (isAsk(message)) this.serve(message)
      }
    }
    return Effect.acquireRelease(pubsub.subscribe(this.topic, subscriber), pubsub.unsubscribe)
  }

  private settle(answer: Answer): void {
    const asked = this.asked.get(answer.answer)
    if (asked !== undefined) return asked.settle(answer)
    if (answer.messages.length === 0) return
    // The request was over before: its frames are lost, which the client must not miss.
    const stop: Ask = { ask: "stop", id: answer.answer, from: this.node, session: answer.session, frames: [] }
    this.fork(Effect.asVoid(this.send(answer.from, stop)))
  }

  private get node(): string {
    return this.runtime.pubsub.node
  }

  /** A session on another node, if it is there. */
  reach(node: string, session: string): Effect.Effect<PollPeer | undefined> {
    const { pubsubTimeout, window } = this.times
    const ask = (ask: Ask["ask"], frames: ReadonlyArray<Frame>, timeout: number) =>
      Effect.suspend(() => this.ask(node, { ask, id: randomId(), from: this.node, session, frames }, timeout))
    const peer: PollPeer = {
      // Its own node says so.
      crowded: false,
      poll: Effect.map(
        ask("poll", [], window + pubsubTimeout),
        (answer): Polled =>
          answer === undefined || answer.status === 408
            ? { status: 410, messages: [] }
            : { status: answer.status, messages: answer.messages }
      ),
      // The longest that a post waits which has nothing but its own last frame to wait for.
      publish: (frames) =>
        Effect.map(
          ask("publish", frames, 2 * window + pubsubTimeout),
          (answer): Published => answer === undefined || answer.status === 204 ? 408 : answer.status
        )
    }
    return Effect.map(ask("alive", [], pubsubTimeout), (answer) => answer?.status === 200 ? peer : undefined)
  }

  /** This node is about to go: polls that wait here come back, and their clients go on elsewhere. */
  release(): void {
    for (const [id, { cancel, settle, what }] of this.asked) {
      if (what !== "poll") continue
      cancel()
      settle({ answer: id, from: this.node, session: "", status: 204, messages: [] })
    }
  }

  /** Asks another node; undefined when no answer has come in time. */
  private ask(node: string, message: Ask, timeout: number): Effect.Effect<Answer | undefined> {
    const { timers } = this.runtime.system
    const answer = Effect.callback<Answer | undefined>((resume) => {
      const timer = timers.after(timeout, () => {
        cancel()
        resume(Effect.undefined)
      })
      const settle = (answer: Answer | undefined) => {
        timers.cancel(timer)
        resume(Effect.succeed(answer))
      }
      const cancel = () => void this.fork(Effect.asVoid(this.send(node, { ...message, ask: "cancel", frames: [] })))
      this.asked.set(message.id, { what: message.ask, settle, cancel })
      this.fork(Effect.map(this.send(node, message), (sent) => sent ? undefined : settle(undefined)))
      return Effect.sync(() => {
        timers.cancel(timer)
        cancel()
      })
    })
    return Effect.ensuring(answer, Effect.sync(() => this.asked.delete(message.id)))
  }

  /** False when it could not be handed over, which is logged. */
  private send(node: string, message: Ask | Answer): Effect.Effect<boolean> {
    return this.runtime.pubsub.directBroadcast(node, this.topic, message).pipe(
      Effect.as(true),
      Effect.catch((error) =>
        Effect.logError("a long-poll session on another node is out of reach", error).pipe(
          Effect.annotateLogs({ socket: this.runtime.name, node }),
          Effect.as(false)
        )
      )
    )
  }

  private serve(message: Ask): void {
    const { from, id } = message
    const session = this.find(message.session)
    // Two mounts of a socket hear the same; the one that has the session answers.
    if (session === undefined) return
    if (message.ask === "cancel") return this.work.get(id)?.interruptUnsafe()
    if (message.ask === "stop") return session.stop("out_of_reach")
    const answer = (status: Answer["status"], messages: ReadonlyArray<string> = []) =>
      Effect.map(
        this.send(from, { answer: id, from: this.node, session: message.session, status, messages }),
        (sent) => {
          // Its frames are lost, which the client must not miss.
          if (!sent && messages.length > 0) session.stop("out_of_reach")
        }
      )
    const work = message.ask === "alive"
      ? answer(200)
      : message.ask === "publish"
      ? Effect.flatMap(session.publish(message.frames), (status) => answer(status))
      : Effect.flatMap(session.poll, ({ messages, status }) => answer(status, messages))
    const fiber = this.fork(work)
    if (fiber.pollUnsafe() !== undefined) return
    this.work.set(id, fiber)
    fiber.addObserver(() => void this.work.delete(id))
  }
}
