/** Names that clients may give: references, topics and events, and how large these may be. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Channel from "../src/Channel.ts"
import type * as Message from "../src/Message.ts"
import type * as Process from "../src/Process.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Socket from "../src/Socket.ts"
import { failed, node, ok, open } from "./support/connection.ts"

const Room = Channel.make("room:*")
const handled: Array<string> = []
const RoomLive = Room.layer(() =>
  Effect.succeed({ handleIn: (event) => Effect.sync(() => (handled.push(event), Channel.ok())) })
)

/** Runs with a connection to a node of its own. */
const connected = (
  options: Omit<Socket.Options<readonly [typeof Room]>, "channels">,
  body: (
    peer: Effect.Success<ReturnType<typeof open>>,
    node: { readonly warnings: () => ReadonlyArray<{ readonly text: string; readonly annotations: object }> },
    meter: () => Readonly<Record<string, number>>
  ) => Effect.Effect<void, never, Process.System>,
  serializer: Serializer.Serializer = Serializer.v2
) => {
  const { acceptor, layer, warnings } = node({ channels: [Room], ...options }, RoomLive)
  return Effect.gen(function*() {
    handled.length = 0
    const peer = yield* open(yield* acceptor, "user:1", serializer)
    // Sockets of one name share what they count.
    const before: Readonly<Record<string, number>> = { ...peer.server.meter.limited }
    const { malformed } = peer.server.meter
    yield* body(peer, { warnings }, () => {
      const now: Readonly<Record<string, number>> = peer.server.meter.limited
      const counts = Object.keys(now).map((key) => [key, (now[key] ?? 0) - (before[key] ?? 0)] as const)
      return { ...Object.fromEntries(counts), malformed: peer.server.meter.malformed - malformed }
    })
  }).pipe(Effect.scoped, Effect.provide(layer))
}

const nested = (depth: number): unknown => JSON.parse("[".repeat(depth) + "]".repeat(depth))

