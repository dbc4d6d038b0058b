"""Nodes out of reach: what becomes of their allocations meanwhile, and who stays when they return."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.alloc import Allocation, AllocMetric, ScoreMeta, TaskState
from nomadpy.model.job import DisconnectStrategy, Job, UpdateStrategy
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.scheduler import Decision
from nomadpy.scheduler.disconnect import keeps_original
from nomadpy.state import commands as c

HOUR = 60 * MINUTE


def job(count: int = 2, *, version: int = 0, type: str = "service", **disconnect: Any) -> Job:
    strategy = DisconnectStrategy(**{"lost_after_ns": HOUR, "replace_": True, "reconcile": "best_score", **disconnect})
    task = make_task(env={"VERSION": str(version)})
    return make_job(type=type, group=make_group(count=count, disconnect=strategy, task=task))


def running(count: int = 2, nodes: int = 3, **changes: Any) -> World:
    """A cluster in which every allocation runs; the first one is on node 0."""
    world = World(*(make_node(n) for n in range(nodes)))
    world.deploy(job(count, **changes))
    world.report("running", *world.live())
    return world


def first(world: World) -> Allocation:
    return next(a for a in world.allocs() if a.node_id == world.node_id(0))


def cut_off(world: World, status: str = "disconnected") -> Decision:
    world.set_node(0, status)
    return world.run()


def come_back(world: World, status: str = "running") -> Decision:
    """The node returns, its allocations report, and it is ready again."""
    world.set_node(0, "initializing")
    here = [a for a in world.allocs() if a.node_id == world.node_id(0) and not a.client_terminal()]
    world.report(status, *here)
    world.set_node(0, "ready")
    return world.run()


def states(alloc: Allocation) -> list[str]:
    return [state.value for state in alloc.alloc_states]


def again(world: World, alloc: Allocation) -> Allocation:
    found = world.store.alloc(alloc.id)
    assert found is not None
    return found


# --- while it is away -------------------------------------------------------------------------------------------------


def test_it_becomes_unknown_and_another_one_takes_its_place() -> None:
    world = running(1)
    lost = first(world)
    decision = cut_off(world)
    known = again(world, lost)
    assert (known.client_status, known.desired_status) == ("unknown", "run")
    assert known.desired_description == "alloc is unknown since its node is disconnected"
    assert states(known) == ["unknown"]
    [replacement] = [a for a in world.live() if a.id != lost.id]
    assert (replacement.previous_allocation, known.next_allocation) == (lost.id, replacement.id)
    assert (replacement.name, replacement.node_id) == (lost.name, world.node_id(1))
    assert replacement.reschedule_tracker is not None
    assert replacement.reschedule_tracker.events[-1].prev_alloc_id == lost.id
    [timeout] = decision.created
    assert (timeout.triggered_by, timeout.status) == ("max-disconnect-timeout", "pending")
    assert timeout.wait_until_ns == world.now_ns + HOUR
    assert known.followup_eval_id == timeout.id
    desired = decision.desired["app"]
    assert (desired.disconnect, desired.place, desired.stop) == (1, 1, 0)
    decision = world.run()
    assert (decision.placed, decision.plan.stops, decision.created) == (0, (), ()), "once is enough"


def test_without_replace_its_place_is_kept_for_it() -> None:
    world = running(2, replace_=False)
    decision = cut_off(world)
    assert (decision.placed, decision.desired["app"].disconnect) == (0, len(decision.created))
    assert first(world).client_status == "unknown"


def test_what_never_ran_and_what_has_no_lost_after_is_lost_at_once() -> None:
    world = World(*(make_node(n) for n in range(2)))
    world.deploy(job(1))
    cut_off(world)
    assert first(world).client_status == "lost"
    world = running(1, lost_after_ns=0)
    cut_off(world)
    assert (first(world).client_status, states(first(world))) == ("lost", ["lost"])
    assert world.by_node() == {1: 1}


def test_after_lost_after_it_is_lost() -> None:
    world = running(1)
    timeout = cut_off(world).created[0]
    world.wait(3600)
    decision = world.run(timeout)
    assert (first(world).client_status, first(world).desired_status) == ("lost", "stop")
    assert states(first(world)) == ["unknown", "lost"]
    assert decision.placed == 0, "it has been replaced"
    assert world.by_node() == {1: 1}


def test_without_replace_it_is_replaced_when_it_is_lost() -> None:
    world = running(1, replace_=False)
    timeout = cut_off(world).created[0]
    world.wait(3600)
    assert world.run(timeout).placed == 1
    assert world.live()[0].previous_allocation == first(world).id


def test_expiries_within_five_seconds_share_an_evaluation() -> None:
    world = running(4, nodes=1)
    decision = cut_off(world)
    assert len(decision.created) == 2, "one for the expiry, one that waits for room"
    assert {a.followup_eval_id for a in world.live()} == {decision.created[0].id}


@pytest.mark.parametrize(("replaced", "status"), [(True, "lost"), (False, "unknown")])
def test_a_node_that_is_down_has_lost_its_allocations_unless_they_are_waited_for(replaced: bool, status: str) -> None:
    world = running(1, replace_=replaced)
    cut_off(world, "down")
    assert first(world).client_status == status
    assert world.run().placed == 0


def test_a_replacement_that_finds_no_room_is_tried_again() -> None:
    world = running(1, nodes=1)
    decision = cut_off(world)
    assert decision.evaluation.queued_allocations == {"app": 1}
    world.add_node(make_node(1))
    decision = world.run()
    assert (decision.placed, world.by_node()) == (1, {0: 1, 1: 1})


def test_the_replacement_of_one_that_is_away_counts_in_its_stead() -> None:
    """With the one that is away counted as well, the loss of another one would not be made good."""
    world = running(2, nodes=4)
    assert world.by_node() == {0: 1, 1: 1}
    cut_off(world)
    world.report("running", *[a for a in world.live() if a.client_status == "pending"])
    world.set_node(1, "down")
    world.run()
    assert len([a for a in world.live() if a.client_status != "unknown"]) == 2
    assert sorted(a.index for a in world.live() if a.client_status != "unknown") == [0, 1]


def test_a_smaller_count_leaves_alone_what_is_away() -> None:
    world = running(3, replace_=False)
    cut_off(world)
    world.deploy(job(2, replace_=False))
    assert len(world.live()) == 3
    come_back(world)
    assert len(world.live()) == 2


def test_a_stopped_job_stops_what_is_away() -> None:
    world = running(1)
    cut_off(world)
    world.apply(c.DeregisterJob(job_id="job"))
    world.run()
    assert world.live() == []
    assert first(world).client_status == "unknown", "it may still run there"
    world.set_node(0, "down")
    world.run()
    assert first(world).client_status == "lost"


def test_the_three_older_attributes_mean_the_same() -> None:
    world = World(make_node(0), make_node(1))
    group = make_group(max_client_disconnect_ns=HOUR, prevent_reschedule_on_lost=True)
    world.deploy(make_job(group=group))
    world.report("running", *world.live())
    assert cut_off(world).placed == 0
    assert first(world).client_status == "unknown"


# --- the return -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reconcile", "stays"), [("keep_original", 0), ("keep_replacement", 1)])
def test_the_strategy_decides_who_stays(reconcile: str, stays: int) -> None:
    world = running(1, reconcile=reconcile)
    cut_off(world)
    world.report("running", *[a for a in world.live() if a.client_status == "pending"])
    decision = come_back(world)
    assert world.by_node() == {stays: 1}
    [stop] = decision.plan.stops
    assert stop.description == "alloc not needed due to disconnected client reconnect"
    assert (decision.desired["app"].reconnect, decision.desired["app"].stop) == (1 - stays, 1)
    assert decision.placed == 0
    decision = world.run()
    assert (decision.placed, decision.plan.stops, decision.plan.annotate) == (0, (), ())


def test_one_that_stays_starts_a_new_life() -> None:
    world = running(1, reconcile="keep_original")
    cut_off(world)
    come_back(world)
    original = first(world)
    assert (original.client_status, states(original)) == ("running", ["unknown", "running"])
    assert (original.next_allocation, original.followup_eval_id) == ("", "")
    world.report("failed", original)
    world.wait(60)
    world.run()
    decision = cut_off(world)
    assert decision.plan.annotate == ()


def test_one_that_comes_back_without_a_replacement_just_stays() -> None:
    world = running(2, replace_=False)
    cut_off(world)
    decision = come_back(world)
    assert (decision.placed, decision.plan.stops) == (0, ())
    assert {a.client_status for a in world.live()} == {"running"}
    cut_off(world)
    assert states(first(world)) == ["unknown", "running", "unknown"]


def test_nothing_is_decided_before_the_node_has_reported() -> None:
    world = running(1, reconcile="keep_original")
    cut_off(world)
    world.set_node(0, "initializing")
    decision = world.run()
    assert (decision.plan.stops, decision.placed) == ((), 0)
    assert first(world).client_status == "unknown"


def test_one_that_failed_meanwhile_goes() -> None:
    world = running(1, reconcile="keep_original")
    cut_off(world)
    decision = come_back(world, "failed")
    assert [stop.alloc_id for stop in decision.plan.stops] == [first(world).id]
    assert world.by_node() == {1: 1}


def test_one_that_failed_meanwhile_and_was_waited_for_is_rescheduled_by_its_policy() -> None:
    world = running(1, replace_=False)
    cut_off(world)
    decision = come_back(world, "failed")
    assert decision.placed == 0, "its job has no reschedule policy"
    assert first(world).desired_status == "run"


def test_one_that_ended_meanwhile_is_over() -> None:
    world = running(1, type="batch")
    cut_off(world)
    assert len(world.live()) == 2
    come_back(world, "complete")
    assert world.by_node() == {1: 1}


def test_finished_work_is_not_done_twice() -> None:
    world = running(1, type="batch", reconcile="keep_original")
    cut_off(world)
    world.report("complete", *[a for a in world.live() if a.client_status == "pending"])
    assert world.run().placed == 0
    come_back(world)
    assert world.live() == []


def test_an_old_version_goes() -> None:
    world = running(1, reconcile="keep_original")
    cut_off(world)
    world.deploy(job(1, version=2, reconcile="keep_original"))
    come_back(world)
    assert [(a.job.version, a.node_id) for a in world.live() if a.job] == [(1, world.node_id(1))]


def test_an_old_version_that_nobody_replaced_is_updated_like_any_other() -> None:
    world = running(1, replace_=False)
    cut_off(world)
    world.deploy(job(1, version=0, replace_=False).replace(priority=70))
    assert first(world).job is not None
    assert world.run().plan.in_place == (), "nobody can tell it"
    come_back(world)
    assert [(a.job.version, a.id) for a in world.live() if a.job] == [(1, first(world).id)]


def test_of_a_chain_of_replacements_one_stays() -> None:
    world = running(1, nodes=4, reconcile="keep_original")
    cut_off(world)
    world.report("running", *[a for a in world.live() if a.client_status == "pending"])
    world.set_node(1, "disconnected")
    world.run()
    world.report("running", *[a for a in world.live() if a.client_status == "pending"])
    assert world.by_node() == {0: 1, 1: 1, 2: 1}
    come_back(world)
    assert world.by_node() == {0: 1}


def test_a_flag_set_meanwhile_counts() -> None:
    world = running(1, replace_=False)
    cut_off(world)
    world.flag(first(world), migrate=True)
    come_back(world)
    assert first(world).desired_status == "stop"
    assert len(world.live()) == 1


# --- who stays --------------------------------------------------------------------------------------------------------


def alloc(
    score: float | None, *, status: str = "running", reconcile: str = "best_score", started: int = 0, version: int = 0
) -> Allocation:
    strategy = DisconnectStrategy(lost_after_ns=1, reconcile=reconcile)
    meta = () if score is None else (ScoreMeta(node_id="n", norm_score=score),)
    return Allocation(
        id=f"{score}-{status}",
        node_id="n",
        job=make_job(group=make_group(disconnect=strategy), version=version),
        task_group="app",
        client_status=status,
        metrics=AllocMetric(score_meta_data=meta),
        task_states={"web": TaskState(state="running", started_at_ns=started)},
    )


@pytest.mark.parametrize(
    ("original", "replacement", "stays"),
    [
        (alloc(0.5), alloc(0.7), False),
        (alloc(0.5), alloc(0.5), True),
        (alloc(0.7), alloc(0.5), True),
        (alloc(0.5), alloc(0.7, status="pending"), True),
        (alloc(0.5), alloc(None), True),
        (alloc(None), alloc(0.1), False),
        (alloc(0.1), alloc(0.9, status="unknown"), True),
        (alloc(0.9), alloc(0.1, version=1), False),
        (alloc(0.1, reconcile="longest_running", started=1), alloc(0.9, started=2), True),
        (alloc(0.9, reconcile="longest_running", started=2), alloc(0.1, started=1), False),
        (alloc(0.1, reconcile="longest_running", started=1), alloc(0.9, started=1), False),
        (alloc(0.1, reconcile="longest_running"), alloc(0.9, started=5), False),
        (alloc(0.1, reconcile="keep_original"), alloc(0.9), True),
        (alloc(0.9, reconcile="keep_replacement"), alloc(0.1), False),
        (alloc(0.9, reconcile="keep_original"), alloc(0.1, version=1), False),
    ],
)
def test_who_stays(original: Allocation, replacement: Allocation, stays: bool) -> None:
    assert keeps_original(original, replacement) is stays


# --- the node stops it by itself --------------------------------------------------------------------------------------


def stopping(count: int = 1) -> World:
    return running(count, lost_after_ns=0, stop_on_client_after_ns=30 * SECOND)


def test_what_the_node_stops_by_itself_is_replaced_when_it_must_have_ended() -> None:
    world = stopping()
    decision = cut_off(world, "down")
    assert (decision.placed, first(world).client_status) == (0, "lost")
    [follow_up] = decision.created
    assert follow_up.triggered_by == "alloc-reschedule"
    assert follow_up.wait_until_ns == world.now_ns + 35 * SECOND, "30 s, and 5 s for killing"
    world.wait(34)
    assert world.run().placed == 0, "no other evaluation comes earlier"
    world.wait(1)
    assert world.run(follow_up).placed == 1
    assert world.live()[0].previous_allocation == first(world).id
    assert world.run().placed == 0


# --- deployments ------------------------------------------------------------------------------------------------------


def test_a_deployment_decides_about_its_own_first() -> None:
    """While it runs, what it placed is placed anew only on its watcher's word."""
    world = World(*(make_node(n) for n in range(3)))
    strategy = DisconnectStrategy(lost_after_ns=HOUR, replace_=True, reconcile="best_score")
    update = UpdateStrategy(max_parallel=1, progress_deadline_ns=10 * MINUTE)
    world.deploy(make_job(group=make_group(disconnect=strategy, update=update)))
    world.report("running", *world.live())
    decision = cut_off(world)
    assert (first(world).client_status, decision.placed) == ("unknown", 0)
    world.flag(first(world), reschedule=True)
    assert world.run().placed == 1


