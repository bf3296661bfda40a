/**
 * Processes in the manner of OTP: an identity, a mailbox and a behaviour that handles one message at a time.
 *
 * Use a process where something has state of its own and is spoken to concurrently: a game, a device, a session. What
 * happens in it stays in it: a failing handler ends this process and reaches only its monitors, its links and its
 * supervisor. A process that waits for a message costs a plain object, not a fiber: a fiber exists while a handler is at
 * work.
 *
 * The model is the one of Erlang's processes and GenServer (https://www.erlang.org/doc/system/ref_man_processes.html).
 */
import { type Cause, Context, Data, Duration, Effect, Exit, Layer, type Scope } from "effect"
import { effectOf } from "./internal/eager.ts"
import { erase } from "./internal/erase.ts"
import { callable, duration, object, oneOf, text, wholeNumber } from "./internal/options.ts"
import * as internal from "./internal/process.ts"
import type { Timer, Timers } from "./internal/timers.ts"

/** Type of the string that marks a {@link Pid}. */
export type TypeId = "~effect-channels/Process"

/**
 * The identity of a process: who to send to, to watch, to end. `M` is what it understands.
 *
 * A `Pid` stays valid after the process has ended; sending to it then does nothing.
 */
export interface Pid<in M = never> {
  readonly "~effect-channels/Process": { readonly _M: (message: M) => void }
  /** Unique in this Node process, and growing. */
  readonly id: number
  /** What the process is called in logs. */
  readonly label: string
  readonly alive: boolean
}

/**
 * Why a process ended.
 *
 * - `Normal`: it was done.
 * - `Shutdown`: it was asked to end, by its supervisor or with a reason of the application (`detail`).
 * - `Killed`: it was ended without being asked; `terminate` and finalizers did not run. Who is linked to it ends with the
 *   same reason, but in order.
 * - `Crash`: a handler failed, died or was interrupted from inside.
 *
 * `Normal` and `Shutdown` are called graceful.
 */
export type ExitReason = internal.ExitReason

/** The reason of a process that was done. */
export const normal: ExitReason = internal.normal
/** The reason of a process that was ended without being asked. */
export const killed: ExitReason = internal.killed
/** The reason of a process that was asked to end; `detail` may say why. */
export const shutdown: (detail?: unknown) => ExitReason = internal.shutdown
/** The reason of a process whose handler failed. */
export const crash: (cause: Cause.Cause<unknown>) => ExitReason = internal.crash
/** True for `Normal` and `Shutdown`. */
export const isGraceful: (reason: ExitReason) => boolean = internal.isGraceful

/**
 * The reason that a finalizer of a process's Scope was told.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process } from "effect-channels"
 *
 * const init = () =>
 *   Effect.gen(function*() {
 *     yield* Effect.addFinalizer((exit) => Effect.logInfo("ended", Process.exitReason(exit)._tag))
 *     return { handle: (message: string) => Effect.logInfo(message) }
 *   })
 * ```
 */
export const exitReason: (exit: Exit.Exit<unknown, unknown>) => ExitReason = internal.fromExit

/** A process that was being watched has ended. */
export interface Down {
  readonly monitor: Monitor
  readonly pid: Pid
  readonly reason: ExitReason
}

/** An exit that reached a process which traps exits. */
export interface ExitSignal {
  /** The linked process that ended; undefined when the exit was sent by {@link exit} from outside. */
  readonly from: Pid | undefined
  readonly reason: ExitReason
}

/** Identifies one act of watching; see {@link monitor}. */
export interface Monitor {
  readonly target: Pid
}

/**
 * What a process does with what it is sent. State lives in the closure of the functions: they never run concurrently.
 *
 * - `handle`: a message. When it fails the process ends with `Crash`.
 * - `handleDown`: a watched process has ended.
 * - `handleExit`: when given, the process *traps exits*: an exit signal becomes a message instead of ending it. Not so
 *   `Killed`, nor the `Shutdown` by its supervisor or its node.
 * - `terminate`: runs last, with the reason, unless the process is killed. It and the finalizers of the process's Scope
 *   share the shutdown time; those of them that are not done by then are interrupted. When one fails, a graceful reason
 *   becomes a `Crash`.
 *
 * See `terminate` and `handle_info` of https://www.erlang.org/doc/apps/stdlib/gen_server.html.
 */
