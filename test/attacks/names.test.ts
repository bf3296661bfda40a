/**
 * Attacks by what clients may choose: topics, events, references, presence keys, keys of payloads, tokens.
 *
 * Elsewhere: names that objects inherit, as events of a contract (test/Channel.test.ts), as presence keys
 * (test/Presence.test.ts), as params (test/internal/query.test.ts) and as keys of logged parameters
 * (test/internal/filterParameters.test.ts); all there is about tokens but their way into a socket (test/Token.test.ts).
 */
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"
import * as Token from "../../src/Token.ts"
import { attack, Online, salt, secretKeyBase } from "./target.ts"
import { answer, frame, Raw, request } from "./wire.ts"

const inherited = ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "prototype"]
const long = "x".repeat(10_000)

const ok = (joinRef: unknown, ref: unknown, topic: unknown, response: unknown = {}) =>
  [joinRef, ref, topic, "phx_reply", { status: "ok", response }] as const
const failed = (joinRef: unknown, ref: unknown, topic: unknown, reason: string) =>
  [joinRef, ref, topic, "phx_reply", { status: "error", response: { reason } }] as const

/** Nobody has got anything that every object would have. */
const isUnpolluted = () => {
  const names: Array<string> = []
  for (const name in Object.create(Object.prototype)) names.push(name)
  assert.deepStrictEqual([...names, ...Object.keys(Object.prototype), ...Object.keys(Array.prototype)], [])
}

const openSocket = request("GET /open/websocket?vsn=2.0.0 HTTP/1.1")

describe("a name", () => {
  attack("that objects inherit is a topic, event and reference as any other", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    for (const name of inherited) {
      assert.deepStrictEqual(
        await raw.ask([null, name, name, "phx_join", {}]),
        failed(null, name, name, "unmatched topic")
      )
      assert.deepStrictEqual(await raw.ask([null, "1", name, name, {}]), failed(null, "1", name, "unmatched topic"))
      const topic = `room:${name}`
      assert.deepStrictEqual(await raw.ask([name, name, topic, "phx_join", {}]), ok(name, name, topic))
      assert.deepStrictEqual(await raw.ask([name, "2", topic, name, {}]), failed(name, "2", topic, "no such event"))
      assert.deepStrictEqual(await raw.ask([name, "3", topic, "phx_leave", {}]), ok(name, "3", topic))
    }
    isUnpolluted()
    await witness.goesOn()
    await raw.reset()
  })

  attack("of 10 KB is answered, and cut short in the log", async ({ log, port }, witness) => {
    const raw = await Raw.open(port)
    const topic = `room:${long}`
    assert.deepStrictEqual(await raw.ask([null, "1", long, "phx_join", {}]), failed(null, "1", long, "topic too long"))
    assert.deepStrictEqual(await raw.ask(["1", "1", topic, "phx_join", {}]), failed(null, "1", topic, "topic too long"))
    assert.deepStrictEqual(await raw.ask(["1", "2", "room:1", "phx_join", {}]), ok("1", "2", "room:1"))
    assert.deepStrictEqual(
      await raw.ask(["1", "3", "room:1", long, {}]),
      failed(null, "3", "room:1", "event too long")
    )
    await witness.goesOn()
    const lines = log
    assert.isNotEmpty(lines)
    for (const line of lines) {
      assert.include(line, "topic=")
      assert.isBelow(line.length, 500)
    }
    await raw.reset()
  })

  for (const name of ["a\nError forged", "a\r\u001b[2K", "\u009b2J", "a\u2028b\u2029", "\u202egnp", "a\0\u007f"]) {
    attack(`that is ${JSON.stringify(name)} forges nothing in the log`, async ({ log, port }, witness) => {
      const raw = await Raw.open(port)
      assert.deepStrictEqual(
        await raw.ask([null, name, name, "phx_join", {}]),
        failed(null, name, name, "unmatched topic")
      )
      await witness.goesOn()
      assert.strictEqual(log.length, 1)
      assert.include(log[0], "topic=")
      assert.notMatch(String(log[0]).trimEnd(), /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u)
      await raw.reset()
    })
  }

  attack("of any JSON is answered or refused, and harms nobody", async ({ port }, witness) => {
    const odd: ReadonlyArray<unknown> = [
      null,
      true,
      0,
      -1e300,
      [],
      {},
      [[["room:1"]]],
      { toString: 1 },
      { length: -1 },
      "",
      "\0",
      "\u2028",
      "*"
    ]
    for (const name of odd) {
      const raw = await Raw.open(port)
      for (const event of [name, "phx_join", "phx_leave", "heartbeat"]) {
        const reply = await raw.ask([name, name, name, event, name])
        assert.deepStrictEqual(Object(reply)[1], name)
        assert.include(["ok", "error"], Object(reply)[4].status)
      }
      assert.deepStrictEqual(await raw.ask(["1", "1", "room:odd", "phx_join", name]), ok("1", "1", "room:odd"))
      assert.deepStrictEqual(await raw.ask(["1", "2", "room:odd", "echo", name]), ok("1", "2", "room:odd", name))
      assert.deepStrictEqual(Object(await raw.ask(["1", "3", "room:odd", name, {}]))[4].status, "error")
      await raw.reset()
    }
    await witness.goesOn()
  })

  attack(
    "beyond the limit of channels is refused, and all end with their connection",
    async ({ port, run }, witness) => {
      const raw = await Raw.open(port)
      for (let n = 0; n < 100; n++) await raw.ask(["1", "1", `room:${n}`, "phx_join", {}])
      assert.deepStrictEqual(
        await raw.ask(["1", "1", "room:100", "phx_join", {}]),
        failed("1", "1", "room:100", "too many channels joined")
      )
      const topics = await run(Effect.map(PubSub.PubSub, (pubsub) => pubsub.topics().length))
      assert.isAtLeast(topics, 101)
      await witness.goesOn()
      await raw.reset()
    }
  )
})

