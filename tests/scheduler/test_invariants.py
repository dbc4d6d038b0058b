"""Whatever happens in whatever order: plans hold together, and in the end there is what was asked for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task

from nomadpy.model.job import Job, ReschedulePolicy, UpdateStrategy
from nomadpy.model.resources import Constraint
from nomadpy.model.time import SECOND
from nomadpy.state import commands as c

POLICY = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="exponential", max_delay_ns=60 * SECOND, unlimited=True)
NODES = 4

actions = st.one_of(
    st.tuples(st.just("deploy"), st.integers(0, 9), st.integers(0, 3)),
    st.tuples(st.just("node"), st.integers(0, NODES - 1), st.sampled_from(("ready", "down"))),
    st.tuples(st.just("eligible"), st.integers(0, NODES - 1), st.sampled_from(("eligible", "ineligible"))),
    st.tuples(st.just("report"), st.integers(0, 9), st.sampled_from(("running", "failed", "complete"))),
    st.tuples(st.just("finish"), st.just(0), st.just(0)),
    st.tuples(st.just("migrate"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("stop"), st.just(0), st.just(0)),
)


def job(count: int, flavour: int, type: str) -> Job:
    group = make_group(
        count=count,
        ports=dynamic_ports("http") if flavour & 1 else None,
        task=make_task(cpu=700, env={"FLAVOUR": str(flavour)}),
        reschedule_policy=POLICY,
        update=UpdateStrategy(max_parallel=flavour, canary=2 if flavour == 3 else 0),
    )
    distinct = (Constraint(operand="distinct_hosts"),) if flavour == 2 else ()
    return make_job(type=type, group=group, constraints=distinct)


def act(world: World, type: str, action: tuple[str, int, object]) -> None:
    kind, number, value = action
    live = world.live()
    match kind:
        case "deploy":
            world.register(job(number, int(value), type))  # type: ignore[call-overload]
        case "node":
            world.set_node(number, str(value))
        case "eligible":
            world.apply(c.UpdateNodeEligibility(node_id=world.node_id(number), eligibility=str(value)))
        case "report" if live:
            world.report(str(value), live[number % len(live)])
        case "finish":
            world.report("complete", *(a for a in world.allocs() if a.server_terminal() and not a.client_terminal()))
        case "migrate" if live:
            world.flag(live[number % len(live)], migrate=True)
        case "stop":
            world.apply(c.DeregisterJob(job_id="job"))
    world.wait(3)
    world.run()


def watch(world: World) -> None:
    """Stands in for the watcher of deployments: failed allocations may be placed anew."""
    for alloc in world.allocs():
        if alloc.client_status == "failed" and alloc.deployment_id and not alloc.next_allocation:
            world.flag(alloc, reschedule=True)
    deployment = world.store.latest_deployment("default", "job")
    if deployment is not None and any(state.canarying() for state in deployment.task_groups.values()):
        # Canaries that are not healthy yet make this a refusal, which changes nothing.
        world.store.apply(world.store.index + 1, c.PromoteDeployment(deployment_id=deployment.id))


@given(st.sampled_from(("service", "batch")), st.lists(actions, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_every_plan_holds_together(type: str, history: list[tuple[str, int, object]]) -> None:
    world = World(*(make_node(n, cpu_mhz=2200) for n in range(NODES)))
    world.deploy(job(3, 0, type))
    for action in history:
        act(world, type, action)  # ``run`` has each plan checked by the independent checker


@given(st.lists(actions, max_size=10), st.integers(0, NODES), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_service_settles_at_its_count(history: list[tuple[str, int, object]], count: int, flavour: int) -> None:
    world = World(*(make_node(n, cpu_mhz=2200) for n in range(NODES)))
    world.deploy(job(3, 0, "service"))
    for action in history:
        act(world, "service", action)
    for number in range(NODES):
        world.set_node(number, "ready")
        world.apply(c.UpdateNodeEligibility(node_id=world.node_id(number), eligibility="eligible"))
    world.register(job(count, flavour, "service"))
    for _ in range(12):
        decision = world.run()
        world.report("complete", *(a for a in world.allocs() if a.server_terminal() and not a.client_terminal()))
        watch(world)
        world.judge(*world.live())
        world.wait(100)
    assert len(world.names()) == count
    assert (decision.placed, decision.plan.stops, decision.plan.in_place) == (0, (), ())
    current = world.store.job("default", "job")
    assert current is not None
    assert {a.job.job_modify_index for a in world.live() if a.job} <= {current.job_modify_index}


@given(st.sampled_from(("system", "sysbatch")), st.lists(actions, max_size=10), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_a_system_job_settles_on_every_node(type: str, history: list[tuple[str, int, object]], flavour: int) -> None:
    world = World(*(make_node(n, cpu_mhz=2200) for n in range(NODES)))
    world.deploy(job(1, 0, type))
    for action in history:
        act(world, type, action)
    for number in range(NODES):
        world.set_node(number, "ready")
        world.apply(c.UpdateNodeEligibility(node_id=world.node_id(number), eligibility="eligible"))
    world.register(job(1, flavour, type).replace(meta={"final": "yes"}))
    for _ in range(12):
        decision = world.run()
        world.report("complete", *(a for a in world.allocs() if a.server_terminal() and not a.client_terminal()))
        world.report("running", *world.live())
    assert world.by_node() == dict.fromkeys(range(NODES), 1)
    assert (decision.placed, decision.plan.stops) == (0, ())


@given(st.integers(1, 40), st.integers(1, 6), st.integers(100, 900), st.booleans())
@settings(max_examples=60, deadline=None)
def test_as_many_are_placed_as_fit(count: int, nodes: int, cpu: int, ports: bool) -> None:
    world = World(*(make_node(n, cpu_mhz=2000) for n in range(nodes)))
    group = make_group(
        count=count, task=make_task(cpu=cpu, memory_mb=1), ports=dynamic_ports("http") if ports else None
    )
    decision = world.deploy(make_job(group=group))
    assert decision.placed == min(count, nodes * (2000 // cpu))
    assert decision.evaluation.queued_allocations["app"] == count - decision.placed
