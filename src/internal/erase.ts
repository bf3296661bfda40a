/**
 * The one place where types are given up. Public types say what a message, a service or a handler is; the machinery below
 * carries all of them alike and knows none. A caller that uses this says in a comment what holds the types together.
 */
export const erase = <A>(value: unknown): A => value as A
