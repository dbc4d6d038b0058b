"""Three servers over TLS on loopback, and what is turned away."""

from __future__ import annotations

import contextlib
import datetime
import functools
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from test_raftlog import QUICK, State, until

from nomadpy.model.errors import NoLeader
from nomadpy.raft.entries import COMMAND
from nomadpy.raft.links import Hello, Links, certificate_names
from nomadpy.raft.messages import Append, Message, Vote, encode
from nomadpy.raft.raftlog import RaftLog


def hello(name: str, cluster_id: str = "") -> bytes:
    """The first frame of a stream."""
    data = msgspec.msgpack.encode(Hello(name, cluster_id))
    return struct.pack("<I", len(data)) + data


class Authority:
    """Signs certificates for one test."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self._sign(self.key, self.name, None).public_bytes(serialization.Encoding.PEM))

    def _sign(self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, dns: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=dns is None, path_length=None), critical=True)
        )
        if dns is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def context(self, name: str, purpose: ssl.Purpose) -> ssl.SSLContext:
        """A context with a certificate of ``name`` that trusts this authority alone."""
        path = self.directory / f"{name}-{purpose.name}.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), name)
        no_password = serialization.NoEncryption()
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
        )
        context = ssl.create_default_context(purpose, cafile=str(self.path))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(path)
        return context


class Server:
    """A replicated log with its links and a listener."""

    def __init__(self, directory: Path, name: str, voters: tuple[str, ...], authority: Authority) -> None:
        self.name, self.state = name, State()
        self.ports: dict[str, int] = {}
        self._accepting = authority.context(name, ssl.Purpose.CLIENT_AUTH)
        self._dialing = authority.context(name, ssl.Purpose.SERVER_AUTH)
        self.scope = trio.CancelScope()

        def send(recipient: str, message: Message) -> None:
            self.links.send(recipient, message)

        self.log = RaftLog(directory / name, self.state.apply, name=name, voters=voters, send=send, settings=QUICK)
        self.links = Links(name, connect=self.connect, receive=self.log.receive, lost=self.log.connection_reset)

    async def connect(self, peer: str) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.ports[peer])
        secure = trio.SSLStream(stream, self._dialing, server_hostname=peer)
        await secure.do_handshake()
        return secure

    async def accept(self, stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, self._accepting, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            await secure.do_handshake()
            await self.links.serve(secure, allowed=lambda name: name in certificate_names(secure))
        await trio.aclose_forcefully(secure)

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                nursery.start_soon(trio.serve_listeners, self.accept, listeners)
                await nursery.start(self.links.run)
                await nursery.start(self.log.run)
                task_status.started(listeners[0].socket.getsockname()[1])


@contextlib.asynccontextmanager
async def three(directory: Path) -> AsyncIterator[tuple[dict[str, Server], dict[str, int], Authority]]:
    authority = Authority(directory)
    names = ("a", "b", "c")
    servers = {name: Server(directory, name, names, authority) for name in names}
    ports: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        for server in servers.values():
            server.ports = ports
            ports[server.name] = 1  # nobody listens there
        for server in servers.values():
            ports[server.name] = await nursery.start(server.run)
        yield servers, ports, authority
        nursery.cancel_scope.cancel()


async def leader_of(servers: dict[str, Server]) -> Server:
    await until(lambda: any(server.log.is_leader for server in servers.values()))
    return next(server for server in servers.values() if server.log.is_leader)


async def propose(servers: dict[str, Server], data: bytes) -> None:
    with trio.fail_after(30):
        while True:
            try:
                await (await leader_of(servers)).log.propose(data)
            except NoLeader:
                await trio.sleep(0.01)
            else:
                return


async def test_three_servers_agree_over_tls_and_survive_one(tmp_path: Path) -> None:
    async with three(tmp_path) as (servers, _ports, _authority):
        for number in range(50):
            await propose(servers, b"%d" % number)
        await until(lambda: len({tuple(server.state.values) for server in servers.values()}) == 1)
        gone = await leader_of(servers)
        gone.scope.cancel()
        del servers[gone.name]
        await propose(servers, b"after")
        await until(lambda: len({tuple(server.state.values) for server in servers.values()}) == 1)
        assert next(iter(servers.values())).state.values[-1] == b"after"


async def hears(server: Server, port: int, context: ssl.SSLContext | None, name: str) -> bool:
    """Whether a stream that calls itself ``name`` stays open after its first messages."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        if context is not None:
            stream = trio.SSLStream(stream, context, server_hostname=server.name)
            await stream.do_handshake()
        vote = encode(Vote(10**6))
        await stream.send_all(hello(name) + struct.pack("<I", len(vote)) + vote)
        with trio.move_on_after(0.3):
            await stream.receive_some(1)
            return False
    except (trio.BrokenResourceError, ssl.SSLError):
        return False
    finally:
        await trio.aclose_forcefully(stream)
    return True


