import { h, icon } from "./dom.js"
import { avatar } from "./format.js"

/** @import { Node, Online } from "./chat.js" */

/** Who of the room in view is on which node, and the way to each node, where there are several. */
export class Nodes {
  #section

  /** @param {HTMLElement} section */
  constructor(section) {
    this.#section = section
  }

  /** @param {Node[]} nodes @param {Online[]} online */
  draw(nodes, online) {
    this.#section.hidden = nodes.length === 0
    this.#section.replaceChildren(...nodes.flatMap((node) => [title(node), people(node, online)]))
  }
}

/** @param {Node} node */
function title({ name, url, here }) {
  const label = [icon("node"), h("span", { class: "node-name" }, name)]
  if (here) return h("h2", { class: "node" }, ...label, h("span", { class: "node-here" }, "this page"))
  const attributes = { href: url, target: "_blank", rel: "noopener", title: `Open the chat on ${name}` }
  return h("h2", { class: "node" }, h("a", attributes, ...label, "open", icon("open")))
}

/** @param {Node} node @param {Online[]} online */
function people({ name: node }, online) {
  const rows = online.flatMap(({ id, name, nodes }) => {
    const tabs = nodes.filter((of) => of === node).length
    return tabs === 0 ? [] : [person(id, name, tabs)]
  })
  const list = h("ul", { "data-node": node, "aria-label": `On ${node}` }, ...rows)
  return rows.length === 0 ? h("p", { class: "node-empty", "data-node": node }, "Nobody from this room") : list
}

function person(id, name, tabs) {
  const count = tabs > 1 ? [h("span", { class: "node-tabs" }, `${tabs} tabs`)] : []
  const label = h("span", { class: "node-person" }, name)
  return h("li", { "data-user": id, "data-tabs": String(tabs) }, avatar(name), label, ...count)
}
