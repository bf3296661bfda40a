/** Engines for the adapters of PubSub, real ones: each test has its own, on a port of its own, and may break it. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createClient } from "redis"
import { type Engine as Program, findEngine, natsServer, redisServer } from "../../scripts/engines.ts"
import { freePort } from "../../scripts/freePort.ts"

export interface Kind {
  readonly name: string
  readonly program: Program
  readonly arguments: (ports: Ports, folder: string) => ReadonlyArray<string>
  /** Arguments that tell the engine its configuration file. */
  readonly configuration: (file: string) => ReadonlyArray<string>
  readonly url: (port: number) => string
  /** How many subscribers each channel has. */
  readonly subscribers: (ports: Ports) => Promise<Readonly<Record<string, number>>>
}

interface Ports {
  readonly port: number
  /** Where it tells about itself, if not there too. */
  readonly monitor: number
}

const count = (names: Iterable<string>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

export const redis: Kind = {
  name: "Redis",
  program: redisServer,
  arguments: ({ port }, folder) => ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", folder],
  configuration: (file) => [file],
  url: (port) => `redis://127.0.0.1:${port}`,
  subscribers: async ({ port }) => {
    const client = createClient({ url: redis.url(port) })
    await client.connect()
    try {
      return { ...await client.pubSubNumSub(await client.pubSubChannels()) }
    } finally {
      client.destroy()
    }
  }
}

export const nats: Kind = {
  name: "NATS",
  program: natsServer,
  arguments: ({ monitor, port }) => ["--addr", "127.0.0.1", "--port", `${port}`, "--http_port", `${monitor}`],
  configuration: (file) => ["-c", file],
  url: (port) => `nats://127.0.0.1:${port}`,
  subscribers: async ({ monitor }) => {
    const answer = await fetch(`http://127.0.0.1:${monitor}/subsz?subs=1&limit=1000`)
    const { subscriptions_list = [] } = await answer.json() as {
      readonly subscriptions_list?: ReadonlyArray<{ readonly subject: string }>
    }
    return count(subscriptions_list.map(({ subject }) => subject).filter((subject) => !subject.startsWith("$SYS")))
  }
}

/** Whether to leave its tests out; under CI they run, and fail. */
export const isMissing = (kind: Kind): boolean => findEngine(kind.program) === undefined && process.env["CI"] !== "true"

/** Whether somebody listens. */
const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1")
    const end = (answer: boolean) => () => {
      socket.destroy()
      resolve(answer)
    }
    socket.once("connect", end(true)).once("error", end(false))
  })

export class Engine {
  readonly url: string
  readonly port: number
  readonly monitor: number
  private readonly kind: Kind
  private readonly more: ReadonlyArray<string>
  private readonly folder = mkdtempSync(join(tmpdir(), "engine-"))
  private child: ChildProcess | undefined
  private configuration: ReadonlyArray<string> = []

  private constructor(kind: Kind, { monitor, port }: Ports, more: ReadonlyArray<string>) {
    this.kind = kind
    this.port = port
    this.monitor = monitor
    this.more = more
    this.url = kind.url(port)
  }

  /** One that is not running yet. */
  static async reserve(kind: Kind, more: ReadonlyArray<string> = []): Promise<Engine> {
    return new Engine(kind, { port: await freePort("127.0.0.1"), monitor: await freePort("127.0.0.1") }, more)
  }

  static async start(kind: Kind, more: ReadonlyArray<string> = []): Promise<Engine> {
    const engine = await Engine.reserve(kind, more)
    await engine.start()
    return engine
  }

  /** Writes the configuration file, which holds from the next start on, or with `reload` (NATS). */
  configure(text: string): void {
    const file = join(this.folder, "engine.conf")
    writeFileSync(file, text)
    this.configuration = this.kind.configuration(file)
  }

  reload(): void {
    this.child?.kill("SIGHUP")
  }

  async start(): Promise<void> {
    const { program } = this.kind
    const binary = findEngine(program) ??
      assert.fail(`${program.name} is missing: install it or set ${program.variable}`)
    const all = [...this.configuration, ...this.kind.arguments(this, this.folder), ...this.more]
    const child = spawn(binary, all, { stdio: "ignore" })
    this.child = child
    while (!(await answers(this.port))) {
      if (child.exitCode !== null) assert.fail(`${program.name} has ended with ${child.exitCode}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** At once, as when its machine fails. */
  async kill(): Promise<void> {
    const { child } = this
    this.child = undefined
    if (child === undefined || child.exitCode !== null) return
    child.kill("SIGKILL")
    await once(child, "exit")
  }

  /** It keeps its connections and answers nobody. */
  freeze(): void {
    this.child?.kill("SIGSTOP")
  }

  thaw(): void {
    this.child?.kill("SIGCONT")
  }

  subscribers(): Promise<Readonly<Record<string, number>>> {
    return this.kind.subscribers(this)
  }

  async stop(): Promise<void> {
    await this.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Starts an engine with a configuration file, for a test. */
export const engineWith = (kind: Kind, configuration: string, more: ReadonlyArray<string> = []) =>
  engineOf(kind, async () => {
    const engine = await Engine.reserve(kind, more)
    engine.configure(configuration)
    await engine.start()
    return engine
  })

/** One for a test. */
export const engineOf = (kind: Kind, start: (kind: Kind) => Promise<Engine> = Engine.start) =>
  Effect.acquireRelease(Effect.promise(() => start(kind)), (engine) => Effect.promise(() => engine.stop()))
