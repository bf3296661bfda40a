import * as library from "ws"
import type { Backlogs } from "./backlog.ts"
import type { Rate } from "./limits.ts"
import type { TransportMeter } from "./meter.ts"
import { Outgoing, type Post } from "./outbox.ts"
import type { System } from "./process.ts"
import { isKnown } from "./receiver.ts"
import type { Runtime } from "./socket.ts"
import type { Timers } from "./timers.ts"
import { brief } from "./untrusted.ts"
import type { WireOptions } from "./wireOptions.ts"

/** A connection that has reached a limit. */
interface Limited {
  readonly server: { readonly id: string | undefined } | undefined
  /** Bytes that wait for its client. */
  readonly waiting: number
}

/** State and limits that all connections of a mount have in common. */
export interface Port extends Post {
  readonly system: System
  /** Milliseconds of silence after which a connection is closed. */
  readonly timeout: number
  /** From how many bytes on a frame is compressed. */
  readonly compressFrom: number
  /** Up to so many bytes may wait for a client, whatever it does. */
  readonly free: number
  /** Limits the bytes that may wait for clients besides. */
  readonly backlogs: Backlogs
  /** The most bytes that a compressed message may be inflated to. */
  readonly maxInflated: number
  /** Limits the bytes that the compressed messages of one connection may be inflated to. */
  readonly inflateRate: Rate | undefined
  /** Limits the bytes of all messages of one connection. */
  readonly byteRate: Rate | undefined
  /** For messages that take long to parse: there is one of them in a turn of the event loop, whoever has sent it. */
  readonly turn: LargeTurn
  /** Told of a connection whose frames `ws` reads by itself, as it is not made as is known here. */
  readonly unknownWs: () => void
  /** Told of a limit that a client has reached. */
  readonly reached: (limit: WireLimit, wire: Limited) => void
}

/** A turn of the event loop, which may be taken. */
class LargeTurn {
  private readonly timers: Timers
  isTaken = false

  constructor(timers: Timers) {
    this.timers = timers
  }

  take(): void {
    if (this.isTaken) return
    this.isTaken = true
    this.timers.after(0, () => this.isTaken = false)
  }
}

/** Limits of a connection, by their label in metrics. */
export type WireLimit = Extract<
  keyof TransportMeter["limited"],
  "stalled" | "backlog" | "total_backlog" | "inflated" | "inflate_rate" | "byte_rate"
>

/** Log lines of the limits: what has happened, and what to do. */
const lines: Readonly<
  Record<WireLimit, (options: WireOptions) => readonly [string, Readonly<Record<string, unknown>>]>
> = {
  stalled: ({ maxBufferedBytes, stallTimeout }) => [
    "a client has taken nothing of what it is sent for stallTimeout: its connection is closed with 1013; look at its network",
    { maxBufferedBytes, stallTimeout }
  ],
  backlog: ({ maxBacklogBytes }) => [
    "a client reads more slowly than it is sent: its connection is closed with 1013; send it less, or raise maxBacklogBytes",
    { maxBacklogBytes }
  ],
  total_backlog: ({ maxTotalBacklogBytes }) => [
    "too much waits for the slow clients of a mount: one is closed with 1013; send less, or raise maxTotalBacklogBytes",
    { maxTotalBacklogBytes }
  ],
  inflated: ({ maxMessageSize }) => [
    "a client sends a compressed message that is too large: it is closed with 1009; raise compress.maxMessageSize to take it",
    { maxMessageSize }
  ],
  inflate_rate: ({ inflateRate }) => [
    "a client sends compressed messages faster than it may: it is not read for a while; compress.rate sets how fast",
    { ...inflateRate }
  ],
  byte_rate: ({ byteRate }) => [
    "a client sends more bytes than it may: it is not read for a while; maxByteRate sets how many",
    { ...byteRate }
  ]
}

/** Tells whether the installed `ws` makes readers that are known here. */
export const isKnownWs = (ws: object = library): boolean => {
  try {
    return "Receiver" in ws && typeof ws.Receiver === "function" && isKnown(Reflect.construct(ws.Receiver, []))
  } catch {
    return false
  }
}

const unknownWs =
  "the package ws is not made as this library knows it: its frames are read more slowly, compress.rate, maxByteRate for pings and the parts of messages do not hold; install the version of ws that this library is tested with"

/**
 * Makes the port that the connections of a mount share.
 *
 * @param isKnownWell - whether `ws` is made as this library knows it, which is said now and not when somebody attacks
 */
export const portOf = (
  system: System,
  { complaints, meter, name }: Runtime,
  options: WireOptions,
  isKnownWell = isKnownWs()
): Port => {
  const transport = meter.transport("websocket")
  let isSaid = false
  const sayUnknown = () => {
    if (!isSaid) complaints.say("Warn", unknownWs, { socket: name, transport: "websocket" })
    isSaid = true
  }
  if (!isKnownWell) sayUnknown()
  return {
    unknownWs: sayUnknown,
    system,
    outgoing: new Outgoing(system),
    meter: transport,
    timeout: options.timeout,
    compressFrom: options.compress ? options.threshold : Infinity,
    free: options.maxBufferedBytes,
    backlogs: {
      limits: {
        free: options.maxBufferedBytes,
        stall: options.stallTimeout,
        hard: options.maxBacklogBytes,
        total: options.maxTotalBacklogBytes
      },
      timers: system.timers,
      bytes: 0
    },
    turn: new LargeTurn(system.timers),
    maxInflated: Math.min(options.maxMessageSize, options.maxFrameSize),
    inflateRate: options.inflateRate,
    byteRate: options.byteRate,
    reached: (limit, { server, waiting }) => {
      transport.limited[limit]++
      const [line, numbers] = lines[limit](options)
      const about = {
        socket: name,
        ...server?.id === undefined ? {} : { id: brief(server.id) },
        transport: "websocket",
        waiting,
        ...numbers
      }
      complaints.say("Warn", line, about)
    }
  }
}
