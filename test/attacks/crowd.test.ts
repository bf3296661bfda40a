/** Crowds that take up connections; `npm run attack:crowd` does it with 10,000. */
import { assert, describe } from "@effect/vitest"
import { attack } from "./target.ts"
import { frame, Raw, request } from "./wire.ts"

const count = 400

describe("hundreds of connections", () => {
  attack(
    "that never say a word, or half a one, leave the others alone, and nothing behind",
    async (target, witness) => {
      const all = await Promise.all(Array.from({ length: count }, () => Raw.dial(target.port)))
      const texts = ["", "G", "GET /", request().slice(0, 80), request().slice(0, -1)]
      all.forEach((raw, n) => raw.write(texts[n % texts.length] ?? ""))
      await witness.goesOn()
      const open = await Raw.open(target.port)
      await open.reset()
      await Promise.all(all.map((raw, n) => n % 2 === 0 ? raw.reset() : raw.hangUp()))
    }
  )

  attack("that are cut off by the server's time for headers get 408", async (target, witness) => {
    const all = await Promise.all(Array.from({ length: count }, () => Raw.dial(target.port)))
    all.forEach((raw, n) => raw.write(n % 2 === 0 ? "" : request().slice(0, 80)))
    await Promise.all(all.map((raw) => raw.closed))
    assert.deepStrictEqual([...new Set(all.map((raw) => raw.status))], [408])
    await witness.goesOn()
  }, { headersTimeout: 500 })

  attack("that open, join and leave at once in every way, leave nothing behind", async (target, witness) => {
    const join = frame(JSON.stringify(["1", "1", "room:crowd", "phx_join", {}]))
    for (let round = 0; round < 4; round++) {
      await Promise.all(Array.from({ length: count / 4 }, async (_, n) => {
        const raw = await Raw.open(target.port)
        raw.write(join)
        if (n % 4 < 2) await raw.until(() => raw.frames.length > 0)
        if (n % 2 === 0) raw.write(frame(Buffer.from([3, 232]), { opcode: 8 }))
        if (n % 3 === 0) await raw.hangUp()
        else await raw.reset()
      }))
      await witness.goesOn()
    }
  })

  attack("that read nothing of what a room is told cost no more than themselves", async (target, witness) => {
    const idle = await Promise.all(Array.from({ length: 40 }, () => Raw.open(target.port)))
    for (const raw of idle) await raw.ask(["1", "1", "room:loud", "phx_join", {}])
    for (const raw of idle) raw.socket.pause()
    const loud = await Raw.open(target.port)
    await loud.ask(["1", "1", "room:loud", "phx_join", {}])
    for (let n = 0; n < 20; n++) {
      loud.write(frame(JSON.stringify(["1", "2", "room:loud", "shout", { text: "x".repeat(10_000) }])))
      await witness.goesOn()
    }
    await loud.until(() => loud.frames.length === 41)
    await Promise.all([...idle, loud].map((raw) => raw.reset()))
  })
})
