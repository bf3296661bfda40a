/** Children for supervisors, which note what happens to them. */
import { Effect } from "effect"
import type * as Process from "../../src/Process.ts"
import * as Supervisor from "../../src/Supervisor.ts"
import type { Job } from "./node.ts"

export interface Options {
  readonly restart?: Supervisor.Restart | undefined
  readonly shutdown?: Process.Options["shutdown"]
  /** What to do at the start; default nothing. */
  readonly init?: Effect.Effect<unknown, string> | undefined
  /** What to do at the end, after noting it; default nothing. */
  readonly terminate?: Effect.Effect<unknown> | undefined
}

export class Workers {
  /** `+id` for each start, `-id` for each `terminate`. */
  readonly log: Array<string> = []
  private readonly pids = new Map<string, Process.Pid<Job>>()

  /** The last process that was started for a child. */
  pid(id: string): Process.Pid<Job> {
    const pid = this.pids.get(id)
    if (pid === undefined) throw new Error(`${id} was never started`)
    return pid
  }

  /** What was noted since this was asked the last time. */
  news(): ReadonlyArray<string> {
    return this.log.splice(0)
  }

  child(id: string, options: Options = {}) {
    const note = (text: string) => Effect.sync(() => void this.log.push(text))
    return Supervisor.child<Job, string, Process.Own | Process.System>({
      id,
      restart: options.restart,
      shutdown: options.shutdown,
      start: (self) =>
        Effect.andThen(
          options.init ?? Effect.void,
          Effect.sync(() => {
            this.log.push(`+${id}`)
            this.pids.set(id, self)
            return {
              handle: (job: Job) => job,
              terminate: () => Effect.andThen(note(`-${id}`), options.terminate ?? Effect.void)
            }
          })
        )
    })
  }

  children(...ids: ReadonlyArray<string>) {
    return ids.map((id) => this.child(id))
  }
}
