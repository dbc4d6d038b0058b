"""Commands about scaling: what policies there are, how groups are scaled, and what was scaled when."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.http import job_path, quoted
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session

Job = Annotated[str, typer.Argument(metavar="<job>")]


def policy_list(
    session: Session,
    *,
    job: Annotated[str | None, typer.Option("-job", help="Only those of this job.")] = None,
    type_: Annotated[str | None, typer.Option("-type", help="Only those of this type.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the scaling policies of jobs."""
    from nomadpy.cli.views import scaling as views

    rows = session.api.get("/v1/scaling/policies", job=job, type=type_)
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.policy_list(rows or [], verbose=verbose))


def policy_info(
    session: Session,
    policy: Annotated[str, typer.Argument(metavar="<policy>")],
    *,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show a scaling policy. Its id may be cut short."""
    from nomadpy.cli.views import scaling as views

    namespace = session.settings.namespace or "*"
    rows = session.api.get("/v1/scaling/policies", prefix=policy, namespace=namespace) or []
    if len(rows) != 1:
        listing = "".join(f"\n  {row['ID']}" for row in rows[:20])
        many = f'"{policy}" is the beginning of {len(rows)} ids:{listing}'
        raise CommandFailed(many if rows else f'no scaling policy has an id that begins with "{policy}"')
    found = session.api.get(f"/v1/scaling/policy/{quoted(rows[0]['ID'])}", namespace=namespace)
    if not session.put_out(found, as_json=as_json, template=template):
        session.show(views.policy(found, verbose=verbose))


def status(session: Session, job: Job, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show how many allocations each group of a job wants and has."""
    from nomadpy.cli.views import scaling as views

    found = _status(session, job)
    if not session.put_out(found, as_json=as_json, template=template):
        session.show(views.status(found))


def events(
    session: Session, job: Job, *, verbose: Verbose = False, as_json: AsJSON = False, template: Template = None
) -> None:
    """List what was scaled when, and by whom, for all groups of a job."""
    from nomadpy.cli.views import scaling as views

    found = _status(session, job)
    groups: dict[str, Any] = {name: one.get("Events") or [] for name, one in (found.get("TaskGroups") or {}).items()}
    if not session.put_out(groups, as_json=as_json, template=template):
        session.show(views.events(groups, time.time_ns(), verbose=verbose))


def _status(session: Session, typed: str) -> dict[str, Any]:
    job_id, namespace = find_job(session, typed)
    return dict(session.api.get(job_path(job_id, "scale"), namespace=namespace))
