"""One entry that changes the orders of very many nodes."""

from __future__ import annotations

import trio
from cluster_builders import SECRET, make_job, make_node, node_id
from server_world import World
from trio.testing import MockClock

N_NODES = 300


async def test_all_nodes_hear_of_their_orders_though_they_are_woken_in_turns(
    autojump_clock: MockClock, world: World
) -> None:
    nodes = world.server.nodes
    seen = []
    for number in range(N_NODES):
        await nodes.register_node(make_node(number))
        await nodes.heartbeat(node_id(number), SECRET, "ready")
        seen.append((await nodes.wait_assignments(node_id(number), SECRET, 0, 60)).index)
    told: dict[int, float] = {}

    async def wait(number: int) -> None:
        orders = await nodes.wait_assignments(node_id(number), SECRET, seen[number], 60)
        assert len(orders.allocs) == 1
        told[number] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for number in range(N_NODES):
            nursery.start_soon(wait, number)
        await trio.sleep(1)
        await world.register(make_job(type="system"))
    assert len(told) == N_NODES
    moments = sorted(told.values())
    assert max(moments.count(moment) for moment in set(moments)) <= 64
    assert moments[-1] - moments[0] < 1
