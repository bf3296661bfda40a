import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:net"
import { describe, expect, it, onTestFinished } from "vitest"
import { type WebSocket, WebSocketServer } from "ws"
import { applies, cells, servers } from "../bench/cells.ts"
import { Reader } from "../bench/client/frame.ts"
import { Histogram } from "../bench/client/histogram.ts"
import { defaults, type Options, parse, UsageError } from "../bench/client/options.ts"
import { Payloads, Sequence } from "../bench/client/payload.ts"
import { run } from "../bench/client/scenarios.ts"
import { freePort } from "../scripts/freePort.ts"

const portOf = (address: ReturnType<WebSocketServer["address"]>): number => {
  if (address === null || typeof address === "string") throw new Error("there is no port")
  return address.port
}

/** What is sent instead of the text that carries the nth message of a sender, to the second connection. */
type Fault = (n: number, text: string, ws: WebSocket) => ReadonlyArray<string>

const third = (instead: (text: string, ws: WebSocket) => ReadonlyArray<string>): Fault => (n, text, ws) =>
  n === 3 ? instead(text, ws) : [text]

const swapped = (): Fault => {
  let held = ""
  return (n, text) => {
    if (n === 3) held = text
    return n === 3 ? [] : n === 4 ? [text, held] : [text]
  }
}

/** Echoes and shouts, to the second connection with a fault. */
const misbehaving = async (fault: Fault, options: { readonly deflate?: boolean; readonly fragment?: boolean } = {}) => {
  const server = new WebSocketServer({
    port: 0,
    host: "127.0.0.1",
    perMessageDeflate: options.deflate === true ? { threshold: 0 } : false
  })
  await once(server, "listening")
  onTestFinished(() => new Promise<void>((resolve) => server.close(() => resolve())))
  const clients: Array<WebSocket> = []
  const send = (ws: WebSocket, text: string) => {
    if (options.fragment !== true) return ws.send(text)
    ws.send(text.slice(0, 10), { fin: false })
    ws.send(text.slice(10))
  }
  const deliver = (ws: WebSocket, n: number, message: unknown) => {
    const text = JSON.stringify(message)
    for (const sent of ws === clients[1] ? fault(n, text, ws) : [text]) send(ws, sent)
  }
  server.on("connection", (ws) => {
    clients.push(ws)
    ws.on("message", (data) => {
      const [joinRef, ref, topic, event, payload] = JSON.parse(String(data))
      const reply = (response: unknown) => [joinRef, ref, topic, "phx_reply", { status: "ok", response }]
      if (event === "phx_join") send(ws, JSON.stringify(reply({})))
      if (event === "echo") deliver(ws, payload.s, reply(payload))
      if (event === "shout") {
        for (const client of clients) deliver(client, payload.s, [null, null, topic, event, payload])
      }
    })
  })
  return portOf(server.address())
}

const clean = { failed: 0, lost: 0, missing: 0, doubled: 0, out_of_order: 0, changed: 0, unexpected: 0 }

/** Two connections, one after the other, and so many messages that any fault shows. */
const play = (scenario: Options["scenario"], port: number, options: Partial<Options> = {}) =>
  run({
    ...defaults,
    scenario,
    port,
    connections: 2,
    concurrency: 1,
    window: 4,
    messages: 40,
    drain: 0.3,
    ...options
  })

describe.each(["echo", "fanout"] as const)("the load client, in %s,", (scenario) => {
  it.each([
    { what: "a healthy server", fault: () => third((text) => [text]), wrong: {} },
    { what: "a lost message", fault: () => third(() => []), wrong: { missing: 1 } },
    { what: "a doubled message", fault: () => third((text) => [text, text]), wrong: { doubled: 1 } },
    { what: "two swapped messages", fault: swapped, wrong: { out_of_order: 1 } },
    {
      what: "a changed letter",
      fault: () => third((text) => [text.replace("xx", "xy")]),
      wrong: { changed: 1, missing: 1 }
    },
    {
      what: "a changed number",
      fault: () => third((text) => [text.replace("\"s\":3", "\"s\":2")]),
      wrong: { changed: 1, missing: 1 }
    },
    {
      what: "a message of another topic",
      fault: () => third((text) => [text.replace("bench:0", "bench:1")]),
      wrong: { unexpected: 1, missing: 1 }
    },
    { what: "no JSON", fault: () => third((text) => [text, "oops"]), wrong: { unexpected: 1 } }
  ])("counts $what", async ({ fault, wrong }) => {
    const result = await play(scenario, await misbehaving(fault()))
    expect(result.wrong).toEqual({ ...clean, ...wrong })
    expect(result.ok).toBe(Object.keys(wrong).length === 0)
    expect(result.figures["count"]).toBeGreaterThan(0)
  })

  it("counts a connection that the server cuts", async () => {
    const port = await misbehaving(third((_text, ws) => {
      ws.terminate()
      return []
    }))
    const result = await play(scenario, port)
    expect(result).toMatchObject({ ok: false, wrong: { failed: 0, lost: 1 }, reasons: ["closed by the server"] })
  })

  it("reads fragments, and what is compressed", async () => {
    const healthy = third((text) => [text])
    expect((await play(scenario, await misbehaving(healthy, { fragment: true }))).wrong).toEqual(clean)
    const compressing = await misbehaving(healthy, { deflate: true, fragment: true })
    expect((await play(scenario, compressing, { compress: "all" })).wrong).toEqual(clean)
  })
})

