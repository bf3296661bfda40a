/**
 * The application under test: rooms that echo and shout, who is there, and a channel that behaves as badly as channels can.
 * All limits and timeouts are those that users get.
 */
import { Context, Effect, Layer, Random } from "effect"
import { Channel, Endpoint, Presence, Socket } from "effect-channels"

class User extends Context.Service<User, { readonly name: string }>()("reliability/User") {}

/** Says what it is sent to all, and answers when it has been said. */
const Room = Channel.make("room:*")
const RoomLive = Room.layer((room) =>
  Effect.succeed({
    handleIn: (event, payload) =>
      event === "shout"
        ? Effect.as(room.broadcast("shout", payload), Channel.ok())
        : Effect.succeed(Channel.ok(payload))
  }), { logJoin: false })

export const Online = Presence.make("reliability")

const Lobby = Channel.make("lobby:*", { assigns: User })
const LobbyLive = Lobby.layer(
  Effect.fnUntraced(function*(lobby) {
    const { name } = yield* User
    yield* lobby.send("after join")
    return {
      handleInfo: () =>
        Effect.gen(function*() {
          yield* Online.track(lobby, name, { n: 1 })
          yield* lobby.push("presence_state", yield* Online.list(lobby))
        }).pipe(Effect.orDie),
      handleIn: () => Effect.succeed(Channel.ok())
    }
  }),
  { logJoin: false }
)

const overflow = (): number => 1 + overflow()

/** Each way in which a handler can go wrong, by the event that asks for it. */
const misdeeds: Readonly<Record<string, () => Effect.Effect<unknown, unknown>>> = {
  "die": () => Effect.die(new Error("as it was told")),
  "die with undefined": () => Effect.die(undefined),
  "fail with an Error": () => Effect.fail(new Error("a database's, say")),
  "fail with a reason": () => Effect.fail({ reason: "as it was told" }),
  "throw": () => {
    throw new Error("as it was told")
  },
  "throw null": () => {
    throw null
  },
  "throw undefined": () => {
    throw undefined
  },
  "return no effect": () => undefined as never,
  "reject a promise": () => Effect.promise(() => Promise.reject(new Error("as it was told"))),
  "interrupt itself": () => Effect.interrupt,
  "overflow the stack": () => Effect.sync(overflow),
  "reply what is no JSON": () => Effect.succeed(Channel.ok({ n: 1n })),
  "hang": () => Effect.never
}

export const misdeedNames: ReadonlyArray<string> = Object.keys(misdeeds)

/** What a client asks of its wild channel when it joins. */
export interface Wishes {
  /** Misdeeds, by name, for each of these. */
  readonly join?: string
  readonly handleInfo?: string
  readonly terminate?: string
  /** It crashes now and then. */
  readonly crash?: boolean
}

/** Does what it is told, and has a timer all the time. */
const Wild = Channel.make("wild:*")
const WildLive = Wild.layer(
  Effect.fnUntraced(function*(wild, payload) {
    const wishes = payload as Wishes
    const asked = (name = "") => name in misdeeds ? Effect.suspend(() => misdeeds[name]!()) : Effect.void
    yield* asked(wishes.join)
    const again = Effect.flatMap(Random.nextBetween(10, 1000), (millis) => wild.sendAfter("tick", millis))
    yield* again
    const tick = Effect.flatMap(
      Random.next,
      (chance) => wishes.crash === true && chance < 0.05 ? Effect.die(new Error("by chance")) : again
    )
    return {
      handleInfo: () => Effect.andThen(Effect.orDie(asked(wishes.handleInfo)), tick),
      handleIn: (event) =>
        event in misdeeds ? misdeeds[event]?.() as Effect.Effect<Channel.Answer> : Effect.succeed(Channel.ok()),
      terminate: () => Effect.orDie(asked(wishes.terminate))
    }
  }),
  { logJoin: false }
)

const UserSocket = Socket.make("user_socket", { channels: [Room, Lobby, Wild], log: false })
const UserSocketLive = UserSocket.layer(({ params }) => {
  const name = String(params["user"])
  return Effect.succeed(Socket.accept({ id: `user:${name}`, assigns: Context.make(User, { name }) }))
})

export const mount = (drainer: Socket.DrainerOptions) => Endpoint.mount(UserSocket, { path: "/socket", drainer })

export const Channels = Layer.mergeAll(RoomLive, LobbyLive, WildLive, UserSocketLive)
