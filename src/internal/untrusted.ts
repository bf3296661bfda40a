/**
 * Everything that a client says is made safe here before it reaches a log line, a span or a metric: it is cut, so that it
 * cannot fill a log, and escaped, so that it cannot forge a line or steer a terminal.
 */

/** Characters of a text that are shown. */
export const maxBriefLength = 100

/** Control characters, what a terminal takes for commands, line separators, and what changes the direction of text. */
const unsafe = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}\ufeff]/gu
const unsafeOnce = new RegExp(unsafe.source, "u")

const escapeOne = (character: string): string => {
  switch (character) {
    case "\n":
      return "\\n"
    case "\r":
      return "\\r"
    case "\t":
      return "\\t"
    default:
      return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  }
}

/** Text as it may stand in a line: on one line, and without anything that a terminal obeys. */
export const escape = (text: string): string => unsafeOnce.test(text) ? text.replace(unsafe, escapeOne) : text

/** Text that is cut after `length` characters and escaped. */
export const shorten = (text: string, length: number): string =>
  text.length <= length
    ? escape(text)
    : `${escape(text.slice(0, length).toWellFormed())}… (${text.length - length} more characters)`

/** Makes a name that a client has sent short and safe enough for a log line. Objects are not looked into. */
export const brief = (value: unknown): unknown => {
  const text = typeof value === "string"
    ? value
    : value === null || typeof value !== "object"
    ? String(value)
    : "object"
  return text.length <= maxBriefLength
    ? escape(text)
    : `${escape(text.slice(0, maxBriefLength).toWellFormed())}...`
}

/** Something that has a name from a client, which is made safe only when it is read: most never are. */
export class Named {
  private readonly kind: string
  private readonly name: string

  constructor(kind: string, name: string) {
    this.kind = kind
    this.name = name
  }

  get label(): string {
    return `${this.kind} ${brief(this.name)}`
  }
}
