"""The small pure decisions: restarts, lifecycle, status, assignments, heartbeats."""

from __future__ import annotations

import doctest
import importlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.client import lifecycle, restart
from nomadpy.client.heartbeat import retry_delay_s
from nomadpy.client.lifecycle import KillCause, Role, Stage
from nomadpy.client.reconcile import reconcile
from nomadpy.client.restart import RestartTracker, Verdict
from nomadpy.client.status import client_status
from nomadpy.model.alloc import TaskState
from nomadpy.model.job import RestartPolicy
from nomadpy.model.time import SECOND

MODULES = ("environment", "status", "reconcile", "lifecycle", "gc", "files", "logs", "driver_config", "env_file")


@pytest.mark.parametrize("name", [*MODULES, "fingerprint.facts", "fingerprint.network"])
def test_the_examples_in_the_documentation_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"nomadpy.client.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def tracker(mode: str = "fail", attempts: int = 2, *, on_success: bool = True) -> RestartTracker:
    policy = RestartPolicy(attempts=attempts, interval_ns=100 * SECOND, delay_ns=10 * SECOND, mode=mode)
    return RestartTracker(policy, restart_on_success=on_success, now_ns=0)


def fail(one: RestartTracker, at_s: int) -> restart.Decision:
    return one.after_exit(successful=False, now_ns=at_s * SECOND, rng=random.Random(3))


def test_restarts_are_counted_within_an_interval() -> None:
    one = tracker()
    assert [fail(one, s).verdict for s in (1, 2, 3)] == [Verdict.RESTART, Verdict.RESTART, Verdict.GIVE_UP]
    assert fail(one, 4).reason == 'Exceeded allowed attempts 2 in interval 1m40s and mode is "fail"'


def test_a_new_interval_starts_the_count_anew() -> None:
    one = tracker()
    assert [fail(one, s).verdict for s in (1, 2, 150, 160, 170)] == [Verdict.RESTART] * 4 + [Verdict.GIVE_UP]


def test_mode_delay_waits_for_the_end_of_the_interval() -> None:
    one = tracker("delay", attempts=1)
    fail(one, 10)
    decision = fail(one, 40)
    assert decision.reason == "Exceeded allowed attempts, applying a delay"
    assert decision.delay_ns == 60 * SECOND + 1
    assert fail(one, 101).reason == "Restart within policy"


def test_without_attempts_a_good_exit_ends_and_a_bad_one_fails() -> None:
    assert fail(tracker(attempts=0), 1).reason == "Policy allows no restarts"
    good = tracker(attempts=0, on_success=False)
    assert good.after_exit(successful=True, now_ns=1, rng=random.Random(1)).verdict is Verdict.DONE


def test_an_unrecoverable_error_gives_up_at_once() -> None:
    decision = tracker().after_error(recoverable=False, now_ns=1, rng=random.Random(1))
    assert (decision.verdict, decision.reason) == (Verdict.GIVE_UP, "Error was unrecoverable")


@given(st.integers(0, 2**32))
def test_the_delay_is_at_most_a_quarter_longer(seed: int) -> None:
    decision = tracker().after_exit(successful=False, now_ns=1, rng=random.Random(seed))
    assert 10 * SECOND <= decision.delay_ns <= 12.5 * SECOND


@pytest.mark.parametrize(
    ("role", "job_type", "again"),
    [
        (Role(), "service", True),
        (Role(), "system", True),
        (Role(), "batch", False),
        (Role(), "sysbatch", False),
        (Role(Stage.PRESTART), "service", False),
        (Role(Stage.PRESTART, sidecar=True), "batch", True),
        (Role(Stage.POSTSTART, sidecar=True), "service", True),
        (Role(Stage.POSTSTOP, sidecar=True), "service", False),
    ],
)
def test_which_tasks_run_again_after_success(role: Role, job_type: str, again: bool) -> None:
    assert lifecycle.restarts_on_success(role, job_type) is again


