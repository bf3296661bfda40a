/**
 * Attacks on the server before a connection is one.
 *
 * Elsewhere: resets right after the handshake, half a request and garbage (test/transport/WebSocket.test.ts > hostile
 * peers), HTTP/1.0, other methods and malformed queries (there > the handshake), foreign origins by every option
 * (test/internal/origin.test.ts), who is told what in which order (test/transport/admission.test.ts).
 */
import { assert, describe } from "@effect/vitest"
import { attack, type Target } from "./target.ts"
import { answer, frame, handshake, path, Raw, request } from "./wire.ts"

/** A handshake with some headers changed, or left out. */
const withHeaders = (headers: Readonly<Record<string, string | undefined>>): string =>
  request(undefined, { ...handshake, ...headers })

const answers = async ({ port }: Target, cases: ReadonlyArray<readonly [name: string, text: string]>) => {
  const found: Array<readonly [string, number | "hung up"]> = []
  for (const [name, text] of cases) found.push([name, await answer(port, text)])
  return Object.fromEntries(found)
}

describe("a handshake", () => {
  attack("that lacks a header, or has a wrong one, is answered 400", async (target) => {
    assert.deepStrictEqual(
      await answers(target, [
        ["no host", withHeaders({ Host: undefined })],
        ["no upgrade", withHeaders({ Upgrade: undefined })],
        ["no connection", withHeaders({ Connection: undefined })],
        ["another upgrade", withHeaders({ Upgrade: "h2c" })],
        ["a lookalike", withHeaders({ Upgrade: "websocketx" })],
        ["no key", withHeaders({ "Sec-WebSocket-Key": undefined })],
        ["an empty key", withHeaders({ "Sec-WebSocket-Key": "" })],
        ["a short key", withHeaders({ "Sec-WebSocket-Key": "AAAA" })],
        ["a long key", withHeaders({ "Sec-WebSocket-Key": "A".repeat(4000) })],
        ["no version", withHeaders({ "Sec-WebSocket-Version": undefined })],
        ["an old version", withHeaders({ "Sec-WebSocket-Version": "8" })],
        ["versions", withHeaders({ "Sec-WebSocket-Version": "13, 8" })],
        ["a bad extension, which is not offered here", withHeaders({ "Sec-WebSocket-Extensions": "a;=;;" })]
      ]),
      {
        "no host": 400,
        "no upgrade": 400,
        "no connection": 400,
        "another upgrade": 400,
        "a lookalike": 400,
        "no key": 400,
        "an empty key": 400,
        "a short key": 400,
        "a long key": 400,
        "no version": 400,
        "an old version": 400,
        versions: 400,
        "a bad extension, which is not offered here": 101
      }
    )
  })

  attack("that asks for a compression that is malformed is answered 400, where there is one", async (target) => {
    const offers = [
      "permessage-deflate; server_max_window_bits=7",
      "permessage-deflate; client_max_window_bits=99999999999999999999",
      "permessage-deflate; unknown=1",
      "permessage-deflate; server_no_context_takeover=1",
      "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
      "a;=;;",
      "\"",
      "permessage-deflate,".repeat(300)
    ]
    for (const offer of offers) {
      assert.strictEqual(
        await answer(target.port, withHeaders({ "Sec-WebSocket-Extensions": offer })),
        400,
        offer.slice(0, 80)
      )
    }
  }, { websocket: { compress: true } })

  attack("that is no HTTP is answered 400, too many headers 431", async (target) => {
    assert.deepStrictEqual(
      await answers(target, [
        ["a bare line feed", request().replaceAll("\r\n", "\n")],
        ["a space before the colon", withHeaders({ "X ": "1" })],
        ["a folded header", withHeaders({ X: "1\r\n  2" })],
        ["a zero in a header", withHeaders({ X: "a\0b" })],
        ["a carriage return in a header", withHeaders({ X: "a\rb" })],
        ["another protocol", request(`GET ${path} HTTQ/1.1`)],
        ["another version", request(`GET ${path} HTTP/9.9`)],
        ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        ["TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        ["a target with a space", request("GET /socket /websocket HTTP/1.1")],
        ["a long header", withHeaders({ X: "x".repeat(20_000) })],
        ["a long target", request(`GET ${path}&a=${"a".repeat(20_000)} HTTP/1.1`)],
        ["many headers", withHeaders(Object.fromEntries(Array.from({ length: 3000 }, (_, n) => [`X${n}`, "1"])))]
      ]),
      {
        "a bare line feed": 400,
        "a space before the colon": 400,
        "a folded header": 400,
        "a zero in a header": 400,
        "a carriage return in a header": 400,
        "another protocol": 400,
        "another version": 400,
        "HTTP/2": 400,
        TLS: 400,
        "a target with a space": 400,
        "a long header": 431,
        "a long target": 431,
        "many headers": 431
      }
    )
  })

  attack("for a target that is none is refused, and reaches no socket", async (target) => {
    const targets = {
      "/socket/websocket/../websocket?vsn=2.0.0": 404,
      "/socket/%77ebsocket?vsn=2.0.0": 101,
      "/socket/websocket%00?vsn=2.0.0": 404,
      "/socket/%ff?vsn=2.0.0": 404,
      "/socket/%zz?vsn=2.0.0": 404,
      // HttpRouter does not tell these apart: whoever guards a path in a proxy has to know.
      "//socket/websocket?vsn=2.0.0": 101,
      "/socket//websocket?vsn=2.0.0": 101,
      "/SOCKET/websocket?vsn=2.0.0": 101,
      "http://elsewhere/socket/websocket?vsn=2.0.0": 101,
      "/socket/websocket?vsn=2.0.0#fragment": 403,
      "/socket/websocket?vsn=2.0.0&a=%ff": 400,
      "/socket/websocket?vsn=9.9.9": 403,
      "/socket/websocket?vsn=__proto__": 403,
      "/socket/websocket?vsn[]=2.0.0": 403
    }
    const found: Record<string, number | "hung up"> = {}
    for (const place of Object.keys(targets)) found[place] = await answer(target.port, request(`GET ${place} HTTP/1.1`))
    assert.deepStrictEqual(found, targets)
  })

  attack("of a page without an origin of its own, a file or a sandbox, is refused with 403", async (target) => {
    for (const origin of ["null", "file://", "", "about:blank", "null, http://here", "http://here.evil.test", "\xff"]) {
      assert.strictEqual(await answer(target.port, withHeaders({ Origin: origin })), 403, origin)
    }
    assert.strictEqual(await answer(target.port, withHeaders({ Origin: "http://here" })), 101)
  })

  attack("with a header that is there twice is judged by the first, or by both", async (target) => {
    const twice = (name: string, value: string) =>
      answer(target.port, request(undefined, { ...handshake, Origin: "http://here", [name.toLowerCase()]: value }))
    assert.deepStrictEqual(
      await Promise.all([
        twice("Host", "there"),
        twice("Origin", "http://there"),
        twice("Sec-WebSocket-Key", "other"),
        twice("Sec-WebSocket-Version", "8"),
        twice("Upgrade", "h2c"),
        twice("Connection", "close")
      ]),
      [101, 403, 400, 400, 400, 101]
    )
  })

  attack("whose bytes come one by one is accepted", async (target) => {
    const raw = await Raw.dial(target.port)
    for (const byte of request()) {
      raw.write(byte)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await raw.until(() => raw.status !== undefined)
    assert.strictEqual(raw.status, 101)
    await raw.reset()
  })

  attack("that never ends is answered 408 and cut off when the server's time for headers is over", async (target) => {
    const slow = await Raw.dial(target.port)
    const silent = await Raw.dial(target.port)
    const text = request().slice(0, -2)
    let sent = 0
    const drip = setInterval(() => slow.write(text[sent++ % text.length] ?? ""), 20)
    await Promise.all([slow.closed, silent.closed])
    clearInterval(drip)
    assert.deepStrictEqual([slow.status, silent.status], [408, 408])
  }, { headersTimeout: 400 })

  attack("that is reset at any byte of it harms nobody", async (target, witness) => {
    const text = request()
    for (let length = 1; length <= text.length; length += 7) {
      const raw = await Raw.dial(target.port)
      raw.write(text.slice(0, length))
      if (length % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
      await raw.reset()
    }
    await witness.goesOn()
    // The server's half is closed first, or the client's.
    for (let n = 0; n < 20; n++) {
      const raw = await Raw.dial(target.port)
      raw.write(text)
      await raw.hangUp()
    }
  })

  attack("with a body is a connection whose first frame is not one", async (target) => {
    const smuggled = request("GET /hello HTTP/1.1", { Host: "here" })
    const raw = await Raw.open(
      target.port,
      request(undefined, { ...handshake, "Content-Length": String(smuggled.length) }, smuggled)
    )
    await raw.closed
    assert.strictEqual(raw.code, 1002)
    // One answer: what follows the handshake is no second request.
    assert.deepStrictEqual(raw.statuses, [])
    assert.notInclude(raw.text, "hello")
  })

  attack("that comes twice over one connection opens one", async (target) => {
    const raw = await Raw.open(target.port)
    raw.write(request())
    await raw.closed
    assert.strictEqual(raw.code, 1002)
    assert.deepStrictEqual(raw.statuses, [])
  })

  attack("over a connection that has carried requests is accepted", async (target) => {
    const raw = await Raw.dial(target.port)
    for (let n = 1; n <= 3; n++) {
      raw.write(request("GET /hello HTTP/1.1", { Host: "here" }))
      await raw.until(() => raw.statuses.length === n && raw.text.endsWith("hello"))
    }
    raw.write(request())
    await raw.until(() => raw.statuses.length === 4)
    assert.deepStrictEqual(raw.statuses, [200, 200, 200, 101])
    await raw.reset()
  })

  attack("with a frame that is cut in the middle, and continued later, is a connection", async (target) => {
    const heartbeat = frame(JSON.stringify([null, "1", "phoenix", "heartbeat", {}]))
    const raw = await Raw.dial(target.port)
    raw.write(Buffer.concat([Buffer.from(request()), heartbeat.subarray(0, 9)]))
    await raw.until(() => raw.status === 101)
    raw.write(heartbeat.subarray(9))
    await raw.until(() => raw.text.includes("phx_reply"))
    await raw.reset()
  })
})

describe("requests that proxies and servers may understand differently", () => {
  const chunked = "0\r\n\r\n"
  attack("are refused, and nothing in them is taken for another request", async (target) => {
    const inner = request("GET /hello HTTP/1.1", { Host: "here" })
    const post = "POST /socket/longpoll?vsn=2.0.0 HTTP/1.1"
    const cases = {
      "two lengths": request(post, { Host: "a", "Content-Length": "6", "content-length": "5" }, "abcdef"),
      "two equal lengths": request(post, { Host: "a", "Content-Length": "6", "content-length": "6" }, "abcdef"),
      "a length and chunks": request(
        post,
        { Host: "a", "Content-Length": "6", "Transfer-Encoding": "chunked" },
        chunked
      ),
      "a list of lengths": request(post, { Host: "a", "Content-Length": "6, 6" }, "abcdef"),
      "a negative length": request(post, { Host: "a", "Content-Length": "-1" }),
      "a signed length": request(post, { Host: "a", "Content-Length": "+6" }, "abcdef"),
      "a huge length": request(post, { Host: "a", "Content-Length": "9".repeat(40) }),
      "a length in hex": request(post, { Host: "a", "Content-Length": "0x6" }, "abcdef"),
      "an unknown encoding": request(post, { Host: "a", "Transfer-Encoding": "xchunked" }, chunked),
      "chunks that are not last": request(post, { Host: "a", "Transfer-Encoding": "chunked, identity" }, chunked),
      "two encodings": request(post, { Host: "a", "Transfer-Encoding": "chunked", "transfer-encoding": "x" }, chunked),
      "a chunk of no size": request(post, { Host: "a", "Transfer-Encoding": "chunked" }, `zz\r\n${inner}`),
      "a huge chunk": request(post, { Host: "a", "Transfer-Encoding": "chunked" }, `${"f".repeat(30)}\r\n${inner}`)
    }
    for (const [name, text] of Object.entries(cases)) {
      const raw = await Raw.dial(target.port)
      raw.write(text + inner)
      await raw.closed
      // A post without a session is told so before its body is read; then the connection is cut.
      const isLate = ["an unknown encoding", "a chunk of no size", "a huge chunk"].includes(name)
      assert.include(isLate ? ["200", "400"] : ["400"], String(raw.statuses), name)
      assert.notInclude(raw.text, "hello", name)
    }
  })

  attack("and a handshake right behind a request that is not answered yet is cut off", async (target) => {
    const raw = await Raw.dial(target.port)
    raw.write(request("GET /hello HTTP/1.1", { Host: "here" }) + request())
    await raw.closed
    assert.notInclude(raw.text, "101 Switching")
  })
})
