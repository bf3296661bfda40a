/**
 * PubSub among several nodes through NATS.
 *
 * {@link layer} takes the place of `PubSub.layer`: a broadcast then reaches the subscribers of all nodes. Needs the package
 * `@nats-io/transport-node`. docs/clusters.md says what is promised, and what happens while NATS is away.
 *
 * **Example**
 *
 * ```ts
 * import { Config } from "effect"
 * import * as Nats from "effect-channels/pubsub/nats"
 *
 * const PubSubLive = Nats.layerConfig({ url: Config.Redacted("NATS_URL") })
 * ```
 *
 * @since 0.1.0
 */
import { connect, errors, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node"
import * as Config from "effect/Config"
import type * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { connect as connectSocket } from "node:net"
import * as Cluster from "../internal/cluster.ts"
import { type ClusterOptions, configured, mistake, type Settings, settingsOf } from "../internal/clusterOptions.ts"
import type * as Process from "../Process.ts"
import * as PubSub from "../PubSub.ts"

/**
 * Where NATS is, and how to talk to the other nodes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends ClusterOptions {
  /**
   * `(nats|tls)://[user:password@ | token@]host[:port]`, several separated by commas; default `nats://localhost:4222`.
   * Other servers of the same NATS cluster are found through these.
   */
  readonly url?: Redacted.Redacted<string> | string | undefined
  /** What else the package `@nats-io/transport-node` is told, such as certificates and authenticators. */
  readonly client?:
    | Omit<NodeConnectionOptions, "servers" | "port" | "reconnect" | "noEcho" | "timeout" | "ignoreClusterUpdates">
    | undefined
}

/**
 * The PubSub of a node that is connected to others by NATS, and the node itself.
 *
 * **When to use**
 *
 * Use in place of `PubSub.layer` where an application runs on several nodes; see {@link layerConfig} for the environment.
 *
 * **Details**
 *
 * Building the Layer waits for NATS, for `timeout` (5 seconds) at most: a node starts without it and connects later. It
 * dies if an option makes no sense. A message has to fit into the `max_payload` of the server too, which is 1 MiB unless
 * configured.
 *
 * **Example**
 *
 * ```ts
 * import * as Nats from "effect-channels/pubsub/nats"
 *
 * const PubSubLive = Nats.layer({ url: "nats://one.internal,nats://two.internal", prefix: "chat" })
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
 * import * as Nats from "effect-channels/pubsub/nats"
 *
 * const PubSubLive = Nats.layerConfig({
 *   url: Config.Redacted("NATS_URL"),
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
  /** Host and port of each server. */
  readonly servers: ReadonlyArray<string>
  readonly client: NodeConnectionOptions
}

const defaultPort = "4222"

/** What a URL says of who connects. */
const loginOf = ({ password, username }: URL): NodeConnectionOptions => {
  if (username === "") return {}
  const user = decodeURIComponent(username)
  return password === "" ? { token: user } : { user, pass: decodeURIComponent(password) }
}

const parsed = (text: string): URL | undefined => {
  const url = URL.parse(text.trim())
  if (url === null || !/^(nats|tls):$/.test(url.protocol) || url.hostname === "") return undefined
  try {
    loginOf(url)
    return url
  } catch {
    // A `%` that escapes nothing.
    return undefined
  }
}

const resolve = ({ client, url, ...options }: Options): Result.Result<Resolved, ConfigProvider.SourceError> => {
  const text = url === undefined ? "nats://localhost" : typeof url === "string" ? url : Redacted.value(url)
  const all = text.split(",").map(parsed)
  const urls = all.filter((url) => url !== undefined)
  // A message of the platform's own would show the password.
  if (urls.length < all.length) {
    return mistake("url is not one of NATS: (nats|tls)://[user:password@ | token@]host[:port], separated by commas")
  }
  return Result.map(settingsOf(options), (settings) => ({
    settings,
    servers: urls.map((url) => `${url.hostname}:${url.port || defaultPort}`),
    client: {
      ...(urls.some(({ protocol }) => protocol === "tls:") ? { tls: {} } : {}),
      ...Object.assign({}, ...urls.map(loginOf)),
      ...client,
      timeout: settings.timeout,
      reconnect: false,
      noEcho: true,
      ignoreClusterUpdates: true
    }
  }))
}

const make = ({ client, servers, settings }: Resolved, deliver: (topic: string, message: unknown) => void) =>
  Cluster.make(engine(client, servers), settings, deliver)

