import { Config, ConfigProvider, type Duration, Effect, Redacted } from "effect"
import { duration, given, OptionError, text, wholeNumber } from "./options.ts"

const bytes = { unit: "bytes", unlimited: true }

/** What all adapters can be told. */
export interface ClusterOptions {
  /**
   * The name of this node, which no other in the cluster has; default the name of the host and a random part, so that it
   * is new whenever the node starts.
   */
  readonly node?: string | undefined
  /**
   * What the names of all channels in the engine begin with, so that applications can share one; default `phx`. Nodes
   * hear each other if they have the same. Letters, digits, `-` and `_`.
   */
  readonly prefix?: string | undefined
  /**
   * How long to wait for the engine: for an attempt to connect, for the first connection before the Layer goes on without,
   * and for the subscription of a topic before a join goes on without. During an outage a join waits no longer than this
   * since it began. Default 5 seconds.
   */
  readonly timeout?: Duration.Input | undefined
  /** How often to ask the engine for a sign of life, and how long to wait for it; default 5 seconds. */
  readonly heartbeat?: Duration.Input | undefined
  /**
   * The largest message for other nodes and from them, encoded, in bytes; default 16 MiB, `Infinity` for no limit. A larger
   * one fails with `TOO_LARGE`, and from another node it is dropped, which is logged.
   */
  readonly maxMessageBytes?: number | undefined
  /**
   * Limits the bytes that wait for an engine that does not keep up, 512 of them for each message; default 64 MiB,
   * `Infinity` for no limit. Broadcasts beyond it do not reach other nodes.
   */
  readonly maxPendingBytes?: number | undefined
}

/** The options with their defaults, durations in milliseconds. */
export interface Settings {
  readonly node: string | undefined
  readonly prefix: string
  readonly timeout: number
  readonly heartbeat: number
  readonly maxMessageBytes: number
  readonly maxPendingBytes: number
}

/** Options from the configuration, in which a mistake is one of the configuration. */
export const configured = <Options, Resolved>(
  config: Config.Wrap<Options>,
  resolve: (options: Options) => Resolved
): Effect.Effect<Resolved, Config.ConfigError> =>
  Effect.flatMap(Config.unwrap(config), (options) => {
    try {
      return Effect.succeed(resolve(options))
    } catch (error) {
      if (!(error instanceof OptionError)) throw error
      return Effect.fail(new Config.ConfigError(new ConfigProvider.SourceError({ message: error.message })))
    }
  })

/** Timers of the platform overflow beyond this. */
const longestMillis = 2 ** 31 - 1

const durationOf = (option: string, value: unknown): number => {
  const millis = duration(option, value)
  if (millis <= longestMillis) return millis
  throw new OptionError(option, value, `a duration of at most ${longestMillis} milliseconds`)
}

const prefixOf = (value: unknown): string => {
  // Every subject of NATS has to fit into a line.
  if (typeof value === "string" && /^[\w-]{1,200}$/.test(value)) return value
  throw new OptionError("prefix", value, "made of 1 to 200 letters, digits, - and _")
}

/** Everything is checked here; an {@link OptionError} names what makes no sense. */
export const settingsOf = (options: ClusterOptions): Settings => ({
  node: options.node === undefined ? undefined : text("node", options.node),
  prefix: prefixOf(given(options.prefix, "phx")),
  timeout: durationOf("timeout", given(options.timeout, 5000)),
  heartbeat: durationOf("heartbeat", given(options.heartbeat, 5000)),
  maxMessageBytes: wholeNumber("maxMessageBytes", given(options.maxMessageBytes, 16 * 1024 * 1024), bytes),
  maxPendingBytes: wholeNumber("maxPendingBytes", given(options.maxPendingBytes, 64 * 1024 * 1024), bytes)
})

/** Returns what is an object, or not given; so are the options themselves, and those of the engine's own client. */
export const objectOf = <A>(option: string, value: A): A => {
  if (value === undefined || (typeof value === "object" && value !== null && !Array.isArray(value))) return value
  throw new OptionError(option, value, "an object")
}

/** An address, which is never shown: it may hold a password. */
export const addressOf = (url: unknown, isValid: (url: string) => boolean, allowed: string): string => {
  const address = Redacted.isRedacted(url) ? Redacted.value(url) : url
  if (typeof address === "string" && isValid(address)) return address
  throw new OptionError("url", typeof address === "string" ? "<redacted>" : address, allowed)
}
