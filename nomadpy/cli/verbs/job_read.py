"""Commands that look at jobs: ``status``, ``allocs``, ``deployments``, ``history`` and ``inspect``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template, Verbose, With, Without
from nomadpy.cli.http import job_path
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session

Job = Annotated[str, typer.Argument(metavar="<job>")]
OptionalJob = Annotated[str | None, typer.Argument(metavar="<job>", show_default=False)]


def status(
    session: Session,
    job: OptionalJob = None,
    *,
    short: Annotated[bool, typer.Option("-short", help="Only the facts about the job.")] = False,
    evals: Annotated[bool, typer.Option("-evals", help="Show the evaluations too.")] = False,
    all_allocs: Annotated[
        bool, typer.Option("-all-allocs", help="Show allocations of an earlier job of the same id too.")
    ] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the jobs, or show one: counts, placement failures, the latest deployment and the allocations.

    The id of the job may be cut short as long as it is unambiguous.
    """
    if job is None:
        _list(session, verbose, as_json, template)
        return
    job_id, namespace = find_job(session, job)
    found = session.api.get(job_path(job_id), namespace=namespace)
    if session.put_out(found, as_json=as_json, template=template):
        return
    _show(session, found, short=short, evals=evals, all_allocs=all_allocs, verbose=verbose)


def _list(session: Session, verbose: bool, as_json: bool, template: str | None) -> None:
    from nomadpy.cli.views import job as views

    jobs = session.api.get("/v1/jobs")
    if session.put_out(jobs, as_json=as_json, template=template):
        return
    if not jobs:
        session.say("No running jobs")
        return
    everywhere = session.settings.namespace == "*"
    session.show(views.job_list(jobs, time.time_ns(), verbose=verbose, namespaces=everywhere))


def _show(session: Session, job: dict[str, Any], *, short: bool, evals: bool, all_allocs: bool, verbose: bool) -> None:
    from nomadpy.cli.views import deployment as deployment_views
    from nomadpy.cli.views import job as views
    from nomadpy.cli.views.base import section, stack

    now_ns = time.time_ns()
    scope = {"namespace": job.get("Namespace") or ""}
    header = views.job_header(job, now_ns, next_launch(job, now_ns))
    if short:
        session.show(header)
        return
    path = job_path(job["ID"])
    counts = session.api.get(f"{path}/summary", **scope)
    if views.is_parent(job):
        session.show(stack(header, *_parent(session, job, counts)))
        return
    stubs = session.api.get(f"{path}/allocations", **scope, all=all_allocs or None) or []
    evaluations = session.api.get(f"{path}/evaluations", **scope) or []
    latest = session.api.get(f"{path}/deployment", **scope)
    failed = _last_failure(evaluations)
    session.show(
        stack(
            header,
            views.summary(counts),
            section("Evaluations", views.evaluations(evaluations, verbose=verbose)) if evals or verbose else None,
            views.placement_failure(failed) if failed else None,
            section("Latest Deployment", deployment_views.detail(latest, now_ns, verbose=verbose)) if latest else None,
            section("Allocations", views.allocations(stubs, now_ns, verbose=verbose)),
        )
    )


def _parent(session: Session, job: dict[str, Any], counts: dict[str, Any]) -> list[Any]:
    from nomadpy.cli.views import job as views
    from nomadpy.cli.views.base import section

    periodic = bool(job.get("Periodic"))
    prefix = f"{job['ID']}/{'periodic' if periodic else 'dispatch'}-"
    rows = session.api.get("/v1/jobs", prefix=prefix, namespace=job.get("Namespace") or "") or []
    mine = [row for row in rows if row.get("ParentID", job["ID"]) == job["ID"]]
    title = "Previously Launched Jobs" if periodic else "Dispatched Jobs"
    parts: list[Any] = [] if periodic else [views.parameterized(job)]
    parts.append(views.children_summary(counts, "Children Job Summary"))
    if mine:
        parts.append(section(title, views.children(mine)))
    return parts


