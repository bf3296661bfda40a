import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Process from "../src/Process.ts"
import * as Supervisor from "../src/Supervisor.ts"
import { onNode, settle } from "./support/node.ts"
import { Workers } from "./support/workers.ts"

class Greeting extends Context.Service<Greeting, string>()("test/Greeting") {}

const crash = (workers: Workers, id: string) =>
  Effect.andThen(Process.send(workers.pid(id), Effect.fail("boom")), settle)

const end = (workers: Workers, id: string, reason: Process.ExitReason) =>
  Effect.andThen(
    reason._tag === "Crash" || reason._tag === "Normal"
      ? Process.send(workers.pid(id), Process.stop(reason))
      : Process.exit(workers.pid(id), reason),
    settle
  )

const shutDown = (supervisor: Supervisor.Supervisor) =>
  Effect.andThen(Process.exit(supervisor, Process.shutdown()), settle)

/** The children that are running, and in brackets those that are not. */
const running = (supervisor: Supervisor.Supervisor) =>
  Effect.map(
    Supervisor.children(supervisor),
    (children) => children.map(({ id, pid }) => pid === undefined ? `(${id})` : id).join(" ")
  )

const boom = Process.crash(Cause.fail("boom"))

describe("start and stop", () => {
  onNode(
    "start children in order, each when the one before has started, and stop them in the opposite order",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        const supervisor = yield* Effect.forkChild(Supervisor.start({
          label: "top",
          children: [
            workers.child("a", { init: Effect.sleep("1 second"), terminate: Effect.sleep("1 second") }),
            workers.child("b", { terminate: Effect.sleep("1 second") }),
            workers.child("c")
          ]
        }))
        yield* settle
        assert.deepStrictEqual(workers.news(), [])
        yield* TestClock.adjust("1 second")
        const pid = yield* Fiber.join(supervisor)
        assert.deepStrictEqual(workers.news(), ["+a", "+b", "+c"])
        assert.strictEqual(pid.label, "top")
        assert.strictEqual(workers.pid("a").label, "a")
        assert.deepStrictEqual(yield* Process.list, [pid, workers.pid("a"), workers.pid("b"), workers.pid("c")])
        assert.strictEqual((yield* Process.info(pid)).children, 3)
        yield* shutDown(pid)
        assert.deepStrictEqual(workers.news(), ["-c", "-b"])
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(workers.news(), ["-a"])
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Process.awaitExit(pid))._tag, "Shutdown")
      })
  )

  onNode("give each child its shutdown time, and go on when it is over", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({
        children: [
          workers.child("a"),
          workers.child("b", { terminate: Effect.never, shutdown: "10 seconds" }),
          workers.child("c", { terminate: Effect.never })
        ]
      })
      workers.news()
      yield* shutDown(supervisor)
      yield* TestClock.adjust("14999 millis")
      assert.deepStrictEqual(workers.news(), ["-c", "-b"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(workers.news(), ["-a"])
      assert.strictEqual((yield* Process.awaitExit(supervisor))._tag, "Shutdown")
      assert.strictEqual((yield* Process.awaitExit(workers.pid("b")))._tag, "Killed")
    }))

  onNode(
    "fail with the error of a child that does not start, after stopping those before it",
    ({ lines }) =>
      Effect.gen(function*() {
        for (const init of [Effect.fail("no"), Effect.andThen(Effect.yieldNow, Effect.fail("no"))]) {
          const workers = new Workers()
          const error = yield* Effect.flip(Supervisor.start({
            children: [...workers.children("a", "b"), workers.child("c", { init }), workers.child("d")]
          }))
          assert.strictEqual(error, "no")
          assert.deepStrictEqual(workers.news(), ["+a", "+b", "-b", "-a"])
          assert.lengthOf(yield* Process.list, 0)
        }
        assert.lengthOf(lines, 0)
      })
  )

  onNode("die of two children with the same id, and leave none", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const exit = yield* Effect.exit(Supervisor.start({ children: workers.children("a", "b", "a") }))
      assert.isTrue(exit._tag === "Failure" && Cause.pretty(exit.cause).includes("two children have the id a"))
      assert.deepStrictEqual(workers.news(), ["+a", "+b", "-b", "-a"])
    }))

  onNode("leave no children when they are interrupted on the way", () =>
    Effect.gen(function*() {
      for (const how of ["interrupted", "shut down", "killed"] as const) {
        const workers = new Workers()
        const fiber = yield* Effect.forkChild(Supervisor.start({
          children: [...workers.children("a", "b"), workers.child("c", { init: Effect.never })]
        }))
        yield* settle
        const [supervisor] = yield* Process.list
        assert.isDefined(supervisor)
        if (how === "interrupted") yield* Fiber.interrupt(fiber)
        else yield* Process.exit(supervisor, how === "killed" ? Process.killed : Process.shutdown())
        yield* settle
        assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
        assert.deepStrictEqual(workers.news(), ["+a", "+b", "-b", "-a"])
        assert.deepStrictEqual([workers.pid("a").alive, workers.pid("b").alive], [false, false])
      }
    }))

  onNode("leave no children when the last one ends the supervisor that is just starting", () =>
    Effect.gen(function*() {
      for (const reason of [Process.shutdown(), Process.killed]) {
        const workers = new Workers()
        const ending = Effect.flatMap(Process.list, ([supervisor]) =>
          supervisor === undefined ? Effect.void : Process.exit(supervisor, reason))
        const node = yield* Process.System
        yield* Effect.exit(Supervisor.start({
          children: [
            ...workers.children("a"),
            workers.child("b", { init: Effect.provideService(ending, Process.System, node) })
          ]
        }))
        yield* settle
        assert.isFalse(workers.pid("a").alive)
        assert.lengthOf(yield* Process.list, 0)
      }
    }))

  onNode("give children the services of the caller, also when they are started again", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      let pid: Process.Pid<string> | undefined
      const child = (id: string) =>
        Supervisor.child({
          id,
          start: (self: Process.Pid<string>) =>
            Effect.map(Greeting, (greeting) => {
              log.push(`${id} ${greeting}`)
              pid = self
              return { handle: () => Effect.fail("boom") }
            })
        })
      const supervisor = yield* Effect.provideService(Supervisor.start({ children: [child("a")] }), Greeting, "hi")
      if (pid !== undefined) yield* Process.send(pid, "crash")
      yield* settle
      yield* Effect.provideService(Supervisor.startChild(supervisor, child("b")), Greeting, "hello")
      if (pid !== undefined) yield* Process.send(pid, "crash")
      yield* settle
      assert.deepStrictEqual(log, ["a hi", "a hi", "b hello", "b hello"])
    }))
})

