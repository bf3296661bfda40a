import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Metric, Redacted } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { once } from "node:events"
import { Agent, request } from "node:http"
import { connect } from "node:net"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { settle } from "../support/node.ts"
import { cluster, type Node, start } from "./polling.ts"
import * as server from "./server.ts"

const join = (topic = "room:1") => ["1", "1", topic, "phx_join", {}]
const echo = (ref: unknown, payload: unknown = {}) => ["1", ref, "room:1", "echo", payload]
const ok = (ref: unknown, response: unknown = {}, topic = "room:1") => [
  "1",
  ref,
  topic,
  "phx_reply",
  { status: "ok", response }
]

/** Begins now, and goes on until it has to wait. */
const begin = Effect.forkChild({ startImmediately: true })

/** A session that has joined the topic, and nothing left to poll. */
const joined = Effect.fnUntraced(function*(node: Node, query?: string) {
  const token = yield* node.start(query)
  yield* node.say(token, join())
  yield* node.get(token)
  return token
})

const stats = (node: Node) => node.run(Process.stats)

const jsonHeaders = {
  "access-control-allow-origin": "*",
  "cache-control": "no-store",
  "content-type": "application/json; charset=utf-8"
}
const otherHeaders = {
  "access-control-allow-origin": "*",
  "cache-control": "max-age=0, private, must-revalidate"
}

describe("a request", () => {
  it.effect("that starts a session is answered 410 with a token, over HTTP 200", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const { body, headers, http } = yield* node.request("GET")
      assert.strictEqual(http, 200)
      assert.include(headers, jsonHeaders)
      assert.hasAllKeys(body, ["status", "token", "messages"])
      assert.deepInclude(body, { status: 410, messages: [] })
      assert.notStrictEqual(yield* node.start(), yield* node.start())
    }))

  it.effect("is answered 403 when connect refuses, or nobody speaks the version", () =>
    Effect.gen(function*() {
      const node = yield* start()
      for (const query of ["?vsn=2.0.0&as=nobody", "?vsn=9.0.0"]) {
        const { body, headers, http } = yield* node.request("GET", { query })
        assert.deepStrictEqual([http, body], [200, { status: 403 }])
        assert.include(headers, jsonHeaders)
      }
      assert.strictEqual(node.stage.infos.length, 1)
    }))

  it.effect("tells connect what it would be told over a WebSocket", () =>
    Effect.gen(function*() {
      const node = yield* start()
      yield* node.start("?vsn=2.0.0&a[b]=c&")
      const [info] = node.stage.infos
      assert.deepInclude(info, { transport: "longpoll", authToken: undefined })
      assert.strictEqual(JSON.stringify(info?.params), `{"vsn":"2.0.0","a":{"b":"c"}}`)
    }))

  it.effect("hands its auth token to connect where the mount says so, and only there", () =>
    Effect.gen(function*() {
      const headers = { "x-phoenix-authtoken": "secret" }
      const node = yield* start(true, { authToken: true })
      yield* node.request("GET", { headers })
      yield* node.request("GET")
      assert.deepStrictEqual(node.stage.infos.map(({ authToken }) => authToken), ["secret", undefined])
      assert.notProperty(node.stage.infos[0]?.headers, "x-phoenix-authtoken")
      const without = yield* start()
      yield* without.request("GET", { headers })
      assert.strictEqual(without.stage.infos[0]?.authToken, undefined)
    }))

  it.effect("OPTIONS says what a page of another origin may do", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const { body, headers, http } = yield* node.request("OPTIONS", {
        query: "",
        headers: { "access-control-request-headers": "x-a, x-b" }
      })
      assert.deepStrictEqual([http, body], [200, ""])
      assert.deepStrictEqual(headers, {
        ...otherHeaders,
        "access-control-allow-headers": "x-a, x-b",
        "access-control-allow-methods": "get, post, options",
        "access-control-max-age": "3600"
      })
    }))

  it.effect("of any other method is answered HTTP 400", () =>
    Effect.gen(function*() {
      const node = yield* start()
      for (const method of ["PUT", "DELETE", "PATCH", "HEAD"]) {
        const { body, headers, http } = yield* node.request(method)
        assert.deepStrictEqual([http, body], [400, ""], method)
        assert.deepStrictEqual(headers, otherHeaders, method)
      }
    }))

  it.effect("of a foreign page is answered 403 before anything else, whatever its method", () =>
    Effect.gen(function*() {
      const node = yield* start({ checkOrigin: ["//friend.com"] })
      const token = yield* node.start()
      for (const method of ["GET", "POST", "OPTIONS", "PUT", "DELETE"]) {
        const { body, headers, http } = yield* node.request(method, { token, headers: { origin: "http://foe.com" } })
        assert.deepStrictEqual([http, body], [200, { status: 403 }], method)
        assert.include(headers, jsonHeaders)
      }
      assert.strictEqual((yield* node.request("GET", { headers: { origin: "http://friend.com" } })).http, 200)
    }))

  it.effect("with a malformed query is answered HTTP 400", () =>
    Effect.gen(function*() {
      const node = yield* start()
      assert.strictEqual((yield* node.request("GET", { query: "?a=%ff" })).http, 400)
    }))
})

