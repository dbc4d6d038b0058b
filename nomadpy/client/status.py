"""What a node says of an allocation as a whole, from what its tasks say."""

from __future__ import annotations

from collections.abc import Mapping

from nomadpy.model.alloc import (
    COMPLETE,
    FAILED,
    PENDING,
    RUNNING,
    TASK_DEAD,
    TASK_PENDING,
    TASK_RUNNING,
    TaskState,
)

EXCEEDED_MAX_RUN_DURATION = "allocation exceeded max_run_duration"


def client_status(states: Mapping[str, TaskState], *, exceeded_max_run: bool = False) -> tuple[str, str]:
    """(client status, description) of an allocation.

    >>> client_status({"a": TaskState(state="running"), "b": TaskState(state="pending")})
    ('running', 'Tasks are running')
    """
    all_dead = all(state.state == TASK_DEAD for state in states.values())
    if exceeded_max_run and all_dead:
        return COMPLETE, EXCEEDED_MAX_RUN_DURATION
    if any(state.state == TASK_DEAD and state.failed for state in states.values()):
        return FAILED, "Failed tasks"
    if any(state.state == TASK_RUNNING for state in states.values()):
        return RUNNING, "Tasks are running"
    if not states or any(state.state == TASK_PENDING for state in states.values()):
        return PENDING, "No tasks have started"
    return COMPLETE, "All tasks have completed"


def fill_finish_times(states: Mapping[str, TaskState], now_ns: int) -> dict[str, TaskState]:
    """The states, with a finish time for every dead task that lacks one."""
    return {
        name: state.replace(finished_at_ns=now_ns) if state.state == TASK_DEAD and not state.finished_at_ns else state
        for name, state in states.items()
    }
