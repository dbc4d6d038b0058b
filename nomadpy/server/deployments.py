"""What has to be done about deployments, decided from the state alone.

The scheduler moves a deployment on; somebody has to call it. After an allocation became healthy an evaluation is due
that starts the next wave; after one became unhealthy it may be placed anew, or the deployment has failed; canaries may
be promoted by themselves; and nobody waits longer than the progress deadline. Nothing is remembered between two looks,
so a new leader goes on where the old one stopped: whether an evaluation is due follows from the newest index that an
evaluation of the job has seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import msgspec

from nomadpy.model.alloc import FAILED, DesiredTransition
from nomadpy.model.change import spec_equal
from nomadpy.model.evaluation import (
    DEPLOYMENT_FAILED,
    DEPLOYMENT_PROGRESS_TEXT,
    DEPLOYMENT_RUNNING,
    DEPLOYMENT_SUCCESSFUL,
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
from nomadpy.model.time import SECOND
from nomadpy.scheduler.reschedule import may_reschedule, policy_of
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT
from nomadpy.state.apply.deployments import healthy_canaries
from nomadpy.state.store import StateStore

_AGAIN_NS = 10 * SECOND  # a proposal that led to nothing by then is made again


class Step(msgspec.Struct, frozen=True):
    """What to propose now, and for each deployment that waits for a moment when that is (Unix nanoseconds)."""

    commands: tuple[c.Command, ...] = ()
    wakes: dict[str, int] = {}
    busy: tuple[str, ...] = ()  # the deployments that the commands are about

    @property
    def wake_at_ns(self) -> int | None:
        """When to look again although nothing changed; None for never."""
        return min(self.wakes.values(), default=None)


class _Reports(msgspec.Struct):
    """What the nodes said of a deployment's allocations."""

    healthy_index: int = 0  # the newest log index at which one became healthy
    failing: dict[str, bool] = {}  # group → whether it reverts; groups whose failure ends the deployment
    to_replace: list[str] = []


class DeploymentWatch:
    """Which deployments are worth a look: those that changed, whose allocations reported, for whose job an evaluation
    came or went, or whose moment has come. It only spares work; ``begin`` makes a new leader look at all."""

    def __init__(self) -> None:
        self._due: dict[str, None] = {}
        self._wakes: dict[str, int] = {}

    def begin(self, store: StateStore) -> None:
        """Has every active deployment looked at."""
        self._due = {found.id: None for found in store.deployments.values() if found.active()}
        self._wakes = {}

    def note(self, store: StateStore) -> bool:
        """Takes down what the last entry of the log changed; tells whether that concerns a deployment."""
        touched = dict.fromkeys(store.changed_deployments)
        for eval_id in store.changed_evals:
            evaluation = store.evals.get(eval_id)
            if evaluation is not None:
                touched |= store.deployments_by_job.get((evaluation.namespace, evaluation.job_id), {})
        found = False
        for deployment_id in touched:
            deployment = store.deployments.get(deployment_id)
            if deployment is not None and (deployment.active() or _just_succeeded(store, deployment)):
                self._due[deployment_id] = None
                found = True
            else:
                if deployment is None or deployment.status != DEPLOYMENT_SUCCESSFUL:
                    self._due.pop(deployment_id, None)
                self._wakes.pop(deployment_id, None)
        return found

    @property
    def has_due(self) -> bool:
        """Whether a look would find anything new."""
        return bool(self._due)

    @property
    def wake_at_ns(self) -> int | None:
        """When the next moment comes; None when nothing waits for one."""
        return min(self._wakes.values(), default=None)

    def look(self, store: StateStore, *, now_ns: int, rng: random.Random) -> Step:
        """What is to be proposed now. If it should get lost, the same is proposed again a while later."""
        due = {**self._due, **{each: None for each, at_ns in self._wakes.items() if at_ns <= now_ns}}
        self._due = {}
        step = decide(store, now_ns=now_ns, rng=rng, ids=due)
        for deployment_id in due:
            self._wakes.pop(deployment_id, None)
        self._wakes |= step.wakes
        self._wakes |= dict.fromkeys(step.busy, now_ns + _AGAIN_NS)
        return step


def _just_succeeded(store: StateStore, deployment: Deployment) -> bool:
    return deployment.status == DEPLOYMENT_SUCCESSFUL and deployment.modify_index == store.index


def _left_failed(store: StateStore, deployment: Deployment) -> bool:
    """Whether an allocation that had been healthy failed and was not placed anew: while the deployment ran nothing was
    done about it, so it is now."""
    table = store.allocs
    key = (deployment.namespace, deployment.job_id)
    return any(
        CLIENT[table.client[row]] == FAILED and table.desired[row] == 0 and table.extra(row).next < 0
        for row in table.rows_by_deployment(deployment.id, key)
    )


def decide(store: StateStore, *, now_ns: int, rng: random.Random, ids: Iterable[str] | None = None) -> Step:
    """What deployments (all, or some by id) need now. The same state and time lead to the same step; ``rng`` only makes
    ids."""
    commands: list[c.Command] = []
    evals: list[Evaluation] = []
    transitions: dict[str, DesiredTransition] = {}
    wakes: dict[str, int] = {}
    busy: list[str] = []
    for deployment_id in store.deployments if ids is None else ids:
        deployment = store.deployments.get(deployment_id)
        if deployment is not None and deployment.status == DEPLOYMENT_SUCCESSFUL:
            if _left_failed(store, deployment) and _seen_index(store, deployment, now_ns) < deployment.modify_index:
                evals.append(evaluation_for(store, deployment, now_ns=now_ns, rng=rng))
            continue
        if deployment is None or not deployment.active():
            continue
        reports = _read_reports(store, deployment)
        command = _turn(store, deployment, reports, now_ns=now_ns)
        if command is not None:
            evaluation = evaluation_for(store, deployment, now_ns=now_ns, rng=rng)
            commands.append(msgspec.structs.replace(command, now_ns=now_ns, evals=(evaluation,)))
            busy.append(deployment_id)
            continue
        deadline_ns = min((state.require_progress_by_ns for state in _pressed(deployment)), default=None)
        if deadline_ns is not None:
            wakes[deployment_id] = deadline_ns
        transitions |= {alloc_id: DesiredTransition(reschedule=True) for alloc_id in reports.to_replace}
        if reports.to_replace or reports.healthy_index > _seen_index(store, deployment, now_ns):
            evals.append(evaluation_for(store, deployment, now_ns=now_ns, rng=rng))
            busy.append(deployment_id)
    if transitions:
        commands.append(c.UpdateAllocTransitions(now_ns=now_ns, transitions=transitions, evals=tuple(evals)))
    elif evals:
        commands.append(c.UpdateEvals(now_ns=now_ns, evals=tuple(evals)))
    return Step(tuple(commands), wakes, tuple(busy))


def _turn(
    store: StateStore, deployment: Deployment, reports: _Reports, *, now_ns: int
) -> c.ChangeDeployment | c.PromoteDeployment | None:
    """The command that ends or promotes the deployment; None when neither is due."""
    ending = _end(store, deployment, reports, now_ns)
    if ending is None and _promotes_itself(store, deployment):
        return c.PromoteDeployment(deployment_id=deployment.id)
    return ending


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
    if not any(state.healthy_allocs or state.unhealthy_allocs for state in deployment.task_groups.values()):
        return reports
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