export interface Behaviour<in M, out R = never> {
  readonly handle: (message: M) => Effect.Effect<unknown, unknown, R>
  readonly handleDown?: ((down: Down) => Effect.Effect<unknown, unknown, R>) | undefined
  readonly handleExit?: ((exit: ExitSignal) => Effect.Effect<unknown, unknown, R>) | undefined
  readonly terminate?: ((reason: ExitReason) => Effect.Effect<unknown, unknown, R>) | undefined
}

/**
 * Makes the behaviour of a new process. Runs in that process, before its first message. When it fails, what it has
 * acquired is released and there is no process.
 */
export type Init<M, E = never, R = never> = (self: Pid<M>) => Effect.Effect<Behaviour<M, R>, E, R>

/** Options of {@link spawn}. One that makes no sense, such as a capacity of NaN, is a defect: an `OptionError`. */
export interface Options<in M = never> {
  /** What the process is called in logs and in {@link list}; default `"process"`. */
  readonly label?: string | undefined
  /**
   * How long a process that is told to end may take: to be interrupted, for `terminate` and for the finalizers, all
   * together; then it is killed. Default 5 seconds; `"Infinity"` for as long as it takes.
   */
  readonly shutdown?: Duration.Input | undefined
  /**
   * `capacity`: the most messages that wait, at least 1; default `Infinity`, no bound. `whenFull` says what happens to one
   * more: `dropNewest` refuses it (default), `dropOldest` gives up the one that has waited longest, `crash` ends the
   * process. `Down` and exits are always taken. A {@link call} whose message is given up ends in `TIMEOUT`.
   */
  readonly mailbox?: {
    readonly capacity: number
    readonly whenFull?: "dropNewest" | "dropOldest" | "crash" | undefined
  } | undefined
  /** What the log line of a crash says about the message that was being handled. */
  readonly annotate?: ((message: M) => Record<string, unknown>) | undefined
}

/**
 * The node that processes live on: their run queue, their timers, the tree of who started whom.
 *
 * It takes Clock and Scheduler from the Context in which its Layer is built, so that under a `TestClock` time stands
 * still until the test moves it. When the Layer's scope closes all processes are shut down, at the same time; only a
 * process that has started others ends after them. Each has its shutdown time.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process } from "effect-channels"
 *
 * const program = Effect.gen(function*() {
 *   const pid = yield* Process.spawn(() => Effect.succeed({ handle: (n: number) => Effect.log(n) }))
 *   yield* Process.send(pid, 1)
 * }).pipe(Effect.provide(Process.System.layer))
 * ```
 */
export class System extends Context.Service<System, internal.System>()("effect-channels/Process/System") {
  static readonly layer: Layer.Layer<System> = Layer.effect(
    System,
    Effect.gen(function*() {
      const system = new internal.System(yield* Effect.context<never>())
      yield* Effect.addFinalizer(() =>
        Effect.ensuring(shutdownChildren(system.children), Effect.sync(() => system.timers.close()))
      )
      return system
    })
  )
}

/** The process a fiber works for; see {@link self}. */
export const Self = internal.Self
/** The identifier of {@link Self} in requirements. */
export type Self = internal.Self

/** What handlers may require without anybody providing it: the process itself and its Scope. */
export type Own = Self | Scope.Scope

/**
 * Starts a process and waits until its `init` has run, as `GenServer.start` does; the caller and the new process are not
 * tied. To have it restarted, start it under a `Supervisor`.
 *
 * `init` is given the new process's own `Pid` and makes its behaviour; both get the services of the caller.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process } from "effect-channels"
 *
 * const counter = Effect.gen(function*() {
 *   const pid = yield* Process.spawn((self: Process.Pid<"tick">) =>
 *     Effect.gen(function*() {
 *       let count = 0
 *       yield* Process.sendAfter(self, "tick", "1 second")
 *       return {
 *         handle: () =>
 *           Effect.gen(function*() {
 *             count++
 *             yield* Process.sendAfter(self, "tick", "1 second")
 *           })
 *       }
 *     }), { label: "counter" })
 *   return pid
 * })
 * ```
 *
 * @param init - makes the behaviour; when it fails there is no process and `spawn` fails with its error
 */
