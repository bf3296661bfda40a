import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Logger } from "effect"
import { ChannelTest, Endpoint, Process, PubSub, Token } from "effect-channels"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer, request } from "node:http"
import { NotificationsLive, Online, RoomLive, salt, UserSocketLive } from "./channels.ts"
import { Chat } from "./Chat.ts"
import { Notifications, Room, UserSocket } from "./contract.ts"
import { Http } from "./http.ts"

const settings = (env: Record<string, string>) => ConfigProvider.layer(ConfigProvider.fromUnknown(env))

const TestLive = Layer.mergeAll(RoomLive, NotificationsLive, UserSocketLive).pipe(
  Layer.provideMerge(Online.layer()),
  Layer.provideMerge([Chat.layer, Token.layer({ secretKeyBase: "a secret that only tests know" })]),
  Layer.provideMerge(ChannelTest.layer),
  Layer.provide(settings({}))
)

const silent = Logger.layer([])

/** Logs a user in and connects. */
const connect = Effect.fnUntraced(function*(name: string) {
  const chat = yield* Chat
  const tokens = yield* Token.Token
  const user = yield* chat.logIn(name)
  return yield* ChannelTest.connect(UserSocket, { token: yield* tokens.sign(salt, user.id) })
})

const enter = Effect.fnUntraced(function*(name: string, room = "room:general") {
  return yield* ChannelTest.subscribeAndJoin(yield* connect(name), Room, room)
})

const say = (room: ChannelTest.TestChannel, body: unknown) => ChannelTest.push(room, "message:new", { body })

describe("connecting", () => {
  it.effect("takes a token of this chat, no older than a day", () =>
    Effect.gen(function*() {
      const chat = yield* Chat
      const tokens = yield* Token.Token
      const ada = yield* chat.logIn("Ada")
      const token = yield* tokens.sign(salt, ada.id)
      assert.strictEqual((yield* ChannelTest.connect(UserSocket, { token })).id, "user_socket:ada")
      yield* TestClock.adjust("23 hours")
      yield* ChannelTest.connect(UserSocket, { token })
      yield* TestClock.adjust("2 hours")
      assert.strictEqual((yield* Effect.flip(ChannelTest.connect(UserSocket, { token }))).reason, "expired")
      const fresh = yield* tokens.sign(salt, ada.id)
      yield* ChannelTest.connect(UserSocket, { token: fresh })
    }).pipe(Effect.provide(TestLive)))

  it.effect("refuses everything else", () =>
    Effect.gen(function*() {
      const tokens = yield* Token.Token
      const bad = [
        undefined,
        "",
        "nonsense",
        { a: "b" },
        yield* tokens.sign("another salt", "ada"),
        yield* tokens.sign(salt, 7)
      ]
      for (const token of bad) yield* Effect.flip(ChannelTest.connect(UserSocket, { token }))
      const stranger = yield* tokens.sign(salt, "nobody")
      const refused = yield* Effect.flip(ChannelTest.connect(UserSocket, { token: stranger }))
      assert.strictEqual(refused.reason, "no such user")
    }).pipe(Effect.provide(TestLive)))
})

