"""The write-ahead log against disks that lose power, cut writes, rot and fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pretend_disk import PretendDirectory

from nomadpy.model.errors import Bug, NomadError
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.entries import Entry, configuration_entry
from nomadpy.raft.segment import FILE_HEADER_BYTES, WalCorrupt
from nomadpy.raft.wal import Wal, WalPoisoned

LOG_ID = b"0123456789abcdef"


def open_wal(disk: PretendDirectory, segment_bytes: int = 400) -> Wal:
    return Wal(disk, log_id=LOG_ID, segment_bytes=segment_bytes)


def fill(wal: Wal, n_entries: int, *, per_sync: int = 5, term: int = 1) -> None:
    for index in range(wal.last + 1, wal.last + n_entries + 1):
        wal.append(b"\0entry %d" % index, index, term)
        if index % per_sync == 0:
            wal.set_state(term, "a")
            wal.sync()
    wal.sync()


def only_file(disk: PretendDirectory) -> bytearray:
    (file,) = disk.files.values()
    return bytearray(file.data)


def disk_of(data: bytes, name: str = f"{1:016d}.wal") -> PretendDirectory:
    disk = PretendDirectory()
    file = disk.open(name)
    file.append(data)
    file.sync()
    disk.sync()
    return disk


def test_what_was_synced_comes_back() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk)
    fill(wal, 23)
    wal.set_state(7, "b")
    wal.note_commit(20)
    wal.sync()
    again = open_wal(disk)
    assert again.entries == wal.entries
    assert (again.term, again.voted_for, again.commit_hint, again.durable_index) == (7, "b", 20, 23)
    assert again.log_id == LOG_ID


def test_a_real_directory_comes_back_and_is_locked(tmp_path: Path) -> None:
    directory = DiskDirectory(tmp_path / "raft")
    wal = Wal(directory, log_id=LOG_ID, segment_bytes=300)
    fill(wal, 40)
    with pytest.raises(NomadError, match="in use"):
        DiskDirectory(tmp_path / "raft")
    wal.close()
    directory.close()
    again = Wal(DiskDirectory(tmp_path / "raft"), log_id=bytes(16), segment_bytes=300)
    assert [entry[1] for entry in again.entries] == list(range(1, 41))
    assert again.log_id == LOG_ID


def test_what_was_not_synced_may_be_lost_but_never_half_kept() -> None:
    for seed in range(200):
        disk = PretendDirectory()
        wal = open_wal(disk, segment_bytes=10_000)
        fill(wal, 10)
        for index in range(11, 15):
            wal.append(b"\0late", index, 1)
        pending = wal.begin_sync()
        assert pending is not None
        disk.fail_next = "sync"
        with pytest.raises(OSError, match="failed to sync"):
            pending.write()
        disk.lose_power(random.Random(seed))
        assert open_wal(disk).last in (10, 14), f"seed {seed}"


def test_a_killed_process_leaves_nothing_that_is_not_durable() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk, segment_bytes=10_000)
    fill(wal, 10)
    wal.append(b"\0late", 11, 1)
    pending = wal.begin_sync()
    assert pending is not None
    disk.fail_next = "sync"  # killed between the write and the sync: the page cache survives
    with pytest.raises(OSError):
        pending.write()
    again = open_wal(disk, segment_bytes=10_000)
    assert again.last == again.durable_index == 11
    disk.lose_power(random.Random(1))
    assert open_wal(disk).last == 11


def test_a_cut_at_any_byte_leaves_a_clean_prefix() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk, segment_bytes=100_000)
    fill(wal, 60)
    data = bytes(only_file(disk))
    for cut in range(0, len(data), 3):
        again = open_wal(disk_of(data[:cut]), segment_bytes=100_000)
        assert again.entries == wal.entries[: again.last]
        assert again.last % 5 == 0, "a batch counts as a whole or not at all"
        fill(again, 5)
        assert again.last % 5 == 0


def test_a_flipped_bit_is_never_believed() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk, segment_bytes=100_000)
    fill(wal, 60)
    data = bytes(only_file(disk))
    last_batch = data.rindex(b"\xf5NpB")
    refused = 0
    for at in range(FILE_HEADER_BYTES, len(data), 2):
        rotten = bytearray(data)
        rotten[at] ^= 1 << (at % 8)
        if at < last_batch:
            with pytest.raises(WalCorrupt):
                open_wal(disk_of(bytes(rotten)))
            refused += 1
        else:
            assert open_wal(disk_of(bytes(rotten))).entries == wal.entries[:55]
    assert refused > 500


def test_a_rotten_header_is_refused() -> None:
    disk = PretendDirectory()
    fill(open_wal(disk, segment_bytes=100_000), 60)
    for at in range(FILE_HEADER_BYTES):
        rotten = only_file(disk)
        rotten[at] ^= 4
        with pytest.raises(WalCorrupt):
            open_wal(disk_of(bytes(rotten)))


def test_damage_in_a_sealed_segment_is_refused() -> None:
    disk = PretendDirectory()
    fill(open_wal(disk), 60)
    oldest = disk.files[disk.names()[0]]
    oldest.truncate(len(oldest.data) - 1)
    with pytest.raises(WalCorrupt, match="later file follows"):
        open_wal(disk)


@pytest.mark.parametrize("position", [0, 1, -2])
def test_a_missing_segment_is_refused(position: int) -> None:
    disk = PretendDirectory()
    fill(open_wal(disk), 60)
    assert len(disk.names()) > 4
    disk.remove(disk.names()[position])
    with pytest.raises(WalCorrupt):
        open_wal(disk)


def test_a_log_inside_an_entry_is_not_taken_for_the_log() -> None:
    inner = PretendDirectory()
    fill(Wal(inner, log_id=bytes(16), segment_bytes=100_000), 60)
    outer = PretendDirectory()
    wal = open_wal(outer, segment_bytes=100_000)
    wal.append(b"\0" + bytes(only_file(inner)), 1, 1)
    wal.sync()
    cut = only_file(outer)[:-3]
    assert open_wal(disk_of(bytes(cut))).last == 0


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_a_failed_sync_poisons_the_log(operation: str) -> None:
    disk = PretendDirectory()
    wal = open_wal(disk)
    fill(wal, 3)
    wal.append(b"\0x", 4, 1)
    disk.fail_next = operation
    with pytest.raises(WalPoisoned, match="cannot be written"):
        wal.sync()
    for attempt in (wal.sync, lambda: wal.append(b"\0y", 5, 1), lambda: wal.set_state(9, None)):
        with pytest.raises(WalPoisoned):
            attempt()


def test_a_new_segment_that_never_held_a_batch_is_forgotten() -> None:
    for size in (0, 7, FILE_HEADER_BYTES - 1, FILE_HEADER_BYTES):
        disk = PretendDirectory()
        wal = open_wal(disk)
        fill(wal, 60)
        name = f"{len(disk.names()) + 1:016d}.wal"
        file = disk.open(name)
        file.append(bytes(size))
        again = open_wal(disk)
        assert again.entries == wal.entries
        fill(again, 60)
        assert open_wal(disk).last == 120


def test_old_segments_go_and_the_hard_state_stays() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk)
    wal.set_state(5, "c")
    fill(wal, 100, term=5)
    n_files = len(disk.names())
    wal.drop_before(90)
    assert len(disk.names()) == n_files, "nothing goes before the record of it is durable"
    wal.sync()
    assert len(disk.names()) < n_files / 3
    again = open_wal(disk)
    assert (again.first, again.last, again.term, again.voted_for) == (90, 100, 5, "a")


def test_rotation_without_a_batch_keeps_the_hard_state() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk, segment_bytes=100)
    wal.set_state(9, "b")
    wal.append(b"\0" + bytes(200), 1, 9)
    wal.sync()
    assert len(disk.names()) == 2
    again = open_wal(disk, segment_bytes=100)  # stopped before anything went to the second file
    again.reset()
    again.append(b"\1", 50, 9)
    again.sync()
    last = open_wal(disk, segment_bytes=100)
    assert (last.first, last.last, last.term, last.voted_for) == (50, 50, 9, "b")


def test_configurations_follow_truncation() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk)
    wal.append(b"\1", 1, 1)
    wal.append(configuration_entry(("a", "b")), 2, 1)
    wal.append(configuration_entry(("a", "b", "c")), 3, 1)
    wal.sync()
    wal.truncate_from(3)
    wal.sync()
    assert [entry[1] for entry in wal.configurations] == [2]
    assert [entry[1] for entry in open_wal(disk).configurations] == [2]


def test_the_commit_hint_never_passes_what_is_durable() -> None:
    disk = PretendDirectory()
    wal = open_wal(disk)
    fill(wal, 5)
    for index in range(6, 30):
        wal.append(b"\0x", index, 1)
    wal.note_commit(25)
    assert wal.commit_hint == 5
    wal.sync()
    wal.note_commit(25)
    assert wal.commit_hint == 25


def test_misuse_is_a_bug() -> None:
    wal = open_wal(PretendDirectory())
    fill(wal, 3)
    wal.append(b"\0x", 4, 1)
    pending = wal.begin_sync()
    assert pending is not None
    with pytest.raises(Bug):
        wal.begin_sync()
    with pytest.raises(Bug):
        wal.append(b"\0y", 5, 1)
    with pytest.raises(Bug):
        wal.drop_before(77)


class WalMachine(RuleBasedStateMachine):
    """The log beside a plain list; after a loss of power it equals the list as of the last sync, or a later batch."""

    @initialize()
    def begin(self) -> None:
        self.disk = PretendDirectory()
        self.wal = open_wal(self.disk)
        self.entries: list[Entry] = []
        self.state: tuple[int, str | None] = (0, None)
        self.synced = ([*self.entries], self.state)

    @rule(count=st.integers(1, 6), term=st.integers(1, 9))
    def append(self, count: int, term: int) -> None:
        for _ in range(count):
            entry = (b"\0" + bytes(term * 7), self.entries[-1][1] + 1 if self.entries else 1, term)
            self.entries.append(entry)
            self.wal.append(*entry)

    @rule(back=st.integers(0, 5))
    def truncate(self, back: int) -> None:
        if len(self.entries) > back + 1:
            self.wal.truncate_from(self.entries[-1 - back][1])
            del self.entries[-1 - back :]

    @rule(ahead=st.integers(0, 20))
    def drop(self, ahead: int) -> None:
        if len(self.entries) > ahead:
            self.wal.drop_before(self.entries[ahead][1])
            del self.entries[:ahead]

    @rule(ahead=st.integers(1, 50))
    def install(self, ahead: int) -> None:
        index = (self.entries[-1][1] if self.entries else 0) + ahead
        self.wal.reset()
        self.wal.append(b"\1", index, 9)
        self.entries = [(b"\1", index, 9)]

    @rule(term=st.integers(1, 99), vote=st.sampled_from([None, "a", "b"]))
    def vote(self, term: int, vote: str | None) -> None:
        self.state = (term, vote)
        self.wal.set_state(term, vote)

    @rule()
    def sync(self) -> None:
        self.wal.sync()
        self.synced = ([*self.entries], self.state)

    @rule(seed=st.integers(0, 1000), during=st.booleans())
    def lose_power(self, seed: int, during: bool) -> None:
        allowed = [self.synced]
        if during and (pending := self.wal.begin_sync()) is not None:
            self.disk.fail_next = "sync"
            with pytest.raises(OSError):
                pending.write()
            allowed.append(([*self.entries], self.state))
        self.disk.lose_power(random.Random(seed))
        self.wal = open_wal(self.disk)
        found = ([*self.wal.entries], (self.wal.term, self.wal.voted_for))
        assert found in allowed
        self.entries, self.state = [*found[0]], found[1]
        self.synced = ([*self.entries], self.state)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "wal"):
            assert self.wal.entries == self.entries


TestWalMachine = WalMachine.TestCase
TestWalMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
