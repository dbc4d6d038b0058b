"""Whether an allocation that stays wanted is left alone, changed in place, or replaced."""

from __future__ import annotations

from nomadpy.model.alloc import Allocation
from nomadpy.model.diff import group_update_kind
from nomadpy.model.job import Job
from nomadpy.scheduler.eligibility import eligibility
from nomadpy.scheduler.fleet import Fleet

IGNORE, IN_PLACE, DESTRUCTIVE = "ignore", "in-place", "destructive"


class UpdateKinds:
    """Answers for the allocations of one job; versions are compared once, however many allocations run them."""

    def __init__(self, fleet: Fleet, job: Job) -> None:
        self._fleet = fleet
        self._job = job
        self._by_version: dict[tuple[int, str], str] = {}

    def kind(self, alloc: Allocation) -> str:
        """``ignore``, ``in-place`` or ``destructive``. A change that could be made in place is destructive when the
        node no longer suits the job."""
        old = alloc.job
        if old is None:
            return DESTRUCTIVE
        if (old.job_modify_index, old.create_index) == (self._job.job_modify_index, self._job.create_index):
            return IGNORE
        key = old.job_modify_index, alloc.task_group
        kind = self._by_version.get(key)
        if kind is None:
            kind = self._by_version[key] = self._compare(old, alloc.task_group)
        if kind == DESTRUCTIVE or self.suits(alloc):
            return kind
        return DESTRUCTIVE

    def _compare(self, old: Job, group_name: str) -> str:
        kind = group_update_kind(old, self._job, group_name)
        # An equal group of a changed job still has to take over the new version.
        return IN_PLACE if kind == IGNORE else kind

    def suits(self, alloc: Allocation) -> bool:
        """Whether the allocation's node may run the job's current version, readiness aside."""
        group = self._job.group(alloc.task_group)
        number = self._fleet.number(alloc.node_id)
        if group is None or number < 0:
            return False
        return bool(eligibility(self._fleet.facts, self._job, group).suitable[number])
