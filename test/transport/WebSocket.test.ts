import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { once } from "node:events"
import { request } from "node:http"
import { createRequire } from "node:module"
import { connect, type Socket as NetSocket } from "node:net"
// @ts-expect-error the package comes without types
import { Socket as Phoenix } from "phoenix"
import { WebSocket } from "ws"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Process from "../../src/Process.ts"
import { Client, endings, plain, start, type TestServer, until, ways } from "./server.ts"

const mount: Endpoint.Options = { path: "/socket" }

/** A test against a server on a real port, on the real clock, for each way of a handshake. */
const over = (
  name: string,
  body: (server: TestServer) => Promise<void>,
  mounts: ReadonlyArray<Endpoint.Options> = [mount]
) => {
  for (const [suffix, way] of ways) {
    it.live(`${name}${suffix}`, () =>
      Effect.gen(function*() {
        endings.length = 0
        const server = yield* start(mounts.map(way))
        yield* Effect.promise(() => body(server))
      }))
  }
}

const url = (server: TestServer, query = "vsn=2.0.0", path = "/socket/websocket") =>
  `ws://127.0.0.1:${server.port}${path}?${query}`

const ok = (joinRef: unknown, ref: unknown, topic: string, response: unknown = {}) => [
  joinRef,
  ref,
  topic,
  "phx_reply",
  { status: "ok", response }
]

const stillServes = async (server: TestServer) => {
  const client = await Client.open(url(server))
  assert.deepStrictEqual(await client.ask([null, "1", "phoenix", "heartbeat", {}]), ok(null, "1", "phoenix"))
  client.ws.terminate()
  assert.strictEqual(await (await fetch(`http://127.0.0.1:${server.port}/hello`)).text(), "hello")
}

/** Everything ends that had to do with connections. */
const settles = async (server: TestServer, processes: number) => {
  while ((await server.run(Process.stats)).processes > processes) {
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** The status of an ordinary HTTP request. */
const status = (server: TestServer, method: string, path: string, headers: Record<string, string> = {}) =>
  new Promise<{ readonly status: number; readonly body: string }>((resolve, reject) => {
    request({ port: server.port, host: "127.0.0.1", method, path, headers, agent: false }, (response) => {
      let body = ""
      response.on("data", (chunk) => body += String(chunk))
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }))
    }).on("error", reject).end()
  })

const handshake = (path = "/socket/websocket?vsn=2.0.0") =>
  `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`
  + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

const dial = async (server: TestServer) => {
  const socket = connect(server.port, "127.0.0.1")
  socket.on("error", () => {})
  await once(socket, "connect")
  return socket
}

