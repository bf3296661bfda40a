/** What the fixture application owes by its contract and no recording shows; each line was read off Phoenix's own code. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Buffer } from "node:buffer"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { connect } from "node:net"
import { afterAll, beforeAll } from "vitest"
import { freePort } from "../../scripts/freePort.ts"
import { binary, Client, ok } from "./client.ts"
import { http } from "./players.ts"
import { Server } from "./start.ts"

let server: Server

beforeAll(async () => {
  server = await Server.start()
}, 30_000)

afterAll(() => server.stop())

let topics = 0
const uniqueTopic = () => `room:contract-${++topics}`

/** A test with a topic of its own. */
const test = (name: string, body: (topic: string) => Promise<void>) =>
  it.live(name, () => Effect.promise(() => body(uniqueTopic())))

/** A server for one test. */
const own = (name: string, env: Readonly<Record<string, string>>, body: (server: Server) => Promise<void>) =>
  it.live(name, () =>
    Effect.acquireUseRelease(
      Effect.promise(() => Server.start(env)),
      (server) => Effect.promise(() => body(server)),
      (server) => Effect.promise(() => server.stop())
    ))

const joined = async (topic: string, payload: unknown = {}, query = "vsn=2.0.0"): Promise<Client> => {
  const client = await Client.open(server.port, query)
  await client.join(topic, payload)
  return client
}

const reply = (
  joinRef: unknown,
  ref: unknown,
  topic: unknown,
  payload: unknown
) => [joinRef, ref, topic, "phx_reply", payload]
const pushed = (topic: string, event: string, payload: unknown) => ["1", null, topic, event, payload]
const broadcast = (topic: string, event: string, payload: unknown) => [null, null, topic, event, payload]
const crashed = (topic: string) => ["1", "1", topic, "phx_error", { reason: "channel_crash" }]

/** One that pushes the `terminations` of a topic; those of others are left out. */
const watcher = async (watched: string) => {
  const topic = uniqueTopic()
  const client = await joined(topic)
  assert.deepStrictEqual(await client.call(topic, "subscribe", { topic: "terminations" }), ok())
  return {
    client,
    next: async (): Promise<unknown> => {
      for (;;) {
        const frame = await client.next() as ReadonlyArray<{ payload: { topic: string; reason: string } }>
        const payload = frame[4]?.payload
        if (payload?.topic === watched) return payload.reason
      }
    }
  }
}

describe("CHECK_ORIGIN", () => {
  own("lets in the origins that it lists and clients without one", {
    CHECK_ORIGIN: "https://app.example,//*.example.org"
  }, async ({ port }) => {
    for (const origin of ["https://app.example", "http://example.org", "https://a.b.example.org:8443"]) {
      ;(await Client.open(port, "vsn=2.0.0", { origin })).ws.terminate()
    }
    ;(await Client.open(port)).ws.terminate()
    const refused = [
      "http://app.example",
      "https://app.example:8443",
      "https://evil-example.org",
      "http://127.0.0.1",
      "null",
      "file://",
      ""
    ]
    for (const origin of refused) {
      const answer = await Client.refused(port, "vsn=2.0.0", { headers: { origin } })
      assert.strictEqual(answer, 403, origin)
    }
  })

  own("refuses a long poll with a 403 in the body, whatever the method", {
    CHECK_ORIGIN: "https://app.example"
  }, async ({ port }) => {
    const ask = (method: string, origin: string) =>
      Effect.runPromise(http(port, { method, path: "/socket/longpoll?vsn=2.0.0", headers: { origin } }))
    for (const method of ["GET", "POST", "OPTIONS", "PUT"]) {
      const { body, http } = await ask(method, "https://evil.example")
      assert.deepStrictEqual([http, JSON.parse(body)], [200, { status: 403 }])
    }
    const { body } = await ask("GET", "https://app.example")
    assert.strictEqual(JSON.parse(body).status, 410)
  })

  test("lets everybody in when it is absent", async () => {
    for (const origin of ["https://evil.example", "null", "file://"]) {
      ;(await Client.open(server.port, "vsn=2.0.0", { headers: { origin } })).ws.terminate()
    }
  })
})

describe("WS_TIMEOUT", () => {
  own("closes a connection that is silent for so long with 1002, and not one that pings", {
    WS_TIMEOUT: "1500"
  }, async ({ port }) => {
    const [silent, hearing, pinging] = [await Client.open(port), await Client.open(port), await Client.open(port)]
    const timer = setInterval(() => pinging.ws.ping(), 50)
    await hearing.join("room:1")
    await pinging.join("room:1")
    // What a client is sent does not keep it.
    const talk = setInterval(() => pinging.push("room:1", "typing:start", {}), 50)
    assert.deepStrictEqual(await Promise.all([silent.closed, hearing.closed]), [1002, 1002])
    clearInterval(talk)
    assert.strictEqual(pinging.ws.readyState, pinging.ws.OPEN)
    clearInterval(timer)
    assert.strictEqual(await pinging.closed, 1002)
  })
})

