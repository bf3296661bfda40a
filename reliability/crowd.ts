/** Many clients, ten to a room, who talk all the time; what they hear is in the ledger. */
import { setTimeout as sleep } from "node:timers/promises"
import { Client } from "./client.ts"
import { Ledger } from "./ledger.ts"
import { pick, until } from "./promises.ts"

const roomSize = 10
const lobbySize = 50

export interface Disturbance {
  readonly at: number
  readonly client: Client
  /** The topic that has failed, or the connection. */
  readonly topic: string | undefined
  readonly why: string
}

export class Crowd {
  readonly ledger = new Ledger()
  readonly clients: Array<Client> = []
  private readonly rooms = new Map<Client, string>()
  readonly disturbances: Array<Disturbance> = []
  /** When clients have connected. */
  readonly connects: Array<number> = []
  private talking = false

  /** Connects so many, of whom each is in a room, and every fifth in a lobby that tracks who is there. */
  async fill(size: number, portOf: () => number | undefined): Promise<boolean> {
    const lane = async () => {
      while (this.clients.length < size) {
        const index = this.clients.length
        const room = `room:${Math.floor(index / roomSize)}`
        const client = new Client(`u${index}`, portOf, {
          opened: () => void this.connects.push(performance.now()),
          joined: (client, topic) => topic === room && this.ledger.came(client, room),
          message: (client, topic, event, payload) => event === "shout" && this.ledger.hear(client, topic, payload),
          failed: (client, topic, why) => {
            if (topic === room) this.ledger.went(client, room)
            this.disturbances.push({ at: performance.now(), client, topic, why: JSON.stringify(why) })
          },
          closed: (client, why) => {
            this.ledger.went(client, room)
            this.disturbances.push({ at: performance.now(), client, topic: undefined, why })
          }
        })
        this.clients.push(client)
        this.rooms.set(client, room)
        client.join(room)
        if (index % 5 === 0) client.join(`lobby:${Math.floor(index / 5 / lobbySize)}`)
        await until(() => client.isThere, 30)
      }
    }
    await Promise.all(Array.from({ length: Math.min(size, 50) }, lane))
    return this.clients.every((client) => client.isThere)
  }

  readonly roomOf = (client: Client): string => this.rooms.get(client) ?? ""

  named(user: string): Client | undefined {
    return this.clients[Number(user.slice(1))]
  }

  /** Has somebody who is there say something so many times a second, until told to stop. */
  async talk(rate: number): Promise<void> {
    this.talking = true
    const perTurn = Math.max(1, Math.round(rate / 50))
    while (this.talking) {
      for (let n = 0; n < perTurn; n++) {
        const client = pick(this.clients)
        const room = this.roomOf(client)
        if (client.isIn(room)) void this.ledger.shout(client, room)
      }
      await sleep(1000 * perTurn / rate)
    }
  }

  stopTalking(): void {
    this.talking = false
  }

  /** Until all are back in all their topics. */
  complete(seconds: number): Promise<boolean> {
    return until(() => this.clients.every((client) => client.isThere), seconds)
  }

  /** Has somebody in each room say something; true if all hear it. */
  async allHear(): Promise<boolean> {
    const first = this.ledger.said.length
    const speakers = this.clients.filter((_, index) => index % roomSize === 0)
    const answers = await Promise.all(speakers.map((client) => this.ledger.shout(client, this.roomOf(client))))
    const total = () => this.ledger.said.slice(first).reduce((sum, { heard }) => sum + heard.size, 0)
    return answers.every(Boolean) && await until(() => total() === this.clients.length, 5)
  }

  leave(): void {
    for (const client of this.clients) client.go()
  }
}
