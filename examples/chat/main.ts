/**
 * A chat: `npm start`, then http://localhost:4000. `server.ts` has its settings; examples/cluster runs it on several nodes.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Layer } from "effect"
import { PubSub } from "effect-channels"
import { Server } from "./server.ts"

NodeRuntime.runMain(Layer.launch(Layer.provide(Server, PubSub.layer)))
