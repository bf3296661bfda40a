/** The transport of a socket that is mounted at a path. */
export interface Mounted {
  readonly socket: string
  readonly transport: string
}

/** Mounts by server, or by router, and by path. */
const mounted = new WeakMap<object, Map<string, Mounted>>()

/** Paths that a router may take for the same are the same text. */
const normalize = (path: string): string =>
  path.replaceAll(/\/{2,}/g, "/").replace(/(?<=.)\/$/, "").replaceAll(/:[^/.()-]+/g, ":").toLowerCase()

/** Remembers what is mounted at a path; returns how to forget it. */
export const remember = (place: object, path: string, what: Mounted): () => void => {
  const paths = mounted.get(place) ?? new Map<string, Mounted>()
  mounted.set(place, paths)
  const key = normalize(path)
  paths.set(key, what)
  return () => {
    if (paths.get(key) === what) paths.delete(key)
  }
}

/** Finds the mount at a path. */
export const mountedAt = (place: object, path: string): Mounted | undefined => mounted.get(place)?.get(normalize(path))