describe("a conversation", () => {
  over("in raw V2 frames: join, reply, broadcast, leave, crash", async (server) => {
    const [a, b] = [await Client.open(url(server)), await Client.open(url(server))]
    assert.deepStrictEqual(await a.ask(["1", "1", "room:1", "phx_join", { n: 1 }]), ok("1", "1", "room:1", { n: 1 }))
    await b.join()
    assert.deepStrictEqual(await a.ask(["1", "2", "room:1", "echo", [1, "ä"]]), ok("1", "2", "room:1", [1, "ä"]))
    a.send(["1", "3", "room:1", "shout", { text: "hi" }])
    const shout = [null, null, "room:1", "shout", { text: "hi" }]
    assert.deepStrictEqual(await b.next(), shout)
    assert.deepStrictEqual(await a.next(), shout)
    assert.deepStrictEqual(await a.next(), ok("1", "3", "room:1"))
    assert.deepStrictEqual(await b.ask(["1", "4", "room:1", "phx_leave", {}]), ok("1", "4", "room:1"))
    assert.deepStrictEqual(await b.next(), ["1", "1", "room:1", "phx_close", {}])
    assert.deepStrictEqual(await a.ask(["1", "5", "room:1", "die", {}]), [
      "1",
      "1",
      "room:1",
      "phx_error",
      { reason: "channel_crash" }
    ])
    assert.deepStrictEqual(endings, ["left", "Crash"])
  })

  over("in V2 binary frames", async (server) => {
    const client = await Client.open(url(server))
    await client.join()
    const push = Buffer.concat([Buffer.from([0, 1, 1, 6, 4]), Buffer.from("12room:1echo"), Buffer.from([0, 255])])
    assert.deepStrictEqual(
      await client.ask(new Uint8Array(push)),
      new Uint8Array([1, 1, 1, 6, 2, ...Buffer.from("12room:1ok"), 0, 255])
    )
    await server.run(Endpoint.broadcast("room:1", "bin", new Uint8Array([9])))
    assert.deepStrictEqual(await client.next(), new Uint8Array([2, 6, 3, ...Buffer.from("room:1bin"), 9]))
  })

  over("in raw V1 frames, in a binary frame too", async (server) => {
    for (const query of ["", "vsn=1.0.0"]) {
      const client = await Client.open(url(server, query))
      const frame = { topic: "room:1", event: "phx_join", payload: { a: 1 }, ref: "1" }
      const reply = { topic: "room:1", event: "phx_reply", ref: "1", payload: { status: "ok", response: { a: 1 } } }
      assert.deepStrictEqual(await client.ask(JSON.stringify(frame)), reply)
      const echo = { topic: "room:1", event: "echo", payload: {}, ref: 2 }
      assert.deepStrictEqual(await client.ask(Buffer.from(JSON.stringify(echo))), {
        topic: "room:1",
        event: "phx_reply",
        ref: 2,
        payload: { status: "ok", response: {} }
      })
    }
  })

  const pushed = <A>(push: {
    receive: (status: string, callback: (response: A) => void) => unknown
  }) =>
    new Promise<A>((resolve, reject) => {
      push.receive("ok", resolve)
      push.receive("error", reject)
      push.receive("timeout", () => reject(new Error("timeout")))
    })

  over(
    "of phoenix.js 1.8: join, push, broadcast, crash and rejoin, disconnect and reconnect, leave, binary",
    async (server) => {
      const client = (id: string) =>
        new Phoenix(`ws://127.0.0.1:${server.port}/socket`, {
          transport: WebSocket as never,
          params: { id, nested: { a: ["x"] } },
          reconnectAfterMs: () => 1,
          rejoinAfterMs: () => 1
        })
      const [a, b] = [client("user:a"), client("user:b")]
      a.connect()
      b.connect()
      const [roomA, roomB] = [a.channel("room:1", { hello: 1 }), b.channel("room:1")]
      assert.deepStrictEqual(await pushed(roomA.join()), { hello: 1 })
      await pushed(roomB.join())
      assert.deepStrictEqual(await pushed(roomA.push("echo", { n: 1 })), { n: 1 })
      const { params } = await pushed(roomA.push("info", {})) as { params: unknown }
      assert.deepStrictEqual(params, { id: "user:a", nested: { a: { 0: "x" } }, vsn: "2.0.0" })
      const heard = new Promise((resolve) => roomB.on("shout", resolve))
      roomA.push("shout", { text: "hi" })
      assert.deepStrictEqual(await heard, { text: "hi" })
      const bytes = await pushed(roomA.push("echo", new Uint8Array([1, 2]).buffer)) as unknown as ArrayBuffer
      assert.deepStrictEqual(new Uint8Array(bytes), new Uint8Array([1, 2]))

      const crashed = new Promise((resolve) => roomA.onError(resolve))
      roomA.push("die", {})
      assert.deepStrictEqual(await crashed, { reason: "channel_crash" })
      // Pushes wait until the channel has joined again by itself.
      assert.deepStrictEqual(await pushed(roomA.push("echo", { n: 2 })), { n: 2 })

      const closed = new Promise<{ code: number }>((resolve) => a.onClose(resolve as never))
      await server.run(Endpoint.disconnect("user:a"))
      assert.strictEqual((await closed).code, 1001)
      assert.deepStrictEqual(await pushed(roomA.push("echo", { n: 3 })), { n: 3 })
      assert.isTrue(b.isConnected())

      await pushed(roomA.leave() as never)
      a.disconnect()
      b.disconnect()
      await settles(server, 2)
    }
  )

  over(
    "of phoenix-channels 1.0, its V1 ancestor: join, push, broadcast, crash and rejoin, reconnect, leave",
    async (server) => {
      const require = createRequire(import.meta.url)
      const { Socket: Ancestor } = require("phoenix-channels")
      const client = new Ancestor(`ws://127.0.0.1:${server.port}/socket`, {
        transport: WebSocket,
        params: { id: "old" },
        reconnectAfterMs: () => 1,
        timeout: 15_000
      })
      client.connect()
      const room = client.channel("room:1", { hello: 1 })
      // Its timer for joining again runs on until the reply is there: with a short one it would join twice.
      room.rejoinTimer.timerCalc = (tries: number) => tries === 1 ? 200 : 2000
      assert.deepStrictEqual(await pushed(room.join()), { hello: 1 })
      assert.deepStrictEqual(await pushed(room.push("echo", { n: 1 })), { n: 1 })
      const heard = new Promise((resolve) => room.on("shout", resolve))
      await server.run(Endpoint.broadcast("room:1", "shout", { text: "hi" }))
      assert.deepStrictEqual(await heard, { text: "hi" })
      const crashed = new Promise((resolve) => room.onError(resolve))
      room.push("die", {})
      await crashed
      assert.deepStrictEqual(await pushed(room.push("echo", { n: 2 })), { n: 2 })
      const closed = new Promise<{ code: number }>((resolve) => client.onClose(resolve))
      await server.run(Endpoint.disconnect("old"))
      assert.strictEqual((await closed).code, 1001)
      assert.deepStrictEqual(await pushed(room.push("echo", { n: 3 })), { n: 3 })
      const gone = new Promise((resolve) => room.onClose(resolve))
      room.leave()
      await gone
      client.disconnect()
      await settles(server, 2)
    }
  )
})

