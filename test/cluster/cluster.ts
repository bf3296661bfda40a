/** Whole nodes in one process, on the TestClock, connected by a network that can be as bad as it likes. */
import { assert } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Logger, Random, Scope } from "effect"
import { TestClock } from "effect/testing"
// @ts-expect-error the package comes without types
import { Presence as AnyPresence } from "phoenix"
import * as Channel from "../../src/Channel.ts"
import * as Presence from "../../src/Presence.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Serializer from "../../src/Serializer.ts"
import * as Socket from "../../src/Socket.ts"

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
        yield* Online.update(room, key, (meta) => ({ ...meta, state: event }))
        return Channel.noReply
      }).pipe(Effect.orDie)
  })
})

const UserSocket = Socket.make("user_socket", { channels: [Room] })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

type Services = Layer.Success<ReturnType<typeof live>>

const live = (name: string, network: Network, options: Presence.Options) =>
  UserSocketLive.pipe(
    Layer.provideMerge(RoomLive),
    Layer.provideMerge(Online.layer({}, options)),
    Layer.provideMerge(PubSub.layerAdapter((deliver) => network.connect(name, deliver)))
  )

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
export class Network {
  weather: Weather = fair
  packets = 0
  members = 0
  bytes = 0
  private readonly nodes = new Map<
    string,
    { topics: Set<string>; deliver: (topic: string, message: unknown) => void }
  >()
  private readonly cuts = new Set<string>()

  readonly connect = (
    node: string,
    deliver: (topic: string, message: unknown) => void
  ): Effect.Effect<PubSub.Adapter> =>
    Effect.sync(() => {
      const topics = new Set<string>()
      this.nodes.set(node, { topics, deliver })
      return {
        node,
        broadcast: (topic, message) =>
          Effect.suspend(() =>
            Effect.forEach([...this.nodes.keys()], (to) => this.send(node, to, topic, message), { discard: true })
          ),
        direct: (to, topic, message) => this.send(node, to, topic, message),
        joined: (topic) => Effect.sync(() => void topics.add(topic)),
        left: (topic) => Effect.sync(() => void topics.delete(topic))
      }
    })

  /** Nothing comes from this node any more, and nothing reaches it. */
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

