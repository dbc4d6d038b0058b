"""Tasks that wait for the replicated log: answered, too late, cancelled, or left by a log that stops."""

from __future__ import annotations

import trio

from nomadpy.model.errors import NoLeader, NomadError, OutcomeUnknown, TimedOut
from nomadpy.raft.asking import Asking, Request
from nomadpy.raft.core import Core
from nomadpy.raft.replica import Answer


def begin(_core: Core, _ticket: object) -> None:
    """What a log would do with it does not matter here."""


class Desk:
    """A log that does what the test tells it, with room for two requests."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery, self.asking = nursery, Asking()
        self.events, self.taken = trio.open_memory_channel[Request](2)
        self.ended: list[tuple[str, float, object]] = []

    def ask(self, name: str, *, writes: bool = True, timeout_s: float = 10.0) -> Request:
        request = Request(begin, writes=writes)
        self.nursery.start_soon(self._ask, name, request, timeout_s)
        return request

    async def _ask(self, name: str, request: Request, timeout_s: float) -> None:
        try:
            result: object = (await self.asking.ask(self.events, request, timeout_s)).result
        except NomadError as error:
            result = type(error)
        self.ended.append((name, trio.current_time(), result))


async def test_each_gets_its_own_answer(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    desk = Desk(nursery)
    nursery.start_soon(desk.asking.run)
    first, second = desk.ask("first"), desk.ask("second")
    await trio.sleep(1)
    desk.asking.answer(Answer(second, result="b"))
    desk.asking.answer(Answer(first, error=NoLeader("elsewhere")))
    await trio.sleep(20)
    assert sorted(desk.ended) == [("first", 1, NoLeader), ("second", 1, "b")]
    nursery.cancel_scope.cancel()


async def test_each_waits_as_long_as_it_said(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    desk = Desk(nursery)
    nursery.start_soon(desk.asking.run)
    desk.ask("read", writes=False, timeout_s=8)
    desk.ask("write", timeout_s=3).taken = True
    await trio.sleep(1)
    # Later than the others, but with less patience.
    await desk.taken.receive()
    hasty = desk.ask("not taken yet", timeout_s=1)
    await trio.sleep(10)
    assert desk.ended == [("not taken yet", 2, TimedOut), ("write", 3, OutcomeUnknown), ("read", 8, TimedOut)]
    assert hasty.abandoned
    # An answer that comes afterwards disturbs nobody.
    desk.asking.answer(Answer(hasty, result="late"))
    nursery.cancel_scope.cancel()


async def test_who_finds_no_room_waits_no_longer(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    desk = Desk(nursery)
    nursery.start_soon(desk.asking.run)
    for name in "ab":
        desk.ask(name, timeout_s=50)
    await trio.sleep(1)
    waits, gives_up = desk.ask("waits", timeout_s=30), desk.ask("gives up", timeout_s=5)
    await trio.sleep(10)
    assert desk.ended == [("gives up", 6, TimedOut)]
    queued = [await desk.taken.receive() for _ in range(3)]
    assert queued[2] is waits
    assert gives_up not in queued
    desk.asking.answer(Answer(waits, result="yes"))
    await trio.sleep(1)
    assert desk.ended[1:] == [("waits", 11, "yes")]
    nursery.cancel_scope.cancel()


async def test_who_is_cancelled_is_left_out(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    desk = Desk(nursery)
    nursery.start_soon(desk.asking.run)
    request = Request(begin, writes=True)
    with trio.move_on_after(2) as scope:
        await desk.asking.ask(desk.events, request, 10)
    assert scope.cancelled_caught
    assert request.abandoned
    desk.asking.answer(Answer(request, result="late"))
    await trio.sleep(20)
    assert request.answer is None
    nursery.cancel_scope.cancel()


async def test_a_log_that_stops_says_what_it_knows(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    desk = Desk(nursery)
    desk.ask("taken").taken = True
    desk.ask("not taken")
    await trio.sleep(1)
    desk.asking.stop()
    await trio.sleep(1)
    assert sorted(desk.ended) == [("not taken", 1, NoLeader), ("taken", 1, OutcomeUnknown)]
