/** The disk of the chat is full: its process may not make any file larger than that. */
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { freePort } from "../../scripts/freePort.ts"
import { Client } from "../client.ts"
import { promise, until } from "../promises.ts"

const chat = fileURLToPath(new URL("../../examples/chat/main.ts", import.meta.url))
const flags = ["--conditions=effect-channels-source", "--disable-warning=ExperimentalWarning"]

/** Of 512 bytes: room for the tables, and some messages. */
const blocks = 1000

export const disk = async (): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "full-disk-"))
  const port = await freePort("127.0.0.1")
  const url = `http://localhost:${port}`
  const server = spawn("sh", ["-c", `ulimit -f ${blocks}; exec "$0" "$@"`, process.execPath, ...flags, chat], {
    env: { ...process.env, PORT: String(port), CHAT_DATABASE: join(folder, "chat.sqlite") },
    // A pipe has no size: a log file would be full as well.
    stdio: ["ignore", "pipe", "pipe"]
  })
  for (const stream of [server.stdout, server.stderr]) stream.resume()
  await until(() => fetch(`${url}/ready`).then(({ ok }) => ok, () => false), 15)
  const login = await fetch(`${url}/login`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "Ada" })
  })
  const { token } = await login.json() as { readonly token: string }
  let failures = 0
  let heard = 0
  const client = new Client("ada", () => port, {
    failed: () => void failures++,
    closed: () => void failures++,
    message: (_client, _topic, event) => void (event === "message:new" && heard++)
  }, { token })
  client.join("room:general")
  await until(() => client.isThere, 5)

  const say = (body: string) => client.push("room:general", "message:new", { body })
  let stored = 0
  let reply = await say("first")
  while (reply?.status === "ok" && stored++ < 10_000) reply = await say("x".repeat(2000))
  const tells = reply?.status === "error" && JSON.stringify(reply.response).includes("cannot be stored")
  promise("a message that cannot be stored is answered with an error", stored > 0 && tells, { stored, reply })
  const again = await say("x".repeat(2000))
  promise(
    "and so is the next; nothing is said to others that was not stored",
    again?.status === "error" && heard === stored,
    { stored, heard }
  )
  promise("the channel goes on", failures === 0 && client.isThere, { failures })
  const rooms = await fetch(`${url}/rooms`, { headers: { authorization: `Bearer ${token}` } })
  promise("and so does the rest of the chat", rooms.status === 200)
  client.go()
  server.kill("SIGTERM")
  promise(
    "it ends when it is told to",
    await until(() => server.exitCode !== null || server.signalCode !== null, 15),
    server.exitCode ?? server.signalCode
  )
  rmSync(folder, { recursive: true, force: true })
}
