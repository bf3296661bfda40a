import { Cause, Context, Effect, Exit, Fiber, Scope } from "effect"
import { attempt, disown, effectOf, exitOf } from "./eager.ts"
import { crash, type ExitReason, isGraceful, killed, shutdown, toExit } from "./exitReason.ts"
import { Mailbox, nothing } from "./mailbox.ts"
import type { Turn } from "./runQueue.ts"
import { ExitSignal, type Peer, Signal, type SignalHandlers, type Watcher } from "./signals.ts"
import * as system from "./system.ts"
import type { Timer } from "./timers.ts"

export * from "./exitReason.ts"
export * from "./signals.ts"

/** What a process does; the erased form of `Process.Behaviour`. */
export interface Behaviour extends SignalHandlers {
  readonly handle: (message: unknown) => Effect.Effect<unknown, unknown>
  readonly terminate?: ((reason: ExitReason) => Effect.Effect<unknown, unknown>) | undefined
  /** Called with how the handling of a message went; what it returns counts. For outcomes that need no fiber of their own. */
  readonly complete?: ((message: unknown, exit: Exit.Exit<unknown, unknown>) => Exit.Exit<unknown, unknown>) | undefined
  /** Called once, after terminate and the finalizers, on every ending. */
  readonly ended?: ((reason: ExitReason) => void) | undefined
  /** The processes this one has started. Those that are left when it has ended are shut down. */
  readonly children?: ReadonlySet<Process> | undefined
}

/** Who a process is in logs. */
export interface Subject {
  readonly label: string
  /** Fields that the crash line has about the process, besides its label. */
  readonly about?: Readonly<Record<string, unknown>> | undefined
  /** What the crash line says about the message that was being handled. */
  readonly annotate?: ((message: unknown) => Record<string, unknown>) | undefined
  /** The process that has started this one, which is shut down after it. */
  readonly starter?: Process | undefined
  /** Replaces the subject when the process has ended, so that no label has to be made for each that ends. */
  readonly former?: Subject | undefined
}

/** What many processes can share. */
export interface Options {
  /** Milliseconds that `terminate` and the finalizers may take. */
  readonly shutdown: number
  readonly capacity: number
  readonly whenFull: "dropNewest" | "dropOldest" | "crash"
}

export const defaultOptions: Options = { shutdown: 5000, capacity: Infinity, whenFull: "dropNewest" }

/** Who started a process: another one, or the node itself. */
export interface Parent {
  readonly children: Set<Process>
  readonly childEnded?: ((child: Process, reason: ExitReason) => void) | undefined
}

/** A node. */
export class System extends system.System<Process> implements Parent {}

/** The process that runs on this fiber. */
export class Self extends Context.Service<Self, Process>()("effect-channels/Process/Self") {}

const Idle = 0
const Ready = 1
const Running = 2
/** Running, but told to end: what it is doing is interrupted. */
const Interrupted = 3
const Ending = 4
const Ended = 5
const statusNames = ["idle", "ready", "running", "ending", "ending", "ended"] as const
export type Status = typeof statusNames[number]

const isSignal = (message: unknown): boolean => message instanceof Signal

const noScopeState: Scope.State.Empty = { _tag: "Empty" }
const notStarted: Behaviour = { handle: () => Effect.void }
const messagesPerTurn = 64

const isHandler = (value: unknown): boolean => value === undefined || typeof value === "function"

/** Checks the behaviour, because the application provides it: without one the process could not even end. */
const isBehaviour = (value: unknown): value is Behaviour => {
  if (typeof value !== "object" || value === null) return false
  try {
    const { handle, handleDown, handleExit, terminate } = value as Partial<Behaviour>
    return typeof handle === "function" && isHandler(handleDown) && isHandler(handleExit) && isHandler(terminate)
  } catch {
    return false
  }
}

/** Not part of `run`, which would make room for this closure with each message. */
const noEffect = <A, E>(returned: Effect.Effect<A, E>): Effect.Effect<A, E> => attempt(() => effectOf(returned))

