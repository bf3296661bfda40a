/** Plays a recorded conversation against a server: every frame must be equal, JSON by its content. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { Buffer } from "node:buffer"
import { isDifference } from "./differences.ts"
import { type Event, exchange, type Opening, PollClient, WebSocketClient } from "./players.ts"
import { type Bindings, unify, unifyAny } from "./unify.ts"

interface Send {
  readonly send: string
  readonly text?: string
  /** In hex. */
  readonly binary?: string
}
type Action =
  | ({ readonly open: string } & Opening)
  | { readonly close: string; readonly code: number }
  /** The client's connection is cut. */
  | { readonly drop: string }
  | { readonly batch: ReadonlyArray<Send> }
  | Send
  | ({ readonly poll: string; readonly start: true } & Opening)
  | { readonly poll: string; readonly get: true }
  | { readonly poll: string; readonly post: string; readonly type: string; readonly base64?: true }
  | {
    readonly http: string
    readonly path: string
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: string
  }

type Step = Action & {
  /** By client. */
  readonly received: Readonly<Record<string, ReadonlyArray<Event>>>
  /** The order within the step is free. */
  readonly any?: true
  /** An event that is not compared, by client. */
  readonly skip?: Readonly<Record<string, string>>
}

export interface Recording {
  readonly name: string
  readonly title: string
  readonly steps: ReadonlyArray<Step>
}

/** The name of a run; recordings hold it as `IDIDIDID`, in binary frames in hex. */
const named = (step: Step, id: string): Step => {
  const hex = (text: string) => Buffer.from(text).toString("hex")
  return JSON.parse(JSON.stringify(step).replaceAll("IDIDIDID", id).replaceAll(hex("IDIDIDID"), hex(id)))
}

/** The event of a frame, in either version. */
const eventOf = ({ json }: Event): unknown =>
  Array.isArray(json) ? json[3] : typeof json === "object" && json !== null && "event" in json ? json.event : undefined

/** What a recording holds of a frame to compare; `text` and `decoded` say the same again. */
const expectation = ({ decoded: _decoded, text: _text, ...event }: Event): Event => {
  const { json } = event
  if (typeof json !== "object" || json === null || !("messages" in json)) return event
  return { ...event, json: { ...json, messages: (json.messages as ReadonlyArray<Event>).map(expectation) } }
}

/** Of an HTTP answer only what was recorded is compared. */
const restricted = (actual: Event, expected: Event | undefined): Event => {
  if (expected === undefined || !("http" in expected)) return actual
  const entries = Object.keys(expected).map((key) => {
    const names = Object.keys((key === "headers" && expected[key]) || {})
    const value = key === "headers"
      ? Object.fromEntries(names.map((name) => [name, (actual[key] as Event)[name]]))
      : actual[key]
    return [key, value] as const
  })
  return Object.fromEntries(entries)
}

const messageCount = ({ json }: Event): number =>
  typeof json === "object" && json !== null && "messages" in json ? (json.messages as ReadonlyArray<Event>).length : 0

/** Clients that take part in a run. */
class Run {
  readonly webSockets = new Map<string, WebSocketClient>()
  private readonly pollers = new Map<string, PollClient>()
  private readonly port: number

  constructor(port: number) {
    this.port = port
  }

  webSocket(id: string): WebSocketClient {
    return found(this.webSockets, id)
  }

  /** Does what the step says; for requests, gives what was answered. */
  act(step: Action, expected: Event, isCompared: (event: Event) => boolean): Effect.Effect<Event | undefined> {
    if ("http" in step) return exchange(this.port, { ...step, method: step.http })
    if ("poll" in step) {
      if ("start" in step) {
        const client = new PollClient(this.port, step)
        this.pollers.set(step.poll, client)
        return client.get()
      }
      const client = found(this.pollers, step.poll)
      if ("get" in step) return client.poll(messageCount(expected), isCompared)
      const body = step.base64 === true ? Buffer.from(step.post, "hex").toString("base64") : step.post
      return client.post(body, step.type)
    }
    return Effect.sync(() => {
      if ("open" in step) this.webSockets.set(step.open, new WebSocketClient(this.port, step))
      else if ("close" in step) this.webSocket(step.close).close(step.code)
      else if ("drop" in step) this.webSocket(step.drop).drop()
      else for (const send of "batch" in step ? step.batch : [step]) this.send(send)
      return undefined
    })
  }

  private send({ binary, send, text }: Send): void {
    this.webSocket(send).send(text ?? Buffer.from(binary ?? "", "hex"))
  }
}

const found = <A>(clients: ReadonlyMap<string, A>, id: string): A => {
  const client = clients.get(id)
  if (client === undefined) throw new Error(`no client ${id}`)
  return client
}

export const play = Effect.fnUntraced(function*(port: number, { name, steps }: Recording) {
  const run = new Run(port)
  const id = Math.random().toString(36).slice(2, 10).padEnd(8, "0")
  let bindings: Bindings = new Map()
  for (const [index, recorded] of steps.entries()) {
    const step = named(recorded, id)
    const isCompared = (client: string) => (event: Event) =>
      (step.skip?.[client] === undefined || step.skip[client] !== eventOf(event)) && !isDifference("ours", event)
    const expectedOf = (client: string) =>
      (step.received[client] ?? []).filter((event) => !isDifference("phoenix", event)).map(expectation)

    const actor = "poll" in step ? step.poll : "http"
    const answer = yield* run.act(step, expectedOf(actor)[0] ?? {}, isCompared(actor))
    const sides: Array<{ readonly expected: ReadonlyArray<Event>; readonly actual: ReadonlyArray<Event> }> = []
    if (answer !== undefined) {
      const expected = expectedOf(actor)
      sides.push({ expected, actual: [restricted(answer, expected[0])] })
    }
    for (const [client, webSocket] of run.webSockets) {
      const expected = expectedOf(client)
      sides.push({ expected, actual: yield* webSocket.received(expected.length, isCompared(client)) })
    }

    const compare = (rest: typeof sides, bindings: Bindings): Bindings | undefined => {
      const [side] = rest
      if (side === undefined) return bindings
      const then = (bindings: Bindings) => compare(rest.slice(1), bindings)
      return step.any === true
        ? unifyAny(...messages(side), bindings, then)
        : unify(side.expected, side.actual, bindings, then)
    }
    const same = compare(sides, bindings)
    const where = `${name}, step ${index}: ${JSON.stringify(recorded).slice(0, 200)}`
    if (same === undefined) {
      assert.deepStrictEqual(sides.map(({ actual }) => actual), sides.map(({ expected }) => expected), where)
      // What differs is only which marks stand for the same.
      assert.fail(where)
    }
    bindings = same
  }
  for (const client of run.webSockets.values()) client.close(1000)
})

/** The messages of a poll are in free order too: they are compared as if each had come by itself. */
const messages = (
  { actual, expected }: { readonly expected: ReadonlyArray<Event>; readonly actual: ReadonlyArray<Event> }
): readonly [expected: ReadonlyArray<unknown>, actual: ReadonlyArray<unknown>] => {
  const apart = (events: ReadonlyArray<Event>) =>
    events.flatMap(({ json, ...event }): ReadonlyArray<unknown> => {
      if (typeof json !== "object" || json === null || !("messages" in json)) return [{ json, ...event }]
      const { messages, ...rest } = json
      return [{ json: rest, ...event }, ...messages as ReadonlyArray<Event>]
    })
  return [apart(expected), apart(actual)]
}
