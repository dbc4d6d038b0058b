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
        self._index = {number: i for i, number in enumerate(numbers.tolist())}
        self._rows: dict[int, _Row] = {}
        self._heaps: tuple[list[list[int]], list[list[int]]] = ([], [])
        held = ranking.held[numbers] > 0
        for heaps, which in ((self._heaps[0], ~held), (self._heaps[1], held)):
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
        out: list[int] = []
        division_of = self._division.tolist()
        while len(out) < self._wanted:
            if queue is None:
                best = max(heads, default=_SHUT)
                if best == _SHUT:
                    break
                number = _LAST - (best & _LAST)
                division = heads.index(best)
            else:
                best = -queue[0] if queue else _SHUT
                if best == _SHUT:
                    break
                number = _LAST - (best & _LAST)
                division = division_of[self._index[number]]
                if heads[division] != best:
                    heappop(queue)
                    continue
            out.append(number)
            self._move(division, number)
            for other in self._count(division):
                head = heads[other] = self._head(other)
                if queue is not None:
                    heappush(queue, -head)
        return out

    def _head(self, division: int) -> int:
        """The key of a division's best node: its rank above its number, so that the larger is the better."""
        codes = self._codes[division]
        boost = 0
        at = 0
        for boosts in self._boosts:
            boost += boosts.by_value[codes[at]]
            at += 1
        for limits in self._limits:
            if limits.left[codes[at]] <= 0:
                return _SHUT
            at += 1
        own = (1 if self._ranking.affinity is None else 2) + (boost != 0)
        head = _SHUT
        entries = self._heaps[0][division]
        if entries:
            entry = entries[0]
            head = ((boost - (entry >> _SHIFT)) * (PARTS // own) << _SHIFT) | (_LAST - (entry & _LAST))
        entries = self._heaps[1][division]
        if entries:
            entry = entries[0]
            other = ((boost - (entry >> _SHIFT)) * (PARTS // (own + 1)) << _SHIFT) | (_LAST - (entry & _LAST))
            if other > head:
                head = other
        return head

    def _move(self, division: int, number: int) -> None:
        """Takes one of a node: its entry is replaced by that of the next one there, which is never the first."""
        row = self._rows.get(number)
        if row is None:
            i = self._index[number]
            row = self._rows[number] = _Row(self._block[i].tolist(), self._room[i])
        entry = row.next(self)
        fresh, used = self._heaps[0][division], self._heaps[1][division]
        if used and used[0] & _LAST == number:
            if entry is None:
                heappop(used)
            else:
                heapreplace(used, entry)
        else:
            heappop(fresh)
            if entry is not None:
                heappush(used, entry)

    def _count(self, division: int) -> Iterable[int]:
        """Counts a placement; answers the divisions to be compared anew."""
        codes = self._codes[division]
        if len(codes) == 1 and self._boosts:
            return range(len(self._codes)) if self._boosts[0].add(codes[0]) else (division,)
        changed: set[int] = {division}
        at = 0
        for boosts in self._boosts:
            if boosts.add(codes[at]):
                changed.update(range(len(self._codes)))
            else:
                changed.update(self._members[at][codes[at]])
            at += 1
        for limits in self._limits:
            limits.left[codes[at]] -= 1
            if limits.left[codes[at]] <= 0:
                changed.update(self._members[at][codes[at]])
            at += 1
        return changed

    def more(self, entries: list[int], start: int, end: int) -> list[int]:
        """A node's entries for the steps from start to end."""
        number = np.array([entries[0] & _LAST])
        found: list[int] = self._entries(number, np.arange(start, end))[0].tolist()
        return found


class _Row:
    """The entries of one node, worked out as far as they were needed."""

    __slots__ = ("_at", "_entries", "_room", "_start")

    def __init__(self, entries: list[int], room: int) -> None:
        self._entries = entries
        self._start = 0  # the step of the first entry
        self._at = 0
        self._room = room

    def next(self, turns: Turns) -> int | None:
        """The entry of the next step, None when there is no more room."""
        self._at += 1
        if self._start + self._at >= self._room:
            return None
        if self._at == len(self._entries):
            start = self._start + self._at
            end = min(start * _GROWTH, self._room)
            self._entries = turns.more(self._entries, start, end)
            self._start, self._at = start, 0
        return self._entries[self._at]