  private send(from: string, to: string, topic: string, message: unknown): Effect.Effect<void> {
    const text = JSON.stringify(message)
    const receiver = this.nodes.get(to)
    if (from === to || !this.nodes.has(from) || receiver === undefined) return Effect.void
    return Effect.gen({ self: this }, function*() {
      const { delay, doubled, loss } = this.weather
      const luck = yield* Random.nextIntBetween(0, 100)
      const copies = luck < loss ? 0 : luck >= 100 - doubled ? 2 : 1
      this.packets++
      this.bytes += text.length
      for (let copy = 0; copy < copies; copy++) {
        yield* Effect.forkDetach(
          Effect.sleep(yield* Random.nextIntBetween(1, delay + 1)).pipe(
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
  state = "here"
  connection: Connection | undefined = undefined
  /** The diffs that have arrived so far. */
  readonly diffs: Array<Presence.Diff> = []
  private readonly presence: PhoenixPresence
  private readonly callbacks = new Map<string, (payload: unknown) => void>()

  constructor(key: string, n: number) {
    this.key = key
    this.n = n
    this.presence = new PhoenixPresence({
      on: (event, callback) => void this.callbacks.set(event, callback),
      joinRef: () => "1"
    })
  }

  send(topic: string, event: string, payload: unknown = {}): void {
    this.connection?.receive(JSON.stringify(["1", "2", topic, event, payload]))
  }

  receive(frame: Serializer.Frame): void {
    const [, , , event, payload] = JSON.parse(String(frame))
    if (event === "presence_diff") this.diffs.push(payload)
    this.callbacks.get(event)?.(payload)
  }

  /** Who is here, as phoenix.js sees it. */
  get sees(): ReadonlyArray<string> {
    return named(this.presence.state)
  }
}

/** Lets everything that is ready do what it can do without time passing. */
export const settle = TestClock.adjust(0)

const named = (entries: PhoenixPresence["state"]): ReadonlyArray<string> =>
  Object.entries(entries).flatMap(([key, { metas }]) =>
    metas.map(({ n, phx_ref, state }) => `${key} ${String(n)} ${String(state)} ${phx_ref}`)
  ).sort()

const silent = Logger.layer([])

/** A node that runs; {@link Cluster.start} makes it. */
export class Node {
  readonly name: string
  readonly members: Array<Member> = []
  private readonly context: Context.Context<Services>
  private readonly scope: Scope.Closeable
  private readonly network: Network

  constructor(name: string, context: Context.Context<Services>, scope: Scope.Closeable, network: Network) {
    this.name = name
    this.context = context
    this.scope = scope
    this.network = network
  }

  run<A, E>(effect: Effect.Effect<A, E, Services | Scope.Scope>): Effect.Effect<A, E> {
    return Effect.provideContext(effect, Context.add(this.context, Scope.Scope, this.scope)).pipe(
      Effect.provide(silent)
    )
  }

  join(key: string, topic = "room:1"): Effect.Effect<Member> {
    const n = ++this.network.members
    return this.run(
      Effect.gen({ self: this }, function*() {
        const member = new Member(key, n)
        const acceptor = yield* Socket.acceptor(UserSocket)
        const transport = { name: "test", send: (frame: Serializer.Frame) => member.receive(frame), close: () => {} }
        member.connection = acceptor.open(transport, Serializer.v2, Socket.accept())
        member.send(topic, "phx_join", { key, n })
        this.members.push(member)
        yield* settle
        return member
      })
    )
  }

  /** Ends a membership, in one of the ways that it can end. */
  leave(member: Member, how: "leave" | "drop" | "crash" = "leave", topic = "room:1"): Effect.Effect<void> {
    this.members.splice(this.members.indexOf(member), 1)
    if (how === "leave") member.send(topic, "phx_leave")
    else if (how === "drop") member.connection?.process.kill()
    else member.send(topic, "crash")
    return settle
  }

  update(member: Member, state: string, topic = "room:1"): Effect.Effect<void> {
    member.state = state
    member.send(topic, state)
    return settle
  }

  /** Who is here, as the node lists it. */
  list(topic = "room:1"): Effect.Effect<ReadonlyArray<string>> {
    return this.run(Effect.map(Online.list(topic), named))
  }

  /** The keys of {@link list}. */
  keys(topic = "room:1"): Effect.Effect<ReadonlyArray<string>> {
    return this.run(Effect.map(Online.list(topic), (entries) => Object.keys(entries).sort()))
  }

  /** Shuts down as a node should. */
  stop(): Effect.Effect<void> {
    return Scope.close(this.scope, Exit.void)
  }

  /** Is gone without a word. */
  crash(): Effect.Effect<void> {
    this.network.disconnect(this.name)
    return Scope.close(this.scope, Exit.void)
  }
}

export class Cluster {
  readonly network = new Network()
  readonly nodes = new Map<string, Node>()
  private readonly options: Presence.Options

  constructor(options: Presence.Options = {}) {
    this.options = options
  }

  start(name: string): Effect.Effect<Node> {
    return Effect.gen({ self: this }, function*() {
      const scope = yield* Scope.make()
      // Nodes share nothing, neither layers.
      const memo = Layer.makeMemoMapUnsafe()
      const context = yield* Layer.buildWithMemoMap(live(name, this.network, this.options), memo, scope).pipe(
        Effect.provide(silent)
      )
      const node = new Node(name, context, scope, this.network)
      this.nodes.set(name, node)
      return node
    })
  }

  stop(node: Node, how: "stop" | "crash"): Effect.Effect<void> {
    this.nodes.delete(node.name)
    return Effect.andThen(node[how](), Effect.sync(() => this.network.disconnect(node.name)))
  }

  /** Every node lists all who are here, and so does phoenix.js in every client. */
  assertTruth(topic = "room:1"): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      const members = [...this.nodes.values()].flatMap((node) => node.members)
      const truth = members.map(({ key, n, state }) => `${key} ${n} ${state}`).sort()
      for (const node of this.nodes.values()) {
        const listed = yield* node.list(topic)
        assert.deepStrictEqual(
          listed.map((line) => line.slice(0, line.lastIndexOf(" "))),
          truth,
          `${node.name} lists what is not true`
        )
        for (const { n, sees } of node.members) assert.deepStrictEqual(sees, listed, `client ${n} of ${node.name}`)
      }
    })
  }
}

/** A cluster for one test; its nodes end with it. */
export const clusterOf = (
  names: ReadonlyArray<string>,
  options?: Presence.Options
): Effect.Effect<{ readonly cluster: Cluster; readonly nodes: ReadonlyArray<Node> }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const cluster = new Cluster(options)
    yield* Effect.addFinalizer(() =>
      Effect.forEach([...cluster.nodes.values()], (node) => cluster.stop(node, "crash"), { discard: true })
    )
    const nodes = yield* Effect.forEach(names, (name) => cluster.start(name))
    // They get to know each other.
    yield* TestClock.adjust("3 seconds")
    return { cluster, nodes }
  })
