/**
 * The load client: drives a server that speaks Phoenix's protocol or that of socket.io, and accounts for every message.
 * The last line of its output, JSON, says what came of it. The exit status is 1 if anything was lost, doubled, changed or
 * out of order, and 2 if the options make no sense.
 */
import { parse, usage, UsageError } from "./client/options.ts"
import { run } from "./client/scenarios.ts"

try {
  const result = await run(parse(process.argv.slice(2)))
  console.log(JSON.stringify(result))
  process.exit(result.ok ? 0 : 1)
} catch (error) {
  if (!(error instanceof UsageError)) throw error
  console.error(`${error.message}\n\n${usage}`)
  process.exit(2)
}
