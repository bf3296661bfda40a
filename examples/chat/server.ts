/**
 * The whole chat but for its PubSub: that says if it runs on one node or on several.
 *
 * Settings, all from the environment: `PORT` (4000), `CHAT_DATABASE` (a file; in memory without), `SECRET_KEY_BASE` (at
 * least 20 bytes; a new one at every start without, which logs everybody out), `ADMIN_TOKEN` (for the two admin routes),
 * `CHECK_ORIGIN` (origins of pages that may connect, separated by commas; those of this machine without). With several nodes, the
 * same for all: `CHAT_NODES` (their names and addresses), `PRESENCE_PERIOD` (1500 millis).
 */
import { Config, Effect, Layer, Redacted } from "effect"
import { Endpoint, Token } from "effect-channels"
import { HttpRouter } from "effect/http"
import { randomBytes } from "node:crypto"
import { createServer } from "node:http"
import { NotificationsLive, OnlineLive, RoomLive, UserSocketLive } from "./channels.ts"
import { Chat } from "./Chat.ts"
import { UserSocket } from "./contract.ts"
import { Http } from "./http.ts"

/** Pages that are served to the machine the chat runs on. */
const local = ["//localhost", "//127.0.0.1", "//[::1]"]

const Sockets = Layer.unwrap(Effect.gen(function*() {
  const checkOrigin = yield* Config.String("CHECK_ORIGIN").pipe(
    Config.map((list) => list.split(",").map((origin) => origin.trim()).filter((origin) => origin !== "")),
    Config.map((origins) => origins.length === 0 ? local : origins),
    Config.withDefault(local)
  )
  return Endpoint.mount(UserSocket, {
    path: "/socket",
    websocket: { timeout: "45 seconds", compress: true, checkOrigin },
    longpoll: false
  })
}))

const Tokens = Token.layerConfig({
  secretKeyBase: Config.Redacted("SECRET_KEY_BASE").pipe(
    Config.withDefault(Redacted.make(randomBytes(32).toString("hex")))
  )
})

const Listener = Layer.unwrap(Effect.gen(function*() {
  const port = yield* Config.Port("PORT").pipe(Config.withDefault(4000))
  return Endpoint.layer(createServer, { port })
}))

export const Server = HttpRouter.serve(Layer.mergeAll(Http, Sockets)).pipe(
  Layer.provide([RoomLive, NotificationsLive, UserSocketLive]),
  Layer.provide(OnlineLive),
  Layer.provide([Chat.layer, Tokens]),
  Layer.provide(Listener)
)
