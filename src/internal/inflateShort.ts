/**
 * Inflates short messages (RFC 1951). To set up zlib takes ten times as long as those need whose blocks are stored, or use
 * the codes that the format itself defines, as encoders choose for messages of less than a hundred bytes or so.
 */

/** Of nine bits: the symbol that they begin with, and below it in four bits how many belong to that. */
const symbols = new Uint16Array(512)
/** Of five bits: the code of a distance. */
const distanceCodes = new Uint8Array(32)

const reverse = (bits: number, length: number): number => {
  let reversed = 0
  for (let i = 0; i < length; i++) reversed = reversed << 1 | bits >> i & 1
  return reversed
}

const addSymbols = (first: number, last: number, code: number, length: number): void => {
  for (let symbol = first; symbol <= last; symbol++) {
    const start = reverse(code + symbol - first, length)
    for (let bits = start; bits < symbols.length; bits += 1 << length) symbols[bits] = symbol << 4 | length
  }
}
addSymbols(0, 143, 0b00110000, 8)
addSymbols(144, 255, 0b110010000, 9)
addSymbols(256, 279, 0b0000000, 7)
addSymbols(280, 287, 0b11000000, 8)
for (let code = 0; code < distanceCodes.length; code++) distanceCodes[reverse(code, 5)] = code

const endOfBlock = 256

/** What codes stand for: the least number, to which some extra bits may add. */
class Ranges {
  readonly extra: Uint8Array
  readonly least: Uint16Array

  constructor(first: number, extra: ReadonlyArray<number>) {
    let next = first
    this.extra = Uint8Array.from(extra)
    this.least = Uint16Array.from(extra, (bits) => {
      const least = next
      next += 1 << bits
      return least
    })
  }

  take(bits: Bits, code: number): number {
    const least = this.least[code]
    if (least === undefined) throw notShort
    return least + bits.take(this.extra[code] ?? 0)
  }
}

const lengths = new Ranges(3, [...Array.from({ length: 28 }, (_, code) => Math.max(0, (code >> 2) - 1)), 0])
// The greatest has a code of its own, in place of the last one before it.
lengths.least[28] = 258
const distances = new Ranges(1, Array.from({ length: 30 }, (_, code) => Math.max(0, (code >> 1) - 1)))

/** The bits of a message, the lowest of each byte first. */
class Bits {
  private readonly data: Buffer
  /** The next byte. */
  at = 0
  private waiting = 0
  private count = 0

  constructor(data: Buffer) {
    this.data = data
  }

  /** The next few, up to 15. What is missing at the end is zero, until it is taken. */
  peek(count: number): number {
    while (this.count < count && this.at < this.data.length) {
      this.waiting |= (this.data[this.at++] ?? 0) << this.count
      this.count += 8
    }
    return this.waiting & (1 << count) - 1
  }

  skip(count: number): void {
    this.waiting >>>= count
    this.count -= count
    if (this.count < 0) throw notShort
  }

  take(count: number): number {
    const bits = this.peek(count)
    this.skip(count)
    return bits
  }

  /** The next byte is one of which nothing has been taken. */
  align(): void {
    this.at -= this.count >> 3
    this.waiting = this.count = 0
  }
}

// Thrown, and not made, where zlib has to do it.
const notShort = new Error("not short")

const out = Buffer.alloc(4096)

/**
 * Inflates a message whose blocks are stored, or use the codes of the format. Undefined for one that uses codes of its own,
 * becomes larger than 4096 bytes, says that it is the last of its stream, or is not well-formed: that is left to zlib.
 *
 * @param data - without the last four bytes, as in WebSockets (RFC 7692)
 */
export const inflateShort = (data: Buffer): Buffer | undefined => {
  try {
    return Buffer.from(out.subarray(0, inflate(data)))
  } catch (error) {
    if (error === notShort) return undefined
    throw error
  }
}

const inflate = (data: Buffer): number => {
  const bits = new Bits(data)
  let size = 0
  for (;;) {
    const header = bits.take(3)
    if (header === 0b000) {
      bits.align()
      // Of the empty one at the end only the header is there.
      if (bits.at === data.length) return size
      size = copyStored(data, bits, size)
    } else if (header === 0b010) size = inflateBlock(bits, size)
    else throw notShort
  }
}

const copyStored = (data: Buffer, bits: Bits, size: number): number => {
  const start = bits.at + 4
  if (start > data.length) throw notShort
  const length = data.readUInt16LE(bits.at)
  const end = start + length
  if (data.readUInt16LE(bits.at + 2) !== (length ^ 0xffff) || end > data.length || size + length > out.length) {
    throw notShort
  }
  data.copy(out, size, start, end)
  bits.at = end
  return size + length
}

const inflateBlock = (bits: Bits, from: number): number => {
  let size = from
  for (;;) {
    const entry = symbols[bits.peek(9)] ?? 0
    bits.skip(entry & 15)
    const symbol = entry >> 4
    if (symbol === endOfBlock) return size
    if (size === out.length) throw notShort
    if (symbol < endOfBlock) out[size++] = symbol
    else {
      const length = lengths.take(bits, symbol - endOfBlock - 1)
      const distance = distances.take(bits, distanceCodes[bits.take(5)] ?? 0)
      const end = size + length
      if (distance > size || end > out.length) throw notShort
      for (; size < end; size++) out[size] = out[size - distance] ?? 0
    }
  }
}
