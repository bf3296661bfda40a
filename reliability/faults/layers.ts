/** The Layer of an application cannot be built. */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:net"
import { fileURLToPath } from "node:url"
import { freePort } from "../../scripts/freePort.ts"
import { promise } from "../promises.ts"

const chat = fileURLToPath(new URL("../../examples/chat/main.ts", import.meta.url))
const flags = ["--conditions=effect-channels-source", "--disable-warning=ExperimentalWarning"]

/** Runs the chat, which should end by itself. */
const run = async (env: Readonly<Record<string, string>>) => {
  const child = spawn(process.execPath, [...flags, chat], { env: { ...process.env, ...env } })
  let output = ""
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => output += String(chunk))
  const late = setTimeout(() => child.kill("SIGKILL"), 15_000)
  const [code] = await once(child, "close")
  clearTimeout(late)
  return { code, output }
}

export const layers = async (): Promise<void> => {
  const taken = createServer().listen(0)
  await once(taken, "listening")
  const address = taken.address()
  const port = typeof address === "object" && address !== null ? String(address.port) : ""
  const free = String(await freePort("127.0.0.1"))
  const faults = [
    ["a port that is taken", { PORT: port }, "EADDRINUSE"],
    ["a port that is none", { PORT: "many" }, "PORT"],
    ["a database that cannot be opened", { PORT: free, CHAT_DATABASE: "/nowhere/chat.sqlite" }, "CHAT_DATABASE"],
    ["a secret that is too short", { PORT: free, SECRET_KEY_BASE: "short" }, "secretKeyBase"]
  ] as const
  for (const [what, env, named] of faults) {
    const { code, output } = await run(env)
    const line = output.split("\n").find((line) => line.includes(named))
    promise(
      `${what}: the program ends with 1 and names it`,
      code === 1 && line !== undefined,
      line?.trim() ?? { code, output }
    )
  }
  taken.close()
}
