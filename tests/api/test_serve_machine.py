"""The synchronous half of the HTTP server: requests in, responses out, h11 as the strict peer."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.api._http_config import HttpConfig
from nomadpy.api._http_machine import Exchange, RequestHead, RequestMachine
from nomadpy.api._http_response import ResponseError, ResponseWriter, canonical_name, negotiate

SMALL = HttpConfig(max_request_line_bytes=200, max_header_bytes=400, max_body_bytes=1000, max_discard_bytes=10)


def feed(*pieces: bytes, config: HttpConfig = SMALL) -> list[Exchange]:
    machine = RequestMachine(config.limits())
    for piece in pieces:
        machine.receive_data(piece)
    return list(machine.exchanges)


def refusal_of(*pieces: bytes, config: HttpConfig = SMALL) -> tuple[int, str]:
    last = feed(*pieces, config=config)[-1]
    assert last.refusal is not None, "the request was taken"
    return last.refusal.status, last.refusal.text


def get(target: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", *headers, b"", b""])


def put(*headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"PUT / HTTP/1.1", b"Host: a", *headers, b"", b""]) + body


CHUNKED = b"Transfer-Encoding: chunked"

SMUGGLING = [
    put(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    put(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
    put(b"Content-Length: 3, 3", body=b"abc"),
    put(b"Content-Length: +3", body=b"abc"),
    put(b"Content-Length: -3", body=b"abc"),
    put(b"Content-Length: 0x3", body=b"abc"),
    put(b"Content-Length:", body=b"abc"),
    put(b"Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"),
    put(CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n"),
    put(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    put(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
    put(b"X: a\r\n Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    put(b"X: a\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
    put(b"X: a\rTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
    put(b"X: a\x00b"),
    put(b": b"),
    put(b"X y: b"),
    put(CHUNKED, body=b"zz\r\nabc\r\n0\r\n\r\n"),
    put(CHUNKED, body=b"-3\r\nabc\r\n0\r\n\r\n"),
    put(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n"),
    put(CHUNKED, body=b"3\nabc\n0\n\n"),
    put(CHUNKED, body=b"3\r\nabcX0\r\n\r\n"),
    put(CHUNKED, body=b"ffffffffffffffffff\r\nabc"),
    b"PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"{}\r\n",
]


@pytest.mark.parametrize("request_bytes", SMUGGLING)
def test_ambiguous_or_malformed_requests_are_refused(request_bytes: bytes) -> None:
    status, text = refusal_of(request_bytes + get(b"/smuggled"))
    assert status in (400, 413)
    assert text


@pytest.mark.parametrize("request_bytes", SMUGGLING)
def test_they_are_refused_however_they_are_split(request_bytes: bytes) -> None:
    machine = RequestMachine(SMALL.limits())
    for i in range(len(request_bytes)):
        machine.receive_data(request_bytes[i : i + 1])
    machine.receive_data(get(b"/smuggled"))
    assert machine.exchanges[-1].refusal is not None
    assert all(e.head is None or e.head.path != "/smuggled" for e in machine.exchanges)


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (414, b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (431, get(b"/", b"X: " + b"a" * 500)),
        (431, get(b"/", *[b"X: a"] * 200)),
        (413, put(b"Content-Length: 1001")),
        (413, put(b"Content-Length: 99999999999999999999999")),
        (413, put(CHUNKED, body=b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n")),
        (417, put(b"Expect: a miracle", b"Content-Length: 1")),
        (501, put(b"Transfer-Encoding: gzip, chunked")),
        (501, b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (505, b"GET /\r\n\r\n"),
    ],
)
def test_each_limit_has_its_status(status: int, request_bytes: bytes) -> None:
    assert refusal_of(request_bytes)[0] == status


@pytest.mark.parametrize(
    ("status", "start", "more"),
    [
        (414, b"GET /", b"a"),
        (431, b"GET / HTTP/1.1\r\nX: ", b"a"),
        (413, put(CHUNKED), b"1\r\na\r\n"),
        (413, put(CHUNKED) + b"1;", b"a"),
    ],
)
def test_endless_parts_are_refused_before_they_end(status: int, start: bytes, more: bytes) -> None:
    machine = RequestMachine(SMALL.limits())
    machine.receive_data(start)
    n_fed = 0
    while not machine.finished:
        machine.receive_data(more)
        n_fed += len(more)
        assert n_fed < 50_000
    refusal = machine.exchanges[-1].refusal
    assert refusal is not None
    assert refusal.status == status


def test_trailers_are_bounded_and_dropped() -> None:
    (exchange,) = feed(put(CHUNKED, body=b"1\r\na\r\n0\r\nX: y\r\n\r\n"))
    assert exchange.body_complete
    assert exchange.head is not None
    assert b"x" not in dict(exchange.head.headers)
    assert refusal_of(put(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 200))[0] == 431


def test_pipelined_requests_come_in_order_and_a_refusal_last() -> None:
    exchanges = feed(get(b"/1") + put(b"Content-Length: 2", body=b"ab") + get(b"/3") + b"nonsense\r\n\r\n" + get(b"/5"))
    assert [e.head.path if e.head else e.refusal and e.refusal.status for e in exchanges] == ["/1", "/", "/3", 501]


def test_nothing_is_read_behind_a_closing_request() -> None:
    assert len(feed(get(b"/", b"Connection: close") + get(b"/2"))) == 1
    assert len(feed(b"GET / HTTP/1.0\r\n\r\n" + get(b"/2"))) == 1


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/v1/job/a%2Fb?x=%20", "/v1/job/a/b", b"x=%20"),
        (b"/%C3%A4%zz%", "/ä%zz%", b""),
        (b"/%ff%fe", "/��", b""),
        (b"/%00", "/\0", b""),
        (b"http://host:1/p?q", "/p", b"q"),
        (b"http://host", "/", b""),
        (b"/a?b?c#d", "/a", b"b?c"),
        (b"//a/../b", "//a/../b", b""),
        (b"/?u=http://x/y", "/", b"u=http://x/y"),
    ],
)
def test_targets_are_decoded(target: bytes, path: str, query: bytes) -> None:
    (exchange,) = feed(get(target))
    assert exchange.head is not None
    assert (exchange.head.path, exchange.head.query_string) == (path, query)


def test_odd_header_bytes_pass_through() -> None:
    (exchange,) = feed(get(b"/", b"X-Odd: \xff\xc3 \t"))
    assert exchange.head is not None
    assert dict(exchange.head.headers)[b"x-odd"] == b"\xff\xc3"


def test_a_declined_upgrade_is_read_as_if_it_were_not_offered() -> None:
    upgrade = put(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x", b"Content-Length: 3", body=b"abc"
    )
    first, second = feed(upgrade + get(b"/next"))
    assert first.head is not None
    assert list(first.body) == [b"abc"]
    assert not first.head.wants_websocket
    assert b"upgrade" not in dict(first.head.headers)
    assert second.head is not None
    assert second.head.path == "/next"


def test_large_bodies_are_allowed_where_the_configuration_says() -> None:
    big = b"PUT /v1/operator/snapshot HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    assert feed(big)[0].refusal is None


REQUESTS = (
    get(b"/1", b"X: y")
    + put(CHUNKED, body=b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n")
    + b"\r\n"
    + put(b"Content-Length: 4", b"Connection: upgrade", b"Upgrade: h2c", body=b"wxyz")
    + get(b"/last")
)


def summary(exchanges: Iterable[Exchange]) -> list[tuple[Any, ...]]:
    return [(e.head and (e.head.path, e.head.headers), b"".join(e.body), e.body_complete, e.refusal) for e in exchanges]


def test_a_split_at_any_byte_changes_nothing() -> None:
    whole = summary(feed(REQUESTS))
    assert len(whole) == 4
    for i in range(1, len(REQUESTS)):
        assert summary(feed(REQUESTS[:i], REQUESTS[i:])) == whole, i
    assert summary(feed(*[REQUESTS[i : i + 1] for i in range(len(REQUESTS))])) == whole


FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"Content-Length: 5\r\n",
        CHUNKED + b"\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
    ]
    + [
        b"PUT /x HTTP/1.1\r\n",
        b"Connection: upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c\r\n",
        b"hello",
        b"\n",
        b"\r",
    ]
)


@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), max_size=30))
def test_no_bytes_make_the_machine_raise(pieces: list[bytes]) -> None:
    machine = RequestMachine(SMALL.limits())
    for piece in pieces:
        machine.receive_data(piece)
        for exchange in machine.exchanges:
            assert exchange.head is not None or exchange.refusal is not None
    machine.receive_eof()


@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), max_size=30))
def test_what_we_take_h11_takes_too(pieces: list[bytes]) -> None:
    """We may be stricter than h11, never laxer: a request that only we accept could be smuggled past it."""
    data = b"".join(pieces)
    taken = [e.head for e in feed(data) if e.head is not None and e.body_complete]
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(data)
    for head in taken:
        event = peer.next_event()
        assert isinstance(event, h11.Request)
        assert (event.method.decode(), event.target.partition(b"?")[0]) == (head.method, head.raw_path)
        while not isinstance(peer.next_event(), h11.EndOfMessage):
            pass
        if not head.keep_alive or dict(event.headers).get(b"upgrade"):
            return
        peer.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
        peer.send(h11.EndOfMessage())
        if peer.our_state is not h11.DONE:
            return
        peer.start_next_cycle()


# ---------------------------------------------------------------------- responses


def head(method: str = "GET", version: str = "1.1", accept: bytes = b"", keep_alive: bool = True) -> RequestHead:
    return RequestHead(
        method=method,
        path="/",
        raw_path=b"/",
        query_string=b"",
        headers=[],
        http_version=version,
        keep_alive=keep_alive,
        expects_continue=False,
        accept_encoding=accept,
        wants_websocket=False,
    )


def respond(request: RequestHead, *bodies: bytes, status: int = 200, headers: Any = ()) -> tuple[bytes, ResponseWriter]:
    writer = ResponseWriter(request, date=b"Thu, 01 Jan 1970 00:00:00 GMT", compress_min_bytes=100)
    wire = b"".join(writer.send({"type": "http.response.start", "status": status, "headers": list(headers)}))
    for i, body in enumerate(bodies):
        more = i + 1 < len(bodies)
        wire += b"".join(writer.send({"type": "http.response.body", "body": body, "more_body": more}))
    return wire, writer


def read(wire: bytes, request: RequestHead) -> tuple[h11.Response, bytes]:
    """What h11 makes of the bytes; it fails the test when they are not exactly one response."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=request.method, target="/", headers=[("host", "a")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(wire)
    response = peer.next_event()
    assert isinstance(response, h11.Response), response
    body = b""
    while not isinstance(event := peer.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            peer.receive_data(b"")
        else:
            assert isinstance(event, h11.Data)
            body += event.data
    assert peer.trailing_data[0] == b""
    return response, body


BODIES = [(b"",), (b"hi",), (b"x" * 300_000,), (b"a", b"b"), (b"", b"x" * 300_000, b"", b"c", b"")]


@pytest.mark.parametrize("bodies", BODIES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("accept", [b"", b"gzip", b"deflate"])
def test_h11_reads_back_every_kind_of_response(
    bodies: tuple[bytes, ...], method: str, version: str, accept: bytes
) -> None:
    request = head(method, version, accept)
    wire, writer = respond(request, *bodies)
    response, body = read(wire, request)
    assert writer.complete
    encoding = dict(response.headers).get(b"content-encoding")
    if encoding == b"gzip":
        body = gzip.decompress(body)
    elif encoding == b"deflate":
        body = zlib.decompress(body)
    assert body == (b"" if method == "HEAD" else b"".join(bodies))


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_statuses_have_no_body(status: int) -> None:
    wire, writer = respond(head(), b"ignored", status=status)
    assert read(wire, head())[1] == b""
    assert writer.keep_alive


def test_a_streamed_body_of_unknown_length_closes_http_1_0() -> None:
    assert not respond(head(version="1.0"), b"a", b"b")[1].keep_alive
    assert respond(head(version="1.0"), b"a")[1].keep_alive


def test_compression_is_left_alone_when_the_response_says_so() -> None:
    for headers in (
        [(b"x-no-compression", b"1")],
        [(b"content-type", b"text/event-stream")],
        [(b"content-encoding", b"br")],
    ):
        wire, _ = respond(head(accept=b"gzip"), b"x" * 500, b"y", headers=headers)
        assert b"gzip" not in wire
        assert b"X-No-Compression" not in wire


def test_every_streamed_message_can_be_decompressed_when_it_arrives() -> None:
    writer = ResponseWriter(head(accept=b"gzip"), date=b"d", compress_min_bytes=100)
    writer.send({"type": "http.response.start", "status": 200, "headers": []})
    decoder = zlib.decompressobj(31)
    for word in (b"one", b"two"):
        wire = b"".join(writer.send({"type": "http.response.body", "body": word, "more_body": True}))
        payload = wire.partition(b"\r\n\r\n")[2] or wire
        size, _, rest = payload.partition(b"\r\n")
        out = b""
        while size:
            out += decoder.decompress(rest[: int(size, 16)])
            size, _, rest = rest[int(size, 16) + 2 :].partition(b"\r\n")
        assert out == word


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (b"", None),
        (b"gzip", b"gzip"),
        (b"GZIP, deflate", b"gzip"),
        (b"deflate;q=1, gzip;q=0.5", b"deflate"),
        (b"gzip;q=0", None),
        (b"*", b"gzip"),
        (b"*;q=0, deflate", b"deflate"),
        (b"br, identity", None),
        (b"gzip;q=nan", None),
        (b"gzip;q=\xff", None),
    ],
)
def test_negotiation(accept: bytes, chosen: bytes | None) -> None:
    assert negotiate(accept) == chosen


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\nb")],
        [(b"x\r\ny", b"a")],
        [(b"", b"a")],
        [(b"x", b"a\0")],
        [(b"content-length", b"x")],
        [(b"content-length", b"3")],
        [(b"content-length", b"1")],
    ],
)
def test_impossible_headers_are_the_applications_fault(headers: Any) -> None:
    with pytest.raises(ResponseError):
        respond(head(), b"hi", headers=headers)


def test_messages_out_of_order_are_the_applications_fault() -> None:
    writer = ResponseWriter(head(), date=b"d", compress_min_bytes=100)
    with pytest.raises(ResponseError):
        writer.send({"type": "http.response.body"})
    writer.send({"type": "http.response.start", "status": 200})
    for message in ({"type": "http.response.start", "status": 200}, {"type": "nonsense"}):
        with pytest.raises(ResponseError):
            writer.send(message)
    b"".join(writer.send({"type": "http.response.body"}))
    with pytest.raises(ResponseError):
        writer.send({"type": "http.response.body"})


def test_names_are_written_as_go_writes_them() -> None:
    assert canonical_name(b"x-nomad-knownleader") == b"X-Nomad-Knownleader"
