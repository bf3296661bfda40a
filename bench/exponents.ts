/**
 * Does an operation cost more, the more members, topics, presences, processes or waiting messages there are? Each is timed
 * beside 1,000, 4,000 and 16,000 of them, without a network, and the exponent is the slope of its cost in double logarithmic
 * scale: 0 for the same cost, 1 for one that grows with the number. What is delivered is counted for each receiver. Run with
 * `npm run bench:exponents`; it fails when an exponent is above the bar.
 */
import { Context, Effect, Exit, Layer, Logger, Scope } from "effect"
import { Channel, Presence, Process, PubSub, Serializer, Socket } from "effect-channels"

const sizes = [1000, 4000, 16_000]
/** Caches alone make 16 times as many objects cost some more each. */
const usualBar = 0.25
const rounds = 24
const repeats = 300

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

const settle = Effect.promise(async () => {
  for (let n = 0; n < 8; n++) await turn()
})

/** An operation: `run` is timed, and is complete when its work is done. `divisor` counts the operations in it. */
interface Operation {
  readonly before?: Effect.Effect<unknown>
  readonly run: Effect.Effect<unknown>
  readonly divisor?: number
}

type Node = PubSub.PubSub | Process.System | Scope.Scope

interface Subject {
  readonly name: string
  readonly beside: string
  /** For what goes through so much memory that caches decide. */
  readonly bar?: number
  readonly prepare: (size: number) => Effect.Effect<Operation, never, Node>
}

const time = Effect.fnUntraced(function*({ before = Effect.void, divisor = repeats, run }: Operation) {
  yield* before
  yield* settle
  // Time of the processor, so that others on the machine change little.
  const start = process.cpuUsage()
  yield* run
  const { system, user } = process.cpuUsage(start)
  return (system + user) / divisor
})

/** Takes turns, so that what the compiler does meanwhile happens to all sizes. */
const timeAll = Effect.fnUntraced(function*(operations: ReadonlyArray<Operation>) {
  const times = operations.map((): Array<number> => [])
  for (let round = 0; round < rounds; round++) {
    for (const [index, operation] of operations.entries()) times[index]?.push(yield* time(operation))
  }
  // The first third warms up the compiler. Of the rest the quickest quarter was neither held up nor had garbage to collect.
  return times.map((times) => {
    const warm = times.slice(rounds / 3).toSorted((a, b) => a - b)
    return warm[warm.length >> 2] ?? NaN
  })
})

const exponentOf = (costs: ReadonlyArray<number>): number => {
  const points = costs.map((cost, index) => [Math.log(sizes[index] ?? 1), Math.log(cost)] as const)
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / points.length
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length
  const above = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0)
  return above / points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0)
}

const range = (length: number) => Array.from({ length }, (_, index) => index)
const each = <A, R>(length: number, run: (index: number) => Effect.Effect<A, never, R>) =>
  Effect.forEach(range(length), run)
const repeat = (run: (index: number) => Effect.Effect<unknown>) => Effect.asVoid(each(repeats, run))

const idle = Process.spawn((_self: Process.Pid<unknown>) => Effect.succeed({ handle: () => Effect.void }))
const nothing = () => {}

// --- PubSub -----------------------------------------------------------------------------------------------------------

