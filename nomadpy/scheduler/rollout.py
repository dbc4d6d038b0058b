"""The deployment of a job's version, as one evaluation finds it and leaves it.

A deployment is opened by the first evaluation of a version that has something to place or to change, and covers all
groups whose update strategy paces them (``max_parallel`` above zero). The state counts what becomes of its allocations;
here it is only asked how far the next step may go: nowhere while it is paused, has failed or waits for its canaries,
else as many updates at a time as the strategy says. When nothing is left to do it is declared successful.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec

from nomadpy.model.alloc import Allocation
from nomadpy.model.change import spec_equal
from nomadpy.model.evaluation import (
    DEPLOYMENT_CANCELLED,
    DEPLOYMENT_FAILED,
    DEPLOYMENT_JOB_STOPPED_TEXT,
    DEPLOYMENT_NEWER_JOB_TEXT,
    DEPLOYMENT_PAUSED,
    DEPLOYMENT_RUNNING,
    DEPLOYMENT_SUCCESSFUL,
    DEPLOYMENT_SUCCESSFUL_TEXT,
    Deployment,
    DeploymentState,
)
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job, TaskGroup, UpdateStrategy
from nomadpy.state.commands import DeploymentUpdate


class GroupWork(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation finds to do for a group, whether or not it may do it now."""

    group: TaskGroup
    place: int
    destructive: int
    in_place: tuple[Allocation, ...]
    other: int  # migrations, reschedules, missing canaries
    canaries: int  # how many canaries the group begins with
    had_running: bool  # an allocation of this very version exists
    # For groups that run everywhere: how many allocations belong to the deployment, and whether all are healthy. Nodes
    # come and go, so what was wanted at first says little.
    own: int | None = None
    settled: bool = True


