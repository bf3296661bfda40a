import { Cause, Deferred, Effect, Exit } from "effect"
import { isIP } from "node:net"
import { reasonOf } from "./reasons.ts"
import { shorten } from "./untrusted.ts"

/** A server of NATS, by the name or address it is known under. */
export interface Server {
  readonly host: string
  readonly port: number
  /** From the options, and not from another server. */
  readonly isConfigured: boolean
}

/** The cluster as one of its servers describes it. */
export interface Gossip {
  readonly cluster?: string | undefined
  readonly connect_urls?: ReadonlyArray<string> | undefined
}

export const nameOf = ({ host, port }: Omit<Server, "isConfigured">): string =>
  `${host.includes(":") ? `[${host}]` : host}:${port}`

/** Reads `host:port`, with brackets around an address of IPv6. */
export const serverOf = (address: string, isConfigured: boolean): Server | undefined => {
  const url = URL.parse(`nats://${address}`)
  if (url === null || url.hostname === "") return undefined
  return { host: url.hostname.replaceAll(/^\[|\]$/g, ""), port: Number(url.port || 4222), isConfigured }
}

/**
 * The servers that a node may connect to: those of the options, and those that the server of the last connection knew of when
 * it was last heard.
 */
export class Servers {
  private readonly configured: ReadonlyArray<Server>
  private gossiped: ReadonlyArray<Server> = []
  /** The name of the cluster of the last connection; undefined for a server on its own. */
  private cluster: string | undefined = undefined
  private isKnown = false
  /** When the search for a server of that cluster began, in milliseconds of the monotonic clock; undefined while there is one. */
  private lostAt: number | undefined = undefined

  constructor(configured: ReadonlyArray<string>) {
    this.configured = configured.flatMap((address) => serverOf(address, true) ?? [])
  }

  get all(): ReadonlyArray<Server> {
    const byName = new Map<string, Server>()
    for (const server of [...this.gossiped, ...this.configured]) byName.set(nameOf(server), server)
    return [...byName.values()]
  }

  /** The names of those of the options that have one, and not only an address. */
  get names(): ReadonlyArray<string> {
    return this.configured.map(({ host }) => host).filter((host) => isIP(host) === 0)
  }

  /**
   * The reason not to stay on a server: its address has gone to another cluster, where the other nodes are not. One of the
   * options is taken all the same once no server of the cluster before was found for long enough.
   */
  problemOf({ isConfigured }: Server, { cluster }: Gossip, now: number): string | undefined {
    if (!this.isKnown || cluster === this.cluster) return undefined
    if (isConfigured && this.lostAt !== undefined) {
      if (isMadeUp(cluster) && isMadeUp(this.cluster)) return undefined
      if (now - this.lostAt >= faithful) return undefined
    }
    return `it belongs to another cluster (${nameFor(cluster)}) than the servers before (${nameFor(this.cluster)})`
  }

  /** The connection is there, or its server knows of other servers now. */
  heard({ cluster, connect_urls = [] }: Gossip): void {
    this.isKnown = true
    this.lostAt = undefined
    this.cluster = cluster
    this.gossiped = connect_urls.flatMap((address) => serverOf(address, false) ?? [])
  }

  /** No server has taken this node. */
  lost(now: number): void {
    this.lostAt ??= now
  }
}

/** For so many milliseconds a node looks for the cluster that it was in, before it joins another. */
const faithful = 30_000

/** NATS makes up the name of a cluster that was given none, another one each time that all of it starts. */
const isMadeUp = (cluster: string | undefined): boolean => cluster !== undefined && /^[0-9A-Za-z]{22}$/.test(cluster)

const nameFor = (cluster: string | undefined): string => cluster === undefined ? "none" : shorten(cluster, 100)

/** A server that does not answer gets so much of a start before the next one is tried too. */
const stagger = 250
/** Servers whose reasons are told. */
const most = 8

/**
 * The result of the attempt that is the first to succeed. They begin in turn: the next at once when one has failed, and when
 * one takes long, both go on. Fails with the reasons of all, by name, also when `timeout` milliseconds are over.
 */
export const firstOf = <A>(
  attempts: ReadonlyMap<string, Effect.Effect<A, unknown>>,
  timeout: number
): Effect.Effect<A, Error> =>
  Effect.suspend(() => {
    const causes = new Map<string, unknown>()
    const pause = Math.min(stagger, timeout / (attempts.size + 1))
    let before = Deferred.makeUnsafe<void>()
    Deferred.doneUnsafe(before, Exit.void)
    const turns = Array.from(attempts, ([name, attempt]) => {
      const begin = before
      const next = before = Deferred.makeUnsafe<void>()
      const failed = (cause: Cause.Cause<unknown>) => {
        if (Cause.hasInterruptsOnly(cause)) return
        causes.set(name, Cause.squash(cause))
        Deferred.doneUnsafe(next, Exit.void)
      }
      const pass = Effect.andThen(Effect.sleep(pause), Effect.sync(() => Deferred.doneUnsafe(next, Exit.void)))
      const turn = Effect.raceFirst(
        Effect.tapCause(attempt, (cause) => Effect.sync(() => failed(cause))),
        Effect.andThen(pass, Effect.never)
      )
      return Effect.andThen(Deferred.await(begin), turn)
    })
    // In the order of the names, so that the same reasons are the same text.
    const reasons = () => {
      const all = Array.from(attempts.keys()).sort().map((name) =>
        `${name}: ${causes.has(name) ? reasonOf(causes.get(name)) : "no answer"}`
      )
      const rest = all.length > most ? `; and ${all.length - most} more` : ""
      return new Error(`${all.slice(0, most).join("; ")}${rest}`, { cause: causes.values().next().value })
    }
    return Effect.raceAll(turns).pipe(
      Effect.timeoutOrElse({ duration: timeout, orElse: () => Effect.fail(undefined) }),
      Effect.mapError(reasons)
    )
  })
