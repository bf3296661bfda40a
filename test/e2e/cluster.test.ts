import { connect } from "node:net"
import type { Browser } from "playwright-core"
import { afterAll, beforeAll, describe, expect, it, onTestFailed, onTestFinished } from "vitest"
import { freePort } from "../../scripts/freePort.ts"
import { Engine, isMissing, nats, redis } from "../support/engine.ts"
import { chromiumMissing, chromiumPath, launchChromium } from "./browser.ts"
import { argumentsOf, ServerProcess } from "./chatServer.ts"
import { eventually, Person } from "./person.ts"

if (chromiumPath === undefined && process.env["CI"] === "true") throw new Error(chromiumMissing)

/** The chat of examples/cluster, started as `npm run example:cluster` does. */
class Cluster {
  readonly urls: ReadonlyArray<string>
  private readonly process: ServerProcess

  private constructor(ports: ReadonlyArray<number>, env: Readonly<Record<string, string>>) {
    this.urls = ports.map((port) => `http://localhost:${port}`)
    this.process = new ServerProcess(argumentsOf("example:cluster"), {
      PORTS: ports.join(),
      // Who was on a node that was killed is gone after two seconds.
      PRESENCE_PERIOD: "100 millis",
      ...env
    })
  }

  static async start(env: Readonly<Record<string, string>> = {}): Promise<Cluster> {
    const cluster = new Cluster([await freePort(), await freePort()], env)
    onTestFinished(async () => void await cluster.process.stop())
    onTestFailed(() => console.error(`The log of the cluster:\n${cluster.log}`))
    await Promise.all(cluster.urls.map((_, index) => eventually(() => cluster.lives(index).length).toBe(1)))
    return cluster
  }

  get log(): string {
    return this.process.log
  }

  /** The processes that a node has had so far. */
  lives(index: number): ReadonlyArray<number> {
    const lines = this.log.matchAll(
      new RegExp(`^node${index + 1} is on ${this.urls[index]} \\(process (\\d+)\\)$`, "gm")
    )
    return Array.from(lines, ([, pid]) => Number(pid))
  }

  /** What both nodes tell a load balancer. */
  ready(): Promise<ReadonlyArray<number>> {
    return Promise.all(this.urls.map(async (url) => (await fetch(`${url}/ready`)).status))
  }

  kill(index: number): void {
    const pid = this.lives(index).at(-1)
    if (pid === undefined) throw new Error(`node${index + 1} does not run`)
    process.kill(pid, "SIGKILL")
  }

  enter(): void {
    this.process.type("\n")
  }

  /** Ctrl-C; gives the exit code. */
  stop(): Promise<number | null> {
    return this.process.stop("SIGINT")
  }
}

const isListening = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1")
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false)).once("connect", () =>
      socket.destroy())
  })

describe("npm run example:cluster", () => {
  const refused = async (env: Readonly<Record<string, string>>) => {
    const program = new ServerProcess(argumentsOf("example:cluster"), env)
    onTestFinished(async () => void await program.stop())
    expect(await program.ended()).toBe(1)
    return program.log
  }

  it("says what it needs when there is neither Redis nor NATS", async () => {
    const log = await refused({ REDIS_SERVER_PATH: "/nowhere", NATS_SERVER_PATH: "/nowhere" })
    expect(log).toContain("NoEngine: The nodes need Redis or NATS")
    expect(log).toContain("redis-server, valkey-server or nats-server")
    expect(log).toContain("PUBSUB=redis://127.0.0.1:6379 or PUBSUB=nats://127.0.0.1:4222")
  })

  it("says which addresses it knows when PUBSUB is another one, and does not tell its password", async () => {
    const log = await refused({ PUBSUB: "amqp://user:hunter2@127.0.0.1" })
    expect(log).toContain("UnknownPubSub: PUBSUB begins with amqp://")
    expect(log).not.toContain("hunter2")
  })

  it("ends, and says why, when a node cannot start", async () => {
    const log = await refused({ PORTS: "1,2", PUBSUB: "redis://127.0.0.1:1", CHAT_DATABASE: "/nowhere/chat.sqlite" })
    expect(log).toMatch(/NodeFailed: node\d has ended with code 1, before it served http:\/\/localhost:\d/)
    expect(log).toContain("the database cannot be used")
  })
})

const title = chromiumPath === undefined
  ? `the chat on two nodes, in a browser (skipped: ${chromiumMissing})`
  : "the chat on two nodes, in a browser"

