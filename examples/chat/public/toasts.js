import { h, icon } from "./dom.js"
import { avatar } from "./format.js"

const SHOWN_MS = 6000
const MAX_SHOWN = 3

/** Short messages in the corner that go away by themselves, but not while they are pointed at. */
export class Toasts {
  #container

  /** @param {HTMLElement} container */
  constructor(container) {
    this.#container = container
  }

  /** @param {{from: string, roomId: string, roomName: string, body: string, onOpen: () => void}} mention */
  mention({ from, roomId, roomName, body, onOpen }) {
    const title = h("span", { class: "toast-title" }, h("b", {}, from), ` in ${roomName}`)
    const text = h("span", { class: "toast-text" }, title, h("span", { class: "toast-body" }, body))
    const open = h("button", { class: "toast-open", type: "button" }, avatar(from), text)
    open.addEventListener("click", onOpen)
    this.#show(open).dataset.room = roomId
  }

  /** Removes the mentions in a room, once they were seen there. @param {string} roomId */
  dismiss(roomId) {
    for (const toast of this.#container.querySelectorAll(".toast")) if (toast.dataset.room === roomId) toast.remove()
  }

  /** @param {string} message */
  problem(message) {
    this.#show(h("p", { class: "toast-problem" }, icon("warning"), message))
  }

  #show(content) {
    const close = h("button", { class: "icon-button", type: "button", "aria-label": "Dismiss" }, icon("close"))
    const toast = h("div", { class: "toast", "data-testid": "toast" }, content, close)
    close.addEventListener("click", () => toast.remove())

    let timer
    const wait = () => timer = setTimeout(() => toast.remove(), SHOWN_MS)
    const hold = () => clearTimeout(timer)
    toast.addEventListener("pointerenter", hold)
    toast.addEventListener("focusin", hold)
    toast.addEventListener("pointerleave", wait)
    toast.addEventListener("focusout", wait)
    wait()

    this.#container.append(toast)
    while (this.#container.children.length > MAX_SHOWN) this.#container.firstElementChild.remove()
    return toast
  }
}
