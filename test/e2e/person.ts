import type { Browser, BrowserContext, BrowserContextOptions, Locator, Page } from "playwright-core"
import { expect } from "vitest"

/** A frame of the page's WebSocket: `[join_ref, ref, topic, event, payload]`. */
export interface Frame {
  readonly from: "client" | "server"
  readonly joinRef: string | null
  readonly ref: string | null
  readonly topic: string
  readonly event: string
}

/** How long a condition may take to come true; what is waited for takes some hundredths of it. */
const patience = 10_000

/** Waits until what is looked at is as the matcher says. */
export const eventually = <A>(look: () => A | Promise<A>) => expect.poll(look, { timeout: patience, interval: 20 })

type Noted = { closeCodes: Array<number> }

/** Runs in the page, before its own code: its WebSockets leave behind the codes they were closed with. */
const noteCloseCodes = () => {
  const codes = (globalThis as unknown as Noted).closeCodes = [] as Array<number>
  globalThis.WebSocket = class extends WebSocket {
    constructor(url: string | URL, protocols?: string | Array<string>) {
      super(url, protocols)
      this.addEventListener("close", ({ code }) => codes.push(code))
    }
  }
}

const parse = (from: Frame["from"], payload: string | Buffer): Frame => {
  const [joinRef, ref, topic, event] = JSON.parse(payload.toString())
  return { from, joinRef, ref, topic, event }
}

/** Whether requests and connections of a page are expected to fail. */
export type Network = "works" | "fails"

const networkTrouble = /Failed to load resource|WebSocket connection to .* failed/

/** Somebody in front of the chat, in a browser context of their own, and what their page did and complained about. */
export class Person {
  readonly name: string
  readonly id: string
  readonly page: Page
  readonly frames: Array<Frame> = []
  /** How many WebSockets the page has opened. */
  connections = 0
  private readonly context: BrowserContext
  private readonly complaints: Array<string> = []

  private constructor(name: string, context: BrowserContext, page: Page) {
    this.name = name
    this.id = name.toLowerCase()
    this.context = context
    this.page = page
    page.setDefaultTimeout(patience)
    page.on("pageerror", (error) => this.complaints.push(String(error)))
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") this.complaints.push(message.text())
    })
    page.on("websocket", (socket) => {
      this.connections += 1
      socket.on("framesent", ({ payload }) => this.frames.push(parse("client", payload)))
      socket.on("framereceived", ({ payload }) => this.frames.push(parse("server", payload)))
    })
  }

  /** Opens the page of the chat. */
  static async at(browser: Browser, url: string, name: string, options: BrowserContextOptions = {}): Promise<Person> {
    const context = await browser.newContext({ colorScheme: "light", reducedMotion: "reduce", ...options })
    await context.addInitScript(noteCloseCodes)
    const person = new Person(name, context, await context.newPage())
    // Timers run as usual until a test stops the clock.
    await person.page.clock.install()
    await person.page.goto(url)
    return person
  }

  async logIn(): Promise<void> {
    await this.get("login-name").fill(this.name)
    await this.get("login-submit").click()
    await this.is("connected")
    await this.inRoom("general")
    await this.inRoom("random")
  }

  get(testId: string): Locator {
    return this.page.getByTestId(testId)
  }

  /** Waits for a state of the connection. */
  async is(state: "connected" | "reconnecting"): Promise<void> {
    await this.page.locator(`[data-testid=connection][data-state=${state}]`).waitFor()
  }

  /** Waits until the channel of a room is joined, or whatever the state is to be. */
  async inRoom(id: string, state: "joined" | "errored" | "closed" = "joined"): Promise<void> {
    await this.page.locator(`[data-testid=room-${id}][data-state=${state}]`).waitFor()
  }

  /** Brings a room into view. */
  async open(id: string): Promise<void> {
    await this.get(`room-${id}`).click()
    await this.page.locator(`[data-testid=room-${id}][aria-current]`).waitFor()
  }

  /** Writes a message into the room in view. */
  async say(body: string): Promise<void> {
    await this.get("composer").fill(body)
    await this.get("composer").press("Enter")
  }

  /** The messages in view with exactly this text. */
  message(body: string): Locator {
    return this.get("message").filter({ has: this.get("message-body").getByText(body, { exact: true }) })
  }

  /** Waits until a message is in view, and holds that it is there once and who wrote it. */
  async sees(body: string, author: Person): Promise<void> {
    await this.message(body).first().waitFor()
    expect(await this.message(body).count(), `times that ${this.name} sees ${body}`).toBe(1)
    expect(await this.message(body).getAttribute("data-user")).toBe(author.id)
    expect(await this.message(body).textContent()).toContain(author.name)
  }

  /** Who is online in the room in view, and in how many tabs, as the page shows it. */
  online(): Promise<ReadonlyArray<string>> {
    return this.get("online").locator("li").evaluateAll((faces) =>
      faces.map(({ dataset }) => `${dataset["user"]} ${dataset["tabs"]}`)
    )
  }

  /** Who of the room in view is on which node, and in how many tabs, as the page shows it. */
  async onNodes(): Promise<Readonly<Record<string, ReadonlyArray<string>>>> {
    const nodes = await this.get("nodes").locator("[data-node]").evaluateAll((lists) =>
      lists.map((list) => {
        const people = Array.from(list.querySelectorAll("li"), ({ dataset }) => `${dataset["user"]} ${dataset["tabs"]}`)
        return [list.dataset["node"], people] as const
      })
    )
    return Object.fromEntries(nodes)
  }

  /** Begins to count frames and connections anew. */
  forget(): void {
    this.frames.length = 0
    this.connections = 0
  }

  /** How often the page has sent an event. */
  pushes(event: string): number {
    return this.frames.filter((frame) => frame.from === "client" && frame.event === event).length
  }

  /** How often the page has joined a room. */
  joins(roomId: string): number {
    return this.frames.filter(({ event, topic }) => event === "phx_join" && topic === `room:${roomId}`).length
  }

  /** Notes from now on every state that the connection goes through. */
  async watchConnection(): Promise<() => Promise<ReadonlyArray<string>>> {
    const seen = await this.get("connection").evaluateHandle((pill) => {
      const states: Array<string> = []
      const look = () => {
        const state = pill.dataset["state"] ?? ""
        if (states.at(-1) !== state) states.push(state)
      }
      look()
      new MutationObserver(look).observe(pill, { attributeFilter: ["data-state"] })
      return states
    })
    return () => seen.jsonValue()
  }

  /** The codes that the connections of the page were closed with, since it was loaded. */
  closeCodes(): Promise<ReadonlyArray<number>> {
    return this.page.evaluate(() => (globalThis as unknown as Noted).closeCodes)
  }

  /** Stops the clock of the page: no timer is due until the test says that time passes. */
  async stopClock(): Promise<void> {
    await this.page.clock.pauseAt(await this.page.evaluate(() => Date.now() + 1000))
  }

  /** What the page has written to the console, or thrown, since last asked; without what a failing network explains. */
  takeComplaints(network: Network): ReadonlyArray<string> {
    return this.complaints.splice(0).filter((complaint) => network === "works" || !networkTrouble.test(complaint))
  }

  leave(): Promise<void> {
    return this.context.close()
  }
}
