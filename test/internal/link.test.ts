/** The way to an engine by the clock of the test, over an engine that does as it is told. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import type { Settings } from "../../src/internal/clusterOptions.ts"
import type { Connection, Engine, Listener } from "../../src/internal/engine.ts"
import { Link } from "../../src/internal/link.ts"
import { Log } from "../support/log.ts"

const settings: Settings = {
  node: undefined,
  prefix: "phx",
  timeout: 5000,
  heartbeat: 5000,
  maxMessageBytes: Infinity,
  maxPendingBytes: 10_000
}

/** An engine that hears and answers what the test wants. */
class Fake implements Engine {
  readonly name = "Fake"
  readonly label = "fake"
  readonly separator = ":"
  readonly limit = "nothing helps"
  /** Why it takes nobody, if it does not. */
  away: unknown = undefined
  /** It answers nothing. */
  isSilent = false
  readonly refused = new Map<string, unknown>()
  readonly unpublished = new Map<string, unknown>()
  echoes = true
  listener: Listener | undefined = undefined
  readonly requests: Array<ReadonlyArray<string>> = []
  readonly published: Array<string> = []
  private readonly held: Array<() => void> = []

  private answer<A>(value: () => A): Promise<A> {
    return new Promise((resolve, reject) => {
      const go = () => {
        try {
          resolve(value())
        } catch (cause) {
          reject(cause)
        }
      }
      if (this.isSilent) this.held.push(go)
      else go()
    })
  }

  /** Answers what was asked meanwhile. */
  speak(): void {
    this.isSilent = false
    for (const go of this.held.splice(0)) go()
  }

  connect(listener: Listener): Effect.Effect<Connection, unknown> {
    return Effect.suspend(() => {
      if (this.away !== undefined) return Effect.fail(this.away)
      this.listener = listener
      const { echoes } = this
      return Effect.succeed({
        echoes,
        maxMessageBytes: Infinity,
        ping: () => this.answer(() => {}),
        unsubscribe: () => this.answer(() => {}),
        subscribe: (channels) => {
          this.requests.push(channels)
          return this.answer(() => new Map([...this.refused].filter(([channel]) => channels.includes(channel))))
        },
        publish: (channel, data) =>
          this.answer(() => {
            this.published.push(channel)
            if (this.unpublished.has(channel)) throw this.unpublished.get(channel)
            if (echoes) listener.message(channel, data)
          })
      })
    })
  }
}

/** Promises of the engine, and what waits for them. */
const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
const turns = Effect.andThen(turn, Effect.andThen(turn, turn))
const pass = (millis: number) => Effect.andThen(Effect.andThen(turns, TestClock.adjust(millis)), turns)

const linkTo = (engine: Engine, log: Log, options: Partial<Settings> = {}) =>
  Effect.gen(function*() {
    const context = yield* Effect.provide(Effect.context<never>(), log.layer)
    const owner = {
      node: "a",
      channel: "own",
      probe: Buffer.from("probe"),
      receive: (channel: string) => {
        if (channel === "own") made.echo()
      }
    }
    const made: Link = new Link(engine, { ...settings, ...options }, owner, context)
    yield* Effect.forkScoped(Effect.provideContext(made.run, context))
    yield* turns
    return made
  })

