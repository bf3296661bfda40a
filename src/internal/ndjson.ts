/** What a long-poll client has posted, taken apart into frames. */
import { Result } from "effect"

/** Why a body is refused, whole: `encoding` it is not UTF-8, `base64` an entry is none, `length` an entry is too long. */
export type Problem = "encoding" | "base64" | "length"

/** Entries after these are ignored. */
export const maxEntries = 100

/** The longest base64 entry, in characters. */
export const maxBase64 = 10_000_000

/** Returns true for the content type of frames in lines. Media types have parameters, and no case. */
export const isNdjson = (contentType: string | undefined): boolean =>
  contentType?.split(";", 1)[0]?.trim().toLowerCase() === "application/x-ndjson"

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** The body as text. */
export const decodeText = (body: ArrayBuffer): Result.Result<string, Problem> => {
  try {
    return Result.succeed(utf8.decode(body))
  } catch {
    return Result.fail("encoding")
  }
}

/** One frame for each line: JSON, which begins with a bracket, as text, and base64 as bytes. Empty lines are none. */
export const decodeLines = (body: string): Result.Result<ReadonlyArray<string | Uint8Array>, Problem> => {
  const frames: Array<string | Uint8Array> = []
  for (let start = 0; start < body.length && frames.length < maxEntries;) {
    const newline = body.indexOf("\n", start)
    const end = newline === -1 ? body.length : newline
    const line = body.slice(start, newline > start && body[newline - 1] === "\r" ? newline - 1 : end)
    start = end + 1
    if (line === "") continue
    if (line.startsWith("[")) {
      frames.push(line)
      continue
    }
    if (line.length > maxBase64) return Result.fail("length")
    const bytes = Buffer.from(line, "base64")
    // Node decodes everything somehow; what is encoded as it was has been base64.
    if (bytes.toString("base64") !== line) return Result.fail("base64")
    frames.push(bytes)
  }
  return Result.succeed(frames)
}
