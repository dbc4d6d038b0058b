"""The leader's table of leases: which node should have been heard of by when, and when it really was.

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
        self._heard: dict[str, int] = {}
        self._broke: dict[str, int] = {}
        # When anybody at all was heard last.
        self.last_heard_ns = 0

    def heard(self, node_id: str, now_ns: int) -> None:
        """The node gave a sign of life, whatever it said and to which server. Its lease stays as it is."""
        self._heard[node_id] = self.last_heard_ns = now_ns

    def connection_broke(self, node_id: str, now_ns: int) -> None:
        """The node's connection to a server ended without a farewell."""
        self._broke[node_id] = now_ns

    def heard_since(self, node_id: str, since_ns: int) -> bool:
        """Whether the node gave a sign of life at or after a moment."""
        return self._heard.get(node_id, since_ns - 1) >= since_ns

    def is_cut_off(self, node_id: str) -> bool:
        """Whether its connection broke and nothing was heard since."""
        broke_ns = self._broke.get(node_id)
        return broke_ns is not None and not self.heard_since(node_id, broke_ns)

    def has_lease(self, node_id: str) -> bool:
        """Whether a lease of the node runs."""
        return node_id in self._deadline

    def tolerate(self, node_id: str, now_ns: int) -> None:
        """Gives a node whose lease ran out, but that was heard of otherwise, time for another beat."""
        self._set(node_id, now_ns + self._config.min_heartbeat_ttl_ns + self._config.heartbeat_grace_ns)

    def overdue(self, now_ns: int) -> list[str]:
        """Nodes that should have beaten by now, be it only that their grace is not over."""
        limit_ns = now_ns + self._config.heartbeat_grace_ns
        return [node_id for node_id, deadline_ns in self._deadline.items() if deadline_ns <= limit_ns]

    def extend(self, by_ns: int) -> None:
        """Moves every lease: this server did not run for so long, and could not have heard anybody."""
        self._deadline = {node_id: deadline_ns + by_ns for node_id, deadline_ns in self._deadline.items()}
        self._heap = [(deadline_ns, node_id) for node_id, deadline_ns in self._deadline.items()]
        heapq.heapify(self._heap)

    def renew(self, node_id: str, now_ns: int) -> float:
        """Starts a new lease; returns within how many seconds the node should beat again."""
        self.heard(node_id, now_ns)
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
        self._heard.pop(node_id, None)
        self._broke.pop(node_id, None)

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
        if len(self._heap) > 2 * len(self._deadline) + 64:
            # Most of it are leases that were renewed long before they ran out.
            self._heap = [(at_ns, name) for name, at_ns in self._deadline.items()]
            heapq.heapify(self._heap)
            return
        heapq.heappush(self._heap, (deadline_ns, node_id))
