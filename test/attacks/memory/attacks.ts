/**
 * Attacks on the memory of a server, and on its time: each as one or a few clients that keep to no protocol. They go on until
 * their time is over, as far as the server lets them.
 */
import { connect, type Socket } from "node:net"
import { deflateRawSync } from "node:zlib"
import { frame, handshake, request } from "../wire.ts"

/** The means of an attack. */
export interface Field {
  readonly port: number
  /** False when the time is over. */
  readonly isOn: () => boolean
  /** Resolves when the time is over. */
  readonly over: Promise<void>
  /** Counts how a connection has ended. */
  readonly closed: (how: string) => void
}

/** A client that counts what it is sent, and keeps none of it. */
class Peer {
  readonly socket: Socket
  isClosed = false
  /** Bytes after the handshake. */
  received = 0
  private code: number | undefined
  private head = Buffer.alloc(0)
  private skip = 0
  /** Resumes the sender that waits to send more. */
  private goOn: () => void = () => {}
  private readonly field: Field

  private constructor(field: Field, socket: Socket) {
    this.field = field
    this.socket = socket
    socket.on("error", () => {})
    socket.on("drain", () => this.goOn())
    socket.on("close", () => {
      this.isClosed = true
      this.goOn()
      if (field.isOn()) field.closed(this.code === undefined ? "cut off" : String(this.code))
    })
  }

  static async open(field: Field, mount = "/socket"): Promise<Peer> {
    const socket = connect({ port: field.port, host: "127.0.0.1", noDelay: true })
    const peer = new Peer(field, socket)
    const isPacked = mount === "/packed"
    socket.write(request(
      `GET ${mount}/websocket?vsn=2.0.0 HTTP/1.1`,
      isPacked ? { ...handshake, "Sec-WebSocket-Extensions": "permessage-deflate" } : handshake
    ))
    await new Promise<void>((resolve) => {
      let text = ""
      const read = (chunk: Buffer) => {
        text += chunk.toString("latin1")
        const end = text.indexOf("\r\n\r\n")
        if (end === -1) return
        socket.off("data", read)
        socket.on("data", (chunk: Buffer) => peer.read(chunk))
        peer.read(Buffer.from(text.slice(end + 4), "latin1"))
        resolve()
      }
      socket.on("data", read)
      socket.once("close", () => resolve())
    })
    return peer
  }

  /** Only the headers of frames are looked at, for the code of a close. */
  private read(chunk: Buffer): void {
    this.received += chunk.length
    let data = this.head.length === 0 ? chunk : Buffer.concat([this.head, chunk])
    this.head = Buffer.alloc(0)
    while (data.length > 0) {
      if (this.skip > 0) {
        const step = Math.min(this.skip, data.length)
        this.skip -= step
        data = data.subarray(step)
        continue
      }
      const short = (data[1] ?? 0) & 0x7f
      const start = short === 126 ? 4 : short === 127 ? 10 : 2
      if (data.length < start + (((data[0] ?? 0) & 0xf) === 8 ? 2 : 0)) {
        this.head = Buffer.from(data)
        return
      }
      if (((data[0] ?? 0) & 0xf) === 8) this.code = data.readUInt16BE(start)
      this.skip = short === 126 ? data.readUInt16BE(2) : short === 127 ? Number(data.readBigUInt64BE(2)) : short
      data = data.subarray(start)
    }
  }

  /** Sends bytes, as fast as they are taken; false when no more can be sent, or the time is over. */
  async send(bytes: Uint8Array): Promise<boolean> {
    if (this.isClosed || !this.field.isOn()) return false
    if (!this.socket.write(bytes)) {
      const drained = new Promise<void>((resolve) => {
        this.goOn = resolve
      })
      await Promise.race([drained, this.field.over])
    } else await new Promise((resolve) => setImmediate(resolve))
    return !this.isClosed && this.field.isOn()
  }

  say(message: ReadonlyArray<unknown>): Promise<boolean> {
    return this.send(frame(JSON.stringify(message)))
  }

  /** Sends the same again and again. */
  async flood(bytes: Uint8Array): Promise<void> {
    while (await this.send(bytes));
  }

  /** Reads nothing from now on. */
  deafen(): this {
    this.socket.pause()
    return this
  }
}

