"""One event loop of virtual time that runs the coroutines of many pretend processes.

Time only moves when nobody has anything to do, and then jumps to the next event. Everything happens in one order that
follows from the calls, so a run can be repeated. A process can be paused (what concerns it waits) and killed (nothing
of it happens any more, not even its clean-up). ``pretend_trio`` gives the coroutines the words that they know.
"""

from __future__ import annotations

import heapq
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Abort = Callable[[], None]


class Cancelled(BaseException):
    """The task has to end, up to the scope that was cancelled."""


class Killed(BaseException):
    """The process dies here."""


class Process:
    """What lives and dies together: its tasks, and what arrives for it. ``boot_s`` is what its monotonic clock showed
    when the world began, so that times of two machines cannot be compared by accident."""

    def __init__(self, loop: Loop, name: str, *, boot_s: float = 0.0) -> None:
        self.loop, self.name, self.boot_s = loop, name, boot_s
        self.alive, self.paused = True, False
        self.tasks: dict[Task, None] = {}
        self._held: list[Callable[[], None]] = []
        # Hears of an exception that no task caught; it ends the process.
        self.on_crash: Callable[[BaseException], None] | None = None

    def now(self) -> float:
        """Its monotonic clock, in seconds."""
        return self.loop.now + self.boot_s

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Task:
        """Begins a task that belongs to no other."""
        return Task(self, coroutine, (), None)

    def deliver(self, action: Callable[[], None]) -> None:
        """Does something in the process: at once, when it runs again, or never."""
        if self.paused:
            self._held.append(action)
        elif self.alive:
            self.loop.run_in(self, action)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: what it missed happens now, in the order in which it came."""
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            self.deliver(action)

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._held.clear()
        tasks, self.tasks = list(self.tasks), {}
        for task in tasks:
            task.abandon()


class Task:
    """A coroutine under way. ``scopes`` are those that can cancel it, the innermost last."""

    def __init__(
        self, process: Process, coroutine: Coroutine[Any, Any, Any], scopes: tuple[Any, ...], nursery: Any
    ) -> None:
        self.process, self.coroutine, self.nursery = process, coroutine, nursery
        self.scopes: list[Any] = list(scopes)
        self.abort: Abort | None = None
        self.waiting = False
        self.done = False
        self._on_stack = False
        process.tasks[self] = None
        for scope in scopes:
            scope.tasks[self] = None
        process.loop.schedule(self)

    def must_end(self) -> bool:
        """Whether one of its scopes was cancelled and no shield is in between."""
        for scope in reversed(self.scopes):
            if scope.cancel_called:
                return True
            if scope.shield:
                return False
        return False

    def interrupt(self) -> None:
        """A scope was cancelled: a wait that can be given up is."""
        if self.waiting and self.abort is not None and self.must_end():
            self.abort()
            self.process.loop.schedule(self, error=Cancelled())

    def step(self, value: Any, error: BaseException | None) -> None:
        """Goes on to the next wait. What nobody catches is the nursery's, or ends the process."""
        self._on_stack = True
        try:
            if error is not None:
                self.abort = self.coroutine.throw(error)
            else:
                self.abort = self.coroutine.send(value)
            self.waiting = True
        except StopIteration:
            self._end(None)
        except BaseException as raised:  # noqa: BLE001 - handed on to whoever waits for the task
            self._end(raised)
        finally:
            self._on_stack = False
        if not self.process.alive:
            self.abandon()

    def _end(self, error: BaseException | None) -> None:
        self.done = True
        self.process.tasks.pop(self, None)
        for scope in self.scopes:
            scope.tasks.pop(self, None)
        if not self.process.alive:
            return
        if self.nursery is not None:
            self.nursery.child_ended(self, error)
        elif error is not None and not isinstance(error, Cancelled) and self.process.on_crash is not None:
            self.process.on_crash(error)

    def abandon(self) -> None:
        """Its process is gone. A task that is just running closes when its step is over: CPython 3.11 takes a
        coroutine that is closed while it runs for one that waits, and may crash."""
        self.done = True
        if self._on_stack:
            return
        loop = self.process.loop
        before, loop.task = loop.task, self
        try:
            self.coroutine.close()
        except BaseException:  # noqa: BLE001 - a dead process has nobody to tell
            pass
        finally:
            loop.task = before


class Timer:
    """Something to be done later; ``cancel`` makes it not happen."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """It is not wanted any more."""
        self.action = None


class Loop:
    """The course of events."""

    def __init__(self) -> None:
        self.now = 0.0
        self.task: Task | None = None
        self.process: Process | None = None
        self.steps = 0
        self._order = 0
        self._timers: list[tuple[float, int, Timer]] = []
        self._ready: deque[tuple[Task, Any, BaseException | None]] = deque()

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Does something at a moment of the world's time."""
        timer = Timer(action)
        self._order = order = self._order + 1
        heapq.heappush(self._timers, (when if when > self.now else self.now, order, timer))
        return timer

    def later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Does something after so many seconds."""
        return self.at(self.now + delay_s, action)

    def schedule(self, task: Task, value: Any = None, error: BaseException | None = None) -> None:
        """The task goes on in its turn."""
        task.waiting = False
        self._ready.append((task, value, error))

    def run_in(self, process: Process, action: Callable[[], None]) -> None:
        """Does something in the name of a process; it may die of it."""
        before, self.process = self.process, process
        try:
            action()
        except Killed:
            pass
        finally:
            self.process = before

    def run(self, until: float) -> None:
        """Lets time pass up to a moment."""
        timers, ready = self._timers, self._ready
        while True:
            if ready:
                self._run_ready()
            if not timers or timers[0][0] > until:
                break
            when, _, timer = heapq.heappop(timers)
            self.now = when
            if timer.action is not None:
                self.steps += 1
                timer.action()
        self.now = until

    def _run_ready(self) -> None:
        while self._ready:
            task, value, error = self._ready.popleft()
            process = task.process
            if not process.alive:
                # Perhaps begun after its process had died; closed ones do not mind.
                task.abandon()
                continue
            if task.done:
                continue
            if process.paused:
                process.deliver(lambda task=task, value=value, error=error: self._ready.append((task, value, error)))
                continue
            self.steps += 1
            self.task, self.process = task, process
            task.step(value, error)
            self.task = self.process = None


@types.coroutine
def suspend(loop: Loop, abort: Abort | None) -> Generator[Any, Any, Any]:
    """Waits until the task is scheduled again. ``abort`` takes the wait back; None when it cannot be cancelled."""
    task = loop.task
    assert task is not None, "only tasks of the loop can wait"
    if not task.process.alive:
        raise Killed
    if abort is not None and task.must_end():
        abort()
        raise Cancelled
    return (yield abort)
