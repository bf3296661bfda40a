import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { resolve } from "node:path"
import { afterAll, describe, expect, it, onTestFinished } from "vitest"
import { ServerProcess } from "./e2e/chatServer.ts"

/** Inside the project, so that examples find its packages. */
const folder = mkdtempSync(".doctest-readme-")
afterAll(() => rmSync(folder, { recursive: true }))

const examples = (path: string, language: "js" | "ts"): ReadonlyArray<string> =>
  Array.from(
    readFileSync(path, "utf8").matchAll(/^```(\w+)\n(.*?)^```$/gms),
    ([, found, code = ""]) => found === language ? [code] : []
  ).flat()

const save = (name: string, code: string): string => {
  const path = `${folder}/${name}`
  writeFileSync(path, code)
  return path
}

const condition = "--conditions=effect-channels-source"

/** Runs a program until the test ends. */
const run = (name: string, code: string): ServerProcess => {
  const program = new ServerProcess([condition, save(name, code)])
  onTestFinished(async () => void await program.stop())
  return program
}

describe("the smallest server of README.md", () => {
  const server = examples("README.md", "ts").find((code) => code.includes("runMain"))
  const client = examples("README.md", "js")[0]

  it("broadcasts to the client that is shown with it", async () => {
    const port = await run("server.ts", server?.replace("4000", "0") ?? "").listening()
    const program = run("client.js", client?.replace("4000", String(port)) ?? "")
    await expect.poll(() => program.log, { timeout: 10_000 }).toBe("somebody said hello\n")
  })
})

// What these examples register are tests of this file.
for (const page of ["README.md", "docs/guide.md"]) {
  describe(`the tests of ${page}`, async () => {
    for (const [index, code] of examples(page, "ts").filter((code) => code.includes("it.effect(")).entries()) {
      const file = resolve(save(`${page.replaceAll(/\W+/g, "-")}-${index}.ts`, code))
      await import(file)
    }
  })
}
