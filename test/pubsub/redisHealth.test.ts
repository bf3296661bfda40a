/** A Redis that is there and does not do all that a node needs. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Metric } from "effect"
import { createClient, RESP_TYPES } from "redis"
import * as Redis from "../../src/pubsub/redis.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { Engine, engineOf, isMissing, redis } from "../support/engine.ts"
import { drain, subscribe } from "./contract.ts"
import { cableTo, nodeWith, statusIs } from "./health.ts"

/** Sends commands as the administrator. */
const commands = (url: string, ...all: ReadonlyArray<ReadonlyArray<string>>) =>
  Effect.promise(async () => {
    const client = createClient({ url })
    client.on("error", () => {})
    await client.connect()
    const replies = []
    for (const command of all) replies.push(await client.sendCommand([...command]))
    client.destroy()
    return replies
  })

const rights = ["on", ">secret", "resetchannels", "&phx:*", "-@all", "+publish", "+subscribe"]

/** Nodes of this process that are connected. */
const gauge = Effect.map(
  Metric.value(Metric.withAttributes(Telemetry.pubsubConnected, { adapter: "redis" })),
  ({ value }) => value
)

/** The address for the user `node`. */
const asNode = (port: number) => `redis://node:secret@127.0.0.1:${port}`

const quick = { heartbeat: 500, timeout: 2000 }

