"""Keeps the node known and alive at the servers: registers, then beats as the lease asks."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from nomadpy.client.heartbeat import retry_delay_s
from nomadpy.client.ports import Ports
from nomadpy.model.errors import Forbidden, NoLeader, NomadError, NotFound
from nomadpy.model.node import INITIALIZING, READY
from nomadpy.rpc.contract import NodeLease, ServerEndpoint

log = logging.getLogger(__name__)

_REGISTER_RETRY_S = (0.25, 20.0)
_FORBIDDEN_RETRY_S = 30.0
_PUSH_DELAY_S = 5.0
_ADMISSION_S = 1.0  # between beats of a node that the servers do not call ready yet
_LATE_S = 1.0  # a beat that is later than this beyond its lease may have cost the node its allocations


class Registration:
    """Runs for the life of the client. ``registered`` is set once the servers know the node and call it ready."""

    def __init__(
        self,
        server: ServerEndpoint,
        ports: Ports,
        *,
        on_lease: Callable[[NodeLease], None],
        on_silence: Callable[[float], None],
        on_return: Callable[[], None],
    ) -> None:
        self.registered = trio.Event()
        self._server = server
        self._ports = ports
        self._on_lease = on_lease  # hears of every first lease after a registration
        self._on_silence = on_silence  # hears, after a failed beat, for how many seconds no server answered
        self._on_return = on_return  # hears that servers answer again after the lease had run out
        self._changed = trio.Event()
        self._last_beat_s: float | None = None
        self._began_s = 0.0
        self._lease = NodeLease()

    def node_changed(self) -> None:
        """The node's facts differ from what the servers know; they hear of it within seconds."""
        self._changed.set()

    async def run(self) -> None:
        """Registers and beats for ever."""
        self._began_s = trio.current_time()
        while True:
            await self._register_patiently()
            await self._beat_until_unknown()

    async def _register_patiently(self) -> None:
        retry_s = _REGISTER_RETRY_S[0]
        while True:
            try:
                await self._register()
                return
            except Forbidden as error:
                log.error("node.refused", extra={"fields": {"error": error.message}})
                await trio.sleep(_FORBIDDEN_RETRY_S)
            except NomadError as error:
                self._tell_silence()
                fields = {"error": error.message, "retry_s": round(retry_s, 2)}
                log.warning("node.not_registered", extra={"fields": fields})
                await trio.sleep(retry_s * self._ports.rng.uniform(0.75, 1.25))
                retry_s = min(retry_s * 2, _REGISTER_RETRY_S[1])

    async def _register(self) -> None:
        self._changed = trio.Event()
        node = self._ports.node
        lease = await self._server.register_node(node)
        self._on_lease(lease)
        self._answered(await self._server.heartbeat(node.id, node.secret_id, READY))
        log.info("node.registered", extra={"fields": {"node": node.id, "ttl_s": self._lease.heartbeat_ttl_s}})
        self.registered.set()

    async def _beat_until_unknown(self) -> None:
        """Returns when the node must be registered anew."""
        delay_s = self._next_beat_s()
        while True:
            with trio.move_on_after(delay_s):
                await self._changed.wait()
                await trio.sleep(_PUSH_DELAY_S)
                return
            try:
                self._answered(await self._server.heartbeat(self._ports.node.id, self._ports.node.secret_id, READY))
                delay_s = self._next_beat_s()
            except NotFound:
                log.warning("node.unknown_to_servers", extra={"fields": {"node": self._ports.node.id}})
                return
            except NomadError as error:
                delay_s = self._retry_delay_s(error)
                self._tell_silence()
                fields = {"error": error.message, "code": error.code, "retry_s": round(delay_s, 1)}
                log.warning("node.heartbeat_failed", extra={"fields": fields})

    def _next_beat_s(self) -> float:
        ttl_s = self._lease.heartbeat_ttl_s
        return min(ttl_s, _ADMISSION_S) if self._lease.status == INITIALIZING else ttl_s

    def _answered(self, lease: NodeLease) -> None:
        now_s = trio.current_time()
        was_late = self._last_beat_s is not None and now_s - self._last_beat_s > self._lease.heartbeat_ttl_s + _LATE_S
        self._lease, self._last_beat_s = lease, now_s
        if was_late or lease.status == INITIALIZING:
            # Servers that lost sight of the node let it take part once it has told what runs on it.
            self._on_return()

    def _retry_delay_s(self, error: NomadError) -> float:
        left_s = None
        if self._last_beat_s is not None:
            left_s = self._last_beat_s + self._lease.heartbeat_ttl_s - trio.current_time()
        return retry_delay_s(self._ports.rng, left_s=left_s, has_leader=not isinstance(error, NoLeader))

    def _tell_silence(self) -> None:
        since_s = self._began_s if self._last_beat_s is None else self._last_beat_s
        self._on_silence(trio.current_time() - since_s)
