"""Many small groups, one after the other: the best node without a look at every node.

Nodes that lasting conditions cannot tell apart stand together in *cells*. For each ask (a demand under a scoring
algorithm) every node's fit is kept, and each cell's best; a group's conditions are then one bar per cell. Finding the
best node takes a look at the cells, and a placement changes one node in one cell. What other asks' placements change
is caught up with when an ask is used again.

A key holds a node's rank and its number in one integer, so that the larger key is the better node, the lower number
among equals: comparing keys is the whole decision.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nomadpy.model.demand import Demand
from nomadpy.scheduler.facts import Facts
from nomadpy.scheduler.front import Choice, Front, Left
from nomadpy.scheduler.grains import PARTS, Scales, crowding, fit, fit_one
from nomadpy.state.view import BoolColumn, IntColumn

MOST_NODES = 1 << 20  # numbers fit into the lower bits of a key
_LAST = MOST_NODES - 1
_SHIFT = 20
_NONE = -(1 << 62)
_OPEN = (1 << 62) - 1
_CELL_MAX = 256
_BYTES_KEPT = 1 << 26
_FEW = 6
_CAUGHT_UP = 48  # so many changed nodes are put in order among front runners; more make a new line-up
_FRONT, _FRONT_MOST = 192, 512  # the best nodes of so many cells, and so many nodes at most, are front runners


Free = Callable[[bool], IntColumn]


class Cells:
    """The nodes of a fleet in an order in which alike ones are neighbours. ``order`` are their numbers."""

    def __init__(self, facts: Facts) -> None:
        traits = facts.traits()
        numbers = np.arange(facts.size)
        by = (numbers, traits, facts.class_codes, facts.memory_scale, facts.cpu_scale)
        self.order: IntColumn = np.lexsort(by)
        alike: BoolColumn = np.ones(max(facts.size - 1, 0), dtype=np.bool_)
        for column in by[1:]:
            ordered = column[self.order]
            alike &= ordered[1:] == ordered[:-1]
        starts: list[int] = []
        edges = [0, *(np.flatnonzero(~alike) + 1).tolist(), facts.size]
        for first, end in itertools.pairwise(edges):
            starts += range(first, end, _CELL_MAX)
        self.starts: IntColumn = np.array(starts, dtype=np.int64)
        self.spans = list(zip(starts, [*starts[1:], facts.size], strict=True))
        sizes = np.diff(np.append(self.starts, facts.size))
        self.cell_at: list[int] = np.repeat(np.arange(len(starts)), sizes).tolist()
        self.positions: IntColumn = np.empty(facts.size, dtype=np.int64)
        self.positions[self.order] = numbers
        self.position: list[int] = self.positions.tolist()
        self.low_bits: IntColumn = _LAST - self.order
        self.scales = Scales(facts.cpu_scale, facts.memory_scale)

    def bar(self, mask: BoolColumn) -> IntColumn | None:
        """Per cell whether its nodes are in the mask, as the upper limit of its best key; None when the mask cuts
        through a cell."""
        inside = mask[self.order]
        some = np.logical_or.reduceat(inside, self.starts)
        if not np.array_equal(some, np.logical_and.reduceat(inside, self.starts)):
            return None
        return np.where(some, _OPEN, _NONE)


class Ask:
    """The keys of all nodes for one demand: those for which it is the first allocation of its group there."""

    def __init__(self, cells: Cells, facts: Facts, demand: Demand, algorithm: str, free: IntColumn) -> None:
        self._cells, self._facts, self._demand, self._algorithm = cells, facts, demand, algorithm
        self._keys: IntColumn = self._work_out(cells.order, free) + cells.low_bits
        self._best: IntColumn = np.maximum.reduceat(self._keys, cells.starts)
        self._barred: IntColumn = np.empty_like(self._best)
        self.seen = 0  # how many of the changes it knows
        self.front: Front | None = None

    def _work_out(self, numbers: IntColumn, free: IntColumn) -> IntColumn:
        """Keys without the number bits."""
        facts, demand = self._facts, self._demand
        cpu = free[0][numbers]
        cpu -= demand.cpu
        memory = free[1][numbers]
        memory -= demand.memory
        # Only a number below zero has the highest bit set.
        short = cpu | memory
        short |= free[2][numbers] - demand.disk
        short |= free[3][numbers] - 1
        grains = fit(self._algorithm, cpu, memory, facts.cpu_scale[numbers], facts.memory_scale[numbers])
        keys: IntColumn = grains.astype(np.int64)
        keys *= PARTS
        keys <<= _SHIFT
        keys[short < 0] = _NONE
        return keys

    def catch_up(self, numbers: IntColumn, free: IntColumn) -> None:
        """Works out anew what the nodes are worth that changed."""
        cells = self._cells
        at = cells.positions[numbers]
        self._keys[at] = self._work_out(numbers, free) + cells.low_bits[at]
        if len(at) > _FEW:
            np.maximum.reduceat(self._keys, cells.starts, out=self._best)
        else:
            for cell in {cells.cell_at[position] for position in at.tolist()}:
                self._look_again(cell)

    def _look_again(self, cell: int) -> None:
        start, end = self._cells.spans[cell]
        self._best[cell] = np.maximum.reduce(self._keys[start:end])

    def top(self, bar: IntColumn, count: int) -> list[tuple[int, float]]:
        """The best nodes with their ranks, best first."""
        barred = np.minimum(self._best, bar)
        if count == 1:
            key = int(barred.max(initial=_NONE))
            return [(_LAST - (key & _LAST), float(key >> _SHIFT))] if key > _NONE + _LAST else []
        keys: list[int] = []
        for cell in np.argsort(-barred, kind="stable")[:count].tolist():
            if barred[cell] > _NONE + _LAST:
                start, end = self._cells.spans[cell]
                keys += self._keys[start:end].tolist()
        best = heapq.nlargest(count, keys)
        return [(_LAST - (key & _LAST), float(key >> _SHIFT)) for key in best if key > _NONE + _LAST]

    def line_up(self) -> Front:
        """The front runners among all nodes."""
        best = self._best
        floor = lowest = _NONE + _LAST + 1
        if len(best) > _FRONT:
            floor = max(lowest, int(np.partition(best, len(best) - _FRONT)[len(best) - _FRONT]))
        keys = np.sort(self._keys[self._keys >= floor])[-_FRONT_MOST:]
        if len(keys) == _FRONT_MOST:
            floor = int(keys[0])
        scales = self._cells.scales
        complete = floor == lowest
        return Front(keys.tolist(), floor, self._demand, self._algorithm, scales, complete=complete)

    def line_up_masked(self, mask: bytes, left: dict[int, Left]) -> Front:
        """The front runners among the nodes of a mask, more of them. ``left``: what some of the nodes have left."""
        inside = np.frombuffer(mask, dtype=np.bool_)[self._cells.order]
        keys = self._keys[inside & (self._keys > _NONE + _LAST)]
        floor = _NONE + _LAST + 1
        if len(keys) > _FRONT_MOST:
            keys = np.partition(keys, len(keys) - _FRONT_MOST)[len(keys) - _FRONT_MOST :]
            floor = int(keys.min())
        scales = self._cells.scales
        complete = len(keys) < _FRONT_MOST
        return Front(np.sort(keys).tolist(), floor, self._demand, self._algorithm, scales, complete=complete, left=left)

    def choose(
        self, bar: IntColumn, wanted: int, free: IntColumn, *, desired: float, alone: bool
    ) -> tuple[list[int], dict[int, int]]:
        """Where ``wanted`` allocations of a group go that has none yet: the node of each in order, and how many each
        node gets. The ask's keys are then those after these placements; ``free`` is left to the caller. ``alone``: no
        node may have two."""
        cells, keys, best, barred = self._cells, self._keys, self._best, self._barred
        out: list[int] = []
        runs: dict[int, _Run] = {}
        again: list[int] = []  # keys of the nodes in ``runs`` for one more, negative: a heap
        stale, top = -1, 0
        while len(out) < wanted:
            if stale >= 0:
                self._look_again(stale)
            if stale >= 0 or not out:
                np.minimum(best, bar, out=barred)
                cell = int(barred.argmax())
                top = barred.item(cell)
            stale = -1
            if again and (-again[0] > top or top <= _NONE + _LAST):
                number = _LAST - (-heapq.heappop(again) & _LAST)
                run = runs[number]
            elif top > _NONE + _LAST:
                number = _LAST - (top & _LAST)
                run = runs[number] = _Run(cells.position[number], free[:, number].tolist())
                keys[run.position] = _NONE
                stale = cell
            else:
                break
            out.append(number)
            self._grow(run, number)
            if run.grains is not None and not alone:
                rank = (run.grains - crowding(run.count, desired)) * (PARTS // 2)
                heapq.heappush(again, -((rank << _SHIFT) | (_LAST - number)))
        if stale >= 0:
            self._look_again(stale)
        for number, run in runs.items():
            key = _NONE if run.grains is None else (run.grains * PARTS) << _SHIFT
            key += _LAST - number
            keys[run.position] = key
            cell = cells.cell_at[run.position]
            if key > best[cell]:
                best[cell] = key
        return out, {number: run.count for number, run in runs.items()}

    def choose_one(self, bar: IntColumn, free: IntColumn) -> int:
        """``choose`` for a single allocation: its node, -1 when there is none."""
        cells = self._cells
        barred = np.minimum(self._best, bar, out=self._barred)
        cell = int(barred.argmax())
        top: int = barred.item(cell)
        if top <= _NONE + _LAST:
            return -1
        number = _LAST - (top & _LAST)
        run = _Run(cells.position[number], free[:, number].tolist())
        self._grow(run, number)
        key = (_NONE if run.grains is None else (run.grains * PARTS) << _SHIFT) + _LAST - number
        self._keys[run.position] = key
        if key >= top:
            self._best[cell] = key
        else:
            self._look_again(cell)
        return number

    def _grow(self, run: _Run, number: int) -> None:
        """Counts one allocation more on a node, and what yet another one would be worth there."""
        demand, left = self._demand, run.left
        run.count += 1
        left[0] -= demand.cpu
        left[1] -= demand.memory
        left[2] -= demand.disk
        left[3] -= 1
        cpu, memory = left[0] - demand.cpu, left[1] - demand.memory
        if cpu < 0 or memory < 0 or left[2] < demand.disk or left[3] < 1:
            run.grains = None
            return
        cells = self._cells
        run.grains = fit_one(self._algorithm, cpu, memory, cells.scales.cpu[number], cells.scales.memory[number])


class _Run:
    """What a group gets on one node. ``grains``: the fit of another one, None when it does not fit."""

    __slots__ = ("count", "grains", "left", "position")

    def __init__(self, position: int, left: list[int]) -> None:
        self.position = position
        self.left = left
        self.count = 0
        self.grains: int | None = None


class Asks:
    """The asks that were used lately, over one order of the nodes, with the log of nodes that changed."""

    def __init__(self, facts: Facts) -> None:
        self.cells = Cells(facts)
        self._facts = facts
        self._kept: dict[tuple[Demand, str], Ask] = {}
        self._most = max(4, _BYTES_KEPT // (8 * max(facts.size, 1)))
        self._changed: IntColumn = np.zeros(facts.size, dtype=np.int64)  # the last change of each node
        self._changes = 0

    def note(self, numbers: IntColumn | Sequence[int]) -> None:
        """Remembers that what is free on some nodes changed."""
        self._changes += 1
        self._changed[numbers] = self._changes

    def _note_few(self, numbers: Iterable[int]) -> None:
        self._changes += 1
        for number in numbers:
            self._changed[number] = self._changes

    def ask(self, demand: Demand, algorithm: str, free: IntColumn) -> Ask:
        """The ask, up to date with what is free."""
        key = demand, algorithm
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            found = self._kept[key] = Ask(self.cells, self._facts, demand, algorithm, free)
        elif found.seen < self._changes:
            found.catch_up(np.flatnonzero(self._changed > found.seen), free)
        found.seen = self._changes
        return found

    def front(self, demand: Demand, algorithm: str, free: Callable[[], IntColumn]) -> Front:
        """The ask's front runners in order. ``free`` answers the rows of what nodes have left."""
        found = self._kept.get((demand, algorithm))
        front = found.front if found is not None else None
        if front is not None and front.seen < self._changes:
            numbers = np.flatnonzero(self._changed > front.seen)
            front = front if len(numbers) <= _CAUGHT_UP and not front.is_thin else None
            if front is not None:
                front.catch_up(numbers.tolist(), free())
        if front is None or front.is_thin:
            ask = self.ask(demand, algorithm, free())
            front = ask.front = ask.line_up()
        front.seen = self._changes
        return front

    def choose(
        self, demand: Demand, algorithm: str, mask: bytes, wanted: int, free: Free, *, desired: float, tell: int
    ) -> Choice | None:
        """Where ``wanted`` allocations of a new group go (``Front.choose``): by the ask's front runners, or by those
        among the nodes of the mask where these do not say. ``free`` answers the rows of what nodes have left, and
        whether they are to be up to date."""
        front = self.front(demand, algorithm, lambda: free(True))
        choice = front.choose(mask, wanted, free(False), desired=desired, tell=tell)
        if choice is None and not front.complete:
            now = free(True)
            masked = self.ask(demand, algorithm, now).line_up_masked(mask, front.left)
            choice = masked.choose(mask, wanted, now, desired=desired, tell=tell)
            if choice is not None:
                choice.front = front
        return choice

    def follow(self, choice: Choice, booked: dict[int, Left]) -> bool:
        """Carries out a choice (``Front.carry_out``) and notes it for other asks; False when its front runners are out
        of order meanwhile."""
        front = choice.front
        if front.seen != self._changes:
            return False
        front.carry_out(choice, booked)
        self._note_few(choice.runs)
        front.seen = self._changes
        return True

    def forget(self, demand: Demand, algorithm: str) -> None:
        """Drops an ask whose last choice is not carried out."""
        self._kept.pop((demand, algorithm), None)

    def knows(self, ask: Ask) -> None:
        """Says that the ask knows of every change so far, because it made the last ones."""
        ask.seen = self._changes
