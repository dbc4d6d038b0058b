"""Websockets over real sockets, with wsproto's client as the peer."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import wsproto
import wsproto.events as ws
from hypothesis import given
from hypothesis import strategies as st
from serving import QUICK, Site, eventually, site
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from nomadpy.api._http_machine import RequestHead
from nomadpy.api._websocket import WebSocketMachine
from nomadpy.api.serve import HttpConfig

KEY = (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")
HANDSHAKE = b"\r\n".join(
    [
        b"GET /ws?x=1 HTTP/1.1",
        b"Host: a",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: WebSocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        b"",
        b"",
    ]
)


class WebSocketPeer:
    """A client session."""

    def __init__(self, stream: trio.SocketStream, subprotocols: list[str]) -> None:
        self.stream = stream
        self.wire = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._request = ws.Request(host="a", target="/ws?x=1", subprotocols=subprotocols)
        self._events: list[Any] = []

    async def open(self) -> Any:
        await self.stream.send_all(self.wire.send(self._request))
        return await self.event()

    async def send(self, event: Any) -> None:
        await self.stream.send_all(self.wire.send(event))

    async def event(self) -> Any:
        while not self._events:
            data = await self.stream.receive_some()
            self.wire.receive_data(data or None)
            self._events += self.wire.events()
        return self._events.pop(0)


@asynccontextmanager
async def session(here: Site, *subprotocols: str) -> AsyncIterator[WebSocketPeer]:
    async with await trio.open_tcp_stream("127.0.0.1", here.port) as stream:
        yield WebSocketPeer(stream, list(subprotocols))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [(b"x-extra", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked to"})
            return
        await send({**message, "type": "websocket.send"})


async def test_text_and_bytes_come_back() -> None:
    async with site(echo) as here, session(here) as peer:
        assert isinstance(await peer.open(), ws.AcceptConnection)
        for event in (ws.TextMessage(data="ä" * 70_000), ws.BytesMessage(data=b"\0\xff"), ws.TextMessage(data="")):
            await peer.send(event)
            back = await peer.event()
            while not back.message_finished:
                more = await peer.event()
                back = type(back)(data=back.data + more.data, message_finished=more.message_finished)
            assert back.data == event.data
        assert here.server.statistics().n_open_websockets == 1


async def test_pings_are_answered_while_the_application_is_silent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await trio.sleep(math.inf)

    async with site(app) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.Ping(payload=b"are you there"))
        assert await peer.event() == ws.Pong(payload=b"are you there")


async def test_fragments_become_one_message() -> None:
    async with site(echo) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.TextMessage(data="a", message_finished=False))
        await peer.send(ws.Ping())
        await peer.send(ws.TextMessage(data="b"))
        assert await peer.event() == ws.Pong()
        assert (await peer.event()).data == "ab"


async def test_the_application_closes_with_its_code() -> None:
    async with site(echo) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.TextMessage(data="close"))
        closed = await peer.event()
        assert (closed.code, closed.reason) == (4001, "asked to")
        await peer.send(closed.response())
        await eventually(lambda: here.server.statistics().n_open_connections == 0)


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4002, 4002), (1001, 1001)])
async def test_the_application_learns_the_peers_code(code: int, seen: int) -> None:
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        messages.extend([await receive(), await receive()])
        await send({"type": "websocket.send", "text": "into the void"})

    async with site(app) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.CloseConnection(code=code, reason="bye"))
        assert (await peer.event()).code == code
        await eventually(lambda: here.server.statistics().n_open_connections == 0)
        assert here.server.statistics().n_app_errors == 0
    assert [(m["type"], m["code"], m["reason"]) for m in messages] == [("websocket.disconnect", seen, "bye")] * 2


async def test_a_vanished_peer_ends_the_application() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        seen.append((await receive())["code"])
        await trio.sleep(math.inf)

    async with site(app) as here:
        async with session(here) as peer:
            await peer.open()
        await eventually(lambda: here.server.statistics().n_open_websockets == 0)
    assert seen == [1006]


async def test_too_long_a_message_closes_with_1009() -> None:
    config = HttpConfig(max_websocket_message_bytes=1000, linger_timeout_s=0.1)
    async with site(echo, config) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.TextMessage(data="x" * 1001))
        assert (await peer.event()).code == 1009


async def test_a_broken_frame_closes_with_1002() -> None:
    async with site(echo) as here, session(here) as peer:
        await peer.open()
        await peer.stream.send_all(b"\xff\xff\xff\xff")
        assert (await peer.event()).code == 1002


async def test_a_failing_application_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("broken on purpose")

    async with site(app) as here, session(here) as peer:
        await peer.open()
        assert (await peer.event()).code == 1011
    assert [record.getMessage() for record in caplog.records] == ["http.app_failed"]


async def test_subprotocols_are_chosen_from_the_offer() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await send({"type": "websocket.accept", "subprotocol": "b"})

    async with site(app) as here, session(here, "a", "b") as peer:
        assert (await peer.open()).subprotocol == "b"
        assert (await peer.event()).code == 1000
    (scope,) = scopes
    assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == ("websocket", "ws", "/ws", b"x=1")
    assert scope["subprotocols"] == ["a", "b"]


async def test_an_upgrade_can_be_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    async def telling(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"who are you"})

    for application, status in ((app, 403), (telling, 401)):
        async with site(application) as here, session(here) as peer:
            assert (await peer.open()).status_code == status


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 426),
        (b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"X: y", 400),
        (b"AAAA==", b"AA", 400),
        (b"AAAA==", b"\xff\xff", 400),
        (b"HTTP/1.1", b"HTTP/1.0", 400),
    ],
)
async def test_broken_handshakes_are_refused(old: bytes, new: bytes, status: int) -> None:
    async with site(echo) as here:
        assert (await here.ask(HANDSHAKE.replace(old, new))).startswith(b"HTTP/1.1 %d " % status)


async def test_frames_sent_before_the_upgrade_is_granted_are_not_lost() -> None:
    client = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
    async with site(echo) as here, await here.connect() as peer:
        await peer.send(HANDSHAKE + bytes(client.send(ws.TextMessage(data="early"))))
        await peer.until(b"\r\n\r\n")
        assert await peer.until(b"early") == b"\x81\x05early"


async def test_starlette_runs_on_it() -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(await socket.receive_json())
        await socket.close(1001)

    async with site(Starlette(routes=[WebSocketRoute("/ws", endpoint)])) as here, session(here) as peer:
        await peer.open()
        await peer.send(ws.TextMessage(data='{"a":1}'))
        assert (await peer.event()).data == '{"a":1}'
        assert (await peer.event()).code == 1001


async def test_draining_says_going_away() -> None:
    async with site(echo, QUICK) as here, session(here) as peer:
        await peer.open()
        await eventually(lambda: here.server.statistics().n_open_websockets == 1)
        here.scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await peer.event()).code == 1001


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_no_frame_bytes_make_the_machine_raise(pieces: list[bytes]) -> None:
    head = RequestHead(
        method="GET",
        path="/",
        raw_path=b"/",
        query_string=b"",
        headers=[KEY],
        http_version="1.1",
        keep_alive=True,
        expects_continue=False,
        accept_encoding=b"",
        wants_websocket=True,
    )
    machine = WebSocketMachine(head, max_message_bytes=100)
    machine.accept({"type": "websocket.accept"})
    for piece in pieces:
        machine.receive_data(piece)
    machine.receive_eof()
    assert machine.closed
    assert machine.inbox[-1]["type"] == "websocket.disconnect"
