/**
 * About the least that `ws` can be made to do for the same clients: no limits, no timeouts, no checks, and a broadcast is
 * made into a frame once and written to each TCP connection, past `ws`. Nobody would want to run it; it says how fast
 * Node and `ws` are without a framework.
 *
 * Settings, from the environment: `PORT` (4000) and `COMPRESS` (1 to offer permessage-deflate).
 */
import type { Socket } from "node:net"
import { WebSocket, WebSocketServer } from "ws"

/** From how many bytes on messages are compressed, as by effect-channels and by socket.io. */
const compressFrom = 1024

const offersCompression = process.env["COMPRESS"] === "1"

interface Meta {
  readonly n: number
  readonly phx_ref: string
}

class Member extends WebSocket {
  user = ""
  tcp: Socket | undefined
  /** With what it is tracked there, if it is. */
  readonly topics = new Map<string, Meta | undefined>()

  say(joinRef: unknown, ref: unknown, topic: string, event: string, payload: unknown): void {
    const text = JSON.stringify([joinRef, ref, topic, event, payload])
    this.send(text, { compress: text.length >= compressFrom })
  }

  reply(joinRef: unknown, ref: unknown, topic: string, response: unknown): void {
    this.say(joinRef, ref, topic, "phx_reply", { status: "ok", response })
  }
}

const members = new Map<string, Set<Member>>()

/** By topic and user. */
const metas = new Map<string, Map<string, ReadonlyArray<Meta>>>()
let tracked = 0

/** An unmasked text frame. */
const frameOf = (text: string): Buffer => {
  const body = Buffer.from(text)
  const { length } = body
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10)
  head[0] = 0x81
  if (length < 126) {
    head[1] = length
  } else if (length < 65_536) {
    head[1] = 126
    head.writeUInt16BE(length, 2)
  } else {
    head[1] = 127
    head.writeBigUInt64BE(BigInt(length), 2)
  }
  return Buffer.concat([head, body])
}

const broadcast = (topic: string, event: string, payload: unknown, except?: Member): void => {
  const text = JSON.stringify([null, null, topic, event, payload])
  const compress = offersCompression && text.length >= compressFrom
  const frame = frameOf(text)
  for (const member of members.get(topic) ?? []) {
    if (member === except) continue
    if (compress) member.send(text)
    else member.tcp?.write(frame)
  }
}

const join = (member: Member, topic: string): void => {
  const joined = members.get(topic) ?? new Set()
  members.set(topic, joined.add(member))
  member.topics.set(topic, undefined)
}

const track = (member: Member, topic: string): void => {
  const { user } = member
  const here = metas.get(topic) ?? new Map<string, ReadonlyArray<Meta>>()
  const meta = { n: 1, phx_ref: (tracked++).toString(36) }
  member.topics.set(topic, meta)
  metas.set(topic, here.set(user, [...(here.get(user) ?? []), meta]))
  broadcast(topic, "presence_diff", { joins: { [user]: { metas: [meta] } }, leaves: {} })
  const all = Array.from(here, ([user, metas]) => [user, { metas }] as const)
  member.say("1", null, topic, "presence_state", Object.fromEntries(all))
}

const leave = (member: Member, topic: string): void => {
  const joined = members.get(topic)
  const meta = member.topics.get(topic)
  member.topics.delete(topic)
  joined?.delete(member)
  if (joined?.size === 0) members.delete(topic)
  const here = metas.get(topic)
  if (here === undefined || meta === undefined) return
  const others = here.get(member.user)?.filter((other) => other !== meta) ?? []
  if (others.length > 0) here.set(member.user, others)
  else here.delete(member.user)
  if (here.size === 0) metas.delete(topic)
  broadcast(topic, "presence_diff", { joins: {}, leaves: { [member.user]: { metas: [meta] } } })
}

const receive = (member: Member, data: Buffer): void => {
  const [joinRef, ref, topic, event, payload] = JSON.parse(data.toString())
  switch (event) {
    case "echo":
      return member.reply(joinRef, ref, topic, payload)
    case "shout":
      return broadcast(topic, "shout", payload)
    case "shout_from":
      return broadcast(topic, "shout", payload, member)
    case "heartbeat":
      return member.reply(joinRef, ref, topic, {})
    case "phx_join":
      join(member, topic)
      member.reply(joinRef, ref, topic, {})
      return topic.startsWith("presence:") ? track(member, topic) : undefined
    case "phx_leave":
      leave(member, topic)
      member.reply(joinRef, ref, topic, {})
      return member.say(joinRef, joinRef, topic, "phx_close", {})
  }
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.env["PORT"] ?? 4000),
  backlog: 4096,
  clientTracking: false,
  perMessageDeflate: offersCompression,
  WebSocket: Member
})
server.on("connection", (member, request) => {
  member.tcp = request.socket
  member.user = new URLSearchParams(request.url?.split("?")[1]).get("user") ?? ""
  member.on("message", (data: Buffer) => receive(member, data))
  member.on("close", () => member.topics.forEach((_meta, topic) => leave(member, topic)))
  member.on("error", () => {})
})
server.on("listening", () => console.log("listening"))
