/** docs/phoenix-parity.md tells the truth: every test that it names exists. Features that no other test shows are shown here. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Data, Effect, Layer, Logger, References } from "effect"
import { HttpRouter, HttpServer, HttpServerResponse } from "effect/http"
import { once } from "node:events"
import { existsSync, readFileSync } from "node:fs"
import { createServer } from "node:http"
import { WebSocket } from "ws"
import * as Channel from "../src/Channel.ts"
import * as ChannelTest from "../src/ChannelTest.ts"
import * as Endpoint from "../src/Endpoint.ts"
import * as Process from "../src/Process.ts"
import * as PubSub from "../src/PubSub.ts"
import * as Socket from "../src/Socket.ts"
import * as Polling from "./transport/polling.ts"
import { Client, start } from "./transport/server.ts"

const page = "docs/phoenix-parity.md"

const text = (file: string): string => existsSync(file) ? readFileSync(file, "utf8") : ""

/** The cells of all rows but the headings; a vertical bar in a cell is escaped. */
const rows = text(page).split("\n").flatMap((line) => {
  const cells = /^\| (?!Feature |-)/.test(line) ? line.slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim()) : []
  return cells.length === 0 ? [] : [cells]
})

interface Reference {
  readonly file: string
  readonly name: string
}

/** `file`: "name"; "another name of the same file"; `another file`: "name". Undefined where a cell is something else. */
const referencesOf = (cell: string): ReadonlyArray<Reference> | undefined => {
  let file: string | undefined
  const references: Array<Reference> = []
  for (const part of cell.split(/; (?=["`])/)) {
    const [, newFile, name] = /^(?:`(test\/[\w./-]+)`: )?"([^"]+)"$/.exec(part) ?? []
    file = newFile ?? file
    if (file === undefined || name === undefined) return undefined
    references.push({ file, name })
  }
  return references
}

describe(page, () => {
  it("has rows of three cells: feature, status and test", () => {
    assert.isAbove(rows.length, 150)
    assert.deepStrictEqual(rows.filter((cells) => cells.length !== 3 || cells[0] === ""), [])
  })

  it("says of every feature that it is supported, different and why, or not yet and where", () => {
    const status = /^(supported([:;] .+)?|different: .+|not yet: `src\/[\w/]+\.ts`)$/
    assert.deepStrictEqual(rows.filter(([, cell = ""]) => !status.test(cell)), [])
  })

  it("names a test for every feature that is there, and every test exists", () => {
    for (const [feature, status = "", cell = ""] of rows) {
      if (status.startsWith("not yet")) {
        assert.strictEqual(cell, "", feature)
        continue
      }
      const references = referencesOf(cell)
      if (references === undefined) return assert.fail(`${feature}: ${cell} names no test`)
      for (const { file, name } of references) {
        // A title is a literal: what it quotes is escaped there.
        assert.isTrue(
          [name, JSON.stringify(name).slice(1, -1)].some((name) => text(file).includes(name)),
          `${file}: ${name}`
        )
      }
    }
  })

  it("says not yet of no module that exists", () => {
    const modules = rows.flatMap(([, status = ""]) => /^not yet: `(.+)`$/.exec(status)?.[1] ?? [])
    assert.deepStrictEqual(modules.filter((module) => existsSync(module)), [])
  })

  it("links to pages that exist", () => {
    const links = Array.from(text(page).matchAll(/\]\((\w[\w.-]*\.md)\)/g), ([, link]) => `docs/${link}`)
    assert.isAtLeast(links.length, 3)
    assert.deepStrictEqual(links.filter((link) => !existsSync(link)), [])
  })
})

const url = (port: number, query = "") => `ws://127.0.0.1:${port}/socket/websocket?vsn=2.0.0${query}`

/** What is logged, with its parameters, of a client that is let in and one that is not. */
const logged = Effect.fnUntraced(function*(log: "Debug" | false, transportLog: "Debug" | false) {
  const lines: Array<readonly [level: string, line: string, parameters: unknown]> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    const line = String(Array.isArray(message) ? message[0] : message).replace(/ in \d.*/, "")
    lines.push([logLevel, line, fiber.getRef(References.CurrentLogAnnotations)["parameters"]])
  })
  const socket = Socket.make("loud", { channels: [], log })
  const socketLive = socket.layer(({ params }) =>
    params["user"] === "1" ? Effect.succeed(Socket.accept()) : Effect.fail(Socket.refuse())
  )
  const mount = Endpoint.mount(socket, { path: "/socket", host: "127.0.0.1", websocket: { transportLog } })
  const http = Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })
  const context = yield* Layer.build(
    HttpRouter.serve(mount, { disableLogger: true, disableListenLog: true }).pipe(
      Layer.provide([socketLive, PubSub.layer]),
      Layer.provideMerge(http),
      Layer.provide([Logger.layer([logger]), Layer.succeed(References.MinimumLogLevel, "Debug")])
    )
  )
  const { address } = Context.get(context, HttpServer.HttpServer)
  const port = "port" in address ? address.port : 0
  yield* Effect.promise(() => Client.open(url(port, "&user=1&api_token=secret")))
  yield* Effect.promise(() => Client.refused(url(port, "&user=2")))
  return lines
})