describe("a token", () => {
  it.effect("that is none starts a session, and posts nothing", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const other = yield* (yield* start()).start()
      const token = yield* node.start()
      const queries = ["garbage.token.here", other, `${token}x`, "", "x".repeat(100_000)]
        .map((token) => `?vsn=2.0.0&token=${token}`)
      for (const query of ["?vsn=2.0.0", `?vsn=2.0.0&token[]=${token}`, `?vsn=2.0.0&token[a]=b`, ...queries]) {
        const started = yield* node.get(undefined, query)
        assert.deepInclude(started, { status: 410, messages: [] })
        assert.notStrictEqual(started["token"], token)
        assert.deepStrictEqual((yield* node.request("POST", { query, body: "[]" })).body, { status: 410 })
      }
    }))

  it.effect("in the header wins over one in the query, which is not looked at any more", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const header = (token: string) => ({ "x-phoenix-longpoll-token": token })
      const post = (token: string, headers: Record<string, string>) =>
        Effect.map(node.request("POST", { token, headers, body: JSON.stringify(echo("2")) }), ({ body }) => body)
      assert.deepStrictEqual(yield* post("stale", header(token)), { status: 200 })
      assert.deepStrictEqual(yield* post(token, header("stale")), { status: 410 })
      assert.deepInclude((yield* node.request("GET", { token: "stale", headers: header(token) })).body, {
        status: 200,
        token
      })
    }))

  it.effect("is accepted for 14 days", () =>
    Effect.gen(function*() {
      const node = yield* start({ window: "30 days" })
      const token = yield* node.start()
      // A session that is never used ends soon.
      assert.strictEqual(yield* node.say(token, join()), 200)
      yield* TestClock.adjust("13 days")
      assert.strictEqual(yield* node.say(token, echo("2")), 200)
      yield* TestClock.adjust("2 days")
      assert.strictEqual(yield* node.say(token, echo("2")), 410)
      assert.deepInclude(yield* node.get(token), { status: 410 })
    }))
})

