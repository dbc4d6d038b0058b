"""What should change about the allocations of a service or batch job, before anybody asks where.

Each allocation is put into exactly one class (``sorting``: kept, migrating, lost, to be rescheduled, out of reach,
over); counts, names and updates follow from the classes. How far an update may go is asked of the job's deployment
(``rollout``). While a group waits for its canaries they stand beside the others: they are not counted, and whatever
else must be replaced is replaced in the version that it ran.

An allocation that is out of reach and whose place was taken is not counted either; one that is waited for is. When its
node returns, one of the two has to go, and the other is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import numpy as np

from nomadpy.model.alloc import FAILED, LOST, Allocation
from nomadpy.model.evaluation import DesiredUpdates, Evaluation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import Node
from nomadpy.scheduler.classes import is_canary
from nomadpy.scheduler.disconnect import (
    expires_ns,
    is_outdated,
    is_replaced,
    keeps_original,
    lost_after_ns,
    replacements_of,
    stopped_by_ns,
)
from nomadpy.scheduler.names import free_indexes
from nomadpy.scheduler.reschedule import Later
from nomadpy.scheduler.rollout import GroupWork, Rollout
from nomadpy.scheduler.sorting import Sorted, Sorter
from nomadpy.state.commands import StopAlloc
from nomadpy.state.view import IntColumn, PlainAllocs

NOT_NEEDED = "alloc not needed due to job update"
MIGRATING = "alloc is being migrated"
RESCHEDULED = "alloc was rescheduled because it failed"
NODE_DOWN = "alloc is lost since its node is down"
OUT_OF_REACH = "alloc is unknown since its node is disconnected"
RETURNED = "alloc not needed due to disconnected client reconnect"
UPDATING = "alloc is being updated due to job update"

UpdateKind = Callable[[Allocation], str]
"""``ignore``, ``in-place`` or ``destructive`` for an allocation that stays wanted."""


class Cause(Enum):
    """Why a new allocation follows an old one."""

    LOST = "lost"
    MIGRATE = "migrate"
    RESCHEDULE = "reschedule"
    UPDATE = "update"
    DISCONNECT = "disconnect"


class Replacement(msgspec.Struct, frozen=True):
    """An allocation that another one follows, under the same name. ``same_version``: in the version of the job that the
    old one ran, because the new version is not trusted yet."""

    alloc: Allocation
    cause: Cause
    same_version: bool = False
    canary: bool = False


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
    canaries: tuple[int, ...] = ()
    in_place: list[Allocation] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    unknown: list[Allocation] = field(default_factory=list)  # their node is out of reach from now on
    expiries: list[Later] = field(default_factory=list)  # when those will be lost
    stopping: list[Later] = field(default_factory=list)  # when lost ones have certainly ended
    returned: list[Allocation] = field(default_factory=list)
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
        return len(self.replace) + len(self.fresh) + len(self.canaries)


class NeedsRecords(Exception):
    """Something has to be decided about allocations of which only the number is known."""


_NOBODY: IntColumn = np.zeros(0, dtype=np.int64)
_NONE = PlainAllocs(_NOBODY, _NOBODY, _NOBODY)


class Reconciler:
    """Compares what a service or batch job wants with what it has. ``job`` is None when it was purged; ``node_of``
    answers the node of an allocation, None when it is gone. What it finds to do is noted in ``rollout``."""

    def __init__(
        self,
        job: Job | None,
        evaluation: Evaluation,
        *,
        batch: bool,
        now_ns: int,
        node_of: Callable[[str], Node | None],
        update_kind: UpdateKind,
        rollout: Rollout,
    ) -> None:
        self._job = job if job is not None and not job.stop else None
        self._batch = batch
        self._now_ns = now_ns
        self._update_kind = update_kind
        self._rollout = rollout
        self._plain: Mapping[str, PlainAllocs] = {}
        self._sorter = Sorter(self._job, evaluation, batch=batch, now_ns=now_ns, node_of=node_of, rollout=rollout)

    def reconcile(
        self, allocs: Iterable[Allocation], plain: Mapping[str, PlainAllocs] | None = None
    ) -> list[GroupChanges]:
        """The changes per group: those of the job in its order, then those that only allocations still name. ``plain``
        are further allocations that nothing has to be decided about; raises NeedsRecords when something has to be."""
        self._plain = plain or {}
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
            if alloc.server_terminal() and not alloc.client_terminal() and self._sorter.is_lost(alloc):
                changes.lose(alloc)
        if group is None or group.count <= 0:
            self._stop_all(changes, allocs)
            return changes
        self._change(changes, group, allocs)
        return changes

    def _stop_all(self, changes: GroupChanges, allocs: Sequence[Allocation]) -> None:
        for alloc in allocs:
            if not alloc.terminal():
                changes.stop(alloc, NODE_DOWN if self._sorter.is_lost(alloc) else NOT_NEEDED)
        changes.desired = DesiredUpdates(stop=len(changes.stops))

    # --- changes ---------------------------------------------------------------------------------------------------

    def _change(self, changes: GroupChanges, group: TaskGroup, allocs: Sequence[Allocation]) -> None:
        found = self._sorter.sort(self._without_stale_canaries(changes, allocs))
        self._settle_returned(changes, found, allocs)
        self._settle_disconnected(changes, found, allocs)
        away = len(found.away)
        state = self._rollout.state(group.name)
        placed = frozenset(state.placed_canaries) if state is not None else frozenset()
        canarying = state is not None and state.canarying()
        if canarying:
            self._set_canaries_aside(changes, found, placed)
        plain = self._plain.get(group.name, _NONE)
        names = _names(found)
        for alloc in found.lost:
            changes.stop(alloc, NODE_DOWN)
            ends_ns = stopped_by_ns(alloc, self._now_ns)
            if ends_ns > self._now_ns:
                changes.stopping.append(Later(ends_ns, alloc))
        for alloc in found.drained:
            changes.stop(alloc, MIGRATING)
        if len(plain.names) and (placed or len(found.kept) + len(found.migrate) + len(plain.names) > group.count):
            raise NeedsRecords
        self._stop_surplus(changes, group, found, frozenset() if canarying else placed)
        for alloc in found.migrate:
            changes.stop(alloc, MIGRATING)
        replace, missing = self._replacements(changes, group, found)
        ignored, destructive = self._update(changes, found)
        lacking = self._lacking_canaries(group, found, destructive)
        self._rollout.note(
            GroupWork(
                group=group,
                place=len(replace) + missing,
                destructive=len(destructive),
                in_place=tuple(changes.in_place),
                other=len(found.migrate) + len(found.later) + lacking,
                canaries=self._canary_count(group) if lacking else 0,
                had_running=group.name in self._plain or self._had_running(allocs),
            )
        )
        if lacking and not self._rollout.frozen:
            taken = names.union(plain.names.tolist())
            changes.canaries = _canary_indexes(lacking, destructive, found.canaries, taken, group.count)
        canarying = canarying or lacking > 0
        if found.still_stopping:
            # It may still run where nobody can see it, and two of it must not.
            missing, replace = 0, []
        missing, replace = self._allowed(missing, replace, canarying)
        held = np.fromiter(names, dtype=np.int64)
        changes.fresh = free_indexes(np.concatenate([held, plain.names]) if missing else (), missing)
        updated = destructive[: self._update_limit(group, found, destructive, len(replace) + missing, canarying)]
        moving = [Replacement(alloc, Cause.MIGRATE) for alloc in found.migrate]
        first = [self._in_its_version(each) if canarying else each for each in moving + replace]
        changes.replace = first + [Replacement(alloc, Cause.UPDATE) for alloc in updated]
        changes.later = found.later
        changes.desired = DesiredUpdates(
            ignore=len(plain.names) + ignored + away + len(found.canaries) + len(destructive) - len(updated),
            place=len(replace) + missing,
            migrate=len(found.migrate),
            stop=len(changes.stops) - len(found.migrate),
            in_place_update=len(changes.in_place),
            destructive_update=len(updated),
            canary=len(changes.canaries),
            reschedule_now=sum(each.cause is Cause.RESCHEDULE for each in replace),
            reschedule_later=len(found.later),
            disconnect=len(changes.unknown),
            reconnect=len(changes.returned),
        )

    # --- nodes out of reach ----------------------------------------------------------------------------------------

    def _settle_returned(self, changes: GroupChanges, found: Sorted, allocs: Sequence[Allocation]) -> None:
        """Decides which one stays where an allocation has come back: itself, or what took its place."""
        assert self._job is not None
        lost = {alloc.id for alloc in found.lost}
        by_id = {alloc.id: alloc for alloc in allocs if alloc.id not in lost}
        gone: set[str] = set()
        for alloc in found.reconnecting:
            rivals = [each for each in replacements_of(alloc, by_id) if each.id not in gone]
            failed = alloc.client_status == FAILED
            if alloc.id in gone:
                continue
            if rivals and (failed or is_outdated(alloc, self._job) or not _keeps(alloc, rivals)):
                changes.stop(alloc, RETURNED)
            elif failed:
                self._sorter.sort_over(alloc, found)
            elif alloc.desired_transition.migrate:
                found.migrate.append(alloc)
            else:
                found.kept.append(alloc)
                changes.returned.append(alloc)
                gone.update(rival.id for rival in rivals)
                for rival in rivals:
                    if not rival.client_terminal() or rival.client_status == FAILED:
                        changes.stop(rival, RETURNED)
        for held in (found.kept, found.migrate, found.reschedule, found.disconnecting, found.away):
            held[:] = [alloc for alloc in held if alloc.id not in gone]
        found.later[:] = [later for later in found.later if later.alloc.id not in gone]
        changes.returned = [alloc for alloc in changes.returned if alloc.id not in gone]

    def _settle_disconnected(self, changes: GroupChanges, found: Sorted, allocs: Sequence[Allocation]) -> None:
        """Notes what is out of reach from now on, and finds what needs somebody in its place meanwhile."""
        by_id = {alloc.id: alloc for alloc in allocs}
        changes.unknown = list(found.disconnecting)
        for alloc in found.disconnecting:
            if lost_after_ns(alloc) > 0:
                changes.expiries.append(Later(expires_ns(alloc, self._now_ns), alloc))
        for alloc in found.lost:
            if replacements_of(alloc, by_id):
                changes.stop(alloc, NODE_DOWN)
        found.lost[:] = [alloc for alloc in found.lost if not replacements_of(alloc, by_id)]
        out_of_reach, found.away = [*found.disconnecting, *found.away], []
        for alloc in out_of_reach:
            if replacements_of(alloc, by_id):
                found.away.append(alloc)
            elif is_replaced(alloc) and not self._rollout.holds_back(alloc) and self._sorter.is_cut_off(alloc):
                found.cut_off.append(alloc)
            else:
                found.kept.append(alloc)

    def _allowed(self, missing: int, replace: list[Replacement], canarying: bool) -> tuple[int, list[Replacement]]:
        """What of it may be placed now: while the deployment stands still only what keeps the old state alive, and
        nothing ever again for what failed in a failed deployment."""
        rollout = self._rollout
        if not (rollout.frozen or canarying):
            return missing, replace
        return 0, [r for r in replace if r.cause is Cause.LOST or not (rollout.failed and rollout.owns(r.alloc))]

    def _update_limit(
        self, group: TaskGroup, found: Sorted, destructive: Sequence[Allocation], placing: int, canarying: bool
    ) -> int:
        strategy = self._rollout.strategy(group)
        if strategy is None:
            return len(destructive)
        if self._rollout.frozen or canarying:
            return 0
        undecided = self._plain.get(group.name, _NONE).undecided
        return max(self._rollout.limit(strategy, found.kept, undecided) - placing, 0)

    # --- canaries --------------------------------------------------------------------------------------------------

    def _lacking_canaries(self, group: TaskGroup, found: Sorted, destructive: Sequence[Allocation]) -> int:
        """How many canaries are to be started before anything that runs is touched."""
        strategy, state = self._rollout.strategy(group), self._rollout.state(group.name)
        if strategy is None or not destructive or (state is not None and state.promoted):
            return 0
        return max(strategy.canary - len(found.canaries) - _count_canaries([*found.reschedule, *found.cut_off]), 0)

    def _canary_count(self, group: TaskGroup) -> int:
        strategy = self._rollout.strategy(group)
        return strategy.canary if strategy is not None else 0

    def _without_stale_canaries(self, changes: GroupChanges, allocs: Sequence[Allocation]) -> list[Allocation]:
        """Stops the canaries that no deployment will promote any more; answers the other allocations."""
        left = []
        for alloc in allocs:
            if not self._rollout.is_stale_canary(alloc):
                left.append(alloc)
            elif not alloc.terminal():
                changes.stop(alloc, NODE_DOWN if self._sorter.is_lost(alloc) else NOT_NEEDED)
        return left

    def _set_canaries_aside(self, changes: GroupChanges, found: Sorted, ids: frozenset[str]) -> None:
        """Takes canaries out of the counted classes. One that is lost or must move is only stopped: another one is
        started in its stead."""
        for held, description in ((found.lost, NODE_DOWN), (found.migrate, MIGRATING)):
            for alloc in held:
                if alloc.id in ids:
                    changes.stop(alloc, description)
            held[:] = [alloc for alloc in held if alloc.id not in ids]
        found.canaries = [alloc for alloc in found.kept if alloc.id in ids]
        found.kept = [alloc for alloc in found.kept if alloc.id not in ids]

    def _in_its_version(self, replacement: Replacement) -> Replacement:
        alloc = replacement.alloc
        if is_canary(alloc):
            return msgspec.structs.replace(replacement, canary=True)
        return msgspec.structs.replace(replacement, same_version=True)

    def _had_running(self, allocs: Iterable[Allocation]) -> bool:
        """Whether an allocation of the current version exists, over or not."""
        job = self._job
        assert job is not None
        version = (job.version, job.create_index)
        return any(a.job is not None and (a.job.version, a.job.create_index) == version for a in allocs)

    # --- counts ----------------------------------------------------------------------------------------------------

    def _replacements(self, changes: GroupChanges, group: TaskGroup, found: Sorted) -> tuple[list[Replacement], int]:
        """Which failed and lost allocations are placed anew, and how many more are missing up to the count."""
        existing = len(self._plain.get(group.name, _NONE).names)
        existing += len(found.kept) + len(found.migrate) + len(found.drained)
        replace: list[Replacement] = []
        for cause, allocs in (
            (Cause.RESCHEDULE, found.reschedule),
            (Cause.DISCONNECT, found.cut_off),
            (Cause.LOST, [*found.lost, *found.lost_before]),
        ):
            for alloc in sorted(allocs, key=lambda each: each.index):
                if is_canary(alloc) and cause is not Cause.LOST:
                    replace.append(Replacement(alloc, cause))
                elif existing < group.count:
                    existing += 1
                    replace.append(Replacement(alloc, cause))
                elif cause is Cause.RESCHEDULE and not alloc.server_terminal():
                    changes.stop(alloc, NOT_NEEDED)
        return replace, max(group.count - existing, 0)

    def _stop_surplus(self, changes: GroupChanges, group: TaskGroup, found: Sorted, promoted: frozenset[str]) -> None:
        """Takes what is more than the count out of ``found``: migrating ones first, then failed ones (which only hold
        a place), then the highest numbers. Finished batch work cannot be stopped and stays counted. A promoted canary
        takes the place of whatever has its name, so that no two are left with the same one."""
        twins = {alloc.index for alloc in found.kept if alloc.id in promoted}
        for held in (found.migrate, found.kept):
            self._discard(changes, found, held, [a for a in held if a.index in twins and a.id not in promoted])
        surplus = sum(alloc.id not in found.unseen for alloc in found.kept) + len(found.migrate) - group.count
        for held in (found.migrate, found.kept):
            if surplus <= 0:
                return
            stoppable = [a for a in held if a.id not in found.unseen and (not a.terminal() or _holds_a_place(a))]
            gone = sorted(stoppable, key=lambda each: (not each.terminal(), -each.index))[:surplus]
            self._discard(changes, found, held, gone)
            surplus -= len(gone)

    def _discard(
        self, changes: GroupChanges, found: Sorted, held: list[Allocation], gone: Sequence[Allocation]
    ) -> None:
        for alloc in gone:
            changes.stop(alloc, NOT_NEEDED)
        ids = {alloc.id for alloc in gone}
        held[:] = [alloc for alloc in held if alloc.id not in ids]
        found.later[:] = [later for later in found.later if later.alloc.id not in ids]

    def _update(self, changes: GroupChanges, found: Sorted) -> tuple[int, list[Allocation]]:
        """Sorts out who is updated how; answers how many are left alone, and those to replace in name order."""
        ignored, destructive = 0, []
        for alloc in found.kept:
            kind = self._update_kind(alloc)
            if kind == "destructive" and not (self._batch and alloc.terminal()):
                destructive.append(alloc)
            elif kind == "in-place" and not alloc.terminal() and alloc.id not in found.unseen:
                changes.in_place.append(alloc)
            else:
                ignored += 1
        return ignored, sorted(destructive, key=lambda each: each.index)


def _keeps(alloc: Allocation, rivals: Iterable[Allocation]) -> bool:
    return all(keeps_original(alloc, rival) for rival in rivals)


def _names(found: Sorted) -> set[int]:
    """The numbers in use. Canaries share those of the allocations that they will replace."""
    every = (found.kept, found.migrate, found.drained, found.lost, found.lost_before, found.reschedule, found.canaries)
    return {alloc.index for held in (*every, found.cut_off) for alloc in held}


def _count_canaries(allocs: Iterable[Allocation]) -> int:
    return sum(map(is_canary, allocs))


def _canary_indexes(
    lacking: int, destructive: Iterable[Allocation], canaries: Iterable[Allocation], names: set[int], count: int
) -> tuple[int, ...]:
    """The numbers of new canaries: those of the allocations to be replaced, then numbers from the count on."""
    taken = {alloc.index for alloc in canaries}
    indexes = [alloc.index for alloc in destructive if alloc.index not in taken][:lacking]
    beyond = free_indexes([*names, *range(count)], lacking - len(indexes))
    return (*indexes, *beyond.tolist())


def _holds_a_place(alloc: Allocation) -> bool:
    """Whether the allocation failed and is kept because it waits or has no attempts left."""
    return alloc.client_status == FAILED and not alloc.server_terminal()
