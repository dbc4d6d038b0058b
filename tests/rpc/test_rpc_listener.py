"""The port under abuse: strangers, the silent, the many, wrong authorities; and the same talk over TLS."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from serving import GET, eventually, site
from test_relay import Far, _ask, _parts
from wires import CLIENT_HELLO, ECHO, SERVER_HELLO, Text

from nomadpy.api.relay import handle_relay, way_over
from nomadpy.model.errors import Forbidden, Invalid
from nomadpy.rpc import frames as f
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.dial import RAFT, RPC, Dialer
from nomadpy.rpc.frames import Hello
from nomadpy.rpc.handlers import Handlers, NotConnected
from nomadpy.rpc.listener import Listener, ListenerConfig
from nomadpy.rpc.peer import Peer, Timing
from nomadpy.rpc.tls import RpcTls, RpcTlsFiles

QUICK = ListenerConfig(handshake_s=0.2)
QUICK_TIMING = Timing(handshake_s=0.2, ping_s=15, silence_s=30)


async def _echo(params: Text, caller: Connection) -> Text:
    return params


def _handlers() -> Handlers:
    handlers = Handlers()
    handlers.on(ECHO, _echo)
    return handlers


class Port:
    def __init__(self, listener: Listener, address: str, raft: list[Any]) -> None:
        self.listener, self.address, self.raft = listener, address, raft

    async def connect(self) -> trio.SocketStream:
        host, _, port = self.address.rpartition(":")
        return await trio.open_tcp_stream(host, int(port))

    async def is_left(self, stream: trio.abc.Stream) -> bool:
        """Whether the other end closes the connection."""
        with trio.move_on_after(5), contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(65536):
                pass
            return True
        return trio.current_effective_deadline() > trio.current_time()

    def counted(self, name: str) -> int:
        return int(getattr(self.listener.statistics(), name))


@asynccontextmanager
async def port(**named: Any) -> AsyncIterator[Port]:
    raft: list[Any] = []

    async def serve_raft(stream: trio.abc.Stream, names: frozenset[str], address: str) -> None:
        raft.append((await stream.receive_some(100), names))

    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    named = {"handlers": _handlers(), "raft": serve_raft, "config": QUICK, "timing": QUICK_TIMING, **named}
    listener = Listener(sockets, hello=SERVER_HELLO, **named)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        yield Port(listener, f"127.0.0.1:{sockets[0].socket.getsockname()[1]}", raft)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def talk(stream: trio.abc.Stream, *, hello: Hello = CLIENT_HELLO, **named: Any) -> AsyncIterator[Connection]:
    connection = Connection(stream, hello=hello, handlers=Handlers(), dialed=True, **named)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await connection.ready()
        yield connection
        nursery.cancel_scope.cancel()


async def _echoes(port: Port) -> bool:
    stream, _ = await Dialer().rpc(port.address)
    async with talk(stream) as connection:
        return await connection.call(ECHO, Text("x"), timeout_s=5) == Text("x")


async def test_the_first_byte_tells_raft_from_rpc() -> None:
    async with port() as at:
        assert await _echoes(at)
        stream = await Dialer().raft(at.address)
        await stream.send_all(b"frames")
        await eventually(lambda: at.raft == [(b"frames", frozenset())])
        await stream.aclose()
        await eventually(lambda: at.counted("n_open") == 0)
        assert (at.counted("n_rpc"), at.counted("n_raft"), at.counted("n_calls")) == (1, 1, 1)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", "n_silent"),
        (RPC, "n_refused"),
        (RPC + b"\x20\x00\x00\x00half a fr", "n_refused"),
        (RPC + f.pack(CLIENT_HELLO) + b"\xff\xff\xff\xff", "n_malformed"),
        (RPC + b"\xff\xff\xff\xff", "n_malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "n_strangers"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "n_strangers"),
        (b"\x00" + b"noise" * 10_000, "n_strangers"),
    ],
    ids=["silent", "no hello", "half a hello", "huge", "huge hello", "http", "tls", "noise"],
)
async def test_strangers_are_left_and_counted_while_others_are_served(data: bytes, count: str) -> None:
    async with port() as at, await at.connect() as stream:
        await stream.send_all(data)
        assert await at.is_left(stream)
        assert at.counted(count) == 1
        await eventually(lambda: at.counted("n_open") == 0)
        assert await _echoes(at)


async def test_an_agent_that_is_no_server_takes_no_raft_streams() -> None:
    async with port(raft=None) as at, await at.connect() as stream:
        await stream.send_all(RAFT)
        assert await at.is_left(stream)
        assert at.counted("n_strangers") == 1


async def test_one_address_has_a_limited_number_of_connections() -> None:
    config = ListenerConfig(handshake_s=1.0, connections_per_address=3)
    async with port(config=config) as at:
        idle = [await at.connect() for _ in range(3)]
        await eventually(lambda: at.counted("n_open") == 3)
        async with await at.connect() as surplus:
            assert await at.is_left(surplus)
        assert at.counted("n_too_many") == 1
        for stream in idle:
            assert await at.is_left(stream)
            await stream.aclose()
        assert at.counted("n_silent") == 3
        assert await _echoes(at)


async def test_a_crowd_of_idle_connections_is_gone_in_bounded_time() -> None:
    async with port(config=ListenerConfig(handshake_s=0.3, connections_per_address=0)) as at:
        crowd = [await at.connect() for _ in range(300)]
        assert await _echoes(at)
        await eventually(lambda: at.counted("n_silent") == 300)
        assert at.counted("n_open") <= 1
        for stream in crowd:
            await stream.aclose()


async def test_a_lack_of_descriptors_does_not_end_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    real, lacking = listener.accept, [OSError(errno.EMFILE, "Too many open files")] * 2

    async def accept() -> trio.SocketStream:
        if lacking:
            raise lacking.pop()
        return await real()

    listener.accept = accept  # type: ignore[method-assign]
    served = Listener([listener], hello=SERVER_HELLO, handlers=_handlers())
    async with trio.open_nursery() as nursery:
        with caplog.at_level(logging.WARNING):
            await nursery.start(served.run)
            address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            assert await _echoes(Port(served, address, []))
        assert served.statistics().n_accept_errors == 2
        assert [record.getMessage() for record in caplog.records] == ["rpc.accept_failed"], "said once"
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------ TLS


class Keys:
    """Certificates of one authority, written where agents read them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = trustme.CA()

    def files(self, *names: str, ca: trustme.CA | None = None, region: str = "global", **named: Any) -> RpcTlsFiles:
        paths = [self.root / f"{'-'.join(names)}-{len(list(self.root.iterdir()))}-{kind}.pem" for kind in "abc"]
        issuer = ca or self.ca
        leaf = issuer.issue_cert(*names, **named)
        self.ca.cert_pem.write_to_path(paths[0])
        leaf.cert_chain_pems[0].write_to_path(paths[1])
        leaf.private_key_pem.write_to_path(paths[2])
        ca_file, cert_file, key_file = map(str, paths)
        return RpcTlsFiles(
            ca_file=ca_file, cert_file=cert_file, key_file=key_file, region=region, verify_server_hostname=True
        )

    def tls(self, *names: str, **named: Any) -> RpcTls:
        return RpcTls(self.files(*names, **named))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


