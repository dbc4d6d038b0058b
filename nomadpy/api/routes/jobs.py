"""Routes about jobs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from nomadpy.api.call import Call, Order, Reply, in_order, namespaced
from nomadpy.api.jobview import job_scale_status, job_stub
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.alloc import AllocListStub
from nomadpy.model.canonical import canonicalize, input_form, job_from_input
from nomadpy.model.diff import diff_jobs
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.model.evaluation import Deployment, Evaluation
from nomadpy.model.explanation import Capacity
from nomadpy.model.ids import EDGE_RNG
from nomadpy.model.job import Job, JobSubmission, JobSummary
from nomadpy.model.naming import Noun
from nomadpy.model.wire import to_wire
from nomadpy.server import messages as m


class ParseRequest(Noun):
    """``JobHCL`` is the text of a job file; ``Variables`` that of a variable file."""

    job_hcl: str = ""
    variables: str = ""
    canonicalize: bool = False


class ValidateRequest(Noun):
    job: dict[str, Any] | None = None


BY_JOB: Order[Job] = Order(lambda job: f"{job.namespace}.{job.id}", namespaced)


# --- lists ------------------------------------------------------------------------------------------------------------


async def list_jobs(call: Call) -> Reply:
    """Stubs of all jobs, by namespace and id."""
    store, meta = call.server.store, call.flag("meta")
    namespace, prefix = call.namespace, call.text("prefix")
    call.caller.require(namespace, "list-jobs")

    def read() -> tuple[Any, int]:
        jobs = [
            job
            for key, job in sorted(store.jobs.current.items())
            if namespace in ("*", key[0]) and key[1].startswith(prefix) and call.caller.allows(key[0], "list-jobs")
        ]
        page = call.page(
            in_order(jobs, reverse=call.reverse),
            Job,
            BY_JOB,
            lambda job: job_stub(store, job, meta=meta),
        )
        return page, store.max_index("jobs", "job_summary")

    return await call.blocking(read, "jobs", "job_summary")


async def register(call: Call) -> Reply:
    """Registers a job; the body is ``{"Job": …}``."""
    request = await call.body(m.JobRegisterRequest)
    return _written(
        await call.server.jobs.register(
            call.caller, request, namespace=call.stated_namespace, job_id=call.params.get("job_id")
        )
    )


async def register_bulk(call: Call) -> Reply:
    """Registers many jobs at once; the body is a list of ``{"Job": …}``, or one on each line (NDJSON)."""
    return _written(
        await call.server.bulk.register(call.caller, await call.request.body(), namespace=call.stated_namespace)
    )


async def parse(call: Call) -> Any:
    """The job that a job file describes, in input form or with defaults filled in."""
    from nomadpy.jobspec import parse_text

    request = await call.body(ParseRequest)
    call.caller.require(call.namespace, "parse-job", "submit-job")
    if not request.job_hcl:
        raise Invalid("Job spec is empty")
    try:
        raw = parse_text(request.job_hcl, variables=request.variables, rng=EDGE_RNG)
    except Invalid as error:
        raise Invalid(f"Failed to parse job: {error.message}") from error
    return to_wire(canonicalize(job_from_input(raw))) if request.canonicalize else input_form(raw)


async def validate(call: Call) -> Any:
    """Every problem of a job, without storing anything."""
    request = await call.body(ValidateRequest)
    return call.server.jobs.validate(call.caller, request.job, namespace=call.stated_namespace)


# --- one job ----------------------------------------------------------------------------------------------------------


async def get(call: Call) -> Reply:
    """The job as it is stored."""
    store, key = call.server.store, _key(call, "read-job")

    def read() -> tuple[Any, int]:
        job = store.jobs.current.get(key)
        if job is None:
            return NotFound("job not found"), store.max_index("jobs")
        return job, job.modify_index

    return await call.blocking(read, "jobs")


async def deregister(call: Call) -> Reply:
    """Stops the job; ``purge=true`` removes it."""
    priority = call.number("eval_priority", "Eval priority must be between 1 and 100 inclusively") or 0
    return _written(
        await call.server.jobs.deregister(
            call.caller,
            call.namespace,
            call.params["job_id"],
            purge=call.flag("purge"),
            eval_priority=priority,
            no_shutdown_delay=call.flag("no_shutdown_delay"),
        )
    )


async def plan(call: Call) -> Any:
    """What registering the job would change; nothing is stored."""
    request = await call.body(m.JobPlanRequest)
    return call.server.launches.plan(
        call.caller, request, namespace=call.stated_namespace, job_id=call.params["job_id"]
    )


async def capacity(call: Call) -> Any:
    """How many more of each group would fit now, what runs out first, and what if nodes went or came."""
    return call.server.launches.capacity(
        call.caller,
        call.namespace,
        call.params["job_id"],
        without=call.query.getlist("without"),
        extra=call.query.getlist("with"),
    )


async def evaluate(call: Call) -> Reply:
    """Has the scheduler look at the job again."""
    request = await call.body(m.JobEvaluateRequest, optional=True)
    return _written(await call.server.jobs.evaluate(call.caller, call.namespace, call.params["job_id"], request))


async def allocations(call: Call) -> Reply:
    """Stubs of the job's allocations; ``all=true`` includes those of an earlier job of the same id."""
    store, key = call.server.store, _key(call, "read-job")
    everything = call.flag("all")
    task_states = call.flag("task_states", True)

    def read() -> tuple[Any, int]:
        job = store.jobs.current.get(key)
        stubs: list[AllocListStub] = []
        newest = 0
        for row in store.allocs.rows_by_job(key):
            made_from = store.allocs.shape_of(row).job
            if not everything and job is not None and made_from.create_index != job.create_index:
                continue
            stub = store.alloc_stub_at(row)
            newest = max(newest, stub.modify_index)
            stubs.append(stub if task_states else stub.replace(task_states={}))
        return list(call.filtered(stubs, AllocListStub)), newest or store.max_index("allocs")

    return await call.blocking(read, "allocs")


