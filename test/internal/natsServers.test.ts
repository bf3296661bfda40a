import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { firstOf, nameOf, serverOf, Servers } from "../../src/internal/natsServers.ts"

const names = (servers: Servers) => servers.all.map(nameOf).sort()

describe("the servers of NATS", () => {
  it("are those of the options, and those that the cluster consists of now", () => {
    const servers = new Servers(["one:4222", "[::1]:5222"])
    assert.deepStrictEqual(names(servers), ["[::1]:5222", "one:4222"])
    servers.heard({ cluster: "c", connect_urls: ["one:4222", "10.0.0.2:4222", "[fd00::2]:4222", "not a server"] })
    assert.deepStrictEqual(names(servers), ["10.0.0.2:4222", "[::1]:5222", "[fd00::2]:4222", "one:4222"])
    servers.heard({ cluster: "c", connect_urls: ["10.0.0.3:4222"] })
    assert.deepStrictEqual(names(servers), ["10.0.0.3:4222", "[::1]:5222", "one:4222"])
    servers.heard({ cluster: "c" })
    assert.deepStrictEqual(names(servers), ["[::1]:5222", "one:4222"])
    assert.deepStrictEqual(servers.names, ["one"])
  })

  it("are of one cluster, but for one of the options when no other was found for half a minute", () => {
    const servers = new Servers(["one:4222"])
    const [configured, gossiped] = [serverOf("one:4222", true), serverOf("10.0.0.2:4222", false)]
    if (configured === undefined || gossiped === undefined) return assert.fail()
    assert.isUndefined(servers.problemOf(configured, { cluster: "a" }, 0))
    servers.heard({ cluster: "a", connect_urls: ["10.0.0.2:4222"] })
    for (const server of [configured, gossiped]) {
      assert.isUndefined(servers.problemOf(server, { cluster: "a" }, 1e9))
      assert.match(servers.problemOf(server, { cluster: "b" }, 1e9) ?? "", /another cluster \(b\) than .* \(a\)/)
      assert.match(servers.problemOf(server, {}, 1e9) ?? "", /another cluster \(none\)/)
    }
    servers.lost(1000)
    servers.lost(20_000)
    assert.isDefined(servers.problemOf(configured, { cluster: "b" }, 30_999))
    assert.isUndefined(servers.problemOf(configured, { cluster: "b" }, 31_000))
    assert.isDefined(servers.problemOf(gossiped, { cluster: "b" }, 31_000))
    servers.heard({ cluster: "b" })
    assert.isDefined(servers.problemOf(configured, { cluster: "a" }, 1e9))
  })

  it("may have another name for their cluster when it was given none and all have started anew", () => {
    const servers = new Servers(["one:4222"])
    const configured = serverOf("one:4222", true)
    if (configured === undefined) return assert.fail()
    servers.heard({ cluster: "ZJXIW7P1C8QYB2V5N0LKTM" })
    assert.isDefined(servers.problemOf(configured, { cluster: "AAXIW7P1C8QYB2V5N0LKTM" }, 0))
    servers.lost(0)
    assert.isUndefined(servers.problemOf(configured, { cluster: "AAXIW7P1C8QYB2V5N0LKTM" }, 0))
    assert.isDefined(servers.problemOf(configured, { cluster: "named" }, 0))
  })
})

/** An attempt that ends after so many milliseconds, and tells when it begins and if it is broken off. */
const attempts = (log: Array<string>, all: Readonly<Record<string, readonly [millis: number, isWell: boolean]>>) =>
  new Map(
    Object.entries(all).map(([name, [millis, isWell]]) => [
      name,
      Effect.gen(function*() {
        log.push(`begin ${name}`)
        yield* Effect.sleep(millis)
        return isWell ? name : yield* Effect.fail(new Error(`no ${name}`))
      }).pipe(Effect.onInterrupt(() => Effect.sync(() => void log.push(`stop ${name}`))))
    ])
  )

const race = Effect.fnUntraced(function*(
  log: Array<string>,
  all: Readonly<Record<string, readonly [millis: number, isWell: boolean]>>,
  timeout = 5000
) {
  return yield* Effect.forkChild(Effect.exit(firstOf(attempts(log, all), timeout)), { startImmediately: true })
})

describe("attempts", () => {
  it.effect("begin in turn, the next at once when one fails, and all end when one succeeds", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const fiber = yield* race(log, { a: [10, false], b: [1000, true], c: [1000, true] })
      yield* TestClock.adjust(9)
      assert.deepStrictEqual(log, ["begin a"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(log, ["begin a", "begin b"])
      yield* TestClock.adjust(250)
      assert.deepStrictEqual(log, ["begin a", "begin b", "begin c"])
      yield* TestClock.adjust(750)
      assert.deepStrictEqual(log, ["begin a", "begin b", "begin c", "stop c"])
      assert.deepStrictEqual((yield* Fiber.join(fiber)).valueOf(), (yield* Effect.exit(Effect.succeed("b"))).valueOf())
    }))

  it.effect("that hang do not keep others from their turn, however many", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const hang = Object.fromEntries(Array.from({ length: 99 }, (_, n) => [`hang${n}`, [1e9, true] as const]))
      const fiber = yield* race(log, { ...hang, well: [10, true] })
      yield* TestClock.adjust(4999)
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Success")
      assert.lengthOf(log.filter((line) => line.startsWith("stop hang")), 99)
    }))

  it.effect("that all fail tell why, in the order of their names, and those too that the time was up for", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const fail = (all: Parameters<typeof race>[1]) =>
        Effect.gen(function*() {
          const fiber = yield* race(log, all)
          yield* TestClock.adjust(5000)
          const exit = yield* Fiber.join(fiber)
          return exit._tag === "Failure" ? yield* Effect.flip(exit) : assert.fail("one was well")
        })
      assert.strictEqual((yield* fail({ b: [1, false], a: [2, false] })).message, "a: no a; b: no b")
      const error = yield* fail({ c: [1, false], b: [1e9, true], a: [2, false] })
      assert.strictEqual(error.message, "a: no a; b: no answer; c: no c")
      assert.propertyVal(error.cause, "message", "no c")
      const many = yield* fail(Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`n${n}`, [1, false] as const])))
      assert.match(many.message, /; and 12 more$/)
    }))
})
