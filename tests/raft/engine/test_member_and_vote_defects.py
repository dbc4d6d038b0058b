"""Faults of the stock engine around members and votes: each one shown on unmodified pysyncobj, then absent here."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
from hand import Hand, HandServer, StockCluster, acknowledged, write
from pysyncobj.node import Node

from nomadpy.model.errors import Conflict, Invalid, NoLeader
from nomadpy.raft.engine import Role
from nomadpy.raft.entries import configuration_entry
from nomadpy.raft.messages import (
    Append,
    Vote,
    VoteRequest,
    decode,
    encode,
)
from nomadpy.raft.settings import RaftSettings

# --- [P5, P6] members -----------------------------------------------------------------------------------------------


def test_stock_shrinks_to_a_cluster_of_one(stock: StockCluster) -> None:
    stock.start("abcd", dynamicMembershipChange=True)
    stock.elect("a", "abcd")
    for other in "bcd":
        stock.cut("a", other)
    for other in "bcd":
        stock["a"].removeNodeFromCluster(Node(other))
    results: list[Any] = []
    stock["a"].put("alone", callback=lambda _result, error: results.append(error))
    for _ in range(4):
        stock.later("a")
    assert results == [0], "an isolated server acknowledged a write"


def test_members_change_one_at_a_time() -> None:
    cluster = Hand("abcd")
    cluster.elect("a")
    a = cluster["a"]
    for other in "bcd":
        a.core.propose_conf(other, "remove", other)
    a.step()
    assert a.core.voters == ("a", "c", "d")
    assert [answer.ticket for answer in a.answers if isinstance(answer.error, Conflict)] == ["c", "d"]
    cluster.settle()
    assert acknowledged(a) == ["b"]


def test_who_is_removed_is_told_and_falls_silent() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a, c = cluster["a"], cluster["c"]
    a.core.propose_conf("gone", "remove", "c")
    cluster.settle()
    assert c.core.voters == ("a", "b")
    assert c.core.next_wake() == float("inf"), "it never campaigns"
    assert a.core.configuration(cluster.now).learners == ()
    cluster.settle()
    assert not any(recipient == "c" for recipient, _ in a.step()), "nothing more is sent to it"


def test_who_was_down_when_it_was_removed_comes_back_harmlessly() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a = cluster["a"]
    a.core.propose_conf("gone", "remove", "c")
    cluster.settle("ab")
    # Longer than the leader tries to tell it.
    for _ in range(4):
        cluster.settle("ab", rounds=30)
    write(cluster, "a", 30, "ab")
    c = cluster.restart("c")
    assert "c" in c.core.voters
    term = a.core.term
    for _ in range(3):
        c.core._replica.election.deadline = cluster.now
        for recipient, message in c.step():
            assert not isinstance(message, VoteRequest), recipient
        cluster.settle()
    assert c.core.voters == ("a", "b")
    assert c.core.next_wake() == float("inf")
    assert (a.core.role, a.core.term) == (Role.LEADER, term)
    write(cluster, "a", 1, "ab", start=100)
    assert 100 in acknowledged(a)


def test_who_is_only_told_of_its_removal_cannot_become_a_voter() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a = cluster["a"]
    a.core.propose_conf("gone", "remove", "c")
    cluster.settle("ab")
    a.core.propose_conf("back", "add", "c")
    cluster.settle("ab")
    refused = [answer.error for answer in a.answers if answer.ticket == "back"]
    assert [str(error) for error in refused] == ["c is no learner; add it as one first"]
    a.core.add_learner("c")
    cluster.settle()
    a.core.propose_conf("again", "add", "c")
    cluster.settle()
    assert "again" in acknowledged(a)


def test_a_configuration_is_rolled_back_with_its_entry() -> None:
    cluster = Hand("abc")
    b = cluster["b"]
    b.step(("a", Append(1, 1, 1, 0, 1, [(b"\1", 2, 1), (configuration_entry(("a", "b")), 3, 1)])))
    assert b.core.voters == ("a", "b")
    b.step(("c", Append(2, 1, 2, 1, 1, [(b"\1", 3, 2)])))
    assert b.core.voters == ("a", "b", "c")
    assert cluster.restart("b").core.voters == ("a", "b", "c")


def test_a_leader_does_not_remove_itself_nor_add_a_stranger() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a = cluster["a"]
    a.core.propose_conf(1, "remove", "a")
    a.core.propose_conf(2, "add", "z")
    a.step()
    assert [str(answer.error) for answer in a.answers] == [
        "a leads; transfer the leadership first, then remove it",
        "z is no learner; add it as one first",
    ]


def test_stock_takes_members_from_a_stranger_even_when_that_is_off(stock: StockCluster) -> None:
    stock.start("abc")
    stock.elect("a", "abc")
    stranger = Node("0")
    stock["a"].transport._onReadonlyNodeConnected(stranger)
    for other in "bc":
        command = b"\x02" + pickle.dumps(["rem", other])
        stock["a"].transport._onMessageReceived(stranger, {"type": "apply_command", "command": command})
    stock.settle("abc")
    assert len(stock["a"].otherNodes) == 0


@pytest.mark.parametrize("kind", [b"\x02", b"\x03", b"", b"\xff"])
def test_entries_that_the_engine_would_unpickle_are_refused(kind: bytes) -> None:
    data = kind + pickle.dumps(["rem", "b"]) if kind else b""
    with pytest.raises(Invalid, match="unknown kind"):
        decode(encode(Append(term=1, seq=1, prev_index=1, prev_term=0, commit_index=0, entries=[(data, 2, 1)])))


# --- [P8] votes -----------------------------------------------------------------------------------------------------


def test_stock_is_elected_by_a_stranger_who_votes_twice(stock: StockCluster) -> None:
    stock.start("abc")
    stock.cut("a", "c")
    stranger = Node("0")
    stock["c"].transport._onReadonlyNodeConnected(stranger)
    stock["c"].set("raftElectionDeadline", 0)
    stock["c"].doTick(0)
    for _ in range(2):
        vote = {"type": "response_vote", "term": stock["c"].raftCurrentTerm}
        stock["c"].transport._onMessageReceived(stranger, vote)
    assert stock["c"].leads


def candidate(cluster: Hand, name: str) -> HandServer:
    server = cluster[name]
    server.core._start_election(asked_by_leader=False)
    server.wal.sync()
    assert server.core.role is Role.CANDIDATE
    return server


def test_a_voter_counts_once_and_only_voters_count() -> None:
    c = candidate(Hand("abcde"), "c")
    vote = Vote(term=c.core.term)
    c.step(("a", vote), ("a", vote), ("stranger", vote), ("c", vote))
    c.step(("a", vote))
    assert c.core.role is Role.CANDIDATE
    c.step(("b", vote))
    assert c.core.role is Role.LEADER


def test_a_vote_of_an_earlier_term_counts_for_nothing() -> None:
    cluster = Hand("abc")
    candidate(cluster, "c")
    c = candidate(cluster, "c")
    assert c.core.term == 2
    c.step(("a", Vote(term=1)))
    assert c.core.role is Role.CANDIDATE


# --- [P14, P16] servers that return ---------------------------------------------------------------------------------


def test_a_server_that_returns_does_not_depose_the_leader() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    write(cluster, "a", 3, "ab")
    term = cluster["a"].core.term
    c = cluster["c"]
    for _ in range(5):
        cluster.settle("ab", rounds=5, tick_s=0.4)
        c.core._replica.election.deadline = cluster.now
        c.step()
        cluster.drop("ca", "cb")
    assert c.core.term == term, "it only asked whether it would win"
    cluster["b"].step(("c", VoteRequest(term=term + 5, last_index=99, last_term=term)))
    assert (cluster["b"].core.term, cluster["b"].core.leader) == (term, "a")
    cluster.settle()
    assert (cluster["a"].core.role, c.core.leader, c.applied) == (Role.LEADER, "a", cluster["a"].applied)


def test_a_leader_hands_over_without_losing_a_proposal() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a, b = cluster["a"], cluster["b"]
    a.core.propose("before", b"before")
    a.core.transfer_leadership("b")
    a.core.propose("refused", b"refused")
    cluster.settle()
    assert (b.core.role, a.core.leader) == (Role.LEADER, "b")
    assert [answer.ticket for answer in a.answers if isinstance(answer.error, NoLeader)] == ["before", "refused"]
    b.core.propose("after", b"after")
    cluster.settle()
    assert acknowledged(b) == ["after"]


def test_a_learner_becomes_a_voter_and_another_one_goes() -> None:
    cluster = Hand("abcd")
    for name in "abcd":
        cluster[name].core._replica.base_voters = ("a", "b", "c")
        cluster[name].core._replica.sync_configuration()
    cluster.elect("a")
    write(cluster, "a", 100, "abc")
    a = cluster["a"]
    a.core.add_learner("d")
    a.core.propose_conf("too early", "add", "d")
    a.step()
    assert "100" in str(a.answers[-1].error) or "behind" in str(a.answers[-1].error)
    cluster.settle()
    a.core.propose_conf("add", "add", "d")
    cluster.settle()
    assert acknowledged(a)[-1] == "add"
    a.core.propose_conf("remove", "remove", "c")
    cluster.settle()
    assert acknowledged(a)[-1] == "remove"
    assert [cluster[name].core.voters for name in "abd"] == [("a", "b", "d")] * 3
    assert cluster["d"].applied == a.applied


def test_a_reset_connection_to_the_leader_hastens_the_election() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    b = cluster["b"]
    before = b.core.next_wake()
    b.core._replica.election._rng = random.Random(1)
    b.core.suspect_leader("c", cluster.now)
    assert b.core.next_wake() == before
    b.core.suspect_leader("a", cluster.now)
    assert cluster.now < b.core.next_wake() < cluster.now + 0.13


def test_a_slow_follower_gets_no_more_than_a_window() -> None:
    cluster = Hand("abc", RaftSettings(batch_bytes=1000, window_bytes=3000))
    cluster.elect("a")
    a = cluster["a"]
    for number in range(100):
        a.core.propose(number, bytes(500))
    sent = [message for recipient, message in a.step() if recipient == "b" and isinstance(message, Append)]
    assert sum(len(message.entries) for message in sent) == 6
    assert sum(len(message.entries) for _, message in a.step() if isinstance(message, Append)) == 0
    cluster.settle(rounds=40)
    assert len(cluster["b"].applied) == 100