describe("a strategy", () => {
  const cases = {
    oneForOne: { a: ["-a", "+a"], b: ["-b", "+b"], c: ["-c", "+c"] },
    oneForAll: {
      a: ["-a", "-c", "-b", "+a", "+b", "+c"],
      b: ["-b", "-c", "-a", "+a", "+b", "+c"],
      c: ["-c", "-b", "-a", "+a", "+b", "+c"]
    },
    restForOne: { a: ["-a", "-c", "-b", "+a", "+b", "+c"], b: ["-b", "-c", "+b", "+c"], c: ["-c", "+c"] }
  } as const
  for (const strategy of ["oneForOne", "oneForAll", "restForOne"] as const) {
    onNode(
      `${strategy} restarts exactly whom it says, stopping from the last and starting from the first`,
      () =>
        Effect.gen(function*() {
          const workers = new Workers()
          const supervisor = yield* Supervisor.start({
            strategy,
            children: workers.children("a", "b", "c"),
            maxRestarts: 9
          })
          workers.news()
          for (const id of ["a", "b", "c"] as const) {
            yield* crash(workers, id)
            assert.deepStrictEqual(workers.news(), cases[strategy][id])
            assert.strictEqual(yield* running(supervisor), "a b c")
          }
          assert.strictEqual((yield* Process.info(supervisor)).children, 3)
        })
    )
  }

  onNode(
    "that stops others forgets the temporary ones and starts the transient ones that were done",
    () =>
      Effect.gen(function*() {
        for (const strategy of ["oneForAll", "restForOne"] as const) {
          const workers = new Workers()
          const supervisor = yield* Supervisor.start({
            strategy,
            children: [
              workers.child("a"),
              workers.child("b", { restart: "temporary" }),
              workers.child("c", { restart: "transient" }),
              workers.child("d")
            ]
          })
          yield* end(workers, "c", Process.normal)
          assert.strictEqual(yield* running(supervisor), "a b (c) d")
          workers.news()
          yield* crash(workers, "a")
          assert.deepStrictEqual(workers.news(), ["-a", "-d", "-b", "+a", "+c", "+d"])
          assert.strictEqual(yield* running(supervisor), "a c d")
        }
      })
  )

  onNode("restarts all once when all end together", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({
        strategy: "oneForAll",
        children: workers.children("a", "b", "c"),
        maxRestarts: 1
      })
      workers.news()
      for (const id of ["a", "b", "c"]) yield* Process.exit(workers.pid(id), Process.killed)
      yield* settle
      assert.deepStrictEqual(workers.news(), ["+a", "+b", "+c"])
      assert.isTrue(supervisor.alive)
    }))
})

