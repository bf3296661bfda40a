/** Counts durations in microseconds, each to within 0.8 percent. */
export class Histogram {
  count = 0
  private readonly buckets = new Uint32Array(32 * steps)

  add(microseconds: number): void {
    this.count++
    this.buckets[bucketOf(Math.min(Math.max(Math.round(microseconds), 0), 0x7fff_ffff))]!++
  }

  /** Below which the given part of all is, in microseconds; 0 if there is none. */
  quantile(part: number): number {
    let left = Math.ceil(this.count * part)
    for (let bucket = 0; bucket < this.buckets.length; bucket++) {
      left -= this.buckets[bucket] ?? 0
      if (left <= 0) return this.count === 0 ? 0 : middleOf(bucket)
    }
    return 0
  }
}

/** So many buckets for each doubling. */
const steps = 128
const bits = 7

/** Exact below `steps`; above, the leading bits are kept. */
const bucketOf = (value: number): number => {
  const shift = Math.max(31 - Math.clz32(value) - bits, 0)
  return shift * steps + (value >>> shift)
}

const middleOf = (bucket: number): number => {
  if (bucket < 2 * steps) return bucket
  const shift = Math.floor(bucket / steps) - 1
  return ((bucket - shift * steps) + 0.5) * 2 ** shift
}
