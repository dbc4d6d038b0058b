"""Clients and their servers, servers among each other: real listeners, servers that fail, leaders that change."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from serving import eventually
from wires import CLIENT_HELLO, SERVER_HELLO

from nomadpy.model.alloc import Allocation, AllocUpdate
from nomadpy.model.errors import Conflict, Forbidden, Invalid, NoLeader, NotFound
from nomadpy.model.job import Job
from nomadpy.model.node import Node, NodeEvent
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.contract import Assignments, NodeLease, ServerEndpoint
from nomadpy.rpc.dial import Dialer, split_address
from nomadpy.rpc.handlers import Handlers, NotConnected, Word
from nomadpy.rpc.listener import Listener
from nomadpy.rpc.peers import Peers, Roster, server_of_node
from nomadpy.rpc.remote import Patience, RemoteServers
from nomadpy.rpc.through_leader import ThroughLeader
from nomadpy.rpc.words import serve_servers

SOON = Patience(
    attempt_s=5,
    total_s=8,
    heartbeat_attempt_s=3,
    heartbeat_total_s=6,
    retry_s=0.02,
    redial_s=0.02,
    steady_s=0.5,
    no_leader_s=0.1,
)


class Book:
    """A server's endpoint that writes down what it is asked."""

    def __init__(self, *, servers: tuple[str, ...] = ()) -> None:
        self.asked: list[Any] = []
        self.servers = servers
        self.problem: Exception | None = None
        self.waiting = trio.Event()

    def _note(self, *what: Any) -> None:
        if self.problem is not None:
            raise self.problem
        self.asked.append(what)

    async def register_node(self, node: Node) -> NodeLease:
        self._note("register", node)
        return NodeLease(heartbeat_ttl_s=12.5, index=7, servers=self.servers)

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        self._note("heartbeat", node_id, secret_id, status)
        return NodeLease(status=status, servers=self.servers)

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        self.waiting.set()
        self._note("wait", node_id, secret_id, after, wait_s)
        if after == 99:
            await trio.sleep(wait_s)
        return Assignments(index=after + 1, allocs={"a": after})

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        self._note("get", node_id, secret_id, alloc_ids)
        return [Allocation(id=alloc_id, job=Job(id="web", name="web")) for alloc_id in alloc_ids]

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        self._note("update", node_id, secret_id, updates)
        return 11

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        self._note("events", node_id, secret_id, events)


class Office:
    """A server that listens."""

    def __init__(self, address: str, listener: Listener, scope: trio.CancelScope, roster: Roster) -> None:
        self.address, self.listener, self.scope, self.roster = address, listener, scope, roster


async def open_office(
    nursery: trio.Nursery,
    endpoint: ServerEndpoint,
    *,
    server_id: str = "s1",
    more: Handlers | None = None,
    **named: Any,
) -> Office:
    """Listens until its scope is cancelled."""
    roster, scope = Roster(), trio.CancelScope()
    handlers = serve_servers(endpoint, on_node=roster.put, passed_on=named.pop("passed_on", None))
    handlers.add(roster.handlers())
    if more is not None:
        handlers.add(more)
    sockets = await trio.open_tcp_listeners(named.pop("port", 0), host="127.0.0.1")
    hello = msgspec.structs.replace(SERVER_HELLO, id=server_id, name=server_id)
    listener = Listener(sockets, hello=hello, handlers=handlers, **named)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await listener.run(task_status=task_status)

    await nursery.start(run)
    return Office(f"127.0.0.1:{sockets[0].socket.getsockname()[1]}", listener, scope, roster)


@asynccontextmanager
async def client(*addresses: str, **named: Any) -> AsyncIterator[RemoteServers]:
    handlers = named.pop("handlers", Handlers())
    named = {"patience": SOON, "dial": Dialer().rpc, **named}
    servers = RemoteServers(addresses, hello=CLIENT_HELLO, handlers=handlers, rng=random.Random(3), **named)
    async with trio.open_nursery() as nursery:
        await nursery.start(servers.run)
        yield servers
        nursery.cancel_scope.cancel()


async def _heartbeat(servers: ServerEndpoint) -> NodeLease:
    return await servers.heartbeat("n1", "secret", "ready")


async def test_all_six_calls_arrive_and_answer() -> None:
    book = Book()
    node = Node(id="n1", secret_id="secret", name="one", attributes={"kernel.name": "linux"})
    update, event = AllocUpdate(id="a1", client_status="running"), NodeEvent(message="hello", timestamp_ns=5)
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, book)
        async with client(office.address) as servers:
            assert (await servers.register_node(node)).heartbeat_ttl_s == 12.5
            assert (await _heartbeat(servers)).status == "ready"
            assert await servers.wait_assignments("n1", "secret", 4, 0.5) == Assignments(index=5, allocs={"a": 4})
            [alloc] = await servers.get_allocs("n1", "secret", ["a1"])
            assert (alloc.id, alloc.job and alloc.job.id) == ("a1", "web")
            assert await servers.update_allocs("n1", "secret", [update]) == 11
            await servers.emit_node_events("n1", "secret", [event])
            assert office.roster.node_ids() == ["n1"]
        nursery.cancel_scope.cancel()
    assert [one[0] for one in book.asked] == ["register", "heartbeat", "wait", "get", "update", "events"]
    assert book.asked[0][1] == node
    assert book.asked[4][3] == [update]
    assert book.asked[5][3] == [event]


