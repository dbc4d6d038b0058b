"""A running HTTP server for tests, and a raw client for it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from nomadpy.api.serve import HttpConfig, HttpServer, TlsFiles, TlsListener, serve

QUICK = HttpConfig(disconnect_grace_s=0.05, drain_timeout_s=2, linger_timeout_s=0.3)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Site:
    """A running server and how to reach it."""

    def __init__(self, server: HttpServer, port: int, scope: trio.CancelScope) -> None:
        self.server = server
        self.port = port
        self.scope = scope

    async def connect(self) -> Peer:
        return Peer(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes back until the server closes; our sending half is closed at once."""
        async with await self.connect() as peer:
            await peer.send(data)
            await peer.stream.send_eof()
            return await peer.rest()


class Peer:
    """A raw client."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._buffer = b""

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            data = await self.stream.receive_some()
            assert data, f"closed before {end!r}: {self._buffer!r}"
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    async def rest(self) -> bytes:
        while data := await self.stream.receive_some():
            self._buffer += data
        return self._buffer

    async def response(self) -> tuple[int, bytes]:
        """The status and the body of a response that has a Content-Length."""
        head = await self.until(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(self._buffer) < length:
            self._buffer += await self.stream.receive_some()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(head[9:12]), body


@asynccontextmanager
async def site(app: Any, config: HttpConfig = QUICK, *, tls: TlsFiles | None = None) -> AsyncIterator[Site]:
    with trio.fail_after(20):
        listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        if tls is not None:
            listeners = [TlsListener(listeners[0], tls)]
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(serve, app, listeners, config=config))
            yield Site(server, port, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)
