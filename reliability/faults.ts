/**
 * Everything that can fail is made to: `npm run faults -- --clients 5000`, or some of it: `npm run faults -- engine disk`.
 */
import { disk } from "./faults/disk.ts"
import { engine } from "./faults/engine.ts"
import { handlers } from "./faults/handlers.ts"
import { kills } from "./faults/kills.ts"
import { layers } from "./faults/layers.ts"
import { end, numbers, say } from "./promises.ts"

const faults = {
  handlers: ["handlers go wrong", handlers],
  layers: ["the Layer of an application cannot be built", layers],
  engine: ["the engine of PubSub is away", engine],
  disk: ["the disk is full", disk],
  kills: ["processes are killed at random", () => kills(clients, seconds, rate)]
} as const

const args = process.argv.slice(2)
const first = args.findIndex((arg) => arg.startsWith("-"))
const names = first < 0 ? args : args.slice(0, first)
const { clients, rate, seconds } = numbers({ clients: 5000, seconds: 30, rate: 10 }, args.slice(names.length))

const unknown = names.find((name) => !Object.hasOwn(faults, name))
if (unknown !== undefined) {
  console.error(`there is no fault ${unknown}: they are ${Object.keys(faults).join(", ")}`)
  process.exit(2)
}
for (const [name, [title, fault]] of Object.entries(faults)) {
  if (names.length > 0 && !names.includes(name)) continue
  say(`\n== ${title}`)
  await fault()
}
end()