const checked = <E>(exit: Exit.Exit<Behaviour, E>): Exit.Exit<Behaviour, E> =>
  exit._tag === "Failure" || isBehaviour(exit.value) ? exit : Exit.die(
    new TypeError("what starts a process must succeed with a behaviour: { handle }, whose handlers are functions")
  )

let nextId = 0

/**
 * A process: a mailbox and, only while it works, a fiber. It is also the Scope of what its handlers acquire, so that an
 * idle process is one plain object.
 */
export class Process extends Mailbox implements Peer, Scope.Closeable, Turn {
  declare readonly "~effect-channels/Process": "~effect-channels/Process"
  declare readonly "~effect/Scope": "~effect/Scope"
  declare readonly "~effect/Scope/Closeable": "~effect/Scope/Closeable"
  declare readonly strategy: "sequential"
  declare readonly parent: undefined

  state: Scope.State.Open | Scope.State.Closed | Scope.State.Empty = noScopeState
  readonly id: number
  readonly system: System
  readonly options: Options
  private subject: Subject
  readonly context: Context.Context<never>
  behaviour: Behaviour = notStarted
  reason: ExitReason | undefined = undefined
  handled = 0
  private supervisor: Parent
  // Mostly there is one, which needs no Map.
  private watchKey: object | undefined = undefined
  private watcher: Watcher | undefined = undefined
  private moreWatchers: Map<object, Watcher> | undefined = undefined
  private phase = Running
  private fiber: Fiber.Fiber<unknown, unknown> | undefined = undefined
  private turn: Context.Context<never> | undefined = undefined
  private ending: ExitReason | undefined = undefined
  private deadline: Timer | undefined = undefined

  constructor(
    system: System,
    supervisor: Parent,
    context: Context.Context<never>,
    subject: Subject,
    options: Options = defaultOptions
  ) {
    super()
    this.id = ++nextId
    this.system = system
    this.supervisor = supervisor
    this.context = system.adopt(context)
    this.subject = subject
    this.options = options
    supervisor.children.add(this)
  }

  get label(): string {
    return this.subject.label
  }

  get starter(): Process | undefined {
    return this.subject.starter
  }

  get status(): Status {
    return statusNames[this.phase] ?? "ended"
  }

  get alive(): boolean {
    return this.phase !== Ended
  }

  /** The fiber that handles the message in hand, where that takes more than a moment. */
  get suspended(): Fiber.Fiber<unknown, unknown> | undefined {
    return this.fiber
  }

  /** Everybody to be told of the end: monitors on both sides, links, timers, calls, in the order in which they came. */
  get watchers(): ReadonlyArray<Watcher> {
    return [...this.watcher === undefined ? [] : [this.watcher], ...this.moreWatchers?.values() ?? []]
  }

  /** Under a key of the watcher's choice; a second one under the same key takes the place of the first. */
  watch(key: object, watcher: Watcher): void {
    if (this.reason !== undefined) watcher.ended(this, this.reason)
    else if (this.watchKey === key || (this.watchKey ?? this.moreWatchers) === undefined) {
      this.watchKey = key
      this.watcher = watcher
    } else (this.moreWatchers ??= new Map()).set(key, watcher)
  }

  /** The watcher under a key, while the process lives. */
  watcherOf(key: object): Watcher | undefined {
    return this.watchKey === key ? this.watcher : this.moreWatchers?.get(key)
  }

  unwatch(key: object): boolean {
    if (this.watchKey === key) {
      this.watchKey = undefined
      this.watcher = undefined
      return true
    }
    const known = this.moreWatchers?.delete(key) ?? false
    if (this.moreWatchers?.size === 0) this.moreWatchers = undefined
    return known
  }

  /** Starts where there is nothing to do before the first message. */
  begin(behaviour: Behaviour): void {
    this.behaviour = behaviour
    if (this.ending === undefined) this.rest()
    else this.end(this.ending)
  }

