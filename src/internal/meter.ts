import { Context, Metric } from "effect"
import * as Metrics from "./metrics.ts"

/**
 * Counts durations in milliseconds; plain numbers, so that an observation costs nothing. The buckets are `boundaries` of
 * metrics.ts.
 */
export class Histogram {
  private readonly counts = new Float64Array(Metrics.boundaries.length)
  private count = 0
  private sum = 0
  // As Effect's own histograms say that they are empty.
  private min = Number.MAX_VALUE
  private max = -Number.MAX_VALUE

  observe(millis: number): void {
    // A wall clock may go backwards.
    const value = millis > 0 ? millis : 0
    // From the front, because nearly everything is quick.
    let bucket = 0
    while (bucket < this.counts.length && value > (Metrics.boundaries[bucket] ?? Infinity)) bucket++
    if (bucket < this.counts.length) this.counts[bucket] = (this.counts[bucket] ?? 0) + 1
    this.count++
    this.sum += value
    if (value < this.min) this.min = value
    if (value > this.max) this.max = value
  }

  read(): Metric.HistogramState {
    let below = 0
    return {
      buckets: Metrics.boundaries.map((boundary, bucket) => [boundary, below += this.counts[bucket] ?? 0]),
      count: this.count,
      min: this.min,
      max: this.max,
      sum: this.sum
    }
  }
}

/** What is counted for one transport of one socket. */
export class TransportMeter {
  /** Open now. */
  connections = 0
  accepted = 0
  refused = 0
  crashed = 0
  interrupted = 0
  framesIn = 0
  framesOut = 0
  bytesIn = 0
  bytesOut = 0
  malformed = 0
  drained = 0
  slowClients = 0
  droppedEvents = 0
  /** What was denied, by the limit. */
  readonly limited = {
    joins: 0,
    messages: 0,
    heartbeats: 0,
    mailbox: 0,
    infos: 0,
    topic: 0,
    event: 0,
    values: 0,
    channels: 0,
    connections: 0,
    address: 0,
    connect_timeout: 0,
    stalled: 0,
    backlog: 0,
    total_backlog: 0,
    inflated: 0,
    inflate_rate: 0,
    byte_rate: 0,
    unpolled: 0
  }
  readonly connectDuration = new Histogram()
}

/** What is counted for one channel (its pattern, never a topic) of one socket. */
export class ChannelMeter {
  /** Joined now. */
  channels = 0
  joinsOk = 0
  joinsRefused = 0
  joinsCrashed = 0
  joinsInterrupted = 0
  messagesIn = 0
  pushes = 0
  replies = 0
  broadcasts = 0
  crashes = 0
  readonly joinDuration = new Histogram()
  readonly handleInDuration = new Histogram()
  private readonly mailboxes = new Set<{ readonly read: () => Iterable<number> }>()

  /** Adds the lengths of more mailboxes, one source for each mount; returns how to take it away again. */
  watchMailboxes(read: () => Iterable<number>): () => void {
    const source = { read }
    this.mailboxes.add(source)
    return () => void this.mailboxes.delete(source)
  }

  /** All messages that wait. */
  waiting(): number {
    let sum = 0
    for (const { read } of this.mailboxes) for (const length of read()) sum += length
    return sum
  }

  /** Those of the fullest mailbox. */
  longestMailbox(): number {
    let longest = 0
    for (const { read } of this.mailboxes) for (const length of read()) longest = Math.max(longest, length)
    return longest
  }
}

const ignore = (): void => {}

/** The series of a registry that have the same labels. */
class Series {
  private readonly context: Context.Context<never>
  private readonly labels: Readonly<Record<string, string>>

  constructor(context: Context.Context<never>, labels: Readonly<Record<string, string>>) {
    this.context = context
    this.labels = labels
  }

  with(label: string, value: string): Series {
    return new Series(this.context, { ...this.labels, [label]: value })
  }

  counter(metric: Metric.Counter<number>, get: () => number): void {
    this.register(metric, () => ({ count: get(), incremental: true }))
  }

  gauge(metric: Metric.Gauge<number>, get: () => number): void {
    this.register(metric, () => ({ value: get() }))
  }

  histogram(metric: Metric.Histogram<number>, histogram: Histogram): void {
    this.register(metric, () => histogram.read())
  }

  private register<State>(metric: Metric.Metric<number, State>, get: () => State): void {
    const hooks = { get, update: ignore, modify: ignore }
    Metric.registerUnsafe(Metric.withAttributes(metric, this.labels), this.context, hooks)
  }
}

