"""Where K equal allocations go, all at once, exactly as if each were put on the best node in turn.

Putting an allocation on a node changes the score of that node only, so taking the best node K times merges the nodes'
score sequences f(0), f(1), … Let g(j) be the lowest of f(0)…f(j). When the merge takes a head that attains the running
minimum, that head was the best of all; every later step of the node that scores at least as much is then taken before
any other node moves. Hence the merge takes (node, step) pairs by g downwards, then node number, and how many a node
gets follows from the K-th largest g alone: no order, no loop over placements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomadpy.scheduler.ranking import FloatColumn
from nomadpy.state.view import IntColumn

Ahead = Callable[[IntColumn, IntColumn], FloatColumn]

_FIRST_DEPTH, _GROWTH, _MAX_CELLS = 4, 8, 1 << 17


def pack(ahead: Ahead, room: IntColumn, wanted: int) -> IntColumn:
    """How many of ``wanted`` allocations each node gets; fewer in total when there is no more room.

    ``room[i]`` is how many node i can take, 0 for one that must not get any. ``ahead(numbers, steps)`` answers the
    matrix of scores of the (step+1)-th further allocation.
    """
    counts: IntColumn = np.zeros(len(room), dtype=np.int64)
    room = np.minimum(room, wanted).astype(np.int64)
    if int(room.sum()) <= wanted:
        return room
    pieces, threshold = _explore(ahead, room, wanted)
    for numbers, keys in pieces:
        counts[numbers] += np.count_nonzero(keys > threshold, axis=1)
    ties: IntColumn = np.zeros(len(room), dtype=np.int64)
    for numbers, keys in pieces:
        ties[numbers] += np.count_nonzero(keys == threshold, axis=1)
    counts += _first(ties, wanted - int(counts.sum()))
    return counts


def _first(ties: IntColumn, left: int) -> IntColumn:
    """The first ``left`` units of ``ties`` in order of node number."""
    before = np.cumsum(ties) - ties
    given: IntColumn = np.clip(left - before, 0, ties)
    return given


def _explore(ahead: Ahead, room: IntColumn, wanted: int) -> tuple[list[tuple[IntColumn, FloatColumn]], float]:
    """Rows of g for every node that may get something, deep enough, and the K-th largest of all their entries."""
    active = _openers(ahead, np.flatnonzero(room), wanted)
    lowest: FloatColumn = np.full(len(active), np.inf)
    pieces: list[tuple[IntColumn, FloatColumn]] = []
    kept: FloatColumn = np.empty(0)
    threshold, depth, deeper = -np.inf, 0, _FIRST_DEPTH
    while len(active):
        steps = np.arange(depth, deeper)
        rows = max(1, _MAX_CELLS // len(steps))
        fresh = []
        for start in range(0, len(active), rows):
            numbers = active[start : start + rows]
            keys = ahead(numbers, steps)
            np.minimum(keys[:, 0], lowest[start : start + rows], out=keys[:, 0])
            np.minimum.accumulate(keys, axis=1, out=keys)
            lowest[start : start + rows] = keys[:, -1]
            keys[steps[None, :] >= room[numbers][:, None]] = -np.inf
            pieces.append((numbers, keys))
            fresh.append(keys[keys >= threshold])
        kept = np.concatenate([kept[kept >= threshold], *fresh])
        if len(kept) >= wanted:
            threshold = float(np.partition(kept, len(kept) - wanted)[len(kept) - wanted])
        # A node whose deepest known entry is still in the running may have more that are.
        more = (lowest >= threshold) & (room[active] > deeper)
        active, lowest = active[more], lowest[more]
        depth, deeper = deeper, deeper * _GROWTH
        if len(active):
            deeper = min(deeper, int(room[active].max()))
    return pieces, threshold


def _openers(ahead: Ahead, numbers: IntColumn, wanted: int) -> IntColumn:
    """The only nodes that can get any: K allocations open at most K nodes, those with the best first scores, the
    lowest numbers among equals."""
    if wanted >= len(numbers):
        return numbers
    first = ahead(numbers, np.zeros(1, dtype=np.int64))[:, 0]
    bar = np.partition(first, len(first) - wanted)[len(first) - wanted]
    opened = first > bar
    equal = np.flatnonzero(first == bar)
    opened[equal[: wanted - int(np.count_nonzero(opened))]] = True
    openers: IntColumn = numbers[opened]
    return openers
