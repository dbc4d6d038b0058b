"""What the leader does by the clock: periodic launches and garbage collection."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from cluster_builders import EPOCH_NS, make_group, make_job, node_id
from server_world import World, running
from trio.testing import MockClock

from nomadpy.model.alloc import Allocation
from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import Bug
from nomadpy.model.job import Job, JobVersionTag, PeriodicConfig, ReschedulePolicy
from nomadpy.model.time import HOUR, SECOND
from nomadpy.server.collect import decide_collection
from nomadpy.server.periodic import due_ns, launch_commands
from nomadpy.state import commands as c

UNLIMITED = ReschedulePolicy(delay_ns=HOUR, delay_function="constant", unlimited=True)


def cron(spec: str = "* * * * *", **changes: object) -> Job:
    periodic = PeriodicConfig(spec=spec, spec_type="cron").replace(**changes)
    return make_job(type="batch", cpu=10, periodic=periodic)


def launches(world: World) -> list[int]:
    """Unix seconds of the job's launches."""
    children = world.server.store.jobs.children.get(("default", "job"), {})
    return sorted(int(child.rpartition("-")[2]) for child in children)


async def test_a_periodic_job_launches_on_the_minute(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    world.fleet.behave = lambda alloc: "complete"
    answer = await world.register(cron())
    assert (answer.eval_id, answer.eval_create_index) == ("", 0)
    await trio.sleep(185)
    first = EPOCH_NS // SECOND // 60 * 60 + 60
    assert launches(world) == [first, first + 60, first + 120]
    child = world.server.store.job("default", f"job/periodic-{first}")
    assert child is not None
    assert (child.parent_id, child.periodic, child.status) == ("job", None, "dead")
    await world.server.jobs.deregister(ANYONE, "default", "job")
    await trio.sleep(120)
    assert len(launches(world)) == 3


async def test_overlap_can_be_prohibited(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(cron(prohibit_overlap=True))
    await trio.sleep(300)
    assert len(launches(world)) == 1
    (child,) = world.server.store.jobs.children["default", "job"]
    await world.fleet.report(world.live(child)[0], "complete")
    await trio.sleep(60)
    assert len(launches(world)) == 2


async def test_a_missed_launch_happens_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.register(cron("*/10 * * * *"))
        began = world.server.wall_ns()
    for absence_s in (3 * 3600, 40 * 3600):
        await trio.sleep(absence_s)
        async with running(tmp_path) as world:
            await trio.sleep(1)
            (new,) = launches(world)
            assert began < new * SECOND <= world.server.wall_ns()
            await trio.sleep(1)
            assert len(launches(world)) == 1
            await world.server.jobs.deregister(ANYONE, "default", f"job/periodic-{new}", purge=True)


async def test_times_are_those_of_the_jobs_zone(autojump_clock: MockClock, world: World) -> None:
    await world.register(cron("0 12 * * *", time_zone="America/New_York"))
    job = world.server.store.job("default", "job")
    assert job is not None
    # 2023-11-15 12:00 in New York, five hours behind.
    assert due_ns(world.server.store, job) == 1_700_067_600 * SECOND
    assert launch_commands(world.server, 1_700_067_599 * SECOND) == []
    launch, record = launch_commands(world.server, 1_700_067_600 * SECOND)
    assert isinstance(launch, c.RegisterJob)
    assert launch.job.id == "job/periodic-1700067600"
    assert record == c.RecordPeriodicLaunch(
        now_ns=1_700_067_600 * SECOND, job_id="job", launch_time_ns=1_700_067_600 * SECOND
    )


async def test_a_disabled_job_does_not_launch(autojump_clock: MockClock, world: World) -> None:
    await world.register(cron(enabled=False))
    await trio.sleep(200)
    assert launches(world) == []


async def finished(world: World, **changes: object) -> Allocation:
    """An allocation of job ``job`` that ended well."""
    await world.add_node(0)
    world.fleet.behave = lambda alloc: "complete"
    await world.register(make_job(**{"type": "batch", **changes}))
    await world.until(lambda: any(alloc.client_status == "complete" for alloc in world.allocs()))
    return world.allocs()[0]


async def collect(world: World, hours: float) -> None:
    """Garbage collection as it would be in a few hours."""
    server = world.server
    for command in decide_collection(server.store, server.config, server.wall_ns() + int(hours * HOUR)):
        await server.propose(command)


async def test_a_finished_job_goes_after_four_hours(autojump_clock: MockClock, world: World) -> None:
    await finished(world)
    await collect(world, 3.9)
    assert world.server.store.job("default", "job") is not None
    await collect(world, 4.1)
    assert world.server.store.job("default", "job") is None
    assert (world.allocs(), world.evals()) == ([], [])


async def test_a_service_that_nobody_stopped_stays(autojump_clock: MockClock, world: World) -> None:
    await finished(world, type="service", group=make_group(reschedule_policy=None, update=None))
    store = world.server.store
    # Its deployment goes on until the progress deadline of ten minutes.
    await world.until(lambda: (job := store.job("default", "job")) is not None and job.status == "dead", within_s=900)
    await collect(world, 50)
    assert store.job("default", "job") is not None
    await world.server.jobs.deregister(ANYONE, "default", "job")
    await world.settled()
    await collect(world, 50)
    assert store.job("default", "job") is None


async def test_everything_finished_goes_at_once_when_asked(autojump_clock: MockClock, world: World) -> None:
    await finished(world)
    await world.register(make_job("lives", cpu=10))
    await world.until(lambda: bool(world.allocs("lives")))
    world.fleet.silent.add(0)
    await world.until(lambda: (n := world.server.store.node(node_id(0))) is not None and n.status == "down")
    await world.settled()
    await world.server.fleet.collect_garbage(ANYONE)
    assert world.server.store.job("default", "job") is None
    assert world.server.store.job("default", "lives") is not None
    assert world.server.store.node(node_id(0)) is None


@pytest.mark.parametrize("type", ["batch", "sysbatch"])
async def test_results_of_a_batch_job_stay_while_the_job_does(
    autojump_clock: MockClock, world: World, type: str
) -> None:
    """Else the scheduler would not know what is done."""
    done = await finished(world, type=type)
    tag = c.TagJobVersion(job_id="job", name="keep", version=0, tag=JobVersionTag(name="keep"))
    await world.server.propose(tag)
    await collect(world, 50)
    assert [alloc.id for alloc in world.allocs()] == [done.id]
    await world.server.jobs.deregister(ANYONE, "default", "job")
    await world.settled()
    await collect(world, 50)
    assert world.allocs() == []


async def test_a_failed_allocation_that_may_be_rescheduled_stays(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(group=make_group(count=2, reschedule_policy=UNLIMITED.replace(delay_ns=48 * HOUR))))
    await world.until(
        lambda: [d.status for d in world.server.store.job_deployments("default", "job")] == ["successful"]
    )
    (failed, fine) = world.live()
    await world.fleet.report(failed, "failed")
    await world.fleet.report(fine, "complete")
    await world.settled()
    await collect(world, 10)
    assert failed.id in {alloc.id for alloc in world.allocs()}


async def test_what_could_not_be_read_back_is_not_proposed(autojump_clock: MockClock, world: World) -> None:
    index = world.server.store.index
    with pytest.raises(Bug, match="cannot be read back"):
        await world.server.propose(c.SetJobStability(job_id=7))  # type: ignore[arg-type]
    assert world.server.store.index == index
