"""A client and its servers while there is no leader, or no server: in memory, in virtual time."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from wires import CLIENT_HELLO, SERVER_HELLO

from nomadpy.model.errors import NoLeader
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.contract import NodeLease
from nomadpy.rpc.handlers import Handlers, NotConnected
from nomadpy.rpc.remote import RemoteServers
from nomadpy.rpc.words import HEARTBEAT, Heartbeat


class Servers:
    """Servers by address. ``act(address)`` says what a heartbeat gets there."""

    def __init__(self, nursery: trio.Nursery, act: Callable[[str], NodeLease]) -> None:
        self._nursery, self._act = nursery, act
        self.there = True
        self.dialed: list[tuple[float, str]] = []
        self.asked: list[tuple[float, str]] = []

    async def dial(self, address: str) -> tuple[trio.abc.Stream, frozenset[str]]:
        self.dialed.append((trio.current_time(), address))
        await trio.lowlevel.checkpoint()
        if not self.there:
            raise NotConnected(f"cannot connect to {address}")
        ours, theirs = memory_stream_pair()
        handlers = Handlers()

        async def heartbeat(params: Heartbeat, caller: Connection) -> NodeLease:
            self.asked.append((trio.current_time(), address))
            await trio.lowlevel.checkpoint()
            return self._act(address)

        handlers.on(HEARTBEAT, heartbeat)
        self._nursery.start_soon(Connection(theirs, hello=SERVER_HELLO, handlers=handlers, dialed=False).run)
        return ours, frozenset()

    @asynccontextmanager
    async def client(self, *addresses: str) -> AsyncIterator[RemoteServers]:
        remote = RemoteServers(addresses, dial=self.dial, hello=CLIENT_HELLO, handlers=Handlers(), rng=random.Random(5))
        async with trio.open_nursery() as nursery:
            await nursery.start(remote.run)
            yield remote
            nursery.cancel_scope.cancel()


async def beat(remote: RemoteServers) -> NodeLease:
    return await remote.heartbeat("n", "s", "ready")


async def test_nobody_moves_while_servers_elect(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    def act(address: str) -> NodeLease:
        if trio.current_time() < elected_s:
            raise NoLeader
        return NodeLease(status="ready")

    servers = Servers(nursery, act)
    elected_s = trio.current_time() + 2.9
    async with servers.client("a", "b", "c") as remote:
        assert (await beat(remote)).status == "ready"
    assert len(servers.dialed) == 1
    assert len(servers.asked) < 9, "and nobody asks every third of a second"
    nursery.cancel_scope.cancel()


async def test_a_server_that_knows_of_no_leader_for_long_is_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    def act(address: str) -> NodeLease:
        if address == servers.dialed[0][1]:
            raise NoLeader
        return NodeLease(status=address)

    servers = Servers(nursery, act)
    async with servers.client("a", "b", "c") as remote:
        began_s = trio.current_time()
        lease = await beat(remote)
        assert [address for _, address in servers.dialed] == [servers.dialed[0][1], lease.status]
        assert 3 <= trio.current_time() - began_s < 7
    nursery.cancel_scope.cancel()


async def test_servers_that_are_all_gone_are_looked_for_every_few_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    servers = Servers(nursery, lambda _: NodeLease())
    servers.there = False
    async with servers.client("a") as remote:
        await trio.sleep(300)
        moments = [at for at, _ in servers.dialed]
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert gaps[0] < 0.5
        assert 4 < max(gaps) <= 7.5
        servers.there = True
        await remote.connected(7.5)
    nursery.cancel_scope.cancel()


async def test_an_error_that_was_answered_leaves_nothing_for_the_garbage_collector(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    raised: list[weakref.ref[NoLeader]] = []

    def act(address: str) -> NodeLease:
        error = NoLeader()
        raised.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    servers = Servers(nursery, act)
    async with servers.client("a") as remote:
        await remote.connected(1)
        gc.disable()
        try:
            with pytest.raises(NoLeader):
                await beat(remote)
            assert raised
            assert [ref() for ref in raised] == [None] * len(raised)
        finally:
            gc.enable()
    nursery.cancel_scope.cancel()
