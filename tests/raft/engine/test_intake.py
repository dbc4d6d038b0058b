"""A leader's snapshot that is written while it arrives: whole or not at all, and one after the other."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
import trio
from pretend_disk import PretendDirectory

from nomadpy.model.errors import Bug, NomadError
from nomadpy.raft.intake import Intake, Prepared
from nomadpy.raft.messages import SnapshotChunk
from nomadpy.raft.snapshot import IncomingSnapshot, Snapshot, SnapshotPoint, SnapshotStore

STATE = bytes(range(250)) * 4
PART = 100


def chunk(offset: int, *, damaged: bool = False) -> SnapshotChunk:
    return SnapshotChunk(
        term=3, seq=1, index=7, index_term=2, voters=("a", "b"), size=len(STATE), offset=offset,
        checksum=zlib.crc32(STATE) ^ damaged, data=STATE[offset : offset + PART],
    )  # fmt: skip


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        # What is waited for happens in another thread.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


class Taking:
    """An intake under way, and what it read."""

    def __init__(self, *, damaged: bool = False) -> None:
        self.disk, self.damaged = PretendDirectory(), damaged
        self.store = SnapshotStore(self.disk)
        self.incoming = IncomingSnapshot(chunk(0, damaged=damaged))
        self.results: list[Prepared | None] = []
        self.read: list[tuple[int, bytes]] = []
        self.intake = Intake(self.incoming, self.store, self._prepare)

    def _prepare(self, index: int, data: bytes) -> Callable[[], None]:
        return lambda: self.read.append((index, data))

    def arrive(self, begin: int, end: int) -> None:
        for offset in range(begin, end, PART):
            self.incoming.take(chunk(offset, damaged=self.damaged))
        self.intake.look()

    async def run(self) -> None:
        self.results.append(await self.intake.run())

    def on_disk(self) -> bytes:
        return b"".join(file.data for file in self.disk.files.values())


async def test_it_is_stored_as_it_comes(nursery: trio.Nursery) -> None:
    taking = Taking()
    nursery.start_soon(taking.run)
    taking.arrive(0, 500)
    await until(lambda: STATE[:500] in taking.on_disk())
    assert taking.incoming.hand_out() == []
    taking.arrive(500, 1000)
    await until(lambda: bool(taking.results))
    (prepared,) = taking.results
    assert prepared is not None
    assert prepared.stored is not None
    assert taking.read == []
    prepared.swap()
    assert taking.read == [(7, STATE)]
    # It is durable: the power may fail.
    taking.disk.lose_power(random.Random(1))
    assert SnapshotStore(taking.disk).load() == Snapshot(SnapshotPoint(7, 2, ("a", "b")), STATE)


async def test_a_part_of_one_counts_for_nothing() -> None:
    for seed in range(20):
        disk = PretendDirectory()
        SnapshotStore(disk).save(Snapshot(SnapshotPoint(5, 1, ("a",)), b"older"))
        writer = SnapshotStore(disk).begin(IncomingSnapshot(chunk(0)).meta)
        for offset in range(0, 900, PART):
            writer.append(chunk(offset).data)
        with pytest.raises(Bug, match="before all of it"):
            writer.finish()
        disk.lose_power(random.Random(seed))
        loaded = SnapshotStore(disk).load()
        assert loaded is not None
        assert loaded.data == b"older"
        assert disk.names() == ["00000000000000000005.snapshot"]


async def test_a_damaged_one_is_not_stored() -> None:
    taking = Taking(damaged=True)
    taking.arrive(0, 1000)
    prepared = await taking.intake.run()
    assert prepared is not None
    assert (prepared.snapshot, prepared.stored, taking.disk.names()) == (None, None, [])


async def test_one_that_is_given_up_leaves_nothing(nursery: trio.Nursery) -> None:
    taking = Taking()
    taking.arrive(0, 300)
    nursery.start_soon(taking.run)
    await until(lambda: STATE[:300] in taking.on_disk())
    taking.intake.give_up()
    await until(lambda: bool(taking.results))
    assert taking.results == [None]
    assert taking.disk.names() == []


@pytest.mark.parametrize("operation", ["append", "sync", "rename", "sync-directory"])
async def test_a_disk_that_cannot_take_it_is_a_sentence(operation: str) -> None:
    taking = Taking()
    taking.arrive(0, 1000)
    taking.disk.fail_next = operation
    with pytest.raises(NomadError, match="cannot be stored, so this server stops"):
        await taking.intake.run()


async def test_a_saved_one_of_the_same_place_does_not_disturb_it() -> None:
    taking = Taking()
    writer = taking.store.begin(taking.incoming.meta)
    writer.append(STATE[:500])
    taking.store.save(Snapshot(SnapshotPoint(7, 2, ("a", "b")), STATE))
    writer.append(STATE[500:])
    taking.store.adopt(writer.finish())
    loaded = SnapshotStore(taking.disk).load()
    assert loaded is not None
    assert loaded.data == STATE