describe("a poll", () => {
  it.effect("gets the frames that wait at once, oldest first and only once", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* node.start()
      yield* node.say(token, join(), echo("2", { a: "ż" }), ["1", "3", "room:1", "two", {}])
      assert.deepStrictEqual(yield* node.get(token), {
        status: 200,
        token,
        messages: [ok("1"), ok("2", { a: "ż" }), ["1", null, "room:1", "one", {}], ["1", null, "room:1", "two", {}]]
      })
      const next = yield* begin(node.get(token))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Fiber.join(next), { status: 204, token, messages: [] })
    }))

  it.effect("waits for a window and no longer", () =>
    Effect.gen(function*() {
      const node = yield* start({ window: "3 seconds" })
      const token = yield* node.start()
      const poll = yield* begin(node.get(token))
      yield* TestClock.adjust(2999)
      assert.strictEqual(poll.pollUnsafe(), undefined)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 204, token, messages: [] })
    }))

  it.effect("that waits gets what comes, with all that is sent in the same turn", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const poll = yield* begin(node.get(token))
      yield* node.say(token, ["1", "3", "room:1", "two", {}])
      assert.deepStrictEqual(yield* Fiber.join(poll), {
        status: 200,
        token,
        messages: [["1", null, "room:1", "one", {}], ["1", null, "room:1", "two", {}]]
      })
    }))

  it.effect("replaces the one that waits, which comes back with 204 and no frames", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const first = yield* begin(node.get(token))
      const second = yield* begin(node.get(token))
      yield* node.run(Endpoint.broadcast("room:1", "news", {}))
      assert.deepStrictEqual(yield* Fiber.join(first), { status: 204, token, messages: [] })
      assert.deepStrictEqual(yield* Fiber.join(second), {
        status: 200,
        token,
        messages: [[null, null, "room:1", "news", {}]]
      })
    }))

  it.effect("that comes between a frame and the poll it has woken gets the frame", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const first = yield* begin(node.get(token))
      const second = yield* Effect.andThen(
        node.run(Endpoint.broadcast("room:1", "news", {})),
        begin(node.get(token))
      )
      assert.deepInclude(yield* Fiber.join(first), { status: 204 })
      assert.deepInclude(yield* Fiber.join(second), { status: 200 })
    }))

  it.effect("whose client goes away takes no frame with it", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const gone = yield* begin(node.get(token))
      yield* Fiber.interrupt(gone)
      yield* node.run(Endpoint.broadcast("room:1", "first", {}))
      const woken = yield* Effect.andThen(node.run(Endpoint.broadcast("room:1", "second", {})), begin(node.get(token)))
      assert.deepStrictEqual((yield* Fiber.join(woken))["messages"], [
        [null, null, "room:1", "first", {}],
        [null, null, "room:1", "second", {}]
      ])
      const waiting = yield* begin(node.get(token))
      yield* node.run(Endpoint.broadcast("room:1", "third", {}))
      yield* Fiber.interrupt(waiting)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [[null, null, "room:1", "third", {}]])
    }))

  it.effect("gets a binary frame as a string with one character for each byte", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      yield* node.run(Endpoint.broadcast("room:1", "bin", Uint8Array.of(0, 127, 128, 255)))
      const { body } = yield* node.request("GET", { token })
      const frame = [2, 6, 3, ...new TextEncoder().encode("room:1bin"), 0, 127, 128, 255]
      assert.deepInclude(body, { messages: [String.fromCharCode(...frame)] })
    }))

  it.effect("speaks the version that its session was started with", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* node.start("?vsn=1.0.0")
      const frame = { topic: "room:1", event: "phx_join", payload: {}, ref: "1" }
      assert.strictEqual(yield* node.post(token, JSON.stringify(frame), "application/json"), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [
        { topic: "room:1", event: "phx_reply", ref: "1", payload: { status: "ok", response: {} } }
      ])
    }))
})

