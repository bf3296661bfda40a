/** One for each topic, in the order in which they came. Mostly there is a single one, which needs no Map. */
export class ByTopic<A extends { readonly topic: string }> {
  private one: A | undefined = undefined
  private all: Map<string, A> | undefined = undefined

  get size(): number {
    return this.all?.size ?? (this.one === undefined ? 0 : 1)
  }

  get(topic: string): A | undefined {
    if (this.all !== undefined) return this.all.get(topic)
    return this.one?.topic === topic ? this.one : undefined
  }

  add(item: A): void {
    if (this.all !== undefined) this.all.set(item.topic, item)
    else if (this.one === undefined) this.one = item
    else {
      this.all = new Map([[this.one.topic, this.one], [item.topic, item]])
      this.one = undefined
    }
  }

  /** False when it is not there; another one may have its topic. */
  remove(item: A): boolean {
    if (this.get(item.topic) !== item) return false
    this.one = undefined
    this.all?.delete(item.topic)
    return true
  }

  clear(): void {
    this.one = undefined
    this.all = undefined
  }

  list(): ReadonlyArray<A> {
    return this.one === undefined ? [...this.all?.values() ?? []] : [this.one]
  }
}