describe("a join", () => {
  test("refuses whatever is not nil or false, and raises where the payload is no map", async (topic) => {
    const client = await Client.open(server.port)
    const join = (payload: unknown) => client.ask(["1", "1", topic, "phx_join", payload])
    const denied = reply("1", "1", topic, { status: "error", response: { reason: "unauthorized" } })
    const crash = reply("1", "1", topic, { status: "error", response: { reason: "join crashed" } })
    for (const deny of [true, 0, "", [], {}, "no"]) assert.deepStrictEqual(await join({ deny, crash: true }), denied)
    for (const payload of [{ crash: 1 }, [], "text", 1, true]) assert.deepStrictEqual(await join(payload), crash)
    assert.deepStrictEqual(await join({ deny: null, crash: false }), reply("1", "1", topic, ok()))
  })

  test("replies any JSON value, and keys named like an object's own", async (topic) => {
    const client = await Client.open(server.port)
    for (const [index, echo] of [null, false, 0, "", [], [1, { a: null }], "text"].entries()) {
      const own = `${topic}-${index}`
      assert.deepStrictEqual(await client.ask(["1", "1", own, "phx_join", { echo }]), reply("1", "1", own, ok(echo)))
    }
    client.send(`["1","1","${topic}","phx_join",{"echo":{"__proto__":{"x":1},"constructor":2}}]`)
    assert.strictEqual(
      JSON.stringify((await client.next() as ReadonlyArray<unknown>)[4]),
      "{\"status\":\"ok\",\"response\":{\"__proto__\":{\"x\":1},\"constructor\":2}}"
    )
  })

  test("takes the rest of the topic for the room, whatever it is", async () => {
    const client = await Client.open(server.port, "vsn=2.0.0&user_id=ann")
    for (const rest of ["", "*", "a:b", "with space", "zażółć", "\"quoted\"", "💡"]) {
      const topic = `room:${rest}`
      await client.join(topic)
      assert.deepStrictEqual(
        await client.call(topic, "info"),
        ok({ topic, joined: true, user_id: "ann", room_id: rest })
      )
    }
  })

  test("of a topic that nothing serves is answered without a join_ref", async () => {
    const client = await Client.open(server.port)
    for (const topic of ["room", "rooms:1", "", "phoenix", "notification:1", "*", null, 5, ["room:1"]]) {
      assert.deepStrictEqual(
        await client.ask(["1", "2", topic, "phx_join", {}]),
        reply(null, "2", topic, { status: "error", response: { reason: "unmatched topic" } })
      )
    }
  })

  test("is echoed with the types that the refs came in", async (topic) => {
    const client = await Client.open(server.port)
    assert.deepStrictEqual(await client.ask([1, 2, topic, "phx_join", {}]), reply(1, 2, topic, ok()))
    // Another type is another join.
    client.send(["1", 3, topic, "echo", {}])
    assert.deepStrictEqual(await client.ask([1, 4, topic, "echo", {}]), reply(1, 4, topic, ok()))
    assert.deepStrictEqual(await client.ask([null, 5, topic, "echo", {}]), reply(1, 5, topic, ok()))
    assert.deepStrictEqual(await client.ask([1, 6, topic, "phx_leave", {}]), reply(1, 6, topic, ok()))
    assert.deepStrictEqual(await client.next(), [1, 1, topic, "phx_close", {}])
  })

  test("of notifications says its kind, and an event crashes it", async () => {
    const client = await Client.open(server.port)
    const topic = `notifications:${uniqueTopic()}`
    for (const payload of [{}, null, [1]]) {
      const own = `${topic}-${JSON.stringify(payload)}`
      assert.deepStrictEqual(
        await client.ask(["1", "1", own, "phx_join", payload]),
        reply("1", "1", own, ok({ kind: "notifications" }))
      )
      client.push(own, "anything", {})
      assert.deepStrictEqual(await client.next(), crashed(own))
    }
  })
})

