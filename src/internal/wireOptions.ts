import type { Duration } from "effect"
import { type Rate, rateOf } from "./limits.ts"
import { duration, given, OptionError, wholeNumber } from "./options.ts"

/** Options of the wire as an application gives them; those of `transport/WebSocket.ts` say what they are. */
export interface GivenWireOptions {
  readonly timeout?: Duration.Input | undefined
  readonly maxFrameSize?: number | undefined
  readonly maxByteRate?: Rate | false | undefined
  readonly maxBufferedBytes?: number | undefined
  readonly stallTimeout?: Duration.Input | undefined
  readonly maxBacklogBytes?: number | undefined
  readonly maxTotalBacklogBytes?: number | undefined
  readonly compress?: boolean | GivenCompressOptions | undefined
}

export interface GivenCompressOptions {
  readonly threshold?: number | undefined
  readonly maxMessageSize?: number | undefined
  readonly rate?: Rate | false | undefined
}

/** Options of the wire that make sense. Durations are in milliseconds. */
export interface WireOptions {
  readonly timeout: number
  readonly maxFrameSize: number
  readonly byteRate: Rate | undefined
  readonly maxBufferedBytes: number
  readonly stallTimeout: number
  readonly maxBacklogBytes: number
  readonly maxTotalBacklogBytes: number
  readonly compress: boolean
  readonly threshold: number
  readonly maxMessageSize: number
  readonly inflateRate: Rate | undefined
}

export const wireDefaults = {
  timeout: "60 seconds",
  maxFrameSize: 10_000_000,
  maxByteRate: { perSecond: 5_000_000, burst: 10_000_000 },
  maxBufferedBytes: 4_000_000,
  stallTimeout: "30 seconds",
  maxBacklogBytes: 64_000_000,
  maxTotalBacklogBytes: 256_000_000,
  threshold: 1024,
  maxMessageSize: 1_000_000,
  inflateRate: { perSecond: 1_000_000, burst: 4_000_000 }
} as const

/** `ws` counts in 32 bits. */
const maxFrame = 2 ** 31 - 1

const bytes = { unit: "bytes", unlimited: true } as const

/** Checks the options of the wire; `owner` says whose they are. */
export const wireOptionsOf = (owner: string, options: GivenWireOptions): WireOptions => {
  const named = (option: keyof GivenWireOptions) => `${owner}: ${option}`
  const maxFrameSize = wholeNumber(named("maxFrameSize"), given(options.maxFrameSize, wireDefaults.maxFrameSize), {
    ...bytes,
    max: maxFrame
  })
  const maxBufferedBytes = wholeNumber(
    named("maxBufferedBytes"),
    given(options.maxBufferedBytes, wireDefaults.maxBufferedBytes),
    bytes
  )
  const maxBacklogBytes = wholeNumber(
    named("maxBacklogBytes"),
    given(options.maxBacklogBytes, Math.max(wireDefaults.maxBacklogBytes, maxBufferedBytes)),
    { ...bytes, min: maxBufferedBytes }
  )
  return {
    timeout: duration(named("timeout"), given(options.timeout, wireDefaults.timeout), { unlimited: true }),
    maxFrameSize,
    byteRate: rateOf(named("maxByteRate"), given(options.maxByteRate, wireDefaults.maxByteRate)),
    maxBufferedBytes,
    stallTimeout: duration(named("stallTimeout"), given(options.stallTimeout, wireDefaults.stallTimeout), {
      unlimited: true
    }),
    maxBacklogBytes,
    maxTotalBacklogBytes: wholeNumber(
      named("maxTotalBacklogBytes"),
      given(options.maxTotalBacklogBytes, Math.max(wireDefaults.maxTotalBacklogBytes, maxBacklogBytes)),
      { ...bytes, min: maxBacklogBytes }
    ),
    ...compressOptionsOf(named("compress"), given(options.compress, false), maxFrameSize)
  }
}

const compressOptionsOf = (owner: string, compress: boolean | GivenCompressOptions, maxFrameSize: number) => {
  if (typeof compress !== "boolean" && (typeof compress !== "object" || compress === null || Array.isArray(compress))) {
    throw new OptionError(owner, compress, "true, false, or { threshold, maxMessageSize, rate }")
  }
  const options: GivenCompressOptions = typeof compress === "boolean" ? {} : compress
  return {
    compress: compress !== false,
    threshold: wholeNumber(`${owner}: threshold`, given(options.threshold, wireDefaults.threshold), {
      ...bytes,
      min: 0
    }),
    maxMessageSize: wholeNumber(
      `${owner}: maxMessageSize`,
      given(options.maxMessageSize, Math.min(wireDefaults.maxMessageSize, maxFrameSize)),
      bytes
    ),
    inflateRate: rateOf(`${owner}: rate`, given(options.rate, wireDefaults.inflateRate))
  }
}
