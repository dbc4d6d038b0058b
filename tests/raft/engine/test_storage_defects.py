"""Faults of the stock engine's storage and wire: each one shown on unmodified pysyncobj, then absent here."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hand import Hand, StockCluster, StockServer
from pretend_disk import PretendDirectory
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import FileJournal

from nomadpy.model.errors import Bug, Invalid
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.messages import SnapshotChunk, decode
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import Snapshot, SnapshotCorrupt, SnapshotPoint, SnapshotStore
from nomadpy.raft.wal import Wal, WalPoisoned

POINT = SnapshotPoint(7, 2, ("a", "b"))
# pysyncobj reads its term and vote from a file that it does not close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
OpenJournal = Callable[[Path], FileJournal]


def alone(stock: StockCluster, **conf: Any) -> StockServer:
    stock.start("a", **conf)
    stock["a"].set("raftElectionDeadline", 0)
    for _ in range(3):
        stock["a"].doTick(0)
    return stock["a"]


# --- [D4] commit index and log --------------------------------------------------------------------------------------


def test_stock_acknowledges_what_nobody_has(stock: StockCluster, stock_journal: OpenJournal, tmp_path: Path) -> None:
    journal = stock_journal(tmp_path / "journal")
    for index in range(1, 6):
        journal.add(b"\x01", index, 0 if index == 1 else 1)
    journal.setRaftCommitIndex(50)  # was written; the entries up to there were not
    journal.setCurrentTerm(1, None)
    journal.onOneSecondTimer()
    journal.flush()
    stock.start("abc")
    stock.servers["a"] = StockServer(stock, "a", "bc", **stock.conf, journalFile=str(tmp_path / "journal"))
    stock.join("a", "b")
    stock["a"].set("raftElectionDeadline", 0)
    stock["a"].doTick(0)
    stock.deliver("a", "b")
    stock.deliver("b", "a")
    stock.cut("a", "b")
    results: list[Any] = []
    stock["a"].put("x", callback=lambda _result, error: results.append(error))
    for _ in range(2):
        stock["a"].doTick(0)
    assert results == [0]


def test_a_commit_index_ahead_of_the_log_is_not_believed() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    for number in range(10):
        cluster["a"].core.propose(number, b"x")
    cluster.settle()
    cluster["a"].wal.note_commit(10_000)
    cluster["a"].wal.sync()
    a = cluster.restart("a")
    assert a.core.commit_index == a.wal.last


def test_a_restarted_server_remembers_its_vote() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    term = cluster["a"].core.term
    cluster["b"].disk.lose_power(random.Random(1))
    b = cluster.restart("b")
    assert (b.wal.term, b.wal.voted_for) == (term, "a")


# --- [D5, D10] compaction and growth --------------------------------------------------------------------------------


def test_stock_loses_the_log_when_killed_in_compaction(
    stock_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = stock_journal(tmp_path / "journal")
    for index in range(1, 101):
        journal.add(b"\x01", index, 1)
    ours, left = journal.add, [30]

    def dies(*entry: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        ours(*entry)

    monkeypatch.setattr(journal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(10)
    assert stock_journal(tmp_path / "journal")[-1][1] == 40, "of 100"


def test_compaction_loses_nothing_wherever_power_fails() -> None:
    for seed in range(60):
        disk = PretendDirectory()
        wal = Wal(disk, log_id=bytes(16), segment_bytes=300)
        for index in range(1, 101):
            wal.append(b"\0x", index, 1)
            wal.sync()
        wal.drop_before(90)
        pending = wal.begin_sync()
        assert pending is not None
        if seed % 3:
            pending.write()
        if seed % 3 == 2:
            wal.finish_sync(pending)
        disk.lose_power(random.Random(seed))
        again = Wal(disk, log_id=bytes(16), segment_bytes=300)
        assert again.last == 100
        assert again.first == (1 if seed % 3 == 0 else 90)


def test_stock_journals_end_at_four_gigabytes(
    stock_journal: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = stock_journal(tmp_path / "journal")
    journal.add(b"x", 1, 0)
    monkeypatch.setattr(journal, "_FileJournal__currentOffset", 2**32 - 8)
    monkeypatch.setattr(journal._FileJournal__journalFile, "write", lambda *_: None)
    with pytest.raises(struct.error):
        journal.add(b"y" * 100, 2, 1)
    assert len(journal) == 2, "in memory the entry is there"


def test_segments_keep_every_file_small() -> None:
    disk = PretendDirectory()
    wal = Wal(disk, log_id=bytes(16), segment_bytes=1000)
    for index in range(1, 200):
        wal.append(b"\0" + bytes(100), index, 1)
        wal.sync()
    assert max(len(file.data) for file in disk.files.values()) < 1300


def test_a_batch_that_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    wal = Wal(PretendDirectory(), log_id=bytes(16))
    monkeypatch.setattr("nomadpy.raft.wal.BATCH_BYTES_MAX", 100)
    wal.append(b"\0" + bytes(200), 1, 1)
    with pytest.raises(Bug, match="at most"):
        wal.sync()


# --- [D11] a full disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    if os.geteuid() != 0:
        pytest.skip("exec: not root")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


STOCK_FILLS = """
import sys
from pysyncobj.journal import FileJournal