def _last_failure(evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest evaluation, when it is one that failed to place something and nothing newer has succeeded."""
    newest_first = sorted(evaluations, key=lambda one: one.get("CreateIndex", 0), reverse=True)
    for one in newest_first:
        if one.get("FailedTGAllocs"):
            return one
        if one.get("Status") == "complete":
            return None
    return None


def next_launch(job: dict[str, Any], now_ns: int) -> int:
    """When a periodic job starts next, in Unix nanoseconds; 0 when it does not, or when the schedule is not cron."""
    periodic = job.get("Periodic") or {}
    if not periodic or not periodic.get("Enabled", True):
        return 0
    from nomadpy.model import cron
    from nomadpy.model.job import PeriodicConfig

    schedule = PeriodicConfig(
        spec=periodic.get("Spec") or "",
        specs=tuple(periodic.get("Specs") or ()),
        time_zone=periodic.get("TimeZone") or "",
    )
    try:
        return cron.next_launch(schedule, now_ns)
    except ValueError:
        return 0


def allocs(
    session: Session,
    job: Job,
    *,
    all_: Annotated[bool, typer.Option("-all", help="Those of an earlier job of the same id too.")] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the allocations of a job."""
    from nomadpy.cli.views import job as views

    job_id, namespace = find_job(session, job)
    stubs = session.api.get(job_path(job_id, "allocations"), namespace=namespace, all=all_ or None)
    if not session.put_out(stubs, as_json=as_json, template=template):
        session.show(views.allocations(stubs or [], time.time_ns(), verbose=verbose))


def deployments(
    session: Session,
    job: Job,
    *,
    latest: Annotated[bool, typer.Option("-latest", help="Only the latest, in detail.")] = False,
    all_: Annotated[bool, typer.Option("-all", help="Those of an earlier job of the same id too.")] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the deployments of a job."""
    from nomadpy.cli.views import deployment as views

    job_id, namespace = find_job(session, job)
    if latest:
        newest = session.api.get(job_path(job_id, "deployment"), namespace=namespace)
        if session.put_out(newest, as_json=as_json, template=template):
            return
        if newest is None:
            raise CommandFailed(f'job "{job_id}" has no deployment')
        session.show(views.detail(newest, time.time_ns(), verbose=verbose))
        return
    rows = session.api.get(job_path(job_id, "deployments"), namespace=namespace, all=all_ or None)
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.deployment_list(rows or [], verbose=verbose))


def capacity(
    session: Session,
    job: Job,
    *,
    without: Without = None,
    with_: With = None,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show how many more of each group of a registered job would fit now, and what runs out first.

    With -without and -with: how many would, if nodes left or others joined.
    """
    from nomadpy.cli.views import why as views

    job_id, namespace = find_job(session, job)
    query = {"namespace": namespace, "without": without, "with": with_}
    answer = session.api.get(job_path(job_id, "capacity"), **query)
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.capacity(answer, f'Capacity for job "{job_id}"'))


def history(
    session: Session,
    job: Job,
    *,
    show_diffs: Annotated[bool, typer.Option("-p", help="Show what changed from version to version.")] = False,
    version: Annotated[int | None, typer.Option("-version", help="Only this version.")] = None,
    diff_version: Annotated[
        int | None, typer.Option("-diff-version", help="Show what changed since this version, implies -p.")
    ] = None,
    diff_tag: Annotated[
        str | None, typer.Option("-diff-tag", help="Show what changed since the tagged version, implies -p.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-full", help="Show unchanged parts in the differences too.")] = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the versions of a job, newest first."""
    from nomadpy.cli.views import job as views
    from nomadpy.cli.views import plan as plan_views

    if diff_tag and diff_version is not None:
        raise UsageProblem("-diff-tag and -diff-version exclude each other")
    show_diffs = show_diffs or bool(diff_tag) or diff_version is not None
    job_id, namespace = find_job(session, job)
    query = {"diffs": show_diffs or None, "diff_version": diff_version, "diff_tag": diff_tag}
    answer = session.api.get(job_path(job_id, "versions"), namespace=namespace, **query)
    versions, diffs = list(answer.get("Versions") or []), list(answer.get("Diffs") or [])
    if version is not None:
        at = next((number for number, one in enumerate(versions) if one.get("Version") == version), None)
        if at is None:
            known = ", ".join(str(one.get("Version")) for one in versions)
            raise CommandFailed(f'job "{job_id}" has no version {version}; it has {known}')
        versions, diffs = versions[at : at + 1], diffs[at : at + 1]
    if session.put_out(versions, as_json=as_json, template=template):
        return
    drawn = [plan_views.job_diff(diff, verbose=verbose) for diff in diffs] if show_diffs else []
    session.show(views.history(versions, list(drawn)))


def inspect(
    session: Session,
    job: Job,
    *,
    version: Annotated[int | None, typer.Option("-version", help="This version instead of the current one.")] = None,
    hcl: Annotated[bool, typer.Option("-hcl", help="Print the source that was submitted.")] = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Print a registered job as JSON, or with -hcl the source it was made from."""
    del as_json
    job_id, namespace = find_job(session, job)
    found = _version(session, job_id, namespace, version)
    if hcl:
        source = session.api.get(job_path(job_id, "submission"), namespace=namespace, version=found.get("Version", 0))
        print(str(source.get("Source", "")).rstrip("\n"))
        return
    session.put_out(found if template else {"Job": found}, as_json=True, template=template)


def _version(session: Session, job_id: str, namespace: str, version: int | None) -> dict[str, Any]:
    if version is None:
        return dict(session.api.get(job_path(job_id), namespace=namespace))
    answer = session.api.get(job_path(job_id, "versions"), namespace=namespace)
    for job in answer.get("Versions") or []:
        if job.get("Version") == version:
            return dict(job)
    raise CommandFailed(f'job "{job_id}" has no version {version}')
