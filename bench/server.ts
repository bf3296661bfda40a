/**
 * The application that the load client drives: channels that echo and shout, and one that tracks who is there. All limits,
 * timeouts, checks and metrics are as they are by default; only the lines logged at each join are left out.
 *
 * Settings, from the environment: `PORT` (4000) and `COMPRESS` (1 to offer permessage-deflate).
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Context, Effect, Layer, References } from "effect"
import { Channel, Endpoint, Presence, PubSub, Socket } from "effect-channels"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { teardown } from "../scripts/teardown.ts"

class User extends Context.Service<User, { readonly name: string }>()("bench/User") {}

const Room = Channel.make("bench:*")
const RoomLive = Room.layer((room) =>
  Effect.succeed({
    handleIn: (event, payload) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "shout":
          return room.broadcast("shout", payload)
        case "shout_from":
          return room.broadcastFrom("shout", payload)
        default:
          return Effect.fail({ reason: "unmatched event" })
      }
    }
  })
)

const Online = Presence.make("bench")

const Here = Channel.make("presence:*", { assigns: User })
const HereLive = Here.layer(Effect.fnUntraced(function*(here) {
  const { name } = yield* User
  yield* here.send("after join")
  return {
    handleInfo: () =>
      Effect.gen(function*() {
        yield* Online.track(here, name, { n: 1 })
        yield* here.push("presence_state", yield* Online.list(here))
      }).pipe(Effect.orDie)
  }
}))

const UserSocket = Socket.make("user_socket", { channels: [Room, Here] })
const UserSocketLive = UserSocket.layer(({ params }) =>
  Effect.succeed(Socket.accept({ assigns: Context.make(User, { name: String(params["user"]) }) }))
)

const Main = Layer.unwrap(Effect.gen(function*() {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(4000))
  const compress = yield* Config.Boolean("COMPRESS").pipe(Config.withDefault(false))
  const Sockets = Endpoint.mount(UserSocket, { path: "/socket", websocket: { compress } })
  const Http = HttpRouter.serve(Sockets, { disableListenLog: true })
  const Listening = Layer.effectDiscard(Effect.andThen(HttpServer.HttpServer, Console.log("listening")))
  return Layer.provideMerge(Listening, Http).pipe(
    Layer.provide([RoomLive, HereLive, UserSocketLive]),
    Layer.provide(Online.layer()),
    Layer.provide(PubSub.layer),
    Layer.provide(Endpoint.layer(createServer, { port, host: "127.0.0.1" })),
    Layer.provide(Layer.succeed(References.MinimumLogLevel, "Warn"))
  )
}))

NodeRuntime.runMain(Layer.launch(Main), { teardown })
