import { isIPv6 } from "node:net"

/**
 * Names the owner of an address, for limits: an address of IPv4, also where it is written as one of IPv6, or the network of 64 bits of
 * an address of IPv6, because each household has one, and in it more addresses than anybody could count.
 */
export const networkOf = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined || !isIPv6(address)) return mapped ?? address
  const [head = "", tail] = (address.split("%", 1)[0] ?? "").toLowerCase().split("::")
  const groups = (text: string) => text === "" ? [] : text.split(":")
  const before = groups(head)
  const after = groups(tail ?? "")
  // An address of IPv4 at the end takes the place of two groups.
  const length = before.length + after.length + (address.includes(".") ? 1 : 0)
  const all = tail === undefined ? before : [...before, ...Array.from({ length: 8 - length }, () => "0"), ...after]
  return `${all.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, "")).join(":")}::/64`
}
