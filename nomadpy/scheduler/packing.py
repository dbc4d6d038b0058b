"""Where K equal allocations go, all at once, exactly as if each were put on the best node in turn.

Putting an allocation on a node changes the score of that node only, so taking the best node K times merges the nodes'
score sequences f(0), f(1), … Let g(j) be the lowest of f(0)…f(j). When the merge takes a head that attains the running
minimum, that head was the best of all; every later step of the node that scores at least as much is then taken before
any other node moves. Hence the merge takes (node, step) pairs by g downwards, then node number, and how many a node
gets follows from the K-th largest g alone: no order, no loop over placements. Nodes that are alike in everything have
the same g, so for large K it is worked out once for each kind of node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomadpy.scheduler.grains import FloatColumn
from nomadpy.state.view import BoolColumn, IntColumn

Ahead = Callable[[IntColumn, IntColumn], FloatColumn]
Alike = Callable[[IntColumn], IntColumn]

_FIRST_DEPTH, _GROWTH, _MAX_CELLS = 4, 8, 1 << 17
_MANY = 64  # allocations from which on it pays to look for nodes that are alike


def pack(ahead: Ahead, room: IntColumn, wanted: int, alike: Alike | None = None) -> IntColumn:
    """How many of ``wanted`` allocations each node gets; fewer in total when there is no more room.

    ``room[i]`` is how many node i can take, 0 for one that must not get any. ``ahead(numbers, steps)`` answers the
    matrix of scores of the (step+1)-th further allocation; ``alike(numbers)`` a kind for each number, where nodes of a
    kind have the same scores.
    """
    room = np.minimum(room, wanted).astype(np.int64)
    if int(room.sum()) <= wanted:
        return room
    numbers = np.flatnonzero(room)
    if wanted < len(numbers):
        numbers = _openers(ahead, numbers, wanted)
    counts: IntColumn = np.zeros(len(room), dtype=np.int64)
    ties: IntColumn = np.zeros(len(room), dtype=np.int64)
    first, kind = _kinds(alike, numbers, room, wanted)
    if kind is None:
        counts[numbers], ties[numbers] = _Search(ahead, numbers, room[numbers], None, wanted).run()
    else:
        examples = numbers[first]
        above, equal = _Search(ahead, examples, room[examples], np.bincount(kind), wanted).run()
        counts[numbers], ties[numbers] = above[kind], equal[kind]
    counts += _first(ties, wanted - int(counts.sum()))
    return counts


def _kinds(alike: Alike | None, numbers: IntColumn, room: IntColumn, wanted: int) -> tuple[IntColumn, IntColumn | None]:
    """The position of the first of each kind, and the kind of each number, nodes of a kind having equal room; None
    when there are too many kinds to gain by them."""
    if alike is None or wanted < _MANY:
        return numbers, None
    rooms = room[numbers]
    kind = alike(numbers) * (int(rooms.max()) + 1) + rooms
    _, first, both = np.unique(kind, return_index=True, return_inverse=True)
    return first, both if 2 * len(first) <= len(numbers) else None


def _first(ties: IntColumn, left: int) -> IntColumn:
    """The first ``left`` units of ``ties`` in order of node number."""
    before = np.cumsum(ties) - ties
    given: IntColumn = np.clip(left - before, 0, ties)
    return given


def _openers(ahead: Ahead, numbers: IntColumn, wanted: int) -> IntColumn:
    """The only nodes that can get any: K allocations open at most K nodes, those with the best first scores, the
    lowest numbers among equals."""
    first = ahead(numbers, np.zeros(1, dtype=np.int64))[:, 0]
    bar = np.partition(first, len(first) - wanted)[len(first) - wanted]
    opened = first > bar
    equal = np.flatnonzero(first == bar)
    opened[equal[: wanted - int(np.count_nonzero(opened))]] = True
    openers: IntColumn = numbers[opened]
    return openers


def _lower(keys: FloatColumn, lowest: FloatColumn) -> None:
    """Turns f into g in place, row by row; ``lowest`` are the entries before."""
    np.minimum(keys[:, 0], lowest, out=keys[:, 0])
    np.minimum.accumulate(keys, axis=1, out=keys)


class _Search:
    """Rows of g for nodes, each standing for ``weights`` nodes, deep enough to know the K-th largest of all entries."""

    def __init__(
        self, ahead: Ahead, numbers: IntColumn, room: IntColumn, weights: IntColumn | None, wanted: int
    ) -> None:
        self._ahead, self._numbers, self._room, self._weights, self._wanted = ahead, numbers, room, weights, wanted
        self._pieces: list[tuple[IntColumn, FloatColumn]] = []
        self._threshold = -np.inf
        self._kept: FloatColumn = np.empty(0)
        self._kept_weights: IntColumn = np.empty(0, dtype=np.int64)

    def run(self) -> tuple[IntColumn, IntColumn]:
        """Per row how many entries are above the K-th largest, and how many equal it."""
        at = np.arange(len(self._numbers))
        lowest: FloatColumn = np.full(len(at), np.inf)
        depth, deeper = 0, _FIRST_DEPTH
        while len(at):
            lowest = self._look(at, lowest, np.arange(depth, deeper))
            # A node whose deepest known entry is still in the running may have more that are.
            more: BoolColumn = (lowest >= self._threshold) & (self._room[at] > deeper)
            at, lowest = at[more], lowest[more]
            depth, deeper = deeper, deeper * _GROWTH
            if len(at):
                deeper = min(deeper, int(self._room[at].max()))
        above: IntColumn = np.zeros(len(self._numbers), dtype=np.int64)
        equal: IntColumn = np.zeros(len(self._numbers), dtype=np.int64)
        for rows, keys in self._pieces:
            over = np.count_nonzero(keys > self._threshold, axis=1)
            above[rows] += over
            equal[rows] += np.count_nonzero(keys == self._threshold, axis=1)
        return above, equal

    def _look(self, at: IntColumn, lowest: FloatColumn, steps: IntColumn) -> FloatColumn:
        """Works out these steps of the rows; answers the last entry of each."""
        last = np.empty_like(lowest)
        rows = max(1, _MAX_CELLS // len(steps))
        fresh, weights = [], []
        for start in range(0, len(at), rows):
            part = at[start : start + rows]
            keys = self._ahead(self._numbers[part], steps)
            _lower(keys, lowest[start : start + rows])
            last[start : start + rows] = keys[:, -1]
            room = self._room[part]
            short = np.flatnonzero(room <= steps[-1])
            if len(short):
                keys[short] = np.where(steps[None, :] < room[short, None], keys[short], -np.inf)
            self._pieces.append((part, keys))
            inside = keys >= self._threshold
            fresh.append(keys[inside])
            if self._weights is not None:
                weights.append(np.repeat(self._weights[part], np.count_nonzero(inside, axis=1)))
        self._raise(fresh, weights)
        return last

    def _raise(self, fresh: list[FloatColumn], weights: list[IntColumn]) -> None:
        """Takes new entries into account; with K of them known, what is below the K-th is out of the running."""
        stay = self._kept >= self._threshold
        self._kept = np.concatenate([self._kept[stay], *fresh])
        if self._weights is None:
            if len(self._kept) >= self._wanted:
                self._kept.partition(len(self._kept) - self._wanted)
                self._threshold = float(self._kept[len(self._kept) - self._wanted])
            return
        self._kept_weights = np.concatenate([self._kept_weights[stay], *weights])
        order = np.argsort(-self._kept, kind="stable")
        enough = np.searchsorted(np.cumsum(self._kept_weights[order]), self._wanted)
        if enough < len(order):
            self._threshold = float(self._kept[order[enough]])
