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
const messagesPerTask = 512

/** Who is ready, in the order of becoming so. What becomes ready meanwhile joins the end. */
export class RunQueue {
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly turns: Array<Turn> = []
  private next = 0
  private scheduled = false

  constructor(dispatcher: Scheduler.SchedulerDispatcher) {
    this.dispatcher = dispatcher
  }

  add(turn: Turn): void {
    this.turns.push(turn)
    if (!this.scheduled) this.schedule()
  }

  private schedule(): void {
    this.scheduled = true
    this.dispatcher.scheduleTask(this.drain, 0)
  }

  private readonly drain = (): void => {
    const { turns } = this
    for (let left = messagesPerTask; left > 0 && this.next < turns.length;) {
      const turn = turns[this.next++]
      if (turn === undefined) continue
      try {
        left -= turn.run()
      } catch (defect) {
        turn.failed(defect)
      }
    }
    if (this.next < turns.length) {
      turns.splice(0, this.next)
      this.next = 0
      return this.schedule()
    }
    turns.length = 0
    this.next = 0
    this.scheduled = false
  }
}
