import { type Cause, Context, Effect, LogLevel, References } from "effect"

/** At which level a line is logged; false for not at all. */
export type Level = LogLevel.Severity | false

/** Whether a line of this level would be logged, which is asked before one is put together. */
export const isLogged = (level: Level, context: Context.Context<never>): level is LogLevel.Severity =>
  level !== false && !LogLevel.isGreaterThan(Context.get(context, References.MinimumLogLevel), level)

/** Logs a line from where there is no Effect. */
export const report = (
  level: LogLevel.Severity,
  context: Context.Context<never>,
  message: string,
  annotations: Readonly<Record<string, unknown>>,
  cause?: Cause.Cause<unknown>
): void => {
  const line = cause === undefined ? Effect.logWithLevel(level)(message) : Effect.logWithLevel(level)(message, cause)
  Effect.runForkWith(context)(Effect.annotateLogs(line, annotations))
}