describe("the handshake", () => {
  over("leaves the application's own routes on the port alone", async (server) => {
    assert.deepStrictEqual(await status(server, "GET", "/hello"), { status: 200, body: "hello" })
    assert.strictEqual((await status(server, "GET", "/nowhere")).status, 404)
    assert.strictEqual(await Client.refused(`ws://127.0.0.1:${server.port}/nowhere`), 404)
  })

  over("picks the serializer by vsn, and refuses others with 403", async (server) => {
    for (const vsn of ["1.0.0", "1.0.9", "2.0.0", "2.0.5"]) {
      ;(await Client.open(url(server, `vsn=${vsn}`))).ws.terminate()
    }
    for (const query of ["vsn=2", "vsn=2.0", "vsn=3.0.0", "vsn=1.1.0", "vsn=", "vsn[]=2.0.0", "vsn=x"]) {
      assert.strictEqual(await Client.refused(url(server, query)), 403, query)
    }
    assert.isTrue(server.errors.every((line) => line.startsWith("Warn")))
  })

  over("refuses with 403 whom connect refuses, with 500 where it dies", async (server) => {
    assert.strictEqual(await Client.refused(url(server, "vsn=2.0.0&token=bad")), 403)
    assert.strictEqual(await Client.refused(url(server, "vsn=2.0.0&token=die")), 500)
    await stillServes(server)
  })

  over("refuses foreign origins with 403, by default all but the own host", async (server) => {
    const origin = (origin: string) => ({ origin })
    for (const bad of ["http://evil.example", "null", "file://", "http://127.0.0.1.evil.example"]) {
      assert.strictEqual(await Client.refused(url(server), origin(bad)), 403, bad)
    }
    for (const good of ["http://127.0.0.1", "https://127.0.0.1:1"]) {
      ;(await Client.open(url(server), origin(good))).ws.terminate()
    }
    const other = (path: string) => url(server, "vsn=2.0.0", path)
    assert.strictEqual(await Client.refused(other("/list/websocket"), origin("http://127.0.0.1")), 403)
    ;(await Client.open(other("/list/websocket"), origin("https://app.example:9"))).ws.terminate()
    ;(await Client.open(other("/any/websocket"), origin("http://evil.example"))).ws.terminate()
    // Once for each of the two mounts that have refused somebody: the line is not repeated for a while.
    assert.strictEqual(server.errors.filter((line) => line.startsWith("Error could not check origin")).length, 2)
  }, [
    mount,
    { path: "/list", websocket: { checkOrigin: ["//app.example"] } },
    { path: "/any", websocket: { checkOrigin: false } }
  ])

  over("asks for the upgrade by GET: 400 otherwise", async (server) => {
    const path = "/socket/websocket?vsn=2.0.0"
    const plain = await status(server, "GET", path)
    assert.strictEqual(plain.status, 400)
    assert.include(plain.body, "upgrade")
    for (const method of ["POST", "PUT", "DELETE"]) {
      assert.strictEqual((await status(server, method, path)).status, 400, method)
    }
    const upgrade = {
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="
    }
    assert.strictEqual((await status(server, "GET", path, upgrade)).status, 400)
    assert.strictEqual((await status(server, "POST", path, { ...upgrade, connection: "upgrade" })).status, 400)
    const asking = { ...upgrade, connection: "keep-alive, Upgrade" }
    assert.strictEqual((await status(server, "GET", path, { ...asking, "sec-websocket-key": "short" })).status, 400)
    assert.isAtLeast((await status(server, "GET", path, { ...asking, "sec-websocket-version": "12" })).status, 400)
    assert.strictEqual((await status(server, "GET", path, { ...asking, upgrade: "h2c" })).status, 400)
    await stillServes(server)
  })

  over(
    "that is refused leaves nothing behind that a stopping server waits for, whatever else the client sends",
    async (server) => {
      for (const path of ["/socket/websocket?vsn=9.0.0", "/nowhere"]) {
        const socket = await dial(server)
        socket.write(handshake(path))
        await once(socket, "data")
        socket.write("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        if (!socket.destroyed) await once(socket, "close")
      }
      await Effect.runPromise(server.stop)
    }
  )

  over("is given up when the client leaves while connect still runs", async (server) => {
    const client = new Client(url(server, "vsn=2.0.0&token=hang"))
    await until(() => endings.length === 1)
    client.ws.terminate()
    await until(() => endings.length === 2)
    assert.deepStrictEqual(endings, ["connecting", "interrupted"])
  })

  over("answers a query that cannot be read with 400", async (server) => {
    assert.strictEqual(await Client.refused(url(server, "vsn=2.0.0&a=%ff")), 400)
    assert.strictEqual(await Client.refused(url(server, `vsn=2.0.0&a${"[b]".repeat(40)}=1`)), 400)
  })

  over("makes params of query and path variables, of which the path wins; connect sees the rest", async (server) => {
    const client = await Client.open(url(server, "vsn=2.0.0&name=query&a[b]=c&__proto__=p", "/ws/lobby/7"))
    await client.join()
    const [, , , , { response }] = await client.ask(["1", "2", "room:1", "info", {}]) as [0, 0, 0, 0, { response: any }]
    assert.deepStrictEqual(
      response.params,
      JSON.parse(
        "{\"vsn\":\"2.0.0\",\"name\":\"lobby\",\"n\":\"7\",\"a\":{\"b\":\"c\"},\"__proto__\":\"p\"}"
      )
    )
    assert.strictEqual(response.transport, "websocket")
    assert.strictEqual(response.peerData.address, "127.0.0.1")
    assert.deepStrictEqual(response.uri, {
      scheme: "http",
      host: "127.0.0.1",
      port: server.port,
      path: "/ws/lobby/7",
      query: "vsn=2.0.0&name=query&a[b]=c&__proto__=p"
    })
  }, [{ path: "/ws/:name", websocket: { path: "/:n" } }])

  over(
    "negotiates compression only where it is on; small frames go uncompressed, large ones come whole",
    async (server) => {
      const at = (path: string) => Client.open(url(server, "vsn=2.0.0", path), { perMessageDeflate: true })
      const plain = await at("/socket/websocket")
      assert.strictEqual(plain.ws.extensions, "")
      const packed = await at("/packed/websocket")
      assert.include(packed.ws.extensions, "permessage-deflate")
      const raw = (client: Client) => (client.ws as unknown as { _socket: NetSocket })._socket
      await packed.join()
      const before = raw(packed).bytesRead
      const small = ok("1", "2", "room:1", { text: "a".repeat(100) })
      assert.deepStrictEqual(await packed.ask(["1", "2", "room:1", "echo", { text: "a".repeat(100) }]), small)
      // Two bytes of header: the frame as it is.
      assert.isAtLeast(raw(packed).bytesRead - before, 2 + JSON.stringify(small).length)
      const middle = raw(packed).bytesRead
      const text = "a".repeat(200_000)
      assert.deepStrictEqual(await packed.ask(["1", "3", "room:1", "echo", { text }]), ok("1", "3", "room:1", { text }))
      assert.isBelow(raw(packed).bytesRead - middle, 10_000)
      // A client that does not offer it gets along.
      const modest = await Client.open(url(server, "vsn=2.0.0", "/packed/websocket"))
      await modest.join()
      assert.deepStrictEqual(await modest.ask(["1", "3", "room:1", "echo", { text }]), ok("1", "3", "room:1", { text }))
    },
    [mount, { path: "/packed", websocket: { compress: true } }]
  )

  over("inflates small, large and fragmented messages in the order in which they were sent", async (server) => {
    const client = new Client(url(server, "vsn=2.0.0"), { perMessageDeflate: { threshold: 0 } })
    const [[{ headers }]] = await Promise.all([once(client.ws, "upgrade"), once(client.ws, "open")])
    // So that each message can be inflated by itself.
    assert.include(headers["sec-websocket-extensions"], "client_no_context_takeover")
    await client.join()
    const sizes = [0, 10, 100_000, 500, 1000, 30_000, 1, 2000, 20_000, 3]
    const events = Array.from({ length: 100 }, (_, n) => {
      const text = `${n} `.repeat(sizes[n % sizes.length] ?? 0)
      return {
        frame: JSON.stringify(["1", String(n), "room:1", "echo", { text }]),
        reply: ok("1", String(n), "room:1", { text })
      }
    })
    for (const [n, { frame }] of events.entries()) {
      const cut = n % 3 === 0 ? frame.length : n % 7
      if (cut < frame.length) client.ws.send(frame.slice(0, cut), { fin: false })
      client.ws.send(frame.slice(cut === frame.length ? 0 : cut))
    }
    for (const { reply } of events) assert.deepStrictEqual(await client.next(), reply)
  }, [{ path: "/socket", websocket: { compress: true } }])

  over("chooses no subprotocol that nobody asked the server to speak", async (server) => {
    const ws = new WebSocket(url(server), ["a", "b"])
    const [error] = await once(ws, "error")
    assert.include(String(error), "subprotocol")
    await stillServes(server)
  })

  it.live("websocket: false mounts nothing", () =>
    Effect.gen(function*() {
      const server = yield* start([{ path: "/socket", websocket: false }])
      assert.strictEqual(yield* Effect.promise(() => Client.refused(url(server))), 404)
    }))
})

describe("close codes", () => {
  over("1011 for what is no message, and the channels end as crashed", async (server) => {
    for (
      const frame of [
        "{",
        "{}",
        "[]",
        "[1,2,3,4]",
        "null",
        "",
        new Uint8Array(),
        new Uint8Array([7]),
        new Uint8Array([0, 9, 9])
      ]
    ) {
      endings.length = 0
      const client = await Client.open(url(server))
      await client.join()
      client.send(frame)
      assert.strictEqual((await client.closed).code, 1011)
      await until(() => endings.length > 0)
      assert.deepStrictEqual(endings, ["Crash"])
    }
    const v1 = await Client.open(url(server, ""))
    v1.send("{\"topic\":\"room:1\"}")
    assert.strictEqual((await v1.closed).code, 1011)
    await settles(server, 2)
  })

  over("1009 for a message beyond the limit, in one frame or in many", async (server) => {
    const client = await Client.open(url(server))
    await client.join()
    client.send(new Uint8Array(11_000_000))
    assert.strictEqual((await client.closed).code, 1009)
    const small = await Client.open(url(server, "vsn=2.0.0", "/small/websocket"))
    await small.join()
    const text = (length: number) => JSON.stringify(["1", "2", "room:1", "echo", "x".repeat(length)])
    small.send(text(900))
    await small.next()
    const whole = Buffer.from(text(2000))
    small.ws.send(whole.subarray(0, 700), { fin: false, binary: false })
    small.ws.send(whole.subarray(700), { fin: true, binary: false })
    assert.strictEqual((await small.closed).code, 1009)
    await settles(server, 4)
    await stillServes(server)
  }, [mount, { path: "/small", websocket: { maxFrameSize: 1000 } }])

  over("1007 for text that is not UTF-8", async (server) => {
    const client = await Client.open(url(server))
    client.ws.send(Buffer.from([0xff, 0xfe]), { binary: false })
    assert.strictEqual((await client.closed).code, 1007)
    await settles(server, 2)
  })

  over("1002 for frames that break the protocol", async (server) => {
    const client = await Client.open(url(server))
    ;(client.ws as unknown as { _socket: NetSocket })._socket.write(Buffer.from([0xf1, 0x80, 0, 0, 0, 0]))
    assert.strictEqual((await client.closed).code, 1002)
    await settles(server, 2)
  })

  over("what the client closes with is echoed, and the channels end as closed by it", async (server) => {
    const client = await Client.open(url(server))
    await client.join()
    client.ws.close(1000)
    assert.strictEqual((await client.closed).code, 1000)
    await until(() => endings.length > 0)
    const rude = await Client.open(url(server))
    await rude.join()
    rude.ws.terminate()
    await until(() => endings.length > 1)
    assert.deepStrictEqual(endings, ["local_closed", "peer_closed"])
    await settles(server, 2)
  })

  over("fragments of a message are put together", async (server) => {
    const client = await Client.open(url(server))
    await client.join()
    const frame = JSON.stringify(["1", "2", "room:1", "echo", { text: "äöü" }])
    for (const [index, byte] of [...Buffer.from(frame)].entries()) {
      client.ws.send(Buffer.from([byte]), { fin: index === Buffer.byteLength(frame) - 1, binary: false })
    }
    assert.deepStrictEqual(await client.next(), ok("1", "2", "room:1", { text: "äöü" }))
  })
})

describe("the idle timeout", () => {
  const idle = (
    name: string,
    body: (client: Client, server: TestServer) => Effect.Effect<void>,
    timeout: "10 seconds" | undefined = "10 seconds"
  ) =>
    it.effect(name, () =>
      Effect.gen(function*() {
        endings.length = 0
        const server = yield* start([{ path: "/socket", websocket: { timeout } }])
        const client = yield* Effect.promise(() => Client.open(url(server)))
        yield* Effect.promise(() => client.join())
        yield* body(client, server)
      }))
  const closed = (client: Client) => Effect.promise(() => client.closed)
  const ping = (client: Client) =>
    Effect.promise(async () => {
      client.ws.ping("x")
      const [data] = await once(client.ws, "pong")
      assert.strictEqual(String(data), "x")
    })

  idle("closes with 1002 a connection from which nothing came for that long", (client) =>
    Effect.gen(function*() {
      yield* TestClock.adjust("10 seconds")
      // Since the join, which is noticed a tenth of the timeout later at most.
      assert.strictEqual(client.ws.readyState, WebSocket.OPEN)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* closed(client)).code, 1002)
      yield* Effect.promise(() => until(() => endings.length > 0))
      assert.deepStrictEqual(endings, ["read_timeout"])
    }))

  idle(
    "is put off by a frame, a ping or a part of a message, and not by what is sent",
    (client, server) =>
      Effect.gen(function*() {
        yield* TestClock.adjust("8 seconds")
        yield* Effect.promise(() => client.ask([null, "1", "phoenix", "heartbeat", {}]))
        yield* TestClock.adjust("8 seconds")
        yield* ping(client)
        yield* TestClock.adjust("8 seconds")
        // The ping behind the fragment tells when that has arrived.
        client.ws.send("[", { fin: false })
        yield* ping(client)
        yield* TestClock.adjust("8 seconds")
        assert.strictEqual(client.ws.readyState, WebSocket.OPEN)
        yield* Effect.promise(() => server.run(Endpoint.broadcast("room:1", "news", {})))
        yield* Effect.promise(() => client.next())
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual((yield* closed(client)).code, 1002)
      })
  )

  idle("ends a connection whose peer has stopped answering", (client) =>
    Effect.gen(function*() {
      client.ws.pause()
      yield* TestClock.adjust("11 seconds")
      yield* Effect.promise(() => until(() => endings.length > 0))
      assert.deepStrictEqual(endings, ["read_timeout"])
      client.ws.terminate()
    }))

  it.effect("is 60 seconds by default, and Infinity is never", () =>
    Effect.gen(function*() {
      const server = yield* start([mount, { path: "/ever", websocket: { timeout: "Infinity" } }])
      const [one, ever] = yield* Effect.promise(() =>
        Promise.all([Client.open(url(server)), Client.open(url(server, "vsn=2.0.0", "/ever/websocket"))])
      )
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(one.ws.readyState, WebSocket.OPEN)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* closed(one)).code, 1002)
      yield* TestClock.adjust("30 days")
      assert.deepStrictEqual(
        yield* Effect.promise(() => ever.ask([null, "1", "phoenix", "heartbeat", {}])),
        ok(null, "1", "phoenix")
      )
    }))
})