export const spawn = <M, E = never, R = never>(
  init: Init<M, E, R>,
  options?: Options<M>
): Effect.Effect<Pid<M>, E, System | Exclude<R, Own>> =>
  System.use((system) =>
    Effect.contextWith((context: Context.Context<Exclude<R, Own>>) =>
      spawnUnder(system, system, context, init, options)
    )
  )

/**
 * Starts a process as the child of `parent`, with the services of `context`.
 *
 * @internal
 */
export const spawnUnder = <M, E, R>(
  system: internal.System,
  parent: internal.Parent,
  context: Context.Context<Exclude<R, Own>>,
  init: Init<M, E, R>,
  options: Options<M> | undefined
): Effect.Effect<Pid<M>, E> => {
  const starter = internal.Process.starterIn(context)
  const inherited = internal.Process.inherited(context, starter)
  return Effect.callback<Pid<M>, E>((resume) => {
    const subject = subjectOf(options, starter)
    const process = new internal.Process(system, parent, inherited, subject, parseOptions(options))
    const pid = toPid<M>(process)
    let effect: Effect.Effect<Behaviour<M, R>, E, R>
    try {
      effect = effectOf(init(pid))
    } catch (defect) {
      effect = Effect.die(defect)
    }
    process.start(erase<Effect.Effect<internal.Behaviour, E>>(effect), (exit) => resume(Exit.map(exit, () => pid)))
    return shutdownChild(process)
  })
}

/**
 * Sends a message; it is handled after everything that this sender has sent before. It is lost when the process has ended,
 * or ends before, or when its mailbox is full.
 */
export const send = <M>(pid: Pid<M>, message: M): Effect.Effect<void> =>
  Effect.sync(() => void sendUnsafe(pid, message))

/**
 * {@link send} for callbacks, such as the listeners of a socket: acts at once.
 *
 * @returns false when the message was not taken, because the process has ended or its mailbox is full
 */
export const sendUnsafe = <M>(pid: Pid<M>, message: M): boolean => fromPid(pid).push(message)

/** A message that is due later; see {@link sendAfter}. */
export interface TimerRef {
  readonly pid: Pid
}

class TimerRefImpl implements TimerRef, internal.Watcher {
  readonly pid: Pid
  private readonly timers: Timers
  private readonly timer: Timer

  constructor(pid: Pid, process: internal.Process, message: unknown, millis: number) {
    this.pid = pid
    this.timers = process.system.timers
    this.timer = this.timers.after(millis, () => {
      process.unwatch(this)
      process.push(message)
    })
    process.watch(this, this)
  }

  cancel(): boolean {
    fromPid(this.pid).unwatch(this)
    return this.timers.cancel(this.timer)
  }

  ended(): void {
    this.timers.cancel(this.timer)
  }
}

/**
 * Sends a message to a process once `delay` has passed on its node's Clock, as `Process.send_after` does. It is not sent
 * when the process ends before. Messages that are due at the same millisecond are sent in the order of these calls.
 *
 * @param delay - counted in whole milliseconds, rounded up; `Infinity` for never, and less than nothing is nothing. What is
 *   no duration, such as NaN, is a defect: an `OptionError`
 * @returns a reference for {@link cancelTimer}
 */
export const sendAfter = <M>(pid: Pid<M>, message: M, delay: Duration.Input): Effect.Effect<TimerRef> =>
  Effect.sync(() => new TimerRefImpl(pid, fromPid(pid), message, delayOf(delay)))

/** Takes back a message of {@link sendAfter}; false when it was sent already or there is nobody to send it to. */
export const cancelTimer = (ref: TimerRef): Effect.Effect<boolean> =>
  Effect.sync(() => ref instanceof TimerRefImpl && ref.cancel())

/** A {@link call} got no answer. `code` is `TIMEOUT`, `DOWN` when the process has ended, or `FULL` when its mailbox is. */
export class CallError extends Data.TaggedError("CallError")<{
  readonly code: "TIMEOUT" | "DOWN" | "FULL"
  readonly message: string
  readonly reason?: ExitReason | undefined
}> {}

