"""Deployments: how their counters follow the allocations, and what people and the watcher do to them.

The counters are facts about what was placed and reported; they only ever grow, except when an allocation's health is
turned round. Whoever decides on a deployment reads them and proposes a change of status; the status says when a change
comes too late.
"""

from __future__ import annotations

from collections.abc import Iterable

from nomadpy.model.alloc import AllocDeploymentStatus
from nomadpy.model.errors import Conflict, NotFound
from nomadpy.model.evaluation import (
    DEPLOYMENT_FAILED,
    DEPLOYMENT_PAUSED,
    DEPLOYMENT_RUNNING,
    DEPLOYMENT_SUCCESSFUL,
    Deployment,
    DeploymentState,
    Evaluation,
)
from nomadpy.model.job import Job
from nomadpy.model.validate import multi_error
from nomadpy.state import commands as c
from nomadpy.state.apply.evals import put_evals, refresh_status
from nomadpy.state.apply.jobs import register
from nomadpy.state.store import StateStore

_VERBS = {DEPLOYMENT_FAILED: "fail", DEPLOYMENT_PAUSED: "pause", DEPLOYMENT_RUNNING: "resume"}


# --- what plans do ----------------------------------------------------------------------------------------------------


def open_groups(store: StateStore, index: int, now_ns: int, planned: Deployment) -> None:
    """Stores a new deployment, or adds to a stored one the groups that it lacks; counters that moved since the plan was
    made stay."""
    old = store.deployments.get(planned.id)
    if old is not None:
        planned = old.replace(task_groups={**planned.task_groups, **old.task_groups})
    if planned.status == DEPLOYMENT_RUNNING:
        planned = planned.replace(status_description=planned.running_text())
    _put(store, index, now_ns, planned)


def change_status(store: StateStore, index: int, now_ns: int, update: c.DeploymentUpdate) -> None:
    """Gives an active deployment another status; success makes its version of the job stable."""
    old = store.deployments.get(update.deployment_id)
    if old is None or not old.active():
        return
    if update.desired_totals:
        totals = {name: total for name, total in update.desired_totals.items() if name in old.task_groups}
        groups = {name: old.task_groups[name].replace(desired_total=total) for name, total in totals.items()}
        old = old.replace(task_groups={**old.task_groups, **groups})
        _put(store, index, now_ns, old)
    if not update.status:
        return
    _put(store, index, now_ns, old.replace(status=update.status, status_description=update.description))
    if update.status != DEPLOYMENT_SUCCESSFUL:
        return
    job = store.jobs.version((old.namespace, old.job_id), old.job_version)
    if job is not None and job.create_index == old.job_create_index and not job.stable:
        store.jobs.rewrite(job.replace(stable=True, modify_index=index))
        store.touch("jobs", "job_version")


def count_placed(
    store: StateStore, index: int, now_ns: int, row: int, *, count: int = 1, canary_rows: Iterable[int] = ()
) -> None:
    """Counts ``count`` consecutive allocations, the first in ``row``, that joined the deployment of that row."""
    deployment, group, state = _state_of(store, row)
    if deployment is None or state is None:
        return
    canaries = tuple(store.allocs.ids.uuid(canary) for canary in canary_rows)
    progress_by_ns = state.require_progress_by_ns
    if state.progress_deadline_ns and not progress_by_ns:
        progress_by_ns = now_ns + state.progress_deadline_ns
    state = state.replace(
        placed_allocs=state.placed_allocs + count,
        placed_canaries=state.placed_canaries + canaries,
        require_progress_by_ns=progress_by_ns,
    )
    _put_state(store, index, now_ns, deployment, group, state)


