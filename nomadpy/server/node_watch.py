"""The leader's watch over the nodes: tells ``LostNodes`` what gossip says and marks whom it finds lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from nomadpy.gossip.contract import FAILED, SUSPECT, Gossip, Member
from nomadpy.model.node import DISCONNECTED, DOWN
from nomadpy.model.time import SECOND
from nomadpy.server.disconnected import returns_until_ns
from nomadpy.server.lost_nodes import DOUBT_NS, Lost, LostNodes
from nomadpy.server.node_evals import evals_for_node, node_lost_event
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

Insist = Callable[[str, Callable[[], Awaitable[object]]], Awaitable[None]]

_TICK_S = 0.001  # so that a wait does not end in the very moment before it should
# Changes of gossip are looked at together.
_BATCH_S = 0.05


class Rumours:
    """What gossip says of clients that it does not call alive, by node id; looked up again only when it changed."""

    def __init__(self, gossip: Gossip | None) -> None:
        self._gossip = gossip
        self._seen = -1
        self._bad: dict[str, str] = {}
        # Nodes whose member has another name: a server's.
        self._names: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        """Node id → suspect or failed."""
        if self._gossip is not None and self._gossip.changes != self._seen:
            self._seen = self._gossip.changes
            members = self._gossip.members()
            self._bad = {_node_of(m): m.status for m in members if m.status in (SUSPECT, FAILED) and _node_of(m)}
            self._names = {m.tags["node"]: m.name for m in members if m.is_server and m.tags.get("node")}
        return self._bad

    def long_failed(self) -> list[str]:
        """Those that failed so long ago that a leader would have lost them if nothing else had been heard."""
        if self._gossip is None:
            return []
        before = trio.current_time() - DOUBT_NS / SECOND
        members = self._gossip.members()
        return [_node_of(m) for m in members if m.status == FAILED and m.since < before and _node_of(m)]

    def answered(self, node_id: str) -> float | None:
        """How many seconds ago a node last answered gossip's probe; None where it is not asked."""
        if self._gossip is None:
            return None
        at = self._gossip.answered(self._names.get(node_id, node_id))
        return None if at is None else trio.current_time() - at

    async def changed(self) -> None:
        """Waits for something new; for ever without gossip."""
        if self._gossip is None:
            await trio.sleep_forever()
        else:
            await self._gossip.wait_changes(self._seen)
            await trio.sleep(_BATCH_S)

    def probe(self, node_ids: tuple[str, ...]) -> None:
        """Has gossip probe nodes out of turn."""
        for node_id in node_ids:
            if self._gossip is not None:
                self._gossip.confirm(self._names.get(node_id, node_id))


def _node_of(member: Member) -> str:
    """The node that a member stands for: a client's name is its node id, a server names the client in its agent."""
    return member.tags.get("node", "") if member.is_server else member.name


async def watch_nodes(server: Server, gossip: Gossip | None, insist: Insist) -> None:
    """Finds lost nodes and marks them until cancelled. ``insist`` repeats what the log could not take."""
    rumours = Rumours(gossip)
    judge = LostNodes(server.config, server.heartbeats, server.mono_ns(), long_failed=rumours.long_failed())
    was_held = 0
    asked: set[str] = set()
    async with trio.open_nursery() as nursery:
        while True:
            rumoured = set(rumours.now())
            for node_id in sorted(rumoured - asked):
                nursery.start_soon(_ask_node, server, node_id)
            asked = rumoured
            verdict = judge.look(server.mono_ns(), expected(server.store), rumours.now(), rumours.answered)
            rumours.probe(verdict.probe)
            for lost in verdict.lost:
                # Beside the watch: while it waits for the log it must not seem to have been stopped.
                nursery.start_soon(insist, "node.lost", lambda lost=lost: _mark_lost(server, lost))
            if bool(verdict.held) != bool(was_held):
                event = "nodes.many_silent" if verdict.held else "nodes.judged_again"
                log.warning(event, extra={"fields": {"held": verdict.held or was_held, "lost": len(verdict.lost)}})
            was_held = verdict.held
            with trio.move_on_after(max(0, verdict.wake_ns - server.mono_ns()) / SECOND + _TICK_S):
                await rumours.changed()


async def _ask_node(server: Server, node_id: str) -> None:
    """Has a node that gossip misses speak for itself: what it answers in time is a sign of life."""
    if server.reach_node is not None and server.heartbeats.has_lease(node_id) and await server.reach_node(node_id):
        server.heartbeats.heard(node_id, server.mono_ns())


def expected(store: StateStore) -> frozenset[str]:
    """The nodes that should be alive."""
    return frozenset(node.id for node in store.nodes if node.status not in (DOWN, DISCONNECTED))


def status_of_lost(store: StateStore, node_id: str, now_ns: int) -> str:
    """``disconnected`` where something on the node may stay there for a while (``lost_after`` in its group's
    ``disconnect``), ``down`` otherwise."""
    return DOWN if returns_until_ns(store, node_id, now_ns) is None else DISCONNECTED


async def _mark_lost(server: Server, lost: Lost) -> None:
    node = server.store.node(lost.node_id)
    if node is None or node.status in (DOWN, DISCONNECTED) or server.heartbeats.has_lease(lost.node_id):
        # Purged, marked already, or back: it beat again while the log did not answer.
        return
    now_ns = server.wall_ns()
    status = status_of_lost(server.store, lost.node_id, now_ns)
    log.warning(
        "node.lost", extra={"fields": {"node": node.id, "name": node.name, "status": status, "reason": lost.reason}}
    )
    await server.propose(
        c.UpdateNodeStatus(
            now_ns=now_ns,
            node_id=node.id,
            status=status,
            event=node_lost_event(now_ns),
            evals=tuple(evals_for_node(server, node)),
        )
    )
