import { type Clock, Context, Effect, type Fiber, type Scheduler } from "effect"
import * as Serializer from "../Serializer.ts"
import type * as Socket from "../Socket.ts"
import { type Process, Self, type System } from "./process.ts"
import type { Served } from "./served.ts"
import { type Client, SocketServer } from "./socket.ts"

/** A message as its client sees it. */
export interface Received {
  /** Of a message to this client alone; a V1 client is not told. */
  readonly joinRef: unknown
  readonly ref: unknown
  readonly topic: unknown
  readonly event: string
  readonly payload: unknown
  /** Of a binary reply; a text reply has it in its payload. */
  readonly status?: string
}

/** The client's side of a wire format. */
interface Format {
  readonly encode: (joinRef: string, ref: string, topic: string, event: string, payload: unknown) => Serializer.Frame
  readonly decode: (frame: Serializer.Frame) => Received
}

const utf8 = new TextEncoder()
const text = new TextDecoder()

const v1: Format = {
  encode: (join_ref, ref, topic, event, payload) => {
    if (payload instanceof Uint8Array) throw new TypeError("a V1 client has no binary frames")
    return JSON.stringify({ topic, event, payload, ref, join_ref })
  },
  decode: (frame) => {
    const { event, payload, ref, topic } = JSON.parse(String(frame))
    return { joinRef: null, ref, topic, event, payload }
  }
}

/** The fields that follow the kind of a binary frame. */
const binaryFields = [["joinRef", "topic", "event"], ["joinRef", "ref", "topic", "status"], ["topic", "event"]] as const

const v2: Format = {
  encode: (joinRef, ref, topic, event, payload) => {
    if (!(payload instanceof Uint8Array)) return JSON.stringify([joinRef, ref, topic, event, payload])
    const fields = [joinRef, ref, topic, event].map((field) => utf8.encode(field))
    const lengths = fields.map((field) => field.length)
    if (lengths.some((length) => length > 255)) throw new RangeError("a field of a binary frame has at most 255 bytes")
    return new Uint8Array(Buffer.concat([Uint8Array.of(0, ...lengths), ...fields, payload]))
  },
  decode: (frame) => {
    if (typeof frame === "string") {
      const [joinRef, ref, topic, event, payload] = JSON.parse(frame)
      return { joinRef, ref, topic, event, payload }
    }
    const names = binaryFields[frame[0] ?? -1] ?? []
    const fields: Record<string, string> = {}
    let offset = 1 + names.length
    names.forEach((name, index) => {
      const length = frame[1 + index] ?? 0
      fields[name] = text.decode(frame.subarray(offset, offset + length))
      offset += length
    })
    const { event = "phx_reply", joinRef, ref = null, status, topic } = fields
    const payload = frame.slice(offset)
    return { joinRef: joinRef || null, ref, topic, event, payload, ...(status === undefined ? {} : { status }) }
  }
}

/** A connected client. */
export class TestSocket {
  /** The id that the connection was given. */
  readonly id: string | undefined
  /** What has arrived and was not asserted yet, oldest first. */
  readonly received: Array<Received> = []
  /** The code with which the server has closed the connection. */
  closeCode: number | undefined = undefined
  /** @internal */
  readonly server: SocketServer
  /**
   * Every channel that was started for this client, by its join_ref; those that have ended too.
   *
   * @internal
   */
  readonly opened = new Map<unknown, Served>()
  /**
   * The join_refs of channels for which the connection has closed: they are not heard any more.
   *
   * @internal
   */
  readonly closed = new Set<unknown>()
  /**
   * Processes of this client whose crash the test knows of: it has asserted it, or was told.
   *
   * @internal
   */
  readonly excused = new Set<Process>()
  /**
   * The test has said that whatever crashes may.
   *
   * @internal
   */
  mayCrash = false
  /**
   * Messages that told the client of channels that ended as they should not, by their join_refs.
   *
   * @internal
   */
  readonly errors = new Map<unknown, Received>()
  private readonly format: Format
  private lastRef = 0

