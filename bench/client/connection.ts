/** A WebSocket connection of the load client: a TCP connection, its upgrade, and frames in and out. */
import { createHash, randomBytes } from "node:crypto"
import { connect, type Socket } from "node:net"
import * as Frame from "./frame.ts"

/** Whether to offer compression, and to compress all that is sent, as browsers do. */
export const compressions = ["none", "offered", "all"] as const
export type Compression = typeof compressions[number]

export interface Target {
  readonly port: number
  readonly path: string
  readonly compress: Compression
}

export interface Handler {
  readonly opened: () => void
  readonly message: (text: string) => void
  /** Once, whoever has closed it. */
  readonly closed: (why: string) => void
}

/** All connections share a key, so that its answer has to be worked out once only. */
const key = randomBytes(16).toString("base64")
const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64")

const upgrade = ({ compress, path, port }: Target) =>
  [
    `GET ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    `Origin: http://127.0.0.1:${port}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${key}`,
    // What the server compresses has to be read without remembering what came before it.
    ...(compress !== "none" ? ["Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"] : []),
    "\r\n"
  ].join("\r\n")

/** Every connection reads into this one: what is in it is dealt with before the next one reads. */
const incoming = Buffer.allocUnsafeSlow(256 * 1024)

const normalClosure = Buffer.from([0x03, 0xe8])

export class Connection {
  private readonly socket: Socket
  private readonly handler: Handler
  private readonly target: Target
  private readonly reader: Frame.Reader
  private head: string | undefined = ""
  private compress = false
  private reading = false
  private silent = false
  private unsent: Array<string> = []
  private why = "closed by the server"

  constructor(target: Target, handler: Handler) {
    this.target = target
    this.handler = handler
    this.reader = new Frame.Reader({
      message: handler.message,
      control: (opcode, body) => this.control(opcode, body)
    })
    this.socket = connect({
      host: "127.0.0.1",
      port: target.port,
      noDelay: true,
      onread: {
        buffer: incoming,
        callback: (size) => {
          this.read(incoming.subarray(0, size))
          return !this.silent
        }
      }
    })
    this.socket.once("connect", () => this.socket.write(upgrade(target)))
    this.socket.on("error", (error) => this.why = error.message)
    this.socket.once("close", () => handler.closed(this.why))
  }

  /** Sends texts in one write, together with all that is sent while a chunk is read. */
  send(...texts: ReadonlyArray<string>): void {
    this.unsent.push(...texts)
    if (!this.reading) this.flush()
  }

  /** Begins the close handshake; it is the server that closes the TCP connection. */
  close(): void {
    this.flush()
    this.socket.write(Frame.control(Frame.opcodes.close, normalClosure))
  }

  destroy(why: string): void {
    this.why = why
    this.socket.destroy()
  }

  /** Cuts the connection with a reset, as a machine does that has forgotten it. */
  reset(): void {
    this.why = "reset"
    this.socket.resetAndDestroy()
  }

  /** Says no more, while the server may still talk. */
  halfClose(): void {
    this.flush()
    this.socket.end()
  }

  /** Neither reads nor writes from now on, as a machine whose network is gone. */
  fallSilent(): void {
    this.silent = true
    this.socket.pause()
  }

  private flush(): void {
    if (this.silent || this.unsent.length === 0) return
    this.socket.write(Frame.encode(this.unsent, this.compress))
    this.unsent = []
  }

  private read(chunk: Buffer): void {
    this.reading = true
    try {
      if (this.head === undefined) this.reader.read(chunk)
      else this.readHead(chunk)
    } catch (error) {
      this.destroy(String(error))
    }
    this.reading = false
    this.flush()
  }

  private readHead(chunk: Buffer): void {
    const head = `${this.head ?? ""}${chunk.toString("latin1")}`
    const end = head.indexOf("\r\n\r\n")
    this.head = head
    if (end < 0) return
    this.head = undefined
    const [status = "", ...headers] = head.slice(0, end).split("\r\n")
    const header = (name: string) =>
      headers.find((line) => line.toLowerCase().startsWith(`${name}:`))?.slice(name.length + 1).trim()
    if (!status.startsWith("HTTP/1.1 101 ")) throw new Error(`the server answers ${status}`)
    if (header("sec-websocket-accept") !== accept) throw new Error("the server answers a key that was not sent")
    const accepted = header("sec-websocket-extensions")?.startsWith("permessage-deflate") === true
    if (accepted !== (this.target.compress !== "none")) throw new Error("the server does not compress")
    this.compress = this.target.compress === "all"
    this.handler.opened()
    if (head.length > end + 4) this.reader.read(Buffer.from(head.slice(end + 4), "latin1"))
  }

  private control(opcode: number, body: Buffer): void {
    if (opcode === Frame.opcodes.ping) {
      this.socket.write(Frame.control(Frame.opcodes.pong, body))
    } else if (opcode === Frame.opcodes.close) {
      this.why = `closed by the server with ${body.length < 2 ? "no code" : body.readUInt16BE(0)}`
      this.socket.write(Frame.control(Frame.opcodes.close, body.subarray(0, 2)))
    }
  }
}
