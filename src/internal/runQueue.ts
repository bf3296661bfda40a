import type { Scheduler } from "effect"

/** Something that is ready to work for a moment. */
export interface Turn {
  /** Works and returns how many messages it has handled. */
  readonly run: () => number
  /** Told what `run` has thrown. Must not throw. */
  readonly failed: (defect: unknown) => void
}

/**
 * Messages that are handled in one task of the scheduler before sockets and timers of the platform get their turn: few, so
 * that clients which have been answered can go on while others still wait.
 */
const messagesPerTask = 256

/** Who is ready, in the order of becoming so. What becomes ready meanwhile joins the end. */
export class RunQueue {
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly turns: Array<Turn> = []
  private next = 0
  private last: Array<Turn> = []
  private idle: Turn | undefined = undefined
  private scheduled = false

  constructor(dispatcher: Scheduler.SchedulerDispatcher) {
    this.dispatcher = dispatcher
  }

  add(turn: Turn): void {
    this.turns.push(turn)
    if (!this.scheduled) this.schedule()
  }

  /** For what has its turn at the end of each task, however many messages there are. */
  addLast(turn: Turn): void {
    this.last.push(turn)
    if (!this.scheduled) this.schedule()
  }

  /** For one that has its turn after all others, once in each task. */
  whenIdle(turn: Turn): void {
    this.idle = turn
    if (!this.scheduled) this.schedule()
  }

  private schedule(): void {
    this.scheduled = true
    this.dispatcher.scheduleTask(this.drain, 0)
  }

  private readonly drain = (): void => {
    const { idle, last, turns } = this
    for (let left = messagesPerTask; left > 0 && this.next < turns.length;) {
      const turn = turns[this.next++]
      if (turn !== undefined) left -= run(turn)
    }
    if (last.length > 0) {
      this.last = []
      for (const turn of last) run(turn)
    }
    if (idle !== undefined) {
      this.idle = undefined
      run(idle)
    }
    if (this.next < turns.length) turns.splice(0, this.next)
    else turns.length = 0
    this.next = 0
    this.scheduled = false
    if (turns.length > 0 || this.last.length > 0 || this.idle !== undefined) this.schedule()
  }
}

const run = (turn: Turn): number => {
  try {
    return turn.run()
  } catch (defect) {
    turn.failed(defect)
    return 0
  }
}
