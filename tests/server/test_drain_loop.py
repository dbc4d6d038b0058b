"""The leader drains nodes by itself: one after another, to the deadline, and after a change of office."""

from __future__ import annotations

from pathlib import Path

import trio
from cluster_builders import make_job, node_id
from server_world import World, running, wall_ns
from trio.testing import MockClock

from nomadpy.model.alloc import Allocation
from nomadpy.model.caller import ANYONE
from nomadpy.model.node import Node
from nomadpy.model.time import SECOND
from nomadpy.server.messages import DrainSpec, NodeDrainRequest


async def drain(world: World, number: int = 0, *, deadline_s: int = 3600) -> None:
    spec = DrainSpec(deadline_ns=deadline_s * SECOND)
    await world.server.fleet.drain_node(ANYONE, node_id(number), NodeDrainRequest(drain_spec=spec))


def node(world: World, number: int = 0) -> Node:
    found = world.server.store.node(node_id(number))
    assert found is not None
    return found


def on(world: World, number: int, job_id: str = "job") -> list[Allocation]:
    return [alloc for alloc in world.running(job_id) if alloc.node_id == node_id(number)]


async def test_services_move_one_after_another(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(count=3))
    await world.until(lambda: len(on(world, 0)) == 3)
    await world.add_node(1)
    await drain(world)
    counts = []
    while node(world).drain_strategy is not None:
        counts.append(len(world.running()))
        await trio.sleep(1)
    assert min(counts) >= 2
    await world.until(lambda: len(on(world, 1)) == 3)
    assert on(world, 0) == []
    assert node(world).events[-1].details == {}


async def test_a_deadline_is_kept(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(type="batch"))
    await world.until(lambda: len(world.running()) == 1)
    await drain(world, deadline_s=90)
    limit = node(world).drain_strategy
    assert limit is not None
    await world.until(lambda: node(world).drain_strategy is None)
    assert 0 <= wall_ns() - limit.force_deadline_ns < SECOND
    await world.until(lambda: [alloc.client_status for alloc in world.allocs()] == ["complete"])


async def test_a_drain_that_is_ended_leaves_the_rest_alone(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(type="batch"))
    await world.until(lambda: len(world.running()) == 1)
    await drain(world, deadline_s=90)
    await world.server.fleet.drain_node(ANYONE, node_id(0), NodeDrainRequest(mark_eligible=True))
    await trio.sleep(300)
    assert len(world.running()) == 1
    assert node(world).is_ready()


async def test_a_new_leader_goes_on_with_a_drain(tmp_path: Path) -> None:
    # By the real clock, because the one that jumps does not wait for a disk.
    async with running(tmp_path) as world:
        await world.add_node(0)
        await world.register(make_job(type="batch"))
        await world.until(lambda: len(world.running()) == 1)
        await drain(world, deadline_s=1)
    async with running(tmp_path) as world:
        assert node(world).drain_strategy is not None
        await world.until(lambda: node(world).drain_strategy is None)
        (alloc,) = world.allocs()
        assert alloc.desired_transition.migrate is True
        assert node(world).events[-1].details == {"deadline_reached": "true"}
