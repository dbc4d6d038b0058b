"""Allocations that fail, get lost, move, or change."""

from __future__ import annotations

import pytest
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task

from nomadpy.model.alloc import Allocation, RescheduleEvent, RescheduleTracker
from nomadpy.model.job import EphemeralDisk, Job, ReschedulePolicy, UpdateStrategy
from nomadpy.model.resources import Constraint, Resources
from nomadpy.model.time import HOUR, MINUTE, SECOND
from nomadpy.scheduler.reconcile import Reconciler
from nomadpy.scheduler.reschedule import delay_ns, next_tracker
from nomadpy.scheduler.rollout import Rollout
from nomadpy.state import commands as c

FOREVER = ReschedulePolicy(delay_ns=30 * SECOND, delay_function="constant", unlimited=True)
TWICE = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", attempts=2, interval_ns=HOUR)


def cluster(count: int = 3) -> World:
    return World(*(make_node(n) for n in range(count)))


def rescheduling(policy: ReschedulePolicy, count: int = 1, type: str = "service") -> Job:
    return make_job(type=type, group=make_group(count=count, reschedule_policy=policy))


def successors(world: World, alloc: Allocation) -> list[Allocation]:
    return [a for a in world.allocs() if a.previous_allocation == alloc.id]


# --- lost and migrating -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["down", "gone"])
def test_allocations_of_a_dead_node_are_lost_and_replaced(how: str) -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    [victim] = [a for a in world.live() if a.node_id == world.node_id(1)]
    if how == "down":
        world.set_node(1, "down")
    else:
        world.apply(c.DeregisterNodes(node_ids=(world.node_id(1),)))
    decision = world.run()
    lost = world.store.alloc(victim.id)
    assert lost is not None
    assert (lost.client_status, lost.desired_status) == ("lost", "stop")
    assert lost.desired_description == "alloc is lost since its node is down"
    assert [a.name for a in successors(world, victim)] == [victim.name]
    assert lost.next_allocation
    assert world.names() == [0, 1, 2]
    assert (decision.desired["app"].stop, decision.desired["app"].place, decision.desired["app"].ignore) == (1, 1, 2)


@pytest.mark.parametrize("type", ["service", "system"])
def test_a_stopped_allocation_whose_node_died_is_over(type: str) -> None:
    world = cluster(1)
    world.deploy(make_job(type=type))
    world.report("running", *world.live())
    world.apply(c.DeregisterJob(job_id="job"))
    world.run()
    world.set_node(0, "down")
    world.run()
    [alloc] = world.allocs()
    assert (alloc.desired_status, alloc.client_status) == ("stop", "lost")
    assert world.run().plan.stops == ()


def test_lost_allocations_beyond_the_count_are_not_replaced() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    world.set_node(2, "down")
    world.deploy(make_job(count=2))
    assert world.by_node() == {0: 1, 1: 1}


def test_a_migrating_allocation_moves() -> None:
    world = cluster(2)
    world.deploy(make_job(count=1))
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(0), eligibility="ineligible"))
    world.flag(world.live()[0], migrate=True)
    decision = world.run()
    assert world.by_node() == {1: 1}
    assert (decision.desired["app"].migrate, decision.desired["app"].stop) == (1, 0)
    assert decision.plan.stops[0].description == "alloc is being migrated"


def test_an_ineligible_node_keeps_what_it_has() -> None:
    world = cluster(2)
    world.deploy(make_job())
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(0), eligibility="ineligible"))
    assert world.run().plan.stops == ()


# --- rescheduling -----------------------------------------------------------------------------------------------------


def test_a_failed_allocation_waits_for_its_delay_and_avoids_its_node() -> None:
    world = cluster(2)
    world.deploy(rescheduling(FOREVER))
    [failed] = world.live()
    world.report("failed", failed)
    decision = world.run()
    [follow_up] = decision.created
    assert (follow_up.triggered_by, follow_up.status) == ("alloc-reschedule", "pending")
    assert follow_up.wait_until_ns == world.now_ns + 30 * SECOND
    assert decision.placed == 0
    assert decision.desired["app"].reschedule_later == 1
    assert world.run().created == (), "one follow-up is enough"
    world.wait(30)
    decision = world.run(follow_up)
    [replacement] = successors(world, failed)
    assert replacement.node_id != failed.node_id
    assert replacement.reschedule_tracker is not None
    [event] = replacement.reschedule_tracker.events
    assert (event.prev_alloc_id, event.prev_node_id, event.delay_ns) == (failed.id, failed.node_id, 30 * SECOND)
    stopped = world.store.alloc(failed.id)
    assert stopped is not None
    assert stopped.desired_description == "alloc was rescheduled because it failed"


