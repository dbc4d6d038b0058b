"""How good each node is for one more allocation of a group, in the whole numbers of ``grains``."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from nomadpy.model.alloc import ScoreMeta
from nomadpy.model.demand import Demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import Affinity, Spread
from nomadpy.scheduler.facts import Column, Facts
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.grains import GRAIN, UNIT, crowdings, fit, grains_of, parts, to_grains
from nomadpy.scheduler.grains import FloatColumn as FloatColumn
from nomadpy.state.view import IntColumn

Where = IntColumn | slice
EVERYWHERE = slice(None)
_LEAST = -int(GRAIN)


def affinity_scores(facts: Facts, job: Job, group: TaskGroup) -> FloatColumn | None:
    """Per node the share of affinity weight that it meets, -1…1, in grains; None when the group has no affinities."""
    affinities: Sequence[Affinity] = [
        *job.affinities,
        *group.affinities,
        *(affinity for task in group.tasks for affinity in task.affinities),
    ]
    if not affinities:
        return None
    total = np.zeros(facts.size)
    for affinity in affinities:
        total += affinity.weight * facts.compares(affinity.l_target, affinity.operand, affinity.r_target)
    return to_grains(total / (sum(abs(affinity.weight) for affinity in affinities) or 1))


class SpreadCount:
    """One spread with the allocations of the group per value of its attribute so far. A value of which nothing is
    wanted, and a node without the attribute, get -1; Nomad's "lowest boost so far" depends on the order of visits."""

    def __init__(self, column: Column, spread: Spread, share: float, desired: int) -> None:
        self.column = column
        self.counts: list[int] = [0] * len(column.values)
        self.even = not spread.spread_target
        self._share = share
        given = {target.value: target.percent for target in spread.spread_target}
        rest = 100 - sum(given.values())
        # -1 marks a value that nothing is wanted for, by name or by the implicit rest.
        self._wanted = [given.get(str(value), rest if rest > 0 else -1) / 100 * desired for value in column.values]
        self._lacking = [value is None for value in column.values]
        self._wanted = [-1.0 if lacks else n for n, lacks in zip(self._wanted, self._lacking, strict=True)]

    def add(self, number: int, count: int) -> None:
        """Counts allocations on a node in or, below zero, out."""
        self.counts[self.column.codes.item(number)] += count

    def copy(self) -> SpreadCount:
        """The same, to count on apart from this one."""
        twin = copy.copy(self)
        twin.counts = self.counts.copy()
        return twin

    def has(self, code: int) -> bool:
        """Whether nodes with the value have the attribute at all."""
        return not self._lacking[code]

    def range(self) -> tuple[int, int]:
        """The fewest and the most allocations of any value that has some; (0, 0) when none has."""
        used = [n for n, lacking in zip(self.counts, self._lacking, strict=True) if n > 0 and not lacking]
        return (min(used), max(used)) if used else (0, 0)

    def boost(self, code: int, low: int, high: int) -> int:
        """The grains that a value's nodes get; ``low`` and ``high`` are the ``range``."""
        used = self.counts[code]
        if not self.even:
            wanted = self._wanted[code]
            return grains_of((wanted - (used + 1)) / wanted * self._share) if wanted > 0 else _LEAST
        if self._lacking[code]:
            return _LEAST
        if used != low:
            return grains_of((low - used) / low) if low else 0
        if low == 0:
            return 0
        return _LEAST if low == high else grains_of((high - low) / low)

    def boosts(self) -> FloatColumn:
        """Per node the boost of one more allocation there, in grains."""
        low, high = self.range() if self.even else (0, 0)
        by_value = np.array([self.boost(code, low, high) for code in range(len(self.counts))], dtype=np.float64)
        return by_value[self.column.codes]


def spread_counts(facts: Facts, job: Job, group: TaskGroup) -> list[SpreadCount]:
    """The spreads of job and group, with nothing counted yet."""
    spreads = (*job.spreads, *group.spreads)
    weights = sum(spread.weight for spread in spreads)
    return [
        SpreadCount(facts.column(spread.attribute), spread, spread.weight / weights if weights else 0.0, group.count)
        for spread in spreads
    ]