/** Where the answer to a {@link call} goes; answered once with {@link reply}. */
export interface ReplyTo<in A> {
  readonly "~effect-channels/Process/ReplyTo": (value: A) => void
}

/** Answers a {@link call}. Answers after the first, or after the caller gave up, do nothing. */
export const reply = <A>(to: ReplyTo<A>, value: A): Effect.Effect<void> =>
  Effect.sync(() => to["~effect-channels/Process/ReplyTo"](value))

/**
 * Sends a message that asks for an answer, and waits for it, as `GenServer.call` does.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Process } from "effect-channels"
 *
 * type Message = { readonly add: number } | { readonly get: Process.ReplyTo<number> }
 *
 * const program = Effect.gen(function*() {
 *   let sum = 0
 *   const pid = yield* Process.spawn((_self: Process.Pid<Message>) =>
 *     Effect.succeed({
 *       handle: (message: Message) =>
 *         "get" in message ? Process.reply(message.get, sum) : Effect.sync(() => void (sum += message.add))
 *     })
 *   )
 *   yield* Process.send(pid, { add: 2 })
 *   return yield* Process.call(pid, (get: Process.ReplyTo<number>) => ({ get }))
 * })
 * ```
 *
 * @param message - makes the message from the place the answer goes to
 * @param options - `timeout`: how long to wait, default 5 seconds; `"Infinity"` for as long as the process lives
 * @returns the answer, or a {@link CallError} when time is up or the process ends before it has answered
 */
export const call = <M, A>(
  pid: Pid<M>,
  message: (replyTo: ReplyTo<A>) => M,
  options?: { readonly timeout?: Duration.Input | undefined }
): Effect.Effect<A, CallError> =>
  Effect.callback<A, CallError>((resume) => {
    const process = fromPid(pid)
    const { timers } = process.system
    const { timeout: limit = "5 seconds" } = options ?? {}
    const timeout = duration("timeout", limit, { unlimited: true })
    let settled = false
    let timer: Timer | undefined
    const settle = (outcome: Effect.Effect<A, CallError> | undefined) => {
      if (settled) return
      settled = true
      if (timer !== undefined) timers.cancel(timer)
      process.unwatch(watcher)
      if (outcome !== undefined) resume(outcome)
    }
    const watcher: internal.Watcher = {
      ended: (_, reason) =>
        settle(Effect.fail(new CallError({ code: "DOWN", message: `${pid.label} ended before it answered`, reason })))
    }
    const request = message({ "~effect-channels/Process/ReplyTo": (value) => settle(Effect.succeed(value)) })
    if (timeout !== Infinity) {
      timer = timers.after(timeout, () =>
        settle(Effect.fail(
          new CallError({ code: "TIMEOUT", message: `${pid.label} did not answer in ${timeout} ms` })
        )))
    }
    process.watch(watcher, watcher)
    if (!process.push(request) && process.status !== "ending") {
      settle(Effect.fail(new CallError({ code: "FULL", message: `the mailbox of ${pid.label} is full` })))
    }
    return Effect.sync(() => settle(undefined))
  })

/** The process that this effect runs in. Its `Pid` cannot be sent to; `init` is given one that can. */
export const self: Effect.Effect<Pid, never, Self> = Effect.map(internal.Self, (process) => toPid(process))

/**
 * Watches a process: when it ends, or if it has ended already, this process gets a {@link Down} in its mailbox, handled by
 * `handleDown`. Watching twice gives two.
 */
export const monitor = (pid: Pid): Effect.Effect<Monitor, never, Self> =>
  internal.Self.useSync((owner) => {
    const monitor = new internal.Monitor(owner, fromPid(pid))
    monitor.start()
    return erase<Monitor>(monitor)
  })

/**
 * Stops watching; false when the `Down` is in the mailbox already, where it is still handled, or when watching was stopped
 * before.
 */
export const demonitor = (ref: Monitor): Effect.Effect<boolean> =>
  Effect.sync(() => ref instanceof internal.Monitor && ref.stop())