it("counts the connections that a server refuses", async () => {
  const server = createServer((socket) => socket.end("HTTP/1.1 403 Forbidden\r\n\r\n")).listen(0, "127.0.0.1")
  await once(server, "listening")
  onTestFinished(() => void server.close())
  const result = await play("connect", portOf(server.address()))
  expect(result).toMatchObject({ ok: false, wrong: { ...clean, failed: 2 } })
  expect(result.reasons).toEqual(["Error: the server answers HTTP/1.1 403 Forbidden"])
})

it.each([100, 200, 70_000])("reads a frame of %i bytes however it is cut", (length) => {
  const text = "y".repeat(length)
  const head = length < 126
    ? [0x81, length]
    : length < 65_536
    ? [0x81, 126, length >> 8, length & 0xff]
    : [0x81, 127, 0, 0, 0, 0, 0, length >> 16, (length >> 8) & 0xff, length & 0xff]
  const bytes = Buffer.concat([Buffer.from(head), Buffer.from(text), Buffer.from([0x89, 0])])
  for (const size of [bytes.length, 4093, ...(length < 1000 ? [1, 3] : [])]) {
    const got: Array<string | number> = []
    const reader = new Reader({ message: (text) => got.push(text), control: (opcode) => got.push(opcode) })
    for (let at = 0; at < bytes.length; at += size) reader.read(bytes.subarray(at, at + size))
    expect(got).toEqual([text, 9])
  }
})

it("keeps account of any order", () => {
  const sequence = new Sequence()
  expect([0, 3, 1, 1, 3, 5].map((n) => sequence.saw(n))).toEqual([true, true, true, false, false, true])
  expect([sequence.doubled, sequence.outOfOrder, sequence.missingOf(8)]).toEqual([2, 1, 4])
})

it("makes payloads of the length asked for", () => {
  for (const bytes of [56, 64, 60_000]) {
    const payload = new Payloads(bytes).compose(27_999, 1_234_567, 999_999_999)
    expect(payload).toHaveLength(bytes)
    expect(new Payloads(bytes).check(JSON.parse(payload))).toEqual({ from: 27_999, n: 1_234_567, at: 999_999_999 })
  }
})

it("finds quantiles to within a percent", () => {
  const histogram = new Histogram()
  for (let n = 1; n <= 100_000; n++) histogram.add(n * 7)
  for (const part of [0.01, 0.5, 0.99, 1]) {
    expect(Math.abs(histogram.quantile(part) / (700_000 * part) - 1)).toBeLessThan(0.01)
  }
})

it.each([
  [["echo"], "--port says where the server is"],
  [["ekko", "--port", "1"], "a scenario is one of echo, fanout, connect, churn, presence, not ekko"],
  [["echo", "--port", "1", "--window", "many"], "--window is a whole number from 1 to 10000, not many"],
  [["echo", "--port", "1", "--window", "1.5"], "--window is a whole number from 1 to 10000, not 1.5"],
  [["echo", "--port", "1", "--windows", "2"], "Unknown option '--windows'"],
  [["fanout", "--port", "1", "--publishers", "101"], "there are more publishers than connections"],
  [["presence", "--port", "1", "--protocol", "socket.io"], "socket.io has no presence"]
])("says what is wrong with %j", (args, problem) => {
  expect(() => parse(args)).toThrow(UsageError)
  expect(() => parse(args)).toThrow(problem)
})

it("has loads that the client understands in all cells", () => {
  for (const { load } of cells) expect(parse(`${load} --port 1`.split(" ")).port).toBe(1)
})

it.each(servers)("$name does all that is measured", async (server) => {
  const port = await freePort("127.0.0.1")
  const child = spawn(process.execPath, server.command, {
    env: { ...process.env, PORT: String(port), COMPRESS: "1" },
    stdio: ["ignore", "pipe", "inherit"]
  })
  const ended = once(child, "close")
  onTestFinished(async () => {
    child.kill("SIGTERM")
    await ended
  })
  for await (const line of child.stdout) if (String(line).includes("listening")) break
  for (const cell of cells.filter((cell) => applies(cell, server))) {
    const { connections, publishers, topics, ...options } = parse(`${cell.load} --port ${port}`.split(" "))
    const result = await run({
      ...options,
      protocol: server.protocol,
      compress: cell.compress ?? "none",
      connections: Math.min(connections, 20),
      topics: Math.min(topics, 10),
      publishers: Math.min(publishers, 10),
      concurrency: Math.min(options.concurrency, 4),
      rate: Math.min(options.rate * 10, 200),
      messages: 40,
      hold: 0
    })
    expect(result).toMatchObject({ ok: true, wrong: clean })
    expect(result.figures["count"]).toBeGreaterThan(0)
  }
})
