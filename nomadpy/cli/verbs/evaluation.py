"""Commands about evaluations."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.lookup import find_id
from nomadpy.cli.session import Session


def list_(
    session: Session,
    *,
    job: Annotated[str | None, typer.Option("-job", help="Only those of this job.")] = None,
    status: Annotated[str | None, typer.Option("-status", help="Only those with this status.")] = None,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only those that match an expression.")] = None,
    per_page: Annotated[int | None, typer.Option("-per-page", help="At most so many.")] = None,
    page_token: Annotated[str | None, typer.Option("-page-token", help="Where to go on after a page.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the evaluations, newest first."""
    from nomadpy.cli.views import evaluation as views

    query = {"job": job, "status": status, "filter": filter_, "per_page": per_page, "next_token": page_token}
    rows = session.api.get("/v1/evaluations", reverse=True, **query)
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.evaluation_list(rows or [], verbose=verbose))


def status(
    session: Session,
    evaluation: Annotated[str | None, typer.Argument(metavar="<evaluation>", show_default=False)] = None,
    *,
    monitor: Annotated[bool, typer.Option("-monitor", help="Follow the evaluation until it is done.")] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> int:
    """Show an evaluation: what led to it, what it placed, and why it could not place everything."""
    from nomadpy.cli.views import evaluation as views
    from nomadpy.cli.views import job as job_views
    from nomadpy.cli.views.base import section

    if evaluation is None:
        list_(session, verbose=verbose, as_json=as_json, template=template)
        return 0
    ident = find_id(session, "evaluation", evaluation)
    if monitor:
        from nomadpy.cli.follow import Follower

        return Follower(session).follow(ident)
    found = session.api.get(f"/v1/evaluation/{ident}", related=True)
    if session.put_out(found, as_json=as_json, template=template):
        return 0
    session.show(views.detail(found, time.time_ns(), verbose=verbose))
    stubs = session.api.get(f"/v1/evaluation/{ident}/allocations") or []
    session.say()
    session.show(section("Placed Allocations", job_views.allocations(stubs, time.time_ns(), verbose=verbose)))
    return 0
