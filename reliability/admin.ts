/** What the programs ask a server over HTTP: how much of everything it has, and to kill one of its processes. */
import { Effect, Layer, Metric } from "effect"
import { Endpoint, Process, PubSub, Telemetry } from "effect-channels"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { setTimeout as sleep } from "node:timers/promises"
import { Online } from "./app.ts"

let fibers = 0

/** Counts the fibers of this Node process. */
export const CountFibers = Layer.succeed(Metric.FiberRuntimeMetrics, {
  recordFiberStart: () => void fibers++,
  recordFiberEnd: () => void fibers--
})

/** Bytes that are in use when all garbage has been collected. */
const heap = Effect.promise(async () => {
  for (let times = 0; times < 5; times++) {
    globalThis.gc?.()
    await sleep(20)
  }
  return process.memoryUsage().heapUsed
})

/** Of a metric, the sum over all channels. */
const total = Effect.fnUntraced(function*(name: string) {
  const all = yield* Metric.snapshot
  return all.filter(({ id }) => id === name).reduce((sum, { state }) => sum + stateValue(state), 0)
})

const stateValue = (state: object): number =>
  "value" in state ? Number(state.value) : "count" in state ? Number(state.count) : 0

export type Report = Effect.Success<typeof report>

const report = Effect.gen(function*() {
  const { processes, timers } = yield* Process.stats
  const { tracker } = yield* Online.handler
  const { copied, own } = tracker.stats()
  const pubsub = yield* PubSub.PubSub
  return {
    processes,
    timers,
    sockets: (yield* Endpoint.sockets).length,
    connections: yield* total(Telemetry.connections.id),
    channels: yield* total(Telemetry.channels.id),
    waiting: yield* total(Telemetry.mailboxMessages.id),
    crashes: yield* total(Telemetry.channelCrashes.id),
    presences: own + copied,
    topics: pubsub.topics().length,
    pubsub: yield* pubsub.status,
    /** Without the one that tells it. */
    fibers: fibers - 1
  }
})

const json = (body: unknown) => HttpServerResponse.jsonUnsafe(body)

/** Of which connection a process is; undefined for those that belong to the node. */
const ownerOf = (pid: Process.Pid) =>
  Effect.gen(function*() {
    const socket = (yield* Endpoint.sockets).find((socket) => socket.pid === pid) ?? (yield* Endpoint.socketOf(pid))
    return socket?.id
  })

/** Kills the process at a place between 0 and 1 in the list of all, among those with a label that begins so. */
const kill = Effect.gen(function*() {
  const { url } = yield* HttpServerRequest.HttpServerRequest
  const params = new URL(url, "http://localhost").searchParams
  const all = (yield* Process.list).filter(({ label }) => label.startsWith(params.get("label") ?? ""))
  const pid = all[Math.floor(Number(params.get("at")) * all.length)]
  if (pid === undefined) return json({})
  const owner = yield* ownerOf(pid)
  yield* Process.exit(pid, Process.killed)
  return json({ label: pid.label, owner })
})

const labels = Effect.map(Process.list, (pids) => json(pids.map(({ label }) => label)))

export const Admin = HttpRouter.use((router) =>
  Effect.gen(function*() {
    const context = yield* Effect.context<Effect.Services<typeof report>>()
    yield* router.add("GET", "/report", Effect.map(Effect.provideContext(report, context), json))
    yield* router.add("GET", "/heap", Effect.map(heap, json))
    yield* router.add("GET", "/labels", Effect.provideContext(labels, context))
    yield* router.add("POST", "/kill", Effect.provideContext(kill, context))
  })
)