describe("a post", () => {
  it.effect("of ndjson holds a frame in each line; empty lines are none", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* node.start()
      const [a, b, c] = [join(), echo("2"), echo("3")].map((frame) => JSON.stringify(frame))
      assert.strictEqual(yield* node.post(token, `${a}\n${b}\r\n\r\n\n${c}\n`), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("1"), ok("2"), ok("3")])
      assert.strictEqual(yield* node.post(token, ""), 200)
    }))

  it.effect("is read up to its 100th entry", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const refs = Array.from({ length: 101 }, (_, index) => String(index))
      assert.strictEqual(yield* node.say(token, ...refs.map((ref) => echo(ref))), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], refs.slice(0, 100).map((ref) => ok(ref)))
    }))

  it.effect("holds binary frames in base64", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const frame = Buffer.concat([Buffer.from([0, 1, 1, 6, 4]), Buffer.from("12room:1echo"), Buffer.from([0, 255])])
      assert.strictEqual(yield* node.post(token, frame.toString("base64")), 200)
      const { body } = yield* node.request("GET", { token })
      const reply = [1, 1, 1, 6, 2, ...Buffer.from("12room:1ok"), 0, 255]
      assert.deepInclude(body, { messages: [String.fromCharCode(...reply)] })
    }))

  it.effect("with an entry that is no base64 is refused as a whole with HTTP 500, and its session lives on", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      for (const entry of ["!!!", "QQ", "QQ=", "Q-_=", " []", `{"topic":"room:1"}`]) {
        assert.strictEqual(yield* node.post(token, `${JSON.stringify(echo("2"))}\n${entry}`), "HTTP 500", entry)
      }
      assert.deepStrictEqual(node.stage.handled, [])
      assert.strictEqual(yield* node.say(token, echo("3")), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("3")])
    }))

  it.effect("of any other content type is one message", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* node.start()
      const types = ["application/json", "text/plain", "application/x-ndjsonx; charset=utf-8"]
      for (const [index, type] of types.entries()) {
        const frame = [String(index), String(index), `room:${index}`, "phx_join", {}]
        assert.strictEqual(yield* node.post(token, JSON.stringify(frame, undefined, 1), type), 200, type)
      }
      assert.strictEqual(((yield* node.get(token))["messages"] as ReadonlyArray<unknown>).length, 3)
    }))

  it.effect("of ndjson is one however the content type is written", () =>
    Effect.gen(function*() {
      const types = [
        "application/x-ndjson; charset=utf-8",
        "application/x-ndjson;charset=UTF-8",
        "Application/X-NDJSON",
        " application/x-ndjson ; q=1",
        "application/x-ndjson;"
      ]
      for (const type of types) {
        const node = yield* start()
        const token = yield* node.start()
        const lines = ["room:1", "room:2"].map((topic) => JSON.stringify([topic, topic, topic, "phx_join", {}]))
        assert.strictEqual(yield* node.post(token, lines.join("\n"), type), 200, type)
        assert.strictEqual(((yield* node.get(token))["messages"] as ReadonlyArray<unknown>).length, 2, type)
      }
    }))

  it.effect("is answered 200 when what it says is answered with an error", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      assert.strictEqual(yield* node.say(token, ["1", "2", "room:1", "fail", {}]), 200)
      assert.strictEqual(yield* node.say(token, ["9", "3", "no", "x", {}]), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [
        ["1", "2", "room:1", "phx_reply", { status: "error", response: { reason: "failed" } }],
        [null, "3", "no", "phx_reply", { status: "error", response: { reason: "unmatched topic" } }]
      ])
    }))

  it.effect("drops a stale entry and goes on", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      assert.strictEqual(yield* node.say(token, ["old", "2", "room:1", "echo", {}], echo("3")), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("3")])
    }))

  it.effect("that a join holds up is answered 408 after a window, and the rest of it is dropped", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const post = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}], echo("3")))
      yield* Deferred.await(node.stage.entered)
      yield* TestClock.adjust(9999)
      assert.strictEqual(post.pollUnsafe(), undefined)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Fiber.join(post), 408)
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.strictEqual(yield* node.say(token, echo("4")), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [
        ["2", "2", "slow:1", "phx_reply", { status: "ok", response: {} }],
        ok("4")
      ])
    }))

  it.effect("waits for those before it", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const slow = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}], echo("3")))
      yield* Deferred.await(node.stage.entered)
      const next = yield* begin(node.say(token, echo("4")))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(next.pollUnsafe(), undefined)
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.deepStrictEqual([yield* Fiber.join(slow), yield* Fiber.join(next)], [200, 200])
      assert.deepStrictEqual((yield* node.get(token))["messages"], [
        ["2", "2", "slow:1", "phx_reply", { status: "ok", response: {} }],
        ok("3"),
        ok("4")
      ])
    }))

  it.effect("over a frame that is still being handled passes nothing on", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const slow = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}]))
      yield* Deferred.await(node.stage.entered)
      yield* Fiber.interrupt(slow)
      const next = yield* begin(node.say(token, echo("3")))
      while ((yield* stats(node)).timers < 2) yield* Effect.promise(() => new Promise(setImmediate))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(next), 408)
      yield* Deferred.succeed(node.stage.gate, undefined)
      assert.strictEqual(yield* node.say(token, echo("4")), 200)
      assert.deepStrictEqual(node.stage.handled, ["echo"])
    }))

  it.effect("with too large a body is answered HTTP 400, as is one that is not UTF-8", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxBody: 100 })
      const token = yield* joined(node)
      assert.strictEqual(yield* node.say(token, echo("2", "x".repeat(100))), "HTTP 400")
      assert.strictEqual(yield* node.post(token, Uint8Array.of(91, 255, 93)), "HTTP 400")
      assert.strictEqual(yield* node.say(token, echo("3")), 200)
      assert.deepStrictEqual((yield* node.get(token))["messages"], [ok("3")])
    }))

  it.effect("with a base64 entry of more than 10,000,000 characters is answered HTTP 400", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxBody: 20_000_000 })
      const token = yield* joined(node)
      assert.strictEqual(yield* node.post(token, "A".repeat(10_000_004)), "HTTP 400")
    }))
})

