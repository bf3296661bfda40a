import { assert, describe, it } from "@effect/vitest"
import type { IncomingMessage } from "node:http"
import { Handshakes } from "../../src/internal/handshakes.ts"

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

  it("are taken where the path is asked for as it is written; the rest is for the router, and known", () => {
    const handshakes = new Handshakes()
    const take = () => {}
    handshakes.add("/a/b", take)
    handshakes.add("/c/:id", take)
    const remove = handshakes.add("/routed/:id", undefined)
    for (const url of ["/a/b", "/a/b?c", "/c/d", "/c/D"]) {
      assert.isTrue(handshakes.take(request(url), head), url)
      assert.isTrue(handshakes.knows(request(url)), url)
    }
    for (const url of ["/A/b", "/a/b/", "//a/b", "/%61/b", "/C/d", "/c/d/", "/routed/1", "http://here/a/b?c"]) {
      assert.isFalse(handshakes.take(request(url), head), url)
      assert.isTrue(handshakes.knows(request(url)), url)
    }
    for (const url of ["/", "/a", "/c", "/a/b/c", "*", "", "http://here", "http://here/a"]) {
      assert.isFalse(handshakes.take(request(url), head), url)
      assert.isFalse(handshakes.knows(request(url)), url)
    }
    remove()
    assert.isFalse(handshakes.knows(request("/routed/1")))
  })

  it("may have variables as long as a token, unless the router is known to allow less", () => {
    const handshakes = new Handshakes()
    const path = (length: number) => request(`/a/${"x".repeat(length)}`)
    const remove = handshakes.add("/a/:token", () => {})
    assert.deepStrictEqual([8192, 8193].map((length) => handshakes.take(path(length), head)), [true, false])
    remove()
    handshakes.add("/a/:token", () => {}, { maxParamLength: 200 })
    assert.deepStrictEqual([200, 201].map((length) => handshakes.take(path(length), head)), [true, false])
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
