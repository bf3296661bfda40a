/** What is said over a connection: Phoenix's protocol, version 2, or that of socket.io 4. */
import type { Payloads, Stamp } from "./payload.ts"

export type Incoming =
  /** The connection is ready for a join. */
  | { readonly kind: "open" }
  | { readonly kind: "joined"; readonly ok: boolean }
  | { readonly kind: "left" }
  /** The stamp is absent if the payload is not as it was sent. */
  | { readonly kind: "echo"; readonly topic: string | undefined; readonly n: number; readonly stamp: Stamp | undefined }
  | { readonly kind: "shout"; readonly topic: string | undefined; readonly stamp: Stamp | undefined }
  /** Users who are there, or have come. */
  | { readonly kind: "present"; readonly users: ReadonlyArray<string> }
  | { readonly kind: "ping"; readonly pong: string }
  | { readonly kind: "nothing" }
  | { readonly kind: "unexpected" }

export interface Protocol {
  readonly path: (user: string) => string
  /** What has to be said first, if anything; `open` is the answer. */
  readonly hello: string | undefined
  readonly join: (topic: string) => string
  readonly leave: (topic: string) => string
  readonly echo: (topic: string, n: number, payload: string) => string
  readonly shout: (topic: string, n: number, payload: string) => string
  /** Sent every 30 seconds. */
  readonly heartbeat: string | undefined
  readonly decode: (text: string) => Incoming
}

export const names = ["phoenix", "socket.io"] as const
export type Name = (typeof names)[number]

export const make = (name: Name, payloads: Payloads): Protocol =>
  name === "phoenix" ? phoenix(payloads) : socketIo(payloads)

const open: Incoming = { kind: "open" }
const left: Incoming = { kind: "left" }
const nothing: Incoming = { kind: "nothing" }
const unexpected: Incoming = { kind: "unexpected" }

/** Refs, and the numbers by which socket.io acknowledges: below `first`, what they are is what they answer. */
const refs = { heartbeat: 0, join: 1, leave: 2, first: 3 }

/** Members of a topic get the same text one after another. */
const remembering = (decode: (text: string) => Incoming) => {
  let last = ""
  let meaning: Incoming = unexpected
  return (text: string): Incoming => {
    if (text !== last) {
      last = text
      try {
        meaning = decode(text)
      } catch {
        meaning = unexpected
      }
    }
    return meaning
  }
}

const phoenix = (payloads: Payloads): Protocol => {
  const push = (topic: string, ref: number, event: string, payload: string) =>
    `["1","${ref}","${topic}","${event}",${payload}]`

  const reply = (topic: string, ref: number, { response, status }: { response: unknown; status: string }): Incoming => {
    const ok = status === "ok"
    if (ref === refs.join) return { kind: "joined", ok }
    if (!ok) return unexpected
    if (ref === refs.leave) return left
    if (ref === refs.heartbeat) return nothing
    return { kind: "echo", topic, n: ref - refs.first, stamp: payloads.check(response) }
  }

  return {
    path: (user) => `/socket/websocket?vsn=2.0.0&user=${user}`,
    hello: undefined,
    join: (topic) => push(topic, refs.join, "phx_join", "{}"),
    leave: (topic) => push(topic, refs.leave, "phx_leave", "{}"),
    echo: (topic, n, payload) => push(topic, refs.first + n, "echo", payload),
    shout: (topic, n, payload) => push(topic, refs.first + n, "shout", payload),
    heartbeat: `[null,"${refs.heartbeat}","phoenix","heartbeat",{}]`,
    decode: remembering((text) => {
      const [, ref, topic, event, payload] = JSON.parse(text)
      switch (event) {
        case "phx_reply":
          return reply(topic, Number(ref), payload)
        case "shout":
          return { kind: "shout", topic, stamp: payloads.check(payload) }
        case "presence_state":
          return { kind: "present", users: Object.keys(payload) }
        case "presence_diff":
          return { kind: "present", users: Object.keys(payload.joins) }
        case "phx_close":
          return nothing
        default:
          return unexpected
      }
    })
  }
}

const socketIo = (payloads: Payloads): Protocol => {
  const acknowledged = (id: number, args: Array<unknown>): Incoming => {
    if (id === refs.join) return { kind: "joined", ok: true }
    if (id === refs.leave) return left
    return { kind: "echo", topic: undefined, n: id - refs.first, stamp: payloads.check(args[0]) }
  }

  return {
    path: () => "/socket.io/?EIO=4&transport=websocket",
    hello: "40",
    join: (topic) => `42${refs.join}["join","${topic}"]`,
    leave: (topic) => `42${refs.leave}["leave","${topic}"]`,
    echo: (_topic, n, payload) => `42${refs.first + n}["echo",${payload}]`,
    shout: (topic, _n, payload) => `42["shout","${topic}",${payload}]`,
    heartbeat: undefined,
    decode: remembering((text) => {
      if (text === "2") return { kind: "ping", pong: "3" }
      if (text.startsWith("0{")) return nothing
      if (text.startsWith("40")) return open
      const body = text.indexOf("[")
      const data = JSON.parse(text.slice(body))
      if (text.startsWith("43")) return acknowledged(Number(text.slice(2, body)), data)
      if (!text.startsWith("42") || data[0] !== "shout") return unexpected
      return { kind: "shout", topic: undefined, stamp: payloads.check(data[1]) }
    })
  }
}
