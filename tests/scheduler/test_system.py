"""System and sysbatch jobs: one on every node that can."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import World, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import DisconnectStrategy, Job, UpdateStrategy
from nomadpy.model.resources import Constraint
from nomadpy.model.time import MINUTE
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
    world.judge(*new(world))
    assert world.run().placed == 1
    assert world.by_node() == {0: 1, 1: 1, 2: 1}
    assert world.deployment().status == "running"
    world.judge(*new(world))
    world.run()
    assert world.deployment().status == "successful"
    stored = world.store.job("default", "job")
    assert stored is not None
    assert stored.stable


# --- deployments ------------------------------------------------------------------------------------------------------


def new(world: World) -> list[Allocation]:
    """Those that run the newest version, whose health is open."""
    newest = max(a.job.version for a in world.live() if a.job is not None)
    live = [a for a in world.live() if a.job is not None and a.job.version == newest]
    return [a for a in live if a.deployment_status is None or a.deployment_status.healthy is None]


def versions(world: World) -> dict[int, int]:
    """Node number → the version that runs there."""
    return {int(a.node_id[-12:]): a.job.version for a in world.live() if a.job is not None}


def rolling(version: int, **update: Any) -> Job:
    strategy = UpdateStrategy(**{"max_parallel": 2, "progress_deadline_ns": 10 * MINUTE, **update})
    return system(group=make_group(task=make_task(cpu=100, env={"VERSION": str(version)}), update=strategy))


def started(count: int = 4, **update: Any) -> World:
    """A cluster whose first version is deployed, with the deployment over."""
    world = cluster(count)
    decision = world.deploy(rolling(0, **update))
    assert (decision.placed, world.deployment().task_groups["app"].desired_total) == (count, count)
    assert world.deployment().task_groups["app"].desired_canaries == 0, (
        "there is nothing to compare a first version with"
    )
    world.judge(*new(world))
    world.run()
    assert world.deployment().status == "successful"
    return world


def test_a_wave_waits_for_the_health_of_the_one_before() -> None:
    world = started()
    world.deploy(rolling(1))
    assert versions(world) == {0: 1, 1: 1, 2: 0, 3: 0}
    world.report("running", *world.live())
    assert world.run().placed == 0, "to run is not to be healthy"
    world.judge(new(world)[0])
    world.run()
    assert sorted(versions(world).values()) == [0, 1, 1, 1]
    world.judge(*new(world), healthy=False)
    assert world.run().desired["app"].destructive_update == 0


def test_no_deployment_without_max_parallel_and_none_for_sysbatch() -> None:
    world = cluster()
    world.deploy(rolling(0, max_parallel=0))
    assert world.deploy(rolling(1, max_parallel=0)).placed == 3
    world.deploy(rolling(0).replace(id="other", type="sysbatch"))
    assert world.store.deployments == {}


@pytest.mark.parametrize(
    ("share", "parallel", "canaries"), [(1, 9, 1), (25, 9, 1), (26, 9, 2), (100, 9, 4), (100, 3, 3)]
)
def test_canaries_are_a_share_of_the_nodes(share: int, parallel: int, canaries: int) -> None:
    world = started(canary=share, max_parallel=parallel)
    decision = world.deploy(rolling(1, canary=share, max_parallel=parallel))
    assert (decision.placed, decision.desired["app"].canary) == (canaries, canaries)
    state = world.deployment().task_groups["app"]
    assert (state.desired_canaries, len(state.placed_canaries), state.desired_total) == (canaries, canaries, 4)
    assert sum(version == 1 for version in versions(world).values()) == canaries
    assert world.run().placed == 0


def test_the_others_follow_their_promoted_canaries() -> None:
    world = started(canary=25)
    world.deploy(rolling(1, canary=25))
    assert versions(world) == {0: 1, 1: 0, 2: 0, 3: 0}
    world.judge(*new(world))
    assert world.run().placed == 0
    world.apply(c.PromoteDeployment(deployment_id=world.deployment().id, now_ns=world.now_ns))
    assert world.run().placed == 2
    world.judge(*new(world))
    world.run()
    world.judge(*new(world))
    world.run()
    assert set(versions(world).values()) == {1}
    assert world.deployment().status == "successful"


def test_a_canary_whose_node_died_is_tried_elsewhere() -> None:
    world = started(canary=25)
    world.deploy(rolling(1, canary=25))
    world.set_node(0, "down")
    decision = world.run()
    assert (decision.placed, decision.desired["app"].canary) == (1, 1)
    assert versions(world) == {1: 1, 2: 0, 3: 0}


def test_canaries_of_a_version_that_is_given_up_go_at_once() -> None:
    world = started(canary=50)
    world.deploy(rolling(1, canary=50))
    assert versions(world) == {0: 1, 1: 1, 2: 0, 3: 0}
    update = c.DeploymentUpdate(deployment_id=world.deployment().id, status="failed", description="failed")
    world.apply(c.ChangeDeployment(update=update, now_ns=world.now_ns))
    assert world.run().plan.stops == (), "nothing would be left on the node"
    decision = world.deploy(rolling(0, canary=50))
    assert (decision.placed, decision.desired["app"].in_place_update) == (2, 2)
    assert set(versions(world).values()) == {2}
    assert world.deployment().task_groups["app"].desired_canaries == 0


@pytest.mark.parametrize("status", ["paused", "failed"])
def test_nothing_changes_while_the_deployment_stands_still(status: str) -> None:
    world = started()
    world.deploy(rolling(1))
    update = c.DeploymentUpdate(deployment_id=world.deployment().id, status=status, description=status)
    world.apply(c.ChangeDeployment(update=update, now_ns=world.now_ns))
    world.judge(*new(world))
    assert world.run().placed == 0
    world.add_node(make_node(4))
    assert world.run().placed == 1, "a node without the job gets it all the same"


def test_nodes_come_and_go_while_a_version_is_rolled_out() -> None:
    world = started()
    world.deploy(rolling(1))
    world.add_node(make_node(4))
    world.set_node(3, "down")
    world.run()
    assert world.deployment().task_groups["app"].desired_total == 4
    world.set_node(0, "down")
    world.run()
    assert world.deployment().task_groups["app"].desired_total == 3
    for _ in range(3):
        world.judge(*new(world))
        world.run()
    assert versions(world) == {1: 1, 2: 1, 4: 1}
    assert world.deployment().status == "successful"


def test_a_new_node_after_the_roll_out_opens_no_deployment() -> None:
    world = started()
    world.add_node(make_node(4))
    assert (world.run().placed, len(world.store.deployments)) == (1, 1)
    assert {a.deployment_id for a in world.live() if a.node_id == world.node_id(4)} == {""}


def test_a_newer_version_cancels_the_deployment_and_so_does_a_stop() -> None:
    world = started()
    world.deploy(rolling(1))
    first = world.deployment().id
    world.deploy(rolling(2))
    assert world.store.deployments[first].status == "cancelled"
    world.apply(c.DeregisterJob(job_id="job"))
    world.run()
    assert world.deployment().status_description == "Cancelled because job is stopped"


def test_a_change_in_place_is_rolled_out_with_health_too() -> None:
    world = started()
    world.deploy(rolling(0).replace(priority=70))
    assert set(versions(world).values()) == {1}
    assert world.deployment().status == "running"
    world.wait(1)
    world.judge(*new(world))
    world.run()
    assert world.deployment().status == "successful"


# --- nodes out of reach -----------------------------------------------------------------------------------------------


def patient() -> World:
    world = cluster()
    strategy = DisconnectStrategy(lost_after_ns=60 * MINUTE, replace_=True, reconcile="best_score")
    world.deploy(system(group=make_group(disconnect=strategy)))
    world.report("running", *world.live())
    return world


def test_what_is_out_of_reach_stays_where_it_is() -> None:
    world = patient()
    world.set_node(1, "disconnected")
    decision = world.run()
    [away] = [a for a in world.live() if a.node_id == world.node_id(1)]
    assert (away.client_status, decision.placed, decision.desired["app"].disconnect) == ("unknown", 0, 1)
    assert [evaluation.triggered_by for evaluation in decision.created] == ["max-disconnect-timeout"]
    assert world.run().plan.annotate == ()
    world.set_node(1, "initializing")
    world.report("running", away)
    world.set_node(1, "ready")
    decision = world.run()
    assert (decision.placed, decision.plan.stops, decision.desired["app"].reconnect) == (0, (), 1)
    assert world.run().plan.annotate == ()


def test_what_is_out_of_reach_for_too_long_is_lost() -> None:
    world = patient()
    world.set_node(1, "disconnected")
    [timeout] = world.run().created
    world.wait(3600)
    world.run(timeout)
    assert [a.client_status for a in world.allocs() if a.node_id == world.node_id(1)] == ["lost"]


# --- ends -------------------------------------------------------------------------------------------------------------


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