SERVER, CLIENT = "server.global.nomad", "client.global.nomad"


async def test_the_same_talk_over_tls_with_the_names_known(keys: Keys) -> None:
    server = keys.tls(SERVER, "server-1.server.global.nomad")
    far = Far()
    handlers = _handlers()
    handlers.add(handle_relay(far.app))
    async with port(tls=server, admit=server.check_peer, handlers=handlers) as at:
        tls = keys.tls(CLIENT)
        stream, names = await Dialer(tls).rpc(at.address)
        assert names == {SERVER, "server-1.server.global.nomad"}
        async with talk(stream, certificate_names=names, admit=tls.check_peer) as connection:
            data = os.urandom(1_000_000)
            assert (await connection.call(ECHO, Text(data=data), timeout_s=20)).data == data
            async with site(way_over(connection)) as near:
                head, body = _parts(await _ask(near, GET.replace(b"/ ", b"/echo?over=tls ")))
            assert head.startswith(b"http/1.1 201")
            assert b"over=tls" in body
        raft = await Dialer(keys.tls(SERVER)).raft(at.address, node_name="server-1")
        await raft.send_all(b"frames")
        await eventually(lambda: at.raft == [(b"frames", frozenset({SERVER}))])
        await trio.aclose_forcefully(raft)


async def test_a_clients_certificate_opens_no_raft_stream(keys: Keys) -> None:
    async with port(tls=keys.tls(SERVER)) as at:
        stream = await Dialer(keys.tls(CLIENT)).raft(at.address)
        assert await at.is_left(stream)
        assert (at.counted("n_strangers"), at.raft) == (1, [])
        await trio.aclose_forcefully(stream)