describe("an event", () => {
  test("whose clause asks for more than it has crashes the channel, and only that", async (topic) => {
    const client = await joined(topic)
    const bad: ReadonlyArray<readonly [event: string, payload: unknown]> = [
      ["message:new", {}],
      ["slow", {}],
      ["slow", { ms: "1" }],
      ["slow", { ms: -1 }],
      ["send_after", { ms: 1 }],
      ["server_broadcast", { topic: "t", event: "e" }],
      ["server_broadcast", { topic: 1, event: "e", payload: {} }],
      ["local_broadcast", { topic: "t", payload: {} }],
      ["subscribe", {}],
      ["unsubscribe", { topic: null }],
      ["disconnect_user", {}],
      ["push_me", null],
      ["push_me", "text"],
      ["push_me", [1]],
      ["masked", [1]],
      ["bin_echo", {}],
      ["bin_push", { a: 1 }],
      ["bin_shout", "AQID"],
      ["no such event", {}],
      ["phx_reply", {}],
      ["phx_close", {}],
      ["phx_error", {}],
      ["", {}]
    ]
    for (const [index, [event, payload]] of bad.entries()) {
      const own = `${topic}-${index}`
      await client.join(own)
      client.push(own, event, payload)
      assert.deepStrictEqual(await client.next(), crashed(own), event)
    }
    assert.deepStrictEqual(await client.call(topic, "reply_ok"), ok())
  })

  test("carries any JSON value, unchanged", async (topic) => {
    const client = await joined(topic)
    for (
      const value of [null, true, 0, -1.5, 1e21, "", "żółć \u0000 \u2028 💡", [], [[]], { "": {} }, {
        a: [1, "2", null]
      }]
    ) {
      assert.deepStrictEqual(await client.call(topic, "echo", value), ok(value))
      assert.deepStrictEqual(await client.call(topic, "reply_error", value), { status: "error", response: value })
    }
  })

  test("may have keys that an object of JavaScript has already", async (topic) => {
    const keys = "\"__proto__\":{\"polluted\":true},\"constructor\":1,\"toString\":null,\"hasOwnProperty\":[2]"
    const text = `{${keys}}`
    const client = await joined(topic)
    const ask = async (event: string, payload: string) => {
      client.send(`["1","k","${topic}","${event}",${payload}]`)
      return JSON.stringify((await client.next() as ReadonlyArray<unknown>)[4])
    }
    assert.strictEqual(await ask("echo", text), `{"status":"ok","response":${text}}`)
    assert.strictEqual(await ask("reply_error", text), `{"status":"error","response":${text}}`)
    assert.strictEqual(await ask("push_me", text), text)
    assert.strictEqual(await ask("async_reply", text), `{"status":"ok","response":${text}}`)
    assert.strictEqual(await ask("masked", text), `{${keys},"for":null}`)
    assert.strictEqual(
      await ask("masked", "{\"__proto__\":{\"skip_user\":null}}"),
      "{\"__proto__\":{\"skip_user\":null},\"for\":null}"
    )
    assert.strictEqual(await ask("message:new", `{"body":${text}}`), `{"body":${text},"user_id":null}`)
    await client.next()
    assert.strictEqual(
      await ask("server_broadcast", `{"topic":"${topic}","event":"e","payload":${text}}`),
      text
    )
    await client.next()
    assert.strictEqual(
      await ask("send_after", `{"ms":0,"value":${text}}`),
      `{"value":${text}}`
    )
    // A required key that only the prototype has is not there.
    assert.strictEqual(await ask("message:new", "{\"__proto__\":{\"body\":1}}"), "{\"reason\":\"channel_crash\"}")
  })

  test("of a name, or a topic, that an object has already is nothing special", async (topic) => {
    const client = await joined(topic)
    for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"]) {
      const own = `room:${name}${topic}`
      await client.join(own)
      client.push(own, name, {})
      assert.deepStrictEqual(await client.next(), crashed(own), name)
      assert.deepStrictEqual(
        await client.ask(["1", "1", name, "phx_join", {}]),
        reply(null, "1", name, { status: "error", response: { reason: "unmatched topic" } })
      )
    }
  })

  test("of a channel that has been left is answered that the topic is unmatched; a late reply still comes", async (topic) => {
    const client = await joined(topic)
    client.push(topic, "async_reply", { late: true })
    client.push(topic, "phx_leave", {})
    assert.deepStrictEqual(await client.take(2), [
      reply("1", "r2", topic, ok()),
      ["1", "1", topic, "phx_close", {}]
    ])
    assert.deepStrictEqual(
      await client.call(topic, "echo"),
      { status: "error", response: { reason: "unmatched topic" } }
    )
    assert.deepStrictEqual(await client.next(), reply("1", "r1", topic, ok({ late: true })))
    assert.deepStrictEqual(await client.call(topic, "phx_leave"), ok())
  })

  test("that is slow holds up its own channel alone", async (topic) => {
    const client = await joined(topic)
    const other = uniqueTopic()
    await client.join(other)
    const slow = client.push(topic, "slow", { ms: 50 })
    const after = client.push(topic, "incr", {})
    assert.deepStrictEqual(await client.call(other, "incr"), ok({ counter: 1 }))
    assert.deepStrictEqual(
      await client.ask([null, "h", "phoenix", "heartbeat", {}]),
      reply(null, "h", "phoenix", ok())
    )
    assert.deepStrictEqual(await client.take(2), [
      reply("1", slow, topic, ok()),
      reply("1", after, topic, ok({ counter: 1 }))
    ])
  })

  test("is counted by each join anew", async (topic) => {
    const [a, b] = [await joined(topic), await joined(topic)]
    assert.deepStrictEqual(await a.call(topic, "incr"), ok({ counter: 1 }))
    assert.deepStrictEqual(await a.call(topic, "incr"), ok({ counter: 2 }))
    assert.deepStrictEqual(await b.call(topic, "incr"), ok({ counter: 1 }))
    a.push(topic, "crash", {})
    assert.deepStrictEqual(await a.next(), crashed(topic))
    await a.join(topic)
    assert.deepStrictEqual(await a.call(topic, "incr"), ok({ counter: 1 }))
  })
})

