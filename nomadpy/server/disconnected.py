"""Nodes that are out of reach for a while: when they are down after all, and what their first words lead to.

A node is ``disconnected`` as long as something on it is wanted and may yet return (``lost_after`` in the ``disconnect``
block of its group). When it is heard of again it is ``initializing`` until it has told what became of its allocations,
because only then can it be decided which of them stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nomadpy.model.node import DISCONNECTED, DOWN, INITIALIZING, READY, Node
from nomadpy.scheduler.disconnect import expires_ns, may_return
from nomadpy.server.node_evals import evals_for_node
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

if TYPE_CHECKING:
    from nomadpy.server.server import Server


class Step(msgspec.Struct, frozen=True):
    """Nodes that are down from now on; ``wake_at_ns`` is when to look again at the others, None when there are none."""

    down: tuple[Node, ...] = ()
    wake_at_ns: int | None = None


def returns_until_ns(store: StateStore, node_id: str, now_ns: int) -> int | None:
    """Until when something on the node may return; None when nothing does."""
    table = store.allocs
    live = (store.alloc_at(row) for row in table.rows_by_node(store.node_number(node_id)) if table.is_live(row))
    return max((expires_ns(alloc, now_ns) for alloc in live if may_return(alloc, now_ns)), default=None)


def decide_disconnected(store: StateStore, now_ns: int) -> Step:
    """Which disconnected nodes nobody waits for any more."""
    down: list[Node] = []
    wakes: list[int] = []
    for node in store.nodes:
        if node.status == DISCONNECTED:
            until_ns = returns_until_ns(store, node.id, now_ns)
            if until_ns is None:
                down.append(node)
            else:
                wakes.append(until_ns)
    return Step(tuple(down), min(wakes, default=None))


def down_command(server: Server, node: Node) -> c.UpdateNodeStatus:
    """Declares a node down that was disconnected for too long."""
    return c.UpdateNodeStatus(
        now_ns=server.wall_ns(), node_id=node.id, status=DOWN, evals=tuple(evals_for_node(server, node))
    )


def status_of_returning(store: StateStore, node: Node, wanted: str) -> str:
    """The status that a node gets which says that it is ready."""
    if wanted != READY or node.status not in (DISCONNECTED, INITIALIZING):
        return wanted
    if node.status == DISCONNECTED:
        return INITIALIZING
    table = store.allocs
    silent = node.last_missed_heartbeat_index > 0 and node.last_alloc_update_index <= node.last_missed_heartbeat_index
    if silent and any(table.is_live(row) for row in table.rows_by_node(store.node_number(node.id))):
        return INITIALIZING
    return READY
