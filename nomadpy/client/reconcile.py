"""What a node must do so that it runs what the servers assigned to it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Actions(msgspec.Struct, frozen=True):
    """Allocation ids, sorted: to start, to look at again, and to remove with everything that is left of them."""

    start: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    destroy: tuple[str, ...] = ()


def reconcile(assigned: Mapping[str, int], known: Mapping[str, int]) -> Actions:
    """The difference between two maps of allocation id → index of the servers' last change to it.

    An index lower than the known one is an older order and is not followed.

    >>> reconcile({"a": 5, "b": 9, "d": 1}, {"a": 5, "b": 7, "c": 3})
    Actions(start=('d',), update=('b',), destroy=('c',))
    """
    return Actions(
        start=tuple(sorted(assigned.keys() - known.keys())),
        update=tuple(sorted(id for id, index in assigned.items() if id in known and index > known[id])),
        destroy=tuple(sorted(known.keys() - assigned.keys())),
    )
