import { createHash } from "node:crypto"

/** A subject of NATS has to fit into a line of 4096 bytes, whatever a client makes up as a topic. */
const maxLength = 200

const escape = (character: string): string => `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`

/**
 * A word for a topic or a node, fit for the channels of Redis and the subjects of NATS, and for no other topic: letters,
 * digits, `-`, `_` and `:` stay, other characters are escaped as in URLs, and what is long becomes a `#` and a hash.
 */
export const channelName = (name: string): string => {
  if (name !== "" && name.length <= maxLength && name.isWellFormed()) {
    const word = encodeURIComponent(name).replaceAll(/[.!~*'()]/g, escape).replaceAll("%3A", ":")
    if (word.length <= maxLength) return word
  }
  // By its code units: UTF-8 has the same replacement for every half of a surrogate pair.
  return `#${createHash("sha256").update(name, "utf16le").digest("hex")}`
}
