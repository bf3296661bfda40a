/** What is measured, and on which servers. */
import type { Compression } from "./client/connection.ts"
import { rounded } from "./client/load.ts"
import type { Name } from "./client/protocol.ts"
import type { Result } from "./client/scenarios.ts"

export interface Server {
  readonly name: string
  readonly protocol: Name
  /** What Node is given to run it. */
  readonly command: ReadonlyArray<string>
}

/**
 * For all of them. By default Node lets the heap's young generation grow to several times this while connections are
 * opened, and keeps the memory: 6 to 8 KB more for each of 10,000 connections, and nothing is faster for it.
 */
export const nodeOptions: ReadonlyArray<string> = ["--max-semi-space-size=16"]

export const servers: ReadonlyArray<Server> = [
  {
    name: "effect-channels",
    protocol: "phoenix",
    command: ["--conditions=effect-channels-source", "bench/server.ts"]
  },
  { name: "raw-ws", protocol: "phoenix", command: ["bench/raw-ws.ts"] },
  { name: "socket.io", protocol: "socket.io", command: ["bench/socket-io.ts"] }
]

/** With which all others are compared. */
export const baseline = "raw-ws"

/** A number that a cell gives. */
export interface Figure {
  readonly title: string
  readonly unit: string
  readonly of: (result: Result) => number | undefined
  /** Of times, costs and sizes the smaller is the better. */
  readonly less?: boolean
  /** Whether the plot shows it. */
  readonly plot?: boolean
}

export interface Cell {
  readonly name: string
  /** Options of the load client. */
  readonly load: string
  /** The server compresses, and so does the client: `offered` if it only reads what is compressed. */
  readonly compress?: Compression
  readonly figures: ReadonlyArray<Figure>
}

const field = (name: string) => ({ figures }: Result): number | undefined => figures[name]

const rate = (title: string, unit: string, plot = false): Figure => ({
  title,
  unit: `${unit}/s`,
  of: field("per_second"),
  plot
})
const less = (title: string, unit: string, name: string): Figure => ({ title, unit, of: field(name), less: true })
const memory = "RSS per idle joined connection, 10,000"

export const cells: ReadonlyArray<Cell> = [
  {
    name: "echo-100",
    load: "echo --connections 100 --window 10 --warmup 3",
    figures: [
      rate("echo, 100 connections, 10 in flight", "round trips", true),
      less("the same: CPU of the server for each", "us", "server_cpu_us")
    ]
  },
  {
    name: "echo-1000",
    load: "echo --connections 1000 --warmup 3",
    figures: [
      rate("echo, 1,000 connections, 1 in flight", "round trips", true),
      less("the same: CPU of the server for each", "us", "server_cpu_us")
    ]
  },
  {
    name: "echo-1",
    load: "echo --connections 1 --warmup 2",
    figures: [
      less("echo, 1 connection, 1 in flight: p50", "ms", "p50_ms"),
      less("echo, 1 connection, 1 in flight: p99", "ms", "p99_ms")
    ]
  },
  {
    name: "fanout-1",
    load: "fanout --connections 1000 --warmup 3",
    figures: [rate("fan-out, 1,000 members of one topic", "deliveries", true)]
  },
  {
    name: "fanout-100",
    load: "fanout --connections 1000 --topics 100 --publishers 100 --warmup 3",
    figures: [rate("fan-out, 100 topics of 10 members", "deliveries", true)]
  },
  {
    name: "fanout-rate",
    load: "fanout --connections 1000 --rate 20 --warmup 2",
    figures: [
      less("20 broadcasts/s to 1,000 members: p50", "ms", "p50_ms"),
      less("20 broadcasts/s to 1,000 members: p99", "ms", "p99_ms")
    ]
  },
  {
    name: "topics-10",
    load: "fanout --connections 10 --topics 10 --publishers 10 --rotate --warmup 3",
    figures: [less("broadcast in turn to 10 topics of 1 member", "us of CPU", "server_cpu_us")]
  },
  {
    name: "topics-10000",
    load: "fanout --connections 10000 --topics 10000 --publishers 10 --rotate --warmup 3",
    figures: [less("broadcast in turn to 10,000 topics of 1 member", "us of CPU", "server_cpu_us")]
  },
  {
    name: "connect",
    load: "connect --connections 10000 --hold 15",
    figures: [
      rate("connect and join, 10,000", "connections", true),
      { ...less(memory, "KB", "kb_per_connection"), plot: true }
    ]
  },
  {
    name: "churn",
    load: "churn --concurrency 64 --warmup 3",
    figures: [rate("connect, join, echo, leave, close", "cycles", true)]
  },
  {
    name: "presence",
    load: "presence --connections 500 --concurrency 1",
    figures: [less("500 join one presence topic one by one: all have seen all", "s", "seconds_to_all")]
  },
  {
    name: "echo-offered",
    load: "echo --connections 100 --window 10 --warmup 3",
    compress: "offered",
    figures: [rate("echo, 100 connections, 10 in flight, compression offered", "round trips")]
  },
  {
    name: "echo-compress",
    load: "echo --connections 100 --window 10 --warmup 3",
    compress: "all",
    figures: [rate("echo, 100 connections, 10 in flight, compressed", "round trips")]
  },
  {
    name: "connect-compress",
    load: "connect --connections 10000 --hold 15",
    compress: "all",
    figures: [
      rate("connect and join, 10,000, compressed", "connections"),
      less(`${memory}, compressed`, "KB", "kb_per_connection")
    ]
  }
]

/** Whether there is such a thing on the server. */
export const applies = ({ load }: Cell, { protocol }: Server): boolean =>
  !load.startsWith("presence") || protocol === "phoenix"

/** Added to the load of every cell for a quick look. */
export const quick = "--seconds 1 --warmup 0.5 --hold 3"

export interface Run {
  readonly cell: string
  readonly server: string
  readonly round: number
  readonly result: Result
}

/** A figure of a server in all rounds. */
export interface Summary {
  readonly median: number
  /** What to know before believing it. */
  readonly marks: string
}

export const marks = {
  "*": "the load client was at 90 % of its core or above: the server may be faster than this",
  "~": "other processes took more than 10 % of a core: measure again when the machine is quiet",
  "!": "messages or connections were lost, doubled, changed or out of order"
} as const

export const summary = (runs: ReadonlyArray<Run>, cell: Cell, figure: Figure, server: string): Summary | undefined => {
  const results = runs.filter((run) => run.cell === cell.name && run.server === server).map(({ result }) => result)
  const values = results.flatMap((result) => figure.of(result) ?? [])
  if (values.length === 0) return undefined
  const percent = (name: string) => median(results.map(({ figures }) => figures[name] ?? 0))
  const applying = [
    percent("client_cpu_pct") >= 90 && "*",
    percent("other_cpu_pct") > 10 && "~",
    results.some(({ ok }) => !ok) && "!"
  ]
  return { median: median(values), marks: applying.filter((mark) => mark !== false).join("") }
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const [low = 0, high = 0] = [sorted[sorted.length % 2 === 0 ? middle - 1 : middle], sorted[middle]]
  return rounded((low + high) / 2)
}

export const shown = (value: number): string =>
  value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? value < 10 ? 2 : 1 : 0 })
