/** A node of processes for a test to play with, on the TestClock, of which nothing may be left afterwards. */
import { assert, it } from "@effect/vitest"
import { type Cause, Effect, Layer, Logger, Metric, References, type Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Process from "../../src/Process.ts"

/** A line that was logged. */
export interface Line {
  readonly message: string
  readonly level: string
  readonly cause: Cause.Cause<unknown>
  readonly annotations: Readonly<Record<string, unknown>>
}

export interface Node {
  /** What was logged on the node. */
  readonly lines: Array<Line>
  /** How many fibers there are on the node. */
  readonly fibers: () => number
}

type Body<E> = (node: Node) => Effect.Effect<unknown, E, Process.System | Scope.Scope>

/** Lets everything that is ready do what it can do without time passing. */
export const settle: Effect.Effect<void> = Effect.gen(function*() {
  for (let i = 0; i < 30; i++) yield* Effect.yieldNow
})

/** Ends all processes the hard way. */
const killAll = Effect.gen(function*() {
  for (let pids = yield* Process.list; pids.length > 0; pids = yield* Process.list) {
    for (const pid of pids) yield* Process.exit(pid, Process.killed)
  }
})

/** Runs a body on a node of its own, and makes sure that no process, timer or fiber is left when its processes are not. */
export const withNode = <E>(body: Body<E>): Effect.Effect<void, E> =>
  Effect.gen(function*() {
    const lines: Array<Line> = []
    let fibers = 0
    const logger = Logger.make(({ cause, fiber, logLevel, message }) => {
      const annotations = fiber.getRef(References.CurrentLogAnnotations)
      lines.push({ message: [message].flat().map(String).join(" "), level: logLevel, cause, annotations })
    })
    const node = Process.System.layer.pipe(
      Layer.provideMerge(Logger.layer([logger])),
      Layer.provideMerge(Layer.succeed(Metric.FiberRuntimeMetrics, {
        recordFiberStart: () => fibers++,
        recordFiberEnd: () => fibers--
      }))
    )
    yield* body({ lines, fibers: () => fibers }).pipe(
      Effect.andThen(killAll),
      Effect.andThen(Process.stats),
      Effect.map((stats) => assert.deepStrictEqual(stats, { processes: 0, timers: 0 })),
      Effect.scoped,
      Effect.provide(node)
    )
    yield* settle
    assert.strictEqual(fibers, 0, "fibers are left")
  })

/** A test on a node of its own. */
export const onNode = <E>(name: string, body: Body<E>): void => it.effect(name, () => withNode(body))

/** For properties: a node and a clock of its own for each run. */
export const runOnNode = <E>(body: Body<E>): Promise<void> =>
  Effect.runPromise(Effect.provide(withNode(body), TestClock.layer()))

/** A behaviour that notes its messages. */
export const noting = <M>(log: Array<M>) => ({
  handle: (message: M): Effect.Effect<void> => Effect.sync(() => void log.push(message))
})

/** What {@link spawnObedient} understands. */
export type Job = Effect.Effect<unknown, unknown, Process.Own | Process.System>

/** A process that does what it is sent; what it has to do with others is put into it this way. */
export const spawnObedient = (
  more?: Omit<Process.Behaviour<never, Process.Own | Process.System>, "handle">,
  options?: Process.Options<Job>
): Effect.Effect<Process.Pid<Job>, never, Process.System> =>
  Process.spawn<Job, never, Process.Own | Process.System>(
    () => Effect.succeed({ ...more, handle: (job) => job }),
    options
  )
