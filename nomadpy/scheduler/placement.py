"""Putting the allocations of one group on nodes.

Every node is looked at. Lasting conditions come as a mask; what depends on the moment (free resources, neighbours,
ports, devices) is checked here. Ports, cores and devices are tried on the best node only, and the next best one is
taken when they are missing there: the same answer as checking them everywhere first, for a fraction of the work.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from nomadpy.model.alloc import Allocation, AllocMetric, RescheduleTracker, ScoreMeta
from nomadpy.model.demand import group_demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.distinct import Neighbours
from nomadpy.scheduler.eligibility import add_counts, eligibility, node_class_counts
from nomadpy.scheduler.extras import NO_EXTRAS, Assigned, assign, wants_extras
from nomadpy.scheduler.facts import offers_volume
from nomadpy.scheduler.fleet import Extras, Fleet, Taken
from nomadpy.scheduler.helps import would_help
from nomadpy.scheduler.packing import pack
from nomadpy.scheduler.ranking import EVERYWHERE, FloatColumn, Ranking
from nomadpy.state.commands import PlaceBlock, PlacedAlloc
from nomadpy.state.view import BoolColumn, IntColumn

TOP_SCORES = 5


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One allocation to place that is not just another one: it follows ``previous``, avoids the nodes in ``avoid``
    (numbers where its chain failed), or stays on node ``stay`` if that can be."""

    name_index: int
    previous: Allocation | None = None
    avoid: frozenset[int] = frozenset()
    stay: int = -1
    tracker: RescheduleTracker | None = None
    canary: bool = False
    evicts: tuple[str, ...] = ()
    eviction_score: float = 0.0


class Placed(msgspec.Struct, frozen=True):
    """What came of a group's placements."""

    blocks: tuple[PlaceBlock, ...]
    usage: tuple[Taken, ...]
    count: int