const registerTransport = (series: Series, meter: TransportMeter): void => {
  series.gauge(Metrics.connections, () => meter.connections)
  series.with("result", "ok").counter(Metrics.connects, () => meter.accepted)
  series.with("result", "refused").counter(Metrics.connects, () => meter.refused)
  series.with("result", "crashed").counter(Metrics.connects, () => meter.crashed)
  series.with("result", "interrupted").counter(Metrics.connects, () => meter.interrupted)
  series.histogram(Metrics.connectDuration, meter.connectDuration)
  series.counter(Metrics.framesReceived, () => meter.framesIn)
  series.counter(Metrics.framesSent, () => meter.framesOut)
  series.counter(Metrics.bytesReceived, () => meter.bytesIn)
  series.counter(Metrics.bytesSent, () => meter.bytesOut)
  series.counter(Metrics.malformedFrames, () => meter.malformed)
  series.counter(Metrics.drainedConnections, () => meter.drained)
  series.counter(Metrics.slowClients, () => meter.slowClients)
  series.counter(Metrics.droppedEvents, () => meter.droppedEvents)
  for (const limit of Object.keys(meter.limited) as Array<keyof TransportMeter["limited"]>) {
    series.with("limit", limit).counter(Metrics.limited, () => meter.limited[limit])
  }
}

const registerChannel = (series: Series, meter: ChannelMeter): void => {
  series.gauge(Metrics.channels, () => meter.channels)
  series.with("result", "ok").counter(Metrics.joins, () => meter.joinsOk)
  series.with("result", "refused").counter(Metrics.joins, () => meter.joinsRefused)
  series.with("result", "crashed").counter(Metrics.joins, () => meter.joinsCrashed)
  series.with("result", "interrupted").counter(Metrics.joins, () => meter.joinsInterrupted)
  series.histogram(Metrics.joinDuration, meter.joinDuration)
  series.counter(Metrics.messagesReceived, () => meter.messagesIn)
  series.histogram(Metrics.handleInDuration, meter.handleInDuration)
  series.counter(Metrics.replies, () => meter.replies)
  series.counter(Metrics.pushes, () => meter.pushes)
  series.counter(Metrics.broadcasts, () => meter.broadcasts)
  series.counter(Metrics.channelCrashes, () => meter.crashes)
  series.gauge(Metrics.mailboxMessages, () => meter.waiting())
  series.gauge(Metrics.longestMailbox, () => meter.longestMailbox())
}

/**
 * All meters of a socket by its name; those of two mounts of one socket in one registry are the same object, so that sums
 * are right. What is made here stays with the registry: names of transports and patterns of channels come from the
 * application's code and are few.
 */
export class SocketMeter {
  private readonly series: Series
  private readonly transports = new Map<string, TransportMeter>()
  private readonly channels = new Map<string, ChannelMeter>()

  constructor(socket: string, context: Context.Context<never>) {
    this.series = new Series(context, { socket })
  }

  transport(name: string): TransportMeter {
    let meter = this.transports.get(name)
    if (meter === undefined) {
      this.transports.set(name, meter = new TransportMeter())
      registerTransport(this.series.with("transport", name), meter)
    }
    return meter
  }

  channel(pattern: string): ChannelMeter {
    let meter = this.channels.get(pattern)
    if (meter === undefined) {
      this.channels.set(pattern, meter = new ChannelMeter())
      registerChannel(this.series.with("channel", pattern), meter)
    }
    return meter
  }
}

const meters = new WeakMap<Metric.MetricRegistry, Map<string, SocketMeter>>()

/** Finds or makes the meters of a socket for the registry of a context and the attributes that it gives all metrics. */
export const socketMeter = (socket: string, context: Context.Context<never>): SocketMeter => {
  const registry = Context.get(context, Metric.MetricRegistry)
  const attributes = Context.get(context, Metric.CurrentMetricAttributes)
  const sockets = meters.get(registry) ?? new Map<string, SocketMeter>()
  meters.set(registry, sockets)
  const key = JSON.stringify([socket, ...Object.entries(attributes).toSorted(([a], [b]) => a < b ? -1 : 1)])
  let meter = sockets.get(key)
  if (meter === undefined) {
    // Of the context only these two, because it is kept.
    const own = Context.make(Metric.MetricRegistry, registry).pipe(
      Context.add(Metric.CurrentMetricAttributes, attributes)
    )
    sockets.set(key, meter = new SocketMeter(socket, own))
  }
  return meter
}

/** Adds to the adapter's gauge: 1 when it has connected, -1 when it is not connected any more, 0 to have it at all. */
export const countConnected = (adapter: string, by: -1 | 0 | 1, context: Context.Context<never>): void =>
  Metric.withAttributes(Metrics.pubsubConnected, { adapter }).modifyUnsafe(by, context)

/** Counts a presence that other nodes were not told of; 0 is to have the series at all. */
export const countWithheld = (tracker: string, by: 0 | 1, context: Context.Context<never>): void =>
  Metric.withAttributes(Metrics.presencesWithheld, { tracker }).updateUnsafe(by, context)

/** Counts a presence that was refused, by the code of the error; 0 is to have the series at all. */
export const countRefused = (tracker: string, code: string, by: 0 | 1, context: Context.Context<never>): void =>
  Metric.withAttributes(Metrics.presencesRefused, { tracker, code }).updateUnsafe(by, context)

/** Counts a function of the application that has failed, or was given up; 0 is to have the series at all. */
export const countHandlerFailure = (
  tracker: string,
  handler: string,
  by: 0 | 1,
  context: Context.Context<never>
): void => Metric.withAttributes(Metrics.presenceHandlerFailures, { tracker, handler }).updateUnsafe(by, context)
