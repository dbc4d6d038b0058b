from __future__ import annotations

import random

import pytest
from client_world import EPOCH_NS
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.client import events as ev
from nomadpy.client import task as machine
from nomadpy.client.restart import RestartTracker
from nomadpy.drivers.contract import ExitResult
from nomadpy.model.alloc import TaskState
from nomadpy.model.job import RestartPolicy
from nomadpy.model.time import SECOND

POLICY = RestartPolicy(attempts=2, interval_ns=600 * SECOND, delay_ns=SECOND, mode="fail")
FAILURE = machine.AttemptFailed(ev.driver_failure(0, "x"))

SAMPLES: dict[type, st.SearchStrategy[machine.Event]] = {
    machine.GateOpened: st.just(machine.GateOpened()),
    machine.Prepared: st.just(machine.Prepared()),
    machine.AttemptFailed: st.booleans().map(lambda r: machine.AttemptFailed(FAILURE.event, r)),
    machine.Launched: st.just(machine.Launched()),
    machine.Abandoned: st.just(machine.Abandoned()),
    machine.Exited: st.integers(0, 1).map(lambda code: machine.Exited(ExitResult(exit_code=code))),
    machine.DelayOver: st.integers(0, 4).map(machine.DelayOver),
    machine.StopFailed: st.just(machine.StopFailed("no")),
    machine.Restart: st.booleans().map(lambda regate: machine.Restart("r", regate)),
    machine.Revive: st.just(machine.Revive("r")),
    machine.Kill: st.booleans().map(lambda skip: machine.Kill(skip_delay=skip)),
}


def make_machine(*, restart_on_success: bool = True, delay_ns: int = 0) -> machine.TaskMachine:
    tracker = RestartTracker(POLICY, restart_on_success=restart_on_success, now_ns=EPOCH_NS)
    rules = machine.TaskRules(shutdown_delay_ns=delay_ns, kill_timeout_ns=5 * SECOND)
    made = machine.TaskMachine(rules, tracker, rng=random.Random(1))
    made.receive(EPOCH_NS)
    return made


def test_the_table_has_a_rule_for_every_phase_and_event() -> None:
    assert set(machine.TRANSITIONS) == set(machine.Phase)
    for row in machine.TRANSITIONS.values():
        assert set(row) == set(machine.EVENTS) == set(SAMPLES)


class World:
    """Carries effects out in thought: which attempts run, whether their end is watched, which answers are owed."""

    def __init__(self, delay_ns: int) -> None:
        self.machine = make_machine(delay_ns=delay_ns)
        self.running = self.watched = False

    def step(self, event: machine.Event, now_ns: int) -> None:
        if isinstance(event, machine.Launched):
            self.running = True
        if isinstance(event, machine.Exited):
            self.running = self.watched = False
        for effect in self.machine.step(event, now_ns):
            if isinstance(effect, machine.Watch):
                self.watched = True
            if isinstance(effect, machine.Launch):
                assert not self.running, "never two attempts at once"
            if isinstance(effect, machine.CleanUp):
                assert not self.running, "nothing is cleaned up while it runs"

    def possible(self) -> list[type]:
        """The events that a runner could tell now."""
        phase = self.machine.phase
        told: list[type] = [machine.Kill, machine.Restart, machine.Revive, machine.DelayOver, machine.GateOpened]
        if phase is machine.Phase.PREPARING:
            told += [machine.Prepared, machine.AttemptFailed, machine.Abandoned]
        if phase is machine.Phase.STARTING:
            told += [machine.Launched, machine.AttemptFailed]
        if self.watched:
            told.append(machine.Exited)
        return told


