import { showChat } from "./chat-view.js"
import { showLogin } from "./login-view.js"

// Kept by tab, so that two tabs can be two users.
const KEY = "chat.session"

function start() {
  const session = JSON.parse(sessionStorage.getItem(KEY))
  if (session) return showChat(session, forget)
  showLogin((session) => {
    sessionStorage.setItem(KEY, JSON.stringify(session))
    start()
  })
}

function forget() {
  sessionStorage.removeItem(KEY)
  start()
}

start()
