import { h, icon } from "./dom.js"

/** @import { Room } from "./chat.js" */

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`

/** The list of rooms: those one is a member of, then the others with a button to join. */
export class Sidebar {
  #onOpen
  #onEnter
  #joined = section("Rooms")
  #others = section("More rooms")
  /** @type {Map<string, Record<string, HTMLElement>>} by room id */
  #rows = new Map()

  /**
   * @param {HTMLElement} nav
   * @param {(roomId: string) => void} onOpen brings the room into view
   * @param {(roomId: string) => void} onEnter becomes a member of the room
   */
  constructor(nav, onOpen, onEnter) {
    this.#onOpen = onOpen
    this.#onEnter = onEnter
    nav.append(this.#joined.element, this.#others.element)
  }

  /** @param {Room[]} rooms @param {Room | undefined} active */
  draw(rooms, active) {
    this.#drawSection(this.#joined, rooms.filter((room) => room.member), active)
    this.#drawSection(this.#others, rooms.filter((room) => !room.member), active)
  }

  #drawSection({ element, list }, rooms, active) {
    element.hidden = rooms.length === 0
    rooms.forEach((room, index) => {
      const row = this.#rows.get(room.id) ?? this.#createRow(room)
      drawRow(row, room, room === active)
      // Only what is out of place is moved, as moving takes the focus away.
      if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null)
    })
  }

  #createRow(room) {
    const glyph = h("span", { class: "room-glyph" })
    const name = h("span", { class: "room-name" })
    const status = h("span", { class: "visually-hidden" })
    const badges = h("span", { class: "badges" })
    const button = h(
      "button",
      { class: "room-button", type: "button", "data-testid": `room-${room.id}` },
      glyph,
      name,
      status,
      badges
    )
    const join = h("button", { class: "join-button", type: "button", "data-testid": `join-${room.id}` }, "Join")
    join.setAttribute("aria-label", `Join ${room.name}`)
    button.addEventListener("click", () => this.#onOpen(room.id))
    join.addEventListener("click", () => this.#onEnter(room.id))
    const row = { item: h("li", {}, button), button, glyph, name, status, badges, join }
    this.#rows.set(room.id, row)
    return row
  }
}

/** @param {Record<string, HTMLElement>} row @param {Room} room @param {boolean} isActive */
function drawRow(row, room, isActive) {
  row.button.dataset.state = room.state
  row.button.dataset.joined = String(room.state === "joined")
  row.button.dataset.unread = String(room.unread)
  row.button.toggleAttribute("aria-current", isActive)
  row.name.textContent = room.name
  row.glyph.classList.toggle("is-crashed", room.crashed)
  row.glyph.replaceChildren(icon(!room.member ? "lock" : room.crashed ? "warning" : "hash"))
  row.status.textContent = describe(room)
  row.badges.replaceChildren(
    ...(room.mentioned > 0 ? [h("span", { class: "badge is-mention", "aria-hidden": "true" }, "@")] : []),
    ...(room.unread > 0
      ? [h("span", { class: "badge", "aria-hidden": "true" }, String(Math.min(room.unread, 99)))]
      : [])
  )
  if (room.member) row.join.remove()
  else row.item.append(row.join)
}

/** The look of a row in words. @param {Room} room */
function describe(room) {
  return [
    ...(room.state === "errored" ? [room.crashed ? "crashed" : "not connected"] : []),
    ...(room.mentioned > 0 ? [plural(room.mentioned, "mention")] : []),
    ...(room.unread > 0 ? [plural(room.unread, "unread message")] : [])
  ].map((part) => `, ${part}`).join("")
}

function section(title) {
  const list = h("ul", { "aria-label": title })
  return { list, element: h("section", {}, h("h2", {}, title), list) }
}
