"""In which order the tasks of an allocation start and stop.

Everything here looks at the present states only (levels, not edges), so it gives the same answer after an agent
restart as before it.

    prestart ──done──▶ main ──started──▶ poststart          everything else dead ──▶ poststop

A prestart task is done once it ended well, a prestart sidecar once it runs. Sidecars live as long as the main tasks.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from nomadpy.model.alloc import TASK_DEAD, TASK_PENDING, TASK_RUNNING, TaskState
from nomadpy.model.job import Task


class Stage(enum.Enum):
    """When a task starts."""

    PRESTART = "prestart"
    MAIN = "main"
    POSTSTART = "poststart"
    POSTSTOP = "poststop"


class Role(msgspec.Struct, frozen=True):
    """A task's place in its group."""

    stage: Stage = Stage.MAIN
    sidecar: bool = False
    leader: bool = False


class KillCause(enum.Enum):
    """Why the lifecycle itself ends the remaining tasks."""

    SIBLING_FAILED = "sibling failed"
    LEADER_DEAD = "leader dead"
    MAIN_TASKS_DEAD = "main tasks dead"


# Which stages must be past before a stage may start, and what "past" means for one task of that stage.
STARTS_AFTER: dict[Stage, tuple[Stage, ...]] = {
    Stage.PRESTART: (),
    Stage.MAIN: (Stage.PRESTART,),
    Stage.POSTSTART: (Stage.PRESTART, Stage.MAIN),
    Stage.POSTSTOP: (Stage.PRESTART, Stage.MAIN, Stage.POSTSTART),
}


def role_of(task: Task) -> Role:
    """The place of a task, from its ``lifecycle`` block and its ``leader`` flag."""
    if task.lifecycle is None or not task.lifecycle.hook:
        return Role(Stage.MAIN, leader=task.leader)
    return Role(Stage(task.lifecycle.hook), task.lifecycle.sidecar, task.leader)


def restarts_on_success(role: Role, job_type: str) -> bool:
    """Whether a task that ended with exit code 0 is started again."""
    if role.stage is Stage.POSTSTOP:
        return False
    if role.stage in (Stage.PRESTART, Stage.POSTSTART):
        return role.sidecar
    return job_type in ("service", "system")


def may_start(name: str, roles: Mapping[str, Role], states: Mapping[str, TaskState]) -> bool:
    """Whether the gate of a task that has not started is open."""
    stage = roles[name].stage
    before = STARTS_AFTER[stage]
    return all(
        _is_past(role, states[other], stage) for other, role in roles.items() if other != name and role.stage in before
    )


def _is_past(role: Role, state: TaskState, for_stage: Stage) -> bool:
    if for_stage is Stage.POSTSTOP:
        return state.state == TASK_DEAD
    if role.stage is Stage.PRESTART:
        # A sidecar that already ended well (its main tasks will be stopped by the kill rules) must not block for ever.
        return state.successful() or (role.sidecar and state.state == TASK_RUNNING)
    return state.state != TASK_PENDING


def kill_cause(roles: Mapping[str, Role], states: Mapping[str, TaskState]) -> tuple[KillCause, str] | None:
    """Why the remaining tasks must go, with the name of the task that caused it; None when they may stay."""
    before = {name: role for name, role in roles.items() if role.stage is not Stage.POSTSTOP}
    if not any(states[name].state != TASK_DEAD for name in before):
        return None
    for name in before:
        if states[name].state == TASK_DEAD and states[name].failed:
            return KillCause.SIBLING_FAILED, name
    for name, role in before.items():
        if role.leader and states[name].state == TASK_DEAD:
            return KillCause.LEADER_DEAD, name
    mains = [name for name, role in before.items() if not role.sidecar]
    if mains and all(states[name].state == TASK_DEAD for name in mains):
        return KillCause.MAIN_TASKS_DEAD, ""
    return None


def kill_order(roles: Mapping[str, Role], *, with_poststop: bool = False) -> list[list[str]]:
    """Groups of tasks to stop one group after the other: leader, the other non-sidecars, sidecars.

    >>> kill_order({"a": Role(), "b": Role(leader=True), "c": Role(sidecar=True), "d": Role(Stage.POSTSTOP)})
    [['b'], ['a'], ['c']]
    """
    leaders = [name for name, role in roles.items() if role.leader]
    rest = [name for name in roles if name not in leaders]
    tasks = [n for n in rest if not roles[n].sidecar and roles[n].stage is not Stage.POSTSTOP]
    sidecars = [n for n in rest if roles[n].sidecar and roles[n].stage is not Stage.POSTSTOP]
    poststop = [n for n in rest if roles[n].stage is Stage.POSTSTOP] if with_poststop else []
    return [group for group in (leaders, tasks, sidecars, poststop) if group]