async def evaluations(call: Call) -> Reply:
    """The job's evaluations."""
    store, key = call.server.store, _key(call, "read-job")

    def read() -> tuple[Any, int]:
        evals = store.job_evals(*key)
        newest = max((e.modify_index for e in evals), default=0)
        return list(call.filtered(reversed(evals), Evaluation)), newest or store.max_index("evals")

    return await call.blocking(read, "evals")


async def deployments(call: Call) -> Reply:
    """The job's deployments."""
    store, key = call.server.store, _key(call, "read-job")

    def read() -> tuple[Any, int]:
        return store.job_deployments(*key)[::-1], store.max_index("deployments")

    return await call.blocking(read, "deployments")


async def latest_deployment(call: Call) -> Reply:
    """The job's newest deployment, or null."""
    store, key = call.server.store, _key(call, "read-job")
    return await call.blocking(lambda: (store.latest_deployment(*key), store.max_index("deployments")), "deployments")


async def summary(call: Call) -> Reply:
    """How many allocations of each group are in which state."""
    store, key = call.server.store, _key(call, "read-job")

    def read() -> tuple[Any, int]:
        found = store.jobs.summaries.get(key)
        if found is None:
            return NotFound("job not found"), store.max_index("job_summary")
        return found, found.modify_index

    return await call.blocking(read, "job_summary")


async def versions(call: Call) -> Reply:
    """The tracked versions, newest first, and with ``diffs=true`` how they differ."""
    store, key = call.server.store, _key(call, "read-job")
    with_diffs = call.flag("diffs")

    def read() -> tuple[Any, int]:
        found = store.jobs.versions.get(key, ())
        if not found:
            return NotFound("job versions not found"), store.max_index("jobs")
        newest = max(job.modify_index for job in found)
        diffs = _version_diffs(call, found) if with_diffs else ()
        return m.JobVersionsResponse(versions=found, diffs=diffs, index=newest), newest

    return await call.blocking(read, "jobs", "job_version")