describe("a restart type", () => {
  const reasons = [Process.normal, Process.shutdown("x"), Process.killed, boom]
  const restarted = { permanent: reasons, transient: [Process.killed, boom], temporary: [] } as const
  for (const restart of ["permanent", "transient", "temporary"] as const) {
    onNode(`${restart} decides by the reason whether the child is started again`, () =>
      Effect.gen(function*() {
        for (const reason of reasons) {
          const workers = new Workers()
          const supervisor = yield* Supervisor.start({ children: [workers.child("a", { restart })] })
          const first = workers.pid("a")
          yield* end(workers, "a", reason)
          assert.isFalse(first.alive)
          const again = restarted[restart].some((one) => one === reason)
          assert.strictEqual(workers.pid("a") !== first, again)
          const expected = again ? "a" : restart === "temporary" ? "" : "(a)"
          assert.strictEqual(yield* running(supervisor), expected)
          assert.isTrue(supervisor.alive)
        }
      }))
  }

  onNode(
    "is permanent by default",
    () => Effect.sync(() => assert.strictEqual(new Workers().child("a").restart, "permanent"))
  )

  onNode("forgets a temporary child, whose id is free then", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start()
      const child = workers.child("a", { restart: "temporary" })
      yield* Supervisor.startChild(supervisor, child)
      yield* Process.exit(workers.pid("a"), Process.shutdown())
      yield* Supervisor.startChild(supervisor, child)
      assert.strictEqual(yield* running(supervisor), "a")
    }))
})

