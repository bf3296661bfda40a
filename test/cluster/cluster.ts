/** Whole nodes in one process, connected by a network that can be as bad as it likes, on the TestClock, or by an engine. */
import { assert } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Random, Scope } from "effect"
import { TestClock } from "effect/testing"
// @ts-expect-error the package comes without types
import { Presence as AnyPresence } from "phoenix"
import * as Channel from "../../src/Channel.ts"
import * as Presence from "../../src/Presence.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Serializer from "../../src/Serializer.ts"
import * as Socket from "../../src/Socket.ts"
import type { NodeLayer } from "../pubsub/contract.ts"
import { Log } from "../support/log.ts"

/** What phoenix.js makes of the events of a channel. */
interface PhoenixPresence {
  readonly state: Readonly<Record<string, { readonly metas: ReadonlyArray<Presence.Meta> }>>
}

const PhoenixPresence: new(channel: {
  readonly on: (event: string, callback: (payload: unknown) => void) => void
  readonly joinRef: () => string
}) => PhoenixPresence = AnyPresence

export const Online = Presence.make("online")

export const Room = Channel.make("room:*")
const RoomLive = Room.layer((room, payload) => {
  const { key, n } = payload as { readonly key: string; readonly n: number }
  return Effect.as(room.send("after join"), {
    handleInfo: () =>
      Effect.gen(function*() {
        yield* Online.track(room, key, { n, state: "here" })
        yield* room.push("presence_state", yield* Online.list(room))
      }).pipe(Effect.orDie),
    handleIn: (event: string) =>
      Effect.gen(function*() {
        if (event === "crash") return yield* Effect.die(new Error("crash"))
        if (event === "shout") return yield* Effect.as(room.broadcast("shout", { n }), Channel.noReply)
        yield* Online.update(room, key, (meta) => ({ ...meta, state: event }))
        return Channel.noReply
      }).pipe(Effect.orDie)
  })
})

const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

type Services = Layer.Success<ReturnType<typeof live>>

const live = (node: NodeLayer, options: Presence.Options) =>
  UserSocketLive.pipe(
    Layer.provideMerge(RoomLive),
    Layer.provideMerge(Online.layer({}, options)),
    Layer.provideMerge(node)
  )

/** What connects the nodes, and the clock that they run on. */
export interface Fabric {
  /** A node of this name, which nobody else has just now. */
  readonly node: (name: string) => Effect.Effect<NodeLayer>
  /** Nothing comes from this node any more, and nothing reaches it. */
  readonly disconnect: (name: string) => void
  readonly pass: (millis: number) => Effect.Effect<void>
}

export interface Weather {
  /** How many packets of a hundred are lost. */
  readonly loss: number
  /** How many of a hundred arrive twice. */
  readonly doubled: number
  /** The longest that a packet takes, in milliseconds; those that take different times overtake each other. */
  readonly delay: number
}

export const fair: Weather = { loss: 0, doubled: 0, delay: 20 }

/** Carries text, as a real network does: nothing is shared between nodes. */
export class Network implements Fabric {
  weather: Weather = fair
  /** The largest message, in characters. */
  limit = Infinity
  packets = 0
  bytes = 0
  private readonly nodes = new Map<
    string,
    { topics: Set<string>; deliver: (topic: string, message: unknown) => void }
  >()
  private readonly cuts = new Set<string>()

  readonly pass = TestClock.adjust

  readonly node = (name: string): Effect.Effect<NodeLayer> =>
    Effect.succeed(PubSub.layerAdapter((deliver) => this.connect(name, deliver)))

  private connect(node: string, deliver: (topic: string, message: unknown) => void): Effect.Effect<PubSub.Adapter> {
    return Effect.sync(() => {
      const topics = new Set<string>()
      this.nodes.set(node, { topics, deliver })
      return {
        node,
        broadcast: (topic, message) =>
          Effect.suspend(() => {
            const text = JSON.stringify(message)
            return Effect.forEach([...this.nodes.keys()], (to) => this.send(node, to, topic, text), { discard: true })
          }),
        direct: (to, topic, message) => Effect.suspend(() => this.send(node, to, topic, JSON.stringify(message))),
        joined: (topic) => Effect.sync(() => void topics.add(topic)),
        left: (topic) => Effect.sync(() => void topics.delete(topic))
      }
    })
  }

  disconnect(node: string): void {
    this.nodes.delete(node)
  }

  /** One way only. */
  cut(from: string, to: string): void {
    this.cuts.add(`${from} ${to}`)
  }

  heal(): void {
    this.cuts.clear()
  }

