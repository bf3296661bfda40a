import { type Cause, Clock, Context, Effect, type Exit, References, Tracer } from "effect"

/** Spans are made for those who look at them: where a Tracer is provided. */
export const isTraced = (context: Context.Context<never>): boolean => context.mapUnsafe.has(Tracer.Tracer.key)

export interface SpanOptions {
  readonly parent?: Tracer.AnySpan | undefined
  readonly kind: Tracer.SpanKind
  readonly attributes: Record<string, unknown>
}

/** Tracers that have thrown, each of which is logged once: they would with every message. */
const broken = new WeakSet<Tracer.Tracer>()

const failed = (cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.flatMap(Effect.tracer, (tracer) => {
    if (broken.has(tracer)) return Effect.void
    broken.add(tracer)
    return Effect.logError("the Tracer of the application has thrown: spans are missing until that is corrected", cause)
  })

/**
 * Runs an effect inside a span; `result` says in a word how it ended. Where the Tracer throws, the effect runs without a span,
 * which must not cost a client its connection.
 */
export const inSpan = <A, E, R>(
  name: string,
  { parent, ...options }: SpanOptions,
  result: (exit: Exit.Exit<A, E>) => string,
  effect: (span: Tracer.Span | undefined) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> =>
  Effect.flatMap(
    Effect.exit(Effect.makeSpan(name, parent === undefined ? options : { ...options, parent })),
    (made): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> => {
      if (made._tag === "Failure") {
        return Effect.andThen(
          failed(made.cause),
          effect(undefined) as Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>>
        )
      }
      const span = made.value
      return effect(span).pipe(
        Effect.provideService(Tracer.ParentSpan, span),
        Effect.onExit((exit) => Effect.catchCause(end(span, exit, result(exit)), failed))
      )
    }
  )

const end = (span: Tracer.Span, exit: Exit.Exit<unknown, unknown>, result: string): Effect.Effect<void> =>
  Effect.flatMap(Effect.all([Clock.Clock, References.TracerTimingEnabled]), ([clock, isTimed]) =>
    Effect.sync(() => {
      span.attribute("channels.result", result)
      // oxlint-disable-next-line no-restricted-properties -- no duration: spans are told by the wall clock
      if (span.status._tag !== "Ended") span.end(isTimed ? clock.currentTimeNanosUnsafe() : 0n, exit)
    }))

/** The span that a fiber works in, as the header `traceparent` of https://www.w3.org/TR/trace-context says it. */
export const traceparent = (context: Context.Context<never>): string | undefined => {
  const span = Context.getOrUndefined(context, Tracer.ParentSpan)
  return span && `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}`
}

/** The span that a {@link traceparent} names, if it is one. */
export const externalSpan = (traceparent: string): Tracer.ExternalSpan | undefined => {
  const [, traceId, spanId, flags] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(traceparent) ?? []
  if (traceId === undefined || spanId === undefined || flags === undefined) return undefined
  return Tracer.externalSpan({ traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 })
}