describe("a room", () => {
  it.effect("is for its members: open rooms for everybody, others once joined", () =>
    Effect.gen(function*() {
      const socket = yield* connect("Ada")
      yield* ChannelTest.join(socket, Room, "room:general")
      yield* ChannelTest.join(socket, Room, "room:random")
      for (const topic of ["room:design", "room:nowhere", "room:"]) {
        const refused = yield* Effect.flip(ChannelTest.join(socket, Room, topic))
        assert.deepStrictEqual(refused.response, { reason: "unauthorized" })
      }
      assert.isTrue(yield* Chat.use((chat) => chat.join("design", "ada")))
      yield* ChannelTest.join(socket, Room, "room:design")
    }).pipe(Effect.provide(TestLive)))

  it.effect("stores a message, sends it to everybody and replies with its id", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      const grace = yield* enter("Grace")
      yield* TestClock.adjust("1 minute")
      const ref = yield* say(ada, "  hello  ")
      const message = {
        id: 1,
        room_id: "general",
        user_id: "ada",
        user_name: "Ada",
        body: "hello",
        inserted_at: "1970-01-01T00:01:00.000Z"
      }
      assert.deepStrictEqual(yield* ChannelTest.assertReply(ref, "ok"), { id: 1 })
      assert.deepStrictEqual(yield* ChannelTest.assertBroadcast(ada, "message:new"), message)
      for (const member of [ada, grace]) {
        assert.deepStrictEqual(yield* ChannelTest.assertPush(member, "message:new"), message)
      }
      assert.deepStrictEqual(yield* Chat.use((chat) => chat.recent("general")), [message])
    }).pipe(Effect.provide(TestLive)))

  it.effect("tells who joins the last fifty messages, oldest first, of this room", () =>
    Effect.gen(function*() {
      const chat = yield* Chat
      const ada = yield* chat.logIn("Ada")
      yield* chat.say("random", ada, "elsewhere")
      for (let n = 1; n <= 60; n++) yield* chat.say("general", ada, `message ${n}`)
      const room = yield* enter("Grace")
      yield* ChannelTest.assertPush(
        room,
        "messages:history",
        ({ messages }: { readonly messages: ReadonlyArray<{ readonly body: string }> }) => {
          assert.deepStrictEqual(
            messages.map(({ body }) => body),
            Array.from({ length: 50 }, (_, index) => `message ${index + 11}`)
          )
          return true
        }
      )
      // It is for who joins, and for nobody else.
      yield* enter("Linus")
      yield* ChannelTest.refutePush(room, "messages:history")
    }).pipe(Effect.provide(TestLive)))

  it.effect("answers what is wrong with a message, and sends it to nobody", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      yield* ChannelTest.assertReply(yield* say(ada, "   "), "error", { errors: { body: ["can't be blank"] } })
      yield* ChannelTest.assertReply(yield* say(ada, "x".repeat(2001)), "error", {
        errors: { body: ["is too long (at most 2000 characters)"] }
      })
      yield* ChannelTest.assertReply(yield* say(ada, 7), "error", {
        reason: "invalid payload",
        errors: [{ path: ["body"] }]
      })
      const ref = yield* ChannelTest.push(ChannelTest.untyped(ada), "message:delete", { id: 1 })
      yield* ChannelTest.assertReply(ref, "error", { reason: "unmatched event" })
      yield* ChannelTest.refuteBroadcast(ada, "message:new")
      assert.deepStrictEqual(yield* Chat.use((chat) => chat.recent("general")), [])
      yield* ChannelTest.assertReply(yield* say(ada, "x".repeat(2000)), "ok", { id: 1 })
    }).pipe(Effect.provide(TestLive)))

  it.effect("that crashes for one leaves the other room and the others alone, and can be joined again", () =>
    Effect.gen(function*() {
      const socket = yield* connect("Ada")
      const general = yield* ChannelTest.join(socket, Room, "room:general")
      const random = yield* ChannelTest.join(socket, Room, "room:random")
      const grace = yield* enter("Grace")
      yield* say(general, "/crash")
      yield* ChannelTest.assertPush(general, "phx_error", { reason: "channel_crash" })
      yield* ChannelTest.assertReply(yield* say(random, "still here"), "ok")
      yield* ChannelTest.assertReply(yield* say(grace, "me too"), "ok")
      yield* ChannelTest.refutePush(general, "message:new")
      const again = yield* ChannelTest.join(socket, Room, "room:general")
      yield* ChannelTest.assertReply(yield* say(again, "back"), "ok")
      yield* ChannelTest.assertPush(grace, "message:new", { body: "back" })
    }).pipe(Effect.provide(TestLive), Effect.provide(silent)))

  it.effect("is left with a reply, and is silent then", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      const grace = yield* enter("Grace")
      yield* ChannelTest.assertReply(yield* ChannelTest.leave(ada), "ok")
      yield* ChannelTest.assertPush(ada, "phx_close")
      yield* say(grace, "alone")
      yield* ChannelTest.refutePush(ada, "message:new")
    }).pipe(Effect.provide(TestLive)))
})

