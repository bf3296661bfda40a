/** What an adapter promises when its engine fails, or when somebody else talks on its channels. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Metric, type Scope, Tracer } from "effect"
import * as PubSub from "../../src/PubSub.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { Engine, engineOf, isMissing, type Kind } from "../support/engine.ts"
import { Log } from "../support/log.ts"
import { drain, type Node, type NodeLayer, startNode, subscribe } from "./contract.ts"

export interface Options {
  readonly url: string
  readonly prefix?: string
  readonly node?: string
  readonly timeout?: number
  readonly heartbeat?: number
  readonly maxMessageBytes?: number
  readonly maxPendingBytes?: number
}

export interface Subject {
  readonly kind: Kind
  readonly layer: (options: Options) => NodeLayer
  /** The channel of a topic that needs no escaping. */
  readonly channel: (prefix: string, topic: string) => string
  /** Publishes as a stranger. */
  readonly publish: (url: string, channel: string, data: ReadonlyArray<Uint8Array>) => Promise<void>
}

const away = "is out of reach"

/** Joins of an outage are not to hold up a test; an engine that is merely slow is not to be taken for one that is away. */
const impatient = { timeout: 500 }

const statusOf = (node: Node) => node.pubsub.status

const connected = Effect.fnUntraced(function*(node: Node) {
  while ((yield* statusOf(node)) !== "connected") yield* Effect.sleep("5 millis")
})

const gauge = (label: string) =>
  Effect.map(
    Metric.value(Metric.withAttributes(Telemetry.pubsubConnected, { adapter: label })),
    ({ value }) => value
  )

