/**
 * A server, in a Node process of its own. It tells its parent the port it listens on, and ends with it.
 *
 * Settings, from the environment: `REDIS` or `NATS` (an address; a single node without), `NATS_CA` (a certificate),
 * `PRESENCE_PERIOD`, `BATCH_SIZE` and `BATCH_INTERVAL` of the drainer, and `READY_DELAY`: how long before the drain the node
 * says that it is not ready.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer } from "effect"
import { Endpoint, PubSub } from "effect-channels"
import * as Nats from "effect-channels/pubsub/nats"
import * as Redis from "effect-channels/pubsub/redis"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { teardown } from "../scripts/teardown.ts"
import { Admin, CountFibers } from "./admin.ts"
import { Channels, mount, Online } from "./app.ts"

const optional = (name: string) => Config.String(name).pipe(Config.withDefault(undefined))

/** The PubSub of one node, or of one among others. */
const Connected = Layer.unwrap(Effect.gen(function*() {
  const redis = yield* optional("REDIS")
  if (redis !== undefined) return Redis.layer({ url: redis })
  const nats = yield* optional("NATS")
  if (nats === undefined) return PubSub.layer
  const ca = yield* optional("NATS_CA")
  return Nats.layer({ url: nats, client: ca === undefined ? undefined : { tls: { ca } } })
}))

const Main = Layer.unwrap(Effect.gen(function*() {
  const broadcastPeriod = yield* Config.Duration("PRESENCE_PERIOD").pipe(Config.withDefault(undefined))
  const batchSize = yield* Config.Int("BATCH_SIZE").pipe(Config.withDefault(undefined))
  const batchInterval = yield* Config.Duration("BATCH_INTERVAL").pipe(Config.withDefault(undefined))
  const delay = yield* Config.Duration("READY_DELAY").pipe(Config.withDefault(undefined))
  const Http = HttpRouter.serve(
    Layer.mergeAll(mount({ batchSize, batchInterval }), Admin, Endpoint.Readiness.route("/ready")),
    {
      disableListenLog: true,
      disableLogger: true
    }
  )
  const Listening = Layer.effectDiscard(Effect.gen(function*() {
    const { address } = yield* HttpServer.HttpServer
    if ("port" in address) process.send?.({ port: address.port })
  }))
  return Endpoint.Readiness.announce(delay).pipe(
    Layer.provide(Layer.provideMerge(Listening, Http)),
    Layer.provide(Channels),
    Layer.provide(Online.layer({}, { broadcastPeriod })),
    Layer.provide(Endpoint.Readiness.layer),
    Layer.provide(Connected),
    Layer.provide(Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })),
    Layer.provide(CountFibers)
  )
}))

process.once("disconnect", () => process.exit(1))

NodeRuntime.runMain(Layer.launch(Main), { teardown })
