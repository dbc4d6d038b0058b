"""Verdicts on single nodes and plans, what would help, annotations, and a fleet that lives on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.explanation import GroupExplanation
from nomadpy.model.job import Job, VolumeRequest
from nomadpy.model.node import DrainStrategy, DriverInfo, HostVolume, PreemptionConfig
from nomadpy.model.resources import Constraint, NodeCpu, RequestedDevice, Resources
from nomadpy.scheduler import Fleet, explain, explain_plan
from nomadpy.state.overlay import Overlay


def test_every_reason_is_given_for_every_node() -> None:
    world = World(
        make_node(0),
        make_node(1, cpu_mhz=100, drivers=()),
        make_node(2, datacenter="dc9", status="down"),
        make_node(3),
    )
    world.deploy(make_job("holder", group=make_group(ports=static_port(80))))
    linux = Constraint(l_target="${attr.kernel.name}", operand="=", r_target="linux")
    job = make_job(constraints=(linux,), group=make_group(ports=static_port(80)))
    verdicts = explain(world.store, job, job.task_groups[0])
    assert [verdict.reasons for verdict in verdicts] == [
        ("network: reserved port collision http=80",),
        ("missing drivers", "cpu"),
        ("node is down", "datacenter"),
        (),
    ]
    assert verdicts[3].norm_score == pytest.approx(verdicts[3].scores["binpack"])


def test_a_dry_run_is_annotated_and_creates_what_the_real_one_would() -> None:
    world = World(make_node(0, cpu_mhz=1000))
    world.register(make_job(count=3))
    decision = world.decide(world.evaluation(), annotate=True)
    assert decision.evaluation.plan_annotations is not None
    assert decision.evaluation.plan_annotations.desired_tg_updates["app"].place == 3
    assert world.decide(world.evaluation()).evaluation.plan_annotations is None
    assert [each.status for each in decision.created] == ["blocked"]


def test_a_fleet_hands_its_facts_on_until_nodes_change() -> None:
    world = World(make_node(0))
    first = Fleet(world.store)
    second = Fleet(world.store, first)
    assert second.facts is first.facts
    world.add_node(make_node(1))
    assert Fleet(world.store, second).facts is not first.facts


def test_the_same_question_gets_the_same_answer() -> None:
    def plan(seed: int) -> object:
        world = World(*(make_node(n) for n in range(5)), seed=seed)
        world.register(make_job(count=7))
        return world.decide(world.evaluation()).plan.places[0].nodes

    assert plan(1) == plan(2)


LINUX = Constraint(l_target="${attr.kernel.name}", operand="=", r_target="linux")


def planned(world: World, job: Job) -> GroupExplanation:
    view = Overlay(world.store, job)
    world.store, store = view, world.store  # type: ignore[assignment]
    decision = world.decide(world.evaluation(job.id, type=job.type))
    world.store = store
    return explain_plan(view, job, decision)["app"]


def details(world: World, job: Job, number: int = 0) -> list[str]:
    return [obstacle.detail for obstacle in explain(world.store, job, job.task_groups[0])[number].obstacles]


def failure(world: World, job: Job) -> AllocMetric:
    world.register(job)
    return world.decide(world.evaluation(job.id)).evaluation.failed_tg_allocs["app"]


def test_reasons_come_with_what_was_found_on_the_node() -> None:
    node = make_node(
        datacenter="dc2",
        node_pool="gpu",
        cpu_mhz=400,
        drivers=(),
        host_volumes={"data": HostVolume(name="data", read_only=True)},
        attributes={"kernel.name": "plan9"},
        scheduling_eligibility="ineligible",
        node_max_allocs=1,
    ).replace(drivers={"docker": DriverInfo(detected=True, healthy=False, health_description="no daemon")})
    world = World(node)
    task = make_task().replace(constraints=(LINUX,))
    resources = task.resources.replace(devices=(RequestedDevice(name="nvidia/gpu", count=1),))
    wants = {"data": VolumeRequest(name="data", type="host", source="data")}
    group = make_group(task=task.replace(resources=resources), volumes=wants, ports=dynamic_ports("a"))
    assert details(world, make_job(group=group)) == [
        "node is not eligible for scheduling",
        'datacenter is "dc2"; the job wants dc1',
        'node pool is "gpu"; the job wants "default"',
        'driver "docker" is detected but not healthy: no daemon',
        'constraint ${attr.kernel.name} = linux: ${attr.kernel.name} is "plan9" there',
        "device nvidia/gpu: none there",
        'host volume "data" is read-only there; the job wants to write',
        "cpu: asks 500 MHz, 400 free of 400 (short by 100 MHz)",
    ]


def test_draining_and_down_are_told_apart() -> None:
    world = World(make_node(0, status="down", drain_strategy=DrainStrategy(), scheduling_eligibility="ineligible"))
    assert details(world, make_job()) == ["node is down", "node is draining"]


def test_who_holds_a_port_is_named() -> None:
    world = World(make_node(0))
    world.deploy(make_job("holder", group=make_group(ports=static_port(80))))
    [text] = details(world, make_job(group=make_group(ports=static_port(80))))
    assert text.startswith('port http=80 is taken by job "holder" (allocation ')


def test_a_plan_that_places_everything_shows_the_nodes_as_it_found_them() -> None:
    world = World(make_node(0), make_node(1, cpu_mhz=8000))
    world.deploy(make_job("other", count=1))
    told = planned(world, make_job(count=1))
    assert not told.after_plan
    assert (told.node_count, told.fit_count) == (2, 2)
    assert told.nodes[0].norm_score >= told.nodes[1].norm_score
    assert told.nodes[0].node_id == world.node_id(0)
    assert told.would_help == ()


def test_a_plan_that_fails_shows_the_nodes_as_it_leaves_them() -> None:
    world = World(make_node(0, cpu_mhz=1200), make_node(1, datacenter="dc2"))
    told = planned(world, make_job(count=4))
    assert (told.after_plan, told.unplaced, told.fit_count) == (True, 2, 0)
    assert told.nodes[0].holds == 2
    assert told.nodes[0].obstacles[0].detail == "cpu: asks 500 MHz, 200 free of 1200 (short by 300 MHz)"
    assert [refusal.reasons for refusal in told.refusals] == [("cpu",), ("datacenter",)]
    assert [help.text for help in told.would_help] == [
        "300 MHz more cpu on node-0; or asking for 200 MHz cpu instead of 500",
        '"dc2" among the job\'s datacenters: node-1',
    ]


def test_room_that_a_plan_makes_by_evicting_counts_as_free() -> None:
    world = World(make_node(0, cpu_mhz=600))
    world.configure(preemption_config=PreemptionConfig(service_scheduler_enabled=True))
    world.deploy(make_job("lesser", priority=20))
    told = planned(world, make_job(count=2, priority=90))
    assert (told.after_plan, told.unplaced) == (True, 1)
    assert told.nodes[0].obstacles[0].detail == "cpu: asks 500 MHz, 100 free of 600 (short by 400 MHz)"
    one = planned(world, make_job(count=1, priority=90))
    assert (one.after_plan, one.fit_count) == (False, 1)


def test_large_clusters_are_told_by_their_best_and_by_examples() -> None:
    world = World(*(make_node(n, drivers=("exec",) if n % 3 else ("docker",)) for n in range(300)))
    told = planned(world, make_job())
    assert (told.node_count, told.fit_count, len(told.nodes)) == (300, 100, 13)
    assert [(refusal.reasons, refusal.count) for refusal in told.refusals] == [(("missing drivers",), 200)]


def test_a_system_job_says_where_it_is_already() -> None:
    world = World(make_node(0), make_node(1, cpu_mhz=100))
    world.deploy(make_job(type="system"))
    stored = world.store.job("default", "job")
    assert stored is not None
    told = planned(world, stored)
    assert [refusal.reasons for refusal in told.refusals] == [("has its allocation already",), ("cpu",)]
    assert told.would_help[0].lacking == {"cpu": 400}


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ({"drivers": ("exec",)}, 'a working driver "docker" on node-0'),
        ({"attributes": {}}, 'one constraint away ("${attr.kernel.name} = linux"): node-0'),
        ({"status": "down"}, "node is down, or else it would fit: node-0"),
        ({"node_pool": "gpu"}, 'node pool "gpu": node-0'),
        ({"memory_mb": 200}, "asking for 200 MB memory instead of 256, for node-0"),
    ],
)
def test_what_would_help_is_recorded(node: dict[str, Any], text: str) -> None:
    job = make_job(group=make_group(count=1), constraints=(LINUX,))
    assert [help.text for help in failure(World(make_node(0, **node)), job).would_help] == [text]


def test_one_port_that_is_taken_is_recorded() -> None:
    world = World(make_node(0), make_node(1, cpu_mhz=100))
    world.deploy(make_job("holder", group=make_group(ports=static_port(80))))
    metric = failure(world, make_job(group=make_group(ports=static_port(80))))
    assert [help.kind for help in metric.would_help] == ["resources", "port"]
    assert metric.would_help[1].text == "port http=80 free on node-0"


def test_where_two_things_are_in_the_way_both_are_named() -> None:
    world = World(make_node(0, drivers=(), attributes={}), make_node(1, drivers=(), attributes={}, cpu_mhz=100))
    [help] = failure(world, make_job(constraints=(LINUX,))).would_help
    assert help.text == "2 changes at once (${attr.kernel.name} = linux; missing drivers): node-0"
    assert help.kind == "several"


def test_preemption_that_is_switched_off_would_help() -> None:
    world = World(make_node(0, cpu_mhz=600), make_node(1, cpu_mhz=600))
    world.deploy(make_job("minor", count=1, priority=20))
    world.deploy(make_job("lesser", count=1, priority=30))
    job = make_job(priority=50)
    [room, preemption] = failure(world, job).would_help
    assert (room.kind, preemption.kind) == ("resources", "preemption")
    text = 'preemption switched on for service jobs: 1 allocation of job "minor" would make room on node-0'
    assert preemption.text == text
    assert [help.text for help in planned(world, job).would_help] == [room.text, text]
    world.configure(preemption_config=PreemptionConfig(service_scheduler_enabled=True))
    assert planned(world, job).unplaced == 0, "as it was told"


def test_a_higher_priority_would_help_where_preemption_is_on() -> None:
    world = World(make_node(0, cpu_mhz=600), make_node(1, cpu_mhz=600))
    world.configure(preemption_config=PreemptionConfig(service_scheduler_enabled=True))
    world.deploy(make_job("a", priority=55))
    world.deploy(make_job("b", priority=45))
    told = failure(world, make_job(priority=50)).would_help[-1]
    assert told.text == 'priority 55 instead of 50: 1 allocation of job "b" would make room on node-1'
    assert failure(world, make_job(priority=54)).would_help[-1] == told.replace(
        text=told.text.replace("of 50", "of 54")
    )
    assert planned(world, make_job(priority=55)).unplaced == 0


@pytest.mark.parametrize("type", ["service", "system"])
def test_preemption_is_no_help_where_nobody_could_go(type: str) -> None:
    world = World(make_node(0, cpu_mhz=600))
    world.deploy(make_job("high", priority=95))
    assert [help.kind for help in failure(world, make_job(priority=60, type=type)).would_help] == ["resources"]
    assert [help.kind for help in failure(world, make_job("same", priority=60)).would_help] == ["resources"]


def test_the_priority_that_a_system_job_would_need_is_told_of_its_own_nodes() -> None:
    world = World(make_node(0, cpu_mhz=600), make_node(1, cpu_mhz=600, drivers=("exec",)))
    world.deploy(make_job("mid", priority=50))
    told = failure(world, make_job("agent", priority=55, type="system")).would_help[-1]
    assert told.text == 'priority 60 instead of 55: 1 allocation of job "mid" would make room on node-0'


def test_cores_that_nobody_gives_up_are_no_room() -> None:
    """Who is evicted for cpu may not be the one who holds the cores."""
    cores = {"cpu": NodeCpu(cpu_shares=2000, total_cpu_cores=2, reservable_cpu_cores=(0,))}
    world = World(make_node(0, resources=cores))
    owner = make_task(cpu=0).replace(resources=Resources(cores=1, memory_mb=8000))
    world.deploy(make_job("owner", priority=95, group=make_group(task=owner)))
    world.deploy(make_job("lesser", priority=20, group=make_group(task=make_task(cpu=900, memory_mb=100))))
    world.configure(preemption_config=PreemptionConfig(service_scheduler_enabled=True))
    wants = make_task(cpu=0).replace(resources=Resources(cores=1, memory_mb=150))
    metric = failure(world, make_job(priority=80, group=make_group(task=wants)))
    assert metric.dimension_exhausted == {"cores": 1}
    assert "preemption" not in {help.kind for help in metric.would_help}


def test_without_any_node_nothing_would_help() -> None:
    assert failure(World(), make_job()).would_help == ()


@given(
    sizes=st.lists(st.tuples(st.integers(100, 2000), st.integers(100, 2000)), min_size=1, max_size=5),
    cpu=st.integers(100, 2500),
    memory=st.integers(100, 2500),
)
@settings(max_examples=100, deadline=None)
def test_room_that_would_help_does_help(sizes: list[tuple[int, int]], cpu: int, memory: int) -> None:
    world = World(*(make_node(n, cpu_mhz=c, memory_mb=m) for n, (c, m) in enumerate(sizes)))
    job = make_job(group=make_group(task=make_task(cpu=cpu, memory_mb=memory)))
    world.register(job)
    failed = world.decide(world.evaluation()).evaluation.failed_tg_allocs
    if any(c >= cpu and m >= memory for c, m in sizes):
        assert not failed
        return
    helps = failed["app"].would_help
    assert helps
    for help in helps:
        task = make_task(cpu=cpu - help.lacking.get("cpu", 0), memory_mb=memory - help.lacking.get("memory", 0))
        world.register(make_job(group=make_group(task=task)))
        [block] = world.decide(world.evaluation()).plan.places
        assert world.store.columns.nodes[block.nodes[0]].id in help.nodes  # type: ignore[union-attr]


@given(sizes=st.lists(st.integers(100, 400), min_size=1, max_size=5), asked=st.integers(401, 900))
def test_the_least_that_helps_is_named(sizes: list[int], asked: int) -> None:
    world = World(*(make_node(n, memory_mb=size) for n, size in enumerate(sizes)))
    [help] = failure(world, make_job(group=make_group(task=make_task(memory_mb=asked)))).would_help
    assert help.lacking == {"memory": asked - max(sizes)}
    assert help.node_count == sizes.count(max(sizes))


def test_cores_of_its_own_count_with_the_speed_of_the_node() -> None:
    world = World(make_node(0, resources={"cpu": NodeCpu(cpu_shares=2000, reservable_cpu_cores=(0, 1))}))
    task = make_task(cpu=0).replace(resources=Resources(cores=1, memory_mb=100))
    world.deploy(make_job("other", group=make_group(task=make_task(cpu=1500))))
    job = make_job(group=make_group(task=task))
    [text] = details(world, job)
    assert text == "cpu: asks 1000 MHz, 500 free of 2000 (short by 500 MHz)"
    assert failure(world, job).would_help[0].lacking == {"cpu": 500}