/** A server greets whoever connects; one that hangs does not, and the client would leave its socket open. */
const greeted = (server: string, tlsFirst: boolean): Effect.Effect<string, unknown> =>
  Effect.callback<string, unknown>((resume) => {
    const { hostname, port } = new URL(`nats://${server}`)
    const socket = connectSocket(Number(port || defaultPort), hostname.replaceAll(/^\[|\]$/g, ""))
    const end = (answer: Effect.Effect<string, unknown>) => {
      socket.destroy()
      resume(answer)
    }
    socket.once(tlsFirst ? "connect" : "data", () => end(Effect.succeed(server)))
    socket.on("error", (cause) => end(Effect.fail(cause)))
    socket.once("close", () => end(Effect.fail(new Error(`${server} closed the connection`))))
    return Effect.sync(() => void socket.destroy())
  })

const opened = (options: NodeConnectionOptions): Effect.Effect<NatsConnection, unknown, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    restore(Effect.tryPromise({
      try: (signal) =>
        connect(options).then((connection) => {
          if (signal.aborted) void connection.close()
          return connection
        }),
      catch: (cause) => cause
    })).pipe(Effect.tap((connection) => Effect.addFinalizer(() => Effect.promise(() => connection.close()))))
  )

const engine = (options: NodeConnectionOptions, servers: ReadonlyArray<string>): Cluster.Engine => {
  const known = new Set(servers)
  const tlsFirst = typeof options.tls === "object" && options.tls?.handshakeFirst === true
  return {
    name: "NATS",
    label: "nats",
    separator: ".",
    limit: "raise max_payload in the configuration of NATS",
    connect: Effect.fnUntraced(function*(listener) {
      const server = yield* Effect.raceAll(Array.from(known, (server) => greeted(server, tlsFirst)))
      const connection = yield* opened({ ...options, servers: [server] })
      for (const url of connection.info?.connect_urls ?? []) known.add(url)
      return new Wire(connection, listener)
    })
  }
}

/** A connection, and what NATS does not say by itself: when it has got what was published. */
class Wire implements Cluster.Connection {
  readonly maxMessageBytes: number
  private readonly connection: NatsConnection
  private readonly listener: Cluster.Listener
  private readonly subscriptions = new Map<string, { readonly unsubscribe: () => void }>()
  /** Those who wait for an answer: the client forgets them when the connection ends. */
  private readonly waiting = new Set<(cause: unknown) => void>()
  private current: Promise<void> | undefined = undefined
  private next: Promise<void> | undefined = undefined

  constructor(connection: NatsConnection, listener: Cluster.Listener) {
    this.connection = connection
    this.listener = listener
    this.maxMessageBytes = connection.info?.max_payload ?? Infinity
    this.watchEnd().then(undefined, listener.broken)
    this.watchRefusals().then(undefined, listener.broken)
  }

  async publish(channel: string, data: Uint8Array): Promise<void> {
    this.connection.publish(channel, data)
    await this.handedOver()
  }

  async subscribe(channels: Array<string>): Promise<void> {
    for (const channel of channels) {
      if (this.subscriptions.has(channel)) continue
      const { broken, message } = this.listener
      const callback = (error: Error | null, received: { readonly subject: string; readonly data: Uint8Array }) =>
        error === null ? message(received.subject, received.data) : broken(error)
      this.subscriptions.set(channel, this.connection.subscribe(channel, { callback }))
    }
    await this.ping()
  }

  async unsubscribe(channel: string): Promise<void> {
    this.subscriptions.get(channel)?.unsubscribe()
    this.subscriptions.delete(channel)
  }

  ping(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.waiting.add(reject)
      this.connection.flush().then(() => {
        this.waiting.delete(reject)
        resolve()
      }, reject)
    })
  }

  /** One question is under way at a time; all that is published meanwhile shares the next. */
  private handedOver(): Promise<void> {
    if (this.current === undefined) return this.ask()
    return this.next ??= this.current.then(() => this.ask())
  }

  private ask(): Promise<void> {
    this.next = undefined
    const asked = this.ping().finally(() => {
      if (this.current === asked) this.current = undefined
    })
    return this.current = asked
  }

  private async watchEnd(): Promise<void> {
    const cause = (await this.connection.closed()) ?? new Error("the connection was closed")
    this.listener.broken(cause)
    for (const reject of this.waiting) reject(cause)
    this.waiting.clear()
  }

  private async watchRefusals(): Promise<void> {
    for await (const status of this.connection.status()) {
      if (status.type !== "error" || !(status.error instanceof errors.PermissionViolationError)) continue
      if (status.error.operation === "publish") this.listener.refused(status.error)
    }
  }
}