const times = (count: number, bytes: Uint8Array): Buffer => Buffer.concat(Array.from({ length: count }, () => bytes))
const text = (message: ReadonlyArray<unknown>): Buffer => frame(JSON.stringify(message))

/** Megabytes of text. */
const much = (megabytes: number): string => "x".repeat(megabytes * 1_000_000)

/** JSON of many small parts, which takes long to read and much to keep. */
const parts = (megabytes: number): string => `[${"[],".repeat(megabytes * 333_333)}[]]`

/** JSON of as many objects as there is room for, each with a key of its own: of all that counts as so many values this takes longest. */
const shapes = (count: number): string =>
  `[${Array.from({ length: count }, (_, n) => `{"k${n.toString(36)}":0}`).join(",")}]`

/** A frame that is compressed, as RFC 7692 has it. */
const packed = (message: string): Buffer => {
  const data = deflateRawSync(message, { finishFlush: 2 })
  return frame(data.subarray(0, data.length - 4), { rsv: 4 })
}

const join = (topic: string, joinRef: unknown = "1") => text([joinRef, "1", topic, "phx_join", {}])
const heartbeat = text([null, "1", "phoenix", "heartbeat", {}])

const sleep = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))

const together = (count: number, attack: (n: number) => Promise<void>): Promise<void> =>
  Promise.all(Array.from({ length: count }, (_, n) => attack(n))).then(() => {})

