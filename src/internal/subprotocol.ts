import { isUtf8 } from "node:buffer"

/** Begins the subprotocol in which phoenix.js sends its `authToken`, which a browser cannot put into a header. */
const tokenPrefix = "base64url.bearer.phx."

const isToken = (entry: string): boolean => entry.startsWith(tokenPrefix)

/** Returns true if the header holds a token of phoenix.js. */
export const hasToken = (header: string | undefined): boolean => header?.includes(tokenPrefix) === true

export interface Chosen {
  readonly _tag: "Chosen"
  /** What the client is answered; undefined for nothing. */
  readonly chosen: string | undefined
  /** What it asks for, without the token. */
  readonly asked: ReadonlyArray<string>
  readonly authToken: string | undefined
}

/** What a client asks for in `Sec-WebSocket-Protocol`, and what it gets. */
export type Protocol =
  | Chosen
  /** The client asks for others than are spoken here: for logs, so what looks like a token is not among them. */
  | { readonly _tag: "Mismatch"; readonly asked: ReadonlyArray<string> }
  /** The token is not Base64. */
  | { readonly _tag: "Malformed" }

/** What a client gets that asks for nothing. */
const nothing: Chosen = { _tag: "Chosen", chosen: undefined, asked: [], authToken: undefined }

/** The `btoa` of phoenix.js makes a byte of each character, or fails; other clients may encode UTF-8. */
const decodeToken = (text: string): string | undefined => {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.replace(/=+$/, "").length % 4 === 1) return undefined
  const bytes = Buffer.from(text, "base64")
  return bytes.toString(isUtf8(bytes) ? "utf8" : "latin1")
}

/**
 * Chooses a subprotocol: of those `spoken`, in their order, the first that the header names.
 *
 * With `authToken`, the header may hold the client's token, and `phoenix` is spoken first: a browser gives up a connection
 * that answers none of the protocols it asked for. Several tokens are none.
 */
export const chooseProtocol = (
  header: string | undefined,
  spoken: ReadonlyArray<string> | undefined,
  authToken: boolean
): Protocol => {
  if (header === undefined) return nothing
  const entries = header.split(",").map((entry) => entry.trim()).filter((entry) => entry !== "")
  const tokens = authToken ? entries.filter(isToken) : []
  const [encoded] = tokens
  const single = tokens.length === 1 && encoded !== undefined
  const token = single ? decodeToken(encoded.slice(tokenPrefix.length)) : undefined
  if (single && token === undefined) return { _tag: "Malformed" }
  const asked = single ? entries.filter((entry) => entry !== encoded) : entries
  const own = authToken ? ["phoenix", ...spoken ?? []] : spoken
  const chosen = own?.find((protocol) => asked.includes(protocol))
  // A client that sends a token and nothing else asks for no protocol.
  const asks = !(single && asked.length === 0)
  if (own !== undefined && asks && chosen === undefined) {
    return { _tag: "Mismatch", asked: asked.filter((entry) => !isToken(entry)) }
  }
  return { _tag: "Chosen", chosen, asked, authToken: token }
}
