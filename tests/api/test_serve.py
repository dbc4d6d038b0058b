"""The HTTP server over real sockets: connections, streams, limits, disconnects, draining."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import GET, QUICK, Peer, Site, eventually, site
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nomadpy.api.serve import HttpConfig, TlsFiles, serve
from nomadpy.model.errors import Invalid


async def body_of(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = await body_of(receive)
    await answer(send, f"{scope['method']} {scope['path']} ".encode("utf-8", "replace") + body)


async def test_keep_alive_and_pipelining_answer_in_order() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(0.02 if scope["path"] == "/1" else 0)
        await echo(scope, receive, send)

    async with site(app) as here, await here.connect() as peer:
        await peer.send(
            b"".join(b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % (i, i) for i in range(1, 9))
        )
        for i in range(1, 9):
            assert await peer.response() == (200, b"PUT /%d %d" % (i, i))
        await peer.send(GET)
        assert await peer.response() == (200, b"GET / ")
        assert here.server.statistics().n_connections == 1
        assert here.server.statistics().n_requests == 9


async def test_a_deep_pipeline_is_answered_whole() -> None:
    async with site(echo) as here:
        wire = await here.ask(GET * 500)
        assert wire.count(b"HTTP/1.1 200 OK") == 500


async def test_the_scope_is_complete() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await answer(send, b"")

    async with site(app) as here, await here.connect() as peer:
        await peer.send(b"GET /a%2fb?c=%20 HTTP/1.1\r\nHost: h\r\nX-Y: \xff\r\n\r\n")
        await peer.response()
        client = peer.stream.socket.getsockname()
        port = here.port
    assert seen["type"] == "http"
    assert (seen["method"], seen["scheme"], seen["http_version"], seen["root_path"]) == ("GET", "http", "1.1", "")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/a/b", b"/a%2fb", b"c=%20")
    assert seen["headers"] == [(b"host", b"h"), (b"x-y", b"\xff")]
    assert (seen["client"], seen["server"]) == (client, ("127.0.0.1", port))
    assert seen["asgi"]["version"] == "3.0"
    assert seen["extensions"] == {}


async def test_starlette_runs_on_it() -> None:
    async def job(request: Request) -> Response:
        return JSONResponse({"id": request.path_params["id"], "body": await request.json()})

    async def stream(_: Request) -> Response:
        return StreamingResponse(iter([b"a", b"b"]))

    app = Starlette(routes=[Route("/job/{id}", job, methods=["PUT"]), Route("/stream", stream)])
    async with site(app) as here, await here.connect() as peer:
        await peer.send(
            b"PUT /job/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
        )
        assert json.loads((await peer.response())[1]) == {"id": "x", "body": [1]}
        await peer.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await peer.until(b"0\r\n\r\n")).endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


async def test_expect_continue_is_answered_only_when_the_body_is_wanted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (echo(scope, receive, send) if scope["path"] == "/want" else answer(send, b"no", 403))

    request = b"PUT %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with site(app) as here, await here.connect() as peer:
        await peer.send(request % b"/want")
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"hi")
        assert await peer.response() == (200, b"PUT /want hi")
        await peer.send(request % b"/other")
        wire = await peer.rest()
    assert wire.startswith(b"HTTP/1.1 403 ")
    assert b"Connection: close" in wire


async def test_an_unread_body_is_skipped_or_ends_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"ok")

    config = HttpConfig(max_discard_bytes=1000, linger_timeout_s=0.2)
    async with site(app, config) as here, await here.connect() as peer:
        await peer.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        assert await peer.response() == (200, b"ok")
        await peer.send(b"x" * 900 + b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        assert await peer.response() == (200, b"ok")
        await peer.send(b"x" * 4000)
        assert await peer.rest() == b""


async def test_a_slow_reader_holds_the_application_back() -> None:
    n_sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal n_sent
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            n_sent += 1

    async with site(app) as here, await here.connect() as peer:
        await peer.send(GET)
        await peer.until(b"\r\n\r\n")
        before = -1
        while before != n_sent:
            before = n_sent
            await trio.sleep(0.1)
        assert n_sent < 200
        await peer.stream.aclose()
        await eventually(lambda: here.server.statistics().n_in_flight == 0)


async def test_a_slow_application_holds_the_sender_back() -> None:
    may_read = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_read.wait()
        await answer(send, b"%d" % len(await body_of(receive)))

    size = 30_000_000
    async with site(app) as here, await here.connect() as peer, trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await eventually(lambda: here.server.statistics().n_bytes_received >= QUICK.max_buffered_body_bytes)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert here.server.statistics().n_bytes_received < 3 * QUICK.max_buffered_body_bytes
        may_read.set()
        assert await peer.response() == (200, b"%d" % size)


async def test_a_client_that_hangs_up_stops_its_handler() -> None:
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        try:
            if scope["path"] == "/receive":
                events.append((await receive())["type"])
            else:
                await trio.sleep(math.inf)
        except trio.Cancelled:
            events.append("cancelled")
            raise

    async with site(app) as here:
        for path in (b"/receive", b"/sleep"):
            async with await here.connect() as peer:
                await peer.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                await eventually(lambda: here.server.statistics().n_in_flight == 1)
            await eventually(lambda: here.server.statistics().n_in_flight == 0)
    assert events == ["http.disconnect", "cancelled"]


async def test_failures_of_the_application_are_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if scope["path"] != "/nothing":
            raise ValueError("broken on purpose")

    async with site(app) as here:
        with caplog.at_level(logging.CRITICAL + 1, logger="nomadpy.api.serve"):
            async with await here.connect() as peer:
                for path in (b"/early", b"/nothing"):
                    await peer.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert await peer.response() == (500, b"Internal Server Error")
                await peer.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
                wire = await peer.rest()
        assert wire.endswith(b"5\r\nbegun\r\n")
        async with await here.connect() as peer:
            await peer.send(b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await peer.response())[0] == 500
    (record,) = caplog.records
    assert record.getMessage() == "http.app_failed"
    assert record.exc_info is not None
    assert here.server.statistics().n_app_errors == 4


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (413, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000),
        (414, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n"),
        (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000),
        (505, b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
    ],
)
async def test_refusals_reach_a_client_that_is_still_sending(status: int, request_bytes: bytes) -> None:
    async with site(echo) as here, await here.connect() as peer:
        await peer.send(request_bytes)
        wire = await peer.rest()
        assert wire.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close\r\n" in wire
        assert b"text/plain; charset=utf-8" in wire
        assert here.server.statistics().n_requests_refused == 1


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost", b"HTTP/1.1 408 "),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", b"HTTP/1.1 408 "),
        (b"", b""),
        (b"\r\n\r\n", b""),
    ],
)
async def test_slow_clients_are_cut_off(sent: bytes, expected: bytes) -> None:
    config = HttpConfig(header_timeout_s=0.1, body_timeout_s=0.1, idle_timeout_s=0.1, linger_timeout_s=0.1)
    async with site(echo, config) as here, await here.connect() as peer:
        await peer.send(sent)
        assert (await peer.rest()).startswith(expected)


async def test_a_slowloris_gets_no_more_time_for_every_byte() -> None:
    config = HttpConfig(header_timeout_s=0.2, linger_timeout_s=0.1)
    async with site(echo, config) as here, await here.connect() as peer, trio.open_nursery() as nursery:

        async def drip() -> None:
            await peer.send(b"GET / HTTP/1.1\r\n")
            while True:
                await peer.send(b"X: y\r\n")
                await trio.sleep(0.03)

        nursery.start_soon(drip)
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()


async def test_a_reader_that_stalls_for_ever_is_cut_off() -> None:
    config = HttpConfig(write_timeout_s=0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 50_000_000)

    async with site(app, config) as here, await here.connect() as peer:
        await peer.send(GET)
        await eventually(lambda: here.server.statistics().n_open_connections == 1)
        await eventually(lambda: here.server.statistics().n_open_connections == 0)


async def test_too_many_connections_are_turned_away() -> None:
    config = HttpConfig(max_connections_per_address=2, linger_timeout_s=0.1)
    async with site(echo, config) as here, await here.connect() as one, await here.connect() as two:
        for peer in (one, two):
            await peer.send(GET)
            await peer.response()
        async with await here.connect() as third:
            await third.send(GET)
            wire = await third.rest()
        assert wire.startswith(b"HTTP/1.1 429 ")
        assert wire.endswith(b"Your IP is issuing too many concurrent connections, please rate limit your calls")
        await one.stream.aclose()
        await eventually(lambda: here.server.statistics().n_open_connections == 1)
        async with await here.connect() as fourth:
            await fourth.send(GET)
            assert (await fourth.response())[0] == 200
        assert here.server.statistics().n_connections_refused == 1


async def test_the_total_is_limited_too() -> None:
    async with site(echo, HttpConfig(max_connections=1, linger_timeout_s=0.1)) as here, await here.connect() as one:
        await one.send(GET)
        await one.response()
        assert (await here.ask(GET)).startswith(b"HTTP/1.1 503 ")


async def test_draining_lets_requests_in_flight_end_and_takes_no_more() -> None:
    begun, may_end = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await may_end.wait()
        await answer(send, b"done")

    async with site(app) as here, await here.connect() as busy, await here.connect() as idle:
        await busy.send(GET)
        await begun.wait()
        here.scope.cancel()
        with trio.CancelScope(shield=True):
            assert await idle.rest() == b""
            with pytest.raises(OSError, match="connect"):
                await here.connect()
            may_end.set()
            wire = await busy.rest()
    assert wire.endswith(b"done")
    assert b"Connection: close" in wire


async def test_draining_ends_in_time() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(math.inf)

    begun = trio.current_time()
    async with site(app, HttpConfig(drain_timeout_s=0.1)) as here, await here.connect() as peer:
        await peer.send(GET)
        await eventually(lambda: here.server.statistics().n_in_flight == 1)
        here.scope.cancel()
    assert trio.current_time() - begun < 3


async def test_unix_sockets_are_served(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await answer(send, b"ok")

    path = str(tmp_path / "api.sock")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, app, [trio.SocketListener(sock)]))
        async with Peer(await trio.open_unix_socket(path)) as peer:
            await peer.send(GET)
            assert await peer.response() == (200, b"ok")
        nursery.cancel_scope.cancel()
    assert (seen["client"], seen["server"]) == (None, (path, None))


async def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(Invalid, match="header_timeout_s"):
        await serve(echo, [], config=HttpConfig(header_timeout_s=0))
    with pytest.raises(Invalid, match="max_body_bytes"):
        await serve(echo, [], config=HttpConfig(max_body_bytes=-1))


def run_in_site(app: Any, do: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        async with site(app, HttpConfig(linger_timeout_s=0.05)) as here:
            await do(here)

    trio.run(main)


@given(
    st.lists(
        st.one_of(st.binary(max_size=50), st.sampled_from([GET, b"\r\n", GET[:-2], b"Upgrade: websocket\r\n"])),
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_bytes_leave_the_server_alive(pieces: list[bytes]) -> None:
    async def do(here: Site) -> None:
        await here.ask(b"".join(pieces))
        assert (await here.ask(GET)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert here.server.statistics().n_app_errors == 0

    run_in_site(echo, do)


# ---------------------------------------------------------------------- TLS


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[TlsFiles, Any]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    files = TlsFiles(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "key.pem"))
    issue(files, authority)
    return files, authority


def issue(files: TlsFiles, authority: Any) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(files.key_file)
    certificate.cert_chain_pems[0].write_to_path(files.cert_file)


async def open_tls(here: Site, authority: Any) -> Any:
    import ssl

    context = ssl.create_default_context()
    authority.configure_trust(context)
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", here.port, ssl_context=context)
    await stream.do_handshake()
    return stream


async def test_tls_with_reload(tls_files: tuple[TlsFiles, Any]) -> None:
    files, authority = tls_files

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["scheme"].encode())

    async with site(app, tls=files) as here:
        first = await open_tls(here, authority)
        issue(files, authority)
        here.server.reload_tls()
        second = await open_tls(here, authority)
        assert first.getpeercert(True) != second.getpeercert(True)
        for stream in (first, second):
            async with Peer(stream) as peer:
                await peer.send(GET)
                assert await peer.response() == (200, b"https")


async def test_a_broken_certificate_is_refused_and_the_old_one_stays(tls_files: tuple[TlsFiles, Any]) -> None:
    files, authority = tls_files
    async with site(echo, tls=files) as here:
        await trio.Path(files.cert_file).write_text("nonsense")
        with pytest.raises(Invalid, match="cannot load the TLS files"):
            here.server.reload_tls()
        async with Peer(await open_tls(here, authority)) as peer:
            await peer.send(GET)
            assert (await peer.response())[0] == 200


async def test_plain_http_on_a_tls_port_harms_nobody(tls_files: tuple[TlsFiles, Any]) -> None:
    files, authority = tls_files
    async with site(echo, HttpConfig(tls_handshake_timeout_s=0.2), tls=files) as here:
        for data in (GET, b""):
            async with await here.connect() as peer:
                await peer.send(data)
                await eventually(lambda: here.server.statistics().n_open_connections == 0)
        async with Peer(await open_tls(here, authority)) as peer:
            await peer.send(GET)
            assert (await peer.response())[0] == 200
