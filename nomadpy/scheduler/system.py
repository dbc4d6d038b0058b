"""System and sysbatch jobs: one allocation of each group on every node that can run it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from nomadpy.model.alloc import COMPLETE, FAILED, LOST, RUNNING, Allocation
from nomadpy.model.evaluation import DesiredUpdates
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import DOWN
from nomadpy.scheduler.decision import Draft
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.placement import GroupPlacer, Wanted
from nomadpy.scheduler.preemption import Evictor
from nomadpy.scheduler.reconcile import NODE_DOWN, NOT_NEEDED, UPDATING
from nomadpy.scheduler.updates import DESTRUCTIVE, IN_PLACE, UpdateKinds
from nomadpy.state.commands import StopAlloc
from nomadpy.state.view import BoolColumn, StateView

NODE_TAINTED = "alloc not needed as node is tainted"


def schedule_system(
    view: StateView, fleet: Fleet, draft: Draft, allocs: Sequence[Allocation], *, rng: random.Random
) -> None:
    """Fills the draft of a system or sysbatch evaluation."""
    job = draft.job if draft.job is not None and not draft.job.stop else None
    groups = {group.name: group for group in job.task_groups if group.count > 0} if job is not None else {}
    by_group: dict[str, list[Allocation]] = {name: [] for name in groups}
    for alloc in allocs:
        by_group.setdefault(alloc.task_group, []).append(alloc)
    work = [_SystemGroup(view, fleet, draft, job, groups.get(name), held) for name, held in by_group.items()]
    for each in work:
        each.sort()
    stopped = {stop.alloc_id for stop in draft.stops}
    live = [alloc for alloc in allocs if not alloc.client_terminal() and alloc.id not in stopped]
    for name, each in zip(by_group, work, strict=True):
        draft.queued[name] = 0
        each.place(live, rng)
        preemptions = draft.desired.get(name, DesiredUpdates()).preemptions
        draft.desired[name] = each.desired().replace(preemptions=preemptions)


class _SystemGroup:
    """One group of a system or sysbatch job; ``group`` is None when it should run nowhere."""

    def __init__(
        self,
        view: StateView,
        fleet: Fleet,
        draft: Draft,
        job: Job | None,
        group: TaskGroup | None,
        allocs: Sequence[Allocation],
    ) -> None:
        self._view, self._fleet, self._draft, self._job, self._group = view, fleet, draft, job, group
        self._allocs = allocs
        self._kinds = UpdateKinds(fleet, job) if job is not None else None
        self._covered: BoolColumn = np.zeros(fleet.facts.size, dtype=np.bool_)
        self._destructive: list[Allocation] = []
        self._in_flight = 0
        self._counts = {"ignore": 0, "place": 0, "stop": 0, "migrate": 0, "in_place_update": 0, "destructive_update": 0}

    def sort(self) -> None:
        """Decides about what there is: stops, updates in place, and which nodes need nothing more."""
        for alloc in self._allocs:
            if alloc.terminal():
                self._lose_unreported(alloc)
                self._sort_terminal(alloc)
            else:
                self._sort_live(alloc)

    def _lose_unreported(self, alloc: Allocation) -> None:
        """An allocation that was told to stop is over when its node can no longer report that it did."""
        node = self._view.node(alloc.node_id)
        if not alloc.client_terminal() and (node is None or node.status == DOWN):
            self._draft.stops.append(
                StopAlloc(
                    alloc_id=alloc.id, desired_status=alloc.desired_status, description=NODE_DOWN, client_status=LOST
                )
            )

    def _sort_terminal(self, alloc: Allocation) -> None:
        """Work of a sysbatch job that is done for this version stays done; a system allocation comes back."""
        job, number = self._job, self._fleet.number(alloc.node_id)
        if job is None or job.type != "sysbatch" or number < 0 or alloc.job is None:
            return
        same = (alloc.job.version, alloc.job.create_index) == (job.version, job.create_index)
        if same and alloc.client_status in (COMPLETE, FAILED) and not alloc.server_terminal():
            self._covered[number] = True
            self._counts["ignore"] += 1

    def _sort_live(self, alloc: Allocation) -> None:
        node = self._view.node(alloc.node_id)
        if node is None or node.status == DOWN:
            self._stop(alloc, NODE_DOWN)
            return
        if self._group is None or self._kinds is None:
            self._stop(alloc, NOT_NEEDED)
            return
        if alloc.desired_transition.migrate:
            self._counts["migrate"] += 1
            self._stop(alloc, NODE_TAINTED)
            return
        kind = self._kinds.kind(alloc)
        changed = kind in (IN_PLACE, DESTRUCTIVE)
        if not self._in_scope(alloc) or (changed and not (node.is_ready() and self._kinds.suits(alloc))):
            self._stop(alloc, NOT_NEEDED)
            return
        self._covered[self._fleet.number(alloc.node_id)] = True
        if kind == DESTRUCTIVE:
            self._destructive.append(alloc)
        elif kind == IN_PLACE:
            self._draft.update_in_place(alloc)
            self._counts["in_place_update"] += 1
        else:
            self._counts["ignore"] += 1
            self._in_flight += alloc.client_status != RUNNING

    def _in_scope(self, alloc: Allocation) -> bool:
        """Whether the node is still in the job's datacenters and pool."""
        assert self._job is not None
        facts, number = self._fleet.facts, self._fleet.number(alloc.node_id)
        return bool(facts.in_pool(self._job.node_pool)[number] & facts.in_datacenters(self._job.datacenters)[number])

    def _stop(self, alloc: Allocation, description: str) -> None:
        status = LOST if description == NODE_DOWN else ""
        self._draft.stops.append(StopAlloc(alloc_id=alloc.id, description=description, client_status=status))
        self._fleet.release(alloc)
        if description != NODE_TAINTED:
            self._counts["stop"] += 1

    def place(self, live: Sequence[Allocation], rng: random.Random) -> None:
        """Fills the nodes that lack the group, then replaces what changed, as many at a time as the job allows."""
        if self._group is None or self._job is None:
            return
        placer = GroupPlacer(self._fleet, self._job, self._group, siblings=live, rng=rng)
        evictor = Evictor(self._view, self._fleet, self._job)
        missing = placer.eligible.mask & ~self._covered
        self._counts["place"] = int(np.count_nonzero(missing))
        unplaced = placer.place_everywhere(missing)
        for number in np.flatnonzero(unplaced).tolist():
            unplaced[number] = not evictor.place_on(placer, number, Wanted(name_index=0))
        parallel = self._group.update.max_parallel if self._group.update is not None else 0
        limit = max(parallel - self._in_flight, 0) if parallel > 0 else len(self._destructive)
        self._counts["ignore"] += len(self._destructive[limit:])
        for alloc in self._destructive[:limit]:
            self._replace(placer, evictor, alloc, unplaced)
        self._counts["destructive_update"] = len(self._destructive[:limit])
        self._draft.evict(self._group.name, list(evictor.evicted.values()))
        self._report(placer, unplaced)
        self._draft.add(placer.result(eval_id=self._draft.evaluation.id))

    def _replace(self, placer: GroupPlacer, evictor: Evictor, alloc: Allocation, unplaced: BoolColumn) -> None:
        number, mark = self._fleet.number(alloc.node_id), self._fleet.mark
        wanted = Wanted(name_index=0, previous=alloc)
        placer.free(alloc)
        if placer.place_on(number, wanted) or evictor.place_on(placer, number, wanted):
            self._draft.stop(alloc, UPDATING)
        else:
            placer.hold(alloc, mark)
            unplaced[number] = True

    def _report(self, placer: GroupPlacer, unplaced: BoolColumn) -> None:
        """A node that the constraints rule out is no failure, unless the group then runs nowhere at all."""
        group, short = self._group, int(np.count_nonzero(unplaced))
        assert group is not None
        if short:
            metric = placer.failure(coalesced=short - 1, among=unplaced)
            self._draft.fail(group.name, metric, placer.eligible, count=short)
        elif not placer.placed and not self._covered.any() and not placer.eligible.mask.any():
            self._draft.fail(group.name, placer.failure(among=unplaced), placer.eligible, count=0)

    def desired(self) -> DesiredUpdates:
        """What the group's plan comes to."""
        return DesiredUpdates(**self._counts)