class Ranking:
    """Scores of one group on every node, given the group's allocations there: whole numbers, ``UNIT`` for a final score
    of 1. Whoever changes the fleet or these counts asks again for what changed."""

    def __init__(self, fleet: Fleet, job: Job, group: TaskGroup, demand: Demand, algorithm: str) -> None:
        self._fleet = fleet
        self._demand = demand
        self._algorithm = algorithm
        self.desired = float(max(group.count, 1))
        self.held: IntColumn = np.zeros(fleet.facts.size, dtype=np.int64)
        self._any_held = False
        self.affinity = affinity_scores(fleet.facts, job, group)
        self.spreads = spread_counts(fleet.facts, job, group)

    def add(self, number: int, count: int) -> None:
        """Counts allocations of the group on a node in or, below zero, out."""
        self._any_held = True
        self.held[number] += count
        for spread in self.spreads:
            spread.add(number, count)

    def add_many(self, numbers: IntColumn, counts: IntColumn) -> None:
        """Counts new allocations on distinct nodes in."""
        self._any_held = True
        self.held[numbers] += counts
        if self.spreads:
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                for spread in self.spreads:
                    spread.add(number, count)

    def scores(self, where: Where = EVERYWHERE, *, penalised: bool = False, extra: float | None = None) -> FloatColumn:
        """The rank of one more allocation on these nodes; ``penalised`` when it failed there before. ``extra``
        is the word of one more scorer."""
        total = self._fit(where, 1)
        scorers: FloatColumn = np.ones(len(total))
        if self._any_held:
            crowding = crowdings(self.held[where], self.desired)
            total -= crowding
            scorers += crowding > 0
        if penalised:
            total -= GRAIN
            scorers += 1.0
        if extra is not None:
            total += grains_of(extra)
            scorers += 1.0
        if self.affinity is not None:
            total += self.affinity[where]
            scorers += 1.0
        if self.spreads:
            boost = self._boost()[where]
            total += boost
            scorers += boost != 0
        total *= parts(scorers)
        return total

    def totals_ahead(self, numbers: IntColumn, steps: IntColumn) -> FloatColumn:
        """Matrix: the sum of the scorers, without spread, of the (steps[j]+1)-th further allocation on numbers[i]."""
        total = self._fit(numbers[:, None], steps[None, :] + 1)
        if not self._any_held or not self.held[numbers].any():
            ahead = crowdings(steps, self.desired)
            total -= ahead[None, :]
        else:
            total -= crowdings(self.held[numbers][:, None] + steps[None, :], self.desired)
        if self.affinity is not None:
            total += self.affinity[numbers][:, None]
        return total

    def ahead(self, numbers: IntColumn, steps: IntColumn) -> FloatColumn:
        """Matrix: the rank of the (steps[j]+1)-th further allocation on numbers[i], others staying as they are. Not for
        groups with spreads, whose scores depend on what other nodes get."""
        assert not self.spreads
        total = self.totals_ahead(numbers, steps)
        own = 1.0 if self.affinity is None else 2.0
        if not self._any_held or not self.held[numbers].any():
            total *= parts(own + (steps > 0))[None, :]
        else:
            total *= parts(own + (self.held[numbers][:, None] + steps[None, :] > 0))
        return total

    def alike(self, numbers: IntColumn) -> IntColumn:
        """A number for the kind of each node: nodes of a kind have the same scores, however many allocations go there.
        All are of different kinds in the rare case that a mix of their properties does not tell them apart."""
        fleet, facts = self._fleet, self._fleet.facts
        columns = [
            fleet.cpu_free[numbers],
            fleet.memory_free[numbers],
            facts.cpu_scale[numbers].view(np.int64),
            facts.memory_scale[numbers].view(np.int64),
            self.held[numbers],
        ]
        if self._demand.cores:
            columns.append(facts.core_mhz[numbers])
        if self.affinity is not None:
            columns.append(self.affinity[numbers].view(np.int64))
        mixed = np.zeros(len(numbers), dtype=np.uint64)
        for column in columns:
            mixed ^= column.view(np.uint64)
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        _, first, kind = np.unique(mixed, return_index=True, return_inverse=True)
        if all(np.array_equal(column, column[first][kind]) for column in columns):
            return kind
        return np.arange(len(numbers))

    def explain(
        self, numbers: Sequence[int], final: FloatColumn, *, penalised: frozenset[int]
    ) -> tuple[ScoreMeta, ...]:
        """The scores of some nodes by scorer; ``final`` holds the ranks of all nodes."""
        at = np.array(numbers, dtype=np.int64)
        fit_scores = (self._fit(at, 1) / GRAIN).tolist()
        crowding = (crowdings(self.held[at], self.desired) / GRAIN).tolist()
        boost = (self._boost()[at] / GRAIN).tolist() if self.spreads else None
        affinity = (self.affinity[at] / GRAIN).tolist() if self.affinity is not None else None
        found = []
        for i, number in enumerate(numbers):
            node = self._fleet.facts.nodes[number]
            scores = {
                "binpack": fit_scores[i],
                "job-anti-affinity": -crowding[i],
                "node-affinity": 0.0 if affinity is None else affinity[i],
                "node-reschedule-penalty": -1.0 if number in penalised else 0.0,
            }
            if boost is not None:
                scores["allocation-spread"] = boost[i]
            norm = float(final[number]) / UNIT
            found.append(ScoreMeta(node_id=node.id if node else "", scores=scores, norm_score=norm))
        return tuple(found)

    def _fit(self, where: Where, count: int | IntColumn) -> FloatColumn:
        """The grains of the fit scorer after ``count`` more."""
        fleet, facts, demand = self._fleet, self._fleet.facts, self._demand
        cpu_left = fleet.cpu_free[where] - count * fleet.cpu_ask(demand, where)
        memory_left = fleet.memory_free[where] - count * demand.memory
        return fit(self._algorithm, cpu_left, memory_left, facts.cpu_scale[where], facts.memory_scale[where])

    def _boost(self) -> FloatColumn:
        boost = np.zeros(self._fleet.facts.size)
        for spread in self.spreads:
            boost += spread.boosts()
        return boost
