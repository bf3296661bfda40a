/** NATS that is there and does not do all that a node needs, or some of whose servers do not. */
import { assert, describe, it } from "@effect/vitest"
import { connect } from "@nats-io/transport-node"
import { Effect, Fiber, type Scope } from "effect"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer, type Server, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { freePort } from "../../scripts/freePort.ts"
import * as Nats from "../../src/pubsub/nats.ts"
import { Engine, engineOf, engineWith, isMissing, nats } from "../support/engine.ts"
import { elsewhere, type Identity, localhost } from "../support/identities.ts"
import { drain, subscribe } from "./contract.ts"
import { cableTo, nodeWith, statusIs } from "./health.ts"

/** The configuration for one user, with rights that NATS takes. */
const user = (rights: string) =>
  `authorization { users = [ { user: node, password: secret, permissions: { ${rights} } } ] }`

const asNode = ({ port }: { readonly port: number }) => `nats://node:secret@127.0.0.1:${port}`

const all = "publish: \">\", subscribe: \">\""

/** Servers of NATS that make up a cluster, of which some may not run yet. */
const clusterOf = (name: string, count: number, more: ReadonlyArray<string> = []) =>
  Effect.gen(function*() {
    const ports = yield* Effect.promise(() => Promise.all(Array.from({ length: count }, () => freePort("127.0.0.1"))))
    const routes = ports.map((port) => `"nats://127.0.0.1:${port}"`).join(", ")
    return yield* Effect.forEach(ports, (port, index) =>
      engineOf(nats, async (kind) => {
        const engine = await Engine.reserve(kind)
        engine.configure(
          `cluster { ${name === "" ? "" : `name: "${name}", `}listen: "127.0.0.1:${port}", routes: [ ${routes} ] }\n`
            + `client_advertise: "127.0.0.1:${engine.port}"\n${more[index] ?? ""}`
        )
        return engine
      }))
  })

const started = (...engines: ReadonlyArray<Engine>) =>
  Effect.promise(() => Promise.all(engines.map((one) => one.start())))

/** Waits until a server tells its clients of so many servers. */
const knows = ({ url }: { readonly url: string }, count: number, options: object = {}) =>
  Effect.promise(async () => {
    for (;;) {
      const client = await connect({ servers: url, reconnect: false, ...options })
      const { connect_urls = [] } = client.info ?? {}
      await client.close()
      if (connect_urls.length === count) return
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })

const listening = (serve: (socket: Socket) => void): Effect.Effect<number, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async (): Promise<readonly [Server, Set<Socket>]> => {
        const sockets = new Set<Socket>()
        const server = createServer((socket) => {
          sockets.add(socket.on("error", () => {}))
          serve(socket)
        }).listen(0, "127.0.0.1")
        await once(server, "listening")
        return [server, sockets]
      }),
      ([server, sockets]) =>
        Effect.sync(() => {
          server.close()
          for (const socket of sockets) socket.destroy()
        })
    ),
    ([server]) => {
      const address = server.address()
      return typeof address === "object" && address !== null ? address.port : assert.fail()
    }
  )

/** A server that speaks so much of NATS as a client needs, and answers `SUB` as it is told. */
const script = (sub: (subject: string) => string | undefined, info: object = {}) => (socket: Socket) => {
  let rest = ""
  socket.write(`INFO ${JSON.stringify({ server_id: "x", version: "2.9.0", proto: 1, max_payload: 1000, ...info })}\r\n`)
  socket.setEncoding("latin1").on("data", (data: string) => {
    const lines = (rest + data).split("\r\n")
    rest = lines.pop() ?? ""
    for (const line of lines) {
      if (line === "PING") socket.write("PONG\r\n")
      const answer = line.startsWith("SUB ") ? sub(line.split(" ")[1] ?? "") : undefined
      if (answer !== undefined) socket.write(`${answer}\r\n`)
    }
  })
}