describe("the way to an engine", () => {
  it.effect("is found, lost and found again, and each loss is counted and told of", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      let backs = 0
      const stop = link.onBack(() => void backs++)
      assert.deepStrictEqual([link.status, link.outages, backs], ["connected", 0, 0])
      // Shorter than any look at the status.
      engine.listener?.broken(new Error("cable"))
      assert.deepStrictEqual([link.status, link.outages], ["reconnecting", 1])
      yield* pass(50)
      assert.deepStrictEqual([link.status, link.outages, backs], ["connected", 1, 1])
      stop()
      engine.listener?.broken(new Error("cable"))
      yield* pass(100)
      assert.deepStrictEqual([link.outages, backs], [2, 1])
      assert.deepStrictEqual(log.lines.map(({ level }) => level), ["Warn", "Info", "Warn", "Info"])
    }))

  it.effect("is looked for at once again only where the connection before has lasted", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      engine.away = new Error("away")
      const link = yield* linkTo(engine, log)
      yield* pass(60_000)
      engine.away = undefined
      yield* pass(2000)
      assert.strictEqual(link.status, "connected")
      engine.listener?.broken("cable")
      yield* pass(500)
      assert.strictEqual(link.status, "reconnecting")
      yield* pass(2000)
      assert.strictEqual(link.status, "connected")
      for (let n = 0; n < 3; n++) yield* pass(settings.heartbeat)
      engine.listener?.broken("cable")
      yield* pass(50)
      assert.strictEqual(link.status, "connected")
    }))

  it.effect("a listener that throws is logged, and neither the way nor other listeners suffer", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      let backs = 0
      link.onBack(() => {
        throw new Error("oops")
      })
      link.onBack(() => void backs++)
      engine.listener?.broken("cable")
      yield* pass(50)
      assert.deepStrictEqual([link.status, backs], ["connected", 1])
      assert.lengthOf(log.of("oops"), 1)
    }))

  it.effect("an outage is logged once for each cause, at least ten seconds apart", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      engine.away = new Error("refused")
      yield* linkTo(engine, log)
      assert.match(log.lines[0]?.text ?? "", /^Fake is out of reach: .*refused/s)
      engine.away = new Error("certificate has expired")
      yield* pass(9000)
      assert.lengthOf(log.lines, 1)
      yield* pass(3000)
      assert.lengthOf(log.lines, 2)
      assert.match(log.lines[1]?.text ?? "", /^Fake is still out of reach, and for another reason now.*expired/s)
      for (const cause of ["refused", "certificate has expired", "refused"]) {
        engine.away = new Error(cause)
        yield* pass(20_000)
      }
      assert.lengthOf(log.lines, 2)
      // A cause that is new each time does not fill the log.
      for (let n = 0; n < 40; n++) {
        engine.away = new Error(`port ${n}`)
        yield* pass(20_000)
      }
      assert.lengthOf(log.lines, 16)
    }))

  it.effect("an engine that is silent is lost after two heartbeats, and one that is late is not", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      engine.isSilent = true
      yield* pass(9900)
      assert.strictEqual(link.status, "connected")
      engine.speak()
      yield* pass(1000)
      assert.strictEqual(link.status, "connected")
      engine.isSilent = true
      yield* pass(11_000)
      assert.strictEqual(link.status, "reconnecting")
      assert.match(log.lines[0]?.text ?? "", /has not answered within 5000ms/)
      engine.speak()
    }))

  it.effect("an answer that comes in a pause of this process is not missed for the time that has passed", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      engine.isSilent = true
      yield* pass(6000)
      // The clock jumps, and only then the process reads.
      yield* TestClock.adjust(4000)
      engine.speak()
      yield* pass(100)
      assert.deepStrictEqual([link.status, log.lines], ["connected", []])
    }))

  it.effect("a node that does not hear itself is not connected, at the start and later", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      engine.unpublished.clear()
      const link = yield* linkTo(engine, log)
      assert.strictEqual(link.status, "connected")
      if (engine.listener !== undefined) Object.assign(engine.listener, { message: () => {} })
      yield* pass(10_100)
      assert.strictEqual(log.of("does not hear what it publishes itself").length, 1)
    }))

  it.effect("joins wait as long as the timeout since the engine was last heard of, by the monotonic clock", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const clock = yield* Clock.Clock
      // The wall clock is set, back and forth, all the time.
      let hours = 0
      const wall = () => clock.currentTimeMillisUnsafe() + (hours++ % 2 === 0 ? -1 : 1) * 3_600_000
      const skewed = new Proxy(clock, {
        get: (target, name) => name === "currentTimeMillisUnsafe" ? wall : Reflect.get(target, name, target)
      })
      const link = yield* Effect.provideService(linkTo(engine, log, { heartbeat: 60_000 }), Clock.Clock, skewed)
      engine.isSilent = true
      const ended: Array<string> = []
      const join = (channel: string) =>
        Effect.forkChild(Effect.map(link.subscribe(channel), () => void ended.push(channel)), {
          startImmediately: true
        })
      yield* join("one")
      yield* pass(4000)
      yield* join("two")
      yield* pass(900)
      assert.deepStrictEqual(ended, [])
      yield* pass(200)
      assert.deepStrictEqual(ended, ["one", "two"])
      const three = yield* join("three")
      yield* Fiber.join(three)
      engine.listener?.broken("cable")
      engine.away = "cable"
      yield* join("four")
      yield* pass(4900)
      assert.notInclude(ended, "four")
      yield* pass(200)
      assert.include(ended, "four")
      yield* join("five")
      assert.include(ended, "five")
      engine.away = undefined
      engine.speak()
      yield* pass(2000)
      yield* pass(2000)
      assert.match(String(log.of("Fake is back")[0]?.annotations["outage"]), /^[5-9]\d\d\dms$/)
    }))

  it.effect("however often topics are joined and left while the engine hangs, one request is under way", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      engine.requests.length = 0
      engine.isSilent = true
      for (let n = 0; n < 10_000; n++) {
        const waits = yield* Effect.forkChild(link.subscribe(`room:${n % 10}`), { startImmediately: true })
        yield* Fiber.interrupt(waits)
        if (n < 9990) link.unsubscribe(`room:${n % 10}`)
      }
      assert.lengthOf(engine.requests, 1)
      engine.speak()
      yield* turns
      assert.sameMembers(engine.requests.flat(), Array.from({ length: 10 }, (_, n) => `room:${n}`))
      assert.isAtMost(engine.requests.length, 3)
    }))

  it.effect("what is refused is asked for again, more and more slowly, until it is taken", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      engine.refused.set("secret", new Error("not you"))
      engine.unpublished.set("quiet", new Error("not this"))
      const link = yield* linkTo(engine, log)
      // At once: there is nothing to wait for.
      yield* link.subscribe("secret")
      link.publish("quiet", Buffer.from("x"))
      yield* turns
      assert.strictEqual(link.status, "degraded")
      assert.deepInclude(log.of("Fake refuses subscriptions")[0]?.annotations, {
        node: "a",
        channel: "secret",
        channels: 1
      })
      assert.deepInclude(log.of("Fake refuses messages")[0]?.annotations, { node: "a", channel: "quiet", channels: 1 })
      engine.requests.length = 0
      yield* pass(3200)
      assert.isAtLeast(engine.requests.length, 4)
      for (let n = 0; n < 20; n++) yield* pass(5000)
      assert.isAtMost(engine.requests.length, 30)
      assert.deepStrictEqual([link.status, link.outages, log.lines.length], ["degraded", 1, 2])
      engine.refused.clear()
      yield* pass(5000)
      assert.strictEqual(link.status, "degraded")
      engine.unpublished.clear()
      yield* pass(5000)
      assert.strictEqual(link.status, "connected")
      assert.deepInclude(log.of("takes everything of this node again")[0]?.annotations, { lost: 1 })
    }))

  it.effect("channels that take no messages are remembered up to a limit, whoever makes them up", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log)
      for (let n = 0; n < 100; n++) {
        engine.unpublished.set(`made up ${n}`, new Error("no"))
        link.publish(`made up ${n}`, Buffer.from("x"))
        yield* turn
      }
      yield* turns
      assert.strictEqual(link.status, "degraded")
      assert.lengthOf(log.lines, 1)
      engine.published.length = 0
      yield* pass(60_000)
      const asked = new Set(engine.published.filter((channel) => channel !== "own"))
      assert.strictEqual(asked.size, 16)
      engine.unpublished.clear()
      yield* pass(5000)
      assert.strictEqual(link.status, "connected")
    }))

  it.effect("an engine that refuses everything is out of reach", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      engine.refused.set("own", new Error("not you"))
      const link = yield* linkTo(engine, log)
      assert.strictEqual(link.status, "reconnecting")
      assert.match(log.lines[0]?.text ?? "", /^Fake is out of reach.*not you/s)
      engine.refused.clear()
      yield* pass(1000)
      assert.strictEqual(link.status, "connected")
    }))

  it.effect("messages count towards the limit of what waits with 512 bytes beside their own", () =>
    Effect.gen(function*() {
      const [engine, log] = [new Fake(), new Log()]
      const link = yield* linkTo(engine, log, { maxPendingBytes: 10 * 512 + 10 })
      engine.isSilent = true
      for (let n = 0; n < 10; n++) link.publish("room", Buffer.from("x"))
      assert.strictEqual(link.status, "connected")
      link.publish("room", Buffer.from("x"))
      assert.strictEqual(link.status, "degraded")
      assert.lengthOf(log.of("Fake does not keep up"), 1)
      engine.speak()
      yield* turns
      assert.strictEqual(link.status, "connected")
      assert.deepInclude(log.of("takes everything")[0]?.annotations, { lost: 1 })
    }))
})
