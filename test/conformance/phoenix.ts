/** phoenix.js as its users know it; the package comes without types. */
// @ts-expect-error the package comes without types
import { LongPoll as AnyLongPoll, Socket as AnySocket } from "phoenix"

export interface Push {
  receive(status: string, callback: (response: unknown) => void): Push
}

export interface Channel {
  readonly state: string
  readonly topic: string
  join(timeout?: number): Push
  leave(): Push
  push(event: string, payload: object, timeout?: number): Push
  on(event: string, callback: (payload: unknown) => void): number
  onError(callback: (reason: unknown) => void): void
  onClose(callback: (reason: unknown) => void): void
}

export interface Message {
  readonly join_ref: string | null
  readonly ref: string | null
  readonly topic: string
  readonly event: string
  readonly payload: unknown
}

type Decode = (data: string | ArrayBuffer, callback: (message: Message) => void) => void

export interface Options {
  readonly params?: object | (() => object)
  readonly transport?: unknown
  readonly timeout?: number
  readonly heartbeatIntervalMs?: number
  readonly longPollFallbackMs?: number
  readonly authToken?: string | (() => string)
  readonly vsn?: string
  readonly encode?: (message: Message, callback: (data: string) => void) => void
  readonly decode?: Decode
  readonly sessionStorage?: Pick<Storage, "getItem" | "setItem">
  readonly reconnectAfterMs?: (tries: number) => number
  readonly rejoinAfterMs?: (tries: number) => number
}

export interface Socket {
  readonly transport: unknown
  readonly channels: ReadonlyArray<Channel>
  decode: Decode
  connect(): void
  disconnect(callback?: () => void, code?: number, reason?: string): void
  channel(topic: string, params?: object | (() => object)): Channel
  isConnected(): boolean
  onOpen(callback: () => void): void
  onClose(callback: (event: { readonly code: number }) => void): void
  onError(callback: (error: unknown) => void): void
  onMessage(callback: (message: Message) => void): void
}

export const Socket: new(endPoint: string, options?: Options) => Socket = AnySocket
export const LongPoll: unknown = AnyLongPoll

/** The response of the first reply with a status; another reply, or none in time, is an error. */
export const response = (push: Push, expected = "ok"): Promise<unknown> =>
  new Promise((resolve, reject) => {
    for (const status of ["ok", "error", "timeout"]) {
      push.receive(status, (response) => {
        if (status === expected) resolve(response)
        else reject(new Error(`${status}: ${JSON.stringify(response)}`))
      })
    }
  })
