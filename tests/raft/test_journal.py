"""Reading the journal of an earlier version: a torn end is dropped, lost data is refused, and nothing is changed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from old_journal import MAGIC, RECORD_BYTES, journal_of, record, write_journal_file

from nomadpy.model.errors import NomadError
from nomadpy.raft.journal import JournalCorrupt, open_journal


def read(directory: Path) -> list[bytes]:
    """What is in the journal; it is as it was afterwards."""
    path = directory / "journal"
    before = path.read_bytes()
    with open_journal(path) as entries:
        found = list(entries)
    assert path.read_bytes() == before
    assert [index for index, _ in found] == list(range(1, len(found) + 1))
    return [data for _, data in found]


def refused(directory: Path) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(JournalCorrupt) as caught:
        read(directory)
    return caught.value.message


def put(directory: Path, data: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "journal").write_bytes(data)
    return directory


def test_entries_are_read_in_their_order(tmp_path: Path) -> None:
    write_journal_file(tmp_path, [b"one", b"", b"three" * 1000])
    assert read(tmp_path) == [b"one", b"", b"three" * 1000]


def test_a_tail_cut_off_anywhere_is_dropped(tmp_path: Path) -> None:
    entries = [b"alpha", b"", b"gamma" * 10]
    whole = journal_of(entries)
    ends = [len(whole) - sum(RECORD_BYTES + len(entry) for entry in entries[n:]) for n in range(1, 4)]
    for length in range(len(whole) + 1):
        kept = entries[: sum(end <= length for end in ends)]
        assert read(put(tmp_path, whole[:length])) == kept


@pytest.mark.parametrize("tail", [b"\0" * 7, b"\0" * 4096, b"\xff" * 100, os.urandom(300)])
def test_a_tail_of_rubbish_is_dropped(tmp_path: Path, tail: bytes) -> None:
    assert read(put(tmp_path, journal_of([b"one", b"two"]) + tail)) == [b"one", b"two"]


def test_a_flipped_bit_before_good_records_is_refused(tmp_path: Path) -> None:
    entries = [b"first entry", b"second entry", b"third entry"]
    whole = journal_of(entries)
    for at in range(len(MAGIC), len(whole) - RECORD_BYTES - len(entries[2])):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            message = refused(put(tmp_path, bytes(damaged)))
            assert "is damaged and good records follow" in message
            assert str(tmp_path / "journal") in message


def test_a_batch_whose_first_part_never_reached_the_disk_is_dropped_whole(tmp_path: Path) -> None:
    whole = journal_of([b"one"])
    torn = bytearray(whole + record(2, 0, b"two") + record(3, 1, b"three"))
    torn[len(whole) : len(whole) + 10] = bytes(10)
    assert read(put(tmp_path, bytes(torn))) == [b"one"]


def test_a_missing_entry_is_refused(tmp_path: Path) -> None:
    put(tmp_path, journal_of([b"one"]) + record(3, 0, b"three"))
    assert "entry 3 follows entry 1" in refused(tmp_path)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    assert "is not a journal of an earlier version" in refused(put(tmp_path, b"something else entirely"))


def test_a_journal_in_use_is_refused(tmp_path: Path) -> None:
    write_journal_file(tmp_path, [b"one"])
    with (tmp_path / "journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NomadError, match="is in use by another agent"):
            read(tmp_path)
    assert read(tmp_path) == [b"one"]
