/**
 * Whether a broadcast costs more where there are many topics. Of each server two run side by side on one core: one with
 * 10 topics of one member, one with 10,000. The members of 10 topics broadcast to them, on the one server and on the other
 * in turn, so that what the machine does otherwise meets both. Prints the medians; run with `npm run bench:topics`.
 */
import { median, type Server, servers, shown } from "./cells.ts"
import { measure, occupy, pinning, type Pins, type Running, serve } from "./machinery.ts"

const rounds = 25
const few = 10
const many = 10_000
const warmUps = 3

/** The members that broadcast. */
const busy = `fanout --connections ${few} --topics ${few} --publishers ${few} --seconds 1 --warmup 0.5`

/** All others, of topics of their own. */
const others = many - few

/** Microseconds of the server's CPU for each delivery. */
const costOf = async (running: Running, pins: Pins): Promise<number> => {
  const { figures, ok, wrong } = await measure(running, busy, pins)
  if (!ok) throw new Error(`messages were lost, doubled, changed or out of order: ${JSON.stringify(wrong)}`)
  if (figures["server_cpu_us"] === undefined) throw new Error("the CPU of a process can be read on Linux only")
  return figures["server_cpu_us"]
}

/** Until what it does at first is done. */
const settled = async (running: Running, pins: Pins): Promise<void> => {
  for (let n = 0; n < warmUps; n++) await costOf(running, pins)
}

/** What a delivery costs on either server, as the medians and the median of the ratios. */
const compare = async (server: Server, pins: Pins): Promise<string> => {
  const stops: Array<() => Promise<void>> = []
  const started = async () => {
    const running = await serve(server, pins)
    stops.push(running.stop)
    return running
  }
  try {
    const [quiet, crowded] = [await started(), await started()]
    stops.push((await occupy(crowded, others, "bench:other-", pins)).stop)
    await settled(crowded, pins)
    await settled(quiet, pins)
    const costs: Array<{ readonly few: number; readonly many: number }> = []
    for (let round = 0; round < rounds; round++) {
      costs.push({ few: await costOf(quiet, pins), many: await costOf(crowded, pins) })
    }
    const ratio = median(costs.map(({ few, many }) => many / few))
    return `${shown(median(costs.map(({ few }) => few)))} us of CPU for a delivery with ${few} topics, `
      + `${shown(median(costs.map(({ many }) => many)))} with ${shown(many)}: ${ratio.toFixed(2)} times as much`
  } finally {
    for (const stop of stops.toReversed()) await stop()
  }
}

const pins = await pinning()
for (const server of servers) {
  if (server.protocol === "phoenix") console.log(`${server.name.padEnd(16)} ${await compare(server, pins)}`)
}
