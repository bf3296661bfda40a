import { Config, ConfigProvider, Duration, Effect, Result } from "effect"

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
  /** The largest message for other nodes, encoded, in bytes; default 16 MiB. A larger one fails with `TOO_LARGE`. */
  readonly maxMessageBytes?: number | undefined
  /**
   * How much may wait for an engine that does not keep up, in bytes; default 64 MiB. What is broadcast then does not reach
   * other nodes.
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

/** A mistake in the options, as the configuration reports it. */
export const mistake = (message: string) => Result.fail(new ConfigProvider.SourceError({ message }))

/** Options from the configuration, in which a mistake is one of the configuration. */
export const configured = <Options, Resolved>(
  config: Config.Wrap<Options>,
  resolve: (options: Options) => Result.Result<Resolved, ConfigProvider.SourceError>
): Effect.Effect<Resolved, Config.ConfigError> =>
  Effect.flatMap(
    Config.unwrap(config),
    (options) => Effect.mapError(Effect.fromResult(resolve(options)), (error) => new Config.ConfigError(error))
  )

export const settingsOf = (options: ClusterOptions): Result.Result<Settings, ConfigProvider.SourceError> => {
  const settings = {
    node: options.node,
    prefix: options.prefix ?? "phx",
    timeout: Duration.toMillis(options.timeout ?? "5 seconds"),
    heartbeat: Duration.toMillis(options.heartbeat ?? "5 seconds"),
    maxMessageBytes: options.maxMessageBytes ?? 16 * 1024 * 1024,
    maxPendingBytes: options.maxPendingBytes ?? 64 * 1024 * 1024
  }
  const { node, prefix, ...numbers } = settings
  if (!/^[\w-]+$/.test(prefix)) return mistake("prefix has to be made of letters, digits, - and _")
  if (node === "") return mistake("node is empty: give the node a name, or leave it out")
  for (const [name, value] of Object.entries(numbers)) {
    if (!(value > 0)) return mistake(`${name} has to be more than 0`)
  }
  return Result.succeed(settings)
}
