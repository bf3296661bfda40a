import { Presence, Socket } from "/vendor/phoenix.mjs"
import { becomeMember, listNodes, listRooms, Unauthorized } from "./api.js"

/** Failed attempts in a row that count as "disconnected". phoenix.js goes on trying, every five seconds by then. */
const DISCONNECTED_AFTER = 10
const TYPING_MS = 3000
const LIST_AGAIN_MS = 1000
const NO_ANSWER = "No answer from the server. The message may not have been sent."

/**
 * @typedef {{id: string, name: string}} User
 * @typedef {{token: string, user: User}} Session
 * @typedef {{id: number, user_id: string, user_name: string, body: string, inserted_at: string}} Message
 * @typedef {{notice: string}} Notice
 * @typedef {{room_id: string, from: string, body: string}} Notification
 * @typedef {{id: string, name: string, typing: boolean, nodes: string[]}} Online nodes: of each tab, the one it is on
 * @typedef {{name: string, url: string, here: boolean}} Node
 *
 * @typedef {object} Room
 * @property {string} id
 * @property {string} name
 * @property {string} topic
 * @property {boolean} member
 * @property {"closed" | "joining" | "joined" | "errored"} state of the channel
 * @property {boolean} crashed whether it errored on the server, rather than with the connection
 * @property {Array<Message | Notice> | undefined} items undefined until the history arrives
 * @property {number} unread
 * @property {number} mentioned
 * @property {number | undefined} firstUnread the id of the message to mark as new
 * @property {Online[]} online who is in the room now, by name
 * @property {Map<string, string>} typing the names of others who are typing, by id
 * @property {number | undefined} typingTimer while the others are told that one is typing oneself
 * @property {object | undefined} channel of phoenix.js
 *
 * @typedef {object} Listener
 * @property {() => void} connection
 * @property {() => void} rooms the list of rooms was read
 * @property {(room: Room) => void} room a room changed, but for what follows
 * @property {(room: Room) => void} history the items are others
 * @property {(room: Room) => void} item there is one more item
 * @property {(room: Room) => void} typing
 * @property {(room: Room) => void} online
 * @property {() => void} nodes the list of nodes was read
 * @property {(notification: Notification) => void} notification
 * @property {() => void} unauthorized
 */

/** A user as the presence has them: one meta for each tab. Who types in any of them is typing. */
const online = (id, { metas }) => ({
  id,
  name: metas[0].user_name,
  typing: metas.some((meta) => meta.typing),
  nodes: metas.map((meta) => meta.node)
})

/** What the page knows, kept up to date over one socket. Says what changed; draws nothing. */
export class Chat {
  /** @type {Map<string, Room>} */
  rooms = new Map()
  /** @type {Room | undefined} the room in view */
  active
  /** @type {Node[]} where the chat runs, if on several */
  nodes = []
  /** @type {"connecting" | "connected" | "reconnecting" | "disconnected"} */
  connection = "connecting"

  #session
  #listener
  #socket
  #opened = false
  #failures = 0
  #refreshing = false
  #stopped = false

  /** @param {Session} session @param {Listener} listener */
  constructor(session, listener) {
    this.#session = session
    this.#listener = listener
    this.#socket = new Socket("/socket", { params: () => ({ token: session.token }) })
  }

  get user() {
    return this.#session.user
  }

  start() {
    this.#socket.onOpen(() => this.#socketOpened())
    this.#socket.onClose(() => this.#socketClosed())
    this.#socket.connect()
    const notifications = this.#socket.channel(`notifications:${this.user.id}`)
    notifications.on("notification", (notification) => this.#notified(notification))
    notifications.join()
    this.#readNodes()
  }

  stop() {
    this.#stopped = true
    this.#socket.disconnect()
  }

  /** Brings a room into view. */
  open(id) {
    const room = this.rooms.get(id)
    if (!room || room === this.active) return
    if (this.active) this.active.firstUnread = undefined
    this.active = room
    room.unread = 0
    room.mentioned = 0
    this.#tell("room", room)
  }

  /** Becomes a member of a room, joins it and brings it into view. */
  async enter(id) {
    try {
      await becomeMember(this.#session.token, id)
    } catch (error) {
      if (error instanceof Unauthorized) return this.#tell("unauthorized")
      throw error
    }
    const room = this.rooms.get(id)
    room.member = true
    if (!room.channel) this.#join(room)
    this.open(id)
  }

  /**
   * @param {Room} room
   * @param {string} body
   * @returns {Promise<string | undefined>} what went wrong
   */
  send(room, body) {
    const push = room.channel.push("message:new", { body })
    this.typing(room, false)
    // The process that would answer this one is gone.
    if (body === "/crash") return Promise.resolve(undefined)
    return new Promise((resolve) => {
      push
        .receive("ok", () => resolve(undefined))
        .receive("error", ({ errors }) => resolve(errors?.body ? `Message ${errors.body[0]}` : "Message was refused"))
        .receive("timeout", () => resolve(NO_ANSWER))
    })
  }

  /** Tells the others in the room, once; and when there was no key for a while, that it is over. */
  typing(room, isTyping) {
    const wasTyping = room.typingTimer !== undefined
    clearTimeout(room.typingTimer)
    room.typingTimer = isTyping ? setTimeout(() => this.typing(room, false), TYPING_MS) : undefined
    if (isTyping !== wasTyping) room.channel.push(isTyping ? "typing:start" : "typing:stop", {})
  }

  #tell(what, ...details) {
    if (!this.#stopped) this.#listener[what](...details)
  }

  #socketOpened() {
    this.#opened = true
    this.#failures = 0
    this.#setConnection("connected")
    this.#refresh()
  }

  #socketClosed() {
    if (this.#stopped) return
    if (!this.#opened) {
      this.#failures += 1
      // A refused token looks like any other failure here, but not over HTTP.
      this.#refresh()
    }
    this.#opened = false
    this.#setConnection(this.#failures < DISCONNECTED_AFTER ? "reconnecting" : "disconnected")
  }

  #setConnection(state) {
    this.connection = state
    this.#tell("connection")
  }

