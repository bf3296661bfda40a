import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { freePort } from "../../scripts/freePort.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** The last command of a script of package.json, without its `node`. */
export const argumentsOf = (script: "start" | "example:cluster"): ReadonlyArray<string> => {
  const { scripts } = JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as { scripts: Record<string, string> }
  const [program, ...args] = scripts[script]?.split("&&").at(-1)?.trim().split(" ") ?? []
  if (program !== "node") throw new Error(`npm run ${script} no longer ends in a node command: ${scripts[script]}`)
  return args
}

/** A Node program that serves HTTP, in a process of its own, with everything it has written. */
export class ServerProcess {
  log = ""
  private readonly child: ChildProcess
  private readonly exited: Promise<unknown>

  constructor(args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}) {
    this.child = spawn(process.execPath, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "pipe"]
    })
    this.exited = once(this.child, "exit")
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => this.log += text)
    }
  }

  /** The port of its "Listening on" line, as soon as that is there. */
  listening(): Promise<number> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const port = /Listening on \S+:(\d+)/.exec(this.log)?.[1]
        if (port !== undefined) resolve(Number(port))
      }
      look()
      this.child.stdout?.on("data", look)
      this.child.once("exit", (code) => reject(new Error(`the server ended with ${code}:\n${this.log}`)))
    })
  }

  /** Types into its terminal. */
  type(text: string): void {
    this.child.stdin?.write(text)
  }

  /** Waits for its end, and gives its exit code; null when it was killed. */
  async ended(): Promise<number | null> {
    await this.exited
    return this.child.exitCode
  }

  /** Asks it to end, and gives its exit code; null when it had to be killed. */
  async stop(signal: "SIGINT" | "SIGTERM" = "SIGTERM"): Promise<number | null> {
    const timer = setTimeout(() => this.child.kill("SIGKILL"), 10_000)
    this.child.kill(signal)
    await this.exited
    clearTimeout(timer)
    return this.child.exitCode
  }

  /** Ends it without asking. */
  async kill(): Promise<void> {
    this.child.kill("SIGKILL")
    await this.exited
  }
}

/** The chat of examples/chat, started as `npm start` does. */
export class ChatServer {
  readonly url: string
  readonly adminToken = "open-sesame"
  private readonly env: Readonly<Record<string, string>>
  private process: ServerProcess
  private earlier = ""

  private constructor(port: number, env: Readonly<Record<string, string>>) {
    this.url = `http://localhost:${port}`
    this.env = { ...env, PORT: String(port), ADMIN_TOKEN: this.adminToken }
    this.process = new ServerProcess(argumentsOf("start"), this.env)
  }

  static async start(env: Readonly<Record<string, string>> = {}): Promise<ChatServer> {
    const server = new ChatServer(await freePort(), env)
    await server.process.listening()
    return server
  }

  get log(): string {
    return this.earlier + this.process.log
  }

  /** Ends it without asking. */
  kill(): Promise<void> {
    return this.process.kill()
  }

  /** Starts it anew, on the same port, after it has ended. */
  async startAgain(): Promise<void> {
    this.earlier = this.log
    this.process = new ServerProcess(argumentsOf("start"), this.env)
    await this.process.listening()
  }

  /** Asks it to end, and gives its exit code; null when it had to be killed. */
  stop(): Promise<number | null> {
    return this.process.stop()
  }

  /** One of the routes for whoever knows the `ADMIN_TOKEN`; gives the status. */
  async admin(path: string, body: unknown = {}, token = this.adminToken): Promise<number> {
    const { status } = await fetch(this.url + path, {
      method: "POST",
      headers: { "authorization": `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(body)
    })
    return status
  }
}
