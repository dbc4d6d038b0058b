"""Commands about one allocation that do not read its files."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed
from nomadpy.cli.flags import AsJSON, Detach, Template, Verbose
from nomadpy.cli.lookup import find_id
from nomadpy.cli.session import Session

LAST_WORDS_LINES = 5
LAST_WORDS_BYTES = 800
Alloc = Annotated[str, typer.Argument(metavar="<allocation>")]
OptionalTask = Annotated[str | None, typer.Argument(metavar="<task>", show_default=False)]
TaskFlag = Annotated[str | None, typer.Option("-task", help="The task, where there are several.")]


def find(session: Session, typed: str) -> dict[str, Any]:
    """The allocation with an id that may be cut short."""
    return dict(session.api.get(f"/v1/allocation/{find_id(session, 'allocation', typed)}"))


def status(
    session: Session,
    allocation: Annotated[str | None, typer.Argument(metavar="<allocation>", show_default=False)] = None,
    *,
    short: Annotated[bool, typer.Option("-short", help="Only the facts and the states of the tasks.")] = False,
    stats: Annotated[bool, typer.Option("-stats", help="Show the usage in detail.")] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show an allocation: facts, addresses, tasks with usage and events; with -verbose also how it was placed.

    The id may be cut short. Without an id, -json and -t give the list of all allocations.
    """
    if allocation is None:
        _list(session, verbose, as_json, template)
        return
    found = find(session, allocation)
    if session.put_out(found, as_json=as_json, template=template):
        return
    _show(session, found, short=short, stats=stats, verbose=verbose)


def _list(session: Session, verbose: bool, as_json: bool, template: str | None) -> None:
    from nomadpy.cli.views import job as job_views

    stubs = session.api.get("/v1/allocations") or []
    if not session.put_out(stubs, as_json=as_json, template=template):
        session.show(job_views.allocations(stubs, time.time_ns(), verbose=verbose))


def _show(session: Session, found: dict[str, Any], *, short: bool, stats: bool, verbose: bool) -> None:
    from nomadpy.cli.views import alloc as views
    from nomadpy.cli.views.base import Columns, section, stack, state

    now_ns = time.time_ns()
    head = views.header(found, now_ns, verbose=verbose)
    if short:
        states = sorted((found.get("TaskStates") or {}).items())
        rows = [[name, state(str(one.get("State", "")))] for name, one in states]
        session.show(stack(head, views.addresses(found), section("Tasks", Columns(["Name", "State"], rows))))
        return
    usage = _ask_node(session, found, "stats")
    results = _ask_node(session, found, "checks")
    never_started = not found.get("TaskStates")
    session.show(
        stack(
            head,
            views.addresses(found),
            views.checks(results or {}),
            views.tasks(found, usage, last_words=_last_words(session, found)),
            section("Usage", views.usage_table(found, usage, now_ns)) if stats and usage else None,
            views.placement(found.get("Metrics") or {}, verbose=verbose) if verbose or never_started else None,
        )
    )
    if usage is None and found.get("ClientStatus") == "running":
        session.warn("The node could not be asked for the usage of this allocation.")


def _ask_node(session: Session, found: dict[str, Any], what: str) -> dict[str, Any] | None:
    if found.get("ClientStatus") != "running":
        return None
    try:
        return dict(session.api.get(f"/v1/client/allocation/{found['ID']}/{what}") or {})
    except ApiError:
        # Usage and checks come from the node itself; the rest is known without it.
        return None


def _last_words(session: Session, found: dict[str, Any]) -> dict[str, str]:
    """The last lines on stderr of every task that failed, by name."""
    words = {}
    for name, task in (found.get("TaskStates") or {}).items():
        if not task.get("Failed"):
            continue
        query = {"task": name, "type": "stderr", "origin": "end", "offset": LAST_WORDS_BYTES, "plain": True}
        try:
            text = session.api.send("GET", f"/v1/client/fs/logs/{found['ID']}", query=query).decode(errors="replace")
        except ApiError:
            # The files may be gone already, or the task never wrote any.
            continue
        words[name] = "\n".join(text.split("\n")[-LAST_WORDS_LINES - 1 :]).rstrip()
    return words


