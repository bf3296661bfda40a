import { type Cause, Exit } from "effect"

/** Why a process ended; see `Process.ExitReason`. */
export type ExitReason =
  | { readonly _tag: "Normal" }
  | { readonly _tag: "Shutdown"; readonly detail?: unknown }
  | { readonly _tag: "Killed" }
  | { readonly _tag: "Crash"; readonly cause: Cause.Cause<unknown> }

export const normal: ExitReason = { _tag: "Normal" }
export const killed: ExitReason = { _tag: "Killed" }
export const shutdown = (detail?: unknown): ExitReason =>
  detail === undefined ? { _tag: "Shutdown" } : { _tag: "Shutdown", detail }
export const crash = (cause: Cause.Cause<unknown>): ExitReason => ({ _tag: "Crash", cause })

export const isGraceful = (reason: ExitReason): boolean => reason._tag === "Normal" || reason._tag === "Shutdown"

export const isExitReason = (value: unknown): value is ExitReason =>
  typeof value === "object" && value !== null && "_tag" in value &&
  (value._tag === "Normal" || value._tag === "Shutdown" || value._tag === "Killed" || value._tag === "Crash")

/** What finalizers of the process's Scope are told: a crash is a failure, every other ending a success with the reason. */
export const toExit = (reason: ExitReason): Exit.Exit<ExitReason, unknown> =>
  reason._tag === "Crash" ? Exit.failCause(reason.cause) : Exit.succeed(reason)

export const fromExit = (exit: Exit.Exit<unknown, unknown>): ExitReason => {
  if (exit._tag === "Failure") return crash(exit.cause)
  return isExitReason(exit.value) ? exit.value : normal
}
