/**
 * Conversations recorded from Phoenix 1.8.12, held again with ours: every frame must be equal, JSON by its content.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { globSync, readFileSync } from "node:fs"
import { createServer } from "node:net"
import { basename } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { WebSocket } from "ws"

interface Send {
  readonly send: string
  readonly text?: string
  readonly binary?: string
}
type Step =
  & { readonly received: Readonly<Record<string, ReadonlyArray<Received>>>; readonly any?: true }
  & (
    | { readonly open: string; readonly vsn: string | null; readonly params: Readonly<Record<string, string>> }
    | { readonly close: string; readonly code: number }
    | { readonly batch: ReadonlyArray<Send> }
    | Send
  )
type Received = Readonly<Record<string, unknown>>

const fence = "[null,\"fence\",\"phoenix\",\"heartbeat\",{}]"
const fenceV1 = "{\"topic\":\"phoenix\",\"event\":\"heartbeat\",\"payload\":{},\"ref\":\"fence\"}"

let server: ChildProcess
let port: number

beforeAll(async () => {
  const probe = createServer().listen(0, "127.0.0.1")
  await once(probe, "listening")
  const address = probe.address()
  port = typeof address === "object" && address !== null ? address.port : 0
  probe.close()
  await once(probe, "close")
  server = spawn(process.execPath, ["--conditions=effect-channels-source", "test/conformance/server.ts"], {
    env: { ...process.env, PORT: String(port) },
    stdio: ["ignore", "pipe", "inherit"]
  })
  await new Promise<void>((resolve, reject) => {
    server.stdout?.on("data", (chunk) => String(chunk).includes("listening") && resolve())
    server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)))
  })
}, 30_000)

afterAll(() => {
  server.kill()
})

/** A client, and what it has received since the last step. */
class Client {
  readonly events = Effect.runSync(Queue.unbounded<Received>())
  private readonly v1: boolean
  private readonly ws: WebSocket

  constructor(step: { readonly vsn: string | null; readonly params: Readonly<Record<string, string>> }) {
    this.v1 = step.vsn === null || step.vsn.startsWith("1.")
    const query = new URLSearchParams({ ...step.params, ...(step.vsn === null ? {} : { vsn: step.vsn }) })
    this.ws = new WebSocket(`ws://127.0.0.1:${port}/socket/websocket?${query}`)
    const emit = (event: Received) => Queue.offerUnsafe(this.events, event)
    this.ws.on("open", () => emit({ opened: true }))
    this.ws.on("unexpected-response", (_request, response) => {
      response.resume()
      emit({ refused: response.statusCode, body: "" })
    })
    this.ws.on("error", () => {})
    this.ws.on("message", (data: Buffer, isBinary) => {
      const event = isBinary ? { binary: data.toString("hex") } : { json: JSON.parse(data.toString()) }
      if (!isDifference(event)) emit(event)
    })
    this.ws.on("close", (code) => emit({ closed: code }))
  }
  get open(): boolean {
    return this.ws.readyState === WebSocket.OPEN
  }
  send(step: Send): void {
    this.ws.send(step.text ?? Buffer.from(step.binary ?? "", "hex"))
  }
  close(code: number): void {
    this.ws.close(code)
  }
  fence(): void {
    this.ws.send(this.v1 ? fenceV1 : fence)
  }
}

/** Deliberate differences, each with its reason: frames that only ours sends, or only Phoenix. */
const differences: ReadonlyArray<{ readonly why: string; readonly frames: RegExp }> = [
  {
    why:
      "terminate runs on a duplicate join, with {:shutdown, :duplicate_join}; Phoenix skips it, or crashes if trapping",
    frames: /\{:shutdown, :duplicate_join\}|"<exception>","topic":"room:\w+-trap"/
  }
]
const isDifference = (event: Received): boolean => differences.some(({ frames }) => frames.test(JSON.stringify(event)))

const isFence = (event: Received): boolean => JSON.stringify(event).includes("\"fence\"")

/** What is expected without what a recording cannot promise. */
const comparable = (event: Received): Received => {
  const { decoded: _decoded, text: _text, ...rest } = event
  return rest
}

const byText = (a: Received, b: Received): number => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1

const masked = (expected: Received, actual: Received): Received => {
  const text = JSON.stringify(expected)
  if (text.includes("<exception>")) return JSON.parse(JSON.stringify(actual).replace(/"exception"/, "\"<exception>\""))
  if (text.includes("<transport closed>")) {
    return JSON.parse(
      JSON.stringify(actual).replace(/"\{:shutdown, :(local_closed|peer_closed|closed)\}"/, "\"<transport closed>\"")
    )
  }
  return actual
}

const play = Effect.fnUntraced(function*(name: string, steps: ReadonlyArray<Step>) {
  const clients = new Map<string, Client>()
  const client = (id: string): Client => {
    const found = clients.get(id)
    if (found === undefined) throw new Error(`no client ${id}`)
    return found
  }
  const id = Math.random().toString(36).slice(2, 10).padEnd(8, "0")
  for (const [index, recorded] of steps.entries()) {
    const text = JSON.stringify(recorded)
    // Binary recordings hold the masked name in hex.
    const hex = Buffer.from("IDIDIDID").toString("hex")
    const step: Step = JSON.parse(text.replaceAll("IDIDIDID", id).replaceAll(hex, Buffer.from(id).toString("hex")))
    if ("open" in step) clients.set(step.open, new Client(step))
    else if ("close" in step) client(step.close).close(step.code)
    else if ("batch" in step) { for (const send of step.batch) client(send.send).send(send) }
    else client(step.send).send(step)
    for (const [id, client] of clients) {
      const expected = (step.received[id] ?? []).filter((event) => !isDifference(event)).map(comparable)
      const actual: Array<Received> = []
      while (actual.length < expected.length) {
        const event = yield* Effect.timeoutOption(Queue.take(client.events), "3 seconds")
        if (event._tag === "None") break
        actual.push(event.value)
      }
      if (client.open) {
        client.fence()
        for (;;) {
          const event = yield* Effect.timeoutOption(Queue.take(client.events), "5 seconds")
          if (event._tag === "None" || isFence(event.value)) break
          actual.push(event.value)
        }
      }
      const sort = (events: ReadonlyArray<Received>) => step.any === true ? events.toSorted(byText) : events
      assert.deepStrictEqual(
        sort(actual.map((event, n) => masked(expected[n] ?? {}, event))),
        sort(expected),
        `${name}, step ${index}, client ${id}: ${text.slice(0, 200)}`
      )
    }
  }
  for (const client of clients.values()) client.close(1000)
})

describe("what Phoenix 1.8.12 said, ours says", () => {
  for (const path of globSync("test/conformance/golden/*.json").toSorted()) {
    const recording: { readonly title: string; readonly steps: ReadonlyArray<Step> } = JSON.parse(
      readFileSync(path, "utf8")
    )
    it.live(`${basename(path, ".json")}: ${recording.title}`, () => play(basename(path), recording.steps))
  }
})