describe("the restart intensity", () => {
  onNode(
    "that is exceeded stops the other children, ends the supervisor with Shutdown and is logged",
    ({ lines }) =>
      Effect.gen(function*() {
        const workers = new Workers()
        const supervisor = yield* Supervisor.start({ label: "top", children: workers.children("a", "b") })
        for (let i = 0; i < 3; i++) yield* crash(workers, "a")
        assert.isTrue(supervisor.alive)
        workers.news()
        yield* crash(workers, "a")
        assert.deepStrictEqual(workers.news(), ["-a", "-b"])
        assert.deepStrictEqual(yield* Process.awaitExit(supervisor), Process.shutdown("too many restarts"))
        const { annotations, message } = lines.at(-1) ?? {}
        assert.strictEqual(message, "supervisor gives up: too many restarts")
        assert.deepStrictEqual(annotations, { process: "top", child: "a" })
        assert.lengthOf(lines, 5)
      })
  )

  onNode("does not count restarts that are older than `within`", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({
        children: workers.children("a"),
        maxRestarts: 2,
        within: "10 seconds"
      })
      for (let i = 0; i < 20; i++) {
        yield* crash(workers, "a")
        yield* TestClock.adjust("5 seconds")
      }
      assert.isTrue(supervisor.alive)
      yield* crash(workers, "a")
      yield* TestClock.adjust("4999 millis")
      yield* crash(workers, "a")
      assert.isFalse(supervisor.alive)
    }))

  onNode("of 0 allows no restart at all", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({ children: workers.children("a"), maxRestarts: 0 })
      yield* crash(workers, "a")
      assert.isFalse(supervisor.alive)
      assert.deepStrictEqual(workers.news(), ["+a", "-a"])
    }))

  onNode(
    "counts a child that does not start again as one more restart, and tries until it does or it is too much",
    ({ lines }) =>
      Effect.gen(function*() {
        for (const failures of [1, 2, 3]) {
          for (const strategy of ["oneForOne", "oneForAll", "restForOne"] as const) {
            lines.length = 0
            const workers = new Workers()
            let left = 0
            const init = Effect.suspend(() => left-- > 0 ? Effect.fail("not yet") : Effect.void)
            const supervisor = yield* Supervisor.start({
              strategy,
              children: [workers.child("a"), workers.child("b", { init }), workers.child("c")],
              maxRestarts: 3
            })
            left = failures
            yield* crash(workers, "b")
            const complaints = lines.filter((line) => line.message === "child does not start")
            assert.lengthOf(complaints, failures)
            assert.deepStrictEqual(complaints[0]?.annotations, { process: "supervisor", child: "b" })
            assert.strictEqual(supervisor.alive, failures < 3)
            if (failures < 3) assert.strictEqual(yield* running(supervisor), "a b c")
            else assert.deepStrictEqual([workers.pid("a").alive, workers.pid("c").alive], [false, false])
          }
        }
      })
  )
})

