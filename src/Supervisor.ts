/**
 * Supervisors in the manner of OTP: processes that start other processes, in order, and restart the ones that end.
 *
 * Use a supervisor for everything that must be running: it is the answer to "what happens when this crashes". What
 * crashes again and again ends its supervisor too, and so on upwards until somebody can help.
 *
 * The model is Erlang's supervisor (https://www.erlang.org/doc/system/sup_princ.html).
 */
import { type Cause, type Context, Data, type Duration, Effect, Layer, type Scope } from "effect"
import { callable, duration, oneOf, OptionError, text, wholeNumber } from "./internal/options.ts"
import * as internal from "./internal/process.ts"
import type { Timer } from "./internal/timers.ts"
import * as Process from "./Process.ts"

/**
 * Which children are restarted when one has ended: only that one (`oneForOne`), all of them (`oneForAll`), or that one and
 * those started after it (`restForOne`).
 */
export type Strategy = "oneForOne" | "oneForAll" | "restForOne"

/**
 * When a child that has ended is started again: always (`permanent`), when it crashed or was killed (`transient`), or
 * never (`temporary`: it is forgotten).
 */
export type Restart = "permanent" | "transient" | "temporary"

/** How to start a child, and start it again; made by {@link child}. */
export interface ChildSpec<out E = never, out R = never> {
  readonly id: string
  readonly restart: Restart
  /** @internal */
  readonly start: (
    system: internal.System,
    parent: internal.Parent,
    context: Context.Context<R>
  ) => Effect.Effect<Process.Pid, E>
}

/**
 * Describes a child.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Supervisor } from "effect-channels"
 *
 * const worker = Supervisor.child({
 *   id: "worker",
 *   start: () => Effect.succeed({ handle: (job: string) => Effect.logInfo("working on", job) })
 * })
 * ```
 *
 * @param options - `id`: unique among the children of a supervisor. `start`: as for `Process.spawn`. `restart`: default
 *   `permanent`. The rest are the options of `Process.spawn`; `label` defaults to the id. One that makes no sense is
 *   thrown: an `OptionError`.
 */
export const child = <M, E = never, R = never>(
  options: Process.Options<M> & {
    readonly id: string
    readonly start: Process.Init<M, E, R>
    readonly restart?: Restart | undefined
  }
): ChildSpec<E, Exclude<R, Process.Own>> => {
  const id = text("id", options.id)
  const start = callable("start", options.start)
  const { label = id, restart = "permanent" } = options
  const settings = { ...options, label }
  Process.parseOptions(settings)
  return {
    id,
    restart: oneOf("restart", restart, ["permanent", "transient", "temporary"]),
    start: (system, parent, context) => Process.spawnUnder(system, parent, context, start, settings)
  }
}

/**
 * Options of {@link make} and {@link start}. One that makes no sense, such as `maxRestarts` of NaN, is thrown by `make` and a
 * defect of `start` and `layer`: an `OptionError`.
 */
export interface Options<out E = never, out R = never> {
  /** Started in this order, stopped in the opposite one; default none. */
  readonly children?: ReadonlyArray<ChildSpec<E, R>> | undefined
  /** Default `oneForOne`. */
  readonly strategy?: Strategy | undefined
  /**
   * Limits the restarts in the time `within`; at one more the supervisor stops its children and ends. Default 3; 0 for no
   * restart at all, `Infinity` for as many as it takes.
   */
  readonly maxRestarts?: number | undefined
  /** The time over which restarts are counted; default 5 seconds. */
  readonly within?: Duration.Input | undefined
}

/** A request to a supervisor, sent by the functions of this module. */
export interface Request {
  /** @internal */
  readonly run: (supervisor: Children) => Effect.Effect<void>
}

/** A running supervisor. */
export type Supervisor = Process.Pid<Request>

/**
 * What was asked of a supervisor cannot be done: the id is taken (`ALREADY_STARTED`), there is no such child
 * (`NOT_FOUND`), it does not start again (`NOT_STARTED`, with the `cause`), or the supervisor has ended (`DOWN`).
 */
export class SupervisorError extends Data.TaggedError("SupervisorError")<{
  readonly code: "ALREADY_STARTED" | "NOT_FOUND" | "NOT_STARTED" | "DOWN"
  readonly message: string
  readonly cause?: Cause.Cause<unknown> | undefined
}> {}

/** A child of a supervisor; `pid` is undefined while it is not running. */
export interface Child {
  readonly id: string
  readonly pid: Process.Pid | undefined
  readonly restart: Restart
}

