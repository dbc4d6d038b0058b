"""Faults of the stock engine's protocol: each one shown on unmodified pysyncobj, then absent here.

These scripts reach what random simulation rarely does. The names in brackets are those of the list of defects that the
engine's shell was designed against.
"""

from __future__ import annotations

import pickle
import random

import msgspec
import pytest
from hand import Hand, HandServer, StockCluster, acknowledged, write
from pysyncobj.node import Node

from nomadpy.model.errors import Invalid, NoLeader, OutcomeUnknown
from nomadpy.raft.engine import Role
from nomadpy.raft.firewall import SafetyViolation
from nomadpy.raft.messages import (
    Append,
    Appended,
    Beat,
    NewerTerm,
    SnapshotChunk,
    SnapshotSeen,
    TimeoutNow,
    Vote,
    VoteRequest,
    decode,
    encode,
)
from nomadpy.raft.settings import RaftSettings

# --- [P1] a repeated append removes what was acknowledged ----------------------------------------------------------


def test_stock_loses_acknowledged_entries_to_a_repeated_append(stock: StockCluster) -> None:
    stock.start("ab", appendEntriesBatchSizeBytes=100)
    stock.elect("a", "ab")
    first = None
    for number in range(20):
        stock["a"].put(number)
    stock["a"].doTick(0)
    stock.later("a")
    first = stock.links["a", "b"][0]
    stock.deliver("a", "b")
    acked = stock["b"].last
    stock["b"].transport._onMessageReceived(stock["b"].nodes["a"], first)
    assert stock["b"].last < acked


def test_a_repeated_append_removes_nothing() -> None:
    cluster = Hand("ab", RaftSettings(batch_bytes=20))
    cluster.elect("a")
    for number in range(20):
        cluster["a"].core.propose(number, b"v%d" % number)
    cluster["a"].step()
    first = decode(cluster.links["a", "b"][0])
    cluster.deliver("a", "b")
    last = cluster["b"].wal.last
    ((_, answer),) = cluster["b"].step(("a", first))
    assert isinstance(first, Append)
    assert answer == Appended(first.term, first.seq, first.prev_index + len(first.entries) + 1, ok=True)
    assert cluster["b"].wal.last == last == 22


# --- [P2] an acknowledgement of an earlier term ---------------------------------------------------------------------


def test_stock_counts_an_acknowledgement_of_an_earlier_term(stock: StockCluster) -> None:
    stock.start("abc")
    stock.elect("a", "abc")
    for number in range(3):
        stock["a"].put(number)
    stock["a"].doTick(0)
    stock.later("a")
    stock.deliver("a", "b")
    late_ack = stock.links["b", "a"].pop()
    stock.drop("ab", "ac", "ba", "ca")
    stock.elect("a", "abc")
    stock["a"].get("raftMatchIndex")[stock["a"].nodes["b"]] = 0
    stock["a"].transport._onMessageReceived(stock["a"].nodes["b"], late_ack)
    assert stock["a"].get("raftMatchIndex")[stock["a"].nodes["b"]] > 0, "nothing in it says of which term it is"


def test_an_acknowledgement_of_an_earlier_term_counts_for_nothing() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    cluster.elect("b")
    cluster.elect("a")
    a = cluster["a"]
    a.core.propose("new", b"new")
    a.step()
    cluster.drop("ab", "ac")
    before = a.match_index("b")
    a.step(("b", Appended(term=1, seq=99, next_index=a.wal.last + 1, ok=True)))
    a.step()
    assert a.match_index("b") == before
    assert acknowledged(a) == []


# --- [P3, P4] snapshots on the wire ---------------------------------------------------------------------------------


def test_stock_commits_its_own_tail_while_a_snapshot_arrives(stock: StockCluster) -> None:
    stock.start("ac")
    c = stock["c"]
    for index in range(2, 6):
        c.get("raftLog").add(b"\x01", index, 1)  # never committed anywhere
    message = {"type": "append_entries", "term": 5, "commit_index": 5, "serialized": (b"part", True, False)}
    c.transport._onMessageReceived(c.nodes["a"], message)
    assert c.raftCommitIndex == 5


