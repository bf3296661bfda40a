/** The parties of a recorded conversation: they note what they get in the form of the recordings. */
import { Effect, Option, Queue } from "effect"
import { Buffer } from "node:buffer"
import { request } from "node:http"
import { WebSocket } from "ws"

/** Something that arrived. */
export type Event = Readonly<Record<string, unknown>>

/** What a client asks for as it connects. */
export interface Opening {
  /** Null for none. */
  readonly vsn: string | null
  readonly params: Readonly<Record<string, string>>
}

const fences = {
  v1: JSON.stringify({ topic: "phoenix", event: "heartbeat", payload: {}, ref: "fence" }),
  v2: JSON.stringify([null, "fence", "phoenix", "heartbeat", {}])
}
const isFence = (event: unknown): boolean => JSON.stringify(event).includes("\"fence\"")

const fenceFor = ({ vsn }: Opening): string => vsn === null || vsn.startsWith("1.") ? fences.v1 : fences.v2

const queryOf = ({ params, vsn }: Opening): URLSearchParams =>
  new URLSearchParams({ ...params, ...(vsn === null ? {} : { vsn }) })

/** How long a client waits for what it expects. */
const patience = "3 seconds"

export class WebSocketClient {
  private readonly events = Effect.runSync(Queue.unbounded<Event>())
  private readonly fence: string
  private readonly ws: WebSocket

  constructor(port: number, opening: Opening) {
    this.fence = fenceFor(opening)
    this.ws = new WebSocket(`ws://127.0.0.1:${port}/socket/websocket?${queryOf(opening)}`)
    const emit = (event: Event) => Queue.offerUnsafe(this.events, event)
    this.ws.on("open", () => emit({ opened: true }))
    this.ws.on("unexpected-response", (_request, response) => {
      let body = ""
      response.setEncoding("utf8").on("data", (text: string) => body += text)
      response.on("end", () => emit({ refused: response.statusCode, body }))
    })
    this.ws.on("error", () => {})
    this.ws.on(
      "message",
      (data: Buffer, isBinary) =>
        emit(isBinary ? { binary: data.toString("hex") } : { json: JSON.parse(data.toString()) })
    )
    this.ws.on("close", (code) => emit({ closed: code }))
  }

  send(data: string | Buffer): void {
    this.ws.send(data)
  }

  close(code: number): void {
    this.ws.close(code)
  }

  drop(): void {
    this.ws.terminate()
  }

  /** What has come: `count` events, and what comes before the answer to a heartbeat that is sent then. */
  received(count: number, isCompared: (event: Event) => boolean): Effect.Effect<ReadonlyArray<Event>> {
    const { events, fence, ws } = this
    return Effect.gen(function*() {
      const received: Array<Event> = []
      const next = Effect.timeoutOption(Queue.take(events), patience)
      while (received.length < count) {
        const event = yield* next
        if (Option.isNone(event)) return received
        if (isCompared(event.value)) received.push(event.value)
      }
      if (ws.readyState !== WebSocket.OPEN) return received
      ws.send(fence)
      for (;;) {
        const event = yield* next
        if (Option.isNone(event) || isFence(event.value)) return received
        if (isCompared(event.value)) received.push(event.value)
      }
    })
  }
}

export interface HttpRequest {
  readonly method: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: string | undefined
}

interface HttpResponse {
  readonly http: number | undefined
  readonly headers: Readonly<Record<string, unknown>>
  readonly body: string
}

export const http = (port: number, { body, headers, method, path }: HttpRequest): Effect.Effect<HttpResponse> =>
  Effect.callback((resume) => {
    const sent = request({ host: "127.0.0.1", port, method, path, headers: headers ?? {} }, (response) => {
      let text = ""
      response.setEncoding("utf8").on("data", (part: string) => text += part)
      response.on(
        "end",
        () => resume(Effect.succeed({ http: response.statusCode, headers: response.headers, body: text }))
      )
    })
    sent.on("error", (error) => resume(Effect.die(error)))
    sent.end(body)
    return Effect.sync(() => sent.destroy())
  })

const tryJson = (text: string): { readonly json?: unknown } => {
  try {
    return { json: JSON.parse(text) }
  } catch {
    return {}
  }
}

/** A frame as long polling carries it: JSON, or the bytes of a binary frame as the characters of a string. */
const frameOf = (message: unknown): Event => {
  const text = String(message)
  return "json" in tryJson(text) ? tryJson(text) : { string: Buffer.from(text, "latin1").toString("hex") }
}

/** An answer of the long-poll transport, or of any route. */
const answerOf = ({ body, headers, http }: HttpResponse, sessionToken: string | undefined): Event => {
  const { json } = tryJson(body)
  if (typeof json !== "object" || json === null) return { http, headers, body }
  const { messages, token, ...rest } = json as Event
  return {
    http,
    headers,
    json: {
      ...rest,
      ...(Array.isArray(messages) ? { messages: messages.map(frameOf) } : {}),
      ...(token === undefined ? {} : { token: token === sessionToken ? "<same token>" : "<new token>" })
    }
  }
}

export const exchange = (port: number, request: HttpRequest): Effect.Effect<Event> =>
  Effect.map(http(port, request), (response) => answerOf(response, undefined))

export class PollClient {
  private readonly port: number
  private readonly opening: Opening
  private token: string | undefined

  constructor(port: number, opening: Opening) {
    this.port = port
    this.opening = opening
  }

  post(body: string, type: string): Effect.Effect<Event> {
    return this.exchange({ method: "POST", path: this.path, headers: { "content-type": type }, body })
  }

  get(): Effect.Effect<Event> {
    return this.exchange({ method: "GET", path: this.path })
  }

  /** What one poll at leisure brings: answers are joined until there are `count` messages, and a heartbeat is answered. */
  poll(count: number, isCompared: (event: Event) => boolean): Effect.Effect<Event> {
    return Effect.gen({ self: this }, function*() {
      let answer = yield* this.get()
      const messages: Array<Event> = []
      for (let fenced = false;;) {
        const received = messagesOf(answer)
        if (received === undefined) return answer
        messages.push(...received.filter((message) => !isFence(message) && isCompared(message)))
        if (received.some(isFence)) break
        if (!fenced && messages.length >= count) {
          fenced = true
          yield* this.post(fenceFor(this.opening), "application/json")
        }
        const next = yield* Effect.timeoutOption(this.get(), patience)
        if (Option.isNone(next)) break
        answer = next.value
      }
      return { ...answer, json: { ...(answer["json"] as Event), messages } }
    })
  }

  private get path(): string {
    const query = queryOf(this.opening)
    if (this.token !== undefined) query.set("token", this.token)
    return `/socket/longpoll?${query}`
  }

  private exchange(request: HttpRequest): Effect.Effect<Event> {
    return Effect.map(http(this.port, request), (response) => {
      const answer = answerOf(response, this.token)
      const { json } = tryJson(response.body)
      if (typeof json === "object" && json !== null && "token" in json) this.token = String(json.token)
      return answer
    })
  }
}

const messagesOf = ({ json }: Event): ReadonlyArray<Event> | undefined =>
  typeof json === "object" && json !== null && "messages" in json && "status" in json && json.status === 200
    ? json.messages as ReadonlyArray<Event>
    : undefined