const pubsub: ReadonlyArray<Subject> = [
  ...(["unsubscribe", "unsubscribeAll", "process end"] as const).map((how): Subject => ({
    name: `PubSub: subscribe and ${how}`,
    beside: "members",
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      const system = yield* Process.System
      yield* each(size, () => Effect.flatMap(idle, (pid) => service.subscribe("topic", { pid, deliver: nothing })))
      const pid = yield* idle
      const subscriber = { pid, deliver: nothing }
      const run = how === "unsubscribe"
        ? repeat(() => Effect.flatMap(service.subscribe("topic", subscriber), service.unsubscribe))
        : how === "unsubscribeAll"
        ? repeat(() => Effect.andThen(service.subscribe("topic", subscriber), service.unsubscribeAll("topic", pid)))
        : repeat(() =>
          Effect.flatMap(idle, (pid) =>
            Effect.andThen(
              service.subscribe("topic", { pid, deliver: nothing }),
              Process.exit(pid, Process.killed)
            )).pipe(Effect.provideService(Process.System, system))
        )
      return { run }
    })
  })),
  {
    name: "PubSub: subscribe and unsubscribe, one topic again and again",
    beside: "topics",
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      yield* each(
        size,
        (n) => Effect.flatMap(idle, (pid) => service.subscribe(`topic ${n}`, { pid, deliver: nothing }))
      )
      const subscriber = { pid: yield* idle, deliver: nothing }
      return { run: repeat(() => Effect.flatMap(service.subscribe("topic", subscriber), service.unsubscribe)) }
    })
  },
  {
    name: "PubSub: subscribe and unsubscribeAll, one process",
    beside: "own topics",
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      const pid = yield* idle
      const subscriber = { pid, deliver: nothing }
      yield* each(size, (n) => service.subscribe(`topic ${n}`, subscriber))
      return {
        run: repeat((n) =>
          Effect.andThen(service.subscribe(`new ${n}`, subscriber), service.unsubscribeAll(`new ${n}`, pid))
        )
      }
    })
  },
  {
    name: "PubSub: unsubscribe one of many to a topic",
    beside: "own subscriptions",
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      const subscriber = { pid: yield* idle, deliver: nothing }
      yield* each(size, () => service.subscribe("topic", subscriber))
      return { run: repeat(() => Effect.flatMap(service.subscribe("topic", subscriber), service.unsubscribe)) }
    })
  },
  {
    name: "PubSub: broadcast, for each delivery",
    beside: "members",
    bar: 0.5,
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      let delivered = 0
      yield* each(
        size,
        () => Effect.flatMap(idle, (pid) => service.subscribe("topic", { pid, deliver: () => void delivered++ }))
      )
      return {
        run: Effect.orDie(Effect.asVoid(each(16, () => Effect.orDie(service.broadcast("topic", 1))))),
        divisor: 16 * size
      }
    })
  },
  {
    name: "PubSub: broadcast to a topic of one",
    beside: "topics",
    prepare: Effect.fnUntraced(function*(size) {
      const service = yield* PubSub.PubSub
      yield* each(
        size,
        (n) => Effect.flatMap(idle, (pid) => service.subscribe(`topic ${n}`, { pid, deliver: nothing }))
      )
      return { run: repeat((n) => Effect.orDie(service.broadcast(`topic ${n}`, 1))) }
    })
  }
]

// --- Process ----------------------------------------------------------------------------------------------------------

const processes: ReadonlyArray<Subject> = [
  {
    name: "Process: spawn, call and end",
    beside: "processes",
    prepare: Effect.fnUntraced(function*(size) {
      const system = yield* Process.System
      yield* each(size, () => idle)
      const one = Effect.gen(function*() {
        const pid = yield* Process.spawn((_self: Process.Pid<Process.ReplyTo<number>>) =>
          Effect.succeed({ handle: (replyTo: Process.ReplyTo<number>) => Process.reply(replyTo, 1) })
        )
        yield* Effect.orDie(Process.call(pid, (replyTo: Process.ReplyTo<number>) => replyTo))
        yield* Process.exit(pid, Process.shutdown())
      }).pipe(Effect.provideService(Process.System, system))
      return { run: repeat(() => one) }
    })
  },
  {
    name: "Process: sendAfter and cancelTimer",
    beside: "timers",
    prepare: Effect.fnUntraced(function*(size) {
      const pid = yield* idle
      yield* each(size, (n) => Process.sendAfter(pid, 1, 1_000_000 + n))
      return { run: repeat(() => Effect.flatMap(Process.sendAfter(pid, 1, 2_000_000), Process.cancelTimer)) }
    })
  },
  ...(["dropNewest", "dropOldest"] as const).map((whenFull): Subject => ({
    name: `Process: send to a full mailbox, ${whenFull}`,
    beside: "waiting messages",
    prepare: Effect.fnUntraced(function*(size) {
      const pid = yield* Process.spawn(
        (_self: Process.Pid<unknown>) => Effect.succeed({ handle: () => Effect.never }),
        {
          mailbox: { capacity: size, whenFull }
        }
      )
      Process.sendUnsafe(pid, 0)
      yield* settle
      for (let n = 0; n < size; n++) Process.sendUnsafe(pid, n)
      return {
        run: Effect.sync(() => {
          for (let n = 0; n < repeats; n++) Process.sendUnsafe(pid, n)
        })
      }
    })
  })),
  {
    name: "Process: handle a message",
    beside: "waiting messages",
    prepare: (size) =>
      Effect.gen(function*() {
        const pid = yield* idle
        const wait = Effect.promise(async () => {
          while ((await Effect.runPromise(Process.info(pid))).mailboxLength > 0) await turn()
        })
        return {
          run: Effect.andThen(
            Effect.sync(() => {
              for (let n = 0; n < size; n++) Process.sendUnsafe(pid, n)
            }),
            wait
          ),
          divisor: size
        }
      })
  }
]