describe("a reference", () => {
  for (
    const [name, max, fits, tooLarge] of [
      ["a string", 1024, "x".repeat(1024), "x".repeat(1025)],
      ["a string of characters of two bytes", 1024, "é".repeat(512), "é".repeat(513)],
      ["a list", 255, nested(127), nested(128)],
      ["an object", 255, { k: "x".repeat(247) }, { k: "x".repeat(248) }],
      ["many small values", 255, Array.from({ length: 127 }, () => 1), Array.from({ length: 128 }, () => 1)],
      ["a string in a list that becomes longer as JSON", 255, ["\n".repeat(125)], ["\n".repeat(126)]]
    ] as const
  ) {
    for (const place of [0, 1]) {
      const frame = (ref: unknown) => {
        const refs = place === 0 ? [ref, "1"] : [null, ref]
        return [...refs, "room:1", "phx_join", {}] as const
      }
      it.effect(`${place === 0 ? "join_ref" : "ref"} that is ${name} is echoed up to ${max} bytes`, () =>
        connected({}, (peer, { warnings }) =>
          Effect.gen(function*() {
            const [joinRef, ref] = frame(fits)
            assert.deepStrictEqual(yield* peer.send(...frame(fits)), [ok(joinRef, ref, "room:1")])
            assert.deepStrictEqual(peer.codes, [])
            assert.deepStrictEqual(warnings(), [])
          })))

      it.effect(`${place === 0 ? "join_ref" : "ref"} that is ${name} of more is malformed: 1011`, () =>
        connected({}, (peer, { warnings }, meter) =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* peer.send(...frame(tooLarge)), [])
            assert.deepStrictEqual(peer.codes, [1011])
            assert.strictEqual(meter()["malformed"], 1)
            const [line, ...more] = warnings()
            assert.deepStrictEqual(more, [])
            assert.strictEqual(line?.text, "malformed frame: invalid_ref")
            assert.deepInclude(line?.annotations, { socket: "test_socket", id: "user:1", transport: "test" })
            assert.isBelow(JSON.stringify(line?.annotations).length, 500)
            assert.notInclude(JSON.stringify(line?.annotations), "xxx")
          })))
    }
  }

  it.effect("of any kind is compared with that of the join, and another one is stale", () =>
    connected({}, (peer) =>
      Effect.gen(function*() {
        for (const [n, joinRef] of ["1", 1, true, false, 0, [], {}, [1, { a: [] }], ""].entries()) {
          const topic = `room:${n}`
          assert.deepStrictEqual(yield* peer.send(joinRef, "1", topic, "phx_join", {}), [ok(joinRef, "1", topic)])
          const replies = yield* peer.send(joinRef, "2", topic, "x", {})
          assert.deepStrictEqual(replies.map((reply) => Object(reply)[1]), ["2"])
          for (const other of ["other", 2, [2], { a: 1 }]) {
            assert.deepStrictEqual(yield* peer.send(other, "3", topic, "x", {}), [])
          }
        }
      })))

  it.effect("has a limit that can be set", () =>
    connected({ maxRefBytes: 4 }, (peer) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* peer.send("1234", "1", "room:1", "phx_join", {}), [ok("1234", "1", "room:1")])
        yield* peer.send("1234", "12345", "room:1", "x", {})
        assert.deepStrictEqual(peer.codes, [1011])
      })))

  it.effect("is judged in frames of any version", () =>
    Effect.gen(function*() {
      const long = "x".repeat(1025)
      const v1 = JSON.stringify({ topic: "room:1", event: "phx_join", ref: long, payload: {} })
      yield* connected({}, (peer) =>
        Effect.gen(function*() {
          peer.server.receive(v1)
          yield* peer.send()
          assert.deepStrictEqual(peer.codes, [1011])
        }), Serializer.v1)
    }))

  it.effect("of a format of the application is judged too: only what is JSON passes, and what is left out is null", () =>
    Effect.gen(function*() {
      let message: Partial<Message.Inbound> = {}
      const own: Serializer.Serializer = {
        ...Serializer.v2,
        name: "own",
        decode: () =>
          Result.succeed({ joinRef: null, ref: "1", topic: "room:1", event: "phx_join", payload: {}, ...message })
      }
      const refs: ReadonlyArray<readonly [ref: unknown, closes: boolean]> = [
        [undefined, false],
        [NaN, true],
        [Infinity, true],
        [1n, true],
        [() => 1, true],
        [Symbol("x"), true],
        [new Uint8Array(1), true],
        [new Date(0), true],
        [[undefined], true],
        [Object.create(null), false]
      ]
      for (const [ref, closes] of refs) {
        for (const name of ["ref", "joinRef"]) {
          yield* connected({}, (peer) =>
            Effect.gen(function*() {
              message = { [name]: ref }
              peer.server.receive("{}")
              yield* peer.send()
              assert.deepStrictEqual(peer.codes, closes ? [1011] : [], `${name} ${String(typeof ref)}`)
            }), own)
        }
      }
    }))

  it.effect("of millions of values is not looked at any further than its limit", () =>
    connected({}, (peer) =>
      Effect.gen(function*() {
        let touched = 0
        const list = new Proxy([] as Array<unknown>, {
          get: (target, key) => {
            touched++
            return key === "length" ? 10_000_000 : key in target ? Reflect.get(target, key) : []
          }
        })
        Object.assign(peer.server, {
          serializer: {
            ...Serializer.v2,
            decode: () => Result.succeed({ joinRef: list, ref: null, topic: "room:1", event: "x", payload: {} })
          }
        })
        peer.server.receive("{}")
        yield* peer.send()
        assert.deepStrictEqual(peer.codes, [1011])
        assert.isBelow(touched, 1000)
      })))
})

