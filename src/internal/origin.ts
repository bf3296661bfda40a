/** Which web pages may connect. Browsers name the page's origin in a header that the page cannot set. */

/** The `Origin` header, taken apart. A part is undefined if the header lacks it, as all are in `null` or `file://`. */
export interface Origin {
  /** In lower case. */
  readonly scheme: string | undefined
  /** In lower case, an IPv6 address without its brackets. */
  readonly host: string | undefined
  /** The scheme's own port (80 for http and ws, 443 for https and wss) if the header gives none. */
  readonly port: number | undefined
  /** The header as it came. */
  readonly raw: string
}

/**
 * Who may connect, of those that send an `Origin` header; without one, everyone may.
 *
 * - `false`: everyone.
 * - `true`: pages of the endpoint's own host, on any scheme and port.
 * - `"conn"`: pages of the scheme, host and port that the request itself went to.
 * - a list such as `["https://example.com", "//example.com:8080", "//*.example.com"]`: pages that match an entry. A
 *   scheme or port that the entry leaves out matches any, but a scheme stands for its default port too. `*.` in front
 *   matches the host behind it and every host below; it is the one wildcard.
 * - a function: pages for which it returns true. It also decides on origins without a host, which all others refuse.
 */
export type CheckOrigin = boolean | "conn" | ReadonlyArray<string> | ((origin: Origin) => boolean)

/** What a request tells of where it went to. */
export interface RequestTarget {
  /** The `Host` header. */
  readonly host: string | undefined
  /** Whether it came over TLS, as far as the client can tell. */
  readonly secure: boolean
}

const defaultPorts = new Map([["http", 80], ["ws", 80], ["https", 443], ["wss", 443]])

const authorityPattern = /^(?:\[([a-z0-9:.]+)\]|([^:[\]]+))(?::([0-9]*))?$/

const parseAuthority = (
  text: string
): { readonly host: string; readonly port: number | undefined } | undefined => {
  const [, ipv6, name, digits = ""] = authorityPattern.exec(text.toLowerCase()) ?? []
  const host = ipv6 ?? name
  const port = digits === "" ? undefined : Number(digits)
  return host === undefined || (port ?? 0) > 65535 ? undefined : { host, port }
}

const originPattern = /^(?:([a-z][a-z0-9+.-]*):)?(?:\/\/([^/?#]*))?/i

const parseOrigin = (raw: string): Origin => {
  const [, scheme, authority = ""] = originPattern.exec(raw) ?? []
  const lowered = scheme?.toLowerCase()
  const { host, port } = parseAuthority(authority.slice(authority.lastIndexOf("@") + 1)) ?? {}
  return { scheme: lowered, host, port: port ?? defaultPorts.get(lowered ?? ""), raw }
}

type Match = (origin: Origin) => boolean

const compileEntry = (entry: string): Match => {
  const { scheme, host, port } = parseOrigin(entry)
  if (host === undefined || host === "*.") {
    throw new RangeError(
      `checkOrigin: ${JSON.stringify(entry)} is no origin with a host. `
        + `Write it like "https://example.com", "//example.com", "//example.com:8080" or "//*.example.com".`
    )
  }
  const apex = host.startsWith("*.") ? host.slice(2) : undefined
  return (origin) =>
    (scheme === undefined || origin.scheme === scheme)
    && (port === undefined || origin.port === port)
    && (apex === undefined
      ? origin.host === host
      : origin.host === apex || origin.host?.endsWith(`.${apex}`) === true)
}

const toConnection = (origin: Origin, request: RequestTarget): boolean => {
  const target = parseAuthority(request.host ?? "")
  const scheme = request.secure ? "https" : "http"
  return target !== undefined
    && origin.scheme === scheme
    && origin.host === target.host
    && origin.port === (target.port ?? defaultPorts.get(scheme))
}

const compileOption = (
  option: Exclude<CheckOrigin, false>,
  endpointHost: string | undefined
): (origin: Origin, request: RequestTarget) => boolean => {
  if (typeof option === "function") return (origin) => option(origin)
  if (option === "conn") return toConnection
  if (option === true) {
    // An IPv6 address has no brackets where a host is configured, and then does not parse as an authority.
    const own = endpointHost === undefined
      ? undefined
      : parseAuthority(endpointHost)?.host ?? endpointHost.toLowerCase()
    return (origin, request) =>
      origin.host !== undefined && origin.host === (own ?? parseAuthority(request.host ?? "")?.host)
  }
  const matches = option.map(compileEntry)
  return (origin) => matches.some((match) => match(origin))
}

/**
 * Compiles the option once, to a check of each request's `Origin` header. `host` is the endpoint's own, which `true`
 * compares with; if undefined, that is the host of the request's `Host` header.
 *
 * Throws a `RangeError` if an entry of a list has no host. Hosts are compared without regard to case.
 */
export const compileOrigin = (
  option: CheckOrigin,
  host: string | undefined
): (origin: string | undefined, request: RequestTarget) => boolean => {
  if (option === false) return () => true
  const isAllowed = compileOption(option, host)
  return (origin, request) => origin === undefined || isAllowed(parseOrigin(origin), request)
}
