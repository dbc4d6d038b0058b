"""What a server answers while leaders come and go: pretended servers, virtual time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nomadpy.model.errors import Forbidden, NoLeader, OutcomeUnknown
from nomadpy.model.node import Node
from nomadpy.rpc.contract import Assignments, NodeLease
from nomadpy.rpc.handlers import NoAnswer, NotConnected, Word
from nomadpy.rpc.pace import AT_ONCE
from nomadpy.rpc.through_leader import HOLD_S, ThroughLeader

ME = "s1"


class Leadership:
    """Who leads, as this server knows it."""

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self._moved = trio.Event()

    def move(self, leader: str) -> None:
        self.leader = leader
        self._moved.set()
        self._moved = trio.Event()

    async def changed(self) -> None:
        await self._moved.wait()


class Servers:
    """The other servers, and this one. ``act`` is what a server does with a question; without one it answers at once.
    ``heard`` has (when, server, method, parameters)."""

    def __init__(self) -> None:
        self.act: dict[str, Callable[[], Any]] = {}
        self.heard: list[tuple[float, str, str, Any]] = []
        self.n_cancelled = 0

    async def call(self, server_id: str, word: Word[Any, Any], params: Any, *, timeout_s: float) -> Any:
        self.heard.append((trio.current_time(), server_id, word.name, params))
        try:
            await trio.lowlevel.checkpoint()
            if server_id in self.act:
                await self.act[server_id]()
        except trio.Cancelled:
            self.n_cancelled += 1
            raise
        return NodeLease(status=server_id) if word.name == "Node.Heartbeat" else Assignments(index=len(self.heard))

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        self.heard.append((trio.current_time(), ME, "heartbeat", None))
        await trio.lowlevel.checkpoint()
        if ME in self.act:
            await self.act[ME]()
        return NodeLease(status=ME)

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        self.heard.append((trio.current_time(), ME, "wait_assignments", wait_s))
        if ME in self.act:
            await self.act[ME]()
        return Assignments()

    def asked(self) -> list[str]:
        return [one[1] for one in self.heard]


class World:
    def __init__(self, nursery: trio.Nursery, leader: str) -> None:
        self.leadership, self.servers = Leadership(leader), Servers()
        self.way = ThroughLeader(
            self.servers,  # type: ignore[arg-type]
            server_id=ME,
            leader=lambda: self.leadership.leader,
            leader_changed=self.leadership.changed,
            peers=self.servers,
            rng=random.Random(1),
        )
        nursery.start_soon(self.way.run)

    async def beat(self) -> str:
        return (await self.way.heartbeat("n", "s", "ready")).status


def raises(error: Exception) -> Callable[[], Any]:
    async def act() -> None:
        raise error

    return act


async def test_the_next_leader_is_asked_when_the_one_that_was_asked_is_silent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "s2")
    world.servers.act["s2"] = trio.sleep_forever
    async with trio.open_nursery() as asking:
        asking.start_soon(world.beat)
        await trio.sleep(1.5)
        world.leadership.move("")
        await trio.sleep(0.5)
        world.leadership.move("s3")
    assert world.servers.asked() == ["s2", "s3"]
    assert world.servers.n_cancelled == 1
    assert trio.current_time() - world.servers.heard[0][0] < 2.1


@pytest.mark.parametrize("error", [NoLeader(), NotConnected("gone"), OutcomeUnknown("broken")])
async def test_what_a_lost_leader_did_not_answer_is_held_until_another_one_leads(
    autojump_clock: MockClock, nursery: trio.Nursery, error: Exception
) -> None:
    world = World(nursery, "s2")
    world.servers.act["s2"] = raises(error)

    async def elect() -> None:
        world.leadership.move("")
        await trio.sleep(3)
        world.leadership.move("s3")

    nursery.start_soon(elect)
    assert await world.beat() == "s3"
    assert set(world.servers.asked()) == {"s2", "s3"}
    assert len(world.servers.asked()) <= 3, "nobody is asked while none leads"


async def test_a_question_whose_time_is_over_when_its_second_leader_is_lost_is_refused(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "s2")
    world.servers.act |= {"s2": raises(NoLeader()), "s3": trio.sleep_forever}

    async def elect() -> None:
        world.leadership.move("")
        await trio.sleep(0.9 * HOLD_S)
        world.leadership.move("s3")
        await trio.sleep(0.5 * HOLD_S)
        world.leadership.move("")

    nursery.start_soon(elect)
    with pytest.raises(NoLeader):
        await world.beat()
    assert "s3" in world.servers.asked()


async def test_this_server_answers_itself_once_it_leads_and_asks_the_next_one_afterwards(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "")
    deposed = trio.Event()

    async def until_deposed() -> None:
        await deposed.wait()
        raise NoLeader

    world.servers.act[ME] = until_deposed
    async with trio.open_nursery() as asking:
        asking.start_soon(world.way.wait_assignments, "n", "s", 5, 300.0)
        await trio.sleep(1)
        world.leadership.move(ME)
        await trio.sleep(100)
        deposed.set()
        world.leadership.move("")
        await trio.sleep(1)
        world.leadership.move("s2")
    (_, first, _, wait_s), (_, second, _, params) = world.servers.heard
    assert (first, second) == (ME, "s2")
    assert wait_s == pytest.approx(299)
    assert params.wait_s == pytest.approx(198, abs=0.1), "only as long as the client still waits"
    assert params.after == 5


async def test_it_is_told_in_time_that_nobody_leads(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    world = World(nursery, "")
    began_s = trio.current_time()
    with pytest.raises(NoLeader, match="No cluster leader"):
        await world.beat()
    assert trio.current_time() - began_s == pytest.approx(HOLD_S, abs=0.01)
    assert world.servers.heard == []


async def test_a_leader_that_cannot_be_reached_is_tried_again_but_not_for_ever(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "s2")
    world.servers.act["s2"] = raises(NotConnected("refused"))
    began_s = trio.current_time()
    with pytest.raises(NoLeader, match="No path to the leader: refused"):
        await world.beat()
    assert trio.current_time() - began_s == pytest.approx(HOLD_S, abs=0.01)
    assert 4 <= len(world.servers.heard) <= 16


@pytest.mark.parametrize("error", [Forbidden("no"), NoAnswer("slow")])
async def test_what_a_leader_says_is_passed_on(
    autojump_clock: MockClock, nursery: trio.Nursery, error: Exception
) -> None:
    world = World(nursery, "s2")
    world.servers.act["s2"] = raises(error)
    with pytest.raises(type(error)):
        await world.beat()
    assert world.servers.asked() == ["s2"]


@pytest.mark.parametrize("error", [NoLeader(), NotConnected("gone"), OutcomeUnknown("broken")])
async def test_reports_are_passed_on_once(autojump_clock: MockClock, nursery: trio.Nursery, error: Exception) -> None:
    """Whoever sent one may have told another server something newer since."""
    world = World(nursery, "s2")
    world.servers.act["s2"] = raises(error)
    began_s = trio.current_time()
    for _ in range(2):
        with pytest.raises((NoLeader, OutcomeUnknown)):
            await world.way.update_allocs("n", "s", [])
        with pytest.raises((NoLeader, OutcomeUnknown)):
            await world.way.register_node(Node(id="n", name="n", secret_id="s"))
        world.leadership.move("")
    assert trio.current_time() == began_s
    assert world.servers.asked() == ["s2", "s2"]


async def test_a_report_does_not_wait_for_a_leader_that_is_none_any_more(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "s2")
    world.servers.act["s2"] = trio.sleep_forever

    async def report() -> None:
        with pytest.raises(OutcomeUnknown, match="another server leads"):
            await world.way.update_allocs("n", "s", [])

    async with trio.open_nursery() as telling:
        telling.start_soon(report)
        await wait_all_tasks_blocked()
        world.leadership.move("s3")
    assert world.servers.asked() == ["s2"]


@pytest.mark.parametrize("lost", [True, False])
async def test_many_questions_go_to_a_new_leader_a_few_at_a_time(
    autojump_clock: MockClock, nursery: trio.Nursery, lost: bool
) -> None:
    """Those that were held, and those that waited for the answer of the former one."""
    world = World(nursery, "" if lost else "s2")
    world.servers.act["s2"] = trio.sleep_forever
    many = 5 * AT_ONCE
    async with trio.open_nursery() as asking:
        for _ in range(many):
            asking.start_soon(world.beat)
        await wait_all_tasks_blocked()
        world.leadership.move("s3")
    moments = Counter(at for at, server, *_ in world.servers.heard if server == "s3")
    assert moments.total() == many
    assert max(moments.values()) <= AT_ONCE
    assert max(moments) - min(moments) < 1


async def test_leaders_that_change_while_questions_go_on_lose_none(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    world = World(nursery, "")
    for server in ("s2", "s3"):
        world.servers.act[server] = trio.sleep_forever
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await world.beat())

    async with trio.open_nursery() as asking:
        for _ in range(5 * AT_ONCE):
            asking.start_soon(ask)
        await wait_all_tasks_blocked()
        for leader in ("s2", "", "s3", "s4"):
            world.leadership.move(leader)
            await trio.sleep(0.006)
    assert answers == ["s4"] * 5 * AT_ONCE
