"""Whether a new allocation is healthy, as deployments and drains ask: decided once, then told to the servers.

Healthy: every task has run for ``min_healthy_time`` without a break, and with ``health_check = "checks"`` all checks of
the allocation passed for as long. Poststop tasks do not count; prestart and poststart tasks may have ended well.
Unhealthy: a task failed, a main task ended, or the deadline passed. Source: Nomad's allocation health tracker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from nomadpy.client.lifecycle import Role, Stage
from nomadpy.model.alloc import TASK_DEAD, TASK_RUNNING, Allocation, TaskState
from nomadpy.model.job import MigrateStrategy, TaskGroup, UpdateStrategy
from nomadpy.model.time import MINUTE, SECOND, format_duration

FAILED_TASK = "Unhealthy because of failed task"
_MIGRATE = MigrateStrategy(max_parallel=1, min_healthy_time_ns=10 * SECOND, healthy_deadline_ns=5 * MINUTE)


class ChecksSource(Protocol):
    """Whoever runs the checks of services."""

    def problem(self, alloc: Allocation) -> str:
        """What is wrong with the allocation's checks now, "" when all pass."""


class HealthRules(msgspec.Struct, frozen=True, kw_only=True):
    """How long an allocation must be well, and by when (both nanoseconds; the deadline counts from the start)."""

    min_healthy_ns: int
    deadline_ns: int
    use_checks: bool


class Health(msgspec.Struct, frozen=True):
    """The verdict, the reason when it is a bad one, and the tasks to blame ("" in all other cases)."""

    healthy: bool
    reason: str = ""
    tasks: tuple[str, ...] = ()


def health_rules(alloc: Allocation, group: TaskGroup, job_type: str) -> HealthRules | None:
    """By which rules the allocation is watched; None when nobody asks for its health."""
    strategy: UpdateStrategy | MigrateStrategy | None = None
    if alloc.deployment_id:
        strategy = group.update
    elif job_type == "service":
        strategy = group.migrate or _MIGRATE
    if strategy is None or strategy.health_check == "manual":
        return None
    return HealthRules(
        min_healthy_ns=strategy.min_healthy_time_ns,
        deadline_ns=strategy.healthy_deadline_ns or _MIGRATE.healthy_deadline_ns,
        use_checks=strategy.health_check in ("", "checks"),
    )


def any_checks(group: TaskGroup) -> bool:
    """Whether a service of the group or of one of its tasks has a check."""
    services = [*group.services, *(service for task in group.tasks for service in task.services)]
    return any(service.checks for service in services)


class HealthTracker:
    """Judges one allocation. ``judge`` is to be called after every change and at ``next_look_ns``."""

    def __init__(self, rules: HealthRules, roles: Mapping[str, Role], *, began_ns: int) -> None:
        self._rules = rules
        self._roles = {name: role for name, role in roles.items() if role.stage is not Stage.POSTSTOP}
        self._deadline_ns = began_ns + rules.deadline_ns
        self._well_since_ns: int | None = None
        self._restarts: dict[str, int] = {}

    def judge(self, states: Mapping[str, TaskState], checks_problem: str, now_ns: int) -> Health | None:
        """The verdict, None while it is open. ``checks_problem`` is "" when no check is in the way."""
        if blamed := self._blamed(states):
            return Health(False, FAILED_TASK, blamed)
        not_running = self._not_running(states)
        restarts = {name: states[name].restarts for name in self._roles}
        well = not not_running and not (self._rules.use_checks and checks_problem)
        if not well or restarts != self._restarts:
            self._well_since_ns = now_ns if well else None
        elif self._well_since_ns is None:
            self._well_since_ns = now_ns
        self._restarts = restarts
        if self._well_since_ns is not None and now_ns >= self._well_since_ns + self._rules.min_healthy_ns:
            return Health(True)
        if now_ns < self._deadline_ns:
            return None
        return self._too_late(not_running, checks_problem)

    def next_look_ns(self) -> int:
        """When the answer may change although nothing happens."""
        if self._well_since_ns is None:
            return self._deadline_ns
        return min(self._deadline_ns, self._well_since_ns + self._rules.min_healthy_ns)

    def _blamed(self, states: Mapping[str, TaskState]) -> tuple[str, ...]:
        return tuple(
            name
            for name, role in self._roles.items()
            if states[name].state == TASK_DEAD and (states[name].failed or _must_live(role))
        )

    def _not_running(self, states: Mapping[str, TaskState]) -> tuple[str, ...]:
        return tuple(
            name
            for name, role in self._roles.items()
            if states[name].state != TASK_RUNNING and not (states[name].successful() and not _must_live(role))
        )

    def _too_late(self, not_running: tuple[str, ...], checks_problem: str) -> Health:
        deadline = format_duration(self._rules.deadline_ns)
        if not_running:
            return Health(False, f"Task not running by healthy_deadline of {deadline}", not_running)
        everyone = tuple(self._roles)
        if self._rules.use_checks and checks_problem:
            return Health(False, f"Services not healthy by deadline: {checks_problem}", everyone)
        wanted = format_duration(self._rules.min_healthy_ns)
        reason = f"Task not running for min_healthy_time of {wanted} by healthy_deadline of {deadline}"
        return Health(False, reason, everyone)


def _must_live(role: Role) -> bool:
    return role.stage is Stage.MAIN or role.sidecar
