"""Orders about jobs: what is answered, and which words and status a refusal has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from cluster_builders import make_group, make_job
from server_world import World, raw
from trio.testing import MockClock

from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import NomadError
from nomadpy.model.job import Job, JobSubmission, ParameterizedJobConfig, PeriodicConfig, ScalingPolicy
from nomadpy.server.messages import (
    EvalOptions,
    JobDispatchRequest,
    JobEvaluateRequest,
    JobPlanRequest,
    JobRegisterRequest,
    JobRevertRequest,
    JobScaleRequest,
    SearchRequest,
)

CALLS = ParameterizedJobConfig(payload="required", meta_required=("who",), meta_optional=("why",))


def calls(**changes: object) -> Job:
    return make_job("calls", type="batch", parameterized_job=CALLS.replace(**changes))


def scale(count: int | None = None, group: str = "app", **changes: object) -> JobScaleRequest:
    return JobScaleRequest(count=count, target={"Group": group} if group else {}).replace(**changes)


def dispatch(**changes: object) -> JobDispatchRequest:
    return JobDispatchRequest(payload=b"hello", meta={"who": "me"}).replace(**changes)


Order = Callable[[World], Awaitable[object]]


def register(job: Job, **changes: object) -> Order:
    return lambda w: w.server.jobs.register(ANYONE, JobRegisterRequest(job=raw(job)).replace(**changes))


def of_job(job_id: str, name: str, *args: object, **options: object) -> Order:
    """An order to the handlers about a stored job."""

    def call(world: World) -> Awaitable[object]:
        part = world.server.jobs if hasattr(world.server.jobs, name) else world.server.launches
        made: Awaitable[object] = getattr(part, name)(ANYONE, "default", job_id, *args, **options)
        return made

    return call


async def plan(world: World, job: Job | None, **options: object) -> object:
    request = JobPlanRequest(job=raw(job) if job is not None else None, diff=True)
    return world.server.launches.plan(ANYONE, request, **options)  # type: ignore[arg-type]


REFUSALS: list[tuple[Order, int, str]] = [
    (lambda w: w.server.jobs.register(ANYONE, JobRegisterRequest()), 400, "Job must be specified"),
    (register(make_job("")), 400, "Job ID hasn't been provided"),
    (
        lambda w: w.server.jobs.register(ANYONE, JobRegisterRequest(job=raw(make_job())), job_id="x"),
        400,
        "Job ID does not match name",
    ),
    (register(make_job(datacenters=()), eval_priority=101), 400, "Eval priority must be between 1 and 100 inclusively"),
    (register(make_job(dispatched=True)), 500, "job can't be submitted with 'Dispatched' set"),
    (register(make_job(task_groups=())), 500, "1 error occurred:\n\t* Missing job task groups\n\n"),
    (
        register(make_job(), enforce_index=True, job_modify_index=0),
        500,
        "Enforcing job modify index 0: job already exists",
    ),
    (register(make_job(type="batch")), 500, 'cannot update job from type "service" to "batch"'),
    (of_job("none", "evaluate", JobEvaluateRequest()), 500, "job not found"),
    (of_job("job", "evaluate", JobEvaluateRequest(job_id="x")), 400, "JobID not same as job name"),
    (of_job("cron", "evaluate", JobEvaluateRequest()), 500, "can't evaluate periodic job"),
    (of_job("calls", "evaluate", JobEvaluateRequest()), 500, "can't evaluate parameterized job"),
    (of_job("job", "deregister", eval_priority=101), 400, "Eval priority must be between 1 and 100 inclusively"),
    (of_job("job", "revert", JobRevertRequest()), 400, "JobID must be specified"),
    (of_job("job", "revert", JobRevertRequest(job_id="x")), 400, "Job ID does not match"),
    (of_job("none", "revert", JobRevertRequest(job_id="none")), 500, 'job "none" not found'),
    (of_job("job", "revert", JobRevertRequest(job_id="job", job_version=1)), 500, "can't revert to current version"),
    (
        of_job("job", "revert", JobRevertRequest(job_id="job", job_version=7)),
        500,
        'job "job" in namespace "default" at version 7 not found',
    ),
    (
        of_job("job", "revert", JobRevertRequest(job_id="job", enforce_prior_version=5)),
        500,
        "Current job has version 1; enforcing version 5",
    ),
    (of_job("job", "scale", scale(1, "")), 400, "missing task group name for scaling action"),
    (
        of_job("job", "scale", scale(1, target={"Group": "app", "Job": "x"})),
        400,
        "job ID in payload did not match URL",
    ),
    (
        of_job("job", "scale", scale(1, target={"Group": "app", "Namespace": "x"})),
        400,
        "namespace in payload did not match header",
    ),
    (of_job("none", "scale", scale(1)), 404, 'job "none" not found'),
    (of_job("job", "scale", scale(1, "x")), 400, 'task group "x" specified for scaling does not exist in job'),
    (of_job("job", "scale", scale(-1)), 400, "scaling action count can't be negative"),
    (
        of_job("job", "scale", scale(1, error=True)),
        400,
        "scaling action should not contain count if error is true",
    ),
    (of_job("bounded", "scale", scale(1)), 400, "group count was less than scaling policy minimum: 1 < 2"),
    (of_job("bounded", "scale", scale(9)), 400, "group count was greater than scaling policy maximum: 9 > 4"),
    (of_job("all", "scale", scale(2)), 400, 'jobs of type "system" can only be scaled between 0 and 1'),
    (of_job("none", "dispatch", dispatch()), 500, "parameterized job not found"),
    (of_job("job", "dispatch", dispatch()), 500, 'Specified job "job" is not a parameterized job'),
    (of_job("calls", "dispatch", dispatch(job_id="x")), 400, "Job ID does not match"),
    (
        of_job("calls", "dispatch", dispatch(payload=b"")),
        500,
        "Payload is not provided but required by parameterized job",
    ),
    (of_job("calls", "dispatch", dispatch(payload=b"x" * 16385)), 500, "Payload exceeds maximum size; 16385 > 16384"),
    (
        of_job("calls", "dispatch", dispatch(meta={"who": "", "b": "", "a": ""})),
        500,
        "Dispatch request included unpermitted metadata keys: [a b]",
    ),
    (of_job("calls", "dispatch", dispatch(meta={})), 500, "Dispatch did not provide required meta keys: [who]"),
    (of_job("calls", "dispatch", dispatch(priority=101)), 500, "dispatch job priority must be between [1, 100]"),
    (of_job("none", "force_periodic"), 500, "job not found"),
    (of_job("job", "force_periodic"), 500, "can't force launch non-periodic job"),
    (lambda w: plan(w, None), 400, "Job must be specified"),
    (lambda w: plan(w, make_job("")), 400, "Job must have a valid ID"),
    (lambda w: plan(w, make_job(), job_id="x"), 400, "Job ID does not match"),
]


async def prepare(world: World) -> None:
    """Job ``job`` in version 1, and one of each special kind."""
    await world.register(make_job(env="0"))
    await world.register(make_job(env="1"))
    await world.register(make_job("cron", type="batch", periodic=PeriodicConfig(spec="@daily", spec_type="cron")))
    await world.register(calls())
    policy = ScalingPolicy(type="horizontal", min=2, max=4)
    await world.register(make_job("bounded", type="batch", group=make_group(count=2, scaling=policy)))
    await world.register(make_job("all", type="system"))
    await world.settled()


async def test_refusals(autojump_clock: MockClock, world: World) -> None:
    await prepare(world)
    index = world.server.store.max_index("jobs", "evals", "scaling_events")
    for order, status, message in REFUSALS:
        with pytest.raises(NomadError) as caught:
            await order(world)
        assert (caught.value.message, caught.value.status) == (message, status)
    assert world.server.store.max_index("jobs", "evals", "scaling_events") == index


async def test_an_unchanged_job_keeps_its_index_and_gets_an_evaluation(autojump_clock: MockClock, world: World) -> None:
    first = await world.register(make_job())
    again = await world.register(make_job())
    assert again.job_modify_index == first.job_modify_index
    assert again.eval_id not in ("", first.eval_id)


async def test_an_unknown_job_is_deregistered_without_a_word(autojump_clock: MockClock, world: World) -> None:
    answer = await world.server.jobs.deregister(ANYONE, "default", "none")
    assert (answer.eval_id, answer.eval_create_index) == ("", 0)


async def test_reverting_makes_a_new_version(autojump_clock: MockClock, world: World) -> None:
    await world.register(make_job(env="0"), submission=JobSubmission(source="zero", format="hcl2"))
    await world.register(make_job(env="1"))
    request = JobRevertRequest(job_id="job", job_version=0, enforce_prior_version=1)
    await world.server.jobs.revert(ANYONE, "default", "job", request)
    job = world.server.store.job("default", "job")
    assert job is not None
    assert (job.version, job.task_groups[0].tasks[0].env) == (2, {"V": "0"})
    assert world.server.store.jobs.submissions["default", "job"][2].source == "zero"


async def test_scaling(autojump_clock: MockClock, world: World) -> None:
    await world.register(make_job(type="batch", count=2))
    noted = await world.server.launches.scale(ANYONE, "default", "job", scale(message="thinking"))
    assert noted.eval_id == ""
    answer = await world.server.launches.scale(ANYONE, "default", "job", scale(3))
    assert world.server.store.evals[answer.eval_id].triggered_by == "job-scaling"
    events = world.server.store.jobs.scaling_events["default", "job"]["app"]
    assert [(e.count, e.previous_count, e.message, bool(e.eval_id)) for e in events] == [
        (3, 2, "", True),
        (None, 2, "thinking", False),
    ]
    job = world.server.store.job("default", "job")
    assert job is not None
    assert (job.version, job.task_groups[0].count) == (1, 3)


async def test_dispatching(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(calls())
    server = world.server
    answer = await server.launches.dispatch(
        ANYONE, "default", "calls", dispatch(id_prefix_template="pre", priority=70), idempotency_token="t"
    )
    child = server.store.job("default", answer.dispatched_job_id)
    assert child is not None
    assert child.id.startswith("calls/dispatch-pre-17000000")
    assert (child.parent_id, child.dispatched, child.payload, child.priority) == ("calls", True, b"hello", 70)
    assert child.meta == {"who": "me"}
    again = await server.launches.dispatch(ANYONE, "default", "calls", dispatch(), idempotency_token="t")
    assert (again.dispatched_job_id, again.eval_id) == (answer.dispatched_job_id, "")
    await world.until(lambda: len(world.running(child.id)) == 1)
    await server.jobs.deregister(ANYONE, "default", "calls")
    with pytest.raises(NomadError, match='Specified job "calls" is stopped'):
        await server.launches.dispatch(ANYONE, "default", "calls", dispatch())


async def test_a_periodic_job_can_be_forced_unless_it_is_stopped(autojump_clock: MockClock, world: World) -> None:
    await world.register(make_job(type="batch", periodic=PeriodicConfig(spec="@daily", spec_type="cron")))
    answer = await world.server.launches.force_periodic(ANYONE, "default", "job")
    assert world.server.store.evals[answer.eval_id].triggered_by == "periodic-job"
    await world.server.jobs.deregister(ANYONE, "default", "job")
    with pytest.raises(NomadError, match='can\'t force launch stopped job "job"'):
        await world.server.launches.force_periodic(ANYONE, "default", "job")


async def test_a_plan_stores_nothing(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0, cpu=1000)
    await world.register(make_job(type="batch", count=1))
    await world.until(lambda: len(world.running()) == 1)
    index = world.server.store.index
    request = JobPlanRequest(job=raw(make_job(type="batch", count=4)), diff=True)
    answer = world.server.launches.plan(ANYONE, request)
    assert world.server.store.index == index
    assert answer.annotations is not None
    assert answer.annotations.desired_tg_updates["app"].place == 3
    assert answer.failed_tg_allocs["app"].coalesced_failures == 1
    assert answer.diff is not None
    assert answer.diff.type == "Edited"
    job = world.server.store.job("default", "job")
    assert job is not None
    assert answer.job_modify_index == job.job_modify_index


async def test_a_forced_evaluation_releases_failed_allocations(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(type="batch"))
    await world.until(lambda: len(world.running()) == 1)
    (old,) = world.live()
    await world.fleet.report(old, "failed")
    request = JobEvaluateRequest(job_id="job", eval_options=EvalOptions(force_reschedule=True))
    answer = await world.server.jobs.evaluate(ANYONE, "default", "job", request)
    await world.until(lambda: len(world.running()) == 1, within_s=2)
    assert world.live()[0].previous_allocation == old.id
    assert answer.eval_create_index == answer.index


async def test_search_finds_beginnings_and_survives_nonsense(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job())
    await world.until(lambda: len(world.running()) == 1)
    (alloc,) = world.live()
    found = world.server.search.prefix(ANYONE, "default", SearchRequest(prefix=alloc.id[:5]))
    assert found.matches["allocs"] == (alloc.id,)
    assert world.server.search.prefix(ANYONE, "default", SearchRequest(prefix="zz")).matches == {}
    jobs = world.server.search.prefix(ANYONE, "default", SearchRequest(prefix="jo", context="jobs"))
    assert jobs.matches == {"jobs": ("job",)}
    with pytest.raises(NomadError, match="context must be one of"):
        world.server.search.prefix(ANYONE, "default", SearchRequest(context="dreams"))
