from __future__ import annotations

from pathlib import Path
from typing import Any

from client_world import make_alloc, make_config, make_task, running_client

from nomadpy.client.health import HealthRules, HealthTracker, health_rules
from nomadpy.client.lifecycle import Role, Stage
from nomadpy.model.alloc import TaskState
from nomadpy.model.job import UpdateStrategy
from nomadpy.model.time import MINUTE, SECOND

RULES = HealthRules(min_healthy_ns=10 * SECOND, deadline_ns=60 * SECOND, use_checks=True)
RUNNING, PENDING = TaskState(state="running"), TaskState()
DONE, FAILED = TaskState(state="dead"), TaskState(state="dead", failed=True)
UPDATE = UpdateStrategy(health_check="task_states", min_healthy_time_ns=10 * SECOND, healthy_deadline_ns=5 * MINUTE)


def judge(at: dict[int, Any], roles: dict[str, Role] | None = None) -> list[bool | str | None]:
    """The verdicts at some seconds, given one state (of task "a") or all states at each."""
    tracker = HealthTracker(RULES, roles or {"a": Role()}, began_ns=0)
    found: list[bool | str | None] = []
    for second, states in at.items():
        checks = ""
        if isinstance(states, tuple):
            states, checks = states
        states = states if isinstance(states, dict) else {"a": states}
        health = tracker.judge(states, checks, second * SECOND)
        found.append(health and (health.healthy or health.reason))
    return found


def test_a_task_that_runs_long_enough_is_healthy() -> None:
    assert judge({0: PENDING, 1: RUNNING, 5: RUNNING, 11: RUNNING}) == [None, None, None, True]


def test_a_restart_begins_the_wait_anew() -> None:
    again = RUNNING.replace(restarts=1)
    assert judge({1: RUNNING, 8: again, 12: again, 18: again}) == [None, None, None, True]


def test_a_failed_or_ended_main_task_is_unhealthy() -> None:
    for state in (FAILED, DONE):
        assert judge({1: RUNNING, 2: state}) == [None, "Unhealthy because of failed task"]


def test_tasks_that_are_meant_to_end_may_end() -> None:
    roles = {"a": Role(), "p": Role(Stage.PRESTART), "z": Role(Stage.POSTSTOP)}
    states = {"a": RUNNING, "p": DONE, "z": PENDING}
    assert judge({1: states, 11: states}, roles) == [None, True]


def test_the_deadline_names_what_was_missing() -> None:
    assert judge({60: PENDING}) == ["Task not running by healthy_deadline of 1m0s"]
    assert judge({55: RUNNING, 60: RUNNING})[-1] == (
        "Task not running for min_healthy_time of 10s by healthy_deadline of 1m0s"
    )
    assert judge({1: (RUNNING, "web"), 60: (RUNNING, "web")})[-1] == "Services not healthy by deadline: web"


def test_whose_health_is_watched() -> None:
    alloc = make_alloc(update=UPDATE)
    assert alloc.job is not None
    group = alloc.job.task_groups[0]
    deployed = alloc.replace(deployment_id="d")
    assert health_rules(deployed, group, "service") is not None
    assert health_rules(deployed, group.replace(update=UPDATE.replace(health_check="manual")), "service") is None
    assert health_rules(alloc, group, "service") is not None, "a drain asks for the health of replacements"
    assert health_rules(alloc, group, "batch") is None


async def test_a_deployment_hears_of_health(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        good = make_alloc(update=UPDATE).replace(deployment_id="d")
        bad = make_alloc(
            make_task(config={"run_for_s": 2, "exit_code": 1}), update=UPDATE, restart_policy=None
        ).replace(deployment_id="d")
        for alloc in (good, bad):
            world.servers.put(alloc)
        await world.until(lambda: all(_health(world, a.id) is not None for a in (good, bad)))
        assert (_health(world, good.id), _health(world, bad.id)) == (True, False)
        world.servers.put(good.replace(deployment_id="e"))
        await world.until(lambda: world.client.runners[good.id].local.health_of == "e")


def _health(world: Any, alloc_id: str) -> bool | None:
    update = world.servers.latest.get(alloc_id)
    return update.deployment_status.healthy if update and update.deployment_status else None
