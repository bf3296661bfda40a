import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = fileURLToPath(new URL("src/", import.meta.url))

export default defineConfig({
  resolve: {
    // The examples import the library as users do.
    alias: [
      { find: /^effect-channels$/, replacement: `${src}index.ts` },
      { find: /^effect-channels\/(.*)$/, replacement: `${src}$1.ts` }
    ]
  },
  test: {
    include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
    testTimeout: 20_000
  }
})
