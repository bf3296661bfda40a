/**
 * Type-checks every ```ts example in the docblocks of src, in README.md and in docs, each as a module of its own, against
 * the library under its published names. An example fenced with ```ts nocheck is left out. Those of one page that are
 * fenced with ```ts file=contract.ts and so on are saved under these names in one folder, and may import each other.
 */
import { spawnSync } from "node:child_process"
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, relative } from "node:path"

/** Inside the project, so that examples find its packages; a name of its own, so that two runs do not meet. */
const folder = mkdtempSync(".doctest-")

interface Example {
  readonly path: string
  readonly line: number
  /** Where it is saved, inside of the folder. */
  readonly name: string
  readonly code: string
}

/** An example's code keeps its line numbers: empty lines stand for what precedes it. */
const examplesOf = (path: string): ReadonlyArray<Example> => {
  const margin = path.endsWith(".md") ? /^(?:> ?)?/ : /^ *\* ?/
  const examples: Array<Example> = []
  let open:
    | { readonly line: number; readonly end: string; readonly info: string; readonly code: Array<string> }
    | undefined
  readFileSync(path, "utf8").split("\n").forEach((source, index) => {
    if (open === undefined) {
      const fence = /^ *(`{3,}) *(.*)$/.exec(margin.test(source) ? source.replace(margin, "") : "")
      if (fence) open = { line: index + 1, end: fence[1] ?? "", info: fence[2]?.trim() ?? "", code: [] }
    } else if (source.replace(margin, "").trim() === open.end) {
      const info = /^ts(?: file=(\S+))?$/.exec(open.info)
      if (info) {
        const page = path.replaceAll(/\W+/g, "-")
        const name = info[1] === undefined ? `${page}-${open.line}.ts` : `${page}/${info[1]}`
        if (examples.some((example) => example.name === name)) throw new Error(`${path} has two files ${info[1]}`)
        examples.push({ path, line: open.line, name, code: "\n".repeat(open.line) + open.code.join("\n") + "\n" })
      }
      open = undefined
    } else {
      open.code.push(source.replace(margin, ""))
    }
  })
  return examples
}

/** The published name of a module, and its source seen from the folder of the examples. */
const published = (path: string): [name: string, sources: ReadonlyArray<string>] => {
  const module = path.replaceAll("\\", "/").slice("src/".length, -".ts".length)
  return [module === "index" ? "effect-channels" : `effect-channels/${module}`, [`../src/${module}.ts`]]
}

const paths = globSync(["src/**/*.ts", "README.md", "docs/**/*.md"]).toSorted()
const examples = new Map(paths.flatMap(examplesOf).map((example) => [example.name, example]))

writeFileSync(
  `${folder}/tsconfig.json`,
  JSON.stringify({
    extends: "../tsconfig.json",
    compilerOptions: {
      noUnusedLocals: false,
      noUnusedParameters: false,
      paths: Object.fromEntries(globSync(["src/*.ts", "src/pubsub/*.ts"]).map(published))
    },
    include: ["**/*.ts"]
  })
)
for (const [name, example] of examples) {
  mkdirSync(dirname(`${folder}/${name}`), { recursive: true })
  writeFileSync(`${folder}/${name}`, example.code)
}

if (examples.size > 0) {
  const { status, stdout } = spawnSync("tsc", ["-p", folder, "--pretty", "false"], {
    encoding: "utf8",
    shell: process.platform === "win32"
  })
  const report = stdout.replaceAll(
    /^([^\s(]+)\((\d+),(\d+)\)/gm,
    (_, path: string, line: string, column: string) => {
      const example = examples.get(relative(folder, path).replaceAll("\\", "/"))
      return `${example?.path ?? path}:${line}:${column}`
    }
  )
  if (status !== 0) {
    console.error(report.trimEnd())
    process.exitCode = 1
  }
}
rmSync(folder, { recursive: true })
if (process.exitCode !== 1) console.log(`Examples: ${examples.size} in the documentation type-check.`)
