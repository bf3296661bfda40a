/**
 * Thousands of connections that never become one, against a server with a client that must not notice:
 * `npm run attack:crowd`, with `--count` for another number than 10,000.
 *
 * The crowd is a process of its own; each side needs a file descriptor for every connection (`ulimit -n`).
 */
import { Effect } from "effect"
import assert from "node:assert/strict"
import { fork } from "node:child_process"
import { once } from "node:events"
import { parseArgs } from "node:util"
import { start as startServer, Witness } from "../test/attacks/target.ts"
import { Raw, request } from "../test/attacks/wire.ts"

const { values } = parseArgs({ options: { count: { type: "string", default: "10000" }, port: { type: "string" } } })
const count = Number(values.count)

/** Nothing, half a handshake, and whole ones that then say no word. */
const texts = ["", "G", request().slice(0, 80), request().slice(0, -1), request()]

/** Connects, says so, and leaves in a way that nobody expects when it is told to. */
const crowd = async (port: number) => {
  const all: Array<Raw> = []
  for (let n = 0; n < count; n += 500) {
    const next = await Promise.all(Array.from({ length: Math.min(500, count - n) }, () => Raw.dial(port)))
    next.forEach((raw, index) => raw.write(texts[index % texts.length] ?? ""))
    all.push(...next)
  }
  process.send?.("all are there")
  await once(process, "message")
  await Promise.all(all.map((raw, n) => n % 2 === 0 ? raw.reset() : raw.hangUp()))
  process.disconnect()
}

const megabytes = () => Math.round(process.memoryUsage().rss / 1e6)

const attack = Effect.gen(function*() {
  const server = yield* startServer()
  yield* Effect.promise(async () => {
    const witness = await Witness.on(server)
    const before = megabytes()
    const start = performance.now()
    const child = fork(import.meta.filename, ["--port", String(server.port), "--count", String(count)])
    let longest = 0
    const arrived: Array<unknown> = []
    child.once("message", (message) => arrived.push(message))
    const alive = async () => {
      const began = performance.now()
      await witness.goesOn()
      longest = Math.max(longest, performance.now() - began)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    while (arrived.length === 0 && child.exitCode === null) await alive()
    assert.equal(arrived.length, 1, "the crowd did not get in: is ulimit -n large enough?")
    const connections = () =>
      new Promise<number>((resolve) => server.http.getConnections((_error, count) => resolve(count)))
    // The last ones may still be waiting to be accepted. After a minute Node cuts off those who have not asked.
    while (await connections() <= count && performance.now() - start < 30_000) await alive()
    const open = await connections()
    assert.equal(open, count + 1)
    console.log(`${open} connections, ${megabytes() - before} MB more than without them`)
    child.send("go")
    while (child.exitCode === null) await alive()
    await witness.leaves()
    await server.settled()
    console.log(`all are gone, nothing is left; the longest that the witness waited: ${Math.round(longest)} ms`)
    assert.deepEqual(server.log, [])
  })
})

if (values.port !== undefined) await crowd(Number(values.port))
else await Effect.runPromise(Effect.scoped(attack))
