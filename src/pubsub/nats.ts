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
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import type * as Redacted from "effect/Redacted"
import { lookup } from "node:dns/promises"
import { connect as connectSocket, isIP } from "node:net"
import { checkServerIdentity as checkIdentity, type PeerCertificate } from "node:tls"
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
import { firstOf, nameOf, type Server, Servers } from "../internal/natsServers.ts"
import { shorten } from "../internal/untrusted.ts"
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
 * dies with an `OptionError` if an option makes no sense. A message has to fit into the `max_payload` of the server too,
 * which is 1 MiB unless configured.
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

const isAddress = (text: string): boolean => text.split(",").every((one) => parsed(one) !== undefined)

const allowed = "addresses of NATS, separated by commas: (nats|tls)://[user:password@ | token@]host[:port]"

const resolve = (all: Options): Resolved => {
  const { client, url = "nats://localhost", ...options } = objectOf("options", all)
  const urls = addressOf(url, isAddress, allowed).split(",").flatMap((text) => parsed(text) ?? [])
  const settings = settingsOf(options)
  return {
    settings,
    servers: urls.map((url) => `${url.hostname}:${url.port || defaultPort}`),
    client: {
      ...(urls.some(({ protocol }) => protocol === "tls:") ? { tls: {} } : {}),
      ...Object.assign({}, ...urls.map(loginOf)),
      ...objectOf("client", client),
      timeout: settings.timeout,
      reconnect: false,
      noEcho: true,
      ignoreClusterUpdates: false
    }
  }
}

const make = ({ client, servers, settings }: Resolved, deliver: (topic: string, message: unknown) => void) =>
  Cluster.make(engine(client, new Servers(servers)), settings, deliver)

/** The first line of a server: what it is, and if it wants TLS. */
interface Greeting {
  readonly tls_required?: boolean
  readonly tls_available?: boolean
}

/** A line that is longer is none of NATS. */
const longestGreeting = 1024 * 1024

/** A server greets whoever connects; one that hangs does not, and the client would leave its socket open. */
const greeted = (host: string, port: number, tlsFirst: boolean): Effect.Effect<Greeting, unknown> =>
  Effect.callback<Greeting, unknown>((resume) => {
    const socket = connectSocket(port, host)
    const end = (answer: Effect.Effect<Greeting, unknown>) => {
      socket.destroy()
      resume(answer)
    }
    let text = ""
    if (tlsFirst) socket.once("connect", () => end(Effect.succeed({})))
    socket.setEncoding("latin1").on("data", (more: string) => {
      text += more
      if (!text.includes("\n") && text.length < longestGreeting) return
      try {
        end(Effect.succeed(JSON.parse(/^INFO (.*)/i.exec(text)?.[1] ?? "none")))
      } catch {
        end(Effect.fail(new Error(`it does not greet as NATS does: ${shorten(text, 100)}`)))
      }
    })
    socket.on("error", (cause) => end(Effect.fail(cause)))
    socket.once("close", () => end(Effect.fail(new Error("it closed the connection"))))
    return Effect.sync(() => void socket.destroy())
  })

/** The addresses of a host: each may be another server. */
const addressesOf = (host: string): Effect.Effect<ReadonlyArray<string>, unknown> =>
  Effect.tryPromise({
    try: () => lookup(host, { all: true }).then((all) => all.map(({ address }) => address)),
    catch: (cause) => cause
  })

type Tls = NonNullable<NodeConnectionOptions["tls"]>

/**
 * The options of TLS for a server. Its certificate is for the name that it is known by; a server that another one has told
 * of is known by its address alone, and may show the name of any server of the options. The client hands all of this to
 * Node, also what its type does not list. The signal ends a handshake that hangs.
 */
const tlsFor = (tls: Tls, { host }: Server, names: ReadonlyArray<string>, signal: AbortSignal): Tls => {
  if (isIP(host) === 0) return Object.assign({ servername: host }, tls, { signal })
  const all = [host, ...names]
  const checkServerIdentity = (_: string, certificate: PeerCertificate) =>
    all.some((name) => checkIdentity(name, certificate) === undefined) ? undefined : checkIdentity(host, certificate)
  const [servername] = names
  return Object.assign({ checkServerIdentity, ...(servername === undefined ? { host } : { servername }) }, tls, {
    signal
  })
}

const opened = (options: NodeConnectionOptions, server: Server, names: ReadonlyArray<string>, greeting: Greeting) =>
  Effect.tryPromise({
    try: (signal) => {
      const isSecret = greeting.tls_required === true || greeting.tls_available === true
      const tls = options.tls === undefined && isSecret ? {} : options.tls
      return connect({ ...options, ...(tls ? { tls: tlsFor(tls, server, names, signal) } : {}) }).then((connection) => {
        if (signal.aborted) void connection.close()
        return connection
      })
    },
    catch: (cause) => cause
  })

/** Connects to the first server that takes this node. */
const reached = (
  options: NodeConnectionOptions,
  servers: Servers,
  all: ReadonlyArray<Server>,
  timeout: number,
  now: () => number
) => {
  const tlsFirst = options.tls?.handshakeFirst === true
  let taken: NatsConnection | undefined
  const reach = (server: Server, address: string) =>
    Effect.gen(function*() {
      const greeting = yield* greeted(address, server.port, tlsFirst)
      const at = { ...options, servers: [nameOf({ host: address, port: server.port })], resolve: false }
      const connection = yield* opened(at, server, servers.names, greeting)
      const problem = taken === undefined
        ? servers.problemOf(server, connection.info ?? {}, now())
        : "another was faster"
      if (problem === undefined) return taken = connection
      void connection.close()
      return yield* Effect.fail(new Error(problem))
    })
  const attempt = (server: Server) =>
    Effect.flatMap(addressesOf(server.host), (addresses) => {
      const attempts = addresses.map((address) => [address, reach(server, address)] as const)
      const [only] = attempts
      return only !== undefined && attempts.length === 1 ? only[1] : firstOf(new Map(attempts), timeout / 2)
    })
  return firstOf(new Map(all.map((server) => [nameOf(server), attempt(server)])), timeout).pipe(
    Effect.onError(() =>
      Effect.sync(() => {
        servers.lost(now())
        void taken?.close()
      })
    )
  )
}

