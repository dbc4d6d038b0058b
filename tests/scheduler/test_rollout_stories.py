"""Longer stories of deployments: several groups, pauses in between, room that comes late, lost nodes, purged jobs."""

from __future__ import annotations

from typing import Any

from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import Job, TaskGroup, UpdateStrategy
from nomadpy.model.time import MINUTE
from nomadpy.state import commands as c


def group(name: str = "app", version: int = 0, *, count: int = 3, cpu: int = 100, **update: Any) -> TaskGroup:
    strategy = UpdateStrategy(**{"max_parallel": 1, "progress_deadline_ns": 10 * MINUTE, **update})
    return make_group(name=name, count=count, task=make_task(cpu=cpu, env={"V": str(version)}), update=strategy)


def job(*groups: TaskGroup) -> Job:
    return make_job(task_groups=groups)


def cluster(nodes: int = 3, **facts: Any) -> World:
    return World(*(make_node(n, **facts) for n in range(nodes)))


def unjudged(world: World, name: str = "app") -> list[Allocation]:
    live = [a for a in world.live() if a.task_group == name]
    return [a for a in live if a.deployment_status is None or a.deployment_status.healthy is None]


def versions(world: World, name: str = "app") -> list[int]:
    return [a.job.version for a in world.live() if a.task_group == name and a.job is not None]


def settle(world: World) -> None:
    """Everything gets healthy until nothing changes any more."""
    for _ in range(20):
        world.wait(1)
        fresh = [alloc for name in ("app", "other") for alloc in unjudged(world, name) if alloc.deployment_id]
        world.judge(*fresh)
        if not world.run().placed and not fresh:
            return
    raise AssertionError("it does not come to rest")


def change(world: World, status: str) -> None:
    update = c.DeploymentUpdate(deployment_id=world.deployment().id, status=status, description=status)
    world.apply(c.ChangeDeployment(update=update, now_ns=world.now_ns))
    world.run()


def promote(world: World, *names: str) -> None:
    world.apply(c.PromoteDeployment(deployment_id=world.deployment().id, groups=names, now_ns=world.now_ns))
    world.run()


def test_one_group_goes_on_while_another_one_waits_for_its_promotion() -> None:
    world = cluster()
    world.deploy(job(group("app", canary=1), group("other")))
    settle(world)
    world.deploy(job(group("app", 1, canary=1), group("other", 1)))
    settle(world)
    assert (sorted(versions(world)), versions(world, "other")) == ([0, 0, 0, 1], [1, 1, 1])
    deployment = world.deployment()
    assert (deployment.status, deployment.task_groups["app"].promoted) == ("running", False)
    assert deployment.status_description == "Deployment is running but requires manual promotion"
    promote(world)
    settle(world)
    assert (versions(world), world.deployment().status) == ([1, 1, 1], "successful")


def test_groups_are_promoted_one_by_one() -> None:
    world = cluster()
    world.deploy(job(group("app", canary=1), group("other", canary=1)))
    settle(world)
    world.deploy(job(group("app", 1, canary=1), group("other", 1, canary=1)))
    settle(world)
    promote(world, "other")
    settle(world)
    assert (sorted(versions(world)), versions(world, "other")) == ([0, 0, 0, 1], [1, 1, 1])
    assert world.deployment().status == "running"
    promote(world, "app")
    settle(world)
    assert (versions(world), world.deployment().status) == ([1, 1, 1], "successful")


def test_a_group_that_does_not_change_takes_no_part() -> None:
    world = cluster()
    world.deploy(job(group("app"), group("other", max_parallel=0)))
    assert set(world.deployment().task_groups) == {"app"}
    settle(world)
    assert world.deployment().status == "successful"


