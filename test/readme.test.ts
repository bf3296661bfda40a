import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { afterAll, describe, expect, it, onTestFinished } from "vitest"
import { ServerProcess } from "./e2e/chatServer.ts"

/** Inside the project, so that examples find its packages. */
const folder = mkdtempSync(".doctest-readme-")
afterAll(() => rmSync(folder, { recursive: true }))

interface Example {
  readonly language: string
  /** From its fence: ```ts file=contract.ts */
  readonly file: string | undefined
  readonly code: string
}

const examplesOf = (path: string): ReadonlyArray<Example> =>
  Array.from(
    readFileSync(path, "utf8").matchAll(/^```(\w+)(?: file=(\S+))?\n(.*?)^```$/gms),
    ([, language = "", file, code = ""]) => ({ language, file, code })
  )

const save = (name: string, code: string): string => {
  const path = `${folder}/${name}`
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, code)
  return path
}

const condition = "--conditions=effect-channels-source"

/** Runs a program until the test ends. */
const run = (path: string, env: Readonly<Record<string, string>> = {}): ServerProcess => {
  const program = new ServerProcess([condition, path], env)
  onTestFinished(async () => void await program.stop())
  return program
}

describe("the smallest server of README.md", () => {
  const all = examplesOf("README.md")
  const server = all.find(({ code, language }) => language === "ts" && code.includes("runMain"))?.code ?? ""
  const client = all.find(({ language }) => language === "js")?.code ?? ""

  it("broadcasts to the client that is shown with it", async () => {
    const port = await run(save("server.ts", server.replace("4000", "0"))).listening()
    const program = run(save("client.js", client.replace("4000", String(port))))
    await expect.poll(() => program.log, { timeout: 10_000 }).toBe("somebody said hello\n")
  })
})

describe("the application of docs/guide.md", () => {
  const files = examplesOf("docs/guide.md").filter(({ file }) => file !== undefined)

  it("counts the votes of the client that is shown with it", async () => {
    const put = (port: number) =>
      files.map(({ code, file }) => save(`guide/${file}`, code.replaceAll("4000", `${port}`)))
    const path = (name: string) => `${folder}/guide/${name}`
    put(0)
    const port = await run(path("server.ts"), { SECRET_KEY_BASE: "x".repeat(64) }).listening()
    put(port)
    const [first, second] = [run(path("client.js")), run(path("client.js"))]
    await expect.poll(() => first.log, { timeout: 10_000 }).toContain("{ soup: 2, salad: 0 }")
    await expect.poll(() => second.log, { timeout: 10_000 }).toContain("{ soup: 2, salad: 0 }")
  })
})

// What these examples register are tests of this file.
for (const page of ["README.md", "docs/guide.md"]) {
  describe(`the tests of ${page}`, async () => {
    const name = page.replaceAll(/\W+/g, "-")
    const files = examplesOf(page).filter(({ language }) => language === "ts").map(({ code, file }, index) => ({
      code,
      path: resolve(save(file === undefined ? `${name}-${index}.ts` : `${name}/${file}`, code))
    }))
    for (const { code, path } of files) {
      if (code.includes("it.effect(")) await import(path)
    }
  })
}
