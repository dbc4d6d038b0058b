"""``node drain``: moves the work of a node elsewhere, and tells how that goes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import UsageProblem
from nomadpy.cli.flags import Detach, Yes
from nomadpy.cli.follow import get_patiently
from nomadpy.cli.session import Session
from nomadpy.cli.verbs.job_write import confirm
from nomadpy.cli.verbs.node import Node, Self, one_node
from nomadpy.cli.views.base import harmless, moment_ns

POLL_S = 0.5
_DEFAULT_DEADLINE = "1h"
_OVER = ("complete", "failed", "lost")


def drain(
    session: Session,
    node: Node = None,
    *,
    enable: Annotated[bool, typer.Option("-enable", help="Start to drain the node.")] = False,
    disable: Annotated[bool, typer.Option("-disable", help="Stop draining the node.")] = False,
    deadline: Annotated[
        str | None, typer.Option("-deadline", help="When to stop what is left by force, such as 30m. Default: 1h.")
    ] = None,
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
    if [enable, disable, monitor].count(True) != 1:
        raise UsageProblem("say one of -enable, -disable and -monitor")
    limits = [bool(deadline), force, no_deadline].count(True)
    if limits > 1:
        raise UsageProblem("-deadline, -force and -no-deadline exclude each other")
    if not enable and (limits or ignore_system):
        raise UsageProblem("-deadline, -force, -no-deadline and -ignore-system go with -enable")
    if monitor and detach:
        raise UsageProblem("-monitor and -detach exclude each other")
    spec = _drain_spec(deadline, no_deadline, force, ignore_system) if enable else None
    notes = {**_pairs(meta or []), **({"message": message} if message else {})}
    node_id = one_node(session, node, self_)
    if monitor:
        return _follow(session, node_id, begun=False)
    question = f'{"Drain" if enable else "Stop draining"} node "{node_id}"?'
    if node is not None and node != node_id and not confirm(question, yes):
        session.say("Cancelled, nothing was changed.")
        return 0
    body = {
        "NodeID": node_id,
        "DrainSpec": spec,
        "MarkEligible": bool(disable and not keep_ineligible),
        "Meta": notes,
    }
    session.api.put(f"/v1/node/{node_id}/drain", body)
    if disable:
        after = "takes no new work" if keep_ineligible else "takes new work again"
        session.say(f'Node "{node_id}" drain canceled; it {after}')
        return 0
    session.say(f'Node "{node_id}" drain strategy set')
    return 0 if detach else _follow(session, node_id, begun=True)


def _drain_spec(deadline: str | None, no_deadline: bool, force: bool, ignore_system: bool) -> dict[str, Any]:
    from nomadpy.model.time import parse_duration

    text = deadline or _DEFAULT_DEADLINE
    try:
        limit_ns = -1 if force else 0 if no_deadline else parse_duration(text)
    except ValueError as problem:
        raise UsageProblem(f'-deadline wants a duration such as 30m or 1h, not "{text}"') from problem
    if limit_ns <= 0 and not (force or no_deadline):
        raise UsageProblem("-deadline must be more than zero; -force stops at once, -no-deadline waits for ever")
    return {"Deadline": limit_ns, "IgnoreSystemJobs": ignore_system}


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageProblem(f'-meta wants key=value, not "{text}"')
        pairs[name] = value
    return pairs


# --- following --------------------------------------------------------------------------------------------------------


def _follow(session: Session, node_id: str, *, begun: bool) -> int:
    """Tells of every allocation that leaves the node, until the drain is over and all of them have stopped. 0 when it
    completed, 1 when somebody ended it before."""
    try:
        return _Departures(session, node_id).follow(begun=begun)
    except KeyboardInterrupt:
        print("Stopped watching; the drain goes on.", file=sys.stderr)
        return 130


class _Departures:
    """What was told so far of the allocations on one node."""

    def __init__(self, session: Session, node_id: str) -> None:
        self._session, self._node_id = session, node_id
        self._seen: set[str] = set()  # allocations that were there at some look
        self._told: dict[str, str] = {}  # allocation → the last line about it
        self._left = ""

    def follow(self, *, begun: bool) -> int:
        """See ``_follow``. ``begun``: the caller has just started the drain, which may be over already."""
        ended = False
        while True:
            node = get_patiently(self._session, f"/v1/node/{self._node_id}")
            path = f"/v1/node/{self._node_id}/allocations"
            allocations = get_patiently(self._session, path, namespace="*") or []
            draining = bool(node.get("DrainStrategy"))
            last = node.get("LastDrain") or {}
            still_leaving = self._look(allocations, since_ns=moment_ns(last.get("StartedAt")), draining=draining)
            verdict = last.get("Status")
            if not draining and not ended:
                if not begun and not (still_leaving and verdict == "complete"):
                    self._session.say(f'Node "{self._node_id}" is not draining')
                    return 0
                if verdict != "complete":
                    self._say(f'The drain of node "{self._node_id}" was ended before it was complete')
                    return 1
                ended = True
                self._say(f'Drain complete for node "{self._node_id}"')
            if ended and not still_leaving:
                if self._told:
                    self._say("Everything that had to leave the node has stopped")
                return 0
            begun = True
            time.sleep(POLL_S)

    def _look(self, allocations: list[dict[str, Any]], *, since_ns: int, draining: bool) -> int:
        """Tells what is new; answers how many allocations were told to leave and have not stopped. One may go between
        two looks, or before the first one: then only its end is told."""
        for allocation in allocations:
            ident = allocation["ID"]
            left = _is_leaving(allocation) and moment_ns(allocation.get("ModifyTime")) >= since_ns > 0
            line = _news(allocation, known=left or ident in self._seen)
            if line and self._told.get(ident) != line:
                self._told[ident] = line
                self._say(line)
        there = [one for one in allocations if one.get("ClientStatus") not in _OVER]
        self._seen.update(one["ID"] for one in there)
        if draining:
            counts = Counter((one.get("Job") or {}).get("Type") or "other" for one in there)
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            if listed and listed != self._left:
                self._left = listed
                self._say(f"Allocations on the node: {listed}")
        return sum(_is_leaving(one) for one in there)

    def _say(self, line: str) -> None:
        self._session.say(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}: {line}")


def _is_leaving(allocation: dict[str, Any]) -> bool:
    told = bool((allocation.get("DesiredTransition") or {}).get("Migrate"))
    return told or allocation.get("DesiredStatus") in ("stop", "evict")


def _news(allocation: dict[str, Any], *, known: bool) -> str:
    who = f'Alloc "{allocation["ID"][:8]}" of job {harmless(str(allocation.get("JobID")))}'
    status = allocation.get("ClientStatus")
    if status in _OVER:
        return f"{who} has stopped ({status})" if known else ""
    if allocation.get("DesiredStatus") in ("stop", "evict"):
        return f"{who} is stopping"
    return f"{who} is to leave" if _is_leaving(allocation) else ""