  /**
   * Runs `init` as the first turn. `started` is told once: that there is a process now, before its first message, or that
   * there is none, after all it had acquired is released.
   */
  start<E>(init: Effect.Effect<Behaviour, E>, started: (exit: Exit.Exit<void, E>) => void): void {
    let failure: Exit.Exit<never, E> = Exit.interrupt()
    const watcher = { ended: () => started(failure) }
    const done = (outcome: Exit.Exit<Behaviour, E>) => {
      const exit = checked(outcome)
      if (this.phase === Ended) return exit._tag === "Success" ? this.abandon(exit.value) : undefined
      if (exit._tag === "Success") {
        this.unwatch(watcher)
        this.begin(exit.value)
        return started(Exit.void)
      }
      // A failed start is not logged: the caller gets the cause.
      failure = Exit.failCause(exit.cause)
      this.end(this.interruptedBy(exit.cause) ?? crash(exit.cause))
    }
    const exit = exitOf(init)
    if (exit?._tag === "Success" && isBehaviour(exit.value)) return done(exit)
    this.watch(watcher, watcher)
    this.work(this.fork(init), done)
  }

  /** Puts a message into the mailbox; false when it was not taken. */
  push(message: unknown): boolean {
    if (this.phase > Running) return false
    if (this.mailboxLength >= this.options.capacity && !(message instanceof Signal)) return this.full(message)
    this.put(message)
    if (this.phase === Idle) {
      this.phase = Ready
      this.system.ready(this)
    }
    return true
  }

  /** Drops the message that has waited longest of a kind, and returns it; `nothing` if there is none. */
  dropOldest(isOfKind: (message: unknown) => boolean): unknown {
    return this.phase > Running ? nothing : this.remove((waiting) => !isOfKind(waiting))
  }

  private full(message: unknown): boolean {
    if (this.options.whenFull === "dropOldest") return this.replace(message, isSignal) !== nothing
    if (this.options.whenFull === "crash") {
      const cause = Cause.die(new Error(`mailbox of ${this.label} is full (${this.options.capacity})`))
      this.log(cause, this.about(message))
      this.quit(crash(cause))
    }
    return false
  }

  /** An exit signal from outside, as of `Process.exit`. */
  signal(reason: ExitReason): void {
    if (reason._tag === "Killed") this.kill()
    else this.exited(undefined, reason)
  }

  linkEnded(linked: Peer, reason: ExitReason): void {
    // One after another: a chain of links may be longer than the stack is deep.
    this.system.later(() => {
      if (this.unwatch(linked)) this.exited(linked, reason)
    })
  }

  private exited(from: Peer | undefined, reason: ExitReason): void {
    if (this.behaviour.handleExit !== undefined) this.push(new ExitSignal(from, reason))
    else if (reason._tag !== "Normal") this.quit(reason)
  }

  /** Ends with `reason` once the message in hand is handled. */
  stop(reason: ExitReason): void {
    if (this.phase < Running) this.end(reason)
    else this.ending ??= reason
  }

  /** Ends with `reason`, trapping exits or not: what it is doing is interrupted, and it has its shutdown time. */
  quit(reason: ExitReason): void {
    if (this.phase < Running) return this.end(reason)
    if (this.phase !== Running) return
    this.phase = Interrupted
    this.ending ??= reason
    // Without a fiber it is in the middle of a synchronous step: see `wait`.
    if (this.fiber === undefined) return
    this.fiber.interruptUnsafe()
    this.expire()
  }

  /** Ends at once: no terminate, no finalizers, whatever is running is interrupted and not waited for. */
  kill(): void {
    if (this.phase === Ended) return
    this.phase = Ended
    const fiber = this.fiber
    this.fiber = undefined
    fiber?.interruptUnsafe()
    this.finish(killed)
  }

  /** From here on the process has its shutdown time, then it is killed. */
  private expire(): void {
    if (this.phase === Ended || this.deadline !== undefined || this.options.shutdown === Infinity) return
    this.deadline = this.system.timers.after(this.options.shutdown, () => this.kill())
  }

