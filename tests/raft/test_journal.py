"""What the journal promises beyond the contract: durability, and refusing to guess."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from nomadpy.model.errors import Bug, NoLeader, NomadError, OutcomeUnknown, TimedOut
from nomadpy.raft import journal
from nomadpy.raft.journal import ENTRY_BYTES_MAX, JournalLog

HERE = Path(__file__).parent


async def write(directory: Path, *entries: bytes) -> bytes:
    """Writes entries, each in a batch of its own; returns the file."""
    log = JournalLog(directory, lambda index, data: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        for entry in entries:
            await log.propose(entry)
        nursery.cancel_scope.cancel()
    return (directory / "journal").read_bytes()


async def read(directory: Path) -> list[bytes]:
    """What a start finds in the journal."""
    found: list[bytes] = []
    log = JournalLog(directory, lambda index, data: found.append(data))
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        assert log.statistics().last_index == len(found)
        nursery.cancel_scope.cancel()
    return found


async def start_fails(directory: Path) -> str:
    """The message with which a start is refused."""
    with pytest.raises(NomadError) as caught:
        await JournalLog(directory, lambda index, data: None).run()
    return caught.value.message


async def test_entries_are_there_after_a_restart(tmp_path: Path) -> None:
    await write(tmp_path, b"one", b"", b"three")
    assert await read(tmp_path) == [b"one", b"", b"three"]
    await write(tmp_path, b"four")
    assert await read(tmp_path) == [b"one", b"", b"three", b"four"]


async def test_a_tail_cut_off_anywhere_is_dropped(tmp_path: Path) -> None:
    entries = [b"alpha", b"", b"gamma" * 10]
    whole = await write(tmp_path / "whole", *entries)
    sizes = [20 + len(entry) for entry in entries]
    ends = [len(whole) - sum(sizes[n:]) for n in range(4)]
    for length in range(len(whole) + 1):
        path = tmp_path / f"cut-{length}"
        path.mkdir()
        (path / "journal").write_bytes(whole[:length])
        kept = entries[: sum(end <= length for end in ends[1:])]
        assert await read(path) == kept
        await write(path, b"more")
        assert await read(path) == [*kept, b"more"]


@pytest.mark.parametrize("tail", [b"\0" * 7, b"\0" * 4096, b"\xff" * 100, os.urandom(300)])
async def test_a_tail_of_rubbish_is_dropped(tmp_path: Path, tail: bytes) -> None:
    whole = await write(tmp_path, b"one", b"two")
    (tmp_path / "journal").write_bytes(whole + tail)
    assert await read(tmp_path) == [b"one", b"two"]
    assert (tmp_path / "journal").read_bytes() == whole


async def test_a_flipped_bit_before_good_records_refuses_to_start(tmp_path: Path) -> None:
    whole = await write(tmp_path, b"first entry", b"second entry", b"third entry")
    begin = len(whole) - 3 * 20 - len(b"first entrysecond entrythird entry")
    second_ends = len(whole) - 20 - len(b"third entry")
    for at in range(begin, second_ends):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (tmp_path / "journal").write_bytes(damaged)
            message = await start_fails(tmp_path)
            assert "is damaged and good records follow" in message
            assert str(tmp_path / "journal") in message
            assert (tmp_path / "journal").read_bytes() == damaged


async def test_a_batch_whose_first_part_never_reached_the_disk_is_dropped_whole(tmp_path: Path) -> None:
    whole = await write(tmp_path, b"one")
    batch = journal._record(2, 0, b"two") + journal._record(3, 1, b"three")
    torn = bytearray(whole + batch)
    torn[len(whole) : len(whole) + 10] = bytes(10)
    (tmp_path / "journal").write_bytes(torn)
    assert await read(tmp_path) == [b"one"]


async def test_a_missing_entry_refuses_to_start(tmp_path: Path) -> None:
    whole = await write(tmp_path, b"one")
    (tmp_path / "journal").write_bytes(whole + journal._record(3, 0, b"three"))
    assert "entry 3 follows entry 1" in await start_fails(tmp_path)


async def test_a_file_that_is_no_journal_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"something else entirely")
    assert "is not a journal of this version" in await start_fails(tmp_path)


async def test_a_second_agent_is_refused(tmp_path: Path, nursery: trio.Nursery) -> None:
    log = JournalLog(tmp_path, lambda index, data: index)
    await nursery.start(log.run)
    assert "is in use by another agent" in await start_fails(tmp_path)
    assert await log.propose(b"still here") == 1


async def test_what_apply_raises_at_start_stops_the_start(tmp_path: Path) -> None:
    await write(tmp_path, b"strange")

    def apply(index: int, data: bytes) -> None:
        raise ValueError(f"unknown tag in {data!r}")

    with pytest.raises(ValueError, match="unknown tag"):
        await JournalLog(tmp_path, apply).run()


async def test_what_apply_raises_later_stops_the_log_and_tells_the_proposers(tmp_path: Path) -> None:
    def apply(index: int, data: bytes) -> int:
        if data == b"bad":
            raise ValueError("bad entry")
        return index

    log = JournalLog(tmp_path, apply)
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run)
            assert await log.propose(b"good") == 1
            with pytest.raises(OutcomeUnknown, match="entry 2 could not be applied"):
                await log.propose(b"bad")
            with pytest.raises(NoLeader):
                await log.propose(b"good")


async def test_proposing_to_a_log_that_does_not_run_is_refused(tmp_path: Path) -> None:
    log = JournalLog(tmp_path, lambda index, data: None)
    with pytest.raises(NoLeader):
        await log.propose(b"too early")
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        nursery.cancel_scope.cancel()
    with pytest.raises(NoLeader):
        await log.propose(b"too late")


async def test_an_entry_that_is_too_large_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(Bug, match="larger than"):
        await JournalLog(tmp_path, lambda index, data: None).propose(bytes(ENTRY_BYTES_MAX + 1))


class Gate:
    """Stands in for the disk: a write waits until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: JournalLog) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self._write = journal._write_all
        log._sync_ms = 1.0  # so that the log writes in a thread, and the loop goes on
        monkeypatch.setattr(journal, "_write_all", self)

    def __call__(self, fd: int, data: bytes) -> None:
        self.entered.set()
        assert self.open.wait(10)
        self._write(fd, data)


