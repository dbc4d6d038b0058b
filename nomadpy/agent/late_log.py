"""A replicated log that begins once it is known who votes first. Until then nobody leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from nomadpy.model.errors import NoLeader
from nomadpy.raft.contract import Leadership, LogStatistics
from nomadpy.raft.raftlog import RaftLog

_NOT_YET = "this server does not belong to a cluster yet"


class LateLog:
    """``first()`` waits for the first configuration and makes the log from it."""

    def __init__(self, first: Callable[[], Awaitable[RaftLog]]) -> None:
        self._first = first
        self._begun = trio.Event()
        self._log: RaftLog | None = None

    @property
    def log(self) -> RaftLog | None:
        """The log itself, None before it began."""
        return self._log

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reports started at once, then waits for the log and runs it."""
        task_status.started()
        made = await self._first()
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            self._log = made
            self._begun.set()

    @property
    def is_leader(self) -> bool:
        """Whether this server may propose right now."""
        return self._log is not None and self._log.is_leader

    @property
    def leadership(self) -> Leadership:
        """Who leads; nobody before the log began."""
        return self._log.leadership if self._log is not None else Leadership()

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        """Waits until the leadership is another one than ``seen``."""
        if self._log is None:
            await self._begun.wait()
        return await self._ready().leadership_changed(seen)

    @property
    def durable(self) -> bool:
        """Always."""
        return True

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """As the log does. Raises NoLeader before it began."""
        return await self._ready().propose(data, timeout_s=timeout_s)

    async def read_index(self, *, timeout_s: float = 10.0) -> int:
        """As the log does. Raises NoLeader before it began."""
        return await self._ready().read_index(timeout_s=timeout_s)

    def statistics(self) -> LogStatistics:
        """How the log is doing."""
        return self._log.statistics() if self._log is not None else LogStatistics(kind="raft")

    def _ready(self) -> RaftLog:
        if self._log is None:
            raise NoLeader(_NOT_YET)
        return self._log
