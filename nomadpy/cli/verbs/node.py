"""Commands about nodes."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.lookup import find_id
from nomadpy.cli.session import Session

Node = Annotated[str | None, typer.Argument(metavar="<node>", show_default=False)]
Self = Annotated[bool, typer.Option("-self", help="The node of the agent that is asked.")]


def status(
    session: Session,
    node: Node = None,
    *,
    self_: Self = False,
    short: Annotated[bool, typer.Option("-short", help="Only the facts and the allocations.")] = False,
    stats: Annotated[bool, typer.Option("-stats", help="Accepted; the usage is always shown.")] = False,
    allocs: Annotated[bool, typer.Option("-allocs", help="In the list: count the running allocations.")] = False,
    health: Annotated[bool, typer.Option("-health", help="In the list: how the machines are doing.")] = False,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only nodes that match an expression.")] = None,
    per_page: Annotated[int | None, typer.Option("-per-page", help="At most so many nodes.")] = None,
    page_token: Annotated[str | None, typer.Option("-page-token", help="Where to go on after a page.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the nodes, or show one: usage, drivers, events and allocations.

    The id of the node may be cut short as long as it is unambiguous.
    """
    del stats
    if node is None and not self_:
        query: dict[str, Any] = {"filter": filter_, "per_page": per_page, "next_token": page_token}
        if health or verbose:
            query["health"] = True
        _list(session, query, allocs=allocs, verbose=verbose, as_json=as_json, template=template)
        return
    node_id = own_node(session) if self_ else find_id(session, "node", str(node))
    found = session.api.get(f"/v1/node/{node_id}", health=True)
    if not session.put_out(found, as_json=as_json, template=template):
        _show(session, found, short=short, verbose=verbose)


def _list(
    session: Session, query: dict[str, Any], *, allocs: bool, verbose: bool, as_json: bool, template: str | None
) -> None:
    from nomadpy.cli.views import node as views

    nodes = session.api.get("/v1/nodes", **query) or []
    if session.put_out(nodes, as_json=as_json, template=template):
        return
    if not nodes:
        session.say("No nodes found")
        return
    session.show(views.node_list(nodes, verbose=verbose, counts=_running(session, nodes) if allocs else None))


def _running(session: Session, nodes: list[dict[str, Any]]) -> dict[str, int]:
    counts = {}
    for node in nodes:
        allocations = session.api.get(f"/v1/node/{node['ID']}/allocations") or []
        counts[node["ID"]] = sum(one.get("ClientStatus") == "running" for one in allocations)
    return counts


def own_node(session: Session) -> str:
    """The id of the node that the asked agent is. Raises CommandFailed when it is a server only."""
    node_id = ((session.api.get("/v1/agent/self").get("stats") or {}).get("client") or {}).get("node_id")
    if not node_id:
        raise CommandFailed("the agent that was asked is no client, so -self names no node")
    return str(node_id)


def _show(session: Session, node: dict[str, Any], *, short: bool, verbose: bool) -> None:
    from nomadpy.cli.views import health
    from nomadpy.cli.views import job as job_views
    from nomadpy.cli.views import node as views
    from nomadpy.cli.views.base import section, stack

    now_ns = time.time_ns()
    allocations = session.api.get(f"/v1/node/{node['ID']}/allocations", namespace="*") or []
    stats = _host_stats(session, node)
    table = section("Allocations", job_views.allocations(allocations, now_ns, verbose=verbose))
    head = views.header(node, stats, now_ns, verbose=verbose)
    if short:
        session.show(stack(head, table))
        return
    session.show(
        stack(
            head,
            views.drivers(node, now_ns) if verbose else None,
            views.events(node, now_ns, verbose=verbose),
            views.resources(node, allocations),
            views.host_usage(stats, node) if stats else None,
            section("Health", health.details(node["Health"])) if node.get("Health") else None,
            table,
            views.attributes(node) if verbose else None,
        )
    )
    if stats is None and node.get("Status") == "ready":
        session.warn("The node could not be asked for its usage.")


def _host_stats(session: Session, node: dict[str, Any]) -> dict[str, Any] | None:
    if node.get("Status") != "ready":
        return None
    try:
        return dict(session.api.get("/v1/client/stats", node_id=node["ID"]))
    except ApiError:
        # A node that cannot be reached right now has still much to tell that the servers know.
        return None


def config(
    session: Session,
    *,
    servers: Annotated[bool, typer.Option("-servers", help="List the servers that the client knows.")] = False,
    update: Annotated[
        list[str] | None,
        typer.Option("-update-servers", help="Talk to this server instead; repeatable.", metavar="<address>"),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="<address>...", show_default=False)] = None,
) -> None:
    """Show or change which servers the client of the asked agent talks to. A connection that works is kept."""
    addresses = [*(update or []), *(more or [])]
    if servers == bool(addresses) or (more and not update):
        raise UsageProblem("say either -servers or -update-servers <address>...")
    if addresses:
        session.api.put("/v1/agent/servers", None, address=addresses)
        session.say("Updated the servers of the client")
        return
    for address in session.api.get("/v1/agent/servers"):
        session.say(str(address))


def eligibility(
    session: Session,
    node: Node = None,
    *,
    enable: Annotated[bool, typer.Option("-enable", help="Allow new allocations on the node.")] = False,
    disable: Annotated[bool, typer.Option("-disable", help="Keep new allocations away from the node.")] = False,
    self_: Self = False,
) -> None:
    """Allow or forbid new allocations on a node. What runs there keeps running."""
    if enable == disable:
        raise UsageProblem("say either -enable or -disable")
    node_id = one_node(session, node, self_)
    word = "eligible" if enable else "ineligible"
    session.api.put(f"/v1/node/{node_id}/eligibility", {"NodeID": node_id, "Eligibility": word})
    session.say(f'Node "{node_id}" scheduling eligibility set: {word} for scheduling')


def one_node(session: Session, node: str | None, self_: bool) -> str:
    """The id of the one node that a command is about. Raises UsageProblem when none or two are named."""
    if bool(node) == self_:
        raise UsageProblem("name one node, or say -self")
    return own_node(session) if self_ else find_id(session, "node", str(node))
