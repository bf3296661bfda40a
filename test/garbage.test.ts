/** Functions of the application that return, throw or do anything but what they are meant to: only their owner has to pay. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Serializer from "../src/Serializer.ts"
import * as Supervisor from "../src/Supervisor.ts"
import { node, ok, open, type Peer } from "./support/connection.ts"

/** Faults that a function of the application may come up with, by name; each fits every type. */
const faults: ReadonlyArray<readonly [name: string, fault: () => never]> = [
  ["throws", () => {
    throw new Error("thrown")
  }],
  ["throws nothing", () => {
    throw undefined
  }],
  ["returns null", () => null as never],
  ["returns a number", () => 5 as never],
  ["returns undefined", () => undefined as never],
  ["returns a promise", () => Promise.resolve({}) as never],
  // Nobody handles the rejection, which ends the process.
  ["returns a promise that is rejected", () => Promise.reject(new Error("rejected")) as never],
  ["dies", () => Effect.die(new Error("died")) as never],
  ["interrupts itself", () => Effect.interrupt as never],
  ["succeeds with a promise", () => Effect.succeed(Promise.resolve()) as never],
  ["never ends", () => Effect.never as never]
]

const heartbeat = (peer: Peer) => peer.send(null, "beat", "phoenix", "heartbeat", {})

const isBeat = (frame: unknown): boolean => Object(frame)[1] === "beat"

describe("a channel's", () => {
  const Room = Channel.make("room:*", { intercept: ["intercepted"] })
  const Typed = Channel.make("typed:*", {
    incoming: { act: { payload: Schema.Unknown, success: Schema.Unknown } },
    pubsubTopic: (topic) => topic
  })
  const Custom = Channel.make("custom:*")
  const Witness = Channel.make("witness")

  /** The handlers of a channel, one of them at fault. */
  const handlers = (name: string, fault: () => never) => ({
    ...name === "join" ? {} : { handleInfo: () => Effect.void, handleIn: () => Effect.succeed(Channel.noReply) },
    [name]: name === "handleOut" ? { intercepted: fault } : fault
  })

  const uses: ReadonlyArray<
    readonly [
      name: string,
      use: (peer: Peer, topic: string) => Effect.Effect<unknown, unknown, PubSub.PubSub | Process.System>
    ]
  > = [
    ["join", () => Effect.void],
    ["handleIn", (peer, topic) => peer.send("1", "2", topic, "act", {})],
    ["handleOut", (_, topic) => Endpoint.broadcast(topic, "intercepted", {})],
    ["handleInfo", (_, topic) => PubSub.broadcast(topic, "info")],
    ["handleDown", () => Effect.sync(() => watched?.kill())],
    ["handleExit", (peer) =>
      Effect.sync(() => {
        for (const { process, topic } of peer.server.channels) {
          if (topic !== "witness") process.signal(Process.shutdown("told"))
        }
      })],
    ["terminate", (peer, topic) => peer.send("1", "3", topic, "phx_leave", {})]
  ]

  /** A process that channels with `handleDown` watch. */
  let watched: ReturnType<typeof Process.fromPid> | undefined
  const watch = Effect.gen(function*() {
    const other = yield* Process.spawn(() => Effect.succeed({ handle: () => Effect.void }))
    watched = Process.fromPid(other)
    yield* Process.monitor(other)
  })

  for (
    const [kind, pattern] of [["channel", "room:1"], ["channel with a contract", "typed:1"], [
      "custom channel",
      "custom:1"
    ]] as const
  ) {
    for (const [name, use] of uses) {
      for (const [what, fault] of faults) {
        it.effect(`${name} that ${what} costs nobody else: ${kind}`, () => {
          const own = name === "handleIn" && kind === "channel with a contract"
            ? { handleIn: { act: fault } }
            : handlers(name, fault)
          const join = (): Effect.Effect<never> =>
            name === "join" ? fault() : Effect.as(name === "handleDown" ? watch : Effect.void, own) as never
          const channels = Layer.mergeAll(
            Room.layer(join),
            Typed.layer(join),
            Custom.layerCustom(join),
            Witness.layer(() => Effect.succeed({}))
          )
          const { acceptor, layer, lines } = node({ channels: [Room, Typed, Custom, Witness] }, channels)
          return Effect.gen(function*() {
            const made = yield* acceptor
            // A handler that never ends has its shutdown time when the node stops.
            yield* Effect.addFinalizer(() =>
              Effect.forkDetach(Effect.repeat(TestClock.adjust("10 seconds"), { times: 20 }))
            )
            const witness = yield* open(made, "witness")
            yield* witness.send("1", "1", "witness", "phx_join", {})
            const culprit = yield* open(made, "culprit")
            yield* culprit.send("9", "9", "witness", "phx_join", {})
            yield* culprit.send("1", "1", pattern, "phx_join", {})
            yield* use(culprit, pattern)
            yield* ChannelTest.settle
            // The connection of the culprit is alive, and its other channel.
            assert.deepStrictEqual(culprit.codes, [])
            assert.isTrue((yield* heartbeat(culprit)).some(isBeat))
            yield* Endpoint.broadcast("witness", "said", {})
            yield* Endpoint.broadcast(pattern, "intercepted", {})
            for (const peer of [witness, culprit]) {
              assert.isTrue((yield* peer.send()).some((frame) => Object(frame)[3] === "said"))
            }
            // Its owner is named in each line of the fault.
            for (const { annotations, text } of lines.filter(({ level }) => level === "Error")) {
              assert.strictEqual(text, "process crashed")
              assert.deepInclude(annotations, { topic: pattern, id: "culprit" })
            }
            assert.isAtMost(lines.filter(({ level }) => level === "Error").length, 2)
          }).pipe(Effect.scoped, Effect.provide(layer))
        })
      }
    }
  }
})

