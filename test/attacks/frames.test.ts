/**
 * Attacks with frames, on a connection that is open.
 *
 * Elsewhere: frames that are no message, 1007, a message beyond the limit and one reserved bit
 * (test/transport/WebSocket.test.ts > close codes), frames cut within their header (there > hostile peers), an application
 * whose references are nested too deep (test/Socket.test.ts).
 */
import { assert, describe } from "@effect/vitest"
import { deflateRawSync } from "node:zlib"
import * as Endpoint from "../../src/Endpoint.ts"
import { attack } from "./target.ts"
import { frame, handshake, Raw, request } from "./wire.ts"

const heartbeat = JSON.stringify([null, "1", "phoenix", "heartbeat", {}])
const beat = [null, "1", "phoenix", "phx_reply", { status: "ok", response: {} }]

/** Compresses as RFC 7692, 7.2.1 has it: without the last four bytes of a flush. */
const pack = (data: string | Uint8Array) => {
  const packed = deflateRawSync(data, { finishFlush: 2 })
  return packed.subarray(0, packed.length - 4)
}

/** Sends bytes over a connection of its own; the code it is closed with. */
const codeFor = async (port: number, ...data: ReadonlyArray<Uint8Array>): Promise<number | undefined> => {
  const raw = await Raw.open(port)
  for (const bytes of data) raw.write(bytes)
  return codeOf(raw)
}

/** The code, after which the server waits for the client to hang up. */
const codeOf = async (raw: Raw): Promise<number | undefined> => {
  await raw.untilOver(() => raw.code !== undefined)
  await raw.hangUp()
  return raw.code
}

describe("a frame", () => {
  attack("with a reserved bit or opcode, or without a mask, closes with 1002", async ({ port }, witness) => {
    for (const rsv of [1, 2, 3, 4, 5, 6, 7]) {
      assert.strictEqual(await codeFor(port, frame(heartbeat, { rsv })), 1002, `rsv ${rsv}`)
    }
    for (const opcode of [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf]) {
      assert.strictEqual(await codeFor(port, frame(heartbeat, { opcode })), 1002, `opcode ${opcode}`)
    }
    // Deflate that is sound is no more welcome where it was not agreed upon.
    assert.strictEqual(await codeFor(port, frame(pack(heartbeat), { rsv: 4 })), 1002, "compressed")
    for (const opcode of [1, 2, 8, 9, 10]) {
      assert.strictEqual(await codeFor(port, frame("[]", { opcode, masked: false })), 1002, `unmasked ${opcode}`)
      // A message all the same, for who takes its first bytes for a mask.
      const bare = frame(`\0\0\0\0${heartbeat}`, { opcode, masked: false, claims: heartbeat.length })
      assert.strictEqual(await codeFor(port, bare), 1002, `unmasked ${opcode}, zeros first`)
    }
    await witness.goesOn()
  })

  attack("of control that is long, in parts or malformed closes with 1002", async ({ port }) => {
    for (const opcode of [8, 9, 10]) {
      assert.strictEqual(await codeFor(port, frame("x".repeat(126), { opcode })), 1002, `long ${opcode}`)
      assert.strictEqual(await codeFor(port, frame("", { opcode, fin: false })), 1002, `in parts ${opcode}`)
      assert.strictEqual(await codeFor(port, frame("", { opcode, rsv: 4 })), 1002, `compressed ${opcode}`)
    }
    assert.strictEqual(await codeFor(port, frame("x", { opcode: 8 })), 1002, "half a code")
    for (const code of [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535]) {
      assert.strictEqual(
        await codeFor(port, frame(Buffer.from([code >> 8, code & 0xff]), { opcode: 8 })),
        1002,
        `${code}`
      )
    }
    assert.strictEqual(await codeFor(port, frame(Buffer.from([3, 232, 0xff]), { opcode: 8 })), 1007, "reason")
  })

  attack("out of order closes with 1002", async ({ port }) => {
    assert.strictEqual(await codeFor(port, frame("a", { opcode: 0 })), 1002, "a continuation of nothing")
    assert.strictEqual(await codeFor(port, frame("a", { fin: false }), frame("b")), 1002, "a message within another")
    const raw = await Raw.open(port)
    raw.write(Buffer.concat([frame("a", { fin: false }), frame("", { opcode: 9 })]))
    // The part has been read when the pong is here, so that the message comes in a chunk of its own.
    await raw.until(() => raw.frames.length > 0)
    raw.write(frame(heartbeat))
    assert.strictEqual(await codeOf(raw), 1002, "a message within another, later")
  })

  attack("that claims more than the limit is refused before a byte of it has come: 1009", async ({ port }) => {
    for (const [claims, size] of [[10_000_001, 64], [2 ** 32, 64], [2n ** 53n - 1n, 64]] as const) {
      assert.strictEqual(await codeFor(port, frame("", { claims, size })), 1009, `${claims}`)
    }
    assert.strictEqual(await codeFor(port, frame("", { claims: 2n ** 64n - 1n, size: 64 })), 1009)
  })

  attack("whose length takes more bytes than it needs is read", async ({ port }) => {
    for (const size of [16, 64] as const) {
      const raw = await Raw.open(port)
      raw.write(frame(heartbeat, { size }))
      await raw.until(() => raw.messages.length > 0)
      assert.deepStrictEqual(raw.messages, [beat])
      await raw.reset()
    }
  })

  attack("of text or bytes without anything in it is no message: 1011", async ({ port }) => {
    for (const opcode of [1, 2]) assert.strictEqual(await codeFor(port, frame("", { opcode })), 1011)
    for (const opcode of [1, 2]) {
      assert.strictEqual(
        await codeFor(port, frame("", { opcode, fin: false }), frame("", { opcode: 0 })),
        1011,
        "in parts"
      )
    }
  })
})

