/**
 * One node of the chat: all of examples/chat, with a PubSub that reaches the other nodes. Its settings are those of
 * examples/chat/server.ts, `PUBSUB` and `NODE_NAME`.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Layer } from "effect"
import { Server } from "../chat/server.ts"
import { PubSubLive } from "./pubsub.ts"

NodeRuntime.runMain(Layer.launch(Layer.provide(Server, PubSubLive)))
