import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Browser } from "playwright-core"
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFailed, onTestFinished } from "vitest"
import { chromiumMissing, chromiumPath, launchChromium } from "./browser.ts"
import { ChatServer } from "./chatServer.ts"
import { eventually, type Network, Person } from "./person.ts"

if (chromiumPath === undefined) {
  if (process.env["CI"] === "true") throw new Error(chromiumMissing)
  console.warn(`No test in a browser. ${chromiumMissing}`)
}

const title = chromiumPath === undefined
  ? `the chat in a browser (skipped: ${chromiumMissing})`
  : "the chat in a browser"

describe.skipIf(chromiumPath === undefined)(title, () => {
  let browser: Browser
  let server: ChatServer

  beforeAll(async () => {
    const started = await Promise.all([launchChromium(chromiumPath ?? ""), ChatServer.start()])
    browser = started[0]
    server = started[1]
  })

  afterAll(async () => {
    await browser?.close()
    // What Node programs of Effect end with when they were asked to.
    expect(await server?.stop()).toBe(130)
  })

  const showLog = ({ log }: ChatServer) => console.error(`The log of the chat:\n${log}`)

  beforeEach(() => onTestFailed(() => showLog(server)))

  /** Somebody opens the page. After the test it is closed, and it must not have complained. */
  const visit = async (name: string, url = server.url, network: Network = "works"): Promise<Person> => {
    const person = await Person.at(browser, url, name)
    onTestFinished(async () => {
      const complaints = person.takeComplaints(network)
      await person.leave()
      expect(complaints).toEqual([])
    })
    return person
  }

  it("lets in who has a name, and out again", async () => {
    const ada = await visit("Ada", server.url, "fails")
    await ada.get("login-submit").click()
    await eventually(() => ada.get("login-error").textContent()).toBe("Your name must be 1 to 32 characters")
    await ada.logIn()
    expect(await ada.get("room-general").getAttribute("data-joined")).toBe("true")
    await ada.get("logout").click()
    await ada.get("login-name").waitFor()
    await ada.page.reload()
    await ada.get("login-name").waitFor()
    expect(ada.connections).toBe(1)
  })

  it("remembers the theme that was chosen", async () => {
    const ada = await visit("Ada")
    const theme = () => ada.page.locator("html").getAttribute("data-theme")
    expect(await theme()).toBe("light")
    await ada.get("theme-toggle").click()
    expect(await theme()).toBe("dark")
    await ada.page.reload()
    expect(await theme()).toBe("dark")
    await ada.logIn()
    await ada.get("theme-toggle").click()
    expect(await theme()).toBe("light")
  })

  /** A chat of its own, that a test may end and start again. */
  const startAnother = async (): Promise<ChatServer> => {
    const folder = mkdtempSync(join(tmpdir(), "chat-"))
    const server = await ChatServer.start({
      CHAT_DATABASE: join(folder, "chat.sqlite"),
      SECRET_KEY_BASE: "a secret that stays the same, long enough to sign with"
    })
    onTestFinished(async () => {
      await server.stop()
      rmSync(folder, { recursive: true })
    })
    onTestFailed(() => showLog(server))
    return server
  }

  it("goes on where it was when the server is killed and comes back", async () => {
    const server = await startAnother()
    const both = await Promise.all([visit("Ada", server.url, "fails"), visit("Grace", server.url, "fails")])
    const [ada, grace] = both
    await Promise.all(both.map((person) => person.logIn()))
    await ada.say("said before")
    await grace.sees("said before", ada)

    await server.kill()
    await Promise.all(both.map(async (person) => {
      await person.is("reconnecting")
      await person.inRoom("general", "errored")
      expect(await person.get("composer").isDisabled()).toBe(true)
    }))
    await server.startAgain()
    await Promise.all(both.map(async (person) => {
      await person.is("connected")
      await person.inRoom("general")
      await person.sees("said before", ada)
    }))
    await grace.say("said after")
    await Promise.all([ada.sees("said after", grace), grace.sees("said after", grace)])
    // Nothing that the page has kept: the history comes from the new server.
    await grace.page.reload()
    await grace.sees("said before", ada)
    await grace.sees("said after", grace)
  }, 30_000)

  it("is told by the close code that the server is stopped", async () => {
    const server = await startAnother()
    const ada = await visit("Ada", server.url, "fails")
    await ada.logIn()
    expect(await server.stop()).toBe(130)
    await ada.is("reconnecting")
    expect((await ada.closeCodes())[0]).toBe(1012)
  })

  describe("with two people in it", () => {
    let ada: Person
    let grace: Person
    let both: ReadonlyArray<Person> = []

    beforeEach(async () => {
      if (both.length === 0) {
        both = await Promise.all([Person.at(browser, server.url, "Ada"), Person.at(browser, server.url, "Grace")])
        await Promise.all(both.map((person) => person.logIn()))
      }
      ;[ada, grace] = both as [Person, Person]
      await Promise.all(both.map((person) => person.open("general")))
      for (const person of both) person.forget()
    })

    afterEach(async ({ task }) => {
      const failed = task.result?.state === "fail"
      const complaints = both.flatMap((person) => person.takeComplaints("works"))
      // A test that failed leaves nothing behind for the next one.
      if (failed) await Promise.all(both.map((person) => person.leave()))
      if (failed) both = []
      expect(complaints).toEqual([])
    })

    it("shows a message to both, once and with its author", async () => {
      await ada.say("Hello, Grace")
      await Promise.all([ada.sees("Hello, Grace", ada), grace.sees("Hello, Grace", ada)])
      await grace.say("Hello, Ada")
      await Promise.all([ada.sees("Hello, Ada", grace), grace.sees("Hello, Ada", grace)])
      await ada.say("<b>bold</b> & more")
      await grace.sees("<b>bold</b> & more", ada)
      expect(await ada.get("composer").inputValue()).toBe("")
    })

    it("shows what was said before after a reload", async () => {
      await ada.say("before the reload")
      await ada.sees("before the reload", ada)
      await grace.page.reload()
      await grace.is("connected")
      await grace.sees("before the reload", ada)
      await grace.inRoom("general")
      await grace.say("after the reload")
      await ada.sees("after the reload", grace)
    })

    it("tells the other one who is typing, until they send or stop", async () => {
      const typing = grace.page.locator("[data-testid=typing][data-active]")
      await ada.stopClock()
      await ada.get("composer").pressSequentially("so")
      await typing.waitFor()
      expect(await typing.textContent()).toBe("Ada is typing…")
      expect(await ada.page.locator("[data-testid=typing][data-active]").count()).toBe(0)
      await ada.get("composer").press("Enter")
      await typing.waitFor({ state: "detached" })

      await ada.get("composer").pressSequentially("and")
      await typing.waitFor()
      await ada.page.clock.runFor("00:02")
      await ada.get("composer").pressSequentially(" then")
      await ada.page.clock.runFor("00:02")
      await typing.waitFor()
      await ada.page.clock.runFor("00:01")
      await typing.waitFor({ state: "detached" })
      // However many keys, it is said once that they began and once that they stopped.
      await eventually(() => [ada.pushes("typing:start"), ada.pushes("typing:stop")]).toEqual([2, 2])

      await ada.get("composer").pressSequentially("!")
      await typing.waitFor()
      await ada.get("composer").fill("")
      await typing.waitFor({ state: "detached" })
      await ada.page.clock.resume()
    })

    it("shows who is online in the room, a user once however many tabs there are", async () => {
      await eventually(() => ada.online()).toEqual(["ada 1", "grace 1"])
      const second = await visit("Ada")
      await second.logIn()
      await eventually(() => second.online()).toEqual(["ada 2", "grace 1"])
      await Promise.all(both.map((person) => eventually(() => person.online()).toEqual(["ada 2", "grace 1"])))
      expect(await grace.get("online").textContent()).toContain("2 online")
      await second.get("logout").click()
      await Promise.all(both.map((person) => eventually(() => person.online()).toEqual(["ada 1", "grace 1"])))
      const states = await ada.watchConnection()
      expect(await server.admin("/users/ada/disconnect")).toBe(204)
      await eventually(states).toEqual(["connected", "reconnecting", "connected"])
      await ada.inRoom("general")
      await Promise.all(both.map((person) => eventually(() => person.online()).toEqual(["ada 1", "grace 1"])))
    })

    it("tells that somebody types as long as they do in one of their tabs", async () => {
      const typing = grace.page.locator("[data-testid=typing][data-active]")
      const second = await visit("Ada")
      await second.logIn()
      await eventually(() => grace.online()).toEqual(["ada 2", "grace 1"])
      await Promise.all([ada.stopClock(), second.stopClock()])
      await ada.get("composer").pressSequentially("here")
      await typing.waitFor()
      const diffs = () =>
        grace.frames.filter(({ event, topic }) => event === "presence_diff" && topic === "room:general").length
      const before = diffs()
      await second.get("composer").pressSequentially("and here")
      await eventually(diffs).toBe(before + 1)
      await ada.get("composer").fill("")
      await eventually(diffs).toBe(before + 2)
      expect(await typing.textContent()).toBe("Ada is typing…")
      expect(await ada.page.locator("[data-testid=typing][data-active]").count()).toBe(0)
      await second.get("composer").fill("")
      await typing.waitFor({ state: "detached" })
      await ada.page.clock.resume()
    })

    it("says what is wrong with a message, and keeps it", async () => {
      const error = ada.get("composer-error")
      await ada.say("   ")
      await eventually(() => error.textContent()).toBe("Message can't be blank")
      await ada.get("composer").fill("x")
      expect(await error.textContent()).toBe("")
      const long = "x".repeat(2001)
      await ada.say(long)
      await eventually(() => error.textContent()).toBe("Message is too long (at most 2000 characters)")
      expect(await ada.get("composer").inputValue()).toBe(long)
      await ada.get("composer").fill("")
    })

    it("counts what was said in a room out of view", async () => {
      await grace.open("random")
      await ada.say("one you have not read")
      await ada.say("another one")
      await eventually(() => grace.get("room-general").getAttribute("data-unread")).toBe("2")
      await grace.open("general")
      await grace.sees("another one", ada)
      expect(await grace.get("room-general").getAttribute("data-unread")).toBe("0")
    })

    it("lets a user become a member of a room and read and write there", async () => {
      expect(await ada.get("room-design").getAttribute("data-joined")).toBe("false")
      await ada.get("join-design").click()
      await ada.inRoom("design")
      await ada.say("first in design")
      await ada.sees("first in design", ada)
      expect(await grace.get("room-design").getAttribute("data-unread")).toBe("0")
      await grace.get("join-design").click()
      await grace.sees("first in design", ada)
      expect([ada.joins("design"), grace.joins("design")]).toEqual([1, 1])
    })

    it("tells a user who is mentioned in a room out of view", async () => {
      await grace.open("random")
      await ada.say("a @graceful way out")
      await ada.say("what do you think, @grace?")
      const toast = grace.get("toast")
      await toast.waitFor()
      expect(await toast.count()).toBe(1)
      expect(await toast.textContent()).toContain("Ada in General")
      expect(await toast.textContent()).toContain("what do you think, @grace?")
      await toast.getByRole("button", { name: "Ada in General" }).click()
      await grace.sees("what do you think, @grace?", ada)
      await toast.waitFor({ state: "detached" })
      expect(await ada.get("toast").count()).toBe(0)
    })

    it("shows everybody in the room a notice of the admin", async () => {
      await grace.open("random")
      expect(await server.admin("/rooms/general/notice", { body: "not from the admin" }, "guessed")).toBe(401)
      expect(await server.admin("/rooms/general/notice", { body: "Maintenance at noon" })).toBe(204)
      await ada.get("notice").filter({ hasText: "Maintenance at noon" }).waitFor()
      expect(await grace.get("notice").count()).toBe(0)
      await grace.open("general")
      await grace.get("notice").filter({ hasText: "Maintenance at noon" }).waitFor()
      expect(await ada.get("notice").count()).toBe(1)
    })

    it("connects again after the admin has thrown a user out, and nobody else notices", async () => {
      const [adas, graces] = await Promise.all([ada.watchConnection(), grace.watchConnection()])
      expect(await server.admin("/users/grace/disconnect")).toBe(204)
      await eventually(graces).toEqual(["connected", "reconnecting", "connected"])
      await grace.inRoom("general")
      await grace.say("back again")
      await ada.sees("back again", grace)
      expect(await grace.closeCodes()).toEqual([1001])
      expect([ada.connections, grace.connections]).toEqual([0, 1])
      expect(await adas()).toEqual(["connected"])
    })

    it("joins a crashed room again, and its other rooms do not notice", async () => {
      // While the clock stands still, phoenix.js waits before it joins the room again.
      await grace.stopClock()
      await grace.say("/crash")
      await grace.inRoom("general", "errored")
      await Promise.all([grace.open("random"), ada.open("random")])
      await grace.say("random is well")
      await Promise.all([grace.sees("random is well", grace), ada.sees("random is well", grace)])
      expect(await grace.get("room-general").getAttribute("data-state")).toBe("errored")

      await grace.page.clock.resume()
      await grace.inRoom("general")
      await Promise.all([grace.open("general"), ada.open("general")])
      await grace.say("general is well again")
      await Promise.all([grace.sees("general is well again", grace), ada.sees("general is well again", grace)])
      expect([grace.joins("general"), grace.joins("random"), ada.joins("general")]).toEqual([1, 0, 0])
      expect([ada.connections, grace.connections]).toEqual([0, 0])
      expect(server.log).toContain("Grace asked for a crash")
    })
  })
})