describe("a session", () => {
  it.effect("ends with what is no message: the post is answered 408 at once, a poll that waits 410", () =>
    Effect.gen(function*() {
      const node = yield* start()
      for (const body of ["[]", "[1", "", "{}"]) {
        const token = yield* joined(node)
        const poll = yield* begin(node.get(token))
        assert.strictEqual(yield* node.post(token, body, "application/json"), 408)
        assert.deepStrictEqual(yield* Fiber.join(poll), { status: 410, messages: [] })
        assert.strictEqual(yield* node.say(token, echo("2")), 410)
        const started = yield* node.get(token)
        assert.deepInclude(started, { status: 410, messages: [] })
        assert.notStrictEqual(started["token"], token)
      }
      assert.match(node.stage.log[0] ?? "", /^Error malformed frame/)
    }))

  it.effect("ends by a disconnect at once, and so do the requests that wait", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node, "?vsn=2.0.0&id=me")
      const poll = yield* begin(node.get(token))
      const post = yield* begin(node.say(token, ["2", "2", "slow:1", "phx_join", {}]))
      yield* Deferred.await(node.stage.entered)
      yield* node.run(Endpoint.disconnect("me"))
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 410, messages: [] })
      assert.strictEqual(yield* Fiber.join(post), 410)
      assert.strictEqual(yield* node.say(token, echo("3")), 410)
      assert.deepStrictEqual(node.stage.endings, ["disconnected"])
      yield* Deferred.succeed(node.stage.gate, undefined)
    }))

  it.effect("hands out what it has sent before it ends", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node, "?vsn=2.0.0&id=me")
      const poll = yield* begin(node.get(token))
      yield* node.run(
        Effect.andThen(Endpoint.broadcast("room:1", "last", {}), Endpoint.disconnect("me"))
      )
      assert.deepStrictEqual(yield* Fiber.join(poll), {
        status: 200,
        token,
        messages: [[null, null, "room:1", "last", {}]]
      })
    }))

  it.effect("that nobody polls for one and a half windows ends, whatever is posted", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const idle = yield* stats(node)
      const token = yield* joined(node)
      yield* TestClock.adjust(14_999)
      assert.strictEqual(yield* node.say(token, echo("2")), 200)
      assert.deepStrictEqual(node.stage.endings, [])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(node.stage.endings, ["inactive"])
      assert.strictEqual(yield* node.say(token, echo("3")), 410)
      assert.deepStrictEqual(yield* stats(node), idle)
    }))

  it.effect("lives as long as somebody polls, and is looked at every one and a half windows", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      for (let count = 0; count < 10; count++) {
        const poll = yield* begin(node.get(token))
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* Fiber.join(poll), { status: 204, token, messages: [] })
      }
      // The last poll ended after 100 seconds: at 105 that is no time ago.
      yield* TestClock.adjust("19 seconds")
      assert.deepStrictEqual(node.stage.endings, [])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(node.stage.endings, ["inactive"])
    }))

  it.effect("ends by inactivity although a join never does", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const idle = yield* stats(node)
      const token = yield* node.start()
      const post = yield* begin(node.say(token, ["1", "1", "slow:1", "phx_join", {}]))
      yield* Deferred.await(node.stage.entered)
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual(yield* Fiber.join(post), 408)
      assert.strictEqual(yield* node.say(token, join()), 410)
      yield* Deferred.succeed(node.stage.gate, undefined)
      yield* settle
      assert.deepStrictEqual(yield* stats(node), idle)
    }))

  it.effect("with more bytes waiting than it may keep ends, however large a single frame may be", () =>
    Effect.gen(function*() {
      const node = yield* start({ maxBuffer: 1000 })
      const token = yield* joined(node)
      assert.strictEqual(yield* node.say(token, echo("2", "x".repeat(2000))), 200)
      assert.deepInclude(yield* node.get(token), { status: 200 })
      yield* node.say(token, echo("3", "x".repeat(600)))
      yield* node.say(token, echo("4", "x".repeat(600)))
      assert.deepInclude(yield* node.get(token), { status: 410 })
      assert.deepStrictEqual(node.stage.endings, ["buffer_full"])
      assert.match(node.stage.log.join(), /^Warn a long-poll client does not fetch its frames/)
    }))

  it.effect("ends when its node stops, and so do the requests that wait", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const token = yield* joined(node)
      const poll = yield* begin(node.get(token))
      yield* node.stop
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 410, messages: [] })
      assert.deepStrictEqual(node.stage.endings, ["draining"])
      assert.strictEqual((yield* node.request("GET")).http, 503)
    }))
})

