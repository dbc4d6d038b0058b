"""How a group stands: on which nodes it may go, what it has where, what each node is worth for one more, and why no
node can take one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np

from nomadpy.model.alloc import Allocation, AllocMetric, ScoreMeta
from nomadpy.model.demand import group_demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.devices import choose_cores
from nomadpy.scheduler.distinct import Neighbours
from nomadpy.scheduler.eligibility import add_counts, eligibility, node_class_counts
from nomadpy.scheduler.extras import NO_EXTRAS, Assigned, assign, wants_extras
from nomadpy.scheduler.facts import offers_volume
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.grains import FloatColumn
from nomadpy.scheduler.helps import would_help
from nomadpy.scheduler.ranking import Ranking
from nomadpy.state.view import BoolColumn, IntColumn

TOP_SCORES = 5


class Standing:
    """One group for one evaluation. ``siblings`` are the job's live allocations that the evaluation does not stop."""

    def __init__(
        self, fleet: Fleet, job: Job, group: TaskGroup, *, siblings: Iterable[Allocation], rng: random.Random
    ) -> None:
        self.fleet, self.job, self.group = fleet, job, group
        self.eligible = eligibility(fleet.facts, job, group)
        self._rng = rng
        self._demand = group_demand(group)
        self._algorithm = fleet.algorithm_for(job.node_pool)
        self._wants_extras = wants_extras(group)
        self._per_alloc_volume = bool(group.volumes) and any(
            v.per_alloc and v.type != "csi" for v in group.volumes.values()
        )
        self._made_ranking: Ranking | None = None
        self._made_neighbours: Neighbours | None = None
        self._refused: dict[int, str] = {}
        self._ranked: FloatColumn | None = None
        self._stale: set[int] = set()
        self._usage: list[Taken] = []
        for alloc in siblings:
            self.count(alloc, 1)

    @property
    def _ranking(self) -> Ranking:
        """The scores, made when they are first needed: few allocations of a new job never ask for them."""
        if self._made_ranking is None:
            self._made_ranking = Ranking(self.fleet, self.job, self.group, self._demand, self._algorithm)
            for taken in self._usage:
                self._made_ranking.add_many(taken.numbers, taken.counts)
        return self._made_ranking

    @property
    def _neighbours(self) -> Neighbours:
        if self._made_neighbours is None:
            self._made_neighbours = Neighbours(self.fleet.facts, self.job, self.group)
            for taken in self._usage:
                self._made_neighbours.add_many(taken.numbers, taken.counts)
        return self._made_neighbours

    def count(self, alloc: Allocation, sign: int) -> None:
        """Counts a live allocation of the job in (1) or out (-1)."""
        number = self.fleet.number(alloc.node_id)
        if number < 0:
            return
        if alloc.task_group == self.group.name:
            self._ranking.add(number, sign)
        if self.eligible.distinct:
            self._neighbours.add(number, sign, same_group=alloc.task_group == self.group.name)

    def count_other_groups(self, usage: Iterable[Taken]) -> None:
        """Counts what other groups of the job were given in the same evaluation."""
        if not self.eligible.distinct:
            return
        for taken in usage:
            for number, count in zip(taken.numbers.tolist(), taken.counts.tolist(), strict=True):
                self._neighbours.add(number, count, same_group=False)

    def count_placed(self, usage: Iterable[Taken]) -> None:
        """Counts what another version of this group was given in the same evaluation."""
        for taken in usage:
            for number, count in zip(taken.numbers.tolist(), taken.counts.tolist(), strict=True):
                self._ranking.add(number, count)
                if self.eligible.distinct:
                    self._neighbours.add(number, count, same_group=True)

    def _takes_turns(self) -> bool:
        """Whether what one node takes changes what others are worth or can take."""
        spreads = self.job.spreads or self.group.spreads
        return bool(spreads) or (self.eligible.distinct and bool(self._neighbours.properties))

    def _has_preferences(self) -> bool:
        group, job = self.group, self.job
        return bool(job.affinities or group.affinities or any(task.affinities for task in group.tasks))

    def rooms(self) -> dict[str, IntColumn]:
        """Per dimension how many more each node can take, be it eligible or not. Ports, devices, cores and distinct
        properties are not counted."""
        fleet, demand = self.fleet, self._demand
        rooms: dict[str, IntColumn] = {
            name: np.maximum(free // ask, 0)
            for name, free, ask in (
                ("cpu", fleet.cpu_free, demand.cpu),
                ("memory", fleet.memory_free, demand.memory),
                ("disk", fleet.disk_free, demand.disk),
            )
            if ask > 0
        }
        if demand.cores:
            rooms["cpu"] = np.maximum(fleet.cpu_free // np.maximum(fleet.cpu_ask(demand, slice(None)), 1), 0)
        rooms["allocations"] = np.maximum(fleet.slots_free, 0)
        if self.eligible.distinct and self._neighbours.alone:
            rooms["distinct_hosts"] = (self._neighbours.occupied == 0).astype(np.int64)
        return rooms

    def _room(self) -> IntColumn:
        """How many more each node can take."""
        return np.where(self.eligible.mask, np.minimum.reduce(list(self.rooms().values())), 0)

    @property
    def hangs_together(self) -> bool:
        """Whether what one node takes decides about what others can."""
        return self._per_alloc_volume or (self.eligible.distinct and bool(self._neighbours.properties))

    def _assign(self, number: int) -> Assigned | str:
        if not self._wants_extras:
            return NO_EXTRAS
        return assign(self.fleet, number, self.group, self._rng)

    def _ranked_for(self, avoid: frozenset[int], name_index: int) -> FloatColumn:
        ranked = self._ranked_nodes()
        per_alloc = self._per_alloc_volume
        if not avoid and not per_alloc:
            return ranked
        ranked = ranked.copy()
        failed = np.array([n for n in sorted(avoid) if ranked[n] > -np.inf], dtype=np.int64)
        if len(failed):
            ranked[failed] = self._ranking.scores(failed, penalised=True)
        if per_alloc:
            ranked[~self._offers_volumes(name_index)] = -np.inf
        return ranked

    def _ranked_nodes(self) -> FloatColumn:
        """Scores of all nodes, -inf for one that cannot take any."""
        if self._ranked is None:
            self._ranked = np.where(self._fits(slice(None)), self._ranking.scores(), -np.inf)
            self._ranked[list(self._refused)] = -np.inf
        elif self._stale:
            changed = np.array(sorted(self._stale))
            self._ranked[changed] = np.where(self._fits(changed), self._ranking.scores(changed), -np.inf)
            self._ranked[[number for number in self._stale if number in self._refused]] = -np.inf
        self._stale.clear()
        return self._ranked

    def _fits(self, where: IntColumn | slice) -> BoolColumn:
        fleet, demand = self.fleet, self._demand
        fits: BoolColumn = (
            self.eligible.mask[where]
            & (fleet.cpu_free[where] >= fleet.cpu_ask(demand, where))
            & (fleet.memory_free[where] >= demand.memory)
            & (fleet.disk_free[where] >= demand.disk)
            & (fleet.slots_free[where] >= 1)
        )
        return self._neighbours.allow(fits, where) if self.eligible.distinct else fits

    def _changed(self, number: int) -> None:
        """Notes that a node's rank has to be worked out anew; with it those of all nodes when they hang together."""
        if self._takes_turns():
            self._ranked = None
        self._stale.add(number)

    def free(self, alloc: Allocation) -> None:
        """Lets the placements that follow use what an allocation holds."""
        self.fleet.release(alloc)
        self._recount(alloc, -1)

    def hold(self, alloc: Allocation, mark: int) -> None:
        """Takes back ``free``."""
        self.fleet.restore(alloc, mark)
        self._recount(alloc, 1)

    def clear(self, alloc: Allocation) -> None:
        """Lets the placements that follow use what an allocation of another job holds."""
        self.fleet.release(alloc)
        self._reconsider(self.fleet.number(alloc.node_id))

    def unclear(self, alloc: Allocation, mark: int) -> None:
        """Takes back ``clear``, with everything else since ``mark``."""
        self.fleet.restore(alloc, mark)
        self._reconsider(self.fleet.number(alloc.node_id))

    def _reconsider(self, number: int) -> None:
        self._refused.pop(number, None)
        self._changed(number)

    def _recount(self, alloc: Allocation, sign: int) -> None:
        number = self.fleet.number(alloc.node_id)
        if number >= 0 and not alloc.client_terminal():
            self.count(alloc, sign)
            self._reconsider(number)

    def _success(self, ranked: FloatColumn, avoid: frozenset[int]) -> AllocMetric:
        """The metrics of a placement that is about to succeed, with the best nodes."""
        return self.eligible.metric.replace(
            score_meta_data=self._ranking.explain(_top(ranked), ranked, penalised=avoid)
        )

    def failure(self, *, coalesced: int = 0, name_index: int = 0, among: BoolColumn | None = None) -> AllocMetric:
        """Why another allocation cannot be placed now: each node is counted once, under the first reason. ``among``
        are the nodes whose shortages matter, if not all."""
        facts, left = self.fleet.facts, self.eligible.mask.copy()
        if among is not None:
            left &= among
        filtered, classes = dict(self.eligible.constraint_filtered), dict(self.eligible.class_filtered)
        conditions = self._neighbour_conditions()
        if self._per_alloc_volume:
            conditions.insert(0, ("missing compatible host volumes", self._offers_volumes(name_index)))
        for reason, passes in conditions:
            dropped = left & ~passes
            if dropped.any():
                add_counts(filtered, {reason: int(np.count_nonzero(dropped))})
                add_counts(classes, node_class_counts(facts, dropped))
                left &= passes
        dimensions = self._dimensions(left)
        return self.eligible.metric.replace(
            nodes_filtered=sum(filtered.values()),
            constraint_filtered=filtered,
            class_filtered=classes,
            nodes_exhausted=sum(dimensions.values()),
            class_exhausted=node_class_counts(facts, left) if dimensions else {},
            dimension_exhausted=dimensions,
            resources_exhausted={task.name: task.resources for task in self.group.tasks} if dimensions else {},
            coalesced_failures=coalesced,
            would_help=would_help(
                self.fleet, self.eligible, self._demand, neighbours=conditions, refused=self._refused, among=among
            ),
        )

    def _neighbour_conditions(self) -> list[tuple[str, BoolColumn]]:
        return list(self._neighbours.conditions()) if self.eligible.distinct else []

    def _dimensions(self, left: BoolColumn) -> dict[str, int]:
        """What the remaining nodes have too little of."""
        left = left.copy()
        found: dict[str, int] = {}
        for name, enough in self._shortages():
            short = int(np.count_nonzero(left & ~enough))
            if short:
                found[name] = short
                left &= enough
        for number, problem in self._refused.items():
            if left[number]:
                add_counts(found, {problem: 1})
        return found

    def _shortages(self) -> list[tuple[str, BoolColumn]]:
        """Dimensions with the nodes that have enough of them."""
        fleet, demand = self.fleet, self._demand
        enough_cpu = fleet.cpu_free >= fleet.cpu_ask(demand, slice(None))
        found = [
            ("cpu", enough_cpu),
            ("memory", fleet.memory_free >= demand.memory),
            ("disk", fleet.disk_free >= demand.disk),
            ("max allocation exceeded", fleet.slots_free >= 1),
        ]
        return [("cores", self._enough_cores(~enough_cpu)), *found] if demand.cores else found

    def _enough_cores(self, doubtful: BoolColumn) -> BoolColumn:
        """The nodes with enough cores that nobody has reserved, as far as they are doubtful. Reserved cores use up cpu,
        too, but it is cores then that the group lacks."""
        enough: BoolColumn = np.ones(len(doubtful), dtype=np.bool_)
        for number in np.flatnonzero(doubtful & self.eligible.mask).tolist():
            node = self.fleet.facts.nodes[number]
            assert node is not None
            enough[number] = choose_cores(node, self.group, self.fleet.held_cores(number)) is not None
        return enough

    def momentary_conditions(self) -> list[tuple[str, BoolColumn]]:
        """Conditions on what nodes hold now, with the nodes that meet them."""
        return [*self._neighbour_conditions(), *self._shortages()]

    def missing_extras(self, number: int) -> str:
        """Which port, core or device a node cannot give, or "". A failure that is told later counts it."""
        given = self._assign(number)
        if isinstance(given, Assigned):
            return ""
        self._refused[number] = given
        return given

    def could_take(self, number: int) -> bool:
        """Whether a node could take one as things are now."""
        return bool(self._fits(np.array([number]))[0]) and not self.missing_extras(number)

    def refused(self, number: int) -> str:
        """Which port, core or device was found to be missing on a node, or ""."""
        return self._refused.get(number, "")

    def refuse(self, number: int, missing: str) -> None:
        """Notes what is missing on a node, if anything."""
        if missing:
            self._refused[number] = missing
            self._stale.add(number)

    def scores(self, numbers: Sequence[int]) -> tuple[ScoreMeta, ...]:
        """The scores of some nodes, in the same order."""
        return self._ranking.explain(numbers, self._ranking.scores(), penalised=frozenset())

    def _offers_volumes(self, name_index: int) -> BoolColumn:
        """The nodes that offer the volumes of which each allocation has its own: ``<source>[<index>]``."""
        sources = [(f"{r.source}[{name_index}]", r.read_only) for r in self.group.volumes.values() if r.per_alloc]
        return np.array(
            [
                node is not None and all(offers_volume(node, source, read_only) for source, read_only in sources)
                for node in self.fleet.facts.nodes
            ],
            dtype=np.bool_,
        )


def _top(ranked: FloatColumn) -> Sequence[int]:
    """The numbers of the best nodes, best first, ties by number."""
    left, best = ranked.copy(), []
    for _ in range(min(TOP_SCORES, len(left))):
        number = int(np.argmax(left))
        if left[number] == -np.inf:
            break
        best.append(number)
        left[number] = -np.inf
    return best
