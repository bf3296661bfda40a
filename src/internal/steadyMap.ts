/** Keys that are gone and still have their place; below this there is no need to clean up. */
const minGone = 64

/**
 * A Map whose cost stays the same when one key comes and goes all the time. In a Map of V8 each deletion leaves a hole in the
 * chain of its hash until the table is made anew, which is the later the larger it is: a client that joined and left one
 * topic made every next time more expensive, by the number of all topics. Here a key that is deleted keeps its place for a
 * while, and takes it again when it comes back. Keys are in the order in which they got their place.
 */
export class SteadyMap<K, V extends object> {
  private readonly entries = new Map<K, V | undefined>()
  private gone: Array<K> = []
  private left = 0
  /** Deletions that have left a hole. */
  holes = 0

  /** Keys that have a place, those that are gone included. */
  get places(): number {
    return this.entries.size
  }

  get size(): number {
    return this.entries.size - this.left
  }

  get(key: K): V | undefined {
    return this.entries.get(key)
  }

  set(key: K, value: V): void {
    if (this.entries.get(key) === undefined) this.add(key, value)
    else this.entries.set(key, value)
  }

  /** As `set` of a key that is not there: for callers that have looked, which saves looking again. */
  add(key: K, value: V): void {
    const { size } = this.entries
    this.entries.set(key, value)
    // It has had a place, and is not gone any more; it stays in the list of those that were.
    if (this.entries.size === size) this.left--
  }

  delete(key: K): void {
    if (this.entries.get(key) !== undefined) this.remove(key)
  }

  /** As `delete` of a key that is there. */
  remove(key: K): void {
    this.entries.set(key, undefined)
    this.left++
    this.gone.push(key)
    if (this.gone.length > minGone && this.gone.length * 8 > this.entries.size) this.cleanUp()
  }

  private cleanUp(): void {
    for (const key of this.gone) {
      if (this.entries.get(key) === undefined && this.entries.delete(key)) this.holes++
    }
    this.gone = []
    this.left = 0
  }

  forEach(each: (value: V, key: K) => void): void {
    for (const [key, value] of this.entries) if (value !== undefined) each(value, key)
  }

  *[Symbol.iterator](): IterableIterator<[K, V]> {
    for (const [key, value] of this.entries) if (value !== undefined) yield [key, value]
  }

  *keys(): IterableIterator<K> {
    for (const [key] of this) yield key
  }
}
