/** The deliberate differences from Phoenix that a recording shows, as docs/differences.md lists them. */
import { readFileSync } from "node:fs"

/**
 * A pattern of frames that one side sends and the other does not. It stands in the document under the difference, in a
 * fenced block of the language `recordings`: lines `phoenix: /.../` or `ours: /.../`.
 */
export interface Pattern {
  /** The difference it belongs to. */
  readonly id: string
  /** Who sends such frames. */
  readonly side: "phoenix" | "ours"
  readonly frames: RegExp
  /** How many frames it has matched. */
  matched: number
}

const document = readFileSync("docs/differences.md", "utf8")

/** A difference, as the document has it. */
export interface Section {
  readonly id: string
  readonly text: string
}

export const sections: ReadonlyArray<Section> = document.split(/^### /m).slice(1).map((section) => {
  const end = section.indexOf("\n")
  return { id: section.slice(0, end), text: section.slice(end + 1) }
})

const parse = (id: string, line: string): Pattern => {
  const [, side, source] = /^(phoenix|ours): \/(.+)\/$/.exec(line) ?? []
  if ((side !== "phoenix" && side !== "ours") || source === undefined) {
    throw new Error(`docs/differences.md, ${id}: not a line of a recordings block: ${line}`)
  }
  return { id, side, frames: new RegExp(source), matched: 0 }
}

export const patterns: ReadonlyArray<Pattern> = sections.flatMap(({ id, text }) =>
  [...text.matchAll(/^```recordings\n([^]*?)^```$/gm)].flatMap(([, block = ""]) =>
    block.trim().split("\n").map((line) => parse(id, line))
  )
)

/** Whether one side sends an event that the other is not expected to. */
export const isDifference = (side: Pattern["side"], event: unknown): boolean => {
  const text = JSON.stringify(event)
  const found = patterns.filter((pattern) => pattern.side === side && pattern.frames.test(text))
  for (const pattern of found) pattern.matched++
  return found.length > 0
}
