import type { Effect, Fiber } from "effect"
import { exitOf } from "./eager.ts"

/** Runs Effects one after another: at once as far as they go, and on a fiber where one has to wait. */
export class Lane {
  private readonly next: () => Effect.Effect<unknown> | undefined
  private readonly fork: (effect: Effect.Effect<unknown>) => Fiber.Fiber<unknown>
  private busy = false

  /** @param next - takes out the next Effect, if there is one */
  constructor(
    next: () => Effect.Effect<unknown> | undefined,
    fork: (effect: Effect.Effect<unknown>) => Fiber.Fiber<unknown>
  ) {
    this.next = next
    this.fork = fork
  }

  get isBusy(): boolean {
    return this.busy
  }

  /** There is something to do. */
  wake(): void {
    if (this.busy) return
    this.busy = true
    for (let work = this.next(); work !== undefined; work = this.next()) {
      if (exitOf(work) !== undefined) continue
      const fiber = this.fork(work)
      if (fiber.pollUnsafe() !== undefined) continue
      fiber.addObserver(() => {
        this.busy = false
        this.wake()
      })
      return
    }
    this.busy = false
  }
}