/** Who is online, and in how many tabs. */
const online = Effect.map(
  Online.list("room:general"),
  (entries) => Object.entries(entries).map(([id, { metas }]) => [id, metas.map((meta) => meta["user_name"])])
)

describe("who is online", () => {
  it.effect("is told who joins, and everybody from then on who comes and goes: users once, with all their tabs", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      yield* ChannelTest.assertPush(ada, "presence_state", { ada: { metas: [{ user_name: "Ada" }] } })
      const grace = yield* enter("Grace")
      yield* ChannelTest.assertPush(grace, "presence_state", (state) => Object.keys(state).join() === "ada,grace")
      yield* ChannelTest.assertPush(ada, "presence_diff", { joins: { grace: { metas: [{ user_name: "Grace" }] } } })
      const tab = yield* enter("Ada")
      yield* ChannelTest.assertPush(tab, "presence_state")
      assert.deepStrictEqual(yield* online, [["ada", ["Ada", "Ada"]], ["grace", ["Grace"]]])
      yield* ChannelTest.drop(tab.socket)
      yield* ChannelTest.assertPush(grace, "presence_diff", { leaves: { ada: { metas: [{ user_name: "Ada" }] } } })
      assert.deepStrictEqual(yield* online, [["ada", ["Ada"]], ["grace", ["Grace"]]])
      yield* ChannelTest.leave(ada)
      yield* ChannelTest.settle
      assert.deepStrictEqual(yield* online, [["grace", ["Grace"]]])
    }).pipe(Effect.provide(TestLive)))

  it.effect("knows of each tab on which node it is, and whether its user is typing there, which is not answered", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      const tab = yield* enter("Ada")
      const grace = yield* enter("Grace")
      const typing = Effect.map(
        Online.getByKey("room:general", "ada"),
        (entry) => entry?.metas.map((meta) => [meta["node"], meta["typing"]])
      )
      yield* ChannelTest.assertPush(grace, "presence_state")
      assert.deepStrictEqual(yield* typing, [["local", false], ["local", false]])
      const ref = yield* ChannelTest.push(tab, "typing:start")
      yield* ChannelTest.assertPush(grace, "presence_diff", {
        joins: { ada: { metas: [{ user_name: "Ada", typing: true }] } },
        leaves: { ada: { metas: [{ user_name: "Ada", typing: false }] } }
      })
      assert.sameDeepMembers([...(yield* typing) ?? []], [["local", false], ["local", true]])
      yield* ChannelTest.push(tab, "typing:stop")
      yield* ChannelTest.assertPush(grace, "presence_diff", {
        joins: { ada: { metas: [{ typing: false }] } },
        leaves: { ada: { metas: [{ typing: true }] } }
      })
      assert.deepStrictEqual(yield* typing, [["local", false], ["local", false]])
      yield* ChannelTest.refuteReply(ref, "ok")
      // Who goes in the middle of a word is not typing any more.
      yield* ChannelTest.push(ada, "typing:start")
      yield* ChannelTest.assertPush(grace, "presence_diff", { joins: { ada: { metas: [{ typing: true }] } } })
      yield* ChannelTest.drop(ada.socket)
      yield* ChannelTest.assertPush(grace, "presence_diff", { leaves: { ada: { metas: [{ typing: true }] } } })
      assert.deepStrictEqual(yield* typing, [["local", false]])
    }).pipe(Effect.provide(TestLive)))

  it.effect("is not who is in another room, nor who was refused", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      yield* enter("Grace", "room:random")
      yield* Effect.flip(enter("Linus", "room:design"))
      yield* ChannelTest.refutePush(ada, "presence_diff", (diff) => !("ada" in diff.joins))
      assert.deepStrictEqual(yield* online, [["ada", ["Ada"]]])
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:design")), [])
    }).pipe(Effect.provide(TestLive)))
})

