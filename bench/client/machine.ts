/** What Linux says of processes in /proc; elsewhere nothing, and the figures that need it are absent. */
import { readFileSync } from "node:fs"

const read = (path: string): string | undefined => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return undefined
  }
}

/** Of the kernel's clock, as all of Linux's architectures show it to programs. */
const ticksPerSecond = 100

const sum = (numbers: ReadonlyArray<string>) => numbers.reduce((total, number) => total + Number(number), 0)

/** Seconds of CPU that a process has used. */
const cpuOf = (pid: number): number | undefined => {
  const stat = read(`/proc/${pid}/stat`)
  // What follows the command's name, which may hold spaces itself.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ")
  return fields && sum(fields.slice(11, 13)) / ticksPerSecond
}

/** Seconds of CPU that all processes together have used, and what the host has withheld. */
const cpuOfAll = (): number | undefined => {
  const [, user, nice, system, , , irq, softirq, steal] = read("/proc/stat")?.split("\n")[0]?.split(/ +/) ?? []
  if (steal === undefined) return undefined
  return sum([user, nice, system, irq, softirq, steal].map((field) => field ?? "0")) / ticksPerSecond
}

/** Resident memory in KB. */
export const memoryOf = (pid: number): number | undefined => {
  const resident = read(`/proc/${pid}/status`)?.match(/^VmRSS:\s+(\d+)/m)?.[1]
  return resident === undefined ? undefined : Number(resident)
}

/** How many files and connections this process may have open. */
export const maxOpenFiles = (): number => {
  const hard = read("/proc/self/limits")?.match(/^Max open files\s+\S+\s+(\d+)/m)?.[1]
  return hard === undefined ? Infinity : Number(hard)
}

/** The cores that this process may run on. */
export const cores = (): ReadonlyArray<number> => {
  const list = read("/proc/self/status")?.match(/^Cpus_allowed_list:\s+(\S+)/m)?.[1] ?? ""
  return list.split(",").filter((range) => range !== "").flatMap((range) => {
    const [first = 0, last = first] = range.split("-").map(Number)
    return Array.from({ length: last - first + 1 }, (_, n) => first + n)
  })
}

/** What the server, this process and all others use of a core from now on. */
export class Stopwatch {
  private readonly server: number | undefined
  private readonly began = this.now()

  constructor(server: number | undefined) {
    this.server = server
    this.began = this.now()
  }

  private now() {
    const { system, user } = process.cpuUsage()
    return {
      time: performance.now() / 1000,
      server: this.server === undefined ? undefined : cpuOf(this.server),
      client: (system + user) / 1_000_000,
      all: cpuOfAll()
    }
  }

  read() {
    const { began } = this
    const ended = this.now()
    const used = (what: "server" | "client" | "all") => {
      const [from, to] = [began[what], ended[what]]
      return from === undefined || to === undefined ? undefined : to - from
    }
    const seconds = ended.time - began.time
    const [server, client, all] = [used("server"), used("client"), used("all")]
    const percent = (cpu: number | undefined) => cpu === undefined ? undefined : Math.round(100 * cpu / seconds)
    return {
      seconds,
      serverCpu: server,
      server_cpu_pct: percent(server),
      client_cpu_pct: percent(client),
      other_cpu_pct: all === undefined || server === undefined || client === undefined
        ? undefined
        : Math.max(percent(all - server - client) ?? 0, 0)
    }
  }
}