describe("fragments", () => {
  attack("byte by byte, with pings between them, are put together", async ({ port }) => {
    const raw = await Raw.open(port)
    const bytes = Buffer.from(JSON.stringify([null, "1", "phoenix", "heartbeat", { a: "äöü😀" }]))
    bytes.forEach((byte, index) => {
      raw.write(frame(Buffer.from([byte]), { opcode: index === 0 ? 1 : 0, fin: index === bytes.length - 1 }))
      raw.write(frame("ping", { opcode: 9 }))
    })
    await raw.until(() => raw.messages.length === 1 && raw.frames.length === bytes.length + 1)
    assert.deepStrictEqual(raw.messages, [beat])
    assert.strictEqual(raw.frames.filter(({ opcode }) => opcode === 10).length, bytes.length)
    await raw.reset()
  })

  attack("that are too many are refused with 1008, however little is in them", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    raw.write(frame("", { fin: false }))
    const many = Buffer.concat(Array.from({ length: 10_000 }, () => frame("", { opcode: 0, fin: false })))
    for (let n = 0; n < 20 && !raw.isClosed; n++) {
      raw.write(many)
      await witness.goesOn()
    }
    assert.strictEqual(await codeOf(raw), 1008)
  })

  attack("of a message that never ends are let go of with the connection", async ({ port }, witness) => {
    const open = await Promise.all(Array.from({ length: 20 }, () => Raw.open(port)))
    for (const raw of open) {
      raw.write(frame("x".repeat(100_000), { fin: false }))
      raw.write(frame("x", { claims: 9_000_000, size: 64, opcode: 0 }))
    }
    await witness.goesOn()
    await Promise.all(open.map((raw, n) => n % 2 === 0 ? raw.reset() : raw.hangUp()))
  })

  attack("after which nothing comes are cut off by the timeout: 1002", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    raw.write(frame("[", { fin: false }))
    while (raw.code === undefined) await witness.goesOn()
    assert.strictEqual(await codeOf(raw), 1002)
  }, { websocket: { timeout: "500 millis" } })
})

