/**
 * Query strings read the way Plug reads them, which is what the params of a connecting client are: `a=1`, `a[b]=1` and
 * `a[]=1`, without numbers, so `a[0]=1` is `{ a: { 0: "1" } }`.
 */
import * as Data from "effect/Data"
import * as Result from "effect/Result"

/** How many pairs of brackets a name may have. */
export const maxDepth = 32

/** Every leaf is a string, and no object has a prototype: a client may name its params `__proto__`. */
export interface Params {
  readonly [name: string]: Param
}

/** @see {@link Params} */
export type Param = string | ReadonlyArray<Param> | Params

/**
 * The client's query is refused, which over HTTP is a 400: `encoding` if what is percent-encoded is malformed or is not
 * UTF-8, `depth` if a name has more than {@link maxDepth} pairs of brackets.
 */
export class QueryError extends Data.TaggedError("QueryError")<{
  readonly reason: "encoding" | "depth"
  readonly message: string
}> {}

/** What stands below one name, in the order of the query. The key of a list's element is empty. */
interface Level {
  readonly entries: Array<readonly [key: string, value: string | Level]>
  readonly levels: Map<string, Level>
}

const makeLevel = (): Level => ({ entries: [], levels: new Map() })

const refuse = (reason: QueryError["reason"]): Result.Result<never, QueryError> =>
  Result.fail(
    new QueryError({
      reason,
      message: reason === "encoding"
        ? "the query is not percent-encoded UTF-8"
        : `a name in the query has more than ${maxDepth} pairs of brackets`
    })
  )

const unescape = (text: string): string | undefined => {
  try {
    // A percent sign that encodes nothing stands for itself, as it does for Plug.
    const unescaped = decodeURIComponent(text.replaceAll("+", " ").replaceAll(/%(?![0-9a-f]{2})/gi, "%25"))
    return unescaped.isWellFormed() ? unescaped : undefined
  } catch {
    return undefined
  }
}

/** `a[b][]` is `["a", "b", ""]`; a name that has no bracket where one belongs is taken as it is. */
const path = (name: string): ReadonlyArray<string> => {
  const bracket = name.indexOf("[")
  return bracket > 0 && name.endsWith("]")
    ? [name.slice(0, bracket), ...name.slice(bracket + 1, -1).split("][", maxDepth + 1)]
    : [name]
}

/** A name that was first seen inside another keeps that place: in `a[b]=1&a=2&a[c]=3` it is `a=2` that comes last. */
const insert = (root: Level, path: ReadonlyArray<string>, value: string): void => {
  let level = root
  for (const key of path.slice(0, -1)) {
    let next = level.levels.get(key)
    if (next === undefined) {
      next = makeLevel()
      level.levels.set(key, next)
      level.entries.push([key, next])
    }
    level = next
  }
  level.entries.push([path.at(-1) ?? "", value])
}

const toParam = (value: string | Level): Param => {
  if (typeof value === "string") return value
  return value.entries.at(-1)?.[0] === ""
    ? value.entries.filter(([key]) => key === "").map(([, element]) => toParam(element))
    : toParams(value.entries.filter(([key]) => key !== ""))
}

const toParams = (entries: Level["entries"]): Params => {
  const params: { [name: string]: Param } = Object.create(null)
  for (const [key, value] of entries) params[key] = toParam(value)
  return params
}

/**
 * Decodes a query string, with or without its `?`.
 *
 * A name given twice has its last value. Where one name is used in several ways (`a=1&a[]=2&a[b]=3`) the last one used
 * for the first time decides. A name without `=` has the empty string, and nothing between two `&` is nothing.
 */
export const decodeQuery = (query: string): Result.Result<Params, QueryError> =>
  // Nearly always there is nothing to decode and nothing to nest.
  /[%+[\ud800-\udfff]/.test(query) ? decodeNested(query) : Result.succeed(decodePlain(query))

const decodePlain = (query: string): Params => {
  const params: { [name: string]: Param } = Object.create(null)
  let start = query.startsWith("?") ? 1 : 0
  while (start < query.length) {
    const ampersand = query.indexOf("&", start)
    const end = ampersand < 0 ? query.length : ampersand
    const segment = query.slice(start, end)
    const equals = segment.indexOf("=")
    if (equals >= 0) params[segment.slice(0, equals)] = segment.slice(equals + 1)
    else if (segment !== "") params[segment] = ""
    start = end + 1
  }
  return params
}

const decodeNested = (query: string): Result.Result<Params, QueryError> => {
  const root = makeLevel()
  for (const segment of (query.startsWith("?") ? query.slice(1) : query).split("&")) {
    if (segment === "") continue
    const equals = segment.indexOf("=")
    const name = unescape(equals < 0 ? segment : segment.slice(0, equals))
    const value = equals < 0 ? "" : unescape(segment.slice(equals + 1))
    if (name === undefined || value === undefined) return refuse("encoding")
    const keys = path(name)
    if (keys.length > maxDepth + 1) return refuse("depth")
    insert(root, keys, value)
  }
  return Result.succeed(toParams(root.entries))
}