  private send(from: string, to: string, topic: string, text: string): Effect.Effect<void, PubSub.BroadcastError> {
    if (text.length > this.limit) {
      return Effect.fail(new PubSub.BroadcastError({ code: "TOO_LARGE", message: `${text.length} characters` }))
    }
    const receiver = this.nodes.get(to)
    if (from === to || !this.nodes.has(from) || receiver === undefined) return Effect.void
    return Effect.gen({ self: this }, function*() {
      const { delay, doubled, loss } = this.weather
      const luck = yield* Random.nextIntBetween(0, 99)
      const copies = luck < loss ? 0 : luck >= 100 - doubled ? 2 : 1
      this.packets++
      this.bytes += text.length
      for (let copy = 0; copy < copies; copy++) {
        yield* Effect.forkDetach(
          Effect.sleep(yield* Random.nextIntBetween(1, delay)).pipe(
            Effect.map(() => {
              if (this.nodes.get(to) !== receiver || this.cuts.has(`${from} ${to}`)) return
              if (receiver.topics.has(topic)) receiver.deliver(topic, JSON.parse(text))
            })
          )
        )
      }
    })
  }
}

/** What tests do with a connection. */
interface Connection {
  readonly receive: (frame: string) => void
  readonly process: { readonly kill: () => void }
}

/** A client that has joined a room, with phoenix.js's own Presence. */
export class Member {
  readonly key: string
  readonly n: number
  readonly topic: string
  state = "here"
  connection: Connection | undefined = undefined
  /** The diffs that have arrived so far. */
  readonly diffs: Array<Presence.Diff> = []
  /** Who has shouted, by `n`. */
  readonly heard: Array<unknown> = []
  /** Whether the client was told who is here. */
  joined = false
  crashed = false
  private readonly presence: PhoenixPresence
  private readonly callbacks = new Map<string, (payload: unknown) => void>()

  constructor(key: string, n: number, topic: string) {
    this.key = key
    this.n = n
    this.topic = topic
    this.presence = new PhoenixPresence({
      on: (event, callback) => void this.callbacks.set(event, callback),
      joinRef: () => "1"
    })
  }

  send(event: string, payload: unknown = {}): void {
    this.connection?.receive(JSON.stringify(["1", "2", this.topic, event, payload]))
  }

  receive(frame: Serializer.Frame): void {
    const [, , , event, payload] = JSON.parse(String(frame))
    if (event === "presence_diff") this.diffs.push(payload)
    else if (event === "presence_state") this.joined = true
    else if (event === "shout") this.heard.push(payload.n)
    else if (event === "phx_error") this.crashed = true
    this.callbacks.get(event)?.(payload)
  }

  /** Who is here, as phoenix.js sees it. */
  get sees(): ReadonlyArray<string> {
    return named(this.presence.state)
  }
}

const step = 10
const patience = 30_000

/** Tries again as time passes, until the assertion holds, or for too long. */
export const eventually = (network: Fabric, assertion: Effect.Effect<unknown>): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (let passed = 0;; passed += step) {
      yield* network.pass(0)
      const exit = yield* Effect.exit(assertion)
      if (Exit.isSuccess(exit)) return
      if (passed >= patience) return yield* exit
      yield* network.pass(step)
    }
  })

const named = (entries: PhoenixPresence["state"]): ReadonlyArray<string> =>
  Object.entries(entries).flatMap(([key, { metas }]) =>
    metas.map(({ n, phx_ref, state }) => `${key} ${String(n)} ${String(state)} ${phx_ref}`)
  ).sort()

/** A node that runs; {@link Cluster.start} makes it. */
export class Node {
  readonly name: string
  readonly members: Array<Member> = []
  private readonly context: Context.Context<Services>
  private readonly scope: Scope.Closeable
  private readonly cluster: Cluster<Fabric>

  constructor(name: string, context: Context.Context<Services>, scope: Scope.Closeable, cluster: Cluster<Fabric>) {
    this.name = name
    this.context = context
    this.scope = scope
    this.cluster = cluster
  }

  run<A, E>(effect: Effect.Effect<A, E, Services | Scope.Scope>): Effect.Effect<A, E> {
    return Effect.provideContext(effect, Context.add(this.context, Scope.Scope, this.scope)).pipe(
      Effect.provide(this.cluster.log.layer)
    )
  }

  /** Lets everything that is ready do what it can do without time passing. */
  private get settle(): Effect.Effect<void> {
    return this.cluster.network.pass(0)
  }

  join(key: string, topic = "room:1"): Effect.Effect<Member> {
    return this.run(
      Effect.gen({ self: this }, function*() {
        const { cluster: { members, network } } = this
        const member = new Member(key, members.length, topic)
        members.push(member)
        const acceptor = yield* Socket.acceptor(UserSocket)
        const transport = { name: "test", send: (frame: Serializer.Frame) => member.receive(frame), close: () => {} }
        member.connection = acceptor.open(transport, Serializer.v2, Socket.accept())
        member.send("phx_join", { key, n: member.n })
        this.members.push(member)
        yield* eventually(network, Effect.sync(() => assert.isTrue(member.joined, `${key} has not joined`)))
        return member
      })
    )
  }