describe("the traffic of sessions", () => {
  it.effect("is counted: what is passed on, and what is fetched", () =>
    Effect.gen(function*() {
      const node = yield* start()
      const attributes = { socket: "user_socket", transport: "longpoll" }
      const read = node.run(Effect.forEach(
        [Telemetry.framesReceived, Telemetry.bytesReceived, Telemetry.framesSent, Telemetry.bytesSent],
        (metric) => Effect.map(Metric.value(Metric.withAttributes(metric, attributes)), ({ count }) => count)
      ))
      const before = yield* read
      const token = yield* node.start()
      yield* node.say(token, join(), echo("2", "ż"))
      const posted = [join(), echo("2", "ż")].map((frame) => Buffer.byteLength(JSON.stringify(frame)))
      const sent = [ok("1"), ok("2", "ż")].map((frame) => Buffer.byteLength(JSON.stringify(frame)))
      const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((a, b) => a + b)
      const since = Effect.map(read, (now) => now.map((count, index) => count - (before[index] ?? 0)))
      assert.deepStrictEqual(yield* since, [2, sum(posted), 0, 0])
      yield* node.get(token)
      assert.deepStrictEqual(yield* since, [2, sum(posted), 2, sum(sent)])
    }))

  const steps = fc.array(fc.constantFrom("broadcast", "broadcast", "poll", "interrupt", "yield", "window"), {
    maxLength: 60
  })

  it("comes to whom polls in order, each frame once, however often polls are replaced, interrupted and too late", () =>
    fc.assert(
      fc.asyncProperty(steps, (steps) =>
        Effect.gen(function*() {
          const node = yield* start({ window: "2 seconds" })
          const token = yield* joined(node)
          const polls: Array<Fiber.Fiber<Record<string, unknown>>> = []
          let count = 0
          for (const step of [...steps, "broadcast"]) {
            if (step === "broadcast") yield* node.run(Endpoint.broadcast("room:1", "n", { n: count++ }))
            else if (step === "poll") polls.push(yield* begin(node.get(token)))
            else if (step === "yield") yield* Effect.yieldNow
            else if (step === "window") {
              polls.push(yield* begin(node.get(token)))
              yield* TestClock.adjust("2 seconds")
            } else {
              // One that has an answer is not interrupted any more: its frames are on their way.
              const last = polls.at(-1)
              if (last?.pollUnsafe() === undefined) polls.pop()
              if (last !== undefined) yield* Fiber.interrupt(last)
            }
          }
          polls.push(yield* begin(node.get(token)))
          yield* TestClock.adjust("2 seconds")
          const told = yield* Fiber.joinAll(polls)
          const numbers = told.flatMap(({ messages }) =>
            (messages as ReadonlyArray<readonly [...Array<unknown>, { n: number }]>).map((frame) => frame.at(-1))
          )
          assert.deepStrictEqual(numbers, Array.from({ length: count }, (_, n) => ({ n })))
        }).pipe(Effect.scoped, Effect.provide(TestClock.layer()), Effect.runPromise))
    ))
})

