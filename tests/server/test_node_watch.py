"""The leader's watch with a pretended gossip: a dead node's work is elsewhere within seconds."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from cluster_builders import SECRET, make_group, make_job, node_id
from server_world import World, running, wall_ns
from trio.testing import MockClock

from nomadpy.gossip.contract import FAILED, SUSPECT, Member
from nomadpy.model.job import DisconnectStrategy
from nomadpy.model.node import NodeEvent
from nomadpy.server.node_watch import Rumours, status_of_lost, watch_nodes


class PretendGossip:
    """Members whose statuses tests set."""

    name = "server.global"

    def __init__(self) -> None:
        self.changes = 1
        self.statuses: dict[str, tuple[str, float]] = {}
        self.confirmed: list[str] = []
        self.answers: dict[str, float] = {}
        # Members that gossip still calls alive, but that do not answer.
        self.mute: set[str] = set()
        self._moved = trio.Event()

    def say(self, node: str, status: str) -> None:
        self.statuses[node] = (status, trio.current_time())
        self.changes += 1
        self._moved.set()
        self._moved = trio.Event()

    async def wait_changes(self, after: int) -> int:
        while self.changes <= after:
            await self._moved.wait()
        return self.changes

    def members(self) -> list[Member]:
        found = [Member(name=n, status=s, since=at, tags={"role": "client"}) for n, (s, at) in self.statuses.items()]
        return [Member(name=self.name, status=FAILED, tags={"role": "nomad"}), *found]

    def confirm(self, name: str) -> None:
        self.confirmed.append(name)
        if name not in self.statuses and name not in self.mute:
            self.answers[name] = trio.current_time()

    def answered(self, name: str) -> float | None:
        return self.answers.get(name, float("-inf"))


@pytest.fixture
def gossip(monkeypatch: pytest.MonkeyPatch) -> PretendGossip:
    """What the leader of the server under test is told."""
    made = PretendGossip()

    async def watch(server: Any, _none: None, insist: Any) -> None:
        await watch_nodes(server, made, insist)  # type: ignore[arg-type]

    monkeypatch.setattr("nomadpy.server.leader.watch_nodes", watch)
    return made


def status_of(world: World, number: int) -> str:
    node = world.server.store.node(node_id(number))
    assert node is not None
    return node.status


async def add_nodes(world: World, n_nodes: int) -> None:
    for number in range(n_nodes):
        await world.add_node(number)
    await trio.sleep(4)


async def test_the_work_of_a_node_that_gossip_misses_is_elsewhere_within_seconds(
    autojump_clock: MockClock, gossip: PretendGossip
) -> None:
    async with running() as world:
        await add_nodes(world, 3)
        await world.register(make_job(count=3))
        await world.until(lambda: len(world.running()) == 3)
        victim = world.running()[0].node_id
        world.fleet.silent.add(next(n for n in range(3) if node_id(n) == victim))
        gossip.say(victim, SUSPECT)
        await trio.sleep(1.8)
        gossip.say(victim, FAILED)
        await world.until(lambda: (n := world.server.store.node(victim)) is not None and n.status == "down", within_s=1)
        await world.until(lambda: len(world.running()) == 3, within_s=3)
        assert victim not in {alloc.node_id for alloc in world.running()}
        assert gossip.confirmed
        assert victim not in gossip.confirmed


async def test_all_nodes_silent_at_once_keep_what_they_run(
    autojump_clock: MockClock, gossip: PretendGossip, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as world:
        await add_nodes(world, 3)
        await world.register(make_job(count=3))
        await world.until(lambda: len(world.running()) == 3)
        before = {alloc.id for alloc in world.running()}
        world.fleet.silent.update(range(3))
        for number in range(3):
            gossip.say(node_id(number), FAILED)
        await trio.sleep(30)
        assert "nodes.many_silent" in [record.message for record in caplog.records]
        world.fleet.silent.clear()
        for number in range(3):
            gossip.say(node_id(number), "alive")
        await trio.sleep(60)
        assert {alloc.id for alloc in world.running()} == before
        assert {node.status for node in world.server.store.nodes} == {"ready"}


async def test_a_node_is_not_lost_while_no_other_one_answers(autojump_clock: MockClock, gossip: PretendGossip) -> None:
    async with running() as world:
        await add_nodes(world, 2)
        one, other = node_id(0), node_id(1)
        world.fleet.silent.update((0, 1))
        gossip.mute.add(other)
        gossip.say(one, FAILED)
        await trio.sleep(5)
        assert {node.status for node in world.server.store.nodes} == {"ready"}
        gossip.mute.clear()
        await world.until(lambda: (n := world.server.store.node(one)) is not None and n.status == "down", within_s=8)


async def test_a_node_whose_work_may_stay_for_a_while_is_disconnected(
    autojump_clock: MockClock, gossip: PretendGossip
) -> None:
    async with running() as world:
        await add_nodes(world, 2)
        patient = make_group().replace(disconnect=DisconnectStrategy(lost_after_ns=3600 * 10**9, replace_=True))
        await world.register(make_job(group=patient))
        await world.until(lambda: len(world.running()) == 1)
        victim = world.running()[0].node_id
        other = next(node_id(n) for n in range(2) if node_id(n) != victim)
        assert status_of_lost(world.server.store, victim, wall_ns()) == "disconnected"
        assert status_of_lost(world.server.store, other, wall_ns()) == "down"
        world.fleet.silent.add(next(n for n in range(2) if node_id(n) == victim))
        gossip.say(victim, FAILED)
        await world.until(
            lambda: (n := world.server.store.node(victim)) is not None and n.status == "disconnected", within_s=3
        )


async def test_only_clients_that_are_missed_count(autojump_clock: MockClock) -> None:
    gossip = PretendGossip()
    gossip.say("a", FAILED)
    gossip.say("b", SUSPECT)
    gossip.say("c", "left")
    rumours = Rumours(gossip)  # type: ignore[arg-type]
    assert rumours.now() == {"a": FAILED, "b": SUSPECT}
    assert rumours.long_failed() == []
    await trio.sleep(61)
    assert rumours.long_failed() == ["a"]
    assert Rumours(None).now() == {}


async def test_whatever_a_node_asks_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    async with running() as world:
        await world.add_node(1)
        nodes, heartbeats = world.server.nodes, world.server.heartbeats
        asks = (
            lambda: nodes.wait_assignments(node_id(1), SECRET, 0, 0.0),
            lambda: nodes.get_allocs(node_id(1), SECRET, []),
            lambda: nodes.update_allocs(node_id(1), SECRET, []),
            lambda: nodes.emit_node_events(node_id(1), SECRET, [NodeEvent(message="hello")]),
        )
        for ask in asks:
            await trio.sleep(1)
            before = world.server.mono_ns()
            assert not heartbeats.heard_since(node_id(1), before)
            await ask()
            assert heartbeats.heard_since(node_id(1), before)


async def test_who_answers_over_its_connection_is_not_lost_to_gossip(
    autojump_clock: MockClock, gossip: PretendGossip
) -> None:
    async with running() as world:
        await add_nodes(world, 6)
        await world.register(make_job(count=6))
        await world.until(lambda: len(world.running()) == 6)
        before = {alloc.id for alloc in world.running()}
        asked: list[str] = []
        answering = {node_id(0)}

        async def reach(node: str) -> bool:
            asked.append(node)
            await trio.sleep(0.3)
            return node in answering

        world.server.reach_node = reach
        # Both are silent for longer than gossip is wrong, for their next beats are not due yet.
        world.fleet.silent.update((0, 1))
        for number in range(2):
            gossip.say(node_id(number), SUSPECT)
        await trio.sleep(1.8)
        for number in range(2):
            gossip.say(node_id(number), FAILED)
        await world.until(lambda: status_of(world, 1) == "down", within_s=3)
        await trio.sleep(3)
        assert status_of(world, 0) == "ready"
        assert {alloc.id for alloc in world.running() if alloc.node_id == node_id(0)} <= before
        # Each was asked once when gossip began to miss it.
        assert sorted(asked) == [node_id(0), node_id(1)]
        gossip.say(node_id(0), "alive")
        world.fleet.silent.discard(0)
        await trio.sleep(20)
        world.fleet.silent.add(0)
        answering.clear()
        gossip.say(node_id(0), SUSPECT)
        await trio.sleep(1.8)
        gossip.say(node_id(0), FAILED)
        await world.until(lambda: status_of(world, 0) == "down", within_s=9)
        assert asked[2:] == [node_id(0)]


async def test_a_node_without_a_lease_is_not_asked(autojump_clock: MockClock, gossip: PretendGossip) -> None:
    async with running() as world:
        await add_nodes(world, 2)
        asked: list[str] = []

        async def reach(node: str) -> bool:
            asked.append(node)
            return True

        world.server.reach_node = reach
        gossip.say("somebody-else", FAILED)
        await trio.sleep(3)
        assert asked == []
        assert {node.status for node in world.server.store.nodes} == {"ready"}
