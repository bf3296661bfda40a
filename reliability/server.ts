/** A server process, from outside. */
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import type { Report } from "./admin.ts"

export type { Report } from "./admin.ts"

const program = fileURLToPath(new URL("node.ts", import.meta.url))

export class Server {
  readonly port: number
  readonly ended: Promise<number | null>
  private readonly child: ChildProcess

  private constructor(child: ChildProcess, port: number) {
    this.child = child
    this.port = port
    this.ended = once(child, "exit").then(([code]) => code)
  }

  /** Its log, which tells of every crash that is asked for, is left out unless `LOG=1`. */
  static async start(env: Readonly<Record<string, string>> = {}): Promise<Server> {
    const child = fork(program, {
      execArgv: ["--conditions=effect-channels-source", "--expose-gc"],
      env: { ...process.env, ...env },
      stdio: ["ignore", process.env["LOG"] === "1" ? "inherit" : "ignore", "inherit", "ipc"]
    })
    const ended = once(child, "exit").then(([code]) => {
      throw new Error(`the server ended with ${code} before it listened`)
    })
    const [{ port }] = await Promise.race([once(child, "message"), ended])
    return new Server(child, port)
  }

  private async ask<A>(path: string, method = "GET"): Promise<A> {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, { method })
    if (!response.ok) throw new Error(`${path} is answered ${response.status}`)
    return await response.json() as A
  }

  report(): Promise<Report> {
    return this.ask("/report")
  }

  /** In MB, without garbage. */
  async heap(): Promise<number> {
    return (await this.ask<number>("/heap")) / 2 ** 20
  }

  labels(): Promise<ReadonlyArray<string>> {
    return this.ask("/labels")
  }

  /** Kills a process at random, of those with a label that begins so; without a label it belongs to the node. */
  kill(label = ""): Promise<{ readonly label?: string; readonly owner?: string }> {
    return this.ask(`/kill?at=${Math.random()}&label=${encodeURIComponent(label)}`, "POST")
  }

  async isReady(): Promise<boolean> {
    try {
      const response = await fetch(`http://127.0.0.1:${this.port}/ready`, { headers: { connection: "close" } })
      return response.status === 200
    } catch {
      return false
    }
  }

  /** Tells it to end, and waits until it has. */
  stop(): Promise<number | null> {
    this.child.kill("SIGTERM")
    return this.ended
  }
}
