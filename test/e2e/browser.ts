import { type Browser, chromium } from "playwright-core"
import { findChromium } from "../../scripts/engines.ts"

/** Says what is missing when there is no Chromium. */
export const chromiumPath = findChromium()
export const chromiumMissing =
  "Chromium is missing: install it (on Debian: apt-get install chromium), or set CHROMIUM_PATH to its binary"

/** Starts Chromium without a window, and without the calls home that fail on a machine behind a firewall. */
export const launchChromium = (path: string): Promise<Browser> =>
  chromium.launch({
    executablePath: path,
    headless: true,
    args: [
      // Root cannot use Chromium's sandbox; the only pages here are our own.
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      // Two pages are at work at the same time; neither is to be slowed down as a background tab.
      "--disable-background-timer-throttling",
      "--disable-backgrounding-occluded-windows",
      "--disable-renderer-backgrounding"
    ]
  })