@pytest.mark.parametrize("error", [NotFound("register again"), Forbidden("wrong secret"), Invalid("no"), Conflict("x")])
async def test_refusals_are_told_at_once(error: Exception) -> None:
    book = Book()
    book.problem = error
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, book)
        async with client(office.address) as servers:
            with pytest.raises(type(error)):
                await _heartbeat(servers)
            assert office.roster.node_ids() == [], "a node that proved nothing gets no requests relayed"
        nursery.cancel_scope.cancel()


async def test_another_server_is_asked_when_one_dies_and_hears_of_the_node_at_once() -> None:
    async with trio.open_nursery() as nursery:
        offices = [await open_office(nursery, Book(), server_id=f"s{number}") for number in range(3)]
        seen: list[Connection | None] = []
        async with client(*(one.address for one in offices), on_change=seen.append) as servers:
            await _heartbeat(servers)
            first = servers.servers()[0]
            next(one for one in offices if one.address == first).scope.cancel()
            await _heartbeat(servers)
            assert servers.servers()[0] != first
            now = next(one for one in offices if one.address == servers.servers()[0])
            await eventually(lambda: now.roster.node_ids() == ["n1"])
        assert [one is None for one in seen] == [False, True, False, True]
        nursery.cancel_scope.cancel()


async def test_a_call_survives_the_death_of_its_server() -> None:
    async with trio.open_nursery() as nursery:
        books = [Book(), Book()]
        offices = [await open_office(nursery, book) for book in books]
        async with client(*(one.address for one in offices)) as servers:
            answers = []

            async def wait() -> None:
                answers.append(await servers.wait_assignments("n1", "secret", 99, 0.3))

            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait)
                while not any(book.waiting.is_set() for book in books):  # noqa: ASYNC110
                    await trio.sleep(0.005)
                next(one for one in offices if one.address == servers.servers()[0]).scope.cancel()
        assert answers == [Assignments(index=100, allocs={"a": 99})]
        assert all(book.waiting.is_set() for book in books)
        nursery.cancel_scope.cancel()


async def test_no_leader_is_waited_out_and_other_servers_are_tried() -> None:
    async with trio.open_nursery() as nursery:
        lost, well = Book(), Book()
        lost.problem = NoLeader()
        offices = [await open_office(nursery, book) for book in (lost, well)]
        async with client(offices[0].address) as servers:
            servers_later = offices[1].address
            await servers.connected(5)
            servers.set_servers([offices[0].address, servers_later])
            assert (await _heartbeat(servers)).status == "ready"
            assert servers.servers()[0] == servers_later
        nursery.cancel_scope.cancel()


async def test_no_leader_anywhere_is_told_in_bounded_time() -> None:
    book = Book()
    book.problem = NoLeader()
    quick = msgspec.structs.replace(SOON, heartbeat_total_s=0.3)
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, book)
        async with client(office.address, patience=quick) as servers:
            with pytest.raises(NoLeader, match="No cluster leader"):
                await _heartbeat(servers)
        async with client("127.0.0.1:1", patience=quick) as servers:
            with pytest.raises(NoLeader, match=r"no server can be reached: cannot connect to 127\.0\.0\.1:1"):
                await _heartbeat(servers)
            assert servers.connection is None
        nursery.cancel_scope.cancel()


async def test_addresses_are_learnt_from_leases() -> None:
    async with trio.open_nursery() as nursery:
        second = await open_office(nursery, Book())
        first = await open_office(nursery, Book(servers=(second.address,)))
        async with client(first.address) as servers:
            await _heartbeat(servers)
            assert servers.servers() == (first.address, second.address)
            first.scope.cancel()
            await _heartbeat(servers)
            assert servers.servers()[0] == second.address
        nursery.cancel_scope.cancel()


PING: Word[NodeLease, NodeLease] = Word("Test.Ping", NodeLease, NodeLease)


async def test_servers_ask_the_client_over_the_connection_that_it_opened() -> None:
    handlers = Handlers()

    async def ping(params: NodeLease, caller: Connection) -> NodeLease:
        return NodeLease(index=params.index + 1)

    handlers.on(PING, ping)
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, Book())
        async with client(office.address, handlers=handlers) as servers:
            await _heartbeat(servers)
            connection = office.roster.get("n1")
            assert connection is not None
            assert (await connection.call(PING, NodeLease(index=1), timeout_s=5)).index == 2
        await eventually(lambda: office.roster.get("n1") is None)
        nursery.cancel_scope.cancel()