describe("a name", () => {
  for (const [name, max] of [["topic", 1024], ["event", 4096]] as const) {
    const long = name === "topic" ? `room:${"x".repeat(max - 5)}` : "x".repeat(max)
    const frame = (text: unknown, ref: string) =>
      name === "topic" ? [null, ref, text, "x", {}] as const : ["1", ref, "room:1", text, {}] as const

    it.effect(`of the ${name} may have ${max} bytes; a longer one is answered`, () =>
      connected({}, (peer, { warnings }, meter) =>
        Effect.gen(function*() {
          yield* peer.send("1", "1", "room:1", "phx_join", {})
          const fits = yield* peer.send(...frame(long, "2"))
          assert.deepStrictEqual(
            fits,
            name === "topic" ? [failed(null, "2", long, "unmatched topic")] : [ok("1", "2", "room:1")]
          )
          const tooLong = `${long}x`
          const echoed = name === "topic" ? tooLong : "room:1"
          assert.deepStrictEqual(yield* peer.send(...frame(tooLong, "3")), [
            failed(null, "3", echoed, `${name} too long`)
          ])
          assert.deepStrictEqual(peer.codes, [])
          assert.strictEqual(meter()[name], 1)
          assert.deepStrictEqual(warnings().map(({ text }) => text), [`a client is denied: ${name} too long`])
          assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", id: "user:1", transport: "test" })
          assert.isBelow(JSON.stringify(warnings()[0]?.annotations).length, 500)
        })))

    it.effect(`of the ${name} that is no text is answered if it is small, and malformed if not`, () =>
      connected({}, (peer, { warnings }) =>
        Effect.gen(function*() {
          yield* peer.send("1", "1", "room:1", "phx_join", {})
          const replies = yield* peer.send(...frame([[]], "2"))
          assert.deepStrictEqual(replies.map((reply) => Object(reply)[1]), ["2"])
          yield* peer.send(...frame(Array.from({ length: 1000 }, () => []), "3"))
          assert.deepStrictEqual(peer.codes, [1011])
          assert.deepStrictEqual(warnings().map(({ text }) => text), [`malformed frame: invalid_${name}`])
        })))
  }

  it.effect("of a topic that is very long is not echoed", () =>
    connected({}, (peer) =>
      Effect.gen(function*() {
        for (const event of ["phx_join", "phx_leave", "heartbeat", "x"]) {
          const reply = yield* peer.send(null, "1", "x".repeat(1_000_000), event, {})
          assert.deepStrictEqual(reply, [failed(null, "1", null, "topic too long")])
        }
        for (const [length, isEchoed] of [[16_384, true], [16_385, false]] as const) {
          const topic = "x".repeat(length)
          assert.deepStrictEqual(yield* peer.send(null, "1", topic, "x", {}), [
            failed(null, "1", isEchoed ? topic : null, "topic too long")
          ])
        }
      })))

  it.effect("is too long where the limits say so", () =>
    connected({ maxEventBytes: 9, maxTopicBytes: 6 }, (peer) =>
      Effect.gen(function*() {
        yield* peer.send("1", "1", "room:1", "phx_join", {})
        assert.deepStrictEqual(yield* peer.send("1", "2", "room:12", "x", {}), [
          failed(null, "2", "room:12", "topic too long")
        ])
        assert.deepStrictEqual(yield* peer.send("1", "3", "room:1", "0123456789", {}), [
          failed(null, "3", "room:1", "event too long")
        ])
        assert.deepStrictEqual(yield* peer.send("1", "4", "room:1", "012345678", {}), [ok("1", "4", "room:1")])
        assert.deepStrictEqual(handled, ["012345678"])
      })))
})

