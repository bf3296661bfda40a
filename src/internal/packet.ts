/** What nodes tell each other of their presences; docs/replication.md says when. */
import { Schema } from "effect"

/** One life of a node: when it starts again, it is another. */
export interface Owner {
  readonly node: string
  /** Grows with each start of the node. */
  readonly life: number
}

/** What is known of a presence; `phx_ref` names this state of it. */
export interface Meta {
  readonly [name: string]: unknown
  readonly phx_ref: string
}

/** A presence on its way between nodes: its number among those of its owner, and what it is. */
export type Presence = readonly [id: number, topic: string, key: string, meta: Meta]

/** What nodes tell each other. */
export type Packet =
  /** The owner lives, and has come to this version. */
  | { readonly type: "heartbeat"; readonly from: Owner; readonly version: number }
  /** What brings a copy from any version between `base` and `version` to `version`. */
  | {
    readonly type: "delta"
    readonly from: Owner
    readonly base: number
    readonly version: number
    readonly present: ReadonlyArray<Presence>
    readonly gone: ReadonlyArray<number>
  }
  /** A part of the whole state at a version, which has `total` presences. */
  | {
    readonly type: "snapshot"
    readonly from: Owner
    readonly version: number
    readonly total: number
    readonly present: ReadonlyArray<Presence>
  }
  /** Somebody lacks what came after a version. */
  | { readonly type: "request"; readonly from: Owner; readonly life: number; readonly have: number }
  /** The owner ends, with all its presences. */
  | { readonly type: "bye"; readonly from: Owner }

const owner = Schema.Struct({ node: Schema.String, life: Schema.Finite })
const meta = Schema.StructWithRest(Schema.Struct({ phx_ref: Schema.String }), [
  Schema.Record(Schema.String, Schema.Unknown)
])
const presence = Schema.Tuple([Schema.Finite, Schema.String, Schema.String, meta])
const packet = Schema.Union([
  Schema.Struct({ type: Schema.Literal("heartbeat"), from: owner, version: Schema.Finite }),
  Schema.Struct({
    type: Schema.Literal("delta"),
    from: owner,
    base: Schema.Finite,
    version: Schema.Finite,
    present: Schema.Array(presence),
    gone: Schema.Array(Schema.Finite)
  }),
  Schema.Struct({
    type: Schema.Literal("snapshot"),
    from: owner,
    version: Schema.Finite,
    total: Schema.Finite,
    present: Schema.Array(presence)
  }),
  Schema.Struct({ type: Schema.Literal("request"), from: owner, life: Schema.Finite, have: Schema.Finite }),
  Schema.Struct({ type: Schema.Literal("bye"), from: owner })
])

/** Whether something that another node has sent is a packet. */
export const isPacket: (message: unknown) => message is Packet = Schema.is(packet)
