"""Registering, stopping, evaluating and reverting jobs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from nomadpy.model.admission import admit, warnings_text, without_memory_max
from nomadpy.model.alloc import FAILED, DesiredTransition
from nomadpy.model.caller import Caller
from nomadpy.model.canonical import JobDefaults, job_from_input
from nomadpy.model.errors import Conflict, Forbidden, Invalid, NotFound
from nomadpy.model.evaluation import (
    TRIGGER_JOB_DEREGISTER,
    TRIGGER_JOB_REGISTER,
    Evaluation,
)
from nomadpy.model.job import Job, JobSubmission, JobVersionTag
from nomadpy.model.node import pool_config
from nomadpy.model.validate import JobLimits, multi_error, validate
from nomadpy.server.alike import Shape, Shapes
from nomadpy.server.messages import (
    JobDeregisterResponse,
    JobEvaluateRequest,
    JobRegisterRequest,
    JobRegisterResponse,
    JobRevertRequest,
    JobStabilityRequest,
    JobTagRequest,
    JobTagResponse,
    JobValidateResponse,
)
from nomadpy.state import commands as c

if TYPE_CHECKING:
    from nomadpy.server.server import Server

_DISABLED = "Job registration, dispatch, and scale are disabled by the scheduler configuration"


class JobHandlers:
    """See the module's text. ``namespace`` is the one that the query string names, "" when it names none."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._shapes = Shapes()

    # --- registration ------------------------------------------------------------------------------------------------

    async def register(
        self, caller: Caller, request: JobRegisterRequest, *, namespace: str = "", job_id: str | None = None
    ) -> JobRegisterResponse:
        """Stores the job and an evaluation for it. ``job_id`` is the path's, when the path has one. Raises Invalid
        with status 500 and Nomad's list of errors when the job does not validate."""
        job, warnings = self.prepare(caller, request.job, namespace=namespace or request.namespace, job_id=job_id)
        command, notes = self.registration(caller, request, job)
        outcome = await self._server.propose(command)
        evals = command.evals
        return JobRegisterResponse(
            eval_id=evals[0].id if evals else "",
            eval_create_index=outcome.index if evals else 0,
            job_modify_index=outcome.value["job_modify_index"],
            warnings=warnings_text([*warnings, *notes]),
            index=outcome.index,
        )

    def registration(self, caller: Caller, request: JobRegisterRequest, job: Job) -> tuple[c.RegisterJob, list[str]]:
        """The command that registers a prepared job, and notes for its author. Raises Forbidden, Invalid."""
        self.check_may_register(caller, job)
        self._check_priority(request.eval_priority)
        submission, notes = self._submission(request.submission)
        command = c.RegisterJob(
            now_ns=self._server.wall_ns(),
            job=job,
            submission=submission,
            evals=self.evals_for(job, request.eval_priority),
            enforce_index=request.job_modify_index if request.enforce_index else None,
            preserve_counts=request.preserve_counts,
            preserve_resources=request.preserve_resources,
        )
        return command, notes

    def check_may_register(self, caller: Caller, job: Job) -> None:
        """Raises Forbidden or Invalid when the job may not be registered by the caller, or not by anybody now."""
        caller.require(job.namespace, "submit-job", "register-job")
        self.check_enabled(caller)
        if job.dispatched:
            raise Invalid("job can't be submitted with 'Dispatched' set", status=500)
        if job.payload:
            raise Invalid("job can't be submitted with a payload, only dispatched", status=500)

    def prepare(
        self,
        caller: Caller,
        raw: dict[str, Any] | None,
        *,
        namespace: str = "",
        job_id: str | None = None,
        without_id: str = "Job ID hasn't been provided",
    ) -> tuple[Job, list[str]]:
        """The admitted and valid job of an input dict, and the warnings about it. Used by register and plan."""
        shape = self.shape(raw, namespace=namespace)
        if shape is not None and raw is not None:
            job, warnings = shape.as_job(raw["ID"]), list(shape.warnings)
        else:
            job, warnings = self.prepare_alone(raw, namespace, without_id)
        if job_id is not None and job.id != job_id:
            raise Invalid("Job ID does not match name")
        return job, warnings

    def shape(self, raw: dict[str, Any] | None, *, namespace: str = "") -> Shape | None:
        """What an input dict has in common with all that differ only in the id, if that can be told. Raises Invalid
        as ``prepare`` does."""
        if not raw:
            return None
        circumstances = self.circumstances(namespace)
        return self._shapes.find(raw, circumstances, lambda given: self.prepare_alone(given, namespace))

    def circumstances(self, namespace: str) -> Hashable:
        """Whatever a shape follows from besides its input dict."""
        store = self._server.store
        cluster = store.scheduler_config.memory_oversubscription_enabled
        return namespace, cluster, store.max_index("node_pools")

    def prepare_alone(
        self, raw: dict[str, Any] | None, namespace: str, without_id: str = "Job ID hasn't been provided"
    ) -> tuple[Job, list[str]]:
        """As ``prepare``, whatever was prepared before."""
        job = self.decode(raw, namespace=namespace)
        if not job.id:
            raise Invalid(without_id)
        if job.type == "system" and any(group.scaling is not None for group in job.task_groups):
            raise Invalid("Task groups with job type system do not support scaling blocks")
        oversubscription = self._may_oversubscribe(job.node_pool)
        admitted = admit(job, oversubscription=oversubscription)
        problems = validate(admitted.job, limits=self._limits())
        if problems:
            raise Invalid(multi_error(problems), status=500)
        return admitted.job if oversubscription else without_memory_max(admitted.job), list(admitted.warnings)

    def _may_oversubscribe(self, pool: str) -> bool:
        """Whether tasks of a node pool may use more memory than they reserve: the pool's own word, or the cluster's."""
        store = self._server.store
        return pool_config(store.scheduler_config, store.node_pool(pool or "default")).memory_oversubscription_enabled

    def decode(self, raw: dict[str, Any] | None, *, namespace: str = "") -> Job:
        """The job of an input dict with the server's defaults filled in. Raises Invalid (400)."""
        if not raw:
            raise Invalid("Job must be specified")
        defaults = JobDefaults(
            region=self._server.config.region,
            namespace=namespace or "default",
            priority=self._server.config.job_default_priority,
        )
        job = job_from_input(raw, defaults=defaults)
        if namespace and job.namespace != namespace:
            job = job.replace(namespace=namespace)
        if job.region not in ("", "global", self._server.config.region):
            raise Invalid(f'No path to region "{job.region}"', status=500)
        return job.replace(region=self._server.config.region)

    def validate(self, caller: Caller, raw: dict[str, Any] | None, *, namespace: str = "") -> JobValidateResponse:
        """Every problem of a job, without storing anything."""
        job = self.decode(raw, namespace=namespace)
        caller.require(job.namespace, "read-job")
        admitted = admit(job, oversubscription=self._may_oversubscribe(job.node_pool))
        problems = validate(admitted.job, limits=self._limits())
        return JobValidateResponse(
            driver_config_validated=True,
            validation_errors=tuple(problems),
            error=multi_error(problems) if problems else "",
            warnings=warnings_text(list(admitted.warnings)),
        )

    # --- stop ---------------------------------------------------------------------------------------------------------

    async def deregister(
        self,
        caller: Caller,
        namespace: str,
        job_id: str,
        *,
        purge: bool = False,
        eval_priority: int = 0,
        no_shutdown_delay: bool = False,
    ) -> JobDeregisterResponse:
        """Stops a job, or removes it with ``purge``. An unknown job is no error and gets no evaluation."""
        caller.require(namespace, "submit-job", "purge-job" if purge else "deregister-job")
        self._check_priority(eval_priority)
        job = self._server.store.job(namespace, job_id)
        evals: tuple[Evaluation, ...] = ()
        if job is not None and not job.is_periodic() and not job.is_parameterized():
            evals = (
                self._server.new_eval(
                    namespace=namespace,
                    job_id=job_id,
                    type=job.type,
                    priority=eval_priority or job.priority,
                    trigger=TRIGGER_JOB_DEREGISTER,
                ),
            )
        if job is None:
            return JobDeregisterResponse(index=self._server.store.index)
        outcome = await self._server.propose(
            c.DeregisterJob(
                now_ns=self._server.wall_ns(),
                namespace=namespace,
                job_id=job_id,
                purge=purge,
                no_shutdown_delay=no_shutdown_delay,
                evals=evals,
            )
        )
        return JobDeregisterResponse(
            eval_id=evals[0].id if evals else "",
            eval_create_index=outcome.index if evals else 0,
            job_modify_index=outcome.value["job_modify_index"],
            index=outcome.index,
        )

    # --- another look, another version ------------------------------------------------------------------------------

    async def evaluate(
        self, caller: Caller, namespace: str, job_id: str, request: JobEvaluateRequest
    ) -> JobRegisterResponse:
        """Creates an evaluation; with ``force_reschedule`` it also releases failed allocations from their delays."""
        caller.require(namespace, "submit-job", "evaluate-job")
        if request.job_id and request.job_id != job_id:
            raise Invalid("JobID not same as job name")
        job = self.job(namespace, job_id, status=500)
        if job.is_periodic():
            raise Invalid("can't evaluate periodic job", status=500)
        if job.is_parameterized():
            raise Invalid("can't evaluate parameterized job", status=500)
        evaluation = self._server.new_eval(
            namespace=namespace, job_id=job_id, type=job.type, priority=job.priority, trigger=TRIGGER_JOB_REGISTER
        ).replace(job_modify_index=job.job_modify_index)
        transitions = self._forced(job) if request.eval_options.force_reschedule else {}
        command: c.Command
        if transitions:
            command = c.UpdateAllocTransitions(
                now_ns=self._server.wall_ns(), transitions=transitions, evals=(evaluation,)
            )
        else:
            command = c.UpdateEvals(now_ns=self._server.wall_ns(), evals=(evaluation,))
        outcome = await self._server.propose(command)
        return JobRegisterResponse(
            eval_id=evaluation.id,
            eval_create_index=outcome.index,
            job_modify_index=job.job_modify_index,
            index=outcome.index,
        )

    async def revert(
        self, caller: Caller, namespace: str, job_id: str, request: JobRevertRequest
    ) -> JobRegisterResponse:
        """Registers a copy of an old version as a new one."""
        caller.require(namespace, "submit-job", "revert-job")
        self.check_enabled(caller)
        self._check_job_id(job_id, request.job_id)
        current = self._server.store.job(namespace, job_id)
        if current is None:
            raise NotFound(f'job "{job_id}" not found', status=500)
        if current.version == request.job_version:
            raise Conflict("can't revert to current version")
        prior = request.enforce_prior_version
        if prior is not None and prior != current.version:
            raise Conflict(f"Current job has version {current.version}; enforcing version {prior}")
        old = self._server.store.job_version(namespace, job_id, request.job_version)
        if old is None:
            text = f'job "{job_id}" in namespace "{namespace}" at version {request.job_version} not found'
            raise NotFound(text, status=500)
        job = old.replace(stop=False, stable=False, version_tag=None, submit_time_ns=0)
        evals = self.evals_for(job, 0)
        submission = self._server.store.jobs.submissions.get(job.key, {}).get(old.version)
        outcome = await self._server.propose(
            c.RegisterJob(
                now_ns=self._server.wall_ns(),
                job=job,
                submission=submission,
                evals=evals,
                enforce_index=current.job_modify_index,
            )
        )
        return JobRegisterResponse(
            eval_id=evals[0].id if evals else "",
            eval_create_index=outcome.index if evals else 0,
            job_modify_index=outcome.value["job_modify_index"],
            index=outcome.index,
        )

    async def set_stability(self, caller: Caller, namespace: str, job_id: str, request: JobStabilityRequest) -> int:
        """Marks a version as stable or not; returns the index."""
        caller.require(namespace, "submit-job", "stable-job")
        self._check_job_id(job_id, request.job_id)
        outcome = await self._server.propose(
            c.SetJobStability(
                now_ns=self._server.wall_ns(),
                namespace=namespace,
                job_id=job_id,
                version=request.job_version,
                stable=request.stable,
            )
        )
        return outcome.index

    async def tag(
        self, caller: Caller, namespace: str, job_id: str, name: str, request: JobTagRequest
    ) -> JobTagResponse:
        """Names a version of a job, the current one when none is given."""
        caller.require(namespace, "submit-job", "tag-job-version")
        version = request.version
        if request.latest and version:
            raise Invalid(f"version must be zero when tagging latest, got: {version}", status=500)
        if version is None or request.latest:
            version = self.job(namespace, job_id, status=500).version
        now_ns = self._server.wall_ns()
        tag = JobVersionTag(name=name, description=request.description, tagged_time_ns=now_ns)
        return await self._tag(
            c.TagJobVersion(now_ns=now_ns, namespace=namespace, job_id=job_id, name=name, version=version, tag=tag), tag
        )

    async def untag(self, caller: Caller, namespace: str, job_id: str, name: str) -> JobTagResponse:
        """Takes the name away from the version that has it."""
        caller.require(namespace, "submit-job", "tag-job-version")
        versions = self._server.store.jobs.versions.get((namespace, job_id), ())
        found = next((v.version_tag for v in versions if v.version_tag and v.version_tag.name == name), None)
        command = c.TagJobVersion(now_ns=self._server.wall_ns(), namespace=namespace, job_id=job_id, name=name)
        return await self._tag(command, found or JobVersionTag(name=name))

    async def _tag(self, command: c.TagJobVersion, tag: JobVersionTag) -> JobTagResponse:
        outcome = await self._server.propose(command)
        return JobTagResponse(
            name=tag.name, description=tag.description, tagged_time_ns=tag.tagged_time_ns, index=outcome.index
        )

    # --- shared ------------------------------------------------------------------------------------------------------

    def job(self, namespace: str, job_id: str, *, status: int = 404) -> Job:
        """The stored job. Raises NotFound, with 500 where Nomad does so for writes."""
        job = self._server.store.job(namespace, job_id)
        if job is None:
            raise NotFound("job not found", status=status)
        return job

    def check_enabled(self, caller: Caller) -> None:
        """Raises Forbidden while the scheduling switches refuse new work. Only a management token is let through, and
        while ACLs are off nobody has one."""
        is_exempt = caller.management and caller.accessor_id
        if self._server.store.scheduler_config.reject_job_registration and not is_exempt:
            raise Forbidden(_DISABLED)

    def evals_for(self, job: Job, eval_priority: int) -> tuple[Evaluation, ...]:
        """The evaluation that a registration makes; none for jobs that only launch others."""
        if job.is_periodic() or job.is_parameterized():
            return ()
        return (
            self._server.new_eval(
                namespace=job.namespace,
                job_id=job.id,
                type=job.type,
                priority=eval_priority or job.priority,
                trigger=TRIGGER_JOB_REGISTER,
            ),
        )

    def _forced(self, job: Job) -> dict[str, DesiredTransition]:
        out = {}
        for alloc in self._server.store.allocs_by_job(*job.key):
            group = job.group(alloc.task_group)
            if alloc.client_status == FAILED and not alloc.next_allocation and group and group.reschedule_policy:
                out[alloc.id] = DesiredTransition(force_reschedule=True)
        return out

    def _submission(self, submission: JobSubmission | None) -> tuple[JobSubmission | None, list[str]]:
        if submission is None:
            return None, []
        size = len(submission.source) + len(submission.variables) + sum(map(len, submission.variable_flags.values()))
        limit = self._server.config.job_max_source_bytes
        if size > limit:
            return None, [f"job source size of {size} bytes exceeds the limit of {limit} bytes and was discarded"]
        return submission, []

    def _limits(self) -> JobLimits:
        config = self._server.config
        return JobLimits(max_priority=config.job_max_priority, max_count=config.job_max_count)

    def _check_priority(self, eval_priority: int) -> None:
        if eval_priority != 0 and not 1 <= eval_priority <= 100:
            raise Invalid("Eval priority must be between 1 and 100 inclusively")

    def _check_job_id(self, path_id: str, body_id: str) -> None:
        if not body_id:
            raise Invalid("JobID must be specified")
        if body_id != path_id:
            raise Invalid("Job ID does not match")