def stats(session: Session, allocation: Alloc, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show what every task of an allocation uses at the moment."""
    from nomadpy.cli.views import alloc as views

    found = find(session, allocation)
    usage = session.api.get(f"/v1/client/allocation/{found['ID']}/stats")
    if not session.put_out(usage, as_json=as_json, template=template):
        session.show(views.usage_table(found, usage, time.time_ns()))


def stop(
    session: Session,
    allocation: Alloc,
    *,
    detach: Detach = False,
    no_shutdown_delay: Annotated[bool, typer.Option("-no-shutdown-delay", help="Skip the shutdown delay.")] = False,
    verbose: Verbose = False,
) -> int:
    """Stop an allocation; the scheduler places it again, perhaps on another node."""
    del verbose
    ident = find_id(session, "allocation", allocation)
    answer = session.api.put(f"/v1/allocation/{ident}/stop", {}, no_shutdown_delay=no_shutdown_delay or None)
    evaluation_id = str((answer or {}).get("EvalID") or "")
    if detach or not evaluation_id:
        session.say(evaluation_id)
        return 0
    from nomadpy.cli.follow import Follower

    return Follower(session).follow(evaluation_id)


def restart(
    session: Session,
    allocation: Alloc,
    task: OptionalTask = None,
    *,
    task_flag: TaskFlag = None,
    all_tasks: Annotated[bool, typer.Option("-all-tasks", help="Restart tasks that have ended too.")] = False,
    verbose: Verbose = False,
) -> None:
    """Restart one task of a running allocation, or all that run."""
    del verbose
    name = task_flag or task
    if name and all_tasks:
        raise CommandFailed("a task and -all-tasks exclude each other")
    found = find(session, allocation)
    if name:
        check_task(found, name)
    body = {"TaskName": name or "", "AllTasks": all_tasks}
    session.api.put(f"/v1/client/allocation/{found['ID']}/restart", body)


def signal(
    session: Session,
    allocation: Alloc,
    task: OptionalTask = None,
    *,
    name: Annotated[str, typer.Option("-s", help="The signal, SIGKILL by default.")] = "SIGKILL",
    task_flag: TaskFlag = None,
    verbose: Verbose = False,
) -> None:
    """Send a signal to one task of a running allocation, or to all that run."""
    del verbose
    found = find(session, allocation)
    wanted = task_flag or task
    if wanted:
        check_task(found, wanted)
    session.api.put(f"/v1/client/allocation/{found['ID']}/signal", {"Task": wanted or "", "Signal": name})


def task_names(found: dict[str, Any]) -> list[str]:
    """The names of the tasks of an allocation, from its job or else from what has been reported."""
    groups = (found.get("Job") or {}).get("TaskGroups") or []
    mine: dict[str, Any] = next((group for group in groups if group.get("Name") == found.get("TaskGroup")), {})
    names = [str(task["Name"]) for task in mine.get("Tasks") or []]
    return names or sorted(found.get("TaskStates") or {})


def check_task(found: dict[str, Any], name: str) -> None:
    """Raise CommandFailed, with the names that exist, when an allocation has no such task."""
    names = task_names(found)
    if names and name not in names:
        raise CommandFailed(f'allocation {found["ID"][:8]} has no task "{name}"; it has {", ".join(names)}')


def only_task(found: dict[str, Any], name: str | None) -> str:
    """The task meant by ``name``, or the only one there is. Raises CommandFailed when that is not clear."""
    if name:
        check_task(found, name)
        return name
    names = task_names(found)
    if len(names) == 1:
        return names[0]
    raise CommandFailed(f"allocation {found['ID'][:8]} has several tasks; name one of {', '.join(names)}")
