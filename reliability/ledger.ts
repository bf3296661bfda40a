/** The account of everything that was said: who should have heard it, and who has. */
import type { Client } from "./client.ts"

const now = (): number => performance.now()

interface Said {
  readonly topic: string
  readonly from: Client
  readonly at: number
  /** When the server has answered that it was said. */
  acknowledged: number | undefined
  readonly heard: Set<Client>
}

/** When a member has come and gone, in the order in which it became known. */
type Attendance = Array<{ readonly at: number; readonly there: boolean }>

export class Ledger {
  readonly said: Array<Said> = []
  doubled = 0
  outOfOrder = 0
  private readonly attendance = new Map<string, Map<Client, Attendance>>()
  /** By listener and sender, what was heard last. */
  private readonly last = new Map<Client, Map<Client, number>>()

  /** A member of a topic is there from now on. */
  came(client: Client, topic: string): void {
    this.note(client, topic, { at: now(), there: true })
  }

  /** A member is known to be away since then, or may be. */
  went(client: Client, topic: string, at = now()): void {
    this.note(client, topic, { at, there: false })
  }

  /** When a member came next. */
  cameAfter(client: Client, topic: string, time: number): number | undefined {
    return this.attendance.get(topic)?.get(client)?.find(({ at, there }) => there && at >= time)?.at
  }

  private note(client: Client, topic: string, entry: Attendance[number]): void {
    let members = this.attendance.get(topic)
    if (members === undefined) this.attendance.set(topic, members = new Map())
    const attendance = members.get(client)
    if (attendance === undefined) members.set(client, [entry])
    else attendance.push(entry)
  }

  /** Has a client tell all members of a topic something; true once that is acknowledged. */
  async shout(client: Client, topic: string): Promise<boolean> {
    const said: Said = { topic, from: client, at: now(), acknowledged: undefined, heard: new Set() }
    const n = this.said.push(said) - 1
    const reply = await client.push(topic, "shout", { n })
    if (reply?.status !== "ok") return false
    said.acknowledged = now()
    return true
  }

  hear(client: Client, topic: string, payload: unknown): void {
    const { n } = payload as { readonly n: number }
    const said = this.said[n]
    if (said === undefined || said.topic !== topic) throw new Error(`nobody has said ${JSON.stringify(payload)}`)
    if (said.heard.has(client)) return void this.doubled++
    said.heard.add(client)
    let last = this.last.get(client)
    if (last === undefined) this.last.set(client, last = new Map())
    if (n < (last.get(said.from) ?? -1)) this.outOfOrder++
    last.set(said.from, n)
  }

  /**
   * Of what was acknowledged: how much was delivered, was lost to members who were there from before it was said until it
   * was acknowledged, and was missed by those who were not.
   *
   * @param grace - milliseconds for which a member may have been gone already before that was known
   */
  account(grace = 0) {
    const { doubled, outOfOrder, said } = this
    const sum = { acknowledged: 0, unanswered: 0, delivered: 0, lost: 0, missed: 0, doubled, outOfOrder }
    for (const members of this.attendance.values()) {
      for (const attendance of members.values()) attendance.sort((a, b) => a.at - b.at)
    }
    for (const { acknowledged, at, heard, topic } of said) {
      sum.delivered += heard.size
      if (acknowledged === undefined) {
        sum.unanswered++
        continue
      }
      sum.acknowledged++
      for (const [client, attendance] of this.attendance.get(topic) ?? []) {
        if (heard.has(client)) continue
        if (wasThere(attendance, at, acknowledged + grace)) sum.lost++
        else sum.missed++
      }
    }
    return sum
  }
}

/** Whether somebody was there at one time and had not gone by another. */
const wasThere = (attendance: Attendance, from: number, to: number): boolean => {
  const before = attendance.findLast(({ at }) => at <= from)
  return before?.there === true && !attendance.some(({ at, there }) => !there && at > from && at <= to)
}
