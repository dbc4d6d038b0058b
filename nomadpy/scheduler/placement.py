"""Putting the allocations of one group on nodes.

Every node is looked at. Lasting conditions come as a mask; what depends on the moment (free resources, neighbours,
ports, devices) is checked here. Ports, cores and devices are tried on the best node only, and the next best one is
taken when they are missing there: the same answer as checking them everywhere first, for a fraction of the work.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import numpy as np

from nomadpy.model.alloc import Allocation, AllocMetric, RescheduleTracker, ScoreMeta
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.blocks import Blocks
from nomadpy.scheduler.cells import MOST_NODES
from nomadpy.scheduler.eligibility import Eligibility
from nomadpy.scheduler.extras import Assigned, asks_only_ports
from nomadpy.scheduler.fleet import Extras, Fleet, Taken
from nomadpy.scheduler.grains import UNIT, FloatColumn
from nomadpy.scheduler.packing import pack
from nomadpy.scheduler.port_sets import PortColumns, PortSets, in_bulk
from nomadpy.scheduler.ranking import EVERYWHERE
from nomadpy.scheduler.standing import TOP_SCORES, Standing
from nomadpy.scheduler.turns import Turns
from nomadpy.state.commands import PlaceBlock, PlacedAlloc
from nomadpy.state.view import BoolColumn, IntColumn

FEW = 50  # allocations that are placed one after the other among cells; of more nodes, one for each hundred
_FEW_TURNS = 12  # so few are placed sooner by looking at all nodes each time than by setting up turns


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


class GroupPlacer(Standing):
    """Places allocations of one group for one evaluation. ``siblings`` are the job's live allocations that the
    evaluation does not stop."""

    def __init__(
        self, fleet: Fleet, job: Job, group: TaskGroup, *, siblings: Iterable[Allocation], rng: random.Random
    ) -> None:
        super().__init__(fleet, job, group, siblings=siblings, rng=rng)
        self._blocks = Blocks()
        self._metrics: AllocMetric | None = None
        self.placed = 0

    def place_many(self, name_indexes: IntColumn) -> int:
        """Places as many equal allocations as fit and returns how many that were; names are used in order."""
        wanted = len(name_indexes)
        if self._one_by_one(wanted):
            for done, index in enumerate(name_indexes.tolist()):
                if not self.place_one(Wanted(name_index=index)):
                    return done
            return wanted
        placed = self._place_few(name_indexes)
        if placed is None:
            placed = self._place_at_once(name_indexes)
        return placed

    def _one_by_one(self, wanted: int) -> bool:
        """Whether each allocation has to be looked at on its own."""
        if self._per_alloc_volume or self.fleet.facts.size > MOST_NODES:
            return True
        if self._wants_extras:
            return not asks_only_ports(self.group) or not in_bulk(self.group.networks)
        return self._takes_turns() and wanted < _FEW_TURNS

    def _place_few(self, name_indexes: IntColumn) -> int | None:
        """Places few allocations of a group that has none yet; None when that is not the case at hand."""
        fleet, wanted, distinct = self.fleet, len(name_indexes), self.eligible.distinct
        if wanted > max(FEW, fleet.facts.size // 100) or self._made_ranking is not None or self._usage:
            return None
        if self._takes_turns() or self._has_preferences() or (distinct and self._neighbours.occupied.any()):
            return None
        asks = fleet.asks()
        bar = self.eligible.bar(asks.cells) if asks is not None else None
        if asks is None or bar is None:
            return None
        free = fleet.left
        ask = asks.ask(self._demand, self._algorithm, free)
        metrics = scores_of_new(fleet, self.eligible, ask.top(bar, TOP_SCORES if fleet.tables_left > 0 else 1))
        counts: dict[int, int]
        if wanted == 1:
            number = ask.choose_one(bar, free)
            nodes, counts = ([number], {number: 1}) if number >= 0 else ([], {})
        else:
            alone = distinct and self._neighbours.alone
            nodes, counts = ask.choose(bar, wanted, free, desired=float(max(self.group.count, 1)), alone=alone)
        ports: PortColumns | None = None
        if nodes and self._wants_extras:
            ports = self._port_sets().give(nodes)
            if ports is None:
                asks.forget(self._demand, self._algorithm)
                return None
        if nodes:
            fleet.tables_left -= 1
            self._metrics = metrics
            amounts = np.array(list(counts)), np.array(list(counts.values()))
            self._take(Taken(*amounts, self._demand, (), ports.taken if ports is not None else ()))
            asks.knows(ask)
            if distinct:
                self._neighbours.add_many(*amounts)
            self._blocks.add(nodes, name_indexes[: len(nodes)], ports)
            self.placed += len(nodes)
        return len(nodes)

    def _place_at_once(self, name_indexes: IntColumn) -> int:
        """Places many allocations: by turns where they depend on each other, else packed in one go."""
        room = self._room()
        room[list(self._refused)] = 0
        if self._metrics is None:
            self._metrics = self._success(self._ranked_nodes(), frozenset())
        ports: PortColumns | None = None
        while True:
            nodes = self._distribute(room, len(name_indexes))
            if not len(nodes) or not self._wants_extras:
                break
            port_sets = self._port_sets()
            ports = port_sets.give(nodes)
            if ports is not None:
                break
            for number, (count, problem) in port_sets.short.items():
                room[number] = count
                self._refused[number] = problem
        if len(nodes):
            self._accept_many(*np.unique(nodes, return_counts=True), nodes, name_indexes[: len(nodes)], ports)
        return len(nodes)

    def _distribute(self, room: IntColumn, wanted: int) -> IntColumn:
        """The node of each allocation."""
        if self._takes_turns():
            numbers = np.flatnonzero(room)
            properties = self._neighbours.properties if self.eligible.distinct else []
            return np.array(Turns(self._ranking, properties, numbers, room[numbers], wanted).place(), dtype=np.int64)
        counts = pack(self._ranking.ahead, room, wanted, self._ranking.alike)
        return np.repeat(np.arange(len(counts)), counts)

    def _port_sets(self) -> PortSets:
        fleet = self.fleet
        return PortSets(
            self.group.networks[0],
            node_of=fleet.facts.nodes,
            addresses_of=fleet.facts.addresses,
            used_of=fleet.used_ports,
            rng=self._rng,
        )

    def _accept_many(
        self,
        numbers: IntColumn,
        counts: IntColumn,
        nodes: IntColumn,
        name_indexes: IntColumn,
        ports: PortColumns | None = None,
    ) -> None:
        self._take(Taken(numbers, counts, self._demand, (), ports.taken if ports is not None else ()))
        self._ranking.add_many(numbers, counts)
        if self.eligible.distinct:
            self._neighbours.add_many(numbers, counts)
        self._blocks.add(nodes, name_indexes, ports)
        self.placed += len(nodes)
        self._ranked = None

    @property
    def placed_on(self) -> IntColumn:
        """The numbers of the nodes that were given one so far, each as often as it was."""
        return self._blocks.nodes

    def place_one(self, wanted: Wanted) -> bool:
        """Places one allocation on the best node; False when no node can take it."""
        ranked = self._ranked_for(wanted.avoid, wanted.name_index)
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
        if not self._fits(one)[0] or (self._per_alloc_volume and not self._offers_volumes(wanted.name_index)[number]):
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
        if self._per_alloc_volume:
            mask &= self._offers_volumes(wanted.name_index)[where]
        return self._neighbours.allow(mask, where) if self.eligible.distinct else mask

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
            ones = np.ones(len(numbers), dtype=np.int64)
            self._accept_many(numbers, ones, numbers, np.zeros(len(numbers), dtype=np.int64))
        unplaced = mask.copy()
        unplaced[numbers] = False
        return unplaced

    def _best(self, ranked: FloatColumn, stay: int) -> int:
        if stay >= 0 and ranked[stay] > -np.inf:
            return stay
        number = int(np.argmax(ranked)) if len(ranked) else -1
        return number if number >= 0 and ranked[number] > -np.inf else -1

    def _accept(self, number: int, wanted: Wanted, given: Assigned) -> None:
        extras = ((number, given.held),) if given.held != Extras() else ()
        one = np.array([number]), np.ones(1, dtype=np.int64)
        metrics = self._evicting_success(number, wanted) if wanted.evicts else None
        self._take(Taken(*one, self._demand, extras))
        self._ranking.add(number, 1)
        if self.eligible.distinct:
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
        self._blocks.add_one(number, wanted.name_index, detail)
        self.placed += 1

    def _take(self, taken: Taken) -> None:
        self.fleet.take(taken)
        self._usage.append(taken)

    def result(self, *, eval_id: str, deployment_id: str = "") -> Placed:
        """Everything placed so far, as blocks for the plan."""
        if not self.placed:
            return Placed((), (), 0)
        blocks = self._blocks.finish(
            self.job, self.group, eval_id=eval_id, deployment_id=deployment_id, metrics=self._metrics
        )
        return Placed(blocks, tuple(self._usage), self.placed)

    def _evicting_success(self, number: int, wanted: Wanted) -> AllocMetric:
        """The metrics of a placement that others have to make room for."""
        final = self._ranking.scores(penalised=number in wanted.avoid, extra=wanted.eviction_score)
        [meta] = self._ranking.explain([number], final, penalised=wanted.avoid)
        meta = meta.replace(scores={**meta.scores, "preemption": wanted.eviction_score})
        return self.eligible.metric.replace(score_meta_data=(meta,))


def scores_of_new(fleet: Fleet, eligible: Eligibility, best: list[tuple[int, float]]) -> AllocMetric:
    """The metrics of a placement among nodes that hold none of the group; ``best`` are nodes with their ranks."""
    nodes = fleet.facts.nodes
    told = []
    for number, rank in best:
        node, score = nodes[number], rank / UNIT
        scores = {"binpack": score, "job-anti-affinity": 0.0, "node-affinity": 0.0, "node-reschedule-penalty": 0.0}
        told.append(ScoreMeta(node_id=node.id if node else "", scores=scores, norm_score=score))
    return eligible.metric.replace(score_meta_data=tuple(told))
