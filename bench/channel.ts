/**
 * What a joined channel costs in heap on top of its connection: process, subscription, handlers, Context.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { Channel, PubSub, Serializer, Socket } from "effect-channels"

const connections = 10_000
const bar = 3000

class User extends Context.Service<User, { readonly id: number }>()("bench/User") {}

const Room = Channel.make("room:*", {
  assigns: User,
  incoming: { echo: { payload: Schema.Struct({ n: Schema.Finite }), success: Schema.Struct({ n: Schema.Finite }) } },
  outgoing: { said: Schema.Struct({ by: Schema.Finite, n: Schema.Finite }) }
})

const RoomLive = Room.layer(
  Effect.fnUntraced(function*(room) {
    const user = yield* User
    let sum = 0
    return {
      handleIn: {
        echo: ({ n }) => Effect.as(room.broadcast("said", { by: user.id, n: sum += n }), { n })
      }
    }
  }),
  { logJoin: false }
)

const UserSocket = Socket.make("bench", { channels: [Room] })
const assigns = Context.make(User, { id: 1 })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept({ assigns })))

const heap = Effect.promise(async () => {
  for (let i = 0; i < 5; i++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return process.memoryUsage().heapUsed
})

const settle = Effect.sleep("200 millis")

const program = Effect.gen(function*() {
  const acceptor = yield* Socket.acceptor(UserSocket)
  let sent = 0
  const transport = { name: "bench", send: () => void sent++, close: () => {} }
  const open = Effect.sync(() => acceptor.open(transport, Serializer.v2, { id: undefined, assigns }))
  const measure = Effect.fnUntraced(function*(topic: (n: number) => string) {
    const sockets = yield* Effect.replicateEffect(open, connections)
    yield* settle
    const before = yield* heap
    sockets.forEach((socket, n) => socket.receive(JSON.stringify(["1", "1", topic(n), "phx_join", {}])))
    yield* settle
    const joined = (yield* heap) - before
    // One message each: what a channel keeps once it has worked.
    sockets.forEach((socket, n) => socket.receive(JSON.stringify(["1", "2", topic(n), "echo", { n }])))
    yield* settle
    const worked = (yield* heap) - before
    for (const socket of sockets) socket.process.kill()
    yield* settle
    return { joined: joined / connections, worked: worked / connections }
  })
  // Warm up, so that compiled code and hidden classes are not counted.
  yield* measure((n) => `room:${n}`)
  const own = yield* measure((n) => `room:${n}`)
  const shared = yield* measure((n) => `room:${n % 10}`)
  const line = (name: string, bytes: number) =>
    console.log(
      `${name.padEnd(48)} ${bytes.toFixed(0).padStart(6)} B  ${bytes <= bar ? "ok" : "MISSED"} (bar ${bar} B)`
    )
  console.log(`a joined channel, ${connections} of them, heap on top of the connection; ${sent} frames sent`)
  line("topic of its own, joined", own.joined)
  line("topic of its own, after a message", own.worked)
  line("1,000 members to a topic, joined", shared.joined)
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.mergeAll(RoomLive, UserSocketLive).pipe(Layer.provideMerge(PubSub.layer)))
)

await Effect.runPromise(program)
process.exit(0)