/**
 * The behaviour of a supervisor, to start one as the child of another. Give that child `shutdown: "Infinity"`, so that its
 * own children have the time they ask for.
 *
 * @example
 * ```ts
 * import { Supervisor } from "effect-channels"
 *
 * const pool = Supervisor.child({
 *   id: "pool",
 *   shutdown: "Infinity",
 *   start: Supervisor.make({ strategy: "oneForOne", maxRestarts: 10 })
 * })
 * ```
 */
export const make = <E = never, R = never>(
  options: Options<E, R> = {}
): Process.Init<Request, E, R | Process.System | Process.Self> => {
  const settings = settingsOf(options)
  return () => begin(options, settings)
}

const begin = <E, R>(options: Options<E, R>, settings: Settings) =>
  Effect.gen(function*() {
    const children = new Children(yield* Process.System, yield* Process.Self, settings)
    const context = yield* Effect.context<R>()
    const startAll = Effect.forEach(
      options.children ?? [],
      (spec) => Effect.suspend(() => children.start(children.add(spec, context))),
      { discard: true }
    )
    // No interruption may come between the start of the last child and the supervisor being there to stop it.
    return yield* Effect.uninterruptibleMask((restore) =>
      Effect.as(Effect.onError(restore(startAll), () => children.stopAll), children)
    )
  })

interface Settings {
  readonly strategy: Strategy
  readonly maxRestarts: number
  readonly within: number
}

const settingsOf = (options: Options<unknown, unknown>): Settings => {
  const { children = [], maxRestarts = 3, strategy = "oneForOne", within = "5 seconds" } = options
  if (!Array.isArray(children)) throw new OptionError("children", children, "a list of Supervisor.child")
  return {
    strategy: oneOf("strategy", strategy, ["oneForOne", "oneForAll", "restForOne"]),
    maxRestarts: wholeNumber("maxRestarts", maxRestarts, { min: 0, unlimited: true }),
    within: duration("within", within, { unlimited: true })
  }
}

/**
 * Starts a supervisor and its children. When a child fails to start, those before it are stopped and `start` fails with
 * its error.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Supervisor } from "effect-channels"
 *
 * const idle = () => Effect.succeed({ handle: () => Effect.void })
 *
 * const program = Supervisor.start({
 *   strategy: "restForOne",
 *   children: [Supervisor.child({ id: "store", start: idle }), Supervisor.child({ id: "reader", start: idle })]
 * })
 * ```
 */
export const start = <E = never, R = never>(
  options: Options<E, R> & { readonly label?: string | undefined } = {}
): Effect.Effect<Supervisor, E, Process.System | Exclude<R, Process.Own>> =>
  Effect.suspend(() => {
    const { label = "supervisor" } = options
    return Process.spawn(make(options), { label, shutdown: "Infinity" })
  })

/** A supervisor that runs while the Layer's scope is open; when it closes, the children are stopped in order. */
export const layer = <E = never, R = never>(
  options: Options<E, R> & { readonly label?: string | undefined }
): Layer.Layer<never, E, Process.System | Exclude<R, Process.Own>> =>
  Layer.effectDiscard(
    Effect.acquireRelease(start(options), (supervisor) => Process.shutdownChild(Process.fromPid(supervisor)), {
      interruptible: true
    })
  )

/** Milliseconds until a supervisor that gave up is started again. */
const pause = 1000

/**
 * A supervisor that runs until the scope closes: nobody is above it who would start it again. One that is killed is started
 * again at once, and one that gives up a second later.
 *
 * @internal
 */
export const keep = <R = never>(
  options: Options<never, R> & { readonly label: string }
): Effect.Effect<void, never, Process.System | Scope.Scope | Exclude<R, Process.Own>> =>
  Effect.gen(function*() {
    const system = yield* Process.System
    const fork = Effect.runForkWith(yield* Effect.context<Process.System | Exclude<R, Process.Own>>())
    let current: internal.Process | undefined
    let again: Timer | undefined
    let isOver = false
    const begin: Effect.Effect<void, never, Process.System | Exclude<R, Process.Own>> = Effect.flatMap(
      start(options),
      (pid) => {
        current = Process.fromPid(pid)
        if (isOver) return Process.shutdownChild(current)
        current.watch(options, {
          ended: (_, { _tag }) => {
            if (!isOver) again = system.timers.after(_tag === "Killed" ? 0 : pause, () => fork(begin))
          }
        })
        return Effect.void
      }
    )
    yield* Effect.acquireRelease(begin, () =>
      Effect.suspend(() => {
        isOver = true
        if (again !== undefined) system.timers.cancel(again)
        return current === undefined ? Effect.void : Process.shutdownChild(current)
      }), { interruptible: true })
  })

