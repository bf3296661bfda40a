/** What the load client is told on its command line. */
import { parseArgs } from "node:util"
import { type Compression, compressions } from "./connection.ts"
import { maxText } from "./frame.ts"
import { maxOpenFiles } from "./machine.ts"
import { minBytes } from "./payload.ts"
import { type Name, names } from "./protocol.ts"

export const scenarios = ["echo", "fanout", "connect", "churn", "presence"] as const
export type Scenario = (typeof scenarios)[number]

/** More have no port to come from, on one address. */
const maxConnections = 28_000

interface Quantity {
  readonly preset: number
  readonly min: number
  readonly max: number
  /** Not only whole numbers. */
  readonly fraction?: boolean
  readonly what: string
}

const time = { min: 0, max: 3600, fraction: true }
const count = { min: 1, max: maxConnections }

const quantities = {
  connections: { ...count, preset: 100, what: "how many; for churn see --concurrency" },
  concurrency: { ...count, preset: 128, what: "connections that are opened, joined or churned at once" },
  topics: { ...count, preset: 1, what: "connection n joins topic n modulo this" },
  window: { min: 1, max: 10_000, preset: 1, what: "echo: messages in the air for each connection" },
  publishers: { ...count, preset: 1, what: "fanout: the first so many connections publish" },
  rate: { min: 0, max: 1e6, fraction: true, preset: 0, what: "fanout: broadcasts per second; 0: when one is back" },
  bytes: { min: minBytes, max: maxText - 500, preset: 64, what: "length of a payload" },
  seconds: { ...time, preset: 5, what: "how long to measure" },
  warmup: { ...time, preset: 1, what: "seconds before that" },
  messages: { min: 0, max: 1e9, preset: 0, what: "measure until so many are sent instead, without warm-up" },
  drain: { ...time, preset: 2, what: "seconds without news until what is missing is given up" },
  hold: { ...time, preset: 0, what: "connect: seconds to stay, before memory is read" }
} satisfies Record<string, Quantity>

type Quantities = { readonly [Name in keyof typeof quantities]: number }

export interface Options extends Quantities {
  readonly scenario: Scenario
  readonly protocol: Name
  readonly port: number
  /** The server's process, where its memory and CPU are to be read. */
  readonly pid: number | undefined
  /** fanout: after each broadcast it is the next connection's turn. */
  readonly rotate: boolean
  /** What the names of topics begin with. */
  readonly prefix: string
  readonly compress: Compression
}

const quantitiesFrom = (valueOf: (name: string, quantity: Quantity) => number) =>
  Object.fromEntries(
    Object.entries(quantities).map(([name, quantity]) => [name, valueOf(name, quantity)])
  ) as unknown as Quantities

export const defaults: Omit<Options, "scenario" | "port"> = {
  ...quantitiesFrom((_name, { preset }) => preset),
  protocol: "phoenix",
  pid: undefined,
  rotate: false,
  prefix: "bench:",
  compress: "none"
}

/** Says what is wrong with the options. */
export class UsageError extends Error {}

const line = (option: string, what: string) => `  --${option.padEnd(14)}${what}`

export const usage = [
  `client.ts ${scenarios.join("|")} --port PORT [options]      prints a line of JSON`,
  line("protocol", `${names.join(" or ")}; default ${defaults.protocol}`),
  line("pid", "the server's process, for its CPU and memory"),
  line(
    "compress",
    `${compressions.join(", ")}: whether permessage-deflate is offered, and all that is sent compressed`
  ),
  line("prefix", `what the names of topics begin with; default ${defaults.prefix}`),
  line("rotate", "fanout: after each broadcast it is the next connection's turn"),
  ...Object.entries(quantities).map(([name, { preset, what }]) => line(name, `${what}; default ${preset}`))
].join("\n")

/** Parses a command line; what is wrong with it is a {@link UsageError}. */
export const parsed = <T>(parse: () => T): T => {
  try {
    return parse()
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

const text = { type: "string" } as const
const flag = { type: "boolean", default: false } as const

export const parse = (args: ReadonlyArray<string>): Options => {
  const { positionals, values } = parsed(() =>
    parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        protocol: { ...text, default: defaults.protocol },
        port: text,
        pid: text,
        rotate: flag,
        prefix: { ...text, default: defaults.prefix },
        compress: { ...text, default: defaults.compress },
        ...Object.fromEntries(Object.keys(quantities).map((name) => [name, text] as const))
      }
    })
  )
  const given: Readonly<Record<string, string | boolean | undefined>> = values
  const number = (name: string, { fraction = false, max, min, preset }: Quantity): number => {
    const text = given[name]
    if (text === undefined) return preset
    const value = text === "" ? NaN : Number(text)
    if (value >= min && value <= max && (fraction || Number.isInteger(value))) return value
    throw new UsageError(`--${name} is a ${fraction ? "" : "whole "}number from ${min} to ${max}, not ${text}`)
  }
  const identifier = { min: 1, max: 0x7fff_ffff, preset: 0, what: "" }
  const options = {
    ...quantitiesFrom(number),
    scenario: oneOf("a scenario", scenarios, positionals[0]),
    protocol: oneOf("--protocol", names, values.protocol),
    port: number("port", { ...identifier, max: 65_535 }),
    pid: number("pid", identifier) || undefined,
    rotate: values.rotate,
    prefix: values.prefix,
    compress: oneOf("--compress", compressions, values.compress)
  }
  if (positionals.length > 1) throw new UsageError(`one scenario at a time, not also ${positionals[1]}`)
  checkTogether(options)
  return options
}

export const oneOf = <T extends string>(name: string, known: ReadonlyArray<T>, given: string | undefined): T => {
  const found = known.find((one) => one === given)
  if (found !== undefined) return found
  throw new UsageError(`${name} is one of ${known.join(", ")}, not ${given ?? "absent"}`)
}

const checkTogether = (options: Options) => {
  const { connections, port, protocol, publishers, scenario, topics } = options
  if (port === 0) throw new UsageError("--port says where the server is")
  if (scenario === "presence" && protocol !== "phoenix") throw new UsageError(`${protocol} has no presence`)
  if (scenario === "fanout" && publishers > connections) {
    throw new UsageError("there are more publishers than connections")
  }
  if (scenario !== "churn" && topics > connections) throw new UsageError("there are more topics than connections")
  const files = connections + 100
  if (scenario !== "churn" && files > maxOpenFiles()) {
    throw new UsageError(
      `${connections} connections are more than the ${maxOpenFiles()} open files allowed: try ulimit -n ${files}`
    )
  }
}