describe.skipIf(chromiumPath === undefined)(title, () => {
  let browser: Browser

  beforeAll(async () => {
    browser = await launchChromium(chromiumPath ?? "")
  })

  afterAll(() => browser?.close())

  const visit = async (name: string, url: string | undefined): Promise<Person> => {
    const person = await Person.at(browser, url ?? "", name)
    onTestFinished(async () => {
      const complaints = person.takeComplaints("fails")
      await person.leave()
      expect(complaints).toEqual([])
    })
    await person.logIn()
    return person
  }

  const missing = isMissing(redis) && isMissing(nats)
  it.skipIf(missing)(
    `is one chat, and loses and finds a node${missing ? " (skipped: no redis-server and no nats-server)" : ""}`,
    async () => {
      const cluster = await Cluster.start()
      const [one, two] = cluster.urls
      expect(await cluster.ready()).toEqual([200, 200])
      const [ada, grace] = await Promise.all([visit("Ada", one), visit("Grace", two)])
      const both = [ada, grace]
      const apart = { node1: ["ada 1"], node2: ["grace 1"] }
      const onlineAre = (nodes: Record<string, ReadonlyArray<string>>) =>
        Promise.all(both.map((person) => eventually(() => person.onNodes()).toEqual(nodes)))

      await onlineAre(apart)
      expect(await ada.get("nodes").getByRole("link").getAttribute("href")).toBe(two)
      expect(await grace.get("nodes").getByRole("link").getAttribute("href")).toBe(one)
      await ada.say("Hello over there")
      await Promise.all(both.map((person) => person.sees("Hello over there", ada)))
      await grace.say("Hello back")
      await Promise.all(both.map((person) => person.sees("Hello back", grace)))

      const typing = grace.page.locator("[data-testid=typing][data-active]")
      await ada.get("composer").pressSequentially("well")
      await typing.waitFor()
      await ada.get("composer").fill("")
      await typing.waitFor({ state: "detached" })

      const second = await visit("Ada", two)
      await onlineAre({ node1: ["ada 1"], node2: ["ada 1", "grace 1"] })
      await eventually(() => grace.online()).toEqual(["ada 2", "grace 1"])
      await second.get("logout").click()
      await onlineAre(apart)

      cluster.kill(1)
      await grace.is("reconnecting")
      await eventually(() => cluster.log).toContain("node2 was killed; press Enter to start it again")
      await eventually(() => ada.onNodes()).toEqual({ node1: ["ada 1"], node2: [] })
      expect(await ada.online()).toEqual(["ada 1"])
      await ada.say("Are you there?")
      await ada.sees("Are you there?", ada)

      cluster.enter()
      await eventually(() => cluster.lives(1).length).toBe(2)
      await grace.is("connected")
      await grace.inRoom("general")
      await grace.sees("Are you there?", ada)
      await onlineAre(apart)
      await grace.say("Back again")
      await ada.sees("Back again", grace)
      expect(await ada.closeCodes()).toEqual([])

      // Clients are told before anything ends, and nothing is left.
      const engine = Number(/ runs on port (\d+)/.exec(cluster.log)?.[1])
      expect(await isListening(engine)).toBe(true)
      expect(await cluster.stop()).toBe(130)
      await Promise.all(
        both.map(async (person) => eventually(() => person.closeCodes()).toContain(1012))
      )
      const ports = [engine, ...cluster.urls.map((url) => Number(new URL(url).port))]
      expect(await Promise.all(ports.map(isListening))).toEqual([false, false, false])
      expect(cluster.log).not.toContain("has ended")
    },
    60_000
  )

  for (const kind of [redis, nats]) {
    const missing = isMissing(kind)
    it.skipIf(missing)(
      `meets in the ${kind.name} of PUBSUB, and is not ready without it${missing ? " (skipped: it is missing)" : ""}`,
      async () => {
        const engine = await Engine.start(kind)
        onTestFinished(() => engine.stop())
        const cluster = await Cluster.start({ PUBSUB: engine.url })
        const [ada, grace] = await Promise.all(
          cluster.urls.map((url, index) => visit(index === 0 ? "Ada" : "Grace", url))
        ) as [Person, Person]
        await ada.say("Hello over there")
        await grace.sees("Hello over there", ada)

        await engine.kill()
        await eventually(() => cluster.ready()).toEqual([503, 503])
        await ada.say("Only for this node")
        await ada.sees("Only for this node", ada)
        expect(await grace.message("Only for this node").count()).toBe(0)

        await engine.start()
        await eventually(() => cluster.ready()).toEqual([200, 200])
        await ada.say("For all again")
        await grace.sees("For all again", ada)
        expect([await ada.closeCodes(), await grace.closeCodes()]).toEqual([[], []])
      },
      60_000
    )
  }
})
