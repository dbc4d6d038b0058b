"""System and sysbatch jobs: one allocation of each group on every node that can run it.

A system job's new version is rolled out by a deployment, like a service's: ``max_parallel`` nodes at a time, each wave
once the one before is healthy. ``canary`` is a percentage of the nodes to be updated; their allocations are replaced
first, and the others follow when they are promoted. Nodes may come and go meanwhile; a new one gets the new version.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from nomadpy.model.alloc import COMPLETE, FAILED, LOST, UNKNOWN, Allocation
from nomadpy.model.evaluation import DeploymentState, DesiredUpdates
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import DOWN
from nomadpy.scheduler.classes import Class, classify, is_canary
from nomadpy.scheduler.decision import FOLLOW_EXPIRY, Draft
from nomadpy.scheduler.disconnect import expires_ns, lost_after_ns
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.placement import GroupPlacer, Wanted
from nomadpy.scheduler.preemption import Evictor
from nomadpy.scheduler.reconcile import NODE_DOWN, NOT_NEEDED, OUT_OF_REACH, UPDATING
from nomadpy.scheduler.reschedule import Later
from nomadpy.scheduler.rollout import GroupWork, Rollout
from nomadpy.scheduler.updates import DESTRUCTIVE, IN_PLACE, UpdateKinds
from nomadpy.state.commands import AnnotateAlloc, StopAlloc
from nomadpy.state.view import BoolColumn, StateView

NODE_TAINTED = "alloc not needed as node is tainted"


def schedule_system(
    view: StateView, fleet: Fleet, draft: Draft, allocs: Sequence[Allocation], *, now_ns: int, rng: random.Random
) -> None:
    """Fills the draft of a system or sysbatch evaluation."""
    job = draft.job if draft.job is not None and not draft.job.stop else None
    groups = {group.name: group for group in job.task_groups if group.count > 0} if job is not None else {}
    by_group: dict[str, list[Allocation]] = {name: [] for name in groups}
    for alloc in allocs:
        by_group.setdefault(alloc.task_group, []).append(alloc)
    origin = draft.evaluation
    latest = view.latest_deployment(origin.namespace, origin.job_id)
    paced = (draft.job.type if draft.job is not None else origin.type) == "system"
    rollout = draft.rollout = Rollout(draft.job, latest, paced=paced)
    work = [_SystemGroup(view, fleet, draft, job, groups.get(name), held, now_ns) for name, held in by_group.items()]
    for each in work:
        each.sort()
        each.plan(rollout, rng)
    rollout.close(eval_priority=origin.priority, now_ns=now_ns, rng=rng)
    stopped = {stop.alloc_id for stop in draft.stops}
    live = [alloc for alloc in allocs if not alloc.client_terminal() and alloc.id not in stopped]
    for name, each in zip(by_group, work, strict=True):
        draft.queued[name] = 0
        draft.desired[name] = DesiredUpdates()
        each.place(live, rng)
        draft.desired[name] = each.desired().replace(preemptions=draft.desired[name].preemptions)
    expiries = [later for each in work for later in each.expiries]
    draft.follow_up(expiries, FOLLOW_EXPIRY, now_ns=now_ns, rng=rng)


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
        now_ns: int,
    ) -> None:
        self._view, self._fleet, self._draft, self._job, self._group = view, fleet, draft, job, group
        self._allocs = allocs
        self._now_ns = now_ns
        self._kinds = UpdateKinds(fleet, job) if job is not None else None
        self._covered: BoolColumn = np.zeros(fleet.facts.size, dtype=np.bool_)
        self._missing: BoolColumn = self._covered
        self._destructive: list[Allocation] = []
        self._stale: list[Allocation] = []
        self._in_place: list[Allocation] = []
        self._kept: list[Allocation] = []
        self._placer: GroupPlacer | None = None
        self._canaries = 0
        self._limit = 0
        self.expiries: list[Later] = []
        self._counts = dict.fromkeys(
            (
                *("ignore", "place", "stop", "migrate", "in_place_update", "destructive_update", "canary"),
                *("disconnect", "reconnect"),
            ),
            0,
        )

    # --- what there is ---------------------------------------------------------------------------------------------

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
        kind = classify(alloc, node, self._now_ns)
        if kind is Class.LOST:
            self._stop(alloc, NODE_DOWN)
        elif self._group is None or self._kinds is None:
            self._stop(alloc, NOT_NEEDED)
        elif kind is Class.DISCONNECTING:
            self._lose_sight(alloc)
        elif kind is Class.AWAY:
            self._cover(alloc)
            self._counts["ignore"] += 1
        elif kind is Class.MIGRATING:
            self._counts["migrate"] += 1
            self._stop(alloc, NODE_TAINTED)
        else:
            if kind is Class.RECONNECTING:
                self._draft.annotate.append(AnnotateAlloc(alloc_id=alloc.id, reconnected=True))
                self._counts["reconnect"] += 1
            self._sort_kept(alloc, self._kinds, ready=node is not None and node.is_ready())

    def _lose_sight(self, alloc: Allocation) -> None:
        self._draft.annotate.append(
            AnnotateAlloc(alloc_id=alloc.id, client_status=UNKNOWN, desired_description=OUT_OF_REACH)
        )
        if lost_after_ns(alloc) > 0:
            self.expiries.append(Later(expires_ns(alloc, self._now_ns), alloc))
        self._cover(alloc)
        self._counts["disconnect"] += 1

    def _sort_kept(self, alloc: Allocation, kinds: UpdateKinds, *, ready: bool) -> None:
        kind = kinds.kind(alloc)
        changed = kind in (IN_PLACE, DESTRUCTIVE)
        if not self._in_scope(alloc) or (changed and not (ready and kinds.suits(alloc))):
            self._stop(alloc, NOT_NEEDED)
            return
        self._cover(alloc)
        if kind == DESTRUCTIVE:
            self._destructive.append(alloc)
        elif kind == IN_PLACE:
            self._in_place.append(alloc)
            self._counts["in_place_update"] += 1
        else:
            self._counts["ignore"] += 1
            self._kept.append(alloc)

    def _cover(self, alloc: Allocation) -> None:
        self._covered[self._fleet.number(alloc.node_id)] = True

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

    # --- what is to be done ----------------------------------------------------------------------------------------

    def plan(self, rollout: Rollout, rng: random.Random) -> None:
        """Finds out what there is to do, and how much of it the job's deployment lets happen now."""
        group, job = self._group, self._job
        if group is None or job is None:
            return
        self._placer = GroupPlacer(self._fleet, job, group, siblings=(), rng=rng)
        self._missing = self._placer.eligible.mask & ~self._covered
        self._set_stale_aside(rollout)
        state = rollout.state(group.name)
        wanted = self._wanted_canaries(rollout, group, state)
        tried = [alloc for alloc in self._kept if state is not None and alloc.id in state.placed_canaries]
        canarying = wanted > 0 or (state is not None and state.canarying())
        lacking = max(wanted - len(tried), 0)
        own = [alloc for alloc in self._kept if rollout.owns(alloc)]
        missing = int(np.count_nonzero(self._missing))
        rollout.note(
            GroupWork(
                group=group,
                place=missing + len(self._stale),
                destructive=len(self._destructive),
                in_place=tuple(self._in_place),
                other=lacking,
                canaries=wanted,
                had_running=self._had_running(job),
                own=len(own),
                settled=all(alloc.deployment_status is not None and alloc.deployment_status.healthy for alloc in own),
            )
        )
        strategy = rollout.strategy(group)
        if strategy is None:
            self._limit = len(self._destructive)
        elif rollout.frozen:
            self._limit = 0
        elif canarying:
            self._canaries = lacking
        else:
            self._limit = max(rollout.limit(strategy, self._kept) - missing, 0)

    def _set_stale_aside(self, rollout: Rollout) -> None:
        """Canaries of a version that is given up were nobody's choice: they are replaced at once, without others."""
        self._stale = [a for a in self._destructive if is_canary(a) and rollout.is_stale_canary(a)]
        if self._stale:
            stale = {alloc.id for alloc in self._stale}
            self._destructive = [alloc for alloc in self._destructive if alloc.id not in stale]
        self._destructive.sort(key=lambda alloc: self._fleet.number(alloc.node_id))

    def _wanted_canaries(self, rollout: Rollout, group: TaskGroup, state: DeploymentState | None) -> int:
        """How many allocations are to be tried before the others follow: a share of those that change, and no more than
        may change at a time."""
        strategy = rollout.strategy(group)
        if state is not None:
            return state.desired_canaries if state.canarying() else 0
        if strategy is None or strategy.canary <= 0 or rollout.frozen:
            return 0
        share = math.ceil(strategy.canary * len(self._destructive) / 100)
        return min(share, strategy.max_parallel, len(self._destructive))

    def _had_running(self, job: Job) -> bool:
        version = (job.version, job.create_index)
        return any(a.job is not None and (a.job.version, a.job.create_index) == version for a in self._allocs)

    # --- placing ---------------------------------------------------------------------------------------------------

    def place(self, live: Sequence[Allocation], rng: random.Random) -> None:
        """Fills the nodes that lack the group, then replaces what changed, as far as it was planned."""
        placer, group, draft = self._placer, self._group, self._draft
        if placer is None or group is None or self._job is None or draft.rollout is None:
            return
        for alloc in live:
            placer.count(alloc, 1)
        for alloc in self._in_place:
            draft.update_in_place(alloc)
        evictor = Evictor(self._view, self._fleet, self._job)
        self._counts["place"] = int(np.count_nonzero(self._missing))
        unplaced = placer.place_everywhere(self._missing)
        for number in np.flatnonzero(unplaced).tolist():
            unplaced[number] = not evictor.place_on(placer, number, Wanted(name_index=0))
        tried, others = self._destructive[: self._canaries], self._destructive[self._canaries :]
        now = others[: self._limit]
        for alloc in tried:
            self._replace(placer, evictor, alloc, unplaced, canary=True)
        for alloc in [*self._stale, *now]:
            self._replace(placer, evictor, alloc, unplaced)
        self._counts["canary"] = len(tried)
        self._counts["destructive_update"] = len(self._stale) + len(now)
        self._counts["ignore"] += len(others) - len(now)
        draft.evict(group.name, list(evictor.evicted.values()))
        self._report(placer, evictor, unplaced)
        deployment_id = draft.rollout.deployment_id_of(group.name)
        draft.add(placer.result(eval_id=draft.evaluation.id, deployment_id=deployment_id))

    def _replace(
        self, placer: GroupPlacer, evictor: Evictor, alloc: Allocation, unplaced: BoolColumn, *, canary: bool = False
    ) -> None:
        number, mark = self._fleet.number(alloc.node_id), self._fleet.mark
        wanted = Wanted(name_index=0, previous=alloc, canary=canary)
        placer.free(alloc)
        if placer.place_on(number, wanted) or evictor.place_on(placer, number, wanted):
            self._draft.stop(alloc, UPDATING)
        else:
            placer.hold(alloc, mark)
            unplaced[number] = True

    def _report(self, placer: GroupPlacer, evictor: Evictor, unplaced: BoolColumn) -> None:
        """A node that the constraints rule out is no failure, unless the group then runs nowhere at all."""
        group, short = self._group, int(np.count_nonzero(unplaced))
        assert group is not None
        if short:
            metric = placer.failure(coalesced=short - 1, among=unplaced)
            metric = metric.replace(would_help=(*metric.would_help, *evictor.would_help(placer, unplaced)))
            self._draft.fail(group.name, metric, placer.eligible, count=short)
        elif not placer.placed and not self._covered.any() and not placer.eligible.mask.any():
            self._draft.fail(group.name, placer.failure(among=unplaced), placer.eligible, count=0)

    def desired(self) -> DesiredUpdates:
        """What the group's plan comes to."""
        return DesiredUpdates(**self._counts)
