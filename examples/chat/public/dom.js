/**
 * An element with attributes and children. Strings become text nodes, never HTML.
 *
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const SVG = "http://www.w3.org/2000/svg"

/** @param {string} name of a symbol in index.html */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg")
  svg.setAttribute("class", "icon")
  svg.setAttribute("aria-hidden", "true")
  const use = document.createElementNS(SVG, "use")
  use.setAttribute("href", `#icon-${name}`)
  svg.append(use)
  return svg
}

/**
 * Puts a view in place of the one on the page.
 *
 * @param {string} templateId
 * @returns {HTMLElement} the root of the view
 */
export function mount(templateId) {
  const root = document.getElementById(templateId).content.firstElementChild.cloneNode(true)
  document.getElementById("app").replaceChildren(root)
  return root
}
