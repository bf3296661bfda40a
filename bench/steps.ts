/**
 * What each step costs, without a network: medians, in microseconds. docs/performance.md has the table. Run with
 * `npm run bench:steps`.
 */
import { Context, Effect, Layer, Result, Schema } from "effect"
import { Channel, Message, PubSub, Serializer, Socket } from "effect-channels"
import { median } from "./cells.ts"

const payload = { c: 12, s: 345, t: 1234567890123, z: "xxxxxxxxxxxxxxxx" }
const Payload = Schema.Struct({ c: Schema.Finite, s: Schema.Finite, t: Schema.Finite, z: Schema.String })

const Plain = Channel.make("plain:*")
const PlainLive = Plain.layer((plain) =>
  Effect.succeed({
    handleIn: (event, payload) => {
      switch (event) {
        case "echo":
          return Effect.succeed(Channel.ok(payload))
        case "push":
          return Effect.as(plain.push("pushed", payload), Channel.noReply)
        case "shout":
          return Effect.as(plain.broadcast("shout", payload), Channel.noReply)
        case "yield":
          return Effect.as(Effect.yieldNow, Channel.ok(payload))
        default:
          return Effect.succeed(Channel.noReply)
      }
    }
  }), { logJoin: false })

const Typed = Channel.make("typed:*", { incoming: { echo: { payload: Payload, success: Payload } } })
const TypedLive = Typed.layer(() => Effect.succeed({ handleIn: { echo: Effect.succeed } }), { logJoin: false })

const Through = Channel.make("through:*", { intercept: ["shout"] })
const ThroughLive = Through.layer((through) =>
  Effect.succeed({
    handleIn: (_event, payload) => Effect.as(through.broadcast("shout", payload), Channel.noReply),
    handleOut: { shout: (payload) => through.push("shout", payload) }
  }), { logJoin: false })

const BenchSocket = Socket.make("bench", {
  channels: [Plain, Typed, Through],
  maxJoinRate: false,
  maxMessageRate: false,
  maxHeartbeatRate: false
})
const BenchSocketLive = BenchSocket.layer(() => Effect.succeed(Socket.accept()))

/** Frames, and closes. */
let sent = 0

/** How many frames have still to be sent until there are so many. */
const due = (frames: number) => frames - sent

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Waits until nothing has been sent for some turns of the event loop. */
const settle = async () => {
  for (let quiet = 0, before = sent; quiet < 16; before = sent) {
    await turn()
    quiet = sent === before ? quiet + 1 : 0
  }
}

/** The median of the time that one of `units` takes, over rounds that are each run until so many frames are sent. */
const time = async (rounds: number, units: number, frames: number, work: () => void): Promise<number> => {
  const times: Array<number> = []
  for (let round = 0; round < rounds; round++) {
    const until = sent + frames
    const start = process.hrtime.bigint()
    work()
    while (due(until) > 0) await turn()
    times.push(Number(process.hrtime.bigint() - start) / 1000 / units)
    await settle()
    if (due(until) < 0) throw new Error(`${-due(until)} frames more were sent than were expected`)
  }
  // What was compiled last is what counts.
  return median(times.slice(rounds >> 1))
}

const report = (step: string, micros: number) => console.log(`${step.padEnd(62)} ${micros.toFixed(2).padStart(8)} us`)

