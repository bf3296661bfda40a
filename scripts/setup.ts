/**
 * What `npm test` needs from outside npm. On Debian and its children, as root or with a sudo that asks nothing, a missing
 * engine is installed; elsewhere it is named, and the tests that need it skip themselves. Under CI a missing engine fails.
 */
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { type Engine, engines, findEngine } from "./engines.ts"

const missing = (): ReadonlyArray<Engine> => engines.filter((engine) => findEngine(engine) === undefined)

const succeeds = (command: ReadonlyArray<string>, stdio: "ignore" | "inherit"): boolean =>
  spawnSync(command[0] ?? "", command.slice(1), { stdio: ["ignore", stdio, stdio] }).status === 0

/** The words to put before a command of root, or `undefined` where this user cannot install packages with apt-get. */
const root = (): ReadonlyArray<string> | undefined => {
  if (!existsSync("/etc/debian_version") || !succeeds(["apt-get", "--version"], "ignore")) return undefined
  if (process.getuid?.() === 0) return []
  return succeeds(["sudo", "-n", "true"], "ignore") ? ["sudo", "-n"] : undefined
}

/** A package of a server would start it as a service of this machine; tests start their own. */
const script = `set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap "rm -f $policy" EXIT
  printf '#!/bin/sh\\nexit 101\\n' >$policy
  chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -y update
apt-get -qq -y install "$@"`

const install = (wanted: ReadonlyArray<Engine>): void => {
  const command = root()
  if (command === undefined) return
  const packages = wanted.flatMap((engine) => engine.packages)
  console.log(`Installing ${packages.join(", ")} with apt-get ...`)
  succeeds([...command, "sh", "-c", script, "setup", ...packages], "inherit")
}

// Installing does not help where a variable names a binary that is not there.
const wanted = missing().filter((engine) => !process.env[engine.variable])
if (wanted.length > 0) install(wanted)

for (const engine of missing()) {
  console.error(
    `${engine.name} is missing: ${process.env["CI"] === "true" ? "CI needs it" : "its tests are skipped"}. `
      + `Install it, or set ${engine.variable} to its binary.`
  )
  if (process.env["CI"] === "true") process.exitCode = 1
}