describe("nodes that share a secret", () => {
  const secretKeyBase = "a secret that is known to both nodes"

  const pair = Effect.fnUntraced(function*(options: Endpoint.LongPollOptions = { secretKeyBase }) {
    const { down, layers: [left, right], sent } = cluster("a", "b")
    return { down, sent, a: yield* start(options, {}, left), b: yield* start(options, {}, right) }
  })

  it.effect("reach each other's sessions", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair()
      const token = yield* a.start()
      assert.strictEqual(yield* b.say(token, join(), echo("2", { a: 1 })), 200)
      assert.deepStrictEqual(yield* b.get(token), { status: 200, token, messages: [ok("1"), ok("2", { a: 1 })] })
      const poll = yield* begin(b.request("GET", { token }))
      yield* a.run(Endpoint.broadcast("room:1", "bin", Uint8Array.of(200)))
      assert.deepInclude((yield* Fiber.join(poll)).body, { messages: ["\x02\x06\x03room:1bin\xc8"] })
      assert.deepStrictEqual(b.stage.handled, [])
      const push = Buffer.concat([Buffer.from([0, 1, 1, 6, 4]), Buffer.from("13room:1echo")])
      assert.strictEqual(yield* b.post(token, push.toString("base64")), 200)
      assert.deepStrictEqual(a.stage.handled, ["echo", "echo"])
      assert.strictEqual(yield* b.post(token, "[]"), 408)
      assert.strictEqual(yield* a.say(token, echo("4")), 410)
    }))

  it.effect("wait for the other node's session for a window", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair()
      const token = yield* a.start()
      const poll = yield* begin(b.get(token))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 204, token, messages: [] })
      const next = yield* begin(b.get(token))
      yield* a.stop
      assert.deepStrictEqual(yield* Fiber.join(next), { status: 410, messages: [] })
    }))

  it.effect("lose no frame with a client that goes away", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair()
      const token = yield* joined(a)
      yield* Fiber.interrupt(yield* begin(b.get(token)))
      yield* a.run(Endpoint.broadcast("room:1", "news", {}))
      yield* settle
      assert.deepStrictEqual((yield* b.get(token))["messages"], [[null, null, "room:1", "news", {}]])
    }))

  it.effect("take a session for dead from which there is no sign of life", () =>
    Effect.gen(function*() {
      const { a, b, down } = yield* pair()
      const token = yield* a.start()
      down.add("a")
      const post = yield* begin(b.say(token, join()))
      while ((yield* stats(b)).timers < 1) yield* Effect.promise(() => new Promise(setImmediate))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(post), 410)
      const poll = yield* begin(b.get(token))
      yield* TestClock.adjust(1999)
      assert.strictEqual(poll.pollUnsafe(), undefined)
      yield* TestClock.adjust(1)
      const started = yield* Fiber.join(poll)
      assert.deepInclude(started, { status: 410, messages: [] })
      assert.notStrictEqual(started["token"], token)
    }))

  it.effect("tell a client that its session is gone when its node goes while it waits", () =>
    Effect.gen(function*() {
      const { a, b, down } = yield* pair()
      const token = yield* a.start()
      const poll = yield* begin(b.get(token))
      down.add("a").add("b")
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 410, messages: [] })
    }))

  it.effect("send a client that waits elsewhere when they stop", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair()
      const token = yield* joined(a)
      const poll = yield* begin(b.get(token))
      yield* b.stop
      assert.deepStrictEqual(yield* Fiber.join(poll), { status: 204, token, messages: [] })
      yield* a.run(Endpoint.broadcast("room:1", "news", {}))
      yield* settle
      assert.deepStrictEqual((yield* a.get(token))["messages"], [[null, null, "room:1", "news", {}]])
    }))

  it.effect("need one of 20 bytes at least, which may be redacted", () =>
    Effect.gen(function*() {
      const { a, b } = yield* pair({ secretKeyBase: Redacted.make(secretKeyBase) })
      assert.strictEqual(yield* b.say(yield* a.start(), join()), 200)
      const exit = yield* Effect.exit(start({ secretKeyBase: "short" }))
      assert.match(String(exit), /needs at least 20/)
    }))

  it.effect("keep nothing of a request that is over", () =>
    Effect.gen(function*() {
      const { a, b, sent } = yield* pair()
      const idle = yield* stats(b)
      const token = yield* joined(a)
      yield* b.say(token, echo("2"))
      yield* b.get(token)
      assert.deepStrictEqual(yield* stats(b), idle)
      const count = sent.length
      yield* b.stop
      assert.strictEqual(sent.length, count)
    }))

  it.effect("are told apart from those that do not: these send nothing", () =>
    Effect.gen(function*() {
      const { a, b, sent } = yield* pair({})
      const token = yield* a.start()
      assert.strictEqual(yield* b.say(token, join()), 410)
      assert.deepInclude(yield* b.get(token), { status: 410 })
      assert.deepStrictEqual(sent, [])
    }))
})

