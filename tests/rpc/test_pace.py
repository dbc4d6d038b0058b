"""Many things at once, some at a time."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from nomadpy.rpc.pace import AT_ONCE, LEAST, Pace, do_in_turns


def test_a_late_loop_gets_less_and_recovers() -> None:
    pace = Pace()
    assert pace.at_once == AT_ONCE
    pace.woke(0.05)
    assert pace.at_once == AT_ONCE // 2
    for _ in range(9):
        pace.woke(0.05)
    assert pace.at_once == LEAST
    pace.woke(0.0)
    assert pace.at_once == 2 * LEAST
    for _ in range(9):
        pace.woke(0.001)
    assert pace.at_once == AT_ONCE


async def test_everything_is_done_in_order_some_at_a_time(autojump_clock: MockClock) -> None:
    done: list[tuple[int, float]] = []
    actions = [lambda n=n: done.append((n, trio.current_time())) for n in range(3 * AT_ONCE + 1)]  # type: ignore[misc]
    await do_in_turns(actions, while_true=lambda: True)
    assert [n for n, _ in done] == list(range(len(actions)))
    moments = [at for _, at in done]
    assert [moments.count(at) for at in sorted(set(moments))] == [AT_ONCE, AT_ONCE, AT_ONCE, 1]


async def test_it_stops_when_there_is_no_reason_any_more(autojump_clock: MockClock) -> None:
    done: list[int] = []
    actions = [lambda n=n: done.append(n) for n in range(3 * AT_ONCE)]  # type: ignore[misc]
    await do_in_turns(actions, while_true=lambda: len(done) < AT_ONCE + 1)
    assert len(done) == 2 * AT_ONCE
