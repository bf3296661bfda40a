/** Sizes of values, looked at no further than a limit: a client, or a broadcast, may bring any. */

/** Tells whether a text takes at most `max` bytes in UTF-8. Most texts are so short that nothing has to be counted. */
export const isTextWithin = (text: string, max: number): boolean =>
  text.length * 3 <= max || (text.length <= max && Buffer.byteLength(text) <= max)

const isPlain = (value: object): value is Readonly<Record<string, unknown>> => {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

/** Returns how many of `max` bytes a value leaves as JSON in UTF-8; negative if it is larger, or no JSON. */
const leftAfter = (value: unknown, max: number): number => {
  if (value === null) return max - 4
  switch (typeof value) {
    case "string":
      return value.length > max ? -1 : max - Buffer.byteLength(JSON.stringify(value))
    case "boolean":
      return max - (value ? 4 : 5)
    case "number":
      return Number.isFinite(value) ? max - String(value).length : -1
    case "object":
      break
    default:
      return -1
  }
  let left = max - 2
  if (Array.isArray(value)) {
    if (value.length - 1 > left) return -1
    for (let index = 0; index < value.length && left >= 0; index++) {
      left = leftAfter(value[index], index === 0 ? left : left - 1)
    }
    return left
  }
  if (!isPlain(value)) return -1
  let isFirst = true
  for (const key in value) {
    if (left < 0) return left
    left = leftAfter(key, isFirst ? left : left - 1)
    if (left >= 0) left = leftAfter(value[key], left - 1)
    isFirst = false
  }
  return left
}

/** Tells whether a value is JSON of at most `max` bytes. It is looked at no further than that. */
export const isJsonWithin = (value: unknown, max: number): boolean => leftAfter(value, max) >= 0

const quote = 34
const comma = 44
const colon = 58
const openList = 91
const backslash = 92
const openObject = 123

/** Texts inside of JSON are looked at byte by byte for so long; in longer ones the end is searched for, which is faster. */
const longText = 64

/**
 * Counts the values of JSON without reading it: a list counts as many as there are in it, an object twice as many, for
 * their names, and each counts one where it is empty. Text that is no JSON counts anything. Counting ends soon after `limit`.
 */
export const countValues = (json: string | Uint8Array, limit: number): number =>
  typeof json === "string" ? countInText(json, limit) : countInBytes(json, limit)

const countInBytes = (json: Uint8Array, limit: number): number => {
  let count = 0
  for (let at = 0; at < json.length && count <= limit; at++) {
    const byte = json[at]
    if (byte === comma || byte === colon || byte === openList || byte === openObject) count++
    else if (byte === quote) {
      at = endOfText(json, at + 1)
    }
  }
  return count
}

/** Returns the end of a text: at its quote, or after all there is. */
const endOfText = (json: Uint8Array, start: number): number => {
  let near = start + longText
  let at = start
  for (; at < json.length && json[at] !== quote; at++) {
    if (json[at] === backslash) at++
    else if (at >= near) {
      const end = json.indexOf(quote, at)
      if (end === -1) return json.length
      let escapes = 0
      while (end - escapes > at && json[end - escapes - 1] === backslash) escapes++
      if (escapes % 2 === 0) return end
      at = end
      near = end + longText
    }
  }
  return at
}

const countInText = (json: string, limit: number): number => {
  let count = 0
  for (let at = 0; at < json.length && count <= limit; at++) {
    const code = json.charCodeAt(at)
    if (code === comma || code === colon || code === openList || code === openObject) count++
    else if (code === quote) {
      for (at++; at < json.length && json.charCodeAt(at) !== quote; at++) if (json.charCodeAt(at) === backslash) at++
    }
  }
  return count
}

/** About what the parts of a value take in memory: a list or object, and each of its places. */
const objectBytes = 48
const placeBytes = 8

/** About how many bytes a value takes in memory; counting ends soon after `limit`. It never throws, whatever a value does. */
export const roughSize = (value: unknown, limit: number): number => {
  try {
    return addSize(value, 0, limit, 0)
  } catch {
    return limit
  }
}

const maxLevels = 1000

const addSize = (value: unknown, before: number, limit: number, level: number): number => {
  if (typeof value === "string") return before + 16 + value.length
  if (typeof value !== "object" || value === null) return before
  if (ArrayBuffer.isView(value)) return before + objectBytes + value.byteLength
  // Deeper than that it is made to be large, or goes in a circle.
  if (level === maxLevels) return limit
  let size = before + objectBytes
  if (Array.isArray(value)) {
    size += value.length * placeBytes
    for (let index = 0; index < value.length && size < limit; index++) {
      size = addSize(value[index], size, limit, level + 1)
    }
    return size
  }
  const entries = value as Readonly<Record<string, unknown>>
  for (const key in entries) {
    if (size >= limit) return size
    size = addSize(entries[key], size + placeBytes, limit, level + 1)
  }
  return size
}
