"""The words of trio that nomadpy's servers and clients use, spoken on the virtual loop.

``installed(loop)`` puts this module in trio's place in the modules that are simulated, so that their very code runs.
Meaning and order are trio's: cancellation is level-triggered, a nursery ends after its children, errors of children
come as a group.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio as real_trio
import virtual_loop
from virtual_loop import Cancelled, Loop, Task, suspend

TASK_STATUS_IGNORED = real_trio.TASK_STATUS_IGNORED
TaskStatus = real_trio.TaskStatus
TooSlowError = real_trio.TooSlowError
WouldBlock = real_trio.WouldBlock

_loop = Loop()


def use(loop: Loop) -> None:
    """The loop that the words below are about from now on."""
    global _loop
    _loop = loop


def _now() -> float:
    return current_time()


def current_time() -> float:
    """The monotonic clock of the process that asks."""
    process = _loop.process
    return _loop.now + process.boot_s if process is not None else _loop.now


def _world_time(deadline: float) -> float:
    process = _loop.process
    return deadline - process.boot_s if process is not None else deadline


# --- scopes ---------------------------------------------------------------------------------------------------------


class CancelScope:
    """Ends what is inside it when it is cancelled or its deadline passes."""

    def __init__(self, *, deadline: float = float("inf"), shield: bool = False) -> None:
        self._deadline, self.shield = deadline, shield
        self.cancel_called = self.cancelled_caught = False
        self.tasks: dict[Task, None] = {}
        self._task: Task | None = None
        self._timer: virtual_loop.Timer | None = None

    def __enter__(self) -> CancelScope:
        task = self._task = _loop.task
        assert task is not None
        task.scopes.append(self)
        self.tasks[task] = None
        self._arm()
        return self

    @property
    def deadline(self) -> float:
        """When it ends, on the clock of its process."""
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._task is not None:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadline != float("inf"):
            when = _world_time(self._deadline)
            if when <= _loop.now:
                self.cancel()
            else:
                self._timer = _loop.at(when, self.cancel)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        task = self._task
        assert task is not None
        if self._timer is not None:
            self._timer.cancel()
        self._task = None
        task.scopes.remove(self)
        self.tasks.pop(task, None)
        if isinstance(error, Cancelled) and self.cancel_called and not task.must_end():
            self.cancelled_caught = True
            return True
        return False

    def cancel(self) -> None:
        """Ends it."""
        if not self.cancel_called:
            self.cancel_called = True
            for task in list(self.tasks):
                task.interrupt()


def move_on_at(deadline: float) -> CancelScope:
    """A scope that ends quietly at a moment."""
    return CancelScope(deadline=deadline)


def move_on_after(seconds: float, *, shield: bool = False) -> CancelScope:
    """A scope that ends quietly after a time."""
    return CancelScope(deadline=_now() + seconds, shield=shield)


@contextmanager
def fail_after(seconds: float) -> Iterator[CancelScope]:
    """A scope that raises TooSlowError after a time."""
    with move_on_after(seconds) as scope:
        yield scope
    if scope.cancelled_caught:
        raise TooSlowError


# --- waiting --------------------------------------------------------------------------------------------------------


async def checkpoint() -> None:
    """Gives others a turn."""
    task = _loop.task
    assert task is not None
    if task.must_end():
        raise Cancelled
    _loop.schedule(task)
    await suspend(_loop, None)


async def sleep(seconds: float) -> None:
    """Waits for a time."""
    await sleep_until(_now() + seconds)


async def sleep_until(deadline: float) -> None:
    """Waits for a moment."""
    task = _loop.task
    assert task is not None
    if deadline == float("inf"):
        await sleep_forever()
    timer = _loop.at(_world_time(deadline), lambda: _loop.schedule(task))
    await suspend(_loop, timer.cancel)


async def sleep_forever() -> None:
    """Waits to be cancelled."""
    await suspend(_loop, _nothing)


def _nothing() -> None:
    """Nothing has to be taken back."""


class Event:
    """Happens once."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: dict[Task, None] = {}

    def is_set(self) -> bool:
        """Whether it happened."""
        return self._is_set

    def set(self) -> None:
        """It happens."""
        self._is_set = True
        waiting, self._waiting = self._waiting, {}
        for task in waiting:
            _loop.schedule(task)

    async def wait(self) -> None:
        """Returns once it has happened."""
        if self._is_set:
            await checkpoint()
            return
        task = _loop.task
        assert task is not None
        self._waiting[task] = None
        await suspend(_loop, lambda: _forget(self._waiting, task))


def _forget(waiting: dict[Task, None], task: Task) -> None:
    waiting.pop(task, None)


