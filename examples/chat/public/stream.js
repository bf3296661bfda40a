import { h, icon } from "./dom.js"
import { avatar, dayName, mentions, richText, timeOf } from "./format.js"

/** @import { Message, Notice, Room, User } from "./chat.js" */

/** The server sends this many messages at most, so fewer are all there are. */
const HISTORY_LIMIT = 50
const GROUP_MS = 5 * 60_000
const AT_BOTTOM_PX = 48

/** The messages of the room in view. Stays at the newest one, unless the user scrolled up. */
export class Stream {
  #log
  #intro
  #list
  #pill
  #user
  #onEnter
  /** @type {Room | undefined} */
  #room
  #member = false
  #atBottom = true
  #top = 0
  #missed = 0

  /**
   * @param {HTMLElement} view
   * @param {User} user
   * @param {(roomId: string) => void} onEnter becomes a member of the room
   */
  constructor(view, user, onEnter) {
    this.#log = view.querySelector(".log")
    this.#intro = view.querySelector(".room-intro")
    this.#list = view.querySelector(".messages")
    this.#pill = view.querySelector(".new-pill")
    this.#user = user
    this.#onEnter = onEnter
    this.#log.addEventListener("scroll", () => this.#scrolled(), { passive: true })
    this.#pill.addEventListener("click", () => this.#toBottom())
    new ResizeObserver(() => this.#atBottom && this.#toBottom()).observe(this.#log)
    this.#setIntro("center", h("span", { class: "spinner" }), h("p", {}, "Loading the rooms…"))
  }

  /** Says that there is no room to show. */
  showNothing() {
    this.#setIntro("center", tile("hash"), h("h2", {}, "No rooms yet"), h("p", {}, "Nobody has made a room so far."))
  }

  /** @param {Room} room the room in view, which may be another one */
  show(room) {
    if (room === this.#room && room.member === this.#member) return
    this.#room = room
    this.#member = room.member
    this.#atBottom = true
    this.redraw()
  }

  /** Draws all messages of the room in view. */
  redraw() {
    const room = this.#room
    // Not news: a screen reader need not read all of it aloud.
    this.#log.setAttribute("aria-live", "off")
    this.#log.setAttribute("aria-label", `Messages in ${room.name}`)
    const items = (room.member && room.items) || []
    this.#list.replaceChildren(...items.flatMap((item, index) => this.#nodes(item, items[index - 1])))
    this.#drawIntro()
    if (this.#atBottom) this.#toBottom()
    requestAnimationFrame(() => this.#log.setAttribute("aria-live", "polite"))
  }

  /** Draws the newest item of the room in view. */
  append() {
    const { items } = this.#room
    const item = items.at(-1)
    const nodes = this.#nodes(item, items.at(-2))
    // The event of a scroll may be yet to come.
    this.#scrolled()
    for (const node of nodes) node.classList.add("is-new")
    this.#list.append(...nodes)
    this.#drawIntro()
    if (this.#atBottom || item.user_id === this.#user.id) return this.#toBottom()
    this.#missed += 1
    this.#drawPill()
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#log
    const isNear = scrollHeight - scrollTop - clientHeight < AT_BOTTOM_PX
    // Only the user scrolls up; the distance also grows when the list gets less room.
    this.#atBottom = isNear || (this.#atBottom && scrollTop >= this.#top)
    this.#top = scrollTop
    if (this.#atBottom) this.#missed = 0
    this.#drawPill()
  }

  #toBottom() {
    this.#log.scrollTop = this.#log.scrollHeight
    this.#atBottom = true
    this.#missed = 0
    this.#drawPill()
  }

  #drawPill() {
    this.#pill.hidden = this.#missed === 0
    this.#pill.lastElementChild.textContent = this.#missed === 1 ? "1 new message" : `${this.#missed} new messages`
  }

  /** What stands above the messages, or in their place. */
  #drawIntro() {
    const room = this.#room
    if (!room.member) {
      const join = h("button", { class: "button", type: "button" }, `Join ${room.name}`)
      join.addEventListener("click", () => this.#onEnter(room.id))
      const lead = "Only members can read and write here. Join to see what has been said so far."
      return this.#setIntro(
        "center",
        tile("lock"),
        h("h2", {}, `You are not in ${room.name} yet`),
        h("p", {}, lead),
        join
      )
    }
    if (!room.items) return this.#setIntro("skeleton", ...[58, 36, 72, 44].map(placeholder))
    if (room.items.length >= HISTORY_LIMIT) return this.#setIntro("none")
    const lead = room.items.length === 0 ? "Nobody has written here yet. Say hello!" : "This is where it all began."
    this.#setIntro("start", tile("hash"), h("h2", {}, `Welcome to ${room.name}`), h("p", {}, lead))
  }

  #setIntro(kind, ...children) {
    this.#intro.dataset.kind = kind
    this.#intro.replaceChildren(...children)
  }

  /** @param {Message | Notice} item @param {Message | Notice | undefined} previous the one above */
  #nodes(item, previous) {
    if (item.notice !== undefined) {
      return [h("li", { class: "notice", "data-testid": "notice" }, icon("info"), h("span", {}, item.notice))]
    }
    const isFirstUnread = item.id === this.#room.firstUnread
    const date = new Date(item.inserted_at)
    const day = dayName(date)
    const isNewDay = previous?.notice === undefined && (!previous || dayName(new Date(previous.inserted_at)) !== day)
    const isGrouped = !isNewDay && !isFirstUnread && previous.user_id === item.user_id
      && date - new Date(previous.inserted_at) < GROUP_MS
    return [
      ...(isNewDay ? [h("li", { class: "divider" }, h("span", {}, day))] : []),
      ...(isFirstUnread ? [h("li", { class: "divider is-unread" }, h("span", {}, "New"))] : []),
      this.#messageNode(item, date, isGrouped)
    ]
  }

  #messageNode(message, date, isGrouped) {
    const isMention = message.user_id !== this.#user.id && mentions(message.body, this.#user)
    const body = h(
      "div",
      { class: "message-body", "data-testid": "message-body" },
      ...richText(message.body, this.#user)
    )
    const classes = ["message", isGrouped ? "is-grouped" : "", isMention ? "is-mention" : ""].join(" ").trim()
    const node = h("li", { class: classes, "data-testid": "message", "data-user": message.user_id })
    if (isGrouped) {
      node.append(timeOf(date), h("span", { class: "visually-hidden" }, message.user_name), body)
    } else {
      const author = h("span", { class: "author" }, message.user_name)
      node.append(avatar(message.user_name), h("div", { class: "message-head" }, author, timeOf(date)), body)
    }
    return node
  }
}

const tile = (name) => h("span", { class: "tile" }, icon(name))

const placeholder = (width) => {
  const line = h("span", { class: "placeholder", "aria-hidden": "true" })
  line.style.setProperty("--width", `${width}%`)
  return line
}
