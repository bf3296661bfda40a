// Plain JavaScript without new syntax: an old Node must get far enough to say what it lacks.
import { readFileSync } from "node:fs"
const { engines } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"))

const wanted = engines.node.replace(">=", "")
const [major, minor] = process.versions.node.split(".").map(Number)
const [wantedMajor, wantedMinor] = wanted.split(".").map(Number)

if (major < wantedMajor || (major === wantedMajor && minor < wantedMinor)) {
  console.error(
    `This project runs on Node ${wanted} or newer; this is Node ${process.versions.node}.\n`
      + "`npm ci` installs one into node_modules/.bin, unless install scripts are switched off: "
      + "run `npm rebuild node`, or bring your own."
  )
  process.exit(1)
}
