"""What the agent hands to its HTTP face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from nomadpy.api.forward import Forwarding
from nomadpy.gossip.contract import Gossip
from nomadpy.gossip.driver import Statistics as GossipStatistics
from nomadpy.rpc.contract import ClientEndpoint
from nomadpy.rpc.listener import ListenerStatistics
from nomadpy.server.server import Server


class MonitorSource(Protocol):
    """Where ``/v1/agent/monitor`` gets its lines from."""

    def follow(
        self, level: str, *, as_json: bool, include_location: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Log lines of at least the level, as they are written. Raises Invalid for an unknown level."""


def _nothing() -> None:
    return None


class ClientServers(Protocol):
    """The servers that the agent's client knows."""

    def servers(self) -> tuple[str, ...]:
        """Their addresses, the one in use first."""

    def set_servers(self, addresses: list[str]) -> None:
        """Replaces them. Raises Invalid when an address is none, or when this client cannot have others."""


class ApiContext(msgspec.Struct, kw_only=True):
    """The parts of this agent. ``config`` is its configuration in the shape of ``/v1/agent/self``."""

    region: str = "global"
    node_name: str = ""
    server: Server | None = None
    client: ClientEndpoint | None = None
    config: dict[str, Any] = {}
    version: str = ""
    monitor: MonitorSource | None = None
    stats: Callable[[], dict[str, dict[str, str]]] = dict
    response_headers: dict[str, str] = {}
    prometheus_enabled: bool = False
    forwarding: Forwarding | None = None  # None for an agent that has no others
    reload: Callable[[], None] = _nothing
    gossip: Gossip | None = None  # None for an agent that has no others
    gossip_statistics: Callable[[], GossipStatistics] | None = None
    listener_statistics: Callable[[], ListenerStatistics] | None = None
    loop_lag: Callable[[], dict[str, float]] = dict  # quantile → how late the event loop is, in ms
    leader_address: Callable[[], str] = str
    client_servers: ClientServers | None = None
