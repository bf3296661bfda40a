/** The figures as bars, in an SVG that follows the reader's choice of light or dark. */
import { cells, type Run, servers, shown, summary } from "./cells.ts"

const width = 820
const margin = 24
const bar = { height: 16, step: 20, left: 150, longest: 480 }
const group = { title: 26, gap: 18 }

const style = `
    text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
    .title { font-weight: 600 }
    .name, .note { fill: #59636e; font-size: 12px }
    .bar0 { fill: #5b5bd6 } .bar1 { fill: #8c959f } .bar2 { fill: #c9a227 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .name, .note { fill: #9198a1 }
      .bar0 { fill: #8e8cf0 } .bar1 { fill: #7d8590 } .bar2 { fill: #d9b84a }
    }`

const escaped = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;")

/** The note says how and where it was measured. */
export const plot = (runs: ReadonlyArray<Run>, note: string): string => {
  const shapes: Array<string> = []
  let y = margin
  const text = (x: number, at: number, style: string, words: string, anchor = "start") =>
    shapes.push(`<text x="${x}" y="${at}" class="${style}" text-anchor="${anchor}">${escaped(words)}</text>`)

  for (const cell of cells) {
    for (const figure of cell.figures.filter(({ plot }) => plot)) {
      const bars = servers.flatMap(({ name }, index) => {
        const value = summary(runs, cell, figure, name)?.median
        return value === undefined ? [] : [{ name, index, value }]
      })
      if (bars.length === 0) continue
      const longest = Math.max(...bars.map(({ value }) => value))
      const better = figure.less === true ? "shorter is better" : "longer is better"
      text(margin, y + 12, "title", figure.title)
      text(width - margin, y + 12, "note", `${figure.unit}, ${better}`, "end")
      y += group.title
      for (const { index, name, value } of bars) {
        const length = Math.max(Math.round(bar.longest * value / longest), 1)
        text(bar.left - 10, y + 12, "name", name, "end")
        shapes.push(
          `<rect x="${bar.left}" y="${y}" width="${length}" height="${bar.height}" rx="3" class="bar${index}"/>`
        )
        text(bar.left + length + 8, y + 12, index === 0 ? "title" : "", shown(value))
        y += bar.step
      }
      y += group.gap
    }
  }
  text(margin, y + 4, "note", note)
  const height = y + margin
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    "<title>Figures of the benchmarks</title>",
    `<style>${style}\n</style>`,
    ...shapes,
    "</svg>\n"
  ].join("\n")
}
