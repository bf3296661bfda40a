import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Logger } from "effect"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"

/** A process that does nothing; the test subscribes for it. */
const idle = (label = "idle") =>
  Process.spawn((_self: Process.Pid<unknown>) => Effect.succeed({ handle: () => Effect.void }), { label })

/** A process that keeps what it is sent. */
const collector = Effect.gen(function*() {
  const received: Array<unknown> = []
  const pid = yield* Process.spawn((_self: Process.Pid<unknown>) =>
    Effect.succeed({ handle: (message: unknown) => Effect.sync(() => void received.push(message)) })
  )
  return { pid, received }
})

const keep = (message: unknown) => message

/** Lets the mailboxes be worked off. */
const settle = Effect.forEach([1, 2, 3], () => Effect.yieldNow, { discard: true })

const log = (pid: Process.Pid, into: Array<unknown>, as: (message: unknown) => unknown = keep): PubSub.Subscriber => ({
  pid,
  deliver: (message) => void into.push(as(message))
})

describe("one node", () => {
  it.effect("a message reaches every subscriber of its topic, and nobody else", () =>
    Effect.gen(function*() {
      const a = yield* collector
      const b = yield* collector
      const other = yield* collector
      yield* PubSub.subscribe(a.pid, "topic", keep)
      yield* PubSub.subscribe(b.pid, "topic", (message) => ({ wrapped: message }))
      yield* PubSub.subscribe(other.pid, "topic:1", keep)
      yield* PubSub.broadcast("topic", "hello")
      yield* settle
      assert.deepStrictEqual(a.received, ["hello"])
      assert.deepStrictEqual(b.received, [{ wrapped: "hello" }])
      assert.deepStrictEqual(other.received, [])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("who subscribes twice gets everything twice, and one unsubscribe ends it all", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const { pid, received } = yield* collector
      yield* PubSub.subscribe(pid, "topic", (message) => `1 ${String(message)}`)
      yield* PubSub.subscribe(pid, "topic", (message) => `2 ${String(message)}`)
      yield* PubSub.subscribe(pid, "other", keep)
      yield* PubSub.broadcast("topic", "x")
      yield* settle
      assert.deepStrictEqual(received, ["1 x", "2 x"])
      yield* PubSub.unsubscribe(pid, "topic")
      yield* PubSub.broadcast("topic", "y")
      yield* PubSub.broadcast("other", "z")
      yield* settle
      assert.deepStrictEqual(received, ["1 x", "2 x", "z"])
      assert.deepStrictEqual(pubsub.topics(), ["other"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("one subscription of several can be ended, more than once", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const { pid, received } = yield* collector
      const first = yield* PubSub.subscribe(pid, "topic", () => "first")
      const second = yield* PubSub.subscribe(pid, "topic", () => "second")
      assert.strictEqual(first.topic, "topic")
      yield* pubsub.unsubscribe(first)
      yield* pubsub.unsubscribe(first)
      assert.strictEqual(pubsub.subscriberCount("topic"), 1)
      yield* PubSub.broadcast("topic", "x")
      yield* settle
      assert.deepStrictEqual(received, ["second"])
      yield* pubsub.unsubscribe(second)
      yield* pubsub.unsubscribe({ topic: "topic" })
      assert.deepStrictEqual(pubsub.topics(), [])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("to unsubscribe looks at no subscription of others, and at no other one of its process", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      let looks = 0
      /** Counts each look at a subscription. */
      const watched = (subscription: PubSub.Subscription) => {
        for (const name of Object.keys(subscription)) {
          let held: unknown = Reflect.get(subscription, name)
          Object.defineProperty(subscription, name, {
            get: () => (looks++, held),
            set: (value: unknown) => {
              held = value
            }
          })
        }
      }
      const own = yield* idle()
      for (let n = 0; n < 500; n++) {
        watched(yield* pubsub.subscribe("topic", log(yield* idle(), [])))
        watched(yield* pubsub.subscribe(`own ${n}`, log(own, [])))
        if (n % 100 === 0) yield* PubSub.subscribe(own, "topic", keep)
      }
      yield* PubSub.broadcast("topic", "x")
      assert.isAtLeast(looks, 500)
      looks = 0
      yield* PubSub.unsubscribe(own, "topic")
      assert.strictEqual(pubsub.subscriberCount("topic"), 500)
      // The links of their neighbours are written.
      assert.isAtMost(looks, 10)
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("to unsubscribe without a subscription does nothing", () =>
    Effect.gen(function*() {
      const a = yield* collector
      const b = yield* collector
      yield* PubSub.subscribe(a.pid, "topic", keep)
      yield* PubSub.unsubscribe(b.pid, "topic")
      yield* PubSub.unsubscribe(b.pid, "nowhere")
      yield* PubSub.broadcast("topic", "x")
      yield* settle
      assert.deepStrictEqual(a.received, ["x"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("broadcastFrom leaves out all subscriptions of the sender, and only those", () =>
    Effect.gen(function*() {
      const a = yield* collector
      const b = yield* collector
      yield* PubSub.subscribe(a.pid, "topic", keep)
      yield* PubSub.subscribe(a.pid, "topic", keep)
      yield* PubSub.subscribe(b.pid, "topic", keep)
      yield* PubSub.broadcastFrom(a.pid, "topic", 1)
      yield* PubSub.localBroadcastFrom(b.pid, "topic", 2)
      yield* PubSub.localBroadcast("topic", 3)
      yield* settle
      assert.deepStrictEqual(a.received, [2, 2, 3, 3])
      assert.deepStrictEqual(b.received, [1, 3])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("a sender that has not subscribed leaves nobody out", () =>
    Effect.gen(function*() {
      const a = yield* collector
      const sender = yield* idle()
      yield* PubSub.subscribe(a.pid, "topic", keep)
      yield* PubSub.broadcastFrom(sender, "topic", 1)
      yield* settle
      assert.deepStrictEqual(a.received, [1])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("directBroadcast reaches this node by its name, and an unknown node is no error", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const { pid, received } = yield* collector
      yield* PubSub.subscribe(pid, "topic", keep)
      yield* PubSub.directBroadcast(pubsub.node, "topic", "here")
      yield* PubSub.directBroadcast("nowhere", "topic", "lost")
      yield* settle
      assert.deepStrictEqual(received, ["here"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("a broadcast to a topic without subscribers does nothing", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(pubsub.topics(), [])
      assert.strictEqual(pubsub.subscriberCount("topic"), 0)
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("subscribers are told in the order of subscription, whoever left in between", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const order: Array<unknown> = []
      const pids = yield* Effect.forEach([0, 1, 2, 3, 4, 5], () => idle())
      const subscriptions = yield* Effect.forEach(
        pids,
        (pid, index) => pubsub.subscribe("topic", log(pid, order, () => index))
      )
      const end = (index: number) => pubsub.unsubscribe(subscriptions[index] ?? { topic: "" })
      const tell = Effect.andThen(Effect.sync(() => void (order.length = 0)), PubSub.broadcast("topic", 0))
      yield* tell
      assert.deepStrictEqual(order, [0, 1, 2, 3, 4, 5])
      yield* end(0)
      yield* end(3)
      yield* tell
      assert.deepStrictEqual(order, [1, 2, 4, 5])
      yield* end(5)
      yield* pubsub.subscribe("topic", log(pids[0] ?? (yield* idle()), order, () => "again"))
      yield* tell
      assert.deepStrictEqual(order, [1, 2, 4, "again"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("messages of one sender to one topic keep their order", () =>
    Effect.gen(function*() {
      const { pid, received } = yield* collector
      yield* PubSub.subscribe(pid, "topic", keep)
      const sent = Array.from({ length: 500 }, (_, index) => index)
      yield* Effect.forEach(sent, (n) => PubSub.broadcast("topic", n), { discard: true })
      for (let turn = 0; turn < 20; turn++) yield* Effect.yieldNow
      assert.deepStrictEqual(received, sent)
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("subscriptions end with their process, however it ends, and all counts settle to zero", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const stopped = yield* idle()
      const killed = yield* idle()
      const crashed = yield* Process.spawn((_self: Process.Pid<unknown>) =>
        Effect.succeed({ handle: () => Effect.die("crash") })
      )
      for (const pid of [stopped, killed, crashed]) {
        yield* PubSub.subscribe(pid, "topic", keep)
        yield* PubSub.subscribe(pid, "topic", keep)
        yield* PubSub.subscribe(pid, "other", keep)
      }
      assert.strictEqual(pubsub.subscriberCount("topic"), 6)
      yield* Process.exit(stopped, Process.shutdown())
      assert.strictEqual(pubsub.subscriberCount("topic"), 4)
      yield* Process.exit(killed, Process.killed)
      assert.strictEqual(pubsub.subscriberCount("topic"), 2)
      yield* PubSub.broadcast("topic", "die")
      yield* Process.awaitExit(crashed)
      assert.strictEqual(pubsub.subscriberCount("topic"), 0)
      assert.deepStrictEqual(pubsub.topics(), [])
      assert.deepStrictEqual(yield* Process.stats, { processes: 0, timers: 0 })
    }).pipe(Effect.provide([PubSub.layer, Logger.layer([])])))

  it.effect("a process that unsubscribes is not left with anything to be told of its end", () =>
    Effect.gen(function*() {
      const pid = yield* idle()
      yield* PubSub.subscribe(pid, "a", keep)
      yield* PubSub.subscribe(pid, "b", keep)
      assert.strictEqual((yield* Process.info(pid)).watchers, 2)
      yield* PubSub.unsubscribe(pid, "a")
      yield* PubSub.unsubscribe(pid, "b")
      assert.strictEqual((yield* Process.info(pid)).watchers, 0)
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("a process that has ended cannot subscribe", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const pid = yield* idle()
      yield* Process.exit(pid, Process.killed)
      yield* PubSub.subscribe(pid, "topic", keep)
      assert.deepStrictEqual(pubsub.topics(), [])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("who subscribes while a message is being dispatched gets the next one", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<string> = []
      const pid = yield* idle()
      let subscribed = 0
      const subscribeMore = (name: string): PubSub.Subscriber => ({
        pid,
        deliver: (message) => {
          seen.push(`${name} ${String(message)}`)
          if (++subscribed < 10) Effect.runSync(pubsub.subscribe("topic", subscribeMore(`${name}'`)))
        }
      })
      yield* pubsub.subscribe("topic", subscribeMore("a"))
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(seen, ["a 1"])
      yield* PubSub.broadcast("topic", 2)
      assert.deepStrictEqual(seen, ["a 1", "a 2", "a' 2"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("who unsubscribes others while a message is being dispatched keeps it from them, and from nobody else", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const [a, b, c, d] = yield* Effect.all([idle(), idle(), idle(), idle()])
      yield* pubsub.subscribe("topic", {
        pid: a,
        deliver: () => {
          seen.push("a")
          Effect.runSync(pubsub.unsubscribeAll("topic", a))
          Effect.runSync(pubsub.unsubscribeAll("topic", b))
          Effect.runSync(pubsub.unsubscribeAll("topic", c))
        }
      })
      for (const [pid, name] of [[b, "b"], [c, "c"], [d, "d"]] as const) {
        yield* pubsub.subscribe("topic", log(pid, seen, () => name))
      }
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(seen, ["a", "d"])
      yield* PubSub.broadcast("topic", 2)
      assert.deepStrictEqual(seen, ["a", "d", "d"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("the last one to leave and come back during a dispatch waits for the next message", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const pid = yield* idle()
      const subscriber: PubSub.Subscriber = {
        pid,
        deliver: (message) => {
          seen.push(message)
          Effect.runSync(pubsub.unsubscribeAll("topic", pid))
          Effect.runSync(pubsub.subscribe("topic", subscriber))
        }
      }
      yield* pubsub.subscribe("topic", subscriber)
      yield* PubSub.broadcast("topic", 1)
      yield* PubSub.broadcast("topic", 2)
      assert.deepStrictEqual(seen, [1, 2])
      assert.strictEqual(pubsub.subscriberCount("topic"), 1)
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("a broadcast inside a dispatch reaches everybody before the outer one goes on", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const [a, b] = yield* Effect.all([idle(), idle()])
      yield* pubsub.subscribe("topic", {
        pid: a,
        deliver: (message) => {
          seen.push(`a ${String(message)}`)
          if (message === 1) Effect.runSync(pubsub.localBroadcast("topic", 2))
        }
      })
      yield* pubsub.subscribe("topic", log(b, seen, (message) => `b ${String(message)}`))
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(seen, ["a 1", "a 2", "b 2", "b 1"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("a subscriber that throws crashes its own process; the broadcaster and the others go on", () => {
    const lines: Array<unknown> = []
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const [a, b, c] = yield* Effect.all([idle(), idle(), idle()])
      yield* pubsub.subscribe("topic", log(b, seen))
      for (let n = 0; n < 2; n++) {
        yield* pubsub.subscribe("topic", {
          pid: a,
          deliver: () => {
            throw new Error("boom")
          }
        })
      }
      yield* pubsub.subscribe("topic", log(c, seen))
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(seen, [1, 1])
      assert.deepStrictEqual([a, b, c].map(({ alive }) => alive), [false, true, true])
      assert.strictEqual(pubsub.subscriberCount("topic"), 2)
      yield* PubSub.broadcast("topic", 2)
      assert.deepStrictEqual(seen, [1, 1, 2, 2])
      assert.deepStrictEqual(lines, [[["deliver of the application has thrown"], "Error: boom"]])
    }).pipe(Effect.provide(PubSub.layer), Effect.provide(linesTo(lines)))
  })

  it.effect("wrap that throws crashes the process that subscribes, after what it was sent before; others go on", () => {
    const lines: Array<unknown> = []
    return Effect.gen(function*() {
      const handled: Array<unknown> = []
      const seen: Array<unknown> = []
      const pubsub = yield* PubSub.PubSub
      const pid = yield* Process.spawn((_self: Process.Pid<unknown>) =>
        Effect.succeed({ handle: (message: unknown) => Effect.sync(() => void handled.push(message)) })
      )
      const after = yield* idle()
      yield* PubSub.subscribe(pid, "topic", (message) => {
        if (message === "bad") throw new Error("boom")
        return message
      })
      yield* pubsub.subscribe("topic", log(after, seen))
      for (const message of ["good", "bad", "late", "bad"]) yield* PubSub.broadcast("topic", message)
      const reason = yield* Process.awaitExit(pid)
      assert.strictEqual(reason._tag, "Crash")
      assert.deepStrictEqual(handled, ["good"])
      assert.deepStrictEqual(seen, ["good", "bad", "late", "bad"])
      assert.deepStrictEqual(lines, [[["process crashed"], "Error: boom"]])
      assert.strictEqual(pubsub.subscriberCount("topic"), 1)
    }).pipe(Effect.provide(PubSub.layer), Effect.provide(linesTo(lines)))
  })

  it.effect("wrap that throws at once for thousands of messages crashes a busy process once", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const pid = yield* Process.spawn((_self: Process.Pid<unknown>) =>
        Effect.succeed({ handle: () => Deferred.await(gate) })
      )
      yield* PubSub.subscribe(pid, "topic", (message) => {
        if (message === "bad") throw new Error("boom")
        return message
      })
      yield* PubSub.broadcast("topic", "good")
      yield* settle
      for (let n = 0; n < 5000; n++) yield* PubSub.broadcast("topic", "bad")
      assert.strictEqual((yield* Process.info(pid)).mailboxLength, 1)
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual((yield* Process.awaitExit(pid))._tag, "Crash")
    }).pipe(Effect.provide([PubSub.layer, Logger.layer([])])))

  for (const first of ["refusing", "taking"]) {
    it.effect(`a key that cannot be computed is that of its subscribers, ${first} ones first: others get theirs`, () =>
      Effect.gen(function*() {
        const pubsub = yield* PubSub.PubSub
        const seen: Array<unknown> = []
        const made: Array<unknown> = []
        const keys = first === "refusing" ? ["refuses", "takes"] : ["takes", "refuses"]
        const names = keys.map((name) => ({ name }))
        const pids = yield* Effect.forEach([0, 1, 0, 1, 0], () => idle())
        for (const [index, pid] of pids.entries()) {
          yield* pubsub.subscribe("topic", {
            pid,
            deliver: (message, delivery) =>
              void seen.push(delivery.memo(names[index % 2] ?? { name: "" }, message, ({ name }) => {
                made.push(name)
                if (name === "refuses") throw new Error("cannot be encoded")
                return index
              }))
          })
        }
        yield* PubSub.broadcast("topic", 1)
        assert.lengthOf(made, 2)
        assert.deepStrictEqual(seen, first === "refusing" ? [1, 1] : [0, 0, 0])
        assert.deepStrictEqual(
          pids.map(({ alive }) => alive),
          [0, 1, 2, 3, 4].map((index) => names[index % 2]?.name === "takes")
        )
      }).pipe(Effect.provide([PubSub.layer, Logger.layer([])])))
  }

  it.effect("a message that cannot be encoded for anybody is thrown to its sender, and harms nobody else", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const keys = [{}, {}]
      const pids = yield* Effect.forEach([0, 1, 0, 1], () => idle())
      const made: Array<unknown> = []
      for (const [index, pid] of pids.entries()) {
        yield* pubsub.subscribe("topic", {
          pid,
          deliver: (message, delivery) =>
            delivery.memo(keys[index % 2] ?? {}, message, (key) => {
              made.push(key)
              throw new Error("cannot be encoded")
            })
        })
      }
      assert.isTrue(Exit.hasDies(yield* Effect.exit(PubSub.broadcast("topic", 1))))
      assert.lengthOf(made, 2)
      assert.isTrue(pids.every(({ alive }) => alive))
    }).pipe(Effect.provide([PubSub.layer, Logger.layer([])])))

  it.effect("ends those subscriptions of a process that are meant, of many", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const [a, b] = yield* Effect.all([idle(), idle()])
      const subscriptions = yield* Effect.forEach(
        ["x", "x", "y", "x", "z"],
        (topic) => pubsub.subscribe(topic, log(a, seen))
      )
      yield* pubsub.subscribe("x", log(b, []))
      assert.strictEqual((yield* Process.info(a)).watchers, 5)
      const [first = { topic: "" }] = subscriptions
      yield* pubsub.unsubscribe(first)
      yield* pubsub.unsubscribe(first)
      assert.strictEqual((yield* Process.info(a)).watchers, 4)
      yield* PubSub.broadcast("x", 1)
      assert.deepStrictEqual(seen, [1, 1])
      yield* PubSub.unsubscribe(a, "x")
      assert.deepStrictEqual([pubsub.subscriberCount("x"), (yield* Process.info(a)).watchers], [1, 2])
      yield* Process.exit(a, Process.killed)
      assert.deepStrictEqual(pubsub.topics(), ["x"])
    }).pipe(Effect.provide(PubSub.layer)))

  it.effect("what a delivery keeps is computed once for each key and message", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const keys = [{ key: "a" }, { key: "b" }, { key: "a2" }]
      const made: Array<string> = []
      const seen: Array<unknown> = []
      const pids = yield* Effect.forEach([0, 1, 2, 0, 1, 2, 0], () => idle())
      yield* Effect.forEach(pids, (pid, index) =>
        pubsub.subscribe("topic", {
          pid,
          deliver: (message, delivery) => {
            const key = keys[index % 3] ?? keys
            seen.push(delivery.memo(key, message, (key, message) => {
              made.push(`${JSON.stringify(key)} ${String(message)}`)
              return undefined
            }))
          }
        }))
      yield* PubSub.broadcast("topic", 1)
      assert.deepStrictEqual(made, ["{\"key\":\"a\"} 1", "{\"key\":\"b\"} 1", "{\"key\":\"a2\"} 1"])
      yield* PubSub.broadcast("topic", 2)
      assert.strictEqual(made.length, 6)
      assert.strictEqual(seen.length, 14)
    }).pipe(Effect.provide(PubSub.layer)))
})

/** Keeps lines of the log, with their causes. */
const linesTo = (lines: Array<unknown>) =>
  Logger.layer([Logger.make(({ cause, message }) => void lines.push([message, String(Cause.squash(cause))]))])

// --- the adapter contract ---------------------------------------------------------------------------------------------

interface Fake {
  readonly calls: Array<string>
  /** What comes from other nodes. */
  deliver: (topic: string, message: unknown) => void
  /** By topic: what `joined` waits for. */
  readonly gates: Map<string, Effect.Effect<void>>
  error: PubSub.BroadcastError | undefined
}

const makeFake = (): Fake => ({ calls: [], deliver: () => {}, gates: new Map(), error: undefined })

const layerFake = (fake: Fake) =>
  PubSub.layerAdapter((deliver) =>
    Effect.sync(() => {
      fake.deliver = deliver
      const call = (name: string) => Effect.sync(() => void fake.calls.push(name))
      return {
        node: "a",
        broadcast: (topic, message) =>
          Effect.suspend(() =>
            fake.error === undefined ? call(`broadcast ${topic} ${String(message)}`) : Effect.fail(fake.error)
          ),
        direct: (node, topic, message) => call(`direct ${node} ${topic} ${String(message)}`),
        joined: (topic) =>
          call(`joining ${topic}`).pipe(
            Effect.andThen(fake.gates.get(topic) ?? Effect.void),
            Effect.andThen(call(`joined ${topic}`))
          ),
        left: (topic) =>
          call(`leaving ${topic}`).pipe(
            Effect.andThen(fake.gates.get(`left ${topic}`) ?? Effect.void),
            Effect.andThen(call(`left ${topic}`))
          )
      }
    })
  )

describe("the adapter", () => {
  it.effect("gets each broadcast before the subscribers of this node do", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      assert.strictEqual(pubsub.node, "a")
      const pid = yield* idle()
      yield* pubsub.subscribe("topic", { pid, deliver: (message) => void fake.calls.push(`local ${String(message)}`) })
      fake.calls.length = 0
      yield* PubSub.broadcast("topic", 1)
      yield* PubSub.broadcastFrom(pid, "topic", 2)
      yield* PubSub.localBroadcast("topic", 3)
      yield* PubSub.directBroadcast("b", "topic", 4)
      yield* PubSub.directBroadcast("a", "topic", 5)
      assert.deepStrictEqual(fake.calls, [
        "broadcast topic 1",
        "local 1",
        "broadcast topic 2",
        "local 3",
        "direct b topic 4",
        "local 5"
      ])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("that cannot broadcast keeps the message from the subscribers of this node too", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const seen: Array<unknown> = []
      const pid = yield* idle()
      yield* pubsub.subscribe("topic", log(pid, seen))
      fake.error = new PubSub.BroadcastError({ code: "UNAVAILABLE", message: "the engine is gone" })
      assert.strictEqual((yield* Effect.flip(PubSub.broadcast("topic", 1))).code, "UNAVAILABLE")
      assert.strictEqual((yield* Effect.flip(PubSub.broadcastFrom(pid, "topic", 1))).code, "UNAVAILABLE")
      assert.deepStrictEqual(seen, [])
      yield* PubSub.localBroadcast("topic", 2)
      assert.deepStrictEqual(seen, [2])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("hands in messages of other nodes, which go to all subscribers of this one and no further", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const { pid, received } = yield* collector
      yield* PubSub.subscribe(pid, "topic", keep)
      fake.calls.length = 0
      fake.deliver("topic", 1)
      fake.deliver("nobody", 2)
      fake.deliver("topic", 3)
      yield* settle
      assert.deepStrictEqual(received, [1, 3])
      assert.deepStrictEqual(fake.calls, [])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("is not harmed by a subscriber that throws at a message of another node", () => {
    const fake = makeFake()
    const logged: Array<unknown> = []
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const pid = yield* idle()
      yield* pubsub.subscribe("topic", {
        pid,
        deliver: () => {
          throw new Error("cannot be encoded")
        }
      })
      fake.deliver("topic", 1)
      assert.strictEqual(logged.length, 1)
    }).pipe(
      Effect.provide(layerFake(fake)),
      Effect.provide(Logger.layer([Logger.make(({ message }) => void logged.push(message))]))
    )
  })

  it.effect("may hand in messages before it is made", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* PubSub.PubSub).node, "eager")
    }).pipe(Effect.provide(PubSub.layerAdapter((deliver) =>
      Effect.sync(() => {
        deliver("topic", 1)
        const nothing = () => Effect.void
        return { node: "eager", broadcast: nothing, direct: nothing, joined: nothing, left: nothing }
      })
    ))))

  it.effect("is told of the first subscriber of a topic and of the last, and not of those between", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const [a, b] = yield* Effect.all([idle(), idle()])
      yield* PubSub.subscribe(a, "topic", keep)
      yield* PubSub.subscribe(b, "topic", keep)
      yield* PubSub.subscribe(b, "topic", keep)
      yield* PubSub.unsubscribe(a, "topic")
      yield* settle
      assert.deepStrictEqual(fake.calls, ["joining topic", "joined topic"])
      yield* Process.exit(b, Process.shutdown())
      yield* settle
      assert.deepStrictEqual(fake.calls, ["joining topic", "joined topic", "leaving topic", "left topic"])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("decides when a subscription is complete, for all who wait; local messages come before", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      fake.gates.set("topic", Deferred.await(gate))
      const a = yield* collector
      const b = yield* collector
      const first = yield* Effect.forkChild(PubSub.subscribe(a.pid, "topic", keep), { startImmediately: true })
      const second = yield* Effect.forkChild(PubSub.subscribe(b.pid, "topic", keep), { startImmediately: true })
      yield* settle
      assert.isUndefined(first.pollUnsafe())
      assert.isUndefined(second.pollUnsafe())
      yield* PubSub.broadcast("topic", 1)
      yield* settle
      assert.deepStrictEqual(a.received, [1])
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.deepStrictEqual(fake.calls, ["joining topic", "broadcast topic 1", "joined topic"])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("is told of one topic in order, never of two changes at a time; other topics do not wait", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      fake.gates.set("topic", Deferred.await(gate))
      const [a, b] = yield* Effect.all([idle(), idle()])
      const first = yield* Effect.forkChild(PubSub.subscribe(a, "topic", keep), { startImmediately: true })
      yield* settle
      yield* PubSub.unsubscribe(a, "topic")
      const second = yield* Effect.forkChild(PubSub.subscribe(b, "topic", keep), { startImmediately: true })
      yield* PubSub.subscribe(a, "other", keep)
      yield* settle
      assert.deepStrictEqual(fake.calls, ["joining topic", "joining other", "joined other"])
      assert.isUndefined(second.pollUnsafe())
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      assert.deepStrictEqual(fake.calls.slice(3), [
        "joined topic",
        "leaving topic",
        "left topic",
        "joining topic",
        "joined topic"
      ])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("that hangs has at most one leave and one join of a topic waiting, however often clients come and go", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      fake.gates.set("topic", Deferred.await(gate))
      const pid = yield* idle()
      const joins: Array<Fiber.Fiber<unknown>> = []
      for (let n = 0; n < 100; n++) {
        joins.push(yield* Effect.forkChild(PubSub.subscribe(pid, "topic", keep), { startImmediately: true }))
        yield* PubSub.unsubscribe(pid, "topic")
      }
      joins.push(yield* Effect.forkChild(PubSub.subscribe(pid, "topic", keep), { startImmediately: true }))
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.joinAll(joins)
      yield* settle
      assert.deepStrictEqual(fake.calls, [
        "joining topic",
        "joined topic",
        "leaving topic",
        "left topic",
        "joining topic",
        "joined topic"
      ])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("who gives up waiting for the cluster is not left subscribed", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const gate = yield* Deferred.make<void>()
      fake.gates.set("topic", Deferred.await(gate))
      const pid = yield* idle()
      const waiting = yield* Effect.forkChild(PubSub.subscribe(pid, "topic", keep), { startImmediately: true })
      yield* settle
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(pubsub.subscriberCount("topic"), 0)
      yield* Deferred.succeed(gate, undefined)
      yield* settle
      assert.deepStrictEqual(fake.calls, ["joining topic", "joined topic", "leaving topic", "left topic"])
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("that dies while a topic is joined fails those who wait, and is still told that the topic is left", () => {
    const fake = makeFake()
    return Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const gate = yield* Deferred.make<void>()
      fake.gates.set("topic", Effect.andThen(Deferred.await(gate), Effect.die("no memory")))
      const pid = yield* idle()
      const waiting = yield* Effect.forkChild(Effect.exit(PubSub.subscribe(pid, "topic", keep)), {
        startImmediately: true
      })
      yield* settle
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(Exit.hasDies(yield* Fiber.join(waiting)))
      yield* settle
      assert.strictEqual(pubsub.subscriberCount("topic"), 0)
      assert.deepStrictEqual(fake.calls, ["joining topic", "leaving topic", "left topic"])
      fake.gates.clear()
      yield* PubSub.subscribe(pid, "topic", keep)
      assert.strictEqual(pubsub.subscriberCount("topic"), 1)
    }).pipe(Effect.provide(layerFake(fake)))
  })

  it.effect("is made with the services of its Layer, and its error is the Layer's", () =>
    Effect.gen(function*() {
      const failing = PubSub.layerAdapter(() => Effect.fail("no engine" as const))
      assert.strictEqual(yield* Effect.flip(Layer.build(failing)), "no engine")
    }))
})
