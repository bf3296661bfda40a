/**
 * The server that `npm run attack:memory` attacks: a plain application with the defaults of this library, in a process of its
 * own. It tells its port, and, when it is asked, how much memory it uses.
 */
import { Effect, Layer, Logger } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import * as Channel from "../../../src/Channel.ts"
import * as Endpoint from "../../../src/Endpoint.ts"
import * as Message from "../../../src/Message.ts"
import * as Presence from "../../../src/Presence.ts"
import * as Process from "../../../src/Process.ts"
import * as PubSub from "../../../src/PubSub.ts"
import * as Socket from "../../../src/Socket.ts"

/** Report of the server about itself. */
export interface Report {
  readonly heap: number
  /** The most that it was, garbage included, since the last report. */
  readonly heapPeak: number
  /** Buffers outside of the heap. */
  readonly buffers: number
  readonly connections: number
  readonly processes: number
  /** Characters that were logged. */
  readonly logged: number
}

/** Keeps the handlers waiting that wait for something: longer than an attack takes. */
const wait = Effect.sleep("60 seconds")

const Room = Channel.make("room:*", { intercept: ["masked"] })
const RoomLive = Room.layer((room) =>
  Effect.succeed({
    handleIn: (event, payload) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "wait":
          return Effect.as(wait, Channel.ok())
        case "shout":
        case "masked":
          return Effect.asVoid(room.broadcast(event, payload))
        case "listen":
          return Effect.as(room.subscribe(`feed of ${room.topic}`), Channel.ok())
        case "tell":
          return Effect.asVoid(
            PubSub.broadcast(`feed of ${room.topic}`, Message.broadcast("feed", "told", payload)).pipe(Effect.orDie)
          )
        default:
          return Effect.fail({ reason: "no such event" })
      }
    },
    handleInfo: () => wait,
    handleOut: { masked: () => wait }
  })
)

/** A channel whose join waits. */
const Slow = Channel.make("slow:*")
const SlowLive = Slow.layer(() => Effect.as(wait, {}))

const Online = Presence.make("online")
const Lobby = Channel.make("lobby:*")
const LobbyLive = Lobby.layer((lobby) =>
  Effect.as(lobby.send("joined"), {
    handleInfo: () =>
      Online.track(lobby, lobby.pid.label, {}).pipe(
        Effect.andThen(Online.list(lobby)),
        Effect.flatMap((list) => lobby.push("presence_state", list)),
        Effect.orDie
      )
  })
)

const UserSocket = Socket.make("user_socket", { channels: [Room, Slow, Lobby], log: false })
const UserSocketLive = UserSocket.layer(() => Effect.succeed(Socket.accept()))

let logged = 0
const counting = Logger.make(({ message }) => {
  logged += JSON.stringify(message).length
})

let heapPeak = 0
setInterval(() => {
  heapPeak = Math.max(heapPeak, process.memoryUsage().heapUsed)
}, 50)

const main = Effect.gen(function*() {
  const http = createServer()
  const mounts = Layer.mergeAll(
    Endpoint.mount(UserSocket, { path: "/socket", longpoll: true }),
    Endpoint.mount(UserSocket, { path: "/packed", websocket: { compress: true } })
  )
  const live = HttpRouter.serve(mounts, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provide([RoomLive, SlowLive, LobbyLive, UserSocketLive]),
    Layer.provide(Online.layer()),
    Layer.provideMerge(PubSub.layer),
    Layer.provideMerge(Endpoint.layer(() => http, { port: 0, host: "127.0.0.1" })),
    Layer.provide(Logger.layer([counting]))
  )
  const context = yield* Layer.build(live)
  const { address } = yield* HttpServer.HttpServer.pipe(Effect.provide(context))
  process.on("message", () => {
    globalThis.gc?.()
    const { arrayBuffers, heapUsed } = process.memoryUsage()
    const sockets = Effect.runSync(Effect.provide(Endpoint.sockets, context))
    const { processes } = Effect.runSync(Effect.provide(Process.stats, context))
    const report: Report = {
      heap: heapUsed,
      heapPeak,
      buffers: arrayBuffers,
      connections: sockets.length,
      processes,
      logged
    }
    heapPeak = 0
    process.send?.(report)
  })
  process.send?.({ port: "port" in address ? address.port : 0 })
  return yield* Effect.never
})

process.on("disconnect", () => process.exit())
await Effect.runPromise(Effect.scoped(main))
