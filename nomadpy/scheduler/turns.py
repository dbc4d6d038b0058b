"""Many equal allocations one after the other where each changes what others are worth: spreads, distinct properties.

A spread gives every node with the same value the same boost, and a distinct property closes all nodes with a value at
once. So nodes are divided by their values. Within one division the order of nodes does not depend on the boost, only on
whether a node holds one of the group already, because that adds a scorer to the mean: two heaps for each. A placement
moves one node, and the divisions whose boost it changed have their best compared anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from nomadpy.scheduler.cells import MOST_NODES
from nomadpy.scheduler.distinct import Property
from nomadpy.scheduler.grains import PARTS
from nomadpy.scheduler.ranking import Ranking, SpreadCount
from nomadpy.state.view import IntColumn

_LAST, _SHIFT = MOST_NODES - 1, 20
_SHUT = -(1 << 200)  # below every key
_DEPTH_MAX, _GROWTH = 64, 4
_PARTS = [0, *(PARTS // n for n in range(1, 7))]
_FEW = 24


class _Boosts:
    """The boosts of one spread by value, while its counts grow."""

    def __init__(self, spread: SpreadCount) -> None:
        self.spread = spread.copy()
        self._low, self._high = self.spread.range() if spread.even else (0, 0)
        self._at: dict[int, int] = {}  # count → how many values have it
        for code, count in enumerate(self.spread.counts):
            if count > 0 and self.spread.has(code):
                self._at[count] = self._at.get(count, 0) + 1
        self.by_value = self._all()

    def _all(self) -> list[int]:
        return [self.spread.boost(code, self._low, self._high) for code in range(len(self.spread.counts))]

    def add(self, code: int) -> bool:
        """Counts one more; whether it changed the boost of other values, too."""
        spread = self.spread
        before = spread.counts[code]
        spread.counts[code] = before + 1
        if not spread.even or not spread.has(code):
            self.by_value[code] = spread.boost(code, self._low, self._high)
            return False
        low, high, at = self._low, self._high, self._at
        at[before + 1] = at.get(before + 1, 0) + 1
        if before > 0:
            at[before] -= 1
        if low == 0 or before + 1 < low:
            low = before + 1
        elif before == low and not at[low]:
            low += 1
        high = max(high, before + 1)
        if (low, high) == (self._low, self._high):
            self.by_value[code] = spread.boost(code, low, high)
            return False
        self._low, self._high = low, high
        self.by_value = self._all()
        return True


class _Limits:
    """How many more each value of a distinct property may have."""

    def __init__(self, prop: Property) -> None:
        self.left: list[int] = np.where(prop.lacking, 0, prop.limit - prop.counts).tolist()


class Turns:
    """Places allocations of one group on ``numbers`` in turn; ``room[i]`` is how many number i can take. The ranking
    and the properties tell what there is already and are not changed."""

    def __init__(
        self, ranking: Ranking, properties: Sequence[Property], numbers: IntColumn, room: IntColumn, wanted: int
    ) -> None:
        self._ranking = ranking
        self._boosts = [_Boosts(spread) for spread in ranking.spreads]
        self._limits = [_Limits(prop) for prop in properties]
        columns = [spread.column for spread in ranking.spreads] + [prop.column for prop in properties]
        self._divide([column.codes[numbers] for column in columns], len(numbers))
        self._numbers, self._wanted = numbers, wanted
        self._room: list[int] = np.minimum(room, wanted).tolist()
        depth = min(int(room.max(initial=1)), _DEPTH_MAX, 3 * wanted // max(len(numbers), 1) + 2)
        self._block = self._entries(numbers, np.arange(depth))
        self._scorers = 1 if ranking.affinity is None else 2
        self._boost = [self._boost_of(division) for division in range(len(self._codes))]
        self._open = [self._is_open(division) for division in range(len(self._codes))]
        self._index = {number: i for i, number in enumerate(numbers.tolist())}
        self._rows: dict[int, _Row] = {}
        self._fresh: list[list[int]] = []
        self._used: list[list[int]] = []
        held = ranking.held[numbers] > 0
        for heaps, which in ((self._fresh, ~held), (self._used, held)):
            for division in range(len(self._codes)):
                entries: list[int] = self._block[which & (self._division == division), 0].tolist()
                heapify(entries)
                heaps.append(entries)

    def _divide(self, codes: Sequence[IntColumn], size: int) -> None:
        """Sorts the nodes by their values under all spreads and properties."""
        division: IntColumn = np.zeros(size, dtype=np.int64)
        for column in codes:
            _, division = np.unique(division * (int(column.max(initial=0)) + 1) + column, return_inverse=True)
        self._division = division
        _, first = np.unique(division, return_index=True)
        self._codes: list[tuple[int, ...]] = [tuple(int(column[i]) for column in codes) for i in first.tolist()]
        self._members: list[dict[int, list[int]]] = [{} for _ in codes]
        for at, values in enumerate(self._codes):
            for members, code in zip(self._members, values, strict=True):
                members.setdefault(code, []).append(at)

    def _entries(self, numbers: IntColumn, steps: IntColumn) -> IntColumn:
        """Matrix of what the further allocations are worth without boost, for heaps: the smaller the better, the lower
        number among equals."""
        entries: IntColumn = (-self._ranking.totals_ahead(numbers, steps)).astype(np.int64)
        entries <<= _SHIFT
        entries |= numbers[:, None]
        return entries

    def place(self) -> list[int]:
        """The node of each allocation in turn; fewer than wanted when there is no more room."""
        heads = [self._head(division) for division in range(len(self._codes))]
        queue: list[int] | None = None
        if len(heads) > _FEW:
            queue = [-head for head in heads]
            heapify(queue)
        return self._place_few(heads) if queue is None else self._place_queued(heads, queue)

    def _place_few(self, heads: list[int]) -> list[int]:
        out: list[int] = []
        head_of, move, count, wanted = self._head, self._move, self._count, self._wanted
        while len(out) < wanted:
            best = max(heads, default=_SHUT)
            if best == _SHUT:
                break
            number = _LAST - (best & _LAST)
            division = heads.index(best)
            out.append(number)
            move(division, number)
            for other in count(division):
                heads[other] = head_of(other)
        return out

    def _place_queued(self, heads: list[int], queue: list[int]) -> list[int]:
        """The same with the heads in a heap, negative, where those that have changed since are passed over."""
        out: list[int] = []
        division_of = self._division.tolist()
        while len(out) < self._wanted and queue and queue[0] != -_SHUT:
            best = -queue[0]
            number = _LAST - (best & _LAST)
            division = division_of[self._index[number]]
            if heads[division] != best:
                heappop(queue)
                continue
            out.append(number)
            self._move(division, number)
            for other in self._count(division):
                head = heads[other] = self._head(other)
                heappush(queue, -head)
        return out

    def _boost_of(self, division: int) -> int:
        values = zip(self._boosts, self._codes[division], strict=False)
        return sum(boosts.by_value[code] for boosts, code in values)

    def _is_open(self, division: int) -> bool:
        codes = self._codes[division][len(self._boosts) :]
        return all(limits.left[code] > 0 for limits, code in zip(self._limits, codes, strict=True))

    def _head(self, division: int) -> int:
        """The key of a division's best node: its rank above its number, so that the larger is the better."""
        if not self._open[division]:
            return _SHUT
        boost = self._boost[division]
        own = self._scorers + 1 if boost else self._scorers
        head = _SHUT
        entries = self._fresh[division]
        if entries:
            entry = entries[0]
            head = ((boost - (entry >> _SHIFT)) * _PARTS[own] << _SHIFT) | (_LAST - (entry & _LAST))
        entries = self._used[division]
        if entries:
            entry = entries[0]
            other = ((boost - (entry >> _SHIFT)) * _PARTS[own + 1] << _SHIFT) | (_LAST - (entry & _LAST))
            if other > head:
                return other
        return head

    def _move(self, division: int, number: int) -> None:
        """Takes one of a node: its entry is replaced by that of the next one there, which is never the first."""
        row = self._rows.get(number)
        if row is None:
            i = self._index[number]
            row = self._rows[number] = _Row(self._block[i].tolist(), self._room[i])
        row.at += 1
        entry = row.entries[row.at] if row.at < row.end else row.more(self)
        used = self._used[division]
        if used and used[0] & _LAST == number:
            if entry is None:
                heappop(used)
            else:
                heapreplace(used, entry)
        else:
            heappop(self._fresh[division])
            if entry is not None:
                heappush(used, entry)

    def _count(self, division: int) -> Iterable[int]:
        """Counts a placement; answers the divisions to be compared anew."""
        codes, boosts = self._codes[division], self._boosts
        if len(codes) == 1 and boosts:
            if not boosts[0].add(codes[0]):
                self._boost[division] = boosts[0].by_value[codes[0]]
                return (division,)
            self._boost = [boosts[0].by_value[values[0]] for values in self._codes]
            return range(len(self._codes))
        changed: set[int] = {division}
        for members, each, code in zip(self._members, boosts, codes, strict=False):
            changed.update(range(len(self._codes)) if each.add(code) else members[code])
        closed = zip(self._members[len(boosts) :], self._limits, codes[len(boosts) :], strict=True)
        for members, limits, code in closed:
            limits.left[code] -= 1
            if limits.left[code] <= 0:
                changed.update(members[code])
        for other in changed:
            self._boost[other] = self._boost_of(other)
            self._open[other] = self._is_open(other)
        return changed

    def entries_of(self, number: int, start: int, end: int) -> list[int]:
        """A node's entries for the steps from start to end."""
        found: list[int] = self._entries(np.array([number]), np.arange(start, end))[0].tolist()
        return found


class _Row:
    """The entries of one node, worked out as far as they were needed. ``at`` is the one in the heap, ``end`` that after
    the last known one for which there is room."""

    __slots__ = ("_room", "_start", "at", "end", "entries")

    def __init__(self, entries: list[int], room: int) -> None:
        self.entries = entries
        self.at = 0
        self.end = min(len(entries), room)
        self._start = 0  # the step of the first entry
        self._room = room

    def more(self, turns: Turns) -> int | None:
        """The entry at ``at``, which is not known yet; None when there is no more room."""
        start = self._start + self.at
        if start >= self._room:
            return None
        end = min(start * _GROWTH, self._room)
        self.entries = turns.entries_of(self.entries[0] & _LAST, start, end)
        self._start, self.at, self.end = start, 0, end - start
        return self.entries[0]