describe("broadcasts", () => {
  test("of the node reach its clients and come back to the sender before the reply", async (topic) => {
    const [a, b] = [await joined(topic), await joined(topic)]
    const ref = a.push(topic, "local_broadcast", { topic, event: "e", payload: { n: 1 } })
    const frame = broadcast(topic, "e", { n: 1 })
    assert.deepStrictEqual(await a.take(2), [frame, reply("1", ref, topic, ok())])
    assert.deepStrictEqual(await b.next(), frame)
  })

  test("come once for each subscription, and no more once it has ended", async (topic) => {
    const client = await joined(topic)
    const side = `side:${topic}`
    const relayed = (n: number) => pushed(topic, "relayed", { topic: side, event: "e", payload: { n } })
    const send = (n: number) => client.push(topic, "server_broadcast", { topic: side, event: "e", payload: { n } })
    for (let i = 0; i < 2; i++) assert.deepStrictEqual(await client.call(topic, "subscribe", { topic: side }), ok())
    const first = send(1)
    assert.deepStrictEqual(await client.take(3), [reply("1", first, topic, ok()), relayed(1), relayed(1)])
    assert.deepStrictEqual(await client.call(topic, "unsubscribe", { topic: side }), ok())
    assert.deepStrictEqual(await client.call(topic, "server_broadcast", { topic: side, event: "e", payload: {} }), ok())
    assert.deepStrictEqual(await client.call(topic, "unsubscribe", { topic: side }), ok())
    assert.deepStrictEqual(await client.call(topic, "incr"), ok({ counter: 1 }))
  })

  test("of a payload that is no map crash their sender, if somebody would get them", async (topic) => {
    const [a, b] = [await joined(topic), await joined(`${topic}-other`)]
    assert.deepStrictEqual(
      await b.call(`${topic}-other`, "server_broadcast", { topic: "nobody:1", event: "e", payload: 1 }),
      ok()
    )
    b.push(`${topic}-other`, "server_broadcast", { topic, event: "e", payload: "text" })
    assert.deepStrictEqual(await b.next(), crashed(`${topic}-other`))
    assert.deepStrictEqual(await a.call(topic, "incr"), ok({ counter: 1 }))
  })

  test("of typing go to all but the sender, with the user", async (topic) => {
    const [a, b] = [await joined(topic, {}, "vsn=2.0.0&user_id=ann"), await joined(topic)]
    a.push(topic, "typing:start", { ignored: true })
    assert.deepStrictEqual(await b.next(), broadcast(topic, "typing:start", { user_id: "ann" }))
    b.push(topic, "typing:start", {})
    assert.deepStrictEqual(await a.next(), broadcast(topic, "typing:start", { user_id: null }))
    assert.deepStrictEqual(await b.call(topic, "incr"), ok({ counter: 1 }))
  })

  test("that are intercepted are told for whom, and left out where they say so", async (topic) => {
    const [a, b] = [await joined(topic, {}, "vsn=2.0.0&user_id=ann"), await joined(topic)]
    a.push(topic, "masked", { skip_user: "ann", x: [1] })
    assert.deepStrictEqual(await b.next(), pushed(topic, "masked", { skip_user: "ann", x: [1], for: null }))
    a.push(topic, "masked", { skip_user: null })
    assert.deepStrictEqual(await a.next(), pushed(topic, "masked", { skip_user: null, for: "ann" }))
    assert.deepStrictEqual(await b.call(topic, "incr"), ok({ counter: 1 }))
  })

  test("of disconnect close all connections of the user, on other rooms too, with 1001", async (topic) => {
    const query = `vsn=2.0.0&user_id=${topic}`
    const [a, b, other] = [await joined(topic, {}, query), await joined(uniqueTopic(), {}, query), await joined(topic)]
    assert.deepStrictEqual(await other.call(topic, "disconnect_user", { id: topic }), ok())
    assert.deepStrictEqual(await Promise.all([a.closed, b.closed]), [1001, 1001])
    assert.deepStrictEqual(await other.call(topic, "incr"), ok({ counter: 1 }))
  })
})

type Entry = { readonly metas: ReadonlyArray<Readonly<Record<string, unknown>>> }
type Entries = Readonly<Record<string, Entry>>

/** What is known of everybody, without refs. */
const known = (entries: Entries) =>
  Object.entries(entries).map(([key, { metas }]) => [
    key,
    metas.map((meta) => Object.fromEntries(Object.entries(meta).filter(([name]) => !name.startsWith("phx_ref"))))
  ])

/** A client in a topic of the PresenceChannel, and what it was pushed: a diff may come before the state or after it. */
const present = async (topic: string, payload: unknown = {}, user?: string) => {
  const client = await joined(topic, payload, `vsn=2.0.0${user === undefined ? "" : `&user_id=${user}`}`)
  const pushes: Array<readonly [event: string, payload: Entries & { joins: Entries; leaves: Entries }]> = []
  const read = async (): Promise<ReadonlyArray<unknown>> => {
    const frame = await client.next() as ReadonlyArray<unknown>
    if (frame[3] !== "phx_reply") pushes.push([frame[3] as string, frame[4] as Entries & (typeof pushes)[0][1]])
    return frame
  }
  /** The next push of an event, whatever came before it. */
  const next = async (event: string) => {
    for (;;) {
      const found = pushes.find(([name]) => name === event)
      if (found !== undefined) {
        pushes.splice(pushes.indexOf(found), 1)
        return found[1]
      }
      await read()
    }
  }
  const diff = async () => {
    const { joins, leaves, ...more } = await next("presence_diff")
    return [known(joins), known(leaves), more]
  }
  /** The payload of a reply, whatever comes before it. */
  const call = async (event: string, payload: unknown = {}) => {
    const ref = client.push(topic, event, payload)
    for (;;) {
      const frame = await read()
      if (frame[3] === "phx_reply" && frame[1] === ref) return frame[4]
    }
  }
  return { client, next, diff, call, read }
}