describe("many frames at once", () => {
  attack("are answered all, in order", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    const count = 5000
    raw.write(
      Buffer.concat(
        Array.from({ length: count }, (_, n) => frame(JSON.stringify([null, n, "phoenix", "heartbeat", {}])))
      )
    )
    await witness.goesOn()
    await raw.until(() => raw.frames.length === count)
    assert.deepStrictEqual(
      raw.messages.map((message) => Object(message)[1]),
      Array.from({ length: count }, (_, n) => n)
    )
    await raw.reset()
  })

  /** Pings that may wait for their pongs to be sent, before `ws` cuts the connection. */
  const most = 60
  const pings = (count: number, first = 0) =>
    Buffer.concat(Array.from({ length: count }, (_, n) => frame(`${first + n}`.padStart(125, "."), { opcode: 9 })))

  attack("of pings are answered by pongs, one for each and with its data", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    for (let sent = 0; sent < 20 * most; sent += most) {
      raw.write(pings(most, sent))
      await raw.until(() => raw.frames.length === sent + most)
      await witness.goesOn()
    }
    assert.deepStrictEqual([...new Set(raw.frames.map(({ opcode }) => opcode))], [10])
    assert.deepStrictEqual(
      raw.frames.map(({ payload }) => Number(payload.toString().replaceAll(".", ""))),
      Array.from({ length: 20 * most }, (_, n) => n)
    )
    raw.write(pings(most))
    await raw.reset()
  })

  attack("of pings, more than can be answered, are cut off: pongs do not pile up", async ({ port }, witness) => {
    const raw = await Raw.open(port)
    raw.write(pings(5000))
    await witness.goesOn()
    await raw.closed
    assert.isBelow(raw.frames.length, 5000)
    assert.isUndefined(raw.code)
  })

  attack(
    "of pings of a client that reads no pongs are cut off, once the network holds no more",
    async ({ port, run }, witness) => {
      const raw = await Raw.open(port)
      raw.socket.pause()
      let sent = 0
      for (; sent < 400_000 && !raw.isClosed; sent += most / 2) {
        raw.write(pings(most / 2, sent))
        if (sent % (most * 50) === 0) await witness.goesOn()
        // A hang-up by the server is noticed by writing only.
        await new Promise((resolve) => setImmediate(resolve))
        if ((await run(Endpoint.sockets)).length === 1) break
      }
      assert.isBelow(sent, 400_000)
      await raw.reset()
    }
  )

  attack("behind a close are not looked at", async ({ port }) => {
    const raw = await Raw.open(port)
    raw.write(Buffer.concat([frame(Buffer.from([3, 232]), { opcode: 8 }), frame(heartbeat), frame("garbage")]))
    assert.deepStrictEqual([await codeOf(raw), raw.messages], [1000, []])
  })

  attack("behind one that is no message are not looked at", async ({ port }) => {
    const raw = await Raw.open(port)
    raw.write(Buffer.concat([frame(heartbeat), frame("garbage"), frame(heartbeat), frame(heartbeat)]))
    assert.deepStrictEqual([await codeOf(raw), raw.messages], [1011, [beat]])
  })
})

describe("compressed", () => {
  const deflate = { websocket: { compress: true, maxFrameSize: 1_000_000 } }
  const opening = request(undefined, { ...handshake, "Sec-WebSocket-Extensions": "permessage-deflate" })
  const codeForPacked = async (port: number, ...data: ReadonlyArray<Uint8Array>) => {
    const raw = await Raw.open(port, opening)
    for (const bytes of data) raw.write(bytes)
    return codeOf(raw)
  }

  attack("a frame is read", async ({ port }) => {
    const raw = await Raw.open(port, opening)
    raw.write(frame(pack(heartbeat), { rsv: 4 }))
    await raw.until(() => raw.messages.length > 0)
    assert.deepStrictEqual(raw.messages, [beat])
    await raw.reset()
  }, deflate)

  attack("a bomb is refused with 1009 when it has unfolded to the limit", async ({ port }, witness) => {
    const bomb = pack(Buffer.alloc(200_000_000, " "))
    assert.isBelow(bomb.length, 1_000_000)
    const before = process.memoryUsage().rss
    // The code may be lost where the server hangs up while there is more to read.
    const codes = await Promise.all(Array.from({ length: 8 }, () => codeForPacked(port, frame(bomb, { rsv: 4 }))))
    await witness.goesOn()
    assert.include([[1009], [1009, undefined], [undefined]].map(String), String([...new Set(codes)].sort()))
    assert.isBelow(process.memoryUsage().rss - before, 400_000_000)
    const parts = [frame(bomb.subarray(0, 50_000), { rsv: 4, fin: false }), frame(bomb.subarray(50_000), { opcode: 0 })]
    assert.include([1009, undefined], await codeForPacked(port, ...parts))
  }, deflate)

  attack("a frame that is no deflate closes with 1007, a wrong bit with 1002", async ({ port }, witness) => {
    assert.strictEqual(await codeForPacked(port, frame("this is not compressed", { rsv: 4 })), 1007)
    assert.strictEqual(await codeForPacked(port, frame(Buffer.alloc(100, 0xff), { rsv: 4, opcode: 2 })), 1007)
    assert.strictEqual(
      await codeForPacked(port, frame(pack("[]"), { rsv: 4, fin: false }), frame("", { rsv: 4, opcode: 0 })),
      1002
    )
    assert.strictEqual(await codeForPacked(port, frame(pack(heartbeat), { rsv: 6 })), 1002)
    await witness.goesOn()
  }, deflate)

  attack("frames of clients that leave while they are unfolded harm nobody", async ({ port }, witness) => {
    const large = pack(JSON.stringify([null, "1", "phoenix", "heartbeat", "x".repeat(900_000)]))
    await Promise.all(Array.from({ length: 50 }, async (_, n) => {
      const raw = await Raw.open(port, opening)
      for (let times = 0; times < 5; times++) raw.write(frame(large, { rsv: 4 }))
      if (n % 2 === 0) await new Promise((resolve) => setImmediate(resolve))
      await raw.reset()
    }))
    await witness.goesOn()
  }, deflate)
})
