import { Effect } from "effect"
import * as PubSub from "../../src/PubSub.ts"
import * as Nats from "../../src/pubsub/nats.ts"
import * as Redis from "../../src/pubsub/redis.ts"
import { Engine, isMissing, type Kind, nats, redis } from "../support/engine.ts"
import { contract, type NodeLayer, startNode } from "./contract.ts"

const times = (count: number, layer: (index: number) => NodeLayer) =>
  Effect.forEach(Array.from({ length: count }).keys(), (index) => startNode(layer(index)))

contract("one node", (count) => times(count, () => PubSub.layer), { alone: true })

interface Peer {
  readonly deliver: (topic: string, message: unknown) => void
  readonly topics: Set<string>
}

/** The smallest adapter there can be, for nodes of one process. */
const inMemory = (network: Map<string, Peer>, node: string): NodeLayer =>
  PubSub.layerAdapter((deliver) =>
    Effect.sync(() => {
      const topics = new Set<string>()
      network.set(node, { deliver, topics })
      const send = (to: (name: string) => boolean, topic: string, message: unknown) =>
        Effect.sync(() => {
          for (const [name, peer] of network) if (to(name) && peer.topics.has(topic)) peer.deliver(topic, message)
        })
      return {
        node,
        broadcast: (topic, message) => send((name) => name !== node, topic, message),
        direct: (to, topic, message) => send((name) => name === to, topic, message),
        joined: (topic) => Effect.sync(() => void topics.add(topic)),
        left: (topic) => Effect.sync(() => void topics.delete(topic))
      }
    })
  )

contract("nodes in memory", (count) => {
  const network = new Map<string, Peer>()
  return times(count, (index) => inMemory(network, `node${index}`))
})

/** All clusters share an engine, each with a prefix of its own. */
const onEngine = (kind: Kind, layer: (options: { readonly url: string; readonly prefix: string }) => NodeLayer) => {
  let engine: Promise<Engine> | undefined
  let clusters = 0
  contract(
    kind.name,
    Effect.fnUntraced(function*(count) {
      const { url } = yield* Effect.promise(() => engine ??= Engine.start(kind))
      const prefix = `cluster${clusters++}`
      return yield* times(count, () => layer({ url, prefix }))
    }),
    { skip: isMissing(kind), after: async () => (await engine)?.stop() }
  )
}

onEngine(redis, Redis.layer)
onEngine(nats, Nats.layer)
