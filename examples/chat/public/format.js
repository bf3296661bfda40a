import { h } from "./dom.js"

const MENTION = /(?<![\p{L}\p{N}])@[\p{L}\p{N}_-]+/gu
const MENTION_OR_LINK = new RegExp(`(https?://[^\\s<>"]*[^\\s<>".,;:!?)']|${MENTION.source})`, "u")
const HUES = [15, 45, 150, 185, 235, 265, 300, 345]
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" })
const fullDate = new Intl.DateTimeFormat("en", { dateStyle: "full", timeStyle: "short" })
const weekday = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long" })
const relativeDay = new Intl.RelativeTimeFormat("en", { numeric: "auto" })

/** The coloured initials of a user; the colour follows from the name alone. */
export function avatar(name) {
  const words = name.trim().split(/\s+/)
  const initials = [words[0], words.length > 1 ? words.at(-1) : ""].map((word) => [...word][0] ?? "").join("")
  let hash = 0
  for (const char of name.toLowerCase()) hash = (hash * 137 + char.codePointAt(0)) % 997
  const element = h("span", { class: "avatar", "aria-hidden": "true" }, initials.toUpperCase())
  element.style.setProperty("--hue", HUES[hash % HUES.length])
  return element
}

/** @param {Date} date */
export function timeOf(date) {
  return h("time", { datetime: date.toISOString(), title: fullDate.format(date) }, clock.format(date))
}

/** "Today", "Yesterday", or the date. */
export function dayName(date, now = new Date()) {
  const midnight = (value) => new Date(value).setHours(0, 0, 0, 0)
  const days = Math.round((midnight(date) - midnight(now)) / 86_400_000)
  if (days < -1 || days > 0) return weekday.format(date)
  const name = relativeDay.format(days, "day")
  return name[0].toUpperCase() + name.slice(1)
}

/** @param {string} body @param {{id: string, name: string}} user */
export function mentions(body, user) {
  return (body.match(MENTION) ?? []).some((mention) => isUser(mention, user))
}

/**
 * The text of a message as nodes: mentions and http links are marked, all else is plain text.
 *
 * @param {string} body
 * @param {{id: string, name: string}} user the one who reads
 */
export function richText(body, user) {
  return body.split(MENTION_OR_LINK).map((part, index) => {
    if (index % 2 === 0) return part
    if (part.startsWith("@")) return h("span", { class: isUser(part, user) ? "mention is-me" : "mention" }, part)
    return h("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part)
  })
}

/** "Ada is typing…" @param {string[]} names */
export function typingText(names) {
  if (names.length === 0) return ""
  if (names.length === 1) return `${names[0]} is typing…`
  if (names.length === 2) return `${names[0]} and ${names[1]} are typing…`
  return "Several people are typing…"
}

function isUser(mention, user) {
  const name = mention.slice(1).toLowerCase()
  return name === user.id.toLowerCase() || name === user.name.toLowerCase()
}