describe("a supervisor at work", () => {
  onNode("starts a child that comes later, after the others, and knows its id", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({ children: workers.children("a") })
      const pid = yield* Supervisor.startChild(supervisor, workers.child("b"))
      assert.strictEqual(pid, workers.pid("b"))
      assert.deepStrictEqual(yield* Supervisor.children(supervisor), [
        { id: "a", pid: workers.pid("a"), restart: "permanent" },
        { id: "b", pid, restart: "permanent" }
      ])
      const taken = yield* Effect.flip(Supervisor.startChild(supervisor, workers.child("b")))
      assert.deepInclude(taken, { code: "ALREADY_STARTED", message: "there is a child with the id b" })
      workers.news()
      yield* shutDown(supervisor)
      assert.deepStrictEqual(workers.news(), ["-b", "-a"])
    }))

  onNode("fails with the error of a child that does not start, forgets it, and goes on", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({ children: workers.children("a") })
      const error = yield* Effect.flip(
        Supervisor.startChild(supervisor, workers.child("b", { init: Effect.fail("no") }))
      )
      assert.strictEqual(error, "no")
      assert.strictEqual(yield* running(supervisor), "a")
      yield* Supervisor.startChild(supervisor, workers.child("b"))
      assert.strictEqual(yield* running(supervisor), "a b")
    }))

  onNode("stops and forgets a child on terminateChild, and restarts it no more", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({ children: workers.children("a", "b") })
      workers.news()
      yield* Supervisor.terminateChild(supervisor, "a")
      assert.deepStrictEqual(workers.news(), ["-a"])
      yield* settle
      assert.strictEqual(yield* running(supervisor), "b")
      assert.deepInclude(yield* Effect.flip(Supervisor.terminateChild(supervisor, "a")), {
        code: "NOT_FOUND",
        message: "there is no child with the id a"
      })
    }))

  onNode(
    "restarts a child on restartChild, running or not, in its place and without counting",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        const supervisor = yield* Supervisor.start({
          children: [workers.child("a", { restart: "transient" }), workers.child("b")],
          maxRestarts: 0
        })
        workers.news()
        const first = workers.pid("a")
        const second = yield* Supervisor.restartChild(supervisor, "a")
        assert.notStrictEqual(second, first)
        assert.deepStrictEqual(workers.news(), ["-a", "+a"])
        yield* end(workers, "a", Process.normal)
        assert.strictEqual(yield* running(supervisor), "(a) b")
        yield* Supervisor.restartChild(supervisor, "a")
        assert.strictEqual(yield* running(supervisor), "a b")
        assert.strictEqual((yield* Effect.flip(Supervisor.restartChild(supervisor, "c"))).code, "NOT_FOUND")
      })
  )

  onNode(
    "fails with NOT_STARTED when restartChild cannot start the child, which can be tried again",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        let broken = false
        const init = Effect.suspend(() => broken ? Effect.fail("no") : Effect.void)
        const supervisor = yield* Supervisor.start({ children: [workers.child("a", { init })] })
        broken = true
        const error = yield* Effect.flip(Supervisor.restartChild(supervisor, "a"))
        assert.strictEqual(error.code, "NOT_STARTED")
        assert.strictEqual(Cause.squash(error.cause ?? Cause.empty), "no")
        yield* settle
        assert.strictEqual(yield* running(supervisor), "(a)")
        broken = false
        yield* Supervisor.restartChild(supervisor, "a")
        assert.strictEqual(yield* running(supervisor), "a")
      })
  )

  onNode("that has ended fails every request with DOWN", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start({ label: "top" })
      yield* shutDown(supervisor)
      const requests = [
        Supervisor.startChild(supervisor, workers.child("a")),
        Supervisor.terminateChild(supervisor, "a"),
        Supervisor.restartChild(supervisor, "a"),
        Supervisor.children(supervisor)
      ]
      for (const request of requests) {
        const error = yield* Effect.flip<unknown, unknown, Process.System>(request)
        assert.instanceOf(error, Supervisor.SupervisorError)
        assert.deepInclude(error, { code: "DOWN", message: "top has ended" })
      }
    }))

  onNode(
    "that ends while it starts a child fails the request with DOWN and leaves no child",
    () =>
      Effect.gen(function*() {
        for (const reason of [Process.shutdown(), Process.killed]) {
          const workers = new Workers()
          const latch = yield* Deferred.make<void>()
          const supervisor = yield* Supervisor.start({ children: workers.children("a") })
          const slow = workers.child("b", { init: Deferred.await(latch), restart: "temporary" })
          const request = yield* Effect.forkChild(Effect.flip(Supervisor.startChild(supervisor, slow)))
          yield* settle
          assert.strictEqual((yield* Process.info(supervisor)).children, 2)
          yield* Process.exit(supervisor, reason)
          const error = yield* Fiber.join(request)
          assert.isTrue(error instanceof Supervisor.SupervisorError && error.code === "DOWN")
          yield* Deferred.succeed(latch, undefined)
          yield* settle
          assert.deepStrictEqual(workers.news(), ["+a", "-a"])
          assert.lengthOf(yield* Process.list, 0)
        }
      })
  )

  onNode("sees to its children whatever its mailbox can hold", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const top = yield* Supervisor.start({
        children: [Supervisor.child({
          id: "small",
          mailbox: { capacity: 1 },
          start: Supervisor.make({ children: workers.children("a", "b", "c") })
        })]
      })
      for (const id of ["a", "b", "c"]) yield* Process.exit(workers.pid(id), Process.killed)
      yield* settle
      assert.deepStrictEqual(["a", "b", "c"].map((id) => workers.pid(id).alive), [true, true, true])
      assert.isTrue(top.alive)
    }))
})

