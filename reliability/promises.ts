/** What a program has promised, and whether it was kept. */
import { setTimeout as sleep } from "node:timers/promises"
import { parseArgs } from "node:util"

let broken = 0

/** Says whether it is so; if it is not, the program ends with 1. */
export const promise = (what: string, kept: boolean, figures: unknown = ""): void => {
  if (!kept) broken++
  const shown = typeof figures === "string" ? figures : JSON.stringify(figures)
  console.log(`${kept ? "kept  " : "BROKEN"}  ${what}${shown === "" ? "" : `: ${shown}`}`)
}

export const say = (line: string): void => console.log(line)

/** Ends the program, with 1 if a promise was broken. */
export const end = (): never => {
  say(
    broken === 0 ? "\nAll promises were kept." : `\n${broken} ${broken === 1 ? "promise was" : "promises were"} broken.`
  )
  process.exit(broken === 0 ? 0 : 1)
}

/** Waits until it is so; false if that takes longer than so many seconds. */
export const until = async (so: () => boolean | Promise<boolean>, seconds: number): Promise<boolean> => {
  const patience = performance.now() + seconds * 1000
  while (!(await so())) {
    if (performance.now() > patience) return false
    await sleep(50)
  }
  return true
}

/** Says what is wrong with the command line, and ends the program with 2. */
const misused = (problem: string): never => {
  console.error(problem)
  process.exit(2)
}

/** Numbers of the command line, each with a default. */
export const numbers = <Name extends string>(
  defaults: Readonly<Record<Name, number>>,
  args: ReadonlyArray<string> = process.argv.slice(2)
): Readonly<Record<Name, number>> => {
  const usage = Object.entries(defaults).map(([name, preset]) => `--${name} ${preset}`).join(" ")
  const read = (): Record<string, string | undefined> => {
    const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: "string" } as const]))
    try {
      return parseArgs({ args: [...args], options }).values
    } catch (error) {
      return misused(`${error instanceof Error ? error.message : error}\nThe options, and their defaults: ${usage}`)
    }
  }
  const given = Object.entries(read()).map(([name, text = ""]) => {
    const value = text === "" ? NaN : Number(text)
    return [name, value >= 0 ? value : misused(`--${name} is a number from 0 on, not ${text}`)] as const
  })
  return { ...defaults, ...Object.fromEntries(given) }
}

export const pick = <T>(among: ReadonlyArray<T>): T => {
  const picked = among[Math.floor(Math.random() * among.length)]
  if (picked === undefined) throw new Error("there is nothing to pick from")
  return picked
}

export const between = (from: number, to: number): number => from + Math.random() * (to - from)
