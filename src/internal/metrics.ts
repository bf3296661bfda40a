import { Metric } from "effect"

const prefix = "effect_channels_"

/**
 * Upper bounds of the buckets of all durations, in milliseconds; what took longer is in the last one, without a bound.
 * From handlers that only compute to a connect that waits for a slow database.
 */
export const boundaries: ReadonlyArray<number> = [
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
  25,
  50,
  100,
  250,
  500,
  1000,
  2500,
  5000,
  10_000
]

const counter = (name: string, description: string) =>
  Metric.counter(`${prefix}${name}_total`, { description, incremental: true })

const gauge = (name: string, description: string) => Metric.gauge(`${prefix}${name}`, { description })

const duration = (name: string, description: string) =>
  Metric.histogram(`${prefix}${name}_duration_milliseconds`, { description, boundaries })

export const connections = gauge("connections", "Clients that are connected")
export const connects = counter("connects", "Attempts to connect, by result")
export const connectDuration = duration("connect", "How long it took to decide about an attempt to connect")
export const framesReceived = counter("frames_received", "Frames from clients, heartbeats included")
export const framesSent = counter("frames_sent", "Frames to clients, heartbeat replies included")
export const bytesReceived = counter("received_bytes", "Bytes of the frames from clients, uncompressed")
export const bytesSent = counter("sent_bytes", "Bytes of the frames to clients, uncompressed")
export const malformedFrames = counter("malformed_frames", "Frames from clients that are no message")
export const drainedConnections = counter("drained_connections", "Clients sent elsewhere because the server stops")

export const slowClients = counter(
  "slow_clients",
  "Clients that were closed because they did not read what they were sent"
)
export const droppedEvents = counter("dropped_events", "Lossy events that were not sent to a client that was behind")
export const limited = counter("limited", "What clients were denied, by the limit they had reached")

export const channels = gauge("channels", "Channels that are joined")
export const joins = counter("joins", "Attempts to join, by result")
export const joinDuration = duration("join", "How long a channel's join took")
export const messagesReceived = counter("messages_received", "Events of clients that reached a channel")
export const handleInDuration = duration("handle_in", "How long a channel took to handle an event")
export const replies = counter("replies", "Replies of channels to events")
export const pushes = counter("pushes", "Events that channels pushed to their client")
export const broadcasts = counter("broadcasts", "Broadcasts made through a channel, not counting who receives them")
export const channelCrashes = counter("channel_crashes", "Channels that crashed after they were joined")
export const mailboxMessages = gauge("mailbox_messages", "Messages that wait in the mailboxes of the channels")
export const longestMailbox = gauge("longest_mailbox_messages", "Messages that wait in the fullest of the mailboxes")

export const pubsubConnected = gauge(
  "pubsub_connected",
  "1 while messages reach other nodes and come from them, 0 otherwise"
)

export const presencesWithheld = counter(
  "presences_withheld",
  "Presences that other nodes do not see, because they are too large for a message, or no plain data"
)

export const presencesRefused = counter(
  "presences_refused",
  "Presences that were not tracked or updated because their meta is no plain data, or too large"
)
export const presenceHandlerFailures = counter(
  "presence_handler_failures",
  "Calls of the functions of a presence or tracker that have failed or took too long"
)