const engine = (options: NodeConnectionOptions, servers: Servers): Engine => ({
  name: "NATS",
  label: "nats",
  separator: ".",
  limit: "raise max_payload in the configuration of NATS",
  connect: Effect.fnUntraced(function*(listener, timeout) {
    const settle = Effect.runPromiseWith(yield* Effect.context<never>())
    const all = yield* Random.shuffle(servers.all)
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const connection = yield* Effect.acquireRelease(
      reached(options, servers, all, timeout, now),
      (connection) => Effect.promise(() => connection.close()),
      { interruptible: true }
    )
    return new Wire(connection, servers, listener, () => settle(Effect.yieldNow))
  })
})

interface Subscription {
  readonly unsubscribe: () => void
}

/** A request to subscribe, while its answer is awaited. */
interface Request {
  readonly channels: ReadonlySet<string>
  readonly refused: Map<string, unknown>
  /** Errors that name no channel. */
  readonly unnamed: Array<Error>
}

/** A connection, and what NATS does not say by itself: when it has got what was published, and which channels it refuses. */
class Wire implements Connection {
  readonly echoes = false
  private readonly connection: NatsConnection
  private readonly servers: Servers
  private readonly listener: Listener
  /** Complete once the client has told of all that it has read. */
  private readonly settle: () => Promise<void>
  private readonly subscriptions = new Map<string, Subscription>()
  /** Those who wait for an answer: the client forgets them when the connection ends. */
  private readonly waiting = new Set<(cause: unknown) => void>()
  private asked: Request | undefined = undefined
  private current: Promise<void> | undefined = undefined
  private next: Promise<void> | undefined = undefined

  constructor(connection: NatsConnection, servers: Servers, listener: Listener, settle: () => Promise<void>) {
    this.connection = connection
    this.servers = servers
    this.listener = listener
    this.settle = settle
    this.servers.heard(connection.info ?? {})
    this.watchEnd().then(undefined, listener.broken)
    this.watchStatus().then(undefined, listener.broken)
  }

  get maxMessageBytes(): number {
    return this.connection.info?.max_payload ?? Infinity
  }

  async publish(channel: string, data: Uint8Array): Promise<void> {
    this.connection.publish(channel, data)
    await this.handedOver()
  }

  async subscribe(channels: ReadonlyArray<string>): Promise<ReadonlyMap<string, unknown>> {
    const { refused, unnamed } = this.asked = { channels: new Set(channels), refused: new Map(), unnamed: [] }
    for (const channel of channels) {
      // Ends a subscription that was refused, or may have been.
      this.subscriptions.get(channel)?.unsubscribe()
      const { message } = this.listener
      const callback = (error: Error | null, received: { readonly subject: string; readonly data: Uint8Array }) =>
        error === null ? message(received.subject, received.data) : this.refuse(channel, error)
      this.subscriptions.set(channel, this.connection.subscribe(channel, { callback }))
    }
    await this.ping()
    await this.settle()
    this.asked = undefined
    for (const [channel, cause] of unnamedAmong(channels.filter((channel) => !refused.has(channel)), unnamed)) {
      refused.set(channel, cause)
    }
    return refused
  }

  async unsubscribe(channels: ReadonlyArray<string>): Promise<void> {
    for (const channel of channels) {
      this.subscriptions.get(channel)?.unsubscribe()
      this.subscriptions.delete(channel)
    }
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

  /** NATS does not let this node subscribe, or does so no longer. */
  private refuse(channel: string, cause: unknown): void {
    this.subscriptions.delete(channel)
    if (this.asked?.channels.has(channel) === true) this.asked.refused.set(channel, cause)
    else this.listener.subscriptionRefused(channel, cause)
  }

  /** One question is under way at a time; all that is published meanwhile shares the next. */
  private handedOver(): Promise<void> {
    if (this.current === undefined) return this.ask()
    return this.next ??= this.current.then(() => this.ask())
  }

  private ask(): Promise<void> {
    this.next = undefined
    const asked = this.ping().then(this.settle).finally(() => {
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

  private async watchStatus(): Promise<void> {
    for await (const status of this.connection.status()) {
      if (status.type === "update") this.servers.heard(this.connection.info ?? {})
      else if (status.type === "error") this.told(status.error)
    }
  }

  private told(error: Error): void {
    if (!(error instanceof errors.PermissionViolationError)) {
      if (this.asked === undefined) this.listener.complained(error)
      else this.asked.unnamed.push(error)
    } else if (error.operation === "publish") {
      this.listener.publishRefused(error.subject, error)
    }
  }
}

/**
 * The channels of a request that errors are about which name none. At the limit of a connection NATS refuses the last ones,
 * with an error for each. An error that says something else may be about any of them.
 */
const unnamedAmong = (
  channels: ReadonlyArray<string>,
  unnamed: ReadonlyArray<Error>
): ReadonlyArray<readonly [channel: string, cause: Error]> => {
  const [cause] = unnamed
  if (cause === undefined) return []
  const isLimit = unnamed.every(({ message }) => /maximum subscriptions/i.test(message))
  return (isLimit ? channels.slice(-unnamed.length) : channels).map((channel) => [channel, cause] as const)
}