  /** A turn: handles what is in the mailbox, at most `messagesPerTurn` before others get theirs. Returns how many. */
  run(): number {
    if (this.phase !== Ready) return 0
    this.phase = Running
    let count = 0
    while (this.mailboxLength > 0 && count < messagesPerTurn) {
      const message = this.take()
      count++
      let effect: Effect.Effect<unknown, unknown>
      try {
        effect = message instanceof Signal ? message.handle(this.behaviour) : this.behaviour.handle(message)
      } catch (defect) {
        effect = Exit.die(defect)
      }
      // Most handlers of the library itself return an Exit and need no fiber at all.
      let exit = exitOf(effect)
      if (exit === undefined) {
        const fiber = this.fork(Effect.isEffect(effect) ? effect : noEffect(effect))
        exit = fiber.pollUnsafe()
        if (exit === undefined) {
          this.suspend(fiber, message)
          return count
        }
      }
      if (!this.settle(message, exit)) return count
    }
    this.rest()
    return count
  }

  /** Not part of `run`, which would make room for this closure with each message. */
  private suspend(fiber: Fiber.Fiber<unknown, unknown>, message: unknown): void {
    this.wait(fiber, (exit) => {
      if (this.settle(message, exit)) this.rest()
    })
  }

  /** A turn of this process has thrown, which only a fault of this library can bring about: nobody else shall suffer. */
  failed(defect: unknown): void {
    Effect.runForkWith(this.context)(
      Effect.andThen(
        Effect.logError("process crashed", Cause.die(defect)).pipe(Effect.annotateLogs({ process: this.label })),
        Effect.sync(() => this.kill())
      )
    )
  }

  /** After a message: true when there may be a next one. */
  private settle(message: unknown, outcome: Exit.Exit<unknown, unknown>): boolean {
    if (this.phase === Ended) return false
    this.handled++
    const exit = this.behaviour.complete === undefined ? outcome : this.complete(message, outcome)
    if (exit._tag === "Failure") {
      const interruption = this.interruptedBy(exit.cause)
      if (interruption === undefined) this.log(exit.cause, this.about(message))
      this.end(interruption ?? crash(exit.cause))
    } else if (this.ending !== undefined) this.end(this.ending)
    return this.phase <= Running
  }

  private complete(message: unknown, exit: Exit.Exit<unknown, unknown>): Exit.Exit<unknown, unknown> {
    try {
      return this.behaviour.complete?.(message, exit) ?? exit
    } catch (defect) {
      return Exit.die(defect)
    }
  }

  /** The reason to end with, when that is all there is to a failure. */
  private interruptedBy(cause: Cause.Cause<unknown>): ExitReason | undefined {
    return Cause.hasInterruptsOnly(cause) ? this.ending : undefined
  }

  /** Between two messages, with nothing at work: waits for the next one, or for its turn. */
  private rest(): void {
    this.turn = undefined
    if (this.mailboxLength === 0) this.phase = Idle
    else {
      this.compact()
      this.phase = Ready
      this.system.ready(this)
    }
  }

  private end(reason: ExitReason): void {
    if (this.phase >= Ending) return
    this.phase = Ending
    this.clear()
    if (this.behaviour.terminate === undefined && this.state._tag === "Empty") return this.finish(reason)
    const cleanup = Effect.onExit(
      Effect.suspend(() =>
        this.behaviour.terminate === undefined ? Effect.void : effectOf(this.behaviour.terminate(reason))
      ),
      () => this.phase === Ended ? Effect.void : Scope.close(this, toExit(reason))
    )
    this.work(this.fork(cleanup), (exit) => {
      if (this.phase === Ended) return
      if (exit._tag === "Failure") this.log(exit.cause, this.about(undefined))
      this.finish(exit._tag === "Failure" && isGraceful(reason) ? crash(exit.cause) : reason)
    })
  }

  /** Calls `done` when the fiber is; the process may have been killed meanwhile. */
  private work<A, E>(fiber: Fiber.Fiber<A, E>, done: (exit: Exit.Exit<A, E>) => void): void {
    const exit = fiber.pollUnsafe()
    if (exit === undefined) this.wait(fiber, done)
    else done(exit)
  }

