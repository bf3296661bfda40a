import { Effect } from "effect"
import { TestClock } from "effect/testing"
import * as PubSub from "../../src/PubSub.ts"
import { isMissing } from "../support/engine.ts"
import { Network } from "./cluster.ts"
import { contract } from "./contract.ts"
import { subjects, wired } from "./engines.ts"

contract(
  "one node",
  () => Effect.succeed({ node: () => Effect.succeed(PubSub.layer), disconnect: () => {}, pass: TestClock.adjust }),
  { alone: true }
)

contract(
  "the simulated network",
  ({ maxMessageBytes }) => Effect.sync(() => Object.assign(new Network(), { limit: maxMessageBytes }))
)

for (const subject of subjects) {
  contract(subject.kind.name, (limits) => wired(subject, limits), { skip: isMissing(subject.kind), live: true })
}