  /** Reads the list of rooms, and joins those one is a member of. */
  async #refresh() {
    if (this.#refreshing || this.#stopped) return
    this.#refreshing = true
    const rooms = await listRooms(this.#session.token).catch((error) => this.#notListed(error))
    this.#refreshing = false
    if (!rooms || this.#stopped) return
    for (const room of rooms) this.#listed(room)
    this.#tell("rooms")
    for (const room of this.rooms.values()) if (room.member && !room.channel) this.#join(room)
  }

  #notListed(error) {
    if (error instanceof Unauthorized) this.#tell("unauthorized")
    // Without a connection, the next attempt to connect asks again anyway.
    else if (this.#opened) setTimeout(() => this.#refresh(), LIST_AGAIN_MS)
  }

  /** Without them the page only does not show who is where. */
  async #readNodes() {
    this.nodes = await listNodes().catch(() => [])
    this.#tell("nodes")
  }

  #listed({ id, name, topic, member }) {
    const room = this.rooms.get(id) ?? {
      id,
      member: false,
      state: "closed",
      crashed: false,
      items: undefined,
      unread: 0,
      mentioned: 0,
      firstUnread: undefined,
      online: [],
      typing: new Map(),
      typingTimer: undefined,
      channel: undefined
    }
    this.rooms.set(id, Object.assign(room, { name, topic, member: room.member || member }))
  }

  #join(room) {
    const channel = this.#socket.channel(`room:${room.id}`)
    room.channel = channel
    channel.on("messages:history", ({ messages }) => this.#history(room, messages))
    channel.on("message:new", (message) => this.#message(room, message))
    channel.on("system:notice", ({ body }) => this.#add(room, { notice: body }))
    const presence = new Presence(channel)
    presence.onSync(() => this.#setOnline(room, presence.list(online)))
    channel.onError((reason) => this.#setState(room, "errored", reason?.source !== "transport"))
    channel.onClose(() => {
      room.channel = undefined
      this.#setOnline(room, [])
      this.#setState(room, "closed")
    })
    channel.join()
      .receive("ok", () => this.#setState(room, "joined"))
      .receive("timeout", () => this.#setState(room, "errored"))
      .receive("error", ({ reason }) => {
        if (reason !== "unauthorized") return this.#setState(room, "errored")
        room.member = false
        channel.leave()
      })
    this.#setState(room, "joining")
  }

  #setOnline(room, users) {
    room.online = users.sort((a, b) => a.name.localeCompare(b.name))
    const typists = users.filter(({ id, typing }) => typing && id !== this.user.id)
    room.typing = new Map(typists.map(({ id, name }) => [id, name]))
    this.#tell("online", room)
    this.#tell("typing", room)
  }

  #setState(room, state, crashed = false) {
    // A new process knows nothing of it.
    if (state !== "joined") {
      clearTimeout(room.typingTimer)
      room.typingTimer = undefined
    }
    room.state = state
    room.crashed = crashed
    this.#tell("room", room)
  }

  /** @param {Room} room @param {Message[]} messages */
  #history(room, messages) {
    const newest = room.items?.findLast((item) => item.id !== undefined)?.id
    room.items = messages
    if (newest !== undefined) {
      for (const message of messages) if (message.id > newest) this.#countUnread(room, message)
    }
    this.#tell("history", room)
  }

  /** @param {Room} room @param {Message} message */
  #message(room, message) {
    if (room.items?.some((item) => item.id === message.id)) return
    // The end of their typing comes with the presence, from another node a little later.
    if (room.typing.delete(message.user_id)) this.#tell("typing", room)
    this.#countUnread(room, message)
    this.#add(room, message)
  }

  #add(room, item) {
    room.items = [...(room.items ?? []), item]
    this.#tell("item", room)
  }

  #countUnread(room, message) {
    if (room === this.active || message.user_id === this.user.id) return
    room.unread += 1
    room.firstUnread ??= message.id
    this.#tell("room", room)
  }

  /** @param {Notification} notification */
  #notified(notification) {
    const room = this.rooms.get(notification.room_id)
    if (room && room !== this.active) {
      room.mentioned += 1
      this.#tell("room", room)
    }
    this.#tell("notification", notification)
  }
}