describe("options of a socket", () => {
  const make = (options: object) => Socket.make("x", { channels: [], ...options })
  const nonsense = [NaN, -1, 0, "5", null, {}, [], true]

  for (
    const option of [
      "maxChannels",
      "maxRefBytes",
      "maxTopicBytes",
      "maxEventBytes",
      "maxInboxBytes",
      "maxSharedInboxBytes"
    ]
  ) {
    it(`${option} is a whole number, at least 1`, () => {
      for (const value of [...nonsense, 0.5, -Infinity]) {
        assert.throws(() => make({ [option]: value }), RegExp(`^${option} must be a whole number`), String(value))
      }
      assert.doesNotThrow(() => make({ [option]: undefined }))
      assert.doesNotThrow(() => make({ [option]: 1 }))
    })
  }

  it("names limits that must be there, and those that need not", () => {
    for (const option of ["maxRefBytes", "maxTopicBytes", "maxEventBytes"]) {
      assert.throws(() => make({ [option]: Infinity }), RangeError)
    }
    for (const option of ["maxChannels", "maxInboxBytes", "maxSharedInboxBytes"]) {
      assert.doesNotThrow(() => make({ [option]: Infinity }))
    }
  })

  it("maxPause is a duration", () => {
    for (const value of [NaN, -1, 0, "soon", null, {}, "0 seconds"]) {
      assert.throws(() => make({ maxPause: value }), /^maxPause must be a duration/, String(value))
    }
    for (const value of [1, "1 second", "Infinity", Infinity]) assert.doesNotThrow(() => make({ maxPause: value }))
  })

  for (const option of ["maxJoinRate", "maxMessageRate", "maxHeartbeatRate"]) {
    it(`${option} is a rate or false`, () => {
      for (const value of [NaN, 1, "5", null, {}, true, { perSecond: NaN, burst: 1 }, { perSecond: 1, burst: NaN }]) {
        assert.throws(() => make({ [option]: value }), RegExp(`^${option}`), String(value))
      }
      assert.doesNotThrow(() => make({ [option]: false }))
      assert.doesNotThrow(() => make({ [option]: { perSecond: 0.1, burst: 1 } }))
    })
  }

  it("channels, serializers, log and the name are what they should be", () => {
    assert.throws(() => make({ channels: [{}] }), /^channels must be a list of channels/)
    assert.throws(() => make({ channels: "room" }), /^channels must be/)
    assert.throws(() => make({ serializers: [] }), /^serializers must be/)
    assert.throws(() => make({ serializers: [Serializer.v2] }), /^serializers must be/)
    assert.throws(() => make({ serializers: [[{ name: "x" }, "~> 2.0.0"]] }), /^serializers must be/)
    assert.throws(() => make({ log: "info" }), /^log must be one of/)
    assert.throws(() => Socket.make("", { channels: [] }), /^the name of a socket must be a text/)
  })

  it("a page may join as many topics again at once as maxChannels lets it join", () => {
    assert.deepStrictEqual(Socket.make("x", { channels: [] }).maxJoinRate, { perSecond: 20, burst: 200 })
    const { maxJoinRate } = Socket.make("x", { channels: [], maxChannels: 1000 })
    assert.deepStrictEqual(maxJoinRate, { perSecond: 100, burst: 1000 })
    assert.isUndefined(Socket.make("x", { channels: [], maxChannels: Infinity }).maxJoinRate)
    const rate = { perSecond: 1, burst: 1 }
    assert.deepStrictEqual(
      Socket.make("x", { channels: [], maxChannels: 1000, maxJoinRate: rate }).maxJoinRate,
      rate
    )
  })
})

describe("options of a channel", () => {
  const layer = (options: object) => Room.layer(() => Effect.succeed({}), options)
  const custom = (options: object) => Room.layerCustom(() => Effect.succeed({ handleIn: () => Effect.void }), options)

  it("limits of the mailbox are whole numbers, or Infinity", () => {
    for (const make of [layer, custom]) {
      for (const option of ["capacity", "maxBytes", "maxInfos", "maxInfoBytes"]) {
        for (const value of [NaN, -1, 0, 0.5, "5", null, {}, [], true]) {
          const message = RegExp(`^channel room:\\*: ${option} must be a whole number`)
          assert.throws(() => make({ mailbox: { [option]: value } }), message, String(value))
        }
        for (const value of [1, Infinity, undefined]) assert.doesNotThrow(() => make({ mailbox: { [option]: value } }))
      }
      assert.throws(() => make({ mailbox: { whenFull: "drop" } }), /whenFull must be one of "suspend"/)
      assert.throws(() => make({ mailbox: 5 }), /mailbox must be an object/)
      assert.throws(() => make({ shutdown: NaN }), /shutdown must be a duration/)
      assert.throws(() => make({ shutdown: -1 }), /shutdown must be a duration/)
      assert.throws(() => make({ logJoin: "info" }), /logJoin must be one of/)
    }
    assert.throws(() => layer({ logHandleIn: 1 }), /logHandleIn must be one of/)
  })

  it("a contract is checked where it is given", () => {
    const make = (contract: object) => Channel.make("room:*", contract)
    assert.throws(() => make({ pubsubTopic: "x" }), /^pubsubTopic must be a function/)
    assert.throws(() => make({ lossy: { x: true } }), /^lossy: x must be "drop", or a function/)
  })
})
