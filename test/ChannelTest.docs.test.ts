import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import * as ChannelTest from "../src/ChannelTest.ts"

/** Inside the project, so that examples find its packages. */
const folder = mkdtempSync(".doctest-channel-test-")
afterAll(() => rmSync(folder, { recursive: true }))

const source = readFileSync("src/ChannelTest.ts", "utf8")

interface Documented {
  /** What the docblock belongs to; undefined for that of the module. */
  readonly name: string | undefined
  readonly examples: ReadonlyArray<{ readonly file: string; readonly code: string }>
}

const docblocks = Array.from(
  source.matchAll(/^\/\*\*\n((?: \*.*\n)+?) \*\/\n(?:export (?:const|class) (\w+))?/gm),
  ([, text = "", name]): Documented => ({
    name,
    examples: Array.from(
      text.replaceAll(/^ \* ?/gm, "").matchAll(/^```ts(?: file=(\S+))?\n(.*?)^```$/gms),
      ([, file = "", code = ""]) => ({ file, code })
    )
  })
)
const all = docblocks.flatMap(({ examples }) => examples)
for (const { code, file } of all) writeFileSync(`${folder}/${file}`, code)

const isTest = ({ code }: { readonly code: string }): boolean => code.includes("it.effect(")

it("every example of ChannelTest has a file of its own, and every helper has an example that is a test", () => {
  const files = all.map(({ file }) => file)
  expect(files.filter((file) => !file.endsWith(".ts"))).toEqual([])
  expect(new Set(files).size).toBe(files.length)
  const shown = docblocks.filter(({ examples, name }) =>
    examples.some((example) => isTest(example) && example.code.includes(name === "layer" ? "TestLive" : `.${name}`))
  )
  const helpers = Object.keys(ChannelTest).filter((name) => !/^[A-Z]/.test(name))
  expect(helpers.filter((name) => !shown.some((block) => block.name === name))).toEqual([])
})

// What the examples register are tests of this file.
describe("the examples of ChannelTest", async () => {
  for (const { file } of all.filter(isTest)) await import(resolve(folder, file))
})