def _version_diffs(call: Call, found: tuple[Job, ...]) -> tuple[Any, ...]:
    tag, number = call.text("diff_tag"), call.number("diff_version", "Failed to parse diff_version")
    if not tag and number is None:
        return tuple(diff_jobs(old, new, contextual=True) for new, old in pairwise(found))
    if tag:
        base = next((job for job in found if job.version_tag and job.version_tag.name == tag), None)
        missing = f'tag "{tag}" not found'
    else:
        base = next((job for job in found if job.version == number), None)
        missing = f"version {number} not found"
    if base is None:
        raise NotFound(missing, status=500)
    return tuple(diff_jobs(base, job, contextual=True) for job in found)


async def submission(call: Call) -> Reply:
    """The text that a version was submitted as."""
    store, key = call.server.store, _key(call, "read-job")
    text = "Unable to parse job submission version parameter"
    version = call.number("version", text)
    if version is None:
        raise Invalid(text)

    def read() -> tuple[Any, int]:
        found = store.jobs.submissions.get(key, {}).get(version)
        if found is None:
            return NotFound("job source not found"), store.max_index("job_submission")
        return found, found.job_modify_index

    return await call.blocking(read, "job_submission")


async def revert(call: Call) -> Reply:
    """Registers a copy of an old version."""
    request = await call.body(m.JobRevertRequest)
    return _written(await call.server.jobs.revert(call.caller, call.namespace, call.params["job_id"], request))


async def stable(call: Call) -> Reply:
    """Marks a version as stable or not."""
    request = await call.body(m.JobStabilityRequest)
    index = await call.server.jobs.set_stability(call.caller, call.namespace, call.params["job_id"], request)
    return Reply(value={"Index": index}, index=index)


async def scale(call: Call) -> Reply:
    """Sets a group's count."""
    request = await call.body(m.JobScaleRequest)
    return _written(await call.server.launches.scale(call.caller, call.namespace, call.params["job_id"], request))


async def scale_status(call: Call) -> Reply:
    """How many allocations each group wants and has, and what was scaled when."""
    store, key = call.server.store, _key(call, "read-job", "read-job-scaling")

    def read() -> tuple[Any, int]:
        job = store.jobs.current.get(key)
        if job is None:
            return NotFound("job not found"), store.max_index("jobs")
        index = max(job.modify_index, store.max_index("scaling_events"))
        return job_scale_status(store, job), index

    return await call.blocking(read, "jobs", "allocs", "scaling_events")


async def dispatch(call: Call) -> Reply:
    """Runs a child of a parameterized job."""
    request = await call.body(m.JobDispatchRequest, optional=True)
    return await _dispatch(call, request)


async def dispatch_payload(call: Call) -> Reply:
    """Runs a child of a parameterized job with the body's raw bytes as its payload."""
    return await _dispatch(call, m.JobDispatchRequest(payload=await call.request.body()))


async def _dispatch(call: Call, request: m.JobDispatchRequest) -> Reply:
    return _written(
        await call.server.launches.dispatch(
            call.caller,
            call.namespace,
            call.params["job_id"],
            request,
            idempotency_token=call.text("idempotency_token"),
        )
    )


async def force_periodic(call: Call) -> Reply:
    """Launches a child of a periodic job now."""
    return _written(await call.server.launches.force_periodic(call.caller, call.namespace, call.params["job_id"]))


async def services(call: Call) -> Reply:
    """The job's registered services; there are none until services are acted on."""
    store, key = call.server.store, _key(call, "read-job")
    if key not in store.jobs.current:
        raise NotFound("job not found")
    return Reply(value=[], index=store.max_index("services"))


async def actions(call: Call) -> Reply:
    """The actions that the job's tasks declare."""
    job = call.server.jobs.job(*_key(call, "read-job"))
    found = [
        {
            "Name": action.name,
            "Command": action.command,
            "Args": list(action.args),
            "TaskName": task.name,
            "TaskGroupName": group.name,
        }
        for group in job.task_groups
        for task in group.tasks
        for action in task.actions
    ]
    return Reply(value=found, index=job.modify_index)


# --- shared -----------------------------------------------------------------------------------------------------------


def _key(call: Call, *capabilities: str) -> tuple[str, str]:
    call.caller.require(call.namespace, *capabilities)
    return call.namespace, call.params["job_id"]


def _written(response: Any) -> Reply:
    return Reply(value=response, index=response.index)


