"""Nodes that are out of reach for a while, with the whole server around them."""

from __future__ import annotations

import pytest
import trio.testing
from cluster_builders import SECRET, make_group, make_job, node_id
from server_world import World, running, wall_ns

from nomadpy.model.alloc import Allocation
from nomadpy.model.caller import ANYONE
from nomadpy.model.job import DisconnectStrategy, Job
from nomadpy.model.node import Node
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.server.disconnected import decide_disconnected, status_of_returning


def patient(**changes: object) -> Job:
    strategy = {"lost_after_ns": 10 * MINUTE, "replace_": True, "reconcile": "keep_original", **changes}
    return make_job(group=make_group(count=1).replace(disconnect=DisconnectStrategy(**strategy)))  # type: ignore[arg-type]


def node(world: World, number: int) -> Node:
    found = world.server.store.node(node_id(number))
    assert found is not None
    return found


async def begin(world: World, job: Job) -> Allocation:
    """Runs the job on node 0 and lets another node stand by."""
    await world.add_node(0)
    await world.register(job)
    await world.until(lambda: len(world.running()) == 1)
    await world.add_node(1)
    return world.running()[0]


async def cut_off(world: World, number: int = 0) -> None:
    world.fleet.silent.add(number)
    await world.until(lambda: node(world, number).status == "disconnected", within_s=120)
    await world.settled()


async def test_a_node_that_returns_in_time_keeps_its_work(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        original = await begin(world, patient())
        await cut_off(world)
        assert {a.client_status for a in world.live()} == {"unknown", "running"}
        assert world.server.store.jobs.current["default", "job"].status == "running"
        world.fleet.silent.clear()
        await world.until(lambda: node(world, 0).status == "initializing", within_s=60)
        await world.settled()
        assert len(world.live()) == 2, "nothing is decided before the node has told what runs"
        lease = await world.server.nodes.heartbeat(node_id(0), SECRET, "ready")
        assert lease.status == "initializing"
        await world.fleet.report(original, "running")
        assert (await world.server.nodes.heartbeat(node_id(0), SECRET, "ready")).status == "ready"
        await world.settled()
        assert [a.id for a in world.live()] == [original.id]
        assert "reconnect" in {evaluation.triggered_by for evaluation in world.evals()}
        await trio.sleep(20 * 60)
        await world.settled()
        assert [a.id for a in world.live()] == [original.id], "the old timeout says nothing any more"


async def test_a_node_that_stays_away_is_down_and_its_work_lost(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        original = await begin(world, patient())
        await cut_off(world)
        began_ns = wall_ns()
        await world.until(lambda: node(world, 0).status == "down", within_s=700)
        assert wall_ns() - began_ns < 10 * MINUTE + 5 * SECOND
        await world.settled()
        gone = world.server.store.alloc(original.id)
        assert gone is not None
        assert (gone.client_status, gone.desired_status) == ("lost", "stop")
        assert [a.client_status for a in world.live()] == ["running"]
        summary = world.server.store.jobs.summaries["default", "job"].summary["app"]
        assert (summary.unknown, summary.lost, summary.running) == (0, 1, 1)
        assert "max-disconnect-timeout" in {evaluation.triggered_by for evaluation in world.evals()}


async def test_a_node_is_down_as_soon_as_nobody_waits_for_it(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        await begin(world, patient())
        await cut_off(world)
        await world.server.jobs.deregister(ANYONE, "default", "job")
        await world.until(lambda: node(world, 0).status == "down", within_s=5)


async def test_a_node_with_nothing_to_wait_for_is_just_down(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        await begin(world, patient(lost_after_ns=0))
        world.fleet.silent.add(0)
        await world.until(lambda: node(world, 0).status == "down", within_s=120)


async def test_the_next_look_is_at_the_first_expiry(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        await begin(world, patient())
        assert decide_disconnected(world.server.store, wall_ns()).wake_at_ns is None
        before_ns = wall_ns()
        await cut_off(world)
        step = decide_disconnected(world.server.store, wall_ns())
        assert (step.down, step.wake_at_ns is not None and step.wake_at_ns > before_ns + 10 * MINUTE) == ((), True)


@pytest.mark.parametrize(("status", "wanted", "expected"), [("ready", "ready", "ready"), ("down", "ready", "ready")])
async def test_only_a_disconnected_node_has_to_tell_first(
    autojump_clock: trio.testing.MockClock, status: str, wanted: str, expected: str
) -> None:
    async with running() as world:
        await begin(world, patient())
        assert status_of_returning(world.server.store, node(world, 0).replace(status=status), wanted) == expected
