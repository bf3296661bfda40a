/** What every PubSub promises, whatever connects its nodes. The clock is the real one: engines have none but that. */
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import * as Message from "../../src/Message.ts"
import * as Process from "../../src/Process.ts"
import * as PubSub from "../../src/PubSub.ts"

export type NodeLayer = Layer.Layer<PubSub.PubSub | Process.System>

/** One node of a cluster. */
export interface Node {
  readonly pubsub: PubSub.PubSub["Service"]
  readonly context: Context.Context<PubSub.PubSub | Process.System>
  /** Shuts it down before its Scope does. */
  readonly stop: Effect.Effect<void>
}

/** What a subscriber has got, and a way to wait for it. */
export interface Inbox {
  readonly pid: Process.Pid<unknown>
  readonly received: Array<unknown>
  /** Waits until so much has come. */
  readonly atLeast: (count: number) => Effect.Effect<ReadonlyArray<unknown>>
}

/** Builds a node whose life is the Scope. */
export const startNode = <E>(
  layer: Layer.Layer<PubSub.PubSub | Process.System, E>
): Effect.Effect<Node, E, Scope.Scope> =>
  Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Scope.Scope)
    const context = yield* Scope.provide(Layer.build(layer), scope)
    return { context, pubsub: Context.get(context, PubSub.PubSub), stop: Scope.close(scope, Exit.void) }
  })

const idle = Process.spawn((_self: Process.Pid<unknown>) => Effect.succeed({ handle: () => Effect.void }))

/** Subscribes a new process of a node. */
export const subscribe = (node: Node, topic: string): Effect.Effect<Inbox> =>
  Effect.gen(function*() {
    const pid = yield* idle
    const received: Array<unknown> = []
    const waiting = new Set<() => void>()
    yield* node.pubsub.subscribe(topic, {
      pid,
      deliver: (message) => {
        received.push(message)
        for (const look of waiting) look()
      }
    })
    const atLeast = (count: number) =>
      Effect.callback<ReadonlyArray<unknown>>((resume) => {
        const look = () => {
          if (received.length < count) return
          waiting.delete(look)
          resume(Effect.succeed(received))
        }
        waiting.add(look)
        look()
        return Effect.sync(() => void waiting.delete(look))
      })
    return { pid, received, atLeast }
  }).pipe(Effect.provide(node.context))

/** What has been sent before has come, as far as it comes at all: a last message passes nobody. */
export const drain = (from: Node, topic: string, ...inboxes: ReadonlyArray<Inbox>) =>
  Effect.gen(function*() {
    yield* from.pubsub.broadcast(topic, "last")
    for (const inbox of inboxes) {
      while (inbox.received.at(-1) !== "last") yield* inbox.atLeast(inbox.received.length + 1)
      inbox.received.pop()
    }
  })

/** Topics that clients may make up. */
export const strangeTopics: ReadonlyArray<string> = [
  "",
  " ",
  "room:*",
  "room:>",
  "a.b..c.",
  "*",
  ">",
  "line\r\nPUB x 1\r\n",
  "nul\u0000",
  "%2A",
  "Straße 東京 🚂",
  "lone \ud800",
  "lone \udc00",
  "__proto__",
  "x".repeat(5000),
  "é".repeat(300)
]

/** Messages that are the same at the other end. */
const messages: ReadonlyArray<unknown> = [
  null,
  0,
  "text 🚂 \ud800",
  [],
  {},
  JSON.parse("{\"__proto__\":{\"polluted\":true},\"constructor\":1}"),
  Message.broadcast("room:1", "shout", { body: "hello", nested: [1, { deep: null }] }),
  Message.broadcast("room:1", "bytes", new Uint8Array([0, 1, 255])),
  new Uint8Array(),
  new Uint8Array(100_000).fill(7),
  [null, new Uint8Array([1]), { "a.b": [new Uint8Array([2]), null], length: 0 }, new Uint8Array([3])],
  JSON.parse("{\"plain\":null}")
]