describe("presence", () => {
  const own = (name: string, body: (topic: string) => Promise<void>) =>
    it.live(name, () => Effect.promise(() => body(`presence:contract-${++topics}`)))

  own(
    "is tracked after the join, under the user's id or anon, with the meta of the join or online_at 1",
    async (topic) => {
      const ada = await present(topic, { meta: { device: "phone" } }, "ada")
      assert.deepStrictEqual(known(await ada.next("presence_state")), [["ada", [{ device: "phone" }]]])
      assert.deepStrictEqual(await ada.diff(), [[["ada", [{ device: "phone" }]]], [], {}])
      const nobody = await present(topic)
      assert.deepStrictEqual(known(await nobody.next("presence_state")), [
        ["ada", [{ device: "phone" }]],
        ["anon", [{ online_at: 1 }]]
      ])
      assert.deepStrictEqual(await ada.diff(), [[["anon", [{ online_at: 1 }]]], [], {}])
    }
  )

  own("update replaces the meta, update_fn counts, both with the ref before", async (topic) => {
    const ada = await present(topic, {}, "ada")
    const [first] = (await ada.next("presence_state"))["ada"]?.metas ?? []
    await ada.diff()
    assert.deepStrictEqual(await ada.call("update", { meta: { x: 1 } }), ok())
    const { joins, leaves } = await ada.next("presence_diff")
    assert.deepStrictEqual(leaves, { ada: { metas: [first ?? {}] } })
    assert.deepStrictEqual(known(joins), [["ada", [{ x: 1 }]]])
    assert.strictEqual(joins["ada"]?.metas[0]?.["phx_ref_prev"], first?.["phx_ref"])
    for (const n of [1, 2]) {
      assert.deepStrictEqual(await ada.call("update_fn"), ok())
      assert.deepStrictEqual((await ada.diff())[0], [["ada", [{ x: 1, n }]]])
    }
  })

  for (const event of ["update", "update_fn"]) {
    own(`${event} crashes the channel of who is not tracked`, async (topic) => {
      const ada = await present(topic, {}, "ada")
      await ada.next("presence_state")
      assert.deepStrictEqual(await ada.call("untrack"), ok())
      ada.client.push(topic, event, { meta: {} })
      let frame = await ada.read()
      while (frame[3] !== "phx_error") frame = await ada.read()
      assert.deepStrictEqual(frame, crashed(topic))
    })
  }

  own("track_as takes any other key, and says already_tracked for the same", async (topic) => {
    const ada = await present(topic, {}, "ada")
    await ada.diff()
    for (const key of ["cat", "__proto__", "constructor"]) {
      assert.deepStrictEqual(await ada.call("track_as", { key, meta: { of: "ada" } }), ok())
      assert.deepStrictEqual(await ada.diff(), [[[key, [{ of: "ada" }]]], [], {}])
      assert.deepStrictEqual(await ada.call("track_as", { key, meta: {} }), {
        status: "error",
        response: { reason: "already_tracked" }
      })
    }
    const { response } = await ada.call("list") as { response: Entries }
    assert.deepStrictEqual(Object.keys(response).toSorted(), ["__proto__", "ada", "cat", "constructor"])
  })

  own("untrack and untrack_key are ok, tracked or not", async (topic) => {
    const ada = await present(topic, {}, "ada")
    await ada.diff()
    assert.deepStrictEqual(await ada.call("track_as", { key: "cat", meta: {} }), ok())
    await ada.diff()
    for (const [event, payload, key] of [["untrack_key", { key: "cat" }, "cat"], ["untrack", {}, "ada"]] as const) {
      assert.deepStrictEqual(await ada.call(event, payload), ok())
      const [joins, leaves] = await ada.diff()
      assert.deepStrictEqual([joins, (leaves as ReadonlyArray<ReadonlyArray<unknown>>).map(([key]) => key)], [[], [
        key
      ]])
      assert.deepStrictEqual(await ada.call(event, payload), ok())
    }
    assert.deepStrictEqual(await ada.call("list"), ok())
  })

  own(
    "list and get give what is known, with the refs of the state; a key that is absent has nothing",
    async (topic) => {
      const ada = await present(topic, { meta: { n: 1 } }, "ada")
      const state = await ada.next("presence_state")
      assert.match(String(state["ada"]?.metas[0]?.["phx_ref"]), /^[\w-]{16}$/)
      assert.deepStrictEqual(await ada.call("list"), ok(state))
      assert.deepStrictEqual(await ada.call("get", { key: "ada" }), ok({ found: state["ada"] }))
      for (const key of ["nobody", "constructor", "__proto__"]) {
        assert.deepStrictEqual(await ada.call("get", { key }), ok({ found: [] }))
      }
    }
  )

  own("ends with the connection and with a leave, for everybody else", async (topic) => {
    const ada = await present(topic, {}, "ada")
    await ada.diff()
    const tab = await present(topic, { meta: { tab: 2 } }, "ada")
    assert.deepStrictEqual(await ada.diff(), [[["ada", [{ tab: 2 }]]], [], {}])
    tab.client.ws.terminate()
    assert.deepStrictEqual(await ada.diff(), [[], [["ada", [{ tab: 2 }]]], {}])
    const grace = await present(topic, {}, "grace")
    await ada.diff()
    grace.client.send(["1", "2", topic, "phx_leave", {}])
    assert.deepStrictEqual(await ada.diff(), [[], [["grace", [{ online_at: 1 }]]], {}])
  })

  own("crashes for an event that it does not know, and for a join whose payload is no map", async (topic) => {
    const ada = await present(topic, {}, "ada")
    await ada.next("presence_state")
    await ada.diff()
    assert.deepStrictEqual(await ada.client.ask(["1", "2", topic, "unknown", {}]), crashed(topic))
    const client = await Client.open(server.port)
    assert.deepStrictEqual(
      await client.ask(["1", "1", topic, "phx_join", []]),
      reply("1", "1", topic, { status: "error", response: { reason: "join crashed" } })
    )
  })
})