class Lock:
    """One at a time, in the order of asking."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: dict[Task, None] = {}

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        task = _loop.task
        assert task is not None
        self._waiting[task] = None
        await suspend(_loop, lambda: _forget(self._waiting, task))

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            task = next(iter(self._waiting))
            del self._waiting[task]
            _loop.schedule(task)
        else:
            self._held = False


class _SendChannel:
    def __init__(self, items: deque[Any], size: int) -> None:
        self._items, self._size = items, size
        self.receiver: Task | None = None

    async def send(self, item: Any) -> None:
        """Puts it in; there is always room, for nobody may be told to wait who cannot."""
        assert len(self._items) < self._size, "the simulation fills a channel"
        self.send_nowait(item)

    def send_nowait(self, item: Any) -> None:
        """Puts it in."""
        self._items.append(item)
        if self.receiver is not None:
            task, self.receiver = self.receiver, None
            _loop.schedule(task)


class _ReceiveChannel:
    def __init__(self, items: deque[Any], sender: _SendChannel) -> None:
        self._items, self._sender = items, sender

    async def receive(self) -> Any:
        """The next one."""
        if not self._items:
            self._sender.receiver = _loop.task
            await suspend(_loop, self._give_up)
        else:
            await checkpoint()
        return self._items.popleft()

    def _give_up(self) -> None:
        self._sender.receiver = None

    def receive_nowait(self) -> Any:
        """The next one. Raises WouldBlock."""
        if not self._items:
            raise WouldBlock
        return self._items.popleft()


class open_memory_channel:
    """A queue with two ends; made as ``open_memory_channel[Type](size)``."""

    def __class_getitem__(cls, _type: Any) -> Callable[[int], tuple[_SendChannel, _ReceiveChannel]]:
        return cls._make

    @staticmethod
    def _make(size: int) -> tuple[_SendChannel, _ReceiveChannel]:
        items: deque[Any] = deque()
        sender = _SendChannel(items, size)
        return sender, _ReceiveChannel(items, sender)


# --- nurseries ------------------------------------------------------------------------------------------------------


class Nursery:
    """Tasks that end before their parent goes on."""

    def __init__(self) -> None:
        self.cancel_scope = CancelScope()
        self._children: dict[Task, None] = {}
        self._errors: list[BaseException] = []
        self._starting: dict[Task, _Starting] = {}
        self._parent: Task | None = None
        self._parent_waits = False

    async def __aenter__(self) -> Nursery:
        self._parent = _loop.task
        self.cancel_scope.__enter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        parent = self._parent
        assert parent is not None
        if not parent.process.alive:
            return False
        if error is not None:
            self._fail(error)
        while self._children:
            self._parent_waits = True
            await suspend(_loop, None)
        self._parent_waits = False
        must_end = parent.must_end()
        own = self.cancel_scope.cancel_called
        self.cancel_scope.__exit__(None, None, None)
        if self._errors:
            raise BaseExceptionGroup("tasks failed", self._errors)
        if isinstance(error, Cancelled) or must_end:
            if own and not parent.must_end():
                return True
            raise Cancelled
        return False

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Begins a child."""
        self._spawn(function(*args))

    def _spawn(self, coroutine: Any) -> Task:
        parent = self._parent
        assert parent is not None
        scopes = parent.scopes[: parent.scopes.index(self.cancel_scope) + 1]
        task = Task(parent.process, coroutine, tuple(scopes), self)
        self._children[task] = None
        return task

    async def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Begins a child and returns once it says that it has started."""
        starting = _Starting()
        task = self._spawn(function(*args, task_status=starting))
        self._starting[task] = starting
        await starting.event.wait()
        self._starting.pop(task, None)
        if starting.error is not None:
            raise starting.error
        return starting.value

    def child_ended(self, task: Task, error: BaseException | None) -> None:
        """For the loop."""
        self._children.pop(task, None)
        starting = self._starting.pop(task, None)
        if starting is not None and not starting.event.is_set():
            starting.error = error or RuntimeError("the child ended before it started")
            starting.event.set()
        elif error is not None:
            self._fail(error)
        if not self._children and self._parent_waits:
            self._parent_waits = False
            assert self._parent is not None
            _loop.schedule(self._parent)

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, Cancelled):
            self._errors.append(error)
        if not isinstance(error, Cancelled) or not self.cancel_scope.cancel_called:
            self.cancel_scope.cancel()


class _Starting:
    def __init__(self) -> None:
        self.event, self.value, self.error = Event(), None, None  # type: Event, Any, BaseException | None

    def started(self, value: Any = None) -> None:
        self.value = value
        self.event.set()


def open_nursery() -> Nursery:
    """A nursery."""
    return Nursery()


# --- threads and clocks -----------------------------------------------------------------------------------------------


async def _run_sync(function: Callable[..., Any], *args: Any) -> Any:
    """A worker thread: takes a moment, in which the process may die or go on with other things."""
    process = _loop.process
    assert process is not None
    with CancelScope(shield=True):
        await sleep(getattr(process, "thread_s", 0.002))
    return function(*args)


to_thread = types.SimpleNamespace(run_sync=_run_sync)


def _current_task() -> Task:
    task = _loop.task
    assert task is not None
    return task


def _reschedule(task: Task) -> None:
    if task.process.alive:
        _loop.schedule(task)


async def _wait_task_rescheduled(abort: Callable[[Any], Any]) -> None:
    """Waits for ``reschedule``. ``abort`` may not refuse: none of ours does."""
    await suspend(_loop, lambda: abort(None))


lowlevel = types.SimpleNamespace(
    checkpoint=checkpoint,
    current_task=_current_task,
    reschedule=_reschedule,
    wait_task_rescheduled=_wait_task_rescheduled,
    Abort=real_trio.lowlevel.Abort,
)