class GroupPlacer:
    """Places allocations of one group for one evaluation. ``siblings`` are the job's live allocations that the
    evaluation does not stop."""

    def __init__(
        self, fleet: Fleet, job: Job, group: TaskGroup, *, siblings: Iterable[Allocation], rng: random.Random
    ) -> None:
        self.fleet, self.job, self.group = fleet, job, group
        self.eligible = eligibility(fleet.facts, job, group)
        self._rng = rng
        self._demand = group_demand(group)
        self._wants_extras = wants_extras(group)
        self._ranking = Ranking(fleet, job, group, self._demand, fleet.algorithm)
        self._neighbours = Neighbours(fleet.facts, job, group)
        for alloc in siblings:
            self.count(alloc, 1)
        self._refused: dict[int, str] = {}
        self._ranked: FloatColumn | None = None
        self._stale: set[int] = set()
        self._numbers: list[IntColumn] = []
        self._indexes: list[IntColumn] = []
        self._details: dict[int, PlacedAlloc] = {}
        self._usage: list[Taken] = []
        self._metrics: AllocMetric | None = None
        self.placed = 0

    def count(self, alloc: Allocation, sign: int) -> None:
        """Counts a live allocation of the job in (1) or out (-1)."""
        number = self.fleet.number(alloc.node_id)
        if number < 0:
            return
        if alloc.task_group == self.group.name:
            self._ranking.add(number, sign)
        self._neighbours.add(number, sign, same_group=alloc.task_group == self.group.name)

    def count_other_groups(self, usage: Iterable[Taken]) -> None:
        """Counts what other groups of the job were given in the same evaluation."""
        for taken in usage:
            for number, count in zip(taken.numbers.tolist(), taken.counts.tolist(), strict=True):
                self._neighbours.add(number, count, same_group=False)

    def count_placed(self, usage: Iterable[Taken]) -> None:
        """Counts what another version of this group was given in the same evaluation."""
        for taken in usage:
            for number, count in zip(taken.numbers.tolist(), taken.counts.tolist(), strict=True):
                self._ranking.add(number, count)
                self._neighbours.add(number, count, same_group=True)

    def place_many(self, name_indexes: IntColumn) -> int:
        """Places as many equal allocations as fit and returns how many that were; names are used in order."""
        if self._wants_extras or self._ranking.spreads or self.hangs_together:
            for done, index in enumerate(name_indexes.tolist()):
                if not self.place_one(Wanted(name_index=index)):
                    return done
            return len(name_indexes)
        if len(name_indexes) == 1:
            return int(self.place_one(Wanted(name_index=int(name_indexes[0]))))
        return self._pack(name_indexes)

    def _pack(self, name_indexes: IntColumn) -> int:
        room = self._room()
        if self._metrics is None:
            self._metrics = self._success(self._ranked_nodes(), frozenset())
        counts = pack(self._ranking.ahead, room, len(name_indexes))
        numbers = np.flatnonzero(counts)
        total = int(counts.sum())
        if not total:
            return 0
        self._accept_many(numbers, counts[numbers], name_indexes[:total])
        return total

    def _accept_many(self, numbers: IntColumn, counts: IntColumn, name_indexes: IntColumn) -> None:
        self._take(Taken(numbers, counts, self._demand))
        if self._ranking.spreads:
            for number in numbers.tolist():
                self._ranking.add(number, 1)
        else:
            self._ranking.add_many(numbers, counts)
        self._neighbours.add_many(numbers, counts)
        self._numbers.append(np.repeat(numbers, counts))
        self._indexes.append(name_indexes)
        self.placed += len(name_indexes)
        self._ranked = None

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
        rooms["allocations"] = np.maximum(fleet.slots_free, 0)
        if self._neighbours.alone:
            rooms["distinct_hosts"] = (self._neighbours.occupied == 0).astype(np.int64)
        return rooms

    def _room(self) -> IntColumn:
        """How many more each node can take."""
        return np.where(self.eligible.mask, np.minimum.reduce(list(self.rooms().values())), 0)

    @property
    def hangs_together(self) -> bool:
        """Whether what one node takes decides about what others can."""
        return bool(self._neighbours.properties) or self._has_per_alloc_volume()

    @property
    def placed_on(self) -> IntColumn:
        """The numbers of the nodes that were given one so far, each as often as it was."""
        return np.concatenate(self._numbers) if self._numbers else np.zeros(0, dtype=np.int64)

    def place_one(self, wanted: Wanted) -> bool:
        """Places one allocation on the best node; False when no node can take it."""
        ranked = self._ranked_for(wanted)
        while True:
            number = self._best(ranked, wanted.stay)
            if number < 0:
                return False
            given = self._assign(number)
            if isinstance(given, Assigned):
                break
            self._refused[number] = given
            self._stale.add(number)
            ranked[number] = -np.inf
        if self._metrics is None:
            self._metrics = self._success(ranked, wanted.avoid)
        self._accept(number, wanted, given)
        return True

    def place_on(self, number: int, wanted: Wanted) -> bool:
        """Places one allocation on this very node, if it fits there."""
        one = np.array([number])
        if not self._fits(one)[0] or (
            self._has_per_alloc_volume() and not self._offers_volumes(wanted.name_index)[number]
        ):
            return False
        if self._metrics is None:
            self._metrics = self._success(self._ranked_nodes(), wanted.avoid)
        given = self._assign(number)
        if not isinstance(given, Assigned):
            self._refused[number] = given
            return False
        self._accept(number, wanted, given)
        return True

    def contestable(self, wanted: Wanted, where: IntColumn | slice = EVERYWHERE) -> BoolColumn:
        """The nodes on which only what other jobs hold can be in the way."""
        mask = self.eligible.mask[where] & (self.fleet.slots_free[where] >= 1)
        if self._has_per_alloc_volume():
            mask &= self._offers_volumes(wanted.name_index)[where]
        return self._neighbours.allow(mask, where)

    def rank(self, number: int, wanted: Wanted, *, extra: float) -> float:
        """The score of a node for this allocation, with the word of one more scorer."""
        one = np.array([number])
        return float(self._ranking.scores(one, penalised=number in wanted.avoid, extra=extra)[0])

    def place_everywhere(self, mask: BoolColumn) -> BoolColumn:
        """Places one allocation, named 0, on each node of the mask where it fits; answers the nodes where not."""
        numbers = np.flatnonzero(mask)
        if self._wants_extras or self.hangs_together:
            missed = [n for n in numbers.tolist() if not self.place_on(n, Wanted(name_index=0))]
            unplaced: BoolColumn = np.zeros(len(mask), dtype=np.bool_)
            unplaced[missed] = True
            return unplaced
        numbers = numbers[self._fits(numbers)]
        if len(numbers):
            if self._metrics is None:
                self._metrics = self._success(self._ranked_nodes(), frozenset())
            self._accept_many(numbers, np.ones(len(numbers), dtype=np.int64), np.zeros(len(numbers), dtype=np.int64))
        unplaced = mask.copy()
        unplaced[numbers] = False
        return unplaced

    def _assign(self, number: int) -> Assigned | str:
        if not self._wants_extras:
            return NO_EXTRAS
        return assign(self.fleet, number, self.group, self._rng)

    def _best(self, ranked: FloatColumn, stay: int) -> int:
        if stay >= 0 and ranked[stay] > -np.inf:
            return stay
        number = int(np.argmax(ranked)) if len(ranked) else -1
        return number if number >= 0 and ranked[number] > -np.inf else -1

    def _ranked_for(self, wanted: Wanted) -> FloatColumn:
        ranked = self._ranked_nodes()
        per_alloc = self._has_per_alloc_volume()
        if not wanted.avoid and not per_alloc:
            return ranked
        ranked = ranked.copy()
        avoid = np.array([n for n in sorted(wanted.avoid) if ranked[n] > -np.inf], dtype=np.int64)
        if len(avoid):
            ranked[avoid] = self._ranking.scores(avoid, penalised=True)
        if per_alloc:
            ranked[~self._offers_volumes(wanted.name_index)] = -np.inf
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
            & (fleet.cpu_free[where] >= demand.cpu)
            & (fleet.memory_free[where] >= demand.memory)
            & (fleet.disk_free[where] >= demand.disk)
            & (fleet.slots_free[where] >= 1)
        )
        return self._neighbours.allow(fits, where)

    def _changed(self, number: int) -> None:
        """Notes that a node's rank has to be worked out anew; with it those of all nodes when they hang together."""
        if self._ranking.spreads or self._neighbours.properties:
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

    def _accept(self, number: int, wanted: Wanted, given: Assigned) -> None:
        extras = ((number, given.held),) if given.held != Extras() else ()
        one = np.array([number]), np.ones(1, dtype=np.int64)
        metrics = self._evicting_success(number, wanted) if wanted.evicts else None
        self._take(Taken(*one, self._demand, extras))
        self._ranking.add(number, 1)
        self._neighbours.add(number, 1, same_group=True)
        self._changed(number)
        detail = PlacedAlloc(
            previous_alloc_id=wanted.previous.id if wanted.previous is not None else "",
            ports=given.held.ports,
            devices=given.devices,
            reserved_cores=given.cores,
            reschedule_tracker=wanted.tracker,
            canary=wanted.canary,
            preempted_alloc_ids=wanted.evicts,
            metrics=metrics,
        )
        if detail != _NO_DETAIL:
            self._details[self.placed] = detail
        self._numbers.append(one[0])
        self._indexes.append(np.array([wanted.name_index]))
        self.placed += 1

    def _take(self, taken: Taken) -> None:
        self.fleet.take(taken)
        self._usage.append(taken)

    def result(self, *, eval_id: str, deployment_id: str = "") -> Placed:
        """Everything placed so far, as blocks for the plan."""
        if not self.placed:
            return Placed((), (), 0)
        block = PlaceBlock(
            namespace=self.job.namespace,
            job_id=self.job.id,
            job_version=self.job.version,
            group=self.group.name,
            eval_id=eval_id,
            deployment_id=deployment_id,
            nodes=np.concatenate(self._numbers).astype("<u4").tobytes(),
            name_indexes=np.concatenate(self._indexes).astype("<u4").tobytes(),
            details=self._details,
            metrics=self._metrics,
        )
        return Placed((block,), tuple(self._usage), self.placed)

    def _success(self, ranked: FloatColumn, avoid: frozenset[int]) -> AllocMetric:
        """The metrics of a placement that is about to succeed, with the best nodes."""
        return self._base_metric().replace(score_meta_data=self._ranking.explain(_top(ranked), ranked, penalised=avoid))

    def _evicting_success(self, number: int, wanted: Wanted) -> AllocMetric:
        """The metrics of a placement that others have to make room for."""
        final = self._ranking.scores(penalised=number in wanted.avoid, extra=wanted.eviction_score)
        [meta] = self._ranking.explain([number], final, penalised=wanted.avoid)
        meta = meta.replace(scores={**meta.scores, "preemption": wanted.eviction_score})
        return self._base_metric().replace(score_meta_data=(meta,))

    def _base_metric(self) -> AllocMetric:
        eligible = self.eligible
        return AllocMetric(
            nodes_evaluated=eligible.candidates,
            nodes_filtered=eligible.filtered,
            nodes_in_pool=eligible.nodes_in_pool,
            node_pool=self.job.node_pool or "default",
            nodes_available=eligible.nodes_available,
            class_filtered=eligible.class_filtered,
            constraint_filtered=eligible.constraint_filtered,
        )

    def failure(self, *, coalesced: int = 0, name_index: int = 0, among: BoolColumn | None = None) -> AllocMetric:
        """Why another allocation cannot be placed now: each node is counted once, under the first reason. ``among``
        are the nodes whose shortages matter, if not all."""
        facts, left = self.fleet.facts, self.eligible.mask.copy()
        if among is not None:
            left &= among
        filtered, classes = dict(self.eligible.constraint_filtered), dict(self.eligible.class_filtered)
        conditions = list(self._neighbours.conditions())
        if self._has_per_alloc_volume():
            conditions.insert(0, ("missing compatible host volumes", self._offers_volumes(name_index)))
        for reason, passes in conditions:
            dropped = left & ~passes
            if dropped.any():
                add_counts(filtered, {reason: int(np.count_nonzero(dropped))})
                add_counts(classes, node_class_counts(facts, dropped))
                left &= passes
        dimensions = self._dimensions(left)
        return self._base_metric().replace(
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
        return [
            ("cpu", fleet.cpu_free >= demand.cpu),
            ("memory", fleet.memory_free >= demand.memory),
            ("disk", fleet.disk_free >= demand.disk),
            ("max allocation exceeded", fleet.slots_free >= 1),
        ]

    def momentary_conditions(self) -> list[tuple[str, BoolColumn]]:
        """Conditions on what nodes hold now, with the nodes that meet them."""
        return [*self._neighbours.conditions(), *self._shortages()]

    def missing_extras(self, number: int) -> str:
        """Which port, core or device a node cannot give, or "". A failure that is told later counts it."""
        given = self._assign(number)
        if isinstance(given, Assigned):
            return ""
        self._refused[number] = given
        return given

    def scores(self, numbers: Sequence[int]) -> tuple[ScoreMeta, ...]:
        """The scores of some nodes, in the same order."""
        return self._ranking.explain(numbers, self._ranking.scores(), penalised=frozenset())

    def _has_per_alloc_volume(self) -> bool:
        return any(request.per_alloc and request.type != "csi" for request in self.group.volumes.values())

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


_NO_DETAIL = PlacedAlloc()


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
