import { describe, expect, it } from "vitest"
import { findEngine, redisServer } from "../../scripts/engines.ts"
import { ServerProcess } from "../e2e/chatServer.ts"

/** Runs a program of reliability/ to its end; what it says of its promises. */
const run = async (program: string, options: string) => {
  const child = new ServerProcess([
    "--conditions=effect-channels-source",
    `reliability/${program}.ts`,
    ...options.split(" ")
  ])
  const code = await child.ended()
  return { code, broken: child.log.split("\n").filter((line) => line.startsWith("BROKEN")), log: child.log }
}

const kept = { code: 0, broken: [] }

describe("in small,", { timeout: 120_000 }, () => {
  it("the disk of the chat is full", async () => {
    expect(await run("faults", "disk")).toMatchObject(kept)
  })

  it("every process is killed", async () => {
    expect(await run("faults", "kills --clients 30 --seconds 2")).toMatchObject(kept)
  })

  it.skipIf(findEngine(redisServer) === undefined)("two nodes are replaced", async () => {
    expect(await run("deploys", "--clients 60 --batch 20 --delay 300")).toMatchObject(kept)
  })

  it("an option that makes no sense is refused", async () => {
    expect(await run("soak", "--minutes many")).toMatchObject({ code: 2, log: expect.stringContaining("--minutes") })
    expect(await run("deploys", "--nodes 2")).toMatchObject({ code: 2, log: expect.stringContaining("--clients") })
    expect(await run("faults", "everything")).toMatchObject({ code: 2, log: expect.stringContaining("handlers") })
  })
})
