/** Which web pages may connect. Browsers name the page's origin in a header that the page cannot set. */
import { disown } from "./eager.ts"
import { OptionError } from "./options.ts"

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
 *   scheme or port that the entry leaves out matches any, but a scheme stands for its default port too; `ws` and `wss` are
 *   taken for `http` and `https`. `*.` in front matches the host behind it and every host below; it is the one wildcard.
 * - a function: pages for which it returns true. It also decides on origins without a host, which all others refuse. When
 *   it throws, or returns something else than true or false, the request is answered 500.
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

/** Pages are opened over http, also where their sockets are written with a scheme of WebSockets. */
const pageSchemes = new Map([["ws", "http"], ["wss", "https"]])

/**
 * The host as a browser writes it: in ASCII, addresses in their shortest form. Undefined for a name that no page can have.
 */
const canonicalHost = (host: string): string | undefined => {
  if (host.includes("*")) return undefined
  const url = `http://${host.includes(":") ? `[${host}]` : host}`
  const name = URL.canParse(url) ? new URL(url).hostname : undefined
  if (name !== undefined && name !== "") return name.replace(/^\[(.*)\]$/, "$1")
  return /^[a-z0-9._-]+$/.test(host) ? host : undefined
}

const entryForm = `a list of origins with a host, written like "https://example.com", "//example.com", `
  + `"//example.com:8080" or "//*.example.com"`

const compileEntry = (option: string, entry: unknown): Match => {
  if (typeof entry !== "string") throw new OptionError(option, entry, entryForm)
  const { scheme, host: written = "", port } = parseOrigin(entry)
  const wildcard = written.startsWith("*.")
  const plain = wildcard ? written.slice(2) : written
  // Other schemes than those of the web have hosts of their own kind.
  const isWeb = scheme === undefined || defaultPorts.has(scheme)
  const host = isWeb || wildcard ? canonicalHost(plain) : plain
  if (host === undefined || host === "" || port === 0) throw new OptionError(option, entry, entryForm)
  const apex = wildcard ? host : undefined
  const ofPage = pageSchemes.get(scheme ?? "")
  return (origin) =>
    (scheme === undefined || origin.scheme === scheme || (ofPage !== undefined && origin.scheme === ofPage))
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

/** The endpoint's own host. An IPv6 address has no brackets where it is configured, and then does not parse as an authority. */
const ownHost = (configured: string): string => {
  const host = parseAuthority(configured)?.host ?? configured.toLowerCase()
  return canonicalHost(host) ?? host
}

/** Checks the option that names the endpoint's host. */
export const hostOption = (option: string, value: unknown): string => {
  // With an address of IPv6 there are colons in it.
  if (typeof value === "string" && /^[^\s/?#@*]+$/.test(value) && canonicalHost(ownHost(value)) !== undefined) {
    return value
  }
  throw new OptionError(option, value, `the name of a host, such as "example.com", without a scheme and a path`)
}

const compileOption = (
  name: string,
  option: Exclude<CheckOrigin, false>,
  endpointHost: string | undefined
): (origin: Origin, request: RequestTarget) => boolean => {
  if (typeof option === "function") {
    return (origin) => {
      const allowed: unknown = option(origin)
      // A promise would let everybody in.
      if (typeof allowed === "boolean") return allowed
      disown(allowed)
      throw new TypeError(
        `checkOrigin must return true or false, and nothing else: it has returned a ${typeof allowed}`
      )
    }
  }
  if (option === "conn") return toConnection
  if (option === true) {
    const own = endpointHost === undefined ? undefined : ownHost(endpointHost)
    return (origin, request) =>
      origin.host !== undefined && origin.host === (own ?? parseAuthority(request.host ?? "")?.host)
  }
  if (!Array.isArray(option)) {
    const list = typeof option === "string" ? `a list, as in [${JSON.stringify(option)}]` : "a list"
    throw new OptionError(name, option, `true, false, "conn", a function or ${list}`)
  }
  const matches = option.map((entry) => compileEntry(name, entry))
  return (origin) => matches.some((match) => match(origin))
}

/**
 * Compiles the option once, to a check of each request's `Origin` header. `host` is the endpoint's own, which `true`
 * compares with; if undefined, that is the host of the request's `Host` header.
 *
 * Throws an `OptionError` for what is no such option, and for an entry of a list that no page can match. Hosts are compared
 * without regard to case, and as browsers write them: `//bücher.example` is `xn--bcher-kva.example`.
 */
export const compileOrigin = (
  option: CheckOrigin,
  host: string | undefined,
  name = "checkOrigin"
): (origin: string | undefined, request: RequestTarget) => boolean => {
  if (option === false) return () => true
  const isAllowed = compileOption(name, option, host)
  return (origin, request) => origin === undefined || isAllowed(parseOrigin(origin), request)
}
