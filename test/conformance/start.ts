/** The server of `npm run conformance`, in a process of its own. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { freePort } from "../../scripts/freePort.ts"

/** What the process has written, and how it ended. */
interface Running {
  readonly child: ChildProcess
  readonly exited: Promise<unknown>
  output: string
}

export class Server {
  readonly port: number
  private readonly env: Readonly<Record<string, string>>
  private running: Running

  private constructor(port: number, env: Readonly<Record<string, string>>, running: Running) {
    this.port = port
    this.env = env
    this.running = running
  }

  /** Starts one that listens on a port of its own. */
  static async start(env: Readonly<Record<string, string>> = {}): Promise<Server> {
    for (let attempt = 1;; attempt++) {
      const port = await freePort("127.0.0.1")
      try {
        return new Server(port, env, await run(port, env))
      } catch (error) {
        // Somebody else was given the port in the meantime.
        if (attempt === 5 || !String(error).includes("EADDRINUSE")) throw error
      }
    }
  }

  /** Everything that it has written since it was started last. */
  get output(): string {
    return this.running.output
  }

  /** Asks it to end; its exit code. */
  async stop(): Promise<number | null> {
    const { child, exited } = this.running
    child.kill("SIGTERM")
    await exited
    return child.exitCode
  }

  /** Starts it anew on the same port, after it has ended. */
  async startAgain(): Promise<void> {
    this.running = await run(this.port, this.env)
  }
}

const run = async (port: number, env: Readonly<Record<string, string>>): Promise<Running> => {
  const child = spawn(process.execPath, ["--conditions=effect-channels-source", "test/conformance/server.ts"], {
    env: { ...process.env, ...env, PORT: String(port) },
    stdio: ["ignore", "pipe", "pipe"]
  })
  const running: Running = { child, exited: once(child, "exit"), output: "" }
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        running.output += text
        if (/^listening$/m.test(running.output)) resolve()
      })
    }
    child.once("close", (code) => reject(new Error(`the server ended with ${code}:\n${running.output}`)))
  })
  return running
}