ROLES = st.builds(Role, st.sampled_from(Stage), st.booleans(), st.booleans())
STATES = st.builds(TaskState, state=st.sampled_from(["pending", "running", "dead"]), failed=st.booleans())
GROUPS = st.dictionaries(st.sampled_from("abcde"), st.tuples(ROLES, STATES), min_size=1)


@given(GROUPS)
def test_no_stage_starts_before_the_one_before_it(group: dict[str, tuple[Role, TaskState]]) -> None:
    roles = {name: role for name, (role, _) in group.items()}
    states = {name: state for name, (_, state) in group.items()}
    for name, role in roles.items():
        if not lifecycle.may_start(name, roles, states):
            continue
        others = [(r, states[n]) for n, r in roles.items() if n != name]
        if role.stage is Stage.POSTSTOP:
            assert all(s.state == "dead" for r, s in others if r.stage is not Stage.POSTSTOP)
        if role.stage in (Stage.MAIN, Stage.POSTSTART):
            assert not any(s.state == "pending" for r, s in others if r.stage is Stage.PRESTART)
        if role.stage is Stage.POSTSTART:
            assert not any(s.state == "pending" for r, s in others if r.stage is Stage.MAIN)


@given(GROUPS)
def test_nothing_is_killed_when_nothing_is_alive_and_everything_has_its_place_in_the_order(
    group: dict[str, tuple[Role, TaskState]],
) -> None:
    roles = {name: role for name, (role, _) in group.items()}
    dead = {name: TaskState(state="dead", failed=True) for name in group}
    assert lifecycle.kill_cause(roles, dead) is None
    order = lifecycle.kill_order(roles, with_poststop=True)
    assert sorted(name for names in order for name in names) == sorted(roles)


def test_a_failed_poststop_task_kills_nobody() -> None:
    roles = {"a": Role(), "z": Role(Stage.POSTSTOP)}
    states = {"a": TaskState(state="running"), "z": TaskState(state="dead", failed=True)}
    assert lifecycle.kill_cause(roles, states) is None


def test_sidecars_alone_have_no_reason_to_live() -> None:
    roles = {"a": Role(), "s": Role(Stage.POSTSTART, sidecar=True)}
    states = {"a": TaskState(state="dead"), "s": TaskState(state="running")}
    assert lifecycle.kill_cause(roles, states) == (KillCause.MAIN_TASKS_DEAD, "")


@pytest.mark.parametrize(
    ("tasks", "status"),
    [
        ("RF", "failed"),
        ("RP", "running"),
        ("DP", "pending"),
        ("DD", "complete"),
        ("PP", "pending"),
    ],
)
def test_the_status_of_an_alloc_follows_from_its_tasks(tasks: str, status: str) -> None:
    letters = {
        "R": TaskState(state="running"),
        "P": TaskState(),
        "D": TaskState(state="dead"),
        "F": TaskState(state="dead", failed=True),
    }
    assert client_status({str(i): letters[letter] for i, letter in enumerate(tasks)})[0] == status


INDEXES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9))


@given(INDEXES, INDEXES)
def test_following_the_actions_reaches_what_was_assigned(assigned: dict[str, int], known: dict[str, int]) -> None:
    actions = reconcile(assigned, known)
    after = {id: index for id, index in known.items() if id not in actions.destroy}
    after.update({id: assigned[id] for id in (*actions.start, *actions.update)})
    assert set(after) == set(assigned)
    assert all(after[id] == max(index, known.get(id, 0)) for id, index in assigned.items())
    assert reconcile(assigned, after) == reconcile(after, after)


@given(st.one_of(st.none(), st.floats(-1000, 1000)), st.booleans(), st.integers(0, 99))
def test_a_failed_beat_is_repeated_after_one_to_thirty_seconds(
    left_s: float | None, has_leader: bool, seed: int
) -> None:
    delay_s = retry_delay_s(random.Random(seed), left_s=left_s, has_leader=has_leader)
    assert 1 <= delay_s <= 30
    if left_s is None or not has_leader:
        assert delay_s >= 15
    elif left_s > 2:
        assert delay_s <= left_s