/**
 * Ties this process and another together: when one ends with anything but `Normal`, the other ends with the same reason,
 * unless it traps exits (`handleExit`). When the other has ended already, this one is told at once. Linking twice is
 * linking once.
 *
 * The model is https://www.erlang.org/doc/system/ref_man_processes.html#links.
 */
export const link = (pid: Pid): Effect.Effect<void, never, Self> =>
  internal.Self.useSync((owner) => new internal.Link(owner, fromPid(pid)).start())

/** Undoes {@link link}, whichever of the two has made it. */
export const unlink = (pid: Pid): Effect.Effect<void, never, Self> =>
  internal.Self.useSync((owner) => new internal.Link(owner, fromPid(pid)).stop())

/**
 * Sends an exit signal to a process. `Shutdown` and `Crash` interrupt what it is doing and end it, `terminate` included;
 * a process that traps exits gets a message instead. `Normal` is ignored unless trapped. `Killed` ends it at once.
 */
export const exit = (pid: Pid, reason: ExitReason): Effect.Effect<void> =>
  Effect.sync(() => fromPid(pid).signal(reason))

/**
 * Ends this process once the message in hand is handled, or at once when there is none (from a fiber that a handler has
 * forked). Of several reasons the first counts.
 */
export const stop = (reason: ExitReason = normal): Effect.Effect<void, never, Self> =>
  internal.Self.useSync((process) => process.stop(reason))

/** Waits until a process has ended, from anywhere, and tells why. */
export const awaitExit = (pid: Pid): Effect.Effect<ExitReason> =>
  Effect.callback<ExitReason>((resume) => {
    const process = fromPid(pid)
    const watcher: internal.Watcher = { ended: (_, reason) => resume(Effect.succeed(reason)) }
    process.watch(watcher, watcher)
    return Effect.sync(() => void process.unwatch(watcher))
  })

/** True until the process has ended; while `terminate` runs it is alive. */
export const alive = (pid: Pid): Effect.Effect<boolean> => Effect.sync(() => pid.alive)

/** A look at a process; see {@link info}. */
export interface Info {
  readonly pid: Pid
  readonly label: string
  /**
   * `idle`: waits for a message. `ready`: has one and waits for its turn. `running`: handles one, or `init` is at work.
   * `ending`: is interrupted or terminates. `ended`.
   */
  readonly status: internal.Status
  /** Messages that wait. */
  readonly mailboxLength: number
  /** Messages handled since the start. */
  readonly messageCount: number
  /** Processes it watches. */
  readonly monitors: number
  /** Who is told of its end but for links: monitors, calls in flight, `awaitExit`, subscriptions. */
  readonly watchers: number
  readonly links: number
  /** Messages of `sendAfter` that are due to it. */
  readonly timers: number
  /** Children, for a supervisor. */
  readonly children: number
}

/** Tells what a process is doing. */
export const info = (pid: Pid): Effect.Effect<Info> =>
  Effect.sync(() => {
    const process = fromPid(pid)
    let monitors = 0
    let watchers = 0
    let links = 0
    let timers = 0
    for (const watcher of process.watchers) {
      if (watcher instanceof internal.Link) links++
      else if (watcher instanceof TimerRefImpl) timers++
      else if (watcher instanceof internal.Monitor && watcher.owner === process) monitors++
      else watchers += "count" in watcher ? watcher.count ?? 1 : 1
    }
    return {
      pid,
      label: process.label,
      status: process.status,
      mailboxLength: process.mailboxLength,
      messageCount: process.handled,
      monitors,
      watchers,
      links,
      timers,
      children: process.behaviour.children?.size ?? 0
    }
  })

/** All processes of this node, each supervisor followed by what it has started. */
export const list: Effect.Effect<ReadonlyArray<Pid>, never, System> = System.useSync((system) => {
  const pids: Array<Pid> = []
  const visit = (processes: ReadonlySet<internal.Process>) => {
    for (const process of processes) {
      pids.push(toPid(process))
      if (process.behaviour.children !== undefined) visit(process.behaviour.children)
    }
  }
  visit(system.children)
  return pids
})

