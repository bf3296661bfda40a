/** Requests over real connections, to a server in this process: handshakes with frames behind them, polls and posts. */
import { Effect, Exit, Scope } from "effect"
import * as fc from "fast-check"
import { start, type Target as Server, uncaught, Witness } from "../../attacks/target.ts"
import { frame, handshake, Raw } from "../../attacks/wire.ts"
import { bytes, editBytes, edits, editText, json, name, oddJson } from "./inputs.ts"
import { type Options, type Outcome, type Target, target } from "./targets.ts"

/** Stands for the token of a session that lives. */
const live = "LIVE"

const query = fc.oneof(
  fc.constantFrom("vsn=2.0.0", "vsn=1.0.0", "", "vsn=2.0.0&auth=x", `vsn=2.0.0&token=${live}`, "vsn=2.0.0&token=A.B.C"),
  fc.tuple(fc.constantFrom("vsn=2.0.0&a[b]=c&d[]=e%20f", `vsn=2.0.0&token=${live}`), edits).map((both) =>
    editText(...both)
  )
)

const place = fc.oneof(
  fc.constantFrom("/socket/websocket", "/socket/websocket", "/open/websocket", "/socket/longpoll", "/hello", "/", "*"),
  fc.tuple(fc.constantFrom("/socket/websocket", "/socket/longpoll"), edits).map((both) => editText(...both))
)

const line = fc.tuple(
  fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom("GET", "POST") },
    fc.constantFrom("OPTIONS", "HEAD", "PUT", "CONNECT", "get")
  ),
  place,
  query,
  fc.oneof({ weight: 8, arbitrary: fc.constant("HTTP/1.1") }, fc.constantFrom("HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", ""))
).map(([method, place, query, version]) => `${method} ${place}?${query} ${version}`)

const headers = fc.tuple(
  fc.subarray(Object.entries(handshake), { minLength: 3 }),
  fc.array(
    fc.oneof(
      fc.constantFrom(
        ["Origin", "null"],
        ["Origin", "http://here"],
        ["Content-Type", "application/x-ndjson"],
        ["Transfer-Encoding", "chunked"],
        ["Content-Length", "5"],
        ["Connection", "close"],
        ["Expect", "100-continue"],
        ["Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"],
        ["Sec-WebSocket-Protocol", "phoenix, base64url.bearer.phx.AAAA"],
        ["X-Phoenix-Longpoll-Token", live],
        ["Cookie", "a=b; __proto__=c; =; d"]
      ),
      fc.tuple(fc.constantFrom("Origin", "Host", "Sec-WebSocket-Key", "Sec-WebSocket-Extensions", "Cookie"), name)
    ),
    { maxLength: 3 }
  )
).map((all) => all.flat().map(([name, value]) => `${name}: ${value}\r\n`).join(""))

const message = fc.oneof(
  fc.constantFrom(
    `["1","1","room:1","phx_join",{}]`,
    `["1","2","room:1","echo",{}]`,
    `["1","3","room:1","shout",{}]`,
    `["1","4","lobby","phx_join",{}]`,
    `["1","5","lobby","track",{"key":"__proto__","meta":{}}]`,
    `["1","6","typed:1","phx_join",{}]`,
    `["1","7","typed:1","tag",{"tags":{"__proto__":{"n":1}}}]`,
    `[null,"8","phoenix","heartbeat",{}]`,
    `["1","9","room:1","phx_leave",{}]`
  ),
  fc.tuple(name, name, json).map(([topic, event, payload]) => JSON.stringify(["1", "1", topic, event, payload])),
  oddJson.map((odd) => `[null,"1","phoenix","heartbeat",${odd}]`)
)

const frames = fc.array(
  fc.oneof(
    message.map((text) => frame(text)),
    fc.tuple(message, edits).map(([text, edits]) => editBytes(frame(text), edits)),
    fc.tuple(bytes, fc.nat(15), fc.nat(7), fc.boolean()).map(([data, opcode, rsv, fin]) =>
      frame(data, { opcode, rsv, fin })
    ),
    bytes
  ),
  { maxLength: 6 }
).map((frames) => new Uint8Array(Buffer.concat(frames)))

const body = fc.oneof(
  frames,
  fc.array(message, { maxLength: 4 }).map((lines) => new Uint8Array(Buffer.from(lines.join("\n"))))
)

const request = fc.tuple(line, headers, body, fc.boolean()).map(([line, headers, body, isMeasured]) => ({
  head: `${line}\r\n${headers}${isMeasured ? `Content-Length: ${body.length}\r\n` : ""}\r\n`,
  body
}))

const given = fc.oneof(
  { weight: 4, arbitrary: request },
  fc.tuple(request, edits).map(([{ body, head }, edits]) => ({ head: editText(head, edits), body }))
)

/** What clients are answered; 411 is for an upgrade with chunks, 500 is for a post whose entry is no base64. */
const statuses = [100, 101, 200, 400, 403, 404, 408, 411, 417, 431, 500, 503]

/** Milliseconds within which a connection is over whose client has said all it had to say. */
const patience = 10_000

const check = async (
  server: Server,
  session: string,
  { body, head }: { head: string; body: Uint8Array }
) => {
  const raw = await Raw.dial(server.port)
  raw.write(Buffer.concat([Buffer.from(head.replaceAll(live, session), "latin1"), body]))
  raw.socket.end()
  const timer = setTimeout(() => raw.socket.destroy(new Error("late")), patience)
  const began = performance.now()
  await raw.closed
  clearTimeout(timer)
  if (performance.now() - began >= patience) throw new Error("the connection stays open")
  for (const status of raw.statuses) {
    if (!statuses.includes(status)) throw new Error(`it is answered ${status}`)
  }
}

/**
 * A target whose inputs are sent to a server in this process, and its witness asked after each. The server stops when all has
 * been sent; nothing may be left then.
 */
export const served = <A>(
  name: string,
  given: fc.Arbitrary<A>,
  check: (server: Server, witness: Witness, given: A) => Promise<void>
): Target => ({
  name,
  share: 0,
  run: async ({ onInput, runs, seed }: Options): Promise<Outcome> => {
    const scope = Effect.runSync(Scope.make())
    const starting = start({ websocket: { compress: true }, longpoll: { window: "20 millis" } })
    const server = await Effect.runPromise(Effect.provideService(starting, Scope.Scope, scope))
    let outcome: Outcome = { runs: 0, seed, failure: undefined }
    const errors = await uncaught(async () => {
      const witness = await Witness.on(server)
      const inputs = target(name, 0, given, async (given) => {
        await check(server, witness, given)
        const crashes = server.log.splice(0).filter((line) => /crashed|defect/i.test(line))
        if (crashes.length > 0) throw new Error(crashes.join("\n"))
        await witness.goesOn()
      })
      outcome = await inputs.run({ runs, seed, onInput })
      await witness.leaves()
      if (outcome.failure === undefined) await server.settled()
    })
    await Effect.runPromise(Scope.close(scope, Exit.void))
    if (errors.length === 0) return outcome
    return { ...outcome, failure: outcome.failure ?? { input: "", path: "", error: errors.map(String).join("\n") } }
  },
  input: target(name, 0, given, () => {}).input
})

const session = async (server: Server) => {
  const response = await fetch(`http://127.0.0.1:${server.port}/socket/longpoll?vsn=2.0.0`, {
    headers: { connection: "close" }
  })
  return String(Object(await response.json()).token)
}

export const http: Target = served("HTTP", given, async (server, _witness, given) => {
  await check(server, await session(server), given)
})