export const outages = ({ channel, kind, layer, publish }: Subject): void => {
  const label = kind.name.toLowerCase()
  const back = `${kind.name} is back`

  interface Pair {
    readonly engine: Engine
    readonly a: Node
    readonly b: Node
    readonly log: Log
  }

  const pair = (
    name: string,
    body: (pair: Pair) => Effect.Effect<unknown, unknown, Scope.Scope>,
    options: Partial<Options> = {}
  ) =>
    it.live(name, () =>
      Effect.gen(function*() {
        const engine = yield* engineOf(kind)
        const log = new Log()
        const node = layer({ url: engine.url, ...options }).pipe(Layer.provide(log.layer))
        const [a, b] = [yield* startNode(Layer.fresh(node)), yield* startNode(Layer.fresh(node))]
        yield* Effect.all([connected(a), connected(b)])
        log.lines.length = 0
        yield* body({ engine, a, b, log })
      }))

  describe.skipIf(isMissing(kind))(`${kind.name} that fails`, () => {
    pair(
      "is missed and found again: local delivery goes on, and what is joined meanwhile is heard after",
      (pair) =>
        Effect.gen(function*() {
          const { a, b, engine, log } = pair
          const here = yield* subscribe(a, "room:1")
          const there = yield* subscribe(b, "room:1")
          yield* drain(a, "room:1", here, there)
          yield* Effect.promise(() => engine.kill())
          yield* log.until(away, 2)
          assert.strictEqual(yield* statusOf(a), "reconnecting")
          for (let n = 0; n < 5; n++) yield* a.pubsub.broadcast("room:1", n)
          yield* a.pubsub.directBroadcast(b.pubsub.node, "room:1", "lost")
          assert.deepStrictEqual(here.received, [0, 1, 2, 3, 4])
          const late = yield* subscribe(b, "room:late")
          const gone = yield* subscribe(b, "room:gone")
          yield* b.pubsub.unsubscribeAll("room:gone", gone.pid)
          yield* Effect.promise(() => engine.start())
          yield* log.until(back, 2)
          assert.deepStrictEqual([yield* statusOf(a), yield* statusOf(b)], ["connected", "connected"])
          yield* a.pubsub.broadcast("room:gone", "nobody")
          yield* a.pubsub.broadcast("room:1", "again")
          yield* a.pubsub.broadcast("room:late", "too")
          assert.deepStrictEqual(yield* there.atLeast(1), ["again"])
          assert.deepStrictEqual(yield* late.atLeast(1), ["too"])
          yield* a.pubsub.directBroadcast(b.pubsub.node, "room:1", "direct")
          assert.deepStrictEqual(yield* there.atLeast(2), ["again", "direct"])
          assert.deepStrictEqual(gone.received, [])
          assert.deepStrictEqual(log.lines.map(({ level }) => level).sort(), ["Info", "Info", "Warn", "Warn"])
          assert.deepStrictEqual(log.of(back).map(({ annotations }) => annotations["lost"]).sort(), [0, 6])
        }),
      impatient
    )

    pair(
      "is missed although it keeps its connections, and found again",
      ({ a, b, engine, log }) =>
        Effect.gen(function*() {
          const here = yield* subscribe(a, "room:1")
          const there = yield* subscribe(b, "room:1")
          engine.freeze()
          const during = yield* subscribe(b, "room:2")
          yield* a.pubsub.broadcast("room:1", "local")
          assert.deepStrictEqual(here.received, ["local"])
          yield* log.until(away, 2)
          engine.thaw()
          yield* log.until(back, 2)
          yield* a.pubsub.broadcast("room:1", "again")
          yield* a.pubsub.broadcast("room:2", "too")
          yield* drain(a, "room:1", there)
          yield* drain(a, "room:2", during)
          assert.strictEqual(there.received.at(-1), "again")
          assert.deepStrictEqual(during.received, ["too"])
        }),
      { timeout: 2000, heartbeat: 400 }
    )

    it.live("need not be there when a node starts", () =>
      Effect.gen(function*() {
        const engine = yield* engineOf(kind, Engine.reserve)
        const log = new Log()
        const start = (options: Partial<Options>) =>
          startNode(Layer.provide(Layer.fresh(layer({ url: engine.url, ...options })), log.layer))
        const before = yield* gauge(label)
        const a = yield* start(impatient)
        assert.strictEqual(yield* statusOf(a), "reconnecting")
        assert.strictEqual(yield* gauge(label), before)
        const here = yield* subscribe(a, "room:1")
        yield* a.pubsub.broadcast("room:1", "alone")
        assert.deepStrictEqual(here.received, ["alone"])
        yield* Effect.promise(() => engine.start())
        yield* log.until(back, 1)
        assert.strictEqual(yield* gauge(label), before + 1)
        const b = yield* start({})
        yield* b.pubsub.broadcast("room:1", "together")
        assert.deepStrictEqual(yield* here.atLeast(2), ["alone", "together"])
        assert.lengthOf(log.of(away), 1)
      }))

    it.live("holds up neither the end of a node nor leaves anything of it", () =>
      Effect.gen(function*() {
        const engine = yield* engineOf(kind)
        const resources = () => process.getActiveResourcesInfo().filter((name) => name !== "Timeout").length
        const before = resources()
        let fibers = 0
        const count = Layer.succeed(Metric.FiberRuntimeMetrics, {
          recordFiberStart: () => fibers++,
          recordFiberEnd: () => fibers--
        })
        const log = new Log()
        for (const how of ["well", "frozen", "dead"] as const) {
          yield* Effect.scoped(Effect.gen(function*() {
            const a = yield* startNode(layer({ url: engine.url }).pipe(Layer.provide([log.layer, count])))
            yield* subscribe(a, "room:1")
            if (how === "frozen") engine.freeze()
            if (how === "dead") yield* Effect.promise(() => engine.kill())
            yield* a.pubsub.broadcast("room:1", "last")
          }))
          engine.thaw()
        }
        assert.strictEqual(fibers, 0)
        // A socket that was destroyed is gone with the next turn of the event loop.
        for (let turn = 0; resources() > before && turn < 20; turn++) {
          yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 5)))
        }
        assert.isAtMost(resources(), before)
      }))

    pair("to keep up does not make a node keep all that waits", ({ a, b, engine, log }) =>
      Effect.gen(function*() {
        const here = yield* subscribe(a, "room:1")
        const there = yield* subscribe(b, "room:1")
        engine.freeze()
        const large = new Uint8Array(30_000)
        for (let n = 0; n < 40; n++) yield* a.pubsub.broadcast("room:1", large)
        assert.lengthOf(here.received, 40)
        yield* log.until("does not keep up", 1)
        engine.thaw()
        yield* Effect.gen(function*() {
          while (there.received.at(-1) !== "last") {
            yield* a.pubsub.broadcast("room:1", "last")
            yield* Effect.raceFirst(there.atLeast(there.received.length + 1), Effect.sleep("20 millis"))
          }
        })
        const got = there.received.filter((message) => message instanceof Uint8Array).length
        assert.isAtMost(got, 4)
        assert.lengthOf(log.of("does not keep up"), 1)
      }), { maxPendingBytes: 100_000 })
  })

  describe.skipIf(isMissing(kind))(`${kind.name} among strangers`, () => {
    pair(
      "what is no message is dropped and logged once, and nothing else suffers",
      ({ a, b, engine, log }) =>
        Effect.gen(function*() {
          const there = yield* subscribe(b, "room:1")
          const json = (text: string) => {
            const data = Buffer.from(`phx\u0001\0\0\0\0${text}`)
            data.writeUInt32BE(data.length - 8, 4)
            return data
          }
          yield* Effect.promise(() =>
            publish(engine.url, channel("phx", "room:1"), [
              new Uint8Array(),
              Buffer.from("hello"),
              Buffer.from("phx"),
              Buffer.from("phx\u0001\xff\xff\xff\xff[]", "latin1"),
              json("nonsense"),
              json("{}"),
              json("[\"a\",\"b\",\"room:1\",1,null,[[[\"__proto__\",\"x\"],0]]]"),
              Buffer.from("phx\u0002\0\0\0\0future"),
              Buffer.from("phx\u0002\0\0\0\0future")
            ])
          )
          yield* drain(a, "room:1", there)
          assert.deepStrictEqual(there.received, [])
          assert.deepStrictEqual(log.lines.map(({ level, text }) => `${level} ${text}`), [
            `Error ${kind.name}: something that is no message was received`,
            `Error ${kind.name}: a message of protocol version 2 was received, which is not known here`
          ])
          assert.strictEqual(log.lines[0]?.annotations["channel"], channel("phx", "room:1"))
        })
    )

    pair("two nodes of one name hear each other, and it is logged", ({ a, b, log }) =>
      Effect.gen(function*() {
        const there = yield* subscribe(b, "room:1")
        yield* a.pubsub.broadcast("room:1", 1)
        yield* a.pubsub.broadcast("room:1", 2)
        assert.deepStrictEqual(yield* there.atLeast(2), [1, 2])
        assert.lengthOf(log.of("another node has the name of this one"), 1)
      }), { node: "twin" })

    pair("a message larger than the limit fails with TOO_LARGE, and nobody gets it", ({ a }) =>
      Effect.gen(function*() {
        const here = yield* subscribe(a, "room:1")
        const error = yield* Effect.flip(a.pubsub.broadcast("room:1", "x".repeat(1000)))
        assert.instanceOf(error, PubSub.BroadcastError)
        assert.strictEqual(error.code, "TOO_LARGE")
        assert.match(error.message, /1[0-9]{3} bytes is larger than the 1000 .* raise maxMessageBytes/)
        yield* a.pubsub.broadcast("room:1", "small")
        assert.deepStrictEqual(here.received, ["small"])
      }), { maxMessageBytes: 1000 })

    it.live("the trace of a broadcast goes on at the other nodes", () =>
      Effect.gen(function*() {
        const engine = yield* engineOf(kind)
        const spans: Array<Tracer.Span> = []
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            spans.push(span)
            return span
          }
        })
        const node = layer({ url: engine.url }).pipe(Layer.provide(Layer.succeed(Tracer.Tracer, tracer)))
        const [a, b] = [yield* startNode(Layer.fresh(node)), yield* startNode(Layer.fresh(node))]
        const there = yield* subscribe(b, "room:1")
        yield* a.pubsub.broadcast("room:1", 1).pipe(Effect.provideService(Tracer.Tracer, tracer))
        yield* there.atLeast(1)
        const [sent, received] = spans
        assert.deepStrictEqual([sent?.name, received?.name], ["channels.broadcast", "channels.receive"])
        assert.strictEqual(received?.traceId, sent?.traceId)
        assert.strictEqual(received?.kind, "consumer")
        assert.strictEqual(received?.attributes.get("channels.node"), a.pubsub.node)
        assert.propertyVal(received?.parent._tag === "Some" ? received.parent.value : {}, "spanId", sent?.spanId)
      }))
  })
}