describe("V1", () => {
  const frame = (topic: string, event: string, payload: unknown, ref: unknown = "1") => ({ topic, event, payload, ref })
  const okay = (topic: string, ref: unknown, response: unknown = {}) => frame(topic, "phx_reply", ok(response), ref)
  const open = async (topic: string) => {
    const client = await Client.open(server.port, "vsn=1.0.0")
    assert.deepStrictEqual(await client.ask(frame(topic, "phx_join", {})), okay(topic, "1"))
    return client
  }

  test("pushes, answers and ends a channel without a ref of the join", async (topic) => {
    const client = await open(topic)
    assert.deepStrictEqual(
      await client.ask(frame(topic, "push_me", [1, "any value"], "2")),
      frame(topic, "pushed", [1, "any value"], null)
    )
    assert.deepStrictEqual(await client.ask(frame(topic, "async_reply", { a: 1 }, "3")), okay(topic, "3", { a: 1 }))
    assert.deepStrictEqual(await client.ask(frame(topic, "echo", null, 4)), okay(topic, 4, null))
    client.send(frame(topic, "typing:start", {}, "5"))
    client.send(frame(topic, "server_broadcast", { topic, event: "e", payload: 5 }, "6"))
    assert.deepStrictEqual(await client.take(2), [frame(topic, "e", 5, null), okay(topic, "6")])
    client.send(frame(topic, "phx_leave", {}, "7"))
    assert.deepStrictEqual(await client.take(2), [okay(topic, "7"), frame(topic, "phx_close", {}, null)])
  })

  test("hears of a crash and of a stop without a ref", async (topic) => {
    const client = await open(topic)
    assert.deepStrictEqual(
      await client.ask(frame(topic, "crash", {}, "2")),
      frame(topic, "phx_error", { reason: "channel_crash" }, null)
    )
    assert.deepStrictEqual(await client.ask(frame(topic, "phx_join", {}, "3")), okay(topic, "3"))
    assert.deepStrictEqual(await client.ask(frame(topic, "stop", {}, "4")), frame(topic, "phx_close", {}, null))
  })

  test("that names its join_ref gets it back as the ref of the end", async (topic) => {
    const client = await Client.open(server.port, "vsn=1.0.0")
    const join = { ...frame(topic, "phx_join", {}, "7"), join_ref: "7" }
    assert.deepStrictEqual(await client.ask(join), okay(topic, "7"))
    client.send({ ...frame(topic, "echo", {}, "8"), join_ref: "6" })
    assert.deepStrictEqual(
      await client.ask({ ...frame(topic, "stop", {}, "9"), join_ref: "7" }),
      frame(topic, "phx_close", {}, "7")
    )
  })

  test("is left out of binary broadcasts, and a binary frame of JSON is read as JSON", async (topic) => {
    const client = await open(topic)
    const v2 = await joined(topic)
    v2.send(binary("1", "2", topic, "bin_shout", [1, 2, 3]))
    await v2.next()
    const echo = frame(topic, "echo", { a: 1 }, "2")
    assert.deepStrictEqual(await client.ask(Buffer.from(JSON.stringify(echo))), okay(topic, "2", { a: 1 }))
  })

  test("and V2 are talked to in one room, each in its own way", async (topic) => {
    const client = await open(topic)
    const v2 = await joined(topic)
    const payload = { body: { a: 1 }, user_id: null }
    client.send(frame(topic, "message:new", { body: { a: 1 } }, "2"))
    assert.deepStrictEqual(await client.take(2), [frame(topic, "message:new", payload, null), okay(topic, "2")])
    assert.deepStrictEqual(await v2.next(), broadcast(topic, "message:new", payload))
  })
})

describe("binary frames", () => {
  const hex = (...parts: ReadonlyArray<string | ReadonlyArray<number>>) =>
    Buffer.concat(parts.map((part) => Buffer.from(part as string))).toString("hex")

  test("answer, push and broadcast bytes, be there any or none", async (topic) => {
    const [a, b] = [await joined(topic), await joined(topic)]
    for (const data of [[], [0], [0xff, 0xfe, 0x00], Array.from({ length: 70_000 }, (_, i) => i % 256)]) {
      assert.strictEqual(
        await a.ask(binary("1", "22", topic, "bin_echo", data)),
        hex([1, 1, 2, topic.length, 2], "1", "22", topic, "ok", data)
      )
      assert.strictEqual(
        await a.ask(binary("1", "3", topic, "bin_push", data)),
        hex([0, 1, topic.length, 10], "1", topic, "bin_pushed", data)
      )
      const shout = hex([2, topic.length, 9], topic, "bin_shout", data)
      assert.strictEqual(await a.ask(binary("1", "4", topic, "bin_shout", data)), shout)
      assert.strictEqual(await b.next(), shout)
    }
  })

  test("hold fields of 255 bytes, and a longer one crashes the channel that would send it", async () => {
    const client = await Client.open(server.port)
    const [longest, longer] = [`room:${"ż".repeat(125)}`, `room:${"ż".repeat(126)}`]
    await client.join(longest)
    assert.strictEqual(
      await client.ask(binary("1", "2", longest, "bin_echo", [7])),
      hex([1, 1, 1, 255, 2], "1", "2", longest, "ok", [7])
    )
    await client.join(longer)
    assert.deepStrictEqual(await client.call(longer, "echo", { fine: true }), ok({ fine: true }))
    const ref = "x".repeat(256)
    assert.deepStrictEqual(await client.ask(["1", ref, longest, "echo", {}]), reply("1", ref, longest, ok()))
  })

  test("may carry any event; without a join_ref they are of no join", async (topic) => {
    const client = await Client.open(server.port)
    assert.deepStrictEqual(
      await client.ask(binary("", "h", "phoenix", "heartbeat", [])),
      reply(null, "h", "phoenix", ok())
    )
    assert.deepStrictEqual(
      await client.ask(binary("1", "1", topic, "phx_join", [])),
      reply("1", "1", topic, { status: "error", response: { reason: "join crashed" } })
    )
    await client.join(topic)
    client.send(binary("", "2", topic, "bin_echo", [1]))
    assert.strictEqual(
      await client.ask(binary("1", "3", topic, "echo", [1])),
      hex([1, 1, 1, topic.length, 2], "1", "3", topic, "ok", [1])
    )
    assert.deepStrictEqual(await client.ask(binary("1", "4", topic, "phx_leave", [9])), reply("1", "4", topic, ok()))
    assert.deepStrictEqual(await client.next(), ["1", "1", topic, "phx_close", {}])
  })

  test("write refs that are no text as text", async (topic) => {
    const client = await Client.open(server.port)
    assert.deepStrictEqual(await client.ask([1, 2, topic, "phx_join", {}]), reply(1, 2, topic, ok()))
    client.send([1, 3, topic, "server_broadcast", { topic, event: "e", payload: {} }])
    assert.deepStrictEqual(await client.take(2), [broadcast(topic, "e", {}), reply(1, 3, topic, ok())])
    // The join_ref of a binary frame is text: it cannot name this join.
    client.send(binary("1", "4", topic, "bin_echo", [1]))
    assert.deepStrictEqual(await client.ask([1, 5, topic, "incr", {}]), reply(1, 5, topic, ok({ counter: 1 })))
  })
})