describe("a process", () => {
  const starts: ReadonlyArray<readonly [name: string, start: () => never]> = [
    ...faults.filter(([what]) => what !== "never ends"),
    ["succeeds with nothing", () => Effect.void as never],
    ["succeeds with no handler", () => Effect.succeed({}) as never],
    ["succeeds with a handler that is none", () => Effect.succeed({ handle: 5 }) as never],
    ["succeeds with a getter that throws", () =>
      Effect.succeed({
        get handle() {
          throw new Error("thrown")
        }
      }) as never]
  ]
  for (const [what, start] of starts) {
    it.effect(`whose start ${what} does not start, and its supervisor says so`, () =>
      Effect.gen(function*() {
        const alone = yield* Effect.exit(Process.spawn(start))
        const child = Supervisor.child({ id: "child", start })
        const supervised = yield* Effect.exit(Supervisor.start({ children: [child] }))
        assert.deepStrictEqual([alone._tag, supervised._tag], ["Failure", "Failure"])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Process.list, [])
      }).pipe(Effect.provide(Process.System.layer)))
  }

  for (const [what, fault] of faults.filter(([what]) => what !== "never ends" && what !== "succeeds with a promise")) {
    it.effect(`whose handler ${what} ends alone`, () =>
      Effect.gen(function*() {
        const pid = yield* Process.spawn(
          (_self: Process.Pid<string>) => Effect.succeed({ handle: fault, terminate: fault }),
          { annotate: fault }
        )
        yield* Process.send(pid, "message")
        assert.strictEqual((yield* Process.awaitExit(pid))._tag, "Crash")
      }).pipe(Effect.provide(Process.System.layer)))
  }
})

/** As `send` of a peer, where the PubSub is not that of tests. */
const say = (peer: Peer, ...frame: ReadonlyArray<unknown>) =>
  Effect.suspend(() => {
    if (frame.length > 0) peer.write(...frame)
    return Effect.map(TestClock.adjust(1), () => peer.received.splice(0))
  })

