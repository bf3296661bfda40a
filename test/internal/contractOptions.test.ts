/** A contract, a list of channels, and the other lists and objects that an application gives are looked at where they are given. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Channel from "../../src/Channel.ts"
import * as ChannelTest from "../../src/ChannelTest.ts"
import { OptionError } from "../../src/internal/options.ts"
import * as Socket from "../../src/Socket.ts"
import * as Telemetry from "../../src/Telemetry.ts"
import { node } from "../support/connection.ts"

const Room = Channel.make("room:*")

const optionOf = (give: () => unknown): string => {
  try {
    give()
  } catch (error) {
    if (error instanceof OptionError) return error.option
    throw error
  }
  return assert.fail("nothing is wrong with it")
}

it("of channels with the same topic the second is a mistake", () => {
  assert.strictEqual(optionOf(() => Socket.make("twice", { channels: [Room, Channel.make("room:*")] })), "channels")
  assert.isObject(Socket.make("once", { channels: [Room, Channel.make("room:1"), Channel.make("room*")] }))
})

it("intercept is a list of names", () => {
  for (const intercept of ["said", [5], {}, null]) {
    assert.strictEqual(optionOf(() => Channel.make("a", { intercept: intercept as never })), "intercept")
  }
})

it("schemas, and what is lossy, are objects", () => {
  for (const name of ["join", "incoming", "outgoing", "lossy"]) {
    for (const value of [null, [], "said", 5]) {
      assert.strictEqual(optionOf(() => Channel.make("a", { [name]: value } as never)), name)
    }
  }
})

for (const [filter, lines] of [[["a"], 0], [{ keep: ["a"] }, 0], [7, 1], [{ keep: "a" }, 1], [[5], 1]] as const) {
  it.effect(`a filter of parameters that is ${JSON.stringify(filter)} is ${lines === 0 ? "" : "no "}filter`, () => {
    const { acceptor, layer, warnings } = node({ channels: [Room] }, Room.layer(() => Effect.void))
    return Effect.gen(function*() {
      yield* acceptor
      yield* ChannelTest.settle
      assert.strictEqual(warnings().length, lines)
      for (const { annotations, text } of warnings()) {
        assert.match(text, /^FilterParameters is neither/)
        assert.deepStrictEqual(annotations, { socket: "test_socket" })
      }
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.provideMerge(layer, Layer.succeed(Telemetry.FilterParameters, filter as never)))
    )
  })
}
