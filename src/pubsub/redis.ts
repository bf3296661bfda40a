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
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import {
  createClient,
  ErrorReply,
  type RedisClientOptions,
  type RedisFunctions,
  type RedisModules,
  type RedisScripts,
  type RespVersions
} from "redis"
import * as Cluster from "../internal/cluster.ts"
import {
  addressOf,
  type ClusterOptions,
  configured,
  objectOf,
  type Settings,
  settingsOf
} from "../internal/clusterOptions.ts"
import type { Connection, Engine, Listener } from "../internal/engine.ts"
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
 * dies with an `OptionError` if an option makes no sense.
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
    Effect.flatMap(Effect.sync(() => resolve(options)), (resolved) => make(resolved, deliver))
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

/** As the client reads it, which would show the password when it complains. */
const isAddress = (address: string): boolean => {
  const url = URL.parse(address)
  if (url === null || !/^rediss?:$/.test(url.protocol) || !/^\/?\d*$/.test(url.pathname)) return false
  try {
    decodeURIComponent(url.username)
    decodeURIComponent(url.password)
    return true
  } catch {
    // A `%` that escapes nothing.
    return false
  }
}

const allowed = "an address of Redis: redis[s]://[[username][:password]@][host][:port][/database]"

const resolve = (all: Options): Resolved => {
  const { client, url, ...options } = objectOf("options", all)
  const address = url === undefined ? undefined : addressOf(url, isAddress, allowed)
  return {
    settings: settingsOf(options),
    client: {
      ...objectOf("client", client),
      ...(address === undefined ? {} : { url: address }),
      disableOfflineQueue: true,
      socket: { ...client?.socket, reconnectStrategy: false }
    }
  }
}

const make = ({ client, settings }: Resolved, deliver: (topic: string, message: unknown) => void) =>
  Cluster.make(engine(client), settings, deliver)

/** A bulk string of Redis is not longer, unless configured. */
const maxBulkBytes = 512 * 1024 * 1024

const opened = Effect.fnUntraced(function*(options: ClientOptions, { broken, complained }: Listener) {
  const client = yield* Effect.acquireRelease(
    Effect.sync(() => createClient(options)),
    (client) => Effect.sync(() => client.destroy())
  )
  // An error that Redis has answered is a sign of life; one of the handshake fails `connect` too.
  client.on("error", (cause: unknown) => {
    if (!(cause instanceof ErrorReply)) broken(cause)
    else if (client.isReady) complained(cause)
  })
  client.on("end", () => broken(new Error("the connection was closed")))
  yield* Effect.tryPromise({ try: () => client.connect(), catch: (cause) => cause })
  return client
})

type Client = Effect.Success<ReturnType<typeof opened>>

const engine = (options: ClientOptions): Engine => ({
  name: "Redis",
  label: "redis",
  separator: ":",
  limit: "use another engine",
  connect: (listener, timeout) =>
    Effect.gen(function*() {
      // Two: a large message that is on its way out does not hold up those that come in.
      const clients = [opened(options, listener), opened(options, listener)] as const
      const [publisher, subscriber] = yield* Effect.all(clients, { concurrency: 2 })
      const wire = new Wire(publisher, subscriber, listener)
      yield* Effect.tryPromise({ try: () => wire.checkRole(), catch: (cause) => cause })
      return wire
    }).pipe(Effect.timeoutOrElse({
      duration: timeout,
      orElse: () => Effect.fail(new Error(`Redis has not answered within ${timeout}ms`))
    }))
})

/** Any answer of Redis is a sign of life: an error that it answers (NOPERM, LOADING, BUSY) becomes the value. */
const answer = <A>(reply: Promise<A>): Promise<A | ErrorReply> =>
  reply.catch((cause: unknown) => {
    if (cause instanceof ErrorReply) return cause
    throw cause
  })

/** A field of the answer to HELLO: a map in the newer protocol, a list of names and values in the older. */
const field = (hello: unknown, name: string): unknown => {
  if (Array.isArray(hello)) {
    const at = hello.findIndex((key, index) => index % 2 === 0 && String(key) === name)
    return at < 0 ? undefined : hello[at + 1]
  }
  if (typeof hello !== "object" || hello === null) return undefined
  const entries: Iterable<readonly [unknown, unknown]> = hello instanceof Map ? hello : Object.entries(hello)
  for (const [key, value] of entries) if (String(key) === name) return value
  return undefined
}

const isReplica = (role: unknown): boolean => /^(slave|replica)$/.test(String(role))

class Wire implements Connection {
  readonly maxMessageBytes = maxBulkBytes
  readonly echoes = true
  private readonly publisher: Client
  private readonly subscriber: Client
  private readonly listener: Listener
  private readonly receive: (data: Buffer, channel: Buffer) => void

  constructor(publisher: Client, subscriber: Client, listener: Listener) {
    this.publisher = publisher
    this.subscriber = subscriber
    this.listener = listener
    this.receive = (data, channel) => listener.message(channel.toString(), data)
  }

  async publish(channel: string, data: Buffer<ArrayBuffer>): Promise<void> {
    try {
      await this.publisher.publish(channel, data)
    } catch (cause) {
      if (!(cause instanceof ErrorReply) && !this.publisher.isReady) this.listener.broken(cause)
      throw cause
    }
  }

  async subscribe(channels: ReadonlyArray<string>): Promise<ReadonlyMap<string, unknown>> {
    const refused = new Map<string, unknown>()
    await this.subscribeTo(channels, refused)
    return refused
  }

  /** Redis refuses all channels of a command if it refuses one. */
  private async subscribeTo(channels: ReadonlyArray<string>, refused: Map<string, unknown>): Promise<void> {
    const answered = await answer(this.subscriber.subscribe([...channels], this.receive, true))
    if (!(answered instanceof ErrorReply)) return
    if (channels.length === 1 || !answered.message.startsWith("NOPERM")) {
      for (const channel of channels) refused.set(channel, answered)
      return
    }
    const half = Math.ceil(channels.length / 2)
    await Promise.all([
      this.subscribeTo(channels.slice(0, half), refused),
      this.subscribeTo(channels.slice(half), refused)
    ])
  }

  async unsubscribe(channels: ReadonlyArray<string>): Promise<void> {
    const answered = await answer(this.subscriber.unsubscribe([...channels], this.receive, true))
    if (answered instanceof ErrorReply) this.listener.complained(answered)
  }

  async ping(): Promise<void> {
    await Promise.all([this.checkRole(), answer(this.subscriber.ping())])
  }

  /**
   * Rejects if this Redis is a replica: it takes messages, and only its own subscribers get them. HELLO needs no right.
   * If HELLO is not known (before Redis 6.2, or a proxy), ROLE is asked; if that fails too, this Redis passes for the primary.
   */
  async checkRole(): Promise<void> {
    const hello = await answer(this.publisher.sendCommand(["HELLO"]))
    if (!(hello instanceof ErrorReply)) {
      // In Redis Cluster a message reaches the subscribers of all servers, whichever it was given to.
      if (isReplica(field(hello, "role")) && field(hello, "mode") !== "cluster") throw new Error(demoted)
      return
    }
    const role: unknown = await answer(this.publisher.sendCommand(["ROLE"]))
    if (Array.isArray(role) && isReplica(role[0])) throw new Error(demoted)
  }
}

const demoted = "this Redis is a replica, which does not pass messages on: the address must lead to the primary"
