"""Deployments as the scheduler moves them: waves, canaries, pauses, failures, ends."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.job import Job, ReschedulePolicy, TaskGroup, UpdateStrategy
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.state import commands as c

POLICY = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", unlimited=True)


def group(version: int = 0, *, count: int = 4, name: str = "app", **update: Any) -> TaskGroup:
    strategy = UpdateStrategy(**{"max_parallel": 2, "progress_deadline_ns": 10 * MINUTE, **update})
    task = make_task(cpu=100, env={"VERSION": str(version)})
    return make_group(name=name, count=count, task=task, update=strategy, reschedule_policy=POLICY)


def job(version: int = 0, **changes: Any) -> Job:
    return make_job(group=group(version, **changes))


def started(**changes: Any) -> World:
    """A cluster whose first version is deployed, with the deployment over."""
    world = World(*(make_node(n) for n in range(3)))
    world.deploy(job(**changes))
    world.judge(*world.live())
    world.run()
    assert world.deployment().status == "successful"
    return world


def versions(world: World) -> list[int]:
    """The version of each live allocation, in the order of their names."""
    return [a.job.version for a in world.live() if a.job is not None]


def unjudged(world: World) -> list[Any]:
    return [a for a in world.live() if a.deployment_status is None or a.deployment_status.healthy is None]


def canaries(world: World) -> list[Any]:
    return [a for a in world.live() if a.deployment_status is not None and a.deployment_status.canary]


def promote(world: World) -> None:
    world.apply(c.PromoteDeployment(deployment_id=world.deployment().id, now_ns=world.now_ns))


def change(world: World, status: str) -> None:
    update = c.DeploymentUpdate(deployment_id=world.deployment().id, status=status, description=status)
    world.apply(c.ChangeDeployment(update=update, now_ns=world.now_ns))


# --- opening and ending -----------------------------------------------------------------------------------------------


def test_the_first_version_is_deployed_at_once_and_becomes_stable() -> None:
    world = World(make_node(0))
    decision = world.deploy(job())
    deployment = world.deployment()
    assert (decision.placed, decision.evaluation.deployment_id) == (4, deployment.id)
    state = deployment.task_groups["app"]
    assert (state.desired_total, state.placed_allocs, state.healthy_allocs) == (4, 4, 0)
    assert state.require_progress_by_ns == world.now_ns + 10 * MINUTE
    assert {a.deployment_id for a in world.live()} == {deployment.id}
    assert (deployment.status, deployment.status_description) == ("running", "Deployment is running")
    world.judge(*world.live()[:3])
    world.run()
    assert world.deployment().status == "running", "one is not healthy yet"
    world.judge(*unjudged(world))
    world.run()
    deployment = world.deployment()
    assert (deployment.status, deployment.status_description) == ("successful", "Deployment completed successfully")
    stored = world.store.job("default", "job")
    assert stored is not None
    assert stored.stable


def test_health_moves_the_deadline() -> None:
    world = World(make_node(0))
    world.deploy(job())
    world.wait(60)
    world.judge(world.live()[0])
    state = world.deployment().task_groups["app"]
    assert state.require_progress_by_ns == world.now_ns + 10 * MINUTE


def test_no_deployment_without_a_strategy_or_for_batch() -> None:
    world = World(make_node(0))
    world.deploy(job(max_parallel=0))
    world.deploy(make_job("batch", type="batch", group=group()))
    assert world.store.deployments == {}
    assert {a.deployment_id for a in world.live()} == {""}


def test_the_same_version_is_not_deployed_again() -> None:
    world = started()
    world.report("failed", world.live()[0])
    world.wait(10)
    assert world.run().placed == 1
    assert len(world.store.deployments) == 1
    assert world.run().plan.deployment is None


@pytest.mark.parametrize(("count", "deployments"), [(2, 1), (6, 2)])
def test_a_count_that_falls_is_no_deployment_and_one_that_rises_is(count: int, deployments: int) -> None:
    world = started()
    world.deploy(job(count=count))
    assert (len(world.live()), len(world.store.deployments)) == (count, deployments)
    assert world.deployment().task_groups["app"].desired_total == (4 if count < 4 else 6)
    current = world.store.job("default", "job")
    assert current is not None
    assert current.stable == (count < 4), "fewer of a stable version are as stable"


def test_a_change_in_place_is_deployed_and_asks_for_health_again() -> None:
    world = started()
    world.deploy(make_job(group=group(), priority=70))
    state = world.deployment().task_groups["app"]
    assert (state.desired_total, state.placed_allocs, state.healthy_allocs) == (4, 4, 0)
    assert len(unjudged(world)) == 4
    world.judge(*world.live())
    assert len(unjudged(world)) == 4, "the nodes have not heard of it and only repeat themselves"
    world.wait(1)
    world.judge(*world.live())
    world.run()
    assert world.deployment().status == "successful"


def test_going_back_before_anything_was_replaced_is_deployed_and_becomes_stable() -> None:
    world = started()
    world.deploy(job(1, canary=1))
    world.deploy(job())
    assert len(world.store.deployments) == 3
    assert {a.deployment_id for a in world.live()} == {world.deployment().id}
    world.wait(1)
    world.judge(*world.live())
    world.run()
    stored = world.store.job("default", "job")
    assert stored is not None
    assert (world.deployment().status, stored.version, stored.stable) == ("successful", 2, True)


def test_a_newer_version_cancels_and_so_does_a_stop() -> None:
    world = World(make_node(0))
    world.deploy(job(0))
    first = world.deployment().id
    world.deploy(job(1))
    old = world.store.deployments[first]
    assert (old.status, old.status_description) == ("cancelled", "Cancelled due to newer version of job")
    world.apply(c.DeregisterJob(job_id="job"))
    world.run()
    assert world.deployment().status_description == "Cancelled because job is stopped"


def test_all_groups_share_one_deployment() -> None:
    world = World(*(make_node(n) for n in range(3)))
    both = make_job(task_groups=(group(), group(name="db", count=2)))
    world.deploy(both)
    [deployment] = world.store.deployments.values()
    assert {name: s.desired_total for name, s in deployment.task_groups.items()} == {"app": 4, "db": 2}
    world.judge(*(a for a in world.live() if a.task_group == "app"))
    world.run()
    assert world.deployment().status == "running"
    world.judge(*unjudged(world))
    world.run()
    assert world.deployment().status == "successful"


# --- waves ------------------------------------------------------------------------------------------------------------


def test_updates_go_in_waves_as_the_new_ones_become_healthy() -> None:
    world = started()
    waves = [world.deploy(job(1)).placed]
    assert world.run().placed == 0, "nothing is healthy yet"
    world.judge(unjudged(world)[0])
    waves.append(world.run().placed)
    for _ in range(2):
        world.judge(*unjudged(world))
        waves.append(world.run().placed)
    assert waves == [2, 1, 1, 0]
    assert versions(world) == [1, 1, 1, 1]
    assert world.deployment().status == "successful"


def test_running_alone_is_not_enough() -> None:
    world = started()
    world.deploy(job(1))
    world.report("running", *unjudged(world))
    assert world.run().placed == 0


def test_an_unhealthy_allocation_stops_the_rollout_until_the_watcher_allows_another_try() -> None:
    world = started()
    world.deploy(job(1))
    bad, good = unjudged(world)
    world.judge(bad, healthy=False)
    world.judge(good)
    world.wait(60)
    assert world.run().placed == 0
    world.flag(bad, reschedule=True)
    decision = world.run()
    assert decision.desired["app"].reschedule_now == 1
    state = world.deployment().task_groups["app"]
    assert (state.placed_allocs, state.healthy_allocs, state.unhealthy_allocs) == (4, 1, 1)


@pytest.mark.parametrize("status", ["paused", "failed"])
def test_a_deployment_that_is_paused_or_failed_changes_nothing(status: str) -> None:
    world = started()
    world.deploy(job(1))
    world.judge(*unjudged(world))
    change(world, status)
    assert world.run().placed == 0
    assert sorted(versions(world)) == [0, 0, 1, 1]
    if status == "paused":
        change(world, "running")
        assert world.run().placed == 2


def test_a_failed_deployment_still_replaces_what_is_lost_but_not_what_failed_in_it() -> None:
    world = started()
    world.deploy(job(1))
    bad = unjudged(world)[0]
    change(world, "failed")
    world.judge(bad, healthy=False)
    world.wait(60)
    decision = world.run()
    assert (decision.placed, decision.desired["app"].reschedule_now) == (0, 0)
    world.set_node(0, "down")
    lost = [a for a in world.live() if a.node_id == world.node_id(0)]
    assert lost
    assert world.run().placed == len(lost)


# --- canaries ---------------------------------------------------------------------------------------------------------


def test_canaries_stand_beside_the_others_until_they_are_promoted() -> None:
    world = started()
    decision = world.deploy(job(1, canary=1))
    deployment = world.deployment()
    state = deployment.task_groups["app"]
    assert deployment.status_description == "Deployment is running but requires manual promotion"
    assert (decision.desired["app"].canary, decision.placed, decision.plan.stops) == (1, 1, ())
    [canary] = canaries(world)
    assert (state.desired_canaries, state.desired_total, state.placed_canaries) == (1, 4, (canary.id,))
    assert (world.names(), versions(world).count(0)) == ([0, 0, 1, 2, 3], 4)
    world.judge(canary)
    assert world.run().placed == 0, "it waits for the promotion"
    promote(world)
    assert world.deployment().status_description == "Deployment is running"
    decision = world.run()
    assert (decision.placed, world.names()) == (2, [0, 1, 2, 3])
    assert world.store.alloc(canary.id) in world.live(), "the canary took the place of its namesake"
    for _ in range(2):
        world.judge(*unjudged(world))
        world.run()
    assert (versions(world), world.deployment().status) == ([1, 1, 1, 1], "successful")


def test_blue_green_replaces_all_at_the_promotion() -> None:
    world = started()
    world.deploy(job(1, canary=4, max_parallel=4))
    assert len(world.live()) == 8
    world.judge(*canaries(world))
    promote(world)
    world.run()
    assert versions(world) == [1, 1, 1, 1]
    world.run()
    assert world.deployment().status == "successful"


def test_more_canaries_than_allocations_get_new_names() -> None:
    world = started(count=1, max_parallel=1)
    world.deploy(job(1, count=1, max_parallel=1, canary=3))
    assert [a.index for a in canaries(world)] == [0, 1, 2]
    world.judge(*canaries(world))
    promote(world)
    world.run()
    assert (world.names(), versions(world)) == ([0], [1])


def test_canaries_and_a_larger_count_leave_no_name_twice() -> None:
    world = started(count=2)
    world.deploy(job(1, count=3, canary=1))
    assert len(world.live()) == 3
    world.judge(*canaries(world))
    promote(world)
    world.run()
    assert world.names() == [0, 1, 2]


def test_what_is_lost_during_canarying_comes_back_in_its_old_version() -> None:
    world = started()
    world.deploy(job(1, canary=1))
    [canary] = canaries(world)
    victim = next(a for a in world.live() if a.job and a.job.version == 0 and a.node_id != canary.node_id)
    world.set_node(int(victim.node_id[-3:]), "down")
    world.run()
    assert versions(world).count(0) == 4
    fresh = [a for a in world.live() if a.previous_allocation == victim.id]
    assert [(a.name, a.job.version, a.deployment_id) for a in fresh if a.job] == [(victim.name, 0, "")]


def test_a_lost_canary_is_started_again_as_a_canary() -> None:
    world = started()
    world.deploy(job(1, canary=1))
    [first] = canaries(world)
    world.set_node(int(first.node_id[-3:]), "down")
    world.run()
    [second] = canaries(world)
    assert second.id != first.id
    assert world.deployment().task_groups["app"].placed_canaries == (first.id, second.id)
    assert versions(world).count(0) == 4


def test_a_failed_canary_is_tried_again_as_a_canary() -> None:
    world = started()
    world.deploy(job(1, canary=1))
    [first] = canaries(world)
    world.judge(first, healthy=False)
    world.flag(first, reschedule=True)
    world.wait(60)
    world.run()
    [second] = canaries(world)
    assert second.previous_allocation == first.id
    assert versions(world).count(0) == 4


@pytest.mark.parametrize("how", ["failed", "newer", "reverted"])
def test_canaries_that_nobody_promoted_are_stopped(how: str) -> None:
    world = started()
    world.deploy(job(1, canary=2))
    old = {a.id for a in canaries(world)}
    if how == "failed":
        change(world, "failed")
        world.run()
    else:
        world.deploy(job(2 if how == "newer" else 0, canary=1))
    live = {a.id for a in world.live()}
    assert not old & live
    assert len(live) == (5 if how == "newer" else 4)


def test_no_canaries_for_a_change_in_place_or_the_first_version() -> None:
    world = World(make_node(0))
    world.deploy(job(canary=2))
    assert (len(world.live()), canaries(world)) == (4, [])
    world.deploy(make_job(group=group(canary=2), priority=80))
    assert (len(world.live()), canaries(world)) == (4, [])
    assert world.deployment().status_description == "Deployment is running"


# --- what people may ask ----------------------------------------------------------------------------------------------


def refusal(world: World, command: c.Command) -> tuple[int, str]:
    outcome = world.store.apply(world.store.index + 1, command)
    assert not outcome.ok
    return outcome.status, outcome.message


def test_canaries_must_be_healthy_to_be_promoted() -> None:
    world = started()
    world.deploy(job(1, canary=2))
    command = c.PromoteDeployment(deployment_id=world.deployment().id)
    text = '1 error occurred:\n\t* Task group "app" has 0/2 healthy allocations\n\n'
    assert refusal(world, command) == (500, text)
    world.judge(*canaries(world))
    promote(world)
    assert (canaries(world), world.deployment().task_groups["app"].promoted) == ([], True)


def test_a_deployment_that_is_over_takes_no_orders() -> None:
    world = started()
    over = world.deployment().id
    update = c.DeploymentUpdate(deployment_id=over, status="paused")
    assert refusal(world, c.ChangeDeployment(update=update)) == (500, "can't pause terminal deployment")
    assert refusal(world, c.PromoteDeployment(deployment_id=over))[1] == "can't promote terminal deployment"
    assert refusal(world, c.SetAllocsHealth(deployment_id="?")) == (500, "deployment not found")


def test_an_operator_may_turn_health_round() -> None:
    world = World(make_node(0))
    world.deploy(job())
    first, second = world.live()[:2]
    deployment_id = world.deployment().id
    world.judge(first, healthy=False)
    world.apply(
        c.SetAllocsHealth(
            deployment_id=deployment_id, healthy_alloc_ids=(first.id,), unhealthy_alloc_ids=(second.id,), now_ns=1
        )
    )
    state = world.deployment().task_groups["app"]
    assert (state.healthy_allocs, state.unhealthy_allocs) == (1, 1)
    world.judge(second)
    state = world.deployment().task_groups["app"]
    assert (state.healthy_allocs, state.unhealthy_allocs) == (1, 1), "the nodes have the word only once"