// --- Presence ---------------------------------------------------------------------------------------------------------

const Online = Presence.make("online")
const meta = { device: "phone", since: 1_700_000_000 }

const presence = Effect.fnUntraced(function*(handlers: Presence.Handlers = {}) {
  const context = yield* Layer.build(Online.layer(handlers))
  const on = <A, E>(effect: Effect.Effect<A, E, Presence.Handler<"online">>) =>
    Effect.orDie(Effect.provideContext(effect, context))
  return {
    track: (pid: Process.Pid, topic: string, key: string) => on(Online.track({ pid, topic }, key, meta)),
    update: (pid: Process.Pid, topic: string, key: string) => on(Online.update({ pid, topic }, key, meta)),
    untrack: (pid: Process.Pid, topic: string, key: string) => on(Online.untrack({ pid, topic }, key)),
    list: (topic: string) => on(Online.list(topic)),
    getByKey: (topic: string, key: string) => on(Online.getByKey(topic, key))
  }
})

const presences: ReadonlyArray<Subject> = [
  ...([
    ["presences of the topic", (n: number) => ["room", `user ${n}`]],
    ["topics", (n: number) => [`room ${n}`, "user"]],
    ["presences of the key", () => ["room", "user"]]
  ] as const).flatMap(([beside, nameOf]): ReadonlyArray<Subject> =>
    (["track and untrack", "update", "process end", "getByKey of another"] as const).map((what) => ({
      name: `Presence: ${what}`,
      beside,
      prepare: Effect.fnUntraced(function*(size) {
        const system = yield* Process.System
        const online = yield* presence()
        yield* each(size, (n) => {
          const [topic = "", key = ""] = nameOf(n)
          return Effect.flatMap(idle, (pid) => online.track(pid, topic, key))
        })
        const pid = yield* idle
        const [topic = "", key = ""] = nameOf(size)
        yield* online.track(pid, "room", "another")
        yield* online.track(pid, topic, key)
        const again = (n: number) => beside === "presences of the key" ? key : `${key} ${n}`
        const pids: Array<Process.Pid> = []
        switch (what) {
          case "track and untrack":
            return {
              before: Effect.gen(function*() {
                pids.length = 0
                for (let n = 0; n < repeats; n++) pids.push(yield* idle)
              }).pipe(Effect.provideService(Process.System, system)),
              run: Effect.andThen(
                repeat((n) => {
                  const pid = pids[n]
                  return pid === undefined
                    ? Effect.void
                    : Effect.andThen(online.track(pid, topic, again(n)), online.untrack(pid, topic, again(n)))
                }),
                settle
              )
            }
          case "update":
            return { run: Effect.andThen(repeat(() => online.update(pid, topic, key)), settle) }
          case "process end":
            return {
              before: Effect.gen(function*() {
                pids.length = 0
                for (let n = 0; n < repeats; n++) {
                  const pid = yield* idle
                  pids.push(pid)
                  yield* online.track(pid, topic, again(n))
                }
              }).pipe(Effect.provideService(Process.System, system)),
              run: Effect.andThen(
                repeat((n) => {
                  const pid = pids[n]
                  return pid === undefined ? Effect.void : Process.exit(pid, Process.killed)
                }),
                settle
              )
            }
          case "getByKey of another":
            return { run: repeat(() => online.getByKey("room", "another")) }
        }
      })
    }))
  ),
  ...([
    ["presences of the topic", (n: number) => ["room", `user ${n}`]],
    ["topics", (n: number) => [`room ${n}`, "user"]]
  ] as const).map(([beside, nameOf]): Subject => ({
    name: "Presence: track and untrack, one key again and again",
    beside,
    prepare: Effect.fnUntraced(function*(size) {
      const online = yield* presence()
      yield* each(size, (n) => {
        const [topic = "", key = ""] = nameOf(n)
        return Effect.flatMap(idle, (pid) => online.track(pid, topic, key))
      })
      const pid = yield* idle
      const [topic = "", key = ""] = nameOf(size)
      return {
        run: Effect.andThen(
          repeat(() => Effect.andThen(online.track(pid, topic, key), online.untrack(pid, topic, key))),
          settle
        )
      }
    })
  })),
  {
    name: "Presence: track and untrack, one process",
    beside: "own presences",
    prepare: Effect.fnUntraced(function*(size) {
      const online = yield* presence()
      const pid = yield* idle
      yield* each(size, (n) => online.track(pid, "room", `user ${n}`))
      return {
        run: Effect.andThen(
          repeat((n) => Effect.andThen(online.track(pid, "room", `new ${n}`), online.untrack(pid, "room", `new ${n}`))),
          settle
        )
      }
    })
  },
  {
    name: "Presence: track and untrack with handleMetas",
    beside: "presences of the topic",
    prepare: Effect.fnUntraced(function*(size) {
      const online = yield* presence({ handleMetas: () => Effect.void })
      const pid = yield* idle
      yield* each(size, (n) => online.track(pid, "room", `user ${n}`))
      yield* settle
      return {
        run: Effect.andThen(
          repeat((n) => Effect.andThen(online.track(pid, "room", `new ${n}`), online.untrack(pid, "room", `new ${n}`))),
          settle
        )
      }
    })
  },
  ...(["as it is", "with fetch"] as const).map((how): Subject => ({
    name: `Presence: list, for each entry, ${how}`,
    beside: "presences of the topic",
    bar: 0.4,
    prepare: Effect.fnUntraced(function*(size) {
      const online = yield* presence(
        how === "as it is" ? {} : {
          fetch: (_, entries) =>
            Effect.succeed(
              Object.fromEntries(Object.entries(entries).map(([key, entry]) => [key, { ...entry, name: key }]))
            )
        }
      )
      const pid = yield* idle
      yield* each(size, (n) => online.track(pid, "room", `user ${n}`))
      yield* settle
      return { run: Effect.asVoid(each(8, () => online.list("room"))), divisor: 8 * size }
    })
  }))
]

