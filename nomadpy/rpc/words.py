"""The methods of ``ServerEndpoint`` on the wire, and those between servers.

Methods are only ever added; records get new fields at will, with defaults. Both ends use this one table.
"""

from __future__ import annotations

from collections.abc import Callable

from nomadpy.model.alloc import Allocation, AllocUpdate
from nomadpy.model.naming import Noun
from nomadpy.model.node import Node, NodeEvent
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.contract import Assignments, NodeLease, ServerEndpoint
from nomadpy.rpc.frames import CLIENT, SERVER
from nomadpy.rpc.handlers import Handlers, Word


class NodeSecret(Noun):
    """Who asks: the secret proves that it is the node."""

    node_id: str
    secret_id: str


class Heartbeat(NodeSecret):
    """Parameters of ``heartbeat``."""

    status: str


class WaitAssignments(NodeSecret):
    """Parameters of ``wait_assignments``."""

    after: int = 0
    wait_s: float = 0.0


class GetAllocs(NodeSecret):
    """Parameters of ``get_allocs``."""

    alloc_ids: list[str] = []


class UpdateAllocs(NodeSecret):
    """Parameters of ``update_allocs``."""

    updates: list[AllocUpdate] = []


class EmitNodeEvents(NodeSecret):
    """Parameters of ``emit_node_events``."""

    events: list[NodeEvent] = []


REGISTER_NODE: Word[Node, NodeLease] = Word("Node.Register", Node, NodeLease)
HEARTBEAT: Word[Heartbeat, NodeLease] = Word("Node.Heartbeat", Heartbeat, NodeLease)
WAIT_ASSIGNMENTS: Word[WaitAssignments, Assignments] = Word("Node.WaitAssignments", WaitAssignments, Assignments)
GET_ALLOCS: Word[GetAllocs, list[Allocation]] = Word("Node.GetAllocs", GetAllocs, list[Allocation])
UPDATE_ALLOCS: Word[UpdateAllocs, int] = Word("Node.UpdateAllocs", UpdateAllocs, int)
EMIT_NODE_EVENTS: Word[EmitNodeEvents, None] = Word("Node.EmitEvents", EmitNodeEvents, type(None))

OnNode = Callable[[str, Connection], None]


def serve_servers(
    endpoint: ServerEndpoint, *, passed_on: ServerEndpoint | None = None, on_node: OnNode | None = None
) -> Handlers:
    """The handlers of a server for its clients. ``passed_on`` answers what another server passes on (it must not pass
    it on again). ``on_node(node id, connection)`` hears over which connection a node has just proven to be there."""
    handlers = Handlers()

    def ask(caller: Connection) -> ServerEndpoint:
        return passed_on if passed_on is not None and caller.peer.role == SERVER else endpoint

    def heard(node_id: str, caller: Connection) -> None:
        if on_node is not None and caller.peer.role == CLIENT:
            on_node(node_id, caller)

    async def register_node(node: Node, caller: Connection) -> NodeLease:
        lease = await ask(caller).register_node(node)
        heard(node.id, caller)
        return lease

    async def heartbeat(p: Heartbeat, caller: Connection) -> NodeLease:
        lease = await ask(caller).heartbeat(p.node_id, p.secret_id, p.status)
        heard(p.node_id, caller)
        return lease

    async def wait_assignments(p: WaitAssignments, caller: Connection) -> Assignments:
        return await ask(caller).wait_assignments(p.node_id, p.secret_id, p.after, p.wait_s)

    async def get_allocs(p: GetAllocs, caller: Connection) -> list[Allocation]:
        return await ask(caller).get_allocs(p.node_id, p.secret_id, p.alloc_ids)

    async def update_allocs(p: UpdateAllocs, caller: Connection) -> int:
        return await ask(caller).update_allocs(p.node_id, p.secret_id, p.updates)

    async def emit_node_events(p: EmitNodeEvents, caller: Connection) -> None:
        await ask(caller).emit_node_events(p.node_id, p.secret_id, p.events)

    handlers.on(REGISTER_NODE, register_node)
    handlers.on(HEARTBEAT, heartbeat)
    handlers.on(WAIT_ASSIGNMENTS, wait_assignments)
    handlers.on(GET_ALLOCS, get_allocs)
    handlers.on(UPDATE_ALLOCS, update_allocs)
    handlers.on(EMIT_NODE_EVENTS, emit_node_events)
    return handlers
