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