describe("over a real connection", () => {
  const mounts: ReadonlyArray<Endpoint.Options> = [{ path: "/socket", longpoll: { transportLog: "Debug" } }]

  interface Answer {
    readonly status: number
    readonly token: string
    readonly messages: ReadonlyArray<string>
  }

  const over = (name: string, body: (url: string, server: server.TestServer) => Promise<void>) =>
    it.live(name, () =>
      Effect.gen(function*() {
        server.endings.length = 0
        const started = yield* server.start(mounts)
        yield* Effect.promise(() => body(`http://127.0.0.1:${started.port}/socket/longpoll?vsn=2.0.0`, started))
      }))

  const get = async (url: string): Promise<Answer> => await (await fetch(url)).json()

  const post = async (url: string, ...frames: ReadonlyArray<ReadonlyArray<unknown>>) => {
    const body = frames.map((frame) => JSON.stringify(frame)).join("\n")
    return (await fetch(url, { method: "POST", body, headers: { "content-type": "application/x-ndjson" } })).json()
  }

  const session = async (url: string) => `${url}&token=${(await get(url)).token}`

  over("a conversation: join, echo, broadcast, leave", async (url, server) => {
    const mine = await session(url)
    assert.deepStrictEqual(await post(mine, join(), echo("2", [1, "ä"])), { status: 200 })
    assert.deepStrictEqual((await get(mine)).messages.map((frame) => JSON.parse(frame)), [ok("1"), ok("2", [1, "ä"])])
    const poll = get(mine)
    await server.run(Endpoint.broadcast("room:1", "news", {}))
    assert.deepStrictEqual((await poll).messages, [`[null,null,"room:1","news",{}]`])
    await post(mine, ["1", "3", "room:1", "phx_leave", {}])
    const left = (await get(mine)).messages.map((frame) => JSON.parse(frame))
    assert.deepStrictEqual(left[0], ok("3"))
  })

  /** Resolves when this many timers run on the server: a session has one, and a poll that waits another. */
  const timers = async ({ run }: server.TestServer, count: number) => {
    while ((await run(Process.stats)).timers !== count) await new Promise(setImmediate)
  }

  over("a client that hangs up while it waits, or while it posts, loses nothing", async (url, server) => {
    const mine = await session(url)
    await post(mine, join())
    await get(mine)
    const { port } = server
    const waiting = request(mine).on("error", () => {}).end()
    await timers(server, 2)
    waiting.destroy()
    await timers(server, 1)
    const socket = connect(port, "127.0.0.1").on("error", () => {})
    socket.write(`POST ${mine.slice(mine.indexOf("/socket"))} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n["1"`)
    await once(socket, "connect")
    socket.destroy()
    await server.run(Endpoint.broadcast("room:1", "news", {}))
    assert.strictEqual((await get(mine)).status, 200)
    assert.deepStrictEqual(await post(mine, echo("2")), { status: 200 })
  })

  over(
    "a server that stops answers the polls that wait, and does not wait for what their clients ask next",
    async (url, server) => {
      const agent = new Agent({ keepAlive: true })
      const mine = await session(url)
      await post(mine, join())
      await get(mine)
      const polled = new Promise<{ readonly body: string; readonly connection: unknown }>((resolve, reject) => {
        request(mine, { agent }, (response) => {
          let body = ""
          response.on("data", (chunk) => body += String(chunk))
          response.on("end", () => resolve({ body, connection: response.headers.connection }))
        }).on("error", reject).end()
      })
      await timers(server, 2)
      await Effect.runPromise(server.stop)
      assert.deepStrictEqual(await polled, { body: `{"status":410,"messages":[]}`, connection: "close" })
      assert.deepStrictEqual(server.errors, [])
      agent.destroy()
    }
  )
})