# --- anything at any time ---------------------------------------------------------------------------------------------


class Trouble:
    """Nodes that come and go, reports, new versions and counts, in random order."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.world = World(*(make_node(n) for n in range(5)), seed=seed)
        self.settings: dict[str, Any] = {
            "type": rng.choice(("service", "batch")),
            "replace_": rng.random() < 0.7,
            "reconcile": rng.choice(("best_score", "keep_original", "keep_replacement", "longest_running")),
        }
        self.version = 0
        self.world.deploy(job(3, **self.settings))

    def step(self) -> None:
        rng, world = self.rng, self.world
        number = rng.randrange(5)
        node = world.store.node(world.node_id(number))
        assert node is not None
        match rng.choice(("away", "away", "back", "back", "down", "report", "report", "fail", "deploy", "wait")):
            case "away" if node.status == "ready":
                world.set_node(number, "disconnected")
            case "down" if node.status in ("ready", "disconnected"):
                world.set_node(number, "down")
            case "back" if node.status != "ready":
                here = [a for a in world.allocs() if a.node_id == node.id and not a.client_terminal()]
                world.report("running", *here)
                world.set_node(number, "ready")
            case "report" | "fail" as how if node.status == "ready":
                here = [a for a in world.live() if a.node_id == node.id]
                world.report("running" if how == "report" else "failed", *here)
            case "deploy":
                self.version += rng.random() < 0.3
                world.deploy(job(rng.randint(1, 4), version=self.version, **self.settings))
            case "wait":
                world.wait(rng.choice((1, 600, 4000)))


@pytest.mark.parametrize("seed", range(80))
def test_what_was_decided_once_needs_no_second_word(seed: int) -> None:
    trouble = Trouble(seed)
    world = trouble.world
    for _ in range(25):
        trouble.step()
        world.run()
        again = world.decide(world.evaluation())
        assert (again.placed, again.plan.stops, again.plan.in_place) == (0, (), ())
        assert again.plan.annotate == ()
        stored = world.store.job("default", "job")
        assert stored is not None
        seen = [a for a in world.live() if a.client_status != "unknown"]
        assert len(seen) <= stored.task_groups[0].count
