"""When a server campaigns, and for whom it would vote: a machine without a clock of its own.

Before a server raises its term it asks whether it would win (pre-vote), so that one that was cut off does not depose a
leader when it returns. A server that hears from a leader refuses to help anyone else (stickiness), unless the leader
itself asked for the election. Source: Ongaro, "Consensus: Bridging Theory and Practice", 4.2.3 and 9.6.
"""

from __future__ import annotations

import random

from nomadpy.raft.messages import PreVoteRequest, VoteRequest
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.wal import Wal

_LONG_AGO = float("-inf")


class Election:
    """One server's election clock and the votes it has gathered."""

    def __init__(self, settings: RaftSettings, rng: random.Random, now: float) -> None:
        self._settings, self._rng = settings, rng
        self._heard_at = _LONG_AGO
        self.leader: str | None = None
        self.deadline = now
        # Who said that it would vote for this server, while it asks.
        self.pre_votes: set[str] | None = None
        # Who did, while it is a candidate.
        self.votes: set[str] = set()
        self.asked_by_leader = False
        self.rearm(now)

    def rearm(self, now: float) -> None:
        """Waits a whole election time again, of a length chosen by chance."""
        self.deadline = now + self._rng.uniform(self._settings.election_min_s, self._settings.election_max_s)

    def heard_leader(self, leader: str, now: float) -> None:
        """A leader of the current term spoke."""
        self.leader, self._heard_at, self.pre_votes = leader, now, None
        self.rearm(now)

    def suspect_leader(self, now: float) -> None:
        """The connection to the leader was reset: it is probably gone, so campaign soon. Not all servers at once, hence
        the chance in it; a leader that lives only meets a pre-vote that others refuse."""
        self._heard_at = _LONG_AGO
        self.deadline = min(self.deadline, now + self._rng.uniform(0.08, 1.0) * self._settings.reset_hint_s)

    def silence(self, now: float) -> float:
        """Seconds since a leader was heard; 0 when none ever was."""
        return 0.0 if self._heard_at == _LONG_AGO else max(0.0, now - self._heard_at)

    def follows_a_leader(self, now: float) -> bool:
        """Whether a leader was heard lately enough to refuse others."""
        return now - self._heard_at < self._settings.election_min_s

    def begin_pre_vote(self, name: str, now: float) -> None:
        """Asks around."""
        self.rearm(now)
        self.leader, self.pre_votes = None, {name}

    def begin_vote(self, name: str, now: float, *, asked_by_leader: bool) -> None:
        """Is a candidate."""
        self.rearm(now)
        self.leader, self.pre_votes, self.votes = None, None, {name}
        self.asked_by_leader = asked_by_leader

    def new_vote(self, voter: str) -> bool:
        """Counts a vote; whether it is the first one of this voter."""
        if voter in self.votes:
            return False
        self.votes.add(voter)
        return True


def is_up_to_date(request: VoteRequest | PreVoteRequest, wal: Wal) -> bool:
    """Whether the log of who asks holds at least what this one holds (Raft, 5.4.1)."""
    return (request.last_term, request.last_index) >= (wal.last_term, wal.last)
