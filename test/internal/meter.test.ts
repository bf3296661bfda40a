import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"
import { readFileSync } from "node:fs"
import {
  countConnected,
  countHandlerFailure,
  countRefused,
  countWithheld,
  Histogram,
  socketMeter
} from "../../src/internal/meter.ts"
import { boundaries } from "../../src/internal/metrics.ts"
import * as Telemetry from "../../src/Telemetry.ts"

const registry = () => Context.make(Metric.MetricRegistry, new Map())

const transport = { socket: "user_socket", transport: "websocket" }
const channel = { socket: "user_socket", channel: "room:*" }

const read = <State>(
  context: Context.Context<never>,
  metric: Metric.Metric<number, State>,
  labels: Metric.Metric.AttributeSet
): State => Metric.withAttributes(metric, labels).valueUnsafe(context)

describe("Histogram", () => {
  it("counts what Effect's own histogram counts", () => {
    const histogram = new Histogram()
    const context = registry()
    const values = [0, 0.1, 0.11, 1, 3, 3, 99.5, 10_000, 10_001, 1e9]
    for (const value of values) {
      histogram.observe(value)
      Telemetry.joinDuration.updateUnsafe(value, context)
    }
    assert.deepStrictEqual(histogram.read(), Telemetry.joinDuration.valueUnsafe(context))
  })

  it("is empty as Effect's own histogram is", () => {
    assert.deepStrictEqual(new Histogram().read(), Telemetry.joinDuration.valueUnsafe(registry()))
  })

  it("what took as long as a boundary is in its bucket", () => {
    boundaries.forEach((boundary, index) => {
      const histogram = new Histogram()
      histogram.observe(boundary)
      const { buckets } = histogram.read()
      assert.deepStrictEqual(buckets.map(([, count]) => count), boundaries.map((_, at) => at >= index ? 1 : 0))
    })
  })

  it("docs/telemetry.md lists the boundaries", () => {
    const page = readFileSync("docs/telemetry.md", "utf8").replaceAll(/\s+/g, " ")
    assert.include(page, `${boundaries.slice(0, -1).join(", ")} and ${boundaries.at(-1)}.`)
  })

  it("boundaries are above zero and grow", () => {
    assert.deepStrictEqual([...new Set(boundaries)].sort((a, b) => a - b), boundaries)
    assert.isAbove(boundaries[0] ?? 0, 0)
  })

  it.each([-5, NaN])("a clock that went back counts as no time: %d", (millis) => {
    const histogram = new Histogram()
    histogram.observe(millis)
    const { count, min, max, sum } = histogram.read()
    assert.deepStrictEqual({ count, min, max, sum }, { count: 1, min: 0, max: 0, sum: 0 })
  })
})

