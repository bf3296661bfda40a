import type { Meta } from "./packet.ts"

/** A state of a presence that has come or gone. */
export type Change = readonly [key: string, meta: Meta]

export interface Changes {
  readonly joins: ReadonlyArray<Change>
  readonly leaves: ReadonlyArray<Change>
}

/**
 * Changes of a topic that were not told yet; of each state of a presence the last change. A state that has come and gone is
 * told as gone, because somebody may have seen it in a list, which runs ahead of the diffs.
 */
export class Pending {
  private readonly joined = new Map<string, Change>()
  private readonly left = new Map<string, Change>()

  add({ joins, leaves }: Changes): void {
    for (const change of leaves) note(change, this.joined, this.left)
    for (const change of joins) note(change, this.left, this.joined)
  }

  get size(): number {
    return this.joined.size + this.left.size
  }

  get changes(): Changes {
    return { joins: [...this.joined.values()], leaves: [...this.left.values()] }
  }
}

const note = (change: Change, opposite: Map<string, Change>, changes: Map<string, Change>): void => {
  const ref = change[1].phx_ref
  opposite.delete(ref)
  changes.set(ref, change)
}
