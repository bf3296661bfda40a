/**
 * What presences cost on the wire: between nodes, when a node comes late and for one change, and to clients, when a thousand
 * join one topic.
 */
import { Context, Effect, Layer, Logger, Scope } from "effect"
import { Channel, Presence, Process, PubSub, Serializer, Socket } from "effect-channels"
import { deflateRawSync } from "node:zlib"

const presences = 10_000
const clients = 1000
const topic = "room:1"

const Online = Presence.make("online")

const table = (title: string, lines: ReadonlyArray<readonly [name: string, packets: number, bytes: number]>) => {
  console.log(`\n${title}`)
  for (const [name, packets, bytes] of lines) {
    const [count, size] = [packets, bytes].map((n) => n.toLocaleString("en"))
    console.log(`  ${name.padEnd(32)} ${String(count).padStart(10)} packets ${String(size).padStart(14)} B`)
  }
}

// --- between nodes ----------------------------------------------------------------------------------------------------

/** What was sent from node to node, by kind of packet. */
class Network {
  private readonly nodes = new Map<string, (topic: string, message: unknown) => void>()
  private sent = new Map<string, { packets: number; bytes: number }>()

  connect(node: string, deliver: (topic: string, message: unknown) => void): PubSub.Adapter {
    this.nodes.set(node, deliver)
    const send = (to: string, topic: string, message: unknown) => {
      const text = JSON.stringify(message)
      const { type } = JSON.parse(text)
      const known = this.sent.get(type) ?? { packets: 0, bytes: 0 }
      this.sent.set(type, { packets: known.packets + 1, bytes: known.bytes + text.length })
      setImmediate(() => this.nodes.get(to)?.(topic, JSON.parse(text)))
    }
    return {
      node,
      broadcast: (topic, message) =>
        Effect.sync(() => {
          for (const to of this.nodes.keys()) if (to !== node) send(to, topic, message)
        }),
      direct: (to, topic, message) => Effect.sync(() => send(to, topic, message)),
      joined: () => Effect.void,
      left: () => Effect.void
    }
  }

  take() {
    const { sent } = this
    this.sent = new Map()
    return Array.from(sent, ([type, { bytes, packets }]) => [type, packets, bytes] as const)
  }
}

const period = 100

const between = Effect.gen(function*() {
  const network = new Network()
  const start = Effect.fnUntraced(function*(name: string) {
    const node = Online.layer({}, { broadcastPeriod: period }).pipe(
      Layer.provideMerge(PubSub.layerAdapter((deliver) => Effect.succeed(network.connect(name, deliver))))
    )
    const context = yield* Layer.buildWithMemoMap(node, Layer.makeMemoMapUnsafe(), yield* Scope.Scope)
    const pid = yield* Effect.provideContext(
      Process.spawn((_self: Process.Pid<never>) => Effect.succeed({ handle: () => Effect.void })),
      context
    )
    const list = Effect.provideContext(Online.list(topic), context)
    return { context, self: { pid, topic }, count: Effect.map(list, (entries) => Object.keys(entries).length) }
  })
  const nodes = yield* Effect.forEach(["a", "b", "c"], start)
  yield* Effect.sleep(3 * period)
  network.take()
  for (let n = 0; n < presences; n++) {
    const node = nodes[n % 3]
    if (node === undefined) continue
    yield* Effect.provideContext(
      Online.track(node.self, `user ${n}`, { device: "phone", since: 1_700_000_000 }),
      node.context
    )
  }
  yield* Effect.sleep(5 * period)
  table(`${presences} presences come to 3 nodes, period ${period} ms`, network.take())
  const late = yield* start("late")
  const began = performance.now()
  while ((yield* late.count) < presences) yield* Effect.sleep(1)
  const took = performance.now() - began
  table(`a fourth node knows them all after ${took.toFixed(0)} ms`, network.take())
  yield* Effect.sleep(15 * period)
  network.take()
  const [one] = nodes
  if (one === undefined) return
  yield* Effect.provideContext(Online.update(one.self, "user 0", { device: "desk", since: 1_700_000_000 }), one.context)
  yield* Effect.sleep(1.5 * period)
  table("one of them is updated, 4 nodes", network.take())
}).pipe(Effect.scoped)

// --- to clients -------------------------------------------------------------------------------------------------------

