/**
 * The house rule: a file imports only from floors below its own. Types count too. Neighbours on one floor do not know each
 * other, but for the pairs listed here. A file that is in no table has no place in src.
 */
import { globSync, readFileSync } from "node:fs"
import { join } from "node:path"

/** From the ground up. `folder/*` stands for every file of a folder. */
const floors: ReadonlyArray<ReadonlyArray<string>> = [
  ["Message", "Process", "Supervisor"],
  ["PubSub", "Serializer", "Telemetry", "Token"],
  ["Channel", "Tracker", "pubsub/*"],
  ["Socket", "Presence"],
  ["transport/*"],
  ["Endpoint", "ChannelTest"],
  ["index"]
]

/** Who may import which neighbours all the same. */
const neighbours: Readonly<Record<string, ReadonlyArray<string>>> = {
  Process: ["Message"],
  Supervisor: ["Message", "Process"]
}

/**
 * A file of src/internal lies in the cellar: anybody may import it, and it imports only from the cellar. One that needs
 * more is a back room of the module named here: on its floor, for that floor and those above, importing what lies below
 * and the other back rooms of the floor.
 */
const backRooms: Readonly<Record<string, string>> = {
  "internal/admission": "transport/WebSocket",
  "internal/assertions": "ChannelTest",
  "internal/channel": "Channel",
  "internal/channelMessage": "PubSub",
  "internal/cluster": "pubsub/redis",
  "internal/customChannel": "Channel",
  "internal/drain": "Socket",
  "internal/group": "PubSub",
  "internal/handshakes": "transport/WebSocket",
  "internal/httpServer": "transport/WebSocket",
  "internal/link": "pubsub/redis",
  "internal/pollAnswers": "transport/LongPoll",
  "internal/pollRelay": "transport/LongPoll",
  "internal/pollSession": "transport/LongPoll",
  "internal/realPath": "transport/WebSocket",
  "internal/reply": "Channel",
  "internal/room": "Tracker",
  "internal/served": "Channel",
  "internal/shutdown": "transport/WebSocket",
  "internal/socket": "Socket",
  "internal/testClient": "ChannelTest",
  "internal/testJoin": "ChannelTest",
  "internal/testRest": "ChannelTest",
  "internal/webSocket": "transport/WebSocket",
  "internal/wirePort": "transport/WebSocket"
}

const manifest: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(
  readFileSync("package.json", "utf8")
)

const published = Object.keys({ ...manifest["dependencies"], ...manifest["peerDependencies"] })

/** Packages that are used on a floor and above, and the number of that floor. */
const packages: ReadonlyArray<readonly [name: RegExp, floor: number]> = [
  [/^(redis|@nats-io\/transport-node)(\/|$)/, 2],
  [/^(ws|effect\/http|@effect\/platform-node|node:https?)(\/|$)/, 4]
]

/** Not for applications; of the tests only those in the folder of the same name, and test/properties, may look. */
const isPrivate = (module: string): boolean => /^(internal|transport)\//.test(module)

const toSlashes = (path: string): string => path.replaceAll("\\", "/")

const cellar = -1

const floorOf = (module: string): number | undefined => {
  const owner = backRooms[module]
  if (owner !== undefined) return floorOf(owner)
  if (module.startsWith("internal/")) return cellar
  const names = [module, module.replace(/[^/]+$/, "*")]
  const floor = floors.findIndex((floor) => floor.some((name) => names.includes(name)))
  return floor === -1 ? undefined : floor
}

/** Formatted code starts every import and export, or the last line of one, at the left margin. */
const importsOf = (path: string): ReadonlyArray<string> =>
  Array.from(
    readFileSync(path, "utf8").matchAll(/^(?:import|export|\})(?:[^"\n]*\bfrom)? *"([^"]+)"|\bimport\("([^"]+)"\)/gm),
    (match) => match[1] ?? match[2] ?? ""
  )

/** The path that an import names, or `undefined` for a package. */
const resolve = (path: string, specifier: string): string | undefined =>
  specifier.startsWith(".") ? toSlashes(join(path, "..", specifier)) : undefined

/** The module of src at a path, or `undefined` if it is elsewhere. */
const moduleAt = (path: string): string | undefined => /^src\/(.*)\.[jt]s$/.exec(path)?.[1]

const problemOf = (module: string, floor: number, specifier: string): string | undefined => {
  const path = resolve(`src/${module}.ts`, specifier)
  if (path === undefined) {
    if (!specifier.startsWith("node:") && !published.some((name) => `${specifier}/`.startsWith(`${name}/`))) {
      return `${specifier} is not among the dependencies that are installed with the package`
    }
    const lowest = packages.find(([name]) => name.test(specifier))?.[1] ?? cellar
    return floor < lowest ? `${specifier} is used on floor ${lowest} and above only` : undefined
  }
  const target = moduleAt(path)
  if (target === undefined) return `${path} is not in src`
  const targetFloor = floorOf(target)
  if (targetFloor === undefined || neighbours[module]?.includes(target)) return undefined
  if (targetFloor === floor && backRooms[target] !== undefined) return undefined
  if (targetFloor === cellar || targetFloor < floor) return undefined
  return floor === cellar
    ? `the cellar imports only from the cellar, and ${target} is on floor ${targetFloor}`
    : `${target} is on floor ${targetFloor}, not below floor ${floor}`
}

/** A way from a module back to itself, if there is one. */
const circleOf = (graph: ReadonlyMap<string, ReadonlyArray<string>>): ReadonlyArray<string> | undefined => {
  const done = new Set<string>()
  const visit = (module: string, way: ReadonlyArray<string>): ReadonlyArray<string> | undefined => {
    if (way.includes(module)) return [...way.slice(way.indexOf(module)), module]
    if (done.has(module)) return undefined
    for (const next of graph.get(module) ?? []) {
      const circle = visit(next, [...way, module])
      if (circle !== undefined) return circle
    }
    done.add(module)
    return undefined
  }
  for (const module of graph.keys()) {
    const circle = visit(module, [])
    if (circle !== undefined) return circle
  }
  return undefined
}

const problems: Array<string> = []
const graph = new Map<string, ReadonlyArray<string>>()

for (const path of globSync("src/**/*.ts").map(toSlashes).toSorted()) {
  const module = moduleAt(path) ?? path
  const floor = floorOf(module)
  if (floor === undefined) {
    problems.push(`${path}: on no floor; add it to the table in scripts/floors.ts`)
    continue
  }
  const imports = importsOf(path)
  graph.set(module, imports.flatMap((specifier) => moduleAt(resolve(path, specifier) ?? "") ?? []))
  for (const specifier of imports) {
    const problem = problemOf(module, floor, specifier)
    if (problem !== undefined) problems.push(`${path}: ${problem}`)
  }
}

const circle = circleOf(graph)
if (circle !== undefined) problems.push(`circle: ${circle.join(" -> ")}`)

const outside = globSync("{test,examples,bench,reliability}/**/*.ts").map(toSlashes).toSorted()
for (const path of outside) {
  for (const specifier of importsOf(path)) {
    const target = moduleAt(resolve(path, specifier) ?? "")
    if (target === undefined || !isPrivate(target)) continue
    if (path.startsWith("test/properties/") || path.startsWith(`test/${target.split("/")[0]}/`)) continue
    problems.push(`${path}: ${target} is private; import a public module of src`)
  }
}

if (problems.length > 0) {
  console.error(problems.join("\n"))
  process.exitCode = 1
} else {
  console.log(`Floors: ${graph.size} files of src and ${outside.length} around it import only what they may.`)
}