_LIST = (Param("prefix"), Param("filter"), Param("meta", "boolean"), Param("reverse"))
_J = "/v1/job/{job_id}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path="/v1/jobs", endpoint=list_jobs, query=_LIST, blocking=True, paged=True),
    Operation(methods=WRITE, path="/v1/jobs", endpoint=register, body=m.JobRegisterRequest,
              answer=m.JobRegisterResponse),
    Operation(methods=WRITE, path="/v1/jobs/bulk", endpoint=register_bulk, body=list[m.JobRegisterRequest],
              answer=m.JobBulkResponse),
    Operation(methods=WRITE, path="/v1/jobs/parse", endpoint=parse, body=ParseRequest, answer=Job),
    Operation(methods=WRITE, path="/v1/validate/job", endpoint=validate, body=ValidateRequest,
              answer=m.JobValidateResponse),
    Operation(methods=WRITE, path=_J + "/evaluate", endpoint=evaluate, body=m.JobEvaluateRequest,
              answer=m.JobRegisterResponse),
    Operation(methods=READ, path=_J + "/allocations", endpoint=allocations, answer=list[AllocListStub],
              query=(Param("all", "boolean"),), blocking=True),
    Operation(methods=READ, path=_J + "/evaluations", endpoint=evaluations, answer=list[Evaluation], blocking=True),
    Operation(methods=WRITE, path=_J + "/periodic/force", endpoint=force_periodic, answer=m.PeriodicForceResponse),
    Operation(methods=WRITE, path=_J + "/plan", endpoint=plan, body=m.JobPlanRequest, answer=m.JobPlanResponse),
    Operation(methods=READ, path=_J + "/capacity", endpoint=capacity, answer=Capacity,
              query=(Param("without", about="A node to leave out, by id or name; may be repeated."),
                     Param("with", about="Nodes to add, as CPU,MEM×N in MHz and MB; may be repeated."))),
    Operation(methods=READ, path=_J + "/summary", endpoint=summary, answer=JobSummary, blocking=True),
    Operation(methods=WRITE, path=_J + "/dispatch", endpoint=dispatch, body=m.JobDispatchRequest,
              answer=m.JobDispatchResponse, query=(Param("idempotency_token"),)),
    Operation(methods=WRITE, path=_J + "/dispatch/payload", endpoint=dispatch_payload,
              answer=m.JobDispatchResponse),
    Operation(methods=READ, path=_J + "/versions", endpoint=versions, answer=m.JobVersionsResponse,
              query=(Param("diffs", "boolean"), Param("diff_tag"), Param("diff_version", "integer")), blocking=True),
    Operation(methods=WRITE, path=_J + "/revert", endpoint=revert, body=m.JobRevertRequest,
              answer=m.JobRegisterResponse),
    Operation(methods=READ, path=_J + "/deployments", endpoint=deployments, answer=list[Deployment], blocking=True),
    Operation(methods=READ, path=_J + "/deployment", endpoint=latest_deployment, answer=Deployment, blocking=True),
    Operation(methods=WRITE, path=_J + "/stable", endpoint=stable, body=m.JobStabilityRequest),
    Operation(methods=READ, path=_J + "/scale", endpoint=scale_status, answer=m.JobScaleStatus, blocking=True),
    Operation(methods=WRITE, path=_J + "/scale", endpoint=scale, body=m.JobScaleRequest,
              answer=m.JobRegisterResponse),
    Operation(methods=READ, path=_J + "/services", endpoint=services),
    Operation(methods=READ, path=_J + "/submission", endpoint=submission, answer=JobSubmission,
              query=(Param("version", "integer"),), blocking=True),
    Operation(methods=READ, path=_J + "/actions", endpoint=actions),
    Operation(methods=READ, path=_J, endpoint=get, answer=Job, blocking=True),
    Operation(methods=WRITE, path=_J, endpoint=register, body=m.JobRegisterRequest, answer=m.JobRegisterResponse),
    Operation(methods=("DELETE",), path=_J, endpoint=deregister, answer=m.JobDeregisterResponse,
              query=(Param("purge", "boolean"), Param("global", "boolean"), Param("no_shutdown_delay", "boolean"),
                     Param("eval_priority", "integer"))),
)  # fmt: skip
