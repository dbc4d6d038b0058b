"""What the drainer decides, from tables of what runs where."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_builders import make_job, node_id
from drain_world import DrainWorld, service
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.job import CSIPluginConfig
from nomadpy.model.node import DrainStrategy
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.server import drainer
from nomadpy.state import commands as c

HOUR_S = 3600


def is_over(world: DrainWorld, number: int = 0) -> bool:
    return world.node(number).drain_strategy is None


# --- the end of a drain -----------------------------------------------------------------------------------------------


def test_without_a_drain_there_is_nothing_to_do_and_nothing_to_wait_for() -> None:
    world = DrainWorld()
    world.put(service(count=2), 0, 1)
    assert world.look() == drainer.DrainDecision()


def test_an_empty_node_is_drained_at_once() -> None:
    world = DrainWorld()
    world.drain(meta={"why": "disk"})
    world.step()
    node = world.node()
    assert (node.drain_strategy, node.scheduling_eligibility) == (None, "ineligible")
    assert node.last_drain is not None
    assert (node.last_drain.status, node.last_drain.meta) == ("complete", {"why": "disk"})
    event = node.events[-1]
    assert (event.message, event.subsystem, event.details) == ("Node drain complete", "Drain", {})


def test_a_task_that_is_only_told_to_stop_is_still_there() -> None:
    world = DrainWorld()
    (alloc,) = world.put(service(), 0)
    world.drain()
    assert world.step() == {alloc.id}
    stop = c.StopAlloc(alloc_id=alloc.id, description="x")
    world.apply(c.ApplyPlans(plans=(c.PlanResult(job_id="job", stops=(stop,)),)))
    assert world.step() == set()
    assert not is_over(world)
    world.report("complete", alloc)
    world.step()
    assert is_over(world)


def test_a_completion_that_comes_too_late_is_refused() -> None:
    world = DrainWorld()
    world.drain()
    (completion,) = world.look().commands
    world.drain(deadline_s=60)
    outcome = world.tell(completion)
    assert (outcome.ok, outcome.code) == (False, "conflict")
    assert not is_over(world)
    world.apply(c.UpdateNodeDrain(node_id=node_id(0)))
    assert not world.tell(completion).ok
    last = world.node().last_drain
    assert last is not None
    assert last.status == "canceled"


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "max_parallel", "here", "elsewhere", "leave"),
    [
        (1, 1, 1, 0, 1),
        (3, 1, 3, 0, 1),
        (3, 2, 3, 0, 2),
        (3, 9, 3, 0, 3),
        (4, 1, 1, 3, 1),
        (4, 1, 2, 1, 0),  # one is missing already
        (4, 2, 2, 1, 1),
        (2, 1, 2, 1, 2),  # one more than wanted
        (2, 0, 2, 0, 0),  # such a pace never begins
    ],
)
def test_how_many_of_a_service_leave(count: int, max_parallel: int, here: int, elsewhere: int, leave: int) -> None:
    world = DrainWorld()
    job = service(count=count, max_parallel=max_parallel)
    allocs = world.put(job, *[0] * here)
    world.put(job, *[1] * elsewhere)
    world.drain()
    assert world.step() == {alloc.id for alloc in allocs[:leave]}
    assert not is_over(world)


def test_two_draining_nodes_share_the_pace_of_a_group() -> None:
    world = DrainWorld(3)
    world.put(service(count=4, max_parallel=1), 0, 1, 0, 1)
    for number in (0, 1):
        world.drain(number)
    assert len(world.step()) == 1


def test_groups_and_jobs_have_paces_of_their_own() -> None:
    world = DrainWorld()
    world.put(service("a", count=2), 0, 0)
    world.put(service("b", count=2, max_parallel=2), 0, 0)
    world.drain()
    world.step()
    assert [(e.job_id, e.triggered_by, e.type) for e in world.told] == [
        ("a", "node-drain", "service"),
        ("b", "node-drain", "service"),
    ]
    flagged = [alloc.job_id for job in "ab" for alloc in world.allocs(job) if alloc.desired_transition.migrate]
    assert flagged == ["a", "b", "b"]


@pytest.mark.parametrize(("verdict", "leave"), [(True, 1), (False, 1), (None, 0)])
def test_only_the_judged_count(verdict: bool | None, leave: int) -> None:
    world = DrainWorld()
    job = service(count=2)
    world.put(job, 0)
    world.put(job, 1, healthy=verdict)
    world.drain()
    assert len(world.step()) == leave


def test_one_that_nobody_will_judge_counts_after_the_healthy_deadline() -> None:
    world = DrainWorld()
    (alloc,) = world.put(service(), 0, healthy=None)
    world.drain()
    assert world.step() == set()
    assert world.look().wake_at_ns == alloc.create_time_ns + 5 * MINUTE
    world.wait(300)
    assert world.step() == {alloc.id}


def test_one_that_leaves_already_does_not_count() -> None:
    world = DrainWorld()
    allocs = world.put(service(count=3, max_parallel=2), 0, 0, 1)
    stopped = {allocs[2].id: DesiredTransition(migrate=True)}
    world.apply(c.UpdateAllocTransitions(transitions=stopped))
    world.drain()
    assert world.step() == {allocs[0].id}


def test_the_next_leaves_when_the_replacement_is_judged() -> None:
    world = DrainWorld()
    world.put(service(count=3), 0, 0, 0)
    world.drain()
    for _ in range(3):
        assert len(world.step()) == 1
        assert world.step() == set()
        world.work()
    world.step()
    assert is_over(world)
    assert [alloc.node_id for alloc in world.live()] == [node_id(1)] * 3
    assert all(alloc.previous_allocation for alloc in world.live())


def test_allocations_of_jobs_that_are_gone_are_left_to_the_scheduler() -> None:
    world = DrainWorld()
    world.put(service(), 0)
    world.drain()
    world.apply(c.DeregisterJob(job_id="job"))
    assert world.step() == set()


@given(st.data())
def test_a_service_never_falls_below_its_count_by_more_than_its_pace(data: st.DataObject) -> None:
    count, max_parallel = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 4))
    places = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=count))
    world = DrainWorld(4)
    world.put(service(count=count, max_parallel=max_parallel), *places)
    for number in data.draw(st.sets(st.integers(0, 2))):
        world.drain(number)
    for _ in range(count + 2):
        staying = [alloc for alloc in world.live() if not alloc.desired_transition.migrate]
        told = world.step()
        assert len(staying) - len(told) >= min(len(staying), count - max_parallel)
        world.work()
    if len(places) == count and max_parallel:
        assert all(is_over(world, number) for number in range(4))
        assert len(world.live()) == count


def test_a_draining_node_that_is_lost_is_empty_once_its_allocations_are() -> None:
    world = DrainWorld()
    world.put(service(count=2), 0, 0)
    world.drain()
    world.step()
    world.apply(c.UpdateNodeStatus(node_id=node_id(0), status="down"))
    world.work()
    assert {alloc.client_status for alloc in world.allocs() if alloc.node_id == node_id(0)} == {"lost"}
    world.step()
    assert is_over(world)
    assert len(world.live()) == 2


def test_a_group_that_shrinks_lets_more_go() -> None:
    world = DrainWorld()
    world.put(service(count=3), 0, 0, 0)
    world.drain()
    assert len(world.step()) == 1
    world.apply(c.RegisterJob(job=service(count=1)))
    assert len(world.step()) == 2


# --- batch, sysbatch, system ------------------------------------------------------------------------------------------


def test_batch_work_may_finish_and_blocks_the_end() -> None:
    world = DrainWorld()
    (alloc,) = world.put(make_job(type="batch"), 0)
    world.drain()
    assert world.step() == set()
    assert not is_over(world)
    assert world.look().wake_at_ns == world.now_ns + HOUR_S * SECOND
    world.report("complete", alloc)
    world.step()
    assert is_over(world)


def test_batch_work_is_stopped_at_the_deadline_and_not_begun_again() -> None:
    world = DrainWorld()
    (alloc,) = world.put(make_job(type="batch"), 0)
    world.drain(deadline_s=60)
    world.wait(60)
    assert world.step() == {alloc.id}
    assert world.alloc(alloc).desired_transition.migrate_disable_placement is True
    assert world.node().events[-1].details == {"deadline_reached": "true"}
    world.work()
    assert world.live() == []
    assert len(world.allocs()) == 1


def test_sysbatch_work_blocks_the_end_and_is_stopped_at_the_deadline() -> None:
    world = DrainWorld()
    (alloc,) = world.put(make_job(type="sysbatch"), 0)
    world.drain(deadline_s=60)
    assert world.step() == set()
    assert not is_over(world)
    world.wait(60)
    assert world.step() == {alloc.id}
    assert world.alloc(alloc).desired_transition == DesiredTransition(migrate=True)


def test_system_jobs_leave_last() -> None:
    world = DrainWorld()
    (last,) = world.put(make_job("sys", type="system"), 0)
    (first,) = world.put(service(), 0)
    world.drain()
    assert world.step() == {first.id}
    world.work()
    assert world.step() == {last.id}
    assert is_over(world)
    assert world.node().events[-1].details == {}
    world.work()
    assert [alloc.node_id for alloc in world.live("sys")] == [node_id(1)]


def test_plugins_leave_with_the_system_jobs() -> None:
    world = DrainWorld()
    job = service()
    group = job.task_groups[0]
    plugin = group.tasks[0].replace(csi_plugin_config=CSIPluginConfig(id="p"))
    (last,) = world.put(job.replace(task_groups=(group.replace(tasks=(plugin,)),)), 0)
    (first,) = world.put(service("web"), 0)
    world.drain()
    assert world.step() == {first.id}
    world.work()
    assert world.step() == {last.id}


@pytest.mark.parametrize("limit", [HOUR_S, -1])
def test_system_jobs_stay_when_they_are_to_be_ignored(limit: float) -> None:
    world = DrainWorld()
    world.put(make_job("sys", type="system"), 0)
    (other,) = world.put(service(), 0)
    world.drain(deadline_s=limit, ignore_system=True)
    assert world.step() == {other.id}
    world.work()
    world.step()
    assert is_over(world)
    assert len(world.live("sys")) == 1


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "waiting"), [(-1, 0), (60, 60)])
def test_force_and_the_deadline_tell_everything_to_leave_and_end_the_drain(limit: float, waiting: float) -> None:
    world = DrainWorld()
    everything = world.put(service(count=3), 0, 0, 0)
    for kind in ("batch", "sysbatch", "system"):
        everything += world.put(make_job(kind, type=kind), 0)
    world.drain(deadline_s=limit)
    world.wait(waiting)
    told = world.step()
    assert is_over(world)
    assert told == {alloc.id for alloc in everything}
    assert world.node().scheduling_eligibility == "ineligible"
    assert {e.job_id for e in world.told} == {"job", "batch", "sysbatch", "system"}


def test_just_before_the_deadline_nothing_is_forced() -> None:
    world = DrainWorld()
    world.put(make_job(type="batch"), 0)
    world.drain(deadline_s=60)
    world.wait(59.9)
    assert world.step() == set()


def test_without_a_deadline_only_changes_matter() -> None:
    world = DrainWorld()
    world.put(make_job(type="batch"), 0)
    world.drain(deadline_s=0)
    world.wait(10 * 365 * 24 * HOUR_S)
    decision = world.look()
    assert (decision.commands, decision.wake_at_ns, decision.draining) == ((), None, True)


def test_the_earliest_deadline_wakes() -> None:
    world = DrainWorld(3)
    for number, deadline_s in enumerate((90, 30, 60)):
        world.put(make_job(f"b{number}", type="batch"), number)
        world.drain(number, deadline_s=deadline_s)
    assert world.look().wake_at_ns == world.now_ns + 30 * SECOND


def test_many_allocations_go_in_entries_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainer, "TRANSITIONS_MAX", 2)
    world = DrainWorld()
    world.put(service(count=5), *[0] * 5)
    world.drain(deadline_s=-1)
    sizes = [len(one.transitions) for one in world.look().commands if isinstance(one, c.UpdateAllocTransitions)]
    assert sizes == [2, 2, 1]
    assert len(world.step()) == 5


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_changed_drain_keeps_its_beginning_and_its_notes() -> None:
    world = DrainWorld()
    world.put(make_job(type="batch"), 0)
    world.drain(meta={"why": "disk"}, accessor_id="me")
    began = world.now_ns
    world.wait(10)
    world.drain(deadline_s=60)
    node = world.node()
    assert node.drain_strategy is not None
    assert node.last_drain is not None
    assert node.drain_strategy.started_at_ns == node.last_drain.started_at_ns == began
    assert (node.last_drain.updated_at_ns, node.last_drain.status) == (world.now_ns, "draining")
    assert (node.last_drain.meta, node.last_drain.accessor_id) == ({"why": "disk"}, "me")


def test_a_new_drain_starts_afresh() -> None:
    world = DrainWorld()
    world.drain(meta={"why": "disk"})
    world.step()
    world.wait(10)
    world.drain()
    last = world.node().last_drain
    assert last is not None
    assert (last.started_at_ns, last.meta) == (world.now_ns, {})


@pytest.mark.parametrize(("mark", "after"), [(True, "eligible"), (False, "ineligible")])
def test_ending_a_drain(mark: bool, after: str) -> None:
    world = DrainWorld()
    world.put(make_job(type="batch"), 0)
    world.drain()
    world.apply(c.UpdateNodeDrain(node_id=node_id(0), mark_eligible=mark))
    node = world.node()
    assert (node.drain_strategy, node.scheduling_eligibility) == (None, after)
    assert node.last_drain is not None
    assert node.last_drain.status == "canceled"


def test_ending_what_never_began_leaves_no_trace() -> None:
    world = DrainWorld()
    world.apply(c.UpdateNodeDrain(node_id=node_id(0), mark_eligible=True))
    assert world.node().last_drain is None


def test_a_draining_node_cannot_be_made_eligible() -> None:
    world = DrainWorld()
    world.put(make_job(type="batch"), 0)
    world.drain()
    order: Any = c.UpdateNodeEligibility(node_id=node_id(0), eligibility="eligible")
    outcome = world.tell(order)
    assert not outcome.ok
    assert outcome.message == "can not set node's scheduling eligibility to eligible while it is draining"
    assert world.node().drain_strategy == DrainStrategy(
        deadline_ns=HOUR_S * SECOND,
        force_deadline_ns=world.now_ns + HOUR_S * SECOND,
        started_at_ns=world.now_ns,
    )
