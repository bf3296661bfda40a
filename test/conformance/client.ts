/** A client that speaks the wire format itself. */
import { Buffer } from "node:buffer"
import { once } from "node:events"
import { type ClientOptions, WebSocket } from "ws"

/** A frame as it came: JSON, or the bytes of a binary one in hex. */
export type Frame = unknown

export class Client {
  readonly ws: WebSocket
  /** The close code. */
  readonly closed: Promise<number>
  private readonly received: Array<Frame> = []
  private readonly waiting: Array<(frame: Frame) => void> = []
  private refs = 0

  private constructor(url: string, options: ClientOptions) {
    this.ws = new WebSocket(url, options)
    this.ws.on("error", () => {})
    this.closed = new Promise((resolve) => this.ws.on("close", resolve))
    this.ws.on("message", (data: Buffer, isBinary) => {
      const frame = isBinary ? data.toString("hex") : JSON.parse(data.toString())
      const waiting = this.waiting.shift()
      if (waiting === undefined) this.received.push(frame)
      else waiting(frame)
    })
  }

  static async open(port: number, query = "vsn=2.0.0", options: ClientOptions = {}): Promise<Client> {
    const client = new Client(`ws://127.0.0.1:${port}/socket/websocket?${query}`, options)
    await once(client.ws, "open")
    return client
  }

  /** The status of a refused handshake. */
  static refused(port: number, query = "vsn=2.0.0", options: ClientOptions = {}): Promise<number | undefined> {
    const { ws } = new Client(`ws://127.0.0.1:${port}/socket/websocket?${query}`, options)
    return new Promise((resolve, reject) => {
      ws.on("unexpected-response", (_request, response) => {
        response.resume()
        resolve(response.statusCode)
      })
      ws.on("open", () => reject(new Error("the connection was accepted")))
    })
  }

  send(frame: string | Buffer | ReadonlyArray<unknown> | Readonly<Record<string, unknown>>): void {
    this.ws.send(typeof frame === "string" || Buffer.isBuffer(frame) ? frame : JSON.stringify(frame))
  }

  next(): Promise<Frame> {
    return this.received.length > 0
      ? Promise.resolve(this.received.shift())
      : new Promise((resolve) => this.waiting.push(resolve))
  }

  async take(count: number): Promise<ReadonlyArray<Frame>> {
    const frames: Array<Frame> = []
    while (frames.length < count) frames.push(await this.next())
    return frames
  }

  /** Sends a frame; what comes back first. */
  ask(frame: Parameters<Client["send"]>[0]): Promise<Frame> {
    this.send(frame)
    return this.next()
  }

  /** Joins a topic with `1` as the join_ref and expects an empty reply. */
  async join(topic: string, payload: unknown = {}): Promise<void> {
    const reply = JSON.stringify(await this.ask(["1", "1", topic, "phx_join", payload]))
    if (!reply.includes("\"ok\"")) throw new Error(`not joined: ${reply}`)
  }

  /** Sends an event to a topic that was joined by {@link join}; its ref. */
  push(topic: string, event: string, payload: unknown): string {
    const ref = `r${++this.refs}`
    this.send(["1", ref, topic, event, payload])
    return ref
  }

  /** As {@link push}; what the reply says. The reply has to come first. */
  async call(topic: string, event: string, payload: unknown = {}): Promise<unknown> {
    const ref = this.push(topic, event, payload)
    const frame = await this.next()
    if (!Array.isArray(frame) || frame[1] !== ref) throw new Error(`no reply to ${event}: ${JSON.stringify(frame)}`)
    return frame[4]
  }

  /** Waits until everything that was sent before has been looked at; nothing may have come until then. */
  async quiet(): Promise<void> {
    const frame = JSON.stringify(await this.ask([null, "quiet", "phoenix", "heartbeat", {}]))
    if (!frame.startsWith("[null,\"quiet\"")) throw new Error(`not quiet: ${frame}`)
  }
}

export const ok = (response: unknown = {}): unknown => ({ status: "ok", response })

/** A binary frame as clients send it. */
export const binary = (
  joinRef: string,
  ref: string,
  topic: string,
  event: string,
  data: ReadonlyArray<number>
): Buffer => {
  const fields = [joinRef, ref, topic, event].map((text) => Buffer.from(text))
  return Buffer.concat([Buffer.from([0, ...fields.map(({ length }) => length)]), ...fields, Buffer.from(data)])
}
