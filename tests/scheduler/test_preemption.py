"""Lesser jobs make room: who has to go, where, and what is known of it afterwards."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.demand import Demand
from nomadpy.model.job import Job, MigrateStrategy
from nomadpy.model.node import PreemptionConfig
from nomadpy.model.resources import (
    DeviceInstance,
    NodeDevice,
    RequestedDevice,
    Resources,
)
from nomadpy.scheduler import Fleet
from nomadpy.scheduler.preemption import choose_victims
from nomadpy.state import commands as c
from nomadpy.state.view import Claim

EVERYBODY = PreemptionConfig(
    system_scheduler_enabled=True,
    sys_batch_scheduler_enabled=True,
    batch_scheduler_enabled=True,
    service_scheduler_enabled=True,
)


def sized(name: str, *, cpu: int, priority: int, count: int = 1, memory_mb: int = 256, **changes: Any) -> Job:
    task = make_task(cpu=cpu, memory_mb=memory_mb)
    group = make_group(count=count, task=task, **changes.pop("group", {}))
    return make_job(name, group=group, priority=priority, **changes)


def full(count: int = 1, *, cpu: int = 4000, priority: int = 20, **changes: Any) -> World:
    """Nodes of 4000 MHz, each filled by one allocation of the job ``low``."""
    world = World(*(make_node(n) for n in range(count)))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("low", cpu=cpu, priority=priority, count=count, **changes))
    assert len(world.live("low")) == count
    return world


def evicted(world: World, job_id: str = "low") -> list[str]:
    return [a.id for a in world.allocs(job_id) if a.desired_status == "evict"]


# --- the story --------------------------------------------------------------------------------------------------------


def test_the_lesser_one_goes_and_both_know_of_each_other() -> None:
    world = full()
    [victim] = world.live("low")
    decision = world.deploy(sized("high", cpu=1000, priority=70))
    [winner] = world.live("high")
    victim = world.store.alloc(victim.id) or victim
    assert (victim.desired_status, victim.preempted_by_allocation) == ("evict", winner.id)
    assert victim.desired_description == f"Preempted by alloc ID {winner.id}"
    assert victim.client_status == "pending", "it is its node that says when it is over"
    assert winner.preempted_allocations == (victim.id,)
    assert decision.desired["app"].preemptions == 1
    [follow_up] = [e for e in decision.created if e.triggered_by == "preemption"]
    assert (follow_up.job_id, follow_up.type, follow_up.priority, follow_up.status) == ("low", "service", 20, "pending")
    assert winner.metrics is not None
    assert winner.metrics.score_meta_data[0].scores["preemption"] > 0.9
    again = world.run(follow_up, job_id="low")
    assert (again.placed, again.evaluation.queued_allocations) == (0, {"app": 1})
    assert len(evicted(world)) == 1, "the loser is not stopped a second time"


def test_a_plan_names_who_would_have_to_go() -> None:
    world = full(2)
    world.register(sized("high", cpu=4000, priority=70))
    decision = world.decide(world.evaluation("high"), annotate=True)
    annotations = decision.evaluation.plan_annotations
    assert annotations is not None
    [stub] = annotations.preempted_allocs
    assert (stub.job_id, stub.job_type, stub.task_group, stub.desired_status) == ("low", "service", "app", "run")
    assert annotations.desired_tg_updates["app"].preemptions == 1
    assert evicted(world) == []


@pytest.mark.parametrize(("gap", "goes"), [(9, 0), (10, 1)])
def test_the_gap_is_ten(gap: int, goes: int) -> None:
    world = full(priority=50)
    assert world.deploy(sized("high", cpu=1000, priority=50 + gap)).placed == goes
    assert len(evicted(world)) == goes


@pytest.mark.parametrize("type", ["service", "batch", "system", "sysbatch"])
@pytest.mark.parametrize("on", [False, True])
def test_each_kind_of_job_has_its_switch(type: str, on: bool) -> None:
    world = full()
    field = {"sysbatch": "sys_batch"}.get(type, type) + "_scheduler_enabled"
    others = {name: not on for name in PreemptionConfig.__struct_fields__ if name != field}
    world.configure(preemption_config=PreemptionConfig(**{**others, field: on}))
    assert world.deploy(sized("high", cpu=1000, priority=70, type=type)).placed == on


def test_by_default_only_system_jobs_take_room() -> None:
    world = full()
    world.configure()
    assert world.deploy(sized("high", cpu=1000, priority=70)).placed == 0
    assert world.deploy(sized("agent", cpu=1000, priority=70, type="system")).placed == 1


def test_nobody_goes_while_there_is_room_elsewhere() -> None:
    world = full(2)
    world.add_node(make_node(2))
    decision = world.deploy(sized("high", cpu=3000, priority=70))
    assert (decision.placed, decision.evicted, world.by_node("high")) == (1, (), {2: 1})


def test_a_system_job_takes_room_only_where_it_must() -> None:
    world = full(3)
    world.add_node(make_node(3))
    decision = world.deploy(sized("agent", cpu=100, priority=80, type="system"))
    assert world.by_node("agent") == {0: 1, 1: 1, 2: 1, 3: 1}
    assert (decision.desired["app"].place, decision.desired["app"].preemptions) == (4, 3)


def test_no_more_room_is_taken_than_would_help() -> None:
    world = full(cpu=4000, priority=20)
    decision = world.deploy(sized("high", cpu=5000, priority=70))
    assert (decision.placed, decision.evicted) == (0, ())


def test_a_job_does_not_evict_its_own() -> None:
    world = World(make_node(0))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("job", cpu=4000, priority=20))
    decision = world.deploy(sized("job", cpu=4000, priority=90, count=2))
    assert (decision.placed, decision.evicted) == (0, ())


def test_many_are_placed_one_by_one_with_room_left_over_used_first() -> None:
    world = full(2)
    decision = world.deploy(sized("high", cpu=2000, priority=70, count=4))
    assert (decision.placed, len(decision.evicted), world.by_node("high")) == (4, 2, {0: 2, 1: 2})


def test_an_update_takes_room_too() -> None:
    world = World(make_node(0))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("high", cpu=1000, priority=70))
    world.deploy(sized("low", cpu=3000, priority=20))
    decision = world.deploy(sized("high", cpu=2000, priority=70))
    assert (decision.placed, len(evicted(world))) == (1, 1)
    assert world.live("high")[0].preempted_allocations == tuple(evicted(world))


# --- who --------------------------------------------------------------------------------------------------------------


def test_the_least_important_go_first() -> None:
    world = World(make_node(0))
    world.configure(preemption_config=EVERYBODY)
    for priority in (40, 10, 30):
        world.deploy(sized(f"p{priority}", cpu=1300, priority=priority))
    world.deploy(sized("high", cpu=2500, priority=70))
    assert [len(evicted(world, f"p{p}")) for p in (10, 30, 40)] == [1, 1, 0]


def test_the_node_where_less_important_ones_go_is_preferred() -> None:
    world = World(make_node(0), make_node(1))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("middle", cpu=4000, priority=60))
    world.deploy(sized("low", cpu=4000, priority=5))
    assert world.by_node("low") == {1: 1}
    world.deploy(sized("high", cpu=4000, priority=90))
    assert world.by_node("high") == {1: 1}


def claim(name: str, cpu: int = 0, memory: int = 0, *, priority: int = 20, parallel: int = 0) -> Claim:
    job, _, _ = name.partition("/")
    return Claim(
        alloc_id=name,
        namespace="default",
        job_id=job,
        group="app",
        priority=priority,
        demand=Demand(cpu, memory, 0),
        migrate_parallel=parallel,
    )


def chosen(ask: Demand, *claims: Claim, free: Demand | None = None, lost: int = 0) -> list[str] | None:
    losing = {("default", "a", "app"): lost}
    found = choose_victims(ask, free or Demand(), claims, losing)
    return None if found is None else sorted(each.alloc_id for each in found)


def test_the_closest_in_size_goes() -> None:
    assert chosen(Demand(1000, 1000), claim("a", 3000, 3000), claim("b", 1100, 1000), claim("c", 200, 100)) == ["b"]


def test_what_turns_out_needless_stays() -> None:
    """900 is closest to 1000, but with the 2000 that has to go as well it is not needed any more."""
    ask = Demand(1000, 1000)
    assert chosen(ask, claim("small", 900, 100), claim("large", 2000, 2000)) == ["large"]


def test_a_group_is_spared_beyond_what_it_lets_move_at_a_time() -> None:
    ask = Demand(1000, 100)
    equal, other = claim("a/1", 1000, 100, parallel=1), claim("b/1", 3000, 3000, parallel=1)
    assert chosen(ask, equal, other) == ["a/1"]
    assert chosen(ask, equal, other, lost=1) == ["b/1"], "a loses one already"
    assert chosen(ask, equal, lost=5) == ["a/1"], "sparing is a wish, not a rule"


def test_what_is_free_counts() -> None:
    assert chosen(Demand(1000, 100), claim("a", 300, 100), claim("b", 900, 900), free=Demand(800, 100)) == ["a"]


def test_all_together_may_not_be_enough() -> None:
    assert chosen(Demand(1000, 100), claim("a", 300), claim("b", 600, 900)) is None


sizes = st.integers(1, 6)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(sizes, sizes, st.sampled_from([10, 20, 30])), max_size=7), sizes, sizes, sizes, sizes)
def test_those_chosen_are_enough_and_none_of_a_more_important_kind_is_needless(
    held: list[tuple[int, int, int]], cpu: int, memory: int, free_cpu: int, free_memory: int
) -> None:
    claims = [claim(str(n), c, m, priority=p) for n, (c, m, p) in enumerate(held)]
    ask, free = Demand(cpu * 3, memory * 3), Demand(free_cpu, free_memory)
    found = choose_victims(ask, free, claims, {})

    def enough(some: list[Claim]) -> bool:
        return (
            free.cpu + sum(each.demand.cpu for each in some) >= ask.cpu
            and free.memory + sum(each.demand.memory for each in some) >= ask.memory
        )

    if found is None:
        assert not enough(claims)
        return
    assert enough(found)
    if not found:
        return
    highest = max(each.priority for each in found)
    assert not enough([each for each in claims if each.priority < highest]), "more important ones go only if they must"
    assert not enough(found[:-1]), "the last one that was taken was needed"


# --- ports and devices ------------------------------------------------------------------------------------------------


def test_the_holder_of_a_static_port_goes() -> None:
    world = full(cpu=500, group={"ports": static_port(8080)})
    decision = world.deploy(sized("high", cpu=500, priority=70, group={"ports": static_port(8080)}))
    assert (decision.placed, len(evicted(world))) == (1, 1)
    assert world.deploy(sized("next", cpu=500, priority=75, group={"ports": static_port(8080)})).placed == 0


def test_a_port_of_somebody_important_is_not_taken() -> None:
    world = full(cpu=500, priority=65, group={"ports": static_port(8080)})
    decision = world.deploy(sized("high", cpu=500, priority=70, group={"ports": static_port(8080)}))
    assert (decision.placed, decision.evicted) == (0, ())
    assert decision.evaluation.failed_tg_allocs["app"].dimension_exhausted == {
        "network: reserved port collision http=8080": 1
    }


def test_port_and_room_are_taken_together() -> None:
    world = World(make_node(0))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("web", cpu=500, priority=20, group={"ports": static_port(80)}))
    world.deploy(sized("bulk", cpu=3000, priority=20))
    world.deploy(sized("high", cpu=2000, priority=70, group={"ports": static_port(80)}))
    assert [len(evicted(world, name)) for name in ("web", "bulk")] == [1, 1]


def gpus(count: int, priority: int) -> dict[str, Any]:
    task = make_task(resources=Resources(cpu=100, memory_mb=64, devices=(RequestedDevice(name="gpu", count=count),)))
    return {"group": make_group(task=task), "priority": priority}


def test_devices_are_taken_from_the_least_important() -> None:
    instances = tuple(DeviceInstance(id=f"gpu-{n}", healthy=True) for n in range(3))
    device = NodeDevice(vendor="nvidia", type="gpu", name="1080ti", instances=instances)
    world = World(make_node(0, resources={"devices": (device,)}))
    world.configure(preemption_config=EVERYBODY)
    for name, priority in (("a", 30), ("b", 10), ("c", 20)):
        world.deploy(make_job(name, **gpus(1, priority)))
    decision = world.deploy(make_job("high", **gpus(2, 70)))
    assert decision.placed == 1
    assert [len(evicted(world, name)) for name in ("a", "b", "c")] == [0, 1, 1]


# --- one room, taken once ---------------------------------------------------------------------------------------------


def test_two_evaluations_of_a_batch_do_not_take_the_same_one() -> None:
    world = full(2, cpu=4000)
    for name in ("one", "two", "three"):
        world.register(sized(name, cpu=3000, priority=70))
    fleet, decisions = Fleet(world.store), []
    for name in ("one", "two", "three"):
        decision = world.decide(world.evaluation(name), fleet=fleet)
        fleet.commit(decision)
        decisions.append(decision)
    assert [decision.placed for decision in decisions] == [1, 1, 0]
    assert len({alloc_id for decision in decisions for alloc_id in decision.evicted}) == 2
    refused = world.apply(c.ApplyPlans(plans=tuple(d.plan for d in decisions), now_ns=world.now_ns))
    assert refused == [0, 0, 0]


def test_room_that_is_on_its_way_is_not_made_again() -> None:
    """While the first loser still runs, the node is promised to the winner; nobody else has to go for the next one."""
    world = World(make_node(0))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(sized("low", cpu=2000, priority=20, count=2))
    world.deploy(sized("first", cpu=2000, priority=70))
    assert len(evicted(world)) == 1
    assert world.deploy(sized("second", cpu=1000, priority=70)).placed == 0
    [gone] = [a for a in world.allocs("low") if a.desired_status == "evict"]
    world.report("complete", gone)
    assert world.run(job_id="second").placed == 1
    assert len(evicted(world)) == 2


def test_a_plan_made_for_a_loser_who_is_promised_to_another_is_refused() -> None:
    world = full()
    plans = []
    for name in ("one", "two"):
        world.register(sized(name, cpu=3000, priority=70))
        plans.append(world.decide(world.evaluation(name)).plan)
    assert world.apply(c.ApplyPlans(plans=tuple(plans), now_ns=world.now_ns)) == [0, 1]
    assert (len(world.live("one")), len(world.live("two")), len(evicted(world))) == (1, 0, 1)


def test_a_loser_that_ended_meanwhile_is_left_alone() -> None:
    world = full()
    world.register(sized("high", cpu=3000, priority=70))
    decision = world.decide(world.evaluation("high"))
    world.report("complete", *world.live("low"))
    assert world.apply(c.ApplyPlans(plans=(decision.plan,), now_ns=world.now_ns)) == [0]
    assert (len(world.live("high")), evicted(world)) == (1, [])


def test_who_is_spared_by_a_refused_placement_stays() -> None:
    """The node went away from under the plan: nothing is placed there, so nobody has to go."""
    world = full()
    world.register(sized("high", cpu=3000, priority=70))
    decision = world.decide(world.evaluation("high"))
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(0), eligibility="ineligible"))
    assert world.apply(c.ApplyPlans(plans=(decision.plan,), now_ns=world.now_ns)) == [1]
    assert evicted(world) == []


@pytest.mark.parametrize("seed", range(60))
def test_random_clusters_stay_in_order(seed: int) -> None:
    """``World.run`` holds every plan against the plan checker, and the applier must not refuse any of it."""
    rng = random.Random(seed)
    world = World(*(make_node(n, cpu_mhz=rng.choice((2000, 4000))) for n in range(rng.randint(1, 4))), seed=seed)
    world.configure(preemption_config=EVERYBODY)
    for number in range(rng.randint(3, 9)):
        ports = {"ports": static_port(80)} if rng.random() < 0.3 else {}
        group = {"migrate": MigrateStrategy(max_parallel=rng.randint(1, 2)), **ports}
        job = sized(
            f"job{number}",
            cpu=rng.choice((300, 900, 1900)),
            priority=rng.choice((10, 20, 50, 70, 90)),
            count=rng.randint(1, 3),
            type=rng.choice(("service", "batch", "system")),
            group=group,
        )
        job = job.replace(task_groups=(job.task_groups[0].replace(count=1),)) if job.type == "system" else job
        decision = world.deploy(job)
        for follow_up in decision.created:
            if follow_up.triggered_by == "preemption":
                world.run(follow_up, job_id=follow_up.job_id)
        for alloc_id in decision.evicted:
            victim = world.store.alloc(alloc_id)
            if victim is not None and rng.random() < 0.7:
                world.report("complete", victim)
    held: Counter[str] = Counter()
    for node in world.store.columns.nodes:
        assert node is not None
        for alloc in world.store.allocs_by_node(node.id):
            assert (alloc.desired_status == "evict") == bool(alloc.preempted_by_allocation)
            if not alloc.terminal() and alloc.job is not None:
                held[node.id] += alloc.job.task_groups[0].tasks[0].resources.cpu
        assert held[node.id] <= node.node_resources.cpu.cpu_shares, "what is wanted fits"


def test_what_is_missing_even_then_is_told() -> None:
    """The holder of the static port could go, but the only dynamic port is taken by somebody who may stay."""
    world = World(make_node(0, resources={"min_dynamic_port": 20000, "max_dynamic_port": 20000}))
    world.configure(preemption_config=EVERYBODY)
    world.deploy(make_job("stays", group=make_group(ports=dynamic_ports("a")), priority=90))
    world.deploy(make_job("goes", group=make_group(ports=static_port(80)), priority=20))
    both = static_port(80).replace(dynamic_ports=dynamic_ports("a").dynamic_ports)
    decision = world.deploy(make_job("high", group=make_group(ports=both), priority=70))
    assert (decision.placed, decision.evicted) == (0, ())
    metric = decision.evaluation.failed_tg_allocs["app"]
    assert (metric.nodes_exhausted, len(metric.dimension_exhausted)) == (1, 1)
    assert evicted(world, "goes") == []
