"""``job restart``: the allocations of a job, some at a time, restarted where they are or placed anew."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.flags import Verbose, Yes
from nomadpy.cli.http import job_path
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session
from nomadpy.cli.verbs.job_write import confirm
from nomadpy.cli.views.base import short

POLL_S = 0.5
REPLACED_WITHIN_S = 600.0
_OVER = ("failed", "lost", "complete")


class Plan:
    """What is restarted, and how."""

    def __init__(self, *, tasks: Sequence[str], all_tasks: bool, reschedule: bool, no_shutdown_delay: bool) -> None:
        self.tasks, self.all_tasks = tasks, all_tasks
        self.reschedule, self.no_shutdown_delay = reschedule, no_shutdown_delay

    def check(self) -> None:
        """Raises UsageProblem for wishes that exclude each other."""
        if self.reschedule and (self.tasks or self.all_tasks):
            raise UsageProblem("-reschedule replaces whole allocations; it excludes -task and -all-tasks")
        if self.tasks and self.all_tasks:
            raise UsageProblem("-task and -all-tasks exclude each other")
        if self.no_shutdown_delay and not self.reschedule:
            raise UsageProblem("-no-shutdown-delay needs -reschedule")


def restart(
    session: Session,
    job: Annotated[str, typer.Argument(metavar="<job>")],
    *,
    batch_size: Annotated[
        str, typer.Option("-batch-size", help="How many at a time, as a number or a share.", metavar="<n|n%>")
    ] = "1",
    batch_wait: Annotated[
        str, typer.Option("-batch-wait", help="How long to wait between batches, or ask.", metavar="<duration|ask>")
    ] = "0s",
    group: Annotated[list[str] | None, typer.Option("-group", help="Only this task group; repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option("-task", help="Only this task; repeatable.")] = None,
    all_tasks: Annotated[bool, typer.Option("-all-tasks", help="Restart tasks that have ended, too.")] = False,
    reschedule: Annotated[
        bool, typer.Option("-reschedule", help="Stop the allocations and place them anew, perhaps elsewhere.")
    ] = False,
    no_shutdown_delay: Annotated[
        bool, typer.Option("-no-shutdown-delay", help="Skip the shutdown delay (with -reschedule).")
    ] = False,
    on_error: Annotated[str, typer.Option("-on-error", help="What to do when one fails: ask or fail.")] = "ask",
    yes: Yes = False,
    verbose: Verbose = False,
) -> int:
    """Restart the running allocations of a job, a batch at a time.

    Tasks are restarted where they are, in the version that they run. With -reschedule the allocations are stopped and
    placed anew, and each batch waits until the replacements run. The exit code is 1 when something could not be
    restarted.
    """
    plan = Plan(tasks=task or [], all_tasks=all_tasks, reschedule=reschedule, no_shutdown_delay=no_shutdown_delay)
    plan.check()
    if on_error not in ("ask", "fail"):
        raise UsageProblem(f'-on-error is ask or fail, not "{on_error}"')
    wait_s = _wait_s(batch_wait)
    job_id, namespace = find_job(session, job)
    found = session.api.get(job_path(job_id), namespace=namespace)
    _check_names(found, group or [], plan)
    stubs = _running(session, found, namespace, group or [], plan.tasks)
    if not stubs:
        session.say(f'Job "{job_id}" has no running allocations to restart')
        return 0
    size = batch(batch_size, len(stubs))
    if job_id != job and not confirm(f'Restart job "{job_id}"?', yes):
        session.say("Cancelled, nothing was restarted.")
        return 0
    session.say(f'Restarting {len(stubs)} allocation{"s" * (len(stubs) != 1)} of job "{job_id}", {size} at a time')
    return _Restarts(session, plan, wait_s, ask=on_error == "ask" and not yes, verbose=verbose).all(stubs, size)


def batch(text: str, total: int) -> int:
    """How many allocations make a batch. Raises UsageProblem.

    >>> batch("3", 10), batch("25%", 10), batch("1%", 10), batch("100%", 10)
    (3, 3, 1, 10)
    """
    number = text.strip().removesuffix("%")
    if not number.isdigit() or int(number) < 1 or (text.strip().endswith("%") and int(number) > 100):
        raise UsageProblem(f'-batch-size is a number above zero or a share of 1% to 100%, not "{text}"')
    if text.strip().endswith("%"):
        return max(1, math.ceil(total * int(number) / 100))
    return min(int(number), total)


def _wait_s(text: str) -> float | None:
    """Seconds between batches; None asks a person."""
    from nomadpy.model.time import SECOND, parse_duration

    if text == "ask":
        if not sys.stdin.isatty():
            raise UsageProblem("-batch-wait=ask needs a terminal to ask at")
        return None
    try:
        wait_s = parse_duration(text) / SECOND
    except ValueError as problem:
        raise UsageProblem(f'-batch-wait is a length of time such as 30s, or ask, not "{text}"') from problem
    if wait_s < 0:
        raise UsageProblem("-batch-wait cannot be negative")
    return wait_s


def _check_names(job: dict[str, Any], groups: Sequence[str], plan: Plan) -> None:
    """Raises CommandFailed for groups and tasks that the job does not have, and for what cannot be placed anew."""
    if plan.reschedule and job.get("Type") in ("system", "sysbatch"):
        raise CommandFailed(f"allocations of {job['Type']} jobs cannot be rescheduled; each belongs to its node")
    have = {str(group["Name"]): group for group in job.get("TaskGroups") or []}
    for name in groups:
        if name not in have:
            raise CommandFailed(f'job "{job["ID"]}" has no group "{name}"; it has {", ".join(sorted(have))}')
    chosen = [have[name] for name in groups] or list(have.values())
    tasks = {str(task["Name"]) for group in chosen for task in group.get("Tasks") or []}
    for name in plan.tasks:
        if name not in tasks:
            raise CommandFailed(f'no such task "{name}"; there are {", ".join(sorted(tasks))}')


def _running(
    session: Session, job: dict[str, Any], namespace: str, groups: Sequence[str], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    stubs = session.api.get(job_path(job["ID"], "allocations"), namespace=namespace) or []
    return [
        stub
        for stub in sorted(stubs, key=lambda stub: str(stub.get("Name")))
        if stub.get("ClientStatus") == "running"
        and stub.get("DesiredStatus") == "run"
        and (not groups or stub.get("TaskGroup") in groups)
        and (not tasks or set(tasks) & set(stub.get("TaskStates") or {}))
    ]


class _Restarts:
    """The work itself, batch after batch."""

    def __init__(self, session: Session, plan: Plan, wait_s: float | None, *, ask: bool, verbose: bool) -> None:
        self._session, self._plan, self._wait_s, self._ask, self._verbose = session, plan, wait_s, ask, verbose
        self._n_failed = 0

    def all(self, stubs: Sequence[dict[str, Any]], size: int) -> int:
        """The exit code."""
        for start in range(0, len(stubs), size):
            if start and not self._go_on():
                self._say("Stopped; the allocations that are left were not restarted.")
                return 1
            if not self._batch(stubs[start : start + size]):
                return 1
        done = len(stubs) - self._n_failed
        self._say(f"Finished: {done} restarted" + (f", {self._n_failed} failed" if self._n_failed else ""))
        return 1 if self._n_failed else 0

    def _go_on(self) -> bool:
        if self._wait_s is None:
            return confirm("Go on with the next batch?", False)
        if self._wait_s:
            self._say(f"Waiting {self._wait_s:g}s before the next batch")
            time.sleep(self._wait_s)
        return True

    def _batch(self, stubs: Sequence[dict[str, Any]]) -> bool:
        """Whether to go on."""
        waiting = []
        for stub in stubs:
            try:
                self._one(stub)
                waiting.append(stub)
            except (ApiError, CommandFailed) as problem:
                if not self._goes_on_after(stub, problem):
                    return False
        for stub in waiting if self._plan.reschedule else ():
            try:
                self._await_replacement(stub)
            except (ApiError, CommandFailed) as problem:
                if not self._goes_on_after(stub, problem):
                    return False
        return True

    def _one(self, stub: dict[str, Any]) -> None:
        ident, plan, name = stub["ID"], self._plan, self._name(stub)
        if plan.reschedule:
            self._say(f"Stopping {name}")
            delay = plan.no_shutdown_delay or None
            self._session.api.put(f"/v1/allocation/{ident}/stop", {}, no_shutdown_delay=delay)
            return
        for task in [one for one in plan.tasks if one in (stub.get("TaskStates") or {})] or [""]:
            self._say(f"Restarting {f'task {task} of ' if task else ''}{name}")
            body = {"TaskName": task, "AllTasks": plan.all_tasks}
            self._session.api.put(f"/v1/client/allocation/{ident}/restart", body)

    def _await_replacement(self, stub: dict[str, Any]) -> None:
        deadline_s = time.monotonic() + REPLACED_WITHIN_S
        ident = stub["ID"]
        while time.monotonic() < deadline_s:
            found = self._session.api.get(f"/v1/allocation/{ident}")
            status = found.get("ClientStatus")
            if ident != stub["ID"] and status == "running":
                self._say(f"{self._name(stub)} was replaced by {short(ident, self._verbose)}")
                return
            if found.get("NextAllocation"):
                ident = found["NextAllocation"]
                continue
            if ident != stub["ID"] and status in _OVER:
                raise CommandFailed(f"its replacement {short(ident, self._verbose)} is {status}")
            time.sleep(POLL_S)
        raise CommandFailed(f"no replacement runs after {REPLACED_WITHIN_S:g}s; `nomadpy job status` shows why")

    def _goes_on_after(self, stub: dict[str, Any], problem: Exception) -> bool:
        self._n_failed += 1
        self._session.warn(f"Error: {self._name(stub)}: {problem}")
        if not self._ask or not sys.stdin.isatty():
            return False
        return confirm("Go on with the others?", False)

    def _name(self, stub: dict[str, Any]) -> str:
        return f"allocation {short(stub['ID'], self._verbose)} ({stub.get('Name')})"

    def _say(self, text: str) -> None:
        self._session.say(f"    {time.strftime('%Y-%m-%dT%H:%M:%S%z')}: {text}")
