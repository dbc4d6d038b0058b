"""Scaling a group, dispatching parameterized jobs, forcing periodic ones, and the dry run of a registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nomadpy.model.admission import warnings_text
from nomadpy.model.caller import Caller
from nomadpy.model.cron import next_launch
from nomadpy.model.diff import annotate, diff_jobs, spec_equal
from nomadpy.model.errors import Conflict, Invalid, NotFound
from nomadpy.model.evaluation import TRIGGER_JOB_REGISTER, TRIGGER_JOB_SCALING, Evaluation
from nomadpy.model.explanation import Capacity
from nomadpy.model.job import Job, ScalingEvent, TaskGroup
from nomadpy.model.time import SECOND
from nomadpy.scheduler import Fleet, explain_plan, schedule
from nomadpy.server.handlers.capacity import capacity
from nomadpy.server.handlers.jobs import JobHandlers
from nomadpy.server.messages import (
    JobDispatchRequest,
    JobDispatchResponse,
    JobPlanRequest,
    JobPlanResponse,
    JobRegisterResponse,
    JobScaleRequest,
    PeriodicForceResponse,
)
from nomadpy.server.periodic import launch
from nomadpy.state import commands as c
from nomadpy.state.overlay import Overlay

if TYPE_CHECKING:
    from nomadpy.server.server import Server

PAYLOAD_BYTES_MAX = 16 * 1024


class LaunchHandlers:
    """See the module's text."""

    def __init__(self, server: Server, jobs: JobHandlers) -> None:
        self._server = server
        self._jobs = jobs

    # --- dry run -----------------------------------------------------------------------------------------------------

    def plan(
        self, caller: Caller, request: JobPlanRequest, *, namespace: str = "", job_id: str | None = None
    ) -> JobPlanResponse:
        """What registering the job would change, by the real scheduler on the state as it is; nothing is stored."""
        server = self._server
        if not request.job:
            raise Invalid("Job must be specified")
        job, warnings = self._jobs.prepare(
            caller, request.job, namespace=namespace or request.namespace, without_id="Job must have a valid ID"
        )
        if job_id is not None and job.id != job_id:
            raise Invalid("Job ID does not match")
        caller.require(job.namespace, "submit-job", "plan-job")
        old = server.store.job(*job.key)
        candidate = self._candidate(job, old)
        evaluation = server.new_eval(
            namespace=job.namespace, job_id=job.id, type=job.type, priority=job.priority, trigger=TRIGGER_JOB_REGISTER
        ).replace(job_modify_index=candidate.job_modify_index, annotate_plan=True)
        view = Overlay(server.store, candidate)
        decision = schedule(view, evaluation, now_ns=server.wall_ns(), rng=server.rng, fleet=Fleet(view), annotate=True)
        diff = None
        if request.diff:
            diff = annotate(diff_jobs(old, job, contextual=True), decision.desired)
        room = None
        if request.capacity or request.without or request.with_:
            room = capacity(server.store, view, candidate, decision, without=request.without, extra=request.with_)
        periodic = job.periodic
        return JobPlanResponse(
            annotations=decision.evaluation.plan_annotations,
            failed_tg_allocs=decision.evaluation.failed_tg_allocs,
            job_modify_index=old.job_modify_index if old else 0,
            created_evals=decision.created,
            diff=diff,
            next_periodic_launch_ns=next_launch(periodic, server.wall_ns()) if periodic and periodic.enabled else 0,
            warnings=warnings_text(warnings),
            index=old.job_modify_index if old else 0,
            why=explain_plan(view, candidate, decision) if request.why else {},
            capacity=room,
        )

    def capacity(
        self, caller: Caller, namespace: str, job_id: str, *, without: Sequence[str] = (), extra: Sequence[str] = ()
    ) -> Capacity:
        """How many more of each group of a registered job would fit now. ``without`` are nodes by id, beginning of an
        id, or name; ``extra`` describes nodes that do not exist, as ``CPU,MEM×N``. Raises Invalid (400) for others."""
        caller.require(namespace, "read-job")
        job = self._jobs.job(namespace, job_id)
        return capacity(self._server.store, self._server.store, job, None, without=without, extra=extra)

    def _candidate(self, job: Job, old: Job | None) -> Job:
        if old is not None and spec_equal(old, job):
            return old
        index = self._server.store.index + 1
        return job.replace(
            version=old.version + 1 if old else 0,
            create_index=old.create_index if old else index,
            modify_index=index,
            job_modify_index=index,
            submit_time_ns=self._server.wall_ns(),
        )

    # --- scale -------------------------------------------------------------------------------------------------------

    async def scale(self, caller: Caller, namespace: str, job_id: str, request: JobScaleRequest) -> JobRegisterResponse:
        """Sets a group's count as a new version of the job, or without a count only notes an event."""
        caller.require(namespace, "scale-job", "submit-job")
        self._jobs.check_enabled(caller)
        group_name = request.target.get("Group", "")
        self._check_scale_request(namespace, job_id, request, group_name)
        job = self._server.store.job(namespace, job_id)
        if job is None:
            raise NotFound(f'job "{job_id}" not found')
        group = job.group(group_name)
        if group is None:
            raise Invalid(f'task group "{group_name}" specified for scaling does not exist in job')
        modify_index = request.job_modify_index
        if modify_index and modify_index != job.job_modify_index:
            raise Conflict(
                f"Enforcing job modify index {modify_index}: job exists with conflicting job modify index: "
                f"{job.job_modify_index}"
            )
        event = ScalingEvent(
            time_ns=self._server.wall_ns(),
            count=request.count,
            previous_count=group.count,
            message=request.message,
            error=request.error,
            meta=request.meta,
        )
        if request.count is None:
            outcome = await self._server.propose(
                c.RecordScalingEvent(
                    now_ns=event.time_ns, namespace=namespace, job_id=job_id, group=group_name, event=event
                )
            )
            return JobRegisterResponse(job_modify_index=job.job_modify_index, index=outcome.index)
        return await self._set_count(job, group, request.count, event)

    async def _set_count(self, job: Job, group: TaskGroup, count: int, event: ScalingEvent) -> JobRegisterResponse:
        self._check_count(job, group, count)
        groups = tuple(g.replace(count=count) if g.name == group.name else g for g in job.task_groups)
        evals: tuple[Evaluation, ...] = ()
        if not job.is_periodic() and not job.is_parameterized():
            evals = (
                self._server.new_eval(
                    namespace=job.namespace,
                    job_id=job.id,
                    type=job.type,
                    priority=job.priority,
                    trigger=TRIGGER_JOB_SCALING,
                ),
            )
        outcome = await self._server.propose(
            c.RegisterJob(
                now_ns=event.time_ns,
                job=job.replace(task_groups=groups, submit_time_ns=0),
                submission=self._server.store.jobs.submissions.get(job.key, {}).get(job.version),
                evals=evals,
                enforce_index=job.job_modify_index,
                scaling_event=event.replace(eval_id=evals[0].id if evals else None),
                scaling_group=group.name,
            )
        )
        return JobRegisterResponse(
            eval_id=evals[0].id if evals else "",
            eval_create_index=outcome.index if evals else 0,
            job_modify_index=outcome.value["job_modify_index"],
            index=outcome.index,
        )

    def _check_scale_request(self, namespace: str, job_id: str, request: JobScaleRequest, group: str) -> None:
        if request.target.get("Job", job_id) != job_id:
            raise Invalid("job ID in payload did not match URL")
        if request.target.get("Namespace", namespace) != namespace:
            raise Invalid("namespace in payload did not match header")
        if not group:
            raise Invalid("missing task group name for scaling action")
        if request.error and request.count is not None:
            raise Invalid("scaling action should not contain count if error is true")
        if request.count is not None and request.count < 0:
            raise Invalid("scaling action count can't be negative")

    def _check_count(self, job: Job, group: TaskGroup, count: int) -> None:
        if job.type == "system" and count > 1:
            raise Invalid('jobs of type "system" can only be scaled between 0 and 1')
        deployment = self._server.store.latest_deployment(*job.key)
        if deployment is not None and deployment.active():
            raise Invalid("job scaling blocked due to active deployment")
        policy = group.scaling
        if policy is not None and count < policy.min:
            raise Invalid(f"group count was less than scaling policy minimum: {count} < {policy.min}")
        if policy is not None and count > policy.max:
            raise Invalid(f"group count was greater than scaling policy maximum: {count} > {policy.max}")

    # --- dispatch, periodic force ------------------------------------------------------------------------------------

    async def dispatch(
        self,
        caller: Caller,
        namespace: str,
        job_id: str,
        request: JobDispatchRequest,
        *,
        idempotency_token: str = "",
    ) -> JobDispatchResponse:
        """Runs a child of a parameterized job with its own payload and meta."""
        caller.require(namespace, "dispatch-job")
        self._jobs.check_enabled(caller)
        if request.job_id and request.job_id != job_id:
            raise Invalid("Job ID does not match")
        parent = self._server.store.job(namespace, job_id)
        if parent is None:
            raise NotFound("parameterized job not found", status=500)
        self._check_dispatch(parent, request)
        existing = self._dispatched_before(parent, idempotency_token)
        if existing is not None:
            return JobDispatchResponse(
                dispatched_job_id=existing.id, job_create_index=existing.create_index, index=self._server.store.index
            )
        child = self._child(parent, request, idempotency_token)
        evals: tuple[Evaluation, ...] = ()
        if not child.is_periodic():
            evals = (
                self._server.new_eval(
                    namespace=namespace,
                    job_id=child.id,
                    type=child.type,
                    priority=child.priority,
                    trigger=TRIGGER_JOB_REGISTER,
                ),
            )
        outcome = await self._server.propose(
            c.RegisterJob(now_ns=self._server.wall_ns(), job=child, evals=evals, enforce_index=0)
        )
        return JobDispatchResponse(
            dispatched_job_id=child.id,
            eval_id=evals[0].id if evals else "",
            eval_create_index=outcome.index if evals else 0,
            job_create_index=outcome.index,
            index=outcome.index,
        )

    def _check_dispatch(self, parent: Job, request: JobDispatchRequest) -> None:
        if not parent.is_parameterized() or parent.parameterized_job is None:
            raise Invalid(f'Specified job "{parent.id}" is not a parameterized job', status=500)
        if parent.stop:
            raise Invalid(f'Specified job "{parent.id}" is stopped', status=500)
        rule = parent.parameterized_job
        if rule.payload == "required" and not request.payload:
            raise Invalid("Payload is not provided but required by parameterized job", status=500)
        if rule.payload == "forbidden" and request.payload:
            raise Invalid("Payload provided but forbidden by parameterized job", status=500)
        if len(request.payload) > PAYLOAD_BYTES_MAX:
            text = f"Payload exceeds maximum size; {len(request.payload)} > {PAYLOAD_BYTES_MAX}"
            raise Invalid(text, status=500)
        allowed = {*rule.meta_required, *rule.meta_optional}
        unpermitted = sorted(key for key in request.meta if key not in allowed)
        if unpermitted:
            text = f"Dispatch request included unpermitted metadata keys: [{' '.join(unpermitted)}]"
            raise Invalid(text, status=500)
        missing = [key for key in rule.meta_required if key not in request.meta]
        if missing:
            raise Invalid(f"Dispatch did not provide required meta keys: [{' '.join(missing)}]", status=500)
        highest = self._server.config.job_max_priority
        if request.priority and not 1 <= request.priority <= highest:
            raise Invalid(f"dispatch job priority must be between [1, {highest}]", status=500)

    def _dispatched_before(self, parent: Job, token: str) -> Job | None:
        if not token:
            return None
        store = self._server.store
        children = (store.job(parent.namespace, child) for child in store.jobs.children.get(parent.key, {}))
        return next((job for job in children if job and job.dispatch_idempotency_token == token), None)

    def _child(self, parent: Job, request: JobDispatchRequest, token: str) -> Job:
        now_ns = self._server.wall_ns()
        prefix = f"{request.id_prefix_template}-" if request.id_prefix_template else ""
        child_id = f"{parent.id}/dispatch-{prefix}{now_ns // SECOND}-{self._server.rng.getrandbits(32):08x}"
        return parent.replace(
            id=child_id,
            name=child_id,
            parent_id=parent.id,
            dispatched=True,
            dispatch_idempotency_token=token,
            payload=request.payload,
            meta={**parent.meta, **request.meta},
            priority=request.priority or parent.priority,
            **_fresh_bookkeeping(),
        )

    async def force_periodic(self, caller: Caller, namespace: str, job_id: str) -> PeriodicForceResponse:
        """Launches a child of a periodic job now."""
        caller.require(namespace, "submit-job", "dispatch-job", "force-periodic-job")
        job = self._jobs.job(namespace, job_id, status=500)
        if job.periodic is None:
            raise Invalid("can't force launch non-periodic job", status=500)
        if job.stop:
            raise Invalid(f'can\'t force launch stopped job "{job_id}"', status=500)
        command = launch(self._server, job, self._server.wall_ns())
        outcome = await self._server.propose(command)
        return PeriodicForceResponse(eval_id=command.evals[0].id, eval_create_index=outcome.index, index=outcome.index)


def _fresh_bookkeeping() -> dict[str, Any]:
    return {
        "status": "",
        "stable": False,
        "version": 0,
        "version_tag": None,
        "submit_time_ns": 0,
        "create_index": 0,
        "modify_index": 0,
        "job_modify_index": 0,
    }
