/**
 * Attacks on long polling: sessions of others, bodies that are too much, posts that never end.
 *
 * Elsewhere: a token that is none, its age, malformed bodies and base64, the limits of a session's memory and of posts at a
 * time (test/transport/LongPoll.test.ts), and clients that hang up (there > over a real connection).
 */
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import * as Endpoint from "../../src/Endpoint.ts"
import * as Token from "../../src/Token.ts"
import { attack, secretKeyBase, type Target } from "./target.ts"
import { Raw, request } from "./wire.ts"

const place = "/socket/longpoll?vsn=2.0.0"

interface Answer {
  readonly http: number
  readonly status?: number
  readonly token?: string
  readonly messages?: ReadonlyArray<string>
}

const ask = async ({ port }: Target, query: string, init: RequestInit = {}): Promise<Answer> => {
  const response = await fetch(`http://127.0.0.1:${port}${place}${query}`, {
    ...init,
    headers: { connection: "close", ...init.headers as Record<string, string> }
  })
  const text = await response.text()
  return { http: response.status, ...text === "" ? {} : JSON.parse(text) }
}

const post = (target: Target, query: string, body: BodyInit) =>
  ask(target, query, { method: "POST", body, headers: { "content-type": "application/x-ndjson" } })

const session = async (target: Target, query = "") => {
  const { token = "" } = await ask(target, query)
  return `&token=${encodeURIComponent(token)}`
}

const join = `["1","1","room:poll","phx_join",{}]`

const endSessions = ({ run }: Target) => run(Endpoint.disconnect("poller"))

describe("a session", () => {
  attack("is not to be guessed, forged or taken from another mount", async (target, witness) => {
    const mine = await session(target, "&id=poller")
    await post(target, mine, join)
    const token = decodeURIComponent(mine.slice("&token=".length))
    const forged = await target.run(Effect.gen(function*() {
      const tokens = yield* Token.Token
      const others = yield* Token.make({ secretKeyBase: `${secretKeyBase}!` })
      const address = ["local", "AAAAAAAAAAAAAAAAAAAAAA"]
      // The address in a token is to be read by everybody who holds it; the signature is what cannot be made.
      return [
        yield* tokens.sign("long poll user_socket", address),
        yield* others.sign("long poll user_socket", address),
        yield* tokens.sign("user socket", address)
      ]
    }))
    const changed = Array.from({ length: 40 }, (_, n) => {
      const at = Math.floor(n * token.length / 40)
      return token.slice(0, at) + (token[at] === "A" ? "B" : "A") + token.slice(at + 1)
    })
    for (const guess of [...forged, ...changed, "", "AAAA", "../../x", token.split(".")[1] ?? ""]) {
      const answered = await post(target, `&token=${encodeURIComponent(guess)}`, `["1","9","room:poll","shout",{}]`)
      assert.deepStrictEqual(answered, { http: 200, status: 410 }, guess)
    }
    const { messages } = await ask(target, mine)
    assert.strictEqual(messages?.length, 1)
    await witness.goesOn()
    await endSessions(target)
  })

  attack("that has ended is not to be had again with its token", async (target) => {
    const mine = await session(target, "&id=poller")
    await post(target, mine, join)
    await ask(target, mine)
    await endSessions(target)
    const replayed = await post(target, mine, join)
    assert.deepStrictEqual(replayed, { http: 200, status: 410 })
    const { status, token } = await ask(target, `${mine}&id=poller`)
    assert.strictEqual(status, 410)
    assert.notInclude(mine, encodeURIComponent(token ?? ""))
    await endSessions(target)
  })

  attack("whose token somebody else holds is theirs too, and gives each frame to one of them only", async (target) => {
    const mine = await session(target, "&id=poller")
    await post(target, mine, join)
    const polls = Array.from({ length: 10 }, () => ask(target, `${mine}&id=poller`))
    const hasReply = ({ messages = [] }: Answer) => messages.some((text) => text.includes("phx_reply"))
    await new Promise<void>((resolve) => {
      for (const poll of polls) void poll.then((answer) => hasReply(answer) ? resolve() : undefined)
    })
    await endSessions(target)
    const answers = await Promise.all(polls)
    // A poll that has come too late has begun a session of its own.
    await endSessions(target)
    assert.strictEqual(
      answers.flatMap(({ messages = [] }) => messages).filter((text) => text.includes("phx_reply")).length,
      1
    )
  })

  attack("that is begun by hundreds who never poll ends for all of them", async (target, witness) => {
    const count = 300
    for (let n = 0; n < count; n += 50) {
      await Promise.all(Array.from({ length: 50 }, () => session(target)))
    }
    assert.isAtMost((await target.run(Endpoint.sockets)).length, count + 1)
    await witness.goesOn()
    // Nobody tells them to go: they are given up after one and a half windows.
  }, { longpoll: { window: "300 millis" } })
})

