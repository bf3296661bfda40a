/** Takes the pictures of the README: the chat with several people in it, in light and in dark. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { chromiumMissing, chromiumPath, launchChromium } from "../test/e2e/browser.ts"
import { ChatServer } from "../test/e2e/chatServer.ts"
import { Person } from "../test/e2e/person.ts"

const images = "docs/images"

const conversation: ReadonlyArray<readonly [time: string, name: string, body: string]> = [
  ["09:02", "Linus", "Morning! The 2.4 release is built. I'd like to put it on staging before lunch."],
  ["09:04", "Mary", "Morning. Go ahead, the database migration ran there last night without trouble."],
  ["09:05", "Mary", "It took 41 seconds, so we need no maintenance window."],
  [
    "09:11",
    "Ada",
    "One thing I saw yesterday: when the train comes out of a tunnel my phone reconnects, but the list of rooms stays grey for a moment."
  ],
  ["09:13", "Linus", "Rooms were joined again only after a pause. Fixed in this build."],
  ["09:20", "Grace", "Release notes, please have a look before they go out: https://example.com/notes/2.4"],
  ["09:31", "Linus", "Staging is up. @Grace type /crash into a room there and watch it come back."]
]

const elsewhere: ReadonlyArray<readonly [name: string, body: string]> = [
  ["Ada", "Somebody has left a cake in the kitchen."],
  ["Mary", "@Grace happy birthday!"]
]

const today = (time: string): string => `${new Date().toISOString().slice(0, 10)}T${time}:00.000Z`

const logIn = async (server: ChatServer, name: string): Promise<string> => {
  const response = await fetch(`${server.url}/login`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name })
  })
  return ((await response.json()) as { user: { id: string } }).user.id
}

if (chromiumPath === undefined) throw new Error(chromiumMissing)
const folder = mkdtempSync(join(tmpdir(), "screenshot-"))
const database = join(folder, "chat.sqlite")
const server = await ChatServer.start({ CHAT_DATABASE: database })
const browser = await launchChromium(chromiumPath)
try {
  const db = new DatabaseSync(database)
  const insert = db.prepare("INSERT INTO messages (room_id, user_id, body, inserted_at) VALUES ('general', ?, ?, ?)")
  for (const [time, name, body] of conversation) insert.run(await logIn(server, name), body, today(time))
  db.close()

  mkdirSync(images, { recursive: true })
  const others = new Map<string, Person>()
  for (const name of ["Mary", "Ada"]) {
    const person = await Person.at(browser, server.url, name)
    await person.logIn()
    others.set(name, person)
  }
  for (const theme of ["light", "dark"] as const) {
    const grace = await Person.at(browser, server.url, "Grace", {
      colorScheme: theme,
      viewport: { width: 1280, height: 800 },
      deviceScaleFactor: 2,
      locale: "en-GB",
      timezoneId: "UTC"
    })
    await grace.logIn()
    await grace.page.getByText(conversation.at(-1)?.[2].slice(0, 14) ?? "").waitFor()
    for (const [name, body] of elsewhere) {
      const other = others.get(name)
      await other?.open("random")
      await other?.say(body)
    }
    await grace.page.locator("[data-testid=room-random][data-unread='2']").waitFor()
    await grace.get("toast").waitFor()
    const ada = others.get("Ada")
    await ada?.open("general")
    await ada?.get("composer").pressSequentially("Give me a min")
    await grace.page.locator("[data-testid=typing][data-active]").waitFor()
    await grace.page.mouse.move(0, 0)
    await grace.page.screenshot({ path: `${images}/chat-${theme}.png` })
    await ada?.get("composer").fill("")
    await grace.leave()
  }
} finally {
  await browser.close()
  await server.stop()
  rmSync(folder, { recursive: true })
}
