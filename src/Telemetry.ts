/**
 * What can be measured and what is logged: the metrics of sockets and channels, and the filter of logged parameters.
 *
 * Sockets and channels count by themselves. Nothing has to be switched on, and counting costs an addition: a metric is
 * computed when somebody reads it. Serve all of them with `PrometheusMetrics.layerHttp` or export them with `Otlp.layer`,
 * both of `effect/observability`; docs/telemetry.md shows how, and lists spans and log lines too.
 *
 * Labels are names that the application's code gives: `socket` (the name given to `Socket.make`), `transport`
 * (`websocket`, `longpoll`, …), `channel` (the pattern, such as `room:*`), `result` (`ok`, `refused`, `crashed` or
 * `interrupted`), `adapter` (`redis` or `nats`) and `tracker` (the name given to `Presence.make` or `Tracker.make`).
 * Nothing that a client chooses becomes a label. The buckets of the durations end at 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50,
 * 100, 250, 500, 1000, 2500, 5000 and 10000 milliseconds.
 *
 * **Example** (reading one metric)
 *
 * ```ts
 * import { Effect, Metric } from "effect"
 * import { Telemetry } from "effect-channels"
 *
 * const program = Effect.gen(function*() {
 *   const labels = { socket: "user_socket", transport: "websocket" }
 *   const { value } = yield* Metric.value(Metric.withAttributes(Telemetry.connections, labels))
 *   yield* Effect.logInfo(`${value} clients`)
 * })
 * ```
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Metric from "effect/Metric"
import type { ParameterFilter } from "./internal/filterParameters.ts"
import * as Metrics from "./internal/metrics.ts"

/**
 * Names of parameters to hide in logs, or of the only ones to show.
 *
 * @category models
 * @since 0.1.0
 */
export type FilterParameters = ParameterFilter

/**
 * Which parameters of connects, joins and events are hidden in logs; default `["password", "token"]`.
 *
 * - A list of names: where a key **contains** one of them, its value is logged as `[FILTERED]`, and so is every string
 *   that contains one followed by `=`, as in a query. Upper and lower case do not differ: `accessToken` is hidden too.
 * - `{ keep }`: every value is logged as `[FILTERED]`, but for what is below one of **exactly** these keys.
 *
 * Both hold at every depth of objects and arrays. The first does not look into instances of classes, the second hides
 * them. Of a large payload the log shows the first 100 values, 8 levels, 200 characters of a string or key, and the number
 * of bytes of binary data of more than 64. Control characters are escaped. A filter that is neither of the two, such as a
 * list with something other than text in it, hides every value.
 *
 * As the `filter_parameters` of Phoenix, which see: https://hexdocs.pm/phoenix/Phoenix.Logger.html
 *
 * **Example**
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Telemetry } from "effect-channels"
 *
 * const more = Layer.succeed(Telemetry.FilterParameters, ["password", "token", "secret"])
 * const fewer = Layer.succeed(Telemetry.FilterParameters, { keep: ["id", "page"] })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const FilterParameters: Context.Reference<FilterParameters> = Context.Reference<FilterParameters>(
  "effect-channels/Telemetry/FilterParameters",
  { defaultValue: () => ["password", "token"] }
)

/**
 * Clients that are connected. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const connections: Metric.Gauge<number> = Metrics.connections

/**
 * Attempts to connect. Labels: `socket`, `transport`, `result`.
 *
 * Refused is what the socket's connect refused; crashed, where it died. A client that is turned away before that, because
 * of its origin or version, is not counted.
 *
 * @category transports
 * @since 0.1.0
 */
export const connects: Metric.Counter<number> = Metrics.connects

