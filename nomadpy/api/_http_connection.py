"""One HTTP connection: the trio part around the request, response and websocket machines.

Two tasks share a connection. The *reader* alone receives bytes and feeds the request machine (or, after an
upgrade, the websocket machine); it goes on reading while the application works, which is how a client that
hangs up is noticed. The *responder* takes exchanges in order, runs the application for each and alone writes
HTTP answers. Time limits are plain attributes that the server's sweep compares with the clock, since a cancel
scope for every read would cost more than the parsing does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import trio

from nomadpy.api._http_calls import HttpCall, WebSocketCall
from nomadpy.api._http_config import HttpConfig
from nomadpy.api._http_machine import Exchange, Limits, Refusal, RequestHead, RequestMachine
from nomadpy.api._http_response import ResponseWriter
from nomadpy.api._websocket import WebSocketMachine, check_handshake, offered_subprotocols

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

READ_BYTES = 1 << 16
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NEVER = math.inf

log = logging.getLogger("nomadpy.api.serve")


class Counters:
    """What the server counts; see ``HttpStatistics`` for the meanings."""

    def __init__(self) -> None:
        self.n_open_connections = 0
        self.n_open_websockets = 0
        self.n_in_flight = 0
        self.n_connections = 0
        self.n_connections_refused = 0
        self.n_requests = 0
        self.n_requests_refused = 0
        self.n_disconnects = 0
        self.n_app_errors = 0
        self.n_bytes_received = 0
        self.n_bytes_sent = 0


class Host(Protocol):
    """What a connection needs from its server."""

    app: AsgiApp
    config: HttpConfig
    limits: Limits
    counters: Counters
    date: bytes


class Peer:
    """Where a connection comes from and arrived at, in the terms of an ASGI scope."""

    def __init__(self, *, client: tuple[str, int] | None, server: tuple[str, int | None] | None, tls: bool) -> None:
        self.client = client
        self.server = server
        self.tls = tls


class HttpConnection:
    """Serves one stream until either side closes it."""

    def __init__(self, host: Host, stream: trio.abc.Stream, peer: Peer) -> None:
        self._host = host
        self._config = host.config
        self._counters = host.counters
        self._stream = stream
        self._peer = peer
        self.machine = RequestMachine(host.limits)
        self._session: WebSocketMachine | None = None
        self._exchange: Exchange | None = None
        self._request_scope: trio.CancelScope | None = None
        self._all_scope: trio.CancelScope | None = None
        self.send_lock = trio.Lock()
        self._changed: trio.Event | None = None
        self._room: trio.Event | None = None
        self.eof = False
        self.closing = False
        self.lingers = False
        self._n_heads_seen = 0
        self._read_deadline_s = _NEVER
        self._write_deadline_s = _NEVER

    async def run(self) -> None:
        """Answer requests until the connection ends; the stream is closed when this returns."""
        self._read_deadline_s = trio.current_time() + self._config.idle_timeout_s
        try:
            async with trio.open_nursery() as nursery:
                self._all_scope = nursery.cancel_scope
                nursery.start_soon(self._read)
                await self._respond()
                await self._linger()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(self._config.linger_timeout_s, shield=True):
                await self._stream.aclose()

    async def refuse(self, refusal: Refusal) -> None:
        """Answer a connection that may not stay, whatever it asks, and close it."""
        self.machine.finished = True
        self.machine.exchanges.append(Exchange(None, refusal))
        await self.run()

    def drain(self) -> None:
        """Take no more requests: close when idle, or after the answers that are due. Any task may call it."""
        self.closing = True
        if self._session is not None:
            self._session.go_away()
        self._notify()

    def expire(self, now_s: float) -> None:
        """Act on the time limits that have passed at ``now_s`` (trio's clock)."""
        if now_s >= self._write_deadline_s:
            self._cut()
        elif now_s >= self._read_deadline_s:
            self._read_deadline_s = _NEVER
            self._read_timed_out()

    # ------------------------------------------------------------------ reading

    async def _read(self) -> None:
        broken = False
        try:
            while True:
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    break
                self._counters.n_bytes_received += len(data)
                if self._session is not None and self._session.accepted:
                    await self._take_frames(data)
                else:
                    self._take(bytes(data))
                if self._is_saturated():
                    await self._wait_for_room()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            broken = True
        self._peer_gone(broken=broken)

    def _take(self, data: bytes) -> None:
        self.machine.receive_data(data)
        exchange = self._exchange
        if exchange is not None and exchange.refusal is not None and self._request_scope is not None:
            self._request_scope.cancel()
        self._set_read_deadline()
        self._notify()

    async def _take_frames(self, data: bytes | bytearray) -> None:
        session = self._session
        assert session is not None
        session.receive_data(bytes(data))
        if session.closed and self._request_scope is not None:
            self._end_request_soon(self._request_scope, broken=False)
        self._notify()
        await self.flush_frames(session)

    async def _wait_for_room(self) -> None:
        """Hold the reader back while the application is behind, so that TCP slows the sender down."""
        while not self.closing and not self.lingers and self._is_saturated():
            self._read_deadline_s = _NEVER
            self._room = trio.Event()
            await self._room.wait()
        self._set_read_deadline()

    def _is_saturated(self) -> bool:
        if self._session is not None and self._session.accepted:
            return self._session.saturated
        return self.machine.saturated

    def _peer_gone(self, *, broken: bool) -> None:
        self.eof = True
        self.machine.receive_eof()
        if self._session is not None:
            self._session.receive_eof()
        if self._request_scope is not None:
            self._end_request_soon(self._request_scope, broken=broken)
        self._notify()

    def _end_request_soon(self, scope: trio.CancelScope, *, broken: bool) -> None:
        grace_s = 0.0 if broken else self._config.disconnect_grace_s
        scope.deadline = min(scope.deadline, trio.current_time() + grace_s)

    # ------------------------------------------------------------------ time limits

    def _set_read_deadline(self) -> None:
        """Choose what the peer is waited for: the rest of a head, the rest of a body, or nothing."""
        machine = self.machine
        if machine.in_head:
            if machine.n_heads_begun != self._n_heads_seen:
                self._n_heads_seen = machine.n_heads_begun
                self._read_deadline_s = trio.current_time() + self._config.header_timeout_s
        elif machine.in_body:
            self._read_deadline_s = trio.current_time() + self._config.body_timeout_s
        elif self._exchange is not None or machine.exchanges:
            self._read_deadline_s = _NEVER

    def _read_timed_out(self) -> None:
        machine = self.machine
        if machine.in_head:
            machine.refuse(408, "Request headers did not arrive in time")
        elif machine.in_body:
            machine.refuse(408, "Request body did not arrive in time")
            if self._request_scope is not None:
                self._request_scope.cancel()
        else:
            self.closing = True
        self._notify()

    def _cut(self) -> None:
        if self._all_scope is not None:
            self._all_scope.cancel()

    # ------------------------------------------------------------------ waiting

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
        self.make_room()

    def make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    async def wait_change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def _next_exchange(self) -> Exchange | None:
        machine = self.machine
        while not machine.exchanges:
            if machine.finished or self.closing:
                return None
            await self.wait_change()
        exchange = machine.exchanges.popleft()
        self.make_room()
        return exchange

    # ------------------------------------------------------------------ answering

    async def _respond(self) -> None:
        while True:
            exchange = await self._next_exchange()
            if exchange is None:
                return
            self._exchange = exchange
            if exchange.refusal is not None or exchange.head is None:
                await self._refuse(exchange.refusal)
                return
            if exchange.head.wants_websocket:
                await self._run_websocket(exchange.head)
                return
            goes_on = await self._run_http(exchange, exchange.head)
            self._exchange = None
            if not goes_on:
                return
            if not self.machine.exchanges and not self.machine.in_head:
                self._read_deadline_s = trio.current_time() + (
                    self._config.body_timeout_s if self.machine.in_body else self._config.idle_timeout_s
                )

    async def _refuse(self, refusal: Refusal | None) -> None:
        assert refusal is not None
        self._counters.n_requests_refused += 1
        self.lingers = True
        headers = [(b"sec-websocket-version", b"13")] if refusal.status == 426 else None
        await self.write(self.writer(None).refuse(refusal, headers=headers))

    async def _run_http(self, exchange: Exchange, head: RequestHead) -> bool:
        """Run the application for one request; true when the connection can carry another."""
        writer = self.writer(head)
        call = HttpCall(self, exchange, head, writer)
        failed = await self._run_app(self._http_scope(head), call.receive, call.send)
        if self._write_deadline_s != _NEVER:
            # A write was cut short, so nothing behind it would be understood.
            return False
        if exchange.refusal is not None and not writer.started:
            await self._refuse(exchange.refusal)
            return False
        if not writer.started and not self.eof:
            if not failed:
                log.error("http.app_gave_no_response", extra={"method": head.method, "path": head.path})
                self._counters.n_app_errors += 1
            await self.write(writer.plain(500, "Internal Server Error"))
        if not writer.complete:
            # The peer sees a cut connection: a tidy end would pass the fragment off as the whole.
            return False
        return self._finish_body(exchange, call) and writer.keep_alive

    async def _run_websocket(self, head: RequestHead) -> None:
        """Run the application for one upgrade; the connection ends with it."""
        refusal = check_handshake(head)
        if refusal is not None:
            await self._refuse(refusal)
            return
        self._session = WebSocketMachine(head, max_message_bytes=self._config.max_websocket_message_bytes)
        call = WebSocketCall(self, self._session, self.writer(head))
        scope = self._http_scope(head)
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if self._peer.tls else "ws"
        scope["subprotocols"] = offered_subprotocols(head)
        scope["extensions"] = {"websocket.http.response": {}}
        del scope["method"]
        self._counters.n_open_websockets += 1
        try:
            failed = await self._run_app(scope, call.receive, call.send)
            await call.finish(failed=failed)
        finally:
            self._counters.n_open_websockets -= 1
        self.lingers = True

    async def flush_frames(self, session: WebSocketMachine) -> None:
        """Write what the session owes the peer; the lock keeps frames of two tasks apart."""
        while session.outbox:
            async with self.send_lock:
                frames = b"".join(session.outbox)
                session.outbox.clear()
                if frames:
                    await self.write(frames)

    def _finish_body(self, exchange: Exchange, call: HttpCall) -> bool:
        """Arrange for the unread rest of the request's body; true when the next request can be found."""
        if not exchange.body_complete:
            if call.awaits_continue or exchange.refusal is not None or exchange.aborted:
                self.lingers = True
                return False
            self.machine.discard_body(exchange)
            self.lingers = True  # in case the rest is too long and the connection closes
        elif exchange.body:
            self.machine.discard_body(exchange)
        self.make_room()
        return True

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Run the application until it ends or its client is gone; true when it failed.

        The one place where an application's exceptions stop: they are logged and the agent lives on.
        """
        counters = self._counters
        counters.n_requests += 1
        counters.n_in_flight += 1
        try:
            with trio.CancelScope() as self._request_scope:
                if self.eof:
                    self._end_request_soon(self._request_scope, broken=False)
                await self._host.app(scope, receive, send)
            if self._request_scope.cancelled_caught:
                counters.n_disconnects += 1
        except Exception as error:
            counters.n_app_errors += 1
            log.error(
                "http.app_failed",
                exc_info=error,
                extra={"method": scope.get("method", "WEBSOCKET"), "path": scope["path"]},
            )
            return True
        finally:
            self._request_scope = None
            counters.n_in_flight -= 1
        return False

    async def _linger(self) -> None:
        """Read the peer out for a moment, so that its kernel does not throw our last answer away.

        A socket closed with unread input sends a reset, which overtakes the answer (RFC 9112 §9.6).
        """
        if not self.lingers or self.eof:
            return
        self.make_room()
        self._write_deadline_s = trio.current_time() + self._config.write_timeout_s
        with trio.move_on_after(self._config.linger_timeout_s):
            try:
                # The reader may still be writing the answer to a ping or a close.
                async with self.send_lock:
                    if isinstance(self._stream, trio.abc.HalfCloseableStream):
                        await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            while not self.eof:
                await self.wait_change()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to the peer; when it is gone, the request is cancelled instead of an error raised."""
        self._write_deadline_s = trio.current_time() + self._config.write_timeout_s
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.closing = True
            self._peer_gone(broken=True)
            await trio.lowlevel.checkpoint()
            return
        self._write_deadline_s = _NEVER
        self._counters.n_bytes_sent += len(data)

    def writer(self, head: RequestHead | None) -> ResponseWriter:
        return ResponseWriter(head, date=self._host.date, compress_min_bytes=self._config.compress_min_bytes)

    def _http_scope(self, head: RequestHead) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.http_version,
            "method": head.method,
            "scheme": "https" if self._peer.tls else "http",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query_string,
            "root_path": "",
            "headers": head.headers,
            "client": self._peer.client,
            "server": self._peer.server,
            "extensions": {},
        }