const Room = Channel.make("room:*")
const RoomLive = Room.layer((room, payload) =>
  Effect.as(room.send("after join"), {
    handleInfo: () =>
      Effect.gen(function*() {
        yield* Online.track(room, `user ${String(payload)}`, { device: "phone", since: 1_700_000_000 })
        yield* room.push("presence_state", yield* Online.list(room))
      }).pipe(Effect.orDie)
  })
)
const UserSocket = Socket.make("bench", { channels: [Room] })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

const storm = (options: Presence.Options) =>
  Effect.gen(function*() {
    const acceptor = yield* Socket.acceptor(UserSocket)
    const diffs = { packets: 0, bytes: 0, compressed: 0 }
    let last: { readonly frame: Serializer.Frame; readonly compressed: number } | undefined
    const send = (frame: Serializer.Frame) => {
      if (typeof frame !== "string" || !frame.startsWith(`[null,null,"${topic}","presence_diff"`)) return
      // Everybody gets the same frame, one after another.
      if (last?.frame !== frame) last = { frame, compressed: deflateRawSync(frame).length }
      diffs.packets++
      diffs.bytes += frame.length
      diffs.compressed += last.compressed
    }
    for (let n = 0; n < clients; n++) {
      const socket = acceptor.open({ name: "bench", send, close: () => {} }, Serializer.v2, {
        id: undefined,
        assigns: Context.empty()
      })
      socket.receive(JSON.stringify(["1", "1", topic, "phx_join", n]))
      if (n % 50 === 49) yield* Effect.sleep(50)
    }
    yield* Effect.sleep(2000)
    return diffs
  }).pipe(
    Effect.scoped,
    Effect.provide(
      Layer.mergeAll(RoomLive, UserSocketLive).pipe(
        Layer.provideMerge(Online.layer({}, options)),
        Layer.provideMerge(PubSub.layer)
      )
    )
  )

/** All clients join at once, with `presence_state` for each: how long until everybody knows everybody. */
const flood = (count: number) =>
  Effect.gen(function*() {
    const acceptor = yield* Socket.acceptor(UserSocket)
    let states = 0
    let diffs = 0
    let crashed = 0
    const send = (frame: Serializer.Frame) => {
      if (typeof frame !== "string") return
      if (frame.slice(0, 60).includes("\"presence_state\"")) states++
      else if (frame.startsWith(`[null,null,"${topic}","presence_diff"`)) diffs++
      else if (frame.slice(0, 60).includes("\"phx_error\"")) crashed++
    }
    const began = performance.now()
    for (let n = 0; n < count; n++) {
      const socket = acceptor.open({ name: "bench", send, close: () => {} }, Serializer.v2, {
        id: undefined,
        assigns: Context.empty()
      })
      socket.receive(JSON.stringify(["1", "1", topic, "phx_join", n]))
    }
    let before = -1
    let settled = performance.now()
    const isOver = () => states + crashed >= count && diffs === before
    while (!isOver()) {
      before = diffs
      settled = performance.now()
      yield* Effect.sleep(100)
    }
    const present = Object.keys(yield* Online.list(topic)).length
    console.log(
      `\n${count} clients join one topic at once: settled after ${(settled - began).toFixed(0)} ms, `
        + `${crashed} channels crashed, ${present} present, ${diffs.toLocaleString("en")} diffs delivered`
    )
  }).pipe(
    Effect.scoped,
    Effect.provide(
      Layer.mergeAll(RoomLive, UserSocketLive).pipe(
        Layer.provideMerge(Online.layer()),
        Layer.provideMerge(PubSub.layer)
      )
    )
  )

const program = Effect.gen(function*() {
  yield* flood(3000)
  yield* between
  const each = yield* storm({})
  const collected = yield* storm({ coalesce: "500 millis" })
  table(`${clients} clients join one topic within a second or so: presence_diff to all clients`, [
    ["each change at once", each.packets, each.bytes],
    ["coalesced, 500 ms", collected.packets, collected.bytes],
    ["each at once, frames compressed", each.packets, each.compressed],
    ["coalesced, frames compressed", collected.packets, collected.compressed]
  ])
  const fewer = (of: "packets" | "bytes" | "compressed") => (each[of] / collected[of]).toFixed(1)
  console.log(
    `  coalesced: ${fewer("packets")} times fewer packets, ${fewer("bytes")} times fewer bytes, ` +
      `${fewer("compressed")} times when compressed`
  )
}).pipe(Effect.provide(Logger.layer([])))

await Effect.runPromise(program)
