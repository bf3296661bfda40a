/** Compares what was recorded with what was received, where the recording leaves something open. */

/** What the marks of a recording, such as `<ref 1>`, stand for in this run. */
export type Bindings = ReadonlyMap<string, string>

type Then = (bindings: Bindings) => Bindings | undefined

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const bind = (mark: string, actual: string, bindings: Bindings, then: Then): Bindings | undefined => {
  const known = bindings.get(mark)
  if (known !== undefined) return known === actual ? then(bindings) : undefined
  return [...bindings.values()].includes(actual) ? undefined : then(new Map([...bindings, [mark, actual]]))
}

const inOrder = (
  expected: ReadonlyArray<unknown>,
  actual: ReadonlyArray<unknown>,
  bindings: Bindings,
  then: Then
): Bindings | undefined => {
  if (expected.length !== actual.length) return undefined
  if (expected.length === 0) return then(bindings)
  return unify(
    expected[0],
    actual[0],
    bindings,
    (bindings) => inOrder(expected.slice(1), actual.slice(1), bindings, then)
  )
}

/** The order is free. */
export const unifyAny = (
  expected: ReadonlyArray<unknown>,
  actual: ReadonlyArray<unknown>,
  bindings: Bindings,
  then: Then
): Bindings | undefined => {
  if (expected.length !== actual.length) return undefined
  if (expected.length === 0) return then(bindings)
  for (const [index, candidate] of actual.entries()) {
    const found = unify(
      expected[0],
      candidate,
      bindings,
      (bindings) => unifyAny(expected.slice(1), actual.toSpliced(index, 1), bindings, then)
    )
    if (found !== undefined) return found
  }
  return undefined
}

/** Undefined if they differ; otherwise what `then` makes of the bindings under which they are the same. */
export const unify = (expected: unknown, actual: unknown, bindings: Bindings, then: Then): Bindings | undefined => {
  if (typeof expected === "string") {
    if (typeof actual !== "string") return undefined
    if (/^<ref \d+>$/.test(expected)) return bind(expected, actual, bindings, then)
    if (expected === "<exception>") return actual === "exception" ? then(bindings) : undefined
    if (expected === "<transport closed>") {
      return /^\{:shutdown, :(local_closed|peer_closed|closed)\}$/.test(actual) ? then(bindings) : undefined
    }
  }
  if (Array.isArray(expected)) return Array.isArray(actual) ? inOrder(expected, actual, bindings, then) : undefined
  if (!isObject(expected)) return Object.is(expected, actual) ? then(bindings) : undefined
  if (!isObject(actual)) return undefined
  const keys = Object.keys(expected)
  if (keys.length !== Object.keys(actual).length || !keys.every((key) => Object.hasOwn(actual, key))) return undefined
  const all = (keys: ReadonlyArray<string>, bindings: Bindings): Bindings | undefined => {
    const [key] = keys
    if (key === undefined) return then(bindings)
    const [e, a] = [expected[key], actual[key]]
    const rest: Then = (bindings) => all(keys.slice(1), bindings)
    // The order of metas says nothing.
    return key === "metas" && Array.isArray(e) && Array.isArray(a)
      ? unifyAny(e, a, bindings, rest)
      : unify(e, a, bindings, rest)
  }
  return all(keys, bindings)
}
