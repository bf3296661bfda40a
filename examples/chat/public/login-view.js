import { Invalid, login } from "./api.js"
import { mount } from "./dom.js"

/** @param {(session: {token: string, user: {id: string, name: string}}) => void} onLogin */
export function showLogin(onLogin) {
  const view = mount("login-view")
  const name = view.querySelector("#login-name")
  const submit = view.querySelector("[type=submit]")
  document.title = "Channels"

  const fail = (message) => {
    view.querySelector("#login-error").textContent = message
    name.setAttribute("aria-invalid", String(message !== ""))
  }

  view.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault()
    submit.disabled = true
    try {
      onLogin(await login(name.value))
    } catch (error) {
      fail(error instanceof Invalid ? `Your name ${error.message}` : "The server cannot be reached. Please try again.")
      name.focus()
    } finally {
      submit.disabled = false
    }
  })
  name.addEventListener("input", () => fail(""))
  name.focus()
}
