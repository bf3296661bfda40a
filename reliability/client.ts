/**
 * A client that connects, joins, comes back and joins again when phoenix.js does, on a connection of the load client:
 * thousands of them fit into a process.
 */
import { Connection } from "../bench/client/connection.ts"

/** Milliseconds until the next attempt, by how many there were; of phoenix.js 1.8. */
const reconnectAfter = (tries: number) => [10, 50, 100, 150, 200, 250, 500, 1000, 2000][tries - 1] ?? 5000
const rejoinAfter = (tries: number) => [1000, 2000, 5000][tries - 1] ?? 10_000
const heartbeatEvery = 30_000
const joinTimeout = 10_000

export interface Reply {
  readonly status: string
  readonly response: unknown
}

/** What is told of a client. */
export interface Events {
  readonly opened?: (client: Client) => void
  readonly joined?: (client: Client, topic: string) => void
  readonly message?: (client: Client, topic: string, event: string, payload: unknown) => void
  /** The connection has gone, whoever has ended it. */
  readonly closed?: (client: Client, why: string) => void
  /** A channel has crashed, or its join was refused. */
  readonly failed?: (client: Client, topic: string, why: unknown) => void
}

interface Topic {
  state: "joining" | "joined" | "errored" | "left"
  joinRef: number
  tries: number
  timer: NodeJS.Timeout | undefined
  readonly params: object
}

export class Client {
  readonly user: string
  private readonly path: string
  private readonly portOf: () => number | undefined
  private readonly events: Events
  private readonly topics = new Map<string, Topic>()
  private readonly replies = new Map<number, (reply: Reply | undefined) => void>()
  private connection: Connection | undefined
  private isOpen = false
  private isGone = false
  private tries = 0
  private ref = 0
  private timer: NodeJS.Timeout | undefined
  private heartbeat: NodeJS.Timeout | undefined

  /**
   * @param portOf - where to connect to, asked for each attempt; undefined if nobody is there
   * @param params - what it says of itself when it connects
   */
  constructor(
    user: string,
    portOf: () => number | undefined,
    events: Events = {},
    params: Readonly<Record<string, string>> = { user }
  ) {
    this.user = user
    this.path = `/socket/websocket?${new URLSearchParams({ vsn: "2.0.0", ...params })}`
    this.portOf = portOf
    this.events = events
    this.connect()
  }

  /** It has joined all its topics. */
  get isThere(): boolean {
    return this.isOpen && [...this.topics.values()].every(({ state }) => state === "joined" || state === "left")
  }

  isIn(topic: string): boolean {
    return this.isOpen && this.topics.get(topic)?.state === "joined"
  }

  join(topic: string, params: object = {}): void {
    const entry: Topic = { state: "errored", joinRef: 0, tries: 0, timer: undefined, params }
    this.topics.set(topic, entry)
    if (this.isOpen) this.rejoin(topic, entry)
  }

  /** Sends an event; its reply, or undefined if there cannot be one any more. */
  push(topic: string, event: string, payload: unknown): Promise<Reply | undefined> {
    const { joinRef = null } = this.topics.get(topic) ?? {}
    return new Promise((resolve) => this.send(joinRef, topic, event, payload, resolve))
  }

  leave(topic: string): Promise<Reply | undefined> {
    const entry = this.topics.get(topic)
    if (entry !== undefined) entry.state = "left"
    return this.push(topic, "phx_leave", {})
  }

  /** Goes for good, in one of these ways; of those that are silent the server does not learn. */
  go(how: "close" | "reset" | "halfClose" | "fallSilent" = "close"): void {
    this.isGone = true
    clearTimeout(this.timer)
    clearInterval(this.heartbeat)
    for (const { timer } of this.topics.values()) clearTimeout(timer)
    this.connection?.[how]()
  }

  private connect(): void {
    const port = this.portOf()
    if (port === undefined) return this.again()
    this.connection = new Connection({ port, path: this.path, compress: "none" }, {
      opened: () => this.opened(),
      message: (text) => this.message(text),
      closed: (why) => this.closed(why)
    })
  }

  private again(): void {
    if (!this.isGone) this.timer = setTimeout(() => this.connect(), reconnectAfter(++this.tries))
  }

  private opened(): void {
    this.tries = 0
    this.isOpen = true
    this.heartbeat = setInterval(() => this.send(null, "phoenix", "heartbeat", {}), heartbeatEvery)
    this.events.opened?.(this)
    for (const [topic, entry] of this.topics) if (entry.state !== "left") this.rejoin(topic, entry)
  }

  private closed(why: string): void {
    this.isOpen = false
    clearInterval(this.heartbeat)
    for (const [, resolve] of this.replies) resolve(undefined)
    this.replies.clear()
    for (const entry of this.topics.values()) {
      clearTimeout(entry.timer)
      if (entry.state !== "left") entry.state = "errored"
    }
    this.events.closed?.(this, why)
    this.again()
  }

  private rejoin(topic: string, entry: Topic): void {
    clearTimeout(entry.timer)
    entry.state = "joining"
    entry.joinRef = ++this.ref
    entry.timer = setTimeout(() => this.joinFailed(topic, entry, "timeout"), joinTimeout)
    const { joinRef } = entry
    this.send(joinRef, topic, "phx_join", entry.params, (reply) => {
      if (reply === undefined || entry.joinRef !== joinRef || entry.state !== "joining") return
      if (reply.status !== "ok") return this.joinFailed(topic, entry, reply.response)
      clearTimeout(entry.timer)
      entry.state = "joined"
      entry.tries = 0
      this.events.joined?.(this, topic)
    })
  }

  private joinFailed(topic: string, entry: Topic, why: unknown): void {
    clearTimeout(entry.timer)
    entry.state = "errored"
    entry.timer = setTimeout(() => this.isOpen && this.rejoin(topic, entry), rejoinAfter(++entry.tries))
    this.events.failed?.(this, topic, why)
  }

  private send(
    joinRef: number | null,
    topic: string,
    event: string,
    payload: unknown,
    onReply?: (reply: Reply | undefined) => void
  ): void {
    if (!this.isOpen) return onReply?.(undefined)
    const ref = ++this.ref
    if (onReply !== undefined) this.replies.set(event === "phx_join" ? joinRef ?? ref : ref, onReply)
    this.connection?.send(JSON.stringify([joinRef, event === "phx_join" ? joinRef : ref, topic, event, payload]))
  }

  private message(text: string): void {
    const [joinRef, ref, topic, event, payload] = JSON.parse(text)
    const entry = this.topics.get(topic)
    if (event === "phx_reply") {
      this.replies.get(ref)?.(payload)
      this.replies.delete(ref)
    } else if (event === "phx_error") {
      if (entry !== undefined && joinRef === entry.joinRef && entry.state !== "left") {
        this.joinFailed(topic, entry, payload)
      }
    } else if (event !== "phx_close") {
      this.events.message?.(this, topic, event, payload)
    }
  }
}
