import { Context, Effect, type Exit, Tracer } from "effect"

/** Spans are made for those who look at them: where a Tracer is provided. */
export const isTraced = (context: Context.Context<never>): boolean => context.mapUnsafe.has(Tracer.Tracer.key)

export interface SpanOptions {
  readonly parent?: Tracer.AnySpan | undefined
  readonly kind: Tracer.SpanKind
  readonly attributes: Record<string, unknown>
}

/** Runs an effect inside a span; `result` says in a word how it ended. */
export const inSpan = <A, E, R>(
  name: string,
  { parent, ...options }: SpanOptions,
  result: (exit: Exit.Exit<A, E>) => string,
  effect: (span: Tracer.Span) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> =>
  Effect.useSpan(name, parent === undefined ? options : { ...options, parent }, (span) =>
    effect(span).pipe(
      Effect.onExit((exit) => Effect.sync(() => span.attribute("channels.result", result(exit)))),
      Effect.provideService(Tracer.ParentSpan, span)
    ))

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
