"""Commands about nodes."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import ApiError, CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Detach, Template, Verbose, Yes
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
        query = {"filter": filter_, "per_page": per_page, "next_token": page_token}
        _list(session, query, allocs=allocs, verbose=verbose, as_json=as_json, template=template)
        return
    node_id = own_node(session) if self_ else find_id(session, "node", str(node))
    found = session.api.get(f"/v1/node/{node_id}")
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
    node_id = _one_node(session, node, self_)
    word = "eligible" if enable else "ineligible"
    session.api.put(f"/v1/node/{node_id}/eligibility", {"NodeID": node_id, "Eligibility": word})
    session.say(f'Node "{node_id}" scheduling eligibility set: {word} for scheduling')


def _one_node(session: Session, node: str | None, self_: bool) -> str:
    if bool(node) == self_:
        raise UsageProblem("name one node, or say -self")
    return own_node(session) if self_ else find_id(session, "node", str(node))


def drain(
    session: Session,
    node: Node = None,
    *,
    enable: Annotated[bool, typer.Option("-enable", help="Start to drain the node.")] = False,
    disable: Annotated[bool, typer.Option("-disable", help="Stop draining the node.")] = False,
    deadline: Annotated[str, typer.Option("-deadline", help="When to stop by force, such as 1h (the default).")] = "1h",
    no_deadline: Annotated[bool, typer.Option("-no-deadline", help="Wait for ever.")] = False,
    force: Annotated[bool, typer.Option("-force", help="Stop everything at once.")] = False,
    ignore_system: Annotated[bool, typer.Option("-ignore-system", help="Leave system jobs where they are.")] = False,
    keep_ineligible: Annotated[
        bool, typer.Option("-keep-ineligible", help="With -disable: take no new work either.")
    ] = False,
    message: Annotated[str | None, typer.Option("-m", help="A note that is kept with the drain.")] = None,
    meta: Annotated[list[str] | None, typer.Option("-meta", help="A key=value kept with the drain.")] = None,
    self_: Self = False,
    monitor: Annotated[bool, typer.Option("-monitor", help="Only follow a drain that is under way.")] = False,
    detach: Detach = False,
    yes: Yes = False,
) -> int:
    """Move the work of a node elsewhere, or cancel that with -disable. Follows the drain unless -detach is given."""
    del yes
    if [enable, disable, monitor].count(True) != 1:
        raise UsageProblem("say one of -enable, -disable and -monitor")
    if enable and [force, no_deadline].count(True) > 1:
        raise UsageProblem("-force and -no-deadline exclude each other")
    node_id = _one_node(session, node, self_)
    if not monitor:
        spec = _drain_spec(deadline, no_deadline, force, ignore_system) if enable else None
        body = {
            "NodeID": node_id,
            "DrainSpec": spec,
            "MarkEligible": bool(disable and not keep_ineligible),
            "Meta": {**_pairs(meta or []), **({"message": message} if message else {})},
        }
        session.api.put(f"/v1/node/{node_id}/drain", body)
        session.say(f'Node "{node_id}" drain {"strategy set" if enable else "canceled"}')
    if disable or detach:
        return 0
    return _follow_drain(session, node_id)


def _drain_spec(deadline: str, no_deadline: bool, force: bool, ignore_system: bool) -> dict[str, Any]:
    from nomadpy.model.time import parse_duration

    try:
        limit_ns = -1 if force else 0 if no_deadline else parse_duration(deadline)
    except ValueError as problem:
        raise UsageProblem(f'-deadline wants a duration such as 30m or 1h, not "{deadline}"') from problem
    if limit_ns <= 0 and not (force or no_deadline):
        raise UsageProblem("-deadline must be more than zero; -force stops at once, -no-deadline waits for ever")
    return {"Deadline": limit_ns, "IgnoreSystemJobs": ignore_system}


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageProblem(f'-meta wants key=value, not "{text}"')
        pairs[name] = value
    return pairs


def _follow_drain(session: Session, node_id: str) -> int:
    """Tell of every allocation that leaves the node until the drain is over."""
    told: dict[str, str] = {}
    while True:
        node = session.api.get(f"/v1/node/{node_id}")
        allocations = session.api.get(f"/v1/node/{node_id}/allocations", namespace="*") or []
        for allocation in allocations:
            line = _drain_news(allocation)
            if line and told.get(allocation["ID"]) != line:
                told[allocation["ID"]] = line
                session.say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}: {line}")
        if not node.get("DrainStrategy"):
            verdict = (node.get("LastDrain") or {}).get("Status") or "complete"
            session.say(f'Drain {verdict} for node "{node_id}"')
            return 0 if verdict == "complete" else 1
        time.sleep(1.0)


def _drain_news(allocation: dict[str, Any]) -> str:
    ident, status = allocation["ID"][:8], allocation.get("ClientStatus")
    if status in ("complete", "failed", "lost"):
        return ""
    if allocation.get("DesiredStatus") == "stop":
        return f'Alloc "{ident}" of job {allocation.get("JobID")} is stopping'
    if (allocation.get("DesiredTransition") or {}).get("Migrate"):
        return f'Alloc "{ident}" of job {allocation.get("JobID")} is marked for migration'
    return ""
