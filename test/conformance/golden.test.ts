/** Conversations recorded from Phoenix 1.8.12, held again with ours. */
import { assert, describe, it } from "@effect/vitest"
import { globSync, readFileSync } from "node:fs"
import { afterAll, beforeAll } from "vitest"
import { patterns, sections } from "./differences.ts"
import { play, type Recording } from "./play.ts"
import { Server } from "./start.ts"

let server: Server

beforeAll(async () => {
  server = await Server.start()
}, 30_000)

afterAll(() => server.stop())

const paths = globSync("test/conformance/golden/*.json").toSorted()
const recordings = paths.map((path): Recording => JSON.parse(readFileSync(path, "utf8")))

describe("what Phoenix 1.8.12 said, ours says", () => {
  for (const recording of recordings) {
    it.live(`${recording.name}: ${recording.title}`, () => play(server.port, recording))
  }

  it("every difference in docs/differences.md has an id of its own, and says what each side does and why", () => {
    assert.isAbove(sections.length, 0)
    assert.strictEqual(new Set(sections.map(({ id }) => id)).size, sections.length)
    for (const { id, text } of sections) assert.match(text, /^\n- Phoenix: [^]+\n- Here: [^]+\n- Why: /, id)
  })

  it("every pattern in docs/differences.md has matched a frame", () => {
    assert.isAbove(patterns.length, 0)
    assert.deepStrictEqual(patterns.filter(({ matched }) => matched === 0).map(({ frames, id }) => [id, frames]), [])
  })
})