describe("a client that closes", () => {
  // Known to differ: the code is sent back as it came, or none where none came.
  it.live("is answered 1000, or 1002 for a code that it must not send", () =>
    Effect.promise(async () => {
      for (const code of [undefined, 1000, 1001, 1003, 3000, 4999]) {
        const client = await Client.open(server.port)
        client.ws.close(code)
        assert.strictEqual(await client.closed, 1000, String(code))
      }
      for (const code of [1012, 1013, 1014]) {
        const client = await Client.open(server.port)
        client.ws.close(code)
        assert.strictEqual(await client.closed, 1002, String(code))
      }
    }))
})

describe("terminate is told", () => {
  const ending = (
    name: string,
    reason: string,
    end: (client: Client, topic: string) => unknown,
    payload: unknown = {}
  ) =>
    test(`${reason} ${name}`, async (topic) => {
      const watch = await watcher(topic)
      const query = `vsn=2.0.0&user_id=${encodeURIComponent(topic)}`
      const client = await Client.open(server.port, query)
      await client.ask(["1", "1", topic, "phx_join", payload])
      await end(client, topic)
      assert.strictEqual(await watch.next(), reason)
      watch.client.ws.terminate()
    })

  for (const trap of [{}, { trap: true }]) {
    const suffix = "trap" in trap ? ", trapping exits or not" : ""
    ending(`at a leave${suffix}`, "{:shutdown, :left}", (client, topic) => client.push(topic, "phx_leave", {}), trap)
    ending(`at a stop${suffix}`, ":normal", (client, topic) => client.push(topic, "stop", {}), trap)
    ending(`at a stop with a reply${suffix}`, ":normal", (client, topic) => client.push(topic, "stop_reply", {}), trap)
    ending(`at a shutdown${suffix}`, ":shutdown", (client, topic) => client.push(topic, "stop_shutdown", {}), trap)
    ending(
      `at a stop with an error${suffix}`,
      "{:error, \"boom\"}",
      (client, topic) => client.push(topic, "stop_error", {}),
      trap
    )
    ending(`at a crash${suffix}`, "exception", (client, topic) => client.push(topic, "crash", {}), trap)
    ending(`when the client closes${suffix}`, "{:shutdown, :local_closed}", (client) => client.ws.close(1000), trap)
    ending(
      `when the connection is dropped${suffix}`,
      "{:shutdown, :peer_closed}",
      (client) => client.ws.terminate(),
      trap
    )
    ending(
      `at a disconnect${suffix}`,
      "{:shutdown, :disconnected}",
      (client, topic) => client.push(topic, "disconnect_user", { id: topic }),
      trap
    )
    ending(`at a refused join${suffix}`, ":shutdown", () => {}, { ...trap, deny: true })
  }

  ending("for every close code that a client gives", "{:shutdown, :local_closed}", (client) => client.ws.close(4321))
  ending("at a frame that is no message", "exception", (client) => client.send("not json"))

  test("nothing when a join crashes", async (topic) => {
    const watch = await watcher(topic)
    const client = await Client.open(server.port)
    await client.ask(["1", "1", topic, "phx_join", { crash: true }])
    await client.join(topic)
    client.push(topic, "phx_leave", {})
    assert.strictEqual(await watch.next(), "{:shutdown, :left}")
  })

  own(
    "{:shutdown, :read_timeout} when a connection is silent for too long",
    { WS_TIMEOUT: "300" },
    async ({ port }) => {
      // One that polls is never silent for too long.
      const watch = await poller(port)
      await watch.post("1", "1", "room:watch", "phx_join", {})
      await watch.post("1", "2", "room:watch", "subscribe", { topic: "terminations" })
      const replies = new Set<string>()
      while (replies.size < 2) for (const reply of (await watch.get()).messages) replies.add(reply)
      await (await Client.open(port)).join("room:silent")
      assert.deepStrictEqual(
        (await watch.get()).messages.map((message) => JSON.parse(message)),
        [pushed("room:watch", "relayed", {
          topic: "terminations",
          event: "terminated",
          payload: { topic: "room:silent", reason: "{:shutdown, :read_timeout}" }
        })]
      )
    }
  )
})

