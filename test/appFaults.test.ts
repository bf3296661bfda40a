/** Functions of the application that throw inside of a broadcast or a connection: their owner pays, everybody else goes on. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Result } from "effect"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import { node, ok, open } from "./support/connection.ts"

const Room = Channel.make("room:*")
const RoomLive = Room.layer((room, payload) => {
  if (payload === "die") return Effect.die(new Error("boom"))
  return Effect.succeed({
    handleIn: (event: string, payload: unknown) => {
      switch (event) {
        case "shout":
          return Effect.as(room.broadcast("said", payload), Channel.noReply)
        case "bigint":
          return Effect.as(room.broadcast("said", { n: 1n }), Channel.noReply)
        case "number":
          return Effect.as(room.broadcast("said", 5), Channel.noReply)
        case "die":
          return Effect.die(new Error("boom"))
        case "end":
          return Effect.as(room.stop(), Channel.noReply)
        default:
          return Effect.succeed(Channel.ok(payload))
      }
    },
    terminate: (reason) => reason._tag === "Normal" ? Effect.die(new Error("last words")) : Effect.void
  })
})

const start = () => node({ channels: [Room] }, RoomLive)

const refused = Result.fail(new Serializer.EncodeError({ code: "invalid_payload", message: "no such payload" }))

/** Formats whose `fastlane` does not work for payloads that have bytes, or at all. */
const broken: ReadonlyArray<readonly [name: string, serializer: Serializer.Serializer]> = [
  ["refuses", { ...Serializer.v2, name: "refusing", fastlane: () => refused }],
  [
    "throws",
    {
      ...Serializer.v2,
      name: "throwing",
      fastlane: () => {
        throw new Error("not for me")
      }
    }
  ]
]

const said = [null, null, "room:1", "said", { a: 1 }]

describe("a format whose fastlane", () => {
  for (const [name, serializer] of broken) {
    for (const first of ["own", "v1", "v2"] as const) {
      it.effect(`${name} costs its channels, and no others, with a ${first} member first`, () => {
        const { acceptor, layer, warnings } = start()
        return Effect.gen(function*() {
          const made = yield* acceptor
          const formats = { own: serializer, v1: Serializer.v1, v2: Serializer.v2 }
          const order = [first, ...(["own", "v1", "v2"] as const).filter((format) => format !== first)]
          const peers = yield* Effect.forEach(order, (format) => open(made, format, formats[format]))
          for (const [index, peer] of peers.entries()) {
            if (order[index] === "v1") {
              peer.server.receive(JSON.stringify({ topic: "room:1", event: "phx_join", ref: "1", payload: {} }))
            } else peer.write("1", "1", "room:1", "phx_join", {})
            yield* peer.send()
          }
          const sender = yield* open(made, "sender")
          yield* sender.send("1", "1", "room:1", "phx_join", {})
          assert.deepStrictEqual(yield* sender.send("1", "2", "room:1", "shout", { a: 1 }), [said])
          for (const [index, peer] of peers.entries()) {
            const received = yield* peer.send()
            if (order[index] === "v2") assert.deepStrictEqual(received, [said])
            else if (order[index] === "v1") {
              assert.deepStrictEqual(received, [{ topic: "room:1", event: "said", ref: null, payload: { a: 1 } }])
            } else assert.deepStrictEqual(received, [["1", "1", "room:1", "phx_error", { reason: "channel_crash" }]])
          }
          assert.strictEqual(warnings().length, 1)
          // Nobody else is to blame where its members are alone either.
          const own = yield* open(made, "own", serializer)
          yield* own.send("1", "1", "room:2", "phx_join", {})
          yield* Endpoint.broadcast("room:2", "said", { a: 1 })
          assert.deepStrictEqual(yield* own.send(), [["1", "1", "room:2", "phx_error", { reason: "channel_crash" }]])
          // The connection goes on.
          assert.deepStrictEqual(yield* own.send("2", "2", "room:2", "phx_join", {}), [ok("2", "2", "room:2")])
        }).pipe(Effect.scoped, Effect.provide(layer))
      })
    }
  }
})

