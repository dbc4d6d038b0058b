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

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.demand import group_demand
from nomadpy.model.evaluation import EVAL_BLOCKED, EVAL_COMPLETE, DeploymentState, DesiredUpdates, Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.decision import Decision
from nomadpy.scheduler.eligibility import eligibility
from nomadpy.scheduler.extras import wants_extras
from nomadpy.scheduler.facts import Facts
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.front import Choice
from nomadpy.scheduler.grains import UNIT
from nomadpy.scheduler.placement import FEW, scores_of_new
from nomadpy.scheduler.rollout import GroupWork, Rollout, new_deployment
from nomadpy.scheduler.standing import TOP_SCORES
from nomadpy.state.commands import Newcomers, PlaceBlock, PlanResult
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
        self.states = _states(facts, job, group) if group.update is not None and job.type != "batch" else {}

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
        and not (_has_affinities(group) or wants_extras(group))
    )


def _has_affinities(group: TaskGroup) -> bool:
    if len(group.tasks) == 1:
        return bool(group.tasks[0].affinities)
    return any(task.affinities for task in group.tasks)


def _kind_of(facts: Facts, job: Job) -> _Kind:
    known = facts.newcomers
    kind = cast(_Kind | None, known.get(id(job.task_groups)))
    if kind is None or not kind.is_of(job):
        if len(known) >= _KINDS_KEPT:
            known.clear()
        # As long as it is kept its groups live, so that nothing else can have their identity.
        kind = known[id(job.task_groups)] = _Kind(facts, job)
    return kind


class Newcomer:
    """What comes of a job that has nothing: where its allocations go, and the id of its deployment, "" for none."""

    __slots__ = ("choice", "deployment_id", "evaluation", "job", "kind")

    def __init__(self, evaluation: Evaluation, job: Job, kind: _Kind, choice: Choice, deployment_id: str) -> None:
        self.evaluation, self.job, self.kind, self.choice = evaluation, job, kind, choice
        self.deployment_id = deployment_id

    @property
    def placed(self) -> int:
        """How many allocations it gets."""
        return len(self.choice.nodes)


def look(fleet: Fleet, evaluation: Evaluation, job: Job, *, rng: random.Random) -> Newcomer | None:
    """What comes of a job that has no allocations and never had a deployment; None when it has to go the long way. To
    be kept with ``Fleet.keep`` before anything else is asked of the fleet."""
    if job.stop or evaluation.status == EVAL_BLOCKED:
        return None
    kind = _kind_of(fleet.facts, job)
    if not kind.plain:
        return None
    tell = TOP_SCORES if fleet.tables_left > 0 else 1
    count = kind.group.count
    choice = fleet.choose(kind.demand, kind.pool, kind.mask, count, desired=float(count), tell=tell)
    if choice is None:
        return None
    fleet.tables_left -= 1
    return Newcomer(evaluation, job, kind, choice, new_uuid(rng) if kind.states else "")


class Together:
    """Newcomers of one batch, as the columns that their plans travel in."""

    def __init__(self) -> None:
        self._eval_ids: list[str] = []
        self._versions: list[int] = []
        self._counts: list[int] = []
        self._nodes: list[int] = []
        self._states: dict[DeploymentState, int] = {}
        self._state_of: list[int] = []
        self._deployment_ids: list[str] = []
        self._metrics: dict[int, tuple[int, AllocMetric]] = {}
        self._metric_of: list[int] = []
        self._told: list[int] = []
        self._told_nodes: list[int] = []
        self._told_ranks: list[float] = []

    def __len__(self) -> int:
        return len(self._eval_ids)

    def add(self, newcomer: Newcomer) -> None:
        """Takes one more in."""
        kind, choice = newcomer.kind, newcomer.choice
        self._eval_ids.append(newcomer.evaluation.id)
        self._versions.append(newcomer.job.version)
        self._counts.append(len(choice.nodes))
        self._nodes += choice.nodes
        if kind.states:
            state = kind.states[kind.group.name]
            self._state_of.append(self._states.setdefault(state, len(self._states) + 1))
            self._deployment_ids.append(newcomer.deployment_id)
        else:
            self._state_of.append(0)
        metric = kind.eligible.metric
        self._metric_of.append(self._metrics.setdefault(id(metric), (len(self._metrics), metric))[0])
        self._told.append(len(choice.best))
        for number, rank in choice.best:
            self._told_nodes.append(number)
            self._told_ranks.append(rank)

    def columns(self) -> Newcomers:
        """All of them."""
        return Newcomers(
            eval_ids=tuple(self._eval_ids),
            job_versions=_packed(self._versions),
            counts=_packed(self._counts),
            nodes=_packed(self._nodes),
            states=tuple(self._states),
            state_of=_packed(self._state_of),
            deployment_ids=tuple(self._deployment_ids),
            metrics=tuple(metric for _, metric in self._metrics.values()),
            metric_of=_packed(self._metric_of),
            told=bytes(self._told),
            told_nodes=_packed(self._told_nodes),
            told_scores=(np.array(self._told_ranks, dtype="<f8") / UNIT).tobytes(),
        )


def _packed(numbers: list[int]) -> bytes:
    return np.array(numbers, dtype="<u4").tobytes()


def decide(
    view: StateView, fleet: Fleet, evaluation: Evaluation, job: Job, *, now_ns: int, rng: random.Random
) -> Decision | None:
    """The decision about a job that has no allocations; None when it has to go the long way."""
    if view.latest_deployment(job.namespace, job.id) is not None:
        return None
    newcomer = look(fleet, evaluation, job, rng=rng)
    if newcomer is None:
        return None
    kind, choice, deployment_id = newcomer.kind, newcomer.choice, newcomer.deployment_id
    group, runs = kind.group, choice.runs
    counts = _ONES if len(runs) == 1 == group.count else np.array([run.count for run in runs.values()])
    taken = Taken(np.array(list(runs)), counts, kind.demand)
    fleet.offer(taken, choice)
    deployment = None
    if kind.states:
        deployment = new_deployment(deployment_id, job, eval_priority=evaluation.priority, now_ns=now_ns)
        deployment = deployment.replace(task_groups=kind.states)
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


def _states(facts: Facts, job: Job, group: TaskGroup) -> dict[str, DeploymentState]:
    """How the group begins in the deployment of a job that is new; empty when it gets none. Remembered, as nothing else
    than this counts."""
    key = ("states", group.name, group.count, group.update)
    found = cast(dict[str, DeploymentState] | None, facts.memo.get(key))
    if found is None:
        work = GroupWork(
            group=group, place=group.count, destructive=0, in_place=(), other=0, canaries=0, had_running=False
        )
        if len(facts.memo) >= _KINDS_KEPT:
            facts.memo.clear()
        found = facts.memo[key] = Rollout(job, None, paced=True).first_states(work)
    return found