async def test_a_timeout_says_whether_the_entry_may_still_take_effect(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bytes] = []
    log = JournalLog(tmp_path, lambda index, data: found.append(data))
    await nursery.start(log.run)
    gate = Gate(monkeypatch, log)
    with pytest.raises(OutcomeUnknown):
        await log.propose(b"being written", timeout_s=0.1)
    with pytest.raises(TimedOut, match="nothing was changed"):
        await log.propose(b"queued", timeout_s=0.05)
    gate.open.set()
    await log.propose(b"later")
    assert found == [b"being written", b"later"]


async def test_those_who_wait_when_the_log_stops_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JournalLog(tmp_path, lambda index, data: data)
    told: list[object] = []

    async def propose(data: bytes) -> None:
        try:
            told.append(await log.propose(data))
        except NoLeader as error:
            told.append(error.code)

    async with trio.open_nursery() as proposers, trio.open_nursery() as nursery:
        await nursery.start(log.run)
        gate = Gate(monkeypatch, log)
        proposers.start_soon(propose, b"first")
        await trio.to_thread.run_sync(gate.entered.wait)
        proposers.start_soon(propose, b"second")
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
        gate.open.set()
    assert told == [b"first", "no-leader"]
    assert await read(tmp_path) == [b"first"]


async def test_proposals_that_wait_for_a_sync_share_the_next(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = JournalLog(tmp_path, lambda index, data: None)
    await nursery.start(log.run)

    def slow(fd: int, data: bytes) -> None:
        time.sleep(0.002)  # as slow as a disk
        os.write(fd, data)

    log._sync_ms = 1.0
    monkeypatch.setattr(journal, "_write_all", slow)

    async def propose_many() -> None:
        for _ in range(20):
            await log.propose(b"entry")

    async with trio.open_nursery() as proposers:
        for _ in range(50):
            proposers.start_soon(propose_many)
    statistics = log.statistics()
    assert statistics.entries_written == 1000
    assert statistics.syncs <= 60


async def test_a_failed_sync_poisons_the_journal(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = JournalLog(tmp_path, lambda index, data: index)
    await nursery.start(log.run)
    assert await log.propose(b"good") == 1

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(OutcomeUnknown, match="Input/output error"):
            await log.propose(b"bad")
    assert not log.is_leader
    with pytest.raises(NoLeader, match="cannot be written any more"):
        await log.propose(b"after")


def test_a_full_disk_poisons_the_journal_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "full_disk.py"), str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    acknowledged = sum(line.endswith("True") for line in lines)
    assert lines[:acknowledged] == [f"{number} True" for number in range(1, acknowledged + 1)]
    assert acknowledged == 3
    assert lines[3].startswith("outcome-unknown False the journal cannot be written any more")
    assert all(line.startswith("no-leader False") for line in lines[4:])
    found = trio.run(read, tmp_path)
    assert found[:acknowledged] == [bytes([number]) * 1000 for number in range(acknowledged)]


def run_until_killed(directory: Path, life: int, enough: Callable[[int], bool]) -> list[str]:
    """What a writer said was acknowledged before it was killed in the middle of its work."""
    command = [sys.executable, str(HERE / "journal_writer.py"), str(directory), str(life), "16"]
    acknowledged: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        while not enough(len(acknowledged)):
            acknowledged.append(writer.stdout.readline().strip())
        writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    return acknowledged


def test_nothing_acknowledged_is_lost_by_kill(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for life in range(10):
        acknowledged += run_until_killed(tmp_path, life, lambda n, life=life: n >= 40 + 37 * life)  # type: ignore[misc]
    found = [entry.decode() for entry in trio.run(read, tmp_path)]
    assert set(acknowledged) <= set(found)
    assert max(Counter(found).values()) == 1
    by_proposer: dict[str, list[int]] = {}
    for entry in found:
        life_and_proposer, _, number = entry.rpartition("/")
        by_proposer.setdefault(life_and_proposer, []).append(int(number))
    assert len(by_proposer) > 100
    assert all(numbers == list(range(len(numbers))) for numbers in by_proposer.values())


def test_the_header_is_twenty_bytes() -> None:
    assert struct.calcsize("<IIQI") == 20
