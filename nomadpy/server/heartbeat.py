"""The leader's table of leases: which node should have been heard of by when.

Source: Nomad's rule, TTL = max(minimum, nodes / heartbeats per second) plus a random part as large again, and a grace
on top before a node counts as lost.
"""

from __future__ import annotations

import heapq
import random

from nomadpy.model.time import SECOND
from nomadpy.server.config import ServerConfig


class Heartbeats:
    """A machine on the monotonic clock, in nanoseconds."""

    def __init__(self, config: ServerConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._deadline: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def renew(self, node_id: str, now_ns: int) -> float:
        """Starts a new lease; returns within how many seconds the node should beat again."""
        rate = self._config.max_heartbeats_per_second
        base_ns = max(self._config.min_heartbeat_ttl_ns, int((len(self._deadline) + 1) / rate * SECOND))
        ttl_ns = base_ns + int(self._rng.random() * base_ns)
        self._set(node_id, now_ns + ttl_ns + self._config.heartbeat_grace_ns)
        return ttl_ns / SECOND

    def expect(self, node_ids: list[str], now_ns: int) -> None:
        """Gives nodes that were alive before this server led a long first lease, so that none is lost too early."""
        for node_id in node_ids:
            self._set(node_id, now_ns + self._config.failover_heartbeat_ttl_ns)

    def forget(self, node_id: str) -> None:
        """The node is down or gone; nothing more is expected of it."""
        self._deadline.pop(node_id, None)

    def expired(self, now_ns: int) -> list[str]:
        """Nodes whose lease has run out; they are forgotten."""
        out = []
        while self._heap and self._heap[0][0] <= now_ns:
            deadline, node_id = heapq.heappop(self._heap)
            if self._deadline.get(node_id) == deadline:
                del self._deadline[node_id]
                out.append(node_id)
        return out

    def next_deadline(self) -> int | None:
        """When ``expired`` will next have something to say."""
        while self._heap and self._deadline.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def n_active(self) -> int:
        """How many nodes hold a lease."""
        return len(self._deadline)

    def _set(self, node_id: str, deadline_ns: int) -> None:
        self._deadline[node_id] = deadline_ns
        heapq.heappush(self._heap, (deadline_ns, node_id))
