"""What a replicated log is, for those who propose to it. Bytes in, bytes out: it does not know what a job is.

A log calls ``apply(index, data)`` once per entry, in order, on every server, and only after the entry is as durable as
the implementation promises. ``propose`` answers with what ``apply`` returned on this server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import trio

Apply = Callable[[int, bytes], Any]


class LogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How a log is doing. ``fsync_ms_last`` is the time of the newest sync, 0 where nothing is synced;
    ``commit_ms_last`` how long the newest entry proposed here took until it was applied."""

    kind: str
    last_index: int = 0
    applied_index: int = 0
    term: int = 0
    entries_written: int = 0
    syncs: int = 0
    fsync_ms_last: float = 0.0
    commit_ms_last: float = 0.0


class Leadership(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, as far as a server knows: its name in the log ("" for nobody), and whether it is this very server. A
    new term is another leadership, even of the same server."""

    leader: str = ""
    leading: bool = False
    term: int = 0


class Log(Protocol):
    """A log of entries that all servers apply in the same order."""

    @property
    def is_leader(self) -> bool:
        """Whether this server may propose right now."""

    @property
    def leadership(self) -> Leadership:
        """Who leads now."""

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        """Waits until the leadership is another one than ``seen``; returns it."""

    async def read_index(self, *, timeout_s: float = 10.0) -> int:
        """Returns once this server's state holds everything that was acknowledged anywhere before the call; the index
        of that state. Raises NoLeader where this server does not lead, TimedOut."""

    @property
    def durable(self) -> bool:
        """Whether entries survive the end of the process."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Restores what was stored (calling ``apply`` for it), reports started, then works until cancelled."""

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """Appends an entry and returns what ``apply`` said of it. Raises NoLeader when nothing was appended, TimedOut
        when it was not even written in time, OutcomeUnknown when it may still take effect."""

    def statistics(self) -> LogStatistics:
        """How the log is doing."""
