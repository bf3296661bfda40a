/** The token is no good (any more). */
export class Unauthorized extends Error {}

/** The server refused a field of a form. */
export class Invalid extends Error {}

/**
 * @param {string} name
 * @returns {Promise<{token: string, user: {id: string, name: string}}>}
 */
export async function login(name) {
  const response = await fetch("/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name })
  })
  if (response.status === 422) throw new Invalid((await response.json()).errors.name[0])
  return (await expectOk(response)).json()
}

/**
 * @param {string} token
 * @returns {Promise<Array<{id: string, name: string, topic: string, member: boolean}>>}
 */
export async function listRooms(token) {
  const response = await expectOk(await fetch("/rooms", { headers: authorization(token) }))
  return (await response.json()).rooms
}

/** @returns {Promise<Array<{name: string, url: string, here: boolean}>>} none if there is but one */
export async function listNodes() {
  const response = await expectOk(await fetch("/nodes"))
  return (await response.json()).nodes
}

/** @param {string} token @param {string} roomId */
export async function becomeMember(token, roomId) {
  const path = `/rooms/${encodeURIComponent(roomId)}/members`
  await expectOk(await fetch(path, { method: "POST", headers: authorization(token) }))
}

const authorization = (token) => ({ authorization: `Bearer ${token}` })

async function expectOk(response) {
  if (response.status === 401) throw new Unauthorized()
  if (!response.ok) throw new Error(`unexpected status ${response.status}`)
  return response
}