// --- Channel ----------------------------------------------------------------------------------------------------------

const Room = Channel.make("room:*")
const RoomLive = Room.layer((room) =>
  Effect.succeed({
    handleIn: (event: string, payload: unknown) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "shout":
          return Effect.as(room.broadcast("shout", payload), Channel.noReply)
        case "subscribe":
          return Effect.as(Effect.andThen(room.subscribe("news"), room.unsubscribe("news")), Channel.ok())
        default:
          return Effect.die("crash")
      }
    }
  }), { logJoin: false, logHandleIn: false })
const BenchSocket = Socket.make("bench", {
  channels: [Room],
  maxJoinRate: false,
  maxMessageRate: false,
  maxChannels: 100_000
})

/** Connections whose frames are only counted. */
const connections = Effect.gen(function*() {
  const context = yield* Layer.build(
    Layer.mergeAll(RoomLive, BenchSocket.layer(() => Effect.succeed(Socket.accept())))
  )
  const acceptor = yield* Effect.provideContext(Socket.acceptor(BenchSocket), context)
  let frames = 0
  const transport = { name: "bench", send: () => void frames++, close: nothing }
  const open = () => acceptor.open(transport, Serializer.v2, { id: undefined, assigns: Context.empty() })
  type Connection = ReturnType<typeof open>
  let ref = 0
  const send = (connection: Connection, topic: string, event: string, payload: unknown = {}) => {
    const id = String(++ref)
    connection.receive(JSON.stringify([event === "phx_join" ? id : null, id, topic, event, payload]))
  }
  /** Complete when so many frames more have been sent. */
  const until = (more: number, work: () => void) =>
    Effect.promise(async () => {
      const end = frames + more
      const due = () => end - frames
      work()
      for (let n = 0; due() > 0; n++) {
        if (n > 100_000) throw new Error(`${due()} frames did not come`)
        await turn()
      }
    })
  const join = (topic: string) =>
    Effect.gen(function*() {
      const connection = open()
      yield* until(1, () => send(connection, topic, "phx_join"))
      return connection
    })
  return { open, send, until, join }
})

const joinAll = Effect.fnUntraced(function*(
  { open, send, until }: Effect.Success<typeof connections>,
  topics: ReadonlyArray<string>
) {
  const all = topics.map((topic) => ({ topic, connection: open() }))
  yield* until(topics.length, () => all.forEach(({ connection, topic }) => send(connection, topic, "phx_join")))
  return all
})