def test_first_placements_that_find_room_later_belong_to_the_same_deployment() -> None:
    world = cluster(1, cpu_mhz=1000)
    decision = world.deploy(job(group(count=4, cpu=500)))
    assert (decision.placed, decision.evaluation.queued_allocations) == (2, {"app": 2})
    settle(world)
    assert (world.deployment().status, world.deployment().task_groups["app"].desired_total) == ("running", 4)
    world.add_node(make_node(1))
    settle(world)
    assert len(world.store.deployments) == 1
    assert {a.deployment_id for a in world.live()} == {world.deployment().id}
    assert (len(world.live()), world.deployment().status) == (4, "successful")


def test_a_pause_holds_canaries_back_and_a_resumption_starts_them() -> None:
    world = cluster()
    world.deploy(job(group(canary=2)))
    settle(world)
    world.deploy(job(group(version=1, canary=2)))
    [first, _] = [a for a in world.live() if a.deployment_status is not None and a.deployment_status.canary]
    change(world, "paused")
    world.report("complete", first)
    world.flag(first, reschedule=True)
    assert world.run().desired["app"].canary == 0
    change(world, "running")
    assert sum(v == 1 for v in versions(world)) == 2


def test_what_is_lost_during_a_roll_out_comes_back_and_the_roll_out_ends() -> None:
    world = cluster(4)
    world.deploy(job(group(max_parallel=2)))
    settle(world)
    world.deploy(job(group(version=1, max_parallel=2)))
    world.judge(*unjudged(world))
    dead = next(a for a in world.live() if a.job is not None and a.job.version == 1)
    world.set_node(int(dead.node_id[-12:]), "down")
    world.run()
    settle(world)
    assert (versions(world), world.names()) == ([1, 1, 1], [0, 1, 2])
    assert world.deployment().status == "successful"


def test_an_operators_word_moves_a_roll_out_whose_health_nobody_measures() -> None:
    world = cluster()
    world.deploy(job(group(health_check="manual")))
    deployment = world.deployment()
    world.report("running", *world.live())
    assert world.run().plan.deployment_updates == ()
    ids = tuple(alloc.id for alloc in world.live())
    world.apply(c.SetAllocsHealth(deployment_id=deployment.id, healthy_alloc_ids=ids, now_ns=world.now_ns))
    world.run()
    assert world.deployment().status == "successful"


def test_a_larger_count_in_the_middle_of_a_roll_out() -> None:
    world = cluster()
    world.deploy(job(group()))
    settle(world)
    world.deploy(job(group(version=1)))
    world.deploy(job(group(version=1, count=5)))
    settle(world)
    assert (versions(world), world.names()) == ([2] * 5, [0, 1, 2, 3, 4])
    assert world.deployment().status == "successful"


def test_a_purged_job_that_is_registered_again_takes_over_what_still_runs() -> None:
    world = cluster()
    world.deploy(job(group()))
    settle(world)
    before = {alloc.id for alloc in world.live()}
    world.apply(c.DeregisterJob(job_id="job", purge=True))
    world.deploy(job(group()))
    assert ({alloc.id for alloc in world.live()}, world.names()) == (before, [0, 1, 2])
    world.apply(c.DeregisterJob(job_id="job", purge=True))
    world.deploy(job(group(version=7, max_parallel=0)))
    assert world.names() == [0, 1, 2]
    assert not before & {alloc.id for alloc in world.live()}


def test_a_purged_job_that_is_registered_again_later_begins_with_new_names() -> None:
    world = cluster()
    world.deploy(job(group()))
    world.apply(c.DeregisterJob(job_id="job", purge=True))
    world.run()
    assert world.live() == []
    world.deploy(job(group()))
    assert (world.names(), versions(world)) == ([0, 1, 2], [0, 0, 0])


def test_names_that_became_free_are_given_out_again_lowest_first() -> None:
    world = cluster()
    world.deploy(job(group(count=5, max_parallel=0)))
    world.report("running", *world.live())
    world.deploy(job(group(count=2, max_parallel=0)))
    assert world.names() == [0, 1], "the highest ones went"
    world.report("complete", world.live()[0])
    world.run()
    assert world.names() == [0, 1]
    world.deploy(job(group(count=4, max_parallel=0)))
    assert world.names() == [0, 1, 2, 3]
