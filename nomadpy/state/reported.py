"""What nodes say of tasks, kept small.

Ten thousand allocations that run say the same ten thousand times, at other moments. So the words are kept once (a
``Saying``, shared by all who say them for as long as one of them does) and of each allocation only the moments.
"""

from __future__ import annotations

import struct
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from nomadpy.model.alloc import TaskState

States = dict[str, TaskState]


class Saying(msgspec.Struct, frozen=True, weakref=True):
    """Task states without their moments."""

    states: States


class Reported(msgspec.Struct, frozen=True, gc=False):
    """Task states: the words, and the moments in their order as little-endian 64-bit integers."""

    saying: Saying
    moments: bytes

    def states(self) -> States:
        """The task states as the node reported them."""
        moments = iter(struct.unpack(f"<{len(self.moments) // 8}q", self.moments))
        return {task: _with_moments(state, moments) for task, state in self.saying.states.items()}


class Sayings:
    """The words in use."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, Saying] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def pack(self, states: States) -> Reported | None:
        """Task states in their small form; None when there are none."""
        if not states:
            return None
        moments = [moment for state in states.values() for moment in _moments(state)]
        words = {task: _without_moments(state) for task, state in states.items()}
        return Reported(self._shared(words), struct.pack(f"<{len(moments)}q", *moments))

    def share(self, reported: Reported) -> Reported:
        """The same with words that are in use already, if they are."""
        return Reported(self._shared(reported.saying.states), reported.moments)

    def _shared(self, words: States) -> Saying:
        key = _encode(words)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Saying(words)
        return known


def _moments(state: TaskState) -> tuple[int, ...]:
    return (
        state.last_restart_ns,
        state.started_at_ns,
        state.finished_at_ns,
        *(event.time_ns for event in state.events),
    )


def _without_moments(state: TaskState) -> TaskState:
    events = tuple(event.replace(time_ns=0) for event in state.events)
    return state.replace(last_restart_ns=0, started_at_ns=0, finished_at_ns=0, events=events)


def _with_moments(state: TaskState, moments: Any) -> TaskState:
    return state.replace(
        last_restart_ns=next(moments),
        started_at_ns=next(moments),
        finished_at_ns=next(moments),
        events=tuple(event.replace(time_ns=next(moments)) for event in state.events),
    )


_encode = msgspec.msgpack.Encoder().encode
