"""The ``receive`` and ``send`` that an ASGI application is called with, for requests and for websockets."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

import trio

from nomadpy.api._http_machine import Exchange, Refusal, RequestHead, RequestMachine
from nomadpy.api._http_response import ResponseError, ResponseWriter
from nomadpy.api._websocket import WebSocketMachine

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT = {"type": "http.disconnect"}


class Wire(Protocol):
    """What a call needs from its connection."""

    machine: RequestMachine
    eof: bool
    closing: bool
    send_lock: trio.Lock

    async def write(self, data: bytes | bytearray | memoryview) -> None: ...

    async def wait_change(self) -> None: ...

    async def flush_frames(self, session: WebSocketMachine) -> None: ...

    def make_room(self) -> None: ...


class HttpCall:
    """One request as the application sees it."""

    __slots__ = ("_delivered", "_exchange", "_wire", "_writer", "awaits_continue")

    def __init__(self, wire: Wire, exchange: Exchange, head: RequestHead, writer: ResponseWriter) -> None:
        self._wire = wire
        self._exchange = exchange
        self._writer = writer
        self._delivered = False
        self.awaits_continue = head.expects_continue

    async def receive(self) -> dict[str, Any]:
        """The next piece of the body, or ``http.disconnect`` once there is nothing more to come."""
        exchange = self._exchange
        while True:
            if exchange.body or (exchange.body_complete and not self._delivered):
                self.awaits_continue = False
                data = self._wire.machine.take_body(exchange)
                self._delivered = exchange.body_complete
                self._wire.make_room()
                return {"type": "http.request", "body": data, "more_body": not exchange.body_complete}
            if exchange.refusal is not None:
                # The request has been cancelled already; only a shielded application gets further than this.
                await trio.lowlevel.checkpoint()
            if exchange.aborted or exchange.refusal is not None or self._writer.complete or self._wire.eof:
                return dict(_DISCONNECT)
            if self.awaits_continue and not self._writer.started:
                self.awaits_continue = False
                await self._wire.write(_CONTINUE)
                continue
            await self._wire.wait_change()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Write one message of the response; returns when the kernel has taken it, which is the back-pressure.

        Raises:
            ResponseError: the message breaks the rules.
        """
        writer = self._writer
        if self._exchange.refusal is not None and not writer.started:
            # The server's own answer takes the place of one that was made from half a request.
            await trio.lowlevel.checkpoint()
            return
        if self._wire.closing or (self.awaits_continue and not writer.started):
            # A client that was never told to go on may or may not send its body, so nothing can follow.
            writer.keep_alive = False
        for piece in writer.send(message):
            await self._wire.write(piece)


class WebSocketCall:
    """One websocket as the application sees it."""

    def __init__(self, wire: Wire, session: WebSocketMachine, writer: ResponseWriter) -> None:
        self._wire = wire
        self._session = session
        self._writer = writer
        self._writer.keep_alive = False

    async def receive(self) -> dict[str, Any]:
        """The next message; after the end always ``websocket.disconnect``."""
        while not self._session.inbox:
            await self._wire.wait_change()
        message = self._session.take()
        self._wire.make_room()
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Accept, refuse, send or close; after the peer has closed, nothing happens.

        Raises:
            ResponseError: the message breaks the rules.
        """
        session = self._session
        if session.accepted:
            async with self._wire.send_lock:
                frame = session.send(message)
                if frame:
                    await self._wire.write(frame)
        elif message["type"] == "websocket.accept":
            await self._accept(message)
        elif message["type"] == "websocket.close":
            session.closed = True
            await self._wire.write(self._writer.refuse(Refusal(status=403, text="Forbidden")))
        elif message["type"].startswith("websocket.http.response."):
            session.closed = True
            plain = {**message, "type": message["type"].removeprefix("websocket.")}
            for piece in self._writer.send(plain):
                await self._wire.write(piece)
        else:
            raise ResponseError(f"{message['type']} before websocket.accept")

    async def finish(self, *, failed: bool) -> None:
        """End what the application left open."""
        session = self._session
        if not session.accepted:
            if not self._writer.started:
                answer = Refusal(status=500, text="Internal Server Error")
                await self._wire.write(self._writer.refuse(answer))
        elif not session.closed:
            code = 1011 if failed else 1001 if self._wire.closing else 1000
            await self.send({"type": "websocket.close", "code": code})

    async def _accept(self, message: MutableMapping[str, Any]) -> None:
        session = self._session
        async with self._wire.send_lock:
            await self._wire.write(session.accept(message))
        early = self._wire.machine.upgraded
        while early:
            session.receive_data(early.popleft())
        self._wire.make_room()
        await self._wire.flush_frames(session)
