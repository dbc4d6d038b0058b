"""How many more fit is what placing them one by one comes to, also on nodes that are gone or do not exist."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.errors import Invalid
from nomadpy.model.explanation import ExtraNodes, GroupCapacity
from nomadpy.model.job import Job
from nomadpy.model.resources import Constraint, DeviceInstance, NodeDevice, RequestedDevice, Resources
from nomadpy.scheduler.capacity import capacity, parse_extra

RACK = Constraint(l_target="${meta.rack}", operand="distinct_property", r_target="2")
ALONE = Constraint(operand="distinct_hosts", r_target="true")


def more_that_fit(world: World, job: Job) -> int:
    """What the scheduler itself places when the job asks for far more than there is room for."""
    before = len(world.live(job.id))
    groups = tuple(group.replace(count=group.count + 500) for group in job.task_groups)
    world.register(job.replace(task_groups=groups))
    world.run(job_id=job.id)
    return len(world.live(job.id)) - before


@st.composite
def wishes(draw: st.DrawFn) -> Job:
    devices: tuple[RequestedDevice, ...] = (RequestedDevice(name="gpu", count=1),) if draw(st.booleans()) else ()
    task = make_task().replace(
        resources=Resources(
            cpu=draw(st.integers(100, 900)),
            memory_mb=draw(st.integers(100, 900)),
            cores=draw(st.sampled_from((0, 0, 1, 3))),
            devices=devices,
        )
    )
    ports = draw(st.sampled_from((None, dynamic_ports("a"), dynamic_ports("a", "b"), static_port(80))))
    group = make_group(count=draw(st.integers(1, 2)), task=task, ports=ports)
    constraints = draw(st.sampled_from(((), (), (RACK,), (ALONE,))))
    return make_job(group=group, constraints=constraints, type=draw(st.sampled_from(("service", "batch"))))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    gpus = NodeDevice(
        vendor="v", type="gpu", name="g", instances=tuple(DeviceInstance(id=str(n), healthy=True) for n in range(3))
    )
    nodes = [
        make_node(
            number,
            cpu_mhz=draw(st.integers(500, 3000)),
            memory_mb=draw(st.integers(500, 3000)),
            meta={"rack": draw(st.sampled_from(("r1", "r2")))},
            resources={
                "devices": (gpus,),
                "min_dynamic_port": 20000,
                "max_dynamic_port": 20000 + draw(st.integers(0, 9)),
            },
            status=draw(st.sampled_from(("ready", "ready", "ready", "down"))),
        )
        for number in range(draw(st.integers(1, 5)))
    ]
    world = World(*nodes)
    other = make_group(count=draw(st.integers(1, 3)), task=make_task(cpu=300), ports=dynamic_ports("x"))
    world.deploy(make_job("other", group=other))
    return world


def one_group(world: World, job: Job, **options: object) -> GroupCapacity:
    stored = world.store.job(job.namespace, job.id) or job
    return capacity(world.store, stored, **options).groups["app"]  # type: ignore[arg-type]


@given(world=worlds(), job=wishes())
@settings(max_examples=150, deadline=None)
def test_the_capacity_is_what_the_scheduler_places(world: World, job: Job) -> None:
    world.deploy(job)
    said = one_group(world, job)
    assert said.exact
    assert said.fits == more_that_fit(world, job)


@given(world=worlds(), job=wishes(), gone=st.integers(0, 4))
@settings(max_examples=80, deadline=None)
def test_without_a_node_is_as_if_it_had_left(world: World, job: Job, gone: int) -> None:
    world.deploy(job)
    node_id = world.node_id(gone % len(world.store.columns.nodes))
    said = one_group(world, job, without=(node_id,))
    assert said.displaced == sum(alloc.node_id == node_id for alloc in world.live())
    world.set_node(int(node_id[-12:]), "down")
    kept = [alloc for alloc in world.live() if alloc.node_id != node_id]
    world.report("complete", *(alloc for alloc in world.live() if alloc.node_id == node_id))
    before = len(kept)
    stored = world.store.job("default", job.id)
    assert stored is not None
    group = stored.task_groups[0].replace(count=500)
    world.register(stored.replace(task_groups=(group,)))
    world.run(job_id=job.id)
    assert len([alloc for alloc in world.live() if alloc.client_status != "complete"]) - before == said.fits


@given(job=wishes(), cpu=st.integers(500, 4000), memory=st.integers(500, 4000), count=st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_with_extra_nodes_is_as_if_they_had_joined(job: Job, cpu: int, memory: int, count: int) -> None:
    gpu = NodeDevice(vendor="v", type="gpu", name="g", instances=(DeviceInstance(id="0", healthy=True),))
    facts = {"devices": (gpu,)}
    world = World(make_node(0, meta={"rack": "r1"}, resources=facts))
    world.deploy(job)
    said = one_group(world, job, extra=(ExtraNodes(cpu=cpu, memory_mb=memory, count=count),))
    for number in range(1, count + 1):
        world.add_node(make_node(number, cpu_mhz=cpu, memory_mb=memory, meta={"rack": "r1"}, resources=facts))
    assert said.fits == one_group(world, job).fits


def test_what_runs_out_first_is_counted_by_node() -> None:
    world = World(
        make_node(0, cpu_mhz=1000), make_node(1, memory_mb=512), make_node(2, cpu_mhz=600), make_node(3, status="down")
    )
    said = one_group(world, make_job())
    assert (said.fits, said.nodes, said.suitable) == (2 + 2 + 1, 3, 3)
    assert said.limits == {"cpu": 2, "memory": 1}
    assert said.runs_out_first == "cpu"
    assert said.asked == {"cpu": 500, "memory": 256, "disk": 300}


def test_a_static_port_limits_each_node_to_one() -> None:
    world = World(make_node(0), make_node(1))
    world.deploy(make_job("holder", group=make_group(ports=static_port(80))))
    said = one_group(world, make_job(group=make_group(ports=static_port(80))))
    assert (said.fits, said.limits) == (1, {"ports": 2})


def test_a_system_job_needs_the_nodes_that_lack_it() -> None:
    world = World(make_node(0), make_node(1))
    job = make_job(type="system")
    world.deploy(job)
    assert one_group(world, job).limits == {"one per node": 2}
    world.add_node(make_node(2))
    assert one_group(world, job).fits == 1


def test_nodes_that_nothing_is_known_of_have_what_the_job_asks_for() -> None:
    said = one_group(World(), make_job(), extra=(ExtraNodes(cpu=1000, memory_mb=1024, count=2),))
    assert (said.fits, said.limits) == (4, {"cpu": 2})


def test_asking_changes_nothing() -> None:
    world = World(make_node(0), make_node(1))
    world.deploy(make_job(count=2))
    before = world.store.columns.cpu_used.copy(), world.store.index, world.store.columns.ready.copy()
    one_group(world, make_job(), without=(world.node_id(0),), extra=(ExtraNodes(cpu=1, memory_mb=1),))
    assert (world.store.columns.cpu_used == before[0]).all()
    assert world.store.index == before[1]
    assert (world.store.columns.ready == before[2]).all()


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("4000,8192", ExtraNodes(cpu=4000, memory_mb=8192, count=1)),
        ("4000,8192,1000X2", ExtraNodes(cpu=4000, memory_mb=8192, disk_mb=1000, count=2)),
        ("4000,8192×3", ExtraNodes(cpu=4000, memory_mb=8192, count=3)),
    ],
)
def test_extra_nodes_are_written_short(text: str, nodes: ExtraNodes) -> None:
    assert parse_extra(text) == nodes


@pytest.mark.parametrize(
    "text", ["", "4000", "4000,8192x0", "4000,8192x5000", "a,b", "-1,2", "4000,8192x", "٣,٤", "9" * 30 + ",1"]
)
def test_what_describes_no_nodes_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"4000,8192x3|can be tried|larger than any"):
        parse_extra(text)