/**
 * How long the socket's connect took, in milliseconds, whatever its result. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const connectDuration: Metric.Histogram<number> = Metrics.connectDuration

/**
 * Frames from clients, heartbeats included. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const framesReceived: Metric.Counter<number> = Metrics.framesReceived

/**
 * Frames to clients, replies to heartbeats included. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const framesSent: Metric.Counter<number> = Metrics.framesSent

/**
 * Bytes of the frames from clients, uncompressed. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const bytesReceived: Metric.Counter<number> = Metrics.bytesReceived

/**
 * Bytes of the frames to clients, uncompressed. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const bytesSent: Metric.Counter<number> = Metrics.bytesSent

/**
 * Frames from clients that are no message. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const malformedFrames: Metric.Counter<number> = Metrics.malformedFrames

/**
 * Clients that were told to connect elsewhere, because the server stops. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const drainedConnections: Metric.Counter<number> = Metrics.drainedConnections

/**
 * Clients that were closed because they did not read what they were sent. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const slowClients: Metric.Counter<number> = Metrics.slowClients

/**
 * Lossy events that were not sent to a client that was behind. Labels: `socket`, `transport`.
 *
 * @category transports
 * @since 0.1.0
 */
export const droppedEvents: Metric.Counter<number> = Metrics.droppedEvents

/**
 * What clients were denied, by the limit they had reached. Labels: `socket`, `transport`, `limit`.
 *
 * @category transports
 * @since 0.1.0
 */
export const limited: Metric.Counter<number> = Metrics.limited

/**
 * Channels that are joined. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const channels: Metric.Gauge<number> = Metrics.channels

/**
 * Attempts to join. Labels: `socket`, `channel`, `result`.
 *
 * @category channels
 * @since 0.1.0
 */
export const joins: Metric.Counter<number> = Metrics.joins

/**
 * How long a channel's join took, in milliseconds, whatever its result. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const joinDuration: Metric.Histogram<number> = Metrics.joinDuration

/**
 * Events of clients that reached a channel. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const messagesReceived: Metric.Counter<number> = Metrics.messagesReceived

/**
 * How long a channel took to handle an event, in milliseconds. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const handleInDuration: Metric.Histogram<number> = Metrics.handleInDuration

/**
 * Replies of channels to events. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const replies: Metric.Counter<number> = Metrics.replies

/**
 * Events that channels pushed to their own client; broadcasts are not among them. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const pushes: Metric.Counter<number> = Metrics.pushes

/**
 * Broadcasts made by channels, each counted once however many receive it. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const broadcasts: Metric.Counter<number> = Metrics.broadcasts

/**
 * Channels that crashed after they were joined. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const channelCrashes: Metric.Counter<number> = Metrics.channelCrashes

/**
 * Messages that wait in the mailboxes of the channels, all together. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const mailboxMessages: Metric.Gauge<number> = Metrics.mailboxMessages

/**
 * Messages that wait in the fullest of the mailboxes: one channel that cannot follow. Labels: `socket`, `channel`.
 *
 * @category channels
 * @since 0.1.0
 */
export const longestMailbox: Metric.Gauge<number> = Metrics.longestMailbox

/**
 * Whether the engine that connects this node with others is within reach: 1, or 0 during an outage. Label: `adapter`.
 *
 * @category clusters
 * @since 0.1.0
 */
export const pubsubConnected: Metric.Gauge<number> = Metrics.pubsubConnected

/**
 * Presences, counted at each of their changes, that other nodes do not see because they are too large for a message, or no
 * plain data; each is logged. Label: `tracker`.
 *
 * @category clusters
 * @since 0.1.0
 */
export const presencesWithheld: Metric.Counter<number> = Metrics.presencesWithheld

/**
 * Presences that `track` or `update` have refused, because their meta is no plain data or too large. Labels: `tracker`, and
 * `code`, that of the `TrackerError`.
 *
 * @category clusters
 * @since 0.1.0
 */
export const presencesRefused: Metric.Counter<number> = Metrics.presencesRefused

/**
 * Calls of functions of the application that have failed or took longer than `handlerTimeout`. Labels: `tracker`, and
 * `handler`: `fetch`, `handleMetas` or `handleDiff`.
 *
 * @category clusters
 * @since 0.1.0
 */
export const presenceHandlerFailures: Metric.Counter<number> = Metrics.presenceHandlerFailures