describe("features that no other test shows", () => {
  it.live("errorHandler answers whom connect has refused, and is told why", () =>
    Effect.gen(function*() {
      const errorHandler = ({ reason }: Socket.Refused) =>
        Effect.succeed(HttpServerResponse.text(String(reason), { status: reason === "bad token" ? 401 : 500 }))
      const { port } = yield* start([{ path: "/socket", websocket: { errorHandler } }])
      assert.strictEqual(yield* Effect.promise(() => Client.refused(url(port, "&token=bad"))), 401)
      yield* Effect.promise(() => Client.open(url(port)))
    }))

  it.live("of the subprotocols that a client names it is answered the one that the server prefers, and refused without one", () =>
    Effect.gen(function*() {
      const { port } = yield* start([{ path: "/socket", websocket: { subprotocols: ["a", "b"] } }])
      const ws = new WebSocket(url(port), ["c", "b", "a"])
      yield* Effect.promise(() => once(ws, "open"))
      assert.strictEqual(ws.protocol, "a")
      const headers = { "sec-websocket-protocol": "c" }
      assert.strictEqual(yield* Effect.promise(() => Client.refused(url(port), { headers })), 403)
      const silent = yield* Effect.promise(() => Client.open(url(port)))
      assert.strictEqual(silent.ws.protocol, "")
    }))

  it.effect("connect gets all headers, the user agent, and the values of the mount", () =>
    Effect.gen(function*() {
      const node = yield* Polling.start({ connectInfo: { region: "eu" } })
      const headers = { "user-agent": "test", "x-app": "1", "sec-websocket-x": "2", traceparent: "3", tracestate: "4" }
      yield* node.request("GET", { headers })
      const [info] = node.stage.infos
      assert.include(info?.headers, headers)
      assert.deepInclude(info, { userAgent: "test", custom: { region: "eu" }, session: undefined })
    }))

  it.effect("with the checks of origin and CSRF token both off nothing is mounted", () =>
    Effect.gen(function*() {
      const session = { cookie: "_app", read: Effect.succeed, checkCsrf: false }
      yield* Polling.start({ session })
      const exit = yield* Effect.exit(Polling.start({ session, checkOrigin: false }))
      assert.include(String(exit), "checkOrigin and checkCsrf both off")
    }))

  it.live("a connect is logged at the level of the socket, with its parameters filtered", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* logged("Debug", false), [
        ["Debug", "CONNECTED TO loud", { user: "1", api_token: "[FILTERED]", vsn: "2.0.0" }],
        ["Debug", "REFUSED CONNECTION TO loud", { user: "2", vsn: "2.0.0" }]
      ])
      assert.deepStrictEqual(yield* logged(false, false), [])
    }))

  it.effect("handleInfo answers a call, and takes a cast as any other message", () => {
    class Count extends Data.TaggedClass("Count")<{ readonly to: Process.ReplyTo<number> }> {}
    const Room = Channel.make("room:*")
    const RoomLive = Room.layer(() => {
      let count = 0
      return Effect.succeed({
        handleInfo: (message) =>
          message instanceof Count ? Process.reply(message.to, count) : Effect.sync(() => void count++)
      })
    })
    const UserSocket = Socket.make("user_socket", { channels: [Room] })
    const live = Layer.mergeAll(RoomLive, UserSocket.layer(() => Effect.succeed(Socket.accept())))
    return Effect.gen(function*() {
      const room = yield* ChannelTest.join(yield* ChannelTest.connect(UserSocket), Room, "room:1")
      yield* Process.send(room.pid, "cast")
      assert.strictEqual(yield* Process.call(room.pid, (to: Process.ReplyTo<number>) => new Count({ to })), 1)
    }).pipe(Effect.provide(Layer.provideMerge(live, ChannelTest.layer)))
  })

  it.live("a request is logged at the level of transportLog, without its query", () =>
    Effect.gen(function*() {
      const line = ["Debug", "GET /socket/websocket", undefined] as const
      assert.deepStrictEqual(yield* logged(false, "Debug"), [line, line])
    }))
})
