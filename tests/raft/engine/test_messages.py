"""Messages on the wire, and servers that hear any message whatever from anybody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hand import Hand, HandServer
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.model.errors import Invalid
from nomadpy.raft.entries import COMMAND, CONFIGURATION, NO_OP
from nomadpy.raft.firewall import SafetyViolation
from nomadpy.raft.messages import (
    Append,
    Appended,
    Beat,
    BeatSeen,
    Message,
    NewerTerm,
    PreVote,
    PreVoteRequest,
    SnapshotChunk,
    SnapshotSeen,
    TimeoutNow,
    Vote,
    VoteRequest,
    check,
    decode,
    encode,
)
from nomadpy.raft.settings import RaftSettings

terms = st.integers(0, 4)
small = st.integers(0, 12)
seqs = st.integers(0, 6)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """Well-formed appends, not necessarily true ones."""
    prev_index = draw(st.integers(1, 10))
    entry_terms = sorted(draw(st.lists(terms, max_size=5)))
    term = max([draw(terms), *entry_terms])
    prev_term = min([draw(terms), term, *entry_terms])
    kinds = st.sampled_from([COMMAND + b"x", NO_OP, CONFIGURATION + b"a b", CONFIGURATION + b"a b c"])
    entries = [(draw(kinds), prev_index + 1 + offset, entry_term) for offset, entry_term in enumerate(entry_terms)]
    return Append(term, draw(seqs), prev_index, prev_term, draw(small), entries)


@st.composite
def chunks(draw: st.DrawFn) -> SnapshotChunk:
    data = draw(st.binary(max_size=4))
    offset = draw(st.integers(0, 4))
    size = offset + len(data) + draw(st.integers(0, 2))
    voters = draw(st.sampled_from([("a", "b", "c"), ("a", "b"), ("b", "z")]))
    checksum = draw(st.sampled_from([0, 1]))
    index = draw(st.integers(1, 12))
    return SnapshotChunk(draw(terms), draw(seqs), index, draw(terms), voters, size, checksum, offset, data)


messages: st.SearchStrategy[Any] = st.one_of(
    appends(),
    chunks(),
    st.builds(Appended, terms, seqs, small, st.booleans()),
    st.builds(Beat, terms, seqs),
    st.builds(BeatSeen, terms, seqs),
    st.builds(PreVoteRequest, terms, terms, small, terms),
    st.builds(PreVote, terms, terms, st.booleans()),
    st.builds(VoteRequest, terms, small, terms, st.booleans()),
    st.builds(Vote, terms),
    st.builds(NewerTerm, terms),
    st.builds(TimeoutNow, terms),
    st.builds(SnapshotSeen, terms, seqs, small, small),
)


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    try:
        check(decode(data))
    except Invalid:
        return


@given(messages, st.integers(0, 200), st.integers(0, 255))
def test_damaged_messages_are_a_message_or_are_refused(message: Message, at: int, byte: int) -> None:
    data = bytearray(encode(message))
    data[at % len(data)] = byte
    try:
        check(decode(bytes(data)))
    except Invalid:
        return


@pytest.mark.parametrize(
    "message",
    [
        Append(1, 1, 0, 0, 0, []),
        Append(2, 1, 1, 0, 0, [(b"\0x", 3, 1)]),
        Append(2, 1, 1, 1, 0, [(b"\0x", 2, 0)]),
        Append(2, 1, 1, 1, 0, [(b"\0x", 2, 3)]),
        Vote(-1),
        SnapshotChunk(1, 1, 5, 1, (), 0, 0, 0, b""),
        SnapshotChunk(1, 1, 5, 1, ("a",), 3, 0, 1, b"xyz"),
    ],
)
def test_what_no_correct_server_says_is_refused(message: Message) -> None:
    with pytest.raises(Invalid):
        decode(encode(message))


def prepared(leads: bool) -> HandServer:
    cluster = Hand("abc", RaftSettings(trailing_entries=2, chunk_bytes=3))
    cluster.elect("a" if leads else "b")
    for number in range(5):
        cluster["a" if leads else "b"].core.propose(number, b"v%d" % number)
    cluster.settle()
    if leads:
        cluster["a"].snapshot()
    return cluster["a"]


@settings(max_examples=150, deadline=None)
@given(leads=st.booleans(), said=st.lists(st.tuples(st.sampled_from("bcz"), messages), max_size=12))
def test_no_message_breaks_a_server(leads: bool, said: list[tuple[str, Message]]) -> None:
    """It obeys, ignores, or stops because a rule of the protocol was broken; it never loses what is committed."""
    server = prepared(leads)
    committed = server.core.commit_index
    applied = list(server.applied)
    terms_before = {index: server.wal.term_at(index) for index in range(server.wal.first, committed + 1)}
    for sender, message in said:
        server.cluster.now += 0.05
        try:
            server.step((sender, message))
        except SafetyViolation:
            break
        except ValueError:
            pytest.fail("a snapshot that did not check out was restored")
    assert server.core.commit_index >= committed
    for index, term in terms_before.items():
        assert index < server.wal.first or server.wal.term_at(index) == term
    if server.core.counts.snapshots_installed == 0:
        assert server.applied[: len(applied)] == applied


def test_settings_that_do_not_fit_are_refused() -> None:
    RaftSettings().scaled(5).check()
    with pytest.raises(Invalid, match="heartbeats"):
        RaftSettings(heartbeat_s=0.4).check()
    with pytest.raises(Invalid, match="one byte"):
        RaftSettings(chunk_bytes=0).check()
    assert msgspec.structs.asdict(RaftSettings())["heartbeat_s"] == 0.1
