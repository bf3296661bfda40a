/** Nodes that a real engine connects, each by a cable of its own. */
import { Effect, type Scope } from "effect"
import * as Nats from "../../src/pubsub/nats.ts"
import * as Redis from "../../src/pubsub/redis.ts"
import type { NodeLayer } from "../pubsub/contract.ts"
import { Cable } from "../support/cable.ts"
import { Engine, engineOf, type Kind, nats, redis } from "../support/engine.ts"
import type { Fabric } from "./cluster.ts"

export interface Options {
  readonly url: string
  readonly node: string
  readonly timeout: number
  readonly heartbeat: number
  readonly maxMessageBytes?: number
}

export interface Subject {
  readonly kind: Kind
  readonly layer: (options: Options) => NodeLayer
}

export const subjects: ReadonlyArray<Subject> = [{ kind: redis, layer: Redis.layer }, {
  kind: nats,
  layer: Nats.layer
}]

export class Wired implements Fabric {
  readonly engine: Engine
  private readonly subject: Subject
  private readonly limits: { readonly maxMessageBytes?: number }
  private readonly cables = new Map<string, Cable>()

  constructor(engine: Engine, subject: Subject, limits: { readonly maxMessageBytes?: number }) {
    this.engine = engine
    this.subject = subject
    this.limits = limits
  }

  readonly pass = Effect.sleep

  readonly node = (name: string): Effect.Effect<NodeLayer> =>
    Effect.promise(async () => {
      const known = this.cables.get(name)
      const cable = known ?? await Cable.to(this.engine.port)
      cable.heal()
      this.cables.set(name, cable)
      const url = this.subject.kind.url(cable.port)
      // An outage is noticed soon, and joins do not wait for its end.
      return this.subject.layer({ ...this.limits, url, node: name, timeout: 300, heartbeat: 150 })
    })

  disconnect(name: string): void {
    this.cable(name).cut()
  }

  cable(name: string): Cable {
    const cable = this.cables.get(name)
    if (cable === undefined) throw new Error(`${name} was never started`)
    return cable
  }

  close(): void {
    for (const cable of this.cables.values()) cable.close()
  }
}

/** An engine for one test. */
export const wired = (
  subject: Subject,
  limits: { readonly maxMessageBytes?: number } = {}
): Effect.Effect<Wired, never, Scope.Scope> =>
  Effect.flatMap(engineOf(subject.kind), (engine) =>
    Effect.acquireRelease(
      Effect.sync(() => new Wired(engine, subject, limits)),
      (fabric) => Effect.sync(() => fabric.close())
    ))