  /** @internal */
  constructor({ runtime }: Socket.Acceptor, serializer: Serializer.Serializer, client: Client) {
    this.id = client.id
    this.format = serializer === Serializer.v1 ? v1 : v2
    const routes = runtime.routes.map(({ definition, meter }) => ({
      definition: {
        ...definition,
        open: (...[place, message, topic]: Parameters<typeof definition.open>) => {
          const channel = definition.open(place, message, topic)
          this.opened.set(message.joinRef, channel)
          return channel
        }
      },
      meter
    }))
    const transport = {
      name: "test",
      send: (frame: Serializer.Frame) => this.receive(this.format.decode(frame)),
      close: (code: number) => {
        this.closeCode ??= code
      }
    }
    this.server = new SocketServer({ ...runtime, routes }, transport, serializer, client)
    const { scheduler } = runtime.system
    if (scheduler instanceof TrackingScheduler) scheduler.sockets.add(this)
  }

  /** @internal */
  nextRef(): string {
    return String(++this.lastRef)
  }

  /** @internal */
  send(joinRef: string, ref: string, topic: string, event: string, payload: unknown): void {
    this.server.receive(this.format.encode(joinRef, ref, topic, event, payload))
  }

  /** What is written to a closed connection goes nowhere. */
  private receive(received: Received): void {
    const joinRef = received.joinRef ?? received.ref
    if (this.closeCode !== undefined || this.closed.has(joinRef)) return
    this.received.push(received)
    if (received.event === "phx_error") this.errors.set(joinRef, received)
  }
}

/**
 * The scheduler of a test's node, which knows of all its work. It counts the tasks that wait, which makes "nothing was sent"
 * a fact and not a matter of time; it also keeps the clients of the test.
 */
export class TrackingScheduler implements Scheduler.Scheduler {
  pending = 0
  readonly sockets = new Set<TestSocket>()
  /** Fibers that sleep until the test moves the clock, and the processes that they belong to. */
  readonly asleep = new Map<Fiber.Fiber<unknown, unknown>, Process | undefined>()
  private readonly scheduler: Scheduler.Scheduler

  constructor(scheduler: Scheduler.Scheduler) {
    this.scheduler = scheduler
  }

  get executionMode(): "sync" | "async" {
    return this.scheduler.executionMode
  }

  shouldYield(fiber: Parameters<Scheduler.Scheduler["shouldYield"]>[0]): boolean {
    return this.scheduler.shouldYield(fiber)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    const dispatcher = this.scheduler.makeDispatcher()
    return {
      scheduleTask: (task, priority) => {
        this.pending++
        dispatcher.scheduleTask(() => {
          try {
            task()
          } finally {
            this.pending--
          }
        }, priority)
      },
      flush: () => dispatcher.flush()
    }
  }

  /** The same clock, but for that it is known who sleeps. Whatever else it has, as the TestClock does, stays. */
  watching(clock: Clock.Clock): Clock.Clock {
    const { asleep } = this
    return Object.create(clock, {
      sleep: {
        value: (duration: Parameters<Clock.Clock["sleep"]>[0]) =>
          Effect.withFiber<void>((fiber) => {
            asleep.set(fiber, Context.getOrUndefined(fiber.context, Self))
            return Effect.ensuring(clock.sleep(duration), Effect.sync(() => asleep.delete(fiber)))
          })
      }
    })
  }

  /** Tells whether a process waits for the test to move the clock. */
  get isAsleep(): boolean {
    for (const process of this.asleep.values()) if (process !== undefined) return true
    return false
  }

  /** Processes that are in the middle of a message, and do not sleep: they wait for a promise, say, or for another process. */
  atWork(system: System): ReadonlyArray<Process> {
    const servers = new Set<Process>()
    // The process of a connection waits for channels only, and these are looked at themselves.
    for (const socket of this.sockets) servers.add(socket.server.process)
    const working: Array<Process> = []
    const visit = (processes: ReadonlySet<Process>) => {
      for (const process of processes) {
        const { behaviour: { children }, status, suspended } = process
        const isWorking = (status === "running" || status === "ending") && !servers.has(process)
        if (isWorking && (suspended === undefined || !this.asleep.has(suspended))) working.push(process)
        if (children !== undefined) visit(children)
      }
    }
    visit(system.children)
    return working
  }
}
