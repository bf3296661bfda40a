/** A Redis of our own, that can be away. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { connect } from "node:net"
import { findEngine, redisServer } from "../scripts/engines.ts"
import { freePort } from "../scripts/freePort.ts"
import { until } from "./promises.ts"

const host = "127.0.0.1"

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, host)
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false)).once("connect", () =>
      socket.destroy())
  })

export class Redis {
  readonly url: string
  private readonly binary: string
  private readonly port: number
  private child: ChildProcess | undefined

  private constructor(binary: string, port: number) {
    this.binary = binary
    this.port = port
    this.url = `redis://${host}:${port}`
  }

  /** Not started yet; undefined where there is no Redis on PATH. */
  static async find(): Promise<Redis | undefined> {
    const binary = findEngine(redisServer)
    return binary === undefined ? undefined : new Redis(binary, await freePort("127.0.0.1"))
  }

  async start(): Promise<void> {
    this.child = spawn(this.binary, ["--port", `${this.port}`, "--bind", host, "--save", ""], { stdio: "ignore" })
    if (!(await until(() => answers(this.port), 10))) throw new Error("Redis does not start")
  }

  /** At once, as when its machine fails. */
  async kill(): Promise<void> {
    const { child } = this
    this.child = undefined
    if (child === undefined) return
    child.kill("SIGKILL")
    await once(child, "exit")
  }
}