async def test_a_stranger_among_the_servers_is_not_talked_to() -> None:
    def nobody(peer: Any) -> None:
        raise Forbidden("that is no server of ours")

    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, Book())
        quick = msgspec.structs.replace(SOON, heartbeat_total_s=0.3)
        async with client(office.address, patience=quick, admit=nobody) as servers:
            with pytest.raises(NoLeader, match="no server of ours"):
                await _heartbeat(servers)
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------ among servers


@asynccontextmanager
async def peers_of(addresses: dict[str, str], me: str = "s0") -> AsyncIterator[Peers]:
    hello = msgspec.structs.replace(SERVER_HELLO, id=me, name=me)
    peers = Peers(address_of=addresses.get, dial=Dialer().rpc, hello=hello, handlers=Handlers())
    async with trio.open_nursery() as nursery:
        await nursery.start(peers.run)
        yield peers
        nursery.cancel_scope.cancel()


async def test_peers_are_dialed_once_reused_and_dialed_again() -> None:
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, Book(), server_id="s1")
        addresses = {"s1": office.address}
        async with peers_of(addresses) as peers:
            got: list[Connection] = []

            async def ask() -> None:
                got.append(await peers.connection("s1"))

            async with trio.open_nursery() as asking:
                for _ in range(10):
                    asking.start_soon(ask)
            assert len(set(map(id, got))) == 1
            assert office.listener.statistics().n_rpc == 1
            office.scope.cancel()
            await got[0].closed()
            with pytest.raises(NotConnected, match="cannot connect"):
                await peers.connection("s1")
            again = await open_office(nursery, Book(), server_id="s1")
            addresses["s1"] = again.address
            await trio.sleep(0.35)
            assert (await peers.connection("s1")).peer.id == "s1"
            with pytest.raises(NotConnected, match="address of server s9 is not known"):
                await peers.connection("s9")
        nursery.cancel_scope.cancel()


async def test_who_asks_while_the_agent_ends_hears_that_nothing_is_connected() -> None:
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, Book(), server_id="s1")
        async with peers_of({"s1": office.address}) as peers:
            pass
        with pytest.raises(NotConnected, match="starts or ends"):
            await peers.connection("s1")
        nursery.cancel_scope.cancel()


async def test_another_server_at_a_peers_address_is_not_taken_for_it() -> None:
    async with trio.open_nursery() as nursery:
        office = await open_office(nursery, Book(), server_id="s2")
        async with peers_of({"s1": office.address}) as peers:
            with pytest.raises(NotConnected, match="not server s1"):
                await peers.connection("s1")
        nursery.cancel_scope.cancel()


async def test_a_follower_passes_its_clients_calls_on_to_the_leader_but_not_further() -> None:
    leader = ["s1"]
    first, second = Book(), Book()
    addresses: dict[str, str] = {}

    def through_leader(book: Book, server_id: str, peers: Peers) -> ThroughLeader:
        return ThroughLeader(
            book,
            server_id=server_id,
            leader=lambda: leader[0],
            leader_changed=trio.sleep_forever,
            peers=peers,
            rng=random.Random(1),
        )

    async with trio.open_nursery() as nursery, peers_of(addresses, "s1") as peers1, peers_of(addresses, "s2") as peers2:
        at_1, at_2 = through_leader(first, "s1", peers1), through_leader(second, "s2", peers2)
        office_1 = await open_office(nursery, at_1, server_id="s1", passed_on=first)
        office_2 = await open_office(nursery, at_2, server_id="s2", passed_on=second)
        addresses |= {"s1": office_1.address, "s2": office_2.address}
        async with client(office_2.address) as servers:
            assert (await servers.register_node(Node(id="n1", name="n", secret_id="s"))).index == 7
            await _heartbeat(servers)
            assert (await servers.wait_assignments("n1", "s", 3, 1)).index == 4
            await servers.get_allocs("n1", "s", [])
            await servers.update_allocs("n1", "s", [])
            await servers.emit_node_events("n1", "s", [])
            assert (len(first.asked), len(second.asked)) == (6, 0)
            assert office_2.roster.node_ids() == ["n1"], "it is the follower that holds the connection"
            assert await server_of_node(peers1, ["s2", "s9"], "n1") == "s2"
            assert await server_of_node(peers1, ["s2"], "n2") == ""
            leader[0] = "s2"
            await _heartbeat(servers)
            assert len(second.asked) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1:4000", ("10.0.0.1", 4000)),
        ("host", ("host", 4647)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 4647)),
        ("fe80::1", ("fe80::1", 4647)),
    ],
)
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert split_address(text) == found


@pytest.mark.parametrize("text", ["", ":4647", "host:", "host:port", "host:0", "host:70000", "[]:3"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(Invalid, match="write host:port"):
        split_address(text)