def test_failures_close_together_share_a_follow_up() -> None:
    world = cluster()
    world.deploy(rescheduling(FOREVER, count=3))
    first, second, third = world.live()
    world.report("failed", first)
    world.wait(4)
    world.report("failed", second)
    world.wait(4)
    world.report("failed", third)
    decision = world.run()
    assert len(decision.created) == 2
    assert len(decision.plan.annotate) == 3


def test_attempts_are_limited() -> None:
    world = cluster()
    world.deploy(rescheduling(TWICE))
    for _ in range(2):
        world.report("failed", *world.live())
        world.wait(10)
        assert world.run().placed == 1
    world.report("failed", *world.live())
    world.wait(10)
    decision = world.run()
    assert (decision.placed, decision.created) == (0, ())
    assert decision.desired["app"].ignore == 1, "it keeps its place in the count"


def test_an_operator_can_force_a_reschedule() -> None:
    world = cluster()
    world.deploy(rescheduling(ReschedulePolicy()))
    [failed] = world.live()
    world.report("failed", failed)
    assert world.run().placed == 0
    world.flag(failed, force_reschedule=True)
    assert world.run().placed == 1
    assert len(successors(world, failed)) == 1


def test_a_reschedule_that_finds_no_node_is_tried_again() -> None:
    world = cluster(1)
    world.deploy(rescheduling(FOREVER))
    [failed] = world.live()
    world.report("failed", failed)
    world.apply(c.UpdateNodeEligibility(node_id=world.node_id(0), eligibility="ineligible"))
    world.wait(60)
    decision = world.run()
    assert decision.evaluation.queued_allocations == {"app": 1}
    assert decision.plan.stops == ()
    world.add_node(make_node(1))
    world.run(decision.created[0])
    assert [a.node_id for a in successors(world, failed)] == [world.node_id(1)]


def test_a_replaced_allocation_is_not_replaced_again() -> None:
    world = cluster()
    world.deploy(rescheduling(TWICE))
    [failed] = world.live()
    world.report("failed", failed)
    world.wait(10)
    world.run()
    assert world.run().placed == 0
    assert len(world.allocs()) == 2


def test_a_failed_allocation_with_a_successor_is_forgotten() -> None:
    world = cluster()
    job = world.register(rescheduling(FOREVER))
    old = Allocation(id="old", name="job.app[0]", job=job, task_group="app", node_id=world.node_id(0))
    failed = old.replace(client_status="failed", desired_status="run", next_allocation="new")
    reconciler = Reconciler(
        job,
        world.evaluation(),
        batch=False,
        now_ns=0,
        node_of=world.store.node,
        update_kind=lambda alloc: "ignore",
        rollout=Rollout(job, None, paced=True),
    )
    [changes] = reconciler.reconcile([failed])
    assert (changes.replace, changes.fresh.tolist()) == ([], [0])


def chain(policy: ReschedulePolicy, *delays_s: int, ran_s: int = 1) -> Allocation:
    """A failed allocation at the end of a chain whose earlier delays are given."""
    events = tuple(RescheduleEvent(reschedule_time_ns=0, delay_ns=d * SECOND) for d in delays_s)
    job = rescheduling(policy)
    tracker = RescheduleTracker(events=events) if events else None
    return Allocation(job=job, task_group="app", reschedule_tracker=tracker, modify_time_ns=ran_s * SECOND)


@pytest.mark.parametrize(
    ("function", "earlier", "ran_s", "expected"),
    [
        ("constant", (), 1, 10),
        ("constant", (10, 10), 1, 10),
        ("exponential", (), 1, 10),
        ("exponential", (10,), 1, 20),
        ("exponential", (10, 20), 1, 40),
        ("exponential", (40,), 1, 60),
        ("exponential", (60,), 61, 10),
        ("fibonacci", (), 1, 10),
        ("fibonacci", (10,), 1, 10),
        ("fibonacci", (10, 10), 1, 20),
        ("fibonacci", (10, 20), 1, 30),
        ("fibonacci", (30, 50), 1, 60),
        ("fibonacci", (60, 10), 1, 10),
    ],
)
def test_delays(function: str, earlier: tuple[int, ...], ran_s: int, expected: int) -> None:
    policy = ReschedulePolicy(delay_ns=10 * SECOND, max_delay_ns=MINUTE, delay_function=function, unlimited=True)
    assert delay_ns(chain(policy, *earlier, ran_s=ran_s), policy) == expected * SECOND


def test_the_tracker_keeps_what_still_matters() -> None:
    assert len(next_tracker(chain(FOREVER, *[1] * 9), 0).events) == 5
    assert len(next_tracker(chain(TWICE, 1, 1), 30 * MINUTE).events) == 3
    assert len(next_tracker(chain(TWICE, 1, 1), 2 * HOUR).events) == 1