def set_health(store: StateStore, index: int, now_ns: int, row: int, status: AllocDeploymentStatus) -> None:
    """Records whether an allocation is healthy, and counts it in its deployment."""
    extra = store.allocs.edit(row)
    before = extra.deployment_status.healthy if extra.deployment_status is not None else None
    canary = extra.deployment_status is not None and extra.deployment_status.canary
    extra.deployment_status = status.replace(canary=canary, modify_index=index)
    deployment, group, state = _state_of(store, row)
    if deployment is None or state is None or status.healthy == before:
        return
    state = state.replace(
        healthy_allocs=state.healthy_allocs + (status.healthy is True) - (before is True),
        unhealthy_allocs=state.unhealthy_allocs + (status.healthy is False) - (before is False),
    )
    if status.healthy and state.progress_deadline_ns:
        progress_by_ns = (status.timestamp_ns or now_ns) + state.progress_deadline_ns
        state = state.replace(require_progress_by_ns=max(state.require_progress_by_ns, progress_by_ns))
    _put_state(store, index, now_ns, deployment, group, state)


def _state_of(store: StateStore, row: int) -> tuple[Deployment | None, str, DeploymentState | None]:
    deployment = store.deployments.get(store.allocs.deployment_id(row))
    group = store.allocs.shape_of(row).group.name
    return deployment, group, deployment.task_groups.get(group) if deployment is not None else None


def _put_state(
    store: StateStore, index: int, now_ns: int, deployment: Deployment, group: str, state: DeploymentState
) -> None:
    _put(store, index, now_ns, deployment.replace(task_groups={**deployment.task_groups, group: state}))


def _put(store: StateStore, index: int, now_ns: int, deployment: Deployment) -> None:
    old = store.deployments.get(deployment.id)
    store.deployments[deployment.id] = deployment.replace(
        create_index=old.create_index if old else index,
        create_time_ns=old.create_time_ns if old else now_ns,
        modify_index=index,
        modify_time_ns=now_ns,
    )
    store.deployments_by_job.setdefault((deployment.namespace, deployment.job_id), {})[deployment.id] = None
    store.changed_deployments.append(deployment.id)
    store.touch("deployments")


# --- commands ---------------------------------------------------------------------------------------------------------


def change(store: StateStore, index: int, command: c.ChangeDeployment) -> dict[str, int | None]:
    """Fails, pauses or resumes a deployment. Returns the version of the job that a rollback made (None: no
    rollback)."""
    update = command.update
    deployment = _active(store, update.deployment_id, f"can't {_VERBS.get(update.status, 'change')}")
    reverted = _roll_back(store, index, command.now_ns, deployment, command.rollback)
    if update.status != DEPLOYMENT_FAILED:
        _restart_clocks(store, index, command.now_ns, deployment)
    change_status(store, index, command.now_ns, update)
    _finish(store, index, command.now_ns, deployment, command.evals)
    return {"reverted_version": reverted}


def _active(store: StateStore, deployment_id: str, cannot: str) -> Deployment:
    deployment = store.deployments.get(deployment_id)
    if deployment is None:
        raise NotFound("deployment not found", status=500)
    if not deployment.active():
        raise Conflict(f"{cannot} terminal deployment")
    return deployment


def _roll_back(store: StateStore, index: int, now_ns: int, deployment: Deployment, rollback: Job | None) -> int | None:
    current = store.jobs.current.get((deployment.namespace, deployment.job_id))
    if rollback is None or current is None or current.stop:
        return None
    if (current.version, current.create_index) != (deployment.job_version, deployment.job_create_index):
        return None
    submission = store.jobs.submissions.get(rollback.key, {}).get(rollback.version)
    fresh = rollback.replace(submit_time_ns=0, stop=False)
    version: int = register(store, index, c.RegisterJob(now_ns=now_ns, job=fresh, submission=submission))["version"]
    return version


def _restart_clocks(store: StateStore, index: int, now_ns: int, deployment: Deployment) -> None:
    groups = {
        name: state.replace(require_progress_by_ns=now_ns + state.progress_deadline_ns)
        if state.progress_deadline_ns
        else state
        for name, state in deployment.task_groups.items()
    }
    _put(store, index, now_ns, deployment.replace(task_groups=groups))


def _finish(store: StateStore, index: int, now_ns: int, deployment: Deployment, evals: tuple[Evaluation, ...]) -> None:
    key = (deployment.namespace, deployment.job_id)
    job = store.jobs.current.get(key)
    if job is not None:
        evals = tuple(evaluation.replace(job_modify_index=job.job_modify_index) for evaluation in evals)
    put_evals(store, index, now_ns, evals)
    refresh_status(store, index, key)


