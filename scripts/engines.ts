/** Programs from outside npm that some tests need, and how to find them. */
import { accessSync, constants } from "node:fs"
import { delimiter, isAbsolute, join } from "node:path"

export interface Engine {
  /** What it is called in messages. */
  readonly name: string
  /** The environment variable that names its binary; when set, nothing else is looked at. */
  readonly variable: string
  /** File names to look for on PATH, or absolute paths, in this order. */
  readonly binaries: ReadonlyArray<string>
  /** Debian packages that bring it. */
  readonly packages: ReadonlyArray<string>
}

const chromium: Engine = {
  name: "chromium",
  variable: "CHROMIUM_PATH",
  binaries: ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"],
  packages: ["chromium"]
}

export const redisServer: Engine = {
  name: "redis-server",
  variable: "REDIS_SERVER_PATH",
  binaries: ["redis-server", "valkey-server"],
  packages: ["redis-server"]
}

export const natsServer: Engine = {
  name: "nats-server",
  variable: "NATS_SERVER_PATH",
  // Debian keeps it where only root looks.
  binaries: ["nats-server", "/usr/sbin/nats-server"],
  packages: ["nats-server"]
}

export const engines: ReadonlyArray<Engine> = [chromium, redisServer, natsServer]

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** The path of an engine's binary, or `undefined` where it is not installed. */
export const findEngine = (engine: Engine): string | undefined => {
  const named = process.env[engine.variable]
  if (named) return isExecutable(named) ? named : undefined
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "")
  return engine.binaries
    .flatMap((binary) => isAbsolute(binary) ? [binary] : folders.map((folder) => join(folder, binary)))
    .find(isExecutable)
}

export const findChromium = (): string | undefined => findEngine(chromium)
