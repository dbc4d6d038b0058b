"""The front runners of an ask: so many of its best nodes in order that a row of small new jobs seldom looks further.

Among them the best node that a group may use is found by walking down; what the group takes changes only these nodes,
and they are put back in order when the placements are carried out. Nodes outside are worth less than ``floor``, so
what is chosen at or above it is what a look at all nodes would give (``tests/scheduler/greedy.py``).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from functools import cached_property, lru_cache

from nomadpy.model.demand import Demand
from nomadpy.scheduler.grains import BALANCED, PARTS, Scales, crowding, fit_of
from nomadpy.state.view import IntColumn

Left = tuple[int, int, int, int]  # MHz, MB, MB of disk and allocations that a node has left
SHIFT = 20
LAST = (1 << SHIFT) - 1  # a key's lower bits are this less the node's number


class Run:
    """What a group gets on one node. ``grains``: the fit of another allocation, None when it does not fit."""

    __slots__ = ("count", "cpu", "disk", "grains", "memory", "slots")

    def __init__(self, left: Left) -> None:
        self.cpu, self.memory, self.disk, self.slots = left
        self.count = 0
        self.grains: int | None = None


class Choice:
    """Where the allocations of a group go: the node of each in order, and what each node gets. ``best``: the best
    nodes before, with their ranks, as many as were asked for."""

    __slots__ = ("best", "front", "nodes", "runs")

    def __init__(self, front: Front, nodes: list[int], runs: dict[int, Run], best: list[tuple[int, float]]) -> None:
        self.front = front
        self.nodes = nodes
        self.runs = runs
        self.best = best


class Front:
    """See the module's text. ``keys``: those of the best nodes, rising; ``floor``: no other key is as large;
    ``complete``: there are no others. ``scales`` are those of cpu and memory by node number."""

    def __init__(
        self,
        keys: list[int],
        floor: int,
        demand: Demand,
        algorithm: str,
        scales: Scales,
        *,
        complete: bool,
        left: dict[int, Left] | None = None,
    ) -> None:
        self.keys, self.floor, self.complete = keys, floor, complete
        self._thin = 0 if complete else len(keys) // 2
        self.seen = 0  # how many of the changes of nodes it knows
        self._demand, self._algorithm, self._scales = demand, algorithm, scales
        self._cpu, self._memory, self._disk = demand.cpu, demand.memory, demand.disk
        self.left: dict[int, Left] = {} if left is None else left  # of nodes that were given something

    @cached_property
    def _key_of(self) -> dict[int, int]:
        """The key of each node that has one; worked out before the first of them changes."""
        return {LAST - (key & LAST): key for key in self.keys}

    def choose(self, mask: bytes, wanted: int, free: IntColumn, *, desired: float, tell: int) -> Choice | None:
        """Where ``wanted`` allocations of a new group go; changes nothing. ``mask`` has a byte for each node, 0 where
        the group may not go; ``tell``: how many of the best nodes to tell; ``free``: the rows of what nodes have left
        (``Fleet.left``), as of the line-up or later. None when the front does not say."""
        keys, floor, left = self.keys, self.floor, self.left
        at = len(keys)
        best = self._best(mask, tell)
        if len(best) < tell and not self.complete:
            return None
        if wanted == 1:
            if not best:
                return None
            number = best[0][0]
            run = Run(left.get(number) or tuple(free[:, number].tolist()))
            self._grow(run, number)
            return Choice(self, [number], {number: run}, best)
        nodes: list[int] = []
        runs: dict[int, Run] = {}
        again: list[int] = []  # keys of the nodes in ``runs`` for one more, negative: a heap
        losses = _crowdings(desired)
        top: int | None = None
        while len(nodes) < wanted:
            while top is None and at > 0:
                at -= 1
                key = keys[at]
                if mask[LAST - (key & LAST)]:
                    top = key
            if again and -again[0] >= (floor if top is None else top):
                number = LAST - (-heapq.heappop(again) & LAST)
                run = runs[number]
            elif top is not None:
                number = LAST - (top & LAST)
                known = left.get(number)
                run = runs[number] = Run(known or tuple(free[:, number].tolist()))
                top = None
            else:
                return None
            nodes.append(number)
            self._grow(run, number)
            if run.grains is not None and len(nodes) < wanted:
                rank = (run.grains - losses[min(run.count, 255)]) * (PARTS // 2)
                heapq.heappush(again, -((rank << SHIFT) | (LAST - number)))
        return Choice(self, nodes, runs, best)

    def _best(self, mask: bytes, tell: int) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for key in reversed(self.keys):
            number = LAST - (key & LAST)
            if mask[number]:
                found.append((number, float(key >> SHIFT)))
                if len(found) == tell:
                    break
        return found

    def _grow(self, run: Run, number: int) -> None:
        """Counts one allocation more on a node, and what yet another one would be worth there."""
        run.count += 1
        run.cpu = cpu = run.cpu - self._cpu
        run.memory = memory = run.memory - self._memory
        run.disk = disk = run.disk - self._disk
        run.slots -= 1
        cpu -= self._cpu
        memory -= self._memory
        if cpu < 0 or memory < 0 or disk < self._disk or run.slots < 1:
            run.grains = None
        else:
            run.grains = self._fit(number, cpu, memory)

    def _fit(self, number: int, cpu: int, memory: int) -> int:
        scales = self._scales
        load = scales.cpu_powers[number][cpu] + scales.memory_powers[number][memory]
        balanced = self._algorithm == BALANCED
        gap = cpu * scales.cpu[number] - memory * scales.memory[number] if balanced else 0.0
        return fit_of(self._algorithm, load, gap)

    def carry_out(self, choice: Choice, booked: dict[int, Left]) -> None:
        """Makes the placements of a choice, of which nothing was changed since it was made, the present. What its
        nodes have left then is noted in ``booked``, too."""
        for number, run in choice.runs.items():
            self.left[number] = booked[number] = run.cpu, run.memory, run.disk, run.slots
            self._move(number, run.grains)

    def catch_up(self, numbers: list[int], free: IntColumn) -> None:
        """Puts nodes in order whose room changed by other hands."""
        demand = self._demand
        for number in numbers:
            self.left[number] = cpu, memory, disk, slots = tuple(free[:, number].tolist())
            fits = cpu >= demand.cpu and memory >= demand.memory and disk >= demand.disk and slots >= 1
            self._move(number, self._fit(number, cpu - demand.cpu, memory - demand.memory) if fits else None)

    @property
    def is_thin(self) -> bool:
        """Whether so many have left that it is time to look at all nodes."""
        return len(self.keys) < self._thin

    def _move(self, number: int, grains: int | None) -> None:
        """Gives a node its place by its new fit; None: nothing fits there any more."""
        keys = self.keys
        known = self._key_of
        before = known.pop(number, None)
        if before is not None:
            del keys[bisect_left(keys, before)]
        if grains is not None:
            key = (grains * PARTS << SHIFT) | (LAST - number)
            if key >= self.floor:
                insort(keys, key)
                known[number] = key


@lru_cache(maxsize=256)
def _crowdings(desired: float) -> tuple[int, ...]:
    """``crowding`` for 0 to 255 allocations."""
    return tuple(crowding(held, desired) for held in range(256))
