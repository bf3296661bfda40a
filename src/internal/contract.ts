import { Cause, Data, Exit, Schema, SchemaIssue } from "effect"
import { disown } from "./eager.ts"
import { callable, object, OptionError, text } from "./options.ts"

/** A schema that needs no services: what a client sends must be judged at once. */
export type PureSchema = Schema.Constraint & { readonly DecodingServices: never; readonly EncodingServices: never }

export interface EventSchemas {
  readonly payload?: PureSchema | undefined
  readonly success?: PureSchema | undefined
  readonly error?: PureSchema | undefined
}

export interface Schemas {
  readonly join?: EventSchemas | undefined
  readonly incoming?: Readonly<Record<string, EventSchemas>> | undefined
  readonly outgoing?: Readonly<Record<string, PureSchema>> | undefined
  readonly intercept?: ReadonlyArray<string> | undefined
  readonly lossy?: Readonly<Record<string, "drop" | ((payload: unknown) => string)>> | undefined
  readonly pubsubTopic?: ((topic: string) => string) | undefined
}

/** The payload of a binary frame; the only schema whose value does not travel as JSON. */
export const Bytes = Schema.Uint8Array

type Codec = (value: unknown) => Exit.Exit<unknown, Schema.SchemaError>

export interface CompiledEvent {
  readonly decode: Codec
  readonly encodeSuccess: Codec
  readonly encodeError: Codec
  /** Without `success` and `error` an event is not answered. */
  readonly replies: boolean
}

/** A contract made ready for use: every schema compiled once, looked up by name in Maps. What it leaves out is free. */
export interface Compiled {
  readonly join: CompiledEvent | undefined
  readonly incoming: ReadonlyMap<string, CompiledEvent> | undefined
  readonly outgoing: ReadonlyMap<string, { readonly encode: Codec; readonly decode: Codec }> | undefined
  /** Undefined where nothing is intercepted. */
  readonly intercept: ReadonlySet<string> | undefined
  readonly lossy: ReadonlyMap<string, "drop" | ((payload: unknown) => string)> | undefined
  /** Undefined where it is the topic of the wire. */
  readonly pubsubTopic: ((topic: string) => string) | undefined
}

/** The PubSub topic of a topic that clients join. */
export const pubsubTopicOf = ({ pubsubTopic }: Compiled, topic: string): string =>
  pubsubTopic === undefined ? topic : nameOf(pubsubTopic(topic))

const nameOf = (result: unknown): string => {
  disown(result)
  return text("pubsubTopic: its result", result)
}

/** What the protocol itself says about a channel; sent by anybody else it would end or rejoin the channels of others. */
const reserved = new Set(["phx_join", "phx_leave", "phx_reply", "phx_close", "phx_error"])

/** Whether the pattern of a channel serves a topic. */
export const matches = (pattern: string, topic: string): boolean =>
  pattern.endsWith("*") ? topic.startsWith(pattern.slice(0, -1)) : pattern === topic

const asIs: Codec = Exit.succeed

const decoder = (schema: PureSchema | undefined): Codec =>
  schema === undefined
    ? asIs
    : Schema.decodeUnknownExit(schema === Bytes ? Bytes : Schema.toCodecJson(schema))

const encoder = (schema: PureSchema | undefined): Codec =>
  schema === undefined ? asIs : Schema.encodeUnknownExit(schema === Bytes ? Bytes : Schema.toCodecJson(schema))

const compileEvent = (event: EventSchemas): CompiledEvent => ({
  decode: decoder(event.payload),
  encodeSuccess: encoder(event.success),
  encodeError: encoder(event.error),
  replies: event.success !== undefined || event.error !== undefined
})

/** Checks what a contract is made of; the schemas themselves are checked by the compiler. */
const check = (schemas: Schemas): void => {
  object("the contract of a channel", schemas)
  const { incoming, intercept, join, lossy, outgoing } = schemas
  for (const [name, value] of Object.entries({ incoming, join, lossy, outgoing })) {
    if (value !== undefined) object(name, value)
  }
  if (intercept !== undefined && !(Array.isArray(intercept) && intercept.every((event) => typeof event === "string"))) {
    throw new OptionError("intercept", intercept, "a list of names of events")
  }
}

