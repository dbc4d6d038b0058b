"""Why each single node may or may not take another allocation of a group: every reason, not only the first."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nomadpy.model.alloc import Allocation, Help
from nomadpy.model.demand import Demand
from nomadpy.model.explanation import GroupExplanation, NodeVerdict, Obstacle, Refusal
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.decision import Decision
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.obstacles import Teller
from nomadpy.scheduler.placement import GroupPlacer
from nomadpy.scheduler.preemption import OPTIONS_MAX, Evictor
from nomadpy.state.commands import PlaceBlock
from nomadpy.state.view import StateView

SHOWN_ALL = 200
"""Clusters of so many nodes are answered node by node; larger ones by the best and by examples of each refusal."""
BEST_SHOWN, EXAMPLES = 10, 3
HAS_IT = "has its allocation already"


class Scene:
    """The nodes and the job's live allocations as a plan finds them, with what it stops or evicts already gone, or as
    it leaves them. Without a plan they are as they are."""

    def __init__(self, view: StateView, job: Job, decision: Decision | None = None, *, after: bool = False) -> None:
        self.view, self.job = view, job
        self.fleet = Fleet(view)
        stops = decision.plan.stops if decision is not None else ()
        stopped = {stop.alloc_id for stop in stops}
        every = view.allocs_by_job(job.namespace, job.id)
        for alloc in every:
            if alloc.id in stopped:
                self.fleet.release(alloc)
        for alloc_id in _evicted(decision):
            victim = view.alloc(alloc_id)
            if victim is not None:
                self.fleet.release(victim)
        self.live: list[Allocation] = [a for a in every if not a.client_terminal() and a.id not in stopped]
        self._blocks: tuple[PlaceBlock, ...] = ()
        if decision is not None and after:
            self._blocks = decision.plan.places
            for taken in decision.usage:
                self.fleet.take(taken)

    def placer(self, group: TaskGroup, *, ignored: Iterable[str] = ()) -> GroupPlacer:
        """Someone who could place the group here; the job's allocations on the ``ignored`` nodes do not count."""
        gone = set(ignored)
        siblings = [alloc for alloc in self.live if alloc.node_id not in gone]
        placer = GroupPlacer(self.fleet, self.job, group, siblings=siblings, rng=random.Random(0))
        for block in self._blocks:
            count = placer.count_placed if block.group == group.name else placer.count_other_groups
            count([_taken(block)])
        return placer

    def free_indexes(self, group: TaskGroup) -> Iterator[int]:
        """The numbers that names of further allocations of the group get, in order, without end."""
        used = {alloc.index for alloc in self.live if alloc.task_group == group.name}
        for block in self._blocks:
            if block.group == group.name:
                used.update(np.frombuffer(block.name_indexes, "<u4").tolist())
        return (index for index in itertools.count() if index not in used)

    def held(self, group: TaskGroup) -> Counter[int]:
        """Node number → live allocations of the group there."""
        held = Counter(self.fleet.number(alloc.node_id) for alloc in self.live if alloc.task_group == group.name)
        for block in self._blocks:
            if block.group == group.name:
                held.update(np.frombuffer(block.nodes, "<u4").tolist())
        return held


def _evicted(decision: Decision | None) -> list[str]:
    """The allocations of other jobs that make room for the plan's, each once."""
    blocks = decision.plan.places if decision is not None else ()
    every = (alloc_id for block in blocks for one in block.details.values() for alloc_id in one.preempted_alloc_ids)
    return list(dict.fromkeys(every))


def _taken(block: PlaceBlock) -> Taken:
    numbers, counts = np.unique(np.frombuffer(block.nodes, "<u4").astype(np.int64), return_counts=True)
    return Taken(numbers, counts, Demand())


def explain(view: StateView, job: Job, group: TaskGroup) -> list[NodeVerdict]:
    """A verdict on every node, in order of node number, about one more allocation of the group next to the job's live
    ones. Changes nothing."""
    judged = _Judged(Scene(view, job), group)
    return [judged.verdict(number) for number, node in enumerate(judged.nodes) if node is not None]


def explain_plan(view: StateView, job: Job, decision: Decision) -> dict[str, GroupExplanation]:
    """For each group of a planned job, why its allocations went where they did or why not all of them found a node.
    ``view`` has the job in the place of its stored version."""
    before, after = Scene(view, job, decision), Scene(view, job, decision, after=True)
    failed = decision.evaluation.failed_tg_allocs
    return {
        group.name: _Judged(after if group.name in failed else before, group).explanation(
            unplaced=decision.evaluation.queued_allocations.get(group.name, 0), after=group.name in failed
        )
        for group in job.task_groups
    }