const channels: ReadonlyArray<Subject> = [
  ...([["members", () => "room:1"], ["topics", (n: number) => `room:${n}`]] as const).flatMap(([beside, topicOf]) =>
    ([
      ["join and leave", 3, "phx_leave"],
      ["duplicate join", 2, "phx_join"],
      ["push with a reply", 1, "echo"],
      ["crash and join", 2, "crash"],
      ["subscribe and unsubscribe in a handler", 1, "subscribe"]
    ] as const).map(([what, answers, event]): Subject => ({
      name: `Channel: ${what}`,
      beside,
      prepare: Effect.fnUntraced(function*(size) {
        const kit = yield* connections
        yield* joinAll(kit, range(size).map(topicOf))
        const topic = topicOf(size)
        const mine = yield* joinAll(kit, range(repeats).map((n) => beside === "members" ? topic : `${topic}:${n}`))
        const hasToJoin = event === "phx_leave" || event === "crash"
        return {
          run: kit.until(answers * repeats, () => {
            for (const { connection, topic } of mine) {
              kit.send(connection, topic, event)
              if (hasToJoin) kit.send(connection, topic, "phx_join")
            }
          })
        }
      })
    }))
  ),
  {
    name: "Channel: join, one connection",
    beside: "own channels",
    prepare: Effect.fnUntraced(function*(size) {
      const kit = yield* connections
      const connection = kit.open()
      yield* kit.until(size, () => range(size).forEach((n) => kit.send(connection, `room:${n}`, "phx_join")))
      return {
        run: kit.until(3 * repeats, () => {
          for (let n = 0; n < repeats; n++) {
            kit.send(connection, `room:new:${n}`, "phx_join")
            kit.send(connection, `room:new:${n}`, "phx_leave")
          }
        })
      }
    })
  },
  {
    name: "Channel: connect, join and disconnect",
    beside: "members",
    prepare: Effect.fnUntraced(function*(size) {
      const kit = yield* connections
      yield* joinAll(kit, range(size).map(() => "room:1"))
      return {
        run: Effect.andThen(
          Effect.flatMap(
            joinAll(kit, range(repeats).map(() => "room:1")),
            (mine) =>
              Effect.sync(() => mine.forEach(({ connection }) => connection.closed(Process.shutdown("local_closed"))))
          ),
          settle
        )
      }
    })
  },
  {
    name: "Channel: broadcast, for each delivery",
    beside: "members",
    prepare: Effect.fnUntraced(function*(size) {
      const kit = yield* connections
      const [one] = yield* joinAll(kit, range(size).map(() => "room:1"))
      if (one === undefined) return { run: Effect.void }
      return {
        run: kit.until(16 * size, () => {
          for (let n = 0; n < 16; n++) kit.send(one.connection, "room:1", "shout")
        }),
        divisor: 16 * size
      }
    })
  }
]

// ----------------------------------------------------------------------------------------------------------------------

const only = process.argv[2] ?? ""

const program = Effect.gen(function*() {
  const steep: Array<string> = []
  const head = sizes.map((size) => size.toLocaleString("en").padStart(9)).join("")
  console.log(`${"us for one, beside so many".padEnd(78)}${head}  exponent`)
  for (const { bar = usualBar, beside, name, prepare } of [...pubsub, ...processes, ...presences, ...channels]) {
    const title = `${name} (${beside})`
    if (!title.includes(only)) continue
    const scope = yield* Scope.make()
    const operations = yield* Effect.forEach(sizes, (size) =>
      Effect.flatMap(
        Layer.buildWithMemoMap(PubSub.layer, Layer.makeMemoMapUnsafe(), scope),
        (node) => Scope.provide(Effect.provideContext(prepare(size), node), scope)
      ))
    const costs = yield* timeAll(operations)
    yield* Scope.close(scope, Exit.void)
    const exponent = exponentOf(costs)
    if (exponent > bar) steep.push(title)
    const cells = costs.map((cost) => cost.toFixed(3).padStart(9)).join("")
    console.log(`${title.padEnd(78)}${cells}${exponent.toFixed(2).padStart(10)}${exponent > bar ? "  !" : ""}`)
  }
  if (steep.length === 0) return
  console.error(`\nSteeper than they may be: ${steep.join("; ")}`)
  process.exitCode = 1
}).pipe(Effect.provide(Logger.layer([])))

await Effect.runPromise(program)
