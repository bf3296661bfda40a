import { assert, describe, it } from "@effect/vitest"
import { Posts } from "../../src/internal/pollPosts.ts"

describe("the posts of a session", () => {
  it("take up maxBody bytes together, or one as many by itself", () => {
    const posts = new Posts(100)
    const large = posts.enter("a", 1_000_000)
    assert.strictEqual(large?.bytes, 100)
    assert.isUndefined(posts.enter("a", 1))
    assert.isDefined(posts.enter("b", 1))
    large?.leave()
    const small = posts.enter("a", 60)
    assert.isUndefined(posts.enter("a", 41))
    assert.isDefined(posts.enter("a", 30))
    // A post that does not say how long it is may have what is left, until it is known.
    const unknown = posts.enter("a", undefined)
    assert.strictEqual(unknown?.bytes, 10)
    assert.isUndefined(posts.enter("a", undefined))
    if (unknown !== undefined) unknown.bytes = 1
    assert.strictEqual(posts.enter("a", undefined)?.bytes, 9)
    small?.leave()
    assert.strictEqual(posts.enter("a", 60)?.bytes, 60)
  })
})
