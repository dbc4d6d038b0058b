"""Deadlines by key, the earliest first."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TypeAlias

Key: TypeAlias = tuple[str, str | int]
"""What kind of deadline, and whose."""


class Timers:
    """At most one deadline per key; setting it again replaces it."""

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()

    def set(self, key: Key, at: float) -> None:
        """Sets or moves a deadline."""
        self._at[key] = at
        heapq.heappush(self._heap, (at, next(self._order), key))

    def drop(self, key: Key) -> None:
        """Forgets a deadline, if there is one."""
        self._at.pop(key, None)

    def has(self, key: Key) -> bool:
        """Whether the key has a deadline."""
        return key in self._at

    def earliest(self) -> float:
        """When the next deadline falls; infinity when there is none."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Key | None:
        """Takes the earliest deadline out when it has passed."""
        if self.earliest() > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._at[key]
        return key

    def shift(self, kinds: frozenset[str], by: float) -> None:
        """Moves every deadline of these kinds."""
        for key, at in [(key, at) for key, at in self._at.items() if key[0] in kinds]:
            self.set(key, at + by)
