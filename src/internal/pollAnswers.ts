import type { Socket } from "node:net"
import { Backlog, type Backlogs } from "./backlog.ts"
import { behind } from "./outbox.ts"
import type { Runtime } from "./socket.ts"

/** Answers to polls that are on their way, each over an HTTP connection. A client that does not read them is cut off. */
export class Answers {
  private readonly runtime: Runtime
  private readonly backlogs: Backlogs

  /** @param stall - milliseconds in which a client takes some of an answer */
  constructor(runtime: Runtime, stall: number) {
    this.runtime = runtime
    this.backlogs = {
      limits: { free: behind, stall, hard: Infinity, total: Infinity },
      timers: runtime.system.timers,
      bytes: 0
    }
  }

  /** Watches a connection over which these messages are about to be sent, until they are. Small ones cost nothing. */
  watch(socket: Socket, messages: ReadonlyArray<string>): void {
    let length = 0
    for (const message of messages) length += message.length
    if (length <= behind) return
    const backlog: Backlog = new Backlog(this.backlogs, {
      socket,
      get waiting() {
        return socket.destroyed ? 0 : socket.writableLength
      },
      caughtUp: () => backlog.end(),
      giveUp: () => {
        backlog.end()
        this.cut(socket)
      }
    })
  }

  private cut(socket: Socket): void {
    const { complaints, meter, name } = this.runtime
    meter.transport("longpoll").slowClients++
    meter.transport("longpoll").limited.stalled++
    complaints.say(
      "Warn",
      "a long-poll client has taken nothing of an answer for stallTimeout: its HTTP connection is cut; look at its network",
      {
        socket: name,
        transport: "longpoll",
        waiting: socket.writableLength,
        stallTimeout: this.backlogs.limits.stall
      }
    )
    socket.destroy()
  }
}
