"""When everything is walked over for what refers back to itself."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from nomadpy.agent.collector import collect_seldom, is_due
from nomadpy.agent.loop_lag import LoopLag


class Ring:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize(
    ("since_s", "n_new", "n_known", "quiet", "due"),
    [
        (599, 1_000, 0, True, False),
        (600, 1_000, 0, True, True),
        (9_999, 999, 0, True, False),  # hardly anything is new
        (659, 1_000, 0, False, False),
        (660, 1_000, 0, False, True),  # a quiet moment is not waited for without end
        (29, 500_000, 0, True, False),
        (30, 500_000, 0, True, True),
        (30, 500_000, 0, False, False),
        (90, 500_000, 0, False, True),
        (30, 500_000, 1_000_002, True, False),  # many are known, so a pass takes long
        (30, 500_001, 1_000_002, True, True),
    ],
)
def test_everything_is_walked_over_seldom_and_at_a_quiet_moment(
    since_s: float, n_new: int, n_known: int, quiet: bool, due: bool
) -> None:
    assert is_due(since_s, n_new, n_known, quiet=quiet) is due


async def test_rings_are_found_by_the_clock_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_seldom, lambda: True)
        await trio.testing.wait_all_tasks_blocked()
        assert gc.get_freeze_count(), "what there was at the beginning is not walked over"
        ring = weakref.ref(Ring())
        many = [[number] for number in range(50_000)]
        await trio.sleep(598.5)
        assert ring() is not None
        await trio.sleep(3)
        assert ring() is None
        assert len(many) == 50_000
        gc.enable()  # as a thread may that did without it for a while
        await trio.sleep(1.5)
        assert not gc.isenabled()
        nursery.cancel_scope.cancel()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_loop_is_quiet_when_none_of_the_latest_samples_is_late() -> None:
    lag = LoopLag()
    assert lag.is_quiet()
    lag.note(11.0)
    assert not lag.is_quiet()
    for _ in range(39):
        lag.note(1.0)
    assert not lag.is_quiet()
    lag.note(1.0)
    assert lag.is_quiet()
    assert lag.quantiles()["1"] == 11.0