describe("a tree of supervisors", () => {
  const nested = (
    workers: Workers,
    options: Supervisor.Options<string, Process.System> = {},
    restart?: Supervisor.Restart
  ) =>
    Supervisor.start({
      label: "top",
      children: [
        workers.child("before"),
        Supervisor.child({
          id: "inner",
          restart,
          shutdown: "Infinity",
          start: Supervisor.make({ children: workers.children("a", "b"), ...options })
        }),
        workers.child("after")
      ]
    })

  onNode("starts and stops depth first", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const top = yield* nested(workers)
      assert.deepStrictEqual(workers.news(), ["+before", "+a", "+b", "+after"])
      assert.deepStrictEqual((yield* Process.list).map((pid) => pid.label), [
        "top",
        "before",
        "inner",
        "a",
        "b",
        "after"
      ])
      yield* shutDown(top)
      assert.deepStrictEqual(workers.news(), ["-after", "-b", "-a", "-before"])
    }))

  onNode("starts a supervisor that has given up anew, if it is permanent", () =>
    Effect.gen(function*() {
      for (const restart of ["permanent", "transient", "temporary"] as const) {
        const workers = new Workers()
        const top = yield* nested(workers, { maxRestarts: 1 }, restart)
        yield* crash(workers, "a")
        workers.news()
        yield* crash(workers, "a")
        const stopped = ["-a", "-b"]
        assert.deepStrictEqual(workers.news(), restart === "permanent" ? [...stopped, "+a", "+b"] : stopped)
        const inner = { permanent: "before inner after", transient: "before (inner) after", temporary: "before after" }
        assert.strictEqual(yield* running(top), inner[restart])
      }
    }))

  onNode("ends when a crash goes on at every level", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const top = yield* nested(workers, { maxRestarts: 0 })
      for (let i = 0; i < 3; i++) yield* crash(workers, "a")
      assert.isTrue(top.alive)
      yield* crash(workers, "a")
      assert.isFalse(top.alive)
      assert.lengthOf(yield* Process.list, 0)
    }))

  onNode(
    "leaves no process behind when a supervisor is killed: its children are shut down, and it is started anew",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        const top = yield* nested(workers)
        const inner = (yield* Supervisor.children(top)).find((child) => child.id === "inner")?.pid
        assert.isDefined(inner)
        const [a, b] = [workers.pid("a"), workers.pid("b")]
        workers.news()
        yield* Process.exit(inner, Process.killed)
        assert.deepStrictEqual([a.alive, b.alive], [false, false])
        yield* settle
        assert.deepStrictEqual(workers.news(), ["-b", "-a", "+a", "+b"])
        yield* Process.exit(top, Process.killed)
        yield* settle
        assert.lengthOf(yield* Process.list, 0)
      })
  )

  onNode(
    "lists the children of a killed supervisor until they have ended, at most their shutdown time later",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        const supervisor = yield* Supervisor.start({
          children: [
            workers.child("a", { terminate: Effect.sleep("1 second") }),
            workers.child("b", { terminate: Effect.never })
          ]
        })
        yield* Process.exit(supervisor, Process.killed)
        assert.lengthOf(yield* Process.list, 2)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Process.list, [workers.pid("b")])
        yield* TestClock.adjust("4 seconds")
        assert.lengthOf(yield* Process.list, 0)
      })
  )

  onNode("ends children that trap exits in order too", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const supervisor = yield* Supervisor.start({
        children: [Supervisor.child({
          id: "keeper",
          start: (_self: Process.Pid<string>) =>
            Effect.succeed({
              handle: () => Effect.void,
              handleExit: () => Effect.sync(() => log.push("trapped")),
              terminate: (reason: Process.ExitReason) => Effect.sync(() => log.push(reason._tag))
            })
        })]
      })
      yield* shutDown(supervisor)
      assert.deepStrictEqual(log, ["Shutdown"])
    }))

  onNode("with 10,000 temporary children that end at once has forgotten them all", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const supervisor = yield* Supervisor.start()
      const pids: Array<Process.Pid> = []
      for (let i = 0; i < 10_000; i++) {
        pids.push(yield* Supervisor.startChild(supervisor, workers.child(`${i}`, { restart: "temporary" })))
      }
      for (const pid of pids) yield* Process.exit(pid, Process.shutdown())
      assert.deepStrictEqual(yield* Supervisor.children(supervisor), [])
    }))
})

