/** The engine of PubSub is away when the nodes start, and again later; or it is there and does not do all that it should. */
import { Engine, isMissing, type Kind } from "../engines.ts"
import { Pair } from "../pair.ts"
import { promise, say } from "../promises.ts"
import { natsHealth } from "./natsHealth.ts"
import { redisHealth } from "./redisHealth.ts"

const away = async (kind: Kind): Promise<void> => {
  if (isMissing(kind)) return say(`skipped: there is no ${kind}-server on PATH`)
  say(`${kind}: it is away when two nodes start, comes, is killed, and comes and goes again`)
  const engine = await Engine.reserve(kind)
  const env = { [kind.toUpperCase()]: engine.url }
  const pair = await Pair.start(env, env)
  const began = performance.now()
  const joined = await pair.joined(10)
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  promise("  nodes start without it, and clients join", joined, `${seconds} s`)
  promise("  without it those of one node hear each other", await pair.shout(2))
  promise("  without it the nodes are not ready", await pair.isUnready())
  for (const when of ["started", "started again"]) {
    await engine.start()
    promise(`  ${when}, it is found`, await pair.is("connected"))
    promise(`  ${when}, all nodes hear each other`, await pair.isWhole() && await pair.isReady())
    await engine.kill()
    promise("  killed, it is missed", await pair.is("reconnecting"))
    promise("  killed, those of one node hear each other", await pair.shout(2))
  }
  await pair.end()
  await engine.end()
}

export const engine = async (): Promise<void> => {
  await away("redis")
  await away("nats")
  await redisHealth()
  await natsHealth()
}
