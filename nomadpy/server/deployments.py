"""What has to be done about deployments, decided from the state alone.

The scheduler moves a deployment on; somebody has to call it. After an allocation became healthy an evaluation is due
that starts the next wave; after one became unhealthy it may be placed anew, or the deployment has failed; canaries may
be promoted by themselves; and nobody waits longer than the progress deadline. Nothing is remembered between two looks,
so a new leader goes on where the old one stopped: whether an evaluation is due follows from the newest index that an
evaluation of the job has seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from nomadpy.model.alloc import FAILED, DesiredTransition
from nomadpy.model.change import spec_equal
from nomadpy.model.evaluation import (
    DEPLOYMENT_FAILED,
    DEPLOYMENT_PROGRESS_TEXT,
    DEPLOYMENT_RUNNING,
    DEPLOYMENT_UNHEALTHY_TEXT,
    EVAL_BLOCKED,
    EVAL_COMPLETE,
    EVAL_FAILED,
    EVAL_PENDING,
    TRIGGER_DEPLOYMENT_WATCHER,
    Deployment,
    DeploymentState,
    Evaluation,
)
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job
from nomadpy.scheduler.reschedule import may_reschedule, policy_of
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT
from nomadpy.state.apply.deployments import healthy_canaries
from nomadpy.state.store import StateStore


class Step(NamedTuple):
    """What to propose now, and when to look again although nothing changed (None: never); Unix nanoseconds."""

    commands: tuple[c.Command, ...]
    wake_at_ns: int | None


class _Reports(msgspec.Struct):
    """What the nodes said of a deployment's allocations."""

    healthy_index: int = 0  # the newest log index at which one became healthy
    failing: dict[str, bool] = {}  # group → whether it reverts; groups whose failure ends the deployment
    to_replace: list[str] = []


def any_active(store: StateStore) -> bool:
    """Whether there is a deployment to watch."""
    return any(deployment.active() for deployment in store.deployments.values())


def decide(store: StateStore, *, now_ns: int, rng: random.Random) -> Step:
    """What the deployments need now. The same state and time lead to the same step; ``rng`` only makes ids."""
    commands: list[c.Command] = []
    evals: list[Evaluation] = []
    transitions: dict[str, DesiredTransition] = {}
    deadlines: list[int] = []
    for deployment in store.deployments.values():
        if not deployment.active():
            continue
        reports = _read_reports(store, deployment)
        ending = _end(store, deployment, reports, now_ns)
        if ending is not None:
            evaluation = evaluation_for(store, deployment, now_ns=now_ns, rng=rng)
            commands.append(msgspec.structs.replace(ending, now_ns=now_ns, evals=(evaluation,)))
            continue
        deadlines += [state.require_progress_by_ns for state in _pressed(deployment)]
        if _promotes_itself(store, deployment):
            evaluation = evaluation_for(store, deployment, now_ns=now_ns, rng=rng)
            commands.append(c.PromoteDeployment(now_ns=now_ns, deployment_id=deployment.id, evals=(evaluation,)))
            continue
        transitions |= {alloc_id: DesiredTransition(reschedule=True) for alloc_id in reports.to_replace}
        if reports.to_replace or reports.healthy_index > _seen_index(store, deployment, now_ns):
            evals.append(evaluation_for(store, deployment, now_ns=now_ns, rng=rng))
    if transitions:
        commands.append(c.UpdateAllocTransitions(now_ns=now_ns, transitions=transitions, evals=tuple(evals)))
    elif evals:
        commands.append(c.UpdateEvals(now_ns=now_ns, evals=tuple(evals)))
    return Step(tuple(commands), min(deadlines, default=None))


def evaluation_for(store: StateStore, deployment: Deployment, *, now_ns: int, rng: random.Random) -> Evaluation:
    """A pending evaluation of a deployment's job."""
    job = store.job(deployment.namespace, deployment.job_id)
    return Evaluation(
        id=new_uuid(rng),
        namespace=deployment.namespace,
        priority=deployment.eval_priority or (job.priority if job is not None else 50),
        type=job.type if job is not None else "service",
        triggered_by=TRIGGER_DEPLOYMENT_WATCHER,
        job_id=deployment.job_id,
        deployment_id=deployment.id,
        status=EVAL_PENDING,
        create_time_ns=now_ns,
        modify_time_ns=now_ns,
    )


# --- allocations ------------------------------------------------------------------------------------------------------