describe.skipIf(isMissing(nats))("the health of NATS", () => {
  it.live("at its limit of subscriptions the last are known, joins go on, and there is room once others leave", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, "max_subscriptions: 3")
      // A join that waited for the timeout would not end within this test.
      const a = yield* nodeWith(Nats.layer({ url: engine.url, timeout: "1 minute" }))
      const topics = ["room:1", "room:2", "room:3", "room:4"]
      const inboxes = yield* Effect.forEach(topics, (topic) => subscribe(a, topic))
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      const [line] = a.log.lines
      assert.match(line?.text ?? "", /^NATS refuses subscriptions: .*rights and limits.*Maximum Subscriptions/is)
      assert.deepInclude(line?.annotations, { channel: "phx.topic.room:3" })
      const b = yield* nodeWith(Nats.layer({ url: engine.url, timeout: "1 minute" }))
      const heard = (index: number) => drain(b, topics[index] ?? "", inboxes[index] ?? assert.fail())
      yield* heard(0)
      yield* heard(1)
      for (const index of [0, 1]) {
        yield* a.pubsub.unsubscribeAll(topics[index] ?? "", (inboxes[index] ?? assert.fail()).pid)
      }
      yield* statusIs("connected", a)
      yield* heard(2)
      yield* heard(3)
      assert.deepStrictEqual(a.log.lines.map(({ level }) => level), ["Warn", "Info"])
    }))

  it.live("at its limit a node that connects again knows which of many topics it does not hear", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, "max_subscriptions: 21")
      const cable = yield* cableTo(engine.port)
      const a = yield* nodeWith(Nats.layer({ url: `nats://127.0.0.1:${cable.port}` }))
      const b = yield* nodeWith(Nats.layer({ url: engine.url }))
      const topics = Array.from({ length: 30 }, (_, n) => `room:${n}`)
      const inboxes = yield* Effect.forEach(topics, (topic) => subscribe(a, topic))
      cable.cut()
      yield* a.log.until("is out of reach", 1)
      cable.heal()
      yield* statusIs("degraded", a)
      for (const [n, topic] of topics.entries()) if (n < 20) yield* drain(b, topic, inboxes[n] ?? assert.fail())
    }))

  it.live("a topic that the user may not subscribe to is told of, and heard once it is allowed", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, user("publish: \">\", subscribe: { deny: \"phx.topic.secret\" }"))
      const layer = Nats.layer({ url: asNode(engine), timeout: "1 minute" })
      const [a, b] = [yield* nodeWith(layer), yield* nodeWith(layer)]
      const other = yield* subscribe(a, "room:1")
      const here = yield* subscribe(a, "secret")
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.match(a.log.lines[0]?.text ?? "", /^NATS refuses subscriptions: .*Permissions Violation/s)
      assert.deepInclude(a.log.lines[0]?.annotations, { channel: "phx.topic.secret", channels: 1 })
      yield* a.pubsub.localBroadcast("secret", "local")
      assert.deepStrictEqual(here.received, ["local"])
      yield* drain(b, "room:1", other)
      engine.configure(user(all))
      engine.reload()
      yield* a.log.until("takes everything of this node again", 1)
      yield* statusIs("connected", b)
      yield* drain(b, "secret", here)
    }))

  it.live("a subscription that is taken away later is noticed", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, user(all))
      const a = yield* nodeWith(Nats.layer({ url: asNode(engine) }))
      yield* subscribe(a, "secret")
      assert.strictEqual(yield* a.pubsub.status, "connected")
      engine.configure(user("publish: \">\", subscribe: { deny: \"phx.topic.secret\" }"))
      engine.reload()
      yield* a.log.until("NATS refuses subscriptions", 1)
      yield* statusIs("degraded", a)
    }))

  it.live("an error that names no subject, and keeps the connection, is one of the subscriptions under way", () =>
    Effect.gen(function*() {
      let isWell = false
      const port = yield* listening(
        script((subject) => isWell || !subject.includes("room") ? undefined : "-ERR 'Not today'")
      )
      const a = yield* nodeWith(Nats.layer({ url: `nats://127.0.0.1:${port}`, timeout: "1 minute" }))
      assert.strictEqual(yield* a.pubsub.status, "connected")
      yield* subscribe(a, "room:1")
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.match(a.log.lines[0]?.text ?? "", /^NATS refuses subscriptions: .*Not today/s)
      isWell = true
      yield* statusIs("connected", a)
    }))

  it.live("a user who may not publish is told of at once, without a broadcast, and is well again once he may", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, user("publish: { deny: \">\" }, subscribe: \">\""))
      const a = yield* nodeWith(Nats.layer({ url: asNode(engine) }))
      assert.strictEqual(yield* a.pubsub.status, "degraded")
      assert.match(a.log.lines[0]?.text ?? "", /^NATS refuses messages: .*Permissions Violation/s)
      yield* a.pubsub.broadcast("room:1", "lost")
      engine.configure(user(all))
      engine.reload()
      yield* a.log.until("takes everything of this node again", 1)
      assert.strictEqual(yield* a.pubsub.status, "connected")
    }))

  it.live("a message that may not be published makes the node degraded, until its subject takes messages again", () =>
    Effect.gen(function*() {
      const engine = yield* engineWith(nats, user("publish: { deny: \"phx.topic.quiet\" }, subscribe: \">\""))
      const layer = Nats.layer({ url: asNode(engine) })
      const [a, b] = [yield* nodeWith(layer), yield* nodeWith(layer)]
      const there = yield* subscribe(b, "quiet")
      assert.strictEqual(yield* a.pubsub.status, "connected")
      yield* a.pubsub.broadcast("quiet", "lost")
      yield* statusIs("degraded", a)
      assert.deepInclude(a.log.of("refuses messages")[0]?.annotations, { channel: "phx.topic.quiet", channels: 1 })
      engine.configure(user(all))
      engine.reload()
      yield* a.log.until("takes everything of this node again", 1)
      assert.deepInclude(a.log.of("takes everything")[0]?.annotations, { lost: 1 })
      yield* drain(a, "quiet", there)
      assert.deepStrictEqual(there.received, [])
    }))

  it.live("a server that has joined later is used when the first one dies", () =>
    Effect.gen(function*() {
      const [first, second] = yield* clusterOf("one", 2)
      if (first === undefined || second === undefined) return assert.fail()
      yield* started(first)
      const a = yield* nodeWith(Nats.layer({ url: first.url }))
      yield* statusIs("connected", a)
      yield* started(second)
      yield* knows(first, 2)
      yield* Effect.promise(() => first.kill())
      yield* a.log.until("NATS is back", 1)
      const b = yield* nodeWith(Nats.layer({ url: second.url }))
      const there = yield* subscribe(b, "room:1")
      yield* drain(a, "room:1", there)
    }))

  it.live("servers of a cluster without a name are used, and again after each was restarted", () =>
    Effect.gen(function*() {
      const [first, second] = yield* clusterOf("", 2)
      if (first === undefined || second === undefined) return assert.fail()
      yield* started(first, second)
      yield* knows(first, 2)
      const a = yield* nodeWith(Nats.layer({ url: first.url }))
      yield* statusIs("connected", a)
      for (const [gone, left] of [[first, second], [second, first]] as const) {
        yield* Effect.promise(() => gone.kill())
        yield* knows(left, 1)
        yield* statusIs("connected", a)
        yield* started(gone)
        yield* knows(left, 2)
        const b = yield* nodeWith(Nats.layer({ url: left.url }))
        const there = yield* subscribe(b, "room:1")
        yield* drain(a, "room:1", there)
      }
    }))

  it.live("a server that has left is forgotten, though its address answers", () =>
    Effect.gen(function*() {
      const [first, second] = yield* clusterOf("one", 2)
      if (first === undefined || second === undefined) return assert.fail()
      yield* started(first, second)
      yield* knows(first, 2)
      const a = yield* nodeWith(Nats.layer({ url: first.url, timeout: 1000 }))
      yield* statusIs("connected", a)
      yield* Effect.promise(() => second.kill())
      yield* knows(first, 1)
      // Its successor at that address knows nothing of the first one.
      second.configure("")
      yield* started(second)
      yield* Effect.promise(() => first.kill())
      yield* a.log.until("is out of reach", 1)
      // Some attempts.
      yield* Effect.sleep("1 second")
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      yield* started(first)
      yield* a.log.until("NATS is back", 1)
    }))

  it.live("a server whose address went to another cluster while nobody looked is not joined", () =>
    Effect.gen(function*() {
      const [first, second] = yield* clusterOf("one", 2)
      if (first === undefined || second === undefined) return assert.fail()
      yield* started(first, second)
      yield* knows(first, 2)
      const a = yield* nodeWith(Nats.layer({ url: first.url, timeout: 1000 }))
      yield* statusIs("connected", a)
      yield* Effect.promise(() => Promise.all([first.kill(), second.kill()]))
      second.configure("cluster { name: \"two\", listen: \"127.0.0.1:-1\" }")
      yield* started(second)
      yield* a.log.until("is out of reach", 1)
      yield* Effect.sleep("1 second")
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      yield* started(first)
      yield* a.log.until("NATS is back", 1)
    }))

  it.live("a server of the options that belongs to another cluster now is not joined as long as the others are away", () =>
    Effect.gen(function*() {
      const [first, second] = yield* clusterOf("one", 2)
      if (first === undefined || second === undefined) return assert.fail()
      yield* started(first, second)
      yield* knows(first, 2)
      yield* Effect.promise(() => second.kill())
      yield* knows(first, 1)
      const a = yield* nodeWith(Nats.layer({ url: `${first.url},${second.url}` }))
      yield* statusIs("connected", a)
      second.configure("cluster { name: \"two\", listen: \"127.0.0.1:-1\" }")
      yield* started(second)
      yield* Effect.promise(() => first.kill())
      yield* a.log.until("is out of reach", 1)
      // Some attempts.
      yield* Effect.sleep("1 second")
      assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      yield* started(first)
      yield* a.log.until("NATS is back", 1)
    }))

  it.live("a cluster without a name is found again when all of it was restarted, and its name is another", () =>
    Effect.gen(function*() {
      const [only] = yield* clusterOf("", 1)
      if (only === undefined) return assert.fail()
      yield* started(only)
      const a = yield* nodeWith(Nats.layer({ url: only.url }))
      yield* statusIs("connected", a)
      yield* Effect.promise(() => only.kill())
      yield* a.log.until("is out of reach", 1)
      yield* started(only)
      yield* a.log.until("NATS is back", 1)
    }))

  it.live("a server that greets first and refuses is passed over for the next", () =>
    Effect.gen(function*() {
      const full = yield* engineWith(nats, "max_connections: 1")
      const other = yield* engineOf(nats)
      yield* Effect.acquireRelease(
        Effect.promise(() => connect({ servers: full.url })),
        (client) => Effect.promise(() => client.close())
      )
      const cable = yield* cableTo(other.port)
      // It takes connections and is silent for a while, so that the full one is always first to greet.
      cable.silence("in")
      const url = `${full.url},nats://127.0.0.1:${cable.port}`
      const node = yield* Effect.forkChild(nodeWith(Nats.layer({ url, timeout: "1 minute" })), {
        startImmediately: true
      })
      yield* Effect.sleep("400 millis")
      cable.heal()
      const a = yield* Fiber.join(node)
      yield* statusIs("connected", a)
      assert.deepStrictEqual(a.log.lines, [])
    }))

  it.live("servers that hang, before they greet or in the middle of a handshake, do not keep a node from the next", () =>
    Effect.gen(function*() {
      const silent = yield* listening(() => {})
      const half = yield* listening((socket) => socket.write("INFO {\"tls_required\":true,\"proto\":1}\r\n"))
      const deaf = yield* listening((socket) => socket.write("INFO {\"proto\":1,\"version\":\"2.9.0\"}\r\n"))
      const stranger = yield* listening((socket) => socket.write("220 mail.example ESMTP\r\n"))
      const engine = yield* engineOf(nats)
      const url = [silent, half, deaf, stranger, engine.port].map((port) => `nats://127.0.0.1:${port}`).join()
      for (let times = 0; times < 5; times++) {
        const a = yield* nodeWith(Nats.layer({ url }))
        assert.strictEqual(yield* a.pubsub.status, "connected")
        assert.deepStrictEqual(a.log.lines, [])
      }
    }))

  it.live("when no server takes a node, the log tells of each why, and no socket is left", () =>
    Effect.gen(function*() {
      const silent = yield* listening(() => {})
      const open = new Set<Socket>()
      const half = yield* listening((socket) => {
        open.add(socket)
        socket.on("close", () => open.delete(socket)).on("data", () => {})
        socket.write("INFO {\"tls_required\":true,\"proto\":1}\r\n")
      })
      const stranger = yield* listening((socket) => socket.write("220 mail.example ESMTP\r\n"))
      const url = `nats://127.0.0.1:${silent},nats://127.0.0.1:${stranger},nats://127.0.0.1:${half}`
      yield* Effect.scoped(Effect.gen(function*() {
        const a = yield* nodeWith(Nats.layer({ url, timeout: 700 }))
        yield* a.log.until("is out of reach", 1)
        const { text = "" } = a.log.lines[0] ?? {}
        assert.include(text, `127.0.0.1:${silent}: no answer`)
        assert.include(text, `127.0.0.1:${half}: no answer`)
        assert.include(text, `127.0.0.1:${stranger}: it does not greet as NATS does: 220 mail.example ESMTP`)
        yield* Effect.sleep("1 second")
      }))
      while (open.size > 0) yield* Effect.sleep("5 millis")
    }))

  describe("with TLS", () => {
    /** The files that a server takes, and the rest of its configuration. */
    const secure = ({ certificate, key }: Identity) =>
      Effect.map(
        Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "tls-"))),
          (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
        ),
        (folder) => {
          writeFileSync(join(folder, "cert.pem"), certificate)
          writeFileSync(join(folder, "key.pem"), key)
          return `tls { cert_file: "${join(folder, "cert.pem")}", key_file: "${join(folder, "key.pem")}" }`
        }
      )

    const client = { tls: { ca: `${localhost.certificate}\n${elsewhere.certificate}` } }

    it.live("a server that is known by its address is taken under the name of one of the options", () =>
      Effect.gen(function*() {
        const [first, second] = yield* clusterOf("one", 2, [yield* secure(localhost), yield* secure(elsewhere)])
        if (first === undefined || second === undefined) return assert.fail()
        yield* started(first, second)
        yield* knows({ url: `localhost:${first.port}` }, 2, client)
        // Nobody finds the second one by its name.
        const url = `tls://localhost:${first.port},tls://elsewhere.invalid`
        const [a, b] = [yield* nodeWith(Nats.layer({ url, client })), yield* nodeWith(Nats.layer({ url, client }))]
        yield* statusIs("connected", a, b)
        yield* Effect.promise(() => first.kill())
        yield* Effect.all([a.log.until("NATS is back", 1), b.log.until("NATS is back", 1)])
        const there = yield* subscribe(b, "room:1")
        yield* drain(a, "room:1", there)
      }))

    it.live("a certificate for another name is not taken, and the log says so although another server is merely away", () =>
      Effect.gen(function*() {
        const engine = yield* engineWith(nats, yield* secure(elsewhere))
        const url = `tls://localhost:1,tls://localhost:${engine.port}`
        const a = yield* nodeWith(Nats.layer({ url, client, timeout: 1000 }))
        yield* a.log.until("is out of reach", 1)
        assert.match(a.log.lines[0]?.text ?? "", /localhost:1: .*ECONNREFUSED.*altnames/s)
        assert.strictEqual(yield* a.pubsub.status, "reconnecting")
      }))
  })
})
