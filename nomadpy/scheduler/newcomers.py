"""Jobs that have nothing yet and ask for nothing special: the many of a large submission.

For such a job ``schedule`` knows what will come of it before it begins: nothing stops, nothing is replaced, one group
gets all its allocations among the front runners of its ask (``front.py``). So the decision is written down at once,
equal in every field to what the long way leads to. Whatever does not fit into this, among it a cluster that has no room
for all of them, is left to the long way.

What is known of a group is kept by the identity of the job's groups: jobs that were registered together and differ
only in their ids share them.
"""

from __future__ import annotations

import random
from typing import cast

import numpy as np

from nomadpy.model.demand import group_demand
from nomadpy.model.evaluation import EVAL_BLOCKED, EVAL_COMPLETE, DesiredUpdates, Evaluation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.decision import Decision
from nomadpy.scheduler.eligibility import eligibility
from nomadpy.scheduler.extras import wants_extras
from nomadpy.scheduler.facts import Facts
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.placement import FEW, scores_of_new
from nomadpy.scheduler.rollout import GroupWork, Rollout
from nomadpy.scheduler.standing import TOP_SCORES
from nomadpy.state.commands import PlaceBlock, PlanResult
from nomadpy.state.view import StateView

_KINDS_KEPT = 4096
_NAMES = np.arange(FEW, dtype="<u4").tobytes()
_ONES = np.ones(1, dtype=np.int64)


class _Kind:
    """What jobs with the same group have in common. ``plain``: whether they can go the short way at all."""

    def __init__(self, facts: Facts, job: Job) -> None:
        self.groups, self.constraints, self.datacenters = job.task_groups, job.constraints, job.datacenters
        self.spreads, self.affinities = job.spreads, job.affinities
        self.type, self.pool = job.type, job.node_pool
        group = self.group = job.task_groups[0] if len(job.task_groups) == 1 else TaskGroup()
        self.plain = len(job.task_groups) == 1 and _is_plain(job, group)
        if not self.plain:
            return
        self.eligible = eligibility(facts, job, group)
        mask = self.eligible.mask_bytes()
        self.plain = mask is not None and not self.eligible.distinct
        self.mask = mask or b""
        self.demand = group_demand(group)
        self.names = _NAMES[: 4 * group.count]
        self.desired = {group.name: DesiredUpdates(place=group.count)}
        self.queued = {group.name: 0}
        update = group.update if job.type != "batch" else None
        self.paced = update is not None and update.max_parallel > 0

    def is_of(self, job: Job) -> bool:
        """Whether the job is of this kind, as far as its parts are the same objects."""
        return (
            self.groups is job.task_groups
            and self.constraints is job.constraints
            and self.datacenters is job.datacenters
            and self.spreads is job.spreads
            and self.affinities is job.affinities
            and self.type == job.type
            and self.pool == job.node_pool
        )


def _is_plain(job: Job, group: TaskGroup) -> bool:
    return (
        job.type in ("service", "batch")
        and 0 < group.count <= FEW
        and not (job.spreads or group.spreads or job.affinities or group.affinities or group.volumes)
        and not any(task.affinities for task in group.tasks)
        and not wants_extras(group)
    )


def _kind_of(facts: Facts, job: Job) -> _Kind:
    known = facts.newcomers
    kind = cast(_Kind | None, known.get(id(job.task_groups)))
    if kind is None or not kind.is_of(job):
        if len(known) >= _KINDS_KEPT:
            known.clear()
        # As long as it is kept its groups live, so that nothing else can have their identity.
        kind = known[id(job.task_groups)] = _Kind(facts, job)
    return kind


def decide(
    view: StateView, fleet: Fleet, evaluation: Evaluation, job: Job, *, now_ns: int, rng: random.Random
) -> Decision | None:
    """The decision about a job that has no allocations; None when it has to go the long way."""
    if job.stop or evaluation.status == EVAL_BLOCKED or view.latest_deployment(job.namespace, job.id) is not None:
        return None
    kind = _kind_of(fleet.facts, job)
    if not kind.plain:
        return None
    group = kind.group
    tell = TOP_SCORES if fleet.tables_left > 0 else 1
    desired = float(group.count)
    choice = fleet.choose(kind.demand, kind.pool, kind.mask, group.count, desired=desired, tell=tell)
    if choice is None:
        return None
    fleet.tables_left -= 1
    runs = choice.runs
    counts = _ONES if len(runs) == 1 == group.count else np.array([run.count for run in runs.values()])
    taken = Taken(np.array(list(runs)), counts, kind.demand)
    fleet.offer(taken, choice)
    deployment = None
    if kind.paced:
        rollout = Rollout(job, None, paced=True)
        rollout.note(_work(group))
        rollout.close(eval_priority=evaluation.priority, now_ns=now_ns, rng=rng)
        deployment = rollout.opened
    deployment_id = deployment.id if deployment is not None else ""
    block = PlaceBlock(
        namespace=job.namespace,
        job_id=job.id,
        job_version=job.version,
        group=group.name,
        eval_id=evaluation.id,
        deployment_id=deployment_id,
        nodes=np.array(choice.nodes, dtype="<u4").tobytes(),
        name_indexes=kind.names,
        metrics=scores_of_new(fleet, kind.eligible, choice.best),
    )
    plan = PlanResult(
        eval_id=evaluation.id,
        namespace=evaluation.namespace,
        job_id=evaluation.job_id,
        all_at_once=job.all_at_once,
        places=(block,),
        deployment=deployment,
    )
    done = evaluation.replace(
        status=EVAL_COMPLETE,
        status_description="",
        failed_tg_allocs={},
        queued_allocations=kind.queued,
        plan_annotations=None,
        deployment_id=deployment_id,
        snapshot_index=view.index,
        modify_time_ns=now_ns,
    )
    return Decision(plan=plan, evaluation=done, desired=kind.desired, placed=group.count, usage=(taken,))


def _work(group: TaskGroup) -> GroupWork:
    return GroupWork(group=group, place=group.count, destructive=0, in_place=(), other=0, canaries=0, had_running=False)
