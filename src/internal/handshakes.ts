import { FindMyWay } from "effect/http"
import type { IncomingMessage } from "node:http"

/** The values of the variables in a path. */
export interface PathParams {
  readonly [name: string]: string | undefined
}

/** Answers a handshake. */
export type Take = (request: IncomingMessage, head: Buffer, pathParams: PathParams) => void

/** Characters that a variable of a path may have, unless the router is known to have another limit: as many as a token. */
export const maxParamLength = 8192

/** The path that a request asks for; undefined for `*`. The request line may have the whole address. */
const pathOf = ({ url = "" }: IncomingMessage): string | undefined => {
  const path = url.startsWith("/") ? url : url.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, "")
  if (path !== "" && !path.startsWith("/")) return undefined
  const query = path.indexOf("?")
  return (query < 0 ? path : path.slice(0, query)) || "/"
}

/**
 * The paths of the mounts of a server. Handshakes are answered before the server's listeners, and so the router, see them,
 * where the mount does not leave that to the router, and the path is asked for as it is written there. Whether another case
 * or one slash more is the same path is for the router to say: its configuration may not be known here.
 */
export class Handshakes {
  private readonly takers = new Map<FindMyWay.PathInput, Take | undefined>()
  private config: Partial<FindMyWay.RouterConfig> = {}
  /** Paths with variables, of mounts that do not leave handshakes to the router. */
  private direct = FindMyWay.make<Take>()
  private all = FindMyWay.make<true>()
  /** Paths without variables: nearly all. */
  private readonly exact = new Map<string, Take>()

  /**
   * Returns how to take it away again.
   *
   * @param take - undefined where the router answers
   * @param config - how the application's router reads paths, as far as that is known
   */
  add(path: FindMyWay.PathInput, take: Take | undefined, config: Partial<FindMyWay.RouterConfig> = {}): () => void {
    this.config = config
    this.takers.set(path, take)
    this.build()
    return () => {
      this.takers.delete(path)
      this.build()
    }
  }

  private build(): void {
    const config = { maxParamLength, ...this.config }
    this.all = FindMyWay.make(config)
    this.direct = FindMyWay.make({
      ...config,
      caseSensitive: true,
      ignoreDuplicateSlashes: false,
      ignoreTrailingSlash: false
    })
    this.exact.clear()
    for (const [path, take] of this.takers) {
      this.all.on("GET", path, true)
      if (take === undefined) continue
      if (/[:*]/.test(path)) this.direct.on("GET", path, take)
      else this.exact.set(path, take)
    }
  }

  /** Returns true if a mount has answered. */
  take(request: IncomingMessage, head: Buffer): boolean {
    const { url = "" } = request
    // The whole address in place of a path is left to the router, as are other methods than GET.
    if (request.method !== "GET" || !url.startsWith("/")) return false
    const query = url.indexOf("?")
    const path = query < 0 ? url : url.slice(0, query)
    const exact = this.exact.get(path)
    if (exact !== undefined) {
      exact(request, head, {})
      return true
    }
    const found = this.direct.find("GET", path)
    found?.handler(request, head, found.params)
    return found !== undefined
  }

  /** Returns true if the path is that of a mount, whoever answers there. */
  knows(request: IncomingMessage): boolean {
    const path = pathOf(request)
    return path !== undefined && this.all.find("GET", path) !== undefined
  }
}