  /** Ends a membership, in one of the ways that it can end. */
  leave(member: Member, how: "leave" | "drop" | "crash" = "leave"): Effect.Effect<void> {
    this.members.splice(this.members.indexOf(member), 1)
    if (how === "leave") member.send("phx_leave")
    else if (how === "drop") member.connection?.process.kill()
    else member.send("crash")
    return this.settle
  }

  update(member: Member, state: string): Effect.Effect<void> {
    member.state = state
    member.send(state)
    return this.settle
  }

  /** Who is here, as the node lists it. */
  list(topic = "room:1"): Effect.Effect<ReadonlyArray<string>> {
    return this.run(Effect.map(Online.list(topic), named))
  }

  /** The keys of {@link list}. */
  keys(topic = "room:1"): Effect.Effect<ReadonlyArray<string>> {
    return this.run(Effect.map(Online.list(topic), (entries) => Object.keys(entries).sort()))
  }

  /** What the node keeps, and for whom. */
  get stats() {
    const { nodes, ...sizes } = Context.get(this.context, Online.handler).tracker.stats()
    return { ...sizes, nodes: [...nodes.keys()].sort(), topics: Context.get(this.context, PubSub.PubSub).topics() }
  }

  /** Shuts down as a node should. */
  stop(): Effect.Effect<void> {
    return Scope.close(this.scope, Exit.void)
  }

  /** Is gone without a word. */
  crash(): Effect.Effect<void> {
    this.cluster.network.disconnect(this.name)
    return Scope.close(this.scope, Exit.void)
  }
}

export class Cluster<F extends Fabric = Network> {
  readonly network: F
  readonly nodes = new Map<string, Node>()
  /** All who have ever joined. */
  readonly members: Array<Member> = []
  readonly log = new Log()
  private readonly options: Presence.Options

  constructor(network: F, options: Presence.Options = {}) {
    this.network = network
    this.options = options
  }

  start(name: string): Effect.Effect<Node> {
    return Effect.gen({ self: this }, function*() {
      const scope = yield* Scope.make()
      // Nodes share nothing, neither layers.
      const memo = Layer.makeMemoMapUnsafe()
      const layer = live(yield* this.network.node(name), this.options).pipe(Layer.provide(this.log.layer))
      const context = yield* Layer.buildWithMemoMap(layer, memo, scope).pipe(Effect.provide(this.log.layer))
      const node = new Node(name, context, scope, this)
      this.nodes.set(name, node)
      return node
    })
  }

  stop(node: Node, how: "stop" | "crash"): Effect.Effect<void> {
    this.nodes.delete(node.name)
    return Effect.andThen(node[how](), Effect.sync(() => this.network.disconnect(node.name)))
  }

  eventually(assertion: Effect.Effect<unknown>): Effect.Effect<void> {
    return eventually(this.network, assertion)
  }

  /** Every node lists all who are here, and so does phoenix.js in every client; of some nodes only, if they are named. */
  assertTruth(topic = "room:1", nodes?: ReadonlyArray<Node>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      const all = nodes ?? [...this.nodes.values()]
      const here = (node: Node) => node.members.filter((member) => member.topic === topic)
      const truth = all.flatMap(here).map(({ key, n, state }) => `${key} ${n} ${state}`).sort()
      for (const node of all) {
        const listed = yield* node.list(topic)
        assert.deepStrictEqual(
          listed.map((line) => line.slice(0, line.lastIndexOf(" "))),
          truth,
          `${node.name} lists what is not true`
        )
        for (const { n, sees } of here(node)) assert.deepStrictEqual(sees, listed, `client ${n} of ${node.name}`)
      }
    })
  }
}

/** A cluster for one test, on a network of its own or another fabric; its nodes end with it. */
export const clusterOn = <F extends Fabric>(
  network: F,
  names: ReadonlyArray<string>,
  options?: Presence.Options
): Effect.Effect<{ readonly cluster: Cluster<F>; readonly nodes: ReadonlyArray<Node> }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const cluster = new Cluster(network, options)
    yield* Effect.addFinalizer(() =>
      Effect.forEach([...cluster.nodes.values()], (node) => cluster.stop(node, "crash"), { discard: true })
    )
    const nodes = yield* Effect.forEach(names, (name) => cluster.start(name))
    return { cluster, nodes }
  })

/** A cluster on the simulated network, whose nodes know each other. */
export const clusterOf = (names: ReadonlyArray<string>, options?: Presence.Options) =>
  Effect.tap(clusterOn(new Network(), names, options), TestClock.adjust("3 seconds"))