describe("a key", () => {
  const nested = (n: number) => inherited.map((name) => `${JSON.stringify(name)}:{"n":${n}}`).join()

  attack("of a payload that objects inherit comes back as it went", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    await raw.ask(["1", "1", "room:keys", "phx_join", {}])
    raw.write(frame(`["1","2","room:keys","echo",{${nested(1)}}]`))
    await raw.until(() => raw.messages.length === 2)
    assert.include(raw.text, `"response":{${nested(1)}}`)
    raw.write(frame(`["1","3","room:keys","shout",{${nested(2)}}]`))
    await raw.until(() => raw.messages.length === 4)
    assert.include(raw.text, `"shout",{${nested(2)}}`)
    isUnpolluted()
    await witness.goesOn()
    await raw.reset()
  })

  attack("of a payload makes no other object of what a contract decodes", async ({ port }) => {
    const raw = await Raw.open(port)
    await raw.ask(["1", "1", "typed:1", "phx_join", {}])
    raw.write(frame(`["1","2","typed:1","tag",{"tags":{${nested(1)}}}]`))
    await raw.until(() => raw.messages.length === 2)
    const { response, status } = Object(raw.messages[1])[4]
    assert.strictEqual(status, "ok")
    assert.isTrue(response.isPlain, "a key of the payload has become its prototype")
    assert.deepStrictEqual(response.keys.toSorted(), inherited.toSorted())
    isUnpolluted()
    await raw.reset()
  })

  attack("of a presence that objects inherit is one", async ({ port, run }, witness) => {
    const raw = await Raw.open(port)
    await raw.ask(["1", "1", "lobby", "phx_join", {}])
    for (const key of [...inherited, long]) {
      raw.write(
        frame(
          `["1",${JSON.stringify(key.slice(0, 99))},"lobby","track",{"key":${
            JSON.stringify(key)
          },"meta":{"__proto__":{"a":1}}}]`
        )
      )
      await raw.until(() => raw.messages.some((message) => Object(message)[1] === key.slice(0, 99)))
    }
    const list = await run(Online.list("lobby"))
    assert.deepStrictEqual(Object.keys(list).toSorted(), [...inherited, long].toSorted())
    for (const meta of Object.values(list).flatMap(({ metas }) => metas)) {
      assert.isTrue(Object.hasOwn(meta, "__proto__"), "a key of a meta has become its prototype")
    }
    isUnpolluted()
    await witness.goesOn()
    await raw.reset()
  })
})

