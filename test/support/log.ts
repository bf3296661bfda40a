/** What the nodes of a test log. */
import { Cause, Effect, Logger, References } from "effect"

export interface Line {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
}

/** The lines, and a way to wait for one. */
export class Log {
  readonly lines: Array<Line> = []
  private readonly waiting = new Set<() => void>()

  readonly layer = Logger.layer([
    Logger.make(({ cause, fiber, logLevel, message }) => {
      const causes = cause.reasons.length > 0 ? [Cause.pretty(cause)] : []
      const text = [...[message].flat().map((part) => Cause.isCause(part) ? "" : String(part)), ...causes].join(" ")
      this.lines.push({ level: logLevel, text, annotations: fiber.getRef(References.CurrentLogAnnotations) })
      for (const look of this.waiting) look()
    })
  ])

  of(text: string): ReadonlyArray<Line> {
    return this.lines.filter((line) => line.text.includes(text))
  }

  /** Waits for so many lines. */
  until(text: string, count: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      const look = () => {
        if (this.of(text).length >= count) resume(Effect.void)
      }
      this.waiting.add(look)
      look()
      return Effect.sync(() => void this.waiting.delete(look))
    })
  }
}