def chunk(data: bytes, *, checksum: int, offset: int = 0, size: int | None = None, index: int = 50) -> SnapshotChunk:
    return SnapshotChunk(
        term=5,
        seq=1,
        index=index,
        index_term=4,
        voters=("a", "c"),
        size=len(data) if size is None else size,
        checksum=checksum,
        offset=offset,
        data=data,
    )


def with_divergent_tail(cluster: Hand, name: str) -> HandServer:
    server = cluster[name]
    for index in range(2, 6):
        server.wal.append(b"\0ghost", index, 1)
    server.wal.sync()
    return server


def test_a_snapshot_under_way_commits_nothing() -> None:
    c = with_divergent_tail(Hand("ac"), "c")
    sent = c.step(("a", chunk(b"part", checksum=1, size=100)), ("a", Beat(term=5, seq=2)))
    assert [type(message).__name__ for _, message in sent] == ["SnapshotSeen", "BeatSeen"]
    assert (c.core.commit_index, c.applied) == (1, [])


def test_stock_acknowledges_a_snapshot_that_it_could_not_read(stock: StockCluster) -> None:
    stock.start("ac")
    c = stock["c"]
    for index in range(2, 8):
        c.get("raftLog").add(b"\x01", index, 1)
    for part in ((b"garbage", True, False), (b"", False, True)):
        message = {"type": "append_entries", "term": 5, "commit_index": 0, "serialized": part}
        c.transport._onMessageReceived(c.nodes["a"], message)
    reply = stock.links["c", "a"][-1]
    assert (reply["success"], reply["next_node_idx"]) == (True, 8), "for entries that nobody compared"


def test_a_damaged_snapshot_is_asked_for_again() -> None:
    c = with_divergent_tail(Hand("ac"), "c")
    ((_, answer),) = c.step(("a", chunk(b"garbage", checksum=1)))
    assert answer == SnapshotSeen(term=5, seq=1, index=50, offset=0)
    assert (c.wal.last, c.store.newest, c.core.commit_index) == (5, None, 1)


# --- [P9] what raises -----------------------------------------------------------------------------------------------


def test_stock_repeats_an_entry_that_raises_for_ever(stock: StockCluster) -> None:
    stock.start("a")
    stock["a"].set("raftElectionDeadline", 0)
    stock["a"].doTick(0)
    stock["a"].put("raise")
    stock["a"].put("later")
    for _ in range(20):
        try:
            stock["a"].doTick(0)
        except ValueError:
            continue
    assert stock["a"].applied.count("raise") > 10
    assert "later" not in stock["a"].applied


def test_an_entry_that_raises_counts_as_applied() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    cluster["a"].core.propose("bad", b"raise")
    cluster["a"].core.propose("good", b"later")
    cluster.settle()
    bad, good = cluster["a"].answers
    assert isinstance(bad.error, ValueError)
    assert good.result == b"later"
    assert cluster["a"].applied == [b"raise", b"later"]
    assert cluster["a"].core.counts.apply_errors == 1


# --- [P12, P15] catching up -----------------------------------------------------------------------------------------


def test_stock_never_catches_up_with_a_backlog_of_several_batches(stock: StockCluster) -> None:
    stock.start("abc", logCompactionMinEntries=10**6, logCompactionMinTime=1e9)
    stock.elect("c", "abc")
    stock.cut("a", "c")
    stock.cut("b", "c")
    stock["c"].put("orphan")
    stock["c"].doTick(0)
    stock.elect("a", "ab")
    for _ in range(600):
        stock["a"].put("x" * 200)
    stock.settle("ab")
    stock["a"].set("raftState", 0)
    stock.elect("b", "ab")
    stock.join("a", "c")
    stock.join("b", "c")
    stock.settle("abc", rounds=600, tick_s=0.02)
    assert stock["c"].last != stock["b"].last, "after 12 s on a healthy network"


