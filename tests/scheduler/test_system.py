"""System and sysbatch jobs: one on every node that can."""

from __future__ import annotations

import pytest
from scheduler_world import World, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.job import Job, UpdateStrategy
from nomadpy.model.resources import Constraint
from nomadpy.state import commands as c


def cluster(count: int = 3) -> World:
    return World(*(make_node(n) for n in range(count)))


def system(**changes: object) -> Job:
    return make_job(**{"type": "system", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("type", ["system", "sysbatch"])
def test_every_node_gets_one_and_new_nodes_too(type: str) -> None:
    world = cluster()
    assert world.deploy(system(type=type)).placed == 3
    assert world.run().placed == 0
    world.add_node(make_node(3))
    assert world.run().placed == 1
    assert world.by_node() == {0: 1, 1: 1, 2: 1, 3: 1}
    assert world.names() == [0, 0, 0, 0]


def test_static_ports_on_every_node() -> None:
    world = cluster()
    assert world.deploy(system(group=make_group(ports=static_port(9100)))).placed == 3


def test_nodes_that_the_constraints_rule_out_are_no_failure() -> None:
    world = World(make_node(0), make_node(1, meta={"disk": "ssd"}))
    ssd = Constraint(l_target="${meta.disk}", operand="=", r_target="ssd")
    decision = world.deploy(system(constraints=(ssd,)))
    assert (decision.placed, decision.evaluation.failed_tg_allocs) == (1, {})
    nvme = Constraint(l_target="${meta.disk}", operand="=", r_target="nvme")
    decision = world.deploy(system(job_id="other", constraints=(nvme,)))
    assert decision.evaluation.failed_tg_allocs["app"].constraint_filtered == {"${meta.disk} = nvme": 2}


def test_a_full_node_waits() -> None:
    world = World(make_node(0), make_node(1, cpu_mhz=100))
    decision = world.deploy(system())
    assert decision.placed == 1
    assert decision.evaluation.failed_tg_allocs["app"].dimension_exhausted == {"cpu": 1}
    assert decision.evaluation.queued_allocations == {"app": 1}
    assert decision.created[0].status == "blocked"


def test_a_dead_node_loses_its_allocation() -> None:
    world = cluster()
    world.deploy(system())
    world.set_node(1, "down")
    decision = world.run()
    assert (decision.placed, decision.plan.stops[0].client_status) == (0, "lost")
    world.set_node(1, "ready")
    assert world.run().placed == 1


def test_a_draining_node_gives_its_allocation_up_when_flagged() -> None:
    world = cluster()
    world.deploy(system())
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(0), eligibility="ineligible"))
    assert world.run().plan.stops == ()
    world.flag(world.live()[0], migrate=True)
    decision = world.run()
    assert decision.plan.stops[0].description == "alloc not needed as node is tainted"
    assert world.by_node() == {1: 1, 2: 1}


def test_leaving_a_datacenter_stops_there() -> None:
    world = World(make_node(0), make_node(1, datacenter="dc2"))
    world.deploy(system(datacenters=("*",)))
    world.deploy(system(datacenters=("dc2",)))
    assert world.by_node() == {1: 1}


def test_a_change_rolls_over_the_nodes() -> None:
    world = cluster()
    world.deploy(system())
    world.report("running", *world.live())
    task = make_task(env={"VERSION": "2"})
    decision = world.deploy(system(group=make_group(task=task, update=UpdateStrategy(max_parallel=2))))
    assert (decision.placed, decision.desired["app"].destructive_update, decision.desired["app"].ignore) == (2, 2, 1)
    assert world.run().placed == 0
    world.report("running", *world.live())
    assert world.run().placed == 1
    assert world.by_node() == {0: 1, 1: 1, 2: 1}


def test_a_stopped_system_job_stops_everywhere() -> None:
    world = cluster()
    world.deploy(system())
    world.apply(c.DeregisterJob(job_id="job"))
    assert len(world.run().plan.stops) == 3


def test_sysbatch_work_is_done_once_per_version() -> None:
    world = cluster()
    world.deploy(system(type="sysbatch"))
    world.report("complete", *world.live())
    assert world.run().placed == 0
    assert world.deploy(system(type="sysbatch", meta={"run": "2"})).placed == 3


def test_a_system_allocation_that_ended_comes_back() -> None:
    world = cluster()
    world.deploy(system())
    world.report("failed", world.live()[0])
    assert world.run().placed == 1
