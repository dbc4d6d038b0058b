"""A log that lives and dies with the process: for ``agent -dev`` and for tests."""

from __future__ import annotations

from typing import Any

import trio

from nomadpy.raft.contract import Apply, Leadership, LogStatistics


class MemoryLog:
    """One server, nothing on disk; an entry is applied the moment it is proposed."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._index = 0

    @property
    def is_leader(self) -> bool:
        """Always: there is nobody else."""
        return True

    @property
    def leadership(self) -> Leadership:
        """This server's, for ever."""
        return Leadership(leader="memory", leading=True, term=1)

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        """It never changes."""
        if seen == self.leadership:
            await trio.sleep_forever()
        return self.leadership

    async def read_index(self, *, timeout_s: float = 10.0) -> int:
        """Everything proposed is applied already."""
        await trio.lowlevel.checkpoint()
        return self._index

    @property
    def durable(self) -> bool:
        """Never."""
        return False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """There is nothing to restore and nothing to do."""
        task_status.started()
        await trio.sleep_forever()

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """Applies the entry at once."""
        self._index += 1
        result = self._apply(self._index, data)
        await trio.lowlevel.checkpoint()
        return result

    def statistics(self) -> LogStatistics:
        """How many entries there were."""
        return LogStatistics(
            kind="memory", last_index=self._index, applied_index=self._index, term=1, entries_written=self._index
        )
