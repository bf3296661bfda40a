/** What the load client can do to a server; every scenario returns its figures, and what went wrong. */
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises"
import { Histogram } from "./histogram.ts"
import { figures, Load, type Member, micros, rounded } from "./load.ts"
import { Stopwatch } from "./machine.ts"
import type { Options, Scenario } from "./options.ts"

export type Result = Awaited<ReturnType<typeof run>>

/** Runs a scenario against the server on the port. */
export const run = async (options: Options) => {
  const { figures, load } = await scenarios[options.scenario](options)
  load.close()
  const { protocol, scenario } = options
  const ok = Object.values(load.wrong).every((count) => count === 0)
  return { scenario, protocol, ok, wrong: load.wrong, reasons: Array.from(load.reasons), figures }
}

type Figures = Readonly<Record<string, number | undefined>>
type Measured = Promise<{ readonly load: Load; readonly figures: Figures }>

/** Every member keeps so many messages in the air. */
const echo = async (options: Options): Measured => {
  let came = 0
  const load = new Load(options, {
    echo: (member, n, at) => {
      if (!member.sequenceOf(member.index).saw(n)) return
      came++
      const now = load.delivered(at)
      if (!load.stopped) member.echo(now)
    }
  })
  await load.openAll((index) => `${options.prefix}${index % options.topics}`)
  for (const member of load.members) if (member.isJoined) member.echo(micros(), options.window)
  const sent = () => load.members.reduce((sum, member) => sum + member.sent, 0)
  const figures = await load.measure(sent, () => came === sent())
  for (const member of load.members) account(load, member, member)
  return { load, figures }
}

/**
 * Members of topics, of whom some publish: each of them again when its own broadcast has come back, or all together at a
 * rate. With `rotate` it is the next one's turn instead, so that in time all topics are used.
 */
const fanout = async (options: Options): Measured => {
  const { connections, publishers, rate, rotate, topics } = options
  /** Deliveries that are to come, and that have. */
  let due = 0
  let came = 0
  const sizeOf = (index: number) => Math.ceil((connections - index % topics) / topics)
  const publish = (member: Member | undefined, at: number) => {
    if (member?.isJoined !== true) return
    due += sizeOf(member.index)
    member.shout(at)
  }
  const load = new Load(options, {
    shout: (member, from, n, at) => {
      if (from % topics !== member.index % topics) return void load.wrong.unexpected++
      if (!member.sequenceOf(from).saw(n)) return
      came++
      const now = load.delivered(at)
      if (from !== member.index || load.stopped || rate > 0) return
      publish(rotate ? load.members[(from + publishers) % connections] : member, now)
    }
  })
  await load.openAll((index) => `${options.prefix}${index % topics}`)
  const first = load.members.slice(0, publishers)
  if (rate > 0) void atRate(load, (n, at) => publish(load.members[rotate ? n % connections : n % publishers], at))
  else first.forEach((member) => publish(member, micros()))
  const sent = () => load.members.reduce((sum, member) => sum + member.sent, 0)
  const figures = await load.measure(sent, () => came === due)
  for (const from of load.members) {
    if (from.sent === 0) continue
    for (let to = from.index % topics; to < connections; to += topics) account(load, load.members[to], from)
  }
  return { load, figures }
}

/** Has each sent when it is due, or as soon after as this process comes to it. */
const atRate = async (load: Load, send: (n: number, due: number) => void) => {
  const began = micros()
  for (let n = 0; !load.stopped; n++) {
    const due = Math.round(began + n * 1_000_000 / load.options.rate)
    // A timer can be late by more than a millisecond.
    while (micros() < due) await (due - micros() > 3000 ? sleep(1) : turn())
    send(n, due)
  }
}

const account = ({ wrong }: Load, to: Member | undefined, from: Member) => {
  const sequence = to?.sequenceOf(from.index)
  wrong.missing += sequence?.missingOf(from.sent) ?? from.sent
  wrong.doubled += sequence?.doubled ?? 0
  wrong.out_of_order += sequence?.outOfOrder ?? 0
}

/** Opens connections, joins each to a topic, says on a line of its own how many are there, and lets them be. */
const connect = async (options: Options): Measured => {
  const joining = new Histogram()
  const load = new Load(options, { joined: (member) => joining.add(micros() - member.since) })
  const before = load.memory()
  const watch = new Stopwatch(options.pid)
  await load.openAll((index) => `${options.prefix}${index % options.topics}`)
  const joined = figures(joining, watch.read())
  if (options.hold > 0) console.log(JSON.stringify({ holding: joined.count }))
  await sleep(options.hold * 1000)
  const after = load.memory()
  const memory = before === undefined || after === undefined ? undefined : {
    memory_before_mb: rounded(before / 1024),
    memory_after_mb: rounded(after / 1024),
    kb_per_connection: rounded((after - before) / joined.count)
  }
  return { load, figures: { ...joined, ...memory } }
}

/** Again and again, so many at a time: connect, join, one echo, leave, close. */
const churn = async (options: Options): Measured => {
  const { concurrency, messages, topics } = options
  let started = 0
  let running = 0
  const start = (index: number) => {
    started++
    running++
    load.open(index, `${options.prefix}${index % topics}`)
  }
  const load: Load = new Load(options, {
    opened: (member) => void member.join(),
    joined: (member) => member.echo(micros()),
    echo: (member, n) => void (member.sequenceOf(member.index).saw(n) && member.leave()),
    gone: (member, clean) => {
      running--
      account(load, member, member)
      if (clean) load.delivered(member.since)
      // A server that takes no connections is not asked on and on.
      if (clean && !load.stopped && (messages === 0 || started < messages)) start(member.index)
    }
  })
  for (let index = 0; index < concurrency; index++) start(index)
  const figures = await load.measure(() => started, () => running === 0)
  load.wrong.failed += running
  return { load, figures }
}

/** All are connected; then they join one topic, so many at a time, until all have seen all. */
const presence = async (options: Options): Measured => {
  const { connections } = options
  const joining = new Histogram()
  const seen = Array.from({ length: connections }, () => new Set<string>())
  const began = new Map<Member, number>()
  let complete = 0
  const load = new Load(options, {
    joined: (member) => joining.add(micros() - (began.get(member) ?? 0)),
    present: (member, users) => {
      const known = seen[member.index]
      const before = known?.size
      for (const user of users) known?.add(user)
      if (known?.size === before) return
      load.heard = micros()
      if (known?.size === connections) complete++
    }
  })
  await load.openAll(() => "presence:all", "open")
  const watch = new Stopwatch(options.pid)
  const start = micros()
  await load.forAll(async (index) => {
    const member = load.members[index]
    if (member === undefined) return
    began.set(member, micros())
    await member.join()
  })
  await load.settled(() => complete === connections)
  const used = watch.read()
  for (const known of seen) load.wrong.missing += connections - known.size
  return { load, figures: { ...figures(joining, used), seconds_to_all: rounded((load.heard - start) / 1_000_000) } }
}

const scenarios: Record<Scenario, (options: Options) => Measured> = { echo, fanout, connect, churn, presence }