describe("a payload that cannot be encoded", () => {
  for (const event of ["bigint", "number"]) {
    it.effect(`for the formats of this library crashes its sender alone (${event})`, () => {
      const { acceptor, layer, warnings } = start()
      return Effect.gen(function*() {
        const made = yield* acceptor
        const peers = yield* Effect.forEach(
          [Serializer.v1, Serializer.v2, broken[0]?.[1] ?? Serializer.v2],
          (format) => open(made, format.name, format)
        )
        for (const peer of peers) {
          if (peer.server.serializer === Serializer.v1) {
            peer.server.receive(JSON.stringify({ topic: "room:1", event: "phx_join", ref: "1", payload: {} }))
          } else peer.write("1", "1", "room:1", "phx_join", {})
          yield* peer.send()
        }
        const sender = yield* open(made, "sender")
        yield* sender.send("1", "1", "room:1", "phx_join", {})
        assert.deepStrictEqual(yield* sender.send("1", "2", "room:1", event, {}), [
          ["1", "1", "room:1", "phx_error", { reason: "channel_crash" }]
        ])
        for (const peer of peers) {
          const received = yield* peer.send()
          assert.isFalse(received.some((frame) => Object(frame)[3] === "phx_error"), peer.server.serializer.name)
        }
        const [line, ...more] = warnings()
        assert.deepStrictEqual(more, [])
        assert.strictEqual(line?.text, "process crashed")
        assert.deepInclude(line?.annotations, { topic: "room:1", id: "sender", socket: "test_socket", event })
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }

  it.effect("is a defect of whoever broadcasts it from elsewhere, and members go on", () => {
    const { acceptor, layer } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      yield* peer.send("1", "1", "room:1", "phx_join", {})
      const exit = yield* Effect.exit(Endpoint.broadcast("room:1", "said", { n: 1n }))
      assert.isTrue(Exit.hasDies(exit))
      yield* Endpoint.broadcast("room:1", "said", { a: 1 })
      assert.deepStrictEqual(yield* peer.send(), [said])
    }).pipe(Effect.scoped, Effect.provide(layer))
  })
})

describe("a format that", () => {
  const cases: ReadonlyArray<readonly [name: string, broken: Partial<Serializer.Serializer>]> = [
    ["throws in decode", {
      decode: () => {
        throw new Error("secret frame")
      }
    }],
    ["throws in encode", {
      encode: () => {
        throw new Error("no reply")
      }
    }],
    ["refuses in encode", { encode: () => refused }]
  ]
  for (const [name, methods] of cases) {
    it.effect(`${name} costs its own connection, which is said once with whose it is`, () => {
      const { acceptor, layer, warnings } = start()
      return Effect.gen(function*() {
        const made = yield* acceptor
        const witness = yield* open(made, "witness")
        yield* witness.send("1", "1", "room:1", "phx_join", {})
        const peer = yield* open(made, "culprit", { ...Serializer.v2, name: "own", ...methods })
        yield* peer.send(null, "1", "phoenix", "heartbeat", {})
        assert.deepStrictEqual(peer.codes, [1011])
        assert.strictEqual(warnings().length, 1)
        assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", id: "culprit", transport: "test" })
        yield* Endpoint.broadcast("room:1", "said", { a: 1 })
        assert.deepStrictEqual(yield* witness.send(), [said])
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }
})

describe("the key of a lossy event", () => {
  const keys: ReadonlyArray<readonly [name: string, key: (payload: unknown) => string]> = [
    ["throws", () => {
      throw new Error("no key")
    }],
    ["is no text", () => Object(1n)],
    ["is very long", () => "x".repeat(1_000_000)]
  ]
  for (const [name, key] of keys) {
    it.effect(`that ${name} has the event sent as any other, and is said once`, () => {
      const Lossy = Channel.make("lossy:*", { lossy: { moved: key } })
      const LossyLive = Lossy.layer(() => Effect.succeed({}))
      const { acceptor, layer, warnings } = node({ channels: [Lossy] }, LossyLive)
      return Effect.gen(function*() {
        const made = yield* acceptor
        const peers = [yield* open(made), yield* open(made)]
        for (const peer of peers) yield* peer.send("1", "1", "lossy:1", "phx_join", {})
        for (let n = 0; n < 3; n++) yield* Endpoint.broadcast("lossy:1", "moved", { n })
        for (const peer of peers) assert.strictEqual((yield* peer.send()).length, 3)
        assert.deepStrictEqual(warnings().map(({ text }) => text), ["lossy of the application has thrown"])
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }
})

describe("a line about a channel's crash says whose it was:", () => {
  const cases: ReadonlyArray<readonly [name: string, frames: ReadonlyArray<ReadonlyArray<unknown>>]> = [
    ["in a join", [["1", "1", "room:1", "phx_join", "die"]]],
    ["in an event", [["1", "1", "room:1", "phx_join", {}], ["1", "2", "room:1", "die", {}]]],
    ["in terminate", [["1", "1", "room:1", "phx_join", {}], ["1", "2", "room:1", "end", {}]]]
  ]
  for (const [name, frames] of cases) {
    it.effect(name, () => {
      const { acceptor, layer, warnings } = start()
      return Effect.gen(function*() {
        const peer = yield* open(yield* acceptor, "user:1\n")
        for (const frame of frames) yield* peer.send(...frame)
        const [line, ...more] = warnings()
        assert.deepStrictEqual(more, [])
        assert.deepInclude(line?.annotations, {
          topic: "room:1",
          socket: "test_socket",
          id: "user:1\\n",
          transport: "test"
        })
        assert.isFalse(Cause.hasInterrupts(line?.cause ?? Cause.empty))
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }

  it.effect("a topic that forges lines does not", () => {
    const { acceptor, layer, warnings } = start()
    return Effect.gen(function*() {
      const peer = yield* open(yield* acceptor)
      const topic = "room:1\n[00:00:00] ERROR forged\u001b[2J"
      yield* peer.send("1", "1", topic, "phx_join", {})
      yield* peer.send("1", "2", topic, "die", {})
      yield* peer.send("1", "3", "nothing\n\u001b[2J", "phx_join", {})
      assert.strictEqual(warnings().length, 2)
      for (const { annotations } of warnings()) {
        assert.isFalse(Object.values(annotations).some((value) => /\p{Cc}/u.test(String(value))))
      }
    }).pipe(Effect.scoped, Effect.provide(layer))
  })
})

it.effect("lines about clients that cannot join, or have joined too much, are not repeated for each attempt", () => {
  const { acceptor, layer, warnings } = node({ channels: [Room], maxChannels: 1 }, RoomLive)
  return Effect.gen(function*() {
    const made = yield* acceptor
    const peer = yield* open(made, "user:1")
    yield* peer.send("1", "1", "room:1", "phx_join", {})
    for (let n = 0; n < 50; n++) {
      yield* peer.send("1", "1", "nothing", "phx_join", {})
      yield* peer.send("1", "1", "room:2", "phx_join", {})
      const other = yield* open(made)
      other.server.receive("garbage")
      yield* ChannelTest.settle
    }
    assert.deepStrictEqual(warnings().map(({ text }) => text).toSorted(), [
      "join of a topic that no channel serves",
      "malformed frame: invalid_json",
      "too many channels joined"
    ])
    for (const { annotations } of warnings().slice(0, 2)) {
      assert.deepInclude(annotations, { socket: "test_socket", id: "user:1", transport: "test" })
    }
  }).pipe(Effect.scoped, Effect.provide(layer))
})

it.effect("topics that a client makes up do not make many lines of one fault", () => {
  const Lossy = Channel.make("lossy:*", {
    lossy: {
      moved: () => {
        throw new Error("no key")
      }
    }
  })
  const live = Lossy.layer((lossy) =>
    Effect.succeed({ handleIn: (event, payload) => Effect.as(lossy.broadcast(event, payload), Channel.noReply) })
  )
  const { acceptor, layer, warnings } = node({ channels: [Lossy], maxChannels: 1000, maxJoinRate: false }, live)
  return Effect.gen(function*() {
    const made = yield* acceptor
    const peer = yield* open(made)
    const own = yield* open(made, "own", { ...Serializer.v2, name: "own", fastlane: () => refused })
    for (let n = 0; n < 200; n++) {
      yield* peer.send("1", "1", `lossy:${n}`, "phx_join", {})
      yield* own.send("1", "1", `lossy:${n}`, "phx_join", {})
      yield* peer.send("1", "2", `lossy:${n}`, "moved", {})
    }
    assert.deepStrictEqual(warnings().map(({ text }) => text).toSorted(), [
      "deliver of the application has thrown",
      "lossy of the application has thrown"
    ])
    for (const { annotations } of warnings()) assert.strictEqual(annotations["topic"], "lossy:0")
  }).pipe(Effect.scoped, Effect.provide(layer))
})

it.effect("messages that no channel of a room handles are one line, however many members there are", () => {
  const Deaf = Channel.make("deaf:*")
  const { acceptor, layer, warnings } = node({ channels: [Deaf] }, Deaf.layer(() => Effect.succeed({})))
  return Effect.gen(function*() {
    const made = yield* acceptor
    for (let n = 0; n < 50; n++) yield* (yield* open(made)).send("1", "1", "deaf:1", "phx_join", {})
    for (let n = 0; n < 20; n++) yield* PubSub.broadcast("deaf:1", { n })
    yield* ChannelTest.settle
    assert.deepStrictEqual(warnings().map(({ text }) => text), ["channel without handleInfo got a message"])
    assert.deepInclude(warnings()[0]?.annotations, { socket: "test_socket", topic: "deaf:1", times: 1 })
  }).pipe(Effect.scoped, Effect.provide(layer))
})
