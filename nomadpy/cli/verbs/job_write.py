"""Commands that change a registered job: stop, start, scale, revert, dispatch and their like."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.flags import Detach, Verbose, Yes
from nomadpy.cli.http import job_path
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session

Job = Annotated[str, typer.Argument(metavar="<job>")]


def follow(session: Session, answer: Any, detach: bool) -> int:
    """Follow the evaluation that an answer names, or only print its id."""
    evaluation_id = str((answer or {}).get("EvalID") or "")
    if not evaluation_id:
        session.say("Done. Nothing has to be placed or stopped for that.")
        return 0
    if detach:
        session.say(f"Evaluation ID: {evaluation_id}")
        return 0
    from nomadpy.cli.follow import Follower

    return Follower(session).follow(evaluation_id)


def confirm(question: str, yes: bool) -> bool:
    """Whether to go on: asked at a terminal, taken for granted in a script."""
    if yes or not sys.stdin.isatty():
        return True
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def stop(
    session: Session,
    jobs: Annotated[list[str], typer.Argument(metavar="<job>")],
    *,
    purge: Annotated[bool, typer.Option("-purge", help="Forget the job and its versions as well.")] = False,
    global_: Annotated[bool, typer.Option("-global", help="In all regions of a multi-region job.")] = False,
    no_shutdown_delay: Annotated[bool, typer.Option("-no-shutdown-delay", help="Skip the shutdown delays.")] = False,
    eval_priority: Annotated[int | None, typer.Option("-eval-priority", help="Of the evaluation, 1 to 100.")] = None,
    detach: Detach = False,
    yes: Yes = False,
    verbose: Verbose = False,
) -> int:
    """Stop jobs and their allocations. A stopped job can be started again unless it is purged."""
    del verbose
    worst = 0
    for typed in jobs:
        job_id, namespace = find_job(session, typed)
        if job_id != typed and not confirm(f'Stop job "{job_id}"?', yes):
            session.say("Cancelled, the job was not stopped.")
            continue
        answer = session.api.delete(
            job_path(job_id),
            namespace=namespace,
            purge=purge or None,
            **{"global": global_ or None},
            no_shutdown_delay=no_shutdown_delay or None,
            eval_priority=eval_priority,
        )
        worst = max(worst, follow(session, answer, detach))
    return worst


def start(
    session: Session,
    jobs: Annotated[list[str], typer.Argument(metavar="<job>")],
    *,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Start stopped jobs again, in the version that was stopped."""
    del verbose
    worst = 0
    for typed in jobs:
        job_id, namespace = find_job(session, typed)
        found = session.api.get(job_path(job_id), namespace=namespace)
        if not found.get("Stop"):
            raise CommandFailed(f'job "{job_id}" is not stopped; its status is {found.get("Status")}')
        body = {"Job": {**found, "Stop": False}, "Submission": _submission(session, job_id, namespace, found)}
        worst = max(worst, follow(session, session.api.put("/v1/jobs", body, namespace=namespace), detach))
    return worst


def _submission(session: Session, job_id: str, namespace: str, found: dict[str, Any]) -> Any:
    from nomadpy.cli.failures import ApiError

    try:
        path = job_path(job_id, "submission")
        return session.api.get(path, namespace=namespace, version=found.get("Version", 0))
    except ApiError as problem:
        if problem.status != 404:
            raise
        # The source is kept for some versions only; a job starts without it as well.
        return None