export const compile = (schemas: Schemas): Compiled => {
  check(schemas)
  for (const event of Object.keys(schemas.outgoing ?? {})) {
    if (reserved.has(event)) throw new RangeError(`${event} is an event of the protocol, no channel can send it`)
  }
  const assertOutgoing = (what: string, events: ReadonlyArray<string>) => {
    for (const event of events) {
      if (schemas.outgoing !== undefined && !Object.hasOwn(schemas.outgoing, event)) {
        throw new RangeError(`the ${what} event ${event} is not among the outgoing ones`)
      }
    }
  }
  assertOutgoing("intercepted", schemas.intercept ?? [])
  assertOutgoing("lossy", Object.keys(schemas.lossy ?? {}))
  for (const [event, key] of Object.entries(schemas.lossy ?? {})) {
    if (key !== "drop" && typeof key !== "function") {
      throw new OptionError(`lossy: ${event}`, key, `"drop", or a function that names what an event is about`)
    }
  }
  if (schemas.pubsubTopic !== undefined) callable("pubsubTopic", schemas.pubsubTopic)
  return {
    join: schemas.join && compileEvent(schemas.join),
    incoming: mapValues(schemas.incoming, compileEvent),
    outgoing: mapValues(schemas.outgoing, (schema) => ({ encode: encoder(schema), decode: decoder(schema) })),
    intercept: schemas.intercept && new Set(schemas.intercept),
    lossy: schemas.lossy && new Map(Object.entries(schemas.lossy)),
    pubsubTopic: schemas.pubsubTopic
  }
}

const mapValues = <A, B>(
  record: Readonly<Record<string, A>> | undefined,
  f: (value: A) => B
): ReadonlyMap<string, B> | undefined =>
  record && new Map(Object.entries(record).map(([key, value]) => [key, f(value)]))

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/** The typed failure of a cause in which nothing else went wrong. */
export const onlyFailure = (cause: Cause.Cause<unknown>): { readonly error: unknown } | undefined => {
  const [reason] = cause.reasons
  return reason !== undefined && cause.reasons.every(Cause.isFailReason) && Cause.isFailReason(reason)
    ? { error: reason.error }
    : undefined
}

/** A channel was used at a time or in a way that it does not allow. */
export class ChannelError extends Data.TaggedError("ChannelError")<{
  readonly code: "NOT_JOINED" | "NO_REF" | "INVALID_PAYLOAD" | "RESERVED_EVENT" | "WRONG_TOPIC"
  readonly message: string
  readonly cause?: unknown
}> {}

/** The payload of a push or broadcast as it travels. */
export const encodeOutgoing = (contract: Compiled, event: string, payload: unknown): unknown => {
  if (reserved.has(event)) {
    throw new ChannelError({
      code: "RESERVED_EVENT",
      message: `${event} is an event of the protocol: do not pass on event names of clients unchecked`
    })
  }
  if (contract.outgoing === undefined) return payload
  const codec = contract.outgoing.get(event)
  if (codec !== undefined) return orThrow(codec.encode(payload))
  throw new ChannelError({ code: "INVALID_PAYLOAD", message: `the contract has no outgoing event ${event}` })
}

/** A value of the application, encoded; that it cannot be is its mistake. */
export const orThrow = <A>(exit: Exit.Exit<A, unknown>): A => {
  if (exit._tag === "Success") return exit.value
  throw new ChannelError({
    code: "INVALID_PAYLOAD",
    message: `a value of the application is not what the contract says: ${Cause.pretty(exit.cause)}`,
    cause: Cause.squash(exit.cause)
  })
}

/** What a client is told about a payload that is not as its contract says: the first thing that is wrong with it. */
export const refusal = (cause: Cause.Cause<Schema.SchemaError>): {
  readonly reason: "invalid payload"
  readonly errors: ReadonlyArray<{ readonly path: ReadonlyArray<PropertyKey>; readonly message: string }>
} => ({
  reason: "invalid payload",
  errors: cause.reasons.filter(Cause.isFailReason).flatMap(({ error }) => format(error.issue).issues).map((issue) => ({
    path: (issue.path ?? []).map((segment) => typeof segment === "object" ? segment.key : segment),
    message: issue.message
  }))
})
