"""``alloc logs`` and ``alloc fs``: the files of an allocation, its output among them."""

from __future__ import annotations

import base64
import os
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.http import job_path
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session
from nomadpy.cli.verbs.alloc import find, only_task

# Nomad's guess of the bytes in a line, from which a tail of so many lines starts.
BYTES_PER_LINE = 120
DEFAULT_TAIL_LINES = 10

Follow = Annotated[bool, typer.Option("-f", help="Go on with what is written from now on.")]
Tail = Annotated[bool, typer.Option("-tail", help="Only the end: ten lines, or as -n or -c say.")]
Lines = Annotated[int | None, typer.Option("-n", help="How many lines -tail shows.")]
OfJob = Annotated[bool, typer.Option("-job", help="The first argument is a job: take one of its allocations.")]
Bytes = Annotated[int | None, typer.Option("-c", help="How many bytes -tail shows.")]


def logs(
    session: Session,
    allocation: Annotated[str, typer.Argument(metavar="<allocation>")],
    task: Annotated[str | None, typer.Argument(metavar="<task>", show_default=False)] = None,
    *,
    stderr: Annotated[bool, typer.Option("-stderr", help="The standard error instead of the standard output.")] = False,
    stdout: Annotated[bool, typer.Option("-stdout", help="The standard output, which is the default.")] = False,
    follow: Follow = False,
    tail: Tail = False,
    lines: Lines = None,
    count: Bytes = None,
    job: OfJob = False,
    group: Annotated[str | None, typer.Option("-group", help="With -job: only of this task group.")] = None,
    task_flag: Annotated[str | None, typer.Option("-task", help="The task, where there are several.")] = None,
    verbose: Verbose = False,
) -> None:
    """Print what a task has written, and with -f what it goes on to write.

    The task need not be named where there is only one.
    """
    del verbose
    if stdout and stderr:
        raise UsageProblem("-stdout and -stderr exclude each other")
    wanted_task = task_flag or task
    found = find(session, of_job(session, allocation, group, task=wanted_task) if job else allocation)
    name = only_task(found, wanted_task)
    query: dict[str, Any] = {"task": name, "type": "stderr" if stderr else "stdout", "follow": follow, "plain": True}
    wanted = _wanted(tail, lines, count)
    query |= {"origin": "start", "offset": 0} if wanted is None else {"origin": "end", "offset": wanted}
    pieces = session.api.stream(f"/v1/client/fs/logs/{found['ID']}", **query)
    n_lines = _line_count(tail, lines, count)
    _write(pieces if n_lines is None else _last_lines(pieces, n_lines, follow=follow))


def of_job(session: Session, job: str, group: str | None, *, task: str | None = None) -> str:
    """The id of an allocation of a job, a running one if there is one; with ``task`` only of those that have it.

    Raises CommandFailed when the job has no such allocation.
    """
    job_id, namespace = find_job(session, job)
    stubs = session.api.get(job_path(job_id, "allocations"), namespace=namespace) or []
    mine = [stub for stub in stubs if not group or stub.get("TaskGroup") == group]
    if not mine:
        raise CommandFailed(f'job "{job_id}" has no allocations' + (f' of group "{group}"' if group else ""))
    if task:
        mine = _with_task(mine, task, job_id)
    running = [stub for stub in mine if stub.get("ClientStatus") == "running"]
    if running:
        return str(random.choice(running)["ID"])
    return str(max(mine, key=lambda stub: stub.get("CreateIndex", 0))["ID"])


def _with_task(stubs: list[dict[str, Any]], task: str, job_id: str) -> list[dict[str, Any]]:
    # An allocation that no client has reported on yet does not show its tasks; it is taken when no other is certain.
    certain = [stub for stub in stubs if task in (stub.get("TaskStates") or {})]
    found = certain or [stub for stub in stubs if not stub.get("TaskStates")]
    if not found:
        names = ", ".join(sorted({name for stub in stubs for name in stub["TaskStates"]}))
        raise CommandFailed(f'no allocation of job "{job_id}" has a task "{task}"; they have {names}')
    return found


def _wanted(tail: bool, lines: int | None, count: int | None) -> int | None:
    """How many bytes from the end to start, or None for the whole."""
    if lines is not None and count is not None:
        raise UsageProblem("-n and -c exclude each other")
    if (lines is not None and lines < 0) or (count is not None and count < 0):
        raise UsageProblem("-n and -c want a number that is not negative")
    if count is not None:
        return count
    if tail or lines is not None:
        return (DEFAULT_TAIL_LINES if lines is None else lines) * BYTES_PER_LINE
    return None


def _line_count(tail: bool, lines: int | None, count: int | None) -> int | None:
    if count is not None:
        return None
    return lines if lines is not None else DEFAULT_TAIL_LINES if tail else None


def _last_lines(pieces: Iterator[bytes], n_lines: int, *, follow: bool) -> Iterator[bytes]:
    """The last ``n_lines`` lines of what there is, and when following all that comes later.

    What was there already arrives as the first piece; waiting for more of it would hold back a quiet task's lines.
    """
    head = next(pieces, b"") if follow else b"".join(pieces)
    yield b"".join(head.splitlines(keepends=True)[-n_lines:] if n_lines else [])
    yield from pieces


def _write(pieces: Iterable[bytes]) -> None:
    out = sys.stdout.buffer
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fs(
    session: Session,
    allocation: Annotated[str, typer.Argument(metavar="<allocation>")],
    path: Annotated[str, typer.Argument(metavar="<path>", show_default=False)] = "/",
    *,
    human: Annotated[bool, typer.Option("-H", help="Sizes in bytes instead of rounded.")] = False,
    stat: Annotated[bool, typer.Option("-stat", help="Describe the file instead of printing it.")] = False,
    follow: Follow = False,
    tail: Tail = False,
    lines: Lines = None,
    count: Bytes = None,
    job: OfJob = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List a directory of an allocation, or print a file."""
    del verbose
    from nomadpy.cli.views import alloc as views

    found = find(session, of_job(session, allocation, None) if job else allocation)
    ident = found["ID"]
    about = session.api.get(f"/v1/client/fs/stat/{ident}", path=path)
    if stat:
        if not session.put_out(about, as_json=as_json, template=template):
            session.show(views.files([about], human=not human))
        return
    if about.get("IsDir"):
        rows = session.api.get(f"/v1/client/fs/ls/{ident}", path=path) or []
        if not session.put_out(rows, as_json=as_json, template=template):
            session.show(views.files(rows, human=not human))
        return
    wanted = _wanted(tail, lines, count)
    if not follow and wanted is None:
        _write(session.api.stream(f"/v1/client/fs/cat/{ident}", path=path))
        return
    query: dict[str, Any] = {"path": path, "follow": follow}
    query |= {"origin": "start", "offset": 0} if wanted is None else {"origin": "end", "offset": wanted}
    pieces = _data(session.api.frames(f"/v1/client/fs/stream/{ident}", **query))
    n_lines = _line_count(tail, lines, count)
    _write(pieces if n_lines is None else _last_lines(pieces, n_lines, follow=follow))


def _data(frames: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for frame in frames:
        if frame.get("FileEvent"):
            print(f"{frame.get('File', 'the file')}: {frame['FileEvent']}", file=sys.stderr)
        if frame.get("Data"):
            yield base64.b64decode(frame["Data"])