def scale(
    session: Session,
    job: Job,
    group_or_count: Annotated[str, typer.Argument(metavar="<group>")],
    count: Annotated[str | None, typer.Argument(metavar="<count>", show_default=False)] = None,
    *,
    check_index: Annotated[int | None, typer.Option("-check-index", help="Only if the job is at this index.")] = None,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Change the count of a task group. The group need not be named where there is only one."""
    del verbose
    job_id, namespace = find_job(session, job)
    group, wanted = (group_or_count, count) if count is not None else ("", group_or_count)
    if not str(wanted).isdigit():
        raise UsageProblem(f'the count must be a number that is not negative, not "{wanted}"')
    if not group:
        groups = sorted(session.api.get(job_path(job_id, "scale"), namespace=namespace).get("TaskGroups") or {})
        if len(groups) != 1:
            raise UsageProblem(f'job "{job_id}" has several groups; name one of {", ".join(groups)}')
        group = groups[0]
    body = {
        "Count": int(str(wanted)),
        "Target": {"Job": job_id, "Group": group},
        "Message": "submitted using the nomadpy command line",
        "JobModifyIndex": check_index or 0,
    }
    return follow(session, session.api.put(job_path(job_id, "scale"), body, namespace=namespace), detach)


def revert(
    session: Session,
    job: Job,
    version: Annotated[str, typer.Argument(metavar="<version|tag>")],
    *,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Go back to an earlier version of a job, named by number or tag."""
    del verbose
    job_id, namespace = find_job(session, job)
    number = int(version) if version.isdigit() else _tagged(session, job_id, namespace, version)
    body = {"JobID": job_id, "JobVersion": number, "EnforcePriorVersion": None}
    answer = session.api.put(job_path(job_id, "revert"), body, namespace=namespace)
    if (answer or {}).get("Warnings"):
        session.say(str(answer["Warnings"]).strip(), style="yellow")
    return follow(session, answer, detach)


def _tagged(session: Session, job_id: str, namespace: str, tag: str) -> int:
    versions = session.api.get(job_path(job_id, "versions"), namespace=namespace).get("Versions") or []
    for one in versions:
        if (one.get("VersionTag") or {}).get("Name") == tag:
            return int(one.get("Version") or 0)
    raise CommandFailed(f'job "{job_id}" has no version with the tag "{tag}"')


def evaluate(
    session: Session,
    job: Job,
    *,
    force_reschedule: Annotated[
        bool, typer.Option("-force-reschedule", help="Place failed allocations again without waiting.")
    ] = False,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Make the scheduler look at a job again."""
    del verbose
    job_id, namespace = find_job(session, job)
    body = {"JobID": job_id, "EvalOptions": {"ForceReschedule": force_reschedule}}
    return follow(session, session.api.put(job_path(job_id, "evaluate"), body, namespace=namespace), detach)


def periodic_force(session: Session, job: Job, *, detach: Detach = False, verbose: Verbose = False) -> int:
    """Launch a periodic job now, beside its schedule."""
    del verbose
    job_id, namespace = find_job(session, job, "Periodic is not nil", "periodic job")
    return follow(session, session.api.put(job_path(job_id, "periodic/force"), {}, namespace=namespace), detach)


def dispatch(
    session: Session,
    job: Job,
    payload: Annotated[str | None, typer.Argument(metavar="<file>", show_default=False)] = None,
    *,
    meta: Annotated[list[str] | None, typer.Option("-meta", help="A key=value for the instance; repeatable.")] = None,
    idempotency: Annotated[
        str | None, typer.Option("-idempotency-token", help="A second dispatch with the same token starts nothing.")
    ] = None,
    prefix: Annotated[str | None, typer.Option("-id-prefix-template", help="A part of the new id.")] = None,
    priority: Annotated[int, typer.Option("-priority", help="Of the instance; 0 means as the job.")] = 0,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Start an instance of a parameterized job. The payload is read from a file, or from stdin for -."""
    del verbose
    condition = 'ParentID == "" and ParameterizedJob is not nil'
    job_id, namespace = find_job(session, job, condition, "parameterized job")
    body = {
        "JobID": job_id,
        "Meta": _meta(meta or []),
        "Payload": base64.b64encode(_payload(payload)).decode() if payload else None,
        "IdPrefixTemplate": prefix or "",
        "Priority": priority,
    }
    answer = session.api.put(job_path(job_id, "dispatch"), body, namespace=namespace, idempotency_token=idempotency)
    session.say(f"Dispatched Job ID = {answer.get('DispatchedJobID')}")
    session.say(f"Evaluation ID     = {(answer.get('EvalID') or '-')[:8]}")
    if detach or not answer.get("EvalID"):
        return 0
    session.say()
    return follow(session, answer, detach=False)


def _payload(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()


def _meta(pairs: list[str]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise UsageProblem(f'-meta wants key=value, not "{pair}"')
        values[name] = value
    return values


def promote(
    session: Session,
    job: Job,
    *,
    group: Annotated[list[str] | None, typer.Option("-group", help="Only this task group; repeatable.")] = None,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Promote the canaries of a job's latest deployment."""
    del verbose
    job_id, namespace = find_job(session, job)
    latest = session.api.get(job_path(job_id, "deployment"), namespace=namespace)
    if latest is None:
        raise CommandFailed(f'job "{job_id}" has no deployment to promote')
    body = {"DeploymentID": latest["ID"], "All": not group, "Groups": group or None}
    answer = session.api.put(f"/v1/deployment/promote/{latest['ID']}", body)
    return follow(session, answer, detach)