def _read_reports(store: StateStore, deployment: Deployment) -> _Reports:
    table, reports = store.allocs, _Reports()
    for row in table.rows_by_deployment(deployment.id, (deployment.namespace, deployment.job_id)):
        group = table.shape_of(row).group.name
        state, extra = deployment.task_groups.get(group), table.extra(row)
        if state is None or extra.deployment_status is None or extra.deployment_status.healthy is None:
            continue
        if extra.deployment_status.healthy:
            reports.healthy_index = max(reports.healthy_index, extra.deployment_status.modify_index)
        wanted = table.desired[row] == 0
        replaceable = extra.transition is not None and extra.transition.reschedule
        if not wanted or replaceable:
            continue
        if not extra.deployment_status.healthy:
            if _is_fatal(store, row, state):
                reports.failing[group] = state.auto_revert
            else:
                reports.to_replace.append(table.ids.uuid(row))
        elif CLIENT[table.client[row]] == FAILED:
            # It was healthy once and broke later: that speaks for another try, not against the version.
            reports.to_replace.append(table.ids.uuid(row))
    return reports


def _is_fatal(store: StateStore, row: int, state: DeploymentState) -> bool:
    """Whether an unhealthy allocation ends the deployment: nobody waits for progress, or no further try is allowed."""
    if not state.progress_deadline_ns:
        return True
    alloc = store.alloc_at(row)
    policy = policy_of(alloc)
    return policy is None or not may_reschedule(alloc, policy)


def _seen_index(store: StateStore, deployment: Deployment, now_ns: int) -> float:
    """The newest log index that an evaluation of the job has seen or, if one waits to run, will see."""
    newest = 0
    for evaluation in store.job_evals(deployment.namespace, deployment.job_id):
        if evaluation.status == EVAL_PENDING and evaluation.wait_until_ns <= now_ns:
            return float("inf")
        if evaluation.status in (EVAL_COMPLETE, EVAL_BLOCKED):
            newest = max(newest, evaluation.snapshot_index)
        elif evaluation.status == EVAL_FAILED:
            newest = max(newest, evaluation.modify_index)  # whoever gave it up sees to the next one
    return newest


# --- ends -------------------------------------------------------------------------------------------------------------


def _end(store: StateStore, deployment: Deployment, reports: _Reports, now_ns: int) -> c.ChangeDeployment | None:
    if reports.failing:
        return failure(store, deployment, DEPLOYMENT_UNHEALTHY_TEXT, revert=any(reports.failing.values()))
    overdue = [state for state in _pressed(deployment) if state.require_progress_by_ns <= now_ns]
    if overdue:
        revert = any(state.auto_revert for state in overdue)
        return failure(store, deployment, DEPLOYMENT_PROGRESS_TEXT, revert=revert)
    return None


def _pressed(deployment: Deployment) -> Iterator[DeploymentState]:
    """The groups for which the progress deadline counts: not what is done, waits for people, or has placed nothing."""
    if deployment.status != DEPLOYMENT_RUNNING:
        return
    for state in deployment.task_groups.values():
        wanted = state.desired_canaries if state.canarying() else state.desired_total
        if state.progress_deadline_ns and state.require_progress_by_ns and state.healthy_allocs < wanted:
            yield state


def failure(store: StateStore, deployment: Deployment, description: str, *, revert: bool) -> c.ChangeDeployment:
    """The command that fails a deployment and, with ``revert``, brings back the newest stable version of the job; the
    description tells what becomes of that."""
    rollback = None
    if revert:
        suffix, rollback = _rollback(store, deployment)
        description += suffix
    update = c.DeploymentUpdate(deployment_id=deployment.id, status=DEPLOYMENT_FAILED, description=description)
    return c.ChangeDeployment(update=update, rollback=rollback)


def _rollback(store: StateStore, deployment: Deployment) -> tuple[str, Job | None]:
    key = (deployment.namespace, deployment.job_id)
    current = store.job(*key)
    stable = max((job for job in store.jobs.versions.get(key, ()) if job.stable), key=lambda j: j.version, default=None)
    if stable is None or current is None:
        return " - no stable job version to auto revert to", None
    if spec_equal(stable, current):
        text = f" - not rolling back to stable job version {stable.version} as current job has same specification"
        return text, None
    return f" - rolling back to job version {stable.version}", stable


# --- promotion --------------------------------------------------------------------------------------------------------


def _promotes_itself(store: StateStore, deployment: Deployment) -> bool:
    """Whether all groups with canaries promote themselves and all of these canaries are healthy."""
    waiting = [state for state in deployment.task_groups.values() if state.canarying()]
    if deployment.status != DEPLOYMENT_RUNNING or not waiting:
        return False
    return all(
        state.auto_promote and len(healthy_canaries(store, state)) >= state.desired_canaries for state in waiting
    )
