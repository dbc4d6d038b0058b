"""What the watcher of deployments decides, and where deployments end with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from deployment_world import DeploymentWorld, paced
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.model.alloc import AllocUpdate, TaskState
from nomadpy.model.job import ReschedulePolicy
from nomadpy.model.time import HOUR, MINUTE, SECOND
from nomadpy.scheduler import schedule
from nomadpy.server.deployments import DeploymentWatch, Step
from nomadpy.server.worker import settle
from nomadpy.state import commands as c

NEVER = ReschedulePolicy()
ONCE = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", attempts=1, interval_ns=HOUR)
SUCCESS = ("successful", "Deployment completed successfully")


def started(**update: Any) -> DeploymentWorld:
    """Version 0 runs and is stable."""
    world = DeploymentWorld()
    world.deploy(paced(0, **update))
    world.roll()
    assert world.end == SUCCESS
    return world


def waits(world: DeploymentWorld) -> int | None:
    """Until when there is nothing to do."""
    step = world.look()
    assert step.commands == ()
    return step.wake_at_ns


def check_counts(world: DeploymentWorld) -> None:
    """The counters of the latest deployment are those of its allocations."""
    own = [a for a in world.store.allocs_by_job("default", "job") if a.deployment_id == world.deployment.id]
    verdicts = [a.deployment_status.healthy for a in own if a.deployment_status is not None]
    counted = (world.state.placed_allocs, world.state.healthy_allocs, world.state.unhealthy_allocs)
    assert counted == (len(own), verdicts.count(True), verdicts.count(False))


def test_without_a_deployment_there_is_nothing_to_do_and_nothing_to_wait_for() -> None:
    world = DeploymentWorld()
    world.deploy(paced(max_parallel=0))
    assert (world.look(), world.watcher.has_due) == (Step(), False)


# --- waves ------------------------------------------------------------------------------------------------------------


def test_health_calls_for_the_next_wave_once() -> None:
    world = started()
    world.deploy(paced(1))
    world.judge(world.unjudged()[0])
    (command,) = world.look().commands
    assert isinstance(command, c.UpdateEvals)
    (evaluation,) = command.evals
    assert (evaluation.triggered_by, evaluation.deployment_id) == ("deployment-watcher", world.deployment.id)
    world.apply(command)
    assert world.look().commands == (), "one that waits will see it"
    world.evaluate()
    assert world.look().commands == (), "it has been seen"


def test_an_evaluation_that_ran_before_the_report_is_no_answer_to_it() -> None:
    world = started()
    world.deploy(paced(1))
    seen = max(e.snapshot_index for e in world.store.evals.values())
    world.judge(world.unjudged()[0])
    assert seen < world.store.index
    assert len(world.look().commands) == 1


def test_an_evaluation_for_later_is_no_answer() -> None:
    world = started()
    world.deploy(paced(1))
    world.judge(world.unjudged()[0])
    (command,) = world.look().commands
    assert isinstance(command, c.UpdateEvals)
    later = command.evals[0].replace(wait_until_ns=world.now_ns + MINUTE)
    world.apply(c.UpdateEvals(evals=(later,)))
    assert len(world.look().commands) == 1


def test_a_rollout_ends_stable() -> None:
    world = started()
    world.deploy(paced(1))
    world.roll()
    assert (world.end, world.versions()) == (SUCCESS, [1, 1, 1, 1])
    assert [job.stable for job in world.store.jobs.versions["default", "job"]] == [True, True]
    assert (world.look(), world.watcher.has_due) == (Step(), False)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_deadline_is_slept_to_and_kept() -> None:
    world = started()
    world.deploy(paced(1))
    due = world.now_ns + 10 * MINUTE
    assert waits(world) == due
    world.now_ns = due - 1
    assert world.look().commands == ()
    world.now_ns = due
    world.settle()
    assert world.end == ("failed", "Failed due to progress deadline")
    assert sorted(world.versions()) == [0, 0, 1, 1], "nothing more is changed"


def test_progress_moves_the_deadline() -> None:
    world = started()
    world.deploy(paced(1))
    for _ in range(2):
        world.wait(9 * 60)
        world.judge(world.unjudged()[0])
        world.settle()
    assert world.deployment.status == "running"
    assert world.look().wake_at_ns == world.now_ns + 10 * MINUTE


def test_a_pause_stops_the_clock_and_a_resumption_winds_it_up() -> None:
    world = started()
    world.deploy(paced(1))
    change = c.DeploymentUpdate(deployment_id=world.deployment.id, status="paused")
    world.apply(c.ChangeDeployment(update=change))
    world.wait(3600)
    assert world.look() == Step()
    world.apply(c.ChangeDeployment(update=msgspec.structs.replace(change, status="running")))
    assert waits(world) == world.now_ns + 10 * MINUTE


@pytest.mark.parametrize(("deadline_ns", "policy"), [(0, None), (10 * MINUTE, NEVER)])
def test_an_unhealthy_allocation_that_gets_no_further_try_is_the_end(
    deadline_ns: int, policy: ReschedulePolicy | None
) -> None:
    world = started()
    more: dict[str, Any] = {"policy": policy} if policy is not None else {}
    world.deploy(paced(1, progress_deadline_ns=deadline_ns, **more))
    world.judge(world.unjudged()[0], healthy=False)
    world.settle()
    assert world.end == ("failed", "Failed due to unhealthy allocations")


def test_an_unhealthy_allocation_is_tried_again_until_the_tries_are_used_up() -> None:
    world = started()
    world.deploy(paced(1, policy=ONCE))
    first = world.unjudged()[0]
    world.judge(first, healthy=False)
    world.settle()
    assert world.deployment.status == "running"
    world.wait(6)
    world.settle()
    (second,) = [a for a in world.live() if a.previous_allocation == first.id]
    world.judge(second, healthy=False)
    world.settle()
    assert world.end == ("failed", "Failed due to unhealthy allocations")


def test_what_breaks_after_it_was_healthy_is_tried_again_and_no_reason_to_fail() -> None:
    world = started()
    world.deploy(paced(1))
    broken = world.unjudged()[0]
    world.judge(broken)
    world.judge(broken, healthy=False)
    assert world.state.unhealthy_allocs == 0, "the verdict stays"
    world.settle()
    world.wait(6)
    world.roll()
    assert (world.end, world.versions()) == (SUCCESS, [1, 1, 1, 1])


# --- going back -------------------------------------------------------------------------------------------------------


def test_a_failure_brings_the_newest_stable_version_back() -> None:
    world = started(auto_revert=True)
    world.deploy(paced(1, auto_revert=True))
    world.roll()
    world.deploy(paced(2, auto_revert=True, policy=NEVER))
    failing = world.deployment.id
    world.judge(world.unjudged()[0], healthy=False)
    world.roll()
    failed = world.store.deployments[failing]
    text = "Failed due to unhealthy allocations - rolling back to job version 1"
    assert (failed.status, failed.status_description) == ("failed", text)
    job = world.store.job("default", "job")
    assert job is not None
    assert (job.version, job.stable, job.task_groups[0].tasks[0].env) == (3, True, {"V": "1"})
    assert (world.end, world.versions()) == (SUCCESS, [3, 3, 3, 3])


def test_a_rollback_that_fails_is_not_rolled_back_again() -> None:
    world = started(auto_revert=True)
    world.deploy(paced(1, auto_revert=True))
    world.wait(601)
    world.settle()
    assert world.deployment.job_version == 2
    world.wait(601)
    world.settle()
    text = "Failed due to progress deadline - not rolling back to stable job version 0 as current job has same"
    assert world.end == ("failed", f"{text} specification")


def test_a_first_version_has_nothing_to_go_back_to() -> None:
    world = DeploymentWorld()
    world.deploy(paced(0, auto_revert=True))
    world.wait(601)
    world.settle()
    assert world.end == ("failed", "Failed due to progress deadline - no stable job version to auto revert to")


def test_a_job_that_moved_on_is_not_rolled_back() -> None:
    world = started(auto_revert=True)
    world.deploy(paced(1, auto_revert=True))
    world.wait(601)
    (command,) = world.look().commands
    world.register(paced(2, auto_revert=True))
    assert world.apply(command) == {"reverted_version": None}
    job = world.store.job("default", "job")
    assert job is not None
    assert job.version == 2


# --- canaries ---------------------------------------------------------------------------------------------------------


def test_healthy_canaries_wait_without_a_deadline() -> None:
    world = started()
    world.deploy(paced(1, canary=1))
    assert world.look().wake_at_ns == world.now_ns + 10 * MINUTE, "for the canary itself there is one"
    world.judge(*world.unjudged())
    world.settle()
    world.wait(24 * 3600)
    assert world.look() == Step()


def test_a_canary_that_never_gets_healthy_runs_into_the_deadline() -> None:
    world = started()
    world.deploy(paced(1, canary=1))
    world.wait(601)
    world.settle()
    assert world.deployment.status == "failed"
    assert world.versions() == [0, 0, 0, 0], "the canary is gone"


def test_canaries_promote_themselves_when_all_are_healthy() -> None:
    world = started()
    world.deploy(paced(1, canary=2, auto_promote=True))
    first, second = world.unjudged()
    world.judge(first)
    world.settle()
    assert world.versions().count(0) == 4
    world.judge(second)
    world.roll()
    assert (world.end, world.versions()) == (SUCCESS, [1, 1, 1, 1])


# --- what is looked at ------------------------------------------------------------------------------------------------


def test_what_got_lost_is_proposed_again() -> None:
    world = started()
    world.deploy(paced(1))
    world.judge(world.unjudged()[0])
    step = world.watcher.look(world.store, now_ns=world.now_ns, rng=world.rng)
    assert len(step.commands) == 1
    assert not world.watcher.has_due
    assert world.watcher.wake_at_ns == world.now_ns + 10 * SECOND
    world.wait(10)
    again = world.watcher.look(world.store, now_ns=world.now_ns, rng=world.rng)
    assert len(again.commands) == 1


def test_a_new_leader_looks_at_everything_that_goes_on() -> None:
    world = started()
    world.deploy(paced(1))
    world.judge(world.unjudged()[0])
    world.watcher = DeploymentWatch()
    world.watcher.begin(world.store)
    assert len(world.watch().commands) == 1


# --- whatever happens -------------------------------------------------------------------------------------------------

reports = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("well", "failed", "stuck", "late"))), max_size=12)


@settings(max_examples=120, deadline=None)
@given(reports, st.integers(0, 2), st.booleans(), st.sampled_from((NEVER, ONCE, None)), st.integers(1, 4))
def test_every_deployment_comes_to_an_end(
    history: list[tuple[int, str]], canary: int, revert: bool, policy: ReschedulePolicy | None, parallel: int
) -> None:
    more: dict[str, Any] = {"policy": policy} if policy is not None else {}
    world = started(auto_revert=True, max_parallel=parallel)
    world.deploy(paced(1, canary=canary, auto_promote=True, auto_revert=revert, max_parallel=parallel, **more))
    for number, what in history:
        waiting = world.unjudged()
        if what == "late":
            world.wait(200)
        elif waiting:
            alloc = waiting[number % len(waiting)]
            world.judge(alloc, healthy=what == "well", over=what == "failed")
        world.settle()
        running = sum(alloc.client_status == "running" for alloc in world.live())
        failed = sum(word == "failed" for _, word in history)
        if world.deployment.job_version == 1:
            assert running >= 4 - parallel - failed, "a roll-out takes down no more than it may"
    for _ in range(6):
        world.wait(601)
        world.settle()
        world.roll()
    assert not world.deployment.active()
    assert not any(deployment.active() for deployment in world.store.deployments.values())
    check_counts(world)
    if world.deployment.status == "successful":
        assert set(world.versions()) == {world.deployment.job_version}
        assert len(world.live()) == 4


def test_what_failed_while_the_deployment_came_to_its_end_is_placed_anew() -> None:
    world = DeploymentWorld()
    world.deploy(paced(0, count=2))
    first, second = world.unjudged()
    world.judge(first, second)
    world.watch()
    (ending,) = (e for e in world.store.evals.values() if not e.terminal())
    ended = TaskState(state="dead", failed=True, finished_at_ns=world.now_ns)
    failed = AllocUpdate(id=first.id, client_status="failed", task_states={"web": ended}, modify_time_ns=world.now_ns)
    failure = ending.replace(id="00000000-0000-0000-0000-0000000000ff", triggered_by="alloc-failure")
    # The failure is looked at while the deployment still runs, and therefore left to it; then it ends.
    end = schedule(world.store, ending, now_ns=world.now_ns, rng=world.rng)
    world.apply(c.UpdateAllocs(updates=(failed,), evals=(failure,)))
    look = schedule(world.store, failure, now_ns=world.now_ns, rng=world.rng)
    for decision in (end, look):
        world.apply(c.ApplyPlans(plans=(decision.plan,), evals=tuple(settle(world.store, decision))))
    assert world.end == SUCCESS
    world.settle()
    world.wait(60)
    world.settle()
    assert len(world.live()) == 2