/**
 * Starts one more child, after those that are there; fails with the child's own error when it does not start. A child's
 * `start` must not ask its own supervisor for anything: the two would wait for each other.
 *
 * @returns the child's `Pid`, or a {@link SupervisorError} (`ALREADY_STARTED`, `DOWN`)
 */
export const startChild = <E, R>(
  supervisor: Supervisor,
  spec: ChildSpec<E, R>
): Effect.Effect<Process.Pid, E | SupervisorError, R> =>
  Effect.contextWith((context: Context.Context<R>) =>
    ask(supervisor, (children): Effect.Effect<Process.Pid, E | SupervisorError> => {
      if (children.find(spec.id) !== undefined) {
        return Effect.fail(
          new SupervisorError({ code: "ALREADY_STARTED", message: `there is a child with the id ${spec.id}` })
        )
      }
      const entry = children.add(spec, context)
      return Effect.onError(children.start(entry), () => Effect.sync(() => children.forget(entry)))
    })
  )

/** Stops a child and forgets it; fails with `NOT_FOUND` or `DOWN`. */
export const terminateChild = (supervisor: Supervisor, id: string): Effect.Effect<void, SupervisorError> =>
  withChild(
    supervisor,
    id,
    (children, entry) => Effect.andThen(children.stop(entry), Effect.sync(() => children.forget(entry)))
  )

/**
 * Stops a child, if it is running, and starts it again; this does not count as a restart. Fails with `NOT_FOUND`, `DOWN`,
 * or `NOT_STARTED`: the child is then remembered but not running, and nobody but this function tries again.
 */
export const restartChild = (supervisor: Supervisor, id: string): Effect.Effect<Process.Pid, SupervisorError> =>
  withChild(
    supervisor,
    id,
    (children, entry) =>
      Effect.andThen(
        children.stop(entry),
        Effect.catchCause(children.start(entry), (cause) =>
          Effect.fail(
            new SupervisorError({ code: "NOT_STARTED", message: `the child ${id} does not start again`, cause })
          ))
      )
  )

/** The children, in the order in which they were first started; fails with `DOWN`. */
export const children = (supervisor: Supervisor): Effect.Effect<ReadonlyArray<Child>, SupervisorError> =>
  ask(supervisor, (children) => Effect.sync(() => children.list()))

const withChild = <A>(
  supervisor: Supervisor,
  id: string,
  f: (children: Children, entry: Entry) => Effect.Effect<A, SupervisorError>
): Effect.Effect<A, SupervisorError> =>
  ask(supervisor, (children): Effect.Effect<A, SupervisorError> => {
    const entry = children.find(id)
    if (entry !== undefined) return f(children, entry)
    return Effect.fail(new SupervisorError({ code: "NOT_FOUND", message: `there is no child with the id ${id}` }))
  })

/** Has the supervisor do something between two messages, and waits for the outcome however long that takes. */
const ask = <A, E>(
  supervisor: Supervisor,
  f: (children: Children) => Effect.Effect<A, E>
): Effect.Effect<A, E | SupervisorError> =>
  Process.call(supervisor, (replyTo: Process.ReplyTo<Effect.Effect<A, E>>) => ({
    run: (children) => Effect.flatMap(Effect.exit(f(children)), (exit) => Process.reply(replyTo, exit))
  }), { timeout: "Infinity" }).pipe(
    Effect.mapError(() => new SupervisorError({ code: "DOWN", message: `${supervisor.label} has ended` })),
    Effect.flatten
  )

/** A child as its supervisor remembers it: how to start it, with the services of then, and the process while it runs. */
class Entry<out E = unknown> implements internal.Parent {
  readonly id: string
  readonly restart: Restart
  readonly start: Effect.Effect<Process.Pid, E>
  process: internal.Process | undefined = undefined
  private readonly owner: Children

  constructor(owner: Children, id: string, restart: Restart, start: (entry: internal.Parent) => Entry<E>["start"]) {
    this.owner = owner
    this.id = id
    this.restart = restart
    this.start = start(this)
  }

  get children(): Set<internal.Process> {
    return this.owner.children
  }

  childEnded(child: internal.Process, reason: Process.ExitReason): void {
    this.owner.later(() => this.owner.afterEnd(this, child, reason))
  }
}

/** What a supervisor has yet to see to. */
class Task extends internal.Signal {
  private readonly run: () => Effect.Effect<void>
  constructor(run: () => Effect.Effect<void>) {
    super()
    this.run = run
  }
  handle(): Effect.Effect<void> {
    return this.run()
  }
}

