"""Service jobs, told as stories."""

from __future__ import annotations

import pytest
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.scheduler import Fleet
from nomadpy.state import commands as c


def cluster(count: int = 3, **options: object) -> World:
    return World(*(make_node(n, **options) for n in range(count)))  # type: ignore[arg-type]


def test_a_new_job_is_placed() -> None:
    world = cluster()
    decision = world.deploy(make_job(count=3))
    assert decision.placed == 3
    assert world.names() == [0, 1, 2]
    assert decision.evaluation.status == "complete"
    assert decision.evaluation.queued_allocations == {"app": 0}
    assert decision.created == ()


def test_nothing_changes_the_second_time() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    decision = world.run()
    assert (decision.placed, decision.plan.stops) == (0, ())
    assert decision.desired["app"].ignore == 3


def test_raising_the_count_fills_the_lowest_free_names() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    world.deploy(make_job(count=5))
    assert world.names() == [0, 1, 2, 3, 4]
    assert world.last is not None
    assert world.last.desired["app"].place == 2
    assert world.last.desired["app"].in_place_update == 3


def test_lowering_the_count_stops_the_highest_names() -> None:
    world = cluster()
    world.deploy(make_job(count=5))
    decision = world.deploy(make_job(count=2))
    assert world.names() == [0, 1]
    assert {stop.description for stop in decision.plan.stops} == {"alloc not needed due to job update"}


def test_a_hole_in_the_names_is_filled_first() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    world.report("complete", world.live()[1])
    world.run()
    assert world.names() == [0, 1, 2]


def test_a_group_that_was_removed_is_stopped() -> None:
    world = cluster()
    world.deploy(make_job(task_groups=(make_group(), make_group(name="other", count=2))))
    decision = world.deploy(make_job())
    assert [alloc.task_group for alloc in world.live()] == ["app"]
    assert decision.desired["other"].stop == 2


def test_a_stopped_job_is_stopped_everywhere() -> None:
    world = cluster()
    world.deploy(make_job(count=4))
    world.apply(c.DeregisterJob(job_id="job"))
    decision = world.run()
    assert len(decision.plan.stops) == 4
    assert world.live() == []


def test_a_purged_job_is_stopped_everywhere() -> None:
    world = cluster()
    world.deploy(make_job(count=4))
    world.apply(c.DeregisterJob(job_id="job", purge=True))
    world.run()
    assert world.live() == []


def test_what_does_not_fit_waits_with_an_explanation() -> None:
    world = cluster(2, cpu_mhz=1000)
    decision = world.deploy(make_job(count=6))
    assert decision.placed == 4
    metric = decision.evaluation.failed_tg_allocs["app"]
    assert metric.dimension_exhausted == {"cpu": 2}
    assert (metric.nodes_evaluated, metric.nodes_exhausted, metric.nodes_filtered) == (2, 2, 0)
    assert (metric.coalesced_failures, metric.nodes_available) == (1, {"dc1": 2})
    assert decision.evaluation.queued_allocations == {"app": 2}
    [blocked] = decision.created
    assert (blocked.status, blocked.triggered_by, blocked.previous_eval) == (
        "blocked",
        "queued-allocs",
        decision.evaluation.id,
    )
    assert blocked.class_eligibility == {make_node(0).computed_class: True}
    assert not blocked.escaped_computed_class


def test_a_blocked_evaluation_that_still_fails_blocks_again() -> None:
    world = cluster(1, cpu_mhz=1000)
    [blocked] = world.deploy(make_job(count=3)).created
    decision = world.run(blocked)
    assert decision.created == ()
    assert (decision.evaluation.id, decision.evaluation.status) == (blocked.id, "blocked")
    world.add_node(make_node(1))
    decision = world.run(decision.evaluation)
    assert (decision.placed, decision.evaluation.status) == (1, "complete")


def test_no_node_at_all_is_explained() -> None:
    decision = World().deploy(make_job())
    metric = decision.evaluation.failed_tg_allocs["app"]
    assert (metric.nodes_evaluated, metric.nodes_available) == (0, {"dc1": 0})


def test_packing_prefers_the_fuller_node_and_spreading_the_emptier() -> None:
    for algorithm, expected in (("binpack", {0: 1}), ("spread", {1: 1})):
        world = cluster(2)
        world.configure(scheduler_algorithm=algorithm)
        world.deploy(make_job("filler", group=make_group(task=make_task(cpu=2000, memory_mb=4000))))
        assert world.by_node("filler") == {0: 1}
        world.deploy(make_job())
        assert world.by_node() == expected


def test_allocations_of_one_group_keep_apart() -> None:
    world = cluster(3)
    world.deploy(make_job(count=3))
    assert world.by_node() == {0: 1, 1: 1, 2: 1}


def test_nodes_that_are_not_ready_get_nothing() -> None:
    world = cluster(3)
    world.set_node(0, "down")
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(1), eligibility="ineligible"))
    world.deploy(make_job(count=2))
    assert world.by_node() == {2: 2}


@pytest.mark.parametrize("asks", [{"cpu": 2000}, {"memory_mb": 4096}])
def test_a_shared_fleet_sees_earlier_evaluations_of_the_batch(asks: dict[str, int]) -> None:
    world = cluster(1, cpu_mhz=4000, memory_mb=8192)
    for name in ("a", "b", "c"):
        world.register(make_job(name, group=make_group(task=make_task(**{"cpu": 1, "memory_mb": 1, **asks}))))
    fleet = Fleet(world.store)
    placed = []
    for name in ("a", "b", "c"):
        decision = world.decide(world.evaluation(name), fleet=fleet)
        fleet.commit(decision)
        placed.append(decision.placed)
    assert placed == [1, 1, 0]


def test_groups_of_one_job_share_what_is_free() -> None:
    world = cluster(1, cpu_mhz=1000)
    groups = (make_group(count=1, task=make_task(cpu=800)), make_group(name="other", task=make_task(cpu=300)))
    decision = world.deploy(make_job(task_groups=groups))
    assert decision.evaluation.queued_allocations == {"app": 0, "other": 1}


def test_an_update_that_was_given_up_frees_nothing_for_other_groups() -> None:
    world = cluster(1, cpu_mhz=1000)
    world.deploy(make_job(group=make_group(task=make_task(cpu=900))))
    groups = (make_group(task=make_task(cpu=2000)), make_group(name="other", task=make_task(cpu=300)))
    decision = world.deploy(make_job(task_groups=groups))
    assert decision.evaluation.queued_allocations == {"app": 1, "other": 1}
    assert [alloc.task_group for alloc in world.live()] == ["app"]
