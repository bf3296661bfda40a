/**
 * Phoenix Channels for Effect: one namespace for each module.
 */
export * as Channel from "./Channel.ts"
export * as ChannelTest from "./ChannelTest.ts"
export * as Endpoint from "./Endpoint.ts"
export * as Message from "./Message.ts"
export * as Presence from "./Presence.ts"
export * as Process from "./Process.ts"
export * as PubSub from "./PubSub.ts"
export * as Serializer from "./Serializer.ts"
export * as Socket from "./Socket.ts"
export * as Supervisor from "./Supervisor.ts"
export * as Telemetry from "./Telemetry.ts"
export * as Token from "./Token.ts"
export * as Tracker from "./Tracker.ts"
