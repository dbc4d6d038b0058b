"""How good each node is for one more allocation of a group.

Every score is computed by one formula from integers, ``exp2((free - ask) · log2(10) / capacity)``, for a single node,
for all nodes, and for many allocations ahead. Equal nodes then get equal scores to the last bit, and ties are the
normal case: a second way to compute the same number would break them at random.

Source: BestFit v3 (Google's Borg-like cell packing) as Nomad uses it; the final score is the mean of the scorers that
had something to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import ScoreMeta
from nomadpy.model.demand import Demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import Affinity, Spread
from nomadpy.scheduler.facts import Column, Facts
from nomadpy.scheduler.fleet import Fleet
from nomadpy.state.view import IntColumn

FloatColumn = npt.NDArray[np.float64]
Where = IntColumn | slice
EVERYWHERE = slice(None)

_MAX_FIT = 18.0


def affinity_scores(facts: Facts, job: Job, group: TaskGroup) -> FloatColumn | None:
    """Per node the share of affinity weight that it meets, -1…1; None when the group has no affinities."""
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
    return total / sum(abs(affinity.weight) for affinity in affinities)


class SpreadCount:
    """One spread with the allocations of the group per value of its attribute so far."""

    def __init__(self, column: Column, spread: Spread, share: float, desired: int) -> None:
        self.column = column
        self.counts: IntColumn = np.zeros(len(column.values), dtype=np.int64)
        self._share = share
        self._targets = bool(spread.spread_target)
        given = {target.value: target.percent for target in spread.spread_target}
        rest = 100 - sum(given.values())
        # -1 marks a value that nothing is wanted for, by name or by the implicit rest.
        self._wanted = np.array(
            [given.get(value, rest if rest > 0 else -1) / 100 * desired for value in map(str, column.values)]
        )
        self._lacking = np.array([value is None for value in column.values], dtype=np.bool_)

    def add(self, number: int, count: int) -> None:
        """Counts allocations on a node in or, below zero, out."""
        self.counts[self.column.codes[number]] += count

    def boosts(self) -> FloatColumn:
        """Per node the boost of one more allocation there."""
        by_value = self._toward_targets() if self._targets else self._evenly()
        by_value[self._lacking] = -1.0
        return by_value[self.column.codes]

    def _toward_targets(self) -> FloatColumn:
        """A value of which nothing is wanted gets -1; Nomad's "lowest boost so far" depends on the order of visits."""
        boost = np.full(len(self._wanted), -1.0)
        some = self._wanted > 0
        wanted = self._wanted[some]
        boost[some] = (wanted - (self.counts[some] + 1)) / wanted * self._share
        return boost

    def _evenly(self) -> FloatColumn:
        used = self.counts[(self.counts > 0) & ~self._lacking]
        if not len(used):
            return np.zeros(len(self.counts))
        low, high = int(used.min()), int(used.max())
        boost = (low - self.counts) / low
        boost[self.counts == low] = -1.0 if low == high else (high - low) / low
        return boost


def spread_counts(facts: Facts, job: Job, group: TaskGroup) -> list[SpreadCount]:
    """The spreads of job and group, with nothing counted yet."""
    spreads = (*job.spreads, *group.spreads)
    weights = sum(spread.weight for spread in spreads)
    return [
        SpreadCount(facts.column(spread.attribute), spread, spread.weight / weights if weights else 0.0, group.count)
        for spread in spreads
    ]


