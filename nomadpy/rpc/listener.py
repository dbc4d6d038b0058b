"""The port on which other agents call: who comes, what they want, and whether they may.

The first byte of a connection (inside TLS where that is on) says whether raft frames or rpc frames follow. Strangers,
the silent and the too many are closed in bounded time and counted; none of them ends the listener.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
import trio

from nomadpy.model.errors import Forbidden
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.dial import RAFT, RPC, certificate_names, keep_alive
from nomadpy.rpc.frames import Hello, Limits
from nomadpy.rpc.handlers import Handlers
from nomadpy.rpc.peer import Counters, Peer, Timing

log = logging.getLogger(__name__)

# Wanting file descriptors, buffers or memory: better in a moment.
_ACCEPT_PAUSE_S = 0.1
# The same complaint is logged once in so many seconds.
_SAY_AGAIN_S = 60.0
_TLS_HELLO = b"\x16"

ServeRaft = Callable[[trio.abc.Stream, frozenset[str], str], Awaitable[None]]
"""Takes a raft stream (its first byte is gone), the names in its certificate and its address, until it ends."""


class AcceptingTls(Protocol):
    """What listening needs of TLS."""

    def wrap_accepted(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """TLS over a stream; no handshake has been made."""

    def check_server(self, names: frozenset[str]) -> None:
        """Raises Forbidden when a certificate with these names is not one of a server."""

    def explain(self, error: BaseException) -> str:
        """Why a handshake failed."""


class ListenerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Nomad's ``rpc_handshake_timeout`` and ``rpc_max_conns_per_client`` (0: no limit), and a limit for all addresses
    together."""

    handshake_s: float = 5.0
    connections_per_address: int = 100
    connections: int = 16384


class ListenerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What came so far; ``n_open`` is now."""

    n_open: int = 0
    n_accepted: int = 0
    n_raft: int = 0
    n_rpc: int = 0
    n_silent: int = 0
    n_strangers: int = 0
    n_tls_failed: int = 0
    n_too_many: int = 0
    n_accept_errors: int = 0
    n_calls: int = 0
    n_streams: int = 0
    n_malformed: int = 0
    n_refused: int = 0
    n_handler_faults: int = 0


class Listener:
    """Accepts on all ``listeners`` while ``run`` runs. ``handlers`` answer rpc; ``admit(peer)`` raises Forbidden for a
    peer that may not talk. Without ``raft`` (an agent that is no server) raft streams are closed."""

    def __init__(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        hello: Hello,
        handlers: Handlers,
        raft: ServeRaft | None = None,
        tls: AcceptingTls | None = None,
        admit: Callable[[Peer], None] | None = None,
        config: ListenerConfig | None = None,
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._listeners, self._hello, self._handlers = listeners, hello, handlers
        self._raft, self._tls, self._admit = raft, tls, admit
        self._config = config or ListenerConfig()
        self._limits, self._timing = limits, timing
        self._counts: Counter[str] = Counter()
        self._rpc_counters = Counters()
        self._by_address: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def statistics(self) -> ListenerStatistics:
        """The counters at this moment."""
        counts = self._counts + Counter(vars(self._rpc_counters))
        return ListenerStatistics(n_open=self._by_address.total(), **counts)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts until cancelled; the listeners and all connections are closed then."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started()
        finally:
            for listener in self._listeners:
                listener.socket.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                self._counts["n_accept_errors"] += 1
                self._complain("rpc.accept_failed", str(error))
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            nursery.start_soon(self._handle, stream)

    async def _handle(self, stream: trio.SocketStream) -> None:
        """One connection from its beginning to its end. The one place where a fault of the listener itself stops."""
        address = ""
        self._counts["n_accepted"] += 1
        try:
            host, port = stream.socket.getpeername()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if not self._has_room(host):
                self._counts["n_too_many"] += 1
                self._complain("rpc.too_many", f"too many connections from {host}")
                return
            self._by_address[host] += 1
            try:
                keep_alive(stream)
                await self._welcome(stream, address)
            finally:
                self._by_address[host] -= 1
                if not self._by_address[host]:
                    del self._by_address[host]
        except OSError as error:  # it left before it was looked at
            log.debug("rpc.left_early", extra={"fields": {"error": str(error)}})
        except Exception as error:
            log.error("rpc.connection_failed", exc_info=error, extra={"fields": {"address": address}})
        finally:
            await trio.aclose_forcefully(stream)

    def _has_room(self, host: str) -> bool:
        config = self._config
        if 0 < config.connections_per_address <= self._by_address[host]:
            return False
        return not 0 < config.connections <= self._by_address.total()

    async def _welcome(self, plain: trio.SocketStream, address: str) -> None:
        stream: trio.abc.Stream = plain
        kind = b""
        with trio.move_on_after(self._config.handshake_s) as scope:
            try:
                if self._tls is not None:
                    stream = self._tls.wrap_accepted(plain)
                    await stream.do_handshake()
                kind = bytes(await stream.receive_some(1))
            except trio.BrokenResourceError as error:
                if self._tls is not None:
                    self._counts["n_tls_failed"] += 1
                    self._complain("rpc.tls_failed", f"{_host(address)}: {self._tls.explain(error)}")
                return
        if scope.cancelled_caught:
            self._counts["n_silent"] += 1
        elif kind == RPC:
            await self._serve_rpc(stream, address)
        elif kind == RAFT and self._raft is not None:
            await self._serve_raft(self._raft, stream, address)
        elif kind:
            self._counts["n_strangers"] += 1
            hint = ": it speaks TLS, which tls.rpc does not ask for here" if kind == _TLS_HELLO else ""
            self._complain("rpc.stranger", f"{_host(address)} began with the byte {kind.hex()}{hint}")

    async def _serve_rpc(self, stream: trio.abc.Stream, address: str) -> None:
        self._counts["n_rpc"] += 1
        connection = Connection(
            stream,
            hello=self._hello,
            handlers=self._handlers,
            dialed=False,
            address=address,
            certificate_names=certificate_names(stream),
            admit=self._admit,
            timing=self._timing,
            limits=self._limits,
            counters=self._rpc_counters,
        )
        await connection.run()

    async def _serve_raft(self, serve: ServeRaft, stream: trio.abc.Stream, address: str) -> None:
        names = certificate_names(stream)
        if self._tls is not None:
            try:
                self._tls.check_server(names)
            except Forbidden as error:
                self._counts["n_strangers"] += 1
                self._complain("rpc.raft_refused", f"{_host(address)}: {error.message}")
                return
        self._counts["n_raft"] += 1
        await serve(stream, names, address)

    def _complain(self, event: str, what: str) -> None:
        """Logs a nuisance, but not as often as it happens."""
        now_s, key = trio.current_time(), event + what
        if len(self._said) > 256:
            self._said = {key: at for key, at in self._said.items() if now_s - at < _SAY_AGAIN_S}
        if len(self._said) <= 256 and now_s - self._said.get(key, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said[key] = now_s
            log.warning(event, extra={"fields": {"reason": what}})


def _host(address: str) -> str:
    return address.rpartition(":")[0]