describe("Supervisor.layer", () => {
  onNode(
    "runs the children while its scope is open, and stops them in order when it closes",
    () =>
      Effect.gen(function*() {
        const workers = new Workers()
        const scope = yield* Scope.make()
        yield* Layer.buildWithScope(Supervisor.layer({ label: "app", children: workers.children("a", "b") }), scope)
        assert.deepStrictEqual((yield* Process.list).map((pid) => pid.label), ["app", "a", "b"])
        yield* crash(workers, "a")
        assert.deepStrictEqual(workers.news(), ["+a", "+b", "-a", "+a"])
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(workers.news(), ["-b", "-a"])
        assert.lengthOf(yield* Process.list, 0)
      })
  )

  onNode("fails with the error of a child that does not start, and leaves none", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const layer = Supervisor.layer({
        children: [...workers.children("a"), workers.child("b", { init: Effect.fail("no") })]
      })
      assert.strictEqual(yield* Effect.flip(Effect.scoped(Layer.build(layer))), "no")
      assert.deepStrictEqual(workers.news(), ["+a", "-a"])
    }))

  onNode("that is interrupted while a child starts leaves none", () =>
    Effect.gen(function*() {
      const workers = new Workers()
      const layer = Supervisor.layer({
        children: [...workers.children("a"), workers.child("b", { init: Effect.never })]
      })
      const fiber = yield* Effect.forkChild(Effect.scoped(Layer.build(layer)))
      yield* settle
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(workers.news(), ["+a", "-a"])
      assert.lengthOf(yield* Process.list, 0)
    }))
})

describe("the options of a supervisor", () => {
  const start = () => Effect.succeed({ handle: () => Effect.void })

  for (
    const [option, wrong] of [
      ...[NaN, -1, 1.5, "3", null].map((maxRestarts) => ["maxRestarts", { maxRestarts }] as const),
      ...[NaN, 0, -1, "soon", null].map((within) => ["within", { within }] as const),
      ...["one_for_one", null].map((strategy) => ["strategy", { strategy }] as const),
      ["children", { children: {} }]
    ] as const
  ) {
    onNode(`refuse ${option} of ${String(Object.values(wrong)[0])}`, () =>
      Effect.gen(function*() {
        const options = wrong as Supervisor.Options
        const expected = new RegExp(`^${option} must be .+; it is `)
        assert.throws(() => Supervisor.make(options), expected)
        for (const effect of [Supervisor.start(options), Effect.scoped(Layer.build(Supervisor.layer(options)))]) {
          const exit = yield* Effect.exit<unknown, never, Process.System>(effect)
          assert.isTrue(Exit.isFailure(exit) && expected.test((Cause.squash(exit.cause) as Error).message))
        }
        assert.strictEqual((yield* Process.stats).processes, 0)
      }))
  }

  it("refuse a child without id, start or a known restart", () => {
    for (const wrong of [{ id: "" }, { id: 1 }, { start: undefined }, { restart: "always" }, { restart: null }]) {
      const options = { id: "a", start, ...wrong } as unknown
      assert.throws(() => Supervisor.child(options as Parameters<typeof Supervisor.child>[0]), RangeError)
    }
  })

  onNode("take no restart at all, and any number of them", () =>
    Effect.gen(function*() {
      for (const [maxRestarts, alive] of [[0, false], [Infinity, true]] as const) {
        const supervisor = yield* Supervisor.start({ maxRestarts, children: [Supervisor.child({ id: "a", start })] })
        for (let n = 0; n < 10 && supervisor.alive; n++) {
          const [child] = yield* Supervisor.children(supervisor)
          if (child?.pid !== undefined) yield* Process.exit(child.pid, boom)
          yield* settle
        }
        assert.strictEqual(supervisor.alive, alive)
      }
    }))
})
