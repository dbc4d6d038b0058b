"""A client's way to the servers that also hears what the answers say about the servers themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nomadpy.model.alloc import Allocation, AllocUpdate
from nomadpy.model.node import Node, NodeEvent
from nomadpy.rpc.contract import Assignments, NodeLease, ServerEndpoint


class HearingEndpoint:
    """Implements ``ServerEndpoint`` by another one; every lease is passed to ``hear`` as well."""

    def __init__(self, inner: ServerEndpoint, hear: Callable[[NodeLease], Awaitable[None]]) -> None:
        self._inner, self._hear = inner, hear

    async def register_node(self, node: Node) -> NodeLease:
        """As the inner one."""
        lease = await self._inner.register_node(node)
        await self._hear(lease)
        return lease

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """As the inner one."""
        lease = await self._inner.heartbeat(node_id, secret_id, status)
        await self._hear(lease)
        return lease

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        """As the inner one."""
        return await self._inner.wait_assignments(node_id, secret_id, after, wait_s)

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        """As the inner one."""
        return await self._inner.get_allocs(node_id, secret_id, alloc_ids)

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        """As the inner one."""
        return await self._inner.update_allocs(node_id, secret_id, updates)

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        """As the inner one."""
        await self._inner.emit_node_events(node_id, secret_id, events)
