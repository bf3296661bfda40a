/** @import { Room } from "./chat.js" */

const PLACEHOLDER = { joining: "Joining…", errored: "Rejoining…", closed: "Not joined" }

/** Where messages are written. Keeps what was not sent by room. */
export class Composer {
  #footer
  #form
  #input
  #send
  #error
  #chat
  /** @type {Room | undefined} */
  #room
  /** @type {Map<string, string>} by room id */
  #drafts = new Map()
  #wantsFocus = false

  /**
   * @param {HTMLElement} view
   * @param {import("./chat.js").Chat} chat
   */
  constructor(view, chat) {
    this.#footer = view.querySelector(".room-footer")
    this.#form = view.querySelector(".composer")
    this.#input = view.querySelector(".composer textarea")
    this.#send = view.querySelector(".composer .send")
    this.#error = view.querySelector("#composer-error")
    this.#chat = chat
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault()
      this.#submit()
    })
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return
      event.preventDefault()
      this.#submit()
    })
    this.#input.addEventListener("input", () => this.#typed())
    // A touch on the button would hide the keyboard of a phone.
    this.#send.addEventListener("pointerdown", (event) => event.preventDefault())
  }

  /** @param {Room} room the room in view, which may be another one */
  show(room) {
    this.#footer.hidden = !room.member
    this.#input.placeholder = PLACEHOLDER[room.state] ?? `Message ${room.name}`
    if (room !== this.#room) {
      if (this.#room) this.#drafts.set(this.#room.id, this.#input.value)
      this.#room = room
      this.#write(this.#drafts.get(room.id) ?? "")
      this.#fail("")
    }
    this.#input.setAttribute("aria-label", `Message to ${room.name}`)
    this.#enable(room.state === "joined")
  }

  focus() {
    this.#wantsFocus = true
    this.#input.focus()
  }

  #enable(isEnabled) {
    if (isEnabled === !this.#input.disabled) return
    // A field loses the focus when it is disabled; whoever was writing gets it back.
    if (!isEnabled) this.#wantsFocus = document.activeElement === this.#input
    this.#input.disabled = !isEnabled
    this.#send.disabled = !isEnabled
    if (isEnabled && this.#wantsFocus && document.activeElement === document.body) this.focus()
  }

  #typed() {
    this.#fail("")
    this.#resize()
    const text = this.#input.value.trim()
    this.#chat.typing(this.#room, text !== "" && !text.startsWith("/"))
  }

  async #submit() {
    if (this.#input.disabled) return
    const room = this.#room
    const body = this.#input.value
    this.#write("")
    this.#fail("")
    const error = await this.#chat.send(room, body)
    if (!error) return
    if (room !== this.#room) return this.#drafts.set(room.id, body)
    if (this.#input.value === "") this.#write(body)
    this.#fail(error)
  }

  #write(text) {
    this.#input.value = text
    this.#resize()
  }

  #resize() {
    this.#input.style.height = "auto"
    this.#input.style.height = `${this.#input.scrollHeight}px`
    this.#form.classList.toggle("has-text", this.#input.value.trim() !== "")
  }

  #fail(message) {
    this.#error.textContent = message
    this.#input.setAttribute("aria-invalid", String(message !== ""))
  }
}
