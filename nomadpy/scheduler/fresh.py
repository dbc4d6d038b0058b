"""Jobs that have nothing yet, by far the most frequent ones when many are registered: what to place needs no look at
classes of allocations. It is what ``reconcile`` finds for an empty list."""

from __future__ import annotations

import numpy as np

from nomadpy.model.evaluation import DesiredUpdates
from nomadpy.model.job import Job
from nomadpy.scheduler.reconcile import GroupChanges
from nomadpy.scheduler.rollout import GroupWork, Rollout


def fresh_changes(job: Job, rollout: Rollout) -> list[GroupChanges]:
    """What is to happen to the groups of a job that wants to run, and has neither allocations nor a deployment."""
    return [_all_of(name, job, rollout) for name in dict.fromkeys(group.name for group in job.task_groups)]


def _all_of(name: str, job: Job, rollout: Rollout) -> GroupChanges:
    group = job.group(name)
    assert group is not None
    changes = GroupChanges(name, group)
    if group.count > 0:
        work = GroupWork(
            group=group, place=group.count, destructive=0, in_place=(), other=0, canaries=0, had_running=False
        )
        rollout.note(work)
        changes.fresh = np.arange(group.count)
        changes.desired = DesiredUpdates(place=group.count)
    return changes
