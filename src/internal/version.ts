/**
 * Versions as SemVer 2.0.0 defines them, requirements as Elixir's `Version` writes them: that is what a client's `vsn`
 * is matched against.
 */

/** The numbers stay decimal strings, so that no length of them loses precision. */
export interface Version {
  readonly numbers: readonly [major: string, minor: string, patch: string]
  readonly pre: ReadonlyArray<string>
}

const number = "(0|[1-9][0-9]*)"
const identifiers = "[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*"
const pattern = new RegExp(`^${number}\\.${number}(?:\\.${number})?(?:-(${identifiers}))?(?:\\+${identifiers})?$`)

const isNumeric = (identifier: string): boolean => /^[0-9]+$/.test(identifier)

/** `patch` is undefined in `~> 2.0`, the one place where it may be left out. */
const parts = (text: string) => {
  const found = pattern.exec(text)
  if (found === null) return undefined
  const [, major = "", minor = "", patch, suffix] = found as ReadonlyArray<string | undefined>
  const pre = suffix === undefined ? [] : suffix.split(".")
  return pre.some((id) => isNumeric(id) && id.length > 1 && id.startsWith("0"))
    ? undefined
    : { major, minor, patch, pre }
}

/** Parses a full SemVer version; `undefined` for anything else (`"2"`, `"2.0"`, `"02.0.0"`). */
export const parse = (text: string): Version | undefined => {
  const found = parts(text)
  return found === undefined || found.patch === undefined
    ? undefined
    : { numbers: [found.major, found.minor, found.patch], pre: found.pre }
}

const compareText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

const compareNumbers = (a: string, b: string): number => a.length - b.length || compareText(a, b)

const compareIdentifiers = (a: string, b: string): number => {
  if (isNumeric(a) && isNumeric(b)) return compareNumbers(a, b)
  return Number(isNumeric(b)) - Number(isNumeric(a)) || compareText(a, b)
}

const compareLists = (
  a: ReadonlyArray<string>,
  b: ReadonlyArray<string>,
  compareItems: (a: string, b: string) => number
): number => {
  for (const [index, item] of a.entries()) {
    const other = b[index]
    const order = other === undefined ? 1 : compareItems(item, other)
    if (order !== 0) return order
  }
  return a.length - b.length
}

/** The precedence of SemVer: negative when `a` comes before `b`, 0 when they differ in build metadata at most. */
export const compare = (a: Version, b: Version): number => {
  const order = compareLists(a.numbers, b.numbers, compareNumbers)
  if (order !== 0) return order
  if (a.pre.length === 0 || b.pre.length === 0) return b.pre.length - a.pre.length
  return compareLists(a.pre, b.pre, compareIdentifiers)
}

const condition = /^ *(==|!=|>=|<=|~>|>|<|) *([^ ]+) *$/

const meets = (version: Version, text: string): boolean | undefined => {
  const [, operator = "", operand = ""] = condition.exec(text) ?? []
  const found = parts(operand)
  if (found === undefined || (found.patch === undefined && operator !== "~>")) return undefined
  const order = compare(version, { numbers: [found.major, found.minor, found.patch ?? "0"], pre: found.pre })
  switch (operator) {
    case "~>":
      return order >= 0 && version.numbers[0] === found.major &&
        (found.patch === undefined || version.numbers[1] === found.minor)
    case ">=":
      return order >= 0
    case "<=":
      return order <= 0
    case ">":
      return order > 0
    case "<":
      return order < 0
    case "!=":
      return order !== 0
    default:
      return order === 0
  }
}

/**
 * Whether a version meets a requirement: `~>`, `>=`, `<=`, `>`, `<`, `==`, `!=` (none means `==`), joined by `and` and
 * `or`, where `and` binds tighter. `~> 2.0.0` leaves `2.1.0-dev` out and lets `2.0.1-dev` in. Throws a RangeError when
 * the requirement cannot be read, because that is a mistake in the program.
 */
export const satisfies = (version: Version, requirement: string): boolean => {
  const answers = requirement.split(" or ").map((all) => all.split(" and ").map((text) => meets(version, text)))
  if (answers.some((all) => all.includes(undefined))) {
    throw new RangeError(`invalid version requirement ${JSON.stringify(requirement)}: write one such as "~> 2.0.0"`)
  }
  return answers.some((all) => all.every((answer) => answer === true))
}