describe.skipIf(isMissing(redis))("the health of Redis", () => {
  for (const RESP of [2, 3] as const) {
    for (const more of [[], ["+unsubscribe"]]) {
      const named = `${[...rights.slice(5), ...more].join(" ")}, protocol ${RESP}`
      it.live(`a user with these rights alone is connected and stays so: ${named}`, () =>
        Effect.gen(function*() {
          const engine = yield* engineOf(redis)
          yield* commands(engine.url, ["ACL", "SETUSER", "node", ...rights, ...more])
          const layer = Redis.layer({ url: asNode(engine.port), client: { RESP }, heartbeat: 1000 })
          const [a, b] = [yield* nodeWith(layer), yield* nodeWith(layer)]
          yield* statusIs("connected", a, b)
          for (let round = 0; round < 4; round++) {
            const there = yield* subscribe(b, "room:1")
            yield* drain(a, "room:1", there)
            yield* b.pubsub.unsubscribeAll("room:1", there.pid)
            // Some heartbeats in all.
            yield* Effect.sleep("700 millis")
          }
          assert.deepStrictEqual([a.pubsub.outages(), b.pubsub.outages()], [0, 0])
          assert.deepStrictEqual(a.log.lines, [])
          // A channel stays subscribed without the right to give it up.
          if (more.length > 0) assert.deepStrictEqual(b.log.lines, [])
          else assert.lengthOf(b.log.of("NOPERM"), 1)
        }))
    }
  }

  it.live("a Redis that loads its data is not taken for one that is away", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis, (kind) => Engine.start(kind, ["--enable-debug-command", "yes"]))
      yield* commands(engine.url, ["DEBUG", "POPULATE", "20000"], ["SAVE"])
      yield* Effect.promise(() => engine.kill())
      // Each key takes a millisecond, and questions are answered in between.
      engine.configure("key-load-delay 1000\nloading-process-events-interval-bytes 1024\n")
      yield* Effect.promise(() => engine.start())
      const layer = Redis.layer({ url: engine.url, heartbeat: 1000 })
      const [a, b] = [yield* nodeWith(layer), yield* nodeWith(layer)]
      yield* statusIs("connected", a, b)
      const there = yield* subscribe(b, "room:1")
      yield* drain(a, "room:1", there)
      // Some heartbeats.
      yield* Effect.sleep("2500 millis")
      const answered = yield* commands(engine.url, ["PING"]).pipe(
        Effect.as("PONG"),
        Effect.catchDefect((defect) => Effect.succeed(String(defect)))
      )
      assert.include(answered, "LOADING", "it has loaded too soon for this test")
      assert.deepStrictEqual([a.pubsub.outages(), a.log.lines], [0, []])
    }))

  it.live("a Redis that is busy with a script refuses what it is asked, and is not taken for one that is away", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis, (kind) => Engine.start(kind, ["--busy-reply-threshold", "20"]))
      const a = yield* nodeWith(Redis.layer({ url: engine.url, ...quick }))
      yield* subscribe(a, "room:1")
      const script = yield* Effect.forkChild(
        Effect.exit(commands(engine.url, ["EVAL", "while true do end", "0"])),
        { startImmediately: true }
      )
      while ((yield* a.pubsub.status) !== "degraded") {
        yield* a.pubsub.broadcast("room:1", "lost")
        yield* Effect.sleep("20 millis")
      }
      // A join is answered, and heartbeats go on.
      yield* subscribe(a, "room:2")
      yield* Effect.sleep("1200 millis")
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      yield* commands(engine.url, ["SCRIPT", "KILL"])
      yield* Fiber.await(script)
      yield* statusIs("connected", a)
      assert.deepStrictEqual(a.log.of("is out of reach"), [])
    }))

  it.live("a Redis that becomes a replica is left for the one that the address leads to, and all hear each other", () =>
    Effect.gen(function*() {
      const first = yield* engineOf(redis)
      const second = yield* engineOf(redis, (kind) => Engine.start(kind, ["--replicaof", "127.0.0.1", `${first.port}`]))
      const cable = yield* cableTo(first.port)
      // Redis keeps writers waiting while it hands over: that is no outage yet.
      const layer = Redis.layer({ url: `redis://127.0.0.1:${cable.port}`, heartbeat: 1000 })
      const [a, b] = [yield* nodeWith(layer), yield* nodeWith(layer)]
      yield* statusIs("connected", a, b)
      const isSynced = () =>
        Effect.map(commands(second.url, ["INFO", "replication"]), ([info]) => String(info).includes("link_status:up"))
      while (!(yield* isSynced())) yield* Effect.sleep("20 millis")
      cable.lead(second.port)
      yield* commands(first.url, ["FAILOVER"])
      yield* a.log.until("Redis is back", 1)
      yield* b.log.until("Redis is back", 1)
      assert.match(a.log.lines[0]?.text ?? "", /is out of reach.*is a replica.*must lead to the primary/s)
      // A node that comes now hears them, and is heard.
      const c = yield* nodeWith(Redis.layer({ url: second.url }))
      const here = yield* subscribe(a, "room:1")
      const there = yield* subscribe(c, "room:1")
      yield* drain(c, "room:1", here)
      yield* drain(b, "room:1", there)
    }))

  it.live("a replica is out of reach from the start, whatever it would take and however it tells", () =>
    Effect.gen(function*() {
      const first = yield* engineOf(redis)
      const second = yield* engineOf(redis, (kind) => Engine.start(kind, ["--replicaof", "127.0.0.1", `${first.port}`]))
      const typeMapping = { [RESP_TYPES.MAP]: Map, [RESP_TYPES.BLOB_STRING]: Buffer }
      for (const client of [{ RESP: 2 }, { RESP: 3 }, { RESP: 3, commandOptions: { typeMapping } }] as const) {
        const a = yield* nodeWith(Redis.layer({ url: second.url, client, timeout: 500 }))
        assert.strictEqual(yield* a.pubsub.status, "reconnecting")
        assert.lengthOf(a.log.of("is a replica"), 1)
      }
    }))

  it.live("the role is known without HELLO too", () =>
    Effect.gen(function*() {
      const first = yield* engineOf(redis)
      const more = ["--replicaof", "127.0.0.1", `${first.port}`, "--rename-command", "HELLO", ""]
      const second = yield* engineOf(redis, (kind) => Engine.start(kind, more))
      const a = yield* nodeWith(Redis.layer({ url: second.url, client: { RESP: 2 }, timeout: 500 }))
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      assert.lengthOf(a.log.of("is a replica"), 1)
    }))

  it.live("publishing to one Redis and subscribing to another is noticed", () =>
    Effect.gen(function*() {
      const [first, second] = [yield* engineOf(redis), yield* engineOf(redis)]
      const cable = yield* cableTo(first.port)
      // The two connections of a node lead to different engines.
      cable.alternate(second.port)
      const a = yield* nodeWith(Redis.layer({ url: `redis://127.0.0.1:${cable.port}`, timeout: 500 }))
      yield* a.log.until("does not hear what it publishes itself", 1)
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
    }))

  it.live("a topic that the user may not subscribe to is told of; joins go on, and it is heard once it is allowed", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      yield* commands(engine.url, ["ACL", "SETUSER", "node", ...rights, "+unsubscribe", "resetchannels"], [
        "ACL",
        "SETUSER",
        "node",
        "&phx:node:*",
        "&phx:topic:room:*"
      ])
      // A join that waited for the timeout would not end within this test.
      const layer = Redis.layer({ url: asNode(engine.port), timeout: "1 minute" })
      const [a, b] = [yield* nodeWith(layer), yield* nodeWith(Redis.layer({ url: engine.url }))]
      const other = yield* subscribe(a, "room:1")
      const before = yield* gauge
      const here = yield* subscribe(a, "secret:1")
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.strictEqual(yield* gauge, before - 1)
      const [line] = a.log.lines
      assert.match(line?.text ?? "", /^Redis refuses subscriptions: .*check the rights.*NOPERM/s)
      assert.deepInclude(line?.annotations, { channel: "phx:topic:secret:1", channels: 1 })
      yield* a.pubsub.localBroadcast("secret:1", "local")
      assert.deepStrictEqual(here.received, ["local"])
      yield* drain(b, "room:1", other)
      assert.strictEqual(a.pubsub.outages(), 1)
      yield* commands(engine.url, ["ACL", "SETUSER", "node", "&phx:topic:secret:*"])
      yield* statusIs("connected", a)
      yield* drain(b, "secret:1", here)
      yield* a.log.until("takes everything of this node again", 1)
      assert.strictEqual(yield* gauge, before)
      assert.lengthOf(a.log.lines, 2)
    }))

  it.live("a join of many topics finds those that are refused, and no other suffers", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      yield* commands(engine.url, [
        "ACL",
        "SETUSER",
        "node",
        ...rights,
        "resetchannels",
        "&phx:node:*",
        "&phx:topic:room:*"
      ])
      const cable = yield* cableTo(engine.port)
      const url = asNode(cable.port)
      const [a, b] = [
        yield* nodeWith(Redis.layer({ url, ...quick })),
        yield* nodeWith(Redis.layer({ url: engine.url }))
      ]
      const topics = Array.from({ length: 50 }, (_, n) => n % 10 === 3 ? `secret:${n}` : `room:${n}`)
      const inboxes = yield* Effect.forEach(topics, (topic) => subscribe(a, topic), { concurrency: "unbounded" })
      cable.cut()
      yield* statusIs("reconnecting", a)
      cable.heal()
      yield* statusIs("degraded", a)
      for (const [n, topic] of topics.entries()) if (n % 10 !== 3) yield* drain(b, topic, inboxes[n] ?? assert.fail())
      assert.match(String(a.log.of("refuses subscriptions")[0]?.annotations["channel"]), /:secret:/)
    }))

  it.live("a user who may not publish is told of at once, without a broadcast, and is well again once he may", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      yield* commands(engine.url, ["ACL", "SETUSER", "node", ...rights, "-publish"])
      const a = yield* nodeWith(Redis.layer({ url: asNode(engine.port) }))
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.match(a.log.lines[0]?.text ?? "", /^Redis refuses messages: .*check the rights.*NOPERM/s)
      const b = yield* nodeWith(Redis.layer({ url: engine.url }))
      const [here, there] = [yield* subscribe(a, "room:1"), yield* subscribe(b, "room:1")]
      yield* a.pubsub.broadcast("room:1", "local")
      yield* drain(b, "room:1", here)
      assert.deepStrictEqual(here.received, ["local"])
      yield* commands(engine.url, ["ACL", "SETUSER", "node", "+publish"])
      yield* statusIs("connected", a)
      yield* drain(a, "room:1", there)
      assert.deepInclude(a.log.of("takes everything")[0]?.annotations, { lost: 1 })
    }))

  it.live("a message that may not be published makes the node degraded, until its channel takes messages again", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      const a = yield* nodeWith(Redis.layer({ url: asNode(engine.port), timeout: 500 }))
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      yield* commands(engine.url, [
        "ACL",
        "SETUSER",
        "node",
        ...rights,
        "resetchannels",
        "&phx:node:*",
        "&phx:topic:room:1"
      ])
      yield* statusIs("connected", a)
      assert.strictEqual(a.pubsub.outages(), 0)
      let backs = 0
      a.pubsub.onBack(() => void backs++)
      yield* a.pubsub.broadcast("room:2", "x")
      yield* statusIs("degraded", a)
      yield* a.pubsub.broadcast("room:1", "this one passes, and proves nothing of the other")
      yield* a.log.until("refuses messages", 1)
      assert.deepInclude(a.log.of("refuses messages")[0]?.annotations, { channel: "phx:topic:room:2", channels: 1 })
      // The answers to some probes.
      yield* Effect.sleep("300 millis")
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      yield* commands(engine.url, ["ACL", "SETUSER", "node", "&phx:topic:room:2"])
      yield* statusIs("connected", a)
      assert.deepStrictEqual([a.pubsub.outages(), backs], [1, 1])
    }))

  it.live("a join waits no longer than the timeout since Redis fell silent, and the next not at all", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      const a = yield* nodeWith(Redis.layer({ url: engine.url, timeout: "1 second", heartbeat: "1 minute" }))
      engine.freeze()
      yield* subscribe(a, "room:0")
      // Each would take a second of its own.
      for (let n = 1; n < 100; n++) yield* subscribe(a, `room:${n}`)
      assert.strictEqual(yield* a.pubsub.status, "connected")
      engine.thaw()
      const b = yield* nodeWith(Redis.layer({ url: engine.url }))
      const there = yield* subscribe(b, "room:1")
      yield* drain(a, "room:1", there)
    }))

  it.live("what waits for Redis counts with the room it takes, however small the messages are", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      const a = yield* nodeWith(Redis.layer({ url: engine.url, maxPendingBytes: 100_000 }))
      const b = yield* nodeWith(Redis.layer({ url: engine.url }))
      const there = yield* subscribe(b, "room:1")
      engine.freeze()
      for (let n = 0; n < 1000; n++) yield* a.pubsub.broadcast("room:1", n)
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.lengthOf(a.log.of("does not keep up"), 1)
      engine.thaw()
      yield* statusIs("connected", a)
      yield* drain(a, "room:1", there)
      // 100,000 bytes, 512 of them for each message beside its own.
      assert.isAtMost(there.received.length, 195)
      yield* a.log.until("takes everything of this node again", 1)
      const lost = Number(a.log.of("takes everything")[0]?.annotations["lost"])
      assert.strictEqual(there.received.length + lost, 1000)
    }))

  it.live("a message from a node with a larger limit is dropped, and the log says so", () =>
    Effect.gen(function*() {
      const engine = yield* engineOf(redis)
      const a = yield* nodeWith(Redis.layer({ url: engine.url }))
      const b = yield* nodeWith(Redis.layer({ url: engine.url, maxMessageBytes: 1000 }))
      const there = yield* subscribe(b, "room:1")
      yield* a.pubsub.broadcast("room:1", "x".repeat(1000))
      yield* drain(a, "room:1", there)
      assert.deepStrictEqual(there.received, [])
      assert.match(b.log.lines[0]?.text ?? "", /larger than maxMessageBytes/)
    }))
})