describe("a post", () => {
  attack("that is too large is refused, wherever its length is told, and leaves its session alone", async (target) => {
    const mine = await session(target, "&id=poller")
    const large = `["1","1","room:poll","phx_join","${"x".repeat(20_000)}"]`
    assert.deepStrictEqual(await post(target, mine, large), { http: 400 })
    assert.deepStrictEqual(await post(target, mine, `${join}\n`.repeat(1000)), { http: 400 })
    const chunked = await Raw.dial(target.port)
    chunked.write(
      `POST ${place}${mine} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n`
    )
    for (let n = 0; n < 20 && chunked.status === undefined; n++) chunked.write(`400\r\n${"x".repeat(1024)}\r\n`)
    await chunked.until(() => chunked.status !== undefined)
    assert.strictEqual(chunked.status, 400)
    await chunked.reset()
    assert.deepStrictEqual(await post(target, mine, join), { http: 200, status: 200 })
    await endSessions(target)
  }, { longpoll: { maxBody: 10_000 } })

  attack("of a hundred thousand entries is read up to the hundredth", async (target, witness) => {
    const mine = await session(target, "&id=poller")
    const entries = Array.from({ length: 100_000 }, (_, n) => `["1","${n}","room:poll","echo",${n}]`)
    assert.deepStrictEqual(await post(target, mine, [join, ...entries].join("\n")), { http: 200, status: 200 })
    assert.strictEqual((await ask(target, mine)).messages?.length, 100)
    await witness.goesOn()
    await endSessions(target)
  })

  attack("of garbage ends its own session only, or is refused", async (target, witness) => {
    const bodies: ReadonlyArray<readonly [BodyInit, Answer]> = [
      ["", { http: 200, status: 200 }],
      ["\n\n\r\n\n", { http: 200, status: 200 }],
      ["{}", { http: 500 }],
      ["%%%", { http: 500 }],
      [new Uint8Array([0xff, 0xfe]), { http: 400 }],
      ["[", { http: 200, status: 408 }],
      ["[]", { http: 200, status: 408 }],
      ["AAAA", { http: 200, status: 408 }],
      ["AAAAAAA=", { http: 200, status: 200 }],
      ["BwcH", { http: 200, status: 408 }],
      [`[null,null,"t","e",${"[".repeat(100_000)}`, { http: 200, status: 408 }]
    ]
    for (const [body, told] of bodies) {
      const mine = await session(target, "&id=poller")
      assert.deepStrictEqual(await post(target, mine, body), told, JSON.stringify(body).slice(0, 50))
      await witness.goesOn()
    }
    await endSessions(target)
    target.log.length = 0
  })

  attack("that never ends holds up nobody, and goes with its connection", async (target, witness) => {
    const mine = await session(target, "&id=poller")
    const slow = await Promise.all(Array.from({ length: 50 }, () => Raw.dial(target.port)))
    for (const raw of slow) {
      raw.write(request(`POST ${place}${mine} HTTP/1.1`, { Host: "a", "Content-Length": "1000" }, "["))
    }
    for (let n = 0; n < 20; n++) {
      for (const raw of slow) raw.write("1,")
      await witness.goesOn()
    }
    assert.deepStrictEqual(await post(target, mine, join), { http: 200, status: 200 })
    // Bodies that may still come take up the room of their session, until their connections are gone.
    const large = `["1","2","room:poll","echo","${"x".repeat(50_000)}"]`
    assert.deepStrictEqual(await post(target, mine, large), { http: 200, status: 408 })
    await Promise.all(slow.map((raw) => raw.reset()))
    let answered = await post(target, mine, large)
    for (let tries = 0; tries < 200 && answered.status !== 200; tries++) answered = await post(target, mine, large)
    assert.deepStrictEqual(answered, { http: 200, status: 200 })
    await endSessions(target)
  }, { longpoll: { maxBody: 60_000 } })
})