const program = Effect.gen(function*() {
  const acceptor = yield* Socket.acceptor(BenchSocket)
  const transport = { name: "bench", send: () => void sent++, close: () => void sent++ }
  const open = () => acceptor.open(transport, Serializer.v2, { id: undefined, assigns: Context.empty() })
  const frame = (joinRef: string, ref: string, topic: string, event: string, body: unknown = payload) =>
    JSON.stringify([joinRef, ref, topic, event, body])

  const text = frame("1", "2", "plain:1", "echo")
  const reply = Message.reply("1", "2", "plain:1", "ok", payload)
  const broadcast = Message.broadcast("plain:1", "shout", payload)
  const n = 20_000
  const many = (work: () => void) => () => {
    for (let i = 0; i < n; i++) work()
  }
  yield* Effect.promise(async () => {
    report("decode a V2 text frame of 90 bytes", await time(20, n, 0, many(() => Serializer.v2.decode(text, "text"))))
    report("encode a reply", await time(20, n, 0, many(() => Result.getOrThrow(Serializer.v2.encode(reply)))))
    report("encode a broadcast, once for all", await time(20, n, 0, many(() => Serializer.v2.fastlane(broadcast))))

    const socket = open()
    for (const topic of ["plain:1", "typed:1"]) socket.receive(frame("1", "1", topic, "phx_join", {}))
    await settle()
    const bursts = (input: string) => () => {
      for (let i = 0; i < 1000; i++) socket.receive(input)
    }
    const beat = JSON.stringify([null, "1", "phoenix", "heartbeat", {}])
    report("a heartbeat, frame to frame", await time(60, 1000, 1000, bursts(beat)))
    const quiet = bursts(frame("1", "2", "plain:1", "no"))
    // One that is answered comes behind them.
    const andEcho = () => {
      quiet()
      socket.receive(text)
    }
    report("an event without a reply, frame to handler", await time(60, 1000, 1, andEcho))
    report("an echo, frame to frame", await time(60, 1000, 1000, bursts(text)))
    report("an echo through a contract", await time(60, 1000, 1000, bursts(frame("1", "2", "typed:1", "echo"))))
    report("an echo whose handler yields once", await time(60, 1000, 1000, bursts(frame("1", "2", "plain:1", "yield"))))
    report(
      "an event that is answered with a push",
      await time(60, 1000, 1000, bursts(frame("1", "2", "plain:1", "push")))
    )

    const members = (topic: string, count: number) => {
      for (let i = 0; i < count; i++) open().receive(frame("1", "1", topic, "phx_join", {}))
    }
    members("plain:many", 1000)
    members("through:many", 1000)
    const owners: Array<{ readonly owner: ReturnType<typeof open>; readonly shout: string }> = []
    for (let i = 0; i < 10_000; i++) {
      const owner = open()
      owner.receive(frame("1", "1", `plain:own ${i}`, "phx_join", {}))
      owners.push({ owner, shout: frame("1", "2", `plain:own ${i}`, "shout") })
      // One after another, as connections come. Of what waits in a crowd V8 learns that it stays, and keeps it too long.
      if (i % 50 === 0) await settle()
    }
    for (const topic of ["plain:many", "through:many"]) socket.receive(frame("1", "1", topic, "phx_join", {}))
    await settle()
    const shouts = (topic: string) => () => {
      for (let i = 0; i < 10; i++) socket.receive(frame("1", "2", topic, "shout"))
    }
    report("a broadcast, for each of 1,000 members", await time(40, 10_000, 10_010, shouts("plain:many")))
    report("the same through handleOut", await time(40, 10_000, 10_010, shouts("through:many")))
    const inTurn = (topics: number) => {
      let next = 0
      return () => {
        for (let i = 0; i < 1000; i++) {
          const turn = owners[next++ % topics]
          turn?.owner.receive(turn.shout)
        }
      }
    }
    report("a broadcast to one member, in turn to 10 topics", await time(600, 1000, 1000, inTurn(10)))
    report("a broadcast to one member, in turn to 10,000 topics", await time(600, 1000, 1000, inTurn(10_000)))
    let topics = 0
    report(
      "join and leave",
      await time(60, 50, 150, () => {
        for (let i = 0; i < 50; i++) {
          const topic = `plain:new ${topics++}`
          socket.receive(frame("1", "1", topic, "phx_join", {}))
          socket.receive(frame("1", "2", topic, "phx_leave", {}))
        }
      })
    )
    report(
      "open and close a connection",
      await time(60, 100, 100, () => {
        for (let i = 0; i < 100; i++) open().process.kill()
      })
    )
  })
}).pipe(
  Effect.scoped,
  Effect.provide(
    Layer.mergeAll(PlainLive, TypedLive, ThroughLive, BenchSocketLive).pipe(Layer.provideMerge(PubSub.layer))
  )
)

await Effect.runPromise(program)
process.exit(0)