async def test_a_client_does_not_pass_for_a_server(keys: Keys) -> None:
    server = keys.tls(SERVER)
    async with port(tls=server, admit=server.check_peer) as at:
        stream, _ = await Dialer(keys.tls(CLIENT)).rpc(at.address)
        connection = Connection(stream, hello=SERVER_HELLO, handlers=Handlers(), dialed=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            assert "not one of a server" in await connection.closed()
        assert at.counted("n_refused") == 1
    async with port(tls=keys.tls(CLIENT)) as impostor:
        with pytest.raises(Forbidden, match="not one of a server"):
            await Dialer(keys.tls(CLIENT)).rpc(impostor.address)


async def test_a_servers_certificate_is_good_for_that_server_only(keys: Keys) -> None:
    async with port(tls=keys.tls(SERVER, "server-2.server.global.nomad")) as at:
        with pytest.raises(ConnectionError, match="for the server server-2, not for server-1"):
            await Dialer(keys.tls(SERVER)).raft(at.address, node_name="server-1")


PEERS = [
    ("server", "a", {SERVER}, True),
    ("server", "a", {SERVER, "a.server.global.nomad"}, True),
    ("server", "A.global", {SERVER, "a.server.global.nomad"}, True),
    ("server", "b", {SERVER, "a.server.global.nomad"}, False),
    ("server", "b", {"a.server.global.nomad"}, False),
    ("server", "a", {CLIENT}, False),
    ("server", "a", {"server.europe.nomad"}, False),
    ("client", "n", {CLIENT}, True),
    ("client", "n", {SERVER}, True),
    ("client", "n", {"localhost"}, False),
]


@pytest.mark.parametrize(("role", "name", "names", "welcome"), PEERS)
def test_what_a_certificate_allows(keys: Keys, role: str, name: str, names: set[str], welcome: bool) -> None:
    peer = Peer(role=role, name=name, certificate_names=frozenset(names))
    with contextlib.nullcontext() if welcome else pytest.raises(Forbidden):
        keys.tls(SERVER).check_peer(peer)


async def _handshake(at: Port, context: ssl.SSLContext | None, data: bytes = b"") -> None:
    """A stranger's attempt; how it fails at that end does not matter."""
    stream: Any = await at.connect()
    if context is not None:
        stream = trio.SSLStream(stream, context)
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data or b"\x02")
        await at.is_left(stream)
    await trio.aclose_forcefully(stream)