def test_lowering_the_count_drops_failed_allocations_first() -> None:
    world = cluster()
    world.deploy(rescheduling(FOREVER, count=3))
    world.report("failed", world.live()[0])
    decision = world.deploy(rescheduling(FOREVER, count=2))
    assert world.names() == [1, 2]
    assert decision.created == ()


# --- updates ----------------------------------------------------------------------------------------------------------


def changed(count: int = 3, max_parallel: int = 0, **resources: int) -> Job:
    task = make_task(env={"VERSION": "2"}, resources=Resources(**{"cpu": 500, "memory_mb": 256, **resources}))
    return make_job(group=make_group(count=count, task=task, update=UpdateStrategy(max_parallel=max_parallel)))


def test_a_small_change_is_made_in_place() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    before = [alloc.id for alloc in world.live()]
    decision = world.deploy(make_job(count=3, priority=70))
    assert [alloc.id for alloc in world.live()] == before
    assert decision.desired["app"].in_place_update == 3
    assert {a.job.version for a in world.live() if a.job} == {1}


def test_a_large_change_replaces_everything_at_once_without_a_limit() -> None:
    world = cluster()
    world.deploy(make_job(count=3))
    decision = world.deploy(changed())
    assert decision.desired["app"].destructive_update == 3
    assert (decision.placed, len(decision.plan.stops), world.names()) == (3, 3, [0, 1, 2])


def test_an_update_may_use_what_its_predecessor_holds() -> None:
    world = World(make_node(0, cpu_mhz=1000))
    world.deploy(make_job(count=2))
    assert world.deploy(changed(count=2)).placed == 2
    assert world.by_node() == {0: 2}


def test_an_update_that_does_not_fit_leaves_the_old_one_running() -> None:
    world = World(make_node(0, cpu_mhz=1000))
    world.deploy(make_job(count=2))
    decision = world.deploy(changed(count=2, cpu=2000))
    assert (decision.placed, decision.plan.stops) == (0, ())
    assert decision.evaluation.queued_allocations == {"app": 2}
    assert len(world.live()) == 2


def test_a_constraint_that_the_node_does_not_meet_moves_the_allocation() -> None:
    world = World(make_node(0), make_node(1, meta={"disk": "ssd"}))
    world.deploy(make_job())
    assert world.by_node() == {0: 1}
    wanted = Constraint(l_target="${meta.disk}", operand="=", r_target="ssd")
    decision = world.deploy(make_job(constraints=(wanted,)))
    assert world.by_node() == {1: 1}
    assert decision.desired["app"].destructive_update == 1


def test_a_sticky_disk_stays_on_its_node() -> None:
    world = cluster()
    disk = EphemeralDisk(size_mb=300, sticky=True)
    world.deploy(make_job(group=make_group(count=1, ephemeral_disk=disk)))
    world.deploy(make_job("filler", group=make_group(task=make_task(cpu=3000))))
    task = make_task(env={"VERSION": "2"})
    world.deploy(make_job(group=make_group(count=1, ephemeral_disk=disk, task=task)))
    assert world.by_node() == {0: 1}


def test_an_update_of_a_group_with_ports_keeps_them_apart() -> None:
    world = World(make_node(0, resources={"min_dynamic_port": 20000, "max_dynamic_port": 20002}))
    world.deploy(make_job(group=make_group(count=3, ports=dynamic_ports("http"))))
    task = make_task(env={"VERSION": "2"})
    decision = world.deploy(make_job(group=make_group(count=3, ports=dynamic_ports("http"), task=task)))
    assert decision.placed == 3


# --- batch ------------------------------------------------------------------------------------------------------------


def test_finished_batch_work_counts_as_done() -> None:
    world = cluster()
    world.deploy(make_job(type="batch", count=3))
    world.report("complete", *world.live()[:2])
    decision = world.run()
    assert (decision.placed, decision.plan.stops) == (0, ())


def test_a_new_version_of_a_batch_job_runs_again() -> None:
    world = cluster()
    world.deploy(make_job(type="batch", count=2))
    world.report("complete", *world.live())
    assert world.deploy(make_job(type="batch", count=2, meta={"run": "2"})).placed == 2


def test_failed_batch_work_is_rescheduled_by_its_policy() -> None:
    world = cluster()
    world.deploy(rescheduling(TWICE, type="batch"))
    world.report("failed", *world.live())
    world.wait(10)
    assert world.run().placed == 1


def test_drained_batch_work_is_not_replaced_elsewhere() -> None:
    world = cluster()
    world.deploy(make_job(type="batch"))
    [alloc] = world.live()
    world.flag(alloc, migrate=True, migrate_disable_placement=True)
    decision = world.run()
    assert (decision.placed, len(decision.plan.stops)) == (0, 1)
    world.report("failed", alloc)
    assert world.run().placed == 0