journal = FileJournal(sys.argv[1])
for index in range(1, 1000):
    journal.add(b"x" * 1000, index, 1)
"""


def test_stock_is_killed_by_a_full_disk(small_disk: Path) -> None:
    seen = subprocess.run([sys.executable, "-c", STOCK_FILLS, str(small_disk / "journal")], check=False)
    assert seen.returncode == -signal.SIGBUS


def test_a_disk_that_fills_up_is_an_error_and_what_was_synced_is_there(small_disk: Path) -> None:
    with contextlib.closing(DiskDirectory(small_disk)) as disk:
        wal, synced = Wal(disk, log_id=bytes(16)), 0

        def fill() -> None:
            nonlocal synced
            for index in range(1, 1000):
                wal.append(b"\0" + b"x" * 1000, index, 1)
                wal.sync()
                synced = index

        with pytest.raises(WalPoisoned, match="No space left"):
            fill()
        assert synced > 100
    with contextlib.closing(DiskDirectory(small_disk)) as disk:
        assert Wal(disk, log_id=bytes(16)).last == synced


def test_a_full_disk_stops_the_log_and_keeps_what_was_acknowledged() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    cluster["a"].core.propose("kept", b"kept")
    cluster.settle()
    cluster["a"].core.propose("no room", b"no room")
    cluster["a"].disk.fail_next = "append"
    with pytest.raises(WalPoisoned):
        cluster["a"].step()
    assert [answer.ticket for answer in cluster["a"].answers] == ["kept"]
    cluster.restart("a")
    cluster.elect("a")
    assert cluster["a"].applied == [b"kept"]


# --- [D6, D7, D8, D9, D12] snapshots --------------------------------------------------------------------------------


def test_stock_drops_the_journal_beside_an_older_snapshot(stock: StockCluster, tmp_path: Path) -> None:
    dumps = alone(stock, fullDumpFile=str(tmp_path / "dump"), useFork=False)
    for number in range(5):
        dumps.put(number)
        dumps.doTick(0)
    dumps.forceLogCompaction()
    dumps.doTick(0)
    # Killed before the journal was shortened, after five more were acknowledged:
    writes = alone(stock, journalFile=str(tmp_path / "journal"))
    for number in range(10):
        writes.put(number)
        writes.doTick(0)
    writes.doTick(0)
    again = alone(stock, journalFile=str(tmp_path / "journal"), fullDumpFile=str(tmp_path / "dump"), useFork=False)
    assert len(again.get("raftLog")) < 8, "the acknowledged entries after the snapshot are gone"


def test_entries_after_a_snapshot_stay_whatever_was_shortened() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    a = cluster["a"]
    for number in range(5):
        a.core.propose(number, b"%d" % number)
    cluster.settle()
    a.store.save(Snapshot(a.core.take_snapshot(), b",".join(a.applied)))  # killed before ``snapshot_stored``
    for number in range(5, 10):
        a.core.propose(number, b"%d" % number)
    cluster.settle()
    assert len(a.answers) == 10
    cluster.restart("a")
    cluster.elect("a")
    assert cluster["a"].applied == [b"%d" % number for number in range(10)]


def test_a_snapshot_survives_what_kills_its_successor() -> None:
    for operation in ("append", "sync", "rename", "sync-directory"):
        disk = PretendDirectory()
        store = SnapshotStore(disk)
        store.save(Snapshot(POINT, b"old"))
        disk.fail_next = operation
        with pytest.raises(OSError):
            store.save(Snapshot(SnapshotPoint(9, 2, ("a",)), b"new"))
        assert store.newest is not None
        assert store.newest.point == POINT
        disk.lose_power(random.Random(3))
        loaded = SnapshotStore(disk).load()
        assert loaded is not None
        assert loaded.data in ((b"old", b"new") if operation == "sync-directory" else (b"old",))


def test_a_slow_snapshot_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    store = SnapshotStore(DiskDirectory(tmp_path / "snapshots"))
    slow = store.write(Snapshot(POINT, b"slow"))
    store.save(Snapshot(SnapshotPoint(20, 3, ("a",)), b"installed"))
    store.adopt(slow)
    loaded = store.load()
    assert loaded is not None
    assert loaded.data == b"installed"
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["00000000000000000020.snapshot"]


@pytest.mark.parametrize("at", [0, 20, 24, 30, -1])
def test_a_rotten_snapshot_stops_the_start(at: int) -> None:
    disk = PretendDirectory()
    SnapshotStore(disk).save(Snapshot(POINT, b"state"))
    (file,) = disk.files.values()
    rotten = bytearray(file.data)
    rotten[at] ^= 1
    file.data = bytes(rotten)
    with pytest.raises(SnapshotCorrupt):
        SnapshotStore(disk).load()


def test_a_missing_snapshot_stops_the_start() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    for number in range(20):
        cluster["a"].core.propose(number, b"x")
    cluster.settle()
    cluster["a"].snapshot()
    cluster["a"].snapshot_disk.files.clear()
    with pytest.raises(SnapshotCorrupt, match="missing"):
        cluster.restart("a")


def test_the_log_shortens_only_after_the_snapshot_is_durable() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    with pytest.raises(Bug, match="durable"):
        cluster["a"].core.snapshot_stored(cluster["a"].core.take_snapshot())


def test_stock_tries_a_failing_snapshot_in_every_tick(
    stock: StockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = alone(
        stock, fullDumpFile=str(tmp_path / "missing" / "dump"), useFork=False, logCompactionMinEntries=2,
    )  # fmt: skip
    attempts = []
    serializer = server.get("serializer")
    monkeypatch.setattr(serializer, "serialize", lambda *_: attempts.append(1))
    for number in range(20):
        server.put(number)
        server.doTick(0)
    assert len(attempts) > 15


def test_snapshots_are_only_taken_when_asked_for() -> None:
    cluster = Hand("a", RaftSettings(trailing_entries=0))
    cluster.elect("a")
    for number in range(50):
        cluster["a"].core.propose(number, b"x")
        cluster.settle(rounds=1)
    assert cluster["a"].store.newest is None
    assert cluster["a"].wal.first == 1


# --- [X1, X3] the wire ----------------------------------------------------------------------------------------------


class Creates:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def stock_frame(message: Any) -> bytes:
    data = zlib.compress(pickle.dumps(message), 3)
    return struct.pack("i", len(data)) + data


@pytest.fixture
def listening() -> Any:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = SyncObj(f"127.0.0.1:{port}", [], SyncObjConf(autoTick=False))
    yield server, port
    server.destroy()


def send_to_stock(listening: Any, message: Any, until: Any) -> bytes:
    server, port = listening
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(stock_frame(message))
        client.settimeout(0.02)
        for _ in range(100):
            server.doTick(0.01)
            try:
                received = client.recv(65536)
            except TimeoutError:
                received = b""
            if received or until():
                return received
    raise AssertionError("nothing happened")


def test_stock_runs_what_a_stranger_sends(listening: Any, tmp_path: Path) -> None:
    mark = tmp_path / "made-by-a-stranger"
    send_to_stock(listening, Creates(str(mark)), mark.exists)
    assert mark.exists()


def test_stock_tells_its_state_to_a_stranger(listening: Any) -> None:
    assert len(send_to_stock(listening, ["status"], lambda: False)) > 100


@pytest.mark.parametrize("message", [["status"], ["add", "x"], ["transfer", None], {"type": "apply_command"}])
def test_a_pickle_is_no_message(message: Any, tmp_path: Path) -> None:
    mark = tmp_path / "made-by-a-stranger"
    for data in (pickle.dumps(Creates(str(mark))), stock_frame(Creates(str(mark))), stock_frame(message)):
        with pytest.raises(Invalid, match="malformed"):
            decode(data)
    assert not mark.exists()


# --- the order of installing ----------------------------------------------------------------------------------------


def install(cluster: Hand, *, stop_after: int, log_first: bool) -> None:
    """Server ``b`` takes over a snapshot, and loses power after so many of the steps that make it durable."""
    b = cluster["b"]
    data = b"1,2,3"
    chunk = SnapshotChunk(5, 1, 40, 4, ("a", "b"), len(data), zlib.crc32(data), 0, data)
    b.core.step(cluster.now, [("a", chunk)])
    installed = b.core.take_installed()
    assert installed is not None
    steps = [lambda: b.store.save(installed), b.wal.sync]
    if log_first:
        steps.reverse()
    for one in steps[:stop_after]:
        one()
    for disk in cluster.disks["b"]:
        disk.lose_power(random.Random(stop_after))
    cluster.restart("b")


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_server_that_dies_while_installing_starts_again(stop_after: int) -> None:
    cluster = Hand("ab")
    install(cluster, stop_after=stop_after, log_first=False)
    assert cluster["b"].applied == [b"1", b"2", b"3"]
    assert (cluster["b"].wal.first, cluster["b"].wal.last_term) == (40, 4)


def test_the_log_must_not_be_synced_before_the_snapshot_is_stored() -> None:
    with pytest.raises(SnapshotCorrupt, match="missing"):
        install(Hand("ab"), stop_after=1, log_first=True)
