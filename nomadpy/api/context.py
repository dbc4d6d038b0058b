"""What the agent hands to its HTTP face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from nomadpy.api.forward import Forwarding
from nomadpy.rpc.contract import ClientEndpoint
from nomadpy.server.server import Server


class MonitorSource(Protocol):
    """Where ``/v1/agent/monitor`` gets its lines from."""

    def follow(
        self, level: str, *, as_json: bool, include_location: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Log lines of at least the level, as they are written. Raises Invalid for an unknown level."""


def _nothing() -> None:
    return None


class ApiContext(msgspec.Struct, kw_only=True):
    """The parts of this agent. ``config`` is its configuration in the shape of ``/v1/agent/self``."""

    region: str = "global"
    node_name: str = ""
    server: Server | None = None
    client: ClientEndpoint | None = None
    config: dict[str, Any] = {}
    member: dict[str, Any] = {}
    version: str = ""
    monitor: MonitorSource | None = None
    stats: Callable[[], dict[str, dict[str, str]]] = dict
    response_headers: dict[str, str] = {}
    prometheus_enabled: bool = False
    forwarding: Forwarding | None = None  # None for an agent that has no others
    reload: Callable[[], None] = _nothing