/** The same body for all. `nodes` starts so many of one cluster. */
export const contract = <E>(
  name: string,
  nodes: (count: number) => Effect.Effect<ReadonlyArray<Node>, E, Scope.Scope>,
  options: { readonly skip?: boolean; readonly alone?: boolean; readonly after?: () => Promise<unknown> } = {}
): void => {
  describe.skipIf(options.skip === true)(name, () => {
    afterAll(options.after ?? (() => {}))

    const two = Effect.gen(function*() {
      const [a, b] = yield* nodes(options.alone === true ? 1 : 2)
      if (a === undefined) return assert.fail("no node")
      return [a, b ?? a] as const
    })
    /** For what takes several nodes. */
    const together = options.alone === true ? it.live.skip : it.live

    it.live("a broadcast reaches the subscribers of its topic on every node, once, and nobody else", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const here = yield* subscribe(a, "room:1")
        const there = yield* subscribe(b, "room:1")
        const other = yield* subscribe(b, "room:2")
        yield* a.pubsub.broadcast("room:1", "hello")
        yield* drain(a, "room:1", here, there)
        yield* drain(a, "room:2", other)
        assert.deepStrictEqual([here.received, there.received, other.received], [["hello"], ["hello"], []])
      }))

    it.live("broadcastFrom leaves out the sender, and nobody on other nodes", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const here = yield* subscribe(a, "room:1")
        const there = yield* subscribe(b, "room:1")
        yield* a.pubsub.broadcast("room:1", 1, here.pid)
        yield* drain(a, "room:1", here, there)
        assert.deepStrictEqual([here.received, there.received], [[], [1]])
      }))

    it.live("localBroadcast stays on its node, directBroadcast goes to one, and an unknown node is no error", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const here = yield* subscribe(a, "room:1")
        const there = yield* subscribe(b, "room:1")
        yield* a.pubsub.localBroadcast("room:1", "local")
        yield* a.pubsub.directBroadcast(b.pubsub.node, "room:1", "direct")
        yield* a.pubsub.directBroadcast(a.pubsub.node, "room:1", "self")
        yield* a.pubsub.directBroadcast("nobody > * .", "room:1", "lost")
        yield* there.atLeast(options.alone === true ? 3 : 1)
        yield* drain(a, "room:1", here, there)
        const all = ["local", "direct", "self"]
        assert.deepStrictEqual(
          [here.received, there.received],
          options.alone === true ? [all, all] : [["local", "self"], ["direct"]]
        )
      }))

    it.live("messages of one sender to one topic keep their order", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const there = yield* subscribe(b, "room:1")
        const sent = Array.from({ length: 500 }, (_, index) => index)
        for (const n of sent) {
          yield* n % 2 === 0
            ? a.pubsub.broadcast("room:1", n)
            : a.pubsub.broadcast("room:1", n, there.pid)
        }
        const expected = options.alone === true ? sent.filter((n) => n % 2 === 0) : sent
        assert.deepStrictEqual(yield* there.atLeast(expected.length), expected)
      }))

    it.live("a subscription is live across the cluster when subscribe is complete, however often it is renewed", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        for (let round = 0; round < 20; round++) {
          const there = yield* subscribe(b, "room:1")
          yield* a.pubsub.broadcast("room:1", round)
          assert.deepStrictEqual(yield* there.atLeast(1), [round])
          yield* b.pubsub.unsubscribeAll("room:1", there.pid)
        }
      }))

    it.live("who has unsubscribed gets nothing more", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const there = yield* subscribe(b, "room:1")
        const witness = yield* subscribe(b, "room:2")
        yield* b.pubsub.unsubscribeAll("room:1", there.pid)
        yield* a.pubsub.broadcast("room:1", "late")
        yield* drain(a, "room:2", witness)
        assert.deepStrictEqual(there.received, [])
        assert.deepStrictEqual(b.pubsub.topics(), ["room:2"])
      }))

    it.live("messages arrive as they were sent, with binary data anywhere", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const there = yield* subscribe(b, "room:1")
        for (const message of messages) yield* a.pubsub.broadcast("room:1", message)
        assert.deepStrictEqual(yield* there.atLeast(messages.length), messages)
        assert.notProperty({}, "polluted")
        assert.isTrue(Object.hasOwn(there.received[5] ?? {}, "__proto__"))
      }))

    it.live("a topic may be any string, and no two are mixed up", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const inboxes = yield* Effect.forEach(strangeTopics, (topic) => subscribe(b, topic))
        for (const [index, topic] of strangeTopics.entries()) yield* a.pubsub.broadcast(topic, index)
        for (const [index, inbox] of inboxes.entries()) assert.deepStrictEqual(yield* inbox.atLeast(1), [index])
        yield* b.pubsub.unsubscribeAll("lone \ud800", (inboxes[11] ?? assert.fail()).pid)
        yield* a.pubsub.broadcast("lone \udc00", "still")
        yield* (inboxes[12] ?? assert.fail()).atLeast(2)
        assert.deepStrictEqual(inboxes.map(({ received }) => received.length), inboxes.map((_, i) => i === 12 ? 2 : 1))
      }))

    together("nodes hear each other in both directions, each under a name of its own", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        assert.notStrictEqual(a.pubsub.node, b.pubsub.node)
        const here = yield* subscribe(a, "room:1")
        const there = yield* subscribe(b, "room:1")
        yield* b.pubsub.broadcast("room:1", "from b")
        yield* a.pubsub.directBroadcast(b.pubsub.node, "room:1", "to b")
        yield* b.pubsub.directBroadcast(a.pubsub.node, "room:1", "to a")
        assert.deepStrictEqual(yield* here.atLeast(2), ["from b", "to a"])
        assert.deepStrictEqual(yield* there.atLeast(2), ["from b", "to b"])
      }))

    together("the last words of a process whose node shuts down reach the others", () =>
      Effect.gen(function*() {
        const [a, b] = yield* two
        const there = yield* subscribe(b, "room:1")
        const terminate = () => Effect.orDie(a.pubsub.broadcast("room:1", "bye"))
        yield* Effect.provide(
          Process.spawn((_self: Process.Pid<unknown>) => Effect.succeed({ handle: () => Effect.void, terminate })),
          a.context
        )
        yield* a.stop
        assert.deepStrictEqual(yield* there.atLeast(1), ["bye"])
      }))

    it.live("is connected", () =>
      Effect.gen(function*() {
        const [a] = yield* two
        assert.strictEqual(yield* Effect.provide(PubSub.status, a.context), "connected")
      }))
  })
}