async def test_strangers_are_turned_away(tmp_path: Path) -> None:
    async with three(tmp_path) as (servers, ports, authority):
        await propose(servers, b"x")
        leader = await leader_of(servers)
        follower = next(server for server in servers.values() if server is not leader)
        term = follower.log.core.term
        foreign = Authority(tmp_path, "foreign")
        valid = authority.context("z", ssl.Purpose.SERVER_AUTH)
        other = foreign.context(leader.name, ssl.Purpose.SERVER_AUTH)
        other.load_verify_locations(authority.path)
        anonymous = ssl.create_default_context(cafile=str(authority.path))
        for context, name in (
            (None, leader.name),
            (valid, leader.name),
            (other, leader.name),
            (anonymous, leader.name),
        ):
            assert not await hears(follower, ports[follower.name], context, name)
        assert follower.log.core.term == term
        assert await hears(follower, ports[follower.name], valid, "z"), "its own name it may use"
        assert follower.log.core.term == term


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", struct.pack("<I", 5) + b"junk!", b""])
async def test_a_malformed_stream_is_closed(frame: bytes) -> None:
    heard: list[tuple[str, Message]] = []
    lost: list[str] = []

    async def receive(sender: str, message: Message) -> None:
        heard.append((sender, message))

    async def note_lost(server: str) -> None:
        lost.append(server)

    async def connect(peer: str) -> trio.abc.Stream:
        raise OSError(peer)

    links = Links("a", connect=connect, receive=receive, lost=note_lost)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: links.serve(ours, allowed=lambda name: name == "b"))
        vote = encode(Vote(3))
        await theirs.send_all(hello("b") + struct.pack("<I", len(vote)) + vote + frame)
        if not frame:
            await theirs.aclose()
    assert heard == [("b", Vote(3))]
    assert lost == ["b"]


async def test_the_newest_stream_of_a_server_counts() -> None:
    heard: list[Message] = []

    async def receive(_sender: str, message: Message) -> None:
        heard.append(message)

    async def nothing(_server: str) -> None:
        raise AssertionError("the server is still connected")

    async def connect(peer: str) -> trio.abc.Stream:
        raise OSError(peer)

    links = Links("a", connect=connect, receive=receive, lost=nothing)
    async with trio.open_nursery() as nursery:
        ends = []
        for _ in range(2):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(lambda stream=ours: links.serve(stream, allowed=lambda _name: True))
            await theirs.send_all(hello("b"))
            await trio.testing.wait_all_tasks_blocked()
            ends.append(theirs)
        with pytest.raises(trio.BrokenResourceError):
            await ends[0].send_all(b"more")
        vote = encode(Vote(3))
        await ends[1].send_all(struct.pack("<I", len(vote)) + vote)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert heard == [Vote(3)]


async def admitted(links: Links, name: str, cluster_id: str) -> bool:
    """Whether a stream of that server and cluster is kept open."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: links.serve(ours, allowed=lambda _name: True))
        await theirs.send_all(hello(name, cluster_id))
        await trio.testing.wait_all_tasks_blocked()
        try:
            await theirs.send_all(b"\0")
        except trio.BrokenResourceError:
            kept = False
        else:
            kept = True
        nursery.cancel_scope.cancel()
    return kept


def pretend_links(cluster_id: str, learnt: list[str]) -> Links:
    async def receive(_sender: str, _message: Message) -> None:
        raise AssertionError("nothing is said in these tests")

    async def lost(_server: str) -> None:
        await trio.lowlevel.checkpoint()

    async def connect(peer: str) -> trio.abc.Stream:
        raise OSError(peer)

    async def learn(cluster_id: str) -> None:
        learnt.append(cluster_id)
        await trio.lowlevel.checkpoint()

    return Links("a", connect=connect, receive=receive, lost=lost, cluster_id=cluster_id, learn=learn)


async def test_another_cluster_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    links = pretend_links("one", [])
    assert await admitted(links, "b", "one")
    assert not await admitted(links, "b", "two")
    assert "belongs to cluster two, this one to one" in caplog.records[-1].fields["error"]  # type: ignore[attr-defined]
    assert not await admitted(links, "b", ""), "who belongs to none has nothing to say"


async def test_who_waits_to_be_taken_in_belongs_to_the_first_that_speaks() -> None:
    learnt: list[str] = []
    links = pretend_links("", learnt)
    assert await admitted(links, "b", "one")
    assert learnt == ["one"]
    assert links.cluster_id == "one"
    assert not await admitted(links, "c", "two")
    assert await admitted(links, "c", "one")
    assert learnt == ["one"]


async def test_a_cluster_that_cannot_be_remembered_is_not_joined(caplog: pytest.LogCaptureFixture) -> None:
    links = pretend_links("", [])

    async def learn(_cluster_id: str) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("no space left")

    links._learn = learn
    assert not await admitted(links, "b", "one")
    assert links.cluster_id == ""
    assert "no space left" in caplog.records[-1].fields["error"]  # type: ignore[attr-defined]


async def test_what_a_socket_does_not_take_at_once_arrives_all_the_same() -> None:
    heard: list[Message] = []

    async def receive(_sender: str, message: Message) -> None:
        heard.append(message)
        await trio.lowlevel.checkpoint()

    async def nothing(_server: str) -> None:
        await trio.lowlevel.checkpoint()

    async def connect(_peer: str) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        return stream

    def said(number: int) -> Message:
        return Append(3, number, 1, 1, 1, [(COMMAND + bytes([number]) * 400_000, 2, 3)])

    speaks = Links("a", connect=connect, receive=receive, lost=nothing)
    hears = Links("b", connect=connect, receive=receive, lost=nothing)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        accept = functools.partial(hears.serve, allowed=lambda _name: True)
        nursery.start_soon(trio.serve_listeners, accept, [listener])
        await nursery.start(speaks.run)
        speaks.send("b", Vote(3))
        await until(lambda: speaks._outboxes["b"].connected)
        for number in range(8):
            speaks.send("b", said(number))
            if number == 3:
                # There may be nothing under way, or much.
                await until(lambda: len(heard) == 4)
        await until(lambda: len(heard) == 8)
        nursery.cancel_scope.cancel()
    assert heard == [said(number) for number in range(8)]