describe("socketMeter", () => {
  it("two mounts of one socket in one registry count together", () => {
    const context = registry()
    const other = Context.add(context, Metric.CurrentMetricAttributes, {})
    assert.strictEqual(socketMeter("user_socket", context), socketMeter("user_socket", other))
    socketMeter("user_socket", context).transport("websocket").connections++
    socketMeter("user_socket", other).transport("websocket").connections++
    assert.strictEqual(read(context, Telemetry.connections, transport).value, 2)
  })

  it("sockets and registries do not count together", () => {
    const [one, two] = [registry(), registry()]
    assert.notStrictEqual(socketMeter("user_socket", one), socketMeter("user_socket", two))
    socketMeter("user_socket", one).transport("websocket").connections++
    socketMeter("admin_socket", one).transport("websocket").connections += 10
    socketMeter("user_socket", two).transport("websocket").connections += 100
    assert.strictEqual(read(one, Telemetry.connections, transport).value, 1)
    assert.strictEqual(read(one, Telemetry.connections, { ...transport, socket: "admin_socket" }).value, 10)
    assert.strictEqual(read(two, Telemetry.connections, transport).value, 100)
  })

  it("attributes of the context label the series, and keep them apart", () => {
    const context = registry()
    const regions = ["eu", "us"].map((region) => Context.add(context, Metric.CurrentMetricAttributes, { region }))
    regions.forEach((region, index) => socketMeter("user_socket", region).transport("websocket").accepted = index + 1)
    const labels = { ...transport, result: "ok" }
    assert.deepStrictEqual(regions.map((region) => read(region, Telemetry.connects, labels).count), [1, 2])
    assert.strictEqual(read(context, Telemetry.connects, { ...labels, region: "us" }).count, 2)
  })

  it("a series that was read before its socket was mounted shows what is counted later", () => {
    const context = registry()
    assert.strictEqual(read(context, Telemetry.channels, channel).value, 0)
    socketMeter("user_socket", context).channel("room:*").channels = 3
    assert.strictEqual(read(context, Telemetry.channels, channel).value, 3)
  })

  it("each number of a transport is read by its metric", () => {
    const context = registry()
    const meter = socketMeter("user_socket", context).transport("websocket")
    Object.assign(meter, { connections: 1, accepted: 2, refused: 3, crashed: 4, framesIn: 5, framesOut: 6 })
    Object.assign(meter, { bytesIn: 7, bytesOut: 8, malformed: 9, drained: 10 })
    meter.connectDuration.observe(11)
    assert.strictEqual(read(context, Telemetry.connections, transport).value, 1)
    const connects = (result: string) => read(context, Telemetry.connects, { ...transport, result }).count
    assert.deepStrictEqual(["ok", "refused", "crashed"].map(connects), [2, 3, 4])
    assert.strictEqual(read(context, Telemetry.framesReceived, transport).count, 5)
    assert.strictEqual(read(context, Telemetry.framesSent, transport).count, 6)
    assert.strictEqual(read(context, Telemetry.bytesReceived, transport).count, 7)
    assert.strictEqual(read(context, Telemetry.bytesSent, transport).count, 8)
    assert.strictEqual(read(context, Telemetry.malformedFrames, transport).count, 9)
    assert.strictEqual(read(context, Telemetry.drainedConnections, transport).count, 10)
    assert.strictEqual(read(context, Telemetry.connectDuration, transport).sum, 11)
  })

  it("each number of a channel is read by its metric", () => {
    const context = registry()
    const meter = socketMeter("user_socket", context).channel("room:*")
    Object.assign(meter, { channels: 1, joinsOk: 2, joinsRefused: 3, joinsCrashed: 4, messagesIn: 5 })
    Object.assign(meter, { pushes: 6, replies: 7, broadcasts: 8, crashes: 9 })
    meter.joinDuration.observe(10)
    meter.handleInDuration.observe(11)
    assert.strictEqual(read(context, Telemetry.channels, channel).value, 1)
    const joins = (result: string) => read(context, Telemetry.joins, { ...channel, result }).count
    assert.deepStrictEqual(["ok", "refused", "crashed"].map(joins), [2, 3, 4])
    assert.strictEqual(read(context, Telemetry.messagesReceived, channel).count, 5)
    assert.strictEqual(read(context, Telemetry.pushes, channel).count, 6)
    assert.strictEqual(read(context, Telemetry.replies, channel).count, 7)
    assert.strictEqual(read(context, Telemetry.broadcasts, channel).count, 8)
    assert.strictEqual(read(context, Telemetry.channelCrashes, channel).count, 9)
    assert.strictEqual(read(context, Telemetry.joinDuration, channel).sum, 10)
    assert.strictEqual(read(context, Telemetry.handleInDuration, channel).sum, 11)
  })

  it("asking again for a transport or channel adds no series", () => {
    const context = registry()
    const meter = socketMeter("user_socket", context)
    const meters = [meter.transport("websocket"), meter.channel("room:*")]
    const series = Metric.snapshotUnsafe(context).length
    assert.deepStrictEqual([meter.transport("websocket"), meter.channel("room:*")], meters)
    assert.strictEqual(meter.channel("room:*"), meters[1])
    assert.lengthOf(Metric.snapshotUnsafe(context), series)
  })

  it("every exported metric has series, with the labels that docs/telemetry.md lists", () => {
    const context = registry()
    socketMeter("user_socket", context).transport("websocket")
    socketMeter("user_socket", context).channel("room:*")
    countConnected("redis", 0, context)
    countWithheld("online", 0, context)
    countRefused("online", "TOO_LARGE", 0, context)
    countHandlerFailure("online", "fetch", 0, context)
    const found = new Set(
      Metric.snapshotUnsafe(context).map(({ id, attributes }) => `${id}: ${Object.keys(attributes ?? {}).join(", ")}`)
    )
    const rows = readFileSync("docs/telemetry.md", "utf8").matchAll(
      /^\| `(effect_channels_\w+)` *\|[^|]*\|[^|]*\|[^|]*\| ([\w, ]+?) *\|/gm
    )
    const documented = Array.from(rows, ([, id, labels]) => `${id}: ${labels}`)
    assert.deepStrictEqual([...found].sort(), documented.sort())
  })

  it.effect("Prometheus gets a histogram with a bucket for everything", () =>
    Effect.gen(function*() {
      const meter = socketMeter("user_socket", yield* Effect.context<never>()).channel("room:*")
      meter.joinDuration.observe(2)
      meter.joinDuration.observe(60_000)
      const lines = (yield* PrometheusMetrics.format()).split("\n")
      const name = "effect_channels_join_duration_milliseconds"
      const labels = "socket=\"user_socket\",channel=\"room:*\""
      assert.include(lines, `# TYPE ${name} histogram`)
      assert.include(lines, `${name}_bucket{${labels},le="1"} 0`)
      assert.include(lines, `${name}_bucket{${labels},le="2.5"} 1`)
      assert.include(lines, `${name}_bucket{${labels},le="10000"} 1`)
      assert.include(lines, `${name}_bucket{${labels},le="+Inf"} 2`)
      assert.include(lines, `${name}_sum{${labels}} 60002`)
      assert.include(lines, `${name}_count{${labels}} 2`)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

describe("mailboxes", () => {
  const depths = (context: Context.Context<never>) => [
    read(context, Telemetry.mailboxMessages, channel).value,
    read(context, Telemetry.longestMailbox, channel).value
  ]

  it("are read only when somebody reads the metric", () => {
    const context = registry()
    let reads = 0
    socketMeter("user_socket", context).channel("room:*").watchMailboxes(() => {
      reads++
      return [reads]
    })
    assert.strictEqual(reads, 0)
    assert.strictEqual(read(context, Telemetry.mailboxMessages, channel).value, 1)
    assert.strictEqual(read(context, Telemetry.longestMailbox, channel).value, 2)
  })

  it("are summed over all mounts, and the fullest is that of all mounts", () => {
    const context = registry()
    const meter = socketMeter("user_socket", context).channel("room:*")
    meter.watchMailboxes(() => [1, 0, 4])
    meter.watchMailboxes(() => new Set([7]))
    meter.watchMailboxes(() => [])
    assert.deepStrictEqual(depths(context), [12, 7])
  })

  it("settle to zero when the mounts have gone, in whatever order and however often they say so", () => {
    const context = registry()
    const meter = socketMeter("user_socket", context).channel("room:*")
    const same = () => [2]
    const [one, two] = [meter.watchMailboxes(same), meter.watchMailboxes(same)]
    assert.deepStrictEqual(depths(context), [4, 2])
    one()
    one()
    assert.deepStrictEqual(depths(context), [2, 2])
    two()
    assert.deepStrictEqual(depths(context), [0, 0])
  })
})
