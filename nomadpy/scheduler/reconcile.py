"""What should change about the allocations of a service or batch job, before anybody asks where.

Each allocation is put into exactly one class (kept, migrating, lost, to be rescheduled, over); counts, names and
updates follow from the classes. Deployments, canaries and disconnected clients attach at ``_sort`` and ``_update``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import numpy as np

from nomadpy.model.alloc import COMPLETE, FAILED, LOST, PENDING, RUNNING, Allocation
from nomadpy.model.evaluation import DesiredUpdates, Evaluation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import DISCONNECTED, DOWN, Node
from nomadpy.scheduler.names import free_indexes
from nomadpy.scheduler.reschedule import NO_PLACEMENT, Later, due_ns
from nomadpy.state.commands import StopAlloc
from nomadpy.state.view import IntColumn

NOT_NEEDED = "alloc not needed due to job update"
MIGRATING = "alloc is being migrated"
RESCHEDULED = "alloc was rescheduled because it failed"
NODE_DOWN = "alloc is lost since its node is down"
UPDATING = "alloc is being updated due to job update"

UpdateKind = Callable[[Allocation], str]
"""``ignore``, ``in-place`` or ``destructive`` for an allocation that stays wanted."""


class Cause(Enum):
    """Why a new allocation follows an old one."""

    LOST = "lost"
    MIGRATE = "migrate"
    RESCHEDULE = "reschedule"
    UPDATE = "update"


class Replacement(msgspec.Struct, frozen=True):
    """An allocation that another one follows, under the same name."""

    alloc: Allocation
    cause: Cause


@dataclass
class GroupChanges:
    """What is to happen to one group. Stops happen in any case; the allocations in ``replace`` whose cause is
    RESCHEDULE or UPDATE are stopped only once their replacement has found a node."""

    name: str
    group: TaskGroup | None
    stops: list[tuple[Allocation, StopAlloc]] = field(default_factory=list)
    unreported: list[tuple[Allocation, StopAlloc]] = field(default_factory=list)
    replace: list[Replacement] = field(default_factory=list)
    fresh: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    in_place: list[Allocation] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    desired: DesiredUpdates = field(default_factory=DesiredUpdates)

    def stop(self, alloc: Allocation, description: str) -> None:
        """Stops an allocation; one whose node is gone is lost, because nobody is left to report its end."""
        lost = LOST if description == NODE_DOWN else ""
        self.stops.append((alloc, StopAlloc(alloc_id=alloc.id, description=description, client_status=lost)))

    def lose(self, alloc: Allocation) -> None:
        """Declares an allocation over that was told to stop and whose node can no longer report that it did."""
        lost = StopAlloc(
            alloc_id=alloc.id, desired_status=alloc.desired_status, description=NODE_DOWN, client_status=LOST
        )
        self.unreported.append((alloc, lost))

    @property
    def wanted(self) -> int:
        """How many allocations are to be placed."""
        return len(self.replace) + len(self.fresh)


@dataclass
class _Sorted:
    """The allocations of a group by class; what is over and done with is in none."""

    kept: list[Allocation] = field(default_factory=list)
    migrate: list[Allocation] = field(default_factory=list)
    drained: list[Allocation] = field(default_factory=list)
    lost: list[Allocation] = field(default_factory=list)
    reschedule: list[Allocation] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)


class Reconciler:
    """Compares what a service or batch job wants with what it has. ``job`` is None when it was purged; ``node_of``
    answers the node of an allocation, None when it is gone."""

    def __init__(
        self,
        job: Job | None,
        evaluation: Evaluation,
        *,
        batch: bool,
        now_ns: int,
        node_of: Callable[[str], Node | None],
        update_kind: UpdateKind,
    ) -> None:
        self._job = job if job is not None and not job.stop else None
        self._evaluation = evaluation
        self._batch = batch
        self._now_ns = now_ns
        self._node_of = node_of
        self._update_kind = update_kind

    def reconcile(self, allocs: Iterable[Allocation]) -> list[GroupChanges]:
        """The changes per group: those of the job in its order, then those that only allocations still name."""
        by_group: dict[str, list[Allocation]] = {}
        if self._job is not None:
            by_group = {group.name: [] for group in self._job.task_groups}
        for alloc in allocs:
            by_group.setdefault(alloc.task_group, []).append(alloc)
        return [self._group(name, held) for name, held in by_group.items()]

    def _group(self, name: str, allocs: list[Allocation]) -> GroupChanges:
        group = self._job.group(name) if self._job is not None else None
        changes = GroupChanges(name, group)
        for alloc in allocs:
            if alloc.server_terminal() and not alloc.client_terminal() and self._is_lost(alloc):
                changes.lose(alloc)
        if group is None or group.count <= 0:
            self._stop_all(changes, allocs)
            return changes
        if not allocs:
            changes.fresh = np.arange(group.count)
            changes.desired = DesiredUpdates(place=group.count)
            return changes
        self._change(changes, group, self._sort(allocs))
        return changes

    def _stop_all(self, changes: GroupChanges, allocs: Sequence[Allocation]) -> None:
        for alloc in allocs:
            if not alloc.terminal():
                changes.stop(alloc, NODE_DOWN if self._is_lost(alloc) else NOT_NEEDED)
        changes.desired = DesiredUpdates(stop=len(changes.stops))

    # --- classes ---------------------------------------------------------------------------------------------------

    def _sort(self, allocs: Iterable[Allocation]) -> _Sorted:
        found = _Sorted()
        for alloc in allocs:
            if alloc.terminal():
                self._sort_terminal(alloc, found)
            elif self._is_lost(alloc):
                found.lost.append(alloc)
            elif alloc.desired_transition.migrate:
                stays_away = self._batch and alloc.desired_transition.migrate_disable_placement
                (found.drained if stays_away else found.migrate).append(alloc)
            else:
                found.kept.append(alloc)
        return found

    def _sort_terminal(self, alloc: Allocation, found: _Sorted) -> None:
        """An allocation that ended: counted as done, placed anew, or forgotten."""
        if alloc.next_allocation or (self._batch and self._is_older(alloc)):
            return
        tracker = alloc.reschedule_tracker
        unplaced = tracker is not None and tracker.last_reschedule == NO_PLACEMENT
        if alloc.server_terminal():
            if self._batch and (alloc.desired_transition.migrate_disable_placement or _succeeded(alloc)):
                found.kept.append(alloc)
                return
            if not (unplaced and alloc.client_status == FAILED):
                return
        elif alloc.client_status != FAILED:
            if self._batch and alloc.client_status == COMPLETE:
                found.kept.append(alloc)
            return
        due = due_ns(alloc, eval_id=self._evaluation.id, now_ns=self._now_ns)
        if due == 0:
            found.reschedule.append(alloc)
            return
        # It keeps its place in the count while it waits, and for good when its attempts are used up.
        found.kept.append(alloc)
        if due is not None and not alloc.followup_eval_id:
            found.later.append(Later(due, alloc))

    def _is_older(self, alloc: Allocation) -> bool:
        old, new = alloc.job, self._job
        assert new is not None
        return old is None or old.version < new.version or old.create_index < new.create_index

    def _is_lost(self, alloc: Allocation) -> bool:
        node = self._node_of(alloc.node_id)
        if node is None or node.status == DOWN:
            return True
        return node.status == DISCONNECTED and (alloc.client_status == PENDING or not _outlives_disconnect(alloc))

    # --- changes ---------------------------------------------------------------------------------------------------

    def _change(self, changes: GroupChanges, group: TaskGroup, found: _Sorted) -> None:
        names = {alloc.index for each in (found.kept, found.migrate, found.drained) for alloc in each}
        names.update(alloc.index for each in (found.lost, found.reschedule) for alloc in each)
        for alloc in found.lost:
            changes.stop(alloc, NODE_DOWN)
        for alloc in found.drained:
            changes.stop(alloc, MIGRATING)
        self._stop_surplus(changes, group, found)
        for alloc in found.migrate:
            changes.stop(alloc, MIGRATING)
        existing = len(found.kept) + len(found.migrate) + len(found.drained)
        replace = [Replacement(alloc, Cause.MIGRATE) for alloc in found.migrate]
        rescheduled = 0
        for cause, allocs in ((Cause.RESCHEDULE, found.reschedule), (Cause.LOST, found.lost)):
            for alloc in sorted(allocs, key=lambda each: each.index):
                if existing < group.count:
                    existing += 1
                    replace.append(Replacement(alloc, cause))
                    rescheduled += cause is Cause.RESCHEDULE
                elif cause is Cause.RESCHEDULE and not alloc.server_terminal():
                    changes.stop(alloc, NOT_NEEDED)
        changes.fresh = free_indexes(names, max(group.count - existing, 0))
        placed_anyway = len(replace) - len(found.migrate) + len(changes.fresh)
        changes.later = found.later
        ignored, destructive = self._update(changes, group, found.kept, placed_anyway)
        changes.replace = replace + [Replacement(alloc, Cause.UPDATE) for alloc in destructive]
        changes.desired = DesiredUpdates(
            ignore=ignored,
            place=placed_anyway,
            migrate=len(found.migrate),
            stop=len(changes.stops) - len(found.migrate),
            in_place_update=len(changes.in_place),
            destructive_update=len(destructive),
            reschedule_now=rescheduled,
            reschedule_later=len(found.later),
        )

    def _stop_surplus(self, changes: GroupChanges, group: TaskGroup, found: _Sorted) -> None:
        """Takes what is more than the count out of ``found``: migrating ones first, then failed ones (which only hold
        a place), then the highest numbers. Finished batch work cannot be stopped and stays counted."""
        surplus = len(found.kept) + len(found.migrate) - group.count
        for held in (found.migrate, found.kept):
            if surplus <= 0:
                return
            stoppable = [alloc for alloc in held if not alloc.terminal() or _holds_a_place(alloc)]
            gone = sorted(stoppable, key=lambda each: (not each.terminal(), -each.index))[:surplus]
            for alloc in gone:
                changes.stop(alloc, NOT_NEEDED)
            ids = {alloc.id for alloc in gone}
            held[:] = [alloc for alloc in held if alloc.id not in ids]
            found.later[:] = [later for later in found.later if later.alloc.id not in ids]
            surplus -= len(gone)

    def _update(
        self, changes: GroupChanges, group: TaskGroup, kept: Sequence[Allocation], placing: int
    ) -> tuple[int, list[Allocation]]:
        """Sorts out who is updated how; answers how many are left alone, and those to replace now in name order."""
        ignored, in_flight, destructive = 0, placing, []
        for alloc in kept:
            kind = self._update_kind(alloc)
            if kind == "destructive" and not (self._batch and alloc.terminal()):
                destructive.append(alloc)
            elif kind == "in-place" and not alloc.terminal():
                changes.in_place.append(alloc)
            else:
                ignored += 1
                in_flight += alloc.client_status != RUNNING
        parallel = group.update.max_parallel if group.update is not None and not self._batch else 0
        limit = max(parallel - in_flight, 0) if parallel > 0 else len(destructive)
        destructive.sort(key=lambda each: each.index)
        return ignored + len(destructive[limit:]), destructive[:limit]


def _holds_a_place(alloc: Allocation) -> bool:
    """Whether the allocation failed and is kept because it waits or has no attempts left."""
    return alloc.client_status == FAILED and not alloc.server_terminal()


def _succeeded(alloc: Allocation) -> bool:
    """Whether a stopped allocation had done its work."""
    return bool(alloc.task_states) and all(state.successful() for state in alloc.task_states.values())


def _outlives_disconnect(alloc: Allocation) -> bool:
    """Whether the allocation stays wanted while its node is out of reach."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    return group is not None and group.disconnect is not None and group.disconnect.lost_after_ns > 0