describe("notifications", () => {
  it.effect("are everybody's own", () =>
    Effect.gen(function*() {
      const socket = yield* connect("Ada")
      yield* ChannelTest.join(socket, Notifications, "notifications:ada")
      const refused = yield* Effect.flip(ChannelTest.join(socket, Notifications, "notifications:grace"))
      assert.deepStrictEqual(refused.response, { reason: "unauthorized" })
    }).pipe(Effect.provide(TestLive)))

  it.effect("come to members that are mentioned, wherever they are, and not to who mentions", () =>
    Effect.gen(function*() {
      const [grace, linus, ada] = yield* Effect.all(["Grace", "Linus", "Ada"].map((name) => connect(name)))
      assert(grace !== undefined && linus !== undefined && ada !== undefined)
      const mine = yield* Effect.all({
        grace: ChannelTest.join(grace, Notifications, "notifications:grace"),
        linus: ChannelTest.join(linus, Notifications, "notifications:linus"),
        ada: ChannelTest.join(ada, Notifications, "notifications:ada")
      })
      const room = yield* ChannelTest.join(ada, Room, "room:general")
      yield* say(room, "look, @GRACE and @ada")
      yield* ChannelTest.assertPush(mine.grace, "notification", {
        room_id: "general",
        from: "Ada",
        body: "look, @GRACE and @ada"
      })
      yield* ChannelTest.refutePush(mine.linus, "notification")
      yield* ChannelTest.refutePush(mine.ada, "notification")
      // Who is no member of a room hears nothing from it.
      yield* Chat.use((chat) => chat.join("design", "ada"))
      yield* say(yield* ChannelTest.join(ada, Room, "room:design"), "@grace")
      yield* ChannelTest.refutePush(mine.grace, "notification")
    }).pipe(Effect.provide(TestLive)))
})

describe("from anywhere", () => {
  it.effect("a notice reaches the members of a room", () =>
    Effect.gen(function*() {
      const general = yield* enter("Ada")
      const random = yield* enter("Grace", "room:random")
      yield* Room.broadcast("room:general", "system:notice", { body: "back in five minutes" })
      yield* ChannelTest.assertPush(general, "system:notice", { body: "back in five minutes" })
      yield* ChannelTest.refutePush(random, "system:notice")
    }).pipe(Effect.provide(TestLive)))

  it.effect("a user is disconnected everywhere, and nobody else is", () =>
    Effect.gen(function*() {
      const phone = yield* enter("Ada")
      const laptop = yield* enter("Ada")
      const grace = yield* enter("Grace")
      yield* Endpoint.disconnect("user_socket:ada")
      yield* ChannelTest.assertDisconnected(phone.socket, 1001)
      yield* ChannelTest.assertDisconnected(laptop.socket, 1001)
      yield* say(grace, "hm")
      yield* ChannelTest.assertPush(grace, "message:new")
      assert.isUndefined(grace.socket.closeCode)
      assert.isFalse(yield* Process.alive(phone.pid))
    }).pipe(Effect.provide(TestLive)))

  it.effect("who drops leaves nothing behind", () =>
    Effect.gen(function*() {
      const pubsub = yield* PubSub.PubSub
      const socket = yield* connect("Ada")
      yield* ChannelTest.join(socket, Room, "room:general")
      yield* ChannelTest.join(socket, Notifications, "notifications:ada")
      const before = ["phx_presence:chat_shard0"]
      assert.deepStrictEqual(pubsub.topics(), [...before, "user_socket:ada", "room:general", "notifications:ada"])
      yield* ChannelTest.drop(socket)
      assert.deepStrictEqual(pubsub.topics(), before)
      assert.deepStrictEqual(Object.keys(yield* Online.list("room:general")), [])
    }).pipe(Effect.provide(TestLive)))
})

