/** A client that keeps to no protocol: bytes over TCP, and the frames and answers that come back. */
import { connect, type Socket } from "node:net"

export const key = "dGhlIHNhbXBsZSBub25jZQ=="

/** The headers of a handshake that is as it should be. */
export const handshake: Readonly<Record<string, string>> = {
  Host: "here",
  Connection: "Upgrade",
  Upgrade: "websocket",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": key
}

export const path = "/socket/websocket?vsn=2.0.0"

/** The text of a request; a header that is given as undefined is left out. */
export const request = (
  line = `GET ${path} HTTP/1.1`,
  headers: Readonly<Record<string, string | undefined>> = handshake,
  body = ""
): string =>
  `${line}\r\n${
    Object.entries(headers).map(([name, value]) => value === undefined ? "" : `${name}: ${value}\r\n`).join("")
  }\r\n${body}`

export interface FrameOptions {
  readonly fin?: boolean
  /** The reserved bits: 4 is that of compression. */
  readonly rsv?: number
  readonly opcode?: number
  readonly masked?: boolean
  /** The length that is claimed, and in how many bytes. */
  readonly claims?: number | bigint
  readonly size?: 7 | 16 | 64
}

/** A frame of RFC 6455, 5.2, with whatever is wrong with it. */
export const frame = (payload: string | Uint8Array, options: FrameOptions = {}): Buffer => {
  const data = typeof payload === "string" ? Buffer.from(payload) : Buffer.from(payload)
  const { claims = data.length, fin = true, masked = true, opcode = 1, rsv = 0 } = options
  const size = options.size ?? (claims < 126 ? 7 : claims < 65_536 ? 16 : 64)
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode]
  const mask = masked ? 0x80 : 0
  if (size === 7) head.push(mask | Number(claims))
  else if (size === 16) head.push(mask | 126, Number(claims) >> 8, Number(claims) & 0xff)
  else {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64BE(BigInt(claims))
    head.push(mask | 127, ...bytes)
  }
  if (!masked) return Buffer.concat([Buffer.from(head), data])
  const key = [0x12, 0x34, 0x56, 0x78]
  for (let index = 0; index < data.length; index++) data[index] = (data[index] ?? 0) ^ (key[index % 4] ?? 0)
  return Buffer.concat([Buffer.from([...head, ...key]), data])
}

/** What came back: frames by opcode. */
export interface Received {
  readonly opcode: number
  /** Whether it is a whole message, with none of the reserved bits. */
  readonly isPlain: boolean
  readonly payload: Buffer
  /** Where it ends in what came. */
  readonly end: number
}

export const readFrames = (data: Buffer): ReadonlyArray<Received> => {
  const frames: Array<Received> = []
  for (let at = 0; at + 2 <= data.length;) {
    const short = (data[at + 1] ?? 0) & 0x7f
    const start = at + (short === 126 ? 4 : short === 127 ? 10 : 2)
    if (start > data.length) break
    const length = short === 126
      ? data.readUInt16BE(at + 2)
      : short === 127
      ? Number(data.readBigUInt64BE(at + 2))
      : short
    const end = start + length
    if (end > data.length) break
    const first = data[at] ?? 0
    frames.push({ opcode: first & 0xf, isPlain: first >> 4 === 8, payload: data.subarray(start, end), end })
    at = end
  }
  return frames
}

const nothing = Buffer.alloc(0)

/** One TCP connection. */
export class Raw {
  readonly socket: Socket
  private received: Buffer = nothing
  private over = false
  private look: (() => void) | undefined

  private constructor(socket: Socket) {
    this.socket = socket
    // A peer that cuts the connection is what some attacks are about.
    socket.on("error", () => {})
    socket.on("data", (chunk: Buffer) => {
      this.received = Buffer.concat([this.received, chunk])
      this.look?.()
    })
    socket.on("close", () => {
      this.over = true
      this.look?.()
    })
  }

  /** Connects; also to a server that hangs up at once. */
  static dial(port: number): Promise<Raw> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1", noDelay: true })
      const raw = new Raw(socket)
      socket.once("connect", () => resolve(raw)).once("error", reject)
    })
  }

  /** A connection whose handshake has been accepted; what has come after it is there to be read. */
  static async open(port: number, text = request()): Promise<Raw> {
    const raw = await Raw.dial(port)
    raw.write(text)
    await raw.untilOver(() => raw.text.includes("\r\n\r\n"))
    if (raw.status !== 101) throw new Error(`the handshake was answered: ${raw.text}`)
    raw.received = raw.received.subarray(raw.received.indexOf("\r\n\r\n") + 4)
    return raw
  }

  write(data: string | Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(typeof data === "string" ? Buffer.from(data, "latin1") : data)
  }

  get text(): string {
    return this.received.toString("latin1")
  }

  /** Of the first answer; undefined where there is none. */
  get status(): number | undefined {
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(this.text)?.[1]
    return status === undefined ? undefined : Number(status)
  }

  /** Of all answers, one after the other. */
  get statuses(): ReadonlyArray<number> {
    return Array.from(this.text.matchAll(/HTTP\/1\.1 (\d{3}) /g), ([, status]) => Number(status))
  }

  get frames(): ReadonlyArray<Received> {
    return readFrames(this.received)
  }

  /** The text frames, read as JSON. */
  get messages(): ReadonlyArray<unknown> {
    return this.frames.filter(({ opcode }) => opcode === 1).map(({ payload }) => JSON.parse(payload.toString()))
  }

  /** The code of the close frame. */
  get code(): number | undefined {
    const payload = this.frames.find(({ opcode }) => opcode === 8)?.payload
    return payload === undefined || payload.length < 2 ? undefined : payload.readUInt16BE()
  }

  /** Resolves when the condition holds; fails where nothing more can come and it does not. */
  async until(condition: () => boolean): Promise<void> {
    await this.untilOver(condition)
    if (!condition()) throw new Error(`the connection is over, and there is no more than ${this.received.length} bytes`)
  }

  /** Resolves when the condition holds, or when nothing more can come: a test has to look at which. */
  async untilOver(condition: () => boolean): Promise<void> {
    while (!condition() && !this.over) {
      await new Promise<void>((resolve) => {
        this.look = resolve
      })
    }
  }

  /** The connection is over. */
  get closed(): Promise<void> {
    return this.untilOver(() => false)
  }

  get isClosed(): boolean {
    return this.over
  }

  /** Sends a message; what comes back first. */
  async ask(message: ReadonlyArray<unknown>): Promise<unknown> {
    const before = this.messages.length
    this.write(frame(JSON.stringify(message)))
    await this.until(() => this.messages.length > before)
    return this.messages[before]
  }

  /** Leaves without a word. */
  reset(): Promise<void> {
    this.socket.resetAndDestroy()
    return this.closed
  }

  /** Leaves. */
  hangUp(): Promise<void> {
    this.socket.end()
    return this.closed
  }
}

/** The answer to a request that is sent as it is. */
export const answer = async (port: number, text: string | Uint8Array): Promise<number | "hung up"> => {
  const raw = await Raw.dial(port)
  raw.write(text)
  await raw.untilOver(() => raw.status !== undefined)
  const status = raw.status ?? "hung up"
  await raw.reset()
  return status
}