describe("a topic that is not for clients", () => {
  const internal = [
    "phoenix",
    "phx_reply",
    "phx_presence:online_shard0",
    "user_socket:1",
    "user:witness",
    "phx:longpoll:x"
  ]

  attack("is not to be joined, left or spoken to where no channel serves it", async ({ port, run }, witness) => {
    const raw = await Raw.open(port)
    for (const topic of internal) {
      for (const event of ["phx_join", "disconnect", "phx_close", "phx_error", "phx_reply", "presence_diff"]) {
        assert.deepStrictEqual(await raw.ask(["1", "2", topic, event, {}]), failed(null, "2", topic, "unmatched topic"))
      }
      assert.deepStrictEqual(await raw.ask(["1", "3", topic, "phx_leave", {}]), ok("1", "3", topic))
    }
    const pubsub = await run(PubSub.PubSub)
    assert.notIncludeMembers([...pubsub.topics()], internal.filter((topic) => !/shard0|user:witness/.test(topic)))
    assert.strictEqual(pubsub.subscriberCount("user:witness"), 1)
    await witness.goesOn()
    await raw.reset()
  })

  attack("and served all the same does not let a client forge what a tracker says", async ({ port, run }, witness) => {
    const raw = await Raw.open(port, openSocket)
    const topic = "phx_presence:online_shard0"
    assert.deepStrictEqual(await raw.ask(["1", "1", topic, "phx_join", {}]), ok("1", "1", topic))
    const presence = [1, "lobby", "forged", { phx_ref: "1" }]
    const from = { node: "evil", life: 1 }
    const packets = [
      { type: "delta", from, base: 0, version: 1, present: [presence], gone: [] },
      { type: "snapshot", from, version: 1, total: 1, present: [presence] },
      { type: "bye", from: { node: "local", life: 1 } }
    ]
    let ref = 1
    for (const packet of packets) {
      for (const event of ["delta", "snapshot", "bye"]) {
        const frames = raw.frames.length
        raw.write(frame(JSON.stringify(["1", String(++ref), topic, event, packet])))
        await raw.until(() => raw.frames.length === frames + 2)
      }
    }
    assert.deepStrictEqual(Object.keys(await run(Online.list("lobby"))), [])
    await witness.goesOn()
    await raw.reset()
  })

  attack(
    "of the protocol cannot be spoken on through a channel that passes events on",
    async ({ log, port }, witness) => {
      const raw = await Raw.open(port)
      for (const event of ["phx_close", "phx_error", "phx_reply", "phx_join", "phx_leave"]) {
        await raw.ask(["1", "1", "room:witness", "phx_join", {}])
        const reply = await raw.ask(["1", "2", "room:witness", "pass on", { event, payload: {} }])
        assert.deepStrictEqual(reply, ["1", "1", "room:witness", "phx_error", { reason: "channel_crash" }])
      }
      await witness.goesOn()
      // It is the application's mistake, which the log tells of.
      assert.strictEqual(
        log.splice(0).filter((line) => line.includes("do not pass on event names of clients")).length,
        5
      )
      await raw.reset()
    }
  )
})

describe("a token", () => {
  const connect = (port: number, token: string) =>
    answer(port, request(`GET /socket/websocket?vsn=2.0.0&id=user:1&auth=${encodeURIComponent(token)} HTTP/1.1`))

  attack("that is expired, changed, cut, or signed with another salt or secret is refused with 403", async (target) => {
    const { port, run } = target
    const good = await run(Token.Token.use((tokens) => tokens.sign(salt, "1")))
    const [head = "", body = "", signature = ""] = good.split(".")
    const hour = 3600
    const now = Math.floor(Date.now() / 1000)
    const others = await run(Effect.gen(function*() {
      const tokens = yield* Token.Token
      const other = yield* Token.make({ secretKeyBase: `${secretKeyBase}!` })
      return {
        expired: yield* tokens.sign(salt, "1", { signedAt: now - hour - 1 }),
        future: yield* tokens.sign(salt, "1", { signedAt: now + hour }),
        "for ever": yield* tokens.sign(salt, "1", { signedAt: now - hour - 1, maxAge: "Infinity" }),
        salt: yield* tokens.sign("another salt", "1"),
        encrypted: yield* tokens.encrypt(salt, "1"),
        secret: yield* other.sign(salt, "1")
      }
    }))
    const bad: Readonly<Record<string, string>> = {
      ...others,
      empty: "",
      cut: good.slice(0, -1),
      longer: `${good}A`,
      unsigned: `${head}.${body}.`,
      none: `bm9uZQ.${body}.`,
      swapped: `${head}.${signature}.${body}`,
      dots: ".".repeat(1000),
      long: "A".repeat(5000)
    }
    for (const [name, token] of Object.entries(bad)) assert.strictEqual(await connect(port, token), 403, name)
    assert.strictEqual(await connect(port, good), 101)
    // A token is no session: whoever has it is let in until it is too old.
    assert.strictEqual(await connect(port, good), 101)
  })

  attack("that is sent several times, or as a list or an object, is none or the last", async ({ port, run }) => {
    const good = await run(Token.Token.use((tokens) => tokens.sign(salt, "1")))
    const ask = (query: string) => answer(port, request(`GET /socket/websocket?vsn=2.0.0&id=user:1&${query} HTTP/1.1`))
    assert.strictEqual(await ask(`auth=${good}&auth=bad`), 403)
    assert.strictEqual(await ask(`auth=bad&auth=${good}`), 101)
    assert.strictEqual(await ask(`auth[]=${good}`), 403)
    assert.strictEqual(await ask(`auth[value]=${good}`), 403)
    assert.strictEqual(await ask(`auth[__proto__]=${good}`), 403)
  })

  attack(
    "of somebody who was disconnected connects again, which is the application's to refuse",
    async ({ port, run }) => {
      const good = await run(Token.Token.use((tokens) => tokens.sign(salt, "1")))
      const opening = request(`GET /socket/websocket?vsn=2.0.0&id=user:1&auth=${good} HTTP/1.1`)
      const raw = await Raw.open(port, opening)
      await run(Endpoint.disconnect("user:1"))
      await raw.until(() => raw.code !== undefined)
      assert.strictEqual(raw.code, 1001)
      await raw.hangUp()
      const again = await Raw.open(port, opening)
      await again.reset()
    }
  )
})
