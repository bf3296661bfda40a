/**
 * The same application on socket.io, over WebSockets alone, with its defaults otherwise.
 *
 * Settings, from the environment: `PORT` (4000) and `COMPRESS` (1 to offer permessage-deflate, from 1024 bytes on).
 */
import { createServer } from "node:http"
import { Server } from "socket.io"

const http = createServer()
const io = new Server(http, {
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: process.env["COMPRESS"] === "1"
})

io.on("connection", (socket) => {
  socket.on("join", async (room: string, done: () => void) => {
    await socket.join(room)
    done()
  })
  socket.on("leave", async (room: string, done: () => void) => {
    await socket.leave(room)
    done()
  })
  socket.on("echo", (payload: unknown, done: (payload: unknown) => void) => done(payload))
  socket.on("shout", (room: string, payload: unknown) => io.to(room).emit("shout", payload))
  socket.on("shout_from", (room: string, payload: unknown) => socket.to(room).emit("shout", payload))
})

http.listen({ port: Number(process.env["PORT"] ?? 4000), host: "127.0.0.1", backlog: 4096 }, () => {
  console.log("listening")
})
