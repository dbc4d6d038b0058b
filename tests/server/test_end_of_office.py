"""What ends with a server's leadership."""

from __future__ import annotations

import pytest
import trio
from cluster_builders import SECRET, make_node, node_id
from trio.testing import MockClock, wait_all_tasks_blocked

from nomadpy.model.errors import NoLeader
from nomadpy.raft.contract import Apply, Leadership
from nomadpy.raft.memory import MemoryLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.server import Server


class DeposableLog(MemoryLog):
    """A log whose leadership can be taken away."""

    def __init__(self, apply: Apply) -> None:
        super().__init__(apply)
        self._deposed = trio.Event()

    def depose(self) -> None:
        self._deposed.set()

    @property
    def is_leader(self) -> bool:
        return not self._deposed.is_set()

    @property
    def leadership(self) -> Leadership:
        return Leadership(leader="" if self._deposed.is_set() else "me", leading=self.is_leader, term=1)

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        await self._deposed.wait()
        while self.leadership == seen:
            await trio.sleep_forever()
        return self.leadership


async def test_a_node_that_waits_for_orders_is_sent_to_the_next_leader(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    made: list[DeposableLog] = []

    def make_log(apply: Apply) -> DeposableLog:
        made.append(DeposableLog(apply))
        return made[0]

    server = Server(ServerConfig(), make_log)
    await nursery.start(server.run)
    await server.nodes.register_node(make_node(0))
    orders = await server.nodes.wait_assignments(node_id(0), SECRET, 0, 60)
    refused: list[float] = []

    async def wait() -> None:
        with pytest.raises(NoLeader):
            await server.nodes.wait_assignments(node_id(0), SECRET, orders.index, 300)
        refused.append(trio.current_time())

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await wait_all_tasks_blocked()
        before = trio.current_time()
        made[0].depose()
    assert refused == [before]


async def test_many_that_wait_for_orders_are_sent_on_in_turns(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    made: list[DeposableLog] = []

    def make_log(apply: Apply) -> DeposableLog:
        made.append(DeposableLog(apply))
        return made[0]

    server = Server(ServerConfig(), make_log)
    await nursery.start(server.run)
    refused: list[float] = []

    async def wait(number: int, after: int) -> None:
        with pytest.raises(NoLeader):
            await server.nodes.wait_assignments(node_id(number), SECRET, after, 300)
        refused.append(trio.current_time())

    async with trio.open_nursery() as waiting:
        for number in range(200):
            await server.nodes.register_node(make_node(number))
            orders = await server.nodes.wait_assignments(node_id(number), SECRET, 0, 60)
            waiting.start_soon(wait, number, orders.index)
        await wait_all_tasks_blocked()
        made[0].depose()
    assert len(refused) == 200
    assert max(refused.count(at) for at in set(refused)) <= 64
    assert max(refused) - min(refused) < 1
