"""The checks can fail: each broken rule is found, by simulation or by a directed script.

Random search does not reach every one of them, and those that it does not reach have a script. The first seeds are
where a search from 0 found something, to save time; should a change of the simulator move them, search again.
"""

from __future__ import annotations

import mutations
import pytest
import test_member_and_vote_defects as members
import test_protocol_defects as directed
from hand import Hand
from mutations import Mutation
from sim import Violation, run_seed

from nomadpy.raft.firewall import SafetyViolation
from nomadpy.raft.messages import Appended, Vote, VoteRequest
from nomadpy.raft.segment import WalCorrupt
from nomadpy.raft.snapshot import SnapshotCorrupt


@pytest.mark.parametrize(
    ("mutation", "profile", "first_seed"),
    [
        (mutations.no_prefix_match, "plain", 0),
        (mutations.anyone_may_win, "plain", 0),
        (mutations.reads_before_own_commit, "plain", 0),
        (mutations.reads_without_a_round, "plain", 19),
        (mutations.late_before_sync, "hostile", 31),
        (mutations.votes_not_stored, "hostile", 41),
        (mutations.many_changes_at_once, "members", 3),
        (mutations.sync_that_does_nothing, "plain", 0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_simulation_finds(mutation: Mutation, profile: str, first_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    for seed in range(first_seed, first_seed + 150):
        try:
            run_seed(seed, profile=profile)
        except (Violation, SafetyViolation, WalCorrupt, SnapshotCorrupt):
            return
    pytest.fail(f"{mutation.__doc__} No seed noticed.")


def acknowledgements_and_votes_wait_for_the_sync() -> None:
    cluster = Hand("abc")
    cluster.elect("a")
    a, b = cluster["a"], cluster["b"]
    a.core.propose(1, b"x")
    (append, *_) = [message for recipient, message in a.step() if recipient == "b"]
    early, late = b.core.step(cluster.now, [("a", append)])
    assert early == []
    assert [type(message) for _, message in late] == [Appended]
    c = cluster["c"]
    cluster.now += 2
    early, late = c.core.step(cluster.now, [("b", VoteRequest(9, 99, 9))])
    assert early == []
    assert [type(message) for _, message in late] == [Vote]


@pytest.mark.parametrize(
    ("mutation", "script"),
    [
        (mutations.no_prefix_match, directed.test_a_repeated_append_removes_nothing),
        (mutations.answers_of_any_term, directed.test_an_acknowledgement_of_an_earlier_term_counts_for_nothing),
        (mutations.votes_of_any_term, members.test_a_vote_of_an_earlier_term_counts_for_nothing),
        (mutations.votes_counted_twice, members.test_a_voter_counts_once_and_only_voters_count),
        (mutations.many_changes_at_once, members.test_members_change_one_at_a_time),
        (mutations.configurations_not_rolled_back, members.test_a_configuration_is_rolled_back_with_its_entry),
        (
            mutations.commit_what_was_not_compared,
            directed.test_a_committed_index_reaches_no_further_than_what_was_compared,
        ),
        (mutations.undurable_term_sent, directed.test_only_appends_of_a_durable_term_leave_before_the_sync),
        (mutations.leader_for_ever, directed.test_an_isolated_leader_answers_no_read_and_steps_down),
        (mutations.reads_without_a_round, directed.test_a_read_waits_for_a_round_that_began_after_it),
        (mutations.no_stickiness, members.test_a_server_that_returns_does_not_depose_the_leader),
        (mutations.late_before_sync, acknowledgements_and_votes_wait_for_the_sync),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_script_finds(mutation: Mutation, script: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(script)
    script()
    mutation(monkeypatch)
    with pytest.raises((AssertionError, SafetyViolation)):
        script()
