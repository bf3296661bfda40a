/** Engines of our own: each a process with a configuration that a fault changes, on ports that it keeps. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect, createServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findEngine, natsServer, redisServer } from "../scripts/engines.ts"
import { freePort } from "../scripts/freePort.ts"
import { until } from "./promises.ts"

const host = "127.0.0.1"

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, host)
    const end = (answer: boolean) => () => {
      socket.destroy()
      resolve(answer)
    }
    socket.once("connect", end(true)).once("error", end(false))
  })

const kinds = {
  redis: {
    program: redisServer,
    arguments: (
      port: number,
      folder: string,
      file: string
    ) => [file, "--port", `${port}`, "--bind", host, "--save", "", "--dir", folder]
  },
  nats: {
    program: natsServer,
    arguments: (port: number, _folder: string, file: string) => ["-c", file, "--addr", host, "--port", `${port}`]
  }
}

export type Kind = keyof typeof kinds

export const isMissing = (kind: Kind): boolean => findEngine(kinds[kind].program) === undefined

export class Engine {
  readonly url: string
  readonly port: number
  /** Holds the files that the configuration names. */
  readonly folder = mkdtempSync(join(tmpdir(), "faults-"))
  private readonly kind: Kind
  private child: ChildProcess | undefined

  private constructor(kind: Kind, port: number) {
    this.kind = kind
    this.port = port
    this.url = `${kind}://${host}:${port}`
  }

  /** Reserves a port for an engine that does not run yet. */
  static async reserve(kind: Kind, configuration = ""): Promise<Engine> {
    const engine = new Engine(kind, await freePort(host))
    engine.configure(configuration)
    return engine
  }

  static async start(kind: Kind, configuration = ""): Promise<Engine> {
    const engine = await Engine.reserve(kind, configuration)
    await engine.start()
    return engine
  }

  /** Writes the configuration that holds from the next start on, or for NATS when it is told to read it again. */
  configure(text: string): void {
    this.write("engine.conf", text)
  }

  write(name: string, text: string): string {
    const file = join(this.folder, name)
    writeFileSync(file, text)
    return file
  }

  async start(): Promise<void> {
    const { program, arguments: argumentsOf } = kinds[this.kind]
    const binary = findEngine(program)
    if (binary === undefined) throw new Error(`${program.name} is missing`)
    const all = argumentsOf(this.port, this.folder, join(this.folder, "engine.conf"))
    this.child = spawn(binary, all, { stdio: "ignore" })
    if (!(await until(() => answers(this.port), 10))) throw new Error(`${program.name} does not start`)
  }

  signal(signal: "SIGSTOP" | "SIGCONT" | "SIGHUP"): void {
    this.child?.kill(signal)
  }

  /** At once, as when its machine fails. */
  async kill(): Promise<void> {
    const { child } = this
    this.child = undefined
    if (child === undefined || child.exitCode !== null) return
    child.kill("SIGKILL")
    await once(child, "exit")
  }

  async end(): Promise<void> {
    await this.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** An address that leads to another engine for whoever connects from now on. */
export class Relay {
  readonly port: number
  /** The port that it leads to. */
  to: number
  private readonly sockets = new Set<Socket>()
  private readonly server = createServer()

  private constructor(port: number, to: number) {
    this.port = port
    this.to = to
  }

  static async start(to: number): Promise<Relay> {
    const relay = new Relay(await freePort(host), to)
    relay.server.on("connection", (from: Socket) => {
      const onward = connect(relay.to, host)
      for (const [one, other] of [[from, onward], [onward, from]] as const) {
        relay.sockets.add(one)
        one.on("error", () => other.destroy()).on("close", () => {
          relay.sockets.delete(one)
          other.destroy()
        })
        one.pipe(other)
      }
    })
    relay.server.listen(relay.port, host)
    await once(relay.server, "listening")
    return relay
  }

  end(): void {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }
}