class Rollout:
    """See the module's text. ``job`` is None when it was purged; ``paced`` is False for batch jobs."""

    def __init__(self, job: Job | None, latest: Deployment | None, *, paced: bool) -> None:
        self._job = job
        self._paced = paced
        self._updates: list[DeploymentUpdate] = []
        self._current = self._settle_latest(latest)
        self._work: list[GroupWork] = []
        self._opened: Deployment | None = None
        self._same: dict[int, bool] = {}

    def _settle_latest(self, latest: Deployment | None) -> Deployment | None:
        """The deployment of the job's current version; an active one of anything else is cancelled."""
        if latest is None:
            return None
        job = self._job
        if job is None or job.stop:
            self._close(latest, DEPLOYMENT_CANCELLED, DEPLOYMENT_JOB_STOPPED_TEXT)
            return None
        if (latest.job_version, latest.job_create_index) != (job.version, job.create_index):
            self._close(latest, DEPLOYMENT_CANCELLED, DEPLOYMENT_NEWER_JOB_TEXT)
            return None
        return None if latest.status in (DEPLOYMENT_SUCCESSFUL, DEPLOYMENT_CANCELLED) else latest

    def _close(self, deployment: Deployment, status: str, description: str) -> None:
        if deployment.active():
            self._updates.append(DeploymentUpdate(deployment_id=deployment.id, status=status, description=description))

    # --- what the reconciler asks ----------------------------------------------------------------------------------

    def strategy(self, group: TaskGroup) -> UpdateStrategy | None:
        """How the group is paced; None when everything may change at once."""
        update = group.update if self._paced else None
        return update if update is not None and update.max_parallel > 0 else None

    def state(self, group: str) -> DeploymentState | None:
        """How far the group is in the deployment of this version."""
        return self._current.task_groups.get(group) if self._current is not None else None

    @property
    def failed(self) -> bool:
        """Whether this version's deployment failed, so that nothing more is changed for it."""
        return self._current is not None and self._current.status == DEPLOYMENT_FAILED

    @property
    def frozen(self) -> bool:
        """Whether the deployment lets nothing new begin."""
        return self.failed or (self._current is not None and self._current.status == DEPLOYMENT_PAUSED)

    def owns(self, alloc: Allocation) -> bool:
        """Whether the allocation was placed for the deployment of this version."""
        return self._current is not None and alloc.deployment_id == self._current.id

    def is_stale_canary(self, alloc: Allocation) -> bool:
        """Whether the allocation is a canary that nobody promoted, of a deployment that is over."""
        health = alloc.deployment_status
        return health is not None and health.canary and not (self.owns(alloc) and not self.failed)

    def holds_back(self, alloc: Allocation) -> bool:
        """Whether a failed allocation must wait for the deployment's watcher before it is placed anew."""
        wishes = alloc.desired_transition
        return self.owns(alloc) and not self.failed and not (wishes.reschedule or wishes.force_reschedule)

    def limit(self, strategy: UpdateStrategy, kept: Iterable[Allocation], undecided: int = 0) -> int:
        """How many allocations may be in the middle of a change: what is not yet known to be healthy counts, also
        ``undecided`` that are not in ``kept``, and an unhealthy one stops everything. Asked only while nothing freezes
        the deployment."""
        left = strategy.max_parallel - (undecided if self._current is not None else 0)
        for alloc in kept:
            if self.owns(alloc):
                healthy = alloc.deployment_status.healthy if alloc.deployment_status is not None else None
                if healthy is False:
                    return 0
                left -= healthy is None
        return max(left, 0)

    def note(self, work: GroupWork) -> None:
        """Takes down what there is to do for a group; to be called once for each group of the job."""
        self._work.append(work)

    # --- what comes of it ------------------------------------------------------------------------------------------

    def close(self, *, eval_priority: int, now_ns: int, rng: random.Random) -> None:
        """Opens the deployment if it is needed, or ends it if everything is done."""
        members = [work for work in self._work if self._joins(work)]
        if self._job is not None and any(self._calls_for_one(work) for work in members):
            groups = {work.group.name: self._new_state(work) for work in members}
            base = self._current or new_deployment(new_uuid(rng), self._job, eval_priority=eval_priority, now_ns=now_ns)
            self._opened = self._current = base.replace(task_groups={**groups, **base.task_groups})
        self._follow_nodes()
        if self._opened is None and self._is_done():
            assert self._current is not None
            self._close(self._current, DEPLOYMENT_SUCCESSFUL, DEPLOYMENT_SUCCESSFUL_TEXT)

    def first_states(self, work: GroupWork) -> dict[str, DeploymentState]:
        """How a job's only group begins in the deployment that its work opens; empty when it opens none."""
        opens = self._joins(work) and self._calls_for_one(work)
        return {work.group.name: self._new_state(work)} if opens else {}

    def _follow_nodes(self) -> None:
        """Groups that run everywhere want as many allocations as there are nodes now."""
        current = self._current
        if current is None or not current.active() or self._opened is not None:
            return
        totals = {}
        for work in self._work:
            state = self.state(work.group.name)
            if work.own is not None and state is not None:
                total = work.own + work.place + work.destructive + len(work.in_place)
                if total != state.desired_total:
                    totals[work.group.name] = total
        if totals:
            self._updates.append(DeploymentUpdate(deployment_id=current.id, desired_totals=totals))

    def _joins(self, work: GroupWork) -> bool:
        if self.strategy(work.group) is None or self.state(work.group.name) is not None or self.frozen:
            return False
        changes = work.destructive + len(work.in_place)
        return changes > 0 or (work.place > 0 and not work.had_running)

    def _calls_for_one(self, work: GroupWork) -> bool:
        """A change of counts that places nothing is no roll-out, though allocations take over the new version."""
        return work.place > 0 or work.destructive > 0 or any(not self._same_but_counts(a) for a in work.in_place)

    def _same_but_counts(self, alloc: Allocation) -> bool:
        assert self._job is not None
        if alloc.job is None or alloc.job.version + 1 < self._job.version:
            return False  # Another version was in between: going back to one is a roll-out, and makes it stable.
        known = self._same.get(alloc.job.version)
        if known is None:
            known = self._same[alloc.job.version] = spec_equal(_uncounted(alloc.job), _uncounted(self._job))
        return known

    def _new_state(self, work: GroupWork) -> DeploymentState:
        strategy = self.strategy(work.group)
        assert strategy is not None
        return DeploymentState(
            auto_revert=strategy.auto_revert,
            auto_promote=strategy.auto_promote,
            progress_deadline_ns=strategy.progress_deadline_ns,
            desired_canaries=work.canaries,
            desired_total=work.place + work.destructive + len(work.in_place),
        )

    def _is_done(self) -> bool:
        current = self._current
        if current is None or current.status != DEPLOYMENT_RUNNING:
            return False
        idle = all(not (w.place or w.destructive or w.in_place or w.other) for w in self._work)
        everywhere = {w.group.name: w.settled for w in self._work if w.own is not None}
        return idle and all(
            everywhere[name] and not state.canarying() if name in everywhere else state.complete()
            for name, state in current.task_groups.items()
        )

    @property
    def opened(self) -> Deployment | None:
        """The deployment to store with the plan, new or with more groups."""
        return self._opened

    @property
    def updates(self) -> tuple[DeploymentUpdate, ...]:
        """Deployments that end with the plan."""
        return tuple(self._updates)

    @property
    def deployment_id(self) -> str:
        """The deployment that the evaluation worked for."""
        return self._current.id if self._current is not None else ""

    def deployment_id_of(self, group: str) -> str:
        """The deployment that new allocations of a group belong to; "" for none."""
        current = self._current
        return current.id if current is not None and current.active() and group in current.task_groups else ""


def new_deployment(deployment_id: str, job: Job, *, eval_priority: int, now_ns: int) -> Deployment:
    """A deployment of the job's version that begins, without groups yet."""
    return Deployment(
        id=deployment_id,
        namespace=job.namespace,
        job_id=job.id,
        job_version=job.version,
        job_modify_index=job.modify_index,
        job_spec_modify_index=job.job_modify_index,
        job_create_index=job.create_index,
        status=DEPLOYMENT_RUNNING,
        eval_priority=eval_priority,
        create_time_ns=now_ns,
        modify_time_ns=now_ns,
    )


def _uncounted(job: Job) -> Job:
    return job.replace(task_groups=tuple(group.replace(count=0) for group in job.task_groups))
