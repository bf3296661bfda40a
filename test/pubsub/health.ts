/** Helpers that the tests of an adapter's health share. */
import { Effect, Layer, type Scope } from "effect"
import type * as PubSub from "../../src/PubSub.ts"
import { Cable } from "../support/cable.ts"
import { Log } from "../support/log.ts"
import { type Node, type NodeLayer, startNode } from "./contract.ts"

/** Waits until a node's status is so. */
export const statusIs = Effect.fnUntraced(function*(status: PubSub.Status, ...nodes: ReadonlyArray<Node>) {
  for (const node of nodes) while ((yield* node.pubsub.status) !== status) yield* Effect.sleep("5 millis")
})

/** A node, and what it logs. */
export const nodeWith = (layer: NodeLayer): Effect.Effect<Node & { readonly log: Log }, never, Scope.Scope> => {
  const log = new Log()
  return Effect.map(startNode(Layer.provide(Layer.fresh(layer), log.layer)), (node) => ({ ...node, log }))
}

/** A cable to an engine, for the length of a test. */
export const cableTo = (port: number): Effect.Effect<Cable, never, Scope.Scope> =>
  Effect.acquireRelease(Effect.promise(() => Cable.to(port)), (cable) => Effect.sync(() => cable.close()))