/** How much there is on this node: for metrics, and for tests that all has settled. */
export const stats: Effect.Effect<{ readonly processes: number; readonly timers: number }, never, System> = Effect
  .flatMap(
    list,
    (pids) => System.useSync((system) => ({ processes: pids.length, timers: system.timers.size }))
  )

/**
 * Ends processes: at the same time, and only those that have started others after these. Each has its shutdown time. Those
 * that are started meanwhile are ended too, and the `spared` are not.
 *
 * @internal
 */
export const shutdownChildren = (
  children: ReadonlySet<internal.Process>,
  spared: ReadonlySet<internal.Process> = new Set()
): Effect.Effect<void> => {
  let wave: ReadonlyArray<internal.Process> = []
  return Effect.whileLoop({
    while: () => (wave = youngest([...children].filter((child) => !spared.has(child)))).length > 0,
    body: () => Effect.forEach(wave, (child) => shutdownChild(child), { concurrency: "unbounded", discard: true }),
    step: () => {}
  })
}

/** The processes of the last generation: those that have the most starters above them, the youngest first. */
const youngest = (processes: ReadonlyArray<internal.Process>): ReadonlyArray<internal.Process> => {
  const generations = new Map<internal.Process, number>()
  let last = 0
  for (const process of processes) {
    const line: Array<internal.Process> = []
    let known = 0
    for (let next: internal.Process | undefined = process; next?.alive; next = next.starter) {
      known = generations.get(next) ?? 0
      if (known > 0) break
      line.push(next)
    }
    for (const next of line.reverse()) generations.set(next, ++known)
    last = Math.max(last, known)
  }
  return processes.filter((process) => generations.get(process) === last).reverse()
}

/**
 * Ends a process, trapping exits or not, and waits until it has: with `reason`, or `Killed` when its shutdown time is
 * over.
 *
 * @internal
 */
export const shutdownChild = (
  process: internal.Process,
  reason: ExitReason = internal.shutdown()
): Effect.Effect<void> =>
  Effect.suspend(() => {
    process.quit(reason)
    return Effect.asVoid(awaitExit(toPid(process)))
  })

const delayOf = (delay: Duration.Input): number => {
  const isPast = typeof delay === "number" ? delay < 0 : Duration.isDuration(delay) && Duration.isNegative(delay)
  return isPast ? 0 : duration("delay", delay, { min: 0, unlimited: true })
}

/**
 * Checks the options of a process.
 *
 * @internal
 */
export const parseOptions = <M>(options: Options<M> | undefined): internal.Options => {
  if (options === undefined) return internal.defaultOptions
  const { annotate, label, mailbox, shutdown } = options
  const { capacity, whenFull } = internal.defaultOptions
  if (label !== undefined) text("label", label)
  if (annotate !== undefined) callable("annotate", annotate)
  if (mailbox !== undefined) object("mailbox", mailbox, "{ capacity, whenFull }")
  return {
    shutdown: shutdown === undefined
      ? internal.defaultOptions.shutdown
      : duration("shutdown", shutdown, { min: 0, unlimited: true }),
    capacity: mailbox === undefined
      ? capacity
      : wholeNumber("mailbox: capacity", mailbox.capacity, { unit: "messages", unlimited: true }),
    whenFull: mailbox?.whenFull === undefined
      ? whenFull
      : oneOf("mailbox: whenFull", mailbox.whenFull, ["dropNewest", "dropOldest", "crash"])
  }
}

/** Shared by all that have nothing to say of themselves. */
const anybody: internal.Subject = { label: "process", annotate: undefined }

const subjectOf = <M>(options: Options<M> | undefined, starter: internal.Process | undefined): internal.Subject => {
  if (options === undefined && starter === undefined) return anybody
  const { label = anybody.label } = options ?? {}
  const annotate = options?.annotate as internal.Subject["annotate"]
  return starter === undefined ? { label, annotate } : { label, annotate, starter }
}

// A mailbox holds only what `Pid<M>` lets in, and the Context of a turn has what `R` asks for.
/** @internal */
export const toPid: <M = never>(process: internal.Process) => Pid<M> = erase
/** @internal */
export const fromPid: <M>(pid: Pid<M>) => internal.Process = erase
