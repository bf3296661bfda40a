import { assert, describe, it } from "@effect/vitest"
import { Context, type Duration, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { TestClock } from "effect/testing"
import { createServer } from "node:http"
import * as Endpoint from "../../src/Endpoint.ts"
import * as PubSub from "../../src/PubSub.ts"

/** A node whose way to the others is as told. */
const serve = Effect.fnUntraced(function*(status: () => PubSub.Status, delay?: Duration.Input) {
  const adapter: PubSub.Adapter = {
    node: "test",
    broadcast: () => Effect.void,
    direct: () => Effect.void,
    joined: () => Effect.void,
    left: () => Effect.void,
    status: Effect.sync(status)
  }
  const Http = HttpRouter.serve(Endpoint.Readiness.route("/ready"), { disableLogger: true, disableListenLog: true })
  const app = Endpoint.Readiness.announce(delay).pipe(
    Layer.provide(Http),
    Layer.provide([Endpoint.Readiness.layer, PubSub.layerAdapter(() => Effect.succeed(adapter))]),
    Layer.provideMerge(
      Endpoint.layer(createServer, { port: 0, host: "127.0.0.1" })
    )
  )
  const scope = yield* Scope.make()
  const stop = Scope.close(scope, Exit.void)
  yield* Effect.addFinalizer(() => stop)
  const { address } = Context.get(yield* Layer.buildWithScope(app, scope), HttpServer.HttpServer)
  const url = `http://127.0.0.1:${"port" in address ? address.port : 0}/ready`
  const ask = Effect.promise(async () => {
    const response = await fetch(url, { headers: { connection: "close" } })
    return `${response.status} ${await response.text()}`
  })
  return { ask, stop, isGone: Effect.promise(() => fetch(url).then(() => false, () => true)) }
})

describe("readiness", () => {
  it.effect("follows the way to the other nodes", () =>
    Effect.gen(function*() {
      let status: PubSub.Status = "connected"
      const { ask } = yield* serve(() => status, 0)
      assert.strictEqual(yield* ask, "200 ready")
      status = "reconnecting"
      assert.strictEqual(yield* ask, "503 reconnecting")
      status = "degraded"
      assert.strictEqual(yield* ask, "503 degraded")
    }))

  it.effect("is over at once when the node stops, which takes requests for 5 seconds more", () =>
    Effect.gen(function*() {
      const { ask, isGone, stop } = yield* serve(() => "connected")
      const stopping = yield* Effect.forkChild(stop, { startImmediately: true })
      assert.strictEqual(yield* ask, "503 stopping")
      yield* TestClock.adjust("4999 millis")
      assert.strictEqual(yield* ask, "503 stopping")
      yield* TestClock.adjust("1 milli")
      yield* Fiber.join(stopping)
      assert.isTrue(yield* isGone)
    }))
})
