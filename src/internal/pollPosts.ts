/**
 * The bytes of posts that this node has in hand, by session: from before their bodies are read until they are answered. A
 * client that posts one after the other has never more than one.
 */
export class Posts {
  private readonly sessions = new Map<string, Set<PostInHand>>()
  private readonly maxBytes: number

  /** @param maxBytes - how many bytes the posts of one session may have together; a single one may have as many */
  constructor(maxBytes: number) {
    this.maxBytes = maxBytes
  }

  /** Lets a post in, of so many bytes or of as many as there is room for; undefined where there is no room. */
  enter(session: string, bytes: number | undefined): PostInHand | undefined {
    const others = this.sessions.get(session) ?? new Set()
    let room = this.maxBytes
    for (const other of others) room -= other.bytes
    if (room <= 0 || (others.size > 0 && bytes !== undefined && bytes > room)) return undefined
    const post: PostInHand = {
      bytes: Math.min(bytes ?? room, this.maxBytes),
      leave: () => {
        others.delete(post)
        if (others.size === 0) this.sessions.delete(session)
      }
    }
    this.sessions.set(session, others.add(post))
    return post
  }
}

export interface PostInHand {
  /** Bytes that its body takes up, or may take up as long as it is not read. */
  bytes: number
  readonly leave: () => void
}
