/** Connections without a network, whose frames, pauses and close codes a test sees. */
import { type Cause, Context, Effect, Layer, Logger, References } from "effect"
import * as ChannelTest from "../../src/ChannelTest.ts"
import type * as Process from "../../src/Process.ts"
import type * as PubSub from "../../src/PubSub.ts"
import * as Serializer from "../../src/Serializer.ts"
import * as Socket from "../../src/Socket.ts"

/** A line of the log. */
export interface Line {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
  readonly cause: Cause.Cause<unknown>
}

export type Serve = Effect.Success<ReturnType<typeof Socket.acceptor>>

/** A client of a node: sends frames, and has those that it is sent. */
export class Peer {
  readonly received: Array<unknown> = []
  readonly pauses: Array<"pause" | "resume"> = []
  readonly codes: Array<number> = []
  readonly server: ReturnType<Serve["open"]>

  constructor(acceptor: Serve, id: string | undefined, serializer: Serializer.Serializer) {
    this.server = acceptor.open(
      {
        name: "test",
        send: (frame) => void this.received.push(typeof frame === "string" ? JSON.parse(frame) : frame),
        pause: () => void this.pauses.push("pause"),
        resume: () => void this.pauses.push("resume"),
        close: (code) => void this.codes.push(code)
      },
      serializer,
      { id, assigns: Context.empty() }
    )
  }

  /** Sends a frame without waiting for what it brings about. */
  write(...frame: ReadonlyArray<unknown>): void {
    this.server.receive(JSON.stringify(frame))
  }

  /** Sends a frame, if one is given, and returns what has come since the last time. */
  send(...frame: ReadonlyArray<unknown>) {
    return Effect.suspend(() => {
      if (frame.length > 0) this.write(...frame)
      return Effect.map(ChannelTest.settle, () => this.received.splice(0))
    })
  }
}

/** A node with a socket for the channels of a layer: connections to it, and its log. */
export const node = <const Channels extends ReadonlyArray<Socket.AnyChannel>, E>(
  options: Socket.Options<Channels>,
  channels: Layer.Layer<Socket.ChannelHandlers<Channels>, E>,
  pubsub: Layer.Layer<PubSub.PubSub | Process.System> = ChannelTest.layer
) => {
  const lines: Array<Line> = []
  const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    lines.push({ level: logLevel, text, annotations: { ...fiber.getRef(References.CurrentLogAnnotations) }, cause })
  })
  const socket = Socket.make("test_socket", options)
  const layer = Layer.mergeAll(channels, socket.layer(() => Effect.succeed(Socket.accept()))).pipe(
    Layer.provideMerge(pubsub),
    Layer.provideMerge(Logger.layer([logger]))
  )
  /** Lines but those about joins. */
  const warnings = () => lines.filter(({ level }) => level === "Warn" || level === "Error")
  return { acceptor: Socket.acceptor(socket), layer, lines, warnings }
}

export const open = (acceptor: Serve, id?: string, serializer: Serializer.Serializer = Serializer.v2) =>
  Effect.sync(() => new Peer(acceptor, id, serializer))

export const ok = (joinRef: unknown, ref: unknown, topic: unknown, response: unknown = {}) => [
  joinRef,
  ref,
  topic,
  "phx_reply",
  { status: "ok", response }
]

export const failed = (joinRef: unknown, ref: unknown, topic: unknown, reason: string) => [
  joinRef,
  ref,
  topic,
  "phx_reply",
  { status: "error", response: { reason } }
]