def test_catching_up_takes_a_few_exchanges() -> None:
    cluster = Hand("abc", RaftSettings(batch_bytes=1 << 16))
    cluster.elect("c")
    for number in range(200):
        cluster["c"].core.propose(number, b"orphan")
    cluster["c"].step()
    cluster.drop("ca", "cb")
    cluster.elect("a", "ab")
    for number in range(600):
        cluster["a"].core.propose(number, b"x" * 200)
    cluster.settle("ab")
    cluster.elect("b", "ab")
    cluster.settle(rounds=2)
    assert cluster["c"].wal.entries == cluster["b"].wal.entries
    assert cluster["c"].applied == cluster["b"].applied


# --- [P13, P14] leaders that no longer are --------------------------------------------------------------------------


def test_stock_believes_in_itself_for_half_a_minute(stock: StockCluster) -> None:
    stock.start("abc", leaderFallbackTimeout=30.0)
    stock.elect("a", "abc")
    stock.cut("a", "b")
    stock.cut("a", "c")
    for _ in range(100):
        stock.later("a", 0.25)
    assert stock["a"].leads


def test_an_isolated_leader_answers_no_read_and_steps_down() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    write(cluster, "a", 3)
    a = cluster["a"]
    a.core.read_index("stale")
    a.step()
    a.core.propose("lost", b"lost")
    a.step()
    assert "stale" not in acknowledged(a)
    cluster.now += 1.01
    a.step()
    assert a.core.role is Role.FOLLOWER
    errors = {answer.ticket: type(answer.error) for answer in a.answers if answer.error is not None}
    assert errors == {"stale": NoLeader, "lost": OutcomeUnknown}


def test_a_read_waits_for_a_round_that_began_after_it() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a = cluster["a"]
    cluster.now += 0.2
    a.step()
    old_round = a.core._replica.leadership.seq
    a.core.read_index("read")
    a.step()
    a.step(("b", Appended(term=a.core.term, seq=old_round, next_index=a.wal.last + 1, ok=True)))
    assert "read" not in acknowledged(a)
    a.step(("b", Appended(term=a.core.term, seq=old_round + 1, next_index=a.wal.last + 1, ok=True)))
    assert "read" in acknowledged(a)


def test_stock_tells_a_leader_of_an_old_term_nothing(stock: StockCluster) -> None:
    stock.start("ab")
    stock["b"]._SyncObj__setCurrentTerm(50, None)
    message = {"type": "append_entries", "term": 3, "commit_index": 0, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []}
    stock["b"].transport._onMessageReceived(stock["b"].nodes["a"], message)
    assert not stock.links["b", "a"]


def test_a_leader_of_an_old_term_is_told() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    cluster.elect("b", "bc")
    a = cluster["a"]
    ((_, answer),) = cluster["c"].step(("a", Beat(term=1, seq=1)))
    assert answer == NewerTerm(term=cluster["c"].core.term)
    a.step(("c", answer))
    assert a.core.role is Role.FOLLOWER


# --- [P18, P19] what is sent ----------------------------------------------------------------------------------------


def test_stock_cannot_send_an_entry_of_a_batch_and_a_bit(stock: StockCluster) -> None:
    stock.start("ab")
    stock.elect("a", "ab")
    stock["a"]._applyCommand(random.Random(7).randbytes(2 * 65536 - 21), None, 1)
    stock["a"].doTick(0)
    stock.later("a")
    with pytest.raises((EOFError, pickle.UnpicklingError, UnicodeDecodeError)):
        stock.deliver("a", "b")


@pytest.mark.parametrize("size", [999, 1000, 1999, 2000, 2001, 70_000])
def test_entries_larger_than_a_batch_arrive_whole(size: int) -> None:
    cluster = Hand("abc", RaftSettings(batch_bytes=1000, window_bytes=5000))
    cluster.elect("a")
    values = [bytes([number]) * size for number in range(5)]
    for number, value in enumerate(values):
        cluster["a"].core.propose(number, value)
    cluster.settle()
    assert cluster["c"].applied == values
    assert acknowledged(cluster["a"]) == [0, 1, 2, 3, 4]


def test_an_entry_above_the_limit_is_refused() -> None:
    cluster = Hand("a", RaftSettings(entry_bytes_max=100))
    with pytest.raises(Invalid, match="at most 100"):
        cluster["a"].core.propose("big", bytes(101))