describe("hostile peers", () => {
  const gone = (socket: NetSocket) => socket.destroyed || socket.closed ? Promise.resolve() : once(socket, "close")

  over("half a request, a reset at any moment, and garbage harm nobody", async (server) => {
    const witness = await Client.open(url(server))
    await witness.join()
    const { processes } = await server.run(Process.stats)
    const half = await dial(server)
    half.write(handshake().slice(0, 60))
    for (let n = 0; n < 20; n++) {
      // The request and the reset arrive together, or shortly after each other.
      const socket = await dial(server)
      socket.write(handshake(n % 3 === 0 ? "/socket/websocket?vsn=2.0.0&token=bad" : undefined))
      if (n % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
      socket.resetAndDestroy()
      await gone(socket)
    }
    for (const garbage of ["\0\x01\x02\xff\r\n\r\n", "GET\r\n\r\n", "HELO there\r\n\r\n", "\r\n".repeat(100)]) {
      const socket = await dial(server)
      socket.end(garbage, "latin1")
      socket.resume()
      await gone(socket)
    }
    for (
      const frame of [[0x88, 0x80], [0x81, 0xfe], [0xff, 0xff, 0xff], [
        0x82,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff
      ]]
    ) {
      const socket = await dial(server)
      socket.write(handshake())
      await once(socket, "data")
      socket.write(Uint8Array.from(frame))
      socket.end()
      socket.resume()
      await gone(socket)
    }
    half.resetAndDestroy()
    await settles(server, processes)
    assert.deepStrictEqual(await witness.ask(["1", "2", "room:1", "echo", { a: 1 }]), ok("1", "2", "room:1", { a: 1 }))
    await stillServes(server)
  })

  over("a frame glued to the handshake is answered", async (server) => {
    const text = JSON.stringify([null, "1", "phoenix", "heartbeat", {}])
    const mask = [1, 2, 3, 4]
    const frame = Buffer.from([
      0x81,
      0x80 | text.length,
      ...mask,
      ...[...Buffer.from(text)].map((byte, index) => byte ^ (mask[index % 4] ?? 0))
    ])
    const socket = await dial(server)
    socket.write(Buffer.concat([Buffer.from(handshake()), frame]))
    let received = ""
    socket.on("data", (chunk) => received += String(chunk))
    await until(() => received.includes("phx_reply"))
    assert.include(received, "101 Switching Protocols")
    socket.resetAndDestroy()
    await settles(server, 2)
    await stillServes(server)
  })

  over("a hundred that open and leave, leave nothing behind", async (server) => {
    const { processes } = await server.run(Process.stats)
    await Promise.all(Array.from({ length: 100 }, async (_, index) => {
      const client = await Client.open(url(server))
      await client.join(`room:${index % 10}`)
      client.ws.terminate()
    }))
    await settles(server, processes)
    await until(() => endings.length === 100)
    assert.deepStrictEqual(await server.run(Process.stats), { processes, timers: 0 })
  })
})

describe("server shutdown", () => {
  for (const [name, http] of [["prepared", undefined], ["plain", plain]] as const) {
    it.live(`of a ${name} server closes every client with 1012, at once`, () =>
      Effect.gen(function*() {
        endings.length = 0
        const server = yield* start([mount], http)
        const clients = yield* Effect.promise(() =>
          Promise.all([1, 2, 3].map(async (n) => {
            const client = await Client.open(url(server))
            if (n > 1) await client.join()
            return client
          }))
        )
        yield* Effect.timeout(server.stop, "4 seconds")
        for (const client of clients) {
          assert.deepStrictEqual(yield* Effect.promise(() => client.closed), { code: 1012, reason: "" })
        }
        assert.deepStrictEqual(endings, ["draining", "draining"])
      }))

    it.live(`of a ${name} server does not wait for a peer that has vanished`, () =>
      Effect.gen(function*() {
        const server = yield* start([mount], http)
        const client = yield* Effect.promise(() => Client.open(url(server)))
        client.ws.terminate()
        yield* Effect.timeout(server.stop, "4 seconds")
      }))
  }

  it.live("does not wait for connections that have not made a request", () =>
    Effect.gen(function*() {
      const server = yield* start([mount])
      const silent = yield* Effect.promise(() => dial(server))
      const half = yield* Effect.promise(() => dial(server))
      half.write(handshake().slice(0, 20))
      const client = yield* Effect.promise(() => Client.open(url(server)))
      yield* Effect.timeout(server.stop, "4 seconds")
      yield* Effect.promise(() => Promise.all([silent, half].map((socket) => socket.closed || once(socket, "close"))))
      assert.strictEqual((yield* Effect.promise(() => client.closed)).code, 1012)
    }))
})
