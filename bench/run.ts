/**
 * Measures effect-channels, raw `ws` and socket.io, one after another in every cell and round, each time with a new server,
 * and prints the medians. The runs go to bench/results/latest.json, the plot to docs/performance.svg, or, if not all has
 * been measured, beside the runs.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { availableParallelism, cpus } from "node:os"
import { parseArgs } from "node:util"
import {
  applies,
  baseline,
  type Cell,
  cells,
  marks,
  quick,
  type Run,
  type Server,
  servers,
  shown,
  summary
} from "./cells.ts"
import { oneOf, parsed, UsageError } from "./client/options.ts"
import type { Result } from "./client/scenarios.ts"
import { measure, pinning, type Pins, serve } from "./machinery.ts"
import { plot } from "./plot.ts"

const usage = `npm run bench -- [options]
  --cell NAME       only this cell; may be repeated: ${cells.map(({ name }) => name).join(", ")}
  --servers A,B     only these servers: ${servers.map(({ name }) => name).join(", ")}
  --rounds N        how often; the medians are shown; default 3
  --quick           one round of short runs
  --json            print the runs as JSON instead of the table`

const settings = () => {
  const { values } = parsed(() =>
    parseArgs({
      options: {
        cell: { type: "string", multiple: true },
        servers: { type: "string" },
        rounds: { type: "string" },
        quick: { type: "boolean", default: false },
        json: { type: "boolean", default: false }
      }
    })
  )
  const rounds = Number(values.rounds ?? (values.quick ? 1 : 3))
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new UsageError(`--rounds is a whole number from 1 on, not ${values.rounds}`)
  }
  return {
    cells: chosen("--cell", cells, values.cell),
    servers: chosen("--servers", servers, values.servers?.split(",")),
    rounds,
    quick: values.quick,
    json: values.json
  }
}

const chosen = <T extends { readonly name: string }>(
  option: string,
  all: ReadonlyArray<T>,
  asked: ReadonlyArray<string> | undefined
): ReadonlyArray<T> => {
  const names = asked?.map((name) => oneOf(option, all.map(({ name }) => name), name))
  return names === undefined ? all : all.filter(({ name }) => names.includes(name))
}

const measureCell = async (server: Server, cell: Cell, pins: Pins, short: boolean): Promise<Result> => {
  const { compress = "none", load } = cell
  const running = await serve(server, pins, compress)
  try {
    return await measure(running, `${load} --compress ${compress} ${short ? quick : ""}`, pins)
  } finally {
    await running.stop()
  }
}

/** A line of the table for each figure: the medians, and in brackets how many times that of the baseline. */
const table = (runs: ReadonlyArray<Run>, among: ReadonlyArray<Cell>, columns: ReadonlyArray<Server>): string => {
  const lines = among.flatMap((cell) =>
    cell.figures.map((figure) => {
      const base = summary(runs, cell, figure, baseline)?.median
      const values = columns.map(({ name }) => {
        const found = summary(runs, cell, figure, name)
        if (found === undefined) return "-"
        const ratio = base === undefined || name === baseline ? "" : ` (${(found.median / base).toFixed(2)})`
        return `${shown(found.median)}${ratio}${found.marks === "" ? "" : ` ${found.marks}`}`
      })
      return [`${figure.title} (${figure.unit})`, ...values]
    })
  )
  const rows = [["", ...columns.map(({ name }) => name)], ...lines]
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? []
  const padded = rows.map((row) => `| ${row.map((text, column) => text.padEnd(widths[column] ?? 0)).join(" | ")} |`)
  padded.splice(1, 0, `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`)
  return padded.join("\n")
}

const main = async () => {
  const options = settings()
  const pins = await pinning()
  const say = (line: string) => options.json || console.error(line)

  const runs: Array<Run> = []
  for (let round = 1; round <= options.rounds; round++) {
    for (const cell of options.cells) {
      for (const server of options.servers.filter((server) => applies(cell, server))) {
        const result = await measureCell(server, cell, pins, options.quick)
        runs.push({ cell: cell.name, server: server.name, round, result })
        const figures = cell.figures.map(({ of, unit }) => `${shown(of(result) ?? NaN)} ${unit}`).join(", ")
        say(`${round}/${options.rounds} ${cell.name.padEnd(17)}${server.name.padEnd(16)}${figures}`)
        if (!result.ok) console.error(`wrong in ${cell.name} of ${server.name}: ${JSON.stringify(result)}`)
      }
    }
  }

  const machine = {
    node: process.version,
    cpu: cpus()[0]?.model ?? "",
    cores: availableParallelism(),
    pinned: pins.cores ?? false
  }
  const all = { machine, rounds: options.rounds, quick: options.quick, runs }
  mkdirSync("bench/results", { recursive: true })
  writeFileSync("bench/results/latest.json", `${JSON.stringify(all, null, 2)}\n`)
  const whole = !options.quick && options.cells === cells && options.servers === servers
  const picture = whole ? "docs/performance.svg" : "bench/results/latest.svg"
  const note = `Median of ${options.rounds}. Node ${process.versions.node} on ${machine.cpu}, one core for the server.`
  writeFileSync(picture, plot(runs, note))

  if (options.json) {
    console.log(JSON.stringify(all))
  } else {
    const result = table(runs, options.cells, options.servers)
    console.log(`\n${result}\n\nIn brackets: times ${baseline}.`)
    for (const [mark, meaning] of Object.entries(marks)) if (result.includes(mark)) console.log(`${mark} ${meaning}`)
    console.log(`\nAll figures: bench/results/latest.json. Plot: ${picture}.`)
  }
  process.exitCode = runs.every(({ result }) => result.ok) ? 0 : 1
}

try {
  await main()
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  console.error(`${error.message}\n\n${usage}`)
  process.exitCode = 2
}