def test_a_follower_that_needs_a_snapshot_gets_few_parts_at_a_time() -> None:
    cluster = Hand("abc", RaftSettings(trailing_entries=1, chunk_bytes=10, chunks_under_way=2))
    cluster.elect("a", "ab")
    write(cluster, "a", 40, "ab")
    cluster["a"].snapshot()
    cluster.settle("abc", rounds=1)
    for _ in range(3):
        cluster.now += 0.11
        sent = cluster["a"].step()
        assert len([message for recipient, message in sent if recipient == "c"]) <= 3
    cluster.settle(rounds=40)
    assert cluster["c"].applied == cluster["a"].applied


def test_stock_spins_while_a_snapshot_is_not_ready(stock: StockCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.start("ab")
    stock.elect("a", "ab")
    a = stock["a"]
    before = a.transport.n_sent
    a.get("raftNextIndex")[a.nodes["b"]] = 1

    def clock() -> float:
        stock.now += 0.0001
        return stock.now

    monkeypatch.setattr("pysyncobj.syncobj.monotonicTime", clock)
    stock.now += 0.11
    a.doTick(0)
    assert a.transport.n_sent - before > 200


# --- [X2] strangers -------------------------------------------------------------------------------------------------


def test_stock_lets_a_stranger_erase_what_is_committed(stock: StockCluster) -> None:
    stock.start("abc")
    stock.elect("a", "abc")
    for number in range(30):
        stock["a"].put(number)
    stock.settle("abc")
    stranger = Node("9")
    stock["b"].transport._onReadonlyNodeConnected(stranger)
    message = {"type": "append_entries", "term": 10**6, "commit_index": 0, "prevLogIdx": 1, "prevLogTerm": 0}
    stock["b"].transport._onMessageReceived(stranger, {**message, "entries": []})
    assert stock["b"].last == 1


def test_what_is_committed_is_never_erased() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    write(cluster, "a", 10)
    b = cluster["b"]
    entries = list(b.wal.entries)
    b.step(("z", Append(term=99, seq=1, prev_index=1, prev_term=0, commit_index=0, entries=[])))
    assert b.wal.entries == entries
    other = Append(term=99, seq=1, prev_index=1, prev_term=0, commit_index=0, entries=[(b"\0other", 2, 98)])
    with pytest.raises(SafetyViolation, match="contradicts entry 2"):
        b.step(("z", other))
    assert b.wal.entries == entries


# --- what the order of sending promises -----------------------------------------------------------------------------


def test_only_appends_of_a_durable_term_leave_before_the_sync() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    b = cluster["b"]
    term = b.core.term
    early, late = b.core.step(cluster.now, [("a", TimeoutNow(term)), ("c", Vote(term + 1))])
    assert b.core.role is Role.LEADER, "within one cycle, so that nothing of the term is on disk yet"
    assert early == []
    assert {type(message) for _, message in late} == {VoteRequest, Append}
    b.wal.sync()
    b.core.propose(1, b"x")
    early, late = b.core.step(cluster.now)
    assert ({type(message) for _, message in early}, late) == ({Append}, [])


def test_a_cycle_before_the_sync_is_a_bug() -> None:
    cluster = Hand("a")
    cluster.elect("a")
    cluster["a"].core.propose(1, b"x")
    cluster["a"].core.step(cluster.now)
    with pytest.raises(Exception, match="before the previous one was synced"):
        cluster["a"].core.step(cluster.now)


def test_a_committed_index_reaches_no_further_than_what_was_compared() -> None:
    c = with_divergent_tail(Hand("ac"), "c")
    c.step(("a", Append(term=5, seq=1, prev_index=1, prev_term=0, commit_index=5, entries=[])))
    assert (c.core.commit_index, c.applied) == (1, [])


def test_the_face_of_an_answer_is_stable_on_the_wire() -> None:
    message = Appended(term=3, seq=7, next_index=12, ok=True)
    assert msgspec.msgpack.decode(encode(message)) == ["A", 3, 7, 12, True]