// --- HTTP -------------------------------------------------------------------------------------------------------------

const served = (env: Record<string, string>) =>
  HttpRouter.serve(Http, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provideMerge(
      NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1", disablePreemptiveShutdown: true })
    ),
    Layer.provideMerge(TestLive),
    Layer.provide(settings(env))
  )
const Served = served({ ADMIN_TOKEN: "open-sesame" })

interface Answer {
  readonly status: number
  readonly body: unknown
}

const call = (method: string, path: string, options: { readonly token?: string; readonly json?: unknown } = {}) =>
  HttpServer.HttpServer.use(({ address }) =>
    Effect.promise(async (): Promise<Answer> => {
      const response = await fetch(`http://127.0.0.1:${"port" in address ? address.port : 0}${path}`, {
        method,
        headers: options.token === undefined ? {} : { authorization: `Bearer ${options.token}` },
        ...(options.json === undefined ? {} : { body: JSON.stringify(options.json) })
      })
      const text = await response.text()
      const json = response.headers.get("content-type")?.startsWith("application/json")
      return { status: response.status, body: json ? JSON.parse(text) : text }
    })
  )

const logIn = (name: string) =>
  Effect.map(
    call("POST", "/login", { json: { name } }),
    ({ body }) => (body as { readonly token: string }).token
  )