@settings(max_examples=300)
@given(st.data(), st.sampled_from([0, 30 * SECOND]))
def test_a_task_never_runs_unwatched_nor_twice(data: st.DataObject, delay_ns: int) -> None:
    world, now_ns = World(delay_ns), EPOCH_NS
    for _ in range(data.draw(st.integers(1, 25))):
        now_ns += data.draw(st.integers(0, 100)) * SECOND
        kind = data.draw(st.sampled_from(world.possible()))
        world.step(data.draw(SAMPLES[kind]), now_ns)
        state = world.machine.state
        assert len(state.events) <= 10
        assert world.running == world.watched
        assert (state.state == "dead") == (world.machine.phase is machine.Phase.DEAD)
        if world.machine.phase is machine.Phase.DEAD:
            assert not world.running
            assert state.finished_at_ns > 0


@given(st.lists(st.sampled_from(list(SAMPLES)).flatmap(lambda kind: SAMPLES[kind]), max_size=20))
def test_no_event_in_any_phase_is_an_error(events: list[machine.Event]) -> None:
    one = make_machine()
    for event in events:
        one.step(event, EPOCH_NS)


def test_a_kill_always_ends_in_death() -> None:
    one = make_machine()
    for event in (machine.GateOpened(), machine.Prepared(), machine.Launched(), machine.Kill()):
        one.step(event, EPOCH_NS)
    one.step(machine.Exited(ExitResult(exit_code=1)), EPOCH_NS)
    assert (one.phase, one.state.failed) == (machine.Phase.DEAD, False)


@pytest.mark.parametrize(("finished_s", "told_s"), [(0, 9), (4, 4), (-5, 1), (99, 9)])
def test_an_end_that_nobody_watched_is_told_with_its_time(finished_s: int, told_s: int) -> None:
    """Started after one second, seen to be over after nine; times outside of that are a clock that was set."""
    one = make_machine()
    for event in (machine.GateOpened(), machine.Prepared(), machine.Launched()):
        one.step(event, EPOCH_NS + SECOND)
    result = ExitResult(exit_code=1, finished_at_ns=EPOCH_NS + finished_s * SECOND if finished_s else 0)
    one.step(machine.Kill(), EPOCH_NS + SECOND)
    one.step(machine.Exited(result), EPOCH_NS + 9 * SECOND)
    terminated = next(event for event in one.state.events if event.type == "Terminated")
    assert terminated.time_ns == one.state.finished_at_ns == EPOCH_NS + told_s * SECOND


def test_a_late_timer_of_an_earlier_pause_changes_nothing() -> None:
    one = make_machine()
    for event in (machine.GateOpened(), machine.Prepared(), FAILURE):
        effects = one.step(event, EPOCH_NS)
    sleep = next(e for e in effects if isinstance(e, machine.Sleep))
    assert one.step(machine.DelayOver(sleep.number - 1), EPOCH_NS) == []
    assert one.phase is machine.Phase.BACKOFF
    one.step(machine.DelayOver(sleep.number), EPOCH_NS)
    assert one.phase is machine.Phase.PREPARING


def test_only_the_ten_newest_events_are_kept() -> None:
    state = TaskState()
    for n in range(13):
        state = ev.append_event(state, ev.signaling(n, f"SIG{n}"))
    assert [e.time_ns for e in state.events] == list(range(3, 13))


def test_events_speak_nomads_words() -> None:
    shown = {
        ev.terminated(0, ExitResult(exit_code=137, signal=9, oom_killed=True)).display_message: (
            'Exit Code: 137, Signal: 9, Exit Message: "OOM Killed"'
        ),
        ev.restarting(0, "Restart within policy", 15 * SECOND).display_message: "Task restarting in 15s",
        ev.restarting(0, "Other", 90 * SECOND).display_message: "Other - Task restarting in 1m30s",
        ev.signaling(0, "SIGHUP", "template").display_message: "Task being sent signal SIGHUP: template",
        ev.killing(0, 0).display_message: "Sent interrupt",
        ev.killed(0).display_message: "Task successfully killed",
        ev.waiting_shutdown_delay(0, SECOND).display_message: (
            "Waiting for shutdown_delay of 1s before killing the task."
        ),
    }
    assert list(shown) == list(shown.values())
