"""Commands about the servers among themselves: Raft's members and the autopilot."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template
from nomadpy.cli.session import Session

_AUTOPILOT = "/v1/operator/autopilot/configuration"
_HEALTH = "/v1/operator/autopilot/health"


def list_peers(
    session: Session,
    *,
    stale: Annotated[bool, typer.Option("-stale", help="Ask any server, not only the leader.")] = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the servers of the replicated log: who votes, and who leads."""
    from nomadpy.cli.views import servers as views

    answer = session.api.get("/v1/operator/raft/configuration", stale=stale or None)
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.peers(answer.get("Servers") or []))


def remove_peer(
    session: Session,
    *,
    peer_id: Annotated[str | None, typer.Option("-peer-id", help="The id of the server.")] = None,
) -> None:
    """Remove a server that does not come back. A living one would have to be restarted to be taken in again."""
    if not peer_id:
        raise UsageProblem("-peer-id is needed; operator raft list-peers shows the ids")
    session.api.delete("/v1/operator/raft/peer", id=peer_id)
    session.say(f'Removed peer with id "{peer_id}"')


def transfer_leadership(
    session: Session,
    *,
    peer_id: Annotated[str | None, typer.Option("-peer-id", help="The id of the server that shall lead.")] = None,
    peer_address: Annotated[str | None, typer.Option("-peer-address", help="Or its address, as ip:port.")] = None,
) -> None:
    """Hand the leadership to another server that votes."""
    if (peer_id is None) == (peer_address is None):
        raise UsageProblem("either -peer-id or -peer-address is needed; operator raft list-peers shows both")
    answer = session.api.put("/v1/operator/raft/transfer-leadership", None, id=peer_id, address=peer_address)
    name = (answer.get("To") or {}).get("ID") or peer_id or peer_address
    if answer.get("Err"):
        raise CommandFailed(f"the leadership was not transferred: {answer['Err']}")
    session.say(f"Server {name} leads already" if answer.get("Noop") else f"Server {name} leads now")


def autopilot_get(session: Session, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show how the leader looks after the servers."""
    from nomadpy.cli.views import servers as views

    answer = session.api.get(_AUTOPILOT)
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.autopilot(answer))


def autopilot_set(
    session: Session,
    *,
    cleanup: Annotated[
        str | None, typer.Option("-cleanup-dead-servers", help="true or false.", metavar="<bool>")
    ] = None,
    last_contact: Annotated[
        str | None, typer.Option("-last-contact-threshold", help="Longest healthy silence, such as 1s.")
    ] = None,
    trailing: Annotated[
        int | None, typer.Option("-max-trailing-logs", help="How many entries a healthy server may lack.")
    ] = None,
    quorum: Annotated[int | None, typer.Option("-min-quorum", help="Below so many voters dead ones are kept.")] = None,
    stabilization: Annotated[
        str | None,
        typer.Option("-server-stabilization-time", help="How long a server is healthy before it votes, such as 10s."),
    ] = None,
    check_index: Annotated[int | None, typer.Option("-check-index", help="Only if it is at this index.")] = None,
) -> None:
    """Change how the leader looks after the servers. What is not named stays as it is."""
    config = dict(session.api.get(_AUTOPILOT))
    index = config.get("ModifyIndex", 0) if check_index is None else check_index
    named: dict[str, Any] = {
        "CleanupDeadServers": _switch(cleanup),
        "LastContactThreshold": last_contact,
        "MaxTrailingLogs": trailing,
        "MinQuorum": quorum,
        "ServerStabilizationTime": stabilization,
    }
    config.update({name: value for name, value in named.items() if value is not None})
    if not session.api.put(_AUTOPILOT, config, cas=index):
        raise CommandFailed(f"somebody changed the configuration since index {index}; look at it and try again")
    session.say("Configuration updated!")


def _switch(text: str | None) -> bool | None:
    if text is not None and text.lower() not in ("true", "false"):
        raise UsageProblem(f'expected true or false, not "{text}"')
    return None if text is None else text.lower() == "true"


def health(session: Session, *, as_json: AsJSON = False, template: Template = None) -> int:
    """Show how the servers are doing, as the leader sees it. The exit code is 2 when not all of them are well."""
    from nomadpy.cli.views import servers as views

    try:
        answer = session.api.get(_HEALTH)
    except ApiError as problem:
        # The report of servers that are not well comes with this status.
        if problem.status != 429:
            raise
        answer = _report(problem)
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.health(answer))
    return 0 if answer.get("Healthy") else 2


def _report(problem: ApiError) -> dict[str, Any]:
    import json

    try:
        report = json.loads(problem.body)
    except ValueError:
        raise problem from None
    if not isinstance(report, dict):
        raise problem
    return report
