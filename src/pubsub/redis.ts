/**
 * PubSub among several nodes through Redis, or Valkey.
 *
 * {@link layer} takes the place of `PubSub.layer`: a broadcast then reaches the subscribers of all nodes. Needs the package
 * `redis`, and Redis 6 or newer. docs/clusters.md says what is promised, and what happens while Redis is away.
 *
 * **Example**
 *
 * ```ts
 * import { Config } from "effect"
 * import * as Redis from "effect-channels/pubsub/redis"
 *
 * const PubSubLive = Redis.layerConfig({ url: Config.Redacted("REDIS_URL") })
 * ```
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import type * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import {
  createClient,
  type RedisClientOptions,
  type RedisFunctions,
  type RedisModules,
  type RedisScripts,
  type RespVersions
} from "redis"
import * as Cluster from "../internal/cluster.ts"
import { type ClusterOptions, configured, mistake, type Settings, settingsOf } from "../internal/clusterOptions.ts"
import type * as Process from "../Process.ts"
import * as PubSub from "../PubSub.ts"

/** Of either protocol: the package's own default is the newer one alone. */
type ClientOptions = RedisClientOptions<RedisModules, RedisFunctions, RedisScripts, RespVersions>

/**
 * Where Redis is, and how to talk to the other nodes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends ClusterOptions {
  /** `redis[s]://[[username][:password]@][host][:port][/database]`; default `redis://localhost:6379`. */
  readonly url?: Redacted.Redacted<string> | string | undefined
  /** What else the package `redis` is told, such as certificates; reconnecting is not its business. */
  readonly client?: Omit<ClientOptions, "url" | "disableOfflineQueue"> | undefined
}

/**
 * The PubSub of a node that is connected to others by Redis, and the node itself.
 *
 * **When to use**
 *
 * Use in place of `PubSub.layer` where an application runs on several nodes; see {@link layerConfig} for the environment.
 *
 * **Details**
 *
 * Building the Layer waits for Redis, for `timeout` (5 seconds) at most: a node starts without it and connects later. It
 * dies if an option makes no sense.
 *
 * **Example**
 *
 * ```ts
 * import * as Redis from "effect-channels/pubsub/redis"
 *
 * const PubSubLive = Redis.layer({ url: "redis://redis.internal:6379", prefix: "chat" })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<PubSub.PubSub | Process.System> =>
  PubSub.layerAdapter((deliver) =>
    Effect.flatMap(Effect.orDie(Effect.fromResult(resolve(options))), (resolved) => make(resolved, deliver))
  )

/**
 * As {@link layer}, with options from the configuration; fails with a `ConfigError` if one is missing or makes no sense.
 *
 * **When to use**
 *
 * Use in production, so that password and address stay out of the code.
 *
 * **Example**
 *
 * ```ts
 * import { Config } from "effect"
 * import * as Redis from "effect-channels/pubsub/redis"
 *
 * const PubSubLive = Redis.layerConfig({
 *   url: Config.Redacted("REDIS_URL"),
 *   prefix: Config.String("PUBSUB_PREFIX").pipe(Config.withDefault("phx"))
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  config: Config.Wrap<Options>
): Layer.Layer<PubSub.PubSub | Process.System, Config.ConfigError> =>
  PubSub.layerAdapter((deliver) => Effect.flatMap(configured(config, resolve), (resolved) => make(resolved, deliver)))

interface Resolved {
  readonly settings: Settings
  readonly client: ClientOptions
}

const resolve = ({ client, url, ...options }: Options): Result.Result<Resolved, ConfigProvider.SourceError> => {
  const address = url === undefined || typeof url === "string" ? url : Redacted.value(url)
  // The client's own complaint would show the password.
  if (address !== undefined && !(URL.canParse(address) && /^rediss?:/.test(address))) {
    return mistake("url is not one of Redis: redis://[[username][:password]@][host][:port][/database]")
  }
  return Result.map(settingsOf(options), (settings) => ({
    settings,
    client: {
      ...client,
      ...(address === undefined ? {} : { url: address }),
      disableOfflineQueue: true,
      socket: { ...client?.socket, reconnectStrategy: false }
    }
  }))
}

const make = ({ client, settings }: Resolved, deliver: (topic: string, message: unknown) => void) =>
  Cluster.make(engine(client), settings, deliver)

const connected = Effect.fnUntraced(function*(options: ClientOptions, broken: (cause: unknown) => void) {
  const client = yield* Effect.acquireRelease(
    Effect.sync(() => createClient(options)),
    (client) => Effect.sync(() => client.destroy())
  )
  client.on("error", broken)
  client.on("end", () => broken(new Error("the connection was closed")))
  yield* Effect.tryPromise({ try: () => client.connect(), catch: (cause) => cause })
  return client
})

const engine = (options: ClientOptions): Cluster.Engine => ({
  name: "Redis",
  label: "redis",
  separator: ":",
  limit: "use another engine",
  connect: Effect.fnUntraced(function*({ broken, message }) {
    // Two: a large message that is on its way out does not hold up those that come in.
    const [publisher, subscriber] = yield* Effect.all([connected(options, broken), connected(options, broken)], {
      concurrency: 2
    })
    const listener = (data: Buffer, channel: Buffer) => message(channel.toString(), data)
    return {
      publish: (channel, data) => publisher.publish(channel, data),
      subscribe: (channels) => subscriber.subscribe(channels, listener, true),
      unsubscribe: (channel) => subscriber.unsubscribe(channel, listener, true),
      ping: () => Promise.all([publisher.ping(), subscriber.ping()]),
      maxMessageBytes: Infinity
    }
  })
})
