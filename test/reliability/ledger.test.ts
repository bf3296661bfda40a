import { assert, describe, it } from "vitest"
import { Client } from "../../reliability/client.ts"
import { Ledger } from "../../reliability/ledger.ts"

/** A client that is nowhere. */
const nobody = (name: string) => {
  const client = new Client(name, () => undefined)
  client.go()
  return client
}

/** Two members of a room, of whom the first can say something that is acknowledged. */
const room = () => {
  const ledger = new Ledger()
  const [ada, alan] = [nobody("ada"), nobody("alan")]
  ada.push = async () => ({ status: "ok", response: {} })
  for (const client of [ada, alan]) ledger.came(client, "room")
  const say = async () => {
    const n = ledger.said.length
    await ledger.shout(ada, "room")
    ledger.hear(ada, "room", { n })
    return { n }
  }
  return { ledger, ada, alan, say }
}

describe("the account of what was said", () => {
  it("is clean when all have heard all, once and in order", async () => {
    const { alan, ledger, say } = room()
    for (let times = 0; times < 3; times++) ledger.hear(alan, "room", await say())
    assert.deepStrictEqual(ledger.account(), {
      acknowledged: 3,
      unanswered: 0,
      delivered: 6,
      lost: 0,
      missed: 0,
      doubled: 0,
      outOfOrder: 0
    })
  })

  it("notices what a member who was there has not heard", async () => {
    const { ledger, say } = room()
    await say()
    assert.strictEqual(ledger.account().lost, 1)
  })

  it("excuses who went before it was acknowledged, and who came after it was said", async () => {
    const { alan, ledger, say } = room()
    ledger.went(alan, "room")
    await say()
    ledger.came(alan, "room")
    const { lost, missed } = ledger.account()
    assert.deepStrictEqual({ lost, missed }, { lost: 0, missed: 1 })
  })

  it("does not excuse who went long after, unless there is that much grace", async () => {
    const { alan, ledger, say } = room()
    await say()
    ledger.went(alan, "room", performance.now() + 100)
    assert.strictEqual(ledger.account().lost, 1)
    assert.strictEqual(ledger.account(1000).lost, 0)
  })

  it("notices what comes twice, and what comes in another order than it was said", async () => {
    const { alan, ledger, say } = room()
    const [first, second] = [await say(), await say()]
    for (const payload of [second, first, first]) ledger.hear(alan, "room", payload)
    const { doubled, outOfOrder } = ledger.account()
    assert.deepStrictEqual({ doubled, outOfOrder }, { doubled: 1, outOfOrder: 1 })
  })

  it("does not ask for what was never acknowledged", async () => {
    const { ada, ledger } = room()
    ada.push = async () => undefined
    await ledger.shout(ada, "room")
    const { lost, unanswered } = ledger.account()
    assert.deepStrictEqual({ lost, unanswered }, { lost: 0, unanswered: 1 })
  })
})