def promote(store: StateStore, index: int, command: c.PromoteDeployment) -> None:
    """Lets groups go on from their canaries; groups without canaries are skipped."""
    deployment = _active(store, command.deployment_id, "can't promote")
    groups = {
        name: state
        for name, state in deployment.task_groups.items()
        if state.desired_canaries > 0 and (not command.groups or name in command.groups)
    }
    problems = []
    for name, state in sorted(groups.items()):
        healthy = len(healthy_canaries(store, state))
        if not state.promoted and healthy < state.desired_canaries:
            problems.append(f'Task group "{name}" has {healthy}/{state.desired_canaries} healthy allocations')
    if problems:
        raise Conflict(multi_error(problems))
    for state in groups.values():
        _clear_canary_flags(store, index, command.now_ns, state)
    promoted = {
        name: state.replace(
            promoted=True,
            require_progress_by_ns=command.now_ns + state.progress_deadline_ns if state.progress_deadline_ns else 0,
        )
        for name, state in groups.items()
    }
    deployment = deployment.replace(task_groups={**deployment.task_groups, **promoted})
    if deployment.status == DEPLOYMENT_RUNNING:
        deployment = deployment.replace(status_description=deployment.running_text())
    _put(store, index, command.now_ns, deployment)
    _finish(store, index, command.now_ns, deployment, command.evals)


def healthy_canaries(store: StateStore, state: DeploymentState) -> list[int]:
    """Rows of a group's canaries that are healthy and not over."""
    rows = (store.allocs.row(alloc_id) for alloc_id in state.placed_canaries)
    live = [row for row in rows if row is not None and store.allocs.is_live(row)]
    return [row for row in live if (health := store.allocs.extra(row).deployment_status) is not None and health.healthy]


def _clear_canary_flags(store: StateStore, index: int, now_ns: int, state: DeploymentState) -> None:
    for alloc_id in state.placed_canaries:
        row = store.allocs.row(alloc_id)
        health = store.allocs.extra(row).deployment_status if row is not None else None
        if row is not None and health is not None and health.canary:
            store.allocs.edit(row).deployment_status = health.replace(canary=False)
            store.allocs.touch(row, index, now_ns, by_server=True)
            store.touch("allocs")


def set_allocs_health(store: StateStore, index: int, command: c.SetAllocsHealth) -> dict[str, int | None]:
    """Takes over an operator's word on allocations. Returns the version of the job that a rollback made (None: no
    rollback)."""
    deployment = _active(store, command.deployment_id, "can't set health of allocations for a")
    rows = {
        alloc_id: _row_in(store, alloc_id, deployment.id)
        for alloc_id in (*command.healthy_alloc_ids, *command.unhealthy_alloc_ids)
    }
    reverted = _roll_back(store, index, command.now_ns, deployment, command.rollback)
    for alloc_ids, healthy in ((command.healthy_alloc_ids, True), (command.unhealthy_alloc_ids, False)):
        for alloc_id in alloc_ids:
            status = AllocDeploymentStatus(healthy=healthy, timestamp_ns=command.now_ns)
            set_health(store, index, command.now_ns, rows[alloc_id], status)
            store.allocs.touch(rows[alloc_id], index, command.now_ns, by_server=True)
            store.touch("allocs")
    if command.update is not None:
        change_status(store, index, command.now_ns, command.update)
    _finish(store, index, command.now_ns, deployment, command.evals)
    return {"reverted_version": reverted}


def _row_in(store: StateStore, alloc_id: str, deployment_id: str) -> int:
    row = store.allocs.row(alloc_id)
    if row is None:
        raise NotFound(f'unknown alloc "{alloc_id}"', status=500)
    if store.allocs.deployment_id(row) != deployment_id:
        raise Conflict(f'alloc "{alloc_id}" is not part of deployment "{deployment_id}"')
    return row
