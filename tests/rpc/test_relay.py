"""HTTP and websockets through another agent: a real HTTP server here, the application there, sockets between."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import wsproto.events as ws
from serving import GET, QUICK, Site, eventually, site
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from test_serve_websocket import WebSocketPeer
from wires import Wire, wire

from nomadpy.api.call import Call, Reply
from nomadpy.api.context import ApiContext
from nomadpy.api.forward import LEADER, Way
from nomadpy.api.relay import MAX_HOPS, RELAY, RelayHead, handle_relay, relay, way_over
from nomadpy.api.router import Operation, Router
from nomadpy.model.errors import NoLeader, Unavailable
from nomadpy.rpc.handlers import Handlers


class Far:
    """An application of the other agent that remembers what happened to it."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.started = trio.Event()
        self.sent_bytes = 0
        self.left_with: int | None = None
        routes = [
            Route("/echo", self.echo, methods=["GET", "POST", "PUT"]),
            Route("/hang", self.hang, methods=["GET", "POST"]),
            Route("/pour", self.pour),
            Route("/half", self.half),
            Route("/fault", self.fault),
            Route("/log", self.log),
            WebSocketRoute("/ws", self.talk),
        ]
        self.app = Starlette(routes=routes)

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        scope = request.scope
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "client": scope["client"][0],
            "x": request.headers.getlist("x-thing"),
            "relayed": scope["nomadpy.relayed"],
            "hops": scope["nomadpy.hops"],
            "peer": scope["nomadpy.peer"].name,
            "length": len(body),
        }
        return JSONResponse(told, status_code=201, headers={"x-nomad-index": "7"})

    async def hang(self, request: Request) -> Response:
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError

    async def pour(self, request: Request) -> Response:
        far = self

        class Pouring(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
                    far.sent_bytes += 100_000

        return Pouring()

    async def half(self, request: Request) -> Response:
        async def breaks() -> AsyncIterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        return StreamingResponse(breaks())

    async def fault(self, request: Request) -> Response:
        raise ZeroDivisionError("private")

    async def log(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            self.started.set()
            try:
                for number in range(3):
                    yield b"line %d\n" % number
                await trio.sleep_forever()
            finally:
                self.cancelled.set()

        return StreamingResponse(lines())

    async def talk(self, socket: WebSocket) -> None:
        if socket.query_params.get("x") == "refuse":
            await socket.send_denial_response(Response("no shell for you", status_code=403))
            return
        await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
        self.started.set()
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if message.get("text") == "bye":
                    await socket.close(4001, "as you wish")
                    return
                if message.get("text") is not None:
                    await socket.send_text("you said " + message["text"])
                else:
                    await socket.send_bytes(message["bytes"] * 2)
        except WebSocketDisconnect as left:
            self.left_with = left.code
            self.cancelled.set()


class Stage:
    def __init__(self, far: Far, near: Site, both: Wire) -> None:
        self.far, self.near, self.both = far, near, both


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    far = Far()
    async with wire(handle_relay(far.app)) as both, site(way_over(both.client)) as near:
        yield Stage(far, near, both)


def _request(head: str, body: bytes = b"") -> bytes:
    return f"{head}\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _ask(near: Site, data: bytes) -> bytes:
    """Everything that comes back until the server closes. Our half stays open: a client that has closed it is given
    little time."""
    async with await near.connect() as peer:
        await peer.send(data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return await peer.rest()


def _parts(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.lower(), body


async def test_everything_about_a_request_arrives() -> None:
    head = "PUT /echo?a=1&b=%20x HTTP/1.1\r\nX-Thing: one\r\nX-Thing: two"
    async with stage() as on:
        head_bytes, body = _parts(await _ask(on.near, _request(head, b"x" * 300_000)))
    assert head_bytes.startswith(b"http/1.1 201")
    assert b"x-nomad-index: 7" in head_bytes
    assert json.loads(body) == {
        "method": "PUT",
        "path": "/echo",
        "raw_path": "/echo",
        "query": "a=1&b=%20x",
        "client": "127.0.0.1",
        "x": ["one", "two"],
        "relayed": True,
        "hops": 1,
        "peer": "node-1",
        "length": 300_000,
    }


async def test_a_client_that_hangs_up_cancels_the_far_handler() -> None:
    async with stage() as on:
        async with await on.near.connect() as peer:
            await peer.send(GET.replace(b"/ ", b"/hang "))
            await on.far.started.wait()
        await on.far.cancelled.wait()


async def test_a_followed_log_comes_line_by_line_and_ends_with_its_reader() -> None:
    async with stage() as on:
        async with await on.near.connect() as peer:
            await peer.send(GET.replace(b"/ ", b"/log "))
            assert b"line 0" in await peer.until(b"line 2\n")
            assert not on.far.cancelled.is_set()
        await on.far.cancelled.wait()


async def test_a_client_that_does_not_read_stops_the_far_application() -> None:
    async with stage() as on, await on.near.connect() as peer:
        await peer.send(GET.replace(b"/ ", b"/pour "))
        await peer.until(b"\r\n\r\n")
        while True:
            before = on.far.sent_bytes
            await trio.sleep(0.2)
            if on.far.sent_bytes == before > 0:
                break
        # Far less than what would have gone through meanwhile; the kernel's buffers hold some MB.
        assert on.far.sent_bytes < 50_000_000


async def test_an_upload_waits_for_an_application_that_does_not_read_it() -> None:
    async with stage() as on, await on.near.connect() as peer:
        with trio.move_on_after(1) as scope:
            head = b"POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n"
            await peer.send(head)
            for _ in range(30):
                await peer.send(b"x" * 1_000_000)
        assert scope.cancelled_caught
        assert on.far.started.is_set()


async def test_a_fault_before_the_answer_is_an_answer() -> None:
    async with stage() as on:
        head, body = _parts(await _ask(on.near, GET.replace(b"/ ", b"/fault ")))
    assert head.startswith(b"http/1.1 500")
    assert b"private" not in body


async def test_a_fault_in_mid_answer_is_a_cut_connection() -> None:
    async with stage() as on:
        answer = await _ask(on.near, GET.replace(b"/ ", b"/half "))
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_lost_connection_is_an_answer() -> None:
    async with stage() as on, await on.near.connect() as peer:
        await peer.send(GET.replace(b"/ ", b"/hang "))
        await on.far.started.wait()
        on.both.server.close("the power went")
        status, body = await peer.response()
        assert (status, b"was lost" in body) == (500, True)
        await on.far.cancelled.wait()
        head, body = _parts(await _ask(on.near, GET))
        assert (head[:12], b"not connected" in body) == (b"http/1.1 500", True)


async def test_an_answer_without_an_application_that_gives_one_is_an_error() -> None:
    async def mute(scope: Any, receive: Any, send: Any) -> None:
        return

    async with wire(handle_relay(mute)) as both, site(way_over(both.client)) as near:
        _, body = _parts(await _ask(near, GET))
    assert b"gave no answer" in body


@asynccontextmanager
async def conversation(on: Stage, target: str = "/ws?x=1", subprotocols: tuple[str, ...] = ()) -> AsyncIterator[Any]:
    stream = await trio.open_tcp_stream("127.0.0.1", on.near.port)
    async with stream:
        peer = WebSocketPeer(stream, list(subprotocols))
        peer._request = ws.Request(host="a", target=target, subprotocols=list(subprotocols))
        yield peer


async def test_a_websocket_conversation() -> None:
    async with stage() as on, conversation(on, subprotocols=("shell",)) as peer:
        accepted = await peer.open()
        assert accepted.subprotocol == "shell"
        await peer.send(ws.TextMessage("hello"))
        assert (await peer.event()).data == "you said hello"
        await peer.send(ws.BytesMessage(b"\x00" * 70_000))
        data = b""
        while len(data) < 140_000:
            data += (await peer.event()).data
        assert data == b"\x00" * 140_000
        await peer.send(ws.TextMessage("bye"))
        closed = await peer.event()
        assert (closed.code, closed.reason) == (4001, "as you wish")


async def test_a_websockets_client_that_leaves_is_heard_of() -> None:
    async with stage() as on, conversation(on) as peer:
        await peer.open()
        await peer.send(ws.CloseConnection(1000))
        await on.far.cancelled.wait()
        assert on.far.left_with == 1000


async def test_a_refused_upgrade_is_a_plain_answer() -> None:
    async with stage() as on, conversation(on, "/ws?x=refuse") as peer:
        refused = await peer.open()
        assert refused.status_code == 403


async def test_a_websocket_whose_agent_is_lost_is_closed_with_a_reason() -> None:
    async with stage() as on, conversation(on) as peer:
        await peer.open()
        on.both.server.close("the power went")
        closed = await peer.event()
        assert closed.code == 1011
        assert "was lost" in closed.reason


async def test_events_that_are_out_of_place_end_the_call() -> None:
    async def strange(params: RelayHead, stream: Any, caller: Any) -> None:
        await stream.send(b"\x81\xa4type\xacno.such.event"[:17])

    handlers = Handlers()
    handlers.on_stream(RELAY, strange)
    async with wire(handlers) as both, site(way_over(both.client)) as near:
        head, _ = _parts(await _ask(near, GET))
    assert head.startswith(b"http/1.1 400")


# ------------------------------------------------------------------ with our own router


class Ways:
    """Forwarding over a connection that is there, or not."""

    def __init__(self) -> None:
        self.way: Way | None = None

    async def to_leader(self) -> Way:
        if self.way is None:
            raise NoLeader
        return self.way

    async def to_server(self) -> Way:
        return await self.to_leader()

    async def to_node(self, node_id: str) -> Way:
        return await self.to_leader()

    async def to_peer(self, server: str) -> Way:
        return await self.to_leader()

    def contact(self) -> tuple[bool, int]:
        return True, 0


async def _answer(call: Call) -> Reply:
    return Reply(value={"Body": (await call.request.body()).decode()}, index=42)


OPERATIONS = (Operation(methods=("GET", "PUT"), path="/v1/thing/{job_id}", endpoint=_answer),)
AT_SERVER = tuple(
    Operation(methods=one.methods, path=one.path, endpoint=one.endpoint, at="agent") for one in OPERATIONS
)


async def test_a_router_passes_on_and_the_other_one_answers() -> None:
    ways = Ways()
    near_router = Router(ApiContext(forwarding=ways), OPERATIONS)
    far_router = Router(ApiContext(), AT_SERVER)
    async with wire(handle_relay(far_router)) as both, site(near_router) as near:
        _, body = _parts(await _ask(near, GET.replace(b"/ ", b"/v1/thing/a%2Fb ")))
        assert b"cluster leader" in body
        ways.way = way_over(both.client)
        head, body = _parts(await _ask(near, _request("PUT /v1/thing/a/b HTTP/1.1", b"text")))
    assert b"x-nomad-index: 42" in head
    assert json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body) == {"Body": "text"}


async def test_routers_that_do_not_agree_stop_asking_each_other() -> None:
    one, other = Ways(), Ways()
    here, there = Router(ApiContext(forwarding=one), OPERATIONS), Router(ApiContext(forwarding=other), OPERATIONS)
    async with wire(handle_relay(there), back=handle_relay(here)) as both, site(here) as near:
        one.way, other.way = way_over(both.client), way_over(both.server)
        head, body = _parts(await _ask(near, GET.replace(b"/ ", b"/v1/thing/x ")))
        assert head.startswith(b"http/1.1 500")
        assert b"do not agree" in body
        # The refusal came from a relayed call, so every agent on the way has let go of it.
        await eventually(lambda: not both.client._streams and not both.server._streams)
    assert OPERATIONS[0].at == LEADER


@pytest.mark.parametrize(("refusals", "status"), [(3, b"200"), (10_000, b"500")])
async def test_a_leader_that_does_not_take_proposals_is_asked_again_for_a_while(
    refusals: int, status: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """It hands over or stops: its router is told to ask the leader, and that is itself."""
    asked = 0

    async def answer(call: Call) -> Reply:
        nonlocal asked
        asked += 1
        if asked <= refusals:
            raise NoLeader
        return await _answer(call)

    ways, sent = Ways(), []

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop(0)
        return await trio.sleep_forever()  # type: ignore[no-any-return]

    async def send(message: Any) -> None:
        sent.append(message)

    received = [
        {"type": "http.request", "body": b"te", "more_body": True},
        {"type": "http.request", "body": b"xt", "more_body": False},
    ]
    router = Router(
        ApiContext(forwarding=ways), (Operation(methods=("PUT",), path="/v1/thing", endpoint=answer, at=LEADER),)
    )
    ways.way = router
    # A server that believes to lead: the place of the operation is here.
    router._check_place = lambda operation, call: None  # type: ignore[method-assign]
    await router(
        {"type": "http", "method": "PUT", "path": "/v1/thing", "query_string": b"", "headers": []}, receive, send
    )
    assert str(sent[0]["status"]).encode() == status
    if status == b"200":
        assert b'"text"' in sent[1]["body"]


async def test_hops_are_counted_by_both_ends() -> None:
    far = Far()
    scope = {"type": "http", "path": "/echo", "headers": [], "nomadpy.hops": MAX_HOPS}
    async with wire(handle_relay(far.app)) as both:
        with pytest.raises(Unavailable, match="do not agree"):
            await relay(both.client, scope, None, None)  # type: ignore[arg-type]
        async with both.client.open(RELAY, RelayHead(path="/echo", hops=MAX_HOPS + 1)) as stream:
            with pytest.raises(Unavailable, match="do not agree"):
                await stream.receive()
    assert QUICK.disconnect_grace_s < 1
