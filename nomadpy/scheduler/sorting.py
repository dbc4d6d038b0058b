"""The allocations of a group by what they are: kept, migrating, lost, failed, out of reach, over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nomadpy.model.alloc import COMPLETE, FAILED, LOST, PENDING, UNKNOWN, Allocation
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job
from nomadpy.model.node import DISCONNECTED, DOWN, Node
from nomadpy.scheduler.classes import Class, classify
from nomadpy.scheduler.disconnect import lost_after_ns, stopped_by_ns
from nomadpy.scheduler.reschedule import NO_PLACEMENT, Later, due_ns
from nomadpy.scheduler.rollout import Rollout


@dataclass
class Sorted:
    """The allocations of a group by class; what is over and done with is in none."""

    kept: list[Allocation] = field(default_factory=list)
    migrate: list[Allocation] = field(default_factory=list)
    drained: list[Allocation] = field(default_factory=list)
    lost: list[Allocation] = field(default_factory=list)
    lost_before: list[Allocation] = field(default_factory=list)  # and the wait for their end is over
    reschedule: list[Allocation] = field(default_factory=list)
    later: list[Later] = field(default_factory=list)
    canaries: list[Allocation] = field(default_factory=list)
    disconnecting: list[Allocation] = field(default_factory=list)
    away: list[Allocation] = field(default_factory=list)
    reconnecting: list[Allocation] = field(default_factory=list)
    cut_off: list[Allocation] = field(default_factory=list)  # out of reach, and another one takes its place
    unseen: set[str] = field(default_factory=set)  # ids of those of which nobody knows what they do
    still_stopping: bool = False  # a lost allocation may still run where no server can see it


class Sorter:
    """Sorts the allocations of one job."""

    def __init__(
        self,
        job: Job | None,
        evaluation: Evaluation,
        *,
        batch: bool,
        now_ns: int,
        node_of: Callable[[str], Node | None],
        rollout: Rollout,
    ) -> None:
        self._job = job
        self._evaluation = evaluation
        self._batch = batch
        self._now_ns = now_ns
        self._node_of = node_of
        self._rollout = rollout

    def is_lost(self, alloc: Allocation) -> bool:
        """Whether nobody will hear of the allocation again."""
        node = self._node_of(alloc.node_id)
        if node is None or node.status == DOWN:
            return True
        return node.status == DISCONNECTED and (alloc.client_status == PENDING or lost_after_ns(alloc) <= 0)

    def is_cut_off(self, alloc: Allocation) -> bool:
        """Whether its node is out of reach now; one that returned may report it any moment."""
        node = self._node_of(alloc.node_id)
        return node is None or node.status in (DOWN, DISCONNECTED)

    def sort(self, allocs: Iterable[Allocation]) -> Sorted:
        """The allocations of a group that is wanted."""
        found = Sorted()
        plain = {
            Class.KEPT: found.kept,
            Class.LOST: found.lost,
            Class.DISCONNECTING: found.disconnecting,
            Class.AWAY: found.away,
            Class.RECONNECTING: found.reconnecting,
        }
        for alloc in allocs:
            if alloc.client_status == UNKNOWN:
                found.unseen.add(alloc.id)
            kind = classify(alloc, self._node_of(alloc.node_id), self._now_ns)
            if kind in plain:
                plain[kind].append(alloc)
            elif kind is Class.MIGRATING:
                stays_away = self._batch and alloc.desired_transition.migrate_disable_placement
                (found.drained if stays_away else found.migrate).append(alloc)
            elif kind is Class.OVER:
                self.sort_over(alloc, found)
        found.unseen.update(alloc.id for alloc in found.disconnecting)
        found.still_stopping |= any(stopped_by_ns(alloc, self._now_ns) > self._now_ns for alloc in found.lost)
        return found

    def sort_over(self, alloc: Allocation, found: Sorted) -> None:
        """An allocation that ended: counted as done, placed anew, or forgotten."""
        if alloc.next_allocation or (self._batch and self._is_older(alloc)):
            return
        if alloc.client_status == LOST:
            self._sort_lost_before(alloc, found)
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
        self._sort_failed(alloc, found)

    def _sort_failed(self, alloc: Allocation, found: Sorted) -> None:
        held = self._rollout.holds_back(alloc)
        due = None if held else due_ns(alloc, eval_id=self._evaluation.id, now_ns=self._now_ns)
        if due == 0:
            found.reschedule.append(alloc)
            return
        # It keeps its place in the count while it waits, and for good when its attempts are used up.
        found.kept.append(alloc)
        if due is not None and not alloc.followup_eval_id:
            found.later.append(Later(due, alloc))

    def _sort_lost_before(self, alloc: Allocation, found: Sorted) -> None:
        """A lost allocation that its node stops by itself is waited for; the evaluation for the end of that wait
        places what follows it."""
        ends_ns = stopped_by_ns(alloc, self._now_ns)
        if ends_ns > self._now_ns:
            found.still_stopping = True
        elif ends_ns and alloc.followup_eval_id and alloc.followup_eval_id == self._evaluation.id:
            found.lost_before.append(alloc)

    def _is_older(self, alloc: Allocation) -> bool:
        old, new = alloc.job, self._job
        assert new is not None
        return old is None or old.version < new.version or old.create_index < new.create_index


def _succeeded(alloc: Allocation) -> bool:
    """Whether a stopped allocation had done its work."""
    return bool(alloc.task_states) and all(state.successful() for state in alloc.task_states.values())
