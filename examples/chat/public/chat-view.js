import { Chat } from "./chat.js"
import { Composer } from "./composer.js"
import { h, icon, mount } from "./dom.js"
import { avatar, typingText } from "./format.js"
import { Nodes } from "./nodes.js"
import { Sidebar } from "./sidebar.js"
import { Stream } from "./stream.js"
import { Toasts } from "./toasts.js"

/** @import { Room, Session } from "./chat.js" */

const CONNECTION = {
  connecting: "Connecting…",
  connected: "Connected",
  reconnecting: "Reconnecting…",
  disconnected: "Disconnected"
}

/** How many of those who are online are shown by face. */
const FACES = 5

/**
 * Wires what the chat says to what the page shows.
 *
 * @param {Session} session
 * @param {() => void} onLogout
 */
export function showChat(session, onLogout) {
  const view = mount("chat-view")
  const $ = (selector) => view.querySelector(selector)

  const chat = new Chat(session, {
    connection: drawConnection,
    rooms() {
      chooseFirst()
      drawRooms()
      if (chat.active) drawActive()
    },
    room(room) {
      drawRooms()
      if (room === chat.active) drawActive()
    },
    history: (room) => room === chat.active && stream.redraw(),
    item: (room) => room === chat.active && stream.append(),
    typing: (room) => room === chat.active && drawTyping(),
    online: (room) => room === chat.active && drawOnline(),
    nodes: () => nodes.draw(chat.nodes, chat.active?.online ?? []),
    notification({ room_id, from, body }) {
      const roomName = chat.rooms.get(room_id)?.name ?? room_id
      toasts.mention({ from, roomId: room_id, roomName, body, onOpen: () => open(room_id) })
    },
    unauthorized: logout
  })

  const sidebar = new Sidebar($(".rooms"), open, enter)
  const nodes = new Nodes($(".nodes"))
  const stream = new Stream(view, session.user, enter)
  const composer = new Composer(view, chat)
  const toasts = new Toasts($(".toasts"))
  const drawer = createDrawer(view)
  let typingTimer

  function open(id) {
    chat.open(id)
    toasts.dismiss(id)
    drawer.close()
    focusComposer()
  }

  /** But not on a phone, where this would bring up the keyboard. */
  function focusComposer() {
    if (matchMedia("(hover: hover)").matches) composer.focus()
  }

  async function enter(id) {
    try {
      await chat.enter(id)
      drawer.close()
    } catch {
      toasts.problem(`${chat.rooms.get(id).name} could not be joined. Please try again.`)
    }
  }

  function logout() {
    chat.stop()
    history.replaceState(null, "", location.pathname)
    onLogout()
  }

  /** The room named in the address, or else the first one that can be read. */
  function chooseFirst() {
    if (chat.active) return
    const rooms = [...chat.rooms.values()]
    const named = rooms.find((room) => hash(room) === location.hash)
    const first = named ?? rooms.find((room) => room.member) ?? rooms[0]
    if (first) chat.open(first.id)
    else stream.showNothing()
  }

  function drawConnection() {
    const pill = $("[data-testid=connection]")
    pill.dataset.state = chat.connection
    pill.textContent = CONNECTION[chat.connection]
  }

  function drawRooms() {
    const rooms = [...chat.rooms.values()]
    const unread = rooms.reduce((sum, room) => sum + room.unread, 0)
    sidebar.draw(rooms, chat.active)
    view.toggleAttribute("data-has-unread", unread > 0)
    document.title = `${unread > 0 ? `(${unread}) ` : ""}${chat.active?.name ?? "Chat"} · Channels`
  }

  function drawActive() {
    const room = chat.active
    $(".room-title h1").textContent = room.name
    $(".room-title p").textContent = room.topic
    drawStatus(room)
    drawOnline()
    composer.show(room)
    history.replaceState(null, "", hash(room))
    stream.show(room)
    drawTyping()
  }

  function drawStatus(room) {
    const status = $(".room-status")
    status.hidden = !room.member || room.state === "joined" || room.state === "joining"
    status.replaceChildren(icon("warning"), statusText(room))
    if (room.state !== "closed") return
    const rejoin = h("button", { class: "link-button", type: "button" }, "Join again")
    rejoin.addEventListener("click", () => enter(room.id))
    status.append(rejoin)
  }

  /** The first faces, and how many there are. */
  function drawOnline() {
    const { online } = chat.active
    const faces = online.slice(0, FACES).map(({ id, name, nodes: { length } }) =>
      h(
        "li",
        { "data-user": id, "data-tabs": String(length), title: length > 1 ? `${name}, in ${length} tabs` : name },
        avatar(name),
        h("span", { class: "visually-hidden" }, name)
      )
    )
    $(".online").hidden = online.length === 0
    $(".online ul").replaceChildren(...faces)
    $(".online-count").textContent = `${online.length} online`
    $(".online-count").title = online.map(({ name }) => name).join(", ")
    nodes.draw(chat.nodes, online)
  }

  /** The last text stays while the line fades out. */
  function drawTyping() {
    const line = $(".typing")
    const text = typingText([...chat.active.typing.values()])
    clearTimeout(typingTimer)
    line.toggleAttribute("data-active", text !== "")
    if (text !== "") line.lastElementChild.textContent = text
    else typingTimer = setTimeout(() => line.lastElementChild.textContent = "", 300)
  }

  $(".account-avatar").append(avatar(session.user.name))
  $(".account-name").textContent = session.user.name
  $("[data-testid=logout]").addEventListener("click", logout)
  drawConnection()
  focusComposer()
  chat.start()
}

/** @param {Room} room */
const hash = (room) => `#${encodeURIComponent(room.id)}`

/** @param {Room} room */
function statusText(room) {
  if (room.state === "closed") return "This room was closed by the server."
  return room.crashed ? `${room.name} crashed, rejoining…` : `${room.name} is not connected, rejoining…`
}

/** The sidebar as a drawer, on narrow screens. */
function createDrawer(view) {
  const $ = (selector) => view.querySelector(selector)
  const opener = $(".drawer-open")

  const set = (isOpen) => {
    view.toggleAttribute("data-drawer-open", isOpen)
    opener.setAttribute("aria-expanded", String(isOpen))
    $(".room").inert = isOpen
  }
  const close = () => {
    if (!view.hasAttribute("data-drawer-open")) return
    set(false)
    opener.focus()
  }

  opener.addEventListener("click", () => {
    set(true)
    $(".drawer-close").focus()
  })
  $(".drawer-close").addEventListener("click", close)
  $(".backdrop").addEventListener("click", close)
  view.addEventListener("keydown", (event) => event.key === "Escape" && close())
  matchMedia("(max-width: 760px)").addEventListener("change", () => set(false))
  return { close }
}
