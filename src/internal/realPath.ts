import { type Effect, Predicate } from "effect"
import { HttpRouter, type HttpServerRequest, type HttpServerResponse } from "effect/http"

type Handler = Effect.Effect<
  HttpServerResponse.HttpServerResponse,
  never,
  HttpServerRequest.HttpServerRequest | HttpRouter.RouteContext
>

/** A route on its way into a router. */
export interface Added {
  readonly add: Effect.Effect<void>
  /** The whole path, with the router's prefix; undefined where it cannot be found out. */
  readonly path: HttpRouter.PathInput | undefined
}

/**
 * Makes a route for all methods, and finds out where it will be: `router.prefixed("/api")` adds a prefix, which it does not
 * tell.
 *
 * This looks behind Effect's HttpRouter in two ways. A router with a prefix maps the list of routes that `addAll` is given,
 * and a router without one makes routers with a prefix from whatever `prefixed` is called on. Where neither shows, the path
 * is unknown, and handshakes pass the router.
 */
export const routeTo = (router: HttpRouter.HttpRouter, path: HttpRouter.PathInput, handler: Handler): Added => {
  const routes = [HttpRouter.route("*", path, handler)]
  let whole = isPlain(router) ? path : undefined
  const watched = Object.assign([...routes], {
    map: <A>(prefix: (route: (typeof routes)[number], index: number, all: typeof routes) => A): Array<A> => {
      const prefixed = routes.map(prefix)
      whole = pathOf(prefixed[0])
      return prefixed
    }
  })
  const add = router.addAll(watched)
  return { add, path: whole }
}

const pathOf = (route: unknown): HttpRouter.PathInput | undefined =>
  Predicate.hasProperty(route, "path") && typeof route.path === "string" && route.path.startsWith("/")
    ? `/${route.path.slice(1)}`
    : undefined

const marker = {}

const isPlain = (router: HttpRouter.HttpRouter): boolean => {
  const marked: object = router.prefixed.call(Object.assign({}, router, { marker }), "/")
  return "marker" in marked && marked.marker === marker
}