/** New connections, one after the other, for those that are closed. */
const again = async (field: Field, attack: () => Promise<void>): Promise<void> => {
  while (field.isOn()) {
    await attack()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const holdUp = (count: number, megabytes: number, mount?: string) => (field: Field) =>
  together(count, async (n) => {
    const peer = await Peer.open(field, mount)
    await peer.send(join(`room:held ${n}`))
    await peer.say(["1", "2", `room:held ${n}`, "wait", {}])
    // Each byte of this is many in memory.
    const message = frame(`["1","3","room:held ${n}","echo",${parts(megabytes)}]`)
    for (let sent = 0; sent < 25 && await peer.send(message); sent++);
    await field.over
  })

const post = async (field: Field, token: string, body: string): Promise<void> => {
  const at = `http://127.0.0.1:${field.port}/socket/longpoll?vsn=2.0.0&token=${encodeURIComponent(token)}`
  const answer = await fetch(at, { method: "POST", body, headers: { "content-type": "application/x-ndjson" } })
  if (answer.status !== 200) field.closed(`HTTP ${answer.status}`)
  await answer.arrayBuffer()
}

const session = async (field: Field): Promise<string> => {
  const answer = await fetch(`http://127.0.0.1:${field.port}/socket/longpoll?vsn=2.0.0`)
  if (answer.status !== 200) field.closed(`HTTP ${answer.status}`)
  const { token = "" }: { token?: string } = answer.status === 200 ? Object(await answer.json()) : {}
  return token
}

/** The attacks, by their names. */
export const attacks: Readonly<Record<string, (field: Field) => Promise<void>>> = {
  "nothing at all, for comparison": (field) => field.over,
  "a large join_ref that small frames are answered with": (field) =>
    again(field, async () => {
      const peer = (await Peer.open(field)).deafen()
      await peer.send(join("room:ref", much(9.9)))
      await peer.flood(times(100, text([null, "2", "room:ref", "echo", {}])))
    }),
  "a join_ref of many parts, compared with small ones": (field) =>
    again(field, async () => {
      const peer = await Peer.open(field)
      await peer.send(frame(`[${parts(9.9)},"1","room:parts","phx_join",{}]`))
      await peer.flood(times(200, text([[], "2", "room:parts", "echo", {}])))
    }),
  "36 joins with a join_ref of 4.5 MB": (field) =>
    again(field, async () => {
      const peer = (await Peer.open(field)).deafen()
      for (let n = 0; n < 36; n++) {
        if (!await peer.send(frame(`[${parts(4.5)},"1","room:${n}","phx_join",{}]`))) return
      }
      await field.over
    }),
  "refs of any JSON": (field) =>
    again(field, async () => {
      const peer = (await Peer.open(field)).deafen()
      await peer.send(join("room:ref"))
      const refs = [much(9), Array.from({ length: 1_000_000 }, () => 0), { a: parts(3) }]
      for (let n = 0; await peer.say(["1", refs[n % refs.length], "room:ref", "echo", {}]); n++);
    }),
  "topics and events of 9 MB": (field) =>
    again(field, async () => {
      const peer = (await Peer.open(field)).deafen()
      await peer.send(join("room:1"))
      await peer.say([null, "1", much(9), "phx_join", {}])
      await peer.say([null, "1", `room:${much(9)}`, "phx_join", {}])
      await peer.flood(text(["1", "1", "room:1", much(9), {}]))
    }),
  "25 messages of 9 MB to a handler that waits": holdUp(1, 9),
  "25 messages of 9 MB from each of 25 connections": holdUp(25, 9),
  "25 messages of 9 MB, compressed, to a handler that waits": (field) =>
    again(field, async () => {
      const peer = await Peer.open(field, "/packed")
      await peer.send(join("room:held"))
      await peer.say(["1", "2", "room:held", "wait", {}])
      const message = packed(`["1","3","room:held","echo",${parts(9)}]`)
      for (let sent = 0; sent < 25 && await peer.send(message); sent++);
      await field.over
    }),
  "frames of 9 MB while a join is held up": (field) =>
    together(4, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`slow:${n}`))
      await peer.flood(text(["1", "3", `slow:${n}`, "echo", much(9)]))
    }),
  "small frames while a join is held up": (field) =>
    together(20, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`slow:${n}`))
      await peer.flood(times(500, text(["1", "3", `slow:${n}`, "echo", {}])))
    }),
  "leaves of a busy channel": (field) =>
    together(4, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`room:left ${n}`))
      await peer.say(["1", "2", `room:left ${n}`, "wait", {}])
      await peer.flood(times(2000, text(["1", "3", `room:left ${n}`, "phx_leave", {}])))
    }),
  "intercepted events for a slow handler": (field) =>
    together(2, async (n) => {
      const slow = await Peer.open(field)
      await slow.send(join(`room:masked ${n}`))
      const loud = await Peer.open(field)
      await loud.send(join(`room:masked ${n}`, "2"))
      await again(field, async () => {
        await loud.send(times(20, text(["2", "3", `room:masked ${n}`, "masked", { text: much(0.01) }])))
      })
    }),
  "messages of a subscription for a slow handler": (field) =>
    together(2, async (n) => {
      const slow = await Peer.open(field)
      await slow.send(join(`room:told ${n}`))
      await slow.say(["1", "2", `room:told ${n}`, "listen", {}])
      const loud = await Peer.open(field)
      await loud.send(join(`room:told ${n}`, "2"))
      await again(field, async () => {
        await loud.send(times(20, text(["2", "3", `room:told ${n}`, "tell", { text: much(0.01) }])))
      })
    }),
  "heartbeats, whose answers nobody reads": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = (await Peer.open(field)).deafen()
        await peer.flood(times(1000, heartbeat))
      })),
  "pings, whose pongs nobody reads": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = (await Peer.open(field)).deafen()
        await peer.flood(times(30, frame(much(0.000125), { opcode: 9 })))
      })),
  "replies that nobody reads": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = (await Peer.open(field)).deafen()
        await peer.send(join("room:unread"))
        await peer.flood(text(["1", "2", "room:unread", "echo", much(0.5)]))
      })),
  "compressed JSON that takes a second to read": (field) =>
    again(field, async () => {
      const peer = await Peer.open(field, "/packed")
      await peer.send(join("room:packed"))
      await peer.flood(packed(`["1","2","room:packed","echo",${parts(9.9)}]`))
    }),
  "compressed messages that unfold beyond the limit": (field) =>
    again(field, async () => {
      const peer = await Peer.open(field, "/packed")
      await peer.flood(packed(`["1","2","room:packed","echo","${much(50)}"]`))
    }),
  "compressed messages that are slow to inflate": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = await Peer.open(field, "/packed")
        const noise = Buffer.from(Array.from({ length: 1_000_000 }, (_, n) => n * 2_654_435_761 >>> 24)).toString("hex")
        await peer.flood(packed(JSON.stringify([null, "1", "phoenix", "heartbeat", noise])))
      })),
  "messages that never end": (field) =>
    together(50, async () => {
      const peer = await Peer.open(field)
      await peer.send(frame(`["1","2","room:1","echo","${much(9)}`, { fin: false }))
      await field.over
    }),
  "joins of a topic with presences": (field) =>
    together(20, () =>
      again(field, async () => {
        const peer = await Peer.open(field)
        for (let n = 0; n < 100; n++) await peer.send(text([String(n), "1", "lobby:1", "phx_join", {}]))
        peer.socket.destroy()
      })),
  "members of a loud room who read nothing": (field) =>
    again(field, async () => {
      for (let n = 0; n < 40; n++) {
        const peer = (await Peer.open(field)).deafen()
        await peer.send(join("room:loud"))
      }
      const loud = await Peer.open(field)
      await loud.send(join("room:loud"))
      for (let n = 0; n < 100 && await loud.say(["1", "2", "room:loud", "shout", { text: much(0.2) }]); n++);
    }),
  "posts of 5 MB to a handler that waits": (field) =>
    together(4, async (n) => {
      const token = await session(field)
      await post(field, token, `["1","1","room:posted ${n}","phx_join",{}]\n["1","2","room:posted ${n}","wait",{}]`)
      await again(field, () => post(field, token, `["1","3","room:posted ${n}","echo","${much(5)}"]`))
    }),
  "sessions of long polling that nobody polls": (field) =>
    together(8, () => again(field, () => session(field).then(() => {}))),
  "messages of more values than they may have": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = await Peer.open(field)
        await peer.send(join("room:values"))
        await peer.flood(frame(`["1","2","room:values","echo",${parts(9.9)}]`))
      })),
  "messages of as many values as they may have": (field) =>
    together(10, (n) => {
      const message = frame(`["1","2","room:values","echo",${shapes(120_000)}]`)
      return again(field, async () => {
        const peer = (await Peer.open(field)).deafen()
        await peer.send(join(`room:values ${n}`))
        await peer.flood(message)
      })
    }),
  "messages of millions of escapes": (field) =>
    together(4, () =>
      again(field, async () => {
        const peer = (await Peer.open(field)).deafen()
        await peer.send(join("room:escapes"))
        await peer.flood(frame(`["1","2","room:escapes","other","\\ud83d\\ude00${"\\n".repeat(4_500_000)}"]`))
      })),
  "small frames from 100 connections to a handler that waits": (field) =>
    together(100, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`room:held ${n}`))
      await peer.say(["1", "2", `room:held ${n}`, "wait", {}])
      await peer.flood(times(200, text(["1", "3", `room:held ${n}`, "echo", Array.from({ length: 90 }, () => ({}))])))
    }),
  "small frames from 100 connections that are all answered": (field) =>
    together(100, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`room:held ${n}`))
      await peer.flood(times(200, text(["1", "3", `room:held ${n}`, "echo", { text: much(0.00025) }])))
    }),
  "frames of 15 KB from 40 connections to a handler that waits": (field) =>
    together(40, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`room:held ${n}`))
      await peer.say(["1", "2", `room:held ${n}`, "wait", {}])
      await peer.flood(times(4, frame(`["1","3","room:held ${n}","echo",${parts(0.015)}]`)))
    }),
  "intercepted events of 2 MB for slow handlers": (field) =>
    together(10, async (n) => {
      const slow = await Peer.open(field)
      await slow.send(join(`room:masked ${n}`))
      const loud = await Peer.open(field)
      await loud.send(join(`room:masked ${n}`, "2"))
      await loud.flood(text(["2", "3", `room:masked ${n}`, "masked", { text: much(2) }]))
      await field.over
    }),
  "clients that go while their joins are held up": (field) =>
    together(20, async (n) => {
      const peer = await Peer.open(field)
      await peer.send(join(`slow:${n}`))
      await Promise.race([peer.flood(times(500, text(["1", "3", `slow:${n}`, "echo", {}]))), sleep(2000)])
      peer.socket.destroy()
      await sleep(1000)
    }),
  "many connections": (field) =>
    together(4, async () => {
      const open: Array<Peer> = []
      while (field.isOn() && open.length < 1000) {
        const peer = await Peer.open(field)
        await peer.send(join("room:crowd"))
        open.push(peer)
      }
      await field.over
    })
}
