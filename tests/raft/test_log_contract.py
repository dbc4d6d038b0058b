"""What every log promises to those who propose to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from nomadpy.raft.contract import Apply, Log
from nomadpy.raft.memory import MemoryLog
from nomadpy.raft.raftlog import RaftLog

MakeLog = Callable[[Apply], Log]


class Applied:
    """Remembers what a log applied, and answers with it."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []

    def __call__(self, index: int, data: bytes) -> tuple[int, bytes]:
        self.entries.append((index, data))
        return index, data


@pytest.fixture(params=["memory", "raft"])
def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLog:
    if request.param == "memory":
        return MemoryLog
    return lambda apply: RaftLog(tmp_path / "raft", apply, name="a")


@pytest.fixture
async def running(make_log: MakeLog, nursery: trio.Nursery) -> tuple[Log, Applied]:
    applied = Applied()
    log = make_log(applied)
    await nursery.start(log.run)
    with trio.fail_after(20):
        while not log.leadership.leading:
            await log.leadership_changed(log.leadership)
    return log, applied


async def test_a_proposal_is_answered_with_what_apply_said(running: tuple[Log, Applied]) -> None:
    log, applied = running
    assert log.is_leader
    for data in (b"first", b"", b"x" * 100_000):
        assert await log.propose(data) == applied.entries[-1]
        assert applied.entries[-1][1] == data


async def test_entries_are_applied_in_order_and_once(running: tuple[Log, Applied]) -> None:
    log, applied = running
    answers: list[tuple[int, bytes]] = []

    async def propose(name: bytes) -> None:
        answers.append(await log.propose(name))

    async with trio.open_nursery() as proposers:
        for number in range(50):
            proposers.start_soon(propose, b"%d" % number)
    first = applied.entries[0][0]
    assert [index for index, _ in applied.entries] == list(range(first, first + 50))
    assert sorted(answers) == applied.entries
    assert {data for _, data in answers} == {b"%d" % number for number in range(50)}


async def test_statistics_count_entries(running: tuple[Log, Applied]) -> None:
    log, applied = running
    await log.propose(b"one")
    await log.propose(b"two")
    last, _ = applied.entries[-1]
    statistics = log.statistics()
    assert (statistics.last_index, statistics.applied_index, statistics.entries_written) == (last, last, 2)
    assert log.durable == (statistics.kind == "raft")
    assert (statistics.syncs > 0) == log.durable