  private wait<A, E>(fiber: Fiber.Fiber<A, E>, done: (exit: Exit.Exit<A, E>) => void): void {
    this.fiber = fiber
    fiber.addObserver((exit) => {
      this.fiber = undefined
      done(exit)
    })
    // What has told it to end meanwhile did so from within the fiber, which was not known yet.
    if (this.phase === Interrupted || this.phase === Ended) fiber.interruptUnsafe()
    if (this.phase !== Running) this.expire()
  }

  private finish(reason: ExitReason): void {
    this.phase = Ended
    this.reason = reason
    this.clear()
    this.turn = undefined
    const { behaviour, state, supervisor, watchers } = this
    this.behaviour = notStarted
    // What it was is let go of, whoever keeps the process.
    this.subject = this.subject.former ?? { label: this.label }
    this.watchKey = undefined
    this.watcher = undefined
    this.moreWatchers = undefined
    if (state._tag !== "Closed") {
      this.state = { _tag: "Closed", exit: toExit(reason) }
      if (state._tag === "Open") interruptFibers(state)
    }
    supervisor.children.delete(this)
    if (this.deadline !== undefined) this.system.timers.cancel(this.deadline)
    this.abandon(behaviour)
    if (behaviour.ended !== undefined) this.guard(() => behaviour.ended?.(reason))
    for (const watcher of watchers) this.guard(() => watcher.ended(this, reason))
    if (supervisor.childEnded !== undefined) this.guard(() => supervisor.childEnded?.(this, reason))
  }

  /** The supervisor of these processes is no more: the node takes them over, to shut them down. */
  private abandon({ children }: Behaviour): void {
    if (children === undefined) return
    for (const child of [...children].reverse()) {
      // Its end may have come along a link from the one before.
      if (!child.alive) continue
      child.supervisor = this.system
      this.system.children.add(child)
      child.quit(shutdown("supervisor ended"))
    }
  }

  /** Whoever is told of the end must not keep the others from being told. */
  private guard(tell: () => void): void {
    try {
      tell()
    } catch (defect) {
      this.log(Cause.die(defect), undefined)
    }
  }

  private fork<A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(this.turn ??= this.turnContext())(effect)
  }

  /** The process's own Context, with the process as its `Self` and its Scope. Made per turn: it is not kept while idle. */
  private turnContext(): Context.Context<never> {
    return Context.addUnsafe(Context.addUnsafe(this.context, Self.key, this), Scope.Scope.key, this)
  }

  /** The process in which a process is started on `context`. */
  static starterIn<R>(context: Context.Context<R>): Process | undefined {
    return Context.getOrUndefined(context, Self)
  }

  /** The services that a process started on `context` gets: of a process that starts another, not `Self` and its Scope. */
  static inherited<R>(context: Context.Context<R>, starter: Process | undefined): Context.Context<R> {
    if (starter === undefined) return context
    // Mostly the Context is just that of the turn. The one below it is shared by all that the starter starts.
    const own = starter.turn === context ? starter.context : Context.omit(Self, Scope.Scope)(context)
    return own as Context.Context<R>
  }

  private log(cause: Cause.Cause<unknown>, about: Record<string, unknown> | undefined): void {
    Effect.runForkWith(this.context)(
      Effect.logError("process crashed", cause).pipe(Effect.annotateLogs({ process: this.label, ...about }))
    )
  }

  private about(message: unknown): Record<string, unknown> | undefined {
    const { about } = this.subject
    if (message instanceof Signal) return { ...about, ...message.about }
    try {
      const more = message === undefined ? undefined : this.subject.annotate?.(message)
      disown(more)
      return { ...about, ...more }
    } catch (defect) {
      return { annotate: defect }
    }
  }
}

Object.assign(Process.prototype, {
  "~effect-channels/Process": "~effect-channels/Process",
  "~effect/Scope": "~effect/Scope",
  "~effect/Scope/Closeable": "~effect/Scope/Closeable",
  strategy: "sequential",
  parent: undefined
})

/** Of the finalizers of a process that was killed only those run that interrupt a fiber: none outlives its process. */
const interruptFibers = (state: Scope.State.Open): void => {
  for (const key of [state.finalizerKey, ...state.finalizers?.keys() ?? []]) {
    if (Fiber.isFiber(key)) key.interruptUnsafe()
  }
}
