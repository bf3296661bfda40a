import { Scheduler } from "effect"
import type { Frame } from "../Serializer.ts"

/** A message as a V2 client sees it. */
export interface Received {
  readonly joinRef: unknown
  readonly ref: unknown
  readonly topic: unknown
  readonly event: string
  readonly payload: unknown
  /** Of a binary reply; a text reply has it in its payload. */
  readonly status?: string
}

const utf8 = new TextEncoder()
const text = new TextDecoder()

/** Encodes a message as a V2 client does: as text, or as a binary frame when the payload is bytes. */
export const encode = (joinRef: string | null, ref: string, topic: string, event: string, payload: unknown): Frame => {
  if (!(payload instanceof Uint8Array)) return JSON.stringify([joinRef, ref, topic, event, payload])
  const fields = [joinRef ?? "", ref, topic, event].map((field) => utf8.encode(field))
  const header = [0, ...fields.map((field) => field.length)]
  const frame = new Uint8Array(header.length + fields.reduce((sum, field) => sum + field.length, payload.length))
  frame.set(header)
  let offset = header.length
  for (const part of [...fields, payload]) {
    frame.set(part, offset)
    offset += part.length
  }
  return frame
}

/** The fields that follow the kind of a binary frame. */
const binaryFields = [["joinRef", "topic", "event"], ["joinRef", "ref", "topic", "status"], ["topic", "event"]] as const

/** Decodes what a server sends to a V2 client. */
export const decode = (frame: Frame): Received => {
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
  const status = fields["status"]
  return {
    joinRef: fields["joinRef"] || null,
    ref: fields["ref"] ?? null,
    topic: fields["topic"],
    event: fields["event"] ?? "phx_reply",
    payload: frame.slice(offset),
    ...(status === undefined ? {} : { status })
  }
}

/** A scheduler that knows whether any work is waiting: what makes "nothing was sent" a fact and not a matter of time. */
export class TrackingScheduler implements Scheduler.Scheduler {
  pending = 0
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
}