class Ranking:
    """Scores of one group on every node, given the group's allocations there. Whoever changes the fleet or these counts
    asks again for what changed."""

    def __init__(self, fleet: Fleet, job: Job, group: TaskGroup, demand: Demand, algorithm: str) -> None:
        self._fleet = fleet
        self._demand = demand
        self._desired = float(max(group.count, 1))
        self._spread_out = algorithm == "spread"
        self._held: IntColumn = np.zeros(fleet.facts.size, dtype=np.int64)
        self._any_held = False
        self.affinity = affinity_scores(fleet.facts, job, group)
        self.spreads = spread_counts(fleet.facts, job, group)

    def add(self, number: int, count: int) -> None:
        """Counts allocations of the group on a node in or, below zero, out."""
        self._any_held = True
        self._held[number] += count
        for spread in self.spreads:
            spread.add(number, count)

    def add_many(self, numbers: IntColumn, counts: IntColumn) -> None:
        """Counts new allocations on distinct nodes in."""
        assert not self.spreads
        self._any_held = True
        self._held[numbers] += counts

    def scores(self, where: Where = EVERYWHERE, *, penalised: bool = False, extra: float | None = None) -> FloatColumn:
        """The final score of one more allocation on these nodes; ``penalised`` when it failed there before. ``extra``
        is the word of one more scorer."""
        total = self._fit(where, 1)
        scorers: FloatColumn = np.ones(len(total))
        if self._any_held:
            crowding = self._crowding(where)
            total -= crowding
            scorers += crowding > 0
        if penalised:
            total -= 1.0
            scorers += 1.0
        if extra is not None:
            total += extra
            scorers += 1.0
        if self.affinity is not None:
            total += self.affinity[where]
            scorers += 1.0
        if self.spreads:
            boost = self._boost()[where]
            total += boost
            scorers += boost != 0
        total /= scorers
        return total

    def ahead(self, numbers: IntColumn, steps: IntColumn) -> FloatColumn:
        """Matrix: the score of the (steps[j]+1)-th further allocation on numbers[i], others staying as they are.
        Not for groups with spreads, whose scores depend on what other nodes get."""
        assert not self.spreads
        fit = self._fit(numbers[:, None], steps[None, :] + 1)
        held = self._held[numbers][:, None] + steps[None, :]
        crowded = held > 0
        total = fit - np.where(crowded, (held + 1) / self._desired, 0.0)
        scorers = 1.0 + crowded
        if self.affinity is not None:
            total += self.affinity[numbers][:, None]
            scorers += 1.0
        scored: FloatColumn = total / scorers
        return scored

    def explain(
        self, numbers: Sequence[int], final: FloatColumn, *, penalised: frozenset[int]
    ) -> tuple[ScoreMeta, ...]:
        """The scores of some nodes by scorer; ``final`` holds the final scores of all nodes."""
        at = np.array(numbers, dtype=np.int64)
        fit, crowding = self._fit(at, 1).tolist(), self._crowding(at).tolist()
        boost = self._boost()[at] if self.spreads else None
        found = []
        for i, number in enumerate(numbers):
            node = self._fleet.facts.nodes[number]
            scores = {
                "binpack": fit[i],
                "job-anti-affinity": -crowding[i],
                "node-affinity": 0.0 if self.affinity is None else float(self.affinity[number]),
                "node-reschedule-penalty": -1.0 if number in penalised else 0.0,
            }
            if boost is not None:
                scores["allocation-spread"] = float(boost[i])
            found.append(ScoreMeta(node_id=node.id if node else "", scores=scores, norm_score=float(final[number])))
        return tuple(found)

    def _fit(self, where: Where, count: int | IntColumn) -> FloatColumn:
        """0…1, the fuller the better (or the emptier, with the spread algorithm), after ``count`` more."""
        fleet, facts = self._fleet, self._fleet.facts
        load: FloatColumn = np.exp2((fleet.cpu_free[where] - count * self._demand.cpu) * facts.cpu_scale[where])
        load += np.exp2((fleet.memory_free[where] - count * self._demand.memory) * facts.memory_scale[where])
        raw: FloatColumn = load - 2.0 if self._spread_out else 20.0 - load
        np.maximum(raw, 0.0, out=raw)
        np.minimum(raw, _MAX_FIT, out=raw)
        raw /= _MAX_FIT
        return raw

    def _crowding(self, where: Where) -> FloatColumn:
        held = self._held[where]
        crowding: FloatColumn = np.where(held > 0, (held + 1) / self._desired, 0.0)
        return crowding

    def _boost(self) -> FloatColumn:
        boost = np.zeros(self._fleet.facts.size)
        for spread in self.spreads:
            boost += spread.boosts()
        return boost