class _Judged:
    """All nodes held against one group."""

    def __init__(self, scene: Scene, group: TaskGroup) -> None:
        self._scene = scene
        self._placer = scene.placer(group)
        self._teller = Teller(scene.view, scene.fleet, scene.job, group)
        self._held = scene.held(group)
        self._one_each = scene.job.type in ("system", "sysbatch")
        self.nodes = scene.fleet.facts.nodes
        self._lasting = self._placer.eligible.conditions
        self._momentary = self._placer.momentary_conditions()
        conditions = [(check.reason, check.passes) for check in self._lasting] + self._momentary
        self._reasons = [reason for reason, _ in conditions]
        self._against: list[list[int]] = [[] for _ in self.nodes]
        for position, (_, passes) in enumerate(conditions):
            for number in np.flatnonzero(~passes).tolist():
                self._against[number].append(position)
        self._extras = self._probe_extras()

    def _probe_extras(self) -> dict[int, list[Obstacle]]:
        """What nodes cannot give one by one. On large clusters only of nodes that have nothing else against them."""
        every = len(self.nodes) <= SHOWN_ALL
        found: dict[int, list[Obstacle]] = {}
        for number, node in enumerate(self.nodes):
            if node is not None and (every or not self._against[number]) and self._placer.missing_extras(number):
                found[number] = self._teller.extras(number)
        return found

    def _has_it(self, number: int) -> bool:
        return self._one_each and self._held[number] > 0

    def _fits(self, number: int) -> bool:
        return not self._against[number] and number not in self._extras and not self._has_it(number)

    def _obstacles(self, number: int) -> tuple[Obstacle, ...]:
        found = [Obstacle(kind="one per node", reason=HAS_IT, detail=HAS_IT)] if self._has_it(number) else []
        for position in self._against[number]:
            if position < len(self._lasting):
                found += self._teller.lasting(self._lasting[position], number)
            else:
                found.append(self._teller.momentary(self._reasons[position], number))
        told = {obstacle.kind for obstacle in found}
        return (*found, *(each for each in self._extras.get(number, ()) if each.kind not in told))

    def verdict(self, number: int) -> NodeVerdict:
        """The verdict on one node that exists."""
        node = self.nodes[number]
        assert node is not None
        verdict = NodeVerdict(
            node_id=node.id,
            node_name=node.name,
            node_class=node.node_class,
            datacenter=node.datacenter,
            node_pool=node.node_pool,
            holds=self._held[number],
            fits=self._fits(number),
            obstacles=self._obstacles(number),
        )
        if not verdict.fits:
            return verdict
        [meta] = self._placer.scores([number])
        return verdict.replace(scores=meta.scores, norm_score=meta.norm_score)

    def explanation(self, *, unplaced: int, after: bool) -> GroupExplanation:
        """All of it, cut to what a person can read."""
        numbers = [number for number, node in enumerate(self.nodes) if node is not None]
        fitting = [number for number in numbers if self._fits(number)]
        refused = [number for number in numbers if not self._fits(number)]
        scored = {number: meta.norm_score for number, meta in zip(fitting, self._placer.scores(fitting), strict=True)}
        best = sorted(fitting, key=lambda number: (-scored[number], number))
        alike = self._alike(refused)
        shown = [*best, *refused]
        if len(numbers) > SHOWN_ALL:
            shown = [*best[:BEST_SHOWN], *(number for same in alike.values() for number in same[:EXAMPLES])]
        return GroupExplanation(
            after_plan=after,
            unplaced=unplaced,
            node_count=len(numbers),
            fit_count=len(fitting),
            nodes=tuple(self.verdict(number) for number in shown),
            refusals=self._refusals(alike),
            would_help=() if fitting else self._help(refused),
        )

    def _alike(self, refused: Sequence[int]) -> dict[tuple[str, ...], list[int]]:
        """Refused nodes by their reasons."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for number in refused:
            reasons = [HAS_IT] if self._has_it(number) else []
            reasons += [self._reasons[position] for position in self._against[number]]
            reasons += [obstacle.reason for obstacle in self._extras.get(number, ())]
            alike.setdefault(tuple(reasons), []).append(number)
        return alike

    def _refusals(self, alike: dict[tuple[str, ...], list[int]]) -> tuple[Refusal, ...]:
        """Most nodes first."""
        refusals = []
        for reasons, numbers in sorted(alike.items(), key=lambda item: -len(item[1])):
            nodes = [self.nodes[number] for number in numbers[:EXAMPLES]]
            ids = tuple(node.id for node in nodes if node is not None)
            refusals.append(Refusal(reasons=reasons, count=len(numbers), nodes=ids))
        return tuple(refusals)

    def _help(self, refused: Sequence[int]) -> tuple[Help, ...]:
        among = None
        if self._one_each:
            among = np.zeros(len(self.nodes), dtype=np.bool_)
            among[[number for number in refused if not self._has_it(number)]] = True
        evictor = Evictor(self._scene.view, self._scene.fleet, self._scene.job)
        return (
            *self._placer.failure(among=among).would_help,
            *evictor.would_help(self._placer, among, look_at=OPTIONS_MAX),
        )
