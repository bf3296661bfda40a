import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { networkOf } from "../../src/internal/networkOf.ts"
import { Place, Places } from "../../src/internal/places.ts"

describe("places", () => {
  it("are as many as there are, and as many as an address may have", () => {
    const places = new Places(3, 2)
    const [a, b] = [places.take("a"), places.take("a")]
    assert.strictEqual(places.take("a"), "address")
    assert.instanceOf(places.take("b"), Place)
    assert.strictEqual(places.take("c"), "connections")
    assert.strictEqual(places.take(undefined), "connections")
    for (const place of [a, b, a, a]) if (place instanceof Place) place.release()
    assert.strictEqual(places.size, 1)
  })

  it("are neither lost nor made, in whatever order they are taken and given back", () => {
    const steps = fc.array(fc.record({ address: fc.constantFrom("a", "b", "c", undefined), back: fc.nat(9) }))
    fc.assert(fc.property(steps, fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 4 }), (steps, max, each) => {
      const places = new Places(max, each)
      const held: Array<{ readonly place: Place; readonly address: string | undefined; open: boolean }> = []
      for (const { address, back } of steps) {
        const open = held.filter(({ open }) => open)
        const mine = open.filter((one) => one.address !== undefined && one.address === address).length
        const expected = open.length >= max ? "connections" : mine >= each ? "address" : "a place"
        const place = places.take(address)
        assert.strictEqual(typeof place === "string" ? place : "a place", expected)
        if (typeof place !== "string") held.push({ place, address, open: true })
        const given = held[back]
        if (given !== undefined) {
          given.place.release()
          given.open = false
        }
        assert.strictEqual(places.size, held.filter(({ open }) => open).length)
      }
    }))
  })
})

describe("the network of an address", () => {
  it("is an address of IPv4, also where that is written as one of IPv6", () => {
    assert.strictEqual(networkOf("10.0.0.1"), "10.0.0.1")
    assert.strictEqual(networkOf("::ffff:10.0.0.1"), "10.0.0.1")
    assert.strictEqual(networkOf("::FFFF:10.0.0.1"), "10.0.0.1")
  })

  it("is the first half of an address of IPv6, however that is written", () => {
    for (
      const address of ["2001:db8:0:7::1", "2001:db8:0:7:1:2:3:4", "2001:0DB8:0000:0007::", "2001:db8:0:7::1.2.3.4"]
    ) {
      assert.strictEqual(networkOf(address), "2001:db8:0:7::/64", address)
    }
    assert.strictEqual(networkOf("2001:db8::1"), "2001:db8:0:0::/64")
    assert.strictEqual(networkOf("::1"), "0:0:0:0::/64")
    assert.strictEqual(networkOf("fe80::1%eth0"), "fe80:0:0:0::/64")
    assert.notStrictEqual(networkOf("2001:db8:0:8::1"), networkOf("2001:db8:0:7::1"))
  })

  it("is the text itself where that is no address", () => {
    for (const text of ["", "unknown", "a:b:c", "::ffff:1.2.3"]) assert.strictEqual(networkOf(text), text)
  })

  it("is the same for all addresses of a network", () => {
    fc.assert(fc.property(fc.ipV6(), (address) => {
      const network = networkOf(address)
      if (network.endsWith("::/64")) assert.strictEqual(networkOf(network.replace("::/64", "::")), network)
    }))
  })
})
