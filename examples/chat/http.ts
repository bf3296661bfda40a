/**
 * The chat's own routes, on the same port as its socket: the page, log-in, rooms, the nodes, and two things that are done to
 * channels from outside of any channel.
 */
import { ByteSize, Config, Data, Effect, Layer, Redacted, Schema } from "effect"
import { Endpoint, PubSub, Token } from "effect-channels"
import {
  HttpIncomingMessage,
  HttpMiddleware,
  HttpRouter,
  type HttpServerError,
  HttpServerRequest,
  HttpServerResponse,
  HttpStaticServer
} from "effect/http"
import { createHash, timingSafeEqual } from "node:crypto"
import { dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { salt } from "./channels.ts"
import { Chat } from "./Chat.ts"
import { Room } from "./contract.ts"

/** Who may speak to everybody and throw people out: whoever knows `ADMIN_TOKEN`. Without one, nobody. */
const adminToken = Config.option(Config.Redacted("ADMIN_TOKEN"))

const bearer = Effect.map(HttpServerRequest.HttpServerRequest, ({ headers }) => {
  const [scheme, token] = headers["authorization"]?.split(" ") ?? []
  return scheme?.toLowerCase() === "bearer" ? token : undefined
})

const answer = (body: unknown, status = 200) => HttpServerResponse.jsonUnsafe(body, { status })
const nothing = HttpServerResponse.empty({ status: 204 })
const unauthorized = answer({ error: "unauthorized" }, 401)
const notFound = answer({ error: "not found" }, 404)
const badRequest = answer({ error: "bad request" }, 400)

const tooLarge = answer({ error: "too large" }, 413)

/** Limits a body, because nobody who sends one has to be logged in, and a name or a notice is short. */
const maxBody = ByteSize.kibibytes(16)

const jsonBody = <S extends Schema.Constraint & { readonly DecodingServices: never }>(schema: S) =>
  HttpServerRequest.schemaBodyJson(Schema.toCodecJson(schema)).pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, maxBody),
    Effect.catchTag(
      ["SchemaError", "HttpServerError"],
      (error) => Effect.fail(new BadBody({ answer: isTooLarge(error) ? tooLarge : badRequest }))
    )
  )

/** The body of a request is not what it should be. */
class BadBody extends Data.TaggedError("BadBody")<{ readonly answer: HttpServerResponse.HttpServerResponse }> {}

const isTooLarge = (error: Schema.SchemaError | HttpServerError.HttpServerError): boolean =>
  error._tag === "HttpServerError" && error.reason._tag === "RequestParseError" &&
  error.reason.reason === "BodyTooLarge"

const LogIn = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const chat = yield* Chat
  const tokens = yield* Token.Token
  yield* router.add(
    "POST",
    "/login",
    Effect.gen(function*() {
      const { name } = yield* jsonBody(Schema.Struct({ name: Schema.String }))
      const user = yield* chat.logIn(name)
      return answer({ token: yield* tokens.sign(salt, user.id), user })
    }).pipe(
      Effect.catchTag("BadBody", ({ answer }) => Effect.succeed(answer)),
      Effect.catch((invalid) => Effect.succeed(answer(invalid, 422)))
    )
  )
}))

const Rooms = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const chat = yield* Chat
  const tokens = yield* Token.Token
  const currentUserId = Effect.flatMap(
    bearer,
    (token) => tokens.verify(salt, token, { maxAge: "1 day", schema: Schema.String })
  )
  yield* router.add(
    "GET",
    "/rooms",
    currentUserId.pipe(
      Effect.flatMap(chat.user),
      Effect.flatMap((user) =>
        user === undefined
          ? Effect.succeed(unauthorized)
          : Effect.map(chat.rooms(user.id), (rooms) => answer({ rooms }))
      ),
      Effect.catchTag("TokenError", () => Effect.succeed(unauthorized))
    )
  )
  yield* router.add(
    "POST",
    "/rooms/:id/members",
    Effect.gen(function*() {
      const { id = "" } = yield* HttpRouter.params
      const user = yield* chat.user(yield* currentUserId)
      if (user === undefined) return unauthorized
      return (yield* chat.join(id, user.id)) ? nothing : notFound
    }).pipe(Effect.catchTag("TokenError", () => Effect.succeed(unauthorized)))
  )
}))

/** Takes as long for a wrong secret that begins right as for any other. */
const same = (a: string, b: string) => timingSafeEqual(digest(a), digest(b))
const digest = (text: string) => createHash("sha256").update(text).digest()

const Admin = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const expected = yield* adminToken
  const isAdmin = Effect.map(
    bearer,
    (token) => expected._tag === "Some" && token !== undefined && same(token, Redacted.value(expected.value))
  )
  yield* router.add(
    "POST",
    "/rooms/:id/notice",
    Effect.gen(function*() {
      if (!(yield* isAdmin)) return unauthorized
      const { id = "" } = yield* HttpRouter.params
      const { body } = yield* jsonBody(Schema.Struct({ body: Schema.NonEmptyString }))
      yield* Room.broadcast(`room:${id}`, "system:notice", { body })
      return nothing
    }).pipe(
      Effect.catchTag("BadBody", ({ answer }) => Effect.succeed(answer))
    )
  )
  yield* router.add(
    "POST",
    "/users/:id/disconnect",
    Effect.gen(function*() {
      if (!(yield* isAdmin)) return unauthorized
      const { id = "" } = yield* HttpRouter.params
      yield* Endpoint.disconnect(`user_socket:${id}`)
      return nothing
    })
  )
}))

/** Where the chat runs, by the name of the node; empty if it is only one. `one=http://localhost:4000,two=…` */
const nodeUrls = Config.Record(Schema.String, Schema.String, "CHAT_NODES").pipe(Config.withDefault({}))

const Nodes = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const pubsub = yield* PubSub.PubSub
  const nodes = Object.entries(yield* nodeUrls).map(([name, url]) => ({ name, url, here: name === pubsub.node }))
  yield* router.add("GET", "/nodes", answer({ nodes }))
  // For a load balancer, which asks often: new clients are better off on a node that reaches the others.
  yield* router.add(
    "GET",
    "/ready",
    HttpMiddleware.withLoggerDisabled(
      Effect.map(pubsub.status, (status) => answer({ status }, status === "connected" ? 200 : 503))
    )
  )
}))

/** The folder of a file that is named as an import would name it. */
const folderOf = (specifier: string) => dirname(fileURLToPath(import.meta.resolve(specifier)))

const Page = Layer.mergeAll(
  HttpStaticServer.layer({ root: folderOf("./public/index.html"), cacheControl: "no-cache" }),
  // phoenix.js comes as it is in its npm package.
  HttpStaticServer.layer({ root: folderOf("phoenix"), prefix: "/vendor", cacheControl: "no-cache" })
)

export const Http = Layer.mergeAll(Page, LogIn, Rooms, Nodes, Admin)
