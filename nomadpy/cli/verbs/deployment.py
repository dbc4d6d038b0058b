"""Commands about deployments."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.flags import AsJSON, Detach, Template, Verbose
from nomadpy.cli.lookup import find_id
from nomadpy.cli.session import Session
from nomadpy.cli.verbs.job_write import follow

Deployment = Annotated[str, typer.Argument(metavar="<deployment>")]


def list_(
    session: Session,
    *,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only those that match an expression.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the deployments, newest first."""
    from nomadpy.cli.views import deployment as views

    rows = session.api.get("/v1/deployments", filter=filter_)
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.deployment_list(rows or [], verbose=verbose))


def status(
    session: Session,
    deployment: Annotated[str | None, typer.Argument(metavar="<deployment>", show_default=False)] = None,
    *,
    monitor: Annotated[bool, typer.Option("-monitor", help="Follow the deployment until it is over.")] = False,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> int:
    """Show a deployment; with -monitor also whatever changes, until it is over."""
    from nomadpy.cli.views import deployment as views

    if deployment is None:
        list_(session, filter_=None, verbose=verbose, as_json=as_json, template=template)
        return 0
    ident = find_id(session, "deployment", deployment)
    found = session.api.get(f"/v1/deployment/{ident}")
    if session.put_out(found, as_json=as_json, template=template):
        return 0
    session.show(views.detail(found, time.time_ns(), verbose=verbose))
    if verbose:
        _show_allocations(session, ident)
    if not monitor:
        return 0
    from nomadpy.cli.follow import Follower

    session.say()
    return Follower(session).follow_deployment(found)


def _show_allocations(session: Session, ident: str) -> None:
    from nomadpy.cli.views import job as job_views
    from nomadpy.cli.views.base import section

    stubs = session.api.get(f"/v1/deployment/allocations/{ident}") or []
    session.say()
    session.show(section("Allocations", job_views.allocations(stubs, time.time_ns(), verbose=True)))


def fail(session: Session, deployment: Deployment, *, detach: Detach = False, verbose: Verbose = False) -> int:
    """Mark a deployment as failed; with auto_revert the last stable version comes back."""
    del verbose
    ident = find_id(session, "deployment", deployment)
    answer = session.api.put(f"/v1/deployment/fail/{ident}", {})
    session.say(f'Deployment "{ident}" failed')
    if (answer or {}).get("RevertedJobVersion") is not None:
        session.say(f"Auto-reverted to version {answer['RevertedJobVersion']}")
    return follow(session, answer, detach)


def pause(session: Session, deployment: Deployment, *, verbose: Verbose = False) -> None:
    """Pause a deployment: nothing more is replaced until it is resumed."""
    del verbose
    _set_paused(session, deployment, True)


def resume(session: Session, deployment: Deployment, *, detach: Detach = False, verbose: Verbose = False) -> int:
    """Resume a paused deployment."""
    del verbose
    return follow(session, _set_paused(session, deployment, False), detach)


def _set_paused(session: Session, typed: str, paused: bool) -> Any:
    ident = find_id(session, "deployment", typed)
    answer = session.api.put(f"/v1/deployment/pause/{ident}", {"DeploymentID": ident, "Pause": paused})
    session.say(f'Deployment "{ident}" {"paused" if paused else "resumed"}')
    return answer


def unblock(session: Session, deployment: Deployment, *, detach: Detach = False, verbose: Verbose = False) -> int:
    """Let a blocked deployment of a multi-region job go on. In one region no deployment is ever blocked."""
    del verbose
    ident = find_id(session, "deployment", deployment)
    answer = session.api.put(f"/v1/deployment/unblock/{ident}", {"DeploymentID": ident})
    session.say(f'Deployment "{ident}" unblocked')
    return follow(session, answer, detach)


def promote(
    session: Session,
    deployment: Deployment,
    *,
    group: Annotated[list[str] | None, typer.Option("-group", help="Only this task group; repeatable.")] = None,
    detach: Detach = False,
    verbose: Verbose = False,
) -> int:
    """Promote the canaries of a deployment."""
    del verbose
    ident = find_id(session, "deployment", deployment)
    body = {"DeploymentID": ident, "All": not group, "Groups": group or None}
    return follow(session, session.api.put(f"/v1/deployment/promote/{ident}", body), detach)
