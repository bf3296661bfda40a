import { Cause, Exit, type Runtime } from "effect"

/** How a server of ours ends: to be told to stop is the one way in which it ends well. */
export const teardown: Runtime.Teardown = (exit, onExit) =>
  onExit(Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? 0 : 1)