def _stranger() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def test_whoever_does_not_belong_fails_the_handshake_with_a_sentence(
    keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    other = Keys(keys.root)
    wrong, expired = _stranger(), _stranger()
    for context, named in ((wrong, {"ca": other.ca}), (expired, {"not_after": dt.datetime(2020, 1, 1)})):
        files = keys.files(CLIENT, **named)
        context.load_cert_chain(files.cert_file, files.key_file)
    with caplog.at_level(logging.WARNING):
        async with port(tls=keys.tls(SERVER)) as at:
            await _handshake(at, _stranger())
            await _handshake(at, wrong)
            await _handshake(at, expired)
            await _handshake(at, None, b"GET / HTTP/1.1\r\n\r\n")
            await _handshake(at, None, b"\x02" * 100)
            await eventually(lambda: at.counted("n_tls_failed") == 5)
            stream = await at.connect()  # half-open: it never begins
            assert await at.is_left(stream)
            assert at.counted("n_silent") == 1
            await stream.aclose()
    reasons = [record.__dict__["fields"]["reason"] for record in caplog.records if "fields" in record.__dict__]
    wanted = ["shown no certificate", "not issued by the authority", "has expired", "plain HTTP", "does not speak TLS"]
    assert [any(words in reason for reason in reasons) for words in wanted] == [True] * 5, reasons


async def test_the_dialing_end_says_what_is_wrong_with_the_servers_certificate(keys: Keys) -> None:
    tls = keys.tls(SERVER)
    late = {"not_before": dt.datetime(2000, 1, 1), "not_after": dt.datetime(2001, 1, 1)}
    for named, words in (({"ca": trustme.CA()}, "not issued by the authority"), (late, "has expired")):
        async with port(tls=keys.tls(SERVER, **named)) as at:
            with pytest.raises(NotConnected, match=words):
                await Dialer(tls).rpc(at.address)
    early = {"not_before": dt.datetime(2099, 1, 1), "not_after": dt.datetime(2100, 1, 1)}
    async with port(tls=keys.tls(SERVER, **early)) as at:
        with pytest.raises(NotConnected, match="not valid yet: the clock"):
            await Dialer(tls).rpc(at.address)
    async with port() as plain:
        with pytest.raises(NotConnected, match="TLS"):
            await Dialer(tls).rpc(plain.address)


def test_trouble_with_our_own_certificate_is_told_in_time(keys: Keys) -> None:
    files = keys.files("localhost", not_before=dt.datetime(2030, 1, 1), not_after=dt.datetime(2030, 6, 1))

    def problems(*day: int) -> str:
        return " ".join(RpcTls(files, now=lambda: dt.datetime(*day, tzinfo=dt.UTC)).problems())  # type: ignore[misc]

    assert "is not valid before 2030-01-01" in problems(2029, 12, 31)
    assert "expires on 2030-06-01" in problems(2030, 5, 25)
    assert "has expired on 2030-06-01" in problems(2030, 7, 1)
    assert "carries neither server.global.nomad nor client.global.nomad" in problems(2030, 3, 1)


def _put(files: RpcTlsFiles, source: RpcTlsFiles) -> None:
    for kind in ("cert_file", "key_file"):
        Path(getattr(files, kind)).write_bytes(Path(getattr(source, kind)).read_bytes())


async def test_certificates_can_be_changed_while_connections_stay(keys: Keys) -> None:
    files = keys.files(SERVER)
    server, tls = RpcTls(files), keys.tls(CLIENT)
    async with port(tls=server) as at:
        stream, names = await Dialer(tls).rpc(at.address)
        async with talk(stream) as connection:
            newer = keys.files(SERVER, "new.example")
            _put(files, newer)
            server.reload()
            assert await connection.call(ECHO, Text("old"), timeout_s=5) == Text("old")
            again, newer_names = await Dialer(tls).rpc(at.address)
            await trio.aclose_forcefully(again)
            _put(files, RpcTlsFiles(ca_file="", cert_file=files.key_file, key_file=files.cert_file))
            with pytest.raises(Invalid, match="cannot use the TLS files"):
                server.reload()
            still, last_names = await Dialer(tls).rpc(at.address)
            await trio.aclose_forcefully(still)
    assert (names, newer_names, last_names) == ({SERVER}, {SERVER, "new.example"}, {SERVER, "new.example"})
