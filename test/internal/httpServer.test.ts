import { assert, describe, it } from "@effect/vitest"
import type { IncomingMessage } from "node:http"
import { Handshakes } from "../../src/internal/httpServer.ts"

describe("handshakes", () => {
  const request = (url: string, method = "GET") => ({ url, method }) as IncomingMessage
  const head = Buffer.alloc(0)

  it("are taken by path, until the mount is gone", () => {
    const handshakes = new Handshakes()
    const taken: Array<string> = []
    const add = (path: `/${string}`, name: string) =>
      handshakes.add(path, (_request, _head, params) => void taken.push(`${name} ${JSON.stringify(params)}`))
    const removeA = add("/a/websocket", "a")
    add("/:b/other", "b")
    assert.isTrue(handshakes.take(request("/a/websocket?x=/b"), head))
    assert.isTrue(handshakes.take(request("/1/other"), head))
    assert.isFalse(handshakes.take(request("/a"), head))
    removeA()
    assert.isFalse(handshakes.take(request("/a/websocket"), head))
    assert.isTrue(handshakes.take(request("/2/other"), head))
    assert.deepStrictEqual(taken, ["a {}", "b {\"b\":\"1\"}", "b {\"b\":\"2\"}"])
  })

  it("are found as the application's router reads paths", () => {
    const handshakes = new Handshakes()
    const take = () => {}
    const remove = handshakes.add("/a/b", take)
    assert.isTrue(handshakes.take(request("/A/b"), head))
    remove()
    handshakes.add("/a/b", take, { caseSensitive: true })
    assert.isFalse(handshakes.take(request("/A/b"), head))
    assert.isTrue(handshakes.take(request("/a/b"), head))
  })

  it("are left to the router with another method, or the whole address for a path", () => {
    const handshakes = new Handshakes()
    handshakes.add("/a", () => assert.fail("taken"))
    assert.isFalse(handshakes.take(request("/a", "POST"), head))
    assert.isFalse(handshakes.take(request("http://localhost/a"), head))
    assert.isFalse(handshakes.take(request("*"), head))
    handshakes.add("/:b/c", () => assert.fail("taken"))
    assert.isFalse(handshakes.take(request("/%/c"), head))
  })
})
