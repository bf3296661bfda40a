// A classic script in the head: the theme is set before the first paint.
{
  const KEY = "chat.theme"
  const system = matchMedia("(prefers-color-scheme: dark)")
  const apply = () => {
    document.documentElement.dataset.theme = localStorage.getItem(KEY) ?? (system.matches ? "dark" : "light")
  }

  apply()
  system.addEventListener("change", apply)
  addEventListener("storage", apply)
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-testid=theme-toggle]")) return
    localStorage.setItem(KEY, document.documentElement.dataset.theme === "dark" ? "light" : "dark")
    apply()
  })
}
