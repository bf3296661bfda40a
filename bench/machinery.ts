/** Servers and load clients as processes, each on a core of its own where the system allows it. */
import { type ChildProcess, execFile, spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as sleep } from "node:timers/promises"
import { promisify } from "node:util"
import { freePort } from "../scripts/freePort.ts"
import { nodeOptions, type Server } from "./cells.ts"
import type { Compression } from "./client/connection.ts"
import { cores } from "./client/machine.ts"
import type { Result } from "./client/scenarios.ts"

/** The commands that keep a server and a client where they belong. */
export interface Pins {
  readonly server: ReadonlyArray<string>
  readonly client: ReadonlyArray<string>
  /** The cores; undefined where none can be chosen, which is said. */
  readonly cores: string | undefined
}

export const pinning = async (): Promise<Pins> => {
  const [first, second] = cores()
  const none = (why: string): Pins => {
    console.error(`The server and the client are not kept on cores of their own: ${why}.`)
    return { server: [], client: [], cores: undefined }
  }
  if (first === undefined || second === undefined) {
    return none("there are not two cores that Linux lets this process choose")
  }
  try {
    await promisify(execFile)("taskset", ["-c", String(first), "true"])
  } catch {
    return none("there is no taskset")
  }
  const on = (core: number) => ["taskset", "-c", String(core)]
  return { server: on(first), client: on(second), cores: `cores ${first} and ${second}` }
}

const spawned = ([program = "", ...args]: ReadonlyArray<string>, env: Record<string, string>): ChildProcess =>
  spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "inherit"] })

const outputOf = async (child: ChildProcess, until?: string): Promise<string> => {
  let output = ""
  for await (const chunk of child.stdout ?? []) {
    output += String(chunk)
    if (until !== undefined && output.includes(until)) return output
  }
  return output
}

/** How long a process may take to end when it is told to. */
const patience = 15_000

const stop = async (child: ChildProcess, ended: Promise<unknown>) => {
  child.kill("SIGTERM")
  const late = setTimeout(() => {
    console.error(`process ${child.pid} has not ended within ${patience / 1000} s, and is killed`)
    child.kill("SIGKILL")
  }, patience)
  await ended
  clearTimeout(late)
}

/** A server that listens. */
export interface Running {
  /** What the load client is told of it. */
  readonly address: string
  readonly stop: () => Promise<void>
}

export const serve = async (server: Server, pins: Pins, compress: Compression = "none"): Promise<Running> => {
  const port = await freePort("127.0.0.1")
  const child = spawned([...pins.server, process.execPath, ...nodeOptions, ...server.command], {
    PORT: String(port),
    COMPRESS: compress === "none" ? "0" : "1"
  })
  const ended = once(child, "close")
  if (!(await outputOf(child, "listening")).includes("listening")) {
    await stop(child, ended)
    throw new Error(`${server.name} does not start`)
  }
  // What it does at first is not what it costs.
  await sleep(1000)
  return {
    address: `--protocol ${server.protocol} --port ${port} --pid ${child.pid}`,
    stop: () => stop(child, ended)
  }
}

const client = ({ address }: Running, load: string, pins: Pins): ChildProcess =>
  spawned([...pins.client, process.execPath, "bench/client.ts", ...`${load} ${address}`.trim().split(/ +/)], {})

/** Puts a server under a load, and says what came of it. */
export const measure = async (running: Running, load: string, pins: Pins): Promise<Result> => {
  const last = (await outputOf(client(running, load, pins))).trimEnd().split("\n").at(-1) ?? ""
  if (last === "") throw new Error(`the load client has measured nothing: ${load}`)
  return JSON.parse(last)
}

/** Opens so many connections, each to a topic of its own, that stay until they are stopped. */
export const occupy = async (
  running: Running,
  connections: number,
  prefix: string,
  pins: Pins
): Promise<Pick<Running, "stop">> => {
  const load = `connect --connections ${connections} --topics ${connections} --prefix ${prefix} --hold 3600`
  const child = client(running, load, pins)
  const ended = once(child, "close")
  const said = (await outputOf(child, "\n")).trim()
  if (said === JSON.stringify({ holding: connections })) return { stop: () => stop(child, ended) }
  await stop(child, ended)
  throw new Error(`of ${connections} connections not all have joined: ${said}`)
}
