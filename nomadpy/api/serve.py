"""The HTTP/1.1 and websocket server: runs an ASGI 3 application on trio listeners.

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(4646, host="127.0.0.1")
        server = await nursery.start(functools.partial(serve, app, listeners, config=HttpConfig()))
        ...
        nursery.cancel_scope.cancel()      # drains, then returns

The dangerous parts are other people's parsers (llhttp, wsproto); the rules stand in synchronous machines
(``_http_machine``, ``_http_response``, ``_websocket``); ``_http_connection`` moves bytes between them and a
stream; this file accepts, counts, sweeps the time limits and drains.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import trio

from nomadpy.api._http_config import HttpConfig, HttpStatistics
from nomadpy.api._http_connection import AsgiApp, Counters, HttpConnection, Peer
from nomadpy.api._http_machine import Refusal
from nomadpy.api._tls import TlsFiles, TlsListener
from nomadpy.model.errors import Invalid

__all__ = ["AsgiApp", "HttpConfig", "HttpServer", "HttpStatistics", "TlsFiles", "TlsListener", "serve"]

log = logging.getLogger(__name__)

_TOO_MANY_FROM_ADDRESS = Refusal(
    status=429, text="Your IP is issuing too many concurrent connections, please rate limit your calls"
)
_TOO_MANY = Refusal(status=503, text="Too many concurrent connections, try again later")
# Connections being told that they may not stay. Beyond this they are closed without a word.
_MAX_REFUSING = 64


async def serve(
    app: AsgiApp,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    config: HttpConfig | None = None,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on all listeners until cancelled; ``task_status`` gets the running ``HttpServer``.

    Cancellation closes the listeners and idle connections at once, and lets requests in flight end within
    ``config.drain_timeout_s``. The listeners are closed when this returns.

    Raises:
        Invalid: the configuration cannot work.
    """
    config = config or HttpConfig()
    problems = config.check()
    if problems:
        raise Invalid("HTTP server configuration: " + "; ".join(problems))
    server = HttpServer(app, listeners, config)
    async with trio.open_nursery() as nursery:
        connections: trio.Nursery = await nursery.start(server.host_connections)
        task_status.started(server)
        try:
            await trio.serve_listeners(server.handle, list(listeners), handler_nursery=connections)
        finally:
            server.drain()


class HttpServer:
    """One running server. Reached from other tasks for ``statistics`` and ``reload_tls``."""

    def __init__(self, app: AsgiApp, listeners: Sequence[trio.abc.Listener[Any]], config: HttpConfig) -> None:
        self.app = app
        self.config = config
        self.limits = config.limits()
        self.counters = Counters()
        self.date = b""
        self._listeners = listeners
        self._connections: set[HttpConnection] = set()
        self._n_by_address: Counter[str] = Counter()
        self._n_refusing = 0
        self._shelter = trio.CancelScope(shield=True)
        self._draining = trio.Event()

    def statistics(self) -> HttpStatistics:
        """The counters at this moment."""
        return HttpStatistics(**{name: getattr(self.counters, name) for name in HttpStatistics.__struct_fields__})

    def reload_tls(self) -> None:
        """Read the certificates of all TLS listeners again; open connections keep theirs.

        Raises:
            Invalid: some files cannot be used; those listeners keep the certificate they had.
        """
        for listener in self._listeners:
            if isinstance(listener, TlsListener):
                listener.reload()

    async def host_connections(self, task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery of all connections; it outlives cancellation by the drain."""
        with self._shelter:
            async with trio.open_nursery() as nursery:
                self.date = _http_date()
                nursery.start_soon(self._sweep)
                task_status.started(nursery)
                await self._draining.wait()

    def drain(self) -> None:
        """Let the open connections end: idle ones now, busy ones within the drain time."""
        self._shelter.deadline = trio.current_time() + self.config.drain_timeout_s
        self._draining.set()
        for connection in self._connections:
            connection.drain()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted stream. The one place where a fault of the server itself stops."""
        try:
            await self._admit(stream)
        except Exception as error:
            log.error("http.connection_failed", exc_info=error)
        finally:
            await trio.aclose_forcefully(stream)

    # ------------------------------------------------------------------ admission

    async def _admit(self, stream: trio.abc.Stream) -> None:
        peer = _peer(stream)
        counters = self.counters
        counters.n_connections += 1
        address = peer.client[0] if peer.client else ""
        refusal = self._reason_to_refuse(address)
        if refusal is not None:
            counters.n_connections_refused += 1
            await self._turn_away(stream, peer, refusal)
            return
        counters.n_open_connections += 1
        self._n_by_address[address] += 1
        try:
            if await self._shake_hands(stream):
                await self._run(HttpConnection(self, stream, peer))
        finally:
            counters.n_open_connections -= 1
            self._n_by_address[address] -= 1
            if not self._n_by_address[address]:
                del self._n_by_address[address]

    def _reason_to_refuse(self, address: str) -> Refusal | None:
        config = self.config
        if address and 0 < config.max_connections_per_address <= self._n_by_address[address]:
            return _TOO_MANY_FROM_ADDRESS
        if 0 < config.max_connections <= self.counters.n_open_connections:
            return _TOO_MANY
        return None

    async def _turn_away(self, stream: trio.abc.Stream, peer: Peer, refusal: Refusal) -> None:
        if self._n_refusing >= _MAX_REFUSING:
            return
        self._n_refusing += 1
        try:
            if await self._shake_hands(stream):
                await HttpConnection(self, stream, peer).refuse(refusal)
        finally:
            self._n_refusing -= 1

    async def _shake_hands(self, stream: trio.abc.Stream) -> bool:
        if not isinstance(stream, trio.SSLStream):
            return True
        with trio.move_on_after(self.config.tls_handshake_timeout_s):
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                log.debug("http.tls_handshake_failed", extra={"reason": str(error.__cause__)})
                return False
            return True
        return False

    async def _run(self, connection: HttpConnection) -> None:
        self._connections.add(connection)
        if self._draining.is_set():
            connection.drain()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    # ------------------------------------------------------------------ time

    async def _sweep(self) -> None:
        """Hold every connection to its time limits, a few times within the shortest of them."""
        config = self.config
        shortest_s = min(config.header_timeout_s, config.body_timeout_s, config.idle_timeout_s, config.write_timeout_s)
        interval_s = min(1.0, max(0.02, shortest_s / 4))
        while not (self._draining.is_set() and not self._connections):
            with trio.move_on_after(interval_s):
                if self._draining.is_set():
                    await trio.sleep(min(interval_s, 0.02))
                else:
                    await self._draining.wait()
            now_s = trio.current_time()
            self.date = _http_date()
            for connection in list(self._connections):
                connection.expire(now_s)


def _http_date() -> bytes:
    return formatdate(usegmt=True).encode("ascii")


def _peer(stream: trio.abc.Stream) -> Peer:
    tls = isinstance(stream, trio.SSLStream)
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(transport, trio.SocketStream):
        return Peer(client=None, server=None, tls=tls)
    sock = transport.socket
    try:
        here, there = sock.getsockname(), sock.getpeername()
    except OSError:  # the peer left between accept and now
        return Peer(client=None, server=None, tls=tls)
    if sock.family == socket.AF_UNIX:
        path = here.decode("utf-8", "replace") if isinstance(here, bytes) else str(here)
        return Peer(client=None, server=(path, None), tls=tls)
    return Peer(client=(there[0], there[1]), server=(here[0], here[1]), tls=tls)