describe("over HTTP", () => {
  it.effect("a name logs in, and the token connects", () =>
    Effect.gen(function*() {
      const { body, status } = yield* call("POST", "/login", { json: { name: " Ada Lovelace " } })
      assert.strictEqual(status, 200)
      const { token, user } = body as { readonly token: string; readonly user: unknown }
      assert.deepStrictEqual(user, { id: "ada-lovelace", name: "Ada Lovelace" })
      assert.strictEqual((yield* ChannelTest.connect(UserSocket, { token })).id, "user_socket:ada-lovelace")
      assert.deepStrictEqual(yield* call("POST", "/login", { json: { name: " " } }), {
        status: 422,
        body: { errors: { name: ["must be 1 to 32 characters"] } }
      })
      assert.strictEqual((yield* call("POST", "/login", { json: { name: "!!!" } })).status, 422)
      assert.strictEqual((yield* call("POST", "/login", { json: {} })).status, 400)
      assert.strictEqual((yield* call("POST", "/login")).status, 400)
    }).pipe(Effect.provide(Served)))

  it.effect("a body is read up to 16 KB, and what is larger is answered 413", () =>
    Effect.gen(function*() {
      const admin = { token: "open-sesame" }
      const paths = ["/login", "/rooms/general/notice"]
      const padded = (bytes: number) => {
        const body = { name: "Ada", body: "tea", filling: "" }
        return { ...body, filling: "x".repeat(bytes - JSON.stringify(body).length) }
      }
      for (const path of paths) {
        assert.isBelow((yield* call("POST", path, { ...admin, json: padded(16_384) })).status, 300)
        for (const bytes of [16_385, 1_000_000]) {
          assert.deepStrictEqual(yield* call("POST", path, { ...admin, json: padded(bytes) }), {
            status: 413,
            body: { error: "too large" }
          })
        }
      }
      // Nor is one that does not say how long it is, and comes bit by bit.
      const { address } = yield* HttpServer.HttpServer
      const answered = yield* Effect.promise(() =>
        new Promise<number | undefined>((resolve, reject) => {
          const port = "port" in address ? address.port : 0
          const sending = request({ port, host: "127.0.0.1", method: "POST", path: "/login" }, (response) => {
            clearInterval(dripping)
            resolve(response.statusCode)
            sending.destroy()
          })
          sending.on("error", reject)
          const dripping = setInterval(() => sending.write(" ".repeat(1000)), 1)
        })
      )
      assert.strictEqual(answered, 413)
    }).pipe(Effect.provide(Served)))

  it.effect("rooms are listed for who is logged in, and can be joined", () =>
    Effect.gen(function*() {
      const token = yield* logIn("Ada")
      const membership = Effect.map(call("GET", "/rooms", { token }), ({ body }) =>
        (body as { readonly rooms: ReadonlyArray<{ readonly id: string; readonly member: boolean }> }).rooms.map((
          room
        ) => [
          room.id,
          room.member
        ]))
      assert.deepStrictEqual(yield* membership, [["general", true], ["random", true], ["design", false]])
      assert.strictEqual((yield* call("POST", "/rooms/design/members", { token })).status, 204)
      assert.deepStrictEqual(yield* membership, [["general", true], ["random", true], ["design", true]])
      assert.strictEqual((yield* call("POST", "/rooms/nowhere/members", { token })).status, 404)
      for (const bad of [{}, { token: "nonsense" }]) {
        assert.strictEqual((yield* call("GET", "/rooms", bad)).status, 401)
        assert.strictEqual((yield* call("POST", "/rooms/design/members", bad)).status, 401)
      }
      yield* TestClock.adjust("25 hours")
      assert.strictEqual((yield* call("GET", "/rooms", { token })).status, 401)
    }).pipe(Effect.provide(Served)))

  it.effect("a page learns where else the chat runs, and a load balancer whether this node reaches the others", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* call("GET", "/ready"), { status: 200, body: { status: "connected" } })
      assert.deepStrictEqual(yield* call("GET", "/nodes"), { status: 200, body: { nodes: [] } })
    }).pipe(Effect.provide(Served)))

  it.effect("a page of several nodes learns which of them it is on", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* call("GET", "/nodes"), {
        status: 200,
        body: {
          nodes: [
            { name: "local", url: "http://localhost:4000", here: true },
            { name: "other", url: "http://localhost:4001", here: false }
          ]
        }
      })
    }).pipe(Effect.provide(served({ CHAT_NODES: "local=http://localhost:4000,other=http://localhost:4001" }))))

  it.effect("the admin sends notices and throws users out; nobody else does", () =>
    Effect.gen(function*() {
      const ada = yield* enter("Ada")
      const token = yield* logIn("Ada")
      for (const bad of [{}, { token }, { token: "open" }]) {
        assert.strictEqual((yield* call("POST", "/rooms/general/notice", { ...bad, json: { body: "x" } })).status, 401)
        assert.strictEqual((yield* call("POST", "/users/ada/disconnect", bad)).status, 401)
      }
      const admin = { token: "open-sesame" }
      assert.strictEqual(
        (yield* call("POST", "/rooms/general/notice", { ...admin, json: { body: "hear" } })).status,
        204
      )
      yield* ChannelTest.assertPush(ada, "system:notice", { body: "hear" })
      assert.strictEqual((yield* call("POST", "/rooms/general/notice", { ...admin, json: { body: "" } })).status, 400)
      yield* ChannelTest.refutePush(ada, "system:notice")
      assert.strictEqual((yield* call("POST", "/users/ada/disconnect", admin)).status, 204)
      yield* ChannelTest.assertDisconnected(ada.socket, 1001)
    }).pipe(Effect.provide(Served)))

  it.effect("without an ADMIN_TOKEN there is no admin", () =>
    Effect.gen(function*() {
      for (const token of ["", "undefined", "open-sesame"]) {
        assert.strictEqual((yield* call("POST", "/users/ada/disconnect", { token })).status, 401)
      }
    }).pipe(Effect.provide(served({}))))

  it.effect("the page and phoenix.js are served", () =>
    Effect.gen(function*() {
      assert.include(String((yield* call("GET", "/")).body), "<html")
      assert.strictEqual((yield* call("GET", "/vendor/phoenix.mjs")).status, 200)
    }).pipe(Effect.provide(Served)))
})