/** A long poll of one connection. */
const poller = async (port: number, query = "") => {
  let token = ""
  const ask = async (method: string, body?: string): Promise<{ status: number; messages: ReadonlyArray<string> }> => {
    const path = `/socket/longpoll?vsn=2.0.0${query}&token=${token}`
    return JSON.parse((await Effect.runPromise(http(port, { method, path, body }))).body, (key, value) => {
      if (key === "token") token = value
      return value
    })
  }
  await ask("GET")
  return {
    get: () => ask("GET"),
    post: async (...frame: ReadonlyArray<unknown>) => (await ask("POST", JSON.stringify(frame))).status
  }
}

describe("a long poll", () => {
  own(
    "that nobody asks for ends its channels with {:shutdown, :inactive}",
    { LONGPOLL_WINDOW: "1000" },
    async ({ port }) => {
      const watch = await Client.open(port)
      await watch.join("room:watch")
      assert.deepStrictEqual(await watch.call("room:watch", "subscribe", { topic: "terminations" }), ok())
      const poll = await poller(port)
      assert.strictEqual(await poll.post("1", "1", "room:inactive", "phx_join", {}), 200)
      assert.deepStrictEqual(
        await watch.next(),
        pushed("room:watch", "relayed", {
          topic: "terminations",
          event: "terminated",
          payload: { topic: "room:inactive", reason: "{:shutdown, :inactive}" }
        })
      )
      assert.strictEqual(await poll.post("1", "2", "room:inactive", "echo", {}), 410)
      const { messages, status } = await poll.get()
      assert.deepStrictEqual([status, messages], [410, []])
    }
  )

  test("ends at a disconnect at once, and tells its channels", async (topic) => {
    const watch = await watcher(topic)
    const poll = await poller(server.port, `&user_id=${topic}`)
    await poll.post("1", "1", topic, "phx_join", {})
    await poll.get()
    const waiting = poll.get()
    const own = uniqueTopic()
    const other = await joined(own)
    other.push(own, "disconnect_user", { id: topic })
    assert.strictEqual(await watch.next(), "{:shutdown, :disconnected}")
    assert.strictEqual((await waiting).status, 410)
  })

  own("waits for no longer than its window", { LONGPOLL_WINDOW: "100" }, async ({ port }) => {
    const { messages, status } = await (await poller(port)).get()
    assert.deepStrictEqual([status, messages], [204, []])
  })
})

describe("SIGTERM", () => {
  own("closes all connections with 1012, busy or not, and ends with code 0", {}, async (server) => {
    const { port } = server
    const [idle, inRoom, busy, leaving] = [
      await Client.open(port),
      await Client.open(port),
      await Client.open(port),
      await Client.open(port, "vsn=1.0.0")
    ]
    await inRoom.join("room:1")
    await busy.join("room:1")
    busy.push("room:1", "slow", { ms: 300 })
    await busy.quiet()
    const halfOpen = connect(port, "127.0.0.1")
    await once(halfOpen, "connect")
    halfOpen.on("error", () => {})
    const code = server.stop()
    assert.deepStrictEqual(
      await Promise.all([idle.closed, inRoom.closed, busy.closed, leaving.closed]),
      [1012, 1012, 1012, 1012]
    )
    assert.strictEqual(await code, 0)
    assert.strictEqual(server.output, "listening\n")
  })

  own("ends a long poll that waits", {}, async (server) => {
    const poll = await poller(server.port)
    await poll.post("1", "1", "room:1", "phx_join", {})
    await poll.get()
    const waiting = poll.get()
    // Its answer comes after the poll has been taken in.
    await poll.post("1", "2", "room:1", "typing:start", {})
    assert.strictEqual(await server.stop(), 0)
    const { messages, status } = await waiting
    assert.deepStrictEqual([status, messages], [410, []])
  })

  it.live("does the same to `npm run conformance`", () =>
    Effect.promise(async () => {
      const port = await freePort("127.0.0.1")
      const child = spawn("npm", ["run", "--silent", "conformance"], {
        env: { ...process.env, PORT: String(port) },
        stdio: ["ignore", "pipe", "ignore"],
        // In a group of its own, so that nothing of it can be left.
        detached: true
      })
      try {
        const exited = once(child, "exit")
        let output = ""
        await new Promise<void>((resolve) => {
          child.stdout.setEncoding("utf8").on("data", (text: string) => {
            output += text
            if (output.includes("listening\n")) resolve()
          })
        })
        const client = await Client.open(port)
        await client.join("room:1")
        child.kill("SIGTERM")
        assert.deepStrictEqual(await exited, [0, null])
        assert.strictEqual(await client.closed, 1012)
        assert.strictEqual(output, "listening\n")
      } finally {
        killGroup(child.pid)
      }
    }))
})

const killGroup = (pid: number | undefined): void => {
  try {
    if (pid !== undefined) process.kill(-pid, "SIGKILL")
  } catch {
    // It has ended as it should.
  }
}