/** The state and the behaviour of a supervisor. */
class Children {
  readonly children = new Set<internal.Process>()
  private readonly entries = new Map<string, Entry>()
  private readonly system: internal.System
  private readonly process: internal.Process
  private readonly strategy: Strategy
  private readonly maxRestarts: number
  private readonly within: number
  private restarts: Array<number> = []

  constructor(system: internal.System, process: internal.Process, { maxRestarts, strategy, within }: Settings) {
    this.system = system
    this.process = process
    this.strategy = strategy
    this.maxRestarts = maxRestarts
    this.within = within
  }

  handle(request: Request): Effect.Effect<void> {
    return request.run(this)
  }

  terminate(): Effect.Effect<void> {
    return this.stopAll
  }

  /** Sees to it after what is in the mailbox already. */
  later(run: () => Effect.Effect<void>): void {
    this.process.push(new Task(run))
  }

  find(id: string): Entry | undefined {
    return this.entries.get(id)
  }

  list(): ReadonlyArray<Child> {
    return Array.from(this.entries.values(), ({ id, process, restart }) => ({
      id,
      pid: process?.alive ? Process.toPid(process) : undefined,
      restart
    }))
  }

  /** Remembers a child with the services it is started with, now and again later. */
  add<E, R>(spec: ChildSpec<E, R>, context: Context.Context<R>): Entry<E> {
    if (this.entries.has(spec.id)) throw new Error(`two children have the id ${spec.id}`)
    const entry = new Entry(this, spec.id, spec.restart, (parent) => spec.start(this.system, parent, context))
    this.entries.set(spec.id, entry)
    return entry
  }

  start<E>(entry: Entry<E>): Effect.Effect<Process.Pid, E> {
    return Effect.map(entry.start, (pid) => {
      entry.process = Process.fromPid(pid)
      return pid
    })
  }

  stop(entry: Entry): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (entry.process === undefined) return Effect.void
      return Effect.map(Process.shutdownChild(entry.process), () => {
        entry.process = undefined
      })
    })
  }

  forget(entry: Entry): void {
    this.entries.delete(entry.id)
  }

  get stopAll(): Effect.Effect<void> {
    // A child whose start was interrupted may be among the processes but not known to its entry yet.
    return Effect.andThen(this.stopFrom(0), Effect.suspend(() => Process.shutdownChildren(this.children)))
  }

  private stopFrom(index: number): Effect.Effect<void> {
    return Effect.suspend(() =>
      Effect.forEach([...this.entries.values()].slice(index).reverse(), (entry) => this.stop(entry), { discard: true })
    )
  }

  afterEnd(entry: Entry, child: internal.Process, reason: Process.ExitReason): Effect.Effect<void> {
    // It was stopped on purpose, or its entry has a newer process already.
    if (entry.process !== child) return Effect.void
    entry.process = undefined
    if (entry.restart === "temporary") this.forget(entry)
    else if (entry.restart === "permanent" || !internal.isGraceful(reason)) return this.restart(entry)
    return Effect.void
  }

  private readonly restart = Effect.fnUntraced(function*(this: Children, entry: Entry) {
    if (this.find(entry.id) !== entry || entry.process !== undefined) return
    if (this.tooMany()) {
      yield* Effect.logError("supervisor gives up: too many restarts").pipe(
        Effect.annotateLogs({ process: this.process.label, child: entry.id })
      )
      return this.process.stop(internal.shutdown("too many restarts"))
    }
    if (this.strategy === "oneForOne") return void (yield* this.tryStart(entry))
    const first = this.strategy === "oneForAll" ? 0 : [...this.entries.values()].indexOf(entry)
    yield* this.stopFrom(first)
    for (const next of [...this.entries.values()].slice(first)) {
      if (next.restart === "temporary") this.forget(next)
      else if (!(yield* this.tryStart(next))) return
    }
  })

  /** A child that does not start counts as one more restart, tried after what is in the mailbox. */
  private readonly tryStart = Effect.fnUntraced(function*(this: Children, entry: Entry) {
    const exit = yield* Effect.exit(this.start(entry))
    if (exit._tag === "Success") return true
    yield* Effect.logError("child does not start", exit.cause).pipe(
      Effect.annotateLogs({ process: this.process.label, child: entry.id })
    )
    this.later(() => this.restart(entry))
    return false
  })

  /** Counts a restart. */
  private tooMany(): boolean {
    if (this.maxRestarts === Infinity) return false
    const { now } = this.system.timers
    this.restarts = this.restarts.filter((at) => at > now - this.within)
    return this.restarts.push(now) > this.maxRestarts
  }
}
