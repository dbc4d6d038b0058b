"""Waiting for tables to change, for blocking queries and for the leader's duties."""

from __future__ import annotations

from collections.abc import Iterable

import trio


class Watch:
    """Wakes tasks that wait for tables. Waking without a change that matters is allowed: who wakes looks again."""

    def __init__(self) -> None:
        self._waiters: dict[str, dict[trio.Event, None]] = {}

    def publish(self, tables: Iterable[str]) -> None:
        """Wakes everyone who waits for one of the tables."""
        for table in tables:
            for event in self._waiters.pop(table, {}):
                event.set()

    def waited_for(self) -> list[str]:
        """The tables that somebody waits for."""
        return list(self._waiters)

    async def changed(self, *tables: str) -> None:
        """Returns once one of the tables has changed."""
        event = trio.Event()
        for table in tables:
            self._waiters.setdefault(table, {})[event] = None
        try:
            await event.wait()
        finally:
            for table in tables:
                self._waiters.get(table, {}).pop(event, None)

    def n_waiters(self) -> int:
        """How many waits there are; a task that waits for two tables counts twice."""
        return sum(len(events) for events in self._waiters.values())