describe("an adapter", () => {
  for (const [what, fault] of faults.filter(([what]) => what !== "never ends" && !what.startsWith("succeeds"))) {
    it.effect(`that ${what} costs who asks it for something, and no state`, () => {
      let isBroken = true
      const method = () => isBroken ? fault() : Effect.void
      const adapter = PubSub.layerAdapter(() =>
        Effect.succeed({
          node: "here",
          broadcast: method,
          direct: method,
          joined: method,
          left: method,
          status: fault as never
        })
      )
      const Room = Channel.make("room:*")
      const { acceptor, layer } = node({ channels: [Room] }, Room.layer(() => Effect.succeed({})), adapter)
      return Effect.gen(function*() {
        const pubsub = yield* PubSub.PubSub
        const peer = yield* open(yield* acceptor)
        yield* say(peer, "1", "1", "room:1", "phx_join", {})
        assert.strictEqual((yield* Effect.exit(PubSub.broadcast("room:1", "x")))._tag, "Failure")
        yield* Effect.exit(PubSub.status)
        assert.isTrue((yield* say(peer, null, "beat", "phoenix", "heartbeat", {})).some(isBeat))
        assert.deepStrictEqual(pubsub.topics(), [])
        isBroken = false
        yield* say(peer, "2", "2", "room:1", "phx_join", {})
        yield* Endpoint.broadcast("room:1", "said", {})
        assert.deepStrictEqual(yield* say(peer), [[null, null, "room:1", "said", {}]])
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  }
})

describe("a format of the application", () => {
  for (const method of ["decode", "encode", "fastlane"] as const) {
    for (const [what, fault] of faults) {
      it.effect(`whose ${method} ${what} costs its own connections`, () => {
        const Room = Channel.make("room:*")
        const broken = { ...Serializer.v2, name: "own", [method]: fault }
        const serializers: Serializer.Serializers = [[broken, "~> 9.0.0"], [Serializer.v2, "~> 2.0.0"]]
        const { acceptor, layer, warnings } = node(
          { channels: [Room], serializers },
          Room.layer(() => Effect.succeed({}))
        )
        return Effect.gen(function*() {
          const made = yield* acceptor
          const culprit = yield* open(made, "culprit", made.serializers[0]?.[0])
          yield* culprit.send("1", "1", "room:1", "phx_join", {})
          const witness = yield* open(made, "witness")
          yield* witness.send("1", "1", "room:1", "phx_join", {})
          yield* Endpoint.broadcast("room:1", "said", {})
          assert.deepStrictEqual(yield* witness.send(), [[null, null, "room:1", "said", {}]])
          assert.isAtLeast(warnings().length, 1)
          for (const { annotations } of warnings()) assert.match(JSON.stringify(annotations), /room:1|culprit/)
        }).pipe(Effect.scoped, Effect.provide(layer))
      })
    }
  }
})

describe("a Tracer", () => {
  const thrower = (): never => {
    throw new Error("no span")
  }
  const broken: ReadonlyArray<readonly [what: string, span: (span: Tracer.Span) => Tracer.Span]> = [
    ["makes no span", thrower],
    ["makes nothing", () => undefined as never],
    ["makes spans without methods", () => ({}) as never],
    ["cannot take attributes", (span) => Object.assign(span, { attribute: thrower })],
    ["cannot end spans", (span) => Object.assign(span, { end: thrower })]
  ]
  for (const [what, spoil] of broken) {
    it.effect(`that ${what} costs nobody a connection, and is said once`, () => {
      const tracer = Tracer.make({ span: (options) => spoil(new Tracer.NativeSpan(options)) })
      const Room = Channel.make("room:*")
      const handleIn = (_: string, payload: unknown) => Effect.succeed(Channel.ok(payload))
      const { acceptor, layer, warnings } = node({ channels: [Room] }, Room.layer(() => Effect.succeed({ handleIn })))
      return Effect.gen(function*() {
        const peer = yield* open(yield* acceptor)
        assert.deepStrictEqual(yield* peer.send("1", "1", "room:1", "phx_join", {}), [ok("1", "1", "room:1")])
        for (let n = 0; n < 20; n++) {
          assert.deepStrictEqual(yield* peer.send("1", "2", "room:1", "echo", { n }), [ok("1", "2", "room:1", { n })])
        }
        yield* Endpoint.broadcast("room:1", "said", {})
        assert.deepStrictEqual(yield* peer.send(), [[null, null, "room:1", "said", {}]])
        assert.strictEqual(warnings().length, 1)
        assert.match(warnings()[0]?.text ?? "", /^the Tracer of the application has thrown/)
      }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(layer, Layer.succeed(Tracer.Tracer, tracer))))
    })
  }
})
