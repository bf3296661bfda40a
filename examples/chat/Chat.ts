/**
 * The chat itself: users, rooms, who is a member of which, and what was said, in SQLite.
 */
import { Config, Context, DateTime, Effect, Layer } from "effect"
import { DatabaseSync } from "node:sqlite"
import type { Invalid, Message } from "./contract.ts"

export interface User {
  readonly id: string
  readonly name: string
}

export interface RoomInfo {
  readonly id: string
  readonly name: string
  readonly topic: string
  readonly member: boolean
}

const schema = `
  PRAGMA journal_mode = WAL;
  PRAGMA foreign_keys = ON;
  CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS rooms (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, topic TEXT NOT NULL, open INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE IF NOT EXISTS members (
    room_id TEXT NOT NULL REFERENCES rooms, user_id TEXT NOT NULL REFERENCES users, PRIMARY KEY (room_id, user_id)
  ) STRICT;
  CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, room_id TEXT NOT NULL REFERENCES rooms, user_id TEXT NOT NULL REFERENCES users,
    body TEXT NOT NULL, inserted_at TEXT NOT NULL
  ) STRICT;
  CREATE INDEX IF NOT EXISTS messages_by_room ON messages (room_id, id);
  INSERT OR IGNORE INTO rooms (id, name, topic, open) VALUES
    ('general', 'General', 'Company-wide news and chatter', 1),
    ('random', 'Random', 'Everything else', 1),
    ('design', 'Design', 'Pixels, type and colour', 0);
`

const longestBody = 2000
const historyLength = 50

const invalid = (field: string, problem: string): Invalid => ({ errors: { [field]: [problem] } })

/** Rows of SQLite are untyped: what a statement selects is said beside it. */
const rows = <A>(result: ReadonlyArray<unknown>): ReadonlyArray<A> => result as ReadonlyArray<A>

export class Chat extends Context.Service<Chat, {
  /** Finds or makes the user with a name, who becomes a member of the open rooms. */
  readonly logIn: (name: string) => Effect.Effect<User, Invalid>
  readonly user: (id: string) => Effect.Effect<User | undefined>
  readonly rooms: (userId: string) => Effect.Effect<ReadonlyArray<RoomInfo>>
  /** False when there is no such room. */
  readonly join: (roomId: string, userId: string) => Effect.Effect<boolean>
  readonly isMember: (roomId: string, userId: string) => Effect.Effect<boolean>
  readonly members: (roomId: string) => Effect.Effect<ReadonlyArray<User>>
  /** Checks and stores a message. */
  readonly say: (roomId: string, user: User, body: string) => Effect.Effect<Message, Invalid>
  /** What was said last, oldest first. */
  readonly recent: (roomId: string) => Effect.Effect<ReadonlyArray<Message>>
}>()("chat/Chat") {
  /** In the file named by `CHAT_DATABASE`, or in memory. */
  static readonly layer = Layer.effect(
    Chat,
    Effect.gen(function*() {
      const path = yield* Config.String("CHAT_DATABASE").pipe(Config.withDefault(":memory:"))
      const db = yield* Effect.acquireRelease(
        Effect.try({
          try: () => {
            // Another node may be writing.
            const db = new DatabaseSync(path, { timeout: 5000 })
            db.exec(schema)
            return db
          },
          catch: (cause) => new Error(`the database cannot be used, see CHAT_DATABASE: ${path}`, { cause })
        }),
        (db) => Effect.sync(() => db.close())
      )
      const insertUser = db.prepare("INSERT OR IGNORE INTO users (id, name) VALUES (?, ?)")
      const joinOpenRooms = db.prepare(
        "INSERT OR IGNORE INTO members (room_id, user_id) SELECT id, ? FROM rooms WHERE open = 1"
      )
      const selectUser = db.prepare("SELECT id, name FROM users WHERE id = ?")
      const selectRooms = db.prepare(`
        SELECT id, name, topic, EXISTS (SELECT 1 FROM members WHERE room_id = id AND user_id = ?) AS member
        FROM rooms ORDER BY open DESC, rowid`)
      const insertMember = db.prepare(
        "INSERT OR IGNORE INTO members (room_id, user_id) SELECT id, ? FROM rooms WHERE id = ?"
      )
      const selectMember = db.prepare("SELECT 1 FROM members WHERE room_id = ? AND user_id = ?")
      const selectMembers = db.prepare(
        "SELECT id, name FROM members JOIN users ON id = user_id WHERE room_id = ? ORDER BY id"
      )
      const insertMessage = db.prepare(
        "INSERT INTO messages (room_id, user_id, body, inserted_at) VALUES (?, ?, ?, ?) RETURNING id"
      )
      const selectRecent = db.prepare(`
        SELECT m.id, room_id, user_id, u.name AS user_name, body, inserted_at
        FROM messages m JOIN users u ON u.id = user_id WHERE room_id = ? ORDER BY m.id DESC LIMIT ?`)

      return Chat.of({
        logIn: Effect.fnUntraced(function*(input) {
          const name = input.trim()
          if (name.length < 1 || name.length > 32) {
            return yield* Effect.fail(invalid("name", "must be 1 to 32 characters"))
          }
          const id = name.toLowerCase().replaceAll(/[^\p{L}\p{N}]+/gu, "-").replaceAll(/^-|-$/g, "")
          if (id === "") return yield* Effect.fail(invalid("name", "must have a letter or a digit"))
          insertUser.run(id, name)
          joinOpenRooms.run(id)
          return rows<User>(selectUser.all(id))[0] ?? { id, name }
        }),
        user: (id) => Effect.sync(() => rows<User>(selectUser.all(id))[0]),
        rooms: (userId) =>
          Effect.sync(() =>
            rows<RoomInfo>(selectRooms.all(userId)).map((room) => ({ ...room, member: Boolean(room.member) }))
          ),
        join: (roomId, userId) =>
          Effect.sync(() => {
            insertMember.run(userId, roomId)
            return selectMember.get(roomId, userId) !== undefined
          }),
        isMember: (roomId, userId) => Effect.sync(() => selectMember.get(roomId, userId) !== undefined),
        members: (roomId) => Effect.sync(() => rows<User>(selectMembers.all(roomId))),
        say: Effect.fnUntraced(function*(roomId, user, text) {
          const body = text.trim()
          if (body === "") return yield* Effect.fail(invalid("body", "can't be blank"))
          if (body.length > longestBody) {
            return yield* Effect.fail(invalid("body", `is too long (at most ${longestBody} characters)`))
          }
          const inserted_at = DateTime.formatIso(yield* DateTime.now)
          const [row] = yield* Effect.try(() =>
            rows<{ id: number }>(insertMessage.all(roomId, user.id, body, inserted_at))
          ).pipe(
            // A disk that is full, say: who has written keeps the text, and may try again.
            Effect.tapError(({ cause }) => Effect.logError("a message was not stored", cause)),
            Effect.mapError(() => invalid("body", "cannot be stored just now"))
          )
          return {
            id: row?.id ?? 0,
            room_id: roomId,
            user_id: user.id,
            user_name: user.name,
            body,
            inserted_at
          }
        }),
        recent: (roomId) =>
          Effect.sync(() =>
            rows<Message>(selectRecent.all(roomId, historyLength)).map((row) => ({ ...row })).toReversed()
          )
      })
    })
  )
}
